//! Streams of HBONE of which a data thread has the other end, instead of an application.

use std::os::fd::AsFd;

use serde_json::json;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;

use super::registry::{OpenStream, locked};
use super::server::Carrier;
use super::{Shared, dial};
use crate::detect::Protocol;
use crate::reason::Reason;
use crate::record::FLAG_REUSED;
use crate::relay::dial::Pending;
use crate::relay::handover::{Facts, send_socket};
use crate::relay::sock;
use crate::relay::threads::{Place, pair};

/// Gives one end of a pair to a thread; the other end stands for the application.
pub fn hand_over(shared: &Shared, carrier: &Carrier, open: &OpenStream, number: u32) -> Result<TcpStream, Reason> {
    let thread = shared.threads.read().ok().and_then(|t| t.get(&number).cloned());
    let Some(thread) = thread else {
        shared.counters.add("handover_no_thread");
        return Err(Reason::L7Unavailable);
    };
    let failed = |_| Reason::HandoverFailed;
    let (ours, theirs) = pair().map_err(failed)?;
    let ours = dial::adopt(ours, false).map_err(failed)?;
    let stream = thread.begin(open.id, Place::Hbone).ok_or(Reason::L7Unavailable)?;
    let facts = Facts {
        inbound: true,
        tunnel: "hbone",
        pod: &open.pod,
        id: open.id,
        original: open.destination,
        source: open.source,
        plan: 0,
        verdict: open.verdict.load(Ordering::Relaxed),
        identity: Some(&carrier.tunnel.peer),
        protocol: Protocol::Unknown,
    };
    send_socket(&thread, facts.event(), theirs).map_err(|_| Reason::HandoverFailed)?;
    let _ = open.given.set(stream);
    Ok(ours)
}

/// The stream that a thread asked for is open. False: the thread is gone.
pub fn reply(pending: Pending, open: &OpenStream) -> bool {
    let Pending { dial, theirs } = pending;
    let Some(stream) = dial.begin(open.id, Place::Hbone) else { return false };
    let _ = open.given.set(stream);
    let peer = locked(&open.peer).clone();
    let reused = open.flags.load(Ordering::Relaxed) & FLAG_REUSED != 0;
    dial.given(theirs, json!({"id": open.id, "lane": "hbone", "peer": peer.as_deref(), "reused": reused}));
    true
}

/// Closes the socket of a stream that broke, so that its other side sees that it did.
pub fn abort(socket: TcpStream, open: &OpenStream) {
    sock::reset_on_close(socket.as_fd());
    if let Some(stream) = open.given.get()
        && let Ok(socket) = socket.into_std()
    {
        stream.abort(socket.into());
    }
}
