//! The data threads of the HTTP lane as native sees them: a channel each, read here, the streams they were given, and what is
//! told when one of these is aborted or the thread is gone.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

use super::shared::{self, Message, Shared};
use super::slab::Key;
use super::sock::{self, Io};
use super::{dial, joins};
use crate::channel::{CALL, Channel, EVENT, FrameReader, REPLY};
use crate::reason::Reason;

/// How long, and how many at most, aborted streams stay open until the thread has heard of the abort.
const PARKED: Duration = Duration::from_secs(5);
const MAX_PARKED: usize = 1_024;
/// How often parked streams are looked at while there are any.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Threads by number. A thread that took the place of another has an entry of its own.
pub type DataThreads = RwLock<HashMap<u32, Arc<DataThread>>>;

/// Who carries a stream that a thread has the other end of.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Worker(usize, Key),
    Hbone,
}

pub struct DataThread {
    pub channel: Channel,
    gone: AtomicBool,
    streams: Mutex<HashMap<u64, Place>>,
    /// Places of connections whose very socket the thread has, by the number of its dial.
    places: Mutex<HashMap<u64, shared::Place>>,
    parked: Mutex<Vec<(OwnedFd, Instant)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connected pair of stream sockets: ours, and the end that a thread gets.
pub fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

/// Whether the other end of a pair is closed.
fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

impl DataThread {
    /// Notes a stream before the thread gets its end. `None`: the thread is gone.
    pub fn begin(self: &Arc<Self>, id: u64, place: Place) -> Option<Stream> {
        let mut streams = locked(&self.streams);
        // It is marked before its streams are taken: either this one is among them, or the mark is seen here.
        if self.gone.load(Ordering::Acquire) {
            return None;
        }
        streams.insert(id, place);
        drop(streams);
        Some(Stream { thread: self.clone(), id })
    }

    /// Keeps the place until the thread says that the connection has ended, or is gone.
    pub fn keep(&self, id: u64, place: shared::Place) {
        let mut places = locked(&self.places);
        // As for streams: either it is among those that are let go, or the mark is seen here.
        if !self.gone.load(Ordering::Acquire) {
            places.insert(id, place);
        }
    }

    fn release(&self, id: u64) {
        drop(locked(&self.places).remove(&id));
    }

    /// A dead thread's descriptors close one after another, its channel first: what ends after that did not end in order.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || hung_up(self.channel.socket())
    }

    /// Who carries a stream that the thread has an end of.
    pub fn place(&self, id: u64) -> Option<Place> {
        locked(&self.streams).get(&id).copied()
    }

    pub fn reply(&self, id: &Value, body: Value) -> bool {
        let mut body = body;
        body["id"] = id.clone();
        self.channel.send_json(REPLY, &body)
    }

    pub fn reply_error(&self, id: &Value, code: &str, message: &str) {
        self.reply(id, json!({"error": {"code": code, "message": message}}));
    }
}

/// One end of a socket pair, noted as long as this lives.
pub struct Stream {
    thread: Arc<DataThread>,
    id: u64,
}

impl Stream {
    /// Tells the thread that the stream broke, and keeps our end open until the thread has let go of its own: closed at once,
    /// it would look like an end in order, since a socket pair knows no RST.
    pub fn abort(&self, ours: OwnedFd) {
        if hung_up(ours.as_fd()) || self.thread.is_gone() {
            return;
        }
        locked(&self.thread.parked).push((ours, Instant::now()));
        self.thread.channel.send_json(EVENT, &json!({"event": "aborted", "id": self.id}));
        self.thread.channel.wake();
    }

    /// Whether an end of this stream is only the thread's death.
    pub fn orphaned(&self) -> bool {
        self.thread.is_gone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        locked(&self.thread.streams).remove(&self.id);
    }
}

/// Makes a thread's channel and starts to read it; the thread's end.
pub fn attach(shared: &Arc<Shared>, number: u32) -> std::io::Result<OwnedFd> {
    let (theirs, ours) = pair()?;
    let entry = DataThread {
        channel: Channel::new(ours)?,
        gone: AtomicBool::new(false),
        streams: Mutex::default(),
        places: Mutex::default(),
        parked: Mutex::default(),
    };
    let entry = Arc::new(entry);
    if let Ok(mut threads) = shared.threads.write() {
        threads.insert(number, entry.clone());
    }
    let shared = shared.clone();
    thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
        serve(&shared, &entry);
        leave(&shared, number, &entry);
    })?;
    Ok(theirs)
}

