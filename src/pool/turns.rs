//! Turns: the bound on loops through nodes that drop our headers *and* share a machine with us.
//!
//! A node that calls back without `Via` and `CDN-Loop` is told by its address (design §4), unless that
//! address is this machine's own: then its calls look like any local client's. What tells them apart is
//! that a called-back request asks for the very path that we are asking the node for at this moment, and
//! that our question stays open until theirs is answered. So, for requests from this machine's addresses
//! only: one question per path and node at a time. A request finds a node that is not being asked for its
//! path, or waits for one; if all its nodes stay busy with that path, each with the same question, for
//! [`PATIENCE`], then somebody is calling back, or as good as hung, and no node is asked.
//!
//! A question ends when the node's response head arrives, so two honest clients wait for each other no
//! longer than that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::hop::TargetId;

/// How long one question may block another. Twice the number of nodes on this machine times this must stay
/// below a second.
pub const PATIENCE: Duration = Duration::from_millis(150);

#[derive(Default)]
pub struct Turns {
    open: Mutex<HashMap<(TargetId, u64), u64>>,
    hasher: RandomState,
    next: std::sync::atomic::AtomicU64,
    ended: Notify,
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

    pub fn is_open(&self, target: TargetId, path: u64) -> bool {
        self.open().contains_key(&(target, path))
    }

    /// Opens a question, unless the node is being asked it already.
    pub fn begin(&self, target: TargetId, path: u64) -> Option<Turn<'_>> {
        let key = (target, path);
        let serial = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut open = self.open();
        if open.contains_key(&key) {
            return None;
        }
        open.insert(key, serial);
        Some(Turn { turns: self, key, serial })
    }

    /// Waits until one of these nodes is no longer being asked this path. False when not one of the
    /// questions that were open changed for [`PATIENCE`].
    pub async fn wait(&self, targets: &[TargetId], path: u64) -> bool {
        let holders = || -> Vec<Option<u64>> {
            let open = self.open();
            targets.iter().map(|target| open.get(&(*target, path)).copied()).collect()
        };
        let before = holders();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if holders() != before {
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
        targets
            .iter()
            .copied()
            .filter_map(|target| Some((open.get(&(target, path))?, target)))
            .max()
            .map(|(_, target)| target)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<(TargetId, u64), u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut open = self.turns.open();
        if open.get(&self.key) == Some(&self.serial) {
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

        assert!(!turns.wait(&[A, B], cat).await, "nobody yields: somebody calls back");
        let (waited, ()) = tokio::join!(turns.wait(&[A, B], cat), async { drop(first) });
        assert!(waited);
        assert!(!turns.is_open(A, cat));
        drop(second);
        assert!(turns.begin(B, cat).is_some());
    }
}
