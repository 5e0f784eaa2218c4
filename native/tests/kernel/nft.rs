//! Interception by nftables and by iptables, in real namespaces: the same promises as eBPF, without a program in the kernel.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use fairlead::kernel::Kernel;
use fairlead::seam::Direction;

use crate::Case;
use crate::lab::{Lab, eventually, kill};
use crate::relay::Relay;

pub const CASES: &[Case] = &[
    ("[INT-6] [INT-3] [INT-5] nftables: both directions, both families, the addresses of everybody true", carried),
    ("[INT-6] [INT-13] [INT-16] nftables: excluded ports and ranges, closed ports and UDP are left alone", untouched),
    ("[INT-6] [INT-14] nftables: a dead agent refuses at once, or lets pass where the pod fails open", dead),
    ("[INT-6] [INT-4] nftables: a new agent takes over without a refused connection", takeover),
    ("[INT-6] [INT-11] nftables: unenrolling puts rules, routes and sysctls back", restored),
    ("[INT-6] [DP-9] nftables: an agent's death opens no way between a pod and those who speak a tunnel", speakers),
    ("[INT-6] [INT-14] rules take the place of programs, and programs that of rules, without a failed connection", switched),
    ("[INT-6] iptables does it where nft is absent", iptables),
    ("[INT-6] [INT-4] [DP-19] nftables: whatever the agent before has still to write, the rules are its successor's", succeeded),
    ("[INT-11] [DP-19] a pod that came back is its new agent's, whatever the one before has still to clear away", came_back),
];

fn load(lab: &Lab) -> Kernel {
    load_for(lab, lab.relay.clone())
}

fn load_for(lab: &Lab, relay: Arc<Relay>) -> Kernel {
    let mut config = lab.config();
    config.interception = "nftables".into();
    let (kernel, report) = Kernel::load(config, relay, Arc::new(|_| ())).expect("nftables loads");
    assert_eq!(report.interception, "nftables");
    assert!(report.reason.contains("FAIRLEAD_INTERCEPTION"), "{}", report.reason);
    kernel
}

fn start(lab: &Lab, pods: &[&str]) -> Kernel {
    let kernel = load(lab);
    pods.iter().for_each(|pod| drop(lab.enrol(&kernel, pod, |_| ())));
    kernel
}

fn refused<T: std::fmt::Debug>(result: &std::io::Result<T>) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset};
    matches!(result, Err(e) if matches!(e.kind(), ConnectionRefused | ConnectionReset))
}

fn both_ways(lab: &Lab) {
    let _kernel = start(lab, &["a", "b"]);
    for to in [lab.addr4("b", 8080), lab.addr6("b", 8080)] {
        lab.relay.clear();
        lab.serve("b", to);
        let client = if to.is_ipv4() { lab.ip4("a") } else { lab.ip6("a") };
        let met = lab.dial("a", to).expect("carried");
        assert_eq!((met.client_peer, met.local, met.peer.ip()), (to, to, client));
        assert_eq!(met.client_local.ip(), client);
        let out = lab.relay.of(Direction::Outbound);
        assert_eq!((out.len(), out[0].destination), (1, Some(to)), "once, with its destination");
        let inbound = lab.relay.of(Direction::Inbound);
        assert_eq!((inbound.len(), inbound[0].destination, inbound[0].source.ip()), (1, Some(to), client));
    }
}

fn carried(lab: &Lab) {
    both_ways(lab);
    let any: SocketAddr = "0.0.0.0:8090".parse().unwrap();
    lab.serve("b", any);
    let met = lab.dial("x", lab.addr4("b", 8090)).expect("a server on the wildcard");
    assert_eq!(met.peer.ip(), lab.ip4("x"), "a client outside the mesh is seen as itself");
}

