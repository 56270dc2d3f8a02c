//! Watching the config file: its folder is watched, and not the file itself, so that one that is replaced is seen too, and
//! one that is reached through links of that folder, as a mounted ConfigMap is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use log::{info, warn};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::admin::Order;

/// How long a folder must be quiet: editors and copying write in steps.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait for that, where something always goes on.
const MOST_WAIT: Duration = Duration::from_secs(3);

/// Orders a reload whenever the file has other content than before. Ends with the future that it gives.
///
/// # Errors
/// When the folder cannot be watched.
pub fn watch(file: &Path, orders: mpsc::Sender<Order>) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let file = std::path::absolute(file)?;
    let folder = file.parent().context("the config file is in no folder")?.to_owned();
    let (changed, changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file is such an event, too. One word is enough, however much happens.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    })
    .context("files cannot be watched")?;
    watcher
        .watch(&folder, RecursiveMode::NonRecursive)
        .with_context(|| format!("`{}` cannot be watched", folder.display()))?;
    let before = content(&file);
    Ok(follow(watcher, changes, file, before, orders))
}

async fn follow(
    _watcher: RecommendedWatcher,
    mut changes: mpsc::Receiver<()>,
    file: PathBuf,
    mut before: Option<Vec<u8>>,
    orders: mpsc::Sender<Order>,
) {
    info!("{} is watched for changes", file.display());
    while changes.recv().await.is_some() {
        let latest = Instant::now() + MOST_WAIT;
        while let Ok(Some(())) = timeout_at(latest.min(Instant::now() + QUIET), changes.recv()).await {
            if Instant::now() >= latest {
                break;
            }
        }
        let now = content(&file);
        if now.is_none() {
            // Perhaps between its removal and its return, whose event comes next.
            warn!("{} cannot be read, and serving goes on as before", file.display());
            continue;
        }
        if now == before {
            continue;
        }
        before = now;
        let (reply, done) = oneshot::channel();
        if orders.send(Order::Reload(reply)).await.is_err() {
            return;
        }
        // What came of it is logged where it is done.
        let _ = done.await;
    }
}

fn content(file: &Path) -> Option<Vec<u8>> {
    std::fs::read(file).ok()
}
