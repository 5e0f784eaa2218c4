//! The `:authority` of an HBONE CONNECT: an address and a port, nothing else. It comes from the network, so only the
//! canonical port form is taken and names, user information and zones are refused.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Why an authority is no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    Missing,
    NotAnAddress,
    Port,
}

impl Bad {
    pub fn text(self) -> &'static str {
        match self {
            Bad::Missing => "no :authority",
            Bad::NotAnAddress => ":authority is not ip:port",
            Bad::Port => ":authority has no port between 1 and 65535",
        }
    }
}

/// 1 to 65535 in decimal, without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Parses `a.b.c.d:port` or `[v6]:port` (RFC 9113 §8.5, RFC 3986 §3.2). A v4-mapped address becomes the IPv4 address that
/// it means, so that no rule can be passed by writing an address in another way.
pub fn parse(text: &str) -> Result<SocketAddr, Bad> {
    if text.is_empty() {
        return Err(Bad::Missing);
    }
    let (ip, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (ip, rest) = inner.split_once(']').ok_or(Bad::NotAnAddress)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| Bad::NotAnAddress)?;
            (IpAddr::V6(ip).to_canonical(), rest.strip_prefix(':').ok_or(Bad::Port)?)
        }
        None => {
            let (ip, rest) = text.split_once(':').ok_or(Bad::Port)?;
            (IpAddr::V4(ip.parse().map_err(|_| Bad::NotAnAddress)?), rest)
        }
    };
    Ok(SocketAddr::new(ip, port(rest).ok_or(Bad::Port)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[doc = "[DP-12] HBONE authority: only an address and a port in their plain form"]
    fn takes_addresses_only() {
        assert_eq!(parse("10.0.0.1:80"), Ok("10.0.0.1:80".parse().unwrap()));
        assert_eq!(parse("[fd00::1]:8080"), Ok("[fd00::1]:8080".parse().unwrap()));
        assert_eq!(parse("[::ffff:10.0.0.1]:80"), Ok("10.0.0.1:80".parse().unwrap()));
        for bad in ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:+80", "10.0.0.1:080", "10.0.0.1: 80", "u@10.0.0.1:80"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "web.default:80",
            "010.0.0.1:80",
            "fd00::1:80",
            "[fd00::1]80",
            "[fe80::1%eth0]:80",
            "[10.0.0.1]:80",
            "[fd00::1",
            "1.2.3.4:80:90",
            "0x0a000001:80",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// [DP-12] HBONE authority: every address survives, and nothing panics on anything.
        #[test]
        fn authorities_round_trip(v6 in any::<u128>(), v4 in any::<u32>(), six in any::<bool>(), number in 1u16..) {
            let ip = if six { IpAddr::V6(v6.into()) } else { IpAddr::V4(v4.into()) };
            let expected = SocketAddr::new(ip.to_canonical(), number);
            prop_assert_eq!(parse(&SocketAddr::new(ip, number).to_string()), Ok(expected));
        }

        /// [DP-12] HBONE authority: what is accepted means the same to the standard parser.
        #[test]
        fn accepts_nothing_of_its_own(text in "[\\[\\]0-9a-f.:%@+ x]{0,40}") {
            if let Ok(address) = parse(&text) {
                let standard: SocketAddr = text.parse().unwrap();
                prop_assert_eq!(SocketAddr::new(standard.ip().to_canonical(), standard.port()), address);
                prop_assert!(address.port() != 0);
            }
        }

        #[test]
        fn garbage_never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
