//! The control thread: reads the channel, gives answers to the workers at once and calls to a thread of their own, so that
//! enrolling a pod never delays a decision. Ends everything when the agent closes its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

use crate::calls::{Calls, Pods};
use crate::channel::{ANSWER, CALL, Channel, FrameReader, REPLY};
use crate::config::Config;
use crate::fault::Fault;
use crate::relay::orders::worker_of;
use crate::relay::questions::HBONE;
use crate::relay::shared::{Message, Shared};
use crate::relay::sock::{self, Io};
use crate::relay::succession;
use crate::relay::worker::Worker;
use crate::sys;

/// A running native side: the agent's end of the channel and what the threads share.
pub struct Started {
    pub agent: OwnedFd,
    pub shared: Arc<Shared>,
    /// Takes the pods whose connections are carried.
    pub pods: Arc<Pods>,
}

/// Starts workers, call thread and control thread. They end when the agent's end of the channel is closed or at `stop`.
pub fn start(config: Config) -> io::Result<Started> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (agent, ours) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1 << 20);
    let shared = Arc::new(Shared::new(config, Arc::new(Channel::new(ours)?))?);
    let pods = Pods::new(shared.clone());
    for index in 0..shared.config.workers {
        let (worker, pods) = (Worker::new(index, shared.clone())?, pods.clone());
        thread::Builder::new().name(format!("relay-{index}")).spawn(move || succession::run(worker, |index| pods.give_all(index)))?;
    }
    let (calls, queue) = channel();
    let table = Calls::new(shared.clone(), pods.clone());
    thread::Builder::new().name("calls".into()).spawn(move || run_calls(table, &queue))?;
    let reader = shared.clone();
    thread::Builder::new().name("control".into()).spawn(move || {
        watched(&reader, || run(&reader, &calls));
    })?;
    Ok(Started { agent, shared, pods })
}

/// Runs the control thread's loop. Without it nothing is answered: after a panic the agent is told, everything carried is reset, and
/// the channel ends, and with it the agent.
fn watched(shared: &Shared, body: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(body)) else { return };
    let message = succession::text_of(panic.as_ref());
    // On the channel nobody may listen any more.
    eprintln!("the control thread died: {message}");
    shared.counters.add("worker_died", 1);
    shared.event("worker_died", json!({"worker": "control", "message": message, "restarted": false}));
    shared.channel.flush();
    stop_all(shared);
}

