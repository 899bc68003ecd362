//! sync: anti-entropy, and the context merge where the log does not reach.
//!
//! Every so often version vectors are compared with a few peers and what is
//! missing on either side is shipped from the log. A peer whose log no longer
//! reaches back sends its whole state instead, as blocks of one snapshot with the
//! version vector they belong to. They are staged, and merged in one step at the
//! end; a session that breaks off leaves no trace.

use std::collections::BTreeMap;

use rand::RngExt;
use tidings_proto::cell::ParkedState;
use tidings_proto::message::Sync;
use tidings_proto::{Block, Message, Run, SeenEntries, bounds as wire};

use super::bounds;
use super::link::{Answer, Event, Gossip, LinkId, Now, Token};
use super::mutant::{self, Mutant};
use super::pull::{GRACE, Source};
use super::replica::Replica;
use super::snapshot::{Begun, SnapshotId, Step};
use super::state::{ApplyError, State};

/// A version vector of at most this many entries travels with SYN.
const SMALL_SEEN: usize = 64;

/// How long a link is young; microseconds.
const YOUNG: u64 = 2_000_000;

/// How long a context merge may be silent before it is given up; microseconds.
const MERGE_PATIENCE: u64 = 15_000_000;

/// How long the receiver of one may be silent: its patience, and time for blocks in flight; microseconds.
const OUTGOING_PATIENCE: u64 = 60_000_000;

/// The context merge that this node is receiving.
#[derive(Debug)]
struct Incoming {
    id: u64,
    link: LinkId,
    deadline: u64,
    context: Option<(State, SeenEntries, Vec<ParkedState>)>,
    blocks: Vec<Vec<u8>>,
    bytes: usize,
    granted: u32,
}

/// A context merge that this node is sending.
#[derive(Debug)]
struct Outgoing {
    id: u64,
    snapshot: SnapshotId,
    sent: u32,
    credit: u32,
    deadline: u64,
}

/// Context merges under way.
#[derive(Debug, Default)]
pub(super) struct Merges {
    incoming: Option<Incoming>,
    outgoing: BTreeMap<LinkId, Outgoing>,
    /// Snapshots whose receivers are gone.
    ended: Vec<SnapshotId>,
    /// No new one is begun before this moment.
    not_before: u64,
}

impl Merges {
    /// How many whole states are being sent.
    pub(super) fn sending(&self) -> usize {
        self.outgoing.len()
    }

    pub(super) fn due(&self) -> impl Iterator<Item = u64> {
        let outgoing = self.outgoing.values().map(|outgoing| outgoing.deadline);
        self.incoming.iter().map(|incoming| incoming.deadline).chain(outgoing)
    }
}

/// How far an incoming context merge has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeProgress {
    /// From whom.
    pub link: LinkId,
    /// Blocks received.
    pub blocks: usize,
    /// Bytes received.
    pub bytes: usize,
}

impl Gossip {
    /// The context merge under way, if any.
    pub fn merge_progress(&self) -> Option<MergeProgress> {
        let incoming = self.merges.incoming.as_ref()?;
        Some(MergeProgress { link: incoming.link, blocks: incoming.blocks.len(), bytes: incoming.bytes })
    }

    /// An anti-entropy round: as many peers as the fanout says, drawn from all.
    pub(super) fn sync_round(&mut self, now: Now, replica: &Replica) {
        self.plan_sync(now);
        let mut links: Vec<LinkId> = self.links.keys().copied().collect();
        for at in 0..self.settings.fanout.min(links.len()) {
            let other = self.rng.random_range(at..links.len());
            links.swap(at, other);
            self.begin_sync(replica, links[at], None);
        }
    }

    /// Compares version vectors with one peer. A newer exchange replaces an older one.
    pub fn begin_sync(&mut self, replica: &Replica, to: LinkId, token: Option<Token>) {
        if !self.links.contains_key(&to) {
            self.out.answers.extend(token.map(|token| (token, Answer::LinkDown)));
            return;
        }
        let id = self.fresh_id();
        let entries = replica.state().seen_entries();
        let digest = entries.digest();
        // Ops are asked of one at a time: two answers would hold the same. What is
        // wanted is on its way, or will be asked for in its time.
        let others = self.links.iter().any(|(id, link)| *id != to && link.syn.is_some());
        let credit = if others || self.wants.any() { 0 } else { wire::BATCH as u32 };
        let link = self.links.get_mut(&to).expect("just found");
        link.syn = Some((id, digest));
        if let Some(token) = token {
            self.asked.insert(id, (to, token));
        }
        self.counts.syncs_begun += 1;
        let entries = (entries.len() <= SMALL_SEEN).then_some(entries);
        self.send(to, Message::Sync(Sync::Syn { id, digest, entries, credit }));
    }

