//! Which interception this node has, chosen once at load: eBPF where it works, else nftables. Both answer the same calls.

use std::path::Path;
use std::sync::Arc;

use super::config::{EnrolRequest, Enrolled, ForeignProgram, KernelConfig, LoadReport, Tuple};
use super::nft::Nft;
use super::{Bpf, EventSink, HostReport, Row, probe};
use crate::fault::Fault;
use crate::seam::{PodRegistry, PodSockets};

/// The kernel side of one node. Dropping it leaves interception in place: it outlives the agent on purpose.
pub enum Kernel {
    Ebpf(Bpf),
    Nftables(Nft),
}

impl Kernel {
    /// What this machine offers; changes nothing.
    pub fn probe() -> HostReport {
        probe::host_report()
    }

    /// Makes the choice and loads it; `reason` of the report says why. Pods are told to `registry`, events to `sink`.
    pub fn load(config: KernelConfig, registry: Arc<dyn PodRegistry>, sink: EventSink) -> Result<(Self, LoadReport), Fault> {
        let nft = |config, registry, sink, reason: &str| Nft::load(config, registry, sink, reason).map(|(nft, report)| (Self::Nftables(nft), report));
        match config.interception.as_str() {
            "nftables" => nft(config, registry, sink, "FAIRLEAD_INTERCEPTION asks for nftables"),
            "ebpf" => Bpf::load(config, registry, sink).map(|(bpf, report)| (Self::Ebpf(bpf), report)),
            // Programs of an agent before are still at work then: rules beside them would take each connection twice.
            "auto" if Bpf::is_attached(&config) => Bpf::load(config, registry, sink).map(|(bpf, report)| (Self::Ebpf(bpf), report)),
            "auto" => match Bpf::load(config.clone(), registry.clone(), sink.clone()) {
                Ok((bpf, report)) => Ok((Self::Ebpf(bpf), report)),
                Err(fault) => {
                    // What was attached before the failure must not take connections beside the rules.
                    Bpf::abandon(&config)?;
                    nft(config, registry, sink, &format!("eBPF is not used: {}", fault.message))
                }
            },
            other => {
                let text = format!("interception is {other:?}: use auto, ebpf or nftables");
                Err(Fault::new("bad_config", text))
            }
        }
    }

    /// Removes interception from every pod, and every program and pin (uninstall).
    pub fn unload(&self) -> Result<(), Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.unload(),
            Self::Nftables(nft) => nft.unload(),
        }
    }

    /// The agent drains: what it wrote into pods stays as its successor has made it. eBPF programs need no telling.
    pub fn retire(&self) {
        if let Self::Nftables(nft) = self {
            nft.retire();
        }
    }

    /// Tells where the kubelet is now; with rules it is known by its address.
    pub fn set_kubelet(&self, group: Option<&Path>) -> Result<(), Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.set_kubelet(group),
            Self::Nftables(_) => Ok(()),
        }
    }

    /// Tells that the agent is alive. To be called well within `heartbeat_dead_ms`.
    pub fn heartbeat(&self) -> Result<(), Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.heartbeat(),
            Self::Nftables(nft) => {
                nft.heartbeat();
                Ok(())
            }
        }
    }

    /// Writes rows. Under nftables only those of `tunnel_speakers` are kept; nobody reads the others, and that is no error.
    pub fn map_put(&self, map: &str, rows: &[Row]) -> Result<usize, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.map_put(map, rows),
            Self::Nftables(nft) => Ok(nft.map_put(map, rows)),
        }
    }

    /// Deletes rows; absent ones are not counted and no error.
    pub fn map_delete(&self, map: &str, keys: &[Vec<u8>]) -> Result<usize, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.map_delete(map, keys),
            Self::Nftables(nft) => Ok(nft.map_delete(map, keys)),
        }
    }

    pub fn map_dump(&self, map: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.map_dump(map, limit),
            Self::Nftables(_) => Ok(Vec::new()),
        }
    }

    /// Everything that the programs count, by name; empty under nftables, whose counters are in each pod's table.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.counters(),
            Self::Nftables(_) => Ok(Vec::new()),
        }
    }

    /// Programs of others at our hooks, now; without programs of ours there is no such order.
    pub fn foreign_programs(&self) -> Result<Vec<ForeignProgram>, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.foreign_programs(),
            Self::Nftables(_) => Ok(Vec::new()),
        }
    }

    /// Takes a pod into the mesh, or changes it in place if it is in already.
    pub fn enrol(&self, request: EnrolRequest) -> Result<Enrolled, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.enrol(request),
            Self::Nftables(nft) => nft.enrol(request),
        }
    }

    /// Puts a pod back as it was: new connections are left alone at once, open ones have `drain_ms`, then the rest goes.
    pub fn unenrol(&self, key: &str, drain_ms: u64) -> Result<(), Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.unenrol(key, drain_ms),
            Self::Nftables(nft) => nft.unenrol(key, drain_ms),
        }
    }

    /// How many connections in a pod's namespace have bytes under way; 0 for one that is not enrolled.
    pub fn busy_sockets(&self, key: &str) -> Result<usize, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.busy_sockets(key),
            Self::Nftables(nft) => nft.busy_sockets(key),
        }
    }

    /// The pod has ended: closes every socket of its namespace and forgets it; returns how many were closed.
    pub fn pod_gone(&self, key: &str) -> Result<usize, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.pod_gone(key),
            Self::Nftables(nft) => nft.pod_gone(key),
        }
    }

    /// Ends the given connections of a pod, seen from it: the local end is `source` or `destination`. Port 0 means any port.
    pub fn destroy_sockets(&self, key: &str, tuples: &[Tuple]) -> Result<usize, Fault> {
        match self {
            Self::Ebpf(bpf) => bpf.destroy_sockets(key, tuples),
            Self::Nftables(nft) => nft.destroy_sockets(key, tuples),
        }
    }

    /// The enrolled pods.
    pub fn pods(&self) -> Vec<Arc<dyn PodSockets>> {
        match self {
            Self::Ebpf(bpf) => bpf.pods(),
            Self::Nftables(nft) => nft.pods(),
        }
    }
}
