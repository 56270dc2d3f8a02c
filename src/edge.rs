//! The edge: accepting connections, and the bounds that each one lives under.
//!
//! Pingora's own listeners have no limit on connections, no deadline for a whole request head, none for an
//! idle connection after its first request, and buffers of 64 KiB on every idle one. So hopfall accepts by
//! itself and hands Pingora a [`Connection`], which carries the bounds in its reads and writes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use log::{debug, warn};
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use pingora::server::ShutdownWatch;
use prometheus::{IntCounter, IntGauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::framing::{Body, Malformed, Watch};
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

/// Where an HTTP/1 connection is between two requests, and so what a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No byte of the first head yet.
    First = 0,
    /// Between requests.
    Idle = 1,
    /// Amid a head.
    Head = 2,
    /// A request is being served; reads are bounded by those who serve it.
    Serving = 3,
    /// HTTP/2: Pingora's idle timeout rules.
    Multiplexed = 4,
}

/// A client's connection with its bounds.
pub struct Connection {
    wire: Wire,
    aborted: Arc<AtomicBool>,
    limits: Limits,
    phase: AtomicU8,
    /// The head of an answer, held until its body begins, so that both leave in one packet.
    held: Vec<u8>,
    /// Whether the next write is such a head.
    holds_next: AtomicBool,
    /// Bytes read ahead to tell HTTP/2 from HTTP/1.
    ahead: Vec<u8>,
    /// Bytes read in this head.
    head_read: usize,
    watch: Mutex<Watch>,
    /// When the request being served must be over; unset where somebody else sees to it.
    until: Mutex<Option<Instant>>,
    /// Counts heads that never became a request.
    unfinished: IntCounter,
    read_timer: Timer,
    write_timer: Timer,
}

/// A deadline that costs nothing until something has to wait.
#[derive(Default)]
struct Timer {
    /// What the timer was set for; a change of it sets it anew.
    set_for: Option<Phase>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>, phase: Phase, after: Duration) -> Poll<()> {
        if self.set_for != Some(phase) {
            let deadline = Instant::now() + after;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
            self.set_for = Some(phase);
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn stop(&mut self) {
        self.set_for = None;
    }
}

impl Connection {
    fn new(wire: Wire, aborted: Arc<AtomicBool>, limits: Limits, phase: Phase, unfinished: IntCounter) -> Self {
        Connection {
            wire,
            aborted,
            limits,
            phase: AtomicU8::new(phase as u8),
            held: Vec::new(),
            holds_next: AtomicBool::new(false),
            ahead: Vec::new(),
            head_read: 0,
            watch: Mutex::default(),
            until: Mutex::default(),
            unfinished,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    /// The connection under a Pingora stream, if it is one of ours.
    pub fn of(stream: Option<&Stream>) -> Option<&Connection> {
        stream?.as_any().downcast_ref()
    }

    /// The head is complete and the request is being served. Gives the bytes of the head as they came.
    ///
    /// # Errors
    /// When the request has a chunked body whose beginning is malformed, or was not seen.
    pub fn begin_request(&self, body: Body) -> Result<Vec<u8>, Malformed> {
        self.enter(Phase::Serving);
        self.holds_next.store(true, Ordering::Relaxed);
        self.watch().begin_body(None, body)
    }

    /// The request is answered; the next one may take the idle time to begin.
    pub fn end_request(&self) {
        self.enter(Phase::Idle);
        self.holds_next.store(false, Ordering::Relaxed);
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Cuts the request being served when this time is over.
    pub fn end_by(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn time_left(&self) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the connection end by a reset: the only end that no client takes for the end of a body.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    fn enter(&self, phase: Phase) {
        if self.phase() != Phase::Multiplexed {
            self.phase.store(phase as u8, Ordering::Relaxed);
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::First,
            1 => Phase::Idle,
            2 => Phase::Head,
            3 => Phase::Serving,
            _ => Phase::Multiplexed,
        }
    }

    fn poll_bounded_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let phase = self.phase();
        match Pin::new(&mut self.wire).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let read = buf.filled().len() - before;
                match phase {
                    Phase::First | Phase::Idle => {
                        self.head_read = read;
                        self.read_timer.stop();
                        self.enter(Phase::Head);
                        // The clock of the head starts with its first byte.
                        let _ = self.read_timer.poll(cx, Phase::Head, self.limits.header_timeout);
                    }
                    Phase::Head => self.head_read += read,
                    Phase::Serving | Phase::Multiplexed => self.read_timer.stop(),
                }
                if phase != Phase::Multiplexed {
                    self.watch().saw(&buf.filled()[before..])?;
                }
                if phase == Phase::Head && self.head_read > self.limits.head_bytes {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "request head too large")));
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let after = match phase {
                    Phase::First | Phase::Head => self.limits.header_timeout,
                    Phase::Idle => self.limits.idle_timeout,
                    Phase::Serving => match self.time_left() {
                        Some(left) => left,
                        None => return Poll::Pending,
                    },
                    Phase::Multiplexed => return Poll::Pending,
                };
                ready!(self.read_timer.poll(cx, phase, after));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Writes what is held, and `buf` after it. Gives how much of `buf` was written.
    fn poll_write_after_held(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let both = [io::IoSlice::new(&self.held), io::IoSlice::new(buf)];
            let written = ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn bound_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let left = self.time_left().unwrap_or(Duration::MAX);
            ready!(self.write_timer.poll(cx, Phase::Serving, self.limits.stall_timeout.min(left)));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.write_timer.stop();
        written
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.phase() == Phase::Head {
            self.unfinished.inc();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.poll_bounded_read(cx, buf);
        }
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..taken]);
        self.ahead.drain(..taken);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds_next.swap(false, Ordering::Relaxed) && buf.len() <= MOST_HELD {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = self.poll_write_after_held(cx, buf);
        self.bound_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.held.is_empty() {
            let written = self.poll_write_after_held(cx, &[]);
            ready!(self.bound_write(cx, written))?;
        }
        let written = Pin::new(&mut self.wire).poll_write_vectored(cx, bufs);
        self.bound_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let written = self.poll_write_after_held(cx, &[]);
            ready!(self.bound_write(cx, written))?;
        }
        let flushed = Pin::new(&mut self.wire).poll_flush(cx);
        self.bound_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.aborted.load(Ordering::Relaxed) {
            // An orderly end would say that the body was whole.
            return Poll::Ready(Ok(()));
        }
        if !self.held.is_empty() {
            let written = self.poll_write_after_held(cx, &[]);
            ready!(self.bound_write(cx, written))?;
        }
        let shut = Pin::new(&mut self.wire).poll_shutdown(cx);
        self.bound_write(cx, shut)
    }
}

/// A larger head is written at once.
const MOST_HELD: usize = 8 * 1024;

/// HTTP/2's preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[async_trait]
impl Peek for Connection {
    /// Reads ahead only while the bytes may still be HTTP/2's preface, so that a request shorter than the
    /// preface is answered and not waited for.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        while self.ahead.len() < PREFACE.len() && PREFACE.starts_with(&self.ahead) {
            let mut piece = [0u8; PREFACE.len()];
            let room = PREFACE.len() - self.ahead.len();
            let read = std::future::poll_fn(|cx| {
                let mut piece = ReadBuf::new(&mut piece[..room]);
                ready!(self.poll_bounded_read(cx, &mut piece))?;
                Poll::Ready(io::Result::Ok(piece.filled().len()))
            })
            .await?;
            if read == 0 {
                break;
            }
            self.ahead.extend_from_slice(&piece[..read]);
        }
        if self.ahead.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.ahead == PREFACE {
            self.phase.store(Phase::Multiplexed as u8, Ordering::Relaxed);
            self.read_timer.stop();
        }
        let shown = self.ahead.len().min(buf.len());
        buf[..shown].copy_from_slice(&self.ahead[..shown]);
        Ok(true)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        if let Err(error) = tokio::io::AsyncWriteExt::shutdown(self).await {
            debug!("shutdown: {error}");
        }
    }
}

