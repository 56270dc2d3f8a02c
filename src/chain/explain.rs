//! Explaining a request: the walk that it would take, from the state that the next real one would find, and changing
//! nothing of it. It runs the code that real requests run: [`Search`], [`crate::pool::Rehearsal`], [`Hints`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Version, header};
use pingora::protocols::http::ServerSession;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::hints::Hints;
use super::{Chain, Request, in_the_end};
use crate::config::{self, Listener, Mode, Protocol, Route, Serves};
use crate::explain;
use crate::explain::{
    AtOnce, Choice, Disk, Explanation, Health, Hint, Hop, Kind, Live, LiveHop, NodeState, NotAsked, S3, printable,
    spoken,
};
use crate::fallback::{self, Busy, Outcome, Refusal, Repeat, Search, Stage, Step};
use crate::headers::{self, Client};
use crate::hop::TargetId;
use crate::location::Mark;
use crate::origin::StoreOrigin;
use crate::pool::{self, Away, Node, Pool, Rehearsal};
use crate::s3::key::object_key;
use crate::shape::{self, Head};
use crate::snapshot::Caller;
use crate::trip::{Attempt, Cached, Trip, paid_bytes};

/// The request that is to be explained.
#[derive(Debug)]
pub struct Question {
    method: Method,
    /// In origin form.
    target: Vec<u8>,
    /// As the request would have it.
    host: Option<HeaderValue>,
    /// Of an absolute URL.
    scheme: Option<Scheme>,
    /// The listener's name.
    listener: Option<String>,
    client: IpAddr,
    cookie: Option<HeaderValue>,
}

/// `https` or not, and the port.
#[derive(Clone, Copy, Debug)]
struct Scheme {
    tls: bool,
    port: u16,
}

/// What a question comes to under this config.
struct Case<'a> {
    listener: &'a Listener,
    host: HeaderValue,
    headers: HeaderMap,
    client: Client,
    notes: Vec<String>,
}

impl Question {
    /// From named values: `path`, which is a path or an absolute URL, `host`, `listener`, `method`, `client`, `cookie`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(value: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Question, String> {
        let text = |name: &str| value(name).map(|value| String::from_utf8_lossy(&value).into_owned());
        let field = |name: &str| {
            let parse = |value: Vec<u8>| {
                HeaderValue::from_bytes(&value).map_err(|_| format!("`{name}` has bytes that no header may have"))
            };
            value(name).map(parse).transpose()
        };
        let asked =
            value("path").filter(|path| !path.is_empty()).ok_or("say which: a path such as /a/file, or a URL")?;
        let absolute = [(&b"http://"[..], false), (b"https://", true)];
        let absolute = absolute.iter().find_map(|(start, tls)| Some((asked.strip_prefix(*start)?, *tls)));
        let (target, of_url, scheme) = match absolute {
            None => (asked, None, None),
            Some((rest, tls)) => {
                let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let host = HeaderValue::from_bytes(authority).map_err(|_| "the URL's host is malformed")?;
                let port = std::str::from_utf8(authority).ok().and_then(|authority| authority.rsplit_once(':'));
                let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(if tls { 443 } else { 80 });
                let path = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
                (path, Some(host), Some(Scheme { tls, port }))
            }
        };
        let method = match text("method").as_deref() {
            None | Some("GET") => Method::GET,
            Some("HEAD") => Method::HEAD,
            Some(_) => return Err("only GET and HEAD go along the chain".to_owned()),
        };
        let client = match text("client") {
            None => NOBODY,
            Some(client) => client.parse().map_err(|_| format!("`{}` is no IP address", printable(&client)))?,
        };
        // A fragment never leaves the client.
        let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
        Ok(Question {
            method,
            target: shape::encoded(target),
            host: field("host")?.or(of_url),
            scheme,
            listener: text("listener"),
            client,
            cookie: field("cookie")?,
        })
    }
}

