//! A state that is written to: it authors ops, takes in those of others, and
//! keeps each for the disk and for whoever lacks it.

use tidings_proto::cell::ParkedState;
use tidings_proto::op::RunIter;
use tidings_proto::{Actor, Counter, Edit, Name, Op, Run, SeenEntries, Stamp, WireDot};

use super::actors::{ActorIx, ShortDot, TooManyActors};
use super::block::parked_states;
use super::bounds;
use super::cells::Cells;
use super::clock::Clock;
use super::fingerprint::{Prefix, Ranges, Span};
use super::journal::Entry;
use super::members::Cursor;
use super::mutant::{self, Mutant};
use super::oplog::OpLog;
use super::parked::Room;
use super::state::{ApplyError, State};
use super::table::HashKey;
use super::write::Limits;

/// Counts of what happened to ops, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCounts {
    /// Written here.
    pub written: u64,
    /// Received and applied.
    pub received: u64,
    /// Received though already seen.
    pub duplicate: u64,
    /// Received ahead of their turn and not kept.
    pub early: u64,
    /// Received and refused: malformed, or no room for what they park.
    pub refused: u64,
    /// Versions of registers that became concurrent with another by an op received.
    pub conflicts: u64,
}

/// What became of a run that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// How many of its ops were applied.
    pub applied: u64,
    /// Why the rest was not, if any was left: a gap before it, or worse.
    pub stopped: Option<ApplyError>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Replica {
    pub(super) state: State,
    pub(super) own: ActorIx,
    /// How many ops this process has issued as `own`.
    issued: u64,
    pub(super) clock: Clock,
    pub(super) log: OpLog,
    /// Ops applied and not yet taken for the disk, in order: whose, first, last.
    pending: Vec<(ActorIx, u64, u64)>,
    /// Other entries not yet taken for the disk. They go before the ops.
    entries: Vec<Entry>,
    /// The number of the last record taken for the disk.
    record: u64,
    /// Own contributions that a received op has reset in full: to be closed.
    closable: Vec<Box<[u8]>>,
    counts: OpCounts,
    pub(super) limits: Limits,
    /// Ranges that snapshots have found rotten.
    pub(super) rotten: Vec<Prefix>,
}

/// Whether these cells know deletes of a contribution of that actor.
pub(super) fn is_reset(cells: &Cells, actor: ActorIx) -> bool {
    let parts = [Counter::G, Counter::Pn].map(|counter| cells.counter(counter)?.get(actor));
    parts.into_iter().flatten().any(|part| part.baseline.is_some())
}

impl Replica {
    /// A replica that goes on from `state` (which may be empty) as `actor`.
    ///
    /// # Panics
    /// If `actor` has already written: every start draws a new incarnation.
    pub fn new(
        mut state: State,
        actor: &Actor,
        clock: Clock,
        log_bound: usize,
    ) -> Result<Self, TooManyActors> {
        let own = state.intern(actor)?;
        assert_eq!(state.seen(own), 0, "an incarnation is used once");
        Ok(Self {
            state,
            own,
            issued: 0,
            clock,
            log: OpLog::new(log_bound),
            pending: Vec::new(),
            entries: vec![Entry::Incarnation(actor.clone())],
            record: 0,
            closable: Vec::new(),
            counts: OpCounts::default(),
            limits: Limits::default(),
            rotten: Vec::new(),
        })
    }

    /// The convergent state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The recent ops.
    pub fn log(&self) -> &OpLog {
        &self.log
    }

    /// The recent ops, to set their bound.
    pub fn log_mut(&mut self) -> &mut OpLog {
        &mut self.log
    }

    /// Bounds what clients may write; the wire's own bounds stay.
    pub fn set_limits(&mut self, limits: Limits) {
        let most = Limits::default();
        self.limits = Limits {
            key: limits.key.min(most.key),
            element: limits.element.min(most.element),
            value: limits.value.min(most.value),
        };
    }

    /// Bounds what ops may park.
    pub fn set_parked_room(&mut self, room: Room) {
        self.state.parked.room = room;
    }

