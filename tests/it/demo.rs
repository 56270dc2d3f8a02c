//! `hopfall demo`: what a newcomer runs first must be right.

use crate::support::hopfall;

#[test]
fn the_demo_comes_out_right() {
    let ran = hopfall::command(&["demo", "--once"]);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    for told in [
        "taiga 404 → chitoge 200",
        "none: proxy_loop_detected",
        "hopfall_loops_total{node=\"taiga\"} 1",
        "the store answers 403 to a GET with no signature",
        "All came out right.",
    ] {
        assert!(ran.stdout.contains(told), "no `{told}` in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("WRONG"), "{}", ran.stdout);
    assert!(ran.stderr.contains("node taiga points back"), "the log names the node:\n{}", ran.stderr);
    assert!(!ran.stderr.contains("ERROR"), "{}", ran.stderr);
}
