//! What happened lately: the changes of state that an operator wants to see, the last hundred of them.
//!
//! A loop that goes on is one event that is moved up, so that it does not drive out the others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The last events, oldest first.
#[derive(Default)]
pub struct History(Mutex<VecDeque<Event>>);

/// One change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened, or happened last.
    pub at: SystemTime,
    pub kind: Kind,
    /// What it is about; empty where it is about none.
    pub pool: String,
    pub node: String,
    /// Why, or what followed, in words.
    pub told: String,
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Up,
    Down,
    /// Its share of 404s jumped.
    Suspect,
    /// An operator has set its mode.
    Mode,
    /// It sent requests back to us.
    Loop,
    /// An operator had paths forgotten.
    Purged,
    Reloaded,
    NotReloaded,
}

impl Kind {
    /// The closed word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Up => "up",
            Kind::Down => "down",
            Kind::Suspect => "suspect",
            Kind::Mode => "mode",
            Kind::Loop => "loop",
            Kind::Purged => "purged",
            Kind::Reloaded => "reloaded",
            Kind::NotReloaded => "not_reloaded",
        }
    }
}

impl History {
    /// Notes what happened to a node. `told` is cut where it is very long.
    pub fn note(&self, at: SystemTime, kind: Kind, [pool, node]: [&str; 2], told: &str) {
        let mut told = told.to_owned();
        if told.len() > MOST_TOLD {
            told.truncate(told.floor_char_boundary(MOST_TOLD));
            told.push('…');
        }
        let event = Event { at, kind, pool: pool.to_owned(), node: node.to_owned(), told };
        let mut events = self.events();
        if kind == Kind::Loop {
            events.retain(|before| (before.kind, &before.node) != (kind, &event.node));
        }
        if events.len() == MOST_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// The same for what is about no node.
    pub fn note_here(&self, at: SystemTime, kind: Kind, told: &str) {
        self.note(at, kind, ["", ""], told);
    }

    /// The last of them first.
    pub fn latest(&self) -> Vec<Event> {
        self.events().iter().rev().cloned().collect()
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MOST_EVENTS: usize = 100;
/// In bytes. A config's mistakes can be many.
const MOST_TOLD: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn it_keeps_the_last_hundred_and_tells_the_last_first() {
        let history = History::default();
        (0..150).for_each(|i| history.note(at(i), Kind::Up, ["p", "a"], ""));
        let kept = history.latest();
        assert_eq!((kept.len(), kept[0].at, kept[99].at), (100, at(149), at(50)));
    }

    #[test]
    fn a_loop_that_goes_on_is_one_event() {
        let history = History::default();
        history.note(at(0), Kind::Down, ["p", "a"], "");
        for i in 1..500 {
            history.note(at(i), Kind::Loop, ["", "a"], "points back");
            history.note(at(i), Kind::Loop, ["", "b"], "points back");
        }
        let kept = history.latest();
        let told: Vec<_> = kept.iter().map(|event| (event.kind, event.node.as_str(), event.at)).collect();
        assert_eq!(told, [(Kind::Loop, "b", at(499)), (Kind::Loop, "a", at(499)), (Kind::Down, "a", at(0))]);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let history = History::default();
        history.note_here(at(0), Kind::NotReloaded, &"ü".repeat(10_000));
        assert!(history.latest()[0].told.len() < 510);
    }
}
