//! The PROXY protocol with HAProxy at the other end, and with headers that no HAProxy sends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::certificate::Certificate;
use crate::support::curl::curl;
use crate::support::fleet::Fleet;
use crate::support::haproxy::Haproxy;
use crate::support::hopfall::{Hopfall, reserve};
use crate::support::origin::{Origin, Reply};
use crate::support::raw::{Ending, Raw, connect, connect_from, ending, expect};
use crate::support::request::Request;
use crate::support::wait::{PATIENCE, wait_until};

/// Where a proxy in front of hopfall connects from, in these tests; HAProxy's connections come from there, too.
const TRUSTED: &str = "proxy_protocol: [127.0.0.1]";

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A node that tells whom it was asked for, and hopfall before it.
fn telling_node() -> Origin {
    Origin::respond(|request: &Request| Reply::ok(request.header("x-forwarded-for").unwrap_or("nobody")))
}

/// hopfall in front of a node as a tcp listener; `listener` is more keys of it.
fn start_tcp(node: SocketAddr, listener: &str) -> Hopfall {
    start_sending(&[node], "none", listener)
}

/// The same with nodes that get a PROXY header of this version.
fn start_sending(nodes: &[SocketAddr], version: &str, listener: &str) -> Hopfall {
    let node = |(address, name): (&SocketAddr, char)| format!("{{ name: {name}, address: \"{address}\" }}");
    let nodes: Vec<String> = nodes.iter().zip('a'..).map(node).collect();
    Hopfall::start(&format!(
        "listeners: [{{ name: raw, address: \"{{addr:raw}}\", protocol: tcp, pool: p, {listener} }}]\n\
         pools: {{ p: {{ proxy_protocol: {version}, nodes: [{}] }} }}\n\
         admin: {{ address: \"{{admin}}\" }}\n",
        nodes.join(", ")
    ))
}

/// What an HTTP server answers on a new connection that begins with these bytes.
fn answer(address: SocketAddr, header: &[u8]) -> String {
    let mut client = connect(address);
    let request = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(&[header, request].concat()).unwrap();
    let (answer, _) = ending(&mut client);
    String::from_utf8_lossy(&answer).into_owned()
}

fn body(answer: &str) -> &str {
    answer.split("\r\n\r\n").nth(1).unwrap_or_default()
}

fn refused(hopfall: &Hopfall, listener: &str) -> f64 {
    hopfall.metrics().value("hopfall_proxy_headers_refused_total", &[("listener", listener)])
}

#[test]
fn the_client_is_the_one_that_haproxy_speaks_for() {
    let node = telling_node();
    let certificate = Certificate::for_names(&["localhost"]);
    let tls = format!(
        "tls: {{ certificate: \"{}\", key: \"{}\" }}",
        certificate.cert_path().display(),
        certificate.key_path().display()
    );
    let fleet = || Fleet::new().node("node", node.addr()).listener(TRUSTED);
    let (plain, secure) = (fleet().start(), fleet().listener("protocol: https").listener(&tls).start());
    for version in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2 proxy-v2-options unique-id,crc32c"]
    {
        let cases = [(&plain, "http", ""), (&plain, "tcp", ""), (&secure, "http", "ssl verify none")];
        for (hopfall, mode, tls) in cases {
            let proxy = Haproxy::before(hopfall.web(), mode, &format!("{version} {tls}"));
            let url = format!("http://{}/x", proxy.addr());
            let told = curl(&["--interface", "127.0.0.7", &url]);
            assert_eq!((told.status, told.text().as_str()), (200, "127.0.0.7"), "{version} {mode} {tls}");
        }
    }
    let log = plain.wait_for_access_log(8);
    assert!(log.iter().all(|line| line["client"] == "127.0.0.7"), "{log:?}");
    assert_eq!(refused(&plain, "web") + refused(&secure, "web"), 0.0);
}

