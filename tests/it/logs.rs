//! Logs: where they go, how they are opened anew, what is left out, and that GoAccess, logrotate and rsyslog agree.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::num::NonZeroU32;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hopfall::access_log::{AccessLog, Entry};
use hopfall::config::{Config, Surroundings};
use hopfall::fallback::{Failure, Outcome};
use hopfall::trace_context::Trace;
use hopfall::trip::{Attempt, Cached, Trip};
use serde_json::Value;

use crate::support::client::Client;
use crate::support::fleet::Fleet;
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process::{self, Process};
use crate::support::raw::{Raw, connect};
use crate::support::rsyslog::Rsyslog;
use crate::support::wait::{PATIENCE, wait_for, wait_until};

const DOC: &str = include_str!("../../docs/logs.md");

fn one() -> (Origin, Fleet) {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    (node, fleet)
}

/// A config whose logs go to a folder of the test's own; `{at}` stands for it.
fn logging(fleet: Fleet, log: &str) -> (tempfile::TempDir, Fleet) {
    let folder = tempfile::tempdir().unwrap();
    let log = log.replace("{at}", folder.path().to_str().unwrap());
    (folder, fleet.top(&format!("log: {log}")))
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"))).collect()
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// By the command lines of docs/logs.md.
#[test]
fn goaccess_reads_both_formats() {
    for (format, mark) in [("json", "--log-format='{"), ("combined", "--log-format=COMBINED")] {
        let node = |files: &'static [&str]| {
            Origin::respond(move |request| match request.method.as_str() {
                "POST" => Reply::ok("thanks"),
                _ if files.iter().any(|file| request.target.starts_with(file)) => Reply::ok("meow"),
                _ => Reply::status(404),
            })
        };
        let (lean, full) = (node(&[]), node(&["/cat.jpg", "/a%20b.jpg"]));
        let fleet = Fleet::new().node_with("lean", lean.addr(), "weight: 255").node("full", full.addr());
        let log = format!("{{ access: {{ format: {format}, path: \"{{at}}/access.log\" }} }}");
        let (folder, fleet) = logging(fleet, &log);
        let mut hopfall = fleet.start();
        let mut client = hopfall.connect();
        let browser =
            [("User-Agent", "Mozilla/5.0 \"q\" (X11; Linux x86_64) Firefox/130.0"), ("Referer", "http://r.test/")];
        assert_eq!(client.request("GET", "/cat.jpg?size=1", &browser).response().status, 200);
        assert_eq!(client.request("GET", "/cat.jpg?size=1", &[]).response().status, 200);
        assert_eq!(client.request("GET", "/a%20b.jpg", &[]).response().status, 200);
        assert_eq!(client.request("GET", "/dog.jpg", &[]).response().status, 404);
        client.upload("POST", "/form", &[], b"x=1").response();
        assert_eq!(hopfall.connect().send("GET /bad HTTP/1.1\r\n\r\n").response().status, 400);
        drop(client);
        assert_eq!(hopfall.terminate(), Some(0));

        let file = folder.path().join("access.log");
        assert_eq!(text(&file).lines().count(), 6, "{}", text(&file));
        let documented = DOC.lines().find(|line| line.starts_with("goaccess ") && line.contains(mark)).unwrap();
        let command = documented.replace("/var/log/hopfall", folder.path().to_str().unwrap());
        let (out, refused) = (folder.path().join("out.json"), folder.path().join("refused"));
        let command =
            format!("{command} --no-global-config --output={} --invalid-requests={}", out.display(), refused.display());
        let ran = process::run(Command::new("sh").args(["-c", &command]), PATIENCE);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let report: Value = serde_json::from_str(&text(&out)).unwrap();
        let general = &report["general"];
        assert_eq!(general["failed_requests"], 0, "{format}: {}", text(&refused));
        assert_eq!(general["valid_requests"], 6, "{format}");
        assert_eq!(general["unique_visitors"], 2, "{format}: by address and user agent");
        let found = |panel: &str, data: &str| {
            let rows = report[panel]["data"].as_array().unwrap();
            let row = rows.iter().find(|row| row["data"] == data);
            row.unwrap_or_else(|| panic!("{format}: no {data} in {panel}: {rows:?}")).clone()
        };
        let cat = found("requests", "/cat.jpg?size=1");
        assert_eq!(cat["hits"]["count"], 2, "{format}");
        assert_eq!(cat["bytes"]["count"], 8, "{format}");
        assert_eq!(cat["method"], "GET", "{format}");
        assert_eq!(cat["protocol"], "HTTP/1.1", "{format}");
        assert_eq!(found("requests", "/form")["method"], "POST", "{format}");
        assert_eq!(found("static_requests", "/a b.jpg")["bytes"]["count"], 4, "{format}");
        assert_eq!(found("not_found", "/dog.jpg")["hits"]["count"], 1, "{format}");
        assert_eq!(found("referring_sites", "r.test")["hits"]["count"], 1, "{format}");
        if format == "json" {
            assert_eq!(found("vhosts", "files.test")["hits"]["count"], 5);
            assert!(cat["avgts"].as_u64() > Some(0), "in microseconds: {cat}");
        }
    }
}

