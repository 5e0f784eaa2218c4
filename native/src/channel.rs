//! The native end of the channel to TypeScript: frames out from any thread, frames in for the control thread.
//! It knows lengths and kinds only; what they mean is in `control.rs` and `relay/`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendFlags, send};
use serde_json::Value;

pub const CALL: u8 = 1;
pub const REPLY: u8 = 2;
pub const QUESTION: u8 = 3;
pub const ANSWER: u8 = 4;
pub const RECORDS: u8 = 5;
pub const EVENT: u8 = 6;

/// Longest frame accepted from the agent; `map.put` and `trust.put` are the large ones.
pub const MAX_FRAME: usize = 64 << 20;
/// What may wait for an agent that does not read. Beyond it records and events are dropped and counted.
const MAX_QUEUED: usize = 32 << 20;

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    sent: usize,
    closed: bool,
}

/// Sending half. Writers send straight away when nothing waits; what does not fit is flushed by the control thread.
pub struct Channel {
    socket: OwnedFd,
    wake: OwnedFd,
    queue: Mutex<Queue>,
    dropped: AtomicU64,
}

impl Channel {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { socket, wake, queue: Mutex::default(), dropped: AtomicU64::new(0) })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Readable when the control thread must call `flush` once the socket is writable, or look at its inbox.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Frames lost because the agent did not read.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Queues or sends one frame. False: the channel is closed or too far behind and the frame was dropped (counted).
    pub fn send(&self, kind: u8, payload: &[u8]) -> bool {
        let Ok(mut queue) = self.queue.lock() else { return false };
        let waiting = queue.bytes.len() - queue.sent;
        if queue.closed || waiting + payload.len() > MAX_QUEUED {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.bytes.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
        queue.bytes.push(kind);
        queue.bytes.extend_from_slice(payload);
        if waiting == 0 {
            self.push(&mut queue);
            if queue.bytes.len() > queue.sent {
                self.wake();
            }
        }
        true
    }

    pub fn send_json(&self, kind: u8, value: &Value) -> bool {
        self.send(kind, value.to_string().as_bytes())
    }

    /// Sends what waits. True: nothing is left.
    pub fn flush(&self) -> bool {
        let Ok(mut queue) = self.queue.lock() else { return true };
        self.push(&mut queue);
        queue.closed || queue.bytes.is_empty()
    }

    /// Marks the channel dead, so that nobody queues for an agent that is gone.
    pub fn close(&self) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.closed = true;
            queue.bytes = Vec::new();
            queue.sent = 0;
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    fn push(&self, queue: &mut Queue) {
        while queue.sent < queue.bytes.len() {
            match send(&self.socket, &queue.bytes[queue.sent..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => queue.sent += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return self.compact(queue),
                Err(_) => {
                    queue.closed = true;
                    break;
                }
            }
        }
        queue.bytes.clear();
        queue.bytes.shrink_to(1 << 16);
        queue.sent = 0;
    }

    /// Moves the unsent tail to the front once most of the buffer is behind it, so that memory follows the backlog.
    fn compact(&self, queue: &mut Queue) {
        if queue.sent > queue.bytes.len() / 2 {
            queue.bytes.drain(..queue.sent);
            queue.sent = 0;
        }
    }
}

/// Reassembles frames from a byte stream.
#[derive(Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameReader {
    pub fn push(&mut self, chunk: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > 1 << 16 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// Next whole frame as (kind, payload); an error means that the stream cannot be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let rest = &self.bytes[self.start..];
        let Some(head) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(format!("channel frame of {length} bytes: the agent and the library do not speak the same version"));
        }
        if rest.len() < 4 + length {
            return Ok(None);
        }
        let frame = (rest[4], rest[5..4 + length].to_vec());
        self.start += 4 + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10), cut in 1usize..50) {
            let mut wire = Vec::new();
            for p in &payloads {
                wire.extend_from_slice(&(p.len() as u32 + 1).to_le_bytes());
                wire.push(CALL);
                wire.extend_from_slice(p);
            }
            let mut reader = FrameReader::default();
            let mut got = Vec::new();
            for chunk in wire.chunks(cut) {
                reader.push(chunk);
                while let Some((kind, payload)) = reader.next_frame().unwrap() {
                    prop_assert_eq!(kind, CALL);
                    got.push(payload);
                }
            }
            prop_assert_eq!(got, payloads);
        }
    }

    #[test]
    fn refuses_an_absurd_length() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(reader.next_frame().is_err());
    }
}
