//! The fleet simulation: the decision walked through random fleets in memory, with nodes that are down, that
//! fail, that lie, and that call back.
//!
//! A node that calls back sends a request to the balancer, which walks a search of its own: inside the first
//! one, as it would on the wire. The laws: every walk ends; no walk asks a target twice; at most N nodes and
//! one store; an upload is never sent a second time; the final status is the right one.

use std::rc::Rc;

use hopfall::fallback::{
    Busy, Failure, Kind, Outcome, Plan, Refusal, Repeat, Search, Stage, Step, Verdict, node_outcome,
};
use hopfall::hop::{TargetId, Visited};
use proptest::prelude::*;

/// How one target answers.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Has,
    Lacks,
    Status(u16),
    Refuses,
    TimesOut,
    Full,
    /// Asks us for what it is asked for, with the hops or without them, and says what it was told.
    CallsBack {
        keeps_hops: bool,
    },
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        3 => Just(Behaviour::Has),
        4 => Just(Behaviour::Lacks),
        1 => prop_oneof![Just(403u16), Just(429), Just(500), Just(502), Just(503)].prop_map(Behaviour::Status),
        1 => Just(Behaviour::Refuses),
        1 => Just(Behaviour::TimesOut),
        1 => Just(Behaviour::Full),
        3 => any::<bool>().prop_map(|keeps_hops| Behaviour::CallsBack { keeps_hops }),
    ]
}

struct Fleet {
    nodes: Vec<Behaviour>,
    store: Option<Behaviour>,
    plan: Rc<Plan>,
    /// Requests that each node has received, over all walks.
    received: Vec<u32>,
    walks: u32,
    /// A seed for which node is first.
    order: usize,
}

struct Walk {
    status: u16,
    asked: Vec<TargetId>,
    /// What came of each attempt.
    outcomes: Vec<Outcome>,
}

impl Fleet {
    fn new(nodes: Vec<Behaviour>, store: Option<Behaviour>, order: usize) -> Self {
        let store_id = TargetId(u32::try_from(nodes.len()).unwrap());
        let mut stages = vec![Stage::Pool(0)];
        stages.extend(store.map(|_| Stage::Store(store_id)));
        let received = vec![0; nodes.len()];
        Fleet { nodes, store, plan: Rc::new(Plan { stages, attempts: 0 }), received, walks: 0, order }
    }

    /// One request to the balancer. `from_node`: it comes from a node's address without our mark, so it may
    /// go to no node (docs/decisions/0007-loops.md). A request that carries our hops never gets here.
    fn walk(&mut self, repeat: Repeat, from_node: bool) -> Walk {
        self.walks += 1;
        assert!(self.walks < 1000, "the fleet does not come to rest");
        let mut search = Search::new(self.plan.clone(), repeat);
        if from_node {
            search.ask_stores_only();
        }
        let mut walk = Walk { status: 0, asked: Vec::new(), outcomes: Vec::new() };
        loop {
            let (n, order) = (self.nodes.len(), self.order);
            let pick = |_: usize, visited: &Visited| {
                (0..n).map(|i| TargetId(u32::try_from((i + order) % n).unwrap())).find(|id| !visited.contains(*id))
            };
            let target = match search.next(false, pick) {
                Step::Refuse(refusal) => {
                    walk.status = refusal.status;
                    return walk;
                }
                Step::Try(target) => target,
            };
            assert!(!walk.asked.contains(&target), "{target:?} was asked twice");
            walk.asked.push(target);
            let (kind, outcome) = self.ask(target, repeat);
            walk.outcomes.push(outcome);
            match search.judge(kind, outcome) {
                Verdict::Serve => {
                    walk.status = outcome.status().expect("only an answer is served");
                    return walk;
                }
                Verdict::Next => {
                    let repeatable =
                        repeat == Repeat::Safe || matches!(outcome, Outcome::Down(_) | Outcome::Busy(Busy::Full));
                    assert!(repeatable, "{outcome:?} was followed by a second try of an upload");
                }
                Verdict::Refuse(refusal) => {
                    walk.status = refusal.status;
                    return walk;
                }
            }
        }
    }