/// Every line of a load is in one of the files, once, by logrotate's own hand and by ours.
#[test]
fn no_line_is_lost_while_files_are_renamed_under_load() {
    let (_node, fleet) = one();
    let log = "{ path: \"{at}/hopfall.log\", access: { path: \"{at}/access.log\" } }";
    let (folder, fleet) = logging(fleet, log);
    let mut hopfall = fleet.start();
    let web = hopfall.web();
    let access = folder.path().join("access.log");
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..2)
            .map(|worker| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut client = Client::connect(web);
                    let mut made = 0;
                    while !stop.load(Ordering::Relaxed) {
                        client.request("GET", &format!("/{worker}/{made}"), &[]).response();
                        made += 1;
                    }
                    made
                })
            })
            .collect();
        for turn in 0..5 {
            let before = text(&access).lines().count();
            wait_until("some lines", PATIENCE, || text(&access).lines().count() > before + 20);
            for name in ["access", "hopfall"] {
                let file = folder.path().join(format!("{name}.log"));
                std::fs::rename(&file, folder.path().join(format!("{name}.log-{turn}"))).unwrap();
            }
            hopfall.signal("USR1");
            wait_until("a new file", PATIENCE, || access.exists());
        }
        // It leaves an empty file alone.
        wait_until("a line to rotate", PATIENCE, || text(&access).lines().count() > 0);
        rotate(folder.path(), hopfall.pid());
        wait_until("logrotate's new file", PATIENCE, || access.exists());
        stop.store(true, Ordering::Relaxed);
        loads.into_iter().map(|load| load.join().unwrap()).sum::<usize>()
    });
    assert_eq!(hopfall.terminate(), Some(0));

    let mut files = 0;
    let mut targets = Vec::new();
    let mut messages = String::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap() {
            name if name.starts_with("access.log") => {
                files += 1;
                targets.extend(lines(&path).into_iter().map(|line| line["target"].to_string()));
            }
            name if name.starts_with("hopfall.log") => messages.push_str(&text(&path)),
            _ => {}
        }
    }
    assert_eq!(files, 7);
    assert_eq!(targets.len(), made);
    assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), made, "each once");
    assert_eq!(messages.matches("is opened anew").count(), 6, "{messages}");
    assert!(messages.contains("listens on") && messages.contains("drained"), "{messages}");
    assert_eq!(hopfall.log(), "");
}

