//! libFuzzer's entry for every target of `targets/`, and that of the CNI plugin, a crate of its own; FAIRLEAD_FUZZ_TARGET names the one to run.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod cni;
mod targets;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    fairlead::sys::ignore_sigpipe();
    let name = std::env::var("FAIRLEAD_FUZZ_TARGET").unwrap_or_default();
    let plugin: Option<fn(&[u8])> = (name == "cni").then_some(cni::plugin);
    let known = plugin.or_else(|| targets::find(&name));
    known.unwrap_or_else(|| panic!("FAIRLEAD_FUZZ_TARGET is {name:?}: use one of {}, cni", targets::names()))
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
