//! The HBONE side inside the agent: started when first needed, its records and refusals on the channel, its rows in the
//! lists of `docs/native-channel.md`.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use serde_json::{Value, json};

use super::questions::Questions;
use super::registry::{OpenStream, OpenTunnel, locked};
use super::{Hbone, Recorder};
use crate::channel::RECORDS;
use crate::record::{Opened, Record};
use crate::relay::shared::Shared;
use crate::tls::session::Failure;

/// The running side with its questions, which the control thread answers.
pub struct HboneSide {
    pub hbone: Hbone,
    pub questions: Arc<Questions>,
}

struct Reports(Weak<Shared>);

impl Recorder for Reports {
    fn next_id(&self) -> u64 {
        self.0.upgrade().map_or(0, |s| s.connection_ids.fetch_add(1, Ordering::Relaxed))
    }

    fn opened(&self, row: &Opened) {
        if let Some(shared) = self.0.upgrade() {
            shared.channel.send(RECORDS, &row.encode(1));
        }
    }

    fn died(&self, message: &str) {
        if let Some(shared) = self.0.upgrade() {
            shared.counters.add("worker_died", 1);
            shared.event("worker_died", json!({"worker": "hbone", "message": message, "restarted": false}));
        }
    }

    fn ended(&self, record: &Record) {
        let Some(shared) = self.0.upgrade() else { return };
        if !shared.channel.send(RECORDS, &record.encode()) {
            shared.counters.add("records_lost", 1);
        }
    }

    fn refused(&self, inbound: bool, pod: &str, source: SocketAddr, destination: SocketAddr, failure: &Failure) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.counters.add(failure.reason.text(), 1);
        shared.event(
            "refused",
            json!({
                "direction": if inbound { "inbound" } else { "outbound" }, "pod": pod, "tunnel": "hbone",
                "source": {"ip": source.ip(), "port": source.port()}, "destination": {"ip": destination.ip(), "port": destination.port()},
                "expected": failure.expected, "got": failure.got, "reason": failure.reason.text(), "detail": failure.text,
            }),
        );
    }
}

impl HboneSide {
    /// Starts it; the error is for the log, connections that needed it are refused.
    pub fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let questions = Arc::new(Questions::new(Arc::downgrade(shared)));
        let reports = Arc::new(Reports(Arc::downgrade(shared)));
        let (hbone, _thread) = Hbone::start((&shared.config).into(), shared.identities.clone(), questions.clone(), reports, shared.threads.clone())?;
        Ok(Self { hbone, questions })
    }

    /// Rows of `connections.list`.
    pub fn connections(&self) -> Vec<Value> {
        self.hbone.registry().streams().iter().map(|s| connection(s)).collect()
    }

    /// How many of them are a pod's.
    pub fn open_connections(&self, pod: &str) -> usize {
        self.hbone.registry().streams().iter().filter(|s| &*s.pod == pod).count()
    }

    /// Rows of `tunnels.list`.
    pub fn tunnels(&self) -> Vec<Value> {
        self.hbone.registry().tunnels().iter().map(|t| tunnel(t)).collect()
    }
}

fn connection(s: &OpenStream) -> Value {
    let (sent, received) = s.bytes();
    json!({
        "id": s.id, "direction": if s.inbound { "inbound" } else { "outbound" }, "lane": "hbone", "pod": s.pod,
        "source": s.source.to_string(), "destination": s.destination.to_string(), "upstream": locked(&s.upstream).map(|u| u.to_string()),
        "planId": s.plan, "verdictId": s.verdict.load(Ordering::Relaxed), "endpoint": s.endpoint.load(Ordering::Relaxed),
        "identity": locked(&s.peer).as_deref(), "sent": sent, "received": received, "startedMs": s.started_ms,
    })
}

fn tunnel(t: &OpenTunnel) -> Value {
    let open = t.streams.load(Ordering::Relaxed);
    json!({
        "id": t.id, "direction": if t.inbound { "inbound" } else { "outbound" }, "pod": t.pod, "protocol": "hbone",
        "source": if t.inbound { t.source.to_string() } else { t.source.ip().to_string() }, "destination": t.destination.to_string(),
        "identity": &*t.identity, "peer": &*t.peer, "streams": t.carried.load(Ordering::Relaxed), "open": open,
        "ageMs": t.opened.elapsed().as_millis() as u64, "idle": open == 0, "draining": t.draining(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use tokio::runtime::Builder;

    use super::*;
    use crate::control::tests::{events, started};
    use crate::hbone::registry::{Facts, Registry};
    use crate::hbone::watched;
    use crate::reason::Reason;

    #[test]
    #[doc = "[INT-14] an HBONE thread that panics resets what it carried, is counted and told of, and none takes its place"]
    fn death_resets_and_is_told() {
        let side = started();
        let reports = Reports(Arc::downgrade(&side.shared));
        let (registry, any) = (Registry::default(), "10.1.2.3:80".parse().unwrap());
        let (pod, started) = ("shop/client".to_owned(), Instant::now());
        let stream = registry.open(Facts { id: 1, inbound: false, pod, cookie: 7, source: any, destination: any, plan: 0, protocol: 0, started });
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let ended = Arc::new(Mutex::new(None));
        let seen = ended.clone();
        runtime.spawn(async move { *seen.lock().unwrap() = Some(stream.killed().await) });
        watched(&runtime, &registry, &reports, async { panic!("a bug on demand") });
        assert_eq!(*ended.lock().unwrap(), Some(Reason::WorkerDied), "before the death is told");
        assert_eq!(side.shared.counters.get("worker_died"), 1);
        side.shared.channel.close();
        let deaths: Vec<_> = events(&side.agent).into_iter().filter(|e| e["event"] == "worker_died").collect();
        assert_eq!(deaths, [json!({"event": "worker_died", "worker": "hbone", "message": "a bug on demand", "restarted": false})]);
    }
}
