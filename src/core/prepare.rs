//! The step that ends a context merge, worked out beforehand a few keys at a time.
//!
//! The step takes in all that was fetched at once, and nobody is answered meanwhile. What is to become of a key hangs
//! on its cells here and there, on the removals parked for it, and on which of its dots have been seen. There
//! they are what they were when they were staged. Here only an op on that very key changes any of them, and such ops
//! are noted. So it is worked out while ops go on, and the step itself only puts cells in their places; what ops have
//! touched since is worked out anew in it. Nothing of this is on disk: a replay merges all of it in one go.

use std::sync::Arc;

use smallvec::SmallVec;
use tidings_proto::Message;

use super::actors::{ActorIx, ShortDot};
use super::block::AHEAD;
use super::bounds;
use super::cells::{Cells, Changing};
use super::fingerprint::{Fingerprint, Ranges, Rows, Span};
use super::link::{Gossip, Now};
use super::merge::{FEW, Join};
use super::mutant::{self, Mutant};
use super::register::Version;
use super::replica::{Replica, is_reset};
use super::session::Merges;
use super::snapshot::Snapshot;
use super::state::{ApplyError, State};
use super::table::{Named, within_any};
use super::view::Shape;

/// What is to become of a key.
#[derive(Debug)]
enum Becomes {
    /// Nothing is left of it.
    Gone(Box<[u8]>),
    /// What was staged, as it is.
    Staged(Cells),
    /// What both together are.
    Merged(Cells),
    /// It has become that; what stood there before is left to be dropped.
    Done(Option<Cells>),
}

impl Becomes {
    fn cells(&self) -> Option<&Cells> {
        match self {
            Self::Staged(cells) | Self::Merged(cells) => Some(cells),
            Self::Done(cells) => cells.as_ref(),
            Self::Gone(_) => None,
        }
    }
}

/// The same, before anything has been moved.
enum Verdict {
    Unchanged,
    Gone,
    Staged,
    Merged(Cells),
}

/// In what steps it is worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparing {
    /// About how many keys each looks at. A merge of no more is not put off.
    pub keys: usize,
    /// How long after one the next is due; microseconds.
    pub pause: u64,
}

impl Default for Preparing {
    fn default() -> Self {
        Self { keys: bounds::PREPARED, pause: 0 }
    }
}

/// What a merge will do, as far as it has been worked out.
#[derive(Debug)]
pub(super) struct Prepared {
    ranges: Arc<Ranges>,
    /// This process, as the staged state numbers actors.
    own: Option<ActorIx>,
    /// From which position on it goes on; none when all has been worked out.
    next: Option<u64>,
    /// By position, in ascending order.
    changes: Vec<Vec<(u64, Becomes)>>,
    /// How many keys have been taken out of what was staged.
    staged: u64,
    /// Keys on which the staged state knows deletes of an own contribution.
    pub(super) closable: Vec<Box<[u8]>>,
    /// Keys that the step changed as had been worked out, and those that ops had touched since.
    pub(super) kept: u64,
    pub(super) again: u64,
}

/// What nobody needs any more and takes long to drop: that is for where nobody waits.
#[derive(Debug, Default)]
pub struct Spent {
    changes: Vec<Vec<(u64, Becomes)>>,
    states: Vec<State>,
    snapshots: Vec<Snapshot>,
}

impl Spent {
    /// A state that has been merged, or is of no more use.
    pub(super) fn of(state: State) -> Self {
        Self { states: vec![state], ..Self::default() }
    }

    /// Snapshots that are over.
    pub(crate) fn of_snapshots(snapshots: Vec<Snapshot>) -> Self {
        Self { snapshots, ..Self::default() }
    }

    /// How many keys' cells there are to drop.
    pub fn cells(&self) -> usize {
        let changes = self.changes.iter().map(|some| some.iter().filter_map(|(_, b)| b.cells()).count());
        let states = self.states.iter().map(|state| state.cells.len());
        let snapshots = self.snapshots.iter().map(Snapshot::copied);
        changes.chain(states).chain(snapshots).sum::<usize>()
    }
}

