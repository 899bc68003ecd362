//! Removals that name a dot not yet seen, kept until that dot arrives.

use std::collections::{BTreeMap, BTreeSet};

use super::actors::{ActorIx, ShortDot};
use super::bounds;
use super::fingerprint::{Fingerprint, Rows};
use super::mutant::{self, Mutant};

/// What a removal is for. Counters need no parking: their baselines wait in the cell itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One dot of the key's register.
    Register,
    /// One dot of an element of the key's set.
    Member(Box<[u8]>),
    /// All dots of the actor up to that one, of all elements of the key's set.
    Set,
}

/// A removal that waits: of a dot, or of all dots up to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// The key.
    pub key: Box<[u8]>,
    /// Which of its cells.
    pub target: Target,
}

impl Removal {
    fn size(&self) -> usize {
        match &self.target {
            Target::Register | Target::Set => self.key.len(),
            Target::Member(element) => self.key.len() + element.len(),
        }
    }
}

/// How much may be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Removals.
    pub removals: usize,
    /// Bytes of the keys and elements that they name.
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { removals: bounds::PARKED, bytes: bounds::PARKED_BYTES }
    }
}

impl Room {
    /// What a merge may leave parked.
    pub(super) fn of_merges(self) -> Self {
        Self { removals: 2 * self.removals, bytes: 2 * self.bytes }
    }

    fn holds(self, removals: usize, bytes: usize) -> bool {
        removals <= self.removals && bytes <= self.bytes
    }
}

/// The parked removals: by dot and cell, because one op may make its dot live in
/// several cells. That of a whole set waits until all it covers has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parked {
    removals: BTreeMap<ShortDot, BTreeSet<Removal>>,
    /// By key and actor, up to where sets are emptied; the same removals once more.
    sets: BTreeMap<(Box<[u8]>, ActorIx), u64>,
    len: usize,
    bytes: usize,
    fingerprint: Fingerprint,
    /// What ops may park; merges may leave twice that.
    pub(super) room: Room,
}

impl Parked {
    /// How many removals are parked.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the keys and elements that they name.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether that many removals more, naming cells of that many bytes in all, can be parked.
    pub fn has_room(&self, more: usize, bytes: usize) -> bool {
        self.room.holds(self.len + more, self.bytes + bytes)
    }

    /// Whether what would still be parked after a union with others has room, where
    /// `waits` says which dots will not have been seen: what the union settles needs none.
    pub(super) fn has_room_beside<'a>(
        &'a self,
        others: impl Iterator<Item = (ShortDot, &'a Removal)>,
        waits: impl Fn(ShortDot) -> bool,
    ) -> bool {
        let new = others.filter(|(dot, r)| !self.removals.get(dot).is_some_and(|ours| ours.contains(*r)));
        let left = self.iter().chain(new).filter(|(dot, _)| waits(*dot));
        let (removals, bytes) = left.fold((0, 0), |(n, bytes), (_, r)| (n + 1, bytes + r.size()));
        self.room.of_merges().holds(removals, bytes)
    }

    /// The fingerprint of all of them.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Parks a removal of a dot, or of all up to it.
    pub(super) fn park(&mut self, rows: Rows<'_>, dot: ShortDot, removal: Removal) {
        if removal.target == Target::Set {
            let upto = self.sets.entry((removal.key.clone(), dot.actor())).or_default();
            *upto = dot.seq().max(*upto);
        }
        let (size, fingerprint) = (removal.size(), rows.parked(dot, &removal));
        if self.removals.entry(dot).or_default().insert(removal) {
            self.bytes += size;
            self.len += 1;
            self.fingerprint = self.fingerprint + fingerprint;
        }
    }

