//! Connections that a pod opens: redirected, passed or refused, and what the app sees of it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;

use fairlead::kernel::layout::{AddressKey, BackendKey, BackendValue, ServiceKey, ServiceValue, SpeakerValue};
use fairlead::kernel::{self, Kernel};
use fairlead::seam::Direction;
use fairlead::sys;

use crate::Case;
use crate::lab::{self, Lab, eventually, put};

pub const CASES: &[Case] = &[
    ("[INT-1] [INT-3] [INT-5] an outbound connection goes to the agent and keeps its addresses for the app", redirect),
    ("[INT-3] an IPv4-mapped destination on an IPv6 socket is redirected as IPv4", mapped),
    ("[INT-4] the agent's own sockets are not redirected, in whatever namespace", own_sockets),
    ("[INT-1] [DP-5] a connection straight to the agent's port has no destination and is refused", straight_to_listener),
    ("[INT-1] a socket bound before connect is redirected and keeps its source", bound_first),
    ("[INT-13] excluded ports and ranges are left alone, also after a change", exclusions),
    ("[INT-16] UDP is untouched", udp),
    ("[INT-1] loopback and the pod's own address are left alone", within_pod),
    ("[DP-6] a service address reaches the agent as it was asked for", service_address),
    ("[DP-11] a socket tied to a device is untied and redirected", bound_device),
    ("[DP-11] one that may not be untied is refused under STRICT, and passes otherwise", bound_device_without_rights),
    ("[INT-1] [DP-31] an MPTCP client is redirected, and shown its peer's address", mptcp),
    ("[INT-1] TCP Fast Open by sendmsg and by TCP_FASTOPEN_CONNECT loses no byte", fast_open),
    ("[INT-16] a pod that shares the host's network is refused at enrolment", host_network),
];

pub fn redirect(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    for to in [lab.addr4("x", 8080), lab.addr6("x", 8080)] {
        lab.serve("x", to);
        lab.relay.clear();
        let met = lab.dial("a", to).unwrap();
        let own = if to.is_ipv6() { lab.ip6("a") } else { lab.ip4("a") };
        assert_eq!(met.client_peer, to, "getpeername");
        assert_eq!(met.client_local.ip(), own, "getsockname");
        assert_eq!((met.peer.ip(), met.local), (own, to), "what the server sees");
        let seen = lab.relay.of(Direction::Outbound);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].destination, seen[0].source.port()), (Some(to), met.client_local.port()));
    }
    assert_eq!(lab.counter(&kernel, "out_redirected"), 2);
    eventually("no row is left", || kernel.map_dump("syns", 10).unwrap().is_empty());
    assert_eq!(pending(&kernel), 0);
}

/// Sum of pending counts.
pub fn pending(kernel: &Kernel) -> i64 {
    let rows = kernel.map_dump("pending", 100).unwrap();
    rows.iter().map(|(_, v)| i64::from_le_bytes(v[..8].try_into().unwrap())).sum()
}

fn mapped(lab: &Lab) {
    let _kernel = lab.start(&["a"]);
    lab.serve("x", lab.addr4("x", 8080));
    let to: SocketAddr = "[::ffff:10.77.0.9]:8080".parse().unwrap();
    let met = lab.dial("a", to).unwrap();
    assert_eq!(met.client_peer, to);
    assert_eq!(met.client_local.ip(), "::ffff:10.77.0.2".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(lab.relay.of(Direction::Outbound)[0].destination, Some(lab.addr4("x", 8080)));
}

fn own_sockets(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    let pod = kernel.pods().remove(0);
    for tunnel in [false, true] {
        let stream = TcpStream::from(pod.dial_socket(to, tunnel).unwrap());
        stream.set_nonblocking(false).unwrap();
        rustix::net::connect(&stream, &to).unwrap();
        let met = lab::meet(&mut { stream }).unwrap();
        assert_eq!(met.peer.ip(), lab.ip4("a"));
        assert_eq!((10_000..20_000).contains(&met.peer.port()), tunnel, "{met:?}");
    }
    assert!(lab.relay.of(Direction::Outbound).is_empty());
    assert_eq!(lab.counter(&kernel, "out_pass_own"), 2);
}

fn straight_to_listener(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let pod = kernel.pods().remove(0);
    for listener in pod.listeners().iter().filter(|l| l.direction == Direction::Outbound) {
        let at = TcpListener::from(sys::duplicate(listener.fd).unwrap()).local_addr().unwrap();
        assert!(lab.dial("a", at).is_err());
    }
    let seen = lab.relay.of(Direction::Outbound);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|s| s.destination.is_none()));
}

