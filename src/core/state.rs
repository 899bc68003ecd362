//! The convergent state: all cells, the version vector they belong to, and the
//! parked removals. Two states that have seen the same writes are the same.
//!
//! There is one way in for ops, [`State::apply`], and one for whole states,
//! [`State::merge`]. Both keep the cells, `seen` and the readers' tallies in step.

use tidings_proto::cell::Tally;
use tidings_proto::op::{Baseline, Counter, Edit};
use tidings_proto::{Actor, DecodeError, Op, Seen, SeenEntries, Stamp, WireDot};

use super::actors::{ActorIx, Actors, ShortDot, TooManyActors};
use super::bounds;
use super::counter::Parts;
use super::mutant::{self, Mutant};
use super::parked::{Parked, Removal, Target};
use super::register::{Register, Version};
use super::set::Set;
use super::snapshot::Snapshots;
use super::table::{HashKey, Named, Table};
use super::view::{Shape, Tallies};

/// The cells of one key, of all kinds.
#[derive(Debug, Clone)]
pub struct Cells {
    key: Box<[u8]>,
    pub(super) register: Register,
    pub(super) set: Option<Box<Set>>,
    pub(super) pn: Option<Box<Parts>>,
    pub(super) g: Option<Box<Parts>>,
}

impl Named for Cells {
    fn name(&self) -> &[u8] {
        &self.key
    }
}

impl Cells {
    pub(super) fn new(key: &[u8]) -> Self {
        Self { key: key.into(), register: Register::default(), set: None, pn: None, g: None }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The versions of the register.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The set, if it has elements.
    pub fn set(&self) -> Option<&Set> {
        self.set.as_deref()
    }

    /// One of the counters, if it has parts.
    pub fn counter(&self, counter: Counter) -> Option<&Parts> {
        match counter {
            Counter::Pn => self.pn.as_deref(),
            Counter::G => self.g.as_deref(),
        }
    }

    /// About how many bytes the cells take on the wire.
    pub(super) fn weight(&self) -> usize {
        let versions = self.register.versions().iter().map(|version| version.value.len() + 32);
        let members = self.set.iter().flat_map(|set| set.members());
        let members = members.map(|member| member.element().len() + 8 + 16 * member.dots().len());
        let parts = [&self.pn, &self.g].into_iter().flatten().flat_map(|parts| parts.iter()).map(|_| 128);
        self.key.len() + versions.chain(members).chain(parts).sum::<usize>()
    }

    pub(super) fn counter_mut(&mut self, counter: Counter) -> &mut Parts {
        match counter {
            Counter::Pn => self.pn.get_or_insert_default(),
            Counter::G => self.g.get_or_insert_default(),
        }
    }

    /// Drops containers that have become empty. Says whether nothing at all is left.
    pub(super) fn tidy(&mut self) -> bool {
        self.set.take_if(|set| set.is_empty());
        self.pn.take_if(|parts| parts.is_empty());
        self.g.take_if(|parts| parts.is_empty());
        self.register.is_empty() && self.set.is_none() && self.pn.is_none() && self.g.is_none()
    }
}

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
    pub(super) cells: Table<Cells>,
    pub(super) parked: Parked,
    pub(super) tallies: Tallies,
    pub(super) snapshots: Snapshots,
}

impl State {
    /// A state that has seen nothing. `hash_key` decides the order of cells and must be secret.
    pub fn new(hash_key: HashKey) -> Self {
        Self {
            hash_key,
            actors: Actors::default(),
            seen: Vec::new(),
            cells: Table::new(hash_key),
            parked: Parked::default(),
            tallies: Tallies::default(),
            snapshots: Snapshots::default(),
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

    /// The version vector, for the wire.
    pub fn seen_entries(&self) -> SeenEntries {
        let entries = self.actors.sorted().map(|(actor, ix)| (actor, self.seen(ix)));
        SeenEntries::from_sorted(entries.filter(|(_, seq)| *seq > 0))
    }

    /// The version vector.
    pub fn seen_clock(&self) -> Seen {
        Seen::from(&self.seen_entries())
    }

    pub(super) fn intern(&mut self, actor: &Actor) -> Result<ActorIx, TooManyActors> {
        let ix = self.actors.intern(actor)?;
        if self.seen.len() < self.actors.len() {
            self.seen.resize(self.actors.len(), 0);
        }
        Ok(ix)
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
            | Edit::Clear { upto: dots } => dots.iter().all(fits),
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
        let (unseen, bytes) = self.unseen(op);
        if unseen > 0 && !self.parked.has_room(unseen, bytes) {
            return Err(ApplyError::ParkedFull);
        }
        self.snapshots.before_change(&self.cells, &self.actors, hash);
        let cells = self.cells.get_or_insert(hash, op.key, || Cells::new(op.key));
        let before = Shape::of(cells);
        let mut slot = Slot { hash_key: self.hash_key, seen: &self.seen, parked: &mut self.parked, cells };
        for edit in &op.edits {
            slot.edit(dot, Stamp(op.stamp), edit);
        }
        if mutant::is(Mutant::BuriedEarly) {
            super::broken::bury(slot.cells, &self.actors, dot, op);
        }
        let gone = slot.cells.tidy();
        self.tallies.replace(&before, &Shape::of(slot.cells));
        if gone {
            self.cells.remove(hash, op.key);
        }
        self.seen[dot.actor().index()] = dot.seq();
        self.parked.settle(dot);
        Ok(())
    }

    /// How many removals of dots not yet seen the op makes, and the bytes of the cells that they name.
    fn unseen(&self, op: &Op<'_, ShortDot>) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for edit in &op.edits {
            let (dots, name) = match edit {
                Edit::Write { supersedes: dots, .. } | Edit::Erase { dots } | Edit::Clear { upto: dots } => {
                    (dots, 0)
                }
                Edit::Add { supersedes: dots, element } | Edit::Remove { dots, element } => {
                    (dots, element.len())
                }
                Edit::Count { .. } | Edit::Reset { .. } | Edit::Close { .. } => continue,
            };
            let unseen = dots.iter().filter(|dot| !self.has_seen(**dot)).count();
            count += unseen;
            bytes += unseen * (op.key.len() + name);
        }
        (count, bytes)
    }
}

/// The cells of one key while an op changes them.
struct Slot<'a> {
    hash_key: HashKey,
    seen: &'a [u64],
    parked: &'a mut Parked,
    cells: &'a mut Cells,
}

