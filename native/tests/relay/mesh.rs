//! Two nodes with one pod each: `client` on the first, `server` on the second, both with good certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use fairlead::config::Config;
use serde_json::{Value, json};

use crate::node::{LoopbackPod, Node};
use crate::pki::{Ca, ca};

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
pub const DOMAIN: &str = "cluster.local";

pub struct Mesh {
    pub ca: Ca,
    pub one: Node,
    pub two: Node,
    pub client: Arc<LoopbackPod>,
    pub server: Arc<LoopbackPod>,
}

pub fn forward_to(address: SocketAddr, mode: &str) -> Value {
    json!({"planId": 7, "generation": 0, "action": "forward", "identity": CLIENT, "service": "shop/server",
        "endpoints": [{"ip": address.ip(), "port": address.port(), "mode": mode, "identities": [SERVER]}]})
}

pub fn allow(question: &Value) -> Option<Value> {
    match question["ask"].as_str()? {
        "inbound" => Some(json!({"verdictId": 9, "generation": 0, "action": "forward"})),
        // The other node's hello comes as fast as the machine lets it: nobody is taken for a plain client meanwhile.
        "peer" => Some(json!({"speaker": false, "mode": "permissive", "waitMs": 30_000})),
        _ => None,
    }
}

/// Times that no slow machine makes true; a test that is about one of them sets it.
pub fn config(change: impl FnOnce(&mut Config)) -> Config {
    let long = 30_000;
    let mut config = Config {
        workers: 2,
        question_timeout_ms: long,
        handshake_timeout_ms: long,
        connect_timeout_ms: long,
        detect_wait_ms: long,
        permissive_wait_ms: long,
        heartbeat_dead_ms: long,
        ..Config::default()
    };
    change(&mut config);
    config
}

impl Mesh {
    /// `app`: where the server application listens.
    pub fn new(app: SocketAddr) -> Mesh {
        Self::with(app, config(|_| {}), config(|_| {}), allow)
    }

    pub fn with(app: SocketAddr, one: Config, two: Config, verdicts: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) -> Mesh {
        Self::planned(app, one, two, |to| forward_to(to, "fairlead/1"), verdicts)
    }

    /// `plan`: the answer about every outbound connection, made from where the server pod is; the pods' addresses are of the
    /// app's family.
    pub fn planned(
        app: SocketAddr,
        one: Config,
        two: Config,
        plan: impl Fn(SocketAddr) -> Value,
        verdicts: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Mesh {
        let (at_client, at_server) = if app.is_ipv6() { ("[::1]:0", "[::1]:0") } else { ("127.0.0.2:0", "127.0.0.3:0") };
        let client = LoopbackPod::new("shop/client", at_client);
        let server = LoopbackPod::new("shop/server", at_server);
        let to = server.inbound();
        *client.to.lock().unwrap() = Some(to);
        *server.app.lock().unwrap() = Some(app);
        let plan = plan(to);
        let one = Node::start(one, Box::new(move |q| if q["ask"] == "outbound" { Some(plan.clone()) } else { allow(q) }));
        let two = Node::start(two, Box::new(verdicts));
        let mesh = Mesh { ca: ca("root"), one, two, client, server };
        for (node, identity) in [(&mesh.one, CLIENT), (&mesh.two, SERVER)] {
            node.trust(&[(DOMAIN, &[&mesh.ca.pem])]);
            node.svid(identity, &mesh.ca.svid(identity), 1);
        }
        mesh.one.enrol(&mesh.client, CLIENT);
        mesh.two.enrol(&mesh.server, SERVER);
        mesh
    }
}
