//! The oracle: which writes must stand, from what every writer had seen.
//!
//! It knows users' writes and contexts, and nothing of supersedes lists, births
//! or baselines. It has two answers. [`History::settled`] holds where nothing is
//! missing between: a write stands unless one that had seen it removed it.
//! [`History::stand`] holds at any version vector, also where ops between are
//! missing: a removal takes what stood before its author's eyes, no more, and a
//! removal of what has not arrived waits for it.

use std::collections::{BTreeMap, BTreeSet};

use tidings_proto::cell::ParkedTarget;
use tidings_proto::{Actor, Counter, Seen, Stamp};

use crate::dump::{Bytes, Dot, Parked, Stand, Standing};

/// What an op does, in a user's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A register's value; takes all else of the key.
    Write(Bytes),
    /// Takes all of the key.
    Delete,
    Add(Vec<Bytes>),
    Remove(Vec<Bytes>),
    Count(Counter, i128),
    /// An owner's word that its own increments so far are gone.
    Close(Counter),
}

#[derive(Debug, Clone)]
struct Effect {
    stamp: Stamp,
    key: Bytes,
    what: What,
    /// What its author had seen.
    context: Seen,
    /// The dots that it takes, and of which cells; of a whole set, all of an actor up to that one.
    takes: Vec<(ParkedTarget, Dot)>,
    /// Whose increments it takes, up to which number.
    takes_sums: Vec<(Counter, Actor, u64)>,
}

impl Effect {
    /// Whether it takes the register, the counters and all elements.
    fn takes_key(&self) -> bool {
        matches!(self.what, What::Write(_) | What::Delete)
    }

    fn takes_element(&self, element: &Bytes) -> bool {
        match &self.what {
            What::Add(elements) | What::Remove(elements) => elements.contains(element),
            _ => self.takes_key(),
        }
    }
}

/// All ops that were ever written.
#[derive(Debug, Clone, Default)]
pub struct History {
    effects: BTreeMap<Dot, Effect>,
}

impl History {
    pub fn record(&mut self, dot: Dot, stamp: Stamp, key: &[u8], what: What, context: Seen) {
        let (author, seq) = &dot;
        let (stand, _) = self.stand(&context);
        let seen = stand.get(key).cloned().unwrap_or_default();
        let key = key.to_vec();
        let mut effect = Effect { stamp, key, what, context, takes: Vec::new(), takes_sums: Vec::new() };
        if effect.takes_key() {
            effect.takes.extend(seen.versions.iter().map(|(dot, ..)| (ParkedTarget::Register, dot.clone())));
            let mut upto: BTreeMap<&Actor, u64> = BTreeMap::new();
            for (actor, seq) in seen.members.values().flatten() {
                let greatest = upto.entry(actor).or_default();
                *greatest = (*greatest).max(*seq);
            }
            effect.takes.extend(upto.into_iter().map(|(a, seq)| (ParkedTarget::Set, (a.clone(), seq))));
        } else {
            let named = seen.members.iter().filter(|(element, _)| effect.takes_element(element));
            let dots =
                named.flat_map(|(element, dots)| dots.iter().map(|dot| (member(element), dot.clone())));
            let takes: Vec<_> = dots.collect();
            effect.takes = takes;
        }
        for counter in [Counter::G, Counter::Pn] {
            let own = (counter, author.clone(), seq - 1);
            if effect.takes_key() {
                let others = seen.sums.keys().filter(|(c, actor)| *c == counter && actor != author);
                effect
                    .takes_sums
                    .extend(others.map(|(_, actor)| (counter, actor.clone(), effect.context.get(actor))));
                effect.takes_sums.push(own);
            } else if effect.what == What::Close(counter)
                // An increment after all before it are gone says that they are.
                || matches!(effect.what, What::Count(c, _) if c == counter)
                    && !seen.sums.contains_key(&(counter, author.clone()))
            {
                effect.takes_sums.push(own);
            }
        }
        assert!(self.effects.insert(dot, effect).is_none(), "a dot is issued once");
    }

