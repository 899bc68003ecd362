//! Snapshots that cost nothing until a bucket changes.
//!
//! A snapshot walks the buckets of the table in hash order, a step at a time,
//! while writes go on. A bucket that is about to change before the walk has come
//! to it is encoded first. So all blocks of a snapshot are of one moment, the one
//! at which it began, and no step holds up writes for longer than one bucket takes.

use std::collections::{BTreeMap, VecDeque};

use tidings_proto::SeenEntries;
use tidings_proto::cell::ParkedState;

use super::actors::Actors;
use super::block::{BlockBuilder, parked_states};
use super::bounds;
use super::mutant::{self, Mutant};
use super::replica::Replica;
use super::state::Cells;
use super::table::Table;

/// Names a running snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

/// What a step of a snapshot gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next encoded block.
    Block(Vec<u8>),
    /// There are no more.
    Done,
    /// The snapshot was aborted; what it gave so far belongs to nothing.
    Aborted,
}

#[derive(Debug, Clone, Default)]
struct Snapshot {
    /// Positions before this one are done; none when all are.
    cursor: Option<u64>,
    /// Buckets that changed before the walk came to them: by first position, the last one and the blocks.
    early: BTreeMap<u64, (u64, Vec<Vec<u8>>)>,
    ready: VecDeque<Vec<u8>>,
}

/// The running snapshots of a state.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    running: BTreeMap<SnapshotId, Snapshot>,
    next: u64,
}

impl Snapshots {
    /// Begins a snapshot, unless too many are running.
    pub fn begin(&mut self) -> Option<SnapshotId> {
        if self.running.len() >= bounds::SNAPSHOTS {
            return None;
        }
        self.next += 1;
        let id = SnapshotId(self.next);
        self.running.insert(id, Snapshot { cursor: Some(0), ..Snapshot::default() });
        Some(id)
    }

    /// Ends a snapshot, finished or not.
    pub fn end(&mut self, id: SnapshotId) {
        self.running.remove(&id);
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn abort_all(&mut self) {
        self.running.clear();
    }

    /// Must be called before anything in the bucket of `hash` changes.
    pub(super) fn before_change(&mut self, cells: &Table<Cells>, actors: &Actors, hash: u64) {
        if self.running.is_empty() || mutant::is(Mutant::SnapshotOfLater) {
            return;
        }
        let span = cells.span(hash);
        let mut encoded: Option<Vec<Vec<u8>>> = None;
        for snapshot in self.running.values_mut() {
            if snapshot.cursor.is_none_or(|cursor| cursor > span.start) || snapshot.has_early(span.start) {
                continue;
            }
            let blocks = encoded.get_or_insert_with(|| encode(cells, actors, span.start));
            snapshot.early.insert(span.start, (span.end, blocks.clone()));
        }
    }

    /// The next block. At most a few buckets' work.
    pub fn step(&mut self, id: SnapshotId, cells: &Table<Cells>, actors: &Actors) -> Step {
        let Some(snapshot) = self.running.get_mut(&id) else { return Step::Aborted };
        loop {
            if let Some(block) = snapshot.ready.pop_front() {
                return Step::Block(block);
            }
            let Some(cursor) = snapshot.cursor else { return Step::Done };
            let end = match snapshot.early.remove(&cursor) {
                Some((end, blocks)) => {
                    snapshot.ready.extend(blocks);
                    end
                }
                None => {
                    snapshot.ready.extend(encode(cells, actors, cursor));
                    cells.span(cursor).end
                }
            };
            snapshot.cursor = end.checked_add(1);
        }
    }
}

/// A snapshot that has begun, and the context that all its blocks belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// What to step.
    pub id: SnapshotId,
    /// The version vector.
    pub seen: SeenEntries,
    /// The parked removals.
    pub parked: Vec<ParkedState>,
}

impl Replica {
    /// Begins a snapshot of the state, unless too many are running. Its context
    /// is taken in the same step: a live set travels only with the context it belongs to.
    pub fn begin_snapshot(&mut self) -> Option<Begun> {
        let id = self.state.snapshots.begin()?;
        let parked = parked_states(&self.state.parked, &self.state.actors);
        Some(Begun { id, seen: self.state.seen_entries(), parked })
    }

    /// How many snapshots are running.
    pub fn snapshots(&self) -> usize {
        self.state.snapshots.running()
    }

    /// The next block of a snapshot.
    pub fn step_snapshot(&mut self, id: SnapshotId) -> Step {
        self.state.snapshots.step(id, &self.state.cells, &self.state.actors)
    }

    /// Ends a snapshot, finished or not.
    pub fn end_snapshot(&mut self, id: SnapshotId) {
        self.state.snapshots.end(id);
    }
}

impl Snapshot {
    fn has_early(&self, position: u64) -> bool {
        self.early.range(..=position).next_back().is_some_and(|(_, (end, _))| *end >= position)
    }
}

fn encode(cells: &Table<Cells>, actors: &Actors, hash: u64) -> Vec<Vec<u8>> {
    let mut builder = BlockBuilder::new(actors);
    for (_, cells) in cells.bucket(hash) {
        builder.push(cells);
    }
    builder.finish()
}