/// Runs the real logrotate with the file that packages install, but for where the logs are and how the process is found.
fn rotate(folder: &Path, process: u32) {
    let installed = include_str!("../../packaging/logrotate");
    let conf = installed
        .replace("/var/log/hopfall", folder.to_str().unwrap())
        .replace("systemctl is-active --quiet hopfall.service", "true")
        .replace("systemctl kill --kill-who=main --signal=USR1 hopfall.service", &format!("kill -s USR1 {process}"));
    assert!(conf.contains("kill -s USR1"), "{installed}");
    let file = folder.join("logrotate.conf");
    std::fs::write(&file, conf).unwrap();
    // It reads no file that others may write.
    let run = "chmod 644 \"$0\" && chmod 755 \"$1\" && logrotate --force --state \"$1/state\" \"$0\"";
    let ran = process::run(Command::new("sh").args(["-c", run]).arg(&file).arg(folder), PATIENCE);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use() {
    let (_node, fleet) = one();
    let (folder, fleet) = logging(fleet, "{ access: { path: \"{at}/access.log\" } }");
    let mut hopfall = fleet.start();
    let (access, old) = (folder.path().join("access.log"), folder.path().join("access.log-1"));
    hopfall.get("/1");
    wait_until("a line", PATIENCE, || lines(&access).len() == 1);
    std::fs::rename(&access, &old).unwrap();
    std::fs::create_dir(&access).unwrap();
    hopfall.signal("USR1");
    hopfall.wait_for_log("cannot be opened anew, and goes on where it was: Is a directory");
    hopfall.get("/2");
    wait_until("the old file goes on", PATIENCE, || lines(&old).len() == 2);
    std::fs::remove_dir(&access).unwrap();
    hopfall.signal("USR1");
    hopfall.wait_for_log("is opened anew");
    hopfall.get("/3");
    wait_until("the new file", PATIENCE, || lines(&access).len() == 1);
    assert_eq!(lines(&access)[0]["target"], "/3");
    assert_eq!(lines(&old).len(), 2);
}

#[test]
fn a_log_that_cannot_be_opened_is_told_at_the_start() {
    for (log, expected) in [
        (
            "{ path: \"{at}/none/hopfall.log\" }",
            "hopfall: the log `{at}/none/hopfall.log` cannot be opened: No such file",
        ),
        (
            "{ access: { path: \"{at}/none/a.log\" } }",
            "the access log `{at}/none/a.log` cannot be opened: No such file",
        ),
        // The failure is in the log, and with whoever started it.
        (
            "{ path: \"{at}/hopfall.log\", access: { path: \"{at}/none/a.log\" } }",
            "hopfall: the access log `{at}/none/a.log` cannot be opened: No such file",
        ),
    ] {
        let (_node, fleet) = one();
        let (folder, fleet) = logging(fleet, log);
        let mut hopfall = fleet.builder().spawn();
        assert_eq!(hopfall.wait_exit(PATIENCE), Some(1));
        let expected = expected.replace("{at}", folder.path().to_str().unwrap());
        assert!(hopfall.log().contains(&expected), "{expected}\n{}", hopfall.log());
        if log.contains("{at}/hopfall.log") {
            assert!(text(&folder.path().join("hopfall.log")).contains("ERROR the access log"));
        }
    }
}

/// The next datagram that has this text.
fn receives(socket: &UnixDatagram, text: &str) -> String {
    let mut frame = vec![0; 64 << 10];
    loop {
        let length = socket.recv(&mut frame).unwrap_or_else(|error| panic!("no `{text}`: {error}"));
        let frame = String::from_utf8(frame[..length].to_vec()).unwrap();
        if frame.contains(text) {
            return frame;
        }
    }
}

#[test]
fn both_logs_go_to_a_daemons_socket_and_find_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let bind = || {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let daemon = bind();
    let (_node, fleet) = one();
    let to = path.display();
    let log = format!("log: {{ path: \"syslog:{to}\", access: {{ path: \"syslog:{to}\", facility: local3 }} }}");
    let mut hopfall = fleet.top(&log).start();
    let pid = hopfall.pid();
    assert_eq!(receives(&daemon, "web listens"), format!("<30>hopfall[{pid}]: web listens on {}", hopfall.web()));
    hopfall.get("/1");
    let frame = receives(&daemon, "target");
    let line = frame.strip_prefix(&format!("<158>hopfall[{pid}]: ")).unwrap_or_else(|| panic!("{frame}"));
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["target"], "/1");

    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(hopfall.get("/2").status, 200, "it serves without a daemon");
    // A message that the daemon does not take goes to standard error.
    hopfall.wait_for_log("ERROR the access log cannot be written: No such file");
    let dropped = || hopfall.metrics().value("hopfall_access_log_dropped_total", &[]);
    wait_until("a lost line is counted", PATIENCE, || dropped() == 1.0);

    let daemon = bind();
    hopfall.get("/3");
    receives(&daemon, "\"target\":\"/3\"");
    assert_eq!(hopfall.terminate(), Some(0));
    assert!(receives(&daemon, "draining").starts_with(&format!("<30>hopfall[{pid}]: draining")));
}

/// A daemon that hangs: the requests do not, and nor does the end.
#[test]
fn a_daemon_that_takes_nothing_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let _hangs = UnixDatagram::bind(&path).unwrap();
    let (_node, fleet) = one();
    let to = path.display();
    let fleet = fleet.top(&format!("log: {{ path: \"syslog:{to}\", access: {{ path: \"syslog:{to}\" }} }}"));
    let mut hopfall = fleet.start();
    let mut client = hopfall.connect();
    // Well above what a socket's queue takes (net.unix.max_dgram_qlen).
    let most = text(Path::new("/proc/sys/net/unix/max_dgram_qlen")).trim().parse().unwrap_or(512);
    for _ in 0..most + 200 {
        assert_eq!(client.request("GET", "/x", &[]).response().status, 200);
    }
    hopfall.wait_for_log("the access log cannot be written");
    wait_until("lost lines are counted", PATIENCE, || {
        hopfall.metrics().value("hopfall_access_log_dropped_total", &[]) > 0.0
    });
    assert_eq!(hopfall.terminate(), Some(0));
    assert!(hopfall.log().contains("drained"), "what syslog does not take is on standard error: {}", hopfall.log());
}

