//! Pools and nodes while the process runs: who is up, who is free, who is first.

mod gate;
mod node;
mod rehearsal;
mod ring;
mod stick;
pub mod turns;

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use gate::{Gate, Permit};
pub use node::{Away, Condition, Endpoint, Node};
pub use rehearsal::Rehearsal;

use http::{HeaderMap, HeaderValue};

use crate::config::{self, Algorithm, Mode};
use crate::health::{Change, Failing, Signal};
use crate::hedge::Budget;
use crate::history;
use crate::hop::{TargetId, Visited};
use crate::location::Mark;
use crate::metrics::Metrics;
use crate::via::Identity;
use ring::Ring;
use stick::Stick;

/// Nodes that can serve the same files.
pub struct Pool {
    pub config: config::Pool,
    pub nodes: Vec<Arc<Node>>,
    robin: Mutex<Robin>,
    /// Held while a node's health may change. Never for a node that is well and passes.
    judging: Mutex<()>,
    /// With `algorithm: hash` and `source`.
    ring: Option<Ring>,
    stick: Stick,
    /// The extra requests that hedging may make.
    pub hedges: Budget,
}

/// Who asks, and for what: what an algorithm may go by.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The request target; empty on a tcp listener.
    pub path: &'a [u8],
    pub client: IpAddr,
    /// The request's fields, for its cookie.
    pub fields: Option<&'a HeaderMap>,
}

/// Why one of the nodes that could be asked is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The client was sent to it before.
    Stickiness,
    /// It is the only one, or stands before the others by health, mode, places or hint.
    Rank,
    /// Its turn among equals: its weight now, and the weights of all of these, in hundredths.
    Weight { own: i64, of: i64 },
    /// Of the equals, it has the fewest requests in flight for its weight.
    LeastBusy,
    /// Of the equals, it is where the path lies on the ring.
    Path,
    /// Of the equals, it is where the client's address lies on the ring.
    Client,
}

/// Smooth weighted round robin, as nginx does it.
#[derive(Clone, Default)]
struct Robin {
    /// One running total per node.
    totals: Vec<i64>,
    /// The nodes that one pick is among.
    candidates: Vec<usize>,
}

impl Pool {
    /// `before` is the pool of this name in the snapshot that this one follows.
    pub fn new(config: &config::Pool, identity: &Identity, metrics: &Metrics, before: Option<&Pool>) -> Self {
        let nodes: Vec<_> =
            config.nodes.iter().map(|node| Arc::new(Node::new(node, config, identity, metrics, before))).collect();
        let robin = Robin { totals: vec![0; nodes.len()], candidates: Vec::new() };
        let ring = match config.algorithm {
            Algorithm::RoundRobin | Algorithm::LeastConn => None,
            Algorithm::Hash | Algorithm::Source => {
                Some(Ring::new(config.nodes.iter().map(|node| (&node.address, node.weight))))
            }
        };
        let stick = Stick::new(config, identity, before);
        Pool {
            config: config.clone(),
            nodes,
            robin: Mutex::new(robin),
            judging: Mutex::default(),
            ring,
            stick,
            hedges: Budget::new(),
        }
    }

