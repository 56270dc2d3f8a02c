//! Traces: the spans of a request and of its hops, W3C Trace Context in and out, and a collector that is away or slow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::support::bucket::Bucket;
use crate::support::collector::{Collector, attribute, hex};
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// The request's own span, and those of its hops as they began.
#[track_caller]
fn tree(spans: &[Span]) -> (&Span, Vec<&Span>) {
    let server = spans.iter().find(|span| span.kind == SpanKind::Server as i32).expect("a span of the request");
    let mut hops: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Client as i32).collect();
    hops.sort_by_key(|span| span.start_time_unix_nano);
    for hop in &hops {
        assert_eq!(hop.trace_id, server.trace_id);
        assert_eq!(hop.parent_span_id, server.span_id);
        assert!(server.start_time_unix_nano <= hop.start_time_unix_nano, "a hop begins after the request");
        assert!(hop.end_time_unix_nano <= server.end_time_unix_nano, "and ends before it");
    }
    assert_eq!(spans.len(), 1 + hops.len());
    (server, hops)
}

#[track_caller]
fn told(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(attribute(&span.attributes, key).as_deref(), Some(*value), "{key} of {}", span.name);
    }
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

fn gone() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

#[test]
fn a_file_that_the_second_node_has_is_a_span_with_a_child_a_hop() {
    let (lean, full) = (Nginx::with_files(&[]), Nginx::with_files(&[("cat.jpg", b"meow")]));
    let collector = Collector::new();
    let fleet = Fleet::new()
        .node_with("lean", lean.addr(), "weight: 255")
        .node("full", full.addr())
        .top(&collector.tracing("service_name: cats, headers: { X-Key: \"${TEAM}\" }"));
    let hopfall = fleet.builder().env("TEAM", "sesame").start();
    let headers = [("Host", "cdn.test:8080"), ("User-Agent", "curl/8")];
    assert_eq!(hopfall.connect().request("GET", "/cat.jpg?sig=secret", &headers).response().text(), "meow");

    let spans = collector.wait_for_spans(3);
    let (server, hops) = tree(&spans);
    assert_eq!(server.name, "GET");
    assert!(server.parent_span_id.is_empty());
    assert!(!is_error(server));
    told(
        server,
        &[
            ("http.request.method", "GET"),
            ("url.path", "/cat.jpg"),
            ("url.scheme", "http"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "4"),
            ("server.address", "cdn.test"),
            ("server.port", "8080"),
            ("network.protocol.version", "1.1"),
            ("client.address", "127.0.0.1"),
            ("user_agent.original", "curl/8"),
            ("hopfall.listener", "web"),
            ("hopfall.served_by", "full"),
            ("hopfall.hops", "2"),
        ],
    );
    let lean_port = lean.addr().port().to_string();
    let absent = [
        ("hopfall.pool", "images"),
        ("hopfall.node", "lean"),
        ("hopfall.outcome", "absent"),
        ("http.response.status_code", "404"),
        ("server.address", "127.0.0.1"),
        ("server.port", lean_port.as_str()),
    ];
    told(hops[0], &absent);
    told(hops[1], &[("hopfall.node", "full"), ("hopfall.outcome", "found"), ("http.response.status_code", "200")]);
    assert_eq!((hops[0].name.as_str(), hops[1].name.as_str()), ("GET lean", "GET full"));
    assert!(!is_error(hops[0]), "a 404 is what a chain is for");
    assert!(hops[0].end_time_unix_nano <= hops[1].start_time_unix_nano);
    assert!(!format!("{spans:?}").contains("secret"), "queries stay here");

    assert_eq!(attribute(&collector.resources(), "service.name").as_deref(), Some("cats"));
    let request = &collector.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/traces"));
    assert_eq!(request.header("x-key"), Some("sesame"));
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(hopfall.wait_for_access_log(1)[0]["trace_id"], hex(&server.trace_id));
}

#[test]
fn what_nobody_has_is_no_error_and_who_is_down_is_one() {
    let (lean, other) = (Nginx::with_files(&[]), Nginx::with_files(&[]));
    for (second, status) in [(other.addr(), 404), (gone(), 503)] {
        let collector = Collector::new();
        let nodes = Fleet::new().node_with("lean", lean.addr(), "weight: 255").node("second", second);
        let hopfall = nodes.top("log: { client: truncated }").top(&collector.tracing("")).start();
        assert_eq!(hopfall.get("/cat.jpg").status, status);
        let spans = collector.wait_for_spans(3);
        let (server, hops) = tree(&spans);
        told(server, &[("http.response.status_code", &status.to_string()), ("client.address", "127.0.0.0")]);
        assert_eq!(is_error(server), status == 503, "a 404 is the client's affair");
        assert_eq!(attribute(&server.attributes, "error.type").is_some(), status == 503);
        assert!(!is_error(hops[0]));
        match status {
            404 => told(hops[1], &[("hopfall.outcome", "absent")]),
            _ => told(hops[1], &[("hopfall.outcome", "down"), ("error.type", "connection_refused")]),
        }
        assert_eq!(is_error(hops[1]), status == 503);
    }
}

