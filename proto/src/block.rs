//! Blocks: the states of many cells, packed as they travel and are stored.
//!
//! A block is a table of actors and then cells until its end. What neighbours have in common is told once: a
//! key is told by what it shares with the one before it, a dot by how far its number is from that of the last dot of
//! its actor, a stamp likewise. Cells in the order of their writes therefore take next to nothing beside their
//! keys and values; that order is the writer's wish, and means nothing.
//!
//! [`BlockWriter`] and [`BlockReader`] go from and to bytes without anything between; a [`Block`] is the same
//! as a value.

use serde::Deserialize;

use crate::cell::{Tally, check_live};
use crate::op::Counter;
use crate::{
    Actor, CellState, CounterState, DecodeError, KeyState, MemberState, Stamp, VersionState, WireDot, bound,
    bounds, distinct, limit,
};

/// What a tag says, from the lowest bit: what follows (two bits), and how.
mod tag {
    pub(super) const KIND: u8 = 0b11;
    pub(super) const REGISTER: u8 = 0;
    pub(super) const MEMBER: u8 = 1;
    pub(super) const COUNTER: u8 = 2;
    /// A key of which no cell follows.
    pub(super) const KEY: u8 = 3;
    /// The key is told anew; else it is that of the cell before.
    pub(super) const NEW_KEY: u8 = 1 << 2;
    /// One version, or one dot; else a count of them comes first.
    pub(super) const ONE: u8 = 1 << 3;
    /// The actor is that of the dot or part before.
    pub(super) const SAME_ACTOR: u8 = 1 << 4;
    /// The value is as long as the one before.
    pub(super) const SAME_LENGTH: u8 = 1 << 5;
    /// The value is left out: whoever reads has seen the write, and has it or knows that it is gone.
    pub(super) const KNOWN: u8 = 1 << 6;
    /// Of a counter: it has a contribution, it has a baseline, it only grows.
    pub(super) const CONTRIBUTION: u8 = 1 << 3;
    pub(super) const BASELINE: u8 = 1 << 5;
    pub(super) const GROWS: u8 = 1 << 6;
}

/// What of a length fits half a byte; what is more follows.
const NIBBLE: usize = 15;

/// The state of many cells, with the table of the actors that their dots name
/// (place n is `actors[n]`). Always belongs to a version vector that travels
/// or is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The actors.
    pub actors: Vec<Actor>,
    /// The cells, grouped by key. One key may come in several groups.
    pub keys: Vec<KeyState>,
}

impl Block {
    /// Encodes the block.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = BlockWriter::new(&self.actors);
        for state in &self.keys {
            writer.key(&state.key);
            for cell in &state.cells {
                match cell {
                    CellState::Register(versions) => {
                        writer.register(versions.iter().map(|v| (v.dot, v.stamp, &v.value[..])));
                    }
                    CellState::Member(member) => writer.member(&member.element, member.dots.iter().copied()),
                    CellState::Counter(part) => writer.counter(part),
                }
            }
        }
        writer.finish()
    }

    /// Decodes and checks a block.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = BlockReader::new(bytes)?;
        let mut keys: Vec<KeyState> = Vec::new();
        while let Some(item) = reader.next()? {
            if item.is_new_key {
                keys.push(KeyState { key: item.key.to_vec(), cells: Vec::new() });
            }
            let cell = match item.cell {
                CellRef::None => continue,
                CellRef::Known { .. } => return Err(malformed("a value is left out")),
                CellRef::Register(versions) => {
                    let version = |v: &VersionRef<'_>| VersionState {
                        dot: v.dot,
                        stamp: v.stamp,
                        value: v.value.to_vec(),
                    };
                    CellState::Register(versions.iter().map(version).collect())
                }
                CellRef::Member { element, dots } => {
                    CellState::Member(MemberState { element: element.to_vec(), dots: dots.to_vec() })
                }
                CellRef::Counter(part) => CellState::Counter(part),
            };
            keys.last_mut().expect("the reader sees to it that a key comes first").cells.push(cell);
        }
        Ok(Self { actors: reader.actors, keys })
    }
}

/// What a block begins with.
#[derive(Deserialize)]
struct ActorTable(#[serde(deserialize_with = "limit::actors")] Vec<Actor>);

/// The last dot of an actor, and when it was.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    seq: u64,
    millis: u64,
}

/// What has gone by, and what comes next is told by.
#[derive(Debug, Default)]
struct Past {
    key: Vec<u8>,
    element: Vec<u8>,
    /// By place of the actor.
    last: Vec<Last>,
    actor: u32,
    length: usize,
}

