//! One outbound stream: a place on a connection → CONNECT → 200 → bytes. No data leaves before the 200, so another target
//! may be tried until then; a failure is a reset toward the application and never plaintext (rule DP-9).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason as H2, RecvStream, SendStream};
use http::{Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Slot;
use super::copy::{Broken, copy};
use super::pool::Key;
use super::registry::{Facts, OpenStream, locked};
use super::{Outbound, Shared, Target, dial, given};
use crate::reason::Reason;
use crate::record::{Closer, FLAG_RETRIED, FLAG_REUSED};
use crate::relay::dial::Pending;
use crate::relay::sock;
use crate::seam::PodSockets;

/// How often one target is tried again because its connection was just going away.
const FRESH_TRIES: usize = 3;

/// Carries a connection to its end and records it.
pub async fn carry(shared: Arc<Shared>, connection: Outbound) {
    let Outbound { id, client, pod, identity, source, destination, plan, protocol, targets, early, started, flags, pending, connect, place } =
        connection;
    let open = shared.registry.open(Facts {
        id,
        inbound: false,
        pod: pod.key().to_owned(),
        cookie: pod.cookie(),
        source,
        destination,
        plan,
        protocol,
        started,
    });
    open.flags.store(flags, Ordering::Relaxed);
    let dialled = pending.is_some();
    let (reason, closer) = match dial::adopt(client, false) {
        Ok(client) => {
            let way = Way { pod: &pod, identity: &identity, targets: &targets, connect };
            run(&shared, &way, &open, client, early.into(), pending).await
        }
        Err(_) => (Reason::ClientReset, Closer::Client),
    };
    shared.registry.close(&open);
    // Whoever sees its record finds the place free.
    drop(place);
    // A dial that failed was answered; it was no connection.
    if dialled && open.given.get().is_none() {
        return;
    }
    shared.recorder.ended(&open.record(reason, closer));
}

/// An open stream with the place that it takes.
struct Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    _slot: Slot,
}

/// Who wants to go where.
struct Way<'a> {
    pod: &'a Arc<dyn PodSockets>,
    identity: &'a Arc<str>,
    targets: &'a [Target],
    connect: Option<Duration>,
}

async fn run(
    shared: &Arc<Shared>,
    way: &Way<'_>,
    open: &OpenStream,
    client: TcpStream,
    early: Bytes,
    mut pending: Option<Pending>,
) -> (Reason, Closer) {
    let begun = tokio::select! {
        biased;
        reason = open.killed() => Err((reason, Closer::Agent)),
        begun = begin(shared, way, open) => begun,
    };
    let mut stream = match begun {
        Ok(stream) => stream,
        Err(end) => {
            sock::reset_on_close(client.as_fd());
            if let Some(pending) = &mut pending {
                pending.dial.failed(end.0, "");
            }
            return end;
        }
    };
    if let Some(pending) = pending
        && !given::reply(pending, open)
    {
        stream.send.send_reset(H2::CANCEL);
        return (Reason::HandoverFailed, Closer::Agent);
    }
    shared.recorder.opened(&open.ready());
    let end = tokio::select! {
        biased;
        reason = open.killed() => (reason, Closer::Agent),
        done = copy(&client, early, &mut stream.send, &mut stream.recv, open) => match done {
            Ok(()) => return (Reason::Finished, Closer::Nobody),
            Err(Broken::Socket) => {
                stream.send.send_reset(H2::CONNECT_ERROR);
                return (Reason::ClientReset, Closer::Client);
            }
            Err(Broken::Reset) => (Reason::ServerReset, Closer::Server),
            Err(Broken::Connection) => (Reason::TunnelLost, Closer::Server),
        },
    };
    given::abort(client, open);
    if end.1 == Closer::Agent {
        stream.send.send_reset(H2::CANCEL);
    }
    end
}

/// Tries the targets in order.
async fn begin(shared: &Arc<Shared>, way: &Way<'_>, open: &OpenStream) -> Result<Stream, (Reason, Closer)> {
    let mut last = (Reason::NoEndpoints, Closer::Agent);
    for (tried, target) in way.targets.iter().enumerate() {
        if tried > 0 {
            open.flags.fetch_or(FLAG_RETRIED, Ordering::Relaxed);
        }
        open.set_upstream(target.endpoint, target.tunnel);
        let reached = reach(shared, way.pod, way.identity, target, open);
        let reached = match way.connect {
            None => reached.await,
            Some(limit) => {
                timeout(limit, reached).await.unwrap_or(Err(Miss { reason: Reason::ConnectTimeout, closer: Closer::Server, final_: false }))
            }
        };
        match reached {
            Ok(stream) => return Ok(stream),
            Err(Miss { reason, closer, final_: true }) => return Err((reason, closer)),
            Err(Miss { reason, closer, .. }) => last = (reason, closer),
        }
    }
    Err(last)
}

