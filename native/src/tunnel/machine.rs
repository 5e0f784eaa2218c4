//! The stream state machine of one tunnel, pure: calls and frames in, frames (bytes) and events out. One stream at a time;
//! the tunnel is free for the next one when both FINs are acknowledged, both sides have sent RST, or OPEN was refused.

use super::frame::{Kind, OpenMeta, Refusal, Violation, accept_payload, accepts_requests, put};
use crate::reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client's agent, who made the tunnel and opens streams.
    Opener,
    Acceptor,
}

/// What a received frame means to the owner of the tunnel.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Acceptor: a stream begins; answer with `accept` or `refuse`.
    Open(OpenMeta),
    /// Opener: the application side is connected. `requests`: it is a data thread that reads HTTP/2, as was offered.
    Accepted {
        requests: bool,
    },
    /// Opener: the stream is over; `not_started` allows another tunnel to carry it.
    Refused(Refusal),
    /// The peer's application will send no more: after all data is delivered call `fin_delivered`.
    Fin,
    /// The peer's application reset the connection; the answer is already queued.
    Reset(Reason),
    /// The stream ended in order or its reset is confirmed: the tunnel is free.
    Over,
    /// The peer wants no new stream.
    Drain,
    Nothing,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    accepted: bool,
    /// Opener: OPEN offered requests.
    offers: bool,
    sent_fin: bool,
    got_fin: bool,
    /// Everything up to the peer's FIN has reached our application.
    fin_delivered: bool,
    sent_fin_ack: bool,
    got_fin_ack: bool,
    sent_rst: bool,
    got_rst: bool,
    /// Bytes of DATA, either way.
    sent: u64,
    received: u64,
    /// What our FIN and the peer's said of the bytes that had reached the application.
    our_count: Option<u64>,
    peer_count: Option<u64>,
}

#[derive(Debug)]
pub struct Machine {
    role: Role,
    /// Number of the current or, when idle, the last stream.
    number: u32,
    stream: Option<Stream>,
    sent_drain: bool,
    got_drain: bool,
}

impl Machine {
    pub fn new(role: Role) -> Self {
        Self { role, number: 0, stream: None, sent_drain: false, got_drain: false }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// Current stream number, or that of the last one; also how many streams there were.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn is_idle(&self) -> bool {
        self.stream.is_none()
    }

