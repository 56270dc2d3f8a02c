//! A child process in a group of its own, with its output kept.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{wait, watchdog};

pub struct Process {
    name: String,
    child: Child,
    stdout: Output,
    stderr: Output,
    ended: Option<ExitStatus>,
}

/// What a process that ran to its end said.
#[derive(Debug)]
pub struct Ran {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` to its end, at most `timeout`.
#[track_caller]
pub fn run(command: &mut Command, timeout: Duration) -> Ran {
    let mut process = Process::spawn(command);
    let code = process.wait(timeout).code();
    Ran { code, stdout: process.stdout(), stderr: process.stderr() }
}

/// Whether a process that no test started itself is there and has not ended.
pub fn is_running(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Its parent may be gone and nobody may have asked for its end.
    !state.is_empty() && !state.contains(") Z ")
}

impl Process {
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Process {
        Process::spawn_on(command, Stdio::null())
    }

    /// The same, on a standard input of the test's.
    #[track_caller]
    pub fn spawn_on(command: &mut Command, stdin: Stdio) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{name}`: {error}"));
        watchdog::guard_group(child.id());
        let stdout = Output::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Output::of(child.stderr.take().expect("stderr is piped"));
        Process { name, child, stdout, stderr, ended: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal (`"TERM"`) to this process alone; one that has ended gets none.
    pub fn signal(&mut self, signal: &str) {
        if self.exited().is_none() {
            send(signal, &self.pid().to_string());
        }
    }

    /// Sends a signal to this process and those it started.
    pub fn signal_group(&mut self, signal: &str) {
        if self.exited().is_none() {
            send(signal, &format!("-{}", self.pid()));
        }
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("the child can be asked");
            if self.ended.is_some() {
                // Nobody else may be left to write; what a grandchild says later is not waited for.
                wait::becomes(Duration::from_secs(1), || self.stdout.closed() && self.stderr.closed());
                watchdog::forget_group(self.pid());
            }
        }
        self.ended
    }

    /// Waits for it to end by itself; panics if it has not by `timeout`.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("`{}` ({}) to end", self.name, self.pid());
        wait::wait_for(&what, timeout, || self.exited())
    }

    /// SIGKILL to the whole group, and the body taken away.
    pub fn kill(&mut self) {
        self.signal_group("KILL");
        self.wait(wait::PATIENCE);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn send(signal: &str, target: &str) {
    // The shell's own kill: Debian's /bin/kill is in a package that a small image leaves out.
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$0" -- "$1""#, signal, target])
        .stderr(Stdio::null()) // it may have ended a moment ago
        .status();
    status.expect("sh starts");
}

struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(mut pipe: impl Read + Send + 'static) -> Output {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                kept.lock().unwrap().extend_from_slice(&chunk[..n]);
            }
        });
        Output { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn closed(&self) -> bool {
        self.reader.is_finished()
    }
}
