//! The Debian package: built by cargo-deb from the tested binary, installed into a fresh Debian, run there, removed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::client::{Client, get};
use crate::support::debian::Debian;
use crate::support::hopfall;
use crate::support::lan::Lan;
use crate::support::origin::{Origin, Reply};
use crate::support::package::{BUILD_PATIENCE, CONFIG, deb};
use crate::support::process::{Process, is_running, run};
use crate::support::service_manager::ServiceManager;
use crate::support::wait::{PATIENCE, wait_until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dpkg_deb(arguments: &[&str]) -> String {
    let ran = run(Command::new("dpkg-deb").arg(arguments[0]).arg(deb()).args(&arguments[1..]), BUILD_PATIENCE);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

#[test]
fn it_holds_what_debian_expects_where_debian_expects_it() {
    let listed = dpkg_deb(&["--contents"]);
    let has = |mode: &str, path: &str| {
        let found = listed.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[0] == mode && words[1] == "0/0" && words[5].trim_start_matches("./") == path.trim_start_matches('/')
        });
        assert!(found, "{mode} {path} is not in\n{listed}");
    };
    has("-rwxr-xr-x", "/usr/bin/hopfall");
    for path in [
        CONFIG,
        "/etc/logrotate.d/hopfall",
        "/lib/systemd/system/hopfall.service",
        "/lib/systemd/system/hopfall.socket",
        "/usr/lib/sysusers.d/hopfall.conf",
        "/usr/lib/tmpfiles.d/hopfall.conf",
        "/usr/share/bash-completion/completions/hopfall",
        "/usr/share/zsh/vendor-completions/_hopfall",
        "/usr/share/fish/vendor_completions.d/hopfall.fish",
        "/usr/share/man/man1/hopfall.1.gz",
        "/usr/share/man/man1/hopfall-run.1.gz",
        "/usr/share/man/man1/hopfall-import-nodebalancer.1.gz",
        "/usr/share/doc/hopfall/copyright",
        "/usr/share/doc/hopfall/examples/full.yaml",
        "/usr/share/doc/hopfall/docs/logs.md",
        "/usr/share/doc/hopfall/docs/guides/operations.md",
    ] {
        has("-rw-r--r--", path);
    }
    assert!(!listed.contains("completions.1") && !listed.contains("hopfall-man.1"), "commands that users do not see");

    let conffiles = dpkg_deb(&["--info", "conffiles"]);
    let mut conffiles: Vec<&str> = conffiles.lines().filter(|line| !line.is_empty()).collect();
    conffiles.sort_unstable();
    assert_eq!(conffiles, [CONFIG, "/etc/logrotate.d/hopfall"]);
    let control = dpkg_deb(&["--field"]);
    let version = env!("CARGO_PKG_VERSION");
    for expected in ["Package: hopfall", &format!("Version: {version}-1"), "libc6 (>= ", "ca-certificates"] {
        assert!(control.contains(expected), "{expected} is not in\n{control}");
    }
}

/// A page, and a word in each shell's completions, for every command that `hopfall help` lists.
#[test]
fn manual_and_completions_know_every_command() {
    let help = run(Command::new(hopfall::BINARY).arg("help"), PATIENCE).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = named.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"run") && commands.contains(&"log-level"), "{help}");

    let folder = tempfile::tempdir().unwrap();
    let ran = run(Command::new(hopfall::BINARY).arg("man").arg(folder.path()), PATIENCE);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for command in commands.iter().filter(|command| **command != "help") {
        let page = std::fs::read_to_string(folder.path().join(format!("hopfall-{command}.1"))).expect(command);
        assert!(page.starts_with(".ie") && page.contains(".SH NAME"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Command::new(hopfall::BINARY).args(["completions", shell]), PATIENCE).stdout;
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let missing = run(Command::new(hopfall::BINARY).args(["man", "/nowhere"]), PATIENCE);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("/nowhere: cannot be written to"), "{}", missing.stderr);
}

/// By systemd's own judgement: 0 is a service that can do nothing, 100 one that can do anything.
#[test]
fn the_unit_is_sound_and_shut_in() {
    const EXPOSURE: &str = "--threshold=20";
    let folder = tempfile::tempdir().unwrap();
    for name in ["hopfall.service", "hopfall.socket"] {
        let unit = std::fs::read_to_string(root().join("packaging").join(name)).unwrap();
        // It has to be there.
        std::fs::write(folder.path().join(name), unit.replace("/usr/bin/hopfall", hopfall::BINARY)).unwrap();
    }
    let units = ["hopfall.service", "hopfall.socket"].map(|name| folder.path().join(name));
    let ran = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units), PATIENCE);
    // It also tells what is wrong with this machine's own units.
    let ours: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("hopfall")).collect();
    assert!(ran.code == Some(0) && ours.is_empty(), "{}", ran.stderr);
    let unit = root().join("packaging/hopfall.service");
    let ran = run(Command::new("systemd-analyze").args(["security", "--offline=true", EXPOSURE]).arg(unit), PATIENCE);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}

/// What the unit has systemd run: the words after `key=`, for each such line.
fn lines_of<'a>(unit: &'a str, key: &str) -> Vec<Vec<&'a str>> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(|line| line.split(' ').collect()).collect()
}

