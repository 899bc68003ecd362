//! The live zone: what drives the engine, and what the doors may ask of it.
//!
//! [`Node`] owns the engine, time, randomness and the disk. Every door calls it,
//! it calls nobody but its [`Transport`]. The way of a write: a door locks the
//! engine and applies; [`Node::commit`] hands the records to the operating system
//! in one write, then lets the messages go; the door replies.

#![warn(missing_docs)]

pub mod api;
mod audit;
mod backup;
mod checkpoint;
mod commit;
mod facts;
#[cfg(test)]
pub(crate) mod fake;
mod handoff;
mod limits;
mod open;
mod operator;
mod quorum;
mod rows;
mod text;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use tidings_proto::{Actor, Hello, Message, Name};
use tokio::sync::{Notify, oneshot, watch};

pub use commit::{CommitError, Ticket};
pub use facts::{ByLabel, NetFacts, ProcessFacts, ReplicaFacts, RespFacts, StoreFacts};
pub use limits::Bounds;
pub use open::{Options, StartError};
pub use operator::Desk;
pub use text::unescape;
pub use transport::{QueueFull, Transport};

use crate::archive::Archiver;
use crate::engine::{Answer, Engine, Event, Input, LinkId, Now, Settings, Token};
use crate::store::{Fsync, Housekeeper, Syncer};

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    engine: Mutex<Engine>,
    committer: Mutex<commit::Committer>,
    /// How far the log has been synced, or why it will not be any more.
    synced: watch::Sender<commit::Synced>,
    syncer: Syncer,
    sync_wanted: commit::Signal,
    /// Links whose queue was full, to be reported to the engine.
    dropped: Mutex<Vec<LinkId>>,
    housekeeper: Housekeeper,
    handoff: handoff::Handoff,
    archiver: Archiver,
    transport: std::sync::OnceLock<Arc<dyn Transport>>,
    clock: Clock,
    about: About,
    fsync: Fsync,
    ready_lag: u64,
    timings: api::Timings,
    /// For when the engine's deadline came earlier than the one slept for.
    wake: Notify,
    slept_for: AtomicU64,
    /// For those who wait for peers to have something.
    acked: Notify,
    waiting: AtomicUsize,
    tokens: AtomicU64,
    answers: Mutex<std::collections::BTreeMap<Token, oneshot::Sender<Answer>>>,
    checkpoints: checkpoint::Counts,
    audits: audit::Counts,
    limits: limits::Minding,
    stopping: AtomicBool,
    gone: watch::Sender<bool>,
    log_records: AtomicU64,
    log_bytes: AtomicU64,
}

/// What a node is, as long as it runs.
#[derive(Debug, Clone)]
pub struct About {
    /// Its name.
    pub node: Name,
    /// Its cluster.
    pub realm: Name,
    /// Its zone; empty for none.
    pub zone: String,
    /// Where members are told to reach it.
    pub advertise: Vec<String>,
    /// Where its data is.
    pub data_dir: std::path::PathBuf,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at: u64,
    /// What recovery found.
    pub recovered: crate::store::Report,
}

/// Reads both clocks. The engine never does.
#[derive(Debug, Clone, Copy)]
struct Clock {
    epoch: Instant,
}

impl Clock {
    fn now(&self) -> Now {
        Now { mono: self.epoch.elapsed().as_micros() as u64, wall: wall_millis() }
    }
}

fn wall_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Counts one who waits, for as long as it lives: waits may be given up at any point.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("about", &self.0.about).finish_non_exhaustive()
    }
}

