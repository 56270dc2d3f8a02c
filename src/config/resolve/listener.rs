//! Listeners: their addresses, certificates, bounds, and where their requests go.

use crate::config::load::Problem;
use crate::config::model::{self, Field, File};
use crate::config::{CertificateFiles, Listener, Protocol, Serves, Throttle, Tls};
use crate::routing::{Hosts, Table};
use crate::shape::HeadLimits;
use crate::throttle::Rate;
use crate::units::Bytes;
use serde_saphyr::Location as Place;
use std::time::Duration;

use super::{MOST_AGE, Resolver, secs};

impl Resolver<'_> {
    pub(super) fn listener(&mut self, listener: &model::Listener, file: &File) -> Listener {
        let protocol = self.value(listener.protocol.as_ref(), Protocol::Http);
        match (protocol, &listener.tls) {
            (Protocol::Https, None) => {
                self.bad(
                    &listener.name,
                    "an https listener without a certificate",
                    "add tls: { certificate: FILE, key: FILE }",
                );
            }
            (Protocol::Http, Some(tls)) => {
                let at = tls.certificate.as_ref().or(tls.folder.as_ref()).or(tls.acme.iter().flatten().next());
                let at = at.unwrap_or(&listener.name);
                self.bad(at, "a certificate on an http listener", "set protocol: https, or remove `tls`");
            }
            (Protocol::Tcp, Some(tls)) => {
                let fix = "remove `tls`: TLS passes through a tcp listener to its nodes";
                let at = tls.certificate.as_ref().or(tls.folder.as_ref()).or(tls.acme.iter().flatten().next());
                let at = at.unwrap_or(&listener.name);
                self.bad(at, "a certificate on a tcp listener", fix);
            }
            _ => {}
        }
        if let (Protocol::Https, Some(port)) = (protocol, &listener.redirect_to_https) {
            self.bad(port, "a redirect to https on an https listener", "set it on an http listener");
        }
        if protocol == Protocol::Tcp {
            for (key, place) in keys_of_http(listener) {
                self.problems.push(Problem::at(
                    place,
                    format!("`{key}` is not for a tcp listener, which reads no requests"),
                    "remove it, or set protocol: http",
                ));
            }
        }
        let header_timeout = self.time(listener.header_timeout.as_ref(), secs(10));
        if let Some(field) = &listener.header_timeout
            && header_timeout > secs(60)
        {
            self.bad(field, "longer than 60s", "write 60s or less");
        }
        let head = HeadLimits {
            head_bytes: self.within(listener.header_bytes.as_ref(), Bytes(32 << 10), 1 << 10, 512 << 10),
            fields: self.count(listener.header_count.as_ref(), 100, 1, 250),
            target_bytes: self.within(listener.target_bytes.as_ref(), Bytes(8 << 10), 16, 512 << 10),
            body_bytes: self.value(listener.body_bytes.as_ref(), Bytes(1 << 30)).0,
        };
        Listener {
            name: listener.name.text().to_owned(),
            address: self.address(&listener.address),
            protocol,
            serves: self.serves(protocol, listener, file),
            tls: listener.tls.as_ref().map(|tls| self.tls(&listener.name, tls, file.acme.is_some())),
            redirect_to_https: listener
                .redirect_to_https
                .as_ref()
                .and_then(|port| u16::try_from(self.count(Some(port), 443, 1, 65535)).ok()),
            http2: self.value(listener.http2.as_ref(), true),
            trusted: listener.trusted.iter().flatten().filter_map(|network| self.parse(network)).collect(),
            proxies: listener.proxy_protocol.iter().flatten().filter_map(|network| self.parse(network)).collect(),
            max_connections: self.count(listener.max_connections.as_ref(), 10_000, 1, 1_000_000),
            throttle: self.throttle(listener.throttle.as_ref()),
            header_timeout,
            idle_timeout: self
                .time(listener.idle_timeout.as_ref(), if protocol == Protocol::Tcp { secs(600) } else { secs(60) }),
            stall_timeout: self.time(listener.stall_timeout.as_ref(), secs(30)),
            requests_per_connection: self.value(listener.requests_per_connection.as_ref(), 10_000).max(1),
            max_streams: self.value(listener.max_streams.as_ref(), 100).max(1),
            head,
        }
    }

    fn throttle(&mut self, throttle: Option<&model::Throttle>) -> Throttle {
        let Some(throttle) = throttle else {
            return Throttle { connections: None, requests: None, entries: THROTTLE_ENTRIES as usize, exempt: vec![] };
        };
        let connections = ("connections", throttle.connections.as_ref());
        let requests = ("requests", throttle.requests.as_ref());
        Throttle {
            connections: self.rate(connections, throttle.connection_burst.as_ref()),
            requests: self.rate(requests, throttle.request_burst.as_ref()),
            entries: self.count(throttle.entries.as_ref(), THROTTLE_ENTRIES, 1, 100_000_000),
            exempt: throttle.exempt.iter().flatten().filter_map(|network| self.parse(network)).collect(),
        }
    }

    /// A rate under its key, and its burst.
    fn rate(&mut self, (key, rate): (&str, Option<&Field<u32>>), burst: Option<&Field<u32>>) -> Option<Rate> {
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let per_second = narrow(self.count(rate, 0, 0, MOST_OFTEN));
        let burst_given = burst;
        let burst = narrow(self.count(burst, per_second.max(1), 1, MOST_OFTEN));
        if let (0, Some(field)) = (per_second, burst_given) {
            self.bad(field, "a burst without a rate", &format!("set `{key}` above 0, or remove this"));
        }
        (per_second > 0).then_some(Rate { per_second, burst })
    }

    pub(super) fn tls(&mut self, listener: &Field<String>, tls: &model::Tls, has_acme: bool) -> Tls {
        let files = |certificate: &Field<String>, key: &Field<String>, ocsp: &Option<Field<String>>| CertificateFiles {
            certificate: certificate.text().into(),
            key: key.text().into(),
            ocsp: ocsp.as_ref().map(|ocsp| ocsp.text().into()),
        };
        let mut certificates = Vec::new();
        match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => certificates.push(files(certificate, key, &tls.ocsp)),
            (Some(lonely), None) => self.bad(lonely, "a certificate without its key", "add `key`"),
            (None, Some(lonely)) => self.bad(lonely, "a key without its certificate", "add `certificate`"),
            (None, None) => {}
        }
        for more in tls.more.iter().flatten() {
            certificates.push(files(&more.certificate, &more.key, &more.ocsp));
        }
        let lonely = tls.certificate.is_some() || tls.key.is_some();
        let acme = self.acme_names(tls.acme.as_deref().unwrap_or_default(), has_acme);
        if certificates.is_empty() && tls.folder.is_none() && acme.is_empty() && !lonely {
            let fix = "add `certificate` and `key`, `folder`, or `acme`";
            self.bad(listener, "an https listener without a certificate", fix);
        }
        Tls {
            certificates,
            folder: tls.folder.as_ref().map(|folder| folder.text().into()),
            acme,
            profile: self.value(tls.profile.as_ref(), model::TlsProfile::Recommended),
            hsts: tls.hsts.as_ref().map(|hsts| self.value(Some(hsts), Duration::ZERO).min(MOST_AGE)),
        }
    }

    /// What a pool may not have whose connections are not looked at.
    fn fits_tcp(&mut self, pool: &model::Pool) {
        if let Some(field) = &pool.algorithm
            && field.text() == "hash"
        {
            self.bad(
                field,
                "by path, in the pool of a tcp listener, which sees no paths",
                "write source, or leastconn",
            );
        }
        let kind = pool.stickiness.as_ref().and_then(|stickiness| stickiness.kind.as_ref());
        if let Some(field) = kind.filter(|kind| kind.text() == "cookie") {
            self.bad(field, "in the pool of a tcp listener, which sees no cookies", "write table");
        }
        if pool.tls.is_some()
            && let Some(node) = pool.nodes.first()
        {
            let fix = "use a pool without `tls`: a client's TLS passes through to the node";
            self.bad(&node.address, "a node with `tls`, in the pool of a tcp listener", fix);
        }
    }

    /// A pool for tcp, a route for the rest; the other key must not be there.
    fn serves(&mut self, protocol: Protocol, listener: &model::Listener, file: &File) -> Serves {
        let name = &listener.name;
        match (protocol, &listener.route, &listener.pool) {
            (Protocol::Tcp, None, Some(pool)) => {
                let pools: Vec<&str> = file.pools.keys().map(String::as_str).collect();
                if let Some(named) = file.pools.get(pool.text()) {
                    self.fits_tcp(named);
                }
                return Serves::Pool(self.reference("pool", pool, &pools));
            }
            (Protocol::Http | Protocol::Https, Some(_), None) => return Serves::Routes(self.routes(listener, file)),
            (Protocol::Http | Protocol::Https, None, None) if listener.routes.is_some() => {
                return Serves::Routes(self.routes(listener, file));
            }
            (Protocol::Tcp, None, None) => self.bad(name, "a tcp listener without a pool", "add pool: NAME"),
            (Protocol::Tcp, Some(route), _) => {
                let fix = "write pool: NAME instead; or set protocol: http";
                self.bad(route, "a route on a tcp listener, which has no requests to route", fix);
            }
            (_, None, None) => {
                self.bad(name, "a listener without a route", "add route: NAME; or protocol: tcp and pool: NAME");
            }
            (_, _, Some(pool)) => {
                let fix = "write route: NAME, a route whose chain has this pool; or set protocol: tcp";
                self.bad(pool, "a pool on a listener that is not tcp", fix);
            }
        }
        Serves::Routes(Table::default())
    }

    /// What `routes` says, and `route` for the rest.
    fn routes(&mut self, listener: &model::Listener, file: &File) -> Table {
        let known: Vec<&str> = file.routes.keys().map(String::as_str).collect();
        let mut table = Table::default();
        for rule in listener.routes.iter().flatten() {
            let route = self.reference("route", &rule.route, &known);
            let path = rule.path.as_ref().map_or("/", Field::text);
            if let Some(field) = rule.path.as_ref().filter(|_| !is_plain_path(path)) {
                let fix = "begin it with `/`, and write it decoded: without `%`, `?`, `#`, `//` and dot segments";
                self.bad(field, "not a path prefix", fix);
            }
            let hosts: Vec<Hosts> = match &rule.hosts {
                None => vec![Hosts::Any],
                Some(hosts) => hosts.iter().filter_map(|host| self.hosts(host)).collect(),
            };
            for hosts in hosts {
                if !table.add(&hosts, path, route) {
                    let at = rule.path.as_ref().or(rule.hosts.iter().flatten().next()).unwrap_or(&rule.route);
                    self.bad(at, "an earlier rule has the same host and path", "remove one of them");
                }
            }
        }
        if let Some(route) = &listener.route {
            let index = self.reference("route", route, &known);
            if !table.add(&Hosts::Any, "/", index) {
                self.bad(route, "a rule of `routes` takes all requests already", "remove `route`, or that rule");
            }
        }
        table
    }

    fn hosts(&mut self, field: &Field<String>) -> Option<Hosts> {
        Hosts::parse(field.text()).map_err(|fix| self.bad(field, "not a host", fix)).ok()
    }
}

