//! From effects to the disk, and only then to the world.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tidings_proto::message::{Pull, Sync};
use tidings_proto::{Message, Run, bounds};

use super::{Node, wall_millis};
use crate::engine::{Effects, Input, LinkId, Spent};
use crate::store::{AppendError, Fsync, Lsn, Store};

/// How often the log is synced with `fsync = "everysec"`, and with `"no"`, where
/// it only keeps unsynced segments from piling up.
const SYNC_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Most batches that wait for one sync under `fsync = "always"`; then writers wait for it.
const MOST_UNSYNCED: usize = 4_096;

/// Most bytes of ops and cells in messages that wait for one sync; then whoever adds to them waits for it.
const MOST_UNSYNCED_BYTES: usize = 16 << 20;

/// Most cells that are dropped by whoever commits: some tenths of a millisecond.
const MOST_DROPPED: usize = 4_096;

/// A place in the log: what was committed up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(Lsn);

impl Ticket {
    pub(super) fn lsn(self) -> Lsn {
        self.0
    }
}

/// The log cannot be written: writes have stopped. Those not yet acknowledged may
/// or may not be on the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("writes have stopped, and whether this one is on the disk is unknown: {0}")]
pub struct CommitError(pub String);

/// How far the log has been synced, or why it will not be any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Synced {
    pub(super) lsn: Lsn,
    pub(super) failed: Option<String>,
}

/// Who writes the log. One batch at a time, in the order in which effects are taken.
#[derive(Debug)]
pub(super) struct Committer {
    /// None once the node has been closed.
    store: Option<Store>,
    /// Messages that wait until the log is synced up to there.
    unsynced: VecDeque<(Lsn, Vec<(LinkId, Message)>)>,
    unsynced_bytes: usize,
}

impl Committer {
    pub(super) fn new(store: Store) -> Self {
        Self { store: Some(store), unsynced: VecDeque::new(), unsynced_bytes: 0 }
    }

    pub(super) fn take_store(&mut self) -> Option<Store> {
        self.store.take()
    }

    fn append(&mut self, records: &[Vec<u8>]) -> Result<Lsn, AppendError> {
        let Some(store) = &mut self.store else {
            return Err(AppendError::Poisoned { reason: "the node has been closed".into() });
        };
        let now = wall_millis();
        for record in records {
            store.append(now, record)?;
        }
        Ok(store.written())
    }
}

/// Bytes of ops and cells in messages, about: what makes them large.
fn payload(sends: &[(LinkId, Message)]) -> usize {
    let ops = |runs: &[Run]| runs.iter().map(|run| run.ops.len()).sum::<usize>();
    let size = |message: &Message| match message {
        Message::Push(push) => ops(&push.runs),
        Message::Pull(Pull::Batch { runs, .. })
        | Message::Sync(Sync::Ack { runs, .. } | Sync::Ack2 { runs, .. }) => ops(runs),
        // An answer holds at most so much, or one larger key.
        Message::Pull(Pull::Cells { .. }) => bounds::BATCH,
        Message::Sync(Sync::Block { block, .. }) => block.len(),
        _ => 0,
    };
    sends.iter().map(|(_, message)| size(message)).sum()
}

/// Drops what is no longer needed; if it is much, on a thread of its own: whoever commits has a client that waits.
fn drop_elsewhere(spent: Vec<Spent>) {
    if spent.iter().map(Spent::cells).sum::<usize>() > MOST_DROPPED {
        // Should there be no thread to be had it is dropped here.
        let _ = std::thread::Builder::new().name("spent".into()).spawn(move || drop(spent));
    }
}

/// Wakes one thread, now or at its next wait.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn notify(&self) {
        let mut raised = self.raised.lock();
        if !*raised {
            *raised = true;
            self.changed.notify_one();
        }
    }

    pub(super) fn wait(&self, at_most: Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.changed.wait_for(&mut raised, at_most);
        }
        *raised = false;
    }
}

impl Node {
    /// Hands all that was applied so far to the operating system, in one write a
    /// record, then lets the messages that rest on it go. Cheap if there is nothing to do.
    ///
    /// # Errors
    /// If the log cannot be written. The engine has stopped taking writes then.
    pub fn commit(&self) -> Result<Ticket, CommitError> {
        let (ticket, effects) = {
            let mut committer = self.0.committer.lock();
            let (effects, deadline, stopped) = {
                let mut engine = self.lock();
                let effects = engine.take_effects(self.now());
                (effects, engine.deadline(), engine.stopped().map(str::to_owned))
            };
            if let Some(reason) = stopped {
                // What was applied since, or with the batch that failed, is not in the log.
                drop(committer);
                self.finish_effects(effects);
                return Err(CommitError(reason));
            }
            if deadline < self.0.slept_for.load(Ordering::Acquire) {
                self.0.wake.notify_one();
            }
            self.carry_out(&mut committer, effects)?
        };
        self.finish_effects(effects);
        Ok(ticket)
    }

    /// Hands over answers and acts upon events. Not under the committer's lock.
    pub(super) fn finish_effects(&self, effects: Effects) {
        self.0.handoff.ask(effects.reads);
        drop_elsewhere(effects.spent);
        for (token, answer) in effects.answers {
            if let Some(tell) = self.0.answers.lock().remove(&token) {
                // Whoever asked may have given up.
                let _ = tell.send(answer);
            }
        }
        for event in effects.events {
            self.on_event(event);
        }
    }

