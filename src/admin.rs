//! The admin listener: `/metrics`, `/status`, `/healthz`, `/readyz`, `/explain`; `POST /purge`, `/node`, `/log-level`,
//! `/reload`, `/upgrade`, `/explain`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Method, Response, header};
use percent_encoding::percent_decode_str;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::chain::{Chain, Question};
use crate::config::{Level, Mode, Problems};
use crate::edge::Connection;
use crate::framing::Body;
use crate::pool::Node;
use crate::units::Scalar;

pub struct Admin {
    /// What is served from now.
    pub running: Arc<ArcSwap<Chain>>,
    /// Turns true when the process begins to stop.
    pub stopping: watch::Receiver<bool>,
    pub orders: mpsc::Sender<Order>,
    pub reloads: Arc<Reloads>,
}

/// What only the server itself can do.
pub enum Order {
    /// Read the config file again. What was done comes back in words.
    Reload(oneshot::Sender<Result<String, Refused>>),
    /// Start the program anew and hand over to it.
    Upgrade(oneshot::Sender<Result<String, Refused>>),
}

/// Why a reload or an upgrade was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the config has mistakes\n{0}")]
    Mistakes(Problems),
    #[error("{0}")]
    NotNow(String),
}

/// What came of the last reload.
#[derive(Default)]
pub struct Reloads(Mutex<Option<(SystemTime, Result<String, String>)>>);

impl Reloads {
    pub fn note(&self, at: SystemTime, result: Result<String, String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, result));
    }

    fn to_json(&self) -> serde_json::Value {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, result)) = &*last else { return serde_json::Value::Null };
        let at = jiff::Timestamp::try_from(*at).unwrap_or_default();
        let (ok, told) = match result {
            Ok(told) => (true, told),
            Err(told) => (false, told),
        };
        json!({ "at": at.to_string(), "ok": ok, "told": told })
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if let Some(connection) = Connection::of(session.stream()) {
            // A body, which nothing here reads, closes the connection.
            let _ = connection.begin_request(Body::Length(0));
        }
        let response = self.answer(session).await;
        if let Some(connection) = Connection::of(session.stream()) {
            connection.end_request();
        }
        response
    }
}

impl Admin {
    async fn answer(&self, session: &ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let path = request.uri.path();
        match (&request.method, path) {
            (&Method::POST, "/purge") => return self.purge(request.uri.query().unwrap_or_default()).await,
            (&Method::GET | &Method::HEAD, "/explain") => return self.explain(request.uri.query(), false).await,
            (&Method::POST, "/explain") => return self.explain(request.uri.query(), true).await,
            (&Method::POST, "/reload") => return self.order(Order::Reload).await,
            (&Method::POST, "/upgrade") => return self.order(Order::Upgrade).await,
            (&Method::POST, "/node") => return self.set_mode(request.uri.query().unwrap_or_default()),
            (&Method::POST, "/log-level") => return set_level(request.uri.query().unwrap_or_default()),
            (&Method::GET | &Method::HEAD, "/log-level") => {
                return text(405, "POST /log-level?level=error, warn, info, debug or trace\n");
            }
            (&Method::GET | &Method::HEAD, "/node") => {
                return text(405, "POST /node?pool=POOL&node=NODE&mode=accept, drain, reject or backup\n");
            }
            (&Method::GET | &Method::HEAD, "/purge") => return text(405, "POST /purge?path=/a/file, or ?prefix=/a/\n"),
            (&Method::GET | &Method::HEAD, "/reload" | "/upgrade") => return text(405, "POST, to have it done\n"),
            (&Method::GET | &Method::HEAD, _) => {}
            _ => {
                return text(
                    405,
                    "only GET and HEAD are served here, and POST /purge, /node, /log-level, /reload, /upgrade, /explain\n",
                );
            }
        }
        match path {
            "/metrics" => {
                let chain = self.running.load();
                let snapshot = &chain.snapshot;
                let entries = snapshot.location.as_ref().map_or(0, |map| map.len());
                chain.metrics.location_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
                chain.stores.values().for_each(|store| {
                    store.measure();
                });
                match chain.metrics.render() {
                    Ok(metrics) => reply(200, "text/plain; version=0.0.4; charset=utf-8", metrics),
                    Err(error) => text(500, &format!("{error:#}\n")),
                }
            }
            "/status" => reply(200, "application/json", format!("{:#}\n", self.status()).into_bytes()),
            // Alive: this answer is the proof. Ready: the listeners take new connections.
            "/healthz" => text(200, "ok\n"),
            "/readyz" if *self.stopping.borrow() => text(503, "stopping\n"),
            "/readyz" => text(200, "ready\n"),
            "/" => text(
                200,
                "hopfall admin: /metrics /status /healthz /readyz /explain?path=, POST /purge, /node, /log-level, /reload and /upgrade\n",
            ),
            _ => text(404, "no such page: /metrics /status /healthz /readyz\n"),
        }
    }

