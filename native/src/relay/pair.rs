//! Copies between two sockets: plain, local, and the app side of plain inbound connections.

use std::os::fd::AsFd;

use super::conn::{Conn, End, State};
use super::slab::{Key, Token};
use super::sock::{self, Io};
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Closer;

/// Reads of one connection before the others get their turn.
const TURNS: usize = 16;

/// How one direction stands after a turn.
#[derive(PartialEq, Eq)]
enum Copied {
    Waiting,
    /// The turn is used up; there is more.
    More,
    SourceFailed,
    SinkFailed,
}

/// Moves bytes from one socket to the other until one of them blocks. `seen` gets every chunk read.
fn copy(from: &mut End, to: &mut End, room: &mut [u8], mut seen: impl FnMut(&[u8])) -> Copied {
    for _ in 0..TURNS {
        if !to.flush() {
            return Copied::SinkFailed;
        }
        if to.blocked() || !from.readable {
            break;
        }
        match sock::recv(from.fd.as_fd(), room) {
            Io::Done(0) => {
                from.eof = true;
                from.readable = false;
            }
            Io::Done(n) => {
                from.readable = n == room.len() || from.hangup;
                seen(&room[..n]);
                // After an announced end the next read is the end: the FIN rides with these bytes.
                match sock::send_last(to.fd.as_fd(), &room[..n], from.hangup) {
                    Io::Done(m) if m == n => {}
                    Io::Done(m) => {
                        to.writable = false;
                        to.pending.extend_from_slice(&room[m..n]);
                    }
                    Io::WouldBlock => {
                        to.writable = false;
                        to.pending.extend_from_slice(&room[..n]);
                    }
                    Io::Failed(_) => return Copied::SinkFailed,
                }
            }
            Io::WouldBlock => from.readable = false,
            Io::Failed(_) => return Copied::SourceFailed,
        }
    }
    if from.eof && !to.blocked() {
        to.shutdown();
    }
    if from.readable && !to.blocked() { Copied::More } else { Copied::Waiting }
}

impl Worker {
    pub fn pump_pair(&mut self, key: Key) {
        if self.conns.get(key).is_some_and(|c| c.check_hello && c.down.as_ref().is_some_and(|d| d.readable)) && !self.hello_checked(key) {
            // Nothing may be read from the client yet; the server's bytes go on below.
            let Some(conn) = self.conns.get_mut(key) else { return };
            if let Some(down) = &mut conn.down {
                down.readable = false;
            }
        }
        let Some(conn) = self.conns.get_mut(key).filter(|c| c.state == State::Open) else { return };
        let room = &mut self.room[..];
        let Conn { down: Some(down), up: Some(up), sent, received, detector, .. } = conn else { return };
        let forth = copy(down, up, room, |chunk| {
            *sent += chunk.len() as u64;
            detector.from_client(chunk);
        });
        let back = copy(up, down, room, |chunk| {
            *received += chunk.len() as u64;
            detector.from_server();
        });
        let (client_ended, server_ended) = (down.eof, up.eof);
        let finished = down.eof && up.eof && down.shut && up.shut;
        if forth == Copied::SourceFailed || back == Copied::SinkFailed {
            return self.end(key, Reason::ClientReset, Closer::Client, true);
        }
        if forth == Copied::SinkFailed || back == Copied::SourceFailed {
            return self.end(key, Reason::ServerReset, Closer::Server, true);
        }
        if client_ended {
            conn.close_first(Closer::Client);
        }
        if server_ended {
            conn.close_first(Closer::Server);
        }
        if finished {
            return self.end(key, Reason::Finished, Closer::Nobody, false);
        }
        if forth == Copied::More || back == Copied::More {
            self.again.push(Token::Down(key));
        }
    }
}
