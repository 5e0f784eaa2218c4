//! Bounded reader of a TLS ClientHello (RFC 8446 §4.1.2, records of §5.1): server name and ALPN, nothing else. It sees
//! bytes of anybody, so every length is checked and nothing is trusted.

/// Names found in a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub server_name: Option<String>,
    pub alpn: Vec<Vec<u8>>,
}

impl Hello {
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|p| p == protocol)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    NotTls,
    NeedMore,
    Hello(Hello),
}

/// Longest ClientHello read; a longer one is treated as not ours (post-quantum shares need about 1.5 KB).
pub const MAX_HELLO: usize = 16_384;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXT_SERVER_NAME: u16 = 0;
const EXT_ALPN: u16 = 16;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        if self.0.len() < n {
            return None;
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Some(head)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    /// A vector with a length prefix of `bytes` bytes.
    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// Reads a ClientHello from the first bytes of a connection; it may be spread over several records.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Judge what is there before asking for more, so that one odd byte is enough to say no.
        let looks_right = |i: usize, ok: fn(u8) -> bool| rest.get(i).is_none_or(|b| ok(*b));
        if !(looks_right(0, |b| b == HANDSHAKE) && looks_right(1, |b| b == 3) && looks_right(2, |b| b <= 4)) {
            return Parsed::NotTls;
        }
        if rest.len() < 5 {
            return Parsed::NeedMore;
        }
        let length = usize::from(rest[3]) << 8 | usize::from(rest[4]);
        if length == 0 || length > 16_384 {
            return Parsed::NotTls;
        }
        let body = &rest[5..rest.len().min(5 + length)];
        if message.is_empty() && body.first().is_some_and(|b| *b != CLIENT_HELLO) {
            return Parsed::NotTls;
        }
        message.extend_from_slice(body);
        if message.len() >= 4 {
            let wanted = message[1..4].iter().fold(0usize, |n, b| (n << 8) | usize::from(*b));
            if wanted > MAX_HELLO {
                return Parsed::NotTls;
            }
            if message.len() >= 4 + wanted {
                return hello(&message[4..4 + wanted]).map_or(Parsed::NotTls, Parsed::Hello);
            }
        }
        if body.len() < length {
            return Parsed::NeedMore;
        }
        rest = &rest[5 + length..];
        if rest.is_empty() {
            return Parsed::NeedMore;
        }
    }
}

fn hello(body: &[u8]) -> Option<Hello> {
    let mut r = Reader(body);
    r.take(2 + 32)?; // legacy version, random
    r.vector(1)?; // session id
    r.vector(2)?; // cipher suites
    r.vector(1)?; // compression methods
    let mut found = Hello::default();
    if r.0.is_empty() {
        return Some(found);
    }
    let mut extensions = r.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)? as u16;
        let mut data = extensions.vector(2)?;
        match kind {
            EXT_SERVER_NAME => found.server_name = server_name(&mut data),
            EXT_ALPN => {
                let mut names = data.vector(2)?;
                while !names.0.is_empty() {
                    found.alpn.push(names.vector(1)?.0.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(found)
}

/// RFC 6066 §3: the first host_name entry, only if it is printable ASCII.
fn server_name(data: &mut Reader<'_>) -> Option<String> {
    let mut list = data.vector(2)?;
    let kind = list.number(1)?;
    let name = list.vector(2)?.0;
    let printable = !name.is_empty() && name.len() <= 255 && name.iter().all(|b| b.is_ascii_graphic());
    if kind == 0 && printable { String::from_utf8(name.to_vec()).ok() } else { None }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A minimal ClientHello in one record.
    pub fn sample(alpn: &[&[u8]], sni: Option<&str>) -> Vec<u8> {
        let with = |bytes: usize, body: Vec<u8>| {
            let mut out = (body.len() as u32).to_be_bytes()[4 - bytes..].to_vec();
            out.extend(body);
            out
        };
        let mut extensions = Vec::new();
        if let Some(name) = sni {
            let entry = [vec![0], with(2, name.as_bytes().to_vec())].concat();
            extensions.extend([vec![0, 0], with(2, with(2, entry))].concat());
        }
        if !alpn.is_empty() {
            let names: Vec<u8> = alpn.iter().flat_map(|p| with(1, p.to_vec())).collect();
            extensions.extend([vec![0, 16], with(2, with(2, names))].concat());
        }
        let body = [vec![3, 3], vec![7; 32], vec![0], with(2, vec![0x13, 1]), with(1, vec![0]), with(2, extensions)].concat();
        let message = [vec![1], with(3, body)].concat();
        [vec![22, 3, 1], with(2, message)].concat()
    }

    #[test]
    #[doc = "[INT-7] SNI and ALPN of a ClientHello"]
    fn reads_names() {
        let Parsed::Hello(h) = parse(&sample(&[b"h2", b"fairlead/1"], Some("db.example"))) else { panic!() };
        assert!(h.offers(b"fairlead/1") && !h.offers(b"http/1.1"));
        assert_eq!(h.server_name.as_deref(), Some("db.example"));
        assert_eq!(parse(&sample(&[], None)), Parsed::Hello(Hello::default()));
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let whole = sample(&[b"fairlead/1"], Some("a"));
        for n in 0..whole.len() {
            assert_eq!(parse(&whole[..n]), Parsed::NeedMore, "{n}");
        }
    }

    #[test]
    fn a_hello_cut_into_records_is_read() {
        let whole = sample(&[b"fairlead/1"], Some("a"));
        let mut cut = Vec::new();
        for piece in whole[5..].chunks(9) {
            cut.extend([22, 3, 1, 0, piece.len() as u8]);
            cut.extend_from_slice(piece);
        }
        assert!(matches!(parse(&cut), Parsed::Hello(h) if h.offers(b"fairlead/1")));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn never_panics_on_damaged_hellos(at in 0usize..120, with in any::<u8>(), cut in 0usize..130) {
            let mut bytes = sample(&[b"h2", b"fairlead/1"], Some("db.example"));
            let at = at % bytes.len();
            bytes[at] = with;
            bytes.truncate(cut.max(1));
            let _ = parse(&bytes);
        }
    }
}
