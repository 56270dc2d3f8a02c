//! Room for a new object: taken before its first byte is written, and only when what had to go for it is gone.

use std::io;
use std::sync::PoisonError;

use super::Disk;
use super::name::Name;
use super::shelf::{Full, Gone};

/// How often it is tried to make room for one object: readers may hold open what went.
const ROUNDS: usize = 3;

impl Disk {
    /// Takes room for a pending object. `false`, and counted, when there is none. Blocks.
    pub(super) fn admit(&self, name: Name, cost: u64) -> bool {
        match self.try_admit(name, cost) {
            Ok(admitted) => admitted,
            Err(error) => {
                self.write_failed("ask for free space", &error);
                false
            }
        }
    }

    fn try_admit(&self, name: Name, cost: u64) -> io::Result<bool> {
        // One at a time: nobody takes the room that another has just made, or counts the same free bytes.
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        for round in 0..=ROUNDS {
            let spare = self.spare()?;
            let mut shelf = self.shelf_mut();
            let room = shelf.room(spare);
            let gone = match shelf.reserve(name, cost, room) {
                Ok(true) => return Ok(true),
                Ok(false) if round < ROUNDS => shelf.make_room(cost, room),
                Err(Full::Pending | Full::Taken) => {
                    self.counters.refused_by_budget.add(1);
                    return Ok(false);
                }
                Ok(false) | Err(Full::Room) => Vec::new(),
            };
            drop(shelf);
            if gone.is_empty() {
                let by_floor = u64::try_from(spare).is_ok_and(|spare| spare >= cost);
                let counter = if by_floor { &self.counters.refused_by_budget } else { &self.counters.refused_by_floor };
                counter.add(1);
                return Ok(false);
            }
            self.counters.evictions.add(gone.len());
            self.discard(gone);
        }
        Ok(false)
    }

    /// Lets objects go while the file system has less free than its floor, and tries again to remove files that could
    /// not be. Blocks.
    pub(super) fn tend(&self) {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = std::mem::take(&mut *self.stuck.lock().unwrap_or_else(PoisonError::into_inner));
        self.discard(stuck);
        let Ok(spare) = self.spare() else { return };
        if spare < 0 {
            let mut shelf = self.shelf_mut();
            let room = shelf.room(spare);
            let gone = shelf.make_room(0, room);
            drop(shelf);
            self.counters.evictions.add(gone.len());
            self.discard(gone);
        }
    }

    /// Free bytes above the floor that nobody has been promised; below zero when the floor is not held.
    fn spare(&self) -> io::Result<i64> {
        // Read first: what is written between the two is counted twice, and not missed.
        let unwritten = self.shelf().unwritten();
        let free = self.folder.free()?;
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(signed(free).saturating_sub(signed(unwritten)).saturating_sub(signed(self.settings.free_floor)))
    }

    /// Removes the files of objects that are out of the index. Blocks.
    pub(super) fn discard(&self, gone: Vec<Gone>) {
        for gone in gone {
            let _lock = self.folder.lock(gone.name);
            // A newer one has been put in its place, and its file went with that.
            let replaced = self.shelf().peek(gone.name).is_some();
            self.give_back(gone, if replaced { Ok(true) } else { self.folder.remove_kept(gone.name) });
        }
    }

    /// Settles what came of removing a file.
    pub(super) fn give_back(&self, gone: Gone, removed: io::Result<bool>) {
        match removed {
            Ok(_) => self.shelf_mut().removed(gone),
            Err(error) => {
                self.write_failed("remove an object", &error);
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push(gone);
            }
        }
    }
}
