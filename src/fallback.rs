//! The decision: what follows from what one attempt brought. The heart of the product, and pure.
//!
//! A [`Plan`] is the ordered chain of a route. A [`Search`] walks it once for one request. Two things make
//! it end, whatever the nodes do: the plan is finite, and [`Visited`] only grows. `next` marks a target
//! *before* handing it out, so a target that was handed out is never handed out again, even by a `pick`
//! that is wrong.
//!
//! Why a set and not a counter: a counter bounds how often we run in a circle, a set leaves no circle.

use std::ops::Deref;

use crate::hop::{TargetId, Visited};
use crate::units::StatusSet;

/// The ordered chain of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub stages: Vec<Stage>,
    /// Most attempts for one request, over all stages. 0 means as many as there are targets.
    pub attempts: u32,
}

/// One link of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every node of the pool with this index.
    Pool(usize),
    Store(TargetId),
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer to hand on as it is.
    Found(u16),
    /// The target answered, and has no such file.
    Absent(u16),
    /// The target is there and will not serve now: 429, 503, or our own cap on requests in flight.
    Busy(Busy),
    /// The target answered that it failed.
    Error(u16),
    /// No connection: the target cannot have seen the request.
    Down(Failure),
    /// The connection failed after the request, or a part of it, was sent.
    Broken(Failure),
    /// The store refuses us for a reason that an operator must mend: a wrong key, a wrong region.
    Misconfigured(u16),
    /// It was left: another target answered first (hedging), the request's time was up, or its client sent what was refused.
    Dropped,
}

/// Why a target would not serve now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    Status(u16),
    /// Our cap on requests in flight to it; it was not asked.
    Full,
}

/// Kinds of failure, named as RFC 9209 §2.3 names them for `Proxy-Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    DnsError,
    DestinationNotFound,
    DestinationUnavailable,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionTerminated,
    TlsProtocolError,
    TlsCertificateError,
    TlsAlertReceived,
    HttpResponseTimeout,
    HttpResponseIncomplete,
    HttpProtocolError,
    HttpRequestError,
    ProxyLoopDetected,
    ProxyConfigurationError,
    ProxyInternalError,
}

impl Failure {
    /// The token of RFC 9209 §2.3.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::DnsError => "dns_error",
            Failure::DestinationNotFound => "destination_not_found",
            Failure::DestinationUnavailable => "destination_unavailable",
            Failure::ConnectionRefused => "connection_refused",
            Failure::ConnectionTimeout => "connection_timeout",
            Failure::ConnectionTerminated => "connection_terminated",
            Failure::TlsProtocolError => "tls_protocol_error",
            Failure::TlsCertificateError => "tls_certificate_error",
            Failure::TlsAlertReceived => "tls_alert_received",
            Failure::HttpResponseTimeout => "http_response_timeout",
            Failure::HttpResponseIncomplete => "http_response_incomplete",
            Failure::HttpProtocolError => "http_protocol_error",
            Failure::HttpRequestError => "http_request_error",
            Failure::ProxyLoopDetected => "proxy_loop_detected",
            Failure::ProxyConfigurationError => "proxy_configuration_error",
            Failure::ProxyInternalError => "proxy_internal_error",
        }
    }

    /// Whether it took too long.
    pub fn is_timeout(self) -> bool {
        matches!(self, Failure::ConnectionTimeout | Failure::HttpResponseTimeout)
    }
}

