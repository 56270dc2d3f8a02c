//! The https listener, and an S3 endpoint over TLS.

use crate::support::certificate::Certificate;
use crate::support::curl::curl;
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process;
use crate::support::wait::{PATIENCE, wait_until};

fn start(node: std::net::SocketAddr, certificate: &Certificate, more: &str) -> Hopfall {
    let tls = format!(
        "tls: {{ certificate: \"{}\", key: \"{}\" }}",
        certificate.cert_path().display(),
        certificate.key_path().display()
    );
    let mut fleet = Fleet::new().node("node", node).listener("protocol: https").listener(&tls);
    if !more.is_empty() {
        fleet = fleet.listener(more);
    }
    fleet.start()
}

#[test]
fn https_serves_http_1_and_http_2_by_alpn() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let certificate = Certificate::for_names(&["localhost"]);
    let hopfall = start(node.addr(), &certificate, "");
    let url = format!("https://localhost:{}/cat.jpg", hopfall.web().port());
    let ca = certificate.cert_path();
    let ca = ca.to_str().unwrap();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        for tls in ["--tlsv1.2", "--tlsv1.3"] {
            let maximum = tls.trim_start_matches("--tlsv");
            let answer = curl(&["--cacert", ca, option, tls, "--tls-max", maximum, &url]);
            assert_eq!((answer.status, answer.text().as_str()), (200, "meow"), "{option} {tls}: {}", answer.stderr);
            assert_eq!(answer.version, version);
        }
    }
    let head = curl(&["--cacert", ca, "--http2", "--head", &url]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    let missing = curl(&["--cacert", ca, "--http2", &url.replace("cat", "dog")]);
    assert_eq!(missing.status, 404);
    assert_ne!(curl(&["--cacert", ca, "--tlsv1.1", "--tls-max", "1.1", &url]).status, 200, "TLS 1.1");
}

#[test]
fn http_2_can_be_turned_off() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let certificate = Certificate::for_names(&["localhost"]);
    let hopfall = start(node.addr(), &certificate, "http2: false");
    let url = format!("https://localhost:{}/cat.jpg", hopfall.web().port());
    let answer = curl(&["--cacert", certificate.cert_path().to_str().unwrap(), "--http2", &url]);
    assert_eq!((answer.status, answer.version.as_str()), (200, "1.1"));
}

#[test]
fn a_node_sees_that_the_client_came_by_tls() {
    let node = Origin::always(Reply::ok("x"));
    let certificate = Certificate::for_names(&["localhost"]);
    let hopfall = start(node.addr(), &certificate, "");
    let url = format!("https://localhost:{}/x", hopfall.web().port());
    assert_eq!(curl(&["--cacert", certificate.cert_path().to_str().unwrap(), &url]).status, 200);
    assert_eq!(node.requests()[0].header("x-forwarded-proto"), Some("https"));
}

