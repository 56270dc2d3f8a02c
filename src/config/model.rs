//! The config file as it is written: one type per mapping, one documented field per key.
//!
//! These types only mirror the YAML. What they mean, with defaults filled in and names resolved, is
//! [`super::Config`]. Scalars are [`Field`]s, which never fail to parse here, so that `resolve` can report
//! every bad value at once, each with its place. No `flatten`, no untagged enum: they lose the place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde_saphyr::{Location as Place, Spanned};

use super::logging::Destination;
use crate::units::{Bytes, Dollars, Form, HostPort, Network, Pattern, Scalar, Status, StatusRange};

/// The whole file.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct File {
    /// Worker threads. Default: one per CPU core that the process may use.
    pub threads: Option<Field<u32>>,
    /// How long SIGTERM waits for requests under way before it cuts them. Default 30s.
    pub shutdown_timeout: Option<Field<Duration>>,
    /// How this instance names itself to other proxies. Default: a new name at each start.
    pub identity: Option<Identity>,
    /// What is logged, and where. Default: as its keys say.
    pub log: Option<Log>,
    /// The admin listener: the status page, `/status.json`, `/metrics`, `/healthz`, `/readyz`. Default: none.
    pub admin: Option<Admin>,
    /// Remembers which target has which path. Default: off; `location: {}` turns it on.
    pub location: Option<Location>,
    /// The CA from which the `acme` names of listeners get their certificates (RFC 8555). Default: none.
    pub acme: Option<Acme>,
    /// Where requests are traced to (OpenTelemetry). Only in a build with the feature `otel`. Default: nowhere.
    pub tracing: Option<Tracing>,
    /// Addresses on which clients are accepted. At least one.
    #[schemars(length(min = 1))]
    pub listeners: Vec<Listener>,
    /// Pools of storage nodes, by name. Default: none.
    #[serde(default)]
    pub pools: BTreeMap<String, Pool>,
    /// Stores to ask when no node has a file, by name. Default: none.
    #[serde(default)]
    pub stores: BTreeMap<String, Store>,
    /// Chains of pools and stores, by name. Each `http` or `https` listener needs one. Default: none.
    #[serde(default)]
    pub routes: BTreeMap<String, Route>,
}

/// Who this instance is in `Via` (RFC 9110 §7.6.3) and `CDN-Loop` (RFC 8586).
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Identity {
    /// A name (an RFC 9110 token) that no other instance uses: two instances of one name take each other's requests for
    /// loops. Default: `hopfall-` and eight random hex digits, new at each start.
    pub name: Option<Field<String>>,
    /// Key of the mark by which hopfall recognises its own requests, as a reference. Instances with the same key recognise
    /// each other's. Default: random at each start, so that no other instance is recognised.
    pub mark_key: Option<Field<SecretRef>>,
}

/// What is logged, and where.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Log {
    /// Least severe messages that are logged. Can be changed while running (`hopfall log-level`). Default `info`.
    pub level: Option<Field<Level>>,
    /// Where messages go: `-` for standard error, a file to append to, or `syslog`, as for the access log. Default `-`.
    pub path: Option<Field<Destination>>,
    /// The facility of messages that go to syslog (RFC 5424 §6.2.1): `daemon`, `user`, or `local0` to `local7`. Default
    /// `daemon`.
    pub facility: Option<Field<Facility>>,
    /// How the access log and messages show a client's address: `full`, or `truncated` to its network: /24 of IPv4, /48
    /// of IPv6, without the port. Default `full`.
    pub client: Option<Field<Clients>>,
    /// The access log, one line per request. Default: `json` to standard output.
    pub access: Option<AccessLog>,
}

/// The access log.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AccessLog {
    /// `json`, `combined` (Apache's format with the hops appended) or `off`. Default `json`.
    pub format: Option<Field<AccessFormat>>,
    /// A file to append to, `-` for standard output, or syslog: `syslog` is this machine's `/dev/log`,
    /// `syslog:/a/socket` another socket, `syslog:IP:PORT` a daemon that takes UDP (RFC 5426). A file is reopened on
    /// SIGUSR1. Default `-`.
    pub path: Option<Field<Destination>>,
    /// The facility of lines that go to syslog. Their severity is `info`. Default `local0`.
    pub facility: Option<Field<Facility>>,
    /// Writes one line in this many. Always written: requests with a status of 400 or above or without an answer, those that
    /// were cut short or looped, and those for which a target failed. Default 1: every line; at most 1000000.
    pub sample_one_in: Option<Field<u32>>,
}

