//! The admin listener: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use crate::edge::Connection;
use crate::metrics::Metrics;

pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Turns true when the process begins to stop.
    pub stopping: watch::Receiver<bool>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if let Some(connection) = Connection::of(session.stream()) {
            // A body, which nothing here reads, closes the connection.
            let _ = connection.begin_request(false);
        }
        let response = self.answer(session);
        if let Some(connection) = Connection::of(session.stream()) {
            connection.end_request();
        }
        response
    }
}

impl Admin {
    fn answer(&self, session: &ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if request.method != Method::GET && request.method != Method::HEAD {
            return text(405, "only GET and HEAD are served here\n");
        }
        match request.uri.path() {
            "/metrics" => match self.metrics.render() {
                Ok(metrics) => reply(200, "text/plain; version=0.0.4; charset=utf-8", metrics),
                Err(error) => text(500, &format!("{error:#}\n")),
            },
            // Alive: this answer is the proof. Ready: the listeners take new connections.
            "/healthz" => text(200, "ok\n"),
            "/readyz" if *self.stopping.borrow() => text(503, "stopping\n"),
            "/readyz" => text(200, "ready\n"),
            "/" => text(200, "hopfall admin: /metrics /healthz /readyz\n"),
            _ => text(404, "no such page: /metrics /healthz /readyz\n"),
        }
    }
}

fn text(status: u16, body: &str) -> Response<Vec<u8>> {
    reply(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn reply(status: u16, kind: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    let built = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, body.len())
        .header(header::CACHE_CONTROL, "no-store")
        .body(body);
    // invariant: the parts are fixed and valid
    built.expect("a fixed response is valid")
}
