//! The kernel thread: hands on what the programs tell, and does what is due by time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libbpf_rs::RingBufferBuilder;

use super::config::ForeignProgram;
use super::layout::{EventDirectClosed, EventDirectOpened, EventListening, event_kind};
use super::maps::Maps;
use super::sweep::Sweeper;
use super::{Inner, foreign, watched};
use crate::fault::Fault;

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
    /// The kernel thread has panicked, a bug of ours; unless `restarted` it is gone.
    Died { message: String, restarted: bool },
    /// So many connections were opened in the direct lane under a verdict.
    DirectOpened { verdict: u32, count: u64 },
    /// Something went wrong in the background.
    Failed(Fault),
}

/// Where events go. Called on the kernel thread: hand over and return.
pub type EventSink = Arc<dyn Fn(KernelEvent) + Send + Sync>;

const POLL: Duration = Duration::from_millis(100);
const SWEEP: Duration = Duration::from_secs(5);
/// Between attempts at copies of programs that cannot be made: who needs one makes it, and is told why it cannot be.
const AHEAD_AGAIN: Duration = Duration::from_secs(60);
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
            .spawn(move || watched::run(&sink, || run(&inner, &maps, &sink, &stopped)))
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

/// Openings in the direct lane by verdict, told together.
type Openings = Rc<RefCell<HashMap<u32, u64>>>;

fn deliver(bytes: &[u8], sink: &EventSink, opened: &Openings) {
    let kind = bytes.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match kind {
        Some(event_kind::DIRECT_CLOSED) => {
            if let Some(event) = EventDirectClosed::decode(bytes) {
                sink(KernelEvent::DirectClosed(Box::new(event)));
            }
        }
        Some(event_kind::DIRECT_OPENED) => {
            if let Some(event) = EventDirectOpened::decode(bytes) {
                *opened.borrow_mut().entry(event.verdict).or_default() += 1;
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

fn tell_opened(opened: &Openings, sink: &EventSink) {
    for (verdict, count) in opened.borrow_mut().drain() {
        sink(KernelEvent::DirectOpened { verdict, count });
    }
}

fn run(inner: &Weak<Inner>, maps: &Arc<Maps>, sink: &EventSink, stop: &AtomicBool) {
    let mut builder = RingBufferBuilder::new();
    let to = sink.clone();
    let opened = Openings::default();
    let counted = opened.clone();
    let built = maps.get("events").map_err(|f| f.message).and_then(|map| {
        builder
            .add(map, move |bytes| {
                deliver(bytes, &to, &counted);
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
    let mut no_copies = None::<Instant>;
    while !stop.load(Ordering::Relaxed) {
        // An interrupted wait is no error; anything else would repeat at once, so it is slowed down. Openings wake nobody
        // (sockops.bpf.c), so what waits is taken after a wait in vain too.
        if ring.poll(POLL).and_then(|()| ring.consume()).is_err() {
            std::thread::sleep(POLL);
        }
        tell_opened(&opened, sink);
        let Some(inner) = inner.upgrade() else { return };
        inner.finish_leaving(sink);
        if let Err(fault) = inner.activate_if_due() {
            sink(KernelEvent::Failed(fault));
        }
        if no_copies.is_none_or(|since| since.elapsed() >= AHEAD_AGAIN) {
            no_copies = inner.loader.make_ahead().err().map(|fault| {
                sink(KernelEvent::Failed(fault));
                Instant::now()
            });
        }
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
