//! One error type for calls over the channel: a stable code that TypeScript and documents can rely on, and a text for people.

use std::fmt;

/// Why a call failed. `code` is stable and documented in `docs/native-channel.md`; `message` is for people and names the fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: &'static str,
    pub message: String,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Wraps the error of an operating-system call with what was attempted.
    pub fn os(code: &'static str, what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(code, format!("{what}: {error}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}
