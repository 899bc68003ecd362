//! A map in hash order that grows without stalls.
//!
//! Items live in buckets, each of which owns a range of the hash space; a
//! directory finds the bucket by the hash's leading bits (extendible hashing:
//! Fagin et al., 1979). A bucket that grows full splits in two, so the most work
//! that one insert ever does is one bucket's. Items can be walked in the order
//! of their hashes: a position in that order stays good while the table grows.

use std::hash::Hasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::bounds;
use super::fingerprint::{Fingerprint, FingerprintTree, Prefix, Span};

/// The keyed hash that decides where a name lives. Clients choose the names, so
/// the key must not be known to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    /// The position of `name` in hash order.
    pub fn hash(self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(name);
        hasher.finish()
    }
}

/// Something with a name, kept in a [`Table`] by that name.
pub trait Named {
    /// Whether a table of these keeps the fingerprints of its ranges.
    const SUMMED: bool = false;

    /// The name.
    fn name(&self) -> &[u8];

    /// The fingerprint of this one item, if a table keeps them.
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::default()
    }
}

/// A map from names to items.
#[derive(Debug, Clone)]
pub struct Table<T> {
    key: HashKey,
    /// How many leading bits of a hash index the directory.
    depth: u32,
    directory: Vec<u32>,
    buckets: Vec<Bucket<T>>,
    len: usize,
    fingerprints: FingerprintTree,
    /// Items that a bucket gets room for with its first, and how many were given room in this way.
    ready: usize,
    given: usize,
}

#[derive(Debug, Clone)]
struct Bucket<T> {
    /// How many leading bits all hashes in this bucket share.
    depth: u32,
    /// The first hash of its range.
    start: u64,
    items: HashTable<T>,
}

impl<T> Bucket<T> {
    fn prefix(&self) -> Prefix {
        Prefix::of(self.start, self.depth)
    }

    fn span(&self) -> Span {
        self.prefix().span()
    }
}

/// The bucket last looked into, in hash order: for whoever asks for one small range after another.
#[derive(Debug)]
pub struct Lens<'a, T> {
    table: &'a Table<T>,
    bucket: Option<Prefix>,
    items: Vec<(u64, &'a T)>,
}

impl<'a, T: Named> Lens<'a, T> {
    /// The items of a range that is part of one bucket, in hash order, with their positions.
    pub fn within(&mut self, span: Span) -> &[(u64, &'a T)] {
        let bucket = self.table.prefix(span.start);
        debug_assert!(bucket.span().contains(span.end), "a range of one bucket");
        if self.bucket != Some(bucket) {
            self.items = self.table.bucket(span.start).collect();
            self.bucket = Some(bucket);
        }
        // Where a name has rotted its item stands before or after the bucket's.
        let from = self.items.partition_point(|(position, _)| *position < span.start);
        let until = self.items.partition_point(|(position, _)| *position <= span.end);
        &self.items[from..until]
    }
}

impl<T: Named> Lens<'_, T> {
    /// Whether all names in the bucket belong there.
    pub fn is_sound(&self) -> bool {
        let ends = [self.items.first(), self.items.last()];
        let span = self.bucket.map_or(Span::ALL, Prefix::span);
        ends.into_iter().flatten().all(|(position, _)| span.contains(*position))
    }
}

/// Whether a position lies in one of some ranges that stand in ascending order.
pub fn within_any(spans: &[Span], position: u64) -> bool {
    let after = spans.partition_point(|span| span.start <= position);
    after > 0 && spans[after - 1].contains(position)
}

/// Within a bucket the leading bits are all alike, so others must spread the items.
fn inner(hash: u64) -> u64 {
    hash.rotate_left(32)
}

impl<T: Named> Table<T> {
    /// An empty table.
    pub fn new(key: HashKey) -> Self {
        let bucket = Bucket { depth: 0, start: 0, items: HashTable::new() };
        Self {
            key,
            depth: 0,
            directory: vec![0],
            buckets: vec![bucket],
            len: 0,
            fingerprints: FingerprintTree::default(),
            ready: 0,
            given: 0,
        }
    }

    /// Makes ready for about so many items, so that no bucket need be split while they come. Only of an empty table;
    /// beyond [`bounds::EXPECTED`] it has to grow by itself.
    pub fn expect(&mut self, items: u64) {
        let buckets = items.min(bounds::EXPECTED).div_ceil(bounds::BUCKET as u64 * 2 / 3);
        if !self.is_empty() || buckets < 2 {
            return;
        }
        self.depth = buckets.next_power_of_two().ilog2();
        self.directory = (0..1 << self.depth).collect();
        let shift = 64 - self.depth;
        let bucket = |n: u64| Bucket { depth: self.depth, start: n << shift, items: HashTable::new() };
        self.buckets = (0..1 << self.depth).map(bucket).collect();
        self.ready = (items.min(bounds::EXPECTED) >> self.depth) as usize * 9 / 8;
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position of a name in hash order.
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.key.hash(name)
    }

