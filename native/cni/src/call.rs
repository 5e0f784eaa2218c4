//! What the runtime asks by environment (CNI 1.1, "Parameters"): command, container, namespace, interface, and the pod in CNI_ARGS.
use crate::config::is_label;
use crate::fault::{Code, Fault};

pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Version,
    Gc,
    Status,
}

impl Command {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "VERSION" => Self::Version,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            _ => return None,
        })
    }

    /// The word that the agent knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "del",
            Self::Check => "check",
            Self::Version => "version",
            Self::Gc => "gc",
            Self::Status => "status",
        }
    }
}

/// The pod as Kubernetes' runtimes name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub container: String,
    /// Path of the network namespace; empty at DEL after it has gone.
    pub netns: String,
    pub interface: String,
    /// None: the container is no pod, some other program uses the same configuration.
    pub pod: Option<Pod>,
}

/// CNI_COMMAND. VERSION needs nothing else.
pub fn command(env: Environment) -> Result<Command, Fault> {
    let text = env("CNI_COMMAND").unwrap_or_default();
    Command::parse(&text).ok_or_else(|| environment("CNI_COMMAND", &format!("{text:?} is none of ADD, DEL, CHECK, VERSION, GC, STATUS")))
}

/// What ADD, CHECK and DEL are about; only DEL may come without a namespace.
pub fn attachment(env: Environment, needs_netns: bool) -> Result<Attachment, Fault> {
    let get = |name: &str| env(name).unwrap_or_default();
    let container = get("CNI_CONTAINERID");
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !container.starts_with(|c: char| c.is_ascii_alphanumeric()) || container.len() > 256 || !container.chars().all(word) {
        return Err(environment("CNI_CONTAINERID", "is missing or not a container id"));
    }
    let netns = get("CNI_NETNS");
    if (needs_netns || !netns.is_empty()) && (!netns.starts_with('/') || netns.len() > 4096) {
        return Err(environment("CNI_NETNS", "is missing or not an absolute path"));
    }
    let interface = get("CNI_IFNAME");
    // What the kernel takes for a name: 15 bytes, no slash, colon or blank.
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if interface.is_empty() || interface.len() > 15 || interface.chars().any(bad) {
        return Err(environment("CNI_IFNAME", "is missing or not the name of an interface"));
    }
    Ok(Attachment { container, netns, interface, pod: pod(&get("CNI_ARGS"))? })
}

/// Pod out of `KEY=VALUE;...`. Keys that we do not need are others'.
pub fn pod(args: &str) -> Result<Option<Pod>, Fault> {
    let mut pod = Pod { namespace: String::new(), name: String::new(), uid: String::new() };
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(environment("CNI_ARGS", &format!("{pair:?} is not KEY=VALUE")));
        };
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
            "K8S_POD_NAME" => pod.name = value.to_owned(),
            "K8S_POD_UID" => pod.uid = value.to_owned(),
            _ => {}
        }
    }
    if pod.namespace.is_empty() && pod.name.is_empty() {
        return Ok(None);
    }
    if !is_label(&pod.namespace) {
        return Err(environment("CNI_ARGS", &format!("K8S_POD_NAMESPACE={:?} is not the name of a namespace", pod.namespace)));
    }
    // RFC 1123 subdomain, as pods are named.
    if pod.name.len() > 253 || !pod.name.split('.').all(is_label_of_any_length) {
        return Err(environment("CNI_ARGS", &format!("K8S_POD_NAME={:?} is not the name of a pod", pod.name)));
    }
    if pod.uid.len() > 128 || !pod.uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(environment("CNI_ARGS", "K8S_POD_UID is not the id of a pod"));
    }
    Ok(Some(pod))
}

/// Kubernetes bounds a name as a whole, not its parts.
fn is_label_of_any_length(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn environment(name: &str, problem: &str) -> Fault {
    Fault::new(Code::InvalidEnvironment, format!("environment of the plugin: {name}: {problem}"), "")
}
