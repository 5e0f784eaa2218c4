//! A stream in a tunnel: the application's socket on one side, frames on the other, both directions in one pass.

use super::buffers::Buffers;
use super::conn::{Conn, Given, State};
use super::delivery::{PIECES, deliver};
use super::joined_stream::{Into, after_turn, into_sink, more_to_read, source_of};
use super::joins::{How, Join};
use super::slab::{Key, Slab, Token};
use super::timers::Timer;
use super::tunnels::Tunnel;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Closer;
use crate::tls::session::Failure;
use crate::tunnel::frame::{OpenMeta, Refusal};
use crate::tunnel::link::{Fill, Step};
use crate::tunnel::machine::{Event, Role};
use serde_json::json;

/// Reads of one tunnel before the others get their turn.
const TURNS: usize = 8;
/// The opener sends DATA before ACCEPT until so many bytes are on their way; it keeps a copy until then.
pub const EARLY: usize = 16_384;
/// How long the last frames of a stream wait for the next stream on the tunnel, to ride with its OPEN.
const TAIL_WAIT_US: u64 = 1_000;

/// What a pass over the peer's bytes ended with.
enum Passed {
    Waiting,
    /// There are first bytes of a stream that is handed over by them.
    Judge,
    More,
    Event(Event),
    /// The application's socket failed.
    AppFailed,
    /// A join that takes the peer's bytes is over.
    Joined(How),
    End {
        clean: bool,
    },
    Failed(Failure),
}

impl Worker {
    /// Opens a stream on a ready tunnel for a waiting connection.
    pub fn open_stream(&mut self, conn: Key, tunnel: Key) {
        let fresh = self.tunnels.get(tunnel).is_some_and(|t| self.fresh(t));
        let (Some(c), Some(t)) = (self.conns.get_mut(conn), self.tunnels.get_mut(tunnel)) else { return };
        let meta = OpenMeta {
            destination: Some(c.destination),
            service: c.plan.as_ref().and_then(|p| p.service.clone()),
            source_port: Some(c.source.port()),
            requests: matches!(c.given.as_deref(), Some(Given::Dialling(dial)) if dial.requests),
        };
        if t.link.machine.open(&meta, &mut t.link.control).is_none() {
            t.conn = None;
            self.close_tunnel(tunnel);
            return self.retry_unseen(conn);
        }
        t.conn = Some(conn);
        t.idle = false;
        t.send_due_us = 0;
        t.step += 1;
        c.tunnel = Some(tunnel);
        c.identity = t.link.peer.clone();
        c.state = State::Opening;
        c.step += 1;
        c.early_sent = fresh && !c.early.is_empty();
        if c.early_sent {
            t.link.queue_data(&c.early);
        }
        let timer = Timer::conn(conn, c.step);
        self.timers.set(self.now_us / 1_000, self.connect_ms(conn) + self.shared.config.question_timeout_ms, timer);
        self.pump(tunnel);
    }

    /// Does all that can be done on a tunnel now.
    pub fn pump(&mut self, key: Key) {
        for _ in 0..TURNS {
            let Some(t) = self.tunnels.get_mut(key) else { return };
            let conn = t.conn.and_then(|c| self.conns.get_mut(c));
            let passed = pass(t, conn, &mut self.joins, &mut self.buffers);
            match passed {
                Passed::Waiting if t.write_failed => return self.tunnel_broke(key, Failure::new(Reason::TunnelLost, "socket failed")),
                Passed::Waiting => return self.pump_app(key),
                Passed::Judge => {
                    if let Some(conn) = self.tunnels.get(key).and_then(|t| t.conn) {
                        self.judge(conn, false);
                    }
                    return self.pump_app(key);
                }
                Passed::More => {}
                Passed::Event(event) => self.on_event(key, event),
                Passed::AppFailed => self.reset_stream(key, None),
                Passed::Joined(how) => self.end_into(key, how),
                Passed::End { clean } => return self.tunnel_ended(key, clean),
                Passed::Failed(failure) => return self.tunnel_broke(key, failure),
            }
        }
        self.again.push(Token::Tunnel(key));
        self.pump_app(key);
    }

