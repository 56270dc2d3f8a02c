//! Layer 4: each client of a tcp listener is joined to one node of its pool, and bytes are passed on unread.
//!
//! - A node that cannot be connected to costs the client nothing but time: the next one not yet visited is tried. Once
//!   joined, a client stays with its node: what was sent is not sent again.
//! - A place under the node's cap is held for as long as the connection.
//! - Both sides end as one: a FIN is passed on as a FIN, and everything else (a reset, a failed write, the idle timeout,
//!   no node, the end of this process) as a reset. So a part never looks like the whole.
//!
//! Only connecting counts for health: what is said afterwards is not ours to judge.

mod pipe;
mod relay;

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use log::{debug, warn};
use prometheus::{IntCounter, IntGauge};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub use pipe::Pipes;
use relay::{Relay, Side};

use crate::access_log::{AccessLog, Ended, Joined};
use crate::edge::{self, Accepted, Carry, Ends, Open};
use crate::fallback::{Busy, Failure, Outcome};
use crate::health::Signal;
use crate::hop::Visited;
use crate::location::Mark;
use crate::metrics::Metrics;
use crate::origin::is_ours;
use crate::pool::{Asker, Node, Permit};
use crate::proxy_protocol;
use crate::quiet::Quiet;
use crate::snapshot::Snapshot;

/// One tcp listener's way to its pool.
pub struct Tcp {
    listener: String,
    site: Arc<ArcSwap<Site>>,
    pipes: Arc<Pipes>,
    metrics: Arc<Metrics>,
    open: IntGauge,
    received: IntCounter,
    sent: IntCounter,
    /// Clients that no node took.
    unserved: AtomicU64,
    quiet: Quiet,
}

/// Where the connections of one listener go. Swapped whole when the config changes: a connection keeps the one that it
/// began with.
pub struct Site {
    pub snapshot: Arc<Snapshot>,
    /// Index into the snapshot's pools.
    pub pool: usize,
    pub idle_timeout: Duration,
    pub access_log: Arc<AccessLog>,
}

/// What came of looking for a node.
struct Found<'a> {
    /// The node that took the connection, with the place that it holds there; or why there is none.
    node: Result<(&'a Node, Side, Permit), String>,
    /// Each attempt, as the access log has it.
    hops: String,
}

impl Tcp {
    /// `name` is the listener's.
    pub fn new(name: &str, site: Arc<ArcSwap<Site>>, pipes: Arc<Pipes>, metrics: Arc<Metrics>) -> Self {
        Tcp {
            listener: name.to_owned(),
            site,
            pipes,
            open: metrics.tcp_connections.with_label_values(&[name]),
            received: metrics.tcp_bytes.with_label_values(&[name, "in"]),
            sent: metrics.tcp_bytes.with_label_values(&[name, "out"]),
            metrics,
            unserved: AtomicU64::new(0),
            quiet: Quiet::for_each(TELL_EVERY),
        }
    }