impl Node {
    /// The engine, behind its one lock. Hold it for one batch and never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Engine> {
        self.0.engine.lock()
    }

    /// Both clocks, for one batch.
    pub fn now(&self) -> Now {
        self.0.clock.now()
    }

    /// What the node is.
    pub fn about(&self) -> &About {
        &self.0.about
    }

    /// When the log is forced to the disk.
    pub fn fsync(&self) -> Fsync {
        self.0.fsync
    }

    /// Has something happen to the engine, then does what follows from it.
    fn handle(&self, input: Input) {
        self.lock().handle(self.now(), input);
        // A failure has stopped the engine and been logged; whoever waits for a write is told by its own commit.
        let _ = self.commit();
    }

    /// How many linked peers hold the write, once that many do or time is up.
    pub async fn wait(&self, dot: Option<(Actor, u64)>, peers: usize, timeout: Duration) -> usize {
        let holders = || match &dot {
            Some((actor, seq)) => self.lock().holders(actor, *seq),
            None => self.lock().gossip().links().count(),
        };
        let give_up = tokio::time::sleep(timeout);
        tokio::pin!(give_up);
        let _waiting = Waiting::new(&self.0.waiting);
        loop {
            let acked = self.0.acked.notified();
            let held = holders();
            if held >= peers {
                return held;
            }
            tokio::select! {
                () = acked => {}
                () = &mut give_up => return holders(),
            }
        }
    }

    /// Changes the protocol's knobs.
    pub fn set_settings(&self, settings: Settings) {
        self.handle(Input::Settings(settings));
    }

    /// Asks a peer something and waits for the answer.
    async fn ask(&self, timeout: Duration, input: impl FnOnce(Token) -> Input) -> Option<Answer> {
        let token = Token(self.0.tokens.fetch_add(1, Ordering::Relaxed));
        let (tell, told) = oneshot::channel();
        self.0.answers.lock().insert(token, tell);
        self.handle(input(token));
        let answer = tokio::time::timeout(timeout, told).await;
        self.0.answers.lock().remove(&token);
        if answer.is_err() {
            self.lock().cancel(token);
        }
        answer.ok()?.ok()
    }

    /// Keeps the engine's deadlines until the node stops. One task of the live zone runs it.
    pub async fn run_timers(&self) {
        while !self.0.stopping.load(Ordering::Acquire) {
            self.report_dropped();
            let deadline = {
                // Under the lock, so that whoever brings the deadline forward sees what is slept for.
                let engine = self.lock();
                let deadline = engine.deadline();
                self.0.slept_for.store(deadline, Ordering::Release);
                deadline
            };
            let until = self.0.clock.epoch + Duration::from_micros(deadline);
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => self.handle(Input::Tick),
                () = self.0.wake.notified() => {}
            }
        }
    }

    /// Resolves when the node has been asked to go: by `leave`, or by [`Node::stop`].
    pub async fn gone(&self) {
        let mut gone = self.0.gone.subscribe();
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Stops the node's threads, and closes the log so that the next start knows
    /// that nothing is missing. Call it when the doors are shut and the links are down.
    pub fn close(&self) {
        // Should it fail, the next start recovers as after a crash.
        let _ = self.commit();
        self.sync_last();
        self.0.stopping.store(true, Ordering::Release);
        self.0.sync_wanted.notify();
        self.0.checkpoints.look.notify();
        self.0.audits.look.notify();
        self.0.handoff.look.notify();
        self.0.limits.look.notify();
        self.0.wake.notify_one();
        self.0.archiver.stop();
        let store = self.0.committer.lock().take_store();
        if let Some(Err(error)) = store.map(|store| store.close(wall_millis())) {
            tracing::warn!(%error, "the log was not closed cleanly; the next start recovers from it");
        }
    }

    /// Asks the node to go.
    pub fn stop(&self) {
        self.0.gone.send_replace(true);
    }

    fn on_event(&self, event: Event) {
        match event {
            Event::MemberKnown(member) => {
                tracing::info!(node = %member.node, addresses = ?member.addresses, "member known");
                for address in &member.addresses {
                    self.with_transport(|transport| transport.seek(address, false));
                }
            }
            Event::MemberLeft(node) => {
                tracing::info!(%node, "member left");
                let addresses = {
                    let engine = self.lock();
                    let info = engine.gossip().members().get(&node);
                    info.map(|info| info.member.addresses.clone()).unwrap_or_default()
                };
                for address in &addresses {
                    self.with_transport(|transport| _ = transport.unseek(address));
                }
            }
            Event::IncarnationChanged(actor) => {
                tracing::warn!(%actor, "a peer knows writes of the last incarnation that this process does not: going on under a new one");
            }
            Event::NoIncarnation(reason) => self.lock().stop(reason),
            Event::Merged { node, members, blocks, bytes } => {
                tracing::info!(from = %node, members, blocks, bytes, "context merge");
            }
            Event::Diverged { node } => {
                tracing::error!(%node, "has seen the same writes and holds something else: memory or a disk has rotted on one of us, or there is a bug");
            }
            Event::Reconciled { node, ranges, first } => {
                let first: Vec<String> = first.iter().map(|span| format!("{span:x?}")).collect();
                tracing::error!(%node, ranges, ?first, "what differed, in these ranges of keys, has been merged with what it holds: a write that only one of the two held is gone");
            }
            Event::NotReconciled { node } => {
                tracing::error!(%node, "still holds something else after several merges of what differs: giving up for ten minutes; restart one of the two, and report it");
            }
            Event::Rotten(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(|range| format!("{:x?}", range.span())).collect();
                tracing::error!(
                    ?ranges,
                    "memory has rotted: these ranges of keys are replaced from a peer as soon as one has all of them"
                );
            }
            Event::Misbehaved { link, reason } => {
                tracing::warn!(?link, reason, "a peer sent what it must not; closing the link");
                self.with_transport(|transport| transport.close(link, &reason));
            }
        }
    }

    fn with_transport(&self, act: impl FnOnce(&dyn Transport)) {
        if let Some(transport) = self.0.transport.get() {
            act(transport.as_ref());
        }
    }

    /// Seeks a link to a seed from now on.
    pub fn seek(&self, address: &str) {
        self.with_transport(|transport| transport.seek(address, true));
    }

    /// Gives the node its transport, and seeks the members that it knew before.
    ///
    /// # Panics
    /// If it has one already.
    pub fn attach(&self, transport: Arc<dyn Transport>) {
        assert!(self.0.transport.set(transport).is_ok(), "a node has one transport");
        let known: Vec<String> = {
            let engine = self.lock();
            let present = engine.gossip().members().iter().filter(|info| !info.left);
            present.flat_map(|info| info.member.addresses.clone()).collect()
        };
        for address in &known {
            self.with_transport(|transport| transport.seek(address, false));
        }
    }

    /// Our HELLO of this moment.
    pub fn hello(&self) -> Hello {
        let about = self.about();
        let (actor, order) = {
            let engine = self.lock();
            (engine.replica().actor().clone(), engine.replica().state().order())
        };
        Hello {
            versions: tidings_proto::VERSIONS,
            realm: about.realm.clone(),
            actor,
            zone: about.zone.clone(),
            addresses: about.advertise.clone(),
            clock: wall_millis(),
            order,
        }
    }

    /// A link came up; the transport has checked both HELLOs.
    pub fn link_up(&self, link: LinkId, hello: Hello) {
        tracing::info!(node = %hello.actor.node, ?link, "linked");
        self.handle(Input::LinkUp { link, hello });
    }

    /// A link went down.
    pub fn link_down(&self, link: LinkId, reason: &str) {
        tracing::info!(?link, reason, "link down");
        self.handle(Input::LinkDown { link });
    }

    /// All that was put on a link's news lane has been taken by the transport.
    pub fn writable(&self, link: LinkId) {
        self.handle(Input::Writable { link });
    }

    /// Something large is arriving over a link and is not whole yet.
    pub fn receiving(&self, link: LinkId) {
        self.handle(Input::Receiving { link });
    }

    /// A message arrived. Answers whether it brought something that was lacking here.
    pub fn message(&self, link: LinkId, message: Message) -> bool {
        let brought = {
            let mut engine = self.lock();
            let before = engine.brought();
            engine.handle(self.now(), Input::Message { link, message });
            engine.brought() > before
        };
        // A failure has stopped the engine and been logged.
        let _ = self.commit();
        if self.0.waiting.load(Ordering::Acquire) > 0 {
            self.0.acked.notify_waiters();
        }
        brought
    }
}
