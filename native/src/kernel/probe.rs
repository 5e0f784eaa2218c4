//! What this machine offers, found by trying rather than by version: `host.probe`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use libbpf_rs::{MapType, ProgramType};
use serde::Serialize;

use crate::sys;

/// One ability and, if it is missing, why.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Ability {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Ability {
    fn from(result: Result<(), String>) -> Self {
        Self { ok: result.is_ok(), reason: result.err() }
    }
}

/// What `host.probe` answers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostReport {
    pub kernel: String,
    /// Mount point of cgroup2, empty if there is none.
    pub cgroup2: String,
    pub bpf: Ability,
    pub nft: Ability,
    /// Capabilities that the agent uses: those it has and those it lacks.
    pub capabilities: Vec<&'static str>,
    pub missing: Vec<&'static str>,
    pub io_uring: bool,
}

/// Capability, its bit (linux/capability.h).
const CAPABILITIES: [(&str, u32); 4] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// Oldest kernel on which everything is there: netns cookies in sockops (5.15), bpf_set_retval (5.18), link update.
const MINIMUM: (u32, u32) = (5, 18);

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).unwrap_or(0)
}

/// Those of the named capabilities that this process lacks.
pub fn missing_of(names: &[&str]) -> Vec<&'static str> {
    let effective = effective_capabilities();
    let lacks = |(name, bit): &&(&'static str, u32)| names.contains(name) && effective >> bit & 1 == 0;
    CAPABILITIES.iter().filter(lacks).map(|(name, _)| *name).collect()
}

/// Mount point of cgroup2 from the mount table.
pub fn cgroup2_mount() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let found = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    found.split(' ').nth(1).map(String::from)
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn bpf(release: &str, cgroup2: &str, missing: &[&str]) -> Result<(), String> {
    if !missing.is_empty() {
        return Err(format!("the agent lacks {}; grant it in the container's securityContext", missing.join(", ")));
    }
    if cgroup2.is_empty() {
        return Err("no cgroup2 is mounted; mount it at /sys/fs/cgroup, or /sys/fs/cgroup/unified beside cgroup v1".into());
    }
    if version_of(release).is_some_and(|version| version < MINIMUM) {
        return Err(format!("kernel {release} is older than {}.{}", MINIMUM.0, MINIMUM.1));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel has no type information (CONFIG_DEBUG_INFO_BTF)".into());
    }
    for (name, kind) in [("cgroup/connect", ProgramType::CgroupSockAddr), ("sockops", ProgramType::SockOps), ("sk_lookup", ProgramType::SkLookup)] {
        match kind.is_supported() {
            Ok(true) => (),
            Ok(false) => return Err(format!("the kernel has no {name} programs")),
            Err(e) => return Err(format!("the kernel refuses to tell about {name} programs: {e}")),
        }
    }
    for (name, kind) in [("socket storage", MapType::SkStorage), ("socket hash", MapType::Sockhash)] {
        if !kind.is_supported().unwrap_or(false) {
            return Err(format!("the kernel has no {name} maps"));
        }
    }
    Ok(())
}

fn nft() -> Result<(), String> {
    let output = Command::new("nft").arg("list").arg("tables").stdin(Stdio::null()).output();
    match output {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("nft fails: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(e) => Err(format!("nft cannot be run ({e}); install nftables")),
    }
}

/// Looks at everything once.
pub fn host_report() -> HostReport {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string();
    let cgroup2 = cgroup2_mount().unwrap_or_default();
    let effective = effective_capabilities();
    let (has, lacks): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(_, bit)| effective >> bit & 1 == 1);
    let names = |list: Vec<(&'static str, u32)>| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let missing = names(lacks);
    HostReport {
        bpf: Ability::from(bpf(&kernel, &cgroup2, &missing)),
        nft: Ability::from(nft()),
        capabilities: names(has),
        missing,
        io_uring: sys::has_io_uring(),
        kernel,
        cgroup2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named_first() {
        assert!(bpf("6.1.0", "", &["CAP_BPF"]).unwrap_err().contains("CAP_BPF"));
        assert!(bpf("6.1.0", "", &[]).unwrap_err().contains("cgroup2"));
        assert!(bpf("5.4.0-42-generic", "/sys/fs/cgroup", &[]).unwrap_err().contains("5.18"));
    }
}
