//! The admin listener: the status page, `/status.json`, `/metrics`, `/healthz`, `/readyz`, `/explain`; and orders, by POST:
//! `/purge`, `/node`, `/log-level`, `/reload`, `/upgrade`, `/explain`.
//!
//! Everybody who reaches it may look. Orders need the token where there is one, by `Authorization` or by a [`session`] of the
//! page; where there is none they must come from this machine. What browsers can be made to send is refused ([`guard`]).

mod flow;
mod form;
mod guard;
mod page;
mod samples;
mod session;
mod status;
mod write;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderMap, Method, Response, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use tokio::sync::{mpsc, oneshot, watch};

pub use status::Status;

use crate::chain::{Chain, Question};
use crate::config::{Config, Level, Mode, Problems, Secret};
use crate::edge::Connection;
use crate::history::Kind;
use crate::units::Scalar;
use form::Form;
use guard::Refused as Denied;
use page::May;
use samples::Samples;
use session::{Session, Sessions};
use status::{Moment, Reload};

pub struct Admin {
    /// What is served from now.
    running: Arc<ArcSwap<Chain>>,
    /// Turns true when the process begins to stop.
    stopping: watch::Receiver<bool>,
    orders: mpsc::Sender<Order>,
    reloads: Arc<Reloads>,
    samples: Arc<Mutex<Samples>>,
    sessions: Sessions,
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

    fn last(&self) -> Option<Reload> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, result) = last.as_ref()?;
        let (ok, told) = match result {
            Ok(told) => (true, told),
            Err(told) => (false, told),
        };
        Some(Reload { at: status::told(*at), ok, told: told.clone() })
    }
}

/// Who gives an order.
enum By {
    /// A command line, which wants words.
    Command,
    /// The page, which wants to be shown again.
    Page,
}

/// What came of an order: a status, and words.
type Done = (u16, String);

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let response = self.answer(session).await;
        if let Some(connection) = Connection::of(session.stream()) {
            connection.end_request();
        }
        response
    }
}

impl Admin {
    /// For the listener at `address`.
    pub fn new(
        running: Arc<ArcSwap<Chain>>,
        stopping: watch::Receiver<bool>,
        orders: mpsc::Sender<Order>,
        reloads: Arc<Reloads>,
        address: SocketAddr,
    ) -> Admin {
        let sessions = Sessions::new(address.port(), rand::random(), (rand::random(), rand::random()));
        // The first look is from before anything that the page tells of.
        let mut samples = Samples::default();
        let chain = running.load();
        samples.keep(chain.snapshot.now(), chain.metrics.tally());
        drop(chain);
        Admin { running, stopping, orders, reloads, samples: Arc::new(Mutex::new(samples)), sessions }
    }

    /// Looks at the counters for as long as it runs.
    pub fn sampling(&self) -> impl Future<Output = ()> + Send + use<> {
        let (running, samples) = (self.running.clone(), self.samples.clone());
        async move {
            let mut clock = tokio::time::interval(samples::EVERY);
            loop {
                clock.tick().await;
                let chain = running.load_full();
                let tally = chain.metrics.tally();
                samples.lock().unwrap_or_else(PoisonError::into_inner).keep(chain.snapshot.now(), tally);
            }
        }
    }

    async fn answer(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let form = match form::read(session).await {
            Ok(form) => form,
            Err(denied) => {
                session.set_keepalive(None);
                return text(denied.status(), &format!("{denied}\n"));
            }
        };
        let request = session.req_header();
        let (headers, path) = (&request.headers, request.uri.path());
        let chain = self.running.load_full();
        // Scrapers and health checks go by names that nobody has listed.
        let open = matches!(path, "/metrics" | "/healthz" | "/readyz");
        if !open && !guard::is_ours(headers, hosts(&chain.snapshot.config)) {
            return text(Denied::Name.status(), &format!("{}\n", Denied::Name));
        }
        match request.method {
            Method::GET | Method::HEAD if path == "/explain" => explain(&chain, &form, false).await,
            Method::GET | Method::HEAD => self.tell(&chain, headers, path),
            Method::POST => self.obey(&chain, session, &form).await,
            _ => text(
                405,
                "only GET and HEAD are served here, and POST /purge, /node, /log-level, /reload, /upgrade and /explain\n",
            ),
        }
    }

