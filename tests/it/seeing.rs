//! What the client and the operator see: fields, logs, metrics, the admin listener, signals.

use std::time::{Duration, Instant};

use crate::support::client::{Client, get, head};
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

fn two() -> (Nginx, Nginx, Fleet) {
    let lean = Nginx::with_files(&[]);
    let full = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let fleet = Fleet::new().node_with("lean", lean.addr(), "weight: 255").node("full", full.addr());
    (lean, full, fleet)
}

#[test]
fn an_answer_tells_its_hops_and_names_are_for_trusted_eyes() {
    let (_lean, _full, fleet) = two();
    for (trusted, timing, status) in [
        (false, "hop1;desc=\"404\";dur=", "hopfall; received-status=200"),
        (true, "lean;desc=\"404\";dur=", "hopfall; received-status=200; next-hop=\"full\""),
    ] {
        let hopfall = match trusted {
            true => two().2.node("x", "127.0.0.1:1".parse().unwrap()).listener("trusted: [127.0.0.0/8]").start(),
            false => fleet.start(),
        };
        let answer = hopfall.get("/cat.jpg");
        if !trusted {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("via"), Some("1.1 hopfall"));
            assert!(
                answer.header("server-timing").unwrap().starts_with(timing),
                "{:?}",
                answer.header("server-timing")
            );
            assert_eq!(answer.header("proxy-status"), Some(status));
        }
    }
    let (_lean, _full, fleet) = two();
    let hopfall = fleet.listener("trusted: [127.0.0.0/8]").start();
    let answer = hopfall.get("/cat.jpg");
    assert!(answer.header("server-timing").unwrap().starts_with("lean;desc=\"404\";dur="));
    assert_eq!(answer.header("proxy-status"), Some("hopfall; received-status=200; next-hop=\"full\""));
    let absent = hopfall.get("/dog.jpg");
    assert_eq!(absent.header("proxy-status"), Some("hopfall; received-status=404; next-hop=\"full\""));
}

#[test]
fn a_trusted_proxy_is_believed() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("node", node.addr()).listener("trusted: [127.0.0.0/8, 10.0.0.0/8]").start();
    let headers = [("X-Forwarded-For", "6.6.6.6, 9.9.9.9, 10.0.0.1"), ("X-Forwarded-Proto", "https")];
    hopfall.connect().request("GET", "/x", &headers).response();
    let seen = &node.requests()[0];
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 9.9.9.9, 10.0.0.1, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-real-ip"), Some("9.9.9.9"), "the last one that is no proxy of ours");
    assert_eq!(hopfall.wait_for_access_log(1)[0]["client"], "9.9.9.9");
}

#[test]
fn the_host_is_the_clients_or_the_pools() {
    for (key, host) in [("host: preserve", "files.test"), ("host: inner.example", "inner.example")] {
        let node = Origin::always(Reply::ok("x"));
        let hopfall = Fleet::new().node("node", node.addr()).pool(key).start();
        hopfall.get("/x");
        hopfall.connect().upload("POST", "/x", &[], b"x").response();
        for request in node.requests() {
            assert_eq!(request.headers_named("host"), [host], "{key} {}", request.method);
        }
    }
}

#[test]
fn the_access_log_has_one_line_a_request() {
    let (_lean, _full, fleet) = two();
    let hopfall = fleet.start();
    hopfall.connect().request("GET", "/cat.jpg?x=1", &[("User-Agent", "it"), ("Referer", "http://r/")]).response();
    hopfall.get("/dog.jpg");
    hopfall.connect().send("GET /x HTTP/1.1\r\n\r\n").response();
    let log = hopfall.wait_for_access_log(3);
    let cat = log.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!(cat["method"], "GET");
    assert_eq!(cat["target"], "/cat.jpg?x=1");
    assert_eq!((cat["bytes"].as_u64(), cat["served_by"].as_str()), (Some(4), Some("full")));
    assert_eq!((cat["listener"].as_str(), cat["client"].as_str()), (Some("web"), Some("127.0.0.1")));
    assert_eq!((cat["user_agent"].as_str(), cat["referer"].as_str()), (Some("it"), Some("http://r/")));
    assert!(cat["seconds"].as_f64().unwrap() > 0.0);
    let hops: Vec<_> = cat["hops"].as_str().unwrap().split(' ').map(|hop| hop.rsplit_once(':').unwrap().0).collect();
    assert_eq!(hops, ["lean:404", "full:200"]);
    let bad = log.iter().find(|line| line["status"] == 400).unwrap();
    assert_eq!(bad["refused"], "no Host");
}

