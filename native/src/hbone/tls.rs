//! TLS of HBONE: the settings of `fairlead/1` (TLS 1.3, SVIDs both ways, the same verifier) with ALPN h2, and what a
//! finished handshake says about the peer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::ALPN;
use super::registry::locked;
use crate::reason::Reason;
use crate::tls::identity::{Identities, Svid};
use crate::tls::session::{Failure, client_config, failure, server_config};
use crate::tls::validity::not_after_ms;
use crate::tls::verify::identity_of;

/// What identities stood at when a connection was made; when it differs from now, the connection takes no new stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub svid: u64,
    pub trust: u64,
}

impl Standing {
    /// `None`: the identity has no SVID any more.
    pub fn of(identities: &Identities, identity: &str) -> Option<Self> {
        let snapshot = identities.snapshot();
        snapshot.svids.get(identity).map(|s| Self { svid: s.generation, trust: snapshot.trust.generation })
    }
}

/// A verified peer.
pub struct Peer {
    pub identity: Arc<str>,
    /// The first of both certificates to end.
    pub not_after_ms: u64,
    pub standing: Standing,
}

pub fn no_svid(identity: &str) -> Failure {
    Failure::new(Reason::NoSvid, format!("no SVID for {identity}"))
}

/// The TLS reason inside an I/O error, or that the transport broke.
pub fn io_failure(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(tls) => failure(tls),
        None => Failure::new(Reason::HandshakeFailed, error.to_string()),
    }
}

fn peer(svid: &Svid, trust: u64, alpn: Option<&[u8]>, chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, Failure> {
    if alpn != Some(ALPN) {
        return Err(Failure::new(Reason::NoCommonAlpn, "the peer did not agree on ALPN h2"));
    }
    let leaf = chain.and_then(|c| c.first()).ok_or_else(|| Failure::new(Reason::NoCertificate, "no certificate"))?;
    let identity = identity_of(leaf).ok_or_else(|| Failure::new(Reason::CertificateInvalid, "no SPIFFE id"))?;
    let not_after = not_after_ms(leaf).ok_or_else(|| Failure::new(Reason::CertificateInvalid, "unreadable validity"))?;
    let standing = Standing { svid: svid.generation, trust };
    Ok(Peer { identity: identity.into(), not_after_ms: not_after.min(svid.not_after_ms), standing })
}

/// Server side, with the SVID of `identity`; a certificate of the peer is required.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(ids: &Identities, identity: &str, socket: S) -> Result<(server::TlsStream<S>, Peer), Failure> {
    let snapshot = ids.snapshot();
    let svid = snapshot.svids.get(identity).ok_or_else(|| no_svid(identity))?;
    let mut config = rustls::ServerConfig::clone(&*server_config(ids, &snapshot, svid).map_err(|e| failure(&e))?);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = false;
    let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await.map_err(|e| io_failure(&e))?;
    let session = stream.get_ref().1;
    let peer = peer(svid, snapshot.trust.generation, session.alpn_protocol(), session.peer_certificates())?;
    Ok((stream, peer))
}

/// Client side, with the SVID of `identity`; the peer must be one of `expected`.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    ids: &Identities,
    identity: &str,
    expected: Arc<[String]>,
    socket: S,
) -> Result<(client::TlsStream<S>, Peer), Failure> {
    if expected.is_empty() {
        // To the verifier an empty list means any identity, which is right for servers only.
        return Err(Failure::new(Reason::WrongIdentity, "no expected identity is known for the endpoint"));
    }
    let snapshot = ids.snapshot();
    let svid = snapshot.svids.get(identity).ok_or_else(|| no_svid(identity))?;
    let mut config = rustls::ClientConfig::clone(&*client_config(ids, &snapshot, svid, expected).map_err(|e| failure(&e))?);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = false;
    let name = ServerName::try_from("hbone.invalid").map_err(|e| Failure::new(Reason::HandshakeFailed, e.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(|e| io_failure(&e))?;
    let session = stream.get_ref().1;
    let peer = peer(svid, snapshot.trust.generation, session.alpn_protocol(), session.peer_certificates())?;
    Ok((stream, peer))
}

/// Where a connection's first TLS error is kept.
pub type Seen = Arc<Mutex<Option<rustls::Error>>>;

/// Keeps the TLS error that a read meets: HTTP/2 passes on its text only, and a server that refuses our certificate says so
/// by an alert after the handshake.
pub struct Remember<S> {
    inner: S,
    seen: Seen,
}

impl<S> Remember<S> {
    pub fn new(inner: S) -> (Self, Seen) {
        let seen = Seen::default();
        (Self { inner, seen: seen.clone() }, seen)
    }
}

fn note(seen: &Seen, error: &io::Error) {
    if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        locked(seen).get_or_insert_with(|| tls.clone());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Remember<S> {
    /// A write failed, so the peer closed; an alert that says why may still wait to be read.
    fn last_words(&mut self, cx: &mut Context<'_>) {
        let mut room = [0; 1_024];
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(error)) => return note(&self.seen, &error),
                _ => return,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Remember<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &result {
            note(&self.seen, error);
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Remember<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, data);
        if matches!(result, Poll::Ready(Err(_))) {
            self.last_words(cx);
        }
        result
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        if matches!(result, Poll::Ready(Err(_))) {
            self.last_words(cx);
        }
        result
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        if matches!(result, Poll::Ready(Err(_))) {
            self.last_words(cx);
        }
        result
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
