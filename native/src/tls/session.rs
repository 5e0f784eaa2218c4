//! One TLS 1.3 session over byte buffers (rustls, unbuffered): bytes of the peer are decrypted where they lie, bytes for
//! the peer are appended to an output buffer. It never touches a socket and never resumes (rule DP-16).

use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};

use super::identity::{Identities, Snapshot, Svid};
use super::validity::not_after_ms;
use super::verify::{Checks, PeerVerifier, identity_of, refusal_of};
use crate::reason::Reason;

pub const ALPN: &[u8] = b"fairlead/1";

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

/// What `receive` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Everything given was used up to an incomplete record.
    NeedMore,
    /// The consumer asked to pause; the rest of the input is still encrypted.
    Paused,
    /// close_notify: the peer will send no more.
    Closed,
}

/// A failed session: the reason and, for certificates, both identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    pub expected: Vec<String>,
    pub got: Option<String>,
    pub text: String,
}

pub struct Session {
    side: Side,
    established: bool,
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

/// Grows `out` until `write` fits, then keeps what it wrote.
fn append<E>(out: &mut Vec<u8>, guess: usize, mut write: impl FnMut(&mut [u8]) -> Result<usize, E>, room: impl Fn(&E) -> Option<usize>) -> Result<(), E> {
    let start = out.len();
    let mut size = guess;
    loop {
        out.resize(start + size, 0);
        match write(&mut out[start..]) {
            Ok(n) => {
                out.truncate(start + n);
                return Ok(());
            }
            Err(e) => match room(&e) {
                Some(required) if required > size => size = required,
                _ => {
                    out.truncate(start);
                    return Err(e);
                }
            },
        }
    }
}

/// Bytes that TLS 1.3 adds to one record: header, content type and tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

impl Session {
    pub fn client(config: Arc<ClientConfig>) -> Result<Self, Error> {
        // SNI is off, so the name is only a key that rustls wants.
        let name = ServerName::try_from("fairlead.invalid").map_err(|_| Error::General("server name".into()))?;
        Ok(Self { side: Side::Client(Box::new(UnbufferedClientConnection::new(config, name)?)), established: false })
    }

    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self { side: Side::Server(Box::new(UnbufferedServerConnection::new(config)?)), established: false })
    }

    /// Handshake done, both certificates checked (for a client: the server may still refuse ours).
    pub fn established(&self) -> bool {
        self.established
    }

    /// Identity and `notAfter` (Unix ms) of the peer's leaf.
    pub fn peer(&self) -> Option<(String, u64)> {
        let certificates: Option<&[CertificateDer<'static>]> = match &self.side {
            Side::Client(c) => c.peer_certificates(),
            Side::Server(s) => s.peer_certificates(),
        };
        let leaf = certificates?.first()?;
        Some((identity_of(leaf)?, not_after_ms(leaf)?))
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Client(c) => c.alpn_protocol(),
            Side::Server(s) => s.alpn_protocol(),
        }
    }

    /// Feeds bytes of the peer. `consumed` is how far into `input` they are used up; plaintext goes to `on_data`, which
    /// returns false to pause after that record. Replies (handshake, alerts) are appended to `out`.
    pub fn receive(&mut self, input: &mut [u8], consumed: &mut usize, out: &mut Vec<u8>, on_data: &mut dyn FnMut(&[u8]) -> bool) -> Result<Progress, Failure> {
        let result = match &mut self.side {
            Side::Client(c) => drive(c.as_mut(), input, consumed, out, on_data),
            Side::Server(s) => drive(s.as_mut(), input, consumed, out, on_data),
        };
        let progress = result.map_err(|error| {
            // rustls holds an alert for the peer: send it, so that the other side can name the cause.
            match &mut self.side {
                Side::Client(c) => take_alert(c.as_mut(), out),
                Side::Server(s) => take_alert(s.as_mut(), out),
            }
            failure(&error)
        })?;
        if !self.established {
            self.established = match &self.side {
                Side::Client(c) => !c.is_handshaking(),
                Side::Server(s) => !s.is_handshaking(),
            };
            if self.established && self.alpn() != Some(ALPN) {
                return Err(Failure { reason: Reason::NoCommonAlpn, expected: vec![], got: None, text: "peer chose no ALPN fairlead/1".into() });
            }
        }
        Ok(progress)
    }

    /// Encrypts `plain` (frames and data, any length) and appends the records to `out`.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match &mut self.side {
            Side::Client(c) => encrypt(c.as_mut(), plain, out),
            Side::Server(s) => encrypt(s.as_mut(), plain, out),
        }
        .map_err(|e| failure(&e))
    }

    /// Appends close_notify.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        match &mut self.side {
            Side::Client(c) => close_notify(c.as_mut(), out),
            Side::Server(s) => close_notify(s.as_mut(), out),
        }
    }
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

