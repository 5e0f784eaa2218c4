//! Questions to TypeScript, asked once per key however many connections wait, and the caches of their answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Action, Answer, PeerRule, Plan, Verdict};
use super::slab::Key;
use super::timers::Timer;
use super::worker::Worker;
use crate::channel::QUESTION;
use crate::reason::Reason;

/// Question ids carry the worker, so that an answer finds its way: `sequence * MAX_WORKERS + worker`.
pub const MAX_WORKERS: u64 = 128;
/// Stands for the HBONE side in place of a worker; beyond the largest `config.workers`.
pub const HBONE: u64 = 127;
/// Answers kept per kind; beyond it the cache starts anew, which costs only questions.
const MAX_CACHED: usize = 65_536;
/// How often a question is put again because the generation moved on while it was answered.
const MAX_ASKED: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Outbound { pod: u32, destination: SocketAddr },
    Inbound { pod: u32, destination: SocketAddr, source: IpAddr, identity: Option<Arc<str>>, tunnel: &'static str },
    Peer { pod: u32, source: IpAddr, port: u16 },
}

pub struct Question {
    ask: Ask,
    body: Value,
    asked: u8,
    waiting: Vec<Key>,
}

#[derive(Clone)]
pub enum Resolved {
    Plan(Arc<Plan>),
    Verdict(Arc<Verdict>),
    Peer(PeerRule),
}

#[derive(Default)]
pub struct Questions {
    generation: u64,
    known: HashMap<Ask, Resolved>,
    open: HashMap<u64, Question>,
    asking: HashMap<Ask, u64>,
    sequence: u64,
}

impl Questions {
    /// Numbers its questions after those of `other`, with a gap for what that one may still have put.
    pub fn follow(&mut self, other: &Questions) {
        self.sequence = other.sequence + 1;
    }
}

impl Worker {
    /// Answers from the cache or puts the question; then `resume` is called for `conn` later.
    pub fn ask(&mut self, ask: Ask, conn: Key, body: impl FnOnce() -> Value) -> Option<Resolved> {
        let generation = self.shared.generation();
        let q = &mut self.questions;
        if q.generation != generation || q.known.len() > MAX_CACHED {
            q.generation = generation;
            q.known.clear();
        }
        if let Some(known) = q.known.get(&ask) {
            return Some(known.clone());
        }
        if let Some(question) = q.asking.get(&ask).and_then(|id| q.open.get_mut(id)) {
            question.waiting.push(conn);
            return None;
        }
        self.put(Question { ask, body: body(), asked: 0, waiting: vec![conn] });
        None
    }

    fn put(&mut self, mut question: Question) {
        self.questions.sequence += 1;
        let id = self.questions.sequence * MAX_WORKERS + self.index as u64;
        question.body["id"] = json!(id);
        question.asked += 1;
        self.shared.channel.send_json(QUESTION, &question.body);
        self.questions.asking.insert(question.ask.clone(), id);
        self.questions.open.insert(id, question);
        self.timers.set(self.now_us / 1_000, self.shared.config.question_timeout_ms, Timer::Question(id));
    }

    fn close_question(&mut self, id: u64) -> Option<Question> {
        let question = self.questions.open.remove(&id)?;
        if self.questions.asking.get(&question.ask) == Some(&id) {
            self.questions.asking.remove(&question.ask);
        }
        Some(question)
    }

    pub fn on_question_timeout(&mut self, id: u64) {
        let Some(question) = self.close_question(id) else { return };
        self.shared.counters.add("question_timeout", 1);
        for conn in question.waiting {
            self.resume(conn, Err(Reason::QuestionTimeout));
        }
    }

    pub fn on_answer(&mut self, answer: &Value) {
        let Some(question) = answer["id"].as_u64().and_then(|id| self.close_question(id)) else {
            self.shared.counters.add("late_answer", 1);
            return;
        };
        if answer["failed"] == true {
            self.shared.counters.add(Reason::QuestionFailed.text(), 1);
            return question.waiting.into_iter().for_each(|conn| self.resume(conn, Err(Reason::QuestionFailed)));
        }
        let parsed = match question.ask {
            Ask::Outbound { .. } => Plan::parse(answer).map(|mut a| {
                a.value.limit = self.shared.places.limit(&a.value.limits);
                (a.generation, a.cache, Resolved::Plan(Arc::new(a.value)))
            }),
            Ask::Inbound { .. } => Verdict::parse(answer).map(|a| (a.generation, a.cache, Resolved::Verdict(Arc::new(a.value)))),
            Ask::Peer { .. } => PeerRule::parse(answer).map(|Answer { value, generation, cache }| (generation, cache, Resolved::Peer(value))),
        };
        let (generation, cache, resolved) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                self.shared.counters.add("bad_answer", 1);
                self.shared.log("error", "answer cannot be used", json!({"error": error, "question": question.body}));
                for conn in question.waiting {
                    self.resume(conn, Err(Reason::QuestionFailed));
                }
                return;
            }
        };
        // Decided before the last change: ask again, so that nothing passes on a verdict that was just withdrawn.
        let current = self.shared.generation();
        if generation < current && question.asked < MAX_ASKED {
            return self.put(question);
        }
        if cache && generation >= current {
            self.questions.known.insert(question.ask, resolved.clone());
        }
        for conn in question.waiting {
            self.resume(conn, Ok(resolved.clone()));
        }
    }

    fn resume(&mut self, conn: Key, resolved: Result<Resolved, Reason>) {
        match resolved {
            Err(reason) => self.refuse(conn, reason),
            Ok(Resolved::Plan(plan)) => self.with_plan(conn, plan),
            Ok(Resolved::Verdict(verdict)) => self.with_verdict(conn, &verdict),
            Ok(Resolved::Peer(rule)) => self.with_peer_rule(conn, rule),
        }
    }

    /// What an action other than forward leads to; true: go on.
    pub fn act(&mut self, conn: Key, action: &Action) -> bool {
        match action {
            Action::Forward => true,
            Action::Refuse { reason, policy } => {
                self.refuse_by(conn, *reason, policy);
                false
            }
            Action::Handover(order) => {
                self.hand_over(conn, order);
                false
            }
        }
    }
}
