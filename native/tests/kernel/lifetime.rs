//! Agents that die, hang, come back and are replaced; pods that leave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairlead::kernel::layout::setting;
use fairlead::kernel::{EnrolRequest, ForeignProgram, Kernel, KernelEvent};
use fairlead::seam::Direction;

use crate::Case;
use crate::lab::{self, Lab, dial, eventually, kill, put};
use crate::outbound::{is_refused, speaker};
use crate::relay::Relay;

pub const CASES: &[Case] = &[
    ("[INT-14] without an agent a pod fails closed by default, both directions", fail_closed),
    ("[INT-14] [DP-9] fail-open passes plain connections, but not toward or from tunnel speakers, never under STRICT", fail_open),
    ("[INT-14] a hung agent counts as dead and traffic resumes with the heartbeat", hung),
    ("[DP-18] [INT-14] an agent takes over from another: nothing refused, old connections and their addresses live on", takeover),
    ("[DP-18] programs with other maps take over without a gap: no connection bypasses the mesh or fails", new_version),
    ("[INT-12] pods that are enrolled while they connect and serve have no connection refused", enrolled_live),
    ("[DP-21] a pod that ended while no agent was there is forgotten, one that lives stays closed", dead_pod),
    ("[INT-11] unenrolling puts the pod back as it was", unenrol),
    ("[DP-21] a pod's end closes every socket of its namespace", pod_gone),
    ("[DP-21] a pod that vanished without a word is found", vanished),
    ("[DP-18] unload removes every link and pin", unload),
    ("[INT-6] auto without eBPF says why, nftables is named", no_bpf),
    ("[DP-13] programs of others at our hooks are found, those that run after ours and those before", foreign),
    ("[DP-31] direct pairs go on for the grace time after the agent died", grace),
];

fn fail_closed(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    for to in [lab.addr4("x", 8080), lab.addr6("x", 8080), lab.addr4("a", 8080), lab.addr6("a", 8080)] {
        lab.serve(if to.ip() == lab.ip4("x") || to.ip() == lab.ip6("x") { "x" } else { "a" }, to);
    }
    lab.dial("a", lab.addr4("x", 8080)).unwrap();
    kill(lab, kernel);
    for to in [lab.addr4("x", 8080), lab.addr6("x", 8080)] {
        assert!(is_refused(&lab.dial("a", to)));
    }
    for to in [lab.addr4("a", 8080), lab.addr6("a", 8080)] {
        assert!(is_refused(&lab.dial("x", to)));
    }
    let kernel = lab.start(&["a"]);
    lab.dial("a", lab.addr6("x", 8080)).unwrap();
    lab.dial("x", lab.addr4("a", 8080)).unwrap();
    assert!(lab.counter(&kernel, "out_refused_no_agent") >= 2);
}

fn fail_open(lab: &Lab) {
    for strict in [false, true] {
        let kernel = lab.load().0;
        lab.enrol(&kernel, "a", |r| {
            r.fail_open = true;
            r.strict = strict;
        });
        if !strict {
            lab.serve("x", "[::]:8080".parse().unwrap());
            lab.serve("b", "[::]:8080".parse().unwrap());
            lab.serve("a", "[::]:8080".parse().unwrap());
            speaker(&kernel, lab.ip4("b"));
        }
        kill(lab, kernel);
        for to in [lab.addr4("x", 8080), lab.addr6("x", 8080)] {
            assert_eq!(lab.dial("a", to).is_ok(), !strict, "{to} {strict}");
        }
        for to in [lab.addr4("a", 8080), lab.addr6("a", 8080)] {
            assert_eq!(lab.dial("x", to).is_ok(), !strict, "{to} {strict}");
        }
        assert!(is_refused(&lab.dial("a", lab.addr4("b", 8080))), "toward a speaker");
        assert!(is_refused(&lab.dial("b", lab.addr4("a", 8080))), "from a speaker");
    }
}

fn hung(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    lab.dial("a", to).unwrap();
    put(&kernel, "settings", setting::HEARTBEAT_DEAD_NS.to_le_bytes(), 3_000_000_000u64.to_le_bytes());
    std::thread::sleep(Duration::from_millis(3_200));
    assert!(is_refused(&lab.dial("a", to)));
    kernel.heartbeat().unwrap();
    lab.dial("a", to).unwrap();
}

