//! What the tests stand on: a CA, a pod on loopback, a judge and a recorder that remember.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairlead::hbone::{Ask, Hbone, Inbound, Judge, Outbound, Recorder, Settings, Target};
use fairlead::reason::Reason;
use fairlead::record::Record;
use fairlead::relay::plan::{Action, Verdict};
use fairlead::seam::{Listener, Original, PodSockets};
use fairlead::tls::identity::Identities;
use fairlead::tls::session::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::node::PATIENCE;

pub const CLIENT: &str = "spiffe://cluster.local/ns/a/sa/client";
pub const SERVER: &str = "spiffe://cluster.local/ns/b/sa/server";

pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        // Names of their own: with equal ones OpenSSL takes every leaf for self-signed.
        params.distinguished_name.push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// Certificate and key in PEM.
    pub fn issue(&self, identity: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "workload");
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A directory of this test, removed with it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fairlead-hbone-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A pod whose namespace is ours and whose address is 127.0.0.1.
pub struct LoopbackPod;

fn tcp() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

impl PodSockets for LoopbackPod {
    fn key(&self) -> &str {
        "b/server"
    }
    fn cookie(&self) -> u64 {
        7
    }
    fn ips(&self) -> &[IpAddr] {
        &[IpAddr::V4(Ipv4Addr::LOCALHOST)]
    }
    fn listeners(&self) -> &[Listener] {
        &[]
    }
    fn original_destination(&self, _: BorrowedFd<'_>) -> io::Result<Original> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn dial_socket(&self, _: SocketAddr, _: bool) -> io::Result<OwnedFd> {
        tcp()
    }
    fn app_socket(&self, _: SocketAddr, _: IpAddr) -> io::Result<OwnedFd> {
        tcp()
    }
}

type Rule = Box<dyn Fn(&Ask) -> Option<Action> + Send>;

/// Remembers questions and records; answers as told. `None` leaves the question unanswered.
pub struct Witness {
    ids: AtomicU64,
    pub rule: Mutex<Rule>,
    pub asks: Mutex<Vec<Ask>>,
    pub records: Mutex<Vec<Record>>,
    pub refusals: Mutex<Vec<Failure>>,
}

impl Judge for Witness {
    fn inbound(&self, ask: Ask, answer: Box<dyn FnOnce(Verdict) + Send>) {
        let action = (self.rule.lock().unwrap())(&ask);
        self.asks.lock().unwrap().push(ask);
        match action {
            Some(action) => answer(Verdict { id: 5, action }),
            None => std::mem::forget(answer),
        }
    }
}

impl Recorder for Witness {
    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
    fn ended(&self, record: &Record) {
        self.records.lock().unwrap().push(record.clone());
    }
    fn refused(&self, _: bool, _: &str, _: SocketAddr, _: SocketAddr, failure: &Failure) {
        self.refusals.lock().unwrap().push(failure.clone());
    }
}

/// The HBONE side under test with its identities.
pub struct Mesh {
    pub hbone: Hbone,
    thread: Option<JoinHandle<()>>,
    pub witness: Arc<Witness>,
    pub identities: Arc<Identities>,
    pub ca: Ca,
    pub folder: Folder,
    pub ca_file: String,
}

/// Times that no slow machine makes true; a test that is about one of them sets it.
pub fn settings() -> Settings {
    Settings {
        handshake_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        question_timeout: PATIENCE,
        idle: PATIENCE,
        max_age: Duration::from_secs(300),
        max_age_jitter: Duration::from_secs(1),
    }
}

