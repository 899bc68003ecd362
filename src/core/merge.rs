//! The context merge: two whole states become one, by their version vectors.
//!
//! A dot that one side has live and the other has not is either news to the
//! other or was removed there; the other's version vector says which. This is
//! what makes deletes last without tombstones (Almeida et al., "Delta State
//! Replicated Data Types", 2018: causal CRDTs with a causal context).

use smallvec::SmallVec;
use tidings_proto::cell::Tally;
use tidings_proto::op::Counter;

use super::actors::{ActorIx, Actors, ShortDot, TooManyActors};
use super::cells::{Cells, Changing};
use super::counter::{Part, Parts};
use super::fingerprint::{Fingerprint, Ranges, Rows, Span};
use super::mutant::{self, Mutant};
use super::parked::Parked;
use super::register::Version;
use super::set::Set;
use super::state::{ApplyError, State};
use super::table::{Named, within_any};
use super::view::Shape;

/// How many times as much as is here must come for it to be taken as it is.
pub(super) const FEW: usize = 16;

impl State {
    /// Merges another state into this one, in one step. Running snapshots of
    /// this state are aborted: too much changes at once for them to follow.
    pub fn merge(&mut self, mut other: State) -> Result<(), ApplyError> {
        self.merge_ranges(&mut other, None, &[])
    }

    /// [`State::merge`] where the other state is only known in some ranges: elsewhere both
    /// hold the same, which no merge changes. Its version vector and parked removals are whole.
    ///
    /// What is here in `rotten` ranges, which lie within the others, is not believed: it is replaced. The
    /// caller sees to it that the other side has seen all that has been seen here of their keys.
    ///
    /// Of the other state cells may be taken out. After an error it is as it was.
    pub fn merge_ranges(
        &mut self,
        other: &mut State,
        ranges: Option<&Ranges>,
        rotten: &[Span],
    ) -> Result<(), ApplyError> {
        let join = self.admit(other)?;
        match ranges.filter(|ranges| ranges.key() == self.hash_key) {
            _ if mutant::is(Mutant::SnapshotOverMerge) => {}
            Some(ranges) if rotten.is_empty() => self.keep_for_snapshots(ranges.spans()),
            _ => self.snapshots.abort_all(),
        }
        self.cells.purge(rotten);
        if !rotten.is_empty() || !self.adopt(other, &join, ranges) {
            self.merge_common(other, &join, ranges);
            self.merge_new(other, &join, ranges, rotten);
        }
        if !rotten.is_empty() {
            self.recount_sums();
        }
        self.unite(other, &join);
        Ok(())
    }

    /// What the merge of another state goes by, if there is room for what it leaves parked.
    pub(super) fn admit(&mut self, other: &State) -> Result<Join, ApplyError> {
        if mutant::is(Mutant::RoomBeforeUnion)
            && !self.parked.has_room(other.parked.len(), other.parked.bytes())
        {
            return Err(ApplyError::ParkedFull);
        }
        let join = self.join(other)?;
        let incoming = other.parked.iter().map(|(dot, removal)| (join.translate(dot), removal));
        if !self.parked.has_room_beside(incoming, |dot| !join.will_have_seen(dot)) {
            return Err(ApplyError::ParkedFull);
        }
        Ok(join)
    }

    /// Has snapshots keep the buckets of some ranges as they are.
    pub(super) fn keep_for_snapshots(&mut self, spans: &[Span]) {
        let starts = self.cells.starts(spans);
        starts.into_iter().for_each(|at| self.snapshots.before_change(&self.cells, at));
    }

    /// The end of a merge: parked removals and version vectors become one.
    pub(super) fn unite(&mut self, other: &State, join: &Join) {
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        for (dot, removal) in other.parked.iter().filter(|_| !mutant::is(Mutant::ParkedLeftBehind)) {
            self.parked.park(rows, join.translate(dot), removal.clone());
        }
        for (seq, theirs) in self.seen.iter_mut().zip(&join.theirs) {
            *seq = (*seq).max(*theirs);
        }
        let seen = &self.seen;
        self.parked.settle_seen(rows, |actor| seen[actor.index()]);
    }

