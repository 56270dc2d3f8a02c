//! The configuration: what [`model`] wrote, with every default filled in and every name resolved.
//!
//! A [`Config`] cannot be wrong: nothing in it is checked again after [`Config::load`].

mod layout;
pub mod load;
mod logging;
pub mod model;
mod pem;
mod resolve;
mod schema;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::disk;
use crate::fallback::Plan;
use crate::freshness;
use crate::health::{Expected, Thresholds};
use crate::hedge;
use crate::hop::TargetId;
use crate::proxy_protocol::Version;
use crate::routing;
use crate::s3::cost::Prices;
use crate::shape::HeadLimits;
use crate::throttle::Rate;
use crate::units::{HostPort, Network, StatusSet};

pub use layout::format;
pub use load::{Problem, Problems};
pub use logging::{Access, Destination, Log, Output, Peer, Syslog};
pub use model::{
    AccessFormat, Addressing, Algorithm, Check, Clients, Facility, FromNodes, Level, Mode, OnDenied, Protocol,
    TlsProfile,
};
pub use schema::schema;

/// Everything one generation of the process runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// 0 means one per core.
    pub threads: usize,
    pub shutdown_timeout: Duration,
    pub identity: Identity,
    pub log: Log,
    pub admin: Option<Admin>,
    pub location: Option<Location>,
    pub acme: Option<Acme>,
    pub tracing: Option<Tracing>,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
    pub stores: Vec<Store>,
    pub routes: Vec<Route>,
}

/// Name and key, where the file gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub name: Option<String>,
    pub mark_key: Option<Secret>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// What orders must show; `None`: they must come from this machine.
    pub token: Option<Secret>,
    /// By which it may be asked for, besides IP addresses and `localhost`. In lower case.
    pub hosts: Vec<String>,
}

/// The location map's bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    pub entries: usize,
    pub ttl: Duration,
    pub absent_ttl: Duration,
    /// In percent of all paths.
    pub control: u32,
    pub file: Option<PathBuf>,
    pub save_every: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub serves: Serves,
    pub tls: Option<Tls>,
    pub redirect_to_https: Option<u16>,
    pub http2: bool,
    pub trusted: Vec<Network>,
    /// Whose connections must begin with a PROXY header.
    pub proxies: Vec<Network>,
    pub max_connections: usize,
    pub throttle: Throttle,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub stall_timeout: Duration,
    pub requests_per_connection: u32,
    pub max_streams: u32,
    pub head: HeadLimits,
}

/// How often one client may come; `None` is as often as it likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    pub connections: Option<Rate>,
    pub requests: Option<Rate>,
    pub entries: usize,
    pub exempt: Vec<Network>,
}

/// What a listener's clients are served from: routes on `http` and `https`, a pool on `tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// By host and path; indices into `routes`.
    Routes(routing::Table),
    /// Index into `pools`.
    Pool(usize),
}

impl Serves {
    /// The route of a request for `target` at `host`, as its index; `None` when there is none for it.
    pub fn route(&self, host: Option<&[u8]>, target: &[u8]) -> Option<usize> {
        match self {
            Serves::Routes(table) => table.find(host, target),
            Serves::Pool(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// The first of them, or else of the folder, is the default.
    pub certificates: Vec<CertificateFiles>,
    pub folder: Option<PathBuf>,
    /// In lower case.
    pub acme: Vec<String>,
    pub profile: TlsProfile,
    pub hsts: Option<Duration>,
}

/// The CA that the listeners' `acme` names get their certificates from.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    pub folder: PathBuf,
    pub directory: String,
    pub email: Option<String>,
    pub ca: Option<PathBuf>,
    pub external_account: Option<ExternalAccount>,
}

/// An account outside ACME, to which the ACME account is bound.
#[derive(Clone, PartialEq)]
pub struct ExternalAccount {
    pub key_id: String,
    pub hmac_key: Vec<u8>,
}

impl std::fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExternalAccount({}, ***)", self.key_id)
    }
}

/// The collector of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    pub endpoint: String,
    /// Of a hundred requests.
    pub percent: u32,
    pub service_name: String,
    pub headers: Vec<(String, Secret)>,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ocsp: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    pub algorithm: Algorithm,
    pub stickiness: Stickiness,
    pub fallback_on: StatusSet,
    pub from_nodes: FromNodes,
    /// `None` preserves the client's.
    pub host: Option<String>,
    /// The header that connections to nodes begin with.
    pub proxy_protocol: Option<Version>,
    /// `None` is plain HTTP.
    pub tls: Option<NodeTls>,
    pub bounds: Bounds,
    pub tunnel_timeout: Duration,
    pub hedge: Option<hedge::Rules>,
    pub health: Health,
    pub nodes: Vec<Node>,
}

/// TLS to the nodes of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTls {
    pub ca: Option<Authorities>,
    /// Instead of the host of a node's address.
    pub server_name: Option<String>,
    pub verify: bool,
    pub client: Option<ClientCertificate>,
}

impl NodeTls {
    /// The name that this node is asked for and must have in its certificate.
    pub fn name_of<'a>(&'a self, node: &'a Node) -> &'a str {
        self.server_name.as_deref().unwrap_or(&node.address.host)
    }
}

/// CA certificates that are trusted instead of the system's; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorities(pub Arc<[CertificateDer<'static>]>);

/// What nodes are shown that ask for a certificate. The key is its certificate's.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificate {
    /// The certificate, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Never printed: its Debug leaves it out.
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// How clients that come again are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stickiness {
    None,
    Table { ttl: Duration, entries: usize },
    Cookie { name: String },
}

