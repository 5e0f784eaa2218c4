//! A pod into the mesh and out again: rows, routes, listeners, steering, in the order that never leaves a gap.

use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use super::config::{EnrolRequest, Enrolled, Existing, KernelConfig};
use super::layout::{
    AddressKey, ExcludedCidrKey, ExcludedPortKey, FlagValue, ListeningKey, ListeningValue, LocalPodValue, PodKey, PodValue, ProbePortKey, VERSION,
    limit, listening_flag, pod_flag, traffic,
};
use super::load::Loader;
use super::maps::Maps;
use super::pod::{Pod, PodPlan};
use super::{addr, diag, netns, nft, routes};
use crate::fault::Fault;
use crate::seam::PodSockets;
use crate::sys;

/// Prefix bits of an exclusion that come before the address: direction and cookie.
const CIDR_HEAD_BITS: u32 = 96;

fn os(what: &str, pod: &str) -> impl Fn(std::io::Error) -> Fault {
    let what = format!("{pod}: {what}");
    move |error| Fault::os("enrol_failed", &what, &error)
}

/// Opens the namespace of a request and asks for its cookie and whether it has IPv6.
pub fn identify(request: &EnrolRequest) -> Result<(File, u64, bool), Fault> {
    let namespace = File::open(&request.netns).map_err(os(&format!("open {}", request.netns.display()), &request.pod))?;
    let (cookie, ipv6) = netns::within(namespace.as_fd(), || {
        let probe = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let cookie = sys::netns_cookie(probe.as_fd())?;
        let ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists()
            && std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|v| v.trim() == "0");
        Ok((cookie, ipv6))
    })
    .map_err(os("enter its network namespace", &request.pod))?;
    let host = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(|s| sys::netns_cookie(s.as_fd()));
    if host.is_ok_and(|host| host == cookie) {
        let text = format!("{}: shares the network of the agent (hostNetwork); such pods are not intercepted", request.pod);
        return Err(Fault::new("host_network", text));
    }
    Ok((namespace, cookie, ipv6))
}

/// Rows that say what the pod is and what is left alone. Also for a change of flags in place.
pub fn write_rows(maps: &Maps, request: &EnrolRequest, cookie: u64, before: Option<&EnrolRequest>) -> Result<(), Fault> {
    if let Some(before) = before {
        for (map, key) in side_rows(before, cookie)?.difference(&side_rows(request, cookie)?) {
            maps.delete(map, key)?;
        }
    }
    let own = |ipv6: bool| request.ips.iter().find(|ip| ip.is_ipv6() == ipv6).map_or([0; 16], |ip| addr::to_bytes(*ip));
    for (map, key) in side_rows(request, cookie)? {
        let value: Vec<u8> = match map {
            "local_pods" => LocalPodValue { cookie }.encode().to_vec(),
            _ => FlagValue { flags: 1 }.encode().to_vec(),
        };
        maps.put(map, &key, &value)?;
    }
    let value = PodValue { flags: request.flags(), identity: request.identity_number, ip4: own(false), ip6: own(true) };
    maps.put("pods", &PodKey { cookie }.encode(), &value.encode())
}

/// Every row beside the one in `pods`: (map, key).
fn side_rows(request: &EnrolRequest, cookie: u64) -> Result<HashSet<(&'static str, Vec<u8>)>, Fault> {
    let mut rows = HashSet::new();
    for ip in &request.ips {
        rows.insert(("local_pods", AddressKey { ip: addr::to_bytes(*ip) }.encode().to_vec()));
    }
    for port in &request.probe_ports {
        rows.insert(("probe_ports", ProbePortKey { cookie, port: *port }.encode().to_vec()));
    }
    let exclude = &request.exclude;
    for (direction, ports, cidrs) in
        [(traffic::OUTBOUND, &exclude.outbound_ports, &exclude.outbound_cidrs), (traffic::INBOUND, &exclude.inbound_ports, &exclude.inbound_cidrs)]
    {
        for port in ports {
            let key = ExcludedPortKey { cookie, port: *port, traffic: direction as u16 };
            rows.insert(("excluded_ports", key.encode().to_vec()));
        }
        for cidr in cidrs {
            let (ip, bits) = addr::parse_cidr(cidr).map_err(|e| Fault::new("bad_request", format!("{}: exclude: {e}", request.pod)))?;
            let key = ExcludedCidrKey { prefix_bits: CIDR_HEAD_BITS + bits, traffic: direction, cookie, ip };
            rows.insert(("excluded_cidrs", key.encode().to_vec()));
        }
    }
    Ok(rows)
}