    /// What a merge of another state goes by at this moment.
    pub(super) fn join(&mut self, other: &State) -> Result<Join, TooManyActors> {
        let places = self.places_of(&other.actors)?;
        let mut theirs = vec![0; self.actors.len()];
        for (at, place) in places.iter().enumerate() {
            theirs[place.index()] = other.seen.get(at).copied().unwrap_or(0);
        }
        let mut places_there = vec![None; self.actors.len()];
        for (at, place) in places.iter().enumerate() {
            places_there[place.index()] = Some(ActorIx(at as u32));
        }
        let alike = places.iter().enumerate().all(|(at, place)| place.index() == at);
        Ok(Join { ours: self.seen.clone(), theirs, alike, places, places_there })
    }

    fn places_of(&mut self, actors: &Actors) -> Result<Vec<ActorIx>, TooManyActors> {
        (0..actors.len()).map(|at| self.intern(actors.get(ActorIx(at as u32)))).collect()
    }

    /// Where there is next to nothing here, and all else that they have is news: the same cells, without building
    /// them anew, with what is here merged in. The two must number actors alike, as a state from [`State::staged`]
    /// does unless others have come since.
    fn adopt(&mut self, other: &mut State, join: &Join, ranges: Option<&Ranges>) -> bool {
        let few = self.cells.len() * FEW <= other.cells.len() && self.parked.is_empty();
        let here = |cells: &Cells| self.cells.get(self.cells.hash(cells.key()), cells.key()).is_some();
        let is_asked = |cells: &Cells| {
            ranges.is_none_or(|ranges| {
                ranges.spans() == [Span::ALL] || ranges.contains(ranges.key().hash(cells.key()))
            })
        };
        if !(join.alike
            && few
            && self.hash_key == other.hash_key
            && other.cells.all(is_asked)
            && other.cells.all(|cells| join.is_news(cells) || here(cells)))
        {
            return false;
        }
        // The buckets of the one table are not those of the other: snapshots keep all of theirs.
        let starts = self.cells.starts(&[Span::ALL]);
        starts.into_iter().for_each(|at| self.snapshots.before_change(&self.cells, at));
        let keys: Vec<(u64, Box<[u8]>)> =
            self.cells.range(0).map(|(position, cells)| (position, cells.key().into())).collect();
        self.merge_common(other, join, ranges);
        std::mem::swap(&mut self.cells, &mut other.cells);
        self.tallies = std::mem::take(&mut other.tallies);
        for (position, key) in keys {
            if let Some(gone) = self.cells.get(position, &key) {
                let (shape, sum) = (Shape::of(gone), gone.fingerprint());
                self.tallies.replace(&shape, &Shape::default());
                self.cells.note_change(position, sum, Fingerprint::default());
                self.cells.remove(position, &key);
            }
            if let Some(come) = other.cells.remove(position, &key) {
                self.tallies.replace(&Shape::default(), &Shape::of(&come));
                let sum = come.fingerprint();
                self.cells.get_or_insert(position, &key, || come);
                self.cells.note_change(position, Fingerprint::default(), sum);
            }
        }
        true
    }

    /// Every key that we have in the ranges: against what they have of it, which may be nothing.
    pub(super) fn merge_common(&mut self, other: &State, join: &Join, ranges: Option<&Ranges>) {
        let State { cells: table, parked, tallies, hash_key, tags, .. } = self;
        let rows = Rows { key: *hash_key, tags };
        let alike = other.hash_key == *hash_key;
        let mut merge = |position: u64, cells: &mut Cells| {
            let before = Shape::of(cells);
            let key = cells.key();
            let theirs = if alike { other.get_at(position, key) } else { other.get(key) };
            let mut ours = Changing::new(cells, rows, position);
            join.merge(&mut ours, theirs, parked, other);
            let cells = ours.finish();
            tallies.replace(&before, &Shape::of(cells));
            !cells.is_blank()
        };
        match ranges {
            Some(ranges) if ranges.key() == *hash_key => table.retain_within(ranges.spans(), merge),
            Some(ranges) => {
                // Told in another order, by a log of a time when the realm had another key.
                let told = |cells: &Cells| ranges.contains(ranges.key().hash(cells.key()));
                table.retain(|cells| !told(cells) || merge(hash_key.hash(cells.key()), cells));
            }
            None => table.retain(|cells| merge(hash_key.hash(cells.key()), cells)),
        }
    }