/// Times and places that every target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub connect_timeout: Duration,
    pub header_timeout: Duration,
    pub body_idle_timeout: Duration,
    pub keepalive: Duration,
    pub max_in_flight: usize,
    pub queue: usize,
    pub queue_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub check: Check,
    pub path: String,
    pub host: Option<String>,
    pub expected: Expected,
    pub interval: Duration,
    pub timeout: Duration,
    pub passive: bool,
    pub absence: bool,
    pub slow_start: Duration,
    /// In percent of the pool's nodes.
    pub eject_at_most: u32,
    pub thresholds: Thresholds,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    pub address: HostPort,
    pub weight: u32,
    pub mode: Mode,
    /// The same for the same address, in whichever pool.
    pub target: TargetId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub name: String,
    pub target: TargetId,
    pub bucket: String,
    pub region: String,
    pub tls: bool,
    /// Where to connect: the endpoint, with the bucket in front for virtual addressing.
    pub address: HostPort,
    /// The `Host` to send and sign; without the port where it is the scheme's own.
    pub host: String,
    pub addressing: Addressing,
    pub prefix: String,
    pub credentials: Credentials,
    pub on_403: OnDenied,
    pub prices: Prices,
    /// In nanodollars.
    pub budget_per_day: Option<u64>,
    pub disk: Option<Disk>,
    pub shared_memory: u64,
    pub ca: Option<Authorities>,
    pub bounds: Bounds,
}

/// What a store keeps, and for how long it is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    pub settings: disk::Settings,
    pub rules: freshness::Rules,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: String,
    pub plan: Arc<Plan>,
    pub deadline: Duration,
    pub transfer_deadline: Duration,
    pub absent_max_age: Duration,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What `resolve` may ask of the machine, as arguments, so that a test can answer.
pub struct Surroundings<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub read: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

impl Surroundings<'static> {
    /// The real ones.
    pub const OF_THIS_PROCESS: Self =
        Surroundings { variable: &|name| std::env::var(name).ok(), read: &|path| std::fs::read_to_string(path) };
}

impl Config {
    /// The targets by number, under names that a later process may know them by.
    pub fn target_names(&self) -> Vec<String> {
        let nodes = self.pools.iter().flat_map(|pool| &pool.nodes);
        let stores = self.stores.iter();
        let nodes = nodes.map(|node| (node.target, format!("node {}", node.address)));
        let stores =
            stores.map(|store| (store.target, format!("store {} {} {}", store.address, store.bucket, store.prefix)));
        let mut named: Vec<_> = nodes.chain(stores).collect();
        named.sort();
        named.dedup_by_key(|(target, _)| *target);
        named.into_iter().map(|(_, name)| name).collect()
    }

    /// How many files may be open at a time: every connection is one, and so is every one to a node.
    pub fn files_wanted(&self) -> u64 {
        let connections: usize = self.listeners.iter().map(|listener| 2 * listener.max_connections).sum();
        u64::try_from(connections + 1024).unwrap_or(u64::MAX)
    }

    /// Reads a config file from disk, with secrets from this process's environment.
    ///
    /// # Errors
    /// All the file's mistakes at once.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let file = path.display().to_string();
        let text = read(path)?;
        Config::parse(&file, &text, &Surroundings::OF_THIS_PROCESS)
    }

    /// The admin address that a config file names, whatever else is wrong with it: a running hopfall is asked, which has
    /// secrets and files of its own.
    ///
    /// # Errors
    /// The file's mistakes, when it cannot be read that far.
    pub fn admin_address(path: &Path) -> Result<Option<SocketAddr>, Problems> {
        let file = path.display().to_string();
        let text = read(path)?;
        match load::parse(&text) {
            (Some(model), _, _) => Ok(model.admin.and_then(|admin| admin.address.text().parse().ok())),
            (None, problems, secrets) => Err(Problems::new(&file, &text, problems, &secrets)),
        }
    }

    /// The token that orders to the running hopfall want, whatever else is wrong with the file.
    ///
    /// # Errors
    /// When the file cannot be read that far, or what it refers to cannot be had.
    pub fn admin_token(path: &Path) -> Result<Option<Secret>, Problems> {
        let file = path.display().to_string();
        let text = read(path)?;
        let (model, problems, secrets) = load::parse(&text);
        let refused = |problems| Problems::new(&file, &text, problems, &secrets);
        let Some(model) = model else { return Err(refused(problems)) };
        let Some(token) = model.admin.and_then(|admin| admin.token) else { return Ok(None) };
        resolve::secret(&token, &Surroundings::OF_THIS_PROCESS).map(Some).map_err(|problem| refused(vec![problem]))
    }

    /// Reads config text; `file` is its name in messages.
    ///
    /// # Errors
    /// All the text's mistakes at once.
    pub fn parse(file: &str, text: &str, surroundings: &Surroundings<'_>) -> Result<Config, Problems> {
        let (model, mut problems, secrets) = load::parse(text);
        if let Some(model) = model {
            match resolve::resolve(&model, surroundings) {
                Ok(config) if problems.is_empty() => return Ok(config),
                Ok(_) => {}
                Err(more) => problems.extend(more),
            }
        }
        Err(Problems::new(file, text, problems, &secrets))
    }
}

fn read(path: &Path) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read: {error}");
        let problem = Problem::of_file(message, "name a file that exists and is UTF-8 text");
        Problems::new(&path.display().to_string(), "", vec![problem], &[])
    })
}

/// Where a program on this machine reaches a listener. What listens on all addresses is not asked on "all": not every system
/// takes that for this machine.
pub fn as_asked_from_here(mut listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listener.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listener.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listener
}
