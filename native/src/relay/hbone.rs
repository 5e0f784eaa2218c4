//! What a worker gives to the HBONE side: connections to endpoints that speak HBONE, and those that arrive for it. The worker
//! keeps nothing of them; their records come from there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::conn::{End, Given};
use super::dial::Pending;
use super::plan::{Endpoint, Mode, Plan};
use super::slab::Key;
use super::threads::pair;
use super::worker::Worker;
use crate::hbone::{Inbound, Outbound, PORT, Target};
use crate::reason::Reason;
use crate::record::Closer;

fn target(index: usize, endpoint: &Endpoint) -> Target {
    Target {
        endpoint: index as u16,
        address: endpoint.address,
        tunnel: endpoint.tunnel_address.unwrap_or_else(|| SocketAddr::new(endpoint.address.ip(), PORT)),
        identities: endpoint.identities.clone(),
    }
}

impl Worker {
    /// Carries a connection by HBONE: to the endpoint just picked, then to the other HBONE endpoints of the plan that were
    /// not tried. Nothing comes back: there is no way from here to plaintext (rule DP-9).
    pub fn use_hbone(&mut self, key: Key, plan: &Plan, picked: u16) {
        let Some(identity) = plan.identity.clone().or_else(|| self.conns.get(key).and_then(|c| c.pod.identity())) else {
            return self.endpoint_failed(key, Reason::NoSvid);
        };
        let Some(conn) = self.conns.get(key) else { return };
        let others = plan.endpoints.iter().enumerate().filter(|(i, e)| e.mode == Mode::Hbone && !conn.tried.contains(&(*i as u16)));
        let first = plan.endpoints.iter().enumerate().filter(|(i, _)| *i == usize::from(picked));
        let mut targets: Vec<Target> = first.chain(others).map(|(i, e)| target(i, e)).collect();
        if self.shared.hbone().is_none() {
            return self.endpoint_failed(key, Reason::UnsupportedMode);
        }
        let mut pending = None;
        if let Some(Given::Dialling(dial)) = self.conns.get_mut(key).and_then(|c| c.given.take()).map(|g| *g) {
            let Ok((ours, theirs)) = pair() else { return self.end(key, Reason::HandoverFailed, Closer::Agent, false) };
            for target in &mut targets {
                target.endpoint = dial.index;
            }
            pending = Some(Pending { dial, theirs });
            if let Some(conn) = self.conns.get_mut(key) {
                conn.down = Some(End::new(ours, false));
            }
        }
        let Some(down) = self.take_socket(key) else { return };
        let Some(conn) = self.conns.remove(key) else { return };
        let age = Duration::from_micros(self.now_us.saturating_sub(conn.started_us));
        let carried = Outbound {
            id: conn.id,
            client: down.fd,
            pod: conn.pod.sockets.clone(),
            identity,
            source: conn.source,
            destination: conn.destination,
            plan: plan.id,
            protocol: conn.detector.protocol() as u8,
            targets,
            early: conn.early,
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            flags: conn.flags,
            pending,
            connect: plan.limits.connect_timeout_ms.map(Duration::from_millis),
            place: conn.place,
        };
        if let Some(side) = self.shared.hbone() {
            side.hbone.outbound(carried);
        }
        self.drain_check();
    }

    /// Whether a ClientHello that offers h2 on this connection is for us: it came to the HBONE port, on which the
    /// application itself does not listen.
    pub fn is_hbone(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|c| c.destination.port() == PORT && !c.pod.sockets.app_listens(PORT))
    }

    /// Gives an arrived HBONE connection away; its bytes are unread.
    pub fn serve_hbone(&mut self, key: Key) {
        let Some(identity) = self.conns.get(key).and_then(|c| c.pod.identity()) else {
            self.shared.counters.add(Reason::NoSvid.text(), 1);
            return self.refuse(key, Reason::NoSvid);
        };
        if self.shared.hbone().is_none() {
            return self.refuse(key, Reason::UnsupportedMode);
        }
        let Some(down) = self.take_socket(key) else { return };
        let Some(conn) = self.conns.remove(key) else { return };
        if let Some(side) = self.shared.hbone() {
            let pod = conn.pod.sockets.clone();
            side.hbone.inbound(Inbound { socket: down.fd, pod, identity, source: conn.source, local: conn.destination });
        }
        self.drain_check();
    }
}
