//! TLS to nodes: real nginx and openssl behind certificates that fit, and that do not.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::certificate::Certificate;
use crate::support::fleet::Fleet;
use crate::support::hopfall::{Hopfall, command};
use crate::support::nginx::{Builder, Nginx};
use crate::support::origin::{Origin, Reply};
use crate::support::ports;
use crate::support::process::Process;
use crate::support::wait::{PATIENCE, wait_until};

/// nginx that speaks TLS at the second address, which is the one to use.
fn tls(certificate: &Certificate, node: Builder) -> (Nginx, SocketAddr) {
    let address = ports::free("127.0.0.1");
    let (cert, key) = (certificate.cert_path(), certificate.key_path());
    let lines = format!(
        "listen {address} ssl;\nssl_certificate {};\nssl_certificate_key {};\nlocation = /sni {{ return 200 \"$ssl_server_name\"; }}",
        cert.display(),
        key.display()
    );
    (node.extra_server_lines(&lines).start(), address)
}

fn trusting(certificate: &Certificate, more: &str) -> String {
    format!("tls: {{ ca: \"{}\"{more} }}", certificate.cert_path().display())
}

fn attempts(hopfall: &Hopfall, node: &str, outcome: &str) -> f64 {
    hopfall.metrics().sum("hopfall_attempts_total", &[("node", node), ("outcome", outcome)])
}

#[test]
fn a_file_is_found_by_tls_and_a_404_hop_costs_no_handshake() {
    let certificate = Certificate::for_names(&["127.0.0.1"]);
    let (first, first_at) = tls(&certificate, Nginx::builder());
    let (second, second_at) =
        tls(&certificate, Nginx::builder().file("cat.jpg", "meow").file("large", vec![b'x'; 3 << 20]));
    let fleet = Fleet::new().node("first", first_at).node("second", second_at);
    let hopfall = fleet.pool(&trusting(&certificate, "")).start();
    let mut client = hopfall.connect();
    for method in ["GET", "HEAD"] {
        for _ in 0..50 {
            let answer = client.request(method, "/cat.jpg", &[]).response();
            assert_eq!((answer.status, answer.header("content-length")), (200, Some("4")), "{method}");
        }
    }
    assert_eq!(hopfall.get("/large").body.len(), 3 << 20);
    assert_eq!(hopfall.get("/none").status, 404);
    for (name, node) in [("first", &first), ("second", &second)] {
        assert!(!node.requests().is_empty());
        let connects = hopfall.metrics().value("hopfall_upstream_connects_total", &[("node", name)]);
        assert!(connects <= 2.0 && node.connections() <= 2, "{name}: {connects}, {}", node.connections());
    }
}

#[test]
fn uploads_and_websockets_go_by_tls() {
    let certificate = Certificate::for_names(&["127.0.0.1"]);
    let behind = Origin::respond(|request| match request.header("upgrade") {
        Some(_) => {
            Reply::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        }
        None => Reply::ok(format!("{} {}", request.method, request.body.len())),
    });
    let proxied = format!(
        "location /up {{ proxy_pass http://{0}; client_max_body_size 0; }}\n\
         location /ws {{ proxy_pass http://{0}; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}",
        behind.addr()
    );
    let (_node, address) = tls(&certificate, Nginx::builder().extra_server_lines(&proxied));
    let hopfall = Fleet::new().node("node", address).pool(&trusting(&certificate, "")).start();
    let body = vec![b'x'; 5 << 20];
    for method in ["POST", "PUT"] {
        let answer = hopfall.connect().upload(method, "/up", &[], &body).response();
        assert_eq!((answer.status, answer.text()), (200, format!("{method} {}", body.len())));
    }
    let mut client = hopfall.connect();
    let fields =
        [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")];
    client.request("GET", "/ws", &[&fields[..], &[("Sec-WebSocket-Version", "13")]].concat());
    assert_eq!(client.interim().status, 101);
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(client.read_some(5 - got.len()).unwrap());
    }
    assert_eq!(got, b"hello");

    // A node that is not trusted is not sent a byte; the next one is.
    let stranger = Certificate::for_names(&["127.0.0.1"]);
    let (refused, refused_at) = tls(&stranger, Nginx::builder().extra_server_lines(&proxied));
    let fleet = Fleet::new().node_with("stranger", refused_at, "weight: 255").node("node", address);
    let hopfall = fleet.pool(&trusting(&certificate, "")).start();
    assert_eq!(hopfall.connect().upload("POST", "/up", &[], b"once").response().text(), "POST 4");
    assert_eq!((attempts(&hopfall, "stranger", "down"), refused.requests().len()), (1.0, 0));
    hopfall.wait_for_log("node stranger of pool images: TLS fails: invalid peer certificate");
}