impl Past {
    fn of(actors: usize) -> Self {
        Self { last: vec![Last::default(); actors], ..Self::default() }
    }

    /// Nobody else's, for a place that is not in the table: whoever reads it refuses it.
    fn last(&self, place: u32) -> Last {
        self.last.get(place as usize).copied().unwrap_or_default()
    }

    fn set_last(&mut self, place: u32, last: Last) {
        if let Some(slot) = self.last.get_mut(place as usize) {
            *slot = last;
        }
    }
}

/// Packs cells into a block.
#[derive(Debug)]
pub struct BlockWriter {
    out: Vec<u8>,
    past: Past,
    /// The key of the cells that follow, and whether it is still to be told.
    key: Vec<u8>,
    is_new_key: bool,
}

impl BlockWriter {
    /// A block whose dots name actors by their places in this table.
    pub fn new(actors: &[Actor]) -> Self {
        let out = postcard::to_stdvec(actors).expect("a list of plain values always encodes");
        Self { out, past: Past::of(actors.len()), key: Vec::new(), is_new_key: false }
    }

    /// Makes room for so many more bytes.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// The cells that follow are of this key.
    pub fn key(&mut self, key: &[u8]) {
        self.end_key();
        self.key.clear();
        self.key.extend_from_slice(key);
        self.is_new_key = true;
    }

    /// A register, by its versions: dot, stamp and value.
    pub fn register<'a>(&mut self, mut versions: impl ExactSizeIterator<Item = (WireDot, Stamp, &'a [u8])>) {
        if versions.len() != 1 {
            self.tag(tag::REGISTER);
            put(&mut self.out, versions.len() as u64);
            for (dot, stamp, value) in versions {
                put(&mut self.out, dot.actor.into());
                self.version(dot, stamp);
                put(&mut self.out, value.len() as u64);
                self.out.extend_from_slice(value);
            }
            return;
        }
        let (dot, stamp, value) = versions.next().expect("there is one");
        let is_same = value.len() == self.past.length;
        let length = if is_same { tag::SAME_LENGTH } else { 0 };
        self.tag(tag::REGISTER | tag::ONE | length | self.actor_tag(dot.actor));
        self.actor(dot.actor);
        self.version(dot, stamp);
        if !is_same {
            put(&mut self.out, value.len() as u64);
            self.past.length = value.len();
        }
        self.out.extend_from_slice(value);
    }

    /// A register of one version, whose write the reader is known to have seen: without the value.
    pub fn known(&mut self, dot: WireDot, stamp: Stamp) {
        self.tag(tag::REGISTER | tag::ONE | tag::KNOWN | self.actor_tag(dot.actor));
        self.actor(dot.actor);
        self.version(dot, stamp);
    }

    /// An element of a set, by its dots.
    pub fn member(&mut self, element: &[u8], mut dots: impl ExactSizeIterator<Item = WireDot>) {
        if dots.len() != 1 {
            self.tag(tag::MEMBER);
            put_name(&mut self.out, &mut self.past.element, element);
            put(&mut self.out, dots.len() as u64);
            for dot in dots {
                put(&mut self.out, dot.actor.into());
                self.seq(dot.actor, dot.seq);
            }
            return;
        }
        let dot = dots.next().expect("there is one");
        self.tag(tag::MEMBER | tag::ONE | self.actor_tag(dot.actor));
        put_name(&mut self.out, &mut self.past.element, element);
        self.actor(dot.actor);
        self.seq(dot.actor, dot.seq);
    }

    /// One actor's part of a counter.
    pub fn counter(&mut self, part: &CounterState) {
        let contribution = if part.contribution.is_some() { tag::CONTRIBUTION } else { 0 };
        let baseline = if part.baseline.is_some() { tag::BASELINE } else { 0 };
        let grows = if part.counter == Counter::G { tag::GROWS } else { 0 };
        self.tag(tag::COUNTER | contribution | baseline | grows | self.actor_tag(part.actor));
        self.actor(part.actor);
        for tally in part.contribution.iter().chain(&part.baseline) {
            self.seq(part.actor, tally.birth);
            put_wide(&mut self.out, tally.p);
            put_wide(&mut self.out, tally.n);
        }
    }

    /// The block.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_key();
        self.out
    }

    /// Tells a key of which no cell has come.
    fn end_key(&mut self) {
        if self.is_new_key {
            self.tag(tag::KEY);
        }
    }

    fn tag(&mut self, tag: u8) {
        if !std::mem::take(&mut self.is_new_key) {
            return self.out.push(tag);
        }
        self.out.push(tag | tag::NEW_KEY);
        put_name(&mut self.out, &mut self.past.key, &self.key);
    }

    fn actor_tag(&self, place: u32) -> u8 {
        if place == self.past.actor { tag::SAME_ACTOR } else { 0 }
    }

    fn actor(&mut self, place: u32) {
        if place != self.past.actor {
            put(&mut self.out, place.into());
            self.past.actor = place;
        }
    }

    fn version(&mut self, dot: WireDot, stamp: Stamp) {
        let Last { millis, .. } = self.past.last(dot.actor);
        self.seq(dot.actor, dot.seq);
        put(&mut self.out, zigzag(stamp.millis().wrapping_sub(millis)));
        put(&mut self.out, stamp.counter().into());
        self.past.set_last(dot.actor, Last { seq: dot.seq, millis: stamp.millis() });
    }

    fn seq(&mut self, place: u32, seq: u64) {
        let last = self.past.last(place);
        put(&mut self.out, zigzag(seq.wrapping_sub(last.seq)));
        self.past.set_last(place, Last { seq, ..last });
    }
}

