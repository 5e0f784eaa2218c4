//! Entry of the plugin: what the runtime says comes by environment and standard input, what it hears goes to standard output.
use std::io::{Read, Write};
use std::process::ExitCode;

use fairlead_cni::agent::UnixAgent;
use fairlead_cni::config::MAX_CONFIG_BYTES;
use fairlead_cni::plugin;

fn main() -> ExitCode {
    let mut input = Vec::new();
    // One byte more than may be taken, so that what is too long is seen to be.
    let read = std::io::stdin().lock().take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut input);
    let done = match read {
        Ok(_) => plugin::run(&|name| std::env::var(name).ok(), &input, &UnixAgent),
        Err(error) => plugin::unreadable(&error),
    };
    if !done.note.is_empty() {
        eprintln!("fairlead-cni: {}", done.note);
    }
    let mut out = std::io::stdout().lock();
    let written = out.write_all(done.output.as_bytes()).and_then(|()| out.flush());
    if done.good && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