#[test]
fn a_node_that_cannot_be_trusted_is_passed_over_and_it_is_told_what_to_mend() {
    let good = Certificate::for_names(&["127.0.0.1"]);
    let (_second, second_at) = tls(&good, Nginx::builder().file("cat.jpg", "meow"));
    let both = |other: &Certificate| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), format!("{}{}", good.cert_pem, other.cert_pem)).unwrap();
        folder
    };
    let (other_name, old) = (Certificate::for_names(&["node.example"]), Certificate::expired(&["127.0.0.1"]));
    let authority = Certificate::of_a_ca(&["127.0.0.1"]);
    let stranger = Certificate::for_names(&["127.0.0.1"]);
    let plain = Nginx::with_files(&[("cat.jpg", b"plain")]);
    let certificates = "tls_certificate_error";
    // The node's certificate, whom is trusted beside the good one, the failure, what is told.
    let cases = [
        (Some(&stranger), &good, certificates, "name the PEM file of the CA that signed it as `ca`"),
        (
            Some(&other_name),
            &other_name,
            certificates,
            "`127.0.0.1` is asked for: write a name that the certificate has as `server_name`",
        ),
        (Some(&old), &old, certificates, "have it renewed"),
        (Some(&authority), &authority, certificates, "it is a CA's certificate: sign one with it for the node"),
        (None, &good, "tls_protocol_error", "does it speak TLS at this port at all?"),
    ];
    for (shown, trusted, failure, told) in cases {
        let node = shown.map(|certificate| tls(certificate, Nginx::builder().file("cat.jpg", "wrong")));
        let address = node.as_ref().map_or(plain.addr(), |(_, address)| *address);
        let folder = both(trusted);
        let tls = format!("tls: {{ ca: \"{}\" }}", folder.path().join("ca.pem").display());
        let fleet = Fleet::new().node_with("doubtful", address, "weight: 255").pool(&tls);
        let alone = fleet.start();
        let answer = alone.get("/cat.jpg");
        let hops = answer.header("server-timing").unwrap_or_default();
        assert!(
            answer.status == 503 && hops.contains(&format!("desc=\"{failure}\"")),
            "{told}: {} {hops}",
            answer.status
        );
        drop(alone);

        let hopfall = fleet.node("second", second_at).start();
        let answer = hopfall.get("/cat.jpg");
        assert_eq!((answer.status, answer.text()), (200, "meow".to_owned()), "{told}");
        assert_eq!(attempts(&hopfall, "doubtful", "down"), 1.0, "{told}");
        hopfall.wait_for_log("node doubtful of pool images: TLS fails: ");
        hopfall.wait_for_log(told);
        if let Some((node, _)) = &node {
            assert!(node.requests().is_empty(), "{told}: it was told what is asked for");
        }
    }
}

