//! Answers of TypeScript as the workers use them: plans (outbound), verdicts (inbound), waiting rules (peer).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use serde::Deserialize;
use serde_json::Value;

use super::places;
use super::shared::Limit;
use crate::reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mode {
    #[serde(rename = "fairlead/1")]
    Fairlead,
    #[serde(rename = "hbone")]
    Hbone,
    #[serde(rename = "plain")]
    Plain,
    #[serde(rename = "local")]
    Local,
}

impl Mode {
    pub fn text(self) -> &'static str {
        match self {
            Mode::Fairlead => "fairlead/1",
            Mode::Hbone => "hbone",
            Mode::Plain => "plain",
            Mode::Local => "local",
        }
    }
}

#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub mode: Mode,
    pub identities: Arc<[String]>,
    pub pod: Option<String>,
    pub verdict: u32,
    pub tunnel_address: Option<SocketAddr>,
    weight: i64,
    /// Smooth weighted round robin (the running score of this endpoint).
    score: AtomicI64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Forward,
    Refuse { reason: Reason, policy: String },
    Handover(Handover),
}

/// What becomes of a connection for the HTTP lane whose first bytes are not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Opaque {
    Forward,
    Refuse,
}

/// To which data thread a connection goes. Without `opaque` its first bytes are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    pub thread: u32,
    pub opaque: Option<Opaque>,
    pub detect_ms: u64,
}

pub struct Plan {
    pub id: u32,
    pub action: Action,
    pub identity: Option<Arc<str>>,
    pub service: Option<String>,
    pub endpoints: Vec<Endpoint>,
    pub limits: places::Wire,
    /// Of its connections, all workers together; set when the plan is kept.
    pub limit: Option<Arc<Limit>>,
}

#[derive(Clone, Debug)]
pub struct Verdict {
    pub id: u32,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// Whether the source is known to speak the tunnel.
    pub speaker: bool,
    pub strict: bool,
    pub wait_ms: u64,
}

/// An answer with what governs its use: the generation it was made for and whether it may be kept.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub generation: u64,
    pub cache: bool,
}

#[derive(Deserialize)]
struct Address {
    ip: IpAddr,
    port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    ip: IpAddr,
    port: u16,
    mode: Mode,
    #[serde(default)]
    identities: Vec<String>,
    pod: Option<String>,
    #[serde(default)]
    verdict_id: u32,
    tunnel_address: Option<Address>,
    weight: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    plan_id: u32,
    #[serde(default)]
    verdict_id: u32,
    #[serde(default)]
    generation: u64,
    cache: Option<bool>,
    #[serde(default)]
    action: String,
    reason: Option<String>,
    policy: Option<String>,
    identity: Option<String>,
    service: Option<String>,
    #[serde(default)]
    endpoints: Vec<WireEndpoint>,
    thread: Option<u32>,
    opaque: Option<Opaque>,
    detect_ms: Option<u64>,
    speaker: Option<bool>,
    mode: Option<String>,
    wait_ms: Option<u64>,
    #[serde(default)]
    limits: places::Wire,
}

fn action(wire: &Wire) -> Result<Action, String> {
    match wire.action.as_str() {
        "forward" => Ok(Action::Forward),
        "handover" => {
            let thread = wire.thread.unwrap_or(0);
            Ok(Action::Handover(Handover { thread, opaque: wire.opaque, detect_ms: wire.detect_ms.unwrap_or(0) }))
        }
        "refuse" => Ok(Action::Refuse {
            reason: wire.reason.as_deref().and_then(Reason::parse).unwrap_or(Reason::PolicyDenied),
            policy: wire.policy.clone().unwrap_or_default(),
        }),
        other => Err(format!("answer.action is {other:?}: use forward, refuse or handover")),
    }
}

fn wire(answer: &Value) -> Result<Wire, String> {
    Wire::deserialize(answer).map_err(|e| format!("answer: {e}"))
}

impl Plan {
    pub fn parse(answer: &Value) -> Result<Answer<Plan>, String> {
        let wire = wire(answer)?;
        let action = action(&wire)?;
        let endpoints = wire.endpoints.into_iter().map(|e| Endpoint {
            address: SocketAddr::new(e.ip.to_canonical(), e.port),
            mode: e.mode,
            identities: e.identities.into(),
            pod: e.pod,
            verdict: e.verdict_id,
            tunnel_address: e.tunnel_address.map(|a| SocketAddr::new(a.ip.to_canonical(), a.port)),
            weight: i64::from(e.weight.unwrap_or(1)),
            score: AtomicI64::new(0),
        });
        let endpoints = endpoints.collect();
        let plan = Plan {
            id: wire.plan_id,
            action,
            identity: wire.identity.map(Into::into),
            service: wire.service,
            endpoints,
            limits: wire.limits,
            limit: None,
        };
        Ok(Answer { value: plan, generation: wire.generation, cache: wire.cache.unwrap_or(true) })
    }

