//! A node's health as a state machine: time and events come in as arguments.
//!
//! Two sources speak about one state. Active checks bring a node down after `fall` failures in a row and
//! up after `rise` passes. Passive signals (real requests) bring it down the same way; where no active
//! check would ever bring it back, the ejection ends by itself after `eject_for`, on trial: one request is
//! sent there, and no other until that one is judged. A pass brings the node up, and a failure ejects it again at once.

mod expected;

use std::time::Duration;

pub use expected::{Expected, Failing};

/// When a node's health changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row that bring a node down.
    pub fall: u32,
    /// Passes in a row that bring it up.
    pub rise: u32,
    /// How long a passive ejection lasts where there is no active check.
    pub eject_for: Duration,
    /// Whether active checks run, and so decide when a node comes back.
    pub checked: bool,
}

/// Health of one node. Starts up: a node is innocent until it fails.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    /// Signals in a row against the present state.
    against: u32,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    /// Ejected by real traffic, and back on trial at this time. `tried`: a request is there already, to see.
    Ejected {
        until: Duration,
        tried: bool,
    },
}

/// What was seen of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    CheckPassed,
    CheckFailed,
    RequestPassed,
    RequestFailed,
}

/// A change of state, to be logged and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Up,
    Down,
}

impl Default for Health {
    fn default() -> Self {
        Health { state: State::Up, against: 0, since: Duration::ZERO }
    }
}

impl Health {
    pub fn is_up(&self, now: Duration) -> bool {
        match self.state {
            State::Up => true,
            State::Down => false,
            State::Ejected { until, .. } => now >= until,
        }
    }

    /// When the present state began.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether a pass would change nothing: up, with no failure counted.
    pub fn is_spotless(&self) -> bool {
        self.state == State::Up && self.against == 0
    }

    /// A request is sent there. If it is one that tries the node, no other is, unless nothing comes of it for `eject_for`.
    pub fn is_asked(&mut self, now: Duration, eject_for: Duration) {
        if let State::Ejected { until, .. } = self.state
            && now >= until
        {
            self.state = State::Ejected { until: now + eject_for, tried: true };
        }
    }

    /// Takes one signal in. `last` says that no other node of the pool is up: real traffic then never
    /// ejects this one, because a doubtful node serves more than none.
    pub fn observe(&mut self, signal: Signal, now: Duration, thresholds: &Thresholds, last: bool) -> Option<Change> {
        let passed = matches!(signal, Signal::CheckPassed | Signal::RequestPassed);
        if let State::Ejected { until, tried } = self.state
            && (tried || now >= until)
        {
            // On trial: a pass acquits at once, and a failure ejects again at once.
            let verdict = match (passed, last) {
                (true, _) => State::Up,
                (false, true) => State::Ejected { until: now, tried: false },
                (false, false) => State::Ejected { until: now + thresholds.eject_for, tried: false },
            };
            self.enter(verdict, now);
            return passed.then_some(Change::Up);
        }
        if passed == (self.state == State::Up) {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if passed {
            if self.against < thresholds.rise {
                return None;
            }
            self.enter(State::Up, now);
            return Some(Change::Up);
        }
        if self.against < thresholds.fall || (signal == Signal::RequestFailed && last) {
            return None;
        }
        let down = match signal {
            Signal::RequestFailed if !thresholds.checked => {
                State::Ejected { until: now + thresholds.eject_for, tried: false }
            }
            _ => State::Down,
        };
        self.enter(down, now);
        Some(Change::Down)
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.against = 0;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Signal::*;

    const CHECKED: Thresholds = Thresholds { fall: 3, rise: 2, eject_for: Duration::from_secs(10), checked: true };
    const UNCHECKED: Thresholds = Thresholds { checked: false, ..CHECKED };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_falls_and_rises_after_that_many_in_a_row() {
        let script: &[(Signal, Option<Change>, bool)] = &[
            (CheckFailed, None, true),
            (CheckFailed, None, true),
            (CheckPassed, None, true),
            (CheckFailed, None, true),
            (RequestFailed, None, true),
            (CheckFailed, Some(Change::Down), false),
            (CheckPassed, None, false),
            (CheckFailed, None, false),
            (CheckPassed, None, false),
            (RequestPassed, Some(Change::Up), true),
        ];
        let mut health = Health::default();
        for (step, (signal, change, up)) in script.iter().enumerate() {
            assert_eq!(health.observe(*signal, at(step as u64), &CHECKED, false), *change, "step {step}");
            assert_eq!(health.is_up(at(step as u64)), *up, "step {step}");
        }
        assert_eq!(health.since(), at(9));
    }

    #[test]
    fn an_ejection_without_checks_ends_on_trial() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.observe(RequestFailed, at(0), &UNCHECKED, false);
        }
        assert!(!health.is_up(at(9)));
        assert!(health.is_up(at(10)));
        assert_eq!(health.observe(RequestFailed, at(11), &UNCHECKED, false), None, "it never was up again");
        assert!(!health.is_up(at(20)), "one failure on trial ejects again");
        assert!(health.is_up(at(21)));
        assert_eq!(health.observe(RequestFailed, at(21), &UNCHECKED, true), None);
        assert!(health.is_up(at(21)), "but never the last one");
        assert_eq!(health.observe(RequestPassed, at(21), &UNCHECKED, false), Some(Change::Up));
        assert_eq!(health.observe(RequestFailed, at(22), &UNCHECKED, false), None, "a pass on trial acquits");
    }

    #[test]
    fn one_request_at_a_time_tries_a_node() {
        let mut health = Health::default();
        health.is_asked(at(0), UNCHECKED.eject_for);
        for _ in 0..3 {
            health.observe(RequestFailed, at(0), &UNCHECKED, false);
        }
        health.is_asked(at(5), UNCHECKED.eject_for);
        assert!(health.is_up(at(10)), "who is asked before the trial, because all are down, tries nothing");
        health.is_asked(at(10), UNCHECKED.eject_for);
        assert!(!health.is_up(at(19)));
        assert!(health.is_up(at(20)), "nothing came of it");
        health.is_asked(at(20), UNCHECKED.eject_for);
        assert_eq!(health.observe(RequestFailed, at(25), &UNCHECKED, false), None);
        assert!(!health.is_up(at(34)));
        health.is_asked(at(35), UNCHECKED.eject_for);
        assert_eq!(health.observe(RequestPassed, at(36), &UNCHECKED, false), Some(Change::Up));
        assert!(health.is_up(at(36)));
    }

    #[test]
    fn traffic_never_ejects_the_last_node_but_a_check_may_say_that_it_is_down() {
        let mut health = Health::default();
        for _ in 0..9 {
            assert_eq!(health.observe(RequestFailed, at(0), &CHECKED, true), None);
        }
        assert!(health.is_up(at(1)));
        assert_eq!(health.observe(CheckFailed, at(2), &CHECKED, true), Some(Change::Down));
    }
}
