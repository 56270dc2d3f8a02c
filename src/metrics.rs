//! The metrics, whose names and labels are an API (design §7). Labels are few and closed: never a path, a
//! client or a Host.

use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::disk::Figures;

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by listener, status and who served the answer.
    pub requests: IntCounterVec,
    /// Seconds from a request's head to its last byte.
    pub duration: HistogramVec,
    /// Attempts by outcome. A miss is `absent`, not an error.
    pub attempts: IntCounterVec,
    /// Times that a request went on from one target to another.
    pub fallbacks: IntCounterVec,
    /// Attempts that one request took.
    pub hops: Histogram,
    /// What the location map knew of a path: `hit`, `miss`, `wrong`, or `nowhere`.
    pub location_lookups: IntCounterVec,
    /// Requests by whether hints were heeded: `hinted` or `control`.
    pub location_requests: IntCounterVec,
    /// Attempts of these requests. Divided by them: hops per request, with hints and without.
    pub location_attempts: IntCounterVec,
    /// Paths in the location map.
    pub location_entries: IntGauge,
    /// Requests that a node sent back to us, by the node.
    pub loops: IntCounterVec,
    /// Second nodes asked beside a silent first one, by the first, and by whether the second won.
    pub hedges: IntCounterVec,
    /// 1 while a node is up.
    pub node_up: IntGaugeVec,
    /// 1 while a node is asked last because its share of 404s jumped.
    pub node_absence_suspect: IntGaugeVec,
    /// Requests in flight to a node.
    pub node_connections: IntGaugeVec,
    /// TCP connections opened to a target.
    pub upstream_connects: IntCounterVec,
    /// Active health checks by result.
    pub health_checks: IntCounterVec,
    /// Changes of a node's health.
    pub health_changes: IntCounterVec,
    /// Requests to S3 by method and status (`error` where none came).
    pub s3_requests: IntCounterVec,
    /// Body bytes received from S3.
    pub s3_bytes: IntCounter,
    /// Dollars spent on a store, by the prices of the config.
    pub s3_cost: CounterVec,
    /// Dollars spent on a store on this UTC day.
    pub s3_cost_today: GaugeVec,
    /// What a store's disk, and requests under way, had to do with the requests to it.
    pub store_requests: IntCounterVec,
    /// 1 while a store's disk takes new files.
    pub store_ready: IntGaugeVec,
    /// Bytes that a store's files take of its disk.
    pub store_bytes: IntGaugeVec,
    /// Files on a store's disk.
    pub store_objects: IntGaugeVec,
    /// Bytes of memory: of small files, and of the disk's index.
    pub store_memory_bytes: IntGaugeVec,
    /// Files that made way for others.
    pub store_evictions: IntCounterVec,
    /// Files that were not kept for want of room, by which bound.
    pub store_refused: IntCounterVec,
    /// Faults of a store's disk.
    pub store_errors: IntCounterVec,
    /// Requests that were answered from what another request found out meanwhile.
    pub collapsed: IntCounter,
    /// Answers cut short after their head was sent.
    pub aborted: IntCounterVec,
    /// Requests refused for their shape, by status.
    pub misshapen: IntCounterVec,
    /// Connections that ended amid a request head: cut, timed out, or no HTTP.
    pub unfinished_heads: IntCounterVec,
    /// Client connections open.
    pub client_connections: IntGaugeVec,
    /// Connections of trusted proxies that were closed for want of a PROXY header.
    pub proxy_headers_refused: IntCounterVec,
    /// Connections and requests refused by a listener's throttle.
    pub throttled: IntCounterVec,
    /// TCP connections passed on, open on both sides.
    pub tcp_connections: IntGaugeVec,
    /// Bytes passed on by tcp listeners: `in` from clients, `out` to them.
    pub tcp_bytes: IntCounterVec,
    /// Access log lines dropped because the log could not keep up.
    pub log_dropped: IntCounter,
    /// Times that changed certificates were read again, by result.
    pub certificate_reloads: IntCounterVec,
    /// When a certificate expires, as a Unix time, by its names.
    pub certificate_expires: IntGaugeVec,
    /// Config loads by result.
    pub config_reloads: IntCounterVec,
    /// When the running config was loaded, as a Unix time.
    pub config_loaded: Gauge,
}

