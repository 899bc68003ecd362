//! The sender's side of a context merge: a snapshot, given as its receiver asks for it.

use tidings_proto::Message;
use tidings_proto::message::{PartSum, RangeParts, Sync};

use super::bounds;
use super::fingerprint::{Fingerprint, Prefix};
use super::link::{Gossip, LinkId, Now};
use super::mutant::{self, Mutant};
use super::replica::Replica;
use super::snapshot::{Begun, SnapshotId, Step};

/// How long the receiver of one may be silent: its patience, and time for blocks in flight; microseconds.
const OUTGOING_PATIENCE: u64 = 60_000_000;

/// A context merge that this node is sending.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) id: u64,
    pub(super) snapshot: SnapshotId,
    guided: bool,
    /// Whether values that the receiver has seen are left out.
    lean: bool,
    sent: u32,
    credit: u32,
    /// How many requests for cells have come, and how many have been answered in full. The
    /// whole state is asked for once, by asking for it at all.
    fetches: u32,
    ends: u32,
    pub(super) deadline: u64,
    /// Whether there may be more to send at once.
    goes_on: bool,
}

impl Outgoing {
    /// When something is to be done about it.
    pub(super) fn due(&self) -> u64 {
        if self.goes_on { 0 } else { self.deadline }
    }
}

impl Gossip {
    /// One snapshot is left for the checkpoint, whoever else asks for one.
    pub(super) fn on_merge(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64, guided: bool) {
        if let Some(old) = self.merges.outgoing.remove(&from) {
            replica.end_snapshot(old.snapshot);
        }
        // What has rotted is not passed on.
        let room = self.merges.outgoing.len() + 1 < bounds::SNAPSHOTS
            && (self.merges.rotten.is_empty() || mutant::is(Mutant::RotPassedOn));
        let begun = room
            .then(|| if guided { replica.begin_guided_snapshot() } else { replica.begin_snapshot() })
            .flatten();
        let Some(Begun { id: snapshot, seen, parked }) = begun else {
            let reason = "it has no snapshot to give now".into();
            self.send(from, Message::Sync(Sync::Abort { id, reason }));
            return;
        };
        let deadline = now.mono + OUTGOING_PATIENCE;
        let fetches = u32::from(!guided);
        let (sent, credit, ends, goes_on) = (0, 0, 0, false);
        let outgoing =
            Outgoing { id, snapshot, guided, lean: false, sent, credit, fetches, ends, deadline, goes_on };
        self.merges.outgoing.insert(from, outgoing);
        let keys = replica.state().fingerprint_of(Prefix::ROOT).keys;
        self.send(from, Message::Sync(Sync::Context { id, seen, parked, keys }));
    }

    pub(super) fn on_credit(&mut self, now: Now, replica: &mut Replica, from: LinkId, id: u64, blocks: u32) {
        let Some(outgoing) = self.merges.outgoing_of(from, id) else { return };
        outgoing.deadline = now.mono + OUTGOING_PATIENCE;
        outgoing.credit = outgoing.credit.saturating_add(blocks).min(bounds::BLOCK_CREDIT);
        self.send_blocks(replica, from);
    }

    pub(super) fn on_narrow(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        number: u32,
        ranges: &[u64],
    ) {
        let Some(outgoing) = self.merges.outgoing_of(from, id).filter(|o| o.guided) else { return };
        outgoing.deadline = now.mono + OUTGOING_PATIENCE;
        let snapshot = outgoing.snapshot;
        let ranges = ranges.iter().map(|number| Prefix::numbered(*number).filter(|range| range.has_parts()));
        let Some(ranges) = ranges.collect::<Option<Vec<Prefix>>>() else {
            return self.misbehaved(from, "it asks for parts of a range that has none");
        };
        let Some(parts) = replica.snapshot_parts(snapshot, &ranges) else {
            return self.overtaken(replica, from);
        };
        self.send(from, Message::Sync(Sync::Parts { id, number, parts: parts.iter().map(told).collect() }));
    }

