//! The accident replayed: nodes that ask hopfall for what hopfall asks them for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::{HeaderMode, Nginx};

const MISSING: usize = 500;

/// Where the nodes are, seen from hopfall.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// On machines of their own, each with an address of its own.
    Apart,
    /// On hopfall's own machine, with the address that every local client has.
    Together,
}

struct Accident {
    hopfall: Hopfall,
    chitoge: Nginx,
    taiga: Nginx,
}

/// Both nodes hold cat.jpg; chitoge alone holds dog.jpg. What a node lacks it asks hopfall for.
fn accident(mode: HeaderMode, place: Place) -> Accident {
    let web = hopfall::reserve();
    let node = |address: &str, files: &[(&str, &[u8])]| {
        let mut node = Nginx::at(address).miss_proxied_to(web, mode);
        if place == Place::Apart {
            node = node.proxy_bind(address);
        }
        files.iter().fold(node, |node, (path, bytes)| node.file(path, bytes)).start()
    };
    let (a, b) = if place == Place::Apart { ("127.0.0.2", "127.0.0.3") } else { ("127.0.0.1", "127.0.0.1") };
    let chitoge = node(a, &[("cat.jpg", b"meow"), ("dog.jpg", b"woof")]);
    let taiga = node(b, &[("cat.jpg", b"meow")]);
    let fleet = Fleet::new().node("chitoge", chitoge.addr()).node("taiga", taiga.addr()).pool("header_timeout: 2s");
    let hopfall = fleet.builder().address("web", web).start();
    Accident { hopfall, chitoge, taiga }
}

