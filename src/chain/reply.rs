//! Answers to the client: a target's, handed on piece by piece, and short ones of our own.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use log::debug;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::time::{Instant, timeout_at};

use super::{Chain, Chosen, Request};
use crate::edge::Connection;
use crate::fallback::{Failure, Kind, Refusal};
use crate::headers::{self, CACHE_STATUS, PROXY_STATUS, SERVER_TIMING};
use crate::origin::{Answer, Piece};
use crate::snapshot::Caller;
use crate::trip::{Cached, Trip};

impl Chain {
    /// Hands a target's answer to the client.
    ///
    /// # Errors
    /// When it could not be sent whole.
    pub(super) async fn serve(
        &self,
        session: &mut ServerSession,
        request: &Request<'_>,
        chosen: &Chosen<'_>,
        mut answer: Answer,
        trip: &mut Trip,
    ) -> Result<()> {
        trip.served_by = trip.attempts.last().map(|attempt| attempt.target.clone());
        let from_store = chosen.kind() == Kind::Store;
        let mut fields = headers::for_client(answer.fields(), from_store);
        let status = answer.status();
        let bodiless = *request.method == Method::HEAD || matches!(status, 204 | 304);
        if status == 204 {
            fields.remove(header::CONTENT_LENGTH);
        }
        if !bodiless && !fields.contains_key(header::CONTENT_LENGTH) {
            match request.version {
                Version::HTTP_11 => {
                    fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                // Only the connection's end can end this body.
                Version::HTTP_10 => session.set_keepalive(None),
                _ => {}
            }
        }
        tell(&mut fields, trip, request.client.trusted, request.hsts);
        let until = request.started + request.route.transfer_deadline;
        send_head(session, status, fields, trip).await?;
        if bodiless {
            // HEAD and 304 have no body, so the connection is free at once.
            answer.finish().await;
            return Ok(());
        }
        let idle = chosen.upstream().bounds().body_idle_timeout;
        let mut waits_for_more = answer.announced().unwrap_or(0);
        loop {
            let piece = match timeout_at(until, answer.next_piece(idle)).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => break,
                Ok(Err(failure)) => return Err(abort("upstream", failure, trip)),
                Err(_) => return Err(abort("deadline", Failure::HttpResponseTimeout, trip)),
            };
            if piece.len() > SHORT || piece.len() >= waits_for_more {
                pass_on(session, piece, until, trip).await?;
            } else {
                // What came with the head leaves together with what follows, if that is at hand.
                let start = piece.into_bytes();
                let more = answer.piece_at_hand();
                if matches!(more, Some(Ok(Some(_)))) {
                    hold_next(session);
                }
                pass_on(session, Piece::Shared(start), until, trip).await?;
                match more {
                    Some(Ok(Some(piece))) => pass_on(session, piece, until, trip).await?,
                    Some(Ok(None)) => break,
                    Some(Err(failure)) => return Err(abort("upstream", failure, trip)),
                    None => {}
                }
            }
            waits_for_more = 0;
        }
        answer.finish().await;
        session.write_response_body(Bytes::new(), true).await.inspect_err(|_| trip.aborted = Some("client"))
    }

    /// Answers with a status of our own. The client's connection stays usable.
    ///
    /// # Errors
    /// When it could not be sent.
    pub(super) async fn refuse(
        &self,
        session: &mut ServerSession,
        request: &Request<'_>,
        refusal: Refusal,
        trip: &mut Trip,
    ) -> Result<()> {
        let called_back = matches!(request.caller, Caller::Node(_));
        let refusal = if called_back && refusal == Refusal::ABSENT { Refusal::LOOP } else { refusal };
        trip.failure = refusal.failure;
        let mut fields = of_refusal(refusal, request.route.absent_max_age);
        tell(&mut fields, trip, request.client.trusted, request.hsts);
        send_own(session, request.method, refusal.status, fields, trip).await
    }
}

