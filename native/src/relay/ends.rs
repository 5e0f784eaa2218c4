//! How streams and tunnels end other than in order: resets from either side, lost and broken tunnels.

use super::conn::Conn;
use super::slab::{Key, Token};
use super::timers::Timer;
use super::tunnels::GRACE_MS;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Closer;
use crate::tls::session::Failure;
use crate::tunnel::frame::Refusal;
use crate::tunnel::machine::Role;

impl Worker {
    /// The local application's connection failed, or the agent ends it (`why`): RST to the peer, the tunnel lives on if it can.
    pub fn reset_stream(&mut self, key: Key, why: Option<Reason>) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        let conn = t.conn.take();
        let side = conn.and_then(|c| self.conns.get(c)).map_or(Closer::Agent, Conn::app_side);
        let reason = why.unwrap_or(if side == Closer::Client { Reason::ClientReset } else { Reason::ServerReset });
        let over = t.link.machine.reset(reason, &mut t.link.control);
        // A reset must not wait behind data that nobody reads: the tunnel goes with it.
        let stuck = t.link.backlog();
        t.link.undelivered.clear();
        t.step += 1;
        let timer = Timer::tunnel(key, t.step);
        if let Some(conn) = conn {
            self.end(conn, reason, if why.is_some() { Closer::Agent } else { side }, true);
        }
        if stuck {
            return self.drop_tunnel(key);
        }
        if over {
            return self.tunnel_idle(key);
        }
        self.timers.set(self.now_us / 1_000, GRACE_MS, timer);
        self.again.push(Token::Tunnel(key));
    }

    /// Acceptor: says no to the stream of `conn`, which is about to end.
    pub fn refuse_stream(&mut self, tunnel: Key, reason: Reason, policy: &str) {
        let Some(t) = self.tunnels.get_mut(tunnel) else { return };
        if t.link.machine.accepted() {
            // It had been accepted to see its first bytes.
            return self.reset_stream(tunnel, Some(reason));
        }
        t.conn = None;
        t.link.machine.refuse(&Refusal::new(reason, true, policy), &mut t.link.control);
        // What came with OPEN has no application; kept, it would block the next stream's OPEN for ever.
        t.link.undelivered.clear();
        self.tunnel_idle(tunnel);
        self.again.push(Token::Tunnel(tunnel));
    }

    /// The peer closed the tunnel.
    pub fn tunnel_ended(&mut self, key: Key, clean: bool) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        if t.link.machine.is_idle() || t.conn.is_none() {
            if let Some(mut t) = self.remove_tunnel(key) {
                t.link.release(&mut self.buffers);
            }
            return;
        }
        // An acceptor closes in order only what is idle to it: it has not seen our OPEN.
        if clean && t.link.machine.role() == Role::Opener && !t.link.machine.accepted() {
            let conn = t.conn.take();
            self.close_tunnel(key);
            return conn.map_or((), |conn| self.retry_unseen(conn));
        }
        let text = if clean { "closed under a stream" } else { "cut off under a stream" };
        self.tunnel_broke(key, Failure::new(Reason::TunnelLost, text));
    }

    /// The tunnel cannot go on: its stream is reset, or moves on if none of its data was given away.
    pub fn tunnel_broke(&mut self, key: Key, failure: Failure) {
        let Some(mut t) = self.remove_tunnel(key) else { return };
        t.link.abort();
        self.shared.counters.add(failure.reason.text(), 1);
        let Some(conn) = t.conn else { return };
        let opening = t.link.machine.role() == Role::Opener && !t.link.machine.accepted();
        let Some(c) = self.conns.get_mut(conn) else { return };
        if failure.reason == Reason::PeerRefusedUs && opening {
            // The server judged our certificate after our side of the handshake was done.
            let (pod, source, destination) = (c.pod.clone(), c.source, t.destination);
            let failure = Failure { expected: t.expected.to_vec(), got: Some(t.link.svid.identity.to_string()), ..failure };
            self.handshake_refused(&pod, false, source, destination, &failure);
            return self.endpoint_failed(conn, failure.reason);
        }
        if opening && !c.early_sent {
            return self.endpoint_failed(conn, failure.reason);
        }
        self.end(conn, failure.reason, Closer::Agent, true);
    }

    /// Closes a tunnel with RST, whatever is on it.
    pub fn drop_tunnel(&mut self, key: Key) {
        self.tunnel_broke(key, Failure::new(Reason::TunnelLost, "cut"));
    }

    /// A stream that certainly reached no application goes on elsewhere: same endpoint first.
    pub fn retry_unseen(&mut self, conn: Key) {
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.tunnel = None;
        let Some(plan) = c.plan.clone() else { return };
        match plan.endpoints.get(usize::from(c.endpoint)) {
            Some(endpoint) => self.use_tunnel(conn, &plan, endpoint),
            None => self.next_endpoint(conn),
        }
    }
}
