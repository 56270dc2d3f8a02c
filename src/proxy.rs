//! The front: what each request goes through before and after it is answered.
//!
//! GET and HEAD run along the [`Chain`], called from Pingora's `proxy_upstream_filter`. All else (uploads,
//! WebSockets, other methods) takes Pingora's native path to one node, on a connection of its own: one
//! that is pooled may be closed under a request that must not be sent twice.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use log::{debug, warn};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Entry};
use crate::chain::{self, Certain, Chain};
use crate::config::{Listener, Protocol, Route};
use crate::edge::Connection;
use crate::fallback::{Busy, Failure, Kind, Outcome, Plan, Refusal, Repeat, Search, Step};
use crate::framing::{Body, Malformed};
use crate::headers::{self, Client, PROXY_STATUS, SERVER_TIMING};
use crate::health::Signal;
use crate::location::Mark;
use crate::origin::check_head;
use crate::pool::turns::Turn;
use crate::pool::{Node, Permit, Pool};
use crate::shape::{self, Head, Misshapen};
use crate::snapshot::Caller;
use crate::trip::{Attempt, Trip};
use crate::via::Seen;

/// One listener's front.
pub struct Front {
    pub chain: Arc<Chain>,
    pub access_log: Arc<AccessLog>,
    pub listener: Listener,
}

/// One request's state.
pub struct Context {
    started: Instant,
    time: SystemTime,
    trip: Trip,
    client: Client,
    /// The request target in origin form, non-ASCII bytes encoded.
    target: Vec<u8>,
    native: Option<Native>,
    /// Body bytes received from the client.
    received: u64,
}

/// The state of a request on Pingora's native path.
struct Native {
    search: Search<Arc<Plan>>,
    /// Indices of the pool and the node being asked.
    asked: Option<(usize, usize)>,
    began: Instant,
    permit: Option<Permit>,
    /// A neighbour's, until the answer's head is there.
    turn: Option<Turn>,
    refusal: Refusal,
}

impl Front {
    fn route(&self) -> &Route {
        &self.chain.snapshot.config.routes[self.listener.route]
    }

