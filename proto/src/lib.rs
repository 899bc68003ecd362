//! The wire of tidings: what two nodes say to each other, byte for byte.
//!
//! This crate knows messages, their bounds and their framing, and nothing of
//! sockets, replicas or time. `SPEC.md` beside it describes the same in prose,
//! complete enough for a second implementation; `vectors/` holds golden bytes
//! that are added to and never edited.
//!
//! * [`id`]: realms, nodes, actors, stamps
//! * [`op`]: one write, and the [`Run`]s in which writes travel and are logged
//! * [`cell`]: states of cells
//! * [`block`]: the [`Block`]s in which cells travel and are stored
//! * [`seen`]: version vectors and their digest
//! * [`message`]: the messages of push, pull, sync and stats
//! * [`frame`]: length-prefixed frames
//! * [`bounds`]: every limit of the wire, in one place

pub mod block;
pub mod bounds;
pub mod cell;
pub mod frame;
pub mod id;
mod limit;
pub mod message;
pub mod op;
pub mod seen;

pub use block::Block;
pub use cell::{CellState, CounterState, KeyState, MemberState, VersionState};
pub use id::{Actor, Name, NameError, Stamp};
pub use message::{Hello, Lane, Message, common_version};
pub use op::{Baseline, Counter, Edit, Op, Run, WireDot};
pub use seen::{Seen, SeenDigest, SeenEntries, StateDigest};

/// One write: which actor made it, and its number among that actor's writes.
pub type Dot = crdts::Dot<Actor>;

/// The ALPN protocol name of this wire.
pub const ALPN: &[u8] = b"tidings/1";

/// The versions of the protocol that this crate speaks, lowest and highest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// Why bytes from the wire, or from the disk, were not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not an encoding of what was expected.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// The decoder's own words.
        why: String,
    },
    /// A length or count is over its bound; nothing was allocated for it.
    #[error("{what} of {size} is over the bound of {bound}")]
    Oversized {
        /// What was too large.
        what: &'static str,
        /// Its size, in the bound's unit.
        size: u64,
        /// The bound.
        bound: u64,
    },
    /// Bytes were left over after a whole value.
    #[error("{left} bytes left over after {what}")]
    Trailing {
        /// What had been decoded.
        what: &'static str,
        /// How many bytes followed it.
        left: usize,
    },
}

impl DecodeError {
    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}

pub(crate) fn bound(what: &'static str, size: usize, bound: usize) -> Result<(), DecodeError> {
    if size > bound {
        return Err(DecodeError::Oversized { what, size: size as u64, bound: bound as u64 });
    }
    Ok(())
}

/// Writes are numbered from 1, and the greatest `u64` is kept free so that "the next one" always exists.
pub(crate) fn check_seq(what: &'static str, seq: u64) -> Result<(), DecodeError> {
    if seq == 0 || seq == u64::MAX {
        return Err(DecodeError::malformed(what, "it names a write that cannot exist"));
    }
    Ok(())
}

/// Whether no item comes twice.
pub(crate) fn distinct<T: Ord>(items: impl ExactSizeIterator<Item = T>) -> bool {
    if items.len() < 2 {
        return true;
    }
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.windows(2).all(|w| w[0] < w[1])
}
