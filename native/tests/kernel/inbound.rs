//! Connections that come to a pod: steered to the agent, passed or refused.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairlead::kernel::KernelEvent;
use fairlead::seam::Direction;

use crate::Case;
use crate::lab::{self, Lab, eventually};
use crate::outbound::is_refused;

pub const CASES: &[Case] = &[
    ("[INT-2] [INT-3] [INT-5] inbound goes to the agent, and the app sees the client's own address", steered),
    ("[INT-2] [DP-4] a port that nobody listens on stays closed", closed_port),
    ("[INT-2] [INT-5] HBONE: its port reaches the agent though nothing listens there, and the app's own listener is known", hbone_port),
    ("[DP-4] what listens on localhost only stays closed from outside", localhost_only),
    ("[DP-4] listeners of one address, one family and both families are told apart", families),
    ("[INT-2] listeners opened before and after enrolment, and closed again", listening_follows),
    ("[INT-4] the agent's socket toward the app is not steered back to the agent", no_loop),
    ("[DP-1] ports toward the app come from the app range and skip what the pod listens on", app_ports),
    ("[INT-2] an app can restart and bind its port while its connections are open in the agent", rebind),
    ("[DP-31] a port that closed without the mesh's knowledge is a quick refusal, not a wait", closed_behind),
    ("[DP-10] the kubelet's probes pass on declared ports and nobody else's", probes),
    ("[INT-13] excluded inbound ports and sources are left alone", exclusions),
    ("[DP-23] connections from before enrolment are listed, and ended under STRICT", existing),
    ("[INT-2] a pod without the mesh is not touched", not_enrolled),
    ("[INT-2] [INT-11] pods that come faster than programs are made ahead are each steered as themselves", faster_than_ahead),
    ("[INT-11] a program that cannot be made is told of once, and the pod that needs it is told why", no_program),
];

fn steered(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    for to in [lab.addr4("b", 8080), lab.addr6("b", 8080)] {
        lab.serve("b", to);
        lab.relay.clear();
        let met = lab.dial("x", to).unwrap();
        let client = if to.is_ipv6() { lab.ip6("x") } else { lab.ip4("x") };
        assert_eq!((met.peer.ip(), met.local), (client, to), "what the app sees");
        let seen = lab.relay.of(Direction::Inbound);
        assert_eq!((seen.len(), seen[0].destination, seen[0].source), (1, Some(to), met.client_local));
    }
    assert_eq!(lab.counter(&kernel, "in_steered"), 2);
    eventually("no row is left", || kernel.map_dump("syns", 10).unwrap().is_empty());
}

fn closed_port(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    for to in [lab.addr4("b", 9), lab.addr6("b", 9)] {
        assert!(is_refused(&lab.dial("x", to)));
    }
    assert!(lab.relay.seen.lock().unwrap().is_empty());
    assert_eq!(lab.counter(&kernel, "in_refused_not_listening"), 2);
}

fn hbone_port(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let seen = |to: SocketAddr| {
        lab.relay.clear();
        let met = lab.dial("x", to);
        eventually("the agent is asked", || lab.relay.of(Direction::Inbound).len() == 1);
        (met.is_ok(), lab.relay.of(Direction::Inbound)[0].app_has_hbone)
    };
    assert_eq!(seen(lab.addr4("b", 15_008)), (false, false));
    assert_eq!(seen(lab.addr6("b", 15_008)), (false, false));
    lab.serve("b", lab.addr4("b", 15_008));
    assert_eq!(seen(lab.addr4("b", 15_008)), (true, true));
    assert_eq!(lab.counter(&kernel, "in_refused_not_listening"), 0);
}

fn localhost_only(lab: &Lab) {
    lab.serve("b", "127.0.0.1:7000".parse().unwrap());
    let _kernel = lab.start(&["b"]);
    lab.serve("b", "127.0.0.1:7001".parse().unwrap());
    lab.serve("b", "[::1]:7001".parse().unwrap());
    for to in [lab.addr4("b", 7000), lab.addr4("b", 7001), lab.addr6("b", 7001)] {
        assert!(is_refused(&lab.dial("x", to)), "{to}");
    }
    lab.dial("b", "127.0.0.1:7001".parse().unwrap()).unwrap();
}

