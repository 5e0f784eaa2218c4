//! Interception without eBPF: nftables (or iptables) rules inside each pod's namespace. The same calls as the eBPF side;
//! there is no direct lane, no map and no program, and the kubelet is known by its address only.

mod apply;
mod node;
mod pod;
mod rules;
mod upkeep;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::apply::Tool;
use self::pod::{NftPod, Plan};
pub use self::rules::OWN_MARK;
use self::rules::Rules;
use self::upkeep::{Leaving, Speakers};
use super::Row;
use super::config::{EnrolRequest, Enrolled, Existing, KernelConfig, LoadReport, Tuple};
use super::events::{EventSink, KernelEvent};
use super::load::Loader;
use super::{diag, enrol, locked, probe, routes, watched};
use crate::fault::Fault;
use crate::seam::{PodRegistry, PodSockets};

struct Member {
    pod: Arc<NftPod>,
    request: EnrolRequest,
    /// Being unenrolled: everything of it goes at this time.
    leaves_at: Option<Instant>,
    /// What its table holds of those who speak a tunnel.
    speakers: Speakers,
    /// Ports that were told of.
    ports: BTreeSet<u16>,
}

struct Inner {
    config: KernelConfig,
    tool: Tool,
    /// The node's own addresses, whence the kubelet probes.
    probers: Mutex<Vec<IpAddr>>,
    speakers: Mutex<Speakers>,
    programs: Mutex<Option<Leaving>>,
    registry: Arc<dyn PodRegistry>,
    members: Mutex<HashMap<String, Member>>,
    last_beat: Mutex<Instant>,
    /// A successor's rules are in the pods: ours, with listeners that are about to close, must not come back.
    retired: AtomicBool,
}

