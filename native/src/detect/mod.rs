//! Names the protocol of a connection from its first bytes, without consuming or delaying any (requirement INT-7).

pub mod client_hello;

use client_hello::{Hello, Parsed, parse};

/// Protocol codes of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    Unknown = 0,
    Tls = 1,
    Http1 = 2,
    Http2 = 3,
    Tcp = 4,
    ServerFirst = 5,
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Too few bytes to tell.
    NeedMore,
    Tls(Hello),
    Http1,
    Http2,
    Tcp,
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line is judged by its first bytes only; a longer token is no method anybody uses.
const LONGEST_METHOD: usize = 20;
/// Longest request line looked at before the bytes are called TCP.
const LONGEST_LINE: usize = 8_192;

/// Judges `bytes`, the start of what the client sent.
pub fn detect(bytes: &[u8]) -> Seen {
    if bytes.is_empty() {
        return Seen::NeedMore;
    }
    match parse(bytes) {
        Parsed::Hello(hello) => return Seen::Tls(hello),
        Parsed::NeedMore => return Seen::NeedMore,
        Parsed::NotTls => {}
    }
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return if shared == PREFACE.len() { Seen::Http2 } else { Seen::NeedMore };
    }
    http1(bytes)
}

/// RFC 9112 §3: `method SP request-target SP HTTP/1.x`. The method alone is enough of a sign only with the version.
fn http1(bytes: &[u8]) -> Seen {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = bytes.iter().take_while(|b| is_token(b)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Seen::Tcp;
    }
    if method == bytes.len() {
        return Seen::NeedMore;
    }
    if bytes[method] != b' ' {
        return Seen::Tcp;
    }
    let rest = &bytes[method + 1..];
    let end = rest.iter().take(LONGEST_LINE).position(|b| *b == b'\n');
    // Judged with and without the end of the line: the answer must not depend on how the bytes were cut on their way.
    let line = &rest[..end.unwrap_or(rest.len())];
    if !line.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\r') {
        return Seen::Tcp;
    }
    if end.is_none() {
        return if rest.len() < LONGEST_LINE { Seen::NeedMore } else { Seen::Tcp };
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.len().checked_sub(9).map(|at| &line[at..]);
    if matches!(version, Some(b" HTTP/1.0" | b" HTTP/1.1")) { Seen::Http1 } else { Seen::Tcp }
}

/// Longest start that is looked at, and kept while its first bytes come in pieces: no request line is undecided beyond it.
const KEPT: usize = LONGEST_METHOD + 1 + LONGEST_LINE;

/// Fed with chunks in passing; it keeps a copy only while undecided.
#[derive(Debug, Default)]
pub struct Detector {
    decided: Option<Protocol>,
    start: Vec<u8>,
    first: u8,
}

impl Detector {
    pub fn decided(&self) -> bool {
        self.decided.is_some()
    }

    pub fn from_client(&mut self, chunk: &[u8]) {
        if self.decided.is_some() || chunk.is_empty() {
            return;
        }
        let seen = if self.start.is_empty() {
            self.first = chunk[0];
            detect(&chunk[..chunk.len().min(KEPT)])
        } else {
            let room = KEPT.saturating_sub(self.start.len()).min(chunk.len());
            self.start.extend_from_slice(&chunk[..room]);
            detect(&self.start)
        };
        let protocol = match seen {
            Seen::NeedMore if self.start.is_empty() && chunk.len() < KEPT => {
                self.start.extend_from_slice(chunk);
                return;
            }
            Seen::NeedMore if self.start.len() < KEPT && !self.start.is_empty() => return,
            // A hello longer than what is kept: its record header has been seen.
            Seen::NeedMore if self.start.first().or(chunk.first()) == Some(&0x16) => Protocol::Tls,
            Seen::NeedMore | Seen::Tcp => Protocol::Tcp,
            Seen::Tls(_) => Protocol::Tls,
            Seen::Http1 => Protocol::Http1,
            Seen::Http2 => Protocol::Http2,
        };
        self.decide(protocol);
    }

