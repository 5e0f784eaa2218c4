//! Source ports of the agent's own sockets in a pod: in which order they are taken, and which of them clients have (rule DP-1).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::locked;

/// Ports taken in turn from a range, each once a round, in an order of the range's own: the agent before this one holds hundreds
/// of ports that it took in its order, and two orders that resemble each other would meet in all of them, one after the other.
/// For the same reason each round has another order: thousands of connections that stay open took their ports in a row.
#[derive(Debug)]
pub struct PortRange {
    low: u16,
    count: u32,
    key: u64,
    next: AtomicU32,
}

impl PortRange {
    /// `bounds` are the first and the last port; `seed` decides the order.
    pub fn new(bounds: (u16, u16), seed: u64) -> Self {
        let count = u32::from(bounds.1.saturating_sub(bounds.0)) + 1;
        Self { low: bounds.0, count, key: mix(seed), next: AtomicU32::new(0) }
    }

    /// How many ports it has.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether the port is one of it.
    pub fn has(&self, port: u16) -> bool {
        port.checked_sub(self.low).is_some_and(|at| u32::from(at) < self.count)
    }

    /// The next port.
    pub fn take(&self) -> u16 {
        // A permutation of 16 bits, walked until it falls into the range: within one round every port comes exactly once.
        let taken = self.next.fetch_add(1, Ordering::Relaxed);
        let (round, mut at) = (u64::from(taken / self.count), taken % self.count);
        let key = if round == 0 { self.key } else { mix(self.key.wrapping_add(round)) };
        loop {
            at = u32::from(permute(at as u16, key));
            if at < self.count {
                return self.low + at as u16;
            }
        }
    }
}

/// Four Feistel rounds over two bytes: a bijection of 16 bits for every key.
fn permute(value: u16, key: u64) -> u16 {
    let (mut left, mut right) = ((value >> 8) as u8, value as u8);
    for round in 0..4_u64 {
        let scrambled = mix(key ^ (round << 8) ^ u64::from(right)) as u8;
        (left, right) = (right, left ^ scrambled);
    }
    u16::from(left) << 8 | u16::from(right)
}

/// Spreads every bit over all others (the finaliser of MurmurHash3, Appleby).
fn mix(value: u64) -> u64 {
    let half = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let whole = (half ^ (half >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    whole ^ (whole >> 33)
}

/// Ends of clients whose source port is one of the app range, as their node's NAT may choose it: each may still have its connection.
#[derive(Debug, Default)]
pub struct Met {
    ends: Mutex<HashSet<SocketAddr>>,
    count: AtomicUsize,
}

impl Met {
    /// Ends kept; beyond it the set starts anew, and a socket may once wait for a SYN that is sent again.
    const MAX: usize = 65_536;

    /// Whether there is none, as on most nodes: costs nothing.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether the client is among them.
    pub fn has(&self, client: SocketAddr) -> bool {
        locked(&self.ends).contains(&client)
    }

    /// It has a connection from now on.
    pub fn note(&self, client: SocketAddr) {
        self.change(|ends| {
            if ends.len() >= Self::MAX {
                ends.clear();
            }
            ends.insert(client);
        });
    }

    /// It has none any more.
    pub fn forget(&self, client: SocketAddr) {
        self.change(|ends| {
            ends.remove(&client);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<SocketAddr>)) {
        let mut ends = locked(&self.ends);
        change(&mut ends);
        self.count.store(ends.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Met, PortRange};
    use std::collections::HashSet;

    #[doc = "[DP-1] a range hands out each of its ports once before any a second time"]
    #[test]
    fn every_port_has_its_turn() {
        for (bounds, seed) in [((10_000, 19_999), 1), ((20_000, 31_999), 77), ((5, 5), 3), ((5, 6), 9), ((1_024, 65_535), 4)] {
            let range = PortRange::new(bounds, seed);
            let taken: HashSet<u16> = (0..range.len()).map(|_| range.take()).collect();
            assert_eq!(taken.len(), range.len() as usize);
            assert!(taken.iter().all(|p| (bounds.0..=bounds.1).contains(p)));
        }
    }

    #[doc = "[DP-3] thousands of ports held since the round before are not met in a row"]
    #[test]
    fn a_round_does_not_meet_the_one_before() {
        for seed in 0..200 {
            let range = PortRange::new((10_000, 19_999), seed);
            let held: HashSet<u16> = (0..6_000).map(|_| range.take()).collect();
            let (mut row, mut longest) = (0, 0);
            for _ in 6_000..40_000 {
                row = if held.contains(&range.take()) { row + 1 } else { 0 };
                longest = longest.max(row);
            }
            // 0.6 to the 40th: once in 10^8 takes.
            assert!(longest < 40, "seed {seed}: {longest} held ports one after the other");
        }
    }

    #[doc = "[DP-19] the ports that a draining agent holds never stop its successor for long"]
    #[test]
    fn two_agents_do_not_meet_in_a_row() {
        for seed in 0..400_u64 {
            let before = PortRange::new((10_000, 19_999), seed * 1_000_003);
            let held: HashSet<u16> = (0..1_000).map(|_| before.take()).collect();
            let after = PortRange::new((10_000, 19_999), seed * 1_000_003 + 977);
            let mut row = 0;
            for _ in 0..3_000 {
                row = if held.contains(&after.take()) { row + 1 } else { 0 };
                assert!(row < 16, "seed {seed}: {row} held ports one after the other");
            }
        }
    }

    #[doc = "[DP-1] ends of clients are known until they are forgotten, and never too many"]
    #[test]
    fn ends_of_clients() {
        let met = Met::default();
        let end = |n: usize| std::net::SocketAddr::from(([10, 0, (n / 30_000) as u8, 1], (1_024 + n % 30_000) as u16));
        assert!(met.is_empty());
        met.note(end(1));
        assert!(met.has(end(1)) && !met.has(end(2)) && !met.is_empty());
        met.forget(end(1));
        assert!(met.is_empty());
        (0..=Met::MAX).for_each(|n| met.note(end(n)));
        assert!(met.has(end(Met::MAX)) && !met.has(end(0)));
    }

    #[doc = "[DP-1] what belongs to a range"]
    #[test]
    fn ports_of_a_range() {
        let range = PortRange::new((20_000, 31_999), 1);
        assert_eq!([19_999, 20_000, 31_999, 32_000].map(|p| range.has(p)), [false, true, true, false]);
    }
}
