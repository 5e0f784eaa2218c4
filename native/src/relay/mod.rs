//! The byte side: worker threads that accept in pods, ask for plans and verdicts, and carry bytes.

pub mod accept;
pub mod acceptor;
pub mod arriving;
pub mod buffers;
pub mod conn;
pub mod ends;
pub mod handover;
pub mod hbone;
pub mod inbound;
pub mod orders;
pub mod outbound;
pub mod pair;
pub mod plan;
pub mod questions;
pub mod report;
pub mod shared;
pub mod slab;
pub mod sock;
pub mod stream;
pub mod succession;
pub mod timers;
pub mod tunnel_pool;
pub mod tunnel_queue;
pub mod tunnels;
pub mod worker;
