//! The process that takes this one's place, and how it is started.
//!
//! Not as a child of this process: systemd looks after a main process only if it is a child of its own. One that is not
//! gets SIGKILL at a stop, in the middle of its requests. So a go-between starts it and ends at once, which makes it a
//! child of the first process, as the daemons of old did.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// In the environment of a process that has something to do with a handover, on the socket that is its standard input.
pub const VARIABLE: &str = "HOPFALL_HANDOVER";
/// The values of [`VARIABLE`]: start the successor; be the successor.
const START: &str = "start";
pub const RECEIVE: &str = "receive";

/// A process that was started and has not served yet.
pub struct Successor {
    pub pid: u32,
    /// By its number alone another process could be ended, which has got it meanwhile.
    handle: OwnedFd,
}

impl Successor {
    /// Starts `program` with this process's arguments. `its` is its end of a socket pair, `here` the other one. Blocks for a
    /// moment.
    ///
    /// # Errors
    /// When it cannot be started, or has ended already.
    pub fn start(program: &Path, mut here: &UnixStream, its: UnixStream) -> io::Result<Successor> {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(VARIABLE, START).stdin(Stdio::from(OwnedFd::from(its)));
        // The service manager's watchdog follows the main process, whichever that is.
        command.env_remove("WATCHDOG_PID");
        let mut between = command.spawn()?;
        // Else it would hold this process's copy of the other end.
        drop(command);
        here.set_read_timeout(Some(MOMENT))?;
        let mut pid = [0; 4];
        let told = here.read_exact(&mut pid);
        if told.is_err() {
            // It hangs, or has ended; if it has started anything, that finds nobody to take over from.
            let _ = between.kill();
        }
        between.wait()?;
        told.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it ended at once"),
            ErrorKind::WouldBlock => io::Error::new(error.kind(), "it started nothing"),
            _ => error,
        })?;
        let pid = u32::from_le_bytes(pid);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
        Ok(Successor { pid, handle: pidfd_open(number, PidfdFlags::empty())? })
    }

    /// Ends it at once, if it has not ended.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// Where this program is: the path by which it was called, links and all. Where versions lie side by side, it is a link that
/// leads to the next one, and the program itself stays.
///
/// # Errors
/// When the kernel does not say which file it is.
pub fn program() -> io::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let leads_here = |path: &PathBuf| path.canonicalize().is_ok_and(|found| found == here);
    let called = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let called = if called.components().count() > 1 {
        std::path::absolute(called).ok().filter(leads_here)
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(&called)).find(leads_here)
    };
    Ok(called.unwrap_or(here))
}

/// Does what a go-between has to do, if this process is one. `true`: it is, and may end.
///
/// # Errors
/// When the program cannot be started once more.
pub fn go_between() -> io::Result<bool> {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != START) {
        return Ok(false);
    }
    let mut command = Command::new(program()?);
    #[allow(clippy::zombie_processes)] // it outlives this process
    let successor = command.args(std::env::args_os().skip(1)).env(VARIABLE, RECEIVE).spawn()?;
    let mut to = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    to.write_all(&successor.id().to_le_bytes())?;
    Ok(true)
}

/// For a process to be started and to say which it is, on a busy machine.
const MOMENT: Duration = Duration::from_secs(20);
