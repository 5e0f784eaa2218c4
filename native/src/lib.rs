//! Kernel side, tunnel and byte copying of the node agent, behind a small C ABI (see `docs/native-channel.md`). Panics stop
//! here. With `sys.rs` the only file that may use `unsafe`.
#![allow(unsafe_code)]

pub mod calls;
pub mod channel;
pub mod config;
pub mod control;
pub mod detect;
pub mod fault;
pub mod hbone;
pub mod kernel;
pub mod kernel_calls;
pub mod reason;
pub mod record;
pub mod relay;
pub mod seam;
pub mod sys;
pub mod tls;
pub mod tunnel;

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::panic::catch_unwind;
use std::sync::Mutex;

/// Must equal `NATIVE_ABI_VERSION` of `agent/native.ts`.
pub const ABI_VERSION: i32 = 1;

static LAST_ERROR: Mutex<Option<CString>> = Mutex::new(None);

/// A borrow of a descriptor that `_owner` keeps open.
pub(crate) fn borrow_fd<T>(fd: RawFd, _owner: &T) -> BorrowedFd<'_> {
    // SAFETY: callers pass the owner of the descriptor, which lives as long as the result.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn fail(text: &str, code: i32) -> i32 {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    if let Ok(mut last) = LAST_ERROR.lock() {
        *last = Some(text);
    }
    code
}

fn start(config: &CStr) -> i32 {
    let text = match config.to_str() {
        Ok(text) => text,
        Err(_) => return fail("config is not UTF-8", -libc::EINVAL),
    };
    let config = match config::Config::parse(text) {
        Ok(config) => config,
        Err(error) => return fail(&error, -libc::EINVAL),
    };
    match control::start(config) {
        Ok(started) => started.agent.into_raw_fd(),
        Err(error) => fail(&format!("start: {error}"), -error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn fl_abi_version() -> i32 {
    ABI_VERSION
}

/// Starts the native side; the descriptor of the channel, or a negative errno with the reason in `fl_last_error`.
///
/// # Safety
/// `config` is a NUL-terminated string, or null (an error).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_start(config: *const c_char) -> i32 {
    if config.is_null() {
        return fail("config is null", -libc::EINVAL);
    }
    // SAFETY: the caller's contract.
    let config = unsafe { CStr::from_ptr(config) };
    catch_unwind(|| start(config)).unwrap_or_else(|_| fail("start panicked", -libc::EIO))
}

/// Text of the last failure; valid until the next one.
#[unsafe(no_mangle)]
pub extern "C" fn fl_last_error() -> *const c_char {
    LAST_ERROR.lock().ok().and_then(|last| last.as_ref().map(|text| text.as_ptr())).unwrap_or(c"".as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn fl_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