impl Metrics {
    pub fn new() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let metrics = Metrics {
            requests: counters(
                &registry,
                "requests_total",
                "Requests answered, by listener, status and who served the answer.",
                &["listener", "code", "served_by"],
            )?,
            duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        name("request_duration_seconds"),
                        "Seconds from a request's head to its last byte.",
                    )
                    .buckets(BUCKETS.to_vec()),
                    &["listener"],
                )?,
            )?,
            attempts: counters(
                &registry,
                "attempts_total",
                "Attempts at targets, by outcome. A miss is absent, not an error.",
                &["pool", "node", "outcome"],
            )?,
            fallbacks: counters(
                &registry,
                "fallbacks_total",
                "Times that a request went on from one target to another.",
                &["from", "to", "reason"],
            )?,
            hops: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(name("hops_per_request"), "Attempts that one request took.")
                        .buckets(vec![0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0]),
                )?,
            )?,
            location_lookups: counters(
                &registry,
                "location_lookups_total",
                "What the location map knew of a path.",
                &["result"],
            )?,
            location_requests: counters(
                &registry,
                "location_requests_total",
                "Requests, by whether the location map's hints were heeded.",
                &["group"],
            )?,
            location_attempts: counters(
                &registry,
                "location_attempts_total",
                "Attempts, by whether the location map's hints were heeded.",
                &["group"],
            )?,
            location_entries: register(
                &registry,
                IntGauge::new(name("location_entries"), "Paths in the location map.")?,
            )?,
            loops: counters(
                &registry,
                "loops_total",
                "Requests that a node sent back to us, by the node that points back.",
                &["node"],
            )?,
            hedges: counters(
                &registry,
                "hedges_total",
                "Second nodes asked beside a silent first one, by the first, and by who won.",
                &["pool", "node", "won"],
            )?,
            node_up: gauges(&registry, "node_up", "1 while a node is up.", &["pool", "node"])?,
            node_absence_suspect: gauges(
                &registry,
                "node_absence_suspect",
                "1 while a node is asked last because its share of 404s jumped far above what it ever was.",
                &["pool", "node"],
            )?,
            node_connections: gauges(
                &registry,
                "node_connections",
                "Requests in flight to a node or a store.",
                &["pool", "node"],
            )?,
            upstream_connects: counters(
                &registry,
                "upstream_connects_total",
                "Connections opened to a target.",
                &["node"],
            )?,
            health_checks: counters(
                &registry,
                "health_checks_total",
                "Active health checks, by result.",
                &["pool", "node", "result"],
            )?,
            health_changes: counters(
                &registry,
                "health_changes_total",
                "Changes of a node's health.",
                &["pool", "node", "to"],
            )?,
            s3_requests: counters(
                &registry,
                "s3_requests_total",
                "Requests to S3, by method and status.",
                &["op", "code"],
            )?,
            s3_bytes: register(&registry, IntCounter::new(name("s3_bytes_total"), "Body bytes received from S3.")?)?,
            s3_cost: register(
                &registry,
                CounterVec::new(
                    Opts::new(name("s3_cost_dollars_total"), "Dollars spent on a store, by the prices of the config."),
                    &["store"],
                )?,
            )?,
            s3_cost_today: register(
                &registry,
                GaugeVec::new(
                    Opts::new(name("s3_cost_today_dollars"), "Dollars spent on a store on this UTC day."),
                    &["store"],
                )?,
            )?,
            store_requests: counters(
                &registry,
                "store_requests_total",
                "Requests to a store, by what its disk and requests under way had to do with them.",
                &["store", "result"],
            )?,
            store_ready: gauges(&registry, "store_ready", "1 while a store's disk takes new files.", &["store"])?,
            store_bytes: gauges(&registry, "store_bytes", "Bytes that a store's files take of its disk.", &["store"])?,
            store_objects: gauges(&registry, "store_objects", "Files on a store's disk.", &["store"])?,
            store_memory_bytes: gauges(
                &registry,
                "store_memory_bytes",
                "Bytes of memory that a store's disk takes: small files, and the index.",
                &["store", "use"],
            )?,
            store_evictions: counters(
                &registry,
                "store_evictions_total",
                "Files of a store's disk that made way for others.",
                &["store"],
            )?,
            store_refused: counters(
                &registry,
                "store_refused_total",
                "Files that were not kept for want of room, by the bound: budget or free.",
                &["store", "bound"],
            )?,
            store_errors: counters(
                &registry,
                "store_errors_total",
                "Faults of a store's disk: read, write, corrupt, silent.",
                &["store", "kind"],
            )?,
            collapsed: register(
                &registry,
                IntCounter::new(
                    name("collapsed_requests_total"),
                    "Requests that were answered from what another request found out meanwhile.",
                )?,
            )?,
            aborted: counters(
                &registry,
                "aborted_responses_total",
                "Answers cut short after their head was sent, by who was at fault.",
                &["listener", "side"],
            )?,
            misshapen: counters(
                &registry,
                "misshapen_requests_total",
                "Requests refused for their shape.",
                &["listener", "code"],
            )?,
            unfinished_heads: counters(
                &registry,
                "unfinished_heads_total",
                "Connections that ended amid a request head: cut, timed out, or no HTTP.",
                &["listener"],
            )?,
            client_connections: gauges(&registry, "client_connections", "Client connections open.", &["listener"])?,
            proxy_headers_refused: counters(
                &registry,
                "proxy_headers_refused_total",
                "Connections of trusted proxies that were closed for want of a PROXY header: missing, malformed or late.",
                &["listener"],
            )?,
            throttled: counters(
                &registry,
                "throttled_total",
                "Connections and requests refused because their client came more often than the listener's throttle allows.",
                &["listener", "kind"],
            )?,
            tcp_connections: gauges(
                &registry,
                "tcp_connections",
                "Connections of a tcp listener that are open to a client and a node.",
                &["listener"],
            )?,
            tcp_bytes: counters(
                &registry,
                "tcp_bytes_total",
                "Bytes passed on by a tcp listener: in, from clients; out, to clients.",
                &["listener", "direction"],
            )?,
            log_dropped: register(
                &registry,
                IntCounter::new(
                    name("access_log_dropped_total"),
                    "Access log lines dropped because the log could not keep up.",
                )?,
            )?,
            certificate_reloads: counters(
                &registry,
                "certificate_reloads_total",
                "Times that changed certificates were read again, by result.",
                &["listener", "result"],
            )?,
            certificate_expires: gauges(
                &registry,
                "certificate_expires_timestamp_seconds",
                "When a certificate expires, by the names that it is for.",
                &["listener", "name"],
            )?,
            config_reloads: counters(&registry, "config_reloads_total", "Config loads, by result.", &["result"])?,
            config_loaded: register(
                &registry,
                Gauge::new(
                    name("config_last_reload_success_timestamp_seconds"),
                    "When the running config was loaded.",
                )?,
            )?,
            registry,
        };
        let build =
            gauges(&metrics.registry, "build_info", "1, with the version as labels.", &["version", "revision"])?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("HOPFALL_REVISION").unwrap_or("unknown")])
            .set(1);
        Ok(metrics)
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Tells no more of a node that is gone. What was counted stays.
    pub fn forget_node(&self, pool: &str, node: &str) {
        for gauge in [&self.node_up, &self.node_connections, &self.node_absence_suspect] {
            // It is not there if nothing ever set it.
            let _ = gauge.remove_label_values(&[pool, node]);
        }
    }

    /// The handles of one target, looked up once.
    pub fn target(&self, pool: &str, node: &str) -> TargetMetrics {
        let attempts = |outcome| self.attempts.with_label_values(&[pool, node, outcome]);
        TargetMetrics {
            connections: self.node_connections.with_label_values(&[pool, node]),
            connects: self.upstream_connects.with_label_values(&[node]),
            found: attempts("found"),
            absent: attempts("absent"),
            others: self.attempts.clone(),
            pool: pool.to_owned(),
            node: node.to_owned(),
        }
    }
}

