//! What a store keeps on its disk, and what many clients share of one request to S3.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bucket::Bucket;
use crate::support::client::{Client, End, Response};
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

const MIB: usize = 1024 * 1024;

/// A store with a disk of 200 MiB in `folder`, with more keys of the disk.
fn keeping(bucket: &Bucket, folder: &Path, keys: &str) -> Fleet {
    let disk = format!("disk: {{ path: \"{}\", bytes: 200MiB, free: 1MiB{keys} }}", folder.join("s3").display());
    passing(bucket).store_key(&disk)
}

/// A store that keeps nothing.
fn passing(bucket: &Bucket) -> Fleet {
    Fleet::new().store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret")
}

fn start(fleet: &Fleet) -> Hopfall {
    let hopfall = fleet.start();
    if fleet.yaml().contains("disk:") {
        wait_until("the disk is ready", PATIENCE, || hopfall.metrics().value("hopfall_store_ready", &[]) == 1.0);
    }
    hopfall
}

fn get(hopfall: &Hopfall, target: &str, headers: &[(&str, &str)]) -> Response {
    hopfall.connect().request("GET", target, headers).response()
}

fn objects(hopfall: &Hopfall) -> f64 {
    hopfall.metrics().value("hopfall_store_objects", &[])
}

/// Waits until so many files are on the disk: they get there after the client has its answer.
fn wait_for_objects(hopfall: &Hopfall, count: usize) {
    wait_until("the disk has them", PATIENCE, || objects(hopfall) == count as f64);
}

