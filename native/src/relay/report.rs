//! What a worker has to tell of its connections: openings as counts, ends as records, sent together every few milliseconds.

use std::collections::HashMap;

use super::conn::Conn;
use super::shared::Shared;
use crate::channel::RECORDS;
use crate::record::{self, FLAG_OPENED, Opened, Record};

/// Rows wait at most this long, or until so many are together.
const FLUSH_US: u64 = 50_000;
const FLUSH_RECORDS: usize = 256;

#[derive(Default)]
pub struct Report {
    records: Vec<u8>,
    opened: HashMap<Opened, u64>,
    /// Since when something waits.
    since_us: u64,
}

impl Report {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.opened.is_empty()
    }

    fn begin(&mut self, now_us: u64) {
        if self.is_empty() {
            self.since_us = now_us;
        }
    }

    /// A connection carries bytes from now on. Counted by what its series is known by, so that a thousand of one kind are one row.
    pub fn opened(&mut self, conn: &mut Conn, now_us: u64) {
        self.begin(now_us);
        conn.flags |= FLAG_OPENED;
        let plan = conn.plan.as_ref().map_or(0, |p| p.id);
        let row = Opened { inbound: conn.inbound, lane: conn.lane, plan, verdict: conn.verdict, endpoint: conn.endpoint };
        *self.opened.entry(row).or_default() += 1;
    }

    /// True: enough are together, flush.
    pub fn ended(&mut self, record: &Record, now_us: u64) -> bool {
        self.begin(now_us);
        self.records.extend_from_slice(&record.encode());
        self.records.len() >= FLUSH_RECORDS * record::SIZE
    }

    /// When `flush` is due, µs; `None` while nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.since_us + FLUSH_US)
    }

    /// Sends what waits, openings first: no end is told of before its beginning.
    pub fn flush(&mut self, shared: &Shared) {
        if self.is_empty() {
            return;
        }
        if !self.opened.is_empty() {
            let ends = std::mem::take(&mut self.records);
            self.records = Vec::with_capacity(ends.len() + self.opened.len() * record::SIZE);
            for (row, count) in self.opened.drain() {
                self.records.extend_from_slice(&row.encode(count));
            }
            self.records.extend_from_slice(&ends);
        }
        if !shared.channel.send(RECORDS, &self.records) {
            shared.counters.add("records_lost", (self.records.len() / record::SIZE) as u64);
        }
        self.records.clear();
    }
}
