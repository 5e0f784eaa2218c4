//! Bytes of random sizes through the tunnel, the sides ending in every order, compared by hash.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use ring::digest::{Context, SHA256};

use crate::mesh::Mesh;
use crate::node::{app, dial, number, reason, wait_for};

/// A small generator: a failure names its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Sends `size` bytes that follow from `seed` and returns their hash.
fn send(mut to: &TcpStream, seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut hash = Context::new(&SHA256);
    let mut left = size;
    while left > 0 {
        let chunk: Vec<u8> = (0..left.min(1 + random.next() as usize % 40_000)).map(|i| (i as u64 ^ random.0) as u8).collect();
        to.write_all(&chunk).unwrap();
        hash.update(&chunk);
        left -= chunk.len();
        random.next();
    }
    hash.finish().as_ref().to_vec()
}

fn receive(mut from: &TcpStream) -> (usize, Vec<u8>) {
    let (mut hash, mut total, mut room) = (Context::new(&SHA256), 0, vec![0; 70_000]);
    loop {
        match from.read(&mut room).unwrap() {
            0 => return (total, hash.finish().as_ref().to_vec()),
            n => {
                hash.update(&room[..n]);
                total += n;
            }
        }
    }
}

/// The server: reads a head (seed, size, order), sends as asked, and answers with the hash of what it got.
/// Orders: 0 the client ends first, 1 the server ends first, 2 both as they please.
pub fn serve(stream: TcpStream) {
    let mut head = [0u8; 17];
    if (&stream).read_exact(&mut head).is_err() {
        return;
    }
    let seed = u64::from_le_bytes(head[..8].try_into().unwrap());
    let size = u64::from_le_bytes(head[8..16].try_into().unwrap()) as usize;
    let sending = stream.try_clone().unwrap();
    match head[16] {
        0 => {
            let (_, hash) = receive(&stream);
            send(&sending, seed, size);
            (&sending).write_all(&hash).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        }
        1 => {
            send(&sending, seed, size);
            sending.shutdown(Shutdown::Write).unwrap();
            receive(&stream);
        }
        _ => {
            let writer = thread::spawn(move || {
                send(&sending, seed, size);
                sending.shutdown(Shutdown::Write).unwrap();
            });
            receive(&stream);
            writer.join().unwrap();
        }
    }
}

/// One exchange; checks what can be checked in that order.
pub fn exchange(to: SocketAddr, seed: u64, up: usize, down: usize, order: u8) {
    let stream = dial(to);
    let mut head = seed.to_le_bytes().to_vec();
    head.extend((down as u64).to_le_bytes());
    head.push(order);
    (&stream).write_all(&head).unwrap();
    let sending = stream.try_clone().unwrap();
    let expected = {
        // What the server will send, hashed without a network.
        let mut random = Random(seed);
        let (mut hash, mut left) = (Context::new(&SHA256), down);
        while left > 0 {
            let chunk: Vec<u8> = (0..left.min(1 + random.next() as usize % 40_000)).map(|i| (i as u64 ^ random.0) as u8).collect();
            hash.update(&chunk);
            left -= chunk.len();
            random.next();
        }
        hash.finish().as_ref().to_vec()
    };
    match order {
        0 => {
            let sent = send(&sending, seed ^ 1, up);
            sending.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            (&stream).read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), down + 32, "seed {seed}");
            let (data, hash) = all.split_at(down);
            assert_eq!(ring::digest::digest(&SHA256, data).as_ref(), expected, "seed {seed}");
            assert_eq!(hash, sent, "seed {seed}");
        }
        _ => {
            let writer = thread::spawn(move || {
                send(&sending, seed ^ 1, up);
                sending.shutdown(Shutdown::Write).unwrap();
            });
            let (total, hash) = receive(&stream);
            assert_eq!((total, hash), (down, expected), "seed {seed}");
            writer.join().unwrap();
        }
    }
}

/// Set in the process that runs one test alone.
const ALONE: &str = "FAIRLEAD_TEST_ALONE";

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[doc = "[INT-9] [DP-14] random sizes and half-close orders through the tunnel: no byte lost, no hang, tunnels reused"]
fn bytes_survive_every_order_of_ends() {
    // Descriptors are counted, and other tests open some too: it runs in a process of its own.
    if std::env::var_os(ALONE).is_none() {
        let mut own = std::process::Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "transfer::bytes_survive_every_order_of_ends", "--nocapture"]).env(ALONE, "1");
        let done = own.output().unwrap();
        assert!(done.status.success(), "{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"), "it did run");
        return;
    }
    let mesh = Mesh::new(app(serve));
    let to = mesh.client.outbound();
    let before = open_descriptors();
    let threads: Vec<_> = (0..4u64)
        .map(|t| {
            thread::spawn(move || {
                let mut random = Random(t + 1);
                for i in 0..60u64 {
                    let big = i % 15 == 0;
                    let mut size = || random.next() as usize % if big { 3_000_000 } else { 40_000 };
                    let (up, down) = (size(), size());
                    exchange(to, t << 32 | i, up, down, (i % 3) as u8);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let records = mesh.one.records(240);
    assert!(records.iter().all(|r| reason(r) == 0), "{:?}", records.iter().map(reason).collect::<Vec<_>>());
    assert!(records.iter().filter(|r| r[7] & 2 != 0).count() > 100, "tunnels were not reused");
    let other = mesh.two.records(240);
    let sum = |records: &[[u8; 128]], at| records.iter().map(|r| number(r, at)).sum::<u64>();
    assert_eq!(sum(&records, 48), sum(&other, 48));
    assert_eq!(sum(&records, 56), sum(&other, 56));
    // Only pooled tunnels stay open.
    wait_for(|| (open_descriptors() <= before + 20).then_some(()));
}