#[test]
fn udp_has_the_form_of_rfc_5424() {
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_node, fleet) = one();
    let to = daemon.local_addr().unwrap();
    let hopfall = fleet.top(&format!("log: {{ access: {{ path: \"syslog:{to}\" }} }}")).start();
    hopfall.get("/1");
    let mut frame = vec![0; 64 << 10];
    let length = daemon.recv(&mut frame).unwrap();
    let frame = String::from_utf8(frame[..length].to_vec()).unwrap();
    let words: Vec<&str> = frame.splitn(8, ' ').collect();
    let [priority, time, _host, program, process, kind, data, line] = words[..] else { panic!("{frame}") };
    assert_eq!((priority, program, kind, data), ("<134>1", "hopfall", "access", "-"), "{frame}");
    assert_eq!(process, hopfall.pid().to_string());
    assert!(time.len() == "2026-11-25T03:06:24.582Z".len() && time.ends_with('Z'), "{frame}");
    assert_eq!(serde_json::from_str::<Value>(line).unwrap()["target"], "/1");
}

#[test]
fn rsyslog_understands_both_forms() {
    let rsyslog = Rsyslog::start();
    let (_node, fleet) = one();
    let (socket, udp) = (rsyslog.socket(), rsyslog.udp());
    let log = format!(
        "log: {{ path: \"syslog:{udp}\", facility: user, access: {{ path: \"syslog:{}\" }} }}",
        socket.display()
    );
    let hopfall = fleet.top(&log).start();
    hopfall.get("/1");
    let find = |text: &str| {
        wait_for(text, PATIENCE, || rsyslog.seen().into_iter().find(|seen| seen["text"].to_string().contains(text)))
    };
    let pid = hopfall.pid().to_string();
    let line = find("target");
    let told = |seen: &Value, key: &str| seen[key].as_str().unwrap().trim().to_owned();
    let words = |seen: &Value| ["facility", "severity", "program", "process"].map(|key| told(seen, key));
    assert_eq!(words(&line), ["local0", "info", "hopfall", &pid]);
    assert_eq!(serde_json::from_str::<Value>(&told(&line, "text")).unwrap()["target"], "/1");
    let message = find("web listens on");
    assert_eq!(words(&message), ["user", "info", "hopfall", &pid]);
    assert_eq!(told(&message, "kind"), "message");
    assert_eq!(told(&message, "text"), format!("web listens on {}", hopfall.web()));
}

