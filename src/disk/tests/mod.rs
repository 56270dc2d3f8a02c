//! The store as its caller sees it, on a real folder.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::layout::cost;
use super::*;

mod bounds;
mod crash;
mod damage;
mod kept;
mod model;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

pub(super) fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        bytes: FOLDERS + 8 * MIB,
        free_floor: 0,
        memory: 0,
        object_max: 100 * MIB,
        memory_object_max: 64 * KIB,
    }
}

pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting for: {what}");
}

pub(super) async fn open(settings: &Settings) -> Arc<Disk> {
    let disk = Disk::open(settings.clone()).unwrap();
    until("the index", || disk.figures().ready).await;
    disk
}

async fn reopen(disk: Arc<Disk>) -> Arc<Disk> {
    let settings = disk.settings.clone();
    drop(disk);
    open(&settings).await
}

fn meta(etag: &str) -> Meta {
    Meta::new(SystemTime::now(), vec![("etag".to_owned(), etag.as_bytes().to_vec())])
}

/// Bytes that differ with the seed and from block to block.
pub(super) fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    for at in 0..length.div_ceil(8) as u64 {
        bytes.extend_from_slice(&(at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn try_put(disk: &Arc<Disk>, key: &str, etag: &str, body: &[u8]) -> Option<io::Result<()>> {
    let mut writer = disk.begin(key, &meta(etag), body.len() as u64).await?;
    for piece in body.chunks(50_000) {
        if let Err(error) = writer.write(piece).await {
            return Some(Err(error));
        }
    }
    Some(writer.commit().await)
}

async fn put(disk: &Arc<Disk>, key: &str, body: &[u8]) {
    try_put(disk, key, key, body).await.unwrap().unwrap();
}

pub(super) async fn read(object: &Object) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < object.length() {
        bytes.extend(object.read_at(bytes.len() as u64, 200_000).await?);
    }
    Ok(bytes)
}

async fn get(disk: &Arc<Disk>, key: &str) -> Option<Vec<u8>> {
    read(&disk.get(key).await?).await.ok()
}

fn path(disk: &Disk, key: &str) -> PathBuf {
    Name::of(key).path(&disk.settings.path)
}

/// What the files of a store take, by their lengths.
fn taken(path: &Path) -> u64 {
    let files = fs::read_dir(path).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let files = files.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    files.filter_map(|file| Some(cost(file.metadata().ok()?.len()))).sum()
}

/// A file system of so many bytes, on which nothing but the store is.
fn disk(path: &Path, size: &Arc<AtomicU64>) -> Free {
    let (path, size) = (path.to_owned(), size.clone());
    // A file that is renamed while the folder is read may be missed: the most of three looks.
    Box::new(move |_| {
        let most = (0..3).map(|_| taken(&path)).max().unwrap_or_default();
        Ok(size.load(Ordering::Relaxed).saturating_sub(most))
    })
}
