//! Connections that arrive at a pod: tunnel or plain by their first bytes (rule DP-8), then a verdict, then the app.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use serde_json::json;

use super::conn::State;
use super::plan::{PeerRule, Verdict};
use super::questions::{Ask, Resolved};
use super::shared::Pod;
use super::slab::{Key, Token};
use super::sock::{self, Io};
use super::timers::Timer;
use super::worker::Worker;
use crate::detect::client_hello::{MAX_HELLO, Parsed, parse};
use crate::hbone;
use crate::reason::Reason;
use crate::record::{Closer, Lane};
use crate::tls::session::{ALPN, Failure, Handshake, server_config};
use crate::tunnel::link::{Layer, Link};
use crate::tunnel::machine::Role;

/// What waits in the socket.
enum First {
    Hello,
    /// A hello for the HBONE side.
    Hbone,
    Partial,
    Other,
    Silence,
}

impl Worker {
    pub fn start_inbound(&mut self, pod: Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        // sk_lookup steered it here: the local address is the one that the client dialled.
        let Ok(destination) = sock::local(fd.as_fd()) else { return };
        pod.sockets.met(peer);
        let mut conn = self.new_conn(pod, true, peer, destination);
        conn.state = State::Peeking;
        let key = self.keep_conn(conn, fd);
        self.on_peek(key);
    }

    fn look(&mut self, key: Key) -> First {
        let Some(down) = self.conns.get(key).and_then(|c| c.down.as_ref()) else { return First::Other };
        self.peeked.reserve(MAX_HELLO);
        match sock::peek(down.fd.as_fd(), &mut self.peeked) {
            Io::WouldBlock => First::Silence,
            Io::Done(0) | Io::Failed(_) => First::Other,
            Io::Done(_) => match parse(&self.peeked) {
                Parsed::Hello(hello) if hello.offers(ALPN) => First::Hello,
                Parsed::Hello(hello) if hello.offers(hbone::ALPN) && self.is_hbone(key) => First::Hbone,
                Parsed::NeedMore if self.peeked.len() < MAX_HELLO => First::Partial,
                _ => First::Other,
            },
        }
    }

    pub fn on_peek(&mut self, key: Key) {
        match self.look(key) {
            First::Hello => self.become_tunnel(key),
            First::Hbone => self.serve_hbone(key),
            First::Other => self.go_plain(key, false),
            First::Partial | First::Silence => self.wait_for_bytes(key),
        }
    }