    /// Whether a removal of the dot from that cell is parked: of an element of
    /// the key's set, or without one of its register.
    pub fn holds(&self, dot: ShortDot, key: &[u8], element: Option<&[u8]>) -> bool {
        if self.is_empty() {
            return false;
        }
        if mutant::is(Mutant::ParkedByDot) {
            return self.removals.contains_key(&dot);
        }
        let target = match element {
            None => Target::Register,
            Some(element) => Target::Member(element.into()),
        };
        let emptied = || self.sets.get(&(key.into(), dot.actor())).is_some_and(|upto| dot.seq() <= *upto);
        let removal = Removal { key: key.into(), target };
        self.removals.get(&dot).is_some_and(|removals| removals.contains(&removal))
            || element.is_some() && emptied()
    }

    /// Forgets the removals of one dot, or up to it: it has arrived.
    pub(super) fn settle(&mut self, rows: Rows<'_>, dot: ShortDot) {
        if self.is_empty() {
            return;
        }
        for removal in self.removals.remove(&dot).into_iter().flatten() {
            self.bytes -= removal.size();
            self.len -= 1;
            self.fingerprint = self.fingerprint - rows.parked(dot, &removal);
            if removal.target == Target::Set {
                let name = (removal.key, dot.actor());
                if self.sets.get(&name) == Some(&dot.seq()) {
                    self.sets.remove(&name);
                }
            }
        }
    }

    /// Forgets all removals of dots that have been seen.
    pub(super) fn settle_seen(&mut self, rows: Rows<'_>, seen: impl Fn(ActorIx) -> u64) {
        self.removals.retain(|dot, _| dot.seq() > seen(dot.actor()));
        self.sets.retain(|(_, actor), upto| *upto > seen(*actor));
        self.len = self.removals.values().map(BTreeSet::len).sum();
        self.bytes = self.removals.values().flatten().map(Removal::size).sum();
        self.fingerprint = self.iter().map(|(dot, removal)| rows.parked(dot, removal)).sum();
    }

    /// All, ordered by the replica's own numbering.
    pub fn iter(&self) -> impl Iterator<Item = (ShortDot, &Removal)> {
        self.removals.iter().flat_map(|(&dot, removals)| removals.iter().map(move |removal| (dot, removal)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::HashKey;

    const ROWS: Rows<'_> = Rows { key: HashKey(1, 2), tags: &[3] };

    fn dot(seq: u64) -> ShortDot {
        ShortDot::new(ActorIx(0), seq)
    }

    fn removal(target: Target) -> Removal {
        Removal { key: b"key"[..].into(), target }
    }

    #[test]
    fn a_removal_of_one_dot_is_for_that_dot_and_cell_alone() {
        let mut parked = Parked::default();
        parked.park(ROWS, dot(5), removal(Target::Member(b"m"[..].into())));
        assert!(parked.holds(dot(5), b"key", Some(b"m")));
        assert!(!parked.holds(dot(4), b"key", Some(b"m")));
        assert!(!parked.holds(dot(5), b"key", Some(b"n")));
        assert!(!parked.holds(dot(5), b"key", None));
        assert!(!parked.holds(dot(5), b"other", Some(b"m")));
        parked.settle(ROWS, dot(5));
        assert_eq!(parked, Parked::default());
    }

    #[test]
    fn a_removal_of_a_set_waits_until_all_it_covers_has_arrived() {
        let mut parked = Parked::default();
        parked.park(ROWS, dot(5), removal(Target::Set));
        parked.park(ROWS, dot(3), removal(Target::Set));
        for seq in 1..=5 {
            assert!(parked.holds(dot(seq), b"key", Some(b"any")), "{seq}");
            assert!(!parked.holds(dot(seq), b"key", None));
            parked.settle(ROWS, dot(seq));
        }
        assert_eq!(parked, Parked::default());
        parked.park(ROWS, dot(5), removal(Target::Set));
        assert!(!parked.holds(dot(6), b"key", Some(b"any")));
        parked.settle_seen(ROWS, |_| 7);
        assert_eq!(parked, Parked::default());
    }
}
