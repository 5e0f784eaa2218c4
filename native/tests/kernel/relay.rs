//! A plain byte side: takes what the listeners accept, dials on, copies. Notes what it saw.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use fairlead::seam::{Direction, PodRegistry, PodSockets};
use fairlead::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A connection that came to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub pod: String,
    pub direction: Direction,
    /// Where it was meant to go, as the kernel side tells; None if it refuses to.
    pub destination: Option<SocketAddr>,
    pub source: SocketAddr,
    /// Whether the app was said to listen on the HBONE port then.
    pub app_has_hbone: bool,
}

pub struct Relay {
    me: Weak<Relay>,
    pub seen: Mutex<Vec<Seen>>,
    pods: Mutex<HashMap<String, Arc<AtomicBool>>>,
    /// While set, accepted connections are dropped instead of carried.
    pub refuse: AtomicBool,
    /// While set, accepted connections are kept open here, untouched.
    pub hold: AtomicBool,
    pub held: Mutex<Vec<TcpStream>>,
    /// Where outbound connections to a service address are taken.
    pub routes: Mutex<HashMap<SocketAddr, SocketAddr>>,
}

impl Relay {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            seen: Mutex::default(),
            pods: Mutex::default(),
            refuse: AtomicBool::new(false),
            hold: AtomicBool::new(false),
            held: Mutex::default(),
            routes: Mutex::default(),
        })
    }

    pub fn of(&self, direction: Direction) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|s| s.direction == direction).cloned().collect()
    }

    pub fn clear(&self) {
        self.seen.lock().unwrap().clear();
    }

    fn route(&self, to: SocketAddr) -> SocketAddr {
        self.routes.lock().unwrap().get(&to).copied().unwrap_or(to)
    }

    fn take(&self, pod: &dyn PodSockets, direction: Direction, stream: TcpStream) -> io::Result<()> {
        let source = stream.peer_addr()?;
        let found = match direction {
            Direction::Outbound => pod.original_destination(stream.as_fd()).map(|o| o.destination),
            Direction::Inbound => stream.local_addr(),
        };
        let destination = found.as_ref().ok().copied();
        self.seen.lock().unwrap().push(Seen {
            pod: pod.key().into(),
            direction,
            destination,
            source,
            app_has_hbone: pod.app_listens(fairlead::hbone::PORT),
        });
        if self.refuse.load(Ordering::Relaxed) {
            return Ok(());
        }
        let to = match direction {
            Direction::Outbound => self.route(found?),
            Direction::Inbound => found?,
        };
        let upstream = connect(pod, direction, to, source.ip())?;
        copy_both(stream, upstream);
        Ok(())
    }
}

/// Opens and connects an agent's socket; a source port that is taken for this very pair means: the next one.
pub fn connect(pod: &dyn PodSockets, direction: Direction, to: SocketAddr, client: IpAddr) -> io::Result<TcpStream> {
    for _ in 0..64 {
        let fd = match direction {
            Direction::Outbound => pod.dial_socket(to, false)?,
            Direction::Inbound => pod.app_socket(to, client)?,
        };
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(false)?;
        match rustix::net::connect(&stream, &to) {
            Err(rustix::io::Errno::ADDRNOTAVAIL) => continue,
            Err(rustix::io::Errno::ISCONN) => (),
            other => other?,
        }
        return Ok(stream);
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// Until a connection may be there, or it is time to look whether to stop.
fn wait(listener: &TcpListener) {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
}

fn copy_both(one: TcpStream, other: TcpStream) {
    let (Ok(one2), Ok(other2)) = (one.try_clone(), other.try_clone()) else { return };
    std::thread::spawn(move || copy(one2, other2));
    copy(other, one);
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 65_536];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break drop(to.shutdown(Shutdown::Write)),
            Ok(n) if to.write_all(&buffer[..n]).is_ok() => (),
            _ => {
                let _ = to.shutdown(Shutdown::Both);
                break drop(from.shutdown(Shutdown::Both));
            }
        }
    }
}

impl PodRegistry for Relay {
    fn enrolled(&self, pod: Arc<dyn PodSockets>) {
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(old) = self.pods.lock().unwrap().insert(pod.key().into(), stop.clone()) {
            old.store(true, Ordering::Relaxed);
        }
        let me = self.me.upgrade().expect("called on a living relay");
        for listener in pod.listeners() {
            let fd: OwnedFd = sys::duplicate(listener.fd).expect("duplicate");
            let (me, pod, stop, direction) = (me.clone(), pod.clone(), stop.clone(), listener.direction);
            std::thread::spawn(move || {
                let listener = TcpListener::from(fd);
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, client)) if me.hold.load(Ordering::Relaxed) => {
                            pod.met(client);
                            me.held.lock().unwrap().push(stream);
                        }
                        Ok((stream, _)) => {
                            let (me, pod) = (me.clone(), pod.clone());
                            std::thread::spawn(move || me.take(&*pod, direction, stream));
                        }
                        Err(_) => wait(&listener),
                    }
                }
            });
        }
    }

    fn unenrolled(&self, key: &str, _drain_ms: u64) {
        if let Some(stop) = self.pods.lock().unwrap().remove(key) {
            stop.store(true, Ordering::Relaxed);
        }
    }
}
