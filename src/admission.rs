//! Admission: whether a listener takes a client's next connection, or its next request, by the listener's throttle.
//!
//! Only refusals cost more than a look into the throttle's table. Addresses that nodes of ours may have are never refused
//! where requests are served: a node that calls back must be given the loop's answer and not another (docs/decisions/0007).
//! A tcp listener has no such answer, and there the throttle is what bounds a loop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use prometheus::IntCounter;

use crate::config::{Clients, Listener, Serves};
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::snapshot::Snapshot;
use crate::throttle::{Rate, Throttle};
use crate::units::Network;

/// The throttle of one listener's connections, or of its requests.
pub struct Admission {
    listener: String,
    kind: Kind,
    kept: Arc<Kept>,
    exempt: Vec<Network>,
    /// Whose nodes are never refused.
    nodes: Option<Arc<Snapshot>>,
    /// How messages name them.
    clients: Clients,
    refused: IntCounter,
}

/// What a listener goes on with under its next config, if that has the same throttle.
struct Kept {
    rate: Rate,
    entries: usize,
    throttle: Throttle,
    started: Instant,
    /// Seconds after `started` from which on the log may be told again.
    quiet: Quiet,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Request,
}

impl Admission {
    /// For new connections. `None`: this listener takes all. `before` is the listener's under the config before this one.
    pub fn of_connections(
        listener: &Listener,
        snapshot: &Arc<Snapshot>,
        metrics: &Metrics,
        before: Option<&Admission>,
    ) -> Option<Self> {
        let rate = listener.throttle.connections?;
        Some(Admission::new(Kind::Connection, rate, listener, snapshot, metrics, before))
    }

    /// For requests, likewise.
    pub fn of_requests(
        listener: &Listener,
        snapshot: &Arc<Snapshot>,
        metrics: &Metrics,
        before: Option<&Admission>,
    ) -> Option<Self> {
        let rate = listener.throttle.requests?;
        Some(Admission::new(Kind::Request, rate, listener, snapshot, metrics, before))
    }

    fn new(
        kind: Kind,
        rate: Rate,
        listener: &Listener,
        snapshot: &Arc<Snapshot>,
        metrics: &Metrics,
        before: Option<&Admission>,
    ) -> Self {
        let entries = listener.throttle.entries;
        let kept = before.map(|before| &before.kept).filter(|kept| (kept.rate, kept.entries) == (rate, entries));
        let fresh = || {
            let throttle = Throttle::new(rate, entries, (rand::random(), rand::random()));
            Arc::new(Kept { rate, entries, throttle, started: Instant::now(), quiet: Quiet::for_each(TELL_EVERY) })
        };
        Admission {
            listener: listener.name.clone(),
            kind,
            kept: kept.cloned().unwrap_or_else(fresh),
            exempt: listener.throttle.exempt.clone(),
            nodes: matches!(listener.serves, Serves::Routes(_)).then(|| snapshot.clone()),
            clients: snapshot.config.log.clients,
            refused: metrics.throttled.with_label_values(&[listener.name.as_str(), kind.as_str()]),
        }
    }

    /// Whether to take one more of `client`. `local`, our own end of its connection, is asked for only when it matters.
    /// A refusal is counted here. A client that was refused is taken again within a second.
    pub fn admits(&self, client: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        if self.exempt.iter().any(|network| network.contains(client)) {
            return true;
        }
        let now = Instant::now();
        if self.kept.throttle.admit(client, now - self.kept.started) {
            return true;
        }
        if let Some(snapshot) = &self.nodes
            && snapshot.may_be_node(client.to_canonical(), local().map(|local| local.to_canonical()))
        {
            return true;
        }
        self.refused.inc();
        self.tell(client, now);
        false
    }

    /// One line for all that is refused within a while.
    fn tell(&self, client: IpAddr, now: Instant) {
        if self.kept.quiet.is_over(now) {
            let (listener, kind, count) = (&self.listener, self.kind.as_str(), self.refused.get());
            let client = self.clients.address(client);
            warn!("{listener}: `throttle` refuses {kind}s: {count} since the start, the last one of {client}");
        }
    }
}

impl Kind {
    /// The metric's label.
    fn as_str(self) -> &'static str {
        match self {
            Kind::Connection => "connection",
            Kind::Request => "request",
        }
    }
}

/// Between two lines of the log.
const TELL_EVERY: Duration = Duration::from_secs(60);
