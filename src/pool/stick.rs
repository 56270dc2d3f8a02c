//! Stickiness: a client that comes again is sent first to the node that it was sent to before. It chooses the first
//! target only; what follows when that node lacks a file is the chain's business.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use quick_cache::sync::Cache;

use super::{Asker, Pool};
use crate::config;
use crate::hop::TargetId;
use crate::units::client_network;
use crate::via::Identity;

pub(super) enum Stick {
    None,
    /// By the client's address, of which the first 64 bits count in IPv6: a client has many with these.
    Table {
        known: Clients,
        ttl: Duration,
    },
    Cookie {
        name: String,
        /// A node's cookie tells its number by a keyed hash only, so that no client can name a node that it was never
        /// sent to. The cookie's value may have several, with dots between: a host has one cookie of a name for all its ports
        /// and paths, and other pools of ours may be behind these.
        tokens: Vec<(TargetId, String)>,
    },
}

/// Where each client was sent, and until when that holds.
type Clients = Cache<IpAddr, (TargetId, Duration)>;

impl Stick {
    /// `before` is the pool of this name in the snapshot that this one follows: its table is kept.
    pub(super) fn new(pool: &config::Pool, identity: &Identity, before: Option<&Pool>) -> Self {
        match &pool.stickiness {
            config::Stickiness::None => Stick::None,
            config::Stickiness::Table { ttl, entries } => {
                let known = Cache::new(*entries);
                if let Some((before, Stick::Table { known: clients, .. })) = before.map(|pool| (pool, &pool.stick)) {
                    // Nodes may have other numbers now.
                    let now = |node: &config::Node| Some((before.same(node)?.target, node.target));
                    let moved: HashMap<TargetId, TargetId> = pool.nodes.iter().filter_map(now).collect();
                    for (client, (target, until)) in clients.iter() {
                        if let Some(target) = moved.get(&target) {
                            known.insert(client, (*target, until));
                        }
                    }
                }
                Stick::Table { known, ttl: *ttl }
            }
            config::Stickiness::Cookie { name } => {
                let token = |node: &config::Node| {
                    (node.target, identity.token(&format!("{}\n{}\n{}", name, pool.name, node.address)))
                };
                Stick::Cookie { name: name.clone(), tokens: pool.nodes.iter().map(token).collect() }
            }
        }
    }

    /// The node that this client was sent to.
    pub(super) fn find(&self, asker: &Asker<'_>, now: Duration) -> Option<TargetId> {
        self.find_by(asker, now, |known, client| known.get(client))
    }

    /// As [`Stick::find`], but the client did not come: its place in the table grows no younger.
    pub(super) fn peek(&self, asker: &Asker<'_>, now: Duration) -> Option<TargetId> {
        self.find_by(asker, now, |known, client| known.peek(client))
    }

    fn find_by(
        &self,
        asker: &Asker<'_>,
        now: Duration,
        look: impl Fn(&Clients, &IpAddr) -> Option<(TargetId, Duration)>,
    ) -> Option<TargetId> {
        match self {
            Stick::None => None,
            Stick::Table { known, .. } => {
                look(known, &client_network(asker.client)).filter(|(_, until)| now < *until).map(|(to, _)| to)
            }
            Stick::Cookie { name, tokens } => {
                let came = cookie(asker.fields?, name)?;
                tokens.iter().find(|(_, token)| came.split('.').any(|own| own == token)).map(|(target, _)| *target)
            }
        }
    }

    /// Takes in where a client is sent, which was sent to `before`.
    pub(super) fn keep(&self, asker: &Asker<'_>, before: Option<TargetId>, chosen: TargetId, now: Duration) {
        if let (Stick::Table { known, ttl }, true) = (self, before != Some(chosen)) {
            known.insert(client_network(asker.client), (chosen, now + *ttl));
        }
    }

    /// The value of `Set-Cookie` for a client that is sent to `chosen` and does not know it.
    pub(super) fn set_cookie(&self, asker: &Asker<'_>, chosen: TargetId) -> Option<HeaderValue> {
        let Stick::Cookie { name, tokens } = self else { return None };
        let (_, token) = tokens.iter().find(|(target, _)| *target == chosen)?;
        let came = asker.fields.and_then(|fields| cookie(fields, name)).unwrap_or_default();
        if came.split('.').any(|own| own == token) {
            return None;
        }
        let is_token = |other: &&str| other.len() == token.len() && other.bytes().all(|byte| byte.is_ascii_hexdigit());
        let others = came.split('.').filter(is_token).filter(|other| tokens.iter().all(|(_, own)| own != other));
        let others: Vec<&str> = others.collect();
        let mut value: Vec<&str> = others[others.len().saturating_sub(MOST_OTHERS)..].to_vec();
        value.push(token);
        HeaderValue::from_str(&format!("{name}={}; Path=/; HttpOnly; SameSite=Lax", value.join("."))).ok()
    }
}

/// Pools beside its own whose tokens a cookie keeps, the latest.
const MOST_OTHERS: usize = 7;

/// The value of a cookie (RFC 6265 §4.2.1).
fn cookie<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = fields.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value.trim_matches('"'))
}
