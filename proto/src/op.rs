//! One write, and the runs in which writes travel and are logged.
//!
//! The same bytes serve three masters: the wire, the log on disk and the log in
//! memory. A [`Run`] holds consecutive ops of one actor; its header carries what
//! they share (the actor, the first number, the base of the stamps, a table of
//! the other actors whose dots they name), so that one op costs little more than
//! its key and value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::cell::check_sums;
use crate::{Actor, DecodeError, Stamp, bound, bounds, check_seq, distinct, limit};

/// A dot as an op names it: the actor by its place in the run's table.
/// Place 0 is the run's own actor; place n is `actors[n - 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WireDot {
    /// Place of the actor.
    pub actor: u32,
    /// Number of the write among its actor's writes, from 1.
    pub seq: u64,
}

/// A few dots; nearly always none or one.
pub type Dots<D> = SmallVec<[D; 1]>;

/// Which of the two counters of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Counter {
    /// Grows only.
    G,
    /// Grows and shrinks.
    Pn,
}

/// How much of one actor's contribution a delete has observed, and so removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline<D> {
    /// The contribution's author, and as number its birth: the first increment of this life of it.
    pub birth: D,
    /// Sum of the increments observed.
    pub p: u128,
    /// Sum of the decrements observed.
    pub n: u128,
}

/// What an op does to one cell of its key. `D` is how it names dots:
/// [`WireDot`] on the wire, the replica's own short form inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "D: Serialize", deserialize = "D: Deserialize<'de>"))]
pub enum Edit<'a, D> {
    /// Write a register: the op's dot becomes live with the value, the superseded ones go.
    Write {
        /// The live dots that the author saw.
        #[serde(deserialize_with = "limit::dots")]
        supersedes: Dots<D>,
        /// The new value.
        #[serde(borrow, with = "serde_bytes")]
        value: &'a [u8],
    },
    /// Remove versions of a register.
    Erase {
        /// The live dots that the author saw.
        #[serde(deserialize_with = "limit::dots")]
        dots: Dots<D>,
    },
    /// Add an element to a set: the op's dot becomes live, the superseded ones go.
    Add {
        /// The element.
        #[serde(borrow, with = "serde_bytes")]
        element: &'a [u8],
        /// The live dots that the author saw.
        #[serde(deserialize_with = "limit::dots")]
        supersedes: Dots<D>,
    },
    /// Remove an element from a set.
    Remove {
        /// The element.
        #[serde(borrow, with = "serde_bytes")]
        element: &'a [u8],
        /// The live dots that the author saw.
        #[serde(deserialize_with = "limit::dots")]
        dots: Dots<D>,
    },
    /// Set the author's own contribution to a counter. Absolute, so that it is idempotent.
    Count {
        /// Which counter.
        counter: Counter,
        /// Number of the op that began this life of the contribution.
        birth: u64,
        /// Sum of the increments since.
        p: u128,
        /// Sum of the decrements since.
        n: u128,
    },
    /// Raise the reset baselines of other actors' contributions: a delete of what was seen of them.
    Reset {
        /// Which counter.
        counter: Counter,
        /// What was seen, by contribution.
        #[serde(deserialize_with = "limit::baselines")]
        baselines: SmallVec<[Baseline<D>; 1]>,
    },
    /// End the author's own contribution: nothing of it counts any more, and nothing need be kept of it.
    Close {
        /// Which counter.
        counter: Counter,
        /// The birth of the life that ends.
        birth: u64,
    },
    /// Empty the set of the key of all that the author saw: of each actor named, the dots up to that one.
    Clear {
        /// Per actor the greatest dot that the author saw live in the set.
        #[serde(deserialize_with = "limit::dots")]
        upto: Dots<D>,
    },
    /// A Write whose value is left out, since a later op of the same run has superseded it: the
    /// superseded ones go, and nothing becomes live. No author writes it: it is what a Write
    /// becomes on its way to a peer that catches up, and means something only beside that later op.
    Elided {
        /// The live dots that the author saw.
        #[serde(deserialize_with = "limit::dots")]
        supersedes: Dots<D>,
        /// How many numbers later the op is that supersedes this one's dot in the same register.
        by: u32,
    },
}

