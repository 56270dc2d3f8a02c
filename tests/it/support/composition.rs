//! What `docker/compose.yaml` starts, without Docker: the same files, with addresses in place of the containers' names.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::hopfall::Hopfall;
use super::process::{self, Process};
use super::prometheus::Prometheus;
use super::seaweed::Seaweed;
use super::{ports, wait};

pub struct Composition {
    pub hopfall: Hopfall,
    _nodes: [Node; 2],
}

/// A file of `docker/`.
pub fn docker(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path)
}

#[track_caller]
pub fn read(path: &str) -> String {
    std::fs::read_to_string(docker(path)).unwrap_or_else(|error| panic!("docker/{path}: {error}"))
}

/// The text of a file of `docker/` with each of these replaced; each must be there.
#[track_caller]
pub fn swapped(path: &str, swaps: &[(&str, &str)]) -> String {
    swaps.iter().fold(read(path), |text, (from, to)| {
        assert!(text.contains(from), "docker/{path} has no `{from}`");
        text.replace(from, to)
    })
}

impl Composition {
    #[track_caller]
    pub fn start() -> Composition {
        let s3 = Seaweed::shared();
        let keys = [("AWS_ACCESS_KEY_ID", s3.access_key()), ("AWS_SECRET_ACCESS_KEY", s3.secret_key())];
        let mut seed = Command::new("sh");
        seed.arg(docker("seed")).args([&s3.endpoint(), "images"]).arg(docker("files/s3")).envs(keys);
        let seeded = process::run(&mut seed, wait::PATIENCE);
        assert_eq!((seeded.code, seeded.stdout.as_str()), (Some(0), "images/owl.svg\n"), "{}", seeded.stderr);

        let nodes = ["chitoge", "taiga"].map(Node::start);
        let yaml = swapped(
            "hopfall.yaml",
            &[
                ("0.0.0.0:8080", "{web}"),
                ("0.0.0.0:9090", "{admin}"),
                ("chitoge:80", &nodes[0].address.to_string()),
                ("taiga:80", &nodes[1].address.to_string()),
                ("http://s3:8333", &s3.endpoint()),
                ("/var/cache/hopfall", "{dir}"),
            ],
        );
        Composition { hopfall: Hopfall::start_with_env(&yaml, &keys), _nodes: nodes }
    }

    /// Prometheus with its config and its rules, in more of a hurry.
    #[track_caller]
    pub fn prometheus(&self) -> Prometheus {
        let config = swapped(
            "prometheus/prometheus.yaml",
            &[
                ("hopfall:9090", &self.hopfall.admin().to_string()),
                ("alerts.yaml", docker("prometheus/alerts.yaml").to_str().expect("a plain path")),
                ("scrape_interval: 5s", "scrape_interval: 500ms"),
                ("evaluation_interval: 15s", "evaluation_interval: 500ms"),
            ],
        );
        Prometheus::start(&config)
    }
}

/// nginx with `docker/nginx.conf`.
struct Node {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Node {
    #[track_caller]
    fn start(name: &str) -> Node {
        let folder = tempfile::Builder::new().prefix("hopfall-node-").tempdir().expect("a temporary folder");
        let own = |name: &str| folder.path().join(name).display().to_string();
        let files = docker("files").join(name).display().to_string();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = kinds.map(|kind| format!("{kind}_temp_path {};", own(kind))).concat();
        // A worker of root's becomes `nobody` else, who cannot read everybody's clone.
        let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let globals = format!("daemon off; pid {}; {}", own("pid"), if root { "user root;" } else { "" });
        for _ in 0..5 {
            let address = ports::free("127.0.0.1");
            let config = swapped(
                "nginx.conf",
                &[
                    ("listen 80;", &format!("listen {address};")),
                    ("include mime.types;", "include /etc/nginx/mime.types;"),
                    ("/usr/share/nginx/html", &files),
                    ("http {", &format!("http {{ {temporary}")),
                ],
            );
            std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
            let nginx = std::env::var("HOPFALL_TEST_NGINX").unwrap_or_else(|_| "nginx".to_string());
            let mut command = Command::new(nginx);
            command.args(["-c", &own("nginx.conf"), "-e", "stderr", "-g", &globals]);
            let mut process = Process::spawn(&mut command);
            wait::wait_until("nginx to listen", wait::PATIENCE, || {
                process.exited().is_some() || TcpStream::connect(address).is_ok()
            });
            match process.exited() {
                None => return Node { address, _process: process, _folder: folder },
                // Another process took the port in between.
                Some(_) if process.stderr().contains("in use") => continue,
                Some(_) => panic!("nginx did not start: {}", process.stderr()),
            }
        }
        panic!("nginx found no free port");
    }
}
