//! One target per parser of network bytes.
pub fn find(_: &str) -> Option<fn(&[u8])> { Some(fairlead_touch) }
pub fn names() -> String { String::new() }
fn fairlead_touch(b: &[u8]) { let _ = fairlead::detect::detect(b); }
