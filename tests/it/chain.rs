//! The chain between real nginx nodes and a real S3 server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::ports;
use crate::support::seaweed::Seaweed;
use crate::support::wait::{PATIENCE, wait_until};

/// "lean" has cat.jpg; "full" has cat.jpg and dog.jpg; the bucket has fox.jpg.
fn fleet(bucket: &str) -> (Nginx, Nginx, Fleet) {
    let lean = Nginx::with_files(&[("cat.jpg", b"0123456789")]);
    let full = Nginx::with_files(&[("cat.jpg", b"0123456789"), ("dog.jpg", b"abcdefghij")]);
    let s3 = Seaweed::shared();
    s3.bucket(bucket).put(bucket, "fox.jpg", b"ABCDEFGHIJ", "image/jpeg");
    let fleet = Fleet::new().node("lean", lean.addr()).node("full", full.addr()).s3(bucket);
    (lean, full, fleet)
}

#[test]
fn a_file_is_found_wherever_it_is() {
    let (lean, full, fleet) = fleet("found");
    let hopfall = fleet.start();
    // Twice, so that each node is once the first.
    for _ in 0..2 {
        for (path, status, body) in [
            ("/cat.jpg", 200, "0123456789"),
            ("/dog.jpg", 200, "abcdefghij"),
            ("/fox.jpg", 200, "ABCDEFGHIJ"),
            ("/nowhere.jpg", 404, "404 Not Found\n"),
        ] {
            let answer = hopfall.get(path);
            assert_eq!((answer.status, answer.text().as_str(), answer.complete), (status, body, true), "{path}");
            let head = hopfall.head(path);
            assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
            assert_eq!(head.header("content-length"), Some(body.len().to_string().as_str()), "{path}");
        }
    }
    assert_eq!(hopfall.get("/fox.jpg").header("content-type"), Some("image/jpeg"));
    assert_eq!(hopfall.get("/nowhere.jpg").header("cache-control"), Some("max-age=10"));

    let log = hopfall.wait_for_access_log(18);
    let fox = log.iter().find(|line| line["target"] == "/fox.jpg").unwrap();
    assert_eq!(fox["served_by"], "s3");
    assert_eq!(fox["hops"].as_str().unwrap().split(' ').count(), 3, "{fox}");
    // No request was sent to a node twice for one of a client.
    for node in [&lean, &full] {
        assert_eq!(node.requests_for("/nowhere.jpg").len(), 5);
        assert_eq!(node.requests_for("/fox.jpg").len(), 5);
    }
    let metrics = hopfall.metrics();
    assert_eq!(metrics.sum("hopfall_attempts_total", &[("outcome", "error")]), 0.0);
    assert_eq!(metrics.value("hopfall_requests_total", &[("code", "404"), ("served_by", "hopfall")]), 5.0);
    assert_eq!(metrics.sum("hopfall_fallbacks_total", &[("to", "s3"), ("reason", "absent")]), 10.0);
}

#[test]
fn ranges_and_conditions_go_through_every_hop() {
    let (_lean, _full, fleet) = fleet("ranges");
    let hopfall = fleet.start();
    for (path, part) in [("/cat.jpg", "234"), ("/dog.jpg", "cde"), ("/fox.jpg", "CDE")] {
        let mut client = hopfall.connect();
        // Until both nodes have been first.
        for _ in 0..2 {
            let whole = client.request("GET", path, &[]).response();
            let etag = whole.header("etag").unwrap().to_owned();
            let modified = whole.header("last-modified").unwrap().to_owned();

            let some = client.request("GET", path, &[("Range", "bytes=2-4")]).response();
            assert_eq!((some.status, some.text().as_str()), (206, part), "{path}");
            assert_eq!(some.header("content-range"), Some("bytes 2-4/10"), "{path}");

            let beyond = client.request("GET", path, &[("Range", "bytes=100-")]).response();
            assert_eq!(beyond.status, 416, "{path}");

            let same = client.request("GET", path, &[("If-None-Match", &etag)]).response();
            assert_eq!((same.status, same.body.len()), (304, 0), "{path}");
            let same = client.request("GET", path, &[("If-Modified-Since", &modified)]).response();
            assert_eq!(same.status, 304, "{path}");
            let head = client.request("HEAD", path, &[("If-None-Match", &etag)]).response();
            assert_eq!(head.status, 304, "{path}");

            let fresh = client.request("GET", path, &[("Range", "bytes=2-4"), ("If-Range", &etag)]).response();
            assert_eq!((fresh.status, fresh.text().as_str()), (206, part), "{path}");
            let stale = client.request("GET", path, &[("Range", "bytes=2-4"), ("If-Range", "\"other\"")]).response();
            assert_eq!((stale.status, stale.body.len()), (200, 10), "{path}");
        }
    }
}

