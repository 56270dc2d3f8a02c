//! The listeners that run: their sockets outlive the configs that name them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
use log::info;
use pingora::apps::HttpServerOptions;
use pingora::listeners::tls::Acceptor;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::handover::{Socket, is_same_place};
use crate::access_log::AccessLog;
use crate::admission::Admission;
use crate::chain::Chain;
use crate::config::{Clients, Config, Listener, Protocol, Serves, Tls};
use crate::edge::{self, Edge, Ends, Http, Limits};
use crate::metrics::Metrics;
use crate::proxy::{self, Front};
use crate::tcp::{self, Pipes, Tcp};
use crate::tls::{self, Certificates, Issued};

/// All of them, in the config's order.
pub struct Listeners {
    running: Vec<Running>,
    /// Those that carry connections and accept no more.
    retired: Vec<Weak<Edge>>,
    /// Of listeners that are gone, while their connections are not.
    ending: Vec<Ending>,
    pipes: Arc<Pipes>,
    clients: Clients,
    issued: Arc<Issued>,
    metrics: Arc<Metrics>,
    tasks: JoinSet<()>,
}

/// One listener that accepts.
struct Running {
    config: Listener,
    address: SocketAddr,
    /// Closed when nobody accepts any more.
    socket: Weak<TcpListener>,
    site: Site,
    /// Which connections are taken.
    admission: Arc<ArcSwapOption<Admission>>,
    edge: watch::Sender<Arc<Edge>>,
    certificates: Option<KeptFresh>,
    ends: Ending,
}

/// What a listener's connections are served from.
#[derive(Clone)]
enum Site {
    Http(Arc<ArcSwap<proxy::Site>>),
    Tcp(Arc<ArcSwap<tcp::Site>>),
}

struct KeptFresh {
    certificates: Arc<Certificates>,
    task: AbortHandle,
}

impl Drop for KeptFresh {
    fn drop(&mut self) {
        self.task.abort();
        self.certificates.hide();
    }
}

/// The two words that end a listener's connections.
#[derive(Clone)]
struct Ending {
    leaving: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
}

impl Ending {
    fn new() -> Self {
        Ending { leaving: watch::Sender::new(false), stopping: watch::Sender::new(false) }
    }

    fn leave(&self) {
        self.leaving.send_replace(true);
    }

    fn stop(&self) {
        self.leave();
        self.stopping.send_replace(true);
    }

    fn ends(&self) -> Ends {
        Ends { leaving: self.leaving.subscribe(), stopping: self.stopping.subscribe() }
    }
}

/// What one listener of a new config takes, besides what is there: all that can fail.
pub struct Prepared {
    listener: Listener,
    /// `None`: one that runs has it.
    socket: Option<(TcpListener, SocketAddr)>,
    /// Read anew. `None`: there are none, or they are as they were.
    certificates: Option<Arc<Certificates>>,
    /// The listener that runs carries its connections as this one would.
    same_edge: bool,
    /// For a new edge.
    acceptor: Option<Acceptor>,
}

impl Listeners {
    /// `clients` is how messages name them; `issued` are the certificates that a CA gives.
    pub fn new(clients: Clients, issued: Arc<Issued>, metrics: Arc<Metrics>) -> Self {
        let pipes = Arc::new(Pipes::new());
        Listeners {
            running: Vec::new(),
            retired: Vec::new(),
            ending: Vec::new(),
            pipes,
            clients,
            issued,
            metrics,
            tasks: JoinSet::new(),
        }
    }