    /// The hybrid clock.
    pub fn clock_mut(&mut self) -> &mut Clock {
        &mut self.clock
    }

    /// What happened to ops.
    pub fn counts(&self) -> OpCounts {
        self.counts
    }

    /// The author of own writes.
    pub fn own(&self) -> ActorIx {
        self.own
    }

    /// The author of own writes, by name.
    pub fn actor(&self) -> &Actor {
        self.state.actors.get(self.own)
    }

    /// The number of the last own write; 0 before the first.
    pub fn own_seq(&self) -> u64 {
        self.state.seen(self.own)
    }

    /// Goes on under another incarnation: somebody knows writes of the present
    /// one that this process does not, so it must not be used any more.
    pub fn begin_incarnation(&mut self, incarnation: u64) -> Result<(), TooManyActors> {
        let actor = Actor { node: self.actor().node.clone(), incarnation };
        let own = self.state.intern(&actor)?;
        assert_eq!(self.state.seen(own), 0, "an incarnation is used once");
        self.own = own;
        self.issued = 0;
        self.entries.push(Entry::Incarnation(actor));
        Ok(())
    }

    /// Whether writes of the own incarnation have come from elsewhere: then another
    /// process, or an older image of this one, writes as it too. The next write
    /// is refused until another incarnation has been begun, lest a dot be issued twice.
    pub fn is_overtaken(&self) -> bool {
        self.own_seq() != self.issued
    }

    /// Whether the own incarnation is out of numbers, nearly.
    pub fn is_worn(&self) -> bool {
        self.own_seq() + (1 << 20) >= bounds::SEQ
    }

    /// Applies an op and keeps it for the disk and for others: the one way in.
    pub(super) fn take(&mut self, hash: u64, dot: ShortDot, op: &Op<'_, ShortDot>) -> Result<(), ApplyError> {
        self.state.apply_at(hash, dot, op)?;
        self.log.append(dot, op);
        match self.pending.last_mut() {
            Some((actor, _, last)) if *actor == dot.actor() && *last + 1 == dot.seq() => *last += 1,
            _ => self.pending.push((dot.actor(), dot.seq(), dot.seq())),
        }
        Ok(())
    }

    /// Takes in a run from elsewhere, op by op, until one cannot be applied yet.
    /// `applied` hears the number and stamp of each op that was applied.
    pub fn receive(&mut self, run: &Run, wall_millis: u64, mut applied: impl FnMut(Stamp)) -> Received {
        let mut received = Received { applied: 0, stopped: None };
        let mut left = u64::from(run.count);
        let places = match self.run_places(run) {
            Ok(places) => places,
            Err(error) => {
                self.counts.refused += u64::from(run.count);
                return Received { applied: 0, stopped: Some(error.into()) };
            }
        };
        let mut ops = run.iter();
        // The last of the ops that are known to have room, and are applied in one step.
        let mut admitted = 0;
        while let Some(item) = ops.next() {
            let result = item.map_err(ApplyError::from).and_then(|(seq, op)| {
                let dot = place_dot(places[0], seq)?;
                if self.state.has_seen(dot) {
                    self.counts.duplicate += 1;
                    left -= 1;
                    return Ok(());
                }
                let next = seq == self.state.seen(places[0]) + 1;
                if next && seq > admitted && op.edits.iter().any(Edit::is_elided) {
                    admitted = self.admit(run, &places, (seq, &op), &ops)?;
                }
                let op = State::shorten(&op, run.base, &places)?;
                let conflicts = self.state.tallies.version_conflicts;
                self.take(self.state.position(op.key), dot, &op)?;
                self.counts.conflicts += self.state.tallies.version_conflicts.saturating_sub(conflicts);
                self.clock.observe(Stamp(op.stamp), wall_millis);
                self.note_closable(&op);
                applied(Stamp(op.stamp));
                received.applied += 1;
                left -= 1;
                Ok(())
            });
            if let Err(error) = result {
                match error {
                    ApplyError::Gap { .. } => self.counts.early += left,
                    _ => self.counts.refused += left,
                }
                received.stopped = Some(error);
                break;
            }
        }
        self.counts.received += received.applied;
        received
    }

