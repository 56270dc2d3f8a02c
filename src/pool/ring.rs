//! The ring of `algorithm: hash`: which of a pool's nodes comes first for a path. Ketama, by `pingora-ketama`.
//!
//! A node has 160 points on the ring for each unit of its weight. A path is a point too, and belongs to the node
//! whose point follows; when that one cannot be asked, to the node of the next point, and so on round the ring.
//! Points come from a node's configured address and from nothing else: a node that comes or goes moves its own
//! share alone, and two instances with the same nodes agree, today and after a restart.
//!
//! Ketama takes an IP address and a port, and a node may have a name, which can stand for another address
//! tomorrow. So a name is given an address that only the ring sees: an IPv6 one, made of the name's SHA-256. A
//! node that has an IP address keeps it, and with it the points that nginx's `hash … consistent` gives it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use pingora_ketama::{Bucket, Continuum};
use sha2::{Digest, Sha256};

use crate::units::HostPort;

pub(super) struct Ring {
    points: Continuum,
    /// Whose each point is, as an index into the pool's nodes. Ketama gives an address, and that by a point's
    /// number: this spares a search among the nodes at each step. 16 bits, as in Ketama itself.
    owners: Vec<u16>,
}

impl Ring {
    /// The ring of nodes by address and weight, in the pool's order.
    pub(super) fn new<'a>(nodes: impl Iterator<Item = (&'a HostPort, u32)>) -> Self {
        let mut buckets = Vec::new();
        let mut indices = HashMap::new();
        for (i, (address, weight)) in (0..=u16::MAX).zip(nodes) {
            let address = on_the_ring(address);
            buckets.push(Bucket::new(address, weight.max(1)));
            indices.insert(address, i);
        }
        let points = Continuum::new(&buckets);
        let mut owners = Vec::new();
        let mut point = 0;
        while let Some(address) = points.get_addr(&mut point) {
            owners.extend(indices.get(address));
            // Once round.
            if point == 0 {
                break;
            }
        }
        Ring { points, owners }
    }

    /// The candidate that `path` comes to first, walking on from its own point. `candidates` are indices into the
    /// pool's nodes, in rising order.
    ///
    /// `path` is a request target as it was received: what is written in two ways, such as `/a` and `/%61`, may
    /// have two first nodes. Its query does not count.
    pub(super) fn first(&self, path: &[u8], candidates: &[usize]) -> Option<usize> {
        if let [only] = candidates {
            return Some(*only);
        }
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        let (before, after) = self.owners.split_at_checked(self.points.node_idx(path))?;
        let mut walk = after.iter().chain(before).map(|owner| usize::from(*owner));
        // A node without a point has the address of another one, or a number that Ketama cannot count to.
        walk.find(|node| candidates.binary_search(node).is_ok()).or_else(|| candidates.first().copied())
    }
}

