//! The recent ops of every actor, in memory, in the bytes in which they travel.
//!
//! An op is encoded once, when it is applied. What is sent to a peer or appended
//! to the disk is a slice of a chunk with a header in front. At its bound the log
//! lets go of its oldest chunks and remembers where on the disk they stand; what is
//! forgotten there too costs bandwidth later, never correctness.

use std::collections::VecDeque;

use tidings_proto::{Actor, Op, Run, Stamp, WireDot, bounds as wire};

use super::actors::{ActorIx, Actors, ShortDot};
use super::bounds;
use super::mutant::{self, Mutant};
use super::shelf::{Shelf, Shelved, Stretch};

/// Consecutive ops of one actor.
#[derive(Debug, Clone)]
struct Chunk {
    first: u64,
    base: Stamp,
    /// The other actors whose dots the ops name; place n on the wire is `table[n - 1]`.
    table: Vec<ActorIx>,
    /// Where each op ends.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// The first and the last of ops that are read together: from one whose value is left out to
    /// what superseded it. In order, and none overlaps another.
    bundles: Vec<(u64, u64)>,
    /// The first and the last record on disk that holds some of them.
    records: Option<(u64, u64)>,
}

impl Chunk {
    fn new(first: u64, base: Stamp) -> Self {
        let (table, ends, bytes, bundles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { first, base, table, ends, bytes, bundles, records: None }
    }

    /// Where it stands on the disk, if anywhere.
    fn stretch(&self) -> Option<Stretch> {
        let bytes = self.bytes.len() as u64;
        self.records.map(|records| Stretch { first: self.first, next: self.next(), records, bytes })
    }

    /// One past the number of the last op.
    fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// Whether so many ops from number `seq` on, of which the first has the least stamp, can stand here.
    fn takes(&self, seq: u64, ops: usize, stamp: Stamp, dots: usize) -> bool {
        let within = self.bundles.last().is_some_and(|(_, last)| seq <= *last);
        let room = self.bytes.len() < bounds::CHUNK
            && stamp >= self.base
            && self.ends.len() + ops <= wire::RUN_OPS
            && self.table.len() + dots <= bounds::CHUNK_ACTORS.max(dots);
        self.next() == seq && (within || room)
    }

    fn push(&mut self, own: ActorIx, op: &Op<'_, ShortDot>) {
        let Self { table, base, .. } = self;
        let mut place = |dot: &ShortDot| {
            let actor = dot.actor();
            let place = if actor == own {
                0
            } else {
                1 + table.iter().position(|a| *a == actor).unwrap_or_else(|| {
                    table.push(actor);
                    table.len() - 1
                }) as u32
            };
            WireDot { actor: place, seq: dot.seq() }
        };
        let edits = op.edits.iter().map(|edit| edit.map(&mut place)).collect();
        let op = Op { stamp: op.stamp - base.0, key: op.key, edits };
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = postcard::to_extend(&op, bytes).expect("an op of plain values always encodes");
        self.ends.push(u32::try_from(self.bytes.len()).expect("a chunk is far below 4 GiB"));
    }

    /// The bytes of the ops from `first` on, as many as fit in `budget` but at
    /// least one, and up to `last`; and the number after them. Ops that belong together are
    /// left out together, or are all there even if that is more.
    fn slice(&self, first: u64, last: u64, budget: usize) -> (&[u8], u64) {
        let from = (first - self.first) as usize;
        let limit = (last.min(self.next() - 1) - self.first + 1) as usize;
        let start = if from == 0 { 0 } else { self.ends[from - 1] as usize };
        let fits = self.ends[from..limit].partition_point(|end| *end as usize - start <= budget);
        let next = self.whole(first, first + fits.max(1) as u64);
        let end = self.ends[(next - self.first) as usize - 1] as usize;
        (&self.bytes[start..end], next)
    }

    /// Where ops from `first` on may end that were to end before `next`.
    fn whole(&self, first: u64, next: u64) -> u64 {
        let at = self.bundles.partition_point(|(_, last)| *last < next);
        match self.bundles.get(at) {
            Some((begin, _)) if first < *begin && *begin < next => *begin,
            Some((begin, last)) if *begin < next && !mutant::is(Mutant::BundlesCut) => {
                (last + 1).min(self.next())
            }
            _ => next,
        }
    }
}

/// The op log of a replica.
#[derive(Debug, Clone)]
pub struct OpLog {
    chunks: Vec<VecDeque<Chunk>>,
    /// Whose oldest chunk goes next.
    order: VecDeque<ActorIx>,
    bytes: usize,
    bound: usize,
    shelf: Shelf,
}

impl OpLog {
    /// A log that keeps about `bound` bytes of encoded ops.
    pub fn new(bound: usize) -> Self {
        Self { chunks: Vec::new(), order: VecDeque::new(), bytes: 0, bound, shelf: Shelf::default() }
    }

