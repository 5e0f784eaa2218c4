//! One node in this process: a real native side with its real channel, pods whose sockets are plain loopback ones, and an
//! agent that answers questions as the test says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{io, thread};

use fairlead::calls::Pods;
use fairlead::channel::{ANSWER, CALL, EVENT, FrameReader, QUESTION, RECORDS, REPLY};
use fairlead::config::Config;
use fairlead::seam::{Direction, Listener, Original, PodRegistry, PodSockets};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::{Value, json};

use crate::pki::Pair;

/// How long is waited for what must come: longer than any load of the machine delays it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Bound of what must not be waited for. What it would wait for by mistake, `config` of the mesh sets to longer.
pub const AT_ONCE: Duration = Duration::from_secs(10);

/// A pod whose "network namespace" is the loopback device: outbound connections all go to `to`, the app is at `app`.
pub struct LoopbackPod {
    name: String,
    cookie: u64,
    ips: Vec<IpAddr>,
    sockets: Vec<TcpListener>,
    listeners: Vec<Listener>,
    pub to: Mutex<Option<SocketAddr>>,
    pub app: Mutex<Option<SocketAddr>>,
    pub last_client: Mutex<Option<IpAddr>>,
    /// What happens when the app is dialled: a bug of ours, on demand.
    pub trap: Mutex<Option<Trap>>,
    /// What a node's kernel would say of its sockets.
    pub owns: Mutex<Option<bool>>,
}

/// How the thread that dials comes to grief.
#[derive(Clone, Copy, Debug)]
pub enum Trap {
    Panic,
    Hang(Duration),
}

impl LoopbackPod {
    pub fn new(name: &str, inbound: &str) -> Arc<Self> {
        static COOKIES: AtomicU64 = AtomicU64::new(1);
        Self::with(name, inbound, COOKIES.fetch_add(1, Ordering::Relaxed))
    }

    /// The same pod enrolled anew: with listeners of its own.
    pub fn again(&self, inbound: &str) -> Arc<Self> {
        let pod = Self::with(&self.name, inbound, self.cookie);
        *pod.to.lock().unwrap() = *self.to.lock().unwrap();
        pod
    }

    fn with(name: &str, inbound: &str, cookie: u64) -> Arc<Self> {
        let inbound = TcpListener::bind(inbound).unwrap();
        let outbound = TcpListener::bind(if inbound.local_addr().unwrap().is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
        let mut listeners = Vec::new();
        for (socket, direction) in [(&outbound, Direction::Outbound), (&inbound, Direction::Inbound)] {
            socket.set_nonblocking(true).unwrap();
            // As many as a pod's listeners keep: the standard library's 128 are soon full.
            rustix::net::listen(socket, 4_096).unwrap();
            listeners.push(Listener { fd: socket.as_raw_fd(), direction });
        }
        Arc::new(Self {
            name: name.into(),
            cookie,
            ips: vec![inbound.local_addr().unwrap().ip()],
            sockets: vec![outbound, inbound],
            listeners,
            to: Mutex::new(None),
            app: Mutex::new(None),
            last_client: Mutex::new(None),
            trap: Mutex::new(None),
            owns: Mutex::new(Some(false)),
        })
    }

    pub fn outbound(&self) -> SocketAddr {
        self.sockets[0].local_addr().unwrap()
    }

    pub fn inbound(&self) -> SocketAddr {
        self.sockets[1].local_addr().unwrap()
    }
}

impl PodSockets for LoopbackPod {
    fn key(&self) -> &str {
        &self.name
    }
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn ips(&self) -> &[IpAddr] {
        &self.ips
    }
    fn listeners(&self) -> &[Listener] {
        &self.listeners
    }
    fn original_destination(&self, _: BorrowedFd<'_>) -> io::Result<Original> {
        Ok(self.to.lock().unwrap().ok_or(io::ErrorKind::NotFound)?.into())
    }
    fn dial_socket(&self, to: SocketAddr, _: bool) -> io::Result<OwnedFd> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        Ok(fd)
    }
    fn owns(&self, _: SocketAddr, _: SocketAddr) -> io::Result<bool> {
        self.owns.lock().unwrap().ok_or(io::Error::other("no answer, on demand"))
    }
    /// Inside a namespace the app has the pod's address; here it has one of its own, so the socket comes connected.
    fn app_socket(&self, to: SocketAddr, client: IpAddr) -> io::Result<OwnedFd> {
        *self.last_client.lock().unwrap() = Some(client);
        let trap = *self.trap.lock().unwrap();
        match trap {
            Some(Trap::Panic) => panic!("a bug on demand"),
            Some(Trap::Hang(time)) => thread::sleep(time),
            None => {}
        }
        let app = self.app.lock().unwrap().unwrap_or(to);
        let fd = self.dial_socket(app, false)?;
        match rustix::net::connect(&fd, &app) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(fd),
            Err(e) => Err(e.into()),
        }
    }
}

type Answerer = Box<dyn Fn(&Value) -> Option<Value> + Send + Sync>;

#[derive(Default)]
pub struct Seen {
    pub records: Vec<[u8; 128]>,
    /// Rows that count openings.
    pub opened: Vec<[u8; 128]>,
    pub events: Vec<Value>,
    pub questions: Vec<Value>,
    replies: HashMap<u64, Value>,
}

pub struct Node {
    pub pods: Arc<Pods>,
    pub seen: Arc<Mutex<Seen>>,
    agent: Mutex<UnixStream>,
    next_call: AtomicU64,
}

