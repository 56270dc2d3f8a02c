//! What was counted lately: the counters of the last minute, looked at every two seconds, so that rates can be told.

use std::collections::VecDeque;
use std::time::Duration;

use crate::metrics::Tally;

/// Looks at the counters, oldest first. A minute of them.
#[derive(Default)]
pub struct Samples(VecDeque<(Duration, Tally)>);

/// What was counted in a span of time.
#[derive(Debug)]
pub struct Window {
    pub span: Duration,
    pub counted: Tally,
}

/// From one look to the next.
pub const EVERY: Duration = Duration::from_secs(2);
/// What shares and sums are told of.
pub const MINUTE: Duration = Duration::from_secs(60);
/// What rates are told of: short, so that they follow; long enough not to jump.
pub const MOMENT: Duration = Duration::from_secs(10);

impl Samples {
    /// Keeps a look at the counters. `at` is a clock that never goes back.
    pub fn keep(&mut self, at: Duration, tally: Tally) {
        while self.0.front().is_some_and(|(then, _)| at.saturating_sub(*then) > MINUTE) {
            self.0.pop_front();
        }
        self.0.push_back((at, tally));
    }

    /// What was counted in the `span` before `at`, where the counters are `now`: from the oldest look in it.
    pub fn window(&self, span: Duration, at: Duration, now: &Tally) -> Window {
        let oldest = self.0.iter().find(|(then, _)| at.saturating_sub(*then) <= span);
        match oldest {
            Some((then, before)) => Window { span: at.saturating_sub(*then), counted: now.since(before) },
            None => Window { span: Duration::ZERO, counted: Tally::default() },
        }
    }
}

impl Window {
    /// So many a second. A span shorter than a second counts as one, lest one request look like thousands.
    pub fn per_second(&self, count: u64) -> f64 {
        (count as f64 / self.span.as_secs_f64().max(1.0) * 1e6).round() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(requests: u64) -> Tally {
        Tally { requests, ..Tally::default() }
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let mut samples = Samples::default();
        let at = Duration::from_secs;
        assert_eq!(samples.window(MINUTE, at(0), &requests(5)).per_second(5), 5.0, "nothing to compare with");
        // 10 a second, and from 100 s on 50.
        let count = |second: u64| if second < 100 { second * 10 } else { 1000 + (second - 100) * 50 };
        for second in (0..200).step_by(2) {
            samples.keep(at(second), requests(count(second)));
        }
        for (now, span, expected) in [(199, MOMENT, 50.0), (199, MINUTE, 50.0)] {
            let window = samples.window(span, at(now), &requests(count(now)));
            assert!(window.span <= span && window.span + EVERY >= span, "{:?}", window.span);
            assert_eq!(window.per_second(window.counted.requests), expected);
        }
        assert_eq!(samples.0.len(), 31, "a minute of them");
    }

    #[test]
    fn a_minute_without_a_look_has_no_window() {
        let mut samples = Samples::default();
        samples.keep(Duration::ZERO, requests(1));
        let window = samples.window(MINUTE, Duration::from_secs(61), &requests(100));
        assert_eq!((window.span, window.counted), (Duration::ZERO, Tally::default()));
    }
}
