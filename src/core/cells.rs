//! The cells of one key, and the one way to change them, which keeps their fingerprint.

use tidings_proto::op::Counter;

use super::actors::{ActorIx, ShortDot};
use super::counter::{Part, Parts};
use super::fingerprint::{Fingerprint, Rows};
use super::register::{Register, Version};
use super::set::Set;
use super::table::Named;

/// The cells of one key, of all kinds.
#[derive(Debug, Clone)]
pub struct Cells {
    key: Box<[u8]>,
    register: Register,
    set: Option<Box<Set>>,
    pn: Option<Box<Parts>>,
    g: Option<Box<Parts>>,
    /// Sum of the rows' hashes: the low half, then the high one.
    sum: [u64; 2],
}

impl Named for Cells {
    const SUMMED: bool = true;

    fn name(&self) -> &[u8] {
        &self.key
    }

    /// That of a key in the table; of one without any cell it is none.
    fn fingerprint(&self) -> Fingerprint {
        if self.is_blank() { Fingerprint::default() } else { Fingerprint::new(self.sum, 1) }
    }
}

impl Cells {
    pub(super) fn new(key: &[u8]) -> Self {
        Self { key: key.into(), register: Register::default(), set: None, pn: None, g: None, sum: [0; 2] }
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The versions of the register.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The set, if it has elements.
    pub fn set(&self) -> Option<&Set> {
        self.set.as_deref()
    }

    /// One of the counters, if it has parts.
    pub fn counter(&self, counter: Counter) -> Option<&Parts> {
        match counter {
            Counter::Pn => self.pn.as_deref(),
            Counter::G => self.g.as_deref(),
        }
    }

    /// About how many bytes the cells take on the wire.
    pub(super) fn weight(&self) -> usize {
        let versions = self.register.versions().iter().map(|version| version.value.len() + 32);
        let members = self.set.iter().flat_map(|set| set.members());
        let members = members.map(|member| member.element().len() + 8 + 16 * member.dots().len());
        let parts = [&self.pn, &self.g].into_iter().flatten().flat_map(|parts| parts.iter()).map(|_| 128);
        self.key.len() + versions.chain(members).chain(parts).sum::<usize>()
    }

    /// Reads a little of what lies elsewhere: the key, and the value of a register.
    pub(super) fn touch(&self) -> u8 {
        let ends = |bytes: &[u8]| bytes.first().zip(bytes.last()).map_or(0, |(first, last)| first ^ last);
        ends(&self.key) ^ self.register.versions().first().map_or(0, |version| ends(&version.value))
    }

    /// About how many bytes the cells take in a block, without a look at each of them.
    pub(super) fn packed(&self) -> usize {
        let versions: usize = self.register.versions().iter().map(|version| version.value.len() + 16).sum();
        let parts = [&self.pn, &self.g].into_iter().flatten().map(|parts| 24 * parts.iter().count());
        let set = self.set.as_ref().map_or(0, |set| set.bytes());
        self.key.len() + 8 + versions + set + parts.sum::<usize>()
    }

    /// Whether a register is all there is.
    pub(super) fn is_register(&self) -> bool {
        self.set.is_none() && self.pn.is_none() && self.g.is_none()
    }

    /// About how many bytes of memory the cells take; 0 if there are none.
    pub(super) fn bytes(&self) -> u64 {
        if self.is_blank() {
            return 0;
        }
        let versions: usize = self.register.versions().iter().map(|version| version.value.len()).sum();
        let parts = [&self.pn, &self.g].into_iter().flatten().map(|parts| 128 * parts.iter().count());
        let set = self.set.as_ref().map_or(0, |set| set.bytes());
        (128 + self.key.len() + versions + set + parts.sum::<usize>()) as u64
    }

    /// Flips a bit of a value: see `State::rot`.
    pub(super) fn rot(&mut self) -> bool {
        self.register.rot()
    }

    /// Whether nothing at all is left.
    pub(super) fn is_blank(&self) -> bool {
        self.register.is_empty() && self.set.is_none() && self.pn.is_none() && self.g.is_none()
    }
}

/// Cells while they change.
#[derive(Debug)]
pub(super) struct Changing<'a> {
    cells: &'a mut Cells,
    rows: Rows<'a>,
    position: u64,
    sum: Fingerprint,
}

impl<'a> Changing<'a> {
    /// `position` is the key's; dots are those that `rows` knows the actors of.
    pub(super) fn new(cells: &'a mut Cells, rows: Rows<'a>, position: u64) -> Self {
        let sum = Fingerprint::new(cells.sum, 0);
        Self { cells, rows, position, sum }
    }

    /// The cells as they are now.
    pub(super) fn cells(&self) -> &Cells {
        self.cells
    }

    pub(super) fn insert_version(&mut self, version: Version) {
        self.sum = self.sum + self.rows.version(self.position, &version);
        self.cells.register.insert(version);
    }

    pub(super) fn remove_version(&mut self, dot: ShortDot) {
        if let Some(version) = self.cells.register.remove(dot) {
            self.sum = self.sum - self.rows.version(self.position, &version);
        }
    }

    pub(super) fn retain_versions(&mut self, keep: impl Fn(&Version) -> bool) {
        let Self { cells, rows, position, sum } = self;
        cells.register.retain(|version| {
            let keep = keep(version);
            if !keep {
                *sum = *sum - rows.version(*position, version);
            }
            keep
        });
    }

    pub(super) fn insert_member(&mut self, element: &[u8], dot: ShortDot) {
        self.sum = self.sum + self.rows.member(self.position, element, dot);
        let key = self.rows.key;
        self.cells.set.get_or_insert_with(|| Box::new(Set::new(key))).insert(element, dot);
    }

    pub(super) fn remove_member(&mut self, element: &[u8], dot: ShortDot) {
        if self.cells.set.as_deref_mut().is_some_and(|set| set.remove(element, dot)) {
            self.sum = self.sum - self.rows.member(self.position, element, dot);
        }
    }

    /// Drops the dots for which `keep` says no, and the elements with their last dot.
    pub(super) fn retain_members(&mut self, keep: impl Fn(&[u8], ShortDot) -> bool) {
        let Self { cells, rows, position, sum } = self;
        let Some(set) = cells.set.as_deref_mut() else { return };
        set.retain_dots(|element, dot| {
            let keep = keep(element, dot);
            if !keep {
                *sum = *sum - rows.member(*position, element, dot);
            }
            keep
        });
    }

    /// Changes one actor's part of a counter.
    pub(super) fn change_part(&mut self, counter: Counter, actor: ActorIx, change: impl FnOnce(&mut Part)) {
        let parts = match counter {
            Counter::Pn => self.cells.pn.get_or_insert_default(),
            Counter::G => self.cells.g.get_or_insert_default(),
        };
        let (rows, position) = (self.rows, self.position);
        let (before, after) = parts.change(actor, |part| {
            let before = rows.part(position, counter, part);
            change(part);
            (before, rows.part(position, counter, part))
        });
        self.sum = self.sum + after - before;
    }

    /// Drops containers that have become empty. The cells may then be blank, and
    /// must be taken out of their table.
    pub(super) fn finish(self) -> &'a mut Cells {
        let Self { cells, sum, .. } = self;
        cells.set.take_if(|set| set.is_empty());
        cells.pn.take_if(|parts| parts.is_empty());
        cells.g.take_if(|parts| parts.is_empty());
        cells.sum = sum.halves();
        cells
    }
}
