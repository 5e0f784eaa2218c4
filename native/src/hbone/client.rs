//! One outbound HBONE connection: socket in the pod's namespace, TLS, HTTP/2, and the task that keeps it going.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::pool::Key;
use super::registry::{OpenTunnel, Order, locked};
use super::tls::{self, Standing};
use super::{Shared, dial, limits};
use crate::reason::Reason;
use crate::seam::PodSockets;
use crate::tls::session::{Failure, failure};

/// Resolves when the peer has not answered a PING in time. A peer that closed is noticed by the connection itself.
pub async fn keepalive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(limits::PING_EVERY).await;
        match timeout(limits::PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A connection in the pool.
pub struct Conn {
    pub tunnel: Arc<OpenTunnel>,
    send: SendRequest<Bytes>,
    active: AtomicUsize,
    /// No stream begins after it.
    ends: Instant,
    standing: Standing,
    idle_since: Mutex<Instant>,
    /// The connection is over or the peer sent GOAWAY.
    closed: AtomicBool,
}

/// The right to one stream of a connection.
pub struct Slot {
    pub conn: Arc<Conn>,
    /// The connection served others before.
    pub reused: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        *locked(&self.conn.idle_since) = Instant::now();
        self.conn.active.fetch_sub(1, Ordering::AcqRel);
        self.conn.tunnel.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Conn {
    pub fn usable(&self, now: Instant, standing: Option<&Standing>) -> bool {
        !self.closed.load(Ordering::Acquire) && now < self.ends && !self.tunnel.draining() && standing == Some(&self.standing)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Idle for longer than `limit`.
    pub fn idle(&self, now: Instant, limit: Duration) -> bool {
        self.active.load(Ordering::Acquire) == 0 && now.duration_since(*locked(&self.idle_since)) >= limit
    }

    /// A place for one stream more, if the peer's limit and ours leave one.
    pub fn slot(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.send.current_max_send_streams().min(limits::MAX_STREAMS as usize);
        self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1)).ok()?;
        self.tunnel.streams.fetch_add(1, Ordering::Relaxed);
        let reused = self.tunnel.carried.fetch_add(1, Ordering::Relaxed) > 0;
        Some(Slot { conn: self.clone(), reused })
    }

    pub fn sender(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }
}

/// Dials, shakes hands and starts HTTP/2. It is ready when the peer answered a PING: then its SETTINGS are known and it has
/// accepted our certificate, which TLS 1.3 alone does not tell a client.
pub async fn open(shared: &Arc<Shared>, pod: &Arc<dyn PodSockets>, key: &Key) -> Result<Arc<Conn>, Failure> {
    if Standing::of(&shared.identities, &key.identity).is_none() {
        return Err(tls::no_svid(&key.identity));
    }
    let socket = match timeout(shared.settings.connect_timeout, dial::tunnel(pod.as_ref(), key.to)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(Failure::new(dial::reason(&error), error.to_string())),
        Err(_) => return Err(Failure::new(Reason::ConnectTimeout, "no answer to the connect")),
    };
    match timeout(shared.settings.handshake_timeout, start(shared, pod.as_ref(), key, socket)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(Reason::HandshakeTimeout, "the peer did not finish its handshake")),
    }
}

async fn start(shared: &Arc<Shared>, pod: &dyn PodSockets, key: &Key, socket: TcpStream) -> Result<Arc<Conn>, Failure> {
    let source = socket.local_addr().map_err(|e| Failure::new(Reason::ConnectFailed, e.to_string()))?;
    let (stream, peer) = tls::connect(&shared.identities, &key.identity, key.expected.clone(), socket).await?;
    let (stream, seen) = tls::Remember::new(stream);
    let failed = |error: &h2::Error| match locked(&seen).take() {
        Some(tls) => match failure(&tls) {
            // It is about us: both identities the other way round.
            f if f.reason == Reason::PeerRefusedUs => Failure { expected: key.expected.to_vec(), got: Some(key.identity.to_string()), ..f },
            f => f,
        },
        None if error.is_io() => Failure::new(Reason::HandshakeFailed, error.to_string()),
        None => Failure::new(Reason::TunnelProtocol, error.to_string()),
    };
    let (send, mut h2) = client::Builder::new()
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(limits::MAX_HEADERS)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_concurrent_streams(0)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|e| failed(&e))?;
    let mut pings = h2.ping_pong();
    if let Some(pings) = &mut pings {
        tokio::select! {
            biased;
            ended = &mut h2 => return Err(ended.err().map_or_else(|| Failure::new(Reason::TunnelLost, "closed by the peer"), |e| failed(&e))),
            pong = pings.ping(Ping::opaque()) => pong.map_err(|e| failed(&e)).map(drop)?,
        }
    }
    let id = shared.recorder.next_id();
    let tunnel = Arc::new(OpenTunnel::new(id, false, pod.key(), source, key.to, key.identity.clone(), peer.identity));
    let now = Instant::now();
    let conn = Arc::new(Conn {
        tunnel: tunnel.clone(),
        send,
        active: AtomicUsize::new(0),
        ends: now + shared.lifetime(id, peer.not_after_ms),
        standing: peer.standing,
        idle_since: Mutex::new(now),
        closed: AtomicBool::new(false),
    });
    shared.registry.add_tunnel(&tunnel);
    tokio::spawn(keep(shared.clone(), Arc::downgrade(&conn), tunnel, h2, pings));
    Ok(conn)
}

/// Runs the connection. It ends by itself when the pool has let go of it and its last stream is over. Of the pooled entry it
/// holds a weak reference only, or that would never happen.
async fn keep<S>(shared: Arc<Shared>, conn: std::sync::Weak<Conn>, tunnel: Arc<OpenTunnel>, h2: client::Connection<S, Bytes>, pings: Option<PingPong>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut orders = tunnel.orders();
    tokio::select! {
        _ = h2 => {}
        () = keepalive(pings) => shared.counters.add("hbone_peer_dead"),
        _ = orders.wait_for(|o| *o == Order::Abort) => {}
    }
    if let Some(conn) = conn.upgrade() {
        conn.close();
    }
    shared.registry.remove_tunnel(tunnel.id);
}
