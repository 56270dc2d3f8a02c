//! Assembly: from a config to running listeners, from one config to the next, and the ways to stop.

mod listeners;
mod reload;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use log::{info, warn};
use pingora::apps::http_app::HttpServer;
use tokio::sync::mpsc;
use tokio::sync::watch as watched;
use tokio::task::JoinSet;

use crate::access_log::AccessLog;
use crate::admin::{Admin, Order, Reloads};
use crate::chain::{Chain, unix_now};
use crate::config::Config;
use crate::edge::{self, Edge, Ends, Http, Limits};
use crate::keep;
use crate::metrics::Metrics;
use crate::probe;
use crate::snapshot::Snapshot;
use listeners::{Listeners, listen};

/// A process's worth of hopfall, bound and serving.
pub struct Server {
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    /// What is served from now.
    running: Arc<ArcSwap<Chain>>,
    listeners: Listeners,
    admin: Option<AdminListener>,
    /// What runs beside the requests; dropped and begun anew with each config.
    probes: JoinSet<()>,
    /// Where the config came from, to be read again.
    file: Option<PathBuf>,
    orders: mpsc::Receiver<Order>,
    order: mpsc::Sender<Order>,
    reloads: Arc<Reloads>,
    stopping: watched::Sender<bool>,
    watching: JoinSet<()>,
}

struct AdminListener {
    /// As the config has it.
    wanted: SocketAddr,
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

/// What a process is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Accept no more, and let requests under way end, within `shutdown_timeout`.
    Drain,
    /// Stop at once.
    StopNow,
    /// Read the config again.
    Reload,
}

impl Server {
    /// Builds everything that `config` names, binds its addresses, and begins to serve. `file` is where the config came
    /// from, to be read again at a reload.
    ///
    /// # Errors
    /// When an address is taken, a certificate is unusable, or the access log cannot be opened.
    pub async fn start(config: Config, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new()?);
        let log = AccessLog::open(config.access_format, config.access_path.as_deref(), metrics.log_dropped.clone())?;
        let access_log = Arc::new(log);
        let mut listeners = Listeners::new(metrics.clone());
        let prepared = listeners.prepare(&config).await?;
        let admin = match config.admin {
            Some(address) => Some((address, listen(address).await.context("the admin listener")?)),
            None => None,
        };
        let patience = config.shutdown_timeout;
        let chain = Arc::new(chain(config, &metrics, None));
        listeners.serve(prepared, &chain, &access_log, patience)?;
        let probes = probe::start(&chain);
        let (order, orders) = mpsc::channel(ORDERS);
        let mut server = Server {
            metrics,
            access_log,
            running: Arc::new(ArcSwap::new(chain)),
            listeners,
            admin: None,
            probes,
            file,
            orders,
            order,
            reloads: Arc::default(),
            stopping: watched::Sender::new(false),
            watching: JoinSet::new(),
        };
        server.admin = admin.map(|(wanted, socket)| server.serve_admin(wanted, socket)).transpose()?;
        server.loaded();
        Ok(server)
    }

    /// Reloads whenever the config file has changed.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn watch(&mut self) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            self.watching.spawn(watch::watch(file, self.order.clone())?);
        }
        Ok(())
    }

    /// The bound address of each listener, in the config's order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    fn serve_admin(&self, wanted: SocketAddr, socket: tokio::net::TcpListener) -> anyhow::Result<AdminListener> {
        let address = socket.local_addr()?;
        info!("admin listens on {address}");
        let app = HttpServer::new_app(Admin {
            running: self.running.clone(),
            stopping: self.stopping.subscribe(),
            orders: self.order.clone(),
            reloads: self.reloads.clone(),
        });
        let http = Http::new("admin", app, None, ADMIN_LIMITS, &self.metrics);
        let edge = Arc::new(Edge::new("admin", http, ADMIN_CONNECTIONS, &self.metrics));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            // The admin listener goes on while requests drain, to tell that they do.
            let (_edge, edges) = watched::channel(edge);
            let never = watched::Sender::new(false);
            edge::accept(socket, edges, Ends { leaving: never.subscribe(), stopping: never.subscribe() }).await;
        });
        Ok(AdminListener { wanted, address, _accepting: accepting })
    }

    /// Serves until `told` says how to stop. While draining, a second word from `told` ends it at once.
    pub async fn run(mut self, mut told: impl AsyncFnMut() -> Told) {
        loop {
            let word = {
                let mut word = pin!(told());
                loop {
                    tokio::select! {
                        word = &mut word => break word,
                        Some(order) = self.orders.recv() => self.obey(order).await,
                    }
                }
            };
            match word {
                Told::Drain => break,
                Told::StopNow => {
                    info!("stopping at once");
                    return self.end();
                }
                Told::Reload => drop(self.reload().await),
            }
        }
        let patience = self.running.load().snapshot.config.shutdown_timeout;
        info!("draining: no new connections, requests under way have {patience:?}");
        self.stopping.send_replace(true);
        self.listeners.stop();
        tokio::select! {
            () = self.listeners.drained() => info!("drained"),
            () = tokio::time::sleep(patience) => warn!("requests were still under way after {patience:?}"),
            () = async { while told().await == Told::Reload {} } => warn!("asked again: stopping at once"),
        }
        self.end();
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Reload(reply) => {
                let told = self.reload().await;
                // Who asked may have left.
                let _ = reply.send(told);
            }
        }
    }

    fn end(&self) {
        keep::save(&self.running.load());
        self.access_log.flush(LOG_PATIENCE);
    }
}

/// All that requests are served from under `config`, with what `before` knows.
fn chain(config: Config, metrics: &Arc<Metrics>, before: Option<&Chain>) -> Chain {
    let known = before.map(|before| before.snapshot.as_ref());
    let mut snapshot = Snapshot::new(config, metrics, known, unix_now());
    let targets = snapshot.config.target_names();
    let fresh = known.is_none_or(|known| known.location.is_none());
    let file = snapshot.config.location.as_ref().and_then(|location| location.file.clone());
    if let (true, Some(map), Some(file)) = (fresh, snapshot.location.as_mut().and_then(Arc::get_mut), file) {
        keep::restore(map, &file, &targets);
    }
    Chain::new(Arc::new(snapshot), metrics.clone(), before)
}

/// Orders that may wait for the one before.
const ORDERS: usize = 16;
/// How long the end of the process waits for the access log's disk.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_LIMITS: Limits = Limits {
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(60),
    stall_timeout: Duration::from_secs(30),
    head_bytes: 64 * 1024,
};
