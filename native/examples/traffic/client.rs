//! The asking side: conversations one after the other, all at once, or at a fixed rate whatever happens to those before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinSet, spawn_local};

use crate::wire::{self, Checker, DOWN, Head, Order, UP};
use crate::{Options, usage};

/// Latencies kept for the percentiles.
const SAMPLES: usize = 200_000;

pub struct Target {
    address: SocketAddr,
    pub timeout: Duration,
    hold: Duration,
}

impl Target {
    /// Names are looked up once, as a program with a pool of connections does.
    pub fn of(o: &Options) -> Self {
        let (host, port) = (o.text("host", "localhost"), o.number("port").unwrap_or(7000));
        let port = u16::try_from(port).unwrap_or_else(|_| usage("--port: at most 65535"));
        let address = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next());
        Self {
            address: address.unwrap_or_else(|| usage(&format!("--host {host:?}: not found"))),
            timeout: Duration::from_millis(o.number("timeout").unwrap_or(10_000)),
            hold: Duration::from_millis(o.number("hold").unwrap_or(0)),
        }
    }

    pub async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| format!("connect {}", wire::name_of(&e)))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// One whole conversation, checked byte by byte; its length or a short stable reason.
    async fn attempt(&self, head: Head) -> Result<Duration, String> {
        let started = Instant::now();
        let phase = Cell::new("connect timeout");
        let talk = async {
            let stream = self.connect().await?;
            phase.set("timeout waiting for data");
            let mut checker = Checker::new(head.seed, DOWN, head.down);
            self.converse(&stream, &head, &mut checker, &phase).await.map_err(|e| wire::name_of(&e))?;
            match checker.whole() {
                true => Ok(started.elapsed()),
                false => Err(format!("{}: received {}", head.order.name(), checker.fault())),
            }
        };
        tokio::time::timeout(self.timeout, talk).await.unwrap_or_else(|_| Err(phase.get().to_string()))
    }

    async fn converse(&self, stream: &TcpStream, head: &Head, checker: &mut Checker, phase: &Cell<&str>) -> std::io::Result<()> {
        let send = async |first: &[u8]| wire::send(stream, first, head.seed, UP, head.up).await;
        let bytes = head.encode();
        let mut first: &[u8] = &bytes;
        if !self.hold.is_zero() {
            wire::write_all(stream, first).await?;
            first = &[];
            tokio::time::sleep(self.hold).await;
        }
        match head.order {
            Order::ServerFin => {
                wire::write_all(stream, first).await?;
                wire::read_to_end(stream, checker).await?;
                send(&[]).await?;
                wire::finish(stream)
            }
            Order::Request => {
                let reading = async {
                    let mut room = vec![0; (head.down as usize).clamp(1, 64 * 1024)];
                    while !checker.complete() {
                        match wire::read(stream, &mut room).await? {
                            0 => return Ok(()),
                            n => checker.take(&room[..n]),
                        }
                    }
                    Ok(())
                };
                let (sent, read) = tokio::join!(send(first), reading);
                read.and(sent)?;
                wire::finish(stream)?;
                phase.set("timeout waiting for the end");
                wire::read_to_end(stream, checker).await
            }
            _ => {
                let sending = async {
                    send(first).await?;
                    wire::finish(stream)
                };
                let (sent, read) = tokio::join!(sending, wire::read_to_end(stream, checker));
                read.and(sent)
            }
        }
    }

    /// The server's own counts, over a connection of its own.
    async fn stats(&self) -> Value {
        let ask = async {
            let stream = self.connect().await?;
            let head = Head { order: Order::Stats, seed: 0, up: 0, down: 0 };
            let fail = |e: std::io::Error| wire::name_of(&e);
            wire::write_all(&stream, &head.encode()).await.map_err(fail)?;
            let (mut text, mut room) = (Vec::new(), [0; 4096]);
            loop {
                match wire::read(&stream, &mut room).await.map_err(fail)? {
                    0 => return serde_json::from_slice(&text).map_err(|e| e.to_string()),
                    n => text.extend_from_slice(&room[..n]),
                }
            }
        };
        let answer: Result<Result<Value, String>, _> = tokio::time::timeout(self.timeout, ask).await;
        answer.unwrap_or(Err("timeout".into())).unwrap_or_else(|error| json!({"error": error}))
    }
}

/// What a run did.
struct Tally {
    ok: u64,
    failed: u64,
    bytes: u64,
    reasons: BTreeMap<String, u64>,
    millis: Vec<f64>,
    started: Instant,
    last_ok: Instant,
    /// Longest time in which no conversation succeeded: the pause that a user would notice.
    gap: Duration,
}

impl Tally {
    fn new() -> Self {
        let now = Instant::now();
        Self { ok: 0, failed: 0, bytes: 0, reasons: BTreeMap::new(), millis: Vec::new(), started: now, last_ok: now, gap: Duration::ZERO }
    }

