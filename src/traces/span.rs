//! The spans of one request, by the semantic conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). docs/tracing.md has the table.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::access_log::Entry;
use crate::config::Config;
use crate::fallback::Outcome;
use crate::trace_context::{Parent, Trace};
use crate::trip::{Attempt, Trip, paid_bytes};
use crate::units::HostPort;

/// The request's own span, and one for each attempt.
pub fn of_request(trace: &Trace, entry: &Entry<'_>, tls: bool, config: &Config) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder("hopfall").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut spans = Vec::with_capacity(1 + entry.trip.attempts.len());
    spans.push(server(trace, entry, tls, config, &scope));
    spans.extend(entry.trip.attempts.iter().map(|attempt| hop(trace, attempt, entry, config, &scope)));
    spans
}

fn server(trace: &Trace, entry: &Entry<'_>, tls: bool, config: &Config, scope: &InstrumentationScope) -> SpanData {
    let trip = entry.trip;
    let end = entry.time + entry.took;
    let target = String::from_utf8_lossy(entry.target);
    let (method, original) = method(entry.method);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        // Without the query, which may hold a signature or a token.
        KeyValue::new("url.path", path(&target).to_owned()),
        KeyValue::new("url.scheme", if tls { "https" } else { "http" }),
        KeyValue::new("network.protocol.name", "http"),
        KeyValue::new("network.protocol.version", version(entry.protocol)),
        KeyValue::new("client.address", config.log.clients.address(entry.client).to_string()),
        KeyValue::new("http.response.body.size", number(trip.sent)),
        KeyValue::new("hopfall.listener", entry.listener.to_owned()),
        KeyValue::new("hopfall.served_by", trip.served_by.clone().unwrap_or_else(|| "hopfall".to_owned())),
        KeyValue::new("hopfall.hops", number(trip.attempts.len() as u64)),
    ];
    if let Some(original) = original {
        attributes.push(KeyValue::new("http.request.method_original", original.to_owned()));
    }
    if let Ok(host) = std::str::from_utf8(entry.host)
        && let Ok(authority) = host.parse::<http::uri::Authority>()
    {
        attributes.push(KeyValue::new("server.address", authority.host().to_owned()));
        attributes.extend(authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    if !entry.user_agent.is_empty() {
        let agent = String::from_utf8_lossy(entry.user_agent).into_owned();
        attributes.push(KeyValue::new("user_agent.original", agent));
    }
    if entry.status != 0 {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(entry.status)));
    }
    let error = error_of(trip, entry.status);
    attributes.extend(error.clone().map(|error| KeyValue::new("error.type", error)));
    attributes.extend(trip.cached.map(|cached| KeyValue::new("hopfall.cache", cached.as_str())));
    attributes.extend(trip.located.map(|located| KeyValue::new("hopfall.location", located)));
    attributes.extend(trip.misshapen.map(|reason| KeyValue::new("hopfall.refused", reason)));
    let mut links = SpanLinks::default();
    links.links.extend(trace.link.map(|link| Link::with_context(foreign(link))));
    SpanData {
        span_context: own(trace, trace.span),
        parent_span_id: span_id(trace.parent.unwrap_or(0)),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: SpanKind::Server,
        name: Cow::Borrowed(if original.is_some() { "HTTP" } else { method }),
        start_time: entry.time,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events: events(trip, entry.time, end),
        links,
        status: if error.is_some() { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

/// What went wrong on our side, or behind us. A 4xx is the client's affair.
fn error_of(trip: &Trip, status: u16) -> Option<String> {
    match (trip.failure, trip.aborted, status) {
        (Some(failure), _, _) => Some(failure.as_str().to_owned()),
        (None, Some("client"), 100..500) => None,
        (None, Some(_), _) => Some("aborted".to_owned()),
        (None, None, 0) => Some("no_answer".to_owned()),
        (None, None, 500..) => Some(status.to_string()),
        _ => None,
    }
}

/// An answer that was cut short, a node asked beside a silent one, a node that sent the request back.
fn events(trip: &Trip, start: SystemTime, end: SystemTime) -> SpanEvents {
    let mut events = SpanEvents::default();
    let mut tell = |name, time, attribute| events.events.push(Event::new(name, time, vec![attribute], 0));
    for attempt in trip.attempts.iter().filter(|attempt| is_beside_another(attempt, &trip.attempts)) {
        tell("hopfall.hedged", start + attempt.began, KeyValue::new("hopfall.node", attempt.target.clone()));
    }
    if let Some(node) = &trip.looped_by {
        tell("hopfall.loop", end, KeyValue::new("hopfall.node", node.clone()));
    }
    if let Some(side) = trip.aborted {
        tell("hopfall.aborted", end, KeyValue::new("hopfall.aborted_by", side));
    }
    events
}

/// Attempts follow one another, but for hedges.
fn is_beside_another(attempt: &Attempt, all: &[Attempt]) -> bool {
    all.iter().any(|other| other.began < attempt.began && attempt.began < other.began + other.took)
}

fn hop(trace: &Trace, attempt: &Attempt, entry: &Entry<'_>, config: &Config, scope: &InstrumentationScope) -> SpanData {
    let trip = entry.trip;
    let (method, _) = method(entry.method);
    let store = config.stores.iter().find(|store| store.name == attempt.pool);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("network.protocol.name", "http"),
        KeyValue::new("network.protocol.version", "1.1"),
        KeyValue::new("hopfall.outcome", attempt.outcome.as_str()),
    ];
    if let Some(status) = attempt.outcome.status() {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    let failed = matches!(
        attempt.outcome,
        Outcome::Error(_) | Outcome::Down(_) | Outcome::Broken(_) | Outcome::Misconfigured(_)
    );
    if failed {
        attributes.push(KeyValue::new("error.type", attempt.result().to_string()));
    }
    match store {
        Some(store) => {
            attributes.extend(place(&store.address));
            attributes.push(KeyValue::new("hopfall.store", store.name.clone()));
            if let Some(cached) = trip.cached {
                attributes.push(KeyValue::new("hopfall.cache", cached.as_str()));
            }
            if let Some(bytes) = paid_bytes(attempt.outcome, trip.cached, trip.sent) {
                let dollars = store.prices.of(bytes) as f64 / 1e9;
                attributes.push(KeyValue::new("hopfall.cost_usd", dollars));
            }
        }
        None => {
            let pool = config.pools.iter().find(|pool| pool.name == attempt.pool);
            let node = pool.and_then(|pool| pool.nodes.iter().find(|node| node.name == attempt.target));
            if let (Some(pool), Some(node)) = (pool, node) {
                attributes.extend(place(&node.address));
                let scheme = if pool.tls.is_some() { "https" } else { "http" };
                let target = String::from_utf8_lossy(entry.target);
                let url = format!("{scheme}://{}{}", node.address, path(&target));
                attributes.push(KeyValue::new("url.full", url));
            }
            attributes.push(KeyValue::new("hopfall.pool", attempt.pool.clone()));
            attributes.push(KeyValue::new("hopfall.node", attempt.target.clone()));
        }
    }
    let start = entry.time + attempt.began;
    SpanData {
        span_context: own(trace, attempt.span),
        parent_span_id: span_id(trace.span),
        parent_span_is_remote: false,
        span_kind: SpanKind::Client,
        name: Cow::Owned(format!("{method} {}", attempt.target)),
        start_time: start,
        end_time: start + attempt.took.max(Duration::from_nanos(1)),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

fn place(address: &HostPort) -> [KeyValue; 2] {
    [KeyValue::new("server.address", address.host.clone()), KeyValue::new("server.port", i64::from(address.port))]
}

/// The path of a target, which a proxy's client may give as a whole URL.
fn path(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    }
}

/// The methods that the conventions know, and what else it was.
fn method(method: &str) -> (&'static str, Option<&str>) {
    const KNOWN: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUERY"];
    match KNOWN.iter().find(|known| **known == method) {
        Some(known) => (known, None),
        None => ("_OTHER", Some(method)),
    }
}

/// `1.1` of `HTTP/1.1`; HTTP/2 has no minor version.
fn version(protocol: &str) -> &'static str {
    match protocol {
        "HTTP/2.0" => "2",
        "HTTP/1.0" => "1.0",
        _ => "1.1",
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn span_id(span: u64) -> SpanId {
    SpanId::from(span)
}

fn own(trace: &Trace, span: u64) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(trace.sampled);
    SpanContext::new(TraceId::from(trace.id), span_id(span), flags, false, state(trace))
}

/// The trace's `tracestate`, in the library's words.
fn state(trace: &Trace) -> TraceState {
    let text = trace.state.as_ref().and_then(|state| state.to_str().ok()).unwrap_or_default();
    text.parse().unwrap_or_default()
}

fn foreign(parent: Parent) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    SpanContext::new(TraceId::from(parent.trace), span_id(parent.span), flags, true, TraceState::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::Failure;

    #[test]
    fn a_path_is_told_without_what_may_be_secret() {
        const CASES: &[(&str, &str)] = &[
            ("/a/b.jpg", "/a/b.jpg"),
            ("/a?X-Amz-Signature=s", "/a"),
            ("/a#b", "/a"),
            ("http://u:p@host/a?b", "/a"),
            ("http://host", "/"),
            ("/to/http://x/y", "/to/http://x/y"),
            ("*", "*"),
            ("", ""),
        ];
        for (target, expected) in CASES {
            assert_eq!(path(target), *expected, "{target}");
        }
    }

    #[test]
    fn attempts_that_overlap_are_hedged() {
        let attempt = |began, took| Attempt {
            target: "a".into(),
            pool: "p".into(),
            outcome: Outcome::Found(200),
            began: Duration::from_millis(began),
            took: Duration::from_millis(took),
            span: 1,
        };
        let beside = |all: &[Attempt]| all.iter().filter(|attempt| is_beside_another(attempt, all)).count();
        assert_eq!(beside(&[attempt(0, 5), attempt(5, 5), attempt(11, 0)]), 0);
        assert_eq!(beside(&[attempt(3, 1), attempt(0, 5)]), 1, "the second ended first");
    }

    #[test]
    fn an_error_is_ours_or_of_those_behind_us() {
        let trip = |failure, aborted| Trip { failure, aborted, ..Trip::default() };
        let refused = Some(Failure::ConnectionRefused);
        let cases = [
            ("found", 200, trip(None, None), None),
            ("absent", 404, trip(None, None), None),
            ("a node's own", 500, trip(None, None), Some("500")),
            ("refused", 502, trip(refused, None), Some("connection_refused")),
            ("cut by the node", 200, trip(None, Some("upstream")), Some("aborted")),
            ("the client left", 200, trip(None, Some("client")), None),
            ("nothing", 0, trip(None, None), Some("no_answer")),
        ];
        for (case, status, trip, expected) in cases {
            assert_eq!(error_of(&trip, status).as_deref(), expected, "{case}");
        }
    }
}