    /// Sees to it that an op whose value is left out can be applied in one step with what superseded
    /// it: nobody is to see the state between them, and nothing may be left of them but all. Says which is the last.
    fn admit<'a>(
        &mut self,
        run: &Run,
        places: &[ActorIx],
        (seq, op): (u64, &Op<'a, WireDot>),
        rest: &RunIter<'a>,
    ) -> Result<u64, ApplyError> {
        if mutant::is(Mutant::ElidedAlone) {
            return Ok(seq);
        }
        let last = rest.bundle(seq, op)?;
        place_dot(places[0], last)?;
        let (mut removals, mut bytes) = (0, 0);
        let ops = std::iter::once(Ok((seq, op.clone()))).chain(rest.clone());
        for item in ops.take((last - seq + 1) as usize) {
            let op = State::shorten(&item?.1, run.base, places)?;
            let (more, size) = self.state.unseen(&op, Some(places[0]));
            (removals, bytes) = (removals + more, bytes + size);
        }
        if removals > 0 && !self.state.parked.has_room(removals, bytes) {
            return Err(ApplyError::BundleFull);
        }
        self.log.keep_together(places[0], seq, last, Stamp(run.base.0 + op.stamp), places.len() - 1);
        Ok(last)
    }

    fn run_places(&mut self, run: &Run) -> Result<Vec<ActorIx>, TooManyActors> {
        std::iter::once(&run.actor).chain(&run.actors).map(|actor| self.state.intern(actor)).collect()
    }

    /// Remembers keys on which the op reset an own contribution in full.
    fn note_closable(&mut self, op: &Op<'_, ShortDot>) {
        let own = self.own;
        let resets_own = op.edits.iter().any(|edit| match edit {
            Edit::Reset { baselines, .. } => baselines.iter().any(|b| b.birth.actor() == own),
            _ => false,
        });
        if resets_own {
            self.closable.push(op.key.into());
        }
    }

    /// Remembers keys on which a merged state knows deletes of an own contribution.
    fn closable_of(&self, staged: &State) -> Vec<Box<[u8]>> {
        let Some(own) = staged.actors.find(self.actor()) else { return Vec::new() };
        // Mostly there is none, and then order need not be made.
        if staged.cells.all(|cells| !is_reset(cells, own)) {
            return Vec::new();
        }
        staged.cells().filter(|cells| is_reset(cells, own)).map(|cells| Box::from(cells.key())).collect()
    }