    /// Every key that only they have. What is theirs in rotten ranges is taken as if nothing had been seen here.
    /// A peer may have sent more than it was asked for.
    fn merge_new(&mut self, other: &State, join: &Join, ranges: Option<&Ranges>, rotten: &[Span]) {
        let unseen = Join { ours: vec![0; join.ours.len()], ..join.clone() };
        for theirs in other.cells.unordered() {
            if ranges.is_some_and(|ranges| !ranges.contains(ranges.key().hash(theirs.key()))) {
                continue;
            }
            let hash = self.position(theirs.key());
            let join = if within_any(rotten, hash) { &unseen } else { join };
            self.merge_key(hash, theirs, other, join);
        }
    }

    /// A key that only they have; nothing, if it is here.
    pub(super) fn merge_key(&mut self, position: u64, theirs: &Cells, other: &State, join: &Join) {
        let State { cells: table, parked, tallies, hash_key, tags, .. } = self;
        let key = theirs.key();
        if table.get(position, key).is_some() {
            return;
        }
        let mut cells = Cells::new(key);
        let mut ours = Changing::new(&mut cells, Rows { key: *hash_key, tags }, position);
        join.merge(&mut ours, Some(theirs), parked, other);
        if !ours.finish().is_blank() {
            tallies.replace(&Shape::default(), &Shape::of(&cells));
            let fingerprint = cells.fingerprint();
            table.get_or_insert(position, key, || cells);
            table.note_change(position, Fingerprint::default(), fingerprint);
        }
    }
}

/// Both version vectors, as they were before the merge, in our numbering of actors.
#[derive(Debug, Clone)]
pub(super) struct Join {
    pub(super) ours: Vec<u64>,
    pub(super) theirs: Vec<u64>,
    /// Whether both number all actors alike that the other side knows.
    pub(super) alike: bool,
    /// By their place of an actor: ours.
    places: Vec<ActorIx>,
    /// By our place of an actor: theirs, if they know it.
    places_there: Vec<Option<ActorIx>>,
}

impl Join {
    pub(super) fn translate(&self, dot: ShortDot) -> ShortDot {
        ShortDot::new(self.places[dot.actor().index()], dot.seq())
    }

    /// One key: what is ours of it, against what is theirs, which may be nothing.
    pub(super) fn merge(
        &self,
        ours: &mut Changing<'_>,
        theirs: Option<&Cells>,
        parked: &Parked,
        other: &State,
    ) {
        let key: SmallVec<[u8; 64]> = ours.cells().key().into();
        let keep = |dot: ShortDot, element: Option<&[u8]>, theirs_live: bool| {
            theirs_live
                || mutant::is(Mutant::PlainUnion)
                || dot.seq() > self.theirs[dot.actor().index()]
                    && !self.parked_there(other, dot, &key, element)
        };
        let take = |dot: ShortDot, element: Option<&[u8]>| {
            dot.seq() > self.ours[dot.actor().index()] && !parked.holds(dot, &key, element)
        };
        self.register(ours, theirs, keep, take);
        self.set(ours, theirs, keep, take);
        self.counters(ours, theirs);
    }

    /// Whether a merge into nothing would take cells as they are, told in our numbering.
    pub(super) fn is_news(&self, cells: &Cells) -> bool {
        let unseen = |actor: ActorIx, seq: u64| seq > self.ours[actor.index()];
        let is_news = |dot: &ShortDot| unseen(dot.actor(), dot.seq());
        let mut parts = [Counter::G, Counter::Pn].into_iter().filter_map(|counter| cells.counter(counter));
        let is_blank = self.ours.iter().all(|seq| *seq == 0);
        let mut members = cells.set().into_iter().flat_map(Set::unordered);
        (is_blank
            || cells.register().versions().iter().all(|version| is_news(&version.dot))
                && members.all(|member| member.dots().iter().all(is_news)))
            && parts.all(|parts| {
                parts.iter().all(|part| {
                    part.contribution.is_none_or(|e| unseen(part.actor, e.birth)) && !self.is_closed(part)
                })
            })
    }

    /// Whether a baseline is of a contribution that both sides together know to be over.
    fn is_closed(&self, part: &Part) -> bool {
        let at = part.actor.index();
        let seen = self.ours[at].max(self.theirs[at]);
        let birth = part.contribution.map(|e: Tally| e.birth);
        part.baseline.as_deref().is_some_and(|r: &Tally| r.birth <= seen && birth != Some(r.birth))
    }