impl Chain {
    /// How the request would go. Nobody is asked, and the next request finds all as it was.
    ///
    /// # Errors
    /// When there is no such listener.
    pub async fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let case = self.case(question)?;
        Ok(self.explain_case(question, &case).await)
    }

    /// Makes the request, and tells what came of it beside what was foreseen. The body is counted and dropped.
    ///
    /// # Errors
    /// When there is no such listener.
    pub async fn explain_live(&self, question: &Question) -> Result<Explanation, String> {
        let case = self.case(question)?;
        let mut explanation = self.explain_case(question, &case).await;
        match self.route_of(question, &case) {
            Ok(route) => explanation.live = Some(self.make(question, &case, route).await),
            Err(_) => explanation.notes.push("the request was not made: it would reach nobody".to_owned()),
        }
        Ok(explanation)
    }

    fn case(&self, question: &Question) -> Result<Case<'_>, String> {
        let mut notes = Vec::new();
        let listener = self.listener_for(question, &mut notes)?;
        let host = question.host.clone().unwrap_or_else(|| {
            if self.snapshot.location.is_some() {
                notes.push("no host was given, and the location map knows a path by its host: name it".to_owned());
            }
            HeaderValue::from_str(&listener.address.to_string()).unwrap_or(HeaderValue::from_static("localhost"))
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static("hopfall-explain"));
        if let Some(cookie) = &question.cookie {
            headers.insert(header::COOKIE, cookie.clone());
        }
        let tls = listener.protocol == Protocol::Https;
        let client = Client::of(question.client, tls, &headers, &listener.trusted);
        Ok(Case { listener, host, headers, client, notes })
    }

    fn listener_for(&self, question: &Question, notes: &mut Vec<String>) -> Result<&Listener, String> {
        let listeners = &self.snapshot.config.listeners;
        let mut http = listeners.iter().filter(|listener| matches!(listener.serves, Serves::Routes(_)));
        if let Some(name) = &question.listener {
            let known = || http.clone().map(|listener| listener.name.as_str()).collect::<Vec<_>>().join(", ");
            let named = http.clone().find(|listener| listener.name == *name);
            return named
                .ok_or_else(|| format!("there is no http or https listener `{}`: {}", printable(name), known()));
        }
        if let Some(Scheme { tls, port }) = question.scheme {
            let speaks = |listener: &&Listener| (listener.protocol == Protocol::Https) == tls;
            if let Some(listener) = http.clone().filter(speaks).find(|listener| listener.address.port() == port) {
                return Ok(listener);
            }
            if let Some(listener) = http.clone().find(speaks) {
                notes.push(format!("no listener has port {port}: taken for one of `{}`", listener.name));
                return Ok(listener);
            }
        }
        http.next().ok_or_else(|| "there is no http or https listener".to_owned())
    }

    /// The route, or what is answered without one.
    fn route_of(&self, question: &Question, case: &Case<'_>) -> Result<&Route, AtOnce> {
        let (method, target, listener) = (&question.method, question.target.as_slice(), case.listener);
        let head = Head { method, target, version: Version::HTTP_11, headers: &case.headers, raw: &[] };
        if let Err(bad) = shape::check(&head, &listener.head) {
            return Err(AtOnce { status: bad.status, why: bad.reason.to_owned() });
        }
        if listener.redirect_to_https.is_some() {
            return Err(AtOnce { status: 308, why: "the listener sends its clients to https".to_owned() });
        }
        let found = listener.serves.route(Some(case.host.as_bytes()), target);
        let route = found.and_then(|route| self.snapshot.config.routes.get(route));
        route.ok_or_else(|| AtOnce {
            status: Refusal::UNROUTED.status,
            why: "no route of the listener is for this host and path".to_owned(),
        })
    }

    fn request<'a>(&'a self, question: &'a Question, case: &'a Case<'a>, route: &'a Route) -> Request<'a> {
        Request {
            method: &question.method,
            target: &question.target,
            version: Version::HTTP_11,
            host: Some(&case.host),
            for_node: headers::for_node(&case.headers, &case.client),
            for_store: headers::for_s3(&case.headers),
            client: &case.client,
            caller: match question.client {
                NOBODY => Caller::Client,
                client => self.snapshot.caller(route, client, case.listener.address.ip()),
            },
            route,
            started: Instant::now(),
            hsts: None,
        }
    }

    async fn explain_case(&self, question: &Question, case: &Case<'_>) -> Explanation {
        let mut explanation = Explanation {
            request: explain::Request {
                method: question.method.to_string(),
                host: printable(&String::from_utf8_lossy(case.host.as_bytes())),
                target: printable(&String::from_utf8_lossy(&question.target)),
                listener: case.listener.name.clone(),
                route: None,
                client: question.client.to_string(),
                caller: "client".to_owned(),
            },
            at_once: None,
            hops: Vec::new(),
            not_asked: Vec::new(),
            if_all_lack_it: Refusal::ABSENT.status,
            notes: case.notes.clone(),
            live: None,
        };
        let route = match self.route_of(question, case) {
            Ok(route) => route,
            Err(at_once) => {
                explanation.if_all_lack_it = at_once.status;
                explanation.at_once = Some(at_once);
                return explanation;
            }
        };
        explanation.request.route = Some(route.name.clone());
        let request = self.request(question, case, route);
        match request.caller {
            Caller::Client => {}
            Caller::Node(node) => {
                explanation.request.caller = format!("node {}", node.name);
                explanation
                    .notes
                    .push("what comes from a node is asked of stores only, so that it cannot loop".to_owned());
            }
            Caller::Neighbour => {
                explanation.request.caller = "neighbour".to_owned();
                explanation.notes.push(
                    "nodes are on this machine too, so requests from here take turns: a node that is being asked for this \
                     path is waited for"
                        .to_owned(),
                );
            }
        }
        let hints = self.peek_hints(&request);
        if hints.is_control() {
            explanation.notes.push("the path is of the location map's control group: hints are ignored".to_owned());
        }
        if hints.nowhere() {
            let ago = hints.age().map_or_else(String::new, |age| format!(", {} ago", said(age)));
            let why = format!("by the location map, every source said that it lacks the file{ago}");
            explanation.at_once = Some(AtOnce { status: Refusal::ABSENT.status, why });
            return explanation;
        }
        if hints.cold().is_some_and(|path| self.searches.follow(&path).is_some()) {
            explanation
                .notes
                .push("another request is searching for this path: what it finds is waited for".to_owned());
        }
        self.walk(&request, &hints, &mut explanation).await;
        explanation
    }

    /// Fills in whom the request would ask.
    async fn walk(&self, request: &Request<'_>, hints: &Hints<'_>, explanation: &mut Explanation) {
        let now = self.snapshot.now();
        let asker = request.asker();
        let mut search = Search::new(request.route.plan.as_ref(), Repeat::Safe);
        let preferred = self.store_to_prefer(request.route, hints);
        if let Some(store) = preferred {
            search.prefer(store);
        }
        let from_node = matches!(request.caller, Caller::Node(_));
        if from_node {
            search.ask_stores_only();
        }
        let mut rehearsals: HashMap<usize, Rehearsal<'_>> = HashMap::new();
        let refusal = loop {
            let mut picked = None;
            let step = search.next(false, |index, visited| {
                let pool = self.snapshot.pools.get(index)?;
                let rehearsal = rehearsals.entry(index).or_insert_with(|| pool.rehearse(now));
                let (node, choice) = rehearsal.pick(visited, &asker, |target| hints.of(target))?;
                picked = Some((pool, node, choice));
                Some(node.target)
            });
            let target = match step {
                Step::Try(target) => target,
                Step::Refuse(refusal) => break refusal,
            };
            let picked = picked.filter(|(_, node, _)| node.target == target);
            let (hop, kind, outcome) = match (picked, self.stores.get(&target)) {
                (Some((pool, node, choice)), _) => {
                    let is_left = |other: &Node| {
                        !search.visited().contains(other.target) && matches!(other.mode(), Mode::Accept | Mode::Backup)
                    };
                    let others = pool.nodes.iter().any(|other| is_left(other));
                    let hop = of_node(pool, node, choice, others, hints, now);
                    (hop, fallback::Kind::Node, Outcome::Absent(404))
                }
                (None, Some(store)) => {
                    let first = explanation.hops.is_empty() && preferred == Some(target);
                    let hop = of_store(store, request, hints, first).await;
                    let unpaid = hop.s3.as_ref().is_some_and(is_unpaid);
                    let outcome = if unpaid { Outcome::Busy(Busy::Full) } else { Outcome::Absent(404) };
                    (hop, fallback::Kind::Store, outcome)
                }
                // invariant: the plan has nodes and stores of this snapshot
                (None, None) => break Refusal { status: 502, failure: None },
            };
            explanation.hops.push(hop);
            search.judge(kind, outcome);
        };
        let refusal = in_the_end(refusal, explanation.hops.is_empty(), &request.caller);
        explanation.if_all_lack_it = refusal.status;
        self.tell_who_is_passed(request, &search, from_node, explanation);
    }

    /// Fills in whom the request would not ask.
    fn tell_who_is_passed(
        &self,
        request: &Request<'_>,
        search: &Search<&fallback::Plan>,
        from_node: bool,
        explanation: &mut Explanation,
    ) {
        let plan = &request.route.plan;
        let spent = plan.attempts > 0 && search.attempts() >= plan.attempts;
        let told = |explanation: &mut Explanation, target: &str, pool: Option<&str>, why: String| {
            let (target, pool) = (target.to_owned(), pool.map(str::to_owned));
            explanation.not_asked.push(NotAsked { target, pool, why });
        };
        for stage in &plan.stages {
            match stage {
                Stage::Pool(pool) => {
                    let Some(pool) = self.snapshot.pools.get(*pool) else { continue };
                    for node in &pool.nodes {
                        if explanation.hops.iter().any(|hop| is_hop_of(hop, pool, node)) {
                            continue;
                        }
                        let why = match node.mode() {
                            _ if from_node => "the request comes from a node".to_owned(),
                            Mode::Reject => "reject: not asked".to_owned(),
                            Mode::Drain => "drain: only clients that stick to it".to_owned(),
                            _ if search.visited().contains(node.target) && !spent => {
                                "the same address was asked before, in another pool".to_owned()
                            }
                            _ => format!("the route's {} attempts are spent", plan.attempts),
                        };
                        told(explanation, &node.name, Some(pool.name()), why);
                    }
                }
                Stage::Store(store) => {
                    let Some(store) = self.stores.get(store) else { continue };
                    let name = &store.s3.config.name;
                    if !explanation.hops.iter().any(|hop| hop.kind == Kind::Store && hop.target == *name) {
                        let why = format!("the route's {} attempts are spent", plan.attempts);
                        told(explanation, name, None, why);
                    }
                }
            }
        }
    }

    /// Makes the request, through the chain as a client's goes.
    async fn make(&self, question: &Question, case: &Case<'_>, route: &Route) -> Live {
        let (mut client, server) = tokio::io::duplex(PIPE);
        let mut session = ServerSession::new_http1(Box::new(server));
        let request = self.request(question, case, route);
        let mut head = format!("{} ", question.method).into_bytes();
        head.extend_from_slice(&question.target);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &case.headers {
            head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        head.extend_from_slice(b"Connection: close\r\n\r\n");

        let began = Instant::now();
        let mut trip = Trip::default();
        let told = &mut trip;
        let asking = async move {
            if client.write_all(&head).await.is_err() {
                return None;
            }
            // Its first line is all that is wanted of the answer; the body is counted where it is sent.
            let (mut start, mut piece) = (Vec::new(), vec![0; PIPE]);
            while let Ok(length @ 1..) = client.read(&mut piece).await {
                if start.len() < STATUS_LINE {
                    start.extend_from_slice(&piece[..length.min(STATUS_LINE)]);
                }
            }
            status_of(&start)
        };
        let answering = async move {
            if !session.read_request().await.is_ok_and(|read| read) {
                return;
            }
            if timeout(LONGEST, self.run(&mut session, &request, told)).await.is_err() {
                told.aborted = Some("deadline");
            }
        };
        let (status, ()) = tokio::join!(asking, answering);
        self.told(question, status, began.elapsed(), &trip)
    }

    fn told(&self, question: &Question, status: Option<u16>, took: Duration, trip: &Trip) -> Live {
        let last = trip.attempts.len().saturating_sub(1);
        let hop = |(i, attempt): (usize, &Attempt)| {
            let bytes = if i == last && trip.served_by.is_some() { trip.sent } else { 0 };
            let store = self.stores.values().find(|store| store.s3.config.name == attempt.target);
            let cached = trip.cached.filter(|_| i == last);
            let nanodollars = store.map_or(0, |store| cost(store, question, attempt.outcome, cached, bytes));
            LiveHop {
                target: attempt.target.clone(),
                outcome: attempt.outcome.as_str().to_owned(),
                status: attempt.outcome.status(),
                failure: attempt.outcome.failure().map(|failure| failure.as_str().to_owned()),
                bytes,
                seconds: attempt.took.as_secs_f64(),
                dollars: nanodollars as f64 / 1e9,
            }
        };
        let hops: Vec<LiveHop> = trip.attempts.iter().enumerate().map(hop).collect();
        Live {
            status,
            served_by: trip.served_by.clone(),
            failure: trip.failure.map(|failure| failure.as_str().to_owned()),
            aborted: trip.aborted.map(str::to_owned),
            cache: trip.cached.map(|cached| cached.as_str().to_owned()),
            bytes: trip.sent,
            seconds: took.as_secs_f64(),
            dollars: hops.iter().map(|hop| hop.dollars).sum(),
            hops,
        }
    }
}

