//! The rule set of one pod as text: for `nft -f -`, and for `iptables-restore` where nft is absent. Pure.
//!
//! Outbound: a SYN of the pod's own sockets is redirected (NAT) to the agent's listener; connections that were open before
//! keep their path, since NAT looks at the first packet only. Inbound: a SYN for which the pod has a socket is given to the
//! agent's transparent listener, addresses unchanged. Nothing is marked on the way, so that `tcp_fwmark_accept`, which the
//! sockets toward the app need, stays usable.

use std::fmt::Write;
use std::net::IpAddr;

use crate::kernel::config::EnrolRequest;
use crate::kernel::{addr, routes};

/// Mark of the agent's own sockets: not redirected. Forgeable by a pod with CAP_NET_ADMIN, unlike the mark of the eBPF way.
pub const OWN_MARK: u32 = 0x000f_1eae;
pub const TABLE: &str = "fairlead";
/// Chains of the iptables form.
pub const OUT_CHAIN: &str = "FAIRLEAD_OUT";
pub const IN_CHAIN: &str = "FAIRLEAD_IN";

/// Served by the agent itself, also where the app has no such socket.
const HBONE_PORT: u16 = 15_008;

/// Ports of the agent's listeners in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub outbound: u16,
    pub inbound: u16,
}

/// Everything that the rules of one pod depend on.
#[derive(Clone, Debug)]
pub struct Rules {
    pub v4: Ports,
    pub v6: Option<Ports>,
    /// Whether connections pass unmeshed while the agent is dead, instead of being refused.
    pub fail_open: bool,
    pub outbound_ports: Vec<u16>,
    pub inbound_ports: Vec<u16>,
    pub outbound_cidrs: Vec<String>,
    pub inbound_cidrs: Vec<String>,
    pub probe_ports: Vec<u16>,
    /// The node's own addresses: whence the kubelet probes.
    pub probers: Vec<IpAddr>,
    /// Addresses that speak a tunnel: what comes from them is not the app's, what goes to them must not go in the clear.
    pub speakers: Vec<IpAddr>,
    /// How long the pod counts the agent as alive without a sign of life (fail open only).
    pub alive_ms: u64,
}

impl Rules {
    pub fn new(request: &EnrolRequest, v4: Ports, v6: Option<Ports>, probers: Vec<IpAddr>, alive_ms: u64) -> Self {
        let exclude = request.exclude.clone();
        Self {
            v4,
            v6,
            fail_open: fails_open(request),
            outbound_ports: exclude.outbound_ports,
            inbound_ports: exclude.inbound_ports,
            outbound_cidrs: exclude.outbound_cidrs,
            inbound_cidrs: exclude.inbound_cidrs,
            probe_ports: request.probe_ports.clone(),
            probers,
            speakers: Vec::new(),
            alive_ms,
        }
    }

    /// Rules with one of each kind, to see whether this machine has what they need.
    pub fn sample() -> Self {
        let ports = Ports { outbound: 1, inbound: 2 };
        let request = EnrolRequest { fail_open: true, probe_ports: vec![1], ..Default::default() };
        let closed = Self::new(&request, ports, Some(ports), vec![IpAddr::from([192, 0, 2, 1])], 1_000);
        Self { speakers: vec![IpAddr::from([192, 0, 2, 2])], ..closed }
    }

    /// The first range that is none.
    pub fn check(&self) -> Result<(), String> {
        self.outbound_cidrs.iter().chain(&self.inbound_cidrs).try_for_each(|c| addr::parse_cidr(c).map(drop))
    }

