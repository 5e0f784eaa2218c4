//! Deletes rows that nothing else would: SYNs nobody answered, listening rows at zero, seeds whose socket is gone, pods
//! that ended while no agent was there. Closes sockets that were made ahead for nobody.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use libbpf_rs::Link;
use libbpf_rs::query::LinkTypeInfo;

use super::layout::{ListeningValue, LocalPodValue, PendingValue, PodKey, SynValue, limit};
use super::maps::Maps;
use super::{Inner, diag, enrol, locked};
use crate::fault::Fault;
use crate::sys;

/// Where the cookie stands in the keys of maps that hold rows per pod.
const COOKIE_AT: [(&str, usize); 3] = [("probe_ports", 0), ("excluded_ports", 0), ("excluded_cidrs", 8)];

/// Forgets pods whose namespace the kernel has let go of, and that no agent has enrolled since. Nothing else may be
/// forgotten: a pod that merely waits for its agent must stay closed.
fn dead_pods(inner: &Inner) -> Result<(), Fault> {
    let known: HashSet<u64> = locked(&inner.members).values().map(|member| member.pod.cookie).collect();
    for (cookie, path) in inner.loader.inbound_pins()? {
        let of_dead = || matches!(Link::open(&path).ok()?.info().ok()?.info, LinkTypeInfo::NetNs(ns) if ns.ino == 0).then_some(());
        if known.contains(&cookie) || of_dead().is_none() {
            continue;
        }
        inner.loader.detach_pod(cookie)?;
        inner.maps.delete("pods", &PodKey { cookie }.encode())?;
        for (key, value) in inner.maps.dump("local_pods", usize::MAX)? {
            if LocalPodValue::decode(&value).is_some_and(|v| v.cookie == cookie) {
                inner.maps.delete("local_pods", &key)?;
            }
        }
        for (map, at) in COOKIE_AT {
            for (key, _) in inner.maps.dump(map, usize::MAX)? {
                if key.get(at..at + 8) == Some(&cookie.to_le_bytes()[..]) {
                    inner.maps.delete(map, &key)?;
                }
            }
        }
        enrol::forget_rows(&inner.maps, cookie)?;
    }
    Ok(())
}

/// Deletes rows that went stale: SYNs nobody answered, listening rows at zero, seeds whose socket is gone.
#[derive(Default)]
pub struct Sweeper {
    zero_before: HashSet<Vec<u8>>,
}

impl Sweeper {
    pub fn sweep(&mut self, inner: &Inner) -> Result<(), Fault> {
        locked(&inner.members).values().for_each(|member| member.pod.age());
        self.syns(&inner.maps)?;
        self.listening(inner)?;
        dead_pods(inner)
    }

    /// Rows older than any SYN is retried, each giving its place in the quota back; then quotas of pods without rows.
    fn syns(&self, maps: &Maps) -> Result<(), Fault> {
        let oldest = sys::monotonic_ns().saturating_sub(u64::from(limit::SYN_AGE_S) * 1_000_000_000);
        let mut held: HashMap<u64, i64> = HashMap::new();
        for (key, value) in maps.dump("syns", usize::MAX)? {
            let Some(row) = SynValue::decode(&value) else { continue };
            if row.time_ns < oldest {
                maps.delete("syns", &key)?;
            } else {
                *held.entry(row.source_cookie).or_default() += 1;
            }
        }
        // Counts drift only if a row was deleted here; the true number is what was just counted.
        for (key, value) in maps.dump("pending", usize::MAX)? {
            let (Some(pod), Some(now)) = (PodKey::decode(&key), PendingValue::decode(&value)) else { continue };
            let count = held.get(&pod.cookie).copied().unwrap_or(0);
            if now.count > count.saturating_add(1_000) || (count == 0 && now.count < 0) {
                maps.put("pending", &key, &PendingValue { count }.encode())?;
            }
        }
        Ok(())
    }

    fn listening(&mut self, inner: &Inner) -> Result<(), Fault> {
        let mut touched: HashSet<u64> = HashSet::new();
        let cookie = |key: &[u8]| key.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let mut zero = HashSet::new();
        for (key, value) in inner.maps.dump("listening", usize::MAX)? {
            if ListeningValue::decode(&value).is_some_and(|v| v.count <= 0) {
                zero.insert(key);
            }
        }
        for key in zero.intersection(&self.zero_before) {
            inner.maps.delete("listening", key)?;
            touched.insert(cookie(key));
        }
        self.zero_before = zero;
        let seeded = inner.maps.dump("seeded", usize::MAX)?;
        let seeded: Vec<_> = seeded.into_iter().filter(|(_, value)| !enrol::is_own_row(value)).collect();
        touched.extend(seeded.iter().map(|(key, _)| cookie(key)));
        for pod in inner.pods_by_cookie(&touched) {
            let sockets = diag::list(pod.namespace.as_fd(), diag::STATES_LISTEN)
                .map_err(|e| Fault::os("sweep_failed", format!("list listeners of {}", pod.key), &e))?;
            let rows: HashMap<_, _> = sockets.iter().map(|s| enrol::listening_row(pod.cookie, s)).collect();
            for (key, _) in seeded.iter().filter(|(key, _)| cookie(key) == pod.cookie && !rows.contains_key(key)) {
                inner.maps.delete("seeded", key)?;
            }
            enrol::seed_own(&inner.maps, pod.cookie)?;
            // A socket that began to listen between the look and the deletion above has lost its row: seed it.
            for socket in sockets.iter().filter(|s| !s.local.ip().is_loopback()) {
                let (key, value) = enrol::listening_row(pod.cookie, socket);
                if inner.maps.find("listening", &key)?.is_none() {
                    inner.maps.put("seeded", &key, &value)?;
                }
            }
        }
        Ok(())
    }
}
