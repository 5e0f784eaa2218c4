//! The calls of `docs/native-channel.md` that concern identities, connections and life cycle; those of the kernel side are in
//! `kernel_calls.rs`. One call at a time.

use std::collections::HashMap;
use std::os::fd::{AsFd, IntoRawFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::hbone::agent::HboneSide;
use crate::kernel::Kernel;
use crate::reason::Reason;
use crate::relay::shared::{Message, Pod, Shared};
use crate::relay::threads;
use crate::seam::{PodRegistry, PodSockets};
use crate::sys;

/// Longest wait for the workers to answer a list or a reset.
const WORKER_WAIT: Duration = Duration::from_secs(2);

/// The enrolled pods as the workers know them, with the identities that the agent gave. Also takes pods from the kernel side.
pub struct Pods {
    shared: Arc<Shared>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u32,
    identities: HashMap<String, Arc<str>>,
    pods: HashMap<String, Arc<Pod>>,
}

impl Pods {
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, table: Mutex::default() })
    }

    /// Sets whose SVID the tunnels of a pod present; before or after the pod is enrolled.
    pub fn set_identity(&self, pod: &str, identity: &str) {
        let Ok(mut table) = self.table.lock() else { return };
        let identity: Arc<str> = identity.into();
        table.identities.insert(pod.to_owned(), identity.clone());
        if let Some(pod) = table.pods.get(pod)
            && let Ok(mut current) = pod.identity.write()
        {
            *current = Some(identity);
        }
    }

    /// Forgets the identity of a pod that will not come back.
    pub fn forget(&self, pod: &str) {
        if let Ok(mut table) = self.table.lock() {
            table.identities.remove(pod);
        }
    }

    /// Gives every enrolled pod to one worker, which starts with none.
    pub fn give_all(&self, worker: usize) {
        let Ok(table) = self.table.lock() else { return };
        for pod in table.pods.values() {
            self.shared.inboxes[worker].post(Message::Enrolled(pod.clone()));
        }
    }

    /// Name of the pod with a network namespace cookie.
    pub fn by_cookie(&self, cookie: u64) -> Option<String> {
        let table = self.table.lock().ok()?;
        table.pods.values().find(|p| p.sockets.cookie() == cookie).map(|p| p.name.to_string())
    }
}

impl PodRegistry for Pods {
    fn enrolled(&self, sockets: Arc<dyn PodSockets>) {
        let Ok(mut table) = self.table.lock() else { return };
        table.next += 1;
        let name = sockets.key().to_owned();
        let identity = RwLock::new(table.identities.get(&name).cloned());
        let pod = Arc::new(Pod { number: table.next, name: name.as_str().into(), sockets, identity });
        if let Some(side) = self.shared.hbone_running() {
            side.hbone.back(&name);
        }
        table.pods.insert(name, pod.clone());
        self.shared.broadcast(|| Message::Enrolled(pod.clone()));
    }

    fn unenrolled(&self, key: &str, drain_ms: u64) {
        if let Ok(mut table) = self.table.lock() {
            // The identity stays: the kernel side also lets go of a pod to take its successor of the same name.
            table.pods.remove(key);
            // Under the lock: a worker that takes another's place must not be given this pod afterwards.
            self.shared.broadcast(|| Message::Unenrolled { pod: key.to_owned(), drain_ms });
        }
        if let Some(side) = self.shared.hbone_running() {
            side.hbone.end_pod(key, Duration::from_millis(drain_ms), Reason::PodGone);
        }
    }
}

