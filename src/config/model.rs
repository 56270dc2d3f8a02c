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
    /// Who this instance is to other proxies. Default: somebody new at each start.
    pub identity: Option<Identity>,
    /// What is logged, and where to. Default: as its keys say.
    pub log: Option<Log>,
    /// The admin listener: the status page, `/status.json`, `/metrics`, `/healthz`, `/readyz`. Default: none.
    pub admin: Option<Admin>,
    /// Remembers which target had which path. Default: nothing is remembered; `location: {}` turns it on.
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
    /// A token that no other instance uses; two that share one take each other's requests for loops.
    /// Default: `hopfall-` and eight random hex digits, new at each start.
    pub name: Option<Field<String>>,
    /// Key of the mark that tells hopfall's own requests from made-up ones, by reference. Instances of one
    /// key know each other. Default: random at each start, so that no other instance is known.
    pub mark_key: Option<Field<SecretRef>>,
}

/// What is logged, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Log {
    /// Least severe message that is told. Can be changed while running (`hopfall log-level`). Default `info`.
    pub level: Option<Field<Level>>,
    /// Where messages go: `-` for standard error, a file to append to, or `syslog`, as for the access log. Default `-`.
    pub path: Option<Field<Destination>>,
    /// The facility of messages that go to syslog (RFC 5424 §6.2.1): `daemon`, `user`, or `local0` to `local7`. Default
    /// `daemon`.
    pub facility: Option<Field<Facility>>,
    /// How the access log and messages have a client's address: `full`, or `truncated` to its network: /24 of IPv4, /48
    /// of IPv6, without the port. Default `full`.
    pub client: Option<Field<Clients>>,
    /// The access log, one line a request. Default: `json` to standard output.
    pub access: Option<AccessLog>,
}

/// The access log.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AccessLog {
    /// `json`, `combined` (Apache's format with the hops appended) or `off`. Default `json`.
    pub format: Option<Field<AccessFormat>>,
    /// A file to append to, `-` for standard output, or syslog: `syslog` is this machine's `/dev/log`,
    /// `syslog:/a/socket` another socket, `syslog:IP:PORT` a daemon that takes UDP (RFC 5426). A file is opened anew on
    /// SIGUSR1. Default `-`.
    pub path: Option<Field<Destination>>,
    /// The facility of lines that go to syslog. Their severity is `info`. Default `local0`.
    pub facility: Option<Field<Facility>>,
    /// Writes one line in so many. Always written: a status of 400 and above, a request without an answer, one that was
    /// cut short or looped, or at which a target failed. Default 1: every line; at most 1000000.
    pub sample_one_in: Option<Field<u32>>,
}

/// The location map: it chooses whom to ask first, from whom had a path last time.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Location {
    /// Paths remembered, at 16 bytes each. Default 1000000.
    pub entries: Option<Field<u32>>,
    /// How long it is remembered who has a path and who lacks it. Default 1h, at most 24h.
    pub ttl: Option<Field<Duration>>,
    /// How long a path that every source said is absent is answered 404 without asking. A file that is put
    /// there meanwhile is not seen for that long. In whole seconds. Default 30s; 0s turns it off.
    pub absent_ttl: Option<Field<Duration>>,
    /// Percentage of paths that ignore what is remembered, so that the gain can be measured. Default 1.
    pub control: Option<Field<u32>>,
    /// A file in which the map outlives a restart. Default: none.
    pub file: Option<Field<String>>,
    /// How often it is saved, besides at the end. Default 5m.
    pub save_every: Option<Field<Duration>>,
}

/// The admin listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Admin {
    /// Address and port. Keep it on loopback or a private network: what it tells, it tells everybody.
    pub address: Field<String>,
    /// The token that orders (drain, purge, reload) want, by reference: `${VAR}` or `file:PATH`; at least 16 characters.
    /// Who signs in with it on the status page has buttons there. Default: none, and orders are taken from programs on
    /// this machine only.
    pub token: Option<Field<SecretRef>>,
    /// The names by which browsers may ask for the status page, besides IP addresses and `localhost`. Any other name is
    /// refused (421): a hostile page may have a name of its own lead here. Default: none.
    pub hosts: Option<Vec<Field<String>>>,
}