impl Outcome {
    /// The closed word for the metric's `outcome` label and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Found(_) => "found",
            Outcome::Absent(_) => "absent",
            Outcome::Busy(_) => "busy",
            Outcome::Error(_) => "error",
            Outcome::Down(_) => "down",
            Outcome::Broken(_) => "broken",
            Outcome::Misconfigured(_) => "misconfigured",
            Outcome::Dropped => "dropped",
        }
    }

    /// The status that the target sent, when it sent one.
    pub fn status(self) -> Option<u16> {
        match self {
            Outcome::Found(status)
            | Outcome::Absent(status)
            | Outcome::Error(status)
            | Outcome::Misconfigured(status) => Some(status),
            Outcome::Busy(Busy::Status(status)) => Some(status),
            Outcome::Busy(Busy::Full) | Outcome::Down(_) | Outcome::Broken(_) | Outcome::Dropped => None,
        }
    }

    pub fn failure(self) -> Option<Failure> {
        match self {
            Outcome::Down(failure) | Outcome::Broken(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether the node's passive health counts this against it. A miss never does, and neither does 429;
    /// 501 and 505 are the node's honest word (a NodeBalancer exempts them too).
    pub fn harms_health(self) -> bool {
        match self {
            Outcome::Down(_) | Outcome::Broken(_) => true,
            Outcome::Error(status) | Outcome::Busy(Busy::Status(status)) | Outcome::Found(status) => {
                (500..600).contains(&status) && status != 501 && status != 505
            }
            Outcome::Absent(_) | Outcome::Busy(Busy::Full) | Outcome::Misconfigured(_) | Outcome::Dropped => false,
        }
    }
}

/// What a storage node's status means. `fallback_on` is the pool's list; a status outside it is served.
pub fn node_outcome(status: u16, fallback_on: &StatusSet) -> Outcome {
    if !fallback_on.contains(status) {
        return Outcome::Found(status);
    }
    match status {
        429 | 503 => Outcome::Busy(Busy::Status(status)),
        500..=599 => Outcome::Error(status),
        _ => Outcome::Absent(status),
    }
}

/// Whether a request may be sent to a second target after the first one has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// GET and HEAD without a body (RFC 9110 §9.2.1).
    Safe,
    /// All else: one node, and never again once a byte was sent.
    Never,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand this answer to the client.
    Serve,
    /// Drop it and ask `Search::next`.
    Next,
    Refuse(Refusal),
}

/// An answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub failure: Option<Failure>,
}

impl Refusal {
    /// Every source answered and none has it. The only refusal that may be cached.
    pub const ABSENT: Refusal = Refusal { status: 404, failure: None };
    /// A node called back: "absent" is the truth for that node, and lets the outer request go on.
    pub const LOOP: Refusal = Refusal { status: 404, failure: Some(Failure::ProxyLoopDetected) };
    /// There was nobody to ask.
    pub const UNASKED: Refusal = Refusal { status: 503, failure: Some(Failure::DestinationUnavailable) };
    /// No route is for this host and path.
    pub const UNROUTED: Refusal = Refusal { status: 404, failure: Some(Failure::DestinationNotFound) };
    /// The client comes too often (RFC 6585 §4).
    pub const THROTTLED: Refusal = Refusal { status: 429, failure: Some(Failure::HttpRequestError) };
    pub const DEADLINE: Refusal = Refusal { status: 504, failure: Some(Failure::HttpResponseTimeout) };
}

/// What the walk has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Try(TargetId),
    Refuse(Refusal),
}

/// One request's walk along its plan, which it borrows or shares.
#[derive(Debug)]
pub struct Search<P> {
    plan: P,
    stage: usize,
    visited: Visited,
    attempts: u32,
    repeat: Repeat,
    stores_only: bool,
    /// Asked before the plan's order, once.
    preferred: Option<TargetId>,
    /// The gravest thing met so far, which decides the final status.
    gravest: Gravity,
}

/// Final statuses in order of gravity: the gravest thing met decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gravity {
    /// Every source answered and none has the file.
    Absent,
    /// A source could not be asked, or would not say. The file may exist.
    Unavailable,
    /// A store answered in time, and wrongly.
    BadStore,
    /// A store refuses what the config says.
    Misconfigured,
    StoreTimeout,
}

impl<P: Deref<Target = Plan>> Search<P> {
    pub fn new(plan: P, repeat: Repeat) -> Self {
        Search {
            plan,
            stage: 0,
            visited: Visited::default(),
            attempts: 0,
            repeat,
            stores_only: false,
            preferred: None,
            gravest: Gravity::Absent,
        }
    }

    /// The next target, never one that was handed out before.
    ///
    /// `pick(pool, visited)` chooses among a pool's unvisited nodes (health, weight and mode are its
    /// business) and returns `None` when the pool has none left. `late` says that the deadline has passed.
    pub fn next(&mut self, late: bool, mut pick: impl FnMut(usize, &Visited) -> Option<TargetId>) -> Step {
        if late {
            return Step::Refuse(Refusal::DEADLINE);
        }
        while let Some(stage) = self.plan.stages.get(self.stage) {
            let target = match *stage {
                _ if self.preferred.is_some() => self.preferred.take(),
                Stage::Pool(_) if self.stores_only => None,
                Stage::Pool(pool) => pick(pool, &self.visited),
                Stage::Store(_) if self.repeat == Repeat::Never => None,
                Stage::Store(store) => Some(store),
            };
            // A target seen before closes its stage: this line is why a loop cannot be.
            let Some(target) = target.filter(|target| self.visited.insert(*target)) else {
                self.stage += 1;
                continue;
            };
            if self.plan.attempts > 0 && self.attempts >= self.plan.attempts {
                self.note(Gravity::Unavailable);
                break;
            }
            self.attempts += 1;
            return Step::Try(target);
        }
        Step::Refuse(self.refusal())
    }

