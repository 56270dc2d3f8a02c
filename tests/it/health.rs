//! Active checks: what passes them, that each node's run apart from all others, and what is told of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

/// Waits until the node is up (1) or down (0).
fn wait_for(hopfall: &Hopfall, node: &str, up: f64) {
    wait_until(&format!("{node} to be {up}"), PATIENCE, || {
        hopfall.metrics().value("hopfall_node_up", &[("node", node)]) == up
    });
}

fn passed(hopfall: &Hopfall, node: &str) -> f64 {
    hopfall.metrics().sum("hopfall_health_checks_total", &[("node", node), ("result", "passed")])
}

#[test]
fn a_health_check_takes_a_node_out_and_back() {
    for check in ["http", "connection"] {
        let mut node = Nginx::with_files(&[("cat.jpg", b"x"), ("health", b"ok")]);
        let other = Nginx::with_files(&[("cat.jpg", b"x"), ("health", b"ok")]);
        let health =
            format!("health: {{ check: {check}, path: /health, interval: 100ms, timeout: 100ms, fall: 2, rise: 2 }}");
        let hopfall = Fleet::new().node("flapping", node.addr()).node("other", other.addr()).pool(&health).start();
        let up = |name: &str| hopfall.metrics().value("hopfall_node_up", &[("node", name)]);
        for _ in 0..2 {
            node.kill();
            wait_until("it is down", PATIENCE, || up("flapping") == 0.0);
            assert_eq!(up("other"), 1.0);
            node.restart();
            wait_until("it is up", PATIENCE, || up("flapping") == 1.0);
        }
        let metrics = hopfall.metrics();
        assert!(metrics.value("hopfall_health_changes_total", &[("node", "flapping"), ("to", "down")]) >= 2.0);
        assert!(metrics.value("hopfall_health_checks_total", &[("node", "other"), ("result", "passed")]) >= 2.0);
        assert_eq!(hopfall.get("/cat.jpg").status, 200);
    }
}

#[test]
fn an_http_check_wants_2xx_or_3xx() {
    let sick = Origin::respond(|request| match request.target.as_str() {
        "/health" => Reply::status(500),
        _ => Reply::ok("x"),
    });
    let moved = Origin::respond(|_| Reply::status(302));
    let health = "health: { check: http, path: /health, interval: 50ms, fall: 1, rise: 1, host: check.example }";
    let hopfall = Fleet::new().node("sick", sick.addr()).node("moved", moved.addr()).pool(health).start();
    let up = |name: &str| hopfall.metrics().value("hopfall_node_up", &[("node", name)]);
    wait_until("it is down", PATIENCE, || up("sick") == 0.0);
    wait_until("the other is checked", PATIENCE, || !moved.requests().is_empty());
    assert_eq!(up("moved"), 1.0);
    assert_eq!(moved.requests()[0].header("host"), Some("check.example"));
}

/// Answers checks of `/health` with the reply that `which` numbers, and all else with `x`.
fn changing(replies: Vec<Reply>, which: &Arc<AtomicUsize>) -> Origin {
    let which = which.clone();
    Origin::respond(move |request| match request.target.as_str() {
        "/health" => replies[which.load(Ordering::Relaxed)].clone(),
        _ => Reply::ok("x"),
    })
}

#[test]
fn an_http_body_check_looks_for_its_regex() {
    let which = Arc::new(AtomicUsize::new(0));
    let tail = |start: &str, end: &str| format!("{start}{}{end}", "-".repeat(70_000));
    // The reply, whether it passes, and why not.
    let cases = [
        (Reply::ok("status: ok\n"), true, ""),
        (Reply::ok("status: maintenance, see /very-private"), false, "is not in the 38 bytes of its body"),
        (Reply::ok("status: ok").chunked(), true, ""),
        (Reply::ok(""), false, "is not in the 0 bytes of its body"),
        (Reply::ok(tail("status: ok\n", "")).chunked(), true, ""),
        (Reply::ok(tail("", "\nstatus: ok")), false, "is not in the 65536 bytes of its body"),
        (Reply::ok("status: ok").until_close(), true, ""),
        (Reply::ok("status: ok\nand more").cut_after(12), false, "a check failed: http_response_incomplete"),
        (Reply::ok("status: ok"), true, ""),
        (Reply::ok("status: ok").with_status(500), false, "status 500, where 200-399 is expected"),
    ];
    let node = changing(cases.iter().map(|(reply, ..)| reply.clone()).collect(), &which);
    let health =
        "health: { check: http_body, path: /health, body: '(?m)^status: ok$', interval: 50ms, fall: 1, rise: 1 }";
    let hopfall = Fleet::new().node("node", node.addr()).pool(health).start();
    wait_until("a check passes", PATIENCE, || passed(&hopfall, "node") >= 1.0);
    for (case, (_, passes, told)) in cases.iter().enumerate().skip(1) {
        which.store(case, Ordering::Relaxed);
        wait_for(&hopfall, "node", if *passes { 1.0 } else { 0.0 });
        if !passes {
            hopfall.wait_for_log(told);
        }
    }
    hopfall.wait_for_log("node node of pool images is down: its checks fail: status 500, where 200-399 is expected");
    assert!(!hopfall.log().contains("very-private"), "a body is not told");
    let check = &node.requests()[0];
    assert_eq!((check.header("accept-encoding"), check.header("connection")), (Some("identity"), Some("close")));
    assert_eq!(check.header("user-agent"), Some("hopfall-health-check"));
    let metrics = hopfall.metrics();
    let changes = |to| metrics.value("hopfall_health_changes_total", &[("node", "node"), ("to", to)]);
    assert_eq!((changes("down"), changes("up")), (5.0, 4.0));
}

#[test]
fn a_pool_says_which_statuses_pass() {
    let which = Arc::new(AtomicUsize::new(0));
    let node = changing([401, 200, 204, 503].map(Reply::status).to_vec(), &which);
    let health = "health: { check: http, path: /health, expect: [401, 204-299], interval: 50ms, fall: 1, rise: 1 }";
    let hopfall = Fleet::new().node("node", node.addr()).pool(health).start();
    wait_until("a check passes", PATIENCE, || passed(&hopfall, "node") >= 1.0);
    for (case, up) in [(1, 0.0), (2, 1.0), (3, 0.0)] {
        which.store(case, Ordering::Relaxed);
        wait_for(&hopfall, "node", up);
    }
    hopfall.wait_for_log("status 503, where 401, 204-299 is expected");
}

#[test]
fn a_node_that_hangs_delays_no_other_nodes_checks() {
    let (hanging, well) = (Origin::always(Reply::hang()), Origin::always(Reply::ok("ok")));
    let health = "health: { check: http_body, body: ok, interval: 50ms, timeout: 3s, fall: 1 }";
    let hopfall = Fleet::new().node("hanging", hanging.addr()).node("well", well.addr()).pool(health).start();
    wait_until("the one is asked", PATIENCE, || hanging.accepted() == 1);
    let before = passed(&hopfall, "well");
    wait_until("the other one is checked on", PATIENCE, || passed(&hopfall, "well") >= before + 10.0);
    assert_eq!(hanging.accepted(), 1, "all that within one check of the first");
    wait_for(&hopfall, "hanging", 0.0);
    hopfall.wait_for_log("node hanging of pool images is down: its checks fail: ");
    assert_eq!(hopfall.metrics().value("hopfall_node_up", &[("node", "well")]), 1.0);
}
