//! `hopfall check --online`: each kind of finding, from what produces it.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::blackhole::Blackhole;
use crate::support::certificate::Certificate;
use crate::support::fleet::Fleet;
use crate::support::hopfall::{command_with, reserve};
use crate::support::origin::{Origin, Reply};
use crate::support::process::Ran;
use crate::support::request::Request;
use crate::support::seaweed::Seaweed;

const SECRETS: [(&str, &str); 2] = [("AK", "AKIAEXAMPLE"), ("SK", "a-secret")];

/// Runs it on this config.
fn examine(yaml: &str, secrets: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    let yaml = yaml.replace("{web}", &reserve().to_string()).replace("{admin}", &reserve().to_string());
    std::fs::write(&file, yaml.replace("{dir}", folder.path().to_str().unwrap())).unwrap();
    command_with(&[&["check", "--online", file.to_str().unwrap()], arguments].concat(), secrets)
}

/// Fails unless there is this line: `error  node images/a: … answers 200 …`, given as its level, what it is about, and
/// parts of the rest.
#[track_caller]
fn assert_found(ran: &Ran, level: &str, about: &str, parts: &[&str]) {
    let start = format!("{level:<5}  {about}: ");
    let fits = |line: &&str| line.starts_with(&start) && parts.iter().all(|part| line.contains(part));
    assert!(ran.stdout.lines().any(|line| fits(&line)), "no `{start}` with {parts:?} in\n{}{}", ran.stdout, ran.stderr);
    let errors = ran.stdout.lines().any(|line| line.starts_with("error"));
    assert_eq!(ran.code, Some(i32::from(errors)), "{}", ran.stdout);
    assert!(!ran.stdout.contains("a-secret"));
}