    /// What follows from `outcome` at a target of this kind.
    pub fn judge(&mut self, kind: Kind, outcome: Outcome) -> Verdict {
        match (outcome, self.repeat) {
            (Outcome::Found(_), _) => return Verdict::Serve,
            // Sent, and not ours to repeat: what came is the answer.
            (Outcome::Absent(_) | Outcome::Error(_) | Outcome::Busy(Busy::Status(_)), Repeat::Never) => {
                return Verdict::Serve;
            }
            (Outcome::Broken(failure), Repeat::Never) => {
                let status = if failure.is_timeout() { 504 } else { 502 };
                return Verdict::Refuse(Refusal { status, failure: Some(failure) });
            }
            _ => {}
        }
        self.note(match (outcome, kind) {
            (Outcome::Absent(_), _) => Gravity::Absent,
            (Outcome::Busy(_) | Outcome::Dropped, _) => Gravity::Unavailable,
            (Outcome::Down(failure) | Outcome::Broken(failure), Kind::Store) if failure.is_timeout() => {
                Gravity::StoreTimeout
            }
            (Outcome::Error(_) | Outcome::Down(_) | Outcome::Broken(_), Kind::Store) => Gravity::BadStore,
            (Outcome::Misconfigured(_), _) => Gravity::Misconfigured,
            (_, Kind::Node) => Gravity::Unavailable,
            (Outcome::Found(_), Kind::Store) => Gravity::Absent, // returned above
        });
        Verdict::Next
    }

    /// Asks this store of the plan first, wherever it stands: it is known to have what nobody before it has.
    /// If it says otherwise, the walk goes on as the plan says.
    pub fn prefer(&mut self, store: TargetId) {
        if self.repeat == Repeat::Safe && self.plan.stages.contains(&Stage::Store(store)) {
            self.preferred = Some(store);
        }
    }

    /// From here on asks no node: the request came from one (docs/decisions/0007-loops.md).
    pub fn ask_stores_only(&mut self) {
        self.stores_only = true;
    }

    /// The pool that `next` would ask, if it is a pool's turn and it may be asked.
    pub fn pool(&self) -> Option<usize> {
        match self.plan.stages.get(self.stage) {
            Some(Stage::Pool(pool)) if !self.stores_only && self.preferred.is_none() => Some(*pool),
            _ => None,
        }
    }

    /// Goes on to the next link: this pool has nobody left to ask.
    pub fn leave_pool(&mut self) {
        self.stage += 1;
    }

    pub fn visited(&self) -> &Visited {
        &self.visited
    }

    /// Attempts handed out so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    fn note(&mut self, gravity: Gravity) {
        self.gravest = self.gravest.max(gravity);
    }

    fn refusal(&self) -> Refusal {
        if self.attempts == 0 && self.repeat == Repeat::Never {
            return Refusal::UNASKED;
        }
        match self.gravest {
            Gravity::Absent => Refusal::ABSENT,
            Gravity::Unavailable => Refusal { status: 503, failure: Some(Failure::DestinationUnavailable) },
            Gravity::BadStore => Refusal { status: 502, failure: Some(Failure::DestinationUnavailable) },
            Gravity::Misconfigured => Refusal { status: 502, failure: Some(Failure::ProxyConfigurationError) },
            Gravity::StoreTimeout => Refusal { status: 504, failure: Some(Failure::HttpResponseTimeout) },
        }
    }
}