fn run(shared: &Shared, calls: &Sender<Value>) {
    let channel = &shared.channel;
    let mut reader = FrameReader::default();
    let mut room = vec![0; 1 << 16];
    let mut flushed = true;
    loop {
        let wants = if flushed { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let (socket, wake) = (channel.socket(), channel.wake_fd());
        let mut fds = [PollFd::from_borrowed_fd(socket, wants), PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        if poll(&mut fds, None).is_err_and(|e| e != rustix::io::Errno::INTR) {
            break;
        }
        let mut count = [0u8; 8];
        let _ = rustix::io::read(wake, &mut count);
        flushed = channel.flush();
        loop {
            match sock::recv(socket.as_fd(), &mut room) {
                Io::Done(0) | Io::Failed(_) => return stop_all(shared),
                Io::Done(n) => reader.push(&room[..n]),
                Io::WouldBlock => break,
            }
            loop {
                match reader.next_frame() {
                    Ok(Some((kind, payload))) => receive(shared, calls, kind, &payload),
                    Ok(None) => break,
                    Err(error) => {
                        shared.log("error", &error, json!({}));
                        return stop_all(shared);
                    }
                }
            }
        }
    }
    stop_all(shared);
}

fn stop_all(shared: &Shared) {
    shared.channel.close();
    shared.stopping.store(true, Ordering::Release);
    shared.broadcast(|| Message::Stop);
    if let Some(side) = shared.hbone_running() {
        side.hbone.stop();
    }
}

fn receive(shared: &Shared, calls: &Sender<Value>, kind: u8, payload: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Value>(payload) else {
        shared.counters.add("bad_frame", 1);
        return;
    };
    match kind {
        ANSWER => {
            let worker = message["id"].as_u64().map_or(usize::MAX, worker_of);
            if worker == HBONE as usize
                && let Some(side) = shared.hbone_running()
            {
                side.questions.on_answer(&message);
            } else if let Some(inbox) = shared.inboxes.get(worker) {
                inbox.post(Message::Answer(message));
            }
        }
        // Here and not on the call thread: it must take effect in order with the answers around it.
        CALL if message["method"] == "generation.set" => {
            let result = match message["params"]["generation"].as_u64() {
                Some(generation) => {
                    shared.generation.fetch_max(generation, Ordering::AcqRel);
                    Ok(json!({}))
                }
                None => Err(Fault::new("bad_params", "generation.set: params.generation must be a number")),
            };
            reply(shared, &message["id"], result);
        }
        CALL => {
            let _ = calls.send(message);
        }
        _ => shared.counters.add("bad_frame", 1),
    }
}

/// How often freed memory is given back: what a burst took, and what else threads have once used, would stay for good.
const GIVE_BACK: Duration = Duration::from_secs(30);

fn run_calls(mut calls: Calls, queue: &Receiver<Value>) {
    let shared = calls.shared.clone();
    let mut given = Instant::now();
    while let Ok(call) = queue.recv() {
        let method = call["method"].as_str().unwrap_or("").to_owned();
        let result = catch_unwind(AssertUnwindSafe(|| calls.call(&method, &call["params"])))
            .unwrap_or_else(|_| Err(Fault::new("panic", format!("{method} panicked: this is a bug of the native library"))));
        reply(&shared, &call["id"], result);
        // Heartbeats see to it that there is always a next call; no connection waits for this thread.
        if given.elapsed() >= GIVE_BACK {
            given = Instant::now();
            sys::give_back_memory();
        }
    }
}

fn reply(shared: &Shared, id: &Value, result: Result<Value, Fault>) {
    let body = match result {
        Ok(value) => json!({"id": id, "ok": value}),
        Err(fault) => json!({"id": id, "error": {"code": fault.code, "message": fault.message}}),
    };
    shared.channel.send_json(REPLY, &body);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::channel::EVENT;

    pub fn started() -> Started {
        start(Config { workers: 1, ..Config::default() }).unwrap()
    }

    /// What the agent is told until the channel ends.
    pub fn events(agent: &OwnedFd) -> Vec<Value> {
        let (mut reader, mut room, mut events) = (FrameReader::default(), vec![0; 1 << 16], Vec::new());
        loop {
            poll(&mut [PollFd::new(agent, PollFlags::IN)], None).unwrap();
            match rustix::io::read(agent, &mut room).unwrap() {
                0 => return events,
                n => reader.push(&room[..n]),
            }
            while let Some((kind, payload)) = reader.next_frame().unwrap() {
                events.extend((kind == EVENT).then(|| serde_json::from_slice::<Value>(&payload).unwrap()));
            }
        }
    }

    #[test]
    #[doc = "[INT-14] a control thread that panics is counted and told of, then everything is reset and the channel ends"]
    fn death_is_told_and_ends_everything() {
        let Started { agent, shared, .. } = started();
        watched(&shared, || panic!("a bug on demand"));
        let events = events(&agent);
        let death = events.iter().find(|e| e["event"] == "worker_died").unwrap();
        assert_eq!(death, &json!({"event": "worker_died", "worker": "control", "message": "a bug on demand", "restarted": false}));
        assert_eq!(shared.counters.get("worker_died"), 1);
        assert!(shared.stopping.load(Ordering::Acquire), "what is carried is reset by its worker");
        assert!(!shared.channel.send(EVENT, b"{}"), "nobody queues for an agent that is gone");
    }

    #[test]
    #[doc = "[INT-14] an end in order is no death"]
    fn an_end_in_order_is_no_death() {
        let Started { agent, shared, .. } = started();
        watched(&shared, || {});
        assert_eq!(shared.counters.get("worker_died"), 0);
        shared.channel.close();
        assert!(events(&agent).iter().all(|e| e["event"] != "worker_died"));
    }
}
