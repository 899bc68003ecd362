//! Two nodes that have seen the same and hold something else.
//!
//! Memory or a disk has rotted in a way that fingerprints went along with, or there is a bug: the
//! convergent state says that it cannot be. Nobody can tell who of the two is right, so each merges what
//! the other holds of the ranges that differ, and both come to the same: a live dot stays where both have
//! it, of two contents of one write the greater stays, counters' parts are those of the greater birth and
//! count, parked removals are united. What differs because memory has rotted behind its fingerprints'
//! back is not merged: it is replaced, see `session`.

use super::fingerprint::Span;
use super::link::{Event, Gossip, LinkId, Now};
use super::mutant::{self, Mutant};
use super::replica::Replica;

/// The rest after the first such merge with a peer, twice as long after each further one; microseconds.
const REST: u64 = 2_000_000;

/// After so many in a row that did not help, nothing is expected of a next one.
const TRIES: u32 = 4;

/// The rest then; microseconds.
const LONG_REST: u64 = 600_000_000;

/// Most ranges that are told of.
const TOLD: usize = 16;

/// That a linked peer has seen the same and holds something else, and what has been done about it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Difference {
    /// It has been found since the last merge began.
    found: bool,
    /// Merges since the two last held the same.
    merges: u32,
    /// No next one is begun before this moment.
    not_before: u64,
}

impl Gossip {
    /// A peer has seen the same and holds something else.
    pub(super) fn diverged(&mut self, from: LinkId) {
        self.counts.diverged += 1;
        let link = self.links.get_mut(&from).expect("the caller found it");
        if !mutant::is(Mutant::DifferenceLeft) {
            link.difference.get_or_insert_default().found = true;
        }
        self.out.events.push(Event::Diverged { node: link.actor.node.clone() });
    }

    /// A peer has seen the same and holds the same.
    pub(super) fn agreed(&mut self, from: LinkId) {
        if let Some(link) = self.links.get_mut(&from) {
            link.difference = None;
        }
    }

    /// Merges what differs from a peer that has seen the same. What has rotted here is replaced first.
    pub(super) fn reconcile_due(&mut self, now: Now, replica: &mut Replica) {
        let is_due = |difference: &Difference| difference.found && difference.not_before <= now.mono;
        let due = self.links.iter().find(|(_, link)| link.difference.as_ref().is_some_and(is_due));
        let Some(id) = due.map(|(id, _)| *id).filter(|_| self.merges.rotten.is_empty()) else { return };
        let merges = self.links[&id].difference.map_or(0, |difference| difference.merges);
        let given_up = merges >= TRIES;
        if !given_up && !self.begin_merge_for(now, replica, id, true) {
            return;
        }
        let link = self.links.get_mut(&id).expect("just found");
        link.difference = Some(if given_up {
            self.counts.not_reconciled += 1;
            self.out.events.push(Event::NotReconciled { node: link.actor.node.clone() });
            Difference { found: false, merges: 0, not_before: now.mono + LONG_REST }
        } else {
            Difference { found: false, merges, not_before: now.mono + REST }
        });
    }

    /// What differed has been merged; the next exchange says whether it helped.
    pub(super) fn reconciled(&mut self, now: Now, from: LinkId, spans: &[Span]) {
        self.counts.reconciled += 1;
        let Some(link) = self.links.get_mut(&from) else { return };
        let difference = link.difference.get_or_insert_default();
        difference.not_before = now.mono + (REST << difference.merges);
        difference.merges += 1;
        difference.found = false;
        let (node, first) = (link.actor.node.clone(), spans.iter().copied().take(TOLD).collect());
        self.out.events.push(Event::Reconciled { node, ranges: spans.len(), first });
    }
}
