//! One TLS 1.3 handshake over byte buffers (rustls, unbuffered), which ends in a record layer (`records.rs`). It never
//! touches a socket and never resumes (rule DP-16).

use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};

use super::identity::{Identities, Snapshot, Svid};
use super::records::{Keys, Records};
use super::validity::not_after_ms;
use super::verify::{Checks, PeerVerifier, identity_of, refusal_of};
use crate::reason::Reason;

pub const ALPN: &[u8] = b"fairlead/1";
/// Type of the record that may stand before an alert (RFC 8446 §D.4).
const CHANGE_CIPHER_SPEC: u8 = 20;

#[derive(Debug)]
struct OneKey(Arc<CertifiedKey>);

impl ResolvesServerCert for OneKey {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for OneKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// A failed session: the reason and, for certificates, both identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    pub expected: Vec<String>,
    pub got: Option<String>,
    pub text: String,
}

impl Failure {
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, expected: Vec::new(), got: None, text: text.into() }
    }
}

/// A handshake under way. When it is done it becomes `Established`.
pub struct Handshake {
    side: Option<Side>,
    started: bool,
}

/// A finished handshake: who the peer is, and the record layer. A client does not know yet whether the server takes its certificate.
pub struct Established {
    pub records: Records,
    pub peer: String,
    pub peer_not_after_ms: u64,
}

