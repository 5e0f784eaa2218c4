//! The tunnels of a worker: made, pooled per (pod, destination, identity), aged, drained, closed (rules DP-14, DP-15).

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustls::ClientConfig;
use serde_json::json;

use super::conn::State;
use super::outbound::{connect_reason, errno};
use super::plan::{Endpoint, Plan};
use super::shared::{Pod, Shared};
use super::slab::{Key, Token};
use super::sock;
use super::timers::Timer;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::{FLAG_RETRIED, FLAG_REUSED, Lane};
use crate::seam::PodSockets;
use crate::tls::identity::{Svid, Trust};
use crate::tls::session::{Failure, Handshake, client_config};
use crate::tunnel::link::{Fill, Layer, Link};
use crate::tunnel::machine::Role;

/// Source ports tried for one tunnel.
const PORT_TRIES: usize = 64;

/// Times that a connection's tunnel is dialled again after a handshake that the peer cut.
const MAX_REDIALS: u8 = 2;

/// How long a peer may take to confirm a reset before the tunnel is cut.
pub const GRACE_MS: u64 = 1_000;
/// How long a peer may take to close an idle tunnel after DRAIN: a starved one may not have read it for seconds.
pub const DRAIN_GRACE_MS: u64 = 30_000;

/// Which streams may share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub pod: u32,
    pub to: SocketAddr,
    pub identity: Arc<str>,
}

pub struct Tunnel {
    pub link: Link,
    pub id: u64,
    pub pod: Arc<Pod>,
    /// Our own address of an accepted tunnel, the peer's of one we made.
    pub destination: SocketAddr,
    pub pool: Option<PoolKey>,
    pub expected: Arc<[String]>,
    pub conn: Option<Key>,
    pub created_us: u64,
    pub used_us: u64,
    pub max_age_us: u64,
    pub step: u32,
    pub idle: bool,
    /// Counted among the handshakes under way of its pair.
    pub shaking: bool,
    /// Nothing can be written any more; what came before is read yet.
    pub write_failed: bool,
    /// When frames that wait for others to ride with are sent alone: ACCEPT, or the last ones of a stream. 0: none waits.
    pub send_due_us: u64,
}

pub struct ClientTls {
    svid: Arc<Svid>,
    trust: Arc<Trust>,
    expected: Arc<[String]>,
    config: Arc<ClientConfig>,
}

impl Worker {
    /// Takes the newest identities. Tunnels made with older ones take no new stream; accepted ones announce it.
    pub fn refresh_identities(&mut self) {
        let version = self.shared.identities.version();
        if version == self.identities_version {
            return;
        }
        self.identities_version = version;
        self.snapshot = self.shared.identities.snapshot();
        self.client_configs.clear();
        self.server_configs.clear();
        for key in self.tunnels.keys() {
            let stale = self.tunnels.get(key).is_some_and(|t| !self.current(&t.link.svid, &t.link.trust));
            if stale {
                self.retire_tunnel(key);
            }
        }
    }

    fn current(&self, svid: &Arc<Svid>, trust: &Arc<Trust>) -> bool {
        Arc::ptr_eq(trust, &self.snapshot.trust) && self.snapshot.svids.get(&svid.identity).is_some_and(|s| Arc::ptr_eq(s, svid))
    }

    /// Whether a stream may begin as far as identities go: neither certificate has ended, and both SVID and trust are the newest,
    /// or the peer of a root that was withdrawn would keep an old tunnel for ever (rule DP-15).
    pub fn stands(&self, link: &Link) -> bool {
        let ids = &self.shared.identities;
        let newest = if ids.version() == self.identities_version { self.snapshot.clone() } else { ids.snapshot() };
        let svid = newest.svids.get(&link.svid.identity).is_some_and(|s| Arc::ptr_eq(s, &link.svid));
        svid && Arc::ptr_eq(&link.trust, &newest.trust) && Shared::wall_ms() < link.svid.not_after_ms.min(link.peer_not_after_ms)
    }

