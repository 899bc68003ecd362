//! Snapshots that cost nothing until a bucket changes.
//!
//! A snapshot walks the buckets of the table in hash order, a step at a time,
//! while writes go on. A bucket that is about to change before the walk has come
//! to it is copied first. So all blocks of a snapshot are of one moment, the one
//! at which it began, and no step holds up writes for longer than a few buckets take.
//!
//! A *guided* snapshot gives only what it is asked for: the fingerprints of ranges
//! at that moment, and the cells of those that its reader wants.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidings_proto::SeenEntries;
use tidings_proto::cell::ParkedState;

use super::actors::Actors;
use super::block::{AHEAD, BlockBuilder, fetch, parked_states};
use super::bounds;
use super::cells::Cells;
use super::fingerprint::{Fingerprint, FingerprintTree, Prefix, Rows, Span};
use super::mutant::{self, Mutant};
use super::replica::Replica;
use super::state::State;
use super::table::{Lens, Named, Table};

/// Names a running snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

/// What a step of a snapshot gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next encoded block.
    Block(Vec<u8>),
    /// There are no more, of what was asked for.
    Done,
    /// The snapshot was aborted, by a merge or because something of it has rotted; what it gave so far
    /// belongs to nothing.
    Aborted,
}

/// Most buckets that one step reads.
const STEP_BUCKETS: usize = 128;

/// A bucket as it was, in hash order.
type Copied = Arc<[(u64, Cells)]>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// The fingerprints of all ranges as they were, if the snapshot is guided.
    fingerprints: Option<FingerprintTree>,
    /// What is left to be walked, in order.
    spans: VecDeque<Span>,
    /// Buckets that have changed since and may be walked or compared: by first position, the last one and the cells.
    early: BTreeMap<u64, (u64, Copied)>,
    ready: VecDeque<Vec<u8>>,
}

/// A step of a walk.
struct Gathered {
    blocks: Vec<Vec<u8>>,
    /// Values left out of them.
    left_out: u64,
    /// How many of the spans that were left have been walked to their end.
    whole: usize,
    /// Where the next one goes on.
    part: Option<u64>,
}

/// The running snapshots of a state.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    running: BTreeMap<SnapshotId, Snapshot>,
    next: u64,
    /// Those that are over and hold much, which takes long to drop.
    spent: Vec<Snapshot>,
}

impl Snapshots {
    /// Begins a snapshot, unless too many are running.
    fn begin(&mut self, cells: &Table<Cells>, guided: bool) -> Option<SnapshotId> {
        if self.running.len() >= bounds::SNAPSHOTS {
            return None;
        }
        self.next += 1;
        let id = SnapshotId(self.next);
        let snapshot = if guided {
            Snapshot { fingerprints: Some(cells.fingerprints().clone()), ..Snapshot::default() }
        } else {
            Snapshot { spans: [Span::ALL].into(), ..Snapshot::default() }
        };
        self.running.insert(id, snapshot);
        Some(id)
    }

    /// Ends a snapshot, finished or not.
    pub fn end(&mut self, id: SnapshotId) {
        let ended = self.running.remove(&id);
        self.spent.extend(ended.filter(|snapshot| snapshot.early.len() > STEP_BUCKETS));
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn abort_all(&mut self) {
        self.running.clear();
    }

    /// Must be called before anything in the bucket of `hash` changes.
    pub(super) fn before_change(&mut self, cells: &Table<Cells>, hash: u64) {
        if self.running.is_empty() || mutant::is(Mutant::SnapshotOfLater) {
            return;
        }
        let span = cells.span(hash);
        let mut copy: Option<Copied> = None;
        for snapshot in self.running.values_mut().filter(|snapshot| snapshot.needs(span)) {
            let copy = copy.get_or_insert_with(|| {
                cells.bucket(hash).map(|(position, cells)| (position, cells.clone())).collect()
            });
            snapshot.early.insert(span.start, (span.end, copy.clone()));
        }
    }

    /// The next block. At most a few buckets' work. An error is a bucket that has rotted, and ends the snapshot.
    fn step(
        &mut self,
        id: SnapshotId,
        cells: &Table<Cells>,
        actors: &Actors,
        rows: Rows<'_>,
        known: &[u64],
    ) -> Result<(Step, u64), Prefix> {
        let Some(snapshot) = self.running.get_mut(&id) else { return Ok((Step::Aborted, 0)) };
        let mut left_out = 0;
        while snapshot.ready.is_empty() && !snapshot.spans.is_empty() {
            match snapshot.walk(cells, actors, rows, known) {
                Ok(more) => left_out += more,
                Err(rotten) => {
                    self.running.remove(&id);
                    return Err(rotten);
                }
            }
        }
        Ok((snapshot.ready.pop_front().map_or(Step::Done, Step::Block), left_out))
    }
}

impl Snapshot {
    /// How many keys' cells it has copied.
    pub(super) fn copied(&self) -> usize {
        self.early.values().map(|(_, copy)| copy.len()).sum()
    }