/// One write of one key. Its dot is not in it: it follows from its place in the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "D: Serialize", deserialize = "D: Deserialize<'de>"))]
pub struct Op<'a, D> {
    /// On the wire: how far the op's stamp is past the run's base.
    pub stamp: u64,
    /// The key.
    #[serde(borrow, with = "serde_bytes")]
    pub key: &'a [u8],
    /// What it does, cell by cell; all of it at once.
    #[serde(borrow, deserialize_with = "limit::edits")]
    pub edits: SmallVec<[Edit<'a, D>; 1]>,
}

/// Consecutive ops of one actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Whose ops.
    pub actor: Actor,
    /// Number of the first op.
    pub first: u64,
    /// How many ops.
    pub count: u32,
    /// What the ops' stamps are counted from.
    pub base: Stamp,
    /// The other actors whose dots the ops name.
    #[serde(deserialize_with = "limit::actors")]
    pub actors: Vec<Actor>,
    /// The ops, one after another.
    #[serde(with = "serde_bytes")]
    pub ops: Vec<u8>,
}

impl Run {
    /// Number of the last op.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Checks what can be checked without reading the ops: counts and bounds.
    pub fn check(&self) -> Result<(), DecodeError> {
        bound("run", self.count as usize, bounds::RUN_OPS)?;
        bound("actor table", self.actors.len(), bounds::ACTORS)?;
        if self.count == 0 || self.first == 0 {
            return Err(DecodeError::malformed("run", "it is empty or numbers an op 0"));
        }
        if self.first.checked_add(u64::from(self.count)).is_none() {
            return Err(DecodeError::malformed("run", "its numbers overflow"));
        }
        // Else a dot of the run's own actor could hide from the check that it lies in the past.
        if self.actors.contains(&self.actor) || !distinct(self.actors.iter()) {
            return Err(DecodeError::malformed("actor table", "it names an actor twice"));
        }
        Ok(())
    }

    /// The ops with their numbers, each checked as it is read. After an error
    /// nothing more is yielded; after the last op leftover bytes are an error.
    ///
    /// # Panics
    /// May, if the run does not pass [`Run::check`].
    pub fn iter(&self) -> RunIter<'_> {
        RunIter { run: self, rest: &self.ops, next: 0, failed: false }
    }

    /// The ops from number `first` up to `last`, as many as fit in `budget` bytes but at least
    /// one, as a run of their own; none if `first` is not among them. An op whose value is left out
    /// is in it only with the one that superseded it: then it holds what `first` needs, or ends earlier.
    ///
    /// # Errors
    /// If an op up to there is malformed.
    ///
    /// # Panics
    /// May, if the run does not pass [`Run::check`].
    pub fn part(&self, first: u64, last: u64, budget: usize) -> Result<Option<Run>, DecodeError> {
        if first < self.first || first > self.last().min(last) {
            return Ok(None);
        }
        let mut ops = self.iter();
        let (mut start, mut end, mut count) = (0, 0, 0);
        // Up to where what has been taken needs what follows, and what needs nothing.
        let (mut reach, mut whole) = (0, (0, 0));
        loop {
            let before = self.ops.len() - ops.rest.len();
            let Some(op) = ops.next() else { break };
            let (seq, op) = op?;
            let after = self.ops.len() - ops.rest.len();
            if seq < first {
                continue;
            }
            if seq == first {
                start = before;
            } else if seq > last || after - start > budget {
                if seq > reach {
                    break;
                }
                if whole.1 > 0 {
                    (end, count) = whole;
                    break;
                }
            }
            (end, count) = (after, count + 1);
            reach = op.edits.iter().map(|edit| edit.reach(seq)).fold(reach, u64::max);
            if reach <= seq {
                whole = (end, count);
            }
        }
        let ops = self.ops[start..end].to_vec();
        let (actor, actors) = (self.actor.clone(), self.actors.clone());
        Ok(Some(Run { actor, first, count, base: self.base, actors, ops }))
    }
}