    fn caller(&self, session: &ServerSession, context: &Context) -> Caller<'_> {
        let local =
            session.server_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical());
        match self.chain.snapshot.identity.look(&session.req_header().headers) {
            Seen::Peer => Caller::Client,
            _ => {
                let judge = |address| self.chain.snapshot.caller(self.route(), address, local.unwrap_or(NOWHERE));
                // A node may call back through a proxy that we trust.
                match judge(context.client.address) {
                    Caller::Node(node) => Caller::Node(node),
                    _ => judge(context.client.peer),
                }
            }
        }
    }

    /// Refuses by shape, and by the hops that a request has behind it. True when it was answered.
    async fn gatekeep(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        begun: std::result::Result<Vec<u8>, Malformed>,
    ) -> Result<bool> {
        // The bytes as they came: Pingora has changed some of what it has.
        let raw = match begun.as_deref() {
            Ok(came) if !came.is_empty() => Bytes::copy_from_slice(came),
            _ => session.as_http1().map(|_| session.to_h1_raw()).unwrap_or_default(),
        };
        let head = session.req_header();
        let target = head.raw_path();
        let shape = Head { method: &head.method, target, version: head.version, headers: &head.headers, raw: &raw };
        let chunks = begun.map(|_| ()).map_err(|Malformed| Misshapen { status: 400, reason: "malformed chunked body" });
        if let Err(bad) = shape::check(&shape, &self.listener.head).and(chunks) {
            context.trip.misshapen = Some(bad.reason);
            session.set_keepalive(None);
            let code = bad.status.to_string();
            self.chain.metrics.misshapen.with_label_values(&[self.listener.name.as_str(), code.as_str()]).inc();
            return self.answer(session, context, bad.status, HeaderMap::new()).await;
        }
        context.target = encoded(shape::origin_form(target));
        if let Seen::Ourselves { to } = self.chain.snapshot.identity.look(&session.req_header().headers) {
            let snapshot = &self.chain.snapshot;
            let named = to.as_deref().filter(|to| snapshot.is_target(to));
            let by_address = || snapshot.node_at(context.client.peer).map(|node| node.name.as_str());
            let name = named.or_else(by_address).unwrap_or("unknown");
            self.chain.report_loop(name, Certain::Yes, &mut context.trip);
            return self.refuse(session, context, Refusal::LOOP).await;
        }
        let method = session.req_header().method.clone();
        let has_pool = self.chain.snapshot.pools_of(self.route()).next().is_some();
        let reads = matches!(method, Method::GET | Method::HEAD);
        if matches!(method, Method::TRACE | Method::CONNECT) || (!reads && !has_pool) {
            session.set_keepalive(None);
            let allow = HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static("GET, HEAD"))]);
            return self.answer(session, context, 405, allow).await;
        }
        Ok(false)
    }

    async fn refuse(&self, session: &mut ServerSession, context: &mut Context, refusal: Refusal) -> Result<bool> {
        context.trip.failure = refusal.failure;
        let mut fields = HeaderMap::new();
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if refusal.status == 503 {
            fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let (trip, trusted) = (&context.trip, context.client.trusted);
        let told = [(PROXY_STATUS, Some(trip.proxy_status(trusted))), (SERVER_TIMING, trip.server_timing(trusted))];
        for (name, text) in told {
            if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
                fields.insert(name, value);
            }
        }
        self.answer(session, context, refusal.status, fields).await
    }

    async fn answer(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        status: u16,
        mut fields: HeaderMap,
    ) -> Result<bool> {
        fields.append(header::VIA, HeaderValue::from_static("1.1 hopfall"));
        let method = session.req_header().method.clone();
        chain::send_own(session, &method, status, fields, &mut context.trip).await?;
        if !session.is_body_done() {
            // A client that is still sending would lose the answer to the reset that closing causes.
            let _ = tokio::time::timeout(DRAIN_TIME, drain(session)).await;
        }
        Ok(true)
    }

    fn node(&self, native: &Native) -> Option<(&Pool, &Arc<Node>)> {
        let (pool, node) = native.asked?;
        let pool = self.chain.snapshot.pools.get(pool)?;
        Some((pool, pool.nodes.get(node)?))
    }

    /// Records what came of the native attempt under way, once.
    fn record(&self, context: &mut Context, outcome: Outcome) {
        let Some(native) = &mut context.native else { return };
        native.turn = None;
        let Some((pool, node)) = native.asked.take() else { return };
        native.search.judge(Kind::Node, outcome);
        let Some(pool) = self.chain.snapshot.pools.get(pool) else { return };
        let node = &pool.nodes[node];
        node.metrics.attempted(outcome.as_str());
        let signal = if outcome.harms_health() { Signal::RequestFailed } else { Signal::RequestPassed };
        if !matches!(outcome, Outcome::Busy(_)) {
            pool.observe(node, signal, self.chain.snapshot.now(), &self.chain.metrics);
        }
        let took = native.began.elapsed();
        context.trip.attempts.push(Attempt { target: node.name.clone(), pool: pool.name().to_owned(), outcome, took });
    }

    async fn next_peer(&self, session: &ServerSession, context: &mut Context) -> Option<Box<HttpPeer>> {
        let snapshot = &self.chain.snapshot;
        let caller = self.caller(session, context);
        let plan = &self.route().plan;
        let native = context.native.get_or_insert_with(|| Native::new(plan));
        if let Caller::Node(node) = caller {
            native.refusal = Refusal::LOOP;
            self.chain.report_loop(&node.name, Certain::Yes, &mut context.trip);
            return None;
        }
        loop {
            let late = Instant::now() >= context.started + self.route().deadline;
            let native = context.native.as_mut()?;
            let mut picked = None;
            let step = native.search.next(late, |index, visited| {
                let pool = snapshot.pools.get(index)?;
                let node = pool.pick(visited, snapshot.now(), |_| Mark::Unknown)?;
                picked = pool.nodes.iter().position(|other| other.target == node.target).map(|node| (index, node));
                Some(node.target)
            });
            if let Step::Refuse(refusal) = step {
                native.refusal = refusal;
                return None;
            }
            native.asked = picked;
            native.began = Instant::now();
            let (pool, node) = self.node(native)?;
            if let Caller::Neighbour = caller {
                let path = snapshot.turns.path(&context.target);
                native.turn = snapshot.turns.begin(node.target, path, NEIGHBOURS_UPLOADS);
                if native.turn.is_none() {
                    self.chain.report_loop(&node.name, Certain::Perhaps, &mut context.trip);
                    self.record(context, Outcome::Busy(Busy::Full));
                    continue;
                }
            }
            let Some(address) = node.endpoint.address() else {
                self.record(context, Outcome::Down(Failure::DnsError));
                continue;
            };
            let Some(permit) = node.gate.enter().await else {
                self.record(context, Outcome::Busy(Busy::Full));
                continue;
            };
            native.permit = Some(permit);
            let mut peer = HttpPeer::new(address, false, String::new());
            peer.options.connection_timeout = Some(pool.config.bounds.connect_timeout);
            peer.options.total_connection_timeout = Some(pool.config.bounds.connect_timeout);
            peer.options.read_timeout = Some(pool.config.tunnel_timeout);
            peer.options.write_timeout = Some(pool.config.tunnel_timeout);
            return Some(Box::new(peer));
        }
    }
}