impl Mesh {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let ca = Ca::new();
        let identities = Arc::new(Identities::new("cluster.local"));
        identities.put_trust(&[("cluster.local".into(), vec![ca.pem.clone()])], vec![], 1).unwrap();
        let witness = Arc::new(Witness {
            ids: AtomicU64::new(1),
            rule: Mutex::new(Box::new(|_| Some(Action::Forward))),
            asks: Mutex::default(),
            records: Mutex::default(),
            refusals: Mutex::default(),
        });
        let (hbone, thread) = Hbone::start(settings, identities.clone(), witness.clone(), witness.clone(), Arc::default()).unwrap();
        let folder = Folder::new();
        let ca_file = folder.write("ca.pem", &ca.pem);
        let mesh = Self { hbone, thread: Some(thread), witness, identities, ca, folder, ca_file };
        mesh.put(CLIENT, 1, 0);
        mesh.put(SERVER, 1, 0);
        mesh
    }

    /// Gives us an SVID; `not_after_ms` 0: as in the certificate.
    pub fn put(&self, identity: &str, generation: u64, not_after_ms: u64) {
        let (certificate, key) = self.ca.issue(identity, false);
        self.identities.put_svid(identity, &certificate, &key, generation, not_after_ms).unwrap();
    }

    /// Files of a certificate for the peer.
    pub fn peer_files(&self, identity: &str, expired: bool) -> (String, String) {
        let (certificate, key) = self.ca.issue(identity, expired);
        (self.folder.write("peer.pem", &certificate), self.folder.write("peer.key", &key))
    }

    /// A pod's HBONE port: what arrives is served. Returns its port.
    pub fn listen_inbound(&self) -> u16 {
        let hbone = self.hbone.clone();
        listen(move |socket, source| {
            let local = socket.local_addr().unwrap();
            hbone.inbound(Inbound { socket: socket.into(), pod: Arc::new(LoopbackPod), identity: SERVER.into(), source, local });
        })
    }

    /// A redirected port: what arrives is carried to `targets`. Returns its port.
    pub fn listen_outbound(&self, targets: Vec<(u16, &str)>) -> u16 {
        self.listen_outbound_to(targets, "10.1.2.3:80".parse().unwrap())
    }

    /// As above, with the address that CONNECT names.
    pub fn listen_outbound_to(&self, targets: Vec<(u16, &str)>, address: SocketAddr) -> u16 {
        let hbone = self.hbone.clone();
        let next = self.witness.clone();
        let targets: Vec<Target> = targets
            .into_iter()
            .enumerate()
            .map(|(i, (port, id))| Target { endpoint: i as u16, address, tunnel: local(port), identities: [id.to_owned()].into() })
            .collect();
        listen(move |socket, source| {
            hbone.outbound(Outbound {
                id: next.next_id(),
                client: socket.into(),
                pod: Arc::new(LoopbackPod),
                identity: CLIENT.into(),
                source,
                destination: "10.96.0.1:80".parse().unwrap(),
                plan: 3,
                protocol: 0,
                targets: targets.clone(),
                early: vec![],
                started: Instant::now(),
                flags: 0,
                pending: None,
                connect: None,
                place: None,
            });
        })
    }

    /// Waits until `n` connections have been recorded.
    pub fn records(&self, n: usize) -> Vec<Record> {
        until(|| self.witness.records.lock().unwrap().len() >= n);
        self.witness.records.lock().unwrap().clone()
    }

    pub fn refusals(&self, n: usize) -> Vec<Reason> {
        until(|| self.witness.refusals.lock().unwrap().len() >= n);
        self.witness.refusals.lock().unwrap().iter().map(|f| f.reason).collect()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.hbone.counters().iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.hbone.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Polls a condition; panics when it does not come true in time.
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "what was waited for did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Serves each connection of a new port on loopback; the thread ends with the process.
pub fn listen(serve: impl Fn(TcpStream, SocketAddr) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(local(0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((socket, source)) = listener.accept() {
            serve(socket, source);
        }
    });
    port
}

/// An application that sends back what it gets and ends when its client ends.
pub fn echo_app() -> u16 {
    listen(|mut socket, _| {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(n) = socket.read(&mut buffer) {
                if n == 0 || socket.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        });
    })
}

pub fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(local(port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// True if the connection ends by RST, as every failure must look to an application.
pub fn is_reset(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    matches!(socket.read_to_end(&mut rest), Err(e) if e.kind() == io::ErrorKind::ConnectionReset)
}

pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