/// The location map: it remembers which target had a path, so that this one is asked first.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Location {
    /// Paths remembered, at 16 bytes each. Default 1000000.
    pub entries: Option<Field<u32>>,
    /// How long the map remembers which targets have a path and which lack it. Default 1h, at most 24h.
    pub ttl: Option<Field<Duration>>,
    /// How long a path that every target lacked is answered 404 without asking. A file that is added meanwhile is not seen
    /// until then. In whole seconds. Default 30s; 0s turns it off.
    pub absent_ttl: Option<Field<Duration>>,
    /// Percentage of paths that ignore what is remembered, so that the gain can be measured. Default 1.
    pub control: Option<Field<u32>>,
    /// A file in which the map is kept over a restart. Default: none.
    pub file: Option<Field<String>>,
    /// How often the map is saved to `file`; it is also saved at the end. Default 5m.
    pub save_every: Option<Field<Duration>>,
}

/// The admin listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Admin {
    /// IP address and port. Keep it on loopback or a private network: anyone who can reach it can read everything it shows.
    pub address: Field<String>,
    /// The token that commands (drain, purge, reload) require, as a reference: `${VAR}` or `file:PATH`; at least 16
    /// characters. After signing in with it, the status page has buttons for them. Default: none, and only programs on this
    /// machine may send commands.
    pub token: Option<Field<SecretRef>>,
    /// Names under which browsers may open the status page, besides IP addresses and `localhost`. Any other name is
    /// refused (421), because a hostile page could make its own name point here. Default: none.
    pub hosts: Option<Vec<Field<String>>>,
}

/// OpenTelemetry: one span per request and one per attempt, sent to a collector by OTLP over HTTP, as protobuf. Requests to
/// nodes carry `traceparent` (W3C Trace Context).
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tracing {
    /// The collector's address for traces, `http://` or `https://`, with its path: `http://127.0.0.1:4318/v1/traces`. With
    /// https, its certificate must be from a CA that the system trusts.
    pub endpoint: Field<String>,
    /// Percentage of requests to trace, chosen at random. A client of the listener's `trusted` networks that sends a
    /// `traceparent` decides for its own requests. Default 100, at most 100.
    pub sample: Option<Field<u32>>,
    /// The resource attribute `service.name`. Default `hopfall`.
    pub service_name: Option<Field<String>>,
    /// Header fields to send to the collector, such as `Authorization`, as references. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, Field<SecretRef>>,
    /// Longest time for the collector to take a batch, retries included. Default 10s, at most 60s.
    pub timeout: Option<Field<Duration>>,
}

/// An address on which clients are accepted.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Listener {
    /// Its name in metrics and logs.
    pub name: Field<String>,
    /// IP address and port, such as `0.0.0.0:80` or `[::]:443`.
    pub address: Field<String>,
    /// `http`, `https`, or `tcp`: bytes are passed both ways between a client and one node, and not looked at.
    /// Default `http`.
    pub protocol: Option<Field<Protocol>>,
    /// The route that the requests of an `http` or `https` listener take, except those that `routes` sends elsewhere.
    /// Default: none.
    pub route: Option<Field<String>>,
    /// Routes by host and path, for `http` and `https`. The most specific one that fits is taken: a host before a domain
    /// before any host, then the longest path. Where none fits and there is no `route`, the answer is 404.
    /// Default: none.
    #[schemars(length(min = 1))]
    pub routes: Option<Vec<Rule>>,
    /// The pool that the connections of a `tcp` listener go to. A connection takes one place under the node's
    /// `max_in_flight`. Default: none.
    pub pool: Option<Field<String>>,
    /// The certificates of an `https` listener, which needs them. Default: none.
    pub tls: Option<Tls>,
    /// Port of the https listener to which every request is sent (308). For `http` listeners. Default: requests are
    /// served.
    pub redirect_to_https: Option<Field<u32>>,
    /// Whether HTTP/2 is spoken: by ALPN on `https`, by prior knowledge (h2c) on `http`. Default true.
    pub http2: Option<Field<bool>>,
    /// Networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed. They see the names of nodes in
    /// `Server-Timing` and `Proxy-Status`. Default: none.
    pub trusted: Option<Vec<Field<Network>>>,
    /// Networks of proxies whose connections must begin with a PROXY header, version 1 or 2
    /// (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>). The client that it names then counts as the one
    /// who connected. A connection from these networks is closed if no complete header comes within `header_timeout`;
    /// connections from elsewhere need none. Default: none.
    pub proxy_protocol: Option<Vec<Field<Network>>>,
    /// Most connections at a time; further ones wait in the kernel's queue. Default 10000.
    pub max_connections: Option<Field<u32>>,
    /// How often one client may connect and send requests. Default: no limit.
    pub throttle: Option<Throttle>,
    /// Longest time for a client to send a whole request head, for the TLS handshake, and for a PROXY header. Default
    /// 10s, at most 60s.
    pub header_timeout: Option<Field<Duration>>,
    /// Longest time that a connection may be idle between requests. Default 60s. On a `tcp` listener: longest time without a
    /// byte either way, after which both sides are reset (a side that stops taking what it was sent has twice as long);
    /// default 10m.
    pub idle_timeout: Option<Field<Duration>>,
    /// Longest time that a client may stall while it receives an answer or sends a body. Default 30s.
    pub stall_timeout: Option<Field<Duration>>,
    /// Most requests on one connection, after which it is closed. Default 10000.
    pub requests_per_connection: Option<Field<u32>>,
    /// Most concurrent HTTP/2 streams on one connection (RFC 9113 §5.1.2). Default 100.
    pub max_streams: Option<Field<u32>>,
    /// Largest request head. Above it: 431. Default 32KiB, at most 512KiB.
    pub header_bytes: Option<Field<Bytes>>,
    /// Most header fields of a request. Above it: 431. Default 100, at most 250.
    pub header_count: Option<Field<u32>>,
    /// Longest request target. Above it: 414. Default 8KiB.
    pub target_bytes: Option<Field<Bytes>>,
    /// Largest request body. Above it: 413. Default 1GiB.
    pub body_bytes: Option<Field<Bytes>>,
}

