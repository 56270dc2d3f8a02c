//! Start, budget and free floor.

use std::sync::atomic::AtomicUsize;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn opening_waits_for_nothing_and_objects_are_found_before_the_index_is() {
    let folder = TempDir::new().unwrap();
    let first = open(&settings(folder.path())).await;
    put(&first, "/cat", b"meow").await;
    put(&first, "/dog", &body(1, 300_000)).await;
    // The folder is the first one's, as while an old process ends: so the index cannot have been read.
    let second = Disk::open(settings(folder.path())).unwrap();
    assert_eq!(get(&second, "/cat").await.unwrap(), b"meow");
    assert!(get(&second, "/dog").await.unwrap() == body(1, 300_000));
    assert!(second.get("/none").await.is_none());
    assert!(second.refresh("/cat", &meta("new")).await);
    assert!(second.remove("/dog").await.unwrap());
    assert!(second.begin("/new", &meta("v"), 1).await.is_none(), "what is kept must be accounted for");
    let figures = second.figures();
    assert_eq!((figures.ready, figures.objects, figures.write_errors), (false, 0, 0));
    assert!(first.get("/dog").await.is_none());
    assert_eq!(first.get("/cat").await.unwrap().meta().field("etag"), Some(&b"new"[..]));
    drop(first);
    until("the index", || second.figures().ready).await;
    assert_eq!(second.figures().objects, 1);
    put(&second, "/new", b"x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_indexed_and_the_oldest_go_when_the_budget_has_shrunk() {
    const MANY: u64 = 50_000;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("hopfall-store"), b"").unwrap();
    for shard in 0..SHARDS {
        fs::create_dir(name::folder(folder.path(), shard)).unwrap();
    }
    for number in 0..MANY {
        fs::write(Name::of(&number.to_string()).path(folder.path()), b"x").unwrap();
    }
    let large = Settings { bytes: 1 << 30, ..settings(folder.path()) };
    let disk = Disk::open(large).unwrap();
    assert!(!disk.figures().ready, "it has returned before");
    until("the index", || disk.figures().ready).await;
    let figures = disk.figures();
    assert_eq!((figures.objects, figures.disk_bytes), (MANY, FOLDERS + MANY * cost(1)));
    assert!(figures.index_bytes <= 220 * MANY, "{} bytes an object", figures.index_bytes / MANY);
    drop(disk);
    let disk = open(&settings(folder.path())).await;
    assert!(disk.figures().disk_bytes <= FOLDERS + 8 * MIB);
    assert!(taken(folder.path()) <= 8 * MIB);
    let kept = |from| (from..from + 1000).filter(|number: &u64| path(&disk, &number.to_string()).exists()).count();
    assert!(kept(MANY - 1000) > kept(0), "{} of the latest, {} of the oldest", kept(MANY - 1000), kept(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_budget_and_the_floor_hold_under_concurrent_load() {
    const CASES: &[(&str, u64, u64, u64)] = &[
        ("the budget binds", 8 * MIB, 100 * MIB, 10 * MIB),
        ("the floor binds", 100 * MIB, 14 * MIB, 6 * MIB),
        ("both do", 8 * MIB, 14 * MIB, 6 * MIB),
    ];
    for (case, budget, size, floor) in CASES.iter().copied() {
        let folder = TempDir::new().unwrap();
        let settings = Settings { bytes: FOLDERS + budget, free_floor: floor, ..settings(folder.path()) };
        let disk = Disk::open_on(settings, disk(folder.path(), &Arc::new(size.into()))).unwrap();
        until("the index", || disk.figures().ready).await;
        // Held while anything is done; taken whole, nothing is, but for pieces that are on their way to the disk.
        let world = Arc::new(tokio::sync::RwLock::new(()));
        let kept = Arc::new(AtomicUsize::new(0));
        let workers = (0..16u64).map(|worker| {
            let (disk, world, kept) = (disk.clone(), world.clone(), kept.clone());
            tokio::spawn(async move {
                for turn in 0..40 {
                    let (key, length) =
                        (format!("/{}", (worker * 40 + turn) % 300), (worker * 7919 + turn * 104_729) % 500_000);
                    let whole = body(turn, usize::try_from(length).unwrap());
                    let going = world.read().await;
                    let Some(mut writer) = disk.begin(&key, &meta("v"), length).await else { continue };
                    drop(going);
                    for piece in whole.chunks(100_000) {
                        let _going = world.read().await;
                        writer.write(piece).await.unwrap();
                    }
                    let _going = world.read().await;
                    if turn % 5 != 0 {
                        writer.commit().await.unwrap();
                        kept.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        while !workers.iter().all(tokio::task::JoinHandle::is_finished) {
            let _still = world.write().await;
            let (taken, figures) = (taken(folder.path()), disk.figures());
            assert!(taken <= budget, "{case}: {taken}");
            assert!(taken + floor <= size, "{case}: {taken}");
            assert!(figures.disk_bytes <= FOLDERS + budget, "{case}: {figures:?}");
            drop(_still);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for worker in workers {
            worker.await.unwrap();
        }
        let figures = disk.figures();
        assert!(kept.load(Ordering::Relaxed) > 100 && figures.evictions > 50, "{case}: {figures:?}");
        assert_eq!((figures.write_errors, figures.read_errors, figures.corrupt), (0, 0, 0), "{case}");
        until("what was not kept to go", || disk.figures().disk_bytes == FOLDERS + taken(folder.path())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_shrinks_when_others_fill_the_disk() {
    let folder = TempDir::new().unwrap();
    let size = Arc::new(AtomicU64::new(20 * MIB));
    let settings = Settings { free_floor: 10 * MIB, ..settings(folder.path()) };
    let disk = Disk::open_on(settings, disk(folder.path(), &size)).unwrap();
    until("the index", || disk.figures().ready).await;
    for number in 0..30 {
        put(&disk, &format!("/{number}"), &body(number, 200_000)).await;
    }
    size.store(14 * MIB, Ordering::Relaxed);
    until("room", || taken(folder.path()) <= 4 * MIB).await;
    assert!(taken(folder.path()) > 3 * MIB, "no more than needed");
    size.store(5 * MIB, Ordering::Relaxed);
    until("room", || taken(folder.path()) == 0).await;
    assert!(disk.begin("/cat", &meta("v"), 1).await.is_none());
    assert_eq!(disk.figures().refused_by_floor, 1);
    size.store(20 * MIB, Ordering::Relaxed);
    put(&disk, "/cat", b"meow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_promised_are_not_promised_again() {
    let folder = TempDir::new().unwrap();
    let settings = Settings { bytes: FOLDERS + 100 * MIB, free_floor: 6 * MIB, ..settings(folder.path()) };
    let disk = Disk::open_on(settings, disk(folder.path(), &Arc::new((10 * MIB).into()))).unwrap();
    until("the index", || disk.figures().ready).await;
    let begin = async |key| disk.begin(key, &meta("v"), 1_200_000).await;
    let mut writers = Vec::new();
    for key in ["/1", "/2", "/3"] {
        writers.push(begin(key).await.unwrap());
    }
    assert!(begin("/4").await.is_none(), "nothing is written yet, but 3.6 of 4 MiB are promised");
    assert_eq!(disk.figures().refused_by_floor, 1);
    for mut writer in writers.split_off(1) {
        writer.write(&body(1, 1_200_000)).await.unwrap();
        writer.commit().await.unwrap();
    }
    assert_eq!(disk.figures().evictions, 0, "there was room for what was promised");
    assert!(begin("/4").await.is_some(), "one of those makes room");
    assert_eq!(disk.figures().evictions, 1);
}
