//! One node: its name, its connection, its check, and what it says of a file that it cannot have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use prometheus::IntCounter;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::Finding;
use crate::config::{Config, Mode};
use crate::fallback::{self, Outcome, Stage, node_outcome};
use crate::origin::{Live, Tls, Upstream, connector, request_head};
use crate::pool::{Gate, Node, Pool};
use crate::probe;
use crate::snapshot::Snapshot;

/// Examines a node by its place in the config.
pub(super) async fn examine(snapshot: Arc<Snapshot>, about: String, pool: usize, node: usize) -> Vec<Finding> {
    let config = &snapshot.config;
    let (Some(pool_of), Some(configured)) = (snapshot.pools.get(pool), config.pools.get(pool)) else {
        return Vec::new();
    };
    let Some(examined) = pool_of.nodes.get(node) else { return Vec::new() };
    let address = match find(&about, examined, config).await {
        Ok(address) => address,
        Err(finding) => return vec![finding],
    };
    if examined.mode() == Mode::Reject {
        return vec![Finding::ok(&about, format!("{address} is not asked: its mode is reject"))];
    }
    if let Err(finding) = connect(&about, address, configured.bounds.connect_timeout).await {
        return vec![finding];
    }
    let upstream = Upstream::new(connector(), configured.bounds, Tls::to_node(configured, &configured.nodes[node]));
    let mut found = Vec::new();
    match probe::check_once(&configured.health, examined, &upstream).await {
        Some(Err(why)) => found.push(Finding::error(
            &about,
            format!("{address} fails its health check: {why}"),
            "correct the node, or the pool's `health` (path, host, expected status)",
        )),
        Some(Ok(())) => found.push(Finding::ok(&about, format!("{address} passes its health check"))),
        None => {}
    }
    let asked = |route: &crate::config::Route| route.plan.stages.contains(&Stage::Pool(pool));
    if config.routes.iter().any(asked) {
        found.extend(ask(&about, address, pool_of, examined, &upstream).await);
    } else if found.is_empty() {
        found.push(Finding::ok(&about, format!("{address} takes connections")));
    }
    found
}

/// The node's address, looked up as the real one is; not if it is hopfall's own.
async fn find(about: &str, node: &Node, config: &Config) -> Result<SocketAddr, Finding> {
    let name = &node.endpoint.name;
    let addresses: Vec<SocketAddr> = match lookup_host((name.host.as_str(), name.port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let what = format!("{name} cannot be resolved: {error}");
            return Err(Finding::error(about, what, "correct the name, the resolver (/etc/resolv.conf) or /etc/hosts"));
        }
    };
    let Some(address) = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) else {
        return Err(Finding::error(about, format!("{name} has no address"), "correct its DNS record"));
    };
    node.endpoint.set(*address);
    let here = if_addrs::get_if_addrs().unwrap_or_default();
    let is_here = |ip: IpAddr| ip.is_loopback() || here.iter().any(|own| own.ip() == ip);
    let is_own = |own: SocketAddr| {
        own.port() == address.port()
            && (own.ip() == address.ip() || (own.ip().is_unspecified() && is_here(address.ip())))
    };
    match config.listeners.iter().find(|listener| is_own(listener.address)) {
        Some(listener) => Err(Finding::warn(
            about,
            format!("{name} ({address}) is hopfall's own listener {}: requests would come back, a loop", listener.name),
            "write the address of the storage server itself",
        )),
        None => Ok(*address),
    }
}

async fn connect(about: &str, address: SocketAddr, patience: Duration) -> Result<(), Finding> {
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let fix = "start the server there, or correct its address or the firewall";
            Err(Finding::error(about, format!("{address} takes no connection: {error}"), fix))
        }
        Err(_) => {
            let what = format!("{address} does not answer within connect_timeout ({patience:?})");
            Err(Finding::error(about, what, "see whether the machine is up, and the firewall lets hopfall through"))
        }
    }
}