/// Which requests take a route.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// Hosts, without a port: names, or `*.DOMAIN` for all below a domain. Default: any.
    #[schemars(length(min = 1))]
    pub hosts: Option<Vec<Field<String>>>,
    /// Beginning of the path, in whole segments: `/img` matches `/img` and `/img/cat.jpg`, not `/images`. It is compared with
    /// the path decoded and without dot segments. Default `/`.
    pub path: Option<Field<String>>,
    /// The route's name.
    pub route: Field<String>,
}

/// How often one client may connect and send requests. A client is an IPv4 address, or all addresses of one IPv6 /64. For a
/// connection it is the other end, or the address in a PROXY header; for a request, the `X-Forwarded-For` of a `trusted`
/// proxy counts too. Addresses of nodes (with `from_nodes: no_nodes`) are never refused on `http` and `https`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Throttle {
    /// New connections per second and client. Further ones are reset before any byte, even of TLS, is sent. A proxy in
    /// front of hopfall that sends no PROXY header is one client: put it into `exempt`. 0: no limit. Default 0, at most
    /// 1000000.
    pub connections: Option<Field<u32>>,
    /// Connections that may come at once, after a pause. Default: as many as in one second.
    pub connection_burst: Option<Field<u32>>,
    /// Requests per second and client, of all its connections and HTTP/2 streams. Further ones: 429 with `Retry-After`
    /// (RFC 6585 §4); the connection stays open, unless a body was not read. 0: no limit. Default 0, at most 1000000. Not
    /// for `tcp` listeners.
    pub requests: Option<Field<u32>>,
    /// Requests that may come at once, after a pause. Default: as many as in one second.
    pub request_burst: Option<Field<u32>>,
    /// Clients remembered, at 17 bytes each, separately for connections and for requests. If more clients than this come
    /// within burst / rate seconds, some share a bucket: they may be refused early, but never exceed the limit.
    /// Default 65536.
    pub entries: Option<Field<u32>>,
    /// Networks without a limit. Default: none.
    pub exempt: Option<Vec<Field<Network>>>,
}

/// TLS of an `https` listener. Files are read again when they change; open connections are not affected.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate, then its intermediates. The first certificate is the default: it is for clients that
    /// name no host, or one that no certificate has. Default: none; then `folder` or `acme` is needed.
    pub certificate: Option<Field<String>>,
    /// PEM file with its private key (PKCS #8, PKCS #1 or SEC 1). Default: none.
    pub key: Option<Field<String>>,
    /// DER file with an OCSP answer to staple (RFC 6961). Default: none.
    pub ocsp: Option<Field<String>>,
    /// More certificates, chosen by the name that the client asks for (SNI). Default: none.
    pub more: Option<Vec<Certificate>>,
    /// A folder with more: each NAME.crt or NAME.pem with NAME.key, and NAME.ocsp if there is one. Of several for one name,
    /// the first one that is valid at the time is used. Default: none.
    pub folder: Option<Field<String>>,
    /// Names for which certificates are obtained by ACME, one each; see `acme` at the top level. The CA validates them by
    /// tls-alpn-01 (RFC 8737): it connects to port 443 of the name, which must lead to this listener. Until a name has its
    /// first certificate, clients get a matching one from the files, or the handshake fails. Default: none.
    pub acme: Option<Vec<Field<String>>>,
    /// `modern` (TLS 1.3), `recommended` (TLS 1.2 and 1.3) or `legacy`, which is the same as `recommended`: the library
    /// has no older versions and no weak ciphers. Default `recommended`.
    pub profile: Option<Field<TlsProfile>>,
    /// How long browsers must use https only (`Strict-Transport-Security`, RFC 6797). Default: not sent.
    pub hsts: Option<Field<Duration>>,
}

