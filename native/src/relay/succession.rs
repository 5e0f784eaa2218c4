//! A worker that dies of a bug takes its own connections with it and nothing else: another worker takes its place, with its
//! letter box and its pods. One that dies again and again is not replaced; the agent is told and ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use super::shared::Message;
use super::worker::Worker;
use crate::reason::Reason;
use crate::record::Closer;

/// This many deaths within that time, and the worker is not replaced.
pub const MOST_DEATHS: usize = 5;
pub const WINDOW: Duration = Duration::from_secs(60);

/// What a panic said.
pub fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panic without a text".into())
}

/// Runs a worker and those that take its place, until `Message::Stop`. `enrolled` posts the enrolled pods to the letter box.
pub fn run(mut worker: Worker, enrolled: impl Fn(usize)) {
    let (index, shared) = (worker.index, worker.shared.clone());
    let mut deaths: Vec<Instant> = Vec::new();
    loop {
        let message = match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => text_of(panic.as_ref()),
        };
        shared.counters.add("worker_died", 1);
        let lost = worker.conns.len();
        // Its tables may be in any state, and looking at them may panic too: then the sockets close as they are.
        let _ = catch_unwind(AssertUnwindSafe(|| worker.abandon()));
        deaths.retain(|at| at.elapsed() < WINDOW);
        deaths.push(Instant::now());
        let next = if deaths.len() >= MOST_DEATHS { None } else { worker.successor().ok() };
        shared.event("worker_died", json!({"worker": index, "message": message, "lost": lost, "restarted": next.is_some()}));
        let Some(next) = next else { return };
        worker = next;
        enrolled(index);
        let until = shared.drain_until_us.load(Ordering::Acquire);
        if until != 0 {
            shared.inboxes[index].post(Message::Drain { deadline_ms: until.saturating_sub(shared.now_us()) / 1_000 });
        }
        if shared.stopping.load(Ordering::Acquire) {
            shared.inboxes[index].post(Message::Stop);
        }
    }
}

impl Worker {
    /// Resets everything that it carries: a connection that breaks must not look as if it had ended (no FIN), and each gets its record.
    fn abandon(&mut self) {
        for key in self.tunnels.keys() {
            if let Some(tunnel) = self.tunnels.get_mut(key) {
                tunnel.link.abort();
            }
        }
        for key in self.conns.keys() {
            self.end(key, Reason::WorkerDied, Closer::Agent, true);
        }
        self.flush_records();
    }

    /// A worker for the same place. Numbers of questions go on: a late answer must not meet another question.
    fn successor(&self) -> std::io::Result<Worker> {
        let mut next = Worker::new(self.index, self.shared.clone())?;
        next.questions.follow(&self.questions);
        next.drain_reported = self.drain_reported;
        Ok(next)
    }
}
