//! States of cells.

use serde::{Deserialize, Serialize};

use crate::op::Counter;
use crate::{Actor, DecodeError, Stamp, WireDot, bound, bounds, check_seq, distinct, limit};

/// Cells of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Its cells.
    #[serde(deserialize_with = "limit::cells")]
    pub cells: Vec<CellState>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CellState {
    /// The versions of a register.
    Register(#[serde(deserialize_with = "limit::versions")] Vec<VersionState>),
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
    #[serde(deserialize_with = "limit::dots")]
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

/// What a parked removal is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ParkedTarget {
    /// That dot of the key's register.
    Register,
    /// That dot of an element of the key's set.
    Member(serde_bytes::ByteBuf),
    /// All dots of the actor up to that one, of all elements of the key's set.
    Set,
}

/// A removal that names a dot not yet seen, kept until that dot arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedState {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Which of its cells.
    pub target: ParkedTarget,
    /// The actor of the dot.
    pub actor: Actor,
    /// The number of the dot.
    pub seq: u64,
}

/// Checks the cells of an answer: bounds, table places, numbers,
/// and that no cell is empty or names a dot twice.
pub(crate) fn check_cells(actors: &[Actor], keys: &[KeyState]) -> Result<(), DecodeError> {
    bound("actor table", actors.len(), bounds::ACTORS)?;
    if !distinct(actors.iter()) {
        return Err(DecodeError::malformed("actor table", "it names an actor twice"));
    }
    let places = actors.len() as u32;
    for state in keys {
        bound("key", state.key.len(), bounds::KEY)?;
        for cell in &state.cells {
            match cell {
                CellState::Register(versions) => {
                    versions
                        .iter()
                        .try_for_each(|version| bound("value", version.value.len(), bounds::VALUE))?;
                    check_live(versions.iter().map(|version| version.dot), places)?;
                }
                CellState::Member(member) => {
                    bound("element", member.element.len(), bounds::ELEMENT)?;
                    check_live(member.dots.iter().copied(), places)?;
                }
                CellState::Counter(part) => part.check(places)?,
            }
        }
    }
    Ok(())
}

pub(crate) fn check_live(
    dots: impl ExactSizeIterator<Item = WireDot> + Clone,
    places: u32,
) -> Result<(), DecodeError> {
    bound("dots", dots.len(), bounds::DOTS)?;
    for dot in dots.clone() {
        check_place(dot.actor, places)?;
        check_seq("cell", dot.seq)?;
    }
    if dots.len() == 0 {
        return Err(DecodeError::malformed("cell", "it has no live dot"));
    }
    if !distinct(dots) {
        return Err(DecodeError::malformed("cell", "it names a dot twice"));
    }
    Ok(())
}

fn check_place(place: u32, places: u32) -> Result<(), DecodeError> {
    if place < places {
        Ok(())
    } else {
        Err(DecodeError::malformed("cell", "it names an actor that is not in the table"))
    }
}

impl CounterState {
    pub(crate) fn check(&self, places: u32) -> Result<(), DecodeError> {
        check_place(self.actor, places)?;
        if self.contribution.is_none() && self.baseline.is_none() {
            return Err(DecodeError::malformed("cell", "it is a counter's part without sums"));
        }
        for tally in self.contribution.iter().chain(&self.baseline) {
            check_seq("cell", tally.birth)?;
            check_sums("cell", self.counter, tally.n)?;
        }
        Ok(())
    }
}

/// A counter that only grows has no decrements.
pub(crate) fn check_sums(what: &'static str, counter: Counter, n: u128) -> Result<(), DecodeError> {
    if counter == Counter::G && n > 0 {
        return Err(DecodeError::malformed(what, "a gcounter cannot shrink"));
    }
    Ok(())
}

impl ParkedState {
    /// Bytes of the key and the element.
    pub fn size(&self) -> usize {
        match &self.target {
            ParkedTarget::Member(element) => self.key.len() + element.len(),
            ParkedTarget::Register | ParkedTarget::Set => self.key.len(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        bound("key", self.key.len(), bounds::KEY)?;
        if let ParkedTarget::Member(element) = &self.target {
            bound("element", element.len(), bounds::ELEMENT)?;
        }
        check_seq("parked removal", self.seq)
    }
}
