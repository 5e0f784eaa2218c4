//! Deadlines of one worker, coarse (10 ms) and never cancelled: an entry whose owner moved on is dropped when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Connection: slot, generation, and its `step` when the deadline was set.
    Conn(u32, u32, u32),
    Tunnel(u32, u32, u32),
    Question(u64),
    /// A join's thread is told how far it is.
    Join(u32, u32),
    Sweep,
    Drain,
    /// A pod that is leaving, by its number: nothing comes to its listeners any more.
    Listeners(u32),
}

impl Timer {
    pub fn conn(key: Key, step: u32) -> Self {
        Timer::Conn(key.index, key.generation, step)
    }

    pub fn tunnel(key: Key, step: u32) -> Self {
        Timer::Tunnel(key.index, key.generation, step)
    }
}

#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(u64, Timer)>>,
}

const GRAIN_MS: u64 = 10;

impl Timers {
    pub fn set(&mut self, now_ms: u64, after_ms: u64, timer: Timer) {
        let at = (now_ms + after_ms).div_ceil(GRAIN_MS) * GRAIN_MS;
        self.heap.push(Reverse((at, timer)));
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub fn due(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next_ms()? > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}