fn families(lab: &Lab) {
    let _kernel = lab.start(&["b"]);
    lab.serve("b", "0.0.0.0:7001".parse().unwrap());
    lab.serve("b", lab.addr6("b", 7002));
    lab.serve("b", "[::]:7003".parse().unwrap());
    for (port, v4, v6) in [(7001, true, false), (7002, false, true), (7003, true, true)] {
        assert_eq!(lab.dial("x", lab.addr4("b", port)).is_ok(), v4, "IPv4 {port}");
        assert_eq!(lab.dial("x", lab.addr6("b", port)).is_ok(), v6, "IPv6 {port}");
    }
}

fn listening_follows(lab: &Lab) {
    let at: SocketAddr = "0.0.0.0:7001".parse().unwrap();
    lab.serve("b", at);
    let short = lab.inside("b", || TcpListener::bind("[::]:7002")).unwrap();
    let kernel = lab.load().0;
    let enrolled = lab.enrol(&kernel, "b", |_| ());
    assert_eq!(enrolled.listening, [7001, 7002]);
    lab.dial("x", lab.addr4("b", 7001)).unwrap();
    drop(short);
    eventually("the sweep closes a seeded port", || is_refused(&lab.dial("x", lab.addr4("b", 7002))));
    for _ in 0..3 {
        let one = lab.inside("b", || TcpListener::bind("0.0.0.0:7003")).unwrap();
        lab.inside("x", {
            let to = lab.addr4("b", 7003);
            move || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(60))
        })
        .unwrap();
        drop(one);
        assert!(is_refused(&lab.dial("x", lab.addr4("b", 7003))));
    }
    eventually("events tell of it", || {
        let events = lab.events.lock().unwrap();
        let of = |wanted| events.iter().filter(|e| matches!(e, KernelEvent::Listening { port: 7003, open, .. } if *open == wanted)).count();
        (of(true), of(false)) == (3, 3)
    });
}

fn no_loop(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    for _ in 0..20 {
        lab.dial("x", to).unwrap();
    }
    // The pod calling itself by its own address is no business of the agent; nor is a client with an address of the pod.
    lab.dial("b", to).unwrap();
    assert_eq!(lab.relay.of(Direction::Inbound).len(), 20);
    assert_eq!(lab.counter(&kernel, "in_pass_own"), 20);
}

fn app_ports(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    lab.serve("b", "0.0.0.0:20500".parse().unwrap());
    let pod = kernel.pods().remove(0);
    let mut ports = std::collections::HashSet::new();
    for _ in 0..12_000 {
        let fd = pod.app_socket(to, lab.ip4("x")).unwrap();
        ports.insert(std::net::TcpStream::from(fd).local_addr().unwrap().port());
    }
    assert_eq!(ports.len(), 11_999, "every port of the range but the one that is listened on");
    assert!(ports.iter().all(|p| (20_000..32_000).contains(p)) && !ports.contains(&20_500));
}

fn rebind(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    for at in ["0.0.0.0:7001", "[::]:7002"] {
        let at: SocketAddr = at.parse().unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            let server = lab.inside("b", move || TcpListener::bind(at)).expect("bind again");
            let to = lab.addr4("b", at.port());
            held.push(lab.inside("a", move || std::net::TcpStream::connect(to)).unwrap());
            held.push(server.accept().unwrap().0);
        }
    }
    // Nor are the ports that redirected connections seem to go to taken.
    lab.inside("a", || TcpListener::bind("0.0.0.0:15001")).unwrap();
    drop(kernel);
}

