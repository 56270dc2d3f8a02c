//! What changes of objects that are kept: other metadata, or none of it left.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::layout::Layout;
use super::meta::Meta;
use super::name::{Name, SHARDS, Sort};
use super::object::{Head, Unread};
use super::{Disk, blocking};

impl Disk {
    /// Gives an object other metadata; its bytes stay. `false` when there is no such object; when the metadata has grown
    /// too much to fit, and the object is removed; and when the disk fails, and the object stays as it was.
    pub async fn refresh(self: &Arc<Self>, key: &str, meta: &Meta) -> bool {
        let (disk, name, key, meta) = (self.clone(), Name::of(key), key.to_owned(), meta.clone());
        blocking(move || disk.refresh_now(name, &key, &Arc::new(meta))).await.unwrap_or(false)
    }

    fn refresh_now(&self, name: Name, key: &str, meta: &Arc<Meta>) -> bool {
        let _lock = self.folder.lock(name);
        let on_disk = match self.rewrite_meta(name, key, meta) {
            Ok(true) => true,
            Err(Unread::Io(error)) if error.kind() == io::ErrorKind::NotFound => false,
            Ok(false) | Err(Unread::Broken) => {
                self.drop_file(name).ok();
                return false;
            }
            Err(Unread::Io(error)) => {
                self.write_failed("refresh an object", &error);
                return false;
            }
        };
        let mut shelf = self.shelf_mut();
        shelf.refreshed += 1;
        let in_memory = self.memory.refresh(name, meta);
        on_disk || in_memory
    }

    /// Whether the metadata fits.
    fn rewrite_meta(&self, name: Name, key: &str, meta: &Meta) -> Result<bool, Unread> {
        let file = self.folder.open_kept(name, true).map_err(Unread::Io)?;
        let head = Head::read(&file, Some(key), 0)?;
        let (at, turn) = head.layout.next_slot(&head.slot);
        let slot = |layout: Layout| layout.slot(turn, &meta.encode()?);
        let Some(slot) = slot(head.layout) else { return Ok(false) };
        file.write_all_at(&slot, at).map_err(Unread::Io)?;
        Ok(true)
    }

    /// Removes an object from disk and memory; what is being written of it will not be kept. Whether there was one.
    ///
    /// # Errors
    /// When its file cannot be removed: it is not found any more, but may be after a restart.
    pub async fn remove(self: &Arc<Self>, key: &str) -> io::Result<bool> {
        let (disk, name) = (self.clone(), Name::of(key));
        self.claims.void(name);
        blocking(move || {
            let _lock = disk.folder.lock(name);
            disk.drop_file(name)
        })
        .await?
    }

    /// Removes every object whose key begins so. At once none of them is found any more; their files are looked for one
    /// by one, because keys are on the disk only: about 20 µs for each object of the disk. Gives how many there were.
    ///
    /// # Errors
    /// When a folder cannot be read or a file cannot be removed; the others are removed all the same.
    pub async fn remove_prefix(self: &Arc<Self>, prefix: &str) -> io::Result<usize> {
        let (disk, prefix) = (self.clone(), prefix.to_owned());
        let purge = self.claims.purge(&prefix);
        blocking(move || {
            let _purge = purge;
            disk.memory.remove_prefix(&prefix);
            let mut result = Ok(0);
            for shard in 0..SHARDS {
                let removed = disk.remove_prefix_in(shard, &prefix);
                result = match (result, removed) {
                    (Ok(sum), Ok(more)) => Ok(sum + more),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
            result
        })
        .await?
    }

    fn remove_prefix_in(&self, shard: usize, prefix: &str) -> io::Result<usize> {
        let mut result = Ok(0);
        for (sort, _) in self.folder.files(shard)? {
            let Sort::Kept(name) = sort else { continue };
            let key = self.folder.open_kept(name, false).map_err(Unread::Io).and_then(|file| Head::key(&file));
            // One whose key cannot be read is not served either.
            if key.is_ok_and(|key| key.starts_with(prefix)) {
                let _lock = self.folder.lock(name);
                result = match (result, self.drop_file(name)) {
                    (Ok(sum), Ok(there)) => Ok(sum + usize::from(there)),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
        }
        result
    }
}
