//! Replays every input that fuzzing kept (`native/fuzz/corpus/cni`), whole and cut short, without libFuzzer.

#[path = "../../fuzz/src/cni.rs"]
mod cni;

#[test]
#[doc = "[INT-11] the kept inputs as configuration, arguments and answers"]
fn replayed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/cni");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let input = std::fs::read(&file).expect("readable");
        (0..=input.len()).for_each(|n| cni::plugin(&input[..n]));
    }
}
