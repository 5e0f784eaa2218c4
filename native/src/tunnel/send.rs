//! The sending half of a tunnel: application bytes read straight into records, frames that wait in front of them, one write.

use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::AsFd;

use super::frame::{self, Kind};
use super::link::{Layer, Link, RECORD};
use super::machine::Role;
use crate::relay::conn::End;
use crate::relay::sock::{self, Io};
use crate::tls::records;

/// Where application data starts in a record that begins with a DATA header.
const DATA_AT: usize = records::HEADER + frame::HEADER;

/// What came of reading the application's bytes into records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub bytes: u64,
    /// The application ended its direction.
    pub eof: bool,
    /// The application's socket failed.
    pub failed: bool,
    /// The tunnel's socket failed.
    pub tunnel_failed: bool,
    /// The last frames of a stream wait for those of the next one.
    pub held: bool,
}

/// Longer than a client's certificate and what follows it.
const FLIGHT: usize = 8_192;
/// FIN and FIN_ACK.
const TAIL: usize = 2 * frame::HEADER + 8;

impl Link {
    /// Seals waiting frames behind `used` bytes of `room` and returns the new length.
    pub(super) fn seal_control(&mut self, room: &mut [u8], mut used: usize) -> Option<usize> {
        let Layer::Records(records) = &mut self.layer else { return Some(used) };
        for chunk in self.control.chunks(records::MAX_PLAIN) {
            let place = room.get_mut(used..used + records::HEADER + chunk.len() + records::TRAILER)?;
            place[records::HEADER..records::HEADER + chunk.len()].copy_from_slice(chunk);
            used += records.seal(place, chunk.len()).ok()?;
        }
        self.control.clear();
        Some(used)
    }

    /// Nothing waits but the last frames of a stream that is over for us, the opener: no application is kept waiting by them.
    fn is_tail(&self) -> bool {
        self.machine.role() == Role::Opener && self.machine.is_idle() && self.control.len() <= TAIL
    }

