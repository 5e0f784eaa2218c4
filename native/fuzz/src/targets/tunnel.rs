//! The tunnel: frames through any cut, and the stream machine of either role fed with whatever a peer may send while the
//! local side acts at any moment.

use fairlead::reason::Reason;
use fairlead::tunnel::frame::{Decoder, HEADER, Kind, MAX_CONTROL, OpenMeta, Piece, Refusal, accept_payload, accepts_requests, put};
use fairlead::tunnel::machine::{Event, Machine, Role};

use super::cut;

/// What a stream of bytes means, however it was cut: data of one frame after another is joined.
#[derive(Debug, PartialEq)]
enum Meant {
    Control(Kind, u32, Vec<u8>),
    Data(u32, Vec<u8>),
    Broken(&'static str),
    End { at_boundary: bool },
}

fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Meant> {
    let mut decoder = Decoder::default();
    let mut meant = Vec::new();
    for input in pieces {
        let mut at = 0;
        loop {
            let before = at;
            let piece = decoder.next(input, &mut at);
            assert!(before <= at && at <= input.len(), "read past the end");
            match piece {
                Ok(Some(Piece::Control { kind, stream, payload })) => {
                    assert!(payload.len() <= MAX_CONTROL && kind != Kind::Data);
                    meant.push(Meant::Control(kind, stream, payload));
                }
                Ok(Some(Piece::Data { stream, start, end })) => {
                    assert!(before <= start && start < end && end == at);
                    match meant.last_mut() {
                        Some(Meant::Data(number, bytes)) if *number == stream => bytes.extend_from_slice(&input[start..end]),
                        _ => meant.push(Meant::Data(stream, input[start..end].to_vec())),
                    }
                }
                Ok(None) => {
                    assert_eq!(at, input.len(), "bytes left behind");
                    break;
                }
                Err(violation) => {
                    meant.push(Meant::Broken(violation.0));
                    return meant;
                }
            }
        }
    }
    meant.push(Meant::End { at_boundary: decoder.at_boundary() });
    meant
}

pub fn frames(data: &[u8]) {
    let (size, bytes) = cut(data);
    let whole = follow(std::iter::once(bytes));
    assert_eq!(whole, follow(bytes.chunks(size)), "in pieces of {size}");
    // What was understood, written again, is understood the same.
    let mut again = Vec::new();
    let understood: Vec<Meant> = whole.into_iter().filter(|m| matches!(m, Meant::Control(..) | Meant::Data(..))).collect();
    for meant in &understood {
        match meant {
            Meant::Control(kind, stream, payload) => put(&mut again, *kind, *stream, payload),
            Meant::Data(stream, bytes) => put(&mut again, Kind::Data, *stream, bytes),
            _ => {}
        }
    }
    let mut read = follow(std::iter::once(&again[..]));
    assert_eq!(read.pop(), Some(Meant::End { at_boundary: true }));
    // Data of one stream on either side of frames without meaning comes to lie side by side.
    assert_eq!(joined(read), joined(understood));
    payloads(bytes);
}

fn joined(meant: Vec<Meant>) -> Vec<Meant> {
    meant.into_iter().fold(Vec::new(), |mut all, next| {
        match (all.last_mut(), next) {
            (Some(Meant::Data(a, bytes)), Meant::Data(b, more)) if *a == b => bytes.extend(more),
            (_, next) => all.push(next),
        }
        all
    })
}

fn payloads(bytes: &[u8]) {
    if let Some(meta) = OpenMeta::decode(bytes) {
        let again = meta.encode();
        assert!(again.len() <= MAX_CONTROL);
        assert_eq!(OpenMeta::decode(&again), Some(meta));
    }
    if let Some(refusal) = Refusal::decode(bytes) {
        assert_eq!(Refusal::decode(&refusal.encode()), Some(refusal));
    }
    let taken = accepts_requests(bytes);
    assert_eq!(accepts_requests(&accept_payload(taken)), taken);
}

/// First byte: role and how often the local side acts; each act takes a byte off the end.
pub fn machine(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let role = if mode & 1 == 0 { Role::Opener } else { Role::Acceptor };
    let acting = usize::from(mode >> 1) % 16;
    let (wire, acts) = bytes.split_at(bytes.len() - acting.min(bytes.len()));
    let (mut machine, mut decoder, mut at) = (Machine::new(role), Decoder::default(), 0);
    let (mut sent, mut fin_waits, mut acts) = (Vec::new(), false, acts.iter());
    loop {
        if let Some(act) = acts.next() {
            local(&mut machine, *act, &mut fin_waits, &mut sent);
        }
        let before = (machine.number(), machine.is_idle(), machine.accepted());
        let piece = match decoder.next(wire, &mut at) {
            Ok(Some(piece)) => piece,
            Ok(None) if acts.len() > 0 => continue,
            _ => break,
        };
        let result = match piece {
            Piece::Data { stream, start, end } => machine.data(stream, end - start).map(|deliver| {
                assert!(!deliver || (stream == machine.number() && !machine.is_idle() && !fin_waits));
                Event::Nothing
            }),
            Piece::Control { kind, stream, payload } => machine.receive(kind, stream, &payload, &mut sent),
        };
        let Ok(event) = result else { break };
        assert!(machine.number() >= before.0, "stream numbers only grow");
        match event {
            Event::Open(_) => {
                assert!(role == Role::Acceptor && before.1 && !machine.is_idle() && machine.number() > before.0);
                fin_waits = false;
            }
            Event::Accepted { .. } => assert!(role == Role::Opener && !before.2 && machine.accepted()),
            Event::Refused(_) => assert!(role == Role::Opener && !before.2 && machine.is_idle()),
            Event::Fin => {
                assert!(!fin_waits && !machine.is_idle());
                fin_waits = true;
            }
            Event::Reset(_) | Event::Over => assert!(!before.1 && machine.is_idle()),
            Event::Drain => assert!(machine.draining()),
            Event::Nothing => {}
        }
        if machine.is_idle() {
            fin_waits = false;
        }
    }
    check_sent(role, &sent);
}

fn local(machine: &mut Machine, act: u8, fin_waits: &mut bool, out: &mut Vec<u8>) {
    let sendable = machine.can_send();
    match act % 8 {
        0 => *fin_waits &= machine.open(&OpenMeta::default(), out).is_none(),
        1 if machine.role() == Role::Acceptor => machine.accept(machine.number() & 1 == 1, out),
        2 if machine.role() == Role::Acceptor => machine.refuse(&Refusal::new(Reason::PolicyDenied, true, "a/b"), out),
        3 => *fin_waits &= !machine.fin(0, out),
        4 => *fin_waits &= !machine.fin_delivered(out),
        5 if !machine.is_idle() => *fin_waits &= !machine.reset(Reason::ClientReset, out),
        6 => machine.drain(out),
        _ if sendable => {
            put(out, Kind::Data, machine.number(), b"x");
            machine.note_sent(1);
        }
        _ => {}
    }
    if machine.is_idle() {
        *fin_waits = false;
    }
}

/// Whatever the peer did, what this side sent is in order: whole frames, no data after its own FIN or RST.
fn check_sent(role: Role, sent: &[u8]) {
    let mut ended = 0;
    let meant = follow(std::iter::once(sent));
    assert_eq!(meant.last(), Some(&Meant::End { at_boundary: true }));
    for m in meant {
        match m {
            Meant::Control(Kind::Open, ..) => assert_eq!(role, Role::Opener),
            Meant::Control(Kind::Accept | Kind::Refuse, ..) => assert_eq!(role, Role::Acceptor),
            Meant::Control(Kind::Fin | Kind::Rst, stream, _) => ended = stream,
            Meant::Control(Kind::Pong, stream, payload) => assert!(stream == 0 && payload.len() <= HEADER),
            Meant::Data(stream, _) => assert!(stream > ended, "data of stream {stream} after its end"),
            _ => {}
        }
    }
}
