//! Many connections of one pair at once: few handshakes, the others wait for a freed tunnel or their turn.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::life::{connect, echo};
use crate::mesh::{Mesh, SERVER, allow, config, forward_to};
use crate::node::{app, ask, reason};

#[test]
#[doc = "[DP-15] a burst of short connections waits for freed tunnels: each is served, with fewer handshakes than connections"]
fn a_burst_shares() {
    let one = config(|c| (c.workers, c.max_handshakes_per_pair) = (1, 2));
    let mesh = Mesh::with(app(echo), one, config(|c| c.workers = 1), allow);
    // All of them at once, however long the machine takes to start so many threads.
    let (to, begin) = (mesh.client.outbound(), &Barrier::new(200));
    thread::scope(|scope| {
        for i in 0..200_u32 {
            scope.spawn(move || {
                begin.wait();
                assert_eq!(ask(to, &i.to_le_bytes()), i.to_le_bytes());
            });
        }
    });
    let records = mesh.one.records(200);
    assert!(records.iter().all(|r| reason(r) == 0));
    let (made, waited) = (mesh.one.counter("tunnels_made"), mesh.one.counter("tunnel_waits"));
    assert!(made < 150 && waited > 0, "{made} handshakes, {waited} waited");
}

#[test]
#[doc = "[DP-15] connections that stay open each get a tunnel, however few handshakes may run at once"]
fn long_ones_each_get_one() {
    let one = config(|c| (c.workers, c.max_handshakes_per_pair) = (1, 1));
    let mesh = Mesh::with(app(echo), one, config(|c| c.workers = 1), allow);
    let mut all: Vec<TcpStream> = (0..60).map(|_| connect(&mesh)).collect();
    for (i, stream) in all.iter_mut().enumerate() {
        stream.write_all(&[i as u8]).unwrap();
    }
    for (i, stream) in all.iter_mut().enumerate() {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], i as u8);
    }
    assert_eq!(mesh.one.counter("tunnels_made"), 60);
}

#[test]
#[doc = "[DP-31] behind an endpoint that shakes no hands nobody waits longer than for a connect; the next endpoint carries it"]
fn a_mute_endpoint_holds_nobody_up() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = mute.local_addr().unwrap();
    let one = config(|c| (c.workers, c.max_handshakes_per_pair, c.connect_timeout_ms, c.handshake_timeout_ms) = (1, 1, 2_000, 2_000));
    let plan = move |to: std::net::SocketAddr| {
        let mut plan = forward_to(silent, "fairlead/1");
        let next = json!({"ip": to.ip(), "port": to.port(), "mode": "fairlead/1", "identities": [SERVER], "weight": 0});
        plan["endpoints"].as_array_mut().unwrap().push(next);
        plan
    };
    let mesh = Mesh::planned(app(echo), one, config(|c| c.workers = 1), plan, allow);
    let started = std::time::Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask(mesh.client.outbound(), b"ping"), b"ping"));
        }
    });
    // One after the other would be 16 s.
    assert!(started.elapsed() < Duration::from_secs(14), "{:?}", started.elapsed());
    assert!(mesh.one.records(8).iter().all(|r| reason(r) == 0));
}

#[test]
#[doc = "[DP-31] a client that leaves while it waits is forgotten, and the others get their turn"]
fn leaves_while_waiting() {
    let one = config(|c| (c.workers, c.max_handshakes_per_pair) = (1, 1));
    let mesh = Mesh::with(app(echo), one, config(|c| c.workers = 1), allow);
    for _ in 0..10 {
        let gone: Vec<TcpStream> = (0..10).map(|_| connect(&mesh)).collect();
        drop(gone);
        assert_eq!(ask(mesh.client.outbound(), b"still"), b"still");
    }
}
