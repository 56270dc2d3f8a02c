//! What hopfall tells of itself, as data: `/status.json`, and what the page is made of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;

use super::samples::{MINUTE, MOMENT, Samples, Window};
use crate::chain::Chain;
use crate::config;
use crate::fallback::Stage;
use crate::history::{Event, Kind};
use crate::metrics::{Tally, Target};
use crate::origin::StoreOrigin;
use crate::pool::{Node, Pool};

/// The state of a hopfall. New keys may be added at any time; existing ones keep their meaning.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The version of the program.
    pub version: &'static str,
    /// When this was written (RFC 3339, UTC).
    pub at: String,
    /// Seconds since the process started serving.
    pub up_seconds: u64,
    /// Whether the process is draining: it takes no new connections, and ends when the requests in progress have ended.
    pub stopping: bool,
    pub config: Configured,
    pub requests: Requests,
    /// The listeners, in the order of the config.
    pub listeners: Vec<Listening>,
    /// The chains of pools and stores that the routes have, each once.
    pub chains: Vec<Flow>,
    /// The pools, with their nodes.
    pub pools: Vec<PoolStatus>,
    /// The stores, by name.
    pub stores: Vec<StoreStatus>,
    pub s3: S3,
    /// The location map; null where there is none.
    pub location: Option<LocationStatus>,
    /// Nodes that have sent hopfall's own requests back to it since the start. Make them answer 404 instead.
    pub loops: Vec<Looping>,
    /// The last hundred changes of state, the latest first.
    pub events: Vec<Happened>,
}

/// The config that is in force.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Configured {
    /// How many configs were in force before it in this process.
    pub generation: u64,
    /// The result of the last reload; null before the first.
    pub last_reload: Option<Reload>,
}

/// What came of a reload.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reload {
    /// When (RFC 3339, UTC).
    pub at: String,
    /// Whether the new config is in force.
    pub ok: bool,
    /// What was done, or what is wrong.
    pub told: String,
}

/// Requests of clients.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Requests {
    /// Answered per second, over the last 10 seconds.
    pub per_second: f64,
    /// Answered in the last minute.
    pub last_minute: u64,
    /// Of these, answered by hopfall itself: no target had the file, or one could not be asked.
    pub own_last_minute: u64,
    /// In flight to nodes.
    pub in_flight: i64,
}

/// A listener.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Listening {
    /// As in the config.
    pub name: String,
    /// As the config has it.
    pub address: String,
}

/// One chain with what flows along it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Flow {
    /// The routes that use it.
    pub routes: Vec<String>,
    /// In the order in which they are asked.
    pub hops: Vec<Hop>,
}

/// One link of a chain.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Hop {
    /// `pool` or `store`.
    pub kind: &'static str,
    /// The name of the pool or store.
    pub name: String,
    /// Its share of what was found along the chain in the last minute: 0 to 1. Null where nothing was found. What a pool
    /// served counts in each chain that it is part of.
    pub share: Option<f64>,
    /// Files served per second, over the last 10 seconds.
    pub served_per_second: f64,
}

/// A pool.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PoolStatus {
    /// As in the config.
    pub name: String,
    /// In the order of the config.
    pub nodes: Vec<NodeStatus>,
}

/// A node.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeStatus {
    /// As in the config.
    pub name: String,
    /// As the config has it.
    pub address: String,
    /// Whether it is up. One that is down is asked last.
    pub up: bool,
    /// Seconds since it came up or went down, or since the process started serving.
    pub since_seconds: u64,
    /// Whether it is asked last because it suddenly lacks most of what it is asked for.
    pub suspect: bool,
    /// `accept`, `reject`, `drain` or `backup`.
    pub mode: &'static str,
    /// As in the config: 1 to 255.
    pub weight: u32,
    /// Requests and connections in progress to it.
    pub in_flight: i64,
    #[serde(flatten)]
    pub attempts: Attempts,
}

/// What was asked of a node or a store.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Attempts {
    /// Attempts per second, over the last 10 seconds.
    pub per_second: f64,
    /// Attempts of the last minute that found the file.
    pub found: u64,
    /// Attempts of the last minute that did not find it: 404s, which are not errors.
    pub absent: u64,
    /// Attempts of the last minute that failed: busy, refused, timed out, broken, errors.
    pub failed: u64,
    /// Median seconds until an answer began, over the last minute's attempts; null if there were none.
    pub median_seconds: Option<f64>,
    /// The 95th percentile of the same.
    pub p95_seconds: Option<f64>,
}

/// A store.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoreStatus {
    /// As in the config.
    pub name: String,
    /// Dollars spent on this UTC day, by the config's prices.
    pub dollars_today: f64,
    /// Dollars that may be spent in a day; null if there is no limit.
    pub budget_per_day: Option<f64>,
    /// Dollars spent in the last minute.
    pub dollars_last_minute: f64,
    #[serde(flatten)]
    pub attempts: Attempts,
    /// Its disk; null where it has none.
    pub disk: Option<DiskStatus>,
}

