//! Sockets of one kind that were made ahead, for whoever needs one next. What nobody needed for a while is let go: a pod at rest holds none.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// Looks (`age`) without a socket taken between them after which none is kept.
const IDLE_LOOKS: u32 = 6;

/// See the module. Thread-safe.
#[derive(Debug, Default)]
pub struct Stock {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    sockets: Vec<OwnedFd>,
    /// Looks since one was last taken.
    looks: u32,
}

impl Stock {
    /// One socket; `make` gives a few where none is left. Its error, or that it gave none, is the caller's.
    pub fn take(&self, make: impl FnOnce() -> io::Result<Vec<OwnedFd>>) -> io::Result<OwnedFd> {
        // A panic elsewhere leaves a list of sockets that is as good as before.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.looks = 0;
        if kept.sockets.is_empty() {
            kept.sockets = make()?;
        }
        kept.sockets.pop().ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Called every few seconds.
    pub fn age(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.looks = kept.looks.saturating_add(1);
        if kept.looks >= IDLE_LOOKS {
            kept.sockets = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{IDLE_LOOKS, Stock};
    use std::fs::File;
    use std::io;
    use std::os::fd::OwnedFd;

    fn three() -> io::Result<Vec<OwnedFd>> {
        (0..3).map(|_| File::open("/dev/null").map(OwnedFd::from)).collect()
    }

    fn none_made() -> io::Result<Vec<OwnedFd>> {
        panic!("there are some");
    }

    #[doc = "[DP-21] sockets that were made ahead and that nobody needed are closed; those in use go on as before"]
    #[test]
    fn what_nobody_needs_is_let_go() {
        let stock = Stock::default();
        drop(stock.take(three).unwrap());
        for _ in 1..IDLE_LOOKS {
            stock.age();
        }
        // Taken before the last look: the time begins anew.
        drop(stock.take(none_made).unwrap());
        for _ in 1..IDLE_LOOKS {
            stock.age();
        }
        assert_eq!(stock.kept.lock().unwrap().sockets.len(), 1);
        stock.age();
        assert!(stock.kept.lock().unwrap().sockets.is_empty());
        stock.age();
        drop(stock.take(three).unwrap());
        assert_eq!(stock.kept.lock().unwrap().sockets.len(), 2);
    }

    #[test]
    fn what_cannot_be_made_is_an_error() {
        let stock = Stock::default();
        assert_eq!(stock.take(|| Err(io::ErrorKind::PermissionDenied.into())).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(stock.take(|| Ok(Vec::new())).is_err());
        drop(stock.take(three).unwrap());
    }
}