/// One version, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRef<'a> {
    /// The write that made it.
    pub dot: WireDot,
    /// When, by its author's clock.
    pub stamp: Stamp,
    /// The value.
    pub value: &'a [u8],
}

/// One cell, in place.
#[derive(Debug, Clone)]
pub enum CellRef<'r, 'a> {
    /// Nothing: a key was named.
    None,
    /// The versions of a register.
    Register(&'r [VersionRef<'a>]),
    /// A register of one version whose value is left out.
    Known {
        /// The write that made it.
        dot: WireDot,
        /// When, by its author's clock.
        stamp: Stamp,
    },
    /// One element of a set.
    Member {
        /// The element.
        element: &'r [u8],
        /// Its live dots.
        dots: &'r [WireDot],
    },
    /// One actor's part of a counter.
    Counter(CounterState),
}

/// What a block says next.
#[derive(Debug, Clone)]
pub struct BlockItem<'r, 'a> {
    /// The key.
    pub key: &'r [u8],
    /// Whether a group begins with it.
    pub is_new_key: bool,
    /// A cell of the key.
    pub cell: CellRef<'r, 'a>,
}

/// Reads a block from its bytes, and checks what it reads: bounds, table places, numbers, and that no cell is empty or
/// names a dot twice.
#[derive(Debug)]
pub struct BlockReader<'a> {
    actors: Vec<Actor>,
    rest: &'a [u8],
    past: Past,
    has_key: bool,
    versions: Vec<VersionRef<'a>>,
    dots: Vec<WireDot>,
    /// Items that may still come.
    items: usize,
    /// Bytes of keys and elements that may still come: what they share costs nothing on the wire.
    names: usize,
}

