//! Answers a kubelet's probes of the agent's container: asks the agent's admin socket. A program of its own, since it runs several
//! times a minute on every node, and Node takes a third of a second of processor time to start.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: fairlead-probe ready|alive   (asks $FAIRLEAD_ADMIN_SOCKET)";
const DEFAULT_SOCKET: &str = "/run/fairlead/agent.sock";
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status of many troubles is long; more than this is none.
const MAX_ANSWER: u64 = 1 << 20;

fn main() -> ExitCode {
    let socket = std::env::var("FAIRLEAD_ADMIN_SOCKET").unwrap_or_else(|_| DEFAULT_SOCKET.into());
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["alive"] => alive(&socket),
        ["ready"] => ready(&socket),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("fairlead-probe: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// An agent answers, be it one that has replaced this container's.
fn alive(socket: &str) -> Result<(), String> {
    expect_200(socket, "/healthz").map(|_| ())
}

/// The agent that answers is ready, and is this container's, not one that it replaces or is replaced by: it has our mounts.
fn ready(socket: &str) -> Result<(), String> {
    expect_200(socket, "/readyz")?;
    let status: serde_json::Value =
        serde_json::from_str(&expect_200(socket, "/v1/status")?).map_err(|e| format!("{socket}: the status is no JSON: {e}"))?;
    let pid = status["pid"].as_u64().ok_or_else(|| format!("{socket}: the status names no process"))?;
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
    let ours = std::fs::read_link("/proc/self/ns/mnt").map_err(|e| format!("/proc/self/ns/mnt: {e}"))?;
    match theirs {
        Ok(theirs) if theirs == ours => Ok(()),
        _ => Err(format!("process {pid} answers, which is the agent of another container")),
    }
}

fn expect_200(socket: &str, path: &str) -> Result<String, String> {
    let (status, body) = get(socket, path).map_err(|e| format!("{socket}: {e}"))?;
    if status == 200 {
        return Ok(body);
    }
    let said: String = body.trim().chars().take(500).collect();
    Err(format!("{path} answers {status} {said}"))
}

/// HTTP/1.0: the answer ends with the connection, and is not sent in chunks.
fn get(socket: &str, path: &str) -> Result<(u16, String), String> {
    let text = |e: std::io::Error| e.to_string();
    let mut stream = UnixStream::connect(socket).map_err(text)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(text)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: fairlead\r\n\r\n").as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(text)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    Ok((status, body.to_owned()))
}
