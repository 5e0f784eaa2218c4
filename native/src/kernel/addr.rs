//! Addresses as the 16 bytes that BPF maps hold: IPv4 as ::ffff:a.b.c.d.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Address to map bytes.
pub fn to_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Map bytes to address; mapped ones become IPv4.
pub fn from_bytes(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// Map bytes and port to a socket address.
pub fn socket_addr(bytes: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(from_bytes(bytes), port)
}

/// "10.0.0.0/8" or "fd00::/8" (or a bare address) to bytes and prefix length in the 128-bit form.
pub fn parse_cidr(text: &str) -> Result<([u8; 16], u32), String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| bad(text))?)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().map_err(|_| bad(text))?;
    let (bits, shift) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
    match length.unwrap_or(bits) {
        length if length <= bits => Ok((to_bytes(ip), length + shift)),
        _ => Err(bad(text)),
    }
}

fn bad(text: &str) -> String {
    format!("{text:?} is not a range: write an address or address/length, for example {}/8", Ipv4Addr::new(10, 0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_come_back_as_ipv4() {
        for text in ["10.1.2.3", "fd00::1", "0.0.0.0", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(from_bytes(to_bytes(ip)), ip);
        }
    }

    #[test]
    fn ranges_count_bits_of_the_long_form() {
        assert_eq!(parse_cidr("10.0.0.0/8").unwrap().1, 104);
        assert_eq!(parse_cidr("fd00::/8").unwrap().1, 8);
        assert_eq!(parse_cidr("10.1.1.1").unwrap().1, 128);
        for bad in ["10.0.0.0/33", "x", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(parse_cidr(bad).unwrap_err().contains("not a range"), "{bad}");
        }
    }
}
