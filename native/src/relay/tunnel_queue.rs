//! Connections that wait for a tunnel: at most so many handshakes of one pair run at a time, the others take what comes first, a
//! freed tunnel or their turn. A burst of short connections then costs few handshakes, and an overloaded node no storm of them.

use std::collections::VecDeque;

use super::conn::State;
use super::slab::Key;
use super::timers::Timer;
use super::tunnels::{PoolKey, Tunnel};
use super::worker::Worker;
use crate::record::Lane;

/// What goes on for one pair besides its idle tunnels.
#[derive(Default)]
pub struct Queue {
    /// Tunnels that connect or shake hands.
    shaking: usize,
    /// Connections in the order they came, with the step they wait in.
    waiting: VecDeque<(Key, u32)>,
}

impl Worker {
    /// Whether a connection has to queue up: others wait already, or there is no idle tunnel and no further handshake allowed.
    pub fn must_wait(&self, pool: &PoolKey) -> bool {
        let Some(queue) = self.queues.get(pool) else { return false };
        let idle = self.pool.get(pool).is_some_and(|list| !list.is_empty());
        !queue.waiting.is_empty() || (!idle && queue.shaking >= self.shared.config.max_handshakes_per_pair)
    }

    /// It waits no longer than for a connect; then its next endpoint is tried.
    pub fn wait_for_tunnel(&mut self, conn: Key, pool: PoolKey) {
        let wait_ms = self.connect_ms(conn);
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.lane = Lane::Tunnel;
        c.state = State::Connecting;
        c.step += 1;
        let step = c.step;
        self.timers.set(self.now_us / 1_000, wait_ms, Timer::conn(conn, step));
        self.shared.counters.add("tunnel_waits", 1);
        self.queues.entry(pool).or_default().waiting.push_back((conn, step));
    }

    /// A tunnel of the pair begins to connect.
    pub fn note_shaking(&mut self, pool: &PoolKey) {
        self.queues.entry(pool.clone()).or_default().shaking += 1;
    }

    /// Its handshake is done, or will never be.
    pub fn note_shaken(&mut self, pool: &PoolKey) {
        let Some(queue) = self.queues.get_mut(pool) else { return };
        queue.shaking = queue.shaking.saturating_sub(1);
        if !queue.waiting.is_empty() {
            self.served.push(pool.clone());
        } else if queue.shaking == 0 {
            self.queues.remove(pool);
        }
    }

    /// A tunnel of the pair is free.
    pub fn note_idle(&mut self, pool: &PoolKey) {
        if self.queues.get(pool).is_some_and(|q| !q.waiting.is_empty()) {
            self.served.push(pool.clone());
        }
    }

    /// Gives those who wait what has become free since the last turn. Not at once when it does: a stream's end would begin the
    /// next one, which may end at once, and so on down the stack.
    pub fn serve_queues(&mut self) {
        for pool in std::mem::take(&mut self.served) {
            let mut turns = self.queues.get(&pool).map_or(0, |q| q.waiting.len());
            while turns > 0 {
                turns -= 1;
                let idle = self.pool.get(&pool).is_some_and(|list| !list.is_empty());
                let Some(queue) = self.queues.get_mut(&pool) else { break };
                if !idle && queue.shaking >= self.shared.config.max_handshakes_per_pair {
                    break;
                }
                let Some((conn, step)) = queue.waiting.pop_front() else { break };
                let Some(c) = self.conns.get(conn).filter(|c| c.step == step) else { continue };
                let Some(plan) = c.plan.clone() else { continue };
                if let Some(endpoint) = plan.endpoints.get(usize::from(c.endpoint)) {
                    self.take_tunnel(conn, &plan, endpoint);
                }
            }
            if self.queues.get(&pool).is_some_and(|q| q.shaking == 0 && q.waiting.is_empty()) {
                self.queues.remove(&pool);
            } else if turns == 0
                && self.queues.get(&pool).is_some_and(|q| q.shaking < self.shared.config.max_handshakes_per_pair && !q.waiting.is_empty())
            {
                self.served.push(pool);
            }
        }
    }

    /// Takes a tunnel out of the worker, whatever became of it.
    pub fn remove_tunnel(&mut self, key: Key) -> Option<Tunnel> {
        let mut tunnel = self.tunnels.remove(key)?;
        if std::mem::take(&mut tunnel.shaking)
            && let Some(pool) = &tunnel.pool
        {
            self.note_shaken(pool);
        }
        Some(tunnel)
    }
}
