//! The location map: who had a path last time. Bounded, in memory, learned from every attempt.
//!
//! It chooses whom to ask first and never what to answer: a wrong hint costs one extra hop. The one
//! exception is "nowhere", which answers 404 for a short time, and only when every source of the plan truly
//! answered "absent" in one walk.
//!
//! A path is known by a keyed 64-bit hash alone. In a full map of a million entries, a path that was never
//! seen finds another one's entry with odds of 4 / 2^46, which is 6 in 10^14; the key is secret, so nobody
//! can look for such a pair. An entry is 16 bytes, in sets of four, without a lock: both words are atomic,
//! and the first is kept XORed with the second, so that a torn pair is seen as no entry at all.

pub mod file;

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use siphasher::sip::SipHasher13;

use crate::hop::TargetId;

/// Seconds since the Unix epoch. The map has no clock of its own.
pub type UnixTime = u64;

/// The map of one configuration.
pub struct Map {
    sets: Vec<Set>,
    key: (u64, u64),
    ttl: u64,
    absent_ttl: u64,
    /// Thousandths of all paths that ignore their hints, so that the gain can be measured.
    control: u64,
    /// Slots in use, counted as they are filled.
    used: AtomicUsize,
    /// What was purged, and when. Entries have no names, so it is compared when a path is looked up.
    purges: RwLock<Vec<Purge>>,
}

/// Paths whose entries are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Purge {
    path: Vec<u8>,
    /// Whether all paths that begin so are meant.
    prefix: bool,
    at: UnixTime,
}

/// Purges kept at a time. One more, and the whole map is forgotten instead.
const PURGES: usize = 256;

/// Four entries, one cache line.
#[derive(Default)]
#[repr(align(64))]
struct Set([Slot; WAYS]);

#[derive(Default)]
struct Slot {
    /// The path's hash, XORed with `value`.
    tag: AtomicU64,
    value: AtomicU64,
}

const WAYS: usize = 4;

/// A path's number in this map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathId(u64);

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u64);

/// One target's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Has,
    Unknown,
    Lacks,
}

/// Targets beyond this are not remembered, and are asked as if nothing was known of them.
pub const TARGETS: u32 = 16;
const NOWHERE: u64 = 1 << (2 * TARGETS);
const MARKS: u64 = NOWHERE - 1;
/// Neither marks nor "nowhere": the path was forgotten.
const FORGOTTEN: u64 = 0;
/// Above it is the second in which an entry was written: 31 bits, so that no entry comes to look young again.
const TIME_SHIFT: u32 = 2 * TARGETS + 1;

impl Map {
    /// A map with room for about `entries` paths. `ttl` bounds marks, `absent_ttl` "nowhere", in seconds; at 0, nothing is
    /// "nowhere". `control` is in thousandths.
    pub fn new(entries: usize, ttl: u64, absent_ttl: u64, control: u64, key: (u64, u64)) -> Self {
        let count = entries.div_ceil(WAYS).next_power_of_two();
        let sets = std::iter::repeat_with(Set::default).take(count).collect();
        Map { sets, key, ttl, absent_ttl, control, used: AtomicUsize::new(0), purges: RwLock::default() }
    }