fn bound_first(lab: &Lab) {
    let _kernel = lab.start(&["a"]);
    for (from, to) in [(lab.addr4("a", 40_001), lab.addr4("x", 8080)), (lab.addr6("a", 40_002), lab.addr6("x", 8080))] {
        lab.serve("x", to);
        let met = lab
            .inside("a", move || {
                let domain = if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
                let fd = sys::socket(domain, libc::SOCK_STREAM, 0).unwrap();
                sys::bind(fd.as_fd(), from).unwrap();
                let stream = TcpStream::from(fd);
                stream.set_nonblocking(false).unwrap();
                rustix::net::connect(&stream, &to)?;
                lab::meet(&mut { stream })
            })
            .unwrap();
        assert_eq!((met.client_local, met.client_peer), (from, to));
    }
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 2);
}

fn exclusions(lab: &Lab) {
    let kernel = lab.load().0;
    for port in [8080, 8081] {
        lab.serve("x", lab.addr4("x", port));
        lab.serve("x", lab.addr6("x", port));
    }
    lab.enrol(&kernel, "a", |r| r.exclude.outbound_ports = vec![8080]);
    lab.dial("a", lab.addr4("x", 8080)).unwrap();
    assert!(lab.relay.of(Direction::Outbound).is_empty(), "excluded port");
    lab.dial("a", lab.addr4("x", 8081)).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 1);
    lab.enrol(&kernel, "a", |r| r.exclude.outbound_cidrs = vec!["10.77.0.8/29".into()]);
    lab.dial("a", lab.addr4("x", 8081)).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 1, "excluded range");
    lab.dial("a", lab.addr6("x", 8081)).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 2, "the other family is not in the range");
    lab.enrol(&kernel, "a", |_| ());
    lab.dial("a", lab.addr4("x", 8080)).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 3, "no longer excluded");
    let mut bad = lab.request("a");
    bad.exclude.outbound_cidrs = vec!["10.0.0.0/40".into()];
    assert!(kernel.enrol(bad).unwrap_err().message.contains("10.0.0.0/40"));
}

fn udp(lab: &Lab) {
    let _kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 5353);
    let server = lab.inside("x", move || UdpSocket::bind(to)).unwrap();
    let from = lab.addr4("a", 0);
    lab.inside("a", move || {
        let client = UdpSocket::bind(from).unwrap();
        client.connect(to).unwrap();
        client.send(b"datagram").unwrap();
    });
    let mut buffer = [0; 32];
    let (n, source) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], source.ip()), (&b"datagram"[..], lab.ip4("a")));
}

fn within_pod(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    for to in ["127.0.0.1:7001", "127.9.9.9:7001", "[::1]:7001", "10.77.0.2:7002", "[fd77::2]:7002"] {
        let to: SocketAddr = to.parse().unwrap();
        lab.serve("a", to);
        assert_eq!(lab.dial("a", to).unwrap().local, to);
    }
    assert!(lab.relay.seen.lock().unwrap().is_empty());
    assert_eq!(lab.counter(&kernel, "out_pass_loopback"), 3);
    assert_eq!(lab.counter(&kernel, "out_pass_self"), 2);
}

/// A service with one backend, or none.
pub fn service(kernel: &Kernel, vip: SocketAddr, backend: Option<SocketAddr>) {
    let key = ServiceKey { ip: kernel::to_bytes(vip.ip()), port: vip.port() };
    let service = u32::from(vip.port());
    if let Some(to) = backend {
        let value = BackendValue { ip: kernel::to_bytes(to.ip()), port: to.port(), flags: 0 };
        put(kernel, "backends", BackendKey { service, slot: 0 }.encode(), value.encode());
    }
    let value = ServiceValue { service, backend_count: u32::from(backend.is_some()) };
    put(kernel, "services", key.encode(), value.encode());
}

fn service_address(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let vip: SocketAddr = "10.96.0.10:80".parse().unwrap();
    let backend = lab.addr4("x", 8080);
    lab.serve("x", backend);
    service(&kernel, vip, Some(backend));
    lab.relay.routes.lock().unwrap().insert(vip, backend);
    let met = lab.dial("a", vip).unwrap();
    assert_eq!((met.client_peer, met.local), (vip, backend));
    assert_eq!(lab.relay.of(Direction::Outbound)[0].destination, Some(vip));
    // Without endpoints it is still the agent's to say so.
    let empty: SocketAddr = "10.96.0.11:80".parse().unwrap();
    service(&kernel, empty, None);
    lab.relay.refuse.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(lab.dial("a", empty).is_err());
    assert_eq!(lab.relay.of(Direction::Outbound)[1].destination, Some(empty));
}

