//! Absence health: a node whose share of 404s jumps far above what it ever was.
//!
//! A disk that is not mounted answers fast 404s and looks healthy. What gives it away is the change, not the
//! share: a lean node may lack nine files of ten, and always has. So each node's own share is learned
//! slowly, and a quick share is held against it. A node that jumps is asked last for a while, never taken
//! out: it may be right.

use std::time::Duration;

/// The 404s of one node among its first attempts.
#[derive(Clone, Debug, Default)]
pub struct Absence {
    /// Attempts seen, up to `LEARNED`.
    seen: u32,
    /// The share over some thousands of attempts, and over the last hundred or so: 0 to 1.
    usual: f64,
    recent: f64,
    suspect_until: Option<Duration>,
}

/// Attempts before a share is known.
const LEARNED: u32 = 500;
/// The weight of one attempt in the usual share, and in the recent one.
const SLOW: f64 = 1.0 / 2000.0;
const QUICK: f64 = 1.0 / 100.0;
/// The recent share that no node reaches by chance, and the usual one above which a jump means nothing.
const ALL: f64 = 0.98;
const LEAN: f64 = 0.95;
/// How long a suspect is asked last, before it is tried again.
const SUSPECT_FOR: Duration = Duration::from_secs(30);

impl Absence {
    /// Takes one attempt in. When the node has just become a suspect: until when it is one.
    pub fn observe(&mut self, lacks: bool, now: Duration) -> Option<Duration> {
        if self.is_suspect(now) {
            // What it says now is not what is usual for it.
            return None;
        }
        if self.suspect_until.take().is_some() {
            self.recent = self.usual;
        }
        let value = if lacks { 1.0 } else { 0.0 };
        if self.seen < LEARNED {
            self.seen += 1;
            // The plain mean, until there is enough to forget.
            self.usual += (value - self.usual) / f64::from(self.seen);
            self.recent = self.usual;
            return None;
        }
        self.usual += (value - self.usual) * SLOW;
        self.recent += (value - self.recent) * QUICK;
        let jumped = self.usual < LEAN && self.recent > ALL.max(f64::midpoint(self.usual, 1.0));
        self.suspect_until = jumped.then_some(now + SUSPECT_FOR);
        self.suspect_until
    }

    pub fn is_suspect(&self, now: Duration) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `count` attempts of which about `share` are absent, in an order that is none. Gives how many
    /// were seen when it became a suspect.
    fn feed(absence: &mut Absence, count: u32, share: u32, now: Duration) -> Option<u32> {
        (0..count).find(|i| absence.observe(i.wrapping_mul(7919) % 100 < share, now).is_some())
    }

    #[test]
    fn a_jump_is_seen_whatever_the_share_was() {
        for share in [0, 10, 40, 60, 90] {
            let mut absence = Absence::default();
            assert_eq!(feed(&mut absence, 20_000, share, Duration::ZERO), None, "{share} % is usual for it");
            let noticed = feed(&mut absence, 2000, 100, Duration::ZERO);
            assert!(noticed.is_some_and(|after| after < 500), "{share} %: {noticed:?}");
            assert!(absence.is_suspect(Duration::from_secs(29)));
            assert!(!absence.is_suspect(Duration::from_secs(30)), "it is tried again");
            let again = feed(&mut absence, 2000, 100, Duration::from_secs(31));
            assert!(again.is_some(), "and seen again");
        }
    }

    #[test]
    fn what_has_always_been_so_is_no_jump() {
        for share in [97, 100] {
            let mut absence = Absence::default();
            assert_eq!(feed(&mut absence, 20_000, share, Duration::ZERO), None, "{share} %");
        }
        let mut young = Absence::default();
        assert_eq!(feed(&mut young, 400, 0, Duration::ZERO), None);
        assert_eq!(feed(&mut young, 100, 100, Duration::ZERO), None, "too little is known yet");
        let mut drifting = Absence::default();
        for share in 0..90 {
            assert_eq!(feed(&mut drifting, 1000, share, Duration::ZERO), None, "a slow drift to {share} %");
        }
    }
}
