//! Assembly: from a config to running listeners, and the two ways to stop them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use log::{info, warn};
use pingora::apps::HttpServerOptions;
use pingora::apps::http_app::HttpServer;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::chain::Chain;
use crate::config::{Config, Listener, Protocol, Serves};
use crate::edge::{Edge, Http, Limits};
use crate::keep;
use crate::metrics::Metrics;
use crate::probe;
use crate::proxy::Front;
use crate::snapshot::Snapshot;
use crate::tcp::{Pipes, Tcp};
use crate::tls::{self, Certificates};

/// A process's worth of hopfall, bound and not yet serving.
pub struct Server {
    chain: Arc<Chain>,
    access_log: Arc<AccessLog>,
    listeners: Vec<(TcpListener, Arc<Edge>)>,
    certificates: Vec<Arc<Certificates>>,
    admin: Option<(TcpListener, Arc<Edge>)>,
    stop: watch::Sender<bool>,
    shutdown_timeout: Duration,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Accept no more, and let requests under way end, within `shutdown_timeout`.
    Drain,
    /// At once.
    Now,
}

impl Server {
    /// Builds everything that `config` names and binds its addresses.
    ///
    /// # Errors
    /// When an address is taken, a certificate is unusable, or the access log cannot be opened.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new()?);
        let log = AccessLog::open(config.access_format, config.access_path.as_deref(), metrics.log_dropped.clone())?;
        let access_log = Arc::new(log);
        let (stop, stopping) = watch::channel(false);
        let shutdown_timeout = config.shutdown_timeout;
        let mut snapshot = Snapshot::new(config, &metrics);
        let targets = snapshot.target_names();
        let file = snapshot.config.location.as_ref().and_then(|location| location.file.clone());
        if let (Some(map), Some(file)) = (&mut snapshot.location, file) {
            keep::restore(map, &file, &targets);
        }
        let snapshot = Arc::new(snapshot);
        let chain = Arc::new(Chain::new(snapshot.clone(), metrics.clone()));

