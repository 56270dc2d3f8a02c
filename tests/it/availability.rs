//! The balancer's own availability: the two recipes of `docs/high-availability.md`, on machines of their own, with the
//! configuration files that the guide gives.
//!
//! `cargo test --test it availability:: -- --nocapture` prints the numbers that stand in the guide.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::curl::curl;
use crate::support::hopfall::Hopfall;
use crate::support::keepalived::Keepalived;
use crate::support::lan::{Lan, Machine};
use crate::support::nginx::Nginx;
use crate::support::wait::{PATIENCE, becomes, wait_until};

const HOPFALL_YAML: &str = include_str!("../../conf/two-instances.yaml");
const KEEPALIVED_CONF: &str = include_str!("../../conf/keepalived.conf");

const FIRST: &str = "192.168.1.5";
const SECOND: &str = "192.168.1.6";
/// The address that moves.
const SHARED: &str = "192.168.1.4";
const NODES: [(&str, &str); 2] = [("chitoge", "192.168.1.10"), ("taiga", "192.168.1.11")];
/// A takeover takes two seconds or so; this much only on a machine that is very busy.
const BOUND: Duration = Duration::from_secs(10);

/// Two balancers before two nodes, and a client.
struct Site {
    lan: Lan,
    _nodes: Vec<Nginx>,
}

impl Site {
    /// `None` where there are no network namespaces.
    fn new() -> Option<Site> {
        let lan = Lan::of(&[
            ("first", "192.168.1.5/24"),
            ("second", "192.168.1.6/24"),
            ("chitoge", "192.168.1.10/24"),
            ("taiga", "192.168.1.11/24"),
            ("client", "192.168.1.100/24"),
        ])?;
        let node = |(name, ip): (&str, &str)| {
            // It tells which hopfall asked it: only nodes learn that name.
            let tells = "add_header Asked-By $http_via;";
            let node = Nginx::at(&format!("{ip}:80")).extra_server_lines(tells);
            lan.machine(name).within(|| node.file("cat.jpg", "meow").file("name", name).start())
        };
        let nodes = NODES.map(node).into();
        Some(Site { lan, _nodes: nodes })
    }

    fn client(&self) -> &Machine {
        self.lan.machine("client")
    }

    fn hopfall(&self, machine: &str, yaml: &str) -> Hopfall {
        let admin = "127.0.0.1:9090".parse().unwrap();
        let builder = Hopfall::builder(yaml).env("HOPFALL_MARK_KEY", "one key for both").address("admin", admin);
        self.lan.machine(machine).within(|| builder.start())
    }

    /// Whether this machine has the shared address.
    fn holds(&self, machine: &str) -> bool {
        self.lan.machine(machine).has(SHARED)
    }

    /// Asks for a file at `address` 20 times a second, each time anew, while `work` goes on.
    fn asked<T>(&self, address: &str, work: impl FnOnce(&Log) -> T) -> (Vec<Request>, T) {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }

        let address = SocketAddr::new(address.parse().unwrap(), 80);
        let (over, log) = (AtomicBool::new(false), Log::default());
        let done = thread::scope(|scope| {
            let stop = Stop(&over); // also when `work` panics
            scope.spawn(|| {
                self.client().within(|| {
                    thread::scope(|scope| {
                        while !becomes(Duration::from_millis(50), || over.load(Ordering::Relaxed)) {
                            scope.spawn(|| log.ask(address));
                        }
                    });
                });
            });
            let done = work(&log);
            drop(stop);
            done
        });
        let mut requests = log.0.into_inner().unwrap();
        requests.sort_by_key(|request| request.began);
        (requests, done)
    }
}

/// One machine of the pair.
struct Balancer {
    machine: &'static str,
    name: &'static str,
    hopfall: Hopfall,
    keepalived: Keepalived,
}

