//! Load program of the benchmarks: requests at a fixed rate, one connection per request, and storms of held connections.
//! Standard library and threads only, so that what it measures is not its own runtime. Prints one JSON document per result.
//!
//!   load rate    --target IP:PORT --rate 1000 --connections 16 --seconds 4
//!   load connect --target IP:PORT --connections 16 --seconds 4
//!   load storm   --target IP:PORT --connections 2000 --within-ms 1000     (reads "go" and "state" lines; ends with its input)

use std::collections::BTreeMap;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::Builder;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Threads do nothing deep; 2,000 of them must stay small beside what they measure.
const STACK: usize = 64 * 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Sleeps end when asked, not up to 50 µs later; threads inherit the setting from this one.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let result = Options::parse(&args).and_then(|o| match o.mode.as_str() {
        "rate" => {
            rate(&o);
            Ok(())
        }
        "connect" => {
            connect(&o);
            Ok(())
        }
        "storm" => {
            storm(&o);
            Ok(())
        }
        other => Err(format!("unknown mode {other:?}: use rate, connect or storm")),
    });
    if let Err(message) = result {
        eprintln!("load: {message}");
        std::process::exit(2);
    }
}

struct Options {
    mode: String,
    target: SocketAddr,
    connections: usize,
    seconds: f64,
    rate: f64,
    within: Duration,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mode = args.first().cloned().ok_or("a mode is needed: rate, connect or storm")?;
        let mut named = BTreeMap::new();
        for pair in args[1..].chunks(2) {
            let [name, value] = pair else { return Err(format!("{} needs a value", pair[0])) };
            named.insert(name.trim_start_matches("--").to_string(), value.clone());
        }
        let number = |name: &str, default: f64| match named.get(name) {
            None => Ok(default),
            Some(text) => text.parse::<f64>().ok().filter(|v| *v > 0.0).ok_or(format!("--{name} {text:?}: use a number above 0")),
        };
        let target = named.get("target").ok_or("--target IP:PORT is needed")?;
        Ok(Self {
            mode,
            target: target.parse().map_err(|_| format!("--target {target:?}: use IP:PORT"))?,
            connections: number("connections", 16.0)? as usize,
            seconds: number("seconds", 4.0)?,
            rate: number("rate", 1000.0)?,
            within: Duration::from_millis(number("within-ms", 1000.0)? as u64),
        })
    }
}

/// What a set of requests came to: latencies in milliseconds, failures by kind.
#[derive(Default)]
struct Tally {
    latencies: Vec<f64>,
    errors: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn add(&mut self, outcome: Result<f64, &'static str>) {
        match outcome {
            Ok(ms) => self.latencies.push(ms),
            Err(kind) => *self.errors.entry(kind).or_default() += 1,
        }
    }

    fn merge(&mut self, other: Tally) {
        self.latencies.extend(other.latencies);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }

    fn json(mut self, mode: &str, seconds: f64) -> String {
        self.latencies.sort_by(f64::total_cmp);
        let at = |q: f64| match self.latencies.len() {
            0 => 0.0,
            n => self.latencies[((n as f64 * q).ceil() as usize).clamp(1, n) - 1],
        };
        let errors: Vec<String> = self.errors.iter().map(|(kind, count)| format!("\"{kind}\":{count}")).collect();
        format!(
            "{{\"mode\":\"{mode}\",\"seconds\":{seconds:.4},\"ok\":{},\"errors\":{{{}}},\"perSecond\":{:.1},\"p50Ms\":{:.4},\"p90Ms\":{:.4},\"p99Ms\":{:.4},\"maxMs\":{:.4}}}",
            self.latencies.len(),
            errors.join(","),
            self.latencies.len() as f64 / seconds,
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0),
        )
    }
}

fn kind_of(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => "reset",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        ErrorKind::UnexpectedEof => "closed early",
        ErrorKind::PermissionDenied => "not permitted",
        ErrorKind::InvalidData => "bad answer",
        _ => "other",
    }
}

