//! HBONE: HTTP/2 CONNECT over mutual TLS (ALPN h2, port 15008), spoken with peers that do not speak `fairlead/1`, both
//! ways. One thread with a runtime of its own; the workers hand sockets over and never wait for it.

pub mod agent;
pub mod authority;
mod client;
mod copy;
mod dial;
mod given;
mod inbound;
pub mod limits;
mod outbound;
mod pool;
pub mod questions;
pub mod registry;
mod server;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, watch};

use crate::config::Config;
use crate::reason::Reason;
use crate::record::{Opened, Record};
use crate::relay::dial::Pending;
use crate::relay::plan::Verdict;
use crate::relay::shared::Place;
use crate::relay::succession::text_of;
use crate::relay::threads::DataThreads;
use crate::seam::PodSockets;
use crate::tls::identity::Identities;
use crate::tls::session::Failure;
use registry::{Order, Registry};

/// The port on which HBONE is spoken.
pub const PORT: u16 = 15_008;
pub const ALPN: &[u8] = b"h2";
/// Between the order to reset streams and the end of their connection.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// The question of a stream that arrived: may `identity`, coming from `source`, reach `destination` in `pod`?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    pub pod: String,
    /// Network namespace cookie, so that no answer outlives its pod.
    pub cookie: u64,
    pub destination: SocketAddr,
    pub source: IpAddr,
    pub identity: Arc<str>,
}

/// Decides about inbound streams: the same verdicts as for `fairlead/1`.
pub trait Judge: Send + Sync {
    /// Calls `answer` once, from any thread; dropping it unanswered refuses the stream.
    fn inbound(&self, ask: Ask, answer: Box<dyn FnOnce(Verdict) + Send>);
}

/// Takes what happened.
pub trait Recorder: Send + Sync {
    /// Number of a new connection, unique in the process.
    fn next_id(&self) -> u64;
    /// A stream was opened; its record will say so too (`FLAG_OPENED`).
    fn opened(&self, _row: &Opened) {}
    fn ended(&self, record: &Record);
    /// The thread died of a bug; nothing is carried any more.
    fn died(&self, _message: &str) {}
    /// A handshake failed before there was a stream (IDN-7).
    fn refused(&self, inbound: bool, pod: &str, source: SocketAddr, destination: SocketAddr, failure: &Failure);
}

/// An accepted connection whose ClientHello offers h2. Nothing of it has been read (it was only looked at).
pub struct Inbound {
    pub socket: OwnedFd,
    pub pod: Arc<dyn PodSockets>,
    /// Identity of the pod, whose SVID is shown.
    pub identity: Arc<str>,
    pub source: SocketAddr,
    pub local: SocketAddr,
}

/// One way to reach the destination of an outbound connection, tried in order.
#[derive(Clone, Debug)]
pub struct Target {
    /// Index of the endpoint in the plan.
    pub endpoint: u16,
    pub address: SocketAddr,
    /// Where HBONE is spoken for it.
    pub tunnel: SocketAddr,
    /// Whom the peer may be; never empty.
    pub identities: Arc<[String]>,
}

/// An application's connection that is to be carried out by HBONE.
pub struct Outbound {
    /// Its number, from `Recorder::next_id` or the same source.
    pub id: u64,
    pub client: OwnedFd,
    pub pod: Arc<dyn PodSockets>,
    pub identity: Arc<str>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub plan: u32,
    pub protocol: u8,
    pub targets: Vec<Target>,
    /// What was read of the client already.
    pub early: Vec<u8>,
    pub started: Instant,
    /// `record::FLAG_RETRIED` if endpoints of another kind were tried before.
    pub flags: u8,
    /// The data thread that asked for it.
    pub pending: Option<Pending>,
    /// For each target, where a policy says so.
    pub connect: Option<Duration>,
    /// Among the connections to its service, held to the end.
    pub place: Option<Place>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub handshake_timeout: Duration,
    pub connect_timeout: Duration,
    pub question_timeout: Duration,
    pub idle: Duration,
    pub max_age: Duration,
    pub max_age_jitter: Duration,
}

impl From<&Config> for Settings {
    fn from(c: &Config) -> Self {
        Self {
            handshake_timeout: Duration::from_millis(c.handshake_timeout_ms),
            connect_timeout: Duration::from_millis(c.connect_timeout_ms),
            question_timeout: Duration::from_millis(c.question_timeout_ms),
            idle: Duration::from_millis(c.tunnel_idle_ms),
            max_age: Duration::from_millis(c.tunnel_max_age_ms),
            max_age_jitter: Duration::from_millis(c.tunnel_max_age_jitter_ms),
        }
    }
}

/// Counts of what was refused or lost, for `counters`.
#[derive(Default)]
pub struct Counters(Mutex<HashMap<&'static str, u64>>);

impl Counters {
    pub(crate) fn add(&self, name: &'static str) {
        *registry::locked(&self.0).entry(name).or_default() += 1;
    }

    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        registry::locked(&self.0).iter().map(|(k, v)| (*k, *v)).collect()
    }
}

/// What all tasks share.
pub(crate) struct Shared {
    pub settings: Settings,
    pub identities: Arc<Identities>,
    pub judge: Arc<dyn Judge>,
    pub recorder: Arc<dyn Recorder>,
    pub threads: Arc<DataThreads>,
    pub registry: Registry,
    pub counters: Counters,
    pub pool: pool::Pool,
    pub sources: server::Sources,
    pub handshakes: Arc<Semaphore>,
    /// Raised when an SVID or the trust changed, so that every connection looks at its own.
    pub identity_changes: watch::Sender<u64>,
    stopped: Notify,
}

