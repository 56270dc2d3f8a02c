//! The folder in which account and certificates outlive the process: for its owner alone, each file whole at any moment.
//!
//! Every CA has a folder of its own in it, so that a change of `directory` takes over nothing of the CA before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use log::warn;

#[derive(Clone)]
pub struct Vault {
    folder: PathBuf,
}

impl Vault {
    /// Of the CA at this directory's address. Nothing is read or made yet.
    pub fn new(folder: &Path, directory: &str) -> Self {
        let ca = directory.strip_prefix("https://").unwrap_or(directory).trim_end_matches('/');
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' };
        Vault { folder: folder.join(ca.chars().map(plain).collect::<String>()) }
    }

    /// Where the account's key is.
    pub fn account(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// Where a name's key and certificate are.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// `None` if there is no such file.
    ///
    /// # Errors
    /// When it is there and cannot be read: then it must not be replaced.
    pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            let shown = path.display();
            warn!("`{shown}` holds a private key, and others may read it (mode {:o}): chmod 600 it", mode & 0o777);
        }
        Ok(Some(bytes))
    }

    /// Writes the file beside its place, then over it.
    ///
    /// # Errors
    /// When it cannot be written; then what was there before is there still.
    pub async fn write(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let (folder, path) = (self.folder.clone(), path.to_owned());
        aside(move || replace(&folder, &path, &bytes)).await
    }

    /// Whether this file could be written. Asked before an order: a certificate that cannot be kept would be ordered again
    /// at each start, until the CA has enough of it.
    ///
    /// # Errors
    /// When it could not.
    pub async fn can_write(&self, path: &Path) -> io::Result<()> {
        let (folder, probe) = (self.folder.clone(), beside(path, ".probe"));
        aside(move || replace(&folder, &probe, b"").and_then(|()| fs::remove_file(probe))).await
    }

    /// Puts a file out of the way that cannot be used.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside(path: &Path) -> io::Result<()> {
        fs::rename(path, beside(path, ".unusable"))
    }
}

/// Where it keeps no request waiting: a sync takes as long as the disk does.
async fn aside(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(ending);
    beside.into()
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = beside(path, ".new");
    let replaced = write_whole(&new, bytes).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced?;
    // The name itself is on the disk only then.
    File::open(folder)?.sync_all()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that was left behind may have another mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_is_written_is_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::new(&folder.path().join("deep/acme"), "https://ca.example:14000/dir?x");
        let path = vault.certificate("a.example");
        vault.can_write(&path).await.unwrap();
        assert_eq!(path, folder.path().join("deep/acme/ca.example-14000-dir-x/a.example.pem"));
        assert_eq!(Vault::read(&path).unwrap(), None);
        fs::write(path.with_extension("pem.new"), "left behind by a crash").unwrap();
        for text in ["first", "second"] {
            vault.write(&path, text.into()).await.unwrap();
            assert_eq!(Vault::read(&path).unwrap().unwrap(), text.as_bytes());
        }
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "and nothing else is left");
    }

    #[tokio::test]
    async fn what_cannot_be_written_leaves_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::new(folder.path(), "https://ca.example/");
        let path = vault.certificate("a.example");
        vault.write(&path, b"first".to_vec()).await.unwrap();
        // A folder in the place of the file beside it.
        fs::create_dir(path.with_extension("pem.new")).unwrap();
        vault.write(&path, b"second".to_vec()).await.unwrap_err();
        assert_eq!(Vault::read(&path).unwrap().unwrap(), b"first");

        fs::write(folder.path().join("file"), "").unwrap();
        let vault = Vault::new(&folder.path().join("file"), "https://ca.example/");
        vault.can_write(&vault.account()).await.unwrap_err();
    }
}
