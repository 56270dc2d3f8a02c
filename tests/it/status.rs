//! The status page and its JSON; who may look and who may order; and the page in a real browser.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use ::hopfall::admin::Status;
use serde_json::{Value, json};

use crate::support::bucket::Bucket;
use crate::support::chromium::Chromium;
use crate::support::client::{Client, Response};
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall, command};
use crate::support::nginx::{HeaderMode, Nginx};
use crate::support::origin::{Origin, Reply};
use crate::support::process::Ran;
use crate::support::wait::{PATIENCE, wait_until};

const TOKEN: &str = "a-token-of-some-length";
const BROWSER: (&str, &str) = ("Accept", "text/html,*/*;q=0.8");

/// A fleet whose orders need [`TOKEN`].
fn guarded(fleet: &Fleet, keys: &str) -> Hopfall {
    let admin = format!("admin: {{ address: \"{{admin}}\", token: \"${{TOKEN}}\", {keys} }}");
    let yaml = fleet.yaml().replace("admin: { address: \"{admin}\" }", &admin);
    Hopfall::builder(&yaml).env("TOKEN", TOKEN).start()
}

fn before_s3(fleet: Fleet, bucket: &Bucket) -> Fleet {
    fleet.store("cats", bucket.addr(), "AKIAEXAMPLE", "a-secret")
}

fn mode(hopfall: &Hopfall) -> Value {
    hopfall.status()["pools"][0]["nodes"][0]["mode"].clone()
}

#[test]
fn the_json_tells_what_happened() {
    let lean = Nginx::with_files(&[]);
    let full = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let bucket = Bucket::new();
    let fleet = Fleet::new().node_with("lean", lean.addr(), "weight: 200").node("full", full.addr());
    let hopfall = before_s3(fleet, &bucket).top("location: { absent_ttl: 0s }").start();
    for _ in 0..10 {
        assert_eq!(hopfall.get("/cat.jpg").status, 200);
    }
    assert_eq!(hopfall.get("/nowhere.jpg").status, 404);
    wait_until("all are counted", PATIENCE, || hopfall.status()["requests"]["last_minute"] == 11);
    let status = hopfall.status();
    let nodes = &status["pools"][0]["nodes"];
    assert_eq!((&nodes[0]["name"], &nodes[1]["name"]), (&"lean".into(), &"full".into()));
    assert!(nodes[0]["absent"].as_u64().unwrap() >= 2 && nodes[0]["found"] == 0, "{nodes:#}");
    assert_eq!((&nodes[1]["found"], &nodes[1]["failed"]), (&10.into(), &0.into()));
    let took = nodes[1]["p95_seconds"].as_f64().unwrap();
    assert!(took > 0.0 && took < 2.5, "{took}");
    assert_eq!(status["requests"]["own_last_minute"], 1);
    assert!(status["requests"]["per_second"].as_f64().unwrap() > 0.5, "{status:#}");
    assert_eq!(
        (&status["chains"][0]["hops"][0]["share"], &status["chains"][0]["hops"][1]["share"]),
        (&1.0.into(), &0.0.into())
    );
    assert_eq!(status["stores"][0]["absent"], 1);
    assert!(status["s3"]["requests_last_minute"].as_u64().unwrap() >= 1);
    assert_eq!(status["location"]["entries"], 2, "one path that somebody has, one that some lack");

    hopfall.order(&["node", "images", "lean", "drain"]);
    hopfall.order(&["purge", "/cat.jpg"]);
    let events = hopfall.status()["events"].clone();
    let told = |i: usize| json!([events[i]["kind"], events[i]["node"], events[i]["told"]]);
    assert_eq!(told(0), json!(["purged", null, "/cat.jpg"]));
    assert_eq!(told(1), json!(["mode", "lean", "drain, was accept"]));
}