/// What sort of target was asked: the same outcome weighs differently at the end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Node,
    Store,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Repeat::{Never, Safe};

    const FALLBACK_ON: [u16; 6] = [404, 429, 500, 502, 503, 504];

    fn plan() -> Plan {
        Plan { stages: vec![Stage::Pool(0), Stage::Store(TargetId(9))], attempts: 0 }
    }

    /// Nodes 0, 1, 2 of pool 0, in that order.
    fn in_order(_pool: usize, visited: &Visited) -> Option<TargetId> {
        (0..3).map(TargetId).find(|node| !visited.contains(*node))
    }

    #[test]
    fn a_node_status_means_what_the_table_says() {
        let set: StatusSet = FALLBACK_ON.into_iter().collect();
        const CASES: &[(u16, Outcome)] = &[
            (200, Outcome::Found(200)),
            (206, Outcome::Found(206)),
            (304, Outcome::Found(304)),
            (412, Outcome::Found(412)),
            (416, Outcome::Found(416)),
            (301, Outcome::Found(301)),
            (308, Outcome::Found(308)),
            (400, Outcome::Found(400)),
            (403, Outcome::Found(403)),
            (405, Outcome::Found(405)),
            (410, Outcome::Found(410)),
            (501, Outcome::Found(501)),
            (404, Outcome::Absent(404)),
            (429, Outcome::Busy(Busy::Status(429))),
            (503, Outcome::Busy(Busy::Status(503))),
            (500, Outcome::Error(500)),
            (502, Outcome::Error(502)),
            (504, Outcome::Error(504)),
        ];
        for (status, expected) in CASES {
            assert_eq!(node_outcome(*status, &set), *expected, "{status}");
        }
        let by_choice: StatusSet = [403, 404, 410].into_iter().collect();
        assert_eq!(node_outcome(410, &by_choice), Outcome::Absent(410));
        assert_eq!(node_outcome(403, &by_choice), Outcome::Absent(403));
        assert_eq!(node_outcome(502, &by_choice), Outcome::Found(502), "an explicit list is the whole list");
    }

    #[test]
    fn the_decision_table_row_by_row() {
        let refuse = |status, failure| Verdict::Refuse(Refusal { status, failure: Some(failure) });
        let cases = [
            // nothing sent yet: anybody may be asked next
            (Outcome::Down(Failure::ConnectionRefused), Safe, Verdict::Next),
            (Outcome::Down(Failure::ConnectionTimeout), Safe, Verdict::Next),
            (Outcome::Down(Failure::TlsProtocolError), Safe, Verdict::Next),
            (Outcome::Down(Failure::TlsCertificateError), Safe, Verdict::Next),
            (Outcome::Down(Failure::TlsCertificateError), Never, Verdict::Next),
            (Outcome::Down(Failure::ConnectionRefused), Never, Verdict::Next),
            (Outcome::Busy(Busy::Full), Safe, Verdict::Next),
            (Outcome::Busy(Busy::Full), Never, Verdict::Next),
            // sent: repeat only what is safe
            (Outcome::Broken(Failure::ConnectionTerminated), Safe, Verdict::Next),
            (Outcome::Broken(Failure::HttpResponseTimeout), Safe, Verdict::Next),
            (Outcome::Broken(Failure::HttpProtocolError), Safe, Verdict::Next),
            (Outcome::Broken(Failure::ConnectionTerminated), Never, refuse(502, Failure::ConnectionTerminated)),
            (Outcome::Broken(Failure::HttpProtocolError), Never, refuse(502, Failure::HttpProtocolError)),
            (Outcome::Broken(Failure::HttpResponseTimeout), Never, refuse(504, Failure::HttpResponseTimeout)),
            // a status in fallback_on
            (Outcome::Absent(404), Safe, Verdict::Next),
            (Outcome::Error(502), Safe, Verdict::Next),
            (Outcome::Busy(Busy::Status(503)), Safe, Verdict::Next),
            (Outcome::Absent(404), Never, Verdict::Serve),
            (Outcome::Error(502), Never, Verdict::Serve),
            (Outcome::Busy(Busy::Status(503)), Never, Verdict::Serve),
            // any other status
            (Outcome::Found(200), Safe, Verdict::Serve),
            (Outcome::Found(403), Never, Verdict::Serve),
        ];
        for (outcome, repeat, expected) in cases {
            assert_eq!(Search::new(&plan(), repeat).judge(Kind::Node, outcome), expected, "{outcome:?} {repeat:?}");
        }
    }

    #[test]
    fn the_final_status_tells_absent_from_unasked() {
        let absent = Outcome::Absent(404);
        let cases: &[(&str, Outcome, Outcome, u16)] = &[
            ("every source answered, none has it", absent, absent, 404),
            ("a node was down", Outcome::Down(Failure::ConnectionRefused), absent, 503),
            ("a node timed out", Outcome::Broken(Failure::HttpResponseTimeout), absent, 503),
            ("a node failed", Outcome::Error(502), absent, 503),
            ("a node was busy", Outcome::Busy(Busy::Status(429)), absent, 503),
            ("a node was full", Outcome::Busy(Busy::Full), absent, 503),
            ("the store failed", absent, Outcome::Error(500), 502),
            ("the store refuses our key", absent, Outcome::Misconfigured(403), 502),
            ("there was no time left for the store", absent, Outcome::Dropped, 503),
            ("the store refused the connection", absent, Outcome::Down(Failure::ConnectionRefused), 502),
            ("the store was slow", absent, Outcome::Broken(Failure::HttpResponseTimeout), 504),
            ("the store could not be reached in time", absent, Outcome::Down(Failure::ConnectionTimeout), 504),
            ("the store is busy", absent, Outcome::Busy(Busy::Status(503)), 503),
        ];
        for (name, at_node, at_store, status) in cases {
            let plan = plan();
            let mut search = Search::new(&plan, Safe);
            for _ in 0..3 {
                assert!(matches!(search.next(false, in_order), Step::Try(TargetId(0..=2))));
                assert_eq!(search.judge(Kind::Node, *at_node), Verdict::Next);
            }
            assert_eq!(search.next(false, in_order), Step::Try(TargetId(9)));
            assert_eq!(search.judge(Kind::Store, *at_store), Verdict::Next);
            let Step::Refuse(refusal) = search.next(false, in_order) else {
                panic!("{name}: a target was asked twice")
            };
            assert_eq!(refusal.status, *status, "{name}");
        }
    }

    #[test]
    fn a_spent_deadline_is_504_and_a_spent_budget_is_not_404() {
        let mut plan = plan();
        assert_eq!(Search::new(&plan, Safe).next(true, in_order), Step::Refuse(Refusal::DEADLINE));

        plan.attempts = 1;
        let mut search = Search::new(&plan, Safe);
        assert!(matches!(search.next(false, in_order), Step::Try(_)));
        search.judge(Kind::Node, Outcome::Absent(404));
        let Step::Refuse(refusal) = search.next(false, in_order) else { panic!("the budget was overspent") };
        assert_eq!(refusal.status, 503);
    }

    #[test]
    fn an_upload_never_reaches_a_store() {
        let plan = Plan { stages: vec![Stage::Store(TargetId(9))], attempts: 0 };
        let Step::Refuse(refusal) = Search::new(&plan, Never).next(false, in_order) else { panic!() };
        assert_eq!(refusal.status, 503);
    }

    #[test]
    fn a_pick_that_is_wrong_cannot_make_a_loop() {
        let plan = plan();
        let mut search = Search::new(&plan, Safe);
        let stuck = |_: usize, _: &Visited| Some(TargetId(1));
        assert_eq!(search.next(false, stuck), Step::Try(TargetId(1)));
        assert_eq!(search.next(false, stuck), Step::Try(TargetId(9)));
        assert!(matches!(search.next(false, stuck), Step::Refuse(_)));
        assert!(matches!(search.next(false, stuck), Step::Refuse(_)));
    }

    #[test]
    fn a_preferred_store_is_asked_first_and_only_once() {
        let plan = plan();
        let mut search = Search::new(&plan, Safe);
        search.prefer(TargetId(9));
        search.prefer(TargetId(1));
        let mut asked = Vec::new();
        while let Step::Try(target) = search.next(false, in_order) {
            search.judge(if target.0 == 9 { Kind::Store } else { Kind::Node }, Outcome::Absent(404));
            asked.push(target.0);
        }
        assert_eq!(asked, [9, 0, 1, 2]);
        assert_eq!(search.next(false, in_order), Step::Refuse(Refusal::ABSENT));
    }

    #[test]
    fn a_miss_harms_no_health() {
        let cases = [
            (Outcome::Absent(404), false),
            (Outcome::Busy(Busy::Status(429)), false),
            (Outcome::Busy(Busy::Full), false),
            (Outcome::Busy(Busy::Status(503)), true),
            (Outcome::Found(200), false),
            (Outcome::Found(403), false),
            (Outcome::Found(500), true),
            (Outcome::Found(501), false),
            (Outcome::Found(505), false),
            (Outcome::Error(502), true),
            (Outcome::Down(Failure::ConnectionRefused), true),
            (Outcome::Broken(Failure::HttpResponseTimeout), true),
        ];
        for (outcome, harms) in cases {
            assert_eq!(outcome.harms_health(), harms, "{outcome:?}");
        }
    }
}
