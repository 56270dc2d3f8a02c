//! A store's disk: objects of S3 kept on this machine's own disk, within a byte budget and above a floor of free space.
//!
//! It knows no HTTP: a key, metadata that means something to the caller only, and bytes. One object is one file, named
//! by the hash of its key, in one of 256 folders.
//!
//! - **Whole or nothing.** An object is written beside its place and renamed when it is whole. Its head, its metadata
//!   and every 64 KiB of its body have checksums that are verified at each read: what a crash or a bad disk left torn
//!   is removed, counted, and not served. Nothing is synced: [`writer`] says why.
//! - **Both bounds hold at any moment.** The whole cost of an object is taken from the budget before its first byte is
//!   written, and only after what had to go for it is gone ([`room`], [`shelf`]).
//! - **It never stands in the way.** Opening returns at once, and until the index is read objects are found by their
//!   name. Every fault of the disk is a miss or an object that is not kept, and is counted.
//! - **One process writes.** The folder is locked by whoever has it; the next one reads, and waits for its turn to write.
//!
//! Not `pingora-cache`: its storage must be `'static` for ever, its eviction knows names only and overshoots. Not
//! `foyer`: its disk tier is one large allocated device, which a lean disk has no room for.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod claims;
mod figures;
mod folder;
mod keeper;
mod layout;
mod memory;
mod meta;
mod name;
mod object;
mod purge;
mod room;
mod shelf;
mod writer;

#[cfg(test)]
mod tests;

use crate::quiet::Quiet;

pub use figures::Figures;
pub use folder::{Claim, claim, free};
pub use layout::{BLOCK, KEY_MAX};
pub use meta::{META_MAX, Meta};
pub use object::Object;
pub use shelf::PENDING_PART as LARGEST_PART;
pub use writer::{Partial, Writer};

use claims::Claims;
use figures::Counters;
use folder::{Folder, Free};
use keeper::Stop;
use memory::Memory;
use name::{Name, SHARDS};
use object::Head;
use shelf::{Gone, Shelf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The store's own folder. Made if there is none; it must be empty or a store.
    pub path: PathBuf,
    /// Most bytes of disk, with what files and folders take beside their content. The folders take 1 MiB of it.
    pub bytes: u64,
    /// Bytes of the file system that stay free: the store shrinks when there are fewer.
    pub free_floor: u64,
    /// Most bytes of memory for small objects that are asked for again. 0: none.
    pub memory: u64,
    /// Objects with a longer body are not kept. Nor is one of more than a quarter of `bytes`.
    pub object_max: u64,
    /// Objects with a longer body do not get into memory.
    pub memory_object_max: u64,
}

pub struct Disk {
    settings: Settings,
    folder: Folder,
    shelf: RwLock<Shelf>,
    /// Held while room is made. Taken before a folder's lock, which is taken before the shelf's.
    gate: Mutex<()>,
    memory: Memory,
    claims: Arc<Claims>,
    counters: Counters,
    ready: AtomicBool,
    /// Objects that are out of the index and whose file could not be removed yet.
    stuck: Mutex<Vec<Gone>>,
    opened: Instant,
    /// Until when nothing is begun, in milliseconds since `opened`.
    pause: AtomicU64,
    /// When a failure was last logged as a warning, in milliseconds since `opened`.
    quiet: Quiet,
    id: AtomicU64,
    stop: Arc<Stop>,
}

/// How long nothing is begun after the disk failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a failing disk is warned of.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// What the folders take of the disk.
const FOLDERS: u64 = SHARDS as u64 * 4096;

impl Disk {
    /// Opens a folder, and returns before its index is read. Objects are found from the first moment on; new ones are
    /// admitted when [`Figures::ready`].
    ///
    /// # Errors
    /// When the folder cannot be made or read, or holds files and is no store.
    pub fn open(settings: Settings) -> io::Result<Arc<Disk>> {
        Disk::open_on(settings, Box::new(folder::free))
    }

