//! The edge: accepting connections, and the bounds that each one lives under. What is done with one is a [`Carry`]'s.
//!
//! Pingora's own listeners have no limit on connections, no deadline for a whole request head, none for an
//! idle connection after its first request, and buffers of 64 KiB on every idle one. So hopfall accepts by
//! itself and hands Pingora a [`Connection`], which carries the bounds in its reads and writes.

mod connection;
mod http;
mod proxied;
mod socket;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use log::{debug, warn};
use pingora::server::ShutdownWatch;
use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use connection::{Connection, Phase};
pub use http::Http;
pub use socket::taking;

use crate::admission::Admission;
use crate::config::{Clients, Peer};
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::units::Network;
use proxied::{Refused, read_header};

/// The bounds of an HTTP listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a whole request head, and for the TLS handshake.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For a client that takes none of its answer.
    pub stall_timeout: Duration,
    /// Most bytes read while a head is incomplete. The polite bound, with its 431, is the shape's.
    pub head_bytes: usize,
}

/// A connection that has just been accepted.
pub struct Accepted {
    pub tcp: TcpStream,
    /// The client: the other end, or whom a trusted proxy speaks for.
    pub peer: SocketAddr,
    /// The same as messages may have it.
    pub told: Peer,
}

/// What is done with the connections of one listener.
#[async_trait]
pub trait Carry: Send + Sync + 'static {
    /// Serves one connection to its end.
    async fn carry(&self, accepted: Accepted, ends: &Ends);
}

/// How the connections of a listener come to their end, once no more are accepted.
#[derive(Clone)]
pub struct Ends {
    /// True: what is asked is answered, and is each connection's last. A client that only waits is left in peace, since
    /// what it may be sending at this moment would be lost.
    pub leaving: ShutdownWatch,
    /// True: who only waits is sent away too.
    pub stopping: ShutdownWatch,
}

/// The bounds and the carrier of connections, as one config has them; and those that came through it.
pub struct Edge {
    /// The listener's name, for the log.
    pub name: String,
    carrier: Box<dyn Carry>,
    /// Which connections are taken; `None`: all.
    admission: Arc<ArcSwapOption<Admission>>,
    /// Whose connections must begin with a PROXY header, and how soon.
    proxies: Vec<Network>,
    header_timeout: Duration,
    clients: Clients,
    open: IntGauge,
    refused: IntCounter,
    max_connections: usize,
    places: Arc<Semaphore>,
}

impl Edge {
    pub fn new(name: &str, carrier: impl Carry, max_connections: usize, metrics: &Metrics) -> Self {
        let most = i64::try_from(max_connections).unwrap_or(i64::MAX);
        metrics.client_connections_max.with_label_values(&[name]).set(most);
        Edge {
            name: name.to_owned(),
            carrier: Box::new(carrier),
            admission: Arc::default(),
            proxies: Vec::new(),
            header_timeout: Duration::ZERO,
            clients: Clients::Full,
            refused: metrics.proxy_headers_refused.with_label_values(&[name]),
            open: metrics.client_connections.with_label_values(&[name]),
            max_connections,
            places: Arc::new(Semaphore::new(max_connections)),
        }
    }

    /// Has connections from these networks begin with a PROXY header, complete within `header_timeout`.
    pub fn behind(mut self, proxies: Vec<Network>, header_timeout: Duration) -> Self {
        self.proxies = proxies;
        self.header_timeout = header_timeout;
        self
    }

    /// Resets connections that are not admitted, before anything is said on them. What admits them may be exchanged.
    pub fn admitting(mut self, admission: Arc<ArcSwapOption<Admission>>) -> Self {
        self.admission = admission;
        self
    }

    /// Has messages name clients so.
    pub fn telling(mut self, clients: Clients) -> Self {
        self.clients = clients;
        self
    }

    /// Waits until the last connection has ended.
    pub async fn drained(&self) {
        let all = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }

    async fn carry(self: Arc<Self>, mut tcp: TcpStream, peer: SocketAddr, _place: OwnedSemaphorePermit, ends: Ends) {
        let _open = Open::count(&self.open);
        let Some(peer) = self.client(&mut tcp, peer).await else { return };
        if !self.admits(&tcp, peer) {
            return;
        }
        let told = self.clients.peer(peer);
        send_at_once(&tcp, told);
        self.carrier.carry(Accepted { tcp, peer, told }, &ends).await;
    }

    /// Whether the client may have one more connection. If not, this one will end by a reset.
    fn admits(&self, tcp: &TcpStream, client: SocketAddr) -> bool {
        let Some(admission) = &*self.admission.load() else { return true };
        let local = || tcp.local_addr().ok().map(|local| local.ip());
        let admitted = admission.admits(client.ip(), local);
        if !admitted && let Err(error) = tcp.set_zero_linger() {
            debug!("{}: {}: SO_LINGER: {error}", self.name, self.clients.peer(client));
        }
        admitted
    }

    /// The client at the other end, or the one that a trusted proxy there speaks for. `None`: it must be closed.
    async fn client(&self, tcp: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if !self.proxies.iter().any(|network| network.contains(peer.ip())) {
            return Some(peer);
        }
        let told = self.clients.peer(peer);
        match tokio::time::timeout(self.header_timeout, read_header(tcp)).await {
            Ok(Ok(client)) => return Some(client.unwrap_or(peer)),
            Ok(Err(Refused::Unused)) => return None,
            Ok(Err(error)) => debug!("{}: {told}: {error}", self.name),
            Err(_) => debug!("{}: {told}: the PROXY header took too long", self.name),
        }
        self.refused.inc();
        None
    }
}

/// Accepts until the listener is left. Each connection is carried by the edge that is there when it comes; those under way
/// go on.
pub async fn accept(socket: Arc<TcpListener>, mut edge: watch::Receiver<Arc<Edge>>, ends: Ends) {
    let mut leaving = ends.leaving.clone();
    let left = async { leaving.wait_for(|leaving| *leaving).await.map(|_| ()) };
    tokio::pin!(left);
    let quiet = Quiet::for_each(TELL_EVERY);
    loop {
        let current = edge.borrow_and_update().clone();
        // The place is taken before the connection: what does not fit waits in the kernel's queue.
        let place = tokio::select! {
            place = current.places.clone().acquire_owned() => place,
            Ok(()) = edge.changed() => continue,
            _ = &mut left => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Ok(()) = edge.changed() => continue,
            _ = &mut left => break,
        };
        match accepted {
            Ok((tcp, peer)) => {
                tokio::spawn(current.carry(tcp, peer, place, ends.clone()));
            }
            Err(error) => {
                if quiet.is_over(Instant::now()) {
                    warn!("{}: no connection is accepted: {error}", current.name);
                }
                // Out of file descriptors: others have to close first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// How often it is told that nothing can be accepted.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// No waiting for more to send.
pub fn send_at_once(tcp: &TcpStream, peer: impl Display) {
    if let Err(error) = tcp.set_nodelay(true) {
        debug!("{peer}: TCP_NODELAY: {error}");
    }
}

/// No more in the kernel than the other side takes: else it takes megabytes for a slow one, whose socket looks stalled
/// while it reads on. It costs a third more CPU for large answers.
pub fn bound_unsent(tcp: &TcpStream, peer: impl Display) {
    if let Err(error) = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(NOT_SENT) {
        debug!("{peer}: TCP_NOTSENT_LOWAT: {error}");
    }
}

/// Bytes that may wait in the kernel before a socket is no longer writable.
const NOT_SENT: u32 = 128 * 1024;

/// Counts a connection while it lives.
pub struct Open(IntGauge);

impl Open {
    pub fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Open(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
