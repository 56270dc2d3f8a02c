//! What is kept, found, replaced, refreshed and removed.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_read_whole_and_in_ranges_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(&settings(folder.path())).await;
    let lengths = [0, 1, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 100_000, 4 * BLOCK, 500_000, 1_500_000];
    for length in lengths {
        put(&disk, &format!("/{length}"), &body(length as u64, length)).await;
    }
    for _ in 0..2 {
        for length in lengths {
            let (key, whole) = (format!("/{length}"), body(length as u64, length));
            let object = disk.get(&key).await.unwrap();
            assert_eq!(object.meta().field("ETag"), Some(key.as_bytes()));
            assert!(read(&object).await.unwrap() == whole, "{length}");
            for (from, most) in
                [(0, 1), (1, 70_000), (65_535, 2), (length / 2, 9_000_000), (length, 1), (length + 1, 1)]
            {
                let bytes = object.read_at(from as u64, most).await.unwrap();
                let expected = whole.get(from..).unwrap_or_default();
                assert!(bytes == expected[..expected.len().min(most).min(1 << 20)], "{length} from {from}");
            }
        }
        disk = reopen(disk).await;
    }
    assert_eq!(disk.figures().objects, lengths.len() as u64);
    assert_eq!(disk.figures().corrupt, 0);
    assert!(disk.get("/none").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_not_kept() {
    let folder = TempDir::new().unwrap();
    let disk = open(&settings(folder.path())).await;
    let begin = |length| {
        let disk = disk.clone();
        async move { disk.begin("/cat", &meta("v"), length).await.unwrap() }
    };
    let mut writer = begin(1_000_000).await;
    assert!(disk.begin("/cat", &meta("v"), 3).await.is_none(), "a key has one writer");
    writer.write(&body(1, 600_000)).await.unwrap();
    drop(writer);
    until("the room back", || disk.figures().disk_bytes == FOLDERS).await;
    assert_eq!(taken(folder.path()), 0);

    let mut writer = begin(10).await;
    writer.write(b"short").await.unwrap();
    assert_eq!(writer.commit().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    until("the room back", || disk.figures().disk_bytes == FOLDERS).await;

    let mut writer = begin(3).await;
    assert_eq!(writer.write(b"long").await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(writer.write(b"").await.is_err());
    assert!(writer.commit().await.is_err());
    until("the room back", || disk.figures().disk_bytes == FOLDERS).await;

    assert!(disk.get("/cat").await.is_none());
    assert!(disk.begin("/big", &meta("v"), 100 * MIB + 1).await.is_none());
    assert!(disk.begin("/third", &meta("v"), 3 * MIB).await.is_none(), "more than a quarter");
    assert!(disk.begin(&"x".repeat(KEY_MAX + 1), &meta("v"), 3).await.is_none());
    assert!(disk.begin("/meta", &meta(&"x".repeat(META_MAX)), 3).await.is_none());
    assert_eq!(disk.figures().write_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_reads_to_the_end_what_is_replaced_or_evicted_meanwhile() {
    let folder = TempDir::new().unwrap();
    let size = Arc::new(AtomicU64::new(20 * MIB));
    let settings = Settings { free_floor: 2 * MIB, ..settings(folder.path()) };
    let disk = Disk::open_on(settings, disk(folder.path(), &size)).unwrap();
    until("the index", || disk.figures().ready).await;
    let (old, new) = (body(1, 1_000_000), body(2, 900_000));
    put(&disk, "/cat", &old).await;
    let reader = disk.get("/cat").await.unwrap();
    put(&disk, "/cat", &new).await;
    let replaced = disk.figures().disk_bytes;
    assert!(read(&reader).await.unwrap() == old);
    assert!(get(&disk, "/cat").await.unwrap() == new);
    drop(reader);
    assert!(disk.figures().disk_bytes < replaced, "a file that is held open takes its bytes");

    let reader = disk.get("/cat").await.unwrap();
    // Others fill the disk.
    size.store(0, Ordering::Relaxed);
    until("everything to go", || disk.figures().objects == 0).await;
    size.store(20 * MIB, Ordering::Relaxed);
    assert!(disk.get("/cat").await.is_none());
    assert_eq!((taken(folder.path()), disk.figures().disk_bytes > FOLDERS + 900_000), (0, true));
    assert!(read(&reader).await.unwrap() == new);
    drop(reader);
    assert_eq!(disk.figures().disk_bytes, FOLDERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_refreshed_in_place() {
    let folder = TempDir::new().unwrap();
    for memory in [0, MIB] {
        let mut disk = open(&Settings { memory, ..settings(folder.path()) }).await;
        put(&disk, "/cat", b"meow").await;
        for etag in ["one", "two", "three"] {
            assert!(get(&disk, "/cat").await.is_some());
            assert!(disk.refresh("/cat", &meta(etag)).await);
            for _ in 0..2 {
                let object = disk.get("/cat").await.unwrap();
                assert_eq!(object.meta().field("etag"), Some(etag.as_bytes()));
                assert_eq!(read(&object).await.unwrap(), b"meow");
                disk = reopen(disk).await;
            }
        }
        assert!(!disk.refresh("/dog", &meta("v")).await);
        assert!(!disk.refresh("/cat", &meta(&"x".repeat(2000))).await);
        assert!(disk.get("/cat").await.is_none(), "what cannot be refreshed is not served");
        assert_eq!((disk.figures().corrupt, disk.figures().disk_bytes), (0, FOLDERS));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_stays_away() {
    let folder = TempDir::new().unwrap();
    let mut disk = open(&Settings { memory: MIB, ..settings(folder.path()) }).await;
    for key in ["/a/1", "/a/2", "/a/3", "/b/1", "/b/2"] {
        put(&disk, key, key.as_bytes()).await;
        assert!(get(&disk, key).await.is_some());
    }
    let mut late = disk.begin("/a/late", &meta("v"), 1).await.unwrap();
    late.write(b"x").await.unwrap();
    let mut again = disk.begin("/b/1", &meta("v"), 1).await.unwrap();
    again.write(b"x").await.unwrap();
    assert_eq!(disk.remove_prefix("/a/").await.unwrap(), 3);
    assert!(disk.remove("/b/1").await.unwrap());
    assert!(!disk.remove("/b/none").await.unwrap());
    assert!(late.commit().await.is_err(), "its bytes are from before the purge");
    assert!(again.commit().await.is_err());
    for _ in 0..2 {
        for key in ["/a/1", "/a/2", "/a/3", "/a/late", "/b/1"] {
            assert!(disk.get(key).await.is_none(), "{key}");
        }
        assert!(disk.get("/b/2").await.is_some());
        disk = reopen(disk).await;
    }
    put(&disk, "/a/1", b"new").await;
    assert_eq!(get(&disk, "/a/1").await.unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_that_are_asked_for_again_are_in_memory() {
    let folder = TempDir::new().unwrap();
    let disk = open(&Settings { memory: 200 * KIB, ..settings(folder.path()) }).await;
    put(&disk, "/cat", b"meow").await;
    put(&disk, "/large", &body(1, 70_000)).await;
    assert_eq!(disk.figures().memory_objects, 0, "it was only written");
    for key in ["/cat", "/large"] {
        assert!(get(&disk, key).await.is_some());
    }
    assert_eq!(disk.figures().memory_objects, 1);
    fs::remove_file(path(&disk, "/cat")).unwrap();
    assert_eq!(get(&disk, "/cat").await.unwrap(), b"meow");
    for number in 0..100 {
        let key = format!("/{number}");
        put(&disk, &key, &body(number, 10_000)).await;
        assert!(get(&disk, &key).await.is_some());
        assert!(disk.figures().memory_bytes <= 200 * KIB);
    }
    put(&disk, "/99", b"new").await;
    assert_eq!(get(&disk, "/99").await.unwrap(), b"new", "a new one replaces that in memory");
}
