//! Everything that requests are served from, built whole from one config and swapped whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::hop::TargetId;
use crate::location::{self, UnixTime};
use crate::metrics::Metrics;
use crate::pool::turns::Turns;
use crate::pool::{Node, Pool};
use crate::via::Identity;

pub struct Snapshot {
    pub config: Config,
    pub identity: Identity,
    pub pools: Vec<Pool>,
    pub turns: Arc<Turns>,
    pub location: Option<Arc<location::Map>>,
    /// How many there were before it in this process.
    pub generation: u64,
    started: Instant,
    /// The addresses of this machine.
    here: Vec<IpAddr>,
}

/// Who may have sent a request, going by its address.
pub enum Caller<'a> {
    Client,
    /// A node of ours, on a machine of its own: what it asks of us it must not be asked.
    Node(&'a Node),
    /// Somebody on this machine, where nodes of ours are too; or a node of another route's.
    Neighbour,
}

impl Snapshot {
    /// `before` is the snapshot that this one follows. What was learned of nodes that are still there is shared with it:
    /// health and modes, who sticks where, and the location map. `now` is in the map's time.
    pub fn new(
        config: Config,
        identity: Identity,
        metrics: &Metrics,
        before: Option<&Snapshot>,
        now: UnixTime,
    ) -> Self {
        let pool = |pool: &config::Pool| {
            let before = before.and_then(|before| before.pools.iter().find(|own| own.name() == pool.name));
            Pool::new(pool, &identity, metrics, before)
        };
        let pools = config.pools.iter().map(pool).collect();
        let location = config.location.as_ref().map(|settings| locations(settings, &config, before, now));
        let same_targets = before.filter(|before| before.config.target_names() == config.target_names());
        Snapshot {
            turns: same_targets.map(|before| before.turns.clone()).unwrap_or_default(),
            generation: before.map_or(0, |before| before.generation + 1),
            started: before.map_or_else(Instant::now, |before| before.started),
            config,
            identity,
            pools,
            location,
            here: addresses_here(),
        }
    }

    /// Comes into force: where the config says another mode of a node than it did in `before`, that holds; else what an
    /// operator has said of it meanwhile. Nodes and stores that are gone leave the metrics.
    pub fn follow(&self, before: &Snapshot, metrics: &Metrics) {
        for pool in &before.pools {
            let now = self.pools.iter().find(|now| now.name() == pool.name());
            for (was, node) in pool.config.nodes.iter().zip(&pool.nodes) {
                let same = now.and_then(|now| now.config.nodes.iter().find(|now| now.name == was.name));
                match same {
                    Some(now) if now.mode != was.mode => node.set_mode(now.mode),
                    Some(_) => {}
                    None => metrics.forget_node(pool.name(), &was.name),
                }
            }
        }
        for was in &before.config.stores {
            let Some(now) = self.config.stores.iter().find(|now| now.name == was.name) else {
                metrics.forget_store(&was.name);
                continue;
            };
            if now.disk.is_none() {
                metrics.forget_disk(&was.name);
            }
            if now.budget_per_day.is_none() {
                metrics.forget_budget(&was.name);
            }
        }
    }

    /// Pool, node and mode of each node that an operator has given another mode than the config has.
    pub fn modes_said(&self) -> Vec<[String; 3]> {
        let nodes =
            self.pools.iter().flat_map(|pool| pool.config.nodes.iter().zip(&pool.nodes).map(move |both| (pool, both)));
        let said = nodes.filter(|(_, (config, node))| config.mode != node.mode());
        said.map(|(pool, (_, node))| [pool.name().to_owned(), node.name.clone(), node.mode().as_str().to_owned()])
            .collect()
    }

    /// Time since the process began to serve; the clock of all health.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Judges the address of a request that carries no mark of ours. `local` is our own end of its connection.
    pub fn caller<'a>(&'a self, route: &'a config::Route, peer: IpAddr, local: IpAddr) -> Caller<'a> {
        self.caller_among(|| self.pools_of(route), peer, local)
    }

