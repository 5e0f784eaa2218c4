//! Objects of `bpf/prebuilt` into the kernel: maps pinned and shared between them, links pinned so that they outlive the
//! agent, programs replaced in place.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libbpf_rs::{Link, MapCore, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel, ProgramMut};

use super::config::KernelConfig;
use super::copies::Copies;
use super::layout::{self, GuardPod};
use super::maps::pin_path;
use crate::fault::Fault;
use crate::sys;

/// Objects whose programs are attached at the cgroup, in the order in which they are attached: the side that carries what
/// connect decides must be there before connect decides.
const CGROUP_OBJECTS: [&str; 2] = ["sockops.bpf.o", "connect.bpf.o"];
/// Marker folder beside the pins: whose programs are attached.
const ACTIVE: &str = "active-";
const BYPASS_OBJECT: &str = "bypass.bpf.o";
const INBOUND_OBJECT: &str = "inbound.bpf.o";
const GUARD_OBJECT: &str = "guard.bpf.o";
/// Folders of pins that belong to one pod each.
const POD_PINS: [&str; 2] = ["pods", "guards"];

/// Last complaints of libbpf, for the message of a fault.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(_: PrintLevel, text: String) {
    if let Ok(mut lines) = COMPLAINTS.lock() {
        lines.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from));
        let extra = lines.len().saturating_sub(12);
        lines.drain(..extra);
    }
}

pub(super) fn fault(what: &str, error: &libbpf_rs::Error) -> Fault {
    let lines = COMPLAINTS.lock().map(|mut l| std::mem::take(&mut *l)).unwrap_or_default();
    Fault::new("bpf_failed", format!("{what}: {error} ({})", lines.join("; ")))
}

/// Opens an object with its maps taken from the pins where there are some. A pin of another shape is refused by the
/// kernel's own comparison in libbpf and reported.
pub(super) fn open(pin_dir: &Path, name: &str, bytes: &[u8]) -> Result<OpenObject, Fault> {
    let mut object = ObjectBuilder::default()
        .name(name.trim_end_matches(".bpf.o"))
        .and_then(|builder| builder.open_memory(bytes))
        .map_err(|e| fault(&format!("open {name}"), &e))?;
    for mut map in object.maps_mut() {
        let map_name = map.name().to_string_lossy().into_owned();
        if !map_name.contains('.') {
            let path = pin_path(pin_dir, &map_name);
            map.set_pin_path(&path).map_err(|e| fault(&format!("pin map {map_name}"), &e))?;
        }
    }
    Ok(object)
}

/// Where programs and pins are.
pub struct Loader {
    bpf_dir: PathBuf,
    pub pin_dir: PathBuf,
    inbound: Copies,
    guard: Copies,
}

impl Loader {
    pub fn new(config: &KernelConfig) -> Self {
        let (bpf_dir, pin_dir) = (config.bpf_dir.clone(), config.pin_dir.clone());
        let copies = |name| Copies::new(name, &bpf_dir, &pin_dir);
        let (inbound, guard) = (copies(INBOUND_OBJECT), copies(GUARD_OBJECT));
        Self { bpf_dir, pin_dir, inbound, guard }
    }

    /// Makes the pin folders, mounting a BPF file system at the pin folder if it does not lie on one.
    pub fn prepare(&self) -> Result<(), Fault> {
        libbpf_rs::set_print(Some((PrintLevel::Warn, note)));
        let make = |path: &Path| fs::create_dir_all(path).map_err(|e| Fault::os("pin_failed", path.display(), &e));
        make(&self.pin_dir)?;
        if !sys::is_bpffs(&self.pin_dir).map_err(|e| Fault::os("pin_failed", self.pin_dir.display(), &e))? {
            sys::mount_bpffs(&self.pin_dir)
                .map_err(|e| Fault::os("pin_failed", format!("mount a BPF file system at {}", self.pin_dir.display()), &e))?;
        }
        for folder in ["frozen", layout::VERSION, "links"].into_iter().chain(POD_PINS) {
            make(&self.pin_dir.join(folder))?;
        }
        Ok(())
    }

    /// Bytes of an object file.
    fn read(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let path = self.bpf_dir.join(name);
        fs::read(&path).map_err(|e| Fault::os("bpf_missing", format!("read {}", path.display()), &e))
    }

    fn load(&self, name: &str) -> Result<Object, Fault> {
        let bytes = self.read(name)?;
        open(&self.pin_dir, name, &bytes)?.load().map_err(|e| fault(&format!("load {name}"), &e))
    }

