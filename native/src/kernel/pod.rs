//! One enrolled pod as the byte side uses it: its listeners, and sockets opened inside its namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::addr;
use super::layout::{ListenerKey, socket_role, traffic};
use super::maps::Maps;
use super::nft::OWN_MARK;
use super::stock::Stock;
use super::{conntrack, diag, enrol, netns, routes};
use crate::fault::Fault;
use crate::seam::{Direction, Listener, Original, PodSockets};
use crate::sys;

/// Sockets made per visit to a namespace.
const STOCK: usize = 8;

/// Ports tried for one socket before it is given up.
const PORT_TRIES: u32 = 4_096;

/// Ports taken in turn from a range, each once a round, in an order of the range's own: the agent before this one holds hundreds
/// of ports that it took in its order, and two orders that resemble each other would meet in all of them, one after the other.
/// For the same reason each round has another order: thousands of connections that stay open took their ports in a row.
#[derive(Debug)]
pub struct PortRange {
    low: u16,
    count: u32,
    key: u64,
    next: AtomicU32,
}

impl PortRange {
    /// `bounds` are the first and the last port; `seed` decides the order.
    pub fn new(bounds: (u16, u16), seed: u64) -> Self {
        let count = u32::from(bounds.1.saturating_sub(bounds.0)) + 1;
        Self { low: bounds.0, count, key: mix(seed), next: AtomicU32::new(0) }
    }

    /// How many ports it has.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// The next port.
    pub fn take(&self) -> u16 {
        // A permutation of 16 bits, walked until it falls into the range: within one round every port comes exactly once.
        let taken = self.next.fetch_add(1, Ordering::Relaxed);
        let (round, mut at) = (u64::from(taken / self.count), taken % self.count);
        let key = if round == 0 { self.key } else { mix(self.key.wrapping_add(round)) };
        loop {
            at = u32::from(permute(at as u16, key));
            if at < self.count {
                return self.low + at as u16;
            }
        }
    }
}

/// Four Feistel rounds over two bytes: a bijection of 16 bits for every key.
fn permute(value: u16, key: u64) -> u16 {
    let (mut left, mut right) = ((value >> 8) as u8, value as u8);
    for round in 0..4_u64 {
        let scrambled = mix(key ^ (round << 8) ^ u64::from(right)) as u8;
        (left, right) = (right, left ^ scrambled);
    }
    u16::from(left) << 8 | u16::from(right)
}

