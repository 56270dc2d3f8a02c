//! The cap on requests in flight to one target, with a bounded queue before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

pub struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    queue_timeout: Duration,
    in_flight: IntGauge,
}

/// A place at a target, given back when dropped.
pub struct Permit {
    _place: OwnedSemaphorePermit,
    in_flight: IntGauge,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

impl Gate {
    pub fn new(places: usize, queue: usize, queue_timeout: Duration, in_flight: IntGauge) -> Self {
        Gate { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), queue, queue_timeout, in_flight }
    }

    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Places that are taken.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// A place now, or after a wait in the queue; `None` when the queue is full too, or the wait too long.
    pub async fn enter(&self) -> Option<Permit> {
        self.enter_until(None).await
    }

    /// As [`Gate::enter`], with a wait that ends by `deadline`.
    pub async fn enter_by(&self, deadline: Instant) -> Option<Permit> {
        self.enter_until(Some(deadline)).await
    }

    async fn enter_until(&self, deadline: Option<Instant>) -> Option<Permit> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.wait(deadline).await?,
        };
        self.in_flight.inc();
        Some(Permit { _place: place, in_flight: self.in_flight.clone() })
    }

    async fn wait(&self, deadline: Option<Instant>) -> Option<OwnedSemaphorePermit> {
        let _seat = Seat::take(&self.waiting, self.queue)?;
        let patience = Instant::now() + self.queue_timeout;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        timeout_at(until, self.places.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// A seat in the queue, given back even if the waiting request is dropped.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(waiting: &'a AtomicUsize, seats: usize) -> Option<Self> {
        let taken = waiting.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(waiting);
        (taken < seats).then_some(seat)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_then_seats_then_nothing() {
        let gauge = IntGauge::new("g", "g").unwrap();
        let gate = Arc::new(Gate::new(1, 1, Duration::from_secs(1), gauge.clone()));
        let first = gate.enter().await.unwrap();
        assert!(gate.is_full());
        assert_eq!(gauge.get(), 1);

        let queued = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(gate.enter().await.is_none(), "the queue is full");
        drop(first);
        assert!(queued.await.unwrap(), "the queued one gets the place");
        assert_eq!(gauge.get(), 0);
        assert!(!gate.is_full());

        let _held = gate.enter().await.unwrap();
        assert!(gate.enter().await.is_none(), "the wait ends");
        let began = Instant::now();
        assert!(gate.enter_by(began + Duration::from_millis(300)).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_millis(300), "so does the request's time");
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0, "seats are given back");
    }
}
