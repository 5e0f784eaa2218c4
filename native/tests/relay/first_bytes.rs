//! What arrives at a pod is judged by its first bytes (rule DP-8): tunnels, plain clients, silent ones.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fairlead::config::Config;
use serde_json::{Value, json};

use crate::life::echo;
use crate::mesh::{Mesh, allow, config};
use crate::node::{AT_ONCE, app, reason};

fn mesh(address: std::net::SocketAddr, peer: Value) -> Mesh {
    mesh_with(config(|_| {}), address, peer)
}

fn mesh_with(two: Config, address: std::net::SocketAddr, peer: Value) -> Mesh {
    Mesh::with(address, config(|_| {}), two, move |q| if q["ask"] == "peer" { Some(peer.clone()) } else { allow(q) })
}

fn dial(mesh: &Mesh) -> TcpStream {
    crate::node::dial(mesh.server.inbound())
}

fn greeting(mut stream: TcpStream) {
    let _ = stream.write_all(b"220 ready\r\n");
    echo(stream);
}

#[test]
#[doc = "[DP-8] [INT-7] a server-first protocol of an unknown source is not kept waiting, and named so"]
fn server_first_at_once() {
    let mesh = mesh(app(greeting), json!({"speaker": false, "mode": "permissive", "waitMs": 0}));
    let started = Instant::now();
    let mut stream = dial(&mesh);
    let mut got = [0; 11];
    stream.read_exact(&mut got).unwrap();
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut got[..5]).unwrap();
    drop(stream);
    let record = mesh.two.records(1)[0];
    assert_eq!((reason(&record), record[2], record[3]), (0, 3, 5));
}

#[test]
#[doc = "[DP-8] PERMISSIVE: a known tunnel speaker that stays silent is waited for, then goes plain"]
fn permissive_waits_a_little() {
    let mesh = mesh(app(greeting), json!({"speaker": true, "mode": "permissive", "waitMs": 100}));
    let started = Instant::now();
    let mut stream = dial(&mesh);
    stream.read_exact(&mut [0; 11]).unwrap();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(90) && waited < AT_ONCE, "{waited:?}");
}

#[test]
#[doc = "[DP-8] STRICT: a known tunnel speaker that stays silent is refused after the handshake timeout"]
fn strict_refuses_silence() {
    let peer = json!({"speaker": true, "mode": "strict", "waitMs": 400});
    let mesh = mesh_with(config(|c| c.handshake_timeout_ms = 400), app(greeting), peer);
    let mut stream = dial(&mesh);
    assert_eq!(stream.read(&mut [0; 11]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(reason(&mesh.two.records(1)[0]), 16);
}

#[test]
#[doc = "[DP-8] a tunnel hello after the connection went plain is a counted reset, never forwarded; in pieces too"]
fn late_hello() {
    for piece in [1_000, 7] {
        let mesh = mesh(app(greeting), json!({"speaker": false, "mode": "permissive", "waitMs": 0}));
        let mut stream = dial(&mesh);
        stream.read_exact(&mut [0; 11]).unwrap();
        let hello = hello();
        let sent = hello.chunks(piece).try_for_each(|chunk| {
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(chunk)
        });
        // A reset is told once, to the write or to the read that comes first.
        let end = sent.and_then(|()| stream.read(&mut [0; 11]));
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let record = mesh.two.records(1)[0];
        assert_eq!((reason(&record), crate::node::number(&record, 48)), (17, 0), "no byte of it reached the application");
        assert_eq!(mesh.two.counter("late_tunnel_hello"), 1);
    }
}

#[test]
#[doc = "[DP-8] [DP-9] who was late is waited for when it dials again, as long as for a handshake"]
fn late_hello_is_waited_for_the_next_time() {
    let mesh = mesh(app(greeting), json!({"speaker": true, "mode": "permissive", "waitMs": 20}));
    let mut late = dial(&mesh);
    late.read_exact(&mut [0; 11]).unwrap();
    let _ = late.write_all(&hello());
    assert_eq!(reason(&mesh.two.records(1)[0]), 17);
    let mut again = dial(&mesh);
    again.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(again.read(&mut [0; 11]).unwrap_err().kind(), ErrorKind::WouldBlock, "it must not be taken for a plain client");
    again.write_all(&hello()).unwrap();
    again.set_read_timeout(Some(crate::node::PATIENCE)).unwrap();
    let answered = again.read(&mut [0; 1]);
    assert!(matches!(answered, Ok(1)), "the handshake is answered: {answered:?}");
}

/// A ClientHello that offers fairlead/1, as small as the format allows.
fn hello() -> Vec<u8> {
    let alpn = [&[0, 16, 0, 13, 0, 11, 10][..], b"fairlead/1"].concat();
    let body = [&[3, 3][..], &[5; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, alpn.len() as u8], &alpn].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
#[doc = "[DP-8] a tunnel from a source that nobody knows as a speaker is still a tunnel; its hello may come late"]
fn hint_is_no_proof() {
    let mesh = mesh(app(echo), json!({"speaker": false, "mode": "permissive", "waitMs": 30_000}));
    let mut stream = crate::node::dial(mesh.client.outbound());
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    drop(stream);
    assert_eq!(mesh.two.records(1)[0][2], 1);
}

#[test]
#[doc = "[INT-7] protocols of plain connections are named in the record; no byte is lost by looking"]
fn protocols_are_named() {
    let mesh = mesh(app(echo), json!({"speaker": false, "mode": "permissive", "waitMs": 30_000}));
    let samples: [(&[u8], u8); 3] = [(b"GET / HTTP/1.1\r\n\r\n", 2), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3), (b"*1\r\n$4\r\nPING\r\n", 4)];
    for (i, (bytes, protocol)) in samples.into_iter().enumerate() {
        let mut stream = dial(&mesh);
        stream.write_all(bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
        drop(stream);
        assert_eq!(mesh.two.records(i + 1)[i][3], protocol);
    }
}
