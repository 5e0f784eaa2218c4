//! The whole native side, with its channel: workers see HBONE, hand it over, and everything shows in lists, records, orders.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairlead::config::Config;
use fairlead::reason::Reason;
use serde_json::{Value, json};

use crate::kit::{CLIENT, Mesh, SERVER, echo_app, is_reset, local, pattern, until};
use crate::node::{AT_ONCE, LoopbackPod, Node, dial, hbone_address, number, reason};
use crate::peer::Peer;
use crate::pki::Pair;

/// A node whose plans lead to `server` by HBONE and whose verdicts forward; and the mesh's CA to make peers with.
fn node() -> (Node, Mesh, Arc<Mutex<SocketAddr>>) {
    limited(json!({}))
}

/// The same with limits in its plans.
fn limited(limits: Value) -> (Node, Mesh, Arc<Mutex<SocketAddr>>) {
    let mesh = Mesh::new();
    let server = Arc::new(Mutex::new(local(1)));
    let at = server.clone();
    let node = Node::start(
        Config { handshake_timeout_ms: 30_000, connect_timeout_ms: 30_000, question_timeout_ms: 30_000, ..Config::default() },
        Box::new(move |q: &Value| {
            let server = *at.lock().unwrap();
            let endpoint = json!({"ip": "10.1.2.3", "port": 80, "mode": "hbone", "identities": [SERVER], "tunnelAddress": {"ip": server.ip(), "port": server.port()}});
            match q["ask"].as_str() {
                Some("outbound") => {
                    Some(json!({"planId": 11, "generation": 1, "action": "forward", "identity": CLIENT, "endpoints": [endpoint], "limits": limits}))
                }
                Some("inbound") => Some(json!({"verdictId": 12, "generation": 1, "action": "forward"})),
                _ => Some(json!({"speaker": true, "mode": "strict", "waitMs": 30_000})),
            }
        }),
    );
    node.trust(&[("cluster.local", &[&mesh.ca.pem])]);
    for identity in [CLIENT, SERVER] {
        let (chain, key) = mesh.ca.issue(identity, false);
        node.svid(identity, &Pair { chain, key }, 1);
    }
    (node, mesh, server)
}

/// [IDN-4] HBONE through the workers: a hello with ALPN h2 on port 15008 is served, asked about as "hbone", recorded in lane 2.
#[test]
fn inbound_through_a_worker() {
    let (node, mesh, _) = node();
    let pod = LoopbackPod::new("b/server", &hbone_address());
    *pod.app.lock().unwrap() = Some(local(echo_app()));
    node.enrol(&pod, SERVER);
    let to = pod.inbound();
    let peer =
        Peer::client_at(&mesh, to, CLIENT, json!({"scenario": "echo", "authority": format!("{}:8080", to.ip()), "streams": 30, "bytes": 50_000}));
    let done = peer.wait("done");
    assert_eq!((done["wrong"].as_u64(), done["bytes"].as_u64()), (Some(0), Some(30 * 50_000)));
    let records = node.records(30);
    assert!(records.iter().all(|r| (r[1], r[2], reason(r)) == (1, 2, 0) && number(r, 48) == 50_000 && number(r, 56) == 50_000));
    let asked: Vec<_> = node.seen.lock().unwrap().questions.iter().filter(|q| q["ask"] == "inbound").cloned().collect();
    // One question for all of them: the answer is cached by its key.
    assert_eq!((asked.len(), asked[0]["tunnel"].as_str(), asked[0]["identity"].as_str()), (1, Some("hbone"), Some(CLIENT)));
    let tunnels = node.call("tunnels.list", json!({}));
    assert_eq!((tunnels["tunnels"][0]["protocol"].as_str(), tunnels["tunnels"][0]["peer"].as_str()), (Some("hbone"), Some(CLIENT)));
}

/// [DP-9] HBONE through the workers: an endpoint of mode hbone is reached, listed, and reset by order; never in plaintext.
#[test]
fn outbound_through_a_worker() {
    let (node, mesh, server) = node();
    let (peer, port) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    *server.lock().unwrap() = local(port);
    let pod = LoopbackPod::new("a/client", "127.0.0.1:0");
    *pod.to.lock().unwrap() = Some("10.96.0.1:80".parse().unwrap());
    node.enrol(&pod, CLIENT);
    let mut socket = dial(pod.outbound());
    let data = pattern(9, 200_000);
    let mut writer = socket.try_clone().unwrap();
    let sent = data.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)).unwrap());
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == data);
    assert_eq!(peer.wait("stream")["authority"], "10.1.2.3:80");
    let record = node.records(1)[0];
    assert_eq!((record[1], record[2], reason(&record), number(&record, 48)), (0, 2, 0, 200_000));

    let mut held = dial(pod.outbound());
    held.write_all(b"x").unwrap();
    held.read_exact(&mut [0]).unwrap();
    let rows = node.call("connections.list", json!({}))["connections"].clone();
    assert_eq!((rows[0]["lane"].as_str(), rows[0]["planId"].as_u64(), rows[0]["identity"].as_str()), (Some("hbone"), Some(11), Some(SERVER)));
    assert_eq!(node.call("connections.reset", json!({"ids": [rows[0]["id"]], "reason": "policy_denied"}))["count"], 1);
    assert!(is_reset(&mut held));
    assert_eq!(reason(&node.records(2)[1]), Reason::PolicyDenied as u16);
}

