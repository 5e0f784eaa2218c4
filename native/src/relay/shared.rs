//! What workers and the control thread share: settings, the channel, identities, generation, counters, inboxes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};

use super::dial::Order;
use super::joins;
use super::late_speakers::LateSpeakers;
use super::places::{self, Places};
use super::slab::Key;
use super::threads::{DataThread, DataThreads};
use crate::channel::{Channel, EVENT};
use crate::config::Config;
use crate::hbone::agent::HboneSide;
use crate::reason::Reason;
use crate::seam::PodSockets;
use crate::tls::identity::Identities;

/// An enrolled pod with the identity that its tunnels present.
pub struct Pod {
    /// Never reused in a process; caches are keyed by it.
    pub number: u32,
    pub name: Arc<str>,
    pub sockets: Arc<dyn PodSockets>,
    pub identity: RwLock<Option<Arc<str>>>,
}

impl Pod {
    pub fn identity(&self) -> Option<Arc<str>> {
        self.identity.read().ok()?.clone()
    }
}

/// What the control thread tells a worker.
pub enum Message {
    Answer(Value),
    Enrolled(Arc<Pod>),
    Unenrolled {
        pod: String,
        drain_ms: u64,
    },
    Connections(Sender<Vec<Value>>),
    /// How many connections of this pod are there?
    Count {
        pod: Arc<str>,
        reply: Sender<usize>,
    },
    Tunnels(Sender<Vec<Value>>),
    Reset {
        ids: Arc<[u64]>,
        reason: Reason,
        done: Sender<usize>,
    },
    Drain {
        deadline_ms: u64,
    },
    Dial(Box<Order>),
    /// A data thread resets one of its streams.
    Abort {
        key: Key,
        thread: Arc<DataThread>,
        call: Value,
    },
    /// A data thread gives the rest of a body away.
    Join(Box<joins::Order>),
    /// It takes one back, or is gone with all of them (no number).
    Unjoin {
        thread: Arc<DataThread>,
        number: Option<u64>,
    },
    /// A connection that waited has its place.
    Place(Key, Place),
    /// The data thread that had these streams is gone.
    Lost(Vec<Key>),
    Stop,
}

/// Who waits for a place: a connection of a worker.
pub type Waiter = (usize, Key);
pub type Limit = places::Limit<Waiter>;
pub type Place = places::Place<Waiter>;
pub type Waiting = places::Waiting<Waiter>;

/// Names of policies that other agents may make us keep.
const MAX_POLICIES: usize = 1_024;

/// A worker's letter box: messages and the descriptor that wakes it.
pub struct Inbox {
    pub wake: OwnedFd,
    messages: Mutex<Vec<Message>>,
}

impl Inbox {
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { wake, messages: Mutex::default() })
    }

    pub fn post(&self, message: Message) {
        if let Ok(mut messages) = self.messages.lock() {
            messages.push(message);
        }
        self.wake();
    }

    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn take(&self) -> Vec<Message> {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.messages.lock().map(|mut m| std::mem::take(&mut *m)).unwrap_or_default()
    }
}

