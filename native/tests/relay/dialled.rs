//! Data threads between two nodes: what they are handed, what they dial, resets both ways, and their death.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lane::Lane;
use crate::life::echo;
use crate::mesh::{Mesh, SERVER, allow, config, forward_to};
use crate::node::{PATIENCE, app, closed, number, reason, wait_for};
use crate::transfer::{exchange, serve};

fn handed(to: std::net::SocketAddr, mode: &str) -> Value {
    let mut plan = forward_to(to, mode);
    (plan["action"], plan["thread"]) = (json!("handover"), json!(0));
    plan
}

fn verdict(question: &Value) -> Option<Value> {
    match question["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 3, "generation": 0, "action": "handover", "thread": 0})),
        _ => allow(question),
    }
}

/// Both nodes hand everything over.
fn mesh(to: std::net::SocketAddr, mode: &'static str) -> Mesh {
    Mesh::planned(to, config(|_| {}), config(|_| {}), move |to| handed(to, mode), verdict)
}

/// Only the client's node does, and the tests dial themselves.
fn dialling(to: std::net::SocketAddr) -> (Mesh, std::sync::Arc<Lane>, Value) {
    dialling_to(to, allow)
}

pub fn dialling_to(to: std::net::SocketAddr, verdict: fn(&Value) -> Option<Value>) -> (Mesh, std::sync::Arc<Lane>, Value) {
    let mesh = Mesh::with(to, config(|_| {}), config(|_| {}), verdict);
    let lane = Lane::attach(&mesh.one, 0);
    let server = mesh.server.inbound();
    let endpoint = json!({"ip": server.ip(), "port": server.port(), "mode": "fairlead/1", "identities": [SERVER]});
    let params = json!({"pod": "shop/client", "endpoint": endpoint, "source": {"ip": "127.0.0.2", "port": 4_000}, "planId": 7, "index": 2});
    (mesh, lane, params)
}

#[test]
#[doc = "[INT-9] [INT-15] through the data threads of both nodes: no byte lost, every order of ends, tunnels reused, records of their own"]
fn bytes_survive_two_data_threads() {
    let mesh = mesh(app(serve), "fairlead/1");
    let _copiers = [Lane::copier(&mesh.one, 0), Lane::copier(&mesh.two, 0)];
    let to = mesh.client.outbound();
    for i in 0..45u64 {
        let size = if i % 15 == 0 { 3_000_000 } else { 30_000 };
        exchange(to, i, size + i as usize, size / 2, (i % 3) as u8);
    }
    // Per connection: the handed one, and the stream that was dialled.
    let records = mesh.one.records(90);
    assert_eq!(records.iter().filter(|r| (reason(r), r[2]) == (70, 5)).count(), 45);
    let streams: Vec<_> = records.iter().filter(|r| reason(r) == 0).collect();
    assert!(streams.len() == 45 && streams.iter().all(|r| r[1..3] == [0, 5] && r[8] == 7), "{streams:?}");
    assert!(streams.iter().filter(|r| r[7] & 2 != 0).count() > 30, "tunnels were not reused");
    let arrived = mesh.two.records(45);
    assert!(arrived.iter().all(|r| (reason(r), r[1], r[2], r[12]) == (0, 1, 5, 3)));
    let sum = |records: &[&[u8; 128]], at| records.iter().map(|r| number(r, at)).sum::<u64>();
    assert_eq!(sum(&streams, 48), sum(&arrived.iter().collect::<Vec<_>>(), 48));
    assert_eq!(mesh.one.counter("dials"), 45);
}

#[test]
#[doc = "[INT-9] [IDN-4] the same by HBONE, both ways"]
fn bytes_survive_by_hbone() {
    let target = app(serve);
    let mesh = Mesh::new(target);
    let server = crate::node::LoopbackPod::new("shop/hbone", &crate::node::hbone_address());
    *server.app.lock().unwrap() = Some(target);
    let mesh = Mesh { two: crate::node::Node::start(config(|_| {}), Box::new(verdict)), ..mesh };
    mesh.two.trust(&[(crate::mesh::DOMAIN, &[&mesh.ca.pem])]);
    mesh.two.svid(SERVER, &mesh.ca.svid(SERVER), 1);
    mesh.two.enrol(&server, SERVER);
    let (lane, _copier) = (Lane::attach(&mesh.one, 0), Lane::copier(&mesh.two, 0));
    let endpoint = json!({"ip": server.inbound().ip(), "port": 9_000, "mode": "hbone", "identities": [SERVER]});
    let params = json!({"pod": "shop/client", "endpoint": endpoint, "source": {"ip": "127.0.0.2", "port": 4_000}, "planId": 7, "index": 2});
    // The thread's end behind a port, so that the same exchange goes through it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let client = thread::spawn(move || (0..6u64).for_each(|i| exchange(to, i, 700_000 + i as usize, 400_000, (i % 3) as u8)));
    for _ in 0..6 {
        let near = UnixStream::from(std::os::fd::OwnedFd::from(listener.accept().unwrap().0));
        let (facts, far) = lane.dial(&params).unwrap();
        assert_eq!((&facts["peer"], &facts["lane"]), (&json!(SERVER), &json!("hbone")));
        crate::lane::carry(near, far);
    }
    client.join().unwrap();
    let records = mesh.one.records(6);
    assert!(records.iter().all(|r| (reason(r), r[2], r[8], r[16]) == (0, 5, 7, 2)), "{records:?}");
    assert!(mesh.two.records(6).iter().all(|r| (reason(r), r[2], r[12]) == (0, 5, 3)));
    let mut none = params.clone();
    none["endpoint"]["identities"] = json!(["spiffe://cluster.local/ns/x/sa/other"]);
    assert_eq!(lane.dial(&none).unwrap_err()["code"], "tls_wrong_identity");
}

