//! Bounds: what a slow, idle, greedy or stalled peer can cost. (Pingora has no bound, or an unsafe one, on
//! each of these by default.)

use std::time::{Duration, Instant};

use crate::support::blackhole::Blackhole;
use crate::support::client::{Client, End};
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, becomes, wait_until};

fn node() -> Origin {
    Origin::always(Reply::ok("meow"))
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_unfinished_head_is_cut() {
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("header_timeout: 500ms").start();

    let mut silent = hopfall.connect();
    assert!(silent.closes_within(SOON), "a connection without a byte");

    let mut partial = hopfall.connect();
    partial.send("GET / HTTP/1.1\r\nHost:");
    assert!(partial.closes_within(SOON), "half a head");

    // A byte now and then does not move the deadline.
    for first in ["", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut dripping = hopfall.connect();
        if !first.is_empty() {
            dripping.request("GET", "/1", &[]);
            assert_eq!(dripping.response().status, 200);
        }
        dripping.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        let began = Instant::now();
        let cut =
            becomes(SOON, || dripping.try_send("x").is_err() || dripping.closes_within(Duration::from_millis(50)));
        assert!(cut, "a dripped head (after {first:?})");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    assert!(node.requests().len() <= 1);
}

#[test]
fn an_idle_connection_is_closed() {
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("idle_timeout: 500ms").start();
    let mut client = hopfall.connect();
    assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
    assert!(client.closes_within(SOON));
}

#[test]
fn a_connection_ends_after_its_share_of_requests() {
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("requests_per_connection: 3").start();
    let mut client = hopfall.connect();
    let mut served = 0;
    while served < 10 {
        client.request("GET", "/x", &[]);
        match client.try_response() {
            Ok(answer) if answer.status == 200 => served += 1,
            _ => break,
        }
    }
    assert!((3..=4).contains(&served), "{served} requests");
}

#[test]
fn further_connections_wait_for_a_place() {
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("max_connections: 2").start();
    let (mut first, mut second) = (hopfall.connect(), hopfall.connect());
    assert_eq!(first.request("GET", "/x", &[]).response().status, 200);
    assert_eq!(second.request("GET", "/x", &[]).response().status, 200);
    let mut third = hopfall.connect();
    third.timeout(Duration::from_millis(300)).request("GET", "/x", &[]);
    assert!(third.try_response().is_err(), "it must wait");
    drop(first);
    assert_eq!(third.timeout(PATIENCE).response().status, 200);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let node = Origin::always(Reply::ok("meow").delay(Duration::from_millis(200)));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    for method in ["GET", "POST"] {
        let mut client = hopfall.connect();
        client.request(method, "/x", &[("Content-Length", "0")]).half_close();
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "meow"), "{method}");
    }
}

#[test]
fn a_request_shorter_than_http_2s_preface_is_answered() {
    let node = node();
    for http2 in ["true", "false"] {
        let hopfall = Fleet::new().node("node", node.addr()).listener(&format!("http2: {http2}")).start();
        let mut client = hopfall.connect();
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(client.response().text(), "meow", "http2: {http2}");
    }
}

#[test]
fn a_node_that_accepts_nothing_is_passed_over_in_the_connect_time() {
    let (hole, good) = (Blackhole::open(), node());
    let fleet = Fleet::new().node_with("hole", hole.addr(), "weight: 255").node("good", good.addr());
    let hopfall = fleet.pool("connect_timeout: 300ms").start();
    let began = Instant::now();
    assert_eq!(hopfall.get("/x").status, 200);
    assert!(began.elapsed() < SOON);
    assert!(hopfall.wait_for_access_log(1)[0]["hops"].as_str().unwrap().contains("hole:connection_timeout"));
}

