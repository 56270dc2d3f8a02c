//! The https listener, and an S3 endpoint over TLS.

use crate::support::certificate::Certificate;
use crate::support::curl::curl;
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process;
use crate::support::wait::PATIENCE;

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
