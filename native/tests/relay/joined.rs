//! Joins of two sockets of a data thread: exact counts, order behind what was under way, back-pressure, cancel, resets and ends of
//! either side; plain sockets, and streams in tunnels without their pair.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use serde_json::{Value, json};

use crate::lane::Lane;
use crate::mesh::{Mesh, SERVER, allow, config};
use crate::node::{PATIENCE, app, number, reason, wait_for};
use crate::transfer::Random;

const MIB: usize = 1 << 20;

/// A TCP connection: one end for the thread under test, one for who is behind it.
fn tcp() -> (UnixStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = UnixStream::from(OwnedFd::from(listener.accept().unwrap().0));
    near.set_nonblocking(true).unwrap();
    (near, far)
}

fn side(fd: &UnixStream, id: u64) -> Value {
    json!({"fd": fd.as_raw_fd(), "cookie": sockopt::socket_cookie(fd).unwrap(), "id": id})
}

fn order(join: u64, from: &UnixStream, to: &UnixStream, bytes: usize) -> Value {
    json!({"join": join, "from": side(from, 900_001), "to": side(to, 900_002), "bytes": bytes})
}

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let word = random.next();
    (0..size as u64).map(|i| (i ^ (i >> 8) ^ word) as u8).collect()
}

fn told(reply: &Value) -> (String, u64, u64) {
    let end = &reply["ok"];
    (end["how"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned(), end["taken"].as_u64().unwrap(), end["moved"].as_u64().unwrap())
}

fn is(reply: &Value, how: &str, taken: usize) {
    assert_eq!(told(reply), (how.to_owned(), taken as u64, taken as u64));
}

/// Starts a join whose answer is waited for elsewhere.
fn joined(lane: &Arc<Lane>, order: Value) -> thread::JoinHandle<Value> {
    let lane = lane.clone();
    thread::spawn(move || lane.call("join", &order))
}

fn plain() -> (Mesh, Arc<Lane>) {
    let mesh = Mesh::with(app(|_| {}), config(|_| {}), config(|_| {}), allow);
    let lane = Lane::attach(&mesh.one, 0);
    (mesh, lane)
}

#[test]
#[doc = "[INT-9] so many bytes go over and not one more, behind what was written before; then both sockets are the thread's again"]
fn exact_counts() {
    let (mesh, lane) = plain();
    let (mut from, mut source) = tcp();
    let (mut to, mut sink) = tcp();
    for (i, size) in [1, 70_000, 5 * MIB + 3, 300_001].into_iter().enumerate() {
        let sent = bytes(i as u64, size);
        to.write_all(b"head ").unwrap();
        let (body, mut source2) = (sent.clone(), source.try_clone().unwrap());
        let writer = thread::spawn(move || {
            source2.write_all(&body).unwrap();
            source2.write_all(b"next").unwrap();
        });
        let answer = joined(&lane, order(i as u64, &from, &to, size));
        let mut got = vec![0; size + 5];
        sink.read_exact(&mut got).unwrap();
        assert!(&got[..5] == b"head " && got[5..] == sent[..]);
        is(&answer.join().unwrap(), "done", size);
        writer.join().unwrap();
        // What follows was left where it was.
        let mut rest = [0; 4];
        from.set_nonblocking(false).unwrap();
        from.read_exact(&mut rest).unwrap();
        from.set_nonblocking(true).unwrap();
        assert_eq!(&rest, b"next");
    }
    sink.write_all(b"back").unwrap();
    to.set_nonblocking(false).unwrap();
    let mut back = [0; 4];
    to.read_exact(&mut back).unwrap();
    source.write_all(b"x").unwrap();
    assert_eq!(mesh.one.counter("joins"), 4);
}

#[test]
#[doc = "a sink that reads nothing holds the source back: what lies between is bounded, and a cancelled join says how much that was"]
fn back_pressure_and_cancel() {
    let (_mesh, lane) = plain();
    let (from, mut source) = tcp();
    let (to, mut sink) = tcp();
    source.set_nonblocking(true).unwrap();
    let size = 512 * MIB;
    let answer = joined(&lane, order(7, &from, &to, size));
    let chunk = vec![7; 65_536];
    let (mut written, mut still) = (0, 0);
    // Blocked for a while: every buffer on the way is full.
    while still < 20 {
        match source.write(&chunk) {
            Ok(n) => (written, still) = (written + n, 0),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                still += 1;
                thread::sleep(Duration::from_millis(50));
            }
            Err(e) => panic!("{e}"),
        }
        assert!(written < 128 * MIB, "nothing holds the source back");
    }
    // It is told how far it is while it goes on.
    let progress = wait_for(|| lane.moved(7));
    assert!(progress > 0 && progress <= written as u64);
    assert_eq!(lane.call("unjoin", &json!({"join": 7}))["ok"], json!({}));
    let (how, taken, moved) = told(&answer.join().unwrap());
    assert_eq!(how, "cancelled");
    assert!(moved <= taken && taken <= written as u64 && taken - moved <= 256 * 1_024, "{taken} {moved}");
    // Exactly what it says has gone over.
    drop(to);
    let mut got = Vec::new();
    sink.read_to_end(&mut got).unwrap();
    assert_eq!(got.len() as u64, moved);
    drop(from);
}

