//! Connections that a data thread asks for: to the application of a pod here, plainly outwards, or through a tunnel. The thread
//! gets a descriptor when the way is open, or the reason why it is not.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conn::{End, Given};
use super::handover::cookie;
use super::plan::Plan;
use super::shared::{self, Message, Shared};
use super::slab::{Key, Token};
use super::threads::{DataThread, Place, Stream, pair};
use super::worker::Worker;
use crate::calls::params;
use crate::fault::Fault;
use crate::reason::Reason;
use crate::record::{FLAG_REUSED, Lane};
use std::os::fd::AsFd;

#[derive(Deserialize)]
struct Address {
    ip: IpAddr,
    port: u16,
}

impl From<Address> for SocketAddr {
    fn from(a: Address) -> Self {
        SocketAddr::new(a.ip.to_canonical(), a.port)
    }
}

/// What the thread sends; `endpoint` is one of a plan's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    pod: String,
    endpoint: Value,
    source: Address,
    destination: Option<Address>,
    identity: Option<String>,
    service: Option<String>,
    #[serde(default)]
    plan_id: u32,
    index: Option<u16>,
    #[serde(default)]
    requests: bool,
    /// As in a plan: those of the connection that the thread carries on.
    limits: Option<Value>,
}

/// Who waits for a connection. Dropped unanswered it answers that it failed, so that nobody waits for ever.
pub struct Dial {
    thread: Arc<DataThread>,
    call: Value,
    /// The endpoint's place in the plan that the thread goes by, for records.
    pub index: u16,
    /// In a tunnel, the thread would rather speak HTTP/2 to the other agent's data thread.
    pub requests: bool,
    answered: bool,
}

impl Dial {
    pub fn failed(&mut self, reason: Reason, policy: &str) {
        if !std::mem::replace(&mut self.answered, true) {
            let message = if policy.is_empty() { format!("dial: {}", reason.text()) } else { format!("dial: {} by {policy}", reason.text()) };
            self.thread.reply(&self.call, json!({"error": {"code": reason.text(), "message": message, "policy": policy}}));
        }
    }

    /// The socket that it is given counts as a connection to its service until the thread says that it has ended.
    fn keep(&self, id: u64, place: shared::Place) {
        self.thread.keep(id, place);
    }

    /// Gives the descriptor away. It is closed here if the thread cannot be told.
    pub fn given(mut self, fd: OwnedFd, mut facts: Value) {
        self.answered = true;
        facts["fd"] = json!(fd.as_raw_fd());
        facts["cookie"] = cookie(&fd);
        if self.thread.reply(&self.call, json!({"ok": facts})) {
            // Owned by the data thread from here on: one process, so the number is enough.
            let _ = fd.into_raw_fd();
        }
    }

    /// Notes that the thread is to have one end of a stream; `None`: it is gone.
    pub fn begin(&self, id: u64, place: Place) -> Option<Stream> {
        self.thread.begin(id, place)
    }
}

/// A dial that goes by HBONE: with the pair's end that the thread gets once the stream is open.
pub struct Pending {
    pub dial: Dial,
    pub theirs: OwnedFd,
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.failed(Reason::HandoverFailed, "");
    }
}

/// A connection to be made by a worker.
pub struct Order {
    dial: Dial,
    pod: String,
    plan: Arc<Plan>,
    source: SocketAddr,
    destination: SocketAddr,
}

fn parse(shared: &Shared, thread: &Arc<DataThread>, message: &Value) -> Result<Order, Fault> {
    let wire: Wire = params("dial", &message["params"])?;
    let mut plan =
        json!({"planId": wire.plan_id, "action": "forward", "identity": wire.identity, "service": wire.service, "endpoints": [wire.endpoint]});
    if let Some(limits) = wire.limits {
        plan["limits"] = limits;
    }
    let mut plan = Plan::parse(&plan).map_err(|e| Fault::new("bad_params", format!("dial: {e}")))?.value;
    plan.limit = shared.places.limit(&plan.limits);
    let destination = wire.destination.map_or(plan.endpoints[0].address, Into::into);
    let dial =
        Dial { thread: thread.clone(), call: message["id"].clone(), index: wire.index.unwrap_or(u16::MAX), requests: wire.requests, answered: false };
    Ok(Order { dial, pod: wire.pod, plan: Arc::new(plan), source: wire.source.into(), destination })
}

/// Gives the call to the worker that has the tunnels of this pair: pools are a worker's own.
pub fn receive(shared: &Shared, thread: &Arc<DataThread>, message: &Value) {
    match parse(shared, thread, message) {
        Err(fault) => thread.reply_error(&message["id"], fault.code, &fault.message),
        Ok(order) => {
            let mut hash = DefaultHasher::new();
            (&order.pod, order.plan.endpoints[0].address).hash(&mut hash);
            let worker = hash.finish() as usize % shared.inboxes.len();
            shared.inboxes[worker].post(Message::Dial(Box::new(order)));
        }
    }
}

impl Worker {
    pub fn start_dial(&mut self, order: Order) {
        let Order { mut dial, pod, plan, source, destination } = order;
        let Some(pod) = self.pod_named(&pod).cloned() else { return dial.failed(Reason::PodGone, "") };
        self.shared.counters.add("dials", 1);
        let mut conn = self.new_conn(pod, false, source, destination);
        conn.plan = Some(plan);
        conn.given = Some(Box::new(Given::Dialling(dial)));
        let key = self.conns.insert(conn);
        self.enter(key);
    }

    /// The socket of a plain or local endpoint is connected: the thread has it from here on, and counts what it carries.
    pub fn give_socket(&mut self, key: Key) {
        let Some(mut conn) = self.conns.remove(key) else { return };
        if let (Some(up), Some(Given::Dialling(dial))) = (conn.up.take(), conn.given.take().map(|g| *g)) {
            let _ = epoll::delete(&self.epoll, up.fd.as_fd());
            if let Some(place) = conn.place.take() {
                dial.keep(conn.id, place);
            }
            dial.given(up.fd, json!({"id": conn.id, "lane": conn.lane.text()}));
        }
        self.drain_check();
    }

    /// The other agent has accepted the stream: the thread gets one end of a pair, and the other end is the application of the
    /// stream from here on. `requests`: what was offered is taken. False: it could not be, and the stream is over.
    pub fn give_stream(&mut self, key: Key, requests: bool) -> bool {
        let Some(conn) = self.conns.get_mut(key) else { return false };
        let Some(Given::Dialling(dial)) = conn.given.take().map(|g| *g) else { return true };
        let stream = dial.begin(conn.id, Place::Worker(self.index, key));
        let (Ok((ours, theirs)), Some(stream)) = (pair(), stream) else {
            drop(dial);
            self.cut(key, Reason::HandoverFailed);
            return false;
        };
        conn.lane = Lane::Http;
        conn.endpoint = dial.index;
        conn.given = Some(Box::new(Given::Stream(stream)));
        let facts =
            json!({"id": conn.id, "lane": "tunnel", "peer": conn.identity.as_deref(), "reused": conn.flags & FLAG_REUSED != 0, "requests": requests});
        self.watch(ours.as_fd(), Token::Down(key));
        if let Some(conn) = self.conns.get_mut(key) {
            conn.down = Some(End::new(ours, true));
        }
        dial.given(theirs, facts);
        true
    }
}