    /// Loads the programs of the cgroup and makes the maps; nothing is attached yet.
    pub fn load_cgroup_programs(&self) -> Result<Vec<Object>, Fault> {
        CGROUP_OBJECTS.iter().map(|name| self.load(name)).collect()
    }

    /// Attaches every program, or replaces the one that is attached; true if all were replaced.
    pub fn attach(&self, objects: &[Object], cgroup: BorrowedFd<'_>) -> Result<bool, Fault> {
        let mut replaced = true;
        for program in objects.iter().flat_map(|object| object.progs_mut()) {
            let name = program.name().to_string_lossy().into_owned();
            let pin = self.pin_dir.join("links").join(&name);
            replaced &= replace_or(&pin, &program, || program.attach_cgroup(cgroup.as_raw_fd())?.pin(&pin))
                .map_err(|e| fault(&format!("attach {name}"), &e))?;
        }
        Ok(replaced)
    }

    /// Puts sk_msg on the sockets that join the bypass from now on; the pinned map keeps it.
    pub fn attach_bypass(&self) -> Result<(), Fault> {
        let object = self.load(BYPASS_OBJECT)?;
        let map = object.maps().find(|map| map.name() == "bypass");
        let (Some(map), Some(program)) = (map, object.progs_mut().next()) else {
            return Err(Fault::new("bpf_failed", format!("{BYPASS_OBJECT} lacks its map or program; run npm run gen")));
        };
        program.attach_sockmap(map.as_fd().as_raw_fd()).map_err(|e| fault("attach sk_msg", &e))
    }

    /// Puts the pod's own copy of sk_lookup in place.
    pub fn attach_inbound(&self, cookie: u64, namespace: BorrowedFd<'_>) -> Result<(), Fault> {
        let prefix = format!("{cookie:016x}-");
        self.place(&self.inbound, "pods", &prefix, &cookie.to_le_bytes(), |program| sys::attach_sk_lookup(program, namespace))
    }

    /// Whether the pod has a copy, of whatever version.
    pub fn has_inbound(&self, cookie: u64) -> Result<bool, Fault> {
        Ok(!pins(&self.pin_dir.join("pods"), &format!("{cookie:016x}-"))?.is_empty())
    }

    /// Puts the pod's own copy of the guard at an interface of the node.
    pub fn attach_guard(&self, pod: &GuardPod, interface: u32) -> Result<(), Fault> {
        let prefix = format!("{:016x}-{interface}-", pod.cookie);
        self.place(&self.guard, "guards", &prefix, &pod.encode(), |program| sys::attach_tcx(program, interface))
    }

    /// Makes a copy ahead of each program of which pods have their own, if there are not enough.
    pub fn make_ahead(&self) -> Result<(), Fault> {
        self.inbound.make_ahead()?;
        self.guard.make_ahead()
    }