/// Every key that is told is in the schema, and the other way round; and `docs/status.md` has them all.
#[test]
fn the_schema_is_what_is_told() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let folder = tempfile::tempdir().unwrap();
    let disk = format!("disk: {{ path: \"{}/s3\", bytes: 64MiB }}", folder.path().display());
    let bucket = Bucket::new();
    let fleet = before_s3(Fleet::new().node("a", node.addr()), &bucket).store_key(&disk);
    let hopfall = fleet.top("location: {}").start();
    hopfall.order(&["reload"]);
    hopfall.connect().request("GET", "/x", &[("Via", &via(&hopfall, &node))]).response();
    wait_until("a loop is told", PATIENCE, || hopfall.status()["loops"].as_array().is_some_and(|all| !all.is_empty()));
    let schema: Value = serde_json::from_slice(&hopfall.ask_admin("GET", "/status.schema.json", &[], "").body).unwrap();
    assert_eq!(schema, serde_json::to_value(schemars::schema_for!(Status)).unwrap());
    let (mut described, mut told) = (BTreeSet::new(), BTreeSet::new());
    keys_of_schema(&schema, &schema, "", &mut described);
    keys_of(&hopfall.status(), "", &mut told);
    assert_eq!(told, described.iter().map(|(key, _)| key.clone()).collect());

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let document = std::fs::read_to_string(&file).unwrap();
    let rows: String = described.iter().map(|(key, what)| format!("| `{key}` | {what} |\n")).collect();
    let (before, rest) = document.split_once("| --- | --- |\n").expect("a table");
    let after = &rest[rest.find("\n\n").map_or(rest.len(), |end| end + 1)..];
    let wanted = format!("{before}| --- | --- |\n{rows}{after}");
    if document != wanted && std::env::var_os("HOPFALL_UPDATE").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    for (is, should) in document.lines().zip(wanted.lines()) {
        assert_eq!(is, should, "docs/status.md is not what the schema says; HOPFALL_UPDATE=1 writes it anew");
    }
    assert_eq!(document.lines().count(), wanted.lines().count());
}

/// What a node sends along when it sends a request back.
fn via(hopfall: &Hopfall, node: &Nginx) -> String {
    hopfall.get("/cat.jpg");
    node.requests()[0].header("via").expect("requests to nodes bear it").to_owned()
}

fn keys_of(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys_of(value, &key, keys);
                keys.insert(key);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys_of(value, &format!("{path}[]"), keys)),
        _ => {}
    }
}

fn keys_of_schema(root: &Value, schema: &Value, path: &str, keys: &mut BTreeSet<(String, String)>) {
    if let Some(name) = schema["$ref"].as_str() {
        return keys_of_schema(root, root.pointer(name.trim_start_matches('#')).unwrap(), path, keys);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of_schema(root, choice, path, keys);
    }
    if schema.get("items").is_some() {
        keys_of_schema(root, &schema["items"], &format!("{path}[]"), keys);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let key = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let of_type = |property: &Value| {
            let name = property["$ref"].as_str().or(property["items"]["$ref"].as_str())?;
            root.pointer(name.trim_start_matches('#'))?["description"].as_str().map(str::to_owned)
        };
        let own = property["description"].as_str().map(str::to_owned).or_else(|| of_type(property));
        keys_of_schema(root, property, &key, keys);
        keys.insert((key, own.unwrap_or_default().replace('\n', " ")));
    }
}

#[test]
fn a_browser_gets_a_small_page_that_nothing_can_break_out_of() {
    let evil = "\"<script>alert(1)</script>\"";
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let hopfall = Fleet::new().node(evil, node.addr()).start();
    hopfall.get("/cat.jpg");
    hopfall.order(&["purge", "/<img src=x onerror=alert(2)>"]);
    for path in ["/", "/status"] {
        let answer = hopfall.ask_admin("GET", path, &[BROWSER], "");
        let (page, policy) = (answer.text(), answer.header("content-security-policy").unwrap());
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.len() < 30_000, "{} bytes", page.len());
        assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert(1)"));
        assert!(page.contains("/&lt;img src=x") && !page.contains("<img"));
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(!page.contains("style=\"") && !page.contains(" onclick"));
        assert!(!page.contains("<button"), "no token, no orders");
    }
    let nonce = |answer: Response| answer.header("content-security-policy").unwrap().to_owned();
    let ask = || nonce(hopfall.ask_admin("GET", "/status", &[BROWSER], ""));
    assert_ne!(ask(), ask());
    assert_eq!(
        hopfall.ask_admin("GET", "/status.json", &[BROWSER], "").header("content-type"),
        Some("application/json")
    );
}

