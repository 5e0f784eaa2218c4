//! Raw system calls that neither std nor a dependency offers safely, each behind a checked function. With `lib.rs` the only
//! file that may use `unsafe`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;
/// `SO_PEERPIDFD` (asm-generic/socket.h, Linux 6.5).
const SO_PEERPIDFD: i32 = 77;
/// `IPV6_TRANSPARENT` (linux/in6.h).
const IPV6_TRANSPARENT: i32 = 75;
/// Index of `lo` in every network namespace (LOOPBACK_IFINDEX).
pub const LOOPBACK: i32 = 1;
/// `CGROUP_ATTACH` query flag: programs attached at this level, not the effective ones.
const QUERY_OWN_LEVEL: u32 = 0;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves the calling thread into a network namespace.
pub fn set_netns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain system call on a descriptor that lives as long as the borrow.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// A non-blocking, close-on-exec socket in the calling thread's network namespace.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: returns a new descriptor that nobody else owns.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another descriptor of the same open file. Safe for any number: one that is not open is an error.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: returns a new descriptor that nobody else owns.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sets an integer socket option.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an integer that outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) }).map(drop)
}

/// Cookie of the network namespace that a socket belongs to.
pub fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut bytes = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length point at locals of the announced size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut bytes) })?;
    Ok(cookie)
}

/// Who connected to a unix socket, as the kernel noted it then; the process id is 0 for a process that this one cannot see (unix(7)).
pub fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: value and length point at locals of the announced size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut bytes) })?;
    Ok(peer)
}

/// A descriptor of the process that connected to a unix socket: it names that process for ever, whoever gets its id later.
pub fn peer_process(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut process: i32 = -1;
    let mut bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length point at locals of the announced size.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut process).cast(), &raw mut bytes) })?;
    // SAFETY: the kernel made a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(process) })
}

/// Lets a socket bind to and speak from an address that is not the namespace's own. Needs CAP_NET_ADMIN or CAP_NET_RAW.
pub fn set_transparent(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        true => set_option(fd, libc::SOL_IPV6, IPV6_TRANSPARENT, 1),
        false => set_option(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
    }
}

/// A socket address in the kernel's form, and its length.
enum RawAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddress {
    fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: all-zero bytes are a valid sockaddr_in.
                let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                raw.sin_family = libc::AF_INET as u16;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                Self::V4(raw)
            }
            SocketAddr::V6(v6) => {
                // SAFETY: all-zero bytes are a valid sockaddr_in6.
                let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                raw.sin6_family = libc::AF_INET6 as u16;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                Self::V6(raw)
            }
        }
    }

    fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Self::V4(raw) => ((&raw const *raw).cast(), size_of_val(raw) as u32),
            Self::V6(raw) => ((&raw const *raw).cast(), size_of_val(raw) as u32),
        }
    }
}

/// Binds to an address.
pub fn bind(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    let address = RawAddress::new(to);
    let (pointer, length) = address.parts();
    // SAFETY: pointer and length describe the local above.
    check(unsafe { libc::bind(fd.as_raw_fd(), pointer, length) }).map(drop)
}

/// Connects, or starts to if the socket is non-blocking (EINPROGRESS).
pub fn connect(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    let address = RawAddress::new(to);
    let (pointer, length) = address.parts();
    // SAFETY: pointer and length describe the local above.
    check(unsafe { libc::connect(fd.as_raw_fd(), pointer, length) }).map(drop)
}

/// Reads a socket address that the kernel writes.
fn read_address(ipv6: bool, read: impl FnOnce(*mut libc::c_void, *mut libc::socklen_t) -> i32) -> io::Result<SocketAddr> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let size = if ipv6 { size_of::<libc::sockaddr_in6>() } else { size_of::<libc::sockaddr_in>() };
    let mut length = size as libc::socklen_t;
    check(read((&raw mut raw).cast(), &raw mut length))?;
    match i32::from(raw.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in, which the storage has room for.
            let v4 = unsafe { *(&raw const raw).cast::<libc::sockaddr_in>() };
            Ok(SocketAddr::new(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { *(&raw const raw).cast::<libc::sockaddr_in6>() };
            Ok(SocketAddr::new(IpAddr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port)))
        }
        family => Err(io::Error::new(io::ErrorKind::InvalidData, format!("address family {family} is not IP"))),
    }
}

/// The address that an IP socket is bound to.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    read_address(true, |to, length| {
        // SAFETY: the kernel writes at most `length` bytes, which the storage holds.
        unsafe { libc::getsockname(fd.as_raw_fd(), to.cast(), length) }
    })
}

/// Where a redirected connection was going, from conntrack (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`: both 80).
pub fn nat_destination(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<SocketAddr> {
    const SO_ORIGINAL_DST: i32 = 80;
    let level = if ipv6 { libc::SOL_IPV6 } else { libc::SOL_IP };
    read_address(ipv6, |to, length| {
        // SAFETY: as above.
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, SO_ORIGINAL_DST, to, length) }
    })
}

/// Begins to listen.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: plain system call.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Receive timeout of a (blocking) socket.
pub fn set_receive_timeout(fd: BorrowedFd<'_>, ms: i64) -> io::Result<()> {
    let time = libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    // SAFETY: the option's value is a timeval that outlives the call.
    check(unsafe {
        let bytes = size_of_val(&time) as libc::socklen_t;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), bytes)
    })
    .map(drop)
}

/// A blocking netlink socket of the given family in the calling thread's network namespace, with a receive timeout.
pub fn netlink_socket(protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: returns a new descriptor that nobody else owns.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    use std::os::fd::AsFd;
    set_receive_timeout(fd.as_fd(), 2_000)?;
    Ok(fd)
}

