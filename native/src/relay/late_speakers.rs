//! Sources that were taken for plain clients and then spoke the tunnel after all: their next connection is waited for longer, or a
//! client on a starved node would be reset each time it dials again (rule DP-8).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

/// How long a source is remembered, µs. A longer wait costs a plain client of the same address that stays silent; the other
/// agent dials again at once.
const REMEMBERED_US: u64 = 10_000_000;
/// Sources that are remembered at most: what a hostile peer can make us hold.
const MAX_SOURCES: usize = 1_024;

/// When each source was last late, µs (`now_us`).
#[derive(Default)]
pub struct LateSpeakers(Mutex<HashMap<IpAddr, u64>>);

impl LateSpeakers {
    pub fn note(&self, source: IpAddr, now_us: u64) {
        let Ok(mut known) = self.0.lock() else { return };
        if known.len() >= MAX_SOURCES && !known.contains_key(&source) {
            known.retain(|_, at| now_us.saturating_sub(*at) < REMEMBERED_US);
            if known.len() >= MAX_SOURCES {
                return;
            }
        }
        known.insert(source, now_us);
    }

    /// Whether the source was late not long ago.
    pub fn has(&self, source: IpAddr, now_us: u64) -> bool {
        self.0.lock().is_ok_and(|known| known.get(&source).is_some_and(|at| now_us.saturating_sub(*at) < REMEMBERED_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: usize) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    #[doc = "[DP-8] a late source is remembered for a while, and only so many are, old ones giving way"]
    fn bounded_in_time_and_number() {
        let known = LateSpeakers::default();
        known.note(source(1), 5);
        assert!(known.has(source(1), 5 + REMEMBERED_US - 1) && !known.has(source(1), 5 + REMEMBERED_US) && !known.has(source(2), 5));
        for n in 0..2 * MAX_SOURCES {
            known.note(source(n), 6);
        }
        assert_eq!((0..2 * MAX_SOURCES).filter(|n| known.has(source(*n), 7)).count(), MAX_SOURCES);
        known.note(source(5_000), 6 + REMEMBERED_US);
        assert!(known.has(source(5_000), 7 + REMEMBERED_US) && known.0.lock().unwrap().len() == 1);
    }
}