#[test]
fn the_first_words_tell_of_stores_that_are_not_there_or_cost_too_much() {
    let node = Nginx::with_files(&[]);
    let page = |hopfall: &Hopfall| hopfall.ask_admin("GET", "/", &[BROWSER], "").text();
    let away = Fleet::new().node("a", node.addr()).store("cats", hopfall::reserve(), "AK", "SK").start();
    assert!(page(&away).contains("The node is up"));
    assert_eq!(away.get("/cat.jpg").status, 502);
    assert!(page(&away).contains("s3 answers no request"), "{}", page(&away));

    let bucket = Bucket::new();
    let fleet = before_s3(Fleet::new().node("a", node.addr()), &bucket);
    let dear = fleet.store_key("prices: { thousand_requests: 1000 }").store_key("budget_per_day: 1").start();
    dear.get("/cat.jpg");
    assert!(page(&dear).contains("Today's budget is spent: s3"), "{}", page(&dear));
}

#[test]
fn without_a_token_orders_come_from_command_lines_on_this_machine() {
    let node = Nginx::with_files(&[]);
    let all: SocketAddr = ([0, 0, 0, 0], hopfall::reserve().port()).into();
    let hopfall = Fleet::new().node("a", node.addr()).builder().address("admin", all).start();
    let here = format!("127.0.0.1:{}", all.port());
    let own = format!("http://{here}");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let cases: &[Case<'_>] = &[
        ("a command line", &[], 200),
        ("the page itself", &[("Origin", &own), ("Sec-Fetch-Site", "same-origin")], 200),
        ("a page of another site", &[("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")], 403),
        ("an old browser there", &[("Origin", "http://evil.example")], 403),
        ("another port of this host", &[("Origin", "http://127.0.0.1:1"), ("Sec-Fetch-Site", "same-site")], 403),
        ("a sandboxed frame", &[("Origin", "null")], 403),
        ("no Origin, but its place", &[("Sec-Fetch-Site", "cross-site")], 403),
        ("a name that leads here", &[("Host", "evil.example"), ("Origin", "http://evil.example")], 421),
        ("a name that leads here, silent", &[("Host", "evil.example")], 421),
    ];
    for (what, fields, expected) in cases {
        for order in ["/node?pool=images&node=a&mode=drain", "/purge?path=/x", "/reload"] {
            let fields =
                [*fields, &[("Host", here.as_str())][..usize::from(!fields.iter().any(|(n, _)| *n == "Host"))]];
            let answer = hopfall.ask_admin("POST", order, &fields.concat(), "");
            assert_eq!(answer.status, *expected, "{what}: {order}: {}", answer.text());
        }
        if *expected != 200 {
            assert_eq!(hopfall.ask_admin("GET", "/status", &[("Host", &here)], "").status, 200);
        }
    }
    let sign_in = hopfall.ask_admin("POST", "/sign-in", &[("Host", &here)], "token=x");
    assert_eq!(sign_in.status, 404, "there is nothing to sign in with");
    let rebound = hopfall.ask_admin("GET", "/status.json", &[("Host", "evil.example")], "");
    assert_eq!((rebound.status, rebound.text().contains("admin.hosts")), (421, true), "nor may it look");
}

