//! A stand-in for the node below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use tidings_proto::{Actor, Name, Stamp};

use crate::core::clock::Clock;
use crate::core::replica::Replica;
use crate::core::state::State;
use crate::core::table::HashKey;
use crate::core::write::{Write, WriteError, Written};

#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub mono_us: u64,
    pub wall_ms: u64,
}
#[derive(Debug, Clone, Copy)]
pub struct Ticket(pub u64);
#[derive(Debug, thiserror::Error)]
#[error("the disk failed")]
pub struct CommitError;

#[derive(Debug)]
pub struct Engine {
    replica: Replica,
    pub stopped: bool,
}
impl Engine {
    pub fn replica(&self) -> &Replica {
        &self.replica
    }
    pub fn last_dot(&self) -> (Actor, u64) {
        (self.replica.actor().clone(), self.replica.own_seq())
    }
    pub fn write(&mut self, now: Now, write: Write<'_>) -> Result<Written, WriteError> {
        if self.stopped {
            return Err(WriteError::Stopped("no space left".into()));
        }
        self.replica.write(now.wall_ms, write)
    }
}
#[derive(Debug)]
struct Inner {
    engine: parking_lot::Mutex<Engine>,
    fail: AtomicBool,
    slow: AtomicBool,
    commits: AtomicU64,
    start: Instant,
}
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);
impl Default for Node {
    fn default() -> Self {
        let actor = Actor { node: Name::new("n1").unwrap(), incarnation: 7 };
        let replica =
            Replica::new(State::new(HashKey(1, 2)), &actor, Clock::new(Stamp(0), 500), 64 << 20).unwrap();
        Self(Arc::new(Inner {
            engine: parking_lot::Mutex::new(Engine { replica, stopped: false }),
            fail: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            start: Instant::now(),
        }))
    }
}
impl Node {
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, Engine> {
        self.0.engine.lock()
    }
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Now { mono_us: self.0.start.elapsed().as_micros() as u64, wall_ms: wall.as_millis() as u64 }
    }
    pub fn commit(&self) -> Result<Ticket, CommitError> {
        let mut engine = self.0.engine.lock();
        if engine.replica.has_pending() {
            engine.replica.take_records();
        }
        if self.0.fail.load(Relaxed) {
            engine.stopped = true;
            return Err(CommitError);
        }
        Ok(Ticket(self.0.commits.fetch_add(1, Relaxed)))
    }
    pub async fn durable(&self, _: Ticket) -> Result<(), CommitError> {
        if self.0.slow.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
    pub async fn wait(&self, _: Option<(Actor, u64)>, _: usize, timeout: Duration) -> usize {
        tokio::time::sleep(timeout).await;
        0
    }
    pub fn set_fail(&self, fail: bool) {
        self.0.fail.store(fail, Relaxed);
    }
    pub fn set_slow(&self, slow: bool) {
        self.0.slow.store(slow, Relaxed);
    }
}