    /// Whether a bucket that is about to change must be kept as it is.
    fn needs(&self, span: Span) -> bool {
        let walked = self.spans.front().is_none_or(|front| front.start > span.start);
        let kept =
            self.early.range(..=span.start).next_back().is_some_and(|(_, (end, _))| *end >= span.start);
        !kept && (self.fingerprints.is_some() || !walked)
    }

    /// The bucket at a position as it was: its last position, and its cells if they have changed since.
    fn bucket(&self, cells: &Table<Cells>, position: u64) -> (Span, Option<&Copied>) {
        let early = self.early.range(..=position).next_back().filter(|(_, (end, _))| *end >= position);
        match early {
            Some((start, (end, copy))) => (Span { start: *start, end: *end }, Some(copy)),
            None => (cells.span(position), None),
        }
    }

    /// Encodes what comes next: about a block, of a few buckets. Says how many values have been left out.
    fn walk(
        &mut self,
        cells: &Table<Cells>,
        actors: &Actors,
        rows: Rows<'_>,
        known: &[u64],
    ) -> Result<u64, Prefix> {
        let Gathered { blocks, left_out, whole, part } = self.gather(cells, actors, rows, known)?;
        self.ready.extend(blocks);
        self.spans.drain(..whole);
        if let Some((span, position)) = self.spans.front_mut().zip(part) {
            span.start = position;
        }
        if self.fingerprints.is_none() {
            let left = self.spans.front().map_or(u64::MAX, |span| span.start);
            self.early.retain(|_, (end, _)| *end >= left);
        }
        Ok(left_out)
    }

    /// The blocks of the next few buckets. What leaves memory is what its fingerprints say: rot does not get to the
    /// disk nor to a peer.
    fn gather(
        &self,
        cells: &Table<Cells>,
        actors: &Actors,
        rows: Rows<'_>,
        known: &[u64],
    ) -> Result<Gathered, Prefix> {
        let mut builder = BlockBuilder::lean(actors, known);
        // Single keys of one bucket are one bucket's work.
        let (mut buckets, mut last, mut lens) = (0, None, cells.lens());
        for (whole, span) in self.spans.iter().enumerate() {
            let mut next = Some(span.start);
            while let Some(start) = next.filter(|start| *start <= span.end) {
                let (bucket, copy) = self.bucket(cells, start);
                buckets += usize::from(last != Some(bucket.start));
                last = Some(bucket.start);
                if buckets > STEP_BUCKETS || builder.is_full() {
                    let left_out = builder.left_out();
                    return Ok(Gathered { blocks: builder.finish(), left_out, whole, part: Some(start) });
                }
                let part = Span { start, end: span.end.min(bucket.end) };
                // A key that has changed hashes to another place.
                let mut sound = true;
                let mut push = |position: u64, cells| {
                    sound &= bucket.contains(position) && is_sound(rows, position, cells);
                    builder.push(cells);
                };
                match copy {
                    Some(copy) => {
                        let within = copy.iter().filter(|(position, _)| part.contains(*position));
                        within.for_each(|(position, cells)| push(*position, cells));
                        let mut ends = [copy.first(), copy.last()].into_iter().flatten();
                        sound &= ends.all(|(position, _)| bucket.contains(*position));
                    }
                    None if part == bucket => {
                        let items: Vec<&Cells> = cells.bucket_unordered(start).collect();
                        for some in items.chunks(AHEAD) {
                            fetch(some);
                            some.iter().for_each(|item| push(cells.hash(item.key()), item));
                        }
                    }
                    None => {
                        lens.within(part).iter().for_each(|(position, cells)| push(*position, cells));
                        sound &= lens.is_sound();
                    }
                }
                if !sound && !mutant::is(Mutant::RotPassedOn) {
                    return Err(cells.prefix(start));
                }
                next = part.end.checked_add(1);
            }
        }
        let left_out = builder.left_out();
        Ok(Gathered { blocks: builder.finish(), left_out, whole: self.spans.len(), part: None })
    }