/// The proof that a 404 hop costs no TCP connection.
#[test]
fn a_thousand_fallbacks_open_at_most_two_connections_to_each_node() {
    for method in ["GET", "HEAD"] {
        let (lean, full, fleet) = fleet("reuse");
        let hopfall = fleet.start();
        let mut client = hopfall.connect();
        for _ in 0..1000 {
            assert_eq!(client.request(method, "/dog.jpg", &[]).response().status, 200);
        }
        assert!(lean.requests().len() >= 500, "the lean node was first half of the time");
        assert_eq!(full.requests().len(), 1000);
        assert!(lean.connections() <= 2, "{method}: {} connections to the lean node", lean.connections());
        assert!(full.connections() <= 2, "{method}: {} connections to the full node", full.connections());
    }
}

#[test]
fn a_thousand_s3_tails_open_at_most_two_connections_to_each_target() {
    for method in ["GET", "HEAD"] {
        let (lean, full, fleet) = fleet("reuse-tail");
        let hopfall = fleet.start();
        let mut client = hopfall.connect();
        for _ in 0..1000 {
            assert_eq!(client.request(method, "/fox.jpg", &[]).response().status, 200);
        }
        for node in [&lean, &full] {
            assert_eq!(node.requests().len(), 1000);
            assert!(node.connections() <= 2, "{method}: {} connections", node.connections());
        }
        let connects = hopfall.metrics().value("hopfall_upstream_connects_total", &[("node", "s3")]);
        // One more for the probe of the bucket at start.
        assert!(connects <= 3.0, "{method}: {connects} connections to S3");
    }
}

#[test]
fn weights_share_out_the_first_requests() {
    let (a, b) = (Nginx::with_files(&[("cat.jpg", b"x")]), Nginx::with_files(&[("cat.jpg", b"x")]));
    let fleet = Fleet::new().node_with("a", a.addr(), "weight: 3").node_with("b", b.addr(), "weight: 1");
    let hopfall = fleet.start();
    let mut client = hopfall.connect();
    for _ in 0..200 {
        client.request("GET", "/cat.jpg", &[]).response();
    }
    assert_eq!((a.requests().len(), b.requests().len()), (150, 50));
}

#[test]
fn a_node_that_is_away_is_passed_over_and_what_may_be_on_it_is_not_404() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let nobody = ports::free("127.0.0.1");
    let hopfall = Fleet::new().node("away", nobody).node("here", node.addr()).start();
    for _ in 0..10 {
        assert_eq!(hopfall.get("/cat.jpg").status, 200);
        let missing = hopfall.get("/dog.jpg");
        assert_eq!(missing.status, 503, "it may be on the node that is away");
        assert_eq!(missing.header("retry-after"), Some("1"));
        assert_eq!(missing.header("cache-control"), Some("no-store"));
    }
    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_node_up", &[("node", "away")]), 0.0);
    assert_eq!(metrics.value("hopfall_node_up", &[("node", "here")]), 1.0);
    hopfall.wait_for_log("node away of pool images is down");
}

/// Requests while `disturb` does something to a node; gives how many there were and those that failed.
fn under_load(web: std::net::SocketAddr, path: &'static str, disturb: impl FnOnce()) -> (usize, Vec<String>) {
    let stop = Arc::new(AtomicBool::new(false));
    let loaders: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut sent, mut failed) = (0, Vec::new());
                let mut client = Client::connect(web);
                let end = Instant::now() + Duration::from_secs(20);
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    let answer = client.request("GET", path, &[]).response();
                    sent += 1;
                    if answer.status != 200 || answer.text() != "meow" || !answer.complete {
                        failed.push(format!("{} {:?}", answer.status, answer.end));
                    }
                }
                (sent, failed)
            })
        })
        .collect();
    disturb();
    stop.store(true, Ordering::Relaxed);
    let mut all = (0, Vec::new());
    for loader in loaders {
        let (sent, failed) = loader.join().unwrap();
        all.0 += sent;
        all.1.extend(failed);
    }
    all
}

#[test]
fn a_node_killed_under_load_fails_no_get() {
    let mut mortal = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let other = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let hopfall = Fleet::new().node("mortal", mortal.addr()).node("other", other.addr()).start();
    let (sent, failed) = under_load(hopfall.web(), "/cat.jpg", || {
        wait_until("some requests", PATIENCE, || mortal.requests().len() > 50);
        mortal.kill();
        let before = other.requests().len();
        wait_until("more requests", PATIENCE, || other.requests().len() > before + 200);
        mortal.restart();
        wait_until("it is asked again", Duration::from_secs(30), || mortal.requests().len() > 60);
    });
    assert!(sent > 200);
    assert!(failed.is_empty(), "{} of {sent} failed: {failed:?}", failed.len());
}

