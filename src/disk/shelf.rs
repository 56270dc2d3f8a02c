//! What is on the disk, what it takes, and what has to go: the index and the accounts, without any I/O.
//!
//! Three sums make up what the objects take of the disk: **kept** objects; **pending** ones, whose whole cost is taken
//! before their first byte is written; and **gone** ones, which are out of the index and whose bytes are not back yet,
//! because the file is still to be removed, could not be, or is held open by a reader. Nothing is added that would
//! take their total above the budget. Only what is found at start can be above it, until it is removed and its
//! readers have ended.
//!
//! The policy is `quick_cache`'s, a Clock-PRO like S3-FIFO: what is asked for once passes through a small cold part
//! and leaves the hot part alone. docs/decisions has the measurement. A pending object is pinned, so that its place
//! in the policy is taken when its room is. The policy keeps to its capacity by itself; when there is less room than
//! that (bytes gone and not back, a disk that is full of other things), the difference is a pinned entry of that
//! weight: the ballast.

use std::collections::HashMap;

use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::name::Name;

/// At most this part of the budget is pending, so that a burst of new objects cannot empty the disk for bytes that
/// may never come. No single object may be larger.
pub const PENDING_PART: u64 = 4;
/// Bytes per object by which the number of names is chosen that are remembered after their object went.
const USUAL: u64 = 32 * 1024;
const UNIT: u64 = 1024;

/// Sums in bytes.
pub struct Shelf {
    cache: Cache<Name, Entry, Weigh, DefaultHashBuilder, Hooks>,
    capacity: u64,
    objects: usize,
    kept: u64,
    pending: u64,
    gone: u64,
    unwritten: u64,
    ballast: u64,
    serial: u64,
    /// How often metadata was refreshed in place.
    pub refreshed: u64,
    readers: HashMap<u64, Readers>,
}

/// Costs in [`UNIT`]s; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    serial: u64,
    kept: u32,
    pending: u32,
}

#[derive(Debug, Default)]
struct Readers {
    count: usize,
    /// What comes back when the last one ends.
    gone: u64,
}

/// An object that is out of the index, and whose file has to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Gone {
    pub name: Name,
    serial: u64,
    cost: u64,
}

/// What is on the shelf, in bytes and objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub objects: usize,
    pub kept: u64,
    pub pending: u64,
    pub gone: u64,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Too large, or too much is being written.
    Pending,
    /// Another writer has this name.
    Taken,
    /// Not even if all that may go would go.
    Room,
}

impl Shelf {
    pub fn new(budget: u64) -> Shelf {
        let capacity = (budget / UNIT).min(u64::from(u32::MAX)) * UNIT;
        let names = usize::try_from((budget / USUAL).clamp(1024, 1 << 24)).unwrap_or(1024);
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(names).weight_capacity(capacity / UNIT);
        // invariant: both of the values that have no default are set.
        let options = options.build().expect("complete options");
        let mut cache = Cache::with_options(options, Weigh, DefaultHashBuilder::default(), Hooks);
        // So heavy that it goes to the cold part, where it stays: in the hot part it would push out what is hot.
        cache.insert(Name::NOBODY, Entry { pending: units(capacity), ..Entry::default() });
        let mut shelf = Shelf {
            cache,
            capacity,
            objects: 0,
            kept: 0,
            pending: 0,
            gone: 0,
            unwritten: 0,
            ballast: 0,
            serial: 0,
            refreshed: 0,
            readers: HashMap::new(),
        };
        shelf.weigh_down(0);
        shelf
    }

    /// The serial number of the kept object of this name, which was just asked for.
    pub fn find(&self, name: Name) -> Option<u64> {
        self.cache.get(&name).filter(|entry| entry.kept > 0).map(|entry| entry.serial)
    }

    /// As [`Shelf::find`], but nobody asked for it.
    pub fn peek(&self, name: Name) -> Option<u64> {
        self.cache.peek(&name).filter(|entry| entry.kept > 0).map(|entry| entry.serial)
    }

    /// How many bytes kept and pending objects may take when the file system has so many to spare (below zero: to
    /// give back).
    pub fn room(&self, spare: i64) -> u64 {
        let taken = self.kept + self.pending;
        let grown = if spare < 0 {
            taken.saturating_sub(spare.unsigned_abs())
        } else {
            taken.saturating_add(spare.unsigned_abs())
        };
        self.capacity.saturating_sub(self.gone).min(grown)
    }

