//! The convergent state: all cells, the version vector they belong to, and the
//! parked removals. Two states that have seen the same writes are the same.
//!
//! There is one way in for ops, [`State::apply`], and one for whole states,
//! [`State::merge`]. Both keep the cells, `seen` and the readers' tallies in step.

use smallvec::SmallVec;
use tidings_proto::cell::Tally;
use tidings_proto::op::{Baseline, Counter, Edit};
use tidings_proto::{Actor, DecodeError, Op, Seen, SeenEntries, Stamp, WireDot};

use super::actors::{ActorIx, Actors, ShortDot, TooManyActors};
use super::bounds;
use super::cells::{Cells, Changing};
use super::fingerprint::{Fingerprint, Prefix, Rows};
use super::mutant::{self, Mutant};
use super::parked::{Parked, Removal, Target};
use super::register::Version;
use super::snapshot::Snapshots;
use super::table::{HashKey, Named, Table};
use super::view::{Shape, Tallies};

/// With fewer keys than this, processors mostly hold all that is looked for.
const FETCHED: usize = 1 << 14;

/// Why an op was not applied. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is not the next of its actor: `expected` is.
    #[error("op {got} of {actor} came where {expected} was due")]
    Gap {
        /// Whose op.
        actor: Actor,
        /// The number that is due.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// It would park more removals than there is room for.
    #[error("more than {} removals wait for writes that have not arrived", bounds::PARKED)]
    ParkedFull,
    /// It and those that must be applied in one step with it would park more removals than there is room for.
    #[error("no room for the removals of ops that are applied in one step")]
    BundleFull,
    /// It names an actor for whom there is no room.
    #[error(transparent)]
    Actors(#[from] TooManyActors),
    /// It is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) hash_key: HashKey,
    pub(super) actors: Actors,
    /// By actor place: the greatest number of the contiguous prefix applied.
    pub(super) seen: Vec<u64>,
    /// By actor place: a hash of its name, the same on every node.
    pub(super) tags: Vec<u64>,
    pub(super) cells: Table<Cells>,
    pub(super) parked: Parked,
    pub(super) tallies: Tallies,
    pub(super) snapshots: Snapshots,
    /// Positions of keys that ops have changed, while somebody wants to know.
    pub(super) touched: Option<Vec<u64>>,
}

impl State {
    /// A state that has seen nothing. `hash_key` decides the order of cells and what their
    /// fingerprints are: clients must not know it, and nodes that are to compare share it.
    pub fn new(hash_key: HashKey) -> Self {
        Self {
            hash_key,
            actors: Actors::default(),
            seen: Vec::new(),
            tags: Vec::new(),
            cells: Table::new(hash_key),
            parked: Parked::default(),
            tallies: Tallies::default(),
            snapshots: Snapshots::default(),
            touched: None,
        }
    }

    /// The actors known here.
    pub fn actors(&self) -> &Actors {
        &self.actors
    }

    /// The removals that wait for writes.
    pub fn parked(&self) -> &Parked {
        &self.parked
    }

    /// How many keys and cells of each kind readers see.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// All keys' cells in hash order.
    pub fn cells(&self) -> impl Iterator<Item = &Cells> {
        self.cells.iter()
    }

    /// Cells by position in hash order, from `from` on.
    pub fn positions(&self, from: u64) -> impl Iterator<Item = (u64, &Cells)> {
        self.cells.range(from)
    }

    /// The cells of one key.
    pub fn get(&self, key: &[u8]) -> Option<&Cells> {
        self.get_at(self.position(key), key)
    }

    /// Where a key stands in hash order.
    pub(super) fn position(&self, key: &[u8]) -> u64 {
        self.cells.hash(key)
    }

    pub(super) fn get_at(&self, hash: u64, key: &[u8]) -> Option<&Cells> {
        self.cells.get(hash, key)
    }

    /// The greatest number n such that all of 1 to n of that actor have been applied.
    pub fn seen(&self, actor: ActorIx) -> u64 {
        self.seen.get(actor.index()).copied().unwrap_or(0)
    }

    /// Whether the write has been applied.
    pub fn has_seen(&self, dot: ShortDot) -> bool {
        dot.seq() <= self.seen(dot.actor())
    }

    /// Whether nothing at all has been seen.
    pub fn is_blank(&self) -> bool {
        self.seen.iter().all(|seq| *seq == 0)
    }

    /// The version vector, for the wire.
    pub fn seen_entries(&self) -> SeenEntries {
        let entries = self.actors.sorted().map(|(actor, ix)| (actor, self.seen(ix)));
        SeenEntries::from_sorted(entries.filter(|(_, seq)| *seq > 0))
    }

    /// The version vector.
    pub fn seen_clock(&self) -> Seen {
        Seen::from(&self.seen_entries())
    }

    /// Has the processor fetch the cells of keys that are about to be read or written, all at once. Worth it
    /// where there are too many for its caches.
    pub fn fetch<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        if self.cells.len() < FETCHED {
            return;
        }
        let hashes: SmallVec<[u64; 32]> = keys.map(|key| self.position(key)).collect();
        if hashes.len() > 1 {
            self.cells.fetch(&hashes, Cells::touch);
        }
    }

    pub(super) fn intern(&mut self, actor: &Actor) -> Result<ActorIx, TooManyActors> {
        let ix = self.actors.intern(actor)?;
        if self.seen.len() < self.actors.len() {
            self.seen.push(0);
            let name = [&actor.incarnation.to_le_bytes()[..], actor.node.as_str().as_bytes()].concat();
            self.tags.push(self.hash_key.hash(&name));
        }
        Ok(ix)
    }

    /// The fingerprint of all cells and parked removals: equal at equal `seen`.
    pub fn fingerprint(&self) -> Fingerprint {
        self.cells.fingerprint(Prefix::ROOT) + self.parked.fingerprint()
    }

    /// A hash under the key that decides the order of cells: nodes for whom it is the
    /// same can compare fingerprints.
    pub fn order(&self) -> u64 {
        self.hash_key.hash(b"order")
    }

    /// [`State::fingerprint`] worked out anew from every row: what an audit compares it with.
    pub fn recount(&self) -> Fingerprint {
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        let cells = self.cells.range(0).map(|(position, cells)| rows.cells(position, cells));
        cells.chain(self.parked.iter().map(|(dot, removal)| rows.parked(dot, removal))).sum()
    }

    /// The fingerprints of the sixteen parts of each of some ranges.
    pub fn fingerprints_of(&self, ranges: &[Prefix]) -> Vec<[Fingerprint; 16]> {
        let mut lens = self.cells.lens();
        let parts = |range: &Prefix| {
            if range.depth() >= self.cells.prefix(range.span().start).depth() {
                return super::snapshot::spread(*range, lens.within(range.span()).iter().copied());
            }
            let mut parts = [Fingerprint::default(); 16];
            let sum = |part: Prefix| {
                let is_part = part.depth() > self.cells.prefix(part.span().start).depth();
                let mut inner =
                    || lens.within(part.span()).iter().map(|(_, cells)| cells.fingerprint()).sum();
                if is_part { inner() } else { self.cells.fingerprint(part) }
            };
            range.parts().map(sum).zip(&mut parts).for_each(|(sum, part)| *part = sum);
            parts
        };
        ranges.iter().map(parts).collect()
    }

    /// The fingerprint of all cells of the keys in a range.
    pub fn fingerprint_of(&self, range: Prefix) -> Fingerprint {
        self.cells.fingerprint(range)
    }

    /// Names the dots of an op from outside by this state's own short dots.
    /// `places[n]` is the actor at place n of the run's table, its own at 0.
    pub(super) fn shorten<'a>(
        op: &Op<'a, WireDot>,
        base: Stamp,
        places: &[ActorIx],
    ) -> Result<Op<'a, ShortDot>, DecodeError> {
        let fits = |dot: &WireDot| dot.seq <= bounds::SEQ;
        let fit = op.edits.iter().all(|edit| match edit {
            Edit::Write { supersedes: dots, .. }
            | Edit::Erase { dots }
            | Edit::Add { supersedes: dots, .. }
            | Edit::Remove { dots, .. }
            | Edit::Clear { upto: dots }
            | Edit::Elided { supersedes: dots, .. } => dots.iter().all(fits),
            Edit::Reset { baselines, .. } => baselines.iter().all(|b| fits(&b.birth)),
            Edit::Count { .. } | Edit::Close { .. } => true,
        });
        let stamp = base.0.checked_add(op.stamp).filter(|_| fit);
        let Some(stamp) = stamp else {
            return Err(DecodeError::Malformed { what: "op", why: "a number of it overflows".into() });
        };
        let short = |dot: &WireDot| ShortDot::new(places[dot.actor as usize], dot.seq);
        Ok(Op { stamp, key: op.key, edits: op.edits.iter().map(|edit| edit.map(short)).collect() })
    }

    /// Applies the op `dot`: drops what it supersedes, adds its own, advances `seen`.
    /// Ops of one actor must come in sequence. The one way in for every write,
    /// local or pushed, pulled or replayed.
    pub fn apply(&mut self, dot: ShortDot, op: &Op<'_, ShortDot>) -> Result<(), ApplyError> {
        self.apply_at(self.position(op.key), dot, op)
    }

    /// [`State::apply`] for a caller who has the key's position already.
    pub(super) fn apply_at(
        &mut self,
        hash: u64,
        dot: ShortDot,
        op: &Op<'_, ShortDot>,
    ) -> Result<(), ApplyError> {
        let expected = self.seen(dot.actor()) + 1;
        if dot.seq() != expected && !(mutant::is(Mutant::GapsApplied) && dot.seq() > expected) {
            let actor = self.actors.get(dot.actor()).clone();
            return Err(ApplyError::Gap { actor, expected, got: dot.seq() });
        }
        let (unseen, bytes) = self.unseen(op, None);
        if unseen > 0 && !self.parked.has_room(unseen, bytes) {
            return Err(ApplyError::ParkedFull);
        }
        self.snapshots.before_change(&self.cells, hash);
        if let Some(touched) = &mut self.touched {
            // One too many says that there were more.
            touched.truncate(bounds::TOUCHED);
            touched.push(hash);
        }
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        let cells = self.cells.get_or_insert(hash, op.key, || Cells::new(op.key));
        let (before, fingerprint) = (Shape::of(cells), cells.fingerprint());
        let cells = Changing::new(cells, rows, hash);
        let mut slot = Slot { rows, seen: &self.seen, parked: &mut self.parked, cells };
        for edit in &op.edits {
            slot.edit(dot, Stamp(op.stamp), edit);
        }
        if mutant::is(Mutant::BuriedEarly) {
            super::broken::bury(&mut slot.cells, &self.actors, dot, op);
        }
        let cells = slot.cells.finish();
        let (after, gone) = (cells.fingerprint(), cells.is_blank());
        self.tallies.replace(&before, &Shape::of(cells));
        self.cells.note_change(hash, fingerprint, after);
        if gone {
            self.cells.remove(hash, op.key);
        }
        self.seen[dot.actor().index()] = dot.seq();
        self.parked.settle(rows, dot);
        Ok(())
    }

    /// How many removals of dots not yet seen the op makes, and the bytes of the cells that they name.
    /// Those of one actor may be taken for seen: they will be when it is the op's turn.
    pub(super) fn unseen(&self, op: &Op<'_, ShortDot>, but: Option<ActorIx>) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for edit in &op.edits {
            let (dots, name) = match edit {
                Edit::Write { supersedes: dots, .. }
                | Edit::Erase { dots }
                | Edit::Clear { upto: dots }
                | Edit::Elided { supersedes: dots, .. } => (dots, 0),
                Edit::Add { supersedes: dots, element } | Edit::Remove { dots, element } => {
                    (dots, element.len())
                }
                Edit::Count { .. } | Edit::Reset { .. } | Edit::Close { .. } => continue,
            };
            let waits = |dot: &&ShortDot| but != Some(dot.actor()) && !self.has_seen(**dot);
            let unseen = dots.iter().filter(waits).count();
            count += unseen;
            bytes += unseen * (op.key.len() + name);
        }
        (count, bytes)
    }
}

