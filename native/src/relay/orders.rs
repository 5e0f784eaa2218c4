//! What the control thread asks of a worker: lists, resets, drain, stop.

use serde_json::{Value, json};

use super::conn::{Conn, State};
use super::questions::MAX_WORKERS;
use super::shared::{Message, Pod};
use super::slab::Key;
use super::timers::Timer;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Closer;
use crate::tunnel::machine::Role;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long listeners are still served after `drain`, for what was under way when another agent took over or the pod left the mesh.
const LISTEN_GRACE_MS: u64 = 1_000;

/// A pod on its way out of the mesh: its open connections go on until then, without an end (`u64::MAX`) if it came back.
pub struct Leaving {
    pub pod: Arc<Pod>,
    pub until_us: u64,
}

impl Worker {
    pub fn on_messages(&mut self) {
        for message in self.shared.inboxes[self.index].clone().take() {
            match message {
                Message::Answer(answer) => self.on_answer(&answer),
                Message::Enrolled(pod) => self.add_pod(pod),
                Message::Unenrolled { pod, drain_ms } => self.remove_pod(&pod, drain_ms),
                Message::Connections(reply) => {
                    let _ = reply.send(self.conns.iter().map(|(_, c)| row(c)).collect());
                }
                Message::Count { pod, reply } => {
                    let _ = reply.send(self.conns.iter().filter(|(_, c)| *c.pod.name == *pod).count());
                }
                Message::Tunnels(reply) => {
                    let _ = reply.send(self.list_tunnels());
                }
                Message::Reset { ids, reason, done } => {
                    let keys: Vec<Key> = self.conns.iter().filter(|(_, c)| ids.contains(&c.id)).map(|(k, _)| k).collect();
                    let count = keys.len();
                    for key in keys {
                        self.cut(key, reason);
                    }
                    let _ = done.send(count);
                }
                Message::Drain { deadline_ms } => self.drain(deadline_ms),
                Message::Dial(order) => self.start_dial(*order),
                Message::Abort { key, thread, call } => {
                    self.abort_given(key);
                    thread.reply(&call, json!({"ok": {}}));
                }
                Message::Join(order) => self.start_join(*order),
                Message::Unjoin { thread, number } => self.cancel_joins(&thread, number),
                Message::Place(key, place) => self.has_place(key, place),
                Message::Lost(keys) => keys.into_iter().for_each(|key| self.cut(key, Reason::WorkerDied)),
                Message::Stop => {
                    for key in self.conns.keys() {
                        self.cut(key, Reason::AgentStopping);
                    }
                    self.stopped = true;
                }
            }
        }
    }

    /// Ends a connection from here, whatever it is doing: both applications see RST.
    pub fn cut(&mut self, key: Key, reason: Reason) {
        let Some(conn) = self.conns.get(key) else { return };
        let attached = conn.tunnel.filter(|t| self.tunnels.get(*t).is_some_and(|t| t.conn == Some(key) && t.link.ready()));
        match attached {
            Some(_) if conn.inbound && conn.state != State::Open => self.refuse_by(key, reason, ""),
            Some(tunnel_key) => {
                self.reset_stream(tunnel_key, Some(reason));
                self.pump(tunnel_key);
            }
            None => self.end(key, reason, Closer::Agent, true),
        }
    }

    /// ACCEPT did not come in time, or the tunnel is still not there.
    pub fn opening_timeout(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let movable = !conn.early_sent;
        let Some(tunnel) = conn.tunnel.take() else { return };
        if let Some(t) = self.tunnels.get_mut(tunnel) {
            t.conn = None;
            // One that still shakes hands is the next one's.
            if t.link.ready() {
                self.drop_tunnel(tunnel);
            }
        }
        self.shared.counters.add("open_timeout", 1);
        if movable { self.endpoint_failed(key, Reason::ConnectTimeout) } else { self.end(key, Reason::ConnectTimeout, Closer::Agent, true) }
    }