/// Bytes that differ everywhere.
fn body(length: usize) -> Vec<u8> {
    (0u32..).take(length).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

#[test]
fn a_file_is_asked_for_once_and_served_in_every_way_from_the_disk() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = body(300_000);
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    bucket.put("cat.jpg", "1", &cat, &[("Content-Type", "image/jpeg"), ("Last-Modified", date), ("x-amz-id-2", "s")]);
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    let first = hopfall.get("/cat.jpg");
    assert_eq!((first.status, first.header("cache-status")), (200, Some("hopfall; fwd=uri-miss")));
    assert!(first.body == cat);
    wait_for_objects(&hopfall, 1);

    let again = hopfall.get("/cat.jpg?v=2");
    assert!(again.status == 200 && again.body == cat && again.complete);
    assert_eq!(again.header("etag"), Some("\"1\""));
    assert_eq!(again.header("content-type"), Some("image/jpeg"));
    assert_eq!(again.header("x-amz-id-2"), None);
    assert!(again.header("age").is_some());
    assert!(again.header("cache-status").unwrap().starts_with("hopfall; hit; ttl=863"), "{again:?}");
    let head = hopfall.head("/cat.jpg");
    assert_eq!((head.status, head.header("content-length")), (200, Some("300000")));

    let part = get(&hopfall, "/cat.jpg", &[("Range", "bytes=100000-200000")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 100000-200000/300000")));
    assert!(part.body == cat[100_000..=200_000]);
    assert!(get(&hopfall, "/cat.jpg", &[("Range", "bytes=-7")]).body == cat[299_993..]);
    let beyond = get(&hopfall, "/cat.jpg", &[("Range", "bytes=300000-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */300000")));
    let other = get(&hopfall, "/cat.jpg", &[("Range", "bytes=0-9"), ("If-Range", "\"0\"")]);
    assert_eq!((other.status, other.body.len()), (200, 300_000), "a part of another version is never glued");

    for condition in [("If-None-Match", "\"1\""), ("If-Modified-Since", date)] {
        let same = get(&hopfall, "/cat.jpg", &[condition]);
        assert_eq!((same.status, same.header("etag"), same.header("content-length")), (304, Some("\"1\""), None));
    }
    assert_eq!(get(&hopfall, "/cat.jpg", &[("If-Match", "\"2\"")]).status, 412);
    assert_eq!(bucket.requests("cat.jpg").len(), 1);
    let log = hopfall.wait_for_access_log(2);
    assert_eq!((log[0]["cache"].as_str(), log[1]["cache"].as_str()), (Some("miss"), Some("hit")));

    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_store_requests_total", &[("result", "miss")]), 1.0);
    assert!(metrics.value("hopfall_store_requests_total", &[("result", "hit")]) >= 9.0);
    assert_eq!(metrics.value("hopfall_s3_requests_total", &[("op", "GET"), ("code", "200")]), 1.0);
    assert!(metrics.value("hopfall_store_bytes", &[]) > 300_000.0);
}

#[test]
fn what_is_kept_outlives_a_restart() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    for i in 0..20 {
        bucket.put(&format!("{i}"), "1", &body(1000 * i), &[]);
    }
    let fleet = keeping(&bucket, folder.path(), "");
    let mut hopfall = start(&fleet);
    for i in 0..20 {
        hopfall.get(&format!("/{i}"));
    }
    wait_for_objects(&hopfall, 20);
    assert_eq!(hopfall.terminate(), Some(0));
    let hopfall = fleet.start();
    for i in 0..20 {
        assert!(hopfall.get(&format!("/{i}")).body == body(1000 * i));
        assert_eq!(bucket.requests(&format!("{i}")).len(), 1);
    }
}

#[test]
fn a_folder_shows_nothing_of_the_bucket_that_had_it_before() {
    let (before, after, folder) = (Bucket::new(), Bucket::new(), TempDir::new().unwrap());
    before.put("cat.jpg", "1", b"the old cat", &[]);
    after.put("cat.jpg", "1", b"another cat", &[]);
    let mut hopfall = start(&keeping(&before, folder.path(), ""));
    assert_eq!(hopfall.get("/cat.jpg").text(), "the old cat");
    wait_for_objects(&hopfall, 1);
    assert_eq!(hopfall.terminate(), Some(0));
    let hopfall = start(&keeping(&after, folder.path(), ""));
    assert_eq!(hopfall.get("/cat.jpg").text(), "another cat");
}

/// So many clients ask at once for the whole of one file. Each checks what it gets against `expected`, piece by piece.
fn stampede(hopfall: &Hopfall, clients: usize, target: &str, expected: &Arc<Vec<u8>>) {
    let (web, asked) = (hopfall.web(), format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let asking = (0..clients).map(|_| {
        let (expected, asked) = (expected.clone(), asked.clone());
        let client = move || {
            let mut stream = TcpStream::connect(web).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(asked.as_bytes()).unwrap();
            let (mut buffer, mut head, mut at) = (vec![0; 64 * 1024], Vec::new(), 0);
            loop {
                let count = stream.read(&mut buffer).unwrap();
                let mut piece = &buffer[..count];
                if count == 0 {
                    break;
                }
                if at == 0 && !head.ends_with(b"\r\n\r\n") {
                    let end = piece.windows(4).position(|four| four == b"\r\n\r\n").map_or(count, |at| at + 4);
                    head.extend_from_slice(&piece[..end]);
                    piece = &piece[end..];
                }
                assert!(piece == &expected[at..at + piece.len()], "wrong at {at}");
                at += piece.len();
            }
            assert!(head.starts_with(b"HTTP/1.1 200 ") && at == expected.len(), "{at} bytes came");
        };
        thread::Builder::new().stack_size(256 * 1024).spawn(client).unwrap()
    });
    for client in asking.collect::<Vec<_>>() {
        client.join().unwrap();
    }
}

#[test]
fn a_stampede_asks_s3_once() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = Arc::new(body(10 * MIB));
    bucket.put("cat.mp4", "1", &cat, &[]);
    // While the first is still waiting, and while the body comes.
    bucket.mood(|_, reply| reply.delay(Duration::from_millis(300)).slow_body(MIB, Duration::from_millis(50)));
    for (fleet, clients) in [(passing(&bucket), 200), (keeping(&bucket, folder.path(), ""), 1000)] {
        let before = bucket.requests("cat.mp4").len();
        let hopfall = start(&fleet);
        stampede(&hopfall, clients, "/cat.mp4", &cat);
        assert_eq!(bucket.requests("cat.mp4").len() - before, 1);
        let rss = hopfall.rss_kib();
        assert!(rss < 250 * 1024, "{clients} clients: {rss} KiB");
        assert_eq!(hopfall.metrics().value("hopfall_collapsed_requests_total", &[]), (clients - 1) as f64);
    }
}

#[test]
fn what_is_too_large_for_memory_is_shared_on_the_disk() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let film = Arc::new(body(20 * MIB));
    bucket.put("film.mp4", "1", &film, &[]);
    bucket.mood(|_, reply| reply.slow_body(MIB, Duration::from_millis(20)));
    let hopfall = start(&keeping(&bucket, folder.path(), ", memory: 0").store_key("shared_memory: 1MiB"));
    stampede(&hopfall, 20, "/film.mp4", &film);
    assert_eq!(bucket.requests("film.mp4").len(), 1);
    assert!(hopfall.rss_kib() < 150 * 1024, "{} KiB", hopfall.rss_kib());
    wait_for_objects(&hopfall, 1);
    let part = get(&hopfall, "/film.mp4", &[("Range", "bytes=20000000-")]);
    assert!(part.body == film[20_000_000..] && bucket.requests("film.mp4").len() == 1);
}