    /// Next endpoint, leaving out those already tried. First the one that the connect hook has `chosen`: it took an endpoint for
    /// every connection and sent those of this node on their way itself, so a second pick here would give this node's endpoints
    /// more than their share. Then by smooth weighted round robin; weight 0 is a last resort. After a tunnel that failed no plain
    /// one is left: who can break tunnels must not be able to turn them into plaintext (rule DP-9).
    pub fn pick(&self, tried: &[u16], chosen: Option<SocketAddr>) -> Option<u16> {
        if let Some(chosen) = chosen.filter(|_| tried.is_empty())
            && let Some(i) = self.endpoints.iter().position(|e| e.address == chosen)
        {
            return Some(i as u16);
        }
        let secret = tried.iter().any(|i| matches!(self.endpoints[usize::from(*i)].mode, Mode::Fairlead | Mode::Hbone));
        let open = |i: usize| !(tried.contains(&(i as u16)) || secret && self.endpoints[i].mode == Mode::Plain);
        let total: i64 = self.endpoints.iter().enumerate().filter(|(i, _)| open(*i)).map(|(_, e)| e.weight).sum();
        let mut best: Option<usize> = None;
        for (i, e) in self.endpoints.iter().enumerate().filter(|(i, _)| open(*i)) {
            let score = e.score.fetch_add(e.weight, Relaxed) + e.weight;
            if best.is_none_or(|b| score > self.endpoints[b].score.load(Relaxed)) {
                best = Some(i);
            }
        }
        let best = best?;
        self.endpoints[best].score.fetch_sub(total, Relaxed);
        Some(best as u16)
    }
}

impl Verdict {
    pub fn parse(answer: &Value) -> Result<Answer<Verdict>, String> {
        let wire = wire(answer)?;
        let verdict = Verdict { id: wire.verdict_id, action: action(&wire)? };
        Ok(Answer { value: verdict, generation: wire.generation, cache: wire.cache.unwrap_or(true) })
    }
}

impl PeerRule {
    pub fn parse(answer: &Value) -> Result<Answer<PeerRule>, String> {
        let wire = wire(answer)?;
        let rule =
            PeerRule { speaker: wire.speaker.unwrap_or(false), strict: wire.mode.as_deref() == Some("strict"), wait_ms: wire.wait_ms.unwrap_or(0) };
        Ok(Answer { value: rule, generation: wire.generation, cache: wire.cache.unwrap_or(true) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(weights: &[u32]) -> Plan {
        let endpoints: Vec<_> = weights.iter().map(|w| json!({"ip": "10.0.0.1", "port": 80, "mode": "plain", "weight": w})).collect();
        Plan::parse(&json!({"planId": 3, "action": "forward", "endpoints": endpoints})).unwrap().value
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let p = plan(&[3, 1]);
        let picks: Vec<_> = (0..8).map(|_| p.pick(&[], None).unwrap()).collect();
        assert_eq!(picks.iter().filter(|i| **i == 0).count(), 6);
        assert!(!picks.windows(4).any(|w| w.iter().all(|i| *i == 0)));
    }

    #[test]
    fn each_other_endpoint_once() {
        let p = plan(&[1, 1, 0]);
        let mut tried = Vec::new();
        while let Some(i) = p.pick(&tried, None) {
            tried.push(i);
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
    }

    #[test]
    fn what_the_connect_hook_chose_is_taken_first_and_only_if_the_plan_has_it() {
        let endpoints: Vec<_> = (1..4).map(|i| json!({"ip": format!("10.0.0.{i}"), "port": 80, "mode": "plain"})).collect();
        let p = Plan::parse(&json!({"planId": 3, "action": "forward", "endpoints": endpoints})).unwrap().value;
        let chosen = Some("10.0.0.3:80".parse().unwrap());
        assert!((0..5).all(|_| p.pick(&[], chosen) == Some(2)));
        assert_eq!([p.pick(&[2], chosen), p.pick(&[2], chosen)], [Some(0), Some(1)], "what failed is not taken again");
        assert!(p.pick(&[], Some("10.0.0.9:80".parse().unwrap())).is_some(), "an endpoint that has gone since");
    }

    #[test]
    fn a_refusal_names_reason_and_policy() {
        let a =
            Verdict::parse(&json!({"verdictId": 9, "generation": 4, "action": "refuse", "reason": "plaintext_refused", "policy": "a/b"})).unwrap();
        assert_eq!(a.value.action, Action::Refuse { reason: Reason::PlaintextRefused, policy: "a/b".into() });
        assert!(a.cache && a.generation == 4);
        assert!(Verdict::parse(&json!({"action": "perhaps"})).is_err());
    }
}
