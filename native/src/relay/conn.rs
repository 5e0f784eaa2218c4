//! One connection of an application as a worker holds it: its two ends, what was decided, what will be recorded.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::dial::Dial;
use super::plan::{Opaque, Plan};
use super::shared::{Place, Pod, Waiting};
use super::slab::Key;
use super::sock::{self, Io};
use super::threads::Stream;
use crate::detect::Detector;
use crate::reason::Reason;
use crate::record::{Closer, Lane};

/// A socket with what edge-triggered readiness said last.
pub struct End {
    pub fd: OwnedFd,
    pub readable: bool,
    pub writable: bool,
    /// The peer's FIN was announced: after a short read the end is still to be read.
    pub hangup: bool,
    /// Read to the end.
    pub eof: bool,
    /// Our direction is shut.
    pub shut: bool,
    /// Bytes the socket did not take.
    pub pending: Vec<u8>,
    pub pending_at: usize,
    /// Bytes that may still be read from it; `u64::MAX`: all.
    pub left: u64,
}

impl End {
    /// `ready`: worth trying to read and write before the first event.
    pub fn new(fd: OwnedFd, ready: bool) -> Self {
        Self { fd, readable: ready, writable: ready, hangup: false, eof: false, shut: false, pending: Vec::new(), pending_at: 0, left: u64::MAX }
    }

    pub fn blocked(&self) -> bool {
        self.pending_at < self.pending.len()
    }

    /// Sends what waits. False: the socket failed.
    pub fn flush(&mut self) -> bool {
        while self.blocked() && self.writable {
            match sock::send(self.fd.as_fd(), &self.pending[self.pending_at..]) {
                Io::Done(n) => self.pending_at += n,
                Io::WouldBlock => self.writable = false,
                Io::Failed(_) => return false,
            }
        }
        if !self.blocked() && self.pending_at > 0 {
            self.pending = Vec::new();
            self.pending_at = 0;
        }
        true
    }

    pub fn shutdown(&mut self) {
        if !self.shut {
            self.shut = true;
            sock::shutdown_write(self.fd.as_fd());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the answer to a question.
    Asking,
    /// Inbound: waits for first bytes.
    Peeking,
    /// Waits for first bytes, by which it is handed over or not.
    Judging,
    /// Waits for another connection to the service to end.
    Queued,
    /// Waits until the destination's pod is enrolled here.
    Arriving,
    /// Waits for the socket towards the server.
    Connecting,
    /// Waits for a tunnel, or for ACCEPT on it.
    Opening,
    Open,
}

/// What a data thread has to do with a connection.
pub enum Given {
    /// It goes to the thread if its first bytes are HTTP.
    Judging { thread: u32, opaque: Opaque },
    /// The thread waits for it.
    Dialling(Dial),
    /// The thread has the other end of the application's socket.
    Stream(Stream),
}

pub struct Conn {
    pub id: u64,
    pub pod: Arc<Pod>,
    pub inbound: bool,
    pub state: State,
    /// Counts state changes, so that a timer of an earlier state does nothing.
    pub step: u32,
    /// Socket of the client (absent for a stream that came through a tunnel).
    pub down: Option<End>,
    /// Socket towards the server (absent for a stream that leaves through a tunnel).
    pub up: Option<End>,
    pub tunnel: Option<Key>,
    pub plan: Option<Arc<Plan>>,
    pub given: Option<Box<Given>>,
    /// Where connections to the service are limited.
    pub place: Option<Place>,
    pub waiting: Option<Waiting>,
    /// Joins that take what comes for the thread, and that bring what it would send.
    pub into: Option<Key>,
    pub from: Option<Key>,
    /// The endpoint that the connect hook took for it.
    pub chosen: Option<SocketAddr>,
    pub tried: Vec<u16>,
    pub endpoint: u16,
    /// Times that its endpoint was dialled again since the handshake was cut.
    pub redials: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub upstream: Option<SocketAddr>,
    pub service: Option<String>,
    /// Came through a tunnel whose other end offers requests as HTTP/2.
    pub requests: bool,
    /// Identity of the other side, as its certificate said.
    pub identity: Option<Arc<str>>,
    pub verdict: u32,
    /// Number of the policy by which the other agent refused it (`Shared::policy_number`).
    pub policy: u32,
    pub lane: Lane,
    pub flags: u8,
    pub closer: Closer,
    pub failure: Option<Reason>,
    pub started_ms: u64,
    pub started_us: u64,
    pub ready_us: u64,
    pub sent: u64,
    pub received: u64,
    pub detector: Detector,
    /// DATA sent before ACCEPT, kept until it cannot be needed for another tunnel.
    pub early: Vec<u8>,
    /// `early` is on the wire of the current tunnel.
    pub early_sent: bool,
    /// The tunnel's FIN arrived; it is passed on when everything before it is delivered.
    pub fin_due: bool,
    /// Went plain without a byte seen: the first bytes must be no tunnel hello.
    pub check_hello: bool,
    /// Waiting rule of a silent client has been asked.
    pub rule_known: bool,
    /// It is refused when the wait for first bytes ends.
    pub refuse_silent: bool,
}

impl Conn {
    /// The application's socket of a stream in a tunnel.
    pub fn app(&mut self) -> Option<&mut End> {
        if self.inbound { self.up.as_mut() } else { self.down.as_mut() }
    }

    pub fn close_first(&mut self, closer: Closer) {
        if self.closer == Closer::Nobody {
            self.closer = closer;
        }
    }

    /// Whose end the local application is.
    pub fn app_side(&self) -> Closer {
        if self.inbound { Closer::Server } else { Closer::Client }
    }

    pub fn far_side(&self) -> Closer {
        if self.inbound { Closer::Client } else { Closer::Server }
    }
}
