//! The plugin as a library, for its binary, its tests and fuzzing. One call: environment and configuration in, one text and an exit
//! code out. All that it does itself is to ask the node's agent over a unix socket and to wait for the answer.
pub mod agent;
pub mod call;
pub mod config;
pub mod fault;
pub mod plugin;