impl Shared {
    /// How long a connection takes streams: until the first of both certificates ends (DP-15), or its age is reached.
    pub fn lifetime(&self, id: u64, not_after_ms: u64) -> Duration {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let jitter = self.settings.max_age_jitter.as_millis().max(1) as u64;
        // Spread by the connection's number (Fibonacci hashing): connections of one moment do not end in one moment.
        let spread = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % jitter;
        (self.settings.max_age + Duration::from_millis(spread)).min(Duration::from_millis(not_after_ms.saturating_sub(now)))
    }
}

/// The running HBONE side. Cheap to clone; all methods may be called from any thread and never block.
#[derive(Clone)]
pub struct Hbone {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

impl Hbone {
    /// Starts the thread. It ends after `stop`.
    pub fn start(
        settings: Settings,
        identities: Arc<Identities>,
        judge: Arc<dyn Judge>,
        recorder: Arc<dyn Recorder>,
        threads: Arc<DataThreads>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let shared = Arc::new(Shared {
            settings,
            identities,
            judge,
            recorder,
            threads,
            registry: Registry::default(),
            counters: Counters::default(),
            pool: pool::Pool::default(),
            sources: server::Sources::default(),
            handshakes: Arc::new(Semaphore::new(limits::MAX_HANDSHAKES)),
            identity_changes: watch::Sender::new(0),
            stopped: Notify::new(),
        });
        let handle = Self { shared: shared.clone(), runtime: runtime.handle().clone() };
        let thread = std::thread::Builder::new().name("hbone".into()).spawn(move || {
            watched(&runtime, &shared.registry, shared.recorder.as_ref(), run(shared.clone()));
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?;
        Ok((handle, thread))
    }

    /// Serves a connection that another side opened to the pod.
    pub fn inbound(&self, connection: Inbound) {
        self.runtime.spawn(server::serve(self.shared.clone(), connection));
    }

    /// Carries a connection of an application.
    pub fn outbound(&self, connection: Outbound) {
        self.runtime.spawn(outbound::carry(self.shared.clone(), connection));
    }

    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters.snapshot()
    }

    /// Resets these streams; how many there were.
    pub fn reset(&self, ids: &[u64], reason: Reason) -> usize {
        let streams = ids.iter().filter_map(|id| self.shared.registry.stream(*id));
        streams.map(|s| s.kill(reason)).count()
    }

    /// Ends what belongs to a pod: no new streams from now, open ones are reset after `drain` unless it is [`Hbone::back`] by then.
    /// Returns how many there are.
    pub fn end_pod(&self, pod: &str, drain: Duration, reason: Reason) -> usize {
        let (name, turn) = (pod.to_owned(), self.shared.registry.leaves(pod));
        let still = move |registry: &Registry| registry.is_leaving(&name, turn);
        let pod = pod.to_owned();
        self.end(drain, reason, move |p| p == pod, still)
    }

    /// The pod is in the mesh (again): what it has open goes on.
    pub fn back(&self, pod: &str) {
        self.shared.registry.returns(pod);
    }

    /// As `end_pod`, for all pods.
    pub fn drain(&self, deadline: Duration) -> usize {
        self.end(deadline, Reason::DrainDeadline, |_| true, |_| true)
    }

    fn end(
        &self,
        drain: Duration,
        reason: Reason,
        of: impl Fn(&str) -> bool + Send + 'static,
        still: impl FnOnce(&Registry) -> bool + Send + 'static,
    ) -> usize {
        let registry = &self.shared.registry;
        let mine: Vec<_> = registry.tunnels().into_iter().filter(|t| of(&t.pod)).collect();
        let open = registry.streams().iter().filter(|s| of(&s.pod)).count();
        let shared = self.shared.clone();
        let kill = move || shared.registry.streams().iter().filter(|s| of(&s.pod)).for_each(|s| s.kill(reason));
        if drain.is_zero() {
            kill();
        } else {
            mine.iter().for_each(|t| t.order(Order::Drain));
        }
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            if !drain.is_zero() {
                tokio::time::sleep(drain).await;
                if !still(&shared.registry) {
                    return;
                }
                kill();
            }
            // A moment for the streams to send their resets before the connections go.
            tokio::time::sleep(LAST_WORDS).await;
            mine.iter().for_each(|t| t.order(Order::Abort));
        });
        open
    }

    /// Ends the thread; whatever is open is reset.
    pub fn stop(&self) {
        self.shared.registry.streams().iter().for_each(|s| s.kill(Reason::AgentStopping));
        self.shared.stopped.notify_one();
    }
}

/// Runs the thread's own work, and the tasks meanwhile. After a panic in it what is carried is reset and recorded, then the death told.
fn watched(runtime: &Runtime, registry: &Registry, recorder: &dyn Recorder, work: impl Future<Output = ()>) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work))) else { return };
    registry.streams().iter().for_each(|s| s.kill(Reason::WorkerDied));
    let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(async { tokio::time::sleep(LAST_WORDS).await })));
    recorder.died(&text_of(panic.as_ref()));
}

/// Housekeeping: idle connections and changes of identities. Everything else runs in tasks of its own.
async fn run(shared: Arc<Shared>) {
    let mut turn = tokio::time::interval(Duration::from_millis(250));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut version = shared.identities.version();
    loop {
        tokio::select! {
            () = shared.stopped.notified() => break,
            _ = turn.tick() => {}
        }
        let now = shared.identities.version();
        if now != version {
            version = now;
            shared.identity_changes.send_replace(now);
        }
        shared.pool.sweep(&shared);
    }
    // Streams that were ordered to end get a moment to send their resets.
    tokio::time::sleep(LAST_WORDS).await;
}
