//! Clients that come too often: what is refused, to whom, and what it costs.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::certificate::Certificate;
use crate::support::client::{Client, Response};
use crate::support::curl::curl;
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::{HeaderMode, Nginx};
use crate::support::origin::{Origin, Reply};
use crate::support::process;
use crate::support::raw::{ending, try_connect_from};
use crate::support::wait::{PATIENCE, wait_until};

/// Clients of these tests are on this machine, where nodes are as well; without this none of them would be refused.
const ANY_CLIENT: &str = "from_nodes: trust";
/// Where a proxy in front connects from.
const BEHIND_A_PROXY: &str = "proxy_protocol: [127.0.1.0/24]";
const PROXY: &str = "127.0.1.1";

fn node() -> Origin {
    Origin::always(Reply::ok("meow"))
}

/// The keys of an https listener with this certificate.
fn tls(certificate: &Certificate) -> String {
    let (cert, key) = (certificate.cert_path(), certificate.key_path());
    format!("{{ certificate: \"{}\", key: \"{}\" }}", cert.display(), key.display())
}

/// A connection from `ip` that begins with `header`, and one request on it: whether that was answered, and not the
/// connection reset without a byte.
fn is_served(address: SocketAddr, ip: &str, header: &str) -> bool {
    let Ok(mut client) = try_connect_from(ip, address) else { return false };
    let request = format!("{header}GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    if client.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut answer = [0; 9];
    match client.read_exact(&mut answer) {
        Ok(()) => assert_eq!(&answer, b"HTTP/1.1 "),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    answer != [0; 9]
}

/// The PROXY header of a client.
fn named(client: &str) -> String {
    let (family, us) = if client.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    format!("PROXY {family} {client} {us} 1 2\r\n")
}

fn throttled(hopfall: &Hopfall, listener: &str, kind: &str) -> f64 {
    hopfall.metrics().value("hopfall_throttled_total", &[("listener", listener), ("kind", kind)])
}

/// Calls `visit` until it says no, and tells how often it said yes: at least `burst` times, and no more than one a second
/// more.
fn until_refused(burst: u64, mut visit: impl FnMut() -> bool) -> u64 {
    let (begun, mut served) = (Instant::now(), 0);
    wait_until("one too many", PATIENCE, || {
        let yes = visit();
        served += u64::from(yes);
        !yes
    });
    let most = burst + begun.elapsed().as_secs();
    assert!((burst..=most).contains(&served), "{served} served, and not {burst} to {most}");
    served
}

#[test]
fn connections_above_the_rate_are_reset_and_others_are_served() {
    let node = node();
    let hopfall = Hopfall::start(
        &format!(
            "listeners:\n\
         - {{ name: web, address: \"{{web}}\", route: r, throttle: {{ THROTTLE }} }}\n\
         - {{ name: raw, address: \"{{addr:raw}}\", protocol: tcp, pool: p, throttle: {{ THROTTLE }} }}\n\
         - {{ name: free, address: \"{{addr:free}}\", route: r }}\n\
         pools: {{ p: {{ from_nodes: trust, nodes: [{{ name: a, address: \"{}\" }}] }} }}\n\
         routes: {{ r: {{ chain: [p] }} }}\n\
         admin: {{ address: \"{{admin}}\" }}\n",
            node.addr()
        )
        .replace("THROTTLE", "connections: 1, connection_burst: 3, exempt: [127.0.0.9]"),
    );
    for listener in ["web", "raw"] {
        let address = hopfall.address(listener);
        let before = node.requests().len() as u64;
        let mut served = until_refused(3, || is_served(address, "127.0.0.7", ""));
        // Others know nothing of it, and the one comes back.
        assert!(is_served(address, "127.0.0.8", ""), "{listener}");
        wait_until("a second has passed", PATIENCE, || is_served(address, "127.0.0.7", ""));
        served += 2;
        assert_eq!(node.requests().len() as u64 - before, served, "{listener}");
        assert!(throttled(&hopfall, listener, "connection") >= 1.0, "{listener}");
        assert!((0..20).all(|_| is_served(address, "127.0.0.9", "")), "{listener}: exempt");
    }
    hopfall.wait_for_log("web: `throttle` refuses connections: 1 since the start, the last one of 127.0.0.7");
    assert!((0..20).all(|_| is_served(hopfall.address("free"), "127.0.0.7", "")));
    assert!(!hopfall.metrics().has("hopfall_throttled_total", &[("listener", "free")]));
    assert!(!hopfall.metrics().has("hopfall_throttled_total", &[("kind", "request")]));
}

#[test]
fn a_connection_is_refused_before_its_handshake() {
    let node = node();
    let certificate = Certificate::for_names(&["localhost"]);
    let fleet = Fleet::new().node("node", node.addr()).pool(ANY_CLIENT).listener("protocol: https");
    let fleet = fleet.listener(&format!("tls: {}", tls(&certificate)));
    let hopfall = fleet.listener("throttle: { connections: 1, connection_burst: 2 }").start();
    let url = format!("https://{}/x", hopfall.web());
    until_refused(2, || {
        let answer = curl(&["--insecure", "--interface", "127.0.0.7", &url]);
        // 7: reset as soon as connected; 35: amid the handshake; 56: amid reading.
        assert!(answer.status == 200 || matches!(answer.exit, 7 | 35 | 56), "{}: {}", answer.exit, answer.stderr);
        answer.status == 200
    });
    // One who says nothing is told so, too, and before the handshake's time is over.
    wait_until("one more is refused", PATIENCE, || {
        let Ok(mut client) = try_connect_from("127.0.0.7", hopfall.web()) else { return true };
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let error = client.read_exact(&mut [0]).unwrap_err();
        error.kind() == ErrorKind::ConnectionReset
    });
}

#[test]
fn requests_above_the_rate_are_429_and_the_connection_stays() {
    let node = node();
    let fleet = Fleet::new().node("node", node.addr()).pool(ANY_CLIENT).listener("trusted: [127.0.0.1]");
    let hopfall = fleet.listener("throttle: { requests: 1, request_burst: 3 }").start();
    let ask = |client: &mut Client, name: &str| {
        client.request("GET", "/x", &[("X-Forwarded-For", &format!("198.51.100.9, {name}"))]).response()
    };
    let mut client = hopfall.connect();
    let mut refused: Option<Response> = None;
    let mut served = until_refused(3, || {
        let answer = ask(&mut client, "192.0.2.1");
        assert!(matches!(answer.status, 200 | 429), "{answer:?}");
        refused = Some(answer).filter(|answer| answer.status == 429);
        refused.is_none()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("proxy-status"), Some("hopfall; error=http_request_error"));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    // All of it on one connection: another client's requests, and then this one's.
    assert_eq!(ask(&mut client, "192.0.2.2").status, 200);
    wait_until("a second has passed", PATIENCE, || ask(&mut client, "192.0.2.1").status == 200);
    served += 2;
    assert_eq!(node.requests().len() as u64, served);

    // An upload is not passed on. Its connection ends, as always when there is an answer before the body was read.
    served += until_refused(3, || {
        let name = [("X-Forwarded-For", "192.0.2.3")];
        hopfall.connect().upload("PUT", "/x", &name, &[b'x'; 100_000]).response().status == 200
    });
    assert_eq!(node.requests().len() as u64, served);
    let log = hopfall.wait_for_access_log(8);
    let line = log.iter().find(|line| line["status"] == 429).expect("a refusal is in the access log");
    assert_eq!(line["client"], "192.0.2.1");
    assert_eq!(line["failure"], "http_request_error");
    assert_eq!((&line["served_by"], &line["hops"]), (&"hopfall".into(), &"".into()));
    assert!(throttled(&hopfall, "web", "request") >= 2.0);
    let answered = hopfall.metrics().value("hopfall_requests_total", &[("code", "429")]);
    assert_eq!(throttled(&hopfall, "web", "request"), answered);
}

/// An address that nobody vouches for is none.
#[test]
fn a_client_cannot_name_itself_another() {
    let node = node();
    let fleet = Fleet::new().node("node", node.addr()).pool(ANY_CLIENT);
    let hopfall = fleet.listener("throttle: { requests: 1, request_burst: 2 }").start();
    let (mut client, mut number) = (hopfall.connect(), 0);
    until_refused(2, || {
        number += 1;
        let name = format!("192.0.2.{number}");
        client.request("GET", "/x", &[("X-Forwarded-For", &name)]).response().status == 200
    });
}

#[test]
fn every_stream_of_http_2_is_a_request() {
    let node = node();
    let certificate = Certificate::for_names(&["localhost"]);
    let fleet = Fleet::new().node("node", node.addr()).pool(ANY_CLIENT).listener("protocol: https");
    let fleet = fleet.listener(&format!("tls: {}", tls(&certificate)));
    let hopfall = fleet.listener("throttle: { requests: 1, request_burst: 3 }").start();
    let url = format!("https://{}/x", hopfall.web());
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--insecure", "--http2", "--max-time", "60"]);
    command.args(["--write-out", "%{http_code} %{http_version} %{num_connects}\n"]);
    (0..60).for_each(|_| _ = command.args(["--output", "/dev/null", &url]));
    let told = process::run(&mut command, PATIENCE).stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 60, "{told}");
    assert_eq!((lines[0], lines[1], lines[2]), ("200 2 1", "200 2 0", "200 2 0"));
    // 60 within less than 57 seconds: some were too many, and the connection went on.
    let refused = lines.iter().filter(|line| **line == "429 2 0").count();
    assert!(refused > 0, "{told}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("200 2 ")).count() + refused, 60, "{told}");
}

#[test]
fn a_client_of_ipv6_is_its_first_64_bits() {
    let node = node();
    let fleet = Fleet::new().node("node", node.addr()).listener(BEHIND_A_PROXY);
    let hopfall = fleet.listener("throttle: { connections: 1 }").start();
    let served = |client: &str| is_served(hopfall.web(), PROXY, &named(client));
    let mut network = 0;
    let mut fresh = || {
        network += 1;
        network
    };
    // A busy machine may let a second pass in between.
    wait_until("its neighbour is the same client", PATIENCE, || {
        let network = fresh();
        assert!(served(&format!("2001:db8:0:{network}::1")));
        !served(&format!("2001:db8:0:{network}:ffff:ffff:ffff:ffff"))
    });
    wait_until("an IPv4 address within IPv6 is the same client", PATIENCE, || {
        let number = fresh();
        assert!(served(&format!("192.0.2.{number}")));
        !served(&format!("::ffff:192.0.2.{number}"))
    });
    // The proxy's own connections are one client's.
    wait_until("a header that names nobody", PATIENCE, || {
        let unnamed = || is_served(hopfall.web(), "127.0.1.2", "PROXY UNKNOWN\r\n");
        // It is on this machine, where a node is.
        unnamed() && unnamed()
    });
}

/// 10,000 addresses, each of which comes twice at once, again and again, while an honest client comes as often as it may.
#[test]
fn an_attack_from_ten_thousand_addresses_takes_no_memory_and_no_place() {
    const ADDRESSES: u32 = 10_000;
    let node = node();
    let fleet = Fleet::new().node("node", node.addr()).listener(BEHIND_A_PROXY).listener("max_connections: 100");
    let hopfall = fleet.listener("throttle: { connections: 1 }").start();
    let gone = || {
        wait_until("they are gone", PATIENCE, || {
            hopfall.metrics().value("hopfall_client_connections", &[("listener", "web")]) == 0.0
        });
    };
    let attack = |number: u32| {
        // Many addresses of the proxy, so that its ports last.
        let from = format!("127.0.1.{}", 1 + number % 200);
        let header = named(&format!("10.1.{}.{}", number / 256, number % 256));
        for _ in 0..2 {
            // It may have been reset already, which is all the same.
            let _ = try_connect_from(&from, hopfall.web()).and_then(|mut client| client.write_all(header.as_bytes()));
        }
    };
    // What is paid once is paid.
    (0..1000).for_each(|number| attack(ADDRESSES + number));
    assert!(is_served(hopfall.web(), PROXY, &named("203.0.113.1")));
    gone();
    let (before, begun) = (hopfall.rss_kib(), Instant::now());
    let (mut last, mut served, mut attacks) = (begun, 0, 0);
    while served < 3 || attacks < ADDRESSES {
        attack(attacks % ADDRESSES);
        attacks += 1;
        if last.elapsed() >= Duration::from_secs(1) {
            assert!(is_served(hopfall.web(), PROXY, &named("203.0.113.1")), "after {attacks} attacks");
            (last, served) = (Instant::now(), served + 1);
        }
    }
    gone();
    let (grown, took) = (hopfall.rss_kib().saturating_sub(before), begun.elapsed());
    println!("{attacks} attacks in {took:?}: {grown} KiB more");
    assert!(grown < 1024, "{grown} KiB more");
    // Every second one, but for those that a busy machine kept waiting for a second.
    let refused = throttled(&hopfall, "web", "connection");
    assert!(refused >= f64::from(attacks) * 0.9, "{refused} of {attacks}");
    let lines = hopfall.log().matches("`throttle` refuses connections").count();
    assert!((1..=2 + took.as_secs() / 60).contains(&(lines as u64)), "{lines} lines of log");
}

/// However small the table, and however many come through it: who has had his share gets no more.
#[test]
fn a_flood_of_addresses_gives_nobody_more() {
    let node = node();
    let fleet = Fleet::new().node("node", node.addr()).listener("trusted: [127.0.0.1]");
    let hopfall = fleet.listener("throttle: { requests: 1, request_burst: 5, entries: 8 }").start();
    let mut client = hopfall.connect();
    let (begun, mut number, mut served) = (Instant::now(), 0_u32, 0);
    while number < 2000 {
        let names = (number..number + 100).map(|i| format!("10.1.{}.{}", i / 256, i % 256)).chain(["192.0.2.1".into()]);
        let all: String =
            names.map(|name| format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {name}\r\n\r\n")).collect();
        client.send(all);
        let answers: Vec<u16> = (0..101).map(|_| client.response().status).collect();
        served += answers.iter().filter(|status| **status == 200).count() as u64;
        number += 100;
    }
    // All through eight buckets.
    let most = 8 * (5 + begun.elapsed().as_secs() + 1);
    assert!((5..=most).contains(&served), "{served} served, and not 5 to {most}");
}

/// A node that asks hopfall for what it lacks must be told that nobody has it, however often it asks.
#[test]
fn nodes_that_call_back_are_never_throttled() {
    for mode in [HeaderMode::Kept, HeaderMode::Dropped] {
        let web = hopfall::reserve();
        let node = |address: &str| Nginx::at(address).miss_proxied_to(web, mode).proxy_bind(address).start();
        let (chitoge, taiga) = (node("127.0.0.2"), node("127.0.0.3"));
        let fleet = Fleet::new().node("chitoge", chitoge.addr()).node("taiga", taiga.addr()).listener(BEHIND_A_PROXY);
        let fleet = fleet.listener("throttle: { connections: 1, requests: 1 }");
        let hopfall = fleet.builder().address("web", web).start();
        for i in 0..30 {
            let mut client = try_connect_from(PROXY, web).unwrap();
            let header = named(&format!("192.0.2.{i}"));
            let request = format!("{header}GET /missing-{i}.jpg HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).unwrap();
            let (answer, _) = ending(&mut client);
            assert!(answer.starts_with(b"HTTP/1.1 404 "), "{mode:?} {i}: {}", answer.escape_ascii());
        }
        assert!(chitoge.requests().len() + taiga.requests().len() >= 60, "each was asked");
        assert_eq!(hopfall.metrics().sum("hopfall_throttled_total", &[]), 0.0, "{mode:?}");
        // Not so its clients.
        wait_until("a client that comes twice", PATIENCE, || {
            !is_served(web, PROXY, &named("192.0.2.77")) || !is_served(web, PROXY, &named("192.0.2.77"))
        });
    }
}
