//! Traffic of the demo, the lab tests and the proofs: every byte in both directions is known to both sides and checked.
//! One thread, so that what is measured is the mesh and not this program. Touches the network and standard input and output only.
//!
//!   traffic server --port 7000 [--greet 7001] [--sink 7002] [--host ::]
//!   traffic client short --host H --port P --count N --concurrency C [--rate PER_SECOND] [--orders request,...]
//!   traffic client long  --count N --max BYTES [--hold MS]     all at once
//!   traffic client load  --rate R                              until "stop" on standard input; "report" prints a line
//!   traffic client idle  --count N                             held open; each line "check" proves all of them; "quit" ends

mod client;
mod idle;
mod server;
mod wire;

use std::collections::BTreeMap;

/// Named options after the mode: `--name value`.
pub struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut named = BTreeMap::new();
        for pair in args.chunks(2) {
            match pair {
                [name, value] if name.starts_with("--") => named.insert(name[2..].to_string(), value.clone()),
                _ => return Err(format!("{}: options are --name value", pair[0])),
            };
        }
        Ok(Self(named))
    }

    pub fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_string()
    }

    /// The number behind `--name`. Ends the program with a message if it is not one.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.0.get(name)?;
        Some(text.parse().unwrap_or_else(|_| usage(&format!("--{name} {text:?}: use a whole number"))))
    }
}

fn usage(message: &str) -> ! {
    eprintln!("traffic: {message}");
    std::process::exit(2)
}

fn main() {
    // Sleeps end when asked, not up to 50 µs later.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = |rest: &[String]| Options::parse(rest).unwrap_or_else(|message| usage(&message));
    let tasks = tokio::task::LocalSet::new();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["server", ..] => tasks.block_on(&runtime, server::run(&options(&args[1..]))),
        ["client", "idle", ..] => tasks.block_on(&runtime, idle::run(&options(&args[2..]))),
        ["client", mode @ ("short" | "long" | "load"), ..] => tasks.block_on(&runtime, client::run(mode, &options(&args[2..]))),
        _ => usage("use server, or client with short, long, load or idle"),
    }
    // Held connections and the thread that reads standard input end with the process.
    std::process::exit(0);
}