    /// Takes a pending object's cost. `false` when [`Shelf::make_room`] is to be called first.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn reserve(&mut self, name: Name, cost: u64, room: u64) -> Result<bool, Full> {
        if self.pending + cost > self.capacity / PENDING_PART {
            return Err(Full::Pending);
        }
        if self.cache.peek(&name).is_some_and(|entry| entry.pending > 0) {
            return Err(Full::Taken);
        }
        if self.pending + cost > room {
            return Err(Full::Room);
        }
        if self.kept + self.pending + cost > room {
            return Ok(false);
        }
        let mut evicted = self.weigh_down(self.capacity - room);
        debug_assert!(evicted.is_empty(), "there is room already");
        let pending = units(cost);
        if let Some(mut entry) = self.cache.peek_mut(&name) {
            entry.pending = pending;
        } else {
            self.cache.insert_with_lifecycle(name, Entry { pending, ..Entry::default() }, &mut evicted);
        }
        self.pending += cost;
        self.unwritten += cost;
        debug_assert!(evicted.is_empty(), "there is room already");
        Ok(true)
    }

    /// Lets objects go until this many bytes more fit into the room.
    pub fn make_room(&mut self, cost: u64, room: u64) -> Vec<Gone> {
        let evicted = self.weigh_down(self.capacity.saturating_sub(room).saturating_add(cost));
        self.let_go(evicted)
    }

    /// Bytes of pending objects that the file system does not know of yet.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// So many bytes of a pending object have been written.
    pub fn written(&mut self, bytes: u64) {
        self.unwritten = self.unwritten.saturating_sub(bytes);
    }

    /// The pending object has taken its place. `unwritten` is what was not reported of its cost. Gives the object
    /// whose file it replaced.
    pub fn commit(&mut self, name: Name, unwritten: u64) -> Option<Gone> {
        self.serial += 1;
        self.written(unwritten);
        let mut entry = self.cache.peek_mut(&name)?;
        let before = *entry;
        *entry = Entry { serial: self.serial, kept: before.pending, pending: 0 };
        drop(entry);
        self.pending -= bytes(before.pending);
        self.kept += bytes(before.pending);
        self.objects += 1;
        self.take_off(name, before)
    }

    /// The pending object will not come, and its bytes are back.
    pub fn abandon(&mut self, name: Name, unwritten: u64) {
        self.written(unwritten);
        let Some(mut entry) = self.cache.peek_mut(&name) else { return };
        self.pending -= bytes(entry.pending);
        entry.pending = 0;
        let empty = entry.kept == 0;
        drop(entry);
        if empty {
            self.cache.remove(&name);
        }
    }

    /// An object was found on the disk.
    pub fn load(&mut self, name: Name, cost: u64) -> Vec<Gone> {
        if self.cache.peek(&name).is_some() {
            return Vec::new();
        }
        self.serial += 1;
        self.objects += 1;
        self.kept += cost;
        let mut evicted = Evicted::default();
        let entry = Entry { serial: self.serial, kept: units(cost), pending: 0 };
        self.cache.insert_with_lifecycle(name, entry, &mut evicted);
        self.let_go(evicted)
    }

    /// Takes an object out of the index.
    pub fn remove(&mut self, name: Name) -> Option<Gone> {
        let mut entry = self.cache.peek_mut(&name)?;
        let before = *entry;
        *entry = Entry { serial: 0, kept: 0, pending: before.pending };
        drop(entry);
        if before.pending == 0 {
            self.cache.remove(&name);
        }
        self.take_off(name, before)
    }

    /// The file of an object that went is removed. Its bytes are back when no reader holds it open.
    pub fn removed(&mut self, gone: Gone) {
        match self.readers.get_mut(&gone.serial) {
            Some(readers) => readers.gone += gone.cost,
            None => self.gone -= gone.cost,
        }
    }

    /// A reader opens the file of the object of this serial number.
    pub fn begin_read(&mut self, serial: u64) {
        self.readers.entry(serial).or_default().count += 1;
    }

    pub fn end_read(&mut self, serial: u64) {
        let Some(readers) = self.readers.get_mut(&serial) else { return };
        readers.count -= 1;
        if readers.count == 0 {
            self.gone -= readers.gone;
            self.readers.remove(&serial);
        }
    }

    pub fn sums(&self) -> Sums {
        Sums { objects: self.objects, kept: self.kept, pending: self.pending, gone: self.gone }
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.cache.memory_used().total()
    }

    fn weigh_down(&mut self, ballast: u64) -> Evicted {
        let mut evicted = Evicted::default();
        let weight = units(ballast.next_multiple_of(UNIT));
        self.ballast = bytes(weight);
        // Soft: nobody asked for it. An insertion, or a replacement, is when the policy lets go what is too much.
        let entry = Entry { pending: weight, ..Entry::default() };
        let replaced = self.cache.replace_with_lifecycle(Name::NOBODY, entry, true, &mut evicted);
        debug_assert!(replaced.is_ok(), "the ballast is pinned or weighs nothing");
        evicted.retain(|(name, _)| *name != Name::NOBODY);
        evicted
    }

    fn let_go(&mut self, evicted: Evicted) -> Vec<Gone> {
        evicted.into_iter().filter_map(|(name, entry)| self.take_off(name, entry)).collect()
    }

    fn take_off(&mut self, name: Name, entry: Entry) -> Option<Gone> {
        let cost = bytes(entry.kept);
        (cost > 0).then(|| {
            self.objects -= 1;
            self.kept -= cost;
            self.gone += cost;
            Gone { name, serial: entry.serial, cost }
        })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT).unwrap_or(u32::MAX)
}

fn bytes(units: u32) -> u64 {
    u64::from(units) * UNIT
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Name, Entry> for Weigh {
    fn weight(&self, _: &Name, entry: &Entry) -> u64 {
        u64::from(entry.kept) + u64::from(entry.pending)
    }
}

#[derive(Clone)]
struct Hooks;

type Evicted = Vec<(Name, Entry)>;

impl Lifecycle<Name, Entry> for Hooks {
    type RequestState = Evicted;

    fn is_pinned(&self, _: &Name, entry: &Entry) -> bool {
        entry.pending > 0
    }

    fn on_evict(&self, evicted: &mut Evicted, name: Name, entry: Entry) {
        evicted.push((name, entry));
    }
}

#[cfg(test)]
mod tests;