/// OpenTelemetry: a span a request and one an attempt, sent to a collector by OTLP over HTTP, as protobuf. Requests to nodes
/// carry `traceparent` (W3C Trace Context).
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tracing {
    /// The collector's address for traces, `http://` or `https://`, path and all: `http://127.0.0.1:4318/v1/traces`. By https
    /// it must have a certificate that the system's CAs vouch for.
    pub endpoint: Field<String>,
    /// Percentage of requests to trace, chosen at random. A client of the listener's `trusted` networks that sends a
    /// `traceparent` decides for its own requests. Default 100, at most 100.
    pub sample: Option<Field<u32>>,
    /// The resource attribute `service.name`. Default `hopfall`.
    pub service_name: Option<Field<String>>,
    /// Header fields to send to the collector, such as `Authorization`, by reference. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, Field<SecretRef>>,
    /// Longest time for the collector to take a batch, tries again included. Default 10s, at most 60s.
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
    /// The route that the requests of an `http` or `https` listener take, but for those that `routes` sends elsewhere.
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
    /// Networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, and who are told
    /// node names in `Server-Timing` and `Proxy-Status`. Default: none.
    pub trusted: Option<Vec<Field<Network>>>,
    /// Networks of proxies whose connections must begin with a PROXY header, version 1 or 2
    /// (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>). The client that it names then counts as the one
    /// who connected. One from these networks without a header, complete within `header_timeout`, is closed; those from
    /// elsewhere are served as they are. Default: none.
    pub proxy_protocol: Option<Vec<Field<Network>>>,
    /// Most connections at a time; further ones wait in the kernel's queue. Default 10000.
    pub max_connections: Option<Field<u32>>,
    /// How often one client may come. Default: as often as it likes.
    pub throttle: Option<Throttle>,
    /// Longest time for a client to send a whole request head, for the TLS handshake, and for a PROXY header. Default
    /// 10s, at most 60s.
    pub header_timeout: Option<Field<Duration>>,
    /// Longest time that a connection may stay idle between requests. Default 60s. On a `tcp` listener: without a
    /// byte either way, after which both sides are reset. Default there 10m.
    pub idle_timeout: Option<Field<Duration>>,
    /// Longest time that a client may stall while it is sent an answer or while it sends a body.
    /// Default 30s.
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
    /// How paths begin, by whole segments: `/img` is for `/img` and `/img/cat.jpg`, not for `/images`. It is held against
    /// the path decoded and without dot segments. Default `/`.
    pub path: Option<Field<String>>,
    /// The route's name.
    pub route: Field<String>,
}

/// How often one client may come: an IPv4 address, or all addresses of one IPv6 /64. The client of a connection is the
/// other end of it, or whom a PROXY header names; that of a request is also whom a `trusted` proxy's `X-Forwarded-For`
/// names. Addresses of nodes (with `from_nodes: no_nodes`) are never refused on `http` and `https`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Throttle {
    /// New connections per second and client. Further ones are reset before a byte is said, even TLS's. A proxy in front
    /// of hopfall that sends no PROXY header is one client: put it into `exempt`. 0: no bound. Default 0, at most
    /// 1000000.
    pub connections: Option<Field<u32>>,
    /// Connections that may come at once, after a pause. Default: those of one second.
    pub connection_burst: Option<Field<u32>>,
    /// Requests per second and client, of all its connections and HTTP/2 streams. Further ones: 429 with `Retry-After`
    /// (RFC 6585 §4); the connection stays, unless a body was not read. 0: no bound. Default 0, at most 1000000. Not for
    /// `tcp` listeners.
    pub requests: Option<Field<u32>>,
    /// Requests that may come at once, after a pause. Default: those of one second.
    pub request_burst: Option<Field<u32>>,
    /// Clients remembered, at 17 bytes each, separately for connections and for requests. When more clients come within
    /// burst / rate seconds than fit, some share a bucket: they may be refused early, and are never let in too often.
    /// Default 65536.
    pub entries: Option<Field<u32>>,
    /// Networks that come as often as they like. Default: none.
    pub exempt: Option<Vec<Field<Network>>>,
}

