//! Connects sockets of a pod, whatever state the kernel side hands them over in, as streams of the runtime.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::reason::Reason;
use crate::relay::{outbound, sock};
use crate::seam::PodSockets;

/// How often another source port is asked for because the one given serves an older connection between the same ends.
const PORT_TRIES: usize = 8;

/// Stable reason of a failed connect, as in the relay.
pub fn reason(error: &io::Error) -> Reason {
    error.raw_os_error().map_or(Reason::ConnectFailed, |code| outbound::connect_reason(rustix::io::Errno::from_raw_os_error(code)))
}

/// A socket of a worker or of the kernel side, as the runtime wants it.
pub fn adopt(socket: OwnedFd, remote: bool) -> io::Result<TcpStream> {
    sock::tune(&socket, remote);
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

/// Finishes a connect; that it was begun before is no error (EALREADY), and that it is done already neither.
async fn connected(socket: OwnedFd, to: SocketAddr, remote: bool) -> io::Result<TcpStream> {
    sock::tune(&socket, remote);
    match sock::connect(socket.as_fd(), to) {
        Ok(_) | Err(rustix::io::Errno::ALREADY | rustix::io::Errno::ISCONN) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = adopt(socket, remote)?;
    while !sock::connected(stream.as_fd()) {
        stream.writable().await?;
        if let Some(error) = sock::take_error(stream.as_fd()) {
            return Err(error.into());
        }
        if !sock::connected(stream.as_fd()) {
            // Not yet: wait for the next event.
            let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
    Ok(stream)
}

/// From the pod outwards, toward another pod's HBONE port.
pub async fn tunnel(pod: &dyn PodSockets, to: SocketAddr) -> io::Result<TcpStream> {
    for _ in 1..PORT_TRIES {
        match connected(pod.dial_socket(to, true)?, to, true).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            result => return result,
        }
    }
    connected(pod.dial_socket(to, true)?, to, true).await
}

/// Into the pod, toward its application, as `client`.
pub async fn app(pod: &dyn PodSockets, to: SocketAddr, client: IpAddr) -> io::Result<TcpStream> {
    connected(pod.app_socket(to, client)?, to, false).await
}
