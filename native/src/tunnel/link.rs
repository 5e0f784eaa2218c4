//! One tunnel: socket, TLS records, frames and the stream machine together. It moves bytes and reports steps; which
//! connection they belong to is the relay's business.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::frame::{Decoder, Piece};
use super::machine::{Event, Machine, Role};
use crate::reason::Reason;
use crate::relay::buffers::Buffers;
use crate::relay::sock::{self, Io};
use crate::tls::identity::{Svid, Trust};
use crate::tls::records::{self, Opened, Records};
use crate::tls::session::{Failure, Handshake, failure};

/// Room of one full record in the sending buffer; full records lie in it without gaps.
pub const RECORD: usize = records::HEADER + records::MAX_PLAIN + records::TRAILER;
/// Control bytes that may wait for a writable socket before reading from the peer pauses.
const MAX_CONTROL: usize = 65_536;

pub enum Layer {
    /// The TCP connect is under way.
    Connecting,
    Handshake(Box<Handshake>),
    Records(Box<Records>),
    /// Failed or closed: only what is queued is still sent.
    Dead,
}

/// What the peer's bytes came to.
#[derive(Debug)]
pub enum Step {
    Event(Event),
    /// Plaintext for the application at this place of the receive buffer.
    Data(Range<usize>),
    /// Nothing more without reading from the socket.
    NeedRead,
    /// close_notify or the end of the socket. `clean`: between frames.
    End {
        clean: bool,
    },
    Failed(Failure),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Fill {
    Got,
    WouldBlock,
    Eof,
    Failed,
}

pub struct Link {
    pub socket: OwnedFd,
    pub peer_address: SocketAddr,
    pub layer: Layer,
    pub machine: Machine,
    decoder: Decoder,
    pub svid: Arc<Svid>,
    pub trust: Arc<Trust>,
    pub peer: Option<Arc<str>>,
    pub peer_not_after_ms: u64,
    /// Frames not yet sealed.
    pub control: Vec<u8>,
    /// Sealed bytes that the socket did not take.
    pub(super) out: Vec<u8>,
    pub(super) out_sent: usize,
    pub readable: bool,
    pub writable: bool,
    pub hangup: bool,
    eof: bool,
    /// close_notify came; `true`: between frames.
    closed: Option<bool>,
    buffer: Vec<u8>,
    /// Encrypted bytes in `buffer`.
    start: usize,
    end: usize,
    /// Decrypted bytes in `buffer` that no step has used yet.
    plain: Range<usize>,
    /// Application data that its socket did not take; `buffer` stays until it is gone.
    pub undelivered: Vec<Range<usize>>,
    pub(super) full_reads: bool,
    /// Reading paused because replies wait for the socket.
    pub stalled: bool,
    /// The last frames of a stream may wait for the first of the next.
    pub hold: bool,
}

impl Link {
    pub fn new(socket: OwnedFd, peer_address: SocketAddr, role: Role, layer: Layer, svid: Arc<Svid>, trust: Arc<Trust>) -> Self {
        Self {
            socket,
            peer_address,
            layer,
            machine: Machine::new(role),
            decoder: Decoder::default(),
            svid,
            trust,
            peer: None,
            peer_not_after_ms: 0,
            control: Vec::new(),
            out: Vec::new(),
            out_sent: 0,
            readable: role == Role::Acceptor,
            writable: role == Role::Acceptor,
            hangup: false,
            eof: false,
            closed: None,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            plain: 0..0,
            undelivered: Vec::new(),
            full_reads: false,
            stalled: false,
            hold: true,
        }
    }

    pub fn ready(&self) -> bool {
        matches!(self.layer, Layer::Records(_))
    }

    /// Behind the last step lies more of what the peer sent with it: DATA behind OPEN, from a peer that keeps to the protocol.
    pub fn has_more(&self) -> bool {
        !self.plain.is_empty() || !self.undelivered.is_empty()
    }

    /// Sealed or unsealed bytes wait for the socket.
    pub fn backlog(&self) -> bool {
        self.out_sent < self.out.len()
    }

    /// Reads more of the peer's bytes. Only when every range handed out is used and `undelivered` is empty.
    pub fn fill(&mut self, buffers: &mut Buffers) -> Fill {
        if !self.readable {
            return if self.eof { Fill::Eof } else { Fill::WouldBlock };
        }
        // A peer that asks (PING, OPEN) but does not read the replies gets no more attention.
        if self.out.len() - self.out_sent + self.control.len() > MAX_CONTROL && self.backlog() {
            self.stalled = true;
            return Fill::WouldBlock;
        }
        if self.buffer.is_empty() {
            self.buffer = buffers.take();
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
        }
        self.end -= self.start;
        self.start = 0;
        let room = self.buffer.len() - self.end;
        match sock::recv(self.socket.as_fd(), &mut self.buffer[self.end..]) {
            Io::Done(0) => {
                self.eof = true;
                self.readable = false;
                Fill::Eof
            }
            Io::Done(n) => {
                self.end += n;
                self.readable = n == room || self.hangup;
                Fill::Got
            }
            Io::WouldBlock => {
                self.readable = false;
                Fill::WouldBlock
            }
            Io::Failed(_) => {
                self.readable = false;
                Fill::Failed
            }
        }
    }

