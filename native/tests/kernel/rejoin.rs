//! A pod that leaves the mesh and is back with the same agent before its open connections have ended (rule DP-9).

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fairlead::kernel::layout::{PodValue, SynKey, SynValue};
use fairlead::kernel::{EnrolRequest, Kernel};
use fairlead::seam::Direction;

use crate::lab::{self, Lab};
use crate::relay::Relay;

pub const CASES: &[crate::Case] = &[
    ("[INT-12] [DP-9] back while it was leaving: routes and rows of what is open are never gone, nothing is in the clear", by_ebpf),
    ("[INT-12] [DP-9] the same with nftables", by_nftables),
    ("[DP-18] [DP-19] a pod that a successor has is the successor's, whatever the agent before still hears of it", succeeded),
    ("[DP-18] [DP-19] a successor that ends before it serves: the agent before takes its pods back (eBPF)", taken_back_by_ebpf),
    ("[DP-18] [DP-19] the same with nftables", taken_back_by_nftables),
];

const DRAIN_MS: u64 = 60_000;

fn by_ebpf(lab: &Lab) {
    let kernel = lab.start(&[]);
    rejoins(lab, &kernel);
    // A connection toward the app that is being opened: its row tells programs whose it is.
    lab.enrol(&kernel, "a", |_| ());
    let cookie = kernel.pods()[0].cookie();
    let (key, value) = (SynKey { cookie, ..SynKey::default() }.encode(), SynValue::default().encode());
    lab::put(&kernel, "syns", key, value);
    kernel.unenrol("test/a", DRAIN_MS).unwrap();
    lab.enrol(&kernel, "a", |_| ());
    assert!(kernel.map_dump("syns", 100).unwrap().iter().any(|row| row.0 == key));
}

fn by_nftables(lab: &Lab) {
    let mut config = lab.config();
    config.interception = "nftables".into();
    rejoins(lab, &Kernel::load(config, lab.relay.clone(), Arc::new(|_| ())).unwrap().0);
}

/// Numbers of pods are another agent's own.
fn of_successor(request: &mut EnrolRequest) {
    request.identity_number += 1000;
}

/// Between the successor's enrolment and the word that it is to drain, the one before hears of changes too.
fn succeeded(lab: &Lab) {
    let before = lab.start(&["a"]);
    let relay = Relay::new();
    let next = lab.load_for(relay.clone()).0;
    lab.enrol(&next, "a", of_successor);
    let row = || PodValue::decode(&next.map_dump("pods", 10).unwrap().pop().unwrap().1).unwrap();
    let (out, was) = (lab.addr4("x", 8080), row());
    lab.serve("x", out);
    lab.enrol(&before, "a", |request| request.exclude.outbound_ports = vec![out.port()]);
    assert_eq!(row(), was, "changed");
    before.unenrol("test/a", DRAIN_MS).unwrap();
    assert_eq!(row(), was, "on its way out");
    lab.enrol(&before, "a", |_| ());
    assert_eq!(row(), was, "back");
    lab.dial("a", out).expect("carried");
    assert_eq!((lab.relay.of(Direction::Outbound).len(), relay.of(Direction::Outbound).len()), (0, 1));
    // Leaving with both: what the one before has still to clear away is the successor's, whose drain is longer.
    next.unenrol("test/a", DRAIN_MS).unwrap();
    before.unenrol("test/a", 1).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(next.map_dump("pods", 10).unwrap().len(), 1);
}

fn taken_back_by_ebpf(lab: &Lab) {
    taken_back(lab, &lab.start(&["a"]), &|relay| lab.load_for(relay).0);
}

fn taken_back_by_nftables(lab: &Lab) {
    let mut config = lab.config();
    config.interception = "nftables".into();
    let load = |relay: Arc<Relay>| Kernel::load(config.clone(), relay, Arc::new(|_| ())).unwrap().0;
    let before = load(lab.relay.clone());
    lab.enrol(&before, "a", |_| ());
    taken_back(lab, &before, &load);
}

fn taken_back(lab: &Lab, before: &Kernel, load: &dyn Fn(Arc<Relay>) -> Kernel) {
    let (out, into) = (lab.addr4("x", 8080), lab.addr4("a", 8080));
    lab.serve("x", out);
    lab.serve("a", into);
    for left in [false, true] {
        // It leaves while a successor has it, and is back.
        let relay = Relay::new();
        let next = load(relay.clone());
        lab.enrol(&next, "a", of_successor);
        if left {
            before.unenrol("test/a", DRAIN_MS).unwrap();
        }
        drop(next);
        drop(relay);
        lab.relay.clear();
        lab.enrol(before, "a", |request| request.take = true);
        lab.dial("a", out).expect("carried");
        lab.dial("x", into).expect("carried");
        assert_eq!((lab.relay.of(Direction::Inbound).len(), lab.relay.of(Direction::Outbound).len()), (1, 1));
    }
}

fn rejoins(lab: &Lab, kernel: &Kernel) {
    let rules = "ip rule; ip -6 rule; for f in ipv4/tcp_fwmark_accept ipv4/fwmark_reflect ipv6/fwmark_reflect; do cat /proc/sys/net/$f; done";
    let state = || lab.inside("a", move || Command::new("sh").args(["-c", rules]).output().unwrap().stdout);
    let (out, into) = (lab.addr4("x", 8080), lab.addr4("a", 8080));
    lab.serve("x", out);
    lab.serve("a", into);
    let before = state();
    lab.enrol(kernel, "a", |_| ());
    let mut open = lab.dial_and_hold("x", into);
    lab.relay.clear();
    kernel.unenrol("test/a", DRAIN_MS).unwrap();
    let direct = lab.dial_and_hold("x", into);
    assert!(lab.relay.of(Direction::Inbound).is_empty(), "left alone while it leaves");
    let mut watch = lab.inside("a", || Command::new("ip").args(["monitor", "rule", "route"]).stdout(Stdio::piped()).spawn().unwrap());
    thread::sleep(Duration::from_millis(300)); // until it listens
    let back = lab.enrol(kernel, "a", |_| ());
    thread::sleep(Duration::from_millis(300));
    watch.kill().unwrap();
    let mut said = String::new();
    watch.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    watch.wait().unwrap();
    assert!(!said.contains("Deleted"), "{said}");
    let client = direct.local_addr().unwrap();
    assert!(back.existing.iter().any(|e| e.remote == client), "what was opened meanwhile is from before: {:?}", back.existing);
    open.write_all(b"y").and_then(|()| open.read_exact(&mut [0])).expect("what was open goes on");
    lab.dial("x", into).expect("carried");
    lab.dial("a", out).expect("carried");
    assert_eq!((lab.relay.of(Direction::Inbound).len(), lab.relay.of(Direction::Outbound).len()), (1, 1));
    drop((open, direct));
    // What it was before it was ever in the mesh is not forgotten over this.
    kernel.unenrol("test/a", 0).unwrap();
    assert_eq!(String::from_utf8(state()), String::from_utf8(before));
}