    /// Replaces the whole table in one transaction.
    pub fn nft(&self) -> String {
        let mut t = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
        let _ = writeln!(t, "  counter {} {{ }}", owner(self.v4));
        let alive = match self.fail_open {
            true => {
                let element = format!("elements = {{ tcp timeout {}ms }}", self.alive_ms.max(1));
                let _ = writeln!(t, "  set alive {{ type inet_proto; flags timeout; {element}; }}");
                for (ipv6, kind) in [(false, "ipv4_addr"), (true, "ipv6_addr")] {
                    let ips = list(self.speakers.iter().filter(|ip| ip.is_ipv6() == ipv6));
                    let elements = if ips.is_empty() { String::new() } else { format!(" elements = {{ {ips} }};") };
                    let _ = writeln!(t, "  set {} {{ type {kind};{elements} }}", speakers_set(ipv6));
                }
                "meta l4proto @alive "
            }
            false => "",
        };
        t += "  counter redirected { }\n  counter steered { }\n  counter refused { }\n  counter passed { }\n";
        t += "  chain outbound {\n    type nat hook output priority -100; policy accept;\n";
        t += "    meta l4proto != tcp return\n    tcp flags & (fin|syn|rst|ack) != syn return\n";
        let _ = writeln!(t, "    meta mark {{ {OWN_MARK:#x}, {:#x} }} return", routes::MARK);
        t += "    oif \"lo\" return\n    fib daddr type { local, broadcast, multicast } return\n";
        nft_exclusions(&mut t, "daddr", &self.outbound_ports, &self.outbound_cidrs);
        for (family, ports) in self.families() {
            let _ = writeln!(t, "    meta nfproto {family} meta l4proto tcp {alive}counter name redirected redirect to :{}", ports.outbound);
        }
        if self.fail_open {
            // Without an agent a connection keeps its destination: one that speaks a tunnel gets nothing in the clear (DP-9).
            t += "  }\n  chain unserved {\n    type filter hook output priority 0; policy accept;\n";
            t += "    meta l4proto != tcp return\n    tcp flags & (fin|syn|rst|ack) != syn return\n";
            let _ = writeln!(t, "    meta mark {{ {OWN_MARK:#x}, {:#x} }} return", routes::MARK);
            t += "    oif \"lo\" return\n    fib daddr type { local, broadcast, multicast } return\n";
            nft_exclusions(&mut t, "daddr", &self.outbound_ports, &self.outbound_cidrs);
            nft_speakers_refused(&mut t, "daddr");
        }
        t += "  }\n  chain inbound {\n    type filter hook prerouting priority mangle; policy accept;\n";
        t += "    iif \"lo\" return\n    meta l4proto != tcp return\n    tcp flags & (fin|syn|rst|ack) != syn return\n";
        t += "    fib daddr type != local return\n";
        nft_exclusions(&mut t, "saddr", &self.inbound_ports, &self.inbound_cidrs);
        for (word, ips) in [("ip", self.probers_of(false)), ("ip6", self.probers_of(true))] {
            if !ips.is_empty() && !self.probe_ports.is_empty() {
                let _ = writeln!(t, "    {word} saddr {{ {ips} }} tcp dport {{ {} }} return", list(&self.probe_ports));
            }
        }
        let _ = writeln!(t, "    tcp dport {HBONE_PORT} goto steer");
        // Matches exactly if the pod has a socket for this packet, so that a closed port answers as ever.
        t += "    socket transparent { 0, 1 } goto steer\n  }\n  chain steer {\n";
        for ((family, ports), (word, host)) in self.families().zip([("ip", "127.0.0.1"), ("ip6", "[::1]")]) {
            let to = format!("tproxy {word} to {host}:{}", ports.inbound);
            let _ = writeln!(t, "    meta nfproto {family} meta l4proto tcp {alive}{to} counter name steered accept");
        }
        // Reached when nobody listens there: the agent is dead.
        if self.fail_open {
            nft_speakers_refused(&mut t, "saddr");
        }
        t += match self.fail_open {
            true => "    counter name passed accept\n",
            false => "    meta l4proto tcp counter name refused reject with tcp reset\n",
        };
        t + "  }\n}\n"
    }

    fn families(&self) -> impl Iterator<Item = (&'static str, Ports)> {
        std::iter::once(("ipv4", self.v4)).chain(self.v6.map(|ports| ("ipv6", ports)))
    }

    fn probers_of(&self, ipv6: bool) -> String {
        list(self.probers.iter().filter(|ip| ip.is_ipv6() == ipv6))
    }

