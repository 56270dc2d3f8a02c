//! The counters that the status page compares, read at one moment.

use std::collections::{BTreeMap, HashMap};
use std::ops::{AddAssign, Sub};

use prometheus::core::Collector;
use prometheus::proto::Metric;

use super::{BUCKETS, Metrics};

/// What has been counted since the start; or, by subtraction, between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// By pool and node; a store is both.
    pub targets: HashMap<(String, String), Target>,
    /// Requests answered.
    pub requests: u64,
    /// Those that were answered by hopfall itself: nobody had the file, or nobody could be asked.
    pub own: u64,
    /// Requests to S3.
    pub s3_requests: u64,
    /// What stores cost, by store.
    pub dollars: BTreeMap<String, f64>,
    /// Lookups in the location map by what it knew.
    pub lookups: BTreeMap<String, u64>,
    /// Requests that a node sent back to us, by node.
    pub loops: BTreeMap<String, u64>,
    /// Requests to a store by what its disk had to do with them.
    pub kept: HashMap<(String, String), u64>,
}

/// Attempts at one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub found: u64,
    pub absent: u64,
    /// All that is no answer to the question whether it has the file, but for attempts that were no longer wanted.
    pub failed: u64,
    /// Answers by how long they took to begin: as [`BUCKETS`], and longer.
    took: [u64; BUCKETS.len() + 1],
}

impl Metrics {
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for metric in series(&self.attempts) {
            let target = tally.targets.entry((label(&metric, "pool"), label(&metric, "node"))).or_default();
            match label(&metric, "outcome").as_str() {
                "found" => target.found += count(&metric),
                "absent" => target.absent += count(&metric),
                "dropped" => {}
                _ => target.failed += count(&metric),
            }
        }
        for metric in series(&self.attempt_duration) {
            let target = tally.targets.entry((label(&metric, "pool"), label(&metric, "node"))).or_default();
            let histogram = metric.get_histogram();
            let mut before = 0;
            for (took, bucket) in target.took.iter_mut().zip(histogram.get_bucket()) {
                *took = bucket.cumulative_count().saturating_sub(before);
                before = bucket.cumulative_count();
            }
            target.took[BUCKETS.len()] = histogram.get_sample_count().saturating_sub(before);
        }
        for metric in series(&self.requests) {
            tally.requests += count(&metric);
            if label(&metric, "served_by") == "hopfall" {
                tally.own += count(&metric);
            }
        }
        tally.s3_requests = series(&self.s3_requests).iter().map(count).sum();
        let dollars = series(&self.s3_cost);
        tally.dollars =
            dollars.iter().map(|metric| (label(metric, "store"), metric.get_counter().get_value())).collect();
        let by = |metrics: &[Metric], name| metrics.iter().map(|metric| (label(metric, name), count(metric))).collect();
        tally.lookups = by(&series(&self.location_lookups), "result");
        tally.loops = by(&series(&self.loops), "node");
        let kept = series(&self.store_requests);
        tally.kept =
            kept.iter().map(|metric| ((label(metric, "store"), label(metric, "result")), count(metric))).collect();
        tally
    }
}

fn series(collector: &impl Collector) -> Vec<Metric> {
    collector.collect().into_iter().flat_map(|mut family| std::mem::take(family.mut_metric())).collect()
}

fn label(metric: &Metric, name: &str) -> String {
    let found = metric.get_label().iter().find(|label| label.name() == name);
    found.map(|label| label.value().to_owned()).unwrap_or_default()
}

// invariant: it was incremented to this by whole numbers
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn count(metric: &Metric) -> u64 {
    metric.get_counter().get_value() as u64
}

impl Tally {
    pub fn target(&self, pool: &str, node: &str) -> Target {
        self.targets.get(&(pool.to_owned(), node.to_owned())).copied().unwrap_or_default()
    }

