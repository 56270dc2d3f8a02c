//! Who can be asked, and who has been: the words that make an endless loop impossible to write down.

/// One thing that can be asked for a file: a node of a pool, or a store.
///
/// Numbered over the whole configuration, so that a node that two pools of one plan share is still one
/// target, and is asked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u32);

/// The exact set of targets that one request has tried. It only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    /// Targets 0 to 63, which is all of them for nearly everyone: no allocation per request.
    low: u64,
    high: Vec<u64>,
}

impl Visited {
    /// Marks `target`; false if it had been marked before.
    #[must_use]
    pub fn insert(&mut self, target: TargetId) -> bool {
        let (word, bit) = self.word(target);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.iter().all(|word| *word == 0)
    }

    pub fn contains(&self, target: TargetId) -> bool {
        let (index, bit) = Self::place(target);
        let word = if index == 0 { self.low } else { self.high.get(index - 1).copied().unwrap_or(0) };
        word & bit != 0
    }

    fn word(&mut self, target: TargetId) -> (&mut u64, u64) {
        let (index, bit) = Self::place(target);
        if index == 0 {
            return (&mut self.low, bit);
        }
        if self.high.len() < index {
            self.high.resize(index, 0);
        }
        (&mut self.high[index - 1], bit)
    }

    fn place(target: TargetId) -> (usize, u64) {
        ((target.0 / 64) as usize, 1 << (target.0 % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn visited_is_a_set(targets in proptest::collection::vec(0u32..500, 0..200)) {
            let mut visited = Visited::default();
            let mut model = HashSet::new();
            for target in targets {
                prop_assert_eq!(visited.contains(TargetId(target)), model.contains(&target));
                prop_assert_eq!(visited.insert(TargetId(target)), model.insert(target));
                prop_assert!(visited.contains(TargetId(target)));
            }
        }
    }
}
