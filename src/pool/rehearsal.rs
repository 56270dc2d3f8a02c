//! What [`Pool::pick`] would give, without its being asked: a walk that nobody takes.
//!
//! It runs the very code of the real one, on a copy of the turns. So the two cannot disagree, and nothing that the next
//! request goes by has changed.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Asker, Choice, Node, Pool, Robin};
use crate::hop::{TargetId, Visited};
use crate::location::Mark;

/// A walk along one pool, from what holds now.
pub struct Rehearsal<'a> {
    pool: &'a Pool,
    robin: Robin,
    now: Duration,
}

impl Pool {
    /// Begins a walk that changes nothing.
    pub fn rehearse(&self, now: Duration) -> Rehearsal<'_> {
        let robin = self.robin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Rehearsal { pool: self, robin, now }
    }
}

impl<'a> Rehearsal<'a> {
    /// What [`Pool::pick`] would give, and why.
    pub fn pick(
        &mut self,
        visited: &Visited,
        asker: &Asker<'_>,
        hint: impl Fn(TargetId) -> Mark,
    ) -> Option<(&'a Node, Choice)> {
        let (pool, now) = (self.pool, self.now);
        let before = if visited.is_empty() { pool.stick.peek(asker, now) } else { None };
        let (chosen, choice) = match pool.stuck(before, now) {
            Some(stuck) => (stuck, Choice::Stickiness),
            None => pool.pick_afresh(&mut self.robin, visited, now, asker, before, hint)?,
        };
        Some((pool.nodes.get(chosen)?, choice))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Mode, Surroundings};
    use crate::health::Signal;
    use crate::metrics::Metrics;
    use crate::via::Identity;

    const NOW: Duration = Duration::from_secs(100);
    const ALGORITHMS: [&str; 4] = ["roundrobin", "leastconn", "hash", "source"];
    const MODES: [Mode; 4] = [Mode::Accept, Mode::Backup, Mode::Drain, Mode::Reject];
    const STICKINESS: [&str; 3] = ["", "stickiness: { kind: table },", "stickiness: { kind: cookie, cookie: c },"];

    fn pool(algorithm: &str, stickiness: &str, weights: &[u32], metrics: &Metrics) -> Pool {
        let node = |(i, weight)| format!("{{ name: n{i}, address: \"127.0.0.1:{}\", weight: {weight} }}", i + 1);
        let nodes: Vec<String> = weights.iter().enumerate().map(node).collect();
        let yaml = format!(
            "listeners: [{{ name: w, address: \"127.0.0.1:0\", route: r }}]\nroutes: {{ r: {{ chain: [p] }} }}\n\
             pools: {{ p: {{ algorithm: {algorithm}, {stickiness} max_in_flight: 1, nodes: [{}] }} }}\n",
            nodes.join(", ")
        );
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = Config::parse("test", &yaml, &surroundings).unwrap_or_else(|problems| panic!("{problems}"));
        Pool::new(&config.pools[0], &Identity::new("a", b"k"), metrics, None)
    }

    fn asker<'a>(path: &'a str, client: u8, fields: &'a HeaderMap) -> Asker<'a> {
        Asker { path: path.as_bytes(), client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, client)), fields: Some(fields) }
    }

    /// What one node is like.
    #[derive(Clone, Debug)]
    struct Like {
        weight: u32,
        mode: usize,
        down: bool,
        full: bool,
        mark: usize,
    }

    fn like() -> impl Strategy<Value = Like> {
        let mode = prop_oneof![5 => Just(0usize), 1 => 1usize..4];
        (1u32..10, mode, proptest::bool::weighted(0.3), proptest::bool::weighted(0.2), 0usize..3)
            .prop_map(|(weight, mode, down, full, mark)| Like { weight, mode, down, full, mark })
    }

    proptest! {
        #[test]
        fn a_rehearsed_walk_is_the_one_that_is_taken_and_changes_nothing(
            likes in proptest::collection::vec(like(), 1..6),
            algorithm in 0usize..4,
            stickiness in 0usize..3,
            before in proptest::collection::vec((0u8..4, 0usize..4), 0..20),
            client in 0u8..4,
            path in "/[a-z]{0,3}",
        ) {
            let metrics = Metrics::new().unwrap();
            let weights: Vec<u32> = likes.iter().map(|like| like.weight).collect();
            let pool = pool(ALGORITHMS[algorithm], STICKINESS[stickiness], &weights, &metrics);
            // Others have been here.
            let nobody = HeaderMap::new();
            let mut cookie = HeaderMap::new();
            for (client, visits) in before {
                let asker = asker("/x", client, &nobody);
                let mut visited = Visited::default();
                for _ in 0..=visits {
                    let Some(node) = pool.pick(&visited, NOW, &asker, |_| Mark::Unknown) else { break };
                    if let Some(set) = pool.set_cookie(&asker, node.target).filter(|_| visited.is_empty()) {
                        let pair = set.to_str().unwrap().split(';').next().unwrap().parse().unwrap();
                        cookie.insert(http::header::COOKIE, pair);
                    }
                    prop_assert!(visited.insert(node.target));
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut places = Vec::new();
            for (node, like) in pool.nodes.iter().zip(&likes) {
                node.set_mode(MODES[like.mode]);
                if like.full {
                    places.push(runtime.block_on(node.gate.enter()));
                }
                for _ in 0..if like.down { 3 } else { 0 } {
                    pool.observe(node, Signal::CheckFailed, NOW, &metrics);
                }
            }
            let hint = |target: TargetId| {
                let node = pool.nodes.iter().position(|node| node.target == target).unwrap();
                [Mark::Has, Mark::Unknown, Mark::Lacks][likes[node].mark]
            };
            let asker = asker(&path, client, &cookie);
            let rehearsed = || {
                let (mut rehearsal, mut visited, mut order) = (pool.rehearse(NOW), Visited::default(), Vec::new());
                while let Some((node, choice)) = rehearsal.pick(&visited, &asker, hint) {
                    order.push((node.name.clone(), choice));
                    assert!(visited.insert(node.target), "a visited node is never picked");
                }
                order
            };
            let told = rehearsed();
            prop_assert_eq!(&told, &rehearsed(), "the first rehearsal has changed something");
            let mut visited = Visited::default();
            for (name, _) in &told {
                let node = pool.pick(&visited, NOW, &asker, hint).unwrap();
                prop_assert_eq!(&node.name, name);
                prop_assert!(visited.insert(node.target));
            }
            prop_assert!(pool.pick(&visited, NOW, &asker, hint).is_none(), "the real walk goes on");
        }
    }
}