#[test]
fn the_name_that_is_asked_for_is_the_nodes_the_pools_or_the_one_that_is_written() {
    let certificate = Certificate::for_names(&["localhost", "images.example", "other.example"]);
    let (_node, address) = tls(&certificate, Nginx::builder());
    let start = |name: &str, host: &str, more: &str| {
        let yaml = Fleet::new().node("node", address).pool(&trusting(&certificate, more)).pool(host).yaml();
        Hopfall::start(&yaml.replace(&address.to_string(), &format!("{name}:{}", address.port())))
    };
    for (name, host, more, expected) in [
        ("localhost", "host: preserve", "", "localhost"),
        ("127.0.0.1", "host: images.example:8443", "", "images.example"),
        ("127.0.0.1", "host: images.example", ", server_name: other.example", "other.example"),
    ] {
        let hopfall = start(name, host, more);
        // A name is looked up after the start.
        wait_until("the node to be asked", PATIENCE, || hopfall.get("/sni").status == 200);
        assert_eq!(hopfall.get("/sni").text(), expected);
    }
    // Unverified, a name is still asked for; and no CA is needed.
    let fleet = Fleet::new().node("node", address).pool("tls: { verify: false, server_name: nobody.example }");
    let hopfall = fleet.start();
    assert_eq!(hopfall.get("/sni").text(), "nobody.example");
    assert_eq!(hopfall.connect().request("OPTIONS", "/sni", &[]).response().text(), "nobody.example");
    hopfall.wait_for_log("node node of pool images: its certificate is not verified");
}

/// One node in two pools, spoken to in two ways: neither is sent what the other's connection is for.
#[test]
fn pools_share_no_connections() {
    let certificate = Certificate::for_names(&["a.example", "b.example"]);
    let (_node, address) = tls(&certificate, Nginx::builder());
    let pool = |name: &str| {
        let tls = trusting(&certificate, &format!(", server_name: {name}.example"));
        format!("  {name}: {{ {tls}, nodes: [{{ name: node, address: \"{address}\" }}] }}\n")
    };
    let yaml = format!(
        "listeners:\n  - {{ name: a, address: \"{{addr:a}}\", route: a }}\n  - {{ name: b, address: \"{{addr:b}}\", route: b }}\n\
         pools:\n{}{}routes:\n  a: {{ chain: [a] }}\n  b: {{ chain: [b] }}\nadmin: {{ address: \"{{admin}}\" }}\n",
        pool("a"),
        pool("b")
    );
    let hopfall = Hopfall::start(&yaml);
    for _ in 0..3 {
        for name in ["a", "b"] {
            let answer = crate::support::client::get(hopfall.address(name), "/sni");
            assert_eq!(answer.text(), format!("{name}.example"));
        }
    }
}

