//! Connections that a pod makes: original destination, plan, endpoint, socket or tunnel.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use serde_json::json;

use super::conn::{End, Given, State};
use super::places::Entry;
use super::plan::{Mode, Plan};
use super::questions::{Ask, Resolved};
use super::shared::{Place, Pod};
use super::slab::Key;
use super::sock;
use super::timers::Timer;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::{Closer, FLAG_RETRIED, Lane};

/// Stable reason of a failed connect.
pub fn connect_reason(error: Errno) -> Reason {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET => Reason::ConnectRefused,
        Errno::TIMEDOUT => Reason::ConnectTimeout,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::ACCESS | Errno::PERM => Reason::ConnectUnreachable,
        _ => Reason::ConnectFailed,
    }
}

pub fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)
}

impl Worker {
    pub fn start_outbound(&mut self, pod: Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        let original = pod.sockets.original_destination(fd.as_fd());
        let destination = match &original {
            Ok(original) => SocketAddr::new(original.destination.ip().to_canonical(), original.destination.port()),
            Err(_) => sock::local(fd.as_fd()).unwrap_or(peer),
        };
        let source = self.own_source(&pod, peer, destination.is_ipv4());
        let number = pod.number;
        let name = pod.name.clone();
        let mut conn = self.new_conn(pod, false, source, destination);
        conn.chosen = original.as_ref().ok().and_then(|o| o.backend).map(|b| SocketAddr::new(b.ip().to_canonical(), b.port()));
        let key = self.keep_conn(conn, fd);
        if original.is_err() {
            self.shared.counters.add("not_intercepted", 1);
            return self.refuse(key, Reason::NotIntercepted);
        }
        let body = || {
            json!({
                "ask": "outbound", "pod": &*name,
                "destination": {"ip": destination.ip(), "port": destination.port()},
                "source": {"ip": source.ip(), "port": source.port()},
            })
        };
        if let Some(Resolved::Plan(plan)) = self.ask(Ask::Outbound { pod: number, destination }, key, body) {
            self.with_plan(key, plan);
        }
    }

    /// The address that a connection of the pod goes on with, and is judged by. The redirect binds the app's socket to loopback, and
    /// an app with the rights can bind any address, which proves nothing: both go on as the pod that they are (DP-7).
    fn own_source(&self, pod: &Pod, peer: SocketAddr, ipv4: bool) -> SocketAddr {
        let ips = pod.sockets.ips();
        if ips.contains(&peer.ip()) {
            return peer;
        }
        if !peer.ip().is_loopback() {
            self.shared.counters.add("source_not_own", 1);
        }
        let none = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(ips.iter().find(|ip| ip.is_ipv4() == ipv4).copied().unwrap_or(none), peer.port())
    }

    pub fn with_plan(&mut self, key: Key, plan: Arc<Plan>) {
        let Some(conn) = self.conns.get_mut(key).filter(|c| c.state == State::Asking) else { return };
        conn.plan = Some(plan.clone());
        if self.act(key, &plan.action) {
            self.enter(key);
        }
    }

