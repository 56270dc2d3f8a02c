//! A bounded queue of finished requests, and the thread that sends what is in it. What the collector does not take in time
//! is dropped and counted: no request waits for it.
//!
//! Not the SDK's batch processor: that one keeps the number of spans that it drops to itself.

use std::mem;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use anyhow::Context;
use log::{info, warn};
use opentelemetry_sdk::trace::SpanData;
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::collector::Collector;
use super::span;
use crate::access_log::Entry;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::trace_context::Trace;

/// Where requests are traced to. Dropping it lets the thread send what is waiting, and end.
pub struct Traces {
    config: config::Tracing,
    finished: mpsc::Sender<Vec<SpanData>>,
    flushes: mpsc::UnboundedSender<blocking::SyncSender<()>>,
    dropped: IntCounter,
}

impl Traces {
    /// # Errors
    /// When the collector's address can never be asked, or there is no room for a thread.
    pub fn start(config: &config::Tracing, metrics: &Metrics) -> anyhow::Result<Arc<Traces>> {
        let collector = Collector::new(config).context("tracing")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (finished, taken) = mpsc::channel(MOST_REQUESTS);
        let (flushes, asked) = mpsc::unbounded_channel();
        let dropped = metrics.spans_dropped.clone();
        let exporter = Exporter {
            collector,
            batch: Vec::new(),
            dropped: dropped.clone(),
            quiet: Quiet::for_each(WARN_EVERY),
            failing: false,
        };
        let thread = std::thread::Builder::new().name("traces".into());
        thread.spawn(move || runtime.block_on(exporter.run(taken, asked)))?;
        Ok(Arc::new(Traces { config: config.clone(), finished, flushes, dropped }))
    }

    pub fn config(&self) -> &config::Tracing {
        &self.config
    }

    /// How many of a hundred requests are told.
    pub fn percent(&self) -> u32 {
        self.config.percent
    }

    /// Takes in a request that is over, if its trace is sampled. `tls` is whether the client's connection was.
    pub fn tell(&self, trace: &Trace, entry: &Entry<'_>, tls: bool, config: &Config) {
        if !trace.sampled {
            return;
        }
        match self.finished.try_reserve() {
            Ok(place) => place.send(span::of_request(trace, entry, tls, config)),
            // Not made, only counted.
            Err(_) => self.dropped.inc_by(1 + entry.trip.attempts.len() as u64),
        }
    }

    /// Waits until what was told so far is sent, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        let (done, told) = blocking::sync_channel(1);
        if self.flushes.send(done).is_ok() {
            // In vain: what is left is lost with the process.
            let _ = told.recv_timeout(patience);
        }
    }
}

struct Exporter {
    collector: Collector,
    batch: Vec<SpanData>,
    dropped: IntCounter,
    /// When it was last said that the collector takes nothing.
    quiet: Quiet,
    failing: bool,
}

impl Exporter {
    async fn run(
        mut self,
        mut finished: mpsc::Receiver<Vec<SpanData>>,
        mut flushes: mpsc::UnboundedReceiver<blocking::SyncSender<()>>,
    ) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                Some(done) = flushes.recv() => {
                    while let Ok(spans) = finished.try_recv() {
                        self.batch.extend(spans);
                        self.send_if(BATCH).await;
                    }
                    self.send_if(1).await;
                    // Who asked may have lost patience.
                    let _ = done.try_send(());
                }
                spans = finished.recv() => match spans {
                    Some(spans) => {
                        if self.batch.is_empty() {
                            due = Instant::now() + LINGER;
                        }
                        self.batch.extend(spans);
                        self.send_if(BATCH).await;
                    }
                    None => return self.send_if(1).await,
                },
                () = sleep_until(due), if !self.batch.is_empty() => self.send_if(1).await,
            }
        }
    }

    /// Sends the batch if it has so many spans.
    async fn send_if(&mut self, enough: usize) {
        if self.batch.len() < enough {
            return;
        }
        let batch = mem::take(&mut self.batch);
        let spans = batch.len();
        match self.collector.take(batch).await {
            Ok(()) if mem::take(&mut self.failing) => info!("the collector takes traces again"),
            Ok(()) => {}
            Err(why) => {
                self.failing = true;
                self.dropped.inc_by(spans as u64);
                if self.quiet.is_over(Instant::now().into_std()) {
                    warn!("the collector takes no traces, {spans} spans are lost: {why}");
                }
            }
        }
    }
}

/// Finished requests that may wait to be sent, each with its spans.
const MOST_REQUESTS: usize = 4096;
/// Spans in one request to the collector, at least, where there are so many.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_millis(500);
const WARN_EVERY: Duration = Duration::from_secs(60);