/// Counters by stable name. Names are few and fixed, so a short lock per rare event is enough; what happens per byte is not
/// counted here.
#[derive(Default)]
pub struct Counters(Mutex<HashMap<&'static str, u64>>);

impl Counters {
    pub fn add(&self, name: &'static str, n: u64) {
        if let Ok(mut map) = self.0.lock() {
            *map.entry(name).or_default() += n;
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.lock().map_or(0, |m| m.get(name).copied().unwrap_or(0))
    }

    pub fn all(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().map_or_else(|_| Vec::new(), |m| m.iter().map(|(k, v)| (*k, *v)).collect())
    }
}

pub struct Shared {
    pub config: Config,
    pub channel: Arc<Channel>,
    pub identities: Arc<Identities>,
    /// Raised by `generation.set`; every cached plan and verdict of a lower one is void.
    pub generation: AtomicU64,
    pub counters: Counters,
    pub connection_ids: AtomicU64,
    pub inboxes: Vec<Arc<Inbox>>,
    pub threads: Arc<DataThreads>,
    /// Limits of connections, by namespace and service.
    pub places: Places<Waiter>,
    /// When each worker last turned its loop, µs (`now_us`).
    pub beats: Vec<AtomicU64>,
    /// Names of policies by which other agents refused, by number - 1; told to the agent once each.
    policies: Mutex<Vec<Arc<str>>>,
    /// Deadline of the drain, µs (`now_us`); 0 while there is none.
    pub drain_until_us: AtomicU64,
    pub stopping: AtomicBool,
    /// Workers that have finished draining.
    pub drained: AtomicUsize,
    /// Sources whose hello came after they had been taken for plain clients.
    pub late_speakers: LateSpeakers,
    /// Started with the first connection that needs it.
    hbone: OnceLock<Option<HboneSide>>,
    started: Instant,
    started_unix_us: u64,
}

impl Shared {
    pub fn new(config: Config, channel: Arc<Channel>) -> std::io::Result<Self> {
        let inboxes = (0..config.workers).map(|_| Inbox::new().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let boxes = inboxes.clone();
        let beats = (0..config.workers).map(|_| AtomicU64::new(0)).collect();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            identities: Arc::new(Identities::new(&config.trust_domain)),
            config,
            channel,
            generation: AtomicU64::new(0),
            counters: Counters::default(),
            connection_ids: AtomicU64::new(1),
            inboxes,
            threads: Arc::default(),
            places: Places::new(move |(worker, key): Waiter, place| boxes[worker].post(Message::Place(key, place))),
            beats,
            policies: Mutex::default(),
            drain_until_us: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            late_speakers: LateSpeakers::default(),
            hbone: OnceLock::new(),
            started: Instant::now(),
            started_unix_us: unix.as_micros() as u64,
        })
    }

    /// Number for a policy that another agent named, so that a record can carry it; 0 for none, and for what comes after so many
    /// that only a hostile peer has them. The agent learns the name before it sees the number.
    pub fn policy_number(&self, name: &str) -> u32 {
        let Ok(mut known) = self.policies.lock() else { return 0 };
        if name.is_empty() {
            return 0;
        }
        if let Some(at) = known.iter().position(|n| &**n == name) {
            return at as u32 + 1;
        }
        if known.len() >= MAX_POLICIES {
            return 0;
        }
        known.push(name.into());
        self.event("policy", json!({"number": known.len(), "name": name}));
        known.len() as u32
    }

    /// Wakes the workers so that each turns its loop, and names one that has not turned it since it was woken `limit_ms` ago.
    pub fn hung_worker(&self, asked_us: &mut [u64], limit_ms: u64) -> Option<usize> {
        let now = self.now_us();
        let mut hung = None;
        for (index, (asked, beat)) in asked_us.iter_mut().zip(&self.beats).enumerate() {
            if beat.load(Ordering::Acquire) >= *asked {
                *asked = now;
                self.inboxes[index].wake();
            } else if now - *asked >= limit_ms * 1_000 {
                hung = Some(index);
            }
        }
        hung
    }

    /// Monotonic microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Unix milliseconds of a monotonic time; a stepped clock does not tear records apart.
    pub fn unix_ms(&self, us: u64) -> u64 {
        (self.started_unix_us + us) / 1_000
    }

    /// Wall clock now, for the validity of certificates.
    pub fn wall_ms() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }

    pub fn event(&self, name: &str, mut fields: Value) {
        fields["event"] = json!(name);
        self.channel.send_json(EVENT, &fields);
    }

    pub fn log(&self, level: &str, message: &str, fields: Value) {
        self.event("log", json!({"level": level, "message": message, "fields": fields}));
    }

    pub fn broadcast(&self, mut message: impl FnMut() -> Message) {
        for inbox in &self.inboxes {
            inbox.post(message());
        }
    }

    /// The HBONE side, started if it is not; `None`: it could not be, which was logged.
    pub fn hbone(self: &Arc<Self>) -> Option<&HboneSide> {
        let started = self.hbone.get_or_init(|| match HboneSide::start(self) {
            Ok(side) => Some(side),
            Err(error) => {
                self.log("error", "the HBONE side cannot be started", json!({"error": error.to_string()}));
                None
            }
        });
        started.as_ref()
    }

    /// The HBONE side, if anything needed it so far.
    pub fn hbone_running(&self) -> Option<&HboneSide> {
        self.hbone.get()?.as_ref()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