/// TLS of an `https` listener. Files are read again when they change; connections are not touched by that.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate, then its intermediates. The first certificate is the default: for clients that
    /// name no host, or one that no certificate has. Default: none; `folder` must have one then.
    pub certificate: Option<Field<String>>,
    /// PEM file with its private key (PKCS #8, PKCS #1 or SEC 1). Default: none.
    pub key: Option<Field<String>>,
    /// DER file with an OCSP answer to staple (RFC 6961). Default: none.
    pub ocsp: Option<Field<String>>,
    /// More certificates, chosen by the name that the client asks for (SNI). Default: none.
    pub more: Option<Vec<Certificate>>,
    /// A folder with more: each NAME.crt or NAME.pem with NAME.key, and NAME.ocsp if there is one. Of several for one name,
    /// the first that is good at the time is shown. Default: none.
    pub folder: Option<Field<String>>,
    /// Names whose certificates are got by ACME, one for each name; see `acme` at the top level. The CA validates them by
    /// tls-alpn-01 (RFC 8737), for which it connects to port 443 of the name: that has to be this listener. Until a name's
    /// first certificate is there, clients get one of the files that fits, or no handshake. Default: none.
    pub acme: Option<Vec<Field<String>>>,
    /// `modern` (TLS 1.3), `recommended` (TLS 1.2 and 1.3) or `legacy`, which is the same as `recommended`: the library
    /// has no older versions and no weak ciphers. Default `recommended`.
    pub profile: Option<Field<TlsProfile>>,
    /// How long browsers are to come by https only (`Strict-Transport-Security`, RFC 6797). Default: not said.
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

/// A CA that issues certificates by itself (ACME, RFC 8555). They are renewed when it suggests it (RFC 9773), or else after
/// two thirds of their life.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Acme {
    /// A folder for the account's key, the certificates and their keys. It is made if there is none, for its owner alone.
    /// No second hopfall may use it at the same time.
    pub folder: Field<String>,
    /// `true` says that you agree to the CA's terms of service (RFC 8555 §7.3). No default: it has to be said.
    pub terms_of_service_agreed: Field<bool>,
    /// The `https://` address of the CA's directory. Default: Let's Encrypt's,
    /// `https://acme-v02.api.letsencrypt.org/directory`.
    pub directory: Option<Field<String>>,
    /// An address at which the CA may reach you. It is given when the account is made; a later change is not. Default: none.
    pub email: Option<Field<String>>,
    /// File with the CA certificates to trust when the directory is asked. Default: the system's.
    pub ca: Option<Field<String>>,
    /// The account that you have with the CA already, where it wants one (external account binding, RFC 8555 §7.3.4).
    /// Default: none.
    pub eab: Option<Eab>,
}

/// What a CA gave you to bind an ACME account to yours.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Eab {
    /// The key's identifier.
    pub key_id: Field<String>,
    /// The key, in base64url as the CA shows it, by reference.
    pub hmac_key: Field<SecretRef>,
}

