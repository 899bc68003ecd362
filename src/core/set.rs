//! The OR-set: elements, each held in the set by the adds that nobody removed.

use smallvec::SmallVec;

use super::actors::ShortDot;
use super::table::{HashKey, Named, Table};

/// One element and its live dots; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    element: Box<[u8]>,
    pub(super) dots: SmallVec<[ShortDot; 1]>,
}

impl Member {
    /// The element.
    pub fn element(&self) -> &[u8] {
        &self.element
    }

    /// The adds that hold it.
    pub fn dots(&self) -> &[ShortDot] {
        &self.dots
    }
}

impl Named for Member {
    fn name(&self) -> &[u8] {
        &self.element
    }
}

/// The elements of one key.
#[derive(Debug, Clone)]
pub struct Set(Table<Member>, usize);

/// About how many bytes an element takes beside its own.
const BESIDE: usize = 48;

impl Set {
    pub(super) fn new(key: HashKey) -> Self {
        Self(Table::new(key), 0)
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// About how many bytes of memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the element is in the set.
    pub fn contains(&self, element: &[u8]) -> bool {
        self.member(element).is_some()
    }

    /// The element with its dots.
    pub fn member(&self, element: &[u8]) -> Option<&Member> {
        self.0.get(self.0.hash(element), element)
    }

    /// The elements, in hash order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.members().map(Member::element)
    }

    /// The elements with their dots, in hash order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.0.iter()
    }

    /// The elements with their dots, in no order that means anything.
    pub(super) fn unordered(&self) -> impl Iterator<Item = &Member> {
        self.0.unordered()
    }

    /// See [`Table::scan`].
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8])) -> u64 {
        self.0.scan(cursor, count, |member| visit(member.element()))
    }

    /// Drops the dots for which `keep` says no, and the elements with their last dot.
    pub(super) fn retain_dots(&mut self, mut keep: impl FnMut(&[u8], ShortDot) -> bool) {
        let Self(table, bytes) = self;
        table.retain(|member| {
            let Member { element, dots } = member;
            dots.retain(|dot| keep(element, *dot));
            if dots.is_empty() {
                *bytes -= element.len() + BESIDE;
            }
            !dots.is_empty()
        });
    }

    pub(super) fn insert(&mut self, element: &[u8], dot: ShortDot) {
        let make = || Member { element: element.into(), dots: SmallVec::new() };
        let member = self.0.get_or_insert(self.0.hash(element), element, make);
        debug_assert!(!member.dots.contains(&dot), "a dot is issued once");
        if member.dots.is_empty() {
            self.1 += element.len() + BESIDE;
        }
        member.dots.push(dot);
    }

    /// Drops a dot of an element, and the element with its last dot. Says whether it was there.
    pub(super) fn remove(&mut self, element: &[u8], dot: ShortDot) -> bool {
        let hash = self.0.hash(element);
        let Some(member) = self.0.get_mut(hash, element) else { return false };
        let Some(at) = member.dots.iter().position(|&d| d == dot) else { return false };
        member.dots.swap_remove(at);
        if member.dots.is_empty() {
            self.0.remove(hash, element);
            self.1 -= element.len() + BESIDE;
        }
        true
    }
}