/// Why a target did not take the stream, and whether that settles the matter for all targets.
struct Miss {
    reason: Reason,
    closer: Closer,
    final_: bool,
}

async fn reach(shared: &Arc<Shared>, pod: &Arc<dyn PodSockets>, identity: &Arc<str>, target: &Target, open: &OpenStream) -> Result<Stream, Miss> {
    let key = Key { cookie: pod.cookie(), identity: identity.clone(), to: target.tunnel, expected: target.identities.clone() };
    let mut miss = Miss { reason: Reason::TunnelLost, closer: Closer::Server, final_: false };
    for _ in 0..FRESH_TRIES {
        let slot = match shared.pool.slot(shared, pod, &key).await {
            Ok(slot) => slot,
            Err(failure) => {
                let closer = if failure.reason == Reason::NoSvid { Closer::Agent } else { Closer::Server };
                miss = Miss { reason: failure.reason, closer, final_: false };
                if !is_connect(failure.reason) {
                    shared.counters.add("hbone_handshake_failed");
                    shared.recorder.refused(false, pod.key(), open.source, target.tunnel, &failure);
                }
                return Err(miss);
            }
        };
        *locked(&open.peer) = Some(slot.conn.tunnel.peer.clone());
        if slot.reused {
            open.flags.fetch_or(FLAG_REUSED, Ordering::Relaxed);
        } else {
            open.flags.fetch_and(!FLAG_REUSED, Ordering::Relaxed);
        }
        match ask(&slot, target, shared.settings.connect_timeout).await {
            Ok((StatusCode::OK, send, recv)) => return Ok(Stream { send, recv, _slot: slot }),
            Ok((status, ..)) => return Err(of_status(status)),
            Err(Asked::TimedOut) => return Err(Miss { reason: Reason::ConnectTimeout, closer: Closer::Server, final_: false }),
            // Nothing was sent yet: another connection may carry it.
            Err(Asked::Gone) => slot.conn.close(),
            Err(Asked::Refused) => miss.reason = Reason::PeerDraining,
            Err(Asked::Reset) => return Err(Miss { reason: Reason::PeerRefused, closer: Closer::Server, final_: false }),
        }
    }
    Err(miss)
}

fn is_connect(reason: Reason) -> bool {
    matches!(reason, Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectUnreachable | Reason::ConnectFailed | Reason::ResourceLimit)
}

/// What a status other than 200 means. 401 and 403 are a policy's no; ztunnel answers 503 when the application cannot be
/// reached, and 400 or 404 when it does not serve that address.
fn of_status(status: StatusCode) -> Miss {
    let (reason, final_) = match status.as_u16() {
        401 | 403 => (Reason::PolicyDenied, true),
        502 | 503 => (Reason::ConnectFailed, false),
        504 => (Reason::ConnectTimeout, false),
        _ => (Reason::PeerRefused, false),
    };
    Miss { reason, closer: Closer::Server, final_ }
}

enum Asked {
    TimedOut,
    /// The connection is closed or closing (GOAWAY).
    Gone,
    /// REFUSED_STREAM: not started, says the peer (RFC 9113 §8.7).
    Refused,
    Reset,
}

fn asked(error: &h2::Error) -> Asked {
    if error.is_go_away() || error.is_io() {
        return Asked::Gone;
    }
    match error.reason() {
        Some(H2::REFUSED_STREAM) => Asked::Refused,
        Some(_) if error.is_reset() => Asked::Reset,
        _ => Asked::Gone,
    }
}

async fn ask(slot: &Slot, target: &Target, limit: Duration) -> Result<(StatusCode, SendStream<Bytes>, RecvStream), Asked> {
    // CONNECT has neither scheme nor path (RFC 9113 §8.5).
    let uri: Uri = target.address.to_string().parse().map_err(|_| Asked::Reset)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    let exchange = async {
        let mut sender = slot.conn.sender().ready().await.map_err(|e| asked(&e))?;
        let (response, send) = sender.send_request(request, false).map_err(|e| asked(&e))?;
        // Held senders would keep the connection open.
        drop(sender);
        let response = response.await.map_err(|e| asked(&e))?;
        Ok((response.status(), send, response.into_body()))
    };
    timeout(limit, exchange).await.unwrap_or(Err(Asked::TimedOut))
}