    fn tell(&self, chain: &Chain, headers: &HeaderMap, path: &str) -> Response<Vec<u8>> {
        match path {
            "/metrics" => {
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
            // Alive: this answer is the proof. Ready: the listeners take new connections.
            "/healthz" => text(200, "ok\n"),
            "/readyz" if *self.stopping.borrow() => text(503, "stopping\n"),
            "/readyz" => text(200, "ready\n"),
            "/" | "/status" if wants_page(headers) => self.page(chain, headers, 200, None),
            "/status" | "/status.json" => json(&self.status(chain)),
            "/status.schema.json" => json(&schemars::schema_for!(Status)),
            "/" => text(
                200,
                "hopfall admin: /status (a page for browsers, else JSON) /status.json /status.schema.json /metrics /healthz \
                 /readyz /explain?path=, POST /purge, /node, /log-level, /reload, /upgrade and /explain\n",
            ),
            "/node" => text(405, "POST /node?pool=POOL&node=NODE&mode=accept, drain, reject or backup\n"),
            "/log-level" => text(405, "POST /log-level?level=error, warn, info, debug or trace\n"),
            "/purge" => text(405, "POST /purge?path=/a/file, or ?prefix=/a/\n"),
            "/reload" | "/upgrade" => text(405, "send POST to do it\n"),
            "/sign-in" | "/sign-out" => text(405, "the forms are on /status\n"),
            _ => text(404, "no such page: /status /status.json /status.schema.json /metrics /healthz /readyz\n"),
        }
    }

    fn status(&self, chain: &Chain) -> Status {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = Moment {
            samples: &samples,
            last_reload: self.reloads.last(),
            stopping: *self.stopping.borrow(),
            time: SystemTime::now(),
        };
        Status::of(chain, moment)
    }

    fn page(&self, chain: &Chain, headers: &HeaderMap, code: u16, notice: Option<&str>) -> Response<Vec<u8>> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let session = self.session(chain, headers);
        let may = match (token(&chain.snapshot.config), &session) {
            (None, _) => May::Look,
            (Some(_), None) => May::SignIn,
            (Some(_), Some(session)) => May::Order(session),
        };
        let page = page::page(&self.status(chain), may, notice, &nonce);
        let mut response = reply(code, "text/html; charset=utf-8", page.into_bytes());
        put(&mut response, "content-security-policy", &page::policy(&nonce));
        response
    }

    fn session(&self, chain: &Chain, headers: &HeaderMap) -> Option<Session> {
        self.sessions.find(headers, token(&chain.snapshot.config)?.expose(), unix_time())
    }