fn open(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One request and its whole answer (status 200 with Content-Length), nothing read beyond it.
fn exchange(mut stream: &TcpStream, close: bool) -> std::io::Result<()> {
    const KEEP: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
    const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    stream.write_all(if close { CLOSE } else { KEEP })?;
    let mut buffer = [0u8; 4096];
    let mut have = 0;
    loop {
        let n = stream.read(&mut buffer[have..])?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        have += n;
        let Some(total) = answer_length(&buffer[..have])? else { continue };
        if total > buffer.len() {
            return Err(ErrorKind::InvalidData.into());
        }
        if have >= total {
            break;
        }
    }
    // With "Connection: close" the answer is over only when the other side has said so.
    if close && stream.read(&mut buffer)? != 0 {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(())
}

/// Bytes of head and body together, once the head is complete.
fn answer_length(bytes: &[u8]) -> std::io::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if !head.starts_with("HTTP/1.1 200") {
        return Err(ErrorKind::InvalidData.into());
    }
    let length = head
        .lines()
        .filter_map(|l| l.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or(std::io::Error::from(ErrorKind::InvalidData))?;
    Ok(Some(end + 4 + length))
}

fn sleep_until(when: Instant) {
    let now = Instant::now();
    if when > now {
        std::thread::sleep(when - now);
    }
}

/// Runs `work` in `count` threads and adds up what they return.
fn in_threads(count: usize, work: impl Fn(usize) -> Tally + Send + Sync + 'static) -> Tally {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..count)
        .map(|i| {
            let work = Arc::clone(&work);
            Builder::new().stack_size(STACK).spawn(move || work(i)).expect("a thread")
        })
        .collect();
    let mut all = Tally::default();
    for thread in threads {
        all.merge(thread.join().expect("the thread's tally"));
    }
    all
}

/// Requests at a fixed rate over kept connections. A latency counts from the time at which the request was due, so a stall
/// shows in every request that it held up.
fn rate(o: &Options) {
    let (target, count, seconds) = (o.target, o.connections, o.seconds);
    let interval = Duration::from_secs_f64(count as f64 / o.rate);
    let start = Instant::now() + Duration::from_millis(300);
    let phase = interval.div_f64(count as f64);
    let tally = in_threads(count, move |i| {
        let mut tally = Tally::default();
        let mut stream = open(target).and_then(|s| exchange(&s, false).map(|()| s)).ok();
        let mut due = start + phase * i as u32;
        while due < start + Duration::from_secs_f64(seconds) {
            sleep_until(due);
            let outcome = match &stream {
                Some(s) => exchange(s, false),
                None => open(target).and_then(|s| exchange(&s, false).map(|()| stream = Some(s))),
            };
            if outcome.is_err() {
                stream = None;
            }
            tally.add(outcome.map(|()| due.elapsed().as_secs_f64() * 1e3).map_err(|e| kind_of(&e)));
            due += interval;
        }
        tally
    });
    println!("{}", tally.json("rate", seconds));
}

/// A connection per request, as many as go, `connections` at a time.
fn connect(o: &Options) {
    let (target, seconds) = (o.target, o.seconds);
    let start = Instant::now();
    let tally = in_threads(o.connections, move |_| {
        let mut tally = Tally::default();
        while start.elapsed().as_secs_f64() < seconds {
            let began = Instant::now();
            let outcome = open(target).and_then(|s| exchange(&s, true));
            tally.add(outcome.map(|()| began.elapsed().as_secs_f64() * 1e3).map_err(|e| kind_of(&e)));
        }
        tally
    });
    println!("{}", tally.json("connect", start.elapsed().as_secs_f64()));
}

/// Shared by the storm's threads: which wave is on, since when, and what came of it.
#[derive(Default)]
struct Wave {
    number: u64,
    start: Option<Instant>,
    tally: Tally,
    done: usize,
    open: usize,
    streams: Vec<Arc<TcpStream>>,
}

/// On every "go": drops what is still open, opens `connections` spread evenly over `within`, one exchange on each, then holds them
/// until the other side ends them. "state" prints how many are open.
fn storm(o: &Options) {
    let shared = Arc::new((Mutex::new(Wave::default()), Condvar::new()));
    for i in 0..o.connections {
        let (shared, target) = (Arc::clone(&shared), o.target);
        let offset = o.within.mul_f64(i as f64 / o.connections as f64);
        Builder::new().stack_size(STACK).spawn(move || member(&shared, target, offset)).expect("a thread");
    }
    for line in std::io::stdin().lock().lines() {
        match line.as_deref().map(str::trim) {
            Ok("go") => println!("{}", wave(&shared, o.connections)),
            Ok("state") => println!("{{\"open\":{}}}", shared.0.lock().expect("wave").open),
            Ok(_) => {}
            Err(_) => break,
        }
    }
}

fn wave(shared: &(Mutex<Wave>, Condvar), count: usize) -> String {
    let (lock, changed) = shared;
    let mut wave = lock.lock().expect("wave");
    for stream in wave.streams.drain(..) {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    while wave.open > 0 {
        wave = changed.wait(wave).expect("wave");
    }
    let start = Instant::now() + Duration::from_millis(100);
    (wave.tally, wave.done, wave.start) = (Tally::default(), 0, Some(start));
    wave.number += 1;
    changed.notify_all();
    while wave.done < count {
        wave = changed.wait(wave).expect("wave");
    }
    std::mem::take(&mut wave.tally).json("storm", start.elapsed().as_secs_f64())
}

fn member(shared: &(Mutex<Wave>, Condvar), target: SocketAddr, offset: Duration) {
    let (lock, changed) = shared;
    let mut seen = 0;
    loop {
        let start = {
            let mut wave = lock.lock().expect("wave");
            while wave.number == seen {
                wave = changed.wait(wave).expect("wave");
            }
            seen = wave.number;
            wave.start.expect("a start")
        };
        sleep_until(start + offset);
        let outcome = open(target).and_then(|s| exchange(&s, false).map(|()| Arc::new(s)));
        let ms = (start + offset).elapsed().as_secs_f64() * 1e3;
        let held = {
            let mut wave = lock.lock().expect("wave");
            wave.tally.add(outcome.as_ref().map(|_| ms).map_err(|e| kind_of(e)));
            wave.done += 1;
            if let Ok(stream) = &outcome {
                wave.open += 1;
                wave.streams.push(Arc::clone(stream));
            }
            changed.notify_all();
            outcome.ok()
        };
        let Some(stream) = held else { continue };
        let _ = stream.set_read_timeout(None);
        let _ = (&*stream).read(&mut [0u8; 16]);
        let mut wave = lock.lock().expect("wave");
        wave.streams.retain(|s| !Arc::ptr_eq(s, &stream));
        wave.open -= 1;
        drop(stream);
        changed.notify_all();
    }
}
