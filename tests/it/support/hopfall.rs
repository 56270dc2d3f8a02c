//! hopfall itself: the real binary on a configuration that the test writes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{self, Client, Response};
use super::metrics::Metrics;
use super::process::{self, Process, Ran};
use super::schema::mistakes;
use super::{ports, wait};

pub const BINARY: &str = env!("CARGO_BIN_EXE_hopfall");

pub struct Hopfall {
    process: Process,
    addresses: Vec<(String, SocketAddr)>,
    folder: TempDir,
}

pub struct Builder {
    yaml: String,
    env: Vec<(String, String)>,
    addresses: Vec<(String, SocketAddr)>,
    ready: String,
    program: Vec<String>,
    arguments: Vec<String>,
}

/// Runs the binary to its end: `command(&["check", "conf/full.yaml"])`.
#[track_caller]
pub fn command(arguments: &[&str]) -> Ran {
    process::run(clean_command().args(arguments), wait::PATIENCE)
}

/// The same with variables for `${NAME}` in the YAML.
#[track_caller]
pub fn command_with(arguments: &[&str], env: &[(&str, &str)]) -> Ran {
    process::run(clean_command().args(arguments).envs(env.iter().copied()), wait::PATIENCE)
}

/// An address for hopfall that a node must know before hopfall starts: see `Builder::address`.
pub fn reserve() -> SocketAddr {
    ports::free("127.0.0.1")
}

impl Hopfall {
    /// Starts it and waits until it is ready. In the YAML, `{web}`, `{admin}` and `{addr:NAME}` stand for addresses
    /// found for it, and `{dir}` for the folder of the configuration file.
    #[track_caller]
    pub fn start(yaml: &str) -> Hopfall {
        Hopfall::builder(yaml).start()
    }

    /// The same with variables for `${NAME}` in the YAML.
    #[track_caller]
    pub fn start_with_env(yaml: &str, env: &[(&str, &str)]) -> Hopfall {
        env.iter().fold(Hopfall::builder(yaml), |builder, (name, value)| builder.env(name, value)).start()
    }

    pub fn builder(yaml: &str) -> Builder {
        Builder {
            yaml: yaml.to_string(),
            env: Vec::new(),
            addresses: Vec::new(),
            ready: "/readyz".to_string(),
            program: vec![BINARY.to_string()],
            arguments: Vec::new(),
        }
    }

    /// The address of `{web}`.
    #[track_caller]
    pub fn web(&self) -> SocketAddr {
        self.address("web")
    }

    /// The address of `{admin}`.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// The address of `{addr:NAME}`.
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        let found = self.addresses.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("the configuration has no address `{name}`")).1
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// One GET to `{web}` on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        client::get(self.web(), target)
    }

    /// One HEAD to `{web}` on a connection of its own.
    #[track_caller]
    pub fn head(&self, target: &str) -> Response {
        client::head(self.web(), target)
    }

    /// A new connection to `{web}`.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.web())
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = client::get(self.admin(), "/metrics");
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// One request to the admin listener, on a connection of its own, by its own name.
    #[track_caller]
    pub fn ask_admin(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let host = self.admin().to_string();
        let mut fields = headers.to_vec();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            fields.push(("Host", &host));
        }
        let mut client = Client::connect(self.admin());
        if method == "GET" {
            client.request(method, target, &fields)
        } else {
            client.upload(method, target, &fields, body.as_bytes())
        };
        client.response()
    }

    /// What `/status` tells a program.
    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.ask_admin("GET", "/status", &[], "");
        assert_eq!(answer.status, 200, "/status: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("/status is JSON")
    }

    /// The application's log so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Standard output so far, as it is: the access log in any format.
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// The JSON access log so far.
    #[track_caller]
    pub fn access_log(&self) -> Vec<Value> {
        let out = self.process.stdout();
        let whole = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"))).collect()
    }

    /// The JSON access log once it has `count` lines: a line is written after the client has its answer.
    #[track_caller]
    pub fn wait_for_access_log(&self, count: usize) -> Vec<Value> {
        wait::wait_for(&format!("{count} lines of access log"), wait::PATIENCE, || {
            Some(self.access_log()).filter(|lines| lines.len() >= count)
        })
    }

    /// Waits until the application's log has this text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait::wait_until(&format!("`{text}` in the log"), wait::PATIENCE, || self.log().contains(text));
    }

    /// Runs a command that asks this hopfall's admin listener: `&["purge", "/cat.jpg"]`.
    pub fn order(&self, arguments: &[&str]) -> Ran {
        let yaml = format!(
            "listeners: [{{ name: w, address: \"127.0.0.1:0\", route: r }}]\nroutes: {{ r: {{ chain: [p] }} }}\n\
             pools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\nadmin: {{ address: \"{}\" }}\n",
            self.admin()
        );
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("hopfall.yaml");
        std::fs::write(&file, yaml).expect("a temporary file");
        let config = ["-c", file.to_str().expect("a plain path")];
        command(&[arguments, &config].concat())
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number")
    }

    /// Open file descriptors: connections, mostly.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    /// Rewrites the configuration file; placeholders mean what they meant at the start.
    pub fn rewrite(&mut self, yaml: &str) {
        let yaml = fill(yaml, &mut self.addresses, &self.folder.path().display().to_string());
        std::fs::write(self.folder.path().join("hopfall.yaml"), yaml).unwrap();
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("hopfall.yaml")
    }

    /// Sends a signal: `"HUP"`.
    pub fn signal(&mut self, signal: &str) {
        self.process.signal(signal);
    }

    /// SIGTERM (drain), then waits for its end and tells the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait_exit(Duration::from_secs(60))
    }

    /// SIGINT (stop now), then waits for its end and tells the exit code.
    #[track_caller]
    pub fn interrupt(&mut self) -> Option<i32> {
        self.signal("INT");
        self.wait_exit(Duration::from_secs(60))
    }

    /// Waits for its end; the exit code, or `None` if a signal ended it.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<i32> {
        self.process.wait(timeout).code()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.exited().is_none()
    }
}