/// The cells of one key while an op changes them.
struct Slot<'a> {
    rows: Rows<'a>,
    seen: &'a [u64],
    parked: &'a mut Parked,
    cells: Changing<'a>,
}

impl Slot<'_> {
    fn has_seen(&self, dot: ShortDot) -> bool {
        self.seen.get(dot.actor().index()).is_some_and(|&seq| dot.seq() <= seq)
    }

    fn key(&self) -> &[u8] {
        self.cells.cells().key()
    }

    fn edit(&mut self, dot: ShortDot, stamp: Stamp, edit: &Edit<'_, ShortDot>) {
        match edit {
            Edit::Write { supersedes, value } => {
                self.remove(None, supersedes);
                if !self.parked.holds(dot, self.key(), None) {
                    self.cells.insert_version(Version { dot, stamp, value: (*value).into() });
                }
            }
            // The write that superseded it is applied in the same step: nobody sees it live.
            Edit::Erase { dots } | Edit::Elided { supersedes: dots, .. } => self.remove(None, dots),
            Edit::Add { element, supersedes } => {
                self.remove(Some(element), supersedes);
                if !self.parked.holds(dot, self.key(), Some(element)) {
                    self.cells.insert_member(element, dot);
                }
            }
            Edit::Remove { element, dots } => self.remove(Some(element), dots),
            Edit::Clear { upto } => self.clear(upto),
            &Edit::Count { counter, birth, p, n } => {
                let tally = Tally { birth, p, n };
                self.cells.change_part(counter, dot.actor(), |part| part.contribute(tally));
            }
            Edit::Reset { counter, baselines } => {
                baselines.iter().for_each(|baseline| self.reset(*counter, baseline));
            }
            &Edit::Close { counter, birth } => {
                self.cells.change_part(counter, dot.actor(), |part| part.close(birth));
            }
        }
    }

    fn park(&mut self, dot: ShortDot, target: Target) {
        let key = self.key().into();
        self.parked.park(self.rows, dot, Removal { key, target });
    }

    /// Drops dots from a cell of this key; those not seen yet are parked.
    fn remove(&mut self, element: Option<&[u8]>, dots: &[ShortDot]) {
        for &dot in dots {
            match element {
                _ if !self.has_seen(dot) => {
                    if !mutant::is(Mutant::NotParked) {
                        self.park(dot, element.map_or(Target::Register, |e| Target::Member(e.into())));
                    }
                }
                None => self.cells.remove_version(dot),
                Some(element) => self.cells.remove_member(element, dot),
            }
        }
    }

    /// Drops the dots of the set of this key up to those named. What of them has not been seen is parked.
    fn clear(&mut self, upto: &[ShortDot]) {
        for &dot in upto {
            if !self.has_seen(dot) && !mutant::is(Mutant::ClearNotParked) {
                self.park(dot, Target::Set);
            }
        }
        let covers = |dot: ShortDot| upto.iter().any(|u| u.actor() == dot.actor() && dot.seq() <= u.seq());
        self.cells.retain_members(|_, dot| !covers(dot));
    }

    /// A baseline of a life that is known to be over says nothing any more.
    fn reset(&mut self, counter: Counter, baseline: &Baseline<ShortDot>) {
        let (actor, birth) = (baseline.birth.actor(), baseline.birth.seq());
        let arrived = self.has_seen(baseline.birth);
        self.cells.change_part(counter, actor, |part| {
            let closed = arrived && part.contribution.is_none_or(|e| e.birth != birth);
            if !closed {
                part.reset(Tally { birth, p: baseline.p, n: baseline.n });
                if mutant::is(Mutant::DroppedAtReset) && part.standing().is_none() {
                    part.close(birth);
                }
            }
        });
    }
}