impl Prepared {
    /// Begins, with what was staged for these ranges. From now on it has to be known what ops touch.
    pub(super) fn new(ranges: Arc<Ranges>, own: Option<ActorIx>) -> Self {
        let (changes, closable) = (Vec::new(), Vec::new());
        Self { ranges, own, next: Some(0), changes, staged: 0, closable, kept: 0, again: 0 }
    }

    /// Whether all has been worked out.
    pub(super) fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// How many keys have been taken out of what was staged.
    pub(super) fn staged(&self) -> u64 {
        self.staged
    }

    /// What has been taken out of what was staged.
    pub(super) fn staged_cells(&self) -> impl Iterator<Item = &Cells> {
        self.changes.iter().flatten().filter_map(|(_, becomes)| match becomes {
            Becomes::Staged(cells) => Some(cells),
            _ => None,
        })
    }

    /// Gives back what it has taken out of a staged state.
    pub(super) fn give_back(self, staged: &mut State) {
        for (position, becomes) in self.changes.into_iter().flatten() {
            if let Becomes::Staged(cells) = becomes {
                staged.put(position, cells);
            }
        }
    }
}

impl State {
    /// Puts cells in their place, and gives those that stood there.
    fn put(&mut self, position: u64, cells: Cells) -> Option<Cells> {
        let sum = cells.fingerprint();
        if let Some(here) = self.cells.get_mut(position, cells.key()) {
            let old = std::mem::replace(here, cells);
            self.cells.note_change(position, old.fingerprint(), sum);
            return Some(old);
        }
        let key: SmallVec<[u8; 64]> = cells.key().into();
        self.cells.get_or_insert(position, &key, || cells);
        self.cells.note_change(position, Fingerprint::default(), sum);
        None
    }

    fn take_out(&mut self, position: u64, key: &[u8]) -> Option<Cells> {
        let sum = self.cells.get(position, key)?.fingerprint();
        self.cells.note_change(position, sum, Fingerprint::default());
        self.cells.remove(position, key)
    }

    /// Works out what a merge of the other state will do with about so many keys more.
    pub(super) fn prepare(
        &mut self,
        other: &mut State,
        prepared: &mut Prepared,
        keys: usize,
    ) -> Result<(), ApplyError> {
        let join = self.join(other)?;
        let (mut looked_at, mut changes) = (0, Vec::new());
        while looked_at < keys.max(1)
            && let Some(from) = prepared.next
        {
            let spans = prepared.ranges.spans();
            let at = spans.partition_point(|span| span.end < from);
            let Some(first) = spans.get(at) else {
                prepared.next = None;
                break;
            };
            let bucket = self.cells.span(first.start.max(from));
            let until = at + spans[at..].partition_point(|span| span.start <= bucket.end);
            let mut found = self.keys_of(bucket, &spans[at..until], other, &mut looked_at);
            found.retain(|(position, _)| *position >= from);
            found.sort_unstable();
            prepared.next = bucket.end.checked_add(1);
            if let Some((position, _)) = found.get(keys.max(1)) {
                let position = *position;
                found.retain(|(at, _)| *at < position);
                prepared.next = Some(position);
            }
            let before = changes.len();
            for (position, key) in found {
                let theirs = other.get_at(position, &key);
                if theirs.zip(prepared.own).is_some_and(|(theirs, own)| is_reset(theirs, own)) {
                    prepared.closable.push(key[..].into());
                }
                let becomes = match self.verdict(position, &key, theirs, other, &join) {
                    Verdict::Unchanged => continue,
                    Verdict::Gone => Becomes::Gone(key[..].into()),
                    Verdict::Merged(cells) => Becomes::Merged(cells),
                    Verdict::Staged => {
                        prepared.staged += 1;
                        Becomes::Staged(other.take_out(position, &key).expect("it was just seen there"))
                    }
                };
                changes.push((position, becomes));
            }
            if changes.len() > before && !mutant::is(Mutant::SnapshotOverMerge) {
                self.snapshots.before_change(&self.cells, bucket.start);
            }
        }
        prepared.changes.push(changes);
        Ok(())
    }