/// As systemd starts it: standard error is what `JOURNAL_STREAM` names.
#[test]
fn the_journal_gets_priorities_and_a_terminal_gets_times() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = format!(
        "listeners: [{{ name: web, address: \"{}\", route: r }}]\n\
         pools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\nroutes: {{ r: {{ chain: [p] }} }}\n",
        taken.local_addr().unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    std::fs::write(&file, yaml).unwrap();
    for (stream, expected) in [
        ("$(stat -L -c %d:%i /proc/self/fd/2)", "<3>listener `web`: cannot bind"),
        ("$(stat -L -c %d:%i /proc/self/fd/0)", " ERROR listener `web`: cannot bind"),
    ] {
        let run = format!("JOURNAL_STREAM={stream} exec \"$0\" run -c \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &run, env!("CARGO_BIN_EXE_hopfall")]).arg(&file);
        let mut hopfall = Process::spawn(&mut command);
        assert_eq!(hopfall.wait(PATIENCE).code(), Some(1));
        let told = hopfall.stderr();
        assert!(told.lines().any(|line| line.contains(expected)), "{told}");
        assert_eq!(told.lines().all(|line| line.starts_with('<')), expected.starts_with('<'), "{told}");
    }
}

#[test]
fn the_level_changes_while_running() {
    let (_node, fleet) = one();
    // A connection without its PROXY header is told of at `debug`.
    let hopfall = fleet.listener("proxy_protocol: [127.0.0.0/8]").start();
    let refused = |count: f64| {
        hopfall.connect().send("GET / HTTP/1.1\r\n\r\n").closes_within(PATIENCE);
        let counted = || hopfall.metrics().value("hopfall_proxy_headers_refused_total", &[("listener", "web")]);
        wait_until("it is refused", PATIENCE, || counted() == count);
    };
    refused(1.0);
    let set = |level: &str| hopfall.order(&["log-level", level]);
    assert_eq!(set("debug").code, Some(0));
    refused(2.0);
    hopfall.wait_for_log("no PROXY header");
    assert_eq!(set("info").stdout.trim(), "messages are logged from level info on");
    refused(3.0);
    let loud = set("loud");
    assert_eq!(loud.code, Some(2));
    assert!(loud.stderr.contains("`loud` is not a level; write one of: error, warn, info, debug, trace"));
    let log = hopfall.log();
    assert_eq!(log.matches("no PROXY header").count(), 1, "{log}");
    assert!(log.contains("messages are logged from level debug on; it was info"), "{log}");
    assert_eq!(hopfall.ask_admin("GET", "/log-level", &[], "").status, 405);
}

#[test]
fn sampling_leaves_out_only_what_went_well() {
    let (node, full) = (Nginx::with_files(&[]), Nginx::with_files(&[("cat.jpg", b"meow")]));
    let fleet = Fleet::new().node_with("lean", node.addr(), "weight: 255").node("full", full.addr());
    let mut hopfall = fleet.top("log: { access: { sample_one_in: 4 } }").start();
    let mut client = hopfall.connect();
    for _ in 0..400 {
        client.request("GET", "/cat.jpg", &[]).response();
    }
    for _ in 0..20 {
        client.request("GET", "/dog.jpg", &[]).response();
    }
    assert_eq!(hopfall.connect().send("GET /x HTTP/1.1\r\n\r\n").response().status, 400);
    drop(client);
    assert_eq!(hopfall.terminate(), Some(0));
    let log = hopfall.access_log();
    let of = |status: u64| log.iter().filter(move |line| line["status"] == status);
    assert_eq!((of(404).count(), of(400).count()), (20, 1));
    assert!(of(404).all(|line| line.get("sample_one_in").is_none()));
    assert!(of(200).all(|line| line["sample_one_in"] == 4));
    // 100 are expected, with a deviation of 8.7: this is seven of them.
    assert!((40..=160).contains(&of(200).count()), "{}", of(200).count());
}

#[test]
fn a_truncated_client_is_nowhere_in_whole() {
    let (_node, fleet) = one();
    let fleet = fleet.listener("trusted: [127.0.0.0/8]").listener("proxy_protocol: [127.0.0.3/32]");
    let mut hopfall = fleet.top("log: { level: trace, client: truncated }").start();
    for client in ["198.51.100.77", "2001:db8:1:2::77"] {
        hopfall.connect().request("GET", "/x", &[("X-Forwarded-For", client)]).response();
    }
    let log = hopfall.wait_for_access_log(2);
    let clients: BTreeSet<_> = log.iter().map(|line| line["client"].as_str().unwrap().to_owned()).collect();
    assert_eq!(clients, BTreeSet::from(["198.51.100.0".to_owned(), "2001:db8:1::".to_owned()]));

    let from = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    from.bind(&std::net::SocketAddr::from(([127, 0, 0, 3], 0)).into()).unwrap();
    from.connect(&hopfall.web().into()).unwrap();
    let stream = std::net::TcpStream::from(from);
    std::io::Write::write_all(&mut &stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    hopfall.wait_for_log("web: 127.0.0.0: no PROXY header");
    assert_eq!(hopfall.terminate(), Some(0));
    for whole in ["198.51.100.77", "2001:db8:1:2::77", "127.0.0.3"] {
        assert!(!hopfall.log().contains(whole) && !hopfall.stdout().contains(whole), "{whole}: {}", hopfall.log());
    }
}

#[test]
fn a_reload_changes_the_level_and_the_access_log() {
    let (_node, fleet) = one();
    let config = |log: &str| fleet.yaml() + &format!("log: {log}\n");
    let mut hopfall = Hopfall::start(&config("{ level: error }"));
    hopfall.get("/1");
    assert_eq!(hopfall.wait_for_access_log(1)[0]["target"], "/1");
    hopfall.rewrite(&config("{ level: info, client: truncated, access: { path: \"{dir}/access.log\" } }"));
    hopfall.signal("HUP");
    hopfall.wait_for_log("`log.client` has changed and waits for");
    hopfall.signal("USR1");
    hopfall.wait_for_log("is opened anew");
    hopfall.get("/2");
    assert_eq!(hopfall.terminate(), Some(0));
    assert_eq!(hopfall.access_log().len(), 1);
    assert!(hopfall.log().contains("INFO  drained"), "{}", hopfall.log());
}

/// The rows of the table under `## A line of JSON`: field, and whether it is always there.
fn documented(section: &str) -> Vec<(String, bool)> {
    let section = DOC.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (field, rest) = row.split_once("` | ").unwrap();
        (field.to_owned(), rest.starts_with("always |"))
    })
    .collect()
}

