//! What `docs/nodebalancer.md` says of HAProxy and nginx, held against the versions that Debian has.
//!
//! A "yes" is proved by a directive in `tests/peers`, which names the feature, in a file that the program accepts; a "no",
//! where the feature has a directive in other versions, by the program's refusal of that one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::certificate::Certificate;
use crate::support::process::{Ran, run};
use crate::support::wait::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Haproxy,
    Nginx,
}

use Peer::{Haproxy, Nginx};

/// What stands under a peer's name where it lacks the feature, and the directive that other versions have for it; a refused
/// one is the proof.
const REFUSED: &[(Peer, &str, &str, &str)] = &[
    (Haproxy, "HTTP/3", "frontend f\n bind quic4@127.0.0.1:8443 ssl crt {dir}/certs/cert.pem alpn h3\n", "quic4@"),
    (
        Haproxy,
        "certificates by ACME, renewed by themselves",
        "acme le\n directory https://acme.example.com\n",
        "unknown keyword 'acme'",
    ),
    (Haproxy, "UDP", "frontend f\n bind udp@127.0.0.1:8053\n", "dgram-type address not acceptable"),
    (Nginx, "HTTP/3", "server { listen 127.0.0.1:8443 quic; }", "invalid parameter \"quic\""),
    (Nginx, "certificates by ACME, renewed by themselves", "acme_issuer le { }", "unknown directive \"acme_issuer\""),
    (Nginx, "stickiness by table", "upstream u { server 127.0.0.1:1; sticky learn; }", "unknown directive \"sticky\""),
    (
        Nginx,
        "stickiness by cookie",
        "upstream u { server 127.0.0.1:1; sticky cookie c; }",
        "unknown directive \"sticky\"",
    ),
    (
        Nginx,
        "active check: connection",
        "server { location / { health_check; } }",
        "unknown directive \"health_check\"",
    ),
    (Nginx, "active check: http status", "match ok { status 200; }", "unknown directive \"match\""),
    (Nginx, "active check: regex on the body", "match ok { body ~ ok; }", "unknown directive \"match\""),
    (
        Nginx,
        "bound on requests at a node, with a queue",
        "upstream u { server 127.0.0.1:1; queue 10; }",
        "unknown directive \"queue\"",
    ),
    (
        Nginx,
        "node modes: reject, drain, backup, changed while running",
        "upstream u { server 127.0.0.1:1 drain; }",
        "invalid parameter \"drain\"",
    ),
];

/// The rows of the table: a feature, and what is said of HAProxy and of nginx.
fn table() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(root().join("docs/nodebalancer.md")).unwrap();
    let (head, rows) = text.split_once("| feature | hopfall | its test | NodeBalancer | HAProxy | nginx |\n").unwrap();
    assert!(head.contains("HAProxy 2.6") && head.contains("nginx 1.22"), "the page names the versions");
    let rows = rows.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].to_owned(), cells[5].to_owned(), cells[6].to_owned())
    })
    .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Peer {
    fn file(self) -> &'static str {
        match self {
            Haproxy => "tests/peers/haproxy.cfg",
            Nginx => "tests/peers/nginx.conf",
        }
    }

    /// Has it check this configuration.
    fn checks(self, config: &str) -> Ran {
        let folder = folder();
        let file = folder.path().join("config");
        std::fs::write(&file, config.replace("{dir}", folder.path().to_str().unwrap())).unwrap();
        let program = |variable, name: &str| std::env::var(variable).unwrap_or_else(|_| name.to_owned());
        let mut command = match self {
            Haproxy => Command::new(program("HOPFALL_TEST_HAPROXY", "haproxy")),
            Nginx => Command::new(program("HOPFALL_TEST_NGINX", "nginx")),
        };
        match self {
            Haproxy => command.args(["-c", "-f"]).arg(&file),
            Nginx => command.args(["-t", "-e", "stderr", "-c"]).arg(&file),
        };
        run(&mut command, PATIENCE)
    }
}

/// With `certs/cert.pem`, certificate and key in one, as HAProxy wants them.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("hopfall-peers-").tempdir().expect("a temporary folder");
    let certificate = Certificate::for_names(&["images.example.com"]);
    let parts = [certificate.cert_path(), certificate.key_path()].map(|part| std::fs::read_to_string(part).unwrap());
    std::fs::create_dir(folder.path().join("certs")).unwrap();
    std::fs::write(folder.path().join("certs/cert.pem"), parts.concat()).unwrap();
    folder
}

#[test]
fn what_the_peers_can_do_is_done_by_a_directive_they_accept() {
    let table = table();
    let mut wrong = Vec::new();
    for peer in [Haproxy, Nginx] {
        let config = std::fs::read_to_string(root().join(peer.file())).unwrap();
        let ran = peer.checks(&config);
        assert_eq!(ran.code, Some(0), "{}: {}{}", peer.file(), ran.stdout, ran.stderr);

        let mut proved = BTreeSet::new();
        for line in config.lines() {
            if let Some((directive, feature)) = line.split_once("# feature: ") {
                assert!(!directive.trim().is_empty(), "{}: no directive beside: {line}", peer.file());
                proved.insert(feature.trim().to_owned());
            }
        }
        let file = peer.file();
        for (feature, haproxy, nginx) in &table {
            let said = if peer == Haproxy { haproxy } else { nginx };
            let claimed = !said.starts_with("no") && said != "by others";
            match (claimed, proved.remove(feature)) {
                (true, false) => {
                    wrong.push(format!("`{said}` wants a directive in {file} with `# feature: {feature}`"));
                }
                (false, true) => wrong.push(format!("`{said}` of `{feature}`, and {file} has it")),
                _ => {}
            }
        }
        wrong.extend(proved.into_iter().map(|feature| format!("no row `{feature}`, and {file} has it")));
    }
    assert!(wrong.is_empty(), "docs/nodebalancer.md:\n{}", wrong.join("\n"));
}

#[test]
fn what_the_peers_cannot_do_they_refuse() {
    let table = table();
    for (peer, feature, lines, told) in REFUSED {
        let (_, haproxy, nginx) = table.iter().find(|row| row.0 == *feature).expect(feature);
        let said = if *peer == Haproxy { haproxy } else { nginx };
        assert!(said != "yes", "docs/nodebalancer.md says yes to `{feature}` for {peer:?}");
        let config = match peer {
            Haproxy => {
                format!("defaults\n mode http\n timeout client 1s\n timeout connect 1s\n timeout server 1s\n{lines}")
            }
            Nginx => format!("pid {{dir}}/pid;\nevents {{ }}\nhttp {{ access_log off; {lines} }}\n"),
        };
        let ran = peer.checks(&config);
        let error = ran.stdout + &ran.stderr;
        assert!(ran.code != Some(0) && error.contains(told), "{feature}, {peer:?}: {:?} {error}", ran.code);
    }
}
