//! Joins: a data thread gives the rest of a long body away, so many bytes from one of its sockets to another, and keeps its hands off
//! both until it is told how that ended. Here two sockets are joined by copying; a stream in a tunnel is joined without its socket
//! pair (`joined_stream.rs`). Memory per join is bounded, and a turn of work too.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::epoll;
use rustix::net::sockopt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conn::End;
use super::shared::{Message, Shared};
use super::slab::{Key, Token};
use super::sock::{self, Io};
use super::threads::{DataThread, Place};
use super::timers::Timer;
use super::worker::Worker;
use crate::calls::params;
use crate::channel::EVENT;
use crate::fault::Fault;
use crate::sys;

/// Reads of one join before others get their turn.
const TURNS: usize = 4;
/// What is read at once: little while the sink is slower than the source, for what it does not take is kept here.
const LEAST_CHUNK: usize = 64 * 1_024;
pub const MOST_CHUNK: usize = 256 * 1_024;
/// How often the thread is told how far it is, if it moved, ms.
const TELL_MS: u64 = 250;

/// How a join ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Done,
    /// The source ended before that, in order.
    SourceEnded,
    SourceReset,
    SinkReset,
    Cancelled,
    /// It was not begun: its stream is ending.
    Refused,
    /// Whoever carried it is gone, and bytes may be.
    Lost,
}

impl How {
    fn text(self) -> &'static str {
        match self {
            How::Done => "done",
            How::SourceEnded => "source_ended",
            How::SourceReset => "source_reset",
            How::SinkReset => "sink_reset",
            How::Cancelled => "cancelled",
            How::Refused => "refused",
            How::Lost => "lost",
        }
    }
}

/// One socket as the thread names it. Its number may by then be another's: the cookie tells.
#[derive(Deserialize)]
struct Side {
    fd: i32,
    cookie: u64,
    id: u64,
}

#[derive(Deserialize)]
struct Wire {
    join: u64,
    from: Side,
    to: Side,
    bytes: u64,
}

pub struct Join {
    thread: Arc<DataThread>,
    call: Value,
    number: u64,
    bytes: u64,
    /// `left` of it: what is still to be read.
    pub source: End,
    pub sink: End,
    /// The stream in a tunnel whose socket pair it does without.
    pub stream: Option<Key>,
    /// What lay in that pair has gone on.
    pub drained: bool,
    chunk: usize,
    told: u64,
    answered: bool,
}

/// Descriptors of their own for both sockets, so that what the thread closes meanwhile is not another's here.
pub struct Order {
    join: Join,
    /// The stream that a worker carries, and whether it is the source.
    stream: Option<(Key, bool)>,
}

fn adopt(side: &Side) -> Result<End, Fault> {
    let fd = sys::duplicate(side.fd).map_err(|e| Fault::os("join_stale", format!("join: descriptor {}", side.fd), &e))?;
    match sockopt::socket_cookie(&fd) {
        Ok(cookie) if cookie == side.cookie => Ok(End::new(fd, true)),
        _ => Err(Fault::new("join_stale", format!("join: descriptor {} is another socket by now", side.fd))),
    }
}

fn parse(shared: &Shared, thread: &Arc<DataThread>, message: &Value) -> Result<(usize, Order), Fault> {
    let wire: Wire = params("join", &message["params"])?;
    if wire.bytes == 0 || wire.bytes == u64::MAX {
        return Err(Fault::new("bad_params", format!("join: bytes {}: give how many", wire.bytes)));
    }
    let (mut source, sink) = (adopt(&wire.from)?, adopt(&wire.to)?);
    source.left = wire.bytes;
    let (worker, stream) = match (thread.place(wire.from.id), thread.place(wire.to.id)) {
        (Some(Place::Worker(worker, key)), _) => (worker, Some((key, true))),
        (_, Some(Place::Worker(worker, key))) => (worker, Some((key, false))),
        _ => (wire.from.id as usize % shared.inboxes.len(), None),
    };
    let join = Join {
        thread: thread.clone(),
        call: message["id"].clone(),
        number: wire.join,
        bytes: wire.bytes,
        source,
        sink,
        stream: None,
        drained: false,
        chunk: LEAST_CHUNK,
        told: 0,
        answered: false,
    };
    Ok((worker, Order { join, stream }))
}

/// Call `join`: the worker that carries one of the two takes it, or any.
pub fn receive(shared: &Shared, thread: &Arc<DataThread>, message: &Value) {
    match parse(shared, thread, message) {
        Err(fault) => thread.reply_error(&message["id"], fault.code, &fault.message),
        Ok((worker, order)) => shared.inboxes[worker].post(Message::Join(Box::new(order))),
    }
}

/// Call `unjoin`: the join's own answer says how far it came. Without a number: all, for the thread is gone.
pub fn cancel(shared: &Shared, thread: &Arc<DataThread>, number: Option<u64>) {
    shared.broadcast(|| Message::Unjoin { thread: thread.clone(), number });
}

impl Join {
    pub fn taken(&self) -> u64 {
        self.bytes - self.source.left
    }

    fn moved(&self) -> u64 {
        self.taken() - (self.sink.pending.len() - self.sink.pending_at) as u64
    }

    fn answer(&mut self, how: How) {
        if !std::mem::replace(&mut self.answered, true) {
            self.thread.reply(&self.call, json!({"ok": {"how": how.text(), "taken": self.taken(), "moved": self.moved()}}));
        }
    }