    /// The bound address of each, in the config's order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.running.iter().map(|running| running.address).collect()
    }

    /// Binds and reads what `config` needs that is not there; sockets that were `handed` over are taken first. Nothing that
    /// runs is touched.
    ///
    /// # Errors
    /// When an address is taken, or a certificate is unusable.
    pub fn prepare(&self, config: &Config, handed: &mut Vec<Socket>) -> anyhow::Result<Vec<Prepared>> {
        let mut prepared = Vec::new();
        for listener in &config.listeners {
            let known = self.running.iter().find(|running| is_same_place(place(&running.config), place(listener)));
            let name = || format!("listener `{}`", listener.name);
            let socket = match known {
                Some(_) => None,
                None => {
                    let socket = listen(&listener.name, listener.address, handed).with_context(name)?;
                    let address = socket.local_addr().with_context(name)?;
                    Some((socket, address))
                }
            };
            let wanted = listener.tls.as_ref().filter(|_| listener.protocol == Protocol::Https);
            let has = |tls: &Tls| known.is_some_and(|known| known.certificates.is_some() && known.has_files_of(tls));
            let certificates = match wanted {
                Some(tls) if !has(tls) => {
                    Some(Certificates::read(&listener.name, tls, &self.issued, &self.metrics).with_context(name)?)
                }
                _ => None,
            };
            let same_edge = certificates.is_none() && known.is_some_and(|known| has_same_edge(&known.config, listener));
            let had = || Some(known?.certificates.as_ref()?.certificates.clone());
            let acceptor = match (wanted, certificates.clone().or_else(had)) {
                (Some(tls), Some(from)) if !same_edge => {
                    Some(tls::acceptor(from, tls.profile, listener.http2).with_context(name)?)
                }
                _ => None,
            };
            prepared.push(Prepared { listener: listener.clone(), socket, certificates, same_edge, acceptor });
        }
        Ok(prepared)
    }

    /// Serves by `chain` from here on. Listeners that are not in its config accept no more; their requests under way may
    /// end within `patience`.
    pub fn serve(
        &mut self,
        prepared: Vec<Prepared>,
        chain: &Arc<Chain>,
        access_log: &Arc<AccessLog>,
        patience: Duration,
    ) {
        let mut before = std::mem::take(&mut self.running);
        for Prepared { listener, socket, certificates, same_edge, acceptor } in prepared {
            let known = before.iter().position(|running| is_same_place(place(&running.config), place(&listener)));
            let known = known.map(|place| before.remove(place));
            let certificates = certificates.map(|certificates| {
                let task = self.tasks.spawn(certificates.clone().keep_fresh());
                KeptFresh { certificates, task }
            });
            let running = match (known, socket) {
                (Some(running), _) => {
                    let running = self.change(running, listener, certificates, chain, access_log);
                    if !same_edge {
                        let made = self.edge(&running.config, &running.site, &running.admission, acceptor);
                        let before = running.edge.send_replace(Arc::new(made));
                        self.retired.push(Arc::downgrade(&before));
                    }
                    running
                }
                (None, Some(socket)) => self.start(listener, socket, certificates, acceptor, chain, access_log),
                // invariant: `prepare` has bound what nobody had
                (None, None) => continue,
            };
            self.running.push(running);
        }
        for gone in before {
            info!("{} listens no more on {}", gone.config.name, gone.address);
            self.retired.push(Arc::downgrade(&gone.edge.borrow()));
            gone.ends.leave();
            let ends = gone.ends.clone();
            self.ending.push(gone.ends);
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                ends.stop();
            });
        }
        // After those that they replace are gone, of a listener that has moved too: both may be for one name.
        self.running.iter().filter_map(|now| now.certificates.as_ref()).for_each(|kept| kept.certificates.show());
        self.retired.retain(|edge| edge.strong_count() > 0);
        self.ending.retain(|ends| !*ends.stopping.borrow());
    }

    fn start(
        &mut self,
        listener: Listener,
        (socket, address): (TcpListener, SocketAddr),
        certificates: Option<KeptFresh>,
        acceptor: Option<Acceptor>,
        chain: &Arc<Chain>,
        access_log: &Arc<AccessLog>,
    ) -> Running {
        info!("{} listens on {address}", listener.name);
        let site = Site::new(&listener, chain, access_log);
        let admission = Arc::new(ArcSwapOption::empty());
        self.admit(&admission, &listener, chain);
        let made = self.edge(&listener, &site, &admission, acceptor);
        let (edge, edges) = watch::channel(Arc::new(made));
        let ends = Ending::new();
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        self.tasks.spawn(edge::accept(socket, edges, ends.ends()));
        Running { config: listener, address, socket: weak, site, admission, edge, certificates, ends }
    }

    /// Takes connections from here on as the listener's throttle says.
    fn admit(&self, admission: &ArcSwapOption<Admission>, listener: &Listener, chain: &Chain) {
        let before = admission.load_full();
        let now = Admission::of_connections(listener, &chain.snapshot, &self.metrics, before.as_deref());
        admission.store(now.map(Arc::new));
    }

    /// The listener that runs, with another config. Its edge is as it was.
    fn change(
        &self,
        running: Running,
        listener: Listener,
        certificates: Option<KeptFresh>,
        chain: &Arc<Chain>,
        access_log: &Arc<AccessLog>,
    ) -> Running {
        self.admit(&running.admission, &listener, chain);
        let site = running.site.changed(&listener, chain, access_log);
        let certificates = certificates.or(running.certificates.filter(|_| listener.protocol == Protocol::Https));
        Running { config: listener, site, certificates, ..running }
    }

    fn edge(
        &self,
        listener: &Listener,
        site: &Site,
        admission: &Arc<ArcSwapOption<Admission>>,
        acceptor: Option<Acceptor>,
    ) -> Edge {
        let (name, places) = (listener.name.as_str(), listener.max_connections);
        let edge = match site {
            Site::Http(site) => {
                let limits = Limits {
                    header_timeout: listener.header_timeout,
                    idle_timeout: listener.idle_timeout,
                    stall_timeout: listener.stall_timeout,
                    head_bytes: listener.head.head_bytes + HEAD_SLACK,
                };
                let proxy = http_app(Front::new(site.clone()), listener);
                Edge::new(name, Http::new(name, proxy, acceptor, limits, &self.metrics), places, &self.metrics)
            }
            Site::Tcp(site) => {
                let tcp = Tcp::new(name, site.clone(), self.pipes.clone(), self.metrics.clone());
                Edge::new(name, tcp, places, &self.metrics)
            }
        };
        let edge = edge.behind(listener.proxies.clone(), listener.header_timeout).admitting(admission.clone());
        edge.telling(self.clients)
    }

    /// A handle of each socket that accepts, with the listener's name and its address in the config.
    ///
    /// # Errors
    /// When there can be no more open files.
    pub fn sockets(&self) -> std::io::Result<Vec<(String, SocketAddr, OwnedFd)>> {
        let accepting = self.running.iter().filter_map(|running| Some((running, running.socket.upgrade()?)));
        accepting
            .map(|(running, socket)| {
                let Listener { name, address, .. } = &running.config;
                Ok((name.clone(), *address, socket.as_fd().try_clone_to_owned()?))
            })
            .collect()
    }

    /// Accepts no more. What is asked on the connections that are there is still answered.
    pub fn leave(&self) {
        self.running.iter().for_each(|running| running.ends.leave());
    }

    /// Accepts no more, and sends away who only waits.
    pub fn stop(&self) {
        self.running.iter().map(|running| &running.ends).chain(&self.ending).for_each(Ending::stop);
    }

    /// Waits until the last connection has ended.
    pub async fn drained(&self) {
        for running in &self.running {
            let edge = running.edge.borrow().clone();
            edge.drained().await;
        }
        for edge in self.retired.iter().filter_map(Weak::upgrade) {
            edge.drained().await;
        }
    }
}