/// [TRF-6] HBONE through the workers: a stream has its place among the connections to its service until it ends; the next is refused, or waits.
#[test]
fn limit_of_connections() {
    let (node, mesh, server) = limited(json!({"key": "a>b/server:80", "maxConnections": 1, "policy": "b/few"}));
    let (_peer, port) = Peer::server(&mesh, SERVER, false, json!({"scenario": "echo"}));
    *server.lock().unwrap() = local(port);
    let pod = LoopbackPod::new("a/client", "127.0.0.1:0");
    *pod.to.lock().unwrap() = Some("10.96.0.1:80".parse().unwrap());
    node.enrol(&pod, CLIENT);
    for round in 0..3_usize {
        let mut held = dial(pod.outbound());
        held.write_all(b"x").unwrap();
        held.read_exact(&mut [0]).unwrap();
        assert!(is_reset(&mut dial(pod.outbound())));
        let refused = node.records(2 * round + 1)[2 * round];
        assert_eq!((reason(&refused), number(&refused, 120) as u32), (Reason::ConnectionLimit as u16, 1));
        drop(held);
        // Its place is free by the time its record tells that it has ended.
        assert_eq!(node.records(2 * round + 2)[2 * round + 1][2], 2);
    }
    assert_eq!((node.counter("connection_limit"), node.event("policy")["name"].as_str()), (3, Some("b/few")));
}

/// [RES-6] HBONE through the workers: a server that shakes no hands is given up after the policy's connect timeout.
#[test]
fn connect_timeout_of_a_policy() {
    let (node, _mesh, server) = limited(json!({"key": "a>b/server:80", "connectTimeoutMs": 300}));
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    *server.lock().unwrap() = mute.local_addr().unwrap();
    let pod = LoopbackPod::new("a/client", "127.0.0.1:0");
    *pod.to.lock().unwrap() = Some("10.96.0.1:80".parse().unwrap());
    node.enrol(&pod, CLIENT);
    let begun = Instant::now();
    assert!(is_reset(&mut dial(pod.outbound())));
    // Every other time that could end it is 30 s.
    assert!(begun.elapsed() >= Duration::from_millis(250) && begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(reason(&node.records(1)[0]), Reason::ConnectTimeout as u16);
}

/// [IDN-7] HBONE through the workers: a refused handshake is one event with both identities and one counter.
#[test]
fn refusals_are_events() {
    let (node, mesh, _) = node();
    let pod = LoopbackPod::new("b/server", &hbone_address());
    node.enrol(&pod, SERVER);
    let _peer = Peer::client_at(&mesh, pod.inbound(), "spiffe://elsewhere/ns/a/sa/b", json!({"scenario": "single", "authority": "127.0.0.1:80"}));
    let event = node.event("refused");
    assert_eq!((event["reason"].as_str(), event["got"].as_str()), (Some("tls_wrong_trust_domain"), Some("spiffe://elsewhere/ns/a/sa/b")));
    assert_eq!((event["direction"].as_str(), event["pod"].as_str()), (Some("inbound"), Some("b/server")));
    assert_eq!((node.counter("tls_wrong_trust_domain"), node.counter("hbone_handshake_failed")), (1, 1));
}

/// [DP-19] HBONE through the workers: drain waits for its streams and tells the peer by GOAWAY.
#[test]
fn drain_waits_for_streams() {
    let (node, mesh, _) = node();
    let pod = LoopbackPod::new("b/server", &hbone_address());
    *pod.app.lock().unwrap() = Some(local(echo_app()));
    node.enrol(&pod, SERVER);
    let to = pod.inbound();
    let hold = json!({"scenario": "goaway", "authority": format!("{}:8080", to.ip()), "delay": 5_000});
    let peer = Peer::client_at(&mesh, to, CLIENT, hold);
    peer.wait("open");
    until(|| node.call("connections.list", json!({}))["connections"][0]["received"] == 500);
    node.call("drain", json!({"deadlineMs": 60_000}));
    peer.wait("goaway");
    // Well within the delay of its end.
    std::thread::sleep(Duration::from_millis(400));
    assert!(node.seen.lock().unwrap().events.iter().all(|e| e["event"] != "drained"));
    assert_eq!(peer.wait("done")["ended"], true);
    node.event("drained");
}
