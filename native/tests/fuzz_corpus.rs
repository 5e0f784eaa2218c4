//! Replays every input that fuzzing kept (`fuzz/corpus/`), without libFuzzer: what was once found or reached stays good.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;

fn replay(name: &str) {
    let target = targets::find(name).unwrap_or_else(|| panic!("no target {name}"));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("a corpus").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let input = std::fs::read(&file).expect("readable");
        let result = std::panic::catch_unwind(|| target(&input));
        assert!(result.is_ok(), "the input is {}", file.display());
        // And cut short anywhere: what stands in a corpus is seldom incomplete.
        if name != "hbone" {
            (0..input.len()).step_by((input.len() / 16).max(1)).for_each(|n| target(&input[..n]));
        }
    }
}

#[test]
#[doc = "[INT-7] ClientHello reader: the kept inputs"]
fn hello() {
    replay("hello");
}

#[test]
#[doc = "[INT-7] protocol detector: the kept inputs, whole and in pieces"]
fn detect() {
    replay("detect");
}

#[test]
#[doc = "[DP-14] tunnel frames: the kept inputs, whole and in pieces"]
fn frames() {
    replay("frames");
}

#[test]
#[doc = "[DP-14] tunnel machine: the kept inputs, while the local side acts"]
fn machine() {
    replay("machine");
}

#[test]
#[doc = "[DP-12] HBONE authority: the kept inputs"]
fn authority() {
    replay("authority");
}

#[test]
#[doc = "[IDN-7] certificates of peers: the kept inputs"]
fn certificate() {
    replay("certificate");
}

#[test]
#[doc = "[SEC-8] channel frames: the kept inputs, whole and in pieces"]
fn channel() {
    replay("channel");
}

#[test]
#[doc = "[SEC-8] answers of the agent: the kept inputs"]
fn answer() {
    replay("answer");
}

#[test]
#[doc = "[DP-14] HBONE server: the kept inputs, sent by a peer with a good certificate"]
fn hbone() {
    replay("hbone");
}

#[test]
#[doc = "[IDN-4] record layer: the kept inputs, from a peer that has the keys and keeps no rule"]
fn records() {
    replay("records");
}

#[test]
#[doc = "[IDN-4] [IDN-7] handshake of both sides: the kept inputs, bytes changed on the way and cut anyhow"]
fn handshake() {
    replay("handshake");
}

#[test]
fn every_target_is_replayed() {
    let source = include_str!("fuzz_corpus.rs");
    for (name, _) in targets::TARGETS {
        assert!(source.contains(&format!("replay(\"{name}\")")), "{name}");
    }
}
