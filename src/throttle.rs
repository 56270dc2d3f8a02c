//! The throttle: how often one client may come. In fixed memory, and never too often.
//!
//! A client is an IPv4 address, or the first 64 bits of an IPv6 one (`units::client_network`). It has a bucket of tokens,
//! each of which lets it in once; a spent token comes back after 1 / `per_second`. A bucket is kept as one number: the time
//! at which it will be full again (the generic cell rate algorithm). So one that is full says nothing, and its entry is as
//! good as an empty one: what must be remembered is the clients of the last `burst / per_second` seconds, however many
//! there have ever been.
//!
//! The table has room for a fixed number of buckets, in sets of eight, each under a lock of its own. Which set is a
//! client's is told by a keyed hash, so nobody can aim at another one's. Where a set is full, the bucket that is soonest
//! full gives way, **and the newcomer goes on with what that one lacks**. What follows from this:
//!
//! - Nobody is let in more often than `burst` plus `per_second` for each second, whatever the size of the table and however
//!   many come: who gave way finds a bucket at least as empty as the one that he left, since he left the fullest and all
//!   only get emptier by being handed on. So there is nothing to be gained by filling the table.
//! - A client that keeps to the limit loses little by giving way: it comes back to the fullest bucket of its set.
//! - A newcomer is refused for the sake of others only when all eight of its set are at their limit at once. To bring that
//!   about for all clients takes, a second, `entries` times `per_second` visits that are let in: 65536 at the least, by the
//!   defaults. Then newcomers are kept out, rather than everybody let in.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::units::client_network;

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub per_second: u32,
    /// How many at once, after a pause. At least 1.
    pub burst: u32,
}

/// The buckets of all clients.
pub struct Throttle {
    sets: Box<[Mutex<Set>]>,
    key: (u64, u64),
    /// Nanoseconds until a spent token is back. Rounded up, so that the rate is never exceeded.
    interval: u64,
    /// Nanoseconds from one token left to a full bucket.
    depth: u64,
}

/// Buckets among which a client's is, if it has one.
type Set = [Bucket; WAYS];

const WAYS: usize = 8;

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// The client's keyed hash; two clients are taken for one with odds of 8 in 2^64. An entry that was never used is the
    /// full bucket of whoever has 0.
    client: u64,
    /// When it is full again, in nanoseconds of the caller's clock.
    full_at: u64,
}

impl Throttle {
    /// Room for `entries` buckets, rounded up to whole sets, at 17 bytes each. `key` must be secret.
    pub fn new(rate: Rate, entries: usize, key: (u64, u64)) -> Self {
        let interval = SECOND.div_ceil(u64::from(rate.per_second.max(1)));
        let sets = entries.div_ceil(WAYS).max(1);
        Throttle {
            sets: std::iter::repeat_with(Mutex::default).take(sets).collect(),
            key,
            interval,
            depth: interval * u64::from(rate.burst.max(1) - 1),
        }
    }

    /// Whether a client is let in. `now` is a clock that never goes back. A refusal costs no token, so a client that is
    /// refused may come again 1 / `per_second` later: within a second.
    pub fn admit(&self, client: IpAddr, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let client = self.hash(client);
        let mut set = self.set(client).lock().unwrap_or_else(PoisonError::into_inner);
        // The client's own, or the one that gives way to it.
        let Some(bucket) = set.iter_mut().min_by_key(|bucket| (bucket.client != client, bucket.full_at)) else {
            return true;
        };
        let full_at = bucket.full_at.max(now);
        let has_token = full_at - now <= self.depth;
        if has_token {
            *bucket = Bucket { client, full_at: full_at.saturating_add(self.interval) };
        }
        has_token
    }

    /// Whether [`Throttle::admit`] would let the client in; costs no token.
    pub fn would_admit(&self, client: IpAddr, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let client = self.hash(client);
        let set = self.set(client).lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = set.iter().min_by_key(|bucket| (bucket.client != client, bucket.full_at));
        bucket.is_none_or(|bucket| bucket.full_at.saturating_sub(now) <= self.depth)
    }

    fn hash(&self, client: IpAddr) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        match client_network(client) {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.finish()
    }

    fn set(&self, hash: u64) -> &Mutex<Set> {
        // invariant: the upper half of a product by the length is below the length
        let index = (u128::from(hash) * self.sets.len() as u128) >> 64;
        &self.sets[usize::try_from(index).unwrap_or(0)]
    }
}

