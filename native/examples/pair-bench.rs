//! What one hop between two threads of a process costs: over a socket pair, as a data thread has it, and over loopback TCP.
//! CPU of the whole process per request (100 B up, 1 KiB down, ping-pong) and per GB in pieces of 64 KiB. Usage: pair-bench [seconds]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// User and system time of this process, in µs (ticks of 10 ms).
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

fn tcp() -> (UnixStream, UnixStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    // Reads and writes are the same for both kinds.
    (OwnedFd::from(near).into(), OwnedFd::from(far).into())
}

fn requests(pair: (UnixStream, UnixStream), time: Duration) -> String {
    let (mut near, mut far) = pair;
    let server = thread::spawn(move || {
        let (mut room, answer) = ([0; 4_096], [1; 1_024]);
        while let Ok(1..) = far.read(&mut room) {
            far.write_all(&answer).unwrap();
        }
    });
    let (from, began, mut count) = (cpu_us(), Instant::now(), 0u64);
    let mut room = [0; 1_024];
    while began.elapsed() < time {
        for _ in 0..100 {
            near.write_all(&[1; 100]).unwrap();
            near.read_exact(&mut room).unwrap();
        }
        count += 100;
    }
    let used = cpu_us() - from;
    drop(near);
    server.join().unwrap();
    format!("{:.2} us per request, {:.0}/s", used as f64 / count as f64, count as f64 / time.as_secs_f64())
}

fn bulk(pair: (UnixStream, UnixStream), time: Duration) -> String {
    let (mut near, mut far) = pair;
    let sink = thread::spawn(move || {
        let (mut room, mut total) = (vec![0; 65_536], 0u64);
        while let Ok(n @ 1..) = far.read(&mut room) {
            total += n as u64;
        }
        total
    });
    let (from, began, piece) = (cpu_us(), Instant::now(), vec![1; 65_536]);
    while began.elapsed() < time {
        near.write_all(&piece).unwrap();
    }
    drop(near);
    let total = sink.join().unwrap() as f64 / 1e9;
    format!("{:.0} ms per GB, {:.2} GB/s", (cpu_us() - from) as f64 / 1_000.0 / total, total / time.as_secs_f64())
}

fn main() {
    let time = Duration::from_secs(std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(3));
    for _ in 0..3 {
        println!("socket pair: {}; {}", requests(UnixStream::pair().unwrap(), time), bulk(UnixStream::pair().unwrap(), time));
        println!("loopback TCP: {}; {}", requests(tcp(), time), bulk(tcp(), time));
    }
}
