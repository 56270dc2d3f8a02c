//! One node: its address, its health, its place counter.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus::IntGauge;

use super::{Gate, Pool};
use crate::absence::Absence;
use crate::config::{self, Mode};
use crate::health::{Change, Health, Signal, Thresholds};
use crate::hedge::{Latency, Silence};
use crate::hop::TargetId;
use crate::metrics::{Metrics, TargetMetrics};
use crate::units::HostPort;
use crate::via::{Hop, Identity};

/// A place on the network by name, with the address that the name has now.
pub struct Endpoint {
    pub name: HostPort,
    resolved: ArcSwapOption<SocketAddr>,
}

impl Endpoint {
    /// A literal address is resolved at once, and a name not yet.
    pub fn new(name: HostPort) -> Self {
        let literal = name.host.parse::<IpAddr>().ok().map(|ip| Arc::new(SocketAddr::new(ip, name.port)));
        Endpoint { name, resolved: ArcSwapOption::new(literal) }
    }

    pub fn is_literal(&self) -> bool {
        self.name.host.parse::<IpAddr>().is_ok()
    }

    /// The address, or `None` while the name has never been resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        self.resolved.load().as_deref().copied()
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.address().map(|address| address.ip().to_canonical())
    }

    pub fn set(&self, address: SocketAddr) {
        self.resolved.store(Some(Arc::new(address)));
    }
}

/// A server of a pool, as one snapshot has it. What is known of it outlives the snapshot.
pub struct Node {
    pub target: TargetId,
    pub name: String,
    pub weight: u32,
    pub endpoint: Arc<Endpoint>,
    pub gate: Arc<Gate>,
    /// What requests to this node carry in `Via` and `CDN-Loop`.
    pub hop: Hop,
    pub metrics: TargetMetrics,
    pub condition: Arc<Condition>,
}

/// Why a node is asked after those that are not away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Since then, in the process's own time.
    Down { since: Duration },
    /// It kept silent while others answered (hedging).
    Silent,
    /// It suddenly lacks all that it is asked for.
    Suspect,
}

/// What is known of a node, and what an operator has said of it.
pub struct Condition {
    pub latency: Latency,
    pub silence: Silence,
    absence: Mutex<Absence>,
    pub(super) absence_suspect: IntGauge,
    /// Until when `absence` makes this node a suspect, in milliseconds; read on every request.
    suspect_until: AtomicU64,
    health: Mutex<Health>,
    /// A [`Mode`], as a number.
    mode: AtomicU8,
    /// When it last came up after it was down, in milliseconds; 0 while it never was.
    up_since: AtomicU64,
    /// When it last came up or went down, in milliseconds; 0 while it never did.
    changed: AtomicU64,
    /// Read on every request, so that the lock is taken only when something is amiss.
    spotless: AtomicBool,
}

impl Node {
    /// `before` is the pool of the same name in the snapshot that this one follows: what is known of a node of the same
    /// name and address is shared with it, its mode too.
    pub fn new(
        node: &config::Node,
        pool: &config::Pool,
        identity: &Identity,
        metrics: &Metrics,
        before: Option<&Pool>,
    ) -> Self {
        let known = before.and_then(|pool| pool.same(node));
        let target_metrics = metrics.target(&pool.name, &node.name);
        let bounds = &pool.bounds;
        let gate = known.filter(|_| before.is_some_and(|pool| pool.config.bounds == *bounds));
        let gate = gate.map(|known| known.gate.clone()).unwrap_or_else(|| {
            let in_flight = target_metrics.connections.clone();
            Arc::new(Gate::new(bounds.max_in_flight, bounds.queue, bounds.queue_timeout, in_flight))
        });
        let condition = match known {
            Some(known) => known.condition.clone(),
            None => Arc::new(Condition::new(node.mode, [&pool.name, &node.name], metrics)),
        };
        Node {
            target: node.target,
            name: node.name.clone(),
            weight: node.weight,
            endpoint: known
                .map_or_else(|| Arc::new(Endpoint::new(node.address.clone())), |known| known.endpoint.clone()),
            gate,
            hop: identity.hop(&node.name),
            metrics: target_metrics,
            condition,
        }
    }