#[test]
fn a_tcp_listener_takes_the_header_and_leaves_the_stream() {
    let node = Raw::listen();
    let hopfall = start_tcp(node.addr(), TRUSTED);
    for version in ["send-proxy", "send-proxy-v2"] {
        let proxy = Haproxy::before(hopfall.address("raw"), "tcp", version);
        let mut client = connect(proxy.addr());
        client.write_all(b"PROXY is only a word here\r\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // HAProxy's own start looked whether it listens, and is passed on as well.
        let seen = std::iter::from_fn(|| Some(ending(&mut node.accept()).0)).find(|bytes| !bytes.is_empty());
        assert_eq!(seen.unwrap(), b"PROXY is only a word here\r\n", "{version}");
    }
}

#[test]
fn a_header_may_come_in_any_pieces_and_with_what_follows() {
    let node = telling_node();
    let hopfall = Fleet::new().node("node", node.addr()).listener(TRUSTED).start();
    let v4 = [V2, b"\x21\x11\0\x0c\xc0\xa8\0\x01\xc0\xa8\0\x0b\xdc\x04\x01\xbb"].concat();
    // 2001:db8::1, with an extension of a kilobyte.
    let v6 = [
        V2,
        b"\x21\x21\x04\x24 \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
        &[0; 16],
        b"\xdc\x04\x01\xbb",
        &[0x04, 0x03, 0xfd],
        &[0; 1021],
    ]
    .concat();
    assert_eq!(v6.len(), 16 + 0x424);
    let cases: &[(&[u8], &str)] = &[
        (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.168.0.1 ::ffff:1.2.3.4 56324 443\r\n", "192.168.0.1"),
        (&v4, "192.168.0.1"),
        (&v6, "2001:db8::1"),
        // Nobody is named: the connection's own address counts.
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&[V2, b"\x20\0\0\0"].concat(), "127.0.0.1"),
    ];
    for (header, client) in cases {
        assert_eq!(body(&answer(hopfall.web(), header)), *client, "{}", header.escape_ascii());
    }
    for (header, client) in &cases[..4] {
        let mut stream = connect(hopfall.web());
        for byte in *header {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        let (told, _) = ending(&mut stream);
        assert_eq!(body(&String::from_utf8_lossy(&told)), *client);
    }
    assert_eq!(refused(&hopfall, "web"), 0.0);
}

#[test]
fn a_trusted_proxy_without_a_good_header_is_closed() {
    let node = telling_node();
    let hopfall = Fleet::new().node("node", node.addr()).listener(TRUSTED).start();
    let cases: &[&[u8]] = &[
        b"",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        b"PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
        &[V2, b"\x21\x11\xff\xff"].concat(),
        &[V2, b"\x31\x11\0\x0c"].concat(),
        b"\x16\x03\x01",
    ];
    for header in cases {
        assert_eq!(answer(hopfall.web(), header), "", "{}", header.escape_ascii());
    }
    assert_eq!(refused(&hopfall, "web"), cases.len() as f64);

    // Half a header is one too few; a connection without a byte is a check's.
    let mut half = connect(hopfall.web());
    half.write_all(b"PROXY TCP4 1.2").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut half).0, b"");
    let mut check = connect(hopfall.web());
    check.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut check), (Vec::new(), Ending::Orderly));
    wait_until("they are gone", PATIENCE, || {
        hopfall.metrics().value("hopfall_client_connections", &[("listener", "web")]) == 0.0
    });
    assert_eq!(refused(&hopfall, "web"), cases.len() as f64 + 1.0);
    assert_eq!(node.requests().len(), 0);
}

#[test]
fn a_header_has_to_come_in_time() {
    let node = telling_node();
    let hopfall = Fleet::new().node("node", node.addr()).listener(TRUSTED).listener("header_timeout: 300ms").start();
    let (mut silent, mut slow) = (connect(hopfall.web()), connect(hopfall.web()));
    slow.write_all(b"PROXY ").unwrap();
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ending(stream).0, b"");
    }
    assert_eq!(refused(&hopfall, "web"), 2.0);
}

