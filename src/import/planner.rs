//! From what a NodeBalancer was told to what hopfall is to be told, and a sentence for all that differs.
//!
//! One config becomes one listener. Configs over the same nodes share a pool where nothing that a pool has only one of
//! (algorithm, stickiness, health, PROXY header) differs; else the later one gets a pool of its own, and the report says
//! why: sharing would change what its clients see.

use std::collections::BTreeSet;

use super::Refusal;
use super::certificate::{Certificate, Comparison};
use super::document::{self, Balancer, Input};
use super::plan::{Listener, Mode, Node, Plan, Pool, Protocol, Settings, Tls};
use super::report::{Report, plural, shown};
use super::settings;

/// Plans the whole.
///
/// # Errors
/// Where the input has no config, or configs of more than one NodeBalancer.
pub fn plan(input: &Input, certificate: Option<&Certificate>) -> Result<(Plan, Report), Refusal> {
    if input.configs.is_empty() {
        return Err(Refusal(
            "the input has no config of a NodeBalancer; add the answer of GET /v4/nodebalancers/ID/configs".into(),
        ));
    }
    let owners: BTreeSet<u64> = input.configs.iter().filter_map(|config| config.balancer).collect();
    if owners.len() > 1 {
        let owners: Vec<String> = owners.iter().map(u64::to_string).collect();
        return Err(Refusal(format!(
            "the input has configs of several NodeBalancers ({}); import them one at a time, each from its own folder",
            owners.join(", ")
        )));
    }
    let balancer = match owners.first() {
        Some(id) => input.balancers.iter().find(|balancer| balancer.id == *id),
        None => input.balancers.first().filter(|_| input.balancers.len() == 1),
    };
    let mut planner = Planner {
        input,
        certificate,
        capacity: balancer.filter(|balancer| balancer.kind.starts_with("premium")).map(|_| PREMIUM),
        throttle: balancer.map(|balancer| balancer.throttle.min(MOST_OFTEN)).filter(|throttle| *throttle > 0),
        plan: Plan { title: title(balancer, owners.first()), admin_port: 9090, listeners: vec![], pools: vec![] },
        report: Report::default(),
    };
    for config in &input.configs {
        planner.config(config);
    }
    Ok(planner.end(balancer))
}

fn title(balancer: Option<&Balancer>, id: Option<&u64>) -> String {
    match (balancer, id) {
        (Some(balancer), _) => {
            let region = if balancer.region.is_empty() { "region unknown" } else { &balancer.region };
            match shown(&balancer.label).as_str() {
                "" => format!("NodeBalancer {} ({})", balancer.id, shown(region)),
                label => format!("NodeBalancer `{label}` ({}, {})", balancer.id, shown(region)),
            }
        }
        (None, Some(id)) => format!("NodeBalancer {id}"),
        (None, None) => "a NodeBalancer".to_owned(),
    }
}

struct Planner<'a> {
    input: &'a Input,
    certificate: Option<&'a Certificate>,
    /// Connections of a NodeBalancer that takes more than the common type.
    capacity: Option<u32>,
    throttle: Option<u64>,
    plan: Plan,
    report: Report,
}