/// `others`: there are more of its pool to ask after it.
fn of_node(pool: &Pool, node: &Node, choice: pool::Choice, others: bool, hints: &Hints<'_>, now: Duration) -> Hop {
    let max_in_flight = pool.config.bounds.max_in_flight;
    let away = node.away(now);
    let (hint, mut why) = of_hint(hints, node.target);
    let chosen = match choice {
        pool::Choice::Stickiness => {
            let by = match &pool.config.stickiness {
                config::Stickiness::Cookie { name } => format!("cookie {name}"),
                _ => "the table of clients".to_owned(),
            };
            why.insert(0, format!("the client was sent to it before, by {by}"));
            Choice::Stickiness
        }
        pool::Choice::Rank => Choice::Rank,
        pool::Choice::Weight { own, of } => {
            why.push(format!("next by weight ({} of {})", hundredths(own), hundredths(of)));
            Choice::Weight
        }
        pool::Choice::LeastBusy => {
            why.push(format!("fewest in flight for its weight ({})", node.gate.in_flight()));
            Choice::LeastBusy
        }
        pool::Choice::Path => {
            why.push("first on the ring for this path".to_owned());
            Choice::Path
        }
        pool::Choice::Client => {
            why.push("first on the ring for this client".to_owned());
            Choice::Client
        }
    };
    let mut down_for = None;
    let health = match away {
        None => Health::Up,
        Some(Away::Down { since }) => {
            let time = now.saturating_sub(since);
            down_for = Some(time.as_secs_f64());
            why.push(format!("down for {}: after those that are up", spoken(time)));
            Health::Down
        }
        Some(Away::Silent) => {
            why.push("kept silent of late: after those that answer".to_owned());
            Health::Silent
        }
        Some(Away::Suspect) => {
            why.push("suddenly lacks all that it is asked for: after the others".to_owned());
            Health::Suspect
        }
    };
    match node.mode() {
        Mode::Backup => why.push("backup: after all others that are up".to_owned()),
        Mode::Drain => why.push("drain: only clients that stick to it".to_owned()),
        Mode::Accept | Mode::Reject => {}
    }
    if node.gate.is_full() {
        why.push(format!("full ({max_in_flight} in flight): after those that are free, and in a queue"));
    }
    if node.endpoint.address().is_none() {
        why.push("its name has no address yet: fails at once".to_owned());
    }
    if why.is_empty() {
        why.push(match others {
            true => "ahead of the rest of its pool, which is down, backup, full or lacks it".to_owned(),
            false => "the only one left in its pool".to_owned(),
        });
    }
    let hedge = pool.config.hedge.as_ref();
    Hop {
        target: node.name.clone(),
        kind: Kind::Node,
        pool: Some(pool.name().to_owned()),
        address: node.endpoint.address().map(|address| address.to_string()),
        why,
        choice: chosen,
        hint,
        node: Some(NodeState {
            health,
            down_for,
            mode: node.mode().as_str().to_owned(),
            weight: node.weight,
            in_flight: node.gate.in_flight(),
            max_in_flight,
            hedge_after: hedge.map(|rules| node.condition.latency.patience(rules).as_secs_f64()),
        }),
        s3: None,
    }
}

