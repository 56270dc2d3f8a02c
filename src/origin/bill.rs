//! What one store costs: counted request by request and byte by byte, against the day's budget.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::{Counter, Gauge, IntCounter};

use crate::config;
use crate::metrics::Metrics;
use crate::s3::cost::{Day, Prices};
use crate::unix;

pub struct Bill {
    prices: Prices,
    budget_per_day: Option<u64>,
    day: Arc<Mutex<Day>>,
    cost: Counter,
    cost_today: Gauge,
    received: IntCounter,
}

impl Bill {
    /// `before` is the bill of this store under the config before this one: what was spent today stays spent.
    pub fn new(store: &config::Store, metrics: &Metrics, before: Option<&Bill>) -> Self {
        let name = [store.name.as_str()];
        if let Some(budget) = store.budget_per_day {
            metrics.s3_budget.with_label_values(&name).set(dollars(budget));
        }
        Bill {
            prices: store.prices,
            budget_per_day: store.budget_per_day,
            day: before.map(|before| before.day.clone()).unwrap_or_default(),
            cost: metrics.s3_cost.with_label_values(&name),
            cost_today: metrics.s3_cost_today.with_label_values(&name),
            received: metrics.s3_bytes.clone(),
        }
    }

    /// A request that was sent.
    pub fn request(&self) {
        self.pay(self.prices.of(0));
    }

    /// Takes in bytes of a body that came.
    pub fn bytes(&self, bytes: u64) {
        self.received.inc_by(bytes);
        let no_request = Prices { request: 0, ..self.prices };
        self.pay(no_request.of(bytes));
    }

    /// Whether the day's budget is spent.
    pub fn is_over(&self) -> bool {
        self.budget_per_day.is_some_and(|budget| self.spent_today() >= budget)
    }

    /// What was spent on this UTC day, in nanodollars.
    pub fn spent_today(&self) -> u64 {
        self.day.lock().unwrap_or_else(PoisonError::into_inner).spent(unix::seconds(SystemTime::now()))
    }

    /// Nanodollars that are left of the day's budget, if there is one.
    pub fn left(&self) -> Option<u64> {
        self.budget_per_day.map(|budget| budget.saturating_sub(self.spent_today()))
    }

    /// Sets what is shown as spent today, on a day without spending too.
    pub fn measure(&self) {
        let day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        self.cost_today.set(dollars(day.spent(unix::seconds(SystemTime::now()))));
    }

    /// Takes over what another process has spent on this day, and counts as its own.
    pub fn spent_elsewhere(&self, nanodollars: u64) {
        let now = unix::seconds(SystemTime::now());
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        day.spend(nanodollars, now);
        self.cost_today.set(dollars(day.spent(now)));
    }

    fn pay(&self, nanodollars: u64) {
        if nanodollars == 0 {
            return;
        }
        self.cost.inc_by(dollars(nanodollars));
        let now = unix::seconds(SystemTime::now());
        let mut day = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        day.spend(nanodollars, now);
        self.cost_today.set(dollars(day.spent(now)));
    }
}

fn dollars(nanodollars: u64) -> f64 {
    nanodollars as f64 / 1e9
}
