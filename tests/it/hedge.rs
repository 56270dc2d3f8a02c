//! Hedging: a node that hangs must not be felt, and nothing is doubled, glued or wasted for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, becomes, wait_until};

fn hedged(fleet: Fleet) -> Fleet {
    fleet.pool("hedge: { floor: 20ms, ceiling: 100ms }").pool("from_nodes: trust").pool("header_timeout: 2s")
}

#[test]
fn a_node_that_hangs_is_not_felt() {
    let mut frozen = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let other = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let hopfall = hedged(Fleet::new().node("frozen", frozen.addr()).node("other", other.addr())).start();
    let web = hopfall.web();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(web);
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = client.request("GET", "/cat.jpg", &[]).response();
                    assert_eq!((answer.status, answer.text().as_str()), (200, "meow"));
                    took.push(began.elapsed());
                }
                took
            })
        })
        .collect();
    wait_until("some requests", PATIENCE, || frozen.requests().len() > 50);
    frozen.stop();
    let end = Instant::now() + Duration::from_millis(3500);
    becomes(Duration::from_secs(10), || Instant::now() >= end);
    frozen.cont();
    stop.store(true, Ordering::Relaxed);
    let mut took: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    println!("{} requests through a hang of 3.5 s: p99 {p99:?}, longest {:?}", took.len(), took.last().unwrap());
    // No request waited for the timeout of 2 s. (How fast they were is the benchmark's to say.)
    assert!(took.last().unwrap() < &Duration::from_millis(1500), "{:?}", took.last());
    hopfall.wait_for_log("node frozen of pool images keeps silent");
    let metrics = hopfall.metrics();
    assert!(metrics.value("hopfall_hedges_total", &[("node", "frozen"), ("won", "second")]) >= 3.0);
    assert!(metrics.value("hopfall_attempts_total", &[("node", "frozen"), ("outcome", "dropped")]) >= 3.0);
}

#[test]
fn the_first_good_head_wins_whoever_sends_it() {
    let slow = |body: &'static str, status, ms| {
        Origin::always(Reply::status(status).body(body).delay(Duration::from_millis(ms)))
    };
    // the slow first node, the second one, what the client gets
    let cases = [
        (slow("first", 200, 400), slow("second", 200, 0), 200, "second"),
        (slow("first", 200, 300), slow("second", 404, 0), 200, "first"),
        (slow("first", 404, 300), slow("second", 200, 300), 200, "second"),
        (slow("first", 404, 300), slow("second", 404, 0), 404, "404 Not Found\n"),
        (slow("first", 200, 200), slow("second", 200, 900), 200, "first"),
    ];
    for (i, (first, second, status, body)) in cases.into_iter().enumerate() {
        let fleet = Fleet::new().node_with("first", first.addr(), "weight: 255").node("second", second.addr());
        let hopfall = hedged(fleet).start();
        let mut client = hopfall.connect();
        for _ in 0..2 {
            let answer = client.request("GET", "/x", &[]).response();
            assert_eq!((answer.status, answer.text().as_str(), answer.complete), (status, body, true), "case {i}");
        }
        assert!(first.requests().len() <= 2 && second.requests().len() <= 2, "case {i}: a node was asked twice");
    }
}

/// A node whose ejection is over is tried by what is hedged with it: to look at it is not to ask it.
#[test]
fn a_node_on_trial_is_hedged_with() {
    let slow = Origin::always(Reply::ok("slow").delay(Duration::from_millis(400)));
    let failing = Arc::new(AtomicBool::new(true));
    let fails = failing.clone();
    let back = Origin::respond(move |_| match fails.load(Ordering::Relaxed) {
        true => Reply::status(500),
        false => Reply::ok("back"),
    });
    let fleet = Fleet::new().node_with("slow", slow.addr(), "weight: 255").node("back", back.addr());
    let hopfall = hedged(fleet).pool("health: { fall: 1, eject_for: 1s }").start();
    let mut client = hopfall.connect();
    assert_eq!(client.request("GET", "/x", &[]).response().text(), "slow");
    let up = || hopfall.metrics().value("hopfall_node_up", &[("node", "back")]);
    assert_eq!(up(), 0.0);
    failing.store(false, Ordering::Relaxed);
    let asked = back.requests().len();
    wait_until("its ejection is over", PATIENCE, || client.request("GET", "/x", &[]).response().text() == "back");
    assert_eq!((back.requests().len() - asked, up()), (1, 1.0));
}

#[test]
fn a_write_is_never_hedged_and_neither_is_a_store() {
    let slow = Origin::always(Reply::ok("slow").delay(Duration::from_millis(400)));
    let other = Origin::always(Reply::ok("other"));
    let fleet = Fleet::new().node_with("slow", slow.addr(), "weight: 255").node("other", other.addr());
    let hopfall = hedged(fleet).start();
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(hopfall.connect().upload(method, "/x", &[], b"hello").response().text(), "slow");
    }
    assert_eq!((slow.requests().len(), other.requests().len()), (3, 0));

    let store = Origin::always(Reply::status(404).body("<Error><Code>NoSuchKey</Code></Error>"));
    let hopfall = hedged(Fleet::new().node("slow", slow.addr()).store("cats", store.addr(), "AK", "SK")).start();
    assert_eq!(hopfall.get("/x").text(), "slow");
    assert!(store.requests().iter().all(|request| request.target.contains("probe")));
}

#[test]
fn it_costs_nothing_when_all_is_well_and_has_a_budget_when_not() {
    let (a, b) = (Nginx::with_files(&[("cat.jpg", b"x")]), Nginx::with_files(&[("cat.jpg", b"x")]));
    let hopfall = hedged(Fleet::new().node("a", a.addr()).node("b", b.addr())).start();
    let mut client = hopfall.connect();
    for _ in 0..500 {
        client.request("GET", "/cat.jpg", &[]).response();
    }
    let hedges = hopfall.metrics().sum("hopfall_hedges_total", &[]);
    let asked = a.requests().len() + b.requests().len();
    assert!(asked as f64 <= 500.0 + hedges, "{asked} requests to the nodes");
    assert!(hedges <= 25.0, "{hedges} of 500 requests were hedged");
}
