//! Traffic keys that change under an open tunnel (RFC 8446 §4.6.3, §5.5): asked for by a peer that is not ours, taken by
//! ourselves in time, and what a peer gets that does it wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use fairlead::tls::identity::Identities;
use fairlead::tls::records::{ALERT, DATA, HANDSHAKE, HEADER, Records, TRAILER};
use fairlead::tls::session::{Handshake, client_config};
use fairlead::tunnel::frame::{Decoder, Kind, OpenMeta, Piece, put};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::life::echo;
use crate::mesh::{CLIENT, DOMAIN, Mesh, SERVER, allow, config};
use crate::node::{app, dial, reason};
use crate::refusals::AnyServer;
use crate::transfer::{exchange, serve};

/// A tunnel's client made of rustls alone, its record layer included: it speaks frames over a stream of bytes.
struct Foreign {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    decoder: Decoder,
    input: Vec<u8>,
}

impl Foreign {
    fn open(mesh: &Mesh) -> Foreign {
        let pair = mesh.ca.svid(CLIENT);
        let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"fairlead/1".to_vec()];
        let tls = rustls::ClientConnection::new(Arc::new(config), "server.test".try_into().unwrap()).unwrap();
        let socket = dial(mesh.server.inbound());
        let mut peer = Foreign { tls: rustls::StreamOwned::new(tls, socket), decoder: Decoder::default(), input: Vec::new() };
        peer.send(Kind::Open, &OpenMeta::default().encode());
        while peer.next().0 != Kind::Accept {}
        peer
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        let mut frame = Vec::new();
        put(&mut frame, kind, 1, payload);
        self.tls.write_all(&frame).unwrap();
        self.tls.flush().unwrap();
    }

    fn next(&mut self) -> (Kind, Vec<u8>) {
        loop {
            let mut at = 0;
            let piece = self.decoder.next(&self.input, &mut at).unwrap();
            let got = match piece {
                Some(Piece::Control { kind, payload, .. }) => Some((kind, payload)),
                Some(Piece::Data { start, end, .. }) => Some((Kind::Data, self.input[start..end].to_vec())),
                None => None,
            };
            self.input.drain(..at);
            if let Some(got) = got {
                return got;
            }
            let mut room = [0; 16_384];
            let n = self.tls.read(&mut room).unwrap();
            assert!(n > 0, "closed");
            self.input.extend_from_slice(&room[..n]);
        }
    }

    /// Sends and waits until the same bytes came back.
    fn echo(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16_000) {
            self.send(Kind::Data, chunk);
        }
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            let (kind, data) = self.next();
            assert_eq!(kind, Kind::Data);
            back.extend(data);
        }
        assert!(back == bytes, "other bytes came back");
    }
}

#[test]
#[doc = "[DP-14] [IDN-4] a peer that is not ours changes its key and asks for ours: nothing is lost in either direction"]
fn peer_updates_its_key() {
    let mesh = Mesh::new(app(echo));
    let mut peer = Foreign::open(&mesh);
    for round in 0..20u8 {
        peer.echo(&[round; 5_000]);
        peer.tls.conn.refresh_traffic_keys().unwrap();
        if round % 3 == 0 {
            // Several at once: each is one step of the key, and they are answered by one of ours.
            peer.tls.conn.refresh_traffic_keys().unwrap();
            peer.tls.conn.refresh_traffic_keys().unwrap();
        }
    }
    peer.echo(&[99; 100_000]);
    peer.send(Kind::Fin, &[]);
    assert_eq!(reason(&mesh.two.records(1)[0]), 0);
    assert_eq!(mesh.two.counter("tunnel_protocol_error"), 0);
}

#[test]
#[doc = "[IDN-4] a key of ours is replaced before it has sealed too many records, seen by a peer that is not ours"]
fn own_key_has_its_limit() {
    let two = config(|c| c.records_per_key = 3);
    let mesh = Mesh::with(app(echo), config(|_| {}), two, allow);
    let mut peer = Foreign::open(&mesh);
    let bytes: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
    peer.echo(&bytes);
    peer.echo(b"and on");
}

#[test]
#[doc = "[IDN-4] [INT-9] keys of both agents change every few records: bytes of every order of ends arrive unchanged"]
fn both_agents_change_keys() {
    let limits = || config(|c| c.records_per_key = 2);
    let mesh = Mesh::with(app(serve), limits(), limits(), allow);
    for i in 0..12u64 {
        exchange(mesh.client.outbound(), i + 1, 300_000, 400_000, (i % 3) as u8);
    }
    assert!(mesh.one.records(12).iter().all(|r| reason(r) == 0));
}