    /// Bytes of encoded ops held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets the bound.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    /// The ops from `first` to `last` are appended next, and are to be read together. `stamp` is the
    /// least of theirs, and so many other actors they may name.
    pub(super) fn keep_together(
        &mut self,
        actor: ActorIx,
        first: u64,
        last: u64,
        stamp: Stamp,
        others: usize,
    ) {
        let chunk = self.ready(actor, first, (last - first + 1) as usize, stamp, others);
        chunk.bundles.push((first, last));
    }

    /// Appends an op. Numbers of an actor must grow; where they leave a gap, the log has one.
    pub fn append(&mut self, dot: ShortDot, op: &Op<'_, ShortDot>) {
        let actor = dot.actor();
        // An upper bound on the actors that this op adds to the table.
        let dots = op.edits.iter().map(edit_dots).sum();
        let chunk = self.ready(actor, dot.seq(), 1, Stamp(op.stamp), dots);
        let before = chunk.bytes.len();
        chunk.push(actor, op);
        let grown = chunk.bytes.len() - before;
        self.bytes += grown;
    }

    /// The chunk for so many ops from number `seq` on.
    fn ready(&mut self, actor: ActorIx, seq: u64, ops: usize, stamp: Stamp, dots: usize) -> &mut Chunk {
        if self.chunks.len() <= actor.index() {
            self.chunks.resize_with(actor.index() + 1, VecDeque::new);
        }
        let chunks = &mut self.chunks[actor.index()];
        if !chunks.back().is_some_and(|chunk| chunk.takes(seq, ops, stamp, dots)) {
            assert!(chunks.back().is_none_or(|chunk| chunk.next() <= seq), "the log only grows");
            if let Some(full) = chunks.back_mut() {
                full.bytes.shrink_to_fit();
                full.ends.shrink_to_fit();
            }
            chunks.push_back(Chunk::new(seq, stamp));
            self.order.push_back(actor);
        }
        chunks.back_mut().expect("just ensured")
    }

    /// Takes note that the ops `first..=last` have been taken for the disk, in a record of that number.
    pub fn taken(&mut self, actor: ActorIx, first: u64, last: u64, record: u64) {
        let Some(chunks) = self.chunks.get_mut(actor.index()) else { return };
        let held = chunks.iter_mut().rev().take_while(|chunk| chunk.next() > first);
        for chunk in held.filter(|chunk| chunk.first <= last) {
            let (begin, _) = chunk.records.unwrap_or((record, record));
            chunk.records = Some((begin, record));
        }
    }

    /// Lets go of the oldest chunks until the bound holds. The caller has taken them for the disk.
    pub fn trim(&mut self) {
        while self.bytes > self.bound {
            let Some(actor) = self.order.pop_front() else { break };
            let chunk = self.chunks[actor.index()].pop_front().expect("one entry in `order` a chunk");
            self.bytes -= chunk.bytes.len();
            if let Some(stretch) = chunk.stretch() {
                self.shelf.add(actor, stretch);
            }
        }
    }

    /// The records on disk that hold ops of an actor from `first` on, about `budget` bytes of
    /// them; and the last of those ops.
    pub fn on_disk(&self, actor: ActorIx, first: u64, last: u64, budget: usize) -> Option<(u64, (u64, u64))> {
        self.shelf.find(actor, first, last, budget)
    }

    /// Forgets where the ops up to `last` stand on the disk: they are not there any more.
    pub fn forget(&mut self, actor: ActorIx, last: u64) {
        self.shelf.forget(actor, last);
    }

    /// Where on the disk ops stand, those in memory too, for the disk.
    pub fn shelved(&self, actors: &Actors) -> Vec<Shelved> {
        let mut shelf = self.shelf.clone();
        for (actor, chunks) in self.chunks.iter().enumerate() {
            let stretches = chunks.iter().filter_map(Chunk::stretch);
            stretches.for_each(|stretch| shelf.add(ActorIx(actor as u32), stretch));
        }
        let mut shelved: Vec<Shelved> = Vec::new();
        for (actor, stretch) in shelf.iter() {
            let actor = actors.get(actor);
            match shelved.last_mut().filter(|(last, _)| last == actor) {
                Some((_, stretches)) => stretches.push(*stretch),
                None => shelved.push((actor.clone(), vec![*stretch])),
            }
        }
        shelved
    }

    /// Takes in what an earlier life knew of the disk.
    pub(super) fn shelve(&mut self, actor: ActorIx, stretches: &[Stretch]) {
        stretches.iter().for_each(|stretch| self.shelf.add(actor, *stretch));
    }

    fn chunk(&self, actor: ActorIx, seq: u64) -> Option<(usize, &Chunk)> {
        let chunks = self.chunks.get(actor.index())?;
        let at = chunks.partition_point(|chunk| chunk.next() <= seq);
        chunks.get(at).filter(|chunk| chunk.first <= seq).map(|chunk| (at, chunk))
    }

    /// Whether the op is still here.
    pub fn reaches(&self, actor: ActorIx, seq: u64) -> bool {
        self.chunk(actor, seq).is_some()
    }

