//! What happened to one request: the record that the log, the metrics and the answer's own fields tell.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use http::HeaderValue;

use crate::fallback::{Busy, Failure, Outcome};
use crate::trace_context::Trace;

/// One attempt as it is told.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Name of the node or store.
    pub target: String,
    /// Name of the pool, or of the store.
    pub pool: String,
    pub outcome: Outcome,
    /// When it began, after the request did.
    pub began: Duration,
    /// Until its answer's head was there.
    pub took: Duration,
    /// Its span in the request's trace; 0 without one.
    pub span: u64,
}

impl Attempt {
    /// `404`, or the failure's name, or the outcome's word.
    pub fn result(&self) -> impl Display {
        let outcome = self.outcome;
        fmt::from_fn(move |f| match (outcome.status(), outcome.failure()) {
            (Some(status), _) => write!(f, "{status}"),
            (None, Some(failure)) => f.write_str(failure.as_str()),
            (None, None) => f.write_str(outcome.as_str()),
        })
    }
}

/// What a store's disk, or another request under way, had to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cached {
    /// From the disk, and fresh for so many seconds more.
    Hit(u64),
    /// From the disk, and stale for so many seconds, as the config allows.
    Stale(u64),
    /// From the disk, after the store has said that it is still the same.
    Revalidated,
    /// The disk has it not: from the store.
    Miss,
    /// From what another request had asked the store for.
    Collapsed,
    /// From the store, for this request alone.
    Bypass,
}

impl Cached {
    /// The closed word for the metric's `result` label and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Cached::Hit(_) => "hit",
            Cached::Stale(_) => "stale",
            Cached::Revalidated => "revalidated",
            Cached::Miss => "miss",
            Cached::Collapsed => "collapsed",
            Cached::Bypass => "bypass",
        }
    }

    /// The value of `Cache-Status` (RFC 9211): our member of the list.
    pub fn cache_status(self) -> String {
        match self {
            Cached::Hit(left) => format!("hopfall; hit; ttl={left}"),
            Cached::Stale(since) => format!("hopfall; hit; ttl=-{since}"),
            Cached::Revalidated => "hopfall; fwd=stale; fwd-status=304".to_owned(),
            Cached::Miss => "hopfall; fwd=uri-miss".to_owned(),
            Cached::Collapsed => "hopfall; fwd=uri-miss; collapsed".to_owned(),
            Cached::Bypass => "hopfall; fwd=bypass".to_owned(),
        }
    }
}

/// What a store was paid for at one attempt, in bytes of a body besides the request itself; `None`: nothing was sent to it.
/// `sent` is what the client got. An estimate: what the store sent is known to its bill alone.
pub fn paid_bytes(outcome: Outcome, cached: Option<Cached>, sent: u64) -> Option<u64> {
    match (cached, outcome) {
        (Some(Cached::Hit(_) | Cached::Stale(_) | Cached::Collapsed), _) => None,
        (_, Outcome::Busy(Busy::Full) | Outcome::Down(_)) => None,
        (Some(Cached::Revalidated), _) => Some(0),
        (_, Outcome::Found(_)) => Some(sent),
        _ => Some(0),
    }
}

/// The record of one request.
#[derive(Clone, Debug, Default)]
pub struct Trip {
    pub attempts: Vec<Attempt>,
    /// Name of the target whose answer was served; `None` when we answered ourselves.
    pub served_by: Option<String>,
    pub failure: Option<Failure>,
    /// The node that sent this request back to us.
    pub looped_by: Option<String>,
    /// Why the request was refused by its shape.
    pub misshapen: Option<&'static str>,
    /// Who cut the answer short: `upstream`, `client` or `deadline`.
    pub aborted: Option<&'static str>,
    /// `nowhere` when the location map answered, and nobody was asked.
    pub located: Option<&'static str>,
    pub cached: Option<Cached>,
    /// Tells the client's next request which node to go to.
    pub set_cookie: Option<HeaderValue>,
    /// Whether it waited for what another request found out.
    pub collapsed: bool,
    /// Body bytes sent to the client.
    pub sent: u64,
    /// Its place in a trace, where requests are traced.
    pub trace: Option<Box<Trace>>,
}