#[test]
fn requests_in_flight_are_capped_and_the_queue_is_bounded() {
    let slow = Origin::always(Reply::ok("meow").delay(Duration::from_millis(600)));
    let fleet =
        Fleet::new().node("slow", slow.addr()).pool("max_in_flight: 2").pool("queue: 2").pool("queue_timeout: 300ms");
    let hopfall = fleet.pool("from_nodes: trust").start();
    let clients: Vec<_> = (0..8)
        .map(|i| {
            let mut client = hopfall.connect();
            client.request("GET", &format!("/{i}"), &[]);
            client
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|mut client| client.response().status).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    let busy = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!((served, busy), (2, 6), "{statuses:?}");
    assert_eq!(slow.accepted(), 2);
    assert_eq!(hopfall.metrics().value("hopfall_attempts_total", &[("outcome", "busy")]), 6.0);
    // A full node is asked for nothing and blamed for nothing.
    assert_eq!(hopfall.metrics().value("hopfall_node_up", &[("node", "slow")]), 1.0);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let body = vec![b'x'; 32 << 20];
    let node = Origin::always(Reply::ok(&body));
    let hopfall = Fleet::new().node("node", node.addr()).listener("stall_timeout: 500ms").start();
    let mut client = hopfall.connect();
    client.request("GET", "/x", &[]);
    // It reads nothing, and hopfall gives up on it.
    let log = hopfall.wait_for_access_log(1);
    assert_eq!(log[0]["aborted"], "client");
    let answer = client.response();
    assert!(!answer.complete);
}

#[test]
fn a_transfer_has_a_deadline() {
    let node = Origin::always(Reply::ok(vec![b'x'; 1 << 20]).slow_body(1000, Duration::from_millis(100)));
    let fleet = Fleet::new().node("node", node.addr()).route("transfer_deadline: 800ms").route("deadline: 5s");
    let hopfall = fleet.start();
    let answer = hopfall.get("/x");
    assert_eq!((answer.status, answer.complete, answer.end), (200, false, End::Reset));
    assert_eq!(hopfall.wait_for_access_log(1)[0]["aborted"], "deadline");

    // An upload that trickles on has it too.
    let mut client = hopfall.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let began = Instant::now();
    let cut = becomes(SOON, || client.try_send("x").is_err() || client.closes_within(Duration::from_millis(50)));
    assert!(cut && began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn an_upload_that_stalls_is_cut() {
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("stall_timeout: 500ms").start();
    let mut client = hopfall.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
    let began = Instant::now();
    let _ = client.try_response();
    assert!(client.closes_within(SOON));
    assert!(began.elapsed() < SOON);
}

#[test]
fn an_upload_beyond_its_bound_is_413() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("node", node.addr()).listener("body_bytes: 1000").start();
    let mut client = hopfall.connect();
    assert_eq!(client.upload("POST", "/x", &[], &[b'x'; 1001]).response().status, 413);
    let mut client = hopfall.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..3 {
        let _ = client.try_send(format!("1f4\r\n{}\r\n", "x".repeat(500)));
    }
    assert_eq!(client.response().status, 413);
}

/// Else anybody could bring the nodes down.
#[test]
fn an_upload_beyond_its_bound_is_no_fault_of_the_node() {
    let (a, b) = (Origin::always(Reply::ok("x")), Origin::always(Reply::ok("x")));
    let fleet = Fleet::new().node("a", a.addr()).node("b", b.addr()).listener("body_bytes: 1000");
    let hopfall = fleet.pool("health: { fall: 1 }").start();
    for _ in 0..4 {
        let mut client = hopfall.connect();
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let _ = client.try_send(format!("1f4\r\n{}\r\n", "x".repeat(500)));
        }
        assert_eq!(client.response().status, 413);
    }
    let metrics = hopfall.metrics();
    assert_eq!(metrics.sum("hopfall_attempts_total", &[("outcome", "dropped")]), 4.0);
    assert_eq!(metrics.sum("hopfall_node_up", &[]), 2.0);
}

#[test]
fn a_client_that_gives_its_upload_up_is_no_warning() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    for expect in [&[][..], &[("Expect", "100-continue")]] {
        let mut client = hopfall.connect();
        client.request("PUT", "/x", &[&[("Content-Length", "100")], expect].concat()).send("meow");
        wait_until("it is under way", SOON, || node.open() == 1);
        drop(client);
        wait_until("it has ended", SOON, || node.open() == 0);
    }
    wait_until("both are told", SOON, || hopfall.access_log().len() == 2);
    for line in hopfall.access_log() {
        assert_eq!((line["status"].as_u64(), line["aborted"].as_str()), (Some(0), Some("client")), "{line}");
    }
    assert!(!hopfall.log().contains("without an answer"), "{}", hopfall.log());
}

