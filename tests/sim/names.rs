//! Actors by short numbers that all nodes share, and version vectors over them.

use std::collections::BTreeMap;

use tidings::core::actors::ActorIx;
use tidings::core::state::State;
use tidings_proto::Actor;

/// An actor, by when the world first heard of it.
pub type Ax = usize;

/// One write.
pub type Dot = (Ax, u64);

/// By actor: the greatest number of the contiguous prefix seen.
pub type Seen = Vec<u64>;

pub fn at(seen: &[u64], actor: Ax) -> u64 {
    seen.get(actor).copied().unwrap_or(0)
}

pub fn raise(seen: &mut Seen, actor: Ax, seq: u64) {
    if seen.len() <= actor {
        seen.resize(actor + 1, 0);
    }
    seen[actor] = seen[actor].max(seq);
}

/// Whether all of `small` is in `large`.
pub fn within(small: &[u64], large: &[u64]) -> bool {
    small.iter().enumerate().all(|(actor, seq)| *seq <= at(large, actor))
}

/// Equal, but for zeros at the end.
pub fn equal(a: &[u64], b: &[u64]) -> bool {
    within(a, b) && within(b, a)
}

/// All actors of a world.
#[derive(Debug, Default)]
pub struct Names {
    list: Vec<Actor>,
    places: BTreeMap<Actor, Ax>,
}

impl Names {
    pub fn of(&mut self, actor: &Actor) -> Ax {
        if let Some(ax) = self.places.get(actor) {
            return *ax;
        }
        self.list.push(actor.clone());
        self.places.insert(actor.clone(), self.list.len() - 1);
        self.list.len() - 1
    }

    pub fn get(&self, ax: Ax) -> &Actor {
        &self.list[ax]
    }

    pub fn find(&self, actor: &Actor) -> Option<Ax> {
        self.places.get(actor).copied()
    }

    /// Extends a translation from a state's own numbering, which only grows.
    pub fn extend(&mut self, places: &mut Vec<Ax>, state: &State) {
        for ix in places.len()..state.actors().len() {
            places.push(self.of(state.actors().get(ActorIx(ix as u32))));
        }
    }

    pub fn seen(&self, places: &[Ax], state: &State) -> Seen {
        let mut seen = vec![0; self.list.len()];
        for (ix, ax) in places.iter().enumerate() {
            seen[*ax] = state.seen(ActorIx(ix as u32));
        }
        seen
    }

    /// A vector in words: only what is not in `but`.
    pub fn tell(&self, seen: &[u64], but: &[u64]) -> String {
        let more = (0..seen.len()).filter(|ax| seen[*ax] > at(but, *ax));
        let words: Vec<String> =
            more.map(|ax| format!("{}:{}..={}", self.list[ax], at(but, ax) + 1, seen[ax])).collect();
        if words.is_empty() { "nothing".into() } else { words.join(", ") }
    }
}
