//! Certificates of the two workloads that the targets with TLS in them play.

use std::sync::OnceLock;

use fairlead::tls::identity::Identities;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

pub const SERVER: &str = "spiffe://cluster.local/ns/b/sa/server";
pub const CLIENT: &str = "spiffe://cluster.local/ns/a/sa/client";

/// A certificate with its key, both in PEM.
pub struct Pair {
    pub chain: String,
    pub key: String,
}

pub struct World {
    pub root: String,
    pub server: Pair,
    pub client: Pair,
}

fn issue(issuer: &Issuer<'_, KeyPair>, identity: &str) -> Pair {
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.subject_alt_names = vec![SanType::URI(identity.try_into().expect("an ASCII name"))];
    let key = KeyPair::generate().expect("a key");
    Pair { chain: params.signed_by(&key, issuer).expect("a certificate").pem(), key: key.serialize_pem() }
}

/// Made once for all inputs.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "fuzz root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").pem();
        let issuer = Issuer::new(params, key);
        World { root, server: issue(&issuer, SERVER), client: issue(&issuer, CLIENT) }
    })
}

/// What the agent of one of the two workloads holds.
pub fn identities(identity: &str, pair: &Pair) -> Identities {
    let identities = Identities::new("cluster.local");
    identities.put_trust(&[("cluster.local".into(), vec![world().root.clone()])], vec![], 1).expect("trust");
    identities.put_svid(identity, &pair.chain, &pair.key, 1, 0).expect("an SVID");
    identities
}
