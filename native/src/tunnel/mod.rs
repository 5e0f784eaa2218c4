//! The tunnel `fairlead/1` (see `docs/tunnel-fairlead-1.md`): frames, the stream state machine, one tunnel over a socket.

pub mod frame;
pub mod link;
pub mod machine;
pub mod send;
