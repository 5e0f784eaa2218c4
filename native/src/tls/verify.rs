//! Checks a peer's certificate in the handshake: SPIFFE SAN, trust domain, chain, validity, expected identities. Each
//! refusal has its own stable reason and carries both identities (requirement IDN-7).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::{Roots, Trust};
use super::verified;
use crate::reason::Reason;

/// Why a certificate was refused; travels inside `rustls::Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub expected: Vec<String>,
    pub got: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: got {:?}, expected {:?}", self.reason.text(), self.got, self.expected)
    }
}

impl std::error::Error for Refusal {}

/// Which of the two sides the checked certificate plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    Server,
    Client,
}

/// Verifier of one side. `expected` empty: any identity of a trusted domain (the server side; policy is asked at OPEN).
#[derive(Clone)]
pub struct PeerVerifier {
    pub trust: Arc<Trust>,
    pub own_domain: Arc<str>,
    pub expected: Arc<[String]>,
    pub checks: Checks,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("expected", &self.expected).field("checks", &self.checks).finish_non_exhaustive()
    }
}

/// The single SPIFFE id of a certificate (SPIFFE X.509-SVID §2: exactly one URI SAN).
pub fn spiffe_id<'a>(certificate: &EndEntityCert<'a>) -> Option<&'a str> {
    let mut names = certificate.valid_uri_names();
    let id = names.next()?;
    if names.next().is_some() || !id.starts_with("spiffe://") || id.len() > 2048 {
        return None;
    }
    Some(id)
}

/// Identity of the leaf that a peer presented.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let leaf = EndEntityCert::try_from(certificate).ok()?;
    spiffe_id(&leaf).map(str::to_owned)
}

impl PeerVerifier {
    fn chain(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &[TrustAnchor<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let usage = match self.checks {
            Checks::Server => KeyUsage::server_auth(),
            Checks::Client => KeyUsage::client_auth(),
        };
        leaf.verify_for_usage(self.algorithms.all, roots, intermediates, now, usage, None, None).map(|_| ())
    }

    /// The whole check. Order: name, trust domain, chain and validity, then whether this very identity is expected.
    pub fn check(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        let refuse = |reason, got: Option<&str>| Refusal { reason, expected: self.expected.to_vec(), got: got.map(str::to_owned) };
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| refuse(Reason::CertificateInvalid, None))?;
        let Some(id) = spiffe_id(&certificate) else { return Err(refuse(Reason::CertificateInvalid, None)) };
        let domain = id["spiffe://".len()..].split('/').next().unwrap_or("");
        let Some(roots) = self.trust.roots(domain, &self.own_domain) else {
            return Err(refuse(Reason::WrongTrustDomain, Some(id)));
        };
        let key = verified::key(self.checks, leaf, intermediates);
        if !self.trust.verified.holds(&key, now) {
            self.chain(&certificate, intermediates, &roots.anchors, now).map_err(|error| {
                let reason = self.reason_of(&error, &certificate, intermediates, &self.trust.retired, now);
                refuse(reason, Some(id))
            })?;
            self.trust.verified.remember(key, leaf, intermediates, now);
        }
        if !self.expected.is_empty() && !self.expected.iter().any(|e| self.trust.same(e, id, &self.own_domain)) {
            return Err(refuse(Reason::WrongIdentity, Some(id)));
        }
        Ok(())
    }

    fn reason_of(
        &self,
        error: &webpki::Error,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        retired: &Roots,
        now: UnixTime,
    ) -> Reason {
        match error {
            webpki::Error::CertExpired { .. } => Reason::CertificateExpired,
            webpki::Error::CertNotValidYet { .. } => Reason::CertificateNotYetValid,
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                let known_once = !retired.anchors.is_empty() && self.chain(leaf, intermediates, &retired.anchors, now).is_ok();
                if known_once { Reason::RootNotTrusted } else { Reason::UnknownIssuer }
            }
            webpki::Error::CaUsedAsEndEntity => Reason::UnknownIssuer,
            _ => Reason::CertificateInvalid,
        }
    }

    fn verify(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.check(leaf, intermediates, now).map_err(|refusal| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal)))))
    }

    fn tls12(&self) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }
}

/// The refusal inside a TLS error, if a certificate was the cause.
pub fn refusal_of(error: &Error) -> Option<Refusal> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref::<Refusal>().cloned(),
        _ => None,
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