    /// Puts a copy, which knows `baked`, in place of the one that the prefix names, or attaches and pins it; the pin's name says of
    /// which build it is, so that one which is already right is left alone.
    fn place(
        &self,
        copies: &Copies,
        folder: &str,
        prefix: &str,
        baked: &[u8],
        attach: impl Fn(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    ) -> Result<(), Fault> {
        let folder = self.pin_dir.join(folder);
        let wanted = folder.join(format!("{prefix}{}-{:016x}", layout::VERSION, copies.fingerprint(baked)?));
        let present = pins(&folder, prefix)?.into_iter().next();
        if present.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let copy = copies.take(baked)?;
        let program = copy.program();
        let pin = present.unwrap_or_else(|| wanted.clone());
        let attach = || attach(program).and_then(|link| sys::pin_object(link.as_fd(), &pin));
        let placed = if pin.exists() {
            // Its interface may have gone and come again meanwhile: the link is there and holds nothing.
            sys::update_link(&pin, program).or_else(|e| if fs::remove_file(&pin).is_ok() { attach() } else { Err(e) })
        } else {
            attach()
        };
        placed.map_err(|e| Fault::os("bpf_failed", format!("attach {}", wanted.display()), &e))?;
        if pin != wanted {
            fs::rename(&pin, &wanted).map_err(|e| Fault::os("pin_failed", wanted.display(), &e))?;
        }
        Ok(())
    }

    /// Every pinned sk_lookup: cookie and path.
    pub fn inbound_pins(&self) -> Result<Vec<(u64, PathBuf)>, Fault> {
        let entries = fs::read_dir(self.pin_dir.join("pods")).map_err(|e| Fault::os("pin_failed", "list pods", &e))?;
        let parse = |name: &str| u64::from_str_radix(name.split('-').next()?, 16).ok();
        Ok(entries.flatten().filter_map(|e| Some((parse(&e.file_name().to_string_lossy())?, e.path()))).collect())
    }

    /// Version whose programs are attached, if any are.
    pub fn active_version(&self) -> Option<String> {
        let entries = fs::read_dir(&self.pin_dir).ok()?.flatten();
        entries.filter_map(|e| Some(e.file_name().to_string_lossy().strip_prefix(ACTIVE)?.to_string())).next()
    }

    /// Cookies of the pods that another version has enrolled.
    pub fn pods_of(&self, version: &str) -> HashSet<u64> {
        let Ok(map) = MapHandle::from_pinned_path(self.pin_dir.join(version).join("pods")) else { return HashSet::new() };
        map.keys().filter_map(|key| Some(u64::from_le_bytes(key.get(..8)?.try_into().ok()?))).collect()
    }

    /// Notes that this version's programs are the attached ones now and drops the pins of all others: their maps live on
    /// only as long as an old agent holds them.
    pub fn set_active(&self) -> Result<(), Fault> {
        let marker = self.pin_dir.join(format!("{ACTIVE}{}", layout::VERSION));
        let failed = |e: io::Error| Fault::os("pin_failed", marker.display(), &e);
        match self.active_version() {
            Some(version) if version == layout::VERSION => return Ok(()),
            Some(version) => fs::rename(self.pin_dir.join(format!("{ACTIVE}{version}")), &marker).map_err(failed)?,
            None => fs::create_dir(&marker).map_err(failed)?,
        }
        let entries = fs::read_dir(&self.pin_dir).map_err(failed)?.flatten();
        for entry in entries.filter(|e| is_version(&e.file_name().to_string_lossy()) && e.file_name() != layout::VERSION) {
            remove_folder(&entry.path())?;
        }
        Ok(())
    }

    /// Removes a pod's own programs; they end when their pins go.
    pub fn detach_pod(&self, cookie: u64) -> Result<(), Fault> {
        POD_PINS.iter().try_for_each(|folder| self.remove_pins(folder, &format!("{cookie:016x}-")))
    }

    /// Removes a pod's guards.
    pub fn detach_guard(&self, cookie: u64) -> Result<(), Fault> {
        self.remove_pins("guards", &format!("{cookie:016x}-"))
    }

    fn remove_pins(&self, folder: &str, prefix: &str) -> Result<(), Fault> {
        let remove = |path: &PathBuf| fs::remove_file(path).map_err(|e| Fault::os("pin_failed", path.display(), &e));
        pins(&self.pin_dir.join(folder), prefix)?.iter().try_for_each(remove)
    }

    /// Removes every link and pin of ours, of all versions.
    pub fn unload(&self) -> Result<(), Fault> {
        // Links first: programs must not run on without the maps that the agent can reach.
        let mut folders = vec!["links".to_string(), "frozen".into()];
        folders.extend(POD_PINS.map(String::from));
        let entries = fs::read_dir(&self.pin_dir).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        folders.extend(names.filter(|name| is_version(name) || name.starts_with(ACTIVE)));
        folders.iter().try_for_each(|folder| remove_folder(&self.pin_dir.join(folder)))
    }
}

/// Pins of a folder whose names begin so; none if there is no such folder.
fn pins(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>, Fault> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Fault::os("pin_failed", folder.display(), &e)),
        Ok(entries) => Ok(entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect()),
    }
}

fn remove_folder(path: &Path) -> Result<(), Fault> {
    let failed = |path: &Path, e: io::Error| Fault::os("pin_failed", path.display(), &e);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).map_err(|e| failed(&entry.path(), e))?;
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, e)),
        _ => Ok(()),
    }
}

fn is_version(name: &str) -> bool {
    name.len() == layout::VERSION.len() && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Replaces the program of a pinned link, or has `attach` make and pin one. True if replaced.
fn replace_or(pin: &Path, program: &ProgramMut<'_>, attach: impl FnOnce() -> libbpf_rs::Result<()>) -> libbpf_rs::Result<bool> {
    if pin.exists() {
        Link::open(pin)?.update_prog(program)?;
        return Ok(true);
    }
    attach().map(|()| false)
}

/// Opens a folder for use as an attach point.
pub fn open_cgroup(path: &Path) -> Result<fs::File, Fault> {
    fs::File::open(path).map_err(|e| Fault::os("no_cgroup", format!("open cgroup {}", path.display()), &e))
}
