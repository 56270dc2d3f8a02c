//! Assembly: from a config to running listeners, from one config to the next, and the ways to stop.

mod activation;
mod handover;
mod listeners;
mod notify;
mod reload;
mod successor;
mod upgrade;
mod watch;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use log::{info, warn};
use pingora::apps::http_app::HttpServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch as watched;
use tokio::task::JoinSet;

use crate::access_log::AccessLog;
use crate::acme::Acme;
use crate::admin::{Admin, Order, Reloads};
use crate::chain::{Chain, unix_now};
use crate::config::{Config, Mode};
use crate::edge::{self, Edge, Ends, Http, Limits};
use crate::keep;
use crate::metrics::Metrics;
use crate::probe;
use crate::snapshot::Snapshot;
use crate::traces::Traces;
use crate::units::Scalar;
use crate::via::Identity;
use handover::{Received, Reply, Socket, State, Word};
use listeners::{Listeners, listen};

/// A process's worth of hopfall, bound and serving.
pub struct Server {
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    /// What is served from now.
    running: Arc<ArcSwap<Chain>>,
    listeners: Listeners,
    acme: Acme,
    admin: Option<AdminListener>,
    /// What runs beside the requests; dropped and begun anew with each config.
    probes: JoinSet<()>,
    /// Where the config came from, to be read again.
    file: Option<PathBuf>,
    /// What is started at an upgrade.
    program: Option<PathBuf>,
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
    socket: Weak<TcpListener>,
    edge: Arc<Edge>,
    accepting: JoinSet<()>,
}

impl AdminListener {
    /// Accepts no more, and waits until the last answer has gone out.
    async fn close(mut self) {
        self.accepting.shutdown().await;
        self.edge.drained().await;
    }
}

/// What a process takes over from the one before it, or from the service manager.
#[derive(Default)]
pub struct Handed {
    sockets: Vec<Socket>,
    state: Option<State>,
    location: Vec<u8>,
    reply: Option<Reply>,
    /// Where this program was when it was started: what a package manager has put there since is the next one.
    program: Option<PathBuf>,
}

impl Handed {
    /// To be called before any thread is started. `None`: this process has only started another, and is to end.
    ///
    /// # Errors
    /// When something is announced and does not come.
    pub fn receive() -> anyhow::Result<Option<Handed>> {
        if successor::go_between()? {
            return Ok(None);
        }
        let handed = match handover::receive()? {
            Some(Received { state, sockets, location, reply }) => {
                Handed { sockets, state: Some(state), location, reply: Some(reply), program: None }
            }
            None => Handed { sockets: activation::sockets()?, ..Handed::default() },
        };
        Ok(Some(Handed { program: successor::program().ok(), ..handed }))
    }

    /// Tells the process before this one why it has to go on.
    pub fn failed(self, why: &str) {
        if let Some(reply) = self.reply {
            reply.say(&Word::Failed(why.to_owned()));
        }
    }
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
    /// Start the program anew, and hand over to it.
    Upgrade,
    /// Open the access log's file again. (Messages have their own.)
    ReopenLogs,
}

impl Server {
    /// Builds everything that `config` names, binds its addresses, and begins to serve. `file` is where the config came
    /// from, to be read again at a reload.
    ///
    /// # Errors
    /// When an address is taken, a certificate is unusable, or the access log cannot be opened.
    pub async fn start(config: Config, file: Option<PathBuf>, handed: Handed) -> anyhow::Result<Self> {
        let Handed { mut sockets, state, location, reply, program } = handed;
        match Server::start_with(config, file, &mut sockets, state.as_ref(), &location).await {
            Ok(mut server) => {
                server.program = program;
                for unused in sockets {
                    warn!("the socket of {} was handed over, and no listener of the config is for it", unused.address);
                }
                match reply {
                    Some(reply) => {
                        reply.say(&Word::Serves);
                        handover::close_stdin();
                    }
                    // Else the service is ready already, and this process is not yet the one that may speak for it.
                    None => notify::ready(),
                }
                notify::keep_alive(&mut server.watching);
                Ok(server)
            }
            Err(error) => {
                if let Some(reply) = reply {
                    reply.say(&Word::Failed(format!("{error:#}")));
                }
                Err(error)
            }
        }
    }

