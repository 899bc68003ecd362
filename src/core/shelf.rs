//! Where on the disk the ops stand that memory has let go of.
//!
//! Records of the log are numbered as they are taken for the disk, one after
//! another. What is kept here is small: for a stretch of an actor's ops, between
//! which records it stands. It may be wrong about a log that has been cut since:
//! whoever reads finds out, and has the stretch forgotten.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidings_proto::Actor;
use tidings_proto::message::Range;

use super::actors::ActorIx;
use super::bounds;
use super::journal::{self, Entry};

/// Consecutive ops of one actor, and the records in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Number of the first op.
    pub first: u64,
    /// One past the number of the last.
    pub next: u64,
    /// The first and the last record that holds some of them.
    pub records: (u64, u64),
    /// Bytes of the ops, encoded.
    pub bytes: u64,
}

/// The stretches of every actor, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    stretches: Vec<VecDeque<Stretch>>,
    count: usize,
}

impl Shelf {
    /// Adds what comes after all that is known of the actor. What of it is known is left out.
    pub(super) fn add(&mut self, actor: ActorIx, mut stretch: Stretch) {
        if self.stretches.len() <= actor.index() {
            self.stretches.resize_with(actor.index() + 1, VecDeque::new);
        }
        let known = &mut self.stretches[actor.index()];
        if let Some(last) = known.back_mut() {
            stretch.first = stretch.first.max(last.next);
            let joins = stretch.first == last.next && last.bytes + stretch.bytes <= bounds::STRETCH;
            if joins && stretch.next > stretch.first {
                last.next = stretch.next;
                last.records.1 = last.records.1.max(stretch.records.1);
                last.bytes += stretch.bytes;
                return;
            }
        }
        if stretch.next > stretch.first {
            known.push_back(stretch);
            self.count += 1;
            if self.count > bounds::STRETCHES {
                self.thin();
            }
        }
    }

    /// Forgets the sixteenth that stands longest.
    fn thin(&mut self) {
        let mut records: Vec<u64> = self.stretches.iter().flatten().map(|s| s.records.0).collect();
        let (_, &mut limit, _) = records.select_nth_unstable(bounds::STRETCHES / 16);
        self.stretches.iter_mut().for_each(|known| known.retain(|s| s.records.0 > limit));
        self.count = self.stretches.iter().map(VecDeque::len).sum();
    }

    /// Forgets what is known of an actor's ops up to number `last`.
    pub(super) fn forget(&mut self, actor: ActorIx, last: u64) {
        let Some(known) = self.stretches.get_mut(actor.index()) else { return };
        let before = known.len();
        known.retain(|stretch| stretch.first > last);
        self.count -= before - known.len();
    }

    /// The records that hold the ops from `first` on, about `budget` bytes of them and none beyond
    /// `last`; and the last op that they are known to hold.
    pub(super) fn find(
        &self,
        actor: ActorIx,
        first: u64,
        last: u64,
        budget: usize,
    ) -> Option<(u64, (u64, u64))> {
        let known = self.stretches.get(actor.index())?;
        let at = known.partition_point(|stretch| stretch.next <= first);
        let begin = known.get(at).filter(|stretch| stretch.first <= first)?;
        let (mut end, mut bytes) = (begin, 0);
        for stretch in known.range(at + 1..) {
            if bytes >= budget as u64 || end.next > last || stretch.first != end.next {
                break;
            }
            bytes += stretch.bytes;
            end = stretch;
        }
        Some((last.min(end.next - 1), (begin.records.0, end.records.1.max(begin.records.1))))
    }

    /// All that is known, by actor.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ActorIx, &Stretch)> {
        let by_actor = self.stretches.iter().enumerate();
        by_actor.flat_map(|(actor, known)| known.iter().map(move |s| (ActorIx(actor as u32), s)))
    }
}

/// Gathers ops for a peer from records of the log, which come in order.
#[derive(Debug)]
pub struct Gather {
    wanted: Vec<Range>,
    left: usize,
    runs: Vec<tidings_proto::Run>,
}

impl Gather {
    /// Gathers about `budget` bytes of these ranges, but at least one op if there is any.
    pub fn new(wanted: Vec<Range>, budget: usize) -> Self {
        Self { wanted, left: budget, runs: Vec::new() }
    }

    /// Takes what is wanted from a record; whether more is wanted. A record that is not to be
    /// understood holds nothing: the disk's checksum has vouched for it, so it is another's.
    pub fn record(&mut self, record: &[u8]) -> bool {
        for entry in journal::entries(record).map_while(Result::ok) {
            let Entry::Run(run) = entry else { continue };
            let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.actor == run.actor) else {
                continue;
            };
            if self.left == 0 || run.check().is_err() {
                continue;
            }
            let budget = if self.runs.is_empty() { self.left.max(1) } else { self.left };
            let Ok(Some(part)) = run.part(wanted.first, wanted.last, budget) else { continue };
            if part.ops.len() > self.left && !self.runs.is_empty() {
                self.left = 0;
                continue;
            }
            self.left = self.left.saturating_sub(part.ops.len());
            wanted.first = part.last() + 1;
            self.runs.push(part);
        }
        self.left > 0 && self.wanted.iter().any(|wanted| wanted.first <= wanted.last)
    }

    /// What has been gathered.
    pub fn finish(self) -> Vec<tidings_proto::Run> {
        self.runs
    }
}

