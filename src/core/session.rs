//! Context merges: catching up where no log reaches back far enough.
//!
//! The sender takes a snapshot and tells the version vector it belongs to, its
//! *context*. Its cells come as blocks, are staged, and are merged with the context
//! in one step at the end; a session that breaks off leaves no trace.
//!
//! Where both sides order their cells alike the session is *guided*: the receiver
//! asks for fingerprints, from the whole down to ranges of a few keys, and fetches
//! only what differs. A range in which both hold the same needs no merge, as long as
//! it stays so: what ops have touched meanwhile is fetched before the step is taken. What is to be asked next
//! is in `guide`; where much is to be fetched other members give some of it (`sources`).

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use tidings_proto::cell::ParkedState;
use tidings_proto::message::{RangeParts, Sync};
use tidings_proto::{Actor, Message, SeenEntries};

use super::actors::ActorIx;
use super::block::BlockBuilder;
use super::bounds;
use super::fingerprint::{Prefix, Ranges};
use super::guide::{Guide, Stream, Wanted};
use super::journal::Entry;
use super::leftover::Leftover;
use super::link::{Event, Gossip, LinkId, Now};
use super::mutant::{self, Mutant};
use super::outgoing::Outgoing;
use super::prepare::{Prepared, Preparing, Spent};
use super::replica::Replica;
use super::snapshot::SnapshotId;
use super::sources::{Farewell, Sharing, Source};
use super::state::{ApplyError, State};

/// How long to wait after a session that failed; microseconds.
const REST: u64 = 1_000_000;

/// Bits of a position that tell a single key from its neighbours.
const KEY_BITS: u32 = 52;

/// The context merge that this node is receiving.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The session with the peer whose snapshot it is.
    pub(super) stream: Stream,
    began: u64,
    pub(super) context: Option<Context>,
    /// Blocks that have come from everybody, and their bytes.
    pub(super) blocks: u32,
    pub(super) bytes: usize,
    /// Bytes of blocks that the log has of it.
    pub(super) logged: usize,
    pub(super) guide: Option<Guide>,
    /// Other members who give some of it, and all links that were asked.
    pub(super) sources: Vec<Source>,
    pub(super) tried: BTreeSet<LinkId>,
    /// How many of them have given some.
    pub(super) gave: usize,
    /// Whether something may have to be asked for that no message asks for.
    pub(super) stirred: bool,
    /// Whether it is because both have seen the same and differ.
    pub(super) reconciles: bool,
    /// What the step at the end will do, and when more of that is to be worked out.
    pub(super) prepared: Option<(Prepared, u64)>,
}

impl Incoming {
    /// When something is to be done about it: at once, if an earlier session has left some of it.
    fn due(&self) -> u64 {
        let left = self.guide.as_ref().is_some_and(|guide| !guide.left_over.is_empty());
        let sources = self.sources.iter().map(|source| source.stream.deadline);
        let prepare = self.prepared.iter().filter(|(prepared, _)| !prepared.is_done()).map(|(_, at)| *at);
        if left { 0 } else { sources.chain(prepare).fold(self.stream.deadline, u64::min) }
    }

    /// Ends it, with what was staged.
    fn into_staged(self) -> Option<State> {
        let mut context = self.context?;
        if let Some((prepared, _)) = self.prepared {
            prepared.give_back(&mut context.staged);
        }
        Some(context.staged)
    }
}

/// The moment that a snapshot is of, and what of it is here.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) staged: State,
    seen: SeenEntries,
    parked: Vec<ParkedState>,
    /// Keys of the snapshot, if all of them are wanted.
    keys: Option<u64>,
}

/// Context merges under way.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    pub(super) incoming: Option<Incoming>,
    pub(super) sharing: Sharing,
    pub(super) preparing: Preparing,
    pub(super) outgoing: BTreeMap<LinkId, Outgoing>,
    /// Snapshots whose receivers are gone.
    pub(super) ended: Vec<SnapshotId>,
    /// No new one is begun before this moment.
    not_before: u64,
    /// Ranges whose cells here have rotted.
    pub(super) rotten: Vec<Prefix>,
    /// What the last one has left that broke off.
    leftover: Option<Leftover>,
}

