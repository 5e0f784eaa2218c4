//! A data thread as native knows it: its own channel, the sockets it is handed, the connections it asks for. `copier` is one that
//! carries everything on byte for byte, as the agent's own does.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use fairlead::channel::{CALL, EVENT, FrameReader, REPLY};
use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, dial, frame, wait_for};

#[derive(Default)]
struct Seen {
    sockets: Vec<Value>,
    aborted: Vec<u64>,
    /// How far joins are, by number.
    moved: HashMap<u64, u64>,
    replies: HashMap<u64, Value>,
}

pub struct Lane {
    channel: UnixStream,
    seen: Arc<Mutex<Seen>>,
    next: AtomicU64,
}

fn own(fd: &Value) -> UnixStream {
    let number = fd.as_i64().unwrap() as i32;
    // SAFETY: native gave the descriptor to the data thread, which this test plays.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // Reads and writes are the same for both kinds of sockets.
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Lane {
    pub fn attach(node: &Node, thread: u32) -> Arc<Lane> {
        let channel = own(&node.call("handover.attach", json!({"thread": thread}))["fd"]);
        channel.set_read_timeout(None).unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (mut input, log) = (channel.try_clone().unwrap(), seen.clone());
        thread::spawn(move || {
            let (mut reader, mut room) = (FrameReader::default(), vec![0; 65_536]);
            while let Ok(n @ 1..) = input.read(&mut room) {
                reader.push(&room[..n]);
                while let Some((kind, payload)) = reader.next_frame().unwrap() {
                    let value: Value = serde_json::from_slice(&payload).unwrap();
                    let mut log = log.lock().unwrap();
                    match kind {
                        EVENT if value["event"] == "socket" => log.sockets.push(value),
                        EVENT if value["event"] == "moved" => {
                            log.moved.insert(value["join"].as_u64().unwrap(), value["moved"].as_u64().unwrap());
                        }
                        EVENT => log.aborted.push(value["id"].as_u64().unwrap()),
                        REPLY => drop(log.replies.insert(value["id"].as_u64().unwrap(), value)),
                        other => panic!("frame of kind {other}"),
                    }
                }
            }
        });
        Arc::new(Lane { channel, seen, next: AtomicU64::new(1) })
    }

    pub fn call(&self, method: &str, params: &Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (&self.channel).write_all(&frame(CALL, &json!({"id": id, "method": method, "params": params}))).unwrap();
        wait_for(|| self.seen.lock().unwrap().replies.remove(&id))
    }

    pub fn dial(&self, params: &Value) -> Result<(Value, UnixStream), Value> {
        let reply = self.call("dial", params);
        if reply["ok"].is_null() { Err(reply["error"].clone()) } else { Ok((reply["ok"].clone(), own(&reply["ok"]["fd"]))) }
    }

    /// The next socket that was handed over.
    pub fn socket(&self) -> (Value, UnixStream) {
        let event = wait_for(|| {
            let sockets = &mut self.seen.lock().unwrap().sockets;
            if sockets.is_empty() { None } else { Some(sockets.remove(0)) }
        });
        let socket = own(&event["fd"]);
        (event, socket)
    }

    pub fn aborted(&self, id: &Value) -> bool {
        self.seen.lock().unwrap().aborted.contains(&id.as_u64().unwrap())
    }

    /// What was last told of a join.
    pub fn moved(&self, join: u64) -> Option<u64> {
        self.seen.lock().unwrap().moved.get(&join).copied()
    }

    /// The thread dies: its channel closes first, as when Node ends a worker.
    pub fn die(&self) {
        self.channel.shutdown(Shutdown::Both).unwrap();
    }

    /// What to dial for a handed socket, so that it goes on where it would have gone.
    pub fn onward(event: &Value) -> Value {
        let endpoint = match event["direction"].as_str() {
            Some("inbound") => json!({"ip": event["original"]["ip"], "port": event["original"]["port"], "mode": "local", "pod": event["pod"]}),
            _ => event["upstream"].clone(),
        };
        json!({"pod": event["pod"], "endpoint": endpoint, "source": event["source"], "planId": event["planId"]})
    }

    /// Carries everything on, until the channel ends.
    pub fn copier(node: &Node, thread: u32) -> Arc<Lane> {
        let lane = Lane::attach(node, thread);
        let own = lane.clone();
        thread::spawn(move || {
            loop {
                let (event, near) = own.socket();
                let lane = own.clone();
                thread::spawn(move || {
                    let Ok((_, far)) = lane.dial(&Lane::onward(&event)) else { return };
                    carry(near, far);
                });
            }
        });
        lane
    }
}

/// Both ways until both have ended.
pub fn carry(near: UnixStream, far: UnixStream) {
    let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let back = thread::spawn(move || copy(&far_back, &near_back));
    copy(&near, &far);
    back.join().unwrap();
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    let mut room = vec![0; 50_000];
    while let Ok(n @ 1..) = from.read(&mut room) {
        if to.write_all(&room[..n]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The first bytes of a connection, sent by a client.
pub fn say(to: std::net::SocketAddr, text: &[u8]) -> TcpStream {
    let mut stream = dial(to);
    stream.write_all(text).unwrap();
    stream
}
