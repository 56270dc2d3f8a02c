//! A Debian system of its own in a folder, as debootstrap makes it: nothing is in it but what Debian calls required, and
//! systemd, which runs only if a test boots it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::lan::Machine;
use super::process::{Ran, run};

pub struct Debian {
    folder: tempfile::TempDir,
}

/// dpkg unpacks and configures.
const PATIENCE: Duration = Duration::from_secs(60);

/// Enters the folder with a /proc and a /dev, which end with the process.
const ENTER: &str = r#"mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" "$@""#;

impl Debian {
    /// A fresh one.
    pub fn fresh() -> Debian {
        let kept = std::env::var_os("HOPFALL_TEST_DEBIAN").map_or_else(installed, PathBuf::from);
        assert!(kept.exists(), "{} is not there: run `scripts/test integration`", kept.display());
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(kept).args(["--numeric-owner", "--same-permissions", "-C"]).arg(folder.path());
        let ran = run(&mut tar, PATIENCE);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        // tempfile makes it for its owner alone.
        let ran = run(Command::new("chmod").arg("755").arg(folder.path()), PATIENCE);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        Debian { folder }
    }

    /// A path in it, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// A command in it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ENTER]).arg(self.folder.path()).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a command in it, on the network of `machine`.
    pub fn run(&self, machine: &Machine, arguments: &[&str]) -> Ran {
        machine.within(|| run(&mut self.command(arguments), PATIENCE))
    }

    /// All files, folders and links, but what dpkg keeps for itself and what is mounted.
    pub fn files(&self) -> Vec<String> {
        let mut find = Command::new("find");
        find.current_dir(self.folder.path()).args([".", "-path", "./proc", "-prune", "-o", "-path", "./dev", "-prune"]);
        find.args(["-o", "-path", "./var/lib/dpkg", "-prune", "-o", "-path", "./var/log/dpkg.log", "-o", "-print"]);
        let found = run(&mut find, PATIENCE);
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        let mut files: Vec<String> = found.stdout.lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/debian.tar")
}