    pub fn from_server(&mut self) {
        if self.decided.is_none() {
            let protocol = if self.start.is_empty() { Protocol::ServerFirst } else { Protocol::Tcp };
            self.decide(protocol);
        }
    }

    /// Whether the client began as text does that is meant as a request, if not a good one: with a letter, or a line end before it
    /// (RFC 9112 §2.2). Where a port is declared to be HTTP, such bytes are HTTP's to refuse.
    pub fn began_as_text(&self) -> bool {
        self.first.is_ascii_alphabetic() || matches!(self.first, b'\r' | b'\n')
    }

    /// What goes into the record.
    pub fn protocol(&self) -> Protocol {
        self.decided.unwrap_or(if self.start.is_empty() { Protocol::Unknown } else { Protocol::Tcp })
    }

    fn decide(&mut self, protocol: Protocol) {
        self.decided = Some(protocol);
        self.start = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[doc = "[INT-7] HTTP/1, HTTP/2 preface and everything else"]
    fn names_http_and_tcp() {
        assert_eq!(detect(b"GET / HTTP/1.1\r\nHost: a\r\n"), Seen::Http1);
        assert_eq!(detect(b"OPTIONS * HTTP/1.0\n"), Seen::Http1);
        assert_eq!(detect(b"GET / HTTP/1.1"), Seen::NeedMore);
        assert_eq!(detect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Seen::Http2);
        assert_eq!(detect(b"PRI * HT"), Seen::NeedMore);
        assert_eq!(detect(b"*1\r\n$4\r\nPING\r\n"), Seen::Tcp);
        assert_eq!(detect(b"SSH-2.0-OpenSSH_9\r\n"), Seen::Tcp);
        assert_eq!(detect(b"\0\0\0\x08\x04\xd2\x16\x2f"), Seen::Tcp);
        assert_eq!(detect(b"GET / FTP/1.1\r\n"), Seen::Tcp);
    }

    #[test]
    #[doc = "[INT-7] a server that speaks first is named so"]
    fn server_first() {
        let mut d = Detector::default();
        d.from_server();
        d.from_client(b"GET / HTTP/1.1\r\n");
        assert_eq!(d.protocol(), Protocol::ServerFirst);
    }

    #[test]
    #[doc = "[INT-7] a control character in a request line is no HTTP, whether the line is complete or not"]
    fn control_characters_are_no_http() {
        assert_eq!(detect(b"GET /\x01"), Seen::Tcp);
        assert_eq!(detect(b"GET /\x01 HTTP/1.1\r\n"), Seen::Tcp);
    }

    #[test]
    #[doc = "[INT-7] a long request line is named the same whole and in pieces"]
    fn long_lines_in_pieces() {
        let text = [b"GET /".as_slice(), &[b'a'; 6_000], b" HTTP/1.1\r\n"].concat();
        for size in [1_000, 3_000, text.len()] {
            let mut d = Detector::default();
            text.chunks(size).for_each(|c| d.from_client(c));
            assert_eq!(d.protocol(), Protocol::Http1, "{size}");
        }
    }

    proptest! {
        #[test]
        fn pieces_name_the_same_as_the_whole(cut in 1usize..40) {
            let text = b"GET /some/long/path?with=query HTTP/1.1\r\nHost: x\r\n\r\n";
            let mut d = Detector::default();
            for chunk in text.chunks(cut) { d.from_client(chunk); }
            prop_assert_eq!(d.protocol(), Protocol::Http1);
        }

        #[test]
        fn never_panics_and_keeps_little(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..20)) {
            let mut d = Detector::default();
            for c in &chunks { d.from_client(c); prop_assert!(d.start.len() <= KEPT); }
            let _ = d.protocol();
        }
    }
}
