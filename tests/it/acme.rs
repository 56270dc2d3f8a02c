//! Certificates by ACME, from Pebble: got, kept, renewed, and never taken away.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::support::ca::{self, Ca};
use super::support::certificate::Certificate;
use super::support::curl::curl;
use super::support::fleet::Fleet;
use super::support::hopfall::{self, Hopfall};
use super::support::nginx::Nginx;
use super::support::origin::{Origin, Reply};
use super::support::process;
use super::support::wait::{PATIENCE, wait_for, wait_until};

/// In the past, so that whatever moment is chosen has passed.
const NOW: (&str, &str) = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");

/// A folder for what is kept, a node, an address that a CA can be told of before hopfall is there.
struct Site {
    node: Origin,
    folder: TempDir,
    address: SocketAddr,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        Site { node: Origin::always(Reply::ok("x")), folder, address: hopfall::reserve() }
    }

    fn ca(&self) -> Ca {
        Ca::that_validates_at(self.address.port())
    }

    #[track_caller]
    fn start(&self, ca: &Ca, tls: &str, more: &str) -> Hopfall {
        self.fleet(ca, tls, more).builder().address("web", self.address).start()
    }

    fn fleet(&self, ca: &Ca, tls: &str, more: &str) -> Fleet {
        let acme = format!(
            "acme: {{ folder: \"{}\", terms_of_service_agreed: true, {} {more} }}",
            self.folder.path().display(),
            ca.keys()
        );
        Fleet::new().node("node", self.node.addr()).listener("protocol: https").listener(tls).top(&acme)
    }

    /// Where the CA's files are.
    fn kept(&self) -> PathBuf {
        let entry = std::fs::read_dir(self.folder.path()).unwrap().next().expect("a folder for the CA").unwrap();
        entry.path()
    }
}

/// What a client who asks for `name` is shown, as `openssl x509` tells it; empty without a handshake.
fn shown(hopfall: &Hopfall, name: &str, more: &[&str]) -> String {
    shown_at(hopfall.web(), name, more)
}

fn shown_at(address: SocketAddr, name: &str, more: &[&str]) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &address.to_string()]).args(more);
    match name {
        "" => client.arg("-noservername"),
        name => client.args(["-servername", name]),
    };
    let handshake = process::run(client.stdin(Stdio::null()), PATIENCE);
    if !handshake.stdout.contains("-----BEGIN CERTIFICATE-----") {
        return String::new();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shown.pem");
    std::fs::write(&file, &handshake.stdout).unwrap();
    let mut decode = Command::new("openssl");
    decode.args(["x509", "-noout", "-text", "-in", file.to_str().unwrap()]);
    process::run(&mut decode, PATIENCE).stdout
}

