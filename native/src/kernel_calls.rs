//! The calls of the channel that go to the kernel side, and its events on their way to the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::calls::{Calls, Pods, params};
use crate::channel::RECORDS;
use crate::fault::Fault;
use crate::kernel::layout::{EventDirectClosed, socket_flag};
use crate::kernel::{EnrolRequest, EventSink, Kernel, KernelConfig, KernelEvent, Row, Tuple, socket_addr};
use crate::reason::Reason;
use crate::record::{Closer, FLAG_OPENED, Lane, Opened, Record};
use crate::relay::shared::Shared;

/// Rows given out when `map.dump` names no limit.
const DUMP_LIMIT: usize = 100_000;

#[derive(Deserialize)]
struct MapPut {
    map: String,
    entries: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct MapDelete {
    map: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct MapDump {
    map: String,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Destroy {
    pod: String,
    tuples: Vec<Tuple>,
}

fn unhex(field: &str, text: &str) -> Result<Vec<u8>, Fault> {
    let bad = || Fault::new("bad_params", format!("{field}: {text:?} is not hexadecimal"));
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad())).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn to_value(value: impl serde::Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|e| Fault::new("internal", e.to_string()))
}

fn pod_name(args: &Value) -> Result<&str, Fault> {
    args["pod"].as_str().ok_or_else(|| Fault::new("bad_params", "pod must be \"namespace/name\""))
}

impl Calls {
    fn kernel(&self) -> Result<&Kernel, Fault> {
        self.kernel.as_ref().ok_or_else(|| Fault::new("not_loaded", "programs.load has not been called, or failed"))
    }

    pub fn kernel_call(&mut self, method: &str, args: &Value) -> Result<Value, Fault> {
        match method {
            "host.probe" => to_value(Kernel::probe()),
            "programs.load" => {
                let (kernel, report) = Kernel::load(self.kernel_config(), self.pods.clone(), sink(self.shared.clone(), self.pods.clone()))?;
                self.kernel = Some(kernel);
                to_value(report)
            }
            "programs.unload" => {
                self.kernel()?.unload()?;
                self.kernel = None;
                Ok(json!({}))
            }
            "kubelet.set" => {
                let group = args["cgroup"].as_str().ok_or_else(|| Fault::new("bad_params", "cgroup must be a path, \"\" for none"))?;
                self.kernel()?.set_kubelet((!group.is_empty()).then(|| Path::new(group)))?;
                Ok(json!({}))
            }
            "map.put" => {
                let p: MapPut = params(method, args)?;
                let rows: Vec<Row> = p.entries.iter().map(|(k, v)| Ok((unhex("entries", k)?, unhex("entries", v)?))).collect::<Result<_, Fault>>()?;
                Ok(json!({"count": self.kernel()?.map_put(&p.map, &rows)?}))
            }
            "map.delete" => {
                let p: MapDelete = params(method, args)?;
                let keys: Vec<Vec<u8>> = p.keys.iter().map(|k| unhex("keys", k)).collect::<Result<_, _>>()?;
                Ok(json!({"count": self.kernel()?.map_delete(&p.map, &keys)?}))
            }
            "map.dump" => {
                let p: MapDump = params(method, args)?;
                let rows = self.kernel()?.map_dump(&p.map, p.limit.unwrap_or(DUMP_LIMIT))?;
                Ok(json!({"entries": rows.iter().map(|(k, v)| [hex(k), hex(v)]).collect::<Vec<_>>()}))
            }
            "pod.enrol" => {
                let request: EnrolRequest = params(method, args)?;
                if let Some(identity) = args["identity"].as_str() {
                    self.pods.set_identity(&request.pod, identity);
                }
                let pod = request.pod.clone();
                let enrolled = self.kernel()?.enrol(request)?;
                // A membership that was still leaving has just taken the identity with it.
                if let Some(identity) = args["identity"].as_str() {
                    self.pods.set_identity(&pod, identity);
                }
                to_value(enrolled)
            }
            "pod.unenrol" => {
                self.kernel()?.unenrol(pod_name(args)?, args["drainMs"].as_u64().unwrap_or(0))?;
                self.pods.forget(pod_name(args)?);
                Ok(json!({}))
            }
            "pod.unfinished" => {
                let pod = pod_name(args)?;
                Ok(json!({"connections": self.open_connections(pod)?, "sockets": self.kernel()?.busy_sockets(pod)?}))
            }
            "pod.gone" => {
                let closed = self.kernel()?.pod_gone(pod_name(args)?)?;
                self.pods.forget(pod_name(args)?);
                Ok(json!({"closed": closed}))
            }
            "sockets.destroy" => {
                let p: Destroy = params(method, args)?;
                Ok(json!({"count": self.kernel()?.destroy_sockets(&p.pod, &p.tuples)?}))
            }
            _ => Err(Fault::new("unknown_method", format!("{method}: this library does not know the call; build both halves from one version"))),
        }
    }

