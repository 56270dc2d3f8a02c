//! The front: what each request goes through before and after it is answered.
//!
//! GET and HEAD run along the [`Chain`], called from Pingora's `proxy_upstream_filter`. All else (uploads,
//! WebSockets, other methods) takes Pingora's native path to one node, on a connection of its own: one
//! that is pooled may be closed under a request that must not be sent twice.

mod gate;
mod native;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use log::{Level, debug, log};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Entry};
use crate::admission::Admission;
use native::Native;

use crate::chain::{self, Chain};
use crate::config::{Listener, Protocol, Route};
use crate::edge::Connection;
use crate::fallback::{Failure, Outcome, Refusal};
use crate::framing::Body;
use crate::headers::{self, Client};
use crate::origin::{check_head, connect_failure};
use crate::snapshot::Caller;
use crate::trace_context::{TRACEPARENT, TRACESTATE, Trace};
use crate::trip::Trip;
use crate::via::Seen;

/// One listener's front.
pub struct Front {
    site: Arc<ArcSwap<Site>>,
}

/// What the requests of one listener are served from. Swapped whole when the config changes: a request keeps the one that
/// it began with.
pub struct Site {
    pub chain: Arc<Chain>,
    pub access_log: Arc<AccessLog>,
    /// Of the chain's own config.
    pub listener: Listener,
    /// The value of `Strict-Transport-Security`, if it is to be said.
    hsts: Option<HeaderValue>,
    duration: Histogram,
    sent: IntCounter,
    /// Which requests are taken; `None`: all.
    admission: Option<Admission>,
}

/// One request's state.
pub struct Context {
    site: Arc<Site>,
    started: Instant,
    time: SystemTime,
    trip: Trip,
    client: Client,
    /// What its hops say.
    seen: Seen,
    /// The request target in origin form, non-ASCII bytes encoded.
    target: Vec<u8>,
    host: Option<HeaderValue>,
    /// Index into the config's routes.
    route: usize,
    native: Option<Native>,
    /// Body bytes received from the client.
    received: u64,
}

impl Site {
    /// `listener` is of the chain's own config. `before` is what this one is swapped in for.
    pub fn new(chain: Arc<Chain>, access_log: Arc<AccessLog>, listener: Listener, before: Option<&Site>) -> Self {
        let hsts = listener.tls.as_ref().and_then(|tls| tls.hsts).map(|hsts| format!("max-age={}", hsts.as_secs()));
        let hsts = hsts.and_then(|hsts| HeaderValue::from_str(&hsts).ok());
        let before = before.and_then(|before| before.admission.as_ref());
        let admission = Admission::of_requests(&listener, &chain.snapshot, &chain.metrics, before);
        let duration = chain.metrics.duration.with_label_values(&[listener.name.as_str()]);
        let sent = chain.metrics.sent.with_label_values(&[listener.name.as_str()]);
        Site { chain, access_log, listener, hsts, duration, sent, admission }
    }

    /// A route of the config, by its index there.
    fn route(&self, index: usize) -> &Route {
        // invariant: the listener is of the same config
        &self.chain.snapshot.config.routes[index]
    }

    fn caller<'a>(&'a self, session: &ServerSession, context: &Context, route: &'a Route) -> Caller<'a> {
        if context.seen == Seen::Peer {
            return Caller::Client;
        }
        let local = local(session).unwrap_or(NOWHERE);
        let Client { peer, address, .. } = context.client;
        // A node may call back through a proxy that we trust.
        match self.chain.snapshot.caller(route, address, local) {
            caller if matches!(caller, Caller::Node(_)) || address == peer => caller,
            _ => self.chain.snapshot.caller(route, peer, local),
        }
    }

    /// Whether the client may have one more request answered.
    pub(super) fn admits(&self, session: &ServerSession, context: &Context) -> bool {
        let Some(admission) = &self.admission else { return true };
        // What has been here before gets the loop's answer, and that asks nobody.
        matches!(context.seen, Seen::Ourselves { .. }) || admission.admits(context.client.address, || local(session))
    }
}

impl Front {
    pub fn new(site: Arc<ArcSwap<Site>>) -> Self {
        Front { site }
    }
}

