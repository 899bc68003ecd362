//! The audit of memory: whether cells still are what their fingerprints say. What is
//! not has rotted, and is taken anew from a peer: see `session`.

use super::cells::{Cells, Changing};
use super::fingerprint::{Fingerprint, Prefix, Rows, Span};
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

    /// Those buckets that some ranges lie in whose cells are not what their fingerprints say.
    pub(super) fn rotten_within(&self, spans: &[Span]) -> Vec<Prefix> {
        self.cells.starts(spans).into_iter().filter_map(|at| self.audit(at).rotten).collect()
    }

    /// Counts anew what is kept in sums, after cells that cannot be trusted have gone.
    pub(super) fn recount_sums(&mut self) {
        self.cells.rebuild_fingerprints();
        let mut tallies = Tallies::default();
        self.cells.iter().for_each(|cells| tallies.replace(&Shape::default(), &Shape::of(cells)));
        self.tallies = tallies;
    }
}

/// Damage on purpose, to see that it is found and mended. Only tests call this, so no program contains it.
#[doc(hidden)]
impl State {
    /// Flips a bit of a value in memory behind the fingerprints' back.
    pub fn rot(&mut self, key: &[u8]) -> bool {
        let hash = self.position(key);
        self.cells.get_mut(hash, key).is_some_and(Cells::rot)
    }

    /// Loses all cells of a key, and the fingerprints go along.
    pub fn lose(&mut self, key: &[u8]) -> bool {
        let hash = self.position(key);
        self.snapshots.before_change(&self.cells, hash);
        let Some(lost) = self.cells.remove(hash, key) else { return false };
        self.tallies.replace(&Shape::of(&lost), &Shape::default());
        self.cells.note_change(hash, lost.fingerprint(), Fingerprint::default());
        true
    }

    /// Flips a bit of a value, and the fingerprints go along.
    pub fn alter(&mut self, key: &[u8]) -> bool {
        let hash = self.position(key);
        self.snapshots.before_change(&self.cells, hash);
        let rows = Rows { key: self.hash_key, tags: &self.tags };
        let Some(cells) = self.cells.get_mut(hash, key) else { return false };
        let before = cells.fingerprint();
        let Some(mut version) = cells.register().versions().first().cloned() else { return false };
        let Some(byte) = version.value.first_mut() else { return false };
        *byte ^= 1;
        let mut changing = Changing::new(cells, rows, hash);
        changing.remove_version(version.dot);
        changing.insert_version(version);
        let after = changing.finish().fingerprint();
        self.cells.note_change(hash, before, after);
        true
    }
}

#[doc(hidden)]
impl super::replica::Replica {
    /// The state, to damage it.
    pub fn damage(&mut self) -> &mut State {
        &mut self.state
    }
}