    /// The node that a later config means by this one: of the same name, and at the same address.
    pub fn same(&self, node: &config::Node) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|own| own.name == node.name && own.endpoint.name == node.address)
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The next node to ask. Of those not visited: up before down, and among these a backup after all others; free before
    /// full. `hint` puts nodes that have the file before those that may, and these before those that lack it. Among
    /// equals the pool's algorithm decides. A client that was sent to one before is sent there first.
    pub fn pick(
        &self,
        visited: &Visited,
        now: Duration,
        asker: &Asker<'_>,
        hint: impl Fn(TargetId) -> Mark,
    ) -> Option<&Arc<Node>> {
        let first = visited.is_empty();
        let before = if first { self.stick.find(asker, now) } else { None };
        let chosen = match self.stuck(before, now) {
            Some(stuck) => stuck,
            None => {
                let mut robin = self.robin.lock().unwrap_or_else(PoisonError::into_inner);
                self.pick_afresh(&mut robin, visited, now, asker, before, hint)?.0
            }
        };
        let chosen = self.nodes.get(chosen)?;
        if first {
            self.stick.keep(asker, before, chosen.target, now);
        }
        Some(chosen)
    }

    /// To be called when a request is sent to a node that was picked: it may be the one that tries whether the node is well.
    pub fn sends_to(&self, node: &Node, now: Duration) {
        node.condition.is_asked(now, self.config.health.thresholds.eject_for);
    }

    /// The node that a client was sent to before, if it is up and takes those that it has.
    fn stuck(&self, before: Option<TargetId>, now: Duration) -> Option<usize> {
        let before = before?;
        self.nodes.iter().position(|node| node.target == before && node.mode() != Mode::Reject && !node.is_away(now))
    }

    /// Takes a turn of `robin`.
    fn pick_afresh(
        &self,
        robin: &mut Robin,
        visited: &Visited,
        now: Duration,
        asker: &Asker<'_>,
        before: Option<TargetId>,
        hint: impl Fn(TargetId) -> Mark,
    ) -> Option<(usize, Choice)> {
        let Robin { totals, candidates } = robin;
        candidates.clear();
        let mut best = None;
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, node)| !visited.contains(node.target)) {
            let backup = match node.mode() {
                Mode::Accept => false,
                Mode::Backup => true,
                Mode::Drain if before == Some(node.target) => false,
                Mode::Drain | Mode::Reject => continue,
            };
            // Read once: health and places change under our eyes.
            let rank = (node.is_away(now), backup, node.gate.is_full(), hint(node.target));
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
                candidates.clear();
            }
            if best == Some(rank) {
                candidates.push(i);
            }
        }
        if let [only] = candidates.as_slice() {
            return Some((*only, Choice::Rank));
        }
        match (self.config.algorithm, &self.ring) {
            (Algorithm::Source, Some(ring)) => {
                return Some((ring.first(asker.client.to_string().as_bytes(), candidates)?, Choice::Client));
            }
            (_, Some(ring)) => return Some((ring.first(asker.path, candidates)?, Choice::Path)),
            (Algorithm::LeastConn, None) => {
                self.keep_least_busy(candidates, now);
                if let [least] = candidates.as_slice() {
                    return Some((*least, Choice::LeastBusy));
                }
            }
            (_, None) => {}
        }
        let mut sum = 0;
        for i in candidates.iter().copied() {
            let weight = self.nodes[i].weight_now(now, self.config.health.slow_start);
            sum += weight;
            totals[i] += weight;
        }
        // The first of equals, so that a fresh pool begins with its first node.
        let chosen = candidates.iter().copied().rev().max_by_key(|i| totals[*i])?;
        totals[chosen] -= sum;
        let own = self.nodes[chosen].weight_now(now, self.config.health.slow_start);
        Some((chosen, Choice::Weight { own, of: sum }))
    }

    /// Keeps those of the candidates that have the fewest requests in flight for their weight.
    fn keep_least_busy(&self, candidates: &mut Vec<usize>, now: Duration) {
        let load = |i: &usize| {
            let node = &self.nodes[*i];
            // One more, so that of two idle nodes the heavier comes first. In thousandths, since weights are large.
            (node.gate.in_flight() + 1) * 1_000_000 / node.weight_now(now, self.config.health.slow_start).max(1)
        };
        if let Some(least) = candidates.iter().map(load).min() {
            candidates.retain(|i| load(i) == least);
        }
    }

    /// The value of `Set-Cookie` for a client whose first node is `chosen`, if it is to be told.
    pub fn set_cookie(&self, asker: &Asker<'_>, chosen: TargetId) -> Option<HeaderValue> {
        self.stick.set_cookie(asker, chosen)
    }

    /// Takes in what was seen of one of this pool's nodes.
    pub fn observe(&self, node: &Node, signal: Signal, now: Duration, metrics: &Metrics) {
        let why = match signal {
            Signal::RequestPassed => "requests are served again",
            Signal::RequestFailed => "requests to it fail",
            Signal::CheckPassed => "its checks pass",
            Signal::CheckFailed => "its checks fail",
        };
        self.take_in(node, signal, &why, now, metrics);
    }

    /// Takes in what came of a check of one of this pool's nodes.
    pub fn observe_check(&self, node: &Node, result: &Result<(), Failing>, now: Duration, metrics: &Metrics) {
        match result {
            Ok(()) => self.observe(node, Signal::CheckPassed, now, metrics),
            Err(why) => self.take_in(node, Signal::CheckFailed, &format_args!("its checks fail: {why}"), now, metrics),
        }
    }

    fn take_in(&self, node: &Node, signal: Signal, why: &dyn Display, now: Duration, metrics: &Metrics) {
        let passed = matches!(signal, Signal::CheckPassed | Signal::RequestPassed);
        if passed && node.is_spotless() {
            return;
        }
        if matches!(signal, Signal::RequestPassed | Signal::RequestFailed) && !self.config.health.passive {
            return;
        }
        // One at a time: of two that fail at once, each would be let go because the other is still up.
        let _one = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.must_stay(node, now);
        let Some(change) = node.condition.take(signal, now, &self.config.health.thresholds, last) else { return };
        let (pool, name) = (self.name(), node.name.as_str());
        let (word, up, kind) = match change {
            Change::Up => ("up", 1, history::Kind::Up),
            Change::Down => ("down", 0, history::Kind::Down),
        };
        log::warn!("node {name} of pool {pool} is {word}: {why}");
        metrics.history.note(SystemTime::now(), kind, [pool, name], &why.to_string());
        metrics.health_changes.with_label_values(&[pool, name, word]).inc();
        metrics.node_up.with_label_values(&[pool, name]).set(up);
    }

    /// Whether real requests may not bring this node down: none that takes requests would be left, or too many of the pool's
    /// nodes would be down.
    fn must_stay(&self, node: &Node, now: Duration) -> bool {
        let (mut up, mut down) = (0, 0);
        for other in self.nodes.iter().filter(|other| other.target != node.target) {
            match (other.is_up(now), other.mode()) {
                (true, Mode::Accept | Mode::Backup) => up += 1,
                (true, Mode::Drain | Mode::Reject) => {}
                (false, _) => down += 1,
            }
        }
        let most = self.nodes.len() * self.config.health.eject_at_most as usize / 100;
        up == 0 || down + 1 > most.max(1)
    }

    /// Takes in whether one of this pool's nodes had a file that it was asked for first.
    pub fn observe_absence(&self, node: &Node, lacks: bool, now: Duration, metrics: &Metrics) {
        if !self.config.health.absence {
            return;
        }
        if node.condition.take_absence(lacks, now) {
            let (pool, name) = (self.name(), &node.name);
            log::warn!(
                "node {name} of pool {pool} suddenly lacks all it is asked for, and is asked last: is its disk there?"
            );
            let told = "it suddenly lacks all that it is asked for, and is asked last: is its disk there?";
            metrics.history.note(SystemTime::now(), history::Kind::Suspect, [pool, name], told);
            node.condition.absence_suspect.set(1);
        } else if !lacks && !node.condition.is_suspect(now) {
            node.condition.absence_suspect.set(0);
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
        (Pool::new(&config.pools[0], &Identity::new("a", b"k"), &metrics, None), metrics)
    }

    const ASKER: Asker<'static> =
        Asker { path: b"/x", client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), fields: None };

    fn picks(pool: &Pool, n: usize) -> String {
        (0..n)
            .map(|_| pool.pick(&Visited::default(), Duration::ZERO, &ASKER, |_| Mark::Unknown).unwrap().name.clone())
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
        while let Some(node) = pool.pick(&visited, Duration::ZERO, &ASKER, |_| Mark::Unknown) {
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
            while let Some(node) = pool.pick(&visited, Duration::ZERO, &ASKER, c_has_a_lacks) {
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
            while let Some(node) = pool.pick(&visited, Duration::ZERO, &Asker { path: path.as_bytes(), ..ASKER }, hint)
            {
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

    fn pool_with(keys: &str, nodes: &str) -> Pool {
        let yaml = format!(
            "listeners: [{{ name: w, address: \"127.0.0.1:0\", route: r }}]\npools:\n  p: {{ {keys}, nodes: [{nodes}] }}\nroutes:\n  r: {{ chain: [p] }}\n"
        );
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = Config::parse("test", &yaml, &surroundings).unwrap();
        Pool::new(&config.pools[0], &Identity::new("a", b"k"), &Metrics::new().unwrap(), None)
    }

    fn first<'a>(pool: &'a Pool, asker: &Asker<'_>, now: Duration) -> Option<&'a Node> {
        pool.pick(&Visited::default(), now, asker, |_| Mark::Unknown).map(AsRef::as_ref)
    }

    fn client(number: u32) -> Asker<'static> {
        Asker { client: IpAddr::V4(number.into()), ..ASKER }
    }

    #[tokio::test]
    async fn the_least_busy_for_its_weight_is_asked() {
        let pool = pool_with("algorithm: leastconn", THREE);
        let mut held = Vec::new();
        let mut shares = [0; 3];
        for _ in 0..70 {
            let node = first(&pool, &ASKER, Duration::ZERO).unwrap();
            shares[node.target.0 as usize] += 1;
            held.push(node.gate.enter().await.unwrap());
        }
        assert_eq!(shares, [50, 10, 10]);
        held.clear();
        let _busy = pool.nodes[0].gate.enter().await.unwrap();
        assert_eq!(picks(&pool, 1), "a", "5 to 1, it still has the most room");
    }

    #[test]
    fn a_client_has_a_node_of_its_own_by_source() {
        let pool = pool_with("algorithm: source", THREE);
        let mut shares = [0u32; 3];
        for number in 0..70_000 {
            let node = first(&pool, &client(number), Duration::ZERO).unwrap();
            shares[node.target.0 as usize] += 1;
            assert_eq!(first(&pool, &client(number), Duration::ZERO).unwrap().target, node.target);
        }
        for (share, expected) in shares.into_iter().zip([50_000u32, 10_000, 10_000]) {
            assert!(share.abs_diff(expected) < expected / 5, "{shares:?}");
        }
    }

    #[test]
    fn a_million_picks_have_the_shares_of_the_weights() {
        let pool = pool_with("algorithm: roundrobin", THREE);
        let mut shares = [0; 3];
        for _ in 0..1_000_000 {
            shares[first(&pool, &ASKER, Duration::ZERO).unwrap().target.0 as usize] += 1;
        }
        for (share, expected) in shares.into_iter().zip([714_286i32, 142_857, 142_857]) {
            assert!((share - expected).abs() <= 2, "{shares:?}");
        }
    }

    #[test]
    fn a_mode_says_what_a_node_is_for() {
        let pool = pool_with("stickiness: { kind: table }", THREE);
        let [a, b, c] = [0, 1, 2].map(|i| &pool.nodes[i]);
        let stuck = client(1);
        assert_eq!(first(&pool, &stuck, Duration::ZERO).unwrap().name, "a");
        a.set_mode(Mode::Drain);
        b.set_mode(Mode::Backup);
        assert_eq!(first(&pool, &stuck, Duration::ZERO).unwrap().name, "a", "it has this client already");
        assert_eq!(first(&pool, &client(2), Duration::ZERO).unwrap().name, "c");
        c.set_mode(Mode::Reject);
        assert_eq!(first(&pool, &client(3), Duration::ZERO).unwrap().name, "b", "nobody else is left");
        c.set_mode(Mode::Accept);
        let metrics = Metrics::new().unwrap();
        for _ in 0..3 {
            pool.observe(c, Signal::RequestFailed, Duration::ZERO, &metrics);
        }
        assert_eq!(first(&pool, &client(4), Duration::ZERO).unwrap().name, "b", "the others are down");
        a.set_mode(Mode::Reject);
        assert_eq!(first(&pool, &stuck, Duration::ZERO).unwrap().name, "b", "reject heeds no stickiness");
        b.set_mode(Mode::Reject);
        c.set_mode(Mode::Drain);
        assert!(first(&pool, &client(5), Duration::ZERO).is_none());
    }

    #[test]
    fn a_client_of_the_table_is_known_for_its_time() {
        let pool = pool_with("stickiness: { kind: table, ttl: 30m }", THREE);
        let at = Duration::from_secs;
        let names = |numbers: std::ops::Range<u32>, now| -> String {
            numbers.map(|number| first(&pool, &client(number), now).unwrap().name.clone()).collect()
        };
        let before = names(0..14, at(0));
        assert_eq!(before, "aabacaaaabacaa");
        assert_eq!(names(0..14, at(1799)), before);
        let v6 = |last: u16| Asker { client: IpAddr::V6([0x2001, 0xdb8, 0, 1, 0, 0, 0, last].into()), ..ASKER };
        let network = first(&pool, &v6(1), at(0)).unwrap().target;
        assert!((2..50).all(|last| first(&pool, &v6(last), at(0)).unwrap().target == network), "one /64, one client");
        // From insertion, and not from when it was last seen.
        assert_ne!(names(0..14, at(1800)), before);
    }

    #[test]
    fn a_cookie_names_a_node_by_a_hash_alone() {
        let pool = pool_with("stickiness: { kind: cookie }", THREE);
        let with =
            |cookie: &str| HeaderMap::from_iter([(http::header::COOKIE, cookie.parse::<HeaderValue>().unwrap())]);
        let stranger = with("other=1");
        let asker = Asker { fields: Some(&stranger), ..ASKER };
        let node = first(&pool, &asker, Duration::ZERO).unwrap();
        let set = pool.set_cookie(&asker, node.target).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.starts_with("NB_SRVID=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        let known = with(&format!("other=1; {}", set.split(';').next().unwrap()));
        let asker = Asker { fields: Some(&known), ..ASKER };
        for _ in 0..20 {
            assert_eq!(first(&pool, &asker, Duration::ZERO).unwrap().target, node.target);
        }
        assert_eq!(pool.set_cookie(&asker, node.target), None);
        for made_up in ["NB_SRVID=a", "NB_SRVID=0", "NB_SRVID="] {
            let made_up = with(made_up);
            let asker = Asker { fields: Some(&made_up), ..ASKER };
            assert_eq!((0..70).filter(|_| first(&pool, &asker, Duration::ZERO).unwrap().name == "a").count(), 50);
        }
        // It goes down: the client is told of another.
        let metrics = Metrics::new().unwrap();
        for _ in 0..3 {
            pool.observe(node, Signal::RequestFailed, Duration::ZERO, &metrics);
        }
        let other = first(&pool, &asker, Duration::ZERO).unwrap();
        assert_ne!(other.target, node.target);
        assert!(pool.set_cookie(&asker, other.target).is_some());
    }

    #[test]
    fn a_node_that_comes_back_starts_slowly() {
        let nodes = "{ name: a, address: \"127.0.0.1:1\" }, { name: b, address: \"127.0.0.1:2\" }";
        let pool = pool_with("health: { slow_start: 100s, check: connection, rise: 1 }", nodes);
        let (metrics, at) = (Metrics::new().unwrap(), Duration::from_secs);
        for _ in 0..3 {
            pool.observe(&pool.nodes[0], Signal::CheckFailed, at(1), &metrics);
        }
        pool.observe(&pool.nodes[0], Signal::CheckPassed, at(10), &metrics);
        let of_a = |now| (0..1000).filter(|_| first(&pool, &ASKER, now).unwrap().name == "a").count();
        assert!((80..=100).contains(&of_a(at(20))), "a tenth of its weight: 1 in 11");
        assert!((320..=350).contains(&of_a(at(60))), "half of it: 1 in 3");
        assert_eq!(of_a(at(110)), 500);
    }

    #[test]
    fn of_all_that_fail_at_once_one_stays_up() {
        let nodes = "{ name: a, address: \"127.0.0.1:1\" }, { name: b, address: \"127.0.0.1:2\" }";
        let metrics = Metrics::new().unwrap();
        for _ in 0..500 {
            let pool = pool_with("health: { fall: 1 }", nodes);
            let together = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for node in &pool.nodes {
                    scope.spawn(|| {
                        together.wait();
                        pool.observe(node, Signal::RequestFailed, Duration::ZERO, &metrics);
                    });
                }
            });
            assert_eq!(pool.nodes.iter().filter(|node| node.is_up(Duration::ZERO)).count(), 1);
        }
    }

    #[test]
    fn a_node_that_takes_no_requests_is_not_the_one_that_is_left() {
        let pool = pool_with("health: { fall: 1 }", THREE);
        let metrics = Metrics::new().unwrap();
        let [a, b, c] = [0, 1, 2].map(|i| &pool.nodes[i]);
        b.set_mode(Mode::Reject);
        c.set_mode(Mode::Drain);
        pool.observe(a, Signal::RequestFailed, Duration::ZERO, &metrics);
        assert!(a.is_up(Duration::ZERO));
        c.set_mode(Mode::Backup);
        pool.observe(a, Signal::RequestFailed, Duration::ZERO, &metrics);
        assert!(!a.is_up(Duration::ZERO));
    }

    #[test]
    fn no_more_of_a_pool_than_its_share_is_ejected() {
        let nodes: Vec<_> = (1..=10).map(|i| format!("{{ name: n{i}, address: \"127.0.0.1:{i}\" }}")).collect();
        let metrics = Metrics::new().unwrap();
        for (percent, ejected) in [(0, 1), (10, 1), (50, 5), (99, 9), (100, 9)] {
            let pool = pool_with(&format!("health: {{ fall: 1, eject_at_most: {percent} }}"), &nodes.join(", "));
            for node in &pool.nodes {
                pool.observe(node, Signal::RequestFailed, Duration::ZERO, &metrics);
            }
            let down = pool.nodes.iter().filter(|node| !node.is_up(Duration::ZERO)).count();
            assert_eq!(down, ejected, "{percent} %");
            let late = Err(Failing::Late);
            pool.observe_check(&pool.nodes[9], &late, Duration::ZERO, &metrics);
            assert!(!pool.nodes[9].is_up(Duration::ZERO), "a check says what is so");
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
