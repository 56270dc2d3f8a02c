//! A real keepalived, which moves an address between machines (VRRP).

use std::process::Command;

use tempfile::TempDir;

use super::process::Process;

pub struct Keepalived {
    process: Process,
    _folder: TempDir,
}

impl Keepalived {
    /// One that follows this configuration, on the machine of the calling thread.
    pub fn start(config: &str) -> Keepalived {
        let folder = tempfile::Builder::new().prefix("hopfall-keepalived-").tempdir().expect("a temporary folder");
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("keepalived.conf"), config).expect("a temporary file");
        let mut command = Command::new("keepalived");
        // In the foreground, VRRP alone, its log on standard error; the files of its process numbers are ours.
        command.args(["--dont-fork", "--vrrp", "--log-console", "--log-detail"]);
        command.arg("--use-file").arg(file("keepalived.conf"));
        command.arg("--pid").arg(file("pid")).arg("--vrrp_pid").arg(file("vrrp.pid"));
        Keepalived { process: Process::spawn(&mut command), _folder: folder }
    }

    /// As `systemctl stop` does: it gives the address away.
    pub fn stop(&mut self) {
        self.process.signal("TERM");
        self.process.wait(super::wait::PATIENCE);
    }

    /// SIGKILL to all of it: it says nothing more, and takes nothing back.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }
}
