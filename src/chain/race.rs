//! Asking one target, or, where the pool hedges and a node keeps silent, two of them.

use std::pin::pin;

use log::warn;
use tokio::time::sleep;

use super::hints::Hints;
use super::{Begun, Chain, Chosen, Request};
use crate::fallback::{Outcome, Plan, Search};
use crate::location::Mark;
use crate::origin::{Ask, Asked, Origin};
use crate::pool::{Node, Pool};
use crate::snapshot::Caller;
use crate::trip::Trip;

impl Chain {
    /// Asks a target; and, where the pool hedges and the node keeps silent, the next node beside it. Gives the
    /// one whose answer is to be judged; what came of the other is recorded.
    pub(super) async fn ask<'a>(
        &'a self,
        first: Chosen<'a>,
        search: &mut Search<&Plan>,
        request: &Request<'_>,
        ask: &Ask<'_>,
        hints: &Hints<'_>,
        trip: &mut Trip,
    ) -> (Chosen<'a>, Begun, Asked) {
        let began = Begun::now(trip);
        let told = began.traceparent(trip);
        let ask_first = Ask { traceparent: told.as_ref(), ..*ask };
        let (Chosen::Node { pool, node, origin }, false) = (first, matches!(request.caller, Caller::Neighbour)) else {
            let asked = first.ask(&ask_first).await;
            return (first, began, asked);
        };
        let Some(rules) = &pool.config.hedge else {
            let asked = origin.ask(&ask_first).await;
            return (first, began, asked);
        };
        pool.hedges.earn(rules);
        let mut asking = pin!(origin.ask(&ask_first));
        tokio::select! {
            asked = &mut asking => return (first, began, heard(node, began, asked)),
            () = sleep(node.condition.latency.patience(rules)) => {}
        }
        let other = self.node_to_hedge_with(search, pool, hints, ask);
        let Some(second) = other else {
            let asked = asking.await;
            return (first, began, heard(node, began, asked));
        };
        let began_second = Begun::now(trip);
        let told = began_second.traceparent(trip);
        let ask_second = Ask { traceparent: told.as_ref(), ..*ask };
        let mut asking_second = pin!(second.ask(&ask_second));
        let hedged = |won| self.metrics.hedges.with_label_values(&[pool.name(), node.name.as_str(), won]).inc();
        let is_good = |asked: &Asked| matches!(asked.outcome, Outcome::Found(_));
        tokio::select! {
            asked = &mut asking => {
                let asked = heard(node, began, asked);
                if is_good(&asked) {
                    hedged("first");
                    self.record(&second, Outcome::Dropped, began_second.ended(request), trip);
                    return (first, began, asked);
                }
                hedged("second");
                self.set_aside(&first, began, asked, request, (search, hints, trip)).await;
                let asked = asking_second.await;
                (second, began_second, asked)
            }
            asked = &mut asking_second => {
                if is_good(&asked) {
                    hedged("second");
                    if node.condition.silence.left_behind(self.snapshot.now()) {
                        warn!("node {} of pool {} keeps silent, and is asked last for now", node.name, pool.name());
                    }
                    self.record(&first, Outcome::Dropped, began.ended(request), trip);
                    return (second, began_second, asked);
                }
                hedged("first");
                self.set_aside(&second, began_second, asked, request, (search, hints, trip)).await;
                let asked = asking.await;
                (first, began, heard(node, began, asked))
            }
        }
    }

    /// The next node of this pool that is up and not asked yet, if the budget allows one more request.
    fn node_to_hedge_with<'a>(
        &'a self,
        search: &mut Search<&Plan>,
        pool: &Pool,
        hints: &Hints<'_>,
        ask: &Ask<'_>,
    ) -> Option<Chosen<'a>> {
        let now = self.snapshot.now();
        let same_pool =
            search.pool().and_then(|index| self.snapshot.pools.get(index)).is_some_and(|p| std::ptr::eq(p, pool));
        let node = pool.pick(search.visited(), now, &ask.asker, |target| hints.of(target)).filter(|_| same_pool)?;
        let fit = node.is_up(now) && !node.condition.silence.is_silent(now) && hints.of(node.target) != Mark::Lacks;
        if !fit || !pool.hedges.spend() {
            return None;
        }
        self.next(search, Some(node.target), hints, ask).ok()
    }

    /// Takes in an answer that is not the one to serve, while another is awaited.
    async fn set_aside(
        &self,
        chosen: &Chosen<'_>,
        began: Begun,
        asked: Asked,
        request: &Request<'_>,
        (search, hints, trip): (&mut Search<&Plan>, &Hints<'_>, &mut Trip),
    ) {
        hints.learn(chosen.target(), asked.outcome, trip.attempts.is_empty(), &self.metrics);
        self.record(chosen, asked.outcome, began.ended(request), trip);
        // GET and HEAD: whatever it is, it is noted, and the walk goes on.
        search.judge(chosen.kind(), asked.outcome);
        if let Some(answer) = asked.answer {
            answer.discard().await;
        }
    }
}

/// Notes that a node has sent a head, and how long it took.
fn heard(node: &Node, began: Begun, asked: Asked) -> Asked {
    if asked.answer.is_some() {
        node.condition.latency.observe(began.elapsed());
        node.condition.silence.spoke();
    }
    asked
}
