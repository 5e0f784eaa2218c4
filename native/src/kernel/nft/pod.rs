//! One pod behind the nftables rules: its listeners, and sockets opened inside its namespace. See [`PodSockets`].

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::rules::{OWN_MARK, Ports};
use crate::kernel::ports::PortRange;
use crate::kernel::{diag, netns, routes};
use crate::seam::{Direction, Listener, Original, PodSockets};
use crate::sys;

/// Ports tried for one socket before it is given up.
const PORT_TRIES: u32 = 4_096;

/// Dropping it closes the listeners and the handle of the namespace.
pub struct NftPod {
    key: String,
    cookie: u64,
    ips: Vec<IpAddr>,
    pub namespace: File,
    pub ipv6: bool,
    pub sysctls_before: routes::Before,
    pub v4: Ports,
    pub v6: Option<Ports>,
    listeners: Vec<Listener>,
    _owned: Vec<OwnedFd>,
    app_ports: PortRange,
    tunnel_ports: PortRange,
}

/// Who the pod is, and the port ranges of the agent's sockets in it.
pub struct Plan {
    pub key: String,
    pub cookie: u64,
    pub ips: Vec<IpAddr>,
    pub ipv6: bool,
    pub app_ports: (u16, u16),
    pub tunnel_ports: (u16, u16),
}

/// A listener on a loopback port that the kernel chooses. The inbound one takes connections to any address.
fn listener(direction: Direction, ipv6: bool) -> io::Result<(OwnedFd, u16)> {
    let fd = sys::socket(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }, libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    if ipv6 {
        sys::set_option(fd.as_fd(), libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // Accepted sockets inherit it and hold the app's own port, which the app must be able to bind again.
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if direction == Direction::Inbound {
        sys::set_transparent(fd.as_fd(), ipv6)?;
    }
    sys::bind(fd.as_fd(), sys::loopback(ipv6, 0))?;
    // Cut by the namespace's net.core.somaxconn.
    sys::listen(fd.as_fd(), 65_535)?;
    let port = sys::local_address(fd.as_fd())?.port();
    Ok((fd, port))
}

impl NftPod {
    /// Sets routes and sysctls up and opens the listeners; no connection reaches them before the rules name their ports.
    pub fn open(plan: Plan, namespace: File) -> io::Result<Self> {
        let sysctls_before = routes::install(namespace.as_fd(), plan.ipv6)?;
        let (mut listeners, mut owned) = (Vec::new(), Vec::new());
        let mut family = |ipv6: bool| -> io::Result<Ports> {
            let mut open = |direction| -> io::Result<u16> {
                let (fd, port) = netns::within(namespace.as_fd(), || listener(direction, ipv6))?;
                listeners.push(Listener { fd: fd.as_raw_fd(), direction });
                owned.push(fd);
                Ok(port)
            };
            Ok(Ports { outbound: open(Direction::Outbound)?, inbound: open(Direction::Inbound)? })
        };
        let opened = family(false).and_then(|v4| Ok((v4, plan.ipv6.then(|| family(true)).transpose()?)));
        let (v4, v6) = match opened {
            Ok(ports) => ports,
            Err(e) => {
                let _ = routes::remove(namespace.as_fd(), plan.ipv6, &sysctls_before);
                return Err(e);
            }
        };
        let seed = sys::monotonic_ns();
        Ok(Self {
            key: plan.key,
            cookie: plan.cookie,
            ips: plan.ips,
            ipv6: plan.ipv6,
            namespace,
            sysctls_before,
            v4,
            v6,
            listeners,
            _owned: owned,
            app_ports: PortRange::new(plan.app_ports, seed),
            tunnel_ports: PortRange::new(plan.tunnel_ports, seed),
        })
    }
}

fn socket(to: SocketAddr, mark: u32) -> io::Result<OwnedFd> {
    let domain = if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let fd = sys::socket(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
    Ok(fd)
}

/// Binds to the next free port of the range; with SO_REUSEADDR an explicit port may take over from one in TIME_WAIT (DP-2).
fn bind_in(fd: BorrowedFd<'_>, ip: IpAddr, range: &PortRange) -> io::Result<()> {
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    for _ in 0..range.len().min(PORT_TRIES) {
        match sys::bind(fd, SocketAddr::new(ip, range.take())) {
            Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => (),
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EADDRINUSE))
}

/// Starts to connect; an app that is not there is told at once.
fn start(fd: OwnedFd, to: SocketAddr) -> io::Result<OwnedFd> {
    match sys::connect(fd.as_fd(), to) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd),
    }
}

impl PodSockets for NftPod {
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

    /// From the translation that conntrack keeps. Where there was none, somebody dialled the listener itself.
    fn original_destination(&self, accepted: BorrowedFd<'_>) -> io::Result<Original> {
        let local = sys::local_address(accepted)?;
        let direct = || io::Error::new(io::ErrorKind::NotFound, "the connection was not redirected");
        let original = sys::nat_destination(accepted, local.is_ipv6()).map_err(|_| direct())?;
        if original == local { Err(direct()) } else { Ok(original.into()) }
    }

    fn dial_socket(&self, to: SocketAddr, tunnel: bool) -> io::Result<OwnedFd> {
        netns::within(self.namespace.as_fd(), || {
            let fd = socket(to, OWN_MARK)?;
            if tunnel {
                let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
                bind_in(fd.as_fd(), any, &self.tunnel_ports)?;
            }
            Ok(fd)
        })
    }

    fn app_socket(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd> {
        netns::within(self.namespace.as_fd(), || {
            if self.ips.contains(&client) || client.is_loopback() || client.is_unspecified() || client.is_ipv6() != to.is_ipv6() {
                return start(socket(to, OWN_MARK)?, to);
            }
            // A bound socket cannot be bound again: a port that serves these two ends already costs a new one.
            for _ in 0..self.app_ports.len().min(PORT_TRIES) {
                let fd = socket(to, routes::MARK)?;
                sys::set_transparent(fd.as_fd(), client.is_ipv6())?;
                bind_in(fd.as_fd(), client, &self.app_ports)?;
                match start(fd, to) {
                    Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => (),
                    other => return other,
                }
            }
            Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
        })
    }

    /// An error counts as a yes: then the connection is the app's, as it would be without us.
    fn app_listens(&self, port: u16) -> bool {
        let ours = |s: &diag::Socket| s.local.ip().is_loopback();
        diag::list(self.namespace.as_fd(), diag::STATES_LISTEN).map_or(true, |found| found.iter().any(|s| s.local.port() == port && !ours(s)))
    }
}
