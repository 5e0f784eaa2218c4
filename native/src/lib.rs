//! Kernel side, tunnel and byte copying of the node agent, behind a small C ABI (see `docs/native-channel.md`).

pub mod fault;
pub mod seam;
pub mod channel;
pub mod config;
pub mod record;
pub mod reason;
pub mod tls;
pub mod kernel;
pub mod sys;