/// Waits for one that was ordered since this hopfall began, and gives what a client is shown.
#[track_caller]
fn wait_for_certificate(hopfall: &Hopfall, name: &str) -> String {
    hopfall.wait_for_log(&format!("{name}: a new certificate, good until 20"));
    let shown = shown(hopfall, name, &[]);
    assert!(shown.contains(&format!("DNS:{name}")), "{shown}");
    shown
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn problem(status: u16, kind: &str) -> Reply {
    let body = format!("{{\"type\":\"urn:ietf:params:acme:error:{kind}\",\"detail\":\"as told\",\"status\":{status}}}");
    Reply::status(status).body(body).header("Content-Type", "application/problem+json").header("Retry-After", "1")
}

#[test]
fn a_certificate_is_got_trusted_and_used_again_after_a_restart() {
    let site = Site::new();
    let ca = Ca::that_refuses_nonces(site.address.port());
    ca.refuse_orders(Some(problem(429, "rateLimited")));
    let tls = "tls: { acme: [a.test, B.test] }";
    let mut hopfall = site.start(&ca, tls, ", email: ops@a.test");
    // Until there is one, there is no handshake.
    hopfall
        .wait_for_log("a.test: no certificate yet: API error: as told (urn:ietf:params:acme:error:rateLimited); fix:");
    assert_eq!(shown(&hopfall, "a.test", &[]), "");
    ca.refuse_orders(None);
    let first = wait_for_certificate(&hopfall, "a.test");
    assert!(wait_for_certificate(&hopfall, "b.test").contains("DNS:b.test"));
    assert_eq!(shown(&hopfall, "", &[]), first, "the first name is the default");

    // A client that trusts the CA is served, over HTTP/2 too.
    let root = site.folder.path().join("root");
    std::fs::write(&root, ca.root()).unwrap();
    for name in ["a.test", "b.test"] {
        let resolve = format!("{name}:{}:127.0.0.1", site.address.port());
        let url = format!("https://{name}:{}/x", site.address.port());
        let answer = curl(&["--cacert", root.to_str().unwrap(), "--resolve", &resolve, &url]);
        assert_eq!((answer.status, answer.version.as_str(), answer.text().as_str()), (200, "2", "x"), "{answer:?}");
    }
    std::fs::remove_file(&root).unwrap();

    let kept = site.kept();
    assert_eq!(mode(&kept), 0o700);
    let mut files: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&kept).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    files.sort();
    assert_eq!(files, ["a.test.pem", "account.json", "b.test.pem"]);
    let metrics = hopfall.metrics();
    assert!(
        metrics.value("hopfall_certificate_expires_timestamp_seconds", &[("listener", "web"), ("name", "b.test")])
            > 1.8e9
    );
    assert_eq!(metrics.value("hopfall_certificate_orders_total", &[("name", "a.test"), ("result", "success")]), 1.0);
    assert!(metrics.value("hopfall_certificate_orders_total", &[("name", "a.test"), ("result", "failure")]) >= 1.0);
    let agents: Vec<_> = ca.requests().iter().map(|r| r.header("user-agent").unwrap().to_owned()).collect();
    assert!(agents.iter().all(|agent| agent.starts_with("hopfall/")), "{agents:?}");

    assert_eq!(hopfall.terminate(), Some(0));
    assert_secrets_are_not_in(&hopfall.log(), &kept);
    let orders = ca.orders().len();
    ca.refuse_all(Some(Reply::reset()));
    let hopfall = site.start(&ca, tls, "");
    assert_eq!(shown(&hopfall, "a.test", &[]), first, "from the disk, without the CA");
    assert_eq!(ca.orders().len(), orders);
}

/// Not a line of a key, in any spelling that is on the disk.
fn assert_secrets_are_not_in(log: &str, kept: &Path) {
    let account = std::fs::read_to_string(kept.join("account.json")).unwrap();
    let account: serde_json::Value = serde_json::from_str(&account).unwrap();
    let key = account["key_pkcs8"].as_str().unwrap().to_owned();
    let pem = std::fs::read_to_string(kept.join("a.test.pem")).unwrap();
    let private = pem.lines().skip_while(|line| !line.contains("PRIVATE KEY")).nth(1).unwrap().to_owned();
    for secret in [&key[..40], &private[..40]] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_renewal_that_the_ca_wants_now_drops_no_connection() {
    let site = Site::new();
    let ca = site.ca();
    ca.suggest("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z");
    let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    let first = wait_for_certificate(&hopfall, "a.test");
    hopfall.wait_for_log("a.test: the CA suggests to renew it from 2099-01-01T00:00:00Z to 2099-01-02T00:00:00Z");
    assert_eq!(ca.orders().len(), 1, "not before its time");
    hopfall.terminate();

    ca.suggest(NOW.0, NOW.1);
    // It waits with its order until a connection is open.
    ca.refuse_orders(Some(problem(503, "rateLimited")));
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    let mut open = Open::to(&hopfall, "a.test");
    assert!(open.ask().starts_with("HTTP/1.1 200"));
    ca.refuse_orders(None);
    let second = wait_for_certificate(&hopfall, "a.test");
    assert_ne!(second, first);
    assert!(open.ask().starts_with("HTTP/1.1 200"), "a connection under way goes on");
    hopfall.wait_for_log("from 2020-01-01T00:00:00Z to 2020-01-02T00:00:00Z, see https://ca.test/why");

    // The CA was told which one it replaces: authority, then serial number (RFC 9773 §4.1).
    let orders = ca.orders();
    let replaced = orders.last().unwrap()["replaces"].as_str().unwrap().to_owned();
    let asked = ca.requests().into_iter().find(|request| request.target.starts_with("/ari/")).unwrap();
    assert_eq!(asked.target, format!("/ari/{replaced}"));
    assert_eq!(orders[0]["replaces"], serde_json::Value::Null);
    // It says "now" of the new one too, and gets no order for it so soon.
    let asked = || ca.requests().iter().filter(|request| request.target.starts_with("/ari/")).count();
    wait_until("the CA to be asked of the new one", PATIENCE, || asked() >= 3);
    assert_eq!(shown(&hopfall, "a.test", &[]), second);
    assert_eq!(hopfall.metrics().value("hopfall_certificate_orders_total", &[("result", "success")]), 1.0);
}

/// A client's connection, with one request after another.
struct Open {
    process: std::process::Child,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

impl Open {
    fn to(hopfall: &Hopfall, name: &str) -> Open {
        Open::with(hopfall, name, &[])
    }

    fn with(hopfall: &Hopfall, name: &str, more: &[&str]) -> Open {
        let mut process = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &hopfall.web().to_string(), "-servername", name])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = std::io::BufReader::new(process.stdout.take().unwrap());
        Open { process, answers }
    }

    fn ask(&mut self) -> String {
        use std::io::{BufRead, Read, Write};
        self.process.stdin.as_mut().unwrap().write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.answers.read_line(&mut head).unwrap() > 0, "closed after {head}");
        }
        self.answers.read_exact(&mut [0]).unwrap();
        head
    }
}

