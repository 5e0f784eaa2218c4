//! HBONE against an implementation that is not ours: Node's own http2 over TLS, as client and as server, with certificates
//! of a test CA. Everything stays on loopback; every test has its own ports, files and processes.

mod agent;
mod inbound;
mod kit;
#[path = "../relay/node.rs"]
#[allow(dead_code)]
mod node;
mod outbound;
mod peer;

/// Certificates as `node` takes them; here they are made by the kit's CA.
mod pki {
    pub struct Pair {
        pub chain: String,
        pub key: String,
    }
}
