//! The active check of one node: again and again, beside the checks of all others and beside all requests.
//!
//! Each check is a connection of its own: an idle one shows nothing of whether the node can be connected to. By TLS they
//! trust and ask for what requests do.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};
use log::{debug, info};
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::health_check::{HealthCheck, TcpHealthCheck};
use tokio::time::{Instant, sleep, timeout_at};

use crate::chain::Chain;
use crate::config::{self, Bounds, Check, Mode};
use crate::health::{Expected, Failing};
use crate::origin::{Upstream, connect_failure, is_ours, request_head};
use crate::pool::Node;

/// How a node is checked.
enum Checker {
    Connection(Box<TcpHealthCheck>),
    Http { upstream: Arc<Upstream>, request: Box<RequestHeader>, expected: Expected },
}

/// Checks one node for ever, at its own jittered beat. `pool` and `node` are indices into the snapshot's.
pub async fn keep_checking(chain: Arc<Chain>, pool: usize, node: usize) {
    let Some(pool_of) = chain.snapshot.pools.get(pool) else { return };
    let (Some(checked), Some(upstream)) = (pool_of.nodes.get(node), chain.upstream(pool, node)) else { return };
    let health = &pool_of.config.health;
    let Some(checker) = Checker::new(health, checked, upstream) else { return };
    let name = &checked.name;
    let mut before = Ok(());
    sleep(health.interval.mul_f64(rand::random::<f64>() * 0.5)).await;
    loop {
        if checked.mode() == Mode::Reject {
            sleep(health.interval).await;
            continue;
        }
        let result = checker.check(checked, Instant::now() + health.timeout).await;
        if result == Err(Failing::Ourselves) {
            info!("node {name} of pool {}: not checked: {}", pool_of.name(), Failing::Ourselves);
            sleep(health.interval).await;
            continue;
        }
        let word = if result.is_ok() { "passed" } else { "failed" };
        chain.metrics.health_checks.with_label_values(&[pool_of.name(), name, word]).inc();
        // Once for each reason; what follows for the node's health is told beside this.
        match &result {
            Err(why) if result != before => info!("node {name} of pool {}: a check failed: {why}", pool_of.name()),
            Err(why) => debug!("node {name} of pool {}: a check failed: {why}", pool_of.name()),
            Ok(()) => {}
        }
        pool_of.observe_check(checked, &result, chain.snapshot.now(), &chain.metrics);
        before = result;
        sleep(health.interval.mul_f64(0.9 + rand::random::<f64>() * 0.2)).await;
    }
}

/// Checks one node once, as it is checked again and again while hopfall runs. `None` where there is no check.
pub async fn check_once(health: &config::Health, node: &Node, upstream: &Upstream) -> Option<Result<(), Failing>> {
    let checker = Checker::new(health, node, upstream)?;
    Some(checker.check(node, Instant::now() + health.timeout).await)
}

impl Checker {
    /// `None` where there is no check.
    fn new(health: &config::Health, node: &Node, upstream: &Upstream) -> Option<Self> {
        match health.check {
            Check::None => None,
            Check::Connection => {
                let mut check = TcpHealthCheck::new();
                check.peer_template.options.connection_timeout = Some(health.timeout);
                Some(Checker::Connection(check))
            }
            Check::Http | Check::HttpBody => {
                // The check's own time is the only one that counts.
                let bounds = Bounds {
                    connect_timeout: health.timeout,
                    header_timeout: health.timeout,
                    body_idle_timeout: health.timeout,
                    ..*upstream.bounds()
                };
                let host = health.host.clone().unwrap_or_else(|| node.endpoint.name.to_string());
                let mut fields = HeaderMap::new();
                // invariant: `resolve` took only hosts that a header can hold
                fields.insert(header::HOST, HeaderValue::from_str(&host).ok()?);
                fields.insert(header::USER_AGENT, HeaderValue::from_static("hopfall-health-check"));
                // A regex reads no compressed body (RFC 9110 §12.5.3).
                fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
                let request = Box::new(request_head(&Method::GET, health.path.as_bytes(), fields).ok()?);
                Some(Checker::Http { upstream: upstream.bounded(bounds), request, expected: health.expected.clone() })
            }
        }
    }

    async fn check(&self, node: &Node, deadline: Instant) -> Result<(), Failing> {
        let address = node.endpoint.address().ok_or(Failing::Unresolved)?;
        let checking = async {
            match self {
                Checker::Connection(check) => connect(check, address).await,
                Checker::Http { upstream, request, expected } => {
                    ask(upstream, address, RequestHeader::clone(request), expected, deadline).await
                }
            }
        };
        timeout_at(deadline, checking).await.unwrap_or(Err(Failing::Late))
    }
}

async fn connect(check: &TcpHealthCheck, address: SocketAddr) -> Result<(), Failing> {
    let backend = Backend::new(&address.to_string()).map_err(|_| Failing::Unresolved)?;
    check.check(&backend).await.map_err(|error| match error.root_cause().downcast_ref().is_some_and(is_ours) {
        true => Failing::Ourselves,
        false => Failing::NoAnswer(connect_failure(&error).as_str()),
    })
}

async fn ask(
    upstream: &Arc<Upstream>,
    address: SocketAddr,
    request: RequestHeader,
    expected: &Expected,
    deadline: Instant,
) -> Result<(), Failing> {
    let asked = upstream.exchange_apart(address, request, deadline).await;
    let mut live =
        asked.map_err(|outcome| outcome.failure().map_or(Failing::Ourselves, |why| Failing::NoAnswer(why.as_str())))?;
    expected.status(live.status())?;
    if expected.body.is_none() {
        return Ok(());
    }
    let mut start = Vec::new();
    while start.len() < BODY_BYTES {
        match live.next_piece(upstream.bounds().body_idle_timeout).await {
            Ok(Some(piece)) => start.extend_from_slice(piece),
            Ok(None) => break,
            Err(failure) => return Err(Failing::NoAnswer(failure.as_str())),
        }
    }
    start.truncate(BODY_BYTES);
    expected.body(&start)
}

/// What is looked at of a body.
const BODY_BYTES: usize = 64 * 1024;