    /// The keys of a bucket that either side has in some ranges, with their positions. Counts what is looked at.
    fn keys_of(
        &self,
        bucket: Span,
        within: &[Span],
        other: &State,
        looked_at: &mut usize,
    ) -> Vec<(u64, SmallVec<[u8; 64]>)> {
        let mut keys = Vec::new();
        for cells in self.cells.bucket_unordered(bucket.start) {
            let position = self.position(cells.key());
            *looked_at += 1;
            if within_any(within, position) {
                keys.push((position, cells.key().into()));
            }
        }
        for (position, theirs) in other.cells.within(bucket) {
            *looked_at += 1;
            if within_any(within, position) && self.get_at(position, theirs.key()).is_none() {
                keys.push((position, theirs.key().into()));
            }
        }
        keys
    }

    fn verdict(
        &self,
        position: u64,
        key: &[u8],
        theirs: Option<&Cells>,
        other: &State,
        join: &Join,
    ) -> Verdict {
        let ours = self.get_at(position, key);
        if let Some(verdict) = self.plain_verdict(ours, theirs, other, join) {
            return verdict;
        }
        let mut merged = ours.cloned().unwrap_or_else(|| Cells::new(key));
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        let mut changing = Changing::new(&mut merged, rows, position);
        join.merge(&mut changing, theirs, &self.parked, other);
        changing.finish();
        match ours {
            None if merged.is_blank() => Verdict::Unchanged,
            Some(ours) if ours.fingerprint() == merged.fingerprint() => Verdict::Unchanged,
            Some(_) if merged.is_blank() => Verdict::Gone,
            _ => Verdict::Merged(merged),
        }
    }

    /// The verdict on most keys, which are registers or new here, without building anything.
    fn plain_verdict(
        &self,
        ours: Option<&Cells>,
        theirs: Option<&Cells>,
        other: &State,
        join: &Join,
    ) -> Option<Verdict> {
        let is_plain = |cells: Option<&Cells>| cells.is_none_or(Cells::is_register);
        if !join.alike || !self.parked.is_empty() || !other.parked.is_empty() {
            return None;
        }
        if let (None, Some(theirs)) = (ours, theirs)
            && join.is_news(theirs)
        {
            return Some(Verdict::Staged);
        }
        if !is_plain(ours) || !is_plain(theirs) {
            return None;
        }
        let here = ours.map_or(&[][..], |cells| cells.register().versions());
        let there = theirs.map_or(&[][..], |cells| cells.register().versions());
        let is_there = |dot: ShortDot| there.iter().any(|version| version.dot == dot);
        let stays = |dot: ShortDot| is_there(dot) || dot.seq() > join.theirs[dot.actor().index()];
        let is_news = |dot: ShortDot| dot.seq() > join.ours[dot.actor().index()];
        let alike = |theirs: &Version| here.iter().find(|ours| ours.dot == theirs.dot);
        let differs = |theirs| alike(theirs).is_some_and(|ours| ours != theirs);
        if there.iter().any(differs) {
            return None;
        }
        let is_here = |dot: ShortDot| here.iter().any(|version| version.dot == dot);
        let (all_stay, none_alone) =
            (here.iter().all(|v| stays(v.dot)), here.iter().all(|v| is_there(v.dot) || !stays(v.dot)));
        if all_stay && there.iter().all(|v| is_here(v.dot) || !is_news(v.dot)) {
            return Some(Verdict::Unchanged);
        }
        if none_alone && there.iter().all(|v| is_here(v.dot) || is_news(v.dot)) {
            return Some(if there.is_empty() { Verdict::Gone } else { Verdict::Staged });
        }
        None
    }

    /// [`State::merge_ranges`] of what has been worked out. `touched` are the positions of all keys that ops
    /// have changed since it began. After an error nothing has changed.
    pub(super) fn merge_prepared(
        &mut self,
        other: &mut State,
        ranges: &Ranges,
        prepared: &mut Prepared,
        touched: &[u64],
    ) -> Result<Spent, ApplyError> {
        let join = self.admit(other)?;
        let mut again = touched.to_vec();
        again.sort_unstable();
        again.dedup();
        again.retain(|position| ranges.contains(*position) && !mutant::is(Mutant::PreparedKept));
        let mut changes = std::mem::take(&mut prepared.changes);
        let (mut late, mut bucket) = (&again[..], None);
        for some in changes.iter_mut().flat_map(|changes| changes.chunks_mut(AHEAD)) {
            prepared.kept += self.put_all(other, some, &mut late, &mut bucket);
        }
        prepared.again = again.len() as u64;
        self.merge_again(other, &join, prepared, &again);
        self.unite(other, &join);
        Ok(Spent { changes, ..Spent::default() })
    }

