//! curl as a client: HTTP/2, TLS, a chosen source address, and an S3 signer that is not ours.

use std::process::Command;
use std::time::Duration;

use super::process::{Ran, run};

#[derive(Debug)]
pub struct Answer {
    /// 0 where there was none.
    pub status: u16,
    /// `"1.1"`, `"2"`.
    pub version: String,
    /// Of the last head: interim answers are left out.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// curl's exit code: 0 is well, 18 a body cut short, 28 a timeout, 52 an empty answer, 56 a reset.
    pub exit: i32,
    pub stderr: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `curl ARGUMENTS`, such as `&["--http2-prior-knowledge", "--interface", "127.0.0.2", URL]`.
#[track_caller]
pub fn curl(arguments: &[&str]) -> Answer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--path-as-is", "--max-time", "60"]);
    command.args(["--write-out", "%{http_code} %{http_version}"]);
    command.arg("--dump-header").arg(&head).arg("--output").arg(&body).args(arguments);
    let Ran { code, stdout, stderr } = run(&mut command, Duration::from_secs(90));

    let (status, version) = stdout.split_once(' ').unwrap_or_default();
    let head = String::from_utf8_lossy(&std::fs::read(head).unwrap_or_default()).into_owned();
    let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
    let fields = last.lines().skip(1).filter_map(|line| line.split_once(':'));
    Answer {
        status: status.parse().unwrap_or(0),
        version: version.to_string(),
        headers: fields.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect(),
        body: std::fs::read(body).unwrap_or_default(),
        exit: code.unwrap_or(-1),
        stderr,
    }
}
