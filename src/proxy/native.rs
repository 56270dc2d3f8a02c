//! Pingora's native path: uploads, WebSockets, other methods. One node, never asked again once it has seen a
//! byte.

use std::sync::Arc;

use pingora::protocols::http::ServerSession;
use pingora::upstreams::peer::HttpPeer;
use tokio::time::Instant;

use super::{Context, Front, Site};
use crate::chain::Certain;
use crate::fallback::{Busy, Failure, Kind, Outcome, Plan, Refusal, Repeat, Search, Step};
use crate::health::Signal;
use crate::location::Mark;
use crate::origin::Upstream;
use crate::pool::turns::Turn;
use crate::pool::{Asker, Node, Permit, Pool};
use crate::snapshot::Caller;
use crate::trip::Attempt;

/// The state of a request on Pingora's native path.
pub(super) struct Native {
    pub(super) search: Search<Arc<Plan>>,
    /// Indices of the pool and the node being asked.
    asked: Option<(usize, usize)>,
    began: Instant,
    /// This attempt's in the request's trace; 0 without one.
    pub(super) span: u64,
    pub(super) permit: Option<Permit>,
    /// A neighbour's, until the answer's head is there.
    turn: Option<Turn>,
    pub(super) refusal: Refusal,
}

impl Front {
    pub(super) fn node<'a>(site: &'a Site, native: &Native) -> Option<(&'a Pool, &'a Arc<Node>)> {
        let (pool, node) = native.asked?;
        let pool = site.chain.snapshot.pools.get(pool)?;
        Some((pool, pool.nodes.get(node)?))
    }

    pub(super) fn upstream<'a>(site: &'a Site, native: &Native) -> Option<&'a Upstream> {
        let (pool, node) = native.asked?;
        site.chain.upstream(pool, node)
    }

    /// Forgets where the request's file is, which it may have changed (RFC 9111 §4.4).
    pub(super) fn forget(&self, context: &Context) {
        context.site.chain.forget(context.site.route(context.route), context.host.as_ref(), &context.target);
    }

    /// Records what came of the native attempt under way, once.
    pub(super) fn record(&self, context: &mut Context, outcome: Outcome) {
        if !matches!(outcome, Outcome::Busy(Busy::Full) | Outcome::Down(_)) {
            // Who looked for it while it was under way has not seen it.
            self.forget(context);
        }
        let chain = &context.site.chain;
        let Some(native) = &mut context.native else { return };
        native.turn = None;
        let Some((pool, node)) = native.asked.take() else { return };
        native.search.judge(Kind::Node, outcome);
        let Some(pool) = chain.snapshot.pools.get(pool) else { return };
        let node = &pool.nodes[node];
        node.metrics.attempted(outcome.as_str());
        let signal = if outcome.harms_health() { Signal::RequestFailed } else { Signal::RequestPassed };
        if !matches!(outcome, Outcome::Busy(_) | Outcome::Dropped) {
            pool.observe(node, signal, chain.snapshot.now(), &chain.metrics);
        }
        let (began, took) = (native.began.saturating_duration_since(context.started), native.began.elapsed());
        let span = native.span;
        if outcome.status().is_some() {
            node.metrics.answered(took);
        }
        let (target, pool) = (node.name.clone(), pool.name().to_owned());
        context.trip.attempts.push(Attempt { target, pool, outcome, began, took, span });
    }

    pub(super) async fn next_peer(&self, session: &ServerSession, context: &mut Context) -> Option<Box<HttpPeer>> {
        let site = context.site.clone();
        let (snapshot, route) = (&site.chain.snapshot, site.route(context.route));
        let caller = site.caller(session, context, route);
        let plan = &route.plan;
        let native = context.native.get_or_insert_with(|| Native::new(plan));
        if let Caller::Node(node) = caller {
            native.refusal = Refusal::LOOP;
            site.chain.report_loop(&node.name, Certain::Yes, &mut context.trip);
            return None;
        }
        loop {
            let late = Instant::now() >= context.started + route.deadline;
            let native = context.native.as_mut()?;
            let asker = Asker {
                path: &context.target,
                client: context.client.address,
                fields: Some(&session.req_header().headers),
            };
            let mut picked = None;
            let step = native.search.next(late, |index, visited| {
                let pool = snapshot.pools.get(index)?;
                let node = pool.pick(visited, snapshot.now(), &asker, |_| Mark::Unknown)?;
                picked = pool.nodes.iter().position(|other| other.target == node.target).map(|node| (index, node));
                Some(node.target)
            });
            if let Step::Refuse(refusal) = step {
                native.refusal = refusal;
                return None;
            }
            native.asked = picked;
            native.began = Instant::now();
            // Zero is no name of a span.
            native.span = context.trip.trace.as_ref().map_or(0, |_| rand::random::<u64>().max(1));
            let (pool, node) = Front::node(&site, native)?;
            context.trip.set_cookie = pool.set_cookie(&asker, node.target);
            if let Caller::Neighbour = caller {
                let path = snapshot.turns.path(&context.target);
                native.turn = snapshot.turns.begin(node.target, path, NEIGHBOURS_UPLOADS);
                if native.turn.is_none() {
                    site.chain.report_loop(&node.name, Certain::Perhaps, &mut context.trip);
                    self.record(context, Outcome::Busy(Busy::Full));
                    continue;
                }
            }
            let Some(address) = node.endpoint.address() else {
                self.record(context, Outcome::Down(Failure::DnsError));
                continue;
            };
            pool.sends_to(node, snapshot.now());
            let Some(permit) = node.gate.enter_by(context.started + route.deadline).await else {
                self.record(context, Outcome::Busy(Busy::Full));
                continue;
            };
            native.permit = Some(permit);
            let mut peer = HttpPeer::clone(&*Front::upstream(&site, native)?.peer(address));
            peer.options.read_timeout = Some(pool.config.tunnel_timeout);
            peer.options.write_timeout = Some(pool.config.tunnel_timeout);
            return Some(Box::new(peer));
        }
    }
}

impl Native {
    fn new(plan: &Arc<Plan>) -> Self {
        Native {
            search: Search::new(plan.clone(), Repeat::Never),
            asked: None,
            began: Instant::now(),
            span: 0,
            permit: None,
            turn: None,
            refusal: Refusal::ABSENT,
        }
    }
}

/// Uploads to one path of one node that this machine's own addresses may have under way: a bound on loops
/// that honest uploads, which take their time, do not feel.
const NEIGHBOURS_UPLOADS: usize = 16;
