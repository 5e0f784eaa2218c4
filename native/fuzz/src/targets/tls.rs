//! TLS: the record layer fed by a peer that has the right keys and keeps no rule, and the handshake of both sides with what
//! happens to its bytes on the way.

use std::sync::{Arc, OnceLock};

use fairlead::tls::identity::Identities;
use fairlead::tls::records::{ALERT, DATA, HANDSHAKE, HEADER, Opened, Records, TRAILER};
use fairlead::tls::session::{Established, Failure, Handshake, client_config, server_config};
use rustls::{ClientConfig, ServerConfig};

use super::world::{CLIENT, SERVER, identities, world};

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn configs() -> &'static Configs {
    static CONFIGS: OnceLock<Configs> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let of = |identity, pair| {
            let ids: Identities = identities(identity, pair);
            let snapshot = ids.snapshot();
            let svid = snapshot.svids[identity].clone();
            (ids, snapshot, svid)
        };
        let (ids, snapshot, svid) = of(CLIENT, &world().client);
        let client = client_config(&ids, &snapshot, &svid, Arc::from([SERVER.to_string()])).expect("a client");
        let (ids, snapshot, svid) = of(SERVER, &world().server);
        Configs { client, server: server_config(&ids, &snapshot, &svid).expect("a server") }
    })
}

/// One side of a handshake with the bytes that it has not used yet.
struct Side {
    handshake: Handshake,
    input: Vec<u8>,
    done: Option<Result<Established, Failure>>,
}

impl Side {
    fn new(handshake: Handshake) -> Side {
        Side { handshake, input: Vec::new(), done: None }
    }

    /// Takes bytes in pieces of `size`; what is answered.
    fn take(&mut self, bytes: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let pieces: Vec<&[u8]> = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(size).collect() };
        for piece in pieces {
            self.input.extend_from_slice(piece);
            if self.done.is_some() {
                continue;
            }
            let mut used = 0;
            let result = self.handshake.advance(&mut self.input, &mut used, &mut out);
            assert!(used <= self.input.len(), "used bytes that are not there");
            self.input.drain(..used);
            self.done = result.transpose();
        }
        out
    }
}

/// Runs the handshake in flights; `on_the_way` may change each of them. Client, then server.
fn shake(size: usize, mut on_the_way: impl FnMut(usize, &mut Vec<u8>)) -> (Side, Side) {
    let mut client = Side::new(Handshake::client(configs().client.clone()).expect("a client"));
    let mut server = Side::new(Handshake::server(configs().server.clone()).expect("a server"));
    let mut flight = client.take(&[], 1);
    for number in 0.. {
        on_the_way(number, &mut flight);
        if flight.is_empty() || number > 16 {
            break;
        }
        flight = if number % 2 == 0 { server.take(&flight, size) } else { client.take(&flight, size) };
    }
    (client, server)
}

/// First two bytes: the size of the pieces. Then changes of four bytes each: flight and kind, place, value.
pub fn handshake(data: &[u8]) {
    let [low, high, changes @ ..] = data else { return };
    let size = usize::from(u16::from_le_bytes([*low, *high])) + 1;
    let mut touched = false;
    let (client, server) = shake(size, |number, flight| {
        for change in changes.chunks_exact(4).filter(|c| usize::from(c[0] >> 4) == number) {
            let at = usize::from(u16::from_le_bytes([change[1], change[2]]));
            let before = flight.clone();
            match change[0] & 7 {
                _ if at > flight.len() => {}
                0 | 1 if at < flight.len() => flight[at] ^= change[3],
                2 => flight.insert(at, change[3]),
                3 => drop(flight.drain(at..(at + usize::from(change[3])).min(flight.len()))),
                4 => flight.truncate(at),
                5 => flight.extend_from_slice(&before[at..]),
                6 => drop(flight.splice(at..at, changes.iter().copied())),
                _ => {}
            }
            touched |= *flight != before;
        }
    });
    // The server's side is done after the client's last flight; what came behind it is left for the record layer.
    for (side, peer) in [(&client, SERVER), (&server, CLIENT)] {
        match &side.done {
            Some(Ok(done)) => assert_eq!(done.peer, peer, "the bytes on the way changed who the peer is"),
            Some(Err(failure)) => assert!(touched, "{} though nothing was touched", failure.text),
            None => assert!(touched, "the handshake did not end"),
        }
    }
    if let (Some(Ok(mut client)), Some(Ok(mut server)), false) = (client.done, server.done, touched) {
        assert!(client.peer_not_after_ms > 0 && server.peer_not_after_ms > 0);
        assert_eq!(through(&mut client.records, &mut server.records, b"after"), b"after");
    }
}

fn record(records: &mut Records, content: u8, body: &[u8]) -> Vec<u8> {
    let mut room = vec![0; HEADER + body.len() + TRAILER];
    room[HEADER..HEADER + body.len()].copy_from_slice(body);
    let length = records.seal_as(content, &mut room, body.len()).expect("fits");
    room.truncate(length);
    room
}

fn through(from: &mut Records, to: &mut Records, body: &[u8]) -> Vec<u8> {
    let mut wire = record(from, DATA, body);
    match to.open(&mut wire) {
        Ok(Opened::Record { plain, .. }) => wire[plain].to_vec(),
        other => panic!("{other:?}"),
    }
}

/// What follows from an inner plaintext (RFC 8446 §5.4), as the specification of `Records::open`.
#[derive(Debug, PartialEq)]
enum Meant {
    Data(Vec<u8>),
    /// Only for the record layer; the key changes if set, and the peer wants ours to.
    Own(Option<bool>),
    Closed,
    Broken,
}

