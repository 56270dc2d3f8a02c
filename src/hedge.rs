//! Hedging: when a node keeps silent for longer than it ever does, the next one is asked as well.
//!
//! Three numbers decide, all kept without a clock of their own: how long this node's heads take (an estimate
//! of a high percentile), how many extra requests there may be (a budget in percent of all), and how often in
//! a row the node was left behind.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// When and how much a pool hedges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Shortest wait before a second node is asked.
    pub floor: Duration,
    /// Longest wait.
    pub ceiling: Duration,
    /// Extra requests, in percent of all.
    pub budget: u32,
}

/// How long a node's heads take: about the 97th percentile, in microseconds.
///
/// Each head above the estimate raises it by 5 %, each one below lowers it by a thirtieth of that, so it
/// comes to rest where three in a hundred are above.
pub struct Latency(AtomicU64);

/// The budget of extra requests, in hundredths of a request.
pub struct Budget(AtomicI64);

/// How often in a row a node was left behind, and until when it is asked last for it.
#[derive(Default)]
pub struct Silence {
    in_a_row: AtomicU32,
    until: AtomicU64,
}

/// Times left behind in a row that make a node the last to be asked.
const SILENT: u32 = 3;
/// How long, before it is tried again.
const SILENT_FOR: Duration = Duration::from_secs(5);
/// Most extra requests that may be saved up: what a node that hangs costs until it is known.
const SAVED: i64 = 200 * 100;

impl Latency {
    /// Nothing is known yet, so the longest wait is taken.
    pub fn new() -> Self {
        Latency(AtomicU64::new(0))
    }

    pub fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let known = self.0.load(Ordering::Relaxed);
        let next = match known {
            0 => took,
            known if took > known => known + known / 20 + 1,
            known => known - known / 600,
        };
        // Two threads at once lose one step of the estimate, which the next head makes good.
        self.0.store(next, Ordering::Relaxed);
    }

    /// How long to wait for a head before another node is asked.
    pub fn patience(&self, rules: &Rules) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => rules.ceiling,
            known => Duration::from_micros(known).clamp(rules.floor, rules.ceiling),
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

impl Budget {
    /// Full, so that a node that hangs from the start is not felt either.
    pub fn new() -> Self {
        Budget(AtomicI64::new(SAVED))
    }

    /// One more request.
    pub fn earn(&self, rules: &Rules) {
        if self.0.load(Ordering::Relaxed) < SAVED {
            self.0.fetch_add(i64::from(rules.budget), Ordering::Relaxed);
        }
    }

    /// Takes one extra request, if there is one.
    pub fn spend(&self) -> bool {
        let taken = self.0.fetch_sub(100, Ordering::Relaxed) >= 100;
        if !taken {
            self.0.fetch_add(100, Ordering::Relaxed);
        }
        taken
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new()
    }
}

impl Silence {
    /// Another node answered while this one still had not. `now` is the process's own time. True when it
    /// has just become the last to be asked.
    pub fn left_behind(&self, now: Duration) -> bool {
        let count = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count < SILENT {
            return false;
        }
        let until = u64::try_from((now + SILENT_FOR).as_millis()).unwrap_or(u64::MAX);
        let before = self.until.swap(until, Ordering::Relaxed);
        u128::from(before) <= now.as_millis()
    }

    /// The node has sent a head.
    pub fn spoke(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    pub fn is_silent(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.until.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { floor: Duration::from_millis(5), ceiling: Duration::from_millis(100), budget: 5 };

    #[test]
    fn patience_comes_to_rest_at_a_high_percentile() {
        let latency = Latency::new();
        assert_eq!(latency.patience(&RULES), RULES.ceiling);
        // 0 to 99.99 ms, evenly, in an order that is none.
        for i in 0..200_000u64 {
            latency.observe(Duration::from_micros(i * 7919 % 10_000 * 10));
        }
        let patience = latency.patience(&RULES).as_millis();
        assert!((90..=100).contains(&patience), "{patience} ms");
        for _ in 0..20_000 {
            latency.observe(Duration::from_micros(100));
        }
        assert_eq!(latency.patience(&RULES), RULES.floor);
    }

    #[test]
    fn a_budget_is_a_share_of_all_requests() {
        let budget = Budget::new();
        let saved = std::iter::from_fn(|| budget.spend().then_some(())).count();
        assert_eq!(saved, 200);
        for _ in 0..1000 {
            budget.earn(&RULES);
        }
        assert_eq!(std::iter::from_fn(|| budget.spend().then_some(())).count(), 50);
    }

    #[test]
    fn a_node_left_behind_again_and_again_is_asked_last() {
        let silence = Silence::default();
        let at = Duration::from_secs;
        assert!(!silence.left_behind(at(1)));
        assert!(!silence.left_behind(at(1)));
        assert!(!silence.is_silent(at(1)));
        assert!(silence.left_behind(at(1)), "now it is known");
        assert!(!silence.left_behind(at(2)), "and was known already");
        assert!(silence.is_silent(at(6)));
        assert!(!silence.is_silent(at(7)), "it is tried again");
        assert!(silence.left_behind(at(8)), "and is known again at once");
        silence.spoke();
        assert!(!silence.is_silent(at(8)));
        assert!(!silence.left_behind(at(8)));
    }
}
