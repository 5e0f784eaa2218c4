//! Everything about certificates and TLS 1.3: who we are, whom we trust, one session over bytes. No sockets here.

pub mod identity;
pub mod records;
pub mod session;
pub mod validity;
pub mod verified;
pub mod verify;
