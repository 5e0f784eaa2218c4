//! The HBONE side's questions to TypeScript: the same "inbound" question as for `fairlead/1`, asked once per key however many
//! streams wait, answers cached until the generation rises.

use std::collections::HashMap;
use std::sync::{Mutex, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::registry::locked;
use super::{Ask, Judge};
use crate::channel::QUESTION;
use crate::reason::Reason;
use crate::relay::plan::Verdict;
use crate::relay::questions::{HBONE, MAX_WORKERS};
use crate::relay::shared::Shared;

/// Answers kept; beyond it the cache starts anew.
const MAX_CACHED: usize = 16_384;
/// How often a question is put again because the generation moved on while it was answered.
const MAX_ASKED: u8 = 3;

type Answer = Box<dyn FnOnce(Verdict) + Send>;

struct Open {
    ask: Ask,
    asked: u8,
    since: Instant,
    waiting: Vec<Answer>,
}

#[derive(Default)]
struct State {
    generation: u64,
    sequence: u64,
    known: HashMap<Ask, Verdict>,
    open: HashMap<u64, Open>,
    asking: HashMap<Ask, u64>,
}

/// Judge over the channel.
pub struct Questions {
    shared: Weak<Shared>,
    state: Mutex<State>,
}

impl Questions {
    pub fn new(shared: Weak<Shared>) -> Self {
        Self { shared, state: Mutex::default() }
    }

    fn put(shared: &Shared, state: &mut State, mut open: Open) {
        state.sequence += 1;
        let id = state.sequence * MAX_WORKERS + HBONE;
        open.asked += 1;
        open.since = Instant::now();
        let ask = &open.ask;
        let body = json!({
            "id": id, "ask": "inbound", "pod": ask.pod, "tunnel": "hbone", "identity": &*ask.identity,
            "destination": {"ip": ask.destination.ip(), "port": ask.destination.port()}, "source": {"ip": ask.source},
        });
        state.asking.insert(open.ask.clone(), id);
        state.open.insert(id, open);
        shared.channel.send_json(QUESTION, &body);
    }

    /// An answer of the agent to one of these questions.
    pub fn on_answer(&self, answer: &Value) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = locked(&self.state);
        let Some(open) = answer["id"].as_u64().and_then(|id| state.open.remove(&id).inspect(|o| forget(&mut state.asking, &o.ask, id))) else {
            return shared.counters.add("late_answer", 1);
        };
        if answer["failed"] == true {
            // Whoever waits is dropped unanswered, which refuses the stream.
            return shared.counters.add(Reason::QuestionFailed.text(), 1);
        }
        let parsed = match Verdict::parse(answer) {
            Ok(parsed) => parsed,
            Err(error) => {
                // Whoever waits is dropped unanswered, which refuses the stream.
                shared.counters.add("bad_answer", 1);
                return shared.log("error", "answer cannot be used", json!({"error": error, "pod": open.ask.pod}));
            }
        };
        // Decided before the last change: ask again, so that nothing passes on a verdict that was just withdrawn.
        let current = shared.generation();
        if parsed.generation < current && open.asked < MAX_ASKED {
            return Self::put(&shared, &mut state, open);
        }
        if parsed.cache && parsed.generation >= current && state.generation <= current {
            state.generation = current;
            state.known.insert(open.ask, parsed.value.clone());
        }
        drop(state);
        for tell in open.waiting {
            tell(parsed.value.clone());
        }
    }
}

fn forget(asking: &mut HashMap<Ask, u64>, ask: &Ask, id: u64) {
    if asking.get(ask) == Some(&id) {
        asking.remove(ask);
    }
}

impl Judge for Questions {
    fn inbound(&self, ask: Ask, answer: Answer) {
        let Some(shared) = self.shared.upgrade() else { return };
        let generation = shared.generation();
        let mut state = locked(&self.state);
        if state.generation != generation || state.known.len() > MAX_CACHED {
            state.generation = generation;
            state.known.clear();
        }
        if let Some(known) = state.known.get(&ask).cloned() {
            drop(state);
            return answer(known);
        }
        if let Some(id) = state.asking.get(&ask).copied()
            && let Some(open) = state.open.get_mut(&id)
        {
            return open.waiting.push(answer);
        }
        // Those who wait have their own time limit; what nobody waits for any more only takes up room here.
        let limit = Duration::from_millis(shared.config.question_timeout_ms) * 2;
        let State { open, asking, .. } = &mut *state;
        open.retain(|id, o| {
            let keep = o.since.elapsed() < limit;
            if !keep {
                forget(asking, &o.ask, *id);
            }
            keep
        });
        Self::put(&shared, &mut state, Open { ask, asked: 0, since: Instant::now(), waiting: vec![answer] });
    }
}