    pub fn keep_tunnel(&mut self, link: Link, pod: Arc<Pod>, destination: SocketAddr, pool: Option<PoolKey>, expected: Arc<[String]>) -> Key {
        let id = self.shared.connection_ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let config = &self.shared.config;
        // Spread by id: tunnels made in one burst do not all end in one burst.
        let jitter = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % (config.tunnel_max_age_jitter_ms + 1);
        let max_age_us = (config.tunnel_max_age_ms + jitter).saturating_sub(config.tunnel_max_age_jitter_ms / 2) * 1_000;
        let tunnel = Tunnel {
            link,
            id,
            pod,
            destination,
            pool,
            expected,
            conn: None,
            created_us: self.now_us,
            used_us: 0,
            max_age_us,
            step: 0,
            idle: false,
            shaking: false,
            write_failed: false,
            send_due_us: 0,
        };
        let key = self.tunnels.insert(tunnel);
        self.timers.set(self.now_us / 1_000, config.connect_timeout_ms.max(config.handshake_timeout_ms), Timer::tunnel(key, 0));
        key
    }

    /// Gives the connection a tunnel, at once or when it is its turn.
    pub fn use_tunnel(&mut self, conn: Key, plan: &Plan, endpoint: &Endpoint) {
        let Some(pod) = self.conns.get(conn).map(|c| c.pod.clone()) else { return };
        if let Some(identity) = plan.identity.clone().or_else(|| pod.identity()) {
            let pool = PoolKey { pod: pod.number, to: endpoint.address, identity };
            if self.must_wait(&pool) {
                return self.wait_for_tunnel(conn, pool);
            }
        }
        self.take_tunnel(conn, plan, endpoint);
    }

    /// An idle tunnel, or a new one.
    pub fn take_tunnel(&mut self, conn: Key, plan: &Plan, endpoint: &Endpoint) {
        self.refresh_identities();
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.lane = Lane::Tunnel;
        c.state = State::Opening;
        c.step += 1;
        let pod = c.pod.clone();
        let identity = plan.identity.clone().or_else(|| pod.identity());
        let Some(svid) = identity.and_then(|id| self.snapshot.svids.get(&id).cloned()) else {
            return self.endpoint_failed(conn, Reason::NoSvid);
        };
        if endpoint.identities.is_empty() {
            // Never a tunnel to just anybody.
            return self.endpoint_failed(conn, Reason::WrongIdentity);
        }
        let pool = PoolKey { pod: pod.number, to: endpoint.address, identity: svid.identity.clone() };
        while let Some(key) = self.pool.get_mut(&pool).and_then(Vec::pop) {
            if self.usable(key, &endpoint.identities) {
                if let Some(c) = self.conns.get_mut(conn) {
                    c.flags |= FLAG_REUSED;
                }
                return self.open_stream(conn, key);
            }
            self.close_tunnel(key);
        }
        self.make_tunnel(conn, pod, pool, svid, endpoint);
    }

    pub fn usable(&mut self, key: Key, identities: &[String]) -> bool {
        let wall = Shared::wall_ms();
        let own = &self.shared.identities.trust_domain;
        let Some(t) = self.tunnels.get(key) else { return false };
        let l = &t.link;
        let identity = l.peer.as_deref().is_some_and(|p| identities.iter().any(|i| l.trust.same(i, p, own)));
        let idle = self.now_us.saturating_sub(t.used_us) < self.shared.config.tunnel_idle_ms * 1_000;
        l.ready()
            && l.machine.is_idle()
            && !l.machine.draining()
            && !l.hangup
            && idle
            && identity
            && self.now_us - t.created_us < t.max_age_us
            && wall < l.svid.not_after_ms.min(l.peer_not_after_ms)
            && self.current(&l.svid, &l.trust)
    }

