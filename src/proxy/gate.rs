//! The gate: what is refused before anything is asked, and how.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use pingora::Result;
use pingora::protocols::http::ServerSession;

use super::{Context, Front};
use crate::chain::{self, Certain};
use crate::fallback::Refusal;
use crate::framing::Malformed;
use crate::shape::{self, Head, Misshapen};
use crate::via::Seen;

impl Front {
    /// Refuses by shape, and by the hops that a request has behind it. True when it was answered.
    pub(super) async fn gatekeep(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        begun: std::result::Result<Vec<u8>, Malformed>,
    ) -> Result<bool> {
        let site = context.site.clone();
        // The bytes as they came: Pingora has changed some of what it has.
        let parsed;
        let raw = match begun.as_deref() {
            Ok(came) if !came.is_empty() => came,
            _ => {
                parsed = session.as_http1().map(|_| session.to_h1_raw()).unwrap_or_default();
                &parsed
            }
        };
        let head = session.req_header();
        let target = head.raw_path();
        let shape = Head { method: &head.method, target, version: head.version, headers: &head.headers, raw };
        let chunks =
            begun.as_ref().map(|_| ()).map_err(|Malformed| Misshapen { status: 400, reason: "malformed chunked body" });
        if let Err(bad) = shape::check(&shape, &site.listener.head).and(chunks) {
            context.trip.misshapen = Some(bad.reason);
            session.set_keepalive(None);
            let code = bad.status.to_string();
            site.chain.metrics.misshapen.with_label_values(&[site.listener.name.as_str(), code.as_str()]).inc();
            return self.answer(session, context, bad.status, HeaderMap::new()).await;
        }
        context.target = shape::encoded(shape::origin_form(target));
        if !site.admits(session, context) {
            return self.refuse(session, context, Refusal::THROTTLED).await;
        }
        if let Some(port) = site.listener.redirect_to_https {
            let location = context.host.as_ref().and_then(|host| redirect(host, &context.target, port));
            return match location {
                Some(location) => {
                    let fields = HeaderMap::from_iter([(header::LOCATION, location)]);
                    self.answer(session, context, 308, fields).await
                }
                // HTTP/1.0 need not say which host it means.
                None => self.answer(session, context, 400, HeaderMap::new()).await,
            };
        }
        if let Seen::Ourselves { to } = &context.seen {
            let snapshot = &site.chain.snapshot;
            let named = to.as_deref().filter(|to| snapshot.is_target(to));
            let by_address = || snapshot.node_at(context.client.peer).map(|node| node.name.as_str());
            let name = named.or_else(by_address).unwrap_or("unknown");
            site.chain.report_loop(name, Certain::Yes, &mut context.trip);
            return self.refuse(session, context, Refusal::LOOP).await;
        }
        match site.listener.serves.route(context.host.as_ref().map(HeaderValue::as_bytes), &context.target) {
            Some(route) => context.route = route,
            None => return self.refuse(session, context, Refusal::UNROUTED).await,
        }
        let method = session.req_header().method.clone();
        let has_pool = site.chain.snapshot.pools_of(site.route(context.route)).next().is_some();
        let reads = matches!(method, Method::GET | Method::HEAD);
        if matches!(method, Method::TRACE | Method::CONNECT) || (!reads && !has_pool) {
            session.set_keepalive(None);
            let allow = HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static("GET, HEAD"))]);
            return self.answer(session, context, 405, allow).await;
        }
        Ok(false)
    }

    pub(super) async fn refuse(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        refusal: Refusal,
    ) -> Result<bool> {
        context.trip.failure = refusal.failure;
        let mut fields = chain::of_refusal(refusal, Duration::ZERO);
        chain::tell(&mut fields, &context.trip, context.client.trusted, context.site.hsts.as_ref());
        self.send(session, context, refusal.status, fields).await
    }

    /// An answer that tells nothing of the request's way: there was none.
    async fn answer(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        status: u16,
        mut fields: HeaderMap,
    ) -> Result<bool> {
        chain::tell_of_us(&mut fields, context.site.hsts.as_ref());
        self.send(session, context, status, fields).await
    }

    async fn send(
        &self,
        session: &mut ServerSession,
        context: &mut Context,
        status: u16,
        fields: HeaderMap,
    ) -> Result<bool> {
        let method = session.req_header().method.clone();
        chain::send_own(session, &method, status, fields, &mut context.trip).await?;
        if !session.is_body_done() {
            // A client that is still sending would lose the answer to the reset that closing causes.
            let _ = tokio::time::timeout(DRAIN_TIME, drain(session)).await;
        }
        Ok(true)
    }
}

/// The same place over https.
fn redirect(host: &HeaderValue, target: &[u8], port: u16) -> Option<HeaderValue> {
    let (name, _) = shape::name_and_port(host.to_str().ok()?);
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let target = std::str::from_utf8(target).ok()?;
    HeaderValue::from_str(&format!("https://{name}{port}{target}")).ok()
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

const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(250);