#[test]
#[doc = "plain and local endpoints: the thread gets the very socket, local with the client's address for the app"]
fn sockets_without_a_tunnel() {
    let (mesh, lane, mut params) = dialling(app(echo));
    let direct = app(echo);
    params["endpoint"] = json!({"ip": direct.ip(), "port": direct.port(), "mode": "plain"});
    let (facts, mut socket) = lane.dial(&params).unwrap();
    assert_eq!(facts["lane"], "plain");
    socket.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).unwrap();
    *mesh.client.app.lock().unwrap() = Some(direct);
    params["endpoint"] = json!({"ip": "127.0.0.2", "port": 80, "mode": "local", "pod": "shop/client"});
    params["source"] = json!({"ip": "10.9.9.9", "port": 1});
    let (facts, mut socket) = lane.dial(&params).unwrap();
    assert_eq!(facts["lane"], "local");
    socket.write_all(b"pong").unwrap();
    socket.read_exact(&mut back).unwrap();
    assert_eq!(mesh.client.last_client.lock().unwrap().unwrap().to_string(), "10.9.9.9");
    assert!(mesh.one.seen.lock().unwrap().records.is_empty(), "what native does not carry is the thread's to count");
}

#[test]
#[doc = "[DP-9] [IDN-7] a dial that fails says why, and leaves no record"]
fn failures_say_why() {
    let closed = closed();
    let (mesh, lane, params) = dialling(app(echo));
    let code = |change: &dyn Fn(&mut Value)| {
        let mut params = params.clone();
        change(&mut params);
        let error = lane.dial(&params).unwrap_err();
        error["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code(&|p| p["endpoint"]["identities"] = json!(["spiffe://cluster.local/ns/x/sa/y"])), "tls_wrong_identity");
    assert_eq!(code(&|p| p["endpoint"]["identities"] = json!([])), "tls_wrong_identity", "never a tunnel to just anybody");
    assert_eq!(code(&|p| p["identity"] = json!("spiffe://cluster.local/ns/x/sa/y")), "tls_no_svid");
    assert_eq!(code(&|p| p["pod"] = json!("shop/nobody")), "pod_gone");
    assert_eq!(code(&|p| p["endpoint"] = json!({"ip": closed.ip(), "port": closed.port(), "mode": "plain"})), "connect_refused");
    assert_eq!(code(&|p| p["endpoint"] = json!({"ip": closed.ip(), "port": closed.port(), "mode": "by foot"})), "bad_params");
    assert_eq!(code(&|p| p["source"] = json!(1)), "bad_params");
    assert_eq!(lane.call("fly", &json!({}))["error"]["code"], "unknown_method");
    assert!(mesh.one.seen.lock().unwrap().records.is_empty());
    assert_eq!(mesh.one.counter("dial_failed"), 4);
    // The last one was no fault of the thread: it goes on dialling.
    assert!(lane.dial(&params).is_ok());
}

#[test]
#[doc = "[DP-24] a stream that the other agent refuses by policy: the thread learns reason and policy"]
fn a_refusal_names_the_policy() {
    let (_mesh, lane, params) = dialling_to(app(echo), |q| match q["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 3, "generation": 0, "action": "refuse", "reason": "policy_denied", "policy": "shop/nobody"})),
        _ => allow(q),
    });
    let error = lane.dial(&params).unwrap_err();
    assert_eq!((&error["code"], &error["policy"]), (&json!("policy_denied"), &json!("shop/nobody")));
}

#[test]
#[doc = "[INT-9] a reset of the far side is told on the channel, and the socket does not end before the thread let go of it"]
fn a_far_reset_is_told() {
    let (_mesh, lane, params) = dialling(app(|mut stream| {
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        stream.write_all(b"some").unwrap();
        thread::sleep(Duration::from_millis(100));
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }));
    let (facts, mut socket) = lane.dial(&params).unwrap();
    socket.write_all(b"ping").unwrap();
    // Ended by the thread or not, the reset is no end in order.
    socket.shutdown(Shutdown::Write).unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).unwrap();
    wait_for(|| lane.aborted(&facts["id"]).then_some(()));
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(socket.read(&mut back).unwrap_err().kind(), ErrorKind::WouldBlock, "no end that was none");
}

#[test]
#[doc = "[INT-9] the thread's abort, and bytes that it left unread, are resets for the far side; its close is an end"]
fn resets_by_the_thread() {
    let (ends, end) = std::sync::mpsc::channel();
    let (mesh, lane, params) = dialling(app(move |mut stream| {
        stream.write_all(b"hello").unwrap();
        let mut room = [0; 64];
        let end = loop {
            match stream.read(&mut room) {
                Ok(0) => break "end",
                Ok(_) => {}
                Err(_) => break "reset",
            }
        };
        ends.send(end).unwrap();
    }));
    let read = |mut socket: &UnixStream| socket.read_exact(&mut [0; 5]).unwrap();
    let told = || end.recv_timeout(PATIENCE).unwrap();
    let (facts, socket) = lane.dial(&params).unwrap();
    read(&socket);
    assert!(lane.call("abort", &json!({"id": facts["id"]})).get("error").is_none());
    assert_eq!(told(), "reset");
    drop(socket);
    let (_, socket) = lane.dial(&params).unwrap();
    // It has come, and stays unread.
    rustix::net::recv(&socket, &mut [0; 1][..], rustix::net::RecvFlags::PEEK).unwrap();
    drop(socket);
    assert_eq!(told(), "reset");
    let (_, socket) = lane.dial(&params).unwrap();
    read(&socket);
    drop(socket);
    assert_eq!(told(), "end");
    assert_eq!(lane.call("abort", &json!({"id": 12_345}))["ok"], json!({}), "it had ended by itself");
    let reasons: Vec<_> = mesh.one.records(3).iter().map(reason).collect();
    assert_eq!(reasons, [1, 1, 0]);
}

#[test]
#[doc = "[INT-14] [DP-24] a thread that dies: its streams are reset on both sides, counted and recorded; the next connection is refused until another takes its place"]
fn death_of_a_thread() {
    let (mesh, near, params) = dialling_to(app(echo), verdict);
    let far = Lane::attach(&mesh.two, 0);
    let (facts, mut client) = near.dial(&params).unwrap();
    client.write_all(b"GET").unwrap();
    let (_, mut socket) = far.socket();
    let mut got = [0; 3];
    socket.read_exact(&mut got).unwrap();
    far.die();
    drop(socket);
    // Never a FIN that was not one.
    wait_for(|| near.aborted(&facts["id"]).then_some(()));
    assert_eq!(reason(&mesh.two.records(1)[0]), 65);
    wait_for(|| (mesh.two.counter("data_threads_gone") == 1).then_some(()));
    assert_eq!(near.dial(&params).unwrap_err()["code"], "l7_unavailable");
    assert_eq!(reason(&mesh.two.records(2)[1]), 19);
    assert_eq!(mesh.two.counter("handover_no_thread"), 1);
    let _next = Lane::copier(&mesh.two, 0);
    let (_, mut client) = near.dial(&params).unwrap();
    client.write_all(b"GET").unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET");
    // What is under way when its own thread dies ends for the far side.
    near.die();
    drop(client);
    let last = mesh.one.records(2)[1];
    assert_eq!((reason(&last), last[2]), (65, 5));
}

#[test]
#[doc = "[INT-9] a thread that reads nothing stops its peer, and memory with it; what was sent comes when it reads"]
fn back_pressure() {
    const SIZE: usize = 30_000_000;
    let (sent, progress) = std::sync::mpsc::channel();
    let (_mesh, lane, params) = dialling(app(move |mut stream| {
        for _ in 0..SIZE / 100_000 {
            stream.write_all(&[7; 100_000]).unwrap();
            sent.send(()).unwrap();
        }
    }));
    let (_, mut socket) = lane.dial(&params).unwrap();
    let mut passed = 0;
    while progress.recv_timeout(Duration::from_millis(500)).is_ok() {
        passed += 100_000;
    }
    assert!(passed < SIZE / 2, "{passed} bytes went on unread");
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    assert!(all.len() == SIZE && all.iter().all(|b| *b == 7));
}

#[test]
#[doc = "[DP-21] pods and connections that are ended end for the thread too"]
fn ended_by_the_agent() {
    use fairlead::seam::PodRegistry;
    let (mesh, lane, params) = dialling(app(echo));
    let (facts, _held) = lane.dial(&params).unwrap();
    mesh.one.call("connections.reset", json!({"ids": [facts["id"]], "reason": "reset_by_agent"}));
    wait_for(|| lane.aborted(&facts["id"]).then_some(()));
    let (facts, _held) = lane.dial(&params).unwrap();
    mesh.one.pods.unenrolled("shop/client", 0);
    wait_for(|| lane.aborted(&facts["id"]).then_some(()));
    assert_eq!(lane.dial(&params).unwrap_err()["code"], "pod_gone");
}
