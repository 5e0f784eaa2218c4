//! Small safe wrappers over the socket calls that the relay makes. Everything is non-blocking; `WouldBlock` is a value.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, sockopt};

/// A non-blocking call: done, or come back when the socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    Done(usize),
    WouldBlock,
    Failed(Errno),
}

fn io(result: rustix::io::Result<usize>) -> Io {
    match result {
        Ok(n) => Io::Done(n),
        Err(Errno::AGAIN) => Io::WouldBlock,
        Err(e) => Io::Failed(e),
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> Io {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return io(other),
        }
    }
}

pub fn recv(fd: BorrowedFd<'_>, into: &mut [u8]) -> Io {
    retry(|| net::recv(fd, &mut *into, RecvFlags::empty()).map(|r| r.1))
}

/// Looks at the first bytes without taking them. `into` is replaced by what is there, up to its capacity.
pub fn peek(fd: BorrowedFd<'_>, into: &mut Vec<u8>) -> Io {
    into.clear();
    retry(|| net::recv(fd, spare_capacity(into), RecvFlags::PEEK).map(|r| r.1))
}

pub fn readv(fd: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>]) -> Io {
    retry(|| rustix::io::readv(fd, into))
}

pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> Io {
    retry(|| net::send(fd, bytes, SendFlags::NOSIGNAL))
}

fn flags(fin_follows: bool) -> SendFlags {
    if fin_follows { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL }
}

/// Sends bytes. `fin_follows`: the direction is shut right after them, so that the FIN rides with the last of them.
pub fn send_last(fd: BorrowedFd<'_>, bytes: &[u8], fin_follows: bool) -> Io {
    retry(|| net::send(fd, bytes, flags(fin_follows)))
}

pub fn sendv(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>], fin_follows: bool) -> Io {
    retry(|| net::sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), flags(fin_follows)))
}

fn canonical(address: Option<net::SocketAddrAny>) -> io::Result<SocketAddr> {
    let any = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
    let address = SocketAddr::try_from(any)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Next connection of a listener with its peer's address; `None`: nothing waits.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    loop {
        match net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            // The client gave up while it waited, or the network answered with an error: take the next one.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::NETDOWN | Errno::NETUNREACH | Errno::HOSTUNREACH) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok((fd, peer)) => match canonical(peer) {
                Ok(peer) => return Ok(Some((fd, peer))),
                Err(_) => drop(fd),
            },
        }
    }
}

pub fn local(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    canonical(Some(net::getsockname(fd)?))
}

/// Starts a connect, or asks about one that was started with the socket (see `PodSockets::app_socket`). True: established
/// at once, or already by the time of asking (a loopback connect usually is).
pub fn connect(fd: BorrowedFd<'_>, to: SocketAddr) -> rustix::io::Result<bool> {
    match net::connect(fd, &to) {
        Ok(()) | Err(Errno::ISCONN) => Ok(true),
        Err(Errno::INPROGRESS | Errno::ALREADY | Errno::INTR) => Ok(connected(fd)),
        Err(e) => Err(e),
    }
}

pub fn connected(fd: BorrowedFd<'_>) -> bool {
    matches!(net::getpeername(fd), Ok(Some(_)))
}

/// Pending error of a socket, cleared by reading it.
pub fn take_error(fd: BorrowedFd<'_>) -> Option<Errno> {
    match sockopt::socket_error(fd) {
        Ok(Err(e)) | Err(e) => Some(e),
        Ok(Ok(())) => None,
    }
}

pub fn shutdown_write(fd: BorrowedFd<'_>) {
    let _ = net::shutdown(fd, Shutdown::Write);
}

/// Ends listening while others may still hold the descriptor: connections that nobody will take are refused at once.
pub fn stop_listening(fd: BorrowedFd<'_>) {
    let _ = net::shutdown(fd, Shutdown::Both);
}

/// Makes the coming close send RST and drop unsent data.
pub fn reset_on_close(fd: BorrowedFd<'_>) {
    let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
}

/// Options of a connection; accepted sockets inherit them from their listener (Linux), so there they cost nothing.
pub fn tune(fd: impl AsFd, remote: bool) {
    let fd = fd.as_fd();
    let _ = sockopt::set_tcp_nodelay(fd, true);
    if remote {
        let _ = sockopt::set_socket_keepalive(fd, true);
        let _ = sockopt::set_tcp_keepidle(fd, Duration::from_secs(30));
        let _ = sockopt::set_tcp_keepintvl(fd, Duration::from_secs(10));
        let _ = sockopt::set_tcp_keepcnt(fd, 3);
        let _ = sockopt::set_tcp_user_timeout(fd, 60_000);
    }
}
