//! Gives a connection to a data thread (the HTTP lane): the accepted socket itself, its bytes unread, or one end of a socket
//! pair for a stream that came through a tunnel. Where the plan or verdict says so, only if its first bytes are HTTP.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use rustix::net::sockopt;
use serde_json::{Value, json};

use super::conn::{Conn, End, Given, State};
use super::dial::Dial;
use super::plan::{Endpoint, Handover, Opaque};
use super::slab::Key;
use super::sock::{self, Io};
use super::threads::{DataThread, Place, pair};
use super::timers::Timer;
use super::worker::Worker;
use crate::channel::EVENT;
use crate::detect::client_hello::MAX_HELLO;
use crate::detect::{Protocol, Seen, detect};
use crate::reason::Reason;
use crate::record::{Closer, Lane};

/// What first bytes say about a connection that is to be handed over.
enum First {
    Http,
    Other,
    /// Nothing yet, or too little to tell.
    Nothing,
    /// Too little to tell, and no more is to be seen before it goes on.
    Unclear,
}

/// What every event of a handed connection says.
pub struct Facts<'a> {
    pub inbound: bool,
    pub tunnel: &'static str,
    pub pod: &'a str,
    pub id: u64,
    pub original: SocketAddr,
    pub source: SocketAddr,
    pub plan: u32,
    pub verdict: u32,
    pub identity: Option<&'a str>,
    pub protocol: Protocol,
}

impl Facts<'_> {
    pub fn event(&self) -> Value {
        let protocol = match self.protocol {
            Protocol::Http1 => Some("http1"),
            Protocol::Http2 => Some("http2"),
            _ => None,
        };
        json!({
            "event": "socket", "direction": if self.inbound { "inbound" } else { "outbound" }, "tunnel": self.tunnel, "pod": self.pod, "id": self.id,
            "original": {"ip": self.original.ip(), "port": self.original.port()}, "source": {"ip": self.source.ip(), "port": self.source.port()},
            "planId": self.plan, "verdictId": self.verdict, "identity": self.identity, "protocol": protocol,
        })
    }
}

/// What tells a socket from another that has its number later; null if the kernel does not say.
pub fn cookie(fd: &OwnedFd) -> Value {
    json!(sockopt::socket_cookie(fd).ok())
}

/// Sends an event with a descriptor, which is the thread's from then on. An error gives it back.
pub fn send_socket(thread: &DataThread, mut event: Value, fd: OwnedFd) -> Result<(), OwnedFd> {
    event["fd"] = json!(fd.as_raw_fd());
    event["cookie"] = cookie(&fd);
    if !thread.channel.send_json(EVENT, &event) {
        return Err(fd);
    }
    // One process, so the number is enough.
    let _ = fd.into_raw_fd();
    Ok(())
}

fn upstream(endpoint: &Endpoint, index: u16) -> Value {
    let mut row = json!({
        "ip": endpoint.address.ip(), "port": endpoint.address.port(), "mode": endpoint.mode.text(), "identities": *endpoint.identities, "index": index,
    });
    if let Some(pod) = &endpoint.pod {
        (row["pod"], row["verdictId"]) = (json!(pod), json!(endpoint.verdict));
    }
    if let Some(to) = endpoint.tunnel_address {
        row["tunnelAddress"] = json!({"ip": to.ip(), "port": to.port()});
    }
    row
}

impl Given {
    /// Whether the end of its socket is only a thread's death.
    pub fn orphaned(&self) -> bool {
        matches!(self, Given::Stream(stream) if stream.orphaned())
    }

    /// The connection ends. True: it has a record of its own; a dial that failed has not, whoever waits for it is told.
    pub fn ended(self, conn: &mut Conn, reason: Reason, abort: bool) -> bool {
        match self {
            Given::Judging { .. } => true,
            Given::Dialling(mut dial) => {
                Dial::failed(&mut dial, reason, "");
                false
            }
            Given::Stream(stream) => {
                let ours = if conn.inbound { conn.up.take() } else { conn.down.take() };
                if let Some(ours) = ours.filter(|_| abort) {
                    stream.abort(ours.fd);
                }
                true
            }
        }
    }
}

