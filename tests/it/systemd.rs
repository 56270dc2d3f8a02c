//! The package on the machine that it is made for: one whose first process is systemd.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::bucket::Bucket;
use crate::support::certificate::Certificate;
use crate::support::client::{ask, get};
use crate::support::curl::curl;
use crate::support::debian::Debian;
use crate::support::lan::{Lan, Machine};
use crate::support::origin::{Origin, Reply};
use crate::support::package::{CONFIG, deb};
use crate::support::systemd::Systemd;
use crate::support::wait::{PATIENCE, wait_until};

const WEB: &str = "10.0.0.1:80";
const NODE: &str = "127.0.0.1:8081";

/// A node where the shipped config has one.
fn node() -> Origin {
    Origin::at(NODE).respond(|request| match request.target.as_str() {
        "/cat.jpg" => Reply::ok("meow"),
        _ => Reply::status(404),
    })
}

/// Boots a fresh Debian with the package on it. In its config several clients of one path on the node's own machine are not
/// taken for a loop.
fn install<'a>(debian: &'a Debian, machine: &'a Machine) -> Systemd<'a> {
    std::fs::copy(deb(), debian.path("/root/hopfall.deb")).unwrap();
    let systemd = Systemd::boot(debian, machine);
    systemd.done(&["dpkg", "--install", "/root/hopfall.deb"]);
    let shipped = std::fs::read_to_string(debian.path(CONFIG)).unwrap();
    let pool = "  files:\n    nodes:";
    assert!(shipped.contains(pool), "{shipped}");
    let trusting = shipped.replace(pool, "  files:\n    from_nodes: trust\n    nodes:");
    std::fs::write(debian.path(CONFIG), trusting).unwrap();
    systemd
}

/// Waits until another process than `before` is the service's, and serves.
#[track_caller]
fn next_process(systemd: &Systemd<'_>, before: &str) -> String {
    let mut pid = String::new();
    wait_until("another process to serve", PATIENCE, || {
        pid = systemd.property("MainPID");
        pid != before && pid != "0" && systemd.property("SubState") == "running"
    });
    assert_eq!(systemd.within(|| get(WEB, "/cat.jpg").text()), "meow");
    pid
}