    /// Puts cells in their places, but for those at positions that are late, and leaves those that stood there in theirs.
    /// Says how many.
    fn put_all(
        &mut self,
        other: &mut State,
        changes: &mut [(u64, Becomes)],
        late: &mut &[u64],
        bucket: &mut Option<Span>,
    ) -> u64 {
        let first = |cells: &Cells| cells.key().first().copied().unwrap_or(0);
        let positions: SmallVec<[u64; AHEAD]> = changes.iter().map(|(position, _)| *position).collect();
        self.cells.fetch(&positions, first);
        let new = changes.iter().filter_map(|(_, becomes)| becomes.cells());
        std::hint::black_box(new.map(first).fold(0, |all, one| all ^ one));
        let mut kept = 0;
        for (position, becomes) in changes {
            let position = *position;
            *late = &late[late.partition_point(|touched| *touched < position)..];
            if late.first() == Some(&position) {
                // It is merged as if nothing had been worked out.
                if let Becomes::Staged(_) = becomes
                    && let Becomes::Staged(cells) = std::mem::replace(becomes, Becomes::Done(None))
                {
                    other.put(position, cells);
                }
                continue;
            }
            if !bucket.is_some_and(|bucket| bucket.contains(position)) {
                *bucket = Some(self.cells.span(position));
                if !mutant::is(Mutant::SnapshotOverMerge) {
                    self.snapshots.before_change(&self.cells, position);
                }
            }
            let (after, old) = match std::mem::replace(becomes, Becomes::Done(None)) {
                Becomes::Gone(key) => (Shape::default(), self.take_out(position, &key)),
                Becomes::Staged(cells) | Becomes::Merged(cells) => {
                    (Shape::of(&cells), self.put(position, cells))
                }
                Becomes::Done(_) => continue,
            };
            self.tallies.replace(&old.as_ref().map(Shape::of).unwrap_or_default(), &after);
            *becomes = Becomes::Done(old);
            kept += 1;
        }
        kept
    }

    /// Merges the keys at some positions, in ascending order.
    fn merge_again(&mut self, other: &State, join: &Join, prepared: &mut Prepared, positions: &[u64]) {
        let spans: Vec<Span> = positions.iter().map(|at| Span { start: *at, end: *at }).collect();
        if !mutant::is(Mutant::SnapshotOverMerge) {
            self.keep_for_snapshots(&spans);
        }
        self.merge_common(other, join, Ranges::from_spans(self.hash_key, spans.clone()).as_ref());
        let mut lens = other.cells.lens();
        for span in spans {
            for (position, theirs) in lens.within(span) {
                if prepared.own.is_some_and(|own| is_reset(theirs, own)) {
                    prepared.closable.push(theirs.key().into());
                }
                self.merge_key(*position, theirs, other, join);
            }
        }
    }
}

impl Replica {
    /// Works out what the merge will do with about so many keys more.
    pub(super) fn prepare(
        &mut self,
        staged: &mut State,
        prepared: &mut Prepared,
        keys: usize,
    ) -> Result<(), ApplyError> {
        self.state.prepare(staged, prepared, keys)
    }

    /// Merges what has been worked out, and keeps for the disk which ranges of what was staged are merged.
    pub(super) fn merge_prepared(
        &mut self,
        staged: &mut State,
        ranges: &Ranges,
        prepared: &mut Prepared,
    ) -> Result<Spent, ApplyError> {
        self.before_merge();
        let touched = self.state.touched.take();
        let merged = self.state.merge_prepared(staged, ranges, prepared, touched.as_deref().unwrap_or(&[]));
        self.state.touched = touched;
        let spent = merged?;
        self.note_merge(Some(ranges), std::mem::take(&mut prepared.closable));
        Ok(spent)
    }
}

