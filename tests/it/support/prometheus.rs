//! A real Prometheus, and its `promtool`.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use super::process::{self, Process, Ran};
use super::{client, ports, wait};

pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

/// `promtool ARGUMENTS`.
#[track_caller]
pub fn promtool(arguments: &[&str]) -> Ran {
    process::run(Command::new("promtool").args(arguments), wait::PATIENCE)
}

/// What `promtool check metrics` says of a scrape; nothing, if it has nothing to say.
#[track_caller]
pub fn check_metrics(scrape: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("no promtool: {error}; run scripts/test, which installs it"));
    child.stdin.take().expect("stdin is piped").write_all(scrape.as_bytes()).expect("promtool reads");
    let said = child.wait_with_output().expect("promtool ends");
    String::from_utf8_lossy(&said.stderr).into_owned()
}

impl Prometheus {
    #[track_caller]
    pub fn start(config: &str) -> Prometheus {
        let folder = tempfile::Builder::new().prefix("hopfall-prometheus-").tempdir().expect("a temporary folder");
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config).unwrap();
        for _ in 0..5 {
            let address = ports::free("127.0.0.1");
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
            command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
            let mut process = Process::spawn(&mut command);
            wait::wait_until("Prometheus to be ready", wait::PATIENCE, || {
                process.exited().is_some()
                    || TcpStream::connect(address).is_ok() && client::get(address, "/-/ready").status == 200
            });
            match process.exited() {
                None => return Prometheus { address, _process: process, _folder: folder },
                // Another process took the port in between.
                Some(_) if process.stderr().contains("in use") => continue,
                Some(_) => panic!("Prometheus did not start: {}", process.stderr()),
            }
        }
        panic!("Prometheus found no free port");
    }

    /// The series that a PromQL expression gives now; one that Prometheus does not take is an error.
    ///
    /// # Errors
    /// What Prometheus says.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let target = format!("/api/v1/query?query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC));
        let answer = client::get(self.address, &target);
        let said: Value =
            serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.text()))?;
        if said["status"] != "success" {
            return Err(said["error"].to_string());
        }
        Ok(said["data"]["result"].as_array().cloned().unwrap_or_default())
    }
}
