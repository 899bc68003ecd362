//! Removals that name a dot not yet seen, kept until that dot arrives.

use std::collections::{BTreeMap, BTreeSet};

use super::actors::{ActorIx, ShortDot};
use super::bounds;

/// Which cell of dots a removal is for. Counters need no parking: their
/// baselines wait in the cell itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellName {
    /// The key.
    pub key: Box<[u8]>,
    /// The element, or none for the key's register.
    pub element: Option<Box<[u8]>>,
}

impl CellName {
    fn size(&self) -> usize {
        self.key.len() + self.element.as_ref().map_or(0, |element| element.len())
    }
}

/// The parked removals: by dot and cell, because one op may make its dot live in several cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parked {
    cells: BTreeMap<ShortDot, BTreeSet<CellName>>,
    len: usize,
    bytes: usize,
}

impl Parked {
    /// How many removals are parked.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether that many removals more, naming cells of that many bytes in all, can be parked.
    pub fn has_room(&self, more: usize, bytes: usize) -> bool {
        self.len + more <= bounds::PARKED && self.bytes + bytes <= bounds::PARKED_BYTES
    }

    /// Parks the removal of a dot from a cell.
    pub(super) fn park(&mut self, dot: ShortDot, cell: CellName) {
        let size = cell.size();
        if self.cells.entry(dot).or_default().insert(cell) {
            self.bytes += size;
            self.len += 1;
        }
    }

    /// Whether a removal of the dot from that cell is parked.
    pub fn holds(&self, dot: ShortDot, key: &[u8], element: Option<&[u8]>) -> bool {
        self.cells.get(&dot).is_some_and(|cells| {
            cells.contains(&CellName { key: key.into(), element: element.map(Into::into) })
        })
    }

    /// Forgets the removals of one dot: it has arrived.
    pub(super) fn settle(&mut self, dot: ShortDot) {
        if let Some(cells) = self.cells.remove(&dot) {
            self.len -= cells.len();
            self.bytes -= cells.iter().map(CellName::size).sum::<usize>();
        }
    }

    /// Forgets all removals of dots that have been seen.
    pub(super) fn settle_seen(&mut self, seen: impl Fn(ActorIx) -> u64) {
        self.cells.retain(|dot, _| dot.seq() > seen(dot.actor()));
        self.len = self.cells.values().map(BTreeSet::len).sum();
        self.bytes = self.cells.values().flatten().map(CellName::size).sum();
    }

    /// All, ordered by the replica's own numbering.
    pub fn iter(&self) -> impl Iterator<Item = (ShortDot, &CellName)> {
        self.cells.iter().flat_map(|(&dot, cells)| cells.iter().map(move |cell| (dot, cell)))
    }
}
