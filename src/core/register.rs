//! The LWW register: concurrent versions, of which readers see the latest.

use smallvec::SmallVec;
use tidings_proto::Stamp;

use super::actors::{Actors, ShortDot};
use super::mutant::{self, Mutant};

/// One live version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The write that made it.
    pub dot: ShortDot,
    /// When, by its author's clock.
    pub stamp: Stamp,
    /// The value.
    pub value: Box<[u8]>,
}

/// The versions of a register that no known write has superseded: at most one
/// per actor, since a write supersedes what its author has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Register(SmallVec<[Version; 1]>);

impl Register {
    /// Whether there is no version.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The versions, in no order that means anything.
    pub fn versions(&self) -> &[Version] {
        &self.0
    }

    /// The version that readers see: the greatest by (stamp, actor, number).
    pub fn winner(&self, actors: &Actors) -> Option<&Version> {
        match self.0.as_slice() {
            [] => None,
            [only] => Some(only),
            many if mutant::is(Mutant::TiesUnbroken) => many.iter().max_by_key(|v| v.stamp),
            many => many.iter().max_by_key(|v| (v.stamp, actors.get(v.dot.actor()), v.dot.seq())),
        }
    }

    pub(super) fn insert(&mut self, version: Version) {
        debug_assert!(self.0.iter().all(|v| v.dot != version.dot), "a dot is issued once");
        self.0.push(version);
    }

    /// Takes the version of that dot out, if there is one.
    pub(super) fn remove(&mut self, dot: ShortDot) -> Option<Version> {
        let found = self.0.iter().position(|v| v.dot == dot);
        found.map(|at| self.0.swap_remove(at))
    }

    /// Flips a bit of the first value: see `State::rot`.
    pub(super) fn rot(&mut self) -> bool {
        self.0.first_mut().and_then(|version| version.value.first_mut()).map(|byte| *byte ^= 1).is_some()
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Version) -> bool) {
        self.0.retain(|v| keep(v));
    }
}