pub struct Calls {
    pub shared: Arc<Shared>,
    pub pods: Arc<Pods>,
    pub kernel: Option<Kernel>,
    /// When each worker was last woken to show that it lives, µs.
    asked_us: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SvidPut {
    identity: String,
    chain_pem: String,
    key_pem: String,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    not_after_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    trust_domain: String,
    roots_pem: Vec<String>,
}

#[derive(Deserialize)]
struct TrustPut {
    bundles: Vec<Bundle>,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    generation: u64,
}

#[derive(Deserialize)]
struct ResetParams {
    ids: Vec<u64>,
    #[serde(default)]
    reason: String,
}

/// Parameters of a call as a type; the error names call and field.
pub fn params<T: DeserializeOwned>(method: &str, value: &Value) -> Result<T, Fault> {
    T::deserialize(value).map_err(|e| Fault::new("bad_params", format!("{method}: {e}")))
}

/// Who is at the other end of a unix socket of the agent's. `pidfd` becomes the agent's own, where the kernel has such a thing.
fn peer_of(args: &Value) -> Result<Value, Fault> {
    let fd = args["fd"].as_i64().and_then(|fd| RawFd::try_from(fd).ok());
    let fd = fd.ok_or_else(|| Fault::new("bad_params", "peer.of: fd must be a descriptor"))?;
    // A copy: whatever becomes of the number meanwhile, this is one socket.
    let socket = sys::duplicate(fd).map_err(|e| Fault::os("peer", "descriptor", &e))?;
    let peer = sys::peer_credentials(socket.as_fd()).map_err(|e| Fault::os("peer", "credentials of the peer", &e))?;
    let process = sys::peer_process(socket.as_fd()).ok();
    Ok(json!({"pid": peer.pid, "uid": peer.uid, "gid": peer.gid, "pidfd": process.map(IntoRawFd::into_raw_fd)}))
}

impl Calls {
    pub fn new(shared: Arc<Shared>, pods: Arc<Pods>) -> Self {
        let asked_us = vec![0; shared.config.workers];
        Self { shared, pods, kernel: None, asked_us }
    }

    pub fn call(&mut self, method: &str, args: &Value) -> Result<Value, Fault> {
        match method {
            "svid.put" => {
                let p: SvidPut = params(method, args)?;
                self.shared.identities.put_svid(&p.identity, &p.chain_pem, &p.key_pem, p.generation, p.not_after_ms)?;
                Ok(json!({}))
            }
            "svid.remove" => {
                let identity = args["identity"].as_str().ok_or_else(|| Fault::new("bad_params", "svid.remove: identity must be a string"))?;
                self.shared.identities.remove_svid(identity);
                Ok(json!({}))
            }
            "trust.put" => {
                let p: TrustPut = params(method, args)?;
                let bundles: Vec<_> = p.bundles.into_iter().map(|b| (b.trust_domain, b.roots_pem)).collect();
                self.shared.identities.put_trust(&bundles, p.aliases, p.generation)?;
                Ok(json!({}))
            }
            "connections.list" => {
                let rows = self.gather(Message::Connections)?;
                let hbone = self.shared.hbone_running().map(HboneSide::connections).unwrap_or_default();
                Ok(json!({"connections": rows.into_iter().flatten().chain(hbone).collect::<Vec<_>>()}))
            }
            "connections.reset" => {
                let p: ResetParams = params(method, args)?;
                let reason = Reason::parse(&p.reason).unwrap_or(Reason::Administrative);
                let ids: Arc<[u64]> = p.ids.into();
                let counts = self.gather(|done| Message::Reset { ids: ids.clone(), reason, done })?;
                let hbone = self.shared.hbone_running().map_or(0, |s| s.hbone.reset(&ids, reason));
                Ok(json!({"count": counts.into_iter().sum::<usize>() + hbone}))
            }
            "tunnels.list" => {
                let rows = self.gather(Message::Tunnels)?;
                let hbone = self.shared.hbone_running().map(HboneSide::tunnels).unwrap_or_default();
                Ok(json!({"tunnels": rows.into_iter().flatten().chain(hbone).collect::<Vec<_>>()}))
            }
            "drain" => {
                let deadline_ms = args["deadlineMs"].as_u64().unwrap_or(self.shared.config.drain_ms);
                // 0 means none; what is drained at once is drained a microsecond from the start.
                self.shared.drain_until_us.store((self.shared.now_us() + deadline_ms * 1_000).max(1), Ordering::Release);
                if let Some(kernel) = &self.kernel {
                    kernel.retire();
                }
                self.shared.broadcast(|| Message::Drain { deadline_ms });
                if let Some(side) = self.shared.hbone_running() {
                    side.hbone.drain(Duration::from_millis(deadline_ms));
                }
                Ok(json!({}))
            }
            "stop" => {
                self.shared.stopping.store(true, Ordering::Release);
                self.shared.broadcast(|| Message::Stop);
                if let Some(side) = self.shared.hbone_running() {
                    side.hbone.stop();
                }
                self.kernel = None;
                Ok(json!({}))
            }
            "heartbeat" => self.heartbeat(),
            "peer.of" => peer_of(args),
            "handover.attach" => self.attach(args),
            "counters" => self.counters(),
            _ => self.kernel_call(method, args),
        }
    }

