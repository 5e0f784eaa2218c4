//! Tunnels and connections over time: renewal under load, retirement, drain, resets, hand-over, slow readers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::mesh::{CLIENT, Mesh, SERVER, allow, config};
use crate::node::{AT_ONCE, app, closed, dial, number, reason, wait_for};
use crate::transfer::{exchange, serve};

pub fn echo(mut stream: TcpStream) {
    let mut room = [0; 16_384];
    while let Ok(n) = stream.read(&mut room) {
        if n == 0 || stream.write_all(&room[..n]).is_err() {
            return;
        }
    }
}

pub fn connect(mesh: &Mesh) -> TcpStream {
    dial(mesh.client.outbound())
}

pub fn round_trip(mut stream: &TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

pub fn is_reset(mut stream: &TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 4_096]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn tunnels(mesh: &Mesh) -> Vec<serde_json::Value> {
    mesh.one.call("tunnels.list", json!({}))["tunnels"].as_array().unwrap().clone()
}

#[test]
#[doc = "[IDN-5] [DP-15] SVIDs of both sides renewed many times under load: nothing drops, long streams go on, new streams use the new SVID"]
fn renewal_under_load() {
    let mesh = Arc::new(Mesh::new(app(serve)));
    let long = TcpStream::connect(mesh.client.outbound()).unwrap();
    // Order 2 with nothing to send back: an idle stream that proves itself at the end.
    (&long).write_all(&[&7u64.to_le_bytes()[..], &100u64.to_le_bytes(), &[2]].concat()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..3u64)
        .map(|t| {
            let (stop, done, to) = (stop.clone(), done.clone(), mesh.client.outbound());
            thread::spawn(move || {
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    i += 1;
                    exchange(to, t << 32 | i, 3_000, 5_000, (i % 3) as u8);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // More exchanges than there are threads: one of them at least began after the renewal.
    let go_on = || {
        let before = done.load(Ordering::Relaxed);
        wait_for(|| (done.load(Ordering::Relaxed) > before + 3).then_some(()));
    };
    for generation in 2..22 {
        mesh.one.svid(CLIENT, &mesh.ca.svid(CLIENT), generation);
        go_on();
        mesh.two.svid(SERVER, &mesh.ca.svid(SERVER), generation);
        go_on();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in load {
        thread.join().unwrap();
    }
    let count = done.load(Ordering::Relaxed);
    let records = mesh.one.records(count);
    assert!(records.iter().all(|r| reason(r) == 0));
    assert!(mesh.one.counter("tunnels_made") >= 20, "renewal made no new tunnels");
    let mut rest = Vec::new();
    (&long).write_all(b"still here").unwrap();
    long.shutdown(Shutdown::Write).unwrap();
    (&long).read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 100);
}

#[test]
#[doc = "[DP-15] idle tunnels end after their time, old ones take no new stream"]
fn idle_and_age() {
    let mesh = Mesh::with(app(echo), config(|c| (c.workers, c.tunnel_idle_ms) = (1, 300)), config(|_| {}), allow);
    let stream = connect(&mesh);
    round_trip(&stream, b"once");
    assert_eq!(tunnels(&mesh).len(), 1);
    drop(stream);
    wait_for(|| tunnels(&mesh).is_empty().then_some(()));
    let aged = Mesh::with(app(echo), config(|c| (c.workers, c.tunnel_max_age_ms, c.tunnel_max_age_jitter_ms) = (1, 200, 0)), config(|_| {}), allow);
    let held = connect(&aged);
    round_trip(&held, b"before");
    thread::sleep(Duration::from_millis(300));
    round_trip(&held, b"an open stream outlives the age");
    drop(held);
    aged.one.records(1);
    round_trip(&connect(&aged), b"after");
    assert_eq!(aged.one.counter("tunnels_made"), 2);
}

#[test]
#[doc = "[DP-14] one connection after the other uses one tunnel; streams open together use one each"]
fn reuse() {
    let mesh = Mesh::with(app(echo), config(|c| c.workers = 1), config(|c| c.workers = 1), allow);
    for i in 0..50 {
        let stream = connect(&mesh);
        round_trip(&stream, b"hello");
        drop(stream);
        // The tunnel is free once both ends are acknowledged.
        wait_for(|| (mesh.one.seen.lock().unwrap().records.len() > i).then_some(()));
        wait_for(|| tunnels(&mesh).iter().all(|t| t["idle"] == true).then_some(()));
    }
    assert_eq!(mesh.one.counter("tunnels_made"), 1);
    let streams: Vec<_> = (0..5).map(|_| connect(&mesh)).collect();
    streams.iter().for_each(|s| round_trip(s, b"together"));
    assert_eq!(tunnels(&mesh).len(), 5);
    // One question per key, whatever the number of connections.
    assert_eq!(mesh.one.seen.lock().unwrap().questions.len(), 1);
}

#[test]
#[doc = "[DP-14] an application's RST arrives as RST on the other side, in both directions"]
fn resets_arrive_as_resets() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let mesh = Mesh::new(app(move |mut stream| {
        let mut first = [0; 1];
        if stream.read_exact(&mut first).is_err() {
            return;
        }
        if first[0] == b'r' {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        } else if is_reset(&stream) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let server_resets = connect(&mesh);
    (&server_resets).write_all(b"r").unwrap();
    assert!(is_reset(&server_resets));
    let client_resets = connect(&mesh);
    (&client_resets).write_all(b"x").unwrap();
    wait_for(|| (mesh.two.call("connections.list", json!({}))["connections"].as_array()?.len() == 1).then_some(()));
    rustix::net::sockopt::set_socket_linger(&client_resets, Some(Duration::ZERO)).unwrap();
    drop(client_resets);
    wait_for(|| (seen.load(Ordering::Relaxed) == 1).then_some(()));
    let reasons: Vec<_> = mesh.one.records(2).iter().map(reason).collect();
    assert_eq!(reasons, [2, 1]);
}

#[test]
#[doc = "[DP-31] an upstream that refuses: the client, whose connect succeeded, gets RST at once"]
fn refused_upstream_is_an_immediate_reset() {
    let mesh = Mesh::new(closed());
    let started = Instant::now();
    assert!(is_reset(&connect(&mesh)));
    assert!(started.elapsed() < AT_ONCE);
    assert_eq!(reason(&mesh.one.records(1)[0]), 20);
    assert_eq!(reason(&mesh.two.records(1)[0]), 20);
}

#[test]
#[doc = "[DP-14] a slow reader holds back the sender and memory stays bounded; nothing is lost when it reads on"]
fn slow_reader() {
    let mesh = Mesh::new(app(|mut stream| {
        let _ = stream.write_all(&vec![7; 64 << 20]);
    }));
    let stream = connect(&mesh);
    let taken = || mesh.one.call("connections.list", json!({}))["connections"][0]["received"].as_u64().unwrap_or(0);
    // Until it stands still.
    let received = wait_for(|| {
        let before = taken();
        thread::sleep(Duration::from_millis(300));
        Some(before).filter(|n| *n > 0 && *n == taken())
    });
    assert!(received < 20 << 20, "{received} bytes taken for a client that does not read");
    let mut all = Vec::new();
    (&stream).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 64 << 20);
}

#[test]
#[doc = "[DP-15] [SEC-2] a verdict that changes reaches open connections by connections.reset, and new ones by the generation; the refusal's policy is named on both sides"]
fn reset_and_generation() {
    let denied = Arc::new(AtomicBool::new(false));
    let deny = denied.clone();
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), move |q| {
        if q["ask"] == "inbound" && deny.load(Ordering::Relaxed) {
            return Some(json!({"verdictId": 11, "generation": 5, "action": "refuse", "reason": "policy_denied", "policy": "shop/deny-all"}));
        }
        allow(q)
    });
    let open = connect(&mesh);
    round_trip(&open, b"allowed");
    denied.store(true, Ordering::Relaxed);
    mesh.two.call("generation.set", json!({"generation": 5}));
    let list = mesh.two.call("connections.list", json!({}));
    let id = list["connections"][0]["id"].as_u64().unwrap();
    assert_eq!(list["connections"][0]["identity"], CLIENT);
    assert_eq!(mesh.two.call("connections.reset", json!({"ids": [id], "reason": "policy_denied"}))["count"], 1);
    assert!(is_reset(&open));
    assert!(is_reset(&connect(&mesh)));
    let event = mesh.one.event("refused");
    assert_eq!((&event["policy"], &event["reason"]), (&json!("shop/deny-all"), &json!("policy_denied")));
    // The name's number is in the record of this side too.
    assert_eq!(mesh.one.event("policy"), json!({"event": "policy", "number": 1, "name": "shop/deny-all"}));
    wait_for(|| mesh.one.seen.lock().unwrap().records.iter().any(|r| reason(r) == 10 && number(r, 120) == 1).then_some(()));
}

#[test]
#[doc = "[DP-19] drain: open connections finish, new ones are not taken, the end is told"]
fn drain() {
    let mesh = Mesh::new(app(echo));
    let open = connect(&mesh);
    round_trip(&open, b"before");
    mesh.two.call("drain", json!({"deadlineMs": 60_000}));
    mesh.one.call("drain", json!({"deadlineMs": 60_000}));
    // Listeners are served for one second more.
    thread::sleep(Duration::from_millis(1_300));
    wait_for(|| TcpStream::connect(mesh.client.outbound()).is_err().then_some(()));
    round_trip(&open, b"during");
    drop(open);
    mesh.one.event("drained");
    mesh.two.event("drained");
    assert!(mesh.one.records(1).iter().all(|r| reason(r) == 0));
}

#[test]
#[doc = "a drain that is over resets what is left and says so"]
fn drain_deadline() {
    let mesh = Mesh::new(app(echo));
    let open = connect(&mesh);
    round_trip(&open, b"before");
    mesh.one.call("drain", json!({"deadlineMs": 1_200}));
    assert!(is_reset(&open));
    mesh.one.event("drained");
    assert_eq!(reason(&mesh.one.records(1)[0]), 60);
}

#[test]
#[doc = "[DP-21] a pod that is gone: every connection of it ends within a second"]
fn pod_gone() {
    use fairlead::seam::PodRegistry;
    let mesh = Mesh::new(app(echo));
    let open: Vec<_> = (0..20).map(|_| connect(&mesh)).collect();
    open.iter().for_each(|s| round_trip(s, b"here"));
    let started = Instant::now();
    mesh.two.pods.unenrolled("shop/server", 0);
    assert!(open.iter().all(is_reset));
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
#[doc = "the accepted socket of a connection goes to a data thread, its bytes unread"]
fn hand_over() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), |q| match q["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 3, "generation": 0, "action": "handover", "thread": 1})),
        _ => allow(q),
    });
    let fd = mesh.two.call("handover.attach", json!({"thread": 1}))["fd"].as_i64().unwrap() as i32;
    // SAFETY: the descriptor was made for the data thread, which this test plays.
    let mut lane = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    lane.set_nonblocking(false).unwrap();
    let mut next = move || {
        let mut head = [0; 5];
        lane.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_le_bytes(head[..4].try_into().unwrap()) as usize - 1];
        lane.read_exact(&mut body).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let handed = event["fd"].as_i64().unwrap() as i32;
        // SAFETY: as above, for the socket that the event hands over.
        (event, unsafe { OwnedFd::from_raw_fd(handed) })
    };
    // Through the tunnel: a plain stream and the identity of the client.
    let stream = connect(&mesh);
    (&stream).write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let (event, socket) = next();
    assert_eq!((&event["identity"], &event["direction"]), (&json!(CLIENT), &json!("inbound")));
    let mut socket = UnixStream::from(socket);
    socket.set_nonblocking(false).unwrap();
    let mut got = [0; 16];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET / HTTP/1.1\r\n");
    socket.write_all(b"HTTP/1.1 200\r\n").unwrap();
    let mut back = [0; 14];
    (&stream).read_exact(&mut back).unwrap();
    drop(socket);
    assert_eq!((&stream).read(&mut back).unwrap(), 0);
    // Plain: the very socket.
    let plain = TcpStream::connect(mesh.server.inbound()).unwrap();
    (&plain).write_all(b"GET /plain").unwrap();
    let (event, socket) = next();
    assert_eq!(event["identity"], json!(null));
    let mut socket = TcpStream::from(socket);
    socket.set_nonblocking(false).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), plain.local_addr().unwrap());
    let mut got = [0; 10];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET /plain");
}

#[test]
#[doc = "without its data thread a connection under L7 rules is refused, not passed"]
fn hand_over_without_a_thread() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), |q| match q["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 3, "generation": 0, "action": "handover", "thread": 1})),
        _ => allow(q),
    });
    assert!(is_reset(&connect(&mesh)));
    let record = mesh.two.records(1)[0];
    assert_eq!((reason(&record), number(&record, 48)), (19, 0));
}