/// A certificate and its key.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file with the certificate, then its intermediates.
    pub certificate: Field<String>,
    /// PEM file with its private key.
    pub key: Field<String>,
    /// DER file with an OCSP answer to staple. Default: none.
    pub ocsp: Option<Field<String>>,
}

/// A CA that issues certificates automatically (ACME, RFC 8555). They are renewed when the CA suggests it (RFC 9773), or
/// else after two thirds of their lifetime.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Acme {
    /// A folder for the account's key, the certificates and their keys. It is created if missing, readable only by its
    /// owner. No second hopfall may use it at the same time.
    pub folder: Field<String>,
    /// `true` means that you agree to the CA's terms of service (RFC 8555 §7.3). No default: it must be written.
    pub terms_of_service_agreed: Field<bool>,
    /// The `https://` address of the CA's directory. Default: Let's Encrypt's,
    /// `https://acme-v02.api.letsencrypt.org/directory`.
    pub directory: Option<Field<String>>,
    /// Your e-mail address, for the CA. It is sent when the account is created; later changes are not. Default: none.
    pub email: Option<Field<String>>,
    /// PEM file of the CA certificates to trust for connections to the directory. Default: the system's.
    pub ca: Option<Field<String>>,
    /// Your existing account with the CA, if it requires one (external account binding, RFC 8555 §7.3.4).
    /// Default: none.
    pub eab: Option<Eab>,
}

/// What a CA gave you to bind an ACME account to yours.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Eab {
    /// The key's identifier.
    pub key_id: Field<String>,
    /// The key, in base64url as the CA shows it, as a reference.
    pub hmac_key: Field<SecretRef>,
}

/// Nodes that serve the same files. None of them needs to hold all.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pool {
    /// How a request's first node is chosen among nodes that are up and free, unless stickiness or the location map
    /// chooses it: `roundrobin`, by weight in turn; `leastconn`, the fewest requests (tcp: connections) in flight for its
    /// weight; `source`, by the client's address; or `hash`, by the path, so that the same node is always asked first for a
    /// path (http and https only). The last two hash consistently, by weight (Ketama). The ring is made of the nodes'
    /// addresses as they are written here; a path is hashed as it was received, still percent-encoded, without the query.
    /// Default `roundrobin`.
    pub algorithm: Option<Field<Algorithm>>,
    /// Whether a returning client is sent to the same node first. Default: no.
    pub stickiness: Option<Stickiness>,
    /// Statuses on which GET and HEAD go on to the next target. 429 and 503 count as busy, other 5xx as
    /// errors, the rest as absent. Default 404, 429, 500, 502, 503, 504; a list replaces it.
    pub fallback_on: Option<Vec<Field<Status>>>,
    /// What a node's `403` means: `serve` it, or `next`, as if the file were absent. Default `serve`.
    pub on_403: Option<Field<On403>>,
    /// What happens to a request that comes from a node's own address without hopfall's mark: `no_nodes` asks only stores,
    /// so that a node that drops hopfall's headers cannot make a loop; `trust` treats it like any client's. Default
    /// `no_nodes`.
    pub from_nodes: Option<Field<FromNodes>>,
    /// The `Host` that nodes see: `preserve` for the client's, or a fixed name. Default `preserve`.
    pub host: Option<Field<String>>,
    /// Whether each connection to a node begins with a PROXY header that names the client: `none`, `v1` (text) or `v2`
    /// (binary), <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>. For pools of `tcp` listeners only.
    /// Default `none`.
    pub proxy_protocol: Option<Field<SendProxy>>,
    /// TLS to the nodes, for pools of `http` and `https` listeners. Default: plain HTTP; `tls: {}` turns it on.
    pub tls: Option<NodeTls>,
    /// Longest time to open a connection to a node, TLS handshake included. After that the attempt fails with
    /// `connection_timeout`. Default 2s.
    pub connect_timeout: Option<Field<Duration>>,
    /// Longest wait for a node's response head, from the request's last byte. After that the attempt fails with
    /// `http_response_timeout` (RFC 9209 §2.3.12), and GET and HEAD go on to the next target. Default 5s; must be below each
    /// route's `deadline`.
    pub header_timeout: Option<Field<Duration>>,
    /// Longest silence of a node in the middle of a body. After that the client's connection is aborted. Default 30s.
    pub body_idle_timeout: Option<Field<Duration>>,
    /// Longest silence of a node during an upload that waits for its answer, or a WebSocket. Default 60s.
    pub tunnel_timeout: Option<Field<Duration>>,
    /// How long an idle connection to a node is kept for reuse; keep it below the node's own keep-alive
    /// time. Default 55s.
    pub keepalive: Option<Field<Duration>>,
    /// Most requests in flight to one node. Default 512.
    pub max_in_flight: Option<Field<u32>>,
    /// Most requests that wait for a place at one node. Further ones treat it as busy and go on. Default 512.
    pub queue: Option<Field<u32>>,
    /// Longest wait for a place. Default 500ms.
    pub queue_timeout: Option<Field<Duration>>,
    /// Sends GET and HEAD to a second node too when the first is silent for much longer than usual. Default: off;
    /// `hedge: {}` turns it on.
    pub hedge: Option<Hedge>,
    /// How hopfall decides whether a node is up. Default: by real requests alone.
    pub health: Option<Health>,
    /// The nodes. At least one.
    #[schemars(length(min = 1))]
    pub nodes: Vec<Node>,
}