async fn of_store(store: &StoreOrigin, request: &Request<'_>, hints: &Hints<'_>, preferred: bool) -> Hop {
    let s3 = store.explain(request.method, request.target).await;
    let target = store.s3.target();
    let (hint, mut why) = of_hint(hints, target);
    if preferred {
        why.push("preferred, since every node is known to lack it".to_owned());
    } else {
        why.push("next in the chain".to_owned());
    }
    match &s3.disk {
        Disk::Fresh { .. } => why.push("from its disk, without asking S3".to_owned()),
        Disk::Stale { while_revalidating: true, .. } => why.push("from its disk, S3 is asked on the side".to_owned()),
        Disk::None | Disk::NotKept | Disk::Stale { .. } => {}
    }
    if s3.request.is_none() {
        why.push("no object can have this name: absent without a request".to_owned());
    } else if is_unpaid(&s3) {
        why.push("the day's budget is spent: not asked, and then the file may exist".to_owned());
    }
    Hop {
        target: store.s3.config.name.clone(),
        kind: Kind::Store,
        pool: None,
        address: Some(store.s3.endpoint.name.to_string()),
        why,
        choice: if preferred { Choice::Preferred } else { Choice::Chain },
        hint,
        node: None,
        s3: Some(s3),
    }
}

/// S3 would be asked, if there was money left.
fn is_unpaid(s3: &S3) -> bool {
    s3.request.is_some() && s3.dollars_left.is_some_and(|left| left <= 0.0) && !matches!(s3.disk, Disk::Fresh { .. })
}