    /// Whether a request, or a connection, from this address may be a node's, of whatever pool. `local` is our own end.
    pub fn may_be_node(&self, peer: IpAddr, local: Option<IpAddr>) -> bool {
        let local = local.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        !matches!(self.caller_among(|| self.pools.iter(), peer, local), Caller::Client)
    }

    fn caller_among<'a, P: Iterator<Item = &'a Pool>>(
        &self,
        pools: impl Fn() -> P,
        peer: IpAddr,
        local: IpAddr,
    ) -> Caller<'a> {
        let wary = || pools().filter(|pool| pool.config.from_nodes == config::FromNodes::NoNodes);
        // Any program on this machine may have one of these addresses.
        let is_here = |address: IpAddr| address == local || address.is_loopback() || self.here.contains(&address);
        // Loopback addresses but the first are given by somebody on purpose.
        let is_anybody =
            |address: IpAddr| is_here(address) && (!address.is_loopback() || FIRST_LOOPBACKS.contains(&address));
        if let Some(node) = wary().find_map(|pool| pool.node_at(peer)).filter(|_| !is_anybody(peer)) {
            return Caller::Node(node);
        }
        // A node of another route's may ask here in good faith, or send a request on in a circle of routes.
        let is_node_elsewhere = || {
            let mut pools = self.pools.iter().filter(|pool| pool.config.from_nodes == config::FromNodes::NoNodes);
            pools.any(|pool| pool.node_at(peer).is_some())
        };
        if !is_anybody(peer) && is_node_elsewhere() {
            return Caller::Neighbour;
        }
        let nodes_here = || wary().flat_map(|pool| &pool.nodes).any(|node| node.endpoint.ip().is_some_and(is_here));
        if is_here(peer) && nodes_here() { Caller::Neighbour } else { Caller::Client }
    }

    /// Whether a node or a store has this name.
    pub fn is_target(&self, name: &str) -> bool {
        let mut nodes = self.pools.iter().flat_map(|pool| &pool.nodes);
        nodes.any(|node| node.name == name) || self.config.stores.iter().any(|store| store.name == name)
    }

    /// The node that is this target, in any pool.
    pub fn node(&self, target: TargetId) -> Option<&Node> {
        self.pools.iter().flat_map(|pool| &pool.nodes).find(|node| node.target == target).map(AsRef::as_ref)
    }

    /// The node at this address, in any pool.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.pools.iter().find_map(|pool| pool.node_at(address)).map(AsRef::as_ref)
    }

    pub fn pools_of<'a>(&'a self, route: &'a config::Route) -> impl Iterator<Item = &'a Pool> {
        route.plan.stages.iter().filter_map(|stage| match stage {
            crate::fallback::Stage::Pool(pool) => self.pools.get(*pool),
            crate::fallback::Stage::Store(_) => None,
        })
    }
}

/// The map as it was where nothing has changed that it tells of; else one that knows what is still true.
fn locations(
    settings: &config::Location,
    config: &Config,
    before: Option<&Snapshot>,
    now: UnixTime,
) -> Arc<location::Map> {
    let bounds =
        (settings.entries, settings.ttl.as_secs(), settings.absent_ttl.as_secs(), u64::from(settings.control) * 10);
    match before.and_then(|before| Some((&before.config, before.location.as_ref()?))) {
        None => {
            let (entries, ttl, absent_ttl, control) = bounds;
            Arc::new(location::Map::new(entries, ttl, absent_ttl, control, (rand::random(), rand::random())))
        }
        Some((was, map)) => {
            let same = (&was.location, &was.pools, &was.stores, &was.routes)
                == (&config.location, &config.pools, &config.stores, &config.routes);
            match same {
                true => map.clone(),
                false => Arc::new(map.carried_to(bounds, &was.target_names(), &config.target_names(), now)),
            }
        }
    }
}

fn addresses_here() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|interface| interface.ip().to_canonical()).collect(),
        Err(error) => {
            log::warn!("this machine's addresses cannot be read, so nodes on it are known by loopback only: {error}");
            Vec::new()
        }
    }
}

/// The addresses that a local program has unless it asks for another.
const FIRST_LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
