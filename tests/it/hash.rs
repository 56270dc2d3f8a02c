//! `algorithm: hash`: a path has its own first node, and all else is as without it.

use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::wait::{PATIENCE, wait_until};

#[test]
fn a_path_is_asked_of_its_own_node_first_and_falls_back_from_there() {
    let names: Vec<String> = (0..20).map(|i| format!("{i}.jpg")).collect();
    let mut lean = Nginx::with_files(&[]);
    let full = names.iter().fold(Nginx::builder(), |node, name| node.file(name, name)).start();
    let fleet = Fleet::new().node("lean", lean.addr()).node("full", full.addr()).pool("algorithm: hash");
    let hopfall = fleet.pool("health: { eject_for: 300ms }").start();
    let mut client = hopfall.connect();
    for name in names.iter().chain(&names).chain(&names) {
        let answer = client.request("GET", &format!("/{name}?v=1"), &[]).response();
        assert_eq!((answer.status, answer.text()), (200, name.clone()));
    }
    let asked = |node: &Nginx, name: &str| node.requests_for(&format!("/{name}?v=1")).len();
    let (leans, fulls): (Vec<_>, Vec<_>) = names.iter().partition(|name| asked(&lean, name) > 0);
    assert!(!leans.is_empty() && !fulls.is_empty(), "both are first for some: {leans:?} {fulls:?}");
    for name in &names {
        let first_is_lean = leans.contains(&name);
        assert_eq!((asked(&lean, name), asked(&full, name)), (if first_is_lean { 3 } else { 0 }, 3), "{name}");
    }
    assert_eq!(client.request("GET", "/nowhere.jpg", &[]).response().status, 404);
    assert_eq!((lean.requests_for("/nowhere.jpg").len(), full.requests_for("/nowhere.jpg").len()), (1, 1));

    // What changes a path goes where that path is looked for. (nginx refuses it: what counts is who was asked.)
    for (name, node) in [(leans[0], &lean), (fulls[0], &full)] {
        assert_eq!(hopfall.connect().request("DELETE", &format!("/{name}"), &[]).response().status, 405);
        wait_until("the DELETE in its log", PATIENCE, || node.requests_for(&format!("/{name}")).len() == 1);
    }

    // Who is gone is skipped, and its paths come back to it.
    lean.kill();
    for name in &names {
        assert_eq!(hopfall.get(&format!("/{name}")).status, 200);
    }
    lean.restart();
    lean.forget();
    wait_until("the lean node to be first again", PATIENCE, || {
        hopfall.get(&format!("/{}", leans[0]));
        !lean.requests().is_empty()
    });
}

/// So nodes that nginx has filled by path are asked for what they have.
#[test]
fn paths_go_where_nginx_sends_them() {
    let node =
        |name: &str| Nginx::builder().extra_server_lines(&format!("location / {{ return 200 {name}; }}")).start();
    let nodes = [(node("a"), 3), (node("b"), 1), (node("c"), 2)];
    let mut fleet = Fleet::new().pool("algorithm: hash");
    let mut upstream = String::from("upstream ring { hash $uri consistent;");
    for (i, (node, weight)) in nodes.iter().enumerate() {
        upstream.push_str(&format!("server {} weight={weight};", node.addr()));
        fleet = fleet.node_with(&format!("n{i}"), node.addr(), &format!("weight: {weight}"));
    }
    let nginx = Nginx::builder()
        .extra_http_lines(&format!("{upstream} }}"))
        .extra_server_lines("location / { proxy_pass http://ring; }")
        .start();
    let hopfall = fleet.start();
    let (mut by_nginx, mut by_hopfall) = (Client::connect(nginx.addr()), hopfall.connect());
    let mut count = std::collections::BTreeMap::new();
    for i in 0..200 {
        let path = format!("/img/{i}.jpg");
        let said = by_hopfall.request("GET", &path, &[]).response().text();
        assert_eq!(said, by_nginx.request("GET", &path, &[]).response().text(), "{path}");
        *count.entry(said).or_insert(0) += 1;
    }
    assert!(count.len() == 3 && count["a"] > count["b"], "{count:?}");
}
