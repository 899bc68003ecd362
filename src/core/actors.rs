//! Actors by short numbers, and dots that fit a machine word.

use std::collections::BTreeMap;
use std::fmt;

use tidings_proto::Actor;

use super::bounds;

/// An actor's place in a replica's table. Means nothing outside that replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorIx(pub u32);

impl ActorIx {
    /// The place as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ActorIx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

const SEQ_BITS: u32 = 44;

/// A dot in one word: 20 bits of actor, 44 bits of number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortDot(u64);

impl ShortDot {
    /// # Panics
    /// If the number is beyond 44 bits: the border refuses such numbers.
    pub fn new(actor: ActorIx, seq: u64) -> Self {
        assert!(seq <= bounds::SEQ && (actor.0 as usize) < bounds::ACTORS, "a dot that does not fit");
        Self(u64::from(actor.0) << SEQ_BITS | seq)
    }

    /// Whose write.
    pub fn actor(self) -> ActorIx {
        ActorIx((self.0 >> SEQ_BITS) as u32)
    }

    /// Which of its writes.
    pub fn seq(self) -> u64 {
        self.0 & bounds::SEQ
    }
}

impl fmt::Debug for ShortDot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.actor(), self.seq())
    }
}

/// No room for another actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {} actors have written; nothing was changed", bounds::ACTORS)]
pub struct TooManyActors;

/// The actors that a replica knows.
#[derive(Debug, Clone, Default)]
pub struct Actors {
    list: Vec<Actor>,
    places: BTreeMap<Actor, ActorIx>,
}

impl Actors {
    /// The place of `actor`, given a new one if it had none.
    pub fn intern(&mut self, actor: &Actor) -> Result<ActorIx, TooManyActors> {
        if let Some(&ix) = self.places.get(actor) {
            return Ok(ix);
        }
        if self.list.len() == bounds::ACTORS {
            return Err(TooManyActors);
        }
        let ix = ActorIx(self.list.len() as u32);
        self.list.push(actor.clone());
        self.places.insert(actor.clone(), ix);
        Ok(ix)
    }

    /// The place of `actor`, if it has one.
    pub fn find(&self, actor: &Actor) -> Option<ActorIx> {
        self.places.get(actor).copied()
    }

    /// The actor at a place.
    pub fn get(&self, ix: ActorIx) -> &Actor {
        &self.list[ix.index()]
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All, in ascending order of actor, with their places.
    pub fn sorted(&self) -> impl Iterator<Item = (&Actor, ActorIx)> {
        self.places.iter().map(|(actor, &ix)| (actor, ix))
    }
}