fn takeover(lab: &Lab) {
    let first = lab.start(&["a", "b"]);
    let targets = [lab.addr4("b", 8080), lab.addr6("b", 8080)];
    targets.iter().for_each(|to| lab.serve("b", *to));
    let mut old: Vec<TcpStream> = targets
        .iter()
        .map(|to| {
            let to = *to;
            lab.inside("a", move || TcpStream::connect(to)).unwrap()
        })
        .collect();
    old.iter_mut().for_each(|s| drop(lab::meet(s).unwrap()));
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = targets
        .iter()
        .map(|to| {
            let (to, stop, done) = (*to, stop.clone(), done.clone());
            lab.spawn_inside("a", move || {
                while !stop.load(Ordering::Relaxed) {
                    lab::dial(to).expect("no connection fails during the take-over");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut agents = vec![first];
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        let relay = Relay::new();
        let (next, report) = lab.load_for(relay.clone());
        assert!(report.replaced);
        for pod in ["a", "b"] {
            next.enrol(lab.request(pod)).unwrap();
        }
        let before = done.load(Ordering::Relaxed);
        eventually("connections through the new agent", || done.load(Ordering::Relaxed) > before + 40);
        assert!(!relay.of(Direction::Outbound).is_empty() && !relay.of(Direction::Inbound).is_empty());
        agents.push(next);
    }
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|w| w.join().unwrap());
    for (stream, to) in old.iter_mut().zip(targets) {
        stream.write_all(b"still").unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!((&echo, stream.peer_addr().unwrap()), (b"still", to));
    }
    assert!(done.load(Ordering::Relaxed) > 100);
}

/// An agent before with maps of another version: the same programs, but pinned under another name, which is all that tells
/// versions apart.
fn new_version(lab: &Lab) {
    let first = lab.start(&["a", "b"]);
    let pins = lab.config().pin_dir;
    let version = fairlead::kernel::layout::VERSION;
    std::fs::rename(pins.join(version), pins.join("0123456789ab")).unwrap();
    std::fs::rename(pins.join(format!("active-{version}")), pins.join("active-0123456789ab")).unwrap();
    for entry in std::fs::read_dir(pins.join("pods")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().replace(version, "0123456789ab");
        std::fs::rename(entry.path(), pins.join("pods").join(name)).unwrap();
    }
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    let mut old = lab.inside("a", move || TcpStream::connect(to)).unwrap();
    lab::meet(&mut old).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let running = stop.clone();
    let worker = lab.spawn_inside("a", move || {
        let mut done = 0;
        while !running.load(Ordering::Relaxed) {
            lab::dial(to).expect("no connection fails during the change");
            done += 1;
        }
        done
    });
    let relay = Relay::new();
    let (second, _) = lab.load_for(relay.clone());
    std::thread::sleep(Duration::from_millis(100));
    assert!(pins.join("active-0123456789ab").exists(), "the programs before go on");
    // Strict: what was open before a pod came into the mesh is ended, but these pods are in it already.
    let strict = |name: &str| EnrolRequest { strict: true, ..lab.request(name) };
    assert_eq!(second.enrol(strict("a")).unwrap().existing, []);
    std::thread::sleep(Duration::from_millis(100));
    assert!(pins.join("active-0123456789ab").exists(), "until every pod is there");
    assert_eq!(second.enrol(strict("b")).unwrap().existing, []);
    assert!(pins.join(format!("active-{version}")).exists() && !pins.join("0123456789ab").exists());
    eventually("connections through the new agent", || relay.of(Direction::Outbound).len() > 20);
    // A listener from before the change, and one from after it.
    lab.serve("b", lab.addr4("b", 8081));
    lab.dial("x", lab.addr4("b", 8081)).unwrap();
    stop.store(true, Ordering::Relaxed);
    let done = worker.join().unwrap();
    let seen = lab.relay.of(Direction::Outbound).len() + relay.of(Direction::Outbound).len();
    assert_eq!(seen, done + 1, "every connection went through one of the agents");
    old.write_all(b"z").and_then(|()| old.read_exact(&mut [0])).unwrap();
    assert_eq!(old.peer_addr().unwrap(), to);
    drop(first);
}

fn dead_pod(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    kill(lab, kernel);
    let name = lab.netns("b").file_name().unwrap().to_string_lossy().into_owned();
    assert!(std::process::Command::new("ip").args(["netns", "del", &name]).status().unwrap().success());
    lab.serve("a", lab.addr4("a", 8080));
    let kernel = lab.load().0;
    eventually("the dead one is forgotten", || kernel.map_dump("pods", 10).unwrap().len() == 1);
    eventually("with its pin", || std::fs::read_dir(lab.config().pin_dir.join("pods")).unwrap().count() == 1);
    assert_eq!(kernel.map_dump("local_pods", 10).unwrap().len(), 2);
    assert!(is_refused(&lab.dial("x", lab.addr4("a", 8080))), "the other waits for its agent, closed");
}

fn unenrol(lab: &Lab) {
    let state = |lab: &Lab| {
        lab.inside("a", || {
            let rules =
                std::process::Command::new("sh").args(["-c", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"]).output();
            let sysctls = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];
            let values = sysctls.map(|name| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap());
            (String::from_utf8(rules.unwrap().stdout).unwrap(), values)
        })
    };
    // The kernel gives the link an address of its own a little later.
    eventually("the pod's addresses", || state(lab).0.contains("local fe80::"));
    let before = state(lab);
    let kernel = lab.start(&["a"]);
    assert_ne!(state(lab), before);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    let mut open = lab.inside("a", move || TcpStream::connect(to)).unwrap();
    lab::meet(&mut open).unwrap();
    kernel.unenrol("test/a", 3_000).unwrap();
    lab.dial("a", to).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 1, "new connections are left alone");
    open.write_all(b"y").and_then(|()| open.read_exact(&mut [0])).expect("an open one goes on");
    eventually("everything is back", || state(lab) == before);
    for map in ["pods", "local_pods", "listening", "seeded", "syns", "pending"] {
        assert!(kernel.map_dump(map, 10).unwrap().is_empty(), "{map}");
    }
    lab.serve("a", lab.addr4("a", 8081));
    lab.dial("x", lab.addr4("a", 8081)).unwrap();
    assert!(lab.relay.of(Direction::Inbound).is_empty());
    kernel.enrol(lab.request("a")).unwrap();
    lab.dial("a", to).unwrap();
    assert_eq!(lab.relay.of(Direction::Outbound).len(), 2, "and it can come back");
}

fn pod_gone(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to = lab.addr4("b", 8080);
    lab.serve("b", to);
    lab.allow_direct(&kernel, "a", to, 0);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| lab.inside("a", move || TcpStream::connect(to)).unwrap()).collect();
    streams.iter_mut().for_each(|s| drop(lab::meet(s).unwrap()));
    eventually("all that was sent has been read", || kernel.busy_sockets("test/a").unwrap() == 0);
    // What comes back is not read.
    streams[0].write_all(b"y").unwrap();
    eventually("bytes are under way", || kernel.busy_sockets("test/a").unwrap() == 1);
    assert_eq!(kernel.busy_sockets("test/nobody").unwrap(), 0);
    let started = Instant::now();
    let closed = kernel.pod_gone("test/b").unwrap();
    assert!(closed > 20, "{closed}");
    for stream in &mut streams {
        assert!(stream.read_to_end(&mut Vec::new()).is_err(), "reset, not silence");
    }
    // "Within a second" on a machine that has nothing else to do.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(kernel.pods().len(), 1);
    assert_eq!(kernel.pod_gone("test/b").unwrap(), 0, "a second time is no error");
}

fn vanished(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let gone = lab.netns("b");
    let name = gone.file_name().unwrap().to_string_lossy().into_owned();
    assert!(std::process::Command::new("ip").args(["netns", "del", &name]).status().unwrap().success());
    eventually("the pod is found gone", || lab.events.lock().unwrap().iter().any(|e| matches!(e, KernelEvent::Vanished { pod } if pod == "test/b")));
    assert_eq!(kernel.pods().len(), 1);
    assert_eq!(kernel.map_dump("pods", 10).unwrap().len(), 1);
}

fn unload(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    let pins = lab.config().pin_dir;
    assert!(pins.join("links/fl_connect4").exists());
    kernel.unload().unwrap();
    // What is there on every BPF file system stays.
    let left = std::fs::read_dir(&pins).unwrap().flatten().filter(|e| !e.file_name().to_string_lossy().ends_with(".debug"));
    assert_eq!(left.count(), 0);
    drop(kernel);
    let to = lab.addr4("x", 8080);
    lab.serve("x", to);
    lab.dial("a", to).unwrap();
    assert!(lab.relay.seen.lock().unwrap().is_empty());
    let (_kernel, report) = lab.load();
    assert!(!report.replaced);
}

fn no_bpf(lab: &Lab) {
    let mut config = lab.config();
    config.interception = "sometimes".into();
    let fault = Kernel::load(config.clone(), lab.relay.clone(), Arc::new(|_| ())).err().unwrap();
    assert!(fault.message.contains("sometimes") && fault.message.contains("nftables"));
    config.interception = "ebpf".into();
    config.bpf_dir = "/nowhere".into();
    let fault = Kernel::load(config.clone(), lab.relay.clone(), Arc::new(|_| ())).err().unwrap();
    assert_eq!(fault.code, "bpf_missing");
    let report = Kernel::probe();
    assert!(report.bpf.ok && report.missing.is_empty() && !report.cgroup2.is_empty(), "{report:?}");
}

fn foreign(lab: &Lab) {
    let kernel = lab.start(&["a"]);
    assert!(kernel.foreign_programs().unwrap().is_empty());
    // Another copy of our own programs, from another pin folder, is somebody else's.
    let mut other = lab.config();
    other.pin_dir = other.pin_dir.parent().unwrap().join("bpf2");
    let load_other = || Kernel::load(other.clone(), lab.relay.clone(), Arc::new(|_| ())).unwrap().0;
    let is_there = |kernel: &Kernel, position: usize, ours_at: usize| {
        let found = kernel.foreign_programs().unwrap();
        let same = |p: &ForeignProgram| (p.hook, p.name.as_str(), p.position, p.ours_at) == ("connect4", "fl_connect4", position, Some(ours_at));
        assert!(found.iter().any(same), "{found:?}");
    };
    let second = load_other();
    is_there(&kernel, 1, 0);
    second.unload().unwrap();
    drop(second);
    // The kernel lets go of a link some time after its last pin.
    eventually("the other's are gone", || kernel.foreign_programs().unwrap().is_empty());
    kernel.unload().unwrap();
    drop(kernel);
    let first = load_other();
    let kernel = lab.load().0;
    is_there(&kernel, 0, 1);
    first.unload().unwrap();
    drop(first);
    assert!(std::process::Command::new("umount").arg(&other.pin_dir).status().unwrap().success());
    eventually("the first one's are gone", || kernel.foreign_programs().unwrap().is_empty());
}

fn grace(lab: &Lab) {
    let kernel = lab.start(&["a", "b"]);
    let to: SocketAddr = lab.addr4("b", 8080);
    lab.serve("b", to);
    lab.allow_direct(&kernel, "a", to, 0);
    put(&kernel, "settings", setting::DIRECT_GRACE_NS.to_le_bytes(), 5_000_000_000u64.to_le_bytes());
    kernel.heartbeat().unwrap();
    kill(lab, kernel);
    lab.dial("a", to).expect("within the grace time");
    std::thread::sleep(Duration::from_millis(5_200));
    assert!(is_refused(&lab.dial("a", to)), "after it, closed");
}

fn enrolled_live(lab: &Lab) {
    let (to4, to6) = (lab.addr4("b", 8080), lab.addr6("b", 8080));
    [to4, to6].iter().for_each(|to| lab.serve("b", *to));
    let kernel = lab.load().0;
    for round in 0..10 {
        let enrolled = Arc::new(AtomicBool::new(false));
        let diallers = ["a", "x"].map(|from| {
            let enrolled = enrolled.clone();
            // Sixty times at least, and the last time when both are enrolled, however long that takes.
            lab.spawn_inside(from, move || {
                let (mut dials, mut failed) = (0, 0);
                loop {
                    let last = enrolled.load(Ordering::Relaxed) && dials >= 59;
                    failed += usize::from([to4, to6].iter().any(|to| dial(*to).is_err()));
                    dials += 1;
                    if last {
                        return failed;
                    }
                }
            })
        });
        for pod in ["b", "a"] {
            lab.enrol(&kernel, pod, |_| ());
        }
        enrolled.store(true, Ordering::Relaxed);
        assert_eq!(diallers.map(|d| d.join().unwrap()), [0, 0], "round {round}");
        assert!(lab.relay.of(Direction::Outbound).len() + lab.relay.of(Direction::Inbound).len() > 0, "both are in");
        ["a", "b"].iter().for_each(|pod| kernel.unenrol(&format!("test/{pod}"), 0).unwrap());
        lab.relay.clear();
    }
}
