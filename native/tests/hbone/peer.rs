//! Starts Node as the peer and reads what it reports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::kit::Mesh;
use crate::node::PATIENCE;

/// A Node process; killed with the test.
pub struct Peer {
    child: Child,
    lines: Receiver<Value>,
}

fn node() -> PathBuf {
    let modules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../node_modules");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let own = modules.join(format!("node-linux-{architecture}/bin/node"));
    if own.exists() { own } else { "node".into() }
}

impl Peer {
    fn start(script: &str, settings: &Value) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../test/hbone").join(script);
        let mut command = Command::new(node());
        command.arg("--no-warnings").arg(script).arg(settings.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node must be installed: npm run setup");
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).unwrap_or_else(|_| json!({"event": "text", "text": line})));
            }
        });
        Self { child, lines }
    }

    /// A client of `port` with a certificate of `identity` from the mesh's CA.
    pub fn client(mesh: &Mesh, port: u16, identity: &str, more: Value) -> Self {
        let (cert, key) = mesh.peer_files(identity, false);
        Self::client_with(mesh, port, json!({"cert": cert, "key": key}), more)
    }

    /// As above, at any address.
    pub fn client_at(mesh: &Mesh, to: SocketAddr, identity: &str, more: Value) -> Self {
        let host = json!({"host": to.ip().to_string()});
        Self::client(mesh, to.port(), identity, merged(&[host, more]))
    }

    pub fn client_with(mesh: &Mesh, port: u16, credentials: Value, more: Value) -> Self {
        let base = json!({"host": "127.0.0.1", "port": port, "ca": mesh.ca_file});
        Self::start("peer-client.ts", &merged(&[base, credentials, more]))
    }

    /// A server; returns its port too.
    pub fn server(mesh: &Mesh, identity: &str, expired: bool, more: Value) -> (Self, u16) {
        let (cert, key) = mesh.peer_files(identity, expired);
        let base = json!({"host": "127.0.0.1", "port": 0, "ca": mesh.ca_file, "cert": cert, "key": key});
        let peer = Self::start("peer-server.ts", &merged(&[base, more]));
        let port = peer.wait("listening")["port"].as_u64().unwrap() as u16;
        (peer, port)
    }

    /// Next report of this kind; others before it are passed over.
    #[track_caller]
    pub fn wait(&self, event: &str) -> Value {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE * 3) {
                Ok(line) if line["event"] == event => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("the peer did not report {event:?}, but {seen:?}"),
            }
        }
    }

    /// All reports so far that were not read.
    pub fn drain(&self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn merged(parts: &[Value]) -> Value {
    Value::Object(parts.iter().filter_map(Value::as_object).flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}
