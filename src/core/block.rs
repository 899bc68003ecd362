//! Cells to blocks and back.

use smallvec::{SmallVec, smallvec};
use tidings_proto::block::{BlockItem, BlockReader, BlockWriter, CellRef};
use tidings_proto::cell::{ParkedState, ParkedTarget};
use tidings_proto::op::Counter;
use tidings_proto::{
    Actor, Block, CellState, CounterState, DecodeError, KeyState, MemberState, SeenEntries, Stamp,
    VersionState, WireDot, bounds,
};

use super::actors::{ActorIx, Actors, ShortDot};
use super::cells::{Cells, Changing};
use super::counter::{self, Parts};
use super::fingerprint::Rows;
use super::mutant::{self, Mutant};
use super::parked::{Parked, Removal, Room, Target};
use super::register::Version;
use super::set::{Member, Set};
use super::state::{ApplyError, State};
use super::table::Named;
use super::view::Shape;

/// Gathers cells into blocks of about [`bounds::BLOCK`] bytes.
///
/// Within a block, keys stand in the order of their writes, which packs best; those without a write that
/// could tell, as sets, come last by their names. So the same keys give the same block.
#[derive(Debug)]
pub struct BlockBuilder<'a> {
    actors: &'a Actors,
    keys: Vec<&'a Cells>,
    /// About how many bytes they hold.
    weight: usize,
    full: Vec<Vec<u8>>,
    /// By actor place: up to where writes are known to have been seen by whoever reads it. Values of them are left out.
    known: &'a [u64],
    left_out: u64,
}

impl<'a> BlockBuilder<'a> {
    /// An empty builder for cells whose dots `actors` explains.
    pub fn new(actors: &'a Actors) -> Self {
        Self::lean(actors, &[])
    }

    /// One that leaves out values of writes which the reader has seen: no merge takes them.
    pub(super) fn lean(actors: &'a Actors, known: &'a [u64]) -> Self {
        Self { actors, keys: Vec::new(), weight: 0, full: Vec::new(), known, left_out: 0 }
    }

    /// How many values have been left out so far.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Adds the cells of one key. A large set may go over several blocks.
    pub fn push(&mut self, cells: &'a Cells) {
        let known = known_version(cells, self.known);
        self.left_out += u64::from(known.is_some());
        let weight = weight_of(cells, self.known);
        if weight < bounds::BLOCK {
            self.weight += weight;
            self.keys.push(cells);
        } else {
            self.push_large(cells);
        }
    }

    /// Whether what has been added fills a block.
    pub fn is_full(&self) -> bool {
        self.weight >= bounds::BLOCK || !self.full.is_empty()
    }

    /// All blocks, encoded.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        if self.keys.is_empty() {
            return self.full;
        }
        let places = Places::of(self.actors, self.keys.iter().flat_map(|cells| actors_of(cells)));
        let order = |(at, cells): (usize, &&'a Cells)| {
            let (place, seq) = places.first(cells).unwrap_or((u32::MAX, 0));
            (place, seq, at)
        };
        let mut order: Vec<(u32, u64, usize)> = self.keys.iter().enumerate().map(order).collect();
        let name = |at: usize| self.keys[at].key();
        order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| name(a.2).cmp(name(b.2))));
        // As many blocks as are filled, all about alike.
        let most = self.weight.div_ceil((self.weight / bounds::BLOCK).max(1));
        let mut rest = &order[..];
        while !rest.is_empty() {
            let mut weight = 0;
            let mut fits = |(_, _, at): &(u32, u64, usize)| {
                weight += weight_of(self.keys[*at], self.known);
                weight < most
            };
            let some = rest.iter().position(|key| !fits(key)).map_or(rest.len(), |last| last + 1);
            let (part, left) = rest.split_at(some);
            let part: Vec<&Cells> = part.iter().map(|(_, _, at)| self.keys[*at]).collect();
            self.full.push(packed(self.actors, &part, self.known));
            rest = left;
        }
        self.full
    }

    /// The cells of a key that fill a block or several by themselves.
    fn push_large(&mut self, cells: &Cells) {
        let (mut some, mut weight): (Vec<Part<'_>>, usize) = (Vec::new(), 0);
        for part in parts_of(cells) {
            weight += part.packed();
            some.push(part);
            if weight >= bounds::BLOCK {
                self.full.push(packed_parts(self.actors, cells.key(), &mut some));
                weight = 0;
            }
        }
        if !some.is_empty() {
            self.full.push(packed_parts(self.actors, cells.key(), &mut some));
        }
    }
}

