//! The harness tested: a test that passes because its server did nothing proves nothing.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::blackhole::Blackhole;
use crate::support::client::{Client, End, Response, get, head};
use crate::support::curl::curl;
use crate::support::metrics::Metrics;
use crate::support::nginx::{HeaderMode, Nginx};
use crate::support::origin::{BEYOND_SCRIPT, Origin, Reply};
use crate::support::ports;
use crate::support::seaweed::Seaweed;
use crate::support::wait::{PATIENCE, becomes, wait_until};

#[test]
fn nginx_serves_and_counts_requests_and_connections() {
    let node = Nginx::builder()
        .file("cat.jpg", b"meow")
        .file("a/b.txt", b"0123456789")
        .extra_server_lines("location = /teapot { return 418; }")
        .start();

    let mut client = Client::connect(node.addr());
    for _ in 0..3 {
        assert_eq!(client.request("GET", "/cat.jpg", &[("Via", "1.1 x")]).response().text(), "meow");
    }
    assert_eq!(client.request("GET", "/a/b.txt", &[("Range", "bytes=2-4")]).response().text(), "234");
    assert_eq!(client.request("HEAD", "/cat.jpg", &[]).response().header("content-length"), Some("4"));
    assert_eq!(get(node.addr(), "/dog.jpg").status, 404);
    assert_eq!(head(node.addr(), "/teapot").status, 418);

    let requests = node.requests();
    assert_eq!(requests.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 200, 200, 206, 200, 404, 418]);
    assert_eq!(requests[0].header("via"), Some("1.1 x"));
    assert_eq!(requests[4].header("via"), None);
    assert_eq!(node.requests_for("/cat.jpg").len(), 4);
    assert_eq!(node.connections(), 3);
    node.forget();
    assert_eq!(node.connections(), 0);

    node.put("dog.jpg", b"woof");
    assert_eq!(get(node.addr(), "/dog.jpg").text(), "woof");
    node.remove("dog.jpg");
    assert_eq!(get(node.addr(), "/dog.jpg").status, 404);
}

#[test]
fn nginx_can_be_stopped_continued_killed_and_restarted() {
    let mut node = Nginx::at("127.0.0.2").file("cat.jpg", b"meow").start();
    assert_eq!(node.addr().ip().to_string(), "127.0.0.2");

    node.stop();
    let mut client = Client::connect(node.addr()); // by the kernel
    client.timeout(Duration::from_millis(200)).request("GET", "/cat.jpg", &[]);
    assert_eq!(client.try_response().unwrap_err().kind(), ErrorKind::WouldBlock);
    node.cont();
    assert_eq!(client.timeout(PATIENCE).response().text(), "meow");
    assert_eq!(node.requests().len(), 1);

    node.kill();
    assert!(TcpStream::connect(node.addr()).is_err());
    assert_eq!(node.requests().len(), 1);
    node.restart();
    assert_eq!(get(node.addr(), "/cat.jpg").text(), "meow");
    assert_eq!(node.connections(), 2);
}

#[test]
fn nginx_asks_another_for_what_it_misses() {
    let headers = [("Via", "1.1 x"), ("CDN-Loop", "x"), ("X-Mark", "m"), ("X-Other", "o")];
    for (mode, via, mark) in [(HeaderMode::Kept, Some("1.1 x"), Some("m")), (HeaderMode::Dropped, None, None)] {
        let back = Origin::respond(|_| Reply::ok("from behind"));
        let mut node = Nginx::builder().file("cat.jpg", b"meow").miss_proxied_to(back.addr(), mode);
        if mode == HeaderMode::Dropped {
            node = node.drop_header("X-Mark").proxy_bind("127.0.0.3");
        }
        let node = node.start();

        assert_eq!(get(node.addr(), "/cat.jpg").text(), "meow");
        let answer = Client::connect(node.addr()).request("GET", "/dog.jpg?x=1", &headers).response();
        assert_eq!(answer.text(), "from behind", "{mode:?}");
        let [request] = &back.requests()[..] else { panic!("one request: {:?}", back.requests()) };
        assert_eq!(request.target, "/dog.jpg?x=1");
        assert_eq!((request.header("via"), request.header("x-mark")), (via, mark));
        assert_eq!((request.header("cdn-loop").is_some(), request.header("x-other")), (via.is_some(), Some("o")));
    }
}

