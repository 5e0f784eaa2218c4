//! Programs of which every pod has a copy of its own. Parsing and checking one takes the kernel several milliseconds, and a pod's start
//! waits for two: a few are made ahead, and told whose they are when somebody needs them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::load::{fault, open};
use super::locked;
use crate::fault::Fault;

/// Copies kept of each program: pods come in bursts, and what a burst lacks is made while they wait.
const AHEAD: usize = 4;

/// A loaded program that is attached nowhere.
pub struct PodProgram {
    program: OwnedFd,
    /// Map with what the program knows of its pod.
    data: MapHandle,
}

impl PodProgram {
    /// Tells the program whose it is.
    fn bake(&self, baked: &[u8]) -> libbpf_rs::Result<()> {
        let mut value = vec![0; self.data.value_size() as usize];
        match value.get_mut(..baked.len()) {
            Some(place) => place.copy_from_slice(baked),
            None => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
        self.data.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY)
    }

    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Bytes of an object file and the name of their build.
struct Image {
    bytes: Vec<u8>,
    fingerprint: u64,
}

/// Copies of one object's program. Thread-safe.
pub struct Copies {
    name: &'static str,
    path: PathBuf,
    pin_dir: PathBuf,
    image: Mutex<Option<Arc<Image>>>,
    ready: Mutex<Vec<PodProgram>>,
}

impl Copies {
    pub fn new(name: &'static str, bpf_dir: &Path, pin_dir: &Path) -> Self {
        Self { name, path: bpf_dir.join(name), pin_dir: pin_dir.into(), image: Mutex::default(), ready: Mutex::default() }
    }

    /// Read once: a copy that was made ahead must be of the build that its pin's name tells.
    fn image(&self) -> Result<Arc<Image>, Fault> {
        let mut image = locked(&self.image);
        if let Some(image) = &*image {
            return Ok(image.clone());
        }
        let bytes = fs::read(&self.path).map_err(|e| Fault::os("bpf_missing", format!("read {}", self.path.display()), &e))?;
        let fingerprint = fingerprint(FNV_START, &bytes);
        Ok(image.insert(Arc::new(Image { bytes, fingerprint })).clone())
    }

    /// Names a copy for this pod of this build: another build, or other data, has another name.
    pub fn fingerprint(&self, baked: &[u8]) -> Result<u64, Fault> {
        Ok(fingerprint(self.image()?.fingerprint, baked))
    }

    /// A copy that knows whose it is: made ahead, or now.
    pub fn take(&self, baked: &[u8]) -> Result<PodProgram, Fault> {
        let made = locked(&self.ready).pop();
        let copy = made.map_or_else(|| self.make(), Ok)?;
        copy.bake(baked).map_err(|e| fault(&format!("tell {} its pod", self.name), &e))?;
        Ok(copy)
    }

    /// Makes one more copy ahead if there are not enough.
    pub fn make_ahead(&self) -> Result<(), Fault> {
        if locked(&self.ready).len() >= AHEAD {
            return Ok(());
        }
        // Not under the lock: whoever needs one meanwhile makes its own.
        let copy = self.make()?;
        locked(&self.ready).push(copy);
        Ok(())
    }

    fn make(&self) -> Result<PodProgram, Fault> {
        let image = self.image()?;
        let lacks = |what: &str| Fault::new("bpf_failed", format!("{} has no {what}; run npm run gen", self.name));
        let object = open(&self.pin_dir, self.name, &image.bytes)?.load().map_err(|e| fault(&format!("load {}", self.name), &e))?;
        let own = object.maps().find(|map| map.name().to_string_lossy().ends_with(".bss")).ok_or_else(|| lacks("place for the pod"))?;
        let program = object.progs().next().ok_or_else(|| lacks("program"))?;
        let program = program.as_fd().try_clone_to_owned().map_err(|e| Fault::os("bpf_failed", self.name, &e))?;
        let data = MapHandle::try_from(&own).map_err(|e| fault(&format!("data of {}", self.name), &e))?;
        Ok(PodProgram { program, data })
    }
}

/// Of nothing.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of what came before and `bytes`: names a build, protects nothing.
fn fingerprint(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