    /// The fingerprints of the sixteen parts of a range, as they were.
    fn parts(&self, lens: &mut Lens<'_, Cells>, cells: &Table<Cells>, range: Prefix) -> [Fingerprint; 16] {
        let (bucket, copy) = self.bucket(cells, range.span().start);
        if bucket.end < range.span().end {
            let mut parts = [Fingerprint::default(); 16];
            range.parts().zip(&mut parts).for_each(|(part, sum)| *sum = self.part(lens, cells, part));
            return parts;
        }
        match copy {
            Some(copy) => spread(range, copy.iter().map(|(position, cells)| (*position, cells))),
            None => spread(range, lens.within(range.span()).iter().copied()),
        }
    }

    /// The fingerprint of a range that is a bucket, or of several, or part of one.
    fn part(&self, lens: &mut Lens<'_, Cells>, cells: &Table<Cells>, range: Prefix) -> Fingerprint {
        let (bucket, copy) = self.bucket(cells, range.span().start);
        let within = range.span();
        if bucket.end <= within.end && bucket.start >= within.start {
            return self.fingerprints.as_ref().map(|tree| tree.get(range)).unwrap_or_default();
        }
        let is_in = |position: &u64| within.contains(*position);
        match copy {
            Some(copy) => copy.iter().filter(|(at, _)| is_in(at)).map(|(_, cells)| cells.fingerprint()).sum(),
            None => lens.within(within).iter().map(|(_, cells)| cells.fingerprint()).sum(),
        }
    }
}

fn is_sound(rows: Rows<'_>, position: u64, cells: &Cells) -> bool {
    rows.cells(position, cells) == cells.fingerprint()
}

/// Sums the items of a range by its sixteen parts.
pub(super) fn spread<'a>(range: Prefix, items: impl Iterator<Item = (u64, &'a Cells)>) -> [Fingerprint; 16] {
    let mut parts = [Fingerprint::default(); 16];
    let (span, shift) = (range.span(), 60 - range.depth());
    for (position, cells) in items.filter(|(position, _)| span.contains(*position)) {
        let part = &mut parts[(position >> shift & 15) as usize];
        *part = *part + cells.fingerprint();
    }
    parts
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
        self.begin(false)
    }

    /// Begins a snapshot that gives nothing before it is asked for something.
    pub fn begin_guided_snapshot(&mut self) -> Option<Begun> {
        self.begin(true)
    }

    fn begin(&mut self, guided: bool) -> Option<Begun> {
        let id = self.state.snapshots.begin(&self.state.cells, guided)?;
        let parked = parked_states(&self.state.parked, &self.state.actors);
        Some(Begun { id, seen: self.state.seen_entries(), parked })
    }

    /// Snapshots that are over and take long to drop.
    pub(crate) fn take_spent(&mut self) -> Vec<Snapshot> {
        std::mem::take(&mut self.state.snapshots.spent)
    }

    /// How many snapshots are running.
    pub fn snapshots(&self) -> usize {
        self.state.snapshots.running()
    }

    /// Ranges that snapshots have come upon and that have rotted.
    pub(crate) fn take_rotten(&mut self) -> Vec<Prefix> {
        std::mem::take(&mut self.rotten)
    }

    /// The next block of a snapshot.
    pub fn step_snapshot(&mut self, id: SnapshotId) -> Step {
        self.step_lean(id, &[]).0
    }

    /// [`Replica::step_snapshot`] for a reader who has seen so much, by place of the actor: values that it
    /// has seen are left out. Says of how many.
    pub(super) fn step_lean(&mut self, id: SnapshotId, known: &[u64]) -> (Step, u64) {
        let State { snapshots, cells, actors, hash_key, tags, .. } = &mut self.state;
        snapshots.step(id, cells, actors, Rows { key: *hash_key, tags }, known).unwrap_or_else(|rotten| {
            self.rotten.push(rotten);
            (Step::Aborted, 0)
        })
    }

    /// The fingerprints of the sixteen parts of each of some ranges, as they were when a guided
    /// snapshot began; none once it has been aborted.
    pub fn snapshot_parts(&self, id: SnapshotId, ranges: &[Prefix]) -> Option<Vec<[Fingerprint; 16]>> {
        let snapshot = self.state.snapshots.running.get(&id)?;
        let (cells, mut lens) = (&self.state.cells, self.state.cells.lens());
        Some(ranges.iter().map(|range| snapshot.parts(&mut lens, cells, *range)).collect())
    }

    /// Has a guided snapshot give the cells of some ranges next.
    pub fn ask_snapshot(&mut self, id: SnapshotId, ranges: impl Iterator<Item = Prefix>) {
        if let Some(snapshot) = self.state.snapshots.running.get_mut(&id) {
            snapshot.spans.extend(ranges.map(Prefix::span));
        }
    }

    /// Ends a snapshot, finished or not.
    pub fn end_snapshot(&mut self, id: SnapshotId) {
        self.state.snapshots.end(id);
    }
}