#[test]
fn the_access_log_can_be_combined_to_a_file_or_off() {
    let (_lean, _full, fleet) = two();
    let hopfall = fleet.top("log: { access: { format: combined, path: \"{dir}/access.log\" } }").builder();
    let folder = tempfile::tempdir().unwrap();
    let _ = folder;
    let hopfall = hopfall.start();
    hopfall.get("/cat.jpg");
    assert_eq!(hopfall.stdout(), "");

    let (_lean, _full, fleet) = two();
    let hopfall = fleet.top("log: { access: { format: combined } }").start();
    hopfall.get("/cat.jpg");
    wait_until("the line", PATIENCE, || !hopfall.stdout().is_empty());
    let line = hopfall.stdout();
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("\"GET /cat.jpg HTTP/1.1\" 200 4 \"-\""), "{line}");

    let (_lean, _full, fleet) = two();
    let mut hopfall = fleet.top("log: { access: { format: off } }").start();
    hopfall.get("/cat.jpg");
    assert_eq!(hopfall.terminate(), Some(0));
    assert_eq!(hopfall.stdout(), "");
}

#[test]
fn the_admin_listener_answers() {
    let (_lean, _full, fleet) = two();
    let hopfall = fleet.start();
    hopfall.get("/cat.jpg");
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 421), ("/x", 421)] {
        assert_eq!(get(hopfall.admin(), path).status, status, "{path} by a name that is not known");
    }
    for (path, status) in [("/", 200), ("/status", 200), ("/x", 404)] {
        assert_eq!(hopfall.ask_admin("GET", path, &[], "").status, status, "{path}");
    }
    assert_eq!(head(hopfall.admin(), "/metrics").status, 200);
    assert_eq!(hopfall.ask_admin("POST", "/metrics", &[], "x").status, 405);
    let metrics = get(hopfall.admin(), "/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

/// The names are an API: each one of the contract that applies is there.
#[test]
fn the_metrics_of_the_contract_are_there() {
    let (_lean, _full, fleet) = two();
    let hopfall = fleet.s3("seeing").start();
    hopfall.get("/cat.jpg");
    hopfall.get("/dog.jpg");
    // A request is counted after its answer.
    wait_until("both are counted", PATIENCE, || hopfall.metrics().value("hopfall_hops_per_request_count", &[]) == 2.0);
    let metrics = hopfall.metrics();
    let series: &[(&str, &[(&str, &str)])] = &[
        ("hopfall_requests_total", &[("listener", "web"), ("code", "200"), ("served_by", "full")]),
        ("hopfall_request_duration_seconds_count", &[("listener", "web")]),
        ("hopfall_attempts_total", &[("pool", "images"), ("node", "lean"), ("outcome", "absent")]),
        ("hopfall_fallbacks_total", &[("from", "lean"), ("to", "full"), ("reason", "absent")]),
        ("hopfall_hops_per_request_count", &[]),
        ("hopfall_node_up", &[("pool", "images"), ("node", "lean")]),
        ("hopfall_node_connections", &[("pool", "images"), ("node", "lean")]),
        ("hopfall_upstream_connects_total", &[("node", "lean")]),
        ("hopfall_s3_requests_total", &[("op", "GET"), ("code", "404")]),
        ("hopfall_s3_bytes_total", &[]),
        ("hopfall_config_reloads_total", &[("result", "success")]),
        ("hopfall_config_last_reload_success_timestamp_seconds", &[]),
        ("hopfall_build_info", &[("version", env!("CARGO_PKG_VERSION"))]),
        ("hopfall_client_connections", &[("listener", "web")]),
    ];
    for (name, labels) in series {
        assert!(metrics.has(name, labels), "{name} {labels:?} is not in\n{}", metrics.text());
    }
}

#[test]
fn who_has_just_come_is_still_served_after_sigterm() {
    let node = Origin::always(Reply::ok("meow"));
    let mut hopfall = Fleet::new().node("node", node.addr()).start();
    let mut client = hopfall.connect();
    wait_until("it is accepted", PATIENCE, || {
        hopfall.metrics().value("hopfall_client_connections", &[("listener", "web")]) == 1.0
    });
    hopfall.signal("TERM");
    hopfall.wait_for_log("draining");
    let answer = client.request("GET", "/x", &[]).response();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
}

#[test]
fn sigterm_drains_and_sigint_stops() {
    let slow = Origin::always(Reply::ok("meow").delay(Duration::from_millis(700)));
    let mut hopfall = Fleet::new().node("slow", slow.addr()).start();
    let web = hopfall.web();
    let admin = hopfall.admin();
    let mut idle = hopfall.connect();
    idle.request("GET", "/y", &[]).response();
    let mut busy = hopfall.connect();
    busy.request("GET", "/x", &[]);
    wait_until("it is under way", PATIENCE, || slow.requests().len() == 2);
    hopfall.signal("TERM");
    wait_until("it is not ready", PATIENCE, || get(admin, "/readyz").status == 503);
    assert_eq!(get(admin, "/healthz").status, 200);
    assert!(idle.closes_within(PATIENCE), "an idle connection is closed");
    wait_until("it accepts no more", PATIENCE, || Client::try_connect(web).is_err());
    assert_eq!(busy.response().text(), "meow", "a request under way is answered");
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
    assert_eq!(hopfall.access_log().len(), 2, "the log is written to its end");

    let hang = Origin::always(Reply::hang());
    let mut hopfall = Fleet::new().node("hang", hang.addr()).pool("header_timeout: 20s").start();
    let mut busy = hopfall.connect();
    busy.request("GET", "/x", &[]);
    wait_until("it is under way", PATIENCE, || hang.requests().len() == 1);
    let began = Instant::now();
    assert_eq!(hopfall.interrupt(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));

    let hang = Origin::always(Reply::hang());
    let fleet = Fleet::new().node("hang", hang.addr()).pool("header_timeout: 20s").top("shutdown_timeout: 300ms");
    let mut hopfall = fleet.start();
    let mut busy = hopfall.connect();
    busy.request("GET", "/x", &[]);
    wait_until("it is under way", PATIENCE, || hang.requests().len() == 1);
    let began = Instant::now();
    assert_eq!(hopfall.terminate(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "a drain has an end");
}

#[test]
fn no_line_of_the_access_log_is_lost_at_the_end() {
    for signal in ["INT", "TERM"] {
        let node = Origin::always(Reply::ok("x"));
        let mut hopfall = Fleet::new().node("node", node.addr()).start();
        let mut client = hopfall.connect();
        client.request("GET", "/x", &[]).response();
        hopfall.signal(signal);
        assert_eq!(hopfall.wait_exit(PATIENCE), Some(0), "{signal}");
        assert_eq!(hopfall.access_log().len(), 1, "{signal}");
    }
}

#[test]
fn exit_codes_are_0_1_and_2() {
    let conf = |name: &str| format!("{}/conf/{name}", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(hopfall::command(&["check", &conf("minimal.yaml")]).code, Some(0));
    assert_eq!(hopfall::command(&["--version"]).stdout.trim(), format!("hopfall {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(hopfall::command(&["--help"]).code, Some(0));
    for bad in [
        vec![],
        vec!["fly"],
        vec!["run"],
        vec!["check"],
        vec!["check", "/nowhere.yaml"],
        vec!["run", "-c", "/nowhere.yaml"],
    ] {
        assert_eq!(hopfall::command(&bad).code, Some(2), "{bad:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = format!(
        "listeners: [{{ name: web, address: \"{}\", route: r }}]\npools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n",
        taken.local_addr().unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    std::fs::write(&file, yaml).unwrap();
    let ran = hopfall::command(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("listener `web`: cannot bind"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("0.0.0.0"), "{}", ran.stderr);

    // As nginx wants it, whose `[::]` is for IPv6 alone.
    let port = hopfall::reserve().port();
    let yaml = format!(
        "listeners:\n  - {{ name: four, address: \"0.0.0.0:{port}\", route: r }}\n  - {{ name: six, address: \"[::]:{port}\", route: r }}\npools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n"
    );
    std::fs::write(&file, yaml).unwrap();
    let ran = hopfall::command(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    let told =
        format!("cannot bind [::]:{port} (`[::]` is for IPv4 too: there can be no `0.0.0.0` with the same port)");
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
}

#[test]
fn a_secret_reaches_no_log_metric_or_admin_page() {
    let origin = Origin::always(Reply::status(403).body("<Error><Code>SignatureDoesNotMatch</Code></Error>"));
    let fleet = Fleet::new().store("cats", origin.addr(), "AKIAEXAMPLE", "wJalrXUtnFEMI").top("log: { level: trace }");
    let hopfall: Hopfall = fleet.start();
    hopfall.get("/x");
    hopfall.wait_for_log("the secret key is wrong");
    let told = [hopfall.log(), hopfall.stdout(), hopfall.metrics().text().to_owned(), get(hopfall.admin(), "/").text()]
        .concat();
    assert!(!told.contains("wJalrXUtnFEMI"));
    assert!(!told.contains("Signature="));
}