    /// For `iptables-restore --noflush` of one family: both chains anew; the jumps into them are made apart. The TPROXY target
    /// drops where nobody listens, so a dead agent means closed, whatever was asked.
    pub fn iptables(&self, ipv6: bool) -> Option<String> {
        let ports = if ipv6 { self.v6? } else { self.v4 };
        let host = if ipv6 { "::1" } else { "127.0.0.1" };
        let mut t = format!("*nat\n:{OUT_CHAIN} - [0:0]\n");
        for mark in [OWN_MARK, routes::MARK] {
            let _ = writeln!(t, "-A {OUT_CHAIN} -m mark --mark {mark:#x} -j RETURN");
        }
        let _ = writeln!(t, "-A {OUT_CHAIN} -o lo -j RETURN\n-A {OUT_CHAIN} -m addrtype --dst-type LOCAL -j RETURN");
        tables_exclusions(&mut t, OUT_CHAIN, "-d", ipv6, &self.outbound_ports, &self.outbound_cidrs);
        let _ = writeln!(t, "-A {OUT_CHAIN} -p tcp --syn -j REDIRECT --to-ports {}\nCOMMIT", ports.outbound);
        let _ = writeln!(t, "*mangle\n:{IN_CHAIN} - [0:0]\n-A {IN_CHAIN} -i lo -j RETURN");
        let _ = writeln!(t, "-A {IN_CHAIN} -m addrtype ! --dst-type LOCAL -j RETURN");
        tables_exclusions(&mut t, IN_CHAIN, "-s", ipv6, &self.inbound_ports, &self.inbound_cidrs);
        for ip in self.probers.iter().filter(|ip| ip.is_ipv6() == ipv6) {
            for port in &self.probe_ports {
                let _ = writeln!(t, "-A {IN_CHAIN} -p tcp -s {ip} --dport {port} -j RETURN");
            }
        }
        let to = format!("--on-ip {host} --on-port {} --tproxy-mark 0/0", ports.inbound);
        let _ = writeln!(t, "-A {IN_CHAIN} -p tcp --syn --dport {HBONE_PORT} -j TPROXY {to}");
        let _ = writeln!(t, "-A {IN_CHAIN} -p tcp --syn -m socket --nowildcard -j TPROXY {to}\nCOMMIT");
        Some(t)
    }
}

/// What in a table says whose it is, by the ports of IPv4: agents that serve one pod at a time never have the same.
pub fn owner(ports: Ports) -> String {
    format!("agent_{}_{}", ports.outbound, ports.inbound)
}

/// Does what `text` says in one transaction, or fails without effect where the table is not that agent's any more.
pub fn nft_of(ports: Ports, text: &str) -> String {
    format!("delete counter inet {TABLE} {}\n{text}", owner(ports))
}

/// Hooks stay for the NAT of open connections, but nothing new is taken: by an agent with these ports, or by one with programs.
pub fn nft_suspended(by: Option<Ports>) -> String {
    let owner = by.map_or_else(|| "agent_bpf".into(), owner);
    format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  counter {owner} {{ }}\n  chain outbound {{ type nat hook output \
         priority -100; policy accept; }}\n}}\n"
    )
}

/// A sign of life of the agent, good for `ms`.
pub fn nft_alive(ms: u64) -> String {
    format!("flush set inet {TABLE} alive\nadd element inet {TABLE} alive {{ tcp timeout {}ms }}\n", ms.max(1))
}

/// Changes of who speaks a tunnel, for a pod that fails open.
pub fn nft_speakers<'a>(added: impl Iterator<Item = &'a IpAddr>, removed: impl Iterator<Item = &'a IpAddr>) -> String {
    let (added, removed): (Vec<_>, Vec<_>) = (added.collect(), removed.collect());
    let mut t = String::new();
    for (verb, ips) in [("add", added), ("delete", removed)] {
        for ipv6 in [false, true] {
            let chosen = list(ips.iter().filter(|ip| ip.is_ipv6() == ipv6));
            if !chosen.is_empty() {
                let _ = writeln!(t, "{verb} element inet {TABLE} {} {{ {chosen} }}", speakers_set(ipv6));
            }
        }
    }
    t
}

fn speakers_set(ipv6: bool) -> &'static str {
    if ipv6 { "speakers6" } else { "speakers4" }
}

fn nft_speakers_refused(t: &mut String, side: &str) {
    for (word, ipv6) in [("ip", false), ("ip6", true)] {
        let set = speakers_set(ipv6);
        let _ = writeln!(t, "    {word} {side} @{set} meta l4proto tcp counter name refused reject with tcp reset");
    }
}