impl Merges {
    /// Begins with what was staged when the last life ended.
    pub(crate) fn new(staged: Option<State>, now: Now) -> Self {
        Self { leftover: staged.and_then(|staged| Leftover::of(staged, now.mono)), ..Self::default() }
    }

    /// How many states are being sent.
    pub(super) fn sending(&self) -> usize {
        self.outgoing.len()
    }

    pub(super) fn due(&self) -> impl Iterator<Item = u64> {
        let outgoing = self.outgoing.values().map(Outgoing::due);
        let left = self.leftover.iter().map(|leftover| leftover.until);
        let incoming = self.incoming.iter().map(Incoming::due);
        incoming.chain(outgoing).chain(left)
    }

    fn incoming_of(&mut self, link: LinkId, id: u64) -> Option<&mut Incoming> {
        self.incoming.as_mut().filter(|incoming| incoming.stream.link == link && incoming.stream.id == id)
    }

    /// Whose session it is that has been silent for too long.
    fn late(&self, now: Now) -> Option<(LinkId, u64)> {
        let stream = &self.incoming.as_ref()?.stream;
        (stream.deadline <= now.mono).then_some((stream.link, stream.id))
    }

    pub(super) fn outgoing_of(&mut self, link: LinkId, id: u64) -> Option<&mut Outgoing> {
        self.outgoing.get_mut(&link).filter(|outgoing| outgoing.id == id)
    }
}

impl Context {
    fn load(&mut self, block: &[u8], here: &State) -> Result<(), ApplyError> {
        let seen = |actor: &Actor| here.actors().find(actor).map_or(0, |ix| here.seen(ix));
        self.staged.load_lean(block, seen)
    }
}

/// How far an incoming context merge has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeProgress {
    /// From whom: whose snapshot it is.
    pub link: LinkId,
    /// How many members it streams from, this one included.
    pub members: usize,
    /// When it began; monotonic microseconds.
    pub began: u64,
    /// Blocks received.
    pub blocks: u32,
    /// Bytes received.
    pub bytes: usize,
    /// Bytes that the log has of it, which a checkpoint before its end would only have written again.
    pub logged: usize,
    /// Keys received, or left from an earlier session.
    pub keys: u64,
    /// Keys that are to be received, where that is known: if nothing of the state is here.
    pub of: Option<u64>,
}

impl Gossip {
    /// The context merge under way, if any.
    pub fn merge_progress(&self) -> Option<MergeProgress> {
        let incoming = self.merges.incoming.as_ref()?;
        let Incoming { began, blocks, bytes, logged, .. } = *incoming;
        let (link, members, context) = (incoming.stream.link, incoming.members(), incoming.context.as_ref());
        let taken = incoming.prepared.as_ref().map_or(0, |(prepared, _)| prepared.staged());
        let keys = taken + context.map_or(0, |context| context.staged.cells.len() as u64);
        let of = context.and_then(|context| context.keys);
        Some(MergeProgress { link, members, began, blocks, bytes, logged, keys, of })
    }

    /// Asks a peer for its state. One such session at a time.
    pub(super) fn begin_merge(&mut self, now: Now, replica: &mut Replica, from: LinkId) {
        self.begin_merge_for(now, replica, from, false);
    }

    /// [`Gossip::begin_merge`], perhaps because both have seen the same and differ. Says whether it has begun.
    pub(super) fn begin_merge_for(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        reconciles: bool,
    ) -> bool {
        if self.merges.incoming.is_some()
            || self.merges.not_before > now.mono
            || !self.links.contains_key(&from)
        {
            return false;
        }
        let id = self.fresh_id();
        let guided = self.is_comparable(replica, from);
        let mut guide = Guide::new(self.merges.rotten.clone(), replica.state().seen.clone());
        // What is to be replaced or compared is wanted whole.
        guide.lean = guide.rotten.is_empty() && !reconciles;
        if guided {
            replica.watch();
        }
        self.merges.incoming = Some(Incoming {
            stream: Stream::new(id, from, now),
            began: now.mono,
            context: None,
            blocks: 0,
            bytes: 0,
            logged: 0,
            guide: guided.then_some(guide),
            sources: Vec::new(),
            tried: BTreeSet::from([from]),
            gave: 0,
            stirred: false,
            reconciles,
            prepared: None,
        });
        self.send(from, Message::Sync(Sync::Merge { id, guided }));
        true
    }

