//! Frames of `fairlead/1`: `type u8 | length u24 | stream u32 | payload`, big endian. Encoding appends to a buffer;
//! decoding takes plaintext in any pieces and hands DATA out unbuffered.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::reason::Reason;
use crate::record::mapped;

pub const HEADER: usize = 8;
/// Most data in one frame, so that header and data fill one TLS record (2^14 bytes, RFC 8446 §5.1).
pub const MAX_DATA: usize = 16_384 - HEADER;
/// Longest control frame; OPEN is the largest and needs far less.
pub const MAX_CONTROL: usize = 4_096;
const MAX_TEXT: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Open = 1,
    Accept = 2,
    Refuse = 3,
    Data = 4,
    Fin = 5,
    FinAck = 6,
    Rst = 7,
    Drain = 8,
    Ping = 9,
    Pong = 10,
}

impl Kind {
    pub fn parse(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Open, Accept, Refuse, Data, Fin, FinAck, Rst, Drain, Ping, Pong].into_iter().find(|k| *k as u8 == byte)
    }
}

/// What an opener says about a stream. It names things for records and logs and is never evidence (rule DP-12).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenMeta {
    /// Destination as the application addressed it (a service address, perhaps).
    pub destination: Option<SocketAddr>,
    pub service: Option<String>,
    /// The client application's own port.
    pub source_port: Option<u16>,
    /// Its bytes are requests of a data thread, which would rather send them as HTTP/2 to a data thread.
    pub requests: bool,
}

/// Value of the fields about requests, in OPEN and ACCEPT: HTTP/2 with prior knowledge (RFC 9113 §3.3).
const HTTP2: [u8; 1] = [1];
const OPEN_REQUESTS: u8 = 4;
const ACCEPT_REQUESTS: u8 = 1;

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// The next field and what is behind it; `None`: a length leaves the payload.
fn next_field(payload: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length) = (*payload.first()?, u16::from_be_bytes([*payload.get(1)?, *payload.get(2)?]));
    let (value, rest) = payload.get(3..)?.split_at_checked(usize::from(length))?;
    Some((tag, value, rest))
}

/// Payload of ACCEPT. `requests`: a data thread reads the stream as HTTP/2, as OPEN offered.
pub fn accept_payload(requests: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if requests {
        field(&mut out, ACCEPT_REQUESTS, &HTTP2);
    }
    out
}

/// What an ACCEPT says of the offer. Earlier agents send it empty; unknown tags are skipped, and so is what is no field.
pub fn accepts_requests(mut payload: &[u8]) -> bool {
    while let Some((tag, value, rest)) = next_field(payload) {
        if tag == ACCEPT_REQUESTS && value == HTTP2 {
            return true;
        }
        payload = rest;
    }
    false
}

pub fn header(kind: Kind, length: usize, stream: u32) -> [u8; HEADER] {
    let l = (length as u32).to_be_bytes();
    let s = stream.to_be_bytes();
    [kind as u8, l[1], l[2], l[3], s[0], s[1], s[2], s[3]]
}

pub fn put(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&header(kind, payload.len(), stream));
    out.extend_from_slice(payload);
}

/// Cuts at a character boundary.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl OpenMeta {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        if let Some(destination) = self.destination {
            let mut value = [0u8; 18];
            value[..16].copy_from_slice(&mapped(destination.ip()));
            value[16..].copy_from_slice(&destination.port().to_be_bytes());
            field(&mut out, 1, &value);
        }
        if let Some(service) = &self.service {
            field(&mut out, 2, bounded(service).as_bytes());
        }
        if let Some(port) = self.source_port {
            field(&mut out, 3, &port.to_be_bytes());
        }
        if self.requests {
            field(&mut out, OPEN_REQUESTS, &HTTP2);
        }
        out
    }

    /// Unknown tags are skipped; a length that leaves the payload is an error.
    pub fn decode(mut payload: &[u8]) -> Option<Self> {
        let mut meta = Self::default();
        while !payload.is_empty() {
            let (tag, value, rest) = next_field(payload)?;
            payload = rest;
            match (tag, value.len()) {
                (1, 18) => {
                    let octets: [u8; 16] = value[..16].try_into().ok()?;
                    let ip = Ipv6Addr::from(octets);
                    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
                    meta.destination = Some(SocketAddr::new(ip, u16::from_be_bytes([value[16], value[17]])));
                }
                (2, 0..=MAX_TEXT) => meta.service = Some(String::from_utf8(value.to_vec()).ok()?),
                (OPEN_REQUESTS, _) => meta.requests = value == HTTP2,
                (3, 2) => meta.source_port = Some(u16::from_be_bytes([value[0], value[1]])),
                _ => {}
            }
        }
        Some(meta)
    }
}

/// Payload of REFUSE: `code u16 | flags u8 (1 = nothing started) | policy UTF-8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub not_started: bool,
    pub policy: String,
}

impl Refusal {
    pub fn new(reason: Reason, not_started: bool, policy: &str) -> Self {
        Self { code: reason as u16, not_started, policy: bounded(policy).to_owned() }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.code.to_be_bytes().to_vec();
        out.push(u8::from(self.not_started));
        out.extend_from_slice(bounded(&self.policy).as_bytes());
        out
    }

    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (head, text) = payload.split_at_checked(3)?;
        // Replacement characters are longer than what they replace: bounded again.
        let policy = bounded(&String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)])).to_owned();
        Some(Self { code: u16::from_be_bytes([head[0], head[1]]), not_started: head[2] & 1 != 0, policy })
    }
}