    /// Who is up and what for, and what stores cost today.
    fn status(&self) -> serde_json::Value {
        let chain = self.running.load();
        let snapshot = &chain.snapshot;
        let node = |node: &Arc<Node>| {
            json!({
                "name": node.name,
                "up": node.is_up(snapshot.now()),
                "mode": node.mode().as_str(),
                "weight": node.weight,
                "in_flight": node.gate.in_flight(),
            })
        };
        let pools = snapshot
            .pools
            .iter()
            .map(|pool| json!({ "name": pool.name(), "nodes": pool.nodes.iter().map(node).collect::<Vec<_>>() }));
        let stores = chain.stores.values().map(|store| {
            json!({
                "name": store.s3.config.name,
                "dollars_today": store.s3.spent_today(),
                "budget_per_day": store.s3.config.budget_per_day.map(|budget| budget as f64 / 1e9),
            })
        });
        json!({
            "config": { "generation": snapshot.generation, "last_reload": self.reloads.to_json() },
            "pools": pools.collect::<Vec<_>>(),
            "stores": stores.collect::<Vec<_>>(),
        })
    }

    async fn order(&self, order: fn(oneshot::Sender<Result<String, Refused>>) -> Order) -> Response<Vec<u8>> {
        let (reply, done) = oneshot::channel();
        if self.orders.send(order(reply)).await.is_err() {
            return text(503, "stopping\n");
        }
        match done.await {
            Ok(Ok(told)) => text(200, &format!("{told}\n")),
            Ok(Err(refused @ Refused::Mistakes(_))) => text(422, &format!("not done: {refused}\n")),
            Ok(Err(refused)) => text(409, &format!("not done: {refused}\n")),
            Err(_) => text(503, "stopping\n"),
        }
    }

    /// Changes a node's mode, until the process ends.
    fn set_mode(&self, query: &str) -> Response<Vec<u8>> {
        let parameter = |name| String::from_utf8(parameter(query, name)?).ok();
        let (Some(pool), Some(node), Some(mode)) = (parameter("pool"), parameter("node"), parameter("mode")) else {
            return text(400, "say which: ?pool=POOL&node=NODE&mode=MODE\n");
        };
        let Ok(mode) = Mode::parse(&mode) else {
            return text(400, &format!("`{mode}` is no mode: accept, reject, drain, backup\n"));
        };
        let chain = self.running.load();
        let pools = &chain.snapshot.pools;
        let found =
            pools.iter().find(|own| own.name() == pool).map(|pool| pool.nodes.iter().find(|own| own.name == node));
        match found {
            None => text(404, &format!("there is no pool `{pool}`\n")),
            Some(None) => text(404, &format!("there is no node `{node}` in pool `{pool}`\n")),
            Some(Some(found)) => {
                let before = found.mode();
                found.set_mode(mode);
                log::warn!("node {node} of pool {pool} is set from {before:?} to {mode:?}");
                let (mode, before) = (mode.as_str(), before.as_str());
                text(200, &format!("{node}: {mode}, was {before}; until the process ends\n"))
            }
        }
    }

    /// Tells how a request would go; `live`: makes it.
    async fn explain(&self, query: Option<&str>, live: bool) -> Response<Vec<u8>> {
        let query = query.unwrap_or_default();
        let chain = self.running.load_full();
        let explained = match Question::parse(|name| parameter(query, name)) {
            Ok(question) if live => chain.explain_live(&question).await,
            Ok(question) => chain.explain(&question).await,
            Err(mistake) => Err(mistake),
        };
        match (explained, parameter(query, "format").as_deref()) {
            (Ok(told), Some(b"text")) => text(200, &told.to_string()),
            (Ok(told), _) => match serde_json::to_vec_pretty(&told) {
                Ok(json) => reply(200, "application/json", [json, b"\n".to_vec()].concat()),
                Err(error) => text(500, &format!("{error}\n")),
            },
            (Err(mistake), _) => text(422, &format!("{mistake}\n")),
        }
    }

    /// Forgets where a path is, or all paths that begin so, and removes what stores keep of them.
    async fn purge(&self, query: &str) -> Response<Vec<u8>> {
        let parameter = |name| parameter(query, name).filter(|path| path.starts_with(b"/"));
        let (path, prefix) = match (parameter("path"), parameter("prefix")) {
            (Some(path), None) => (path, false),
            (None, Some(prefix)) => (prefix, true),
            _ => return text(400, "say which: ?path=/a/file, or ?prefix=/a/ (percent-encoded)\n"),
        };
        match self.running.load_full().purge(&path, prefix).await {
            Ok(removed) => {
                let what = if prefix { "all paths that begin with " } else { "" };
                let path = String::from_utf8_lossy(&path);
                let kept = if removed > 0 { format!(" ({removed} removed from disk)") } else { String::new() };
                text(200, &format!("forgotten: {what}{path}{kept}\n"))
            }
            Err(error) => text(500, &format!("not all is purged: {error}\n")),
        }
    }
}

/// Changes which messages are told, until the process ends.
fn set_level(query: &str) -> Response<Vec<u8>> {
    let Some(level) = parameter(query, "level").and_then(|level| String::from_utf8(level).ok()) else {
        return text(400, "say which: ?level=LEVEL\n");
    };
    let Ok(level) = Level::parse(&level) else {
        return text(400, &format!("`{level}` is no level: error, warn, info, debug, trace\n"));
    };
    let before = log::max_level();
    log::set_max_level(level.filter());
    log::warn!("messages are told from level {} on; it was {}", level.as_str(), before.as_str().to_lowercase());
    text(200, &format!("messages are told from level {} on\n", level.as_str()))
}

/// The value of a query's parameter, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(value).collect())
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