/// 500 concurrent requests for missing images while others ask for present ones.
fn replay(mode: HeaderMode, place: Place) {
    let Accident { hopfall, chitoge, taiga } = accident(mode, place);
    let web = hopfall.web();

    // One request alone first: the bound on time and on requests per node.
    // (Of five, because a busy machine may hold one up.)
    let timed = (0..5).map(|i| {
        let began = Instant::now();
        let alone = get(web, &format!("/alone-{i}.jpg"));
        assert!(matches!(alone.status, 404 | 503), "{mode:?} {place:?}: {}", alone.status);
        began.elapsed()
    });
    let fastest = timed.min().unwrap();
    assert!(fastest < Duration::from_secs(1), "{mode:?} {place:?}: {fastest:?}");

    let stop = Arc::new(AtomicBool::new(false));
    let present: Vec<_> = ["/cat.jpg", "/dog.jpg"].into_iter().map(|path| present(web, path, stop.clone())).collect();
    let clients: Vec<_> = (0..50).map(|i| missing(web, i)).collect();
    for client in clients {
        for (path, status, took) in client.join().unwrap() {
            assert!(matches!(status, 404 | 503), "{mode:?} {place:?} {path}: {status}");
            assert!(took < Duration::from_secs(5), "{mode:?} {place:?} {path}: {took:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for present in present {
        let (sent, failed) = present.join().unwrap();
        assert!(
            sent > 0 && failed.is_empty(),
            "{mode:?} {place:?}: {} of {sent} present images failed: {failed:?}",
            failed.len()
        );
    }

    for (name, node) in [("chitoge", &chitoge), ("taiga", &taiga)] {
        let mut per_path: HashMap<String, usize> = HashMap::new();
        for request in node.requests() {
            *per_path.entry(request.target).or_default() += 1;
        }
        let missing: Vec<_> =
            per_path.iter().filter(|(path, _)| path.contains("missing") || path.contains("alone")).collect();
        assert!(missing.len() > MISSING / 2, "{mode:?} {place:?}: {name} was hardly asked");
        let worst = missing.iter().map(|(_, count)| **count).max().unwrap();
        assert!(worst <= 2, "{mode:?} {place:?}: {name} got {worst} requests for one of a client");
        assert!(
            hopfall.metrics().value("hopfall_loops_total", &[("node", name)]) > 0.0,
            "{mode:?} {place:?}: {name} is not named"
        );
        hopfall.wait_for_log(&format!("node {name} points back"));
    }
}

fn missing(web: SocketAddr, i: usize) -> std::thread::JoinHandle<Vec<(String, u16, Duration)>> {
    std::thread::spawn(move || {
        let mut client = Client::connect(web);
        (0..MISSING / 50)
            .map(|j| {
                let path = format!("/missing-{i}-{j}.jpg");
                let began = Instant::now();
                let answer = client.request("GET", &path, &[]).response();
                (path, answer.status, began.elapsed())
            })
            .collect()
    })
}

fn present(web: SocketAddr, path: &'static str, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, Vec<u16>)> {
    std::thread::spawn(move || {
        let (mut sent, mut failed) = (0, Vec::new());
        let mut client = Client::connect(web);
        while !stop.load(Ordering::Relaxed) {
            let answer = client.request("GET", path, &[]).response();
            sent += 1;
            if answer.status != 200 || answer.body.len() != 4 {
                failed.push(answer.status);
            }
        }
        (sent, failed)
    })
}

#[test]
fn nodes_that_keep_our_headers_cannot_make_a_loop() {
    replay(HeaderMode::Kept, Place::Apart);
}

#[test]
fn nodes_that_drop_our_headers_cannot_make_a_loop() {
    replay(HeaderMode::Dropped, Place::Apart);
}

#[test]
fn neighbours_that_keep_our_headers_cannot_make_a_loop() {
    replay(HeaderMode::Kept, Place::Together);
}

#[test]
fn neighbours_that_drop_our_headers_cannot_make_a_loop() {
    replay(HeaderMode::Dropped, Place::Together);
}

/// Each of two hopfalls has a node that points at the other one.
#[test]
fn nodes_that_call_each_other_through_two_hopfalls_cannot_make_a_loop() {
    let (here, there) = (hopfall::reserve(), hopfall::reserve());
    let a = Nginx::at("127.0.0.2").miss_proxied_to(there, HeaderMode::Kept).proxy_bind("127.0.0.2").start();
    let b = Nginx::at("127.0.0.3").miss_proxied_to(here, HeaderMode::Kept).proxy_bind("127.0.0.3").start();
    let first = Fleet::new().node("a", a.addr()).builder().address("web", here).start();
    let second = Fleet::new().node("b", b.addr()).builder().address("web", there).start();
    assert_eq!(get(here, "/missing.jpg").status, 404);
    assert_eq!((a.requests().len(), b.requests().len()), (1, 1));
    let named = |hopfall: &Hopfall| hopfall.metrics().sum("hopfall_loops_total", &[]);
    assert_eq!((named(&first), named(&second)), (1.0, 0.0));
}

#[test]
fn a_called_back_request_is_404_at_once_and_says_why() {
    let Accident { hopfall, chitoge, .. } = accident(HeaderMode::Kept, Place::Apart);
    get(hopfall.web(), "/x.jpg");
    let hops = chitoge.requests_for("/x.jpg")[0].clone();
    let (via, cdn_loop) = (hops.header("via").unwrap(), hops.header("cdn-loop").unwrap());
    for headers in [vec![("Via", via)], vec![("CDN-Loop", cdn_loop)], vec![("Via", via), ("CDN-Loop", cdn_loop)]] {
        chitoge.forget();
        let answer = hopfall.connect().request("GET", "/cat.jpg", &headers).response();
        assert_eq!(answer.status, 404, "a client that forges our id harms its own request");
        assert!(answer.header("proxy-status").unwrap().contains("proxy_loop_detected"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(chitoge.requests().len(), 0);
    }
    let log = hopfall.wait_for_access_log(4);
    assert!(log.iter().any(|line| line["looped_by"] == "chitoge"), "{log:?}");
}

/// The address alone gives a node away, and still S3 is asked.
#[test]
fn a_node_that_drops_our_headers_still_gets_what_s3_has() {
    let web = hopfall::reserve();
    let node = Nginx::at("127.0.0.2").miss_proxied_to(web, HeaderMode::Dropped).proxy_bind("127.0.0.2").start();
    let s3 = crate::support::seaweed::Seaweed::shared();
    s3.bucket("loops").put("loops", "fox.jpg", b"ring", "image/jpeg");
    let hopfall = Fleet::new().node("a", node.addr()).s3("loops").builder().address("web", web).start();
    assert_eq!(hopfall.get("/fox.jpg").text(), "ring");
    assert_eq!(node.requests_for("/fox.jpg").len(), 1);
    assert_eq!(hopfall.get("/nowhere.jpg").status, 404);
    assert_eq!(node.requests_for("/nowhere.jpg").len(), 1);
}

#[test]
fn a_hopfall_of_the_same_key_is_no_stranger() {
    // A second hopfall on the node's own machine: its requests come from the node's address, with a mark.
    let node = Nginx::at("127.0.0.2").file("cat.jpg", b"meow").start();
    let web = hopfall::reserve();
    let fleet = |name: &str, node: SocketAddr| {
        let identity = format!("identity: {{ name: {name}, mark_key: \"${{KEY}}\" }}");
        Fleet::new().node("n", node).top(&identity)
    };
    let _outer = fleet("outer", node.addr()).builder().env("KEY", "sesame").address("web", web).start();
    let inner = fleet("inner", web).builder().env("KEY", "sesame").start();
    assert_eq!(inner.get("/cat.jpg").text(), "meow");
}

/// Honest local clients of nodes on the same machine must not be taken for a loop.
#[test]
fn a_stampede_of_neighbours_on_one_path_is_served() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let other = Nginx::with_files(&[]);
    let hopfall = Fleet::new().node("a", node.addr()).node("b", other.addr()).start();
    let web = hopfall.web();
    let clients: Vec<_> = (0..100)
        .map(|_| std::thread::spawn(move || (0..20).map(|_| get(web, "/cat.jpg").status).collect::<Vec<_>>()))
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), [200; 20]);
    }
    assert_eq!(hopfall.metrics().sum("hopfall_loops_total", &[]), 0.0);
}

