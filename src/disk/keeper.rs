//! The disk's own thread: it waits until the folder is this process's, reads the index, and then keeps the free floor.

use std::cmp::Reverse;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::Disk;
use super::folder::remove;
use super::layout::cost;
use super::name::{SHARDS, Sort};

/// How often it is tried to lock the folder that another process still has: one that is ending, most often.
const OWN_EVERY: Duration = Duration::from_millis(250);
/// How often free space is looked at when nothing is being kept.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// Tells the thread that the disk is closed.
#[derive(Default)]
pub struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    pub fn stop(&self) {
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn wait(&self, time: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(lock, time, |()| !self.is_stopped()));
    }
}

/// The thread's whole life.
pub fn keep(disk: &Weak<Disk>, stop: &Arc<Stop>) {
    let mut owned = false;
    while let Some(disk) = disk.upgrade()
        && !stop.is_stopped()
    {
        if owned {
            disk.tend();
        } else {
            owned = disk.own(stop);
        }
        drop(disk);
        stop.wait(if owned { TEND_EVERY } else { OWN_EVERY });
    }
}

impl Disk {
    /// Locks the folder and reads the index. `false` while that is not possible.
    fn own(&self, stop: &Stop) -> bool {
        match self.folder.own() {
            Ok(true) => {
                self.load(stop);
                self.ready.store(!stop.is_stopped(), Ordering::Release);
                true
            }
            Ok(false) => false,
            Err(error) => {
                if self.counters.write_errors.get() == 0 {
                    self.write_failed("lock the folder", &error);
                }
                false
            }
        }
    }

    /// Files are not opened here: what is not whole is found when it is asked for. The latest to be written or
    /// refreshed come first: the policy holds what it gets while it has room for the most precious.
    fn load(&self, stop: &Stop) {
        let mut found = Vec::new();
        for shard in (0..SHARDS).take_while(|_| !stop.is_stopped()) {
            let files = self.folder.files(shard).unwrap_or_else(|error| {
                self.counters.read_errors.add(1);
                log::warn!("disk: cannot read folder {shard:02x}: {error}");
                Vec::new()
            });
            for (sort, entry) in files {
                let counter = match sort {
                    Sort::Kept(name) => {
                        match entry.metadata() {
                            Ok(file) => found.push(((file.mtime(), file.mtime_nsec()), cost(file.len()), name)),
                            Err(_) => self.counters.read_errors.add(1),
                        }
                        continue;
                    }
                    Sort::Temporary => &self.counters.leftovers,
                    Sort::Foreign => &self.counters.foreign,
                };
                match remove(&entry.path()) {
                    Ok(_) => counter.add(1),
                    Err(error) => self.write_failed("remove a file that is no object", &error),
                }
            }
        }
        found.sort_unstable_by_key(|(written, ..)| Reverse(*written));
        for (_, cost, name) in found {
            let gone = self.shelf_mut().load(name, cost);
            self.counters.evictions.add(gone.len());
            self.discard(gone);
        }
    }
}
