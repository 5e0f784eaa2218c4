//! The probe as a kubelet runs it, against a socket that answers as an agent's does.
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Agent {
    folder: PathBuf,
}

impl Agent {
    /// Answers each request by its path.
    fn start(name: &str, answer: fn(&str) -> (u16, String)) -> Agent {
        let folder = std::env::temp_dir().join(format!("fairlead-probe-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let agent = Agent { folder };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = Vec::new();
                let mut byte = [0u8; 1];
                while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    asked.push(byte[0]);
                }
                let asked = String::from_utf8(asked).unwrap();
                let (status, body) = answer(asked.split(' ').nth(1).unwrap());
                let _ = write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n{body}");
            }
        });
        agent
    }
    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }
    fn probe(&self, word: &str) -> (Option<i32>, String) {
        run(word, &self.socket())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(word: &str, socket: &std::path::Path) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_fairlead-probe")).arg(word).env("FAIRLEAD_ADMIN_SOCKET", socket).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn ours(path: &str) -> (u16, String) {
    match path {
        "/v1/status" => (200, format!("{{\"node\":\"n1\",\"pid\":{}}}", std::process::id())),
        "/readyz" | "/healthz" => (200, "ok".into()),
        _ => (404, String::new()),
    }
}

#[test]
fn the_agent_of_this_container_is_ready_and_alive() {
    let agent = Agent::start("ours", ours);
    assert_eq!(agent.probe("ready"), (Some(0), String::new()));
    assert_eq!(agent.probe("alive"), (Some(0), String::new()));
}

#[test]
fn an_agent_with_other_mounts_or_none_is_alive_and_not_ready() {
    // No such process: as one that has ended, or is of another container's process namespace.
    let agent = Agent::start("other", |path| match path {
        "/v1/status" => (200, "{\"pid\":4194305}".into()),
        other => ours(other),
    });
    let (code, said) = agent.probe("ready");
    assert_eq!((code, said.contains("process 4194305 answers, which is the agent of another container")), (Some(1), true));
    assert_eq!(agent.probe("alive").0, Some(0));
}

#[test]
fn what_is_not_ready_says_why() {
    let agent = Agent::start("starting", |path| match path {
        "/readyz" => (503, "starting: no controller yet".into()),
        other => ours(other),
    });
    let (code, said) = agent.probe("ready");
    assert_eq!((code, said.contains("/readyz answers 503 starting: no controller yet")), (Some(1), true));
}

#[test]
fn nobody_who_listens_nonsense_and_wrong_use_are_failures() {
    let (code, said) = run("alive", std::path::Path::new("/nonexistent/agent.sock"));
    assert_eq!((code, said.contains("/nonexistent/agent.sock: No such file or directory")), (Some(1), true));
    let agent = Agent::start("nonsense", |path| match path {
        "/v1/status" => (200, "{".into()),
        other => ours(other),
    });
    let (code, said) = agent.probe("ready");
    assert_eq!((code, said.contains("the status is no JSON")), (Some(1), true));
    assert_eq!(agent.probe("cheerful").0, Some(2));
}