fn meaning(inner: &[u8]) -> Meant {
    let Some(last) = inner.iter().rposition(|b| *b != 0) else { return Meant::Broken };
    let body = &inner[..last];
    match (inner[last], body) {
        (DATA, _) => Meant::Data(body.to_vec()),
        (ALERT, [_, 0]) => Meant::Closed,
        (HANDSHAKE, [4, ..]) => Meant::Own(None),
        (HANDSHAKE, [24, 0, 0, 1, ask @ (0 | 1)]) => Meant::Own(Some(*ask == 1)),
        _ => Meant::Broken,
    }
}

/// As it shows from outside: what concerns only the record layer, and a record without data, are the same.
fn seen(meant: Meant) -> Meant {
    match meant {
        Meant::Own(_) => Meant::Own(None),
        Meant::Data(bytes) if bytes.is_empty() => Meant::Own(None),
        other => other,
    }
}

/// First byte: who is ours, then how the wire is cut. Then acts of the peer: kind, length, bytes.
pub fn records(data: &[u8]) {
    let [mode, size, acts @ ..] = data else { return };
    let (client, server) = shake(usize::MAX, |_, _| {});
    let (Some(Ok(client)), Some(Ok(server))) = (client.done, server.done) else { panic!("no handshake") };
    let (mut peer, mut ours) = if mode & 1 == 0 { (client.records, server.records) } else { (server.records, client.records) };
    let (mut wire, mut expected, mut asked) = (Vec::new(), Vec::new(), false);
    let mut rest = acts;
    while let [kind, length, more @ ..] = rest {
        let (body, next) = more.split_at(usize::from(*length).min(more.len()));
        rest = next;
        let (piece, meant) = match kind % 8 {
            0 | 1 => (record(&mut peer, DATA, body), meaning(&[body, &[DATA]].concat())),
            2 => (record(&mut peer, HANDSHAKE, body), meaning(&[body, &[HANDSHAKE]].concat())),
            3 => (record(&mut peer, ALERT, body), meaning(&[body, &[ALERT]].concat())),
            4 => {
                let ask = body.len() % 2 == 1;
                let mut out = Vec::new();
                peer.refresh(ask, &mut out).expect("the next key");
                asked |= ask;
                wire.extend(out);
                expected.push(Meant::Own(Some(ask)));
                continue;
            }
            // Any content, 0 among it: that is padding.
            5 => match body.split_last() {
                Some((content, body)) => (record(&mut peer, *content, body), meaning(&[body, &[*content]].concat())),
                None => continue,
            },
            6 => {
                let mut sealed = record(&mut peer, DATA, body);
                let at = usize::from(*length) % sealed.len();
                sealed[at] ^= 1 << (kind >> 3 & 7);
                // Of a record that is longer than what is there, nothing is known yet; anything else is forged.
                (sealed, Meant::Broken)
            }
            _ if body.is_empty() => continue,
            _ => (body.to_vec(), Meant::Broken),
        };
        wire.extend(piece);
        // A key update without the key's change is no key update for what follows.
        let over = matches!(meant, Meant::Broken | Meant::Closed | Meant::Own(Some(_)));
        asked |= meant == Meant::Own(Some(true));
        expected.push(meant);
        if over {
            break;
        }
    }
    let expected: Vec<Meant> = expected.into_iter().map(seen).collect();
    let got = open_all(&mut ours, &wire, usize::from(*size) + 1);
    for (i, meant) in got.iter().enumerate() {
        assert_eq!(Some(meant), expected.get(i), "record {i}");
    }
    // What is missing at the end is a last record that claims to be longer than it is.
    let missing = &expected[got.len()..];
    assert!(missing.is_empty() || missing == [Meant::Broken], "{missing:?} not seen");
    if got.iter().any(|m| matches!(m, Meant::Broken)) {
        return;
    }
    assert_eq!(ours.refresh_due(), asked, "our key is due if it was asked for");
    answer(&mut ours, &mut peer, acts);
}

fn open_all(ours: &mut Records, wire: &[u8], size: usize) -> Vec<Meant> {
    let (mut got, mut input): (Vec<Meant>, Vec<u8>) = (Vec::new(), Vec::new());
    for piece in wire.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            let due = ours.refresh_due();
            match ours.open(&mut input) {
                Ok(Opened::NeedMore) => break,
                Ok(Opened::Record { used, plain }) => {
                    assert!(plain.start >= HEADER && plain.end <= used && used <= input.len(), "past the end of the record");
                    got.push(if plain.is_empty() { Meant::Own(None) } else { Meant::Data(input[plain].to_vec()) });
                    assert!(ours.refresh_due() || !due, "the peer's wish was forgotten");
                    input.drain(..used);
                }
                Ok(Opened::Closed) => {
                    got.push(Meant::Closed);
                    return got;
                }
                Err(_) => {
                    got.push(Meant::Broken);
                    return got;
                }
            }
        }
    }
    got
}

/// Our side speaks: with the next key if that is due, and the peer understands.
fn answer(ours: &mut Records, peer: &mut Records, body: &[u8]) {
    let body = &body[..body.len().min(1_000)];
    if ours.refresh_due() {
        let mut update = Vec::new();
        ours.refresh(false, &mut update).expect("the next key");
        assert!(matches!(peer.open(&mut update), Ok(Opened::Record { plain, .. }) if plain.is_empty()));
        assert!(!ours.refresh_due());
    }
    assert_eq!(through(ours, peer, body), body);
}
