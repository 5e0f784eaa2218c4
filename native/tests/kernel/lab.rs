//! Two pods (`a`, `b`) and an outsider (`x`) as namespaces on one bridge, IPv4 and IPv6, a cgroup and a pin folder of their own.
//! Everything is named after the case, so that runs side by side do not meet.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairlead::kernel::layout::{self, VerdictKey, VerdictValue};
use fairlead::kernel::{self, EnrolRequest, Enrolled, Kernel, KernelConfig, KernelEvent};

use crate::relay::Relay;

/// How long is waited for what must come: longer than any load of the machine delays it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A case's world.
pub struct Lab {
    name: String,
    cgroup: PathBuf,
    pub relay: Arc<Relay>,
    pub events: Arc<Mutex<Vec<KernelEvent>>>,
}

fn sh(command: &str) {
    let done = Command::new("sh").args(["-ec", command]).output().expect("sh runs");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

fn run_dir(name: &str) -> PathBuf {
    PathBuf::from("/run/fairlead-test").join(name)
}

fn cgroup_of(name: &str) -> PathBuf {
    PathBuf::from(kernel::cgroup2_mount().expect("cgroup2 is mounted")).join(name)
}

/// Removes whatever a case of that name made; safe to call when there is nothing.
pub fn clean_up(name: &str) {
    let quiet = |command: String| drop(Command::new("sh").args(["-c", &command]).output());
    for part in ["a", "b", "x", "r"] {
        quiet(format!("ip netns del {name}-{part}"));
    }
    let dir = run_dir(name);
    quiet(format!("umount {0}/bpf; rm -rf {0}/*; rmdir {0}", dir.display()));
    let cgroup = cgroup_of(name);
    for folder in [cgroup.join("kubelet"), cgroup] {
        for _ in 0..100 {
            // Processes of the case are gone or going; their cgroup can be removed once they are reaped.
            if fs::remove_dir(&folder).is_ok() || !folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Lab {
    pub fn new(name: &str) -> Self {
        let router = format!("{name}-r");
        sh(&format!("ip netns add {router}; ip -n {router} link add br0 type bridge; ip -n {router} link set br0 up; ip -n {router} link set lo up"));
        for (part, number) in [("a", 2), ("b", 3), ("x", 9)] {
            let ns = format!("{name}-{part}");
            sh(&format!(
                "ip netns add {ns}; ip -n {ns} link set lo up
                 ip netns exec {ns} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'
                 ip -n {ns} link add eth0 type veth peer name v{part} netns {router}
                 ip -n {router} link set v{part} master br0 up
                 ip -n {ns} addr add 10.77.0.{number}/24 dev eth0; ip -n {ns} addr add fd77::{number}/64 dev eth0 nodad
                 ip -n {ns} link set eth0 up; ip -n {ns} route add default via 10.77.0.1; ip -n {ns} -6 route add default via fd77::1"
            ));
        }
        let cgroup = cgroup_of(name);
        fs::create_dir_all(cgroup.join("kubelet")).expect("make a cgroup");
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("enter the cgroup");
        fs::create_dir_all(run_dir(name)).expect("make a folder in /run");
        Self { name: name.into(), cgroup, relay: Relay::new(), events: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn config(&self) -> KernelConfig {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project");
        KernelConfig {
            bpf_dir: root.join("bpf/prebuilt"),
            pin_dir: run_dir(&self.name).join("bpf"),
            cgroup: self.cgroup.clone(),
            kubelet_cgroup: Some(self.cgroup.join("kubelet")),
            anti_spoofing: true,
            interception: "ebpf".into(),
            app_ports: (20_000, 31_999),
            tunnel_ports: (10_000, 19_999),
            heartbeat_dead_ms: 60_000,
        }
    }

    /// Loads programs; a second call is an agent restart (the first one goes on until dropped).
    pub fn load(&self) -> (Kernel, kernel::LoadReport) {
        self.load_for(self.relay.clone())
    }

    pub fn load_for(&self, relay: Arc<Relay>) -> (Kernel, kernel::LoadReport) {
        let events = self.events.clone();
        let sink = Arc::new(move |event| {
            if let KernelEvent::Failed(fault) = &event {
                eprintln!("event: {fault}");
            }
            events.lock().unwrap().push(event);
        });
        Kernel::load(self.config(), relay, sink).expect("programs load")
    }

    /// Loads and enrols the named pods.
    pub fn start(&self, pods: &[&str]) -> Kernel {
        let kernel = self.load().0;
        for pod in pods {
            kernel.enrol(self.request(pod)).expect("enrol");
        }
        kernel
    }

    pub fn request(&self, pod: &str) -> EnrolRequest {
        EnrolRequest {
            pod: format!("test/{pod}"),
            netns: self.netns(pod),
            ips: vec![self.ip4(pod), self.ip6(pod)],
            identity_number: identity(pod),
            ..Default::default()
        }
    }

    pub fn enrol(&self, kernel: &Kernel, pod: &str, change: impl FnOnce(&mut EnrolRequest)) -> Enrolled {
        let mut request = self.request(pod);
        change(&mut request);
        kernel.enrol(request).expect("enrol")
    }

    pub fn netns(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}-{part}", self.name))
    }

    pub fn ip4(&self, part: &str) -> IpAddr {
        format!("10.77.0.{}", number(part)).parse().unwrap()
    }

    pub fn ip6(&self, part: &str) -> IpAddr {
        format!("fd77::{}", number(part)).parse().unwrap()
    }

    pub fn addr4(&self, part: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip4(part), port)
    }

    pub fn addr6(&self, part: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip6(part), port)
    }

    /// Runs something on a thread that is inside a namespace.
    pub fn inside<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn_inside(part, work).join().expect("the work inside does not panic")
    }

    pub fn spawn_inside<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.netns(part);
        std::thread::spawn(move || {
            let namespace = File::open(path).expect("the namespace is there");
            kernel::netns::within(namespace.as_fd(), || Ok(work())).expect("enter the namespace")
        })
    }

    /// Runs something on a thread that lives in a namespace, as an agent's threads live in the node's.
    pub fn live_in<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(self.netns(part)).expect("the namespace is there");
        let thread = std::thread::spawn(move || {
            fairlead::sys::set_netns(namespace.as_fd()).expect("enter the namespace");
            work()
        });
        thread.join().expect("the work there does not panic")
    }

    /// From now on what `a` and `b` send each other is routed by the namespace of the bridge, with connection tracking, as by a node.
    pub fn route_pods(&self) {
        let r = format!("{}-r", self.name);
        sh(&format!(
            "ip -n {r} addr add 10.77.0.1/24 dev br0; ip -n {r} addr add fd77::1/64 dev br0 nodad
             ip netns exec {r} sh -c 'cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
               for i in all br0; do echo 0 > ipv4/conf/$i/send_redirects; done'"
        ));
        for part in ["a", "b"] {
            let (ns, n) = (format!("{}-{part}", self.name), number(part));
            sh(&format!(
                "ip -n {ns} addr del 10.77.0.{n}/24 dev eth0; ip -n {ns} addr add 10.77.0.{n}/32 dev eth0
                 ip -n {ns} route add default via 10.77.0.1 dev eth0 onlink
                 ip -n {ns} -6 route del default; ip -n {ns} addr del fd77::{n}/64 dev eth0; ip -n {ns} addr add fd77::{n}/128 dev eth0 nodad
                 ip -n {ns} -6 route add default via fd77::1 dev eth0 onlink
                 ip netns exec {ns} sh -c 'for i in all eth0; do echo 0 > /proc/sys/net/ipv4/conf/$i/accept_redirects; done'"
            ));
        }
    }

    /// The router's NAT gives connections from `a` to `to` this source port, as it does where theirs is taken.
    pub fn change_port(&self, to: SocketAddr, port: u16) {
        let (table, from) = if to.is_ipv6() { ("ip6", format!("[{}]", self.ip6("a"))) } else { ("ip", self.ip4("a").to_string()) };
        let (server, client) = (to.ip(), from.trim_matches(['[', ']']).to_string());
        let rules = format!(
            "table {table} nat {{ chain post {{ type nat hook postrouting priority 100; {table} saddr {client} {table} daddr {server} tcp dport {} snat to {from}:{port}; }}; }}",
            to.port()
        );
        sh(&format!("ip netns exec {}-r nft '{rules}'", self.name));
    }

    /// A server that tells each client `peer=<address it sees> local=<its own>` and echoes what comes then.
    pub fn serve(&self, part: &str, at: SocketAddr) {
        let listener = self.inside(part, move || TcpListener::bind(at)).expect("bind the server");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || greet(stream));
            }
        });
    }

    /// Connects from a pod, reads the greeting and checks the echo.
    pub fn dial(&self, part: &str, to: SocketAddr) -> io::Result<Greeting> {
        self.inside(part, move || dial(to))
    }

    /// Connects from a pod, reads the greeting and keeps the connection.
    pub fn dial_and_hold(&self, part: &str, to: SocketAddr) -> TcpStream {
        self.inside(part, move || {
            let mut stream = TcpStream::connect(to)?;
            read_line(&mut stream)?;
            Ok::<_, io::Error>(stream)
        })
        .expect("connect from the pod")
    }

    pub fn allow_direct(&self, kernel: &Kernel, from: &str, to: SocketAddr, generation: u64) {
        self.allow(kernel, from, to, generation, 0);
    }

    /// As above, with flags of the verdict.
    pub fn allow(&self, kernel: &Kernel, from: &str, to: SocketAddr, generation: u64, flags: u32) {
        let key = VerdictKey { identity: identity(from), port: to.port(), ip: kernel::to_bytes(to.ip()) };
        let value = VerdictValue { generation, kind: layout::verdict_kind::ALLOW_DIRECT, flags, verdict: 77 };
        put(kernel, "verdicts", key.encode(), value.encode());
    }

    pub fn counter(&self, kernel: &Kernel, name: &str) -> u64 {
        kernel.counters().unwrap().into_iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// A probe from the kubelet's cgroup, in the outsider's namespace (where the pods' host would be).
    pub fn probe_from(&self, cgroup: &str, to: SocketAddr) -> bool {
        let procs = self.cgroup.join(cgroup).join("cgroup.procs");
        let own = std::env::current_exe().unwrap();
        let args = ["--probe".to_string(), procs.display().to_string(), self.netns("x").display().to_string(), to.to_string()];
        Command::new(own).args(args).status().expect("run a probe").success()
    }
}

