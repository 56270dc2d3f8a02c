//! From [`File`] to [`Config`]: defaults, names, bounds. Every mistake is noted and none ends the pass.

mod acme;
mod tracing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use rustls::pki_types::ServerName;
use serde_saphyr::Location as Place;

use super::load::{Problem, nearest};
use super::model::{self, Addressing, Field, File, SecretRef};
use super::pem;
use super::{
    Access, Admin, Authorities, Bounds, CertificateFiles, Config, Destination, Disk, Facility, Health, Identity,
    Listener, Location, Log, Node, NodeTls, Output, Pool, Protocol, Route, Secret, Serves, Stickiness, Store,
    Surroundings, Throttle, Tls,
};
use crate::disk;
use crate::fallback::{Plan, Stage};
use crate::freshness;
use crate::health::{Expected, Thresholds};
use crate::hedge;
use crate::hop::TargetId;
use crate::proxy_protocol::Version;
use crate::routing::{Hosts, Table};
use crate::s3::cost::Prices;
use crate::shape::{HeadLimits, is_host};
use crate::throttle::Rate;
use crate::units::{Bytes, Dollars, HostPort, Scalar, StatusRange};
use crate::via::is_token;

/// Half of what `openssl rand -hex 16` gives: 64 bits, with tries slowed down.
const SHORTEST_TOKEN: usize = 16;
/// Statuses on which GET and HEAD go on, where the file does not say.
const FALLBACK_ON: [u16; 6] = [404, 429, 500, 502, 503, 504];

pub fn resolve(file: &File, surroundings: &Surroundings<'_>) -> Result<Config, Vec<Problem>> {
    let mut r = Resolver { surroundings, problems: Vec::new(), targets: HashMap::new() };
    let config = r.config(file);
    if r.problems.is_empty() { Ok(config) } else { Err(r.problems) }
}

/// What a reference to a secret leads to.
///
/// # Errors
/// When that is not there, or empty.
pub fn secret(field: &Field<SecretRef>, surroundings: &Surroundings<'_>) -> Result<Secret, Problem> {
    let found = match field.parse() {
        // The text itself is not shown: it may be the secret.
        Err(fix) => return Err(Problem::at(field.at(), "a secret in plain text", fix)),
        Ok(SecretRef::Variable(name)) => {
            (surroundings.variable)(&name).ok_or_else(|| format!("the environment variable `{name}` is not set"))
        }
        Ok(SecretRef::File(path)) => (surroundings.read)(Path::new(&path))
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("`{path}` cannot be read: {error}")),
    };
    match found {
        Ok(value) if !value.is_empty() => Ok(Secret(value)),
        Ok(_) => Err(Problem::at(field.at(), "the secret is empty", "give it a value")),
        Err(message) => Err(Problem::at(field.at(), message, "set it, or name another")),
    }
}

struct Resolver<'a> {
    surroundings: &'a Surroundings<'a>,
    problems: Vec<Problem>,
    targets: HashMap<HostPort, TargetId>,
}