    fn wait_for_bytes(&mut self, key: Key) {
        if self.conns.get(key).is_none_or(|c| c.rule_known) {
            return;
        }
        let local = self.local_source(key);
        if local.is_some() {
            return self.go_plain_from(key, true, local);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.rule_known = true;
        let (pod, name) = (conn.pod.number, conn.pod.name.clone());
        let (source, port) = (conn.source.ip(), conn.destination.port());
        let body = || json!({"ask": "peer", "pod": &*name, "source": {"ip": source}, "port": port});
        if let Some(Resolved::Peer(rule)) = self.ask(Ask::Peer { pod, source, port }, key, body) {
            self.with_peer_rule(key, rule);
        }
    }

    pub fn with_peer_rule(&mut self, key: Key, rule: PeerRule) {
        let Some(conn) = self.conns.get_mut(key).filter(|c| c.state == State::Peeking) else { return };
        conn.refuse_silent = rule.speaker && rule.strict;
        let late = self.shared.late_speakers.has(conn.source.ip(), self.now_us);
        let wait = if conn.refuse_silent || late { rule.wait_ms.max(self.shared.config.handshake_timeout_ms) } else { rule.wait_ms };
        if wait == 0 {
            return self.peek_timeout(key);
        }
        conn.step += 1;
        let timer = Timer::conn(key, conn.step);
        self.timers.set(self.now_us / 1_000, wait, timer);
    }

    /// The wait for first bytes is over.
    pub fn peek_timeout(&mut self, key: Key) {
        match self.look(key) {
            First::Hello => self.become_tunnel(key),
            First::Hbone => self.serve_hbone(key),
            First::Other => self.go_plain(key, false),
            First::Silence | First::Partial if self.conns.get(key).is_some_and(|c| c.refuse_silent) => self.refuse(key, Reason::PlaintextRefused),
            First::Partial | First::Silence => self.go_plain(key, true),
        }
    }

    /// An ordinary connection. `unseen`: its first bytes are still to come and must be no hello of ours.
    fn go_plain(&mut self, key: Key, unseen: bool) {
        let local = self.local_source(key);
        self.go_plain_from(key, unseen, local);
    }

    /// `local`: the identity of the pod of this node that is proven to be the client.
    fn go_plain_from(&mut self, key: Key, unseen: bool, local: Option<Arc<str>>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.check_hello = unseen;
        conn.state = State::Asking;
        conn.step += 1;
        conn.lane = if local.is_some() { Lane::Local } else { Lane::Plain };
        let tunnel = if local.is_some() { "local" } else { "plain" };
        conn.identity = local.clone();
        self.ask_verdict(key, local, tunnel);
    }

    /// Who a plain client is, if it is an enrolled pod of this node: the kernel knows whose socket it is. Such a client comes here if the
    /// direct lane did not know it again, since the node's NAT had changed its port (rule DP-7).
    fn local_source(&self, key: Key) -> Option<Arc<str>> {
        let conn = self.conns.get(key)?;
        let (source, destination) = (conn.source, conn.destination);
        let pod = self.pods.values().find(|p| p.sockets.cookie() != conn.pod.sockets.cookie() && p.sockets.ips().contains(&source.ip()))?;
        let identity = pod.identity()?;
        match pod.sockets.owns(source, destination) {
            Ok(true) => {
                self.shared.counters.add("local_sources", 1);
                Some(identity)
            }
            Ok(false) => None,
            Err(error) => {
                self.shared.counters.add("local_source_unread", 1);
                let fields =
                    json!({"pod": &*pod.name, "source": source.to_string(), "destination": destination.to_string(), "error": error.to_string()});
                self.shared.log("warn", "whose socket a connection of this node is cannot be asked", fields);
                None
            }
        }
    }

    pub fn ask_verdict(&mut self, key: Key, identity: Option<Arc<str>>, tunnel: &'static str) {
        let Some(conn) = self.conns.get(key) else { return };
        let (pod, name, destination, source) = (conn.pod.number, conn.pod.name.clone(), conn.destination, conn.source.ip());
        let body = || {
            json!({
                "ask": "inbound", "pod": &*name, "tunnel": tunnel, "identity": identity.as_deref(),
                "destination": {"ip": destination.ip(), "port": destination.port()}, "source": {"ip": source},
            })
        };
        if let Some(Resolved::Verdict(verdict)) = self.ask(Ask::Inbound { pod, destination, source, identity: identity.clone(), tunnel }, key, body) {
            self.with_verdict(key, &verdict);
        }
    }

    pub fn with_verdict(&mut self, key: Key, verdict: &Verdict) {
        let Some(conn) = self.conns.get_mut(key).filter(|c| c.state == State::Asking) else { return };
        conn.verdict = verdict.id;
        if self.act(key, &verdict.action) {
            self.connect_app(key);
        }
    }

    /// Goes on to the application.
    pub fn connect_app(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (to, client) = (conn.destination, conn.source.ip());
        conn.upstream = Some(to);
        // Bytes that came with OPEN go to the app as soon as it is connected.
        let data = conn.tunnel.and_then(|t| self.tunnels.get(t)).is_some_and(|t| t.link.has_more());
        let socket = if data { conn.pod.sockets.app_socket_for_data(to, client) } else { conn.pod.sockets.app_socket(to, client) };
        self.dial(key, socket, to);
    }

    /// First bytes of a connection that went plain in silence. True: they may be read.
    pub fn hello_checked(&mut self, key: Key) -> bool {
        match self.look(key) {
            First::Other => {}
            First::Silence => return false,
            First::Partial => {
                let Some(conn) = self.conns.get_mut(key) else { return false };
                conn.step += 1;
                let timer = Timer::conn(key, conn.step);
                self.timers.set(self.now_us / 1_000, self.shared.config.handshake_timeout_ms, timer);
                return false;
            }
            First::Hello | First::Hbone => {
                self.shared.counters.add("late_tunnel_hello", 1);
                if let Some(conn) = self.conns.get(key) {
                    self.shared.late_speakers.note(conn.source.ip(), self.now_us);
                }
                self.end(key, Reason::LateTunnelHello, Closer::Agent, true);
                return false;
            }
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.check_hello = false;
        }
        true
    }

    /// The client speaks the tunnel: its socket becomes a tunnel of the pod, and the handshake starts.
    fn become_tunnel(&mut self, key: Key) {
        self.refresh_identities();
        let Some(identity) = self.conns.get(key).map(|c| c.pod.identity()) else { return };
        let svid = identity.and_then(|id| self.snapshot.svids.get(&id).cloned());
        let Some(svid) = svid else {
            self.shared.counters.add(Reason::NoSvid.text(), 1);
            return self.refuse(key, Reason::NoSvid);
        };
        let config = self
            .server_configs
            .get(&svid.identity)
            .filter(|(s, t, _)| Arc::ptr_eq(s, &svid) && Arc::ptr_eq(t, &self.snapshot.trust))
            .map(|c| c.2.clone());
        let config = match config {
            Some(config) => Ok(config),
            None => server_config(&self.shared.identities, &self.snapshot, &svid),
        };
        let handshake = config.and_then(|config| {
            self.server_configs.insert(svid.identity.clone(), (svid.clone(), self.snapshot.trust.clone(), config.clone()));
            Handshake::server(config)
        });
        let handshake = match handshake {
            Ok(handshake) => handshake,
            Err(error) => {
                self.shared.log("error", "TLS server cannot be set up", json!({"error": error.to_string()}));
                return self.refuse(key, Reason::HandshakeFailed);
            }
        };
        let Some(mut conn) = self.conns.remove(key) else { return };
        let Some(down) = conn.down.take() else { return };
        let mut link = Link::new(down.fd, conn.source, Role::Acceptor, Layer::Handshake(Box::new(handshake)), svid, self.snapshot.trust.clone());
        link.hangup = down.hangup;
        let tunnel = self.keep_tunnel(link, conn.pod, conn.destination, None, Arc::from([]));
        if let Some(t) = self.tunnels.get(tunnel) {
            use epoll::EventFlags as F;
            let data = epoll::EventData::new_u64(Token::Tunnel(tunnel).pack());
            let _ = epoll::modify(&self.epoll, t.link.socket.as_fd(), data, F::IN | F::OUT | F::RDHUP | F::ET);
        }
        self.on_tunnel(tunnel);
    }

    /// A refused handshake: one counter, one event with both identities, one record (requirement IDN-7).
    pub fn handshake_refused(&mut self, pod: &Pod, inbound: bool, source: SocketAddr, destination: SocketAddr, failure: &Failure) {
        self.shared.counters.add(failure.reason.text(), 1);
        self.shared.event(
            "refused",
            json!({
                "direction": if inbound { "inbound" } else { "outbound" }, "pod": &*pod.name,
                "source": {"ip": source.ip(), "port": source.port()}, "destination": {"ip": destination.ip(), "port": destination.port()},
                "expected": failure.expected, "got": failure.got, "reason": failure.reason.text(), "detail": failure.text,
            }),
        );
    }
}
