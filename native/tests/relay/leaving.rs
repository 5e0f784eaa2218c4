//! A pod that leaves the mesh while its clients come and go: whoever was on the way here when it left is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fairlead::seam::PodRegistry;
use serde_json::json;

use crate::dialled::dialling_to;
use crate::life::{connect, echo, is_reset, round_trip};
use crate::mesh::{CLIENT, Mesh, allow};
use crate::node::{LoopbackPod, app, dial, wait_for};

const DRAIN_MS: u64 = 60_000;

/// The pod leaves, and every worker knows: they answer what they are asked in the order of what they are told.
fn leave(mesh: &Mesh) {
    mesh.one.pods.unenrolled("shop/client", DRAIN_MS);
    mesh.one.call("tunnels.list", json!({}));
}

#[test]
#[doc = "[DP-9] [INT-12] every connection that waits to be taken when its pod leaves is served, however many: a worker had stood still"]
fn what_waits() {
    let mesh = Mesh::new(app(echo));
    let late = LoopbackPod::new("shop/late", "127.0.0.4:0");
    *late.to.lock().unwrap() = Some(mesh.server.inbound());
    let waiting: Vec<_> = (0..400).map(|_| dial(late.outbound())).collect();
    mesh.one.enrol(&late, CLIENT);
    mesh.one.pods.unenrolled("shop/late", DRAIN_MS);
    waiting.iter().for_each(|s| round_trip(s, b"served"));
}

#[test]
#[doc = "[DP-9] a handshake that begins with the agent ends with it: the listeners of a pod that leaves are served for a moment more, then closed"]
fn handshakes_under_way() {
    let mesh = Mesh::new(app(echo));
    let open = connect(&mesh);
    round_trip(&open, b"before");
    leave(&mesh);
    round_trip(&connect(&mesh), b"just so");
    wait_for(|| TcpStream::connect(mesh.client.outbound()).is_err().then_some(()));
    round_trip(&open, b"after");
}

#[test]
#[doc = "[DP-9] [INT-12] a pod that comes back while it leaves: the listeners of before are served as long, those of now for good"]
fn back_while_leaving() {
    let mesh = Mesh::new(app(echo));
    leave(&mesh);
    let again = mesh.client.again("127.0.0.4:0");
    mesh.one.enrol(&again, CLIENT);
    round_trip(&connect(&mesh), b"on the way");
    wait_for(|| TcpStream::connect(mesh.client.outbound()).is_err().then_some(()));
    round_trip(&dial(again.outbound()), b"new");
}

#[test]
#[doc = "[INT-12] [DP-9] what a pod opened before it left goes on past the end of that drain if it came back, and ends with the pod at last"]
fn open_when_back() {
    let mesh = Mesh::new(app(echo));
    let open = connect(&mesh);
    round_trip(&open, b"before");
    mesh.one.pods.unenrolled("shop/client", 300);
    let again = mesh.client.again("127.0.0.4:0");
    mesh.one.enrol(&again, CLIENT);
    // Three looks at what is over.
    std::thread::sleep(Duration::from_millis(3_300));
    round_trip(&open, b"long after");
    round_trip(&dial(again.outbound()), b"new");
    mesh.one.pods.unenrolled("shop/client", 0);
    assert!(is_reset(&open));
}

#[test]
#[doc = "[INT-12] [DP-9] an HTTP client that a pod has when it leaves is served: its data thread still reaches other pods and the pod's own app"]
fn dials_while_leaving() {
    let (mesh, lane, params) = dialling_to(app(echo), allow);
    leave(&mesh);
    let (facts, mut stream) = lane.dial(&params).unwrap();
    assert_eq!(facts["lane"], "tunnel");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    *mesh.client.app.lock().unwrap() = Some(app(echo));
    let mut local = params.clone();
    local["endpoint"] = json!({"ip": "127.0.0.2", "port": 80, "mode": "local", "pod": "shop/client"});
    assert_eq!(lane.dial(&local).unwrap().0["lane"], "local");
}

#[test]
#[doc = "[DP-21] a pod that is gone while it was leaving: all that is open ends at once, not with the drain"]
fn gone_while_leaving() {
    let mesh = Mesh::new(app(echo));
    let open = connect(&mesh);
    round_trip(&open, b"before");
    leave(&mesh);
    round_trip(&open, b"while it leaves");
    mesh.one.pods.unenrolled("shop/client", 0);
    assert!(is_reset(&open));
    assert!(TcpStream::connect(mesh.client.outbound()).is_err());
}
