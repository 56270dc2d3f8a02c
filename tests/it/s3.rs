//! The S3 origin: against a real server that checks signatures, and against scripted ones for what a real
//! server cannot be made to say.

use crate::support::client::End;
use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::request::Request;
use crate::support::seaweed::Seaweed;
use crate::support::wait::{PATIENCE, wait_until};

fn document(code: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>")
}

/// A store that answers probes with 404, and everything else with `reply`.
fn store(reply: Reply) -> Origin {
    Origin::respond(move |request| if is_probe(request) { absent() } else { reply.clone() })
}

fn is_probe(request: &Request) -> bool {
    request.target.contains("/hopfall-probe/")
}

fn absent() -> Reply {
    Reply::status(404).body(document("NoSuchKey"))
}

fn fleet(store: &Origin) -> Fleet {
    Fleet::new().store("cats", store.addr(), "AKIAEXAMPLE", "a-secret")
}

#[test]
fn keys_with_odd_characters_are_found() {
    let s3 = Seaweed::shared();
    s3.bucket("odd");
    let cases = [
        ("a b+c@d%/猫.jpg", "/a%20b+c@d%25/%E7%8C%AB.jpg"),
        ("a b+c@d%/猫.jpg", "/a%20b%2Bc%40d%25/猫.jpg"),
        ("~x/(1)!*'.txt", "/~x/(1)!*'.txt"),
        ("~x/(1)!*'.txt", "/%7Ex/%281%29%21%2A%27.txt"),
        ("deep/er/file", "/deep/er/file?v=2&list-type=2"),
        ("deep/er/file", "/deep%2Fer/file"),
    ];
    for (key, _) in cases {
        s3.put("odd", key, key, "text/plain");
    }
    let hopfall = Fleet::new().s3("odd").start();
    for (key, path) in cases {
        let answer = hopfall.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (200, key), "{path}");
        assert_eq!(hopfall.head(path).status, 200, "{path}");
    }
}

#[test]
fn a_prefix_is_never_left_and_the_bucket_never_listed() {
    let s3 = Seaweed::shared();
    s3.bucket("prefixed").put("prefixed", "img/cat.jpg", b"meow", "image/jpeg").put(
        "prefixed",
        "secret.txt",
        b"s",
        "text/plain",
    );
    let hopfall = Fleet::new().s3("prefixed").store_key("prefix: img/").start();
    assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
    for path in [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/x/../../secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/",
        "/?list-type=2",
        "/?acl",
        "/?prefix=",
        "/%00",
        "/cat.jpg%00",
        "/cat.jpg%0d%0aX-Evil:1",
    ] {
        let answer = hopfall.get(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.text().contains('<'), "{path} leaks the store's own answer");
    }
    assert_eq!(hopfall.get("/cat.jpg?acl").text(), "meow", "a query never reaches the store");
}

#[test]
fn the_store_sees_only_what_it_must() {
    let origin =
        store(Reply::ok("meow").header("x-amz-request-id", "1").header("Server", "Store").header("ETag", "\"e\""));
    let hopfall = fleet(&origin).start();
    let headers = [
        ("Authorization", "Bearer client"),
        ("Cookie", "a=b"),
        ("X-Amz-Acl", "public-read"),
        ("Range", "bytes=0-3"),
        ("If-None-Match", "\"x\""),
        ("User-Agent", "client"),
    ];
    let answer = hopfall.connect().request("GET", "/cat.jpg?acl&x-id=1", &headers).response();
    assert_eq!(answer.text(), "meow");
    assert_eq!(answer.header("etag"), Some("\"e\""));
    assert_eq!((answer.header("x-amz-request-id"), answer.header("server")), (None, None));

    wait_until("the request", PATIENCE, || origin.requests().iter().any(|request| !is_probe(request)));
    let requests = origin.requests();
    let request = requests.iter().find(|request| !is_probe(request)).unwrap();
    assert_eq!(request.target, "/cats/cat.jpg");
    assert_eq!(request.header("range"), Some("bytes=0-3"));
    assert_eq!(request.header("if-none-match"), Some("\"x\""));
    assert!(request.header("authorization").unwrap().starts_with("AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/"));
    assert!(request.header("x-amz-date").is_some());
    let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    names.sort();
    assert_eq!(
        names,
        ["authorization", "cdn-loop", "host", "if-none-match", "range", "via", "x-amz-content-sha256", "x-amz-date"]
    );
}