/// The metrics of one target; the two outcomes of nearly every attempt are at hand.
pub struct TargetMetrics {
    pub connections: IntGauge,
    pub connects: IntCounter,
    found: IntCounter,
    absent: IntCounter,
    others: IntCounterVec,
    pool: String,
    node: String,
}

impl TargetMetrics {
    pub fn attempted(&self, outcome: &str) {
        match outcome {
            "found" => self.found.inc(),
            "absent" => self.absent.inc(),
            other => self.others.with_label_values(&[self.pool.as_str(), self.node.as_str(), other]).inc(),
        }
    }
}

/// The metrics of one store's disk.
pub struct DiskMetrics {
    name: String,
    errors: IntCounterVec,
    evictions: IntCounter,
    refused: IntCounterVec,
    ready: IntGauge,
    bytes: IntGauge,
    objects: IntGauge,
    memory: IntGauge,
    index: IntGauge,
    /// What was counted when it was last measured.
    before: Mutex<Figures>,
}

impl DiskMetrics {
    /// `counted` is what has been counted of this disk already.
    pub fn new(metrics: &Metrics, name: &str, counted: Figures) -> Self {
        DiskMetrics {
            name: name.to_owned(),
            errors: metrics.store_errors.clone(),
            evictions: metrics.store_evictions.with_label_values(&[name]),
            refused: metrics.store_refused.clone(),
            ready: metrics.store_ready.with_label_values(&[name]),
            bytes: metrics.store_bytes.with_label_values(&[name]),
            objects: metrics.store_objects.with_label_values(&[name]),
            memory: metrics.store_memory_bytes.with_label_values(&[name, "files"]),
            index: metrics.store_memory_bytes.with_label_values(&[name, "index"]),
            before: Mutex::new(counted),
        }
    }