/// Walks the ops of a [`Run`].
#[derive(Debug, Clone)]
pub struct RunIter<'a> {
    run: &'a Run,
    rest: &'a [u8],
    next: u32,
    failed: bool,
}

impl<'a> Iterator for RunIter<'a> {
    type Item = Result<(u64, Op<'a, WireDot>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.next == self.run.count {
            let left = self.rest.len();
            self.rest = &[];
            return (left > 0).then_some(Err(DecodeError::Trailing { what: "run", left }));
        }
        let seq = self.run.first + u64::from(self.next);
        match self.take_op(seq) {
            Ok((op, rest)) => {
                self.rest = rest;
                self.next += 1;
                Some(Ok((seq, op)))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl<'a> RunIter<'a> {
    /// Which is the last of the ops that must be applied in one step with the one that has just been
    /// yielded, whose value is left out: all up to what superseded it, and up to what superseded
    /// those among them. Theirs must be the same register, and they must be in the run.
    ///
    /// # Errors
    /// If they are not, or something among them is malformed.
    pub fn bundle(&self, seq: u64, op: &Op<'a, WireDot>) -> Result<u64, DecodeError> {
        let wrong = |why| Err(DecodeError::malformed("run", why));
        let mut ops = self.clone();
        // What has to be superseded by whom.
        let mut open: BTreeMap<(u64, u64), &[u8]> = BTreeMap::new();
        let note = |open: &mut BTreeMap<_, _>, seq: u64, op: &Op<'a, WireDot>| {
            let by = op.edits.iter().map(|edit| edit.reach(seq)).fold(seq, u64::max);
            if by > seq {
                open.insert((by, seq), op.key);
            }
        };
        note(&mut open, seq, op);
        let (mut last, mut stamp) = (seq, op.stamp);
        while !open.is_empty() {
            let Some(item) = ops.next() else {
                return wrong("a value is left out of it without what superseded it");
            };
            let (at, op) = item?;
            bound("bundle", self.rest.len() - ops.rest.len(), bounds::BUNDLE)?;
            if op.stamp < stamp {
                return wrong("stamps go back where values are left out");
            }
            (last, stamp) = (at, op.stamp);
            while let Some(entry) = open.first_entry().filter(|entry| entry.key().0 == at) {
                let ((_, elided), key) = entry.remove_entry();
                let dot = WireDot { actor: 0, seq: elided };
                if key != op.key || !op.edits.iter().any(|edit| edit.overwrites().contains(&dot)) {
                    return wrong("a value is left out of it that nothing superseded");
                }
            }
            note(&mut open, at, &op);
        }
        Ok(last)
    }

    fn take_op(&self, seq: u64) -> Result<(Op<'a, WireDot>, &'a [u8]), DecodeError> {
        let (op, rest): (Op<'a, WireDot>, _) = limit::decode(self.rest, "op")?;
        bound("op", self.rest.len() - rest.len(), bounds::OP)?;
        if self.run.base.0.checked_add(op.stamp).is_none() {
            return Err(DecodeError::malformed("op", "its stamp overflows"));
        }
        check_op(&op, seq, self.run.actors.len() as u32)?;
        Ok((op, rest))
    }
}

/// Checks an op that came from outside: bounds, table places, numbers.
fn check_op(op: &Op<'_, WireDot>, seq: u64, places: u32) -> Result<(), DecodeError> {
    bound("key", op.key.len(), bounds::KEY)?;
    bound("edits", op.edits.len(), bounds::EDITS)?;
    let dot = |d: &WireDot| check_dot(d, seq, places);
    let own_birth = |birth: u64| {
        if birth == 0 || birth > seq {
            return Err(DecodeError::malformed("op", "it counts from a birth that cannot exist"));
        }
        Ok(())
    };
    let mut writes = 0;
    let mut added: SmallVec<[&[u8]; 1]> = SmallVec::new();
    for edit in &op.edits {
        match edit {
            Edit::Write { supersedes, value } => {
                bound("value", value.len(), bounds::VALUE)?;
                supersedes.iter().try_for_each(dot)?;
                writes += 1;
            }
            Edit::Erase { dots } | Edit::Clear { upto: dots } => dots.iter().try_for_each(dot)?,
            Edit::Add { element, supersedes } => {
                bound("element", element.len(), bounds::ELEMENT)?;
                supersedes.iter().try_for_each(dot)?;
                added.push(element);
            }
            Edit::Remove { element, dots } => {
                bound("element", element.len(), bounds::ELEMENT)?;
                dots.iter().try_for_each(dot)?;
            }
            Edit::Count { counter, birth, n, .. } => {
                own_birth(*birth)?;
                check_sums("op", *counter, *n)?;
            }
            Edit::Reset { counter, baselines } => {
                for baseline in baselines {
                    dot(&baseline.birth)?;
                    check_sums("op", *counter, baseline.n)?;
                }
            }
            Edit::Close { birth, .. } => own_birth(*birth)?,
            Edit::Elided { supersedes, by } => {
                supersedes.iter().try_for_each(dot)?;
                if *by == 0 || seq.checked_add(u64::from(*by)).is_none_or(|by| by == u64::MAX) {
                    return Err(DecodeError::malformed("op", "no later one can have superseded it"));
                }
                writes += 1;
            }
        }
    }
    if writes > 1 || !distinct(added.iter()) {
        return Err(DecodeError::malformed("op", "it makes its dot live twice in one cell"));
    }
    Ok(())
}

fn check_dot(dot: &WireDot, seq: u64, places: u32) -> Result<(), DecodeError> {
    if dot.actor > places {
        return Err(DecodeError::malformed("op", "it names an actor that is not in the table"));
    }
    if dot.actor == 0 && dot.seq >= seq {
        return Err(DecodeError::malformed("op", "it names a later write of its own actor"));
    }
    check_seq("op", dot.seq)
}

impl<'a, D> Edit<'a, D> {
    /// The same edit with its dots named another way.
    pub fn map<E>(&self, mut to: impl FnMut(&D) -> E) -> Edit<'a, E> {
        match self {
            Edit::Write { supersedes, value } => {
                Edit::Write { supersedes: supersedes.iter().map(to).collect(), value }
            }
            Edit::Erase { dots } => Edit::Erase { dots: dots.iter().map(to).collect() },
            Edit::Add { element, supersedes } => {
                Edit::Add { element, supersedes: supersedes.iter().map(to).collect() }
            }
            Edit::Remove { element, dots } => Edit::Remove { element, dots: dots.iter().map(to).collect() },
            &Edit::Count { counter, birth, p, n } => Edit::Count { counter, birth, p, n },
            Edit::Reset { counter, baselines } => Edit::Reset {
                counter: *counter,
                baselines: baselines
                    .iter()
                    .map(|b| Baseline { birth: to(&b.birth), p: b.p, n: b.n })
                    .collect(),
            },
            &Edit::Close { counter, birth } => Edit::Close { counter, birth },
            Edit::Clear { upto } => Edit::Clear { upto: upto.iter().map(to).collect() },
            Edit::Elided { supersedes, by } => {
                Edit::Elided { supersedes: supersedes.iter().map(to).collect(), by: *by }
            }
        }
    }

    /// Up to which number the ops after that of number `seq` must come with it: its own, unless
    /// its value is left out.
    pub fn reach(&self, seq: u64) -> u64 {
        match self {
            Edit::Elided { by, .. } => seq.saturating_add(u64::from(*by)),
            _ => seq,
        }
    }

    /// Whether it is a write without its value.
    pub fn is_elided(&self) -> bool {
        matches!(self, Edit::Elided { .. })
    }

    /// The dots that it removes from the register.
    pub fn overwrites(&self) -> &[D] {
        match self {
            Edit::Write { supersedes: dots, .. }
            | Edit::Erase { dots }
            | Edit::Elided { supersedes: dots, .. } => dots,
            _ => &[],
        }
    }
}
