//! A shell that outlives the test process by a moment, to end what it left behind.
//!
//! Rust drops no statics, and a test run can be interrupted; a server started for all tests would then stay. The
//! watchdog reads what to end from a pipe. When the pipe closes, for whatever reason, it does.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

const SCRIPT: &str = r#"
groups= ; namespaces= ; paths=
while read -r verb what; do
  case $verb in
    group) groups="$groups $what" ;;
    ended) left= ; for g in $groups; do [ "$g" = "$what" ] || left="$left $g"; done; groups=$left ;;
    namespace) namespaces="$namespaces $what" ;;
    path) paths="$paths$what
" ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done
for n in $namespaces; do ip netns delete "$n"; done
printf %s "$paths" | while read -r path; do rm -rf -- "$path"; done
"#;

/// End this process group at the end.
pub fn guard_group(pid: u32) {
    tell(&format!("group {pid}"));
}

/// This process group has ended: its number may soon be another's.
pub fn forget_group(pid: u32) {
    tell(&format!("ended {pid}"));
}

/// Remove this file or folder at the end.
pub fn guard_path(path: &Path) {
    tell(&format!("path {}", path.display()));
}

/// Remove this network namespace at the end; by then it may be gone already.
pub fn guard_namespace(name: &str) {
    tell(&format!("namespace {name}"));
}

fn tell(line: &str) {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

    let pipe = PIPE.get_or_init(|| {
        #[allow(clippy::zombie_processes)] // it ends after this process
        let shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // an interrupt from the terminal must not end it before its work
            .spawn()
            .expect("sh starts");
        Mutex::new(shell.stdin.expect("stdin is piped"))
    });
    let mut pipe = pipe.lock().unwrap();
    writeln!(pipe, "{line}").expect("the watchdog reads");
}