        let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
        let pipes = Arc::new(Pipes::new());
        for listener in &snapshot.config.listeners {
            let socket = listen(listener.address).await.with_context(|| format!("listener `{}`", listener.name))?;
            let tls = match &listener.tls {
                Some(tls) if listener.protocol == Protocol::Https => {
                    let read = Certificates::read(&listener.name, tls, &metrics);
                    let read = read.with_context(|| format!("listener `{}`", listener.name))?;
                    certificates.push(read.clone());
                    Some(tls::acceptor(read, tls.profile, listener.http2)?)
                }
                _ => None,
            };
            let name = listener.name.as_str();
            let limits = Limits {
                header_timeout: listener.header_timeout,
                idle_timeout: listener.idle_timeout,
                stall_timeout: listener.stall_timeout,
                head_bytes: listener.head.head_bytes + HEAD_SLACK,
            };
            let places = listener.max_connections;
            let edge = match &listener.serves {
                Serves::Routes(routes) => {
                    let (chain, access_log) = (chain.clone(), access_log.clone());
                    let front = Front::new(chain, access_log, listener.clone(), routes.clone());
                    let http = Http::new(name, proxy(front, listener), tls, limits, &metrics);
                    Edge::new(name, http, places, &metrics)
                }
                Serves::Pool(pool) => {
                    let tcp = Tcp::new(listener, *pool, pipes.clone(), snapshot.clone(), metrics.clone());
                    Edge::new(name, tcp, places, &metrics)
                }
            };
            let edge = edge.behind(listener.proxies.clone(), listener.header_timeout);
            listeners.push((socket, Arc::new(edge)));
        }
        let admin = match snapshot.config.admin {
            Some(address) => {
                let socket = listen(address).await.context("the admin listener")?;
                let app = HttpServer::new_app(Admin { chain: chain.clone(), stopping });
                let http = Http::new("admin", app, None, ADMIN_LIMITS, &metrics);
                Some((socket, Arc::new(Edge::new("admin", http, ADMIN_CONNECTIONS, &metrics))))
            }
            None => None,
        };
        metrics.config_reloads.with_label_values(&["success"]).inc();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.config_loaded.set(now.as_secs_f64());
        Ok(Server { chain, access_log, listeners, certificates, admin, stop, shutdown_timeout })
    }

    /// The bound address of each listener, in the config's order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(socket, _)| socket.local_addr().ok()).collect()
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|(socket, _)| socket.local_addr().ok())
    }

    /// Serves until `asked` says how to stop. While draining, a second word from `asked` ends it at once.
    pub async fn run(self, mut asked: impl AsyncFnMut() -> Stop) {
        let mut accepting = JoinSet::new();
        let mut edges = Vec::new();
        for (socket, edge) in self.listeners {
            if let Ok(address) = socket.local_addr() {
                info!("{} listens on {address}", edge.name);
            }
            edges.push(edge.clone());
            accepting.spawn(edge.accept(socket, self.stop.subscribe()));
        }
        // The admin listener goes on while requests drain, to tell that they do.
        let _admin = self.admin.map(|(socket, edge)| {
            if let Ok(address) = socket.local_addr() {
                info!("admin listens on {address}");
            }
            let (keep, never) = watch::channel(false);
            (keep, tokio::spawn(edge.accept(socket, never)))
        });
        let _probes = probe::start(&self.chain);
        let mut looking = JoinSet::new();
        for certificates in self.certificates {
            looking.spawn(certificates.keep_fresh());
        }

        if asked().await == Stop::Now {
            info!("stopping at once");
            keep::save(&self.chain);
            self.access_log.flush(LOG_PATIENCE);
            return;
        }
        info!("draining: no new connections, requests under way have {:?}", self.shutdown_timeout);
        // Receivers may all be gone already, which is what is wanted.
        let _ = self.stop.send(true);
        let drained = async {
            while accepting.join_next().await.is_some() {}
            for edge in &edges {
                edge.drained().await;
            }
        };
        tokio::select! {
            () = drained => info!("drained"),
            () = tokio::time::sleep(self.shutdown_timeout) => warn!("requests were still under way after {:?}", self.shutdown_timeout),
            _ = asked() => warn!("asked again: stopping at once"),
        }
        keep::save(&self.chain);
        self.access_log.flush(LOG_PATIENCE);
    }
}

fn proxy(front: Front, listener: &Listener) -> HttpProxy<Front> {
    // `max_retries` counts attempts on the native path; the plan ends them, so this need not.
    let conf = ServerConf { max_retries: MAX_ATTEMPTS, ..ServerConf::default() };
    let mut proxy = http_proxy(&Arc::new(conf), front);
    let mut options = HttpServerOptions::default();
    options.h2c = listener.http2 && listener.protocol == Protocol::Http;
    options.keepalive_request_limit = Some(listener.requests_per_connection);
    options.h2_idle_timeout = Some(listener.idle_timeout);
    proxy.server_options = Some(options);
    let mut h2 = pingora::protocols::http::v2::server::default_h2_options();
    h2.max_concurrent_streams(listener.max_streams);
    h2.max_header_list_size(u32::try_from(listener.head.head_bytes).unwrap_or(u32::MAX));
    proxy.h2_options = Some(h2);
    proxy
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address}"))?;
    Ok(socket.listen(BACKLOG)?)
}

/// How long the end of the process waits for the access log's disk.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// Room above the largest head, so that one too large is answered with 431 before it is cut.
const HEAD_SLACK: usize = 64 * 1024;
/// Connections that the kernel holds for us before it refuses more.
const BACKLOG: u32 = 4096;
const MAX_ATTEMPTS: usize = 100_000;
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_LIMITS: Limits = Limits {
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(60),
    stall_timeout: Duration::from_secs(30),
    head_bytes: 64 * 1024,
};