#[test]
#[doc = "resets and ends of either side are told apart, with the bytes until then"]
fn ends_of_either_side() {
    let (_mesh, lane) = plain();
    let part = bytes(3, 100_000);
    for how in ["source_ended", "source_reset", "sink_reset"] {
        let (from, mut source) = tcp();
        let (to, mut sink) = tcp();
        let answer = joined(&lane, order(1, &from, &to, MIB));
        source.write_all(&part).unwrap();
        let mut got = vec![0; part.len()];
        sink.read_exact(&mut got).unwrap();
        assert!(got == part);
        match how {
            "source_ended" => source.shutdown(Shutdown::Write).unwrap(),
            "source_reset" => {
                sockopt::set_socket_linger(&source, Some(Duration::ZERO)).unwrap();
                drop(source);
            }
            _ => {
                sockopt::set_socket_linger(&sink, Some(Duration::ZERO)).unwrap();
                drop(sink);
            }
        }
        is(&answer.join().unwrap(), how, part.len());
    }
}

#[test]
#[doc = "a descriptor that is another socket by now, or none, is refused; so is a join of nothing"]
fn stale_descriptors() {
    let (_mesh, lane) = plain();
    let (from, _source) = tcp();
    let (to, _sink) = tcp();
    let mut stale = order(1, &from, &to, 10);
    stale["from"]["cookie"] = side(&to, 1)["cookie"].clone();
    assert_eq!(lane.call("join", &stale)["error"]["code"], "join_stale");
    let mut closed = order(1, &from, &to, 10);
    closed["to"]["fd"] = json!(1_000_000);
    assert_eq!(lane.call("join", &closed)["error"]["code"], "join_stale");
    assert_eq!(lane.call("join", &order(1, &from, &to, 0))["error"]["code"], "bad_params");
}