    fn place(&self, hash: u64) -> usize {
        self.directory[hash.checked_shr(64 - self.depth).unwrap_or(0) as usize] as usize
    }

    /// The leading bits of the bucket that owns `hash`.
    pub fn prefix(&self, hash: u64) -> Prefix {
        self.buckets[self.place(hash)].prefix()
    }

    /// The range of the bucket that owns `hash`.
    pub fn span(&self, hash: u64) -> Span {
        self.buckets[self.place(hash)].span()
    }

    /// The item of that name and hash.
    pub fn get(&self, hash: u64, name: &[u8]) -> Option<&T> {
        self.buckets[self.place(hash)].items.find(inner(hash), |item| item.name() == name)
    }

    /// The item of that name and hash, to change. Its name must stay.
    pub fn get_mut(&mut self, hash: u64, name: &[u8]) -> Option<&mut T> {
        let place = self.place(hash);
        self.buckets[place].items.find_mut(inner(hash), |item| item.name() == name)
    }

    /// The item of that name and hash, made first if there was none.
    pub fn get_or_insert(&mut self, hash: u64, name: &[u8], make: impl FnOnce() -> T) -> &mut T {
        if self.buckets[self.place(hash)].items.len() >= bounds::BUCKET {
            self.split(hash);
        }
        let place = self.place(hash);
        let key = self.key;
        let items = &mut self.buckets[place].items;
        let rehash = |item: &T| inner(key.hash(item.name()));
        // Items are expected bucket after bucket: room for many times what has come was promised in vain.
        if self.ready > 0 && items.capacity() == 0 && self.given <= 4 * self.len + bounds::BUCKET * 64 {
            items.reserve(self.ready, rehash);
            self.given += self.ready;
        }
        match items.entry(inner(hash), |item| item.name() == name, rehash) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => {
                self.len += 1;
                slot.insert(make()).into_mut()
            }
        }
    }

    /// Must be told of every change of an item's fingerprint: from none when it
    /// was put in, to none before it is taken out.
    pub fn note_change(&mut self, hash: u64, before: Fingerprint, after: Fingerprint) {
        if T::SUMMED && before != after {
            let leaf = self.buckets[self.place(hash)].prefix();
            self.fingerprints.add(leaf, after - before);
        }
    }

    /// The fingerprint of all items in a range. O(1) where the range is of several
    /// buckets, else a walk over the one bucket that it is part of.
    pub fn fingerprint(&self, range: Prefix) -> Fingerprint {
        let bucket = &self.buckets[self.place(range.span().start)];
        if range.depth() <= bucket.depth {
            return self.fingerprints.get(range);
        }
        let span = range.span();
        let within = |item: &&T| span.contains(self.key.hash(item.name()));
        bucket.items.iter().filter(within).map(Named::fingerprint).sum()
    }

    /// The fingerprints of all ranges of whole buckets, as they are now.
    pub fn fingerprints(&self) -> &FingerprintTree {
        &self.fingerprints
    }

    /// Takes the item of that name and hash out.
    pub fn remove(&mut self, hash: u64, name: &[u8]) -> Option<T> {
        let place = self.place(hash);
        let key = self.key;
        let items = &mut self.buckets[place].items;
        let (item, _) = items.find_entry(inner(hash), |item| item.name() == name).ok()?.remove();
        self.len -= 1;
        if items.capacity() > 64 && items.len() * 8 < items.capacity() {
            items.shrink_to(items.len() * 2, |item| inner(key.hash(item.name())));
        }
        Some(item)
    }

    /// Whether something holds for every item.
    pub fn all(&self, holds: impl Fn(&T) -> bool) -> bool {
        self.buckets.iter().all(|bucket| bucket.items.iter().all(&holds))
    }

    /// All items, in an order that hangs on history: nothing may hang on it.
    pub fn unordered(&self) -> impl Iterator<Item = &T> {
        self.buckets.iter().flat_map(|bucket| bucket.items.iter())
    }

    /// The items of the bucket that owns `hash`, likewise.
    pub fn bucket_unordered(&self, hash: u64) -> impl Iterator<Item = &T> {
        self.buckets[self.place(hash)].items.iter()
    }

    /// Has the processor fetch what looking for items of these hashes will need: `touch` is given each that may be one
    /// of them, to read what it points to. Loads that do not hang on one another are waited for at once,
    /// so each step is taken for all before the next.
    pub fn fetch(&self, hashes: &[u64], touch: impl Fn(&T) -> u8) {
        let items = |hash: u64| &self.buckets[self.place(hash)].items;
        let mut touched = 0;
        for hash in hashes {
            touched ^= u8::from(items(*hash).find(inner(*hash), |_| false).is_some());
        }
        let found: SmallVec<[&T; 32]> =
            hashes.iter().filter_map(|hash| items(*hash).find(inner(*hash), |_| true)).collect();
        found.iter().for_each(|item| touched ^= touch(item));
        std::hint::black_box(touched);
    }

    /// To look at small ranges, several of one bucket in turn.
    pub fn lens(&self) -> Lens<'_, T> {
        Lens { table: self, bucket: None, items: Vec::new() }
    }

    /// Visits every item to change it, and drops those for which `keep` says no.
    /// Within a bucket the order is arbitrary: nothing may hang on it.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        (0..self.buckets.len()).for_each(|place| self.retain_in(place, &mut keep));
    }

    /// [`Table::retain`] for the items of some ranges, in ascending order.
    pub fn retain_within(&mut self, spans: &[Span], mut keep: impl FnMut(u64, &mut T) -> bool) {
        let key = self.key;
        for place in self.places(spans) {
            self.retain_in(place, |item| {
                let hash = key.hash(item.name());
                !within_any(spans, hash) || keep(hash, item)
            });
        }
    }

    fn retain_in(&mut self, place: usize, keep: impl FnMut(&mut T) -> bool) {
        let bucket = &mut self.buckets[place];
        let before = bucket.items.len();
        bucket.items.retain(keep);
        self.len -= before - bucket.items.len();
        if T::SUMMED {
            let fingerprint: Fingerprint = bucket.items.iter().map(T::fingerprint).sum();
            let leaf = bucket.prefix();
            self.fingerprints.add(leaf, fingerprint - self.fingerprints.get(leaf));
        }
    }

    /// Drops all that is in the buckets of some ranges, in ascending order, whatever it is named.
    /// The fingerprints must then be rebuilt.
    pub fn purge(&mut self, spans: &[Span]) {
        for place in self.places(spans) {
            let items = &mut self.buckets[place].items;
            self.len -= items.len();
            items.clear();
        }
    }

    /// Adds up anew the fingerprints of all ranges.
    pub fn rebuild_fingerprints(&mut self) {
        self.fingerprints = FingerprintTree::default();
        for bucket in &self.buckets {
            self.fingerprints.add(bucket.prefix(), bucket.items.iter().map(T::fingerprint).sum());
        }
    }

    /// The buckets that some ranges, in ascending order, lie in.
    fn places(&self, spans: &[Span]) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::new();
        for span in spans {
            let mut next = Some(span.start);
            while let Some(at) = next.filter(|at| *at <= span.end) {
                let place = self.place(at);
                if places.last() != Some(&place) {
                    places.push(place);
                }
                next = self.buckets[place].span().end.checked_add(1);
            }
        }
        places
    }

    /// A position in every bucket that some ranges, in ascending order, lie in.
    pub fn starts(&self, spans: &[Span]) -> Vec<u64> {
        self.places(spans).into_iter().map(|place| self.buckets[place].start).collect()
    }

    /// Splits the bucket that owns `hash`, unless no bits are left to split by.
    fn split(&mut self, hash: u64) {
        let place = self.place(hash);
        let deepest = self.buckets[place].depth == self.depth;
        // Chance fills buckets evenly. Only chosen collisions would have the directory
        // outgrow them: then a bucket is left to be large.
        if self.depth >= 32 || deepest && self.directory.len() >= 64 * self.buckets.len() {
            return;
        }
        if deepest {
            self.directory = self.directory.iter().flat_map(|&p| [p, p]).collect();
            self.depth += 1;
        }
        let key = self.key;
        let rehash = |item: &T| inner(key.hash(item.name()));
        let bucket = &mut self.buckets[place];
        bucket.depth += 1;
        let middle = bucket.start | 1 << (64 - bucket.depth);
        let mut upper = HashTable::with_capacity(bucket.items.len() / 2 + bucket.items.len() / 8);
        let moved = bucket.items.extract_if(|item| key.hash(item.name()) >= middle);
        for item in moved {
            upper.insert_unique(rehash(&item), item, rehash);
        }
        bucket.items.shrink_to(0, rehash);
        let upper = Bucket { depth: bucket.depth, start: middle, items: upper };
        if T::SUMMED {
            let halves =
                [&*bucket, &upper].map(|half| (half.prefix(), half.items.iter().map(T::fingerprint).sum()));
            halves.into_iter().for_each(|(prefix, fingerprint)| self.fingerprints.set(prefix, fingerprint));
        }
        let end = upper.span().end;
        let shift = 64 - self.depth;
        let new = self.buckets.len() as u32;
        self.buckets.push(upper);
        self.directory[(middle >> shift) as usize..=(end >> shift) as usize].fill(new);
    }

    /// The items of the bucket that owns `hash`, in hash order.
    pub fn bucket(&self, hash: u64) -> impl Iterator<Item = (u64, &T)> {
        self.sorted(self.place(hash), |_| true)
    }

    fn sorted(&self, place: usize, wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = (u64, &T)> {
        let items = self.buckets[place].items.iter().map(|item| (self.key.hash(item.name()), item));
        let mut items: Vec<_> = items.filter(|(hash, _)| wanted(*hash)).collect();
        // Equal hashes do not happen by chance, but order must not hang on it.
        items.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name().cmp(b.1.name())));
        items.into_iter()
    }

    /// The items of a range in hash order, with their positions.
    pub fn within(&self, span: Span) -> impl Iterator<Item = (u64, &T)> {
        let mut next = Some(span.start);
        std::iter::from_fn(move || {
            let at = next.filter(|at| *at <= span.end)?;
            let place = self.place(at);
            next = self.buckets[place].span().end.checked_add(1);
            Some(self.sorted(place, move |hash| span.contains(hash)))
        })
        .flatten()
    }

    /// All items in hash order from position `from` on, with their positions.
    pub fn range(&self, from: u64) -> impl Iterator<Item = (u64, &T)> {
        self.within(Span { start: from, end: u64::MAX })
    }

    /// All items in hash order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.within(Span::ALL).map(|(_, item)| item)
    }

    /// Visits items in hash order from `cursor` on, `count` of them and those of
    /// equal hash. Returns where to go on; 0 when all have been visited. What
    /// stands in the table all the while is visited, however it grows between calls.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&T)) -> u64 {
        let mut last = None;
        for (visited, (hash, item)) in self.range(cursor).enumerate() {
            if visited >= count.max(1) && last != Some(hash) {
                return hash;
            }
            last = Some(hash);
            visit(item);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Item(Vec<u8>, u32);

    impl Named for Item {
        fn name(&self) -> &[u8] {
            &self.0
        }
    }

    fn put(table: &mut Table<Item>, n: u32) {
        let name = format!("name-{n}").into_bytes();
        let hash = table.hash(&name);
        table.get_or_insert(hash, &name.clone(), || Item(name, 0)).1 = n;
    }

    fn table(n: u32) -> Table<Item> {
        let mut table = Table::new(HashKey(1, 2));
        (0..n).for_each(|n| put(&mut table, n));
        table
    }

    #[test]
    fn finds_what_was_put_through_many_splits() {
        let mut table = table(20_000);
        assert_eq!(table.len(), 20_000);
        assert!(table.buckets.len() > 20);
        for n in 0..20_000 {
            let name = format!("name-{n}").into_bytes();
            assert_eq!(table.get(table.hash(&name), &name).unwrap().1, n);
        }
        for n in (0..20_000).step_by(2) {
            let name = format!("name-{n}").into_bytes();
            let hash = table.hash(&name);
            assert_eq!(table.remove(hash, &name).unwrap().1, n);
            assert!(table.remove(hash, &name).is_none());
        }
        assert_eq!(table.len(), 10_000);
        assert_eq!(table.iter().count(), 10_000);
    }

    #[test]
    fn what_is_made_ready_for_is_found_like_anything() {
        for expected in [0, 1, 1_000, 20_000, u64::MAX] {
            let mut table = Table::new(HashKey(1, 2));
            table.expect(expected);
            (0..5_000).for_each(|n| put(&mut table, n));
            assert!(table.iter().eq(super::tests::table(5_000).iter()));
            assert_eq!(table.span(u64::MAX).end, u64::MAX);
        }
    }

    #[test]
    fn order_is_by_hash_and_does_not_hang_on_history() {
        let forward = table(5_000);
        let mut backward = Table::new(HashKey(1, 2));
        (0..5_000).rev().for_each(|n| put(&mut backward, n));
        assert!(forward.iter().eq(backward.iter()));
        assert!(forward.range(0).map(|(hash, _)| hash).is_sorted());
    }

    #[test]
    fn spans_tile_the_hash_space() {
        let table = table(10_000);
        let mut at = 0;
        loop {
            let span = table.span(at);
            assert_eq!(span.start, at);
            assert!(table.bucket(at).all(|(hash, _)| (span.start..=span.end).contains(&hash)));
            match span.end.checked_add(1) {
                Some(next) => at = next,
                None => break,
            }
        }
    }

    #[test]
    fn a_scan_sees_all_that_stays_while_the_table_grows() {
        let mut table = table(3_000);
        let (mut cursor, mut seen, mut grown) = (0, std::collections::BTreeSet::new(), 3_000);
        loop {
            cursor = table.scan(cursor, 10, |item| {
                seen.insert(item.1);
            });
            (grown..grown + 50).for_each(|n| put(&mut table, n));
            grown += 50;
            if cursor == 0 {
                break;
            }
        }
        assert!((0..3_000).all(|n| seen.contains(&n)));
    }
}
