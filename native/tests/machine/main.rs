//! Both ends of a tunnel, without sockets: every order of half close, reset, drain, refusal and delay, judged by one model.

mod ends;

use std::collections::VecDeque;

use fairlead::reason::Reason;
use fairlead::tunnel::frame::{Decoder, Kind, OpenMeta, Piece, Refusal, put};
use fairlead::tunnel::machine::{Event, Machine, Role};
use proptest::prelude::*;

/// One thing that may happen next; what is impossible in the present state is skipped.
#[derive(Clone, Copy, Debug)]
enum Act {
    Open,
    Accept,
    Refuse,
    Data(bool),
    Fin(bool),
    Reset(bool),
    /// The application takes what waits for it, and the FIN behind it.
    Deliver(bool),
    Drain,
    Ping(bool),
    /// So many bytes of the wire arrive.
    Carry(bool, usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Open),
        3 => Just(Act::Accept),
        1 => Just(Act::Refuse),
        6 => any::<bool>().prop_map(Act::Data),
        4 => any::<bool>().prop_map(Act::Fin),
        1 => any::<bool>().prop_map(Act::Reset),
        8 => any::<bool>().prop_map(Act::Deliver),
        1 => Just(Act::Drain),
        1 => any::<bool>().prop_map(Act::Ping),
        20 => (any::<bool>(), 1usize..60).prop_map(|(side, n)| Act::Carry(side, n)),
    ]
}

struct Side {
    machine: Machine,
    decoder: Decoder,
    /// Bytes on their way to this side.
    wire: VecDeque<u8>,
    /// Data of the current stream that the application has not taken, and whether the FIN stands behind it.
    waiting: Vec<u8>,
    fin_waits: bool,
    /// What this side's application sent and got in the current stream.
    sent: Vec<u8>,
    got: Vec<u8>,
    connected: bool,
    /// The stream was cut (RST or REFUSE): nothing is promised about its bytes.
    cut: bool,
}

struct World {
    sides: [Side; 2],
    next_byte: u8,
    /// Per finished stream and direction: what was sent and what was got, when neither side cut it.
    finished: u32,
}

const OPENER: usize = 0;
const ACCEPTOR: usize = 1;

impl World {
    fn new() -> Self {
        let side = |role| Side {
            machine: Machine::new(role),
            decoder: Decoder::default(),
            wire: VecDeque::new(),
            waiting: Vec::new(),
            fin_waits: false,
            sent: Vec::new(),
            got: Vec::new(),
            connected: false,
            cut: false,
        };
        World { sides: [side(Role::Opener), side(Role::Acceptor)], next_byte: 0, finished: 0 }
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        self.sides[1 - from].wire.extend(bytes);
    }

    fn run(&mut self, act: Act) {
        let mut out = Vec::new();
        match act {
            Act::Open => {
                let side = &mut self.sides[OPENER];
                if side.machine.open(&OpenMeta::default(), &mut out).is_some() {
                    side.begin();
                }
                self.send(OPENER, out);
            }
            Act::Accept => {
                let side = &mut self.sides[ACCEPTOR];
                if !side.machine.is_idle() && !side.connected && !side.cut {
                    side.connected = true;
                    side.machine.accept(true, &mut out);
                }
                self.send(ACCEPTOR, out);
            }
            Act::Refuse => {
                let side = &mut self.sides[ACCEPTOR];
                if !side.machine.is_idle() && !side.connected && !side.cut {
                    side.machine.refuse(&Refusal::new(Reason::PolicyDenied, true, "a/b"), &mut out);
                    side.cut();
                }
                self.send(ACCEPTOR, out);
            }
            Act::Data(who) => {
                let from = usize::from(who);
                self.next_byte = self.next_byte.wrapping_add(1);
                let side = &mut self.sides[from];
                if side.machine.can_send() {
                    let data = vec![self.next_byte; 1 + usize::from(self.next_byte % 30)];
                    put(&mut out, Kind::Data, side.machine.number(), &data);
                    side.machine.note_sent(data.len());
                    side.sent.extend_from_slice(&data);
                }
                self.send(from, out);
            }
            Act::Fin(who) => {
                let from = usize::from(who);
                let side = &mut self.sides[from];
                let over = side.machine.fin(side.waiting.len(), &mut out);
                self.send(from, out);
                if over {
                    self.note_end(from);
                }
            }
            Act::Reset(who) => {
                let from = usize::from(who);
                let side = &mut self.sides[from];
                if !side.machine.is_idle() && !side.machine.both_ended() {
                    side.machine.reset(Reason::ClientReset, &mut out);
                    side.cut();
                }
                self.send(from, out);
            }
            Act::Deliver(who) => self.deliver(usize::from(who)),
            Act::Drain => {
                self.sides[ACCEPTOR].machine.drain(&mut out);
                self.send(ACCEPTOR, out);
            }
            Act::Ping(who) => {
                put(&mut out, Kind::Ping, 0, b"12345678");
                self.send(usize::from(who), out);
            }
            Act::Carry(who, n) => self.carry(usize::from(who), n),
        }
    }

    fn deliver(&mut self, to: usize) {
        let mut out = Vec::new();
        let side = &mut self.sides[to];
        if side.machine.is_idle() || !side.machine.accepted() {
            return;
        }
        let waiting = std::mem::take(&mut side.waiting);
        side.got.extend(waiting);
        if side.fin_waits {
            side.fin_waits = false;
            side.machine.fin_delivered(&mut out);
        }
        self.send(to, out);
        self.note_end(to);
    }

