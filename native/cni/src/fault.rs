//! What goes wrong, as CNI wants it told: a code of the specification ("Error"), a sentence, and what else is known.
use serde_json::json;

/// Codes of CNI 1.1, section "Error"; from 100 on they are the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Io = 5,
    NotDecodable = 6,
    InvalidConfig = 7,
    /// The runtime asks again.
    TryAgain = 11,
    /// The agent refused for good.
    Refused = 101,
    /// The agent's answer is not one: another program listens there, or another version.
    Protocol = 102,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub msg: String,
    pub details: String,
}

impl Fault {
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: format!("fairlead: {}", msg.into()), details: details.into() }
    }

    /// A field of the configuration, and what is wrong with it.
    pub fn field(name: &str, problem: &str) -> Self {
        Self::new(Code::InvalidConfig, format!("configuration of the plugin: {name}: {problem}"), "")
    }

    /// The object that the runtime reads; `details` only if there are any.
    pub fn to_json(&self, cni_version: &str) -> String {
        let mut object = json!({ "cniVersion": cni_version, "code": self.code as u32, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        format!("{object}\n")
    }
}
