//! The location map as bytes, to outlive a restart.
//!
//! Magic and version, the hash key, the names of the targets, the entries, and a checksum over all of it. A
//! file that is torn, foreign or of another version is no file: the map starts empty. Targets are matched by
//! name, so a change of the pool's nodes costs only the marks of those that are gone.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Map, Mark, Marks, TARGETS, UnixTime};
use crate::hop::TargetId;

const MAGIC: &[u8; 8] = b"hopfall2";

/// Why bytes are no location map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is not a location map of this version")]
    Foreign,
    #[error("it is torn: its checksum does not fit")]
    Torn,
}

impl Map {
    /// The map as bytes. `targets` are the names by which a later process may know them again.
    pub fn save(&self, targets: &[String]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 16 * self.len());
        bytes.extend_from_slice(MAGIC);
        for number in [self.key.0, self.key.1, targets.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for name in targets {
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        for (hash, value) in self.entries() {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Takes in the entries of saved bytes that are not too old, and their key. Gives how many there were.
    ///
    /// # Errors
    /// [`Unreadable`], and the map is as it was.
    pub fn restore(&mut self, bytes: &[u8], targets: &[String], now: UnixTime) -> Result<usize, Unreadable> {
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(Unreadable::Foreign)?;
        let mut rest = body.strip_prefix(MAGIC).ok_or(Unreadable::Foreign)?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return Err(Unreadable::Torn);
        }
        let key = (number(&mut rest)?, number(&mut rest)?);
        let count = number(&mut rest)?;
        let mut names = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(number(&mut rest)?).map_err(|_| Unreadable::Torn)?;
            let (name, after) = rest.split_at_checked(length).ok_or(Unreadable::Torn)?;
            names.push(String::from_utf8_lossy(name).into_owned());
            rest = after;
        }
        self.clear();
        self.key = key;
        let same = names == targets;
        let moved = moves(&names, targets);
        let mut restored = 0;
        while !rest.is_empty() {
            let (hash, value) = (number(&mut rest)?, number(&mut rest)?);
            if super::age(value, now) > self.ttl {
                continue;
            }
            let value = if same { value } else { translated(value, &moved) };
            self.put(hash, value, now, None);
            restored += 1;
        }
        Ok(restored)
    }
}

/// Where each target that was is now.
pub(super) fn moves(was: &[String], are: &[String]) -> Vec<Option<usize>> {
    was.iter().map(|name| are.iter().position(|now| now == name)).collect()
}

/// Marks with the targets where they are now. "Nowhere" was said of other sources, and goes.
pub(super) fn translated(value: u64, moved: &[Option<usize>]) -> u64 {
    let before = Marks(value & super::MARKS);
    let mut after = Marks::default();
    for (old, new) in moved.iter().enumerate().take(TARGETS as usize) {
        let (Ok(old), Some(Ok(new))) = (u32::try_from(old), new.map(u32::try_from)) else { continue };
        let mark = before.of(TargetId(old));
        if mark != Mark::Unknown && new < TARGETS {
            after = after.with(TargetId(new), mark);
        }
    }
    after.0 | (value >> super::TIME_SHIFT) << super::TIME_SHIFT
}

fn number(bytes: &mut &[u8]) -> Result<u64, Unreadable> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(Unreadable::Torn)?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*number))
}

/// Against tearing, not against forgery.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: UnixTime = 1_800_000_000;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn learned() -> Map {
        let map = Map::new(100, 3600, 30, 0, (1, 2));
        let cat = map.path("r", b"h", b"/cat.jpg");
        map.learn(cat, TargetId(0), false, T0);
        map.learn(cat, TargetId(1), true, T0);
        let none = map.path("r", b"h", b"/none.jpg");
        map.learn_nowhere(none, T0);
        map
    }

    #[test]
    fn a_map_outlives_its_process() {
        let bytes = learned().save(&names(&["a", "b"]));
        let mut map = Map::new(100, 3600, 30, 0, (3, 4));
        assert_eq!(map.restore(&bytes, &names(&["a", "b"]), T0 + 10), Ok(2));
        let marks = map.look(map.path("r", b"h", b"/cat.jpg"), b"", T0 + 10).unwrap();
        assert_eq!((marks.of(TargetId(0)), marks.of(TargetId(1))), (Mark::Lacks, Mark::Has));
        assert!(map.look(map.path("r", b"h", b"/none.jpg"), b"", T0 + 10).unwrap().nowhere());
        assert_eq!(map.look(map.path("r", b"h", b"/cat.jpg"), b"", T0 + 7200), None, "it goes on growing old");
    }

    #[test]
    fn a_change_of_nodes_costs_only_what_it_must() {
        let bytes = learned().save(&names(&["a", "b"]));
        let mut map = Map::new(100, 3600, 30, 0, (3, 4));
        assert_eq!(map.restore(&bytes, &names(&["new", "x", "b"]), T0), Ok(2));
        let marks = map.look(map.path("r", b"h", b"/cat.jpg"), b"", T0).unwrap();
        let all: Vec<Mark> = (0..3).map(|target| marks.of(TargetId(target))).collect();
        assert_eq!(all, [Mark::Unknown, Mark::Unknown, Mark::Has]);
        assert!(!map.look(map.path("r", b"h", b"/none.jpg"), b"", T0).unwrap().nowhere(), "the new one was not asked");
    }

    #[test]
    fn a_torn_or_foreign_file_is_no_file() {
        let bytes = learned().save(&names(&["a", "b"]));
        let mut map = Map::new(100, 3600, 30, 0, (3, 4));
        for end in 0..bytes.len() {
            assert!(map.restore(&bytes[..end], &names(&["a", "b"]), T0).is_err(), "cut at {end}");
        }
        for at in 8..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_eq!(map.restore(&flipped, &names(&["a", "b"]), T0), Err(Unreadable::Torn), "flipped at {at}");
        }
        assert_eq!(map.restore(b"something else entirely", &[], T0), Err(Unreadable::Foreign));
        assert!(map.is_empty());
        assert_eq!(map.restore(&bytes, &names(&["a", "b"]), T0 + 3601), Ok(0), "all of it is too old");
    }
}
