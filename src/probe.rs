//! What runs beside the requests: health checks, name resolution, the probing of buckets, the
//! sweeping of idle connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::chain::Chain;
use crate::config::{Check, Mode};
use crate::health::Signal;
use crate::keep;
use crate::origin::S3Origin;
use crate::pool::{Endpoint, Node, Pool};

/// How often a name is looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How soon after a lookup that failed.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// How often a bucket that gave no clear answer is probed again.
const PROBE_AGAIN: Duration = Duration::from_secs(30);

/// How often idle connections are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Starts a task for each node, name and bucket. They end when the set is dropped.
pub fn start(chain: &Arc<Chain>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (i, pool) in chain.snapshot.pools.iter().enumerate() {
        for node in &pool.nodes {
            if !node.endpoint.is_literal() {
                let node = node.clone();
                tasks.spawn(async move { keep_resolved(&node.endpoint, true).await });
            }
            if pool.config.health.check != Check::None {
                tasks.spawn(check(chain.clone(), i, node.clone()));
            }
        }
    }
    tasks.spawn(keep::keep(chain.clone()));
    tasks.spawn({
        let chain = chain.clone();
        async move {
            loop {
                sleep(SWEEP_EVERY).await;
                chain.sweep();
            }
        }
    });
    for store in chain.stores.values() {
        tasks.spawn(keep_store(store.s3.clone()));
    }
    tasks
}

async fn keep_store(store: Arc<S3Origin>) {
    if !store.endpoint.is_literal() {
        resolve(&store.endpoint).await;
    }
    let probing = async {
        while !store.is_known() && !store.probe().await {
            sleep(PROBE_AGAIN).await;
        }
    };
    tokio::join!(probing, async {
        if !store.endpoint.is_literal() {
            keep_resolved(&store.endpoint, false).await;
        }
    });
}

async fn keep_resolved(endpoint: &Endpoint, at_once: bool) {
    let mut wait = if at_once { Duration::ZERO } else { RESOLVE_EVERY };
    loop {
        sleep(wait).await;
        wait = if resolve(endpoint).await { RESOLVE_EVERY } else { RESOLVE_AGAIN };
    }
}

/// Looks a name up. A name that no longer resolves keeps the address that it had.
async fn resolve(endpoint: &Endpoint) -> bool {
    let name = &endpoint.name;
    let found = match tokio::net::lookup_host((name.host.as_str(), name.port)).await {
        Ok(addresses) => addresses.collect::<Vec<SocketAddr>>(),
        Err(error) => {
            warn!("{name} cannot be resolved: {error}");
            return false;
        }
    };
    // An address that is still among the answers stays: changing it would empty the pool of connections.
    let known = endpoint.address();
    if known.is_some_and(|known| found.contains(&known)) {
        return true;
    }
    let Some(first) = found.iter().find(|address| address.is_ipv4()).or(found.first()) else { return false };
    debug!("{name} is {first}");
    endpoint.set(*first);
    true
}

/// Checks one node for ever. Nodes are checked side by side, each at its own jittered beat.
async fn check(chain: Arc<Chain>, pool: usize, node: Arc<Node>) {
    let Some(pool) = chain.snapshot.pools.get(pool) else { return };
    let health = &pool.config.health;
    let checks = checks_of(pool, &node);
    sleep(health.interval.mul_f64(rand::random::<f64>() * 0.5)).await;
    loop {
        if node.mode() == Mode::Reject {
            sleep(health.interval).await;
            continue;
        }
        let passed = match node.endpoint.address().and_then(|address| Backend::new(&address.to_string()).ok()) {
            Some(backend) => matches!(timeout(health.timeout, checks.check(&backend)).await, Ok(Ok(()))),
            None => false,
        };
        let (word, signal) = if passed { ("passed", Signal::CheckPassed) } else { ("failed", Signal::CheckFailed) };
        chain.metrics.health_checks.with_label_values(&[pool.name(), node.name.as_str(), word]).inc();
        pool.observe(&node, signal, chain.snapshot.now(), &chain.metrics);
        sleep(health.interval.mul_f64(0.9 + rand::random::<f64>() * 0.2)).await;
    }
}

fn checks_of(pool: &Pool, node: &Node) -> Box<dyn HealthCheck + Send + Sync> {
    let health = &pool.config.health;
    if health.check == Check::Connection {
        let mut check = TcpHealthCheck::new();
        check.peer_template.options.connection_timeout = Some(health.timeout);
        return check;
    }
    let host = health.host.clone().unwrap_or_else(|| node.endpoint.name.to_string());
    let mut check = HttpHealthCheck::new(&host, false);
    check.peer_template.options.connection_timeout = Some(health.timeout);
    check.peer_template.options.read_timeout = Some(health.timeout);
    if let Ok(mut request) = RequestHeader::build("GET", health.path.as_bytes(), Some(3)) {
        let fields = [("Host", host.as_str()), ("User-Agent", "hopfall-health-check"), ("Connection", "close")];
        for (name, value) in fields {
            // invariant: names are fixed and `resolve` took only hosts that a header can hold
            let _ = request.append_header(name, value);
        }
        check.req = request;
    }
    check.validator = Some(Box::new(|head| match head.status.as_u16() {
        200..=399 => Ok(()),
        status => pingora::Error::e_explain(pingora::ErrorType::HTTPStatus(status), "health check"),
    }));
    Box::new(check)
}
