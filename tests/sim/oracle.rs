//! The oracle: which writes must stand, from what every author had seen.
//!
//! It knows users' writes and contexts, and nothing of supersedes lists, births or
//! baselines. [`History::stand`] holds at any version vector, also where ops between
//! are missing: a removal takes what stood before its author's eyes, no more, and a
//! removal of what has not arrived waits for it. [`History::settled`] says the same
//! another way where nothing is missing between: a write stands unless one that had
//! seen it removed it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tidings::core::parked::Target;
use tidings_proto::{Counter, Stamp};

use crate::names::{Ax, Dot, Seen, at, within};

pub type Bytes = Vec<u8>;
pub type Parked = (Bytes, Target, Dot);

/// What an op does, in a user's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A register's value; takes all else of the key.
    Write(Bytes),
    /// Takes all of the key.
    Delete,
    Add(BTreeSet<Bytes>),
    Remove(BTreeSet<Bytes>),
    Count(Counter, i128),
    /// An owner's word that its own increments so far are gone.
    Close(Counter),
}

impl What {
    /// Whether it takes the register, the counters and all elements.
    fn takes_key(&self) -> bool {
        matches!(self, What::Write(_) | What::Delete)
    }

    fn takes_element(&self, element: &Bytes) -> bool {
        match self {
            What::Add(elements) | What::Remove(elements) => elements.contains(element),
            _ => self.takes_key(),
        }
    }
}

/// What readers can see of a key, with the dots that hold it there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub versions: BTreeSet<(Dot, Stamp, Bytes)>,
    pub members: BTreeMap<Bytes, BTreeSet<Dot>>,
    /// By counter and actor: increments and decrements that no delete has observed.
    pub sums: BTreeMap<(Counter, Ax), (u128, u128)>,
}

/// By key, those of which anything stands.
pub type Stand = BTreeMap<Bytes, Standing>;

#[derive(Debug)]
struct Effect {
    dot: Dot,
    stamp: Stamp,
    what: What,
    context: Rc<Seen>,
    /// The dots that it takes, and of which cells; of a whole set, all of an actor up to that one.
    takes: Vec<(Target, Dot)>,
    /// Whose increments it takes, up to which number.
    takes_sums: Vec<(Counter, Ax, u64)>,
}

/// All ops that were ever written, by key.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<Bytes, Vec<Effect>>,
    issued: Seen,
    ops: usize,
}

impl History {
    /// How many ops there are.
    pub fn len(&self) -> usize {
        self.ops
    }

    /// The last number that an actor has issued.
    pub fn issued(&self, actor: Ax) -> u64 {
        at(&self.issued, actor)
    }

    /// Takes note of an op. A dot that is not the next of its actor was issued twice (I1).
    pub fn record(
        &mut self,
        dot: Dot,
        stamp: Stamp,
        key: &[u8],
        what: What,
        context: Rc<Seen>,
    ) -> Result<(), String> {
        let (author, seq) = dot;
        let last = self.issued(author);
        if seq != last + 1 {
            return Err(format!("I1: a dot is issued once, but number {seq} of an actor came after {last}"));
        }
        crate::names::raise(&mut self.issued, author, seq);
        self.ops += 1;
        let (standing, _) = self.stand_key(key, &context);
        let mut takes = Vec::new();
        if what.takes_key() {
            takes.extend(standing.versions.iter().map(|(dot, ..)| (Target::Register, *dot)));
            let mut upto: BTreeMap<Ax, u64> = BTreeMap::new();
            for (actor, seq) in standing.members.values().flatten() {
                let greatest = upto.entry(*actor).or_default();
                *greatest = (*greatest).max(*seq);
            }
            takes.extend(upto.into_iter().map(|dot| (Target::Set, dot)));
        } else {
            for (element, dots) in standing.members.iter().filter(|(element, _)| what.takes_element(element))
            {
                takes.extend(dots.iter().map(|dot| (member(element), *dot)));
            }
        }
        let mut takes_sums = Vec::new();
        for counter in [Counter::G, Counter::Pn] {
            let own = (counter, author, seq - 1);
            if what.takes_key() {
                let others = standing.sums.keys().filter(|(c, actor)| *c == counter && *actor != author);
                takes_sums.extend(others.map(|(_, actor)| (counter, *actor, at(&context, *actor))));
                takes_sums.push(own);
            } else if what == What::Close(counter)
                // An increment after all before it are gone says that they are.
                || matches!(what, What::Count(c, _) if c == counter)
                    && !standing.sums.contains_key(&(counter, author))
            {
                takes_sums.push(own);
            }
        }
        let effect = Effect { dot, stamp, what, context, takes, takes_sums };
        self.keys.entry(key.to_vec()).or_default().push(effect);
        Ok(())
    }