#[test]
fn a_part_far_ahead_does_not_wait_for_all_before_it() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let film = body(12 * MIB);
    bucket.put("film.mp4", "1", &film, &[]);
    bucket.mood(|request, reply| match request.header("range") {
        None => reply.slow_body(64 * 1024, Duration::from_millis(200)),
        Some(_) => reply,
    });
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    let mut slow = hopfall.connect();
    slow.request("GET", "/film.mp4", &[]).response_head();
    let end = get(&hopfall, "/film.mp4", &[("Range", "bytes=12000000-")]);
    assert_eq!((end.status, end.header("cache-status")), (206, Some("hopfall; fwd=bypass")));
    assert!(end.body == film[12_000_000..]);
    let start = get(&hopfall, "/film.mp4", &[("Range", "bytes=0-9")]);
    assert_eq!((start.status, start.header("cache-status")), (206, Some("hopfall; fwd=uri-miss; collapsed")));
    assert!(start.body == film[..10]);
    assert_eq!(bucket.requests("film.mp4").len(), 2);
}

#[test]
fn when_s3_breaks_off_the_rest_is_asked_for() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = Arc::new(body(3 * MIB));
    bucket.put("cat.jpg", "1", &cat, &[]);
    bucket.put("dog.jpg", "1", &cat, &[]);
    let breaks = Arc::new(AtomicUsize::new(0));
    let broken = breaks.clone();
    bucket.mood(move |request, reply| match request.header("range") {
        None => {
            broken.fetch_add(1, Ordering::Relaxed);
            reply.delay(Duration::from_millis(200)).slow_body(64 * 1024, Duration::from_millis(2)).reset_after(MIB)
        }
        Some(_) => reply,
    });
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    stampede(&hopfall, 30, "/cat.jpg", &cat);
    assert_eq!((breaks.load(Ordering::Relaxed), bucket.requests("cat.jpg").len()), (1, 2));
    let rest = &bucket.requests("cat.jpg")[1];
    assert_eq!(rest.header("if-match"), Some("\"1\""));
    assert!(rest.header("authorization").unwrap().contains("SignedHeaders="));
    wait_for_objects(&hopfall, 1);
    assert!(hopfall.get("/cat.jpg").body == *cat);

    // Another version by then: never glued to the first.
    let state = Arc::new(bucket);
    let swapping = state.clone();
    state.mood(move |request, reply| match request.header("range") {
        None => {
            let other: Vec<u8> = body(3 * MIB).iter().map(|byte| !byte).collect();
            swapping.put("dog.jpg", "2", &other, &[]);
            reply.reset_after(MIB)
        }
        Some(_) => reply,
    });
    let mut client = hopfall.connect();
    let mut dog = client.request("GET", "/dog.jpg", &[]).response_head();
    client.read_body(&mut dog);
    assert!(!dog.complete && matches!(dog.end, End::Reset | End::Closed), "{:?}", dog.end);
    assert!(dog.body == cat[..dog.body.len()]);
    assert_eq!(objects(&hopfall), 1.0, "a broken body is not kept");
}

#[test]
fn a_client_that_leaves_takes_nobody_along() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = Arc::new(body(8 * MIB));
    bucket.put("cat.jpg", "1", &cat, &[]);
    bucket.mood(|_, reply| reply.slow_body(256 * 1024, Duration::from_millis(20)));
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    let mut first = hopfall.connect();
    first.request("GET", "/cat.jpg", &[]).response_head();
    let web = hopfall.web();
    let others: Vec<_> = (0..5)
        .map(|_| thread::spawn(move || Client::connect(web).request("GET", "/cat.jpg", &[]).response()))
        .collect();
    drop(first);
    for other in others {
        let answer = other.join().unwrap();
        assert!(answer.complete && answer.body == *cat);
    }
    assert_eq!(bucket.requests("cat.jpg").len(), 1);
    wait_for_objects(&hopfall, 1);
}