impl Gossip {
    /// Says in what steps merges are worked out beforehand.
    pub(crate) fn set_preparing(&mut self, preparing: Preparing) {
        self.merges.preparing = preparing;
    }

    /// Whether the step at the end is being worked out.
    pub(super) fn is_preparing(&self) -> bool {
        let incoming = self.merges.incoming.as_ref();
        incoming
            .and_then(|incoming| incoming.prepared.as_ref())
            .is_some_and(|(prepared, _)| !prepared.is_done())
    }

    /// Whether the step at the end can be taken. If not that is being worked out from now on, or the merge is over.
    pub(super) fn is_prepared(&mut self, now: Now, replica: &mut Replica, ranges: &Arc<Ranges>) -> bool {
        let Some(incoming) = &mut self.merges.incoming else { return false };
        let Some((guide, context)) = incoming.guide.as_ref().zip(incoming.context.as_ref()) else {
            return false;
        };
        // What has rotted is replaced. Where next to nothing is here what was staged is taken as it is.
        let staged = context.staged.cells.len();
        let is_plain = guide.rotten.is_empty() && !incoming.reconciles;
        if incoming.prepared.is_some() || !is_plain || replica.state().cells.len() * FEW <= staged {
            return true;
        }
        let own = context.staged.actors().find(replica.actor());
        // What they have touched before has been staged too.
        replica.watch();
        incoming.prepared = Some((Prepared::new(ranges.clone(), own), now.mono));
        self.prepare_some(now, replica);
        self.merges.incoming.is_some() && !self.is_preparing()
    }

    fn prepare_some(&mut self, now: Now, replica: &mut Replica) {
        let Merges { incoming: Some(incoming), preparing, .. } = &mut self.merges else { return };
        let Some(((prepared, at), context)) = incoming.prepared.as_mut().zip(incoming.context.as_mut())
        else {
            return;
        };
        *at = now.mono + preparing.pause;
        let (link, id) = (incoming.stream.link, incoming.stream.id);
        let credit = incoming.stream.still_comes(now);
        let worked_out = replica.prepare(&mut context.staged, prepared, preparing.keys);
        credit.into_iter().for_each(|credit| self.send(link, Message::Sync(credit)));
        if let Err(error) = worked_out {
            self.give_up_merge(now, link, id, &error.to_string());
        }
    }

