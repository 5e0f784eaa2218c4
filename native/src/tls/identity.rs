//! What TypeScript pushed: SVIDs by identity, roots by trust domain, aliases, generations. Read by every worker as one
//! immutable snapshot, so a handshake asks nobody (rule DP-17).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;

use super::validity::not_after_ms;
use super::verified::VerifiedChains;
use crate::fault::Fault;

/// Certificate and key that prove one identity.
pub struct Svid {
    pub identity: Arc<str>,
    pub key: Arc<CertifiedKey>,
    pub generation: u64,
    pub not_after_ms: u64,
}

/// Roots of one trust domain.
#[derive(Clone, Default)]
pub struct Roots {
    pub anchors: Vec<TrustAnchor<'static>>,
    der: Vec<Vec<u8>>,
}

/// Whom we trust. `retired` remembers roots that were withdrawn, only to name that cause in a refusal.
#[derive(Clone, Default)]
pub struct Trust {
    pub domains: HashMap<String, Roots>,
    pub aliases: Vec<String>,
    pub generation: u64,
    pub retired: Roots,
    pub verified: VerifiedChains,
}

/// One consistent view of identities and trust.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub svids: HashMap<Arc<str>, Arc<Svid>>,
    pub trust: Arc<Trust>,
}

/// Holder of the current snapshot; `version` lets a worker notice a change with one atomic load.
pub struct Identities {
    current: RwLock<Arc<Snapshot>>,
    version: AtomicU64,
    pub trust_domain: String,
    pub provider: Arc<CryptoProvider>,
}

/// AES-128-GCM first: the fastest with hardware support, and what peers prefer. X25519 before P-256, by aws-lc, whose is twice as
/// fast as ring's. TLS 1.3 only.
fn provider() -> CryptoProvider {
    use rustls::crypto::ring::{cipher_suite as suite, default_provider, kx_group as ring};
    let x25519 = rustls::crypto::aws_lc_rs::kx_group::X25519;
    // aws-lc gathers randomness at its first use, for some 40 ms: now, rather than under the first connection.
    let _ = x25519.start();
    CryptoProvider {
        cipher_suites: vec![suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![x25519, ring::SECP256R1, ring::SECP384R1],
        ..default_provider()
    }
}

fn pem_certificates(field: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| Fault::new("bad_pem", format!("{field}: {e:?}; give PEM with CERTIFICATE blocks")))?;
    if certificates.is_empty() {
        return Err(Fault::new("bad_pem", format!("{field}: no CERTIFICATE block")));
    }
    Ok(certificates)
}

impl Roots {
    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), Fault> {
        if self.der.iter().any(|d| d == certificate.as_ref()) {
            return Ok(());
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|e| Fault::new("bad_root", format!("rootsPem: {e}; give CA certificates")))?
            .to_owned();
        self.anchors.push(anchor);
        self.der.push(certificate.to_vec());
        Ok(())
    }
}

impl Identities {
    pub fn new(trust_domain: &str) -> Self {
        Self { current: RwLock::default(), version: AtomicU64::new(1), trust_domain: trust_domain.to_owned(), provider: Arc::new(provider()) }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().map_or_else(|e| e.into_inner().clone(), |s| s.clone())
    }

    fn replace(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut current = self.current.write().unwrap_or_else(|e| e.into_inner());
        let mut next = Snapshot::clone(&current);
        change(&mut next);
        *current = Arc::new(next);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Takes a new SVID for `identity`. Tunnels in use keep the old one; new streams will ask for this one.
    pub fn put_svid(&self, identity: &str, chain_pem: &str, key_pem: &str, generation: u64, not_after: u64) -> Result<(), Fault> {
        let chain = pem_certificates("chainPem", chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| Fault::new("bad_pem", format!("keyPem: {e:?}; give one PRIVATE KEY block")))?;
        let signer =
            self.provider.key_provider.load_private_key(key).map_err(|e| Fault::new("bad_key", format!("keyPem: {e}; use a P-256 key in PKCS#8")))?;
        let own = not_after_ms(&chain[0]).ok_or_else(|| Fault::new("bad_certificate", "chainPem: unreadable validity"))?;
        let certified = CertifiedKey::new(chain, signer);
        if let Err(rustls::Error::InconsistentKeys(why)) = certified.keys_match()
            && why == rustls::InconsistentKeys::KeyMismatch
        {
            return Err(Fault::new("bad_key", "keyPem does not belong to the first certificate of chainPem"));
        }
        let identity: Arc<str> = identity.into();
        let svid = Arc::new(Svid {
            identity: identity.clone(),
            key: Arc::new(certified),
            generation,
            not_after_ms: if not_after == 0 { own } else { own.min(not_after) },
        });
        self.replace(|s| {
            s.svids.insert(identity, svid);
        });
        Ok(())
    }

    pub fn remove_svid(&self, identity: &str) {
        self.replace(|s| {
            s.svids.remove(identity);
        });
    }

    /// Replaces every trust bundle at once. On error nothing changes.
    pub fn put_trust(&self, bundles: &[(String, Vec<String>)], aliases: Vec<String>, generation: u64) -> Result<(), Fault> {
        let mut trust = Trust { aliases, generation, ..Trust::default() };
        for (domain, pems) in bundles {
            let roots = trust.domains.entry(domain.clone()).or_default();
            for pem in pems {
                for certificate in pem_certificates("rootsPem", pem)? {
                    roots.add(certificate)?;
                }
            }
        }
        let before = self.snapshot().trust.clone();
        let gone = before.domains.values().chain([&before.retired]).flat_map(|r| r.der.iter());
        for der in gone {
            let still = trust.domains.values().any(|r| r.der.contains(der));
            if !still && trust.retired.der.len() < 16 {
                trust.retired.add(CertificateDer::from(der.clone()))?;
            }
        }
        self.replace(|s| s.trust = Arc::new(trust));
        Ok(())
    }
}

impl Trust {
    /// Roots for a trust domain; the aliases stand for our own one.
    pub fn roots<'a>(&'a self, domain: &str, own: &str) -> Option<&'a Roots> {
        self.domains.get(domain).or_else(|| if self.aliases.iter().any(|a| a == domain) { self.domains.get(own) } else { None })
    }

    /// Whether two identities are the same, an alias of our trust domain counting as our trust domain.
    pub fn same(&self, a: &str, b: &str, own: &str) -> bool {
        a == b || (self.split(a, own).is_some() && self.split(a, own) == self.split(b, own))
    }

    fn split<'a>(&'a self, id: &'a str, own: &'a str) -> Option<(&'a str, &'a str)> {
        let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
        Some((if self.aliases.iter().any(|a| a == domain) { own } else { domain }, path))
    }
}
