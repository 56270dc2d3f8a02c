//! A real nginx as a storage node: static files, and an access log that tells requests and connections apart.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::process::Process;
use super::{ports, wait};

/// What is kept of a request's headers.
const HEADERS_OF_INTEREST: &[&str] = &[
    "host",
    "connection",
    "via",
    "cdn-loop",
    "user-agent",
    "accept-encoding",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "authorization",
    "cookie",
    "te",
    "transfer-encoding",
    "expect",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-request-id",
];

/// A location that answers with the server's token and is not logged.
const MARK: &str = "/-harness-mark-";

pub struct Nginx {
    address: SocketAddr,
    folder: TempDir,
    process: Option<Process>,
    stopped: bool,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub status: u16,
    /// Two requests that came on one connection have the same.
    pub connection: String,
    pub peer: String,
    pub body_bytes_sent: u64,
    headers: BTreeMap<String, String>,
}

/// Whether a node that asks hopfall in its turn passes on what hopfall recognises its own requests by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderMode {
    Kept,
    /// `Via` and `CDN-Loop` are cleared; `Builder::drop_header` clears others.
    Dropped,
}

#[derive(Default)]
pub struct Builder {
    address: Option<SocketAddr>,
    ip: Option<IpAddr>,
    files: Vec<(String, Vec<u8>)>,
    http_lines: String,
    server_lines: String,
    miss_proxied_to: Option<(SocketAddr, HeaderMode)>,
    dropped: Vec<String>,
    proxy_bind: Option<IpAddr>,
    logged_headers: Vec<String>,
}

impl Nginx {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A builder for a node on this address: `"127.0.0.2"`, or with a port.
    pub fn at(address: &str) -> Builder {
        let (ip, address) = (address.parse().ok(), address.parse().ok());
        assert!(ip.is_some() || address.is_some(), "neither an IP address nor one with a port");
        Builder { ip, address, ..Builder::default() }
    }

    /// A node with these files and nothing else.
    pub fn with_files(files: &[(&str, &[u8])]) -> Nginx {
        files.iter().fold(Nginx::builder(), |builder, (path, bytes)| builder.file(path, bytes)).start()
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The folder that it serves.
    pub fn root(&self) -> PathBuf {
        file_path(self.folder.path(), "")
    }

    /// The master's, which is the process group's too.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("nginx was killed").pid()
    }

    /// Adds a file, or replaces it.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write_file(self.folder.path(), path, bytes.as_ref());
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(file_path(self.folder.path(), path)).expect("the file is there");
    }

    /// The requests so far. A request is here once its answer has been sent.
    pub fn requests(&self) -> Vec<Request> {
        if self.process.is_some() && !self.stopped {
            // One worker, one loop: what it answered before it answers this, it has logged.
            self.mark();
        }
        let log = std::fs::read(self.folder.path().join("access.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().map(Request::parse).collect()
    }

    /// The requests so far for exactly this target.
    pub fn requests_for(&self, target: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.target == target).collect()
    }

    /// How many different connections carried the requests so far.
    pub fn connections(&self) -> usize {
        let requests = self.requests();
        requests.iter().map(|request| &request.connection).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.requests();
        std::fs::write(self.folder.path().join("access.log"), "").unwrap();
    }

    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// SIGKILL to master and worker: open connections are reset or closed by the kernel, new ones refused. An answer
    /// sent a moment before may be missing in `requests`, unless that was called in between.
    pub fn kill(&mut self) {
        self.process = None;
        self.stopped = false;
    }

    /// SIGSTOP to master and worker: the kernel still accepts connections, nobody answers.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.process.as_mut().expect("nginx was killed").signal_group("STOP");
    }

    /// SIGCONT after `stop`.
    pub fn cont(&mut self) {
        self.process.as_mut().expect("nginx was killed").signal_group("CONT");
        self.stopped = false;
    }

    /// Starts it again on the same address with the same files, after `kill` or in place of the running one.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        wait::wait_until("nginx's port to be free again", wait::PATIENCE, || ports::is_free(self.address));
        self.spawn().unwrap_or_else(|why| panic!("nginx did not restart: {why}"));
    }

    fn spawn(&mut self) -> Result<(), String> {
        let folder = self.folder.path();
        let nginx = std::env::var("HOPFALL_TEST_NGINX").unwrap_or_else(|_| "nginx".to_string());
        let mut command = Command::new(nginx);
        command.arg("-p").arg(folder).arg("-c").arg("nginx.conf").arg("-e").arg("error.log");
        self.process = Some(Process::spawn(&mut command));
        wait::wait_until("nginx to serve", wait::PATIENCE, || {
            self.mark() || self.process.as_mut().is_some_and(|process| process.exited().is_some())
        });
        let process = self.process.as_mut().expect("set above");
        match process.exited() {
            None => Ok(()),
            Some(_) => Err(process.stderr() + &self.error_log()),
        }
    }

    /// Whether this very nginx answers.
    fn mark(&self) -> bool {
        let Ok(mut client) = Client::try_connect(self.address) else { return false };
        client.timeout(Duration::from_secs(2));
        let sent = client.try_send(format!("GET {MARK} HTTP/1.1\r\nHost: harness\r\nConnection: close\r\n\r\n"));
        sent.and_then(|()| client.try_response()).is_ok_and(|answer| answer.text() == token(self.folder.path()))
    }
}

