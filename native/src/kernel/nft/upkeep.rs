//! What the kernel thread keeps current in the pods' rules: who speaks a tunnel, the node's own addresses, ports that listen;
//! and eBPF programs of an agent before, which go when the rules have taken their place.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::pod::NftPod;
use super::{Inner, Member, listening, node, os, rules};
use crate::fault::Fault;
use crate::kernel::events::{EventSink, KernelEvent};
use crate::kernel::load::Loader;
use crate::kernel::{Row, from_bytes, locked};
use crate::seam::PodSockets;

/// Addresses that speak a tunnel; replaced as a whole, so that pods which hold the same set are told from those that lag.
pub type Speakers = Arc<BTreeSet<IpAddr>>;

/// The agent's name for the rows that become [`Speakers`].
const SPEAKERS_MAP: &str = "tunnel_speakers";
/// How long programs stay at most for a pod that cannot be enrolled.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Programs of an agent before that are still attached.
pub struct Leaving {
    loader: Loader,
    /// Pods that are not behind rules yet: without the programs they would be open.
    waits_for: HashSet<u64>,
    deadline: Instant,
}

impl Leaving {
    /// `None`: nothing is attached.
    pub fn found(loader: Loader) -> Option<Self> {
        let waits_for = loader.pods_of(&loader.active_version()?);
        Some(Self { loader, waits_for, deadline: Instant::now() + LEAVE_LIMIT })
    }
}

fn addresses<'a>(keys: impl Iterator<Item = &'a Vec<u8>>) -> impl Iterator<Item = IpAddr> {
    keys.filter_map(|key| key.as_slice().try_into().ok()).map(from_bytes)
}

impl Inner {
    /// Removes the programs before once every pod of theirs is behind rules, or after a time.
    pub fn finish_programs(&self, known: &HashSet<u64>) -> Result<(), Fault> {
        let mut programs = locked(&self.programs);
        let due = |p: &mut Leaving| p.waits_for.is_subset(known) || p.deadline <= Instant::now();
        if programs.as_mut().is_some_and(due) {
            programs.as_ref().map_or(Ok(()), |p| p.loader.unload())?;
            *programs = None;
        }
        Ok(())
    }

    pub fn add_speakers(&self, map: &str, rows: &[Row]) -> usize {
        if map != SPEAKERS_MAP {
            return 0;
        }
        Arc::make_mut(&mut locked(&self.speakers)).extend(addresses(rows.iter().map(|(key, _)| key)));
        rows.len()
    }

    pub fn remove_speakers(&self, map: &str, keys: &[Vec<u8>]) -> usize {
        if map != SPEAKERS_MAP {
            return 0;
        }
        let mut speakers = locked(&self.speakers);
        let speakers = Arc::make_mut(&mut speakers);
        addresses(keys.iter()).filter(|ip| speakers.remove(ip)).count()
    }

    /// Brings the sets of pods that fail open in line with what the agent knows.
    pub fn tell_speakers(&self) -> Vec<Fault> {
        let wanted = locked(&self.speakers).clone();
        let lags = |m: &&Member| rules::fails_open(&m.request) && m.leaves_at.is_none() && !Arc::ptr_eq(&m.speakers, &wanted);
        let behind: Vec<(Arc<NftPod>, Speakers)> = locked(&self.members).values().filter(lags).map(|m| (m.pod.clone(), m.speakers.clone())).collect();
        let mut faults = Vec::new();
        for (pod, told) in behind {
            let text = rules::nft_speakers(wanted.difference(&told), told.difference(&wanted));
            match self.tool.update(pod.namespace.as_fd(), &text) {
                Err(e) => faults.push(os("tell who speaks a tunnel", pod.key())(e)),
                // A table that was written anew meanwhile already holds what its writer knew.
                Ok(()) => {
                    let mut members = locked(&self.members);
                    if let Some(m) = members.get_mut(pod.key()).filter(|m| Arc::ptr_eq(&m.pod, &pod) && Arc::ptr_eq(&m.speakers, &told)) {
                        m.speakers = wanted.clone();
                    }
                }
            }
        }
        faults
    }

    /// The kubelet probes from one of the node's addresses; where those have changed, the rules are written again.
    pub fn follow_addresses(&self) -> Vec<Fault> {
        let now = node::own_addresses();
        if *locked(&self.probers) == now {
            return Vec::new();
        }
        *locked(&self.probers) = now;
        let mut members = locked(&self.members);
        if self.retired.load(Ordering::Acquire) {
            return Vec::new();
        }
        let probed = members.values_mut().filter(|m| m.leaves_at.is_none() && !m.request.probe_ports.is_empty());
        probed.filter_map(|m| self.rewrite(m, &m.request.clone()).err()).collect()
    }

    /// Tells of ports on which pods began or ceased to listen.
    pub fn follow_listeners(&self, sink: &EventSink) -> Vec<Fault> {
        let mut faults = Vec::new();
        for member in locked(&self.members).values_mut() {
            let now: BTreeSet<u16> = match listening(&member.pod) {
                Ok(ports) => ports.into_iter().collect(),
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            let cookie = member.pod.cookie();
            now.difference(&member.ports).for_each(|port| sink(KernelEvent::Listening { cookie, port: *port, open: true }));
            member.ports.difference(&now).for_each(|port| sink(KernelEvent::Listening { cookie, port: *port, open: false }));
            member.ports = now;
        }
        faults
    }
}
