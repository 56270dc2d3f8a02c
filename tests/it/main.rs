//! The integration tests: the real binary between real servers, and scripted ones where a real server cannot be
//! made to misbehave. One test binary, so that it links once and starts one SeaweedFS.

// A test that meets the impossible has failed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

mod acme;
mod availability;
mod balance;
mod bounds;
mod chain;
mod config;
mod dashboards;
mod demo;
mod docker;
mod doctor;
mod documents;
mod explain;
mod floors;
mod guides;
mod harness;
mod hash;
mod health;
mod healthcheck;
mod hedge;
mod hostile;
mod import;
mod junk;
mod location;
mod logs;
mod loops;
mod metrics;
mod native;
mod package;
mod peers;
mod proxy_protocol;
mod reload;
mod routing;
mod s3;
mod schema;
mod seeing;
mod simulation;
mod status;
mod store;
mod systemd;
mod tcp;
mod throttle;
mod tls;
mod tls_to_nodes;
#[cfg(feature = "otel")]
mod traces;
mod upgrade;