    async fn start_with(
        config: Config,
        file: Option<PathBuf>,
        handed: &mut Vec<Socket>,
        state: Option<&State>,
        location: &[u8],
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new()?);
        let access_log = Arc::new(AccessLog::open(&config.log, metrics.log_dropped.clone())?);
        let mut acme = Acme::new(&metrics);
        let mut listeners = Listeners::new(config.log.clients, acme.issued().clone(), metrics.clone());
        let prepared = listeners.prepare(&config, handed)?;
        let admin = match config.admin.as_ref().map(|admin| admin.address) {
            Some(address) => Some((address, listen("", address, handed).context("the admin listener")?)),
            None => None,
        };
        acme.follow(&config);
        let patience = config.shutdown_timeout;
        let identity = identity(&config, state);
        let traces = traces(&config, &metrics, None)?;
        let chain = Arc::new(chain(config, identity, &metrics, None, location, traces));
        if let Some(state) = state {
            take_over(&chain, state);
        }
        listeners.serve(prepared, &chain, &access_log, patience);
        let probes = probe::start(&chain);
        let (order, orders) = mpsc::channel(ORDERS);
        let mut server = Server {
            metrics,
            access_log,
            running: Arc::new(ArcSwap::new(chain)),
            listeners,
            acme,
            admin: None,
            probes,
            file,
            program: None,
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

    fn serve_admin(&self, wanted: SocketAddr, socket: TcpListener) -> anyhow::Result<AdminListener> {
        let address = socket.local_addr()?;
        info!("admin listens on {address}");
        let (running, stopping) = (self.running.clone(), self.stopping.subscribe());
        let admin = Admin::new(running, stopping, self.order.clone(), self.reloads.clone(), address);
        let sampling = admin.sampling();
        let http = Http::new("admin", HttpServer::new_app(admin), None, ADMIN_LIMITS, &self.metrics);
        let edge = Arc::new(Edge::new("admin", http, ADMIN_CONNECTIONS, &self.metrics));
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let mut accepting = JoinSet::new();
        accepting.spawn(sampling);
        let serving = edge.clone();
        accepting.spawn(async move {
            // The admin listener goes on while requests drain, to tell that they do.
            let (_edge, edges) = watched::channel(serving);
            let never = watched::Sender::new(false);
            edge::accept(socket, edges, Ends { leaving: never.subscribe(), stopping: never.subscribe() }).await;
        });
        Ok(AdminListener { wanted, address, socket: weak, edge, accepting })
    }

    /// Serves until `told` says how to stop. While draining, a second word from `told` ends it at once.
    pub async fn run(self, mut told: impl AsyncFnMut() -> Told) {
        // What is waited for here is never begun anew, whatever is waited for beside it.
        let (say, mut hear) = mpsc::channel(1);
        let saying = async {
            while let Ok(place) = say.reserve().await {
                place.send(told().await);
            }
        };
        tokio::select! {
            biased;
            () = self.serve(async || hear.recv().await.unwrap_or(Told::StopNow)) => {}
            () = saying => {}
        }
    }

    async fn serve(mut self, mut told: impl AsyncFnMut() -> Told) {
        // What was told while something else was done.
        let mut waiting = VecDeque::new();
        loop {
            let word = match waiting.pop_front() {
                Some(word) => word,
                None => tokio::select! {
                    word = told() => word,
                    Some(order) = self.orders.recv() => match self.obey(order, &mut told, &mut waiting).await {
                        Left::Yes => return self.leave(told).await,
                        Left::No => continue,
                    }
                },
            };
            match word {
                Told::Drain => break,
                Told::StopNow => {
                    info!("stopping at once");
                    return self.end();
                }
                Told::Reload => drop(self.reload().await),
                Told::Upgrade => {
                    if self.upgrade(&mut told, &mut waiting).await.is_ok() {
                        return self.leave(told).await;
                    }
                }
                Told::ReopenLogs => self.access_log.reopen(),
            }
        }
        let patience = self.running.load().snapshot.config.shutdown_timeout;
        info!("draining: no new connections, requests under way have {patience:?}");
        notify::stopping();
        self.stopping.send_replace(true);
        self.listeners.stop();
        tokio::select! {
            () = self.listeners.drained() => info!("drained"),
            () = tokio::time::sleep(patience) => warn!("requests were still under way after {patience:?}"),
            () = self.told_to_stop(&mut told) => warn!("asked again: stopping at once"),
        }
        self.end();
    }

    /// Waits for a word that ends a drain.
    async fn told_to_stop(&self, told: &mut impl AsyncFnMut() -> Told) {
        loop {
            match told().await {
                Told::Drain | Told::StopNow => return,
                Told::Reload | Told::Upgrade => {}
                Told::ReopenLogs => self.access_log.reopen(),
            }
        }
    }

    /// What is told meanwhile goes to those `waiting`.
    async fn obey(&mut self, order: Order, told: &mut impl AsyncFnMut() -> Told, waiting: &mut VecDeque<Told>) -> Left {
        let (done, left, reply) = match order {
            Order::Reload(reply) => (self.reload().await, Left::No, reply),
            Order::Upgrade(reply) => {
                let done = self.upgrade(told, waiting).await;
                let left = if done.is_ok() { Left::Yes } else { Left::No };
                (done, left, reply)
            }
        };
        // Who asked may have gone.
        let _ = reply.send(done);
        left
    }

    /// Lets go of what was told of requests.
    fn flush(&self) {
        self.access_log.flush(LOG_PATIENCE);
        if let Some(traces) = &self.running.load().traces {
            traces.flush(TRACES_PATIENCE);
        }
    }

    fn end(&self) {
        keep::save(&self.running.load());
        self.flush();
    }
}

/// Whether another process has taken over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Yes,
    No,
}

