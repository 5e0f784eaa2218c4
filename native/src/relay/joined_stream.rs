//! A stream in a tunnel joined to a socket of the data thread that has its other end: the tunnel's bytes go straight to that socket, or
//! its bytes straight into records. The socket pair between is emptied first, so that no byte overtakes another.

use std::os::fd::AsFd;

use super::conn::{Conn, End, Given, State};
use super::delivery::deliver;
use super::joins::{How, Join};
use super::slab::{Key, Slab, Token};
use super::sock::{self, Io};
use super::worker::Worker;
use crate::tunnel::link::Link;
use crate::tunnel::send::Sent;

/// Read at once from a pair that is emptied.
const REST: usize = 16 * 1_024;

/// How a join that takes the tunnel's bytes stands.
pub enum Into {
    /// It takes more.
    Open,
    Blocked,
    Over(How),
}

/// Gives what came through the tunnel to the join's sink, behind what the pair still holds of it.
pub fn into_sink(link: &mut Link, join: &mut Join) -> Into {
    if !join.sink.flush() {
        return Into::Over(How::SinkReset);
    }
    while !join.drained && !join.sink.blocked() && join.source.left > 0 {
        let mut rest = [0; REST];
        let most = usize::try_from(join.source.left).unwrap_or(usize::MAX).min(REST);
        match sock::recv(join.source.fd.as_fd(), &mut rest[..most]) {
            Io::Done(0) => return Into::Over(How::SourceEnded),
            Io::Done(n) => {
                join.source.left -= n as u64;
                if !join.send(&rest[..n]) {
                    return Into::Over(How::SinkReset);
                }
            }
            // Only this worker writes to it, so it stays empty.
            Io::WouldBlock => join.drained = true,
            Io::Failed(_) => return Into::Over(How::SourceReset),
        }
    }
    if join.sink.blocked() {
        return Into::Blocked;
    }
    let Join { source, sink, .. } = join;
    if !deliver(link, sink, false, &mut source.left) {
        return Into::Over(How::SinkReset);
    }
    if source.left == 0 {
        return Into::Over(How::Done);
    }
    if link.undelivered.is_empty() { Into::Open } else { Into::Blocked }
}

/// What the tunnel reads from: the application's end, or what is joined to it once that end is empty.
pub fn source_of<'a>(app: Option<&'a mut End>, join: Option<&'a mut Join>) -> Option<&'a mut End> {
    match join {
        Some(join) if join.drained => Some(&mut join.source),
        _ => app,
    }
}

/// After a turn of reading: what it means for the join, if it was that which was read. Its end and failure are not the application's.
pub fn after_turn(sent: &mut Sent, join: &mut Join, app: &End, was_open: bool) -> Option<How> {
    if !join.drained {
        // The thread has written all that comes before, and this worker has seen it all.
        join.drained = was_open && !app.readable && !sent.failed && !sent.eof;
        return None;
    }
    let how = if std::mem::take(&mut sent.failed) {
        How::SourceReset
    } else if std::mem::take(&mut sent.eof) {
        How::SourceEnded
    } else if join.source.left == 0 {
        How::Done
    } else {
        return None;
    };
    Some(how)
}

/// Whether there is more to read for a stream now.
pub fn more_to_read(conn: &mut Conn, joins: &Slab<Join>) -> bool {
    match conn.from.and_then(|k| joins.get(k)) {
        Some(join) => !join.drained || join.source.readable,
        None => conn.app().is_some_and(|a| a.readable),
    }
}

impl Worker {
    /// Joins a stream as source or sink; one that is ending already is left to its pair.
    pub fn join_stream(&mut self, key: Key, stream: Key, is_source: bool) {
        let conn = self.conns.get_mut(stream).filter(|c| c.state == State::Open && matches!(c.given.as_deref(), Some(Given::Stream(_))));
        let free = conn.filter(|c| if is_source { c.into.is_none() } else { c.from.is_none() });
        let (Some(conn), Some(join)) = (free, self.joins.get_mut(key)) else { return self.end_join(key, How::Refused) };
        join.stream = Some(stream);
        if is_source {
            conn.into = Some(key);
        } else {
            conn.from = Some(key);
            if let Some(app) = conn.app() {
                app.readable = true;
            }
        }
        if let Some(join) = self.joins.get(key) {
            match is_source {
                true => self.watch(join.sink.fd.as_fd(), Token::Sink(key)),
                false => self.watch(join.source.fd.as_fd(), Token::Source(key)),
            }
        }
        self.pump_joined_stream(stream);
    }

    pub fn pump_joined_stream(&mut self, stream: Key) {
        let Some(tunnel) = self.conns.get(stream).and_then(|c| c.tunnel) else { return };
        if self.tunnels.get(tunnel).is_some_and(|t| t.link.ready()) {
            self.pump(tunnel);
        }
    }

    /// The join is over: the stream goes on with its pair.
    pub fn leave_stream(&mut self, key: Key, stream: Key) {
        let Some(conn) = self.conns.get_mut(stream) else { return };
        if conn.into == Some(key) {
            conn.into = None;
        }
        if conn.from == Some(key) {
            conn.from = None;
            if let Some(app) = conn.app() {
                app.readable = true;
            }
        }
        if let Some(tunnel) = conn.tunnel {
            self.again.push(Token::Tunnel(tunnel));
        }
    }

    /// The stream on this tunnel ends what goes to its sink.
    pub fn end_into(&mut self, tunnel: Key, how: How) {
        let conn = self.tunnels.get(tunnel).and_then(|t| t.conn);
        if let Some(key) = conn.and_then(|c| self.conns.get(c)).and_then(|c| c.into) {
            self.end_join(key, how);
        }
    }

    /// The stream is over, and with it what was joined to it. Told before the thread hears of the stream's end.
    pub fn end_joins_of(&mut self, conn: &Conn, abort: bool) {
        if let Some(key) = conn.into {
            self.end_join(key, if abort { How::SourceReset } else { How::SourceEnded });
        }
        if let Some(key) = conn.from {
            self.end_join(key, How::SinkReset);
        }
    }
}
