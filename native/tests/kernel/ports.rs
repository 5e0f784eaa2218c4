//! Source ports of the agent's sockets toward apps, and those of the real clients whose address they carry (rule DP-1).

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use fairlead::kernel::layout::{SynKey, SynValue, socket_role, syn_flag};
use fairlead::seam::{Direction, PodSockets};
use fairlead::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::{self, Lab};
use crate::relay::connect;

pub const CASES: &[crate::Case] = &[
    ("[DP-1] a client whose port the agent uses toward the app, as NAT may choose it, connects at once, and both go on", client_has_it),
    ("[DP-1] [DP-9] the same where the app takes it, as of a pod that leaves", client_has_it_at_the_app),
    ("[DP-1] a port that a client of that address uses is not taken toward the app", client_had_it),
    ("[DP-1] nor is one whose client came before the agent", client_came_before),
    ("[DP-7] [DP-1] a row of the agent's own that was left behind lets no client past the agent, and cuts none off", left_behind),
    ("[DP-31] an app that listens on one device only refuses at once, and leaves nobody waiting", one_device),
];

/// Shorter than the second after which a SYN is sent again.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Connects from a port of one's own choice.
fn connect_from(port: u16, client: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let fd = sys::socket(family, libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    sys::bind(fd.as_fd(), SocketAddr::new(client, port))?;
    match sys::connect(fd.as_fd(), to) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
        _ => (),
    }
    let wait = Timespec { tv_sec: 0, tv_nsec: AT_ONCE.as_nanos() as i64 };
    if poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&wait))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

fn ends(lab: &Lab, port: u16) -> [(SocketAddr, IpAddr); 2] {
    [(lab.addr4("b", port), lab.ip4("x")), (lab.addr6("b", port), lab.ip6("x"))]
}

fn client_has_it(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for (to, client) in ends(lab, 8080) {
        lab.serve("b", to);
        both_work(lab, &*pod, to, client);
    }
    // The app's end stays in TIME_WAIT where it closes first.
    for (to, client) in ends(lab, 8081) {
        let server = lab.inside("b", move || TcpListener::bind(to)).expect("bind the server");
        std::thread::spawn(move || server.incoming().for_each(drop));
        let ports: Vec<u16> = (0..20)
            .map(|_| {
                let mut stream = connect(&*pod, Direction::Inbound, to, client).expect("a socket toward the app");
                let _ = stream.read(&mut [0]);
                stream.local_addr().unwrap().port()
            })
            .collect();
        lab.inside("x", move || {
            // Its clock for TIME_WAIT is another than the pod's, as on another node.
            std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "2").expect("set the client's timestamps");
            for port in ports {
                drop(connect_from(port, client, to).unwrap_or_else(|e| panic!("after the app closed, from port {port} to {to}: {e}")));
            }
        });
    }
}

/// Connections of the agent toward the app, and of the client itself from the same ports, all open at once.
fn both_work(lab: &Lab, pod: &dyn PodSockets, to: SocketAddr, client: IpAddr) {
    let mut held: Vec<TcpStream> = (0..20).map(|_| connect(pod, Direction::Inbound, to, client).expect("a socket toward the app")).collect();
    let ports: Vec<u16> = held.iter().map(|s| s.local_addr().unwrap().port()).collect();
    let own = lab.inside("x", move || {
        let connected = |port| connect_from(port, client, to).unwrap_or_else(|e| panic!("from port {port} to {to}: {e}"));
        let mut own: Vec<TcpStream> = ports.into_iter().map(connected).collect();
        own.iter_mut().for_each(|stream| assert_eq!(lab::meet(stream).expect("carried").peer.ip(), client));
        own
    });
    held.iter_mut().for_each(|stream| drop(lab::meet(stream).expect("the other connection of these ends still works")));
    drop(own);
}