fn bound_device(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    let met = lab.inside("a", move || {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        // SO_BINDTOIFINDEX; eth0 is the only device beside lo.
        let index: i32 = std::fs::read_to_string("/proc/self/net/dev_snmp6/eth0")
            .map_or(2, |text| text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2));
        sys::set_option(fd.as_fd(), libc::SOL_SOCKET, 62, index).unwrap();
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(false).unwrap();
        rustix::net::connect(&stream, &to)?;
        lab::meet(&mut { stream })
    });
    assert_eq!(met.unwrap().client_peer, to);
    assert_eq!(lab.counter(&kernel, "out_redirected"), 1);
}

/// An app without CAP_NET_RAW may tie a socket to a device, and nobody may untie it in its name.
const TIED: &str = "
import socket, sys
s = socket.socket()
s.settimeout(60)
s.setsockopt(1, 25, b'eth0')
s.connect((sys.argv[1], int(sys.argv[2])))
print(s.makefile().readline())
";

fn bound_device_without_rights(lab: &Lab) {
    let kernel = lab.load().0;
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    for strict in [false, true] {
        lab.enrol(&kernel, "a", |r| r.strict = strict);
        let done = lab.inside("a", move || {
            let mut command = Command::new("setpriv");
            command.args(["--inh-caps=-net_raw", "--bounding-set=-net_raw", "python3", "-c", TIED]);
            command.args([to.ip().to_string(), to.port().to_string()]).output().expect("setpriv runs")
        });
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.success(), !strict, "{text}");
        assert!(!strict || text.contains("ConnectionRefused"), "{text}");
    }
    let counted = |name: &str| lab.counter(&kernel, name);
    assert_eq!((counted("out_pass_bound_device"), counted("out_refused_bound_device")), (1, 1));
}

fn mptcp(lab: &Lab) {
    let _kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    lab.inside("a", move || {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 262).expect("the kernel has MPTCP");
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(false).unwrap();
        rustix::net::connect(&stream, &to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to, "the app is shown where it wanted to go");
        assert!(!stream.local_addr().unwrap().ip().is_loopback(), "and its pod's own address");
        lab::meet(&mut { stream }).unwrap();
    });
    assert_eq!(lab.relay.of(Direction::Outbound)[0].destination, Some(to));
}

/// Python has both ways of Fast Open at hand; Rust's standard library has neither.
const FAST_OPEN: &str = "
import socket, sys
for way in ('sendmsg', 'connect'):
    s = socket.socket()
    to = (sys.argv[1], int(sys.argv[2]))
    if way == 'sendmsg':
        assert s.sendto(b'first', 0x20000000, to) == 5
    else:
        s.setsockopt(6, 30, 1)
        s.connect(to)
        s.sendall(b'first')
    s.sendall(b'-second')
    assert s.getpeername() == to, s.getpeername()
    f = s.makefile('rb')
    f.readline()
    assert f.read(12) == b'first-second', way
";

fn fast_open(lab: &Lab) {
    let _kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    lab.inside("a", move || {
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1").unwrap();
        for _ in 0..2 {
            let args = ["-c", FAST_OPEN, &to.ip().to_string(), &to.port().to_string()];
            let done = Command::new("python3").args(args).output().expect("python3 runs");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    });
    let seen = lab.relay.of(Direction::Outbound);
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|s| s.destination == Some(to)), "{seen:?}");
}

fn host_network(lab: &Lab) {
    let kernel = lab.load().0;
    let mut request = lab.request("a");
    request.netns = "/proc/self/ns/net".into();
    assert_eq!(kernel.enrol(request).unwrap_err().code, "host_network");
}

/// Notes an address as one that speaks a tunnel.
pub fn speaker(kernel: &Kernel, ip: std::net::IpAddr) {
    let key = AddressKey { ip: kernel::to_bytes(ip) };
    put(kernel, "tunnel_speakers", key.encode(), SpeakerValue { flags: 1 }.encode());
}

/// True if the outcome is a refusal that an app understands.
pub fn is_refused<T: std::fmt::Debug>(result: &std::io::Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}