impl<'a> BlockReader<'a> {
    /// Reads the table of actors.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        bound("block", bytes.len(), bounds::BULK_FRAME)?;
        let (ActorTable(actors), rest) = limit::decode(bytes, "block")?;
        if !distinct(actors.iter()) {
            return Err(DecodeError::malformed("actor table", "it names an actor twice"));
        }
        Ok(Self {
            past: Past::of(actors.len()),
            actors,
            rest,
            has_key: false,
            versions: Vec::new(),
            dots: Vec::new(),
            items: bounds::ITEMS,
            names: bounds::NAMES,
        })
    }

    /// The actors that dots name by their places.
    pub fn actors(&self) -> &[Actor] {
        &self.actors
    }

    /// What comes next; none at the end.
    #[expect(clippy::should_implement_trait, reason = "it lends what it gives")]
    pub fn next(&mut self) -> Result<Option<BlockItem<'_, 'a>>, DecodeError> {
        let Some((tag, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        self.spend(1)?;
        let is_new_key = tag & tag::NEW_KEY != 0;
        if is_new_key {
            self.rest = take_name(self.rest, &mut self.past.key, &mut self.names, "key", bounds::KEY)?;
            self.has_key = true;
        } else if !self.has_key {
            return Err(malformed("a cell comes before any key"));
        }
        let one = tag & tag::ONE != 0;
        let known = match tag & tag::KIND {
            tag::REGISTER => tag::ONE | if one { tag::SAME_ACTOR | tag::SAME_LENGTH | tag::KNOWN } else { 0 },
            tag::MEMBER => tag::ONE | if one { tag::SAME_ACTOR } else { 0 },
            tag::COUNTER => tag::CONTRIBUTION | tag::BASELINE | tag::GROWS | tag::SAME_ACTOR,
            _ => 0,
        };
        if tag & !(known | tag::KIND | tag::NEW_KEY) != 0 || *tag == tag::KEY {
            return Err(malformed("a tag that means nothing"));
        }
        match tag & tag::KIND {
            tag::REGISTER if tag & tag::KNOWN != 0 => {
                if tag & tag::SAME_LENGTH != 0 {
                    return Err(malformed("a tag that means nothing"));
                }
                let actor = self.actor(*tag)?;
                let (dot, stamp) = self.dot_and_stamp(actor)?;
                check_live(std::iter::once(dot), self.actors.len() as u32)?;
                let cell = CellRef::Known { dot, stamp };
                return Ok(Some(BlockItem { key: &self.past.key, is_new_key, cell }));
            }
            tag::REGISTER if one => self.version(*tag)?,
            tag::REGISTER => self.register()?,
            tag::MEMBER => self.member(*tag)?,
            tag::COUNTER => {
                let cell = CellRef::Counter(self.counter(*tag)?);
                return Ok(Some(BlockItem { key: &self.past.key, is_new_key, cell }));
            }
            _ => return Ok(Some(BlockItem { key: &self.past.key, is_new_key, cell: CellRef::None })),
        }
        let cell = match tag & tag::KIND {
            tag::REGISTER => CellRef::Register(&self.versions),
            _ => CellRef::Member { element: &self.past.element, dots: &self.dots },
        };
        Ok(Some(BlockItem { key: &self.past.key, is_new_key, cell }))
    }

    fn version(&mut self, tag: u8) -> Result<(), DecodeError> {
        let actor = self.actor(tag)?;
        let (dot, stamp) = self.dot_and_stamp(actor)?;
        check_live(std::iter::once(dot), self.actors.len() as u32)?;
        if tag & tag::SAME_LENGTH == 0 {
            self.past.length = self.length()?;
        }
        let value = self.value(self.past.length)?;
        self.versions.clear();
        self.versions.push(VersionRef { dot, stamp, value });
        Ok(())
    }

    fn register(&mut self) -> Result<(), DecodeError> {
        let count = self.count("versions")?;
        self.versions.clear();
        for _ in 0..count {
            let actor = self.place()?;
            let (dot, stamp) = self.dot_and_stamp(actor)?;
            let length = self.length()?;
            let value = self.value(length)?;
            self.versions.push(VersionRef { dot, stamp, value });
        }
        check_live(self.versions.iter().map(|version| version.dot), self.actors.len() as u32)
    }

    fn member(&mut self, tag: u8) -> Result<(), DecodeError> {
        let Past { element, .. } = &mut self.past;
        self.rest = take_name(self.rest, element, &mut self.names, "element", bounds::ELEMENT)?;
        self.dots.clear();
        if tag & tag::ONE != 0 {
            let actor = self.actor(tag)?;
            let seq = self.seq(actor)?;
            self.dots.push(WireDot { actor, seq });
        } else {
            for _ in 0..self.count("dots")? {
                let actor = self.place()?;
                let seq = self.seq(actor)?;
                self.dots.push(WireDot { actor, seq });
            }
        }
        check_live(self.dots.iter().copied(), self.actors.len() as u32)
    }

    fn counter(&mut self, tag: u8) -> Result<CounterState, DecodeError> {
        let actor = self.actor(tag)?;
        let mut tally = |bit| {
            if tag & bit == 0 {
                return Ok::<_, DecodeError>(None);
            }
            let birth = self.seq(actor)?;
            let (p, n) = (self.wide()?, self.wide()?);
            Ok(Some(Tally { birth, p, n }))
        };
        let (contribution, baseline) = (tally(tag::CONTRIBUTION)?, tally(tag::BASELINE)?);
        let counter = if tag & tag::GROWS == 0 { Counter::Pn } else { Counter::G };
        let part = CounterState { counter, actor, contribution, baseline };
        part.check(self.actors.len() as u32)?;
        Ok(part)
    }

    fn actor(&mut self, tag: u8) -> Result<u32, DecodeError> {
        if tag & tag::SAME_ACTOR == 0 {
            self.past.actor = self.place()?;
        }
        Ok(self.past.actor)
    }

    fn place(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(|_| malformed("a place is over 32 bits"))
    }

    fn seq(&mut self, place: u32) -> Result<u64, DecodeError> {
        let last = self.past.last(place);
        let seq = last.seq.wrapping_add(zagzig(self.number()?));
        self.past.set_last(place, Last { seq, ..last });
        Ok(seq)
    }

    fn dot_and_stamp(&mut self, actor: u32) -> Result<(WireDot, Stamp), DecodeError> {
        let seq = self.seq(actor)?;
        let millis = self.past.last(actor).millis.wrapping_add(zagzig(self.number()?));
        let counter =
            u16::try_from(self.number()?).map_err(|_| malformed("a stamp's counter is over 16 bits"))?;
        if millis >> 48 != 0 {
            return Err(malformed("a stamp's time is over 48 bits"));
        }
        self.past.set_last(actor, Last { seq, millis });
        Ok((WireDot { actor, seq }, Stamp(millis << 16 | u64::from(counter))))
    }

    /// How many items a list has: refused before anything is allocated for them.
    fn count(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        bound(what, count, bounds::DOTS)?;
        self.spend(count)?;
        Ok(count)
    }

    fn spend(&mut self, items: usize) -> Result<(), DecodeError> {
        let room = self.items.checked_sub(items);
        self.items = room.ok_or(DecodeError::Oversized {
            what: "items",
            size: (bounds::ITEMS - self.items + items) as u64,
            bound: bounds::ITEMS as u64,
        })?;
        Ok(())
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        bound("value", length, bounds::VALUE)?;
        Ok(length)
    }

    fn value(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (value, rest) = self.rest.split_at_checked(length).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(value)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let (number, rest) = take(self.rest)?;
        self.rest = rest;
        Ok(number)
    }

    fn wide(&mut self) -> Result<u128, DecodeError> {
        let (number, rest) = take_wide(self.rest)?;
        self.rest = rest;
        Ok(number)
    }
}

fn malformed(why: &str) -> DecodeError {
    DecodeError::malformed("block", why)
}

fn ends_early() -> DecodeError {
    malformed("it ends early")
}

/// A signed difference, modulo 2^64, as a number that is small if it is.
fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ ((difference as i64) >> 63) as u64
}