/// Who this process is to other proxies: what the config says, else what the process before was, else by chance.
fn identity(config: &Config, state: Option<&State>) -> Identity {
    // Another version need not have said either.
    let before = state.map(|state| state.name.clone()).filter(|name| !name.is_empty());
    let named = config.identity.name.clone().or(before);
    let name = named.unwrap_or_else(|| format!("hopfall-{:08x}", rand::random::<u32>()));
    match (&config.identity.mark_key, state.filter(|state| !state.key.is_empty())) {
        (Some(key), _) => Identity::new(&name, key.expose().as_bytes()),
        (None, Some(state)) => Identity::new(&name, &state.key),
        (None, None) => Identity::new(&name, &rand::random::<[u8; 32]>()),
    }
}

/// Takes in what the process before knew.
fn take_over(chain: &Chain, state: &State) {
    let snapshot = &chain.snapshot;
    for [pool, node, mode] in &state.modes {
        let pool = snapshot.pools.iter().find(|own| own.name() == pool);
        let node = pool.and_then(|pool| pool.nodes.iter().find(|own| own.name == *node));
        if let (Some(node), Ok(mode)) = (node, Mode::parse(mode)) {
            node.set_mode(mode);
        }
    }
    for (name, spent) in &state.spent {
        if let Some(store) = chain.stores.values().find(|store| store.s3.config.name == *name) {
            store.s3.spent_elsewhere(*spent);
        }
    }
}

/// All that requests are served from under `config`, with what `before` knows; else with the location map that was handed
/// over, or that is in a file.
fn chain(
    config: Config,
    identity: Identity,
    metrics: &Arc<Metrics>,
    before: Option<&Chain>,
    handed_map: &[u8],
    traces: Option<Arc<Traces>>,
) -> Chain {
    let known = before.map(|before| before.snapshot.as_ref());
    let mut snapshot = Snapshot::new(config, identity, metrics, known, unix_now());
    let targets = snapshot.config.target_names();
    let file = snapshot.config.location.as_ref().and_then(|location| location.file.clone());
    // Nobody else has it yet, unless it is the one from before.
    if let Some(map) = snapshot.location.as_mut().and_then(Arc::get_mut)
        && known.is_none_or(|known| known.location.is_none())
    {
        match (handed_map, file) {
            ([], Some(file)) => keep::restore(map, &file, &targets),
            ([], None) => {}
            (handed, _) => keep::take_over(map, handed, &targets),
        }
    }
    let mut chain = Chain::new(Arc::new(snapshot), metrics.clone(), before);
    chain.traces = traces;
    chain
}

/// Where requests are traced to under `config`: as before, if that has not changed.
fn traces(config: &Config, metrics: &Metrics, before: Option<&Chain>) -> anyhow::Result<Option<Arc<Traces>>> {
    let Some(wanted) = &config.tracing else { return Ok(None) };
    let before = before.and_then(|before| before.traces.clone()).filter(|before| before.config() == wanted);
    before.map_or_else(|| Traces::start(wanted, metrics), Ok).map(Some)
}

/// Orders that may wait for the one before.
const ORDERS: usize = 16;
/// How long the end of the process waits for the access log's disk.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// And for the collector of traces.
const TRACES_PATIENCE: Duration = Duration::from_secs(1);
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_LIMITS: Limits = Limits {
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(60),
    stall_timeout: Duration::from_secs(30),
    head_bytes: 64 * 1024,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    #[test]
    fn who_is_not_told_who_it_was_is_somebody_all_the_same() {
        let yaml = "listeners: [{ name: w, address: \"127.0.0.1:0\", route: r }]\n\
                    pools: { p: { nodes: [{ name: n, address: \"127.0.0.1:1\" }] } }\nroutes: { r: { chain: [p] } }\n";
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = Config::parse("test", yaml, &surroundings).unwrap();
        let told = State { name: "a".into(), key: vec![1], ..State::default() };
        let known = identity(&config, Some(&told));
        assert_eq!((known.name(), known.key()), ("a", &[1][..]));
        let fresh = identity(&config, Some(&State::default()));
        assert!(fresh.name().starts_with("hopfall-"), "{}", fresh.name());
        assert_eq!(fresh.key().len(), 32);
    }
}