#[test]
fn with_a_token_orders_show_it() {
    let node = Nginx::with_files(&[]);
    let hopfall = guarded(&Fleet::new().node("a", node.addr()), "hosts: [lb.example.com]");
    const DRAIN: &str = "/node?pool=images&node=a&mode=drain";
    let order = |fields: &[(&str, &str)], body: &str| hopfall.ask_admin("POST", DRAIN, fields, body);
    const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

    let refused = order(&[], "");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(order(&[("Authorization", "Bearer wrong")], "").status, 401);
    assert_eq!(mode(&hopfall), "accept");
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(order(&[("Authorization", &bearer)], "").status, 200);
    assert_eq!(mode(&hopfall), "drain");
    let foreign = order(&[("Authorization", &bearer), ("Origin", "http://evil.example")], "");
    assert_eq!(foreign.status, 403, "the token does not make up for it");
    assert_eq!(hopfall.ask_admin("GET", "/status", &[("Host", "lb.example.com")], "").status, 200);

    // Signing in, and what it is worth.
    let sign_in = |token: &str| hopfall.ask_admin("POST", "/sign-in", &[FORM], &format!("token={token}"));
    let wrong = sign_in("not-the-token");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let signed_in = sign_in(TOKEN);
    assert_eq!((signed_in.status, signed_in.header("location")), (303, Some("status")));
    let cookie = signed_in.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains(TOKEN), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let page = hopfall.ask_admin("GET", "/status", &[BROWSER, ("Cookie", cookie)], "").text();
    let csrf = page.split_once("name=csrf value=").unwrap().1.split('>').next().unwrap();
    let form = format!("csrf={csrf}");
    let made_up = format!("csrf={}", "0".repeat(64));
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16);
    let cases: &[Case<'_>] = &[
        ("a session alone", &[("Cookie", cookie)], "", 403),
        ("a session with a made-up form", &[("Cookie", cookie)], &made_up, 403),
        ("a form alone", &[], &form, 401),
        (
            "a session's form, sent by another site",
            &[("Cookie", cookie), ("Origin", "http://evil.example")],
            &form,
            403,
        ),
        ("a made-up session", &[("Cookie", &format!("{cookie}0"))], &form, 401),
        ("a session's form", &[("Cookie", cookie)], &form, 303),
    ];
    for (what, fields, body, expected) in cases {
        let answer = order(&[&[FORM], *fields].concat(), body);
        assert_eq!(answer.status, *expected, "{what}: {}", answer.text());
    }
    let wrong_node =
        hopfall.ask_admin("POST", "/node?pool=images&node=b&mode=drain", &[BROWSER, ("Cookie", cookie)], &form);
    assert_eq!(wrong_node.status, 404);
    assert!(wrong_node.text().contains("there is no node `b` in pool `images`"), "and the page says why");
    let out = hopfall.ask_admin("POST", "/sign-out", &[("Cookie", cookie)], &form);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));

    // Guessing.
    let guesses: Vec<u16> = (0..12).map(|_| sign_in("guess").status).collect();
    assert!(guesses.contains(&429) && !guesses.contains(&303), "{guesses:?}");
    assert_eq!(sign_in(TOKEN).status, 429, "else it could be guessed on");
    wait_until("it may be tried again", PATIENCE, || sign_in(TOKEN).status == 303);
    for said in [hopfall.log(), hopfall.metrics().text().to_owned(), hopfall.status().to_string(), page] {
        assert!(!said.contains(TOKEN));
    }
}

