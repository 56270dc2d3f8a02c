//! The config that is to be written: what of a NodeBalancer hopfall can be told.
//!
//! Made by `planner`, written by `yaml`. Nothing in it is checked again.

/// The whole file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The NodeBalancer, for the first comment.
    pub title: String,
    /// A port of loopback that no listener takes.
    pub admin_port: u16,
    pub listeners: Vec<Listener>,
    pub pools: Vec<Pool>,
}

/// One config of the NodeBalancer.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The config's number at Linode.
    pub config: u64,
    pub name: String,
    pub port: u16,
    pub protocol: Protocol,
    pub tls: Option<Tls>,
    /// Where the NodeBalancer took more than hopfall's default.
    pub max_connections: Option<u32>,
    /// New connections per second and client, where they are bounded.
    pub throttle: Option<u64>,
    /// Index into `pools`.
    pub pool: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Https,
    Tcp,
}

/// Files of an https listener, and what is known of the certificate that it had.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub legacy: bool,
    pub common_name: String,
    pub fingerprint: String,
}

/// Nodes, and all that hopfall is told about them together.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    pub settings: Settings,
    /// Connections to one node at a time, where tcp listeners use it.
    pub max_in_flight: Option<u32>,
    pub nodes: Vec<Node>,
}

/// What a pool has one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub algorithm: Algorithm,
    pub stickiness: Stickiness,
    /// `v1` or `v2`.
    pub proxy_protocol: Option<&'static str>,
    pub health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RoundRobin,
    LeastConn,
    Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stickiness {
    None,
    Table,
    Cookie,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    pub fall: u64,
    pub passive: bool,
}

/// An active check. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    None,
    Connection {
        interval: u64,
        timeout: u64,
    },
    Http {
        path: String,
        /// A regex for its body; `None` looks at the status alone.
        body: Option<String>,
        interval: u64,
        timeout: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub address: String,
    pub weight: u64,
    pub mode: Mode,
    /// It was down when the input was saved.
    pub down: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Accept,
    Reject,
    Drain,
    Backup,
}
