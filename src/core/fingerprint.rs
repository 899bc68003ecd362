//! Fingerprints: what two nodes compare to know whether they hold the same.
//!
//! Every *row* of the convergent state (a version, an add of an element, a half of
//! a counter's part, a parked removal) is hashed to 128 bits under a key that the
//! realm shares and clients do not know. The fingerprint of a range of keys is the
//! sum of its rows modulo 2^128 (not their XOR: equal rows must not cancel) with
//! the count of its keys. Ranges are those of leading bits of a key's position, so
//! they mean the same on every node, whatever its buckets.

use std::hash::Hasher;
use std::iter::Sum;
use std::ops::{Add, BitXor, Sub};

use siphasher::sip128::{Hasher128, SipHasher13};
use tidings_proto::cell::Tally;
use tidings_proto::op::Counter;

use super::actors::{ActorIx, ShortDot};
use super::cells::Cells;
use super::counter::Part;
use super::mutant::{self, Mutant};
use super::parked::{Removal, Target};
use super::register::Version;
use super::table::{HashKey, within_any};

/// A fingerprint: a sum of rows, and a count of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Fingerprint {
    low: u64,
    high: u64,
    /// How many keys.
    pub keys: u64,
}

impl Fingerprint {
    pub(super) fn new([low, high]: [u64; 2], keys: u64) -> Self {
        Self { low, high, keys }
    }

    pub(super) fn halves(&self) -> [u64; 2] {
        [self.low, self.high]
    }

    /// The sum of the rows' hashes.
    pub fn sum(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// Half of the sum: enough to compare one range among many.
    pub fn short(&self) -> u64 {
        self.low
    }

    fn combine(self, other: Self, sums: fn(u128, u128) -> u128, keys: fn(u64, u64) -> u64) -> Self {
        let sums = if mutant::is(Mutant::FingerprintByXor) { u128::bitxor } else { sums };
        Self::from_parts(sums(self.sum(), other.sum()), keys(self.keys, other.keys))
    }

    fn from_parts(sum: u128, keys: u64) -> Self {
        Self { low: sum as u64, high: (sum >> 64) as u64, keys }
    }
}

impl Add for Fingerprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combine(other, u128::wrapping_add, u64::wrapping_add)
    }
}

impl Sub for Fingerprint {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.combine(other, u128::wrapping_sub, u64::wrapping_sub)
    }
}

impl Sum for Fingerprint {
    fn sum<I: Iterator<Item = Self>>(fingerprints: I) -> Self {
        fingerprints.fold(Self::default(), Add::add)
    }
}

/// Positions from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first.
    pub start: u64,
    /// The last.
    pub end: u64,
}

impl Span {
    /// All positions.
    pub const ALL: Self = Self { start: 0, end: u64::MAX };

    /// Whether a position is one of them.
    pub fn contains(&self, position: u64) -> bool {
        (self.start..=self.end).contains(&position)
    }
}

/// Ranges of positions under a key: what part of a state something is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    key: HashKey,
    /// In ascending order, apart from each other.
    spans: Vec<Span>,
}

impl Ranges {
    /// Those ranges of leading bits.
    pub fn new(key: HashKey, prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut spans: Vec<Span> = prefixes.into_iter().map(Prefix::span).collect();
        spans.sort_unstable();
        spans.dedup_by(|next, last| {
            let joins = last.end == u64::MAX || next.start <= last.end + 1;
            if joins {
                last.end = last.end.max(next.end);
            }
            joins
        });
        Self { key, spans }
    }

    /// Those positions, as they were told to a disk.
    pub fn from_spans(key: HashKey, spans: Vec<Span>) -> Option<Self> {
        let ordered = spans.windows(2).all(|pair| pair[0].end < pair[1].start);
        let each = spans.iter().all(|span| span.start <= span.end);
        (ordered && each).then_some(Self { key, spans })
    }

    /// The key under which positions are meant.
    pub fn key(&self) -> HashKey {
        self.key
    }

    /// The positions.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether a position is in one of them.
    pub fn contains(&self, position: u64) -> bool {
        within_any(&self.spans, position)
    }
}

/// All positions that begin with certain bits: a node of the binary tree over all
/// positions, numbered as in a heap. The root is 1, the halves of n are 2n and 2n + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(u64);

/// Most leading bits that a range is told by.
pub const DEEPEST: u32 = 60;

impl Prefix {
    /// All positions.
    pub const ROOT: Self = Self(1);

    /// The range of that many leading bits in which a position lies.
    pub fn of(position: u64, depth: u32) -> Self {
        Self(1 << depth | position.checked_shr(64 - depth).unwrap_or(0))
    }