/// Writes a row for everything that listens in the namespace; returns the ports open to others.
pub fn seed_listening(maps: &Maps, namespace: BorrowedFd<'_>, cookie: u64) -> Result<Vec<u16>, Fault> {
    let sockets = diag::list(namespace, diag::STATES_LISTEN).map_err(|e| Fault::os("enrol_failed", "list listeners", &e))?;
    let mut ports = Vec::new();
    for socket in sockets.iter().filter(|socket| !socket.local.ip().is_loopback()) {
        let (key, value) = listening_row(cookie, socket);
        maps.put("seeded", &key, &value)?;
        ports.push(socket.local.port());
    }
    ports.sort_unstable();
    ports.dedup();
    seed_own(maps, cookie)?;
    Ok(ports)
}

/// Marks the row of a port that the agent serves in the pod. Programs look at other bits only.
const OWN_ROW: u32 = 1 << 31;

/// Whether a row of `seeded` is the agent's and not a socket of the app.
pub fn is_own_row(value: &[u8]) -> bool {
    FlagValue::decode(value).is_some_and(|v| v.flags & OWN_ROW != 0)
}

/// Lets SYNs to the HBONE port reach the agent even if nothing listens there; a row of the app's own socket stays as it is.
pub fn seed_own(maps: &Maps, cookie: u64) -> Result<(), Fault> {
    let key = ListeningKey { cookie, ip: [0; 16], port: limit::HBONE_PORT as u16 }.encode();
    match maps.find("seeded", &key)? {
        Some(_) => Ok(()),
        None => maps.put("seeded", &key, &FlagValue { flags: OWN_ROW }.encode()),
    }
}

