//! Two in-process nodes over loopback: real channel, real workers, real TLS; only the pods' namespaces are replaced.
#![allow(unsafe_code)]

mod alerts;
mod death;
mod dialled;
mod failover;
mod first_bytes;
mod foreign;
mod joined;
mod judged;
mod keys;
mod lane;
mod leaving;
mod life;
mod limits;
mod mesh;
mod node;
mod offers;
mod opening;
mod peers;
mod pki;
mod queue;
mod refusals;
mod transfer;