    fn make_tunnel(&mut self, conn: Key, pod: Arc<Pod>, pool: PoolKey, svid: Arc<Svid>, endpoint: &Endpoint) {
        let known = self
            .client_configs
            .get(&pool)
            .filter(|c| Arc::ptr_eq(&c.svid, &svid) && Arc::ptr_eq(&c.trust, &self.snapshot.trust) && c.expected == endpoint.identities);
        let config = match known {
            Some(known) => known.config.clone(),
            None => match client_config(&self.shared.identities, &self.snapshot, &svid, endpoint.identities.clone()) {
                Ok(config) => {
                    let entry = ClientTls {
                        svid: svid.clone(),
                        trust: self.snapshot.trust.clone(),
                        expected: endpoint.identities.clone(),
                        config: config.clone(),
                    };
                    self.client_configs.insert(pool.clone(), entry);
                    config
                }
                Err(error) => {
                    self.shared.log("error", "TLS client cannot be set up", json!({"error": error.to_string()}));
                    return self.endpoint_failed(conn, Reason::HandshakeFailed);
                }
            },
        };
        let Ok(handshake) = Handshake::client(config) else { return self.endpoint_failed(conn, Reason::HandshakeFailed) };
        let (socket, done) = match dial_tunnel(pod.sockets.as_ref(), endpoint.address) {
            Ok(dialled) => dialled,
            Err(error) => return self.endpoint_failed(conn, connect_reason(error)),
        };
        let link = Link::new(socket, endpoint.address, Role::Opener, Layer::Connecting, svid, self.snapshot.trust.clone());
        self.note_shaking(&pool);
        let key = self.keep_tunnel(link, pod, endpoint.address, Some(pool), endpoint.identities.clone());
        if let Some(t) = self.tunnels.get_mut(key) {
            t.conn = Some(conn);
            t.shaking = true;
        }
        self.handshakes.insert(key, handshake);
        let limit_ms = self.connect_ms(conn);
        if let Some(c) = self.conns.get_mut(conn) {
            c.tunnel = Some(key);
            if c.plan.as_ref().is_some_and(|p| p.limits.connect_timeout_ms.is_some()) {
                let timer = Timer::conn(conn, c.step);
                self.timers.set(self.now_us / 1_000, limit_ms, timer);
            }
        }
        if let Some(t) = self.tunnels.get(key) {
            self.watch(t.link.socket.as_fd(), Token::Tunnel(key));
        }
        if done {
            self.tunnel_connected(key);
        }
    }