    pub(super) fn take_closable(&mut self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.closable)
    }

    pub(super) fn count_written(&mut self) {
        self.issued += 1;
        self.counts.written += 1;
    }

    /// Merges a staged state, and keeps what it came from for the disk, so that
    /// a replay does the same at the same place.
    pub fn merge(
        &mut self,
        staged: &State,
        seen: SeenEntries,
        parked: Vec<ParkedState>,
        blocks: Vec<Vec<u8>>,
    ) -> Result<(), ApplyError> {
        self.settle_pending();
        self.entries.push(Entry::MergeBegin { seen, parked });
        self.entries.extend(blocks.into_iter().map(Entry::MergeBlock));
        self.merge_ranges(&mut staged.clone(), None, &[])
    }

    /// [`Replica::merge`] where only some ranges have been staged: in the others both hold the same. What
    /// was staged is in the log already.
    /// What is here in `rotten` ones is replaced; on disk it is whole, so a replay merges as ever.
    pub(super) fn merge_ranges(
        &mut self,
        staged: &mut State,
        ranges: Option<&Ranges>,
        rotten: &[Span],
    ) -> Result<(), ApplyError> {
        self.before_merge();
        let closable = self.closable_of(staged);
        self.state.merge_ranges(staged, ranges, rotten)?;
        self.note_merge(ranges, closable);
        Ok(())
    }

    /// Ops applied before a merge stand before it in the log on disk.
    pub(super) fn before_merge(&mut self) {
        self.settle_pending();
        if mutant::is(Mutant::VolatileFilter) {
            self.state.forget_early();
        }
    }

    pub(super) fn note_merge(&mut self, ranges: Option<&Ranges>, closable: Vec<Box<[u8]>>) {
        self.closable.extend(closable);
        self.entries.push(ranges.map_or(Entry::MergeCommit, |ranges| Entry::MergeRanges {
            key: (ranges.key().0, ranges.key().1),
            spans: ranges.spans().iter().map(|span| (span.start, span.end)).collect(),
        }));
    }

    /// Begins to note which keys ops change.
    pub(super) fn watch(&mut self) {
        self.state.touched = Some(Vec::new());
    }

    /// No longer notes which keys ops change.
    pub(super) fn unwatch(&mut self) {
        self.state.touched = None;
    }

    /// Positions of the keys that ops have changed; none if they were too many.
    pub(super) fn touched(&self) -> Option<&[u64]> {
        self.state.touched.as_deref().filter(|touched| touched.len() <= bounds::TOUCHED)
    }

    /// What `Mutant::SeenTooEarly` does.
    pub(super) fn unite_seen(&mut self, seen: &SeenEntries) {
        for (actor, seq) in seen.iter() {
            if let Ok(ix) = self.state.intern(&actor) {
                self.state.seen[ix.index()] = self.state.seen[ix.index()].max(seq);
            }
        }
    }

    /// Keeps another fact for the disk.
    pub fn note(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Turns pending ranges into entries, in order.
    fn settle_pending(&mut self) {
        for (actor, first, last) in std::mem::take(&mut self.pending) {
            let mut next = first;
            while next <= last {
                let (runs, end) = self.log.read(actor, next, last, bounds::CHUNK, &self.state.actors);
                assert!(end > next, "an op is in memory until it has been taken for the disk");
                self.entries.extend(runs.into_iter().map(Entry::Run));
                next = end;
            }
        }
    }

    /// How many ops wait to be taken for the disk.
    pub fn pending_ops(&self) -> u64 {
        self.pending.iter().map(|(_, first, last)| last - first + 1).sum()
    }

    /// Whether anything waits to be taken for the disk.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.entries.is_empty()
    }

    /// Everything that happened since the last call, as records for the disk. What
    /// they hold may be acknowledged and sent once they have been written.
    pub fn take_records(&mut self) -> Vec<Vec<u8>> {
        if !self.has_pending() {
            return Vec::new();
        }
        self.settle_pending();
        let mut records = Vec::new();
        let mut record = Vec::new();
        // The ceiling stands in the same record as the stamps that it is for.
        if let Some(ceiling) = self.clock.raise_ceiling() {
            record = Entry::Ceiling(ceiling).encode(record);
        }
        for entry in self.entries.drain(..) {
            record = entry.encode(record);
            if let Entry::Run(run) = &entry
                && let Some(actor) = self.state.actors.find(&run.actor)
            {
                self.log.taken(actor, run.first, run.last(), self.record + 1);
            }
            if record.len() >= bounds::RECORD {
                records.push(std::mem::take(&mut record));
                self.record += 1;
            }
        }
        if !record.is_empty() {
            records.push(record);
            self.record += 1;
        }
        self.log.trim();
        records
    }

    /// The number of the last record taken for the disk; the log there numbers them alike.
    pub fn last_record(&self) -> u64 {
        self.record
    }

    /// The places of all actors known.
    pub fn places(&self) -> impl Iterator<Item = ActorIx> + use<> {
        (0..self.state.actors.len() as u32).map(ActorIx)
    }

    pub(super) fn intern(&mut self, actor: &Actor) -> Result<ActorIx, TooManyActors> {
        self.state.intern(actor)
    }

    /// The parked removals, for the wire and the disk.
    pub fn parked_states(&self) -> Vec<ParkedState> {
        parked_states(&self.state.parked, &self.state.actors)
    }
}

/// The dot of an op from outside.
pub(super) fn place_dot(actor: ActorIx, seq: u64) -> Result<ShortDot, ApplyError> {
    if seq > bounds::SEQ {
        let why = format!("its number {seq} is too great");
        return Err(tidings_proto::DecodeError::Malformed { what: "op", why }.into());
    }
    Ok(ShortDot::new(actor, seq))
}

