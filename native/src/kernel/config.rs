//! What the kernel side is told and tells: settings, enrolment, reports. All of it crosses the channel as JSON.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layout::pod_flag;

/// Settings of the kernel side.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Folder with the compiled objects.
    pub bpf_dir: PathBuf,
    /// Folder on a BPF file system (mounted there if it is none) for this node's maps and links.
    pub pin_dir: PathBuf,
    /// cgroup2 folder at which the programs are attached.
    pub cgroup: PathBuf,
    /// cgroup2 folder of the kubelet; its connections to probe ports pass.
    pub kubelet_cgroup: Option<PathBuf>,
    /// Whether pods are kept from sending under each other's addresses (needs Linux 6.6).
    pub anti_spoofing: bool,
    /// "auto", "ebpf" or "nftables".
    pub interception: String,
    /// First and last source port of sockets toward apps, and of tunnels.
    pub app_ports: (u16, u16),
    pub tunnel_ports: (u16, u16),
    /// Without a heartbeat for so long the agent counts as hung; 0 switches the test off.
    pub heartbeat_dead_ms: u64,
}

/// What `programs.load` answers.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LoadReport {
    /// Version of the map layouts and programs.
    pub version: String,
    /// True if running programs were replaced in place.
    pub replaced: bool,
    /// "ebpf" or "nftables".
    pub interception: String,
    /// Why it is that one.
    pub reason: String,
}

/// Ports and ranges that are left alone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Exclusions {
    pub outbound_ports: Vec<u16>,
    pub inbound_ports: Vec<u16>,
    pub outbound_cidrs: Vec<String>,
    pub inbound_cidrs: Vec<String>,
}

/// What `pod.enrol` asks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrolRequest {
    /// "namespace/name".
    pub pod: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    pub ips: Vec<IpAddr>,
    /// Number of the workload's identity in verdict rows.
    pub identity_number: u32,
    pub strict: bool,
    pub fail_open: bool,
    pub bypass: bool,
    pub probe_ports: Vec<u16>,
    /// Whether another agent that has enrolled it since loses it; else a change leaves the pod to that one.
    pub take: bool,
    pub exclude: Exclusions,
}

impl EnrolRequest {
    /// Bits of `pod_value.flags`.
    pub fn flags(&self) -> u32 {
        let excludes = self.exclude != Exclusions::default();
        [(self.strict, pod_flag::STRICT), (self.fail_open, pod_flag::FAIL_OPEN), (self.bypass, pod_flag::BYPASS), (excludes, pod_flag::EXCLUDES)]
            .iter()
            .filter(|(on, _)| *on)
            .fold(0, |flags, (_, bit)| flags | bit)
    }
}

/// A connection that was there before the pod was enrolled.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Existing {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What `pod.enrol` answers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Enrolled {
    pub cookie: u64,
    /// Ports that something listened on already, not counting loopback.
    pub listening: Vec<u16>,
    pub existing: Vec<Existing>,
    pub ms: u64,
    /// Why nothing keeps the pod from sending under the address of another (DP-7); empty: it is kept.
    pub unguarded: String,
}

/// One TCP connection as seen from its client.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// A program of somebody else on the way of connections (rule DP-13).
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ForeignProgram {
    pub cgroup: PathBuf,
    pub hook: &'static str,
    pub id: u32,
    pub name: String,
    /// Position at its level; ours, if any, is `ours_at`.
    pub position: usize,
    pub ours_at: Option<usize>,
}