#[test]
fn a_node_stopped_under_load_fails_no_get() {
    let mut frozen = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let other = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let fleet = Fleet::new().node("frozen", frozen.addr()).node("other", other.addr()).pool("header_timeout: 300ms");
    let hopfall = fleet.start();
    let (sent, failed) = under_load(hopfall.web(), "/cat.jpg", || {
        wait_until("some requests", PATIENCE, || frozen.requests().len() > 50);
        frozen.stop();
        hopfall.wait_for_log("node frozen of pool images is down");
        let before = other.requests().len();
        wait_until("more requests", PATIENCE, || other.requests().len() > before + 200);
        frozen.cont();
    });
    assert!(sent > 200);
    assert!(failed.is_empty(), "{} of {sent} failed: {failed:?}", failed.len());
    assert!(hopfall.metrics().sum("hopfall_attempts_total", &[("node", "frozen"), ("outcome", "broken")]) >= 3.0);
}

#[test]
fn a_status_in_fallback_on_goes_on_and_another_is_served() {
    let cases: &[(&str, u16, u16)] = &[
        // the pool's keys, what the first node says, what the client gets
        ("", 500, 200),
        ("", 502, 200),
        ("", 503, 200),
        ("", 429, 200),
        ("", 404, 200),
        ("", 410, 410),
        ("", 403, 403),
        ("", 401, 401),
        ("", 301, 301),
        ("", 501, 501),
        ("fallback_on: [404, 410]", 410, 200),
        ("fallback_on: [404, 410]", 502, 502),
        ("on_403: next", 403, 200),
    ];
    for (keys, said, got) in cases {
        let first = Origin::always(Reply::status(*said));
        let second = Origin::always(Reply::ok("x"));
        let mut fleet = Fleet::new().node_with("first", first.addr(), "weight: 255").node("second", second.addr());
        if !keys.is_empty() {
            fleet = fleet.pool(keys);
        }
        let hopfall = fleet.start();
        assert_eq!(hopfall.get("/x").status, *got, "{keys} {said}");
        assert_eq!(first.requests().len(), 1, "{keys} {said}");
    }
}

#[test]
fn the_deadline_is_504_and_the_attempt_budget_503() {
    let (slow, slower) = (Origin::always(Reply::hang()), Origin::always(Reply::hang()));
    let fleet = Fleet::new().node("slow", slow.addr()).node("slower", slower.addr()).pool("header_timeout: 400ms");
    let hopfall = fleet.pool("health: { fall: 1 }").route("deadline: 500ms").start();
    let began = Instant::now();
    let answer = hopfall.get("/x");
    assert_eq!(answer.status, 504);
    assert!(answer.header("proxy-status").unwrap().contains("http_response_timeout"));
    assert!(began.elapsed() < Duration::from_secs(2));
    let metrics = hopfall.metrics();
    let up = |node| metrics.value("hopfall_node_up", &[("node", node)]);
    assert_eq!((up("slow"), up("slower")), (0.0, 1.0), "who was given no time has not failed");
    assert_eq!(metrics.value("hopfall_attempts_total", &[("node", "slower"), ("outcome", "dropped")]), 1.0);

    // Nor is a queue waited in for longer.
    let hang = Origin::always(Reply::hang());
    let fleet = Fleet::new().node("hang", hang.addr()).pool("header_timeout: 400ms").pool("max_in_flight: 1");
    let hopfall = fleet.pool("queue_timeout: 20s").route("deadline: 500ms").start();
    let (mut first, mut second) = (hopfall.connect(), hopfall.connect());
    first.request("GET", "/x", &[]);
    wait_until("it has the only place", PATIENCE, || hang.requests().len() == 1);
    let began = Instant::now();
    assert_eq!(second.request("GET", "/y", &[]).response().status, 504);
    assert!(began.elapsed() < Duration::from_secs(5));

    let (a, b) = (Nginx::with_files(&[]), Nginx::with_files(&[]));
    let hopfall = Fleet::new().node("a", a.addr()).node("b", b.addr()).route("attempts: 1").start();
    assert_eq!(hopfall.get("/x").status, 503, "the other node was not asked");
}