/// TLS 1.2 or 1.3 to the nodes, with HTTP/1.1 in it. Its files are read together with the config.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodeTls {
    /// PEM file with the CA certificates to trust. Default: the system's.
    pub ca: Option<Field<String>>,
    /// The name that hopfall asks for (SNI, RFC 6066 §3) and that a node's certificate must have. Default: the pool's
    /// `host` without its port; else the host of the node's `address` as it is written.
    pub server_name: Option<Field<String>>,
    /// Whether certificates are verified. If not, anyone in between can read and change everything. Default true.
    pub verify: Option<Field<bool>>,
    /// PEM file with the certificate to show to nodes that ask for one, then its intermediates. Default: none.
    pub certificate: Option<Field<String>>,
    /// PEM file with its private key (PKCS #8, PKCS #1 or SEC 1). Default: none.
    pub key: Option<Field<String>>,
}

/// How returning clients are recognised. Stickiness chooses only the first target.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Stickiness {
    /// `none`, `table` (by the client's address, in IPv6 its first 64 bits) or `cookie` (http and https only).
    /// Default `none`.
    pub kind: Option<Field<StickinessKind>>,
    /// How long a client stays in the table, from when it was first sent to its node. Default 30m.
    pub ttl: Option<Field<Duration>>,
    /// Most clients in the table. Default 100000.
    pub entries: Option<Field<u32>>,
    /// The cookie's name. Its value is a keyed hash (`identity.mark_key`; with a random key it is void after a restart).
    /// Default `NB_SRVID`: the NodeBalancer's.
    pub cookie: Option<Field<String>>,
}

/// When a second node is asked while the first is silent. The first good head wins, and the other request is dropped. Stores
/// are never hedged.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Hedge {
    /// Shortest wait before a second node is asked. Between the two bounds, the wait is about the 97th percentile of the
    /// node's own times to a head. Default 20ms.
    pub floor: Option<Field<Duration>>,
    /// Longest wait. Default 150ms.
    pub ceiling: Option<Field<Duration>>,
    /// Most extra requests, in percent of all; up to 200 unused ones are saved up. Default 5.
    pub budget: Option<Field<u32>>,
}