impl Trip {
    /// What the node is told that the attempt with this span asks.
    pub fn traceparent(&self, span: u64) -> Option<HeaderValue> {
        self.trace.as_ref().map(|trace| trace.told_by(span))
    }

    /// `taiga:404:3ms chitoge:200:5ms`
    pub fn hops(&self) -> impl Display {
        fmt::from_fn(|f| {
            for (i, attempt) in self.attempts.iter().enumerate() {
                let space = if i == 0 { "" } else { " " };
                write!(f, "{space}{}:{}:{}ms", attempt.target, attempt.result(), attempt.took.as_millis())?;
            }
            Ok(())
        })
    }

    /// Whether something went wrong, so that a log must not leave this request out. `status` is the one sent, 0 if none
    /// was. A target that failed counts even where the next one had the file; one that was only busy does not, since a
    /// busy day is not to make the log longer.
    pub fn went_wrong(&self, status: u16) -> bool {
        let failed = |attempt: &Attempt| {
            matches!(
                attempt.outcome,
                Outcome::Error(_) | Outcome::Down(_) | Outcome::Broken(_) | Outcome::Misconfigured(_)
            )
        };
        !(100..400).contains(&status)
            || self.failure.is_some()
            || self.misshapen.is_some()
            || self.looped_by.is_some()
            || self.aborted.is_some()
            || self.attempts.iter().any(failed)
    }

    /// The value of `Server-Timing` (W3C): one metric a hop. Names of targets are for trusted eyes.
    pub fn server_timing(&self, names: bool) -> Option<String> {
        let mut text = String::new();
        for (i, attempt) in self.attempts.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let name = if names { token(&attempt.target) } else { format!("hop{}", i + 1) };
            let _ = write!(
                text,
                "{comma}{name};desc=\"{}\";dur={:.1}",
                attempt.result(),
                attempt.took.as_secs_f64() * 1000.0
            );
        }
        (!text.is_empty()).then_some(text)
    }

    /// The value of `Proxy-Status` (RFC 9209): our member of the list.
    pub fn proxy_status(&self, names: bool) -> String {
        let mut text = String::from("hopfall");
        if let Some(failure) = self.failure {
            let _ = write!(text, "; error={}", failure.as_str());
        }
        let status = self.attempts.last().and_then(|attempt| attempt.outcome.status());
        if let (Some(status), None) = (status, self.failure) {
            let _ = write!(text, "; received-status={status}");
        }
        if let (true, Some(last)) = (names, self.attempts.last()) {
            let _ = write!(text, "; next-hop=\"{}\"", last.target.replace(['"', '\\'], "_"));
        }
        text
    }
}

