//! A config that changes while requests go on: all of it or nothing, and nobody notices but in what is served.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::certificate::Certificate;
use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

/// Reloads by the command, and tells what it printed.
fn reload(hopfall: &Hopfall) -> String {
    let ran = hopfall.order(&["reload"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

#[test]
fn a_node_that_is_added_is_asked_by_clients_that_are_there_already() {
    let lean = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let full = Nginx::with_files(&[("dog.jpg", b"woof")]);
    let mut hopfall = Fleet::new().node("lean", lean.addr()).start();
    let mut client = hopfall.connect();
    assert_eq!(client.request("GET", "/dog.jpg", &[]).response().status, 404);
    hopfall.rewrite(&Fleet::new().node("full", full.addr()).node("lean", lean.addr()).yaml());
    let told = reload(&hopfall);
    // By the name of its own file, whichever the command was given.
    assert_eq!(told, format!("config 1 is in force, from {}\n", hopfall.config_file().display()));
    let answer = client.request("GET", "/dog.jpg", &[]).response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "woof"), "on the same connection");
    let status = hopfall.status();
    assert_eq!((&status["config"]["generation"], &status["config"]["last_reload"]["ok"]), (&1.into(), &true.into()));
    assert_eq!(hopfall.metrics().value("hopfall_config_reloads_total", &[("result", "success")]), 2.0);
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_says_so_everywhere() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.start();
    hopfall.rewrite(&fleet.yaml().replace("route: images", "route: imges"));
    let ran = hopfall.order(&["reload"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("did you mean `images`?"), "{}", ran.stderr);
    hopfall.wait_for_log("not reloaded, and serving goes on as before: the config has mistakes");
    hopfall.wait_for_log("did you mean `images`?");
    hopfall.signal("HUP");
    let failures = || hopfall.metrics().value("hopfall_config_reloads_total", &[("result", "failure")]);
    wait_until("both are counted", PATIENCE, || failures() == 2.0);
    let last = &hopfall.status()["config"]["last_reload"];
    assert_eq!(last["ok"], false);
    assert!(last["told"].as_str().unwrap().contains("imges"), "{last}");
    assert_eq!(hopfall.get("/x").status, 200);
    hopfall.rewrite(&fleet.yaml());
    hopfall.signal("HUP");
    hopfall.wait_for_log("reloaded: config 1 is in force");
}

#[test]
fn what_cannot_be_had_changes_nothing() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more =
        format!("listeners:\n  - {{ name: more, address: \"{}\", route: images }}\n", taken.local_addr().unwrap());
    hopfall.rewrite(&fleet.yaml().replace("listeners:\n", &more).replace("node,", "other,"));
    let ran = hopfall.order(&["reload"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("listener `more`: cannot bind"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("restart"), "{}", ran.stderr);
    assert_eq!(hopfall.get("/x").status, 200);
    assert_eq!(hopfall.status()["pools"][0]["nodes"][0]["name"], "node");
    // All addresses, where it has one itself.
    for own in [hopfall.web(), hopfall.admin()] {
        let place = if own == hopfall.web() { "{web}" } else { "{admin}" };
        hopfall.rewrite(&fleet.yaml().replace(place, &format!("0.0.0.0:{}", own.port())));
        let ran = hopfall.order(&["reload"]);
        assert_eq!(ran.code, Some(1));
        let told = format!("{own} is this hopfall's own, so that change needs a restart");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    }
}

#[test]
fn listeners_come_and_go_and_requests_under_way_do_not() {
    let gate = Arc::new(AtomicBool::new(false));
    let node = Origin::respond({
        let gate = gate.clone();
        move |request| {
            if request.target == "/slow" {
                wait_until("the gate opens", PATIENCE, || gate.load(Ordering::Relaxed));
            }
            Reply::ok("x")
        }
    });
    let fleet = Fleet::new().node("node", node.addr()).pool("header_timeout: 20s");
    let (old, new) = (hopfall::reserve(), hopfall::reserve());
    let with = |address| {
        let more = format!("listeners:\n  - {{ name: more, address: \"{address}\", route: images }}\n");
        fleet.yaml().replace("listeners:\n", &more)
    };
    let mut hopfall = Hopfall::start(&with(old));
    let (mut busy, mut idle) = (Client::connect(old), Client::connect(old));
    assert_eq!(idle.request("GET", "/x", &[]).response().status, 200);
    busy.request("GET", "/slow", &[]);
    wait_until("it is asked", PATIENCE, || node.requests().len() == 2);
    hopfall.rewrite(&with(new));
    reload(&hopfall);
    assert_eq!(Client::connect(new).request("GET", "/x", &[]).response().status, 200);
    wait_until("the old one is gone", PATIENCE, || Client::try_connect(old).is_err());
    gate.store(true, Ordering::Relaxed);
    assert_eq!(busy.response().status, 200);
    // Whoever only waited is served once more, and told that this was the last.
    let answer = idle.request("GET", "/x", &[]).response();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
}

#[test]
fn what_is_known_of_nodes_survives() {
    let a = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let b = Nginx::with_files(&[("dog.jpg", b"woof")]);
    let dead = hopfall::reserve();
    let fleet = |weight: &str| {
        let fleet = Fleet::new().top("location: { control: 0 }").pool("health: { check: connection, interval: 10m }");
        fleet.node("a", a.addr()).node_with("b", b.addr(), weight).node("dead", dead)
    };
    let mut hopfall = fleet("weight: 1").start();
    let up = |hopfall: &Hopfall, node| hopfall.metrics().value("hopfall_node_up", &[("node", node)]);
    // What real requests found out: one node is down, and where the files are.
    for i in 0..20 {
        hopfall.get(&format!("/{i}.jpg"));
    }
    assert_eq!(up(&hopfall, "dead"), 0.0);
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
    assert_eq!(hopfall.order(&["node", "images", "a", "drain"]).code, Some(0));
    let asked = |nginx: &Nginx| nginx.requests_for("/dog.jpg").len();
    let before = asked(&a);
    let connects = |hopfall: &Hopfall| {
        let metrics = hopfall.metrics();
        metrics.sum("hopfall_upstream_connects_total", &[("node", "a")])
            + metrics.sum("hopfall_upstream_connects_total", &[("node", "b")])
    };
    let opened = connects(&hopfall);

    // Another order of nodes, so that each has another number now; and another weight.
    let yaml = fleet("weight: 9").yaml();
    let line =
        |name: &str| yaml.lines().find(|line| line.contains(&format!("name: {name},"))).unwrap().to_owned() + "\n";
    let (of_a, of_dead) = (line("a"), line("dead"));
    let turned = yaml.replace(&of_dead, "").replace(&of_a, &(of_dead + &of_a));
    hopfall.rewrite(&turned);
    reload(&hopfall);
    assert_eq!(up(&hopfall, "dead"), 0.0);
    let modes = hopfall.status();
    let node = |name| modes["pools"][0]["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
    assert_eq!((&node("a")["mode"], &node("b")["weight"]), (&"drain".into(), &9.into()));
    // One alone: a connection is kept a moment after its client has the answer.
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
    assert_eq!(connects(&hopfall), opened, "connections to nodes are used on");
    for _ in 0..10 {
        assert_eq!(hopfall.get("/dog.jpg").status, 200);
    }
    assert_eq!(asked(&a), before, "the location map knows who has it");

    // What the config now says otherwise holds.
    hopfall.rewrite(&turned.replace(&line("a"), &line("a").replace("name: a,", "name: a, mode: reject,")));
    reload(&hopfall);
    assert_eq!(hopfall.status()["pools"][0]["nodes"][1]["mode"], "reject");
    // And who is gone leaves the metrics.
    hopfall.rewrite(&Fleet::new().node("a", a.addr()).yaml());
    reload(&hopfall);
    assert_eq!(hopfall.metrics().sum("hopfall_node_up", &[]), 1.0);
}

#[test]
fn a_store_gets_other_credentials_and_stays_what_it_was() {
    use crate::support::seaweed::Seaweed;
    let s3 = Seaweed::shared();
    s3.bucket("reload").put("reload", "fox.jpg", b"ring", "image/jpeg");
    let fleet =
        |budget: &str| Fleet::new().s3("reload").store_key("prices: { thousand_requests: 1000 }").store_key(budget);
    let mut hopfall = fleet("budget_per_day: 1000").start();
    assert_eq!(hopfall.get("/fox.jpg").text(), "ring");
    let spent = |hopfall: &Hopfall| hopfall.status()["stores"][0]["dollars_today"].as_f64().unwrap();
    let before = spent(&hopfall);
    assert!(before > 0.0);
    let wrong = fleet("budget_per_day: 2000").yaml().replace("secret_key: \"${SK}\"", "secret_key: \"${AK}\"");
    hopfall.rewrite(&wrong);
    reload(&hopfall);
    assert_eq!(hopfall.get("/fox.jpg").status, 502, "it is signed with the new key");
    hopfall.rewrite(&fleet("budget_per_day: 2000").yaml());
    reload(&hopfall);
    assert_eq!(hopfall.get("/fox.jpg").text(), "ring");
    assert!(spent(&hopfall) > before, "what was spent today stays spent");
}

#[test]
fn what_waits_for_an_upgrade_is_named() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.start();
    hopfall.rewrite(&(fleet.yaml() + "threads: 7\nidentity: { name: another }\n"));
    let told = reload(&hopfall);
    let waits = |key: &str| format!("; `{key}` waits for an upgrade or a restart");
    let kept = format!("{}{}\n", waits("threads"), waits("identity"));
    assert!(told.starts_with("config 1 is in force") && told.ends_with(&kept), "{told}");
}

#[test]
fn a_watched_file_is_read_when_it_changes_and_links_are_followed() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.builder().watch().start();
    hopfall.wait_for_log("is watched for changes");
    hopfall.rewrite(&fleet.yaml().replace("{ name: node,", "{ name: other,"));
    hopfall.wait_for_log("config 1 is in force");
    // Touched and not changed.
    let file = hopfall.config_file();
    fs::write(&file, fs::read(&file).unwrap()).unwrap();
    // As a ConfigMap is mounted: a link to a file in a link to a folder, and it is the latter that is replaced.
    let folder = file.parent().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    for (version, name) in [("v1", "third"), ("v2", "fourth")] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(
            folder.join(version).join("hopfall.yaml"),
            text.replace("{ name: other,", &format!("{{ name: {name},")),
        )
        .unwrap();
    }
    symlink("v1", folder.join("..data")).unwrap();
    symlink("..data/hopfall.yaml", folder.join("new")).unwrap();
    fs::rename(folder.join("new"), &file).unwrap();
    hopfall.wait_for_log("config 2 is in force");
    symlink("v2", folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    hopfall.wait_for_log("config 3 is in force");
    assert_eq!(hopfall.status()["pools"][0]["nodes"][0]["name"], "fourth");
}

#[test]
fn a_file_behind_a_link_to_another_folder_is_watched() {
    let node = Origin::always(Reply::ok("x"));
    let elsewhere = tempfile::tempdir().unwrap();
    let behind = elsewhere.path().join("real.yaml");
    let hopfall = Fleet::new().node("node", node.addr()).builder().watch().start();
    hopfall.wait_for_log("is watched for changes");
    let file = hopfall.config_file();
    let text = fs::read_to_string(&file).unwrap();
    let named = |name: &str| text.replace("{ name: node,", &format!("{{ name: {name},"));
    fs::write(&behind, named("second")).unwrap();
    let new = file.with_extension("new");
    symlink(&behind, &new).unwrap();
    fs::rename(new, &file).unwrap();
    hopfall.wait_for_log("config 1 is in force");
    fs::write(&behind, named("third")).unwrap();
    hopfall.wait_for_log("config 2 is in force");
    assert_eq!(hopfall.status()["pools"][0]["nodes"][0]["name"], "third");
}

#[test]
fn who_cannot_ask_for_a_reload_is_told_of_the_other_way() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.start();
    let elsewhere = hopfall::reserve();
    hopfall.rewrite(&fleet.yaml().replace("{admin}", &elsewhere.to_string()));
    let file = hopfall.config_file();
    let ran = hopfall::command(&["reload", "-c", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("does not answer") && ran.stderr.contains("send it SIGHUP"), "{}", ran.stderr);
    hopfall.signal("HUP");
    hopfall.wait_for_log("config 1 is in force");
    assert_eq!(hopfall::command(&["reload", "-c", file.to_str().unwrap()]).code, Some(0));
}

#[test]
fn what_is_gone_leaves_the_metrics() {
    let node = Origin::always(Reply::ok("x"));
    let certificate = Certificate::for_names(&["gone.example", "stays.example"]);
    let stays = Certificate::for_names(&["stays.example"]);
    let https = |name: &str, address, certificate: &Certificate| {
        let (cert, key) = (certificate.cert_path(), certificate.key_path());
        let tls = format!("{{ certificate: \"{}\", key: \"{}\" }}", cert.display(), key.display());
        format!("  - {{ name: {name}, address: \"{address}\", protocol: https, route: images, tls: {tls} }}\n")
    };
    let (one, other) = (hopfall::reserve(), hopfall::reserve());
    let plain = Fleet::new().node("node", node.addr());
    let bucket = Fleet::new().node("node", node.addr()).store("cats", hopfall::reserve(), "AKIAEXAMPLE", "a-secret");
    let bucket = bucket.store_key("budget_per_day: 1, disk: { path: \"{dir}/disk\", bytes: 8MiB, free: 1MiB }");
    let with = |fleet: &Fleet, more: &[String]| {
        fleet.yaml().replace("listeners:\n", &format!("listeners:\n{}", more.concat()))
    };
    let all = with(&bucket, &[https("one", one, &certificate), https("other", other, &certificate)]);
    let mut hopfall = Hopfall::start_with_env(&all, &[("AK", "AKIAEXAMPLE"), ("SK", "a-secret")]);
    let ends = |hopfall: &Hopfall| {
        let metrics = hopfall.metrics();
        let labels = metrics.labels("hopfall_certificate_expires_timestamp_seconds").into_iter();
        let mut ends: Vec<_> = labels.map(|labels| format!("{} {}", labels["listener"], labels["name"])).collect();
        ends.sort();
        ends
    };
    let gauges = ["hopfall_s3_budget_dollars", "hopfall_s3_cost_today_dollars", "hopfall_store_ready"];
    let of_store = |hopfall: &Hopfall| gauges.map(|gauge| hopfall.metrics().has(gauge, &[("store", "s3")]));
    assert_eq!(ends(&hopfall), ["one gone.example", "one stays.example", "other gone.example", "other stays.example"]);
    assert_eq!(of_store(&hopfall), [true; 3]);

    // One listener goes, and the other has a new certificate and a new address.
    hopfall.rewrite(&with(&plain, &[https("other", one, &stays)]));
    reload(&hopfall);
    assert_eq!(ends(&hopfall), ["other stays.example"]);
    assert_eq!(of_store(&hopfall), [false; 3]);
    // A file that is renewed for fewer names.
    hopfall.rewrite(&with(&plain, &[https("other", one, &certificate)]));
    reload(&hopfall);
    assert_eq!(ends(&hopfall), ["other gone.example", "other stays.example"]);
    fs::write(certificate.cert_path(), &stays.cert_pem).unwrap();
    fs::write(certificate.key_path(), &stays.key_pem).unwrap();
    wait_until("it is read", PATIENCE, || ends(&hopfall) == ["other stays.example"]);
}