#[test]
fn s3_is_a_hop_that_costs_and_is_told_nothing() {
    let lean = Nginx::with_files(&[]);
    let bucket = Bucket::new();
    bucket.put("cat.jpg", "1", b"meow", &[]);
    let collector = Collector::new();
    let hopfall = Fleet::new()
        .node("lean", lean.addr())
        .store("cats", bucket.addr(), "ak", "sk")
        .store_key("prices: { thousand_requests: 500 }")
        .listener("trusted: [127.0.0.0/8]")
        .top(&collector.tracing(""))
        .start();
    let answer = hopfall.connect().request("GET", "/cat.jpg", &[("traceparent", PARENT)]).response();
    assert_eq!(answer.text(), "meow");
    let spans = collector.wait_for_spans(3);
    let (_, hops) = tree(&spans);
    let port = bucket.addr().port().to_string();
    let found =
        [("hopfall.store", "s3"), ("hopfall.outcome", "found"), ("hopfall.cost_usd", "0.5"), ("server.port", &port)];
    told(hops[1], &found);
    for request in bucket.requests("cat.jpg") {
        assert_eq!((request.header("traceparent"), request.header("tracestate")), (None, None));
    }
}

#[test]
fn a_trusted_clients_trace_goes_on_to_the_nodes() {
    let (first, second) = (Origin::always(Reply::status(404)), Origin::always(Reply::ok("x")));
    let collector = Collector::new();
    let hopfall = Fleet::new()
        .node_with("first", first.addr(), "weight: 255")
        .node("second", second.addr())
        .listener("trusted: [127.0.0.0/8]")
        .top(&collector.tracing("sample: 1"))
        .start();
    let headers = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
    assert_eq!(hopfall.connect().request("GET", "/x", &headers).response().status, 200);
    let spans = collector.wait_for_spans(3);
    let (server, hops) = tree(&spans);
    assert_eq!((hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()), (TRACE, CALLER));
    assert_eq!(server.trace_state, "a=1,b=2");
    for (node, hop) in [(&first, hops[0]), (&second, hops[1])] {
        let seen = &node.requests()[0];
        assert_eq!(seen.headers_named("traceparent"), [format!("00-{TRACE}-{}-01", hex(&hop.span_id))]);
        assert_eq!(seen.headers_named("tracestate"), ["a=1,b=2"]);
    }

    // Pingora's native path.
    assert_eq!(hopfall.connect().upload("POST", "/up", &headers, b"x").response().status, 404);
    let spans = collector.wait_for_spans(5);
    let (server, hops) = tree(&spans[3..]);
    assert_eq!((server.name.as_str(), hex(&server.trace_id).as_str()), ("POST", TRACE));
    let seen = &first.requests()[1];
    assert_eq!(seen.headers_named("traceparent"), [format!("00-{TRACE}-{}-01", hex(&hops[0].span_id))]);
    assert_eq!(seen.headers_named("tracestate"), ["a=1,b=2"]);

    // It has decided against it.
    let unsampled = PARENT.replace("-01", "-00");
    hopfall.connect().request("GET", "/y", &[("traceparent", &unsampled)]).response();
    let seen = first.requests().into_iter().find(|request| request.target == "/y").unwrap();
    let passed = seen.header("traceparent").unwrap();
    assert!(
        passed.starts_with(&format!("00-{TRACE}-")) && passed.ends_with("-00") && !passed.contains(CALLER),
        "{passed}"
    );
    assert!(hopfall.wait_for_access_log(3)[2].get("trace_id").is_none());
}

#[test]
fn a_stranger_begins_a_trace_of_its_own() {
    let node = Origin::always(Reply::ok("x"));
    let collector = Collector::new();
    let hopfall = Fleet::new().node("node", node.addr()).top(&collector.tracing("")).start();
    let headers = [("traceparent", PARENT), ("tracestate", "a=1")];
    hopfall.connect().request("GET", "/x", &headers).response();
    let spans = collector.wait_for_spans(2);
    let (server, hops) = tree(&spans);
    assert_ne!(hex(&server.trace_id), TRACE);
    assert!(server.parent_span_id.is_empty());
    let link = &server.links[0];
    assert_eq!((hex(&link.trace_id).as_str(), hex(&link.span_id).as_str()), (TRACE, CALLER), "it can be found");
    let seen = &node.requests()[0];
    let own = format!("00-{}-{}-01", hex(&server.trace_id), hex(&hops[0].span_id));
    assert_eq!(seen.headers_named("traceparent"), [own]);
    assert_eq!(seen.header("tracestate"), None);
}

#[test]
fn without_tracing_a_traceparent_passes_through() {
    let node = Origin::always(Reply::ok("x"));
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let headers = [("traceparent", PARENT), ("tracestate", "a=1")];
    hopfall.connect().request("GET", "/x", &headers).response();
    hopfall.connect().upload("POST", "/x", &headers, b"x").response();
    for seen in node.requests() {
        assert_eq!(seen.headers_named("traceparent"), [PARENT], "{}", seen.method);
        assert_eq!(seen.headers_named("tracestate"), ["a=1"], "{}", seen.method);
    }
}