    /// The other direction: the application's bytes and our frames into records, one write.
    pub fn pump_app(&mut self, key: Key) {
        if self.accept_waits(key) {
            return;
        }
        let Some(t) = self.tunnels.get_mut(key) else { return };
        t.link.hold = t.send_due_us == 0 || self.now_us < t.send_due_us;
        let fresh = t.used_us > 0 && self.now_us.saturating_sub(t.used_us) < 5_000_000;
        let role = t.link.machine.role();
        let mut conn = t.conn.and_then(|c| self.conns.get_mut(c));
        let mut joined = None;
        let sent = match &mut conn {
            None => t.link.pump_out(None, &mut self.room, None, |_| {}),
            Some(c) => {
                let Conn { down, up, early, early_sent, detector, inbound, state, from, .. } = &mut **c;
                let inbound = *inbound;
                let mut app = if inbound { up.as_mut() } else { down.as_mut() };
                let mut join = from.and_then(|k| self.joins.get_mut(k));
                let opening = role == Role::Opener && !t.link.machine.accepted();
                let open = if inbound { *state == State::Open } else { !opening || (fresh && early.len() < EARLY) };
                // A stream that moved to this tunnel says again that its application has ended.
                let ended = app.as_ref().is_some_and(|a| a.eof);
                if ended && (!opening || (fresh && (*early_sent || early.is_empty()))) && (!inbound || open) {
                    t.link.fin();
                }
                let keep = if opening { Some(early) } else { None };
                let seen = |chunk: &[u8]| if inbound { detector.from_server() } else { detector.from_client(chunk) };
                let source = source_of(app.as_deref_mut(), join.as_deref_mut());
                let mut sent = t.link.pump_out(source.filter(|_| open), &mut self.room, keep, seen);
                *early_sent |= opening && sent.bytes > 0;
                if let (Some(join), Some(app)) = (join, app) {
                    joined = after_turn(&mut sent, join, app, open).and_then(|how| Some(((*from)?, how)));
                }
                sent
            }
        };
        t.link.release(&mut self.buffers);
        match sent.held {
            true if t.send_due_us == 0 => {
                t.send_due_us = self.now_us + TAIL_WAIT_US;
                self.waiting.push_back((t.send_due_us, key));
            }
            true => {}
            false => t.send_due_us = 0,
        }
        let Some(c) = conn else {
            if sent.tunnel_failed {
                self.drop_tunnel(key);
            } else if std::mem::take(&mut t.link.stalled) {
                self.again.push(Token::Tunnel(key));
            }
            return;
        };
        *(if c.inbound { &mut c.received } else { &mut c.sent }) += sent.bytes;
        if let Some((join, how)) = joined.filter(|_| !sent.tunnel_failed) {
            return self.end_join(join, how);
        }
        if sent.eof {
            let side = c.app_side();
            c.close_first(side);
        }
        if t.link.stalled && !t.link.backlog() {
            t.link.stalled = false;
            self.again.push(Token::Tunnel(key));
        }
        let may_send = t.link.machine.accepted() || (role == Role::Opener && fresh && c.early.len() < EARLY);
        let more = more_to_read(c, &self.joins) && !t.link.backlog() && t.link.machine.can_send() && may_send;
        if sent.tunnel_failed && !t.write_failed {
            // What the peer said before it closed is still to be read.
            t.write_failed = true;
            return self.again.push(Token::Tunnel(key));
        }
        if sent.tunnel_failed {
            let why = t.link.last_words(&mut self.buffers);
            return self.tunnel_broke(key, why);
        }
        if sent.failed {
            return self.reset_stream(key, None);
        }
        if t.link.machine.is_idle() {
            self.stream_done(key);
            return self.tunnel_idle(key);
        }
        if sent.eof && t.link.machine.both_ended() {
            return self.stream_done(key);
        }
        if more {
            self.again.push(Token::Tunnel(key));
        }
    }

