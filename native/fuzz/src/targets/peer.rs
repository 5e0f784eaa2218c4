//! What a peer says of itself and wants: the `:authority` of a CONNECT, and its certificate.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use fairlead::hbone::authority;
use fairlead::reason::Reason;
use fairlead::tls::verify::{Checks, PeerVerifier};
use fairlead::tls::{validity, verify};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::world::{SERVER, identities, world};

pub fn authority(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(address) = authority::parse(&text) else { return };
    // Nothing of its own: the standard parser reads the same, and a mapped address is no way round a rule.
    let standard: SocketAddr = text.parse().expect("accepted what is no address and port");
    assert_eq!(SocketAddr::new(standard.ip().to_canonical(), standard.port()), address);
    assert!(address.port() != 0 && address.ip() == address.ip().to_canonical());
    assert_eq!(authority::parse(&address.to_string()), Ok(address));
}

pub fn certificate(data: &[u8]) {
    // 9999-12-31 is the last day that a certificate can name.
    if let Some(ms) = validity::not_after_ms(data) {
        assert!(ms < 253_402_387_200_000, "{ms}");
        let longer = [data, &[0]].concat();
        assert_eq!(validity::not_after_ms(&longer), Some(ms), "bytes behind the certificate changed what it says");
    }
    let id = verify::identity_of(&data.into());
    if let Some(id) = &id {
        assert!(id.starts_with("spiffe://") && id.len() <= 2_048 && id.is_ascii(), "{id:?}");
    }
    // Nobody here has signed it, so no side takes it; the refusal names whom it names.
    let (verifier, good) = verifier();
    let refusal = verifier.check(&data.into(), &[], UnixTime::now()).expect_err("an unsigned certificate was taken");
    assert_eq!(refusal.got, id.filter(|_| refusal.reason != Reason::CertificateInvalid || refusal.got.is_some()));
    // Beside a good one it is only a certificate that is not needed.
    verifier.check(good, &[data.into()], UnixTime::now()).expect("a good certificate");
}

fn verifier() -> &'static (PeerVerifier, CertificateDer<'static>) {
    static VERIFIER: OnceLock<(PeerVerifier, CertificateDer<'static>)> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let ids = identities(SERVER, &world().server);
        let verifier = PeerVerifier {
            trust: ids.snapshot().trust.clone(),
            own_domain: "cluster.local".into(),
            expected: Arc::from([]),
            checks: Checks::Client,
            algorithms: ids.provider.signature_verification_algorithms,
        };
        (verifier, CertificateDer::from_pem_slice(world().client.chain.as_bytes()).expect("a certificate"))
    })
}