#[test]
fn bytes_from_elsewhere_are_never_taken_for_a_header() {
    let header = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    let node = telling_node();
    let hopfall = Fleet::new().node("node", node.addr()).listener("proxy_protocol: [10.0.0.0/8, 127.0.0.9]").start();
    assert_eq!(body(&answer(hopfall.web(), b"")), "127.0.0.1");
    assert!(!answer(hopfall.web(), header).contains("192.168.0.1"));
    assert_eq!(node.requests().len(), 1);

    let node = Raw::listen();
    let hopfall = start_tcp(node.addr(), "proxy_protocol: [127.0.0.9]");
    let mut client = connect(hopfall.address("raw"));
    client.write_all(header).unwrap();
    expect(&mut node.accept(), std::str::from_utf8(header).unwrap());
    // The same from there is one.
    let mut client = connect_from("127.0.0.9", hopfall.address("raw"));
    client.write_all(&[header, &b"hello"[..]].concat()).unwrap();
    expect(&mut node.accept(), "hello");
}

/// Behind a proxy, a node that calls back is known by the address in the header.
#[test]
fn a_node_that_calls_back_through_a_proxy_is_asked_of_no_node() {
    let node = Origin::at("127.0.0.5").respond(|_: &Request| Reply::ok("meow"));
    let hopfall = Fleet::new().node("node", node.addr()).listener(TRUSTED).start();
    assert_eq!(body(&answer(hopfall.web(), b"PROXY TCP4 127.0.0.6 127.0.0.1 1 2\r\n")), "meow");
    let looped = answer(hopfall.web(), b"PROXY TCP4 127.0.0.5 127.0.0.1 1 2\r\n");
    assert!(looped.starts_with("HTTP/1.1 404 "), "{looped}");
    assert_eq!(node.requests().len(), 1);
}

#[test]
fn an_http_connection_behind_a_proxy_goes_on_after_its_first_request() {
    let node = telling_node();
    let hopfall = Fleet::new().node("node", node.addr()).listener(TRUSTED).start();
    let mut stream = connect(hopfall.web());
    stream.write_all(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n").unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut told = Vec::new();
        while !told.ends_with(b"192.168.0.1") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{}", told.escape_ascii());
            told.extend_from_slice(&piece[..read]);
        }
    }
}

#[test]
fn haproxy_learns_the_client_from_us() {
    let node = Haproxy::telling_source();
    for version in ["v1", "v2"] {
        let hopfall = start_sending(&[node.addr()], version, TRUSTED);
        let us = hopfall.address("raw");
        let ask = |stream: &mut TcpStream, header: &str| {
            stream
                .write_all(format!("{header}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
                .unwrap();
            body(&String::from_utf8_lossy(&ending(stream).0)).to_owned()
        };
        let mut direct = connect_from("127.0.0.7", us);
        let client = direct.local_addr().unwrap();
        assert_eq!(ask(&mut direct, ""), format!("{client} {us}"), "{version}");
        // A client that another proxy has named to us.
        let named = ask(&mut connect(us), "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        assert_eq!(named, format!("192.168.0.1:56324 {us}"), "{version}");
        let named = ask(&mut connect(us), "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n");
        assert_eq!(named, format!("2001:db8::1:56324 ::ffff:{us}"), "{version}");
    }
}

#[test]
fn a_node_gets_one_header_and_then_the_stream() {
    let node = Raw::listen();
    // The first node refuses: the next one's header is the first it sees.
    let hopfall = start_sending(&[reserve(), node.addr()], "v1", "");
    let us = hopfall.address("raw");
    for _ in 0..2 {
        let mut client = connect(us);
        let header =
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.local_addr().unwrap().port(), us.port());
        let mut server = node.accept();
        // It comes before the client has said anything: some protocols let the server speak first.
        expect(&mut server, &header);
        server.write_all(b"welcome").unwrap();
        expect(&mut client, "welcome");
        client.write_all(b"hello").unwrap();
        drop(client);
        assert_eq!(ending(&mut server), (b"hello".to_vec(), Ending::Orderly));
    }
    let counted = hopfall.metrics().value("hopfall_tcp_bytes_total", &[("direction", "in")]);
    assert_eq!(counted, 10.0, "a header of ours is none of the client's bytes");
}