#[test]
fn a_reload_changes_whom_is_trusted_and_shares_no_connection_with_what_was_before() {
    let certificate = Certificate::for_names(&["127.0.0.1", "other.example"]);
    let stranger = Certificate::for_names(&["127.0.0.1"]);
    let (_node, address) = tls(&certificate, Nginx::builder());
    let fleet = |tls: &str| Fleet::new().node("node", address).pool(tls);
    let mut hopfall = fleet(&trusting(&certificate, ", server_name: other.example")).start();
    let mut client = hopfall.connect();
    let mut ask = || client.request("GET", "/sni", &[]).response();
    assert_eq!(ask().text(), "other.example");
    // The same node, now by another name, by no TLS at all, and by a CA that did not sign its certificate.
    for (tls, status) in [
        (trusting(&certificate, ""), 200),
        (String::new(), 400),
        (trusting(&stranger, ""), 503),
        (trusting(&certificate, ", server_name: other.example"), 200),
    ] {
        hopfall.rewrite(&fleet(&tls).yaml());
        let ran = hopfall.order(&["reload"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let answer = ask();
        assert_eq!(answer.status, status, "{tls}: {}", answer.text());
        assert!(status != 200 || (answer.text() == "other.example") == tls.contains("other.example"), "{tls}");
    }
}

#[test]
fn a_node_that_wants_a_client_certificate_is_shown_one() {
    let certificate = Certificate::for_names(&["127.0.0.1"]);
    let ours = Certificate::for_names(&["hopfall.example"]);
    let address = ports::free("127.0.0.1");
    let mut openssl = Command::new("openssl");
    openssl.args(["s_server", "-accept", &address.to_string(), "-www", "-Verify", "1", "-verify_return_error"]);
    openssl.arg("-cert").arg(certificate.cert_path()).arg("-key").arg(certificate.key_path());
    openssl.arg("-CAfile").arg(ours.cert_path());
    let server = Process::spawn(&mut openssl);
    wait_until("openssl to listen", PATIENCE, || server.stdout().contains("ACCEPT"));

    let pair = format!(", certificate: \"{}\", key: \"{}\"", ours.cert_path().display(), ours.key_path().display());
    let hopfall = Fleet::new().node("node", address).pool(&trusting(&certificate, &pair)).start();
    assert_eq!(hopfall.get("/").status, 200);

    let without = Fleet::new().node("node", address).pool(&trusting(&certificate, "")).start();
    let answer = without.get("/");
    let hops = answer.header("server-timing").unwrap_or_default();
    assert!(answer.status == 503 && hops.contains("desc=\"tls_alert_received\""), "{} {hops}", answer.status);
    without.wait_for_log("it refuses us: does it want a client certificate");
}

#[test]
fn checks_go_by_tls_and_trust_as_requests_do() {
    let good = Certificate::for_names(&["127.0.0.1"]);
    let stranger = Certificate::for_names(&["127.0.0.1"]);
    for check in ["http", "http_body, body: '^ok$'"] {
        let (well, well_at) = tls(&good, Nginx::builder().file("health", "ok\n"));
        let (_strange, strange_at) = tls(&stranger, Nginx::builder().file("health", "ok\n"));
        let health = format!("health: {{ check: {check}, path: /health, interval: 50ms, fall: 2, rise: 1 }}");
        let fleet =
            Fleet::new().node("well", well_at).node("strange", strange_at).pool(&trusting(&good, "")).pool(&health);
        let hopfall = fleet.start();
        let up = |node: &str| hopfall.metrics().value("hopfall_node_up", &[("node", node)]);
        wait_until("the stranger is down", PATIENCE, || up("strange") == 0.0);
        hopfall.wait_for_log("node strange of pool images is down: its checks fail: tls_certificate_error");
        wait_until("the other is checked", PATIENCE, || well.requests_for("/health").len() > 2);
        assert_eq!(up("well"), 1.0, "{check}");
        well.put("health", "gone");
        if check != "http" {
            wait_until("its body is looked at", PATIENCE, || up("well") == 0.0);
        }
    }
    // A check of the connection alone is TCP.
    let (_strange, strange_at) = tls(&stranger, Nginx::builder());
    let health = "health: { check: connection, interval: 50ms, fall: 1 }";
    let hopfall = Fleet::new().node("node", strange_at).pool(&trusting(&good, "")).pool(health).start();
    let passed = || hopfall.metrics().sum("hopfall_health_checks_total", &[("result", "passed")]);
    wait_until("it is checked", PATIENCE, || passed() > 2.0);
}

#[test]
fn a_ca_that_cannot_be_used_is_a_mistake_in_the_config() {
    let certificate = Certificate::for_names(&["127.0.0.1"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    let listeners = "listeners: [{ name: web, address: \"127.0.0.1:0\", route: r }]\n";
    let node = "nodes: [{ name: a, address: \"127.0.0.1:1\" }]";
    let key = certificate.key_path();
    let key = key.display();
    let s3 =
        "kind: s3, bucket: bucket, credentials: { access_key: \"file:/dev/null\", secret_key: \"file:/dev/null\" }";
    for yaml in [
        format!(
            "{listeners}pools: {{ p: {{ tls: {{ ca: \"{key}\" }}, {node} }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n"
        ),
        format!("{listeners}stores: {{ s: {{ {s3}, ca: \"{key}\" }} }}\nroutes: {{ r: {{ chain: [s] }} }}\n"),
    ] {
        std::fs::write(&file, yaml).unwrap();
        let ran = command(&["check", file.to_str().unwrap()]);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains(&format!("`{key}`: holds no certificate")), "{}", ran.stderr);
    }
}