    fn ask(&mut self, target: TargetId, repeat: Repeat) -> (Kind, Outcome) {
        let index = target.0 as usize;
        if index == self.nodes.len() {
            return (
                Kind::Store,
                match self.store.expect("a store in the plan") {
                    Behaviour::Has => Outcome::Found(200),
                    Behaviour::Refuses => Outcome::Down(Failure::ConnectionRefused),
                    Behaviour::TimesOut => Outcome::Broken(Failure::HttpResponseTimeout),
                    Behaviour::Status(status) if status >= 500 => Outcome::Error(status),
                    Behaviour::Status(status) => Outcome::Misconfigured(status),
                    Behaviour::Full => Outcome::Busy(Busy::Full),
                    Behaviour::Lacks | Behaviour::CallsBack { .. } => Outcome::Absent(404),
                },
            );
        }
        let fallback_on = [404, 429, 500, 502, 503, 504].into_iter().collect();
        if !matches!(self.nodes[index], Behaviour::Refuses | Behaviour::Full) {
            self.received[index] += 1;
        }
        let outcome = match self.nodes[index] {
            Behaviour::Has => Outcome::Found(200),
            Behaviour::Lacks => node_outcome(404, &fallback_on),
            Behaviour::Status(status) => node_outcome(status, &fallback_on),
            Behaviour::Refuses => Outcome::Down(Failure::ConnectionRefused),
            Behaviour::TimesOut => Outcome::Broken(Failure::HttpResponseTimeout),
            Behaviour::Full => Outcome::Busy(Busy::Full),
            Behaviour::CallsBack { keeps_hops: true } => node_outcome(Refusal::LOOP.status, &fallback_on),
            Behaviour::CallsBack { keeps_hops: false } => node_outcome(self.walk(repeat, true).status, &fallback_on),
        };
        (Kind::Node, outcome)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_walk_ends_with_the_right_status(
        nodes in proptest::collection::vec(behaviour(), 0..9),
        store in proptest::option::of(behaviour()),
        order in 0usize..9,
        upload in any::<bool>(),
    ) {
        let count = nodes.len();
        let mut fleet = Fleet::new(nodes.clone(), store, order);
        let repeat = if upload { Repeat::Never } else { Repeat::Safe };
        let walk = fleet.walk(repeat, false);

        prop_assert!(walk.asked.len() <= count + 1, "more attempts than targets");
        for (node, received) in fleet.received.iter().enumerate() {
            prop_assert!(*received <= 1, "node {} got {} requests for one", node, received);
        }
        prop_assert!(fleet.walks <= 1 + u32::try_from(count).unwrap(), "a call-back begat call-backs");
        if upload {
            let sent = walk.outcomes.iter().filter(|o| !matches!(o, Outcome::Down(_) | Outcome::Busy(Busy::Full))).count();
            prop_assert!(sent <= 1, "an upload was sent {} times", sent);
            prop_assert!(!walk.asked.contains(&TargetId(u32::try_from(count).unwrap())), "an upload went to a store");
            return Ok(());
        }
        let found = walk.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Found(_)));
        let all_absent = walk.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Absent(_)));
        match walk.status {
            404 => prop_assert!(all_absent, "404, and not every source said so: {:?}", walk.outcomes),
            200 | 403 => prop_assert!(found),
            502..=504 => prop_assert!(!found && !all_absent, "{:?}", walk.outcomes),
            other => prop_assert!(false, "status {}", other),
        }
        // A file that somebody has and can give is given.
        let reachable = nodes.iter().chain(store.iter()).any(|behaviour| matches!(behaviour, Behaviour::Has));
        if reachable {
            prop_assert!(found, "somebody has the file: {:?}", walk.outcomes);
        }
    }
}