/// Spreads every bit over all others (the finaliser of MurmurHash3, Appleby).
fn mix(value: u64) -> u64 {
    let half = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let whole = (half ^ (half >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    whole ^ (whole >> 33)
}

/// See [`PodSockets`]. Dropping it closes the listeners and the handle of the namespace.
pub struct Pod {
    pub key: String,
    pub cookie: u64,
    pub ips: Vec<IpAddr>,
    pub namespace: File,
    pub ipv6: bool,
    pub sysctls_before: routes::Before,
    listeners: Vec<Listener>,
    owned: Vec<(OwnedFd, bool)>,
    maps: Arc<Maps>,
    /// By family and role.
    stock: [Stock; 4],
    app_ports: PortRange,
    tunnel_ports: PortRange,
}

/// What `Pod::open` needs to know.
pub struct PodPlan {
    pub key: String,
    pub cookie: u64,
    pub ips: Vec<IpAddr>,
    pub namespace: File,
    pub ipv6: bool,
    pub sysctls_before: routes::Before,
    pub app_ports: (u16, u16),
    pub tunnel_ports: (u16, u16),
}

fn io_error(fault: Fault) -> io::Error {
    io::Error::other(fault.to_string())
}

/// A listener on a port that the kernel chooses: what finds it is its row, never its number (DP-5).
fn listener(maps: &Maps, ipv6: bool) -> io::Result<OwnedFd> {
    let fd = sys::socket(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }, libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    if ipv6 {
        sys::set_option(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // Inherited by what is accepted, which takes up the app's own port: without it an app could not bind again after a
    // restart while such a connection is open.
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    maps.mark_socket(fd.as_fd(), socket_role::OWN_LISTENER).map_err(io_error)?;
    sys::bind(fd.as_fd(), sys::loopback(ipv6, 0))?;
    // Cut by the namespace's net.core.somaxconn.
    sys::listen(fd.as_fd(), 65_535)?;
    Ok(fd)
}

/// Starts to connect; an app that is not there is told at once. `quick`: the handshake's last ACK goes out at once, not with
/// the first data (`TCP_QUICKACK` off, tcp(7)).
fn start(fd: OwnedFd, to: SocketAddr, quick: bool) -> io::Result<OwnedFd> {
    if !quick {
        sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)?;
    }
    match sys::connect(fd.as_fd(), to) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd),
    }
}

impl Pod {
    /// Opens the listeners inside the namespace; no connection reaches them before `steer`.
    pub fn open(plan: PodPlan, maps: Arc<Maps>) -> io::Result<Self> {
        let (listeners, owned) = netns::within(plan.namespace.as_fd(), || {
            let (mut listeners, mut owned) = (Vec::new(), Vec::new());
            for direction in [Direction::Outbound, Direction::Inbound] {
                for ipv6 in if plan.ipv6 { &[false, true][..] } else { &[false] } {
                    let fd = listener(&maps, *ipv6)?;
                    listeners.push(Listener { fd: fd.as_raw_fd(), direction });
                    owned.push((fd, *ipv6));
                }
            }
            Ok((listeners, owned))
        })?;
        let seed = sys::monotonic_ns();
        Ok(Self {
            key: plan.key,
            cookie: plan.cookie,
            ips: plan.ips,
            namespace: plan.namespace,
            ipv6: plan.ipv6,
            sysctls_before: plan.sysctls_before,
            listeners,
            owned,
            maps,
            stock: Default::default(),
            app_ports: PortRange::new(plan.app_ports, seed),
            tunnel_ports: PortRange::new(plan.tunnel_ports, seed),
        })
    }

    /// From now on new connections come to these listeners; an older agent's get no more.
    pub fn steer(&self) -> Result<(), Fault> {
        for (listener, (fd, ipv6)) in self.listeners.iter().zip(&self.owned) {
            let direction = if listener.direction == Direction::Outbound { traffic::OUTBOUND } else { traffic::INBOUND };
            let key = ListenerKey { cookie: self.cookie, traffic: direction, family: if *ipv6 { 6 } else { 4 } }.encode();
            self.maps.put("listeners", &key, &(fd.as_raw_fd() as u64).to_le_bytes())?;
        }
        Ok(())
    }

    /// A marked socket of the pod's namespace. Entering the namespace costs more than the socket, so a few are made at a time;
    /// what else is done to a socket needs no entering.
    fn socket(&self, to: SocketAddr, role: u32) -> io::Result<OwnedFd> {
        let place = usize::from(to.is_ipv6()) * 2 + usize::from(role == socket_role::OWN_APP);
        self.stock[place].take(|| {
            let domain = if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
            let made = netns::within(self.namespace.as_fd(), || {
                (0..STOCK).map(|_| sys::socket(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP)).collect::<io::Result<Vec<_>>>()
            })?;
            for fd in &made {
                sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
                self.maps.mark_socket(fd.as_fd(), role).map_err(io_error)?;
                // While nftables takes over from these programs, or they from it, its rules see this socket too.
                sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, OWN_MARK as i32)?;
            }
            Ok(made)
        })
    }

    /// Called every few seconds: sockets that were made ahead and that nobody needs are closed.
    pub fn age(&self) {
        self.stock.iter().for_each(Stock::age);
    }

    /// Binds to the next port of the range on which nothing listens. SO_REUSEADDR with an explicit port lets a connection
    /// take over from one in TIME_WAIT (DP-2).
    fn bind_in(&self, fd: BorrowedFd<'_>, ip: IpAddr, range: &PortRange) -> io::Result<()> {
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        let mut last = io::Error::from_raw_os_error(libc::EADDRINUSE);
        for _ in 0..range.count.min(PORT_TRIES) {
            match sys::bind(fd, SocketAddr::new(ip, range.take())) {
                Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    /// A connecting socket toward the app that speaks from the client's address. A bound socket cannot be bound again, so
    /// each port that turns out to serve these two ends already costs a new one.
    fn transparent(&self, to: SocketAddr, client: IpAddr, quick: bool) -> io::Result<OwnedFd> {
        let mut last = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        for _ in 0..self.app_ports.count.min(PORT_TRIES) {
            let fd = self.socket(to, socket_role::OWN_APP)?;
            sys::set_transparent(fd.as_fd(), client.is_ipv6())?;
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, routes::MARK as i32)?;
            self.bind_in(fd.as_fd(), client, &self.app_ports)?;
            match start(fd, to, quick) {
                Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    fn app_socket_as(&self, to: SocketAddr, client: IpAddr, quick: bool) -> io::Result<OwnedFd> {
        if self.ips.contains(&client) || client.is_loopback() || client.is_unspecified() || client.is_ipv6() != to.is_ipv6() {
            return start(self.socket(to, socket_role::OWN_APP)?, to, quick);
        }
        self.transparent(to, client, quick)
    }
}

impl PodSockets for Pod {
    fn key(&self) -> &str {
        &self.key
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    fn original_destination(&self, accepted: BorrowedFd<'_>) -> io::Result<Original> {
        match self.maps.socket_state(accepted).map_err(io_error)? {
            Some(state) if u32::from(state.role) == socket_role::ACCEPTED => {
                let destination = addr::socket_addr(state.original, state.original_port);
                let target = addr::socket_addr(state.target, state.target_port);
                Ok(Original { destination, backend: (target != destination).then_some(target) })
            }
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "the connection did not come through the connect hook")),
        }
    }

    fn dial_socket(&self, to: SocketAddr, tunnel: bool) -> io::Result<OwnedFd> {
        let fd = self.socket(to, socket_role::OWN)?;
        if tunnel {
            let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
            self.bind_in(fd.as_fd(), any, &self.tunnel_ports)?;
        }
        Ok(fd)
    }

    fn app_socket(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd> {
        self.app_socket_as(to, client, true)
    }

    fn app_socket_for_data(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd> {
        self.app_socket_as(to, client, false)
    }

    fn owns(&self, source: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
        let held = |from: SocketAddr, to| -> io::Result<bool> {
            let mark = if self.ips.contains(&from.ip()) { diag::mark_of(self.namespace.as_fd(), from, to)? } else { None };
            Ok(mark.is_some_and(|mark| mark != OWN_MARK && mark != routes::MARK))
        };
        if held(source, destination)? {
            return Ok(true);
        }
        let before = conntrack::original(source, destination)?;
        before.map_or(Ok(false), |(from, to)| held(from, to))
    }

    /// An error of the map counts as a yes: then the connection is the app's, as it would be without us.
    fn app_listens(&self, port: u16) -> bool {
        enrol::app_listens(&self.maps, self.cookie, &self.ips, port).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::PortRange;
    use std::collections::HashSet;

    #[doc = "[DP-1] a range hands out each of its ports once before any a second time"]
    #[test]
    fn every_port_has_its_turn() {
        for (bounds, seed) in [((10_000, 19_999), 1), ((20_000, 31_999), 77), ((5, 5), 3), ((5, 6), 9), ((1_024, 65_535), 4)] {
            let range = PortRange::new(bounds, seed);
            let taken: HashSet<u16> = (0..range.len()).map(|_| range.take()).collect();
            assert_eq!(taken.len(), range.len() as usize);
            assert!(taken.iter().all(|p| (bounds.0..=bounds.1).contains(p)));
        }
    }

    #[doc = "[DP-3] thousands of ports held since the round before are not met in a row"]
    #[test]
    fn a_round_does_not_meet_the_one_before() {
        for seed in 0..200 {
            let range = PortRange::new((10_000, 19_999), seed);
            let held: HashSet<u16> = (0..6_000).map(|_| range.take()).collect();
            let (mut row, mut longest) = (0, 0);
            for _ in 6_000..40_000 {
                row = if held.contains(&range.take()) { row + 1 } else { 0 };
                longest = longest.max(row);
            }
            // 0.6 to the 40th: once in 10^8 takes.
            assert!(longest < 40, "seed {seed}: {longest} held ports one after the other");
        }
    }

    #[doc = "[DP-19] the ports that a draining agent holds never stop its successor for long"]
    #[test]
    fn two_agents_do_not_meet_in_a_row() {
        for seed in 0..400_u64 {
            let before = PortRange::new((10_000, 19_999), seed * 1_000_003);
            let held: HashSet<u16> = (0..1_000).map(|_| before.take()).collect();
            let after = PortRange::new((10_000, 19_999), seed * 1_000_003 + 977);
            let mut row = 0;
            for _ in 0..3_000 {
                row = if held.contains(&after.take()) { row + 1 } else { 0 };
                assert!(row < 16, "seed {seed}: {row} held ports one after the other");
            }
        }
    }
}
