//! The kernel side: programs loaded and replaced, pods enrolled, maps read and written. The one object behind all `host.*`,
//! `programs.*`, `map.*`, `pod.*` and `sockets.*` calls of the channel. Thread-safe.

mod addr;
mod choice;
mod config;
mod conntrack;
mod copies;
mod diag;
mod enrol;
mod events;
mod foreign;
#[rustfmt::skip]
#[path = "layout.gen.rs"]
pub mod layout;
mod link;
mod load;
mod maps;
mod netlink;
pub mod netns;
mod nft;
mod pod;
mod ports;
mod probe;
mod routes;
mod stock;
mod sweep;
mod watched;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub use addr::{from_bytes, socket_addr, to_bytes};
pub use choice::Kernel;
pub use config::{EnrolRequest, Enrolled, Exclusions, Existing, ForeignProgram, KernelConfig, LoadReport, Tuple};
pub use events::{EventSink, KernelEvent};
pub use maps::Row;
pub use probe::{Ability, HostReport, cgroup2_mount};

use libbpf_rs::Object;

use crate::fault::Fault;
use crate::seam::{PodRegistry, PodSockets};
use crate::sys;
use events::KernelThread;
use layout::setting;
use load::Loader;
use maps::Maps;
use pod::Pod;

/// A pod that is enrolled by this agent.
struct Member {
    pod: Arc<Pod>,
    request: EnrolRequest,
    /// Being unenrolled: everything of it goes at this time.
    leaves_at: Option<Instant>,
}

/// Programs that are loaded and not attached yet.
struct Change {
    objects: Vec<Object>,
    cgroup: File,
    /// Pods of the version before that are not enrolled in this one's maps yet.
    waits_for: HashSet<u64>,
    deadline: Instant,
}

/// How long the programs of the version before go on at most: a pod that cannot be enrolled must not hold the rest up.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// What the kernel thread shares with the facade.
pub struct Inner {
    config: KernelConfig,
    loader: Loader,
    maps: Arc<Maps>,
    registry: Arc<dyn PodRegistry>,
    members: Mutex<HashMap<String, Member>>,
    change: Mutex<Option<Change>>,
    /// Pods (cookies) that an agent with maps of another version had in the mesh.
    meshed_before: HashSet<u64>,
}