/// Asks twice for what it cannot have: the second time on the connection of the first, if the node keeps it.
async fn ask(about: &str, address: SocketAddr, pool: &Pool, node: &Node, upstream: &Arc<Upstream>) -> Vec<Finding> {
    let host = pool.config.host.clone().unwrap_or_else(|| node.endpoint.name.to_string());
    // A gauge and a counter of its own: nobody else is to see this.
    let (Ok(connects), Ok(gauge)) = (IntCounter::new("c", "c"), prometheus::IntGauge::new("g", "g")) else {
        return Vec::new();
    };
    let gate = Gate::new(1, 1, Duration::from_secs(1), gauge);
    let deadline = Instant::now() + pool.config.bounds.connect_timeout + pool.config.bounds.header_timeout;
    let mut status = 0;
    for _ in 0..2 {
        match once(address, &host, node, upstream, &gate, &connects, deadline).await {
            Ok(answer) => {
                status = answer.status();
                read_to_end(answer).await;
            }
            Err(outcome) => {
                let why = outcome.failure().map_or("no place", fallback::Failure::as_str);
                let what = format!("{address} gives no answer: {why}");
                return vec![Finding::error(about, what, "see the node's own log; check `tls` of the pool")];
            }
        }
    }
    let mut found = vec![judge(about, address, status, node_outcome(status, &pool.config.fallback_on), &host)];
    if connects.get() > 1 && pool.config.bounds.keepalive > Duration::ZERO {
        found.push(Finding::warn(
            about,
            format!("{address} closes its connection after an answer, so `keepalive` is of no use"),
            "turn keep-alive on there (nginx: keepalive_timeout), or each hop costs a handshake",
        ));
    }
    found
}

async fn once(
    address: SocketAddr,
    host: &str,
    node: &Node,
    upstream: &Arc<Upstream>,
    gate: &Gate,
    connects: &IntCounter,
    deadline: Instant,
) -> Result<Live, Outcome> {
    let broken = |_| Outcome::Down(fallback::Failure::ProxyInternalError);
    let target = format!("/hopfall-check/{:032x}", rand::random::<u128>());
    let mut fields = HeaderMap::new();
    fields.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| broken(()))?);
    fields.insert(header::USER_AGENT, HeaderValue::from_static("hopfall-check"));
    fields.extend(node.hop.after(&HeaderMap::new()));
    let request = request_head(&Method::GET, target.as_bytes(), fields).map_err(|_| broken(()))?;
    let permit = gate.enter().await.ok_or(Outcome::Busy(fallback::Busy::Full))?;
    upstream.exchange(address, &request, deadline, connects, permit).await
}

/// A short body is read, so that the connection can be kept; a long one is not waited for.
async fn read_to_end(mut answer: Live) {
    let mut read = 0;
    while let Ok(Some(piece)) = answer.next_piece(Duration::from_secs(1)).await {
        read += piece.len();
        if read > LONGEST {
            return;
        }
    }
    answer.finish().await;
}

/// What the answer for a file that the node cannot have says of the node.
fn judge(about: &str, address: SocketAddr, status: u16, outcome: Outcome, host: &str) -> Finding {
    let said = |more: &str| format!("{address} answers {status} for a file that it lacks{more}");
    match (outcome, status) {
        (Outcome::Absent(_), _) => Finding::ok(about, said(", and the next is asked")),
        (Outcome::Busy(_), _) => Finding::warn(about, said(": it is busy"), "see whether it is overloaded"),
        (Outcome::Error(_), _) => Finding::warn(
            about,
            said(": the next is asked, but it counts against its health"),
            "have it answer 404; see its own log",
        ),
        (_, 200..=299) => Finding::error(
            about,
            said(", so no other node and no store is ever asked"),
            "have it answer 404 (nginx: `try_files $uri =404`, and no fallback to an index page)",
        ),
        (_, 300..=399) => Finding::error(
            about,
            said(", and redirects are handed on"),
            "have it answer 404 for plain http from hopfall, without a redirect to https or to another host",
        ),
        (_, 400 | 421) => Finding::error(
            about,
            said(&format!(": it does not take the host `{host}`")),
            "set `host` of the pool to the name that the node serves",
        ),
        (_, 401 | 403) => Finding::error(
            about,
            said(", which is handed on"),
            "let hopfall read there; or, if it hides its files so, set `on_403: next` in the pool",
        ),
        (_, 500..=599) => Finding::error(about, said(", which is handed on"), "have it answer 404; see its own log"),
        _ => Finding::error(
            about,
            said(", which is handed on"),
            format!("have it answer 404, or add {status} to `fallback_on` of the pool (the list replaces the default)"),
        ),
    }
}

/// Bytes of a body that are read at most.
const LONGEST: usize = 64 * 1024;