/// Nodes that can serve the same files. None needs to hold them all.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pool {
    /// How the first node of a request is chosen, among nodes that are up and free and of which nothing better is
    /// known: `roundrobin`, by weight in turn; `leastconn`, the fewest requests (tcp: connections) in flight for its
    /// weight; `source`, by the client's address; or `hash`, by the path, so that a path is always asked of the same node
    /// first (http and https only). The last two hash consistently, by weight (Ketama): the ring is made of the nodes'
    /// addresses as they are written here, and what is hashed is the request's path as it was received, percent-encoding
    /// and all, without the query. Default `roundrobin`.
    pub algorithm: Option<Field<Algorithm>>,
    /// Whether a client that comes again is sent to the same node first. Default: no.
    pub stickiness: Option<Stickiness>,
    /// Statuses on which GET and HEAD go on to the next target. 429 and 503 count as busy, other 5xx as
    /// errors, the rest as absent. Default 404, 429, 500, 502, 503, 504; a list replaces it.
    pub fallback_on: Option<Vec<Field<Status>>>,
    /// What a node's `403` means: `serve` it, or `next`, as if the file were absent. Default `serve`.
    pub on_403: Option<Field<On403>>,
    /// What happens to a request that comes from a node's own address without our mark: `no_nodes` asks
    /// only stores, so that a node that drops our headers cannot make a loop; `trust` treats it as any
    /// client's. Default `no_nodes`.
    pub from_nodes: Option<Field<FromNodes>>,
    /// The `Host` that nodes see: `preserve` the client's, or a fixed name. Default `preserve`.
    pub host: Option<Field<String>>,
    /// Whether each connection to a node begins with a PROXY header that names the client: `none`, `v1` (text) or `v2`
    /// (binary), <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>. For pools of `tcp` listeners only.
    /// Default `none`.
    pub proxy_protocol: Option<Field<SendProxy>>,
    /// TLS to the nodes, for pools of `http` and `https` listeners. Default: plain HTTP; `tls: {}` turns it on.
    pub tls: Option<NodeTls>,
    /// Longest time to open a connection to a node, TLS handshake included. Passing it is `connection_timeout`. Default
    /// 2s.
    pub connect_timeout: Option<Field<Duration>>,
    /// Longest wait for a node's response head, from the request's last byte. Passing it is
    /// `http_response_timeout` (RFC 9209 §2.3.12); GET and HEAD then go on. Default 5s; must be below
    /// each route's `deadline`.
    pub header_timeout: Option<Field<Duration>>,
    /// Longest silence of a node in the middle of a body. Passing it aborts the client's connection. Default 30s.
    pub body_idle_timeout: Option<Field<Duration>>,
    /// Longest silence of a node on a tunnel: an upload that waits for its answer, a WebSocket.
    /// Default 60s.
    pub tunnel_timeout: Option<Field<Duration>>,
    /// How long an idle connection to a node is kept for reuse; keep it below the node's own keep-alive
    /// time. Default 55s.
    pub keepalive: Option<Field<Duration>>,
    /// Most requests in flight to one node. Default 512.
    pub max_in_flight: Option<Field<u32>>,
    /// Most requests that wait for a place at one node. Further ones go on as if it were busy. Default 512.
    pub queue: Option<Field<u32>>,
    /// Longest wait for a place. Default 500ms.
    pub queue_timeout: Option<Field<Duration>>,
    /// Whether GET and HEAD are also asked of a second node when the first keeps silent for longer than it
    /// ever does. Default: no; `hedge: {}` turns it on.
    pub hedge: Option<Hedge>,
    /// How a node is found to be up or down. Default: by real requests alone.
    pub health: Option<Health>,
    /// The nodes. At least one.
    #[schemars(length(min = 1))]
    pub nodes: Vec<Node>,
}

/// TLS 1.2 or 1.3 to the nodes, with HTTP/1.1 in it. Files are read when the config is.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodeTls {
    /// PEM file with the CA certificates to trust. Default: the system's.
    pub ca: Option<Field<String>>,
    /// The name that a node is asked for (SNI, RFC 6066 §3) and that its certificate must have. Default: the pool's
    /// `host` without its port; else the host of the node's `address` as it is written.
    pub server_name: Option<Field<String>>,
    /// Whether certificates are verified. Without it anybody in between can read and change all. Default true.
    pub verify: Option<Field<bool>>,
    /// PEM file with the certificate that nodes are shown when they ask for one, then its intermediates. Default: none.
    pub certificate: Option<Field<String>>,
    /// PEM file with its private key (PKCS #8, PKCS #1 or SEC 1). Default: none.
    pub key: Option<Field<String>>,
}