/// The eBPF way of [`Kernel`]. Dropping it leaves programs and pins in place: they outlive the agent on purpose.
pub struct Bpf {
    inner: Arc<Inner>,
    _thread: KernelThread,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves the table whole: every change is one insertion or removal.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Bpf {
    /// Whether programs of this or an earlier agent are attached.
    fn is_attached(config: &KernelConfig) -> bool {
        Loader::new(config).active_version().is_some()
    }

    /// Takes away what programs and pins there are: the rules of nftables do their work from now on.
    fn abandon(config: &KernelConfig) -> Result<(), Fault> {
        Loader::new(config).unload()
    }

    /// Loads, pins and attaches the programs, or replaces those of an agent before in place. Pods are told to `registry`,
    /// events to `sink`.
    pub fn load(config: KernelConfig, registry: Arc<dyn PodRegistry>, sink: EventSink) -> Result<(Self, LoadReport), Fault> {
        if let Some(reason) = probe::host_report().bpf.reason {
            return Err(Fault::new("no_bpf", reason));
        }
        let loader = Loader::new(&config);
        loader.prepare()?;
        let cgroup = load::open_cgroup(&config.cgroup)?;
        let objects = loader.load_cgroup_programs()?;
        let maps = Arc::new(Maps::open(&config.pin_dir)?);
        maps.set(setting::HEARTBEAT_NS, sys::monotonic_ns())?;
        maps.set(setting::HEARTBEAT_DEAD_NS, config.heartbeat_dead_ms * 1_000_000)?;
        let (first, last) = config.app_ports;
        maps.set(setting::APP_PORTS, u64::from(first) << 16 | u64::from(last))?;
        set_kubelet(&maps, &config.cgroup, config.kubelet_cgroup.as_deref())?;
        // Programs of another version go on until the pods are in this version's maps: swapped at once, they would find
        // nobody enrolled and let everything pass.
        let active = loader.active_version();
        let waits_for = active.as_ref().filter(|v| *v != layout::VERSION).map(|v| loader.pods_of(v)).unwrap_or_default();
        let meshed_before = waits_for.clone();
        let change = Change { objects, cgroup, waits_for, deadline: Instant::now() + CHANGE_LIMIT };
        let (members, change) = (Mutex::default(), Mutex::new(Some(change)));
        let inner = Arc::new(Inner { config, loader, maps: maps.clone(), registry, members, change, meshed_before });
        inner.activate_if_due()?;
        let replaced = active.is_some();
        let thread = KernelThread::start(Arc::downgrade(&inner), maps, sink)?;
        let report =
            LoadReport { version: layout::VERSION.into(), replaced, interception: "ebpf".into(), reason: "the kernel has all that it needs".into() };
        Ok((Self { inner, _thread: thread }, report))
    }

    /// Removes every program and pin (uninstall); enrolled pods are put back as they were.
    pub fn unload(&self) -> Result<(), Fault> {
        let keys: Vec<String> = locked(&self.inner.members).keys().cloned().collect();
        for key in keys {
            self.unenrol(&key, 0)?;
        }
        self.inner.loader.unload()
    }

    /// Tells the programs that the agent is alive. To be called well within `heartbeat_dead_ms`.
    pub fn heartbeat(&self) -> Result<(), Fault> {
        self.inner.maps.set(setting::HEARTBEAT_NS, sys::monotonic_ns())
    }

    /// The kubelet is in this group from now on: a service that is started again gets a new one. None: nobody's probes are let in.
    pub fn set_kubelet(&self, group: Option<&Path>) -> Result<(), Fault> {
        set_kubelet(&self.inner.maps, &self.inner.config.cgroup, group)
    }

    pub fn map_put(&self, map: &str, rows: &[Row]) -> Result<usize, Fault> {
        for (key, value) in rows {
            self.inner.maps.put(map, key, value)?;
        }
        Ok(rows.len())
    }

    /// Deletes rows; absent ones are not counted and no error.
    pub fn map_delete(&self, map: &str, keys: &[Vec<u8>]) -> Result<usize, Fault> {
        let mut count = 0;
        for key in keys {
            count += usize::from(self.inner.maps.delete(map, key)?);
        }
        Ok(count)
    }

    pub fn map_dump(&self, map: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        self.inner.maps.dump(map, limit)
    }

    /// Everything that the programs count, by name.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Fault> {
        self.inner.maps.counters()
    }

    /// Programs of others at our hooks, now.
    pub fn foreign_programs(&self) -> Result<Vec<ForeignProgram>, Fault> {
        foreign::programs(&self.inner.config.cgroup, &self.inner.config.pin_dir)
    }

    /// Takes a pod into the mesh, or changes it in place if it is in already.
    pub fn enrol(&self, request: EnrolRequest) -> Result<Enrolled, Fault> {
        let inner = &self.inner;
        let found = enrol::identify(&request)?;
        let cookie = found.1;
        let mut members = locked(&inner.members);
        if let Some(member) = members.get_mut(&request.pod).filter(|m| m.pod.cookie == cookie) {
            let stays = !request.take && enrol::is_anothers(&inner.maps, &member.request, cookie)?;
            if stays || member.leaves_at.is_none() {
                let mut enrolled = enrol::change(&inner.maps, &member.pod, &request, &member.request, stays)?;
                member.request = request;
                enrolled.unguarded = inner.guard(&member.pod, &member.request);
                return Ok(enrolled);
            }
        }
        // Back while it was leaving: what it has open goes on, so routes and rows stay. Else the pod was made anew before anybody told of
        // its end.
        let (back, gone) = match members.remove(&request.pod) {
            Some(old) if old.pod.cookie == cookie => (Some(old), None),
            other => (None, other),
        };
        if let Some(gone) = gone {
            inner.let_go(&gone, false, 0)?;
        }
        let node = enrol::Node { maps: &inner.maps, loader: &inner.loader, meshed_before: &inner.meshed_before, config: &inner.config };
        let serve = |pod: &Arc<Pod>| inner.registry.enrolled(pod.clone());
        let was = back.as_ref().map(|old| (&*old.pod, &old.request));
        match enrol::enrol(&node, &request, found, was, serve) {
            Ok((pod, mut enrolled)) => {
                enrolled.unguarded = inner.guard(&pod, &request);
                members.insert(request.pod.clone(), Member { pod, request, leaves_at: None });
                drop(members);
                inner.activate_if_due()?;
                Ok(enrolled)
            }
            Err(fault) => {
                inner.registry.unenrolled(&request.pod, 0);
                if let Some(old) = back {
                    members.insert(request.pod, old);
                }
                Err(fault)
            }
        }
    }