    fn add(&mut self, head: &Head, outcome: Result<Duration, String>) {
        match outcome {
            Err(reason) => {
                self.failed += 1;
                *self.reasons.entry(reason).or_default() += 1;
            }
            Ok(took) => {
                self.ok += 1;
                self.bytes += u64::from(head.up) + u64::from(head.down);
                self.gap = self.gap.max(self.last_ok.elapsed());
                self.last_ok = Instant::now();
                if self.millis.len() < SAMPLES {
                    self.millis.push(took.as_secs_f64() * 1e3);
                }
            }
        }
    }

    fn report(&self) -> Value {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let value = sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1)));
            (value.copied().unwrap_or(0.0) * 1000.0).round() / 1000.0
        };
        let seconds = self.started.elapsed().as_secs_f64();
        json!({
            "ok": self.ok, "failed": self.failed, "reasons": self.reasons, "bytes": self.bytes,
            "seconds": (seconds * 1000.0).round() / 1000.0, "perSecond": (self.ok as f64 / seconds).round() as u64,
            "p50Ms": at(0.5), "p99Ms": at(0.99), "maxMs": at(1.0), "longestGapMs": self.gap.as_millis() as u64,
        })
    }

    fn report_with(&self, name: &str, value: Value) -> Value {
        let mut report = self.report();
        report[name] = value;
        report
    }
}

/// Heads from a seed: the same seed gives the same run (splitmix64).
struct Heads {
    state: u64,
    orders: Vec<Order>,
    max: u64,
}

impl Heads {
    fn of(o: &Options) -> Self {
        let named = |name: &str| Order::named(name).unwrap_or_else(|| usage(&format!("--orders: {name:?} is not known")));
        let orders = o.text("orders", "request,client-fin,server-fin,both").split(',').map(named).collect();
        Self { state: o.number("seed").unwrap_or(1), orders, max: o.number("max").unwrap_or(2048).max(1) }
    }

    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next(&mut self) -> Head {
        let which = self.random() % self.orders.len() as u64;
        let order = self.orders[which as usize];
        Head { order, seed: self.random() as u32, up: (self.random() % self.max) as u32, down: (self.random() % self.max) as u32 }
    }
}

pub fn print(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

/// Lines of standard input; closed at its end.
pub fn lines() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line.trim().to_string()).is_err() {
                return;
            }
        }
    });
    receiver
}

pub async fn run(mode: &str, o: &Options) {
    let target = Rc::new(Target::of(o));
    let heads = Heads::of(o);
    let rate = o.number("rate").filter(|r| *r > 0);
    let count = o.number("count");
    match (mode, rate) {
        ("long", _) => at_once(target, heads, count.unwrap_or(100), usize::MAX).await,
        ("load", _) => open_loop(target, heads, rate.unwrap_or(100), count.unwrap_or(u64::MAX)).await,
        (_, Some(rate)) => open_loop(target, heads, rate, count.unwrap_or(100)).await,
        (_, None) => at_once(target, heads, count.unwrap_or(100), o.number("concurrency").unwrap_or(16) as usize).await,
    }
}

async fn at_once(target: Rc<Target>, mut heads: Heads, count: u64, concurrency: usize) {
    let mut tally = Tally::new();
    let mut running = JoinSet::new();
    for _ in 0..count {
        if running.len() >= concurrency
            && let Some(done) = running.join_next().await
        {
            let (head, outcome) = done.expect("a task");
            tally.add(&head, outcome);
        }
        let (target, head) = (Rc::clone(&target), heads.next());
        running.spawn_local(async move { (head, target.attempt(head).await) });
    }
    while let Some(done) = running.join_next().await {
        let (head, outcome) = done.expect("a task");
        tally.add(&head, outcome);
    }
    let server = target.stats().await;
    print(&tally.report_with("server", server));
}

/// Conversations start on time whether earlier ones have finished or not, so a stall is not hidden by waiting.
async fn open_loop(target: Rc<Target>, mut heads: Heads, rate: u64, count: u64) {
    let tally = Rc::new(RefCell::new(Tally::new()));
    let running = Rc::new(Cell::new(0u64));
    let mut input = lines();
    let (started, mut sent, mut stopped) = (Instant::now(), 0u64, false);
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    print(&json!({"started": true}));
    while !stopped && sent < count {
        let due = ((started.elapsed().as_secs_f64() * rate as f64) as u64).min(count);
        for _ in sent..due {
            let (target, tally, running, head) = (Rc::clone(&target), Rc::clone(&tally), Rc::clone(&running), heads.next());
            running.set(running.get() + 1);
            spawn_local(async move {
                let outcome = target.attempt(head).await;
                tally.borrow_mut().add(&head, outcome);
                running.set(running.get() - 1);
            });
        }
        sent = due;
        tokio::select! {
            _ = tick.tick() => {}
            line = input.recv(), if count == u64::MAX => match line.as_deref() {
                Some("report") => print(&tally.borrow().report()),
                Some("stop") | None => stopped = true,
                Some(_) => {}
            }
        }
    }
    while running.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let server = target.stats().await;
    let mut report = tally.borrow().report_with("server", server);
    report["sent"] = json!(sent);
    print(&report);
}