fn closed_behind(lab: &Lab) {
    let kernel = lab.start(&["b"]);
    let pod = kernel.pods().remove(0);
    for (to, client) in [(lab.addr4("b", 9), lab.ip4("x")), (lab.addr6("b", 9), lab.ip6("x"))] {
        let started = std::time::Instant::now();
        assert!(is_refused(&crate::relay::connect(&*pod, Direction::Inbound, to, client)));
        // A wait would be that of a SYN that nobody answers, more than a minute.
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

fn probes(lab: &Lab) {
    let kernel = lab.load().0;
    lab.relay.refuse.store(true, Ordering::Relaxed);
    lab.serve("b", "[::]:8080".parse().unwrap());
    lab.serve("b", "[::]:8081".parse().unwrap());
    lab.enrol(&kernel, "b", |r| {
        r.strict = true;
        r.probe_ports = vec![8080];
    });
    for to in [lab.addr4("b", 8080), lab.addr6("b", 8080)] {
        assert!(lab.probe_from("kubelet", to), "the kubelet on a probe port");
        assert!(!lab.probe_from("", to), "somebody else on a probe port");
    }
    assert!(!lab.probe_from("kubelet", lab.addr4("b", 8081)), "the kubelet on another port");
    assert_eq!(lab.counter(&kernel, "in_pass_probe"), 2);
    eventually("rows are used up", || kernel.map_dump("syns", 10).unwrap().is_empty());
}

fn exclusions(lab: &Lab) {
    let kernel = lab.load().0;
    lab.serve("b", "[::]:8080".parse().unwrap());
    lab.serve("b", "[::]:8081".parse().unwrap());
    lab.enrol(&kernel, "b", |r| r.exclude.inbound_ports = vec![8080]);
    lab.dial("x", lab.addr4("b", 8080)).unwrap();
    assert!(lab.relay.seen.lock().unwrap().is_empty());
    lab.enrol(&kernel, "b", |r| r.exclude.inbound_cidrs = vec!["fd77::9/128".into()]);
    lab.dial("x", lab.addr6("b", 8081)).unwrap();
    assert!(lab.relay.seen.lock().unwrap().is_empty());
    lab.dial("x", lab.addr4("b", 8081)).unwrap();
    assert_eq!(lab.relay.of(Direction::Inbound).len(), 1);
}

fn existing(lab: &Lab) {
    let to = lab.addr4("b", 8080);
    lab.serve("b", "[::]:8080".parse().unwrap());
    let kernel = lab.load().0;
    for strict in [false, true] {
        let mut old = lab.inside("x", move || std::net::TcpStream::connect(to)).unwrap();
        lab::meet(&mut old).unwrap();
        let enrolled = lab.enrol(&kernel, "b", |r| r.strict = strict);
        let own = old.local_addr().unwrap();
        assert!(enrolled.existing.iter().any(|e| e.local == to && e.remote == own), "{:?}", enrolled.existing);
        use std::io::{Read, Write};
        let alive = old.write_all(b"still").and_then(|()| old.read_exact(&mut [0; 5])).is_ok();
        assert_eq!(alive, !strict);
        kernel.unenrol("test/b", 0).unwrap();
    }
}

fn not_enrolled(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    assert_eq!(lab.dial("x", to).unwrap().peer.ip(), lab.ip4("x"));
    assert_eq!(lab.counter(&kernel, "in_steered") + lab.counter(&kernel, "out_redirected"), 0);
}

/// Two pods in turn, so that a program which still meant the pod before it would steer to the wrong listener.
fn faster_than_ahead(lab: &Lab) {
    let kernel = lab.load().0;
    for pod in ["a", "b"] {
        lab.serve(pod, lab.addr4(pod, 8080));
    }
    for _ in 0..8 {
        for pod in ["a", "b"] {
            lab.enrol(&kernel, pod, |_| {});
            lab.relay.clear();
            lab.dial("x", lab.addr4(pod, 8080)).unwrap();
            let seen = lab.relay.of(Direction::Inbound);
            assert_eq!((seen.len(), seen[0].destination), (1, Some(lab.addr4(pod, 8080))));
        }
        for pod in ["test/a", "test/b"] {
            kernel.unenrol(pod, 0).unwrap();
        }
    }
}

fn no_program(lab: &Lab) {
    let mut config = lab.config();
    let part = config.pin_dir.parent().unwrap().join("objects");
    std::fs::create_dir_all(&part).unwrap();
    for entry in std::fs::read_dir(&config.bpf_dir).unwrap().flatten().filter(|e| e.file_name() != "guard.bpf.o" && e.file_name() != "inbound.bpf.o")
    {
        std::fs::copy(entry.path(), part.join(entry.file_name())).unwrap();
    }
    config.bpf_dir = part;
    let events = lab.events.clone();
    let kernel = fairlead::kernel::Kernel::load(config, lab.relay.clone(), Arc::new(move |event| events.lock().unwrap().push(event))).unwrap().0;
    let told = || lab.events.lock().unwrap().iter().filter(|e| matches!(e, KernelEvent::Failed(f) if f.code == "bpf_missing")).count();
    eventually("it is told", || told() > 0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(told(), 1);
    let fault = kernel.enrol(lab.request("a")).unwrap_err();
    assert!(fault.code == "bpf_missing" && fault.message.contains("inbound.bpf.o"), "{fault}");
}