#[test]
fn a_stale_file_is_served_while_s3_is_asked() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    bucket.put("cat.jpg", "1", b"old", &[("Cache-Control", "max-age=0")]);
    let hopfall = start(&keeping(&bucket, folder.path(), ", ttl: 1h"));
    hopfall.get("/cat.jpg");
    wait_for_objects(&hopfall, 1);
    bucket.put("cat.jpg", "2", b"new one", &[]);
    let stale = hopfall.get("/cat.jpg");
    assert_eq!(stale.text(), "old");
    assert!(stale.header("cache-status").unwrap().starts_with("hopfall; hit; ttl=-"), "{stale:?}");
    wait_until("the new one is there", PATIENCE, || hopfall.get("/cat.jpg").text() == "new one");
    let asked = bucket.requests("cat.jpg");
    assert!(asked[1..].iter().all(|request| request.header("if-none-match").is_some()));
    let fresh = hopfall.get("/cat.jpg");
    assert!(fresh.header("cache-status").unwrap().starts_with("hopfall; hit; ttl=3"), "{fresh:?}");
}

#[test]
fn a_file_that_must_be_asked_for_first_costs_a_304() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    bucket.put("cat.jpg", "1", &body(100_000), &[("Cache-Control", "no-cache, must-revalidate")]);
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    hopfall.get("/cat.jpg");
    wait_for_objects(&hopfall, 1);
    let again = hopfall.get("/cat.jpg");
    assert_eq!(again.header("cache-status"), Some("hopfall; fwd=stale; fwd-status=304"));
    assert!(again.body == body(100_000));
    assert_eq!(hopfall.head("/cat.jpg").status, 200);
    let metrics = hopfall.metrics();
    assert_eq!(metrics.value("hopfall_s3_requests_total", &[("code", "304")]), 2.0);
    assert_eq!(metrics.value("hopfall_s3_bytes_total", &[]), 100_000.0);

    // Gone from the bucket: gone from the disk.
    bucket.delete("cat.jpg");
    assert_eq!(hopfall.get("/cat.jpg").status, 404);
    wait_for_objects(&hopfall, 0);
}

#[test]
fn a_stale_file_is_served_when_s3_fails_for_as_long_as_it_may() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    bucket.put("cat.jpg", "1", b"meow", &[("Cache-Control", "max-age=0, stale-while-revalidate=0")]);
    bucket.put("dog.jpg", "1", b"woof", &[("Cache-Control", "max-age=0, must-revalidate")]);
    bucket.put("fox.jpg", "1", b"ring", &[("Cache-Control", "max-age=0, stale-while-revalidate=0, stale-if-error=2")]);
    let hopfall = start(&keeping(&bucket, folder.path(), ", stale_if_error: 1h"));
    for path in ["/cat.jpg", "/dog.jpg", "/fox.jpg"] {
        hopfall.get(path);
    }
    wait_for_objects(&hopfall, 3);
    bucket.mood(|_, _| Reply::status(500));
    // Until it is stale it is served in any case; ages are whole seconds.
    let cat = hopfall.get("/cat.jpg");
    assert_eq!((cat.status, cat.text().as_str()), (200, "meow"));
    assert!(cat.header("cache-status").unwrap().starts_with("hopfall; hit; ttl=-"), "{cat:?}");
    assert_eq!(hopfall.get("/dog.jpg").status, 502, "must-revalidate forbids it");
    assert_eq!(hopfall.get("/fox.jpg").status, 200);
    wait_until("two seconds are over", PATIENCE, || hopfall.get("/fox.jpg").status == 502);
    bucket.good_mood();
    assert_eq!(hopfall.get("/dog.jpg").text(), "woof");
}