/// The fields that a refusal has of its own. `absent_max_age` is how long others may keep that a file is absent.
pub fn of_refusal(refusal: Refusal, absent_max_age: Duration) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(8);
    let max_age = absent_max_age.as_secs();
    let cache = match refusal == Refusal::ABSENT && max_age > 0 {
        true => HeaderValue::from_str(&format!("max-age={max_age}")).unwrap_or(NO_STORE),
        false => NO_STORE,
    };
    fields.insert(header::CACHE_CONTROL, cache);
    if matches!(refusal.status, 429 | 503) {
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    fields
}

/// Adds what we say of ourselves to any answer. `hsts` is the value of `Strict-Transport-Security`.
pub fn tell_of_us(fields: &mut HeaderMap, hsts: Option<&HeaderValue>) {
    if let Some(hsts) = hsts {
        fields.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    fields.append(header::VIA, HeaderValue::from_static("1.1 hopfall"));
}

/// The same, and what became of the request: `Server-Timing`, `Proxy-Status` and the like. Names are for trusted eyes.
pub fn tell(fields: &mut HeaderMap, trip: &Trip, trusted: bool, hsts: Option<&HeaderValue>) {
    tell_of_us(fields, hsts);
    if let Some(cookie) = &trip.set_cookie {
        fields.append(header::SET_COOKIE, cookie.clone());
    }
    let mut append = |name, text: Option<String>| {
        if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
            fields.append(name, value);
        }
    };
    append(SERVER_TIMING, trip.server_timing(trusted));
    append(PROXY_STATUS, Some(trip.proxy_status(trusted)));
    append(CACHE_STATUS, trip.cached.map(Cached::cache_status));
}

/// Sends a short answer of our own with a body that says its status.
pub async fn send_own(
    session: &mut ServerSession,
    method: &Method,
    status: u16,
    mut fields: HeaderMap,
    trip: &mut Trip,
) -> Result<()> {
    let reason =
        http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("error");
    let body = format!("{status} {reason}\n");
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    send_head(session, status, fields, trip).await?;
    if *method != Method::HEAD {
        trip.sent += body.len() as u64;
        session.write_response_body(Bytes::from(body), true).await.inspect_err(|_| trip.aborted = Some("client"))?;
    }
    Ok(())
}

/// Lets the next piece leave with the one after it.
fn hold_next(session: &ServerSession) {
    if let Some(connection) = Connection::of(session.stream()) {
        connection.hold_next();
    }
}

/// Sends a piece of a body: on HTTP/1 without a copy of it.
async fn send_piece(session: &mut ServerSession, piece: Piece<'_>) -> Result<()> {
    match session {
        // An empty chunk would be the last one.
        ServerSession::H1(_) if piece.is_empty() => Ok(()),
        ServerSession::H1(session) => session.write_body(piece.as_slice()).await.map(|_| ()),
        other => other.write_response_body(piece.into_bytes(), false).await,
    }
}

async fn send_head(session: &mut ServerSession, status: u16, fields: HeaderMap, trip: &mut Trip) -> Result<()> {
    // Made of parts, because Pingora's `append_header` parses each name anew.
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = http::StatusCode::from_u16(status).or_err(ErrorType::InternalError, "a status that is none")?;
    parts.headers = fields;
    let head = ResponseHeader::from(parts);
    session.write_response_header(Box::new(head)).await.inspect_err(|_| trip.aborted = Some("client"))
}

/// Sends one piece of a body, and counts it.
async fn pass_on(session: &mut ServerSession, piece: Piece<'_>, until: Instant, trip: &mut Trip) -> Result<()> {
    let length = piece.len() as u64;
    match timeout_at(until, send_piece(session, piece)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            trip.aborted = Some("client");
            return Err(error);
        }
        Err(_) => return Err(abort("deadline", Failure::HttpResponseTimeout, trip)),
    }
    trip.sent += length;
    Ok(())
}

/// The answer broke off after its head was sent: all that is left is to make that plain to the client.
fn abort(side: &'static str, failure: Failure, trip: &mut Trip) -> Box<Error> {
    debug!("an answer is cut short: {side}: {}", failure.as_str());
    trip.aborted = Some(side);
    trip.failure = Some(failure);
    Error::explain(ErrorType::InternalError, "answer cut short")
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A first piece no longer than this is worth a copy, so that it leaves with the second: it is what came with the head.
const SHORT: usize = 4 * 1024;