fn untouched(lab: &Lab) {
    let kernel = load(lab);
    lab.enrol(&kernel, "a", |request| {
        request.exclude.outbound_ports = vec![8081];
        request.exclude.outbound_cidrs = vec![format!("{}/128", lab.ip6("x"))];
    });
    lab.enrol(&kernel, "b", |request| {
        request.exclude.inbound_ports = vec![8082];
        request.exclude.inbound_cidrs = vec![format!("{}/32", lab.ip4("x"))];
    });
    let quiet = |from: &str, to: SocketAddr, direction: Direction| {
        lab.relay.clear();
        let host = if to.ip() == lab.ip4("b") || to.ip() == lab.ip6("b") { "b" } else { "x" };
        lab.serve(host, to);
        lab.dial(from, to).expect("connects");
        assert!(lab.relay.of(direction).is_empty(), "{from} to {to} is left alone");
    };
    quiet("a", lab.addr4("x", 8081), Direction::Outbound);
    quiet("a", lab.addr6("x", 8083), Direction::Outbound);
    quiet("x", lab.addr6("b", 8082), Direction::Inbound);
    quiet("x", lab.addr4("b", 8084), Direction::Inbound);
    assert!(refused(&lab.dial("x", lab.addr6("b", 9))), "a closed port stays closed");
    let local: SocketAddr = "127.0.0.1:8085".parse().unwrap();
    lab.serve("b", local);
    assert!(refused(&lab.dial("x", lab.addr6("b", 8085))), "and one on loopback too");
    let at = lab.addr4("x", 5353);
    let server = lab.inside("x", move || UdpSocket::bind(at)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    lab.inside("a", move || UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"u", at))).unwrap();
    assert_eq!(server.recv_from(&mut [0; 4]).unwrap().1.ip(), lab.ip4("a"));
}

fn dead(lab: &Lab) {
    let mut config = lab.config();
    config.interception = "nftables".into();
    config.heartbeat_dead_ms = 600;
    let kernel = Kernel::load(config, lab.relay.clone(), Arc::new(|_| ())).unwrap().0;
    lab.enrol(&kernel, "a", |request| request.fail_open = true);
    lab.enrol(&kernel, "b", |_| ());
    let (open, closed, outside) = (lab.addr4("a", 8080), lab.addr6("b", 8080), lab.addr4("x", 8080));
    [("a", open), ("b", closed), ("x", outside)].iter().for_each(|(part, to)| lab.serve(part, *to));
    for (from, to) in [("x", open), ("x", closed), ("a", outside), ("b", outside)] {
        lab.dial(from, to).expect("while the agent lives");
    }
    kill(lab, kernel);
    assert!(refused(&lab.dial("x", closed)), "in: closed");
    assert!(refused(&lab.dial("b", outside)), "out: closed");
    lab.dial("x", open).expect("in: open");
    eventually("out: open once signs of life are stale", || lab.dial("a", outside).is_ok());
    let _back = start(lab, &["b"]);
    lab.dial("x", closed).expect("traffic resumes with the agent");
}

fn takeover(lab: &Lab) {
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let mut agents = vec![start(lab, &["a", "b"])];
    let dialler = { lab.spawn_inside("a", move || (0..200).filter(|_| crate::lab::dial(to).is_err()).count()) };
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(50));
        // An agent of its own: the one before goes on taking what its listeners hold.
        let next = load_for(lab, Relay::new());
        ["a", "b"].iter().for_each(|pod| drop(lab.enrol(&next, pod, |_| ())));
        agents.push(next);
    }
    assert_eq!(dialler.join().unwrap(), 0, "no connection fails");
}

