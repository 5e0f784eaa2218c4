//! One inbound stream: CONNECT → question → the application's socket → bytes. Headers other than `:method` and
//! `:authority` are not looked at (rule DP-12): who the peer is says its certificate, where it is its TCP address.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as H2, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::copy::{Broken, copy};
use super::registry::{Facts, OpenStream, locked};
use super::server::Carrier;
use super::{Ask, Shared, authority, dial, given};
use crate::reason::Reason;
use crate::record::{Closer, FLAG_REUSED};
use crate::relay::plan::{Action, Verdict};

type Respond = SendResponse<Bytes>;

/// Where a request wants to go, or the status that refuses it: 404 for what is no CONNECT, 400 for an authority that is no
/// address of this pod (as ztunnel does).
fn destination(request: &Request<RecvStream>, carrier: &Carrier) -> Result<SocketAddr, StatusCode> {
    if request.method() != Method::CONNECT || request.extensions().get::<h2::ext::Protocol>().is_some() {
        return Err(StatusCode::NOT_FOUND);
    }
    let text = request.uri().authority().map_or("", |a| a.as_str());
    let to = authority::parse(text).map_err(|_| StatusCode::BAD_REQUEST)?;
    let own = carrier.pod.ips().iter().any(|ip| ip.to_canonical() == to.ip());
    if own { Ok(to) } else { Err(StatusCode::BAD_REQUEST) }
}

fn answer(respond: &mut Respond, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Fails only if the stream is gone already.
    let _ = respond.send_response(response, true);
}

/// Handles one request to its end.
pub async fn stream(shared: Arc<Shared>, carrier: Arc<Carrier>, request: Request<RecvStream>, mut respond: Respond) {
    let tunnel = &carrier.tunnel;
    if Instant::now() >= carrier.ends {
        return respond.send_reset(H2::REFUSED_STREAM);
    }
    let to = match destination(&request, &carrier) {
        Ok(to) => to,
        Err(status) => {
            shared.counters.add("hbone_bad_request");
            return answer(&mut respond, status);
        }
    };
    let open = shared.registry.open(Facts {
        id: shared.recorder.next_id(),
        inbound: true,
        pod: tunnel.pod.clone(),
        cookie: carrier.pod.cookie(),
        source: tunnel.source,
        destination: to,
        plan: 0,
        protocol: 0,
        started: Instant::now(),
    });
    *locked(&open.peer) = Some(tunnel.peer.clone());
    if tunnel.carried.fetch_add(1, Ordering::Relaxed) > 0 {
        open.flags.fetch_or(FLAG_REUSED, Ordering::Relaxed);
    }
    tunnel.streams.fetch_add(1, Ordering::Relaxed);
    let (reason, closer) = carry(&shared, &carrier, &open, to, request.into_body(), respond).await;
    tunnel.streams.fetch_sub(1, Ordering::Relaxed);
    shared.registry.close(&open);
    shared.recorder.ended(&open.record(reason, closer));
}

/// What goes on before the answer can end in three ways beside the good one.
enum Begun {
    App(TcpStream),
    Refused(StatusCode, Reason, Closer),
    /// The peer gave up.
    Reset,
}

async fn carry(
    shared: &Shared,
    carrier: &Carrier,
    open: &OpenStream,
    to: SocketAddr,
    mut body: RecvStream,
    mut respond: Respond,
) -> (Reason, Closer) {
    let begun = tokio::select! {
        biased;
        reason = open.killed() => {
            respond.send_reset(H2::CANCEL);
            return (reason, Closer::Agent);
        }
        _ = poll_fn(|cx| respond.poll_reset(cx)) => Begun::Reset,
        begun = begin(shared, carrier, open, to) => begun,
    };
    let app = match begun {
        Begun::App(app) => app,
        Begun::Refused(status, reason, closer) => {
            answer(&mut respond, status);
            return (reason, closer);
        }
        Begun::Reset => {
            carrier.early_resets.fetch_add(1, Ordering::Relaxed);
            return (Reason::ClientReset, Closer::Client);
        }
    };
    shared.recorder.opened(&open.ready());
    let Ok(mut send) = respond.send_response(Response::new(()), false) else {
        given::abort(app, open);
        return (Reason::ClientReset, Closer::Client);
    };
    let (reason, closer) = tokio::select! {
        biased;
        reason = open.killed() => (reason, Closer::Agent),
        done = copy(&app, Bytes::new(), &mut send, &mut body, open) => match done {
            Ok(()) => return (Reason::Finished, Closer::Nobody),
            Err(Broken::Socket) => {
                send.send_reset(H2::CONNECT_ERROR);
                return (Reason::ServerReset, Closer::Server);
            }
            Err(Broken::Reset) => (Reason::ClientReset, Closer::Client),
            Err(Broken::Connection) => (Reason::TunnelLost, Closer::Client),
        },
    };
    given::abort(app, open);
    if closer == Closer::Agent {
        send.send_reset(H2::CANCEL);
    }
    (reason, closer)
}

async fn begin(shared: &Shared, carrier: &Carrier, open: &OpenStream, to: SocketAddr) -> Begun {
    let verdict = match ask(shared, carrier, to).await {
        Ok(verdict) => verdict,
        Err(reason) => return Begun::Refused(StatusCode::SERVICE_UNAVAILABLE, reason, Closer::Agent),
    };
    open.verdict.store(verdict.id, Ordering::Relaxed);
    match verdict.action {
        Action::Forward => {}
        // The policy is named in our records only; a stranger learns that it was refused, not by what.
        Action::Refuse { reason, .. } => return Begun::Refused(StatusCode::FORBIDDEN, reason, Closer::Agent),
        Action::Handover(order) => {
            return match given::hand_over(shared, carrier, open, order.thread) {
                Ok(app) => Begun::App(app),
                // Rules that need the HTTP lane fail closed where it is not (rule DP-24).
                Err(reason) => Begun::Refused(StatusCode::FORBIDDEN, reason, Closer::Agent),
            };
        }
    }
    open.set_upstream(u16::MAX, to);
    match timeout(shared.settings.connect_timeout, dial::app(carrier.pod.as_ref(), to, carrier.tunnel.source.ip())).await {
        Ok(Ok(app)) => Begun::App(app),
        Ok(Err(error)) => Begun::Refused(StatusCode::SERVICE_UNAVAILABLE, dial::reason(&error), Closer::Server),
        Err(_) => Begun::Refused(StatusCode::SERVICE_UNAVAILABLE, Reason::ConnectTimeout, Closer::Server),
    }
}

async fn ask(shared: &Shared, carrier: &Carrier, to: SocketAddr) -> Result<Verdict, Reason> {
    let (tell, told) = oneshot::channel();
    let tunnel = &carrier.tunnel;
    let ask =
        Ask { pod: tunnel.pod.clone(), cookie: carrier.pod.cookie(), destination: to, source: tunnel.source.ip(), identity: tunnel.peer.clone() };
    shared.judge.inbound(ask, Box::new(move |verdict| drop(tell.send(verdict))));
    match timeout(shared.settings.question_timeout, told).await {
        Ok(Ok(verdict)) => Ok(verdict),
        Ok(Err(_)) => Err(Reason::QuestionFailed),
        Err(_) => Err(Reason::QuestionTimeout),
    }
}
