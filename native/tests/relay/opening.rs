//! How a stream on a warm tunnel opens and ends: ACCEPT waits for an answer that is likely, never for a silent application, and
//! the client's bytes do not wait for ACCEPT.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::mesh::{Mesh, allow, config};
use crate::node::{app, dial, number, reason, wait_for};

/// One worker on each side: the second connection finds the tunnel of the first.
fn warm(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Mesh {
    let mesh = Mesh::with(app(serve), config(|c| c.workers = 1), config(|c| c.workers = 1), allow);
    let mut stream = connect(&mesh);
    stream.write_all(b"warm").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    drop(stream);
    let idle = || mesh.one.call("tunnels.list", serde_json::json!({}))["tunnels"][0]["idle"] == true;
    wait_for(|| idle().then_some(()));
    mesh
}

fn connect(mesh: &Mesh) -> TcpStream {
    let stream = dial(mesh.client.outbound());
    stream.set_nodelay(true).unwrap();
    stream
}

#[test]
#[doc = "[DP-14] an application that stays silent holds up neither ACCEPT nor what the client sends next"]
fn a_silent_application() {
    // Answers only when all has come: 4 bytes and the end, or 200,004.
    let mesh = warm(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&(all.len() as u64).to_le_bytes()).unwrap();
    });
    let started = Instant::now();
    let mut stream = connect(&mesh);
    stream.write_all(b"head").unwrap();
    let open = || mesh.one.call("connections.list", serde_json::json!({}))["connections"][0]["lane"] == "tunnel";
    wait_for(|| open().then_some(()));
    // ACCEPT came though nothing was answered yet: the second opening, after the warm one's.
    let openings = || mesh.one.seen.lock().unwrap().opened.iter().map(|r| number(r, 48)).sum::<u64>();
    wait_for(|| (openings() == 2).then_some(()));
    for _ in 0..200 {
        stream.write_all(&[7; 1_000]).unwrap();
    }
    let silent = started.elapsed();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    stream.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_le_bytes(count), 200_004);
    let records = mesh.one.records(2);
    let ready_us = u32::from_le_bytes(records[1][44..48].try_into().unwrap());
    assert!(records[1][7] & 2 != 0, "the tunnel was not reused");
    assert!((1..silent.as_micros() as u32).contains(&ready_us), "ready after {ready_us} us, answered after {silent:?}");
}

#[test]
#[doc = "[DP-14] small pieces sent before the server says anything arrive whole, whichever of them ride before ACCEPT"]
fn pieces_before_accept() {
    let mesh = warm(|mut stream| {
        let mut room = [0; 65_536];
        let mut total = 0;
        while let Ok(n) = stream.read(&mut room) {
            total += n;
            if n == 0 || total == 40 * 1_000 + 1 {
                stream.write_all(&(total as u64).to_le_bytes()).unwrap();
                return;
            }
        }
    });
    for _ in 0..20 {
        let mut stream = connect(&mesh);
        stream.write_all(b"x").unwrap();
        for _ in 0..40 {
            stream.write_all(&[9; 1_000]).unwrap();
            thread::sleep(Duration::from_micros(50));
        }
        let mut count = [0; 8];
        stream.read_exact(&mut count).unwrap();
        assert_eq!(u64::from_le_bytes(count), 40_001);
        assert_eq!(stream.read(&mut count).unwrap(), 0);
    }
    let records = mesh.one.records(21);
    assert!(records.iter().all(|r| reason(r) == 0));
}

#[test]
#[doc = "[DP-14] a client that keeps its half open after the server's end can go on sending, and the tunnel is free afterwards"]
fn one_half_stays_open() {
    let mesh = warm(|mut stream| {
        let mut byte = [0; 4];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"done").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stream = connect(&mesh);
    stream.write_all(b"head").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"done");
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(5));
        stream.write_all(&[1; 3_000]).unwrap();
    }
    drop(stream);
    let records = mesh.two.records(2);
    assert_eq!((reason(&records[1]), u64::from_le_bytes(records[1][48..56].try_into().unwrap())), (0, 30_004));
    let idle = || mesh.one.call("tunnels.list", serde_json::json!({}))["tunnels"][0]["idle"] == true;
    wait_for(|| idle().then_some(()));
}