#[test]
fn what_may_not_be_kept_is_neither_kept_nor_shared() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    for (key, fields) in [
        ("no-store", ("Cache-Control", "no-store")),
        ("private", ("Cache-Control", "private, max-age=60")),
        ("varies", ("Vary", "*")),
        ("cookie", ("Set-Cookie", "a=b")),
    ] {
        bucket.put(key, "1", &body(200_000), &[fields]);
    }
    bucket.mood(|_, reply| reply.delay(Duration::from_millis(100)));
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    for key in ["no-store", "private", "varies", "cookie"] {
        let path = &format!("/{key}");
        stampede(&hopfall, 4, path, &Arc::new(body(200_000)));
        assert_eq!(bucket.requests(key).len(), 4, "{key}");
        let answer = get(&hopfall, path, &[("Range", "bytes=0-9")]);
        assert_eq!((answer.status, answer.header("cache-status")), (206, Some("hopfall; fwd=bypass")));
    }
    assert_eq!(objects(&hopfall), 0.0);
}

#[test]
fn a_purge_removes_from_the_disk_and_from_what_is_under_way() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    for key in ["a/1", "a/2", "b/1"] {
        bucket.put(key, "1", b"old", &[]);
    }
    let hopfall = start(&keeping(&bucket, folder.path(), "").store_key("prefix: a/"));
    for path in ["/1", "/2"] {
        hopfall.get(path);
    }
    wait_for_objects(&hopfall, 2);
    let purge = |query: &str| hopfall.ask_admin("POST", &format!("/purge?{query}"), &[], "").text();
    bucket.put("a/1", "2", b"new", &[]);
    assert_eq!(purge("path=/1"), "forgotten: /1 (1 removed from disk)\n");
    assert_eq!((hopfall.get("/1").text(), hopfall.get("/2").text()), ("new".to_owned(), "old".to_owned()));
    wait_for_objects(&hopfall, 2);
    assert_eq!(purge("prefix=/"), "forgotten: all paths that begin with / (2 removed from disk)\n");
    assert_eq!(objects(&hopfall), 0.0);

    // One is under way when it is purged: who came before gets it, and nobody after.
    bucket.put("a/3", "1", &body(400_000), &[]);
    bucket.mood(|_, reply| reply.slow_body(50_000, Duration::from_millis(50)));
    let mut before = hopfall.connect();
    let mut old = before.request("GET", "/3", &[]).response_head();
    bucket.put("a/3", "2", b"new", &[]);
    purge("path=/3");
    assert_eq!(hopfall.get("/3").text(), "new");
    before.read_body(&mut old);
    assert!(old.complete && old.body == body(400_000));
    wait_for_objects(&hopfall, 1);
    assert_eq!(hopfall.get("/3").text(), "new");
}

/// All files on the disk.
fn files(folder: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(folder.join("s3")).unwrap().flatten().filter(|entry| entry.path().is_dir());
    shards.flat_map(|shard| fs::read_dir(shard.path()).unwrap().flatten().map(|file| file.path())).collect()
}

#[test]
fn a_file_that_went_bad_on_the_disk_is_never_served() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = body(3 * MIB);
    bucket.put("cat.jpg", "1", &cat, &[]);
    let hopfall = start(&keeping(&bucket, folder.path(), ", memory: 0"));
    for damaged_at in [0, MIB + 5, 3 * MIB - 1] {
        hopfall.get("/cat.jpg");
        wait_for_objects(&hopfall, 1);
        let file = files(folder.path()).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let start = bytes.windows(64).position(|window| window == &cat[..64]).unwrap();
        bytes[start + damaged_at] ^= 1;
        fs::write(&file, bytes).unwrap();
        let answer = hopfall.get("/cat.jpg");
        assert!(answer.complete && answer.body == cat, "damaged at {damaged_at}");
    }
    // The rest came from S3, from where the bad block began.
    assert!(bucket.requests("cat.jpg").iter().any(|request| request.header("range").is_some()));
    wait_until("it is counted", PATIENCE, || {
        hopfall.metrics().value("hopfall_store_errors_total", &[("kind", "corrupt")]) == 3.0
    });
}