impl StoreStatus {
    /// It was asked in the last minute, and each time in vain.
    pub fn is_failing(&self) -> bool {
        self.attempts.failed > 0 && self.attempts.found + self.attempts.absent == 0
    }

    /// It is not asked any more today.
    pub fn is_spent(&self) -> bool {
        self.budget_per_day.is_some_and(|budget| self.dollars_today >= budget)
    }
}

/// What a store keeps on this machine.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DiskStatus {
    /// Whether it takes new files.
    pub ready: bool,
    /// Bytes that its files use.
    pub bytes: u64,
    /// Most bytes that they may use.
    pub max_bytes: u64,
    /// Files on it.
    pub objects: u64,
    /// The share of the last minute's requests to the store for which S3 was not asked: 0 to 1. Null if there were none.
    pub kept_share: Option<f64>,
}

/// Requests to S3, of all stores together.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct S3 {
    /// Since the start. Probes included.
    pub requests: u64,
    /// In the last minute.
    pub requests_last_minute: u64,
}

/// The location map.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LocationStatus {
    /// Paths in it.
    pub entries: u64,
    /// Most paths that it may hold.
    pub max_entries: u64,
    /// The share of the last minute's lookups that it could answer: 0 to 1. Null if there were none.
    pub hit_share: Option<f64>,
}

/// A node that sends requests back to hopfall.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Looping {
    /// Its name; `unknown` if it is not known.
    pub node: String,
    /// Requests that it sent back since the start.
    pub requests: u64,
    /// In the last minute.
    pub requests_last_minute: u64,
}

/// A change of state.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Happened {
    /// When (RFC 3339, UTC); for a loop that goes on, the last time.
    pub at: String,
    /// `up`, `down`, `suspect`, `mode`, `loop`, `purged`, `reloaded` or `not_reloaded`. There may be more.
    pub kind: &'static str,
    /// The pool, or null if it is about none.
    pub pool: Option<String>,
    /// The node, or null if it is about none.
    pub node: Option<String>,
    /// The reason, or the result.
    pub told: String,
    /// Seconds since.
    #[serde(skip)]
    pub ago: Duration,
    #[serde(skip)]
    pub what: Kind,
}

/// What a status is gathered from, besides the chain.
pub struct Moment<'a> {
    pub samples: &'a Samples,
    pub last_reload: Option<Reload>,
    pub stopping: bool,
    pub time: SystemTime,
}

struct Rates {
    now: Tally,
    minute: Window,
    moment: Window,
}

impl Status {
    pub fn of(chain: &Chain, moment: Moment<'_>) -> Status {
        let snapshot = &chain.snapshot;
        let up = snapshot.now();
        let now = chain.metrics.tally();
        let window = |span| moment.samples.window(span, up, &now);
        let rates = Rates { minute: window(MINUTE), moment: window(MOMENT), now: now.clone() };
        let pools: Vec<PoolStatus> = snapshot.pools.iter().map(|pool| pool_status(pool, up, &rates)).collect();
        let (minute, last) = (&rates.minute.counted, &rates.moment.counted);
        let mut stores: Vec<_> = chain.stores.values().map(|store| store_status(store, &rates)).collect();
        stores.sort_by(|one, other| one.name.cmp(&other.name));
        Status {
            version: env!("CARGO_PKG_VERSION"),
            at: told(moment.time),
            up_seconds: up.as_secs(),
            stopping: moment.stopping,
            config: Configured { generation: snapshot.generation, last_reload: moment.last_reload },
            requests: Requests {
                per_second: rates.moment.per_second(last.requests),
                last_minute: minute.requests,
                own_last_minute: minute.own,
                in_flight: pools.iter().flat_map(|pool| &pool.nodes).map(|node| node.in_flight).sum(),
            },
            listeners: snapshot.config.listeners.iter().map(listening).collect(),
            chains: flows(chain, &rates),
            pools,
            stores,
            s3: S3 { requests: rates.now.s3_requests, requests_last_minute: minute.s3_requests },
            location: snapshot.location.as_ref().map(|map| {
                let knew = ["hit", "nowhere"].iter().filter_map(|word| minute.lookups.get(*word)).sum();
                LocationStatus {
                    entries: map.len() as u64,
                    max_entries: snapshot.config.location.as_ref().map_or(0, |location| location.entries) as u64,
                    hit_share: share(knew, minute.lookups.values().sum()),
                }
            }),
            loops: rates.now.loops.iter().map(|(node, requests)| looping(node, *requests, minute)).collect(),
            events: chain.metrics.history.latest().into_iter().map(|event| happened(event, moment.time)).collect(),
        }
    }
}

fn listening(listener: &config::Listener) -> Listening {
    Listening { name: listener.name.clone(), address: listener.address.to_string() }
}

fn looping(node: &str, requests: u64, minute: &Tally) -> Looping {
    let requests_last_minute = minute.loops.get(node).copied().unwrap_or_default();
    Looping { node: node.to_owned(), requests, requests_last_minute }
}

