//! What S3 costs, by the prices of the config, and the day's budget.
//!
//! Sums are in nanodollars: a request at Amazon costs 400 of them.

/// Prices of one store. There is no built-in guess: what is not given is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// Nanodollars for one request.
    pub request: u64,
    /// Nanodollars for 2^30 bytes of bodies.
    pub gibibyte: u64,
}

impl Prices {
    /// Nanodollars for one request whose answer had this many body bytes.
    pub fn of(&self, bytes: u64) -> u64 {
        let body = (u128::from(self.gibibyte) * u128::from(bytes)) >> 30;
        self.request.saturating_add(u64::try_from(body).unwrap_or(u64::MAX))
    }
}

/// Nanodollars spent on one UTC day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    number: u64,
    spent: u64,
}

impl Day {
    /// Adds to the day of `now` (Unix time), which begins at 0.
    pub fn spend(&mut self, nanodollars: u64, now: u64) {
        *self = Day { number: now / DAY, spent: self.spent(now).saturating_add(nanodollars) };
    }

    /// What was spent on the day of `now`.
    pub fn spent(&self, now: u64) -> u64 {
        if self.number == now / DAY { self.spent } else { 0 }
    }
}

const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_bytes_cost_what_the_prices_say() {
        let amazon = Prices { request: 400, gibibyte: 90_000_000 };
        assert_eq!(amazon.of(0), 400);
        assert_eq!(amazon.of(1 << 30), 90_000_400);
        assert_eq!(amazon.of(1 << 20), 400 + 90_000_000 / 1024);
        assert_eq!(Prices::default().of(u64::MAX), 0);
        assert_eq!(Prices { request: 1, gibibyte: u64::MAX }.of(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let mut day = Day::default();
        day.spend(5, 10);
        day.spend(6, DAY - 1);
        assert_eq!(day.spent(DAY - 1), 11);
        assert_eq!(day.spent(DAY), 0);
        day.spend(1, DAY);
        assert_eq!(day.spent(DAY + 1), 1);
    }
}
