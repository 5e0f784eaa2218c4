//! Node's http2 as client of ours.

use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

use fairlead::hbone::Settings;
use fairlead::reason::Reason;
use fairlead::record::{Closer, Lane};
use fairlead::relay::plan::{Action, Handover};
use serde_json::{Value, json};

use crate::kit::*;
use crate::node::PATIENCE;
use crate::peer::Peer;

fn authority(app: u16) -> String {
    format!("127.0.0.1:{app}")
}

fn single(mesh: &Mesh, app: u16, more: Value) -> Value {
    let mut settings = json!({"scenario": "single", "authority": authority(app)});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Peer::client(mesh, mesh.listen_inbound(), CLIENT, settings).wait("done")
}

/// [IDN-4] [INT-9] HBONE inbound: many streams of one connection, half-closed, carry every byte both ways.
#[test]
fn streams_carry_every_byte() {
    let mesh = Mesh::new();
    let port = mesh.listen_inbound();
    let peer = Peer::client(&mesh, port, CLIENT, json!({"scenario": "echo", "authority": authority(echo_app()), "streams": 200, "bytes": 60_001}));
    assert!(peer.wait("server")["san"].as_str().unwrap().contains(SERVER));
    let done = peer.wait("done");
    assert_eq!((done["wrong"].as_u64(), done["bytes"].as_u64()), (Some(0), Some(200 * 60_001)));
    let records = mesh.records(200);
    assert!(records.iter().all(|r| r.inbound && r.lane == Lane::Hbone && r.reason == Reason::Finished && r.verdict == 5));
    assert!(records.iter().all(|r| (r.sent, r.received, r.closer) == (60_001, 60_001, Closer::Client)));
    assert!(mesh.hbone.registry().streams().is_empty());
}

/// [INT-9] HBONE inbound: large streams keep within the windows and arrive whole.
#[test]
fn large_streams() {
    let mesh = Mesh::new();
    let peer = Peer::client(
        &mesh,
        mesh.listen_inbound(),
        CLIENT,
        json!({"scenario": "echo", "authority": authority(echo_app()), "streams": 4, "bytes": 8 << 20}),
    );
    let done = peer.wait("done");
    assert_eq!((done["wrong"].as_u64(), done["bytes"].as_u64()), (Some(0), Some(4 * (8 << 20))));
}

/// [DP-12] HBONE inbound: what the client's agent says in headers is no evidence; the certificate and the TCP address are.
#[test]
fn headers_are_no_evidence() {
    let mesh = Mesh::new();
    let lies = json!({"forwarded": "for=10.9.9.9;by=1.1.1.1;host=evil", "baggage": "k8s.namespace.name=kube-system,service.name=admin", "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/kube-system/sa/admin"});
    let done = single(&mesh, echo_app(), json!({"headers": lies, "bytes": 10}));
    assert_eq!((done["status"].as_u64(), done["bytes"].as_u64()), (Some(200), Some(10)));
    let asks = mesh.witness.asks.lock().unwrap();
    assert_eq!((&*asks[0].identity, asks[0].source.to_string(), &*asks[0].pod), (CLIENT, "127.0.0.1".to_owned(), "b/server"));
}

/// [DP-12] HBONE inbound: refused by verdict is 403, and the policy's name stays here.
#[test]
fn refused_by_verdict() {
    let mesh = Mesh::new();
    *mesh.witness.rule.lock().unwrap() = Box::new(|_| Some(Action::Refuse { reason: Reason::PolicyDenied, policy: "b/secret-policy".into() }));
    let (seen, told) = channel();
    let app = listen(move |_, _| seen.send(()).unwrap());
    let done = single(&mesh, app, json!({"bytes": 100}));
    assert_eq!(done["status"], 403);
    assert!(!done.to_string().contains("secret-policy"));
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "the application was reached");
    let record = &mesh.records(1)[0];
    assert_eq!((record.reason, record.verdict, record.sent), (Reason::PolicyDenied, 5, 0));
}

/// [DP-17] HBONE inbound: a question that nobody answers refuses the stream, and so does a rule that needs the HTTP lane.
#[test]
fn no_verdict_no_stream() {
    let mesh = Mesh::with(Settings { question_timeout: Duration::from_millis(500), ..settings() });
    *mesh.witness.rule.lock().unwrap() = Box::new(|_| None);
    assert_eq!(single(&mesh, echo_app(), json!({}))["status"], 503);
    *mesh.witness.rule.lock().unwrap() = Box::new(|_| Some(Action::Handover(Handover { thread: 0, opaque: None, detect_ms: 0 })));
    assert_eq!(single(&mesh, echo_app(), json!({}))["status"], 403);
    let reasons: Vec<_> = mesh.records(2).iter().map(|r| r.reason).collect();
    assert_eq!(reasons, [Reason::QuestionTimeout, Reason::L7Unavailable]);
}