fn happened(event: Event, now: SystemTime) -> Happened {
    let named = |name: String| Some(name).filter(|name| !name.is_empty());
    Happened {
        at: told(event.at),
        kind: event.kind.as_str(),
        pool: named(event.pool),
        node: named(event.node),
        told: event.told,
        ago: now.duration_since(event.at).unwrap_or_default(),
        what: event.kind,
    }
}

fn pool_status(pool: &Pool, up: Duration, rates: &Rates) -> PoolStatus {
    let node = |node: &Arc<Node>| NodeStatus {
        name: node.name.clone(),
        address: node.endpoint.name.to_string(),
        up: node.is_up(up),
        since_seconds: up.saturating_sub(node.changed()).as_secs(),
        suspect: node.is_suspect(up),
        mode: node.mode().as_str(),
        weight: node.weight,
        in_flight: node.gate.in_flight(),
        attempts: attempts(pool.name(), &node.name, rates),
    };
    PoolStatus { name: pool.name().to_owned(), nodes: pool.nodes.iter().map(node).collect() }
}

fn store_status(store: &StoreOrigin, rates: &Rates) -> StoreStatus {
    let config = &store.s3.config;
    let (name, minute) = (config.name.clone(), &rates.minute.counted);
    let figures = store.measure();
    let disk = config.disk.as_ref().map(|disk| {
        let of_this = || minute.kept.iter().filter(|((store, _), _)| *store == name);
        let asked = |result: &str| matches!(result, "miss" | "revalidated" | "bypass");
        let kept = of_this().filter(|((_, result), _)| !asked(result)).map(|(_, count)| count).sum();
        DiskStatus {
            ready: figures.ready,
            bytes: figures.disk_bytes,
            max_bytes: disk.settings.bytes,
            objects: figures.objects,
            kept_share: share(kept, of_this().map(|(_, count)| count).sum()),
        }
    });
    StoreStatus {
        dollars_today: store.s3.spent_today(),
        budget_per_day: config.budget_per_day.map(|budget| budget as f64 / 1e9),
        dollars_last_minute: minute.dollars.get(&name).copied().unwrap_or_default(),
        attempts: attempts(&name, &name, rates),
        disk,
        name,
    }
}

fn attempts(pool: &str, node: &str, rates: &Rates) -> Attempts {
    let minute = rates.minute.counted.target(pool, node);
    let moment = rates.moment.counted.target(pool, node);
    Attempts {
        per_second: rates.moment.per_second(moment.attempts()),
        found: minute.found,
        absent: minute.absent,
        failed: minute.failed,
        median_seconds: minute.quantile(0.5).map(round),
        p95_seconds: minute.quantile(0.95).map(round),
    }
}

/// The chains of all routes, each once.
fn flows(chain: &Chain, rates: &Rates) -> Vec<Flow> {
    let snapshot = &chain.snapshot;
    let mut orders: Vec<(&[Stage], Vec<String>)> = Vec::new();
    for route in &snapshot.config.routes {
        let stages = route.plan.stages.as_slice();
        match orders.iter_mut().find(|(known, _)| *known == stages) {
            Some((_, routes)) => routes.push(route.name.clone()),
            None => orders.push((stages, vec![route.name.clone()])),
        }
    }
    let counted = |window: &Window, stage: &Stage| -> Target {
        let mut all = Target::default();
        match stage {
            Stage::Pool(pool) => {
                if let Some(pool) = snapshot.pools.get(*pool) {
                    pool.nodes.iter().for_each(|node| all += window.counted.target(pool.name(), &node.name));
                }
            }
            Stage::Store(target) => {
                if let Some(store) = chain.stores.get(target) {
                    all += window.counted.target(&store.s3.config.name, &store.s3.config.name);
                }
            }
        }
        all
    };
    let flow = |(stages, routes): (&[Stage], Vec<String>)| {
        let found: Vec<u64> = stages.iter().map(|stage| counted(&rates.minute, stage).found).collect();
        let all = found.iter().sum();
        let hop = |(stage, found): (&Stage, &u64)| {
            let (kind, name) = match stage {
                Stage::Pool(pool) => ("pool", snapshot.pools.get(*pool).map(|pool| pool.name())),
                Stage::Store(target) => ("store", chain.stores.get(target).map(|store| store.s3.config.name.as_str())),
            };
            Hop {
                kind,
                name: name.unwrap_or_default().to_owned(),
                share: share(*found, all),
                served_per_second: rates.moment.per_second(counted(&rates.moment, stage).found),
            }
        };
        Flow { routes, hops: stages.iter().zip(&found).map(hop).collect() }
    };
    orders.into_iter().map(flow).collect()
}

fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| round(part as f64 / all as f64))
}

/// To a millionth, which is finer than anything here is known.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// RFC 3339, in whole seconds.
pub fn told(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    let whole = time.round(jiff::Unit::Second).unwrap_or(time);
    whole.to_string()
}