impl Native {
    fn new(plan: &Arc<Plan>) -> Self {
        Native {
            search: Search::new(plan.clone(), Repeat::Never),
            asked: None,
            began: Instant::now(),
            permit: None,
            turn: None,
            refusal: Refusal::ABSENT,
        }
    }
}

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            started: Instant::now(),
            time: SystemTime::now(),
            trip: Trip::default(),
            client: Client { peer: NOWHERE, address: NOWHERE, trusted: false, tls: false },
            target: Vec::new(),
            native: None,
            received: 0,
        }
    }

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {
        // No compression: files go out as they are.
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let session = session.as_mut();
        let body = body_of(session.req_header());
        let begun = Connection::of(session.stream()).map(|connection| connection.begin_request(body));
        // Upstream silence rules a tunnel; a stalled upload is the client's.
        let tunnel = self.chain.snapshot.pools_of(self.route()).map(|pool| pool.config.tunnel_timeout).max();
        let wait = if is_websocket(session.req_header()) { tunnel } else { None };
        session.set_read_timeout(Some(wait.unwrap_or(self.listener.stall_timeout)));
        if session.is_http2() {
            // On HTTP/1 the connection itself bounds a stalled client, by progress and not by piece.
            session.set_write_timeout(Some(self.listener.stall_timeout));
        }
        session.set_total_drain_timeout(Some(self.listener.stall_timeout));
        session.set_abort_on_close(false);
        session.set_pipelining_enabled(true);

        let peer = session.client_addr().and_then(|address| address.as_inet()).map_or(NOWHERE, |address| address.ip());
        let tls = self.listener.protocol == Protocol::Https;
        context.client = Client::of(peer, tls, &session.req_header().headers, &self.listener.trusted);
        self.gatekeep(session, context, begun.unwrap_or_else(|| Ok(Vec::new()))).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let session = session.as_mut();
        let head = session.req_header();
        if is_websocket(head) {
            return Ok(true);
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            if let Some(connection) = Connection::of(session.stream()) {
                connection.end_by(context.started + self.route().transfer_deadline);
            }
            if let Some(map) = &self.chain.snapshot.location {
                // What an upload or a DELETE changes is to be found out anew.
                let host = host(head);
                let host = host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
                map.forget(map.path(&self.route().name, host, &context.target));
            }
            return Ok(true);
        }
        let head = head.clone();
        let host = host(&head);
        let caller = self.caller(session, context);
        let request = chain::Request {
            method: &head.method,
            target: &context.target,
            version: head.version,
            host: host.as_ref(),
            headers: &head.headers,
            client: &context.client,
            caller,
            route: self.route(),
            started: context.started,
        };
        let answered = self.chain.run(session, &request, &mut context.trip).await;
        if let (Err(_), Some(connection)) = (&answered, Connection::of(session.stream())) {
            connection.abort();
        }
        answered.map(|()| false)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let found = self.next_peer(session.as_ref(), context).await;
        found.ok_or_else(|| Error::explain(ErrorType::ConnectProxyFailure, "no node to ask"))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&pingora::protocols::Digest>,
        context: &mut Context,
    ) -> Result<()> {
        if let Some((_, node)) = context.native.as_ref().and_then(|native| self.node(native)) {
            node.metrics.connects.inc();
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let failure = match error.etype() {
            ErrorType::ConnectTimedout => Failure::ConnectionTimeout,
            ErrorType::ConnectRefused => Failure::ConnectionRefused,
            _ => Failure::DestinationUnavailable,
        };
        self.record(context, Outcome::Down(failure));
        // Nothing was sent, so the next node may be asked whatever the method.
        error.set_retry(true);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        _reused: bool,
    ) -> Box<Error> {
        error.set_retry(false);
        let failure = match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::HttpResponseTimeout,
            ErrorType::InvalidHTTPHeader => Failure::HttpProtocolError,
            _ => Failure::ConnectionTerminated,
        };
        let status = if failure == Failure::HttpResponseTimeout { 504 } else { 502 };
        // A client that has not sent its body yet keeps the node waiting, and not the other way round.
        let unsent = failure == Failure::HttpResponseTimeout && !session.as_mut().is_body_done();
        if unsent || *error.esource() == pingora::ErrorSource::Downstream {
            context.trip.aborted = Some("client");
        } else {
            self.record(context, Outcome::Broken(failure));
        }
        if let Some(native) = &mut context.native {
            native.refusal = Refusal { status, failure: Some(failure) };
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let Some((pool, node)) = context.native.as_ref().and_then(|native| self.node(native)) else { return Ok(()) };
        let mut forwarded = HeaderMap::new();
        for value in request.headers.get_all(headers::X_FORWARDED_FOR) {
            forwarded.append(headers::X_FORWARDED_FOR, value.clone());
        }
        if let Some(proto) = request.headers.get(headers::X_FORWARDED_PROTO) {
            forwarded.insert(headers::X_FORWARDED_PROTO, proto.clone());
        }
        headers::set_forwarded(&mut forwarded, &context.client);
        for (name, value) in &forwarded {
            request.insert_header(name.clone(), value.clone())?;
        }
        if let Some(host) = &pool.config.host {
            request.insert_header(header::HOST, host)?;
        }
        for (name, value) in node.hop.after(&request.headers) {
            request.insert_header(name, value)?;
        }
        if !is_websocket(session.req_header()) {
            request.insert_header(header::CONNECTION, "close")?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.received += body.as_ref().map_or(0, |body| body.len() as u64);
        if context.received > self.listener.head.body_bytes {
            context.trip.misshapen = Some("request body too large");
            return Error::e_explain(ErrorType::HTTPStatus(413), "request body too large");
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != 101 {
            return Ok(());
        }
        let websocket = response.status == 101 && is_websocket(session.req_header());
        if !websocket && check_head(response).is_err() {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a head that no proxy may pass on");
        }
        let status = response.status.as_u16();
        self.record(context, Outcome::Found(status));
        context.trip.served_by = context.trip.attempts.last().map(|attempt| attempt.target.clone());
        if status != 101 {
            for name in ["keep-alive", "proxy-connection", "trailer", "upgrade"] {
                response.remove_header(name);
            }
        }
        response.append_header(header::VIA, "1.1 hopfall")?;
        if let Some(timing) = context.trip.server_timing(context.client.trusted) {
            response.append_header(headers::SERVER_TIMING, timing)?;
        }
        response.append_header(PROXY_STATUS, context.trip.proxy_status(context.client.trusted))?;
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let session = session.as_mut();
        let written = session.response_written().is_some_and(|head| !head.status.is_informational());
        let mut refusal = context
            .native
            .as_ref()
            .map_or(Refusal { status: 500, failure: Some(Failure::ProxyInternalError) }, |native| native.refusal);
        if let ErrorType::HTTPStatus(status) = error.etype() {
            refusal = Refusal { status: *status, failure: None };
        }
        session.set_keepalive(None);
        if written || context.trip.aborted.is_some() {
            debug!("an answer is cut short: {error}");
            context.trip.aborted.get_or_insert("upstream");
            if let Some(connection) = Connection::of(session.stream()) {
                connection.abort();
            }
            session.shutdown().await;
        } else if let Err(error) = self.refuse(session, context, refusal).await {
            debug!("a refusal could not be sent: {error}");
        }
        FailToProxy { error_code: refusal.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        let session = session.as_mut();
        if let Some(native) = &mut context.native {
            native.permit = None;
            context.trip.sent = session.body_bytes_sent() as u64;
        }
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        if let (Some(error), 0) = (error, status) {
            warn!("a request ended without an answer: {error}");
        }
        let trip = &context.trip;
        let metrics = &self.chain.metrics;
        let listener = self.listener.name.as_str();
        let served_by = trip.served_by.as_deref().unwrap_or("hopfall");
        let code = http::StatusCode::from_u16(status).ok();
        let code = code.as_ref().map_or("0", http::StatusCode::as_str);
        metrics.requests.with_label_values(&[listener, code, served_by]).inc();
        metrics.duration.with_label_values(&[listener]).observe(context.started.elapsed().as_secs_f64());
        metrics.hops.observe(trip.attempts.len() as f64);
        if let Some(side) = trip.aborted {
            metrics.aborted.with_label_values(&[listener, side]).inc();
        }
        let head = session.req_header();
        let host = host(head);
        let field = |name| head.headers.get(name).map_or(&b""[..], |value: &HeaderValue| value.as_bytes());
        self.access_log.write(&Entry {
            time: context.time,
            took: context.started.elapsed(),
            listener,
            client: context.client.address,
            method: head.method.as_str(),
            target: head.raw_path(),
            protocol: match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            host: host.as_ref().map_or(&b""[..], HeaderValue::as_bytes),
            referer: field(header::REFERER),
            user_agent: field(header::USER_AGENT),
            status,
            trip,
        });
        if let Some(connection) = Connection::of(session.stream()) {
            connection.end_request();
        }
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        // The access log has it, with its hops.
        true
    }
}

/// How the request's body is delimited, as Pingora reads it.
fn body_of(head: &RequestHeader) -> Body {
    if is_websocket(head) {
        return Body::UntilClose;
    }
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Body::Chunked;
    }
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    Body::Length(length.unwrap_or(0))
}

/// The one upgrade that is passed on (RFC 6455 §4.1).
fn is_websocket(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_11
        && head
            .headers
            .get(header::UPGRADE)
            .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The `Host` of a request, which HTTP/2 has in `:authority` (RFC 9113 §8.3.1).
fn host(head: &RequestHeader) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
    head.headers.get(header::HOST).cloned().or_else(authority)
}

/// Bytes above ASCII as `%XX`: targets go out as RFC 3986 has them.
fn encoded(target: &[u8]) -> Vec<u8> {
    if target.is_ascii() {
        return target.to_vec();
    }
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for byte in target {
        match byte.is_ascii() {
            true => encoded.push(*byte),
            false => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}

/// Reads a little of a body that nobody wants.
async fn drain(session: &mut ServerSession) {
    let mut left = DRAIN_BYTES;
    while let Ok(Some(piece)) = session.read_request_body().await {
        match left.checked_sub(piece.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// Uploads to one path of one node that this machine's own addresses may have under way: a bound on loops
/// that honest uploads, which take their time, do not feel.
const NEIGHBOURS_UPLOADS: usize = 16;
const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(250);

/// The peer of a connection that is not IP, which hopfall does not accept.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
