//! One attempt under way: its time, and its span in the request's trace.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::Request;
use crate::trip::Trip;

/// An attempt that has begun.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    at: Instant,
    /// 0 where the request is not traced.
    span: u64,
}

/// What is told of an attempt's time.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    /// After the request did.
    pub(super) began: Duration,
    pub(super) took: Duration,
    pub(super) span: u64,
}

impl Begun {
    pub(super) fn now(trip: &Trip) -> Begun {
        // Zero is no name of a span.
        let span = trip.trace.as_ref().map_or(0, |_| rand::random::<u64>().max(1));
        Begun { at: Instant::now(), span }
    }

    /// What the node is told.
    pub(super) fn traceparent(&self, trip: &Trip) -> Option<HeaderValue> {
        trip.traceparent(self.span)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    pub(super) fn ended(&self, request: &Request<'_>) -> Ended {
        Ended { began: self.at.saturating_duration_since(request.started), took: self.at.elapsed(), span: self.span }
    }
}