impl Planner<'_> {
    fn config(&mut self, config: &document::Config) {
        let what = format!("config {}, {} on port {}", config.id, shown(&config.protocol), config.port);
        let protocol = match config.protocol.as_str() {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            "tcp" => Protocol::Tcp,
            "udp" => {
                self.report.lost.push(format!(
                    "{what}: refused, because hopfall does not support UDP; the rest is imported. Leave this port on a NodeBalancer"
                ));
                return;
            }
            _ => {
                self.report.lost.push(format!("{what}: refused, because hopfall does not know this protocol"));
                return;
            }
        };
        if let Some(other) = self.plan.listeners.iter().find(|listener| listener.port == config.port) {
            let other = other.config;
            self.report.lost.push(format!("{what}: left out, because config {other} has the same port"));
            return;
        }
        let name = format!("{}-{}", config.protocol, config.port);
        let nodes = settings::nodes(self.input, config, &name, &mut self.report);
        if nodes.is_empty() {
            self.report.lost.push(format!(
                "{what}: left out, because the input has no nodes for it; if it has nodes, add the answer of GET /v4/nodebalancers/ID/configs/{}/nodes",
                config.id
            ));
            return;
        }
        // It stands before what is said of its parts.
        let place = self.report.kept.len();
        let settings = settings::settings(config, protocol, &name, &mut self.report);
        let count = nodes.len();
        self.report.kept.insert(
            place,
            format!("{name}: {what}, {count} {}{}", plural(count, "node"), settings::kept(config, &settings)),
        );
        self.absent(config, &name);
        let pool = self.pool(nodes, settings, &name);
        if protocol == Protocol::Tcp {
            self.plan.pools[pool].max_in_flight = Some(self.capacity.unwrap_or(COMMON));
            if config.port == 443 {
                self.report.kept.push(format!(
                    "{name}: stays tcp. TLS ends at the nodes, so hopfall sees neither paths nor statuses: it cannot route by path or try another node on a 404. If you want that, make it https, with the certificate"
                ));
            }
        }
        let tls = (protocol == Protocol::Https).then(|| self.tls(config, &name));
        self.plan.listeners.push(Listener {
            config: config.id,
            name,
            port: config.port,
            protocol,
            tls,
            max_connections: self.capacity,
            throttle: self.throttle,
            pool,
        });
    }

    /// Says what the input leaves out, which is then as the API has it by default.
    fn absent(&mut self, config: &document::Config, listener: &str) {
        let nodes = self.input.nodes.iter().filter(|node| node.config == config.id);
        let of_nodes: BTreeSet<&str> = nodes.flat_map(|node| node.absent.iter().copied()).collect();
        for (what, keys) in [("config", config.absent.clone()), ("nodes", of_nodes.into_iter().collect())] {
            if !keys.is_empty() {
                let keys = keys.join(", ");
                self.report.changed.push(format!(
                    "{listener}: the input lacks these keys of its {what}, so defaults are used: {keys}; linode-cli leaves keys out without --all-columns"
                ));
            }
        }
    }

    /// The pool for these nodes and settings: one that is there already, or a new one.
    fn pool(&mut self, nodes: Vec<Node>, settings: Settings, listener: &str) -> usize {
        let set = |nodes: &[Node]| -> BTreeSet<(String, u64, Mode)> {
            nodes.iter().map(|node| (node.address.clone(), node.weight, node.mode)).collect()
        };
        let mine = set(&nodes);
        let same: Vec<usize> = (0..self.plan.pools.len()).filter(|i| set(&self.plan.pools[*i].nodes) == mine).collect();
        if let Some(pool) = same.iter().find(|i| self.plan.pools[**i].settings == settings) {
            let first = self.plan.listeners.iter().find(|l| l.pool == *pool).map(|l| l.name.clone());
            self.report.kept.push(format!("{listener}: shares its pool with {}", first.unwrap_or_default()));
            return *pool;
        }
        if let Some(other) = same.first() {
            let first = self.plan.listeners.iter().find(|l| l.pool == *other).map(|l| l.name.clone());
            let differs = differences(&self.plan.pools[*other].settings, &settings).join(", ");
            self.report.changed.push(format!(
                "{listener}: has the same nodes as {}, but its own pool, because it differs in: {differs}",
                first.unwrap_or_default()
            ));
        }
        self.plan.pools.push(Pool { name: listener.to_owned(), settings, max_in_flight: None, nodes });
        self.plan.pools.len() - 1
    }

    fn tls(&mut self, config: &document::Config, listener: &str) -> Tls {
        let legacy = config.cipher_suite == "legacy";
        if legacy {
            self.report.changed.push(format!(
                "{listener}: cipher_suite legacy: hopfall's legacy is TLS 1.2 and 1.3, the same as recommended; it has no weaker ciphers"
            ));
        }
        let mut tls = Tls {
            certificate: format!("/etc/hopfall/{listener}.pem"),
            key: format!("/etc/hopfall/{listener}.key"),
            legacy,
            common_name: shown(&config.common_name),
            fingerprint: shown(&config.fingerprint),
        };
        let Some(given) = self.certificate else {
            self.report.to_do.push(format!(
                "{listener}: put the certificate and its key at {} and {}: the API returns neither",
                tls.certificate, tls.key
            ));
            return tls;
        };
        let comparison = given.compare(&config.fingerprint);
        // With several certificates, one that is not this listener's is another's.
        let several = self
            .input
            .configs
            .iter()
            .any(|other| other.protocol == "https" && !other.fingerprint.eq_ignore_ascii_case(&config.fingerprint));
        if comparison == Comparison::Other && several {
            self.report.to_do.push(format!(
                "{listener}: {} has another certificate; put this listener's and its key at {} and {}",
                shown(&given.path),
                tls.certificate,
                tls.key
            ));
            return tls;
        }
        let path = shown(&given.path);
        match comparison {
            Comparison::Same => self.report.kept.push(format!("{listener}: {path} has the NodeBalancer's certificate")),
            Comparison::Other => self.report.changed.push(format!(
                "{listener}: {path} is not the NodeBalancer's certificate, by its fingerprint; use it only if it is a renewed one"
            )),
            Comparison::Unknown => self.report.to_do.push(format!(
                "{listener}: make sure that {path} is the right certificate: it was not compared, because the input has no SHA-1 or SHA-256 fingerprint"
            )),
        }
        tls.certificate.clone_from(&given.path);
        tls.key.clone_from(&given.key);
        tls
    }

    fn end(mut self, balancer: Option<&Balancer>) -> (Plan, Report) {
        let known: BTreeSet<u64> = self.input.configs.iter().map(|config| config.id).collect();
        let stray: BTreeSet<u64> =
            self.input.nodes.iter().map(|node| node.config).filter(|config| !known.contains(config)).collect();
        for config in stray {
            self.report.lost.push(format!("nodes of config {config}: left out, because the input has no such config"));
        }
        if let [pool] = &mut self.plan.pools[..] {
            pool.name = "nodes".to_owned();
        } else {
            for (i, pool) in self.plan.pools.iter_mut().enumerate() {
                let first = self.plan.listeners.iter().find(|listener| listener.pool == i);
                pool.name = format!("nodes-{}", first.map(|listener| listener.port).unwrap_or_default());
            }
        }
        let taken = |port: u16| self.plan.listeners.iter().any(|listener| listener.port == port);
        self.plan.admin_port = (9090..=u16::MAX).find(|port| !taken(*port)).unwrap_or(9090);
        if !self.plan.listeners.is_empty() {
            self.general(balancer);
        }
        let counts = [
            (self.plan.listeners.len(), "listener"),
            (self.plan.pools.len(), "pool"),
            (self.plan.pools.iter().map(|pool| pool.nodes.len()).sum(), "node"),
        ];
        let counted = counts.map(|(count, noun)| format!("{count} {}", plural(count, noun))).join(", ");
        self.report.title = match self.plan.listeners.is_empty() {
            false => format!("{}: {counted}", self.plan.title),
            true => format!("{}: hopfall can serve nothing of it, so no config was written", self.plan.title),
        };
        (self.plan, self.report)
    }

    /// What holds for all listeners.
    fn general(&mut self, balancer: Option<&Balancer>) {
        let report = &mut self.report;
        if let Some(throttle) = self.throttle {
            let kept = "kept as `throttle` of each listener; an IPv6 client is counted by its /64, and further connections are reset";
            report.kept.push(format!("client_conn_throttle {throttle}: {kept}"));
            if self.plan.listeners.len() > 1 {
                report.changed.push(format!(
                    "client_conn_throttle {throttle}: each listener counts separately, so a client of several ports may have as many at each"
                ));
            }
        }
        if self.plan.pools.iter().any(|pool| pool.settings.health.passive) {
            report.kept.push(
                "passive checks: failed connections, timeouts and 5xx other than 501 and 505 count against a node"
                    .into(),
            );
        }
        if self.plan.listeners.iter().any(|listener| listener.protocol != Protocol::Tcp) {
            report.kept.push("nodes get X-Forwarded-For, X-Forwarded-Proto and the client's Host".into());
            report.changed.push(
                "http and https: a GET or HEAD that a node answers with 404, 429, 500, 502, 503 or 504 goes on to the next node; to serve every answer as it is, write `fallback_on: []` in the pool".into(),
            );
            report.changed.push(
                "http and https: connections are kept alive on both sides, and clients may speak HTTP/2; `http2: false` of a listener turns that off".into(),
            );
            report.changed.push(
                "http and https: a node must begin its answer within 5s; if yours need longer, raise `header_timeout` of the pool, and `deadline` of the route above it".into(),
            );
            report.changed.push(
                "http and https: an upload above 1GiB is refused (413), a request that takes longer than 1h with its body is cut, and a WebSocket on which a node is silent for 60s, too; `body_bytes` of the listener, `transfer_deadline` of the route and `tunnel_timeout` of the pool raise that".into(),
            );
            report.changed.push(
                "http and https: a request that comes from a node's own address is sent to no node, so that it cannot loop; if your nodes call the balancer themselves, write `from_nodes: trust` in the pool".into(),
            );
        }
        if self.plan.listeners.iter().any(|listener| listener.protocol == Protocol::Tcp) {
            report.changed.push(
                "tcp: a connection without a byte either way for 10m is reset; `idle_timeout` of the listener raises that"
                    .into(),
            );
        }
        if self.plan.pools.iter().any(|pool| pool.max_in_flight.is_none()) {
            report.changed.push(
                "http and https: one node gets at most 512 requests at a time, and 512 more wait; `max_in_flight` and `queue` of the pool raise that".into(),
            );
        }
        report.changed.push(
            "listeners take IPv4 only; for IPv6 too, write the address \"[::]:PORT\" instead of \"0.0.0.0:PORT\""
                .into(),
        );
        let region = balancer.map(|balancer| shown(&balancer.region)).filter(|region| !region.is_empty());
        let place = region.map_or("the nodes' region".to_owned(), |region| format!("the region {region}"));
        report.to_do.push(format!("run hopfall in {place}, where the nodes' private addresses can be reached"));
        let addresses: Vec<String> = balancer
            .iter()
            .flat_map(|balancer| [shown(&balancer.ipv4), shown(&balancer.ipv6)])
            .filter(|address| !address.is_empty())
            .collect();
        report.to_do.push(match addresses.is_empty() {
            true => "change the DNS names that clients use from the NodeBalancer to hopfall's machine".to_owned(),
            false => {
                format!("change the DNS names that clients use from {} to hopfall's machine", addresses.join(" and "))
            }
        });
    }
}

/// The keys that make two pools of the same nodes.
fn differences(one: &Settings, other: &Settings) -> Vec<&'static str> {
    [
        (one.algorithm != other.algorithm, "algorithm"),
        (one.stickiness != other.stickiness, "stickiness"),
        (one.proxy_protocol != other.proxy_protocol, "proxy_protocol"),
        (one.health != other.health, "health"),
    ]
    .into_iter()
    .filter_map(|(differs, key)| differs.then_some(key))
    .collect()
}

/// Connections at a time of a NodeBalancer of the common type.
const COMMON: u32 = 10_000;
/// The same of the premium type.
const PREMIUM: u32 = 100_000;
/// The most that `throttle` can be told; the API knows no more than 20.
const MOST_OFTEN: u64 = 1_000_000;