/// True if `path` lies on a BPF file system.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_string(path)?;
    // SAFETY: all-zero bytes are a valid statfs; the path is terminated.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut stat) })?;
    #[allow(clippy::unnecessary_cast)]
    Ok(stat.f_type as i64 == BPF_FS_MAGIC)
}

/// Lets the calling process's mount namespace write where it may only read: what runtimes mount read-only into containers.
pub fn remount_writable(path: &Path) -> io::Result<()> {
    let path = c_string(path)?;
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: the path is a NUL-terminated string that outlives the call; the others are not looked at for a remount.
    check(unsafe { libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null()) }).map(drop)
}

/// Mounts a BPF file system at `path`.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: all strings are terminated and outlive the call.
    check(unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast()) }).map(drop)
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// A write to a connection that its peer has closed is an error, not the end of the process. Node and std's own `main` see to it
/// already; for programs that have neither.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no handler, and nothing of it is shared.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Now on the clock that BPF programs read (`bpf_ktime_get_ns`).
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: points at a local; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Ids of the programs attached at exactly this cgroup, in the order in which they run. Empty if the kernel does not know
/// the attach type.
pub fn query_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let (mut flags, mut count) = (0u32, ids.len() as u32);
    // SAFETY: the kernel writes at most `count` ids into the array.
    let result = unsafe {
        libbpf_rs::libbpf_sys::bpf_prog_query(cgroup.as_raw_fd(), attach_type, QUERY_OWN_LEVEL, &raw mut flags, ids.as_mut_ptr(), &raw mut count)
    };
    match result {
        0 => Ok(ids[..(count as usize).min(ids.len())].to_vec()),
        e if e == -libc::EINVAL => Ok(Vec::new()),
        e => Err(io::Error::from_raw_os_error(-e)),
    }
}

/// What libbpf gave: a new descriptor, or an error's negated number.
fn bpf_object(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: a new descriptor that nobody else owns.
    if fd < 0 { Err(io::Error::from_raw_os_error(-fd)) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn new_link(program: BorrowedFd<'_>, target: i32, place: u32) -> io::Result<OwnedFd> {
    // SAFETY: no options are passed; the call reads nothing of ours.
    bpf_object(unsafe { libbpf_rs::libbpf_sys::bpf_link_create(program.as_raw_fd(), target, place, std::ptr::null()) })
}

/// Puts a program where packets of an interface come in, before those that are there (Linux 6.6); it goes with the descriptor.
pub fn attach_tcx(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let interface = i32::try_from(interface).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    new_link(program, interface, libbpf_rs::libbpf_sys::BPF_TCX_INGRESS)
}

/// Lets a program say which socket of the namespace takes what arrives (Linux 5.9); it goes with the descriptor.
pub fn attach_sk_lookup(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    new_link(program, namespace.as_raw_fd(), libbpf_rs::libbpf_sys::BPF_SK_LOOKUP)
}

/// Puts another program in place of the one of a pinned link, with no moment between them.
pub fn update_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let path = c_string(pin)?;
    // SAFETY: the path is terminated and lives through the call.
    let link = bpf_object(unsafe { libbpf_rs::libbpf_sys::bpf_obj_get(path.as_ptr()) })?;
    // SAFETY: no options are passed; the call reads nothing of ours.
    match unsafe { libbpf_rs::libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) } {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e)),
    }
}

/// Gives a BPF object a name on a BPF file system.
pub fn pin_object(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is terminated and lives through the call.
    match unsafe { libbpf_rs::libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) } {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e)),
    }
}

/// Gives memory that was freed back to the system. The allocator of glibc keeps what lies between blocks that are still in use, of each
/// thread for itself; others do so by themselves.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and touches only what nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether the kernel lets this process create an io_uring (it may be switched off by sysctl or seccomp).
pub fn has_io_uring() -> bool {
    let mut params = [0u8; 256];
    // SAFETY: io_uring_params is 120 bytes; the zeroed buffer is larger.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    if fd < 0 {
        return false;
    }
    // SAFETY: a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    true
}

/// Wildcard or loopback address with a port, by family.
pub fn loopback(ipv6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if ipv6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
    SocketAddr::new(ip, port)
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    const BLOCK: usize = 64 * 1024;
    const BLOCKS: usize = 1_024;

    fn anonymous_kb() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[doc = "[IDN-12] the kernel names the process at the other end of a unix socket, and a descriptor of it"]
    #[test]
    fn peers_are_named() {
        use std::os::fd::{AsFd, AsRawFd};
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = super::peer_credentials(near.as_fd()).unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
        if let Ok(process) = super::peer_process(near.as_fd()) {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap();
            assert!(info.lines().any(|line| line == format!("Pid:\t{}", peer.pid)), "{info}");
        }
        drop(far);
        let not_a_socket = std::fs::File::open("/dev/null").unwrap();
        assert!(super::peer_credentials(not_a_socket.as_fd()).is_err());
        assert!(super::peer_process(not_a_socket.as_fd()).is_err());
    }

    #[doc = "memory that was freed between blocks in use goes back to the system"]
    #[test]
    fn freed_memory_goes_back() {
        // Other tests of this process allocate less than half of this meanwhile.
        let kept: Vec<_> = (0..BLOCKS).map(|_| (vec![1_u8; BLOCK], vec![1_u8; 64])).map(|(block, between)| (Some(block), between)).collect();
        let full = anonymous_kb();
        let between: Vec<Vec<u8>> = kept.into_iter().map(|(block, between)| (drop(block), between).1).collect();
        super::give_back_memory();
        let left = anonymous_kb();
        assert!(left + BLOCKS * BLOCK / 1024 / 2 < full, "{full} kB with them, {left} kB without");
        assert_eq!(between.len(), BLOCKS);
    }
}
