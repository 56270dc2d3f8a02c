//! What a bad disk, a crash or a stranger did.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn torn_rotten_and_foreign_files_are_removed_and_counted() {
    let folder = TempDir::new().unwrap();
    let disk = open(&settings(folder.path())).await;
    let whole = body(1, 400_000);
    type Damage = fn(&mut Vec<u8>);
    let damage: &[(&str, Damage)] = &[
        ("head", |file| file[30] ^= 1),
        ("version", |file| file[8] ^= 2),
        ("metadata", |file| file[60] ^= 1),
        ("cut", |file| file.truncate(300_000)),
        ("empty", Vec::clear),
        ("long", |file| file.push(0)),
        ("zeros", |file| file[50..].fill(0)),
        ("foreign", |file| *file = b"<html>".to_vec()),
    ];
    for (index, (what, damage)) in damage.iter().enumerate() {
        put(&disk, "/cat", &whole).await;
        let mut file = fs::read(path(&disk, "/cat")).unwrap();
        damage(&mut file);
        fs::write(path(&disk, "/cat"), file).unwrap();
        assert!(disk.get("/cat").await.is_none(), "{what}");
        assert!(!path(&disk, "/cat").exists(), "{what}");
        assert_eq!((disk.figures().corrupt, disk.figures().disk_bytes), (index as u64 + 1, FOLDERS), "{what}");
    }

    put(&disk, "/cat", &whole).await;
    put(&disk, "/dog", &whole).await;
    fs::copy(path(&disk, "/dog"), path(&disk, "/cat")).unwrap();
    assert!(disk.get("/cat").await.is_none(), "the object of another key");
    assert!(disk.get("/dog").await.is_some());

    let mut file = fs::read(path(&disk, "/dog")).unwrap();
    let end = file.len() - 1;
    file[end] ^= 1;
    fs::write(path(&disk, "/dog"), file).unwrap();
    let object = disk.get("/dog").await.unwrap();
    assert!(object.read_at(65_000, 1000).await.unwrap() == whole[65_000..66_000], "other blocks are whole");
    assert_eq!(object.read_at(399_000, 10).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(disk.get("/dog").await.is_none());
    drop(object);
    assert_eq!(disk.figures().disk_bytes, FOLDERS);

    put(&disk, "/cat", b"meow").await;
    let shard = path(&disk, "/cat").parent().unwrap().to_owned();
    for file in ["0123456789abcdef0123456789abcd.tmp", "notes.txt", "core"] {
        fs::write(shard.join(file), b"x").unwrap();
    }
    let disk = reopen(disk).await;
    assert_eq!((disk.figures().leftovers, disk.figures().foreign), (1, 2));
    assert_eq!(fs::read_dir(shard).unwrap().count(), 1);
    assert_eq!(get(&disk, "/cat").await.unwrap(), b"meow");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_disk_are_misses_and_counted() {
    let folder = TempDir::new().unwrap();
    let disk = open(&settings(folder.path())).await;
    let shard = path(&disk, "/cat").parent().unwrap().to_owned();
    fs::write(&shard, b"no folder").unwrap();
    assert!(disk.begin("/cat", &meta("v"), 4).await.is_none());
    assert_eq!((disk.figures().write_errors > 0, disk.figures().disk_bytes), (true, FOLDERS));
    assert!(disk.begin("/dog", &meta("v"), 4).await.is_none(), "it is left alone for a while");
    fs::remove_file(&shard).unwrap();
    until("the end of the pause", || !disk.is_pausing()).await;

    put(&disk, "/cat", b"meow").await;
    fs::remove_file(path(&disk, "/cat")).unwrap();
    fs::create_dir(path(&disk, "/cat")).unwrap();
    assert!(disk.get("/cat").await.is_none(), "a folder cannot be read");
    assert_eq!((disk.figures().read_errors, disk.figures().corrupt), (1, 0));
    assert!(try_put(&disk, "/cat", "v", b"meow").await.unwrap().is_err(), "nor replaced");
    assert!(disk.remove("/cat").await.is_err(), "nor removed");
    assert!(disk.figures().disk_bytes > FOLDERS, "what could not be removed still takes its bytes");
    fs::remove_dir(path(&disk, "/cat")).unwrap();
    until("what was stuck to go", || disk.figures().disk_bytes == FOLDERS).await;

    until("the end of the pause", || !disk.is_pausing()).await;
    put(&disk, "/cat", b"meow").await;
    fs::remove_file(path(&disk, "/cat")).unwrap();
    assert!(disk.get("/cat").await.is_none(), "somebody removed it");
    assert_eq!(disk.figures().disk_bytes, FOLDERS);
    put(&disk, "/cat", b"meow").await;
    assert_eq!(get(&disk, "/cat").await.unwrap(), b"meow");

    let failing = Arc::new(AtomicBool::new(false));
    let seen = failing.clone();
    let free = move |_: &Path| if seen.load(Ordering::Relaxed) { Err(io::Error::other("EIO")) } else { Ok(1 << 40) };
    let folder = TempDir::new().unwrap();
    let disk = Disk::open_on(settings(folder.path()), Box::new(free)).unwrap();
    until("the index", || disk.figures().ready).await;
    failing.store(true, Ordering::Relaxed);
    assert!(disk.begin("/cat", &meta("v"), 4).await.is_none());
    assert_eq!(disk.figures().write_errors, 1);
}

#[test]
fn a_folder_that_is_no_store_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("index.html"), b"mine").unwrap();
    let error = Disk::open(settings(folder.path())).err().unwrap();
    assert!(error.to_string().ends_with("holds files and is no disk; give the disk an empty folder"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(Disk::open(settings(&folder.path().join("index.html"))).is_err());
    assert!(Disk::open(settings(Path::new("/dev/null/disk"))).is_err());
}
