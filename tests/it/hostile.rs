//! Clients that mean harm, or are broken: what must never reach a node, and what must be answered.

use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::origin::{Origin, Reply};

fn node() -> Origin {
    Origin::respond(|request| Reply::ok(request.target.clone()))
}

fn start(node: &Origin) -> Hopfall {
    Fleet::new().node("node", node.addr()).start()
}

fn status(hopfall: &Hopfall, raw: &str) -> u16 {
    let mut client = hopfall.connect();
    client.send(raw);
    client.try_response().map_or(0, |answer| answer.status)
}

#[test]
fn misshapen_requests_are_refused_and_never_passed_on() {
    let node = node();
    let hopfall = start(&node);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let fat = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(150));
    let far_too_many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(400));
    let cases: &[(&str, u16)] = &[
        // framing
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000000\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        // lines
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", 400),
        // host
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:port\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        // target
        ("GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (&long, 414),
        (&fat, 431),
        (&many, 431),
        (&far_too_many, 400),
        // methods
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: something\r\nContent-Length: 0\r\n\r\n", 417),
        ("junk\r\n\r\n", 400),
    ];
    let mut wrong = Vec::new();
    for (raw, expected) in cases {
        let got = status(&hopfall, raw);
        if got != *expected {
            wrong.push(format!("{got} and not {expected}: {:?}", &raw[..raw.len().min(120)]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(node.requests().is_empty(), "passed on: {:?}", node.requests());
    assert_eq!(hopfall.get("/fine").text(), "/fine");
}

#[test]
fn a_refusal_by_shape_closes_the_connection() {
    let node = node();
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert!(client.closes_within(crate::support::wait::PATIENCE));
    assert!(node.requests().is_empty());
}

#[test]
fn odd_requests_that_are_lawful_are_served() {
    let node = node();
    let hopfall = start(&node);
    let cases = [
        ("GET / HTTP/1.0\r\n\r\n", "/"),
        ("GET /a%20b?c=d%2F&e HTTP/1.1\r\nHost: a\r\n\r\n", "/a%20b?c=d%2F&e"),
        ("GET http://a/abs?x HTTP/1.1\r\nHost: a\r\n\r\n", "/abs?x"),
        ("GET /%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n", "/%2e%2e/x"),
        ("GET /a|b[c]^d HTTP/1.1\r\nHost: a\r\n\r\n", "/a|b[c]^d"),
        ("GET /猫.jpg HTTP/1.1\r\nHost: a\r\n\r\n", "/%E7%8C%AB.jpg"),
        ("GET //double//slash HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "//double//slash"),
        (
            "GET /up HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            "/up",
        ),
    ];
    for (raw, target) in cases {
        let mut client = hopfall.connect();
        client.send(raw);
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, target), "{raw:?}");
    }
    let upgrade = node.requests().into_iter().find(|request| request.target == "/up").unwrap();
    assert_eq!((upgrade.header("upgrade"), upgrade.header("connection")), (None, None));
}

#[test]
fn hops_forged_or_huge_harm_only_their_own_request() {
    let node = node();
    let hopfall = start(&node);
    let huge = "1.1 someone, ".repeat(800) + "1.1 last";
    let cases: &[(&str, &str)] = &[
        ("Via", &huge),
        ("Via", "1.1 hopfall"),
        ("Via", ",,,,((((\"\"\""),
        ("Via", "\u{e9}\u{e9}"),
        ("CDN-Loop", "hopfall-00000000;mark=00000000000000000000000000000000"),
        ("CDN-Loop", ";;;;===="),
    ];
    for (name, value) in cases {
        let answer = hopfall.connect().request("GET", "/x", &[(name, value)]).response();
        assert_eq!(answer.status, 200, "{name}: {}", &value[..value.len().min(40)]);
    }
    let seen = node.requests();
    let via: Vec<_> = seen[0].headers_named("via");
    assert!(via.len() == 1 && via[0].contains(", 1.1 hopfall-"), "our hop is the last one");
}

#[test]
fn nominated_fields_are_removed_but_not_those_that_we_rely_on() {
    let node = node();
    let hopfall = start(&node);
    let headers = [
        ("Connection", "X-Secret, Host, Via, CDN-Loop, Range, X-Forwarded-For, close"),
        ("X-Secret", "1"),
        ("Range", "bytes=0-1"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "Basic x"),
        ("Keep-Alive", "timeout=1"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "6.6.6.6"),
        ("Cookie", "a=b"),
    ];
    assert_eq!(hopfall.connect().request("GET", "/x", &headers).response().status, 200);
    let seen = &node.requests()[0];
    for gone in ["x-secret", "te", "proxy-authorization", "keep-alive", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("range"), Some("bytes=0-1"));
    assert_eq!(seen.header("cookie"), Some("a=b"));
    assert_eq!(seen.headers_named("host").len(), 1);
    // Nobody is trusted here, so what the client says of itself is replaced.
    assert_eq!(seen.headers_named("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.headers_named("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.headers_named("x-real-ip"), ["127.0.0.1"]);
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    let node = node();
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    for path in ["/1", "/2", "/3"] {
        client.request("GET", path, &[]);
    }
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.response().text(), path);
    }
}

#[test]
fn our_own_answers_keep_the_connection() {
    let node = Origin::always(Reply::status(404));
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    for _ in 0..5 {
        assert_eq!(client.request("GET", "/x", &[]).response().status, 404);
        assert_eq!(client.request("HEAD", "/x", &[]).response().status, 404);
    }
}

/// The body of a request that is refused must not be read as the next request.
#[test]
fn the_body_of_a_refused_upload_is_not_the_next_request() {
    let node = Origin::always(Reply::status(404));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let mut client = hopfall.connect();
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()));
    assert_eq!(client.response().status, 404);
    client.request("GET", "/next", &[]);
    let next = client.try_response();
    assert!(next.is_err() || next.is_ok_and(|answer| answer.status == 404));
    assert!(node.requests().iter().all(|request| request.target != "/hidden"));
}