    /// Records first, then messages: at once, or when the log has been synced.
    pub(super) fn carry_out(
        &self,
        committer: &mut Committer,
        mut effects: Effects,
    ) -> Result<(Ticket, Effects), CommitError> {
        let written = committer.append(&effects.records).map_err(|error| self.fail(error.to_string()))?;
        if !effects.records.is_empty() {
            assert_eq!(written, effects.last_record, "the engine numbers records as the log does");
            let bytes: usize = effects.records.iter().map(Vec::len).sum();
            self.0.timings.commit_ops.record(effects.ops as f64);
            self.0.log_records.fetch_add(effects.records.len() as u64, Ordering::Relaxed);
            self.0.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        let sends = std::mem::take(&mut effects.sends);
        let wait =
            self.0.fsync == Fsync::Always && (!effects.records.is_empty() || !committer.unsynced.is_empty());
        if !wait {
            self.dispatch(sends);
        } else {
            committer.unsynced_bytes += payload(&sends);
            committer.unsynced.push_back((written, sends));
            self.0.sync_wanted.notify();
            if committer.unsynced.len() >= MOST_UNSYNCED || committer.unsynced_bytes >= MOST_UNSYNCED_BYTES {
                self.sync(committer);
            }
        }
        Ok((Ticket(written), effects))
    }

    fn dispatch(&self, sends: Vec<(LinkId, Message)>) {
        let Some(transport) = self.0.transport.get() else { return };
        for (link, message) in sends {
            if transport.send(link, &message).is_err() {
                // What was dropped is offered again; a merge under way is broken off.
                self.0.dropped.lock().push(link);
                self.0.wake.notify_one();
            }
        }
    }

    fn fail(&self, reason: String) -> CommitError {
        // A node that was closed has no log any more: no news.
        if !self.0.stopping.load(Ordering::Acquire) {
            tracing::error!(reason, "the log cannot be written: writes have stopped, reads go on");
        }
        self.lock().stop(reason.clone());
        self.0.synced.send_modify(|synced| synced.failed = Some(reason.clone()));
        CommitError(reason)
    }

    /// Waits until what was committed is as durable as `fsync` promises.
    ///
    /// # Errors
    /// If the log cannot be synced.
    pub async fn durable(&self, ticket: Ticket) -> Result<(), CommitError> {
        if self.0.fsync != Fsync::Always {
            return Ok(());
        }
        let mut synced = self.0.synced.subscribe();
        let outcome = synced.wait_for(|synced| synced.failed.is_some() || synced.lsn >= ticket.0).await;
        match outcome {
            Ok(synced) if synced.lsn >= ticket.0 => Ok(()),
            Ok(synced) => Err(CommitError(synced.failed.clone().unwrap_or_default())),
            Err(_) => Err(CommitError("the node has been closed".into())),
        }
    }

    /// Syncs the log, tells those who wait, and lets go the messages that waited.
    fn sync(&self, committer: &mut Committer) {
        match self.sync_log() {
            Ok(durable) => self.release(committer, durable),
            Err(error) => {
                self.fail(error.to_string());
            }
        }
    }

    /// Syncs what there is and tells those who wait, before the log is closed.
    pub(super) fn sync_last(&self) {
        self.sync(&mut self.0.committer.lock());
        let closed = "the node has been closed";
        self.0.synced.send_modify(|synced| _ = synced.failed.get_or_insert(closed.into()));
    }

    fn sync_log(&self) -> io::Result<Lsn> {
        let began = std::time::Instant::now();
        let durable = self.0.syncer.sync().map_err(io::Error::other)?;
        self.0.timings.fsync_seconds.record(began.elapsed().as_secs_f64());
        Ok(durable)
    }

    fn release(&self, committer: &mut Committer, durable: Lsn) {
        self.0.synced.send_if_modified(|synced| {
            let news = durable > synced.lsn;
            synced.lsn = synced.lsn.max(durable);
            news
        });
        while committer.unsynced.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            let (_, sends) = committer.unsynced.pop_front().expect("just seen");
            committer.unsynced_bytes -= payload(&sends);
            self.dispatch(sends);
        }
    }

    /// Syncs the log as `fsync` says until the node stops. A thread of its own runs it.
    pub(super) fn run_syncs(&self) {
        let every = match self.0.fsync {
            Fsync::Always => None,
            Fsync::Everysec => Some(SYNC_EVERY.0),
            Fsync::No => Some(SYNC_EVERY.1),
        };
        while !self.0.stopping.load(Ordering::Acquire) {
            self.0.sync_wanted.wait(every.unwrap_or(SYNC_EVERY.0));
            let synced = match self.0.syncer.pending() {
                0 => Ok(self.0.syncer.durable()),
                _ => self.sync_log(),
            };
            match synced {
                Ok(durable) => self.release(&mut self.0.committer.lock(), durable),
                Err(error) => {
                    self.fail(error.to_string());
                    return;
                }
            }
        }
    }

    /// Tells the engine of links whose queue was full.
    pub(super) fn report_dropped(&self) {
        let dropped = std::mem::take(&mut *self.0.dropped.lock());
        if !dropped.is_empty() {
            let mut engine = self.lock();
            for link in dropped {
                engine.handle(self.now(), Input::Dropped { link });
            }
        }
    }
}