    /// Reads from the application, seals, and sends with everything that waits: one write. `keep` receives a copy of what
    /// was read (for a stream that may have to move). `app` none: frames only.
    pub fn pump_out(&mut self, mut app: Option<&mut End>, room: &mut [u8], mut keep: Option<&mut Vec<u8>>, mut seen: impl FnMut(&[u8])) -> Sent {
        let mut sent = Sent::default();
        // What the socket has not been offered yet, a handshake's last flight, goes with what comes now.
        let offered = !self.writable || self.out_sent > 0 || self.out.len() > FLIGHT;
        if offered && !self.flush() {
            sent.tunnel_failed = true;
            return sent;
        }
        if (offered && self.backlog()) || !self.ready() {
            return sent;
        }
        let mut used = 0;
        while let Some(end) = app.as_deref_mut().filter(|e| e.readable && self.machine.can_send()) {
            // Frames that wait share the first record with the data, if they are few.
            if self.control.len() > 4_096 {
                break;
            }
            let prefix = self.control.len();
            let free = (room.len() - used) / RECORD;
            if free == 0 {
                break;
            }
            let count = if self.full_reads && keep.is_none() { free } else { 1 };
            let mut allowed = usize::try_from(end.left).unwrap_or(usize::MAX);
            let capacity = (count * frame::MAX_DATA - prefix).min(allowed);
            let read = {
                let mut slices: [IoSliceMut<'_>; 16] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
                for (i, (slice, record)) in slices.iter_mut().zip(room[used..].chunks_mut(RECORD)).take(count).enumerate() {
                    let from = DATA_AT + if i == 0 { prefix } else { 0 };
                    let size = (records::HEADER + records::MAX_PLAIN - from).min(allowed);
                    allowed -= size;
                    *slice = IoSliceMut::new(&mut record[from..from + size]);
                }
                if count == 1 { sock::recv(end.fd.as_fd(), &mut slices[0]) } else { sock::readv(end.fd.as_fd(), &mut slices[..count.min(16)]) }
            };
            let capacity = capacity.min(16 * frame::MAX_DATA);
            match read {
                Io::Done(0) => {
                    end.readable = false;
                    sent.eof = true;
                    // The end of what is only joined for some bytes is not the stream's.
                    if end.left == u64::MAX {
                        end.eof = true;
                        self.fin();
                    }
                }
                Io::Done(n) => {
                    if end.left != u64::MAX {
                        end.left -= n as u64;
                    }
                    end.readable = (n == capacity || end.hangup) && end.left > 0;
                    self.full_reads = n == capacity;
                    sent.bytes += n as u64;
                    let first = &room[used + DATA_AT + prefix..][..n.min(frame::MAX_DATA - prefix)];
                    seen(first);
                    if let Some(keep) = keep.as_deref_mut() {
                        keep.extend_from_slice(first);
                    }
                    match self.seal_data(room, used, prefix, n) {
                        Some(length) => used = length,
                        None => sent.tunnel_failed = true,
                    }
                    if keep.is_some() {
                        break;
                    }
                }
                Io::WouldBlock => end.readable = false,
                Io::Failed(_) => {
                    end.readable = false;
                    sent.failed = true;
                }
            }
            if sent.failed || sent.tunnel_failed {
                break;
            }
        }
        self.finish_send(room, used, &mut sent);
        sent
    }

    /// Writes headers around `n` bytes read into `room[used..]` and seals the records. The first holds the waiting frames too.
    fn seal_data(&mut self, room: &mut [u8], mut used: usize, prefix: usize, n: usize) -> Option<usize> {
        let number = self.machine.number();
        self.machine.note_sent(n);
        let Layer::Records(records) = &mut self.layer else { return None };
        let mut left = n;
        let mut prefix = prefix;
        while left > 0 {
            let data = left.min(frame::MAX_DATA - prefix);
            let place = &mut room[used..used + RECORD];
            place[records::HEADER..records::HEADER + prefix].copy_from_slice(&self.control[..prefix]);
            let at = records::HEADER + prefix;
            place[at..at + frame::HEADER].copy_from_slice(&frame::header(Kind::Data, data, number));
            used += records.seal(place, prefix + frame::HEADER + data).ok()?;
            left -= data;
            prefix = 0;
        }
        self.control.clear();
        Some(used)
    }

    /// The application will send no more.
    pub fn fin(&mut self) {
        let waiting = self.undelivered.iter().map(Range::len).sum();
        self.machine.fin(waiting, &mut self.control);
    }

    /// Sends DATA that is already in memory (an OPEN's data that moves to another tunnel).
    pub fn queue_data(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(frame::MAX_DATA) {
            frame::put(&mut self.control, Kind::Data, self.machine.number(), chunk);
            self.machine.note_sent(chunk.len());
        }
    }

    fn finish_send(&mut self, room: &mut [u8], used: usize, sent: &mut Sent) {
        let mut used = used;
        if used == 0 && self.hold && self.is_tail() && self.out.is_empty() {
            sent.held = !self.control.is_empty();
            return;
        }
        if !self.control.is_empty() {
            match self.seal_control(room, used) {
                Some(length) => used = length,
                None => {
                    // No room left: send first, the rest goes through the slow way.
                    self.out.extend_from_slice(&room[..used]);
                    used = 0;
                    let mut spill =
                        vec![0; self.control.len() + self.control.len().div_ceil(records::MAX_PLAIN) * (records::HEADER + records::TRAILER)];
                    match self.seal_control(&mut spill, 0) {
                        Some(length) => self.out.extend_from_slice(&spill[..length]),
                        None => sent.tunnel_failed = true,
                    }
                }
            }
        }
        if let Layer::Records(records) = &mut self.layer
            && records.refresh_due()
        {
            self.out.extend_from_slice(&room[..used]);
            used = 0;
            sent.tunnel_failed |= records.refresh(false, &mut self.out).is_err();
        }
        if self.out.is_empty() && used > 0 {
            match sock::send(self.socket.as_fd(), &room[..used]) {
                Io::Done(n) => {
                    if n < used {
                        self.writable = false;
                        self.out.extend_from_slice(&room[n..used]);
                    }
                }
                Io::WouldBlock => {
                    self.writable = false;
                    self.out.extend_from_slice(&room[..used]);
                }
                Io::Failed(_) => sent.tunnel_failed = true,
            }
        } else {
            self.out.extend_from_slice(&room[..used]);
            sent.tunnel_failed |= !self.flush();
        }
    }

    /// Sends sealed bytes that wait. False: the socket failed.
    pub fn flush(&mut self) -> bool {
        while self.backlog() {
            match sock::send(self.socket.as_fd(), &self.out[self.out_sent..]) {
                Io::Done(n) => self.out_sent += n,
                Io::WouldBlock => {
                    self.writable = false;
                    return true;
                }
                Io::Failed(_) => return false,
            }
        }
        if self.out.capacity() > 1 << 14 {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        self.out_sent = 0;
        true
    }
}