/// `text` with all that no token may hold (RFC 9110 §5.6.2) replaced.
fn token(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::Busy;

    fn trip() -> Trip {
        let attempt = |target: &str, outcome, ms| Attempt {
            target: target.into(),
            pool: "images".into(),
            outcome,
            began: Duration::ZERO,
            took: Duration::from_millis(ms),
            span: 0,
        };
        Trip {
            attempts: vec![
                attempt("taiga", Outcome::Absent(404), 3),
                attempt("a b", Outcome::Down(Failure::ConnectionRefused), 0),
                attempt("chitoge", Outcome::Found(200), 5),
            ],
            ..Trip::default()
        }
    }

    #[test]
    fn a_trip_is_told_hop_by_hop() {
        assert_eq!(trip().hops().to_string(), "taiga:404:3ms a b:connection_refused:0ms chitoge:200:5ms");
    }

    #[test]
    fn what_went_wrong_is_told_from_what_went_well() {
        let attempts = |outcomes: &[Outcome]| {
            let attempt = |outcome: &Outcome| Attempt {
                target: "a".into(),
                pool: "p".into(),
                outcome: *outcome,
                began: Duration::ZERO,
                took: Duration::ZERO,
                span: 0,
            };
            Trip { attempts: outcomes.iter().map(attempt).collect(), ..Trip::default() }
        };
        let found = Outcome::Found(200);
        let cases = [
            ("found", 200, attempts(&[found]), false),
            ("found at the second", 200, attempts(&[Outcome::Absent(404), found]), false),
            ("not modified", 304, attempts(&[Outcome::Found(304)]), false),
            ("switched to a WebSocket", 101, attempts(&[Outcome::Found(101)]), false),
            ("a redirect of our own", 308, Trip::default(), false),
            ("one was full", 200, attempts(&[Outcome::Busy(Busy::Full), found]), false),
            ("one was left for a faster one", 200, attempts(&[Outcome::Dropped, found]), false),
            ("absent", 404, attempts(&[Outcome::Absent(404)]), true),
            ("no answer", 0, attempts(&[]), true),
            ("a node's own error", 500, attempts(&[Outcome::Found(500)]), true),
            ("one failed", 200, attempts(&[Outcome::Error(500), found]), true),
            ("one is down", 200, attempts(&[Outcome::Down(Failure::ConnectionRefused), found]), true),
            ("one broke", 200, attempts(&[Outcome::Broken(Failure::HttpResponseTimeout), found]), true),
            ("a wrong key", 200, attempts(&[Outcome::Misconfigured(403), found]), true),
            ("cut short", 200, Trip { aborted: Some("client"), ..attempts(&[found]) }, true),
            ("looped", 200, Trip { looped_by: Some("taiga".into()), ..attempts(&[found]) }, true),
            ("misshapen", 200, Trip { misshapen: Some("no Host"), ..Trip::default() }, true),
            ("failed", 200, Trip { failure: Some(Failure::ProxyInternalError), ..attempts(&[found]) }, true),
        ];
        for (case, status, trip, wrong) in cases {
            assert_eq!(trip.went_wrong(status), wrong, "{case}");
        }
    }

    #[test]
    fn what_the_disk_did_is_a_cache_status() {
        let told = |cached: Cached| cached.cache_status();
        assert_eq!(told(Cached::Hit(30)), "hopfall; hit; ttl=30");
        assert_eq!(told(Cached::Stale(5)), "hopfall; hit; ttl=-5");
        assert_eq!(told(Cached::Collapsed), "hopfall; fwd=uri-miss; collapsed");
    }

    #[test]
    fn names_are_for_trusted_eyes() {
        let public = trip().server_timing(false).unwrap();
        assert_eq!(
            public,
            "hop1;desc=\"404\";dur=3.0, hop2;desc=\"connection_refused\";dur=0.0, hop3;desc=\"200\";dur=5.0"
        );
        assert!(trip().server_timing(true).unwrap().starts_with("taiga;desc=\"404\";dur=3.0, a_b;"));
        assert_eq!(trip().proxy_status(false), "hopfall; received-status=200");
        assert_eq!(trip().proxy_status(true), "hopfall; received-status=200; next-hop=\"chitoge\"");
        let refused = Trip { failure: Some(Failure::ProxyLoopDetected), ..Trip::default() };
        assert_eq!(refused.proxy_status(false), "hopfall; error=proxy_loop_detected");
        assert_eq!(refused.server_timing(false), None);
    }

    #[test]
    fn a_store_is_paid_when_it_was_asked() {
        let paid = |cached, outcome| paid_bytes(outcome, cached, 5);
        assert_eq!(paid(None, Outcome::Found(200)), Some(5));
        assert_eq!(paid(Some(Cached::Miss), Outcome::Found(200)), Some(5));
        assert_eq!(paid(Some(Cached::Revalidated), Outcome::Found(200)), Some(0));
        assert_eq!(paid(Some(Cached::Hit(1)), Outcome::Found(200)), None);
        assert_eq!(paid(None, Outcome::Absent(404)), Some(0));
        assert_eq!(paid(None, Outcome::Busy(Busy::Status(503))), Some(0));
        assert_eq!(paid(None, Outcome::Broken(Failure::HttpResponseTimeout)), Some(0));
        assert_eq!(paid(None, Outcome::Down(Failure::ConnectionRefused)), None);
    }
}