    pub(super) fn on_fetch(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        (id, number): (u64, u32),
        ranges: &[u64],
        lean: bool,
    ) {
        let Some(outgoing) = self.merges.outgoing_of(from, id).filter(|o| o.guided) else { return };
        outgoing.deadline = now.mono + OUTGOING_PATIENCE;
        outgoing.lean = lean;
        if number != outgoing.fetches + 1 && !mutant::is(Mutant::FetchesUnnumbered) {
            return;
        }
        outgoing.fetches = number;
        let mut ranges: Vec<Prefix> = ranges.iter().filter_map(|number| Prefix::numbered(*number)).collect();
        ranges.sort_unstable_by_key(|range| range.span());
        replica.ask_snapshot(outgoing.snapshot, ranges.into_iter());
        self.send_blocks(replica, from);
    }

    /// The next block, if there is credit for it, or the ends of what has been sent in full. More of it at the next
    /// tick: making one takes a millisecond or two, and others wait.
    fn send_blocks(&mut self, replica: &mut Replica, from: LinkId) {
        let Some(outgoing) = self.merges.outgoing.get_mut(&from) else { return };
        let id = outgoing.id;
        outgoing.goes_on = false;
        if outgoing.credit == 0 || outgoing.ends == outgoing.fetches {
            return;
        }
        let mut sends = Vec::new();
        let mut over = false;
        let known = self.links.get(&from).filter(|_| outgoing.lean).map_or(&[][..], |link| &link.known);
        let (step, left_out) = replica.step_lean(outgoing.snapshot, known);
        self.counts.values_left_out += left_out;
        match step {
            Step::Block(block) => {
                sends.push(Sync::Block { id, index: outgoing.sent, block });
                outgoing.sent += 1;
                outgoing.credit -= 1;
                outgoing.goes_on = outgoing.credit > 0;
                self.counts.blocks_sent += 1;
            }
            Step::Done => {
                let numbers = if outgoing.guided { outgoing.ends + 1..=outgoing.fetches } else { 0..=0 };
                sends.extend(numbers.map(|number| Sync::End { id, number, blocks: outgoing.sent }));
                outgoing.ends = outgoing.fetches;
                over = !outgoing.guided;
            }
            Step::Aborted => return self.overtaken(replica, from),
        }
        if over {
            replica.end_snapshot(outgoing.snapshot);
            self.merges.outgoing.remove(&from);
        }
        sends.into_iter().for_each(|sync| self.send(from, Message::Sync(sync)));
    }

    /// Sends more of the states of which there is more to send.
    pub(crate) fn send_due(&mut self, replica: &mut Replica) {
        let links = self.merges.outgoing.iter().filter(|(_, outgoing)| outgoing.goes_on);
        let links: Vec<LinkId> = links.map(|(link, _)| *link).collect();
        links.into_iter().for_each(|link| self.send_blocks(replica, link));
    }

    /// A merge here has taken the ground from under a snapshot, or what was asked for has rotted.
    fn overtaken(&mut self, replica: &mut Replica, from: LinkId) {
        if let Some(outgoing) = self.merges.outgoing.remove(&from) {
            replica.end_snapshot(outgoing.snapshot);
            let rotten = replica.take_rotten();
            let reason = if rotten.is_empty() {
                "the snapshot was overtaken by a merge"
            } else {
                "it has rotted here"
            };
            self.repair(rotten);
            self.send(from, Message::Sync(Sync::Abort { id: outgoing.id, reason: reason.into() }));
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
}

/// The parts of a range, for the wire.
fn told(parts: &[Fingerprint; 16]) -> RangeParts {
    let held = parts.iter().enumerate().filter(|(_, part)| part.keys > 0);
    let (mut present, mut sums) = (0, Vec::new());
    for (n, part) in held {
        present |= 1 << n;
        sums.push(PartSum(part.short()));
    }
    RangeParts { present, sums }
}