impl Builder {
    /// A variable for `${NAME}` in the YAML.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// Decides the address of `{web}`, `{admin}` or `{addr:NAME}` beforehand, with one from `reserve()`.
    pub fn address(mut self, name: &str, address: SocketAddr) -> Builder {
        self.addresses.push((name.to_string(), address));
        self
    }

    /// What is run in place of the binary: another path to it, or what runs it.
    pub fn program(mut self, words: &[&str]) -> Builder {
        self.program = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Reads its config file again whenever that changes.
    pub fn watch(mut self) -> Builder {
        self.arguments.push("--watch".to_owned());
        self
    }

    /// Which admin path must answer 200 before the test goes on; `/readyz` by default.
    pub fn ready(mut self, path: &str) -> Builder {
        self.ready = path.to_string();
        self
    }

    #[track_caller]
    pub fn start(self) -> Hopfall {
        for _ in 0..5 {
            let mut hopfall = self.spawn();
            // Each good config of the tests is one for editors too.
            let text = std::fs::read_to_string(hopfall.config_file()).unwrap();
            assert_eq!(mistakes(&text), Ok(Vec::new()), "an editor would find fault with\n{text}");
            let admin = hopfall.admin();
            let mut ended = false;
            let ready = wait::becomes(wait::PATIENCE, || {
                ended = !hopfall.is_running();
                ended || answers(admin, &self.ready)
            });
            if ready && !ended {
                return hopfall;
            }
            let said = hopfall.log();
            // Another process took a port in between; the addresses given beforehand cannot be changed.
            if !(ended && self.addresses.is_empty() && said.contains("in use")) {
                let what = if ended { "ended" } else { "did not get ready" };
                panic!("hopfall {what}; its log:\n{said}\nits output:\n{}", hopfall.stdout());
            }
        }
        panic!("hopfall found no free ports");
    }

    /// Starts it and does not wait, for a start that must fail.
    pub fn spawn(&self) -> Hopfall {
        let folder = tempfile::Builder::new().prefix("hopfall-test-").tempdir().expect("a temporary folder");
        let file = folder.path().join("hopfall.yaml");
        let mut addresses = self.addresses.clone();
        std::fs::write(&file, fill(&self.yaml, &mut addresses, &folder.path().display().to_string())).unwrap();
        let mut command = clean_command_of(&self.program[0]);
        command.args(&self.program[1..]).arg("run").arg("-c").arg(&file).args(&self.arguments);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Hopfall { process: Process::spawn(&mut command), addresses, folder }
    }
}

/// The machine's own credentials and log settings must not decide a test.
fn clean_command() -> Command {
    clean_command_of(BINARY)
}

fn clean_command_of(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

fn answers(admin: SocketAddr, path: &str) -> bool {
    let Ok(mut client) = Client::try_connect(admin) else { return false };
    client.timeout(Duration::from_secs(2));
    let sent = client.try_send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
    sent.and_then(|()| client.try_response()).is_ok_and(|answer| answer.status == 200)
}

/// Replaces the placeholders; an address not known yet is found and remembered.
fn fill(yaml: &str, addresses: &mut Vec<(String, SocketAddr)>, folder: &str) -> String {
    let mut filled = String::new();
    let mut rest = yaml;
    while let Some(open) = rest.find('{') {
        filled.push_str(&rest[..open]);
        rest = &rest[open..];
        let inside = rest[1..].split('}').next().unwrap_or_default();
        let name = match inside {
            "web" | "admin" => Some(inside),
            _ => inside.strip_prefix("addr:"),
        };
        if let Some(name) = name {
            let known = addresses.iter().find(|(known, _)| known == name).map(|(_, address)| *address);
            let address = known.unwrap_or_else(|| {
                let address = reserve();
                addresses.push((name.to_string(), address));
                address
            });
            filled.push_str(&address.to_string());
        } else if inside == "dir" {
            filled.push_str(folder);
        } else {
            filled.push('{');
            rest = &rest[1..];
            continue;
        }
        rest = &rest[inside.len() + 2..];
    }
    filled + rest
}