/// [DP-12] HBONE inbound: destinations that are not this pod's are refused before anybody is asked.
#[test]
fn only_the_pods_own_addresses() {
    let mesh = Mesh::new();
    for (authority, status) in [("10.0.0.1:80", 400), ("localhost:80", 400), ("127.0.0.1:0", 400), ("127.0.0.1", 400), ("[::1]:80", 400)] {
        assert_eq!(single(&mesh, 1, json!({"authority": authority}))["status"], status, "{authority}");
    }
    assert_eq!(single(&mesh, 1, json!({"method": "GET"}))["status"], 404);
    assert!(mesh.witness.asks.lock().unwrap().is_empty());
    assert_eq!(mesh.counter("hbone_bad_request"), 6);
}

/// HBONE inbound: nothing listens on the port: 503, as ztunnel answers.
#[test]
fn closed_port() {
    let mesh = Mesh::new();
    assert_eq!(single(&mesh, 1, json!({}))["status"], 503);
    assert_eq!(mesh.records(1)[0].reason, Reason::ConnectRefused);
}

/// [INT-9] HBONE inbound: the server may end first, and data still flows the other way.
#[test]
fn server_ends_first() {
    let mesh = Mesh::new();
    let (send, got) = channel();
    let app = listen(move |mut socket, _| {
        socket.write_all(b"hello").unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
        send.send(rest.len()).unwrap();
    });
    // The peer stays until the application has everything: it tells of the end of the answer before its own data is all gone.
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "single", "authority": authority(app), "bytes": 300_000}));
    let done = peer.wait("done");
    assert_eq!((done["text"].as_str(), done["ended"].as_bool()), (Some("hello"), Some(true)));
    assert_eq!(got.recv_timeout(PATIENCE), Ok(300_000));
    assert_eq!(mesh.records(1)[0].reason, Reason::Finished);
}

/// [INT-9] HBONE inbound: RST_STREAM reaches the application as RST, and its RST the peer as CONNECT_ERROR.
#[test]
fn resets_pass_both_ways() {
    let mesh = Mesh::new();
    let (send, got) = channel();
    let app = listen(move |mut socket, _| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        send.send(is_reset(&mut socket)).unwrap();
    });
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "reset", "authority": authority(app)}));
    assert_eq!(peer.wait("done")["status"], 200);
    assert_eq!(got.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(mesh.records(1)[0].reason, Reason::ClientReset);

    let app = listen(|mut socket, _| {
        let _ = socket.read(&mut [0; 10]);
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    });
    let done = single(&mesh, app, json!({"bytes": 100}));
    assert_eq!((done["ended"].as_bool(), done["code"].as_u64()), (Some(false), Some(10)));
    assert_eq!(mesh.records(2)[1].reason, Reason::ServerReset);
}

/// [IDN-7] HBONE inbound: another domain's, an expired, a self-signed and no certificate are refused in the handshake, each
/// with its reason.
#[test]
fn bad_certificates_are_refused_in_the_handshake() {
    let mesh = Mesh::new();
    let port = mesh.listen_inbound();
    let other = Ca::new();
    let cases = [
        (Some(mesh.ca.issue("spiffe://elsewhere/ns/a/sa/client", false)), Reason::WrongTrustDomain),
        (Some(mesh.ca.issue(CLIENT, true)), Reason::CertificateExpired),
        (Some(other.issue(CLIENT, false)), Reason::UnknownIssuer),
        (Some(mesh.ca.issue("https://cluster.local/ns/a/sa/client", false)), Reason::CertificateInvalid),
        (None, Reason::NoCertificate),
    ];
    for (i, (pair, reason)) in cases.into_iter().enumerate() {
        let credentials = match pair {
            Some((cert, key)) => json!({"cert": mesh.folder.write(&format!("{i}.pem"), &cert), "key": mesh.folder.write(&format!("{i}.key"), &key)}),
            None => json!({}),
        };
        let peer = Peer::client_with(&mesh, port, credentials, json!({"scenario": "single", "authority": "127.0.0.1:80"}));
        assert_eq!(mesh.refusals(i + 1)[i], reason);
        drop(peer);
    }
    assert!(mesh.witness.asks.lock().unwrap().is_empty());
}

/// [SEC-8] [IDN-4] Nothing older than TLS 1.3, which knows no renegotiation that could be abused.
#[test]
fn older_tls() {
    let mesh = Mesh::new();
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "tls", "alpn": ["h2"], "version": "TLSv1.2"}));
    assert_eq!(peer.wait("error")["code"], "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION");
    assert_eq!(mesh.refusals(1), [Reason::HandshakeFailed]);
}