/// Rebuilds a replica from what its last lives left on disk.
#[derive(Debug)]
pub struct Recovery {
    state: State,
    log: OpLog,
    ceiling: Stamp,
    staged: Option<State>,
    /// What was staged and not merged.
    leftover: Option<State>,
    members: std::collections::BTreeMap<String, tidings_proto::message::Member>,
    cursors: std::collections::BTreeMap<Name, Cursor>,
    /// The number of the record that is being read, or of the last one.
    record: u64,
}

impl Recovery {
    /// Begins with nothing.
    pub fn new(hash_key: HashKey, log_bound: usize) -> Self {
        let mut state = State::new(hash_key);
        // What was logged had room, under whatever bound there was then.
        state.parked.room = Room::default().of_merges();
        Self {
            state,
            log: OpLog::new(log_bound),
            ceiling: Stamp::default(),
            staged: None,
            leftover: None,
            members: std::collections::BTreeMap::new(),
            cursors: std::collections::BTreeMap::new(),
            record: 0,
        }
    }

    /// The meta of the checkpoint; before its blocks.
    pub fn meta(&mut self, meta: super::journal::Meta) -> Result<(), ApplyError> {
        self.state = self.state.staged(&meta.seen, &meta.parked)?;
        self.ceiling = meta.ceiling;
        self.members = meta.members.into_iter().map(|m| (m.node.to_string(), m)).collect();
        self.cursors = meta.cursors.into_iter().map(|c| (c.0.node.clone(), c)).collect();
        for (actor, stretches) in meta.shelved {
            let actor = self.state.intern(&actor)?;
            self.log.shelve(actor, &stretches);
        }
        Ok(())
    }

    /// A record from before the checkpoint, and its number: its ops are kept for whoever lacks them.
    pub fn retained(&mut self, number: u64, record: &[u8]) -> Result<(), ApplyError> {
        for entry in super::journal::entries(record) {
            let Entry::Run(run) = entry? else { continue };
            run.check()?;
            let names = std::iter::once(&run.actor).chain(&run.actors);
            let places = names.map(|a| self.state.intern(a)).collect::<Result<Vec<_>, _>>()?;
            let (mut ops, mut bundle) = (run.iter(), 0);
            while let Some(item) = ops.next() {
                let (seq, op) = item?;
                bundle = keep_together(&mut self.log, bundle, &run, places[0], (seq, &op), &ops)?;
                let op = State::shorten(&op, run.base, &places)?;
                self.log.append(place_dot(places[0], seq)?, &op);
            }
            self.log.taken(places[0], run.first, run.last(), number);
            self.log.trim();
        }
        Ok(())
    }

    /// A block of the checkpoint.
    pub fn block(&mut self, block: &[u8]) -> Result<(), ApplyError> {
        self.state.load(block)
    }

    /// A record of the log after the checkpoint, and its number.
    pub fn record(&mut self, number: u64, record: &[u8]) -> Result<(), ApplyError> {
        self.record = number;
        super::journal::entries(record).try_for_each(|entry| self.entry(entry?))
    }

