//! Machines on a network of their own: network namespaces, joined by a bridge that has one, too. So the host's network
//! has nothing of it, and with the namespaces all is gone.
//!
//! What is called in `Machine::within` runs there: its sockets, and the threads and processes it starts, so that all
//! other parts of the harness work on a machine as they do outside.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{Ran, run};
use super::{wait, watchdog};

pub struct Lan {
    switch: Namespace,
    machines: Vec<Machine>,
}

pub struct Machine {
    name: String,
    namespace: Namespace,
}

/// What was made on a machine and has to end there too: a server that is ended by a connection to itself.
pub struct Kept<'a, T: Send> {
    machine: &'a Machine,
    made: Option<T>,
}

/// Removed when dropped, and by the watchdog if it is not.
struct Namespace(String);

impl Lan {
    /// Machines with one address each, on `eth0`: `&[("web", "192.168.1.5/24"), …]`.
    ///
    /// `None`, and a word on standard error that libtest does not swallow, where namespaces cannot be made: they take
    /// root.
    pub fn of(machines: &[(&str, &str)]) -> Option<Lan> {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let prefix = format!("hopfall-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let switch = match Namespace::new(format!("{prefix}-switch")) {
            Ok(switch) => switch,
            Err(why) => {
                let test = std::thread::current().name().unwrap_or("a test").to_owned();
                let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: no network namespaces here: {}", why.trim());
                return None;
            }
        };
        switch.ip("link add switch type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set switch up");
        let mut lan = Lan { switch, machines: Vec::new() };
        for (name, address) in machines {
            let namespace = Namespace::new(format!("{prefix}-{name}")).expect("a second namespace like the first");
            lan.switch.ip(&format!("link add {name} type veth peer name eth0 netns {}", namespace.0));
            lan.switch.ip(&format!("link set {name} master switch up"));
            namespace.ip("link set lo up");
            namespace.ip("link set eth0 up");
            namespace.ip(&format!("address add {address} dev eth0"));
            lan.machines.push(Machine { name: (*name).to_owned(), namespace });
        }
        Some(lan)
    }

    #[track_caller]
    pub fn machine(&self, name: &str) -> &Machine {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.unwrap_or_else(|| panic!("there is no machine `{name}`"))
    }

    /// Takes a machine's cable out, or puts it back.
    pub fn plug(&self, machine: &str, plugged: bool) {
        self.switch.ip(&format!("link set {machine} {}", if plugged { "up" } else { "down" }));
    }

    /// Isolated machines reach the others, but not one another.
    pub fn isolate(&self, machine: &str, isolated: bool) {
        self.switch
            .ip(&format!("link set {machine} type bridge_slave isolated {}", if isolated { "on" } else { "off" }));
    }
}

impl Machine {
    /// Runs `work` on this machine.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let there = File::open(Path::new("/run/netns").join(&self.namespace.0)).expect("the namespace is there");
        let name = std::thread::current().name().unwrap_or(&self.name).to_owned();
        std::thread::scope(|scope| {
            let moved = move || {
                move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
                work()
            };
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, moved).expect("a thread starts");
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes something on this machine, where it also ends.
    pub fn keep<T: Send>(&self, make: impl FnOnce() -> T + Send) -> Kept<'_, T> {
        Kept { machine: self, made: Some(self.within(make)) }
    }

    /// Whether this machine has `address` now.
    pub fn has(&self, address: &str) -> bool {
        self.namespace.ip("-oneline address show dev eth0").stdout.contains(&format!(" {address}/"))
    }
}

impl<T: Send> std::ops::Deref for Kept<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.made.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send> Drop for Kept<'_, T> {
    fn drop(&mut self) {
        let made = self.made.take();
        self.machine.within(|| drop(made));
    }
}

impl Namespace {
    fn new(name: String) -> Result<Namespace, String> {
        let made = run(Command::new("ip").args(["netns", "add", &name]), wait::PATIENCE);
        if made.code != Some(0) {
            return Err(made.stderr);
        }
        watchdog::guard_namespace(&name);
        Ok(Namespace(name))
    }

    /// `ip ARGUMENTS` in it.
    #[track_caller]
    fn ip(&self, arguments: &str) -> Ran {
        let ran = run(Command::new("ip").args(["-netns", &self.0]).args(arguments.split(' ')), wait::PATIENCE);
        assert_eq!(ran.code, Some(0), "ip {arguments}: {}", ran.stderr);
        ran
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "delete", &self.0]), wait::PATIENCE);
    }
}
