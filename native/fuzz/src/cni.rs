//! The CNI plugin: what the runtime says (CNI_ARGS up to the first zero byte, then standard input), and the agent's answers.

use fairlead_cni::agent::{Agent, Answer, read_answer};
use fairlead_cni::config::Config;
use fairlead_cni::plugin::run;
use serde_json::Value;

/// Says what the input says, so that both ways through ADD are met.
struct Played<'a>(&'a [u8]);

impl Agent for Played<'_> {
    fn ask(&self, _config: &Config, question: &str, _wait_ms: u64) -> Answer {
        assert!(serde_json::from_str::<Value>(question).is_ok_and(|v| v["version"] == 1));
        read_answer(self.0)
    }
}

pub fn plugin(data: &[u8]) {
    let (args, input) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(0));
    let input = input.strip_prefix(&[0]).unwrap_or(input);
    let args = String::from_utf8_lossy(args).into_owned();
    let agent = Played(input);
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        let env = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some("c0ffee".to_owned()),
            "CNI_NETNS" => Some("/nonexistent/netns".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_ARGS" => Some(args.clone()),
            _ => None,
        };
        let done = run(&env, input, &agent);
        let said: Option<Value> = serde_json::from_str(&done.output).ok();
        assert!(done.output.is_empty() || said.is_some(), "{command} says what is no JSON");
        assert!(done.good || matches!(command, "ADD" | "CHECK" | "STATUS"), "{command} failed");
        assert!(done.good || said.is_some_and(|v| v["code"].is_u64() && v["msg"].is_string()), "{command}: no code");
    }
}