#[test]
fn a_disk_that_fails_is_only_a_miss() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = body(200_000);
    for key in ["cat.jpg", "dog.jpg", "fox.jpg"] {
        bucket.put(key, "1", &cat, &[]);
    }
    // Full: there is never so much free.
    let hopfall = start(&passing(&bucket).store_key(&format!(
        "disk: {{ path: \"{}\", bytes: 100MiB, free: 1000TiB }}",
        folder.path().join("full").display()
    )));
    assert!(hopfall.get("/cat.jpg").body == cat && hopfall.get("/cat.jpg").body == cat);
    wait_until("it is counted", PATIENCE, || {
        hopfall.metrics().value("hopfall_store_refused_total", &[("bound", "free")]) >= 1.0
    });
    assert_eq!(objects(&hopfall), 0.0);

    // Every write fails: a file stands where each folder should be.
    let hopfall = start(&keeping(&bucket, folder.path(), ""));
    for shard in 0..256 {
        let shard = folder.path().join("s3").join(format!("{shard:02x}"));
        let _ = fs::remove_dir_all(&shard);
        fs::write(&shard, b"").unwrap();
    }
    for key in ["/dog.jpg", "/dog.jpg", "/fox.jpg"] {
        assert!(hopfall.get(key).body == cat);
    }
    wait_until("it is counted", PATIENCE, || {
        hopfall.metrics().value("hopfall_store_errors_total", &[("kind", "write")]) >= 1.0
    });
    hopfall.wait_for_log("disk: cannot create an object");

    // It cannot even be opened.
    let hopfall = passing(&bucket).store_key("disk: { path: /dev/null/x, bytes: 100MiB }").start();
    hopfall.wait_for_log("its disk is not used");
    assert!(hopfall.get("/cat.jpg").body == cat);
    assert!(hopfall.metrics().has("hopfall_store_ready", &[("store", "s3")]));
    let none = passing(&bucket).start();
    assert!(!none.metrics().has("hopfall_store_ready", &[]), "where no disk is configured, none is not ready");
}

#[test]
fn the_bytes_on_the_disk_stay_within_their_bound() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    for i in 0..60 {
        bucket.put(&format!("{i}"), "1", &body(MIB), &[]);
    }
    let disk = format!("disk: {{ path: \"{}\", bytes: 12MiB, free: 1MiB }}", folder.path().join("s3").display());
    let hopfall = start(&passing(&bucket).store_key(&disk));
    let most = AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..4 {
            let (hopfall, most, folder) = (&hopfall, &most, folder.path());
            scope.spawn(move || {
                for i in 0..60 {
                    assert_eq!(hopfall.get(&format!("/{}", (i * 7 + client * 13) % 60)).body.len(), MIB);
                    let files = files(folder);
                    let taken = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len());
                    most.fetch_max(taken.sum(), Ordering::Relaxed);
                }
            });
        }
    });
    let most = most.into_inner();
    assert!((6 << 20..=12 << 20).contains(&most), "{most} bytes");
    assert!(hopfall.metrics().value("hopfall_store_evictions_total", &[]) > 10.0);
}

#[test]
fn a_budget_that_is_spent_leaves_what_is_kept() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    bucket.put("cat.jpg", "1", b"meow", &[]);
    bucket.put("dog.jpg", "1", b"woof", &[]);
    let fleet = keeping(&bucket, folder.path(), "")
        .store_key("prices: { thousand_requests: 1000 }")
        .store_key("budget_per_day: 2");
    let hopfall = start(&fleet);
    wait_until("it is probed", PATIENCE, || hopfall.metrics().sum("hopfall_s3_requests_total", &[]) == 1.0);
    hopfall.get("/cat.jpg");
    wait_for_objects(&hopfall, 1);
    assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
    let refused = hopfall.get("/dog.jpg");
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(hopfall.metrics().value("hopfall_s3_cost_dollars_total", &[]), 2.0);
    let status = hopfall.status();
    let store = &status["stores"][0];
    assert_eq!(
        (&store["name"], &store["dollars_today"], &store["budget_per_day"]),
        (&"s3".into(), &2.0.into(), &2.0.into())
    );
}

