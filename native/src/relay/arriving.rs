//! Connections to a pod of this node that native has not been told of yet: an agent that takes over enrols its pods one after
//! another, and the first ones connect to the others at once. They wait instead of being refused.

use super::conn::State;
use super::slab::Key;
use super::timers::Timer;
use super::worker::Worker;
use crate::reason::Reason;

/// Until the pod is looked for again.
const LOOK_MS: u64 = 10;

impl Worker {
    /// The pod of a local endpoint is not here. Waits for it as long as for a connect, then goes on with the next endpoint.
    pub fn await_pod(&mut self, key: Key) {
        let limit_us = self.shared.config.connect_timeout_ms * 1_000;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if self.now_us.saturating_sub(conn.started_us) >= limit_us {
            return self.endpoint_failed(key, Reason::UnknownDestination);
        }
        conn.state = State::Arriving;
        let timer = Timer::conn(key, conn.step);
        self.timers.set(self.now_us / 1_000, LOOK_MS, timer);
    }

    /// Tries the same endpoint again.
    pub fn look_for_pod(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let index = conn.endpoint;
        let known = conn.plan.as_ref().and_then(|p| p.endpoints[usize::from(index)].pod.clone()).is_some_and(|p| self.pod_named(&p).is_some());
        if !known {
            return self.await_pod(key);
        }
        self.use_endpoint(key, index);
    }
}