    fn open_on(settings: Settings, free: Free) -> io::Result<Arc<Disk>> {
        let folder = Folder::open(settings.path.clone(), free)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let disk = Arc::new(Disk {
            folder,
            shelf: RwLock::new(Shelf::new(settings.bytes.saturating_sub(FOLDERS))),
            gate: Mutex::default(),
            memory: Memory::new(settings.memory, settings.memory_object_max),
            claims: Arc::default(),
            counters: Counters::default(),
            ready: AtomicBool::new(false),
            stuck: Mutex::default(),
            opened: Instant::now(),
            pause: AtomicU64::new(0),
            quiet: Quiet::for_each(WARN_EVERY),
            id: AtomicU64::new(u64::try_from(now.as_nanos()).unwrap_or_default()),
            stop: Arc::default(),
            settings,
        });
        let (weak, stop) = (Arc::downgrade(&disk), disk.stop.clone());
        std::thread::Builder::new().name("store".to_owned()).spawn(move || keeper::keep(&weak, &stop))?;
        Ok(disk)
    }

    /// Looks an object up. A small one is read whole here; of a larger one, what [`Object::read_at`] asks for.
    ///
    /// `None` when there is none, when it is not whole (it is removed), and when the disk fails.
    pub async fn get(self: &Arc<Self>, key: &str) -> Option<Object> {
        if self.claims.purging(key) {
            return None;
        }
        let name = Name::of(key);
        let found = self.shelf().find(name);
        if let Some(small) = self.memory.get(name, key) {
            return Some(small.into());
        }
        if found.is_none() && self.is_ready() {
            return None;
        }
        let (disk, key) = (self.clone(), key.to_owned());
        blocking(move || disk.open_object(name, &key)).await.ok()?
    }

    /// What is kept under `key`, with its body's length, if nobody had asked for it: it is as likely to go as before.
    pub async fn peek(self: &Arc<Self>, key: &str) -> Option<(Meta, u64)> {
        let name = Name::of(key);
        if self.claims.purging(key) || (self.is_ready() && self.shelf().peek(name).is_none()) {
            return None;
        }
        let (disk, key) = (self.clone(), key.to_owned());
        let read = move || {
            let file = disk.folder.open_kept(name, false).ok()?;
            let head = Head::read(&file, Some(&key), 0).ok()?;
            Some((head.slot.meta, head.layout.length))
        };
        blocking(read).await.ok()?
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn figures(&self) -> Figures {
        let (sums, index_bytes) = {
            let shelf = self.shelf();
            (shelf.sums(), shelf.memory() as u64)
        };
        let (memory_bytes, memory_objects) = self.memory.sums();
        let counters = &self.counters;
        Figures {
            ready: self.is_ready(),
            disk_bytes: FOLDERS + sums.kept + sums.pending + sums.gone,
            objects: sums.objects as u64,
            memory_bytes,
            memory_objects,
            index_bytes,
            evictions: counters.evictions.get(),
            write_errors: counters.write_errors.get(),
            read_errors: counters.read_errors.get(),
            corrupt: counters.corrupt.get(),
            foreign: counters.foreign.get(),
            leftovers: counters.leftovers.get(),
            refused_by_floor: counters.refused_by_floor.get(),
            refused_by_budget: counters.refused_by_budget.get(),
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn is_pausing(&self) -> bool {
        self.now() < self.pause.load(Ordering::Relaxed)
    }

    /// The disk did not do as it was told: it is left alone for a while.
    fn write_failed(&self, doing: &str, error: &io::Error) {
        self.counters.write_errors.add(1);
        self.pause.store(self.now() + millis(PAUSE), Ordering::Relaxed);
        let level = if self.quiet.is_over(Instant::now()) { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "disk: cannot {doing} in {}: {error}", self.settings.path.display());
    }

    fn now(&self) -> u64 {
        millis(self.opened.elapsed())
    }

    fn next_id(&self) -> u64 {
        self.id.fetch_add(1, Ordering::Relaxed)
    }

    fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf_mut(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs what blocks where that is no harm. It goes on to its end when this is dropped.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
