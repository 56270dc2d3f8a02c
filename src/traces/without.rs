//! A build without OpenTelemetry. Its config has no `tracing`, so there is never one to make.

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::Entry;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::trace_context::Trace;

/// There is none.
pub enum Traces {}

impl Traces {
    /// # Errors
    /// Always.
    pub fn start(_config: &config::Tracing, _metrics: &Metrics) -> anyhow::Result<Arc<Traces>> {
        anyhow::bail!("this build has no OpenTelemetry: build with --features otel");
    }

    pub fn config(&self) -> &config::Tracing {
        match *self {}
    }

    pub fn percent(&self) -> u32 {
        match *self {}
    }

    pub fn tell(&self, _trace: &Trace, _entry: &Entry<'_>, _tls: bool, _config: &Config) {
        match *self {}
    }

    pub fn flush(&self, _patience: Duration) {
        match *self {}
    }
}
