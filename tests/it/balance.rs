//! Algorithms, modes and stickiness, as a client sees them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process::Ran;
use crate::support::wait::{PATIENCE, wait_until};

fn node(name: &'static str) -> Origin {
    Origin::respond(move |request| match request.target.as_str() {
        "/slow" => Reply::ok(name).delay(Duration::from_millis(300)),
        target if target.starts_with("/none") => Reply::status(404),
        _ => Reply::ok(name),
    })
}

fn fleet(a: &Origin, b: &Origin) -> Fleet {
    Fleet::new().node("a", a.addr()).node("b", b.addr())
}

/// Sets a node's mode by the command line, as an operator does.
fn set(hopfall: &Hopfall, node: &str, mode: &str) -> Ran {
    hopfall.order(&["node", "images", node, mode])
}

#[test]
fn a_slow_request_counts_against_its_node() {
    let (a, b) = (node("a"), node("b"));
    let hopfall = fleet(&a, &b).pool("algorithm: leastconn").pool("from_nodes: trust").start();
    let slow = {
        let mut client = hopfall.connect();
        client.request("GET", "/slow", &[]);
        client
    };
    wait_until("it is on its way", PATIENCE, || !a.requests().is_empty() || !b.requests().is_empty());
    let busy = if a.requests().is_empty() { "b" } else { "a" };
    for _ in 0..6 {
        assert_ne!(hopfall.get("/x").text(), busy);
    }
    drop(slow);
}

#[test]
fn a_cookie_brings_a_client_back_and_chooses_the_first_target_only() {
    let (a, b) = (node("a"), node("b"));
    let hopfall = fleet(&a, &b).pool("stickiness: { kind: cookie }").start();
    let first = hopfall.get("/x");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("NB_SRVID="));
    let ask = |method: &str, path: &str| hopfall.connect().request(method, path, &[("Cookie", &cookie)]).response();
    for method in ["GET", "GET", "POST", "DELETE"] {
        let again = ask(method, "/x");
        assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None), "{method}");
    }
    // What its node lacks is asked of the other one all the same.
    assert_eq!(ask("GET", "/none").status, 404);
    for node in [&a, &b] {
        assert!(node.requests().iter().any(|request| request.target == "/none"));
    }
    // It is rejected: the cookie is written anew.
    let (stuck, other) = if first.text() == "a" { ("a", "b") } else { ("b", "a") };
    assert_eq!(set(&hopfall, stuck, "reject").code, Some(0));
    let moved = ask("GET", "/x");
    assert_eq!(moved.text(), other);
    assert!(moved.header("set-cookie").is_some_and(|set| !set.starts_with(&cookie)));
}