/// The stretches of one actor, for the disk.
pub type Shelved = (Actor, Vec<Stretch>);

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(first: u64, next: u64, records: (u64, u64), bytes: u64) -> Stretch {
        Stretch { first, next, records, bytes }
    }

    #[test]
    fn what_is_added_is_found_and_gaps_are_seen() {
        let mut shelf = Shelf::default();
        let actor = ActorIx(1);
        shelf.add(actor, stretch(1, 11, (5, 7), bounds::STRETCH));
        shelf.add(actor, stretch(11, 21, (7, 9), bounds::STRETCH));
        shelf.add(actor, stretch(31, 41, (20, 30), 10));
        assert_eq!(shelf.find(actor, 3, 100, 1), Some((20, (5, 9))), "the next is read with a begun one");
        assert_eq!(shelf.find(actor, 3, 5, 1 << 40), Some((5, (5, 7))));
        assert_eq!(shelf.find(actor, 25, 100, 1), None);
        assert_eq!(shelf.find(actor, 31, 100, 1), Some((40, (20, 30))));
        assert_eq!(shelf.find(ActorIx(0), 1, 100, 1), None);
        shelf.forget(actor, 15);
        assert_eq!(shelf.find(actor, 3, 100, 1), None);
        assert_eq!(shelf.find(actor, 31, 100, 1), Some((40, (20, 30))));
    }

    /// Two records: runs of `a` and `b` in turn, of ops that are ten bytes long.
    fn records() -> Vec<Vec<u8>> {
        let run = |node: &str, first: u64, count: u32| {
            let op = tidings_proto::Op::<tidings_proto::WireDot> {
                stamp: 1,
                key: b"key",
                edits: smallvec::smallvec![tidings_proto::Edit::Write {
                    supersedes: smallvec::smallvec![],
                    value: b"v"
                }],
            };
            let ops = (0..count).fold(Vec::new(), |ops, _| postcard::to_extend(&op, ops).unwrap());
            let actor = Actor { node: tidings_proto::Name::new(node).unwrap(), incarnation: 1 };
            let base = tidings_proto::Stamp(1);
            Entry::Run(tidings_proto::Run { actor, first, count, base, actors: Vec::new(), ops })
        };
        let parts = [[run("a", 1, 10), run("b", 1, 10)], [run("a", 11, 10), run("b", 11, 10)]];
        parts.iter().map(|runs| runs.iter().fold(Vec::new(), |record, run| run.encode(record))).collect()
    }

    fn gathered(node: &str, first: u64, last: u64, budget: usize) -> Vec<(u64, u64)> {
        let actor = Actor { node: tidings_proto::Name::new(node).unwrap(), incarnation: 1 };
        let mut gather = Gather::new(vec![Range { actor: actor.clone(), first, last }], budget);
        let _ = records().iter().all(|record| gather.record(record));
        let runs = gather.finish();
        assert!(runs.iter().all(|run| run.actor == actor && run.iter().all(|op| op.is_ok())));
        runs.iter().map(|run| (run.first, run.last())).collect()
    }

    #[test]
    fn what_is_wanted_is_gathered_in_order_and_within_the_budget() {
        assert_eq!(gathered("a", 3, 15, 1 << 20), [(3, 10), (11, 15)]);
        assert_eq!(gathered("b", 11, 99, 1 << 20), [(11, 20)]);
        assert_eq!(gathered("b", 5, 99, 1), [(5, 5)], "one op always travels");
        assert_eq!(gathered("b", 21, 99, 1 << 20), []);
        assert_eq!(gathered("c", 1, 99, 1 << 20), []);
        let size = records()[0].len();
        assert_eq!(gathered("a", 1, 99, size), [(1, 10), (11, 20)]);
        assert_eq!(gathered("a", 9, 99, size / 10), [(9, 10)]);
    }

    #[test]
    fn small_ones_join_and_known_ones_are_left_out() {
        let mut shelf = Shelf::default();
        let actor = ActorIx(0);
        shelf.add(actor, stretch(1, 11, (5, 7), 10));
        shelf.add(actor, stretch(5, 21, (6, 9), 10));
        shelf.add(actor, stretch(2, 4, (1, 1), 10));
        assert_eq!(shelf.iter().count(), 1);
        assert_eq!(shelf.find(actor, 1, 100, 1), Some((20, (5, 9))));
    }

    #[test]
    fn the_bound_holds() {
        let mut shelf = Shelf::default();
        for n in 0..2 * bounds::STRETCHES as u64 {
            shelf.add(ActorIx((n % 7) as u32), stretch(1 + 2 * n, 2 + 2 * n, (n, n), 1));
        }
        assert!(shelf.iter().count() <= bounds::STRETCHES);
        let last = 2 * bounds::STRETCHES as u64 - 1;
        assert!(shelf.find(ActorIx((last % 7) as u32), 1 + 2 * last, u64::MAX, 1).is_some());
        assert!(shelf.find(ActorIx(0), 1, u64::MAX, 1).is_none());
    }
}
