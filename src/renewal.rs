//! When a certificate is renewed, and when an order that failed is tried again.
//!
//! The CA's own suggestion rules where there is one (ARI, RFC 9773): it alone knows that a certificate is about to be
//! revoked, and when it has much to do. But no suggestion makes a certificate wait until its last tenth.

use std::time::Duration;

/// A stretch of time, in Unix seconds: a certificate's validity, or the window that a CA suggests for its renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: i64,
    pub to: i64,
}

impl Span {
    /// The moment at this many millionths of it.
    fn at(self, millionths: i64) -> i64 {
        self.from.saturating_add(self.to.saturating_sub(self.from).saturating_mul(millionths) / MILLION)
    }

    /// Whether this moment is in it.
    pub fn holds(self, now: i64) -> bool {
        (self.from..=self.to).contains(&now)
    }

    /// Whether so much of a certificate's life is over that somebody should look why it was not renewed.
    pub fn is_ending(self, now: i64) -> bool {
        now >= self.at(LAST_TENTH)
    }
}

/// A random number that keeps many instances, and many certificates, from doing the same at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice(u32);

impl Dice {
    /// Of any number.
    pub fn new(random: u32) -> Self {
        Dice(random % 1_000_000)
    }

    fn millionths(self) -> i64 {
        i64::from(self.0)
    }
}

/// When a certificate is to be renewed: at a random moment of the suggested window (RFC 9773 §4.2), or else when two
/// thirds of its life are over, and a little later at random. A window that ends before it begins is none.
pub fn due(life: Span, suggested: Option<Span>, dice: Dice) -> i64 {
    match suggested.filter(|window| window.from < window.to) {
        Some(window) => window.at(dice.millionths()).min(life.at(LAST_TENTH)),
        None => life.at(TWO_THIRDS + dice.millionths() / 30),
    }
}

/// How soon the CA may be asked again for its suggestion, when it says `told` (RFC 9773 §4.3.2).
pub fn ask_again(told: Duration) -> Duration {
    told.clamp(MINUTE, DAY)
}

/// Why an order failed, as far as it matters for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// The CA could not be asked, or could not answer. Asking soon again harms nobody.
    Unreachable,
    /// It said no. Most CAs allow few failed orders an hour (Let's Encrypt: five for a name).
    Refused,
}

/// The wait after the `failures`-th failure in a row. `told` is the CA's `Retry-After`; it is believed, but for a CA that
/// would have us ask without pause, or never.
pub fn pause(failures: u32, setback: Setback, told: Option<Duration>, dice: Dice) -> Duration {
    let first = match setback {
        Setback::Unreachable => Duration::from_secs(10),
        Setback::Refused => 2 * MINUTE,
    };
    let grown = |by: u32| by.saturating_pow(failures.saturating_sub(1).min(20));
    let wait = match told {
        Some(told) => told.clamp(Duration::from_secs(u64::from(grown(2))).min(MINUTE), DAY),
        None => first.saturating_mul(grown(3)).min(LONGEST_PAUSE),
    };
    wait + (wait / 10).mul_f64(f64::from(dice.0) / 1e6)
}

const MILLION: i64 = 1_000_000;
const TWO_THIRDS: i64 = 666_667;
const LAST_TENTH: i64 = 900_000;
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFE: Span = Span { from: 0, to: 90_000 };

    #[test]
    fn a_certificate_is_due_in_the_window_or_after_two_thirds_of_its_life() {
        let window = |from, to| Some(Span { from, to });
        let cases = [
            ("two thirds", None, 0, 60_000),
            ("and a thirtieth at most", None, 999_999, 63_000),
            ("the window begins", window(40_000, 50_000), 0, 40_000),
            ("and ends", window(40_000, 50_000), 999_999, 49_999),
            ("in the past: at once", window(-50_000, -40_000), 500_000, -45_000),
            ("too late", window(85_000, 95_000), 0, 81_000),
            ("no window", window(50_000, 40_000), 0, 60_000),
            ("an empty one", window(50_000, 50_000), 0, 60_000),
        ];
        for (name, suggested, dice, expected) in cases {
            assert_eq!(due(LIFE, suggested, Dice::new(dice)), expected, "{name}");
        }
        assert!(!LIFE.is_ending(80_999) && LIFE.is_ending(81_000));
    }

    #[test]
    fn a_pause_grows_and_follows_what_the_ca_says() {
        use Setback::{Refused, Unreachable};
        let cases = [
            (1, Unreachable, None, 10),
            (2, Unreachable, None, 30),
            (4, Unreachable, None, 270),
            (1, Refused, None, 120),
            (2, Refused, None, 360),
            (40, Refused, None, 6 * 3600),
            (1, Refused, Some(1), 1),
            (1, Refused, Some(3600), 3600),
            (1, Unreachable, Some(0), 1),
            (4, Unreachable, Some(0), 8),
            (40, Unreachable, Some(0), 60),
            (1, Refused, Some(u64::MAX), 24 * 3600),
        ];
        for (failures, setback, told, expected) in cases {
            let told = told.map(Duration::from_secs);
            let calm = pause(failures, setback, told, Dice::new(0));
            assert_eq!(calm, Duration::from_secs(expected), "{failures} {setback:?} {told:?}");
            let jittered = pause(failures, setback, told, Dice::new(999_999));
            assert!(jittered > calm && jittered <= calm + calm / 10, "{failures} {setback:?} {told:?}");
        }
        for (told, expected) in [(0, 60), (3600, 3600), (u64::MAX, 24 * 3600)] {
            assert_eq!(ask_again(Duration::from_secs(told)), Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_name_is_ordered_less_than_five_times_in_an_hour_by_itself() {
        let mut passed = Duration::ZERO;
        let orders = (1..).take_while(|failures| {
            passed += pause(*failures, Setback::Refused, None, Dice::new(0));
            passed < Duration::from_secs(3600)
        });
        assert!(1 + orders.count() < 5);
    }

    proptest! {
        #[test]
        fn no_suggestion_makes_a_certificate_wait_for_its_end(
            from in any::<i64>(), to in any::<i64>(), dice in any::<u32>(), born in 0..4_000_000_000_i64, lives in 3600..40_000_000_i64
        ) {
            let life = Span { from: born, to: born + lives };
            for suggested in [None, Some(Span { from, to })] {
                let due = due(life, suggested, Dice::new(dice));
                prop_assert!(due <= life.at(LAST_TENTH) && due < life.to);
            }
        }
    }
}
