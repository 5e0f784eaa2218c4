//! Requests that a data thread offers to the other agent's: taken where a thread reads them, else the stream is what it always was.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::dialled::dialling_to;
use crate::lane::Lane;
use crate::life::echo;
use crate::mesh::allow;
use crate::node::app;

/// HTTP is handed over by its first bytes.
fn judged(question: &Value) -> Option<Value> {
    match question["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 3, "generation": 0, "action": "handover", "thread": 0, "opaque": "refuse", "detectMs": 30_000})),
        _ => allow(question),
    }
}

#[test]
#[doc = "[DP-14] [INT-9] an offer is taken where a thread reads requests: both threads know it before the first byte; a stream without one is judged as ever"]
fn taken_by_a_thread() {
    let (mesh, near, mut params) = dialling_to(app(echo), judged);
    let far = Lane::attach(&mesh.two, 0);
    params["requests"] = json!(true);
    for _ in 0..2 {
        let (facts, mut client) = near.dial(&params).unwrap();
        assert_eq!(facts["requests"], true);
        let (event, mut server) = far.socket();
        assert_eq!((&event["requests"], &event["protocol"]), (&json!(true), &json!("http2")));
        let mut got = [0; 4];
        server.write_all(b"sets").unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"sets");
        client.write_all(b"heads").unwrap();
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"head");
    }
    params["requests"] = json!(false);
    let (facts, mut client) = near.dial(&params).unwrap();
    assert_eq!(facts["requests"], false);
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let (event, _server) = far.socket();
    assert_eq!((&event["requests"], &event["protocol"]), (&json!(false), &json!("http1")));
}

#[test]
#[doc = "[DP-14] where no thread reads it the offer is not taken, and what is sent reaches the server as it is"]
fn not_taken_by_native() {
    let (_mesh, near, mut params) = dialling_to(app(echo), allow);
    params["requests"] = json!(true);
    let (facts, mut client) = near.dial(&params).unwrap();
    assert_eq!(facts["requests"], false);
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut got = [0; 16];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET / HTTP/1.1\r\n");
}

#[test]
#[doc = "[DP-24] a thread that is gone takes no offer: the dial fails, and nothing passes by"]
fn refused_without_a_thread() {
    let (_mesh, near, mut params) = dialling_to(app(echo), judged);
    params["requests"] = json!(true);
    assert_eq!(near.dial(&params).unwrap_err()["code"], "l7_unavailable");
}
