//! The audit of memory: whether cells still are what their fingerprints say. What is
//! not has rotted, and is taken anew from a peer: see `session`.

use super::fingerprint::{Fingerprint, Prefix, Rows};
use super::state::State;
use super::table::Named;
use super::view::{Shape, Tallies};

/// What the audit of one bucket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audited {
    /// Where to go on; none if this was the last.
    pub next: Option<u64>,
    /// How many keys it holds.
    pub keys: u64,
    /// The bucket, if its cells are not what their fingerprints say.
    pub rotten: Option<Prefix>,
}

impl State {
    /// Audits the bucket at a position: every row is hashed anew. One bucket's work.
    pub fn audit(&self, position: u64) -> Audited {
        let bucket = self.cells.prefix(position);
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        let (mut sum, mut sound) = (Fingerprint::default(), true);
        for (position, cells) in self.cells.bucket(position) {
            let row = rows.cells(position, cells);
            // A key that has changed hashes to another place.
            sound &= bucket.span().contains(position) && row == cells.fingerprint();
            sum = sum + row;
        }
        sound &= sum == self.cells.fingerprint(bucket);
        Audited { next: bucket.span().end.checked_add(1), keys: sum.keys, rotten: (!sound).then_some(bucket) }
    }

    /// Counts anew what is kept in sums, after cells that cannot be trusted have gone.
    pub(super) fn recount_sums(&mut self) {
        self.cells.rebuild_fingerprints();
        let mut tallies = Tallies::default();
        self.cells.iter().for_each(|cells| tallies.replace(&Shape::default(), &Shape::of(cells)));
        self.tallies = tallies;
    }

    /// Flips a bit of a value in memory behind the fingerprints' back, to see that the audit finds it.
    #[cfg(any(test, feature = "mutants"))]
    pub fn rot(&mut self, key: &[u8]) -> bool {
        let hash = self.position(key);
        self.cells.get_mut(hash, key).is_some_and(super::cells::Cells::rot)
    }
}

impl super::replica::Replica {
    /// See [`State::rot`].
    #[cfg(any(test, feature = "mutants"))]
    pub fn rot(&mut self, key: &[u8]) -> bool {
        self.state.rot(key)
    }
}
