//! Takes connections from the listeners of the pods.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::conn::{Conn, End, State};
use super::shared::Pod;
use super::slab::{Key, Token};
use super::sock;
use super::worker::Worker;
use crate::borrow_fd;
use crate::detect::Detector;
use crate::record::{Closer, Lane};
use crate::seam::{Direction, Listener};

/// Connections taken from one listener before others get their turn.
const BATCH: usize = 64;
/// Bound of emptying a listener to which nothing new is steered: more than its backlog can hold.
const QUEUE: usize = 65_536;

pub struct Listening {
    pub pod: Arc<Pod>,
    pub listener: Listener,
}

impl Listening {
    /// The pod owns the descriptor and is kept alive by this entry.
    pub fn fd(&self) -> BorrowedFd<'_> {
        borrow_fd(self.listener.fd, self)
    }
}

impl Worker {
    pub fn add_pod(&mut self, pod: Arc<Pod>) {
        if let Some(old) = self.pods.get(&*pod.name)
            && Arc::ptr_eq(&old.sockets, &pod.sockets)
        {
            return;
        }
        let (name, number) = (pod.name.clone(), pod.number);
        // One of that name that is leaving lets go of its own when it is time.
        let leaving: Vec<u32> = self.leaving.iter().map(|l| l.pod.number).collect();
        self.remove_listeners(false, |p| p.name == name && p.number != number && !leaving.contains(&p.number));
        // Back while it was leaving: what it has open goes on.
        let cookie = pod.sockets.cookie();
        self.leaving.iter_mut().filter(|l| l.pod.name == pod.name && l.pod.sockets.cookie() == cookie).for_each(|l| l.until_us = u64::MAX);
        for listener in pod.sockets.listeners() {
            let entry = Listening { pod: pod.clone(), listener: *listener };
            sock::tune(entry.fd(), listener.direction == Direction::Inbound);
            let key = self.listeners.insert(entry);
            let data = epoll::EventData::new_u64(Token::Listener(key).pack());
            let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
            let result = self.listeners.get(key).map(|l| epoll::add(&self.epoll, l.fd(), data, flags));
            if let Some(Err(error)) = result {
                self.shared.log("error", "listener cannot be watched", serde_json::json!({"pod": &*pod.name, "error": error.to_string()}));
                self.listeners.remove(key);
            }
        }
        self.pods.insert(pod.name.to_string(), pod);
    }

    /// Takes all that waits, then lets go of the listeners of the pods that are meant. What waits may be long: a worker that has stood
    /// still finds the pod's end and a second of its clients at once. `stop`: nobody else takes over, so refuse what still comes.
    pub fn remove_listeners(&mut self, stop: bool, of: impl Fn(&Pod) -> bool) {
        let keys: Vec<Key> = self.listeners.iter().filter(|(_, l)| of(&l.pod)).map(|(k, _)| k).collect();
        for key in keys {
            self.take(key, QUEUE);
            if let Some(entry) = self.listeners.remove(key) {
                let _ = epoll::delete(&self.epoll, entry.fd());
                if stop {
                    sock::stop_listening(entry.fd());
                }
            }
        }
    }

    pub fn on_listener(&mut self, key: Key) {
        self.take(key, BATCH);
    }

    fn take(&mut self, key: Key, most: usize) {
        for _ in 0..most {
            let Some(entry) = self.listeners.get(key) else { return };
            match sock::accept(entry.fd()) {
                Ok(None) => return,
                Ok(Some((fd, peer))) => {
                    let (pod, direction) = (entry.pod.clone(), entry.listener.direction);
                    match direction {
                        Direction::Outbound => self.start_outbound(pod, fd, peer),
                        Direction::Inbound => self.start_inbound(pod, fd, peer),
                    }
                }
                Err(_) => {
                    // Out of descriptors: take one connection with the reserve and refuse it, or the listener spins.
                    self.shared.counters.add("accept_failed", 1);
                    self.reserve = None;
                    if let Some(Ok(Some((fd, _)))) = self.listeners.get(key).map(|l| sock::accept(l.fd())) {
                        sock::reset_on_close(fd.as_fd());
                    }
                    self.reserve = eventfd(0, EventfdFlags::CLOEXEC).ok();
                    return;
                }
            }
        }
    }

    /// A connection with its client's socket registered; `None`: it could not be watched and is reset.
    pub fn new_conn(&mut self, pod: Arc<Pod>, inbound: bool, source: std::net::SocketAddr, destination: std::net::SocketAddr) -> Conn {
        Conn {
            id: self.shared.connection_ids.fetch_add(1, Ordering::Relaxed),
            pod,
            inbound,
            state: State::Asking,
            step: 0,
            down: None,
            up: None,
            tunnel: None,
            plan: None,
            given: None,
            place: None,
            waiting: None,
            into: None,
            from: None,
            chosen: None,
            tried: Vec::new(),
            endpoint: u16::MAX,
            source,
            destination,
            upstream: None,
            service: None,
            requests: false,
            identity: None,
            verdict: 0,
            policy: 0,
            lane: Lane::None,
            flags: 0,
            closer: Closer::Nobody,
            failure: None,
            started_ms: self.shared.unix_ms(self.now_us),
            started_us: self.now_us,
            ready_us: 0,
            sent: 0,
            received: 0,
            detector: Detector::default(),
            early: Vec::new(),
            early_sent: false,
            fin_due: false,
            check_hello: false,
            rule_known: false,
            refuse_silent: false,
            redials: 0,
        }
    }

    /// Stores a connection whose client is `fd` and watches that socket.
    pub fn keep_conn(&mut self, mut conn: Conn, fd: OwnedFd) -> Key {
        conn.down = Some(End::new(fd, true));
        let key = self.conns.insert(conn);
        if let Some(end) = self.conns.get(key).and_then(|c| c.down.as_ref()) {
            self.watch(end.fd.as_fd(), Token::Down(key));
        }
        key
    }

    pub fn watch_up(&self, key: Key) {
        if let Some(up) = self.conns.get(key).and_then(|c| c.up.as_ref()) {
            self.watch(up.fd.as_fd(), Token::Up(key));
        }
    }

    /// Registers a socket once, edge triggered, for everything.
    pub fn watch(&self, fd: BorrowedFd<'_>, token: Token) {
        use epoll::EventFlags as F;
        let data = epoll::EventData::new_u64(token.pack());
        if let Err(error) = epoll::add(&self.epoll, fd, data, F::IN | F::OUT | F::RDHUP | F::ET) {
            self.shared.log("error", "socket cannot be watched", serde_json::json!({"error": error.to_string()}));
        }
    }
}
