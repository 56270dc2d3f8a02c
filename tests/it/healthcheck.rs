//! `hopfall healthcheck`: what a container's health check and a service manager ask.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::fleet::Fleet;
use crate::support::hopfall::{command, reserve};
use crate::support::origin::{Origin, Reply};
use crate::support::process::Ran;
use crate::support::wait::{PATIENCE, wait_until};

/// Runs it with a config whose admin listener is this one.
fn healthcheck(admin: &str, arguments: &[&str]) -> Ran {
    let yaml = format!(
        "listeners: [{{ name: w, address: \"127.0.0.1:0\", route: r }}]\nroutes: {{ r: {{ chain: [p] }} }}\n\
         pools: {{ p: {{ nodes: [{{ name: a, address: \"127.0.0.1:1\" }}] }} }}\n{admin}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    std::fs::write(&file, yaml).unwrap();
    command(&[&["healthcheck", "-c", file.to_str().unwrap()], arguments].concat())
}

fn at(admin: SocketAddr) -> String {
    format!("admin: {{ address: \"{admin}\" }}")
}

#[test]
fn it_is_0_while_requests_are_taken_and_1_while_it_drains() {
    let slow = Origin::always(Reply::ok("meow").delay(Duration::from_secs(4)));
    let mut hopfall = Fleet::new().node("slow", slow.addr()).pool("header_timeout: 20s").start();
    let admin = at(hopfall.admin());
    let ready = healthcheck(&admin, &[]);
    assert_eq!((ready.code, ready.stdout.as_str()), (Some(0), "ready\n"), "{}", ready.stderr);

    let mut busy = hopfall.connect();
    busy.request("GET", "/x", &[]);
    wait_until("it is under way", PATIENCE, || slow.requests().len() == 1);
    hopfall.signal("TERM");
    wait_until("it drains", PATIENCE, || healthcheck(&admin, &[]).code == Some(1));
    assert_eq!(healthcheck(&admin, &["--live"]).code, Some(0), "it lives while it drains");
    assert_eq!(hopfall.interrupt(), Some(0));
    let gone = healthcheck(&admin, &["--live"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("does not answer: Connection refused"), "{}", gone.stderr);
}

#[test]
fn one_that_listens_on_all_addresses_is_asked_on_loopback() {
    let node = Origin::always(Reply::ok("x"));
    let all: SocketAddr = ([0, 0, 0, 0], reserve().port()).into();
    let _hopfall = Fleet::new().node("node", node.addr()).builder().address("admin", all).start();
    assert_eq!(healthcheck(&at(all), &[]).code, Some(0));
}

#[test]
fn silence_is_1_when_the_time_is_over() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let ran = healthcheck(&at(silent.local_addr().unwrap()), &["--timeout", "300ms"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("timed out"), "{}", ran.stderr);
    assert!(began.elapsed() < Duration::from_secs(5));

    // A byte now and then does not make it longer.
    let drop = Origin::always(Reply::ok("ready\n".repeat(1000)).slow_body(1, Duration::from_millis(50)));
    let began = Instant::now();
    assert_eq!(healthcheck(&at(drop.addr()), &["--timeout", "300ms"]).code, Some(1));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_config_without_admin_is_a_mistake() {
    let ran = healthcheck("", &[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("the config has no `admin`"), "{}", ran.stderr);
}