impl Balancer {
    /// The first, with the files as they are; or the second, with the changes that they ask for.
    fn start(site: &Site, machine: &'static str) -> Balancer {
        let (name, yaml, conf) = if machine == "first" {
            ("hopfall-1", HOPFALL_YAML.to_owned(), KEEPALIVED_CONF.to_owned())
        } else {
            ("hopfall-2", change(HOPFALL_YAML, &[("name: hopfall-1", "name: hopfall-2")]), second_conf())
        };
        let hopfall = site.hopfall(machine, &yaml);
        let keepalived = site.lan.machine(machine).within(|| Keepalived::start(&conf));
        Balancer { machine, name, hopfall, keepalived }
    }

    /// Both, with the address at the first.
    fn pair(site: &Site) -> (Balancer, Balancer) {
        let first = Balancer::start(site, "first");
        wait_until("the first machine to take the address", PATIENCE, || site.holds("first"));
        let second = Balancer::start(site, "second");
        wait_until("the second machine to be ready", PATIENCE, || second.stands_by(1));
        (first, second)
    }

    /// Whether it has become ready to take over `times` times.
    fn stands_by(&self, times: usize) -> bool {
        self.keepalived.log().matches("Entering BACKUP STATE").count() >= times
    }
}

fn second_conf() -> String {
    change(
        KEEPALIVED_CONF,
        &[
            ("unicast_src_ip 192.168.1.5\n", "unicast_src_ip 192.168.1.6\n"),
            ("        192.168.1.6 min_ttl", "        192.168.1.5 min_ttl"),
            ("priority 101\n", "priority 100\n"),
        ],
    )
}