/// At most 40 KiB of resident memory for each idle client connection.
#[test]
fn idle_connections_are_cheap() {
    const COUNT: usize = 1000;
    let node = node();
    let hopfall = Fleet::new().node("node", node.addr()).start();
    // Once before, so that what is paid once is paid.
    hopfall.get("/x");
    let before = hopfall.rss_kib();
    let clients: Vec<Client> = (0..COUNT)
        .map(|_| {
            let mut client = hopfall.connect();
            assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
            client
        })
        .collect();
    let each = (hopfall.rss_kib().saturating_sub(before)) as f64 / COUNT as f64;
    println!("{each:.1} KiB per idle connection");
    assert!(each <= 8.0, "{each:.1} KiB per idle connection");
    drop(clients);
    wait_until("they are gone", PATIENCE, || {
        hopfall.metrics().value("hopfall_client_connections", &[("listener", "web")]) == 0.0
    });
}

/// 200 slow readers of a 64 MiB object keep the process below 200 MiB.
#[test]
fn slow_readers_of_a_large_object_cost_no_memory() {
    let size = 64 << 20;
    let node = Nginx::builder().file("large.bin", vec![b'x'; size]).start();
    let hopfall =
        Fleet::new().node("node", node.addr()).pool("max_in_flight: 1000").pool("body_idle_timeout: 30s").start();
    let mut readers: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = hopfall.connect();
            // The kernel would take megabytes for each, and these gigabytes have to be carried first.
            client.hold_at_most(64 << 10).request("GET", "/large.bin", &[]);
            client
        })
        .collect();
    let mut peak = 0;
    for _ in 0..5 {
        for reader in &mut readers {
            assert!(!reader.read_some(10_000).unwrap().is_empty());
        }
        peak = peak.max(hopfall.rss_kib());
    }
    println!("peak RSS {} MiB with 200 slow readers", peak / 1024);
    assert!(peak < 200 * 1024, "{} MiB", peak / 1024);
    drop(readers);
    // One of them, read to its end, is whole.
    let whole = hopfall.get("/large.bin");
    assert_eq!((whole.body.len(), whole.complete), (size, true));
}

/// A reader that is slow and steady is not taken for one that stalls.
#[test]
fn a_steady_slow_reader_is_served() {
    let node = Origin::always(Reply::ok(vec![b'x'; 8 << 20]));
    let hopfall = Fleet::new().node("node", node.addr()).listener("stall_timeout: 1s").start();
    let mut client = hopfall.connect();
    client.request("GET", "/x", &[]);
    let began = Instant::now();
    let mut read = 0;
    // 100 KiB at a time, ten times a second: for the kernel's megabytes that would be a stall.
    while began.elapsed() < Duration::from_secs(4) {
        let next = Instant::now() + Duration::from_millis(100);
        read += client.read_some(100 * 1024).unwrap().len();
        becomes(Duration::from_millis(100), || Instant::now() >= next);
    }
    assert!(read > 1 << 20, "{read}");
    assert!(hopfall.access_log().is_empty(), "it was cut: {:?}", hopfall.access_log());
}

#[test]
fn a_head_that_is_never_finished_is_counted_and_an_idle_client_that_leaves_is_not() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let unfinished = || hopfall.metrics().value("hopfall_unfinished_heads_total", &[("listener", "web")]);
    drop(hopfall.connect());
    let mut served = hopfall.connect();
    assert_eq!(served.request("GET", "/x", &[]).response().status, 200);
    drop(served);
    let mut cut = hopfall.connect();
    cut.send("GET /x HTTP/1.1\r\nHost:");
    drop(cut);
    wait_until("it is counted", PATIENCE, || unfinished() >= 1.0);
    wait_until("all have left", PATIENCE, || {
        hopfall.metrics().value("hopfall_client_connections", &[("listener", "web")]) == 0.0
    });
    assert_eq!(unfinished(), 1.0);
}
