//! Everything that requests are served from, built whole from one config and swapped whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::hop::TargetId;
use crate::location;
use crate::metrics::Metrics;
use crate::pool::turns::Turns;
use crate::pool::{Node, Pool};
use crate::via::Identity;

pub struct Snapshot {
    pub config: Config,
    pub identity: Identity,
    pub pools: Vec<Pool>,
    pub turns: Arc<Turns>,
    pub location: Option<location::Map>,
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
    pub fn new(config: Config, metrics: &Metrics) -> Self {
        let name = config.identity.name.clone().unwrap_or_else(|| format!("hopfall-{:08x}", rand::random::<u32>()));
        let identity = match &config.identity.mark_key {
            Some(key) => Identity::new(&name, key.expose().as_bytes()),
            None => Identity::new(&name, &rand::random::<[u8; 32]>()),
        };
        let pools = config.pools.iter().map(|pool| Pool::new(pool, &identity, metrics)).collect();
        let location = config.location.as_ref().map(|settings| {
            let key = (rand::random(), rand::random());
            let (ttl, absent_ttl) = (settings.ttl.as_secs(), settings.absent_ttl.as_secs());
            location::Map::new(settings.entries, ttl, absent_ttl, u64::from(settings.control) * 10, key)
        });
        Snapshot {
            config,
            identity,
            pools,
            turns: Arc::default(),
            location,
            started: Instant::now(),
            here: addresses_here(),
        }
    }

    /// Time since the process began to serve; the clock of all health.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The targets by number, under names that a later process may know them by.
    pub fn target_names(&self) -> Vec<String> {
        let nodes = self.config.pools.iter().flat_map(|pool| &pool.nodes);
        let stores = self.config.stores.iter();
        let nodes = nodes.map(|node| (node.target, format!("node {}", node.address)));
        let stores =
            stores.map(|store| (store.target, format!("store {} {} {}", store.address, store.bucket, store.prefix)));
        let mut named: Vec<_> = nodes.chain(stores).collect();
        named.sort();
        named.dedup_by_key(|(target, _)| *target);
        named.into_iter().map(|(_, name)| name).collect()
    }

    /// Judges the address of a request that carries no mark of ours. `local` is our own end of its connection.
    pub fn caller<'a>(&'a self, route: &'a config::Route, peer: IpAddr, local: IpAddr) -> Caller<'a> {
        let wary = || self.pools_of(route).filter(|pool| pool.config.from_nodes == config::FromNodes::NoNodes);
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
