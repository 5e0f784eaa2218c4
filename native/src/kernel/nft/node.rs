//! The addresses of the node itself, read from procfs of the agent's own namespace (the agent is on the host's network).

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every address of the node that is not a loopback one: the kubelet's probes come from one of them.
pub fn own_addresses() -> Vec<IpAddr> {
    let v4 = local_v4(&fs::read_to_string("/proc/self/net/fib_trie").unwrap_or_default());
    let v6 = local_v6(&fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default());
    v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).filter(|ip| !ip.is_loopback()).collect()
}

/// In `fib_trie` a leaf `|-- address` is followed by its routes; "host LOCAL" names an address of this machine.
fn local_v4(text: &str) -> BTreeSet<Ipv4Addr> {
    let mut leaf: Option<Ipv4Addr> = None;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.ends_with("host LOCAL") {
            found.extend(leaf);
        }
    }
    found
}

fn local_v6(text: &str) -> BTreeSet<Ipv6Addr> {
    let first = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    text.lines().filter_map(first).map(Ipv6Addr::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_told_from_routes() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.0.0\n        /24 link UNICAST\n     |-- 10.1.0.7\n        /32 host LOCAL\n";
        assert_eq!(local_v4(text).into_iter().collect::<Vec<_>>(), ["10.1.0.7".parse::<Ipv4Addr>().unwrap()]);
        let v6 = "fd770000000000000000000000000001 02 40 00 80     eth0\n";
        assert!(local_v6(v6).contains(&"fd77::1".parse().unwrap()));
    }
}
