//! The location map: who had a path is asked first, and what nobody has is not asked again at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::wait::{PATIENCE, wait_until};

/// "lean" holds nothing; "full" holds dog.jpg; the bucket holds fox.jpg.
fn fleet(bucket: &str, location: &str) -> (Nginx, Nginx, Fleet) {
    let (lean, full) = (Nginx::with_files(&[]), Nginx::with_files(&[("dog.jpg", b"woof")]));
    let s3 = crate::support::seaweed::Seaweed::shared();
    s3.bucket(bucket).put(bucket, "fox.jpg", b"ring", "image/jpeg");
    let fleet = Fleet::new().node("lean", lean.addr()).node("full", full.addr()).s3(bucket).top(location);
    (lean, full, fleet)
}

fn s3_asked(hopfall: &Hopfall) -> f64 {
    hopfall.metrics().sum("hopfall_attempts_total", &[("node", "s3")])
}

#[test]
fn the_holder_is_asked_first() {
    let (lean, full, fleet) = fleet("located", "location: { control: 0 }");
    let hopfall = fleet.start();
    for _ in 0..20 {
        assert_eq!(hopfall.get("/dog.jpg").text(), "woof");
        assert_eq!(hopfall.get("/fox.jpg").text(), "ring");
        assert_eq!(hopfall.head("/fox.jpg").status, 200);
    }
    assert!(lean.requests_for("/dog.jpg").len() <= 1, "asked again of a node that lacks it");
    assert_eq!(full.requests_for("/dog.jpg").len(), 20);
    for node in [&lean, &full] {
        assert_eq!(node.requests_for("/fox.jpg").len(), 1, "nodes that lack it are passed over");
    }
    let metrics = hopfall.metrics();
    assert!(metrics.value("hopfall_location_lookups_total", &[("result", "hit")]) >= 57.0);
    assert_eq!(metrics.value("hopfall_location_lookups_total", &[("result", "wrong")]), 0.0);
    assert_eq!(metrics.value("hopfall_location_entries", &[]), 2.0);
    let per_request = metrics.value("hopfall_location_attempts_total", &[("group", "hinted")])
        / metrics.value("hopfall_location_requests_total", &[("group", "hinted")]);
    assert!(per_request < 1.1, "{per_request} attempts per request");
}

#[test]
fn a_wrong_hint_costs_a_hop_and_never_the_answer() {
    let (lean, full, fleet) = fleet("moved", "location: { control: 0 }");
    let hopfall = fleet.start();
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
    // It moves to the other node, and the cold one moves to a node.
    full.remove("dog.jpg");
    lean.put("dog.jpg", b"woof");
    for _ in 0..5 {
        assert_eq!(hopfall.get("/dog.jpg").text(), "woof");
    }
    assert!(full.requests_for("/dog.jpg").len() <= 2);
    assert_eq!(hopfall.metrics().value("hopfall_location_lookups_total", &[("result", "wrong")]), 1.0);

    crate::support::seaweed::Seaweed::shared().delete("moved", "fox.jpg");
    assert_eq!(hopfall.get("/fox.jpg").status, 404);
    lean.put("fox.jpg", b"ring");
    hopfall.get("/fox.jpg");
}

#[test]
fn nowhere_is_answered_from_the_map_for_a_short_time() {
    let (lean, full, fleet) = fleet("nowhere", "location: { control: 0, ttl: 1h, absent_ttl: 3s }");
    let hopfall = fleet.start();
    for _ in 0..10 {
        let answer = hopfall.get("/none.jpg");
        assert_eq!((answer.status, answer.header("cache-control")), (404, Some("max-age=10")));
    }
    assert_eq!((lean.requests().len(), full.requests().len()), (1, 1));
    assert_eq!(hopfall.metrics().value("hopfall_location_lookups_total", &[("result", "nowhere")]), 9.0);
    assert!(hopfall.wait_for_access_log(10).iter().any(|line| line["location"] == "nowhere"));
    // A file put there is seen once the time is over.
    lean.put("none.jpg", b"here");
    wait_until("it is seen", PATIENCE, || hopfall.get("/none.jpg").status == 200);
}

#[test]
fn what_could_not_be_asked_is_never_nowhere() {
    let (lean, mut full) = (Nginx::with_files(&[]), Nginx::with_files(&[("dog.jpg", b"woof")]));
    let hopfall =
        Fleet::new().node("lean", lean.addr()).node("full", full.addr()).top("location: { control: 0 }").start();
    full.kill();
    for _ in 0..5 {
        assert_eq!(hopfall.get("/dog.jpg").status, 503);
    }
    full.restart();
    wait_until("it is found", PATIENCE, || hopfall.get("/dog.jpg").status == 200);
}

