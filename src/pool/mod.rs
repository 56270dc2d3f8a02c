//! Pools and nodes while the process runs: who is up, who is free, who is first.

mod gate;
mod node;
mod ring;
pub mod turns;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use gate::{Gate, Permit};
pub use node::{Endpoint, Node};

use crate::config::{self, Algorithm};
use crate::health::{Change, Signal};
use crate::hedge::Budget;
use crate::hop::{TargetId, Visited};
use crate::location::Mark;
use crate::metrics::Metrics;
use crate::via::Identity;
use ring::Ring;

/// Nodes that can serve the same files.
pub struct Pool {
    pub config: config::Pool,
    pub nodes: Vec<Arc<Node>>,
    robin: Mutex<Robin>,
    /// Only with `algorithm: hash`.
    ring: Option<Ring>,
    /// The extra requests that hedging may make.
    pub hedges: Budget,
}

/// Smooth weighted round robin, as nginx does it.
#[derive(Default)]
struct Robin {
    /// One running total per node.
    totals: Vec<i64>,
    /// The nodes that one pick is among.
    candidates: Vec<usize>,
}

impl Pool {
    pub fn new(config: &config::Pool, identity: &Identity, metrics: &Metrics) -> Self {
        let nodes: Vec<_> =
            config.nodes.iter().map(|node| Arc::new(Node::new(node, config, identity, metrics))).collect();
        let robin = Robin { totals: vec![0; nodes.len()], candidates: Vec::new() };
        let ring = match config.algorithm {
            Algorithm::RoundRobin => None,
            Algorithm::Hash => Some(Ring::new(config.nodes.iter().map(|node| (&node.address, node.weight)))),
        };
        Pool { config: config.clone(), nodes, robin: Mutex::new(robin), ring, hedges: Budget::new() }
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The next node to ask for `path`, a request target: up and free before up and full before down; among
    /// equals by weight in turn, or as the path's hash has it. `hint` puts nodes that have the file before those
    /// that may, and these before those that lack it.
    pub fn pick(
        &self,
        visited: &Visited,
        now: Duration,
        path: &[u8],
        hint: impl Fn(TargetId) -> Mark,
    ) -> Option<&Arc<Node>> {
        let mut robin = self.robin.lock().unwrap_or_else(PoisonError::into_inner);
        let Robin { totals, candidates } = &mut *robin;
        candidates.clear();
        let mut best = None;
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, node)| !visited.contains(node.target)) {
            // Read once: health and places change under our eyes.
            let away = !node.is_up(now) || node.silence.is_silent(now) || node.is_suspect(now);
            let rank = (away, node.gate.is_full(), hint(node.target));
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
                candidates.clear();
            }
            if best == Some(rank) {
                candidates.push(i);
            }
        }
        if let Some(ring) = &self.ring {
            return self.nodes.get(ring.first(path, candidates)?);
        }
        let mut sum = 0;
        for i in candidates.iter().copied() {
            let weight = i64::from(self.nodes[i].weight);
            sum += weight;
            totals[i] += weight;
        }
        // The first of equals, so that a fresh pool begins with its first node.
        let chosen = candidates.iter().copied().rev().max_by_key(|i| totals[*i])?;
        totals[chosen] -= sum;
        self.nodes.get(chosen)
    }

    /// Takes in what was seen of one of this pool's nodes.
    pub fn observe(&self, node: &Node, signal: Signal, now: Duration, metrics: &Metrics) {
        let passed = matches!(signal, Signal::CheckPassed | Signal::RequestPassed);
        if passed && node.is_spotless() {
            return;
        }
        if matches!(signal, Signal::RequestPassed | Signal::RequestFailed) && !self.config.health.passive {
            return;
        }
        let last = !self.nodes.iter().any(|other| other.target != node.target && other.is_up(now));
        let Some(change) = node.take(signal, now, &self.config.health.thresholds, last) else { return };
        let (pool, name) = (self.name(), node.name.as_str());
        let (word, up) = match change {
            Change::Up => ("up", 1),
            Change::Down => ("down", 0),
        };
        log::warn!("node {name} of pool {pool} is {word} ({signal:?})");
        metrics.health_changes.with_label_values(&[pool, name, word]).inc();
        metrics.node_up.with_label_values(&[pool, name]).set(up);
    }

    /// Takes in whether one of this pool's nodes had a file that it was asked for first.
    pub fn observe_absence(&self, node: &Node, lacks: bool, now: Duration) {
        if !self.config.health.absence {
            return;
        }
        if node.take_absence(lacks, now) {
            let (pool, name) = (self.name(), &node.name);
            log::warn!(
                "node {name} of pool {pool} suddenly lacks all it is asked for, and is asked last: is its disk there?"
            );
            node.absence_suspect.set(1);
        } else if !lacks && !node.is_suspect(now) {
            node.absence_suspect.set(0);
        }
    }

    /// The node that has this address, if any.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.endpoint.ip() == Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Surroundings};

    fn pool(nodes: &str) -> (Pool, Metrics) {
        pool_by("roundrobin", nodes)
    }

    fn pool_by(algorithm: &str, nodes: &str) -> (Pool, Metrics) {
        let yaml = format!(
            "listeners: [{{ name: w, address: \"127.0.0.1:0\", route: r }}]\npools:\n  p: {{ algorithm: {algorithm}, nodes: [{nodes}] }}\nroutes:\n  r: {{ chain: [p] }}\n"
        );
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = Config::parse("test", &yaml, &surroundings).unwrap();
        let metrics = Metrics::new().unwrap();
        (Pool::new(&config.pools[0], &Identity::new("a", b"k"), &metrics), metrics)
    }

    fn picks(pool: &Pool, n: usize) -> String {
        (0..n)
            .map(|_| pool.pick(&Visited::default(), Duration::ZERO, b"/x", |_| Mark::Unknown).unwrap().name.clone())
            .collect()
    }

    const THREE: &str = "{ name: a, address: \"127.0.0.1:1\", weight: 5 }, { name: b, address: \"127.0.0.1:2\" }, { name: c, address: \"127.0.0.1:3\" }";

    #[test]
    fn weights_are_smooth() {
        let (pool, _) = pool(THREE);
        assert_eq!(picks(&pool, 14), "aabacaaaabacaa");
    }

    #[test]
    fn shares_follow_the_weights() {
        let (pool, _) = pool(THREE);
        let picked = picks(&pool, 70_000);
        for (name, share) in [('a', 50_000), ('b', 10_000), ('c', 10_000)] {
            assert_eq!(picked.chars().filter(|c| *c == name).count(), share);
        }
    }

    #[test]
    fn the_down_are_asked_last_and_the_visited_never() {
        let (pool, metrics) = pool(THREE);
        for _ in 0..3 {
            pool.observe(&pool.nodes[0], Signal::RequestFailed, Duration::ZERO, &metrics);
        }
        let mut visited = Visited::default();
        let mut order = String::new();
        while let Some(node) = pool.pick(&visited, Duration::ZERO, b"/x", |_| Mark::Unknown) {
            order.push_str(&node.name);
            assert!(visited.insert(node.target));
        }
        assert_eq!(order, "bca");
        assert_eq!(metrics.node_up.with_label_values(&["p", "a"]).get(), 0);
    }

    #[test]
    fn a_hint_orders_the_nodes_that_are_up() {
        let (pool, metrics) = pool(THREE);
        let c_has_a_lacks = |target: TargetId| match target.0 {
            2 => Mark::Has,
            0 => Mark::Lacks,
            _ => Mark::Unknown,
        };
        let order = |pool: &Pool| {
            let (mut visited, mut order) = (Visited::default(), String::new());
            while let Some(node) = pool.pick(&visited, Duration::ZERO, b"/x", c_has_a_lacks) {
                order.push_str(&node.name);
                assert!(visited.insert(node.target));
            }
            order
        };
        assert_eq!(order(&pool), "cba");
        for _ in 0..3 {
            pool.observe(&pool.nodes[2], Signal::RequestFailed, Duration::ZERO, &metrics);
        }
        assert_eq!(order(&pool), "bac", "a node that is down is last whatever it has");
    }

    #[tokio::test]
    async fn the_hash_orders_equals_by_path_and_nobody_else() {
        const EVEN: &str =
            "{ name: a, address: \"a:1\" }, { name: b, address: \"b:1\" }, { name: c, address: \"c:1\" }";
        let (pool, metrics) = pool_by("hash", EVEN);
        let walk = |path: &str, has: Option<&str>| {
            let (mut visited, mut order) = (Visited::default(), String::new());
            let is = |target: TargetId| pool.nodes.iter().any(|n| n.target == target && Some(n.name.as_str()) == has);
            let hint = |target| if is(target) { Mark::Has } else { Mark::Unknown };
            while let Some(node) = pool.pick(&visited, Duration::ZERO, path.as_bytes(), hint) {
                order.push_str(&node.name);
                assert!(visited.insert(node.target), "a visited node is never picked");
            }
            order
        };
        let paths: Vec<String> = (0..1000).map(|i| format!("/{i}.jpg")).collect();
        let all_up: Vec<String> = paths.iter().map(|path| walk(path, None)).collect();
        for order in ["abc", "acb", "bac", "bca", "cab", "cba"] {
            assert!(all_up.iter().any(|other| other == order), "no path has the order {order}");
        }
        let moved = |order: &str, last: char| order.replace(last, "");
        for (path, order) in paths.iter().zip(&all_up) {
            assert_eq!(walk(path, None), *order, "the same each time");
            assert_eq!(walk(path, Some("c")), format!("c{}", moved(order, 'c')), "who has the file is first");
        }
        for _ in 0..3 {
            pool.observe(&pool.nodes[1], Signal::RequestFailed, Duration::ZERO, &metrics);
        }
        for (path, order) in paths.iter().zip(&all_up) {
            assert_eq!(walk(path, None), format!("{}b", moved(order, 'b')), "the down are last");
        }
        let mut places = Vec::new();
        while !pool.nodes[0].gate.is_full() {
            places.push(pool.nodes[0].gate.enter().await);
        }
        for path in &paths {
            assert_eq!(walk(path, None), "cab", "the full are after the free");
        }
    }

    #[test]
    fn real_traffic_leaves_the_last_node_up() {
        let (pool, metrics) = pool(THREE);
        for node in &pool.nodes {
            for _ in 0..9 {
                pool.observe(node, Signal::RequestFailed, Duration::ZERO, &metrics);
            }
        }
        let up: Vec<_> =
            pool.nodes.iter().filter(|node| node.is_up(Duration::ZERO)).map(|node| node.name.as_str()).collect();
        assert_eq!(up, ["c"]);
    }
}