fn zagzig(number: u64) -> u64 {
    number >> 1 ^ (number & 1).wrapping_neg()
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_wide(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    if let Some((byte, rest)) = bytes.split_first().filter(|(byte, _)| **byte < 0x80) {
        return Ok(((*byte).into(), rest));
    }
    let (number, rest) = take_wide(bytes)?;
    Ok((u64::try_from(number).map_err(|_| malformed("a number is over 64 bits"))?, rest))
}

fn take_wide(bytes: &[u8]) -> Result<(u128, &[u8]), DecodeError> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(19) {
        let bits = u128::from(byte & 0x7f);
        if at == 18 && bits > 3 {
            break;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((number, &bytes[at + 1..]));
        }
    }
    Err(if bytes.len() < 19 { ends_early() } else { malformed("a number is over 128 bits") })
}

/// Tells a name by what it shares with the last one: both lengths in a byte, what of them does not fit, the rest.
fn put_name(out: &mut Vec<u8>, last: &mut Vec<u8>, name: &[u8]) {
    let shared = last.iter().zip(name).take_while(|(a, b)| a == b).count();
    let rest = &name[shared..];
    out.push((shared.min(NIBBLE) << 4 | rest.len().min(NIBBLE)) as u8);
    for length in [shared, rest.len()].into_iter().filter(|length| *length >= NIBBLE) {
        put(out, (length - NIBBLE) as u64);
    }
    out.extend_from_slice(rest);
    last.truncate(shared);
    last.extend_from_slice(rest);
}

/// Turns the last name into the next one, and gives what follows.
fn take_name<'a>(
    bytes: &'a [u8],
    last: &mut Vec<u8>,
    room: &mut usize,
    what: &'static str,
    most: usize,
) -> Result<&'a [u8], DecodeError> {
    let (lengths, mut bytes) = bytes.split_first().ok_or_else(ends_early)?;
    let mut length = |nibble: u8| {
        let mut length = usize::from(nibble);
        if length == NIBBLE {
            let (more, rest) = take(bytes)?;
            bytes = rest;
            length = length.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
        }
        Ok::<_, DecodeError>(length)
    };
    let (shared, rest) = (length(lengths >> 4)?, length(lengths & 15)?);
    bound(what, shared.saturating_add(rest), most)?;
    if shared > last.len() {
        return Err(malformed("a name shares more with the last one than that has"));
    }
    *room = room.checked_sub(shared + rest).ok_or(DecodeError::Oversized {
        what: "names",
        size: (bounds::NAMES - *room + shared + rest) as u64,
        bound: bounds::NAMES as u64,
    })?;
    let (rest, bytes) = bytes.split_at_checked(rest).ok_or_else(ends_early)?;
    last.truncate(shared);
    last.extend_from_slice(rest);
    Ok(bytes)
}
