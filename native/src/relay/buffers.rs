//! Receive buffers of one worker: taken when bytes arrive, given back when none wait, so an idle connection holds none.

/// Buffers kept for reuse; more than that go back to the allocator.
const KEPT: usize = 64;

pub struct Buffers {
    size: usize,
    free: Vec<Vec<u8>>,
}

impl Buffers {
    pub fn new(size: usize) -> Self {
        Self { size, free: Vec::new() }
    }

    /// A buffer of the full size; its contents are whatever was in it.
    pub fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| vec![0; self.size])
    }

    pub fn give(&mut self, buffer: Vec<u8>) {
        if self.free.len() < KEPT && buffer.len() == self.size {
            self.free.push(buffer);
        }
    }
}