    /// Whether the two sides together have seen it.
    fn will_have_seen(&self, dot: ShortDot) -> bool {
        let at = dot.actor().index();
        dot.seq() <= self.ours[at].max(self.theirs[at])
    }

    /// Whether they hold a parked removal of a dot of ours that they have not seen.
    pub(super) fn parked_there(
        &self,
        other: &State,
        dot: ShortDot,
        key: &[u8],
        element: Option<&[u8]>,
    ) -> bool {
        if other.parked.is_empty() {
            return false;
        }
        let place = self.places_there[dot.actor().index()];
        place.is_some_and(|actor| other.parked.holds(ShortDot::new(actor, dot.seq()), key, element))
    }

    fn register(
        &self,
        ours: &mut Changing<'_>,
        theirs: Option<&Cells>,
        keep: impl Fn(ShortDot, Option<&[u8]>, bool) -> bool,
        take: impl Fn(ShortDot, Option<&[u8]>) -> bool,
    ) {
        let versions = theirs.map_or(&[][..], |cells| cells.register().versions());
        ours.retain_versions(|v| {
            let live_there = versions.iter().any(|t| self.translate(t.dot) == v.dot);
            keep(v.dot, None, live_there)
        });
        for version in versions {
            let dot = self.translate(version.dot);
            let here = ours.cells().register().versions().iter().find(|v| v.dot == dot);
            // One write with two contents: one of them has rotted. Both sides keep the greater.
            let wins = here.is_some_and(|here| (here.stamp, &here.value) < (version.stamp, &version.value))
                && !mutant::is(Mutant::ContentsKept);
            if wins {
                ours.remove_version(dot);
            }
            if wins || take(dot, None) {
                ours.insert_version(Version { dot, ..version.clone() });
            }
        }
    }

    fn set(
        &self,
        ours: &mut Changing<'_>,
        theirs: Option<&Cells>,
        keep: impl Fn(ShortDot, Option<&[u8]>, bool) -> bool,
        take: impl Fn(ShortDot, Option<&[u8]>) -> bool,
    ) {
        let theirs = theirs.and_then(Cells::set);
        ours.retain_members(|element, dot| {
            let member = theirs.and_then(|set| set.member(element));
            let live_there = member.is_some_and(|m| m.dots().iter().any(|d| self.translate(*d) == dot));
            keep(dot, Some(element), live_there)
        });
        for member in theirs.iter().flat_map(|set| set.members()) {
            for dot in member.dots().iter().map(|dot| self.translate(*dot)) {
                if take(dot, Some(member.element())) {
                    ours.insert_member(member.element(), dot);
                }
            }
        }
    }

    fn counters(&self, ours: &mut Changing<'_>, theirs: Option<&Cells>) {
        let none = Parts::default();
        for counter in [Counter::G, Counter::Pn] {
            let their_parts = theirs.and_then(|cells| cells.counter(counter)).unwrap_or(&none);
            let our_parts = ours.cells().counter(counter).unwrap_or(&none);
            let mut actors: SmallVec<[ActorIx; 4]> = our_parts.actors();
            actors.extend(their_parts.iter().map(|part| self.places[part.actor.index()]));
            actors.sort_unstable();
            actors.dedup();
            for actor in actors {
                let theirs = self.places_there[actor.index()].and_then(|there| their_parts.get(there));
                ours.change_part(counter, actor, |part| self.part(part, theirs));
            }
        }
    }

    /// Contributions go by their birth as by a dot: where one side has seen the
    /// birth and holds no such contribution, its owner has closed it.
    fn part(&self, ours: &mut Part, theirs: Option<&Part>) {
        let at = ours.actor.index();
        let their_e = theirs.and_then(|part| part.contribution);
        ours.contribution = match (ours.contribution, their_e) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (Some(a), None) => (a.birth > self.theirs[at]).then_some(a),
            (None, Some(b)) => (b.birth > self.ours[at]).then_some(b),
            (None, None) => None,
        };
        if let Some(baseline) = theirs.and_then(|part| part.baseline.as_deref()) {
            ours.reset(*baseline);
        }
        if self.is_closed(ours) {
            ours.baseline = None;
        }
    }
}