    /// At the end of an uncut stream both applications have exactly what the other one sent.
    fn note_end(&mut self, at: usize) {
        let (a, b) = (&self.sides[at], &self.sides[1 - at]);
        if a.machine.is_idle() && !a.cut && !a.sent.is_empty() && a.machine.number() == b.machine.number() && !b.cut {
            assert_eq!(a.got, b.sent, "stream {}", a.machine.number());
            assert_eq!(a.sent, b.got, "stream {}", a.machine.number());
            self.finished += 1;
        }
    }

    fn carry(&mut self, to: usize, n: usize) {
        // As in the relay: nothing is read while the application has not taken what is there.
        if !self.sides[to].waiting.is_empty() || self.sides[to].fin_waits {
            return;
        }
        let n = n.min(self.sides[to].wire.len());
        let chunk: Vec<u8> = self.sides[to].wire.drain(..n).collect();
        let mut at = 0;
        let mut out = Vec::new();
        loop {
            let side = &mut self.sides[to];
            let Some(piece) = side.decoder.next(&chunk, &mut at).expect("no violation") else { break };
            match piece {
                Piece::Data { stream, start, end } => {
                    if side.machine.data(stream, end - start).expect("no violation") {
                        side.waiting.extend_from_slice(&chunk[start..end]);
                    }
                }
                Piece::Control { kind, stream, payload } => {
                    let event = side.machine.receive(kind, stream, &payload, &mut out).expect("no violation");
                    match event {
                        Event::Open(_) => side.begin(),
                        Event::Fin => {
                            // As in the relay: it is passed on before the next frame, which may be OPEN, is looked at.
                            side.fin_waits = true;
                            for byte in chunk[at..].iter().rev() {
                                side.wire.push_front(*byte);
                            }
                            break;
                        }
                        Event::Reset(_) | Event::Refused(_) => side.cut(),
                        Event::Over => self.note_end(to),
                        _ => {}
                    }
                }
            }
        }
        self.send(to, out);
    }

    /// Lets everything come to an end: applications end in order, the wire is emptied.
    fn settle(&mut self) {
        for _ in 0..400 {
            for act in [
                Act::Accept,
                Act::Deliver(false),
                Act::Deliver(true),
                Act::Fin(false),
                Act::Fin(true),
                Act::Carry(false, 4_096),
                Act::Carry(true, 4_096),
            ] {
                self.run(act);
            }
        }
    }
}

impl Side {
    fn begin(&mut self) {
        self.sent.clear();
        self.got.clear();
        self.waiting.clear();
        self.fin_waits = false;
        self.connected = false;
        self.cut = false;
    }

    fn cut(&mut self) {
        self.cut = true;
        self.waiting.clear();
        self.fin_waits = false;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// [DP-14] whatever happens in whatever order: no violation, no byte of another stream, and the tunnel becomes free again.
    #[test]
    fn every_order_ends_in_a_free_tunnel(acts in prop::collection::vec(act(), 1..250)) {
        let mut world = World::new();
        for act in &acts {
            world.run(*act);
        }
        world.settle();
        for side in &world.sides {
            prop_assert!(side.machine.is_idle(), "stream {} hangs", side.machine.number());
            prop_assert!(side.wire.is_empty());
            prop_assert!(side.decoder.at_boundary());
        }
        prop_assert_eq!(world.sides[0].machine.number(), world.sides[1].machine.number());
    }
}

#[test]
#[doc = "[DP-14] the model does compare bytes: streams that end in order are counted"]
fn the_model_sees_finished_streams() {
    let mut world = World::new();
    for _ in 0..5 {
        world.run(Act::Open);
        world.run(Act::Carry(true, 4_096));
        world.run(Act::Accept);
        world.run(Act::Data(false));
        world.run(Act::Data(true));
        world.settle();
    }
    assert!(world.finished >= 5);
}

#[test]
#[doc = "[DP-14] an OPEN that crosses a DRAIN is refused as draining, not started"]
fn open_crossing_drain() {
    let (mut opener, mut acceptor) = (Machine::new(Role::Opener), Machine::new(Role::Acceptor));
    let (mut there, mut back) = (Vec::new(), Vec::new());
    acceptor.drain(&mut back);
    opener.open(&OpenMeta::default(), &mut there).unwrap();
    let mut decoder = Decoder::default();
    let Ok(Some(Piece::Control { kind, stream, payload })) = decoder.next(&there, &mut 0) else { panic!() };
    assert_eq!(acceptor.receive(kind, stream, &payload, &mut back), Ok(Event::Nothing));
    assert!(acceptor.is_idle());
    let (mut at, mut decoder, mut events) = (0, Decoder::default(), Vec::new());
    while let Ok(Some(Piece::Control { kind, stream, payload })) = decoder.next(&back, &mut at) {
        events.push(opener.receive(kind, stream, &payload, &mut Vec::new()).unwrap());
    }
    assert_eq!(events, [Event::Drain, Event::Refused(Refusal::new(Reason::PeerDraining, true, ""))]);
    assert!(opener.is_idle() && opener.open(&OpenMeta::default(), &mut Vec::new()).is_none());
}

#[test]
#[doc = "[DP-14] an offer is taken only by an ACCEPT that says so, and only where it was made, whatever version the other agent has"]
fn an_offer_is_taken_only_where_it_was_made() {
    use fairlead::tunnel::frame::accept_payload;
    for (offers, payload, taken) in
        [(true, accept_payload(true), true), (true, Vec::new(), false), (true, vec![9, 0, 1, 1], false), (false, accept_payload(true), false)]
    {
        let mut opener = Machine::new(Role::Opener);
        opener.open(&OpenMeta { requests: offers, ..OpenMeta::default() }, &mut Vec::new()).unwrap();
        let event = opener.receive(Kind::Accept, 1, &payload, &mut Vec::new()).unwrap();
        assert_eq!(event, Event::Accepted { requests: taken });
    }
}