fn number(part: &str) -> u8 {
    match part {
        "a" => 2,
        "b" => 3,
        _ => 9,
    }
}

/// Identity number of a pod in verdict rows.
pub fn identity(part: &str) -> u32 {
    100 + u32::from(number(part))
}

pub fn put<const K: usize, const V: usize>(kernel: &Kernel, map: &str, key: [u8; K], value: [u8; V]) {
    kernel.map_put(map, &[(key.to_vec(), value.to_vec())]).expect("write a row");
}

/// What a client learnt: addresses as the server saw them and as itself was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub client_peer: SocketAddr,
    pub client_local: SocketAddr,
}

fn greet(mut stream: TcpStream) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let _ = stream.write_all(format!("{peer} {local}\n").as_bytes());
    let mut buffer = [0; 16_384];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

pub fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Takes part in the greeting on a connected stream.
pub fn meet(stream: &mut TcpStream) -> io::Result<Greeting> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let line = read_line(stream)?;
    let mut parts = line.split(' ').map(str::parse::<SocketAddr>);
    let (Some(Ok(peer)), Some(Ok(local))) = (parts.next(), parts.next()) else {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, format!("greeting {line:?}")));
    };
    stream.write_all(b"marker")?;
    let mut echo = [0; 6];
    stream.read_exact(&mut echo)?;
    assert_eq!(&echo, b"marker");
    Ok(Greeting { peer, local, client_peer: stream.peer_addr()?, client_local: stream.local_addr()? })
}