/// Nothing is steered to the agent: it is the app that takes the client's own connection.
fn client_has_it_at_the_app(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    kernel.unenrol("test/b", 60_000).unwrap();
    for (to, client) in ends(lab, 8080) {
        lab.serve("b", to);
        both_work(lab, &*pod, to, client);
    }
}

fn client_had_it(lab: &Lab) {
    const TAKEN: u16 = 3_000;
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for (to, client) in ends(lab, 8080) {
        lab.serve("b", to);
        lab.relay.hold.store(true, std::sync::atomic::Ordering::Relaxed);
        let real = lab.inside("x", move || {
            (20_000..20_000 + TAKEN).map(|port| connect_from(port, client, to).expect("a client's connection")).collect::<Vec<_>>()
        });
        // One in four of the range is a client's: some are met.
        for _ in 0..100 {
            let fd = pod.app_socket(to, client).expect("a socket toward the app");
            let wait = Timespec { tv_sec: 0, tv_nsec: AT_ONCE.as_nanos() as i64 };
            let ready = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&wait)).expect("poll");
            let mut stream = TcpStream::from(fd);
            assert_eq!(ready, 1, "{} to {to} waits", stream.local_addr().unwrap());
            stream.set_nonblocking(false).expect("to block");
            lab::meet(&mut stream).expect("the app answers");
        }
        drop(real);
        lab.relay.held.lock().unwrap().clear();
    }
}

/// Also where the client came before the pod was in the mesh, or to an agent before this one.
fn client_came_before(lab: &Lab) {
    let to = lab.addr4("b", 8080);
    let client = lab.ip4("x");
    lab.serve("b", to);
    let _real = lab.inside("x", move || {
        let come = |port| {
            let mut stream = connect_from(port, client, to).expect("a client's connection");
            lab::meet(&mut stream).expect("the app answers");
            stream
        };
        (20_000..21_000).map(come).collect::<Vec<_>>()
    });
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for _ in 0..100 {
        let mut stream = connect(&*pod, Direction::Inbound, to, client).expect("a socket toward the app");
        lab::meet(&mut stream).expect("the app answers");
    }
}

/// A row of a socket toward the app that nobody deleted names a client that comes from that port much later, or just now.
fn left_behind(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let cookie = kernel.pods().remove(0).cookie();
    let mut port = 25_000;
    for (to, client) in ends(lab, 8080) {
        lab.serve("b", to);
        for (flags, age_ns) in [(syn_flag::LOOPBACK_ONLY, 1_000), (syn_flag::LOOPBACK_ONLY, 300_000_000_000), (0, 300_000_000_000)] {
            port += 1;
            let [source, destination] = [client, to.ip()].map(fairlead::kernel::to_bytes);
            let key = SynKey { cookie, source, destination, source_port: port, destination_port: to.port() };
            let time_ns = sys::monotonic_ns().saturating_sub(age_ns);
            let value = SynValue { version: 1, role: socket_role::OWN_APP as u8, flags: flags as u8, time_ns, ..Default::default() };
            lab::put(&kernel, "syns", key.encode(), value.encode());
            lab.relay.clear();
            let met = lab.inside("x", move || lab::meet(&mut connect_from(port, client, to).expect("the client connects")));
            assert_eq!(met.expect("and is carried").peer.ip(), client);
            assert_eq!(lab.relay.of(Direction::Inbound).len(), 1, "by the agent: flags {flags}, {age_ns} ns old");
        }
    }
}

/// What comes with a client's address from inside the pod has another device, so that no connection can be made (docs/interception.md).
fn one_device(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for (to, client) in ends(lab, 8080) {
        let _server = lab.inside("b", move || {
            let server = TcpListener::bind(to).expect("bind the server");
            let device = rustix::net::netdevice::name_to_index(&server, "eth0").expect("the pod's device");
            sys::set_option(server.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, device as i32).expect("bind it to the device");
            server
        });
        let refused = connect(&*pod, Direction::Inbound, to, client).expect_err("it hears the device only");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
