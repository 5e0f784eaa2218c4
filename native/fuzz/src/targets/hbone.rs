//! The HBONE server itself, in this process: a peer with a good certificate sends any bytes as HTTP/2. The connection must come
//! to an end after the peer's, and nothing but the one application that the verdicts allow may be dialled.

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
use fairlead::tls::identity::Identities;
use fairlead::tls::session::Failure;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

const SERVER: &str = "spiffe://cluster.local/ns/b/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/a/sa/client";
/// The application; corpus inputs name it in `:authority`.
const APP_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 77, 0, 1));
const APP: SocketAddr = SocketAddr::new(APP_IP, 8_080);
/// A connection that lives longer after its peer's end is a finding.
const END_WITHIN: Duration = Duration::from_secs(5);

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

fn issue(issuer: &Issuer<'_, KeyPair>, identity: &str) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.subject_alt_names = vec![SanType::URI(identity.try_into().expect("an ASCII name"))];
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, issuer).expect("a certificate"), key)
}

/// One server for all inputs: starting it for each would cost far more than the input.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "fuzz root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        let issuer = Issuer::new(params, key);
        let identities = Arc::new(Identities::new("cluster.local"));
        identities.put_trust(&[("cluster.local".into(), vec![root.pem()])], vec![], 1).expect("trust");
        let (certificate, key) = issue(&issuer, SERVER);
        identities.put_svid(SERVER, &certificate.pem(), &key.serialize_pem(), 1, 0).expect("an SVID");
        let settings = Settings {
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            question_timeout: Duration::from_secs(1),
            idle: Duration::from_secs(30),
            max_age: Duration::from_secs(3_600),
            max_age_jitter: Duration::from_secs(1),
        };
        let witness = Arc::new(Witness::default());
        let (hbone, _) = Hbone::start(settings, identities, witness.clone(), witness).expect("HBONE starts");
        serve_app();
        let (certificate, key) = issue(&issuer, CLIENT);
        let mut config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_client_auth_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
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
    client.set_read_timeout(Some(END_WITHIN)).expect("a timeout");
    client.set_write_timeout(Some(END_WITHIN)).expect("a timeout");
    let name = ServerName::try_from("server.test").expect("a name");
    let tls = rustls::ClientConnection::new(world.config.clone(), name).expect("a client");
    let mut stream = rustls::StreamOwned::new(tls, client);
    // The server may end the connection before all of the input is written.
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| stream.write_all(data)).and_then(|()| stream.flush());
    stream.conn.send_close_notify();
    let _ = stream.flush();
    let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    let began = Instant::now();
    let mut heard = vec![0; 16_384];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => break,
            Ok(_) => assert!(began.elapsed() < END_WITHIN, "still talking after the peer's end"),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => panic!("still open after the peer's end"),
            Err(_) => break,
        }
    }
    while !world.hbone.registry().streams().is_empty() {
        assert!(began.elapsed() < END_WITHIN, "a stream outlives its connection");
        std::thread::sleep(Duration::from_micros(200));
    }
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
