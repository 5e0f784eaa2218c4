//! Handshakes that must not come through, each with its own reason, counter, event with both identities, and record.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use time::Duration as Span;

use crate::mesh::{CLIENT, DOMAIN, Mesh, SERVER, allow, config};
use crate::node::{Node, PATIENCE, app, dial, reason, wait_or};
use crate::pki::{Pair, ca, self_signed};

fn echo(mut stream: TcpStream) {
    let mut room = [0; 1_024];
    while let Ok(n) = stream.read(&mut room) {
        if n == 0 || stream.write_all(&room[..n]).is_err() {
            return;
        }
    }
}

/// Whether a ping comes back; what a refused client sees is a reset.
fn ping(mesh: &Mesh) -> bool {
    let mut stream = dial(mesh.client.outbound());
    let mut back = [0; 4];
    match stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut back)) {
        Ok(()) => true,
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{e}");
            false
        }
    }
}

/// The event, counter and record of a refusal by `node`.
fn expect(node: &Node, text: &str, code: u16, direction: &str) -> serde_json::Value {
    let seen = || {
        let seen = node.seen.lock().unwrap();
        format!("no {text}; events {:?}, reasons of records {:?}", seen.events, seen.records.iter().map(reason).collect::<Vec<_>>())
    };
    let refused = |e: &&serde_json::Value| e["event"] == "refused" && e["reason"] == text;
    let event = wait_or(|| node.seen.lock().unwrap().events.iter().find(refused).cloned(), seen);
    assert_eq!(event["direction"], direction);
    assert!(node.counter(text) >= 1, "{text}");
    wait_or(|| node.seen.lock().unwrap().records.iter().any(|r| reason(r) == code).then_some(()), seen);
    event
}

fn mesh() -> Mesh {
    Mesh::new(app(echo))
}

fn with_server(pair: &Pair) -> Mesh {
    let mesh = mesh();
    mesh.two.svid(SERVER, pair, 2);
    mesh
}

#[test]
#[doc = "[IDN-4] positive twin of the refusals: good certificates on both sides pass"]
fn good_certificates_pass() {
    let mesh = mesh();
    assert!(ping(&mesh));
    assert_eq!(mesh.two.seen.lock().unwrap().questions.iter().find(|q| q["ask"] == "inbound").unwrap()["identity"], CLIENT);
}

#[test]
#[doc = "[IDN-7] [DP-17] an expired server certificate"]
fn expired() {
    let mesh = mesh();
    mesh.two.svid(SERVER, &mesh.ca.svid_between(SERVER, Span::hours(-2), Span::hours(-1)), 2);
    assert!(!ping(&mesh));
    let event = expect(&mesh.one, "tls_expired", 31, "outbound");
    assert_eq!((&event["got"], &event["expected"]), (&json!(SERVER), &json!([SERVER])));
}

#[test]
#[doc = "[IDN-7] a certificate that is not valid yet"]
fn not_yet_valid() {
    let mesh = mesh();
    mesh.two.svid(SERVER, &mesh.ca.svid_between(SERVER, Span::hours(1), Span::hours(2)), 2);
    assert!(!ping(&mesh));
    expect(&mesh.one, "tls_not_yet_valid", 32, "outbound");
}

#[test]
#[doc = "[IDN-7] another trust domain"]
fn wrong_trust_domain() {
    let mesh = mesh();
    let id = "spiffe://elsewhere.local/ns/shop/sa/server";
    mesh.two.svid(SERVER, &mesh.ca.svid(id), 2);
    assert!(!ping(&mesh));
    assert_eq!(expect(&mesh.one, "tls_wrong_trust_domain", 33, "outbound")["got"], id);
}

#[test]
#[doc = "[IDN-7] a good certificate of somebody else: both identities are told"]
fn wrong_identity() {
    let mesh = mesh();
    let id = "spiffe://cluster.local/ns/shop/sa/other";
    mesh.two.svid(SERVER, &mesh.ca.svid(id), 2);
    assert!(!ping(&mesh));
    let event = expect(&mesh.one, "tls_wrong_identity", 34, "outbound");
    assert_eq!((&event["got"], &event["expected"]), (&json!(id), &json!([SERVER])));
}

#[test]
#[doc = "[IDN-7] self-signed, and signed by a root nobody knows"]
fn unknown_issuer() {
    for pair in [self_signed(SERVER), ca("foreign").svid(SERVER)] {
        let mesh = with_server(&pair);
        assert!(!ping(&mesh));
        expect(&mesh.one, "tls_unknown_issuer", 35, "outbound");
    }
}

#[test]
#[doc = "[IDN-7] a root that was withdrawn is named as such, and existing tunnels take no new stream"]
fn root_no_longer_trusted() {
    let mesh = mesh();
    assert!(ping(&mesh));
    let next = ca("next");
    mesh.one.trust(&[(DOMAIN, &[&next.pem])]);
    assert!(!ping(&mesh));
    expect(&mesh.one, "tls_root_not_trusted", 36, "outbound");
}

#[test]
#[doc = "[IDN-4] [IDN-7] the server checks the client too: the client's agent learns that it was refused"]
fn client_certificate_is_checked() {
    let mesh = mesh();
    mesh.one.svid(CLIENT, &ca("foreign").svid(CLIENT), 2);
    assert!(!ping(&mesh));
    let event = expect(&mesh.two, "tls_unknown_issuer", 35, "inbound");
    assert_eq!(event["got"], CLIENT);
    expect(&mesh.one, "tls_peer_refused", 40, "outbound");
}

