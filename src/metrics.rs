//! The metrics, whose names and labels are an API (docs/metrics.md). Labels are few and closed: never a path, a
//! client or a Host.

mod catalog;
mod process;
mod tally;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use catalog::{Description, Kind};
pub use tally::{Tally, Target};

use crate::disk::Figures;
use crate::history::History;
use catalog::{Catalog, Measured};
use process::Process;

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    descriptions: Vec<Description>,
    process: Process,
    /// What happened lately. No metric, but told from the same places.
    pub history: History,
    /// Requests answered, by listener, status and who served the answer.
    pub requests: IntCounterVec,
    /// Seconds from a request's head to its last byte.
    pub duration: HistogramVec,
    /// Body bytes sent to clients.
    pub sent: IntCounterVec,
    /// Attempts by outcome. A miss is `absent`, not an error.
    pub attempts: IntCounterVec,
    /// Seconds until a target's answer began.
    pub attempt_duration: HistogramVec,
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
    /// Dollars that may be spent on a store in a day.
    pub s3_budget: GaugeVec,
    /// What a store's disk, and requests under way, had to do with the requests to it.
    pub store_requests: IntCounterVec,
    /// 1 while a store's disk takes new files.
    pub store_ready: IntGaugeVec,
    /// Bytes that a store's files take of its disk.
    pub store_bytes: IntGaugeVec,
    /// Bytes that they may take.
    pub store_max_bytes: IntGaugeVec,
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
    /// Connections that ended in the middle of a request head: cut, timed out, or no HTTP.
    pub unfinished_heads: IntCounterVec,
    /// Client connections open.
    pub client_connections: IntGaugeVec,
    /// Client connections that may be open.
    pub client_connections_max: IntGaugeVec,
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
    /// Spans that no collector took.
    #[cfg(feature = "otel")]
    pub spans_dropped: IntCounter,
    /// Times that changed certificates were read again, by result.
    pub certificate_reloads: IntCounterVec,
    /// Orders for certificates by ACME, by name and result.
    pub certificate_orders: IntCounterVec,
    /// When a certificate expires, as a Unix time, by its names.
    pub certificate_expires: IntGaugeVec,
    /// Config loads by result.
    pub config_reloads: IntCounterVec,
    /// When the running config was loaded, as a Unix time.
    pub config_loaded: Gauge,
}

