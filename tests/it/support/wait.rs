//! Waiting for a condition, with an end. The only place in the tests that sleeps.

use std::time::{Duration, Instant};

/// Long enough for a busy two-core machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(5);

/// Waits until `done` says so; panics with `what` after `timeout`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut done: impl FnMut() -> bool) {
    wait_for(what, timeout, || done().then_some(()));
}

/// Waits until `find` finds something; panics with `what` after `timeout`.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, find: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, find) {
        Some(found) => found,
        None => panic!("waited {timeout:?} in vain for: {what}"),
    }
}

/// Whether `done` says so within `timeout`.
pub fn becomes(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    poll(timeout, || done().then_some(())).is_some()
}

fn poll<T>(timeout: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(found) = find() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        #[allow(clippy::disallowed_methods)] // the one polling primitive that all else waits with
        std::thread::sleep(POLL);
    }
}
