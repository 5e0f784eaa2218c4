//! The kernel thread: hands on what the programs tell, and sweeps rows that nothing else would delete.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libbpf_rs::RingBufferBuilder;

use super::config::ForeignProgram;
use super::layout::{
    EventDirectClosed, EventListening, ListeningValue, PendingValue, PodKey, SynValue, event_kind, limit,
};
use super::maps::Maps;
use super::{Inner, diag, enrol, foreign};
use crate::fault::Fault;
use crate::sys;

/// What the kernel side tells without being asked.
#[derive(Clone, Debug)]
pub enum KernelEvent {
    /// A direct-lane connection has ended; one record each.
    DirectClosed(Box<EventDirectClosed>),
    /// A pod began or ceased to listen on a port (loopback not counted).
    Listening { cookie: u64, port: u16, open: bool },
    /// Programs of others at our hooks changed (DP-13). Empty: there are none any more.
    Foreign(Vec<ForeignProgram>),
    /// The namespace of an enrolled pod is gone although nobody said so (DP-21).
    Vanished { pod: String },
    /// Something went wrong in the background.
    Failed(Fault),
}

/// Where events go. Called on the kernel thread: hand over and return.
pub type EventSink = Arc<dyn Fn(KernelEvent) + Send + Sync>;

const POLL: Duration = Duration::from_millis(100);
const SWEEP: Duration = Duration::from_secs(5);
const FOREIGN_CHECK: Duration = Duration::from_secs(60);

/// The thread; ends when dropped.
pub struct KernelThread {
    stop: Arc<AtomicBool>,
    join: Option<JoinHandle<()>>,
}

impl KernelThread {
    pub fn start(inner: Weak<Inner>, maps: Arc<Maps>, sink: EventSink) -> Result<Self, Fault> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let join = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || run(&inner, &maps, &sink, &stopped))
            .map_err(|e| Fault::os("start_failed", "start the kernel thread", &e))?;
        Ok(Self { stop, join: Some(join) })
    }
}

impl Drop for KernelThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(join) = self.join.take() {
            // The last owner may be the thread itself, which cannot wait for itself.
            if join.thread().id() != std::thread::current().id() {
                let _ = join.join();
            }
        }
    }
}

fn deliver(bytes: &[u8], sink: &EventSink) {
    let kind = bytes.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match kind {
        Some(event_kind::DIRECT_CLOSED) => {
            if let Some(event) = EventDirectClosed::decode(bytes) {
                sink(KernelEvent::DirectClosed(Box::new(event)));
            }
        }
        Some(event_kind::LISTENING) => {
            if let Some(event) = EventListening::decode(bytes) {
                sink(KernelEvent::Listening { cookie: event.cookie, port: event.port, open: event.open == 1 });
            }
        }
        _ => (),
    }
}

fn run(inner: &Weak<Inner>, maps: &Arc<Maps>, sink: &EventSink, stop: &AtomicBool) {
    let mut builder = RingBufferBuilder::new();
    let to = sink.clone();
    let built = maps.get("events").map_err(|f| f.message).and_then(|map| {
        builder
            .add(map, move |bytes| {
                deliver(bytes, &to);
                0
            })
            .map_err(|e| e.to_string())?;
        builder.build().map_err(|e| e.to_string())
    });
    let ring = match built {
        Ok(ring) => ring,
        Err(e) => return sink(KernelEvent::Failed(Fault::new("events_failed", format!("read kernel events: {e}")))),
    };
    let mut sweeper = Sweeper::default();
    let (mut swept, mut looked, mut last_foreign) = (Instant::now(), None::<Instant>, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        // An interrupted wait is no error; anything else would repeat at once, so it is slowed down.
        if ring.poll(POLL).is_err() {
            std::thread::sleep(POLL);
        }
        let Some(inner) = inner.upgrade() else { return };
        inner.finish_leaving(sink);
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            if let Err(fault) = sweeper.sweep(&inner) {
                sink(KernelEvent::Failed(fault));
            }
            inner.find_vanished(sink);
        }
        if looked.is_none_or(|at| at.elapsed() >= FOREIGN_CHECK) {
            looked = Some(Instant::now());
            let now = foreign::programs(&inner.config.cgroup, &inner.loader.pin_dir).unwrap_or_default();
            if now != last_foreign {
                sink(KernelEvent::Foreign(now.clone()));
                last_foreign = now;
            }
        }
    }
}

/// Deletes rows that went stale: SYNs nobody answered, listening rows at zero, seeds whose socket is gone.
#[derive(Default)]
struct Sweeper {
    zero_before: HashSet<Vec<u8>>,
}

impl Sweeper {
    fn sweep(&mut self, inner: &Inner) -> Result<(), Fault> {
        self.syns(&inner.maps)?;
        self.listening(inner)
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
        touched.extend(seeded.iter().map(|(key, _)| cookie(key)));
        for pod in inner.pods_by_cookie(&touched) {
            use std::os::fd::AsFd;
            let sockets = diag::list(pod.namespace.as_fd(), diag::STATES_LISTEN)
                .map_err(|e| Fault::os("sweep_failed", format!("list listeners of {}", pod.key), &e))?;
            let rows: HashMap<_, _> = sockets.iter().map(|s| enrol::listening_row(pod.cookie, s)).collect();
            for (key, _) in seeded.iter().filter(|(key, _)| cookie(key) == pod.cookie && !rows.contains_key(key)) {
                inner.maps.delete("seeded", key)?;
            }
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