    /// Puts a pod back as it was: new connections are left alone at once, open ones have `drain_ms`, then the rest goes.
    pub fn unenrol(&self, key: &str, drain_ms: u64) -> Result<(), Fault> {
        let inner = &self.inner;
        let mut members = locked(&inner.members);
        let Some(member) = members.get_mut(key) else { return Ok(()) };
        if drain_ms > 0 {
            if !enrol::is_anothers(&inner.maps, &member.request, member.pod.cookie)? {
                enrol::suspend(&inner.maps, &member.request, member.pod.cookie)?;
            }
            member.leaves_at = Some(Instant::now() + Duration::from_millis(drain_ms));
            inner.registry.unenrolled(key, drain_ms);
            return Ok(());
        }
        match members.remove(key) {
            Some(member) => inner.let_go(&member, true, 0),
            None => Ok(()),
        }
    }

    /// How many connections in a pod's namespace have bytes under way; 0 for one that is not enrolled.
    pub fn busy_sockets(&self, key: &str) -> Result<usize, Fault> {
        let pod = locked(&self.inner.members).get(key).map(|member| member.pod.clone());
        pod.map_or(Ok(0), |pod| diag::count_busy(pod.namespace.as_fd()).map_err(|e| Fault::os("sockets_unread", key, &e)))
    }

    /// The pod has ended: closes every socket of its namespace and forgets it; returns how many were closed.
    pub fn pod_gone(&self, key: &str) -> Result<usize, Fault> {
        let member = locked(&self.inner.members).remove(key);
        member.map_or(Ok(0), |member| self.inner.end(&member))
    }

    /// Ends the given connections of a pod, seen from it: the local end is `source` or `destination`. Port 0 means any port.
    pub fn destroy_sockets(&self, key: &str, tuples: &[Tuple]) -> Result<usize, Fault> {
        let pod = locked(&self.inner.members).get(key).map(|member| member.pod.clone());
        let pod = pod.ok_or_else(|| Fault::new("unknown_pod", format!("pod {key} is not enrolled")))?;
        diag::destroy_matching(pod.namespace.as_fd(), tuples).map_err(|e| Fault::os("destroy_failed", key, &e))
    }

    /// The enrolled pods.
    pub fn pods(&self) -> Vec<Arc<dyn PodSockets>> {
        locked(&self.inner.members).values().map(|m| m.pod.clone() as Arc<dyn PodSockets>).collect()
    }
}

fn set_kubelet(maps: &Maps, root: &Path, group: Option<&Path>) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt;
    let Some(path) = group else {
        return maps.set(setting::KUBELET_CGROUP, 0);
    };
    let inside = path.starts_with(root);
    let metadata = std::fs::metadata(path).map_err(|e| Fault::os("bad_kubelet_cgroup", path.display(), &e))?;
    if !inside {
        let text = format!("{} is not below {}, so its connections are not seen", path.display(), root.display());
        return Err(Fault::new("bad_kubelet_cgroup", text));
    }
    let levels = path.ancestors().take_while(|p| p.join("cgroup.procs").exists()).count();
    // The root itself is level 0; the id of a cgroup2 folder is its inode number.
    maps.set(setting::KUBELET_LEVEL, levels.saturating_sub(1) as u64)?;
    maps.set(setting::KUBELET_CGROUP, metadata.ino())
}

impl Inner {
    /// Attaches the loaded programs once every pod of the version before is in the new maps, or after a time.
    fn activate_if_due(&self) -> Result<(), Fault> {
        let mut change = locked(&self.change);
        let known: HashSet<u64> = locked(&self.members).values().map(|m| m.pod.cookie).collect();
        let due = |c: &mut Change| c.waits_for.is_subset(&known) || c.deadline <= Instant::now();
        let Some(ready) = change.take_if(due) else { return Ok(()) };
        self.loader.attach_bypass()?;
        self.loader.attach(&ready.objects, ready.cgroup.as_fd())?;
        self.loader.set_active()?;
        // Until now the programs before counted listeners, in maps of their own.
        if !ready.waits_for.is_empty() {
            for pod in self.pods_by_cookie(&known) {
                enrol::seed_listening(&self.maps, pod.namespace.as_fd(), pod.cookie)?;
            }
        }
        Ok(())
    }

