//! Connections that go to a data thread only if their first bytes are HTTP.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lane::{Lane, say};
use crate::life::{echo, is_reset, round_trip};
use crate::mesh::{Mesh, allow, config, forward_to};
use crate::node::{app, dial, reason};

/// A ClientHello of an application of its own.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), "app.test".try_into().unwrap()).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn ordered(mut answer: Value, opaque: &str, detect_ms: u64) -> Value {
    answer["action"] = json!("handover");
    answer["thread"] = json!(0);
    answer["opaque"] = json!(opaque);
    answer["detectMs"] = json!(detect_ms);
    answer
}

/// The client's node judges.
fn near(opaque: &'static str, detect_ms: u64) -> Mesh {
    Mesh::planned(app(echo), config(|_| {}), config(|_| {}), move |to| ordered(forward_to(to, "fairlead/1"), opaque, detect_ms), allow)
}

/// The server's node judges, what arrives plainly or by tunnel. `wait_ms`: how long a silent client may yet be a tunnel.
fn far(opaque: &'static str, detect_ms: u64, wait_ms: u64) -> Mesh {
    Mesh::with(app(echo), config(|_| {}), config(|_| {}), move |q| match q["ask"].as_str()? {
        "peer" => Some(json!({"speaker": false, "mode": "permissive", "waitMs": wait_ms})),
        "inbound" => Some(ordered(json!({"verdictId": 3, "generation": 0}), opaque, detect_ms)),
        _ => allow(q),
    })
}

/// The ways to a judge, each with the place where its client connects.
fn ways(opaque: &'static str, detect_ms: u64) -> Vec<(&'static str, Mesh, std::net::SocketAddr)> {
    let (a, b, c) = (near(opaque, detect_ms), far(opaque, detect_ms, 30_000), far(opaque, detect_ms, 20));
    let (to_a, to_b, to_c) = (a.client.outbound(), b.client.outbound(), c.server.inbound());
    vec![("outbound", a, to_a), ("tunnel", b, to_b), ("plain", c, to_c)]
}

fn lane(way: &str, mesh: &Mesh) -> Arc<Lane> {
    Lane::attach(if way == "outbound" { &mesh.one } else { &mesh.two }, 0)
}

#[test]
#[doc = "[INT-7] HTTP goes to the thread whole, its version in the event"]
fn http_is_handed_over() {
    for (way, mesh, to) in ways("refuse", 30_000) {
        let lane = lane(way, &mesh);
        for (text, name) in [(&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], "http1"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2")] {
            let client = say(to, text);
            let (event, mut socket) = lane.socket();
            assert_eq!(event["protocol"], name, "{way}");
            let mut got = vec![0; text.len()];
            socket.read_exact(&mut got).unwrap();
            assert_eq!(got, text, "{way}");
            socket.write_all(b"answer").unwrap();
            drop(socket);
            let mut back = Vec::new();
            (&client).read_to_end(&mut back).unwrap();
            assert_eq!(back, b"answer", "{way}");
        }
    }
}

#[test]
#[doc = "[INT-7] [TRF-7] what begins as text is meant as a request: handed over unnamed, however bad, for the thread to answer"]
fn bad_requests_are_handed_over() {
    for opaque in ["refuse", "forward"] {
        for (way, mesh, to) in ways(opaque, 30_000) {
            let lane = lane(way, &mesh);
            for text in [&b"\r\nGET / HTTP/1.1\r\n\r\n"[..], b"\nGET / HTTP/1.1\r\n\r\n", b"GET\t/ HTTP/1.1\r\n\r\n", b"GET / HTTP/1.9\r\n\r\n"] {
                let _client = say(to, text);
                let (event, mut socket) = lane.socket();
                assert!(event["protocol"] != "http1" && event["protocol"] != "http2", "{way} {event}");
                let mut got = vec![0; text.len()];
                socket.read_exact(&mut got).unwrap();
                assert_eq!(got, text, "{way}");
            }
        }
    }
}

#[test]
#[doc = "[INT-7] HTTP in pieces goes to the thread too"]
fn http_in_pieces() {
    for (way, mesh, to) in ways("refuse", 30_000) {
        let lane = lane(way, &mesh);
        let mut client = say(to, b"GE");
        std::thread::sleep(Duration::from_millis(30));
        client.write_all(b"T / HTTP/1.1\r\n").unwrap();
        let (_, mut socket) = lane.socket();
        let mut got = [0; 16];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"GET / HTTP/1.1\r\n", "{way}");
    }
}

#[test]
#[doc = "[INT-7] [DP-24] what is not HTTP is refused where the plan or verdict says so: reset, reason not_http, protocol in the record"]
fn others_are_refused() {
    for (way, mesh, to) in ways("refuse", 30_000) {
        let _lane = lane(way, &mesh);
        for (count, (text, protocol)) in [(hello(), 1), (b"*1\r\n$4\r\nPING\r\n".to_vec(), 4)].into_iter().enumerate() {
            assert!(is_reset(&say(to, &text)), "{way}");
            let record = (if way == "outbound" { &mesh.one } else { &mesh.two }).records(count + 1)[count];
            assert_eq!((reason(&record), record[3]), (25, protocol), "{way}");
        }
    }
}

#[test]
#[doc = "[INT-7] [INT-9] or carried on by native as opaque bytes, none lost"]
fn others_are_carried() {
    for (way, mesh, to) in ways("forward", 30_000) {
        let _lane = lane(way, &mesh);
        for text in [&b"*1\r\n$4\r\nPING\r\n"[..], b"\0"] {
            let client = say(to, text);
            let mut back = vec![0; text.len()];
            (&client).read_exact(&mut back).unwrap();
            assert_eq!(back, text, "{way}");
            round_trip(&client, b"more");
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!((&client).read(&mut [0; 8]).unwrap(), 0, "{way}");
        }
        let node = if way == "outbound" { &mesh.one } else { &mesh.two };
        assert!(node.records(2).iter().all(|r| reason(r) == 0), "{way}");
        assert_eq!(node.counter("handover_opaque"), 2, "{way}");
    }
}

#[test]
#[doc = "[DP-24] silence is the thread's, under a rule or not: nothing that comes after it passes by"]
fn silence_is_handed_over() {
    for (way, mesh, to) in ways("refuse", 60).into_iter().chain(ways("forward", 60)) {
        let lane = lane(way, &mesh);
        let mut client = dial(to);
        let (event, mut socket) = lane.socket();
        assert!(event["protocol"].is_null(), "{way}");
        client.write_all(b"late").unwrap();
        let mut got = [0; 4];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"late", "{way}");
    }
}

#[test]
#[doc = "[DP-24] an application that cannot be reached after the look at the first bytes: a reset"]
fn no_application_behind_the_judge() {
    for (way, mesh, to) in ways("forward", 30_000) {
        let _lane = lane(way, &mesh);
        *mesh.server.app.lock().unwrap() = Some("127.0.0.1:1".parse().unwrap());
        assert!(is_reset(&say(to, b"*1\r\n$4\r\nPING\r\n")), "{way}");
        // And the tunnel is as good as before.
        *mesh.server.app.lock().unwrap() = Some(app(echo));
        round_trip(&say(to, b""), b"*1\r\n$4\r\nPING\r\n");
    }
}
