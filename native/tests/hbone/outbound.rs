//! Node's http2 as server for ours.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use fairlead::hbone::Settings;
use fairlead::reason::Reason;
use fairlead::record::{Closer, FLAG_RETRIED, FLAG_REUSED, Lane};
use serde_json::json;

use crate::kit::*;
use crate::peer::Peer;

/// Sends, half-closes, reads to the end.
fn exchange(port: u16, data: &[u8]) -> Vec<u8> {
    let mut socket = connect(port);
    let mut writer = socket.try_clone().unwrap();
    let owned = data.to_vec();
    let sender = std::thread::spawn(move || {
        writer.write_all(&owned).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    got
}

/// [IDN-4] [INT-9] HBONE outbound: bytes both ways, half close, CONNECT without scheme and path, both identities shown.
#[test]
fn one_stream() {
    let mesh = Mesh::new();
    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let port = mesh.listen_outbound(vec![(server, SERVER)]);
    let data = pattern(1, 3 << 20);
    assert!(exchange(port, &data) == data);
    let stream = peer.wait("stream");
    assert_eq!((stream["method"].as_str(), stream["authority"].as_str()), (Some("CONNECT"), Some("10.1.2.3:80")));
    assert!(stream["path"].is_null() && stream["scheme"].is_null());
    assert!(stream["client"].as_str().unwrap().contains(CLIENT));
    let record = &mesh.records(1)[0];
    assert_eq!((record.lane, record.reason, record.closer), (Lane::Hbone, Reason::Finished, Closer::Client));
    assert_eq!((record.sent, record.received, record.plan, record.endpoint), (3 << 20, 3 << 20, 3, 0));
    assert_eq!(record.upstream, Some(local(server)));
}

/// [INT-9] HBONE outbound: many streams at once share few connections, within what the server allows, and none is mixed up.
#[test]
fn many_streams_share_connections() {
    let mesh = Mesh::new();
    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo", "maxStreams": 10}));
    let port = mesh.listen_outbound(vec![(server, SERVER)]);
    let sockets: Vec<TcpStream> = (0..45).map(|_| connect(port)).collect();
    for (i, mut socket) in sockets.iter().enumerate() {
        socket.write_all(&pattern(i as u64, 20_000)).unwrap();
    }
    until(|| mesh.hbone.registry().streams().iter().filter(|s| s.bytes().1 == 20_000).count() == 45);
    assert_eq!(mesh.hbone.registry().tunnels().len(), 5);
    for (i, mut socket) in sockets.into_iter().enumerate() {
        socket.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        socket.read_to_end(&mut got).unwrap();
        assert!(got == pattern(i as u64, 20_000), "stream {i}");
    }
    assert_eq!(mesh.records(45).iter().filter(|r| r.flags & FLAG_REUSED == 0).count(), 5);
    assert!(exchange(port, b"again") == b"again");
    assert_eq!(mesh.records(46)[45].flags & FLAG_REUSED, FLAG_REUSED);
    assert_eq!(peer.drain().iter().filter(|l| l["event"] == "session").count(), 5);
}

/// [IDN-7] [DP-9] HBONE outbound: a server of another identity is refused in the handshake; the client is reset and nothing
/// was sent to it.
#[test]
fn wrong_identity() {
    let mesh = Mesh::new();
    let (peer, server) = Peer::server(&mesh, "spiffe://cluster.local/ns/b/sa/impostor", false, json!({"scenario": "echo"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    // A reset is told once, to the write or to the read that comes first.
    let early = socket.write_all(b"secret").is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(early || is_reset(&mut socket));
    assert_eq!(mesh.refusals(1), [Reason::WrongIdentity]);
    let refusal = mesh.witness.refusals.lock().unwrap()[0].clone();
    assert_eq!((refusal.expected, refusal.got.as_deref()), (vec![SERVER.to_owned()], Some("spiffe://cluster.local/ns/b/sa/impostor")));
    assert_eq!((mesh.records(1)[0].reason, mesh.records(1)[0].sent), (Reason::WrongIdentity, 0));
    assert!(peer.drain().iter().all(|l| l["event"] != "stream"));
}

/// [IDN-7] [DP-9] HBONE outbound: an expired certificate, another ALPN and a server without HBONE end in a reset, each with
/// its reason.
#[test]
fn bad_servers() {
    let mesh = Mesh::new();
    let (_a, expired) = Peer::server(&mesh, SERVER, true, json!({"scenario": "echo"}));
    let (_b, alpn) = Peer::server(&mesh, SERVER, false, json!({"scenario": "not-h2", "alpn": ["fairlead/9"]}));
    let (_c, none) = Peer::server(&mesh, SERVER, false, json!({"scenario": "not-h2", "alpn": []}));
    let plain = echo_app();
    for (i, (server, reason)) in [
        (expired, Reason::CertificateExpired),
        (alpn, Reason::NoCommonAlpn),
        (none, Reason::NoCommonAlpn),
        (plain, Reason::HandshakeFailed),
        (1, Reason::ConnectRefused),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
        assert!(is_reset(&mut socket), "{reason:?}");
        assert_eq!(mesh.records(i + 1)[i].reason, reason);
    }
}

/// [IDN-7] HBONE outbound: a server that does not trust our certificate ends the stream before it begins, and if it says
/// why (Node just hangs up, ours sends the alert), that is the reason recorded.
#[test]
fn refused_by_the_peer() {
    let mesh = Mesh::new();
    let stranger = Ca::new();
    let (certificate, key) = stranger.issue(CLIENT, false);
    mesh.identities.put_svid(CLIENT, &certificate, &key, 2, 0).unwrap();
    let (_peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    for (i, (port, reason)) in [(server, Reason::HandshakeFailed), (mesh.listen_inbound(), Reason::PeerRefusedUs)].into_iter().enumerate() {
        let mut socket = connect(mesh.listen_outbound(vec![(port, SERVER)]));
        assert!(is_reset(&mut socket));
        assert_eq!(mesh.records(i + 1)[i].reason, reason);
    }
    assert!(mesh.witness.asks.lock().unwrap().is_empty());
}

/// HBONE outbound: without an SVID nothing is dialled.
#[test]
fn no_svid() {
    let mesh = Mesh::new();
    mesh.identities.remove_svid(CLIENT);
    let mut socket = connect(mesh.listen_outbound(vec![(1, SERVER)]));
    assert!(is_reset(&mut socket));
    assert!(matches!(mesh.records(1)[0].reason, Reason::NoSvid));
}

/// [DP-9] HBONE outbound: a refusal is a reset with its reason, and a policy's no is not tried elsewhere.
#[test]
fn statuses() {
    let mesh = Mesh::new();
    for (i, (status, reason)) in
        [(403, Reason::PolicyDenied), (401, Reason::PolicyDenied), (503, Reason::ConnectFailed), (404, Reason::PeerRefused)].into_iter().enumerate()
    {
        let (_peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "status", "status": status}));
        let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
        assert!(is_reset(&mut socket));
        let record = &mesh.records(i + 1)[i];
        assert_eq!((record.reason, record.flags & FLAG_RETRIED), (reason, 0));
    }
}

/// HBONE outbound: a target that cannot be reached is passed over for the next one.
#[test]
fn next_target() {
    let mesh = Mesh::new();
    let (_a, dead) = Peer::server(&mesh, SERVER, false, json!({"scenario": "status", "status": 503}));
    let (_b, good) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let port = mesh.listen_outbound(vec![(1, SERVER), (dead, SERVER), (good, SERVER)]);
    assert!(exchange(port, b"hello") == b"hello");
    let record = &mesh.records(1)[0];
    assert_eq!((record.endpoint, record.flags & FLAG_RETRIED, record.reason), (2, FLAG_RETRIED, Reason::Finished));
}

/// HBONE outbound: a server that answers nothing is given up after the connect time.
#[test]
fn silent_server() {
    let mesh = Mesh::with(Settings { connect_timeout: Duration::from_secs(3), ..settings() });
    let (_peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "silent"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    assert!(is_reset(&mut socket));
    assert_eq!(mesh.records(1)[0].reason, Reason::ConnectTimeout);
}

/// [DP-15] HBONE outbound: after GOAWAY the open stream goes on and new ones take a new connection.
#[test]
fn goaway_is_honoured() {
    let mesh = Mesh::new();
    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "goaway"}));
    let port = mesh.listen_outbound(vec![(server, SERVER)]);
    for round in 0..5u64 {
        let mut first = connect(port);
        first.write_all(b"one").unwrap();
        first.read_exact(&mut [0; 3]).unwrap();
        // The peer's GOAWAY goes out after 50 ms.
        std::thread::sleep(Duration::from_millis(500));
        let data = pattern(round, 100_000);
        assert!(exchange(port, &data) == data);
        first.write_all(b"two").unwrap();
        first.read_exact(&mut [0; 3]).unwrap();
        drop(first);
    }
    assert!(mesh.records(10).iter().all(|r| r.reason == Reason::Finished));
    assert!(peer.drain().iter().filter(|l| l["event"] == "session").count() >= 5);
}

/// [INT-9] HBONE outbound: resets pass both ways, and a server that ends first is a half close.
#[test]
fn resets_and_server_first_end() {
    let mesh = Mesh::new();
    let (_peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "reset"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    socket.write_all(b"x").unwrap();
    assert!(is_reset(&mut socket));
    assert_eq!(mesh.records(1)[0].reason, Reason::ServerReset);

    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    socket.write_all(b"x").unwrap();
    socket.read_exact(&mut [0]).unwrap();
    // Its own end first: a reset after it must pass too.
    socket.shutdown(Shutdown::Write).unwrap();
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
    peer.wait("closed");
    mesh.records(2);

    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    socket.write_all(b"x").unwrap();
    socket.read_exact(&mut [0]).unwrap();
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
    assert_eq!(peer.wait("closed")["code"], 10);
    assert_eq!((mesh.records(3)[2].reason, mesh.records(3)[2].closer), (Reason::ClientReset, Closer::Client));

    let (_peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "bulk", "bytes": 2 << 20}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    socket.write_all(&pattern(4, 100_000)).unwrap();
    drop(socket);
    let record = mesh.records(4)[3].clone();
    assert_eq!((got.len(), record.reason, record.closer, record.sent), (2 << 20, Reason::Finished, Closer::Server, 100_000));
}

/// [DP-15] HBONE outbound: a new SVID moves new streams to a new connection, the old one ends with its streams; idle
/// connections are closed.
#[test]
fn renewal_and_idle() {
    let mesh = Mesh::with(Settings { idle: Duration::from_secs(3), ..settings() });
    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let port = mesh.listen_outbound(vec![(server, SERVER)]);
    let mut old = connect(port);
    old.write_all(b"x").unwrap();
    old.read_exact(&mut [0]).unwrap();
    mesh.put(CLIENT, 2, 0);
    assert!(exchange(port, b"new") == b"new");
    assert_eq!(mesh.hbone.registry().tunnels().len(), 2);
    old.write_all(b"y").unwrap();
    old.read_exact(&mut [0]).unwrap();
    drop(old);
    peer.wait("session-closed");
    peer.wait("session-closed");
    until(|| mesh.hbone.registry().tunnels().is_empty());
}

/// HBONE outbound: a server that dies resets the client with the reason that the tunnel is lost.
#[test]
fn lost_server() {
    let mesh = Mesh::new();
    let (peer, server) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    let mut socket = connect(mesh.listen_outbound(vec![(server, SERVER)]));
    socket.write_all(b"x").unwrap();
    socket.read_exact(&mut [0]).unwrap();
    drop(peer);
    assert!(is_reset(&mut socket));
    assert_eq!(mesh.records(1)[0].reason, Reason::TunnelLost);
}

/// [IDN-4] HBONE: ours against ours, so that both directions also agree with each other.
#[test]
fn both_ends_are_ours() {
    let mesh = Mesh::new();
    let port = mesh.listen_inbound();
    let app = echo_app();
    // The authority of the kit's targets is not the pod's: refused, then the real thing.
    let mut socket = connect(mesh.listen_outbound(vec![(port, SERVER)]));
    assert!(is_reset(&mut socket));
    assert_eq!(mesh.records(1)[0].reason, Reason::PeerRefused);
    let out = mesh.listen_outbound_to(vec![(port, SERVER)], local(app));
    let workers: Vec<_> = (0..100u64).map(|i| std::thread::spawn(move || exchange(out, &pattern(i, 50_000)) == pattern(i, 50_000))).collect();
    assert!(workers.into_iter().all(|w| w.join().unwrap()));
    assert!(mesh.records(201)[1..].iter().all(|r| r.reason == Reason::Finished && r.sent == 50_000 && r.received == 50_000));
}
