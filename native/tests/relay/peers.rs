//! Peers other than the usual one: IPv6, plain ones in every mTLS mode, pods of the same node, other names of the trust domain.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use crate::life::echo;
use crate::mesh::{CLIENT, DOMAIN, Mesh, SERVER, allow, config, forward_to};
use crate::node::{AT_ONCE, Node, app, app_on, dial, number, reason};
use crate::pki::{Ca, ca};
use crate::transfer::{exchange, serve};

const LANE_TUNNEL: u8 = 1;
const LANE_PLAIN: u8 = 3;
const LANE_LOCAL: u8 = 4;
const FLAG_IPV6: u8 = 1;

/// Whether a ping comes back; what a refused client sees is a reset.
fn ping(to: SocketAddr) -> bool {
    let mut stream = dial(to);
    match stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut [0; 4])) {
        Ok(()) => true,
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{e}");
            false
        }
    }
}

/// An address field of a record.
fn address(record: &[u8; 128], at: usize) -> IpAddr {
    IpAddr::from(<[u8; 16]>::try_from(&record[at..at + 16]).unwrap()).to_canonical()
}

fn question(node: &Node, ask: &str) -> Value {
    node.seen.lock().unwrap().questions.iter().find(|q| q["ask"] == ask).unwrap().clone()
}

#[test]
#[doc = "[INT-5] IPv6 peers through the tunnel: every order of ends, addresses of the family in questions and records"]
fn ipv6_peers() {
    let mesh = Mesh::new(app_on("[::1]:0", serve));
    for i in 0..9u64 {
        exchange(mesh.client.outbound(), i + 1, 50_000, 70_000, (i % 3) as u8);
    }
    for node in [&mesh.one, &mesh.two] {
        for record in node.records(9) {
            assert_eq!((reason(&record), record[2], record[7] & FLAG_IPV6), (0, LANE_TUNNEL, FLAG_IPV6));
            let ends = [address(&record, 64), address(&record, 80)];
            assert!(ends.iter().all(|a| a.is_ipv6() && a.is_loopback()), "{ends:?}");
        }
    }
    let asked = question(&mesh.two, "inbound");
    assert_eq!((&asked["destination"]["ip"], &asked["source"]["ip"], &asked["identity"]), (&json!("::1"), &json!("::1"), &json!(CLIENT)));
}

#[test]
#[doc = "[INT-5] a destination written as IPv4 in IPv6 is the IPv4 one, in questions and records"]
fn mapped_addresses_are_ipv4() {
    let mesh = Mesh::new(app(echo));
    let to = mesh.server.inbound();
    let IpAddr::V4(v4) = to.ip() else { panic!("{to}") };
    *mesh.client.to.lock().unwrap() = Some(SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()));
    assert!(ping(mesh.client.outbound()));
    let record = mesh.one.records(1)[0];
    assert_eq!((address(&record, 80), record[7] & FLAG_IPV6), (to.ip(), 0));
    assert_eq!(question(&mesh.one, "outbound")["destination"]["ip"], to.ip().to_string());
}

#[test]
#[doc = "[INT-15] a plain endpoint, IPv4 and IPv6: bytes of every order of ends pass, no TLS is on the wire"]
fn plain_endpoints() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let app = app_on(address, serve);
        let mesh = Mesh::planned(app, config(|_| {}), config(|_| {}), |_| forward_to(app, "plain"), allow);
        for i in 0..6u64 {
            exchange(mesh.client.outbound(), i + 1, 40_000, 60_000, (i % 3) as u8);
        }
        assert!(mesh.one.records(6).iter().all(|r| (reason(r), r[2]) == (0, LANE_PLAIN)));
        assert_eq!(mesh.one.counter("tunnels_made"), 0);
    }
}

#[test]
#[doc = "[IDN-8] PERMISSIVE: a plain peer passes without an identity, beside one with a tunnel to the same port"]
fn permissive_takes_both() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), allow);
    assert!(ping(mesh.server.inbound()) && ping(mesh.client.outbound()));
    let lanes: Vec<_> = mesh.two.records(2).iter().map(|r| (reason(r), r[2])).collect();
    assert_eq!(lanes, [(0, LANE_PLAIN), (0, LANE_TUNNEL)]);
    let seen = mesh.two.seen.lock().unwrap();
    let asked: Vec<_> = seen.questions.iter().filter(|q| q["ask"] == "inbound").map(|q| (&q["tunnel"], &q["identity"])).collect();
    assert_eq!(asked, [(&json!("plain"), &Value::Null), (&json!("fairlead/1"), &json!(CLIENT))]);
}

