//! Keeping the location map over a restart: read at start, written now and then and at the end.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use log::{debug, info, warn};
use tokio::time::sleep;

use crate::chain::{Chain, unix_now};
use crate::location::Map;

/// Reads the map in, if there is a file. One that cannot be used is told of and ignored.
pub fn restore(map: &mut Map, path: &Path, targets: &[String]) {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return warn!("the location map `{}` cannot be read: {error}", path.display()),
    };
    match map.restore(&bytes, targets, unix_now()) {
        Ok(count) => info!("the location map knows {count} paths from before"),
        Err(error) => warn!("the location map `{}` is ignored: {error}", path.display()),
    }
}

/// Reads in what the process before this one had.
pub fn take_over(map: &mut Map, bytes: &[u8], targets: &[String]) {
    match map.restore(bytes, targets, unix_now()) {
        Ok(count) => info!("the location map knows {count} paths from the process before"),
        Err(error) => warn!("the location map of the process before is ignored: {error}"),
    }
}

/// Writes the map beside its place, then over it, so that the file is whole at any moment.
pub fn save(chain: &Chain) {
    let Some((map, path)) = file_of(chain) else { return };
    let bytes = map.save(&chain.snapshot.config.target_names());
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = fs::write(&beside, &bytes).and_then(|()| fs::rename(&beside, path));
    match written {
        Ok(()) => debug!("the location map is saved: {} bytes", bytes.len()),
        Err(error) => {
            // A part of it would take up what is left of a full disk.
            let _ = fs::remove_file(&beside);
            warn!("the location map `{}` cannot be written: {error}", path.display());
        }
    }
}

/// Saves the map at its interval, for ever.
pub async fn keep(chain: Arc<Chain>) {
    let Some(settings) = chain.snapshot.config.location.clone() else { return };
    loop {
        sleep(settings.save_every).await;
        let chain = chain.clone();
        let saved = tokio::task::spawn_blocking(move || save(&chain)).await;
        if let Err(error) = saved {
            warn!("saving the location map failed: {error}");
        }
    }
}

fn file_of(chain: &Chain) -> Option<(&Map, &Path)> {
    let path = chain.snapshot.config.location.as_ref()?.file.as_deref()?;
    Some((chain.snapshot.location.as_deref()?, path))
}
