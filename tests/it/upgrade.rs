//! A new process takes the old one's place, and no client notices.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::{Client, ask};
use crate::support::fleet::Fleet;
use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::Nginx;
use crate::support::origin::{Origin, Reply};
use crate::support::process::{Process, is_running};
use crate::support::service_manager::ServiceManager;
use crate::support::wait::{PATIENCE, wait_until};

/// Processes that took over, which no harness has started. They end with the test.
#[derive(Default)]
struct Heirs(Vec<u32>);

impl Heirs {
    /// Upgrades, and gives the number of the process that serves now.
    fn upgrade(&mut self, hopfall: &Hopfall) -> u32 {
        let ran = hopfall.order(&["upgrade"]);
        assert_eq!(ran.code, Some(0), "{}\n{}", ran.stderr, hopfall.log());
        let pid = ran.stdout.trim().strip_prefix("process ").and_then(|rest| rest.strip_suffix(" serves"));
        let pid = pid.unwrap_or_else(|| panic!("{}", ran.stdout)).parse().unwrap();
        self.0.push(pid);
        pid
    }
}

impl Drop for Heirs {
    fn drop(&mut self) {
        for pid in self.0.iter().filter(|pid| is_running(**pid)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn reloads_and_upgrades_under_load_fail_no_request() {
    const REQUESTS: usize = 100_000;
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let other = Nginx::with_files(&[("dog.jpg", b"woof")]);
    // Six clients of one path on the nodes' own machine: not what turns are for.
    let fleet = |names: [&str; 2]| {
        Fleet::new().node(names[0], node.addr()).node(names[1], other.addr()).pool("from_nodes: trust")
    };
    let mut hopfall = fleet(["a", "b"]).builder().address("web", hopfall::reserve()).start();
    let mut heirs = Heirs::default();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let web = hopfall.web();
    let clients: Vec<_> = (0..6)
        .map(|i| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || ask(web, ("/dog.jpg", "woof"), i % 3 == 0, &stop, &served))
        })
        .collect();
    let patience = Duration::from_secs(120);
    for step in 1..=15 {
        wait_until("requests go on", patience, || served.load(Ordering::Relaxed) >= step * REQUESTS / 16);
        if step % 3 == 0 {
            heirs.upgrade(&hopfall);
        } else {
            // Bounds of connections, names and numbers: each time something else.
            let listener = format!("requests_per_connection: {}", 1_000_000 + step);
            let names = if step % 2 == 0 { ["a", "b"] } else { ["c", "d"] };
            hopfall.rewrite(&fleet(names).listener(&listener).yaml());
            let ran = hopfall.order(&["reload"]);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
    }
    wait_until("requests go on", patience, || served.load(Ordering::Relaxed) >= REQUESTS);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0), "the first one has left");
    let last = *heirs.0.last().unwrap();
    wait_until("the others have left", PATIENCE, || heirs.0.iter().filter(|pid| is_running(**pid)).eq([&last]));
}

