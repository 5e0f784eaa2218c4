//! The 128-byte record of an ended connection, as laid out in `docs/native-channel.md`.

use std::net::{IpAddr, SocketAddr};

use crate::reason::Reason;

pub const SIZE: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    Direct = 0,
    Tunnel = 1,
    Hbone = 2,
    Plain = 3,
    Local = 4,
    Http = 5,
    None = 6,
}

impl Lane {
    pub fn text(self) -> &'static str {
        match self {
            Lane::Direct => "direct",
            Lane::Tunnel => "tunnel",
            Lane::Hbone => "hbone",
            Lane::Plain => "plain",
            Lane::Local => "local",
            Lane::Http => "http",
            Lane::None => "none",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Closer {
    Nobody = 0,
    Client = 1,
    Server = 2,
    Agent = 3,
}

pub const FLAG_IPV6: u8 = 1;
pub const FLAG_REUSED: u8 = 2;
pub const FLAG_RETRIED: u8 = 4;
/// Its opening has been told (`Opened`), so its end does not count as one.
pub const FLAG_OPENED: u8 = 8;

/// Facts about one connection; encoded once, when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub inbound: bool,
    pub lane: Lane,
    pub protocol: u8,
    pub reason: Reason,
    pub closer: Closer,
    pub flags: u8,
    pub plan: u32,
    pub verdict: u32,
    pub endpoint: u16,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub upstream: Option<SocketAddr>,
    pub cookie: u64,
    pub started_ms: u64,
    pub duration_us: u32,
    pub ready_us: u32,
    pub sent: u64,
    pub received: u64,
    pub id: u64,
    /// Number of the policy by which the other agent refused it, 0 none.
    pub policy: u32,
}

/// How many connections were opened since the last such row: the first bytes of a record, version 2, with the count at offset 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opened {
    pub inbound: bool,
    pub lane: Lane,
    pub plan: u32,
    pub verdict: u32,
    pub endpoint: u16,
}

impl Opened {
    pub fn encode(&self, count: u64) -> [u8; SIZE] {
        let mut out = [0u8; SIZE];
        out[..3].copy_from_slice(&[2, u8::from(self.inbound), self.lane as u8]);
        out[8..12].copy_from_slice(&self.plan.to_le_bytes());
        out[12..16].copy_from_slice(&self.verdict.to_le_bytes());
        out[16..18].copy_from_slice(&self.endpoint.to_le_bytes());
        out[48..56].copy_from_slice(&count.to_le_bytes());
        out
    }
}

/// IPv4 as `::ffff:a.b.c.d`, so that every address has 16 bytes.
pub fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Record {
    pub fn encode(&self) -> [u8; SIZE] {
        let mut out = [0u8; SIZE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let v6 = matches!(self.destination.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_none());
        let flags = self.flags | if v6 { FLAG_IPV6 } else { 0 };
        put(0, &[1, u8::from(self.inbound), self.lane as u8, self.protocol]);
        put(4, &(self.reason as u16).to_le_bytes());
        put(6, &[self.closer as u8, flags]);
        put(8, &self.plan.to_le_bytes());
        put(12, &self.verdict.to_le_bytes());
        put(16, &self.endpoint.to_le_bytes());
        put(18, &self.source.port().to_le_bytes());
        put(20, &self.destination.port().to_le_bytes());
        put(22, &self.upstream.map_or(0, |u| u.port()).to_le_bytes());
        put(24, &self.cookie.to_le_bytes());
        put(32, &self.started_ms.to_le_bytes());
        put(40, &self.duration_us.to_le_bytes());
        put(44, &self.ready_us.to_le_bytes());
        put(48, &self.sent.to_le_bytes());
        put(56, &self.received.to_le_bytes());
        put(64, &mapped(self.source.ip()));
        put(80, &mapped(self.destination.ip()));
        put(96, &self.upstream.map_or([0; 16], |u| mapped(u.ip())));
        put(112, &self.id.to_le_bytes());
        put(120, &self.policy.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_documented_one() {
        let record = Record {
            inbound: true,
            lane: Lane::Tunnel,
            protocol: 2,
            reason: Reason::WrongIdentity,
            closer: Closer::Server,
            flags: FLAG_REUSED,
            plan: 0x01020304,
            verdict: 0x11121314,
            endpoint: 7,
            source: "10.0.0.1:4000".parse().unwrap(),
            destination: "[fd00::1]:80".parse().unwrap(),
            upstream: Some("10.0.0.2:8080".parse().unwrap()),
            cookie: 99,
            started_ms: 1_700_000_000_123,
            duration_us: 5,
            ready_us: 6,
            sent: 1 << 40,
            received: 12,
            id: 77,
            policy: 5,
        };
        let b = record.encode();
        assert_eq!(&b[..8], &[1, 1, 1, 2, 34, 0, 2, FLAG_REUSED | FLAG_IPV6]);
        assert_eq!(&b[8..12], &[4, 3, 2, 1]);
        assert_eq!(u16::from_le_bytes([b[16], b[17]]), 7);
        assert_eq!(u16::from_le_bytes([b[18], b[19]]), 4000);
        assert_eq!(u16::from_le_bytes([b[20], b[21]]), 80);
        assert_eq!(u16::from_le_bytes([b[22], b[23]]), 8080);
        assert_eq!(b[24], 99);
        assert_eq!(u64::from_le_bytes(b[32..40].try_into().unwrap()), 1_700_000_000_123);
        assert_eq!(u64::from_le_bytes(b[48..56].try_into().unwrap()), 1 << 40);
        assert_eq!(&b[64..80], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(&b[80..82], &[0xfd, 0]);
        assert_eq!(b[111], 2);
        assert_eq!(b[112], 77);
        assert_eq!(&b[120..], &[5, 0, 0, 0, 0, 0, 0, 0]);
        let opened = Opened { inbound: true, lane: Lane::Tunnel, plan: 1, verdict: 2, endpoint: 3 }.encode(9);
        assert_eq!((&opened[..3], opened[8], opened[12], opened[16], opened[48]), (&[2, 1, 1][..], 1, 2, 3, 9));
    }
}