    async fn obey(&self, chain: &Arc<Chain>, session: &ServerSession, form: &Form) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (headers, path) = (&request.headers, request.uri.path());
        if !ORDERS.contains(&path) {
            return text(405, "commands are POST /purge, /node, /log-level, /reload, /upgrade and /explain\n");
        }
        if guard::is_cross_site(headers) {
            return text(Denied::CrossSite.status(), &format!("{}\n", Denied::CrossSite));
        }
        let client = client(session);
        if path == "/sign-in" {
            return match self.sign_in(chain, client, form) {
                Ok(cookie) => see_status(Some(&cookie)),
                Err(denied) => self.deny(chain, headers, denied),
            };
        }
        let by = match self.permit(chain, session, form) {
            Ok(by) => by,
            Err(denied) => return self.deny(chain, headers, denied),
        };
        let (code, told) = match path {
            "/sign-out" => return see_status(Some(&self.sessions.close())),
            "/explain" => return explain(chain, form, true).await,
            "/node" => set_mode(chain, form),
            "/log-level" => set_level(form),
            "/purge" => purge(chain, form).await,
            "/upgrade" => self.order(Order::Upgrade).await,
            _ => self.order(Order::Reload).await,
        };
        match by {
            By::Page if code == 200 => see_status(None),
            // What runs may have changed meanwhile.
            By::Page => self.page(&self.running.load_full(), headers, code, Some(&told)),
            By::Command => text(code, &format!("{told}\n")),
        }
    }

    /// Whether an order may be given, and by whom it is.
    fn permit(&self, chain: &Chain, session: &ServerSession, form: &Form) -> Result<By, Denied> {
        let headers = &session.req_header().headers;
        let client = client(session);
        let Some(token) = token(&chain.snapshot.config) else {
            let local = session.server_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
            let is_here = client.is_loopback() || local.map(|local| local.to_canonical()) == Some(client);
            return if is_here { Ok(By::Command) } else { Err(Denied::NotHere) };
        };
        if let Some(given) = guard::bearer(headers) {
            self.sessions.check(given, token.expose(), client, chain.snapshot.now())?;
            return Ok(By::Command);
        }
        let session = self.sessions.find(headers, token.expose(), unix_time()).ok_or(Denied::NoToken)?;
        if self.sessions.is_of(&session, form.text("csrf")) { Ok(By::Page) } else { Err(Denied::Stale) }
    }

    /// The cookie for who has the token.
    fn sign_in(&self, chain: &Chain, client: IpAddr, form: &Form) -> Result<String, Denied> {
        let token = token(&chain.snapshot.config).ok_or(Denied::NoSessions)?.expose();
        let given = form.text("token").unwrap_or_default();
        let checked = self.sessions.check(given, token, client, chain.snapshot.now());
        checked.inspect_err(|denied| log::warn!("admin: {client} could not sign in: {denied}"))?;
        log::info!("admin: {client} has signed in");
        Ok(self.sessions.open(token, unix_time(), rand::random()))
    }

    fn deny(&self, chain: &Chain, headers: &HeaderMap, denied: Denied) -> Response<Vec<u8>> {
        let mut response = match wants_page(headers) {
            true => self.page(chain, headers, denied.status(), Some(&denied.to_string())),
            false => text(denied.status(), &format!("{denied}\n")),
        };
        if denied.status() == 401 {
            put(&mut response, "www-authenticate", "Bearer");
        }
        response
    }

    async fn order(&self, order: fn(oneshot::Sender<Result<String, Refused>>) -> Order) -> Done {
        let stopping = || (503, "stopping".to_owned());
        let (reply, done) = oneshot::channel();
        if self.orders.send(order(reply)).await.is_err() {
            return stopping();
        }
        match done.await {
            Ok(Ok(told)) => (200, told),
            Ok(Err(refused @ Refused::Mistakes(_))) => (422, format!("not done: {refused}")),
            Ok(Err(refused)) => (409, format!("not done: {refused}")),
            Err(_) => stopping(),
        }
    }
}

/// Tells how a request would go; `live`: makes it.
async fn explain(chain: &Arc<Chain>, form: &Form, live: bool) -> Response<Vec<u8>> {
    let explained = match Question::parse(|name| form.bytes(name).map(<[u8]>::to_vec)) {
        Ok(question) if live => chain.explain_live(&question).await,
        Ok(question) => chain.explain(&question).await,
        Err(mistake) => Err(mistake),
    };
    match (explained, form.text("format")) {
        (Ok(told), Some("text")) => text(200, &told.to_string()),
        (Ok(told), _) => json(&told),
        (Err(mistake), _) => text(422, &format!("{mistake}\n")),
    }
}

/// Changes a node's mode, until a restart.
fn set_mode(chain: &Chain, form: &Form) -> Done {
    let (Some(pool), Some(node), Some(mode)) = (form.text("pool"), form.text("node"), form.text("mode")) else {
        return (400, "say which: ?pool=POOL&node=NODE&mode=MODE".to_owned());
    };
    let Ok(mode) = Mode::parse(mode) else {
        return (400, format!("`{mode}` is not a mode; write one of: accept, reject, drain, backup"));
    };
    let pools = &chain.snapshot.pools;
    let found = pools.iter().find(|own| own.name() == pool).map(|pool| pool.nodes.iter().find(|own| own.name == node));
    match found {
        None => (404, format!("there is no pool `{pool}`")),
        Some(None) => (404, format!("there is no node `{node}` in pool `{pool}`")),
        Some(Some(found)) => {
            let before = found.mode();
            found.set_mode(mode);
            log::warn!("node {node} of pool {pool} is set from {} to {}", before.as_str(), mode.as_str());
            let told = format!("{}, was {}", mode.as_str(), before.as_str());
            chain.metrics.history.note(SystemTime::now(), Kind::Mode, [pool, node], &told);
            (200, format!("{node}: {told}; until a restart"))
        }
    }
}