    /// Puts the guard at the node's ends of the pod's links; else says why the pod has none. Enrolment does not depend on it.
    fn guard(&self, pod: &Pod, request: &EnrolRequest) -> String {
        if !self.config.anti_spoofing {
            return self.loader.detach_guard(pod.cookie).err().map_or_else(String::new, |fault| fault.message);
        }
        let own = |ipv6: bool| request.ips.iter().find(|ip| ip.is_ipv6() == ipv6).map_or([0; 16], |ip| to_bytes(*ip));
        let row = layout::GuardPod { cookie: pod.cookie, ip4: own(false), ip6: own(true) };
        let placed = link::node_side(pod.namespace.as_fd())
            .map_err(|e| Fault::os("guard_failed", "list the node's links", &e))
            .and_then(|links| links.iter().try_for_each(|link| self.loader.attach_guard(&row, *link)).map(|()| links.len()));
        match placed {
            Ok(0) => "none of its links ends at the node".into(),
            Ok(_) => String::new(),
            Err(fault) => fault.message,
        }
    }

    fn pods_by_cookie(&self, cookies: &HashSet<u64>) -> Vec<Arc<Pod>> {
        locked(&self.members).values().map(|m| &m.pod).filter(|p| cookies.contains(&p.cookie)).cloned().collect()
    }

    fn let_go(&self, member: &Member, restore: bool, drain_ms: u64) -> Result<(), Fault> {
        self.registry.unenrolled(&member.pod.key, drain_ms);
        enrol::remove(&self.maps, &self.loader, &member.pod, &member.request, restore)
    }

    fn end(&self, member: &Member) -> Result<usize, Fault> {
        self.registry.unenrolled(&member.pod.key, 0);
        let namespace = member.pod.namespace.as_fd();
        let failed = |e| Fault::os("destroy_failed", &member.pod.key, &e);
        let sockets = diag::list(namespace, diag::STATES_CONNECTED | diag::STATES_LISTEN).map_err(failed)?;
        let count = diag::destroy(namespace, &sockets).map_err(failed)?;
        enrol::remove(&self.maps, &self.loader, &member.pod, &member.request, false)?;
        Ok(count)
    }

    /// Lets go of pods whose drain is over, one at a time: a pod that is enrolled anew meanwhile comes before or after, never between.
    fn finish_leaving(&self, sink: &EventSink) {
        let now = Instant::now();
        let over = |m: &Member| m.leaves_at.is_some_and(|at| at <= now);
        loop {
            let mut members = locked(&self.members);
            let Some(key) = members.iter().find(|(_, m)| over(m)).map(|(key, _)| key.clone()) else { return };
            let done = members.remove(&key).map_or(Ok(()), |member| {
                match enrol::has_successor(&self.maps, &self.loader, &member.request, member.pod.cookie)? {
                    true => {
                        self.registry.unenrolled(&key, 0);
                        Ok(())
                    }
                    false => self.let_go(&member, true, 0),
                }
            });
            drop(members);
            if let Err(fault) = done {
                sink(KernelEvent::Failed(fault));
            }
        }
    }

    /// Ends pods whose namespace has lost its name: the runtime deleted them and nobody told.
    fn find_vanished(&self, sink: &EventSink) {
        let gone: Vec<String> = {
            let members = locked(&self.members);
            let vanished = members.values().filter(|m| !m.request.netns.exists());
            vanished.map(|m| m.pod.key.clone()).collect()
        };
        for key in gone {
            let mut members = locked(&self.members);
            // Its successor may have its name by now.
            if members.get(&key).is_none_or(|m| m.request.netns.exists()) {
                continue;
            }
            let done = members.remove(&key).map_or(Ok(0), |member| self.end(&member));
            drop(members);
            if let Err(fault) = done {
                sink(KernelEvent::Failed(fault));
            }
            sink(KernelEvent::Vanished { pod: key });
        }
    }
}
