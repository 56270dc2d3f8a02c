//! `hopfall explain`: what it foretells is what the next request does, and nothing has changed by asking.

use regex::Regex;
use serde_json::Value;

use crate::support::bucket::Bucket;
use crate::support::fleet::Fleet;
use crate::support::hopfall::{Hopfall, reserve};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process::Ran;
use crate::support::wait::{PATIENCE, wait_until};

fn explain(hopfall: &Hopfall, arguments: &[&str]) -> Value {
    let ran = hopfall.order(&[&["explain", "--json"], arguments].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

fn hops(told: &Value) -> Vec<String> {
    let hops = told["hops"].as_array().unwrap();
    hops.iter().map(|hop| hop["target"].as_str().unwrap().to_owned()).collect()
}

/// The hops, without how long ago it was that something was learned.
fn but_for_the_clock(told: &Value) -> String {
    Regex::new(r"\d+s ago").unwrap().replace_all(&told["hops"].to_string(), "some time ago").into_owned()
}

fn text(hopfall: &Hopfall, arguments: &[&str]) -> Ran {
    hopfall.order(&[&["explain"], arguments].concat())
}

/// Requests and explanations by turns: the access log has the hops that were foretold.
#[test]
fn it_foretells_the_hops_of_the_next_request() {
    for algorithm in ["roundrobin", "leastconn", "hash", "source"] {
        let lacks = || Origin::always(Reply::status(404));
        let (a, b, c, bucket) = (lacks(), lacks(), lacks(), Bucket::new());
        let fleet = Fleet::new()
            .node_with("a", a.addr(), "weight: 5")
            .node_with("b", b.addr(), "weight: 3")
            .node_with("c", c.addr(), "weight: 1, mode: backup")
            .pool(&format!("algorithm: {algorithm}"))
            .pool("from_nodes: trust")
            .top("location: { control: 0 }")
            .store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret");
        let hopfall = fleet.start();
        for held in 0..2 {
            bucket.put(&format!("held-{held}"), "1", b"meow", &[]);
        }
        for i in 0..16 {
            // Held ones again and again: the location map has its say.
            let path = if i % 2 == 0 { format!("/absent-{i}") } else { format!("/held-{}", i / 2 % 2) };
            let arguments = [path.as_str(), "--host", "files.test", "--client", "127.0.0.1"];
            let told = explain(&hopfall, &arguments);
            let again = explain(&hopfall, &arguments);
            assert_eq!(but_for_the_clock(&again), but_for_the_clock(&told), "asking twice has changed something");
            assert_eq!(told["if_all_lack_it"], 404);
            let status = hopfall.get(&path).status;
            assert_eq!(status, if i % 2 == 0 { 404 } else { 200 });
            let log = hopfall.wait_for_access_log(i + 1);
            let taken = log[i]["hops"].as_str().unwrap().split(' ');
            let taken: Vec<&str> = taken.map(|hop| hop.split(':').next().unwrap()).collect();
            // What serves the file ends the walk.
            let foretold = &hops(&told)[..taken.len().min(told["hops"].as_array().unwrap().len())];
            assert_eq!(foretold, taken, "{algorithm} {path}: {told:#}");
            assert!(status == 200 || taken.len() == 4, "{algorithm} {path}: {taken:?}");
        }
    }
}

#[test]
fn each_hop_says_why() {
    let (a, b, bucket) = (Nginx::with_files(&[("dog.jpg", b"woof")]), Nginx::with_files(&[]), Bucket::new());
    let hopfall = Fleet::new()
        .node_with("up", a.addr(), "weight: 5")
        .node_with("spare", b.addr(), "mode: backup")
        .node_with("gone", reserve(), "mode: drain")
        .top("location: { control: 0 }")
        .store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret")
        .store_key("prefix: img/")
        .store_key("prices: { thousand_requests: 0.0004, gibibyte: 0.09 }")
        .store_key("budget_per_day: 5")
        .start();
    let url = format!("http://{}/dog.jpg", hopfall.web());
    let cold = text(&hopfall, &[&url]);
    for part in [
        "listener web, route images, for a client at 192.0.2.1",
        "backup: after all others that are up",
        "drain: only clients that stick to it",
        "next in the chain",
        "/cats/img/dog.jpg",
        "signed:   host;x-amz-content-sha256;x-amz-date",
        "us-east-1/s3/aws4_request, access key AKIA…",
        "$0.0000004 a request, $0.09 a GiB",
        "If each of them lacks it: 404.",
    ] {
        assert!(cold.stdout.contains(part), "no `{part}` in:\n{}", cold.stdout);
    }
    assert!(!cold.stdout.contains("a-secret") && !cold.stdout.contains("AKIAEXAMPLE"), "{}", cold.stdout);
    assert!(cold.stdout.lines().all(|line| line.chars().count() <= 100), "{}", cold.stdout);
    assert!(a.requests_for("/dog.jpg").is_empty(), "explaining asks nobody");

    let host = hopfall.web().to_string();
    let answer = hopfall.connect().request("GET", "/dog.jpg", &[("Host", &host)]).response();
    assert_eq!(answer.status, 200);
    let known = explain(&hopfall, &[&url]);
    assert_eq!((&known["hops"][0]["target"], &known["hops"][0]["hint"]), (&"up".into(), &"has".into()), "{known:#}");
    assert!(known["hops"][0]["why"][0].as_str().unwrap().starts_with("has it, by the location map"), "{known:#}");
    let request = |path: &str| hopfall.connect().request("GET", path, &[("Host", &host)]).response().status;
    assert_eq!(request("/cat.jpg"), 404);
    let nowhere = explain(&hopfall, &[&url.replace("dog", "cat")]);
    assert_eq!((nowhere["at_once"]["status"].as_u64(), hops(&nowhere).len()), (Some(404), 0), "{nowhere:#}");
}

#[test]
fn a_node_that_is_down_is_last_and_says_since_when() {
    let (a, b) = (Origin::closing(), Origin::always(Reply::status(404)));
    let hopfall = Fleet::new()
        .node("broken", a.addr())
        .node("good", b.addr())
        .pool("health: { fall: 1, eject_for: 10m }")
        .start();
    for _ in 0..3 {
        hopfall.get("/x");
    }
    let told = explain(&hopfall, &["/x"]);
    assert_eq!(hops(&told), ["good", "broken"]);
    assert_eq!(told["hops"][1]["node"]["health"], "down");
    assert!(told["hops"][1]["why"].to_string().contains("down for"), "{told:#}");
    hopfall.order(&["node", "images", "good", "reject"]);
    let told = explain(&hopfall, &["/x"]);
    assert_eq!((hops(&told).len(), &told["not_asked"][0]["why"]), (1, &"reject: not asked".into()));
}

#[test]
fn what_comes_from_a_node_is_asked_of_stores_only() {
    let (node, bucket) = (Origin::at("127.0.0.2").respond(|_| Reply::status(404)), Bucket::new());
    let hopfall = Fleet::new().node("a", node.addr()).store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret").start();
    let told = explain(&hopfall, &["/x", "--client", "127.0.0.2"]);
    assert_eq!((&told["request"]["caller"], hops(&told)), (&"node a".into(), vec!["s3".to_owned()]), "{told:#}");
    assert_eq!(told["not_asked"][0]["why"], "the request comes from a node");
    let told = explain(&hopfall, &["/x", "--client", "127.0.0.1"]);
    assert_eq!((&told["request"]["caller"], hops(&told).len()), (&"neighbour".into(), 2), "{told:#}");
}

#[test]
fn attempts_and_budgets_end_the_walk() {
    let lacks = || Origin::always(Reply::status(404));
    let (a, b, bucket) = (lacks(), lacks(), Bucket::new());
    let fleet = |key: &str, route: &str| {
        let fleet = Fleet::new().node("a", a.addr()).node("b", b.addr()).route(route);
        fleet.store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret").store_key(key).start()
    };
    let told = explain(&fleet("region: us-east-1", "attempts: 2"), &["/x"]);
    assert_eq!((hops(&told).len(), &told["if_all_lack_it"]), (2, &503.into()), "{told:#}");
    assert_eq!(told["not_asked"][0]["why"], "the route's 2 attempts are spent");

    let hopfall = fleet("prices: { thousand_requests: 1000 }, budget_per_day: 1", "attempts: 0");
    hopfall.get("/x");
    let told = explain(&hopfall, &["/x"]);
    assert_eq!((&told["hops"][2]["s3"]["asked"], &told["if_all_lack_it"]), (&false.into(), &503.into()), "{told:#}");
    let asked = bucket.requests("x").len();
    assert_eq!(explain(&hopfall, &["/x", "--live"])["live"]["status"], 503);
    assert_eq!(bucket.requests("x").len(), asked, "it would cost more than there is");
}

#[test]
fn a_disk_says_what_it_keeps() {
    let bucket = Bucket::new();
    bucket.put("cat.jpg", "1", b"meow", &[("Cache-Control", "max-age=600")]);
    let fleet = Fleet::new().store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret");
    let hopfall = fleet.store_key("disk: { path: \"{dir}/disk\", bytes: 8MiB, free: 0B }").start();
    let state = || explain(&hopfall, &["/cat.jpg"])["hops"][0]["s3"]["disk"].clone();
    assert_eq!(state()["state"], "not_kept");
    wait_until("the object to be kept", PATIENCE, || {
        hopfall.get("/cat.jpg");
        state()["state"] == "fresh"
    });
    assert_eq!(state()["bytes"], 4);
    let asked = bucket.requests("cat.jpg").len();
    let told = explain(&hopfall, &["/cat.jpg", "--live"]);
    assert_eq!((&told["live"]["cache"], &told["live"]["dollars"]), (&"hit".into(), &0.0.into()), "{told:#}");
    assert_eq!(bucket.requests("cat.jpg").len(), asked);
}

#[test]
fn a_cookie_sticks() {
    let (a, b) = (Origin::always(Reply::ok("a")), Origin::always(Reply::ok("b")));
    let hopfall =
        Fleet::new().node("a", a.addr()).node("b", b.addr()).pool("stickiness: { kind: cookie, cookie: C }").start();
    let first = hopfall.get("/x");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..3 {
        let told = explain(&hopfall, &["/x", "--cookie", &cookie]);
        assert_eq!(
            (hops(&told)[0].as_str(), &told["hops"][0]["choice"]),
            (first.text().as_str(), &"stickiness".into())
        );
    }
}

#[test]
fn live_makes_the_request_and_tells_each_hop() {
    let bucket = Bucket::new();
    bucket.put("cat.jpg", "1", b"meow", &[]);
    let lacks = Origin::always(Reply::status(404));
    let hopfall = Fleet::new()
        .node("lean", lacks.addr())
        .store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret")
        .store_key("prices: { thousand_requests: 0.4 }")
        .start();
    let live = &explain(&hopfall, &["/cat.jpg", "--live"])["live"];
    assert_eq!(
        (&live["status"], &live["served_by"], &live["bytes"]),
        (&200.into(), &"s3".into(), &4.into()),
        "{live:#}"
    );
    assert_eq!((&live["hops"][0]["status"], &live["hops"][1]["outcome"]), (&404.into(), &"found".into()), "{live:#}");
    assert!((live["dollars"].as_f64().unwrap() - 0.0004).abs() < 1e-9, "{live:#}");
    assert_eq!((lacks.requests().len(), bucket.requests("cat.jpg").len()), (1, 1));

    let head = &explain(&hopfall, &["/cat.jpg", "--live", "--head"])["live"];
    assert_eq!((&head["status"], &head["bytes"]), (&200.into(), &0.into()), "{head:#}");
    let table = text(&hopfall, &["/nothing.jpg", "--live"]).stdout;
    assert!(table.contains("404 by hopfall itself"), "{table}");
    let by_get = hopfall.ask_admin("GET", "/explain?path=/cat.jpg&live=1", &[], "");
    assert!(by_get.text().contains("\"live\": null"), "a GET makes no traffic: {}", by_get.text());
}

#[test]
fn what_is_no_request_is_told_and_no_byte_moves_the_cursor() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("a", node.addr()).start();
    let hostile = text(&hopfall, &["/a\u{1b}[2J\u{202e}b"]);
    assert_eq!(hostile.code, Some(0), "{}", hostile.stderr);
    assert!(hostile.stdout.contains("400 at once") && !hostile.stdout.contains('\u{1b}'), "{}", hostile.stdout);
    assert!(text(&hopfall, &["/猫"]).stdout.contains("/%E7%8C%AB"));
    for (arguments, mistake) in [
        (["/x", "--listener", "\u{1b}none"], "there is no http or https listener `\\u{1b}none`: web"),
        (["/x", "--host", "a\nb"], "`host` has bytes that no header may have"),
    ] {
        let ran = text(&hopfall, &arguments);
        assert_eq!((ran.code, ran.stderr.contains(mistake)), (Some(2), true), "{}", ran.stderr);
    }
    assert!(node.requests().is_empty());
}

#[test]
fn the_host_chooses_the_route() {
    let node = Origin::always(Reply::ok("x"));
    let yaml = format!(
        "listeners:\n  - name: web\n    address: \"{{web}}\"\n    routes:\n      - {{ hosts: [cdn.example.org], route: images }}\n\
         pools: {{ images: {{ nodes: [{{ name: a, address: \"{}\" }}] }} }}\nroutes: {{ images: {{ chain: [images] }} }}\n\
         admin: {{ address: \"{{admin}}\" }}\n",
        node.addr()
    );
    let hopfall = Hopfall::start(&yaml);
    let told = explain(&hopfall, &["http://cdn.example.org/x"]);
    assert_eq!((&told["request"]["route"], hops(&told).len()), (&"images".into(), 1), "{told:#}");
    assert!(told["notes"].to_string().contains("no listener has port 80"), "{told:#}");
    let none = explain(&hopfall, &["http://elsewhere.org/x"]);
    assert_eq!((&none["request"]["route"], &none["at_once"]["status"]), (&Value::Null, &404.into()));
}

#[test]
fn the_schemas_are_what_is_written_in_docs() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, schema) in [
        ("explain.schema.json", schemars::schema_for!(hopfall::explain::Explanation)),
        ("check.schema.json", schemars::schema_for!(hopfall::doctor::Report)),
    ] {
        let made = format!("{:#}\n", schema.as_value());
        if std::env::var_os("HOPFALL_UPDATE").is_some() {
            std::fs::write(docs.join(name), &made).unwrap();
        }
        let written = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(written == made, "{name} is old: HOPFALL_UPDATE=1 cargo test --test it -- explain::the_schemas");
    }
}
