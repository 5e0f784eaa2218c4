//! The configuration on standard input: what the runtime adds to the plugin's entry of the list, and the entry itself. Every field of
//! ours is checked, and one that is not known is refused: a misspelt exclusion must not go unseen.
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::fault::{Code, Fault};

/// Real ones have a few kilobytes; the result of the plugins before is part of it.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Those whose results are chained: before 0.3.0 they had another form.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
pub const DEFAULT_VERSION: &str = "1.0.0";
const DEFAULT_SOCKET: &str = "/run/fairlead/cni.sock";
/// An agent that is being restarted is back within this; kubelet's own next try would come ten seconds later.
const DEFAULT_AGENT_WAIT_MS: u64 = 5_000;
const DEFAULT_ANSWER_MS: u64 = 30_000;
const MAX_WAIT_MS: u64 = 110_000;
/// Fields of the specification, and of runtimes.
const FOREIGN: [&str; 11] =
    ["cniVersion", "cniVersions", "name", "type", "args", "capabilities", "dns", "ipam", "ipMasq", "runtimeConfig", "prevResult"];
const MAX_NAMESPACES: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub cni_version: String,
    /// As it came: it is passed on without a change.
    pub prev_result: Option<String>,
    /// Addresses out of `prev_result`.
    pub addresses: Vec<IpAddr>,
    pub socket: String,
    /// Pods of these start without an agent.
    pub excluded_namespaces: Vec<String>,
    /// How long an agent that does not listen is waited for.
    pub agent_wait_ms: u64,
    pub answer_ms: u64,
}

/// The fields of an object as they stand; a name that comes twice is refused, since readers differ about which of them counts.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("field {name:?} comes twice")));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

impl Config {
    /// Parses what came on standard input.
    pub fn parse(input: &[u8]) -> Result<Self, Fault> {
        if input.len() > MAX_CONFIG_BYTES {
            return Err(Fault::new(Code::NotDecodable, format!("the configuration is longer than {MAX_CONFIG_BYTES} bytes"), ""));
        }
        let undecodable = |e: &dyn fmt::Display| Fault::new(Code::NotDecodable, "the configuration is not a JSON object", e.to_string());
        let text = std::str::from_utf8(input).map_err(|e| undecodable(&e))?;
        let Fields(fields) = serde_json::from_str(text).map_err(|e| undecodable(&e))?;
        let own = ["socket", "excludedNamespaces", "agentWaitMs", "answerMs"];
        let unknown = |name: &&String| !name.contains("cni.dev/") && !FOREIGN.contains(&name.as_str()) && !own.contains(&name.as_str());
        if let Some(name) = fields.keys().find(unknown) {
            return Err(Fault::field(name, &format!("is not known; known are {}", own.join(", "))));
        }
        let value = |name: &str| -> Result<Value, Fault> {
            let Some(raw) = fields.get(name) else { return Ok(Value::Null) };
            serde_json::from_str(raw.get()).map_err(|e| Fault::field(name, &e.to_string()))
        };
        let cni_version = match value("cniVersion")? {
            Value::String(version) => version,
            _ => return Err(Fault::field("cniVersion", "is missing or not a string")),
        };
        if !VERSIONS.contains(&cni_version.as_str()) {
            let known = VERSIONS.join(", ");
            return Err(Fault::new(Code::IncompatibleVersion, format!("cniVersion {cni_version:?} is none of {known}"), ""));
        }
        let prev = value("prevResult")?;
        let wait = |name: &str, fallback: u64| -> Result<u64, Fault> {
            match value(name)? {
                Value::Null => Ok(fallback),
                other => other
                    .as_u64()
                    .filter(|ms| *ms <= MAX_WAIT_MS)
                    .ok_or_else(|| Fault::field(name, &format!("is not a whole number of milliseconds up to {MAX_WAIT_MS}"))),
            }
        };
        Ok(Self {
            prev_result: if prev.is_null() { None } else { fields.get("prevResult").map(|raw| raw.get().to_owned()) },
            addresses: addresses(&prev)?,
            socket: socket(&value("socket")?)?,
            excluded_namespaces: namespaces(&value("excludedNamespaces")?)?,
            agent_wait_ms: wait("agentWaitMs", DEFAULT_AGENT_WAIT_MS)?,
            answer_ms: wait("answerMs", DEFAULT_ANSWER_MS)?,
            cni_version,
        })
    }
}

/// The version that errors are told in when the configuration could not be read: the one it says, if that can be seen.
pub fn version_of(input: &[u8]) -> String {
    let said = std::str::from_utf8(input).ok().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let version = said.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str);
    version.filter(|v| VERSIONS.contains(v)).unwrap_or(DEFAULT_VERSION).to_owned()
}

/// Addresses of the pod: `ips[].address`, with the length of their network (CNI 1.0, "Add Success").
fn addresses(prev: &Value) -> Result<Vec<IpAddr>, Fault> {
    if !prev.is_null() && !prev.is_object() {
        return Err(Fault::field("prevResult", "is not an object"));
    }
    let Some(ips) = prev.get("ips").filter(|ips| !ips.is_null()) else { return Ok(Vec::new()) };
    let Some(list) = ips.as_array() else { return Err(Fault::field("prevResult.ips", "is not a list")) };
    let one = |(i, ip): (usize, &Value)| {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let (address, length) = text.split_once('/').unwrap_or((text, "0"));
        let parsed = address.parse::<IpAddr>().ok().filter(|ip| length.parse::<u8>().is_ok_and(|bits| bits <= if ip.is_ipv4() { 32 } else { 128 }));
        parsed.ok_or_else(|| Fault::field(&format!("prevResult.ips[{i}].address"), &format!("{text:?} is not an address")))
    };
    list.iter().enumerate().map(one).collect()
}

fn socket(value: &Value) -> Result<String, Fault> {
    match value {
        Value::Null => Ok(DEFAULT_SOCKET.to_owned()),
        // 107 bytes is what a unix address holds.
        Value::String(path) if path.starts_with('/') && path.len() <= 107 && !path.contains('\0') => Ok(path.clone()),
        _ => Err(Fault::field("socket", "is not an absolute path of at most 107 bytes")),
    }
}

fn namespaces(value: &Value) -> Result<Vec<String>, Fault> {
    let problem = "is not a list of at most 1000 names of namespaces";
    let Some(list) = value.as_array() else {
        return if value.is_null() { Ok(Vec::new()) } else { Err(Fault::field("excludedNamespaces", problem)) };
    };
    if list.len() > MAX_NAMESPACES {
        return Err(Fault::field("excludedNamespaces", problem));
    }
    let one = |(i, name): (usize, &Value)| match name.as_str().filter(|name| is_label(name)) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Fault::field(&format!("excludedNamespaces[{i}]"), "is not the name of a namespace")),
    };
    list.iter().enumerate().map(one).collect()
}

/// RFC 1123 label, as namespaces are named.
pub fn is_label(text: &str) -> bool {
    let inside = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if inside(*first) && inside(*last))
        && bytes.len() <= 63
        && bytes.iter().all(|c| inside(*c) || *c == b'-')
}
