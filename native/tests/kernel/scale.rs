//! Numbers of connections at which the obvious ways fail: ports that run out, TIME_WAIT, one shared target.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fairlead::seam::Direction;

use crate::Case;
use crate::lab::{self, Lab, eventually};
use crate::outbound::pending;
use crate::relay::connect;

pub const CASES: &[Case] = &[
    ("[DP-1] with 500 held streams 30,000 connects of one client take under 1 s each", held_streams),
    ("[DP-2] TIME_WAIT does not cap connections toward the app, whoever closes first", time_wait),
    ("[DP-3] one pod holds more redirected connections at once than it has ports", more_than_ports),
    ("[INT-3] 8 threads hammer: no destination is lost or mixed up, no row left", hammer),
    ("[INT-1] what enrolment and sockets in a pod cost", costs),
];

/// The agent's end toward the app, as the byte side opens it, and the client's own direct SYNs in the same namespace.
fn held_streams(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let pod = kernel.pods().remove(0);
    let client = lab.ip4("x");
    let mut held: Vec<TcpStream> = (0..500).map(|_| connect(&*pod, Direction::Inbound, to, client).expect("a held stream")).collect();
    lab.relay.refuse.store(true, Ordering::Relaxed);
    // Eight at a time: one after the other is mostly waiting for wake-ups.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            lab.spawn_inside("x", move || {
                let mut slowest = Duration::ZERO;
                for _ in 0..3_750 {
                    let started = Instant::now();
                    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(60)).expect("connect");
                    slowest = slowest.max(started.elapsed());
                    // The other end closes first, or the client ran out of ports by its own TIME_WAIT, mesh or not.
                    let _ = stream.read(&mut [0]);
                }
                slowest
            })
        })
        .collect();
    let slowest = clients.into_iter().map(|c| c.join().expect("all connects")).max().unwrap();
    // A SYN that had to be sent again took a second or more; what is longer without one is the machine's own doing.
    let again = lab.inside("x", syns_sent_again);
    assert!(again == 0 && slowest < Duration::from_secs(10), "{again} SYNs sent again, {slowest:?}");
    // The whole range has gone round meanwhile, past those that are held.
    for _ in 0..13_000 {
        // Each waits for the server, which would else fall behind until its queue drops SYNs.
        lab::meet(&mut connect(&*pod, Direction::Inbound, to, client).expect("a port that is free")).expect("carried");
    }
    for stream in &mut held {
        lab::meet(stream).expect("a held stream still works");
    }
}

/// Of this namespace (TcpExt: TCPSynRetrans).
fn syns_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let at = rows[0].iter().position(|name| *name == "TCPSynRetrans").expect("the kernel counts them");
    rows[1][at].parse().unwrap()
}

fn time_wait(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for (to, client) in [(lab.addr4("b", 8080), lab.ip4("x")), (lab.addr6("b", 8080), lab.ip6("x"))] {
        let listener = lab.inside("b", move || std::net::TcpListener::bind(to)).unwrap();
        for agent_first in [true, false] {
            // More than twice the range of 12,000 ports, within one TIME_WAIT of 60 s.
            let started = Instant::now();
            for number in 0..25_000 {
                let mut near = connect(&*pod, Direction::Inbound, to, client).unwrap_or_else(|e| panic!("{to} {number}: {e}"));
                let (mut far, _) = listener.accept().unwrap();
                if agent_first {
                    drop(near);
                    assert_eq!(far.read(&mut [0]).unwrap(), 0);
                } else {
                    drop(far);
                    assert_eq!(near.read(&mut [0]).unwrap(), 0);
                }
            }
            assert!(started.elapsed() < Duration::from_secs(55), "{:?}", started.elapsed());
        }
    }
}

/// Scaled down to what one process may open: 2,500 ports instead of 28,000, and 8,800 connections.
fn more_than_ports(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    lab.relay.hold.store(true, Ordering::Relaxed);
    // Unmeshed, too, one destination has only as many as the pod has ports.
    let targets: Vec<SocketAddr> = (1..=4).flat_map(|n| [lab.addr4("x", n), lab.addr6("x", n)]).collect();
    let streams = lab.inside("a", move || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 42499").unwrap();
        let all = (0..1_100).flat_map(|_| targets.clone()).map(|to| TcpStream::connect(to).map(|s| (to, s)));
        all.collect::<Result<Vec<_>, _>>()
    });
    let streams = streams.expect("8,800 connects");
    assert!(streams.iter().step_by(97).all(|(to, s)| s.peer_addr().unwrap() == *to));
    eventually("all are accepted", || lab.relay.held.lock().unwrap().len() == 8_800);
    assert!(kernel.map_dump("syns", 10).unwrap().is_empty());
    assert_eq!(pending(&kernel), 0);
}

fn hammer(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let targets: Vec<SocketAddr> = (8080..8084).flat_map(|p| [lab.addr4("b", p), lab.addr6("b", p)]).collect();
    targets.iter().for_each(|to| lab.serve("b", *to));
    // Half of them go direct.
    targets.iter().take(4).for_each(|to| lab.allow_direct(&kernel, "a", *to, 0));
    let workers: Vec<_> = targets
        .iter()
        .map(|to| {
            let to = *to;
            lab.spawn_inside("a", move || {
                for _ in 0..400 {
                    let met = lab::dial(to).expect("no connection fails");
                    assert_eq!((met.local, met.client_peer), (to, to));
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|w| w.join().unwrap());
    assert_eq!(lab.counter(&kernel, "out_direct"), 1_600);
    let seen = lab.relay.of(Direction::Outbound);
    assert!(targets.iter().skip(4).all(|to| seen.iter().filter(|s| s.destination == Some(*to)).count() == 400));
    eventually("no row is left", || kernel.map_dump("syns", 10).unwrap().is_empty() && pending(&kernel) == 0);
}

fn costs(lab: &Lab) {
    let kernel = lab.load().0;
    let first = lab.enrol(&kernel, "a", |_| ()).ms;
    let second = lab.enrol(&kernel, "b", |_| ()).ms;
    let pod = kernel.pods().remove(0);
    let (to, client) = (lab.addr4("x", 9), lab.ip4("x"));
    let time = |what: &str, count: u32, work: &dyn Fn()| {
        let started = Instant::now();
        (0..count).for_each(|_| work());
        let each = started.elapsed() / count;
        eprintln!("{what}: {each:?}");
        each
    };
    let dial = time("dial socket", 5_000, &|| drop(pod.dial_socket(to, false).unwrap()));
    let tunnel = time("tunnel socket", 5_000, &|| drop(pod.dial_socket(to, true).unwrap()));
    let bare = time("bare socket", 5_000, &|| drop(fairlead::sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap()));
    let own = lab.addr4("a", 9);
    let refused = time("app socket to a closed port", 2_000, &|| drop(pod.app_socket(own, client).err()));
    let _ = std::io::stderr().flush();
    eprintln!("enrolment {first} ms, {second} ms; sockets {dial:?} {tunnel:?} {refused:?}, bare {bare:?}");
    assert!(first < 10_000 && second < 10_000, "{first} {second}");
    assert!(dial < Duration::from_millis(2) && tunnel < Duration::from_millis(2));
}