    /// Goes on working out the step at the end, if that is due.
    pub(crate) fn prepare_due(&mut self, now: Now, replica: &mut Replica) {
        let incoming = self.merges.incoming.as_ref();
        let Some((prepared, at)) = incoming.and_then(|incoming| incoming.prepared.as_ref()) else { return };
        if prepared.is_done() || *at > now.mono {
            return;
        }
        self.prepare_some(now, replica);
        if let Some(incoming) = self.merges.incoming.as_ref().filter(|_| !self.is_preparing()) {
            let (link, id) = (incoming.stream.link, incoming.stream.id);
            self.go_on(now, replica, link, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use tidings_proto::{Actor, Name, Stamp};

    use super::super::block::BlockBuilder;
    use super::super::clock::Clock;
    use super::super::fingerprint::Prefix;
    use super::super::table::HashKey;
    use super::super::write::Write;
    use super::*;

    fn replica(node: &str) -> Replica {
        let actor = Actor { node: Name::new(node).unwrap(), incarnation: 1 };
        Replica::new(State::new(HashKey(1, 2)), &actor, Clock::new(Stamp::default(), 500), 1 << 20).unwrap()
    }

    /// A write of any kind; one that is refused says nothing here.
    fn write(replica: &mut Replica, rng: &mut StdRng, keys: u32) {
        let key = format!("k{}", rng.random_range(0..keys)).into_bytes();
        let value = rng.random_range(0..3_u32).to_string().into_bytes();
        let write = match rng.random_range(0..8) {
            0..3 => Write::Set { key: &key, value: &value },
            3 => Write::Increment { key: &key, by: 1 },
            4 => Write::Add { key: &key, elements: &[&value] },
            5 => Write::Remove { key: &key, elements: &[&value] },
            _ => Write::Delete { key: &key },
        };
        let _ = replica.write(1_700_000_000_000, write);
    }

    fn all_of(from: &Replica, at: &Replica) -> State {
        let state = from.state();
        let parked = super::super::block::parked_states(state.parked(), state.actors());
        let mut staged = at.state().staged(&state.seen_entries(), &parked).unwrap();
        let mut builder = BlockBuilder::new(state.actors());
        state.cells().for_each(|cells| builder.push(cells));
        builder.finish().iter().for_each(|block| staged.load(block).unwrap());
        staged
    }

    fn ops(from: &Replica, to: &mut Replica) {
        let (state, seen) = (from.state(), to.state().seen_clock());
        for (actor, ix) in state.actors().sorted() {
            let next = seen.get(actor) + 1;
            let (runs, _) = from.log().read(ix, next, state.seen(ix), 1 << 20, state.actors());
            runs.iter().for_each(|run| _ = to.receive(run, 1_700_000_000_000, |_| ()));
        }
    }

    #[test]
    fn what_was_worked_out_is_what_one_step_would_have_done() {
        let mut kept = 0;
        for seed in 0..300 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let keys = rng.random_range(1..400);
            let (mut here, mut there, mut third) = (replica("a"), replica("b"), replica("c"));
            for _ in 0..rng.random_range(0..600) {
                match rng.random_range(0..40) {
                    0 => ops(&there, &mut here),
                    1 => ops(&here, &mut there),
                    2 => ops(&third, &mut there),
                    3 => ops(&there, &mut third),
                    4..12 => write(&mut third, rng, keys),
                    12..26 => write(&mut there, rng, keys),
                    _ => write(&mut here, rng, keys),
                }
            }
            let mut staged = all_of(&there, &here);
            (0..rng.random_range(0..20)).for_each(|_| write(&mut here, rng, keys));
            here.watch();
            // What comes from beyond the ranges was not asked for.
            let asked = if seed % 2 == 0 { Prefix::ROOT } else { Prefix::of(0, 1) };
            let ranges = Arc::new(Ranges::new(HashKey(1, 2), [asked]));
            let own = staged.actors().find(here.actor());
            let mut prepared = Prepared::new(ranges.clone(), own);
            while !prepared.is_done() {
                here.prepare(&mut staged, &mut prepared, rng.random_range(1..50)).unwrap();
                match rng.random_range(0..8) {
                    0 => ops(&third, &mut here),
                    1 => ops(&there, &mut here),
                    _ => (0..rng.random_range(0..3)).for_each(|_| write(&mut here, rng, keys)),
                }
            }
            let mut plain = here.state().clone();
            plain.merge_ranges(&mut all_of(&there, &here), Some(&ranges), &[]).unwrap();
            here.merge_prepared(&mut staged, &ranges, &mut prepared).unwrap();
            kept += prepared.kept;
            let merged = here.state();
            assert_eq!(merged.recount(), plain.recount(), "{seed}");
            assert_eq!(merged.fingerprint(), plain.fingerprint(), "{seed}");
            assert_eq!(merged.tallies(), plain.tallies(), "{seed}");
            assert_eq!(merged.seen_entries(), plain.seen_entries(), "{seed}");
        }
        assert!(kept > 1_000, "{kept}");
    }

    #[test]
    fn what_is_given_back_is_what_was_staged() {
        let rng = &mut StdRng::seed_from_u64(1);
        let (mut here, mut there) = (replica("a"), replica("b"));
        (0..500).for_each(|_| write(&mut there, rng, 300));
        (0..500).for_each(|_| write(&mut here, rng, 300));
        let mut staged = all_of(&there, &here);
        let before = staged.fingerprint();
        let mut prepared = Prepared::new(Arc::new(Ranges::new(HashKey(1, 2), [Prefix::ROOT])), None);
        here.prepare(&mut staged, &mut prepared, usize::MAX).unwrap();
        assert!(prepared.staged() > 0 && staged.fingerprint() != before);
        prepared.give_back(&mut staged);
        assert_eq!((staged.fingerprint(), staged.recount()), (before, before));
    }
}