    pub(super) fn on_session(&mut self, now: Now, replica: &mut Replica, from: LinkId, mut sync: Sync) {
        if self.on_source(now, replica, from, &mut sync) {
            return;
        }
        match sync {
            Sync::Merge { id, guided } => self.on_merge(now, replica, from, id, guided),
            Sync::Credit { id, blocks } => self.on_credit(now, replica, from, id, blocks),
            Sync::Narrow { id, number, ranges } => self.on_narrow(now, replica, from, id, number, &ranges),
            Sync::Fetch { id, number, ranges, lean } => {
                self.on_fetch(now, replica, from, (id, number), &ranges, lean);
            }
            Sync::Done { id } => {
                if let Some(outgoing) =
                    self.merges.outgoing.extract_if(.., |at, o| *at == from && o.id == id).next()
                {
                    replica.end_snapshot(outgoing.1.snapshot);
                }
            }
            Sync::Context { id, seen, parked, keys } => {
                self.on_context(now, replica, from, id, seen, parked, keys);
            }
            Sync::Parts { id, number, parts } => self.on_parts(now, replica, from, id, number, &parts),
            Sync::Block { id, index, block } => {
                if mutant::is(Mutant::VolatileFilter) && self.merges.incoming_of(from, id).is_some() {
                    replica.merge_early(&block);
                }
                self.on_block(now, replica, from, id, index, block);
            }
            Sync::End { id, number, blocks } => self.on_end(now, replica, from, id, number, blocks),
            Sync::Abort { id, reason: _ } => self.on_abort(now, replica, from, id),
            Sync::Syn { .. } | Sync::Ack { .. } | Sync::Ack2 { .. } => unreachable!("not of a session"),
        }
    }
}

/// The receiver's side.
impl Gossip {
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn on_context(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        seen: SeenEntries,
        parked: Vec<ParkedState>,
        there: u64,
    ) {
        let (left, sharing) = (self.merges.leftover.is_some(), self.merges.sharing);
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        // The blocks that have come belong to the first.
        if incoming.context.is_some() && !mutant::is(Mutant::SecondContext) {
            return self.refuse_merge(now, from, id, "a second context");
        }
        let mut staged = match replica.state().staged(&seen, &parked) {
            Ok(staged) => staged,
            Err(error) => return self.refuse_merge(now, from, id, &error.to_string()),
        };
        if mutant::is(Mutant::SeenTooEarly) {
            replica.unite_seen(&seen);
        }
        let has = |ix: ActorIx| staged_seen(&staged, replica.state(), ix);
        let lacks = |seen: &[u64]| seen.iter().enumerate().any(|(at, seq)| *seq > has(ActorIx(at as u32)));
        let lacks = incoming.guide.as_ref().is_some_and(|guide| lacks(&guide.seen));
        let here = replica.state().fingerprint_of(Prefix::ROOT).keys;
        let much = there >= sharing.keys && here.saturating_mul(sharing.times) <= there;
        let keys = (here == 0 || incoming.guide.is_none()).then_some(there);
        staged.expect(keys.unwrap_or_default());
        incoming.context = Some(Context { staged, seen: seen.clone(), parked: parked.clone(), keys });
        replica.note(Entry::MergeBegin { seen, parked });
        incoming.stream.heard(now);
        let credit = incoming.stream.credit();
        if let Some(guide) = &mut incoming.guide {
            if lacks && !guide.rotten.is_empty() {
                // It gets what it lacks by push and sync; then this is tried again.
                return self.give_up_merge(now, from, id, "it has not seen all that is to be replaced");
            }
            guide.rotten.clone().into_iter().for_each(|range| guide.want(range, None));
            match here {
                _ if much && guide.rotten.is_empty() => guide.share(there),
                0 if !left => guide.want(Prefix::ROOT, None),
                _ => guide.frontier.push_back(Prefix::ROOT),
            }
        }
        credit.into_iter().for_each(|credit| self.send(from, Message::Sync(credit)));
        self.go_on(now, replica, from, id);
    }

