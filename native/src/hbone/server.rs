//! One inbound HBONE connection: TLS, HTTP/2, its streams, and when it stops to take new ones.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason as H2, server};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::registry::{OpenTunnel, Order, locked};
use super::tls::{self, Peer, Standing};
use super::{Inbound, Shared, client::keepalive, dial, inbound, limits};
use crate::reason::Reason;
use crate::relay::sock;
use crate::tls::session::Failure;

/// How many inbound connections there are, and from where.
#[derive(Default)]
pub struct Sources(Mutex<(usize, HashMap<IpAddr, usize>)>);

pub struct Place<'a>(&'a Sources, IpAddr);

impl Sources {
    fn take(&self, source: IpAddr) -> Option<Place<'_>> {
        let mut counts = locked(&self.0);
        let of_source = counts.1.get(&source).copied().unwrap_or(0);
        if counts.0 >= limits::MAX_INBOUND || of_source >= limits::MAX_INBOUND_PER_SOURCE {
            return None;
        }
        counts.0 += 1;
        counts.1.insert(source, of_source + 1);
        Some(Place(self, source))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = locked(&self.0.0);
        counts.0 -= 1;
        if let Some(n) = counts.1.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                counts.1.remove(&self.1);
            }
        }
    }
}

/// What the streams of one connection share.
pub struct Carrier {
    pub pod: Arc<dyn crate::seam::PodSockets>,
    pub tunnel: Arc<OpenTunnel>,
    /// After it no stream begins (DP-15), whatever the peer thinks.
    pub ends: Instant,
    pub early_resets: AtomicU32,
}

/// Serves a connection to its end.
pub async fn serve(shared: Arc<Shared>, connection: Inbound) {
    let Inbound { socket, pod, identity, source, local } = connection;
    let Some(_place) = shared.sources.take(source.ip()) else {
        sock::reset_on_close(std::os::fd::AsFd::as_fd(&socket));
        return shared.counters.add("hbone_inbound_limit");
    };
    let result = match shared.handshakes.clone().try_acquire_owned() {
        Err(_) => {
            shared.counters.add("hbone_handshake_limit");
            Err(Failure::new(Reason::ResourceLimit, "too many handshakes under way"))
        }
        Ok(_permit) => match timeout(shared.settings.handshake_timeout, shake(&shared, &identity, socket)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(Reason::HandshakeTimeout, "the peer did not finish its handshake")),
        },
    };
    let (h2, peer) = match result {
        Ok(ready) => ready,
        Err(failure) => {
            shared.counters.add("hbone_handshake_failed");
            return shared.recorder.refused(true, pod.key(), source, local, &failure);
        }
    };
    let id = shared.recorder.next_id();
    let tunnel = Arc::new(OpenTunnel::new(id, true, pod.key(), source, local, identity, peer.identity.clone()));
    shared.registry.add_tunnel(&tunnel);
    let life = shared.lifetime(id, peer.not_after_ms);
    let carrier = Arc::new(Carrier { pod, tunnel, ends: Instant::now() + life, early_resets: AtomicU32::new(0) });
    attend(&shared, h2, &carrier, &peer, life).await;
    shared.registry.remove_tunnel(id);
}

type H2Server = server::Connection<TlsStream<TcpStream>, Bytes>;

async fn shake(shared: &Shared, identity: &str, socket: OwnedFd) -> Result<(H2Server, Peer), Failure> {
    let socket = dial::adopt(socket, true).map_err(|e| Failure::new(Reason::HandshakeFailed, e.to_string()))?;
    let (stream, peer) = tls::accept(&shared.identities, identity, socket).await?;
    let h2 = server::Builder::new()
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_header_list_size(limits::MAX_HEADERS)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .handshake(stream)
        .await
        .map_err(|e| Failure::new(Reason::TunnelProtocol, e.to_string()))?;
    Ok((h2, peer))
}

/// Takes streams until the connection ends. It stops taking them (GOAWAY) when it is old, its certificates or the trust
/// changed, or it is ordered to; it is cut off when the peer is dead, hostile, or the order says so.
async fn attend(shared: &Arc<Shared>, mut h2: H2Server, carrier: &Arc<Carrier>, peer: &Peer, life: Duration) {
    let mut orders = carrier.tunnel.orders();
    let mut changes = shared.identity_changes.subscribe();
    let dead = keepalive(h2.ping_pong());
    let old = sleep(life);
    tokio::pin!(dead, old);
    let mut calm = Budget::new(Instant::now());
    let mut draining = false;
    let mut drain = false;
    loop {
        if drain && !draining {
            draining = true;
            carrier.tunnel.order(Order::Drain);
            h2.graceful_shutdown();
        }
        tokio::select! {
            biased;
            order = orders.wait_for(|o| *o == Order::Abort || (*o == Order::Drain && !draining)) => match order.map(|o| *o) {
                Ok(Order::Drain) => drain = true,
                _ => return,
            },
            () = &mut dead => return shared.counters.add("hbone_peer_dead"),
            () = &mut old, if !draining => drain = true,
            _ = changes.changed(), if !draining => {
                drain = Standing::of(&shared.identities, &carrier.tunnel.identity).as_ref() != Some(&peer.standing);
            }
            next = h2.accept() => match next {
                Some(Ok((request, respond))) => {
                    let resets = carrier.early_resets.swap(0, Ordering::Relaxed);
                    if !calm.spend(resets, Instant::now()) {
                        shared.counters.add("hbone_rapid_reset");
                        h2.abrupt_shutdown(H2::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    // Tasks of streams that were reset a moment ago still count here, though not for the protocol.
                    if carrier.tunnel.streams.load(Ordering::Relaxed) >= 2 * limits::MAX_STREAMS {
                        let mut respond = respond;
                        respond.send_reset(H2::REFUSED_STREAM);
                        continue;
                    }
                    let (shared, carrier) = (shared.clone(), carrier.clone());
                    tokio::spawn(inbound::stream(shared, carrier, request, respond));
                }
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// Early resets that are forgiven: so many at once, and so many a second.
struct Budget {
    left: u32,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: limits::EARLY_RESETS, at: now }
    }

    /// False: more than is forgiven.
    fn spend(&mut self, resets: u32, now: Instant) -> bool {
        let seconds = now.duration_since(self.at).as_secs();
        if seconds > 0 {
            self.at = now;
            let back = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(limits::EARLY_RESETS_PER_SECOND);
            self.left = self.left.saturating_add(back).min(limits::EARLY_RESETS);
        }
        match self.left.checked_sub(resets) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