impl Request {
    /// A header of the request; `None` if it was absent or is not among those logged.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn parse(line: &str) -> Request {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { panic!("not an access log line: {line}") };
        let text = |name: &str| fields[name].as_str().unwrap_or_default().to_string();
        let headers = fields.iter().filter_map(|(name, value)| Some((name.strip_prefix("> ")?, value.as_str()?)));
        Request {
            method: text("method"),
            target: text("target"),
            status: text("status").parse().unwrap_or(0),
            connection: text("connection"),
            peer: text("peer"),
            body_bytes_sent: text("sent").parse().unwrap_or(0),
            headers: headers.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        }
    }
}

impl Builder {
    /// A file: `"cat.jpg"`, `"a/b.txt"`.
    pub fn file(mut self, path: &str, bytes: impl AsRef<[u8]>) -> Builder {
        self.files.push((path.to_string(), bytes.as_ref().to_vec()));
        self
    }

    /// Lines inside `http { }`: `"upstream nodes { server 127.0.0.1:81; }"`.
    pub fn extra_http_lines(mut self, lines: &str) -> Builder {
        self.http_lines.push_str(lines);
        self.http_lines.push('\n');
        self
    }

    /// Lines inside `server { }`: `"location = /slow { limit_rate 10k; }"`.
    pub fn extra_server_lines(mut self, lines: &str) -> Builder {
        self.server_lines.push_str(lines);
        self.server_lines.push('\n');
        self
    }

    /// What is not here is asked of `addr`: a node that calls back.
    pub fn miss_proxied_to(mut self, addr: SocketAddr, mode: HeaderMode) -> Builder {
        self.miss_proxied_to = Some((addr, mode));
        self
    }

    /// The address those requests come from.
    pub fn proxy_bind(mut self, ip: &str) -> Builder {
        self.proxy_bind = Some(ip.parse().expect("an IP address"));
        self
    }

    /// Another header that those requests lose.
    pub fn drop_header(mut self, name: &str) -> Builder {
        self.dropped.push(name.to_string());
        self
    }

    /// Another request header for `Request::header`.
    pub fn log_header(mut self, name: &str) -> Builder {
        self.logged_headers.push(name.to_string());
        self
    }