#[test]
fn its_sandbox_lets_it_do_all_that_it_does_and_no_more() {
    let Some(lan) = Lan::of(&[("web", "10.0.0.1/24")]) else { return };
    let machine = lan.machine("web");
    let debian = Debian::fresh();
    let systemd = install(&debian, machine);
    assert_eq!(systemd.property("ActiveState"), "inactive", "an installation starts nothing");
    let _node = machine.keep(node);
    let bucket = machine.keep(Bucket::new);
    bucket.put("dog.jpg", "1", b"woof", &[]);

    let id = |what: &str| systemd.done(&["id", what, "hopfall"]).trim().parse::<u32>().unwrap();
    let certificate = Certificate::for_names(&["10.0.0.1"]);
    std::fs::copy(certificate.cert_path(), debian.path("/etc/hopfall/cert.pem")).unwrap();
    let key = debian.path("/etc/hopfall/key.pem");
    std::fs::copy(certificate.key_path(), &key).unwrap();
    chown(&key, None, Some(id("-g"))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let environment = debian.path("/etc/hopfall/environment");
    std::fs::write(&environment, "S3_ACCESS_KEY=AKIATEST\n").unwrap();
    std::fs::set_permissions(&environment, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(debian.path("/root/s3-secret"), "an-unguessable-secret\n").unwrap();
    std::fs::create_dir_all(debian.path("/etc/systemd/system/hopfall.service.d")).unwrap();
    let drop_in = debian.path("/etc/systemd/system/hopfall.service.d/secret.conf");
    std::fs::write(drop_in, "[Service]\nLoadCredential=s3:/root/s3-secret\n").unwrap();
    let config = format!(
        r#"
listeners:
  - {{ name: web, address: "0.0.0.0:80", route: files }}
  - name: safe
    address: "0.0.0.0:443"
    protocol: https
    route: files
    tls: {{ certificate: /etc/hopfall/cert.pem, key: /etc/hopfall/key.pem }}
  - {{ name: raw, address: "0.0.0.0:81", protocol: tcp, pool: files }}
pools:
  files: {{ nodes: [{{ name: first, address: "{NODE}" }}] }}
stores:
  s3:
    kind: s3
    bucket: cats
    region: us-east-1
    endpoint: "http://{bucket}"
    credentials: {{ access_key: "${{S3_ACCESS_KEY}}", secret_key: "file:/run/credentials/hopfall.service/s3" }}
    disk: {{ path: /var/cache/hopfall/s3, bytes: 64MiB, free: 1MiB }}
routes:
  files: {{ chain: [files, s3] }}
location: {{ file: /var/lib/hopfall/location }}
log: {{ access: {{ path: /var/log/hopfall/access.log }} }}
admin: {{ address: "127.0.0.1:9090" }}
"#,
        bucket = bucket.addr()
    );
    std::fs::write(debian.path(CONFIG), config).unwrap();
    systemd.done(&["systemctl", "daemon-reload"]);
    systemd.done(&["systemctl", "enable", "--now", "hopfall"]);
    assert_eq!(systemd.property("ActiveState"), "active");

    assert_eq!(systemd.within(|| get(WEB, "/cat.jpg").text()), "meow");
    assert_eq!(systemd.within(|| get("10.0.0.1:81", "/cat.jpg").text()), "meow");
    let ca = certificate.cert_path();
    let safe = systemd.within(|| curl(&["--cacert", ca.to_str().unwrap(), "https://10.0.0.1/cat.jpg"]));
    assert_eq!((safe.status, safe.text().as_str()), (200, "meow"));
    assert_eq!(systemd.within(|| get(WEB, "/dog.jpg").text()), "woof");
    bucket.delete("dog.jpg");
    wait_until("it to be on the disk", PATIENCE, || {
        systemd.within(|| get(WEB, "/dog.jpg")).header("cache-status").is_some_and(|status| status.contains("hit"))
    });
    wait_until("both to be in the access log", PATIENCE, || {
        let log = std::fs::read_to_string(debian.path("/var/log/hopfall/access.log")).unwrap();
        log.contains("/cat.jpg") && log.contains("/dog.jpg")
    });

    let status = systemd.done(&["cat", &format!("/proc/{}/status", systemd.property("MainPID"))]);
    let user = id("-u");
    for line in [&format!("Uid:\t{user}\t{user}"), "CapEff:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is not in\n{status}");
    }
    let shut = debian.path("/etc/hopfall/hopfall.yaml");
    let elsewhere = std::fs::read_to_string(&shut).unwrap().replace("/var/log/hopfall/", "/var/spool/");
    std::fs::write(&shut, elsewhere).unwrap();
    systemd.run(&["systemctl", "restart", "hopfall"]);
    assert!(systemd.journal(&[]).contains("Read-only file system"), "{}", systemd.journal(&[]));

    systemd.done(&["systemctl", "stop", "hopfall"]);
    assert!(debian.path("/var/lib/hopfall/location").exists());
    let journal = systemd.journal(&[]);
    for complaint in ["denied", "not permitted"] {
        assert!(!journal.contains(complaint), "{journal}");
    }
    assert!(!journal.contains("an-unguessable-secret"));
}

#[test]
fn systemd_follows_its_reloads_upgrades_and_ends() {
    let Some(lan) = Lan::of(&[("web", "10.0.0.1/24")]) else { return };
    let machine = lan.machine("web");
    let debian = Debian::fresh();
    let systemd = install(&debian, machine);
    let _node = machine.keep(node);
    systemd.done(&["systemctl", "enable", "--now", "hopfall"]);
    let mut pid = next_process(&systemd, "0");

    // The mistake is told to who reloads; what is right is read.
    let shipped = std::fs::read_to_string(debian.path(CONFIG)).unwrap();
    std::fs::write(debian.path(CONFIG), shipped.replace("route: files", "route: fils")).unwrap();
    assert_eq!(systemd.run(&["systemctl", "reload", "hopfall"]).code, Some(1));
    assert!(systemd.journal(&[]).contains("did you mean `files`?"), "{}", systemd.journal(&[]));
    systemd.done(&["systemctl", "kill", "--kill-who=main", "--signal=HUP", "hopfall"]);
    wait_until("its error to be an error in the journal", PATIENCE, || {
        systemd.journal(&["--priority=err"]).contains("not reloaded")
    });
    std::fs::write(debian.path(CONFIG), shipped.replace("name: first", "name: mine")).unwrap();
    systemd.done(&["systemctl", "reload", "hopfall"]);
    wait_until("the new config to be in force", PATIENCE, || systemd.journal(&[]).contains("reloaded: config"));
    assert_eq!(systemd.property("MainPID"), pid);

    // The watchdog's time is short enough to run out if an upgrade does not give the new process all of it.
    std::fs::create_dir_all(debian.path("/etc/systemd/system/hopfall.service.d")).unwrap();
    let drop_in = debian.path("/etc/systemd/system/hopfall.service.d/watchdog.conf");
    std::fs::write(drop_in, "[Service]\nWatchdogSec=3s\n").unwrap();
    systemd.done(&["systemctl", "daemon-reload"]);
    systemd.done(&["systemctl", "restart", "hopfall"]);
    pid = next_process(&systemd, &pid);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let web: SocketAddr = WEB.parse().unwrap();
        let asking = [true, false].map(|each_on_its_own| {
            let (stop, served) = (&stop, &served);
            scope.spawn(move || machine.within(|| ask(web, ("/cat.jpg", "meow"), each_on_its_own, stop, served)))
        });
        for order in [
            &["dpkg", "--install", "/root/hopfall.deb"][..],
            &["hopfall", "upgrade", "-c", CONFIG],
            &["systemctl", "reload", "hopfall"],
            &["systemctl", "kill", "--kill-who=main", "--signal=USR2", "hopfall"],
        ] {
            let before = served.load(Ordering::Relaxed);
            systemd.done(order);
            if !order.contains(&"reload") {
                pid = next_process(&systemd, &pid);
            }
            wait_until("requests go on", PATIENCE, || served.load(Ordering::Relaxed) > before + 100);
        }
        stop.store(true, Ordering::Relaxed);
        for asking in asking {
            asking.join().expect("no request failed");
        }
    });
    assert!(std::fs::read_to_string(debian.path(CONFIG)).unwrap().contains("name: mine"));
    assert_eq!(systemd.property("NRestarts"), "0");
    let journal = systemd.journal(&[]);
    for complaint in ["reception only permitted", "not our child"] {
        assert!(!journal.contains(complaint), "{journal}");
    }

    // One that has taken over is missed like one that systemd has started itself.
    systemd.done(&["kill", "-KILL", &pid]);
    pid = next_process(&systemd, &pid);
    assert_eq!(systemd.property("NRestarts"), "1");
    systemd.done(&["kill", "-STOP", &pid]);
    next_process(&systemd, &pid);
    assert!(systemd.journal(&[]).contains("Watchdog timeout"), "{}", systemd.journal(&[]));

    // A config with mistakes has them after a second, too.
    std::fs::write(debian.path(CONFIG), shipped.replace("route: files", "route: fils")).unwrap();
    assert_eq!(systemd.run(&["systemctl", "restart", "hopfall"]).code, Some(1));
    assert_eq!((systemd.property("ActiveState"), systemd.property("NRestarts")), ("failed".into(), "0".into()));
    std::fs::write(debian.path(CONFIG), shipped).unwrap();
    systemd.done(&["systemctl", "start", "hopfall"]);

    systemd.done(&["dpkg", "--remove", "hopfall"]);
    assert_eq!(systemd.property("ActiveState"), "inactive");
    assert_eq!(systemd.run(&["pidof", "hopfall"]).stdout, "");
    assert!(!debian.path("/etc/systemd/system/multi-user.target.wants/hopfall.service").exists());
}