    /// Something happened on a tunnel's socket.
    pub fn on_tunnel(&mut self, key: Key) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        match t.link.layer {
            Layer::Connecting => {
                if let Some(error) = sock::take_error(t.link.socket.as_fd()) {
                    return self.tunnel_failed(key, Failure::new(connect_reason(error), "connect"));
                }
                if sock::connected(t.link.socket.as_fd()) {
                    self.tunnel_connected(key);
                }
            }
            Layer::Handshake(_) => self.shake(key),
            Layer::Records(_) => self.pump(key),
            Layer::Dead => {
                self.remove_tunnel(key);
            }
        }
    }

    fn tunnel_connected(&mut self, key: Key) {
        let Some(handshake) = self.handshakes.remove(&key) else { return };
        let Some(t) = self.tunnels.get_mut(key) else { return };
        t.link.layer = Layer::Handshake(Box::new(handshake));
        t.link.writable = true;
        self.shake(key);
    }

    fn shake(&mut self, key: Key) {
        loop {
            let Some(t) = self.tunnels.get_mut(key) else { return };
            let result = t.link.shake();
            // The last flight waits for OPEN and the client's first bytes, if there is a stream to open.
            let sent = (matches!(result, Ok(true)) && t.conn.is_some()) || t.link.flush();
            match result {
                Err(failure) => return self.handshake_failed(key, failure),
                Ok(true) => break,
                Ok(false) if !sent => return self.handshake_failed(key, Failure::new(Reason::HandshakeFailed, "socket failed")),
                Ok(false) => match t.link.fill(&mut self.buffers) {
                    Fill::Got => {}
                    Fill::WouldBlock => return t.link.release(&mut self.buffers),
                    Fill::Eof | Fill::Failed => return self.handshake_cut(key),
                },
            }
        }
        self.shared.counters.add("tunnels_made", 1);
        let Some(t) = self.tunnels.get_mut(key) else { return };
        if std::mem::take(&mut t.shaking)
            && let Some(pool) = t.pool.clone()
        {
            self.note_shaken(&pool);
        }
        let Some(t) = self.tunnels.get_mut(key) else { return };
        t.link.limit_key(self.shared.config.records_per_key);
        t.step += 1;
        t.used_us = self.now_us;
        match t.conn {
            Some(conn) => self.open_stream(conn, key),
            None => {
                self.tunnel_idle(key);
                if self.draining {
                    // Made while the agent began to go: its OPEN belongs to the successor.
                    return self.retire_tunnel(key);
                }
                self.pump(key);
            }
        }
    }

    /// The peer closed or reset before the handshake was done. A permissive server takes a client that says nothing in time for a
    /// plain one, and resets the hello that comes after all: on a starved node the first connection would be lost to that. So
    /// the same endpoint is dialled again before it counts as failed.
    fn handshake_cut(&mut self, key: Key) {
        let again = self.tunnels.get(key).filter(|t| t.link.machine.role() == Role::Opener).and_then(|t| t.conn);
        let Some(conn) = again.filter(|conn| self.conns.get(*conn).is_some_and(|c| c.redials < MAX_REDIALS)) else {
            return self.handshake_failed(key, Failure::new(Reason::HandshakeFailed, "closed in the handshake"));
        };
        self.remove_tunnel(key);
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.redials += 1;
        c.flags |= FLAG_RETRIED;
        c.tunnel = None;
        let (plan, index) = (c.plan.clone(), usize::from(c.endpoint));
        self.shared.counters.add("tunnel_redials", 1);
        if let Some(plan) = plan
            && let Some(endpoint) = plan.endpoints.get(index)
        {
            self.take_tunnel(conn, &plan, endpoint);
        }
    }

    pub fn handshake_failed(&mut self, key: Key, failure: Failure) {
        let Some(t) = self.tunnels.get_mut(key) else { return };
        let inbound = t.link.machine.role() == Role::Acceptor;
        let (pod, peer, destination) = (t.pod.clone(), t.link.peer_address, t.destination);
        let _ = t.link.flush();
        self.handshake_refused(&pod, inbound, peer, destination, &failure);
        if inbound {
            let conn = self.new_conn(pod, true, peer, destination);
            self.record(&conn, failure.reason, crate::record::Closer::Agent);
            self.remove_tunnel(key);
        } else {
            self.tunnel_failed(key, failure);
        }
    }

    /// A tunnel under way came to nothing: its connection tries the next endpoint.
    pub fn tunnel_failed(&mut self, key: Key, failure: Failure) {
        self.handshakes.remove(&key);
        let Some(t) = self.remove_tunnel(key) else { return };
        if let Some(conn) = t.conn {
            self.endpoint_failed(conn, failure.reason);
        }
    }
}

/// A tunnel's socket, connecting. Source ports are taken in turn, so one may belong to an old tunnel between the very same
/// ends: then the next.
fn dial_tunnel(pod: &dyn PodSockets, to: SocketAddr) -> rustix::io::Result<(OwnedFd, bool)> {
    for _ in 0..PORT_TRIES {
        let socket = pod.dial_socket(to, true).map_err(|e| errno(&e))?;
        sock::tune(&socket, true);
        match sock::connect(socket.as_fd(), to) {
            Err(Errno::ADDRNOTAVAIL) => continue,
            other => return other.map(|done| (socket, done)),
        }
    }
    Err(Errno::ADDRNOTAVAIL)
}