/// As systemd would: the unit's user, with the one capability that it keeps.
const AS_THE_UNIT: &[&str] = &[
    "setpriv",
    "--reuid=hopfall",
    "--regid=hopfall",
    "--init-groups",
    "--inh-caps=-all,+net_bind_service",
    "--ambient-caps=-all,+net_bind_service",
    "--bounding-set=-all,+net_bind_service",
    "--no-new-privs",
];

#[test]
fn a_fresh_debian_installs_runs_upgrades_and_removes_it() {
    let Some(lan) = Lan::of(&[("web", "10.0.0.1/24")]) else { return };
    let machine = lan.machine("web");
    let debian = Debian::fresh();
    let before = debian.files();
    std::fs::copy(deb(), debian.path("/root/hopfall.deb")).unwrap();
    let done = |arguments: &[&str]| {
        let ran = debian.run(machine, arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    };

    done(&["dpkg", "-i", "/root/hopfall.deb"]);
    assert!(done(&["id", "hopfall"]).contains("(hopfall)"));
    let owner = |path: &str| {
        let of = std::fs::metadata(debian.path(path)).unwrap();
        (of.uid(), of.permissions().mode() & 0o777)
    };
    let user: u32 = done(&["id", "-u", "hopfall"]).trim().parse().unwrap();
    assert_eq!((owner("/var/lib/hopfall"), owner("/etc/hopfall")), ((user, 0o750), (0, 0o755)));
    assert!(done(&["hopfall", "check", CONFIG]).contains("fine (1 listener"));
    let unit = std::fs::read_to_string(debian.path("/lib/systemd/system/hopfall.service")).unwrap();

    // The config as it is shipped, on port 80.
    let node = machine.keep(|| Origin::at("127.0.0.1:8081").respond(|_| Reply::ok("meow")));
    let manager = ServiceManager::at(&debian.path("/run/notify"));
    let [start] = &lines_of(&unit, "ExecStart")[..] else { panic!("{unit}") };
    let mut command = debian.command(&[AS_THE_UNIT, start].concat());
    command.env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "1000000");
    let mut first = machine.within(|| Process::spawn(&mut command));
    wait_until("it to listen, or to end", PATIENCE, || {
        assert!(first.exited().is_none(), "{}", first.stderr());
        machine.within(|| std::net::TcpStream::connect("10.0.0.1:80").is_ok())
    });
    manager.hear("READY=1");
    manager.hear("WATCHDOG=1");
    let web = "10.0.0.1:80";
    let serves = || machine.within(|| get(web, "/cat.jpg").text());
    assert_eq!(serves(), "meow");
    let status = std::fs::read_to_string(format!("/proc/{}/status", first.pid())).unwrap();
    let uid = format!("Uid:\t{user}\t{user}\t{user}\t{user}\n");
    assert!(status.contains(&uid) && status.contains("CapEff:\t0000000000000400"), "{status}");

    // A mistake is told to who reloads; what is right is read.
    let reload = || {
        let orders = lines_of(&unit, "ExecReload").into_iter().map(|words| words.join(" "));
        let orders = orders.collect::<Vec<_>>().join(" && ").replace("$MAINPID", &first.pid().to_string());
        debian.run(machine, &["sh", "-c", &orders])
    };
    let shipped = std::fs::read_to_string(debian.path(CONFIG)).unwrap();
    std::fs::write(debian.path(CONFIG), shipped.replace("route: files", "route: fils")).unwrap();
    let refused = reload();
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("did you mean `files`?"), "{}", refused.stderr);
    std::fs::write(debian.path(CONFIG), shipped.replace("name: first", "name: mine")).unwrap();
    assert_eq!(reload().code, Some(0));
    manager.hear("RELOADING=1");
    manager.hear("READY=1");
    let told = machine.within(|| {
        let mut admin = Client::connect("127.0.0.1:9090");
        admin.request("GET", "/status.json", &[("Host", "127.0.0.1:9090")]).response().text()
    });
    assert!(told.contains("mine"), "{told}");

    // An upgrade of the package disturbs neither the config nor who serves; then the new program takes over.
    done(&["dpkg", "-i", "/root/hopfall.deb"]);
    assert!(std::fs::read_to_string(debian.path(CONFIG)).unwrap().contains("name: mine"));
    assert_eq!(serves(), "meow");
    first.signal("USR2");
    let pid: u32 = manager.hear("MAINPID=").trim_start_matches("MAINPID=").parse().unwrap();
    assert_eq!(first.wait(PATIENCE).code(), Some(0));
    assert_eq!(serves(), "meow");
    run(Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &pid.to_string()]), PATIENCE);
    manager.hear("STOPPING=1");
    wait_until("the second one to end", PATIENCE, || !is_running(pid));
    drop(node);

    std::fs::write(debian.path("/var/lib/hopfall/location"), "x").unwrap();
    done(&["dpkg", "--remove", "hopfall"]);
    assert!(!debian.path("/usr/bin/hopfall").exists());
    assert!(debian.path(CONFIG).exists() && debian.path("/var/lib/hopfall/location").exists());
    done(&["dpkg", "--purge", "hopfall"]);
    std::fs::remove_file(debian.path("/root/hopfall.deb")).unwrap();
    std::fs::remove_file(debian.path("/run/notify")).unwrap();
    // The user stays, and passwd's own copies.
    let mut left = debian.files();
    left.retain(|file| !before.contains(file) && !file.starts_with("./etc/.pwd") && !file.ends_with('-'));
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(debian.run(machine, &["id", "hopfall"]).code, Some(0));
}