    #[track_caller]
    pub fn start(self) -> Nginx {
        let folder = tempfile::Builder::new().prefix("hopfall-nginx-").tempdir().expect("a temporary folder");
        for (path, bytes) in &self.files {
            write_file(folder.path(), path, bytes);
        }
        std::fs::create_dir_all(folder.path().join("www")).unwrap();
        let ip = self.ip.unwrap_or([127, 0, 0, 1].into()).to_string();
        let mut nginx = Nginx { address: ([0; 4], 0).into(), folder, process: None, stopped: false };
        for attempt in 1.. {
            nginx.address = self.address.unwrap_or_else(|| ports::free(&ip));
            std::fs::write(nginx.folder.path().join("nginx.conf"), self.config(nginx.address, nginx.folder.path()))
                .unwrap();
            match nginx.spawn() {
                Ok(()) => break,
                // Another process took the port in between.
                Err(why) if why.contains("in use") && self.address.is_none() && attempt < 5 => continue,
                Err(why) => panic!("nginx did not start: {why}"),
            }
        }
        nginx
    }

    fn config(&self, address: SocketAddr, folder: &Path) -> String {
        // Without a user of its own a worker of root's becomes `nobody`, who cannot read our folder.
        let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let user = if root { "user root;" } else { "" };
        let mut headers = String::new();
        for name in HEADERS_OF_INTEREST.iter().copied().chain(self.logged_headers.iter().map(String::as_str)) {
            let name = name.to_ascii_lowercase();
            write!(headers, r#","> {name}":"$http_{}""#, name.replace('-', "_")).unwrap();
        }
        let (token, misses) = (token(folder), self.misses());
        let (http_lines, server_lines) = (&self.http_lines, &self.server_lines);
        format!(
            r#"
            {user}
            daemon off;
            worker_processes 1;
            pid nginx.pid;
            events {{ worker_connections 4096; }}
            http {{
                log_format harness escape=json '{{"method":"$request_method","target":"$request_uri","status":"$status",'
                    '"connection":"$pid:$connection","peer":"$remote_addr","sent":"$body_bytes_sent"{headers}}}';
                access_log access.log harness;
                client_body_temp_path temp-body;
                proxy_temp_path temp-proxy;
                fastcgi_temp_path temp-fastcgi;
                uwsgi_temp_path temp-uwsgi;
                scgi_temp_path temp-scgi;
                types {{ image/jpeg jpg; image/png png; text/plain txt; text/html html; }}
                default_type application/octet-stream;
                keepalive_requests 1000000;
                keepalive_timeout 600s;
                large_client_header_buffers 8 32k;
                server_tokens off;
                {http_lines}
                server {{
                    listen {address} backlog=4096;
                    root www;
                    location = {MARK} {{ access_log off; return 200 "{token}"; }}
                    {misses}
                    {server_lines}
                }}
            }}
            "#
        )
    }

    fn misses(&self) -> String {
        let Some((addr, mode)) = self.miss_proxied_to else { return String::new() };
        let mut dropped: Vec<&str> = self.dropped.iter().map(String::as_str).collect();
        if mode == HeaderMode::Dropped {
            dropped.extend(["Via", "CDN-Loop"]);
        }
        let dropped: String = dropped.iter().map(|name| format!("proxy_set_header {name} \"\";\n")).collect();
        let bind = self.proxy_bind.map(|ip| format!("proxy_bind {ip};\n")).unwrap_or_default();
        format!(
            r#"
            location / {{ try_files $uri @back; }}
            location @back {{
                proxy_pass http://{addr};
                proxy_http_version 1.1;
                proxy_set_header Host $host;
                proxy_set_header Connection "";
                {dropped}{bind}
            }}
            "#
        )
    }
}

fn token(folder: &Path) -> String {
    folder.file_name().expect("a temporary folder has a name").to_string_lossy().into_owned()
}

fn file_path(folder: &Path, path: &str) -> PathBuf {
    folder.join("www").join(path.trim_start_matches('/'))
}

fn write_file(folder: &Path, path: &str, bytes: &[u8]) {
    let path = file_path(folder, path);
    std::fs::create_dir_all(path.parent().expect("it is in www")).unwrap();
    std::fs::write(path, bytes).unwrap();
}
