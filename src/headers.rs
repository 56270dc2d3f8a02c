//! Header rules: what goes on to a target, and what comes back to the client.
//!
//! Requests to targets are built anew from fields known to be end-to-end; nothing is passed on merely
//! because it came. RFC 9110 §7.6.1 names the hop-by-hop fields.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::trace_context::{TRACEPARENT, TRACESTATE, Trace};
use crate::units::Network;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Fields that concern one connection. `Trailer` goes too: trailers are not passed on.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
];

/// Fields that a client may not have removed by naming them in `Connection`: we rely on them, or set them.
const NOT_NOMINABLE: [&str; 6] = ["host", "content-length", "via", "cdn-loop", "range", "authorization"];

/// What S3 may be told. All else (Authorization, Cookie, `x-amz-*`, …) stays here.
const FOR_S3: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Who sent a request, as far as we believe it.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client that a trusted proxy spoke for; else the same as `peer`.
    pub address: IpAddr,
    /// Whether `peer` is among the listener's trusted networks.
    pub trusted: bool,
    /// Whether the connection to us was TLS.
    pub tls: bool,
}

impl Client {
    /// Reads `X-Forwarded-For` from the right: the first address that is not a trusted proxy is the client.
    pub fn of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        let mut address = peer.to_canonical();
        if is_trusted(address) {
            let lines: Vec<&str> =
                headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
            for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
                let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
                address = hop.to_canonical();
                if !is_trusted(address) {
                    break;
                }
            }
        }
        Client { peer: peer.to_canonical(), address, trusted: is_trusted(peer), tls }
    }
}

/// The end-to-end fields of a message.
pub fn end_to_end(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let nominated: Vec<&str> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !NOT_NOMINABLE.iter().any(|kept| kept.eq_ignore_ascii_case(name)))
        .collect();
    headers.iter().filter(move |(name, _)| {
        !HOP_BY_HOP.contains(&name.as_str())
            && !nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name.as_str()))
    })
}

/// The fields of a GET or HEAD to a storage node, but for `Host`, `Via` and `CDN-Loop`.
pub fn for_node(received: &HeaderMap, client: &Client) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(received.len() + 4);
    for (name, value) in end_to_end(received) {
        if ![header::HOST, header::CONTENT_LENGTH, header::COOKIE].contains(name) {
            sent.append(name.clone(), value.clone());
        }
    }
    // HTTP/2 may send cookies in pieces (RFC 9113 §8.2.3).
    let crumbs: Vec<&[u8]> = received.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let (false, Ok(cookie)) = (crumbs.is_empty(), HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))) {
        sent.insert(header::COOKIE, cookie);
    }
    set_forwarded(&mut sent, client);
    sent
}

/// Puts a request's own trace in place of what the client said of one. Each attempt adds its `traceparent`.
pub fn set_trace(sent: &mut HeaderMap, trace: &Trace) {
    sent.remove(TRACEPARENT);
    sent.remove(TRACESTATE);
    if let Some(state) = &trace.state {
        sent.insert(TRACESTATE, state.clone());
    }
}

/// Sets `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Real-IP`. What came in counts only from a trusted peer.
pub fn set_forwarded(headers: &mut HeaderMap, client: &Client) {
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    let peer = client.peer.to_string();
    let chain: Vec<&str> = match client.trusted {
        true => headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect(),
        false => Vec::new(),
    };
    let chain = match chain.is_empty() {
        true => value(&peer),
        false => value(&format!("{}, {peer}", chain.join(", "))),
    };
    headers.insert(X_FORWARDED_FOR, chain);
    headers.insert(X_REAL_IP, value(&client.address.to_string()));
    if !(client.trusted && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if client.tls { "https" } else { "http" }));
    }
}

/// The client's fields that S3 may see.
pub fn for_s3(received: &HeaderMap) -> HeaderMap {
    // Often there is nothing to tell, and then nothing is allocated.
    let mut sent = HeaderMap::new();
    for name in FOR_S3 {
        if let Some(value) = received.get(&name) {
            sent.append(name, value.clone());
        }
    }
    sent
}

/// The fields of a target's answer that go on to the client. Framing is the adapter's: `Content-Length` is
/// kept once, `Transfer-Encoding` never.
pub fn for_client(answer: &HeaderMap, from_s3: bool) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(answer.len() + 6);
    for (name, value) in end_to_end(answer) {
        if from_s3 && (name.as_str().contains("x-amz-") || *name == header::SERVER) {
            continue;
        }
        if *name == header::CONTENT_LENGTH {
            // The parser took `5, 5` for 5; others may not.
            let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            if let Ok(length) = HeaderValue::from_bytes(first) {
                sent.insert(name.clone(), length);
            }
        } else {
            sent.append(name.clone(), value.clone());
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_stay_here() {
        let received = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "via, Range, upgrade"),
            ("x-secret", "1"),
            ("via", "1.1 a"),
            ("range", "bytes=0-1"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("cookie", "a=b"),
        ]);
        let kept: Vec<_> = end_to_end(&received).map(|(name, _)| name.as_str()).collect();
        assert_eq!(kept, ["via", "range", "cookie"]);
    }

    #[test]
    fn s3_sees_only_what_selects_a_representation() {
        let received = map(&[
            ("authorization", "x"),
            ("cookie", "a"),
            ("x-amz-acl", "public"),
            ("range", "bytes=0-1"),
            ("if-none-match", "\"a\""),
            ("host", "h"),
        ]);
        assert_eq!(names(&for_s3(&received)), ["if-none-match", "range"]);
    }

    #[test]
    fn the_client_sees_no_bucket_internals_and_one_length() {
        let answer = map(&[
            ("x-amz-request-id", "1"),
            ("server", "S3"),
            ("etag", "\"a\""),
            ("content-length", "5"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
        ]);
        assert_eq!(names(&for_client(&answer, true)), ["content-length", "etag"]);
        assert_eq!(for_client(&answer, true).get_all(header::CONTENT_LENGTH).iter().count(), 1);
        assert_eq!(names(&for_client(&answer, false)), ["content-length", "etag", "server", "x-amz-request-id"]);
    }

    #[test]
    fn forwarded_fields_are_believed_from_trusted_peers_only() {
        use crate::units::Scalar;
        let trusted = [Network::parse("10.0.0.0/8").unwrap()];
        const CASES: &[(&str, &str, &str, &str, &str)] = &[
            // peer, X-Forwarded-For in, client, X-Forwarded-For out, proto out
            ("8.8.8.8", "1.1.1.1", "8.8.8.8", "8.8.8.8", "http"),
            ("10.0.0.1", "1.1.1.1", "1.1.1.1", "1.1.1.1, 10.0.0.1", "https"),
            ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1", "6.6.6.6, 1.1.1.1, 10.0.0.2, 10.0.0.1", "https"),
            ("10.0.0.1", "junk", "10.0.0.1", "junk, 10.0.0.1", "https"),
        ];
        for (peer, forwarded, client, out, proto) in CASES {
            let mut received = map(&[("x-forwarded-proto", "https")]);
            received.append(X_FORWARDED_FOR, HeaderValue::from_str(forwarded).unwrap());
            let who = Client::of(peer.parse().unwrap(), false, &received, &trusted);
            let sent = for_node(&received, &who);
            assert_eq!(who.address.to_string(), *client, "{peer}");
            assert_eq!(sent[X_FORWARDED_FOR], *out, "{peer}");
            assert_eq!(sent[X_FORWARDED_PROTO], *proto, "{peer}");
            assert_eq!(sent[X_REAL_IP], *client, "{peer}");
        }
    }
}
