//! Copies one stream: a TCP socket of a pod on one side, an HTTP/2 stream on the other. FIN is END_STREAM, RST is
//! RST_STREAM (RFC 9113 §8.5). An idle stream holds no buffer; a reader that stops stops the sender, not the memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::limits::CHUNK;
use super::registry::OpenStream;
use crate::relay::sock;
use crate::relay::threads::Stream;

/// What ended a stream out of order.
#[derive(Debug)]
pub enum Broken {
    /// The application's socket: it reset, or the system gave it up.
    Socket,
    /// The peer sent RST_STREAM.
    Reset,
    /// The HTTP/2 connection is gone.
    Connection,
}

thread_local! {
    /// One for all streams: a read is copied to a piece of its size at once.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

fn broken(error: &h2::Error) -> Broken {
    if error.is_reset() && error.is_remote() { Broken::Reset } else { Broken::Connection }
}

/// `None`: end of the application's data.
fn read(tcp: &TcpStream) -> io::Result<Option<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| match tcp.try_read(scratch)? {
        0 => Ok(None),
        n => Ok(Some(Bytes::copy_from_slice(&scratch[..n]))),
    })
}

/// Sends with the stream's flow control. Capacity is asked for only with data in hand: capacity held by idle streams would
/// be taken from the connection's window, which all streams share.
pub async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), Broken> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let mut room = send.capacity();
        if room == 0 {
            room = match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(n)) => n,
                Some(Err(e)) => return Err(broken(&e)),
                None => return Err(reset_cause(send).await),
            };
        }
        if room > 0 {
            let piece = data.split_to(room.min(data.len()));
            send.send_data(piece, false).map_err(|e| broken(&e))?;
        }
    }
    Ok(())
}

async fn reset_cause(send: &mut SendStream<Bytes>) -> Broken {
    match poll_fn(|cx| send.poll_reset(cx)).await {
        Ok(_) => Broken::Reset,
        Err(e) => broken(&e),
    }
}

async fn socket_to_stream(tcp: &TcpStream, early: Bytes, send: &mut SendStream<Bytes>, open: &OpenStream) -> Result<(), Broken> {
    open.from_socket.fetch_add(early.len() as u64, Ordering::Relaxed);
    send_all(send, early).await?;
    loop {
        tokio::select! {
            biased;
            cause = reset_cause(send) => return Err(cause),
            ready = tcp.readable() => ready.map_err(|_| Broken::Socket)?,
        }
        match read(tcp) {
            Ok(Some(data)) => {
                open.from_socket.fetch_add(data.len() as u64, Ordering::Relaxed);
                send_all(send, data).await?;
            }
            // A thread that died ended nothing in order.
            Ok(None) if open.given.get().is_some_and(Stream::orphaned) => return Err(Broken::Socket),
            Ok(None) => {
                open.ended(true);
                return send.send_data(Bytes::new(), true).map_err(|e| broken(&e));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Broken::Socket),
        }
    }
}

/// An error of the socket that no read will show, because its end was read already.
async fn socket_error(tcp: &TcpStream) {
    let _ = tcp.ready(Interest::ERROR).await;
}

/// Data that the socket did not take waits in `rest`, in one piece however small the frames were. It is bounded by the
/// stream's window, which is opened again only for what the socket took.
async fn stream_to_socket(tcp: &TcpStream, recv: &mut RecvStream, open: &OpenStream) -> Result<(), Broken> {
    let mut rest = BytesMut::new();
    let mut ended = false;
    loop {
        if ended && rest.is_empty() {
            sock::shutdown_write(tcp.as_fd());
            return Ok(());
        }
        tokio::select! {
            biased;
            ready = tcp.writable(), if !rest.is_empty() => {
                ready.map_err(|_| Broken::Socket)?;
                let n = write(tcp, &rest)?;
                rest.advance(n);
                delivered(recv, open, n);
                if rest.is_empty() {
                    rest = BytesMut::new();
                }
            }
            data = recv.data(), if !ended => match data {
                Some(Ok(data)) => {
                    let n = if rest.is_empty() { write(tcp, &data)? } else { 0 };
                    rest.extend_from_slice(&data[n..]);
                    delivered(recv, open, n);
                }
                Some(Err(e)) => return Err(broken(&e)),
                None => {
                    open.ended(false);
                    ended = true;
                }
            },
            () = socket_error(tcp) => return Err(Broken::Socket),
        }
    }
}

fn write(tcp: &TcpStream, data: &[u8]) -> Result<usize, Broken> {
    match tcp.try_write(data) {
        Ok(n) => Ok(n),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(_) => Err(Broken::Socket),
    }
}

fn delivered(recv: &mut RecvStream, open: &OpenStream, n: usize) {
    open.to_socket.fetch_add(n as u64, Ordering::Relaxed);
    // Fails only for more than was received, which `n` never is, or when the stream is over.
    let _ = recv.flow_control().release_capacity(n);
}

/// Copies both ways, `early` (read of the socket before) first, until both ends have ended, or one broke. The caller tells the other side (RST, RST_STREAM).
pub async fn copy(tcp: &TcpStream, early: Bytes, send: &mut SendStream<Bytes>, recv: &mut RecvStream, open: &OpenStream) -> Result<(), Broken> {
    tokio::try_join!(socket_to_stream(tcp, early, send, open), stream_to_socket(tcp, recv, open)).map(|_| ())
}