fn drive<E: Engine>(engine: &mut E, input: &mut [u8], consumed: &mut usize, out: &mut Vec<u8>, on_data: &mut dyn FnMut(&[u8]) -> bool) -> Result<Progress, Error> {
    loop {
        let UnbufferedStatus { mut discard, state } = engine.process(&mut input[*consumed..]);
        let mut end = None;
        match state {
            Err(error) => {
                *consumed += discard;
                return Err(error);
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut go_on = true;
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    go_on &= on_data(record.payload);
                }
                if !go_on {
                    end = Some(Progress::Paused);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out)?,
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => end = Some(Progress::NeedMore),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => end = Some(Progress::Closed),
            Ok(_) => return Err(Error::General("early data is never accepted".into())),
        }
        *consumed += discard;
        if let Some(progress) = end {
            return Ok(progress);
        }
    }
}

fn encode<D>(data: &mut rustls::unbuffered::EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Error> {
    append(out, 4_096, |room| data.encode(room), |e| match e {
        EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
        EncodeError::AlreadyEncoded => None,
    })
    .map_err(|e| Error::General(e.to_string()))
}

fn take_alert<E: Engine>(engine: &mut E, out: &mut Vec<u8>) {
    for _ in 0..8 {
        match engine.process(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                if encode(&mut data, out).is_err() {
                    return;
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            _ => return,
        }
    }
}

fn encrypt<E: Engine>(engine: &mut E, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let guess = plain.len() + plain.len().div_ceil(16_384).max(1) * RECORD_OVERHEAD;
    loop {
        match engine.process(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => return append(out, guess, |room| traffic.encrypt(plain, room), room_needed).map_err(|e| Error::General(e.to_string())),
            ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

fn close_notify<E: Engine>(engine: &mut E, out: &mut Vec<u8>) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = engine.process(&mut []).state {
        let _ = append(out, 64, |room| traffic.queue_close_notify(room), room_needed);
    }
}

fn room_needed(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Stable reason of a failed handshake or record.
fn failure(error: &Error) -> Failure {
    if let Some(refusal) = refusal_of(error) {
        return Failure { reason: refusal.reason, expected: refusal.expected, got: refusal.got, text: error.to_string() };
    }
    use rustls::AlertDescription as Alert;
    let reason = match error {
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::NoApplicationProtocol | Error::AlertReceived(Alert::NoApplicationProtocol) => Reason::NoCommonAlpn,
        Error::InvalidCertificate(_) => Reason::CertificateInvalid,
        Error::AlertReceived(
            Alert::BadCertificate | Alert::CertificateExpired | Alert::CertificateRevoked | Alert::CertificateRequired
            | Alert::CertificateUnknown | Alert::UnsupportedCertificate | Alert::UnknownCA | Alert::AccessDenied,
        ) => Reason::PeerRefusedUs,
        _ => Reason::HandshakeFailed,
    };
    Failure { reason, expected: vec![], got: None, text: error.to_string() }
}