/// Changes which messages are told, until the process ends.
fn set_level(form: &Form) -> Done {
    let Some(level) = form.text("level") else {
        return (400, "say which: ?level=LEVEL".to_owned());
    };
    let Ok(level) = Level::parse(level) else {
        return (400, format!("`{level}` is not a level; write one of: error, warn, info, debug, trace"));
    };
    let before = log::max_level();
    log::set_max_level(level.filter());
    log::warn!("messages are logged from level {} on; it was {}", level.as_str(), before.as_str().to_lowercase());
    (200, format!("messages are logged from level {} on", level.as_str()))
}

/// Forgets where a path is, or all paths that begin so, and removes what stores keep of them.
async fn purge(chain: &Arc<Chain>, form: &Form) -> Done {
    let given = |name| form.bytes(name).filter(|path| path.starts_with(b"/"));
    let (path, prefix) = match (given("path"), given("prefix")) {
        // The page has one field, and a box to tick.
        (Some(path), None) => (path, form.text("begins").is_some()),
        (None, Some(prefix)) => (prefix, true),
        _ => return (400, "say which: ?path=/a/file, or ?prefix=/a/ (percent-encoded)".to_owned()),
    };
    match chain.clone().purge(path, prefix).await {
        Ok(removed) => {
            let what = if prefix { "all paths that begin with " } else { "" };
            let path = String::from_utf8_lossy(path);
            let kept = if removed > 0 { format!(" ({removed} removed from disk)") } else { String::new() };
            let told = format!("{what}{path}{kept}");
            chain.metrics.history.note_here(SystemTime::now(), Kind::Purged, &told);
            (200, format!("forgotten: {told}"))
        }
        Err(error) => (500, format!("not everything is purged: {error}")),
    }
}

fn token(config: &Config) -> Option<&Secret> {
    config.admin.as_ref()?.token.as_ref()
}

fn hosts(config: &Config) -> &[String] {
    config.admin.as_ref().map_or(&[], |admin| &admin.hosts)
}

fn client(session: &ServerSession) -> IpAddr {
    let address = session.client_addr().and_then(|address| address.as_inet());
    // None is known to be here.
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip().to_canonical())
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether a browser asks, which names HTML. Programs that take anything get JSON.
fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html")
    })
}

/// Back to the page, by a GET that can be repeated.
fn see_status(cookie: Option<&str>) -> Response<Vec<u8>> {
    let mut response = text(303, "done\n");
    put(&mut response, "location", "status");
    if let Some(cookie) = cookie {
        put(&mut response, "set-cookie", cookie);
    }
    response
}

fn json(value: &impl serde::Serialize) -> Response<Vec<u8>> {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            reply(200, "application/json", body)
        }
        Err(error) => text(500, &format!("{error}\n")),
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
        .header(header::VARY, "Accept")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // Not `no-referrer`: with that, browsers say `Origin: null` of our own forms.
        .header(header::REFERRER_POLICY, "same-origin")
        .header("cross-origin-resource-policy", "same-origin")
        .body(body);
    // invariant: the parts are fixed and valid
    built.expect("a fixed response is valid")
}

fn put(response: &mut Response<Vec<u8>>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

/// What is done by POST.
const ORDERS: [&str; 8] = ["/node", "/purge", "/log-level", "/reload", "/upgrade", "/explain", "/sign-in", "/sign-out"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_the_page_and_a_program_gets_json() {
        const CASES: &[(&str, bool)] = &[
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("application/json, TEXT/HTML;q=0.5", true),
            ("*/*", false),
            ("application/json", false),
            ("text/htmlx", false),
        ];
        for (accept, expected) in CASES {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(wants_page(&headers), *expected, "{accept}");
        }
        assert!(!wants_page(&HeaderMap::new()));
    }
}
