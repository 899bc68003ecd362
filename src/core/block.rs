//! Cells to blocks and back.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use tidings_proto::cell::{ParkedState, ParkedTarget};
use tidings_proto::op::Counter;
use tidings_proto::{
    Actor, Block, CellState, CounterState, DecodeError, KeyState, MemberState, SeenEntries, VersionState,
    WireDot, bounds,
};

use super::actors::{ActorIx, Actors, ShortDot};
use super::cells::{Cells, Changing};
use super::counter::Parts;
use super::fingerprint::Rows;
use super::parked::{Parked, Removal, Room, Target};
use super::register::Version;
use super::set::Set;
use super::state::{ApplyError, State};
use super::table::Named;
use super::view::Shape;

/// Gathers cells into blocks of about [`bounds::BLOCK`] bytes.
#[derive(Debug)]
pub struct BlockBuilder<'a> {
    actors: &'a Actors,
    places: BTreeMap<ActorIx, u32>,
    block: Block,
    size: usize,
    full: Vec<Block>,
}

impl<'a> BlockBuilder<'a> {
    /// An empty builder for cells whose dots `actors` explains.
    pub fn new(actors: &'a Actors) -> Self {
        Self { actors, places: BTreeMap::new(), block: Block::default(), size: 0, full: Vec::new() }
    }

    /// Adds the cells of one key. A large set may go over several blocks.
    pub fn push(&mut self, cells: &Cells) {
        self.push_split(cells, bounds::BLOCK);
    }

    /// Adds the cells of one key, whatever their size, to the present block.
    pub fn push_whole(&mut self, cells: &Cells) {
        self.push_split(cells, usize::MAX);
    }

    fn push_split(&mut self, cells: &Cells, limit: usize) {
        self.begin(cells.key());
        if !cells.register().is_empty() {
            let mut versions: SmallVec<[_; 1]> = cells.register().versions().iter().collect();
            versions.sort_unstable_by_key(|v| (self.actors.get(v.dot.actor()), v.dot.seq()));
            for version in versions {
                if self.size >= limit {
                    self.flush();
                    self.begin(cells.key());
                }
                let state = self.version(version);
                self.add_version(state);
            }
        }
        for counter in [Counter::G, Counter::Pn] {
            for state in self.parts(counter, cells.counter(counter)) {
                self.add(CellState::Counter(state));
            }
        }
        for member in cells.set().into_iter().flat_map(Set::members) {
            if self.size >= limit {
                self.flush();
                self.begin(cells.key());
            }
            let mut dots = member.dots().to_vec();
            dots.sort_unstable_by_key(|dot| (self.actors.get(dot.actor()), dot.seq()));
            let dots = dots.into_iter().map(|dot| self.dot(dot)).collect();
            self.size += member.element().len() + 16;
            self.add(CellState::Member(MemberState { element: member.element().to_vec(), dots }));
        }
        if self.size >= limit {
            self.flush();
        }
    }

    /// All blocks, encoded.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.flush();
        self.full.iter().map(Block::encode).collect()
    }

    /// All cells as one block, whatever its size.
    pub fn finish_as_one(mut self) -> Block {
        assert!(self.full.is_empty(), "the caller bounds what it asks for");
        std::mem::take(&mut self.block)
    }

    /// Whether a block is full.
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    fn begin(&mut self, key: &[u8]) {
        self.size += key.len() + 16;
        self.block.keys.push(KeyState { key: key.to_vec(), cells: Vec::with_capacity(1) });
    }

    fn add(&mut self, cell: CellState) {
        self.block.keys.last_mut().expect("a key was begun").cells.push(cell);
    }

    fn add_version(&mut self, version: VersionState) {
        let cells = &mut self.block.keys.last_mut().expect("a key was begun").cells;
        match cells.last_mut() {
            Some(CellState::Register(versions)) => versions.push(version),
            _ => cells.push(CellState::Register(vec![version])),
        }
    }

    fn flush(&mut self) {
        if !self.block.keys.is_empty() {
            self.full.push(std::mem::take(&mut self.block));
        }
        self.places.clear();
        self.size = 0;
    }

    fn place(&mut self, actor: ActorIx) -> u32 {
        *self.places.entry(actor).or_insert_with(|| {
            self.block.actors.push(self.actors.get(actor).clone());
            self.size += 32;
            self.block.actors.len() as u32 - 1
        })
    }

    fn dot(&mut self, dot: ShortDot) -> WireDot {
        WireDot { actor: self.place(dot.actor()), seq: dot.seq() }
    }

    fn version(&mut self, version: &Version) -> VersionState {
        self.size += version.value.len() + 16;
        VersionState { dot: self.dot(version.dot), stamp: version.stamp, value: version.value.to_vec() }
    }

    fn parts(&mut self, counter: Counter, parts: Option<&Parts>) -> Vec<CounterState> {
        let mut parts: Vec<_> = parts.into_iter().flat_map(Parts::iter).collect();
        parts.sort_unstable_by_key(|part| self.actors.get(part.actor));
        self.size += parts.len() * 24;
        parts
            .into_iter()
            .map(|part| CounterState {
                counter,
                actor: self.place(part.actor),
                contribution: part.contribution,
                baseline: part.baseline.as_deref().copied(),
            })
            .collect()
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

    /// Puts a block's cells into a state made by [`State::staged`]. Every live
    /// dot must be within the context: a live set travels only with the context it belongs to.
    pub fn load(&mut self, block: Block) -> Result<(), ApplyError> {
        let places = block.actors.iter().map(|a| self.intern(a)).collect::<Result<Vec<_>, _>>()?;
        for key in block.keys {
            self.load_key(key, &places)?;
        }
        Ok(())
    }

    fn load_key(&mut self, state: KeyState, places: &[ActorIx]) -> Result<(), ApplyError> {
        let hash = self.cells.hash(&state.key);
        let State { cells: table, seen, tallies, hash_key, tags, .. } = self;
        let rows = Rows { key: *hash_key, tags };
        let cells = table.get_or_insert(hash, &state.key, || Cells::new(&state.key));
        let (before, fingerprint) = (Shape::of(cells), cells.fingerprint());
        let mut cells = Changing::new(cells, rows, hash);
        let loaded = state.cells.into_iter().try_for_each(|cell| load_cell(&mut cells, cell, places, seen));
        let cells = cells.finish();
        let (after, gone) = (cells.fingerprint(), cells.is_blank());
        tallies.replace(&before, &Shape::of(cells));
        table.note_change(hash, fingerprint, after);
        if gone {
            table.remove(hash, &state.key);
        }
        loaded
    }
}

fn load_cell(
    cells: &mut Changing<'_>,
    cell: CellState,
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
        CellState::Register(versions) => {
            for version in versions {
                let dot = live(&version.dot)?;
                cells.remove_version(dot);
                cells.insert_version(Version { dot, stamp: version.stamp, value: version.value.into() });
            }
        }
        CellState::Member(member) => {
            for dot in &member.dots {
                let dot = live(dot)?;
                cells.remove_member(&member.element, dot);
                cells.insert_member(&member.element, dot);
            }
        }
        CellState::Counter(part) => {
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
