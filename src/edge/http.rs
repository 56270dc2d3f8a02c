//! HTTP, with TLS or without: a connection gets its bounds and goes to a Pingora application.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::debug;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{ALPN, Ssl};
use prometheus::IntCounter;

use super::connection::{Connection, Phase};
use super::socket::{self, Socket, Wire};
use super::{Accepted, Carry, Ends, Limits, bound_unsent};
use crate::metrics::Metrics;

/// Serves a listener's connections by a Pingora application.
pub struct Http<A> {
    app: Arc<A>,
    tls: Option<Acceptor>,
    limits: Limits,
    unfinished: IntCounter,
}

impl<A: HttpServerApp + Send + Sync + 'static> Http<A> {
    /// `name` is the listener's. `None` for `tls` is plain HTTP.
    pub fn new(name: &str, app: A, tls: Option<Acceptor>, limits: Limits, metrics: &Metrics) -> Self {
        let unfinished = metrics.unfinished_heads.with_label_values(&[name]);
        Http { app: Arc::new(app), tls, limits, unfinished }
    }

    /// Pingora's own loop over a connection's requests, but that it is told of a request only when it has begun: while
    /// it waits for one it holds all that it needs to serve one, some 30 KiB. So an idle connection holds only itself.
    async fn serve(&self, mut connection: Box<Connection>, alpn: Option<ALPN>, ends: &Ends) {
        let may_be_http2 = alpn.is_none() && self.app.server_options().is_some_and(|options| options.h2c);
        let is_http2 = match may_be_http2 && self.tls.is_none() {
            true => tokio::select! {
                biased;
                is_http2 = connection.is_http2() => is_http2,
                () = sent_away(ends, Phase::First) => return,
            },
            false => Ok(alpn == Some(ALPN::H2)),
        };
        match is_http2 {
            Ok(false) => {}
            Ok(true) => {
                // Being left, it says so (GOAWAY, RFC 9113 §6.8), and the client knows what was not taken up.
                self.app.process_new(connection, &ends.leaving).await;
                return;
            }
            Err(error) => return debug!("no request: {error}"),
        }
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            let phase = if settings.is_some() { Phase::Idle } else { Phase::First };
            // What has begun is served, whatever the hour.
            let begins = tokio::select! {
                biased;
                begins = connection.begins() => begins,
                () = sent_away(ends, phase) => false,
            };
            if !begins {
                return;
            }
            let mut session = ServerSession::new_http1(connection);
            match settings.take() {
                Some(settings) => settings.apply_to_session(&mut session),
                None => {
                    // `Connection` bounds the wait; this only says that there may be a next request.
                    session.set_keepalive(Some(60));
                    let most = self.app.server_options().and_then(|options| options.keepalive_request_limit);
                    session.set_keepalive_reuses_remaining(most);
                }
            }
            if *ends.leaving.borrow() {
                session.set_keepalive(None);
            }
            let Some(reused) = self.app.process_new_http(session, &ends.leaving).await else { return };
            let (stream, next) = reused.consume();
            let Ok(same) = stream.into_any().downcast() else { return };
            connection = same;
            settings = next;
        }
    }
}

/// Waits until a client that only waits is to be sent away. One that has come a moment ago has its first request on the way,
/// most likely, and nobody has told it that it may be lost.
async fn sent_away(ends: &Ends, phase: Phase) {
    let mut stopping = ends.stopping.clone();
    if stopping.wait_for(|stopping| *stopping).await.is_ok() && phase == Phase::First {
        tokio::time::sleep(FIRST_REQUEST).await;
    }
}

/// For a first request, once the listener is stopping.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> Carry for Http<A> {
    async fn carry(&self, accepted: Accepted, ends: &Ends) {
        let (peer, told) = (accepted.peer, accepted.told);
        // Else a slow client is told from a stalled one by what it has acknowledged.
        if socket::taken(accepted.tcp.as_raw_fd()).is_none() {
            bound_unsent(&accepted.tcp, told);
        }
        let socket = Socket::new(accepted.tcp, peer);
        let aborted = socket.aborted.clone();
        let (wire, alpn) = match &self.tls {
            None => (Wire::Plain(socket), None),
            Some(acceptor) => {
                // Boxed, so that the connections of a plain listener need no room for it.
                let handshake = Box::pin(acceptor.tls_handshake(socket));
                match tokio::time::timeout(self.limits.header_timeout, handshake).await {
                    Ok(Ok(tls)) => {
                        let alpn = tls.selected_alpn_proto();
                        if matches!(alpn, Some(ALPN::Custom(_))) {
                            // A CA has seen what it came for (RFC 8737 §3).
                            return;
                        }
                        (Wire::Tls(Box::new(tls)), alpn)
                    }
                    Ok(Err(error)) => return debug!("{told}: TLS handshake: {error}"),
                    Err(_) => return debug!("{told}: TLS handshake took too long"),
                }
            }
        };
        let phase = if alpn == Some(ALPN::H2) { Phase::Multiplexed } else { Phase::First };
        let connection = Connection::new(wire, aborted, self.limits, phase, self.unfinished.clone());
        self.serve(Box::new(connection), alpn, ends).await;
    }
}