    /// By its number; none if there is no such range.
    pub fn numbered(number: u64) -> Option<Self> {
        (number > 0 && number.ilog2() <= DEEPEST).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// How many leading bits its positions share.
    pub fn depth(self) -> u32 {
        self.0.ilog2()
    }

    /// Whether there are ranges so much smaller.
    pub fn has_parts(self) -> bool {
        self.depth() + 4 <= DEEPEST
    }

    /// Its positions.
    pub fn span(self) -> Span {
        let depth = self.depth();
        let start = (self.0 ^ 1 << depth).checked_shl(64 - depth).unwrap_or(0);
        Span { start, end: start | u64::MAX.checked_shr(depth).unwrap_or(0) }
    }

    /// Its sixteen parts, in order. Not of the deepest: see [`Prefix::has_parts`].
    pub fn parts(self) -> impl Iterator<Item = Self> {
        (0..16).map(move |n| Self(self.0 << 4 | n))
    }
}

/// The sums over a binary tree of ranges whose leaves are a table's buckets.
#[derive(Debug, Clone, Default)]
pub struct FingerprintTree {
    /// By number of the range.
    nodes: Vec<Fingerprint>,
}

impl FingerprintTree {
    /// The fingerprint of a range that is a bucket or consists of buckets.
    pub fn get(&self, range: Prefix) -> Fingerprint {
        self.nodes.get(range.0 as usize).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, leaf: Prefix, change: Fingerprint) {
        let mut at = leaf.0 as usize;
        if self.nodes.len() <= at {
            self.nodes.resize((at + 1).next_power_of_two(), Fingerprint::default());
        }
        while at > 0 {
            self.nodes[at] = self.nodes[at] + change;
            at >>= 1;
        }
    }

    /// Sets a half of a leaf that has been split; the sum above stays what it was.
    pub(super) fn set(&mut self, half: Prefix, fingerprint: Fingerprint) {
        let at = half.0 as usize;
        if self.nodes.len() <= at {
            self.nodes.resize((at + 1).next_power_of_two(), Fingerprint::default());
        }
        self.nodes[at] = fingerprint;
    }
}

fn parts(dot: ShortDot) -> (ActorIx, u64) {
    (dot.actor(), dot.seq())
}

/// Hashes rows.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The realm's key.
    pub key: HashKey,
    /// By actor place: a hash of its name, the same on every node.
    pub tags: &'a [u64],
}

/// What kind of row a hash is of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Version = 1,
    Member,
    Contribution,
    Baseline,
    ParkedVersion,
    ParkedMember,
    ParkedSet,
}