/// How clients that come again are known. It chooses the first target only.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Stickiness {
    /// `none`, `table` (by the client's address, in IPv6 its first 64 bits) or `cookie` (http and https only).
    /// Default `none`.
    pub kind: Option<Field<StickinessKind>>,
    /// How long a client of the table is known, from when it was first sent to its node. Default 30m.
    pub ttl: Option<Field<Duration>>,
    /// Most clients in the table. Default 100000.
    pub entries: Option<Field<u32>>,
    /// The cookie's name. Its value is a keyed hash (`identity.mark_key`; a random key ends it with the process).
    /// Default `NB_SRVID`: the NodeBalancer's.
    pub cookie: Option<Field<String>>,
}

/// When a second node is asked beside the first. The first good head wins, the other request is dropped. A
/// store is never asked so.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Hedge {
    /// Shortest wait before a second node is asked. Between the two bounds, it is about the 97th percentile
    /// of the node's own heads. Default 20ms.
    pub floor: Option<Field<Duration>>,
    /// Longest wait. Default 150ms.
    pub ceiling: Option<Field<Duration>>,
    /// Extra requests that there may be, in percent of all; up to 200 are saved up. Default 5.
    pub budget: Option<Field<u32>>,
}

/// How nodes are found to be up or down.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Health {
    /// Active check: `none`, `connection` (a TCP connect), `http` (a GET whose status is looked at) or `http_body` (the
    /// body too). In a pool with `tls` the last two go by TLS. Default `none`.
    pub check: Option<Field<Check>>,
    /// Path that an `http` or `http_body` check asks for. Default `/`.
    pub path: Option<Field<String>>,
    /// `Host` that these checks send. Default: the node's address.
    pub host: Option<Field<String>>,
    /// Statuses that pass these checks: each one, or a range of them. Default `[200-399]`.
    pub expect: Option<Vec<Field<StatusRange>>>,
    /// Regex that must be found in the body of an `http_body` check, in the syntax of <https://docs.rs/regex>: no
    /// look-around, no back-references. The first 64KiB are looked at; `$` also stands before a line end at the end.
    /// Default: none, and `http_body` needs one.
    pub body: Option<Field<Pattern>>,
    /// Time between two checks of a node, jittered by a tenth. Default 5s.
    pub interval: Option<Field<Duration>>,
    /// Longest time for one check. Default 2s.
    pub timeout: Option<Field<Duration>>,
    /// Failures in a row that bring a node down. Default 3.
    pub fall: Option<Field<u32>>,
    /// Passes in a row that bring it up. Default 2.
    pub rise: Option<Field<u32>>,
    /// Whether real requests count too: a connect failure, a timeout or a 5xx except 501 and 505. They
    /// never bring down the last node that is up. Default true.
    pub passive: Option<Field<bool>>,
    /// Whether a node whose share of 404s jumps far above what it ever was is asked last for 30s: its disk may
    /// be gone. Default true.
    pub absence: Option<Field<bool>>,
    /// How long the weight of a node that comes up again grows to what it is. Default 0s: at once.
    pub slow_start: Option<Field<Duration>>,
    /// Most of the pool's nodes, in percent, that real requests may bring down. One node may always be brought down, unless
    /// it is the last one up. Active checks are not bounded by this. Default 100.
    pub eject_at_most: Option<Field<u32>>,
    /// How long real requests keep a node down where no active check would bring it back. After that one request at a time
    /// tries it, until one is served. Default 10s.
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
    /// `accept`; `backup`: after all others that are up; `drain`: only clients that stickiness sends there; `reject`: not at
    /// all, and it is not checked. Can be changed while running (`hopfall node`). Default `accept`.
    pub mode: Option<Field<Mode>>,
}