impl Running {
    fn has_files_of(&self, tls: &Tls) -> bool {
        let files = |tls: &Tls| (tls.certificates.clone(), tls.folder.clone(), tls.acme.clone());
        self.config.tls.as_ref().is_some_and(|own| files(own) == files(tls))
    }
}

impl Site {
    fn new(listener: &Listener, chain: &Arc<Chain>, access_log: &Arc<AccessLog>) -> Site {
        match &listener.serves {
            Serves::Routes(_) => {
                Site::Http(Arc::new(ArcSwap::from_pointee(of_http(listener, chain, access_log, None))))
            }
            Serves::Pool(pool) => {
                Site::Tcp(Arc::new(ArcSwap::from_pointee(of_tcp(listener, *pool, chain, access_log))))
            }
        }
    }

    /// The same place with new content, where the protocols agree: connections under way see it too.
    fn changed(self, listener: &Listener, chain: &Arc<Chain>, access_log: &Arc<AccessLog>) -> Site {
        match (&self, &listener.serves) {
            (Site::Http(site), Serves::Routes(_)) => {
                let before = site.load_full();
                site.store(Arc::new(of_http(listener, chain, access_log, Some(&before))));
            }
            (Site::Tcp(site), Serves::Pool(pool)) => {
                site.store(Arc::new(of_tcp(listener, *pool, chain, access_log)));
            }
            _ => return Site::new(listener, chain, access_log),
        }
        self
    }
}

