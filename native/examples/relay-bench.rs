//! Two nodes in one process, as in the tests, under load: CPU of the relay threads per request, per connection and per GB.
//! Usage: relay-bench [requests|connections|bulk] [seconds] [connections]

#![allow(unsafe_code, dead_code)]

#[path = "../tests/relay/mesh.rs"]
mod mesh;
#[path = "../tests/relay/node.rs"]
mod node;
#[path = "../tests/relay/pki.rs"]
mod pki;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mesh::{Mesh, allow, config};

const REQUEST: usize = 100;
const RESPONSE: usize = 1_024;

/// CPU of the relay threads so far, in µs (utime and stime of /proc, in ticks of 10 ms).
fn relay_cpu_us() -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.split_once(") ") else { continue };
        if name.contains("(relay-") {
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0);
        }
    }
    ticks * 10_000
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut room, response) = (vec![0; 262_144], vec![1; RESPONSE]);
    while let Ok(n) = stream.read(&mut room) {
        if n == 0 || (n <= REQUEST && stream.write_all(&response).is_err()) {
            return;
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let what = args.get(1).map_or("requests", String::as_str).to_owned();
    let seconds = args.get(2).and_then(|s| s.parse().ok()).unwrap_or(5);
    let connections = args.get(3).and_then(|s| s.parse().ok()).unwrap_or(16);
    let workers = args.get(4).and_then(|s| s.parse().ok()).unwrap_or(1);
    let mesh = Mesh::with(node::app(serve), config(|c| c.workers = workers), config(|c| c.workers = workers), allow);
    let to = mesh.client.outbound();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (stop, count, what) = (stop.clone(), count.clone(), what.clone());
            thread::spawn(move || {
                let (request, mut response) = (vec![2; REQUEST], vec![0; RESPONSE]);
                let open = || {
                    let stream = TcpStream::connect(to).unwrap();
                    stream.set_nodelay(true).unwrap();
                    stream
                };
                let mut stream = open();
                let big = vec![3; 262_144];
                while !stop.load(Ordering::Relaxed) {
                    match what.as_str() {
                        "bulk" => {
                            stream.write_all(&big).unwrap();
                            count.fetch_add(big.len() as u64, Ordering::Relaxed);
                            continue;
                        }
                        "connections" => stream = open(),
                        _ => {}
                    }
                    stream.write_all(&request).unwrap();
                    stream.read_exact(&mut response).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let (cpu, done, started) = (relay_cpu_us(), count.load(Ordering::Relaxed), Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    let (cpu, done, took) = (relay_cpu_us() - cpu, count.load(Ordering::Relaxed) - done, started.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let made = mesh.one.counter("tunnels_made");
    if what == "bulk" {
        println!("{:.2} Gbit/s, relay CPU {:.2} s per GB, tunnels {made}", done as f64 * 8.0 / took / 1e9, cpu as f64 / 1e6 / (done as f64 / 1e9));
    } else {
        println!("{:.0} {what}/s, relay CPU {:.1} us each (both nodes), tunnels {made}", done as f64 / took, cpu as f64 / done as f64);
    }
}
