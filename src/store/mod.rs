//! The durable form of the replica: a log in segments, checkpoints, and the recovery from both.
//!
//! Payloads are opaque here. The store is synchronous, knows no clock and no randomness, and touches files only
//! through [`disk::Disk`], so that a simulator can run it over a disk that tears, loses and refuses. FORMAT.md
//! draws the bytes and argues why a crash at any point is survived.
//!
//! [`Store::open`] recovers and hands out a [`Store`], which one thread owns and appends to. A [`Syncer`] and a
//! [`Housekeeper`] go to other threads: the first makes what was appended durable, the second writes checkpoints,
//! lets go of old segments and reads back.

mod checkpoint;
pub mod disk;
mod housekeeping;
mod lock;
mod log;
pub mod memdisk;
mod rebuild;
mod recovery;
mod scan;
mod sealed;
mod segment;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use checkpoint::{CheckpointError, CheckpointWriter, Finished, Part};
pub use disk::{Disk, DiskError, DiskFile, OsDisk};
pub use housekeeping::{Housekeeper, ReadError, RetireError, Retired};
pub use lock::{DirLock, Holder, LockError};
pub use log::{AppendError, CloseError, Store, SyncError, Syncer};
pub use memdisk::MemDisk;
pub use rebuild::{RebuildError, Rebuilder, holds_a_store};
pub use recovery::{LastStop, OpenError, Recovered, Recovery, ReplayError, Report};
pub use sealed::{Sealed, SealedCheckpoint, SealedSegment};

/// Number of a record; the first is 1, and 0 stands before it.
pub type Lsn = u64;

/// The format this binary writes, and the oldest it reads.
pub const FORMAT: u32 = 1;
pub const OLDEST_FORMAT: u32 = 1;

// The bounds of this room.

/// Largest payload of a record; a larger batch is refused before anything is written.
pub const MAX_RECORD_BYTES: usize = 256 << 20;
/// Where a writer of checkpoints should end a block.
pub const BLOCK_TARGET_BYTES: usize = 1 << 20;
/// Largest block. The slack over the target is for a single cell that is larger than a block should be.
pub const MAX_BLOCK_BYTES: usize = 256 << 20;
/// Largest `meta` of a checkpoint.
pub const MAX_META_BYTES: usize = 64 << 20;
/// Smallest and largest size of a segment that may be asked for.
pub const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 256..=1 << 30;
/// Segments behind the checkpoints beyond this number go, whatever their age and size: each start begins one.
pub const MAX_RETAINED_SEGMENTS: usize = 4096;
/// A full segment beyond this number of unsynced ones is synced before the next is begun.
pub const MAX_UNSYNCED_SEGMENTS: usize = 4;
/// Checkpoints kept; FORMAT.md says why two.
pub const KEPT_CHECKPOINTS: usize = 2;
/// A checkpoint being written is synced each time it has grown by this much.
const CHECKPOINT_SYNC_BYTES: u64 = 64 << 20;
/// Bytes the search behind a damaged record may put through the checksum before it gives up.
const SEARCH_BUDGET_BYTES: usize = 1 << 30;
/// How far apart the records are of which it is remembered where in a segment they begin.
const PLACES_BYTES: u64 = 256 << 10;
/// The append buffer is given back after a batch larger than this.
const BUFFER_KEPT_BYTES: usize = 4 << 20;
/// Greatest number that a file's name has digits for.
const MAX_LSN: Lsn = 9_999_999_999_999_999;

/// How the store is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size a segment is preallocated to, in bytes. Larger ones cost room on disk and time after an unclean stop,
    /// smaller ones a new file more often. Default 64 MiB.
    pub segment_bytes: u64,
    /// Log kept behind the checkpoints for members that were away, in bytes. Default 1 GiB.
    pub retain_bytes: u64,
    /// Log kept behind the checkpoints, in milliseconds of age. Default 7 days.
    pub retain_age_ms: u64,
    /// How many bytes of payloads from before the checkpoint recovery delivers as [`Recovered::Retained`].
    /// Default 64 MiB.
    pub redeliver_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            retain_bytes: 1 << 30,
            retain_age_ms: 7 * 24 * 60 * 60 * 1000,
            redeliver_bytes: 64 << 20,
        }
    }
}

/// When what was appended must be on the disk. The store offers [`Syncer::sync`]; who owns it keeps this promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Fsync {
    /// Before it is acknowledged or sent.
    Always,
    /// Within a second.
    #[default]
    Everysec,
    /// When the operating system sees fit, when segments fill up, and at checkpoints.
    No,
}

/// Not one of `always`, `everysec`, `no`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown fsync policy {0:?}: expected \"always\", \"everysec\" or \"no\"")]
pub struct UnknownFsync(pub String);

impl FromStr for Fsync {
    type Err = UnknownFsync;

    fn from_str(s: &str) -> Result<Self, UnknownFsync> {
        match s {
            "always" => Ok(Fsync::Always),
            "everysec" => Ok(Fsync::Everysec),
            "no" => Ok(Fsync::No),
            other => Err(UnknownFsync(other.to_owned())),
        }
    }
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fsync::Always => "always",
            Fsync::Everysec => "everysec",
            Fsync::No => "no",
        })
    }
}