#[test]
fn a_fleet_that_is_well_has_no_error() {
    let s3 = Seaweed::shared();
    let node = Origin::always(Reply::status(404));
    let fleet = Fleet::new().node("a", node.addr()).pool("health: { check: connection }").s3("well").top("threads: 2");
    let secrets = [("AK", s3.access_key()), ("SK", s3.secret_key())];
    let ran = examine(&fleet.yaml(), &secrets, &[]);
    assert_found(&ran, "ok", "node images/a", &["answers 404 for a file that it lacks"]);
    assert_found(&ran, "ok", "node images/a", &["passes its health check"]);
    assert_found(&ran, "ok", "store s3", &["bucket well answers; what it lacks is 404"]);
    assert_found(&ran, "ok", "listener web", &["can be bound"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    let json = examine(&fleet.yaml(), &secrets, &["--json"]);
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(told["errors"], 0, "{told:#}");
    assert!(told["findings"].as_array().unwrap().len() >= 6, "{told:#}");
    for (wrong, about) in [
        (("SK", "wrong"), &["SignatureDoesNotMatch", "secret key is wrong"]),
        (("AK", "NOBODY"), &["InvalidAccessKeyId", "access key does not exist"]),
    ] {
        let secrets: Vec<_> = secrets.iter().map(|own| if own.0 == wrong.0 { wrong } else { *own }).collect();
        assert_found(&examine(&fleet.yaml(), &secrets, &[]), "error", "store s3", about);
    }
    let missing = fleet.yaml().replace("bucket: well", "bucket: no-such-bucket");
    assert_found(&examine(&missing, &secrets, &[]), "error", "store s3", &["NoSuchBucket"]);
}

#[test]
fn what_a_node_says_of_what_it_lacks() {
    let cases: [(Reply, &str, &[&str]); 9] = [
        (Reply::ok("welcome"), "error", &["answers 200 for a file that it lacks", "try_files $uri =404"]),
        (Reply::status(301).header("Location", "https://x/"), "error", &["redirects are handed on"]),
        (Reply::status(403), "error", &["on_403: next"]),
        (Reply::status(400), "error", &["does not take the host", "set `host` of the pool"]),
        (Reply::status(410), "error", &["add 410 to `fallback_on`"]),
        (Reply::status(500), "warn", &["counts against its health"]),
        (Reply::status(501), "error", &["answers 501", "handed on"]),
        (Reply::status(503), "warn", &["it is busy"]),
        (Reply::status(404).then_keep_alive(false), "warn", &["`keepalive` is of no use"]),
    ];
    let nodes: Vec<Origin> = cases.iter().map(|(reply, ..)| Origin::always(reply.clone())).collect();
    let fleet =
        nodes.iter().enumerate().fold(Fleet::new(), |fleet, (i, node)| fleet.node(&format!("n{i}"), node.addr()));
    let ran = examine(&fleet.yaml(), &[], &[]);
    for (i, (_, level, parts)) in cases.iter().enumerate() {
        assert_found(&ran, level, &format!("node images/n{i}"), parts);
    }
}

#[test]
fn a_node_that_cannot_be_asked() {
    let dark = Blackhole::open();
    let (web, silent) = (reserve(), Origin::always(Reply::hang()));
    let sick = Origin::respond(|request| Reply::status(if request.target == "/healthz" { 503 } else { 404 }));
    let fleet = Fleet::new()
        .node("refused", reserve())
        .node("own", web)
        .node("silent", silent.addr())
        .node("sick", sick.addr())
        .node("dark", dark.addr())
        .node_with("off", reserve(), "mode: reject")
        .pool("header_timeout: 300ms")
        .pool("health: { check: http, path: /healthz, timeout: 300ms }");
    let yaml = fleet.yaml().replace("{web}", &web.to_string());
    let yaml = yaml.replace(
        "      - { name: refused",
        "      - { name: nameless, address: \"no-such.invalid:80\" }\n      - { name: refused",
    );
    let ran = examine(&yaml, &[], &[]);
    assert_found(&ran, "error", "node images/nameless", &["cannot be resolved", "fix: correct the name"]);
    assert_found(&ran, "error", "node images/refused", &["takes no connection: Connection refused"]);
    assert_found(&ran, "warn", "node images/own", &["hopfall's own listener web", "a loop"]);
    assert_found(&ran, "error", "node images/silent", &["gives no answer: http_response_timeout"]);
    assert_found(&ran, "error", "node images/sick", &["fails its health check"]);
    assert_found(&ran, "error", "node images/dark", &["does not answer within connect_timeout", "firewall"]);
    assert_found(&ran, "ok", "node images/off", &["its mode is reject"]);
}

fn document(code: &str, more: &str) -> String {
    format!("<Error><Code>{code}</Code>{more}</Error>")
}

#[test]
fn what_a_bucket_says_of_its_settings() {
    let skewed = "Fri, 01 Jan 2021 00:00:00 GMT";
    let absent = || Reply::status(404).body(document("NoSuchKey", ""));
    let region = document("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>");
    let cases: [(Reply, &str, &str, &[&str]); 8] = [
        (Reply::status(400).body(region), "", "error", &["set `region: eu-west-1`"]),
        (Reply::status(301).header("x-amz-bucket-region", "eu-north-1"), "", "error", &["set `region: eu-north-1`"]),
        (Reply::status(403).body(document("RequestTimeTooSkewed", "")), "", "error", &["clock is off", "NTP"]),
        (absent().header("Date", skewed), "", "error", &["clock is", "ahead of the store's", "NTP"]),
        (
            Reply::status(403).body(document("AccessDenied", "")),
            "",
            "warn",
            &["403 is taken for absent", "s3:ListBucket"],
        ),
        (Reply::status(403).body(document("AccessDenied", "")), "on_403: error", "error", &["makes that 502"]),
        (absent(), "on_403: not_found", "warn", &["true denials look absent"]),
        (Reply::ok("<html>"), "", "error", &["that is no S3"]),
    ];
    for (reply, key, level, parts) in cases {
        let bucket = Origin::always(reply);
        let mut fleet = Fleet::new().store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret");
        if !key.is_empty() {
            fleet = fleet.store_key(key);
        }
        assert_found(&examine(&fleet.yaml(), &SECRETS, &[]), level, "store s3", parts);
        assert!(bucket.requests()[0].target.starts_with("/cats/hopfall-probe/"), "it asks for a random key");
    }
}

/// A store that finds a bucket by one style only.
#[test]
fn a_bucket_named_in_the_wrong_place() {
    let by_host = |request: &Request| request.header("host").is_some_and(|host| host.starts_with("cats."));
    let answer = |found: bool| document(if found { "NoSuchKey" } else { "NoSuchBucket" }, "");
    let virtual_only = Origin::respond(move |request| Reply::status(404).body(answer(by_host(request))));
    let fleet = Fleet::new().store("cats", virtual_only.addr(), "AKIAEXAMPLE", "a-secret");
    let parts = ["not found by `addressing: path`", "set `addressing: virtual`"];
    assert_found(&examine(&fleet.yaml(), &SECRETS, &[]), "error", "store s3", &parts);

    // `cats.localhost` may have no address at all.
    let path_only = Origin::respond(move |request| Reply::status(404).body(answer(!by_host(request))));
    let fleet =
        Fleet::new().store("cats", path_only.addr(), "AKIAEXAMPLE", "a-secret").store_key("addressing: virtual");
    let yaml = fleet.yaml().replace("127.0.0.1", "localhost");
    let parts = ["not found by `addressing: virtual`", "set `addressing: path`"];
    assert_found(&examine(&yaml, &SECRETS, &[]), "error", "store s3", &parts);
}

#[test]
fn an_endpoint_in_plain_text_off_this_machine() {
    let mut own = if_addrs::get_if_addrs().unwrap().into_iter().map(|interface| interface.ip());
    let Some(own) = own.find(|ip| ip.is_ipv4() && !ip.is_loopback()) else { return };
    let bucket = Origin::at(&own.to_string()).respond(|_| Reply::status(404).body(document("NoSuchKey", "")));
    let fleet = Fleet::new().store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret");
    assert_found(&examine(&fleet.yaml(), &SECRETS, &[]), "warn", "store s3", &["plain text", "https://"]);
}

#[test]
fn ports_and_the_hopfall_that_has_them() {
    let node = Origin::always(Reply::status(404));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let fleet = Fleet::new().node("a", node.addr());
    let at = |address: SocketAddr| fleet.yaml().replace("{web}", &address.to_string());
    let ran = examine(&at(taken.local_addr().unwrap()), &[], &[]);
    assert_found(&ran, "error", "listener web", &["is taken by another program", "ss -ltnp"]);
    let ran = examine(&at("192.0.2.7:80".parse().unwrap()), &[], &[]);
    assert_found(&ran, "error", "listener web", &["is no address of this machine"]);

    let hopfall = fleet.start();
    let file = hopfall.config_file();
    let ran = command_with(&["check", "--online", file.to_str().unwrap()], &[]);
    assert_found(&ran, "ok", "listener web", &["is taken, and a hopfall runs here"]);
    assert_found(&ran, "ok", "admin", &["is taken, and a hopfall runs here"]);
    // A listener that it does not have yet, at an address that another has.
    let more =
        format!("listeners:\n  - {{ name: more, address: \"{}\", route: images }}\n", taken.local_addr().unwrap());
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("listeners:\n", &more)).unwrap();
    let ran = command_with(&["check", "--online", file.to_str().unwrap()], &[]);
    assert_found(&ran, "ok", "listener web", &["is taken, and a hopfall runs here"]);
    assert_found(&ran, "error", "listener more", &["is taken, and not by a listener of the hopfall that runs here"]);
    assert_eq!(hopfall.get("/x").status, 404, "it still serves");
}

#[test]
fn certificates_as_clients_see_them() {
    let node = Origin::always(Reply::status(404));
    let (one, other) = (Certificate::for_names(&["other.example.org"]), Certificate::for_names(&["x"]));
    let yaml = |certificate: &str, key: &str| {
        format!(
            "listeners:\n  - name: web\n    address: \"{{web}}\"\n    protocol: https\n    \
             tls: {{ certificate: \"{certificate}\", key: \"{key}\" }}\n    \
             routes: [{{ hosts: [cdn.example.org], route: r }}]\n\
             pools: {{ p: {{ nodes: [{{ name: a, address: \"{}\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n",
            node.addr()
        )
    };
    let path = |path: std::path::PathBuf| path.display().to_string();
    let ran = examine(&yaml(&path(one.cert_path()), &path(one.key_path())), &[], &[]);
    assert_found(&ran, "warn", "listener web", &["no certificate is for cdn.example.org"]);
    assert_found(&ran, "warn", "listener web", &["is self-signed"]);
    let ran = examine(&yaml(&path(one.cert_path()), &path(other.key_path())), &[], &[]);
    assert_found(&ran, "error", "listener web", &["is not the key of"]);
    let folder = tempfile::tempdir().unwrap();
    let mixed = path(folder.path().join("chain.pem"));
    let mut stranger = rcgen::CertificateParams::new(vec!["stranger".to_owned()]).unwrap();
    stranger.distinguished_name.push(rcgen::DnType::CommonName, "stranger");
    let stranger = stranger.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(&mixed, format!("{}{}", one.cert_pem, stranger.pem())).unwrap();
    let ran = examine(&yaml(&mixed, &path(one.key_path())), &[], &[]);
    assert_found(&ran, "error", "listener web", &["chain out of order"]);
}

#[test]
fn files_and_folders() {
    let (node, bucket) = (Origin::always(Reply::status(404)), Origin::always(Reply::status(404)));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a-file"), "x").unwrap();
    let own = |path: &str| folder.path().join(path).display().to_string();
    let fleet = |disk: &str| {
        Fleet::new()
            .node("a", node.addr())
            .store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret")
            .store_key(disk)
            .top(&format!("location: {{ file: \"{}\" }}", own("no-folder/map")))
            .top(&format!("log: {{ access: {{ path: \"{}\" }} }}", own("a-file/access.log")))
            .yaml()
    };
    let ran = examine(&fleet(&format!("disk: {{ path: \"{}\", bytes: 10MiB }}", own(""))), &SECRETS, &[]);
    assert_found(&ran, "error", "location", &["no-folder/map cannot be written"]);
    assert_found(&ran, "error", "access log", &["a-file is no folder"]);
    assert_found(&ran, "error", "store s3", &["holds files that are not hopfall's"]);
    let ran =
        examine(&fleet(&format!("disk: {{ path: \"{}\", bytes: 900TiB, free: 1MiB }}", own("disk"))), &SECRETS, &[]);
    assert_found(&ran, "warn", "store s3", &["will not grow to 900.0 TiB"]);
    assert!(!folder.path().join("disk").exists(), "it makes nothing");
}

#[cfg(feature = "otel")]
#[test]
fn a_collector_that_is_not_there() {
    let node = Origin::always(Reply::status(404));
    let there = Origin::always(Reply::ok(""));
    let with = |address: SocketAddr| {
        let tracing = format!("tracing: {{ endpoint: \"http://{address}/v1/traces\" }}");
        examine(&Fleet::new().node("a", node.addr()).top(&tracing).yaml(), &[], &[])
    };
    assert_found(&with(there.addr()), "ok", "tracing", &["takes connections"]);
    assert_eq!(there.requests().len(), 0, "nothing is sent");
    let ran = with(reserve());
    assert_found(
        &ran,
        "warn",
        "tracing",
        &["no connection to the collector at 127.0.0.1:", "fix: start the collector"],
    );
    assert_eq!(ran.code, Some(0), "requests are served without it");
}

#[test]
fn it_ends_in_time_and_says_what_did_not() {
    let silent = Origin::always(Reply::hang());
    let fleet = Fleet::new().node("a", silent.addr()).pool("header_timeout: 20s");
    let began = Instant::now();
    let ran = examine(&fleet.yaml(), &[], &["--timeout", "500ms"]);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_found(&ran, "error", "node images/a", &["not done within 500ms"]);
}

#[test]
fn a_bad_config_is_2_and_nothing_is_asked() {
    let ran = examine("listeners: []\n", &[], &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("problem"), "{}", ran.stderr);
}
