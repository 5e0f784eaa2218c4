//! TLS 1.3 records after the handshake (RFC 8446 §5): sealed and opened where they lie, without a copy or an allocation.
//! Keys come from rustls, which also derives the next ones (§7.2); the AEADs are ring's.

use std::ops::Range;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

pub const HEADER: usize = 5;
/// Content type and tag behind the plaintext.
pub const TRAILER: usize = 1 + 16;
pub const MAX_PLAIN: usize = 16_384;
/// Largest record on the wire (§5.2).
pub const MAX_RECORD: usize = HEADER + MAX_PLAIN + 256;
/// Keys change long before the bound of AES-GCM, 2^24.5 full records (§5.5).
pub const RECORDS_PER_KEY: u64 = 1 << 23;

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// Derives traffic keys after the handshake.
pub enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

pub struct Records {
    tx: Half,
    rx: Half,
    keys: Keys,
    /// The peer asked for our next key; done before the next record.
    update_due: bool,
    /// Records that one sending key seals before the next takes over.
    pub records_per_key: u64,
}

/// What lies at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    NeedMore,
    /// A record of `used` bytes; its plaintext is at `plain` (empty for what concerns only this layer).
    Record {
        used: usize,
        plain: Range<usize>,
    },
    /// close_notify.
    Closed,
}

impl Half {
    fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets.1 {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("cipher suite without known keys".into())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::General("traffic key".into()))?;
        let iv = iv.as_ref().try_into().map_err(|_| Error::General("traffic iv".into()))?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence: secrets.0 })
    }

    /// §5.3: the sequence number, padded left, XORed into the static iv. Never used twice: it only counts up.
    fn nonce(&mut self) -> Nonce {
        let mut bytes = self.iv;
        for (b, s) in bytes[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *b ^= s;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(bytes)
    }
}

impl Records {
    pub fn new(secrets: ExtractedSecrets, keys: Keys) -> Result<Self, Error> {
        Ok(Self { tx: Half::new(secrets.tx)?, rx: Half::new(secrets.rx)?, keys, update_due: false, records_per_key: RECORDS_PER_KEY })
    }

    /// Seals `room[HEADER..HEADER + plain]` in place; `room` must have `TRAILER` bytes behind it. Returns the record's length.
    pub fn seal(&mut self, room: &mut [u8], plain: usize) -> Result<usize, Error> {
        self.seal_as(DATA, room, plain)
    }

    /// As `seal`, with any type of content: what this layer's own messages and the hostile peers of tests are made of.
    pub fn seal_as(&mut self, content: u8, room: &mut [u8], plain: usize) -> Result<usize, Error> {
        let inner = plain + 1;
        let length = inner + 16;
        if plain > MAX_PLAIN || room.len() < HEADER + length {
            return Err(Error::General("record does not fit".into()));
        }
        let head = [DATA, 3, 3, (length >> 8) as u8, length as u8];
        room[..HEADER].copy_from_slice(&head);
        room[HEADER + plain] = content;
        let nonce = self.tx.nonce();
        let tag =
            self.tx.key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut room[HEADER..HEADER + inner]).map_err(|_| Error::EncryptError)?;
        room[HEADER + inner..HEADER + length].copy_from_slice(tag.as_ref());
        Ok(HEADER + length)
    }

    /// Appends a record of this layer's own (alert, key update).
    fn push(&mut self, content: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut room = [0u8; HEADER + 16 + TRAILER];
        room[HEADER..HEADER + body.len()].copy_from_slice(body);
        let n = self.seal_as(content, &mut room, body.len())?;
        out.extend_from_slice(&room[..n]);
        Ok(())
    }

    /// Whether `refresh` must run before more is sealed: the peer asked, or this key has served long enough.
    pub fn refresh_due(&self) -> bool {
        self.update_due || self.tx.sequence >= self.records_per_key
    }

    /// Announces and takes the next sending key (§4.6.3); `ask`: the peer is to do the same.
    pub fn refresh(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        self.push(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(ask)], out)?;
        self.update_due = false;
        self.tx = Half::new(match &mut self.keys {
            Keys::Client(k) => k.update_tx_secret()?,
            Keys::Server(k) => k.update_tx_secret()?,
        })?;
        Ok(())
    }

    pub fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.push(ALERT, &[1, 0], out)
    }

    /// Opens the record at the start of `input`, in place.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, Error> {
        let Some(head) = input.first_chunk::<HEADER>().copied() else { return Ok(Opened::NeedMore) };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != DATA || !(TRAILER..=MAX_RECORD - HEADER).contains(&length) {
            return Err(Error::PeerMisbehaved(rustls::PeerMisbehaved::IllegalMiddleboxChangeCipherSpec));
        }
        let used = HEADER + length;
        if input.len() < used {
            return Ok(Opened::NeedMore);
        }
        let nonce = self.rx.nonce();
        let inner = self.rx.key.open_in_place(nonce, Aad::from(head), &mut input[HEADER..used]).map_err(|_| Error::DecryptError)?;
        let Some(last) = inner.iter().rposition(|b| *b != 0) else { return Err(Error::DecryptError) };
        if last > MAX_PLAIN {
            return Err(Error::PeerSentOversizedRecord);
        }
        match inner[last] {
            DATA => Ok(Opened::Record { used, plain: HEADER..HEADER + last }),
            ALERT if last == 2 && inner[1] == 0 => Ok(Opened::Closed),
            ALERT if last == 2 => Err(Error::AlertReceived(rustls::AlertDescription::from(inner[1]))),
            HANDSHAKE => {
                let asked = handshake(&inner[..last])?;
                if let Some(asked) = asked {
                    self.update_due |= asked;
                    self.rx = Half::new(match &mut self.keys {
                        Keys::Client(k) => k.update_rx_secret()?,
                        Keys::Server(k) => k.update_rx_secret()?,
                    })?;
                }
                Ok(Opened::Record { used, plain: HEADER..HEADER })
            }
            _ => Err(Error::DecryptError),
        }
    }
}

/// Post-handshake messages: tickets are ignored (no resumption, rule DP-16); `Some(asked)` for a key update.
fn handshake(message: &[u8]) -> Result<Option<bool>, Error> {
    match message {
        [NEW_SESSION_TICKET, ..] => Ok(None),
        [KEY_UPDATE, 0, 0, 1, asked @ (0 | 1)] => Ok(Some(*asked == 1)),
        _ => Err(Error::General("unexpected post-handshake message".into())),
    }
}
