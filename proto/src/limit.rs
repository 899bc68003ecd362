//! Lists that are refused before anything is allocated for them.
//!
//! An item of two bytes on the wire can take a hundred in memory, so the length
//! of a frame alone does not bound what decoding it allocates. Every list
//! therefore has a bound of its own, and all lists of one decoded value share
//! the budget [`bounds::ITEMS`].

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use smallvec::SmallVec;

use crate::{DecodeError, bounds};

/// What was refused, how large it was, and the bound.
type Refusal = (&'static str, u64, u64);

// postcard's errors carry no data, and a visitor sees nothing but the list before
// it. So what they need to tell one another during one call of `decode` is left here.
thread_local! {
    /// Items that the value being decoded may still hold; none outside of `decode`.
    static ROOM: Cell<Option<usize>> = const { Cell::new(None) };
    /// The list that made decoding fail.
    static REFUSED: Cell<Option<Refusal>> = const { Cell::new(None) };
}

/// Decodes one value from the front of `bytes` and returns it with the rest.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<(T, &'a [u8]), DecodeError> {
    REFUSED.set(None);
    ROOM.set(Some(bounds::ITEMS));
    let result = postcard::take_from_bytes(bytes);
    ROOM.set(None);
    result.map_err(|error| match REFUSED.take() {
        Some((what, size, bound)) => DecodeError::Oversized { what, size, bound },
        None => DecodeError::malformed(what, error),
    })
}

/// Decodes `bytes` as one value and nothing else.
pub(crate) fn decode_all<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, DecodeError> {
    let (value, rest) = decode(bytes, what)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { what, left: rest.len() }) }
}

macro_rules! lists {
    ($($name:ident: $what:literal, at most $bound:expr;)*) => {$(
        pub(crate) fn $name<'de, D: Deserializer<'de>, L: List<'de>>(deserializer: D) -> Result<L, D::Error> {
            deserializer.deserialize_seq(ListVisitor { what: $what, bound: $bound, list: PhantomData })
        }
    )*};
}

lists! {
    actors: "actor table", at most bounds::ACTORS;
    addresses: "addresses", at most bounds::ADDRESSES;
    baselines: "baselines", at most bounds::DOTS;
    cells: "cells", at most bounds::ITEMS;
    dots: "dots", at most bounds::DOTS;
    edits: "edits", at most bounds::EDITS;
    fetched: "ranges", at most bounds::FETCH;
    figures: "figures", at most bounds::FIGURES;
    key_states: "keys", at most bounds::ITEMS;
    keys: "keys", at most bounds::PULL_KEYS;
    lives: "version vector", at most bounds::SEEN;
    members: "members", at most bounds::MEMBERS;
    narrowed: "ranges", at most bounds::NARROW;
    nodes: "version vector", at most bounds::SEEN;
    parts: "parts", at most 16;
    parked: "parked removals", at most bounds::PARKED;
    ranges: "ranges", at most bounds::SEEN;
    runs: "runs", at most bounds::RUNS;
    versions: "versions", at most bounds::DOTS;
}

/// What the functions above fill.
pub(crate) trait List<'de> {
    type Item: Deserialize<'de>;
    fn with_capacity(items: usize) -> Self;
    fn push(&mut self, item: Self::Item);
}

impl<'de, T: Deserialize<'de>> List<'de> for Vec<T> {
    type Item = T;
    fn with_capacity(items: usize) -> Self {
        Self::with_capacity(items)
    }
    fn push(&mut self, item: T) {
        self.push(item);
    }
}

impl<'de, T: Deserialize<'de>> List<'de> for SmallVec<[T; 1]> {
    type Item = T;
    fn with_capacity(items: usize) -> Self {
        Self::with_capacity(items)
    }
    fn push(&mut self, item: T) {
        self.push(item);
    }
}

struct ListVisitor<L> {
    what: &'static str,
    bound: usize,
    list: PhantomData<L>,
}

impl<L> ListVisitor<L> {
    /// Refuses a list of at least `items` items, of which `taken` are already paid for.
    fn afford<E: Error>(&self, items: usize, taken: usize) -> Result<(), E> {
        let refuse = |what, size: usize, bound: usize| {
            REFUSED.set(Some((what, size as u64, bound as u64)));
            Err(E::custom("a list is over its bound"))
        };
        if items > self.bound {
            return refuse(self.what, items, self.bound);
        }
        if let Some(room) = ROOM.get() {
            let Some(left) = room.checked_sub(items - taken) else {
                return refuse("items", bounds::ITEMS - room + items - taken, bounds::ITEMS);
            };
            ROOM.set(Some(left));
        }
        Ok(())
    }
}

impl<'de, L: List<'de>> Visitor<'de> for ListVisitor<L> {
    type Value = L;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of at most {} items", self.what, self.bound)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<L, A::Error> {
        // postcard knows the length, but keeps it to itself if the input is too short for it.
        let mut paid = seq.size_hint().unwrap_or(0);
        self.afford(paid, 0)?;
        let mut list = L::with_capacity(paid.min(PREALLOCATE));
        let mut taken = 0;
        while let Some(item) = seq.next_element()? {
            taken += 1;
            if taken > paid {
                self.afford(taken, paid)?;
                paid = taken;
            }
            list.push(item);
        }
        Ok(list)
    }
}

/// Items for which memory is taken on a list's own word.
const PREALLOCATE: usize = 256;
