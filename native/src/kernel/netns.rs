//! Work inside another network namespace, on the calling thread, which always comes back to its own.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys;

thread_local! {
    /// The namespace that this thread lives in, opened once. Held per thread: a descriptor of `/proc/self` would be the
    /// main thread's.
    static HOME: OnceCell<File> = const { OnceCell::new() };
}

/// Brings the thread home, whatever happened meanwhile.
struct Return;

impl Drop for Return {
    fn drop(&mut self) {
        let home = HOME.with(|home| home.get().map(|file| sys::set_netns(file.as_fd())));
        if !matches!(home, Some(Ok(()))) {
            // Going on in a pod's namespace would put the agent's own traffic there.
            eprintln!("fatal: a thread cannot return to its network namespace");
            std::process::abort();
        }
    }
}

/// Runs `work` in `namespace` and comes back, also after a panic.
pub fn within<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    HOME.with(|home| {
        if home.get().is_none() {
            let _ = home.set(File::open("/proc/thread-self/ns/net")?);
        }
        Ok::<_, io::Error>(())
    })?;
    sys::set_netns(namespace)?;
    let _return = Return;
    work()
}
