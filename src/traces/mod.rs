//! OpenTelemetry traces: a span a request and one an attempt, made when the request is over from what its
//! [`crate::trip::Trip`] says, so that a request pays for no more than their names. Sent by a thread of its own, off the
//! hot path. docs/tracing.md tells what they say; docs/decisions/0031-tracing.md why by these libraries.
//!
//! A build without the feature `otel` has a [`Traces`] that cannot be made.

#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod exporter;
#[cfg(feature = "otel")]
mod span;
#[cfg(not(feature = "otel"))]
mod without;

#[cfg(feature = "otel")]
pub use exporter::Traces;
#[cfg(not(feature = "otel"))]
pub use without::Traces;