/// Whether it can be the beginning of a path that was decoded and freed of dot segments.
fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains("//")
        && !path.bytes().any(|byte| byte <= b' ' || b"%?#\x7f".contains(&byte))
        && !path.split('/').any(|segment| segment == "." || segment == "..")
}

/// The keys of a listener that mean something for HTTP alone, where they are given.
fn keys_of_http(listener: &model::Listener) -> impl Iterator<Item = (&'static str, Place)> {
    let trusted = listener.trusted.as_ref().and_then(|networks| networks.first());
    let throttle = listener.throttle.as_ref();
    [
        ("routes", listener.routes.as_ref().and_then(|rules| rules.first()).map(|rule| rule.route.at())),
        ("throttle.requests", throttle.and_then(|throttle| throttle.requests.as_ref()).map(Field::at)),
        ("throttle.request_burst", throttle.and_then(|throttle| throttle.request_burst.as_ref()).map(Field::at)),
        ("http2", listener.http2.as_ref().map(Field::at)),
        ("redirect_to_https", listener.redirect_to_https.as_ref().map(Field::at)),
        ("trusted", trusted.map(Field::at)),
        ("stall_timeout", listener.stall_timeout.as_ref().map(Field::at)),
        ("requests_per_connection", listener.requests_per_connection.as_ref().map(Field::at)),
        ("max_streams", listener.max_streams.as_ref().map(Field::at)),
        ("header_bytes", listener.header_bytes.as_ref().map(Field::at)),
        ("header_count", listener.header_count.as_ref().map(Field::at)),
        ("target_bytes", listener.target_bytes.as_ref().map(Field::at)),
        ("body_bytes", listener.body_bytes.as_ref().map(Field::at)),
    ]
    .into_iter()
    .filter_map(|(key, place)| Some((key, place?)))
}

/// Per second, and at once.
const MOST_OFTEN: u32 = 1_000_000;
const THROTTLE_ENTRIES: u32 = 65_536;
