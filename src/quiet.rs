//! Telling of the same trouble now and then, and not each time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A time of silence after something was told.
#[derive(Debug)]
pub struct Quiet {
    every: Duration,
    told: Mutex<Option<Instant>>,
}

impl Quiet {
    /// Silence for this long.
    pub const fn for_each(every: Duration) -> Quiet {
        Quiet { every, told: Mutex::new(None) }
    }

    /// Whether to tell now. If so, it is silent from `now` on.
    pub fn is_over(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let over = told.is_none_or(|told| now.saturating_duration_since(told) >= self.every);
        if over {
            *told = Some(now);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_at_once_and_then_after_each_silence() {
        let quiet = Quiet::for_each(Duration::from_secs(10));
        let start = Instant::now();
        let told: Vec<u64> = (0..25).filter(|second| quiet.is_over(start + Duration::from_secs(*second))).collect();
        assert_eq!(told, [0, 10, 20]);
    }
}
