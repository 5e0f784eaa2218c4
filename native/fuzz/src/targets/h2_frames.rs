//! HTTP/2 frames (RFC 9113 §4.1) as far as a client must read them to know what its own input asked for and what came back.

use std::collections::BTreeMap;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// HPACK's index of `:status: 200` (RFC 7541 appendix A), which the server's answers begin with.
const STATUS_200: u8 = 0x88;
/// Our own PING behind the input.
pub const MARK: [u8; 8] = *b"fuzz end";

#[derive(Default)]
pub struct Stream {
    pub data: Vec<u8>,
    pub ended: bool,
    pub reset: bool,
    pub accepted: bool,
    pub heads: usize,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Heard {
    pub streams: BTreeMap<u32, Stream>,
    /// The PING behind the input was answered: everything before it was read.
    pub marked: bool,
    pub goaway: bool,
    /// Changes how much may be sent on a stream.
    pub windows: bool,
    rest: Vec<u8>,
}

impl Heard {
    /// Takes more bytes; what is no whole frame waits.
    pub fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let Some(payload) = self.rest.get(at + 9..at + 9 + length) else { break };
            let payload = payload.to_vec();
            self.frame(kind, flags, stream, &payload);
            at += 9 + length;
        }
        self.rest.drain(..at);
    }

    /// Between frames.
    pub fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        match kind {
            SETTINGS if flags & ACK == 0 => {
                self.windows |= payload.chunks(6).any(|s| s.len() == 6 && u16::from_be_bytes([s[0], s[1]]) == INITIAL_WINDOW_SIZE);
            }
            PING if flags & ACK != 0 => self.marked |= payload == MARK,
            GOAWAY => self.goaway = true,
            DATA | HEADERS | RST_STREAM => {
                let s = self.streams.entry(stream).or_default();
                match kind {
                    RST_STREAM => s.reset = true,
                    HEADERS => {
                        s.heads += 1;
                        s.accepted |= payload.first() == Some(&STATUS_200);
                        s.ended |= flags & END_STREAM != 0;
                    }
                    // Data behind the end is a breach, which is not answered with an echo.
                    _ if s.ended => {}
                    _ => {
                        let padding = if flags & PADDED == 0 { None } else { payload.first().map(|p| usize::from(*p)) };
                        let body = match padding {
                            None => payload,
                            Some(n) => payload.get(1..payload.len().saturating_sub(n).max(1)).unwrap_or(&[]),
                        };
                        s.data.extend_from_slice(body);
                        s.ended = flags & END_STREAM != 0;
                    }
                }
            }
            _ => {}
        }
    }
}

/// The PING that tells how far the server is.
pub fn mark() -> Vec<u8> {
    [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], &MARK].concat()
}
