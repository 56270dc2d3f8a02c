//! Watching the config file: its folder is watched, and not the file itself, so that one that is replaced is seen too; and
//! the folders of all links that lead to it, and where they lead, as in a mounted ConfigMap.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use log::{debug, info, warn};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::admin::Order;

/// How long a folder must be quiet: editors and copying write in steps.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait for that, where something always goes on.
const MOST_WAIT: Duration = Duration::from_secs(3);
/// Links in one another that are followed.
const MOST_LINKS: usize = 16;

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
    watch_links(&mut watcher, &file);
    let before = content(&file);
    Ok(follow(watcher, changes, file, before, orders))
}

/// Watches each folder in which a link on the way to the file may be replaced, or the file behind the links. A folder that
/// is watched already goes on being watched.
fn watch_links(watcher: &mut RecommendedWatcher, file: &Path) {
    let mut folders = BTreeSet::new();
    folders_of(file, &mut folders, MOST_LINKS);
    for folder in folders {
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            debug!("`{}` cannot be watched: {error}", folder.display());
        }
    }
}

fn folders_of(file: &Path, folders: &mut BTreeSet<PathBuf>, links: usize) {
    folders.extend(file.parent().map(Path::to_owned));
    for (link, to) in file.ancestors().filter_map(|part| Some((part, std::fs::read_link(part).ok()?))) {
        let Some(folder) = link.parent().filter(|_| links > 0) else { continue };
        folders.insert(folder.to_owned());
        let behind = file.strip_prefix(link).unwrap_or(Path::new("")).components();
        folders_of(&behind.fold(folder.join(to), |path, part| path.join(part)), folders, links - 1);
    }
}

async fn follow(
    mut watcher: RecommendedWatcher,
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
        watch_links(&mut watcher, &file);
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