pub fn dial(to: SocketAddr) -> io::Result<Greeting> {
    meet(&mut TcpStream::connect_timeout(&to, PATIENCE)?)
}

/// Ends an agent as SIGKILL would: its listeners close, programs, rules and pins stay.
pub fn kill(lab: &Lab, kernel: Kernel) {
    use fairlead::seam::PodRegistry;
    let pods: Vec<_> = kernel.pods().iter().map(Arc::downgrade).collect();
    let keys: Vec<String> = pods.iter().filter_map(|p| Some(p.upgrade()?.key().to_string())).collect();
    for key in keys {
        lab.relay.unenrolled(&key, 0);
    }
    drop(kernel);
    eventually("the byte side lets go of the listeners", || pods.iter().all(|p| p.strong_count() == 0));
}

/// Waits until something holds.
pub fn eventually(what: &str, test: impl Fn() -> bool) {
    let started = Instant::now();
    while !test() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Child process: enters a cgroup, then a namespace, and tries the greeting.
pub fn probe_process(args: &[String]) -> ExitCode {
    fs::write(&args[0], std::process::id().to_string()).expect("enter the cgroup");
    let namespace = File::open(&args[1]).expect("the namespace is there");
    let to: SocketAddr = args[2].parse().expect("an address");
    let met = kernel::netns::within(namespace.as_fd(), || dial(to));
    if met.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
