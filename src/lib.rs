//! hopfall: a reverse proxy for storage nodes with lean disks. A GET or HEAD is asked of one node; on a 404, or a
//! failure, of the next node not asked yet; at last of S3, signed. It cannot loop: a request has the exact set of
//! targets that it has tried, which only grows, and a chain that is finite. This file is the map. The heart is
//! [`fallback`]: what to do after each attempt, as pure code. [`chain`] carries it out.
//!
//! # A request's path
//!
//! 1. [`edge`] accepts a connection, learns the client from a trusted proxy's [`proxy_protocol`] header, asks [`admission`]
//!    whether that client may have it, and wraps it, so that its reads and writes carry their bounds.
//! 2. Pingora parses the request and calls [`proxy`].
//! 3. [`shape`] and [`framing`] refuse what is malformed or too large, [`admission`] what comes too often; [`via`] answers
//!    what has been here before: 404.
//! 4. [`routing`] finds the route, by host and path. GET and HEAD go to [`chain`]; all else takes Pingora's native path to one node.
//! 5. [`snapshot`] tells who calls: a client, a node (only stores are asked), a neighbour (takes turns).
//! 6. [`fallback::Search::next`] gives the next target; [`pool`] picks it by health, places, and weight or path.
//! 7. [`origin`] asks it: a place, a connection, a head out, a head in. A store looks on its [`disk`] first.
//! 8. [`fallback::Search::judge`] says what follows: serve, next, or refuse.
//! 9. Next: the refused body is drained on the side, its connection kept, and it is 6 again.
//! 10. Serve: the body goes through piece by piece. [`access_log`], [`metrics`] and [`traces`] tell the [`trip`].
//!
//! A connection of a tcp listener has no requests: [`tcp`] joins it to one node.
//!
//! # Floors
//!
//! A module imports only from lower floors. `tests/it/floors.rs` holds this, with the few exceptions.
//!
//! | floor | modules |
//! |---|---|
//! | 0 words | [`units`], [`hex`], [`hop`], [`quiet`], [`unix`] |
//! | 1 decisions, pure | [`absence`], [`conditional`], [`explain`], [`fallback`], [`framing`], [`freshness`], [`health`], [`headers`], [`hedge`], [`history`], [`location`], [`proxy_protocol`], [`renewal`], [`routing`], [`s3`], [`shape`], [`throttle`], [`trace_context`], [`trip`], [`via`] |
//! | 2 config, and what knows no product | [`config`], [`disk`], [`flight`] |
//! | 3 shared | [`metrics`], [`pool`], [`snapshot`], [`syslog`] |
//! | 4 origins, and who may ask them | [`origin`], [`admission`] |
//! | 5 adapters | [`chain`], [`probe`], [`keep`], [`messages`], [`access_log`], [`edge`], [`tls`], [`acme`], [`admin`], [`tcp`], [`traces`] |
//! | 6 front, and who examines | [`proxy`], [`doctor`] |
//! | 7 assembly | [`server`], [`cli`], [`import`], `demo`, `main` |
//!
//! # Lexicon
//!
//! - **Listener**: an address on which clients are accepted. It has routes by host and path; or, for tcp, one pool.
//! - **Pool**, **Node**: servers that can serve the same files, none of which needs to hold them all; one of them.
//! - **Plan**: the ordered chain of a route: pools and stores. A **Search** is one request's walk along it.
//! - **Attempt**: one try at one target. **Outcome**: what came of it. **Verdict**: what follows.
//! - **Visited**: the exact set of targets that one request has tried.
//! - **Store**, **Disk**: a bucket that is asked like one more target; what is kept of it on this machine.
//! - **Flight**: what one request finds out for all that want to know the same meanwhile.
//! - **Turn**: the right to ask one node for one path, taken where nodes share this machine.
//! - **Failure**: a kind of failure, by its name in RFC 9209 §2.3.
//! - **Throttle**, **Admission**: the buckets that bound how often a client comes; what a listener decides by them.
//! - **Snapshot**: all that requests are served from, built whole from one config.
//! - **Trip**: what happened to one request, for the log, the metrics and the answer's own fields.

pub mod absence;
pub mod access_log;
pub mod acme;
pub mod admin;
pub mod admission;
pub mod chain;
pub mod cli;
pub mod conditional;
pub mod config;
#[cfg(feature = "demo")]
mod demo;
pub mod disk;
pub mod doctor;
pub mod edge;
pub mod explain;
pub mod fallback;
pub mod flight;
pub mod framing;
pub mod freshness;
pub mod headers;
pub mod health;
pub mod hedge;
pub mod hex;
pub mod history;
pub mod hop;
pub mod import;
pub mod keep;
pub mod location;
pub mod manual;
pub mod messages;
pub mod metrics;
pub mod origin;
pub mod pool;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod quiet;
pub mod renewal;
pub mod routing;
pub mod s3;
pub mod server;
pub mod shape;
pub mod snapshot;
pub mod syslog;
pub mod tcp;
pub mod throttle;
pub mod tls;
pub mod trace_context;
pub mod traces;
pub mod trip;
pub mod units;
pub mod unix;
pub mod via;