    pub fn is_up(&self, now: Duration) -> bool {
        self.condition.is_up(now)
    }

    /// Whether it is asked last: down, silent, or suddenly without its files.
    pub fn is_away(&self, now: Duration) -> bool {
        self.away(now).is_some()
    }

    /// Why it is asked last, if it is.
    pub fn away(&self, now: Duration) -> Option<Away> {
        let condition = &self.condition;
        match () {
            () if !condition.is_up(now) => Some(Away::Down { since: condition.health().since() }),
            () if condition.silence.is_silent(now) => Some(Away::Silent),
            () if condition.is_suspect(now) => Some(Away::Suspect),
            () => None,
        }
    }

    /// When it last came up or went down; zero while it never did.
    pub fn changed(&self) -> Duration {
        Duration::from_millis(self.condition.changed.load(Ordering::Relaxed))
    }

    /// Whether it is asked last because its share of 404s jumped.
    pub fn is_suspect(&self, now: Duration) -> bool {
        self.condition.is_suspect(now)
    }

    pub fn mode(&self) -> Mode {
        self.condition.mode()
    }

    pub fn set_mode(&self, mode: Mode) {
        self.condition.set_mode(mode);
    }

    /// Its weight in hundredths; for `slow_start` after it came up it grows to that.
    pub fn weight_now(&self, now: Duration, slow_start: Duration) -> i64 {
        let full = i64::from(self.weight) * 100;
        let up_since = Duration::from_millis(self.condition.up_since.load(Ordering::Relaxed));
        let up_for = now.saturating_sub(up_since);
        if up_since.is_zero() || up_for >= slow_start {
            return full;
        }
        let share = up_for.as_secs_f64() / slow_start.as_secs_f64();
        // invariant: below a weight of 255, in hundredths
        #[allow(clippy::cast_possible_truncation)]
        let grown = (full as f64 * share) as i64;
        grown.max(1)
    }

    /// Up, with no failure counted against it.
    pub fn is_spotless(&self) -> bool {
        self.condition.is_spotless()
    }
}

impl Condition {
    fn new(mode: Mode, labels: [&String; 2], metrics: &Metrics) -> Self {
        metrics.node_up.with_label_values(&labels).set(1);
        Condition {
            latency: Latency::new(),
            silence: Silence::default(),
            absence: Mutex::default(),
            absence_suspect: metrics.node_absence_suspect.with_label_values(&labels),
            suspect_until: AtomicU64::new(0),
            health: Mutex::new(Health::default()),
            mode: AtomicU8::new(mode as u8),
            up_since: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            spotless: AtomicBool::new(true),
        }
    }

    fn is_up(&self, now: Duration) -> bool {
        self.is_spotless() || self.health().is_up(now)
    }

    /// A request is sent there, which may try whether it is well again.
    pub(super) fn is_asked(&self, now: Duration, eject_for: Duration) {
        if !self.is_spotless() {
            self.health().is_asked(now, eject_for);
        }
    }

    fn is_spotless(&self) -> bool {
        self.spotless.load(Ordering::Relaxed)
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            1 => Mode::Reject,
            2 => Mode::Drain,
            3 => Mode::Backup,
            _ => Mode::Accept,
        }
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Whether it is asked last because its share of 404s jumped.
    pub(super) fn is_suspect(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.suspect_until.load(Ordering::Relaxed))
    }

    /// Takes in whether it had a file that it was asked for first. True when it has just become a suspect.
    pub(super) fn take_absence(&self, lacks: bool, now: Duration) -> bool {
        let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = absence.observe(lacks, now) else { return false };
        self.suspect_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        true
    }

    pub(super) fn take(&self, signal: Signal, now: Duration, thresholds: &Thresholds, last: bool) -> Option<Change> {
        let mut health = self.health();
        let change = health.observe(signal, now, thresholds, last);
        self.spotless.store(health.is_spotless(), Ordering::Relaxed);
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        if change.is_some() {
            self.changed.store(millis, Ordering::Relaxed);
        }
        if change == Some(Change::Up) {
            self.up_since.store(millis, Ordering::Relaxed);
        }
        change
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        // A panic elsewhere leaves health as it was, and serving goes on.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
