//! One call of the plugin from its command to what is printed. ADD refuses rather than let a pod start that may belong to the mesh;
//! DEL, GC and STATUS never fail for want of an agent, so that pods can always end and a node stays ready while its agent restarts.
use serde_json::json;

use crate::agent::{Agent, question};
use crate::call::{self, Attachment, Command, Environment};
use crate::config::{self, Config, DEFAULT_VERSION, VERSIONS};
use crate::fault::{Code, Fault};

/// What is printed, and whether the call was good. `note` goes to standard error: for people who look, never for the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub good: bool,
    pub output: String,
    pub note: String,
}

impl Done {
    fn good(output: impl Into<String>) -> Self {
        Self { good: true, output: output.into(), note: String::new() }
    }
    fn noted(note: String) -> Self {
        Self { good: true, output: String::new(), note }
    }
    fn bad(fault: &Fault, version: &str) -> Self {
        Self { good: false, output: fault.to_json(version), note: String::new() }
    }
}

/// Standard input could not be read.
pub fn unreadable(error: &std::io::Error) -> Done {
    Done::bad(&Fault::new(Code::Io, "standard input could not be read", error.to_string()), DEFAULT_VERSION)
}

/// Answers the runtime's call.
pub fn run(env: Environment, input: &[u8], agent: &dyn Agent) -> Done {
    let command = match call::command(env) {
        Ok(command) => command,
        Err(fault) => return Done::bad(&fault, &config::version_of(input)),
    };
    let answered = match command {
        Command::Version => return Done::good(version(input)),
        Command::Add => add(env, input, agent).map(Done::good),
        Command::Check => check(env, input, agent).map(|()| Done::good("")),
        // What is broken is told by ADD; here it would only keep pods from ending.
        Command::Del => return del(env, input, agent),
        Command::Gc => return tell(Config::parse(input), agent, Command::Gc, None),
        Command::Status => Config::parse(input).map(|_| Done::good("")),
    };
    answered.unwrap_or_else(|fault| Done::bad(&fault, &config::version_of(input)))
}

fn version(input: &[u8]) -> String {
    format!("{}\n", json!({ "cniVersion": config::version_of(input), "supportedVersions": VERSIONS }))
}

fn is_excluded(config: &Config, about: &Attachment) -> bool {
    about.pod.as_ref().is_none_or(|pod| config.excluded_namespaces.contains(&pod.namespace))
}

/// The result of the plugins before, as it came, once the agent says that the pod may start.
fn add(env: Environment, input: &[u8], agent: &dyn Agent) -> Result<String, Fault> {
    let config = Config::parse(input)?;
    let about = call::attachment(env, true)?;
    let Some(result) = config.prev_result.clone() else {
        return Err(Fault::field("prevResult", "is missing: this plugin stands after another one in its list"));
    };
    if !is_excluded(&config, &about) {
        agent.ask(&config, &question(Command::Add, &config, Some(&about)), config.agent_wait_ms)?;
    }
    Ok(format!("{result}\n"))
}

fn check(env: Environment, input: &[u8], agent: &dyn Agent) -> Result<(), Fault> {
    let config = Config::parse(input)?;
    let about = call::attachment(env, true)?;
    if config.prev_result.is_none() {
        return Err(Fault::field("prevResult", "is missing"));
    }
    if !is_excluded(&config, &about) {
        agent.ask(&config, &question(Command::Check, &config, Some(&about)), 0)?;
    }
    Ok(())
}

fn del(env: Environment, input: &[u8], agent: &dyn Agent) -> Done {
    let about = match call::attachment(env, false) {
        Ok(about) => about,
        Err(fault) => return Done::noted(format!("{}; {}", fault.msg, fault.details)),
    };
    tell(Config::parse(input), agent, Command::Del, Some(&about))
}

/// Tells the agent; one that is away finds out by itself when it is back.
fn tell(config: Result<Config, Fault>, agent: &dyn Agent, command: Command, about: Option<&Attachment>) -> Done {
    let asked = config.and_then(|config| {
        if about.is_some_and(|about| is_excluded(&config, about)) {
            return Ok(String::new());
        }
        let short = Config { answer_ms: config.answer_ms.min(TELL_MS), ..config.clone() };
        agent.ask(&short, &question(command, &config, about), 0)
    });
    match asked {
        Ok(_) => Done::good(""),
        Err(fault) => Done::noted(format!("{}; {}", fault.msg, fault.details)),
    }
}

/// A pod's end waits no longer than this for an agent that hangs.
const TELL_MS: u64 = 3_000;