    /// A connection to the first node that takes one. `local` is our own end of the client's connection.
    async fn join<'a>(&self, site: &'a Site, client: SocketAddr, local: SocketAddr) -> Found<'a> {
        let mut hops = String::new();
        let none = || "no node is to be asked".to_owned();
        let Some(pool) = site.snapshot.pools.get(site.pool) else { return Found { node: Err(none()), hops } };
        let header = pool.config.proxy_protocol.map(|version| proxy_protocol::write(version, client, local));
        let header = header.unwrap_or_default();
        let asker = Asker { path: b"", client: client.ip().to_canonical(), fields: None };
        let mut visited = Visited::default();
        let mut last = None;
        while let Some(node) = pool.pick(&visited, site.snapshot.now(), &asker, |_| Mark::Unknown) {
            // Never twice, whatever `pick` says.
            if !visited.insert(node.target) {
                break;
            }
            pool.sends_to(node, site.snapshot.now());
            let began = Instant::now();
            let mut hop = |result: &str| {
                let space = if hops.is_empty() { "" } else { " " };
                let _ = write!(hops, "{space}{}:{result}:{}ms", node.name, began.elapsed().as_millis());
            };
            let Some(place) = node.gate.enter().await else {
                let full = Outcome::Busy(Busy::Full);
                node.metrics.attempted(full.as_str());
                hop(full.as_str());
                last = Some((node, "it has no place free (`max_in_flight`)"));
                continue;
            };
            match connect(node, &header, pool.config.bounds.connect_timeout).await {
                Ok(tcp) => {
                    hop("connected");
                    node.metrics.connects.inc();
                    node.metrics.attempted("found");
                    pool.observe(node, Signal::RequestPassed, site.snapshot.now(), &self.metrics);
                    return Found { node: Ok((node, Side::new(tcp), place)), hops };
                }
                Err(outcome) => {
                    debug!("{}: node {}: {:?}", self.listener, node.name, outcome);
                    node.metrics.attempted(outcome.as_str());
                    hop(outcome.failure().map_or(outcome.as_str(), Failure::as_str));
                    last = Some((node, outcome.failure().map_or("hopfall has no more files to open", Failure::as_str)));
                    if outcome.harms_health() {
                        pool.observe(node, Signal::RequestFailed, site.snapshot.now(), &self.metrics);
                    }
                }
            }
        }
        let why = last.map_or_else(none, |(node, why)| format!("the last one, {}: {why}", node.name));
        Found { node: Err(why), hops }
    }

    /// One line for all clients that no node takes within a while: nothing else tells of them where the nodes' health does
    /// not change.
    fn tell_unserved(&self, why: &str) {
        let count = self.unserved.fetch_add(1, Ordering::Relaxed) + 1;
        if self.quiet.is_over(Instant::now()) {
            let listener = &self.listener;
            warn!("{listener}: no node takes a connection, and clients are reset, {count} so far; {why}");
        }
    }
}

/// How often the log is told of clients that no node takes.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[async_trait]
impl Carry for Tcp {
    async fn carry(&self, accepted: Accepted, _ends: &Ends) {
        let (peer, told) = (accepted.peer, accepted.told);
        let (time, began) = (SystemTime::now(), Instant::now());
        let local = match accepted.tcp.local_addr() {
            Ok(local) => local,
            Err(error) => return debug!("{}: {told}: {error}", self.listener),
        };
        edge::bound_unsent(&accepted.tcp, told);
        let mut client = Side::new(accepted.tcp);
        let site = self.site.load_full();
        let Found { node, hops } = self.join(&site, peer, local).await;
        let mut joined = Joined {
            time,
            took: Duration::ZERO,
            listener: &self.listener,
            client: peer.ip(),
            hops: &hops,
            node: None,
            received: 0,
            sent: 0,
            ended: Ended::Unserved,
        };
        match node {
            Ok((node, mut upstream, _place)) => {
                let open = Open::count(&self.open);
                let relay = Relay::new(&self.pipes, site.idle_timeout, &self.received, &self.sent);
                let result = relay.run(&mut client, &mut upstream).await;
                drop(open);
                if let Err(error) = &result {
                    debug!("{}: {told} and {}: {error}", self.listener, node.name);
                }
                joined.node = Some(&node.name);
                joined.ended = relay::ended(&result);
                (joined.received, joined.sent) = relay.passed();
            }
            Err(why) => self.tell_unserved(&why),
        }
        joined.took = began.elapsed();
        // The log of now: the one of then may have been left meanwhile.
        self.site.load().access_log.write_joined(&joined);
    }
}

/// Connects and sends `header`.
///
/// # Errors
/// `Busy` when this process is at its end, and not the node; else `Down`.
async fn connect(node: &Node, header: &[u8], wait: Duration) -> Result<TcpStream, Outcome> {
    let Some(address) = node.endpoint.address() else { return Err(Outcome::Down(Failure::DnsError)) };
    let connecting = async {
        let mut tcp = TcpStream::connect(address).await?;
        edge::send_at_once(&tcp, address);
        edge::bound_unsent(&tcp, address);
        tcp.write_all(header).await?;
        Ok(tcp)
    };
    match tokio::time::timeout(wait, connecting).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(error)) if is_ours(&error) => Err(Outcome::Busy(Busy::Full)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Outcome::Down(Failure::ConnectionRefused))
        }
        Ok(Err(_)) => Err(Outcome::Down(Failure::DestinationUnavailable)),
        Err(_) => Err(Outcome::Down(Failure::ConnectionTimeout)),
    }
}
