//! Connection tracking of the node (ctnetlink): what a connection was before its NAT changed it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::{ACK, NESTED, Netlink, attribute, find_attribute};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` (linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h).
const GET: u16 = 1 << 8 | 1;
/// nfgenmsg: family, version, resource.
const HEAD: usize = 4;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;

/// Kinds of the source's and the destination's address.
fn address_kinds(is_ipv6: bool) -> [u16; 2] {
    if is_ipv6 { [3, 4] } else { [1, 2] }
}

/// Source and destination with which the connection began that goes from `source` to `destination` after all translation. In the calling
/// thread's namespace. None: it is not tracked.
pub fn original(source: SocketAddr, destination: SocketAddr) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let family = if source.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let mut body = vec![family, 0, 0, 0];
    // What comes back goes the other way.
    attribute(&mut body, NESTED | TUPLE_REPLY, &tuple(destination, source));
    let mut found = None;
    let asked = Netlink::open(libc::NETLINK_NETFILTER)?.request(GET, ACK, &body, |answer| {
        found = answer.get(HEAD..).and_then(|attributes| find_attribute(attributes, TUPLE_ORIG)).and_then(parse);
    });
    match asked {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|()| found),
    }
}

fn tuple(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (mut ip, mut proto, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, end) in address_kinds(from.is_ipv6()).into_iter().zip([from, to]) {
        match end.ip() {
            IpAddr::V4(address) => attribute(&mut ip, kind, &address.octets()),
            IpAddr::V6(address) => attribute(&mut ip, kind, &address.octets()),
        }
    }
    attribute(&mut proto, PROTO_NUM, &[libc::IPPROTO_TCP as u8]);
    attribute(&mut proto, SRC_PORT, &from.port().to_be_bytes());
    attribute(&mut proto, DST_PORT, &to.port().to_be_bytes());
    attribute(&mut both, NESTED | TUPLE_IP, &ip);
    attribute(&mut both, NESTED | TUPLE_PROTO, &proto);
    both
}

fn parse(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ip, proto) = (find_attribute(tuple, TUPLE_IP)?, find_attribute(tuple, TUPLE_PROTO)?);
    let is_ipv6 = find_attribute(ip, address_kinds(true)[0]).is_some();
    let [source, destination] = address_kinds(is_ipv6).map(|kind| find_attribute(ip, kind).and_then(address));
    let [from, to] = [SRC_PORT, DST_PORT].map(|kind| find_attribute(proto, kind).and_then(port));
    Some((SocketAddr::new(source?, from?), SocketAddr::new(destination?, to?)))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end() -> impl Strategy<Value = ([u8; 16], u16)> {
        (any::<[u8; 16]>(), any::<u16>())
    }

    proptest! {
        #[doc = "[DP-7] a tuple comes back as it was written, in both families"]
        #[test]
        fn tuples_come_back((a, from) in end(), (b, to) in end(), v6: bool) {
            let ip = |bytes: [u8; 16]| -> IpAddr { if v6 { bytes.into() } else { [bytes[0], bytes[1], bytes[2], bytes[3]].into() } };
            let ends = (SocketAddr::new(ip(a), from), SocketAddr::new(ip(b), to));
            prop_assert_eq!(parse(&tuple(ends.0, ends.1)), Some(ends));
        }

        #[doc = "[DP-7] no bytes make the reader of tuples fail"]
        #[test]
        fn garbage_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