    fn kernel_config(&self) -> KernelConfig {
        let c = &self.shared.config;
        KernelConfig {
            bpf_dir: PathBuf::from(&c.bpf_dir),
            pin_dir: PathBuf::from(&c.pin_dir),
            cgroup: PathBuf::from(&c.cgroup),
            kubelet_cgroup: (!c.kubelet_cgroup.is_empty()).then(|| PathBuf::from(&c.kubelet_cgroup)),
            anti_spoofing: c.anti_spoofing,
            interception: c.interception.clone(),
            app_ports: c.app_ports,
            tunnel_ports: c.tunnel_ports,
            heartbeat_dead_ms: c.heartbeat_dead_ms,
        }
    }
}

fn sink(shared: Arc<Shared>, pods: Arc<Pods>) -> EventSink {
    Arc::new(move |event| match event {
        KernelEvent::DirectClosed(e) => {
            let record = direct_record(&e, &shared);
            if !shared.channel.send(RECORDS, &record.encode()) {
                shared.counters.add("records_lost", 1);
            }
        }
        KernelEvent::Listening { cookie, port, open } => {
            if let Some(pod) = pods.by_cookie(cookie) {
                shared.event("listening", json!({"pod": pod, "port": port, "open": open}));
            }
        }
        KernelEvent::Foreign(programs) => shared.event("programs", json!({"foreign": programs})),
        KernelEvent::Vanished { pod } => {
            pods.forget(&pod);
            shared.event("vanished", json!({"pod": pod}));
        }
        KernelEvent::DirectOpened { verdict, count } => {
            let row = Opened { inbound: false, lane: Lane::Direct, plan: 0, verdict, endpoint: u16::MAX };
            shared.channel.send(RECORDS, &row.encode(count));
        }
        KernelEvent::Died { message, restarted } => {
            shared.counters.add("worker_died", 1);
            shared.event("worker_died", json!({"worker": "kernel", "message": message, "restarted": restarted}));
        }
        KernelEvent::Failed(fault) => shared.log("error", "kernel side", json!({"code": fault.code, "error": fault.message})),
    })
}

/// A direct-lane connection in the layout of all records. Its times are of the kernel's clock: the end is now.
fn direct_record(e: &EventDirectClosed, shared: &Shared) -> Record {
    let duration_us = e.duration_ns / 1_000;
    let ended_us = shared.now_us();
    let reason = match (e.error, e.closed_by) {
        (0, _) => Reason::Finished,
        (_, 1) => Reason::ClientReset,
        _ => Reason::ServerReset,
    };
    Record {
        inbound: false,
        lane: Lane::Direct,
        protocol: 0,
        reason,
        closer: match e.closed_by {
            1 => Closer::Client,
            2 => Closer::Server,
            3 => Closer::Agent,
            _ => Closer::Nobody,
        },
        flags: if e.flags & socket_flag::OPENING_TOLD != 0 { FLAG_OPENED } else { 0 },
        plan: 0,
        verdict: e.verdict,
        endpoint: u16::MAX,
        source: socket_addr(e.source, e.source_port),
        destination: socket_addr(e.destination, e.destination_port),
        upstream: Some(socket_addr(e.upstream, e.upstream_port)),
        cookie: e.source_cookie,
        started_ms: shared.unix_ms(ended_us).saturating_sub(duration_us / 1_000),
        duration_us: u32::try_from(duration_us).unwrap_or(u32::MAX),
        ready_us: 0,
        sent: e.sent,
        received: e.received,
        id: shared.connection_ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        policy: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_nonsense() {
        assert_eq!(unhex("f", &hex(&[0, 255, 16])).unwrap(), [0, 255, 16]);
        assert!(unhex("f", "abc").is_err() && unhex("f", "zz").is_err() && unhex("f", "é1").is_err());
    }
}
