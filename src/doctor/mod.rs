//! `hopfall check --online`: the config held against the world. Names, nodes, buckets, certificates, ports, disks, limits;
//! each finding says what is so, and how to fix it.
//!
//! It opens no disk, listens on nothing and writes nothing, so that a hopfall that runs beside it does not feel it. What it
//! asks, it asks with what requests are made of: the same connections, checks and signatures.

mod bucket;
mod certificate;
mod collector;
mod machine;
mod node;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::explain::printable;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::via::Identity;

/// What was found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    pub errors: usize,
    pub warnings: usize,
    /// In the config's order.
    pub findings: Vec<Finding>,
}

/// One thing that is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    pub level: Level,
    /// What it is about: `listener web`, `node images/taiga`, `store s3`, `machine` …
    pub about: String,
    pub what: String,
    /// How to fix it; null if nothing is wrong.
    pub fix: Option<String>,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// It works, and not as well as it could.
    Warn,
    /// It will not work as the config means it.
    Error,
}

impl Finding {
    fn ok(about: &str, what: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, about: about.to_owned(), what: what.into(), fix: None }
    }

    fn warn(about: &str, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { level: Level::Warn, about: about.to_owned(), what: what.into(), fix: Some(fix.into()) }
    }

    fn error(about: &str, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { level: Level::Error, ..Finding::warn(about, what, fix) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        write!(f, "{level:<5}  {}: {}", printable(&self.about), printable(&self.what))?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "; fix: {}", printable(fix)))
    }
}

impl fmt::Display for Report {
    /// One line a finding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl Report {
    /// `2 errors, 1 warning`
    pub fn sum(&self) -> String {
        let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        match (self.errors, self.warnings) {
            (0, 0) => "all is well".to_owned(),
            (errors, warnings) => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
        }
    }
}

type Examination = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// Examines everything that `config` names, all at once, within `patience`.
///
/// # Errors
/// When the metrics cannot be made.
pub async fn examine(config: Arc<Config>, patience: Duration) -> anyhow::Result<Report> {
    let end = Instant::now() + patience;
    let metrics = Arc::new(Metrics::new()?);
    // Pools and nodes as requests know them; it has no disks and no map that anybody else sees.
    let mut apart = Config::clone(&config);
    apart.location = None;
    // Not the name of one that runs: what comes back to it is no loop of its own.
    let identity = Identity::new(&format!("hopfall-check-{:08x}", rand::random::<u32>()), &rand::random::<[u8; 32]>());
    let snapshot = Arc::new(Snapshot::new(apart, identity, &metrics, None, 0));
    let mut all: Vec<(String, Examination)> = vec![("machine".to_owned(), Box::pin(machine::limits(config.clone())))];
    for i in 0..config.listeners.len() {
        let name = format!("listener {}", config.listeners[i].name);
        all.push((name.clone(), Box::pin(machine::port(config.clone(), name, config.listeners[i].address))));
    }
    if let Some(admin) = config.admin.as_ref().map(|admin| admin.address) {
        all.push(("admin".to_owned(), Box::pin(machine::port(config.clone(), "admin".to_owned(), admin))));
    }
    for listener in config.listeners.iter().filter(|listener| listener.tls.is_some()) {
        let (listener, metrics) = (listener.clone(), metrics.clone());
        let name = format!("listener {}", listener.name);
        all.push((name.clone(), blocking(move || certificate::examine(&name, &listener, &metrics))));
    }
    for (i, pool) in config.pools.iter().enumerate() {
        for j in 0..pool.nodes.len() {
            let name = format!("node {}/{}", pool.name, pool.nodes[j].name);
            all.push((name.clone(), Box::pin(node::examine(snapshot.clone(), name, i, j))));
        }
    }
    for store in &config.stores {
        let name = format!("store {}", store.name);
        let (identity, metrics) = (snapshot.identity.clone(), metrics.clone());
        all.push((name.clone(), Box::pin(bucket::examine(name.clone(), store.clone(), identity, metrics))));
        if let Some(disk) = store.disk.clone() {
            all.push((name.clone(), blocking(move || machine::disk(&name, &disk.settings))));
        }
    }
    if let Some(tracing) = &config.tracing {
        let name = "tracing".to_owned();
        all.push((name.clone(), Box::pin(collector::examine(name, tracing.endpoint.clone()))));
    }
    all.push(("files".to_owned(), {
        let config = config.clone();
        blocking(move || machine::paths(&config))
    }));

    let mut found: Vec<Option<Vec<Finding>>> = vec![None; all.len()];
    let mut running = JoinSet::new();
    let mut names = Vec::new();
    for (i, (name, examination)) in all.into_iter().enumerate() {
        names.push(name);
        running.spawn(async move { (i, examination.await) });
    }
    while let Ok(Some(done)) = timeout_at(end, running.join_next()).await {
        if let Ok((i, findings)) = done {
            found[i] = Some(findings);
        }
    }
    let late = |name: &String| {
        let what = format!("not done within {}", humantime::format_duration(patience));
        vec![Finding::error(name, what, "see what keeps it waiting, or raise --timeout")]
    };
    let findings: Vec<Finding> =
        found.into_iter().zip(&names).flat_map(|(found, name)| found.unwrap_or_else(|| late(name))).collect();
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    Ok(Report { errors: count(Level::Error), warnings: count(Level::Warn), findings })
}

/// What reads files, beside the rest.
fn blocking(work: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Examination {
    Box::pin(async move { tokio::task::spawn_blocking(work).await.unwrap_or_default() })
}
