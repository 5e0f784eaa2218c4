//! What keeping the client's address needs inside a pod: marked packets are delivered locally whatever address they carry,
//! and accepted sockets inherit the mark of their SYN. No netfilter, no conntrack. Undone at unenrolment.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::layout::limit;
use super::netlink::{ACK, CREATE, EXCL, Netlink, REPLACE, attribute};
use super::netns;
use crate::sys;

/// Mark of sockets that speak from a client's address. Chosen apart from the bits of kube-proxy, Cilium, Calico and Istio.
pub const MARK: u32 = limit::APP_MARK;
/// Routing table of marked packets.
const TABLE: u32 = 0x000f_1ead;
/// Before `main` (32766), after `local` (0).
const PRIORITY: u32 = 100;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTPROT_STATIC: u8 = 4;
const LO: u32 = 1;
const IFF_UP: u32 = 1;
/// Accepted sockets inherit the mark of their SYN (both families); resets for a port that just closed carry it too, or the
/// agent would wait for one that went to the real client.
const SYSCTLS: [&str; 3] = ["/proc/sys/net/ipv4/tcp_fwmark_accept", "/proc/sys/net/ipv4/fwmark_reflect", "/proc/sys/net/ipv6/fwmark_reflect"];

/// What the mesh found in the namespace.
#[derive(Clone, Debug)]
pub struct Before {
    /// The sysctls before it touched them.
    sysctls: Vec<(&'static str, String)>,
    /// An agent has been here before, by whatever way.
    pub enrolled: bool,
}

fn rule(family: u8) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    attribute(&mut body, FRA_PRIORITY, &PRIORITY.to_ne_bytes());
    attribute(&mut body, FRA_FWMARK, &MARK.to_ne_bytes());
    attribute(&mut body, FRA_FWMASK, &u32::MAX.to_ne_bytes());
    attribute(&mut body, FRA_TABLE, &TABLE.to_ne_bytes());
    body
}

fn route(family: u8) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, 0, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    attribute(&mut body, RTA_TABLE, &TABLE.to_ne_bytes());
    attribute(&mut body, RTA_OIF, &LO.to_ne_bytes());
    body
}

fn families(ipv6: bool) -> &'static [i32] {
    if ipv6 { &[libc::AF_INET, libc::AF_INET6] } else { &[libc::AF_INET] }
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}

/// In a container that is not privileged runtimes mount the sysctls read-only, those of other namespaces too. What may enter namespaces may
/// change that for itself.
fn set(path: &str, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(e) if is(&e, libc::EROFS) => {
            sys::remount_writable(Path::new("/proc/sys"))?;
            fs::write(path, value)
        }
        done => done,
    }
}

/// Sets the namespace up; safe to repeat.
pub fn install(namespace: BorrowedFd<'_>, ipv6: bool) -> io::Result<Before> {
    netns::within(namespace, || {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        let mut up = vec![0u8; 4];
        up.extend_from_slice(&LO.to_ne_bytes());
        up.extend_from_slice(&IFF_UP.to_ne_bytes());
        up.extend_from_slice(&IFF_UP.to_ne_bytes());
        netlink.command(RTM_NEWLINK, 0, &up)?;
        let mut before = Before { sysctls: Vec::new(), enrolled: false };
        for path in SYSCTLS.iter().filter(|path| Path::new(path).exists()) {
            before.sysctls.push((path, fs::read_to_string(path)?.trim().to_string()));
        }
        for family in families(ipv6) {
            netlink.command(RTM_NEWROUTE, CREATE | REPLACE, &route(*family as u8))?;
            match netlink.command(RTM_NEWRULE, CREATE | EXCL, &rule(*family as u8)) {
                Ok(()) => (),
                // Ours from before a restart: so were the sysctls, whose default is 0.
                Err(e) if is(&e, libc::EEXIST) => before.enrolled = true,
                Err(e) => return Err(e),
            }
        }
        if before.enrolled {
            before.sysctls.iter_mut().for_each(|(_, value)| *value = "0".into());
        }
        before.sysctls.iter().try_for_each(|(path, _)| set(path, "1"))?;
        Ok(before)
    })
}

/// Puts the namespace back as it was.
pub fn remove(namespace: BorrowedFd<'_>, ipv6: bool, before: &Before) -> io::Result<()> {
    netns::within(namespace, || {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        for family in families(ipv6) {
            for (kind, body) in [(RTM_DELRULE, rule(*family as u8)), (RTM_DELROUTE, route(*family as u8))] {
                match netlink.command(kind, ACK, &body) {
                    Err(e) if !is(&e, libc::ENOENT) && !is(&e, libc::ESRCH) => return Err(e),
                    _ => (),
                }
            }
        }
        before.sysctls.iter().try_for_each(|(path, value)| set(path, value))
    })
}