/// Client settings of one SVID and one set of expected identities; shared by the tunnels of a plan.
pub fn client_config(ids: &Identities, snapshot: &Snapshot, svid: &Svid, expected: Arc<[String]>) -> Result<Arc<ClientConfig>, Error> {
    let verifier = verifier(ids, snapshot, expected, Checks::Server);
    let mut config = ClientConfig::builder_with_provider(ids.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(OneKey(svid.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// Server settings of one SVID: a client certificate is required.
pub fn server_config(ids: &Identities, snapshot: &Snapshot, svid: &Svid) -> Result<Arc<ServerConfig>, Error> {
    let verifier = verifier(ids, snapshot, Arc::from([]), Checks::Client);
    let mut config = ServerConfig::builder_with_provider(ids.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(OneKey(svid.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn verifier(ids: &Identities, snapshot: &Snapshot, expected: Arc<[String]>, checks: Checks) -> PeerVerifier {
    PeerVerifier {
        trust: snapshot.trust.clone(),
        own_domain: ids.trust_domain.as_str().into(),
        expected,
        checks,
        algorithms: ids.provider.signature_verification_algorithms,
    }
}

impl Handshake {
    pub fn client(config: Arc<ClientConfig>) -> Result<Self, Error> {
        // SNI is off, so the name is only a key that rustls wants.
        let name = ServerName::try_from("fairlead.invalid").map_err(|_| Error::General("server name".into()))?;
        Ok(Self { side: Some(Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?))), started: false })
    }

    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self { side: Some(Side::Server(Box::new(UnbufferedServerConnection::new(config)?))), started: false })
    }

    /// Feeds bytes of the peer (none at first for a client). `consumed` is how far into `input` they are used up: what lies
    /// behind the handshake is left for the record layer. Replies, alerts too, are appended to `out`.
    pub fn advance(&mut self, input: &mut [u8], consumed: &mut usize, out: &mut Vec<u8>) -> Result<Option<Established>, Failure> {
        let mut end = *consumed;
        loop {
            // One record more at a time, so that rustls never sees application data.
            match record_end(&input[end..]) {
                Some(length) => end += length,
                None if self.started => return Ok(None),
                None => {}
            }
            self.started = true;
            let Some(side) = &mut self.side else { return Ok(None) };
            let result = match side {
                Side::Client(c) => drive(c.as_mut(), &mut input[..end], consumed, out),
                Side::Server(s) => drive(s.as_mut(), &mut input[..end], consumed, out),
            };
            if let Err(error) = result {
                // rustls holds an alert for the peer: send it, so that the other side can name the cause.
                match side {
                    Side::Client(c) => take_alert(c.as_mut(), &mut input[*consumed..end], out),
                    Side::Server(s) => take_alert(s.as_mut(), &mut input[*consumed..end], out),
                }
                return Err(failure(&error));
            }
            let done = match side {
                Side::Client(c) => !c.is_handshaking(),
                Side::Server(s) => !s.is_handshaking(),
            };
            if done {
                return self.finish().map(Some);
            }
        }
    }

    fn finish(&mut self) -> Result<Established, Failure> {
        let Some(side) = self.side.take() else { return Err(failure(&Error::HandshakeNotComplete)) };
        let (alpn, leaf) = match &side {
            Side::Client(c) => (c.alpn_protocol(), c.peer_certificates().and_then(|p| p.first())),
            Side::Server(s) => (s.alpn_protocol(), s.peer_certificates().and_then(|p| p.first())),
        };
        if alpn != Some(ALPN) {
            return Err(Failure { reason: Reason::NoCommonAlpn, expected: vec![], got: None, text: "the peer does not speak fairlead/1".into() });
        }
        let Some((peer, peer_not_after_ms)) = leaf.and_then(|l| Some((identity_of(l)?, not_after_ms(l)?))) else {
            return Err(Failure { reason: Reason::NoCertificate, expected: vec![], got: None, text: "no readable certificate".into() });
        };
        let records = match side {
            Side::Client(c) => c.dangerous_into_kernel_connection().and_then(|(s, k)| Records::new(s, Keys::Client(k))),
            Side::Server(c) => c.dangerous_into_kernel_connection().and_then(|(s, k)| Records::new(s, Keys::Server(k))),
        }
        .map_err(|e| failure(&e))?;
        Ok(Established { records, peer, peer_not_after_ms })
    }
}

/// Length of the record at the start, if it is all there.
fn record_end(input: &[u8]) -> Option<usize> {
    let head = input.first_chunk::<5>()?;
    let length = 5 + usize::from(u16::from_be_bytes([head[3], head[4]]));
    (input.len() >= length).then_some(length)
}

/// What both kinds of unbuffered connection have in common.
trait Engine {
    type Data;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Engine for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Engine for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

fn drive<E: Engine>(engine: &mut E, input: &mut [u8], consumed: &mut usize, out: &mut Vec<u8>) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { discard, state } = engine.process(&mut input[*consumed..]);
        let mut wait = false;
        let result = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(())
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                wait = true;
                Ok(())
            }
            Ok(_) => Err(Error::General("data or close inside the handshake".into())),
        };
        *consumed += discard;
        result?;
        if wait {
            return Ok(());
        }
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let mut size = 4_096;
    loop {
        out.resize(start + size, 0);
        match data.encode(&mut out[start..]) {
            Ok(n) => {
                out.truncate(start + n);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > size => size = required_size,
            Err(error) => {
                out.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

/// The input is given again, since rustls remembers how far into it it was. Once the alert is out it must not look at it any more,
/// or it would fail a second time.
fn take_alert<E: Engine>(engine: &mut E, input: &mut [u8], out: &mut Vec<u8>) {
    let mut at = 0;
    for _ in 0..8 {
        let UnbufferedStatus { discard, state } = engine.process(&mut input[at..]);
        at += discard;
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let start = out.len();
                if encode(&mut data, out).is_err() || out.get(start) != Some(&CHANGE_CIPHER_SPEC) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Stable reason of a failed handshake or record.
pub fn failure(error: &Error) -> Failure {
    if let Some(refusal) = refusal_of(error) {
        return Failure { reason: refusal.reason, expected: refusal.expected, got: refusal.got, text: error.to_string() };
    }
    use rustls::AlertDescription as Alert;
    let reason = match error {
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::NoApplicationProtocol | Error::AlertReceived(Alert::NoApplicationProtocol) => Reason::NoCommonAlpn,
        Error::InvalidCertificate(_) => Reason::CertificateInvalid,
        Error::AlertReceived(
            Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Reason::PeerRefusedUs,
        _ => Reason::HandshakeFailed,
    };
    Failure { reason, expected: vec![], got: None, text: error.to_string() }
}
