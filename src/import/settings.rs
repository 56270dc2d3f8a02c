//! What a pool is to be told: its nodes, whom it asks first, who stays where, and how nodes are checked.

use super::document::{self, Input};
use super::plan::{Algorithm, Check, Health, Mode, Node, Protocol, Settings, Stickiness};
use super::report::{Report, shown};
use crate::units::{Pattern, Scalar};

/// The nodes of a config, each name and each address once.
pub fn nodes(input: &Input, config: &document::Config, listener: &str, report: &mut Report) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for node in input.nodes.iter().filter(|node| node.config == config.id) {
        let address = node.address.to_string();
        let mut name = name_of(&node.label).unwrap_or_else(|| format!("node-{}", node.id));
        let mode = match node.mode.as_str() {
            "accept" => Mode::Accept,
            "reject" => Mode::Reject,
            "drain" => Mode::Drain,
            "backup" => Mode::Backup,
            other => {
                let other = shown(other);
                report.lost.push(format!("{listener}: node {name}: left out, because its mode `{other}` is not known"));
                continue;
            }
        };
        if nodes.iter().any(|known| known.address == address) {
            report.lost.push(format!("{listener}: node {name}: left out, because another one has the same address"));
            continue;
        }
        if nodes.iter().any(|known| known.name == name) {
            let new = format!("{name}-{}", node.id);
            report.changed.push(format!("{listener}: a second node named {name} is called {new}"));
            name = new;
        }
        let weight = node.weight.unwrap_or(1);
        if node.weight.is_none() {
            report.changed.push(format!("{listener}: node {name}: has no weight in the input, so it gets 1"));
        }
        if !(1..=255).contains(&weight) {
            let clamped = weight.clamp(1, 255);
            report.changed.push(format!("{listener}: node {name}: weight {weight} is clamped to {clamped}"));
        }
        nodes.push(Node { name, address, weight: weight.clamp(1, 255), mode, down: node.down });
    }
    nodes
}

/// What the config's pool has one of.
pub fn settings(config: &document::Config, protocol: Protocol, listener: &str, report: &mut Report) -> Settings {
    Reading { config, protocol, listener, report }.settings()
}

/// One config, as it is read.
struct Reading<'a> {
    config: &'a document::Config,
    protocol: Protocol,
    /// What the report calls it.
    listener: &'a str,
    report: &'a mut Report,
}

