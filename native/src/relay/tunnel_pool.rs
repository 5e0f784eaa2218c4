//! What becomes of tunnels between streams: kept for reuse, aged, drained, closed, listed (rules DP-14, DP-15).

use std::collections::HashSet;

use serde_json::{Value, json};

use super::slab::Key;
use super::timers::Timer;
use super::tunnels::{DRAIN_GRACE_MS, Tunnel};
use super::worker::Worker;
use crate::reason::Reason;
use crate::tls::session::Failure;
use crate::tunnel::link::Layer;
use crate::tunnel::machine::Role;

/// A tunnel used within this time is taken for alive: DATA may ride with OPEN.
const FRESH_US: u64 = 5_000_000;

impl Worker {
    /// No stream is on it: keep it for the next one, or let it go.
    pub fn tunnel_idle(&mut self, key: Key) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        t.conn = None;
        t.idle = true;
        t.step += 1;
        t.used_us = self.now_us;
        let Some(pool) = t.pool.clone() else { return };
        let expected = t.expected.clone();
        if self.draining || !self.usable(key, &expected) {
            return self.close_tunnel(key);
        }
        let limit = self.shared.config.max_tunnels_per_pair;
        let list = self.pool.entry(pool.clone()).or_default();
        if list.len() >= limit {
            return self.close_tunnel(key);
        }
        list.push(key);
        self.note_idle(&pool);
        self.sweep_soon();
    }

    pub fn sweep_soon(&mut self) {
        if !self.sweeping {
            self.sweeping = true;
            self.timers.set(self.now_us / 1_000, 1_000, Timer::Sweep);
        }
    }

    /// Closes tunnels that were idle too long or are too old, and forgets empty pools.
    pub fn sweep(&mut self) {
        self.sweeping = false;
        self.refresh_identities();
        let now = self.now_us;
        let due: Vec<u32> = self.leaving.iter().filter(|l| l.until_us <= now).map(|l| l.pod.number).collect();
        self.leaving.retain(|l| l.until_us > now);
        for pod in due {
            self.remove_listeners(true, |p| p.number == pod);
            self.cut_pod(pod);
        }
        self.forget_left();
        for key in self.tunnels.keys() {
            let Some(t) = self.tunnels.get(key) else { continue };
            if t.pool.is_none() || !t.idle {
                continue;
            }
            let expected = t.expected.clone();
            if !self.usable(key, &expected) {
                self.close_tunnel(key);
            }
        }
        let tunnels = &self.tunnels;
        self.pool.retain(|_, list| {
            list.retain(|k| tunnels.get(*k).is_some());
            !list.is_empty()
        });
        if !self.pool.is_empty() || !self.leaving.is_empty() {
            self.sweep_soon();
        }
    }

    /// Pods that have left and have nothing open any more.
    fn forget_left(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let mut open: HashSet<u32> = self.conns.iter().map(|(_, c)| c.pod.number).collect();
        open.extend(self.listeners.iter().map(|(_, l)| l.pod.number));
        open.extend(self.tunnels.keys().iter().filter_map(|key| self.tunnels.get(*key)).map(|t| t.pod.number));
        self.leaving.retain(|l| open.contains(&l.pod.number));
    }

    /// Closes an idle tunnel in order.
    pub fn close_tunnel(&mut self, key: Key) {
        if let Some(mut t) = self.remove_tunnel(key) {
            t.link.say_goodbye();
            t.link.release(&mut self.buffers);
        }
    }

    /// No new stream on this one: an opener just closes it when idle, an acceptor announces it and waits for the opener.
    pub fn retire_tunnel(&mut self, key: Key) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        if !t.link.ready() {
            return;
        }
        if t.link.machine.role() == Role::Opener {
            if t.idle {
                self.close_tunnel(key);
            }
            return;
        }
        t.link.machine.drain(&mut t.link.control);
        if t.idle {
            t.step += 1;
            let timer = Timer::tunnel(key, t.step);
            self.timers.set(self.now_us / 1_000, DRAIN_GRACE_MS, timer);
        }
        self.pump(key);
    }

    pub fn on_tunnel_timer(&mut self, key: Key) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        match t.link.layer {
            Layer::Connecting => self.tunnel_failed(key, Failure::new(Reason::ConnectTimeout, "connect")),
            Layer::Handshake(_) => self.handshake_failed(key, Failure::new(Reason::HandshakeTimeout, "handshake took too long")),
            Layer::Records(_) if t.idle => self.close_tunnel(key),
            Layer::Records(_) | Layer::Dead => {
                t.link.abort();
                self.remove_tunnel(key);
            }
        }
    }

    pub fn list_tunnels(&self) -> Vec<Value> {
        let rows = self.tunnels.iter().map(|(_, t)| {
            let opener = t.link.machine.role() == Role::Opener;
            json!({
                "id": t.id, "direction": if opener { "outbound" } else { "inbound" }, "pod": &*t.pod.name,
                "source": if opener { t.pod.sockets.ips().iter().find(|i| i.is_ipv4() == t.destination.is_ipv4()).map(ToString::to_string) } else { Some(t.link.peer_address.to_string()) },
                "destination": t.destination.to_string(), "identity": &*t.link.svid.identity, "peer": t.link.peer.as_deref(),
                "streams": t.link.machine.number(), "ageMs": (self.now_us - t.created_us) / 1_000, "idle": t.idle, "draining": t.link.machine.draining(),
            })
        });
        rows.collect()
    }

    /// Whether DATA may ride with OPEN: only on a tunnel that has proved itself a moment ago.
    pub fn fresh(&self, t: &Tunnel) -> bool {
        t.used_us > 0 && self.now_us - t.used_us < FRESH_US
    }
}