/// A browser has one cookie of a name for all paths and ports of a host, and several pools may be behind these.
#[test]
fn one_cookie_keeps_a_client_at_a_node_of_each_pool() {
    let nodes = ["a", "b", "c", "d"].map(node);
    let [a, b, c, d] = nodes.each_ref().map(Origin::addr);
    let hopfall = Hopfall::start(&format!(
        "listeners: [{{ name: web, address: \"{{web}}\", route: site, routes: [{{ path: /img/, route: images }}] }}]
pools:
  site: {{ stickiness: {{ kind: cookie }}, nodes: [{{ name: a, address: \"{a}\" }}, {{ name: b, address: \"{b}\" }}] }}
  images: {{ stickiness: {{ kind: cookie }}, nodes: [{{ name: c, address: \"{c}\" }}, {{ name: d, address: \"{d}\" }}] }}
routes: {{ site: {{ chain: [site] }}, images: {{ chain: [images] }} }}
admin: {{ address: \"{{admin}}\" }}
"
    ));
    // Of the balancer before, and of others whose cookie has our name.
    let mut cookie = format!("NB_SRVID=srv-1.{}", vec!["0f".repeat(16); 20].join("."));
    let mut served: Vec<(String, bool)> = Vec::new();
    for _ in 0..4 {
        for target in ["/x", "/img/x"] {
            let answer = hopfall.connect().request("GET", target, &[("Cookie", &cookie)]).response();
            let set = answer.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned());
            served.push((answer.text(), set.is_some()));
            cookie = set.unwrap_or(cookie);
        }
    }
    let again: Vec<_> = served[..2].iter().map(|(name, _)| (name.clone(), false)).collect();
    assert!(served[2..].chunks(2).all(|both| both == again), "{served:?}");
    assert_eq!(cookie.split('.').count(), 8, "{cookie}");
    assert!(!cookie.contains("srv-1"), "{cookie}");
}

#[test]
fn a_node_is_drained_without_a_failed_request() {
    let (a, b) = (node("a"), node("b"));
    let hopfall = fleet(&a, &b).pool("from_nodes: trust").start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = hopfall.connect();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
                }
            });
        }
        let slow = scope.spawn(|| Client::connect(hopfall.web()).request("GET", "/slow", &[]).response().status);
        wait_until("both serve", PATIENCE, || a.requests().len() > 50 && b.requests().len() > 50);
        let ran = set(&hopfall, "a", "drain");
        let status = hopfall.status();
        let nodes = &status["pools"][0]["nodes"];
        assert_eq!((&nodes[0]["mode"], &nodes[1]["mode"]), (&"drain".into(), &"accept".into()));
        assert_eq!((&nodes[0]["up"], &nodes[0]["weight"]), (&true.into(), &1.into()));
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "a: drain, was accept; until a restart"), "{}", ran.stderr);
        let quiet = |count: usize| {
            let before = a.requests().len();
            let others = b.requests().len();
            wait_until("the other one serves", PATIENCE, || b.requests().len() > others + count);
            a.requests().len() - before
        };
        // What was picked at that very moment may still come.
        quiet(20);
        assert_eq!(quiet(200), 0);
        assert_eq!(slow.join().unwrap(), 200);
        assert_eq!(set(&hopfall, "a", "accept").code, Some(0));
        let before = a.requests().len();
        wait_until("it is back", PATIENCE, || a.requests().len() > before + 50);
        stop.store(true, Ordering::Relaxed);
    });
    hopfall.wait_for_log("node a of pool images is set from accept to drain");
    for (node, mode, code) in [("c", "drain", 1), ("a", "asleep", 2)] {
        let ran = set(&hopfall, node, mode);
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("there is no node `c`") || ran.stderr.contains("`asleep` is not a mode"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_backup_serves_when_the_others_are_down_and_is_asked_for_what_they_lack() {
    let (mut main, backup) =
        (Nginx::with_files(&[("cat.jpg", b"meow")]), Nginx::with_files(&[("cat.jpg", b"MEOW"), ("dog.jpg", b"woof")]));
    let hopfall = Fleet::new()
        .node("main", main.addr())
        .node_with("backup", backup.addr(), "mode: backup")
        .pool("health: { check: connection, interval: 200ms, fall: 1, rise: 1 }")
        .start();
    for _ in 0..10 {
        assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
    }
    assert!(backup.requests_for("/cat.jpg").is_empty());
    assert_eq!(hopfall.get("/dog.jpg").text(), "woof", "no source is left out before a 404");
    main.kill();
    assert_eq!(hopfall.get("/cat.jpg").text(), "MEOW");
    main.restart();
    wait_until("the main one is back", PATIENCE, || hopfall.get("/cat.jpg").text() == "meow");
}

#[test]
fn a_rejected_node_is_neither_asked_nor_checked() {
    let (a, b) = (node("a"), node("b"));
    let hopfall = Fleet::new()
        .node_with("a", a.addr(), "mode: reject")
        .node("b", b.addr())
        .pool("health: { check: http, path: /health, interval: 100ms }")
        .start();
    wait_until("the other one is checked", PATIENCE, || {
        b.requests().iter().filter(|request| request.target == "/health").count() > 5
    });
    for _ in 0..10 {
        assert_eq!(hopfall.get("/x").text(), "b");
    }
    assert!(a.requests().is_empty());
    assert_eq!(set(&hopfall, "b", "reject").code, Some(0));
    let nobody = hopfall.get("/x");
    assert_eq!((nobody.status, nobody.header("retry-after")), (503, Some("1")), "nobody has said that it is absent");
}

/// The nodes that so many clients, each of an address of its own, get their answers from, twice.
fn served(hopfall: &Hopfall, clients: usize) -> Vec<(String, String)> {
    let get = |i: usize| {
        let client = format!("192.0.2.{i}");
        hopfall.connect().request("GET", "/x", &[("X-Forwarded-For", &client)]).response().text()
    };
    let first: Vec<String> = (0..clients).map(get).collect();
    first.into_iter().zip((0..clients).map(get)).collect()
}

#[test]
fn a_client_is_served_by_its_own_node() {
    let (a, b) = (node("a"), node("b"));
    let hopfall =
        fleet(&a, &b).pool("algorithm: source").pool("from_nodes: trust").listener("trusted: [\"127.0.0.1\"]").start();
    let served = served(&hopfall, 60);
    assert!(served.iter().all(|(first, again)| first == again), "{served:?}");
    assert!(["a", "b"].iter().all(|name| served.iter().any(|(first, _)| first == name)), "{served:?}");
}

#[test]
fn a_client_of_the_table_comes_back_to_its_node() {
    let (a, b) = (node("a"), node("b"));
    let hopfall = fleet(&a, &b)
        .pool("stickiness: { kind: table }")
        .pool("from_nodes: trust")
        .listener("trusted: [\"127.0.0.1\"]")
        .start();
    // By turns, and then each as before, though the number of clients is odd.
    let served = served(&hopfall, 61);
    assert!(served.iter().all(|(first, again)| first == again), "{served:?}");
    assert!((29..=32).contains(&served.iter().filter(|(first, _)| first == "a").count()), "{served:?}");
}