    /// What must stand where exactly these have been seen, and what must wait.
    pub fn stand(&self, seen: &Seen) -> (Stand, BTreeSet<Parked>) {
        let here = |dot: &Dot| dot.1 <= seen.get(&dot.0);
        let present: Vec<_> = self.effects.iter().filter(|(dot, _)| here(dot)).collect();
        let mut taken: BTreeSet<Parked> = BTreeSet::new();
        let mut sums: BTreeMap<(&Bytes, Counter, &Actor), u64> = BTreeMap::new();
        let mut sets: BTreeMap<(&Bytes, Actor), u64> = BTreeMap::new();
        for (_, effect) in &present {
            let takes = effect.takes.iter().cloned();
            for (target, dot) in takes {
                if target == ParkedTarget::Set {
                    let upto = sets.entry((&effect.key, dot.0.clone())).or_default();
                    *upto = (*upto).max(dot.1);
                }
                taken.insert((effect.key.clone(), target, dot));
            }
            for (counter, actor, last) in &effect.takes_sums {
                let upto = sums.entry((&effect.key, *counter, actor)).or_default();
                *upto = (*upto).max(*last);
            }
        }
        let stand = collect(
            &present,
            |key, element, dot| {
                let emptied = sets.get(&(key, dot.0.clone())).is_some_and(|upto| dot.1 <= *upto);
                let target = element.map_or(ParkedTarget::Register, member);
                element.is_some() && emptied || taken.contains(&(key.clone(), target, dot.clone()))
            },
            |key, counter, dot| sums.get(&(key, counter, &dot.0)).is_some_and(|last| dot.1 <= *last),
        );
        (stand, taken.into_iter().filter(|(_, _, dot)| !here(dot)).collect())
    }

    /// What must stand where these have been seen; none where something between
    /// is missing, which may stay so if its only holder lost it.
    pub fn settled(&self, seen: &Seen) -> Option<Stand> {
        let here = |dot: &Dot| dot.1 <= seen.get(&dot.0);
        let present: Vec<_> = self.effects.iter().filter(|(dot, _)| here(dot)).collect();
        if !present.iter().all(|(_, effect)| effect.context <= *seen) {
            return None;
        }
        let saw = |effect: &Effect, key: &Bytes, dot: &Dot| {
            effect.key == *key && dot.1 <= effect.context.get(&dot.0)
        };
        Some(collect(
            &present,
            |key, element, dot| {
                present.iter().any(|(_, effect)| {
                    let takes = element.map_or_else(|| effect.takes_key(), |e| effect.takes_element(e));
                    takes && saw(effect, key, dot)
                })
            },
            |key, _, dot| present.iter().any(|(_, effect)| effect.takes_key() && saw(effect, key, dot)),
        ))
    }
}

fn collect(
    present: &[(&Dot, &Effect)],
    is_taken: impl Fn(&Bytes, Option<&Bytes>, &Dot) -> bool,
    is_counted_out: impl Fn(&Bytes, Counter, &Dot) -> bool,
) -> Stand {
    let mut stand = Stand::new();
    for &(dot, Effect { stamp, key, what, .. }) in present {
        let mut at = |change: &dyn Fn(&mut Standing)| change(stand.entry(key.clone()).or_default());
        match what {
            What::Write(value) if !is_taken(key, None, dot) => at(&|standing| {
                standing.versions.insert((dot.clone(), *stamp, value.clone()));
            }),
            What::Add(elements) => {
                for element in elements.iter().filter(|element| !is_taken(key, Some(element), dot)) {
                    at(&|standing| {
                        standing.members.entry(element.clone()).or_default().insert(dot.clone());
                    });
                }
            }
            &What::Count(counter, by) if !is_counted_out(key, counter, dot) => at(&|standing| {
                let (p, n) = standing.sums.entry((counter, dot.0.clone())).or_default();
                *(if by > 0 { p } else { n }) += by.unsigned_abs();
            }),
            _ => {}
        }
    }
    stand
}

fn member(element: &Bytes) -> ParkedTarget {
    ParkedTarget::Member(element.clone().into())
}