#[async_trait]
impl ProxyHttp for Front {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            site: self.site.load_full(),
            started: Instant::now(),
            time: SystemTime::now(),
            trip: Trip::default(),
            client: Client { peer: NOWHERE, address: NOWHERE, trusted: false, tls: false },
            seen: Seen::Stranger,
            target: Vec::new(),
            host: None,
            route: 0,
            native: None,
            received: 0,
        }
    }

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {
        // No compression: files go out as they are.
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let site = context.site.clone();
        let session = session.as_mut();
        let body = body_of(session.req_header());
        let begun = Connection::of(session.stream()).map(|connection| connection.begin_request(body));
        session.set_read_timeout(Some(site.listener.stall_timeout));
        if session.is_http2() {
            // On HTTP/1 the connection itself bounds a stalled client, by progress and not by piece.
            session.set_write_timeout(Some(site.listener.stall_timeout));
        }
        session.set_total_drain_timeout(Some(site.listener.stall_timeout));
        session.set_abort_on_close(false);
        session.set_pipelining_enabled(true);

        let peer = session.client_addr().and_then(|address| address.as_inet()).map_or(NOWHERE, |address| address.ip());
        let tls = site.listener.protocol == Protocol::Https;
        let head = session.req_header();
        context.client = Client::of(peer, tls, &head.headers, &site.listener.trusted);
        context.seen = site.chain.snapshot.identity.look(&head.headers);
        context.host = host(head);
        if let Some(traces) = &site.chain.traces {
            let trace = Trace::begin(&head.headers, context.client.trusted, traces.percent(), rand::random);
            context.trip.trace = Some(Box::new(trace));
        }
        let answered = self.gatekeep(session, context, begun.unwrap_or_else(|| Ok(Vec::new()))).await?;
        if !answered && is_websocket(session.req_header()) {
            // Upstream silence rules a tunnel; a stalled upload is the client's.
            let tunnel =
                site.chain.snapshot.pools_of(site.route(context.route)).map(|pool| pool.config.tunnel_timeout).max();
            session.set_read_timeout(Some(tunnel.unwrap_or(site.listener.stall_timeout)));
        }
        Ok(answered)
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let session = session.as_mut();
        let site = context.site.clone();
        let route = site.route(context.route);
        let head = session.req_header();
        if is_websocket(head) {
            return Ok(true);
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            if let Some(connection) = Connection::of(session.stream()) {
                connection.end_by(context.started + route.transfer_deadline);
            }
            self.forget(context);
            return Ok(true);
        }
        let (method, version) = (head.method.clone(), head.version);
        let for_store = headers::for_s3(&head.headers);
        let mut for_node = headers::for_node(&head.headers, &context.client);
        if let Some(trace) = &context.trip.trace {
            headers::set_trace(&mut for_node, trace);
        }
        let caller = site.caller(session, context, route);
        let request = chain::Request {
            method: &method,
            target: &context.target,
            version,
            host: context.host.as_ref(),
            for_node,
            for_store,
            client: &context.client,
            caller,
            route,
            started: context.started,
            hsts: site.hsts.as_ref(),
        };
        let answered = site.chain.run(session, &request, &mut context.trip).await;
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
        if let Some((_, node)) = context.native.as_ref().and_then(|native| Front::node(&context.site, native)) {
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
        if let Some(upstream) = context.native.as_ref().and_then(|native| Front::upstream(&context.site, native)) {
            upstream.tell(&error);
        }
        self.record(context, Outcome::Down(connect_failure(&error)));
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
            // What it has sent may have changed the file all the same.
            self.forget(context);
        } else {
            // What was refused for its own shape is no fault of the node.
            let refused = context.trip.misshapen.is_some();
            self.record(context, if refused { Outcome::Dropped } else { Outcome::Broken(failure) });
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
        let Some((pool, node)) = context.native.as_ref().and_then(|native| Front::node(&context.site, native)) else {
            return Ok(());
        };
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
        if let Some(trace) = &context.trip.trace {
            let span = context.native.as_ref().map_or(trace.span, |native| native.span);
            request.insert_header(TRACEPARENT, trace.told_by(span))?;
            request.remove_header(&TRACESTATE);
            if let Some(state) = &trace.state {
                request.insert_header(TRACESTATE, state)?;
            }
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
        if context.received > context.site.listener.head.body_bytes {
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
        let mut told = HeaderMap::new();
        chain::tell(&mut told, &context.trip, context.client.trusted, context.site.hsts.as_ref());
        if told.contains_key(header::STRICT_TRANSPORT_SECURITY) {
            response.remove_header(&header::STRICT_TRANSPORT_SECURITY);
        }
        for (name, value) in &told {
            response.append_header(name.clone(), value.clone())?;
        }
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
        let status = session.response_written().map(|head| head.status.as_u16());
        // An interim one is no answer.
        let status = status.filter(|status| *status >= 200 || *status == 101).unwrap_or(0);
        if let (Some(error), 0) = (error, status) {
            // A client that goes is no trouble of ours, and is in the access log.
            let level = if context.trip.aborted == Some("client") { Level::Debug } else { Level::Warn };
            log!(level, "a request ended without an answer: {error}");
        }
        let took = context.started.elapsed();
        let trip = &context.trip;
        let site = &context.site;
        let metrics = &site.chain.metrics;
        let listener = site.listener.name.as_str();
        let served_by = trip.served_by.as_deref().unwrap_or("hopfall");
        let code = http::StatusCode::from_u16(status).ok();
        let code = code.as_ref().map_or("0", http::StatusCode::as_str);
        metrics.requests.with_label_values(&[listener, code, served_by]).inc();
        site.duration.observe(took.as_secs_f64());
        site.sent.inc_by(trip.sent);
        metrics.hops.observe(trip.attempts.len() as f64);
        if trip.collapsed {
            metrics.collapsed.inc();
        }
        if let Some(side) = trip.aborted {
            metrics.aborted.with_label_values(&[listener, side]).inc();
        }
        let head = session.req_header();
        let field = |name| head.headers.get(name).map_or(&b""[..], |value: &HeaderValue| value.as_bytes());
        let entry = Entry {
            time: context.time,
            took,
            listener,
            client: context.client.address,
            method: head.method.as_str(),
            target: head.raw_path(),
            protocol: match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            host: context.host.as_ref().map_or(&b""[..], HeaderValue::as_bytes),
            referer: field(header::REFERER),
            user_agent: field(header::USER_AGENT),
            status,
            trip,
        };
        site.access_log.write(&entry);
        if let (Some(traces), Some(trace)) = (&site.chain.traces, trip.trace.as_deref()) {
            traces.tell(trace, &entry, context.client.tls, &site.chain.snapshot.config);
        }
        if let Some(connection) = Connection::of(session.stream()) {
            connection.end_request();
        }
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        // The access log has it, with its hops.
        true
    }
}

/// Our own end of a client's connection.
fn local(session: &ServerSession) -> Option<IpAddr> {
    session.server_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical())
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

/// The peer of a connection that is not IP, which hopfall does not accept.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
