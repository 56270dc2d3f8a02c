//! Nodes that misbehave: half heads, cut bodies, wrong lengths, refused bodies that never end, interim
//! answers for ever. Nothing hangs, and nothing is glued to another response.

use std::time::{Duration, Instant};

use crate::support::client::End;
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

/// The bad node is always asked first; the good one has every file.
fn before_a_good_node(bad: &Origin, good: &Origin) -> Hopfall {
    let fleet = Fleet::new().node_with("bad", bad.addr(), "weight: 255").node("good", good.addr());
    fleet.pool("header_timeout: 300ms").pool("health: { passive: false }").start()
}

fn good() -> Origin {
    Origin::respond(|request| Reply::ok(format!("good {}", request.target)))
}

#[test]
fn an_answer_that_is_none_goes_on_to_the_next_node() {
    let cases: Vec<(&str, Reply)> = vec![
        ("closed without a byte", Reply::close()),
        ("reset", Reply::reset()),
        ("silence", Reply::hang()),
        ("no HTTP", Reply::raw("SSH-2.0-OpenSSH_9.2\r\n")),
        ("half a head", Reply::raw("HTTP/1.1 200 OK\r\nContent-Le")),
        ("a head without an end, dripped", Reply::ok("x").slow_head(Duration::from_millis(100))),
        ("a bad status", Reply::raw("HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n")),
        ("two lengths", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde")),
        ("a negative length", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")),
        (
            "chunked twice",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("chunked in HTTP/1.0", Reply::raw("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("an unknown coding", Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxx")),
        (
            "an unsolicited 101",
            Reply::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ),
        ("100s for ever", Reply::ok("x").interim(100, 1_000_000)),
        (
            "an empty chunk size",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n"),
        ),
    ];
    for (name, reply) in cases {
        let (bad, good) = (Origin::always(reply), good());
        let hopfall = before_a_good_node(&bad, &good);
        let mut client = hopfall.connect();
        for i in 0..2 {
            let path = format!("/{i}");
            let answer = client.request("GET", &path, &[]).response();
            assert_eq!((answer.status, answer.text()), (200, format!("good {path}")), "{name}");
        }
        assert!(bad.accepted() >= 1, "{name}: the bad node was not asked");
    }
}

#[test]
fn a_body_cut_short_aborts_the_client_and_is_never_completed() {
    let body = vec![b'x'; 200_000];
    let cases: Vec<(&str, Reply)> = vec![
        ("closed before its length", Reply::ok(&body).cut_after(1000)),
        ("reset before its length", Reply::ok(&body).reset_after(1000)),
        ("chunks without an end", Reply::ok(&body).chunked().cut_after(1000)),
        ("silence amid the body", Reply::ok(&body).slow_body(1000, Duration::from_secs(5))),
        (
            "a broken chunk size",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\nx")
                .slow_body(57, Duration::from_millis(50)),
        ),
        (
            "an empty chunk size",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n")
                .slow_body(57, Duration::from_millis(50)),
        ),
        (
            "no line end after a chunk",
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n")
                .slow_body(55, Duration::from_millis(50)),
        ),
    ];
    for (name, reply) in cases {
        let bad = Origin::always(reply.then_keep_alive(false));
        let hopfall = Fleet::new().node("bad", bad.addr()).pool("body_idle_timeout: 300ms").start();
        let answer = hopfall.get("/x");
        assert_eq!(answer.status, 200, "{name}");
        assert!(!answer.complete, "{name}: a part was presented as the whole");
        assert_eq!(answer.end, End::Reset, "{name}");
        assert_eq!(hopfall.wait_for_access_log(1)[0]["aborted"], "upstream", "{name}");
    }
}

#[test]
fn a_body_longer_than_its_length_is_cut_and_its_connection_not_used_again() {
    let bad = Origin::always(Reply::raw(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
    ));
    let hopfall = Fleet::new().node("bad", bad.addr()).start();
    let mut client = hopfall.connect();
    for _ in 0..5 {
        assert_eq!(client.request("GET", "/x", &[]).response().text(), "hello");
    }
    assert_eq!(bad.accepted(), 5, "a connection with bytes left over was used again");
}

#[test]
fn an_idle_connection_that_speaks_is_closed_and_not_reused() {
    let chatty = Origin::respond(|_| Reply::ok("hello"));
    let hopfall = Fleet::new().node("chatty", chatty.addr()).start();
    let mut client = hopfall.connect();
    assert_eq!(client.request("GET", "/x", &[]).response().text(), "hello");
    chatty.blurt("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen");
    wait_until("it is closed", PATIENCE, || chatty.open() == 0);
    assert_eq!(client.request("GET", "/x", &[]).response().text(), "hello");
    assert_eq!(chatty.accepted(), 2);
}

#[test]
fn a_connection_that_the_node_closed_is_not_its_failure() {
    let node = good();
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let mut client = hopfall.connect();
    for i in 0..20 {
        assert_eq!(client.request("GET", "/x", &[]).response().status, 200, "{i}");
        node.hang_up();
    }
    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_attempts_total", &[("outcome", "found")]), 20.0);
    assert_eq!(metrics.sum("hopfall_attempts_total", &[]), 20.0, "a stale connection was counted");
}

#[test]
fn a_refused_body_is_drained_within_bounds_and_costs_no_latency() {
    let cases: Vec<(&str, Reply, bool)> = vec![
        // name, what the lean node says, whether its connection can be kept
        ("a small body", Reply::status(404).body("x".repeat(150)), true),
        ("no body", Reply::status(404).body(""), true),
        ("a chunked body", Reply::status(404).body("x".repeat(150)).chunked(), true),
        ("60 KiB", Reply::status(404).body(vec![b'x'; 60 * 1024]), true),
        ("1 MiB", Reply::status(404).body(vec![b'x'; 1 << 20]), false),
        ("1 MiB in chunks", Reply::status(404).body(vec![b'x'; 1 << 20]).chunked(), false),
        ("an endless body", Reply::endless("x".repeat(1000)).with_status(404), false),
        ("a slow body", Reply::status(404).body("x".repeat(100)).slow_body(1, Duration::from_millis(100)), false),
        ("a body that never comes", Reply::status(404).announce(100).body(""), false),
    ];
    for (name, reply, kept) in cases {
        let (lean, good) = (Origin::always(reply), good());
        let hopfall = before_a_good_node(&lean, &good);
        let mut client = hopfall.connect();
        let began = Instant::now();
        for i in 0..5 {
            let path = format!("/{i}");
            let answer = client.request("GET", &path, &[]).response();
            assert_eq!((answer.status, answer.text()), (200, format!("good {path}")), "{name}");
            if kept {
                // It may be on its way back to the idle ones still.
                wait_until("the drain", PATIENCE, || lean.open() <= 2);
            }
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{name}: a slow 404 cost latency");
        assert_eq!(lean.requests().len(), 5, "{name}");
        if !kept {
            wait_until("its connections are closed", PATIENCE, || lean.open() <= 1);
        } else if name != "60 KiB" {
            assert!(lean.accepted() <= 3, "{name}: {} connections", lean.accepted());
        }
    }
}

#[test]
fn interim_answers_are_passed_over() {
    let node = Origin::always(Reply::ok("meow").interim(103, 3));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let mut client = hopfall.connect();
    for _ in 0..3 {
        assert_eq!(client.request("GET", "/x", &[]).response().text(), "meow");
    }
    assert_eq!(node.accepted(), 1);
}

#[test]
fn close_delimited_and_bodiless_answers_come_whole() {
    let node = Origin::respond(|request| match request.target.as_str() {
        "/close" => Reply::ok("until the end").until_close(),
        "/204" => Reply::status(204),
        "/304" => Reply::status(304).header("ETag", "\"x\""),
        "/old" => Reply::raw("HTTP/1.0 200 OK\r\n\r\nold"),
        _ => Reply::ok("meow").chunked(),
    });
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let mut client = hopfall.connect();
    for (path, status, body) in [
        ("/close", 200, "until the end"),
        ("/204", 204, ""),
        ("/304", 304, ""),
        ("/chunked", 200, "meow"),
        ("/old", 200, "old"),
    ] {
        let answer = client.request("GET", path, &[]).response();
        assert_eq!((answer.status, answer.text().as_str(), answer.complete), (status, body, true), "{path}");
    }
    // An HTTP/1.0 client gets no chunks.
    let mut old = hopfall.connect();
    old.send("GET /chunked HTTP/1.0\r\n\r\n");
    let answer = old.response();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("meow", None));
}

#[test]
fn hop_by_hop_fields_of_an_answer_stay_here() {
    let node = Origin::always(
        Reply::ok("meow")
            .header("Connection", "keep-alive, X-Internal")
            .header("X-Internal", "1")
            .header("Keep-Alive", "timeout=5")
            .header("X-Kept", "1"),
    );
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let answer = hopfall.connect().request("GET", "/x", &[]).response();
    assert_eq!(
        (answer.header("x-internal"), answer.header("keep-alive"), answer.header("x-kept")),
        (None, None, Some("1"))
    );
}

/// A storm of interim answers ends early, and costs no memory.
#[test]
fn a_storm_of_interim_answers_is_cut() {
    let storm = Origin::always(Reply::ok("x").interim(103, 1_000_000));
    let hopfall = Fleet::new().node("storm", storm.addr()).pool("header_timeout: 5s").start();
    let before = hopfall.rss_kib();
    let began = Instant::now();
    assert_eq!(hopfall.get("/x").status, 503);
    assert!(began.elapsed() < Duration::from_secs(4));
    assert!(hopfall.rss_kib() < before + 50 * 1024, "{} KiB more", hopfall.rss_kib() - before);
}

#[test]
fn a_length_goes_out_once_and_never_with_204() {
    let node = Origin::respond(|request| match request.target.as_str() {
        "/twice" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nmeow"),
        _ => Reply::raw("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    });
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let twice = hopfall.get("/twice");
    assert_eq!((twice.text().as_str(), twice.headers_named("content-length")), ("meow", vec!["4"]));
    let none = hopfall.get("/none");
    assert_eq!((none.status, none.header("content-length")), (204, None));
}
