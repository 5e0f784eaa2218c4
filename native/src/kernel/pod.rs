//! One enrolled pod as the byte side uses it: its listeners, and sockets opened inside its namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::addr;
use super::layout::{ListenerKey, socket_role, traffic};
use super::maps::Maps;
use super::nft::OWN_MARK;
use super::ports::{Met, PortRange};
use super::stock::Stock;
use super::{conntrack, diag, enrol, netns, routes};
use crate::fault::Fault;
use crate::seam::{Direction, Listener, Original, PodSockets};
use crate::sys;

/// Sockets made per visit to a namespace.
const STOCK: usize = 8;

/// Ports tried for one socket before it is given up.
const PORT_TRIES: u32 = 4_096;

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
    /// Ends of clients that have, or had, a connection from a port of the app range.
    met: Met,
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
            met: Met::default(),
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
        for _ in 0..range.len().min(PORT_TRIES) {
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
        for _ in 0..self.app_ports.len().min(PORT_TRIES) {
            let fd = self.socket(to, socket_role::OWN_APP)?;
            sys::set_transparent(fd.as_fd(), client.is_ipv6())?;
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, routes::MARK as i32)?;
            // With the app's end, which sockops ties to lo too, it is out of the way of the client's own SYNs.
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, sys::LOOPBACK)?;
            self.bind_in(fd.as_fd(), client, &self.app_ports)?;
            if self.is_a_clients(fd.as_fd(), to)? {
                continue;
            }
            match start(fd, to, quick) {
                Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    /// Whether the client itself has a connection to the app from the port that the socket is bound to: a SYN would go to that one, and get
    /// no answer (rule DP-1).
    fn is_a_clients(&self, fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<bool> {
        if self.met.is_empty() {
            return Ok(false);
        }
        let client = sys::local_address(fd)?;
        if !self.met.has(client) {
            return Ok(false);
        }
        let lasts = diag::mark_of(self.namespace.as_fd(), to, client)?.is_some();
        if !lasts {
            self.met.forget(client);
        }
        Ok(lasts)
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

    fn met(&self, client: SocketAddr) {
        if self.app_ports.has(client.port()) {
            self.met.note(client);
        }
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
