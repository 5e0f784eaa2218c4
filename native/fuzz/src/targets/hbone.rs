//! The HBONE server itself, in this process: a peer with a good certificate sends any bytes as HTTP/2. Nothing but the one
//! application that the verdicts allow may be dialled; what it sends back, which is what it got, must arrive on the stream that
//! it came from, all of it where nothing of the input stands against it; and the connection must end after the peer's end.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fairlead::hbone::{Ask, Hbone, Inbound, Judge, Recorder, Settings};
use fairlead::reason::Reason;
use fairlead::record::Record;
use fairlead::relay::plan::{Action, Verdict};
use fairlead::seam::{Listener, Original, PodSockets};
use fairlead::tls::session::Failure;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::h2_frames::{Heard, mark};
use super::world::{CLIENT, SERVER, identities, world as certificates};

/// The application; corpus inputs name it in `:authority`.
const APP_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
const APP: SocketAddr = SocketAddr::new(APP_IP, 8_080);
/// A connection that lives longer after its peer's end is a finding.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long one read waits. Time is counted in such waits, so that a process that was stopped meanwhile finds nothing.
const TICK: Duration = Duration::from_millis(4);
/// Waits for an echo that nothing stands against.
const ECHO_TICKS: usize = 1_000;
/// Waits in which nothing came, before the input is taken for answered.
const QUIET_TICKS: usize = 2;
/// Bytes that flow without a WINDOW_UPDATE of ours.
const WINDOW: usize = 65_535;

struct Pod;

impl PodSockets for Pod {
    fn key(&self) -> &str {
        "b/server"
    }
    fn cookie(&self) -> u64 {
        7
    }
    fn ips(&self) -> &[IpAddr] {
        &[APP_IP]
    }
    fn listeners(&self) -> &[Listener] {
        &[]
    }
    fn original_destination(&self, _: BorrowedFd<'_>) -> io::Result<Original> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn dial_socket(&self, _: SocketAddr, _: bool) -> io::Result<OwnedFd> {
        panic!("an inbound stream dialled out")
    }
    fn app_socket(&self, to: SocketAddr, _: IpAddr) -> io::Result<OwnedFd> {
        assert_eq!(to, APP, "dialled what no verdict allows");
        Ok(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
    }
}

#[derive(Default)]
struct Witness(AtomicU64);

impl Judge for Witness {
    fn inbound(&self, ask: Ask, answer: Box<dyn FnOnce(Verdict) + Send>) {
        assert_eq!((&*ask.identity, &*ask.pod), (CLIENT, "b/server"), "bytes of the peer changed who it is");
        let refuse = Action::Refuse { reason: Reason::PolicyDenied, policy: String::new() };
        answer(Verdict { id: 1, action: if ask.destination == APP { Action::Forward } else { refuse } });
    }
}

impl Recorder for Witness {
    fn next_id(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn ended(&self, record: &Record) {
        assert!(record.reason != Reason::Finished || record.destination == APP);
    }
    fn refused(&self, _: bool, _: &str, _: SocketAddr, _: SocketAddr, failure: &Failure) {
        // The handshake is good; only what follows it is the input.
        assert_eq!(failure.reason, Reason::TunnelProtocol, "{}", failure.text);
    }
}

struct World {
    hbone: Hbone,
    listener: TcpListener,
    config: Arc<rustls::ClientConfig>,
}

/// One server for all inputs: starting it for each would cost far more than the input.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let certificates = certificates();
        let identities = Arc::new(identities(SERVER, &certificates.server));
        let settings = Settings {
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            question_timeout: Duration::from_secs(1),
            idle: Duration::from_secs(30),
            max_age: Duration::from_secs(3_600),
            max_age_jitter: Duration::from_secs(1),
        };
        let witness = Arc::new(Witness::default());
        let (hbone, _) = Hbone::start(settings, identities, witness.clone(), witness, Arc::default()).expect("HBONE starts");
        serve_app();
        let chain = vec![CertificateDer::from_pem_slice(certificates.client.chain.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(certificates.client.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_client_auth_cert(chain, key)
            .expect("a client");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        World { hbone, listener, config: Arc::new(config) }
    })
}

/// Sends back what it gets. When another run has the address already, that one answers for both.
fn serve_app() {
    let Ok(listener) = TcpListener::bind(APP) else { return };
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut reader = socket.try_clone()?;
                io::copy(&mut reader, &mut socket)
            });
        }
    });
}