impl Worker {
    /// Hands `key` over, at once or when its first bytes have been judged.
    pub fn hand_over(&mut self, key: Key, order: &Handover) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        // What the other agent's data thread offers needs no look: it is read as requests, or refused.
        let Some(opaque) = order.opaque.filter(|_| !conn.requests) else { return self.give(key, order.thread) };
        conn.given = Some(Box::new(Given::Judging { thread: order.thread, opaque }));
        conn.state = State::Judging;
        conn.step += 1;
        let (step, tunnel) = (conn.step, conn.tunnel);
        if let Some(tunnel) = tunnel {
            // The other agent lets its client's bytes come only then.
            self.app_connected(tunnel, false);
        }
        if order.detect_ms > 0 {
            self.timers.set(self.now_us / 1_000, order.detect_ms, Timer::conn(key, step));
        }
        self.judge(key, order.detect_ms == 0);
    }

    /// Looks at what has come of a connection that is to be handed over. `due`: it is not waited for any longer.
    pub fn judge(&mut self, key: Key, due: bool) {
        let Some(conn) = self.conns.get(key).filter(|c| c.state == State::Judging) else { return };
        let Some(Given::Judging { thread, opaque }) = conn.given.as_deref() else { return };
        let (thread, opaque) = (*thread, *opaque);
        let first = if conn.tunnel.is_some() { of_stream(conn) } else { self.of_socket(key) };
        let is_text = self.conns.get(key).is_some_and(|c| c.detector.began_as_text());
        match (first, opaque) {
            (First::Http | First::Unclear, _) => self.give(key, thread),
            // Meant as a request: the thread says what is wrong with it, and counts it.
            (First::Other, _) if is_text => self.give(key, thread),
            (First::Nothing, _) if !due => {}
            // Silence is the thread's matter: let through here, HTTP could begin after it, with nobody to route, judge or count it.
            (First::Nothing, _) => self.give(key, thread),
            (First::Other, Opaque::Forward) => self.forward_opaque(key),
            (First::Other, Opaque::Refuse) => self.refuse(key, Reason::NotHttp),
        }
    }

    fn of_socket(&mut self, key: Key) -> First {
        let Some(conn) = self.conns.get_mut(key) else { return First::Nothing };
        let Some(down) = conn.down.as_ref() else { return First::Nothing };
        self.peeked.reserve(MAX_HELLO);
        match sock::peek(down.fd.as_fd(), &mut self.peeked) {
            Io::WouldBlock => First::Nothing,
            // Whoever takes it sees the end, or the error.
            Io::Done(0) | Io::Failed(_) => First::Unclear,
            Io::Done(_) => match detect(&self.peeked) {
                Seen::NeedMore if down.hangup => First::Unclear,
                Seen::NeedMore if self.peeked.len() < MAX_HELLO => First::Nothing,
                seen => {
                    conn.detector.from_client(&self.peeked);
                    if matches!(seen, Seen::Http1 | Seen::Http2) { First::Http } else { First::Other }
                }
            },
        }
    }

    /// It goes on as if the plan or verdict had said forward.
    fn forward_opaque(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.given = None;
        self.shared.counters.add("handover_opaque", 1);
        if conn.inbound { self.connect_app(key) } else { self.enter(key) }
    }

    /// Without such a thread the connection is refused: it must not pass where L7 rules apply (rule DP-24).
    fn give(&mut self, key: Key, number: u32) {
        let thread = self.shared.threads.read().ok().and_then(|h| h.get(&number).cloned());
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.given = None;
        let Some(thread) = thread else {
            self.shared.counters.add("handover_no_thread", 1);
            return self.refuse(key, Reason::L7Unavailable);
        };
        let facts = Facts {
            inbound: conn.inbound,
            tunnel: match (conn.tunnel, conn.lane) {
                (Some(_), _) => "fairlead/1",
                (None, Lane::Local) if conn.inbound => "local",
                _ => "plain",
            },
            pod: &conn.pod.name,
            id: conn.id,
            original: conn.destination,
            source: conn.source,
            plan: conn.plan.as_ref().map_or(0, |p| p.id),
            verdict: conn.verdict,
            identity: conn.identity.as_deref(),
            protocol: if conn.requests { Protocol::Http2 } else { conn.detector.protocol() },
        };
        let mut event = facts.event();
        event["requests"] = json!(conn.requests);
        if let Some(plan) = &conn.plan {
            event["service"] = json!(plan.service);
            // The plan's choice, for a thread that only carries; the HTTP lane picks for itself.
            if let Some(index) = plan.pick(&[], conn.chosen) {
                event["upstream"] = upstream(&plan.endpoints[usize::from(index)], index);
            }
        }
        match conn.tunnel {
            Some(tunnel) => self.give_tunnelled(key, tunnel, &thread, event),
            None => self.give_accepted(key, &thread, event),
        }
    }

    fn give_tunnelled(&mut self, key: Key, tunnel: Key, thread: &Arc<DataThread>, event: Value) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let stream = thread.begin(conn.id, Place::Worker(self.index, key));
        let (Ok((ours, theirs)), Some(stream)) = (pair(), stream) else { return self.refuse(key, Reason::HandoverFailed) };
        conn.lane = Lane::Http;
        conn.state = State::Open;
        conn.step += 1;
        conn.ready_us = self.now_us;
        let requests = conn.requests;
        self.report.opened(conn, self.now_us);
        conn.up = Some(End::new(ours, true));
        conn.given = Some(Box::new(Given::Stream(stream)));
        self.watch_up(key);
        // If it cannot be sent, the thread's end is closed here, and the stream is reset like any whose thread is gone.
        if send_socket(thread, event, theirs).is_err() {
            return self.refuse(key, Reason::HandoverFailed);
        }
        self.app_connected(tunnel, requests);
    }

    fn give_accepted(&mut self, key: Key, thread: &DataThread, event: Value) {
        let Some(down) = self.take_socket(key) else { return };
        if let Err(fd) = send_socket(thread, event, down.fd) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.down = Some(End::new(fd, false));
            }
            return self.refuse(key, Reason::HandoverFailed);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.lane = Lane::Http;
        }
        self.end(key, Reason::HandedOver, Closer::Nobody, false);
    }

    /// The thread resets its stream, and waits for the answer.
    pub fn abort_given(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if matches!(conn.given.as_deref(), Some(Given::Stream(_))) {
            // It need not be told.
            conn.given = None;
            let down = !conn.inbound;
            self.on_error(key, down);
        }
    }
}

/// Bytes of a stream are named in passing. They wait in the tunnel's buffer, which takes no more until they have gone on.
fn of_stream(conn: &Conn) -> First {
    match conn.detector.protocol() {
        Protocol::Http1 | Protocol::Http2 => First::Http,
        _ if conn.detector.decided() => First::Other,
        _ if conn.sent > 0 || conn.fin_due => First::Unclear,
        _ => First::Nothing,
    }
}
