//! The direct lane: pods of one node, straight to each other where a verdict says so.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use fairlead::kernel::layout::{self, EventDirectClosed, SynKey, SynValue, setting, socket_role};
use fairlead::kernel::{self, Kernel, KernelEvent, Tuple};
use fairlead::seam::Direction;
use fairlead::sys;

use crate::Case;
use crate::lab::{self, Lab, eventually, put};
use crate::outbound::{pending, service};

pub const CASES: &[Case] = &[
    ("[SEC-2] [INT-3] [INT-5] an allowed pair connects straight, both families, also by service address", straight),
    ("[SEC-2] without a verdict, or with one of an older generation, the agent decides", generation),
    ("[OBS-1] an ended direct connection is told once, with bytes both ways and who closed first", record),
    ("[DP-7] a row of another generation, another namespace or too old an age admits nothing", stale_rows),
    ("[DP-7] a pod has a fill of pending rows, and no other pod suffers", quota),
    ("[SEC-2] the bypass runs only where both pods and the verdict opt in, loses no byte and is recorded", bypass),
    ("[DP-7] a foreign connect hook that rewrites after ours gets no admission", foreign_rewrite),
    ("[SEC-2] open direct connections can be ended", destroy),
    ("[DP-7] whose socket a connection is, is known also where the node's NAT changed its port; an agent's own is nobody's", owner),
];

fn straight(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    for (to, vip) in
        [(lab.addr4("b", 8080), "10.96.0.10:80".parse::<SocketAddr>().unwrap()), (lab.addr6("b", 8080), "[fd00:96::10]:81".parse().unwrap())]
    {
        lab.serve("b", to);
        service(&kernel, vip, Some(to));
        lab.allow_direct(&kernel, "a", to, 0);
        for asked in [to, vip] {
            let met = lab.dial("a", asked).unwrap();
            assert_eq!((met.client_peer, met.local, met.peer), (asked, to, met.client_local));
        }
    }
    assert!(lab.relay.seen.lock().unwrap().is_empty(), "the agent saw nothing");
    assert_eq!((lab.counter(&kernel, "out_direct"), lab.counter(&kernel, "in_pass_direct")), (4, 4));
    eventually("no row is left", || kernel.map_dump("syns", 10).unwrap().is_empty());
    assert_eq!(pending(&kernel), 0);
}

fn generation(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let agent_saw = || lab.relay.of(Direction::Outbound).len();
    lab.dial("a", to).unwrap();
    assert_eq!(agent_saw(), 1, "no verdict");
    lab.allow_direct(&kernel, "a", to, 5);
    put(&kernel, "settings", setting::POLICY_GENERATION.to_le_bytes(), 5u64.to_le_bytes());
    lab.dial("a", to).unwrap();
    assert_eq!(agent_saw(), 1, "direct");
    put(&kernel, "settings", setting::POLICY_GENERATION.to_le_bytes(), 6u64.to_le_bytes());
    lab.dial("a", to).unwrap();
    assert_eq!(agent_saw(), 2, "an older generation");
    lab.allow_direct(&kernel, "b", to, 6);
    lab.dial("a", to).unwrap();
    assert_eq!(agent_saw(), 3, "another identity's verdict");
}

fn closed(lab: &Lab) -> Vec<EventDirectClosed> {
    let events = lab.events.lock().unwrap();
    events.iter().filter_map(|e| if let KernelEvent::DirectClosed(e) = e { Some(**e) } else { None }).collect()
}