fn keys(line: &Value) -> Vec<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

/// A line about which there is all to tell has the table's fields, and one about which there is little has those that
/// are always there.
#[test]
fn the_documented_fields_are_those_of_a_line() {
    let trip = Trip {
        attempts: vec![Attempt {
            target: "a".into(),
            pool: "p".into(),
            outcome: Outcome::Found(200),
            began: Duration::ZERO,
            took: Duration::ZERO,
            span: 0,
        }],
        cached: Some(Cached::Miss),
        located: Some("nowhere"),
        trace: Some(Box::new(Trace::begin(&http::HeaderMap::new(), false, 100, || 1))),
        ..Trip::default()
    };
    let wrong = Trip {
        failure: Some(Failure::ProxyLoopDetected),
        looped_by: Some("a".into()),
        misshapen: Some("no Host"),
        aborted: Some("client"),
        ..Trip::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let yaml = include_str!("../../conf/minimal.yaml");
    let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    let mut config = Config::parse("minimal.yaml", yaml, &surroundings).unwrap_or_else(|problems| panic!("{problems}"));
    config.log.access.output.to = hopfall::config::Destination::File(file.clone());
    let dropped = prometheus::IntCounter::new("dropped", "dropped").unwrap();
    // The first line is one of two that may be left out: it is written again until it is there.
    config.log.access.sample_one_in = NonZeroU32::new(2).unwrap();
    let log = AccessLog::open(&config.log, dropped).unwrap();
    let entry = |trip| Entry {
        time: SystemTime::now(),
        took: Duration::ZERO,
        listener: "web",
        client: "127.0.0.1".parse().unwrap(),
        method: "GET",
        target: b"/",
        protocol: "HTTP/1.1",
        host: b"h",
        referer: b"r",
        user_agent: b"u",
        status: 200,
        trip,
    };
    wait_until("a sampled line", PATIENCE, || {
        log.write(&entry(&trip));
        log.flush(PATIENCE);
        !lines(&file).is_empty()
    });
    log.write(&entry(&wrong));
    log.flush(PATIENCE);
    let all = lines(&file);
    let (first, last) = (all.first().unwrap(), all.last().unwrap());
    let written: BTreeSet<String> = keys(first).into_iter().chain(keys(last)).collect();
    let documented = documented("\n## A line of JSON\n");
    let fields: Vec<String> = documented.iter().map(|(field, _)| field.clone()).collect();
    assert_eq!(fields, written.into_iter().collect::<Vec<_>>(), "docs/logs.md has them in order");

    let (_node, fleet) = one();
    let hopfall: Hopfall = fleet.start();
    hopfall.get("/x");
    let line = &hopfall.wait_for_access_log(1)[0];
    let always: Vec<String> = documented.into_iter().filter(|(_, always)| *always).map(|(field, _)| field).collect();
    assert_eq!(keys(line), always);
}

#[test]
fn the_documented_fields_of_a_connection_are_those_of_its_line() {
    let documented = documented("\n## A line of a TCP connection\n");
    let node = Raw::listen();
    let hopfall = Hopfall::start(&format!(
        "listeners: [{{ name: raw, address: \"{{addr:raw}}\", protocol: tcp, pool: p }}]\n\
         pools: {{ p: {{ nodes: [{{ name: a, address: \"{}\" }}] }} }}\n\
         admin: {{ address: \"{{admin}}\" }}\n",
        node.addr()
    ));
    drop((connect(hopfall.address("raw")), node.accept()));
    let line = &hopfall.wait_for_access_log(1)[0];
    let here = documented.iter().filter(|(field, _)| field != "sample_one_in").map(|(field, _)| field.clone());
    assert_eq!(keys(line), here.collect::<Vec<_>>());
}
