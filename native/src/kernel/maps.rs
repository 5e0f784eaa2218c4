//! The pinned maps by name: raw bytes in and out. Only the agent (TypeScript) and `pods.rs` give the bytes a meaning.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use super::layout;
use crate::fault::Fault;

/// Key and value of one row.
pub type Row = (Vec<u8>, Vec<u8>);

/// Handles of all maps of the running version.
pub struct Maps {
    by_name: HashMap<&'static str, MapHandle>,
}

fn failed(what: &str, map: &str, error: &libbpf_rs::Error) -> Fault {
    Fault::new("map_failed", format!("{what} {map}: {error}"))
}

fn os_code(error: &libbpf_rs::Error) -> libbpf_rs::ErrorKind {
    error.kind()
}

/// Folder of a map below the pin folder: those that all versions share live beside the versions.
pub fn pin_path(pin_dir: &Path, map: &str) -> PathBuf {
    let folder = if layout::FROZEN.contains(&map) { "frozen" } else { layout::VERSION };
    pin_dir.join(folder).join(map)
}

impl Maps {
    /// Opens every map by its pin.
    pub fn open(pin_dir: &Path) -> Result<Self, Fault> {
        let mut by_name = HashMap::new();
        for name in layout::FROZEN.iter().chain(layout::VERSIONED) {
            let path = pin_path(pin_dir, name);
            let map = MapHandle::from_pinned_path(&path).map_err(|e| failed("open", &path.display().to_string(), &e))?;
            by_name.insert(*name, map);
        }
        Ok(Self { by_name })
    }

    /// A map by name.
    pub fn get(&self, name: &str) -> Result<&MapHandle, Fault> {
        self.by_name.get(name).ok_or_else(|| {
            let mut known: Vec<_> = self.by_name.keys().copied().collect();
            known.sort_unstable();
            Fault::new("unknown_map", format!("map {name:?} does not exist; there are {}", known.join(", ")))
        })
    }

    /// Writes one row, replacing what is there.
    pub fn put(&self, name: &str, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let map = self.get(name)?;
        let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
        if key.len() != key_size || value.len() != value_size {
            let text = format!("map {name}: a row is {key_size} and {value_size} bytes, got {} and {}", key.len(), value.len());
            return Err(Fault::new("bad_map_row", text));
        }
        map.update(key, value, MapFlags::ANY).map_err(|e| failed("write to", name, &e))
    }

    /// Deletes one row; false if it was not there.
    pub fn delete(&self, name: &str, key: &[u8]) -> Result<bool, Fault> {
        let map = self.get(name)?;
        if key.len() != map.key_size() as usize {
            let text = format!("map {name}: a key is {} bytes, got {}", map.key_size(), key.len());
            return Err(Fault::new("bad_map_row", text));
        }
        match map.delete(key) {
            Ok(()) => Ok(true),
            Err(e) if os_code(&e) == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed("delete from", name, &e)),
        }
    }

    /// Value of one row.
    pub fn find(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.get(name)?.lookup(key, MapFlags::ANY).map_err(|e| failed("read", name, &e))
    }

    /// Up to `limit` rows. Rows that vanish meanwhile are left out; values of per-CPU maps are summed as 64-bit numbers.
    pub fn dump(&self, name: &str, limit: usize) -> Result<Vec<Row>, Fault> {
        let map = self.get(name)?;
        if matches!(map.map_type(), MapType::SkStorage | MapType::RingBuf) {
            return Err(Fault::new("bad_map", format!("map {name} has no rows that can be listed")));
        }
        let per_cpu = map.map_type() == MapType::PercpuArray;
        let mut rows = Vec::new();
        for key in map.keys().take(limit) {
            let value = if per_cpu { self.sum(map, name, &key)? } else { self.find(name, &key)? };
            rows.extend(value.map(|value| (key, value)));
        }
        Ok(rows)
    }

    fn sum(&self, map: &MapHandle, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let per_cpu = map.lookup_percpu(key, MapFlags::ANY).map_err(|e| failed("read", name, &e))?;
        Ok(per_cpu.map(|values| {
            let sum: u64 = values.iter().filter_map(|v| Some(u64::from_le_bytes(v.get(..8)?.try_into().ok()?))).sum();
            sum.to_le_bytes().to_vec()
        }))
    }

    /// What the kernel counted, by name.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Fault> {
        let map = self.get("counters")?;
        let mut found = Vec::new();
        for (index, name) in layout::counter::NAMES.iter().filter(|(index, _)| *index != layout::counter::COUNT) {
            let value = self.sum(map, "counters", &index.to_le_bytes())?.unwrap_or_default();
            found.push((*name, value.try_into().map_or(0, u64::from_le_bytes)));
        }
        Ok(found)
    }

    /// Writes one number of `settings`.
    pub fn set(&self, index: u32, value: u64) -> Result<(), Fault> {
        self.put("settings", &index.to_le_bytes(), &value.to_le_bytes())
    }

    /// Marks a socket before it connects or listens; no pod can do the same.
    pub fn mark_socket(&self, socket: BorrowedFd<'_>, role: u32) -> Result<(), Fault> {
        let state = layout::SocketState { version: 1, role: role as u8, ..Default::default() };
        self.put("sockets", &socket.as_raw_fd().to_ne_bytes(), &state.encode())
    }

    /// What the programs noted about a socket.
    pub fn socket_state(&self, socket: BorrowedFd<'_>) -> Result<Option<layout::SocketState>, Fault> {
        let bytes = self.find("sockets", &socket.as_raw_fd().to_ne_bytes())?;
        Ok(bytes.and_then(|bytes| layout::SocketState::decode(&bytes)))
    }
}
