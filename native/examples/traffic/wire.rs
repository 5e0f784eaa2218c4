//! What the two sides say to each other: a 32-byte head names seed, sizes and who closes first; every byte after it follows from the head.

use std::io::ErrorKind;

use rustix::net::Shutdown;
use tokio::net::TcpStream;

/// Who sends and closes when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The client sends, the server answers after the last byte, the client closes.
    Request,
    /// The client sends and half closes, the server answers and closes.
    ClientFin,
    /// The server sends and half closes, then the client sends and closes.
    ServerFin,
    /// Each sends at once and half closes.
    Both,
    /// Rounds of 32 bytes, each answered by the hash over all that ever came.
    Idle,
    /// The server's counts as JSON.
    Stats,
}

const ORDERS: [(&str, Order); 6] = [
    ("request", Order::Request),
    ("client-fin", Order::ClientFin),
    ("server-fin", Order::ServerFin),
    ("both", Order::Both),
    ("idle", Order::Idle),
    ("stats", Order::Stats),
];

impl Order {
    pub fn named(name: &str) -> Option<Self> {
        ORDERS.iter().find(|(n, _)| *n == name).map(|(_, order)| *order)
    }
    pub fn name(self) -> &'static str {
        ORDERS[self as usize].0
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub order: Order,
    pub seed: u32,
    pub up: u32,
    pub down: u32,
}

pub const HEAD: usize = 32;
const MAGIC: [u8; 4] = *b"FLT1";

impl Head {
    pub fn encode(&self) -> [u8; HEAD] {
        let mut b = [0; HEAD];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = self.order as u8;
        b[8..12].copy_from_slice(&self.seed.to_be_bytes());
        b[12..16].copy_from_slice(&self.up.to_be_bytes());
        b[16..20].copy_from_slice(&self.down.to_be_bytes());
        b
    }

    /// None for anything that is not a head: bytes were lost or changed on the way.
    pub fn decode(b: &[u8; HEAD]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let (_, order) = *ORDERS.get(usize::from(b[4]))?;
        (b[..4] == MAGIC).then(|| Self { order, seed: word(8), up: word(12), down: word(16) })
    }
}

/// Finaliser of MurmurHash3: every bit of the input reaches every bit of the output.
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// The bytes of one direction, from a seed: equal on both sides, different at every place, cheap to make.
pub struct Keystream {
    key: u32,
    at: u64,
}

pub const UP: u32 = 0x75_70;
pub const DOWN: u32 = 0x64_6f;

impl Keystream {
    pub fn new(seed: u32, direction: u32) -> Self {
        Self { key: mix(seed ^ mix(direction)), at: 0 }
    }

    /// The four bytes at place `4 * index`.
    fn word(key: u32, index: u32) -> [u8; 4] {
        mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9))).to_le_bytes()
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        let (key, mut index) = (self.key, (self.at >> 2) as u32);
        let within = (self.at & 3) as usize;
        self.at += out.len() as u64;
        let (first, rest) = out.split_at_mut(((4 - within) & 3).min(out.len()));
        if within > 0 {
            first.copy_from_slice(&Self::word(key, index)[within..within + first.len()]);
            index = index.wrapping_add(1);
        }
        // Without dependence between words, so that the compiler makes vector code of it.
        let mut words = rest.chunks_exact_mut(4);
        for word in &mut words {
            word.copy_from_slice(&Self::word(key, index));
            index = index.wrapping_add(1);
        }
        let last = words.into_remainder();
        last.copy_from_slice(&Self::word(key, index)[..last.len()]);
    }
}

/// Checks that what arrives is exactly the keystream, and how much of it.
pub struct Checker {
    stream: Keystream,
    expected: u64,
    pub received: u64,
    same: bool,
    scratch: Vec<u8>,
}

impl Checker {
    pub fn new(seed: u32, direction: u32, expected: u32) -> Self {
        Self { stream: Keystream::new(seed, direction), expected: u64::from(expected), received: 0, same: true, scratch: Vec::new() }
    }
    pub fn take(&mut self, chunk: &[u8]) {
        self.received += chunk.len() as u64;
        self.scratch.resize(chunk.len(), 0);
        self.stream.fill(&mut self.scratch);
        self.same &= self.scratch == chunk;
    }
    pub fn whole(&self) -> bool {
        self.same && self.received == self.expected
    }
    pub fn complete(&self) -> bool {
        self.received >= self.expected
    }
    /// For messages.
    pub fn fault(&self) -> String {
        match self.same {
            true => format!("{} of {} bytes", self.received, self.expected),
            false => format!("bytes differ within the first {}", self.received),
        }
    }
}

const CHUNK: usize = 64 * 1024;

/// Some bytes, 0 at the end of the stream. @errors as of recv(2)
pub async fn read(stream: &TcpStream, room: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.try_read(room) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => stream.readable().await?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Fills `room`. False: the stream ended before.
pub async fn read_exact(stream: &TcpStream, room: &mut [u8]) -> std::io::Result<bool> {
    let mut have = 0;
    while have < room.len() {
        match read(stream, &mut room[have..]).await? {
            0 => return Ok(false),
            n => have += n,
        }
    }
    Ok(true)
}

pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => bytes = &bytes[n..],
        }
    }
    Ok(())
}

/// Half closes.
pub fn finish(stream: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::shutdown(stream, Shutdown::Write)?)
}

/// Sends `first` and then `length` bytes of the keystream, with back-pressure.
pub async fn send(stream: &TcpStream, first: &[u8], seed: u32, direction: u32, length: u32) -> std::io::Result<()> {
    let mut keystream = Keystream::new(seed, direction);
    let mut room = first.to_vec();
    let mut left = length as usize;
    loop {
        let size = left.min(CHUNK);
        let at = room.len();
        room.resize(at + size, 0);
        keystream.fill(&mut room[at..]);
        write_all(stream, &room).await?;
        left -= size;
        if left == 0 {
            return Ok(());
        }
        room.clear();
    }
}

/// Reads to the end of the stream and checks all of it.
pub async fn read_to_end(stream: &TcpStream, checker: &mut Checker) -> std::io::Result<()> {
    let mut room = vec![0; CHUNK];
    loop {
        match read(stream, &mut room).await? {
            0 => return Ok(()),
            n => checker.take(&room[..n]),
        }
    }
}

/// Short stable name of an error, as the system calls it.
pub fn name_of(error: &std::io::Error) -> String {
    let code = error.raw_os_error().unwrap_or(0);
    let known = [
        (libc::ECONNRESET, "ECONNRESET"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ECONNABORTED, "ECONNABORTED"),
        (libc::EPIPE, "EPIPE"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EACCES, "EACCES"),
        (libc::EPERM, "EPERM"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTCONN, "ENOTCONN"),
    ];
    known.iter().find(|(number, _)| *number == code).map_or_else(|| error.to_string(), |(_, name)| (*name).to_string())
}