#[test]
fn an_upload_or_a_purge_makes_it_ask_again() {
    let (lean, _full, fleet) = fleet("purged", "location: { control: 0 }");
    let hopfall = fleet.start();
    assert_eq!(hopfall.get("/a/none.jpg").status, 404);
    lean.put("a/none.jpg", b"here");
    assert_eq!(hopfall.get("/a/none.jpg").status, 404, "the map answers");
    // (The node refuses the upload; that there was one is what counts.)
    hopfall.connect().upload("PUT", "/a/none.jpg", &[], b"x").response();
    assert_eq!(hopfall.get("/a/none.jpg").status, 200);

    for (path, arguments) in [("/b/x", vec!["purge", "/b/x"]), ("/c/x", vec!["purge", "/c/", "--prefix"])] {
        assert_eq!(hopfall.get(path).status, 404);
        lean.put(path.trim_start_matches('/'), b"here");
        assert_eq!(hopfall.get(path).status, 404);
        let ran = hopfall.order(&arguments);
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.starts_with("forgotten: "), "{}", ran.stdout);
        assert_eq!(hopfall.get(path).status, 200, "{path}");
    }
    assert_eq!(hopfall.order(&["purge", "no-slash"]).code, Some(2));
}

#[test]
fn who_looked_for_a_file_while_it_was_uploaded_has_not_seen_it() {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let there = AtomicBool::new(false);
    let node = Origin::respond(move |request| {
        if request.method == "PUT" {
            released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            there.store(true, Ordering::Relaxed);
            return Reply::status(201);
        }
        if there.load(Ordering::Relaxed) { Reply::ok("meow") } else { Reply::status(404) }
    });
    let fleet = Fleet::new().node("node", node.addr()).top("location: { control: 0 }");
    // An upload and a GET of one path at a time, from the node's own machine, would look like a loop.
    let hopfall = fleet.pool("from_nodes: trust").start();
    let mut uploader = hopfall.connect();
    uploader.upload("PUT", "/cat.jpg", &[], b"meow");
    wait_until("it is under way", PATIENCE, || node.requests().iter().any(|request| request.method == "PUT"));
    assert_eq!(hopfall.get("/cat.jpg").status, 404);
    release.send(()).unwrap();
    assert_eq!(uploader.response().status, 201);
    assert_eq!(hopfall.get("/cat.jpg").status, 200);
}

/// What it has sent may have made a file, or taken one away.
#[test]
fn an_upload_that_its_client_gives_up_is_forgotten_of_the_map_too() {
    let there = Arc::new(AtomicBool::new(false));
    let is_there = there.clone();
    let node = Origin::respond(move |_| match is_there.load(Ordering::Relaxed) {
        true => Reply::ok("meow"),
        false => Reply::status(404),
    });
    let fleet = Fleet::new().node("node", node.addr()).top("location: { control: 0 }");
    let hopfall = fleet.pool("from_nodes: trust").start();
    let mut uploader = hopfall.connect();
    uploader.request("PUT", "/cat.jpg", &[("Content-Length", "100")]).send("meow");
    wait_until("it is under way", PATIENCE, || node.open() == 1);
    wait_until("the map says that nobody has it", PATIENCE, || {
        assert_eq!(hopfall.get("/cat.jpg").status, 404);
        hopfall.metrics().value("hopfall_location_lookups_total", &[("result", "nowhere")]) > 0.0
    });
    there.store(true, Ordering::Relaxed);
    drop(uploader);
    wait_until("it has ended", PATIENCE, || hopfall.access_log().iter().any(|line| line["method"] == "PUT"));
    assert_eq!(hopfall.get("/cat.jpg").status, 200);
}

#[test]
fn the_map_outlives_a_restart_and_a_torn_file_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("location");
    let (lean, full, fleet) = fleet("kept", &format!("location: {{ control: 0, file: \"{}\" }}", file.display()));
    let mut hopfall = fleet.start();
    assert_eq!(hopfall.get("/fox.jpg").status, 200);
    assert_eq!(hopfall.terminate(), Some(0));
    assert!(file.exists());
    let asked = lean.requests_for("/fox.jpg").len() + full.requests_for("/fox.jpg").len();

    let mut hopfall = fleet.start();
    hopfall.wait_for_log("knows 1 paths from before");
    assert_eq!(hopfall.get("/fox.jpg").status, 200);
    let again = lean.requests_for("/fox.jpg").len() + full.requests_for("/fox.jpg").len();
    assert_eq!(again, asked, "the nodes are known to lack it");
    assert_eq!(s3_asked(&hopfall), 1.0);
    hopfall.terminate();

    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let hopfall = fleet.start();
    hopfall.wait_for_log("is ignored: it is torn");
    assert_eq!(hopfall.get("/fox.jpg").status, 200);
}

#[test]
fn the_control_group_is_asked_as_if_nothing_were_known() {
    let (lean, full, fleet) = fleet("control", "location: { control: 100 }");
    let hopfall = fleet.start();
    for _ in 0..10 {
        assert_eq!(hopfall.get("/fox.jpg").status, 200);
    }
    assert_eq!((lean.requests().len(), full.requests().len()), (10, 10));
    let attempts = hopfall.metrics().value("hopfall_location_attempts_total", &[("group", "control")]);
    assert_eq!(attempts, 30.0);
}