#[test]
fn a_body_cut_short_resets_the_stream_or_breaks_the_tls_connection() {
    let node = Origin::always(Reply::ok(vec![b'x'; 100_000]).cut_after(1000));
    let certificate = Certificate::for_names(&["localhost"]);
    let hopfall = start(node.addr(), &certificate, "");
    let url = format!("https://localhost:{}/x", hopfall.web().port());
    for option in ["--http2", "--http1.1"] {
        let answer = curl(&["--cacert", certificate.cert_path().to_str().unwrap(), option, &url]);
        assert_ne!(answer.exit, 0, "{option}: a part was taken for the whole");
    }
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let node = Origin::always(Reply::ok("x"));
    let certificate = Certificate::for_names(&["localhost"]);
    let hopfall = start(node.addr(), &certificate, "header_timeout: 500ms");
    let mut client = hopfall.connect();
    client.send([0x16, 0x03, 0x01]);
    assert!(client.closes_within(PATIENCE));
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_at_start() {
    let certificate = Certificate::for_names(&["localhost"]);
    let other = Certificate::for_names(&["localhost"]);
    let cases = [
        (certificate.cert_path(), other.key_path(), "is not the key of"),
        (certificate.key_path(), certificate.key_path(), "holds no certificate"),
        ("/nowhere.pem".into(), certificate.key_path(), "cannot be read"),
    ];
    for (cert, key, told) in cases {
        let yaml = format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\", route: r, protocol: https, tls: {{ certificate: \"{}\", key: \"{}\" }} }}]\n\
             pools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n",
            cert.display(),
            key.display()
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hopfall.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hopfall"));
        let ran = process::run(command.args(["run", "-c", file.to_str().unwrap()]), PATIENCE);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

/// The names in the certificate that is shown to a client who asks for `name`, as `openssl s_client` tells them.
fn shown(hopfall: &Hopfall, name: &str, more: &[&str]) -> String {
    let mut command = std::process::Command::new("openssl");
    let address = hopfall.web().to_string();
    command.args(["s_client", "-connect", &address, "-showcerts", "-status"]).args(more);
    if !name.is_empty() {
        command.args(["-servername", name]);
    }
    command.stdin(std::process::Stdio::null());
    let handshake = process::run(&mut command, PATIENCE);
    let mut decode = std::process::Command::new("openssl");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shown.pem");
    std::fs::write(&file, &handshake.stdout).unwrap();
    decode.args(["x509", "-noout", "-ext", "subjectAltName", "-in", file.to_str().unwrap()]);
    format!("{}{}", process::run(&mut decode, PATIENCE).stdout, handshake.stdout)
}

#[test]
fn a_certificate_is_chosen_by_name() {
    let node = Origin::always(Reply::ok("x"));
    let (first, second) = (Certificate::for_names(&["first.example"]), Certificate::for_names(&["second.example"]));
    let folder = tempfile::tempdir().unwrap();
    let wild = Certificate::for_names(&["*.wild.example"]);
    std::fs::copy(wild.cert_path(), folder.path().join("wild.crt")).unwrap();
    std::fs::copy(wild.key_path(), folder.path().join("wild.key")).unwrap();
    std::fs::write(folder.path().join("wild.ocsp"), [0x30, 0x03, 0x0a, 0x01, 0x00]).unwrap();
    let pair = |certificate: &Certificate| {
        format!("certificate: \"{}\", key: \"{}\"", certificate.cert_path().display(), certificate.key_path().display())
    };
    let tls = format!(
        "tls: {{ {}, more: [{{ {} }}], folder: \"{}\" }}",
        pair(&first),
        pair(&second),
        folder.path().display()
    );
    let hopfall = Fleet::new().node("node", node.addr()).listener("protocol: https").listener(&tls).start();
    for (name, expected) in [
        ("first.example", "first.example"),
        ("second.example", "second.example"),
        ("SECOND.example", "second.example"),
        ("a.wild.example", "*.wild.example"),
        ("a.b.wild.example", "first.example"),
        ("nobody.example", "first.example"),
        ("", "first.example"),
    ] {
        let shown = shown(&hopfall, name, &[]);
        assert!(shown.contains(&format!("DNS:{expected}")), "{name}: {shown}");
    }
    assert!(shown(&hopfall, "a.wild.example", &[]).contains("OCSP response:"), "what is there is stapled");
    assert!(shown(&hopfall, "first.example", &[]).contains("OCSP response: no response sent"));
    assert!(
        hopfall.metrics().value("hopfall_certificate_expires_timestamp_seconds", &[("name", "second.example")]) > 2e9
    );
    // One that is gone expires no more.
    let expires = |name| hopfall.metrics().has("hopfall_certificate_expires_timestamp_seconds", &[("name", name)]);
    assert!(expires("*.wild.example"));
    std::fs::remove_file(folder.path().join("wild.crt")).unwrap();
    wait_until("it to be forgotten", PATIENCE, || !expires("*.wild.example"));
    assert!(expires("first.example"));
}

/// A renewed certificate often comes beside the old one, under a file name of its own.
#[test]
fn of_two_certificates_for_a_name_the_one_that_is_good_is_shown_and_told_of() {
    let node = Origin::always(Reply::ok("x"));
    let folder = tempfile::tempdir().unwrap();
    let put = |file: &str, certificate: &Certificate| {
        std::fs::copy(certificate.cert_path(), folder.path().join(format!("{file}.crt"))).unwrap();
        std::fs::copy(certificate.key_path(), folder.path().join(format!("{file}.key"))).unwrap();
    };
    let remove = |file: &str| {
        ["crt", "key"].map(|kind| std::fs::remove_file(folder.path().join(format!("{file}.{kind}"))).unwrap())
    };
    put("1", &Certificate::expired(&["cats.example"]));
    put("2", &Certificate::for_names(&["cats.example", "new.example"]));
    put("3", &Certificate::for_names(&["dogs.example"]));
    let tls = format!("tls: {{ folder: \"{}\" }}", folder.path().display());
    let hopfall = Fleet::new().node("node", node.addr()).listener("protocol: https").listener(&tls).start();
    let expires = |name: &str| {
        hopfall.metrics().sum("hopfall_certificate_expires_timestamp_seconds", &[("listener", "web"), ("name", name)])
    };
    for name in ["cats.example", ""] {
        assert!(shown(&hopfall, name, &[]).contains("DNS:new.example"), "`{name}` is shown an expired one");
    }
    assert!(expires("cats.example") > 2e9 && expires("dogs.example") > 2e9);

    remove("3");
    hopfall.wait_for_log("its certificates were read again");
    wait_until("one that is gone is told of no more", PATIENCE, || expires("dogs.example") == 0.0);
    remove("2");
    let shows_old = || !shown(&hopfall, "cats.example", &[]).contains("DNS:new.example");
    wait_until("an expired one is better than none", PATIENCE, shows_old);
    wait_until("it is told when it expires", PATIENCE, || {
        (1.0..1e9).contains(&expires("cats.example")) && expires("new.example") == 0.0
    });
}

#[test]
fn a_changed_certificate_is_used_without_dropping_a_connection() {
    let node = Origin::always(Reply::ok("x"));
    let certificate = Certificate::for_names(&["old.example", "localhost"]);
    let hopfall = start(node.addr(), &certificate, "");
    assert!(shown(&hopfall, "old.example", &[]).contains("DNS:old.example"));
    // Open before, and used after.
    let keeping = std::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &hopfall.web().to_string(), "-servername", "old.example"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut keeping = keeping.unwrap();
    let mut client = keeping.stdin.take().unwrap();
    let mut answers = std::io::BufReader::new(keeping.stdout.take().unwrap());
    let mut ask = || {
        use std::io::{BufRead, Write};
        client.write_all(b"GET /x HTTP/1.1\r\nHost: old.example\r\n\r\n").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        while !line.ends_with("\r\n\r\n") {
            assert!(answers.read_line(&mut line).unwrap() > 0, "closed after {line}");
        }
        let mut body = [0];
        std::io::Read::read_exact(&mut answers, &mut body).unwrap();
        line
    };
    assert!(ask().starts_with("HTTP/1.1 200"));

    // A key alone does not fit, and nothing changes.
    let new = Certificate::for_names(&["new.example"]);
    std::fs::write(certificate.key_path(), &new.key_pem).unwrap();
    hopfall.wait_for_log("changed certificates are not used, the old ones are");
    assert!(shown(&hopfall, "", &[]).contains("DNS:old.example"));
    std::fs::write(certificate.cert_path(), &new.cert_pem).unwrap();
    hopfall.wait_for_log("its certificates were read again");
    assert!(shown(&hopfall, "", &[]).contains("DNS:new.example"));
    assert!(ask().starts_with("HTTP/1.1 200"));
    let metrics = hopfall.metrics();
    for result in ["success", "failure"] {
        assert_eq!(metrics.value("hopfall_certificate_reloads_total", &[("result", result)]), 1.0, "{result}");
    }
    keeping.kill().unwrap();
    keeping.wait().unwrap();
}

#[test]
fn a_profile_says_which_versions_are_spoken() {
    let node = Origin::always(Reply::ok("x"));
    let certificate = Certificate::for_names(&["localhost"]);
    for (profile, old) in [("modern", false), ("recommended", true), ("legacy", true)] {
        let tls = format!(
            "tls: {{ certificate: \"{}\", key: \"{}\", profile: {profile} }}",
            certificate.cert_path().display(),
            certificate.key_path().display()
        );
        let hopfall = Fleet::new().node("node", node.addr()).listener("protocol: https").listener(&tls).start();
        assert!(shown(&hopfall, "localhost", &["-tls1_3"]).contains("DNS:localhost"), "{profile}");
        assert_eq!(shown(&hopfall, "localhost", &["-tls1_2"]).contains("DNS:localhost"), old, "{profile}");
        assert!(!shown(&hopfall, "localhost", &["-tls1_1"]).contains("DNS:localhost"), "{profile}");
    }
}

#[test]
fn browsers_are_told_to_come_by_https_and_sent_there() {
    let node = Origin::respond(|request| Reply::status(if request.target == "/x" { 200 } else { 404 }));
    let certificate = Certificate::for_names(&["localhost"]);
    let tls = format!(
        "tls: {{ certificate: \"{}\", key: \"{}\", hsts: 24h }}",
        certificate.cert_path().display(),
        certificate.key_path().display()
    );
    let hopfall = Fleet::new().node("node", node.addr()).listener("protocol: https").listener(&tls).start();
    let ca = certificate.cert_path();
    for (method, path) in [("GET", "/x"), ("GET", "/none"), ("POST", "/x"), ("TRACE", "/x")] {
        let url = format!("https://localhost:{}{path}", hopfall.web().port());
        let answer = curl(&["--cacert", ca.to_str().unwrap(), "-X", method, &url]);
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=86400"), "{method} {path}");
    }

    let hopfall = Fleet::new().node("node", node.addr()).listener("redirect_to_https: 8443").start();
    let before = node.requests().len();
    for (host, expected) in
        [("cdn.example:8080", "cdn.example:8443"), ("cdn.example", "cdn.example:8443"), ("[::1]:80", "[::1]:8443")]
    {
        for method in ["GET", "POST"] {
            let answer = hopfall.connect().request(method, "/a%20b?c=d", &[("Host", host)]).response();
            let location = format!("https://{expected}/a%20b?c=d");
            assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())));
            assert_eq!(answer.header("strict-transport-security"), None);
        }
    }
    assert_eq!(node.requests().len(), before);
}
