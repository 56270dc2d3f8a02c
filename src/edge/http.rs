//! HTTP, with TLS or without: a connection gets its bounds and goes to a Pingora application.

use std::sync::Arc;

use async_trait::async_trait;
use log::debug;
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;
use prometheus::IntCounter;

use super::connection::{Connection, Phase};
use super::socket::{Socket, Wire};
use super::{Accepted, Carry, Limits};
use crate::metrics::Metrics;

/// Serves a listener's connections by a Pingora application.
pub struct Http<A> {
    app: Arc<A>,
    tls: Option<Acceptor>,
    limits: Limits,
    unfinished: IntCounter,
}

impl<A: ServerApp + Send + Sync + 'static> Http<A> {
    /// `name` is the listener's. `None` for `tls` is plain HTTP.
    pub fn new(name: &str, app: A, tls: Option<Acceptor>, limits: Limits, metrics: &Metrics) -> Self {
        let unfinished = metrics.unfinished_heads.with_label_values(&[name]);
        Http { app: Arc::new(app), tls, limits, unfinished }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Carry for Http<A> {
    async fn carry(&self, accepted: Accepted, shutdown: &ShutdownWatch) {
        let peer = accepted.peer;
        let socket = Socket::new(accepted.tcp, peer);
        let aborted = socket.aborted.clone();
        let (wire, alpn) = match &self.tls {
            None => (Wire::Plain(socket), None),
            Some(acceptor) => {
                match tokio::time::timeout(self.limits.header_timeout, acceptor.tls_handshake(socket)).await {
                    Ok(Ok(tls)) => {
                        let alpn = tls.selected_alpn_proto();
                        (Wire::Tls(Box::new(tls)), alpn)
                    }
                    Ok(Err(error)) => return debug!("{peer}: TLS handshake: {error}"),
                    Err(_) => return debug!("{peer}: TLS handshake took too long"),
                }
            }
        };
        let phase = if alpn == Some(ALPN::H2) { Phase::Multiplexed } else { Phase::First };
        let stream: Stream = Box::new(Connection::new(wire, aborted, self.limits, phase, self.unfinished.clone()));
        let mut next = self.app.process_new(stream, shutdown).await;
        while let Some(stream) = next {
            next = self.app.process_new(stream, shutdown).await;
        }
    }

    async fn cleanup(&self) {
        self.app.cleanup().await;
    }
}