/// One cell, or one of the versions of a register.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Version(&'a Version),
    Counter(Counter, &'a counter::Part),
    Member(&'a Member),
}

/// A version as a block has it.
type Versioned<'a> = (WireDot, Stamp, &'a [u8]);

/// The cells of a key, one after another.
fn parts_of(cells: &Cells) -> impl Iterator<Item = Part<'_>> {
    let counters = [Counter::G, Counter::Pn].into_iter().flat_map(|counter| {
        let parts = cells.counter(counter).into_iter().flat_map(Parts::iter);
        parts.map(move |part| Part::Counter(counter, part))
    });
    let versions = cells.register().versions().iter().map(Part::Version);
    versions.chain(counters).chain(cells.set().into_iter().flat_map(Set::members).map(Part::Member))
}

/// Whose writes are live in a key's cells; some more than once.
fn actors_of(cells: &Cells) -> impl Iterator<Item = ActorIx> {
    let parts = [Counter::G, Counter::Pn].into_iter().filter_map(|counter| cells.counter(counter));
    let members = cells.set().into_iter().flat_map(Set::unordered);
    let versions = cells.register().versions().iter().map(|version| version.dot.actor());
    versions
        .chain(parts.flat_map(|parts| parts.iter().map(|part| part.actor)))
        .chain(members.flat_map(|member| member.dots().iter().map(|dot| dot.actor())))
}

/// The table of a block: actors in their order, and the places that dots name them by.
#[derive(Debug, Default)]
struct Places {
    actors: Vec<Actor>,
    /// By number here, in order.
    places: Vec<(ActorIx, u32)>,
}

impl Places {
    fn of(all: &Actors, named: impl Iterator<Item = ActorIx>) -> Self {
        let mut some: Vec<ActorIx> = Vec::new();
        for actor in named {
            if some.last() != Some(&actor) {
                if some.len() >= 64 && some.len() == some.capacity() {
                    some.sort_unstable();
                    some.dedup();
                }
                some.push(actor);
            }
        }
        some.sort_unstable();
        some.dedup();
        some.sort_unstable_by_key(|ix| all.get(*ix));
        let actors = some.iter().map(|ix| all.get(*ix).clone()).collect();
        let mut places: Vec<(ActorIx, u32)> = some.into_iter().zip(0..).collect();
        places.sort_unstable();
        Self { actors, places }
    }

    fn place(&self, actor: ActorIx) -> u32 {
        match self.places.as_slice() {
            [(only, place)] if *only == actor => *place,
            places => {
                let at = places.binary_search_by_key(&actor, |(ix, _)| *ix);
                places[at.expect("all that are named were gathered")].1
            }
        }
    }

    fn dot(&self, dot: ShortDot) -> WireDot {
        WireDot { actor: self.place(dot.actor()), seq: dot.seq() }
    }

    fn dots(&self, member: &Member) -> SmallVec<[WireDot; 1]> {
        let mut dots: SmallVec<[WireDot; 1]> = member.dots().iter().map(|dot| self.dot(*dot)).collect();
        dots.sort_unstable_by_key(|dot| (dot.actor, dot.seq));
        dots
    }

    fn counter(&self, counter: Counter, part: &counter::Part) -> CounterState {
        CounterState {
            counter,
            actor: self.place(part.actor),
            contribution: part.contribution,
            baseline: part.baseline.as_deref().copied(),
        }
    }

