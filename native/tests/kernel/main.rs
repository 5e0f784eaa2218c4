//! Tests of the kernel side on real namespaces, cgroups and programs. Each case runs in a process of its own, so that it
//! can have a cgroup and be killed; what it leaves behind is removed by the parent. Needs root.
//!   kernel [--list | FILTER...]

mod direct;
mod inbound;
mod lab;
mod lifetime;
mod nft;
mod outbound;
mod ports;
mod rejoin;
mod relay;
mod scale;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Title (with requirement ids) and what to run. A case fails by panicking.
type Case = (&'static str, fn(&lab::Lab));

const LIMIT: Duration = Duration::from_secs(400);

fn cases() -> Vec<Case> {
    [outbound::CASES, inbound::CASES, direct::CASES, lifetime::CASES, nft::CASES, ports::CASES, rejoin::CASES, scale::CASES].concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--nocapture" && a != "--quiet").collect();
    match args.first().map(String::as_str) {
        Some("--list") => {
            cases().iter().for_each(|(title, _)| println!("{title}"));
            ExitCode::SUCCESS
        }
        Some("--case") => {
            let (title, run) = cases().into_iter().find(|(title, _)| *title == args[1]).expect("a case of that title");
            let lab = lab::Lab::new(&args[2]);
            run(&lab);
            eprintln!("passed: {title}");
            ExitCode::SUCCESS
        }
        Some("--probe") => lab::probe_process(&args[1..]),
        _ => run_all(&args),
    }
}

/// Runs every case whose title holds one of the filters (all without); TAP on standard output.
fn run_all(filters: &[String]) -> ExitCode {
    let wanted: Vec<_> = cases().into_iter().filter(|(t, _)| filters.is_empty() || filters.iter().any(|f| t.contains(f.as_str()))).collect();
    println!("TAP version 13\n1..{}", wanted.len());
    let mut failed = 0;
    for (number, (title, _)) in wanted.iter().enumerate() {
        let name = format!("flk{}n{number}", std::process::id());
        let started = Instant::now();
        let outcome = run_one(title, &name);
        lab::clean_up(&name);
        let ms = started.elapsed().as_millis();
        match outcome {
            Ok(()) => println!("ok {} - {title} # time={ms}ms", number + 1),
            Err(why) => {
                failed += 1;
                println!("not ok {} - {title} # time={ms}ms", number + 1);
                why.lines().for_each(|line| println!("# {line}"));
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(title: &str, name: &str) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(own)
        .args(["--case", title, name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || stderr.map(|s| std::io::read_to_string(s).unwrap_or_default()).unwrap_or_default());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if started.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no end after {LIMIT:?}\n{}", reader.join().unwrap_or_default()));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = reader.join().unwrap_or_default();
    if status.success() { Ok(()) } else { Err(format!("{status}\n{text}")) }
}
