//! The node's agent: one question and one answer over a unix socket, each `u32 little-endian length | JSON`. The agent's side and the
//! fields are agent/cni/protocol.ts.
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::call::{Attachment, Command};
use crate::config::Config;
use crate::fault::{Code, Fault};

pub const PROTOCOL: u64 = 1;
/// Of either side's message.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Between two questions about a pod that the agent cannot enrol yet.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two looks whether the agent listens again.
const LOOK: Duration = Duration::from_millis(50);

/// What the agent said: `Ok` with its reason, for people.
pub type Answer = Result<String, Fault>;

/// Whoever answers: the agent behind a socket, or in tests something that plays it.
pub trait Agent {
    /// `wait_ms` is how long an agent that does not listen is waited for.
    fn ask(&self, config: &Config, question: &str, wait_ms: u64) -> Answer;
}

/// The question in the agent's words.
pub fn question(command: Command, config: &Config, about: Option<&Attachment>) -> String {
    let mut object = json!({ "version": PROTOCOL, "command": command.word() });
    if let Some(Attachment { container, netns, interface, pod: Some(pod) }) = about {
        object["containerId"] = json!(container);
        object["netns"] = json!(netns);
        // The agent sees namespaces from elsewhere: by this it knows that its path is the same one. 0: it has gone already.
        object["netnsInode"] = json!(std::fs::metadata(netns).map_or(0, |m| m.ino()));
        object["interface"] = json!(interface);
        object["namespace"] = json!(pod.namespace);
        object["name"] = json!(pod.name);
        object["uid"] = json!(pod.uid);
        object["addresses"] = json!(config.addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    object.to_string()
}

/// What an answer means. Bytes of another program or version are a fault that says so.
pub fn read_answer(bytes: &[u8]) -> Answer {
    let strange = |why: &str| Fault::new(Code::Protocol, "the agent on this node gave no answer that this plugin knows", why);
    let value: Value = serde_json::from_slice(bytes).map_err(|e| strange(&e.to_string()))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    if value.get("version").and_then(Value::as_u64) != Some(PROTOCOL) {
        return Err(strange(&format!("version: {}, not {PROTOCOL}", value.get("version").unwrap_or(&Value::Null))));
    }
    match text("outcome") {
        Some("ok") => Ok(text("reason").unwrap_or_default().to_owned()),
        Some("failed") => {
            let Some(message) = text("message") else { return Err(strange("message: is missing")) };
            let again = value.get("retry").and_then(Value::as_bool) == Some(true);
            Err(Fault::new(if again { Code::TryAgain } else { Code::Refused }, message, text("code").unwrap_or_default()))
        }
        _ => Err(strange("outcome: is neither ok nor failed")),
    }
}

/// The agent of this node.
pub struct UnixAgent;

impl Agent for UnixAgent {
    fn ask(&self, config: &Config, question: &str, wait_ms: u64) -> Answer {
        let (socket, question) = (config.socket.clone(), question.to_owned());
        let (send, receive) = mpsc::channel();
        let until = Instant::now() + Duration::from_millis(wait_ms);
        let answer = Duration::from_millis(config.answer_ms.max(1));
        // On a thread of its own: a connect to a full queue has no end, and the process ends with its first thread.
        thread::spawn(move || send.send(patient(&socket, &question, until, answer)));
        let longest = Duration::from_millis(wait_ms) + answer;
        let late = || Err(away(&config.socket, &format!("no answer within {} ms", longest.as_millis())));
        receive.recv_timeout(longest).unwrap_or_else(|_| late())
    }
}

/// The sentence that `kubectl describe pod` shows.
fn away(socket: &str, why: &str) -> Fault {
    let msg = "the agent on this node is not answering; pods of meshed namespaces wait for it (FAIRLEAD_AGENT_AWAY)";
    Fault::new(Code::TryAgain, msg, format!("{socket}: {why}"))
}

/// Asks until the answer is one that stands, or the time is over: an agent may be restarting, or about to hear of the pod, and kubelet's
/// own next try comes ten seconds later. A question may be asked twice: a successor knows nothing of those to an agent that died over them.
fn patient(path: &str, question: &str, until: Instant, answer: Duration) -> Answer {
    loop {
        let (said, pause) = match once(path, question, answer) {
            Ok(bytes) => (read_answer(&bytes), AGAIN),
            Err(error) => (Err(away(path, &error.to_string())), LOOK),
        };
        match said {
            Err(fault) if fault.code == Code::TryAgain && Instant::now() < until => thread::sleep(pause),
            stands => return stands,
        }
    }
}

fn once(path: &str, question: &str, answer: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(answer))?;
    stream.set_write_timeout(Some(answer))?;
    let too_long = |what: &str| Error::new(ErrorKind::InvalidData, format!("{what} of more than {MAX_MESSAGE_BYTES} bytes"));
    let size = u32::try_from(question.len()).ok().filter(|n| *n as usize <= MAX_MESSAGE_BYTES);
    let size = size.ok_or_else(|| too_long("a question"))?;
    stream.write_all(&[&size.to_le_bytes()[..], question.as_bytes()].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let size = u32::from_le_bytes(head) as usize;
    if size > MAX_MESSAGE_BYTES {
        return Err(too_long("an answer"));
    }
    let mut bytes = vec![0; size];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
