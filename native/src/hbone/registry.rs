//! What is open on the HBONE side: streams and the connections that carry them, with the orders that can be given to them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::reason::Reason;
use crate::record::{Closer, FLAG_OPENED, Lane, Opened, Record};
use crate::relay::threads::Stream;

/// One carried connection. `socket` means the pod's side: the client for outbound, the application for inbound.
pub struct OpenStream {
    pub id: u64,
    pub inbound: bool,
    pub pod: String,
    pub cookie: u64,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub upstream: Mutex<Option<SocketAddr>>,
    pub plan: u32,
    pub verdict: AtomicU32,
    pub endpoint: AtomicU32,
    pub protocol: u8,
    pub flags: AtomicU8,
    /// Identity of the TLS peer, once known.
    pub peer: Mutex<Option<Arc<str>>>,
    pub started: Instant,
    pub started_ms: u64,
    pub ready_us: AtomicU32,
    pub from_socket: AtomicU64,
    pub to_socket: AtomicU64,
    /// Where a data thread has the other end of the socket.
    pub given: OnceLock<Stream>,
    first_end: AtomicU8,
    kill: watch::Sender<Option<Reason>>,
}

/// What a new stream is known by at its beginning.
pub struct Facts {
    pub id: u64,
    pub inbound: bool,
    pub pod: String,
    pub cookie: u64,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub plan: u32,
    pub protocol: u8,
    pub started: Instant,
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

impl OpenStream {
    /// The socket's side (`true`) or the peer's ended its data; the first one to do so closed the connection.
    pub fn ended(&self, socket: bool) {
        let client = socket != self.inbound;
        let who = if client { Closer::Client } else { Closer::Server };
        let _ = self.first_end.compare_exchange(0, who as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It carries bytes from now on: the row that tells so.
    pub fn ready(&self) -> Opened {
        self.ready_us.store(micros(self.started), Ordering::Relaxed);
        self.flags.fetch_or(FLAG_OPENED, Ordering::Relaxed);
        Opened {
            inbound: self.inbound,
            lane: self.lane(),
            plan: self.plan,
            verdict: self.verdict.load(Ordering::Relaxed),
            endpoint: u16::try_from(self.endpoint.load(Ordering::Relaxed)).unwrap_or(u16::MAX),
        }
    }

    fn lane(&self) -> Lane {
        if self.given.get().is_some() { Lane::Http } else { Lane::Hbone }
    }

    pub fn set_upstream(&self, endpoint: u16, address: SocketAddr) {
        self.endpoint.store(u32::from(endpoint), Ordering::Relaxed);
        *locked(&self.upstream) = Some(address);
    }

    /// Resolves when somebody ordered the end.
    pub async fn killed(&self) -> Reason {
        let mut orders = self.kill.subscribe();
        let ordered = orders.wait_for(Option::is_some).await.map(|r| *r).ok().flatten();
        match ordered {
            Some(reason) => reason,
            // The stream itself is gone, so nobody waits.
            None => std::future::pending().await,
        }
    }

    pub fn kill(&self, reason: Reason) {
        self.kill.send_if_modified(|now| now.is_none() && now.replace(reason).is_none());
    }

    /// Bytes from client to server, and back.
    pub fn bytes(&self) -> (u64, u64) {
        let (from, to) = (self.from_socket.load(Ordering::Relaxed), self.to_socket.load(Ordering::Relaxed));
        if self.inbound { (to, from) } else { (from, to) }
    }

    /// The record of its end. `closer` is used if neither side ended in order before.
    pub fn record(&self, reason: Reason, closer: Closer) -> Record {
        let first = match self.first_end.load(Ordering::Relaxed) {
            1 => Closer::Client,
            2 => Closer::Server,
            _ => closer,
        };
        let (sent, received) = self.bytes();
        Record {
            inbound: self.inbound,
            lane: self.lane(),
            protocol: self.protocol,
            reason,
            closer: first,
            flags: self.flags.load(Ordering::Relaxed),
            plan: self.plan,
            verdict: self.verdict.load(Ordering::Relaxed),
            endpoint: u16::try_from(self.endpoint.load(Ordering::Relaxed)).unwrap_or(u16::MAX),
            source: self.source,
            destination: self.destination,
            upstream: *locked(&self.upstream),
            cookie: self.cookie,
            started_ms: self.started_ms,
            duration_us: micros(self.started),
            ready_us: self.ready_us.load(Ordering::Relaxed),
            sent,
            received,
            id: self.id,
            policy: 0,
        }
    }
}

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Run,
    /// No new stream; close when the last one ends.
    Drain,
    /// Close now.
    Abort,
}

/// One HTTP/2 connection.
pub struct OpenTunnel {
    pub id: u64,
    pub inbound: bool,
    pub pod: String,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub identity: Arc<str>,
    pub peer: Arc<str>,
    pub opened: Instant,
    pub streams: AtomicU32,
    /// Streams so far.
    pub carried: AtomicU64,
    orders: watch::Sender<Order>,
}

impl OpenTunnel {
    #[allow(clippy::too_many_arguments)]
    pub fn new(id: u64, inbound: bool, pod: &str, source: SocketAddr, destination: SocketAddr, identity: Arc<str>, peer: Arc<str>) -> Self {
        let (streams, carried) = Default::default();
        let pod = pod.to_owned();
        Self {
            id,
            inbound,
            pod,
            source,
            destination,
            identity,
            peer,
            opened: Instant::now(),
            streams,
            carried,
            orders: watch::Sender::new(Order::Run),
        }
    }