impl Open {
    /// What comes in answer until the end.
    fn ask_in_vain(&mut self) -> String {
        use std::io::{Read, Write};
        // It may be closed already.
        let _ = self.process.stdin.as_mut().unwrap().write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let mut all = String::new();
        self.answers.read_to_string(&mut all).unwrap();
        all
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_failed_renewal_takes_nothing_away_and_is_told() {
    let site = Site::new();
    let ca = site.ca();
    ca.suggest("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z");
    let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    let first = wait_for_certificate(&hopfall, "a.test");
    hopfall.terminate();

    ca.suggest(NOW.0, NOW.1);
    let cases = [
        (
            problem(429, "rateLimited"),
            "as told (urn:ietf:params:acme:error:rateLimited); fix: nothing, if it happens once",
        ),
        (Reply::status(502).header("Retry-After", "1"), "something answers 502 Bad Gateway in place of the CA; fix:"),
    ];
    ca.refuse_orders(Some(cases[0].0.clone()));
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    for (reply, told) in cases {
        ca.refuse_orders(Some(reply));
        hopfall.wait_for_log(told);
        assert_eq!(shown(&hopfall, "a.test", &[]), first);
    }
    assert!(hopfall.log().contains("a.test: its certificate is not renewed, the one there is goes on until 20"));
    let failures =
        || hopfall.metrics().value("hopfall_certificate_orders_total", &[("name", "a.test"), ("result", "failure")]);
    assert!(failures() >= 2.0);
    let stored = std::fs::read(site.kept().join("a.test.pem")).unwrap();

    ca.refuse_orders(None);
    assert_ne!(wait_for_certificate(&hopfall, "a.test"), first);
    assert_ne!(std::fs::read(site.kept().join("a.test.pem")).unwrap(), stored);
}

#[test]
fn what_the_ca_says_of_a_failed_validation_is_told_with_its_fix() {
    let site = Site::new();
    // What the CA finds at the name: another server, which ends TLS in front of us.
    let elsewhere = Certificate::for_names(&["a.test"]);
    let front = hopfall::reserve();
    let _front = Nginx::builder()
        .extra_http_lines(&format!(
            "server {{ listen {front} ssl; ssl_certificate {}; ssl_certificate_key {}; }}",
            elsewhere.cert_path().display(),
            elsewhere.key_path().display()
        ))
        .start();
    let ca = Ca::that_validates_at(front.port());
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    hopfall.wait_for_log("a.test: no certificate yet");
    let log = hopfall.log();
    assert!(
        log.contains("for the tls-alpn-01 challenge (urn:ietf:params:acme:error:unauthorized); fix: port 443"),
        "{log}"
    );
    assert!(log.contains("tried again in 2m"), "{log}");
    assert_eq!(ca.orders().len(), 1);
}

#[test]
fn listeners_that_have_a_name_share_its_certificate() {
    let site = Site::new();
    let ca = site.ca();
    let yaml = format!(
        "acme: {{ folder: \"{}\", terms_of_service_agreed: true, {} }}\nadmin: {{ address: \"{{admin}}\" }}\nlisteners:\n\
         - {{ name: web, address: \"{{web}}\", route: r, protocol: https, tls: {{ acme: [a.test] }} }}\n\
         - {{ name: more, address: \"{{addr:more}}\", route: r, protocol: https, tls: {{ acme: [A.test] }} }}\n\
         pools: {{ p: {{ nodes: [{{ name: n, address: \"{}\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n",
        site.folder.path().display(),
        ca.keys(),
        site.node.addr()
    );
    let hopfall = Hopfall::builder(&yaml).address("web", site.address).start();
    let one = wait_for_certificate(&hopfall, "a.test");
    assert_eq!(shown_at(hopfall.address("more"), "a.test", &[]), one);
    assert_eq!(ca.orders().len(), 1);
    let expires = |listener| {
        hopfall
            .metrics()
            .value("hopfall_certificate_expires_timestamp_seconds", &[("listener", listener), ("name", "a.test")])
    };
    assert_eq!(expires("web"), expires("more"));
}

#[test]
fn a_certificate_from_files_serves_until_the_ca_has_issued_one() {
    let site = Site::new();
    let ca = site.ca();
    ca.refuse_orders(Some(problem(429, "rateLimited")));
    let files = Certificate::for_names(&["a.test", "other.test"]);
    let pair = format!("certificate: \"{}\", key: \"{}\"", files.cert_path().display(), files.key_path().display());
    let hopfall = site.start(&ca, &format!("tls: {{ {pair}, acme: [a.test] }}"), "");
    assert!(shown(&hopfall, "a.test", &[]).contains("DNS:other.test"));
    ca.refuse_orders(None);
    assert!(wait_for_certificate(&hopfall, "a.test").contains("Pebble"), "the CA's comes first");
    assert!(shown(&hopfall, "other.test", &[]).contains("DNS:other.test"), "the files serve their other names");
    assert!(shown(&hopfall, "nobody.test", &[]).contains("DNS:other.test"), "and are the default");
}

/// With these files for the listener, and a certificate of the CA for a.test whose time is over and that cannot be renewed.
fn beside_what_has_expired(site: &Site, ca: &Ca, files: &Certificate) -> Hopfall {
    let mut hopfall = site.start(ca, "tls: { acme: [a.test] }", "");
    wait_for_certificate(&hopfall, "a.test");
    hopfall.terminate();
    let expired = Certificate::expired(&["a.test"]);
    std::fs::write(site.kept().join("a.test.pem"), expired.key_pem.clone() + &expired.cert_pem).unwrap();
    ca.refuse_orders(Some(problem(429, "rateLimited")));
    let pair = format!("certificate: \"{}\", key: \"{}\"", files.cert_path().display(), files.key_path().display());
    let hopfall = site.start(ca, &format!("tls: {{ {pair}, acme: [a.test] }}"), "");
    hopfall.wait_for_log("a.test: ");
    hopfall
}

#[test]
fn a_file_that_is_good_comes_before_what_the_ca_issued_when_its_time_is_over() {
    let (site, files) = (Site::new(), Certificate::for_names(&["a.test", "other.test"]));
    let ca = site.ca();
    let hopfall = beside_what_has_expired(&site, &ca, &files);
    assert!(shown(&hopfall, "a.test", &[]).contains("DNS:other.test"));
    ca.refuse_orders(None);
    assert!(wait_for_certificate(&hopfall, "a.test").contains("Pebble"), "until the CA has issued another one");
}

#[test]
fn what_the_ca_issued_comes_before_a_file_for_another_name_even_when_its_time_is_over() {
    let (site, files) = (Site::new(), Certificate::for_names(&["other.test"]));
    let ca = site.ca();
    let hopfall = beside_what_has_expired(&site, &ca, &files);
    assert!(shown(&hopfall, "a.test", &[]).contains("DNS:a.test"));
}

#[test]
fn files_that_cannot_be_used_are_told_and_replaced() {
    let site = Site::new();
    let ca = site.ca();
    let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    wait_for_certificate(&hopfall, "a.test");
    hopfall.terminate();
    let kept = site.kept();
    let good = std::fs::read_to_string(kept.join("a.test.pem")).unwrap();
    let other = Certificate::for_names(&["other.test"]);
    let cases = [
        ("torn", good[..good.len() / 2].to_owned(), "a certificate in it is broken"),
        ("of another name", other.key_pem.clone() + &other.cert_pem, "its certificate is for other names"),
        (
            "with another key",
            other.key_pem.clone() + good.split_once("-----END PRIVATE KEY-----").unwrap().1,
            "another certificate's",
        ),
        ("empty", String::new(), "it has no certificate"),
    ];
    for (name, text, told) in cases {
        std::fs::write(kept.join("a.test.pem"), text).unwrap();
        std::fs::write(kept.join("account.json"), "{\"id\":").unwrap();
        let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
        wait_for_certificate(&hopfall, "a.test");
        let log = hopfall.log();
        assert!(log.contains("a.test.pem` cannot be used, and is replaced") && log.contains(told), "{name}: {log}");
        assert!(log.contains("account.json` is no account: it is set aside"), "{name}: {log}");
        assert!(kept.join("account.json.unusable").exists());
        hopfall.terminate();
    }
}

#[test]
fn an_account_that_the_ca_does_not_know_any_more_is_made_anew() {
    let site = Site::new();
    let ca = site.ca();
    let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    let first = wait_for_certificate(&hopfall, "a.test");
    hopfall.terminate();
    ca.forget_everything();
    ca.suggest(NOW.0, NOW.1);
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    hopfall.wait_for_log("the CA does not know the account of");
    assert_ne!(wait_for_certificate(&hopfall, "a.test"), first);
}

#[test]
fn an_account_outside_acme_is_bound() {
    let site = Site::new();
    let ca = Ca::that_wants_an_account(site.address.port());
    let mut hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    hopfall.wait_for_log("externalAccountRequired); fix: add `eab`");
    hopfall.terminate();
    let secret = site.folder.path().join("key");
    std::fs::write(&secret, ca::HMAC_KEY).unwrap();
    let eab = format!(", eab: {{ key_id: {}, hmac_key: \"file:{}\" }}", ca::KEY_ID, secret.display());
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", &eab);
    wait_for_certificate(&hopfall, "a.test");
    assert!(!hopfall.log().contains(ca::HMAC_KEY));
}

#[test]
fn names_come_and_go_with_a_reload() {
    let site = Site::new();
    let ca = site.ca();
    let files = Certificate::for_names(&["other.test"]);
    let pair = format!("certificate: \"{}\", key: \"{}\"", files.cert_path().display(), files.key_path().display());
    let mut hopfall = site.start(&ca, &format!("tls: {{ {pair} }}"), "");
    let mut reload = |names: &str| {
        let rounds = hopfall.log().matches("reloaded: config").count();
        hopfall.rewrite(&site.fleet(&ca, &format!("tls: {{ {pair}, acme: [{names}] }}"), "").yaml());
        hopfall.signal("HUP");
        wait_until("the reload", PATIENCE, || hopfall.log().matches("reloaded: config").count() > rounds);
        names.split(", ").for_each(|name| drop(wait_for_certificate(&hopfall, name)));
        let expires = |name| hopfall.metrics().has("hopfall_certificate_expires_timestamp_seconds", &[("name", name)]);
        (shown(&hopfall, "a.test", &[]), shown(&hopfall, "b.test", &[]), expires("a.test"))
    };
    let one = reload("a.test");
    let both = reload("a.test, b.test");
    let other = reload("b.test");
    assert_eq!(one.0, both.0, "a name that stays is not disturbed");
    assert_eq!(both.1, other.1);
    assert!(other.0.contains("DNS:other.test"), "what is gone is the files' again: {}", other.0);
    assert_eq!((both.2, other.2), (true, false));
    assert_eq!(ca.orders().len(), 2);
}

#[test]
fn while_a_name_is_validated_the_ca_sees_its_proof_and_nothing_else() {
    let site = Site::new();
    // The CA connects here and waits, and so does the order.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ca = Ca::that_validates_at(silent.local_addr().unwrap().port());
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    let proof = wait_for("an answer to the validation", PATIENCE, || {
        Some(shown(&hopfall, "a.test", &["-alpn", "acme-tls/1"])).filter(|proof| !proof.is_empty())
    });
    // RFC 8737 §3: id-pe-acmeIdentifier, critical, and the name alone.
    assert!(proof.contains("1.3.6.1.5.5.7.1.31: critical") && proof.contains("    DNS:a.test\n"), "{proof}");
    assert_eq!(shown(&hopfall, "b.test", &["-alpn", "acme-tls/1"]), "");
    assert_eq!(shown(&hopfall, "a.test", &[]), "", "no client gets it");
    let mut open = Open::with(&hopfall, "a.test", &["-alpn", "acme-tls/1"]);
    assert_eq!(open.ask_in_vain(), "", "it is closed");
    assert_eq!(site.node.requests().len(), 0);
}

#[test]
fn only_a_ca_that_validates_sees_an_answer_to_it() {
    let site = Site::new();
    let ca = site.ca();
    let hopfall = site.start(&ca, "tls: { acme: [a.test] }", "");
    wait_for_certificate(&hopfall, "a.test");
    assert_eq!(shown(&hopfall, "a.test", &["-alpn", "acme-tls/1"]), "", "nothing is validated now");
    assert!(
        shown(&hopfall, "a.test", &["-alpn", "acme-tls/1,http/1.1"]).contains("DNS:a.test"),
        "who also speaks HTTP is a client"
    );
    // A listener without such names does not know the protocol.
    let files = Certificate::for_names(&["a.test"]);
    let pair = format!("certificate: \"{}\", key: \"{}\"", files.cert_path().display(), files.key_path().display());
    let plain = Fleet::new()
        .node("node", site.node.addr())
        .listener("protocol: https")
        .listener(&format!("tls: {{ {pair} }}"))
        .start();
    assert_eq!(shown(&plain, "a.test", &["-alpn", "acme-tls/1"]), "");
}

#[test]
fn a_ca_that_is_away_or_not_trusted_is_told_and_nothing_is_ordered_without_a_folder_to_write() {
    let site = Site::new();
    let ca = site.ca();
    let folder = site.folder.path().join("a-file");
    std::fs::write(&folder, "").unwrap();
    let wrong = Certificate::for_names(&["localhost"]);
    let nobody = hopfall::reserve();
    let cases = [
        (format!("folder: \"{}\", {}", folder.display(), ca.keys()), "`folder` of acme cannot be written"),
        (
            format!("folder: \"{}\", directory: \"https://{nobody}/dir\"", site.folder.path().join("x").display()),
            "the CA cannot be asked: client error (Connect)",
        ),
        (
            format!(
                "folder: \"{}\", {}, ca: \"{}\"",
                site.folder.path().join("y").display(),
                ca.keys().split(", ").next().unwrap(),
                wrong.cert_path().display()
            ),
            "invalid peer certificate",
        ),
        (
            format!(
                "folder: \"{}\", {}, ca: /nowhere",
                site.folder.path().join("z").display(),
                ca.keys().split(", ").next().unwrap()
            ),
            "`ca: /nowhere` cannot be read",
        ),
    ];
    for (acme, told) in cases {
        let fleet = Fleet::new()
            .node("node", site.node.addr())
            .listener("protocol: https")
            .listener("tls: { acme: [a.test] }")
            .top(&format!("acme: {{ terms_of_service_agreed: true, {acme} }}"));
        let mut hopfall = fleet.builder().address("web", site.address).start();
        hopfall.wait_for_log(told);
        assert!(hopfall.log().contains("a.test: no certificate yet"));
        hopfall.terminate();
    }
    assert_eq!(ca.orders().len(), 0);
}