    /// The pod leaves the mesh (`drain_ms` > 0) or is gone (0): its connections end within that time.
    fn remove_pod(&mut self, pod: &str, drain_ms: u64) {
        let entry = self.pods.remove(pod);
        if drain_ms == 0 {
            let mut gone: Vec<u32> = self.leaving.extract_if(.., |l| &*l.pod.name == pod).map(|l| l.pod.number).collect();
            gone.extend(entry.map(|p| p.number));
            for number in gone {
                self.remove_listeners(true, |p| p.number == number);
                self.cut_pod(number);
            }
            return;
        }
        let Some(entry) = entry else { return };
        for key in self.tunnels.keys() {
            if self.tunnels.get(key).is_some_and(|t| t.pod.number == entry.number) {
                self.retire_tunnel(key);
            }
        }
        let until_us = self.now_us + drain_ms * 1_000;
        // What it opened before it was back has no more time than the rest.
        let before = |l: &&mut Leaving| l.pod.name == entry.name && l.until_us == u64::MAX;
        self.leaving.iter_mut().filter(before).for_each(|l| l.until_us = until_us);
        // Nothing new is steered here, but a handshake that has begun here ends here.
        self.timers.set(self.now_us / 1_000, LISTEN_GRACE_MS.min(drain_ms), Timer::Listeners(entry.number));
        self.leaving.push(Leaving { until_us, pod: entry });
        self.sweep_soon();
    }

    /// An enrolled pod, or one that is leaving and still has open connections to serve.
    pub fn pod_named(&self, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(name).or_else(|| self.leaving.iter().rev().map(|l| &l.pod).find(|p| &*p.name == name))
    }

    /// Resets every connection of a pod and closes its tunnels.
    pub fn cut_pod(&mut self, number: u32) {
        let keys: Vec<Key> = self.conns.iter().filter(|(_, c)| c.pod.number == number).map(|(k, _)| k).collect();
        for key in keys {
            self.cut(key, Reason::PodGone);
        }
        for key in self.tunnels.keys() {
            if self.tunnels.get(key).is_some_and(|t| t.pod.number == number) {
                if self.tunnels.get(key).is_some_and(|t| t.idle && t.link.ready()) { self.close_tunnel(key) } else { self.drop_tunnel(key) }
            }
        }
    }

    /// Stops taking connections, lets open ones finish until the deadline, tells openers to go elsewhere.
    fn drain(&mut self, deadline_ms: u64) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.timers.set(self.now_us / 1_000, LISTEN_GRACE_MS.min(deadline_ms), Timer::Drain);
        self.drain_until_us = self.now_us + deadline_ms * 1_000;
        for key in self.tunnels.keys() {
            self.retire_tunnel(key);
        }
        self.drain_check();
    }

    pub fn drain_deadline(&mut self) {
        if !self.listeners_closed {
            self.listeners_closed = true;
            self.remove_listeners(true, |_| true);
        }
        if self.now_us >= self.drain_until_us {
            for key in self.conns.keys() {
                self.cut(key, Reason::DrainDeadline);
            }
            for key in self.tunnels.keys() {
                self.drop_tunnel(key);
            }
        } else {
            let left = (self.drain_until_us - self.now_us) / 1_000;
            self.timers.set(self.now_us / 1_000, left.clamp(10, 250), Timer::Drain);
        }
        self.drain_check();
    }

    /// Reports once that nothing is left: no listener, no connection, no stream, and no tunnel on which the peer may yet open one.
    pub fn drain_check(&mut self) {
        if !self.draining || !self.listeners_closed || self.drain_reported || !self.conns.is_empty() {
            return;
        }
        if self.tunnels.iter().any(|(_, t)| t.link.machine.role() == Role::Acceptor || !t.idle) {
            return;
        }
        // The drain timer looks again; at the deadline the HBONE side resets its streams by itself.
        if self.now_us < self.drain_until_us && self.shared.hbone_running().is_some_and(|s| s.hbone.registry().stream_count() > 0) {
            return;
        }
        self.drain_reported = true;
        for key in self.tunnels.keys() {
            if self.tunnels.get(key).is_some_and(|t| t.idle && t.link.machine.role() == Role::Opener) {
                self.close_tunnel(key);
            }
        }
        self.flush_records();
        if self.shared.drained.fetch_add(1, Ordering::AcqRel) + 1 == self.shared.inboxes.len() {
            self.shared.event("drained", json!({}));
        }
    }
}

fn row(c: &Conn) -> Value {
    json!({
        "id": c.id, "direction": if c.inbound { "inbound" } else { "outbound" }, "lane": c.lane.text(), "pod": &*c.pod.name,
        "source": c.source.to_string(), "destination": c.destination.to_string(), "upstream": c.upstream.map(|u| u.to_string()),
        "planId": c.plan.as_ref().map_or(0, |p| p.id), "verdictId": c.verdict, "endpoint": c.endpoint, "identity": c.identity.as_deref(),
        "sent": c.sent, "received": c.received, "startedMs": c.started_ms,
    })
}

/// Which worker asked the question of this id.
pub fn worker_of(question: u64) -> usize {
    (question % MAX_WORKERS) as usize
}