/// The node's pods under nftables. Dropping it leaves the rules in place: they refuse or pass until an agent is back.
pub struct Nft {
    inner: Arc<Inner>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Said of every pod: the guard is an eBPF program.
const NO_GUARD: &str = "without eBPF there is no guard against forged addresses";

const TICK: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(5);

fn os<'a>(what: &'a str, pod: &'a str) -> impl Fn(std::io::Error) -> Fault + 'a {
    move |error| Fault::os("enrol_failed", format!("{pod}: {what}"), &error)
}

impl Nft {
    /// Finds the program to write rules with; `reason` says why it is not eBPF.
    pub fn load(config: KernelConfig, registry: Arc<dyn PodRegistry>, sink: EventSink, reason: &str) -> Result<(Self, LoadReport), Fault> {
        let lacks = probe::missing_of(&["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        if !lacks.is_empty() {
            let text = format!("{reason}; nftables needs {} too: grant it to the agent", lacks.join(", "));
            return Err(Fault::new("no_interception", text));
        }
        let tool = Tool::find().map_err(|e| Fault::new("no_interception", format!("{reason}; {e}")))?;
        let loader = Loader::new(&config);
        let inner = Arc::new(Inner {
            config,
            tool,
            probers: Mutex::new(node::own_addresses()),
            speakers: Mutex::default(),
            programs: Mutex::new(Leaving::found(loader)),
            registry,
            members: Mutex::default(),
            last_beat: Mutex::new(Instant::now()),
            retired: AtomicBool::new(false),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, stopped) = (Arc::downgrade(&inner), stop.clone());
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || watched::run(&sink, || watch(&watched, &sink, &stopped)))
            .map_err(|e| Fault::os("start_failed", "start the kernel thread", &e))?;
        let report = LoadReport {
            version: super::layout::VERSION.into(),
            replaced: false,
            interception: "nftables".into(),
            reason: format!("{reason}; rules are written with {}", tool.name()),
        };
        Ok((Self { inner, stop, thread: Some(thread) }, report))
    }

    /// Puts every pod back as it was.
    pub fn unload(&self) -> Result<(), Fault> {
        let keys: Vec<String> = locked(&self.inner.members).keys().cloned().collect();
        keys.iter().try_for_each(|key| self.unenrol(key, 0))
    }

    /// A sign of life of the agent's control thread, handed on to pods that fail open.
    pub fn heartbeat(&self) {
        *locked(&self.inner.last_beat) = Instant::now();
    }

    /// The agent drains: from now on the rules are its successor's.
    pub fn retire(&self) {
        self.inner.retired.store(true, Ordering::Release);
    }

    pub fn map_put(&self, map: &str, rows: &[Row]) -> usize {
        self.inner.add_speakers(map, rows)
    }

    pub fn map_delete(&self, map: &str, keys: &[Vec<u8>]) -> usize {
        self.inner.remove_speakers(map, keys)
    }

    /// See [`super::Kernel::enrol`].
    pub fn enrol(&self, request: EnrolRequest) -> Result<Enrolled, Fault> {
        let inner = &self.inner;
        let started = Instant::now();
        let (namespace, cookie, ipv6) = enrol::identify(&request)?;
        let mut members = locked(&inner.members);
        if let Some(member) = members.get_mut(&request.pod).filter(|m| m.pod.cookie() == cookie && m.leaves_at.is_none()) {
            if request.take {
                member.speakers = inner.install(&member.pod, &request)?;
            } else {
                inner.rewrite(member, &request)?;
            }
            member.request = request;
            let listening = listening(&member.pod)?;
            return Ok(Enrolled { cookie, listening, existing: Vec::new(), ms: started.elapsed().as_millis() as u64, unguarded: NO_GUARD.into() });
        }
        // Back while it was leaving: what it has open goes on, so its routes stay. Else the same name in another namespace.
        let (back, gone) = match members.remove(&request.pod) {
            Some(old) if old.pod.cookie() == cookie => (Some(old), None),
            other => (None, other),
        };
        if let Some(gone) = gone {
            inner.let_go(&gone.pod, false)?;
        }
        let plan = Plan {
            key: request.pod.clone(),
            cookie,
            ips: request.ips.clone(),
            ipv6,
            app_ports: inner.config.app_ports,
            tunnel_ports: inner.config.tunnel_ports,
        };
        let known = inner.tool.present(namespace.as_fd());
        let mut pod = NftPod::open(plan, namespace).map_err(os("open listeners", &request.pod))?;
        let known = back.is_none() && (known || pod.sysctls_before.enrolled);
        if let Some(old) = &back {
            pod.sysctls_before = old.pod.sysctls_before.clone();
        }
        let pod = Arc::new(pod);
        // Served before it is steered to: whatever comes finds somebody who accepts.
        inner.registry.enrolled(pod.clone());
        let done = inner.install(&pod, &request).and_then(|speakers| {
            let existing = if known { Vec::new() } else { inner.existing(&pod, &request)? };
            Ok((listening(&pod)?, existing, speakers))
        });
        match done {
            Ok((listening, existing, speakers)) => {
                let ports = listening.iter().copied().collect();
                members.insert(request.pod.clone(), Member { pod, request, leaves_at: None, speakers, ports });
                inner.finish_programs(&members.values().map(|m| m.pod.cookie()).collect())?;
                Ok(Enrolled { cookie, listening, existing, ms: started.elapsed().as_millis() as u64, unguarded: NO_GUARD.into() })
            }
            Err(fault) => {
                // Rules of an agent before stay: without a listener they refuse or pass as they were told.
                let _ = inner.let_go(&pod, !known && back.is_none());
                if let Some(old) = back {
                    members.insert(old.pod.key().to_owned(), old);
                }
                Err(fault)
            }
        }
    }

    /// See [`super::Kernel::unenrol`].
    pub fn unenrol(&self, key: &str, drain_ms: u64) -> Result<(), Fault> {
        let mut members = locked(&self.inner.members);
        let Some(member) = members.get_mut(key) else { return Ok(()) };
        if drain_ms == 0 {
            return members.remove(key).map_or(Ok(()), |member| self.inner.let_go(&member.pod, true));
        }
        let pod = &member.pod;
        self.inner.tool.suspend_own(pod.namespace.as_fd(), pod.ipv6, pod.v4).map_err(os("suspend the rules", key))?;
        member.leaves_at = Some(Instant::now() + Duration::from_millis(drain_ms));
        self.inner.registry.unenrolled(key, drain_ms);
        Ok(())
    }

    /// See [`super::Kernel::busy_sockets`].
    pub fn busy_sockets(&self, key: &str) -> Result<usize, Fault> {
        let pod = locked(&self.inner.members).get(key).map(|member| member.pod.clone());
        pod.map_or(Ok(0), |pod| diag::count_busy(pod.namespace.as_fd()).map_err(|e| Fault::os("sockets_unread", key, &e)))
    }

    /// See [`super::Kernel::pod_gone`].
    pub fn pod_gone(&self, key: &str) -> Result<usize, Fault> {
        let member = locked(&self.inner.members).remove(key);
        member.map_or(Ok(0), |member| self.inner.end(&member))
    }

    /// See [`super::Kernel::destroy_sockets`].
    pub fn destroy_sockets(&self, key: &str, tuples: &[Tuple]) -> Result<usize, Fault> {
        let pod = locked(&self.inner.members).get(key).map(|member| member.pod.clone());
        let pod = pod.ok_or_else(|| Fault::new("unknown_pod", format!("pod {key} is not enrolled")))?;
        diag::destroy_matching(pod.namespace.as_fd(), tuples).map_err(|e| Fault::os("destroy_failed", key, &e))
    }

    pub fn pods(&self) -> Vec<Arc<dyn PodSockets>> {
        locked(&self.inner.members).values().map(|m| m.pod.clone() as Arc<dyn PodSockets>).collect()
    }
}

impl Drop for Nft {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take().filter(|t| t.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Rules of an agent before take nothing more; the eBPF programs do. Its open connections go on.
pub fn leave(namespace: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    Tool::there(namespace).map_or(Ok(()), |tool| tool.suspend(namespace, ipv6, None))
}

/// Removes what [`leave`] left.
pub fn clear(namespace: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    Tool::there(namespace).map_or(Ok(()), |tool| tool.remove(namespace, ipv6))
}

/// Ports on which something listens that is not the agent's own.
fn listening(pod: &NftPod) -> Result<Vec<u16>, Fault> {
    let sockets = diag::list(pod.namespace.as_fd(), diag::STATES_LISTEN).map_err(os("list listeners", pod.key()))?;
    let mut ports: Vec<u16> = sockets.iter().filter(|s| !s.local.ip().is_loopback()).map(|s| s.local.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

impl Inner {
    fn rules(&self, pod: &NftPod, request: &EnrolRequest) -> Result<(Rules, Speakers), Fault> {
        let speakers = locked(&self.speakers).clone();
        let mut rules = Rules::new(request, pod.v4, pod.v6, locked(&self.probers).clone(), self.alive_ms());
        rules.speakers.extend(speakers.iter());
        rules.check().map_err(|e| Fault::new("bad_request", format!("{}: exclude: {e}", request.pod)))?;
        Ok((rules, speakers))
    }

    /// Writes the rules of a pod that is new here; returns what they know of those who speak a tunnel.
    fn install(&self, pod: &NftPod, request: &EnrolRequest) -> Result<Speakers, Fault> {
        let (rules, speakers) = self.rules(pod, request)?;
        self.tool.install(pod.namespace.as_fd(), &rules).map_err(os("write the rules", &request.pod))?;
        Ok(speakers)
    }

    /// Writes the changed rules of a pod that is served here. A successor that enrolled it meanwhile has told the pod of its own
    /// listeners: ours are about to close, and nobody would write its rules again.
    fn rewrite(&self, member: &mut Member, request: &EnrolRequest) -> Result<(), Fault> {
        let (rules, speakers) = self.rules(&member.pod, request)?;
        if self.tool.rewrite(member.pod.namespace.as_fd(), &rules).map_err(os("write the rules", &request.pod))? {
            member.speakers = speakers;
        }
        Ok(())
    }

    /// 0 switches the liveness test off: then signs of life last a day and only a closed listener counts as dead.
    fn alive_ms(&self) -> u64 {
        if self.config.heartbeat_dead_ms == 0 { 86_400_000 } else { self.config.heartbeat_dead_ms }
    }

    fn existing(&self, pod: &NftPod, request: &EnrolRequest) -> Result<Vec<Existing>, Fault> {
        let sockets = enrol::foreign_connections(pod.namespace.as_fd(), &request.ips)?;
        let existing = sockets.iter().map(|s| Existing { local: s.local, remote: s.remote }).collect();
        if request.strict {
            let ended = diag::destroy(pod.namespace.as_fd(), &sockets);
            ended.map_err(os("end existing connections", &request.pod))?;
        }
        Ok(existing)
    }

    fn let_go(&self, pod: &NftPod, restore: bool) -> Result<(), Fault> {
        self.registry.unenrolled(pod.key(), 0);
        if !restore {
            return Ok(());
        }
        let removed = self.tool.remove_own(pod.namespace.as_fd(), pod.ipv6, pod.v4).map_err(os("remove the rules", pod.key()))?;
        if !removed {
            return Ok(());
        }
        routes::remove(pod.namespace.as_fd(), pod.ipv6, &pod.sysctls_before).map_err(os("undo policy routes", pod.key()))
    }

    fn end(&self, member: &Member) -> Result<usize, Fault> {
        self.registry.unenrolled(member.pod.key(), 0);
        let namespace = member.pod.namespace.as_fd();
        let failed = |e| Fault::os("destroy_failed", member.pod.key(), &e);
        let sockets = diag::list(namespace, diag::STATES_CONNECTED | diag::STATES_LISTEN).map_err(failed)?;
        diag::destroy(namespace, &sockets).map_err(failed)
    }

    /// Takes out what `wanted` names; the table is free again when the caller works on it.
    fn take(&self, wanted: impl Fn(&Member) -> bool) -> Vec<Member> {
        let mut members = locked(&self.members);
        let keys: Vec<String> = members.iter().filter(|(_, m)| wanted(m)).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| members.remove(key)).collect()
    }

    fn refresh(&self) -> Vec<Fault> {
        let open: Vec<Arc<NftPod>> = {
            let members = locked(&self.members);
            members.values().filter(|m| rules::fails_open(&m.request) && m.leaves_at.is_none()).map(|m| m.pod.clone()).collect()
        };
        let beat = |pod: &Arc<NftPod>| self.tool.alive(pod.namespace.as_fd(), self.alive_ms());
        open.iter().filter_map(|pod| beat(pod).map_err(os("tell that the agent lives", pod.key())).err()).collect()
    }
}

/// The kernel thread: signs of life, pods whose drain is over, pods that vanished.
fn watch(inner: &Weak<Inner>, sink: &EventSink, stop: &AtomicBool) {
    let (mut looked, mut told) = (Instant::now(), Instant::now());
    let failed = |faults: Vec<Fault>| faults.into_iter().for_each(|fault| sink(KernelEvent::Failed(fault)));
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        let Some(inner) = inner.upgrade() else { return };
        let now = Instant::now();
        let alive = Duration::from_millis(inner.alive_ms());
        let beats = inner.config.heartbeat_dead_ms == 0 || locked(&inner.last_beat).elapsed() < alive;
        if beats && told.elapsed() >= alive / 4 {
            told = now;
            failed(inner.refresh());
        }
        failed(inner.tell_speakers());
        failed(inner.finish_programs(&HashSet::new()).err().into_iter().collect());
        for member in inner.take(|m| m.leaves_at.is_some_and(|at| at <= now)) {
            if let Err(fault) = inner.let_go(&member.pod, true) {
                sink(KernelEvent::Failed(fault));
            }
        }
        if looked.elapsed() >= LOOK {
            looked = now;
            failed(inner.follow_addresses());
            failed(inner.follow_listeners(sink));
            for member in inner.take(|m| !m.request.netns.exists()) {
                if let Err(fault) = inner.end(&member) {
                    sink(KernelEvent::Failed(fault));
                }
                sink(KernelEvent::Vanished { pod: member.request.pod.clone() });
            }
        }
    }
}