#[test]
fn a_client_of_http_2_is_held_to_the_same_rules() {
    use crate::support::curl::curl;
    let node = node();
    let hopfall = start(&node);
    let url = |path: &str| format!("http://{}{path}", hopfall.web());
    let fine = curl(&["--http2-prior-knowledge", &url("/fine?x")]);
    assert_eq!((fine.status, fine.text().as_str(), fine.version.as_str()), (200, "/fine?x", "2"));
    let body = curl(&["--http2-prior-knowledge", "-X", "GET", "--data-binary", "x", &url("/body")]);
    assert_eq!(body.status, 400);
    let many: Vec<String> = (0..150).map(|i| format!("X-{i}: y")).collect();
    let mut arguments = vec!["--http2-prior-knowledge"];
    for field in &many {
        arguments.extend(["-H", field]);
    }
    let url = url("/many");
    arguments.push(&url);
    assert_eq!(curl(&arguments).status, 431);
    assert_eq!(node.requests().len(), 1);
    let host = node.requests()[0].header("host").map(str::to_owned);
    assert_eq!(host, Some(hopfall.web().to_string()), "HTTP/2 has it in :authority");
}

/// However requests are cut into packets, each is read as what it is.
#[test]
fn pipelined_requests_may_come_in_any_pieces() {
    let node = node();
    let hopfall = start(&node);
    let get = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let all = format!("{get}GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    for cut in [get.len() + 1, get.len() + 5, get.len() + 20, all.len() - 1] {
        let mut client = hopfall.connect();
        client.send(&all[..cut]);
        assert_eq!(client.response().text(), "/1", "cut at {cut}");
        client.send(&all[cut..]);
        assert_eq!(client.response().text(), "/2", "cut at {cut}");
    }
    let mut client = hopfall.connect();
    client.send(format!("{get}{chunked}"));
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
    // And one that is bad is bad in the second place too.
    for bad in [
        "GET /2\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /2 HTTP/1.1\nHost: a\r\n\r\n",
        "GET /2#x HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = hopfall.connect();
        client.send(format!("{get}{}", &bad[..8]));
        assert_eq!(client.response().text(), "/1");
        client.send(&bad[8..]);
        assert_eq!(client.response().status, 400, "{bad:?}");
    }
}

#[test]
fn cookies_in_pieces_reach_a_node_as_one() {
    let node = node();
    let hopfall = start(&node);
    hopfall.connect().request("GET", "/x", &[("Cookie", "a=b"), ("Cookie", "c=d")]).response();
    assert_eq!(node.requests()[0].headers_named("cookie"), ["a=b; c=d"]);
}
