//! Which interfaces of the node are the other ends of a pod's links (veth, netkit), by rtnetlink.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{ACK, DUMP, Netlink, attribute, find_attribute};

const RTM_GETLINK: u16 = 18;
const RTM_GETNSID: u16 = 90;
const IFINFO: usize = 16;
const RTGEN: usize = 4;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

fn number(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Index of every link of the calling thread's namespace whose other end is in `pod`. None: the pod's interfaces are of another
/// kind (ipvlan, a device of its own), or its links end elsewhere.
pub fn node_side(pod: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    // The kernel gives a namespace its number when a link is listed that leads there, so the list comes first.
    let mut links: Vec<(i32, i32)> = Vec::new();
    netlink.request(RTM_GETLINK, DUMP, &[0; IFINFO], |body| {
        let peer = body.get(IFINFO..).and_then(|attributes| find_attribute(attributes, IFLA_LINK_NETNSID)).and_then(number);
        if let (Some(index), Some(peer)) = (body.get(4..).and_then(number), peer) {
            links.push((index, peer));
        }
    })?;
    let mut ask = vec![0; RTGEN];
    attribute(&mut ask, NETNSA_FD, &pod.as_raw_fd().to_ne_bytes());
    let mut namespace = None;
    netlink.request(RTM_GETNSID, ACK, &ask, |body| {
        namespace = body.get(RTGEN..).and_then(|attributes| find_attribute(attributes, NETNSA_NSID)).and_then(number);
    })?;
    let there = namespace.filter(|id| *id >= 0);
    Ok(links.iter().filter(|(_, peer)| Some(*peer) == there).filter_map(|(index, _)| u32::try_from(*index).ok()).collect())
}
