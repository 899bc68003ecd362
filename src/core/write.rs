//! Local writes: what a client asks for, turned into ops that say what they have seen.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;
use tidings_proto::op::{Baseline, Counter, Dots};
use tidings_proto::{Edit, Op, bounds as wire};

use super::actors::{ActorIx, ShortDot};
use super::bounds;
use super::cells::Cells;
use super::mutant::{self, Mutant};
use super::replica::Replica;
use super::view::{Kind, StringView, View};

/// A write by a client of this node.
#[derive(Debug, Clone, Copy)]
pub enum Write<'a> {
    /// Make the key a string of that value, whatever it was.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Remove all that is seen of the key, of every kind.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Add elements to a set.
    Add {
        /// The key.
        key: &'a [u8],
        /// The elements.
        elements: &'a [&'a [u8]],
    },
    /// Remove elements from a set.
    Remove {
        /// The key.
        key: &'a [u8],
        /// The elements.
        elements: &'a [&'a [u8]],
    },
    /// Add to, or take from, the counter of a string.
    Increment {
        /// The key.
        key: &'a [u8],
        /// How much.
        by: i64,
    },
    /// Add to a counter that only grows.
    GIncrement {
        /// The key.
        key: &'a [u8],
        /// How much.
        by: u64,
    },
    /// Remove all that is seen of the next thousand keys. To be repeated until it removes none.
    Flush,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It took place.
    Done,
    /// Whether readers had seen the key.
    Removed(bool),
    /// How many elements are new or gone, or how many keys were flushed.
    Count(usize),
    /// The value now.
    Value(i64),
}

/// Why a write was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The key is of another kind.
    #[error("the key is a {} to its readers", .0.name())]
    WrongKind(Kind),
    /// The string is not an integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum would leave 64 bits, signed.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// A key, element or value is over its bound.
    #[error("{what} of {size} bytes is longer than max_{what}_size, which is {bound} bytes")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The bound in bytes.
        bound: usize,
    },
    /// The process holds more memory than it may; what frees memory goes on.
    #[error("the process holds more memory than max_memory, which is {bound} bytes; deletes and reads go on")]
    OutOfMemory {
        /// The bound in bytes.
        bound: u64,
    },
    /// The log has grown to its bound since the last checkpoint; a checkpoint frees it.
    #[error(
        "the log since the last checkpoint has reached max_log, which is {bound} bytes; writes go on once there is a checkpoint"
    )]
    LogFull {
        /// The bound in bytes.
        bound: u64,
    },
    /// The disk failed and the node takes no writes until it is restarted, or another
    /// process writes as this incarnation and the node has not begun another yet.
    #[error("writes have stopped: {0}")]
    Stopped(String),
}

/// A key with its position, which is worked out once a write.
#[derive(Debug, Clone, Copy)]
struct Key<'a> {
    name: &'a [u8],
    hash: u64,
}

/// The longest names and values that clients may write, in bytes; never over the wire's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest key.
    pub key: usize,
    /// Longest element.
    pub element: usize,
    /// Longest value.
    pub value: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { key: wire::KEY, element: wire::ELEMENT, value: wire::VALUE }
    }
}

impl Write<'_> {
    /// Whether it only takes away, and so goes on where memory is short.
    pub fn only_removes(&self) -> bool {
        matches!(self, Write::Delete { .. } | Write::Remove { .. } | Write::Flush)
    }
}

type Edits<'a> = SmallVec<[Edit<'a, ShortDot>; 1]>;

/// How many keys one flush step removes.
const FLUSH_STEP: usize = 1_000;

