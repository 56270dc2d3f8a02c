//! An object that was found: its metadata, and its bytes, each of them verified before it is given out.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::{BLOCK, Broken, FIXED, KEY_MAX, Layout, Slot};
use super::memory::Small;
use super::meta::Meta;
use super::name::Name;
use super::{Disk, blocking};

/// Files of at most so many bytes are read whole when they are opened, even if they are too large for memory.
const WHOLE: u64 = 128 * 1024;
/// Most that one read gives.
const MOST: usize = 1024 * 1024;
/// What is read first of a larger file: most often its head, with room for the checksums of 32 MiB.
const FIRST: u64 = 8 * 1024;

/// Stays readable to its end when it is evicted or replaced meanwhile.
pub struct Object {
    meta: Arc<Meta>,
    length: u64,
    body: Body,
}

enum Body {
    Whole(Bytes),
    Open(Arc<OpenFile>),
}

struct OpenFile {
    file: File,
    layout: Layout,
    sums: Vec<u32>,
    name: Name,
    reading: Reading,
}

/// Says that a file is held open, so that its bytes are not counted as free before.
pub(super) struct Reading {
    disk: Arc<Disk>,
    serial: Option<u64>,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    Broken,
    Io(io::Error),
}

/// A file's head, verified.
pub(super) struct Head {
    pub layout: Layout,
    pub slot: Slot,
    sums: Vec<u32>,
    /// The file's first bytes: all of the head, and maybe more.
    bytes: Vec<u8>,
}

impl Object {
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes from `offset` on: at least one and at most `most`, or none at the end. Reads are widened to whole
    /// blocks of 64 KiB, so that a caller who reads on does best with multiples of that.
    ///
    /// # Errors
    /// When the disk fails, or the bytes are not those that were written: then the object is removed.
    pub async fn read_at(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let most = most.min(MOST).min(usize::try_from(self.length.saturating_sub(offset)).unwrap_or(MOST));
        if most == 0 {
            return Ok(Bytes::new());
        }
        match &self.body {
            Body::Whole(body) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(body.slice(from..from + most))
            }
            Body::Open(open) => {
                let open = open.clone();
                blocking(move || open.read_at(offset, most)).await?
            }
        }
    }
}

impl From<Arc<Small>> for Object {
    fn from(small: Arc<Small>) -> Object {
        Object { meta: small.meta.clone(), length: small.body.len() as u64, body: Body::Whole(small.body.clone()) }
    }
}

impl OpenFile {
    fn read_at(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let disk = &self.reading.disk;
        let first = offset / BLOCK as u64;
        let from = first * BLOCK as u64;
        let to = (offset + most as u64).next_multiple_of(BLOCK as u64).min(self.layout.length);
        let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        let read = self.file.read_exact_at(&mut bytes, self.layout.body_at() + from);
        let sums = usize::try_from(first).ok().and_then(|first| self.sums.get(first..)).unwrap_or_default();
        match read {
            Ok(()) if self.layout.sums_of(&bytes).eq(sums.iter().copied().take(bytes.len().div_ceil(BLOCK))) => {
                let skip = usize::try_from(offset - from).map_err(io::Error::other)?;
                Ok(Bytes::from(bytes).slice(skip..skip + most))
            }
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                disk.counters.read_errors.add(1);
                Err(error)
            }
            Ok(()) | Err(_) => {
                disk.condemn(self.name, self.layout.id);
                Err(io::Error::new(ErrorKind::InvalidData, "a kept object is corrupt"))
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(serial) = self.serial {
            self.disk.shelf_mut().end_read(serial);
        }
    }
}

impl Disk {
    /// Opens a kept object, by its name alone while the index is not ready. Blocks.
    pub(super) fn open_object(self: &Arc<Self>, name: Name, key: &str) -> Option<Object> {
        let (lock, reading, refreshed) = (self.folder.lock(name), self.begin_read(name), self.shelf().refreshed);
        if reading.serial.is_none() && self.is_ready() {
            return None;
        }
        let opened = self.folder.open_kept(name, false).map_err(Unread::Io);
        drop(lock);
        match opened.and_then(|file| self.read_object(file, name, key, reading, refreshed)) {
            Ok(object) => Some(object),
            Err(Unread::Io(error)) if error.kind() != ErrorKind::NotFound => {
                self.counters.read_errors.add(1);
                None
            }
            Err(Unread::Broken | Unread::Io(_)) => {
                // Metadata may have been written at that moment; with the lock nothing is.
                let _lock = self.folder.lock(name);
                match self
                    .folder
                    .open_kept(name, false)
                    .map_err(Unread::Io)
                    .and_then(|file| Head::read(&file, Some(key), 0))
                {
                    Ok(_) => None,
                    Err(Unread::Io(error)) if error.kind() == ErrorKind::NotFound => {
                        self.drop_file(name).ok();
                        None
                    }
                    Err(Unread::Io(_)) => {
                        self.counters.read_errors.add(1);
                        None
                    }
                    Err(Unread::Broken) => {
                        self.counters.corrupt.add(1);
                        self.drop_file(name).ok();
                        None
                    }
                }
            }
        }
    }

