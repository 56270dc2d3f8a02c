//! What is measured, as the documentation tells it: `docs/metrics.md` is made from this.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

/// One metric: its name, and what is there to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub kind: Kind,
    pub labels: Vec<String>,
    /// The text of `# HELP`.
    pub help: String,
}

/// The types of Prometheus that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// The word in the text format's `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A collector that knows its kind.
pub(super) trait Measured: Collector + Clone + 'static {
    const KIND: Kind;
}

macro_rules! measured {
    ($kind:ident: $($collector:ty),+) => { $(impl Measured for $collector { const KIND: Kind = Kind::$kind; })+ };
}
measured!(Counter: Counter, CounterVec, IntCounter, IntCounterVec);
measured!(Gauge: Gauge, GaugeVec, IntGauge, IntGaugeVec);
measured!(Histogram: Histogram, HistogramVec);

/// A registry that remembers what was registered: its own `gather` leaves out what has no series yet.
#[derive(Default)]
pub(super) struct Catalog {
    registry: Registry,
    descriptions: RefCell<Vec<Description>>,
}

impl Catalog {
    pub(super) fn add<C: Measured>(&self, collector: C) -> anyhow::Result<C> {
        self.registry.register(Box::new(collector.clone()))?;
        self.descriptions.borrow_mut().extend(collector.desc().into_iter().map(|desc| Description {
            name: desc.fq_name.clone(),
            kind: C::KIND,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        Ok(collector)
    }

    pub(super) fn close(self) -> (Registry, Vec<Description>) {
        (self.registry, self.descriptions.into_inner())
    }
}