    /// Sends, and keeps what the sink does not take.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = match sock::send(self.sink.fd.as_fd(), bytes) {
            Io::Done(n) => n,
            Io::WouldBlock => 0,
            Io::Failed(_) => return false,
        };
        if sent < bytes.len() {
            self.sink.writable = false;
            self.sink.pending.extend_from_slice(&bytes[sent..]);
        }
        true
    }

    /// Moves bytes until one of the two blocks. `Some`: it is over. `room` bounds one read.
    pub fn copy(&mut self, room: &mut [u8]) -> Option<How> {
        for _ in 0..TURNS {
            if !self.sink.flush() {
                return Some(How::SinkReset);
            }
            if self.sink.blocked() || (self.source.left > 0 && !self.source.readable) {
                return None;
            }
            let most = usize::try_from(self.source.left).unwrap_or(usize::MAX).min(self.chunk).min(room.len());
            if most == 0 {
                return Some(How::Done);
            }
            match sock::recv(self.source.fd.as_fd(), &mut room[..most]) {
                Io::Done(0) => return Some(How::SourceEnded),
                Io::Done(n) => {
                    self.source.left -= n as u64;
                    self.source.readable = n == most || self.source.hangup;
                    if !self.send(&room[..n]) {
                        return Some(How::SinkReset);
                    }
                    self.chunk = if self.sink.blocked() { LEAST_CHUNK } else { (self.chunk * 2).min(MOST_CHUNK) };
                }
                Io::WouldBlock => self.source.readable = false,
                Io::Failed(_) => return Some(How::SourceReset),
            }
        }
        None
    }

    /// Whether a turn was used up, and there is more.
    fn has_more(&self) -> bool {
        !self.sink.blocked() && (self.source.readable || self.source.left == 0)
    }
}

/// Nobody waits for ever: one that is dropped says so.
impl Drop for Join {
    fn drop(&mut self) {
        self.answer(How::Lost);
    }
}

impl Worker {
    pub fn start_join(&mut self, order: Order) {
        self.shared.counters.add("joins", 1);
        let key = self.joins.insert(order.join);
        self.timers.set(self.now_us / 1_000, TELL_MS, Timer::Join(key.index, key.generation));
        match order.stream {
            Some((stream, is_source)) => self.join_stream(key, stream, is_source),
            None => {
                if let Some(join) = self.joins.get(key) {
                    self.watch(join.source.fd.as_fd(), Token::Source(key));
                    self.watch(join.sink.fd.as_fd(), Token::Sink(key));
                }
                self.pump_join(key);
            }
        }
    }

    /// Does what can be done on a join now.
    pub fn pump_join(&mut self, key: Key) {
        let Some(join) = self.joins.get_mut(key) else { return };
        if let Some(stream) = join.stream {
            return self.pump_joined_stream(stream);
        }
        self.join_room.resize(MOST_CHUNK, 0);
        match join.copy(&mut self.join_room) {
            Some(how) => self.end_join(key, how),
            None if join.has_more() => self.again.push(Token::Source(key)),
            None => {}
        }
    }

    /// Something happened at one of its sockets.
    pub fn on_join(&mut self, key: Key, at_source: bool, flags: epoll::EventFlags) {
        use epoll::EventFlags as F;
        let Some(join) = self.joins.get_mut(key) else { return };
        let end = if at_source { &mut join.source } else { &mut join.sink };
        end.readable |= flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR);
        end.writable |= flags.contains(F::OUT);
        end.hangup |= flags.intersects(F::RDHUP | F::HUP | F::ERR);
        // A sink that was reset is noticed even while nothing is to be sent.
        if !at_source && flags.contains(F::ERR) {
            return self.end_join(key, How::SinkReset);
        }
        self.pump_join(key);
    }

    /// Gives both sockets back, and says how far it came.
    pub fn end_join(&mut self, key: Key, how: How) {
        let Some(mut join) = self.joins.remove(key) else { return };
        for end in [&join.source, &join.sink] {
            // The thread has these sockets open too: closing ours would leave them watched.
            let _ = epoll::delete(&self.epoll, end.fd.as_fd());
        }
        if let Some(stream) = join.stream {
            self.leave_stream(key, stream);
        }
        join.answer(how);
    }

    pub fn cancel_joins(&mut self, thread: &Arc<DataThread>, number: Option<u64>) {
        let of_it = |join: &Join| Arc::ptr_eq(&join.thread, thread) && number.is_none_or(|n| n == join.number);
        let keys: Vec<Key> = self.joins.iter().filter(|(_, j)| of_it(j)).map(|(k, _)| k).collect();
        for key in keys {
            if let Some(join) = self.joins.get_mut(key) {
                join.sink.flush();
                if number.is_none() {
                    // What breaks must not look as if it had ended.
                    sock::reset_on_close(join.source.fd.as_fd());
                    sock::reset_on_close(join.sink.fd.as_fd());
                }
            }
            self.end_join(key, How::Cancelled);
        }
    }

    /// Tells the thread how far a join is, for its timeouts and counts, and will again.
    pub fn tell_join(&mut self, key: Key) {
        let Some(join) = self.joins.get_mut(key) else { return };
        if join.told != join.taken() {
            join.told = join.taken();
            join.thread.channel.send_json(EVENT, &json!({"event": "moved", "join": join.number, "taken": join.taken(), "moved": join.moved()}));
        }
        self.timers.set(self.now_us / 1_000, TELL_MS, Timer::Join(key.index, key.generation));
    }
}