impl UniqueID for Connection {
    fn id(&self) -> i32 {
        self.wire.id()
    }
}

impl Ssl for Connection {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.wire.tls()?.get_ssl()
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.wire.tls()?.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.wire.tls()?.selected_alpn_proto()
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        match &self.wire {
            Wire::Plain(socket) => socket.get_socket_digest(),
            Wire::Tls(tls) => tls.get_socket_digest(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.phase())
    }
}

/// What carries the bytes.
enum Wire {
    Plain(Socket),
    Tls(Box<pingora::protocols::tls::TlsStream<Socket>>),
}

impl Wire {
    fn tls(&self) -> Option<&pingora::protocols::tls::TlsStream<Socket>> {
        match self {
            Wire::Plain(_) => None,
            Wire::Tls(tls) => Some(tls),
        }
    }

    fn id(&self) -> i32 {
        match self {
            Wire::Plain(socket) => socket.id(),
            Wire::Tls(tls) => tls.id(),
        }
    }
}

macro_rules! on_wire {
    ($wire:expr, $io:ident => $call:expr) => {
        match $wire.get_mut() {
            Wire::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Wire::Tls($io) => {
                let $io = Pin::new($io.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_wire!(self, io => io.poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_wire!(self, io => io.poll_write_vectored(cx, bufs))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, io => io.poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, io => io.poll_shutdown(cx))
    }
}

/// An accepted TCP connection. Unbuffered: Pingora's parsers bring their own buffers.
struct Socket {
    tcp: TcpStream,
    digest: Arc<SocketDigest>,
    aborted: Arc<AtomicBool>,
}

impl Socket {
    fn new(tcp: TcpStream, peer: SocketAddr) -> Self {
        let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        let _ = digest.peer_addr.set(Some(pingora::protocols::l4::socket::SocketAddr::Inet(peer)));
        Socket { tcp, digest: Arc::new(digest), aborted: Arc::default() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.aborted.load(Ordering::Relaxed)
            && let Err(error) = self.tcp.set_zero_linger()
        {
            debug!("SO_LINGER: {error}");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        if let Err(error) = tokio::io::AsyncWriteExt::shutdown(&mut self.tcp).await {
            debug!("shutdown: {error}");
        }
    }
}

impl UniqueID for Socket {
    fn id(&self) -> i32 {
        self.tcp.as_raw_fd()
    }
}

impl Ssl for Socket {}
impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.tcp.as_raw_fd())
    }
}