    pub fn accepted(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.accepted)
    }

    pub fn draining(&self) -> bool {
        self.sent_drain || self.got_drain
    }

    /// Both FINs are sent and received (perhaps not yet acknowledged): the applications are done with each other.
    pub fn both_ended(&self) -> bool {
        self.stream.as_ref().is_none_or(|s| s.sent_fin && s.fin_delivered)
    }

    pub fn resetting(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.sent_rst)
    }

    /// Whether DATA may be sent now. The opener may send before ACCEPT; whether it should is the owner's matter.
    pub fn can_send(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| !s.sent_fin && !s.sent_rst && (s.accepted || self.role == Role::Opener))
    }

    pub fn sent_fin(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.sent_fin)
    }

    /// Opener: begins a stream. `None`: the tunnel is busy, draining, or out of numbers.
    pub fn open(&mut self, meta: &OpenMeta, out: &mut Vec<u8>) -> Option<u32> {
        if self.role != Role::Opener || self.stream.is_some() || self.draining() {
            return None;
        }
        self.number = self.number.checked_add(1)?;
        self.stream = Some(Stream { offers: meta.requests, ..Stream::default() });
        put(out, Kind::Open, self.number, &meta.encode());
        Some(self.number)
    }

    /// Acceptor: the application side is connected. Must come before any data of the application.
    /// `requests`: what OPEN offered is taken.
    pub fn accept(&mut self, requests: bool, out: &mut Vec<u8>) {
        if let Some(s) = self.stream.as_mut().filter(|s| !s.accepted && !s.sent_rst) {
            s.accepted = true;
            put(out, Kind::Accept, self.number, &accept_payload(requests));
        }
    }

    /// Acceptor: no. The stream is over; frames of it that are under way are ignored.
    pub fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        if self.stream.as_ref().is_some_and(|s| !s.accepted && !s.sent_rst) {
            put(out, Kind::Refuse, self.number, &refusal.encode());
            self.stream = None;
        }
    }

    /// So many bytes of DATA were sent.
    pub fn note_sent(&mut self, bytes: usize) {
        if let Some(s) = &mut self.stream {
            s.sent += bytes as u64;
        }
    }

    /// The local application will send no more; `waiting` bytes of the peer's have not reached it yet. True: the stream is over.
    pub fn fin(&mut self, waiting: usize, out: &mut Vec<u8>) -> bool {
        if !self.can_send() {
            return false;
        }
        if let Some(s) = &mut self.stream {
            let count = s.received.saturating_sub(waiting as u64);
            put(out, Kind::Fin, self.number, &count.to_be_bytes());
            s.sent_fin = true;
            s.our_count = Some(count);
        }
        self.acknowledge(out);
        self.settle()
    }

    /// FIN_ACK only serves the reuse of the tunnel, which needs both FINs: it waits for our own and rides with it. Where that
    /// said that all has reached the application, it was the acknowledgement, and there is no other.
    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        if let Some(s) = self.stream.as_mut().filter(|s| s.fin_delivered && s.sent_fin && !s.sent_fin_ack && !s.sent_rst) {
            s.sent_fin_ack = true;
            if !s.acknowledged_peer() {
                put(out, Kind::FinAck, self.number, &[]);
            }
        }
    }

    /// Everything up to the peer's FIN has reached the local application. True: the stream is over.
    pub fn fin_delivered(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(s) = self.stream.as_mut().filter(|s| s.got_fin) {
            s.fin_delivered = true;
        }
        self.acknowledge(out);
        self.settle()
    }

    /// The local application reset its connection, or the agent ends it. True: the stream is over at once.
    pub fn reset(&mut self, reason: Reason, out: &mut Vec<u8>) -> bool {
        if let Some(s) = self.stream.as_mut().filter(|s| !s.sent_rst) {
            s.sent_rst = true;
            // The stream may have ended for the peer with our FIN: then it answers nothing.
            s.sent_fin_ack |= s.acknowledged_peer();
            put(out, Kind::Rst, self.number, &(reason as u16).to_be_bytes());
        }
        self.settle()
    }

    /// Announces that no further stream is taken (acceptor) or will come (opener).
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        if !self.sent_drain {
            self.sent_drain = true;
            put(out, Kind::Drain, 0, &[]);
        }
    }

    /// Judges a DATA frame. True: deliver its bytes; false: they belong to a stream that is over or being reset.
    pub fn data(&mut self, stream: u32, bytes: usize) -> Result<bool, Violation> {
        if stream > self.number || stream == 0 {
            return Err(Violation("DATA of a stream that was never opened"));
        }
        match &mut self.stream {
            Some(s) if stream == self.number => {
                if s.got_fin {
                    return Err(Violation("DATA after FIN"));
                }
                if self.role == Role::Opener && !s.accepted && !s.sent_rst {
                    return Err(Violation("DATA before ACCEPT"));
                }
                s.received += bytes as u64;
                Ok(!s.sent_rst && !s.got_rst)
            }
            _ => Ok(false),
        }
    }

    /// Takes a control frame; replies are appended to `out`.
    pub fn receive(&mut self, kind: Kind, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<Event, Violation> {
        match kind {
            Kind::Open => return self.receive_open(stream, payload, out),
            Kind::Drain => {
                self.got_drain = true;
                return Ok(Event::Drain);
            }
            Kind::Ping => {
                put(out, Kind::Pong, 0, &payload[..payload.len().min(8)]);
                return Ok(Event::Nothing);
            }
            Kind::Pong | Kind::Data => return Ok(Event::Nothing),
            _ => {}
        }
        if stream > self.number || stream == 0 {
            return Err(Violation("frame of a stream that was never opened"));
        }
        // Frames of an earlier stream were under way when it ended here.
        let Some(s) = self.stream.as_mut().filter(|_| stream == self.number) else { return Ok(Event::Nothing) };
        match kind {
            Kind::Accept => {
                if self.role != Role::Opener || s.accepted {
                    return Err(Violation("unexpected ACCEPT"));
                }
                s.accepted = true;
                let requests = s.offers && accepts_requests(payload);
                Ok(if s.sent_rst { Event::Nothing } else { Event::Accepted { requests } })
            }
            Kind::Refuse => {
                if self.role != Role::Opener || s.accepted {
                    return Err(Violation("unexpected REFUSE"));
                }
                let refusal = Refusal::decode(payload).ok_or(Violation("short REFUSE"))?;
                let resetting = s.sent_rst;
                self.stream = None;
                Ok(if resetting { Event::Over } else { Event::Refused(refusal) })
            }
            Kind::Fin => {
                if s.got_fin || (self.role == Role::Opener && !s.accepted) {
                    return Err(Violation("unexpected FIN"));
                }
                s.got_fin = true;
                s.peer_count = payload.first_chunk().map(|b| u64::from_be_bytes(*b));
                if s.peer_count.is_some_and(|c| c > s.sent) {
                    return Err(Violation("FIN of more than was sent"));
                }
                if !s.sent_rst {
                    return Ok(Event::Fin);
                }
                // It crossed our RST, which the peer does not answer if the stream has ended for it with our FIN.
                s.sent_fin_ack |= s.acknowledged_peer();
                Ok(if self.settle() { Event::Over } else { Event::Nothing })
            }
            Kind::FinAck => {
                if !s.sent_fin || s.got_fin_ack {
                    return Err(Violation("unexpected FIN_ACK"));
                }
                s.got_fin_ack = true;
                Ok(if self.settle() { Event::Over } else { Event::Nothing })
            }
            _ => {
                s.got_rst = true;
                let known = s.sent_rst;
                if !known {
                    s.sent_rst = true;
                    put(out, Kind::Rst, stream, &payload[..payload.len().min(2)]);
                }
                self.settle();
                let code = payload.first_chunk::<2>().map_or(0, |b| u16::from_be_bytes(*b));
                Ok(if known { Event::Over } else { Event::Reset(Reason::from_code(code).unwrap_or(Reason::PeerRefused)) })
            }
        }
    }

    fn receive_open(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<Event, Violation> {
        if self.role != Role::Acceptor || self.stream.is_some() || stream <= self.number {
            return Err(Violation("unexpected OPEN"));
        }
        let meta = OpenMeta::decode(payload).ok_or(Violation("bad OPEN metadata"))?;
        self.number = stream;
        self.stream = Some(Stream::default());
        if self.sent_drain {
            self.refuse(&Refusal::new(Reason::PeerDraining, true, ""), out);
            return Ok(Event::Nothing);
        }
        Ok(Event::Open(meta))
    }

    /// Ends the stream once both sides know of each other's end.
    fn settle(&mut self) -> bool {
        let over = self.stream.as_ref().is_some_and(|s| (s.sent_fin_ack && s.is_acknowledged()) || (s.sent_rst && s.got_rst));
        if over {
            self.stream = None;
        }
        self.stream.is_none()
    }
}

impl Stream {
    /// Our FIN said that everything the peer sent has reached the application, and the peer understands that.
    fn acknowledged_peer(&self) -> bool {
        self.got_fin && self.peer_count.is_some() && self.our_count == Some(self.received)
    }

    fn is_acknowledged(&self) -> bool {
        self.sent_fin && (self.got_fin_ack || self.peer_count == Some(self.sent))
    }
}
