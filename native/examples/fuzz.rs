//! Mutation fuzzer for every parser that reads bytes of the network. A panic ends it and leaves the input behind.
//! Usage: fuzz TARGET SECONDS [SEED]; targets: detect, hello, frames, validity, channel, plan. Corpus: native/fuzz/TARGET.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fairlead::detect::{Detector, client_hello, detect};
use fairlead::tunnel::frame::{Decoder, OpenMeta, Piece, Refusal};
use fairlead::tunnel::machine::{Machine, Role};

/// Inputs kept in memory; more would only repeat.
const KEPT: usize = 4_096;

fn run(target: &str, input: &[u8]) -> u64 {
    match target {
        "detect" => {
            let mut detector = Detector::default();
            let cut = input.first().map_or(1, |b| usize::from(*b) + 1);
            input.chunks(cut).for_each(|c| detector.from_client(c));
            detector.protocol() as u64 | (detect(input) != detect(&input[..input.len() / 2])) as u64 * 16
        }
        "hello" => match client_hello::parse(input) {
            client_hello::Parsed::NotTls => 0,
            client_hello::Parsed::NeedMore => 1,
            client_hello::Parsed::Hello(h) => 2 + h.alpn.len() as u64 + u64::from(h.server_name.is_some()) * 64,
        },
        "frames" => {
            let mut seen = 0u64;
            for role in [Role::Opener, Role::Acceptor] {
                let (mut decoder, mut machine, mut out, mut at) = (Decoder::default(), Machine::new(role), Vec::new(), 0);
                if role == Role::Opener {
                    machine.open(&OpenMeta::default(), &mut out);
                }
                while let Ok(Some(piece)) = decoder.next(input, &mut at) {
                    let broken = match piece {
                        Piece::Data { stream, .. } => machine.data(stream).is_err(),
                        Piece::Control { kind, stream, payload } => {
                            seen |= 1 << kind as u64;
                            machine.receive(kind, stream, &payload, &mut out).is_err()
                        }
                    };
                    if broken {
                        break;
                    }
                }
                seen = seen << 16 | u64::from(machine.number().min(255)) << 8 | u64::from(machine.is_idle());
            }
            let _ = (OpenMeta::decode(input), Refusal::decode(input));
            seen
        }
        "validity" => fairlead::tls::validity::not_after_ms(input).map_or(0, |_| 1),
        "channel" => {
            let mut reader = fairlead::channel::FrameReader::default();
            reader.push(input);
            let mut count = 0;
            while let Ok(Some(_)) = reader.next_frame() {
                count += 1;
            }
            count
        }
        "plan" => serde_json::from_slice(input).map_or(0, |v| 1 + u64::from(fairlead::relay::plan::Plan::parse(&v).is_ok())),
        other => panic!("no target {other}"),
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, 22, 4][random.below(7)],
            2 => input.insert(at, random.below(256) as u8),
            3 => input.truncate(at),
            4 => {
                let from = random.below(other.len() + 1);
                let piece = other[from..].to_vec();
                input.splice(at..at, piece);
            }
            _ if at < input.len() => {
                input.remove(at);
            }
            _ => {}
        }
    }
    input.truncate(20_000);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (Some(target), Some(seconds)) = (args.get(1), args.get(2).and_then(|s| s.parse().ok())) else {
        eprintln!("usage: fuzz TARGET SECONDS [SEED]");
        std::process::exit(2);
    };
    let mut random = Random(args.get(3).and_then(|s| s.parse().ok()).unwrap_or(1));
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target);
    let mut corpus: Vec<Vec<u8>> =
        std::fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(|f| std::fs::read(f.path()).ok()).collect();
    corpus.push(Vec::new());
    let mut seen: std::collections::HashSet<u64> = corpus.iter().map(|i| run(target, i)).collect();
    let (started, mut runs) = (Instant::now(), 0u64);
    while started.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..1_000 {
            runs += 1;
            let mut input = corpus[random.below(corpus.len())].clone();
            let other = corpus[random.below(corpus.len())].clone();
            mutate(&mut input, &other, &mut random);
            let result = std::panic::catch_unwind(|| run(target, &input));
            match result {
                Err(_) => {
                    let path = folder.join("crash");
                    let _ = std::fs::write(&path, &input);
                    eprintln!("panic after {runs} runs; the input is in {}", path.display());
                    std::process::exit(1);
                }
                // A new outcome is worth keeping: it leads further in.
                Ok(outcome) if corpus.len() < KEPT && seen.insert(outcome) => corpus.push(input),
                Ok(_) => {}
            }
        }
    }
    println!("{target}: {runs} runs, {} outcomes, no crash", seen.len());
}
