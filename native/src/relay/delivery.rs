//! Writes what came through a tunnel to whoever it is for: the application's socket, or one that it is joined to.

use std::io::IoSlice;
use std::os::fd::AsFd;

use super::conn::End;
use super::sock::{self, Io};
use crate::tunnel::link::Link;

/// Pieces handed over in one write.
pub const PIECES: usize = 16;

/// Writes received data to `to`, at most `most` bytes of it, and counts them off; false: its socket failed.
/// `fin_follows`: the peer's FIN is right behind them.
pub fn deliver(link: &mut Link, to: &mut End, fin_follows: bool, most: &mut u64) -> bool {
    while !link.undelivered.is_empty() && to.writable && *most > 0 {
        let result = {
            let mut slices: [IoSlice<'_>; PIECES] = std::array::from_fn(|_| IoSlice::new(&[]));
            let count = link.undelivered.len().min(PIECES);
            let mut room = usize::try_from(*most).unwrap_or(usize::MAX);
            for (slice, range) in slices.iter_mut().zip(&link.undelivered) {
                let bytes = link.bytes(range);
                let part = &bytes[..bytes.len().min(room)];
                room -= part.len();
                *slice = IoSlice::new(part);
            }
            match count {
                1 => sock::send_last(to.fd.as_fd(), &slices[0], fin_follows),
                _ => sock::sendv(to.fd.as_fd(), &slices[..count], fin_follows && count == link.undelivered.len()),
            }
        };
        match result {
            Io::Done(mut n) => {
                *most -= n as u64;
                let mut whole = 0;
                for range in &mut link.undelivered {
                    let take = n.min(range.len());
                    range.start += take;
                    n -= take;
                    if range.start < range.end {
                        break;
                    }
                    whole += 1;
                }
                link.undelivered.drain(..whole);
                to.writable = link.undelivered.is_empty() || whole >= PIECES || *most == 0;
            }
            Io::WouldBlock => to.writable = false,
            Io::Failed(_) => return false,
        }
    }
    true
}