#[test]
fn a_wrong_secret_is_502_and_tells_the_operator() {
    let s3 = Seaweed::shared();
    s3.bucket("locked").put("locked", "cat.jpg", b"meow", "image/jpeg");
    let hopfall = Fleet::new().store("locked", s3.addr(), s3.access_key(), "not-the-secret").start();
    for path in ["/cat.jpg", "/nowhere.jpg"] {
        let answer = hopfall.get(path);
        assert_eq!(answer.status, 502, "{path}");
        assert!(answer.header("proxy-status").unwrap().contains("proxy_configuration_error"));
        assert_eq!(hopfall.head(path).status, 502, "{path}");
    }
    hopfall.wait_for_log("the secret key is wrong");
    assert!(!hopfall.log().contains("not-the-secret"));
    assert!(hopfall.metrics().value("hopfall_s3_requests_total", &[("op", "GET"), ("code", "403")]) >= 2.0);
}

#[test]
fn a_missing_bucket_is_502_and_never_404() {
    let s3 = Seaweed::shared();
    let hopfall = Fleet::new().store("no-such-bucket", s3.addr(), s3.access_key(), s3.secret_key()).start();
    hopfall.wait_for_log("the bucket does not exist");
    assert_eq!(hopfall.get("/cat.jpg").status, 502);
    assert_eq!(hopfall.head("/cat.jpg").status, 502);
}

#[test]
fn a_store_error_is_named_by_its_code() {
    let cases: &[(u16, &str, &str)] = &[
        (403, "RequestTimeTooSkewed", "clock is off"),
        (403, "InvalidAccessKeyId", "the access key does not exist"),
        (400, "ExpiredToken", "session token has expired"),
        (301, "PermanentRedirect", "the region or the endpoint is wrong"),
        (403, "AccessDenied", "may not read this object"),
        (404, "NoSuchBucket", "the bucket does not exist"),
    ];
    for (status, code, advice) in cases {
        let origin = store(Reply::status(*status).body(document(code)));
        let hopfall = fleet(&origin).start();
        assert_eq!(hopfall.get("/cat.jpg").status, 502, "{code}");
        hopfall.wait_for_log(advice);
    }
}

/// A bucket whose credentials may not list says 403 for a key that does not exist.
#[test]
fn a_403_for_absent_is_learned_from_the_bucket() {
    let hides = |request: &Request| match request.target.as_str() {
        "/cats/cat.jpg" => Reply::ok("meow"),
        "/cats/locked.jpg" => Reply::status(403).body(document("SignatureDoesNotMatch")),
        _ => Reply::status(403).body(document("AccessDenied")),
    };
    let origin = Origin::respond(hides);
    let hopfall = fleet(&origin).start();
    hopfall.wait_for_log("a missing key is 403 here");
    assert_eq!(hopfall.get("/cat.jpg").status, 200);
    assert_eq!(hopfall.get("/nowhere.jpg").status, 404);
    assert_eq!(hopfall.head("/nowhere.jpg").status, 404);
    assert_eq!(hopfall.get("/locked.jpg").status, 502);
    assert_eq!(hopfall.head("/locked.jpg").status, 502, "HEAD's 403 has no document, and is not taken for absence");

    for (forced, status) in [("not_found", 404), ("error", 502)] {
        let origin = Origin::respond(hides);
        let hopfall = fleet(&origin).store_key(&format!("on_403: {forced}")).start();
        assert_eq!(hopfall.get("/nowhere.jpg").status, status, "{forced}");
    }
}

#[test]
fn a_busy_store_is_asked_once_more() {
    let origin = Origin::respond(|request| match request.target.as_str() {
        "/cats/always.jpg" => Reply::status(503).body(document("SlowDown")),
        _ => absent(),
    });
    let hopfall = fleet(&origin).start();
    let answer = hopfall.get("/always.jpg");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let asked = origin.requests().iter().filter(|request| request.target == "/cats/always.jpg").count();
    assert_eq!(asked, 2);
}

#[test]
fn a_slow_or_broken_store_is_504_or_502_and_never_404() {
    let hang = store(Reply::hang());
    let hopfall = fleet(&hang).store_key("header_timeout: 300ms").start();
    assert_eq!(hopfall.get("/cat.jpg").status, 504);

    let cases =
        [(Reply::status(500), 502), (Reply::close(), 502), (Reply::reset(), 502), (Reply::raw("junk\r\n\r\n"), 502)];
    for (reply, status) in cases {
        let origin = store(reply);
        assert_eq!(fleet(&origin).start().get("/cat.jpg").status, status);
    }
    let nobody = crate::support::ports::free("127.0.0.1");
    let hopfall = Fleet::new().store("cats", nobody, "AK", "SK").start();
    assert_eq!(hopfall.get("/cat.jpg").status, 502);
}