#[test]
#[doc = "[IDN-8] DISABLE: nobody is waited for, a server that speaks first is heard at once, though the source is known as a speaker"]
fn disabled_waits_for_nobody() {
    let greeting = |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 ready\r\n");
    };
    let mesh = Mesh::with(app(greeting), config(|_| {}), config(|_| {}), |q| match q["ask"].as_str()? {
        "peer" => Some(json!({"speaker": true, "mode": "disable", "waitMs": 0})),
        _ => allow(q),
    });
    let started = Instant::now();
    let mut stream = dial(mesh.server.inbound());
    stream.read_exact(&mut [0; 11]).unwrap();
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    drop(stream);
    assert_eq!(mesh.two.records(1)[0][2], LANE_PLAIN);
}

#[test]
#[doc = "[IDN-8] STRICT: a plain peer that speaks is refused with RST before a byte reaches the app; the tunnel beside it passes"]
fn strict_refuses_plaintext() {
    let mesh = Mesh::with(app(echo), config(|_| {}), config(|_| {}), |q| match (q["ask"].as_str()?, q["tunnel"].as_str()) {
        ("inbound", Some("plain")) => {
            Some(json!({"verdictId": 5, "generation": 0, "action": "refuse", "reason": "plaintext_refused", "policy": "shop/strict"}))
        }
        _ => allow(q),
    });
    assert!(!ping(mesh.server.inbound()));
    let record = mesh.two.records(1)[0];
    assert_eq!((reason(&record), number(&record, 48)), (16, 0));
    assert!(ping(mesh.client.outbound()));
}

/// Both pods on node one; the plan names the server pod and the verdict that was taken with it.
fn same_node(pod: &'static str) -> Mesh {
    let app = app(serve);
    let plan = move |to: SocketAddr| {
        let mut plan = forward_to(to, "local");
        plan["endpoints"][0]["pod"] = json!(pod);
        plan["endpoints"][0]["verdictId"] = json!(33);
        plan
    };
    // A pod that is not there is waited for as long as a question is.
    let one = config(|c| (c.workers, c.question_timeout_ms) = (1, 3_000));
    let mesh = Mesh::planned(app, one, config(|_| {}), plan, allow);
    mesh.one.enrol(&mesh.server, SERVER);
    mesh
}

#[test]
#[doc = "[INT-3] same node through the agent: one record with plan and verdict, the client's address toward the app, no tunnel"]
fn same_node_peers() {
    let mesh = same_node("shop/server");
    for i in 0..6u64 {
        exchange(mesh.client.outbound(), i + 1, 40_000, 60_000, (i % 3) as u8);
    }
    for record in mesh.one.records(6) {
        let ids = (u32::from_le_bytes(record[8..12].try_into().unwrap()), u32::from_le_bytes(record[12..16].try_into().unwrap()));
        assert_eq!((reason(&record), record[2], ids), (0, LANE_LOCAL, (7, 33)));
    }
    assert_eq!(*mesh.server.last_client.lock().unwrap(), Some(mesh.client.inbound().ip()));
    assert_eq!(mesh.one.counter("tunnels_made"), 0);
    assert_eq!(mesh.one.seen.lock().unwrap().questions.len(), 1);
}

#[test]
#[doc = "[DP-31] same node: a pod that left since the plan was made is waited for as long as a question, then reset and counted"]
fn same_node_pod_is_gone() {
    let mesh = same_node("shop/left");
    assert!(!ping(mesh.client.outbound()));
    assert_eq!(reason(&mesh.one.records(1)[0]), 15);
    assert_eq!(mesh.one.counter("endpoint_failed"), 1);
}

const OLD: &str = "old.local";

fn named(domain: &str, account: &str) -> String {
    format!("spiffe://{domain}/ns/shop/sa/{account}")
}

/// The server presents `identity`, signed by `signer`; who is trusted is up to `trust`.
fn server_is(identity: &str, signer: Option<&Ca>, trust: impl Fn(&Mesh, &Node)) -> Mesh {
    let mesh = Mesh::new(app(echo));
    trust(&mesh, &mesh.one);
    mesh.two.svid(SERVER, &signer.unwrap_or(&mesh.ca).svid(identity), 2);
    mesh
}