#[test]
fn one_search_serves_all_who_ask_for_a_cold_path() {
    let (bucket, folder) = (Bucket::new(), TempDir::new().unwrap());
    let cat = Arc::new(body(300_000));
    bucket.put("cat.jpg", "1", &cat, &[]);
    let slow = || Origin::respond(|_| Reply::status(404).delay(Duration::from_millis(150)));
    let (first, second) = (slow(), slow());
    let fleet = keeping(&bucket, folder.path(), "")
        .node("first", first.addr())
        .node("second", second.addr())
        .pool("from_nodes: trust")
        .top("location: { control: 0, absent_ttl: 0s }");
    let hopfall = start(&fleet);
    stampede(&hopfall, 100, "/cat.jpg", &cat);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    assert_eq!(bucket.requests("cat.jpg").len(), 1);
    assert_eq!(hopfall.metrics().value("hopfall_collapsed_requests_total", &[]), 99.0);

    // What nobody has is found out once, too.
    let web = hopfall.web();
    let asking: Vec<_> =
        (0..50).map(|_| thread::spawn(move || Client::connect(web).request("GET", "/none", &[]).response())).collect();
    assert!(asking.into_iter().all(|client| client.join().unwrap().status == 404));
    assert!(first.requests().len() <= 3, "{}", first.requests().len());
}

#[test]
fn a_file_of_a_node_is_searched_once_and_asked_of_that_node() {
    let lean = Origin::respond(|_| Reply::status(404).delay(Duration::from_millis(100)));
    let full = Nginx::with_files(&[("dog.jpg", b"woof")]);
    let fleet = Fleet::new()
        .node_with("lean", lean.addr(), "weight: 255")
        .node("full", full.addr())
        .pool("from_nodes: trust")
        .top("location: { control: 0 }");
    let hopfall = fleet.start();
    let web = hopfall.web();
    let asking: Vec<_> = (0..50)
        .map(|_| thread::spawn(move || Client::connect(web).request("GET", "/dog.jpg", &[]).response().text()))
        .collect();
    assert!(asking.into_iter().all(|client| client.join().unwrap() == "woof"));
    assert!(lean.requests().len() <= 1, "{}", lean.requests().len());
}

/// Who asks S3 first may have lost its time at the nodes; who waits for its answer has more.
#[test]
fn who_leads_and_has_no_time_left_is_not_the_last_word() {
    let bucket = Bucket::new();
    bucket.put("cat.jpg", "1", b"meow", &[]);
    bucket.mood(|_, reply| reply.delay(Duration::from_millis(1200)));
    let slow_at_first = AtomicUsize::new(0);
    let node = Origin::respond(move |_| {
        let first = slow_at_first.fetch_add(1, Ordering::Relaxed) == 0;
        Reply::status(404).delay(Duration::from_millis(if first { 2500 } else { 0 }))
    });
    let fleet = passing(&bucket)
        .store_key("header_timeout: 2500ms")
        .node("node", node.addr())
        .pool("header_timeout: 2800ms")
        .pool("from_nodes: trust")
        .route("deadline: 3s");
    let hopfall = fleet.start();
    let web = hopfall.web();
    let late = thread::spawn(move || Client::connect(web).request("GET", "/cat.jpg", &[]).response().status);
    wait_until("S3 is asked", PATIENCE, || !bucket.requests("cat.jpg").is_empty());
    assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
    assert_eq!(late.join().unwrap(), 504);
}

#[test]
fn a_node_that_calls_back_is_not_waited_for() {
    let web = crate::support::hopfall::reserve();
    let bucket = Bucket::new();
    bucket.put("cat.jpg", "1", b"meow", &[]);
    // It asks us for what we ask it for: once with our mark, once without.
    let calls_back = |keep: bool| {
        Origin::respond(move |request| {
            let via: Vec<(&str, &str)> =
                request.header("via").filter(|_| keep).map(|via| ("Via", via)).into_iter().collect();
            let asked = Client::connect(web).request("GET", &request.target, &via).response();
            Reply::status(if asked.status == 200 { 200 } else { 404 }).body(asked.text())
        })
    };
    for keep in [true, false] {
        let node = calls_back(keep);
        let fleet = passing(&bucket)
            .node("back", node.addr())
            .pool("from_nodes: trust")
            .pool("max_in_flight: 8")
            .pool("queue: 0")
            .top("location: { control: 0 }");
        let hopfall = fleet.builder().address("web", web).start();
        let began = std::time::Instant::now();
        assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
        assert!(began.elapsed() < Duration::from_secs(6), "keep {keep}: {:?}", began.elapsed());
        if keep {
            assert!(began.elapsed() < Duration::from_millis(450), "{:?}", began.elapsed());
            assert_eq!(node.requests().len(), 1);
        }
    }
}
