//! Other methods and upgrades: one node, never repeated once a byte was sent.

use std::time::Duration;

use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::origin::{Origin, Reply};
use crate::support::ports;
use crate::support::request::Request;

fn echo() -> Origin {
    Origin::respond(|request: &Request| {
        Reply::ok(format!("{} {} {}", request.method, request.target, request.body.len()))
    })
}

fn start(node: &Origin) -> Hopfall {
    Fleet::new().node("node", node.addr()).start()
}

#[test]
fn uploads_stream_to_one_node() {
    let node = echo();
    let hopfall = start(&node);
    let body = vec![b'x'; 5 << 20];
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = hopfall.connect().upload(method, "/up?x=1", &[("X-Kept", "1")], &body).response();
        assert_eq!((answer.status, answer.text()), (200, format!("{method} /up?x=1 {}", body.len())), "{method}");
    }
    assert_eq!(hopfall.connect().request("OPTIONS", "/x", &[]).response().status, 200);

    let mut client = hopfall.connect();
    client.send("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "POST /chunked 5");

    let seen = &node.requests()[0];
    assert_eq!(seen.header("x-kept"), Some("1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert!(seen.header("via").unwrap().starts_with("1.1 hopfall-"));
    assert!(seen.header("cdn-loop").is_some());
}

#[test]
fn expect_continue_works() {
    let node = echo();
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.interim().status, 100);
    client.send_body(b"hello");
    assert_eq!(client.response().status, 200);

    let node = Origin::script([Reply::status(403).before_body().then_keep_alive(false)]);
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    client.send("POST /refused HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.interim.len()), (403, 0), "a refusal comes before the body");
}

#[test]
fn a_status_is_served_as_it_came_and_never_repeated() {
    for status in [404, 500, 502, 503] {
        let (first, second) = (Origin::always(Reply::status(status).body("mine")), echo());
        let fleet = Fleet::new().node_with("first", first.addr(), "weight: 255").node("second", second.addr());
        let hopfall = fleet.start();
        for method in ["POST", "PUT"] {
            let answer = hopfall.connect().upload(method, "/x", &[], b"hello").response();
            assert_eq!((answer.status, answer.text().as_str()), (status, "mine"), "{method}");
        }
        assert_eq!(second.requests().len(), 0);
    }
}

#[test]
fn an_upload_is_never_sent_twice() {
    for (reply, status) in
        [(Reply::close(), 502), (Reply::reset(), 502), (Reply::raw("junk\r\n\r\n"), 502), (Reply::hang(), 504)]
    {
        let (first, second) = (Origin::always(reply), echo());
        let fleet = Fleet::new().node_with("first", first.addr(), "weight: 255").node("second", second.addr());
        let hopfall = fleet.pool("tunnel_timeout: 400ms").start();
        for method in ["POST", "PUT", "DELETE"] {
            let answer = hopfall.connect().upload(method, "/x", &[], b"hello").response();
            assert_eq!(answer.status, status, "{method}");
            assert!(answer.header("proxy-status").unwrap().contains("error="), "{method}");
        }
        assert_eq!(first.requests().len(), 3);
        assert_eq!(second.requests().len(), 0, "an upload was repeated");
    }
}

#[test]
fn an_upload_goes_on_when_nothing_was_sent_yet() {
    let node = echo();
    let nobody = ports::free("127.0.0.1");
    let fleet = Fleet::new().node_with("away", nobody, "weight: 255").node("here", node.addr());
    let hopfall = fleet.start();
    for _ in 0..5 {
        assert_eq!(hopfall.connect().upload("POST", "/x", &[], b"hello").response().text(), "POST /x 5");
    }
    assert_eq!(node.requests().len(), 5);
    let hopfall = Fleet::new().node("away", nobody).start();
    let answer = hopfall.connect().upload("POST", "/x", &[], b"hello").response();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}

#[test]
fn an_upload_does_not_meet_a_connection_that_was_closed_meanwhile() {
    let node = echo();
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    for _ in 0..10 {
        assert_eq!(client.upload("POST", "/x", &[], b"hello").response().status, 200);
        node.hang_up();
    }
}

#[test]
fn an_answer_before_the_upload_ends_is_passed_on() {
    let node = Origin::script([Reply::status(413).before_body().then_keep_alive(false)]);
    let hopfall = start(&node);
    let mut client = hopfall.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nstart");
    assert_eq!(client.response().status, 413);
}

#[test]
fn a_body_cut_short_aborts_the_client_here_too() {
    let node = Origin::always(Reply::ok(vec![b'x'; 100_000]).cut_after(1000));
    let hopfall = start(&node);
    let answer = hopfall.connect().upload("POST", "/x", &[], b"hello").response();
    assert_eq!((answer.status, answer.complete), (200, false));
}

/// A WebSocket: the handshake passes, then bytes both ways.
#[test]
fn a_websocket_works() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello")
            .unwrap();
        let mut echoed = [0; 4];
        stream.read_exact(&mut echoed).unwrap();
        stream.write_all(&echoed).unwrap();
        String::from_utf8(head).unwrap()
    });
    let hopfall = Fleet::new().node("node", address).start();
    let mut client = hopfall.connect();
    client.send(
        "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    let head = client.interim();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("websocket")));
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(client.read_some(5 - got.len()).unwrap());
    }
    assert_eq!(got, b"hello");
    client.send("ping");
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(client.read_some(4 - got.len()).unwrap());
    }
    assert_eq!(got, b"ping");
    let head = server.join().unwrap().to_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("via: 1.1 hopfall-"), "{head}");
    assert!(client.closes_within(Duration::from_secs(5)));
}

#[test]
fn a_head_that_no_proxy_may_pass_on_is_502_here_too() {
    for raw in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nEVIL",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let node = Origin::always(Reply::raw(raw));
        let hopfall = start(&node);
        let answer = hopfall.connect().upload("POST", "/x", &[], b"hello").response();
        assert_eq!(answer.status, 502, "{raw:?}: {}", answer.text());
    }
}