#[test]
fn one_that_does_not_come_to_serve_changes_nothing() {
    let node = Origin::always(Reply::ok("x"));
    let fleet = Fleet::new().node("node", node.addr());
    let mut hopfall = fleet.start();
    hopfall.rewrite(&fleet.yaml().replace("route: images", "route: imges"));
    let ran = hopfall.order(&["upgrade"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("did you mean `images`?"), "{}", ran.stderr);
    hopfall.wait_for_log("not upgraded, and serving goes on as before");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more =
        format!("listeners:\n  - {{ name: more, address: \"{}\", route: images }}\n", taken.local_addr().unwrap());
    hopfall.rewrite(&fleet.yaml().replace("listeners:\n", &more));
    let ran = hopfall.order(&["upgrade"]);
    assert!(ran.stderr.contains("listener `more`: cannot bind"), "{}", ran.stderr);
    assert_eq!(hopfall.get("/x").status, 200);
    hopfall.rewrite(&fleet.yaml());
    let heir = Heirs::default().upgrade(&hopfall);
    wait_until("it has left", PATIENCE, || !is_running(hopfall.pid()));
    assert_ne!(heir, hopfall.pid());
}

/// Has a link lead elsewhere, at once.
fn lead(link: &Path, to: &str) {
    let new = link.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn a_link_that_leads_to_the_next_version_is_followed() {
    let node = Origin::always(Reply::ok("x"));
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("hopfall");
    lead(&link, hopfall::BINARY);
    let mut hopfall = Fleet::new().node("node", node.addr()).builder().program(&[link.to_str().unwrap()]).start();
    let mut heirs = Heirs::default();
    // Of one that was started so itself, too.
    for _ in 0..2 {
        lead(&link, "/bin/false");
        let ran = hopfall.order(&["upgrade"]);
        assert!(ran.stderr.contains("cannot be started: it ended at once"), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(hopfall.get("/x").status, 200);
        lead(&link, hopfall::BINARY);
        heirs.upgrade(&hopfall);
    }
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
}

#[test]
fn a_process_whose_heir_hangs_can_be_stopped() {
    let node = Origin::always(Reply::ok("x"));
    // On the binary's own file system, so that it can be a second name of it.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [program, note, hangs, new] = ["hopfall", "pid", "hangs", "new"].map(|name| folder.path().join(name));
    // As hopfall starts itself anew, but for what is started.
    let script = format!(
        "#!/bin/sh\nexec 3<&0\nsleep 300 <&3 &\n\
         for shift in 0 8 16 24; do printf \"\\\\$(printf %03o $(($! >> shift & 255)))\"; done >&0\n\
         echo $! >{0}.new\nmv {0}.new {0}\n",
        note.display()
    );
    fs::write(&hangs, script).unwrap();
    fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).unwrap();
    let put = |from: &str| fs::hard_link(from, &new).and_then(|()| fs::rename(&new, &program)).unwrap();
    for by_signal in [true, false] {
        put(hopfall::BINARY);
        let builder = Fleet::new().node("node", node.addr()).builder().program(&[program.to_str().unwrap()]);
        let mut hopfall = builder.start();
        put(hangs.to_str().unwrap());
        let mut admin = Client::connect(hopfall.admin());
        if by_signal {
            hopfall.signal("USR2");
        } else {
            admin.upload("POST", "/upgrade", &[("Host", "127.0.0.1")], b"");
        }
        wait_until("the heir runs", PATIENCE, || note.exists());
        let heir = fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        fs::remove_file(&note).unwrap();
        assert_eq!(hopfall.get("/x").status, 200, "nobody notices");
        // As logrotate does; it has to wait, and keeps nothing else waiting.
        hopfall.signal("USR1");
        hopfall.signal("TERM");
        assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
        let log = hopfall.log();
        assert!(log.contains("not upgraded, and serving goes on as before: this process is told to stop"), "{log}");
        assert!(log.contains("drained"), "{log}");
        wait_until("the heir is gone, and cannot come to serve", PATIENCE, || !is_running(heir));
    }
}

#[test]
fn the_first_process_of_a_container_stays() {
    let node = Origin::always(Reply::ok("x"));
    let apart = ["unshare", "--pid", "--fork", "--kill-child", hopfall::BINARY];
    let hopfall = Fleet::new().node("node", node.addr()).builder().program(&apart).start();
    let ran = hopfall.order(&["upgrade"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("the first process of its container"), "{}", ran.stderr);
    assert_eq!(hopfall.get("/x").status, 200);
}

#[test]
fn the_new_one_is_to_others_who_the_old_one_was_and_knows_what_it_knew() {
    let a = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let b = Nginx::with_files(&[("dog.jpg", b"woof"), ("cat.jpg", b"meow")]);
    let fleet = Fleet::new().node("a", a.addr()).node("b", b.addr()).top("location: { control: 0 }");
    let mut hopfall = fleet.pool("stickiness: { kind: cookie }").start();
    let mut heirs = Heirs::default();
    let set = hopfall.get("/cat.jpg").header("set-cookie").unwrap().to_owned();
    let cookie = set.split(';').next().unwrap().to_owned();
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
    assert_eq!(hopfall.get("/dog.jpg").status, 200);
    assert_eq!(hopfall.order(&["node", "images", "a", "backup"]).code, Some(0));
    let before = a.requests_for("/dog.jpg").len();

    heirs.upgrade(&hopfall);
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
    assert_eq!(hopfall.status()["pools"][0]["nodes"][0]["mode"], "backup");
    let answer = hopfall.connect().request("GET", "/cat.jpg", &[("Cookie", &cookie)]).response();
    assert_eq!(answer.header("set-cookie"), None, "its cookie is known");
    for _ in 0..5 {
        assert_eq!(hopfall.get("/dog.jpg").status, 200);
    }
    assert_eq!(a.requests_for("/dog.jpg").len(), before, "the location map knows who has it");
}

#[test]
fn a_long_answer_of_the_old_one_is_sent_to_its_end() {
    let node = Origin::always(Reply::ok("x".repeat(20 << 20)));
    let mut hopfall = Fleet::new().node("node", node.addr()).pool("body_idle_timeout: 20s").start();
    let mut heirs = Heirs::default();
    let mut client = hopfall.connect();
    let mut answer = client.request("GET", "/x", &[]).response_head();
    heirs.upgrade(&hopfall);
    assert_eq!(hopfall.head("/x").status, 200, "the new one serves");
    assert!(hopfall.is_running(), "it has an answer to send");
    client.read_body(&mut answer);
    assert!(answer.complete && answer.body.len() == 20 << 20);
    drop(client);
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
}

#[test]
fn sigusr2_upgrades_too() {
    let node = Origin::always(Reply::ok("x"));
    let mut hopfall = Fleet::new().node("node", node.addr()).start();
    let old = hopfall.pid();
    hopfall.signal("USR2");
    hopfall.wait_for_log("upgraded: process ");
    let log = hopfall.log();
    let pid = log.split("upgraded: process ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let _heirs = Heirs(vec![pid]);
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
    assert!(pid != old && hopfall.get("/x").status == 200);
}

#[test]
fn a_service_manager_is_told_of_all_of_it() {
    let node = Origin::always(Reply::ok("x"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = ServiceManager::at(&path);
    let fleet = Fleet::new().node("node", node.addr());
    let builder = fleet.builder().env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "1000000");
    let mut hopfall = builder.start();
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");
    hopfall.signal("HUP");
    manager.hear("RELOADING=1");
    manager.hear("READY=1");
    let mut heirs = Heirs::default();
    let pid = heirs.upgrade(&hopfall);
    manager.hear(&format!("MAINPID={pid}"));
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
    manager.hear("WATCHDOG=1");
    Command::new("kill").arg(pid.to_string()).status().unwrap();
    manager.hear("STOPPING=1");
    wait_until("it ends", PATIENCE, || !is_running(pid));
}

#[test]
fn a_socket_that_a_service_manager_has_opened_is_taken() {
    let node = Origin::always(Reply::ok("x"));
    let opened = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = opened.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hopfall.yaml");
    let yaml = Fleet::new().node("node", node.addr()).yaml();
    let yaml = yaml.replace("{web}", &address.to_string()).replace("{admin}", &hopfall::reserve().to_string());
    std::fs::write(&config, yaml).unwrap();
    // Already waiting before there is anybody to accept it.
    let mut client = Client::connect(address);
    client.request("GET", "/x", &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" run -c \"$1\" 3<&0 </dev/null", hopfall::BINARY]).arg(&config);
    command.env("LISTEN_FDS", "1");
    let _process = Process::spawn_on(&mut command, Stdio::from(OwnedFd::from(opened)));
    assert_eq!(client.response().status, 200);
}
