//! Audits: now and then, and when asked, the node looks whether its memory and its
//! disk still hold what was put there. What has rotted in memory comes anew from a
//! peer; a damaged checkpoint is superseded by a new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Node;
use super::commit::Signal;
use crate::engine::Input;
use crate::store::{LastStop, Part};

/// How often the thread looks whether an audit is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What audits came to, since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) done: AtomicU64,
    /// Damaged files found.
    pub(super) damaged: AtomicU64,
    pub(super) look: Signal,
}

/// What an audit of memory found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Memory {
    pub(super) keys: u64,
    /// Ranges whose cells are not what their fingerprints say.
    pub(super) rotten: usize,
}

/// What an audit of the disk found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Disk {
    pub(super) files: usize,
    /// What is damaged, in words that name file and offset.
    pub(super) damaged: Vec<String>,
}

impl Node {
    /// Audits at every interval, and at once after an unclean stop, until the node
    /// stops; never if the interval is zero. A thread of its own runs it.
    pub(super) fn run_audits(&self, interval: Duration) {
        if interval.is_zero() {
            return;
        }
        let mut last = Instant::now();
        let mut due = self.about().recovered.last_stop == LastStop::Unclean;
        while !self.0.stopping.load(Ordering::Acquire) {
            if due {
                self.audit_memory();
                self.audit_disk();
                last = Instant::now();
            }
            self.0.audits.look.wait(LOOK_EVERY.min(interval));
            due = last.elapsed() >= interval;
        }
    }

    /// Hashes every row anew, a bucket at a time, and has what has rotted replaced.
    pub(super) fn audit_memory(&self) -> Memory {
        let (mut found, mut rotten, mut next) = (Memory::default(), Vec::new(), Some(0));
        while let Some(position) = next.filter(|_| !self.0.stopping.load(Ordering::Acquire)) {
            let engine = self.lock();
            let audited = engine.replica().state().audit(position);
            parking_lot::MutexGuard::unlock_fair(engine);
            found.keys += audited.keys;
            rotten.extend(audited.rotten);
            next = audited.next;
        }
        found.rotten = rotten.len();
        self.0.audits.done.fetch_add(1, Ordering::Relaxed);
        if !rotten.is_empty() {
            self.handle(Input::Repair(rotten));
        }
        found
    }

    /// Reads the newest checkpoint and the full segments after it. If something is damaged, a new
    /// checkpoint is written: a start then needs none of it.
    pub(super) fn audit_disk(&self) -> Disk {
        let mut found = Disk::default();
        let sealed = self.0.housekeeper.sealed();
        let mut buf = Vec::new();
        if let Some(lsn) = sealed.checkpoint {
            found.files += 1;
            let read = self.0.housekeeper.read_checkpoint(lsn).and_then(|mut checkpoint| {
                while let Part::Block = checkpoint.next(&mut buf)? {}
                Ok(())
            });
            found.damaged.extend(read.err().map(|error| error.to_string()));
        }
        for segment in &sealed.segments {
            found.files += 1;
            let read = self.0.housekeeper.read_segment(segment, &mut buf);
            found.damaged.extend(read.err().map(|error| error.to_string()));
        }
        // What has been superseded meanwhile is not there any more, which is no damage.
        if self.0.housekeeper.sealed().checkpoint != sealed.checkpoint {
            found.damaged.clear();
        }
        for damage in &found.damaged {
            self.0.audits.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                damage,
                "the disk has rotted: writing a new checkpoint, so that no start needs this"
            );
        }
        if !found.damaged.is_empty()
            && let Err(error) = self.checkpoint_logged()
        {
            tracing::error!(error, "no checkpoint could be written over the damage");
        }
        found
    }
}