    fn on_parts(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        number: u32,
        parts: &[RangeParts],
    ) {
        let Merges { incoming, leftover, .. } = &mut self.merges;
        let Some(incoming) = incoming.as_mut().filter(|i| i.stream.is(from, id)) else { return };
        incoming.stream.heard(now);
        let Some(guide) = &mut incoming.guide else { return };
        let Some(ranges) = incoming.stream.answered(number) else { return };
        if ranges.is_empty() || ranges.len() != parts.len() {
            return self.refuse_merge(now, from, id, "the parts are not those asked for");
        }
        let left = leftover.as_ref().map(|leftover| leftover.parts(&ranges));
        let left = left.unwrap_or_else(|| vec![Default::default(); ranges.len()]);
        let ours = replica.state().fingerprints_of(&ranges);
        for (((range, ours), left), theirs) in ranges.into_iter().zip(&ours).zip(&left).zip(parts) {
            guide.compare(range, ours, left, theirs);
        }
        self.go_on(now, replica, from, id);
    }

    fn on_block(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        index: u32,
        block: Vec<u8>,
    ) {
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        let loaded = match &mut incoming.context {
            None => Err("a block came before its context".to_string()),
            Some(_) if index != incoming.stream.blocks => Err("a block is missing".into()),
            Some(_) if incoming.bytes + block.len() > bounds::STAGED => Err("the state is too large".into()),
            // What has been worked out stands for what had come.
            Some(context)
                if incoming.prepared.is_some()
                    && !context.is_awaited(&block, &incoming.stream.awaited).unwrap_or(false) =>
            {
                Err("it sends what it was not asked for".into())
            }
            Some(context) => context.load(&block, replica.state()).map_err(|error| error.to_string()),
        };
        if let Err(reason) = loaded {
            self.refuse_merge(now, from, id, &reason);
            return;
        }
        incoming.bytes += block.len();
        incoming.logged += block.len();
        incoming.blocks += 1;
        incoming.stream.blocks += 1;
        // In the log as it comes: a process that is killed begins its next session with it.
        replica.note(Entry::MergeBlock(block));
        incoming.stream.heard(now);
        let credit = incoming.stream.credit();
        let context = incoming.context.as_ref();
        let arrived = context.map_or(0, |context| incoming.stream.take_arrived(&context.staged));
        credit.into_iter().for_each(|credit| self.send(from, Message::Sync(credit)));
        self.counts.blocks_received += 1;
        if arrived > 0 {
            self.go_on(now, replica, from, id);
        }
    }

    fn on_end(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64, number: u32, blocks: u32) {
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        let guided = incoming.guide.is_some();
        if guided && !incoming.stream.is_next_end(number) && !mutant::is(Mutant::FetchesUnnumbered) {
            return;
        }
        let Some(context) = incoming.context.as_ref().filter(|_| incoming.stream.blocks == blocks) else {
            return self.refuse_merge(now, from, id, "blocks are missing at the end");
        };
        if !guided {
            return self.commit_merge(now, replica, None);
        }
        let Some(ended) = incoming.stream.ended() else {
            return self.refuse_merge(now, from, id, "it ends what was not asked for");
        };
        incoming.stream.heard(now);
        // Where a source had sent some, there may be more than the primary holds.
        let is_mixed = |wanted: &Wanted| wanted.begun && !wanted.has_come(&context.staged);
        let mixed: Vec<Wanted> = ended.into_iter().filter(is_mixed).collect();
        if !mixed.is_empty() {
            self.fetch_anew(replica, mixed);
        }
        self.go_on(now, replica, from, id);
    }

