//! Sending heads, and short answers of our own.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{ErrorType, OrErr, Result};

use crate::edge::Connection;
use crate::origin::Piece;
use crate::trip::Trip;

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
pub(super) fn hold_next(session: &ServerSession) {
    if let Some(connection) = Connection::of(session.stream()) {
        connection.hold_next();
    }
}

/// Sends a piece of a body: on HTTP/1 without a copy of it.
pub(super) async fn send_piece(session: &mut ServerSession, piece: Piece<'_>) -> Result<()> {
    match session {
        // An empty chunk would be the last one.
        ServerSession::H1(_) if piece.is_empty() => Ok(()),
        ServerSession::H1(session) => session.write_body(piece.as_slice()).await.map(|_| ()),
        other => other.write_response_body(piece.into_bytes(), false).await,
    }
}

pub(super) async fn send_head(
    session: &mut ServerSession,
    status: u16,
    fields: HeaderMap,
    trip: &mut Trip,
) -> Result<()> {
    // Made of parts, because Pingora's `append_header` parses each name anew.
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = http::StatusCode::from_u16(status).or_err(ErrorType::InternalError, "a status that is none")?;
    parts.headers = fields;
    let head = ResponseHeader::from(parts);
    session.write_response_header(Box::new(head)).await.inspect_err(|_| trip.aborted = Some("client"))
}