    fn on_event(&mut self, key: Key, event: Event) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        match event {
            Event::Open(meta) => self.stream_opened(key, meta),
            Event::Accepted { requests } => {
                t.used_us = self.now_us;
                let Some(conn) = t.conn else { return };
                if self.conns.get(conn).is_some_and(|c| c.given.is_some()) && !self.give_stream(conn, requests) {
                    return;
                }
                let Some(t) = self.tunnels.get_mut(key) else { return };
                if let Some(c) = self.conns.get_mut(conn) {
                    c.state = State::Open;
                    c.step += 1;
                    c.ready_us = self.now_us;
                    self.report.opened(c, self.now_us);
                    // What had been read for a stream that was turned away, and did not ride again, goes first.
                    if !c.early_sent {
                        t.link.queue_data(&c.early);
                    }
                    c.early = Vec::new();
                }
            }
            Event::Refused(refusal) => {
                let conn = t.conn.take();
                let draining = refusal.code == Reason::PeerDraining as u16;
                if draining {
                    self.close_tunnel(key)
                } else {
                    self.tunnel_idle(key)
                }
                if let Some(conn) = conn {
                    self.stream_refused(conn, &refusal);
                }
            }
            Event::Fin => {
                self.end_into(key, How::SourceEnded);
                let Some(t) = self.tunnels.get_mut(key) else { return };
                if let Some(c) = t.conn.and_then(|c| self.conns.get_mut(c)) {
                    let side = c.far_side();
                    c.close_first(side);
                }
                let over = t.link.machine.fin_delivered(&mut t.link.control);
                if t.link.machine.both_ended() {
                    // Closing the application's socket sends the FIN.
                    self.stream_done(key);
                } else if let Some(app) = t.conn.and_then(|c| self.conns.get_mut(c)).and_then(Conn::app) {
                    app.shutdown();
                }
                if over {
                    self.tunnel_idle(key);
                }
            }
            Event::Reset(_) => {
                let conn = t.conn.take();
                if let Some(conn) = conn {
                    let side = self.conns.get(conn).map_or(Closer::Nobody, Conn::far_side);
                    let reason = if side == Closer::Client { Reason::ClientReset } else { Reason::ServerReset };
                    self.end(conn, reason, side, true);
                }
                self.tunnel_idle(key);
            }
            Event::Over => {
                self.stream_done(key);
                self.tunnel_idle(key);
            }
            Event::Drain => {
                if t.idle {
                    self.close_tunnel(key);
                }
            }
            Event::Nothing => {}
        }
    }

    /// Both applications are done: the record is written; the tunnel may still wait for an acknowledgement.
    fn stream_done(&mut self, key: Key) {
        if let Some(conn) = self.tunnels.get_mut(key).and_then(|t| t.conn.take()) {
            self.end(conn, Reason::Finished, Closer::Nobody, false);
        }
    }

    fn stream_refused(&mut self, conn: Key, refusal: &Refusal) {
        let reason = Reason::from_code(refusal.code).unwrap_or(Reason::PeerRefused);
        if refusal.not_started && reason == Reason::PeerDraining {
            return self.retry_unseen(conn);
        }
        if let Some(c) = self.conns.get_mut(conn) {
            // Nothing is silent: the policy's name came over the tunnel and is in no plan of ours.
            c.policy = self.shared.policy_number(&refusal.policy);
            self.shared.event(
                "refused",
                json!({
                    "direction": "outbound", "pod": &*c.pod.name, "id": c.id, "reason": reason.text(), "policy": refusal.policy,
                    "source": {"ip": c.source.ip(), "port": c.source.port()}, "destination": {"ip": c.destination.ip(), "port": c.destination.port()},
                }),
            );
        }
        let by_policy = matches!(reason, Reason::PolicyDenied | Reason::L7Unavailable | Reason::PlaintextRefused);
        if by_policy || !refusal.not_started {
            return self.refuse_by(conn, reason, &refusal.policy);
        }
        self.endpoint_failed(conn, reason);
    }
}

fn judging(conn: Option<&Conn>) -> bool {
    conn.is_some_and(|c| c.state == State::Judging)
}

/// Reads the peer's bytes: data to the application, the first frame that means more to the caller.
fn pass(t: &mut Tunnel, mut conn: Option<&mut Conn>, joins: &mut Slab<Join>, buffers: &mut Buffers) -> Passed {
    let link = &mut t.link;
    let mut all = u64::MAX;
    let may_deliver = conn.as_deref().is_none_or(|c| c.state == State::Open);
    for _ in 0..TURNS {
        let fin_follows = conn.as_deref().is_some_and(|c| c.fin_due);
        if let Some(join) = conn.as_deref().and_then(|c| joins.get_mut(c.into?)) {
            match into_sink(link, join) {
                Into::Open => {}
                Into::Blocked => return Passed::Waiting,
                Into::Over(how) => return Passed::Joined(how),
            }
        } else if let Some(app) = conn.as_deref_mut().and_then(Conn::app).filter(|_| may_deliver)
            && !deliver(link, app, fin_follows, &mut all)
        {
            return Passed::AppFailed;
        }
        if !link.undelivered.is_empty() {
            return if judging(conn.as_deref()) { Passed::Judge } else { Passed::Waiting };
        }
        if let Some(c) = conn.as_deref_mut().filter(|c| c.fin_due) {
            if !may_deliver {
                return if judging(Some(c)) { Passed::Judge } else { Passed::Waiting };
            }
            c.fin_due = false;
            return Passed::Event(Event::Fin);
        }
        // Collect what is decrypted already, then write it at once.
        loop {
            match link.step() {
                Step::Data(range) => {
                    if let Some(c) = conn.as_deref_mut() {
                        *(if c.inbound { &mut c.sent } else { &mut c.received }) += range.len() as u64;
                        if c.inbound { c.detector.from_client(link.bytes(&range)) } else { c.detector.from_server() }
                    }
                    link.undelivered.push(range);
                    if link.undelivered.len() >= PIECES {
                        break;
                    }
                }
                Step::Event(Event::Fin) => {
                    if let Some(c) = conn.as_deref_mut() {
                        c.fin_due = true;
                    }
                    break;
                }
                Step::Event(event) => {
                    if matches!(event, Event::Reset(_)) {
                        link.undelivered.clear();
                    }
                    return Passed::Event(event);
                }
                Step::End { .. } if !link.undelivered.is_empty() => break,
                Step::End { clean } => return Passed::End { clean },
                Step::Failed(failure) => return Passed::Failed(failure),
                Step::NeedRead if !link.undelivered.is_empty() => break,
                Step::NeedRead => match link.fill(buffers) {
                    Fill::Got => {}
                    Fill::WouldBlock => return Passed::Waiting,
                    Fill::Eof => return Passed::End { clean: false },
                    Fill::Failed => return Passed::Failed(Failure::new(Reason::TunnelLost, "socket failed")),
                },
            }
        }
    }
    Passed::More
}