/// The one before may hear of a change between its successor's rules and the word that it is to drain.
fn succeeded(lab: &Lab) {
    let to = lab.addr6("b", 8095);
    lab.serve("b", to);
    let before = start(lab, &["b"]);
    lab.enrol(&before, "b", |request| request.exclude.inbound_ports = vec![8090]);
    lab.dial("x", to).expect("carried under rules that were changed");
    assert_eq!(lab.relay.of(Direction::Inbound).len(), 1);
    let relay = Relay::new();
    let next = load_for(lab, relay.clone());
    lab.enrol(&next, "b", |_| ());
    lab.enrol(&before, "b", |request| request.exclude.inbound_ports = vec![8091]);
    lab.relay.clear();
    lab.dial("x", to).expect("carried");
    assert_eq!((relay.of(Direction::Inbound).len(), lab.relay.of(Direction::Inbound).len()), (1, 0));
    drop(before);
    lab.enrol(&next, "b", |request| request.exclude.inbound_ports = vec![8092]);
    lab.dial("x", to).expect("carried, with nobody but the successor there");
    assert_eq!(relay.of(Direction::Inbound).len(), 2);
    // The pod leaves the mesh, its agent is replaced, the pod is back: what the first had still to clear away is not there any more.
    next.unenrol("test/b", 300).unwrap();
    let last = Relay::new();
    let third = load_for(lab, last.clone());
    lab.enrol(&third, "b", |_| ());
    std::thread::sleep(Duration::from_millis(800));
    lab.dial("x", to).expect("carried");
    assert_eq!((last.of(Direction::Inbound).len(), relay.of(Direction::Inbound).len()), (1, 2));
    let (next, relay) = (third, last);
    // Rules that a third removed are nobody's: who has the pod writes them again.
    let script = "nft delete table inet fairlead || { iptables -t nat -F FAIRLEAD_OUT; ip6tables -t nat -F FAIRLEAD_OUT; ip6tables -t mangle -F FAIRLEAD_IN; }";
    let removed = lab.inside("b", move || std::process::Command::new("sh").args(["-c", script]).status().unwrap());
    assert!(removed.success());
    lab.enrol(&next, "b", |_| ());
    lab.dial("x", to).expect("carried");
    assert_eq!(relay.of(Direction::Inbound).len(), 2);
}

/// Out of the mesh, its agent replaced, and in again before the old one's drain of it is over.
fn came_back(lab: &Lab) {
    let to = lab.addr4("a", 8080);
    lab.serve("a", to);
    for nftables in [false, true] {
        let old = lab.start(&["a"]);
        old.unenrol("test/a", 300).unwrap();
        let relay = Relay::new();
        let mut config = lab.config();
        config.interception = if nftables { "nftables" } else { "ebpf" }.into();
        let new = Kernel::load(config, relay.clone(), Arc::new(|_| ())).unwrap().0;
        new.enrol(lab.request("a")).unwrap();
        std::thread::sleep(Duration::from_millis(800));
        lab.dial("x", to).expect("carried");
        assert_eq!(relay.of(Direction::Inbound).len(), 1, "not in the clear");
        // The same the other way round.
        if nftables {
            new.unenrol("test/a", 300).unwrap();
            let relay = Relay::new();
            let last = lab.load_for(relay.clone()).0;
            last.enrol(lab.request("a")).unwrap();
            std::thread::sleep(Duration::from_millis(800));
            lab.dial("x", to).expect("carried, with the client's address");
            assert_eq!(relay.of(Direction::Inbound).len(), 1, "not in the clear");
        }
        new.unload().unwrap();
    }
}

fn speakers(lab: &Lab) {
    let mut config = lab.config();
    config.interception = "nftables".into();
    config.heartbeat_dead_ms = 600;
    let kernel = Kernel::load(config, lab.relay.clone(), Arc::new(|_| ())).unwrap().0;
    lab.enrol(&kernel, "a", |request| request.fail_open = true);
    let (inside, outside) = ([lab.addr4("a", 8080), lab.addr6("a", 8080)], [lab.addr4("x", 8080), lab.addr6("x", 8080)]);
    let peer = [lab.addr4("b", 8080), lab.addr6("b", 8080)];
    for (part, at) in [("a", inside), ("x", outside), ("b", peer)] {
        at.iter().for_each(|to| lab.serve(part, *to));
    }
    let rows = |ips: &[std::net::IpAddr]| ips.iter().map(|ip| (fairlead::kernel::to_bytes(*ip).to_vec(), vec![1, 0, 0, 0])).collect::<Vec<_>>();
    let all = rows(&[lab.ip4("b"), lab.ip6("b"), lab.ip4("x")]);
    assert_eq!(kernel.map_put("tunnel_speakers", &all).unwrap(), 3);
    assert_eq!(kernel.map_delete("tunnel_speakers", &[all[2].0.clone()]).unwrap(), 1);
    let listed = || state(lab, "a").matches("10.77.0.3").count() == 1;
    eventually("the pod's table knows", listed);
    for to in inside {
        lab.dial("b", to).expect("while the agent lives its bytes are the agent's");
    }
    kill(lab, kernel);
    for at in 0..2 {
        assert!(refused(&lab.dial("b", inside[at])), "in: a tunnel's bytes are not the app's");
        lab.dial("x", inside[at]).expect("in: others pass");
        eventually("out: open once signs of life are stale", || lab.dial("a", outside[at]).is_ok());
        assert!(refused(&lab.dial("a", peer[at])), "out: nothing in the clear");
    }
}