#[test]
fn an_object_cut_short_aborts_the_client() {
    let origin = store(Reply::ok(vec![b'x'; 100_000]).cut_after(50_000));
    let hopfall = fleet(&origin).start();
    let answer = hopfall.get("/cat.jpg");
    assert_eq!(answer.status, 200);
    assert!(!answer.complete, "a part was presented as the whole");
    assert_eq!(answer.end, End::Reset);
    assert_eq!(hopfall.wait_for_access_log(1)[0]["aborted"], "upstream");
}

#[test]
fn an_upload_never_reaches_a_store() {
    let node = Nginx::with_files(&[]);
    let origin = store(Reply::ok("x"));
    let hopfall = fleet(&origin).node("a", node.addr()).start();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let status = hopfall.connect().upload(method, "/cat.jpg", &[], b"x").response().status;
        assert!(matches!(status, 404 | 405), "the node's own word on {method}: {status}");
    }
    assert!(origin.requests().iter().all(is_probe));

    let hopfall = fleet(&origin).start();
    let answer = hopfall.connect().upload("PUT", "/cat.jpg", &[], b"x").response();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
}

/// HEAD's second question must not wait for the place that its first one holds.
#[test]
fn many_heads_of_absent_keys_do_not_wait_for_each_other() {
    let origin = Origin::respond(|_| Reply::status(403).body(document("AccessDenied")));
    let hopfall = fleet(&origin).store_key("max_in_flight: 4").store_key("queue_timeout: 2s").start();
    hopfall.wait_for_log("a missing key is 403 here");
    let clients: Vec<_> = (0..16)
        .map(|i| {
            let mut client = hopfall.connect();
            client.request("HEAD", &format!("/{i}.jpg"), &[]);
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.response().status, 404);
    }
}

#[test]
fn an_error_document_that_takes_its_time_is_waited_for() {
    let late = |code: &str, status: u16| {
        let document = document(code);
        let pace = document.len() / 2;
        Reply::status(status).body(document).slow_body(pace, std::time::Duration::from_millis(400))
    };
    for (code, status, expected) in [("NoSuchBucket", 404, 502), ("NoSuchKey", 404, 404)] {
        let origin = store(late(code, status));
        assert_eq!(fleet(&origin).start().get("/cat.jpg").status, expected, "{code}");
    }
}

#[test]
fn a_part_that_nobody_asked_for_is_not_served_as_the_whole() {
    let origin = store(Reply::status(206).header("Content-Range", "bytes 0-3/10").body("meow"));
    assert_eq!(fleet(&origin).start().get("/cat.jpg").status, 502);
}

#[test]
fn what_s3_costs_is_counted_and_a_spent_budget_spares_the_nodes() {
    let node = Nginx::with_files(&[("dog.jpg", b"woof")]);
    let origin = store(Reply::ok(vec![b'x'; 1 << 20]));
    let fleet = fleet(&origin).node("a", node.addr());
    // Each object costs 0.001 + 1/1024 dollars, and the probe at start 0.001.
    let hopfall =
        fleet.store_key("prices: { thousand_requests: 1, gibibyte: 1 }").store_key("budget_per_day: 0.004").start();
    let spent = |hopfall: &crate::support::hopfall::Hopfall| {
        hopfall.metrics().value("hopfall_s3_cost_dollars_total", &[("store", "s3")])
    };
    wait_until("the probe is paid", PATIENCE, || spent(&hopfall) > 0.0009);
    assert_eq!(hopfall.get("/1").status, 200);
    let expected = 0.002 + 1.0 / 1024.0;
    assert!((spent(&hopfall) - expected).abs() < 1e-6, "{}", spent(&hopfall));
    let today = hopfall.metrics().value("hopfall_s3_cost_today_dollars", &[("store", "s3")]);
    assert!((today - expected).abs() < 1e-6, "{today}");
    assert_eq!(hopfall.metrics().value("hopfall_s3_budget_dollars", &[("store", "s3")]), 0.004);
    assert_eq!(hopfall.get("/2").status, 200);
    // Now more than 0.004 is spent.
    let asked = origin.requests().len();
    let broke = hopfall.get("/3");
    assert_eq!((broke.status, broke.header("retry-after")), (503, Some("1")));
    assert_eq!(origin.requests().len(), asked);
    assert_eq!(hopfall.get("/dog.jpg").text(), "woof", "nodes go on");

    // What was never sent costs nothing, so an outage does not spend the day's budget.
    let away = Fleet::new().store("cats", crate::support::ports::free("127.0.0.1"), "AK", "SK");
    let hopfall = away.store_key("prices: { thousand_requests: 1 }").start();
    assert_eq!(hopfall.get("/1").status, 502);
    assert_eq!(spent(&hopfall), 0.0);
}
