//! A real systemd, as the first process of a [`Debian`]: with processes, mounts, a host name and control groups of its own,
//! on a machine of a [`Lan`](super::lan::Lan).

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::debian::Debian;
use super::lan::Machine;
use super::process::{Process, Ran, run};
use super::wait::{PATIENCE, wait_for, wait_until};

pub struct Systemd<'a> {
    pub debian: &'a Debian,
    machine: &'a Machine,
    /// Its name in the host's control groups.
    group: String,
    /// The parent of systemd, which takes it along when it ends.
    parent: Process,
    /// systemd, as the host numbers it.
    init: u32,
}

/// dpkg configures, a service may be waited for.
const ORDER_PATIENCE: Duration = Duration::from_secs(60);

/// Joins a control group of its own. `$0` is its name; the rest is what to run there.
const JOIN: &str = r#"
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/groups
mount -t cgroup2 cgroup2 /mnt/groups
mkdir "/mnt/groups/$0"
echo $$ >"/mnt/groups/$0/cgroup.procs"
umount /mnt/groups /mnt
exec "$@"
"#;

/// Makes the folder `$0` the root of everything, with what systemd wants to find mounted (its "Container Interface"), and
/// becomes systemd.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev/; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p run/host
pivot_root . run/host
umount -l /run/host
# What systemd mounts for a service has to be seen by the service.
mount --make-rshared /
exec env -i container=hopfall-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"#;

/// Removes the group `$0` and those in it, which are empty.
const LEAVE: &str = r#"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/groups
mount -t cgroup2 cgroup2 /mnt/groups
find "/mnt/groups/$0" -depth -type d -exec rmdir {} +
"#;

impl<'a> Systemd<'a> {
    /// Boots, and waits until all that belongs to a boot is done.
    #[track_caller]
    pub fn boot(debian: &'a Debian, machine: &'a Machine) -> Systemd<'a> {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let group = format!("hopfall-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", JOIN, &group]);
        command.args(["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--cgroup"]);
        command.args(["sh", "-c", BOOT]).arg(debian.path("/"));
        let mut parent = machine.within(|| Process::spawn(&mut command));
        let children = format!("/proc/{0}/task/{0}/children", parent.pid());
        let init = wait_for("systemd to be started", PATIENCE, || {
            assert!(parent.exited().is_none(), "{}", parent.stderr());
            let child = std::fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let program = std::fs::read_link(format!("/proc/{child}/exe")).ok()?;
            program.ends_with("systemd").then_some(child)
        });
        let mut systemd = Systemd { debian, machine, group, parent, init };
        wait_until("systemd to be up", PATIENCE, || {
            assert!(systemd.parent.exited().is_none(), "{}", systemd.parent.stderr());
            systemd.run(&["systemctl", "is-system-running"]).stdout == "running\n"
        });
        systemd
    }

    /// A command under it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SYSTEMD_PAGER", "");
        command
    }

    /// Runs a command under it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments), ORDER_PATIENCE)
    }

    /// As [`Systemd::run`], where nothing may fail. Gives the standard output.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}\n{}", ran.stdout, ran.stderr, self.journal(&[]));
        ran.stdout
    }

    /// A property of the service: `MainPID`, `ActiveState`, …
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        let shown = self.run(&["systemctl", "show", "--value", "--property", name, "hopfall"]);
        shown.stdout.trim().to_owned()
    }

    /// The journal of the service, or what of it the arguments choose.
    pub fn journal(&self, arguments: &[&str]) -> String {
        self.run(&[&["journalctl", "--no-pager", "--unit=hopfall"], arguments].concat()).stdout
    }

    /// Runs `work` on the machine's network.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine.within(work)
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        self.parent.kill();
        let ended = || !Path::new("/proc").join(self.init.to_string()).exists();
        super::wait::becomes(PATIENCE, ended);
        run(Command::new("unshare").args(["--mount", "sh", "-c", LEAVE, &self.group]), PATIENCE);
    }
}
