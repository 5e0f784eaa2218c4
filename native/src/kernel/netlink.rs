//! Netlink requests as bytes: just enough of rtnetlink for policy routes, of sock_diag to list, find and end sockets, and of ctnetlink.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use crate::sys;

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const EXCL: u16 = 0x200;
pub const REPLACE: u16 = 0x100;
pub const CREATE: u16 = 0x400;
pub const DUMP: u16 = 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// An attribute that holds attributes says so in its kind (NLA_F_NESTED, NLA_TYPE_MASK in linux/netlink.h).
pub const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// A netlink socket of the namespace in which it was opened.
pub struct Netlink {
    file: File,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the calling thread's namespace.
    pub fn open(protocol: i32) -> io::Result<Self> {
        let fd: OwnedFd = sys::netlink_socket(protocol)?;
        Ok(Self { file: File::from(fd), buffer: vec![0; 65_536] })
    }

    /// Sends one request and hands the body of every message of the answer to `each`; returns when the kernel is done.
    pub fn request(&mut self, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        self.file.write_all(&bytes)?;
        loop {
            let n = self.file.read(&mut self.buffer)?;
            let mut rest = &self.buffer[..n];
            while rest.len() >= HEADER {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                if length < HEADER || length > rest.len() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink message is cut off"));
                }
                let body = &rest[HEADER..length];
                match kind {
                    ERROR | DONE => return outcome(kind, body),
                    _ => each(body),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    /// A request that only says yes or no.
    pub fn command(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.request(kind, flags | ACK, body, |_| ())
    }
}

fn outcome(kind: u16, body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, code) {
        (_, 0) => Ok(()),
        (_, code) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(()),
    }
}

/// Appends an attribute, padded to four bytes.
pub fn attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    into.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

/// Value of the first attribute of a kind.
pub fn find_attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = u16::from_ne_bytes([bytes[0], bytes[1]]) as usize;
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
        if length < 4 || length > bytes.len() {
            return None;
        }
        if kind & KIND == wanted {
            return Some(&bytes[4..length]);
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_and_garbage_does_not_loop() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 7, &[1, 2, 3]);
        attribute(&mut bytes, 9, &[4]);
        assert_eq!(find_attribute(&bytes, 9), Some(&[4u8][..]));
        assert_eq!(find_attribute(&bytes, 8), None);
        attribute(&mut bytes, NESTED | 8, &[5]);
        assert_eq!(find_attribute(&bytes, 8), Some(&[5u8][..]), "the kind of a nest is its number");
        assert_eq!(find_attribute(&[0, 0, 1, 0, 9], 1), None);
        assert_eq!(find_attribute(&[255, 255, 1, 0, 9], 1), None);
    }
}