    /// Gives the buffer back when nothing is in it.
    pub fn release(&mut self, buffers: &mut Buffers) {
        if !self.buffer.is_empty() && self.start == self.end && self.plain.is_empty() && self.undelivered.is_empty() {
            buffers.give(std::mem::take(&mut self.buffer));
            (self.start, self.end) = (0, 0);
        }
    }

    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.buffer[range.clone()]
    }

    /// Advances the handshake with what is in the buffer. `Ok(true)`: done.
    pub fn shake(&mut self) -> Result<bool, Failure> {
        let Layer::Handshake(handshake) = &mut self.layer else { return Ok(self.ready()) };
        let mut consumed = 0;
        let result = handshake.advance(&mut self.buffer[self.start..self.end], &mut consumed, &mut self.out);
        self.start += consumed;
        match result {
            Ok(None) => {
                // A hello that fills the whole buffer without an end is no hello.
                let full = self.end - self.start >= records::MAX_RECORD * 2 && !self.buffer.is_empty();
                if full { Err(Failure::new(Reason::HandshakeFailed, "handshake message too long")) } else { Ok(false) }
            }
            Ok(Some(done)) => {
                self.peer = Some(done.peer.into());
                self.peer_not_after_ms = done.peer_not_after_ms;
                self.layer = Layer::Records(Box::new(done.records));
                Ok(true)
            }
            Err(failure) => {
                self.layer = Layer::Dead;
                Err(failure)
            }
        }
    }

    /// Next thing in what was read.
    pub fn step(&mut self) -> Step {
        loop {
            if self.plain.is_empty() {
                match self.open_record() {
                    Ok(true) => continue,
                    Ok(false) => return if self.eof { Step::End { clean: false } } else { Step::NeedRead },
                    Err(step) => return step,
                }
            }
            let mut at = 0;
            let base = self.plain.start;
            let piece = self.decoder.next(&self.buffer[self.plain.clone()], &mut at);
            self.plain.start += at;
            let result = match piece {
                Ok(None) => continue,
                Ok(Some(Piece::Data { stream, start, end })) => match self.machine.data(stream, end - start) {
                    Ok(true) => return Step::Data(base + start..base + end),
                    Ok(false) => continue,
                    Err(v) => Err(v),
                },
                Ok(Some(Piece::Control { kind, stream, payload })) => self.machine.receive(kind, stream, &payload, &mut self.control),
                Err(v) => Err(v),
            };
            match result {
                Ok(Event::Nothing) => {}
                Ok(event) => return Step::Event(event),
                Err(violation) => return Step::Failed(Failure::new(Reason::TunnelProtocol, violation.0)),
            }
        }
    }

    /// Opens the next record. False: it is not all here.
    fn open_record(&mut self) -> Result<bool, Step> {
        if let Some(clean) = self.closed {
            return Err(Step::End { clean });
        }
        let Layer::Records(records) = &mut self.layer else { return Ok(false) };
        match records.open(&mut self.buffer[self.start..self.end]) {
            Ok(Opened::NeedMore) => Ok(false),
            Ok(Opened::Record { used, plain }) => {
                self.plain = self.start + plain.start..self.start + plain.end;
                self.start += used;
                Ok(true)
            }
            Ok(Opened::Closed) => {
                let clean = self.decoder.at_boundary();
                self.closed = Some(clean);
                Err(Step::End { clean })
            }
            // The peer's alert says why; anything else is a breach of the protocol, as of the frames.
            Err(error @ rustls::Error::AlertReceived(_)) => {
                let failure = failure(&error);
                let reason = if failure.reason == Reason::PeerRefusedUs { failure.reason } else { Reason::TunnelLost };
                Err(Step::Failed(Failure { reason, ..failure }))
            }
            Err(error) => Err(Step::Failed(Failure::new(Reason::TunnelProtocol, error.to_string()))),
        }
    }

    /// A key of ours seals so many records at most (RFC 8446 §5.5).
    pub fn limit_key(&mut self, records_per_key: u64) {
        if let Layer::Records(records) = &mut self.layer {
            records.records_per_key = records_per_key;
        }
    }

    /// Why a socket failed: the alert of a peer that refused our certificate may still wait to be read, behind which it closed.
    pub fn last_words(&mut self, buffers: &mut Buffers) -> Failure {
        self.readable = !self.machine.accepted() && self.undelivered.is_empty();
        loop {
            match self.step() {
                Step::Failed(failure) => return failure,
                Step::NeedRead if self.fill(buffers) == Fill::Got => {}
                Step::NeedRead | Step::End { .. } => return Failure::new(Reason::TunnelLost, "socket failed"),
                Step::Event(_) | Step::Data(_) => {}
            }
        }
    }

    /// Queues close_notify behind everything else; the socket is closed by dropping the link.
    pub fn say_goodbye(&mut self) {
        let mut spill = vec![0; self.control.len() + (self.control.len() / records::MAX_PLAIN + 1) * (records::HEADER + records::TRAILER)];
        if let Some(length) = self.seal_control(&mut spill, 0) {
            self.out.extend_from_slice(&spill[..length]);
        }
        if let Layer::Records(records) = &mut self.layer
            && records.close_notify(&mut self.out).is_ok()
        {
            let _ = self.flush();
        }
        self.layer = Layer::Dead;
    }

    /// Closes with RST, so that the peer resets its application at once.
    pub fn abort(&mut self) {
        sock::reset_on_close(self.socket.as_fd());
        self.layer = Layer::Dead;
    }
}
