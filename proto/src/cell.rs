//! States of cells, and the blocks in which they travel and are stored.

use serde::{Deserialize, Serialize};

use crate::op::Counter;
use crate::{Actor, DecodeError, Stamp, WireDot, bound, bounds};

/// The state of many cells, with the table of the actors that their dots name
/// (place n is `actors[n]`). Always belongs to a version vector that travels
/// or is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Block {
    /// The actors.
    pub actors: Vec<Actor>,
    /// The cells, grouped by key. One key may come in several groups.
    pub keys: Vec<KeyState>,
}

/// Cells of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Its cells.
    pub cells: Vec<CellState>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellState {
    /// The versions of a register.
    Register(Vec<VersionState>),
    /// One element of a set.
    Member(MemberState),
    /// One actor's part of a counter.
    Counter(CounterState),
}

/// One version of a register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionState {
    /// The write that made it.
    pub dot: WireDot,
    /// When, by its author's clock.
    pub stamp: Stamp,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// One element of a set and the adds that hold it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// The element.
    #[serde(with = "serde_bytes")]
    pub element: Vec<u8>,
    /// Its live dots.
    pub dots: Vec<WireDot>,
}

/// One actor's part of a counter: its contribution and what deletes have observed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterState {
    /// Which counter of the key.
    pub counter: Counter,
    /// Place of the actor.
    pub actor: u32,
    /// The contribution.
    pub contribution: Option<Tally>,
    /// The reset baseline.
    pub baseline: Option<Tally>,
}

/// Sums since a birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tally {
    /// Number of the op that began this life of the contribution.
    pub birth: u64,
    /// Sum of increments.
    pub p: u128,
    /// Sum of decrements.
    pub n: u128,
}

/// A removal that names a dot not yet seen, kept until that dot arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedState {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The element, or none for the key's register.
    pub element: Option<serde_bytes::ByteBuf>,
    /// The actor of the dot.
    pub actor: Actor,
    /// The number of the dot.
    pub seq: u64,
}

impl Block {
    /// Encodes the block.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a block of plain values always encodes")
    }

    /// Decodes and checks a block.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bound("block", bytes.len(), bounds::BULK_FRAME)?;
        let (block, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|e| DecodeError::malformed("block", e))?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { what: "block", left: rest.len() });
        }
        block.check()?;
        Ok(block)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let places = self.actors.len() as u32;
        let dot = |d: &WireDot| {
            if d.actor >= places || d.seq == 0 {
                return Err(DecodeError::malformed("block", "it names a dot that cannot exist"));
            }
            Ok(())
        };
        for state in &self.keys {
            bound("key", state.key.len(), bounds::KEY)?;
            for cell in &state.cells {
                match cell {
                    CellState::Register(versions) => {
                        for version in versions {
                            bound("value", version.value.len(), bounds::VALUE)?;
                            dot(&version.dot)?;
                        }
                    }
                    CellState::Member(member) => {
                        bound("element", member.element.len(), bounds::ELEMENT)?;
                        member.dots.iter().try_for_each(dot)?;
                    }
                    CellState::Counter(part) => {
                        let seq = part.contribution.or(part.baseline).map_or(0, |t| t.birth);
                        dot(&WireDot { actor: part.actor, seq })?;
                    }
                }
            }
        }
        Ok(())
    }
}
