//! Threads that die or hang of a bug: what they carried is reset and recorded, another takes their place, the agent is told.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::life::{connect, echo, is_reset, round_trip};
use crate::mesh::{Mesh, allow, config};
use crate::node::{Node, Trap, app, dial, number, reason, wait_for};

const WORKER_DIED: u16 = 65;

fn deaths(node: &Node) -> Vec<Value> {
    node.seen.lock().unwrap().events.iter().filter(|e| e["event"] == "worker_died").cloned().collect()
}

fn one_worker() -> Mesh {
    let small = || config(|c| (c.workers, c.heartbeat_dead_ms) = (1, 1_000));
    Mesh::with(app(echo), small(), small(), allow)
}

fn trap(mesh: &Mesh, trap: Option<Trap>) {
    *mesh.server.trap.lock().unwrap() = trap;
}

#[test]
#[doc = "[INT-14] a worker that panics resets what it carried, is told of, and another serves in its place"]
fn another_takes_its_place() {
    let mesh = one_worker();
    let held = connect(&mesh);
    round_trip(&held, b"carried by the one that dies");
    trap(&mesh, Some(Trap::Panic));
    let fatal = connect(&mesh);
    assert!(is_reset(&held), "never a FIN that was not one");
    assert!(is_reset(&fatal));
    trap(&mesh, None);
    let event = mesh.two.event("worker_died");
    assert_eq!((&event["worker"], &event["message"], &event["restarted"]), (&json!(0), &json!("a bug on demand"), &json!(true)));
    let records = wait_for(|| Some(mesh.two.seen.lock().unwrap().records.clone()).filter(|r| r.len() >= 2));
    assert!(records.iter().all(|r| reason(r) == WORKER_DIED), "{records:?}");
    assert_eq!(mesh.two.counter("worker_died"), 1);
    for _ in 0..20 {
        round_trip(&connect(&mesh), b"carried by its successor");
    }
}

#[test]
#[doc = "[INT-14] [DP-19] a worker that dies during a drain does not keep the agent from ending"]
fn death_while_draining() {
    let mesh = one_worker();
    let held = connect(&mesh);
    round_trip(&held, b"open");
    // There before the drain, so that no listener is missed; a tunnel would be sent to the successor.
    let mut plain = dial(mesh.server.inbound());
    wait_for(|| (mesh.two.call("connections.list", json!({}))["connections"].as_array()?.len() == 2).then_some(()));
    mesh.two.call("drain", json!({"deadlineMs": 60_000}));
    trap(&mesh, Some(Trap::Panic));
    plain.write_all(b"plain").unwrap();
    assert!(is_reset(&plain));
    assert!(is_reset(&held));
    trap(&mesh, None);
    mesh.two.event("drained");
}

#[test]
#[doc = "[INT-14] a worker that dies again and again is given up, and the agent is told so"]
fn given_up() {
    let mesh = one_worker();
    trap(&mesh, Some(Trap::Panic));
    wait_for(|| {
        let stream = TcpStream::connect(mesh.client.outbound()).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
        let _ = is_reset(&stream);
        deaths(&mesh.two).iter().any(|e| e["restarted"] == false).then_some(())
    });
    assert_eq!(deaths(&mesh.two).len(), 5);
}

#[test]
#[doc = "[INT-14] a worker that hangs is named by the heartbeat, which is then withheld, and given again once it goes on"]
fn hung() {
    let mesh = one_worker();
    wait_for(|| mesh.two.ask("heartbeat", json!({})).get("ok").cloned());
    trap(&mesh, Some(Trap::Hang(Duration::from_secs(5))));
    let slow = connect(&mesh);
    let fault = wait_for(|| mesh.two.ask("heartbeat", json!({})).get("error").cloned());
    assert_eq!(fault["code"], "worker_hung");
    assert_eq!(fault["message"], "worker 0 has not turned its loop for 1000 ms");
    trap(&mesh, None);
    round_trip(&slow, b"late, and still there");
    wait_for(|| mesh.two.ask("heartbeat", json!({})).get("ok").cloned());
}

#[test]
#[doc = "[OBS-1] openings are told when they happen, with what their series is known by; a refusal is none"]
fn openings_are_told() {
    let mesh = Arc::new(Mesh::new(app(echo)));
    let held: Vec<_> = (0..10).map(|_| connect(&mesh)).collect();
    held.iter().for_each(|s| round_trip(s, b"open"));
    for (node, inbound) in [(&mesh.one, 0), (&mesh.two, 1)] {
        let count = |rows: &[[u8; 128]]| rows.iter().map(|r| number(r, 48)).sum::<u64>();
        let rows = wait_for(|| Some(node.seen.lock().unwrap().opened.clone()).filter(|r| count(r) >= 10));
        assert_eq!(count(&rows), 10);
        assert!(rows.iter().all(|r| r[..3] == [2, inbound, 1]), "{rows:?}");
        assert!(node.seen.lock().unwrap().records.is_empty(), "none has ended");
    }
    drop(held);
    assert!(mesh.one.records(10).iter().all(|r| r[7] & 8 != 0), "their ends do not count as openings");
}
