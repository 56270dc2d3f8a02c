//! Turns: the bound on loops through nodes that drop our headers *and* share a machine with us.
//!
//! A node that calls back without `Via` and `CDN-Loop` is known by its address (docs/decisions/0007-loops.md), unless that
//! address is this machine's own: then its calls look like any local client's. What tells them apart is
//! that a called-back request asks for the very path that we are asking the node for at this moment, and
//! that our question stays open until theirs is answered. So, for requests from this machine's addresses
//! only: one question per path and node at a time. A request takes a node that is not being asked for its
//! path, or waits for one. If each of its nodes has been asked for that path for [`PATIENCE`] and has not
//! said a word, then somebody is calling back, or is as good as hung; all nodes have been asked, and for a
//! while none is asked for that path again, by this request or by those that it came from.
//!
//! A question ends when the node's response head arrives, so two honest clients wait for each other no
//! longer than that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hop::TargetId;

/// How old a question must be to be taken for one that waits on itself. A loop lasts this long.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// How long a path that was found to loop is asked of no node: long enough for those requests to unwind
/// that the call-backs came from.
const REST: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Turns {
    paths: Mutex<HashMap<u64, Path>>,
    hasher: RandomState,
    ended: Notify,
}

#[derive(Default)]
struct Path {
    /// Oldest first.
    questions: Vec<Question>,
    next: u64,
    /// Until when no node is asked, and which one pointed back.
    resting: Option<(Instant, TargetId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    target: TargetId,
    serial: u64,
    since: Instant,
}

/// One open question, closed when dropped.
pub struct Turn {
    turns: Arc<Turns>,
    path: u64,
    question: Question,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A question ended, or another began.
    Changed,
    /// All of them are too old: this node, which was asked last, points back.
    PointsBack(TargetId),
}

impl Turns {
    /// The number under which a path is known here.
    pub fn path(&self, target: &[u8]) -> u64 {
        self.hasher.hash_one(target)
    }

    /// The node that was found to point back for this path a moment ago.
    pub fn resting(&self, path: u64) -> Option<TargetId> {
        let (until, target) = self.paths().get(&path)?.resting?;
        (Instant::now() < until).then_some(target)
    }

    /// Opens a question, unless the node is being asked it `most` times already.
    pub fn begin(self: &Arc<Self>, target: TargetId, path: u64, most: usize) -> Option<Turn> {
        let mut paths = self.paths();
        let entry = paths.entry(path).or_default();
        if entry.questions.iter().filter(|question| question.target == target).count() >= most {
            return None;
        }
        let question = Question { target, serial: entry.next, since: Instant::now() };
        entry.next += 1;
        entry.questions.push(question);
        Some(Turn { turns: self.clone(), path, question })
    }

    /// Waits for a change among the questions that these nodes are being asked about the path, or until all
    /// of them are older than [`PATIENCE`].
    pub async fn wait(&self, targets: &[TargetId], path: u64) -> Waited {
        let questions = || -> Vec<Question> {
            let paths = self.paths();
            let all = paths.get(&path).map(|path| path.questions.as_slice()).unwrap_or_default();
            all.iter().copied().filter(|question| targets.contains(&question.target)).collect()
        };
        let before = questions();
        let Some(youngest) = before.iter().map(|question| question.since).max() else { return Waited::Changed };
        let patience = tokio::time::sleep_until(youngest + PATIENCE);
        tokio::pin!(patience);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if questions() != before {
                return Waited::Changed;
            }
            tokio::select! {
                () = &mut ended => {}
                () = &mut patience => return self.rest(path, before[0].target),
            }
        }
    }

    fn rest(&self, path: u64, fallback: TargetId) -> Waited {
        let now = Instant::now();
        let mut paths = self.paths();
        paths.retain(|_, path| !path.questions.is_empty() || path.resting.is_some_and(|(until, _)| now < until));
        let entry = paths.entry(path).or_default();
        let latest = entry.questions.last().map_or(fallback, |question| question.target);
        entry.resting = Some((now + REST, latest));
        Waited::PointsBack(latest)
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<u64, Path>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The node that is being asked.
    pub fn target(&self) -> TargetId {
        self.question.target
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut paths = self.turns.paths();
        if let Some(entry) = paths.get_mut(&self.path) {
            entry.questions.retain(|question| *question != self.question);
            if entry.questions.is_empty() && entry.resting.is_none() {
                paths.remove(&self.path);
            }
        }
        drop(paths);
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
        let turns = Arc::new(Turns::default());
        let (cat, dog) = (turns.path(b"/cat"), turns.path(b"/dog"));
        let first = turns.begin(A, cat, 1).unwrap();
        assert!(turns.begin(A, cat, 1).is_none());
        assert!(turns.begin(A, cat, 2).is_some());
        let second = turns.begin(B, cat, 1).unwrap();
        assert!(turns.begin(A, dog, 1).is_some());
        let waited = tokio::join!(turns.wait(&[A, B], cat), async { drop(first) });
        assert_eq!(waited.0, Waited::Changed);
        drop(second);
        assert_eq!(turns.resting(cat), None);
        assert!(turns.paths().is_empty(), "nothing is kept of what has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_whose_nodes_keep_silent_is_rested() {
        let turns = Arc::new(Turns::default());
        let cat = turns.path(b"/cat");
        let first = turns.begin(A, cat, 1).unwrap();
        let second = turns.begin(B, cat, 1).unwrap();
        let began = Instant::now();
        assert_eq!(turns.wait(&[A, B], cat).await, Waited::PointsBack(B));
        assert_eq!(turns.wait(&[A], cat).await, Waited::PointsBack(B), "an old question is not waited for again");
        assert_eq!(began.elapsed(), PATIENCE);
        drop((first, second));
        assert_eq!(turns.resting(cat), Some(B), "those that the call-back came from must still unwind");
        tokio::time::advance(REST).await;
        assert_eq!(turns.resting(cat), None);
        // The next path that is rested clears what is over.
        let dog = turns.path(b"/dog");
        let _third = turns.begin(A, dog, 1).unwrap();
        assert_eq!(turns.wait(&[A], dog).await, Waited::PointsBack(A));
        assert_eq!(turns.paths().len(), 1);
    }
}
