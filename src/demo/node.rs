//! A static storage node, as nginx would be one: GET and HEAD over a folder, 404 for the rest.
//!
//! It can be misconfigured as nodes in the wild are: told to *point back*, it asks hopfall for what it lacks
//! under [`LOOP`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use percent_encoding::percent_decode_str;
use s3s::Body;

use super::client::{self, Reply};
use super::port;
use crate::headers::PROXY_STATUS;
use crate::via::CDN_LOOP;

/// Where a node that points back does so.
pub const LOOP: &str = "/loop/";

#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    site: Arc<Site>,
}

/// What the connections of a node share.
#[derive(Debug)]
struct Site {
    name: &'static str,
    folder: PathBuf,
    points_back_to: OnceLock<SocketAddr>,
    /// What it was told when it called back, until somebody takes it.
    told: Mutex<Vec<Reply>>,
}

impl Node {
    /// Serves `folder` on a free loopback port.
    pub async fn start(name: &'static str, folder: PathBuf) -> anyhow::Result<Node> {
        let site = Arc::new(Site { name, folder, points_back_to: OnceLock::new(), told: Mutex::default() });
        let shared = site.clone();
        let answer = move |request| {
            let site = shared.clone();
            async move { anyhow::Ok(site.answer(&request).await) }
        };
        let address = port::open(service_fn(answer)).await?;
        Ok(Node { address, site })
    }

    /// Makes this node ask `front` for what it lacks under [`LOOP`].
    pub fn point_back_to(&self, front: SocketAddr) {
        // The first word counts; nobody says a second.
        let _ = self.site.points_back_to.set(front);
    }

    /// The answers that this node got when it called back, since the last time.
    pub fn take_told(&self) -> Vec<Reply> {
        std::mem::take(&mut self.site.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = request.uri().path();
        let file = inside(&self.folder, path).and_then(|file| File::read(&file));
        match (file, self.points_back_to.get()) {
            (Some(file), _) => file.answer(request.headers()),
            (None, Some(front)) if path.starts_with(LOOP) => self.call_back(*front, request).await,
            (None, _) => refuse(StatusCode::NOT_FOUND),
        }
    }

    /// What `proxy_pass` does: the request goes on with its `Host`, `Via` and `CDN-Loop`, and we add ourselves.
    async fn call_back(&self, front: SocketAddr, request: &Request<Incoming>) -> Response<Body> {
        let mut fields = HeaderMap::new();
        for name in [header::HOST, header::VIA, CDN_LOOP] {
            for value in request.headers().get_all(&name) {
                fields.append(name.clone(), value.clone());
            }
        }
        if let Ok(via) = HeaderValue::from_str(&format!("1.1 {}", self.name)) {
            fields.append(header::VIA, via);
        }
        let Ok(told) = client::ask(front, request.method(), request.uri().path(), &fields).await else {
            return refuse(StatusCode::BAD_GATEWAY);
        };
        let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let answer = reply(status, &[(PROXY_STATUS, told.field(&PROXY_STATUS))], told.body.clone());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        answer
    }
}

/// A file, read whole: those of the demo are small.
struct File {
    bytes: Vec<u8>,
    kind: &'static str,
    modified: SystemTime,
}

impl File {
    fn read(path: &Path) -> Option<File> {
        let kind = match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("jpg" | "jpeg") => "image/jpeg",
            Some("html") => "text/html; charset=utf-8",
            Some("txt") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        };
        let modified = path.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok()?;
        Some(File { bytes: std::fs::read(path).ok()?, kind, modified })
    }

    fn answer(self, asked: &HeaderMap) -> Response<Body> {
        let modified = httpdate::fmt_http_date(self.modified);
        let age = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let etag = format!("\"{:x}-{:x}\"", age.as_nanos(), self.bytes.len());
        let fields = [
            (header::CONTENT_TYPE, self.kind),
            (header::LAST_MODIFIED, modified.as_str()),
            (header::ETAG, etag.as_str()),
        ];
        match asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
            true => reply(StatusCode::NOT_MODIFIED, &fields[1..], Body::empty()),
            false => reply(StatusCode::OK, &fields, self.bytes),
        }
    }
}

/// The file that `path` means below `folder`; `None` for a path that would lead out of it. A folder means its
/// `index.html`.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut file = folder.to_owned();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let segment = percent_decode_str(segment).decode_utf8().ok()?;
        if segment.starts_with('.') || segment.contains(['/', '\0']) {
            return None;
        }
        file.push(segment.as_ref());
    }
    Some(if path.ends_with('/') { file.join("index.html") } else { file })
}

fn refuse(status: StatusCode) -> Response<Body> {
    reply(status, &[(header::CONTENT_TYPE, "text/plain"), (header::ALLOW, "GET, HEAD")], format!("{status}\n"))
}

fn reply(status: StatusCode, fields: &[(HeaderName, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            reply.headers_mut().insert(name.clone(), value);
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_folder() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("/", Some("/site/index.html")),
            ("/a/b.svg", Some("/site/a/b.svg")),
            ("//a", Some("/site/a")),
            ("/a%20b", Some("/site/a b")),
            ("/..", None),
            ("/a/../../b", None),
            ("/%2e%2e/b", None),
            ("/..%2fb", None),
            ("/a%2f..%2f..%2fb", None),
            ("/a%00", None),
            ("/%ff", None),
        ];
        for (path, expected) in CASES {
            assert_eq!(inside(Path::new("/site"), path), expected.map(PathBuf::from), "{path}");
        }
    }
}