/// A store that is asked when no node has a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Store {
    /// `s3`: a bucket of Amazon S3 or of anything that speaks its API.
    pub kind: Field<StoreKind>,
    /// The bucket.
    pub bucket: Field<String>,
    /// The region in the signature. Default `us-east-1`; R2 wants `auto`.
    pub region: Option<Field<String>>,
    /// `http://` or `https://`, a host, and a port if it is unusual. Default
    /// `https://s3.REGION.amazonaws.com`.
    pub endpoint: Option<Field<String>>,
    /// Where the bucket stands: `virtual` (in the host name) or `path`. Default `virtual` at Amazon and
    /// `path` at any other endpoint.
    pub addressing: Option<Field<Addressing>>,
    /// What comes before a request's path in the object's key. Default: nothing.
    pub prefix: Option<Field<String>>,
    /// `env` (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), or a mapping. Default `env`.
    pub credentials: Option<Credentials>,
    /// What the store costs. Default: nothing is counted.
    pub prices: Option<Prices>,
    /// Dollars that may be spent on one UTC day, by `prices`. Past it the store is not asked, and what only it
    /// has is 503. Default: no bound.
    pub budget_per_day: Option<Field<Dollars>>,
    /// Keeps what S3 answered on a disk of this machine. Default: nothing is kept.
    pub disk: Option<Disk>,
    /// Memory for bodies that several clients are sent while they come from S3, so that S3 is asked once. One body may
    /// take a quarter of it. Default 64MiB; 0 turns it off, but for what goes to `disk`.
    pub shared_memory: Option<Field<Bytes>>,
    /// What `403 AccessDenied` means: `probe` asks the bucket once, with a random key, what absence looks
    /// like; `not_found` and `error` force it. Default `probe`.
    pub on_403: Option<Field<OnDenied>>,
    /// File with the CA certificates to trust for an `https` endpoint. Default: the system's.
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

/// The part of a disk on which a store's files are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Disk {
    /// A folder for this store alone. It is made if there is none; else it must be empty, or have been one before.
    pub path: Field<String>,
    /// Most bytes that the files take. At least 8MiB.
    pub bytes: Field<Bytes>,
    /// Bytes of the file system that stay free for others; the files make way. Default 1GiB.
    pub free: Option<Field<Bytes>>,
    /// Largest file that is kept. Default: a quarter of `bytes`, which is also the most.
    pub largest: Option<Field<Bytes>>,
    /// Memory for small files that are asked for again. Default 64MiB; 0 turns it off.
    pub memory: Option<Field<Bytes>>,
    /// Largest file that gets into memory. Default 256KiB.
    pub memory_largest: Option<Field<Bytes>>,
    /// How long a file is fresh whose `Cache-Control` or `Expires` does not say so (RFC 9111 §4.2.1). Default 24h.
    pub ttl: Option<Field<Duration>>,
    /// How long after that it is served at once, while S3 is asked on the side whether it has changed. Later, S3 is asked
    /// first. `stale-while-revalidate` of the file rules where it is given (RFC 5861). Default 1h.
    pub stale_while_revalidate: Option<Field<Duration>>,
    /// How long after that it is served when S3 fails. `stale-if-error` of the file rules where it is given
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
    /// Longest time until an answer is found. Passing it is 504. Default 30s.
    pub deadline: Option<Field<Duration>>,
    /// Longest time for a whole request, its body included. Passing it aborts the connection. Default 1h.
    pub transfer_deadline: Option<Field<Duration>>,
    /// Most attempts for one request. Default 0: as many as there are targets.
    pub attempts: Option<Field<u32>>,
    /// `max-age` of a 404 that every source agrees on. Default 10s; 0s forbids caching it.
    pub absent_max_age: Option<Field<Duration>>,
}

/// Where credentials come from: the word `env`, or a mapping.
#[derive(Debug)]
pub enum Credentials {
    /// The AWS environment variables, or a word that resolve refuses.
    Word(Field<String>),
    Keys(Box<Keys>),
}

/// Credentials by reference.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Keys {
    /// The access key, by reference: `${VAR}` or `file:PATH`. Default: none; `profile` then says it.
    pub access_key: Option<Field<SecretRef>>,
    /// The secret key, by reference. Default: none; `profile` then says it.
    pub secret_key: Option<Field<SecretRef>>,
    /// The session token of temporary credentials, by reference. Default: none.
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