    /// Puts the cells of one key in order: versions, which are given apart, counters, elements; each by the writes that
    /// made them.
    fn ordered<'p, 'a>(&self, parts: &'p mut [Part<'a>]) -> (SmallVec<[Versioned<'a>; 1]>, &'p [Part<'a>]) {
        parts.sort_by_cached_key(|part| match part {
            Part::Version(version) => (0, self.place(version.dot.actor()), version.dot.seq()),
            Part::Counter(counter, part) => (1 + *counter as u8, self.place(part.actor), 0),
            Part::Member(member) => {
                let first = self.dots(member)[0];
                (3, first.actor, first.seq)
            }
        });
        let versions = parts.iter().map_while(|part| match part {
            Part::Version(version) => Some((self.dot(version.dot), version.stamp, &*version.value)),
            _ => None,
        });
        let versions: SmallVec<[_; 1]> = versions.collect();
        let rest = &parts[versions.len()..];
        (versions, rest)
    }

    /// The first of the writes that a key's register or counters show.
    fn first(&self, cells: &Cells) -> Option<(u32, u64)> {
        let parts = [Counter::G, Counter::Pn].into_iter().filter_map(|counter| cells.counter(counter));
        let births = parts.flat_map(|parts| parts.iter()).map(|part| {
            let tally = part.contribution.as_ref().or(part.baseline.as_deref());
            (self.place(part.actor), tally.map_or(0, |tally| tally.birth))
        });
        let versions = cells.register().versions().iter().map(|version| self.dot(version.dot));
        versions.map(|dot| (dot.actor, dot.seq)).chain(births).min()
    }
}

/// How many keys are looked at before the first of them is packed.
pub(super) const AHEAD: usize = 32;

/// Has the processor fetch what it is to copy: keys and values lie all over the memory, and waiting for one after
/// another took more than half of a sender's time. Loads that do not hang on one another are waited for at once.
pub(super) fn fetch(keys: &[&Cells]) {
    std::hint::black_box(keys.iter().map(|cells| cells.touch()).fold(0, |all, one| all ^ one));
}

/// The only version of a key that is nothing but a register, if whoever has seen so much has seen it.
fn known_version<'a>(cells: &'a Cells, known: &[u64]) -> Option<&'a Version> {
    let [only] = cells.register().versions() else { return None };
    let has_seen = |dot: ShortDot| {
        known.get(dot.actor().index()).is_some_and(|seq| dot.seq() <= *seq)
            || mutant::is(Mutant::LeanFreely) && !known.is_empty()
    };
    (has_seen(only.dot) && cells.is_register()).then_some(only)
}

/// About how many bytes the cells of a key take in a block that leaves out what is known.
fn weight_of(cells: &Cells, known: &[u64]) -> usize {
    cells.packed() - known_version(cells, known).map_or(0, |version| version.value.len())
}

/// Some keys as one block.
fn packed(actors: &Actors, keys: &[&Cells], known: &[u64]) -> Vec<u8> {
    let places = Places::of(actors, keys.iter().flat_map(|cells| actors_of(cells)));
    let mut writer = BlockWriter::new(&places.actors);
    writer.reserve(keys.iter().map(|cells| weight_of(cells, known)).sum());
    let mut parts = Vec::new();
    for (at, cells) in keys.iter().enumerate() {
        if at % AHEAD == 0 {
            fetch(&keys[at..keys.len().min(at + AHEAD)]);
        }
        writer.key(cells.key());
        if let Some(version) = known_version(cells, known) {
            writer.known(places.dot(version.dot), version.stamp);
            continue;
        }
        match (cells.register().versions(), cells.is_register()) {
            ([only], true) => {
                writer.register(std::iter::once((places.dot(only.dot), only.stamp, &*only.value)));
            }
            _ => {
                parts.extend(parts_of(cells));
                write(&mut writer, &places, &mut parts);
                parts.clear();
            }
        }
    }
    writer.finish()
}

/// Some cells of one key as a block.
fn packed_parts(actors: &Actors, key: &[u8], parts: &mut Vec<Part<'_>>) -> Vec<u8> {
    let places = Places::of(actors, parts.iter().flat_map(|part| part.actors()));
    let mut writer = BlockWriter::new(&places.actors);
    writer.reserve(parts.iter().map(Part::packed).sum());
    writer.key(key);
    write(&mut writer, &places, parts);
    parts.clear();
    writer.finish()
}