#[test]
fn seaweed_checks_signatures_and_takes_odd_keys() {
    let s3 = Seaweed::shared();
    s3.bucket("harness");
    for key in ["cat.jpg", "a b+c@d%/猫.jpg", "~x/(1)!*'.txt", "100%25.txt", "x//z.txt"] {
        s3.put("harness", key, key, "text/plain");
        let found = s3.get("harness", key, s3.secret_key());
        assert_eq!((found.status, found.text().as_str(), found.header("content-type")), (200, key, Some("text/plain")));
    }
    assert_eq!(s3.get("harness", "dog.jpg", s3.secret_key()).status, 404);
    assert_eq!(s3.get("harness", "cat.jpg", "wrong").status, 403);
    assert_eq!(curl(&[&s3.url("harness", "cat.jpg")]).status, 403);
    assert_eq!(s3.get("no-such-bucket", "cat.jpg", s3.secret_key()).status, 404);
    s3.delete("harness", "cat.jpg");
    assert_eq!(s3.get("harness", "cat.jpg", s3.secret_key()).status, 404);
}

#[test]
fn origin_follows_its_script() {
    const PAUSE: Duration = Duration::from_millis(1);
    type Expected = (u16, &'static str, End);
    let cases: Vec<(&str, Reply, Expected)> = vec![
        ("status", Reply::status(404), (404, "404\n", End::Whole)),
        ("ok", Reply::ok("meow"), (200, "meow", End::Whole)),
        ("no body", Reply::status(204), (204, "", End::Whole)),
        ("not modified", Reply::status(304).header("ETag", "\"x\""), (304, "", End::Whole)),
        ("chunked", Reply::ok("meow").chunked(), (200, "meow", End::Whole)),
        ("until close", Reply::ok("meow").until_close(), (200, "meow", End::Whole)),
        ("raw", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), (200, "hi", End::Whole)),
        ("slow head", Reply::ok("meow").slow_head(PAUSE), (200, "meow", End::Whole)),
        ("slow body", Reply::ok("meow").chunked().slow_body(2, PAUSE), (200, "meow", End::Whole)),
        ("cut", Reply::ok("meow").cut_after(2), (200, "me", End::Closed)),
        ("cut chunked", Reply::ok("meow").chunked().cut_after(2), (200, "me", End::Closed)),
        ("too short", Reply::ok("meow").announce(9).then_keep_alive(false), (200, "meow", End::Closed)),
        ("too long", Reply::ok("meow").announce(2), (200, "me", End::Whole)),
        ("reset", Reply::ok("meow").reset_after(2), (200, "me", End::Reset)),
    ];
    for (name, reply, (status, body, end)) in cases {
        let origin = Origin::script([reply]);
        let answer = Client::connect(origin.addr()).request("GET", "/x", &[]).response();
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (status, body, end), "{name}");
        assert_eq!(answer.complete, end == End::Whole, "{name}");
    }
}

#[test]
fn origin_can_fail_to_answer() {
    for (reply, kind) in [
        (Reply::close(), ErrorKind::UnexpectedEof),
        (Reply::reset(), ErrorKind::ConnectionReset),
        (Reply::raw("HTTP/1.1 200 OK\r\nContent-Le"), ErrorKind::InvalidData),
        (Reply::raw("nonsense\r\n\r\n"), ErrorKind::InvalidData),
        (Reply::hang(), ErrorKind::WouldBlock),
        (Reply::ok("late").delay(PATIENCE), ErrorKind::WouldBlock),
    ] {
        // The second request has a body: a reset must not depend on one.
        let origin = Origin::script([reply.clone(), reply.clone()]);
        for length in [0, 5] {
            let mut client = Client::connect(origin.addr());
            client.timeout(Duration::from_millis(200)).upload("POST", "/x", &[], &b"hello"[..length]);
            assert_eq!(client.try_response().unwrap_err().kind(), kind, "{reply:?} {length}");
            assert_eq!(origin.requests().last().unwrap().body.len(), length);
        }
    }

    let origin = Origin::closing();
    assert!(Client::connect(origin.addr()).closes_within(PATIENCE));
}

