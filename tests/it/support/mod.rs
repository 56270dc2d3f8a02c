//! What the integration tests are made of: servers to put behind hopfall, hopfall itself, and clients to ask it.
//!
//! Blocking code over std alone: a test must not depend on the runtime it tests.

// A part that no test uses yet is still part of the harness.
#![allow(dead_code)]

pub mod blackhole;
pub mod bucket;
pub mod ca;
pub mod certificate;
pub mod chromium;
pub mod client;
#[cfg(feature = "otel")]
pub mod collector;
pub mod composition;
pub mod curl;
pub mod debian;
pub mod documents;
pub mod fleet;
pub mod haproxy;
pub mod hopfall;
pub mod keepalived;
pub mod lan;
pub mod metrics;
pub mod nginx;
pub mod origin;
pub mod package;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod raw;
pub mod reply;
pub mod request;
pub mod rsyslog;
pub mod schema;
pub mod seaweed;
pub mod service_manager;
pub mod systemd;
pub mod wait;
pub mod watchdog;
