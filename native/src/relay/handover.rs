//! Gives a connection to a data thread (the HTTP lane): the accepted socket itself, its bytes unread, or one end of a socket
//! pair for a stream that came through a tunnel.

use std::os::fd::{AsRawFd, IntoRawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::json;

use super::conn::{End, State};
use super::slab::Key;
use super::worker::Worker;
use crate::channel::EVENT;
use crate::reason::Reason;
use crate::record::{Closer, Lane};

impl Worker {
    /// Hands `key` to `thread`. Without such a thread the connection is refused: it must not pass where L7 rules apply.
    pub fn hand_over(&mut self, key: Key, thread: u32) {
        let channel = self.shared.handovers.read().ok().and_then(|h| h.get(&thread).cloned());
        let Some(channel) = channel else { return self.refuse(key, Reason::L7Unavailable) };
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut event = json!({
            "event": "socket", "direction": if conn.inbound { "inbound" } else { "outbound" }, "pod": &*conn.pod.name, "id": conn.id,
            "original": {"ip": conn.destination.ip(), "port": conn.destination.port()},
            "source": {"ip": conn.source.ip(), "port": conn.source.port()},
            "planId": conn.plan.as_ref().map_or(0, |p| p.id), "verdictId": conn.verdict, "identity": conn.identity.as_deref(),
        });
        // The plan's choice, for a thread that only carries; the HTTP lane picks for itself.
        let chosen = conn.plan.as_ref().and_then(|p| p.pick(&[], conn.chosen).and_then(|i| p.endpoints.get(usize::from(i))));
        if let Some(endpoint) = chosen {
            event["upstream"] = json!({"ip": endpoint.address.ip(), "port": endpoint.address.port()});
        }
        if let Some(tunnel) = conn.tunnel {
            return match socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None) {
                Ok((ours, theirs)) => {
                    conn.lane = Lane::Http;
                    conn.state = State::Open;
                    conn.step += 1;
                    conn.ready_us = self.now_us;
                    self.report.opened(conn, self.now_us);
                    conn.up = Some(End::new(ours, true));
                    self.watch_up(key);
                    event["fd"] = json!(theirs.as_raw_fd());
                    if channel.send_json(EVENT, &event) {
                        // Owned by the data thread from here on: one process, so the number is enough.
                        let _ = theirs.into_raw_fd();
                    }
                    // Otherwise `theirs` is closed here, and the stream ends like any whose application went away.
                    self.app_connected(tunnel);
                }
                Err(_) => self.refuse(key, Reason::HandoverFailed),
            };
        }
        let Some(down) = self.take_socket(key) else { return };
        event["fd"] = json!(down.fd.as_raw_fd());
        if !channel.send_json(EVENT, &event) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.down = Some(down);
            }
            return self.refuse(key, Reason::HandoverFailed);
        }
        let _ = down.fd.into_raw_fd();
        if let Some(conn) = self.conns.get_mut(key) {
            conn.lane = Lane::Http;
        }
        self.end(key, Reason::HandedOver, Closer::Nobody, false);
    }
}