/// Writes cells of one key.
fn write(writer: &mut BlockWriter, places: &Places, parts: &mut [Part<'_>]) {
    let (versions, rest) = places.ordered(parts);
    versions.chunks(bounds::DOTS).for_each(|versions| writer.register(versions.iter().copied()));
    for part in rest {
        match part {
            Part::Version(_) => unreachable!("versions come first"),
            Part::Counter(counter, part) => writer.counter(&places.counter(*counter, part)),
            Part::Member(member) => writer.member(member.element(), places.dots(member).into_iter()),
        }
    }
}

/// The cells of some keys as values, for an answer.
pub(super) fn states(actors: &Actors, keys: &[&Cells]) -> Block {
    let places = Places::of(actors, keys.iter().flat_map(|cells| actors_of(cells)));
    let state = |cells: &&Cells| {
        let mut parts: Vec<Part<'_>> = parts_of(cells).collect();
        let (versions, rest) = places.ordered(&mut parts);
        let version = |(dot, stamp, value): &Versioned<'_>| VersionState {
            dot: *dot,
            stamp: *stamp,
            value: value.to_vec(),
        };
        let versions: Vec<VersionState> = versions.iter().map(version).collect();
        let register = (!versions.is_empty()).then_some(CellState::Register(versions));
        let rest = rest.iter().map(|part| match part {
            Part::Version(_) => unreachable!("versions come first"),
            Part::Counter(counter, part) => CellState::Counter(places.counter(*counter, part)),
            Part::Member(member) => CellState::Member(MemberState {
                element: member.element().to_vec(),
                dots: places.dots(member).to_vec(),
            }),
        });
        KeyState { key: cells.key().to_vec(), cells: register.into_iter().chain(rest).collect() }
    };
    let keys = keys.iter().map(state).collect();
    Block { actors: places.actors, keys }
}

impl Part<'_> {
    /// About how many bytes it takes in a block.
    fn packed(&self) -> usize {
        match self {
            Part::Version(version) => version.value.len() + 16,
            Part::Counter(..) => 24,
            Part::Member(member) => member.element().len() + 16,
        }
    }

    fn actors(&self) -> SmallVec<[ActorIx; 1]> {
        match self {
            Part::Version(version) => smallvec![version.dot.actor()],
            Part::Counter(_, part) => smallvec![part.actor],
            Part::Member(member) => member.dots().iter().map(|dot| dot.actor()).collect(),
        }
    }
}

impl State {
    /// A state to load blocks into: the context they belong to, and no cells yet. It numbers the actors
    /// known here as they are numbered here.
    pub fn staged(&self, seen: &SeenEntries, parked: &[ParkedState]) -> Result<State, ApplyError> {
        let mut staged = State::new(self.hash_key);
        staged.actors = self.actors.clone();
        staged.tags = self.tags.clone();
        staged.seen = vec![0; staged.actors.len()];
        staged.parked.room = Room::default().of_merges();
        for (actor, seq) in seen.iter() {
            let ix = staged.intern(&actor)?;
            if seq > super::bounds::SEQ {
                return Err(malformed("a number in its context is too great"));
            }
            staged.seen[ix.index()] = seq;
        }
        for removal in parked {
            if removal.seq == 0
                || removal.seq > super::bounds::SEQ
                || !staged.parked.has_room(1, removal.size())
            {
                return Err(malformed("a parked removal names a dot that cannot exist"));
            }
            let dot = ShortDot::new(staged.intern(&removal.actor)?, removal.seq);
            let target = match &removal.target {
                ParkedTarget::Register => Target::Register,
                ParkedTarget::Member(element) => Target::Member(element[..].into()),
                ParkedTarget::Set => Target::Set,
            };
            let rows = Rows { key: staged.hash_key, tags: &staged.tags };
            staged.parked.park(rows, dot, Removal { key: removal.key[..].into(), target });
        }
        Ok(staged)
    }

    /// Makes a state ready for about so many keys.
    pub(super) fn expect(&mut self, keys: u64) {
        self.cells.expect(keys);
    }

    /// Puts a block's cells into a state made by [`State::staged`]. Every live
    /// dot must be within the context: a live set travels only with the context it belongs to.
    pub fn load(&mut self, block: &[u8]) -> Result<(), ApplyError> {
        self.load_lean(block, |_| 0)
    }

    /// [`State::load`] of a block that may leave out values of writes which have been seen where it will be merged:
    /// `seen` says up to where that is.
    pub(super) fn load_lean(&mut self, block: &[u8], seen: impl Fn(&Actor) -> u64) -> Result<(), ApplyError> {
        let mut reader = BlockReader::new(block)?;
        let here: Vec<u64> = reader.actors().iter().map(seen).collect();
        let places = reader.actors().to_vec();
        let places = places.iter().map(|a| self.intern(a)).collect::<Result<Vec<_>, _>>()?;
        while let Some(BlockItem { key, cell, .. }) = reader.next()? {
            if let CellRef::Known { dot, .. } = &cell
                && dot.seq > here[dot.actor as usize]
            {
                return Err(malformed("a value is left out of a write that has not been seen here"));
            }
            self.load_cell(key, &cell, &places)?;
        }
        Ok(())
    }