#[test]
#[doc = "[IDN-4] [IDN-7] a client's certificate that is wrong in any way: refused by the server's agent, counted by reason, told to the client's"]
fn wrong_client_certificates() {
    let root = |mesh: &Mesh, from, until| mesh.ca.svid_between(CLIENT, Span::hours(from), Span::hours(until));
    type Make<'a> = &'a dyn Fn(&Mesh) -> Pair;
    let cases: [(&str, u16, Make<'_>); 7] = [
        ("tls_expired", 31, &|m| root(m, -2, -1)),
        ("tls_not_yet_valid", 32, &|m| root(m, 1, 2)),
        ("tls_wrong_trust_domain", 33, &|m| m.ca.svid("spiffe://elsewhere.local/ns/shop/sa/client")),
        ("tls_unknown_issuer", 35, &|_| self_signed(CLIENT)),
        ("tls_unknown_issuer", 35, &|_| ca("foreign").svid(CLIENT)),
        ("tls_certificate_invalid", 39, &|m| m.ca.named(&[])),
        ("tls_certificate_invalid", 39, &|m| m.ca.named(&[CLIENT, SERVER])),
    ];
    for (text, code, pair) in cases {
        let mesh = mesh();
        mesh.one.svid(CLIENT, &pair(&mesh), 2);
        assert!(!ping(&mesh), "{text}");
        expect(&mesh.two, text, code, "inbound");
        expect(&mesh.one, "tls_peer_refused", 40, "outbound");
        assert_eq!(mesh.two.counter(text), 1);
    }
}

#[test]
#[doc = "[IDN-9] [DP-15] a client of a root that the server's agent trusts no more: no new stream on its tunnel, named as such at the next handshake"]
fn client_of_a_withdrawn_root() {
    let mesh = mesh();
    assert!(ping(&mesh));
    let next = ca("next");
    mesh.two.trust(&[(DOMAIN, &[&next.pem])]);
    assert!(!ping(&mesh));
    assert_eq!(expect(&mesh.two, "tls_root_not_trusted", 36, "inbound")["got"], CLIENT);
    expect(&mesh.one, "tls_peer_refused", 40, "outbound");
}

/// A TLS client of rustls itself, offering what the test says.
fn foreign_client(mesh: &Mesh, alpn: &[&[u8]], pair: Option<&Pair>, versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<(), String> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match pair {
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), "server.test".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(mesh.server.inbound()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|e| e.to_string())?;
    }
    // The server judges the client after the client is done.
    match tls.complete_io(&mut socket) {
        Ok((0, _)) => Err("closed".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

#[derive(Debug)]
pub struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
#[doc = "[IDN-4] [IDN-7] no client certificate"]
fn no_certificate() {
    let mesh = mesh();
    assert!(foreign_client(&mesh, &[b"fairlead/1"], None, &[&rustls::version::TLS13]).is_err());
    expect(&mesh.two, "tls_no_certificate", 37, "inbound");
}

#[test]
#[doc = "[DP-16] no ticket is sent, so nothing can be resumed and no early data exists"]
fn no_resumption() {
    let mesh = mesh();
    let good = mesh.ca.svid(CLIENT);
    // Nothing comes after the handshake: a ticket would end the wait with Ok.
    let result = foreign_client(&mesh, &[b"fairlead/1"], Some(&good), &[&rustls::version::TLS13]);
    assert!(result.as_ref().is_err_and(|e| e.contains("temporarily") || e.contains("WouldBlock") || e.contains("timed out")), "{result:?}");
}

#[test]
#[doc = "[DP-8] [INT-9] a ClientHello of another ALPN is the application's own: carried as opaque bytes"]
fn another_alpn_is_opaque() {
    let (sender, got) = std::sync::mpsc::channel();
    let address = app(move |mut stream| {
        let mut first = [0; 5];
        let _ = stream.read_exact(&mut first);
        let _ = sender.send(first);
    });
    let mesh = Mesh::with(address, config(|_| {}), config(|_| {}), allow);
    let _ = foreign_client(&mesh, &[b"http/1.1"], None, &[&rustls::version::TLS13]);
    assert_eq!(got.recv_timeout(PATIENCE).unwrap()[..2], [22, 3]);
    let record = mesh.two.records(1)[0];
    assert_eq!((record[2], record[3]), (3, 1), "lane plain, protocol TLS");
}

#[test]
#[doc = "[DP-17] the handshake asks nobody: with a silent agent it completes, and only the OPEN is refused"]
fn the_handshake_asks_nobody() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|c| c.question_timeout_ms = 3_000), |_| None);
    assert!(!ping(&mesh));
    assert_eq!(mesh.two.counter("tunnels_made"), 1);
    // Besides it there may be the question whether a client that was slow to speak is a peer.
    let asked = mesh.two.seen.lock().unwrap().questions.iter().filter(|q| q["ask"] == "inbound").count();
    assert_eq!(asked, 1);
    assert!(mesh.two.counter("question_timeout") >= 1);
    assert_eq!(reason(&mesh.two.records(1)[0]), 11);
}

#[test]
#[doc = "[INT-12] a question to which the agent has no answer refuses at once, not when its time is over"]
fn no_answer_is_a_refusal() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), |_| Some(json!({"failed": true})));
    assert!(!ping(&mesh));
    assert!(mesh.two.counter("question_failed") >= 1);
    assert_eq!((mesh.two.counter("question_timeout"), mesh.two.counter("bad_answer")), (0, 0));
    assert_eq!(reason(&mesh.two.records(1)[0]), 12);
}