    /// What was counted after `before`.
    pub fn since(&self, before: &Tally) -> Tally {
        let of = |counts: &BTreeMap<String, u64>, name: &String| counts.get(name).copied().unwrap_or_default();
        let counts = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            now.iter().map(|(name, count)| (name.clone(), count.saturating_sub(of(before, name)))).collect()
        };
        let dollars_before = |name| before.dollars.get(name).copied().unwrap_or_default();
        let kept_before = |key| before.kept.get(key).copied().unwrap_or_default();
        Tally {
            targets: self
                .targets
                .iter()
                .map(|(key, now)| (key.clone(), *now - before.target(&key.0, &key.1)))
                .collect(),
            requests: self.requests.saturating_sub(before.requests),
            own: self.own.saturating_sub(before.own),
            s3_requests: self.s3_requests.saturating_sub(before.s3_requests),
            dollars: self.dollars.iter().map(|(name, now)| (name.clone(), now - dollars_before(name))).collect(),
            lookups: counts(&self.lookups, &before.lookups),
            loops: counts(&self.loops, &before.loops),
            kept: self.kept.iter().map(|(key, now)| (key.clone(), now.saturating_sub(kept_before(key)))).collect(),
        }
    }
}

impl Target {
    pub fn attempts(&self) -> u64 {
        self.found + self.absent + self.failed
    }

    /// Seconds within which this share of the answers began: by the buckets of the histogram, and evenly within one. What
    /// took longer than the last of them counts as that. `None` where none came.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.took.iter().sum();
        let rank = share * all as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (count, to) in self.took.iter().zip(BUCKETS) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(from + (to - from) * (rank - below) / count);
            }
            below += count;
            from = to;
        }
        (all > 0).then_some(from)
    }
}

impl Sub for Target {
    type Output = Target;

    fn sub(self, before: Target) -> Target {
        Target {
            found: self.found.saturating_sub(before.found),
            absent: self.absent.saturating_sub(before.absent),
            failed: self.failed.saturating_sub(before.failed),
            took: std::array::from_fn(|i| self.took[i].saturating_sub(before.took[i])),
        }
    }
}

impl AddAssign for Target {
    fn add_assign(&mut self, other: Target) {
        self.found += other.found;
        self.absent += other.absent;
        self.failed += other.failed;
        self.took.iter_mut().zip(other.took).for_each(|(took, more)| *took += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_counted_between_two_moments_is_their_difference() {
        let metrics = Metrics::new().unwrap();
        let a = metrics.target("p", "a");
        a.attempted("found");
        let before = metrics.tally();
        for outcome in ["found", "found", "absent", "error", "down", "dropped"] {
            a.attempted(outcome);
        }
        metrics.target("p", "b").attempted("found");
        metrics.requests.with_label_values(&["w", "200", "a"]).inc_by(3);
        metrics.requests.with_label_values(&["w", "404", "hopfall"]).inc();
        metrics.loops.with_label_values(&["b"]).inc();
        metrics.s3_cost.with_label_values(&["s3"]).inc_by(0.25);
        let tally = metrics.tally().since(&before);
        let Target { found, absent, failed, .. } = tally.target("p", "a");
        assert_eq!((found, absent, failed), (2, 1, 2));
        assert_eq!(tally.target("p", "b").attempts(), 1);
        assert_eq!(tally.target("p", "nobody"), Target::default());
        assert_eq!((tally.requests, tally.own, tally.loops["b"], tally.dollars["s3"]), (4, 1, 1, 0.25));
    }

    #[test]
    fn a_quantile_is_within_its_bucket() {
        let metrics = Metrics::new().unwrap();
        let took = |times: &[u64]| {
            let before = metrics.tally();
            times.iter().for_each(|time| metrics.target("p", "a").answered(Duration::from_millis(*time)));
            metrics.tally().since(&before).target("p", "a")
        };
        assert_eq!(took(&[]).quantile(0.5), None);
        let even = took(&[2; 10]).quantile(0.5).unwrap();
        assert!((even - 0.00175).abs() < 1e-9, "half way from 1 to 2.5 ms: {even}");
        let mut times = [3; 100];
        times[97..].fill(400);
        let slow = took(&times);
        assert!(slow.quantile(0.5).unwrap() < 0.005 && slow.quantile(0.99).unwrap() > 0.25, "{slow:?}");
        assert_eq!(took(&[90_000]).quantile(0.5), Some(60.0));
    }
}