#[test]
fn bodies_are_small_and_the_connection_lives_on() {
    let node = Nginx::with_files(&[]);
    let hopfall = guarded(&Fleet::new().node("a", node.addr()), "");
    let host = hopfall.admin().to_string();
    let fields = [("Host", host.as_str()), ("Authorization", "Bearer a-token-of-some-length")];
    let mut client = Client::connect(hopfall.admin());
    for mode in ["drain", "accept"] {
        let body = format!("pool=images&node=a&mode={mode}");
        assert_eq!(client.upload("POST", "/node", &fields, body.as_bytes()).response().status, 200);
        assert_eq!(client.request("GET", "/status", &fields).response().status, 200, "on the same connection");
    }
    // Two requests in one packet: the body's end is where the next one begins.
    let body = "pool=images&node=a&mode=backup";
    client.send(format!(
        "POST /node HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}\
         GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.response().status, 200);
    let next = client.try_response();
    assert!(next.is_err() || next.is_ok_and(|answer| answer.text() == "ok\n"), "closed, or answered; never garbled");
    assert_eq!(mode(&hopfall), "backup");
    for (fields, body, expected) in [
        (vec![], "x=".to_owned() + &"y".repeat(5000), 413),
        (vec![("Transfer-Encoding", "chunked")], "5\r\nx=yyy\r\n0\r\n\r\n".to_owned(), 411),
    ] {
        let mut client = Client::connect(hopfall.admin());
        let fields =
            [vec![("Host", host.as_str()), ("Authorization", "Bearer a-token-of-some-length")], fields].concat();
        match expected {
            413 => client.upload("POST", "/node", &fields, body.as_bytes()),
            _ => client.request("POST", "/node", &fields).send_body(body.as_bytes()),
        };
        assert_eq!(client.response().status, expected);
        assert!(client.closes_within(PATIENCE));
    }
}

#[test]
fn commands_show_the_token_that_their_config_refers_to() {
    let node = Nginx::with_files(&[]);
    let hopfall = guarded(&Fleet::new().node("a", node.addr()), "");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let run = |token: &str, arguments: &[&str]| -> Ran {
        let file = folder.path().join("hopfall.yaml");
        let yaml = Fleet::new().node("a", node.addr()).yaml();
        let admin = format!("admin: {{ address: \"{}\", {token} }}", hopfall.admin());
        std::fs::write(&file, yaml.replace("admin: { address: \"{admin}\" }", &admin)).unwrap();
        command(&[arguments, &["-c", file.to_str().unwrap()]].concat())
    };
    let from_file = format!("token: \"file:{}/token\"", folder.path().display());
    let ran = run(&from_file, &["node", "images", "a", "drain"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "a: drain, was accept; until a restart\n"), "{}", ran.stderr);
    assert_eq!(run(&from_file, &["purge", "/x"]).code, Some(0));
    let without = run("", &["node", "images", "a", "accept"]);
    assert_eq!(without.code, Some(1));
    assert!(without.stderr.contains("this command needs the token"), "{}", without.stderr);
    let unset = run("token: \"${HOPFALL_NO_SUCH_VARIABLE}\"", &["purge", "/x"]);
    assert_eq!(unset.code, Some(2));
    assert!(unset.stderr.contains("`HOPFALL_NO_SUCH_VARIABLE` is not set"), "{}", unset.stderr);
    let healthy = run("token: \"${HOPFALL_NO_SUCH_VARIABLE}\"", &["healthcheck"]);
    assert_eq!(healthy.code, Some(0), "its health is told to everybody: {}", healthy.stderr);
}

fn url(hopfall: &Hopfall) -> String {
    format!("http://{}/status", hopfall.admin())
}

/// By day and by night, on a phone and on a desktop.
fn pictures(browser: &Chromium, name: &str) {
    for (width, height, device) in [(390, 844, "phone"), (1280, 900, "desktop")] {
        for scheme in ["light", "dark"] {
            browser.look_like(width, height, scheme);
            browser.picture(&format!("{name}-{device}-{scheme}"));
            let too_wide = browser.run("return document.documentElement.scrollWidth > innerWidth");
            assert_eq!(too_wide, false, "{name}: it has to be moved sideways on a {device}");
        }
    }
}

#[test]
fn in_chromium_the_page_follows_the_fleet_by_itself() {
    let web = hopfall::reserve();
    let node = |address: &str| Nginx::at(address).file("cat.jpg", b"meow");
    let chitoge = node("127.0.0.2").miss_proxied_to(web, HeaderMode::Kept).proxy_bind("127.0.0.2").start();
    let mut taiga = node("127.0.0.3").start();
    let nadeko = Nginx::with_files(&[("cat.jpg", b"meow"), ("dog.jpg", b"woof")]);
    let fleet = Fleet::new().node("nadeko", nadeko.addr()).node("taiga", taiga.addr()).node("chitoge", chitoge.addr());
    let fleet = fleet.pool("health: { check: connection, interval: 100ms, fall: 2, rise: 1 }");
    let bucket = Bucket::new();
    bucket.put("fox.jpg", "1", b"ring", &[]);
    let fleet = before_s3(fleet, &bucket).store_key("prices: { thousand_requests: 10 }").store_key("budget_per_day: 1");
    let hopfall = fleet.top("location: {}").builder().address("web", web).start();
    let browser = Chromium::start();
    browser.open(&url(&hopfall));
    browser.run("window.opened = true");
    browser.wait_for_text("#verdict", "All 3 nodes are up");
    (0..30).for_each(|_| {
        hopfall.get("/cat.jpg");
    });
    wait_until("the cats are told of", PATIENCE, || !browser.text("svg.flow").contains("no requests"));
    pictures(&browser, "healthy");

    taiga.kill();
    browser.wait_for_text("#verdict", "1 of 3 nodes is down: taiga");
    browser.wait_for_text("ol", "taiga of images is down: its checks fail: connection_refused");
    pictures(&browser, "down");
    taiga.restart();
    browser.wait_for_text("#verdict", "All 3 nodes are up");

    // chitoge asks hopfall for what it lacks.
    (0..9).for_each(|i| {
        hopfall.get(&format!("/missing-{i}.jpg"));
        hopfall.get("/fox.jpg");
    });
    browser.wait_for_text("main", "chitoge points back");
    browser.wait_for_text("#verdict", "Loop: chitoge");
    pictures(&browser, "loop");
    assert_eq!(browser.run("return window.opened"), true, "it was never loaded anew");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.run("return document.querySelectorAll('button').length"), 0);
}

#[test]
fn in_chromium_a_node_is_drained_by_a_click_and_no_other_site_can_do_that() {
    let [a, b] = [(); 2].map(|()| Nginx::with_files(&[("cat.jpg", b"meow")]));
    let fleet = Fleet::new().node("a", a.addr()).node("b", b.addr());
    let hopfall = guarded(&fleet, "");
    let browser = Chromium::start();
    browser.open(&url(&hopfall));
    browser.write("#token", "not-the-token-at-all");
    browser.click("form[action=sign-in] button");
    browser.wait_for_text(".notice", "that is not the token");
    browser.write("#token", TOKEN);
    browser.click("form[action=sign-in] button");
    browser.wait_for_text("td.order", "Drain");
    assert_eq!(browser.url(), url(&hopfall));
    browser.click("td.order button");
    browser.wait_for_text("ol", "a of images is set to drain, was accept");
    assert_eq!(mode(&hopfall), "drain");
    browser.wait_for_text("#verdict", "Set aside: a");
    browser.wait_for_text("td.order", "Accept");
    browser.write("#path", "/cat.jpg");
    browser.click("form[action=purge] button");
    browser.wait_for_text("ol", "Forgotten: /cat.jpg");
    pictures(&browser, "signed-in");
    assert_eq!(browser.run("return document.cookie"), "", "no script can read the session");

    // The session is open, and a page elsewhere sends the same form.
    let order = format!("http://{}/node", hopfall.admin());
    let evil = Origin::at("127.0.0.9").respond(move |_| {
        let form = format!(
            "<form action='{order}' method=post><input name=pool value=images><input name=node value=a>\
             <input name=mode value=accept></form><script>document.forms[0].submit()</script>"
        );
        Reply::ok(form).header("Content-Type", "text/html")
    });
    browser.open(&format!("http://{}/", evil.addr()));
    browser.wait_for_text("body", "a page of another site sent this");
    assert_eq!(mode(&hopfall), "drain");
    browser.open(&url(&hopfall));
    browser.click("form[action=sign-out] button");
    browser.wait_for_text("label", "show the token");
}
