//! The chain: carries out what [`crate::fallback`] decides. Asks, discards, asks the next, relays.
//!
//! The first byte goes to the client only when an answer is to be served, and after it there is no next
//! target: an answer that breaks off aborts the client's connection, so that a part is never taken for the
//! whole.

mod begun;
mod explain;
mod hints;
mod race;
mod reply;
mod together;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Version};
use log::warn;
use pingora::Result;
use pingora::connectors::TransportConnector;
use pingora::protocols::http::ServerSession;
use tokio::time::Instant;

use begun::{Begun, Ended};
pub use explain::Question;
use hints::Hints;
pub use hints::unix_now;
pub use reply::{of_refusal, send_own, tell, tell_of_us};

use crate::config::{self, Route};
use crate::fallback::{Busy, Failure, Kind, Outcome, Plan, Refusal, Repeat, Search, Step, Verdict};
use crate::flight::Flights;
use crate::headers::Client;
use crate::health::Signal;
use crate::history;
use crate::hop::{TargetId, Visited};
use crate::location::PathId;
use crate::metrics::Metrics;
use crate::origin::{Ask, Asked, NodeOrigin, Origin, S3Origin, StoreOrigin, Tls, Upstream, connector};
use crate::pool::turns::{Turn, Waited};
use crate::pool::{Asker, Node, Pool};
use crate::quiet::Quiet;
use crate::snapshot::{Caller, Snapshot};
use crate::traces::Traces;
use crate::trip::{Attempt, Cached, Trip};

/// The origins of one snapshot, and the way along them.
pub struct Chain {
    pub snapshot: Arc<Snapshot>,
    pub metrics: Arc<Metrics>,
    connector: Arc<TransportConnector>,
    /// By pool, then as in the pool's nodes.
    nodes: Vec<Vec<NodeOrigin>>,
    pub stores: HashMap<TargetId, StoreOrigin>,
    /// Searches under way for paths that the location map does not know.
    searches: Arc<Flights<PathId, together::Word>>,
    /// Where requests are traced to.
    pub traces: Option<Arc<Traces>>,
    /// Of each node that was reported to point back.
    quiet: Mutex<HashMap<String, Quiet>>,
}

/// A GET or HEAD to answer.
pub struct Request<'a> {
    pub method: &'a Method,
    /// In origin form.
    pub target: &'a [u8],
    pub version: Version,
    /// The client's `Host`, or `:authority`.
    pub host: Option<&'a HeaderValue>,
    /// The fields that a node may see, but for Host and our own hop.
    pub for_node: HeaderMap,
    /// The fields that a store may see.
    pub for_store: HeaderMap,
    pub client: &'a Client,
    pub caller: Caller<'a>,
    pub route: &'a Route,
    pub started: Instant,
    /// To be said with every answer.
    pub hsts: Option<&'a HeaderValue>,
}

impl Request<'_> {
    fn asker(&self) -> Asker<'_> {
        Asker { path: self.target, client: self.client.address, fields: Some(&self.for_node) }
    }
}

/// Whether a node points back, or only seems to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certain {
    Yes,
    Perhaps,
}

/// A target in hand, with what it takes to ask it.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    Node { pool: &'a Pool, node: &'a Node, origin: &'a NodeOrigin },
    Store(&'a StoreOrigin),
}