    /// Goes on if the service may have one more connection, waits its turn, or is refused.
    pub fn enter(&mut self, key: Key) {
        let wait_ms = self.connect_ms(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(plan) = conn.plan.clone() else { return };
        let Some(limit) = &plan.limit else { return self.next_endpoint(key) };
        match limit.enter((self.index, key)) {
            Entry::In(place) => {
                conn.place = Some(place);
                self.next_endpoint(key);
            }
            Entry::Wait(waiting) => {
                conn.waiting = Some(waiting);
                conn.state = State::Queued;
                conn.step += 1;
                let timer = Timer::conn(key, conn.step);
                self.timers.set(self.now_us / 1_000, wait_ms, timer);
                self.shared.counters.add("connections_queued", 1);
            }
            Entry::Full => self.over_limit(key),
        }
    }

    /// It is its turn; not where it has left.
    pub fn has_place(&mut self, key: Key, place: Place) {
        let Some(conn) = self.conns.get_mut(key).filter(|c| c.state == State::Queued) else { return };
        conn.waiting = None;
        conn.place = Some(place);
        self.next_endpoint(key);
    }

    /// The record names the policy whose limit it is.
    pub fn over_limit(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let Some(plan) = &conn.plan {
            conn.policy = self.shared.policy_number(&plan.limits.policy);
            if let Some(Given::Dialling(dial)) = conn.given.as_deref_mut() {
                dial.failed(Reason::ConnectionLimit, &plan.limits.policy);
            }
        }
        self.shared.counters.add(Reason::ConnectionLimit.text(), 1);
        self.refuse(key, Reason::ConnectionLimit);
    }

    /// How long a connection may take to reach its server, ms.
    pub fn connect_ms(&self, key: Key) -> u64 {
        let plan = self.conns.get(key).and_then(|c| c.plan.as_ref());
        plan.and_then(|p| p.limits.connect_timeout_ms).unwrap_or(self.shared.config.connect_timeout_ms)
    }

    /// Goes on with the next endpoint of the plan that has not been tried; without one the client gets its RST.
    pub fn next_endpoint(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.up = None;
        conn.tunnel = None;
        conn.state = State::Connecting;
        conn.step += 1;
        let Some(plan) = conn.plan.clone() else { return };
        let Some(index) = plan.pick(&conn.tried, conn.chosen) else {
            let reason = conn.failure.unwrap_or(Reason::NoEndpoints);
            return self.refuse(key, reason);
        };
        if !conn.tried.is_empty() {
            conn.flags |= FLAG_RETRIED;
        }
        conn.tried.push(index);
        self.use_endpoint(key, index);
    }

    /// Takes the way that the plan has for one of its endpoints.
    pub fn use_endpoint(&mut self, key: Key, index: u16) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(plan) = conn.plan.clone() else { return };
        conn.endpoint = index;
        conn.state = State::Connecting;
        let endpoint = &plan.endpoints[usize::from(index)];
        conn.upstream = Some(endpoint.address);
        match endpoint.mode {
            Mode::Fairlead => self.use_tunnel(key, &plan, endpoint),
            Mode::Hbone => self.use_hbone(key, &plan, index),
            Mode::Plain => {
                conn.lane = Lane::Plain;
                let socket = conn.pod.sockets.dial_socket(endpoint.address, false);
                self.dial(key, socket, endpoint.address);
            }
            Mode::Local => {
                conn.lane = Lane::Local;
                conn.verdict = endpoint.verdict;
                let source = conn.source.ip();
                let target = endpoint.pod.as_ref().and_then(|p| self.pod_named(p)).map(|p| p.sockets.clone());
                match target {
                    Some(pod) => self.dial(key, pod.app_socket(endpoint.address, source), endpoint.address),
                    None => self.await_pod(key),
                }
            }
        }
    }

    pub fn endpoint_failed(&mut self, key: Key, reason: Reason) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.failure = Some(reason);
        self.shared.counters.add("endpoint_failed", 1);
        self.next_endpoint(key);
    }

    /// Connects the socket towards the server; used for plain and local endpoints and for the app side of inbound.
    pub fn dial(&mut self, key: Key, socket: std::io::Result<OwnedFd>, to: SocketAddr) {
        let result = socket.map_err(|e| errno(&e)).and_then(|fd| sock::connect(fd.as_fd(), to).map(|done| (fd, done)));
        let Some(conn) = self.conns.get_mut(key) else { return };
        match result {
            Err(error) => self.dial_failed(key, connect_reason(error)),
            Ok((fd, done)) => {
                conn.state = State::Connecting;
                conn.step += 1;
                let step = conn.step;
                conn.up = Some(End::new(fd, false));
                self.watch_up(key);
                if done {
                    self.dialled(key);
                } else {
                    let limit_ms = self.connect_ms(key);
                    self.timers.set(self.now_us / 1_000, limit_ms, Timer::conn(key, step));
                }
            }
        }
    }

    /// Readiness of a connecting socket.
    pub fn on_dial(&mut self, key: Key) {
        let Some(up) = self.conns.get(key).and_then(|c| c.up.as_ref()) else { return };
        if let Some(error) = sock::take_error(up.fd.as_fd()) {
            return self.dial_failed(key, connect_reason(error));
        }
        if sock::connected(up.fd.as_fd()) {
            self.dialled(key);
        }
    }

    pub fn dial_failed(&mut self, key: Key, reason: Reason) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.inbound {
            return self.endpoint_failed(key, reason);
        }
        conn.close_first(Closer::Server);
        self.refuse(key, reason);
    }

    fn dialled(&mut self, key: Key) {
        let now = self.now_us;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.given.is_some() {
            return self.give_socket(key);
        }
        conn.state = State::Open;
        conn.step += 1;
        conn.ready_us = now;
        self.report.opened(conn, now);
        if let Some(up) = &mut conn.up {
            up.writable = true;
            if !conn.inbound {
                // Read for a tunnel that refused it, and now the server's beside it.
                up.pending = std::mem::take(&mut conn.early);
            }
        }
        match conn.tunnel {
            Some(tunnel) => self.app_connected(tunnel, false),
            None => self.pump_pair(key),
        }
    }
}