    pub(crate) fn on_sync(&mut self, now: Now, replica: &mut Replica, from: LinkId, sync: Sync) {
        match sync {
            Sync::Syn { id, digest, entries, credit } => {
                self.on_syn(now, replica, from, id, (digest, entries), credit);
            }
            Sync::Ack { id, entries, runs } => self.on_ack(now, replica, from, id, entries, &runs),
            Sync::Ack2 { id: _, runs } => {
                self.receive(now, replica, from, &runs);
            }
            Sync::Merge { id } => self.on_merge(now, replica, from, id),
            Sync::Credit { id, blocks } => self.on_credit(now, replica, from, id, blocks),
            Sync::Context { id, seen, parked } => self.on_context(now, replica, from, id, seen, parked),
            Sync::Block { id, index, block } => {
                if mutant::is(Mutant::VolatileFilter) && self.merges.incoming_of(from, id).is_some() {
                    replica.merge_early(&block);
                }
                self.on_block(now, from, id, index, block);
            }
            Sync::End { id, blocks } => self.on_end(now, replica, from, id, blocks),
            Sync::Abort { id, reason: _ } => self.on_abort(now, replica, from, id),
        }
    }

    fn on_syn(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        (digest, entries): (tidings_proto::SeenDigest, Option<SeenEntries>),
        credit: u32,
    ) {
        self.counts.syncs_answered += 1;
        let ours = replica.state().seen_entries();
        if ours.digest() == digest {
            self.counts.syncs_equal += 1;
            self.absorb(replica, from, &ours);
            self.send(from, Message::Sync(Sync::Ack { id, entries: None, runs: Vec::new() }));
            return;
        }
        let mut runs = Vec::new();
        if let Some(entries) = entries {
            self.absorb(replica, from, &entries);
            // A version vector and ops must fit one message: a large one travels alone.
            let credit = if ours.len() <= bounds::ANNOUNCED { credit } else { 0 };
            runs = self.lacking(now, replica, from, (credit as usize).min(wire::BATCH));
            self.want(now, replica, from, Source::Sync);
        }
        self.send(from, Message::Sync(Sync::Ack { id, entries: Some(ours), runs }));
    }

