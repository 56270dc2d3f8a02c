//! An object that is being written: beside its place, under a promise of room, and in its place only when it is whole.
//!
//! Nothing is synced. After `kill -9` the kernel still has every byte that was written, and a rename comes after
//! them; after a power failure a renamed file may lack bytes, and then its checksums do not hold. A sync per object
//! would buy nothing but objects that S3 has anyway.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::claims::Claim;
use super::layout::{BLOCK, Layout, cost};
use super::meta::Meta;
use super::name::Name;
use super::object::Reading;
use super::{Disk, blocking};

/// Most bytes that are gathered before they are written; fewer when the disk is idle. A writer holds at most two such
/// pieces: one that is being filled, one on its way to the disk.
const PIECE: usize = 4 * BLOCK;

/// Dropped without [`Writer::commit`], nothing is kept.
pub struct Writer {
    place: Arc<Place>,
    piece: Vec<u8>,
    /// Bytes taken in.
    taken: u64,
    sums: Vec<u32>,
    flush: Option<JoinHandle<io::Result<Vec<u32>>>>,
    /// A write did not end well.
    failed: bool,
}

/// What is written so far of an object that is not whole yet, to be read meanwhile. What it has given stays readable
/// whatever becomes of the object.
#[derive(Clone)]
pub struct Partial {
    place: Arc<Place>,
    written: watch::Receiver<u64>,
}

/// Where the bytes go until they are whole.
struct Place {
    file: File,
    layout: Layout,
    promise: Promise,
    /// Bytes of the body that the file has.
    written: watch::Sender<u64>,
    /// From when the object is in its place: the file is held open still.
    reading: OnceLock<Reading>,
}

/// The room that was taken, given back when dropped, with what was written.
struct Promise {
    disk: Arc<Disk>,
    name: Name,
    /// What the file system does not know of yet.
    unwritten: AtomicU64,
    kept: AtomicBool,
    claim: Claim,
}

impl Disk {
    /// Begins to keep an object of `length` bytes. It takes the place of the one of this key when it is committed.
    ///
    /// `None` when it is not to be kept: it is too large, the key is being written or purged, there is no room within
    /// the budget or above the free floor, the index is not ready, or the disk failed within the last second.
    pub async fn begin(self: &Arc<Self>, key: &str, meta: &Meta, length: u64) -> Option<Writer> {
        if length > self.settings.object_max || !self.is_ready() || self.is_pausing() {
            return None;
        }
        let (name, meta) = (Name::of(key), meta.encode()?);
        let layout = Layout::new(key, &meta, length, self.next_id())?;
        let claim = self.claims.begin(name, key)?;
        let (disk, key) = (self.clone(), key.to_owned());
        let place = blocking(move || {
            let unwritten = cost(layout.total());
            disk.admit(name, unwritten).then(|| {
                let promise = Promise { disk, name, unwritten: unwritten.into(), kept: AtomicBool::new(false), claim };
                Place::create(promise, layout, &key, &meta)
            })
        });
        let place = Arc::new(place.await.ok()??.ok()?);
        let piece = Vec::with_capacity(PIECE.min(usize::try_from(length).unwrap_or(PIECE)));
        Some(Writer { place, piece, taken: 0, sums: Vec::new(), flush: None, failed: false })
    }
}