/// A breach of the protocol: the tunnel cannot be followed any more and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// One decoded piece. `Data` may be part of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Control {
        kind: Kind,
        stream: u32,
        payload: Vec<u8>,
    },
    /// `start..end` in the slice given to `next`.
    Data {
        stream: u32,
        start: usize,
        end: usize,
    },
}

/// Follows frames through arbitrary cuts of the plaintext.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEADER],
    filled: usize,
    /// Bytes of the current payload still to come, once the header is complete.
    left: usize,
    body: Vec<u8>,
}

impl Decoder {
    /// True between frames: the only place where a tunnel may end in order.
    pub fn at_boundary(&self) -> bool {
        self.filled == 0
    }

    /// Takes from `input[*at..]` up to one piece; `None`: all of it is used.
    pub fn next(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Piece>, Violation> {
        loop {
            if self.filled < HEADER {
                let n = (HEADER - self.filled).min(input.len() - *at);
                self.head[self.filled..self.filled + n].copy_from_slice(&input[*at..*at + n]);
                self.filled += n;
                *at += n;
                if self.filled < HEADER {
                    return Ok(None);
                }
                self.left = u32::from_be_bytes([0, self.head[1], self.head[2], self.head[3]]) as usize;
                self.body.clear();
                let control = self.head[0] != Kind::Data as u8 && Kind::parse(self.head[0]).is_some();
                if control && self.left > MAX_CONTROL {
                    return Err(Violation("control frame too long"));
                }
            }
            let stream = u32::from_be_bytes([self.head[4], self.head[5], self.head[6], self.head[7]]);
            let n = self.left.min(input.len() - *at);
            let (start, end) = (*at, *at + n);
            self.left -= n;
            *at = end;
            let whole = self.left == 0;
            if whole {
                self.filled = 0;
            }
            match Kind::parse(self.head[0]) {
                Some(Kind::Data) if n > 0 => return Ok(Some(Piece::Data { stream, start, end })),
                Some(Kind::Data) | None => {}
                Some(kind) => {
                    self.body.extend_from_slice(&input[start..end]);
                    if whole {
                        return Ok(Some(Piece::Control { kind, stream, payload: std::mem::take(&mut self.body) }));
                    }
                }
            }
            if *at == input.len() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[doc = "[DP-14] header layout"]
    fn header_layout() {
        assert_eq!(header(Kind::Data, 0x01_02_03, 0x0a0b0c0d), [4, 1, 2, 3, 10, 11, 12, 13]);
    }

    #[test]
    fn too_long_a_control_frame_is_a_violation() {
        let wire = header(Kind::Open, MAX_CONTROL + 1, 1);
        assert!(Decoder::default().next(&wire, &mut 0).is_err());
    }

    #[test]
    #[doc = "[DP-14] an ACCEPT of an earlier agent is empty, one of a later agent may say more"]
    fn accept_says_whether_requests_are_read() {
        assert!(accepts_requests(&accept_payload(true)));
        assert!(!accepts_requests(&accept_payload(false)) && accept_payload(false).is_empty());
        assert!(accepts_requests(&[9, 0, 2, 7, 7, 1, 0, 1, 1]));
        assert!(!accepts_requests(&[1, 0, 1, 2]) && !accepts_requests(&[1, 0, 2, 1]));
    }

    fn run(decoder: &mut Decoder, chunk: &[u8], data: &mut Vec<u8>, kinds: &mut Vec<(Kind, u32, Vec<u8>)>) {
        let mut at = 0;
        while let Some(piece) = decoder.next(chunk, &mut at).unwrap() {
            match piece {
                Piece::Data { start, end, .. } => data.extend_from_slice(&chunk[start..end]),
                Piece::Control { kind, stream, payload } => kinds.push((kind, stream, payload)),
            }
        }
        assert_eq!(at, chunk.len());
    }

    proptest! {
        /// [DP-14] frames survive every cut, and unknown types are skipped by length.
        #[test]
        fn frames_survive_any_cut(frames in prop::collection::vec((0u8..14, any::<u32>(), prop::collection::vec(any::<u8>(), 0..90)), 0..20), cut in 1usize..40) {
            let mut wire = Vec::new();
            let (mut data, mut kinds) = (Vec::new(), Vec::new());
            for (kind, stream, payload) in &frames {
                let l = (payload.len() as u32).to_be_bytes();
                wire.extend([*kind, l[1], l[2], l[3]]);
                wire.extend(stream.to_be_bytes());
                wire.extend_from_slice(payload);
                match Kind::parse(*kind) {
                    Some(Kind::Data) => data.extend_from_slice(payload),
                    Some(k) => kinds.push((k, *stream, payload.clone())),
                    None => {}
                }
            }
            let mut decoder = Decoder::default();
            let (mut got_data, mut got_kinds) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(cut) { run(&mut decoder, chunk, &mut got_data, &mut got_kinds); }
            prop_assert!(decoder.at_boundary());
            prop_assert_eq!(got_data, data);
            prop_assert_eq!(got_kinds, kinds);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let (mut d, mut at) = (Decoder::default(), 0);
            while let Ok(Some(_)) = d.next(&bytes, &mut at) {}
            let _ = OpenMeta::decode(&bytes);
            let _ = Refusal::decode(&bytes);
            let _ = accepts_requests(&bytes);
        }

        #[test]
        fn open_metadata_round_trips(ip in any::<u128>(), port in any::<u16>(), service in proptest::option::of("[a-z/]{0,40}"), source_port in any::<Option<u16>>(), requests in any::<bool>()) {
            let v6 = Ipv6Addr::from(ip);
            let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
            let meta = OpenMeta { destination: Some(SocketAddr::new(ip, port)), service, source_port, requests };
            prop_assert_eq!(OpenMeta::decode(&meta.encode()), Some(meta));
        }
    }
}
