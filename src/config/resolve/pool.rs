//! Pools and their nodes.

use crate::config::model::{self, Field};
use crate::config::pem;
use crate::config::{Authorities, Bounds, Health, Node, NodeTls, Pool, Stickiness};
use crate::health::{Expected, Thresholds};
use crate::hedge;
use crate::hop::TargetId;
use crate::proxy_protocol::Version;
use crate::shape::is_host;
use crate::units::{HostPort, Scalar, StatusRange};
use crate::via::is_token;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::time::Duration;

use super::{MOST_TIME, Resolver, secs};

impl Resolver<'_> {
    pub(super) fn pool(&mut self, name: &str, pool: &model::Pool) -> Pool {
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
                self.bad(host, "not a host", "write a name or an address, with a port if it needs one");
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
            self.bad(check, "this check sends no PROXY header, but the nodes expect one", "write check: connection");
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
            self.bad(ca, "a CA that is not used, since nothing is verified", "remove it, or `verify: false`");
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

    pub(super) fn authorities(&mut self, file: &Field<String>) -> Option<Authorities> {
        let text = self.read(file)?;
        pem::authorities(&text).map_err(|what| self.bad(file, what, "name a PEM file of CA certificates")).ok()
    }

    /// The text of a file that the config names.
    pub(super) fn read(&mut self, file: &Field<String>) -> Option<String> {
        let read = (self.surroundings.read)(Path::new(file.text()));
        read.map_err(|error| self.bad(file, &format!("cannot be read: {error}"), "name a readable PEM file")).ok()
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
                self.bad(check, "a check of the body, without a regex", "add body: REGEX, or write http");
            }
            (Some(body), _) if body.text().is_empty() => {
                self.bad(body, "an empty regex, which every body matches", "write what to look for, or check: http");
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
}

/// Statuses on which GET and HEAD go on, where the file does not say.
const FALLBACK_ON: [u16; 6] = [404, 429, 500, 502, 503, 504];