fn record(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    let listener = lab.inside("b", move || std::net::TcpListener::bind(to)).unwrap();
    lab.allow_direct(&kernel, "a", to, 0);
    for (round, (up, down, client_first)) in [(100_000usize, 7usize, true), (3, 200_000, false), (0, 0, true), (0, 0, false)].into_iter().enumerate()
    {
        let client = lab.spawn_inside("a", move || {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(&vec![1; up]).unwrap();
            if client_first {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            (got.len(), stream.local_addr().unwrap())
        });
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; up];
        stream.read_exact(&mut got).unwrap();
        if client_first {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        stream.write_all(&vec![2; down]).unwrap();
        drop(stream);
        let (received, source) = client.join().unwrap();
        assert_eq!(received, down);
        eventually("an event", || closed(lab).len() > round);
        let event = closed(lab)[round];
        assert_eq!((event.sent, event.received), (up as u64, down as u64), "round {round}");
        assert_eq!(event.closed_by, if client_first { 1 } else { 2 }, "round {round}");
        assert_eq!((kernel::socket_addr(event.source, event.source_port), event.verdict), (source, 77));
        assert_eq!(kernel::socket_addr(event.destination, event.destination_port), to);
        assert_eq!(event.identity, lab::identity("a"));
        assert!(event.duration_ns > 0);
    }
    // A connection that nobody takes is told as well, with its error.
    lab.allow_direct(&kernel, "a", lab.addr4("b", 9), 0);
    assert!(lab.dial("a", lab.addr4("b", 9)).is_err());
    eventually("an event of the failure", || closed(lab).len() == 5);
    assert_eq!((closed(lab)[4].error, closed(lab)[4].sent), (libc::ECONNREFUSED as u32, 0));
}

fn stale_rows(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let cookies: Vec<(String, u64)> = kernel.pods().iter().map(|p| (p.key().to_string(), p.cookie())).collect();
    let cookie = |pod: &str| cookies.iter().find(|(key, _)| key == pod).unwrap().1;
    put(&kernel, "settings", setting::POLICY_GENERATION.to_le_bytes(), 5u64.to_le_bytes());
    // Whether a row of so many ns ago admits, and how old it was when that was certainly decided.
    let try_row = |port: u16, destination_cookie: u64, generation: u64, age_ns: u64| {
        let source = lab.addr4("x", port);
        let key = SynKey {
            cookie: destination_cookie,
            source: kernel::to_bytes(source.ip()),
            destination: kernel::to_bytes(to.ip()),
            source_port: port,
            destination_port: to.port(),
        };
        lab.relay.clear();
        let stream = lab.inside("x", move || {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
            sys::bind(std::os::fd::AsFd::as_fd(&fd), source).unwrap();
            let stream = TcpStream::from(fd);
            stream.set_nonblocking(false).unwrap();
            stream
        });
        let time_ns = sys::monotonic_ns() - age_ns;
        let value = SynValue { version: 1, role: socket_role::DIRECT as u8, source_cookie: 1, generation, time_ns, ..Default::default() };
        put(&kernel, "syns", key.encode(), value.encode());
        rustix::net::connect(&stream, &to).unwrap();
        let age_ns = sys::monotonic_ns() - time_ns;
        lab::meet(&mut { stream }).unwrap();
        (lab.relay.of(Direction::Inbound).is_empty(), age_ns)
    };
    let admits = |port, cookie, generation, age_ns| try_row(port, cookie, generation, age_ns).0;
    assert!(admits(41_000, cookie("test/b"), 5, 0), "the positive control: a row that is right admits");
    assert!(!admits(41_001, cookie("test/b"), 4, 1_000_000_000), "older generation");
    assert!(!admits(41_002, cookie("test/a"), 5, 0), "another namespace");
    assert!(!admits(41_003, cookie("test/b"), 5, 71_000_000_000), "too old");
    assert_eq!(lab.counter(&kernel, "in_admission_stale"), 2);
    // An instant is short: on a busy machine not every connect is within it.
    let instant = layout::limit::SYN_INSTANT_MS as u64 * 1_000_000;
    let (admitted, _) = (42_000..42_500).map(|port| try_row(port, cookie("test/b"), 4, 0)).find(|(_, age)| *age < instant).expect("one in time");
    assert!(admitted, "sent this instant: by what held then");
}

fn quota(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    lab.allow_direct(&kernel, "a", to, 0);
    let cookie = kernel.pods().iter().find(|p| p.key() == "test/a").unwrap().cookie();
    // As after 8,192 connects whose SYN nobody answered.
    put(&kernel, "pending", cookie.to_le_bytes(), 8_192i64.to_le_bytes());
    lab.serve("b", to);
    lab.serve("x", lab.addr4("x", 8080));
    let before = lab.relay.of(Direction::Inbound).len();
    lab.dial("a", to).unwrap();
    assert_eq!(lab.counter(&kernel, "syn_quota_exceeded"), 1);
    assert_eq!(lab.relay.of(Direction::Inbound).len(), before + 1, "not admitted: the destination's agent decides");
    lab.dial("b", lab.addr4("x", 8080)).unwrap();
    eventually("the sweep finds the true number", || pending(&kernel) == 0);
    lab.dial("a", to).unwrap();
    assert_eq!(lab.counter(&kernel, "syn_quota_exceeded"), 1);
}

fn destroy(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    lab.allow_direct(&kernel, "a", to, 0);
    let mut streams: Vec<TcpStream> = (0..2).map(|_| lab.inside("a", move || TcpStream::connect(to)).unwrap()).collect();
    for stream in &mut streams {
        lab::meet(stream).unwrap();
    }
    let tuple = Tuple { source: streams[0].local_addr().unwrap(), destination: to };
    assert_eq!(kernel.destroy_sockets("test/a", &[tuple]).unwrap(), 1);
    let works = |s: &mut TcpStream| s.write_all(b"x").and_then(|()| s.read_exact(&mut [0])).is_ok();
    assert!(!works(&mut streams[0]) && works(&mut streams[1]));
    eventually("an event", || closed(lab).len() == 1);
}

/// Reads to the end. A blocking read of a bypassed socket can come back with EAGAIN when it was woken for nothing (the kernel's
/// tcp_bpf_recvmsg does not wait again), one more reason why the bypass is opt-in: seen here, so borne here.
fn read_through(stream: &mut TcpStream, got: &mut Vec<u8>) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match stream.read_to_end(got) {
            Ok(_) => return,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && std::time::Instant::now() < until => (),
            Err(e) => panic!("read: {e}"),
        }
    }
}