impl Resolver<'_> {
    fn config(&mut self, file: &File) -> Config {
        let pools: Vec<Pool> = file.pools.iter().map(|(name, pool)| self.pool(name, pool)).collect();
        let mut stores = Vec::new();
        for (i, (name, store)) in file.stores.iter().enumerate() {
            // Stores are numbered after all nodes, so that node numbers stay small.
            let target = TargetId(u32::try_from(self.targets.len() + i).unwrap_or(u32::MAX));
            stores.push(self.store(name, store, target));
        }
        let routes: Vec<Route> =
            file.routes.iter().map(|(name, route)| self.route(name, route, &pools, &stores)).collect();
        let listeners: Vec<Listener> = file.listeners.iter().map(|listener| self.listener(listener, file)).collect();
        self.unique("listener name", file.listeners.iter().map(|listener| &listener.name));
        self.unique("listener address", file.listeners.iter().map(|listener| &listener.address));
        let disks = file.stores.values().filter_map(|store| store.disk.as_ref());
        self.unique("folder", disks.map(|disk| &disk.path));
        let identity = file.identity.as_ref();
        Config {
            threads: self.count(file.threads.as_ref(), 0, 0, 1024),
            shutdown_timeout: self.value(file.shutdown_timeout.as_ref(), secs(30)).min(MOST_TIME),
            identity: Identity {
                name: identity.and_then(|identity| identity.name.as_ref()).map(|name| {
                    if !is_token(name.text()) {
                        self.bad(name, "not a token", "use letters, digits, `-`, `.` and `_`");
                    }
                    name.text().to_owned()
                }),
                mark_key: identity.and_then(|identity| identity.mark_key.as_ref()).map(|key| self.secret(key)),
            },
            log: self.log(file.log.as_ref()),
            admin: file.admin.as_ref().map(|admin| self.admin(admin)),
            location: file.location.as_ref().map(|location| self.location(location)),
            acme: file.acme.as_ref().map(|acme| self.acme(acme)),
            tracing: file.tracing.as_ref().map(|tracing| self.tracing(tracing, cfg!(feature = "otel"))),
            listeners,
            pools,
            stores,
            routes,
        }
    }

    fn log(&mut self, log: Option<&model::Log>) -> Log {
        let access = log.and_then(|log| log.access.as_ref());
        let level = log.and_then(|log| log.level.as_ref());
        let (path, facility) = log.map_or((None, None), |log| (log.path.as_ref(), log.facility.as_ref()));
        let messages = self.output(path, facility, Facility::Daemon);
        let (path, facility) = access.map_or((None, None), |access| (access.path.as_ref(), access.facility.as_ref()));
        let one_in = self.count(access.and_then(|access| access.sample_one_in.as_ref()), 1, 1, 1_000_000);
        Log {
            level: self.value(level, model::Level::Info),
            messages,
            clients: self.value(log.and_then(|log| log.client.as_ref()), model::Clients::Full),
            access: Access {
                format: self.value(access.and_then(|access| access.format.as_ref()), model::AccessFormat::Json),
                output: self.output(path, facility, Facility::Local0),
                sample_one_in: u32::try_from(one_in).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
            },
        }
    }

    fn output(
        &mut self,
        path: Option<&Field<Destination>>,
        facility: Option<&Field<Facility>>,
        default: Facility,
    ) -> Output {
        let elsewhere = path.is_none_or(|path| path.parse().is_ok_and(|to| !matches!(to, Destination::Syslog(_))));
        if let Some(field) = facility
            && elsewhere
        {
            self.bad(field, "a facility for a log that does not go to syslog", "write path: syslog, or remove it");
        }
        Output { to: self.value(path, Destination::Standard), facility: self.value(facility, default) }
    }

    fn admin(&mut self, admin: &model::Admin) -> Admin {
        let token = admin.token.as_ref().map(|field| {
            let token = self.secret(field);
            if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                let what = "the token has characters that no Authorization field can carry";
                self.problems.push(Problem::at(field.at(), what, "make one with: openssl rand -hex 32"));
            } else if (1..SHORTEST_TOKEN).contains(&token.expose().len()) {
                let what = format!("the token has less than {SHORTEST_TOKEN} characters, and can be guessed");
                self.problems.push(Problem::at(field.at(), what, "make one with: openssl rand -hex 32"));
            }
            token
        });
        let mut host = |field: &Field<String>| {
            if !is_host(field.text().as_bytes()) || field.text().contains(':') {
                self.bad(field, "not a host name", "write one without a port, such as lb1.example.com");
            }
            field.text().to_ascii_lowercase()
        };
        let hosts = admin.hosts.iter().flatten().map(&mut host).collect();
        Admin { address: self.address(&admin.address), token, hosts }
    }

    fn location(&mut self, location: &model::Location) -> Location {
        let ttl = self.time(location.ttl.as_ref(), secs(3600));
        if let Some(field) = &location.ttl
            && ttl > secs(24 * 3600)
        {
            self.bad(field, "longer than a day", "write 24h or less");
        }
        let absent_ttl = self.value(location.absent_ttl.as_ref(), secs(30));
        if let Some(field) = &location.absent_ttl
            && absent_ttl > ttl
        {
            self.bad(field, "longer than `ttl`", "write less than `ttl`");
        }
        Location {
            entries: self.count(location.entries.as_ref(), 1_000_000, 1, 1_000_000_000),
            ttl,
            absent_ttl,
            control: u32::try_from(self.count(location.control.as_ref(), 1, 0, 100)).unwrap_or(1),
            file: location.file.as_ref().map(|file| PathBuf::from(file.text())),
            save_every: self.time(location.save_every.as_ref(), secs(300)),
        }
    }

    fn listener(&mut self, listener: &model::Listener, file: &File) -> Listener {
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
                let fix = "remove `tls`: a tcp listener passes TLS on to its nodes as it is";
                let at = tls.certificate.as_ref().or(tls.folder.as_ref()).or(tls.acme.iter().flatten().next());
                let at = at.unwrap_or(&listener.name);
                self.bad(at, "a certificate on a tcp listener", fix);
            }
            _ => {}
        }
        if let (Protocol::Https, Some(port)) = (protocol, &listener.redirect_to_https) {
            self.bad(port, "an https listener that sends requests to https", "set it on an http listener");
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

    fn tls(&mut self, listener: &Field<String>, tls: &model::Tls, has_acme: bool) -> Tls {
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
            let fix = "give it a pool without `tls`: what TLS a client speaks is passed on to the node as it is";
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
                let fix = "name a pool instead, pool: NAME; or set protocol: http";
                self.bad(route, "a route on a tcp listener, which has no requests to route", fix);
            }
            (_, None, None) => {
                self.bad(name, "a listener without a route", "add route: NAME; or protocol: tcp and pool: NAME");
            }
            (_, _, Some(pool)) => {
                let fix = "name a route whose chain has it, route: NAME; or set protocol: tcp";
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
                self.bad(field, "not how a path begins", fix);
            }
            let hosts: Vec<Hosts> = match &rule.hosts {
                None => vec![Hosts::Any],
                Some(hosts) => hosts.iter().filter_map(|host| self.hosts(host)).collect(),
            };
            for hosts in hosts {
                if !table.add(&hosts, path, route) {
                    let at = rule.path.as_ref().or(rule.hosts.iter().flatten().next()).unwrap_or(&rule.route);
                    self.bad(at, "a rule for the same host and path is above", "remove one of them");
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

    fn pool(&mut self, name: &str, pool: &model::Pool) -> Pool {
        self.unique("node name", pool.nodes.iter().map(|node| &node.name));
        self.unique("node address", pool.nodes.iter().map(|node| &node.address));
        let mut fallback_on: Vec<u16> = match &pool.fallback_on {
            Some(statuses) => statuses.iter().filter_map(|status| self.parse(status)).map(|status| status.0).collect(),
            None => FALLBACK_ON.to_vec(),
        };
        if self.value(pool.on_403.as_ref(), model::On403::Serve) == model::On403::Next {
            fallback_on.push(403);
        }
        for host in pool.host.iter().chain(pool.health.iter().filter_map(|health| health.host.as_ref())) {
            if !is_host(host.text().as_bytes()) {
                self.bad(host, "not a host", "write a name or an address, with a port if need be");
            }
        }
        let proxy_protocol = match self.value(pool.proxy_protocol.as_ref(), model::SendProxy::None) {
            model::SendProxy::None => None,
            model::SendProxy::V1 => Some(Version::V1),
            model::SendProxy::V2 => Some(Version::V2),
        };
        if let Some(check) = pool.health.as_ref().and_then(|health| health.check.as_ref())
            && proxy_protocol.is_some()
            && matches!(check.parse(), Ok(model::Check::Http | model::Check::HttpBody))
        {
            self.bad(check, "a check that sends no PROXY header, to nodes that want one", "write check: connection");
        }
        let host = pool.host.as_ref().map(|host| host.text().to_owned()).filter(|host| host != "preserve");
        Pool {
            name: name.to_owned(),
            algorithm: self.value(pool.algorithm.as_ref(), model::Algorithm::RoundRobin),
            stickiness: self.stickiness(pool.stickiness.as_ref()),
            fallback_on: fallback_on.into_iter().collect(),
            from_nodes: self.value(pool.from_nodes.as_ref(), model::FromNodes::NoNodes),
            host,
            proxy_protocol,
            tls: pool.tls.as_ref().map(|tls| self.node_tls(tls, pool)),
            bounds: Bounds {
                connect_timeout: self.time(pool.connect_timeout.as_ref(), secs(2)),
                header_timeout: self.time(pool.header_timeout.as_ref(), secs(5)),
                body_idle_timeout: self.time(pool.body_idle_timeout.as_ref(), secs(30)),
                keepalive: self.time(pool.keepalive.as_ref(), secs(55)),
                max_in_flight: self.count(pool.max_in_flight.as_ref(), 512, 1, 1_000_000),
                queue: self.count(pool.queue.as_ref(), 512, 0, 1_000_000),
                queue_timeout: self.time(pool.queue_timeout.as_ref(), Duration::from_millis(500)),
            },
            tunnel_timeout: self.time(pool.tunnel_timeout.as_ref(), secs(60)),
            hedge: pool.hedge.as_ref().map(|hedge| self.hedge(hedge)),
            health: self.health(pool.health.as_ref()),
            nodes: pool.nodes.iter().map(|node| self.node(node)).collect(),
        }
    }

    fn node_tls(&mut self, tls: &model::NodeTls, pool: &model::Pool) -> NodeTls {
        let is_name = |name: &str| ServerName::try_from(name).is_ok();
        let server_name = match (&tls.server_name, &pool.host) {
            (Some(field), _) => {
                if !is_name(field.text()) {
                    self.bad(field, "not a name that a certificate can have", "write a host or an IP address, no port");
                }
                Some(field.text().to_owned())
            }
            (None, Some(host)) if host.text() != "preserve" => {
                HostPort::parse(host.text()).map(|host| host.host).ok().or_else(|| Some(host.text().to_owned()))
            }
            (None, _) => None,
        };
        let names_are_their_own = server_name.is_none();
        for node in pool.nodes.iter().filter(|_| names_are_their_own) {
            if HostPort::parse(node.address.text()).is_ok_and(|address| !is_name(&address.host)) {
                let fix = "write `server_name` in `tls`";
                self.bad(&node.address, "its host is not a name that a certificate can have", fix);
            }
        }
        if let (None, Some(host)) = (&tls.server_name, &pool.host)
            && server_name.as_deref().is_some_and(|name| !is_name(name))
        {
            self.bad(host, "not a name that a certificate can have", "write `server_name` in `tls`");
        }
        let verify = self.value(tls.verify.as_ref(), true);
        if let Some(ca) = tls.ca.as_ref().filter(|_| !verify) {
            self.bad(ca, "a CA, where nothing is verified", "remove it, or `verify: false`");
        }
        let client = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                self.read(certificate).zip(self.read(key)).and_then(|(chain, private)| {
                    pem::client(&chain, &private).map_err(|what| self.bad(certificate, what, "name a PEM pair")).ok()
                })
            }
            (Some(lonely), None) => {
                self.bad(lonely, "a certificate without its key", "add `key`");
                None
            }
            (None, Some(lonely)) => {
                self.bad(lonely, "a key without its certificate", "add `certificate`");
                None
            }
            (None, None) => None,
        };
        NodeTls {
            ca: tls.ca.as_ref().filter(|_| verify).and_then(|ca| self.authorities(ca)),
            server_name,
            verify,
            client,
        }
    }

    fn authorities(&mut self, file: &Field<String>) -> Option<Authorities> {
        let text = self.read(file)?;
        pem::authorities(&text).map_err(|what| self.bad(file, what, "name a PEM file of CA certificates")).ok()
    }

    /// The text of a file that the config names.
    fn read(&mut self, file: &Field<String>) -> Option<String> {
        let read = (self.surroundings.read)(Path::new(file.text()));
        read.map_err(|error| self.bad(file, &format!("cannot be read: {error}"), "name a PEM file that can")).ok()
    }

    fn node(&mut self, node: &model::Node) -> Node {
        let address = self.value(Some(&node.address), HostPort { host: String::new(), port: 0 });
        let fresh = TargetId(u32::try_from(self.targets.len()).unwrap_or(u32::MAX));
        let target = *self.targets.entry(address.clone()).or_insert(fresh);
        Node {
            name: node.name.text().to_owned(),
            address,
            weight: u32::try_from(self.count(node.weight.as_ref(), 1, 1, 255)).unwrap_or(1),
            mode: self.value(node.mode.as_ref(), model::Mode::Accept),
            target,
        }
    }

    fn stickiness(&mut self, stickiness: Option<&model::Stickiness>) -> Stickiness {
        let Some(stickiness) = stickiness else { return Stickiness::None };
        let ttl = self.time(stickiness.ttl.as_ref(), secs(1800));
        let entries = self.count(stickiness.entries.as_ref(), 100_000, 1, 100_000_000);
        let name = self.value(stickiness.cookie.as_ref(), "NB_SRVID".to_owned());
        if let Some(field) = &stickiness.cookie
            && !is_token(&name)
        {
            self.bad(field, "not a cookie's name", "use letters, digits, `-`, `.` and `_`");
        }
        match self.value(stickiness.kind.as_ref(), model::StickinessKind::None) {
            model::StickinessKind::None => Stickiness::None,
            model::StickinessKind::Table => Stickiness::Table { ttl, entries },
            model::StickinessKind::Cookie => Stickiness::Cookie { name },
        }
    }

    fn hedge(&mut self, hedge: &model::Hedge) -> hedge::Rules {
        let floor = self.time(hedge.floor.as_ref(), Duration::from_millis(20));
        let ceiling = self.time(hedge.ceiling.as_ref(), Duration::from_millis(150));
        if let Some(field) = hedge.floor.as_ref().or(hedge.ceiling.as_ref())
            && floor > ceiling
        {
            self.bad(field, "`floor` is above `ceiling`", "write a floor below the ceiling");
        }
        let budget = u32::try_from(self.count(hedge.budget.as_ref(), 5, 1, 100)).unwrap_or(5);
        hedge::Rules { floor: floor.min(ceiling), ceiling, budget }
    }

    fn health(&mut self, health: Option<&model::Health>) -> Health {
        let check = self.value(health.and_then(|health| health.check.as_ref()), model::Check::None);
        let path = self.value(health.and_then(|health| health.path.as_ref()), "/".to_owned());
        if let Some(field) = health.and_then(|health| health.path.as_ref())
            && (!path.starts_with('/') || path.bytes().any(|b| !b.is_ascii_graphic()))
        {
            self.bad(field, "not a path", "begin it with `/`, without spaces");
        }
        let get = |pick: fn(&model::Health) -> Option<&Field<Duration>>| health.and_then(pick);
        let expected = self.expected(check, health);
        Health {
            check,
            path,
            expected,
            host: health.and_then(|health| health.host.as_ref()).map(|host| host.text().to_owned()),
            interval: self.time(get(|health| health.interval.as_ref()), secs(5)),
            timeout: self.time(get(|health| health.timeout.as_ref()), secs(2)),
            slow_start: self.value(health.and_then(|health| health.slow_start.as_ref()), Duration::ZERO).min(MOST_TIME),
            absence: self.value(health.and_then(|health| health.absence.as_ref()), true),
            passive: self.value(health.and_then(|health| health.passive.as_ref()), true),
            eject_at_most: u32::try_from(self.count(
                health.and_then(|health| health.eject_at_most.as_ref()),
                100,
                0,
                100,
            ))
            .unwrap_or(100),
            thresholds: Thresholds {
                fall: u32::try_from(self.count(health.and_then(|health| health.fall.as_ref()), 3, 1, 1000))
                    .unwrap_or(3),
                rise: u32::try_from(self.count(health.and_then(|health| health.rise.as_ref()), 2, 1, 1000))
                    .unwrap_or(2),
                eject_for: self.time(get(|health| health.eject_for.as_ref()), secs(10)),
                checked: check != model::Check::None,
            },
        }
    }

    fn expected(&mut self, check: model::Check, health: Option<&model::Health>) -> Expected {
        let body = health.and_then(|health| health.body.as_ref());
        let reads_body = check == model::Check::HttpBody;
        match (body, health.and_then(|health| health.check.as_ref())) {
            (None, Some(check)) if reads_body => {
                self.bad(check, "a check of the body, without what to look for", "add body: REGEX, or write http");
            }
            (Some(body), _) if body.text().is_empty() => {
                self.bad(body, "an empty regex, which any body has", "write what to look for, or check: http");
            }
            (Some(body), _) if !reads_body => {
                self.bad(body, "a regex for a check that reads no body", "write check: http_body, or remove it");
            }
            _ => {}
        }
        let statuses = match health.and_then(|health| health.expect.as_ref()) {
            Some(statuses) => statuses.iter().filter_map(|range| self.parse(range)).collect(),
            None => vec![StatusRange { low: 200, high: 399 }],
        };
        if let Some(check) = health.and_then(|health| health.check.as_ref())
            && health.and_then(|health| health.expect.as_ref()).is_some_and(Vec::is_empty)
        {
            self.bad(check, "a check that no status passes", "write a status in `expect`, or remove it");
        }
        Expected { statuses, body: body.and_then(|body| self.parse(body)) }
    }

    fn store(&mut self, name: &str, store: &model::Store, target: TargetId) -> Store {
        self.value(Some(&store.kind), model::StoreKind::S3);
        let bucket = store.bucket.text().to_owned();
        if !(3..=63).contains(&bucket.len())
            || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            self.bad(&store.bucket, "not a bucket name", "write 3 to 63 letters, digits, `-` and `.`");
        }
        let region = self.value(store.region.as_ref(), "us-east-1".to_owned());
        if let Some(field) = &store.region
            && (region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            self.bad(field, "not a region", "write one such as us-east-1, or auto");
        }
        let (tls, endpoint, port_shown) = match &store.endpoint {
            None => (true, HostPort { host: format!("s3.{region}.amazonaws.com"), port: 443 }, false),
            Some(field) => self.endpoint(field),
        };
        let by_default = if store.endpoint.is_none() { Addressing::Virtual } else { Addressing::Path };
        let addressing = self.value(store.addressing.as_ref(), by_default);
        let address = match addressing {
            Addressing::Path => endpoint,
            Addressing::Virtual => HostPort { host: format!("{bucket}.{}", endpoint.host), port: endpoint.port },
        };
        let host = match port_shown {
            true => address.to_string(),
            false => address.to_string().rsplit_once(':').map(|(host, _)| host.to_owned()).unwrap_or_default(),
        };
        let prefix = self.value(store.prefix.as_ref(), String::new());
        if let Some(field) = &store.prefix
            && (prefix.starts_with('/') || prefix.split('/').any(|segment| segment == "." || segment == ".."))
        {
            self.bad(
                field,
                "a prefix that starts with `/` or has dot segments",
                "write it as the keys begin, such as img/",
            );
        }
        Store {
            name: name.to_owned(),
            target,
            bucket,
            region,
            tls,
            address,
            host,
            addressing,
            prefix,
            credentials: self.credentials(name, store),
            prices: Prices {
                request: self.dollars(store.prices.as_ref().and_then(|prices| prices.thousand_requests.as_ref()))
                    / 1000,
                gibibyte: self.dollars(store.prices.as_ref().and_then(|prices| prices.gibibyte.as_ref())),
            },
            budget_per_day: store.budget_per_day.as_ref().map(|budget| self.dollars(Some(budget))),
            disk: store.disk.as_ref().map(|disk| self.disk(disk)),
            shared_memory: self.value(store.shared_memory.as_ref(), Bytes(64 << 20)).0,
            on_403: self.value(store.on_403.as_ref(), model::OnDenied::Probe),
            ca: store.ca.as_ref().and_then(|ca| self.authorities(ca)),
            bounds: Bounds {
                connect_timeout: self.time(store.connect_timeout.as_ref(), secs(3)),
                header_timeout: self.time(store.header_timeout.as_ref(), secs(10)),
                body_idle_timeout: self.time(store.body_idle_timeout.as_ref(), secs(30)),
                keepalive: self.time(store.keepalive.as_ref(), secs(15)),
                max_in_flight: self.count(store.max_in_flight.as_ref(), 512, 1, 1_000_000),
                queue: self.count(store.queue.as_ref(), 512, 0, 1_000_000),
                queue_timeout: self.time(store.queue_timeout.as_ref(), secs(1)),
            },
        }
    }

    fn disk(&mut self, disk: &model::Disk) -> Disk {
        if disk.path.text().is_empty() {
            self.bad(&disk.path, "an empty path", "write the path of a folder");
        }
        let bytes = self.value(Some(&disk.bytes), Bytes(LEAST_DISK)).0;
        if bytes < LEAST_DISK {
            self.bad(&disk.bytes, "less than 8MiB", "write 8MiB or more");
        }
        let most = bytes / disk::LARGEST_PART;
        let largest = self.value(disk.largest.as_ref(), Bytes(most)).0;
        if let Some(field) = &disk.largest
            && largest > most
        {
            self.bad(field, "more than a quarter of `bytes`", "write less, or raise `bytes`");
        }
        Disk {
            settings: disk::Settings {
                path: PathBuf::from(disk.path.text()),
                bytes,
                free_floor: self.value(disk.free.as_ref(), Bytes(1 << 30)).0,
                memory: self.value(disk.memory.as_ref(), Bytes(64 << 20)).0,
                object_max: largest,
                memory_object_max: self.value(disk.memory_largest.as_ref(), Bytes(256 << 10)).0,
            },
            rules: freshness::Rules {
                ttl: self.value(disk.ttl.as_ref(), secs(24 * 3600)).min(MOST_AGE),
                stale_while_revalidate: self.value(disk.stale_while_revalidate.as_ref(), secs(3600)).min(MOST_AGE),
                stale_if_error: self.value(disk.stale_if_error.as_ref(), secs(168 * 3600)).min(MOST_AGE),
            },
        }
    }

    /// Scheme, host and port of an endpoint, and whether the port must stand in `Host`.
    fn endpoint(&mut self, field: &Field<String>) -> (bool, HostPort, bool) {
        let text = field.text().trim_end_matches('/');
        let split = text
            .strip_prefix("https://")
            .map(|rest| (true, 443, rest))
            .or_else(|| text.strip_prefix("http://").map(|rest| (false, 80, rest)));
        let parsed = split.and_then(|(tls, port, rest)| {
            let with_port =
                if rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !rest.ends_with(']') {
                    rest.to_owned()
                } else {
                    format!("{rest}:{port}")
                };
            HostPort::parse(&with_port).ok().map(|address| (tls, address.port != port, address))
        });
        match parsed {
            Some((tls, shown, address)) => (tls, address, shown),
            None => {
                self.bad(field, "not an endpoint", "write http:// or https:// and a host, without a path");
                (true, HostPort { host: String::new(), port: 443 }, false)
            }
        }
    }

    fn credentials(&mut self, name: &str, store: &model::Store) -> Credentials {
        let nobody = || Credentials::new("", "", None, None, "hopfall");
        match &store.credentials {
            None => self.credentials_from_env(store.kind.at(), name).unwrap_or_else(nobody),
            Some(model::Credentials::Word(word)) if word.text() == "env" => {
                self.credentials_from_env(word.at(), name).unwrap_or_else(nobody)
            }
            Some(model::Credentials::Word(word)) => {
                self.bad(
                    word,
                    "not a source of credentials",
                    "write env, or a mapping with access_key and secret_key, or with profile",
                );
                nobody()
            }
            Some(model::Credentials::Keys(keys)) => match (&keys.access_key, &keys.secret_key, &keys.profile) {
                (Some(access), Some(secret), None) => {
                    let token = keys.session_token.as_ref().map(|token| self.secret(token).0);
                    Credentials::new(self.secret(access).0, self.secret(secret).0, token, None, "hopfall")
                }
                (None, None, Some(profile)) => self.credentials_from_profile(profile).unwrap_or_else(nobody),
                _ => {
                    self.problems.push(Problem::at(
                        store.bucket.at(),
                        format!("store `{name}` has neither a pair of keys nor a profile"),
                        "give access_key and secret_key, or profile alone",
                    ));
                    nobody()
                }
            },
        }
    }

    fn credentials_from_env(&mut self, place: Place, name: &str) -> Option<Credentials> {
        let variable = self.surroundings.variable;
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access), Some(secret)) => {
                Some(Credentials::new(access, secret, variable("AWS_SESSION_TOKEN"), None, "hopfall"))
            }
            _ => {
                self.problems.push(Problem::at(
                    place,
                    format!("store `{name}` takes its credentials from the environment, and they are not there"),
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give `credentials` as a mapping",
                ));
                None
            }
        }
    }

    /// The shared credentials file, <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.
    fn credentials_from_profile(&mut self, profile: &Field<String>) -> Option<Credentials> {
        let variable = self.surroundings.variable;
        let path = variable("AWS_SHARED_CREDENTIALS_FILE")
            .or_else(|| variable("HOME").map(|home| format!("{home}/.aws/credentials")))
            .unwrap_or_default();
        let text = match (self.surroundings.read)(Path::new(&path)) {
            Ok(text) => text,
            Err(error) => {
                self.bad(
                    profile,
                    &format!("the credentials file `{path}` cannot be read: {error}"),
                    "set AWS_SHARED_CREDENTIALS_FILE",
                );
                return None;
            }
        };
        // The parser's own error would quote the line, and the line may be a secret.
        let Ok(ini) = ini::Ini::load_from_str_noescape(&text) else {
            self.bad(profile, &format!("`{path}` is not a credentials file"), "mend its syntax");
            return None;
        };
        let section = ini.section(Some(profile.text()));
        let get = |key: &str| section.and_then(|section| section.get(key)).map(str::to_owned);
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(access), Some(secret)) => {
                Some(Credentials::new(access, secret, get("aws_session_token"), None, "hopfall"))
            }
            _ => {
                self.bad(
                    profile,
                    &format!("`{path}` has no keys for this profile"),
                    "add aws_access_key_id and aws_secret_access_key to it",
                );
                None
            }
        }
    }

    fn route(&mut self, name: &str, route: &model::Route, pools: &[Pool], stores: &[Store]) -> Route {
        let deadline = self.time(route.deadline.as_ref(), secs(30));
        let mut stages = Vec::new();
        for link in &route.chain {
            let pool = pools.iter().position(|pool| pool.name == link.text());
            let store = stores.iter().find(|store| store.name == link.text());
            let (stage, header_timeout) = match (pool, store) {
                (Some(_), Some(_)) => {
                    self.bad(link, "both a pool and a store have this name", "rename one of them");
                    continue;
                }
                (Some(pool), None) => (Stage::Pool(pool), pools[pool].bounds.header_timeout),
                (None, Some(store)) => (Stage::Store(store.target), store.bounds.header_timeout),
                (None, None) => {
                    let known: Vec<&str> = pools
                        .iter()
                        .map(|pool| pool.name.as_str())
                        .chain(stores.iter().map(|store| store.name.as_str()))
                        .collect();
                    self.undefined("pool or store", link, &known);
                    continue;
                }
            };
            if let Stage::Pool(pool) = stage
                && pools[pool].proxy_protocol.is_some()
            {
                let fix = "remove `proxy_protocol` from the pool, or serve it from a tcp listener";
                self.bad(link, "its nodes want a PROXY header, which requests of a route do not send", fix);
            }
            if stages.contains(&stage) {
                self.bad(link, "twice in one chain", "name it once: a target is never asked twice");
            }
            if header_timeout >= deadline {
                self.bad(
                    link,
                    &format!("its header_timeout {header_timeout:?} is not below the route's deadline {deadline:?}"),
                    "raise `deadline`, or lower `header_timeout`",
                );
            }
            stages.push(stage);
        }
        Route {
            name: name.to_owned(),
            plan: Arc::new(Plan { stages, attempts: self.value(route.attempts.as_ref(), 0) }),
            deadline,
            transfer_deadline: self.time(route.transfer_deadline.as_ref(), secs(3600)),
            absent_max_age: self.value(route.absent_max_age.as_ref(), secs(10)).min(MOST_TIME),
        }
    }

    fn secret(&mut self, field: &Field<SecretRef>) -> Secret {
        secret(field, self.surroundings).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Secret(String::new())
        })
    }

    fn address(&mut self, field: &Field<String>) -> SocketAddr {
        field.text().parse().unwrap_or_else(|_| {
            self.bad(field, "not an IP address and port", "write one such as 0.0.0.0:8080 or [::]:8080");
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn reference(&mut self, what: &str, field: &Field<String>, known: &[&str]) -> usize {
        known.iter().position(|name| *name == field.text()).unwrap_or_else(|| {
            self.undefined(what, field, known);
            0
        })
    }

    fn undefined(&mut self, what: &str, field: &Field<String>, known: &[&str]) {
        let fix = match (nearest(field.text(), known), known) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => format!("define a {what} of that name"),
            (None, known) => format!("defined are: {}", known.join(", ")),
        };
        self.problems.push(Problem::at(field.at(), format!("{what} `{}` is not defined", field.text()), fix));
    }

    fn unique<'f, T: Scalar + 'f>(&mut self, what: &str, fields: impl Iterator<Item = &'f Field<T>>) {
        let mut seen = std::collections::HashSet::new();
        for field in fields {
            // Port 0 asks for any free port, so it is never the same twice.
            if !seen.insert(field.text()) && !field.text().ends_with(":0") {
                self.problems.push(Problem::at(
                    field.at(),
                    format!("{what} `{}` is used twice", field.text()),
                    "give each its own",
                ));
            }
        }
    }

    fn parse<T: Scalar>(&mut self, field: &Field<T>) -> Option<T> {
        match field.parse() {
            Ok(value) => Some(value),
            Err(fix) => {
                self.problems.push(Problem::at(field.at(), format!("`{}` does not fit here", field.text()), fix));
                None
            }
        }
    }

    fn value<T: Scalar>(&mut self, field: Option<&Field<T>>, default: T) -> T {
        field.and_then(|field| self.parse(field)).unwrap_or(default)
    }

    /// A time above zero.
    fn time(&mut self, field: Option<&Field<Duration>>, default: Duration) -> Duration {
        let time = self.value(field, default);
        if let Some(field) = field
            && time.is_zero()
        {
            self.bad(field, "zero", "write a time above zero: every wait has an end");
        }
        if let Some(field) = field
            && time > MOST_TIME
        {
            self.bad(field, "longer than a year", "write a shorter time: every wait has an end");
        }
        time.min(MOST_TIME)
    }

    fn dollars(&mut self, field: Option<&Field<Dollars>>) -> u64 {
        self.value(field, Dollars(0)).0
    }

    fn count(&mut self, field: Option<&Field<u32>>, default: u32, low: u32, high: u32) -> usize {
        let count = self.value(field, default);
        if let Some(field) = field
            && !(low..=high).contains(&count)
        {
            self.bad(field, "out of bounds", &format!("write {low} to {high}"));
        }
        count as usize
    }

    fn within(&mut self, field: Option<&Field<Bytes>>, default: Bytes, low: u64, high: u64) -> usize {
        let size = self.value(field, default).0;
        if let Some(field) = field
            && !(low..=high).contains(&size)
        {
            self.bad(field, "out of bounds", &format!("write {low} to {high} bytes"));
        }
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn bad<T: Scalar>(&mut self, field: &Field<T>, what: &str, fix: &str) {
        self.problems.push(Problem::at(field.at(), format!("`{}`: {what}", field.text()), fix));
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
/// What a disk needs for its folders, and for files of some use.
const LEAST_DISK: u64 = 8 << 20;
/// Ten years.
const MOST_AGE: Duration = secs(10 * 365 * 24 * 3600);
/// The longest time that the config may name.
const MOST_TIME: Duration = secs(365 * 24 * 3600);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
