//! Checkpoints: a thread that now and then writes the whole state, a bucket at a
//! time, so that the log behind it can be cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::{Node, wall_millis};
use crate::core::snapshot::{SnapshotId, Step};
use crate::store::CheckpointWriter;

/// How often the thread looks whether a checkpoint is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What became of checkpoints, since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) failed: AtomicU64,
    /// When the last was written, in seconds since the Unix epoch; 0 for never.
    pub(super) time: AtomicU64,
    pub(super) look: super::commit::Signal,
    /// Held while one is written: two at once would only wait for each other's disk.
    turn: Mutex<()>,
}

/// When a checkpoint is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// Once so many bytes have been logged since the last.
    pub(super) bytes: u64,
    /// Or so long after the last, if anything was logged; none for no such bound.
    pub(super) interval: Option<Duration>,
}

impl Node {
    /// Writes a checkpoint whenever one is due, until the node stops. A thread of its own runs it.
    pub(super) fn run_checkpoints(&self, due: Due) {
        let mut last = Instant::now();
        while !self.0.stopping.load(Ordering::Acquire) {
            self.0.checkpoints.look.wait(LOOK_EVERY);
            let logged = self.logged();
            let late = due.interval.is_some_and(|interval| logged > 0 && last.elapsed() >= interval);
            if (logged >= due.bytes || late) && !self.0.stopping.load(Ordering::Acquire) {
                // What failed has been told, and is tried again when the next is due.
                let _ = self.checkpoint_logged();
                last = Instant::now();
            }
        }
    }

    /// Bytes logged since the last checkpoint. What a merge under way has logged does not count, nor as much again:
    /// a checkpoint before its end does not hold it, and would have it logged anew.
    pub(super) fn logged(&self) -> u64 {
        let merging = self.lock().gossip().merge_progress().map_or(0, |progress| 2 * progress.logged as u64);
        self.0.housekeeper.bytes_since_checkpoint().saturating_sub(merging)
    }

    /// Writes a checkpoint, and counts it.
    pub(super) fn checkpoint_logged(&self) -> Result<(), String> {
        let written = self.checkpoint();
        match &written {
            Ok(()) => {
                self.0.checkpoints.written.fetch_add(1, Ordering::Relaxed);
                self.0.checkpoints.time.store(wall_millis() / 1_000, Ordering::Relaxed);
            }
            Err(error) => {
                self.0.checkpoints.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error, "no checkpoint was written; the log keeps everything");
            }
        }
        written
    }

    /// Writes a checkpoint now, and cuts the log behind it as far as its bounds say.
    ///
    /// # Errors
    /// If the disk refuses, or a context merge overtook it. The last checkpoint stands.
    pub fn checkpoint(&self) -> Result<(), String> {
        let _turn = self.0.checkpoints.turn.lock();
        let (snapshot, meta, lsn) = self.begin_checkpoint()?;
        let written = self.0.housekeeper.begin_checkpoint(lsn).map_err(|error| error.to_string());
        let blocks = written.and_then(|writer| self.write_blocks(snapshot, writer));
        self.lock().end_checkpoint(snapshot);
        let finished = blocks?.finish(&meta).map_err(|error| error.to_string())?;
        let retired = self.0.housekeeper.retire(wall_millis()).map_err(|error| error.to_string())?;
        tracing::info!(
            lsn,
            blocks = finished.blocks,
            bytes = finished.bytes,
            cut = retired.bytes,
            "checkpoint"
        );
        Ok(())
    }

    /// The snapshot is of the moment after the last record taken, which is then written.
    fn begin_checkpoint(&self) -> Result<(SnapshotId, Vec<u8>, crate::store::Lsn), String> {
        let mut committer = self.0.committer.lock();
        let (effects, begun) = {
            let mut engine = self.lock();
            let effects = engine.take_effects(self.now());
            (effects, engine.begin_checkpoint())
        };
        let carried = self.carry_out(&mut committer, effects).map_err(|error| error.0);
        drop(committer);
        let (ticket, effects) = match carried {
            Ok(carried) => carried,
            Err(error) => {
                if let Some((snapshot, _)) = begun {
                    self.lock().end_checkpoint(snapshot);
                }
                return Err(error);
            }
        };
        self.finish_effects(effects);
        let (snapshot, meta) =
            begun.ok_or("too many snapshots are running, or memory has rotted and waits for a peer")?;
        Ok((snapshot, meta.encode(), ticket.lsn()))
    }

    fn write_blocks(
        &self,
        snapshot: SnapshotId,
        mut writer: CheckpointWriter,
    ) -> Result<CheckpointWriter, String> {
        loop {
            let step = {
                let mut engine = self.lock();
                let step = engine.step_checkpoint(snapshot);
                // Whoever waits for the engine goes first.
                MutexGuard::unlock_fair(engine);
                step
            };
            match step {
                Step::Block(block) => writer.block(&block).map_err(|error| error.to_string())?,
                Step::Done => return Ok(writer),
                Step::Aborted => return Err("a context merge overtook it, or memory has rotted".into()),
            }
        }
    }
}