/// Reads the thread's calls until it closes its channel.
fn serve(shared: &Arc<Shared>, thread: &Arc<DataThread>) {
    let channel = &thread.channel;
    let (mut reader, mut room) = (FrameReader::default(), vec![0; 1 << 14]);
    let mut parked: Vec<(OwnedFd, Instant)> = Vec::new();
    let mut flushed = true;
    loop {
        parked.append(&mut locked(&thread.parked));
        let over = parked.len().saturating_sub(MAX_PARKED);
        shared.counters.add("aborts_untold", over as u64);
        parked.drain(..over);
        let wants = if flushed { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut fds = vec![PollFd::from_borrowed_fd(channel.socket(), wants), PollFd::from_borrowed_fd(channel.wake_fd(), PollFlags::IN)];
        fds.extend(parked.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::empty())));
        if poll(&mut fds, (!parked.is_empty()).then_some(&LOOK)).is_err_and(|e| e != rustix::io::Errno::INTR) {
            return;
        }
        let closed: Vec<bool> = fds[2..].iter().map(|fd| fd.revents().contains(PollFlags::HUP)).collect();
        let mut closed = closed.into_iter();
        parked.retain(|(_, since)| !closed.next().unwrap_or(false) && since.elapsed() < PARKED);
        let mut count = [0u8; 8];
        let _ = rustix::io::read(channel.wake_fd(), &mut count);
        flushed = channel.flush();
        loop {
            match sock::recv(channel.socket(), &mut room) {
                Io::Done(0) | Io::Failed(_) => return,
                Io::Done(n) => reader.push(&room[..n]),
                Io::WouldBlock => break,
            }
            loop {
                match reader.next_frame() {
                    Ok(Some((kind, payload))) => receive(shared, thread, kind, &payload),
                    Ok(None) => break,
                    Err(error) => return shared.log("error", &error, json!({})),
                }
            }
        }
    }
}

fn receive(shared: &Arc<Shared>, thread: &Arc<DataThread>, kind: u8, payload: &[u8]) {
    let message = serde_json::from_slice::<Value>(payload).ok().filter(|_| kind == CALL);
    let Some(message) = message else { return shared.counters.add("bad_frame", 1) };
    match message["method"].as_str() {
        Some("dial") => dial::receive(shared, thread, &message),
        Some("abort") => abort(shared, thread, &message),
        Some("release") => {
            thread.release(message["params"]["id"].as_u64().unwrap_or(0));
            thread.reply(&message["id"], json!({"ok": {}}));
        }
        Some("join") => joins::receive(shared, thread, &message),
        Some("unjoin") => {
            joins::cancel(shared, thread, message["params"]["join"].as_u64().or(Some(0)));
            thread.reply(&message["id"], json!({"ok": {}}));
        }
        other => thread.reply_error(&message["id"], "unknown_method", &format!("{}: no call of a data thread", other.unwrap_or(""))),
    }
}

/// The thread resets a stream. It is answered when that is done: only then may the thread close its end.
fn abort(shared: &Arc<Shared>, thread: &Arc<DataThread>, message: &Value) {
    let call = message["id"].clone();
    let id = message["params"]["id"].as_u64().unwrap_or(0);
    let place = locked(&thread.streams).get(&id).copied();
    match place {
        Some(Place::Worker(worker, key)) => shared.inboxes[worker].post(Message::Abort { key, thread: thread.clone(), call }),
        Some(Place::Hbone) => {
            if let Some(side) = shared.hbone_running() {
                side.hbone.reset(&[id], Reason::Administrative);
            }
            thread.reply(&call, json!({"ok": {}}));
        }
        // It has ended by itself.
        None => drop(thread.reply(&call, json!({"ok": {}}))),
    }
}

/// The thread is gone: what it had is reset, for a connection that breaks must not look as if it had ended.
fn leave(shared: &Arc<Shared>, number: u32, thread: &Arc<DataThread>) {
    thread.gone.store(true, Ordering::Release);
    thread.channel.close();
    if let Ok(mut threads) = shared.threads.write()
        && threads.get(&number).is_some_and(|t| Arc::ptr_eq(t, thread))
    {
        threads.remove(&number);
    }
    let streams: Vec<(u64, Place)> = locked(&thread.streams).iter().map(|(id, place)| (*id, *place)).collect();
    shared.counters.add("data_threads_gone", 1);
    shared.counters.add("streams_lost", streams.len() as u64);
    let of_hbone: Vec<u64> = streams.iter().filter(|s| matches!(s.1, Place::Hbone)).map(|s| s.0).collect();
    if let Some(side) = shared.hbone_running() {
        side.hbone.reset(&of_hbone, Reason::WorkerDied);
    }
    joins::cancel(shared, thread, None);
    drop(std::mem::take(&mut *locked(&thread.places)));
    for (index, inbox) in shared.inboxes.iter().enumerate() {
        let keys = streams.iter().filter_map(|(_, place)| match place {
            Place::Worker(worker, key) if *worker == index => Some(*key),
            _ => None,
        });
        let keys: Vec<Key> = keys.collect();
        if !keys.is_empty() {
            inbox.post(Message::Lost(keys));
        }
    }
}