    /// Asks for what is next in a guided session, or ends it: not before what ops
    /// have touched outside of the ranges that were fetched has been fetched too.
    pub(super) fn go_on(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64) {
        if self.merges.incoming_of(from, id).is_none_or(|incoming| incoming.guide.is_none()) {
            return;
        }
        let key = replica.state().hash_key;
        self.hand_out();
        if !self.is_complete() || self.is_preparing() {
            return;
        }
        let Some(guide) = self.merges.incoming_of(from, id).and_then(|i| i.guide.as_mut()) else { return };
        let Some(touched) = replica.touched() else {
            return self.give_up_merge(now, from, id, "too much was written meanwhile");
        };
        let staged = guide.ranges(key);
        let rotten = Ranges::new(key, guide.rotten.iter().copied());
        if touched.iter().any(|position| rotten.contains(*position)) {
            return self.give_up_merge(now, from, id, "what is to be replaced was written to");
        }
        if !mutant::is(Mutant::SkippedNotChecked) {
            let outside = touched.iter().filter(|position| !staged.contains(**position));
            outside.for_each(|position| guide.want(Prefix::of(*position, KEY_BITS), None));
        }
        self.hand_out();
        if self.is_complete() && self.is_prepared(now, replica, &staged) {
            self.send(from, Message::Sync(Sync::Done { id }));
            self.commit_merge(now, replica, Some(&staged));
        }
    }

    /// Whether all has come that a guided session asks for.
    fn is_complete(&self) -> bool {
        let Some(Incoming { guide: Some(guide), stream, sources, .. }) = &self.merges.incoming else {
            return false;
        };
        guide.is_complete(stream) && sources.is_empty()
    }

    /// Bytes of something large arrive over a link. While they do, the session that waits for them goes on, and
    /// its sender is told that it does.
    pub(crate) fn receiving(&mut self, now: Now, link: LinkId) {
        let Some(incoming) = self.merges.incoming.as_mut().filter(|incoming| incoming.context.is_some())
        else {
            return;
        };
        let others = incoming.sources.iter_mut().map(|source| &mut source.stream);
        let mut streams = std::iter::once(&mut incoming.stream).chain(others);
        if let Some(credit) = streams.find(|stream| stream.link == link).and_then(|s| s.still_comes(now)) {
            self.send(link, Message::Sync(credit));
        }
    }

    /// Takes over some of what an earlier session has left and this one need not fetch.
    pub(super) fn take_left_over(&mut self, now: Now, replica: &mut Replica) {
        let Merges { incoming, leftover, .. } = &mut self.merges;
        let Some(incoming) = incoming.as_mut() else { return };
        let Some((guide, context)) = incoming.guide.as_mut().zip(incoming.context.as_mut()) else { return };
        let Some(span) = guide.left_over.pop_front() else { return };
        let (link, id) = (incoming.stream.link, incoming.stream.id);
        let (blocks, rest) = leftover.as_ref().map(|left| left.blocks(span)).unwrap_or_default();
        if let Some(rest) = rest {
            guide.left_over.push_front(rest);
        }
        for block in blocks {
            if context.staged.load(&block).is_err() {
                // Two fingerprints were equal and what they are of is not: nobody's offence.
                self.merges.leftover = None;
                return self.give_up_merge(now, link, id, "what was left does not fit");
            }
            self.counts.blocks_reused += 1;
            incoming.logged += block.len();
            replica.note(Entry::MergeBlock(block));
        }
        incoming.stream.heard(now);
        self.go_on(now, replica, link, id);
    }

    /// Has the log hold the session that is under way anew: what came before a checkpoint is not
    /// read after a restart, nor is what came before another life began.
    pub(crate) fn log_merge_again(&self, replica: &mut Replica) {
        let Some(incoming) = self.merges.incoming.as_ref() else { return };
        let Some(Context { staged, seen, parked, .. }) = &incoming.context else { return };
        replica.note(Entry::MergeBegin { seen: seen.clone(), parked: parked.clone() });
        let mut builder = BlockBuilder::new(staged.actors());
        let taken = incoming.prepared.iter().flat_map(|(prepared, _)| prepared.staged_cells());
        staged.cells().chain(taken).for_each(|cells| builder.push(cells));
        builder.finish().into_iter().for_each(|block| replica.note(Entry::MergeBlock(block)));
    }