    /// What must stand where exactly these have been seen, and what must wait.
    pub fn stand(&self, seen: &[u64]) -> (Stand, BTreeSet<Parked>) {
        let (mut stand, mut parked) = (Stand::new(), BTreeSet::new());
        for key in self.keys.keys() {
            let (standing, waits) = self.stand_key(key, seen);
            parked.extend(waits.into_iter().map(|(target, dot)| (key.clone(), target, dot)));
            if standing != Standing::default() {
                stand.insert(key.clone(), standing);
            }
        }
        (stand, parked)
    }

    fn stand_key(&self, key: &[u8], seen: &[u64]) -> (Standing, BTreeSet<(Target, Dot)>) {
        let Some(effects) = self.keys.get(key) else { return Default::default() };
        let here = |dot: &Dot| dot.1 <= at(seen, dot.0);
        let present: Vec<&Effect> = effects.iter().filter(|effect| here(&effect.dot)).collect();
        let mut taken: BTreeSet<(Target, Dot)> = BTreeSet::new();
        let mut sets: BTreeMap<Ax, u64> = BTreeMap::new();
        let mut sums: BTreeMap<(Counter, Ax), u64> = BTreeMap::new();
        for effect in &present {
            for (target, dot) in &effect.takes {
                if *target == Target::Set {
                    let upto = sets.entry(dot.0).or_default();
                    *upto = (*upto).max(dot.1);
                }
                taken.insert((target.clone(), *dot));
            }
            for (counter, actor, last) in &effect.takes_sums {
                let upto = sums.entry((*counter, *actor)).or_default();
                *upto = (*upto).max(*last);
            }
        }
        let standing = collect(
            &present,
            |element, dot| {
                let emptied = sets.get(&dot.0).is_some_and(|upto| dot.1 <= *upto);
                let target = element.map_or(Target::Register, member);
                element.is_some() && emptied || taken.contains(&(target, dot))
            },
            |counter, dot| sums.get(&(counter, dot.0)).is_some_and(|last| dot.1 <= *last),
        );
        taken.retain(|(_, dot)| !here(dot));
        (standing, taken)
    }

    /// What must stand where these have been seen; none where something between
    /// is missing, which may stay so if its only holder lost it.
    pub fn settled(&self, seen: &[u64]) -> Option<Stand> {
        let here = |dot: &Dot| dot.1 <= at(seen, dot.0);
        let mut stand = Stand::new();
        for (key, effects) in &self.keys {
            let present: Vec<&Effect> = effects.iter().filter(|effect| here(&effect.dot)).collect();
            if !present.iter().all(|effect| within(&effect.context, seen)) {
                return None;
            }
            let saw = |effect: &Effect, dot: Dot| dot.1 <= at(&effect.context, dot.0);
            let standing = collect(
                &present,
                |element, dot| {
                    present.iter().any(|e| {
                        let takes = element.map_or_else(|| e.what.takes_key(), |m| e.what.takes_element(m));
                        takes && saw(e, dot)
                    })
                },
                |_, dot| present.iter().any(|e| e.what.takes_key() && saw(e, dot)),
            );
            if standing != Standing::default() {
                stand.insert(key.clone(), standing);
            }
        }
        Some(stand)
    }
}

fn member(element: &Bytes) -> Target {
    Target::Member(element[..].into())
}

fn collect(
    present: &[&Effect],
    is_taken: impl Fn(Option<&Bytes>, Dot) -> bool,
    is_counted_out: impl Fn(Counter, Dot) -> bool,
) -> Standing {
    let mut standing = Standing::default();
    for Effect { dot, stamp, what, .. } in present {
        match what {
            What::Write(value) if !is_taken(None, *dot) => {
                standing.versions.insert((*dot, *stamp, value.clone()));
            }
            What::Add(elements) => {
                for element in elements.iter().filter(|element| !is_taken(Some(element), *dot)) {
                    standing.members.entry(element.clone()).or_default().insert(*dot);
                }
            }
            &What::Count(counter, by) if !is_counted_out(counter, *dot) => {
                let (p, n) = standing.sums.entry((counter, dot.0)).or_default();
                *(if by > 0 { p } else { n }) += by.unsigned_abs();
            }
            _ => {}
        }
    }
    standing
}
