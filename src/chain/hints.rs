//! What the location map knows of one request's path, and what is learned of it on the way.

use std::time::SystemTime;

use http::HeaderValue;

use super::{Chain, Request};
use crate::config::Route;
use crate::fallback::{Outcome, Stage};
use crate::hop::TargetId;
use crate::location::{self, Mark, Marks, PathId, UnixTime};
use crate::metrics::Metrics;
use crate::unix;

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

    /// How many seconds ago something was learned of the path.
    pub(super) fn age(&self) -> Option<u64> {
        let known = self.known.as_ref()?;
        known.map.age(known.path, known.now)
    }

    /// Whether the path ignores what is known, to be compared with the others.
    pub(super) fn is_control(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.group == "control")
    }

    /// The path, if nothing says where it is. One of the control group stands alone.
    pub(super) fn cold(&self) -> Option<PathId> {
        let known = self.known.as_ref().filter(|known| known.group == "hinted")?;
        let cold = self.marks.is_none_or(|marks| !marks.somewhere() && !marks.nowhere());
        cold.then_some(known.path)
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
    unix::seconds(SystemTime::now())
}

impl Chain {
    /// Forgets a path that an upload or a DELETE may change (RFC 9111 §4.4).
    pub fn forget(&self, route: &Route, host: Option<&HeaderValue>, target: &[u8]) {
        if let Some(map) = &self.snapshot.location {
            let host = host.map(HeaderValue::as_bytes).unwrap_or_default();
            map.forget(map.path(&route.name, host, target), unix_now());
        }
    }

    /// Forgets a path, or all that begin so: where they are, and what stores keep of them. Gives how many files were
    /// removed from disks.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn purge(&self, path: &[u8], prefix: bool) -> std::io::Result<usize> {
        if let Some(map) = &self.snapshot.location {
            map.purge(path, prefix, unix_now());
        }
        let mut removed = Ok(0);
        for store in self.stores.values() {
            let more = store.purge(path, prefix).await;
            removed = removed.and_then(|removed| Ok(removed + more?));
        }
        removed
    }

    /// What the location map knows of a request's path.
    pub(super) fn hints(&self, request: &Request<'_>) -> Hints<'_> {
        let hints = self.peek_hints(request);
        if let Some(known) = &hints.known {
            self.metrics.location_requests.with_label_values(&[known.group]).inc();
        }
        hints
    }

    /// The same for a request that is not made.
    pub(super) fn peek_hints(&self, request: &Request<'_>) -> Hints<'_> {
        let Some(map) = &self.snapshot.location else { return Hints::default() };
        let host = request.host.map(HeaderValue::as_bytes).unwrap_or_default();
        let path = map.path(&request.route.name, host, request.target);
        let now = unix_now();
        let control = map.is_control(path);
        let group = if control { "control" } else { "hinted" };
        let marks = map.look(path, request.target, now).filter(|_| !control);
        Hints { known: Some(Known { map, path, now, group }), marks }
    }

    /// Takes in what has been learned of the path since.
    pub(super) fn look_again(&self, request: &Request<'_>, hints: &mut Hints<'_>) {
        if let Some(Known { map, path, .. }) = &hints.known {
            // By the time of now: an entry that is younger than this request is not old.
            hints.marks = map.look(*path, request.target, unix_now());
        }
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
