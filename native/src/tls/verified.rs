//! Certificate chains found good: a thousand tunnels to one peer have its chain checked once. Belongs to one trust snapshot,
//! so that a change of roots forgets all. The proof of the key (CertificateVerify) is checked in every handshake all the same.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::validity::not_after_ms;
use super::verify::Checks;

/// More peers than a node has; beyond it all is forgotten and learnt anew.
const MOST: usize = 4_096;

/// What a verdict depends on besides the roots: the use and every byte presented.
pub type Key = [u8; SHA256_OUTPUT_LEN];

pub fn key(checks: Checks, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Key {
    let mut context = Context::new(&SHA256);
    context.update(&[checks as u8]);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; SHA256_OUTPUT_LEN];
    key.copy_from_slice(context.finish().as_ref());
    key
}

/// When a verdict holds: not before it was taken (a clock set back is a reason to look again), not after any certificate's end.
#[derive(Clone, Copy)]
struct Window {
    from_ms: u64,
    until_ms: u64,
}

#[derive(Default)]
pub struct VerifiedChains(Mutex<HashMap<Key, Window>>);

/// A copy of a trust snapshot may be given other roots: it starts with nothing.
impl Clone for VerifiedChains {
    fn clone(&self) -> Self {
        Self::default()
    }
}

fn ms(now: UnixTime) -> u64 {
    now.as_secs() * 1_000
}

impl VerifiedChains {
    pub fn holds(&self, key: &Key, now: UnixTime) -> bool {
        let chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chains.get(key).is_some_and(|w| w.from_ms <= ms(now) && ms(now) <= w.until_ms)
    }

    /// Takes note of a chain that was verified at `now`. One whose end cannot be read is not remembered.
    pub fn remember(&self, key: Key, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: UnixTime) {
        let mut ends = std::iter::once(leaf).chain(intermediates).map(|c| not_after_ms(c));
        let Some(until_ms) = ends.try_fold(u64::MAX, |least, end| end.map(|end| end.min(least))) else { return };
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(key, Window { from_ms: ms(now), until_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::identity::Identities;
    use crate::tls::verify::PeerVerifier;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    use std::sync::Arc;
    use std::time::Duration;

    const ID: &str = "spiffe://cluster.local/ns/a/sa/b";

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn root() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A leaf that is valid from second 1,000,000 to 2,000,000.
    fn leaf(root: &CertifiedIssuer<'static, KeyPair>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.not_before = (std::time::UNIX_EPOCH + Duration::from_secs(1_000_000)).into();
        params.not_after = (std::time::UNIX_EPOCH + Duration::from_secs(2_000_000)).into();
        params.signed_by(&KeyPair::generate().unwrap(), root).unwrap().der().clone()
    }

    fn verifier(ids: &Identities) -> PeerVerifier {
        PeerVerifier {
            trust: ids.snapshot().trust.clone(),
            own_domain: "cluster.local".into(),
            expected: Arc::from([]),
            checks: Checks::Server,
            algorithms: ids.provider.signature_verification_algorithms,
        }
    }

    fn trusting(pem: String) -> Identities {
        let ids = Identities::new("cluster.local");
        ids.put_trust(&[("cluster.local".into(), vec![pem])], vec![], 1).unwrap();
        ids
    }

    #[test]
    #[doc = "[DP-17] a remembered chain holds until its certificate ends, and not for an earlier time or another use"]
    fn remembered_for_its_time() {
        let root = root();
        let (ids, leaf) = (trusting(root.pem()), leaf(&root));
        let verifier = verifier(&ids);
        let found = |now| verifier.trust.verified.holds(&key(Checks::Server, &leaf, &[]), at(now));
        assert!(!found(1_500_000));
        verifier.check(&leaf, &[], at(1_500_000)).unwrap();
        assert!(found(1_500_000) && found(2_000_000));
        assert!(!found(1_400_000) && !found(2_000_001));
        assert!(!verifier.trust.verified.holds(&key(Checks::Client, &leaf, &[]), at(1_500_000)));
        assert!(verifier.check(&leaf, &[], at(2_000_001)).is_err());
        assert!(verifier.check(&leaf, &[], at(999_999)).is_err());
    }

    #[test]
    #[doc = "[IDN-9] a chain of a root that is trusted no more is refused, though it was remembered"]
    fn forgotten_with_its_root() {
        let (old, new) = (root(), root());
        let (ids, leaf) = (trusting(old.pem()), leaf(&old));
        verifier(&ids).check(&leaf, &[], at(1_500_000)).unwrap();
        ids.put_trust(&[("cluster.local".into(), vec![new.pem()])], vec![], 2).unwrap();
        assert!(verifier(&ids).check(&leaf, &[], at(1_500_000)).is_err());
    }

    #[test]
    fn a_chain_that_failed_is_not_remembered_and_the_number_kept_is_bounded() {
        let (good, other) = (root(), root());
        let (ids, leaf) = (trusting(good.pem()), leaf(&other));
        let verifier = verifier(&ids);
        assert!(verifier.check(&leaf, &[], at(1_500_000)).is_err());
        assert!(!verifier.trust.verified.holds(&key(Checks::Server, &leaf, &[]), at(1_500_000)));
        let chains = VerifiedChains::default();
        for n in 0..=MOST {
            let mut key = [0; SHA256_OUTPUT_LEN];
            key[..8].copy_from_slice(&n.to_be_bytes());
            chains.remember(key, &leaf, &[], at(1));
        }
        assert_eq!(chains.0.lock().unwrap().len(), 1);
    }
}