pub fn frame(kind: u8, body: &Value) -> Vec<u8> {
    let text = body.to_string();
    let mut out = (text.len() as u32 + 1).to_le_bytes().to_vec();
    out.push(kind);
    out.extend_from_slice(text.as_bytes());
    out
}

impl Node {
    pub fn start(config: Config, answer: Answerer) -> Node {
        let started = fairlead::control::start(config).unwrap();
        let agent = UnixStream::from(started.agent);
        agent.set_nonblocking(false).unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (mut input, mut output, log) = (agent.try_clone().unwrap(), agent.try_clone().unwrap(), seen.clone());
        thread::spawn(move || {
            let (mut reader, mut room) = (FrameReader::default(), vec![0; 65_536]);
            while let Ok(n) = input.read(&mut room) {
                if n == 0 {
                    return;
                }
                reader.push(&room[..n]);
                while let Some((kind, payload)) = reader.next_frame().unwrap() {
                    let value = || serde_json::from_slice::<Value>(&payload).unwrap();
                    match kind {
                        QUESTION => {
                            let question = value();
                            log.lock().unwrap().questions.push(question.clone());
                            if let Some(mut reply) = answer(&question) {
                                reply["id"] = question["id"].clone();
                                let _ = output.write_all(&frame(ANSWER, &reply));
                            }
                        }
                        RECORDS => {
                            let rows = payload.chunks_exact(128).map(|r| <[u8; 128]>::try_from(r).unwrap());
                            let (ended, opened): (Vec<_>, Vec<_>) = rows.partition(|r| r[0] == 1);
                            let mut log = log.lock().unwrap();
                            log.records.extend(ended);
                            log.opened.extend(opened);
                        }
                        EVENT => log.lock().unwrap().events.push(value()),
                        REPLY => {
                            let reply = value();
                            log.lock().unwrap().replies.insert(reply["id"].as_u64().unwrap(), reply);
                        }
                        other => panic!("frame of kind {other}"),
                    }
                }
            }
        });
        Node { pods: started.pods, seen, agent: Mutex::new(agent), next_call: AtomicU64::new(1) }
    }

    pub fn call(&self, method: &str, params: Value) -> Value {
        let reply = self.ask(method, params);
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["ok"].clone()
    }

    /// The whole reply, with `ok` or `error`.
    pub fn ask(&self, method: &str, params: Value) -> Value {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let body = json!({"id": id, "method": method, "params": params});
        self.agent.lock().unwrap().write_all(&frame(CALL, &body)).unwrap();
        wait_for(|| self.seen.lock().unwrap().replies.remove(&id))
    }

    pub fn enrol(&self, pod: &Arc<LoopbackPod>, identity: &str) {
        self.pods.set_identity(&pod.name, identity);
        self.pods.enrolled(pod.clone());
    }

    pub fn svid(&self, identity: &str, pair: &Pair, generation: u64) {
        self.call("svid.put", json!({"identity": identity, "chainPem": pair.chain, "keyPem": pair.key, "generation": generation, "notAfterMs": 0}));
    }

    pub fn trust(&self, roots: &[(&str, &[&str])]) {
        self.trust_with(roots, &[]);
    }

    pub fn trust_with(&self, roots: &[(&str, &[&str])], aliases: &[&str]) {
        let bundles: Vec<_> = roots.iter().map(|(d, r)| json!({"trustDomain": d, "rootsPem": r})).collect();
        self.call("trust.put", json!({"bundles": bundles, "aliases": aliases, "generation": 1}));
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.call("counters", json!({}))[name].as_u64().unwrap_or(0)
    }

    /// Waits until `count` connections were recorded and returns their records.
    pub fn records(&self, count: usize) -> Vec<[u8; 128]> {
        wait_for(|| Some(self.seen.lock().unwrap().records.clone()).filter(|r| r.len() >= count))
    }

    pub fn event(&self, name: &str) -> Value {
        wait_for(|| self.seen.lock().unwrap().events.iter().find(|e| e["event"] == name).cloned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent.lock().unwrap().shutdown(std::net::Shutdown::Both);
    }
}

pub fn wait_for<T>(check: impl FnMut() -> Option<T>) -> T {
    wait_or(check, || "waited in vain".into())
}

/// As `wait_for`; `said`: what there was instead.
pub fn wait_or<T>(mut check: impl FnMut() -> Option<T>, said: impl Fn() -> String) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < until, "{}", said());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Nobody listens there, nor will: the port is bound for as long as the process lives.
pub fn closed() -> SocketAddr {
    let fd = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&fd, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let bound = TcpListener::from(fd);
    let address = bound.local_addr().unwrap();
    std::mem::forget(bound);
    address
}

/// A loopback address that no other test and no other run has, on the HBONE port.
pub fn hbone_address() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (n, p) = (NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
    format!("127.{}.{}.{n}:15008", 16 + (p >> 8) % 200, p % 256)
}

/// A client's connection, read with patience.
pub fn dial(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says `text` and its end; what comes back until the other side's end.
pub fn ask(to: SocketAddr, text: &[u8]) -> Vec<u8> {
    let mut stream = dial(to);
    stream.write_all(text).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Close reason of a record.
pub fn reason(record: &[u8; 128]) -> u16 {
    u16::from_le_bytes([record[4], record[5]])
}

pub fn number(record: &[u8; 128], at: usize) -> u64 {
    u64::from_le_bytes(record[at..at + 8].try_into().unwrap())
}

/// Serves every connection with `serve` in a thread of its own; ends with the process.
pub fn app(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    app_on("127.0.0.1:0", serve)
}

pub fn app_on(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}
