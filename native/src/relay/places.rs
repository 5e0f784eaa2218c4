//! How many connections of one namespace to one service may be open at a time, all workers together (ResiliencePolicy
//! `connectionPool`). A connection has a place until it ends; with none left it waits for one, if so many may wait, or is refused.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use serde::Deserialize;

/// What a plan says of the limit; `policy` is "namespace/name" of whoever set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wire {
    key: String,
    max_connections: u32,
    /// Connections that may wait for a place; 0: none.
    max_pending: u32,
    pub connect_timeout_ms: Option<u64>,
    pub policy: String,
}

/// Limits that nobody holds are forgotten when there are more than this.
const FORGET_ABOVE: usize = 1_024;

/// Gives a place to whoever waited for it; it may be gone by then, and drops it.
type Deliver<W> = dyn Fn(W, Place<W>) + Send + Sync;

/// All limits by key. `W` names who waits.
pub struct Places<W> {
    known: Mutex<HashMap<String, Weak<Limit<W>>>>,
    deliver: Arc<Deliver<W>>,
}

struct State<W> {
    most: u32,
    pending: u32,
    open: u32,
    tickets: u64,
    waiting: VecDeque<(u64, W)>,
}

pub struct Limit<W> {
    state: Mutex<State<W>>,
    deliver: Arc<Deliver<W>>,
}

/// One connection's place; dropped, it is the next one's.
pub struct Place<W>(Arc<Limit<W>>);

/// One that waits; dropped, it no longer does.
pub struct Waiting<W> {
    limit: Arc<Limit<W>>,
    ticket: u64,
}

pub enum Entry<W> {
    In(Place<W>),
    Wait(Waiting<W>),
    Full,
}

impl<W> Places<W> {
    pub fn new(deliver: impl Fn(W, Place<W>) + Send + Sync + 'static) -> Self {
        Self { known: Mutex::default(), deliver: Arc::new(deliver) }
    }

    /// The limit as it is now; those that were let in before a lower one stay. `None`: there is none.
    pub fn limit(&self, wire: &Wire) -> Option<Arc<Limit<W>>> {
        if wire.max_connections == 0 {
            return None;
        }
        let limit = {
            let mut known = self.known.lock().ok()?;
            if known.len() > FORGET_ABOVE {
                known.retain(|_, limit| limit.strong_count() > 0);
            }
            match known.get(&wire.key).and_then(Weak::upgrade) {
                Some(limit) => limit,
                None => {
                    let state = State { most: 0, pending: 0, open: 0, tickets: 0, waiting: VecDeque::new() };
                    let limit = Arc::new(Limit { state: Mutex::new(state), deliver: self.deliver.clone() });
                    known.insert(wire.key.clone(), Arc::downgrade(&limit));
                    limit
                }
            }
        };
        if let Ok(mut state) = limit.state.lock() {
            (state.most, state.pending) = (wire.max_connections, wire.max_pending);
        }
        limit.serve();
        Some(limit)
    }
}

impl<W> Limit<W> {
    /// A place, or its turn later, or neither.
    pub fn enter(self: &Arc<Self>, who: W) -> Entry<W> {
        let Ok(mut state) = self.state.lock() else { return Entry::Full };
        // Nobody overtakes those who wait.
        if state.open < state.most && state.waiting.is_empty() {
            state.open += 1;
            return Entry::In(Place(self.clone()));
        }
        if state.waiting.len() >= state.pending as usize {
            return Entry::Full;
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.waiting.push_back((ticket, who));
        Entry::Wait(Waiting { limit: self.clone(), ticket })
    }

    /// Gives away the places that are free, in the order in which they were asked for.
    fn serve(self: &Arc<Self>) {
        loop {
            let next = {
                let Ok(mut state) = self.state.lock() else { return };
                if state.open >= state.most {
                    return;
                }
                let Some((_, who)) = state.waiting.pop_front() else { return };
                state.open += 1;
                who
            };
            (self.deliver)(next, Place(self.clone()));
        }
    }
}

impl<W> Drop for Place<W> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state.lock() {
            state.open -= 1;
        }
        self.0.serve();
    }
}

