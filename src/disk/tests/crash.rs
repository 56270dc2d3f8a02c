//! `kill -9` at any moment: a process that writes is killed again and again, and all that it left is verified.

use std::process::{Command, Stdio};

use rand::Rng;
use tempfile::TempDir;

use super::*;

const ROUNDS: usize = 100;
const KEYS: u64 = 40;
/// Tells the process that is to be killed where its store is.
const FOLDER: &str = "HOPFALL_CRASH_FOLDER";

/// Metadata of any length, that shows whether it is whole.
fn meta() -> Meta {
    let (length, byte) = (rand::random_range(0..200), rand::random());
    Meta::new(SystemTime::now(), vec![("filled".to_owned(), vec![byte; length])])
}

/// Bytes that show whether they are whole: what they are made from, and what follows from that.
fn whole(seed: u64, length: usize) -> Vec<u8> {
    [&seed.to_le_bytes()[..], &length.to_le_bytes(), &body(seed, length)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let disk = open(&settings(folder.as_ref())).await;
    let writers = (0..4).map(|_| tokio::spawn(write_for_ever(disk.clone())));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

async fn write_for_ever(disk: Arc<Disk>) {
    let any_key = || format!("/{}", rand::random_range(0..KEYS));
    loop {
        let length = rand::random_range(0..if rand::random() { 2_000 } else { 700_000 });
        let bytes = whole(rand::random(), length);
        if let Some(mut writer) = disk.begin(&any_key(), &meta(), bytes.len() as u64).await {
            for piece in bytes.chunks(64 * 1024) {
                writer.write(piece).await.unwrap();
            }
            // It may have been removed meanwhile.
            writer.commit().await.ok();
        }
        for _ in 0..4 {
            disk.refresh(&any_key(), &meta()).await;
        }
        if rand::random_range(0..16) == 0 {
            disk.remove(&any_key()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_nothing_torn() {
    let folder = TempDir::new().unwrap();
    let test = format!("{}::the_process_that_is_killed", module_path!().split_once("::").unwrap().1);
    let (mut verified, mut leftovers) = (0, 0);
    for round in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(20..150))).await;
        assert!(process.try_wait().unwrap().is_none(), "round {round}: it ended by itself");
        process.kill().unwrap();
        process.wait().unwrap();

        let disk = open(&settings(folder.path())).await;
        for key in (0..KEYS).map(|key| format!("/{key}")) {
            let Some(object) = disk.get(&key).await else { continue };
            let bytes = read(&object).await.unwrap();
            let seed = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == whole(seed, bytes.len() - 16), "round {round}: {key} is torn");
            let filled = object.meta().field("filled").unwrap();
            assert!(filled.iter().all(|byte| *byte == filled[0]), "round {round}: the metadata of {key} is torn");
            verified += 1;
        }
        let figures = disk.figures();
        assert_eq!((figures.corrupt, figures.foreign, figures.read_errors), (0, 0, 0), "round {round}");
        assert!(figures.disk_bytes <= settings(folder.path()).bytes);
        leftovers += figures.leftovers;
    }
    println!("{ROUNDS} kills; {verified} objects verified; {leftovers} were being written");
    assert!(verified > ROUNDS && leftovers > 0, "{verified} objects, {leftovers} in flight: it tested nothing");
}