impl Writer {
    /// Takes bytes in. It waits for the disk only while an earlier piece is still on its way there.
    ///
    /// # Errors
    /// When the disk fails, or there are more bytes than were announced. After that, or when the call was not awaited
    /// to its end, nothing can be kept.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if mem::replace(&mut self.failed, true) {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.taken += bytes.len() as u64;
        if self.taken > self.place.layout.length {
            return Err(io::Error::new(ErrorKind::InvalidInput, "more bytes than were announced"));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            let idle = self.flush.as_ref().is_none_or(JoinHandle::is_finished);
            if self.piece.len() == PIECE || (idle && self.piece.len() >= BLOCK) {
                self.flushed().await?;
                let at = self.taken - (bytes.len() + self.piece.len()) as u64;
                // Whole blocks only: each has one checksum.
                let rest = self.piece.split_off(self.piece.len() / BLOCK * BLOCK);
                let mut next = Vec::with_capacity(PIECE);
                next.extend_from_slice(&rest);
                let (place, piece) = (self.place.clone(), mem::replace(&mut self.piece, next));
                self.flush = Some(tokio::task::spawn_blocking(move || place.write(&piece, at)));
            }
        }
        self.failed = false;
        Ok(())
    }

    /// The object as far as it is written.
    pub fn partial(&self) -> Partial {
        Partial { place: self.place.clone(), written: self.place.written.subscribe() }
    }

    /// Puts the object into its place. From here on it is found.
    ///
    /// # Errors
    /// When bytes are missing, the disk fails, or the key was purged meanwhile. Then nothing is kept.
    pub async fn commit(mut self) -> io::Result<()> {
        let length = self.place.layout.length;
        if self.failed || self.taken != length {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{} of {length} bytes came", self.taken)));
        }
        self.flushed().await?;
        let (place, piece, mut sums) = (self.place.clone(), mem::take(&mut self.piece), mem::take(&mut self.sums));
        blocking(move || {
            sums.extend(place.write(&piece, length - piece.len() as u64)?);
            place.write_at(&place.layout.table(&sums), place.layout.table_at())?;
            place.keep()
        })
        .await?
    }

    async fn flushed(&mut self) -> io::Result<()> {
        if let Some(flush) = &mut self.flush {
            let sums = flush.await.map_err(io::Error::other)?;
            self.flush = None;
            self.sums.extend(sums?);
        }
        Ok(())
    }
}

impl Partial {
    /// Bytes of the body that can be read.
    pub fn written(&self) -> u64 {
        *self.written.borrow()
    }

    /// Waits until [`Partial::written`] has changed.
    pub async fn grown(&mut self) {
        // The sender is in the place, which is held here.
        let _ = self.written.changed().await;
    }

    /// Bytes from `offset` on, at most `most`; none where nothing is written yet.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn read_at(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let there = usize::try_from(self.written().saturating_sub(offset)).unwrap_or(most);
        let (place, most) = (self.place.clone(), most.min(there));
        if most == 0 {
            return Ok(Bytes::new());
        }
        blocking(move || {
            let mut bytes = vec![0; most];
            let read = place.file.read_exact_at(&mut bytes, place.layout.body_at() + offset);
            read.inspect_err(|_| place.promise.disk.counters.read_errors.add(1)).map(|()| Bytes::from(bytes))
        })
        .await?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What is left to do for one that is not kept blocks.
        if !self.place.promise.kept.load(Ordering::Acquire)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let place = self.place.clone();
            runtime.spawn_blocking(move || drop(place));
        }
    }
}

impl Place {
    fn create(promise: Promise, layout: Layout, key: &str, meta: &[u8]) -> io::Result<Place> {
        let created = promise.disk.folder.create(promise.name);
        let file = created.inspect_err(|error| promise.disk.write_failed("create an object", error))?;
        let place = Place { file, layout, promise, written: watch::Sender::new(0), reading: OnceLock::new() };
        let head = [layout.head(key), layout.slot(1, meta).unwrap_or_default()].concat();
        place.write_at(&head, 0)?;
        Ok(place)
    }

    /// Writes a piece of the body. Gives the checksums of its blocks.
    fn write(&self, piece: &[u8], at: u64) -> io::Result<Vec<u32>> {
        self.write_at(piece, self.layout.body_at() + at)?;
        self.written.send_replace(at + piece.len() as u64);
        Ok(self.layout.sums_of(piece).collect())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (disk, written) = (&self.promise.disk, bytes.len() as u64);
        self.file.write_all_at(bytes, at).inspect_err(|error| disk.write_failed("write an object", error))?;
        self.promise.unwritten.fetch_sub(written, Ordering::Relaxed);
        disk.shelf_mut().written(written);
        Ok(())
    }