    fn on_ack(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        entries: Option<SeenEntries>,
        runs: &[Run],
    ) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let digest = link.syn.take_if(|(syn, _)| *syn == id).map(|(_, digest)| digest);
        self.counts.syncs_ended += 1;
        self.receive(now, replica, from, runs);
        let equal = entries.is_none();
        match entries {
            None => {
                self.counts.syncs_equal += 1;
                let ours = replica.state().seen_entries();
                if digest == Some(ours.digest()) {
                    self.absorb(replica, from, &ours);
                }
            }
            Some(entries) => {
                self.absorb(replica, from, &entries);
                let runs = self.lacking(now, replica, from, wire::BATCH);
                if !runs.is_empty() {
                    self.send(from, Message::Sync(Sync::Ack2 { id, runs }));
                }
                self.want(now, replica, from, Source::Sync);
            }
        }
        self.answered(from, id, Answer::Synced { equal });
    }

    /// Ops that a peer is known to lack, as far as the log and the budget reach.
    /// Not what is fresh: that is on its way to the peer from its origin, most likely.
    /// Nor over a young link: the peer has been told what we have, and is asking for it.
    fn lacking(&mut self, now: Now, replica: &Replica, to: LinkId, budget: usize) -> Vec<Run> {
        let (mut runs, mut left) = (Vec::new(), budget);
        let Some(link) = self.links.get_mut(&to).filter(|link| link.since + YOUNG <= now.mono) else {
            return runs;
        };
        let state = replica.state();
        for actor in replica.places() {
            let (known, seen) = (link.known(actor), state.seen(actor));
            let fresh = self.moved.get(actor.index()).is_some_and(|at| *at + GRACE > now.mono);
            if known >= seen || left == 0 || fresh {
                continue;
            }
            let (read, next) = replica.log().read(actor, known + 1, seen, left, state.actors());
            let size: usize = read.iter().map(|run| run.ops.len()).sum();
            if size > left && !runs.is_empty() {
                // One op over the budget travels alone: the peer pulls it.
                break;
            }
            left = left.saturating_sub(size);
            if actor == replica.own() {
                link.sent = link.sent.max(next - 1);
            }
            runs.extend(read);
        }
        self.counts.ops_sent += runs.iter().map(|run: &Run| u64::from(run.count)).sum::<u64>();
        runs
    }

    /// Asks a peer for its whole state. One such session at a time.
    pub(super) fn begin_merge(&mut self, now: Now, from: LinkId) {
        if self.merges.incoming.is_some()
            || self.merges.not_before > now.mono
            || !self.links.contains_key(&from)
        {
            return;
        }
        let id = self.fresh_id();
        self.merges.incoming = Some(Incoming {
            id,
            link: from,
            deadline: now.mono + MERGE_PATIENCE,
            context: None,
            blocks: Vec::new(),
            bytes: 0,
            granted: 0,
        });
        self.send(from, Message::Sync(Sync::Merge { id }));
    }

    /// Gives up sessions whose other side has gone silent.
    pub(super) fn expire_merges(&mut self, now: Now) {
        if let Some(Incoming { id, link, .. }) = self.merges.incoming.take_if(|i| i.deadline <= now.mono) {
            self.counts.merges_aborted += 1;
            self.merges.not_before = now.mono + 1_000_000;
            self.send(link, Message::Sync(Sync::Abort { id, reason: "no answer in time".into() }));
        }
        let late = self.merges.outgoing.extract_if(.., |_, outgoing| outgoing.deadline <= now.mono);
        for (link, Outgoing { id, snapshot, .. }) in late.collect::<Vec<_>>() {
            self.merges.ended.push(snapshot);
            self.send(link, Message::Sync(Sync::Abort { id, reason: "no credit in time".into() }));
        }
    }

    pub(super) fn merge_link_down(&mut self, now: Now, link: LinkId) {
        if self.merges.incoming.take_if(|incoming| incoming.link == link).is_some() {
            self.counts.merges_aborted += 1;
            self.merges.not_before = now.mono;
        }
        if let Some(outgoing) = self.merges.outgoing.remove(&link) {
            self.merges.ended.push(outgoing.snapshot);
        }
    }

    /// One snapshot is left for the checkpoint, whoever else asks for one.
    fn on_merge(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64) {
        if let Some(old) = self.merges.outgoing.remove(&from) {
            replica.end_snapshot(old.snapshot);
        }
        let room = self.merges.outgoing.len() + 1 < bounds::SNAPSHOTS;
        let begun = room.then(|| replica.begin_snapshot()).flatten();
        let Some(Begun { id: snapshot, seen, parked }) = begun else {
            let reason = "too many snapshots are running".into();
            self.send(from, Message::Sync(Sync::Abort { id, reason }));
            return;
        };
        self.merges.outgoing.insert(
            from,
            Outgoing { id, snapshot, sent: 0, credit: 0, deadline: now.mono + OUTGOING_PATIENCE },
        );
        self.send(from, Message::Sync(Sync::Context { id, seen, parked }));
    }

    fn on_credit(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64, blocks: u32) {
        let Some(outgoing) = self.merges.outgoing.get_mut(&from).filter(|o| o.id == id) else { return };
        outgoing.deadline = now.mono + OUTGOING_PATIENCE;
        outgoing.credit = outgoing.credit.saturating_add(blocks).min(bounds::BLOCK_CREDIT);
        let mut sends = Vec::new();
        let mut over = false;
        while outgoing.credit > 0 && !over {
            match replica.step_snapshot(outgoing.snapshot) {
                Step::Block(block) => {
                    sends.push(Sync::Block { id, index: outgoing.sent, block });
                    outgoing.sent += 1;
                    outgoing.credit -= 1;
                }
                Step::Done => {
                    sends.push(Sync::End { id, blocks: outgoing.sent });
                    over = true;
                }
                Step::Aborted => {
                    let reason = "the snapshot was overtaken by a merge".into();
                    sends.push(Sync::Abort { id, reason });
                    over = true;
                }
            }
        }
        if over {
            replica.end_snapshot(outgoing.snapshot);
            self.merges.outgoing.remove(&from);
        }
        self.counts.blocks_sent += sends.iter().filter(|s| matches!(s, Sync::Block { .. })).count() as u64;
        sends.into_iter().for_each(|sync| self.send(from, Message::Sync(sync)));
    }

    fn on_context(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        seen: SeenEntries,
        parked: Vec<ParkedState>,
    ) {
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        // The blocks that have come belong to the first.
        if incoming.context.is_some() && !mutant::is(Mutant::SecondContext) {
            return self.refuse_merge(now, from, id, "a second context");
        }
        match replica.state().staged(&seen, &parked) {
            Ok(staged) => {
                if mutant::is(Mutant::SeenTooEarly) {
                    replica.unite_seen(&seen);
                }
                incoming.context = Some((staged, seen, parked));
                incoming.deadline = now.mono + MERGE_PATIENCE;
                incoming.granted = bounds::BLOCK_CREDIT;
                self.send(from, Message::Sync(Sync::Credit { id, blocks: bounds::BLOCK_CREDIT }));
            }
            Err(error) => self.refuse_merge(now, from, id, &error.to_string()),
        }
    }

    fn on_block(&mut self, now: Now, from: LinkId, id: u64, index: u32, block: Vec<u8>) {
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        let loaded = match &mut incoming.context {
            None => Err("a block came before its context".to_string()),
            Some(_) if index as usize != incoming.blocks.len() => Err("a block is missing".into()),
            Some(_) if incoming.bytes + block.len() > bounds::STAGED => Err("the state is too large".into()),
            Some((staged, ..)) => Block::decode(&block)
                .map_err(Into::into)
                .and_then(|block| staged.load(&block))
                .map_err(|error: ApplyError| error.to_string()),
        };
        if let Err(reason) = loaded {
            self.refuse_merge(now, from, id, &reason);
            return;
        }
        incoming.bytes += block.len();
        incoming.blocks.push(block);
        incoming.deadline = now.mono + MERGE_PATIENCE;
        let outstanding = incoming.granted - incoming.blocks.len() as u32;
        if outstanding <= bounds::BLOCK_CREDIT / 2 {
            let blocks = bounds::BLOCK_CREDIT - outstanding;
            incoming.granted += blocks;
            self.send(from, Message::Sync(Sync::Credit { id, blocks }));
        }
        self.counts.blocks_received += 1;
    }

    fn on_end(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64, blocks: u32) {
        let Some(incoming) = self.merges.incoming_of(from, id) else { return };
        if incoming.context.is_none() || incoming.blocks.len() != blocks as usize {
            self.refuse_merge(now, from, id, "blocks are missing at the end");
            return;
        }
        let incoming = self.merges.incoming.take().expect("just found");
        let (staged, seen, parked) = incoming.context.expect("just checked");
        let blocks = incoming.blocks.len();
        self.absorb(replica, from, &seen);
        if let Err(error) = replica.merge(&staged, seen, parked, incoming.blocks) {
            self.give_up_merge(now, from, id, &error.to_string());
            // Lack of room here is nobody's offence.
            if error != ApplyError::ParkedFull {
                self.misbehaved(from, error);
            }
            return;
        }
        self.counts.merges += 1;
        self.receive_ahead(now, replica, from);
        let node = self.links[&from].actor.node.clone();
        self.out.events.push(Event::Merged { node, blocks, bytes: incoming.bytes });
        self.plan_push(now, false, Some(from));
    }

    fn on_abort(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64) {
        if self.merges.incoming_of(from, id).is_some() {
            self.merges.incoming = None;
            self.counts.merges_aborted += 1;
            self.merges.not_before = now.mono + 1_000_000;
        }
        if self.merges.outgoing.get(&from).is_some_and(|outgoing| outgoing.id == id)
            && let Some(outgoing) = self.merges.outgoing.remove(&from)
        {
            replica.end_snapshot(outgoing.snapshot);
        }
    }

    /// Something for the link was dropped. If it was a block, the session cannot
    /// be completed; all else is offered or asked for again.
    pub(crate) fn on_dropped(&mut self, link: LinkId) {
        if let Some(outgoing) = self.merges.outgoing.remove(&link) {
            self.merges.ended.push(outgoing.snapshot);
            let reason = "the link cannot keep up".into();
            self.send(link, Message::Sync(Sync::Abort { id: outgoing.id, reason }));
        }
        if let Some(link) = self.links.get_mut(&link) {
            link.busy = false;
        }
    }

    fn refuse_merge(&mut self, now: Now, from: LinkId, id: u64, reason: &str) {
        self.give_up_merge(now, from, id, reason);
        self.misbehaved(from, reason);
    }

    fn give_up_merge(&mut self, now: Now, from: LinkId, id: u64, reason: &str) {
        self.merges.incoming = None;
        self.merges.not_before = now.mono + 1_000_000;
        self.counts.merges_aborted += 1;
        let text: String = reason.chars().take(64).collect();
        self.send(from, Message::Sync(Sync::Abort { id, reason: text }));
    }

    pub(super) fn end_lost_snapshots(&mut self, replica: &mut Replica) {
        self.merges.ended.drain(..).for_each(|snapshot| replica.end_snapshot(snapshot));
    }
}

impl Merges {
    fn incoming_of(&mut self, link: LinkId, id: u64) -> Option<&mut Incoming> {
        self.incoming.as_mut().filter(|incoming| incoming.link == link && incoming.id == id)
    }
}