    fn commit_merge(&mut self, now: Now, replica: &mut Replica, ranges: Option<&Ranges>) {
        let mut incoming = self.merges.incoming.take().expect("the caller found it");
        let context = incoming.context.as_mut().expect("the caller checked");
        let (from, id) = (incoming.stream.link, incoming.stream.id);
        let (members, blocks, bytes) = (1 + incoming.gave, incoming.blocks, incoming.bytes);
        let rotten = incoming.guide.as_ref().map(|guide| guide.rotten.clone()).unwrap_or_default();
        let replaced = Ranges::new(replica.state().hash_key, rotten.iter().copied());
        self.absorb(replica, from, &context.seen);
        let spans = ranges.filter(|_| incoming.reconciles).map(|ranges| ranges.spans().to_vec());
        let unsound = spans.as_ref().map(|spans| replica.state().rotten_within(spans)).unwrap_or_default();
        if !unsound.is_empty() {
            self.merges.incoming = Some(incoming);
            self.repair(unsound);
            return self.give_up_merge(now, from, id, "what differs has rotted here");
        }
        let merged = match (&mut incoming.prepared, ranges) {
            (Some((prepared, _)), Some(ranges)) => {
                replica.merge_prepared(&mut context.staged, ranges, prepared)
            }
            _ => {
                replica.merge_ranges(&mut context.staged, ranges, replaced.spans()).map(|()| Spent::default())
            }
        };
        if let Err(error) = merged.map(|spent| self.out.spent.push(spent)) {
            self.merges.incoming = Some(incoming);
            self.give_up_merge(now, from, id, &error.to_string());
            // Lack of room here is nobody's offence.
            if error != ApplyError::ParkedFull {
                self.misbehaved(from, error);
            }
            return;
        }
        self.counts.merges += 1;
        if let Some((prepared, _)) = &incoming.prepared {
            self.counts.keys_prepared += prepared.kept;
            self.counts.keys_again += prepared.again;
        }
        let leftover = self.merges.leftover.take().map(Leftover::into_state);
        self.out.spent.extend(
            incoming.context.take().map(|context| context.staged).into_iter().chain(leftover).map(Spent::of),
        );
        self.merges.rotten.retain(|range| !rotten.contains(range));
        self.counts.repaired += rotten.len() as u64;
        self.receive_ahead(now, replica, from);
        let node = self.links[&from].actor.node.clone();
        self.out.events.push(Event::Merged { node, members, blocks, bytes });
        if let Some(spans) = spans {
            self.reconciled(now, from, &spans);
        }
        self.plan_push(now, false, Some(from));
    }

    /// Takes note of ranges whose cells have rotted: they are replaced from whatever peer can.
    pub fn repair(&mut self, mut ranges: Vec<Prefix>) {
        ranges.retain(|range| !self.merges.rotten.contains(range));
        if !ranges.is_empty() && !mutant::is(Mutant::RotLeft) {
            self.counts.rotten += ranges.len() as u64;
            self.merges.rotten.extend(&ranges);
            self.out.events.push(Event::Rotten(ranges));
        }
    }

    /// Ranges whose cells have rotted and have not been replaced.
    pub fn rotten(&self) -> &[Prefix] {
        &self.merges.rotten
    }

    /// Asks a peer that orders its cells alike for what has rotted here.
    pub(super) fn repair_due(&mut self, now: Now, replica: &mut Replica) {
        if self.merges.rotten.is_empty()
            || self.merges.incoming.is_some()
            || self.merges.not_before > now.mono
        {
            return;
        }
        // What has rotted may have been deleted since.
        let is_rotten = |range: &Prefix| !replica.state().rotten_within(&[range.span()]).is_empty();
        let before = self.merges.rotten.len();
        self.merges.rotten.retain(is_rotten);
        self.counts.repaired += (before - self.merges.rotten.len()) as u64;
        if self.merges.rotten.is_empty() {
            return;
        }
        let peers: Vec<LinkId> =
            self.links.keys().copied().filter(|id| self.is_comparable(replica, *id)).collect();
        if !peers.is_empty() {
            let peer = peers[self.rng.random_range(0..peers.len())];
            self.begin_merge(now, replica, peer);
        }
    }

