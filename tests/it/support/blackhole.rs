//! An address that answers no SYN: what a client sees of a machine that is off.
//!
//! A listener whose accept queue is full drops new connections silently. The standard library always asks for a
//! long queue, so Perl (on every Debian) opens the listener, with a queue of none.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::wait;

const LISTEN: &str = r#"
use Socket;
$| = 1;
my $listener;
socket($listener, PF_INET, SOCK_STREAM, 0) or die $!;
bind($listener, sockaddr_in(0, inet_aton($ARGV[0]))) or die $!;
listen($listener, 0) or die $!;
my ($port) = sockaddr_in(getsockname($listener));
print "$port\n";
sleep;
"#;

pub struct Blackhole {
    address: SocketAddr,
    _listener: Process,
    _queued: Vec<TcpStream>,
}

impl Blackhole {
    pub fn open() -> Blackhole {
        Blackhole::at("127.0.0.1")
    }

    pub fn at(ip: &str) -> Blackhole {
        let listener = Process::spawn(Command::new("perl").args(["-e", LISTEN, ip]));
        let port = wait::wait_for("a listener without a queue", wait::PATIENCE, || {
            listener.stdout().trim().parse::<u16>().ok()
        });
        let address = SocketAddr::new(ip.parse().expect("an IP address"), port);
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
            assert!(queued.len() < 10, "the kernel queues more than it was asked to");
        }
        Blackhole { address, _listener: listener, _queued: queued }
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }
}