/// How hopfall decides whether nodes are up.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Health {
    /// Active check: `none`, `connection` (a TCP connect), `http` (a GET whose status counts) or `http_body` (the
    /// body too). In a pool with `tls` the last two use TLS. Default `none`.
    pub check: Option<Field<Check>>,
    /// Path that an `http` or `http_body` check requests. Default `/`.
    pub path: Option<Field<String>>,
    /// `Host` that these checks send. Default: the node's address.
    pub host: Option<Field<String>>,
    /// Statuses that pass these checks: single ones, or ranges. Default `[200-399]`.
    pub expect: Option<Vec<Field<StatusRange>>>,
    /// Regex that the body of an `http_body` check must match somewhere, in the syntax of <https://docs.rs/regex>: no
    /// look-around, no back-references. Only the first 64KiB are searched; `$` also matches before a final line end.
    /// Default: none, and `http_body` needs one.
    pub body: Option<Field<Pattern>>,
    /// Time between two checks of a node, varied by up to a tenth. Default 5s.
    pub interval: Option<Field<Duration>>,
    /// Longest time for one check. Default 2s.
    pub timeout: Option<Field<Duration>>,
    /// Failures in a row that bring a node down. Default 3.
    pub fall: Option<Field<u32>>,
    /// Passes in a row that bring it up. Default 2.
    pub rise: Option<Field<u32>>,
    /// Whether failures of real requests count too: a failed connection, a timeout, or a 5xx except 501 and 505. They never
    /// bring down the last node that is up. Default true.
    pub passive: Option<Field<bool>>,
    /// Whether a node whose share of 404s jumps far above what it has ever been is asked last for 30s, since its disk may be
    /// gone. Default true.
    pub absence: Option<Field<bool>>,
    /// How long a node that comes up again takes to grow to its full weight. Default 0s: it has it at once.
    pub slow_start: Option<Field<Duration>>,
    /// Most of the pool's nodes, in percent, that real requests may bring down. One node may always be brought down, unless
    /// it is the last one up. Active checks are not bounded by this. Default 100.
    pub eject_at_most: Option<Field<u32>>,
    /// How long failed requests keep a node down in a pool without active checks. After that, one request at a time tries
    /// it, until one is served. Default 10s.
    pub eject_for: Option<Field<Duration>>,
}

/// One node.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Node {
    /// Its name in metrics and logs, unique in its pool.
    pub name: Field<String>,
    /// `host:port`. A name is resolved at start and again every 30 seconds.
    pub address: Field<HostPort>,
    /// Its share of first requests, 1 to 255. Default 1.
    pub weight: Option<Field<u32>>,
    /// `accept`; `backup`: after all others that are up; `drain`: only clients that stickiness sends there; `reject`: never,
    /// and it is not checked. Can be changed while running (`hopfall node`). Default `accept`.
    pub mode: Option<Field<Mode>>,
}

/// A store that is asked when no node has a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Store {
    /// `s3`: a bucket of Amazon S3, or of anything else that speaks its API.
    pub kind: Field<StoreKind>,
    /// The bucket.
    pub bucket: Field<String>,
    /// The region in the signature. Default `us-east-1`; R2 needs `auto`.
    pub region: Option<Field<String>>,
    /// `http://` or `https://`, a host, and a port if it is not the usual one. Default
    /// `https://s3.REGION.amazonaws.com`.
    pub endpoint: Option<Field<String>>,
    /// Where requests have the bucket's name: `virtual` (in the host name) or `path`. Default `virtual` at Amazon and
    /// `path` at any other endpoint.
    pub addressing: Option<Field<Addressing>>,
    /// What an object's key has before the request's path. Default: nothing.
    pub prefix: Option<Field<String>>,
    /// `env` (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), or a mapping. Default `env`.
    pub credentials: Option<Credentials>,
    /// What the store costs. Default: nothing is counted.
    pub prices: Option<Prices>,
    /// Dollars that may be spent in one UTC day, by `prices`. After that the store is not asked, and a file that only it has
    /// is 503. Default: no limit.
    pub budget_per_day: Option<Field<Dollars>>,
    /// Keeps S3's answers on a disk of this machine. Default: nothing is kept.
    pub disk: Option<Disk>,
    /// Memory for bodies that are sent to several clients while they arrive from S3, so that S3 is asked once. One body may
    /// take a quarter of it. Default 64MiB; 0 turns it off, except for bodies that go to `disk`.
    pub shared_memory: Option<Field<Bytes>>,
    /// What `403 AccessDenied` means: `probe` asks the bucket once, with a random key, how it answers for a missing one;
    /// `not_found` and `error` decide it without asking. Default `probe`.
    pub on_403: Option<Field<OnDenied>>,
    /// PEM file of the CA certificates to trust for an `https` endpoint. Default: the system's.
    pub ca: Option<Field<String>>,
    /// Longest time to open a connection, TLS handshake included. Default 3s.
    pub connect_timeout: Option<Field<Duration>>,
    /// Longest wait for a response head. Default 10s; must be below each route's `deadline`.
    pub header_timeout: Option<Field<Duration>>,
    /// Longest silence in the middle of a body. Default 30s.
    pub body_idle_timeout: Option<Field<Duration>>,
    /// How long an idle connection is kept for reuse. Default 15s: S3 closes them after about 20.
    pub keepalive: Option<Field<Duration>>,
    /// Most requests in flight. Default 512.
    pub max_in_flight: Option<Field<u32>>,
    /// Most requests that wait for a place. Default 512.
    pub queue: Option<Field<u32>>,
    /// Longest wait for a place. Default 1s.
    pub queue_timeout: Option<Field<Duration>>,
}