/// The client's side of a tunnel with our own record layer, to break its rules.
fn hostile(mesh: &Mesh) -> (TcpStream, Records) {
    let ids = Identities::new(DOMAIN);
    ids.put_trust(&[(DOMAIN.into(), vec![mesh.ca.pem.clone()])], vec![], 1).unwrap();
    let pair = mesh.ca.svid(CLIENT);
    ids.put_svid(CLIENT, &pair.chain, &pair.key, 1, 0).unwrap();
    let snapshot = ids.snapshot();
    let tls = client_config(&ids, &snapshot, &snapshot.svids[CLIENT], Arc::from([SERVER.to_string()])).unwrap();
    let mut handshake = Handshake::client(tls).unwrap();
    let mut socket = dial(mesh.server.inbound());
    let (mut input, mut room) = (Vec::new(), [0; 8_192]);
    loop {
        let (mut used, mut out) = (0, Vec::new());
        let done = handshake.advance(&mut input, &mut used, &mut out).unwrap();
        socket.write_all(&out).unwrap();
        input.drain(..used);
        if let Some(done) = done {
            return (socket, done.records);
        }
        let n = socket.read(&mut room).unwrap();
        assert!(n > 0, "closed in the handshake");
        input.extend_from_slice(&room[..n]);
    }
}

fn record(records: &mut Records, content: u8, body: &[u8]) -> Vec<u8> {
    let mut room = vec![0; HEADER + body.len() + TRAILER];
    room[HEADER..HEADER + body.len()].copy_from_slice(body);
    records.seal_as(content, &mut room, body.len()).unwrap();
    room
}

#[test]
#[doc = "[IDN-7] [DP-14] a broken key update, other handshake messages and unknown content end the tunnel with RST, each counted"]
fn breaches_of_the_record_layer() {
    let breaches: [(&str, u8, &[u8]); 7] = [
        ("key update with an unknown request", HANDSHAKE, &[24, 0, 0, 1, 2]),
        ("key update that is too long", HANDSHAKE, &[24, 0, 0, 2, 0, 0]),
        ("key update cut in two", HANDSHAKE, &[24, 0, 0]),
        ("something behind a key update in its record", HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0]),
        ("certificate request", HANDSHAKE, &[13, 0, 0, 1, 0]),
        ("no content at all", 0, &[0, 0, 0]),
        ("heartbeat", 24, b"x"),
    ];
    let mesh = Mesh::new(app(echo));
    for (i, (what, content, body)) in breaches.iter().enumerate() {
        let (mut socket, mut records) = hostile(&mesh);
        let mut open = Vec::new();
        put(&mut open, Kind::Open, 1, &OpenMeta::default().encode());
        let wire = [record(&mut records, DATA, &open), record(&mut records, *content, body)].concat();
        socket.write_all(&wire).unwrap();
        let error = loop {
            match socket.read(&mut [0; 4_096]) {
                Ok(n) => assert!(n > 0, "{what}: FIN, not RST"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
        assert_eq!(mesh.two.counter("tunnel_protocol_error"), i as u64 + 1, "{what}");
        assert_eq!(reason(&mesh.two.records(i + 1)[i]), 51, "{what}");
    }
}

#[test]
#[doc = "[DP-14] a forged record and an alert end the tunnel with RST and different reasons; close_notify without a stream is no fault"]
fn forged_records_and_alerts() {
    let mesh = Mesh::new(app(echo));
    let cases: [(&[u8], u16, &str); 2] = [(b"forged", 51, "tunnel_protocol_error"), (&[2, 80], 50, "tunnel_lost")];
    for (i, (body, code, text)) in cases.into_iter().enumerate() {
        let (mut socket, mut records) = hostile(&mesh);
        let mut open = Vec::new();
        put(&mut open, Kind::Open, 1, &OpenMeta::default().encode());
        socket.write_all(&record(&mut records, DATA, &open)).unwrap();
        let mut wire = record(&mut records, if i == 0 { DATA } else { ALERT }, body);
        if i == 0 {
            wire[HEADER] ^= 1;
        }
        socket.write_all(&wire).unwrap();
        while socket.read(&mut [0; 4_096]).is_ok_and(|n| n > 0) {}
        assert_eq!(reason(&mesh.two.records(i + 1)[i]), code, "{text}");
        assert_eq!(mesh.two.counter(text), 1);
    }
    let (mut socket, mut records) = hostile(&mesh);
    let mut goodbye = Vec::new();
    records.close_notify(&mut goodbye).unwrap();
    socket.write_all(&goodbye).unwrap();
    assert_eq!(socket.read(&mut [0; 4_096]).unwrap(), 0, "an idle tunnel is closed in order");
    assert_eq!((mesh.two.counter("tunnel_lost"), mesh.two.counter("tunnel_protocol_error")), (1, 1));
}