fn bypass(lab: &Lab) {
    let kernel = lab.load().0;
    let mut messages = 0;
    for (round, (a, b, flags)) in [(true, true, 1), (true, false, 1), (false, true, 1), (true, true, 0)].into_iter().enumerate() {
        lab.enrol(&kernel, "a", |r| r.bypass = a);
        lab.enrol(&kernel, "b", |r| r.bypass = b);
        for (family, to) in [lab.addr4("b", 8080), lab.addr6("b", 8080)].into_iter().enumerate() {
            if round == 0 {
                lab.serve("b", to);
            }
            lab.allow(&kernel, "a", to, 0, flags);
            // Long enough to wrap every buffer, written and read at once.
            let echoed = lab.inside("a", move || {
                let mut stream = TcpStream::connect(to).unwrap();
                let greeting = lab::read_line(&mut stream).unwrap().len() as u64 + 1;
                let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
                let (copy, mut writer) = (sent.clone(), stream.try_clone().unwrap());
                let thread = std::thread::spawn(move || {
                    copy.chunks(8_191).for_each(|c| writer.write_all(c).unwrap());
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                read_through(&mut stream, &mut got);
                thread.join().unwrap();
                assert!(got == sent, "every byte in order");
                (sent.len() as u64, got.len() as u64 + greeting)
            });
            let number = round * 2 + family;
            eventually("a record", || closed(lab).len() > number);
            let event = closed(lab)[number];
            assert_eq!((event.sent, event.received), echoed, "round {round}");
        }
        let now = lab.counter(&kernel, "bypass_messages");
        assert_eq!(now > messages, round == 0, "round {round}: {now} messages");
        messages = now;
    }
    eventually("no row is left", || kernel.map_dump("bypass_bytes", 10).unwrap().is_empty());
}

/// A second connect hook behind ours, here our own program with other maps, sends an admitted connection elsewhere.
fn foreign_rewrite(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let (asked, elsewhere) = (lab.addr4("b", 8080), lab.addr4("b", 8081));
    lab.serve("b", asked);
    lab.serve("b", elsewhere);
    lab.allow_direct(&kernel, "a", asked, 0);
    assert_eq!(lab.dial("a", asked).unwrap().local, asked);
    assert!(lab.relay.seen.lock().unwrap().is_empty(), "the positive control: direct");
    let mut other = lab.config();
    other.pin_dir = other.pin_dir.parent().unwrap().join("bpf2");
    let (second, _) = Kernel::load(other.clone(), lab.relay.clone(), std::sync::Arc::new(|_| ())).unwrap();
    for map in ["pods", "local_pods"] {
        second.map_put(map, &kernel.map_dump(map, 10).unwrap()).unwrap();
    }
    put(&second, "settings", setting::DIRECT_GRACE_NS.to_le_bytes(), u64::MAX.to_le_bytes());
    service(&second, asked, Some(elsewhere));
    lab.allow_direct(&second, "a", elsewhere, 0);
    let met = lab.dial("a", asked);
    second.unload().unwrap();
    drop(second);
    assert!(std::process::Command::new("umount").arg(&other.pin_dir).status().unwrap().success());
    assert_eq!(met.unwrap().local, elsewhere, "the hook behind ours did rewrite");
    assert_eq!(lab.counter(&kernel, "syn_destination_changed"), 1);
    let seen = lab.relay.of(Direction::Inbound);
    assert_eq!((seen.len(), seen[0].destination), (1, Some(elsewhere)), "the destination's agent has it");
}

fn owner(lab: &Lab) {
    lab.route_pods();
    let kernel = lab.start(&["a", "b"]);
    for (to, port) in [(lab.addr4("b", 8080), 40_001), (lab.addr6("b", 8080), 40_002)] {
        lab.serve("b", to);
        let owns = |pod: &str, source: SocketAddr| {
            let pod = kernel.pods().into_iter().find(|p| p.key() == pod).unwrap();
            lab.live_in("r", move || pod.owns(source, to).unwrap())
        };
        lab.relay.clear();
        // Not allowed as a direct one: what comes to the server's side is a socket of the agent, in the client's namespace.
        let through_agent = lab.dial_and_hold("a", to);
        let seen = lab.relay.of(Direction::Inbound);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(!owns("test/a", seen[0].source), "a socket of the agent");
        drop(through_agent);

        lab.allow_direct(&kernel, "a", to, 0);
        lab.relay.clear();
        let direct = lab.dial_and_hold("a", to);
        assert!(lab.relay.seen.lock().unwrap().is_empty(), "the positive control: admitted without the agent");
        assert!(owns("test/a", direct.local_addr().unwrap()), "without NAT its ends are the socket's");
        drop(direct);

        lab.change_port(to, port);
        let changed = lab.dial_and_hold("a", to);
        let source = SocketAddr::new(to_a(lab, to), port);
        let seen: Vec<SocketAddr> = lab.relay.of(Direction::Inbound).iter().map(|s| s.source).collect();
        assert_eq!(seen, [source], "not admitted: its port is another one on the way");
        assert_ne!(changed.local_addr().unwrap().port(), port);
        assert!(owns("test/a", source), "the client's very socket");
        assert!(!owns("test/b", source), "nobody else's");
        assert!(!owns("test/a", SocketAddr::new(source.ip(), port + 1)), "another port");
        drop(changed);
    }
}

/// Address of `a` in the family of `to`.
fn to_a(lab: &Lab, to: SocketAddr) -> std::net::IpAddr {
    if to.is_ipv6() { lab.ip6("a") } else { lab.ip4("a") }
}
