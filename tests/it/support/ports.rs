//! Free ports for the servers that must be told one.
//!
//! They come from below the range the kernel uses for outgoing connections. A port from that range (which is what
//! binding port 0 gives) can be taken by any test's client between the choice and the server's start, or while the
//! server is down on purpose; the test would then see a stranger.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const LOWEST: u16 = 10_000;

/// An address on `ip` on which nothing listens, given out only once in this process. Connecting to it is refused
/// until somebody binds it.
pub fn free(ip: &str) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let ip: IpAddr = ip.parse().unwrap_or_else(|_| panic!("`{ip}` is not an IP address"));
    let span = first_ephemeral().saturating_sub(LOWEST).max(1_000);
    // Test processes that run at the same time start far from each other.
    let start = u16::try_from(std::process::id() % 251).unwrap_or(0) * 251;
    for _ in 0..span {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        let address = SocketAddr::new(ip, LOWEST + offset);
        if is_free(address) {
            return address;
        }
    }
    panic!("no free port on {ip}");
}

/// Whether `address` can be bound now.
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

fn first_ephemeral() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768)
}
