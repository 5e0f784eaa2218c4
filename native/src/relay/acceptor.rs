//! The acceptor's side of a stream in a tunnel: its verdict is asked, the application is dialled, ACCEPT goes out.

use std::net::SocketAddr;

use super::slab::{Key, Token};
use super::stream::EARLY;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Lane;
use crate::tunnel::frame::{self, OpenMeta, Refusal};

/// How long ACCEPT waits for the application's first bytes, to ride with them.
const ACCEPT_WAIT_US: u64 = 1_000;

impl Worker {
    /// A stream begins. Its verdict is asked (or known), then the app is dialled, then ACCEPT goes out.
    pub fn stream_opened(&mut self, key: Key, meta: OpenMeta) {
        let stands = self.tunnels.get(key).is_some_and(|t| self.stands(&t.link));
        let Some(t) = self.tunnels.get_mut(key) else { return };
        t.idle = false;
        t.step += 1;
        let (pod, peer, destination, identity) = (t.pod.clone(), t.link.peer_address, t.destination, t.link.peer.clone());
        if !stands {
            t.link.machine.drain(&mut t.link.control);
            t.link.machine.refuse(&Refusal::new(Reason::PeerDraining, true, ""), &mut t.link.control);
            return self.tunnel_idle(key);
        }
        let source = SocketAddr::new(peer.ip(), meta.source_port.unwrap_or(peer.port()));
        let mut conn = self.new_conn(pod, true, source, destination);
        conn.tunnel = Some(key);
        conn.lane = Lane::Tunnel;
        conn.service = meta.service;
        conn.identity = identity.clone();
        conn.requests = meta.requests;
        let conn = self.conns.insert(conn);
        if let Some(t) = self.tunnels.get_mut(key) {
            t.conn = Some(conn);
        }
        self.ask_verdict(conn, identity, "fairlead/1");
    }

    /// The application is connected. `requests`: it is a data thread that reads what OPEN offered.
    pub fn app_connected(&mut self, key: Key, requests: bool) {
        if let Some(t) = self.tunnels.get_mut(key) {
            t.link.machine.accept(requests, &mut t.link.control);
            t.send_due_us = self.now_us + ACCEPT_WAIT_US;
            self.waiting.push_back((t.send_due_us, key));
            self.again.push(Token::Tunnel(key));
        }
    }

    /// Whether ACCEPT still waits; then nothing is sent. It does only where bytes of the client came with OPEN, so that an
    /// answer is likely, and fewer than would make the opener hold back more.
    pub fn accept_waits(&mut self, key: Key) -> bool {
        let Some(t) = self.tunnels.get_mut(key).filter(|t| t.send_due_us > 0 && t.pool.is_none()) else { return false };
        let silent = t
            .conn
            .and_then(|c| self.conns.get_mut(c))
            .is_some_and(|c| (1..EARLY as u64 / 2).contains(&c.sent) && c.app().is_some_and(|a| !a.readable && !a.eof));
        let waits = silent && self.now_us < t.send_due_us && t.link.control.len() == frame::HEADER && !t.link.backlog();
        match waits {
            true => t.link.release(&mut self.buffers),
            false => t.send_due_us = 0,
        }
        waits
    }

    /// Sends what has waited long enough for company: an ACCEPT, or the last frames of a stream.
    pub fn send_waiting(&mut self) {
        while let Some((due_us, key)) = self.waiting.front().copied() {
            let waits = self.tunnels.get(key).is_some_and(|t| t.send_due_us == due_us);
            if waits && self.now_us < due_us {
                return;
            }
            self.waiting.pop_front();
            if waits {
                self.pump_app(key);
            }
        }
    }
}
