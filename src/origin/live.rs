//! One exchange on an HTTP/1.1 connection: connect or reuse, send a head, read a head, hand over the body.
//!
//! Why not Pingora's own retry loop: it drops an HTTP/1 connection whenever a filter turns an answer into a
//! retry, so every 404 hop would cost a TCP handshake. Here a refused answer is drained, within bounds, and
//! its connection is kept.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method, Version, header};
use log::debug;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use prometheus::IntCounter;
use rustix::io::Errno;
use tokio::time::{Instant, timeout, timeout_at};

use super::bill::Bill;
use super::idle::Idle;
use super::tls::{self, Tls};
use super::wire::Wire;
use crate::config::Bounds;
use crate::fallback::{Busy, Failure, Outcome};
use crate::pool::Permit;

/// Most bytes of a refused body that are read so that its connection can be kept.
const DRAIN_BYTES: usize = 64 * 1024;
/// Most interim (1xx) heads before an answer.
const INTERIM_HEADS: usize = 100;
/// Longest time that draining may take.
const DRAIN_TIME: Duration = Duration::from_millis(250);

/// Connections to one target, with its bounds.
pub struct Upstream {
    connector: Arc<TransportConnector>,
    bounds: Bounds,
    /// `None` is plain HTTP.
    tls: Option<Arc<Tls>>,
    /// Made once per address: a peer is large.
    peer: ArcSwapOption<HttpPeer>,
    idle: Idle,
}

/// A response whose head has been read.
pub struct Live {
    session: HttpSession,
    address: SocketAddr,
    upstream: Arc<Upstream>,
    permit: Option<Permit>,
    bill: Option<Arc<Bill>>,
}

/// What opens connections, for any number of targets.
pub fn connector() -> Arc<TransportConnector> {
    Arc::new(TransportConnector::new(Some(ConnectorOptions::new(0))))
}

impl Upstream {
    pub fn new(connector: Arc<TransportConnector>, bounds: Bounds, tls: Option<Arc<Tls>>) -> Arc<Self> {
        Arc::new(Upstream { connector, bounds, tls, peer: ArcSwapOption::empty(), idle: Idle::new(bounds.keepalive) })
    }

    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The same target with other bounds, and with connections of its own.
    pub fn bounded(&self, bounds: Bounds) -> Arc<Self> {
        Upstream::new(self.connector.clone(), bounds, self.tls.clone())
    }

    /// Closes idle connections that are no longer fit for use.
    pub fn sweep(&self) {
        self.idle.sweep();
    }

    /// Sends `request` to `address` and reads a final response head.
    ///
    /// # Errors
    /// `Outcome::Down` when nothing can have been seen of the request; `Outcome::Dropped` when `deadline` is over, which
    /// is nobody's failure here; else `Outcome::Broken`.
    pub async fn exchange(
        self: &Arc<Self>,
        address: SocketAddr,
        request: &RequestHeader,
        deadline: Instant,
        connects: &IntCounter,
        permit: Permit,
    ) -> Result<Live, Outcome> {
        self.exchange_made(address, &|| Ok(request.clone()), deadline, connects, permit).await
    }

    /// The same with a request that is made for each sending of it: it is seldom sent twice, so it need not be kept.
    ///
    /// # Errors
    /// As [`Upstream::exchange`].
    pub async fn exchange_made(
        self: &Arc<Self>,
        address: SocketAddr,
        request: &(dyn Fn() -> pingora::Result<RequestHeader> + Sync),
        deadline: Instant,
        connects: &IntCounter,
        permit: Permit,
    ) -> Result<Live, Outcome> {
        let mut idle = self.idle.take(address);
        loop {
            let reused = idle.is_some();
            let request = request().map_err(|_| Outcome::Down(Failure::ProxyInternalError))?;
            let stream = match idle.take() {
                Some(stream) => stream,
                None => {
                    // Boxed, because it is seldom, and a large part of what a request takes.
                    let stream = Box::pin(self.connect(address, deadline)).await;
                    let stream = stream.map_err(|outcome| in_time(outcome, deadline))?;
                    connects.inc();
                    stream
                }
            };
            let mut session = HttpSession::new(stream);
            match self.read_head(&mut session, Box::new(request), deadline).await {
                // It gave up waiting for a request on an idle connection, and has not seen this one (RFC 9110 §15.5.9).
                Ok(()) if reused && session.resp_header().is_some_and(|head| head.status == 408) => {}
                Ok(()) => {
                    return Ok(Live { session, address, upstream: self.clone(), permit: Some(permit), bill: None });
                }
                // The other side closed an idle connection as we took it up: not its failure, and uncounted.
                Err(Failure::ConnectionTerminated) if reused => {}
                Err(failure) => return Err(in_time(Outcome::Broken(failure), deadline)),
            }
        }
    }