impl Replica {
    /// Carries out a write, in one step.
    pub fn write(&mut self, wall_millis: u64, write: Write<'_>) -> Result<Written, WriteError> {
        if self.is_overtaken() {
            return Err(WriteError::Stopped("another process writes as this incarnation".into()));
        }
        match write {
            Write::Set { key, value } => self.set(wall_millis, key, value),
            Write::Delete { key } => Ok(Written::Removed(self.delete(wall_millis, self.find(key)))),
            Write::Add { key, elements } => self.add(wall_millis, key, elements),
            Write::Remove { key, elements } => self.remove(wall_millis, key, elements),
            Write::Increment { key, by } => self.increment(wall_millis, key, by),
            Write::GIncrement { key, by } => self.g_increment(wall_millis, key, by),
            Write::Flush => Ok(self.flush(wall_millis)),
        }
    }

    fn find<'a>(&self, key: &'a [u8]) -> Key<'a> {
        Key { name: key, hash: self.state.position(key) }
    }

    fn cells(&self, key: Key<'_>) -> Option<&Cells> {
        self.state.get_at(key.hash, key.name)
    }

    /// Issues one op of our own.
    fn issue<'a>(&mut self, wall_millis: u64, key: Key<'a>, edits: Edits<'a>) {
        assert!(!self.is_overtaken(), "a dot is issued once");
        let dot = ShortDot::new(self.own, self.own_seq() + 1);
        let stamp = self.clock.tick(wall_millis).0;
        let op = Op { stamp, key: key.name, edits };
        self.take(key.hash, dot, &op).expect("an own op is the next and names what was seen");
        self.count_written();
    }

    fn set(&mut self, wall: u64, key: &[u8], value: &[u8]) -> Result<Written, WriteError> {
        fit("key", key, self.limits.key)?;
        fit("value", value, self.limits.value)?;
        let key = self.find(key);
        let Some(cells) = self.cells(key) else {
            self.issue(wall, key, smallvec::smallvec![Edit::Write { supersedes: Dots::new(), value }]);
            return Ok(Written::Done);
        };
        // Versions that came by a merge or a replay have not moved the clock yet.
        let greatest = cells.register().versions().iter().map(|version| version.stamp).max();
        // One op, so that no reader sees the key gone in between.
        let mut edits = self.counter_edits(cells, Counter::Pn);
        edits.extend(self.counter_edits(cells, Counter::G));
        if mutant::is(Mutant::SetWithoutReset) {
            edits.clear();
        }
        edits.extend(clear(cells));
        edits.push(Edit::Write { supersedes: live_versions(cells), value });
        self.clock.observe(greatest.unwrap_or_default(), wall);
        self.issue(wall, key, edits);
        Ok(Written::Done)
    }

    /// Edits that take away all that is seen of a counter.
    fn counter_edits<'a>(&self, cells: &Cells, counter: Counter) -> Edits<'a> {
        let mut edits = Edits::new();
        let mut baselines: Vec<Baseline<ShortDot>> = Vec::new();
        for part in cells.counter(counter).into_iter().flat_map(|parts| parts.iter()) {
            let Some(e) = part.contribution else { continue };
            if part.actor == self.own {
                edits.push(Edit::Close { counter, birth: e.birth });
            } else if part.standing().is_some() {
                let birth = ShortDot::new(part.actor, e.birth);
                baselines.push(Baseline { birth, p: e.p, n: e.n });
            }
        }
        for some in baselines.chunks(bounds::EDIT_BASELINES) {
            edits.push(Edit::Reset { counter, baselines: SmallVec::from(some) });
        }
        edits
    }

    /// Removes all that is seen of a key. Says whether readers had seen it.
    fn delete(&mut self, wall: u64, key: Key<'_>) -> bool {
        let Some(cells) = self.cells(key) else { return false };
        if cells.kinds().next().is_none() {
            return false;
        }
        let counters = [Counter::Pn, Counter::G].map(|counter| self.counter_edits(cells, counter));
        let versions = live_versions(cells);
        let erase = (!versions.is_empty()).then_some(Edit::Erase { dots: versions });
        let clear = clear(cells);
        self.issue_split(wall, key, counters.into_iter().flatten().chain(erase).chain(clear));
        true
    }

    /// Issues edits as few ops of bounded size.
    fn issue_split<'a>(&mut self, wall: u64, key: Key<'a>, edits: impl Iterator<Item = Edit<'a, ShortDot>>) {
        let (mut batch, mut size) = (Edits::new(), 0);
        for edit in edits {
            let bytes = match &edit {
                Edit::Add { element, supersedes: dots } | Edit::Remove { element, dots } => {
                    element.len() + 16 * dots.len()
                }
                Edit::Reset { baselines, .. } => 64 * baselines.len(),
                _ => 0,
            };
            if !batch.is_empty() && (size + bytes > bounds::OP_ELEMENTS || batch.len() >= bounds::OP_EDITS) {
                self.issue(wall, key, std::mem::take(&mut batch));
                size = 0;
            }
            size += bytes;
            batch.push(edit);
        }
        if !batch.is_empty() {
            self.issue(wall, key, batch);
        }
    }

    /// An add supersedes the adds it sees even if the element is there: a
    /// removal elsewhere that has not seen it must not take the element away.
    fn add(&mut self, wall: u64, key: &[u8], elements: &[&[u8]]) -> Result<Written, WriteError> {
        fit("key", key, self.limits.key)?;
        elements.iter().try_for_each(|element| fit("element", element, self.limits.element))?;
        let key = self.find(key);
        self.expect_kind(key, |view| matches!(view, View::Set(_)))?;
        let mut adds = Edits::new();
        let mut new = 0;
        let mut named = BTreeSet::new();
        let set = self.cells(key).and_then(Cells::set);
        for &element in elements {
            if elements.len() > 1 && !named.insert(element) {
                continue;
            }
            let supersedes: Dots<ShortDot> =
                set.and_then(|set| set.member(element)).map(|m| m.dots().into()).unwrap_or_default();
            new += usize::from(supersedes.is_empty());
            adds.push(Edit::Add { element, supersedes });
        }
        self.issue_split(wall, key, adds.into_iter());
        Ok(Written::Count(new))
    }

    fn remove(&mut self, wall: u64, key: &[u8], elements: &[&[u8]]) -> Result<Written, WriteError> {
        let key = self.find(key);
        self.expect_kind(key, |view| matches!(view, View::Set(_)))?;
        let Some(set) = self.cells(key).and_then(Cells::set) else { return Ok(Written::Count(0)) };
        let mut removals = Edits::new();
        let mut named = BTreeSet::new();
        for &element in elements {
            if elements.len() > 1 && !named.insert(element) {
                continue;
            }
            if let Some(member) = set.member(element) {
                removals.push(Edit::Remove { element, dots: member.dots().into() });
            }
        }
        let gone = removals.len();
        self.issue_split(wall, key, removals.into_iter());
        Ok(Written::Count(gone))
    }

    fn increment(&mut self, wall: u64, key: &[u8], by: i64) -> Result<Written, WriteError> {
        fit("key", key, self.limits.key)?;
        let key = self.find(key);
        self.expect_kind(key, |view| matches!(view, View::Bytes(_) | View::Integer(_)))?;
        let string = self.cells(key).and_then(|cells| cells.string(&self.state.actors));
        let value = match string {
            None => 0,
            Some(StringView::Sum(sum)) => sum,
            Some(StringView::Bytes(bytes)) => {
                super::view::parse_integer(bytes).ok_or(WriteError::NotAnInteger)?.into()
            }
        };
        let sum = value.checked_add(by.into()).and_then(|sum| i64::try_from(sum).ok());
        let sum = sum.ok_or(WriteError::Overflow)?;
        let (up, down) = if by >= 0 { (by.unsigned_abs(), 0) } else { (0, by.unsigned_abs()) };
        self.count(wall, key, Counter::Pn, up, down);
        Ok(Written::Value(sum))
    }

    fn g_increment(&mut self, wall: u64, key: &[u8], by: u64) -> Result<Written, WriteError> {
        fit("key", key, self.limits.key)?;
        let key = self.find(key);
        self.expect_kind(key, |view| matches!(view, View::GCounter(_)))?;
        let counter = self.cells(key).and_then(|cells| cells.counter(Counter::G));
        let value = counter.map_or(0, |parts| parts.value());
        let sum = value.checked_add(by.into()).and_then(|sum| i64::try_from(sum).ok());
        let sum = sum.ok_or(WriteError::Overflow)?;
        self.count(wall, key, Counter::G, by, 0);
        Ok(Written::Value(sum))
    }

    /// Raises the own contribution, begun anew if deletes have observed all of it.
    fn count(&mut self, wall: u64, key: Key<'_>, counter: Counter, up: u64, down: u64) {
        let parts = self.cells(key).and_then(|cells| cells.counter(counter));
        let standing = parts.and_then(|parts| parts.get(self.own)).filter(|part| part.standing().is_some());
        let (birth, p, n) = match standing.and_then(|part| part.contribution) {
            Some(e) => (e.birth, e.p, e.n),
            None if mutant::is(Mutant::NoBirths) => (1, 0, 0),
            None => (self.own_seq() + 1, 0, 0),
        };
        let (p, n) = (p + u128::from(up), n + u128::from(down));
        let mut edits: Edits<'_> = smallvec::smallvec![Edit::Count { counter, birth, p, n }];
        if mutant::is(Mutant::Folding) {
            super::broken::fold(parts, self.own, self.state.actors(), &mut edits);
        }
        self.issue(wall, key, edits);
    }

    /// Closes own contributions that received ops have reset in full, so that
    /// nobody need keep anything of them.
    pub fn close_reset(&mut self, wall: u64) {
        if self.is_overtaken() {
            return;
        }
        for name in self.take_closable() {
            let key = self.find(&name);
            for counter in [Counter::G, Counter::Pn] {
                let parts = self.cells(key).and_then(|cells| cells.counter(counter));
                let spent = parts.and_then(|p| p.get(self.own)).filter(|part| part.standing().is_none());
                if let Some(e) = spent.and_then(|part| part.contribution) {
                    let edit = Edit::Close { counter, birth: e.birth };
                    self.issue(wall, key, smallvec::smallvec![edit]);
                }
            }
        }
    }

    fn flush(&mut self, wall: u64) -> Written {
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        for cells in self.state.cells().filter(|cells| cells.kinds().next().is_some()).take(FLUSH_STEP) {
            keys.push(cells.key().into());
        }
        keys.iter().for_each(|key| {
            self.delete(wall, self.find(key));
        });
        Written::Count(keys.len())
    }

    fn expect_kind(&self, key: Key<'_>, fits: impl Fn(&View<'_>) -> bool) -> Result<(), WriteError> {
        match self.cells(key).and_then(|cells| cells.view(&self.state.actors)) {
            Some(view) if !fits(&view) => Err(WriteError::WrongKind(view.kind())),
            _ => Ok(()),
        }
    }
}

/// The edit that empties a key's set of all that is seen of it: per actor the greatest live dot.
fn clear<'a>(cells: &Cells) -> Option<Edit<'a, ShortDot>> {
    let mut upto: BTreeMap<ActorIx, u64> = BTreeMap::new();
    for dot in cells.set()?.members().flat_map(|member| member.dots()) {
        let greatest = upto.entry(dot.actor()).or_default();
        *greatest = dot.seq().max(*greatest);
    }
    Some(Edit::Clear { upto: upto.into_iter().map(|(actor, seq)| ShortDot::new(actor, seq)).collect() })
}

fn live_versions(cells: &Cells) -> Dots<ShortDot> {
    cells.register().versions().iter().map(|version| version.dot).collect()
}

fn fit(what: &'static str, bytes: &[u8], bound: usize) -> Result<(), WriteError> {
    if bytes.len() > bound {
        return Err(WriteError::TooLong { what, size: bytes.len(), bound });
    }
    Ok(())
}
