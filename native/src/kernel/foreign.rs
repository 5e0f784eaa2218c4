//! Programs of others on the way of connections (rule DP-13): which are attached, at which level, before or after ours.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::Link;
use libbpf_rs::libbpf_sys as raw;
use libbpf_rs::query::ProgInfoIter;

use super::config::ForeignProgram;
use crate::fault::Fault;
use crate::sys;

const HOOKS: [(&str, u32); 5] = [
    ("connect4", raw::BPF_CGROUP_INET4_CONNECT),
    ("connect6", raw::BPF_CGROUP_INET6_CONNECT),
    ("getpeername4", raw::BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", raw::BPF_CGROUP_INET6_GETPEERNAME),
    ("sock_ops", raw::BPF_CGROUP_SOCK_OPS),
];

/// Ids of the programs behind our pinned links.
fn own_ids(pin_dir: &Path) -> HashSet<u32> {
    let entries = std::fs::read_dir(pin_dir.join("links")).into_iter().flatten().flatten();
    entries.filter_map(|e| Link::open(e.path()).ok()?.info().ok()).map(|info| info.prog_id).collect()
}

/// Every program that is not ours at our hooks, from the root of cgroup2 down to the attach point. Outer levels run after
/// inner ones, so what is found above ours may rewrite what ours decided.
pub fn programs(cgroup: &Path, pin_dir: &Path) -> Result<Vec<ForeignProgram>, Fault> {
    let own = own_ids(pin_dir);
    let mut found = Vec::new();
    let mut seen: Vec<(u32, String)> = Vec::new();
    for level in cgroup.ancestors().take_while(|p| p.join("cgroup.procs").exists()) {
        let file = File::open(level).map_err(|e| Fault::os("no_cgroup", level.display(), &e))?;
        for (hook, attach_type) in HOOKS {
            let ids = sys::query_programs(file.as_fd(), attach_type)
                .map_err(|e| Fault::os("query_failed", format!("programs of {} at {}", hook, level.display()), &e))?;
            let ours_at = ids.iter().position(|id| own.contains(id));
            for (position, id) in ids.iter().enumerate().filter(|(_, id)| !own.contains(id)) {
                if seen.is_empty() {
                    seen = ProgInfoIter::default().map(|p| (p.id, p.name.to_string_lossy().into_owned())).collect();
                }
                let name = seen.iter().find(|(known, _)| known == id).map_or_else(String::new, |(_, name)| name.clone());
                found.push(ForeignProgram { cgroup: level.to_path_buf(), hook, id: *id, name, position, ours_at });
            }
        }
    }
    Ok(found)
}