/// Where on the disk a store's files are kept, how many, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Disk {
    /// A folder for this store alone. It is created if missing; otherwise it must be empty, or have been a store's before.
    pub path: Field<String>,
    /// Most bytes that the files take. At least 8MiB.
    pub bytes: Field<Bytes>,
    /// Bytes of the file system to leave free for others; files are removed to keep to it. Default 1GiB.
    pub free: Option<Field<Bytes>>,
    /// Largest file that is kept. Default: a quarter of `bytes`, which is also the most.
    pub largest: Option<Field<Bytes>>,
    /// Memory for small files that are requested again. Default 64MiB; 0 turns it off.
    pub memory: Option<Field<Bytes>>,
    /// Largest file that is kept in memory. Default 256KiB.
    pub memory_largest: Option<Field<Bytes>>,
    /// How long a file is fresh if it has neither `Cache-Control` nor `Expires` that says so (RFC 9111 §4.2.1). Default 24h.
    pub ttl: Option<Field<Duration>>,
    /// How long after that it is served at once, while hopfall asks S3 in the background whether it has changed. Later, S3 is
    /// asked first. The file's own `stale-while-revalidate` takes precedence (RFC 5861). Default 1h.
    pub stale_while_revalidate: Option<Field<Duration>>,
    /// How long after it was fresh it is still served if S3 fails. The file's own `stale-if-error` takes precedence
    /// (RFC 5861). Default 168h.
    pub stale_if_error: Option<Field<Duration>>,
}

/// What a store costs.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Prices {
    /// Dollars for 1,000 requests. Default 0.
    pub thousand_requests: Option<Field<Dollars>>,
    /// Dollars for one GiB of bodies. Default 0.
    pub gibibyte: Option<Field<Dollars>>,
}

/// An ordered chain.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Route {
    /// Names of pools and stores, asked in this order.
    #[schemars(length(min = 1))]
    pub chain: Vec<Field<String>>,
    /// Longest time until an answer is found. After that: 504. Default 30s.
    pub deadline: Option<Field<Duration>>,
    /// Longest time for a whole request, its body included. After that the connection is aborted. Default 1h.
    pub transfer_deadline: Option<Field<Duration>>,
    /// Most attempts for one request. Default 0: as many as there are targets.
    pub attempts: Option<Field<u32>>,
    /// `max-age` of a 404, given only when every target lacks the file. Default 10s; 0s forbids caching it.
    pub absent_max_age: Option<Field<Duration>>,
}

/// Where credentials come from: the word `env`, or a mapping.
#[derive(Debug)]
pub enum Credentials {
    /// The AWS environment variables, or a word that resolve refuses.
    Word(Field<String>),
    Keys(Box<Keys>),
}

/// Credentials, as references.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Keys {
    /// The access key, as a reference: `${VAR}` or `file:PATH`. Default: none; then `profile` is needed.
    pub access_key: Option<Field<SecretRef>>,
    /// The secret key, as a reference. Default: none; then `profile` is needed.
    pub secret_key: Option<Field<SecretRef>>,
    /// The session token of temporary credentials, as a reference. Default: none.
    pub session_token: Option<Field<SecretRef>>,
    /// A profile of the shared credentials file (`AWS_SHARED_CREDENTIALS_FILE`, or `.aws/credentials` in
    /// the home folder), instead of keys. Default: none.
    pub profile: Option<Field<String>>,
}

/// Where a secret is: an environment variable `${NAME}`, or `file:PATH` (its last line end is dropped).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    Variable(String),
    File(String),
}

impl Scalar for SecretRef {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        let variable = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match (variable, text.strip_prefix("file:")) {
            (Some(name), _) if !name.is_empty() => Ok(SecretRef::Variable(name.to_owned())),
            (_, Some(path)) if !path.is_empty() => Ok(SecretRef::File(path.to_owned())),
            _ => Err("a secret is written by reference: ${VARIABLE} or file:PATH".into()),
        }
    }
    fn form() -> Form {
        Form { name: "secret", pattern: Some(r"^(\$\{.+\}|file:.+)$"), ..Form::default() }
    }
}