/// RFC 9110 §15.5.9: it is about the connection, and says nothing of the request that was on its way.
#[test]
fn a_408_on_an_idle_connection_is_not_the_answer() {
    let asked = AtomicUsize::new(0);
    let node = Origin::respond(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        1 => Reply::status(408).then_keep_alive(false),
        _ => Reply::ok("meow"),
    });
    let hopfall = Fleet::new().node("node", node.addr()).start();
    assert_eq!(hopfall.get("/x").text(), "meow");
    assert_eq!(hopfall.get("/x").text(), "meow");
    assert_eq!((node.requests().len(), node.accepted()), (3, 2));
    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_attempts_total", &[("node", "node"), ("outcome", "found")]), 2.0);
}

#[test]
fn two_pools_that_share_a_node_ask_it_once() {
    let (a, b) = (Nginx::with_files(&[]), Nginx::with_files(&[]));
    let yaml = format!(
        "listeners: [{{ name: web, address: \"{{web}}\", route: r }}]
pools:
  near: {{ nodes: [{{ name: a, address: \"{a}\" }}] }}
  far: {{ nodes: [{{ name: a-again, address: \"{a}\" }}, {{ name: b, address: \"{b}\" }}] }}
routes:
  r: {{ chain: [near, far] }}
admin: {{ address: \"{{admin}}\" }}
",
        a = a.addr(),
        b = b.addr()
    );
    let hopfall = crate::support::hopfall::Hopfall::start(&yaml);
    assert_eq!(get(hopfall.web(), "/x").status, 404);
    assert_eq!((a.requests().len(), b.requests().len()), (1, 1));
}

#[test]
fn an_ejected_node_is_up_again_once_it_serves() {
    let mut node = Nginx::with_files(&[("cat.jpg", b"x")]);
    let other = Nginx::with_files(&[]);
    let fleet = Fleet::new().node("ejected", node.addr()).node("other", other.addr());
    let hopfall = fleet.pool("health: { eject_for: 300ms }").start();
    let up = || hopfall.metrics().value("hopfall_node_up", &[("node", "ejected")]);
    node.kill();
    wait_until("it is ejected", PATIENCE, || {
        hopfall.get("/cat.jpg");
        up() == 0.0
    });
    node.restart();
    wait_until("it is up again", PATIENCE, || {
        hopfall.get("/cat.jpg");
        up() == 1.0
    });
    hopfall.wait_for_log("node ejected of pool images is up");
}

/// Else each time that an ejection ends, a share of all clients waits for as long as the node may be silent.
#[test]
fn a_node_that_still_hangs_is_tried_by_one_request_at_a_time() {
    const CLIENTS: usize = 8;
    let well = Origin::always(Reply::ok("x").delay(Duration::from_millis(5)));
    let hung = Origin::always(Reply::hang());
    let fleet = Fleet::new().node("hung", hung.addr()).node("well", well.addr());
    let hopfall = fleet.pool("header_timeout: 1s").pool("health: { fall: 3, eject_for: 1s }").start();
    wait_until("it is ejected", PATIENCE, || {
        hopfall.get("/first");
        hopfall.metrics().value("hopfall_node_up", &[("node", "hung")]) == 0.0
    });
    let before = hung.requests().len();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = hopfall.connect();
            scope.spawn(move || {
                for i in (0..).take_while(|_| began.elapsed() < Duration::from_secs(5)) {
                    let answer = connection.request("GET", &format!("/{client}-{i}"), &[]).response();
                    assert_eq!(answer.status, 200);
                }
            });
        }
    });
    let (tried, took) = (hung.requests().len() - before, began.elapsed());
    assert!(
        (1..=took.as_secs() + 1).contains(&(tried as u64)),
        "{tried} requests tried it in {took:?}, where one a second may"
    );
}

/// A disk that is not mounted answers fast 404s: the node is asked last, and never taken out.
#[test]
fn a_node_that_suddenly_lacks_everything_is_asked_last() {
    let (a, b) = (Nginx::with_files(&[("cat.jpg", b"x")]), Nginx::with_files(&[("cat.jpg", b"x")]));
    let hopfall = Fleet::new().node("a", a.addr()).node("b", b.addr()).start();
    let mut client = hopfall.connect();
    let mut ask = |count: usize| {
        (0..count).for_each(|_| assert_eq!(client.request("GET", "/cat.jpg", &[]).response().status, 200));
    };
    ask(1100);
    a.remove("cat.jpg");
    ask(1200);
    hopfall.wait_for_log("node a of pool images suddenly lacks all");
    let before = a.requests().len();
    ask(100);
    assert_eq!(a.requests().len(), before, "it is asked last");
    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_node_absence_suspect", &[("node", "a")]), 1.0);
    assert_eq!(metrics.value("hopfall_node_up", &[("node", "a")]), 1.0);
    // What only it has is still found.
    a.put("dog.jpg", b"woof");
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
}