#[test]
#[doc = "[IDN-9] trust-domain aliases: a workload under the old name is the one that is expected, on both sides; its path still counts"]
fn aliases_of_the_trust_domain() {
    let aliased = |mesh: &Mesh, node: &Node| node.trust_with(&[(DOMAIN, &[&mesh.ca.pem])], &[OLD]);
    let mesh = server_is(&named(OLD, "server"), None, aliased);
    assert!(ping(mesh.client.outbound()));
    // The client under the old name: the server names it as its certificate does, policy maps it.
    aliased(&mesh, &mesh.two);
    mesh.two.svid(SERVER, &mesh.ca.svid(SERVER), 3);
    mesh.one.svid(CLIENT, &mesh.ca.svid(&named(OLD, "client")), 2);
    assert!(ping(mesh.client.outbound()));
    let asked = mesh.two.seen.lock().unwrap().questions.iter().rfind(|q| q["ask"] == "inbound").unwrap()["identity"].clone();
    assert_eq!(asked, named(OLD, "client"));

    let wrong_path = server_is(&named(OLD, "other"), None, aliased);
    assert!(!ping(wrong_path.client.outbound()));
    assert_eq!(reason(&wrong_path.one.records(1)[0]), 34);
    let no_alias = server_is(&named(OLD, "server"), None, |mesh, node| node.trust(&[(DOMAIN, &[&mesh.ca.pem])]));
    assert!(!ping(no_alias.client.outbound()));
    assert_eq!(reason(&no_alias.one.records(1)[0]), 33);
}

#[test]
#[doc = "[IDN-9] two trust domains with roots of their own: neither root can speak for the other domain"]
fn roots_count_for_their_own_domain() {
    let theirs = ca("theirs");
    let both = |mesh: &Mesh, node: &Node| node.trust(&[(DOMAIN, &[&mesh.ca.pem]), (OLD, &[&theirs.pem])]);
    for (identity, signer) in [(SERVER.to_string(), Some(&theirs)), (named(OLD, "server"), None)] {
        let mesh = server_is(&identity, signer, both);
        assert!(!ping(mesh.client.outbound()));
        assert_eq!(reason(&mesh.one.records(1)[0]), 35, "{identity}");
    }
    // Known and trusted, but not who was expected.
    let federated = server_is(&named(OLD, "server"), Some(&theirs), both);
    assert!(!ping(federated.client.outbound()));
    assert_eq!(reason(&federated.one.records(1)[0]), 34);
}

/// Both pods on node one, STRICT: what comes without a tunnel or a proven pod is refused.
fn strict_node() -> Mesh {
    let verdicts = |q: &Value| match (q["ask"].as_str()?, q["tunnel"].as_str()) {
        ("inbound", Some("plain")) => Some(json!({"verdictId": 5, "generation": 0, "action": "refuse", "reason": "plaintext_refused"})),
        ("peer", _) => Some(json!({"speaker": true, "mode": "strict", "waitMs": 1})),
        _ => allow(q),
    };
    let mesh = Mesh::with(app(serve), config(|_| {}), config(|c| c.handshake_timeout_ms = 1), verdicts);
    mesh.two.enrol(&mesh.client, CLIENT);
    mesh
}

#[test]
#[doc = "[DP-7] a plain client that the kernel knows as a pod of this node is that pod, speaking first or silent; any other is not"]
fn exact_socket_proves_the_client() {
    let greeting = |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 ready\r\n");
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    };
    for speaks_first in [true, false] {
        let mesh = strict_node();
        *mesh.server.app.lock().unwrap() = Some(app(greeting));
        let from_pod = || {
            let client = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
            rustix::net::bind(&client, &SocketAddr::new(mesh.client.inbound().ip(), 0)).unwrap();
            rustix::net::connect(&client, &mesh.server.inbound()).unwrap();
            let mut stream = TcpStream::from(client);
            if speaks_first {
                let _ = stream.write_all(b"ping");
            }
            stream.read_exact(&mut [0; 11]).is_ok()
        };
        assert!(!from_pod(), "not its socket");
        *mesh.client.owns.lock().unwrap() = None;
        assert!(!from_pod(), "nobody knows: refused");
        assert!(mesh.two.counter("local_source_unread") > 0);
        // Before another begins: records come as connections end, and the refused ones may be told of after it.
        assert_eq!(mesh.two.records(2).iter().map(reason).collect::<Vec<_>>(), [16, 16]);
        *mesh.client.owns.lock().unwrap() = Some(true);
        assert!(from_pod());
        let asked = mesh.two.seen.lock().unwrap().questions.iter().rev().find(|q| q["ask"] == "inbound").cloned().unwrap();
        assert_eq!((&asked["tunnel"], &asked["identity"]), (&json!("local"), &json!(CLIENT)));
        assert_eq!(mesh.two.records(3)[2][2], LANE_LOCAL);
    }
}