    /// The same on a connection of its own, neither counted nor kept: as a health check must connect anew.
    ///
    /// # Errors
    /// As [`Upstream::exchange`].
    pub async fn exchange_apart(
        self: &Arc<Self>,
        address: SocketAddr,
        request: RequestHeader,
        deadline: Instant,
    ) -> Result<Live, Outcome> {
        let mut session = HttpSession::new(self.connect(address, deadline).await?);
        self.read_head(&mut session, Box::new(request), deadline).await.map_err(Outcome::Broken)?;
        Ok(Live { session, address, upstream: self.clone(), permit: None, bill: None })
    }

    async fn connect(&self, address: SocketAddr, deadline: Instant) -> Result<Stream, Outcome> {
        let peer = self.peer(address);
        match timeout_at(deadline, self.connector.new_stream(peer.as_ref())).await {
            Ok(Ok(stream)) => Ok(Box::new(Wire::new(stream))),
            Ok(Err(error)) if error.root_cause().downcast_ref().is_some_and(is_ours) => Err(Outcome::Busy(Busy::Full)),
            Ok(Err(error)) => {
                self.tell(&error);
                Err(Outcome::Down(connect_failure(&error)))
            }
            Err(_) => Err(Outcome::Down(Failure::ConnectionTimeout)),
        }
    }

    /// Tells an operator what to mend, if it is TLS that failed.
    pub fn tell(&self, error: &Error) {
        if let Some(tls) = &self.tls
            && (tls::failure(error).is_some() || tls::is_alert(error))
        {
            tls.tell(error);
        }
    }

    /// What a connection to this address is opened with.
    pub fn peer(&self, address: SocketAddr) -> Arc<HttpPeer> {
        let wanted = pingora::protocols::l4::socket::SocketAddr::Inet(address);
        if let Some(peer) = self.peer.load_full().filter(|peer| peer._address == wanted) {
            return peer;
        }
        let name = self.tls.as_ref().map_or("", |tls| tls.name());
        let mut peer = HttpPeer::new(address, self.tls.is_some(), name.to_owned());
        if let Some(tls) = &self.tls {
            tls.equip(&mut peer);
        }
        peer.options.connection_timeout = Some(self.bounds.connect_timeout);
        peer.options.total_connection_timeout = Some(self.bounds.connect_timeout);
        let peer = Arc::new(peer);
        self.peer.store(Some(peer.clone()));
        peer
    }

    async fn read_head(
        &self,
        session: &mut HttpSession,
        request: Box<RequestHeader>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        Wire::begin_head(session.stream());
        let until = |deadline: Instant| deadline.min(Instant::now() + self.bounds.header_timeout);
        match timeout_at(until(deadline), session.write_request_header(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Failure::ConnectionTerminated),
            Err(_) => return Err(Failure::HttpResponseTimeout),
        }
        // One clock for the whole head: a node that drips it, or sends 100s for ever, is cut too.
        let reading = async {
            // One for each hint that a node may have, and no storm.
            for _ in 0..INTERIM_HEADS {
                let length = session.read_response().await.map_err(|error| self.read_failure(&error))?;
                let Some(head) = session.resp_header() else { return Err(Failure::HttpProtocolError) };
                if head.status.is_informational() && head.status != 101 {
                    Wire::drop_interim(session.stream(), length);
                    continue;
                }
                let chunked = check_head(head)?;
                return Wire::begin_body(session.stream(), length, chunked).map_err(|_| Failure::HttpProtocolError);
            }
            Err(Failure::HttpProtocolError)
        };
        timeout_at(until(deadline), reading).await.unwrap_or(Err(Failure::HttpResponseTimeout))
    }

    fn read_failure(&self, error: &Error) -> Failure {
        match error.etype() {
            ErrorType::ReadError if self.tls.is_some() && tls::is_alert(error) => {
                self.tell(error);
                Failure::TlsAlertReceived
            }
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => Failure::ConnectionTerminated,
            ErrorType::ReadTimedout => Failure::HttpResponseTimeout,
            _ => Failure::HttpProtocolError,
        }
    }
}

impl Live {
    pub fn head(&self) -> &ResponseHeader {
        // invariant: `Upstream::exchange` is the only maker, and has read the head
        self.session.resp_header().expect("the head was read")
    }

