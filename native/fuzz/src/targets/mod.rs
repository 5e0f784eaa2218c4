//! One target per parser of network bytes: a pure function that panics if the input breaks what must hold. libFuzzer drives
//! them (`../main.rs`), and `native/tests/fuzz_corpus.rs` replays the kept inputs without it.

mod channel;
mod first_bytes;
mod h2_frames;
mod hbone;
mod peer;
mod tls;
mod tunnel;
mod world;

pub type Target = fn(&[u8]);

pub const TARGETS: &[(&str, Target)] = &[
    ("hello", first_bytes::hello),
    ("detect", first_bytes::detector),
    ("frames", tunnel::frames),
    ("machine", tunnel::machine),
    ("authority", peer::authority),
    ("certificate", peer::certificate),
    ("channel", channel::frames),
    ("answer", channel::answer),
    ("hbone", hbone::server),
    ("records", tls::records),
    ("handshake", tls::handshake),
];

pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, target)| *target)
}

#[allow(dead_code, reason = "libFuzzer's entry uses it, the replay does not")]
pub fn names() -> String {
    TARGETS.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
}

/// Splits off the first byte, which says how the rest is cut into pieces.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((1, data), |(n, rest)| (usize::from(*n) + 1, rest))
}
