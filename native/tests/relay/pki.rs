//! Certificates for the tests: a root, SVIDs, and every kind of wrong certificate.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use time::{Duration, OffsetDateTime};

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

pub struct Pair {
    pub chain: String,
    pub key: String,
}

pub fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: Issuer::new(params, key), pem }
}

fn leaf(id: &str, from: Duration, until: Duration) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let now = OffsetDateTime::now_utc();
    params.not_before = now + from;
    params.not_after = now + until;
    params
}

impl Ca {
    /// An SVID that is good for an hour.
    pub fn svid(&self, id: &str) -> Pair {
        self.svid_between(id, Duration::minutes(-5), Duration::hours(1))
    }

    pub fn svid_between(&self, id: &str, from: Duration, until: Duration) -> Pair {
        self.sign(&leaf(id, from, until))
    }

    /// A certificate with these names, which may be none or several.
    pub fn named(&self, names: &[&str]) -> Pair {
        let mut params = leaf("spiffe://to.be/replaced", Duration::minutes(-5), Duration::hours(1));
        params.subject_alt_names = names.iter().map(|n| SanType::URI((*n).try_into().unwrap())).collect();
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

pub fn self_signed(id: &str) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf(id, Duration::minutes(-5), Duration::hours(1)).self_signed(&key).unwrap();
    Pair { chain: certificate.pem(), key: key.serialize_pem() }
}
