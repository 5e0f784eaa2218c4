//! A limit of connections to a service, whichever worker has them: refused at once beyond it, or waiting their turn.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dialled::dialling_to;
use crate::lane::Lane;
use crate::life::{connect, echo, is_reset, round_trip};
use crate::mesh::{Mesh, allow, config, forward_to};
use crate::node::{AT_ONCE, app, number, reason};

const CONNECTION_LIMIT: u16 = 26;

fn limited(mode: &'static str, limits: Value) -> impl Fn(SocketAddr) -> Value {
    move |to| {
        let mut plan = forward_to(to, mode);
        plan["limits"] = json!({"key": "shop>shop/server:80", "policy": "shop/few"});
        plan["limits"].as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        plan
    }
}

fn mesh(mode: &'static str, limits: Value) -> Mesh {
    Mesh::planned(app(echo), config(|c| c.workers = 4), config(|_| {}), limited(mode, limits), allow)
}

#[test]
#[doc = "[TRF-6] the connection beyond the limit is refused at once with its reason and policy, and let in again once one has ended"]
fn refused_beyond() {
    for mode in ["fairlead/1", "plain"] {
        let mesh = mesh(mode, json!({"maxConnections": 3}));
        let mut open: Vec<TcpStream> = (0..3).map(|_| connect(&mesh)).collect();
        open.iter().for_each(|stream| round_trip(stream, b"in"));
        for refused in 1..=5_usize {
            let begun = Instant::now();
            assert!(is_reset(&connect(&mesh)), "{mode}");
            assert!(begun.elapsed() < AT_ONCE);
            let records = mesh.one.records(refused);
            let last = &records[refused - 1];
            assert_eq!((reason(last), number(last, 120) as u32), (CONNECTION_LIMIT, 1), "{mode}");
        }
        assert_eq!(mesh.one.counter("connection_limit"), 5);
        assert_eq!(mesh.one.event("policy")["name"], "shop/few");
        // Its record tells that it has ended; its place is free by then.
        drop(open.pop());
        mesh.one.records(6);
        round_trip(&connect(&mesh), b"again");
    }
}

#[test]
#[doc = "[TRF-6] so many as the policy says wait for a place, and have it in the order in which they came"]
fn waits_its_turn() {
    let mesh = mesh("fairlead/1", json!({"maxConnections": 1, "maxPending": 2}));
    let first = connect(&mesh);
    round_trip(&first, b"in");
    let waiting: Vec<TcpStream> = (1..=2_u64)
        .map(|n| {
            let mut stream = connect(&mesh);
            stream.write_all(b"early").unwrap();
            crate::node::wait_for(|| (mesh.one.counter("connections_queued") == n).then_some(()));
            stream
        })
        .collect();
    assert!(is_reset(&connect(&mesh)));
    let mut before = first;
    for mut next in waiting {
        before.shutdown(std::net::Shutdown::Both).unwrap();
        drop(before);
        let mut said = [0; 5];
        next.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"early");
        before = next;
    }
    assert!(mesh.one.records(3).iter().any(|r| reason(r) == CONNECTION_LIMIT));
}

#[test]
#[doc = "[TRF-6] one that waits in vain is refused after the connect timeout, and one that leaves makes room for another"]
fn waits_in_vain() {
    let mesh = mesh("plain", json!({"maxConnections": 1, "maxPending": 1, "connectTimeoutMs": 300}));
    let first = connect(&mesh);
    round_trip(&first, b"in");
    let begun = Instant::now();
    assert!(is_reset(&connect(&mesh)));
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!(mesh.one.counter("connections_queued"), 1);
    assert_eq!(reason(&mesh.one.records(1)[0]), CONNECTION_LIMIT);
    drop(first);
    mesh.one.records(2);
    round_trip(&connect(&mesh), b"again");
}

#[test]
#[doc = "[RES-6] a connection to a server that does not answer ends with the policy's connect timeout"]
fn connect_timeout() {
    // It shakes no hands.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = mute.local_addr().unwrap();
    let plan = move |_| limited("fairlead/1", json!({"connectTimeoutMs": 300}))(silent);
    let mesh = Mesh::planned(app(echo), config(|c| c.workers = 1), config(|_| {}), plan, allow);
    let begun = Instant::now();
    assert!(is_reset(&connect(&mesh)));
    assert!(begun.elapsed() >= Duration::from_millis(250) && begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(reason(&mesh.one.records(1)[0]), 21);
}

#[test]
#[doc = "[TRF-6] [DP-25] connections that a data thread carries on have places too, whether it has their very socket or a stream's end, until they have ended"]
fn carried_by_a_thread() {
    let direct = app(echo);
    for mode in ["plain", "fairlead/1"] {
        let (mesh, lane, mut params) = dialling_to(app(echo), allow);
        if mode == "plain" {
            params["endpoint"] = json!({"ip": direct.ip(), "port": direct.port(), "mode": mode});
        }
        params["limits"] = json!({"key": "shop>shop/server:80", "maxConnections": 1, "policy": "shop/few"});
        let (facts, held) = lane.dial(&params).unwrap();
        let refused = lane.dial(&params).unwrap_err();
        assert_eq!((refused["code"].as_str(), refused["policy"].as_str()), (Some("connection_limit"), Some("shop/few")), "{mode}");
        assert_eq!(mesh.one.counter("connection_limit"), 1);
        drop(held);
        if mode == "plain" {
            // Native does not see the end of a socket that it gave away.
            assert_eq!(lane.dial(&params).unwrap_err()["code"], "connection_limit");
            lane.call("release", &json!({"id": facts["id"]}));
        } else {
            mesh.one.records(1);
        }
        let _next = lane.dial(&params).unwrap();
        // A thread that is gone holds nothing.
        lane.die();
        crate::node::wait_for(|| (mesh.one.counter("data_threads_gone") == 1).then_some(()));
        let after = Lane::attach(&mesh.one, 0);
        crate::node::wait_for(|| after.dial(&params).ok());
    }
}

#[test]
#[doc = "[TRF-6] what a data thread dials waits its turn where some may wait"]
fn carried_waits_its_turn() {
    let (mesh, lane, mut params) = dialling_to(app(echo), allow);
    params["limits"] = json!({"key": "shop>shop/server:80", "maxConnections": 1, "maxPending": 1, "policy": "shop/few"});
    let (_, held) = lane.dial(&params).unwrap();
    let (next, order) = (lane.clone(), params.clone());
    let waiting = std::thread::spawn(move || next.dial(&order).unwrap());
    crate::node::wait_for(|| (mesh.one.counter("connections_queued") == 1).then_some(()));
    assert_eq!(lane.dial(&params).unwrap_err()["code"], "connection_limit");
    drop(held);
    waiting.join().unwrap();
}
