//! The plan as commented YAML.

use super::plan::{Algorithm, Check, Listener, Mode, Node, Plan, Pool, Protocol, Stickiness};

/// The whole file.
pub fn write(plan: &Plan) -> String {
    let mut page = Page(String::new());
    page.line(0, format!("# From {}, by `hopfall import nodebalancer`.", plan.title));
    page.line(0, "# conf/full.yaml has every key with its default; docs/nodebalancer.md says what differs.");
    page.line(0, "");
    page.line(0, "# /metrics, /healthz and /readyz. It has no password: keep it on loopback.");
    page.line(0, format!("admin: {{ address: \"127.0.0.1:{}\" }}", plan.admin_port));
    page.line(0, "");
    page.line(0, "listeners:");
    for listener in &plan.listeners {
        page.listener(listener, &plan.pools[listener.pool]);
    }
    page.line(0, "");
    page.line(0, "pools:");
    for pool in &plan.pools {
        page.pool(pool);
    }
    if plan.listeners.iter().any(|listener| listener.protocol != Protocol::Tcp) {
        page.line(0, "");
        page.line(0, "# A store at the end of a chain is asked when no node has a file.");
        page.line(0, "routes:");
        for listener in plan.listeners.iter().filter(|listener| listener.protocol != Protocol::Tcp) {
            page.line(1, format!("{}: {{ chain: [{}] }}", listener.name, plan.pools[listener.pool].name));
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        let text = text.as_ref();
        if !text.is_empty() {
            self.0.push_str(&"  ".repeat(depth));
        }
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn listener(&mut self, listener: &Listener, pool: &Pool) {
        self.line(1, format!("# Config {} of the NodeBalancer.", listener.config));
        self.line(1, format!("- name: {}", listener.name));
        self.line(2, format!("address: \"0.0.0.0:{}\"", listener.port));
        match listener.protocol {
            Protocol::Http => self.line(2, "protocol: http"),
            Protocol::Https => self.line(2, "protocol: https"),
            Protocol::Tcp => self.line(2, "protocol: tcp"),
        }
        match listener.protocol {
            Protocol::Tcp => self.line(2, format!("pool: {}", pool.name)),
            _ => self.line(2, format!("route: {}", listener.name)),
        }
        if let Some(most) = listener.max_connections {
            self.line(2, "# As many as a premium NodeBalancer takes.");
            self.line(2, format!("max_connections: {most}"));
        }
        if let Some(throttle) = listener.throttle {
            self.line(2, "# New connections per second and client.");
            self.line(2, format!("throttle: {{ connections: {throttle} }}"));
        }
        if let Some(tls) = &listener.tls {
            self.line(2, "tls:");
            if !tls.common_name.is_empty() {
                self.line(3, format!("# The NodeBalancer's was for {}.", tls.common_name));
            }
            if !tls.fingerprint.is_empty() {
                self.line(3, format!("# Fingerprint: {}.", tls.fingerprint));
            }
            self.line(3, format!("certificate: {}", quoted(&tls.certificate)));
            self.line(3, format!("key: {}", quoted(&tls.key)));
            self.line(3, if tls.legacy { "profile: legacy" } else { "profile: recommended" });
        }
    }

    fn pool(&mut self, pool: &Pool) {
        let settings = &pool.settings;
        self.line(1, format!("{}:", pool.name));
        match settings.algorithm {
            Algorithm::RoundRobin => self.line(2, "algorithm: roundrobin"),
            Algorithm::LeastConn | Algorithm::Source => {
                self.line(2, shared_with_nodebalancer(Key::Algorithm(settings.algorithm)));
            }
        }
        if settings.stickiness != Stickiness::None {
            self.line(2, "# Images need no stickiness: remove it unless the nodes keep sessions.");
            self.line(2, shared_with_nodebalancer(Key::Stickiness(settings.stickiness)));
        }
        if let Some(version) = settings.proxy_protocol {
            self.line(2, format!("proxy_protocol: {version}"));
        }
        if let Some(most) = pool.max_in_flight {
            self.line(2, "# Connections to one node; a NodeBalancer limits only all of them together.");
            self.line(2, format!("max_in_flight: {most}"));
        }
        let health = &settings.health;
        self.line(2, "health:");
        let (interval, timeout) = match &health.check {
            Check::None => {
                self.line(3, "check: none");
                (None, None)
            }
            Check::Connection { interval, timeout } => {
                self.line(3, "check: connection");
                (Some(interval), Some(timeout))
            }
            Check::Http { path, body, interval, timeout } => {
                self.line(3, if body.is_some() { "check: http_body" } else { "check: http" });
                self.line(3, format!("path: {}", quoted(path)));
                if let Some(body) = body {
                    self.line(3, format!("body: {}", quoted(body)));
                }
                (Some(interval), Some(timeout))
            }
        };
        if let (Some(interval), Some(timeout)) = (interval, timeout) {
            self.line(3, format!("interval: {interval}s"));
            self.line(3, format!("timeout: {timeout}s"));
        }
        self.line(3, format!("fall: {}", health.fall));
        self.line(3, format!("passive: {}", health.passive));
        self.line(2, "nodes:");
        for node in &pool.nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &Node) {
        if node.down {
            self.line(3, "# Down when the export was made:");
        }
        let mode = match node.mode {
            Mode::Accept => String::new(),
            mode => format!(", {}", shared_with_nodebalancer(Key::Mode(mode))),
        };
        let (name, address) = (quoted(&node.name), quoted(&node.address));
        self.line(3, format!("- {{ name: {name}, address: {address}, weight: {}{mode} }}", node.weight));
    }
}

/// Keys that hopfall has because a NodeBalancer has them.
#[derive(Clone, Copy, Debug)]
enum Key {
    Algorithm(Algorithm),
    Stickiness(Stickiness),
    Mode(Mode),
}

/// One of these keys with its value. All of them are written here and nowhere else.
fn shared_with_nodebalancer(key: Key) -> &'static str {
    match key {
        Key::Algorithm(Algorithm::RoundRobin) => "algorithm: roundrobin",
        Key::Algorithm(Algorithm::LeastConn) => "algorithm: leastconn",
        Key::Algorithm(Algorithm::Source) => "algorithm: source",
        Key::Stickiness(Stickiness::None) => "",
        // Its time is the NodeBalancer's by default, 30 minutes.
        Key::Stickiness(Stickiness::Table) => "stickiness: { kind: table }",
        Key::Stickiness(Stickiness::Cookie) => "stickiness: { kind: cookie, cookie: NB_SRVID }",
        Key::Mode(Mode::Accept) => "mode: accept",
        Key::Mode(Mode::Reject) => "mode: reject",
        Key::Mode(Mode::Drain) => "mode: drain",
        Key::Mode(Mode::Backup) => "mode: backup",
    }
}

/// A value in double quotes: a plain `null` or `1.5` would be something else than a string. JSON's escapes are YAML's
/// (YAML 1.2 §5.7).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