impl Chain {
    /// `before` is the chain that this one follows. What has not changed is shared with it: connections to nodes, and whole
    /// stores with all that they keep.
    /// Requests are not traced, unless somebody sets `traces`.
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<Metrics>, before: Option<&Chain>) -> Self {
        let connector = before.map_or_else(connector, |before| before.connector.clone());
        let origins = |pool: &Pool| {
            let host = pool.config.host.as_deref();
            let origin = |(node, config): (&Arc<Node>, &config::Node)| {
                let known = before.and_then(|before| before.upstream_of(pool, node));
                let upstream = known.unwrap_or_else(|| {
                    Upstream::new(connector.clone(), pool.config.bounds, Tls::to_node(&pool.config, config))
                });
                NodeOrigin::new(node.clone(), upstream, pool.config.fallback_on.clone(), host)
            };
            pool.nodes.iter().zip(&pool.config.nodes).map(origin).collect()
        };
        let nodes = snapshot.pools.iter().map(origins).collect();
        let same_identity = before.is_some_and(|before| before.snapshot.config.identity == snapshot.config.identity);
        let store = |store: &config::Store| {
            let known = before.and_then(|before| before.stores.values().find(|own| own.s3.config.name == store.name));
            let same = known.filter(|known| same_identity && known.s3.config == *store);
            let made = same.cloned().unwrap_or_else(|| {
                let s3 = S3Origin::new(store, &snapshot.identity, &metrics, known.map(|known| known.s3.as_ref()));
                let holder = before.and_then(|before| before.holder_of(&store.disk.as_ref()?.settings.path));
                StoreOrigin::new(s3, holder, &metrics)
            });
            (store.target, made)
        };
        let stores = snapshot.config.stores.iter().map(store).collect();
        let searches = match before.filter(|before| same_map(&before.snapshot, &snapshot)) {
            Some(before) => before.searches.clone(),
            None => Arc::default(),
        };
        Chain { snapshot, metrics, connector, nodes, stores, searches, traces: None, quiet: Mutex::default() }
    }

    /// The connections to a node that a later snapshot means by this one, if they suit it.
    fn upstream_of(&self, pool: &Pool, node: &Node) -> Option<Arc<Upstream>> {
        let own = self.snapshot.pools.iter().position(|own| own.name() == pool.name())?;
        let was = &self.snapshot.pools[own].config;
        let same = (was.bounds, &was.tls) == (pool.config.bounds, &pool.config.tls);
        let known = self.nodes[own].iter().find(|known| Arc::ptr_eq(&known.node().endpoint, &node.endpoint))?;
        same.then(|| known.shared_upstream())
    }

    /// The store that has this folder open.
    fn holder_of(&self, path: &Path) -> Option<&StoreOrigin> {
        self.stores.values().find(|store| store.disk().is_some_and(|disk| disk.settings().path == path))
    }

    /// The way to a node, by the indices of its pool and of itself.
    pub fn upstream(&self, pool: usize, node: usize) -> Option<&Upstream> {
        Some(self.nodes.get(pool)?.get(node)?.upstream())
    }

    /// Closes idle connections that are no longer fit for use.
    pub fn sweep(&self) {
        self.nodes.iter().flatten().for_each(|node| node.upstream().sweep());
        self.stores.values().for_each(|store| store.upstream().sweep());
    }

    /// Walks the route's plan for `request` and answers it on `session`.
    ///
    /// # Errors
    /// When the answer could not be sent whole. The connection must then be closed.
    pub async fn run(&self, session: &mut ServerSession, request: &Request<'_>, trip: &mut Trip) -> Result<()> {
        let ask = Ask {
            method: request.method,
            target: request.target,
            host: request.host,
            asker: request.asker(),
            for_node: &request.for_node,
            traceparent: None,
            for_store: &request.for_store,
            deadline: request.started + request.route.deadline,
        };
        let mut search = Search::new(request.route.plan.as_ref(), Repeat::Safe);
        let mut hints = self.hints(request);
        let search_together = self.search_together(request, &mut hints, ask.deadline).await;
        trip.collapsed = matches!(search_together, together::Search::Told | together::Search::Refused(_));
        let leading = match search_together {
            together::Search::Refused(refusal) => return self.refuse(session, request, refusal, trip).await,
            together::Search::Leading(flight) => Some(flight),
            together::Search::Alone | together::Search::Told => None,
        };
        let tell = |word| leading.iter().for_each(|flight| flight.tell(word));
        if hints.nowhere() {
            trip.located = Some("nowhere");
            self.metrics.location_lookups.with_label_values(&["nowhere"]).inc();
            return self.refuse(session, request, Refusal::ABSENT, trip).await;
        }
        if let Some(store) = self.store_to_prefer(request.route, &hints) {
            search.prefer(store);
        }
        if let Caller::Node(node) = request.caller {
            self.report_loop(&node.name, Certain::Yes, trip);
            search.ask_stores_only();
        }
        loop {
            let turn = match self.reserve(&mut search, request, &hints, ask.deadline).await {
                Ok(turn) => turn,
                Err(points_back) => {
                    self.report_loop(points_back, Certain::Perhaps, trip);
                    search.judge(Kind::Node, Outcome::Busy(Busy::Full));
                    search.ask_stores_only();
                    None
                }
            };
            let chosen = match self.next(&mut search, turn.as_ref().map(Turn::target), &hints, &ask) {
                Ok(chosen) => chosen,
                Err(refusal) => {
                    let refusal = in_the_end(refusal, trip.attempts.is_empty(), &request.caller);
                    if refusal == Refusal::ABSENT && !matches!(request.caller, Caller::Node(_)) {
                        hints.learn_nowhere();
                    }
                    // Another one may have more time left.
                    if refusal != Refusal::DEADLINE {
                        tell(together::Word::Refused(refusal));
                    }
                    return self.refuse(session, request, refusal, trip).await;
                }
            };
            match chosen {
                Chosen::Store(_) => tell(together::Word::AtStore),
                Chosen::Node { pool, node, .. } if trip.attempts.is_empty() => {
                    trip.set_cookie = pool.set_cookie(&ask.asker, node.target);
                }
                Chosen::Node { .. } => {}
            }
            let (chosen, begun, Asked { outcome, answer, cached }) =
                self.ask(chosen, &mut search, request, &ask, &hints, trip).await;
            drop(turn);
            trip.cached = cached;
            trip.collapsed |= cached == Some(Cached::Collapsed);
            let first = trip.attempts.is_empty();
            if let (true, Chosen::Node { pool, node, .. }, Outcome::Found(_) | Outcome::Absent(_)) =
                (first, chosen, outcome)
            {
                let lacks = matches!(outcome, Outcome::Absent(_));
                pool.observe_absence(node, lacks, self.snapshot.now(), &self.metrics);
            }
            hints.learn(chosen.target(), outcome, first, &self.metrics);
            self.record(&chosen, outcome, begun.ended(request), trip);
            match (search.judge(chosen.kind(), outcome), answer) {
                (Verdict::Serve, Some(answer)) => {
                    tell(together::Word::Found);
                    drop(leading);
                    return self.serve(session, request, &chosen, answer, trip).await;
                }
                (Verdict::Next, Some(answer)) => answer.discard().await,
                (Verdict::Next, None) => {}
                (Verdict::Refuse(refusal), _) => return self.refuse(session, request, refusal, trip).await,
                (Verdict::Serve, None) => {
                    // invariant: only an answer that was read has a status to serve
                    let refusal = Refusal { status: 502, failure: Some(Failure::ProxyInternalError) };
                    return self.refuse(session, request, refusal, trip).await;
                }
            }
        }
    }

    /// The next target of the search, with its origin: the `reserved` node if there is one.
    fn next(
        &self,
        search: &mut Search<&Plan>,
        reserved: Option<TargetId>,
        hints: &Hints<'_>,
        ask: &Ask<'_>,
    ) -> std::result::Result<Chosen<'_>, Refusal> {
        let now = self.snapshot.now();
        let mut picked = None;
        let pick = |pool: usize, visited: &Visited| {
            let by_algorithm = || {
                let pool = self.snapshot.pools.get(pool)?;
                Some(pool.pick(visited, now, &ask.asker, |target| hints.of(target))?.target)
            };
            let chosen = reserved.or_else(by_algorithm)?;
            picked = Some((pool, chosen));
            Some(chosen)
        };
        let target = match search.next(Instant::now() >= ask.deadline, pick) {
            Step::Try(target) => target,
            Step::Refuse(refusal) => return Err(refusal),
        };
        let node = picked.filter(|(_, node)| *node == target).and_then(|(pool, _)| self.node_origin(pool, target));
        if let Some(Chosen::Node { pool, node, .. }) = node {
            pool.sends_to(node, now);
        }
        let store = || self.stores.get(&target).map(Chosen::Store);
        node.or_else(store).ok_or(Refusal { status: 502, failure: Some(Failure::ProxyInternalError) })
    }

    fn node_origin(&self, pool: usize, target: TargetId) -> Option<Chosen<'_>> {
        let origins = self.nodes.get(pool)?;
        let pool = self.snapshot.pools.get(pool)?;
        let i = pool.nodes.iter().position(|node| node.target == target)?;
        Some(Chosen::Node { pool, node: &pool.nodes[i], origin: &origins[i] })
    }

    /// For a neighbour: a node that is not being asked for this path by anybody, marked as being asked until
    /// its answer's head is there. The error is the name of the node that keeps everybody waiting.
    async fn reserve(
        &self,
        search: &mut Search<&Plan>,
        request: &Request<'_>,
        hints: &Hints<'_>,
        deadline: Instant,
    ) -> std::result::Result<Option<Turn>, &str> {
        let Caller::Neighbour = request.caller else { return Ok(None) };
        let turns = &self.snapshot.turns;
        let path = turns.path(request.target);
        while Instant::now() < deadline {
            let Some(pool) = search.pool().and_then(|pool| self.snapshot.pools.get(pool)) else { break };
            let mut passed = search.visited().clone();
            let mut busy = Vec::new();
            while let Some(node) = pool.pick(&passed, self.snapshot.now(), &request.asker(), |target| hints.of(target))
            {
                if let Some(points_back) = turns.resting(path) {
                    return Err(self.name_of(points_back));
                }
                if let Some(turn) = turns.begin(node.target, path, 1) {
                    return Ok(Some(turn));
                }
                busy.push(node.target);
                if !passed.insert(node.target) {
                    break;
                }
            }
            if busy.is_empty() {
                // All of this pool's nodes are visited.
                search.leave_pool();
                continue;
            }
            if let Waited::PointsBack(node) = turns.wait(&busy, path).await {
                return Err(self.name_of(node));
            }
        }
        Ok(None)
    }

    fn name_of(&self, target: TargetId) -> &str {
        self.snapshot.node(target).map_or("unknown", |node| node.name.as_str())
    }

    /// Counts and logs that `node` sent one of our requests back.
    pub fn report_loop(&self, node: &str, certain: Certain, trip: &mut Trip) {
        self.metrics.loops.with_label_values(&[node]).inc();
        trip.looped_by = Some(node.to_owned());
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = quiet.entry(node.to_owned()).or_insert_with(|| Quiet::for_each(LOOP_REPORT));
        if !of_node.is_over(Instant::now().into_std()) {
            return;
        }
        drop(quiet);
        let told = match certain {
            Certain::Yes => {
                "points back: it asks hopfall for files that hopfall asks it for; make it answer 404 instead"
            }
            Certain::Perhaps => {
                "points back, or hangs: while it keeps hopfall waiting for a file, hopfall is asked for the same file \
                 from this machine; make it answer 404 instead, or see `from_nodes`"
            }
        };
        warn!("node {node} {told}");
        self.metrics.history.note(SystemTime::now(), history::Kind::Loop, ["", node], told);
    }

    fn record(&self, chosen: &Chosen<'_>, outcome: Outcome, ended: Ended, trip: &mut Trip) {
        let Ended { began, took, span } = ended;
        let metrics = match chosen {
            Chosen::Node { node, .. } => &node.metrics,
            Chosen::Store(store) => &store.s3.metrics,
        };
        metrics.attempted(outcome.as_str());
        if outcome.status().is_some() {
            metrics.answered(took);
        }
        let (target, pool) = match chosen {
            Chosen::Node { pool, node, .. } => {
                let signal = if outcome.harms_health() { Signal::RequestFailed } else { Signal::RequestPassed };
                if !matches!(outcome, Outcome::Busy(_) | Outcome::Dropped) || outcome.harms_health() {
                    pool.observe(node, signal, self.snapshot.now(), &self.metrics);
                }
                (node.name.as_str(), pool.name())
            }
            Chosen::Store(store) => (store.s3.config.name.as_str(), store.s3.config.name.as_str()),
        };
        if let Some(before) = trip.attempts.last() {
            self.metrics.fallbacks.with_label_values(&[before.target.as_str(), target, before.outcome.as_str()]).inc();
        }
        trip.attempts.push(Attempt { target: target.to_owned(), pool: pool.to_owned(), outcome, began, took, span });
    }
}

