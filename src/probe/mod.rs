//! What runs beside the requests: health checks, name resolution, the probing of buckets, the
//! sweeping of idle connections.

mod check;

pub use check::check_once;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, warn};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::chain::Chain;
use crate::config::Check;
use crate::keep;
use crate::origin::S3Origin;
use crate::pool::Endpoint;
use crate::quiet::Quiet;

/// How often a name is looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How soon after a lookup that failed.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
/// How often a bucket that gave no clear answer is probed again.
const PROBE_AGAIN: Duration = Duration::from_secs(30);

/// How often idle connections are looked over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is told that a name cannot be resolved.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Starts a task for each node, name and bucket. They end when the set is dropped.
pub fn start(chain: &Arc<Chain>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (i, pool) in chain.snapshot.pools.iter().enumerate() {
        for (j, node) in pool.nodes.iter().enumerate() {
            if !node.endpoint.is_literal() {
                let node = node.clone();
                tasks.spawn(async move {
                    keep_resolved(&node.endpoint, &Quiet::for_each(TELL_EVERY), Duration::ZERO).await;
                });
            }
            if pool.config.health.check != Check::None {
                tasks.spawn(check::keep_checking(chain.clone(), i, j));
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
    let quiet = Quiet::for_each(TELL_EVERY);
    let is_resolved = store.endpoint.is_literal() || resolve(&store.endpoint, &quiet).await;
    let probing = async {
        while !store.is_known() && !store.probe().await {
            sleep(PROBE_AGAIN).await;
        }
    };
    tokio::join!(probing, async {
        if !store.endpoint.is_literal() {
            keep_resolved(&store.endpoint, &quiet, if is_resolved { RESOLVE_EVERY } else { RESOLVE_AGAIN }).await;
        }
    });
}

/// Looks a name up for ever, the first time after `wait`.
async fn keep_resolved(endpoint: &Endpoint, quiet: &Quiet, mut wait: Duration) {
    loop {
        sleep(wait).await;
        wait = if resolve(endpoint, quiet).await { RESOLVE_EVERY } else { RESOLVE_AGAIN };
    }
}

/// Looks a name up. A name that no longer resolves keeps the address that it had.
async fn resolve(endpoint: &Endpoint, quiet: &Quiet) -> bool {
    let name = &endpoint.name;
    let found = match tokio::net::lookup_host((name.host.as_str(), name.port)).await {
        Ok(addresses) => addresses.collect::<Vec<SocketAddr>>(),
        Err(error) => {
            if quiet.is_over(Instant::now().into_std()) {
                warn!("{name} cannot be resolved: {error}");
            }
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
