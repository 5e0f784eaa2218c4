//! The seam between the kernel side (`kernel/`: programs, pods, sockets in their namespaces) and the byte side
//! (`relay/`, `tunnel/`): the byte side knows only these traits, so its tests run without BPF and without root.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Which way a listener's connections go, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// A listening, non-blocking socket inside a pod's network namespace, owned by the pod.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    pub fd: RawFd,
    pub direction: Direction,
}

/// Where an intercepted connection was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    pub destination: SocketAddr,
    /// The endpoint of the service that the connect hook took, if it was a service: the one pick of this connection.
    pub backend: Option<SocketAddr>,
}

impl From<SocketAddr> for Original {
    fn from(destination: SocketAddr) -> Self {
        Self { destination, backend: None }
    }
}

/// One enrolled pod as the byte side sees it. Dropping the last reference closes its listeners and namespace handle.
pub trait PodSockets: Send + Sync {
    /// "namespace/name".
    fn key(&self) -> &str;
    /// Network namespace cookie: the pod's identity toward the kernel.
    fn cookie(&self) -> u64;
    /// The pod's own addresses.
    fn ips(&self) -> &[IpAddr];
    fn listeners(&self) -> &[Listener];
    /// Where the app wanted to go (outbound), read once from the accepted socket. Error `NotFound`: the connection did
    /// not come through the connect hook (somebody dialled the listener directly) and must be refused.
    fn original_destination(&self, accepted: BorrowedFd<'_>) -> io::Result<Original>;
    /// A non-blocking TCP socket in the pod's namespace that interception leaves alone (own-socket mark set), for a
    /// connection from the pod outwards. `tunnel` asks for a source port from the tunnel range (rule DP-1); should the
    /// connect then fail with EADDRNOTAVAIL, that port serves an older tunnel between the same ends: ask again.
    fn dial_socket(&self, to: SocketAddr, tunnel: bool) -> io::Result<OwnedFd>;
    /// As above, but towards the app inside: transparent, bound to `client` and a port of the app range (DP-1, DP-2), so
    /// that the app sees the client's address. With `client` an address of the pod itself it is left unbound. The connect
    /// to `to` has been started, since only so is it known that the port is free for these two ends: another connect
    /// answers Ok, EALREADY or what went wrong.
    fn app_socket(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd>;
    /// As `app_socket`, where bytes for the app are at hand: the last step of the TCP handshake may wait for them and ride with
    /// them. On a socket that then stays silent the app would see the connection late.
    fn app_socket_for_data(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd> {
        self.app_socket(to, client)
    }
    /// Whether the connection that arrives from `source` at `destination`, another pod of this node, is this pod's own: an app here holds
    /// the very socket (sock_diag), also where the node's NAT gave it another source port on the way (rule DP-7). False for
    /// sockets that the agent opened here. Costs about six system calls.
    fn owns(&self, _source: SocketAddr, _destination: SocketAddr) -> io::Result<bool> {
        Ok(false)
    }
    /// A client connected to this pod from there: while that connection lasts, `app_socket` cannot have its port.
    fn met(&self, _client: SocketAddr) {}
    /// Whether the app itself listens on this port. Asked only about ports on which the agent serves too (HBONE).
    fn app_listens(&self, _port: u16) -> bool {
        false
    }
}

/// Changes of the enrolled set, told by the kernel side to the byte side.
pub trait PodRegistry: Send + Sync {
    fn enrolled(&self, pod: Arc<dyn PodSockets>);
    /// No new connection is taken for the pod; open ones end within `drain_ms` (0: reset now).
    fn unenrolled(&self, key: &str, drain_ms: u64);
}
