//! A real rsyslogd, on a socket and a UDP port of its own, which tells what it has understood.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{ports, wait};

pub struct Rsyslog {
    address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Rsyslog {
    #[track_caller]
    pub fn start() -> Rsyslog {
        let folder = tempfile::Builder::new().prefix("hopfall-rsyslog-").tempdir().expect("a temporary folder");
        let address = ports::free("127.0.0.1");
        let at = folder.path().display();
        let conf = format!(
            r#"global(workDirectory="{at}" parser.escapeControlCharactersOnReceive="on")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
input(type="imuxsock" Socket="{at}/log")
input(type="imudp" address="{ip}" port="{port}")
template(name="seen" type="list" option.jsonf="on") {{
  property(outname="facility" name="syslogfacility-text" format="jsonf")
  property(outname="severity" name="syslogseverity-text" format="jsonf")
  property(outname="program" name="programname" format="jsonf")
  property(outname="process" name="procid" format="jsonf")
  property(outname="kind" name="msgid" format="jsonf")
  property(outname="text" name="msg" format="jsonf")
}}
action(type="omfile" file="{at}/seen" template="seen")
"#,
            ip = address.ip(),
            port = address.port()
        );
        let file = folder.path().join("rsyslog.conf");
        std::fs::write(&file, conf).unwrap();
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f"]).arg(&file).arg("-i").arg(folder.path().join("pid"));
        let mut process = Process::spawn(&mut command);
        let socket = folder.path().join("log");
        wait::wait_until("rsyslogd to listen", wait::PATIENCE, || process.exited().is_some() || socket.exists());
        assert!(process.exited().is_none(), "rsyslogd did not start: {}", process.stderr());
        Rsyslog { address, folder, _process: process }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn udp(&self) -> SocketAddr {
        self.address
    }

    /// What it has understood so far.
    pub fn seen(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("seen")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"))).collect()
    }
}
