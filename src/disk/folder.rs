//! The folder on the disk: its mark, its lock, and what can be done to its files. All calls block.

use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::name::{Name, SHARDS, Sort, folder};

/// The file that says that a folder is a store's, and that no other process may write to it while it is locked.
const MARK: &str = "hopfall-store";
const MARK_TEXT: &[u8] = b"A disk of hopfall. Its folders are its own: what else is put there is removed.\n";
/// What a new file system has in its root.
const LOST: &str = "lost+found";

/// Bytes that are free on the file system of a path, for this process.
pub type Free = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

pub struct Folder {
    root: PathBuf,
    /// `None` when the folder has no mark and cannot be given one: a read-only or full file system.
    mark: Option<File>,
    /// What a name stands for on the disk and in the index changes only under its shard's lock.
    locks: Vec<Mutex<()>>,
    free: Free,
}

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is not there, and would be made.
    Missing,
    /// Nobody's yet.
    Empty,
    /// A disk of hopfall.
    Ours,
    /// It holds files and is no disk: it will not be used.
    Foreign,
}

/// Looks at a folder, and changes nothing.
///
/// # Errors
/// When it cannot be read.
pub fn claim(root: &Path) -> io::Result<Claim> {
    let mut entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claim::Missing),
        entries => entries?,
    };
    if root.join(MARK).try_exists()? {
        return Ok(Claim::Ours);
    }
    let taken = entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOST));
    Ok(if taken { Claim::Foreign } else { Claim::Empty })
}

impl Folder {
    /// Makes the folder if there is none.
    ///
    /// # Errors
    /// When it cannot be made or read, or holds files and is no store.
    pub fn open(root: PathBuf, free: Free) -> io::Result<Folder> {
        fs::create_dir_all(&root)?;
        let mark = root.join(MARK);
        let opened = match File::open(&mark) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if fs::read_dir(&root)?.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOST)) {
                    let message =
                        format!("{} holds files and is no disk; give the disk an empty folder", root.display());
                    return Err(io::Error::new(ErrorKind::InvalidInput, message));
                }
                fs::write(&mark, MARK_TEXT).and_then(|()| File::open(&mark))
            }
            opened => opened,
        };
        let mark = opened.inspect_err(|error| log::warn!("disk: cannot open {}: {error}", mark.display())).ok();
        let locks = (0..SHARDS).map(|_| Mutex::new(())).collect();
        Ok(Folder { root, mark, locks, free })
    }

    /// Whether this process may write here, now and until it ends.
    ///
    /// # Errors
    /// When the folder is one that cannot be written to, or the file system knows no locks.
    pub fn own(&self) -> io::Result<bool> {
        let Some(mark) = &self.mark else { return Err(ErrorKind::ReadOnlyFilesystem.into()) };
        match mark.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub fn lock(&self, name: Name) -> MutexGuard<'_, ()> {
        self.locks[name.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When the file system says nothing.
    pub fn free(&self) -> io::Result<u64> {
        (self.free)(&self.root)
    }

    /// # Errors
    /// As of the file system; `NotFound` when there is no such object.
    pub fn open_kept(&self, name: Name, write: bool) -> io::Result<File> {
        OpenOptions::new().read(true).write(write).open(name.path(&self.root))
    }

    /// # Errors
    /// As of the file system.
    pub fn create(&self, name: Name) -> io::Result<File> {
        let create =
            || OpenOptions::new().read(true).write(true).create(true).truncate(true).open(name.temporary(&self.root));
        match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(folder(&self.root, name.shard()))?;
                create()
            }
            created => created,
        }
    }

    /// Puts what was written into its place.
    ///
    /// # Errors
    /// As of the file system.
    pub fn publish(&self, name: Name) -> io::Result<()> {
        fs::rename(name.temporary(&self.root), name.path(&self.root))
    }

    /// Whether there was one.
    ///
    /// # Errors
    /// As of the file system.
    pub fn remove_kept(&self, name: Name) -> io::Result<bool> {
        remove(&name.path(&self.root))
    }

    /// # Errors
    /// As of the file system.
    pub fn remove_temporary(&self, name: Name) -> io::Result<bool> {
        remove(&name.temporary(&self.root))
    }

    /// The files of a shard. None when it has no folder yet.
    ///
    /// # Errors
    /// As of the file system.
    pub fn files(&self, shard: usize) -> io::Result<Vec<(Sort, DirEntry)>> {
        let entries = match fs::read_dir(folder(&self.root, shard)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                files.push((Sort::of(shard, &entry.file_name().to_string_lossy()), entry));
            }
        }
        Ok(files)
    }
}

/// Removes a file. Whether there was one.
///
/// # Errors
/// As of the file system.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the file system says.
///
/// # Errors
/// As of the file system.
pub fn free(path: &Path) -> io::Result<u64> {
    let free = rustix::fs::statvfs(path)?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}