    fn entry(&mut self, entry: Entry) -> Result<(), ApplyError> {
        match entry {
            Entry::Incarnation(actor) => {
                self.state.intern(&actor)?;
                self.lay_by();
            }
            Entry::Ceiling(ceiling) => self.ceiling = self.ceiling.max(ceiling),
            Entry::Run(run) => self.run(&run)?,
            Entry::MergeBegin { seen, parked } => {
                self.lay_by();
                self.staged = Some(self.state.staged(&seen, &parked)?);
            }
            Entry::MergeBlock(block) => {
                let staged = self.staged.as_mut().ok_or_else(|| misplaced("a block"))?;
                // What was left out had been seen when it came.
                staged.load_lean(&block, |_| u64::MAX)?;
            }
            Entry::MergeCommit => {
                let staged = self.staged.take().ok_or_else(|| misplaced("a commit"))?;
                self.state.merge(staged)?;
                self.leftover = None;
            }
            Entry::MergeRanges { key, spans } => {
                let mut staged = self.staged.take().ok_or_else(|| misplaced("a commit"))?;
                let spans = spans.into_iter().map(|(start, end)| Span { start, end }).collect();
                let ranges = Ranges::from_spans(HashKey(key.0, key.1), spans);
                let ranges = ranges.ok_or_else(|| misplaced("a range that overlaps another"))?;
                self.state.merge_ranges(&mut staged, Some(&ranges), &[])?;
                self.leftover = None;
            }
            Entry::Member(member) => {
                self.members.insert(member.node.to_string(), member);
            }
            Entry::Forget(node) => {
                self.members.remove(&node);
                self.cursors.retain(|name, _| name.as_str() != node);
            }
            Entry::Cursor(actor, seen) => {
                self.cursors.insert(actor.node.clone(), (actor, seen));
            }
        }
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<(), ApplyError> {
        run.check()?;
        let names = std::iter::once(&run.actor).chain(&run.actors);
        let places = names.map(|a| self.state.intern(a)).collect::<Result<Vec<_>, _>>()?;
        let (mut ops, mut bundle) = (run.iter(), 0);
        while let Some(item) = ops.next() {
            let (seq, op) = item?;
            let dot = place_dot(places[0], seq)?;
            // A checkpoint may already reflect ops that came to disk just after it began.
            if self.state.has_seen(dot) {
                continue;
            }
            bundle = keep_together(&mut self.log, bundle, run, places[0], (seq, &op), &ops)?;
            let op = State::shorten(&op, run.base, &places)?;
            self.state.apply(dot, &op)?;
            self.log.append(dot, &op);
        }
        self.log.taken(places[0], run.first, run.last(), self.record);
        self.log.trim();
        Ok(())
    }

    /// The actors known.
    pub fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.state.actors.sorted().map(|(actor, _)| actor)
    }

    /// The members known.
    pub fn members(&self) -> impl Iterator<Item = &tidings_proto::message::Member> {
        self.members.values()
    }

    /// What is staged will not be merged: it may save a later session something.
    fn lay_by(&mut self) {
        let staged = self.staged.take().filter(|staged| !staged.cells.is_empty());
        self.leftover =
            self.leftover.take().into_iter().chain(staged).max_by_key(|staged| staged.cells.len());
    }

    /// What the last context merge that broke off had staged.
    pub(crate) fn take_leftover(&mut self) -> Option<State> {
        self.lay_by();
        self.leftover.take()
    }

    /// What peers were known to hold.
    pub fn cursors(&self) -> impl Iterator<Item = &Cursor> {
        self.cursors.values()
    }

    /// The log ends with the record of that number: the next one follows it.
    pub fn ends_at(&mut self, number: u64) {
        self.record = number;
    }

    /// The replica, as a new life of the node.
    pub fn finish(self, actor: &Actor, max_clock_drift_millis: u64) -> Result<Replica, TooManyActors> {
        let clock = Clock::new(self.ceiling, max_clock_drift_millis);
        let mut replica = Replica::new(self.state, actor, clock, 0)?;
        replica.log = self.log;
        replica.record = self.record;
        replica.set_parked_room(Room::default());
        Ok(replica)
    }
}

/// What was logged together is kept together: a record holds it whole. Says up to where that is so,
/// which was up to `bundle` before.
fn keep_together<'a>(
    log: &mut OpLog,
    bundle: u64,
    run: &Run,
    actor: ActorIx,
    (seq, op): (u64, &Op<'a, WireDot>),
    rest: &RunIter<'a>,
) -> Result<u64, ApplyError> {
    if seq <= bundle || !op.edits.iter().any(Edit::is_elided) || mutant::is(Mutant::ElidedAlone) {
        return Ok(bundle);
    }
    let last = rest.bundle(seq, op)?;
    log.keep_together(actor, seq, last, Stamp(run.base.0 + op.stamp), run.actors.len());
    Ok(last)
}

fn misplaced(what: &str) -> ApplyError {
    let why = format!("{what} of a merge that was not begun");
    tidings_proto::DecodeError::Malformed { what: "record", why }.into()
}
