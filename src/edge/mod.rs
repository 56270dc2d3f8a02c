//! The edge: accepting connections, and the bounds that each one lives under.
//!
//! Pingora's own listeners have no limit on connections, no deadline for a whole request head, none for an
//! idle connection after its first request, and buffers of 64 KiB on every idle one. So hopfall accepts by
//! itself and hands Pingora a [`Connection`], which carries the bounds in its reads and writes.

mod connection;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;
use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use connection::{Connection, Phase};
use socket::{Socket, Wire};

use crate::metrics::Metrics;

/// The bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_connections: usize,
    /// For a whole request head, and for the TLS handshake.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// For a client that takes none of its answer.
    pub stall_timeout: Duration,
    /// Most bytes read while a head is incomplete. The polite bound, with its 431, is the shape's.
    pub head_bytes: usize,
}

/// An accept loop and the connections that came through it.
pub struct Edge<A> {
    /// The listener's name, for the log.
    pub name: String,
    app: Arc<A>,
    tls: Option<Acceptor>,
    limits: Limits,
    open: IntGauge,
    unfinished: IntCounter,
    places: Arc<Semaphore>,
}

impl<A: ServerApp + Send + Sync + 'static> Edge<A> {
    pub fn new(name: &str, app: A, tls: Option<Acceptor>, limits: Limits, metrics: &Metrics) -> Self {
        Edge {
            name: name.to_owned(),
            app: Arc::new(app),
            tls,
            limits,
            open: metrics.client_connections.with_label_values(&[name]),
            unfinished: metrics.unfinished_heads.with_label_values(&[name]),
            places: Arc::new(Semaphore::new(limits.max_connections)),
        }
    }

    /// Accepts until `shutdown` turns true. Connections under way go on.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, shutdown: ShutdownWatch) {
        let mut stop = shutdown.clone();
        let stopping = async { stop.wait_for(|stop| *stop).await.map(|_| ()) };
        tokio::pin!(stopping);
        loop {
            // The place is taken before the connection: what does not fit waits in the kernel's queue.
            let place = tokio::select! {
                place = self.places.clone().acquire_owned() => place,
                _ = &mut stopping => break,
            };
            let Ok(place) = place else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = &mut stopping => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    tokio::spawn(self.clone().carry(socket, peer, place, shutdown.clone()));
                }
                Err(error) => {
                    warn!("accept failed: {error}");
                    // Out of file descriptors: others have to close first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        self.app.cleanup().await;
    }

    /// Waits until the last connection has ended.
    pub async fn drained(&self) {
        let all = u32::try_from(self.limits.max_connections).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }

    async fn carry(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        _place: OwnedSemaphorePermit,
        shutdown: ShutdownWatch,
    ) {
        let _open = Open::count(&self.open);
        if let Err(error) = socket.set_nodelay(true) {
            debug!("{peer}: TCP_NODELAY: {error}");
        }
        // Else the kernel takes megabytes for a slow client, and its socket looks stalled while it reads on.
        if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT) {
            debug!("{peer}: TCP_NOTSENT_LOWAT: {error}");
        }
        let socket = Socket::new(socket, peer);
        let aborted = socket.aborted.clone();
        let (wire, alpn) = match &self.tls {
            None => (Wire::Plain(socket), None),
            Some(acceptor) => {
                match tokio::time::timeout(self.limits.header_timeout, acceptor.tls_handshake(socket)).await {
                    Ok(Ok(tls)) => {
                        let alpn = tls.selected_alpn_proto();
                        (Wire::Tls(Box::new(tls)), alpn)
                    }
                    Ok(Err(error)) => return debug!("{peer}: TLS handshake: {error}"),
                    Err(_) => return debug!("{peer}: TLS handshake took too long"),
                }
            }
        };
        let phase = if alpn == Some(ALPN::H2) { Phase::Multiplexed } else { Phase::First };
        let stream: Stream = Box::new(Connection::new(wire, aborted, self.limits, phase, self.unfinished.clone()));
        let mut next = self.app.process_new(stream, &shutdown).await;
        while let Some(stream) = next {
            next = self.app.process_new(stream, &shutdown).await;
        }
    }
}

/// Bytes that may wait in the kernel before a socket is no longer writable.
const NOT_SENT: u32 = 128 * 1024;

/// Counts a connection while it lives.
struct Open(IntGauge);

impl Open {
    fn count(gauge: &IntGauge) -> Self {
        gauge.inc();
        Open(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