impl<'a> Chosen<'a> {
    fn target(&self) -> TargetId {
        match self {
            Chosen::Node { node, .. } => node.target,
            Chosen::Store(store) => store.s3.target(),
        }
    }

    async fn ask(self, ask: &Ask<'_>) -> Asked {
        match self {
            Chosen::Node { origin, .. } => origin.ask(ask).await,
            // Boxed: it is seldom, and takes much room.
            Chosen::Store(store) => Box::pin(store.ask(ask)).await,
        }
    }

    fn upstream(self) -> &'a Upstream {
        match self {
            Chosen::Node { origin, .. } => origin.upstream(),
            Chosen::Store(store) => store.upstream(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Chosen::Node { .. } => Kind::Node,
            Chosen::Store(_) => Kind::Store,
        }
    }
}

/// What the end of the walk comes to.
fn in_the_end(refusal: Refusal, nobody_was_asked: bool, caller: &Caller<'_>) -> Refusal {
    match caller {
        Caller::Node(_) => refusal,
        // No node takes requests, and there is no store: nobody has said that the file is absent.
        _ if nobody_was_asked && refusal == Refusal::ABSENT => Refusal::UNASKED,
        _ => refusal,
    }
}

/// Whether both know paths by the same numbers.
fn same_map(one: &Snapshot, other: &Snapshot) -> bool {
    matches!((&one.location, &other.location), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
}

/// How often one node is reported to point back.
const LOOP_REPORT: Duration = Duration::from_secs(10);