const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn throttle(per_second: u32, burst: u32, entries: usize) -> Throttle {
        Throttle::new(Rate { per_second, burst }, entries, (1, 2))
    }

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let throttle = throttle(10, 3, 100);
        const CASES: &[(u64, bool)] = &[
            (1000, true),
            (1000, true),
            (1000, true),
            (1000, false),
            (1099, false),
            (1100, true),
            (1100, false),
            (1300, true),
            (1300, true),
            (1300, false),
            (9000, true),
            (9000, true),
            (9000, true),
            (9000, false),
        ];
        for (i, (at, expected)) in CASES.iter().enumerate() {
            assert_eq!(throttle.would_admit(client(1), ms(*at)), *expected, "asked before visit {i}");
            assert_eq!(throttle.admit(client(1), ms(*at)), *expected, "case {i}, at {at}");
        }
        assert!(throttle.admit(client(2), ms(9000)));
    }

    #[test]
    fn a_client_is_an_address_or_64_bits_of_one() {
        const CASES: &[(&str, &str, bool)] = &[
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "0.0.0.1", false),
        ];
        for (one, other, same) in CASES {
            let throttle = throttle(1, 1, 100);
            assert!(throttle.admit(one.parse().unwrap(), ms(1)));
            assert_eq!(!throttle.admit(other.parse().unwrap(), ms(1)), *same, "{one} {other}");
        }
    }

    #[test]
    fn an_entry_is_seventeen_bytes_and_there_are_never_more() {
        assert_eq!(size_of::<Mutex<Set>>(), 17 * WAYS);
        let throttle = throttle(1, 1, 1001);
        assert_eq!(throttle.sets.len(), 126);
        (0..100_000).for_each(|i| _ = throttle.admit(client(i), ms(1)));
        assert_eq!(throttle.sets.len(), 126);
    }

    /// 10,000 addresses, each ten times too often, and the table of the defaults.
    #[test]
    fn an_honest_client_is_served_amid_an_attack_from_ten_thousand_addresses() {
        let throttle = throttle(20, 20, 65_536);
        let honest = IpAddr::from(Ipv6Addr::LOCALHOST);
        let mut let_in = 0_u32;
        for round in 0..100_u64 {
            let now = ms(1000 + round * 5);
            let_in += (0..10_000).map(|i| u32::from(throttle.admit(client(i), now))).sum::<u32>();
            if round % 10 == 0 {
                assert!(throttle.admit(honest, now), "round {round}");
            }
        }
        // Of 495 ms.
        let most = 10_000 * (20 + 9);
        assert!((most * 99 / 100..=most).contains(&let_in), "{let_in} of at most {most}");
    }

    /// Who has spent his tokens may make the whole table give way to addresses that he has only for that.
    #[test]
    fn filling_the_table_gives_no_tokens_back() {
        let throttle = throttle(1, 5, 64);
        let mut let_in = 0;
        for round in 0..2000_u32 {
            let now = ms(1000 + u64::from(round) * 5);
            let_in += u32::from(throttle.admit(client(0), now));
            (1..100).for_each(|i| _ = throttle.admit(client(1 + round * 100 + i), now));
        }
        assert!(let_in <= 5 + 10, "{let_in} in 10 s");
    }

    /// Clients, and how many milliseconds after the one before each comes.
    fn visits(clients: u32) -> impl Strategy<Value = Vec<(u32, u64)>> {
        proptest::collection::vec((0..clients, prop_oneof![12 => Just(0), 3 => 0..30_u64, 1 => 0..2000_u64]), 0..400)
    }

    proptest! {
        /// Whoever else comes, and however small the table is.
        #[test]
        fn nobody_is_let_in_more_often_than_the_rate(
            rate in 1_u32..50, burst in 1_u32..10, entries in 1_usize..20, visits in visits(40)
        ) {
            let throttle = throttle(rate, burst, entries);
            let mut now = Duration::ZERO;
            let mut let_in: HashMap<u32, Vec<Duration>> = HashMap::new();
            for (number, later) in visits {
                now += ms(later);
                if throttle.admit(client(number), now) {
                    let_in.entry(number).or_default().push(now);
                }
            }
            for times in let_in.values() {
                for (i, begin) in times.iter().enumerate() {
                    for (j, end) in times.iter().enumerate().skip(i) {
                        let most = f64::from(burst) + (*end - *begin).as_secs_f64() * f64::from(rate);
                        prop_assert!((j - i + 1) as f64 <= most + 1e-6, "{} from {begin:?} to {end:?}", j - i + 1);
                    }
                }
            }
        }

        /// While there is room, each client is judged as if it were alone, and none waits longer than for one token.
        #[test]
        fn clients_do_not_know_of_each_other(rate in 1_u32..50, burst in 1_u32..20, visits in visits(8)) {
            let shared = throttle(rate, burst, 8);
            let alone: Vec<Throttle> = (0..8).map(|_| throttle(rate, burst, 8)).collect();
            let mut now = Duration::ZERO;
            for (number, later) in visits {
                now += ms(later);
                let judged = shared.admit(client(number), now);
                prop_assert_eq!(judged, alone[number as usize].admit(client(number), now));
                if !judged {
                    now += Duration::from_nanos(shared.interval);
                    prop_assert!(shared.admit(client(number), now));
                    prop_assert!(alone[number as usize].admit(client(number), now));
                }
            }
        }
    }
}
