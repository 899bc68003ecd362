//! What a replica writes to its disk: records of the log, and the meta of a checkpoint.
//!
//! A record holds one or more entries, one after another, and is one batch: it
//! is on disk whole or not at all. Ops stand in it as the runs that travel.

use serde::{Deserialize, Serialize};
use tidings_proto::cell::ParkedState;
use tidings_proto::message::Member;
use tidings_proto::{Actor, DecodeError, Run, SeenEntries, Stamp};

use super::shelf::Shelved;

/// One entry of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The node began a new life; a merge left uncommitted by the last one is void.
    Incarnation(Actor),
    /// No stamp above this one has been used.
    Ceiling(Stamp),
    /// Ops, applied.
    Run(Run),
    /// A context merge begins: what its blocks belong to.
    MergeBegin {
        /// The version vector.
        seen: SeenEntries,
        /// The parked removals.
        parked: Vec<ParkedState>,
    },
    /// A block of that merge, encoded.
    MergeBlock(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The merge takes place, of the whole state.
    MergeCommit,
    /// A member became known, or its addresses changed.
    Member(Member),
    /// An operator removed a member's addresses.
    Forget(String),
    /// The merge takes place, of some ranges of positions.
    MergeRanges {
        /// The key under which positions are meant.
        key: (u64, u64),
        /// The first and the last position of each, in ascending order.
        spans: Vec<(u64, u64)>,
    },
    /// What a peer was known to hold when its link went down, in which of its lives.
    Cursor(Actor, SeenEntries),
}

impl Entry {
    /// Appends the entry to a record.
    pub fn encode(&self, record: Vec<u8>) -> Vec<u8> {
        postcard::to_extend(self, record).expect("an entry of plain values always encodes")
    }
}

/// The entries of a record. After an error nothing more is yielded.
pub fn entries(record: &[u8]) -> impl Iterator<Item = Result<Entry, DecodeError>> {
    let mut rest = Some(record);
    std::iter::from_fn(move || {
        let bytes = rest.filter(|bytes| !bytes.is_empty())?;
        match postcard::take_from_bytes(bytes) {
            Ok((entry, left)) => {
                rest = Some(left);
                Some(Ok(entry))
            }
            Err(error) => {
                rest = None;
                Some(Err(DecodeError::Malformed { what: "record", why: error.to_string() }))
            }
        }
    })
}

/// What a checkpoint holds besides its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// The version vector that the blocks belong to.
    pub seen: SeenEntries,
    /// The parked removals of the same moment.
    pub parked: Vec<ParkedState>,
    /// No stamp above this one had been used.
    pub ceiling: Stamp,
    /// The members known.
    pub members: Vec<Member>,
    /// Where in the log ops stand, by actor.
    pub shelved: Vec<Shelved>,
    /// What peers were known to hold, in which of their lives.
    pub cursors: Vec<(Actor, SeenEntries)>,
}

impl Meta {
    /// Encodes the meta.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain values always encode")
    }

    /// Decodes a meta.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let meta: Self = postcard::from_bytes(bytes)
            .map_err(|e| DecodeError::Malformed { what: "checkpoint meta", why: e.to_string() })?;
        meta.seen.check()?;
        meta.cursors.iter().try_for_each(|(_, seen)| seen.check())?;
        Ok(meta)
    }
}
