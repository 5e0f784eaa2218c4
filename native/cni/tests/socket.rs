//! The plugin and a socket: whoever listens there, whatever it says, there is an answer within its time.
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fairlead_cni::agent::{Agent, Answer, MAX_MESSAGE_BYTES, UnixAgent};
use fairlead_cni::config::Config;
use fairlead_cni::fault::Code;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Self(std::env::temp_dir().join(format!("fairlead-cni-{}-{name}.sock", std::process::id())));
        let _ = std::fs::remove_file(&place.0);
        place
    }
    fn listen(&self) -> UnixListener {
        UnixListener::bind(&self.0).expect("a socket")
    }
    fn ask(&self, answer_ms: u64, wait_ms: u64) -> Answer {
        let socket = self.0.to_str().expect("a path").to_owned();
        let config = Config {
            cni_version: "1.0.0".into(),
            prev_result: None,
            addresses: Vec::new(),
            socket,
            excluded_namespaces: Vec::new(),
            agent_wait_ms: 0,
            answer_ms,
        };
        UnixAgent.ask(&config, "the question", wait_ms)
    }
}
impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn hear(stream: &mut UnixStream) -> Vec<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("a length");
    let mut question = vec![0; u32::from_le_bytes(head) as usize];
    stream.read_exact(&mut question).expect("a question");
    question
}

fn say(stream: &mut UnixStream, text: &str) {
    let size = u32::try_from(text.len()).expect("small").to_le_bytes();
    stream.write_all(&[&size, text.as_bytes()].concat()).expect("written");
}

const YES: &str = r#"{"version":1,"outcome":"ok","reason":"yes"}"#;

#[test]
#[doc = "[INT-11] the question arrives whole, the answer comes back"]
fn answered() {
    let place = Place::new("answered");
    let listener = place.listen();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("asked");
        let question = hear(&mut stream);
        say(&mut stream, YES);
        question
    });
    assert_eq!(place.ask(60_000, 0), Ok("yes".into()));
    assert_eq!(agent.join().expect("no panic"), b"the question");
}

#[test]
#[doc = "[DP-22] an agent that is not there is told as such; one that comes, or dies over a question and comes back, is waited for"]
fn waited_for() {
    let place = Place::new("waited");
    let fault = place.ask(60_000, 0).expect_err("nobody is there");
    assert_eq!(fault.code, Code::TryAgain);
    assert!(fault.msg.contains("FAIRLEAD_AGENT_AWAY") && fault.details.contains("No such file"), "{fault:?}");
    let path = place.0.clone();
    let agent = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        let listener = UnixListener::bind(&path).expect("a socket");
        hear(&mut listener.accept().expect("asked").0);
        let (mut busy, _) = listener.accept().expect("asked again");
        hear(&mut busy);
        say(&mut busy, r#"{"version":1,"outcome":"failed","message":"not yet","retry":true}"#);
        let (mut stream, _) = listener.accept().expect("and again");
        hear(&mut stream);
        say(&mut stream, YES);
    });
    assert_eq!(place.ask(60_000, 60_000), Ok("yes".into()));
    agent.join().expect("no panic");
}

#[test]
#[doc = "[DP-22] an agent that takes the question and says nothing, or more than may be, holds nobody up"]
fn bounded() {
    let place = Place::new("bounded");
    let listener = place.listen();
    let began = Instant::now();
    let fault = place.ask(200, 100).expect_err("no answer");
    assert_eq!(fault.code, Code::TryAgain);
    assert!(began.elapsed() < Duration::from_secs(30));
    // What connected before has gone; the next one is told a length that nobody reads.
    let agent = thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().expect("asked");
            hear(&mut stream);
            let _ = stream.write_all(&(MAX_MESSAGE_BYTES as u32 + 1).to_le_bytes());
        }
    });
    let fault = place.ask(60_000, 0).expect_err("too long");
    assert!(fault.details.contains("more than 65536 bytes"), "{fault:?}");
    assert!(!agent.is_finished());
}