    fn keep(&self) -> io::Result<()> {
        let Promise { disk, name, unwritten, kept, claim } = &self.promise;
        let _lock = disk.folder.lock(*name);
        if claim.is_void() {
            return Err(io::Error::other("the key was purged meanwhile"));
        }
        let published = disk.folder.publish(*name);
        published.inspect_err(|error| disk.write_failed("rename an object", error))?;
        kept.store(true, Ordering::Release);
        let mut shelf = disk.shelf_mut();
        if let Some(gone) = shelf.commit(*name, unwritten.load(Ordering::Relaxed)) {
            shelf.removed(gone);
        }
        disk.memory.remove(*name);
        drop(shelf);
        // Those who read it as it came hold the file open.
        let _ = self.reading.set(disk.begin_read(*name));
        Ok(())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Acquire) {
            if let Err(error) = self.disk.folder.remove_temporary(self.name) {
                self.disk.write_failed("remove what was not kept", &error);
            }
            self.disk.shelf_mut().abandon(self.name, self.unwritten.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::{open, settings};
    use std::time::SystemTime;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_is_read_while_the_rest_is_awaited() {
        let folder = tempfile::TempDir::new().unwrap();
        let disk = open(&settings(folder.path())).await;
        let whole = crate::disk::tests::body(7, 5 * BLOCK + 11);
        let meta = Meta::new(SystemTime::now(), Vec::new());
        let mut writer = disk.begin("/cat", &meta, whole.len() as u64).await.unwrap();
        let mut partial = writer.partial();
        assert!(partial.read_at(0, BLOCK).await.unwrap().is_empty());
        writer.write(&whole[..2 * BLOCK + 5]).await.unwrap();
        partial.grown().await;
        let there = usize::try_from(partial.written()).unwrap();
        assert!((BLOCK..=2 * BLOCK).contains(&there), "whole blocks go out as they come: {there}");
        assert_eq!(partial.read_at(3, 2 * BLOCK).await.unwrap(), whole[3..there]);

        writer.write(&whole[2 * BLOCK + 5..]).await.unwrap();
        writer.commit().await.unwrap();
        let mut read = Vec::new();
        while read.len() < whole.len() {
            read.extend(partial.read_at(read.len() as u64, BLOCK).await.unwrap());
        }
        assert!(read == whole);
        let kept = disk.get("/cat").await.unwrap();
        assert!(crate::disk::tests::read(&kept).await.unwrap() == whole);

        // A file that is still read is not given back.
        let kept_bytes = disk.figures().disk_bytes;
        drop(kept);
        assert!(disk.remove("/cat").await.unwrap());
        assert_eq!(disk.figures().disk_bytes, kept_bytes);
        assert_eq!(partial.read_at(1, 10).await.unwrap(), whole[1..11]);
        drop(partial);
        crate::disk::tests::until("its bytes are back", || disk.figures().disk_bytes < kept_bytes).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_is_an_error_and_leaves_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        for length in [100, 3 * PIECE] {
            let disk = open(&settings(folder.path())).await;
            let before = disk.figures().disk_bytes;
            let meta = Meta::new(SystemTime::now(), Vec::new());
            let mut writer = disk.begin("/cat", &meta, length as u64).await.unwrap();
            let full = File::options().write(true).open("/dev/full").unwrap();
            Arc::get_mut(&mut writer.place).unwrap().file = full;
            // Small ones are written by the commit, large ones before.
            let written = writer.write(&vec![0; length]).await;
            assert_eq!(written.is_err(), length > PIECE);
            let error = written.and(writer.commit().await).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            while disk.figures().disk_bytes > before {
                tokio::task::yield_now().await;
            }
            assert!(disk.figures().write_errors > 0);
            assert!(disk.get("/cat").await.is_none());
        }
    }
}