    fn refuse_merge(&mut self, now: Now, from: LinkId, id: u64, reason: &str) {
        self.give_up_merge(now, from, id, reason);
        self.misbehaved(from, reason);
    }

    pub(super) fn give_up_merge(&mut self, now: Now, from: LinkId, id: u64, reason: &str) {
        self.break_off(now, REST);
        let text: String = reason.chars().take(64).collect();
        self.send(from, Message::Sync(Sync::Abort { id, reason: text }));
    }
}

/// Either side, when a session ends before its time.
impl Gossip {
    /// Ends the merge under way, keeps what it had come to for the next one, and lets that wait for a while.
    fn break_off(&mut self, now: Now, rest: u64) {
        let Some(mut incoming) = self.merges.incoming.take() else { return };
        for Source { stream, .. } in std::mem::take(&mut incoming.sources) {
            self.send(stream.link, Message::Sync(Sync::Done { id: stream.id }));
        }
        let staged = incoming.into_staged().and_then(|staged| Leftover::of(staged, now.mono));
        self.merges.leftover = Leftover::fuller(self.merges.leftover.take(), staged);
        self.counts.merges_aborted += 1;
        self.merges.not_before = now.mono + rest;
    }

    /// Gives up sessions whose other side has gone silent.
    pub(super) fn expire_merges(&mut self, now: Now) {
        if let Some((link, id)) = self.merges.late(now) {
            self.break_off(now, REST);
            self.send(link, Message::Sync(Sync::Abort { id, reason: "no answer in time".into() }));
        }
        let sources = self.merges.incoming.iter().flat_map(|incoming| &incoming.sources);
        let late = sources.map(|source| &source.stream).filter(|stream| stream.deadline <= now.mono);
        let late: Vec<LinkId> = late.map(|stream| stream.link).collect();
        late.into_iter().for_each(|link| self.end_source(link, Farewell::Abort("no answer in time")));
        self.merges.leftover.take_if(|leftover| leftover.until <= now.mono);
        let late = self.merges.outgoing.extract_if(.., |_, outgoing| outgoing.deadline <= now.mono);
        for (link, Outgoing { id, snapshot, .. }) in late.collect::<Vec<_>>() {
            self.merges.ended.push(snapshot);
            self.send(link, Message::Sync(Sync::Abort { id, reason: "no credit in time".into() }));
        }
    }

    pub(super) fn merge_link_down(&mut self, now: Now, link: LinkId) {
        if self.merges.incoming.as_ref().is_some_and(|incoming| incoming.stream.link == link) {
            self.break_off(now, 0);
        }
        self.end_source(link, Farewell::None);
        if let Some(outgoing) = self.merges.outgoing.remove(&link) {
            self.merges.ended.push(outgoing.snapshot);
        }
    }

    fn on_abort(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64) {
        if self.merges.incoming_of(from, id).is_some() {
            self.break_off(now, REST);
        }
        if self.merges.outgoing_of(from, id).is_some()
            && let Some(outgoing) = self.merges.outgoing.remove(&from)
        {
            replica.end_snapshot(outgoing.snapshot);
        }
    }

    /// Lets go of what sessions held that are over.
    pub(super) fn end_lost_sessions(&mut self, replica: &mut Replica) {
        self.merges.ended.drain(..).for_each(|snapshot| replica.end_snapshot(snapshot));
        if self.merges.incoming.is_none() {
            replica.unwatch();
        }
    }
}

/// Up to where a staged state has seen an actor of ours.
fn staged_seen(staged: &State, ours: &State, actor: ActorIx) -> u64 {
    staged.actors().find(ours.actors().get(actor)).map_or(0, |there| staged.seen(there))
}