#[test]
#[doc = "a thread that dies takes its joins with it: both sides see a reset"]
fn a_dead_thread_leaves_no_join() {
    let (_mesh, lane) = plain();
    let (from, mut source) = tcp();
    let (to, mut sink) = tcp();
    drop(joined(&lane, order(1, &from, &to, MIB)));
    source.write_all(&[1; 1_000]).unwrap();
    sink.read_exact(&mut [0; 1_000]).unwrap();
    drop((from, to));
    lane.die();
    for mut end in [source, sink] {
        assert_eq!(end.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// The thread of the client's node with a stream to the server `serve`; what it dialled, and its end of the pair.
fn stream(serve: fn(TcpStream)) -> (Mesh, Arc<Lane>, u64, UnixStream) {
    let mesh = Mesh::with(app(serve), config(|_| {}), config(|_| {}), allow);
    let lane = Lane::attach(&mesh.one, 0);
    let server = mesh.server.inbound();
    let endpoint = json!({"ip": server.ip(), "port": server.port(), "mode": "fairlead/1", "identities": [SERVER]});
    let params = json!({"pod": "shop/client", "endpoint": endpoint, "source": {"ip": "127.0.0.2", "port": 4_000}, "planId": 7, "index": 2});
    let (facts, pair) = lane.dial(&params).unwrap();
    pair.set_nonblocking(true).unwrap();
    (mesh, lane, facts["id"].as_u64().unwrap(), pair)
}

/// Sends back what comes, and adds one byte to each; ends after the client.
fn changed(stream: TcpStream) {
    let mut room = vec![0; 50_000];
    let (mut from, mut to) = (&stream, &stream);
    while let Ok(n @ 1..) = from.read(&mut room) {
        room[..n].iter_mut().for_each(|b| *b = b.wrapping_add(1));
        if to.write_all(&room[..n]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

#[test]
#[doc = "[INT-9] a stream in a tunnel, joined both ways and again and again: every byte in order, between what goes by its pair"]
fn a_stream_without_its_pair() {
    let (mesh, lane, id, pair) = stream(changed);
    let (near, far) = tcp();
    let sizes = [300_000, 6 * MIB + 1, 65_537];
    let before = 200_000;
    let (mut total, number_of) = (0, std::cell::Cell::new(0));
    let next = || {
        number_of.set(number_of.get() + 1);
        number_of.get()
    };
    for (i, size) in sizes.into_iter().enumerate() {
        let sent = bytes(i as u64, before + size);
        total += sent.len();
        // The first part by the pair, as a thread that has it in its hands; then the rest joined, while the answer comes.
        let (up, down) = (next(), next());
        let (mut out, part) = (pair.try_clone().unwrap(), sent[..before].to_vec());
        let (mut client, rest) = (far.try_clone().unwrap(), sent[before..].to_vec());
        let (lane2, order) = (lane.clone(), json!({"join": up, "from": side(&near, 900_001), "to": side(&pair, id), "bytes": size}));
        let upward = thread::spawn(move || {
            let writer = thread::spawn(move || client.write_all(&rest).unwrap());
            write_all(&mut out, &part);
            let reply = lane2.call("join", &order);
            writer.join().unwrap();
            reply
        });
        let mut first = vec![0; 1_000];
        read_exact(&pair, &mut first);
        let answer = joined(&lane, json!({"join": down, "from": side(&pair, id), "to": side(&near, 900_001), "bytes": before + size - 2_000}));
        let mut got = vec![0; before + size - 2_000];
        (&far).read_exact(&mut got).unwrap();
        is(&answer.join().unwrap(), "done", before + size - 2_000);
        is(&upward.join().unwrap(), "done", size);
        let mut last = vec![0; 1_000];
        read_exact(&pair, &mut last);
        let all: Vec<u8> = [first, got, last].concat();
        assert!(all.iter().zip(&sent).all(|(a, b)| *a == b.wrapping_add(1)), "bytes of exchange {i}");
    }
    pair.shutdown(Shutdown::Write).unwrap();
    read_end(&pair);
    drop(pair);
    let records = mesh.one.records(1);
    let record = &records[0];
    assert_eq!((reason(record), number(record, 48), number(record, 56)), (0, total as u64, total as u64));
}

fn write_all(to: &mut UnixStream, mut part: &[u8]) {
    while !part.is_empty() {
        match to.write(part) {
            Ok(n) => part = &part[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(e) => panic!("{e}"),
        }
    }
}

fn read_some(mut from: &UnixStream, room: &mut [u8]) -> usize {
    wait_for(|| match from.read(room) {
        Ok(n) => Some(n),
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(e) => panic!("{e}"),
    })
}

fn read_exact(from: &UnixStream, into: &mut [u8]) {
    let mut at = 0;
    while at < into.len() {
        match read_some(from, &mut into[at..]) {
            0 => panic!("ended after {at}"),
            n => at += n,
        }
    }
}

fn read_end(from: &UnixStream) {
    assert_eq!(read_some(from, &mut [0; 10]), 0);
}

#[test]
#[doc = "a server that ends, or resets, in the middle of what is joined: told before the stream's own end is"]
fn a_stream_that_breaks() {
    fn ends(mut stream: TcpStream) {
        stream.write_all(&[5; 400_000]).unwrap();
        let mut asked = [0];
        stream.read_exact(&mut asked).unwrap();
        if asked[0] == b'r' {
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    }
    for (ask, how) in [(b"e", "source_ended"), (b"r", "source_reset")] {
        let (_mesh, lane, id, mut pair) = stream(ends);
        let (near, mut far) = tcp();
        let answer = joined(&lane, json!({"join": 1, "from": side(&pair, id), "to": side(&near, 900_001), "bytes": MIB}));
        let mut got = vec![0; 400_000];
        far.read_exact(&mut got).unwrap();
        write_all(&mut pair, ask);
        is(&answer.join().unwrap(), how, 400_000);
        match how {
            "source_ended" => read_end(&pair),
            _ => wait_for(|| lane.aborted(&json!(id)).then_some(())),
        }
    }
}

#[test]
#[doc = "a client that resets, or ends, in the middle of an upload into a tunnel; a cancelled one goes on by the pair"]
fn an_upload_that_breaks() {
    let (_mesh, lane, id, mut pair) = stream(changed);
    for how in ["source_reset", "source_ended", "cancelled"] {
        let (near, mut far) = tcp();
        let answer = joined(&lane, json!({"join": 1, "from": side(&near, 900_001), "to": side(&pair, id), "bytes": MIB}));
        far.write_all(&[9; 50_000]).unwrap();
        let mut back = vec![0; 50_000];
        read_exact(&pair, &mut back);
        assert!(back.iter().all(|b| *b == 10));
        match how {
            "source_reset" => {
                sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
                drop(far);
            }
            "source_ended" => drop(far),
            _ => drop(lane.call("unjoin", &json!({"join": 1}))),
        }
        is(&answer.join().unwrap(), how, 50_000);
        // The stream lives on.
        write_all(&mut pair, &[1; 10]);
        let mut more = [0; 10];
        read_exact(&pair, &mut more);
        assert_eq!(more, [2; 10]);
    }
}