#[test]
fn some_of_a_hundred_are_told() {
    let node = Origin::always(Reply::ok("x"));
    let collector = Collector::new();
    let mut hopfall = Fleet::new().node("node", node.addr()).top(&collector.tracing("sample: 30")).start();
    let mut client = hopfall.connect();
    for _ in 0..400 {
        assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
    }
    let sampled = node.requests().iter().filter(|seen| seen.header("traceparent").unwrap().ends_with("-01")).count();
    drop(client);
    assert_eq!(hopfall.terminate(), Some(0));
    assert_eq!(collector.spans().len(), 2 * sampled, "what nodes are told is what the collector gets, and is flushed");
    // 6 standard deviations.
    assert!((65..=175).contains(&sampled), "{sampled} of 400");
}

#[test]
fn a_collector_that_is_away_costs_no_request_anything() {
    let node = Origin::always(Reply::ok("x"));
    let endpoint = "tracing: { endpoint: \"http://127.0.0.1:1/v1/traces\" }";
    let mut hopfall = Fleet::new().node("node", node.addr()).top(endpoint).start();
    let dropped =
        |hopfall: &crate::support::hopfall::Hopfall| hopfall.metrics().value("hopfall_spans_dropped_total", &[]);
    assert_eq!(dropped(&hopfall), 0.0);
    assert_eq!(hopfall.get("/x").status, 200);
    wait_until("the first to be dropped", PATIENCE, || dropped(&hopfall) == 2.0);
    assert_eq!(hopfall.get("/x").status, 200);
    wait_until("the second", PATIENCE, || dropped(&hopfall) == 4.0);
    let log = hopfall.log();
    assert_eq!(log.matches("the collector takes no traces").count(), 1, "once a minute: {log}");
    assert!(log.contains("refused"), "and why: {log}");
    assert_eq!(hopfall.terminate(), Some(0));
}

#[test]
fn a_collector_that_hangs_holds_up_neither_requests_nor_the_end() {
    let node = Origin::always(Reply::ok("x"));
    let collector = Collector::answering(Reply::hang());
    let mut hopfall = Fleet::new().node("node", node.addr()).top(&collector.tracing("timeout: 60s")).start();
    hopfall.get("/x");
    wait_until("a batch on its way", PATIENCE, || !collector.requests().is_empty());
    let mut client = hopfall.connect();
    let began = Instant::now();
    for _ in 0..6000 {
        assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
    }
    let served = began.elapsed();
    let dropped = hopfall.metrics().value("hopfall_spans_dropped_total", &[]);
    assert!(dropped >= 2.0 * (6000.0 - 4096.0 - 2.0), "the queue is bounded: {dropped} dropped");
    assert!(served < Duration::from_secs(30), "{served:?}");
    drop(client);
    let began = Instant::now();
    assert_eq!(hopfall.terminate(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_hedge_and_a_cut_are_events() {
    let slow = Origin::always(Reply::ok("x").delay(Duration::from_millis(900)));
    let quick = Origin::always(Reply::ok("a whole body").cut_after(3));
    let collector = Collector::new();
    let hopfall = Fleet::new()
        .node_with("slow", slow.addr(), "weight: 255")
        .node("quick", quick.addr())
        .pool("hedge: { floor: 20ms, ceiling: 100ms }")
        .pool("from_nodes: trust")
        .top(&collector.tracing(""))
        .start();
    assert!(!hopfall.get("/x").complete);
    let spans = collector.wait_for_spans(3);
    let (server, hops) = tree(&spans);
    let events: Vec<_> = server.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["hopfall.hedged", "hopfall.aborted"]);
    assert_eq!(attribute(&server.events[0].attributes, "hopfall.node").as_deref(), Some("quick"));
    assert_eq!(attribute(&server.events[1].attributes, "hopfall.aborted_by").as_deref(), Some("upstream"));
    assert!(is_error(server));
    told(hops[0], &[("hopfall.node", "slow"), ("hopfall.outcome", "dropped")]);
    let names = [&slow, &quick].map(|node| node.requests()[0].header("traceparent").map(str::to_owned));
    assert!(names[0].is_some() && names[0] != names[1], "each has a span of its own: {names:?}");
}

#[test]
fn a_reload_changes_the_collector() {
    let node = Origin::always(Reply::ok("x"));
    let (before, after) = (Collector::new(), Collector::new());
    let fleet = || Fleet::new().node("node", node.addr());
    let mut hopfall = fleet().top(&before.tracing("")).start();
    hopfall.get("/x");
    hopfall.rewrite(&fleet().top(&after.tracing("")).yaml());
    assert_eq!(hopfall.order(&["reload"]).code, Some(0));
    hopfall.get("/x");
    after.wait_for_spans(2);
    before.wait_for_spans(2);
    assert_eq!(before.spans().len(), 2);
}