pub fn nft_remove() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Never under STRICT: what arrives without an identity is what STRICT refuses.
pub fn fails_open(request: &EnrolRequest) -> bool {
    request.fail_open && !request.strict
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn nft_exclusions(t: &mut String, side: &str, ports: &[u16], cidrs: &[String]) {
    if !ports.is_empty() {
        let _ = writeln!(t, "    tcp dport {{ {} }} return", list(ports));
    }
    // One rule each: overlapping ranges in one set are an error of nft.
    for cidr in cidrs {
        let word = if cidr.contains(':') { "ip6" } else { "ip" };
        let _ = writeln!(t, "    {word} {side} {cidr} return");
    }
}

fn tables_exclusions(t: &mut String, chain: &str, side: &str, ipv6: bool, ports: &[u16], cidrs: &[String]) {
    for port in ports {
        let _ = writeln!(t, "-A {chain} -p tcp --dport {port} -j RETURN");
    }
    for cidr in cidrs.iter().filter(|cidr| cidr.contains(':') == ipv6) {
        let _ = writeln!(t, "-A {chain} {side} {cidr} -j RETURN");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let request = EnrolRequest { probe_ports: vec![8081], ..Default::default() };
        let ports = Ports { outbound: 1, inbound: 2 };
        let probers = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        Rules::new(&request, ports, Some(Ports { outbound: 3, inbound: 4 }), probers, 500)
    }

    #[test]
    fn a_dead_agent_is_refused_or_passed_as_configured() {
        let closed = rules().nft();
        assert!(closed.contains("reject with tcp reset") && !closed.contains("@alive"));
        let open = Rules { fail_open: true, ..rules() }.nft();
        let strict = EnrolRequest { strict: true, fail_open: true, ..Default::default() };
        assert!(!fails_open(&strict) && fails_open(&EnrolRequest { strict: false, ..strict.clone() }));
        assert!(open.contains("counter name passed accept") && open.contains("tcp timeout 500ms"));
        assert_eq!(open.matches("reject").count(), 4, "both families, both directions: only those who speak a tunnel");
    }

    #[doc = "[DP-9] sets of who speaks a tunnel are changed by differences, each family in its own"]
    #[test]
    fn speakers_are_added_and_removed() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (old, four, six) = (ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::2"));
        let text = nft_speakers([four, six].iter(), [old].iter());
        let lines: Vec<_> = text.lines().collect();
        let table = "element inet fairlead";
        let wanted = [
            format!("add {table} speakers4 {{ 10.0.0.2 }}"),
            format!("add {table} speakers6 {{ fd00::2 }}"),
            format!("delete {table} speakers4 {{ 10.0.0.1 }}"),
        ];
        assert_eq!(lines, wanted);
        assert!(nft_speakers([].iter(), [].iter()).is_empty());
        assert!(
            Rules { speakers: vec![four, six], fail_open: true, ..rules() }.nft().contains("speakers6 { type ipv6_addr; elements = { fd00::2 }; }")
        );
    }

    #[test]
    fn families_have_their_own_ports_and_exclusions() {
        let mut rules = rules();
        rules.outbound_cidrs = vec!["10.0.0.0/8".into(), "fd00::/8".into()];
        rules.inbound_ports = vec![22];
        let text = rules.nft();
        for line in ["ip daddr 10.0.0.0/8 return", "ip6 daddr fd00::/8 return", "tcp dport { 22 } return", "ip6 to [::1]:4"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let (v4, v6) = (rules.iptables(false).unwrap(), rules.iptables(true).unwrap());
        assert!(v4.contains("-d 10.0.0.0/8") && !v4.contains("fd00") && v6.contains("-d fd00::/8"));
        assert!(v6.contains("--to-ports 3") && v4.contains("-s 10.0.0.1 --dport 8081"));
        rules.v6 = None;
        assert!(rules.iptables(true).is_none() && !rules.nft().contains("ipv6"));
        rules.outbound_cidrs = vec!["10.0.0.0/8; flush ruleset".into()];
        assert!(rules.check().is_err(), "nothing but ranges gets into the text");
    }
}
