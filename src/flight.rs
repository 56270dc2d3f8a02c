//! Flights: what one request finds out, for all that want to know the same meanwhile.
//!
//! The one that leads is a request like any other, and may end at any moment. Then those that follow are told, and one of
//! them leads.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The flights under way, by what is asked.
pub struct Flights<K, T> {
    all: Mutex<HashMap<K, watch::Receiver<Option<T>>>>,
}

/// A place in a flight.
pub enum Seat<K: Eq + Hash + Clone, T> {
    Lead(Flight<K, T>),
    Follow(Following<T>),
}

/// Leads a flight until it is dropped.
pub struct Flight<K: Eq + Hash + Clone, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    word: watch::Sender<Option<T>>,
}

/// Follows a flight.
pub struct Following<T>(watch::Receiver<Option<T>>);

impl<K: Eq + Hash + Clone, T> Default for Flights<K, T> {
    fn default() -> Self {
        Flights { all: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T> Flights<K, T> {
    /// Takes the lead if nobody has it.
    pub fn join(self: &Arc<Self>, key: &K) -> Seat<K, T> {
        let mut all = self.all();
        if let Some(word) = all.get(key) {
            return Seat::Follow(Following(word.clone()));
        }
        let (word, heard) = watch::channel(None);
        all.insert(key.clone(), heard);
        Seat::Lead(Flight { flights: self.clone(), key: key.clone(), word })
    }

    /// Follows a flight if there is one.
    pub fn follow(&self, key: &K) -> Option<Following<T>> {
        self.all().get(key).cloned().map(Following)
    }

    /// Nobody follows the flights under way from here on; those who do already go on.
    pub fn clear(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<T>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, T> Flight<K, T> {
    /// Says something to all that follow now or later. The last word counts.
    pub fn tell(&self, word: T) {
        self.word.send_replace(Some(word));
    }

    /// How many follow.
    pub fn followers(&self) -> usize {
        // One is the map's.
        self.word.receiver_count().saturating_sub(1)
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Flight<K, T> {
    fn drop(&mut self) {
        let own = self.word.subscribe();
        let mut all = self.flights.all();
        if all.get(&self.key).is_some_and(|word| word.same_channel(&own)) {
            all.remove(&self.key);
        }
    }
}

impl<T: Clone> Following<T> {
    /// The leader's word, as soon as there is one that `counts`. `None` when the leader went without.
    pub async fn word(&mut self, counts: impl Fn(&T) -> bool) -> Option<T> {
        let word = self.0.wait_for(|word| word.as_ref().is_some_and(&counts)).await;
        word.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead<T>(seat: Seat<u32, T>) -> Flight<u32, T> {
        match seat {
            Seat::Lead(flight) => flight,
            Seat::Follow(_) => panic!("somebody leads"),
        }
    }

    fn follow<T>(seat: Seat<u32, T>) -> Following<T> {
        match seat {
            Seat::Follow(following) => following,
            Seat::Lead(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn one_leads_and_all_hear_its_word() {
        let flights = Arc::new(Flights::default());
        let leader = lead(flights.join(&1));
        let (mut early, other) = (follow(flights.join(&1)), lead(flights.join(&2)));
        assert_eq!((leader.followers(), other.followers()), (1, 0));
        leader.tell("wait");
        leader.tell("found");
        let mut late = flights.follow(&1).unwrap();
        drop(leader);
        assert_eq!(early.word(|word| *word != "wait").await, Some("found"));
        assert_eq!(late.word(|_| true).await, Some("found"));
        assert!(flights.follow(&1).is_none());
    }

    #[tokio::test]
    async fn a_flight_that_was_cleared_leaves_the_next_one_alone() {
        let flights = Arc::new(Flights::<u32, &str>::default());
        let old = lead(flights.join(&1));
        let mut follower = follow(flights.join(&1));
        flights.clear();
        let new = lead(flights.join(&1));
        old.tell("old");
        drop(old);
        assert_eq!(follower.word(|_| true).await, Some("old"));
        new.tell("new");
        assert_eq!(follow(flights.join(&1)).word(|_| true).await, Some("new"));
    }

    #[tokio::test]
    async fn when_the_leader_goes_a_follower_leads() {
        let flights = Arc::new(Flights::<u32, ()>::default());
        let leader = lead(flights.join(&1));
        let mut first = follow(flights.join(&1));
        let heard = tokio::spawn(async move { first.word(|()| true).await });
        drop(leader);
        assert_eq!(heard.await.unwrap(), None);
        let _leader = lead(flights.join(&1));
        follow(flights.join(&1));
    }
}
