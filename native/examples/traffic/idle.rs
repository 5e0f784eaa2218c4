//! Connections that stay open and prove themselves: each round is 32 fresh bytes, answered by the hash over all that were ever sent.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use crate::Options;
use crate::client::{Target, lines, print};
use crate::wire::{self, Head, Keystream, Order, UP};

const ROUND: usize = 32;
/// Opened at once.
const BATCH: u64 = 50;

fn chained(chain: &[u8; ROUND], round: &[u8; ROUND]) -> [u8; ROUND] {
    let mut hash = Context::new(&SHA256);
    hash.update(chain);
    hash.update(round);
    hash.finish().as_ref().try_into().expect("32 bytes")
}

/// The server's side. A lost or foreign byte shows in every later answer.
pub async fn answer(stream: &TcpStream) -> std::io::Result<()> {
    let (mut chain, mut round) = ([0; ROUND], [0; ROUND]);
    while wire::read_exact(stream, &mut round).await? {
        chain = chained(&chain, &round);
        wire::write_all(stream, &chain).await?;
    }
    wire::finish(stream)
}

struct Idle {
    stream: TcpStream,
    bytes: Keystream,
    chain: [u8; ROUND],
    dead: Option<String>,
    timeout: Duration,
}

impl Idle {
    async fn open(target: &Target, seed: u32) -> Result<Self, String> {
        let stream = target.connect().await?;
        let head = Head { order: Order::Idle, seed, up: 0, down: 0 };
        wire::write_all(&stream, &head.encode()).await.map_err(|e| wire::name_of(&e))?;
        let mut one = Self { stream, bytes: Keystream::new(seed, UP), chain: [0; ROUND], dead: None, timeout: target.timeout };
        one.prove().await.map(|()| one)
    }

    async fn prove(&mut self) -> Result<(), String> {
        if let Some(reason) = &self.dead {
            return Err(reason.clone());
        }
        let result = self.round().await;
        self.dead = result.as_ref().err().cloned();
        result
    }

    async fn round(&mut self) -> Result<(), String> {
        let (mut round, mut got) = ([0; ROUND], [0; ROUND]);
        self.bytes.fill(&mut round);
        self.chain = chained(&self.chain, &round);
        let exchange = async {
            wire::write_all(&self.stream, &round).await?;
            wire::read_exact(&self.stream, &mut got).await
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Err(_) => Err("no answer".into()),
            Ok(Err(e)) => Err(wire::name_of(&e)),
            Ok(Ok(false)) => Err("closed".into()),
            Ok(Ok(true)) if got != self.chain => Err("wrong hash".into()),
            Ok(Ok(true)) => Ok(()),
        }
    }
}

pub async fn run(o: &Options) {
    let target = Rc::new(Target::of(o));
    let (count, seed) = (o.number("count").unwrap_or(100), o.number("seed").unwrap_or(1));
    let mut all = Vec::new();
    let mut refused = BTreeMap::<String, u64>::new();
    for first in (0..count).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..count.min(first + BATCH))
            .map(|i| {
                let target = Rc::clone(&target);
                spawn_local(async move { Idle::open(&target, (seed * 100_000 + i) as u32).await })
            })
            .collect();
        for one in batch {
            match one.await.expect("a task") {
                Ok(idle) => all.push(Rc::new(Mutex::new(idle))),
                Err(reason) => *refused.entry(reason).or_default() += 1,
            }
        }
    }
    print(&json!({"open": all.len(), "refused": refused.values().sum::<u64>(), "reasons": refused}));
    let mut input = lines();
    while let Some(line) = input.recv().await {
        if line == "quit" {
            break;
        }
        let proofs: Vec<_> = all.iter().map(Rc::clone).map(|one| spawn_local(async move { one.lock().await.prove().await })).collect();
        let (mut ok, mut reasons) = (0, BTreeMap::<String, u64>::new());
        for proof in proofs {
            match proof.await.expect("a task") {
                Ok(()) => ok += 1,
                Err(reason) => *reasons.entry(reason).or_default() += 1,
            }
        }
        print(&json!({"checked": all.len(), "ok": ok, "reasons": reasons}));
    }
}