    fn load_cell(
        &mut self,
        key: &[u8],
        cell: &CellRef<'_, '_>,
        places: &[ActorIx],
    ) -> Result<(), ApplyError> {
        let hash = self.cells.hash(key);
        let State { cells: table, seen, tallies, hash_key, tags, .. } = self;
        let rows = Rows { key: *hash_key, tags };
        let mut fresh = None;
        let cells = match table.get_mut(hash, key) {
            Some(cells) => cells,
            None => fresh.insert(Cells::new(key)),
        };
        let (before, fingerprint) = (Shape::of(cells), cells.fingerprint());
        let mut changing = Changing::new(cells, rows, hash);
        let loaded = load_cell(&mut changing, cell, places, seen);
        let cells = changing.finish();
        let (after, gone) = (cells.fingerprint(), cells.is_blank());
        tallies.replace(&before, &Shape::of(cells));
        match fresh {
            Some(cells) if !gone => _ = table.get_or_insert(hash, key, || cells),
            None if gone => _ = table.remove(hash, key),
            _ => {}
        }
        table.note_change(hash, fingerprint, after);
        loaded
    }
}

fn load_cell(
    cells: &mut Changing<'_>,
    cell: &CellRef<'_, '_>,
    places: &[ActorIx],
    seen: &[u64],
) -> Result<(), ApplyError> {
    let live = |dot: &WireDot| {
        let actor = places[dot.actor as usize];
        if dot.seq > seen[actor.index()] {
            return Err(malformed("a live dot is not in its context"));
        }
        Ok(ShortDot::new(actor, dot.seq))
    };
    match cell {
        CellRef::None => {}
        CellRef::Register(versions) => {
            for version in *versions {
                let dot = live(&version.dot)?;
                cells.remove_version(dot);
                cells.insert_version(Version { dot, stamp: version.stamp, value: version.value.into() });
            }
        }
        // No merge takes the value: the write has been seen.
        CellRef::Known { dot, stamp } => {
            let dot = live(dot)?;
            cells.remove_version(dot);
            cells.insert_version(Version { dot, stamp: *stamp, value: Box::default() });
        }
        CellRef::Member { element, dots } => {
            for dot in *dots {
                let dot = live(dot)?;
                cells.remove_member(element, dot);
                cells.insert_member(element, dot);
            }
        }
        CellRef::Counter(part) => {
            let actor = places[part.actor as usize];
            if part.baseline.is_some_and(|r| r.birth > super::bounds::SEQ) {
                return Err(malformed("a baseline's birth is too great"));
            }
            if part.contribution.is_some_and(|e| e.birth > seen[actor.index()]) {
                return Err(malformed("a contribution is not in its context"));
            }
            cells.change_part(part.counter, actor, |ours| {
                part.contribution.into_iter().for_each(|e| ours.contribute(e));
                part.baseline.into_iter().for_each(|r| ours.reset(r));
            });
        }
    }
    Ok(())
}

fn malformed(why: &str) -> ApplyError {
    ApplyError::Decode(DecodeError::Malformed { what: "block", why: why.into() })
}

/// The parked removals, in an order that does not hang on a replica's numbering.
pub fn parked_states(parked: &Parked, actors: &Actors) -> Vec<ParkedState> {
    let state = |(dot, removal): (ShortDot, &Removal)| ParkedState {
        key: removal.key.to_vec(),
        target: match &removal.target {
            Target::Register => ParkedTarget::Register,
            Target::Member(element) => ParkedTarget::Member(element.to_vec().into()),
            Target::Set => ParkedTarget::Set,
        },
        actor: actors.get(dot.actor()).clone(),
        seq: dot.seq(),
    };
    let mut states: Vec<_> = parked.iter().map(state).collect();
    states.sort_unstable_by(|a, b| {
        let order = (&a.actor, a.seq).cmp(&(&b.actor, b.seq));
        order.then_with(|| (&a.key, &a.target).cmp(&(&b.key, &b.target)))
    });
    states
}

/// An actor that a dot names, for display.
pub fn origin(actors: &Actors, dot: ShortDot) -> (Actor, u64) {
    (actors.get(dot.actor()).clone(), dot.seq())
}