    pub fn order(&self, order: Order) {
        self.orders.send_if_modified(|now| *now != Order::Abort && *now != order && std::mem::replace(now, order) != order);
    }

    pub fn orders(&self) -> watch::Receiver<Order> {
        self.orders.subscribe()
    }

    pub fn draining(&self) -> bool {
        *self.orders.borrow() != Order::Run
    }
}

/// Everything open, by id.
#[derive(Default)]
pub struct Registry {
    streams: Mutex<HashMap<u64, Arc<OpenStream>>>,
    tunnels: Mutex<HashMap<u64, Arc<OpenTunnel>>>,
    /// Pods on their way out of the mesh, each with the turn it is: one that was back meanwhile leaves at another time.
    leaving: Mutex<(u64, HashMap<String, u64>)>,
}

impl Registry {
    /// The pod leaves; which turn this is.
    pub fn leaves(&self, pod: &str) -> u64 {
        let mut leaving = locked(&self.leaving);
        leaving.0 += 1;
        let turn = leaving.0;
        leaving.1.insert(pod.to_owned(), turn);
        turn
    }

    pub fn returns(&self, pod: &str) {
        locked(&self.leaving).1.remove(pod);
    }

    /// Whether it has not been back since it left for this turn; asked once, when the turn is over.
    pub fn is_leaving(&self, pod: &str, turn: u64) -> bool {
        let leaving = &mut locked(&self.leaving).1;
        leaving.get(pod) == Some(&turn) && leaving.remove(pod).is_some()
    }

    pub fn open(&self, facts: Facts) -> Arc<OpenStream> {
        let age = facts.started.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age);
        let stream = Arc::new(OpenStream {
            id: facts.id,
            inbound: facts.inbound,
            pod: facts.pod,
            cookie: facts.cookie,
            source: facts.source,
            destination: facts.destination,
            upstream: Mutex::default(),
            plan: facts.plan,
            verdict: AtomicU32::new(0),
            endpoint: AtomicU32::new(u32::from(u16::MAX)),
            protocol: facts.protocol,
            flags: AtomicU8::new(0),
            peer: Mutex::default(),
            started: facts.started,
            started_ms: now.as_millis() as u64,
            ready_us: AtomicU32::new(0),
            from_socket: AtomicU64::new(0),
            to_socket: AtomicU64::new(0),
            given: OnceLock::new(),
            first_end: AtomicU8::new(0),
            kill: watch::Sender::new(None),
        });
        locked(&self.streams).insert(stream.id, stream.clone());
        stream
    }

    pub fn close(&self, stream: &OpenStream) {
        locked(&self.streams).remove(&stream.id);
    }

    pub fn add_tunnel(&self, tunnel: &Arc<OpenTunnel>) {
        locked(&self.tunnels).insert(tunnel.id, tunnel.clone());
    }

    pub fn remove_tunnel(&self, id: u64) {
        locked(&self.tunnels).remove(&id);
    }

    pub fn streams(&self) -> Vec<Arc<OpenStream>> {
        locked(&self.streams).values().cloned().collect()
    }

    pub fn tunnels(&self) -> Vec<Arc<OpenTunnel>> {
        locked(&self.tunnels).values().cloned().collect()
    }

    pub fn stream_count(&self) -> usize {
        locked(&self.streams).len()
    }

    pub fn stream(&self, id: u64) -> Option<Arc<OpenStream>> {
        locked(&self.streams).get(&id).cloned()
    }
}
