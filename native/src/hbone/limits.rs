//! Bounds of the HBONE side, each with its reason. Memory per connection is at most `MAX_STREAMS` times the two stream
//! figures below; no stream can take another's share.

use std::time::Duration;

/// Bytes that a stream's peer may send before the application took them. 256 KiB fills 2 Gbit/s at 1 ms.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// Streams of one connection, both as server (announced) and as client (a further connection is made beyond it).
pub const MAX_STREAMS: u32 = 64;
/// As large as all streams together, so that applications which do not read never stop the others of their connection.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// What may wait per stream for a peer that does not read; the application is not read beyond it.
pub const SEND_BUFFER: usize = 128 << 10;
/// Head of one CONNECT with all its headers; ztunnel sends a few hundred bytes.
pub const MAX_HEADERS: u32 = 16 << 10;
/// One read of an application's socket.
pub const CHUNK: usize = 32 << 10;

/// Inbound connections of this node, and those of one source address.
pub const MAX_INBOUND: usize = 2_048;
pub const MAX_INBOUND_PER_SOURCE: usize = 256;
/// Inbound connections in the handshake: the only state that a stranger can make us keep.
pub const MAX_HANDSHAKES: usize = 256;
/// Connections to one destination pod for one source.
pub const MAX_CONNECTIONS_PER_PAIR: usize = 256;

/// Streams that a peer may reset before they were answered, at once and per second (CVE-2023-44487, "rapid reset").
pub const EARLY_RESETS: u32 = 200;
pub const EARLY_RESETS_PER_SECOND: u32 = 20;

pub const PING_EVERY: Duration = Duration::from_secs(10);
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