impl Rows<'_> {
    fn row(
        &self,
        kind: Kind,
        position: u64,
        (actor, seq): (ActorIx, u64),
        words: &[u64],
        bytes: &[u8],
    ) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        let tag = self.tags[actor.index()];
        for word in [kind as u64, position, tag, seq].iter().chain(words) {
            hasher.write(&word.to_le_bytes());
        }
        hasher.write(bytes);
        let hash = hasher.finish128();
        Fingerprint { low: hash.h1, high: hash.h2, keys: 0 }
    }

    /// A version of the register of the key at a position.
    pub fn version(&self, position: u64, version: &Version) -> Fingerprint {
        self.row(Kind::Version, position, parts(version.dot), &[version.stamp.0], &version.value)
    }

    /// An add that holds an element in the set of the key at a position.
    pub fn member(&self, position: u64, element: &[u8], dot: ShortDot) -> Fingerprint {
        let element = if mutant::is(Mutant::FingerprintByXor) { &[] } else { element };
        self.row(Kind::Member, position, parts(dot), &[], element)
    }

    /// One actor's part of a counter of the key at a position.
    pub fn part(&self, position: u64, counter: Counter, part: &Part) -> Fingerprint {
        let half = |kind, tally: Option<&Tally>| {
            let Some(tally) = tally else { return Fingerprint::default() };
            let halves = |sum: u128| [sum as u64, (sum >> 64) as u64];
            let ([p, p_high], [n, n_high]) = (halves(tally.p), halves(tally.n));
            let birth = (part.actor, tally.birth);
            self.row(kind, position, birth, &[counter as u64, p, p_high, n, n_high], &[])
        };
        let baseline = part.baseline.as_deref().filter(|_| !mutant::is(Mutant::FingerprintWithoutR));
        half(Kind::Contribution, part.contribution.as_ref()) + half(Kind::Baseline, baseline)
    }

    /// A parked removal.
    pub fn parked(&self, dot: ShortDot, removal: &Removal) -> Fingerprint {
        if mutant::is(Mutant::FingerprintWithoutR) {
            return Fingerprint::default();
        }
        let (kind, element) = match &removal.target {
            Target::Register => (Kind::ParkedVersion, &[][..]),
            Target::Member(element) => (Kind::ParkedMember, &element[..]),
            Target::Set => (Kind::ParkedSet, &[][..]),
        };
        self.row(kind, self.key.hash(&removal.key), parts(dot), &[], element)
    }

    /// All cells of a key, from scratch.
    pub fn cells(&self, position: u64, cells: &Cells) -> Fingerprint {
        let versions = cells.register().versions().iter().map(|version| self.version(position, version));
        let members = cells.set().into_iter().flat_map(|set| set.members());
        let members = members.flat_map(|member| member.dots().iter().map(|dot| (member.element(), *dot)));
        let members = members.map(|(element, dot)| self.member(position, element, dot));
        let parts = [Counter::G, Counter::Pn].into_iter().flat_map(|counter| {
            let parts = cells.counter(counter).into_iter().flat_map(|parts| parts.iter());
            parts.map(move |part| self.part(position, counter, part))
        });
        versions.chain(members).chain(parts).sum::<Fingerprint>() + Fingerprint::new([0; 2], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As proto/SPEC.md has it: worked out once, never to be changed.
    #[test]
    fn rows_hash_to_what_they_always_did() {
        let key = HashKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let rows = Rows { key, tags: &[0x1122_3344_5566_7788] };
        let dot = ShortDot::new(ActorIx(0), 5);
        let version = Version { dot, stamp: tidings_proto::Stamp(9), value: b"value"[..].into() };
        let tally = Tally { birth: 3, p: 1 << 70, n: 2 };
        let part = Part { actor: ActorIx(0), contribution: Some(tally), baseline: Some(Box::new(tally)) };
        let removal = |target| Removal { key: b"key"[..].into(), target };
        let sums = [
            rows.version(7, &version),
            rows.member(7, b"element", dot),
            rows.part(7, Counter::Pn, &part),
            rows.parked(dot, &removal(Target::Register)),
            rows.parked(dot, &removal(Target::Member(b"element"[..].into()))),
            rows.parked(dot, &removal(Target::Set)),
        ]
        .map(|row| row.sum());
        assert_eq!(key.hash(b"order"), 13_696_401_201_864_701_539);
        let expected = [
            0x3f51_b6c6_8db6_6374_53cf_1471_515b_0025,
            0xdc03_2e06_f5d8_2ee1_bbad_173e_b481_d5e3,
            0x5356_bf24_2813_732c_e5ed_d829_1cb5_dc2a,
            0x1712_40f6_617e_475c_9df9_88d2_7a05_fbca,
            0x991d_15a5_6437_1c7a_ad93_3958_4951_beb6,
            0x0392_2a37_3860_32ed_e0b3_c3ea_5270_6c5a,
        ];
        assert_eq!(sums, expected);
    }

    #[test]
    fn prefixes_are_a_tree_over_all_positions() {
        assert_eq!(Prefix::ROOT.span(), Span::ALL);
        let parts: Vec<Span> = Prefix::ROOT.parts().map(Prefix::span).collect();
        assert_eq!((parts[0].start, parts[15].end), (0, u64::MAX));
        assert!(parts.windows(2).all(|pair| pair[0].end + 1 == pair[1].start));
        for position in [0, 1, 0xdead_beef_0000_0000, u64::MAX] {
            for depth in [0, 1, 7, 32, 60] {
                let prefix = Prefix::of(position, depth);
                assert!(prefix.depth() == depth && prefix.span().contains(position));
                assert_eq!(Prefix::numbered(prefix.number()), Some(prefix));
            }
        }
        assert_eq!(Prefix::numbered(0), None);
        assert_eq!(Prefix::numbered(1 << 61), None);
    }

    #[test]
    fn ranges_join_where_they_meet() {
        let key = HashKey(1, 2);
        let parts: Vec<Prefix> = Prefix::ROOT.parts().collect();
        assert_eq!(Ranges::new(key, parts.clone()).spans(), [Span::ALL]);
        let ranges = Ranges::new(key, [parts[9], parts[3], parts[4], parts[3]]);
        assert_eq!(ranges.spans().len(), 2);
        assert_eq!(ranges.spans()[0], Span { start: parts[3].span().start, end: parts[4].span().end });
        assert!(ranges.contains(parts[9].span().end) && !ranges.contains(parts[10].span().start));
        assert!(!ranges.contains(0));
        assert_eq!(Ranges::from_spans(key, ranges.spans().to_vec()), Some(ranges));
        assert_eq!(Ranges::from_spans(key, vec![Span { start: 2, end: 1 }]), None);
    }

    #[test]
    fn a_sum_does_not_lose_equal_rows() {
        let row = Fingerprint::from_parts(u128::MAX / 3, 1);
        assert_ne!(row + row, Fingerprint::new([0; 2], 2));
        assert_eq!(row + row - row, row);
        assert_eq!(Fingerprint::default() - row + row, Fingerprint::default());
    }
}
