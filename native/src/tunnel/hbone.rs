//! Endpoints that are spoken to in HBONE. Not spoken yet: such an endpoint is refused with a reason of its own, so that
//! nothing ever falls back to plaintext (rule DP-9).

use crate::reason::Reason;

/// Why an endpoint of mode `hbone` cannot be used.
pub const UNSUPPORTED: Reason = Reason::UnsupportedMode;