fn of_http(
    listener: &Listener,
    chain: &Arc<Chain>,
    access_log: &Arc<AccessLog>,
    before: Option<&proxy::Site>,
) -> proxy::Site {
    proxy::Site::new(chain.clone(), access_log.clone(), listener.clone(), before)
}

fn of_tcp(listener: &Listener, pool: usize, chain: &Arc<Chain>, access_log: &Arc<AccessLog>) -> tcp::Site {
    let (snapshot, access_log) = (chain.snapshot.clone(), access_log.clone());
    tcp::Site { snapshot, pool, idle_timeout: listener.idle_timeout, access_log }
}

/// By what its socket is known.
fn place(listener: &Listener) -> (&str, SocketAddr) {
    (&listener.name, listener.address)
}

/// Whether connections are carried alike: all that is not asked of the listener's site.
fn has_same_edge(one: &Listener, other: &Listener) -> bool {
    let mut one = one.clone();
    one.serves = other.serves.clone();
    one.trusted = other.trusted.clone();
    one.throttle = other.throttle.clone();
    one.redirect_to_https = other.redirect_to_https;
    one.head.body_bytes = other.head.body_bytes;
    if let (Some(tls), Some(other)) = (&mut one.tls, &other.tls) {
        tls.hsts = other.hsts;
    }
    // A tcp listener's idle time is its site's.
    let tcp = one.protocol == Protocol::Tcp;
    one.idle_timeout = if tcp { other.idle_timeout } else { one.idle_timeout };
    one == *other
}

/// Pingora's application for one HTTP listener.
fn http_app(front: Front, listener: &Listener) -> HttpProxy<Front> {
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

/// A socket that clients can connect to: the one that was `handed` over for this listener, or a new one.
///
/// # Errors
/// When the address is taken, or is not this machine's.
pub fn listen(name: &str, address: SocketAddr, handed: &mut Vec<Socket>) -> anyhow::Result<TcpListener> {
    if let Some(socket) = Socket::take(handed, name, address) {
        socket.set_nonblocking(true)?;
        return Ok(TcpListener::from_std(socket)?);
    }
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    let bound = socket.bind(address);
    let both = bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse) && address.ip().is_unspecified();
    let hint = if both { " (`[::]` is for IPv4 too: there can be no `0.0.0.0` with the same port)" } else { "" };
    bound.with_context(|| format!("cannot bind {address}{hint}"))?;
    Ok(socket.listen(BACKLOG)?)
}

/// Room above the largest head, so that one too large is answered with 431 before it is cut.
const HEAD_SLACK: usize = 64 * 1024;
/// Connections that the kernel holds for us before it refuses more.
const BACKLOG: u32 = 4096;
const MAX_ATTEMPTS: usize = 100_000;
