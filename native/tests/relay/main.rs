//! Two in-process nodes over loopback: real channel, real workers, real TLS; only the pods' namespaces are replaced.
#![allow(unsafe_code)]

mod death;
mod first_bytes;
mod foreign;
mod life;
mod mesh;
mod node;
mod pki;
mod refusals;
mod transfer;