fn of_hint(hints: &Hints<'_>, target: TargetId) -> (Hint, Vec<String>) {
    let ago = || hints.age().map_or_else(String::new, |age| format!(" {} ago", said(age)));
    match hints.of(target) {
        Mark::Has => (Hint::Has, vec![format!("has it, by the location map{}", ago())]),
        Mark::Lacks => (Hint::Lacks, vec![format!("lacks it, by the location map{}", ago())]),
        Mark::Unknown => (Hint::Unknown, Vec::new()),
    }
}

fn is_hop_of(hop: &Hop, pool: &Pool, node: &Node) -> bool {
    hop.target == node.name && hop.pool.as_deref() == Some(pool.name())
}

/// Nanodollars, by the prices of the config.
fn cost(store: &StoreOrigin, question: &Question, outcome: Outcome, cached: Option<Cached>, bytes: u64) -> u64 {
    let config = &store.s3.config;
    if object_key(&config.prefix, &question.target).is_none() {
        return 0;
    }
    paid_bytes(outcome, cached, bytes).map_or(0, |bytes| config.prices.of(bytes))
}

/// A weight, which is counted in hundredths.
fn hundredths(weight: i64) -> String {
    if weight % 100 == 0 { (weight / 100).to_string() } else { format!("{:.2}", weight as f64 / 100.0) }
}

fn said(seconds: u64) -> String {
    spoken(Duration::from_secs(seconds))
}

/// Of `HTTP/1.1 200 OK`.
fn status_of(start: &[u8]) -> Option<u16> {
    std::str::from_utf8(start.get(..STATUS_LINE)?).ok()?.split(' ').nth(1)?.parse().ok()
}

/// Bytes of a head that tell its status.
const STATUS_LINE: usize = 12;
/// Bytes between the two ends of a request of our own.
const PIPE: usize = 64 * 1024;
/// How long a request of our own may take, with its body.
pub const LONGEST: Duration = Duration::from_secs(60);
/// A client that nobody has named.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
