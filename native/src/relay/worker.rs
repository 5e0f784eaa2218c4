//! One worker thread: its epoll loop and how a connection ends. Everything else of a worker lies beside this file.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustls::ServerConfig;

use super::accept::Listening;
use super::buffers::Buffers;
use super::conn::{Conn, End, Given, State};
use super::joins::Join;
use super::orders::Leaving;
use super::plan::Plan;
use super::questions::Questions;
use super::report::Report;
use super::shared::{Pod, Shared};
use super::slab::{Key, Slab, Token};
use super::sock;
use super::timers::{Timer, Timers};
use super::tunnel_queue::Queue;
use super::tunnels::{ClientTls, PoolKey, Tunnel};
use crate::reason::Reason;
use crate::record::{Closer, Lane, Record};
use crate::tls::identity::{Snapshot, Svid, Trust};
use crate::tls::records::MAX_RECORD;
use crate::tls::session::Handshake;
use crate::tunnel::link::RECORD;
use crate::tunnel::machine::Role;

const EVENTS: usize = 256;

/// What a server configuration was made of, to see whether it is still current, and the configuration.
pub type ServerTls = (Arc<Svid>, Arc<Trust>, Arc<ServerConfig>);

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub epoll: OwnedFd,
    pub conns: Slab<Conn>,
    pub tunnels: Slab<Tunnel>,
    pub listeners: Slab<Listening>,
    pub pods: HashMap<String, Arc<Pod>>,
    pub questions: Questions,
    pub timers: Timers,
    pub pool: HashMap<PoolKey, Vec<Key>>,
    pub queues: HashMap<PoolKey, Queue>,
    /// Queues for which something has become free.
    pub served: Vec<PoolKey>,
    pub handshakes: HashMap<Key, Handshake>,
    pub client_configs: HashMap<PoolKey, ClientTls>,
    pub server_configs: HashMap<Arc<str>, ServerTls>,
    pub snapshot: Arc<Snapshot>,
    pub identities_version: u64,
    pub buffers: Buffers,
    pub room: Vec<u8>,
    pub peeked: Vec<u8>,
    pub joins: Slab<Join>,
    /// What joins read into; made with the first.
    pub join_room: Vec<u8>,
    pub now_us: u64,
    /// Tunnels with `send_due_us`, by that time.
    pub waiting: VecDeque<(u64, Key)>,
    /// What still has work after its turn.
    pub again: Vec<Token>,
    pub sweeping: bool,
    pub draining: bool,
    pub drain_reported: bool,
    pub drain_until_us: u64,
    pub listeners_closed: bool,
    pub leaving: Vec<Leaving>,
    pub stopped: bool,
    /// A descriptor to give up when there are no more.
    pub reserve: Option<OwnedFd>,
    pub report: Report,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(Token::Wake.pack());
        epoll::add(&epoll, &shared.inboxes[index].wake, data, epoll::EventFlags::IN)?;
        let size = shared.config.buffer_bytes;
        let records = (size / 16_384).clamp(2, 16);
        Ok(Self {
            index,
            epoll,
            conns: Slab::default(),
            tunnels: Slab::default(),
            listeners: Slab::default(),
            pods: HashMap::new(),
            questions: Questions::default(),
            timers: Timers::default(),
            pool: HashMap::new(),
            queues: HashMap::new(),
            served: Vec::new(),
            handshakes: HashMap::new(),
            client_configs: HashMap::new(),
            server_configs: HashMap::new(),
            snapshot: shared.identities.snapshot(),
            identities_version: 0,
            buffers: Buffers::new(size + MAX_RECORD),
            room: vec![0; records * RECORD],
            peeked: Vec::new(),
            joins: Slab::default(),
            join_room: Vec::new(),
            now_us: shared.now_us(),
            waiting: VecDeque::new(),
            again: Vec::new(),
            sweeping: false,
            draining: false,
            drain_reported: false,
            drain_until_us: 0,
            listeners_closed: false,
            leaving: Vec::new(),
            stopped: false,
            reserve: eventfd(0, EventfdFlags::CLOEXEC).ok(),
            report: Report::default(),
            shared,
        })
    }

    /// Runs until `Message::Stop`; the error says why it cannot go on.
    pub fn run(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.stopped {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("epoll failed: {error}")),
            }
            self.now_us = self.shared.now_us();
            self.shared.beats[self.index].store(self.now_us, Ordering::Release);
            for event in &events {
                if let Some(token) = Token::unpack(event.data.u64()) {
                    self.dispatch(token, event.flags);
                }
            }
            self.go_on();
            self.send_waiting();
            while let Some(timer) = self.timers.due(self.now_us / 1_000) {
                self.on_timer(timer);
            }
            self.go_on();
            self.serve_queues();
            if self.report.due_us().is_some_and(|at| self.now_us >= at) {
                self.flush_records();
            }
        }
        self.flush_records();
        Ok(())
    }

    /// Everybody who had more to do gets one more turn; what is left then comes after the next look at the sockets.
    fn go_on(&mut self) {
        for token in std::mem::take(&mut self.again) {
            match token {
                Token::Tunnel(key) => self.on_tunnel(key),
                Token::Down(key) | Token::Up(key) => self.pump_pair(key),
                Token::Source(key) | Token::Sink(key) => self.pump_join(key),
                _ => {}
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = self.shared.now_us();
        if !self.again.is_empty() || !self.served.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let send = self.waiting.front().map(|w| w.0);
        let at = self.timers.next_ms().map(|ms| ms * 1_000).into_iter().chain(self.report.due_us()).chain(send).min()?;
        let wait = Duration::from_micros(at.saturating_sub(now));
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) })
    }

    fn dispatch(&mut self, token: Token, flags: epoll::EventFlags) {
        use epoll::EventFlags as F;
        match token {
            Token::Wake => self.on_messages(),
            Token::Listener(key) => self.on_listener(key),
            Token::Source(key) => self.on_join(key, true, flags),
            Token::Sink(key) => self.on_join(key, false, flags),
            Token::Tunnel(key) => {
                let Some(t) = self.tunnels.get_mut(key) else { return };
                t.link.readable |= flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR);
                t.link.writable |= flags.contains(F::OUT);
                t.link.hangup |= flags.intersects(F::RDHUP | F::HUP | F::ERR);
                // An aborted tunnel resets its application even while that one reads nothing.
                if flags.contains(F::ERR) && t.link.ready() {
                    // A close in order may have come just before: then the stream never began.
                    if t.link.machine.role() == Role::Opener && !t.link.machine.accepted() {
                        t.write_failed = true;
                        return self.on_tunnel(key);
                    }
                    let why = t.link.last_words(&mut self.buffers);
                    return self.tunnel_broke(key, why);
                }
                self.on_tunnel(key);
            }
            Token::Down(key) | Token::Up(key) => {
                let down = matches!(token, Token::Down(_));
                let Some(conn) = self.conns.get_mut(key) else { return };
                let end = if down { conn.down.as_mut() } else { conn.up.as_mut() };
                let Some(end) = end else { return };
                end.readable |= flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR) && !end.eof;
                end.writable |= flags.contains(F::OUT);
                end.hangup |= flags.intersects(F::RDHUP | F::HUP | F::ERR);
                let failed = flags.contains(F::ERR);
                if flags.contains(F::HUP) && conn.given.as_deref().is_some_and(Given::orphaned) {
                    return self.cut(key, Reason::WorkerDied);
                }
                match (conn.state, down) {
                    (State::Connecting, false) => self.on_dial(key),
                    _ if failed => self.on_error(key, down),
                    (State::Peeking, true) => self.on_peek(key),
                    (State::Judging, true) => self.judge(key, false),
                    (State::Open | State::Opening, _) => match conn.tunnel {
                        Some(tunnel) => {
                            if self.tunnels.get(tunnel).is_some_and(|t| t.link.ready()) {
                                self.pump(tunnel);
                            }
                        }
                        None => self.pump_pair(key),
                    },
                    _ => {}
                }
            }
        }
    }

    /// A socket reports an error (the peer's RST): the connection ends even while nobody reads from it.
    pub fn on_error(&mut self, key: Key, down: bool) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let side = if down { Closer::Client } else { Closer::Server };
        let reason = if down { Reason::ClientReset } else { Reason::ServerReset };
        match conn.tunnel.filter(|t| self.tunnels.get(*t).is_some_and(|t| t.conn == Some(key))) {
            Some(tunnel) if self.tunnels.get(tunnel).is_some_and(|t| t.link.ready()) => self.reset_stream(tunnel, None),
            _ => self.end(key, reason, side, true),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Question(id) => self.on_question_timeout(id),
            Timer::Join(index, generation) => self.tell_join(Key { index, generation }),
            Timer::Sweep => self.sweep(),
            Timer::Drain => self.drain_deadline(),
            Timer::Listeners(pod) => self.remove_listeners(true, |p| p.number == pod),
            Timer::Tunnel(index, generation, step) => {
                let key = Key { index, generation };
                if self.tunnels.get(key).is_some_and(|t| t.step == step) {
                    self.on_tunnel_timer(key);
                }
            }
            Timer::Conn(index, generation, step) => {
                let key = Key { index, generation };
                if self.conns.get(key).is_some_and(|c| c.step == step) {
                    self.on_conn_timer(key);
                }
            }
        }
    }

    fn on_conn_timer(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match conn.state {
            State::Peeking => self.peek_timeout(key),
            State::Judging => self.judge(key, true),
            State::Arriving => self.look_for_pod(key),
            State::Connecting => self.dial_failed(key, Reason::ConnectTimeout),
            State::Opening => self.opening_timeout(key),
            State::Queued => self.over_limit(key),
            State::Open if conn.check_hello => {
                conn.check_hello = false;
                if let Some(down) = &mut conn.down {
                    down.readable = true;
                }
                self.pump_pair(key);
            }
            State::Asking | State::Open => {}
        }
    }

    /// Refuses: the client sees RST (rule DP-31), the record the reason and the plan.
    pub fn refuse(&mut self, key: Key, reason: Reason) {
        self.refuse_by(key, reason, "");
    }

    pub fn refuse_by(&mut self, key: Key, reason: Reason, policy: &str) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.lane = Lane::None;
        if let Some(Given::Dialling(dial)) = conn.given.as_deref_mut() {
            self.shared.counters.add("dial_failed", 1);
            dial.failed(reason, policy);
            return self.end(key, reason, Closer::Agent, true);
        }
        self.shared.counters.add("refused", 1);
        if let Some(tunnel) = conn.tunnel.take().filter(|_| conn.inbound) {
            self.refuse_stream(tunnel, reason, policy);
        }
        self.end(key, reason, Closer::Agent, true);
    }

    /// Ends a connection: one record, sockets closed, by RST if `abort`.
    pub fn end(&mut self, key: Key, reason: Reason, closer: Closer, abort: bool) {
        let Some(mut conn) = self.conns.remove(key) else { return };
        self.end_joins_of(&conn, abort);
        conn.close_first(closer);
        if abort {
            for end in [&conn.down, &conn.up].into_iter().flatten() {
                sock::reset_on_close(end.fd.as_fd());
            }
        }
        if let Some(tunnel) = conn.tunnel
            && let Some(t) = self.tunnels.get_mut(tunnel)
            && t.conn == Some(key)
        {
            t.conn = None;
        }
        let closer = conn.closer;
        if let Some(given) = conn.given.take()
            && !given.ended(&mut conn, reason, abort)
        {
            return self.drain_check();
        }
        self.record(&conn, reason, closer);
        self.drain_check();
    }

    pub fn record(&mut self, conn: &Conn, reason: Reason, closer: Closer) {
        let duration = self.now_us.saturating_sub(conn.started_us);
        let ready = if conn.ready_us == 0 { 0 } else { conn.ready_us.saturating_sub(conn.started_us) };
        let record = Record {
            inbound: conn.inbound,
            lane: conn.lane,
            protocol: conn.detector.protocol() as u8,
            reason,
            closer,
            flags: conn.flags,
            plan: conn.plan.as_ref().map_or(0, |p: &Arc<Plan>| p.id),
            verdict: conn.verdict,
            endpoint: conn.endpoint,
            source: conn.source,
            destination: conn.destination,
            upstream: conn.upstream,
            cookie: conn.pod.sockets.cookie(),
            started_ms: conn.started_ms,
            duration_us: u32::try_from(duration).unwrap_or(u32::MAX),
            ready_us: u32::try_from(ready).unwrap_or(u32::MAX),
            sent: conn.sent,
            received: conn.received,
            id: conn.id,
            policy: conn.policy,
        };
        if self.report.ended(&record, self.now_us) {
            self.flush_records();
        }
    }

    pub fn flush_records(&mut self) {
        self.report.flush(&self.shared);
    }

    /// The socket that a handed-over connection leaves with; the connection itself ends here.
    pub fn take_socket(&mut self, key: Key) -> Option<End> {
        let down = self.conns.get_mut(key)?.down.take()?;
        let _ = epoll::delete(&self.epoll, down.fd.as_fd());
        Some(down)
    }
}