    /// The disk did not answer in time.
    pub fn is_silent(&self) {
        self.errors.with_label_values(&[self.name.as_str(), "silent"]).inc();
    }

    /// Takes in what the disk says of itself.
    pub fn measure(&self, now: &Figures) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.ready, u64::from(now.ready));
        gauge(&self.bytes, now.disk_bytes);
        gauge(&self.objects, now.objects);
        gauge(&self.memory, now.memory_bytes);
        gauge(&self.index, now.index_bytes);
        self.evictions.inc_by(now.evictions - before.evictions);
        let name = self.name.as_str();
        let kinds = [
            ("read", now.read_errors - before.read_errors),
            ("write", now.write_errors - before.write_errors),
            ("corrupt", now.corrupt - before.corrupt),
        ];
        for (kind, more) in kinds {
            self.errors.with_label_values(&[name, kind]).inc_by(more);
        }
        let bounds = [
            ("budget", now.refused_by_budget - before.refused_by_budget),
            ("free", now.refused_by_floor - before.refused_by_floor),
        ];
        for (bound, more) in bounds {
            self.refused.with_label_values(&[name, bound]).inc_by(more);
        }
        *before = *now;
    }
}

/// Seconds: from a hit on loopback to a large object on a slow line.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

fn name(name: &str) -> String {
    format!("hopfall_{name}")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> anyhow::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, title: &str, help: &str, labels: &[&str]) -> anyhow::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name(title), help), labels)?)
}

fn gauges(registry: &Registry, title: &str, help: &str, labels: &[&str]) -> anyhow::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name(title), help), labels)?)
}