#[test]
fn origin_records_requests_over_connections() {
    let origin = Origin::at("127.0.0.3").script([
        Reply::ok("one").interim(103, 2),
        Reply::ok("two"),
        Reply::status(500).before_body(),
        Reply::ok("four"),
    ]);
    let mut client = Client::connect(origin.addr());
    let first = client.request("GET", "/1", &[]).response();
    assert_eq!(first.interim.iter().map(|r| r.status).collect::<Vec<_>>(), [103, 103]);
    let chunked = [("Transfer-Encoding", "chunked"), ("Expect", "100-continue")];
    client.request("PUT", "/2", &chunked);
    assert_eq!(client.interim().status, 100);
    assert_eq!(client.send_body(b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n").response().text(), "two");
    client.request("PUT", "/3", &[("Content-Length", "3")]);
    assert_eq!(client.response().status, 500);
    assert_eq!(client.send_body(b"abc").request("HEAD", "/4", &[]).response().header("content-length"), Some("4"));
    assert_eq!(get(origin.addr(), "/5").status, BEYOND_SCRIPT);

    let seen: Vec<_> = origin.requests().into_iter().map(|r| (r.method, r.target, r.body, r.connection)).collect();
    let expected = [("GET", "/1", "", 1), ("PUT", "/2", "abc", 1), ("PUT", "/3", "", 1), ("HEAD", "/4", "", 1)];
    let expected = expected.into_iter().chain([("GET", "/5", "", 2)]);
    assert_eq!(seen, expected.map(|(m, t, b, c)| (m.into(), t.into(), b.into(), c)).collect::<Vec<_>>());
    assert_eq!(origin.accepted(), 2);

    origin.blurt("HTTP/1.1 408 Timeout\r\n\r\n");
    assert!(client.read_some(12).unwrap().starts_with(b"HTTP/1.1 408"));
    origin.hang_up();
    client.read_to_end();
    assert!(client.closes_within(PATIENCE));
}

#[test]
fn origin_sends_without_end_and_stops_with_the_test() {
    let started = Instant::now();
    let origin = Origin::always(Reply::endless("meow"));
    let mut client = Client::connect(origin.addr());
    assert_eq!(client.request("GET", "/x", &[]).response_head().header("transfer-encoding"), Some("chunked"));
    let mut received = 0;
    while received < 1 << 20 {
        received += client.read_some(usize::MAX).unwrap().len();
    }
    let mut waiting = Client::connect(origin.addr());
    drop(origin);
    client.read_to_end();
    assert!(waiting.closes_within(PATIENCE));
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn client_reads_pipelined_answers_of_every_framing() {
    let origin = Origin::always(Reply::raw(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: 1\r\nX-A: 2\r\n\r\nmeow\
         HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n\
         2;x=y\r\nno\r\n0\r\nX-T: 1\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ));
    let mut client = Client::connect(origin.addr());
    client.send(
        "GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\nGET /4 HTTP/1.1\r\n\r\n\
         GET /5 HTTP/1.1\r\n\r\n",
    );
    let Response { status, interim, .. } = &client.response();
    assert_eq!((*status, interim.len()), (200, 1));
    assert_eq!(client.response().text(), "");
    let third = client.response();
    assert_eq!((third.status, third.text(), third.trailers.len()), (404, "no".to_string(), 1));
    assert_eq!(client.response().end, End::Malformed);
}

#[test]
fn an_address_can_refuse_or_swallow_connections() {
    let refusing = ports::free("127.0.0.1");
    assert_eq!(TcpStream::connect(refusing).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let hole = Blackhole::at("127.0.0.2");
    let tried = TcpStream::connect_timeout(&hole.addr(), Duration::from_millis(300));
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn curl_tells_status_version_and_source_address() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let answer = curl(&["--interface", "127.0.0.5", &format!("http://{}/cat.jpg", node.addr())]);
    assert_eq!((answer.status, answer.version.as_str(), answer.text().as_str()), (200, "1.1", "meow"));
    assert_eq!((answer.header("Content-Type"), answer.exit), (Some("image/jpeg"), 0));
    assert_eq!(node.requests()[0].peer, "127.0.0.5");
    assert_eq!(curl(&[&format!("http://{}/", ports::free("127.0.0.1"))]).exit, 7);
}

#[test]
fn metrics_are_read_back() {
    let metrics = Metrics::parse(
        "# HELP x_total X.\n# TYPE x_total counter\nx_total{node=\"a\",why=\"say \\\"404\\\", or\"} 3\n\
         x_total{node=\"b\",why=\"}\"} 4.5\ny 1e3\nz{} 1\n",
    );
    assert_eq!(metrics.value("x_total", &[("why", "say \"404\", or")]), 3.0);
    assert_eq!(metrics.value("x_total", &[("node", "b"), ("why", "}")]), 4.5);
    assert_eq!(metrics.value("x_total", &[("node", "c")]), 0.0);
    assert_eq!(metrics.sum("x_total", &[]), 7.5);
    assert_eq!((metrics.value("y", &[]), metrics.value("z", &[])), (1000.0, 1.0));
    assert!(metrics.has("y", &[]) && !metrics.has("y_total", &[]));
}

#[test]
fn waiting_ends() {
    let mut polls = 0;
    wait_until("three polls", PATIENCE, || {
        polls += 1;
        polls == 3
    });
    assert!(!becomes(Duration::from_millis(20), || false));
}