/// One request, and as many nodes as there may be: each is asked at most twice, within a second.
#[test]
fn any_number_of_neighbours_cannot_make_a_loop() {
    for count in [1, 3, 5] {
        let web = hopfall::reserve();
        let nodes: Vec<Nginx> =
            (0..count).map(|_| Nginx::builder().miss_proxied_to(web, HeaderMode::Dropped).start()).collect();
        let fleet =
            nodes.iter().enumerate().fold(Fleet::new(), |fleet, (i, node)| fleet.node(&format!("n{i}"), node.addr()));
        let hopfall = fleet.pool("header_timeout: 5s").builder().address("web", web).start();
        let timed = (0..3).map(|i| {
            let path = format!("/missing-{i}.jpg");
            let began = Instant::now();
            assert!(matches!(hopfall.get(&path).status, 404 | 503));
            let took = began.elapsed();
            for node in &nodes {
                let asked = node.requests_for(&path).len();
                assert!(asked <= 2, "{count} nodes: one of them got {asked} requests for one of a client");
            }
            took
        });
        let fastest = timed.min().unwrap();
        assert!(fastest < Duration::from_secs(1), "{count} nodes: {fastest:?}");
    }
}

/// Uploads are never repeated, and a node that sends them back cannot fill its own places.
#[test]
fn an_upload_that_a_node_sends_back_comes_to_an_end() {
    for (address, bound) in [("127.0.0.2", 1), ("127.0.0.1", 17)] {
        let web = hopfall::reserve();
        let mut node = Nginx::at(address).extra_server_lines(&format!(
            "location /up {{ proxy_pass http://{web}; proxy_set_header Via \"\"; proxy_set_header CDN-Loop \"\"; {} }}",
            if bound == 1 { format!("proxy_bind {address};") } else { String::new() }
        ));
        node = node.log_header("x-round");
        let node = node.start();
        let hopfall = Fleet::new().node("a", node.addr()).builder().address("web", web).start();
        let answer = hopfall.connect().upload("POST", "/up", &[], b"hello").response();
        assert!(answer.status >= 400, "{}", answer.status);
        assert!(node.requests().len() <= bound, "{address}: {} requests", node.requests().len());
        assert!(hopfall.metrics().value("hopfall_loops_total", &[("node", "a")]) > 0.0, "{address}");
    }
}

/// The second pool of a chain is bounded as the first one is.
#[test]
fn neighbours_in_a_second_pool_cannot_make_a_loop() {
    let web = hopfall::reserve();
    let near = Nginx::with_files(&[]);
    let far: Vec<Nginx> = (0..2).map(|_| Nginx::builder().miss_proxied_to(web, HeaderMode::Dropped).start()).collect();
    let yaml = format!(
        "listeners: [{{ name: web, address: \"{{web}}\", route: r }}]
pools:
  near: {{ nodes: [{{ name: near, address: \"{}\" }}] }}
  far: {{ nodes: [{{ name: a, address: \"{}\" }}, {{ name: b, address: \"{}\" }}] }}
routes:
  r: {{ chain: [near, far] }}
admin: {{ address: \"{{admin}}\" }}
",
        near.addr(),
        far[0].addr(),
        far[1].addr()
    );
    let hopfall = Hopfall::builder(&yaml).address("web", web).start();
    assert!(matches!(hopfall.get("/missing.jpg").status, 404 | 503));
    for node in &far {
        assert!(node.requests().len() <= 2, "{} requests", node.requests().len());
    }
    assert!(near.requests().len() <= 4);
}

/// A client cannot hide our name behind an unclosed comment, a quote or a byte beyond ASCII, not even where
/// a node joins lines.
#[test]
fn a_client_cannot_switch_the_detection_off() {
    for (via, cdn_loop) in [("1.1 a (", "a;x=\""), ("1.1 \u{e9}", "\u{e9}")] {
        let web = hopfall::reserve();
        let node = Nginx::at("127.0.0.2").miss_proxied_to(web, HeaderMode::Kept).proxy_bind("127.0.0.9").start();
        let hopfall = Fleet::new().node("a", node.addr()).builder().address("web", web).start();
        let answer = hopfall.connect().request("GET", "/x", &[("Via", via), ("CDN-Loop", cdn_loop)]).response();
        assert_eq!(answer.status, 404);
        assert_eq!(node.requests().len(), 1);
        let hops = node.requests()[0].clone();
        assert!(hops.header("via").unwrap().contains(", 1.1 hopfall-"), "one line: {:?}", hops.header("via"));
    }
}

/// An endpoint of S3 may be a name that leads back to hopfall.
#[test]
fn a_store_that_is_hopfall_itself_cannot_make_a_loop() {
    let web = hopfall::reserve();
    let node = Nginx::at("127.0.0.2").start();
    let fleet = Fleet::new().node("a", node.addr()).store("cats", web, "AK", "SK");
    let hopfall = fleet.builder().address("web", web).start();
    assert_eq!(hopfall.get("/x").status, 404);
    assert_eq!(node.requests_for("/x").len(), 1);
    assert!(hopfall.metrics().value("hopfall_loops_total", &[("node", "s3")]) > 0.0);
}