    /// A map as this one is but for its bounds, with what it knows. `was` and `are` name the targets by number, as this
    /// map has them and as the new one is to have them: what was said of targets that are gone goes.
    pub fn carried_to(
        &self,
        (entries, ttl, absent_ttl, control): (usize, u64, u64, u64),
        was: &[String],
        are: &[String],
        now: UnixTime,
    ) -> Map {
        let map = Map::new(entries, ttl, absent_ttl, control, self.key);
        let moved = file::moves(was, are);
        for (hash, value) in self.entries().filter(|(_, value)| age(*value, now) <= ttl) {
            map.put(hash, file::translated(value, &moved), now, None);
        }
        let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner).clone();
        *map.purges.write().unwrap_or_else(PoisonError::into_inner) = purges;
        map
    }

    /// The number of a path under a route and a host. The query is not part of it: these are files.
    pub fn path(&self, route: &str, host: &[u8], target: &[u8]) -> PathId {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        for part in [route.as_bytes(), path] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        host.iter().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        // 0 is an empty slot's.
        PathId(hasher.finish().max(1))
    }

    /// Whether this path ignores its hints, to be compared with the others.
    pub fn is_control(&self, path: PathId) -> bool {
        // Bits that choose neither the set nor the slot.
        (path.0 >> 20) % 1000 < self.control
    }

    /// What is known of a path now, if anything. `target` is the request's, for what was purged.
    pub fn look(&self, path: PathId, target: &[u8], now: UnixTime) -> Option<Marks> {
        let value = self.slot(path)?.1;
        let age = age(value, now);
        if self.is_purged(target, now.saturating_sub(age), now) {
            return None;
        }
        let mut marks = Marks(value & (MARKS | NOWHERE));
        if age > self.absent_ttl {
            marks.0 &= !NOWHERE;
        }
        (age <= self.ttl).then_some(marks)
    }

    /// How many seconds ago something was learned of a path last.
    pub fn age(&self, path: PathId, now: UnixTime) -> Option<u64> {
        Some(age(self.slot(path)?.1, now))
    }

    /// Marks one target of a path. `now` is when it was looked for.
    pub fn learn(&self, path: PathId, target: TargetId, has: bool, now: UnixTime) {
        if target.0 >= TARGETS {
            return;
        }
        self.update(path, now, |marks| marks.with(target, if has { Mark::Has } else { Mark::Lacks }));
    }

    /// Marks that every source of a path answered "absent".
    pub fn learn_nowhere(&self, path: PathId, now: UnixTime) {
        if self.absent_ttl > 0 {
            self.update(path, now, |marks| Marks(marks.0 | NOWHERE));
        }
    }

    /// Forgets one path. What is learned of it by who began to look for it until now is not remembered either.
    pub fn forget(&self, path: PathId, now: UnixTime) {
        self.put(path.0, FORGOTTEN | stamp(now), now, self.slot(path).map(|(slot, _)| slot));
    }

    /// Forgets a path, under every route and host; with `prefix`, all that begin so.
    pub fn purge(&self, path: &[u8], prefix: bool, now: UnixTime) {
        let mut purges = self.purges.write().unwrap_or_else(PoisonError::into_inner);
        // A purge is over when all that it was about has grown too old by itself.
        purges.retain(|purge| now.saturating_sub(purge.at) <= self.ttl);
        if purges.len() >= PURGES {
            purges.clear();
            self.clear();
            return;
        }
        purges.push(Purge { path: path.to_vec(), prefix, at: now });
    }

    /// Whether what was learned of `target` at `learned` was purged since.
    fn is_purged(&self, target: &[u8], learned: UnixTime, now: UnixTime) -> bool {
        let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner);
        let path = || target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let meant = |purge: &Purge| if purge.prefix { path().starts_with(&purge.path) } else { path() == purge.path };
        // What was learned in the second of the purge may be from before it.
        purges.iter().any(|purge| learned <= purge.at && purge.at <= now && meant(purge))
    }

    pub fn clear(&self) {
        for slot in self.sets.iter().flat_map(|set| &set.0) {
            slot.tag.store(0, Ordering::Relaxed);
            slot.value.store(0, Ordering::Relaxed);
        }
        self.used.store(0, Ordering::Relaxed);
    }

    /// Entries in use: not exactly, where two requests fill one slot at the same moment.
    pub fn len(&self) -> usize {
        self.used.load(Ordering::Relaxed).min(self.sets.len() * WAYS)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.sets.iter().flat_map(|set| &set.0).filter_map(|slot| {
            let value = slot.value.load(Ordering::Relaxed);
            let hash = slot.tag.load(Ordering::Relaxed) ^ value;
            (hash != 0).then_some((hash, value))
        })
    }

    fn set(&self, hash: u64) -> &Set {
        // invariant: the count is a power of two, and the index is masked by it
        let index = usize::try_from(hash & (self.sets.len() as u64 - 1)).unwrap_or(0);
        &self.sets[index]
    }

    fn slot(&self, path: PathId) -> Option<(&Slot, u64)> {
        self.set(path.0).0.iter().find_map(|slot| {
            let value = slot.value.load(Ordering::Relaxed);
            (slot.tag.load(Ordering::Relaxed) ^ value == path.0).then_some((slot, value))
        })
    }

    fn update(&self, path: PathId, now: UnixTime, change: impl FnOnce(Marks) -> Marks) {
        let known = self.slot(path);
        if known.is_some_and(|(_, value)| self.is_outdated(value, now)) {
            return;
        }
        let before = known.map_or(Marks::default(), |(_, value)| {
            // What has grown too old is not carried on under a new time.
            Marks(if age(value, now) <= self.ttl { value & MARKS } else { FORGOTTEN })
        });
        self.put(path.0, change(before).0 | stamp(now), now, known.map(|(slot, _)| slot));
    }

    /// Whether who began to look at `now` has seen less than this entry tells.
    fn is_outdated(&self, value: u64, now: UnixTime) -> bool {
        match ahead(value, now) {
            // In the second in which it was forgotten, it may have been looked for before that.
            0 => value & (MARKS | NOWHERE) == FORGOTTEN,
            // Further ahead, the clock was set back.
            ahead => ahead <= self.ttl,
        }
    }

    fn put(&self, hash: u64, value: u64, now: UnixTime, known: Option<&Slot>) {
        let oldest = || {
            self.set(hash).0.iter().max_by_key(|slot| {
                let value = slot.value.load(Ordering::Relaxed);
                if slot.tag.load(Ordering::Relaxed) ^ value == 0 { u64::MAX } else { age(value, now) }
            })
        };
        if let Some(slot) = known.or_else(oldest) {
            let before = slot.tag.load(Ordering::Relaxed) ^ slot.value.load(Ordering::Relaxed);
            slot.tag.store(hash ^ value, Ordering::Relaxed);
            slot.value.store(value, Ordering::Relaxed);
            if before == 0 {
                self.used.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Marks {
    pub fn of(self, target: TargetId) -> Mark {
        if target.0 >= TARGETS {
            return Mark::Unknown;
        }
        match self.0 >> (2 * target.0) & 3 {
            1 => Mark::Has,
            2 => Mark::Lacks,
            _ => Mark::Unknown,
        }
    }

    /// Some target has it.
    pub fn somewhere(self) -> bool {
        (0..TARGETS).any(|target| self.of(TargetId(target)) == Mark::Has)
    }

    /// Every source answered "absent", a short time ago.
    pub fn nowhere(self) -> bool {
        self.0 & NOWHERE != 0
    }

    fn with(self, target: TargetId, mark: Mark) -> Marks {
        let bits = match mark {
            Mark::Has => 1,
            Mark::Unknown => 0,
            Mark::Lacks => 2,
        };
        // News of any target ends "nowhere".
        Marks(self.0 & !NOWHERE & !(3 << (2 * target.0)) | bits << (2 * target.0))
    }
}

fn stamp(now: UnixTime) -> u64 {
    now << TIME_SHIFT
}

/// Seconds since an entry was stamped. If the clock was set back meanwhile: very many.
fn age(value: u64, now: UnixTime) -> u64 {
    now.wrapping_sub(value >> TIME_SHIFT) & (u64::MAX >> TIME_SHIFT)
}

/// Seconds by which an entry was stamped later than `now`.
fn ahead(value: u64, now: UnixTime) -> u64 {
    (value >> TIME_SHIFT).wrapping_sub(now) & (u64::MAX >> TIME_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const T0: UnixTime = 1_800_000_000;
    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(TARGETS - 1);

    fn map(entries: usize) -> Map {
        Map::new(entries, 3600, 30, 0, (1, 2))
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Set>(), 64);
        assert_eq!(map(1_000_000).sets.len() * size_of::<Set>(), 16 << 20);
    }

    #[test]
    fn what_was_learned_is_known_until_it_is_old() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        assert_eq!(map.look(cat, b"", T0), None);
        map.learn(cat, A, false, T0);
        map.learn(cat, B, true, T0);
        let marks = map.look(cat, b"", T0 + 3600).unwrap();
        assert_eq!((marks.of(A), marks.of(B), marks.of(TargetId(1))), (Mark::Lacks, Mark::Has, Mark::Unknown));
        assert_eq!(map.look(cat, b"", T0 + 3601), None);
        map.learn(cat, A, true, T0 + 7200);
        assert_eq!(map.look(cat, b"", T0 + 7200).unwrap().of(B), Mark::Unknown, "old marks are not carried on");
    }

    #[test]
    fn what_is_purged_is_forgotten_until_it_is_learned_anew() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/img/cat.jpg");
        map.learn(cat, A, true, T0);
        let look = |now| map.look(cat, b"/img/cat.jpg?x", now).is_some();
        map.purge(b"/img/dog.jpg", false, T0 + 4);
        map.purge(b"/other/", true, T0 + 4);
        assert!(look(T0 + 4));
        map.purge(b"/img/cat.jpg", false, T0 + 8);
        assert!(!look(T0 + 8));
        map.learn(cat, A, true, T0 + 8);
        assert!(!look(T0 + 8), "it may have been learned before the purge");
        map.learn(cat, A, true, T0 + 9);
        assert!(look(T0 + 9));
        map.purge(b"/img/", true, T0 + 16);
        assert!(!look(T0 + 16));
        map.learn(cat, A, true, T0 + 100);
        assert!(look(T0 + 100));
        for i in 0..300 {
            map.purge(format!("/{i}").as_bytes(), false, T0 + 200);
        }
        assert!(map.is_empty(), "too many purges forget everything");
    }

    #[test]
    fn nowhere_is_short_and_ends_with_any_news() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.learn(cat, A, false, T0);
        assert!(!map.look(cat, b"", T0).unwrap().nowhere());
        map.learn_nowhere(cat, T0);
        assert!(map.look(cat, b"", T0 + 30).unwrap().nowhere());
        assert!(!map.look(cat, b"", T0 + 31).unwrap().nowhere());
        assert_eq!(map.look(cat, b"", T0 + 31).unwrap().of(A), Mark::Lacks, "the mark lives on");
        map.learn_nowhere(cat, T0);
        map.learn(cat, B, true, T0);
        assert!(!map.look(cat, b"", T0).unwrap().nowhere());
    }

    #[test]
    fn what_was_looked_for_before_it_was_forgotten_is_not_learned() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.learn_nowhere(cat, T0);
        map.forget(cat, T0 + 5);
        map.learn(cat, A, false, T0 + 4);
        map.learn_nowhere(cat, T0 + 5);
        assert_eq!(map.look(cat, b"", T0 + 5).unwrap_or_default(), Marks::default());
        map.learn_nowhere(cat, T0 + 6);
        assert!(map.look(cat, b"", T0 + 6).unwrap().nowhere());
    }

    #[test]
    fn who_looked_before_others_does_not_unsay_what_they_have_learned() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.forget(cat, T0 + 5);
        map.learn(cat, B, false, T0 + 6);
        // It looked before the path was forgotten, and comes to an end after another one.
        map.learn(cat, A, false, T0 + 4);
        map.learn_nowhere(cat, T0 + 4);
        let marks = map.look(cat, b"", T0 + 7).unwrap();
        assert_eq!((marks.nowhere(), marks.of(A), marks.of(B)), (false, Mark::Unknown, Mark::Lacks));
    }

    #[test]
    fn an_entry_of_a_clock_that_was_ahead_gives_way() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.forget(cat, T0 + 3601);
        map.learn(cat, A, true, T0);
        assert_eq!(map.look(cat, b"", T0).unwrap().of(A), Mark::Has);
        let later = T0 + 20 * 365 * 86_400;
        map.forget(cat, later);
        map.learn(cat, A, true, later);
        assert_eq!(map.look(cat, b"", later).unwrap(), Marks::default(), "nor does it matter how late it is");
    }

    #[test]
    fn nothing_is_nowhere_for_no_time() {
        let map = Map::new(1000, 3600, 0, 0, (1, 2));
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.learn(cat, A, false, T0);
        map.learn_nowhere(cat, T0);
        assert!(!map.look(cat, b"", T0).unwrap().nowhere());
    }

    #[test]
    fn a_path_is_known_by_route_host_and_path() {
        let map = map(1000);
        let id = |route, host, target| map.path(route, host, target);
        let cat = id("r", b"h", b"/cat.jpg");
        assert_eq!(cat, id("r", b"H", b"/cat.jpg?v=2"));
        assert_ne!(cat, id("r", b"i", b"/cat.jpg"));
        assert_ne!(cat, id("s", b"h", b"/cat.jpg"));
        assert_ne!(id("r", b"ha", b"/"), id("r", b"h", b"a/"));
    }

    #[test]
    fn a_target_beyond_the_last_is_never_known() {
        let map = map(1000);
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.learn(cat, TargetId(TARGETS), true, T0);
        assert_eq!(map.look(cat, b"", T0), None);
    }

    #[test]
    fn the_oldest_of_a_full_set_gives_way() {
        let map = map(4);
        let paths: Vec<PathId> = (0..5).map(|i| map.path("r", b"h", format!("/{i}").as_bytes())).collect();
        for (i, path) in paths.iter().enumerate() {
            map.learn(*path, A, true, T0 + 10 * i as u64);
        }
        assert_eq!(map.look(paths[0], b"", T0 + 50), None);
        assert!(paths[1..].iter().all(|path| map.look(*path, b"", T0 + 50).is_some()));
        assert_eq!((map.len(), map.entries().count()), (4, 4));
    }

    #[test]
    fn the_control_group_has_its_share() {
        let map = Map::new(1000, 3600, 30, 10, (1, 2));
        let control = (0..100_000).filter(|i| map.is_control(map.path("r", b"h", format!("/{i}").as_bytes()))).count();
        assert!((800..1200).contains(&control), "{control} of 100000 at 1 %");
    }

    proptest! {
        /// In 60 years nothing that is old comes to look young.
        #[test]
        fn what_is_old_stays_old(later in 3601..60 * 365 * 86_400u64, earlier in 1..30 * 86_400u64) {
            let map = map(4);
            let cat = map.path("r", b"h", b"/cat.jpg");
            map.learn(cat, A, true, T0);
            map.learn_nowhere(cat, T0);
            prop_assert_eq!(map.look(cat, b"", T0 + later), None);
            prop_assert_eq!(map.look(cat, b"", T0 - earlier), None, "nor where the clock was set back");
        }

        /// Whatever is looked up is what was learned last of that path, or nothing.
        #[test]
        fn it_never_tells_of_one_path_what_was_learned_of_another(
            steps in proptest::collection::vec((0u8..60, 0u32..25, any::<bool>()), 0..400)
        ) {
            let map = map(16);
            let mut model: HashMap<(u8, u32), bool> = HashMap::new();
            for (i, (name, target, has)) in steps.into_iter().enumerate() {
                let path = map.path("r", b"h", &[b'/', name]);
                map.learn(path, TargetId(target), has, T0 + i as u64);
                if target < TARGETS {
                    model.insert((name, target), has);
                }
                for name in 0..60u8 {
                    let Some(marks) = map.look(map.path("r", b"h", &[b'/', name]), b"", T0 + i as u64) else { continue };
                    for target in 0..25 {
                        let known = marks.of(TargetId(target));
                        let expected = model.get(&(name, target));
                        prop_assert!(known == Mark::Unknown || Some(&(known == Mark::Has)) == expected);
                    }
                }
            }
        }
    }
}