/// [IDN-7] HBONE inbound: without ALPN h2 there is no connection.
#[test]
fn wrong_alpn() {
    let mesh = Mesh::new();
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "tls", "alpn": ["http/1.1"]}));
    assert_eq!(peer.wait("error")["code"], "ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL");
    assert_eq!(mesh.refusals(1), [Reason::NoCommonAlpn]);
}

/// [DP-15] HBONE inbound: a new SVID sends GOAWAY; the stream that is open goes on to its end.
#[test]
fn renewal_drains() {
    let mesh = Mesh::new();
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "goaway", "authority": authority(echo_app())}));
    peer.wait("open");
    until(|| !mesh.hbone.registry().streams().is_empty());
    mesh.put(SERVER, 2, 0);
    assert_eq!(peer.wait("goaway")["code"], 0);
    let done = peer.wait("done");
    assert_eq!((done["status"].as_u64(), done["ended"].as_bool(), done["bytes"].as_u64()), (Some(200), Some(true), Some(1_000)));
}

/// [DP-15] HBONE inbound: a connection ends its life with the certificate.
#[test]
fn expiry_drains() {
    let mesh = Mesh::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    // Time enough for the peer to start and to connect.
    mesh.put(SERVER, 2, now + 8_000);
    let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "goaway", "authority": authority(echo_app())}));
    peer.wait("goaway");
    assert_eq!(peer.wait("done")["ended"], true);
}

/// [SEC-8] HBONE inbound: rapid reset ends the connection with ENHANCE_YOUR_CALM and leaves nothing behind.
#[test]
fn rapid_reset() {
    let mesh = Mesh::new();
    let peer =
        Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "rapidReset", "authority": authority(echo_app()), "streams": 3_000}));
    // 11 is ENHANCE_YOUR_CALM (RFC 9113 §7).
    assert_eq!(peer.wait("error")["message"], "Session closed with error code 11");
    until(|| mesh.hbone.registry().streams().is_empty() && mesh.hbone.registry().tunnels().is_empty());
}

/// HBONE inbound: an application that does not read stops its own stream, not its neighbours, and memory stays bounded.
#[test]
fn a_stuck_application_stops_only_its_stream() {
    let mesh = Mesh::new();
    let (hold, _held) = channel();
    let stuck = listen(move |socket, _| hold.send(socket).unwrap());
    let port = mesh.listen_inbound();
    let blocked = Peer::client(&mesh, port, CLIENT, json!({"scenario": "single", "authority": authority(stuck), "bytes": 32 << 20}));
    until(|| mesh.hbone.registry().streams().iter().any(|s| s.bytes().0 > 0));
    let peer =
        Peer::client(&mesh, port, CLIENT, json!({"scenario": "slowReader", "authority": authority(echo_app()), "streams": 50, "bytes": 20_000}));
    assert_eq!(peer.wait("done")["wrong"], 0);
    assert!(blocked.drain().iter().all(|l| l["event"] != "done"));
}

/// HBONE inbound: `connections.reset` and a pod's end reset streams, each with its reason.
#[test]
fn orders_end_streams() {
    let mesh = Mesh::new();
    for (i, reason) in [Reason::Administrative, Reason::PodGone].into_iter().enumerate() {
        let peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "goaway", "authority": authority(echo_app())}));
        peer.wait("open");
        until(|| mesh.hbone.registry().streams().iter().any(|s| s.bytes() == (500, 500)));
        match reason {
            Reason::Administrative => assert_eq!(mesh.hbone.reset(&[mesh.hbone.registry().streams()[0].id], reason), 1),
            _ => assert_eq!(mesh.hbone.end_pod("b/server", Duration::ZERO, reason), 1),
        }
        assert_eq!(mesh.records(i + 1)[i].reason, reason);
    }
}

/// [DP-9] HBONE inbound: streams of a pod that comes back while it leaves outlive that drain; else they end with it.
#[test]
fn a_pod_that_is_back() {
    let mesh = Mesh::new();
    let drain = Duration::from_millis(200);
    let (hold, _held) = channel();
    let stuck = listen(move |socket, _| hold.send(socket).unwrap());
    let _peer = Peer::client(&mesh, mesh.listen_inbound(), CLIENT, json!({"scenario": "single", "authority": authority(stuck), "bytes": 32 << 20}));
    until(|| mesh.hbone.registry().streams().iter().any(|s| s.bytes().0 > 0));
    mesh.hbone.end_pod("b/server", drain, Reason::PodGone);
    mesh.hbone.back("b/server");
    std::thread::sleep(drain * 4);
    assert_eq!(mesh.hbone.registry().stream_count(), 1);
    mesh.hbone.end_pod("b/server", drain, Reason::PodGone);
    assert_eq!(mesh.records(1)[0].reason, Reason::PodGone);
}