/// A closed set of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
        impl Scalar for $name {
            const KIND: &'static str = "string";
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(format!("write one of: {}", Self::choices().join(", "))),
                }
            }
            fn choices() -> &'static [&'static str] { &[$($word),+] }
        }
        impl $name {
            /// The word that the file has for it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

words!(
    /// What a listener speaks.
    Protocol { Http = "http", Https = "https", Tcp = "tcp" });
words!(
    /// Which versions of TLS are spoken.
    TlsProfile { Modern = "modern", Recommended = "recommended", Legacy = "legacy" });
words!(
    /// How the first node is chosen.
    Algorithm { RoundRobin = "roundrobin", LeastConn = "leastconn", Source = "source", Hash = "hash" });
words!(
    /// What a node is for.
    Mode { Accept = "accept", Reject = "reject", Drain = "drain", Backup = "backup" });
words!(
    /// How clients that come again are known.
    StickinessKind { None = "none", Table = "table", Cookie = "cookie" });
words!(
    /// How nodes are checked.
    Check { None = "none", Connection = "connection", Http = "http", HttpBody = "http_body" });
words!(
    /// The PROXY header that nodes get.
    SendProxy { None = "none", V1 = "v1", V2 = "v2" });
words!(
    /// What a node's 403 means.
    On403 { Serve = "serve", Next = "next" });
words!(
    /// What a request from a node's own address may do.
    FromNodes { NoNodes = "no_nodes", Trust = "trust" });
words!(
    /// Kinds of store.
    StoreKind { S3 = "s3" });
words!(
    /// Where a bucket's name stands.
    Addressing { Path = "path", Virtual = "virtual" });
words!(
    /// What a bucket's 403 means.
    OnDenied { Probe = "probe", NotFound = "not_found", Error = "error" });
words!(
    /// The access log's format.
    AccessFormat { Json = "json", Combined = "combined", Off = "off" });
words!(
    /// How logs have the addresses of clients.
    Clients { Full = "full", Truncated = "truncated" });
words!(
/// Who speaks, to syslog.
Facility {
    User = "user", Daemon = "daemon", Local0 = "local0", Local1 = "local1", Local2 = "local2", Local3 = "local3",
    Local4 = "local4", Local5 = "local5", Local6 = "local6", Local7 = "local7",
});
words!(
    /// Severity, least severe last.
    Level { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" });

/// One scalar of the file with its place. Its text is parsed as a `T` only in `resolve`.
pub struct Field<T> {
    spanned: Spanned<String>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Scalar> Field<T> {
    pub fn text(&self) -> &str {
        &self.spanned.value
    }

    pub fn at(&self) -> Place {
        self.spanned.referenced
    }

    pub fn parse(&self) -> Result<T, String> {
        T::parse(self.text())
    }
}

/// Never prints the text, which may be a secret written where a reference belongs.
impl<T> std::fmt::Debug for Field<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Field(line {})", self.spanned.referenced.line())
    }
}

impl<'de, T> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|spanned| Field { spanned, kind: PhantomData })
    }
}

impl<T: Scalar> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        T::KIND.into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let Form { name, also, pattern, bounds } = T::form();
        let mut schema = match also {
            Some(also) => json_schema!({ "type": [T::KIND, also] }),
            None => json_schema!({ "type": T::KIND }),
        };
        let mut set = |key: &str, value: serde_json::Value| schema.insert(key.to_owned(), value);
        if !T::choices().is_empty() {
            set("enum", T::choices().into());
        }
        if !name.is_empty() {
            set("title", name.into());
        }
        if let Some(pattern) = pattern {
            set("pattern", pattern.into());
        }
        if let Some((least, most)) = bounds {
            set("minimum", least.into());
            set("maximum", most.into());
        }
        schema
    }
}

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The place of the word is that of the node, so the span is read first and the shape after.
        let spanned = Spanned::<Shape>::deserialize(deserializer)?;
        Ok(match spanned.value {
            Shape::Word(value) => Credentials::Word(Field {
                spanned: Spanned { value, referenced: spanned.referenced, defined: spanned.defined },
                kind: PhantomData,
            }),
            Shape::Keys(keys) => Credentials::Keys(keys),
        })
    }
}

enum Shape {
    Word(String),
    Keys(Box<Keys>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`env` or a mapping")
            }
            fn visit_str<E>(self, text: &str) -> Result<Shape, E> {
                Ok(Shape::Word(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Shape, A::Error> {
                Keys::deserialize(MapAccessDeserializer::new(map)).map(|keys| Shape::Keys(Box::new(keys)))
            }
        }
        deserializer.deserialize_any(ShapeVisitor)
    }
}

impl JsonSchema for Credentials {
    fn schema_name() -> Cow<'static, str> {
        "Credentials".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<Keys>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["env"] }, keys] })
    }
}
