//! What the location map knows of one request's path, and what is learned of it on the way.

use std::time::SystemTime;

use http::HeaderValue;

use super::{Chain, Request};
use crate::config::Route;
use crate::fallback::{Outcome, Stage};
use crate::hop::TargetId;
use crate::location::{self, Mark, Marks, PathId, UnixTime};
use crate::metrics::Metrics;

/// What is known of one request's path, and where to learn more of it.
#[derive(Default)]
pub(super) struct Hints<'a> {
    known: Option<Known<'a>>,
    /// Nothing when nothing is known, or when this path is of the control group.
    marks: Option<Marks>,
}

struct Known<'a> {
    map: &'a location::Map,
    path: PathId,
    now: UnixTime,
    group: &'static str,
}

impl Hints<'_> {
    pub(super) fn of(&self, target: TargetId) -> Mark {
        self.marks.map_or(Mark::Unknown, |marks| marks.of(target))
    }

    pub(super) fn nowhere(&self) -> bool {
        self.marks.is_some_and(Marks::nowhere)
    }

    pub(super) fn learn(&self, target: TargetId, outcome: Outcome, first: bool, metrics: &Metrics) {
        let Some(Known { map, path, now, group }) = &self.known else { return };
        metrics.location_attempts.with_label_values(&[*group]).inc();
        let has = match outcome {
            Outcome::Found(200 | 206 | 304 | 412 | 416) => true,
            Outcome::Absent(_) => false,
            _ => return,
        };
        if first && *group == "hinted" {
            let result = match (self.of(target), has) {
                (Mark::Unknown, _) => "miss",
                (Mark::Has, true) | (Mark::Lacks, false) => "hit",
                (Mark::Has, false) | (Mark::Lacks, true) => "wrong",
            };
            metrics.location_lookups.with_label_values(&[result]).inc();
        }
        // A mark that says so already is written again only to keep it young.
        map.learn(*path, target, has, *now);
    }

    pub(super) fn learn_nowhere(&self) {
        if let Some(Known { map, path, now, .. }) = &self.known {
            map.learn_nowhere(*path, *now);
        }
    }
}

/// The time that the location map counts in.
pub fn unix_now() -> UnixTime {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Chain {
    /// What the location map knows of a request's path.
    pub(super) fn hints(&self, request: &Request<'_>) -> Hints<'_> {
        let Some(map) = &self.snapshot.location else { return Hints::default() };
        let host = request.host.map(HeaderValue::as_bytes).unwrap_or_default();
        let path = map.path(&request.route.name, host, request.target);
        let now = unix_now();
        let control = map.is_control(path);
        let group = if control { "control" } else { "hinted" };
        self.metrics.location_requests.with_label_values(&[group]).inc();
        let marks = map.look(path, request.target, now).filter(|_| !control);
        Hints { known: Some(Known { map, path, now, group }), marks }
    }

    /// The store that has what every node is known to lack.
    pub(super) fn store_to_prefer(&self, route: &Route, hints: &Hints<'_>) -> Option<TargetId> {
        let mut nodes = self.snapshot.pools_of(route).flat_map(|pool| &pool.nodes);
        if !nodes.all(|node| hints.of(node.target) == Mark::Lacks) {
            return None;
        }
        let stores = route.plan.stages.iter().filter_map(|stage| match stage {
            Stage::Store(store) => Some(*store),
            Stage::Pool(_) => None,
        });
        stores.into_iter().find(|store| hints.of(*store) == Mark::Has)
    }
}
