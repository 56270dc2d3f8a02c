//! A client's connection with the bounds that it lives under, in its reads and writes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use log::debug;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::socket::Wire;
use crate::framing::{Body, Malformed, Watch};

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
    /// The head of an answer, held until its body begins, so that both leave in one packet; and the body's start, where
    /// more of it is at hand.
    held: Vec<u8>,
    /// Whether the next write is held.
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
    /// Bytes that the client had acknowledged when `write_timer` was set.
    taken: Option<u64>,
}

/// A deadline that costs nothing until something has to wait.
#[derive(Default)]
struct Timer {
    /// What the timer was set for, and when it is over; a change of phase sets it anew.
    set: Option<(Phase, Instant)>,
    /// May be due before the deadline, never after it while it is polled: most deadlines are moved on long before
    /// they are over, and then the sleep need not be.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Sets it, if it is not set for this phase already.
    fn start(&mut self, phase: Phase, after: Duration) -> Instant {
        match self.set {
            Some((set_for, deadline)) if set_for == phase => deadline,
            _ => {
                let deadline = Instant::now() + after;
                self.set = Some((phase, deadline));
                deadline
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, phase: Phase, after: Duration) -> Poll<()> {
        let deadline = self.start(phase, after);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    fn is_set(&self) -> bool {
        self.set.is_some()
    }

    fn stop(&mut self) {
        self.set = None;
    }
}

impl Connection {
    pub(super) fn new(
        wire: Wire,
        aborted: Arc<AtomicBool>,
        limits: Limits,
        phase: Phase,
        unfinished: IntCounter,
    ) -> Self {
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
            taken: None,
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

    /// The next write leaves with the one after it, if it is short. There has to be one.
    pub fn hold_next(&self) {
        self.holds_next.store(true, Ordering::Relaxed);
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

    /// Waits for the first byte of a request. False when none came in time, or none will come.
    pub(super) async fn begins(&mut self) -> bool {
        if !self.ahead.is_empty() || !self.watch().is_between() {
            return true;
        }
        let begins = match &self.wire {
            Wire::Plain(_) => std::future::poll_fn(|cx| self.poll_begins(cx)).await,
            // TLS may have more than its socket, so it has to be read.
            Wire::Tls(_) => self.read_ahead(HEAD_AHEAD).await,
        };
        begins.is_ok_and(|read| read > 0)
    }

    fn poll_begins(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Wire::Plain(socket) = &self.wire
            && socket.poll_readable(cx)?.is_pending()
        {
            return self.poll_wait(cx).map(Err);
        }
        Poll::Ready(Ok(1))
    }

    /// Reads at most so many bytes, and keeps them for the next read.
    async fn read_ahead(&mut self, most: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut piece = [0u8; HEAD_AHEAD];
            let mut piece = ReadBuf::new(&mut piece[..most.min(HEAD_AHEAD)]);
            ready!(self.poll_bounded_read(cx, &mut piece))?;
            self.ahead.extend_from_slice(piece.filled());
            Poll::Ready(Ok(piece.filled().len()))
        })
        .await
    }

    /// Whether an HTTP/2 connection begins here. Reads ahead only while the bytes may still be HTTP/2's preface, so
    /// that a request shorter than the preface is answered and not waited for.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        while self.ahead.len() < PREFACE.len() && PREFACE.starts_with(&self.ahead) {
            if self.read_ahead(PREFACE.len() - self.ahead.len()).await? == 0 {
                break;
            }
        }
        if self.ahead.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.ahead == PREFACE {
            self.phase.store(Phase::Multiplexed as u8, Ordering::Relaxed);
            self.read_timer.stop();
        }
        Ok(self.ahead == PREFACE)
    }

    /// Waits for as long as the phase allows; then the error that ends a read.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase();
        let after = match phase {
            Phase::First | Phase::Head => self.limits.header_timeout,
            Phase::Idle => self.limits.idle_timeout,
            Phase::Serving => match self.time_left() {
                Some(left) => left,
                None => return Poll::Pending,
            },
            Phase::Multiplexed => return Poll::Pending,
        };
        self.read_timer.poll(cx, phase, after).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn poll_bounded_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let phase = self.phase();
        match Pin::new(&mut self.wire).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let read = buf.filled().len() - before;
                match phase {
                    // Its end, and no head begun.
                    Phase::First | Phase::Idle if read == 0 => {}
                    Phase::First | Phase::Idle => {
                        self.head_read = read;
                        self.read_timer.stop();
                        self.enter(Phase::Head);
                        // The clock of the head starts with its first byte.
                        self.read_timer.start(Phase::Head, self.limits.header_timeout);
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
            Poll::Pending => self.poll_wait(cx).map(Err),
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

    /// Bounds the wait for a client that takes nothing. What it takes is told by its acknowledgements: the kernel's
    /// buffer has room again only when megabytes are gone, and a slow client would seem to stall meanwhile.
    fn bound_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if !written.is_pending() {
            self.write_timer.stop();
            return written;
        }
        if !self.write_timer.is_set() {
            self.taken = self.wire.taken();
        }
        loop {
            let left = self.time_left().unwrap_or(Duration::MAX);
            ready!(self.write_timer.poll(cx, Phase::Serving, self.limits.stall_timeout.min(left)));
            let before = std::mem::replace(&mut self.taken, self.wire.taken());
            if self.taken == before || self.time_left() == Some(Duration::ZERO) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.write_timer.stop();
        }
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
        if self.holds_next.swap(false, Ordering::Relaxed) && self.held.len() + buf.len() <= MOST_HELD {
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

/// What is larger is written at once.
const MOST_HELD: usize = 8 * 1024;

/// Most bytes read ahead of a request.
const HEAD_AHEAD: usize = 2 * 1024;

/// HTTP/2's preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.is_http2().await?;
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
