//! What a disk counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// The disk at one moment. Counts begin at 0 when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The index is complete: objects are admitted, and one that is not in it is not there.
    pub ready: bool,
    /// Bytes that the objects take of the disk, with those being written and those whose file could not be given back
    /// yet. At most the budget.
    pub disk_bytes: u64,
    pub objects: u64,
    /// Bytes of the memory tier. At most its budget.
    pub memory_bytes: u64,
    pub memory_objects: u64,
    /// Bytes of memory that the index of the disk takes.
    pub index_bytes: u64,
    /// Objects that were let go to make room.
    pub evictions: u64,
    /// Failed creations, writes, renames and removals.
    pub write_errors: u64,
    /// Failed opens and reads, but for files that are not there.
    pub read_errors: u64,
    /// Files that were not whole or not what they should be, and are removed.
    pub corrupt: u64,
    /// Files that no store has made, and are removed.
    pub foreign: u64,
    /// Temporary files that an earlier process left, and are removed.
    pub leftovers: u64,
    /// Objects that were not admitted because of the file system's free floor.
    pub refused_by_floor: u64,
    /// Objects that were not admitted because of the budget or because too much was being written.
    pub refused_by_budget: u64,
}

#[derive(Default)]
pub struct Counters {
    pub evictions: Count,
    pub write_errors: Count,
    pub read_errors: Count,
    pub corrupt: Count,
    pub foreign: Count,
    pub leftovers: Count,
    pub refused_by_floor: Count,
    pub refused_by_budget: Count,
}

#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
