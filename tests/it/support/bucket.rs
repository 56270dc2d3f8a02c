//! A bucket whose answers a test can rule: it heeds conditions and ranges as S3 does, counts what it is asked, and can be
//! slow, broken or away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::origin::{Origin, Reply};
use super::request::Request;

pub struct Bucket {
    origin: Origin,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: HashMap<String, Object>,
    /// Done to each answer to a GET or HEAD of an object.
    mood: Option<Mood>,
}

type Mood = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

#[derive(Clone)]
struct Object {
    body: Vec<u8>,
    etag: String,
    fields: Vec<(String, String)>,
}

impl Bucket {
    /// Its name is `cats`.
    pub fn new() -> Bucket {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let origin = Origin::respond(move |request| answer(&answering, request));
        Bucket { origin, state }
    }

    pub fn addr(&self) -> SocketAddr {
        self.origin.addr()
    }

    /// The version is in its `ETag`.
    pub fn put(&self, key: &str, version: &str, body: &[u8], fields: &[(&str, &str)]) {
        let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let object = Object { body: body.to_vec(), etag: format!("\"{version}\""), fields };
        self.state.lock().unwrap().objects.insert(format!("/cats/{key}"), object);
    }

    pub fn delete(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(&format!("/cats/{key}"));
    }

    /// From here on answers go through this.
    pub fn mood(&self, mood: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) {
        self.state.lock().unwrap().mood = Some(Arc::new(mood));
    }

    pub fn good_mood(&self) {
        self.state.lock().unwrap().mood = None;
    }

    /// The requests for this key.
    pub fn requests(&self, key: &str) -> Vec<Request> {
        let target = format!("/cats/{key}");
        self.origin.requests().into_iter().filter(|request| request.target == target).collect()
    }
}

fn answer(state: &Mutex<State>, request: &Request) -> Reply {
    let (object, mood) = {
        let state = state.lock().unwrap();
        (state.objects.get(&request.target).cloned(), state.mood.clone())
    };
    let reply = match object {
        Some(object) => of_object(&object, request),
        None => Reply::status(404).body("<Error><Code>NoSuchKey</Code></Error>"),
    };
    match mood.filter(|_| !request.target.contains("/hopfall-probe/")) {
        Some(mood) => mood(request, reply),
        None => reply,
    }
}

fn of_object(object: &Object, request: &Request) -> Reply {
    let is = |name| request.header(name).map(|value| value == object.etag);
    let reply = if is("if-match") == Some(false) {
        Reply::status(412).body("<Error><Code>PreconditionFailed</Code></Error>")
    } else if is("if-none-match") == Some(true) {
        Reply::status(304).body("")
    } else if let Some((from, to)) = request.header("range").and_then(|range| span(range, object.body.len())) {
        let span = format!("bytes {from}-{}/{}", to - 1, object.body.len());
        Reply::ok(&object.body[from..to]).with_status(206).header("Content-Range", &span)
    } else {
        Reply::ok(&object.body)
    };
    let reply = reply.header("ETag", &object.etag).header("Accept-Ranges", "bytes");
    object.fields.iter().fold(reply, |reply, (name, value)| reply.header(name, value))
}

fn span(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (from.parse().ok(), to.parse::<usize>().ok()) {
        (Some(from), to) => Some((from, to.map_or(length, |to| (to + 1).min(length)))),
        (None, Some(last)) => Some((length.saturating_sub(last), length)),
        (None, None) => None,
    }
}