#[test]
fn clients_wait_at_systemds_socket_while_it_is_restarted() {
    let Some(lan) = Lan::of(&[("web", "10.0.0.1/24")]) else { return };
    let machine = lan.machine("web");
    let debian = Debian::fresh();
    let systemd = install(&debian, machine);
    let _node = machine.keep(node);
    systemd.done(&["systemctl", "enable", "--now", "hopfall.socket"]);
    assert_eq!(systemd.property("ActiveState"), "inactive", "nobody has asked for anything");
    assert_eq!(systemd.within(|| get(WEB, "/cat.jpg").text()), "meow", "the first one to ask has it started");
    let mut pid = next_process(&systemd, "0");
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            machine.within(|| ask(WEB.parse().unwrap(), ("/cat.jpg", "meow"), true, &stop, &served));
        });
        for order in ["restart", "upgrade", "restart"] {
            let before = served.load(Ordering::Relaxed);
            if order == "upgrade" {
                systemd.done(&["hopfall", "upgrade", "-c", CONFIG]);
            } else {
                systemd.done(&["systemctl", order, "hopfall"]);
            }
            pid = next_process(&systemd, &pid);
            wait_until("requests go on", PATIENCE, || {
                assert!(
                    !asking.is_finished(),
                    "{order}: a request failed\n{}",
                    systemd.journal(&["--output=short-precise"])
                );
                served.load(Ordering::Relaxed) > before + 100
            });
        }
        stop.store(true, Ordering::Relaxed);
        asking.join().expect("no request failed");
    });
}