    pub(super) fn begin_read(self: &Arc<Self>, name: Name) -> Reading {
        let mut shelf = self.shelf_mut();
        let serial = shelf.peek(name);
        if let Some(serial) = serial {
            shelf.begin_read(serial);
        }
        Reading { disk: self.clone(), serial }
    }

    fn read_object(
        &self,
        file: File,
        name: Name,
        key: &str,
        reading: Reading,
        refreshed: u64,
    ) -> Result<Object, Unread> {
        let head = Head::read(&file, Some(key), WHOLE.max(self.settings.memory_object_max))?;
        let (layout, length) = (head.layout, head.layout.length);
        let meta = Arc::new(head.slot.meta);
        if (head.bytes.len() as u64) < layout.total() {
            let open = OpenFile { file, layout, sums: head.sums, name, reading };
            return Ok(Object { meta, length, body: Body::Open(Arc::new(open)) });
        }
        let held = head.bytes.len();
        let body = Bytes::from(head.bytes).slice(usize::try_from(layout.body_at()).map_err(|_| Unread::Broken)?..);
        if !layout.sums_of(&body).eq(head.sums) {
            drop(reading);
            self.condemn(name, layout.id);
            return Err(Unread::Io(ErrorKind::NotFound.into()));
        }
        if length <= self.settings.memory_object_max {
            let small = Small { key: key.to_owned(), meta: meta.clone(), body: body.clone(), held };
            let shelf = self.shelf();
            // Else it was removed, replaced or refreshed meanwhile.
            if reading.serial.is_some() && shelf.peek(name) == reading.serial && shelf.refreshed == refreshed {
                self.memory.insert(name, Arc::new(small));
            }
        }
        Ok(Object { meta, length, body: Body::Whole(body) })
    }

    /// Removes the file that has this id, some block of which is not what was written. Blocks.
    fn condemn(&self, name: Name, id: u64) {
        let _lock = self.folder.lock(name);
        let head = self.folder.open_kept(name, false).map_err(Unread::Io).and_then(|file| Head::read(&file, None, 0));
        if head.is_ok_and(|head| head.layout.id == id) {
            self.counters.corrupt.add(1);
            self.drop_file(name).ok();
        }
    }

    /// Removes what is kept under this name, wherever it is. The lock of the name must be held. Whether there was
    /// anything.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn drop_file(&self, name: Name) -> io::Result<bool> {
        let (gone, in_memory) = {
            let mut shelf = self.shelf_mut();
            (shelf.remove(name), self.memory.remove(name))
        };
        let removed = self.folder.remove_kept(name);
        let result = removed.as_ref().map(|there| *there || in_memory).map_err(|error| error.kind().into());
        match gone {
            Some(gone) => self.give_back(gone, removed),
            None => {
                if let Err(error) = &removed {
                    self.write_failed("remove an object", error);
                }
            }
        }
        result
    }
}

impl Head {
    /// Reads a file's head; all of a file of at most `whole` bytes. Without `key`, that of any.
    pub(super) fn read(file: &File, key: Option<&str>, whole: u64) -> Result<Head, Unread> {
        let size = file.metadata().map_err(Unread::Io)?.len();
        let mut bytes = Vec::new();
        read_on(file, &mut bytes, if size <= whole { size } else { size.min(FIRST) })?;
        let layout = Layout::parse(&bytes, size)?;
        read_on(file, &mut bytes, layout.body_at())?;
        if key.is_some_and(|key| layout.check(&bytes) != Ok(key)) {
            return Err(Unread::Broken);
        }
        layout.check(&bytes)?;
        Ok(Head { layout, slot: layout.meta(&bytes)?, sums: layout.sums(&bytes)?, bytes })
    }

    /// Reads a file's key alone.
    pub(super) fn key(file: &File) -> Result<String, Unread> {
        let size = file.metadata().map_err(Unread::Io)?.len();
        let mut bytes = Vec::new();
        read_on(file, &mut bytes, size.min(1024))?;
        let layout = Layout::parse(&bytes, size)?;
        read_on(file, &mut bytes, size.min((FIXED + KEY_MAX) as u64))?;
        Ok(layout.check(&bytes)?.to_owned())
    }
}

/// Reads on until there are `total` bytes of the file, if there are not yet.
fn read_on(file: &File, bytes: &mut Vec<u8>, total: u64) -> Result<(), Unread> {
    let (from, total) = (bytes.len(), usize::try_from(total).map_err(|_| Unread::Broken)?);
    if from < total {
        bytes.resize(total, 0);
        file.read_exact_at(&mut bytes[from..], from as u64).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Unread::Broken,
            _ => Unread::Io(error),
        })?;
    }
    Ok(())
}

impl From<Broken> for Unread {
    fn from(_: Broken) -> Unread {
        Unread::Broken
    }
}
