//! The command line.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use log::{error, warn};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config, Destination, Problems};
use crate::doctor;
use crate::import::{self, Import, Source, TlsFiles};
use crate::manual;
use crate::messages::Messages;
use crate::server::{Handed, Server, Told};

/// A reverse proxy for storage nodes that do not all hold every file: when a node answers 404, hopfall asks the next one
/// that it has not asked yet, and finally S3. It cannot loop.
#[derive(Debug, Parser)]
#[command(name = "hopfall", version, after_help = EXITS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run hopfall with a config file
    ///
    /// SIGTERM drains: it takes no new connections, and lets requests in progress end. SIGINT stops at once. SIGHUP reads
    /// the config file again. SIGUSR1 reopens the log files. SIGUSR2 starts the program again and hands over to it.
    Run {
        /// The config file (YAML)
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Read the config file again whenever it changes
        #[arg(long)]
        watch: bool,
    },
    /// Make a running hopfall read its config file again
    ///
    /// Uses the admin listener that the config file names. If the file has mistakes, they are printed, the exit code is 2,
    /// and hopfall goes on as before.
    Reload {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Check a config file and print everything that is wrong with it
    Check {
        /// The config file (YAML)
        #[arg(value_name = "FILE")]
        config: PathBuf,
        /// Also test what the config names: hosts, nodes, buckets, certificates, ports, disks and limits; exit code 1 for an error
        ///
        /// Needs no running hopfall, and does not disturb one. Nodes and buckets are asked for random names.
        #[arg(long)]
        online: bool,
        /// The longest that all tests together may take
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration, requires = "online")]
        timeout: Duration,
        /// Write JSON (docs/check.schema.json)
        #[arg(long, requires = "online")]
        json: bool,
    },
    /// Show how a running hopfall would serve a request: which targets it would ask, in which order, and why
    ///
    /// Uses the admin listener that the config file names. Without --live, nothing is sent to nodes or S3, and nothing
    /// changes.
    Explain {
        /// An absolute URL, whose host selects the route, or a path such as /img/cat.jpg
        #[arg(value_name = "URL|PATH")]
        url: String,
        /// The Host of the request, instead of the URL's
        #[arg(long)]
        host: Option<String>,
        /// The name of the listener that the request comes to. Default: the one that fits the URL, else the first
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// The client's address: it matters for stickiness, for `source`, and if it is a node's. Default: 192.0.2.1, which is nobody's
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
        /// The client's cookies, for stickiness: NAME=VALUE
        #[arg(long)]
        cookie: Option<String>,
        /// Use HEAD instead of GET
        #[arg(long)]
        head: bool,
        /// Make the request, and show the status, bytes, time and cost of each hop
        #[arg(long)]
        live: bool,
        /// Write JSON (docs/explain.schema.json)
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Format a config file: indents, spaces, quotes. Comments and the order of keys stay
    Fmt {
        /// The config file (YAML)
        #[arg(value_name = "FILE")]
        config: PathBuf,
        /// Write nothing; the exit code is 1 if the file would change
        #[arg(long)]
        check: bool,
    },
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Ask a running hopfall whether it takes requests: exit code 0 if it does, else 1
    ///
    /// Uses the admin listener that the config file names; one on 0.0.0.0 or [::] is asked on loopback. Made for the health
    /// checks of containers and service managers.
    Healthcheck {
        /// Ask only whether it is alive: it is, even while it drains
        #[arg(long)]
        live: bool,
        /// The longest wait for the answer
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
        timeout: Duration,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a running hopfall start its program again, and hand over to it
    ///
    /// Uses the admin listener that the config file names. The new process takes over the listening sockets, so that no
    /// connection is refused; the old one answers what is still asked on its own connections, and ends. If the new one does
    /// not start serving, nothing changes.
    Upgrade {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a running hopfall forget a file: which target has it, and its copy on the disk
    ///
    /// Uses the admin listener that the config file names. The next request for the file is looked up again from scratch.
    Purge {
        /// The path as in requests, such as /img/cat.jpg
        #[arg(value_name = "PATH")]
        path: String,
        /// Forget all paths that begin with PATH
        #[arg(long)]
        prefix: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change a node's mode in a running hopfall
    ///
    /// Uses the admin listener that the config file names. The mode lasts until a restart, through reloads and upgrades.
    Node {
        /// The pool's name
        pool: String,
        /// The node's name
        node: String,
        /// accept, drain (only clients that stick to it), reject (none) or backup (after all others)
        mode: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change which messages a running hopfall logs
    ///
    /// Uses the admin listener that the config file names. The level lasts until the process ends.
    LogLevel {
        /// The least severe messages to log: error, warn, info, debug or trace
        level: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Write a config from another load balancer's
    Import {
        #[command(subcommand)]
        from: ImportFrom,
    },
    /// Write the manual pages, one for each command, into a folder
    #[command(hide = true)]
    Man {
        /// An existing folder
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Show the chain at work: two nodes, a signed S3 store and hopfall, all in this process
    #[cfg(feature = "demo")]
    Demo {
        /// Make the requests, show their hops and exit, with 0 only if every case came out right
        #[arg(long)]
        once: bool,
    },
}

/// Which hopfall to ask.
#[derive(Debug, clap::Args)]
struct AdminArgs {
    /// The config file of the running hopfall, for its `admin` address and token
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ImportFrom {
    /// A Linode NodeBalancer, from the JSON of its API
    ///
    /// The YAML goes to standard output, and a report of what was kept, what was changed and what cannot be kept to
    /// standard error. docs/nodebalancer.md says how to get the JSON.
    #[command(name = "nodebalancer")]
    NodeBalancer {
        /// A file of JSON documents, or a folder of .json files
        #[arg(value_name = "FILE|FOLDER")]
        input: PathBuf,
        /// Write the YAML to this file, which must not exist yet
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The PEM certificate of https listeners; it is compared with the NodeBalancer's fingerprint
        #[arg(long, value_name = "FILE", requires = "tls_key")]
        tls_certificate: Option<PathBuf>,
        /// Its key, which is only named in the YAML and not read
        #[arg(long, value_name = "FILE", requires = "tls_certificate")]
        tls_key: Option<PathBuf>,
    },
}

/// The longest wait for the admin listener to do what it is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a request that is made through the chain, and that ends by itself before.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(65);
/// The same for a reload, which may look names up and open disks.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

/// What an address or a token of the file may be wrong by.
const CHANGED: &str = "If hopfall is running, and `admin` in the file has changed since it was read, send it SIGHUP.";

const EXITS: &str = "Exit codes: 0 done; 1 could not start, run, read or write, or the running hopfall refused; 2 bad usage, config or input.";

impl Cli {
    /// Carries out the command.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run { config, watch } => run(&config, watch),
            Command::Reload { admin } => ask(&admin, "POST", "reload", &[], RELOAD_PATIENCE),
            Command::Check { config, online: true, timeout, json } => examine(&config, timeout, json),
            Command::Check { config, .. } => check(&config),
            Command::Upgrade { admin } => ask(&admin, "POST", "upgrade", &[], RELOAD_PATIENCE),
            Command::Fmt { config, check } => fmt(&config, check),
            Command::Schema => print(&config::schema()),
            Command::Healthcheck { live, timeout, admin } => {
                ask(&admin, "GET", if live { "healthz" } else { "readyz" }, &[], timeout)
            }
            Command::Purge { path, prefix, admin } => {
                if !path.starts_with('/') {
                    eprintln!("hopfall: `{path}` must begin with `/`");
                    return ExitCode::from(2);
                }
                let what = if prefix { "prefix" } else { "path" };
                ask(&admin, "POST", "purge", &[(what, &path)], PATIENCE)
            }
            Command::Node { pool, node, mode, admin } => {
                let parameters = [("pool", pool.as_str()), ("node", &node), ("mode", &mode)];
                ask(&admin, "POST", "node", &parameters, PATIENCE)
            }
            Command::LogLevel { level, admin } => ask(&admin, "POST", "log-level", &[("level", &level)], PATIENCE),
            Command::Explain { url, host, listener, client, cookie, head, live, json, admin } => {
                let client = client.map(|client| client.to_string());
                let given = [("host", host), ("listener", listener), ("client", client), ("cookie", cookie)];
                let fixed = [
                    ("path", url.as_str()),
                    ("method", if head { "HEAD" } else { "GET" }),
                    ("format", if json { "json" } else { "text" }),
                ];
                let given = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
                let parameters: Vec<(&str, &str)> = fixed.into_iter().chain(given).collect();
                let (method, patience) = if live { ("POST", EXPLAIN_PATIENCE) } else { ("GET", PATIENCE) };
                ask(&admin, method, "explain", &parameters, patience)
            }
            Command::Import { from: ImportFrom::NodeBalancer { input, out, tls_certificate, tls_key } } => {
                import_nodebalancer(&input, out.as_deref(), tls_certificate.as_deref().zip(tls_key.as_deref()))
            }
            Command::Man { folder } => written(manual::pages(Cli::command(), &folder)),
            Command::Completions { shell } => written(manual::completions(Cli::command(), shell)),
            #[cfg(feature = "demo")]
            Command::Demo { once } => crate::demo::run(once),
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            let nodes: usize = config.pools.iter().map(|pool| pool.nodes.len()).sum();
            let counts = [
                (config.listeners.len(), "listener"),
                (config.pools.len(), "pool"),
                (nodes, "node"),
                (config.stores.len(), "store"),
                (config.routes.len(), "route"),
            ];
            let counted = counts.map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }));
            println!("{}: fine ({})", path.display(), counted.join(", "));
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}

/// Holds the config against the world.
fn examine(path: &Path, patience: Duration, json: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let report = match runtime(0) {
        Ok(runtime) => {
            let report = runtime.block_on(doctor::examine(Arc::new(config), patience));
            // What is still being waited for has had its time.
            runtime.shutdown_background();
            report
        }
        Err(error) => Err(error),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            eprintln!("hopfall: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match serde_json::to_string_pretty(&report) {
        Ok(text) if json => println!("{text}"),
        _ => println!("{report}\n{}: {}", path.display(), report.sum()),
    }
    if report.errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Puts another content into a file whole, so that neither a full disk nor a crash leaves half of it. A link stays one, and
/// mode and owner stay what they are. Where that cannot be (another's file, one that is mounted), it is written in place.
fn rewrite(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    // A name that nobody else has.
    let beside = path.with_added_extension(format!("{}.new", std::process::id()));
    let owner = path.metadata()?;
    let written = std::fs::copy(&path, &beside)
        .and_then(|_| std::os::unix::fs::chown(&beside, Some(owner.uid()), Some(owner.gid())))
        .and_then(|()| std::fs::write(&beside, content))
        .and_then(|()| std::fs::rename(&beside, &path));
    if written.is_err() {
        // It may be half of what it should be.
        let _ = std::fs::remove_file(&beside);
    }
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ResourceBusy) => {
            std::fs::write(&path, content)
        }
        written => written,
    }
}

fn fmt(path: &Path, check: bool) -> ExitCode {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("hopfall: {name}: cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let laid_out = match config::format(&name, &text) {
        Ok(laid_out) => laid_out,
        Err(problems) => return refuse(&problems),
    };
    if laid_out == text {
        return ExitCode::SUCCESS;
    }
    if check {
        eprintln!("{name}: would be reformatted");
        return ExitCode::FAILURE;
    }
    match rewrite(path, laid_out.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hopfall: {name}: cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// To standard output, which may be a pipe that somebody has closed.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hopfall: standard output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    let count = problems.problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    eprintln!("{problems}\n\n{}: {count} {noun}", problems.file);
    ExitCode::from(2)
}

fn run(path: &Path, watch: bool) -> ExitCode {
    let handed = match Handed::receive() {
        Ok(Some(handed)) => handed,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hopfall: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            handed.failed(&format!("the config has mistakes\n{problems}"));
            return refuse(&problems);
        }
    };
    let elsewhere = config.log.messages.to != Destination::Standard;
    let served = Messages::start(&config.log).and_then(|messages| {
        serve(config, path.to_owned(), watch, handed, &messages).inspect_err(|error| error!("{error:#}"))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Who started it may not know of the log that has it.
            if elsewhere {
                eprintln!("hopfall: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Asks the admin listener of a running hopfall, or has it do something, and prints what it says.
fn ask(arguments: &AdminArgs, method: &str, page: &str, parameters: &[(&str, &str)], patience: Duration) -> ExitCode {
    let admin = match Config::admin_address(&arguments.config) {
        Ok(admin) => admin,
        Err(problems) => return refuse(&problems),
    };
    let Some(admin) = admin else {
        eprintln!("hopfall: the config has no `admin`; without its address the running hopfall cannot be reached");
        return ExitCode::from(2);
    };
    let token = match method {
        "POST" => Config::admin_token(&arguments.config),
        // Whether it is ready is told to everybody.
        _ => Ok(None),
    };
    let token = match token {
        Ok(token) => token,
        Err(problems) => return refuse(&problems),
    };
    let authorization = token.map(|token| format!("Authorization: Bearer {}\r\n", token.expose())).unwrap_or_default();
    match request(admin, method, page, parameters, &authorization, patience) {
        Ok(told) => {
            let body = told.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim_end();
            if told.starts_with("HTTP/1.1 200") {
                println!("{body}");
                return ExitCode::SUCCESS;
            }
            eprintln!("hopfall: {body}");
            if told.starts_with("HTTP/1.1 401") {
                eprintln!("{CHANGED}");
            }
            // Bad usage; a config with mistakes.
            if told.starts_with("HTTP/1.1 400") || told.starts_with("HTTP/1.1 422") {
                return ExitCode::from(2);
            }
        }
        Err(error) => {
            eprintln!("hopfall: the admin listener {admin} does not answer: {error}");
            if method == "POST" {
                eprintln!("{CHANGED}");
            }
        }
    }
    ExitCode::FAILURE
}

/// One request on a connection of its own; the whole answer, within `patience`.
fn request(
    admin: SocketAddr,
    method: &str,
    page: &str,
    parameters: &[(&str, &str)],
    authorization: &str,
    patience: Duration,
) -> std::io::Result<String> {
    let admin = config::as_asked_from_here(admin);
    let end = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&admin, patience)?;
    let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let pairs: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    write!(
        stream,
        "{method} /{page}{query} HTTP/1.1\r\nHost: {admin}\r\n{authorization}{length}Connection: close\r\n\r\n"
    )?;
    let (mut told, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(String::from_utf8_lossy(&told).into_owned()),
            Ok(length) => told.extend_from_slice(&piece[..length]),
            // What a socket says when its time is over.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn written(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hopfall: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn import_nodebalancer(input: &Path, out: Option<&Path>, tls: Option<(&Path, &Path)>) -> ExitCode {
    let read = json_files(input).and_then(|sources| Ok((sources, tls.map(tls_files).transpose()?)));
    let (sources, tls) = match read {
        Ok(read) => read,
        Err(error) => {
            eprintln!("hopfall: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if sources.is_empty() {
        eprintln!("hopfall: {}: no file in it ends in .json; save the API's answers there", input.display());
        return ExitCode::from(2);
    }
    let Import { yaml, report } = match import::nodebalancer(&sources, tls.as_ref()) {
        Ok(import) => import,
        Err(refusal) => {
            eprintln!("hopfall: {refusal}");
            return ExitCode::from(2);
        }
    };
    let written = yaml.as_deref().map(|yaml| write_new(out, yaml));
    if let Some(Err(error)) = &written {
        eprintln!("hopfall: {error:#}");
        return ExitCode::FAILURE;
    }
    eprint!("{report}");
    if written.is_some() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// The file, or all `.json` files of the folder by name.
fn json_files(input: &Path) -> anyhow::Result<Vec<Source>> {
    let read = |path: &Path| {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
        anyhow::Ok(Source { name, text })
    };
    if !input.is_dir() {
        return Ok(vec![read(input)?]);
    }
    let folder = input.display();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(input).with_context(|| format!("{folder}: cannot be read"))? {
        let path = entry.with_context(|| format!("{folder}: cannot be read"))?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn tls_files((certificate, key): (&Path, &Path)) -> anyhow::Result<TlsFiles> {
    let name = certificate.display().to_string();
    let pem = std::fs::read_to_string(certificate).with_context(|| format!("{name}: cannot be read"))?;
    Ok(TlsFiles { certificate: name, key: key.display().to_string(), pem })
}

/// To a file that was not there, or to standard output.
fn write_new(out: Option<&Path>, text: &str) -> anyhow::Result<()> {
    let Some(out) = out else {
        return std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written");
    };
    let name = out.display();
    let mut file = std::fs::File::create_new(out).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow!("{name}: exists already and is not overwritten; name another"),
        _ => anyhow!("{name}: cannot be written: {error}"),
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("{name}: cannot be written"))
}

fn serve(config: Config, file: PathBuf, watch: bool, handed: Handed, messages: &Messages) -> anyhow::Result<()> {
    raise_file_limit(&config);
    let runtime = runtime(config.threads)?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut server = Server::start(config, Some(file), handed).await?;
        if watch {
            server.watch()?;
        }
        server
            .run(async || {
                tokio::select! {
                    _ = terminate.recv() => Told::Drain,
                    _ = interrupt.recv() => Told::StopNow,
                    _ = hangup.recv() => Told::Reload,
                    _ = upgrade.recv() => Told::Upgrade,
                    _ = reopen.recv() => {
                        messages.reopen();
                        Told::ReopenLogs
                    }
                }
            })
            .await;
        anyhow::Ok(())
    });
    // What still runs has had its time.
    runtime.shutdown_background();
    served
}

/// Every connection is a file, and so is every one to a node.
fn raise_file_limit(config: &Config) {
    let wanted = config.files_wanted();
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => warn!(
            "at most {limit} files may be open, and `max_connections` may need {wanted}: raise the limit (LimitNOFILE, ulimit -n) or lower `max_connections`"
        ),
        Ok(_) => {}
        Err(error) => warn!("the limit of open files cannot be raised: {error}"),
    }
}

/// The worker threads; 0 means one per core.
pub fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().thread_name("hopfall").build()?)
}
