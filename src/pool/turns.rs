//! Turns: the bound on loops through nodes that drop our headers *and* share a machine with us.
//!
//! A node that calls back without `Via` and `CDN-Loop` is told by its address (design §4), unless that
//! address is this machine's own: then its calls look like any local client's. What tells them apart is
//! that a called-back request asks for the very path that we are asking the node for at this moment, and
//! that our question stays open until theirs is answered. So, for requests from this machine's addresses
//! only: one question per path and node at a time. A request takes a node that is not being asked for its
//! path, or waits for one. If each of its nodes has been asked for that path for [`PATIENCE`] and has not
//! said a word, then somebody is calling back, or is as good as hung, and no node is asked.
//!
//! A question ends when the node's response head arrives, so two honest clients wait for each other no
//! longer than that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hop::TargetId;

/// How old a question must be to be taken for one that waits on itself. The number of nodes on this machine
/// times this is how long a loop lasts, and should stay below a second.
pub const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Default)]
pub struct Turns {
    open: Mutex<HashMap<(TargetId, u64), Question>>,
    hasher: RandomState,
    next: AtomicU64,
    ended: Notify,
}

/// Questions are told apart by number, and later ones have greater numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    serial: u64,
    since: Instant,
}

/// One open question, closed when dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    key: (TargetId, u64),
    serial: u64,
}

impl Turns {
    /// The number under which a path is known here.
    pub fn path(&self, target: &[u8]) -> u64 {
        self.hasher.hash_one(target)
    }

    /// Opens a question, unless the node is being asked it already.
    pub fn begin(&self, target: TargetId, path: u64) -> Option<Turn<'_>> {
        let key = (target, path);
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open();
        if open.contains_key(&key) {
            return None;
        }
        open.insert(key, Question { serial, since: Instant::now() });
        Some(Turn { turns: self, key, serial })
    }

    /// Waits until one of these nodes, all of which are being asked this path, no longer is, or is asked by
    /// somebody else. False when all of those questions have grown older than [`PATIENCE`] instead.
    pub async fn wait(&self, targets: &[TargetId], path: u64) -> bool {
        let questions = || -> Option<Vec<Question>> {
            let open = self.open();
            targets.iter().map(|target| open.get(&(*target, path)).copied()).collect()
        };
        let Some(before) = questions() else { return true };
        let Some(youngest) = before.iter().map(|question| question.since).max() else { return true };
        let patience = tokio::time::sleep_until(youngest + PATIENCE);
        tokio::pin!(patience);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if questions().as_ref() != Some(&before) {
                return true;
            }
            tokio::select! {
                () = &mut ended => {}
                () = &mut patience => return false,
            }
        }
    }

    /// The node among `targets` that was asked this path last: the one that points back.
    pub fn latest(&self, targets: &[TargetId], path: u64) -> Option<TargetId> {
        let open = self.open();
        let asked = |target: TargetId| Some((open.get(&(target, path))?.serial, target));
        targets.iter().copied().filter_map(asked).max().map(|(_, target)| target)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<(TargetId, u64), Question>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The node that is being asked.
    pub fn target(&self) -> TargetId {
        self.key.0
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut open = self.turns.open();
        if open.get(&self.key).is_some_and(|question| question.serial == self.serial) {
            open.remove(&self.key);
        }
        drop(open);
        self.turns.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(1);

    #[tokio::test(start_paused = true)]
    async fn one_question_per_path_and_node() {
        let turns = Turns::default();
        let (cat, dog) = (turns.path(b"/cat"), turns.path(b"/dog"));
        let first = turns.begin(A, cat).unwrap();
        assert!(turns.begin(A, cat).is_none());
        let second = turns.begin(B, cat).unwrap();
        assert!(turns.begin(A, dog).is_some());
        assert_eq!(turns.latest(&[A, B], cat), Some(B));

        let began = Instant::now();
        assert!(!turns.wait(&[A, B], cat).await, "nobody yields: somebody calls back");
        assert!(!turns.wait(&[A], cat).await, "an old question is not waited for again");
        assert_eq!(began.elapsed(), PATIENCE);
        drop(second);
        let second = turns.begin(B, cat).unwrap();
        let (waited, ()) = tokio::join!(turns.wait(&[A, B], cat), async { drop(first) });
        assert!(waited);
        assert!(turns.begin(A, cat).is_some());
        drop(second);
        assert!(turns.begin(B, cat).is_some());
    }
}