pub fn server(data: &[u8]) {
    let world = world();
    let client = TcpStream::connect(world.listener.local_addr().expect("bound")).expect("loopback");
    let (socket, source) = world.listener.accept().expect("loopback");
    let local = socket.local_addr().expect("connected");
    world.hbone.inbound(Inbound { socket: socket.into(), pod: Arc::new(Pod), identity: SERVER.into(), source, local });
    client.set_read_timeout(Some(TICK)).expect("a timeout");
    client.set_write_timeout(Some(END_WITHIN)).expect("a timeout");
    let name = ServerName::try_from("server.test").expect("a name");
    let tls = rustls::ClientConnection::new(world.config.clone(), name).expect("a client");
    let mut stream = rustls::StreamOwned::new(tls, client);
    let mut asked = Heard::default();
    asked.take(data);
    // The server may end the connection before all of the input is written.
    let _ = write(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| write(&mut stream, data));
    if asked.is_whole() {
        let _ = write(&mut stream, &mark());
    }
    let mut heard = Heard::default();
    let over = answers(&mut stream, &asked, &mut heard);
    for (number, got) in &heard.streams {
        let sent = asked.streams.get(number).map_or(&[][..], |s| &s.data);
        assert!(sent.starts_with(&got.data), "stream {number} brought what was not sent on it");
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    let ticks = (END_WITHIN.as_millis() / TICK.as_millis()) as usize;
    assert!(over || (0..ticks).any(|_| matches!(read(&mut stream, &mut heard), Came::End)), "still open after the peer's end");
    let began = Instant::now();
    while !world.hbone.registry().streams().is_empty() {
        assert!(began.elapsed() < END_WITHIN, "a stream outlives its connection");
        std::thread::sleep(Duration::from_micros(200));
    }
}

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

enum Came {
    Bytes,
    Nothing,
    End,
}

/// As `write_all` and `flush`, though the handshake is read for with waits of a tick.
fn write(stream: &mut Tls, bytes: &[u8]) -> io::Result<()> {
    let mut left = (END_WITHIN.as_millis() / TICK.as_millis()) as usize;
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Ok(_) => {}
            Err(e) if waits(&e) && left > 0 => left -= 1,
            Err(e) => return Err(e),
        }
    }
    stream.write_all(bytes)?;
    stream.flush()
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn read(stream: &mut Tls, heard: &mut Heard) -> Came {
    let mut room = [0; 16_384];
    match stream.read(&mut room) {
        Ok(0) => Came::End,
        Ok(n) => {
            heard.take(&room[..n]);
            Came::Bytes
        }
        Err(e) if waits(&e) => Came::Nothing,
        Err(_) => Came::End,
    }
}

/// Reads what the input brings about. True: the server ended the connection.
fn answers(stream: &mut Tls, asked: &Heard, heard: &mut Heard) -> bool {
    let (mut quiet, mut ticks) = (0, 0);
    loop {
        match read(stream, heard) {
            Came::End => return true,
            Came::Bytes => quiet = 0,
            Came::Nothing => (quiet, ticks) = (quiet + 1, ticks + 1),
        }
        let read_all = heard.marked || !asked.is_whole() || heard.goaway;
        let answered = asked.streams.keys().all(|n| heard.streams.get(n).is_some_and(|s| s.heads > 0 || s.reset));
        match missing(asked, heard) {
            Some(number) => assert!(ticks < ECHO_TICKS, "the echo of stream {number} does not come"),
            None if read_all && answered => return false,
            None if quiet >= QUIET_TICKS && (read_all || quiet >= 16) => return false,
            None => {}
        }
    }
}

/// A stream whose data was taken (200) and has not all come back, though nothing stands against it.
fn missing(asked: &Heard, heard: &Heard) -> Option<u32> {
    let calm = asked.is_whole() && !asked.goaway && !heard.goaway && !asked.windows;
    let total: usize = asked.streams.values().map(|s| s.data.len()).sum();
    if !calm || total > WINDOW {
        return None;
    }
    let waiting = heard.streams.iter().filter(|(_, got)| got.accepted && !got.reset);
    let mut waiting = waiting.filter_map(|(number, got)| Some((number, got, asked.streams.get(number)?)));
    let owed = waiting.find(|(_, got, sent)| sent.heads == 1 && !sent.reset && (got.data.len() < sent.data.len() || (sent.ended && !got.ended)));
    owed.map(|(number, ..)| *number)
}

/// Who the server is does not matter to this client.
#[derive(Debug)]
struct Trusting;

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256, rustls::SignatureScheme::ED25519]
    }
}