impl<W> Drop for Waiting<W> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.limit.state.lock() {
            state.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Given = Arc<Mutex<Vec<(u32, Place<u32>)>>>;

    fn wire(max_connections: u32, max_pending: u32) -> Wire {
        Wire { key: "shop>shop/redis:6379".into(), max_connections, max_pending, ..Wire::default() }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        /// The connection at this place of those that are there ends, whether it has a place or waits.
        End(usize),
        Change(u32, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Enter),
            3 => any::<usize>().prop_map(Step::End),
            1 => (1..6u32, 0..4u32).prop_map(|(most, pending)| Step::Change(most, pending)),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        #[doc = "[TRF-6] places are never given twice, none is lost, and who waits comes in the order in which it came"]
        fn places_add_up(steps in steps()) {
            let given: Given = Arc::default();
            let to = given.clone();
            let places = Places::new(move |who, place| to.lock().unwrap().push((who, place)));
            let (mut most, mut pending) = (2, 1);
            let mut limit = places.limit(&wire(most, pending)).unwrap();
            let mut inside: BTreeMap<u32, Place<u32>> = BTreeMap::new();
            let mut waiting: BTreeMap<u32, Waiting<u32>> = BTreeMap::new();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Enter => {
                        next += 1;
                        match limit.enter(next) {
                            Entry::In(place) => {
                                prop_assert!(waiting.is_empty() && inside.len() < most as usize);
                                inside.insert(next, place);
                            }
                            Entry::Wait(ticket) => {
                                prop_assert!(waiting.len() < pending as usize && inside.len() >= most as usize);
                                waiting.insert(next, ticket);
                            }
                            Entry::Full => prop_assert!(inside.len() >= most as usize && waiting.len() >= pending as usize),
                        }
                    }
                    Step::End(at) => {
                        let all: Vec<u32> = inside.keys().chain(waiting.keys()).copied().collect();
                        if let Some(who) = all.get(at % all.len().max(1)) {
                            inside.remove(who);
                            waiting.remove(who);
                        }
                    }
                    Step::Change(to, wait) => {
                        (most, pending) = (to, wait);
                        let again = places.limit(&wire(most, pending)).unwrap();
                        prop_assert!(Arc::ptr_eq(&again, &limit) || inside.is_empty() && waiting.is_empty());
                        limit = again;
                    }
                }
                for (who, place) in std::mem::take(&mut *given.lock().unwrap()) {
                    let first = waiting.keys().next().copied();
                    prop_assert_eq!(first, Some(who), "not the one who waited longest");
                    waiting.remove(&who);
                    inside.insert(who, place);
                }
                prop_assert_eq!(limit.state.lock().unwrap().open as usize, inside.len());
                prop_assert_eq!(limit.state.lock().unwrap().waiting.len(), waiting.len());
                prop_assert!(waiting.is_empty() || inside.len() >= most as usize, "one waits for nothing");
            }
        }
    }

    #[test]
    #[doc = "[TRF-6] a place that comes for somebody who has left is the next one's"]
    fn left_meanwhile() {
        let given: Given = Arc::default();
        let to = given.clone();
        let places = Places::new(move |who, place| to.lock().unwrap().push((who, place)));
        let limit = places.limit(&wire(1, 2)).unwrap();
        let Entry::In(first) = limit.enter(1) else { panic!("no place") };
        let (Entry::Wait(_second), Entry::Wait(_third)) = (limit.enter(2), limit.enter(3)) else { panic!("no queue") };
        assert!(matches!(limit.enter(4), Entry::Full));
        drop(first);
        let (who, place) = given.lock().unwrap().pop().unwrap();
        assert_eq!(who, 2);
        drop(place);
        assert_eq!(given.lock().unwrap().pop().unwrap().0, 3);
    }

    #[test]
    #[doc = "[TRF-6] without a limit nothing is counted, and limits that nobody holds are forgotten"]
    fn forgotten() {
        let places: Places<u32> = Places::new(|_, _| {});
        assert!(places.limit(&wire(0, 5)).is_none());
        for i in 0..3_000 {
            places.limit(&Wire { key: i.to_string(), max_connections: 1, ..Wire::default() });
        }
        assert!(places.known.lock().unwrap().len() <= FORGET_ABOVE + 1);
    }
}
