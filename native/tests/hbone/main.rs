//! HBONE against an implementation that is not ours: Node's own http2 over TLS, as client and as server, with certificates
//! of a test CA. Everything stays on loopback; every test has its own ports, files and processes.

mod inbound;
mod kit;
mod outbound;
mod peer;