impl Slot<'_> {
    fn has_seen(&self, dot: ShortDot) -> bool {
        self.seen.get(dot.actor().index()).is_some_and(|&seq| dot.seq() <= seq)
    }

    fn edit(&mut self, dot: ShortDot, stamp: Stamp, edit: &Edit<'_, ShortDot>) {
        match edit {
            Edit::Write { supersedes, value } => {
                self.remove(None, supersedes);
                if !self.parked.holds(dot, &self.cells.key, None) {
                    let version = Version { dot, stamp, value: (*value).into() };
                    self.cells.register.insert(version);
                }
            }
            Edit::Erase { dots } => self.remove(None, dots),
            Edit::Add { element, supersedes } => {
                self.remove(Some(element), supersedes);
                if !self.parked.holds(dot, &self.cells.key, Some(element)) {
                    let key = self.hash_key;
                    let set = &mut self.cells.set;
                    set.get_or_insert_with(|| Box::new(Set::new(key))).insert(element, dot);
                }
            }
            Edit::Remove { element, dots } => self.remove(Some(element), dots),
            Edit::Clear { upto } => self.clear(upto),
            &Edit::Count { counter, birth, p, n } => {
                let tally = Tally { birth, p, n };
                self.cells.counter_mut(counter).change(dot.actor(), |part| part.contribute(tally));
            }
            Edit::Reset { counter, baselines } => {
                baselines.iter().for_each(|baseline| self.reset(*counter, baseline));
            }
            &Edit::Close { counter, birth } => {
                self.cells.counter_mut(counter).change(dot.actor(), |part| part.close(birth));
            }
        }
    }

    /// Drops dots from a cell of this key; those not seen yet are parked.
    fn remove(&mut self, element: Option<&[u8]>, dots: &[ShortDot]) {
        for &dot in dots {
            if !self.has_seen(dot) {
                if mutant::is(Mutant::NotParked) {
                    continue;
                }
                let target = element.map_or(Target::Register, |element| Target::Member(element.into()));
                self.parked.park(dot, Removal { key: self.cells.key.clone(), target });
                continue;
            }
            match element {
                None => {
                    self.cells.register.remove(dot);
                }
                Some(element) => {
                    if let Some(set) = self.cells.set.as_deref_mut() {
                        set.remove(element, dot);
                    }
                }
            }
        }
    }

    /// Drops the dots of the set of this key up to those named. What of them has not been seen is parked.
    fn clear(&mut self, upto: &[ShortDot]) {
        for &dot in upto {
            if self.has_seen(dot) || mutant::is(Mutant::ClearNotParked) {
                continue;
            }
            self.parked.park(dot, Removal { key: self.cells.key.clone(), target: Target::Set });
        }
        if let Some(set) = self.cells.set.as_deref_mut() {
            let covers =
                |dot: ShortDot| upto.iter().any(|u| u.actor() == dot.actor() && dot.seq() <= u.seq());
            set.retain_dots(|_, dot| !covers(dot));
        }
    }

    /// A baseline of a life that is known to be over says nothing any more.
    fn reset(&mut self, counter: Counter, baseline: &Baseline<ShortDot>) {
        let (actor, birth) = (baseline.birth.actor(), baseline.birth.seq());
        let arrived = self.has_seen(baseline.birth);
        self.cells.counter_mut(counter).change(actor, |part| {
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
