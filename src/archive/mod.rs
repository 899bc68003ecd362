//! Archives: finished checkpoints and full segments of the log, copied to a directory or an S3 bucket, and brought
//! back from there. Everything is taken from files that change no more; nothing here touches the engine.
//!
//! ```text
//! TARGET/realm/node/objects/<BLAKE3>                     a block, a meta, or a part of a segment
//! TARGET/realm/node/manifests/<time>-<lsn>-<id>.json     a checkpoint: which objects, in which order
//! ```
//!
//! An object is named by the hash of its bytes, so equal blocks of several checkpoints are one object, and nothing is
//! believed that does not have its name's hash. A node writes and deletes below its own name only.

mod keep;
mod manifest;
mod place;
mod restore;
#[cfg(feature = "archive")]
mod s3;
#[cfg(test)]
mod tests;
mod upload;
mod worker;

use std::time::Duration;

use tidings_proto::Name;

pub use manifest::{Manifest, ManifestName, Piece, SegmentPieces, Summary};
pub use place::{Place, PlaceError};
pub use restore::{RestoreError, Restored, Wanted, list, restore};
pub use worker::{Archiver, Facts, Standing};

use crate::config::{Access, Target};

// The bounds of this room.

/// Segments are cut into objects of this size, so that a broken connection costs little.
const PART_BYTES: usize = 8 << 20;
/// Objects under way at once, and about how many bytes of them.
const IN_FLIGHT: usize = 8;
const IN_FLIGHT_BYTES: usize = 32 << 20;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;
/// How often the worker looks for what has been sealed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first and the longest wait after a failure; each wait is twice the last, and jittered by a half.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long a stopping node waits for the worker.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What a node archives, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The place; none for backups by hand alone.
    pub target: Option<Target>,
    /// What opens it, and others that backups by hand go to.
    pub access: Access,
    /// At most so long after a write there is a checkpoint that has it.
    pub interval: Duration,
    /// Checkpoints kept.
    pub keep: usize,
    /// Age at which they go; the newest stays.
    pub keep_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { target: None, access: Access::default(), interval: day / 24, keep: 32, keep_age: 30 * day }
    }
}

/// Whose archive it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub realm: Name,
    /// The node.
    pub node: Name,
}

/// Why a checkpoint was not archived. What is in the archive is what it was, but for objects that the next try finds
/// there.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The place refuses.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The disk refuses, or what is on it is damaged.
    #[error(transparent)]
    Read(#[from] crate::store::ReadError),
    /// Nothing was ever sealed.
    #[error("there is no checkpoint yet")]
    NoCheckpoint,
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

fn wall_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