/// `text` with these lines changed, each of which must be there once.
fn change(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

#[derive(Default)]
struct Log(Mutex<Vec<Request>>);

#[derive(Debug)]
struct Request {
    began: Instant,
    ended: Instant,
    /// The name of the hopfall that served it, if one did.
    by: Option<String>,
}

impl Log {
    fn ask(&self, address: SocketAddr) {
        let began = Instant::now();
        let answer = ask(address).unwrap_or_default();
        let served = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("meow");
        let by = answer
            .split_once("asked-by: 1.1 ")
            .and_then(|(_, rest)| rest.split_once("\r\n"))
            .map(|(name, _)| name.into());
        self.0.lock().unwrap().push(Request { began, ended: Instant::now(), by: by.filter(|_| served) });
    }

    /// Waits for `count` answers to requests that begin from now on, all served by `name`.
    #[track_caller]
    fn wait_for(&self, name: &str, count: usize) {
        let now = Instant::now();
        wait_until(&format!("{count} answers by {name}"), PATIENCE, || {
            let requests = self.0.lock().unwrap();
            requests.iter().filter(|request| request.began > now && request.by.as_deref() == Some(name)).count()
                >= count
        });
    }
}

/// A whole answer, within 2 s.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /cat.jpg HTTP/1.1\r\nHost: cats.example.com\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The story of one takeover after what was done at `struck`, as a line; panics if it was not as the guide says.
#[track_caller]
fn judge(what: &str, requests: &[Request], struck: Instant, to: &str) -> String {
    let by = |request: &Request, name: &str| request.by.as_deref() == Some(name);
    let first = requests.iter().filter(|request| by(request, to)).map(|request| request.ended).min();
    let taken = first.unwrap_or_else(|| panic!("{what}: {to} served nothing"));
    let outage = taken.saturating_duration_since(struck);
    assert!(outage <= BOUND, "{what}: taken over after {outage:?}");
    let mut failed = 0;
    for request in requests {
        if request.by.is_none() {
            failed += 1;
            assert!(
                request.ended >= struck && request.began <= taken,
                "{what}: failed outside the takeover: {request:?}"
            );
        }
        if request.began > taken {
            assert!(by(request, to), "{what}: after the takeover: {request:?}");
        }
    }
    format!("{what}: taken over after {:.2} s, {failed} requests of 20 a second failed", outage.as_secs_f64())
}

#[test]
fn another_balancer_takes_over_when_hopfall_or_its_machine_dies() {
    let Some(site) = Site::new() else { return };
    let (mut first, mut second) = Balancer::pair(&site);

    let (requests, killed) = site.asked(SHARED, |log| {
        log.wait_for(first.name, 10);
        let killed = Instant::now();
        first.hopfall.signal("KILL");
        log.wait_for(second.name, 10);
        killed
    });
    println!("{}", judge("hopfall killed", &requests, killed, second.name));
    assert!(!site.holds("first") && site.holds("second"));

    // It comes back, and takes nothing back: the address stays where it is.
    let (requests, ()) = site.asked(SHARED, |log| {
        first.hopfall = site.hopfall("first", HOPFALL_YAML);
        wait_until("the first machine to stand by", PATIENCE, || first.stands_by(2));
        log.wait_for(second.name, 20);
    });
    assert!(requests.iter().all(|request| request.by.as_deref() == Some(second.name)), "{requests:?}");
    assert!(!site.holds("first") && site.holds("second"));

    let (requests, off) = site.asked(SHARED, |log| {
        log.wait_for(second.name, 10);
        let off = Instant::now();
        site.lan.plug(second.machine, false);
        second.keepalived.kill();
        second.hopfall.signal("KILL");
        log.wait_for(first.name, 10);
        off
    });
    println!("{}", judge("machine off", &requests, off, first.name));
}

#[test]
fn a_planned_stop_moves_the_address_first() {
    let Some(site) = Site::new() else { return };
    let (mut first, second) = Balancer::pair(&site);
    let (requests, stopped) = site.asked(SHARED, |log| {
        log.wait_for(first.name, 10);
        let stopped = Instant::now();
        first.keepalived.stop();
        log.wait_for(second.name, 10);
        stopped
    });
    println!("{}", judge("keepalived stopped", &requests, stopped, second.name));
    assert_eq!(first.hopfall.terminate(), Some(0));

    // The same by the check alone: it drains, says so, and loses the address while a request is still under way.
    let site = Site::new().expect("there was one a moment ago");
    let (mut first, second) = Balancer::pair(&site);
    let mut slow = site.client().within(|| Client::connect((FIRST, 80)));
    slow.send("POST /cat.jpg HTTP/1.1\r\nHost: cats.example.com\r\nContent-Length: 2\r\n\r\nx");
    wait_until("a request is under way", PATIENCE, || {
        let metrics = site.lan.machine("first").within(|| first.hopfall.metrics());
        metrics.sum("hopfall_node_connections", &[]) == 1.0
    });
    let (requests, asked) = site.asked(SHARED, |log| {
        log.wait_for(first.name, 10);
        let asked = Instant::now();
        first.hopfall.signal("TERM");
        log.wait_for(second.name, 10);
        asked
    });
    println!("{}", judge("hopfall drains", &requests, asked, second.name));
    assert!(first.hopfall.is_running());
    slow.send("y");
    assert_eq!(slow.response().status, 405); // nginx takes no POST for a file
    assert_eq!(first.hopfall.wait_exit(PATIENCE), Some(0));
}

/// Whoever can send VRRP from inside the network is not listened to, but the other machine alone.
#[test]
fn a_stranger_s_advertisements_move_nothing() {
    let Some(site) = Site::new() else { return };
    let (first, second) = Balancer::pair(&site);
    let stranger = change(
        KEEPALIVED_CONF,
        &[
            ("unicast_src_ip 192.168.1.5\n", "unicast_src_ip 192.168.1.11\n"),
            ("        192.168.1.6 min_ttl 255\n", "        192.168.1.5\n        192.168.1.6\n"),
            ("priority 101\n", "priority 250\n"),
            ("        hopfall_ready\n", ""),
        ],
    );
    let stranger = site.lan.machine("taiga").within(|| Keepalived::start(&stranger));
    // Were they heeded, the first of them would be the end of it.
    for balancer in [&first, &second] {
        wait_until("five advertisements of the stranger", PATIENCE, || {
            let refusal = "unicast source address 192.168.1.11 not a unicast peer";
            balancer.keepalived.log().matches(refusal).count() >= 5
        });
    }
    assert!(site.holds("first") && !site.holds("second"));
    drop(stranger);
}

/// Split brain: they cannot hear each other, so both have the address, and clients are served by one or the other.
#[test]
fn balancers_that_cannot_hear_each_other_both_serve_until_they_can() {
    let Some(site) = Site::new() else { return };
    let (first, second) = Balancer::pair(&site);
    let isolate = |isolated| [first.machine, second.machine].map(|machine| site.lan.isolate(machine, isolated));
    let (requests, ()) = site.asked(SHARED, |log| {
        log.wait_for(first.name, 10);
        isolate(true);
        wait_until("both have it", PATIENCE, || site.holds("first") && site.holds("second"));
        let now = Instant::now();
        wait_until("requests are answered", PATIENCE, || {
            log.0.lock().unwrap().iter().filter(|request| request.began > now && request.by.is_some()).count() > 20
        });
        isolate(false);
        wait_until("one has it", PATIENCE, || site.holds("first") && !site.holds("second"));
        log.wait_for(first.name, 10);
    });
    let failed = requests.iter().filter(|request| request.by.is_none()).count();
    println!("split brain, and its end: {failed} of {} requests failed", requests.len());
}

/// The second recipe: a name with both addresses.
#[test]
fn a_client_with_two_addresses_goes_to_the_other_balancer() {
    let Some(site) = Site::new() else { return };
    let mut first = site.hopfall("first", HOPFALL_YAML);
    let second = site.hopfall("second", &change(HOPFALL_YAML, &[("name: hopfall-1", "name: hopfall-2")]));
    let resolve = format!("cats.example.com:80:{FIRST},{SECOND}");
    let get = |arguments: &[&str]| {
        let began = Instant::now();
        let fixed = ["--resolve", &resolve, "--connect-timeout", "8", "http://cats.example.com/name"];
        let answer = site.client().within(|| curl(&[&fixed, arguments].concat()));
        assert_eq!((answer.status, answer.exit), (200, 0), "{}", answer.stderr);
        (answer.header("asked-by").unwrap_or_default().trim_start_matches("1.1 ").to_owned(), answer, began.elapsed())
    };

    // A cookie of the one is good at the other: the same node, and no new cookie.
    let (by, answer, both_up) = get(&[]);
    assert_eq!(by, "hopfall-1");
    let node = answer.text();
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let at_second = format!("cats.example.com:80:{SECOND}");
    for _ in 0..4 {
        let (by, answer, _) = get(&["--resolve", &at_second, "--cookie", &cookie]);
        assert_eq!((by.as_str(), answer.text(), answer.header("set-cookie")), ("hopfall-2", node.clone(), None));
    }
    // Not so without the key.
    let stranger = site.lan.machine("second").within(|| {
        let yaml = change(
            HOPFALL_YAML,
            &[("name: hopfall-1", "name: hopfall-3"), ("0.0.0.0:80\"", "0.0.0.0:81\""), ("0.0.1:9090", "0.0.1:9091")],
        );
        let admin = "127.0.0.1:9091".parse().unwrap();
        Hopfall::builder(&yaml).env("HOPFALL_MARK_KEY", "another key").address("admin", admin).start()
    });
    let mut client = site.client().within(|| Client::connect((SECOND, 81)));
    let answer = client.request("GET", "/name", &[("Cookie", &cookie)]).response();
    assert!(answer.header("set-cookie").is_some_and(|set| set.split(';').next() != Some(cookie.as_str())));
    drop(stranger);

    // hopfall is gone, and its machine refuses: the other address at once.
    assert_eq!(first.terminate(), Some(0));
    let (by, _, took) = get(&[]);
    assert_eq!(by, "hopfall-2");
    println!("address refuses: {} ms by the other one, and {} ms before", took.as_millis(), both_up.as_millis());
    assert!(took < Duration::from_secs(2), "{took:?}");

    // The machine says nothing: only once the client has waited, as long as it chooses to.
    site.lan.plug("first", false);
    let (by, _, took) = get(&[]);
    assert_eq!(by, "hopfall-2");
    println!("address is silent: {:.1} s by the other one, with --connect-timeout 8", took.as_secs_f64());
    assert!(took < BOUND, "{took:?}");
    drop(second);
}
