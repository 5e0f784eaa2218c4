//! The first bytes of a connection: ClientHello reader and protocol detector. What they say must not depend on how the bytes
//! were cut on their way, and once said it stands whatever follows.

use fairlead::detect::client_hello::{Hello, MAX_HELLO, Parsed, parse};
use fairlead::detect::{Detector, Seen, detect};

use super::cut;

/// More prefixes than this are not tried: the time of one input stays bounded.
const PREFIXES: usize = 64;

fn prefixes(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = (data.len() / PREFIXES).max(1);
    (0..data.len()).step_by(step).map(|n| &data[..n])
}

/// A length of `bytes` bytes, then the body.
fn vector(bytes: usize, body: Vec<u8>) -> Vec<u8> {
    let mut out = (body.len() as u32).to_be_bytes()[4 - bytes..].to_vec();
    out.extend(body);
    out
}

/// A ClientHello with these names, in records of `size` bytes at most.
fn encode(hello: &Hello, size: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = &hello.server_name {
        let entry = [vec![0], vector(2, name.clone().into_bytes())].concat();
        extensions.extend([vec![0, 0], vector(2, vector(2, entry))].concat());
    }
    if !hello.alpn.is_empty() {
        let names = hello.alpn.iter().flat_map(|p| vector(1, p.clone())).collect();
        extensions.extend([vec![0, 16], vector(2, vector(2, names))].concat());
    }
    let body = [vec![3, 3], vec![7; 32], vec![0], vector(2, vec![0x13, 1]), vector(1, vec![0]), vector(2, extensions)].concat();
    let message = [vec![1], vector(3, body)].concat();
    message.chunks(size).flat_map(|piece| [vec![22, 3, 1], vector(2, piece.to_vec())].concat()).collect()
}

pub fn hello(data: &[u8]) {
    let (size, bytes) = cut(data);
    let whole = parse(bytes);
    for prefix in prefixes(bytes) {
        let early = parse(prefix);
        assert!(early == Parsed::NeedMore || early == whole, "{} of {} bytes say {early:?}, all say {whole:?}", prefix.len(), bytes.len());
    }
    let Parsed::Hello(found) = whole else { return };
    let named: usize = found.alpn.iter().map(|p| p.len() + 1).sum();
    assert!(named + found.server_name.as_ref().map_or(0, String::len) <= MAX_HELLO);
    let again = encode(&found, size);
    // Several ALPN extensions may together hold more than one can, or than a hello of ours may be long.
    if named < MAX_HELLO - 400 {
        assert_eq!(parse(&again), Parsed::Hello(found));
    }
}

pub fn detector(data: &[u8]) {
    let (size, bytes) = cut(data);
    let whole = detect(bytes);
    for prefix in prefixes(bytes) {
        let early = detect(prefix);
        assert!(early == Seen::NeedMore || early == whole, "{} of {} bytes say {early:?}, all say {whole:?}", prefix.len(), bytes.len());
    }
    let mut once = Detector::default();
    once.from_client(bytes);
    let mut pieces = Detector::default();
    bytes.chunks(size).for_each(|piece| pieces.from_client(piece));
    assert_eq!((once.decided(), once.protocol()), (pieces.decided(), pieces.protocol()), "in pieces of {size}");
    for d in [&mut once, &mut pieces] {
        let before = (d.decided(), d.protocol());
        d.from_server();
        assert!(d.decided() && (!before.0 || before.1 == d.protocol()));
    }
}