    /// The ops `first..=last` of an actor as runs of about `budget` bytes in
    /// all, at least one op if `first` is here at all; and the number of the
    /// first op that is not among them. Ops that belong together are in one run, if need be
    /// beyond `last` and the budget.
    pub fn read(
        &self,
        actor: ActorIx,
        first: u64,
        last: u64,
        budget: usize,
        actors: &Actors,
    ) -> (Vec<Run>, u64) {
        let (mut runs, mut next, mut left) = (Vec::new(), first, budget);
        while next <= last && (runs.is_empty() || left > 0) {
            let Some((_, chunk)) = self.chunk(actor, next) else { break };
            let (ops, end) = chunk.slice(next, last, left);
            if !runs.is_empty() && ops.len() > left {
                break;
            }
            left = left.saturating_sub(ops.len());
            runs.push(Run {
                actor: actors.get(actor).clone(),
                first: next,
                count: (end - next) as u32,
                base: chunk.base,
                actors: chunk.table.iter().map(|ix| Actor::clone(actors.get(*ix))).collect(),
                ops: ops.to_vec(),
            });
            next = end;
        }
        (runs, next)
    }
}

fn edit_dots(edit: &tidings_proto::Edit<'_, ShortDot>) -> usize {
    use tidings_proto::Edit;
    match edit {
        Edit::Write { supersedes: dots, .. }
        | Edit::Erase { dots }
        | Edit::Add { supersedes: dots, .. }
        | Edit::Remove { dots, .. }
        | Edit::Clear { upto: dots }
        | Edit::Elided { supersedes: dots, .. } => dots.len(),
        Edit::Reset { baselines, .. } => baselines.len(),
        Edit::Count { .. } | Edit::Close { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;
    use tidings_proto::{Edit, Name};

    fn actors() -> Actors {
        let mut actors = Actors::default();
        for node in ["a", "b"] {
            actors.intern(&Actor { node: Name::new(node).unwrap(), incarnation: 1 }).unwrap();
        }
        actors
    }

    fn op<'a>(stamp: u64, key: &'a [u8], supersedes: &[ShortDot]) -> Op<'a, ShortDot> {
        let edit = Edit::Write { supersedes: supersedes.into(), value: b"value" };
        Op { stamp, key, edits: smallvec![edit] }
    }

    #[test]
    fn what_is_read_is_what_was_appended() {
        let (actors, own, other) = (actors(), ActorIx(0), ActorIx(1));
        let mut log = OpLog::new(1 << 20);
        for seq in 1..=10_000 {
            let supersedes = [ShortDot::new(other, seq), ShortDot::new(own, seq.max(2) - 1)];
            log.append(ShortDot::new(own, seq), &op(1_000 + seq, b"key", &supersedes[..(seq % 3) as usize]));
        }
        let (runs, next) = log.read(own, 100, 9_000, usize::MAX, &actors);
        assert_eq!(next, 9_001);
        let mut seq = 100;
        for run in &runs {
            for item in run.iter() {
                let (got, op) = item.unwrap();
                assert_eq!((got, run.base.0 + op.stamp), (seq, 1_000 + seq));
                let Edit::Write { supersedes, .. } = &op.edits[0] else { panic!() };
                assert_eq!(supersedes.len(), (seq % 3) as usize);
                assert!(supersedes.first().is_none_or(|d| d.actor == 1 && d.seq == seq));
                seq += 1;
            }
        }
        assert_eq!(seq, 9_001);
    }

    #[test]
    fn a_budget_is_kept_but_one_op_always_travels() {
        let (actors, own) = (actors(), ActorIx(0));
        let mut log = OpLog::new(1 << 20);
        (1..=100).for_each(|seq| log.append(ShortDot::new(own, seq), &op(seq, b"key", &[])));
        let (runs, next) = log.read(own, 1, 100, 1, &actors);
        assert_eq!((runs.len(), runs[0].count, next), (1, 1, 2));
        let (runs, next) = log.read(own, 1, 100, 100, &actors);
        assert!(runs.iter().map(|run| run.ops.len()).sum::<usize>() <= 100 && next > 2);
    }

    #[test]
    fn the_bound_holds_and_gaps_are_seen() {
        let (actors, own) = (actors(), ActorIx(0));
        let mut log = OpLog::new(4 * bounds::CHUNK);
        for seq in (1..=20_000).chain(30_000..=50_000) {
            log.append(ShortDot::new(own, seq), &op(seq, b"a key of some length", &[]));
            log.trim();
        }
        assert!(log.bytes() <= 4 * bounds::CHUNK);
        assert!(!log.reaches(own, 1) && !log.reaches(own, 25_000) && log.reaches(own, 50_000));
        let mut log = OpLog::new(1 << 30);
        for seq in (1..=10).chain(20..=30) {
            log.append(ShortDot::new(own, seq), &op(seq, b"key", &[]));
        }
        assert_eq!(log.read(own, 5, 30, 1 << 20, &actors).1, 11);
        assert!(log.read(own, 15, 30, 1 << 20, &actors).0.is_empty());
    }
}