/// Whether a socket of the app listens on `port` at one of these addresses or at all of them.
pub fn app_listens(maps: &Maps, cookie: u64, ips: &[IpAddr], port: u16) -> Result<bool, Fault> {
    let any = [IpAddr::from([0u16; 8]), IpAddr::from([0u8; 4])];
    for ip in ips.iter().chain(&any) {
        let key = ListeningKey { cookie, ip: addr::to_bytes(*ip), port }.encode();
        let counted = maps.find("listening", &key)?.and_then(|v| ListeningValue::decode(&v)).is_some_and(|v| v.count > 0);
        if counted || maps.find("seeded", &key)?.is_some_and(|v| !is_own_row(&v)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Row of `seeded` for a listening socket.
pub fn listening_row(cookie: u64, socket: &diag::Socket) -> (Vec<u8>, Vec<u8>) {
    let key = ListeningKey { cookie, ip: addr::to_bytes(socket.local.ip()), port: socket.local.port() };
    let flags = if socket.v6only { listening_flag::V6ONLY } else { 0 };
    (key.encode().to_vec(), FlagValue { flags }.encode().to_vec())
}

/// Connections of the pod with others, not those within it.
pub fn foreign_connections(namespace: BorrowedFd<'_>, ips: &[IpAddr]) -> Result<Vec<diag::Socket>, Fault> {
    let mut sockets = diag::list(namespace, diag::STATES_CONNECTED).map_err(|e| Fault::os("enrol_failed", "list connections", &e))?;
    sockets.retain(|s| !s.remote.ip().is_loopback() && !ips.contains(&s.remote.ip()));
    Ok(sockets)
}

/// What `enrol` needs of the node.
pub struct Node<'a> {
    pub maps: &'a Arc<Maps>,
    pub loader: &'a Loader,
    /// Pods that another version of us had in the mesh: unknown to this version's maps.
    pub meshed_before: &'a HashSet<u64>,
    pub config: &'a KernelConfig,
}

/// Enrols a pod for this agent; `serve` is called when its listeners are open and before any connection comes to them. `was`: what
/// it was here before, if it comes back while it was leaving.
pub fn enrol(
    node: &Node<'_>,
    request: &EnrolRequest,
    found: (File, u64, bool),
    was: Option<(&Pod, &EnrolRequest)>,
    serve: impl FnOnce(&Arc<Pod>),
) -> Result<(Arc<Pod>, Enrolled), Fault> {
    let started = Instant::now();
    let (namespace, cookie, ipv6) = found;
    // Taken over from an agent before us: the pod is in the mesh already, nothing in it is from before.
    let known = was.is_none() && (node.meshed_before.contains(&cookie) || node.maps.find("pods", &PodKey { cookie }.encode())?.is_some());
    let routed = routes::install(namespace.as_fd(), ipv6).map_err(os("set up policy routes", &request.pod))?;
    let by_rules = was.is_none() && !known && routed.enrolled;
    let sysctls_before = was.map_or(routed, |(pod, _)| pod.sysctls_before.clone());
    let plan = PodPlan {
        key: request.pod.clone(),
        cookie,
        ips: request.ips.clone(),
        namespace,
        ipv6,
        sysctls_before,
        app_ports: node.config.app_ports,
        tunnel_ports: node.config.tunnel_ports,
    };
    let pod = Arc::new(Pod::open(plan, node.maps.clone()).map_err(os("open listeners", &request.pod))?);
    serve(&pod);
    pod.steer()?;
    // While it was leaving it may have opened ports: known before its row redirects again, or they are refused meanwhile.
    if was.is_some() {
        seed_listening(node.maps, pod.namespace.as_fd(), cookie)?;
    }
    if !node.loader.has_inbound(cookie)? {
        // The row in `pods` makes the connect hook redirect and sk_lookup steer: before it there are a program that finds the
        // redirected SYN, and the ports that are listened on, or a pod that runs already would be refused meanwhile. A
        // program that is there must not be replaced before the rows: it would find nothing and let everything pass.
        seed_listening(node.maps, pod.namespace.as_fd(), cookie)?;
        node.loader.attach_inbound(cookie, pod.namespace.as_fd())?;
    }
    // From the row on sockops counts listeners; seeding again finds those that came in between.
    write_rows(node.maps, request, cookie, was.map(|(_, before)| before))?;
    let listening = seed_listening(node.maps, pod.namespace.as_fd(), cookie)?;
    node.loader.attach_inbound(cookie, pod.namespace.as_fd())?;
    if by_rules {
        nft::leave(pod.namespace.as_fd(), ipv6).map_err(os("suspend the rules of the agent before", &request.pod))?;
    }
    let sockets = foreign_connections(pod.namespace.as_fd(), &request.ips)?;
    // Those that an agent before this one has taken, and the app itself.
    sockets.iter().for_each(|s| pod.met(s.remote));
    let mut existing = Vec::new();
    if !known && !by_rules {
        existing.extend(sockets.iter().map(|s| Existing { local: s.local, remote: s.remote }));
        if request.strict {
            diag::destroy(pod.namespace.as_fd(), &sockets).map_err(os("end existing connections", &request.pod))?;
        }
    }
    Ok((pod, Enrolled { cookie, listening, existing, ms: started.elapsed().as_millis() as u64, unguarded: String::new() }))
}

/// Tells the kernel what has changed of a pod that is in. `stays`: another agent has enrolled it since, and keeps it as it is.
pub fn change(maps: &Maps, pod: &Pod, request: &EnrolRequest, before: &EnrolRequest, stays: bool) -> Result<Enrolled, Fault> {
    let started = Instant::now();
    if request.take {
        pod.steer()?;
    }
    if !stays {
        write_rows(maps, request, pod.cookie, Some(before))?;
    }
    let listening = seed_listening(maps, pod.namespace.as_fd(), pod.cookie)?;
    let ms = started.elapsed().as_millis() as u64;
    Ok(Enrolled { cookie: pod.cookie, listening, existing: Vec::new(), ms, unguarded: String::new() })
}

/// Whether another agent has enrolled the pod since this one told of `request`: the numbers that they give out differ.
pub fn is_anothers(maps: &Maps, request: &EnrolRequest, cookie: u64) -> Result<bool, Fault> {
    let row = maps.find("pods", &PodKey { cookie }.encode())?.and_then(|v| PodValue::decode(&v));
    Ok(row.is_some_and(|value| value.identity != request.identity_number))
}

/// New connections of the pod are no longer intercepted; those that are open go on.
pub fn suspend(maps: &Maps, request: &EnrolRequest, cookie: u64) -> Result<(), Fault> {
    let key = PodKey { cookie }.encode();
    let mut value = maps.find("pods", &key)?.and_then(|v| PodValue::decode(&v)).unwrap_or_default();
    value.flags = request.flags() | pod_flag::SUSPENDED;
    maps.put("pods", &key, &value.encode())
}

/// Whether a pod that is suspended here has another agent by now: of this version, of another one, or without programs.
pub fn has_successor(maps: &Maps, loader: &Loader, request: &EnrolRequest, cookie: u64) -> Result<bool, Fault> {
    match loader.active_version() {
        None => Ok(true),
        Some(version) if version != VERSION => Ok(loader.pods_of(&version).contains(&cookie)),
        Some(_) => {
            let row = maps.find("pods", &PodKey { cookie }.encode())?.and_then(|v| PodValue::decode(&v));
            Ok(row.is_some_and(|value| value.flags & pod_flag::SUSPENDED == 0 || value.identity != request.identity_number))
        }
    }
}

/// Removes everything of a pod from the maps and its steering. `restore` puts its routes back too.
pub fn remove(maps: &Maps, loader: &Loader, pod: &Pod, request: &EnrolRequest, restore: bool) -> Result<(), Fault> {
    loader.detach_pod(pod.cookie)?;
    maps.delete("pods", &PodKey { cookie: pod.cookie }.encode())?;
    for (map, key) in side_rows(request, pod.cookie)? {
        // An address that another pod has taken over meanwhile stays that pod's.
        let of_other = map == "local_pods" && maps.find(map, &key)?.and_then(|v| LocalPodValue::decode(&v)).is_some_and(|v| v.cookie != pod.cookie);
        if !of_other {
            maps.delete(map, &key)?;
        }
    }
    forget_rows(maps, pod.cookie)?;
    if restore {
        nft::clear(pod.namespace.as_fd(), pod.ipv6).map_err(os("remove old rules", &pod.key))?;
        routes::remove(pod.namespace.as_fd(), pod.ipv6, &pod.sysctls_before).map_err(os("undo policy routes", &pod.key))?;
    }
    Ok(())
}

/// Rows that grow by use: listening ports and pending connections of one pod.
pub fn forget_rows(maps: &Maps, cookie: u64) -> Result<(), Fault> {
    let head = cookie.to_le_bytes();
    for map in ["listening", "seeded", "syns"] {
        for (key, _) in maps.dump(map, usize::MAX)? {
            if key.starts_with(&head) {
                maps.delete(map, &key)?;
            }
        }
    }
    maps.delete("pending", &PodKey { cookie }.encode())?;
    Ok(())
}
