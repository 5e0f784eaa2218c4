//! The channel from TypeScript: its frames through any cut, and the answers that workers act on.

use fairlead::channel::FrameReader;
use fairlead::relay::plan::{Mode, PeerRule, Plan, Verdict};
use serde_json::Value;

use super::cut;

type Frames = (Vec<(u8, Vec<u8>)>, bool);

fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Frames {
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

pub fn frames(data: &[u8]) {
    let (size, bytes) = cut(data);
    let whole = follow(std::iter::once(bytes));
    assert_eq!(whole, follow(bytes.chunks(size)), "in pieces of {size}");
    let mut again = Vec::new();
    for (kind, payload) in &whole.0 {
        again.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
        again.push(*kind);
        again.extend_from_slice(payload);
    }
    assert!(bytes.starts_with(&again), "frames are not the bytes they were cut from");
}

pub fn answer(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let _ = (Verdict::parse(&value), PeerRule::parse(&value));
    let Ok(plan) = Plan::parse(&value) else { return };
    let plan = plan.value;
    // Each endpoint is tried once and no more, whatever the weights are; after a tunnel no plain one.
    let mut tried = Vec::new();
    let chosen = plan.endpoints.last().map(|e| e.address).filter(|_| data.len() % 2 == 1);
    while let Some(next) = plan.pick(&tried, chosen) {
        assert!(usize::from(next) < plan.endpoints.len() && !tried.contains(&next));
        tried.push(next);
    }
    let plain = |i: &u16| plan.endpoints[usize::from(*i)].mode == Mode::Plain;
    let in_secret = tried.iter().skip_while(|i| plain(i) || plan.endpoints[usize::from(**i)].mode == Mode::Local);
    assert!(!in_secret.clone().any(plain), "plaintext after a tunnel");
    assert!(tried.len() == plan.endpoints.len() || in_secret.count() > 0);
}