/// Where a node's points come from.
fn on_the_ring(address: &HostPort) -> SocketAddr {
    let made_up = || {
        let digest: [u8; 32] = Sha256::digest(address.host.to_ascii_lowercase()).into();
        let bits = digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    };
    SocketAddr::new(address.host.parse().unwrap_or_else(|_| made_up()), address.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Scalar;
    use proptest::prelude::*;

    type Nodes<'a> = [(&'a str, u32)];

    fn ring(nodes: &Nodes) -> Ring {
        let nodes: Vec<_> =
            nodes.iter().map(|(address, weight)| (HostPort::parse(address).unwrap(), *weight)).collect();
        Ring::new(nodes.iter().map(|(address, weight)| (address, *weight)))
    }

    /// The addresses that 100,000 paths belong to.
    fn owners<'a>(nodes: &Nodes<'a>) -> Vec<&'a str> {
        let (ring, all) = (ring(nodes), Vec::from_iter(0..nodes.len()));
        (0..100_000).map(|i| nodes[ring.first(format!("/img/{i:06}.jpg").as_bytes(), &all).unwrap()].0).collect()
    }

    const FLEETS: &[&Nodes] = &[
        &[("192.168.1.10:80", 1), ("192.168.1.11:80", 1)],
        &[("192.168.1.10:80", 100), ("192.168.1.11:80", 20)],
        &[("10.0.0.1:80", 5), ("10.0.0.2:80", 1), ("10.0.0.3:80", 2)],
        &[("chitoge:80", 3), ("taiga:80", 3), ("[fd00::10]:80", 2), ("10.0.0.1:8080", 4)],
        &[("127.0.0.1:7001", 10), ("127.0.0.1:7002", 10), ("127.0.0.1:7003", 10)],
    ];

    #[test]
    fn shares_follow_the_weights() {
        for nodes in FLEETS {
            let (owners, sum) = (owners(nodes), nodes.iter().map(|(_, weight)| weight).sum::<u32>());
            for (address, weight) in *nodes {
                let share = owners.iter().filter(|owner| *owner == address).count() as f64 / owners.len() as f64;
                let due = f64::from(*weight) / f64::from(sum);
                assert!((share - due).abs() < 0.03, "{address} of {nodes:?}: {share:.3} for {due:.3}");
            }
        }
    }

    #[test]
    fn a_node_that_goes_moves_its_own_paths_alone() {
        for nodes in FLEETS {
            let before = owners(nodes);
            for gone in 0..nodes.len() {
                let mut rest = nodes.to_vec();
                let (gone, _) = rest.remove(gone);
                for (before, after) in before.iter().zip(owners(&rest)) {
                    assert!(*before == gone || *before == after, "{before} became {after} without {gone}");
                }
            }
        }
    }

    #[test]
    fn the_order_in_the_config_does_not_matter() {
        for nodes in FLEETS {
            let turned: Vec<_> = nodes.iter().rev().copied().collect();
            assert_eq!(owners(nodes), owners(&turned));
        }
    }

    #[test]
    fn a_path_is_what_stands_before_the_query() {
        let (ring, all) = (ring(FLEETS[3]), [0, 1, 2, 3]);
        let first = |path: &str| ring.first(path.as_bytes(), &all);
        for i in 0..100 {
            assert_eq!(first(&format!("/{i}")), first(&format!("/{i}?v={i}")));
        }
        assert!((0..100).any(|i| first(&format!("/{i}")) != first("/0")));
    }

    #[test]
    fn nodes_that_ketama_cannot_tell_apart_are_all_candidates() {
        let ring = ring(&[("127.0.0.1:0", 1), ("127.0.0.1:0", 1), ("127.0.0.1:0", 1)]);
        assert_eq!(ring.first(b"/x", &[0, 1, 2]), Some(2));
        assert_eq!(ring.first(b"/x", &[0, 1]), Some(0));
        assert_eq!(ring.first(b"/x", &[]), None);
    }

    proptest! {
        /// To leave nodes out changes nothing among the others, so that a walk is the same whoever is down.
        #[test]
        fn the_walk_skips_who_is_no_candidate(
            weights in proptest::collection::vec(1u32..20, 1..7),
            path in "/[a-z0-9%?]{0,20}",
            left_out in any::<u8>(),
        ) {
            let addresses: Vec<String> = (0..weights.len()).map(|i| format!("node-{i}:80")).collect();
            let nodes: Vec<_> = addresses.iter().map(String::as_str).zip(weights).collect();
            let ring = ring(&nodes);
            let walk = |mut candidates: Vec<usize>| {
                let mut order = Vec::new();
                while let Some(first) = ring.first(path.as_bytes(), &candidates) {
                    prop_assert!(candidates.contains(&first));
                    candidates.retain(|other| *other != first);
                    order.push(first);
                }
                Ok(order)
            };
            let is_in = |node: &usize| left_out >> node & 1 == 0;
            let all = Vec::from_iter(0..nodes.len());
            let some: Vec<_> = all.iter().copied().filter(is_in).collect();
            let expected: Vec<_> = walk(all)?.into_iter().filter(is_in).collect();
            prop_assert_eq!(walk(some)?, expected);
        }
    }
}