fn switched(lab: &Lab) {
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let rules = |lab: &Lab| state(lab, "b").contains("tproxy");
    let links = || std::fs::read_dir(lab.config().pin_dir.join("links")).map_or(0, |found| found.count());
    let first = lab.start(&["a", "b"]);
    assert!(links() > 0 && !rules(lab));
    let dialler = lab.spawn_inside("a", move || (0..400).filter(|_| crate::lab::dial(to).is_err()).count());
    std::thread::sleep(Duration::from_millis(50));
    let second = load_for(lab, Relay::new());
    lab.enrol(&second, "a", |_| ());
    assert!(links() > 0, "as long as a pod has no rules, the programs stay");
    lab.enrol(&second, "b", |_| ());
    assert!(links() == 0 && rules(lab));
    std::thread::sleep(Duration::from_millis(100));
    let relay = Relay::new();
    let third = lab.load_for(relay.clone()).0;
    ["a", "b"].iter().for_each(|pod| drop(lab.enrol(&third, pod, |_| ())));
    assert!(links() > 0 && !rules(lab));
    assert_eq!(dialler.join().unwrap(), 0, "no connection fails");
    relay.clear();
    lab.dial("a", to).expect("carried");
    assert_eq!((relay.of(Direction::Outbound).len(), relay.of(Direction::Inbound).len()), (1, 1), "once each");
    third.unenrol("test/b", 0).unwrap();
    assert!(!state(lab, "b").contains("table inet fairlead"), "nothing of the rules is left");
    drop((first, second));
}

fn state(lab: &Lab, part: &str) -> String {
    let script = "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
        cat /proc/sys/net/ipv4/tcp_fwmark_accept /proc/sys/net/ipv4/fwmark_reflect /proc/sys/net/ipv6/fwmark_reflect";
    lab.inside(part, move || {
        let done = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    })
}

fn restored(lab: &Lab) {
    // The kernel gives the link an address of its own a little later.
    eventually("the pod's addresses", || state(lab, "a").contains("local fe80::"));
    let before = state(lab, "a");
    let kernel = start(lab, &["a"]);
    assert!(state(lab, "a").contains("table inet fairlead"));
    kernel.unenrol("test/a", 100).unwrap();
    eventually("the pod is as it was", || state(lab, "a") == before);
    lab.enrol(&kernel, "a", |_| ());
    kernel.unload().unwrap();
    assert_eq!(state(lab, "a"), before);
}

/// The rest of the case runs in a process of its own, in whose PATH there is everything but nft.
fn iptables(lab: &Lab) {
    let title = CASES[7].0;
    if !std::env::var("PATH").unwrap_or_default().contains("fl-no-nft") {
        let folder = std::env::temp_dir().join(format!("fl-no-nft-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "sh", "ip", "cat"] {
            let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|place| std::path::Path::new(place).join(name));
            let found = places.iter().find(|path| path.exists()).expect(name);
            std::os::unix::fs::symlink(found, folder.join(name)).unwrap();
        }
        let inner = format!("{}i", lab.name());
        let own = std::env::current_exe().unwrap();
        let done = std::process::Command::new(own).args(["--case", title, &inner]).env("PATH", &folder).output();
        crate::lab::clean_up(&inner);
        std::fs::remove_dir_all(&folder).unwrap();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    both_ways(lab);
    assert!(refused(&lab.dial("x", lab.addr4("b", 9))), "a closed port stays closed");
    lab.relay.clear();
    succeeded(lab);
}