impl Reading<'_> {
    fn settings(mut self) -> Settings {
        let (config, protocol, listener) = (self.config, self.protocol, self.listener);
        let algorithm = match config.algorithm.as_str() {
            "roundrobin" => Algorithm::RoundRobin,
            "leastconn" => Algorithm::LeastConn,
            "source" => Algorithm::Source,
            other => {
                self.report.lost.push(format!("{listener}: algorithm `{}` becomes roundrobin", shown(other)));
                Algorithm::RoundRobin
            }
        };
        let stickiness = match (config.stickiness.as_str(), protocol) {
            ("none", _) => Stickiness::None,
            ("table", _) => Stickiness::Table,
            ("http_cookie", Protocol::Http | Protocol::Https) => Stickiness::Cookie,
            ("http_cookie", Protocol::Tcp) => {
                self.report
                    .lost
                    .push(format!("{listener}: stickiness http_cookie on tcp becomes none: tcp has no cookies"));
                Stickiness::None
            }
            (other, _) => {
                self.report.lost.push(format!("{listener}: stickiness `{}` becomes none", shown(other)));
                Stickiness::None
            }
        };
        if stickiness != Stickiness::None {
            let how = match stickiness {
                Stickiness::Cookie => "by the cookie NB_SRVID",
                _ => "by a table of client addresses, for 30 minutes",
            };
            self.report.kept.push(format!(
                "{listener}: stickiness, {how}. Images need none: remove `stickiness` unless the nodes keep sessions"
            ));
        }
        let proxy_protocol = match (config.proxy_protocol.as_str(), protocol) {
            ("none", _) => None,
            ("v1", Protocol::Tcp) => Some("v1"),
            ("v2", Protocol::Tcp) => Some("v2"),
            (other, Protocol::Tcp) => {
                self.report.lost.push(format!("{listener}: proxy_protocol `{}` becomes none", shown(other)));
                None
            }
            (other, _) => {
                let other = shown(other);
                self.report.changed.push(format!("{listener}: proxy_protocol {other} is left out: it is for tcp only"));
                None
            }
        };
        let health = self.health(proxy_protocol.is_some());
        Settings { algorithm, stickiness, proxy_protocol, health }
    }

    fn health(&mut self, proxied: bool) -> Health {
        let (config, listener) = (self.config, self.listener);
        let mut body = None;
        let kind = match config.check.as_str() {
            "http_body" if proxied => "http",
            "http_body" => {
                body = self.body();
                "http"
            }
            "none" | "connection" | "http" => config.check.as_str(),
            other => {
                self.report.lost.push(format!("{listener}: check `{}` becomes none", shown(other)));
                "none"
            }
        };
        let kind = if proxied && kind == "http" {
            self.report.lost.push(format!(
                "{listener}: check {} becomes connection: hopfall's http checks send no PROXY header, but these nodes expect one",
                config.check
            ));
            "connection"
        } else {
            kind
        };
        let check = match kind {
            "connection" => {
                let (interval, timeout) = self.times();
                Check::Connection { interval, timeout }
            }
            "http" => {
                let (interval, timeout) = self.times();
                Check::Http { path: self.path(), body, interval, timeout }
            }
            _ => Check::None,
        };
        // The API's default; what it takes to be up again is documented nowhere.
        let attempts = config.attempts.unwrap_or(3);
        let fall = attempts.clamp(1, 30);
        if fall != attempts {
            self.report.changed.push(format!("{listener}: check_attempts {attempts} is clamped to {fall}"));
        }
        Health { check, fall, passive: config.passive.unwrap_or(true) }
    }

    /// Interval and timeout in seconds, the timeout below the interval.
    fn times(&mut self) -> (u64, u64) {
        let (config, listener) = (self.config, self.listener);
        let default = if self.protocol == Protocol::Tcp { 30 } else { 3 };
        let given = config.interval.unwrap_or(5);
        let interval = given.clamp(2, 3600);
        if interval != given {
            self.report.changed.push(format!("{listener}: check_interval {given} is clamped to {interval}"));
        }
        let given = config.timeout.unwrap_or(default);
        let timeout = given.clamp(1, 30).min(interval - 1);
        if timeout != given {
            let why = if given >= interval { format!("below check_interval {interval}") } else { "1 to 30".to_owned() };
            self.report.changed.push(format!("{listener}: check_timeout {given} is clamped to {timeout} ({why})"));
        }
        (interval, timeout)
    }

    fn path(&mut self) -> String {
        let (config, listener) = (self.config, self.listener);
        if config.path.starts_with('/') && config.path.bytes().all(|b| b.is_ascii_graphic()) {
            return config.path.clone();
        }
        let plain: String = config.path.chars().filter(char::is_ascii_graphic).collect();
        let path = format!("/{}", plain.trim_start_matches('/'));
        let was = shown(&config.path);
        self.report.changed.push(match was.is_empty() {
            true => format!("{listener}: no check_path, so checks request `{path}`"),
            false => format!("{listener}: check_path `{was}` becomes `{path}`"),
        });
        path
    }

    /// The regex of a check of the body. Where hopfall has none like it, only the status is looked at.
    fn body(&mut self) -> Option<String> {
        let (config, listener) = (self.config, self.listener);
        let regex = shown(&config.body);
        if config.body.is_empty() {
            self.report
                .changed
                .push(format!("{listener}: check http_body becomes http: it has no check_body to look for"));
            return None;
        }
        // PCRE has look-around and back-references, which this crate has not.
        match Pattern::parse(&config.body) {
            Ok(_) => {
                self.report.kept.push(format!(
                    "{listener}: check http_body, with the regex `{regex}`, which now has the syntax of https://docs.rs/regex"
                ));
                Some(config.body.clone())
            }
            Err(why) => {
                let why = shown(why.rsplit(": ").next().unwrap_or_default());
                self.report.lost.push(format!(
                    "{listener}: check http_body becomes http: only the status counts (2xx or 3xx), not the body. hopfall does not support its regex `{regex}`: {why}"
                ));
                None
            }
        }
    }
}

/// The words of a config that are the same here.
pub fn kept(config: &document::Config, settings: &Settings) -> String {
    let algorithm = match settings.algorithm {
        Algorithm::RoundRobin => "roundrobin",
        Algorithm::LeastConn => "leastconn",
        Algorithm::Source => "source",
    };
    let check = match settings.health.check {
        Check::None => "none",
        Check::Connection { .. } => "connection",
        Check::Http { body: None, .. } => "http",
        Check::Http { body: Some(_), .. } => "http_body",
    };
    let mut words = String::new();
    if config.algorithm == algorithm {
        words.push_str(&format!(", {algorithm}"));
    }
    if config.check == check {
        words.push_str(&format!(", check {check}"));
    }
    if let Some(version) = settings.proxy_protocol {
        words.push_str(&format!(", PROXY protocol {version} to the nodes"));
    }
    words
}

/// A label with what Linode allows in one; `None` where nothing is left.
fn name_of(label: &str) -> Option<String> {
    let name: String =
        label.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).take(64).collect();
    name.chars().any(|c| c.is_ascii_alphanumeric()).then_some(name)
}
