//! sock_diag inside a namespace: which TCP sockets there are, and ending them (`SOCK_DESTROY`, Linux 4.9).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::addr;
use super::config::Tuple;
use super::netlink::{ACK, DUMP, Netlink, find_attribute};
use super::netns;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_MARK: u16 = 15;
const MESSAGE: usize = 72;
/// TCP state numbers (net/tcp_states.h).
pub const LISTEN: u8 = 10;
pub const STATES_LISTEN: u32 = 1 << LISTEN;
/// All but CLOSE, TIME_WAIT, LISTEN and NEW_SYN_RECV.
pub const STATES_CONNECTED: u32 = 0b1011_0011_1110;

/// One TCP socket of a namespace.
#[derive(Clone, Debug)]
pub struct Socket {
    pub state: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub v6only: bool,
    /// Bytes that have come and were not read, and that were written and are not acknowledged; an end counts as one.
    pub queued: (u32, u32),
    family: u8,
    /// The kernel's own id of the socket (inet_diag_sockid), which names exactly this one.
    id: [u8; 48],
}

fn request(family: u8, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(id);
    body
}

fn address(family: u8, bytes: &[u8]) -> IpAddr {
    if family == libc::AF_INET as u8 {
        return Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into();
    }
    bytes[..16].try_into().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr::from_bytes)
}

fn parse(body: &[u8]) -> Option<Socket> {
    let head = body.get(..MESSAGE)?;
    let id: [u8; 48] = head[4..52].try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let v6only = find_attribute(&body[MESSAGE..], INET_DIAG_SKV6ONLY).is_some_and(|v| v.first() == Some(&1));
    // An IPv6 socket on the IPv4 wildcard does not exist: `::` stays IPv6 here although it would map to nothing.
    let local = SocketAddr::new(address(head[0], &id[4..20]), port(0));
    let remote = SocketAddr::new(address(head[0], &id[20..36]), port(2));
    let number = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // inet_diag_msg: rqueue and wqueue follow the id and the timer's expiry.
    let queued = (number(56), number(60));
    Some(Socket { state: head[1], local, remote, v6only, queued, family: head[0], id })
}

/// Lists the TCP sockets of a namespace in any of the given states (bits).
pub fn list(namespace: BorrowedFd<'_>, states: u32) -> io::Result<Vec<Socket>> {
    netns::within(namespace, || {
        let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            netlink.request(SOCK_DIAG_BY_FAMILY, DUMP, &request(family, states, &[0; 48]), |body| {
                found.extend(parse(body));
            })?;
        }
        Ok(found)
    })
}

/// The SO_MARK of the connected socket of a namespace with these ends. None: there is no such socket.
pub fn mark_of(namespace: BorrowedFd<'_>, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let family = if local.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let mut found = None;
    let asked = netns::within(namespace, || {
        Netlink::open(libc::NETLINK_SOCK_DIAG)?.request(SOCK_DIAG_BY_FAMILY, ACK, &request(family as u8, u32::MAX, &ends(local, remote)), |body| {
            // Where no connection fits, the kernel answers with a listener that would take one.
            if parse(body).is_some_and(|s| (s.local, s.remote) == (local, remote) && s.state != LISTEN) {
                let mark = find_attribute(&body[MESSAGE..], INET_DIAG_MARK).and_then(|m| Some(u32::from_ne_bytes(m.try_into().ok()?)));
                found = Some(mark.unwrap_or(0));
            }
        })
    });
    match asked {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|()| found),
    }
}

/// An inet_diag_sockid that names a socket by its ends alone (INET_DIAG_NOCOOKIE).
fn ends(local: SocketAddr, remote: SocketAddr) -> [u8; 48] {
    let mut id = [0; 48];
    for (at, end) in [(0, local), (1, remote)] {
        id[2 * at..2 * at + 2].copy_from_slice(&end.port().to_be_bytes());
        let place = 4 + 16 * at;
        match end.ip() {
            IpAddr::V4(ip) => id[place..place + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[place..place + 16].copy_from_slice(&ip.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

/// How many connections of a namespace have bytes under way, in either direction.
pub fn count_busy(namespace: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(list(namespace, STATES_CONNECTED)?.iter().filter(|s| s.queued != (0, 0)).count())
}

/// Ends the given connections with a reset; returns how many. The local end is `source` or `destination`; port 0 means any.
pub fn destroy_matching(namespace: BorrowedFd<'_>, tuples: &[Tuple]) -> io::Result<usize> {
    let wanted: HashSet<_> = tuples.iter().flat_map(|t| [(t.source, t.destination), (t.destination, t.source)]).collect();
    let mut sockets = list(namespace, STATES_CONNECTED)?;
    let any = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
    let forms = |s: &Socket| [(s.local, s.remote), (any(s.local), s.remote), (s.local, any(s.remote))];
    sockets.retain(|s| forms(s).iter().any(|form| wanted.contains(form)));
    destroy(namespace, &sockets)
}

/// Ends the given sockets with a reset; returns how many. One that is gone already is not an error.
pub fn destroy(namespace: BorrowedFd<'_>, sockets: &[Socket]) -> io::Result<usize> {
    if sockets.is_empty() {
        return Ok(0);
    }
    netns::within(namespace, || {
        let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
        let mut count = 0;
        for socket in sockets {
            match netlink.command(SOCK_DESTROY, 0, &request(socket.family, 1 << socket.state, &socket.id)) {
                Ok(()) => count += 1,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => (),
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    })
}