impl Metrics {
    pub fn new() -> anyhow::Result<Self> {
        let registry = Catalog::default();
        let build = gauges(&registry, "build_info", BUILD_INFO, &["version", "revision"])?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), option_env!("HOPFALL_REVISION").unwrap_or("unknown")])
            .set(1);
        let mut metrics = Metrics {
            process: Process::new(&registry)?,
            history: History::default(),
            requests: counters(
                &registry,
                "requests_total",
                "Requests answered. `code` is the status sent, `0` if none was. `served_by` is the node or store \
                 whose answer it was, `hopfall` for an answer of our own.",
                &["listener", "code", "served_by"],
            )?,
            duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        name("request_duration_seconds"),
                        "From a request's head to the last byte of its answer.",
                    )
                    .buckets(BUCKETS.to_vec()),
                    &["listener"],
                )?,
            )?,
            sent: counters(
                &registry,
                "sent_bytes_total",
                "Body bytes sent to clients, by listeners with a route. Counted when a request ends.",
                &["listener"],
            )?,
            attempts: counters(
                &registry,
                "attempts_total",
                "Attempts at nodes and stores, by outcome; `absent` is not an error. `found` and `absent` from \
                 the start.",
                &["pool", "node", "outcome"],
            )?,
            attempt_duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        name("attempt_duration_seconds"),
                        "From the beginning of an attempt, its wait for a place and for a connection included, to the head of \
                         the answer; where one came, whatever it said. From the start.",
                    )
                    .buckets(BUCKETS.to_vec()),
                    &["pool", "node"],
                )?,
            )?,
            fallbacks: counters(
                &registry,
                "fallbacks_total",
                "GETs and HEADs that went on from one target to another; `reason` is the first one's outcome.",
                &["from", "to", "reason"],
            )?,
            hops: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        name("hops_per_request"),
                        "Attempts that one request took; 0 for one that was refused before any.",
                    )
                    .buckets(vec![0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0]),
                )?,
            )?,
            location_lookups: counters(
                &registry,
                "location_lookups_total",
                "What the location map knew of the target that was asked first: `hit` (right), `wrong`, `miss` \
                 (nothing); and `nowhere`, answered without asking. The control group is not counted.",
                &["result"],
            )?,
            location_requests: counters(
                &registry,
                "location_requests_total",
                "GETs and HEADs, by whether they used the location map's hints: `hinted` or `control`.",
                &["group"],
            )?,
            location_attempts: counters(
                &registry,
                "location_attempts_total",
                "Attempts of the requests of a group. Divided by them: hops per request, with hints and without.",
                &["group"],
            )?,
            location_entries: register(
                &registry,
                IntGauge::new(name("location_entries"), "Paths in the location map. Counted at each scrape.")?,
            )?,
            loops: counters(
                &registry,
                "loops_total",
                "Requests that a node sent back to us, by the node that points back; `unknown` if it cannot be \
                 told.",
                &["node"],
            )?,
            hedges: counters(
                &registry,
                "hedges_total",
                "Second nodes asked while the first, which is `node`, was silent; `won` is `first` or `second`.",
                &["pool", "node", "won"],
            )?,
            node_up: gauges(
                &registry,
                "node_up",
                "1 while a node is up, else 0. From the start. Without active checks, a node that was ejected \
                 counts as up once it has served again.",
                &["pool", "node"],
            )?,
            node_absence_suspect: gauges(
                &registry,
                "node_absence_suspect",
                "1 while a node is asked last because its share of 404s jumped far above what it ever was; 0 once \
                 it has a file again.",
                &["pool", "node"],
            )?,
            node_connections: gauges(
                &registry,
                "node_connections",
                "Requests in flight to a node or store. From the start.",
                &["pool", "node"],
            )?,
            upstream_connects: counters(
                &registry,
                "upstream_connects_total",
                "Connections opened to a target. From the start. Health checks are not counted.",
                &["node"],
            )?,
            health_checks: counters(
                &registry,
                "health_checks_total",
                "Active checks; `result` is `passed` or `failed`. A check for which this process lacked files or ports is not counted.",
                &["pool", "node", "result"],
            )?,
            health_changes: counters(
                &registry,
                "health_changes_total",
                "Changes of health; `to` is `up` or `down`. The log says why.",
                &["pool", "node", "to"],
            )?,
            s3_requests: counters(
                &registry,
                "s3_requests_total",
                "Requests to S3: `op` is GET or HEAD, `code` the status, `error` where none came. Probes and \
                 second tries included. All stores together.",
                &["op", "code"],
            )?,
            s3_bytes: register(
                &registry,
                IntCounter::new(name("s3_bytes_total"), "Body bytes received from S3. From the start.")?,
            )?,
            s3_cost: register(
                &registry,
                CounterVec::new(
                    Opts::new(
                        name("s3_cost_dollars_total"),
                        "Dollars spent on a store, by its `prices`: requests, and body bytes received.",
                    ),
                    &["store"],
                )?,
            )?,
            s3_cost_today: register(
                &registry,
                GaugeVec::new(
                    Opts::new(name("s3_cost_today_dollars"), "Dollars spent on a store on this UTC day. Counted at each scrape."),
                    &["store"],
                )?,
            )?,
            s3_budget: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        name("s3_budget_dollars"),
                        "Dollars that may be spent on a store in a UTC day: its `budget_per_day`. Only where it is set.",
                    ),
                    &["store"],
                )?,
            )?,
            store_requests: counters(
                &registry,
                "store_requests_total",
                "Requests to a store, by how its disk or requests in progress took part.",
                &["store", "result"],
            )?,
            store_ready: gauges(
                &registry,
                "store_ready",
                "1 while a store's disk takes new files: its folder is this process's, and its index is read. 0 \
                 if it could not be opened; only where a disk is configured.",
                &["store"],
            )?,
            store_bytes: gauges(
                &registry,
                "store_bytes",
                "Bytes that files use on a store's disk, including those being written.",
                &["store"],
            )?,
            store_max_bytes: gauges(
                &registry,
                "store_max_bytes",
                "Most bytes that files may use on a store's disk: its `bytes`.",
                &["store"],
            )?,
            store_objects: gauges(&registry, "store_objects", "Files on a store's disk.", &["store"])?,
            store_memory_bytes: gauges(
                &registry,
                "store_memory_bytes",
                "Bytes of memory that a store's disk uses: `files` (small ones), `index`.",
                &["store", "use"],
            )?,
            store_evictions: counters(
                &registry,
                "store_evictions_total",
                "Files removed from a store's disk to make room for others. From the start.",
                &["store"],
            )?,
            store_refused: counters(
                &registry,
                "store_refused_total",
                "Files that were not kept because there was no room, by `bound`: `budget` or `free`.",
                &["store", "bound"],
            )?,
            store_errors: counters(
                &registry,
                "store_errors_total",
                "Faults of a store's disk: `read`, `write`, `corrupt` (a file that was not what was written; it \
                 is removed), `silent` (no answer in time).",
                &["store", "kind"],
            )?,
            collapsed: register(
                &registry,
                IntCounter::new(
                    name("collapsed_requests_total"),
                    "Requests that were answered from what another request found out meanwhile: where a file is, or \
                     the file itself. From the start.",
                )?,
            )?,
            aborted: counters(
                &registry,
                "aborted_responses_total",
                "Requests cut short. `side` is who did it: `upstream`, `client`, or `deadline` (the route's \
                 `transfer_deadline`).",
                &["listener", "side"],
            )?,
            misshapen: counters(
                &registry,
                "misshapen_requests_total",
                "Requests refused for their shape: 400, 413, 414, 417 or 431. A body that proves too large or \
                 malformed while it is read is not counted here.",
                &["listener", "code"],
            )?,
            unfinished_heads: counters(
                &registry,
                "unfinished_heads_total",
                "Connections that ended in the middle of a request head: cut, timed out, or no HTTP. `admin` is the admin \
                 listener. From the start.",
                &["listener"],
            )?,
            client_connections: gauges(
                &registry,
                "client_connections",
                "Client connections open. From the start; `admin` is the admin listener.",
                &["listener"],
            )?,
            client_connections_max: gauges(
                &registry,
                "client_connections_max",
                "Client connections that may be open: `max_connections` of the listener. More wait in the kernel's queue. \
                 From the start.",
                &["listener"],
            )?,
            proxy_headers_refused: counters(
                &registry,
                "proxy_headers_refused_total",
                "Connections from a listener's `proxy_protocol` networks that were closed because their PROXY \
                 header was missing, malformed or late. One that is closed without a byte, as checks do, is not \
                 counted. From the start.",
                &["listener"],
            )?,
            throttled: counters(
                &registry,
                "throttled_total",
                "Refused because the client came more often than the listener's `throttle` allows. `kind`: `connection` (reset \
                 before a byte was said) or `request` (429, and in `hopfall_requests_total` as well). From the start, where \
                 such a bound is set.",
                &["listener", "kind"],
            )?,
            tcp_connections: gauges(
                &registry,
                "tcp_connections",
                "Connections of a tcp listener that are open to a client and a node. From the start.",
                &["listener"],
            )?,
            tcp_bytes: counters(
                &registry,
                "tcp_bytes_total",
                "Bytes passed on by a tcp listener: `in` from clients, `out` to clients. Counted as they pass. \
                 From the start.",
                &["listener", "direction"],
            )?,
            log_dropped: register(
                &registry,
                IntCounter::new(
                    name("access_log_dropped_total"),
                    "Access log lines dropped because the log could not keep up or could not be written. From the start.",
                )?,
            )?,
            #[cfg(feature = "otel")]
            spans_dropped: register(
                &registry,
                IntCounter::new(
                    name("spans_dropped_total"),
                    "Spans of traced requests that were dropped because the collector did not take them in time. From the \
                     start, in builds with the feature `otel`.",
                )?,
            )?,
            certificate_orders: counters(
                &registry,
                "certificate_orders_total",
                "Orders for the certificate of an `acme` name, the first and renewals; `failure`: what was there before \
                 is still used, and it is tried again. Both results are there from the start.",
                &["name", "result"],
            )?,
            certificate_reloads: counters(
                &registry,
                "certificate_reloads_total",
                "Times that certificates were read again because a file had changed; `failure`: what was there \
                 before is still used.",
                &["listener", "result"],
            )?,
            certificate_expires: gauges(
                &registry,
                "certificate_expires_timestamp_seconds",
                "When a certificate expires, as a Unix time, by its DNS names.",
                &["listener", "name"],
            )?,
            config_reloads: counters(
                &registry,
                "config_reloads_total",
                "Config loads, the first at start; `failure`: the file had mistakes, or something it names was not available, and the previous config is still in force.",
                &["result"],
            )?,
            config_loaded: register(
                &registry,
                Gauge::new(
                    name("config_last_reload_success_timestamp_seconds"),
                    "When the running config was loaded, as a Unix time.",
                )?,
            )?,
            registry: Registry::default(),
            descriptions: Vec::new(),
        };
        (metrics.registry, metrics.descriptions) = registry.close();
        Ok(metrics)
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> anyhow::Result<Vec<u8>> {
        self.process.measure();
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

    /// Tells no more of a store that is gone. What was counted stays.
    pub fn forget_store(&self, store: &str) {
        self.forget_node(store, store);
        self.forget_disk(store);
        self.forget_budget(store);
        let _ = self.s3_cost_today.remove_label_values(&[store]);
    }

    /// Tells no more of the budget of a store that has none now.
    pub fn forget_budget(&self, store: &str) {
        let _ = self.s3_budget.remove_label_values(&[store]);
    }

    /// Tells no more of the disk of a store that has none now.
    pub fn forget_disk(&self, store: &str) {
        for gauge in [&self.store_ready, &self.store_bytes, &self.store_max_bytes, &self.store_objects] {
            let _ = gauge.remove_label_values(&[store]);
        }
    }

    /// Every metric there is, with series or without.
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }

    /// The handles of one target, looked up once.
    pub fn target(&self, pool: &str, node: &str) -> TargetMetrics {
        let attempts = |outcome| self.attempts.with_label_values(&[pool, node, outcome]);
        TargetMetrics {
            connections: self.node_connections.with_label_values(&[pool, node]),
            connects: self.upstream_connects.with_label_values(&[node]),
            found: attempts("found"),
            absent: attempts("absent"),
            took: self.attempt_duration.with_label_values(&[pool, node]),
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
    took: Histogram,
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

    /// The head of an answer came, so long after the attempt began.
    pub fn answered(&self, took: Duration) {
        self.took.observe(took.as_secs_f64());
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
    /// `bytes` is what its files may take, and `counted` what has been counted of this disk already.
    pub fn new(metrics: &Metrics, name: &str, bytes: u64, counted: Figures) -> Self {
        metrics.store_max_bytes.with_label_values(&[name]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
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

    /// Takes in what the disk says of itself, and gives it. Looked at under the lock: of two who measure, the later one has
    /// the later figures.
    pub fn measure(&self, look: impl FnOnce() -> Figures) -> Figures {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let now = look();
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
        *before = now;
        now
    }
}

const BUILD_INFO: &str = "1. `revision` is the environment variable `HOPFALL_REVISION` at build time, or `unknown`.";

/// Seconds: from a hit on loopback to a large object on a slow line.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

fn name(name: &str) -> String {
    format!("hopfall_{name}")
}

fn register<C: Measured>(registry: &Catalog, collector: C) -> anyhow::Result<C> {
    registry.add(collector)
}

fn counters(registry: &Catalog, title: &str, help: &str, labels: &[&str]) -> anyhow::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name(title), help), labels)?)
}

fn gauges(registry: &Catalog, title: &str, help: &str, labels: &[&str]) -> anyhow::Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name(title), help), labels)?)
}