    /// Asks every worker and collects what comes back in time.
    fn gather<T>(&self, message: impl Fn(Sender<T>) -> Message) -> Result<Vec<T>, Fault> {
        let (sender, receiver) = channel();
        self.shared.broadcast(|| message(sender.clone()));
        drop(sender);
        let mut all = Vec::new();
        while all.len() < self.shared.inboxes.len() {
            match receiver.recv_timeout(WORKER_WAIT) {
                Ok(part) => all.push(part),
                Err(_) => return Err(Fault::new("worker_silent", "a worker did not answer in time; the agent should be restarted")),
            }
        }
        Ok(all)
    }

    /// How many connections of a pod are carried here: counted where they are, since this is asked again and again while a pod goes.
    pub fn open_connections(&self, pod: &str) -> Result<usize, Fault> {
        let name: Arc<str> = pod.into();
        let counts = self.gather(|reply| Message::Count { pod: name.clone(), reply })?;
        let hbone = self.shared.hbone_running().map_or(0, |side| side.open_connections(pod));
        Ok(counts.iter().sum::<usize>() + hbone)
    }

    /// The kernel learns that the agent lives only while its workers do: a hung one counts as a hung agent (INT-14).
    fn heartbeat(&mut self) -> Result<Value, Fault> {
        let limit_ms = self.shared.config.heartbeat_dead_ms;
        if limit_ms > 0
            && let Some(worker) = self.shared.hung_worker(&mut self.asked_us, limit_ms)
        {
            self.shared.counters.add("worker_hung", 1);
            return Err(Fault::new("worker_hung", format!("worker {worker} has not turned its loop for {limit_ms} ms")));
        }
        if let Some(kernel) = &self.kernel {
            kernel.heartbeat()?;
        }
        Ok(json!({}))
    }

    fn attach(&self, args: &Value) -> Result<Value, Fault> {
        let thread = args["thread"].as_u64().and_then(|t| u32::try_from(t).ok());
        let thread = thread.ok_or_else(|| Fault::new("bad_params", "handover.attach: thread must be a number"))?;
        let theirs = threads::attach(&self.shared, thread).map_err(|e| Fault::os("handover", "channel of a data thread", &e))?;
        Ok(json!({"fd": theirs.into_raw_fd()}))
    }

    fn counters(&self) -> Result<Value, Fault> {
        let mut all = serde_json::Map::new();
        for (name, count) in self.shared.counters.all() {
            all.insert(name.into(), count.into());
        }
        for (name, count) in self.shared.hbone_running().map(|s| s.hbone.counters()).unwrap_or_default() {
            all.insert(name.into(), count.into());
        }
        all.insert("channel_dropped".into(), self.shared.channel.dropped().into());
        if let Some(kernel) = &self.kernel {
            for (name, count) in kernel.counters()? {
                all.insert(name.into(), count.into());
            }
        }
        Ok(Value::Object(all))
    }
}
