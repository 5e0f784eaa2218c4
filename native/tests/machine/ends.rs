//! How a stream ends: which FIN acknowledges, when FIN_ACK is sent, resets that cross.

use super::*;

/// A stream with a request that has come to the acceptor, which has answered.
fn answered() -> World {
    let mut world = World::new();
    for act in [Act::Open, Act::Data(false), Act::Carry(true, 4_096), Act::Accept] {
        world.run(act);
    }
    world
}

#[test]
#[doc = "[DP-14] a FIN that says that everything has arrived acknowledges the peer's FIN: no FIN_ACK, and the tunnel is free"]
fn fin_acknowledges() {
    let mut world = answered();
    let (opener, acceptor) = (Act::Carry(false, 4_096), Act::Carry(true, 4_096));
    for act in [Act::Deliver(true), Act::Data(true), Act::Fin(true), opener, Act::Deliver(false), Act::Fin(false)] {
        world.run(act);
    }
    assert!(world.sides[OPENER].machine.is_idle(), "waits for an acknowledgement");
    // The next stream is right behind.
    world.run(Act::Open);
    let kinds = kinds(&world.sides[ACCEPTOR].wire);
    assert_eq!(kinds, [Kind::Fin, Kind::Open]);
    world.run(Act::Carry(true, 16));
    world.run(Act::Deliver(true));
    assert!(world.sides[ACCEPTOR].machine.is_idle() && world.finished == 1);
    world.run(acceptor);
    world.settle();
    assert!(world.sides.iter().all(|s| s.machine.is_idle() && s.machine.number() == 2));
}

#[test]
#[doc = "[DP-14] FIN_ACK is sent for what had not arrived when the own FIN was, and not before that"]
fn fin_ack_for_the_rest() {
    let mut world = answered();
    // The acceptor's application ends without having read.
    for act in [Act::Fin(true), Act::Carry(false, 4_096), Act::Deliver(false), Act::Fin(false)] {
        world.run(act);
    }
    assert!(!world.sides[OPENER].machine.is_idle(), "free before its bytes have arrived");
    for act in [Act::Deliver(true), Act::Carry(true, 4_096), Act::Deliver(true)] {
        world.run(act);
    }
    assert_eq!(kinds(&world.sides[OPENER].wire), [Kind::FinAck]);
    world.run(Act::Carry(false, 4_096));
    assert!(world.sides.iter().all(|s| s.machine.is_idle()));
}

#[test]
#[doc = "[DP-14] an older peer, whose FIN says nothing of what has arrived, gets its FIN_ACK and gives one"]
fn fin_without_a_count() {
    let mut machine = Machine::new(Role::Opener);
    let mut out = Vec::new();
    machine.open(&OpenMeta::default(), &mut out).unwrap();
    machine.receive(Kind::Accept, 1, &[], &mut out).unwrap();
    assert_eq!(machine.receive(Kind::Fin, 1, &[], &mut out), Ok(Event::Fin));
    assert!(!machine.fin_delivered(&mut out));
    out.clear();
    assert!(!machine.fin(0, &mut out));
    assert_eq!(kinds(&out.into()), [Kind::Fin, Kind::FinAck]);
    assert_eq!(machine.receive(Kind::FinAck, 1, &[], &mut Vec::new()), Ok(Event::Over));
    assert!(machine.is_idle());
}

#[test]
#[doc = "[DP-14] a RST that crosses the FIN with which the stream ended for the peer is not answered, and not waited for"]
fn reset_crossing_the_end() {
    let mut world = answered();
    for act in [Act::Deliver(true), Act::Fin(true), Act::Carry(false, 4_096), Act::Deliver(false), Act::Fin(false)] {
        world.run(act);
    }
    let mut out = Vec::new();
    assert!(!world.sides[ACCEPTOR].machine.reset(Reason::Administrative, &mut out));
    world.send(ACCEPTOR, out);
    world.sides[ACCEPTOR].cut();
    world.run(Act::Open);
    world.settle();
    assert!(world.sides.iter().all(|s| s.machine.is_idle() && s.machine.number() == 2));
}

fn kinds(wire: &VecDeque<u8>) -> Vec<Kind> {
    let bytes: Vec<u8> = wire.iter().copied().collect();
    let (mut decoder, mut at, mut kinds) = (Decoder::default(), 0, Vec::new());
    while let Ok(Some(piece)) = decoder.next(&bytes, &mut at) {
        kinds.push(match piece {
            Piece::Data { .. } => Kind::Data,
            Piece::Control { kind, .. } => kind,
        });
    }
    kinds
}