    pub fn status(&self) -> u16 {
        self.head().status.as_u16()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `HttpResponseIncomplete` when the body ends short or its framing breaks, `HttpResponseTimeout` after
    /// a silence of `idle`.
    pub async fn next_piece(&mut self, idle: Duration) -> Result<Option<&[u8]>, Failure> {
        match timeout(idle, self.session.read_body_ref()).await {
            Ok(Ok(piece)) => {
                if let (Some(bill), Some(piece)) = (&self.bill, &piece) {
                    bill.bytes(piece.len() as u64);
                }
                Ok(piece)
            }
            Ok(Err(_)) => Err(Failure::HttpResponseIncomplete),
            Err(_) => Err(Failure::HttpResponseTimeout),
        }
    }

    /// The next piece of the body, if it is here already.
    pub fn piece_at_hand(&mut self) -> Option<Result<Option<&[u8]>, Failure>> {
        match poll_once(self.session.read_body_ref()) {
            Poll::Ready(Ok(piece)) => {
                if let (Some(bill), Some(piece)) = (&self.bill, &piece) {
                    bill.bytes(piece.len() as u64);
                }
                Some(Ok(piece))
            }
            Poll::Ready(Err(_)) => Some(Err(Failure::HttpResponseIncomplete)),
            Poll::Pending => None,
        }
    }

    /// The length that the head announces.
    pub fn announced(&self) -> Option<usize> {
        self.head().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Has its body bytes paid for.
    pub fn bill_to(&mut self, bill: Arc<Bill>) {
        self.bill = Some(bill);
    }

    /// Gives the place at the target back, when all that matters has been read.
    pub fn leave(&mut self) {
        self.permit = None;
    }

    /// The start of the body, for an error document: at most `most` bytes, until `deadline` at most.
    pub async fn peek_body(&mut self, most: usize, deadline: Instant) -> Vec<u8> {
        let mut start = Vec::new();
        let reading = async {
            while let Ok(Some(piece)) = self.session.read_body_bytes().await {
                start.extend_from_slice(&piece);
                if start.len() >= most {
                    break;
                }
            }
        };
        // Whatever came in time is what there is.
        let _ = timeout_at(deadline.min(Instant::now() + self.upstream.bounds.header_timeout), reading).await;
        start.truncate(most);
        start
    }

    /// Gives the connection back after the body was read to its end; one that is not reusable is closed.
    pub async fn finish(mut self) {
        self.session.respect_keepalive();
        if let Some(stream) = self.session.reuse().await {
            self.upstream.idle.put(stream, self.address);
        }
    }

    /// Lets the answer go unserved. What is already here is read at once; the rest is drained on the side,
    /// so that a slow 404 costs a connection and no latency; too much is not drained at all.
    pub async fn discard(mut self) {
        let announced = self.announced();
        if !self.session.is_body_done() && announced.is_some_and(|length| length > DRAIN_BYTES) {
            debug!("a refused body of {announced:?} bytes is not drained");
            return;
        }
        let mut room = DRAIN_BYTES;
        loop {
            if self.session.is_body_done() {
                return self.finish().await;
            }
            match poll_once(self.session.read_body_bytes()) {
                Poll::Ready(Ok(Some(piece))) => match room.checked_sub(piece.len()) {
                    Some(left) => room = left,
                    None => return,
                },
                Poll::Ready(Ok(None)) => return self.finish().await,
                Poll::Ready(Err(_)) => return,
                Poll::Pending => break,
            }
        }
        tokio::spawn(async move {
            let draining = async {
                while let Some(piece) = self.session.read_body_bytes().await.ok()? {
                    room = room.checked_sub(piece.len())?;
                }
                Some(())
            };
            if let Ok(Some(())) = timeout(DRAIN_TIME, draining).await {
                self.finish().await;
            }
        });
    }
}

/// What came of an attempt, unless the request's own time was up: a target that was asked late has not failed.
fn in_time(outcome: Outcome, deadline: Instant) -> Outcome {
    let timed_out = outcome.failure().is_some_and(Failure::is_timeout);
    if timed_out && Instant::now() >= deadline { Outcome::Dropped } else { outcome }
}

/// Polls a read that holds no state of its own across polls.
fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The head of a request. Made of parts, because Pingora's `append_header` parses each name anew.
///
/// # Errors
/// When `target` is no request target.
pub fn request_head(method: &Method, target: &[u8], fields: HeaderMap) -> pingora::Result<RequestHeader> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method.clone();
    parts.headers = fields;
    let mut request = RequestHeader::from(parts);
    request.set_raw_path(target)?;
    Ok(request)
}

/// Whether the body is chunked. Refuses what Pingora's parser lets through and RFC 9112 §6 does not.
pub fn check_head(head: &ResponseHeader) -> Result<bool, Failure> {
    if head.status == 101 {
        // Nobody asked for an upgrade here, and what follows would be no HTTP.
        return Err(Failure::HttpProtocolError);
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None)
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && head.version == Version::HTTP_11 =>
        {
            Ok(true)
        }
        _ => Err(Failure::HttpProtocolError),
    }
}

/// Whether this process, and not the target, is at its end: no more files, ports or memory.
pub fn is_ours(error: &std::io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| ours.contains(&error))
}

/// Why no connection was made.
pub fn connect_failure(error: &Error) -> Failure {
    match error.etype() {
        ErrorType::ConnectTimedout => Failure::ConnectionTimeout,
        ErrorType::ConnectRefused => Failure::ConnectionRefused,
        _ => tls::failure(error).unwrap_or(Failure::DestinationUnavailable),
    }
}
