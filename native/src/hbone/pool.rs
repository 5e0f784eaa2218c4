//! Outbound connections for reuse, by source pod and identity, destination and whom it may be. A connection is made when no
//! other has a free stream; those who wait for one share its failure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::client::{self, Conn, Slot};
use super::registry::{Order, locked};
use super::tls::Standing;
use super::{Shared, limits};
use crate::reason::Reason;
use crate::seam::PodSockets;
use crate::tls::session::Failure;

/// Who talks to whom. Streams of different keys never share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Network namespace cookie of the source pod.
    pub cookie: u64,
    pub identity: Arc<str>,
    pub to: SocketAddr,
    pub expected: Arc<[String]>,
}

#[derive(Default)]
struct Entry {
    conns: Mutex<Vec<Arc<Conn>>>,
    /// Held while a connection is made, so that many streams at once make few.
    dialling: tokio::sync::Mutex<()>,
    last_failure: Mutex<Option<(Instant, Failure)>>,
}

#[derive(Default)]
pub struct Pool(Mutex<HashMap<Key, Arc<Entry>>>);

/// Marks a connection that takes no stream any more. False, for `retain`.
fn let_go(conn: &Conn) -> bool {
    conn.tunnel.order(Order::Drain);
    false
}

impl Entry {
    fn free(&self, standing: Option<&Standing>) -> Option<Slot> {
        let now = Instant::now();
        let mut conns = locked(&self.conns);
        conns.retain(|c| c.usable(now, standing) || let_go(c));
        conns.iter().find_map(|c| c.slot())
    }

    async fn slot(&self, shared: &Arc<Shared>, pod: &Arc<dyn PodSockets>, key: &Key) -> Result<Slot, Failure> {
        let began = Instant::now();
        let standing = || Standing::of(&shared.identities, &key.identity);
        if let Some(slot) = self.free(standing().as_ref()) {
            return Ok(slot);
        }
        let _turn = self.dialling.lock().await;
        if let Some(slot) = self.free(standing().as_ref()) {
            return Ok(slot);
        }
        if let Some((at, failure)) = &*locked(&self.last_failure)
            && *at >= began
        {
            return Err(failure.clone());
        }
        if locked(&self.conns).len() >= limits::MAX_CONNECTIONS_PER_PAIR {
            return Err(Failure::new(Reason::ResourceLimit, "too many connections to this destination"));
        }
        match client::open(shared, pod, key).await {
            Ok(conn) => {
                let slot = conn.slot().ok_or_else(|| Failure::new(Reason::PeerRefused, "the peer allows no stream"))?;
                locked(&self.conns).push(conn);
                Ok(slot)
            }
            Err(failure) => {
                *locked(&self.last_failure) = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }
}

impl Pool {
    /// A stream's place on a connection, old or new.
    pub async fn slot(&self, shared: &Arc<Shared>, pod: &Arc<dyn PodSockets>, key: &Key) -> Result<Slot, Failure> {
        let entry = locked(&self.0).entry(key.clone()).or_default().clone();
        entry.slot(shared, pod, key).await
    }

    /// Lets go of connections that are idle or may take no stream any more; they close when their last stream ends.
    pub fn sweep(&self, shared: &Shared) {
        let now = Instant::now();
        locked(&self.0).retain(|key, entry| {
            let standing = Standing::of(&shared.identities, &key.identity);
            let mut conns = locked(&entry.conns);
            conns.retain(|c| (c.usable(now, standing.as_ref()) && !c.idle(now, shared.settings.idle)) || let_go(c));
            // A second reference: a stream looks for a place just now.
            !conns.is_empty() || Arc::strong_count(entry) > 1
        });
    }
}
