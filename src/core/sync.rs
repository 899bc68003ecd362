//! sync: anti-entropy. Every so often version vectors are compared with a few
//! peers and what is missing on either side is shipped from the log; where both
//! have seen the same, so are the fingerprints of their states. What the log no
//! longer reaches comes by a context merge: see `session`.

use rand::RngExt;
use tidings_proto::message::Sync;
use tidings_proto::{Message, Run, SeenDigest, SeenEntries, StateDigest, bounds as wire};

use super::bounds;
use super::elide::elide;
use super::link::{Answer, Gossip, LinkId, Now, Token};
use super::pull::{GRACE, Source};
use super::quorum::HASTE;
use super::replica::Replica;
use super::state::State;

/// A version vector of at most this many entries travels with SYN.
const SMALL_SEEN: usize = 64;

/// How long a link is young; microseconds.
const YOUNG: u64 = 2_000_000;

impl Gossip {
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
        let id = self.syn(replica, to);
        if let Some(token) = token {
            self.asked.insert(id, (to, token));
        }
    }

    /// Begins an exchange over a link that is up. Says under which id.
    pub(super) fn syn(&mut self, replica: &Replica, to: LinkId) -> u64 {
        let id = self.fresh_id();
        let entries = replica.state().seen_entries();
        let digest = entries.digest();
        // Ops are asked of one at a time: two answers would hold the same. What is
        // wanted is on its way, or will be asked for in its time.
        let others = self.links.iter().any(|(id, link)| *id != to && link.syn.is_some());
        let credit = if others || self.wants.any() { 0 } else { wire::BATCH as u32 };
        let link = self.links.get_mut(&to).expect("the caller found it");
        link.syn = Some((id, digest));
        self.counts.syncs_begun += 1;
        // Between nodes that seem to have seen the same, 64 bytes settle it.
        let equal = replica.places().all(|actor| link.known(actor) == replica.state().seen(actor));
        let entries = (!equal && entries.len() <= SMALL_SEEN).then_some(entries);
        let state = state_digest(replica.state());
        self.send(to, Message::Sync(Sync::Syn { id, digest, state, entries, credit }));
        id
    }

    pub(crate) fn on_sync(&mut self, now: Now, replica: &mut Replica, from: LinkId, sync: Sync) {
        match sync {
            Sync::Syn { id, digest, state, entries, credit } => {
                self.on_syn(now, replica, from, id, (digest, state), entries, credit);
            }
            Sync::Ack { id, entries: None, state, .. } => self.on_equal(replica, from, id, state.is_some()),
            Sync::Ack { id, entries: Some(entries), runs, .. } => {
                self.on_ack(now, replica, from, id, &entries, &runs);
            }
            Sync::Ack2 { id: _, runs } => {
                self.receive(now, replica, from, &runs);
            }
            merge => self.on_session(now, replica, from, merge),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn on_syn(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        (digest, state): (SeenDigest, StateDigest),
        entries: Option<SeenEntries>,
        credit: u32,
    ) {
        self.counts.syncs_answered += 1;
        let ours = replica.state().seen_entries();
        if ours.digest() == digest {
            self.counts.syncs_equal += 1;
            self.absorb(replica, from, &ours);
            let other = Some(state_digest(replica.state())).filter(|ours| *ours != state);
            let other = other.filter(|_| self.is_comparable(replica, from));
            match other {
                Some(_) => self.diverged(from),
                None => self.agreed(from),
            }
            self.send(from, Message::Sync(Sync::Ack { id, entries: None, state: other, runs: Vec::new() }));
            return;
        }
        let mut runs = Vec::new();
        if let Some(entries) = entries {
            self.absorb(replica, from, &entries);
            // A version vector and ops must fit one message: a large one travels alone.
            let credit = if ours.len() <= bounds::ANNOUNCED { credit } else { 0 };
            runs = self.lacking(now, replica, from, (credit as usize).min(wire::BATCH), false).0;
            self.want(now, replica, from, Source::Sync);
        }
        self.send(from, Message::Sync(Sync::Ack { id, entries: Some(ours), state: None, runs }));
    }

    /// The peer has seen what we had when we asked.
    fn on_equal(&mut self, replica: &mut Replica, from: LinkId, id: u64, other_state: bool) {
        let Some(digest) = self.end_syn(from, id) else { return };
        self.counts.syncs_equal += 1;
        let ours = replica.state().seen_entries();
        if digest == Some(ours.digest()) {
            self.absorb(replica, from, &ours);
        }
        match other_state && self.is_comparable(replica, from) {
            true => self.diverged(from),
            false => self.agreed(from),
        }
        self.told(replica, from, id, &[]);
        self.answered(from, id, Answer::Synced { equal: true });
    }

    fn on_ack(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        entries: &SeenEntries,
        runs: &[Run],
    ) {
        if self.end_syn(from, id).is_none() {
            return;
        }
        let lacks = self.lacks_for_reads(replica, entries);
        self.receive(now, replica, from, runs);
        self.absorb(replica, from, entries);
        let for_read = self.told(replica, from, id, &lacks);
        let (runs, short) = self.lacking(now, replica, from, wire::BATCH, for_read);
        self.counts.quorum_repairs += u64::from(for_read && (short || !runs.is_empty()));
        if !runs.is_empty() {
            self.send(from, Message::Sync(Sync::Ack2 { id, runs }));
        }
        if let Some(link) = self.links.get_mut(&from).filter(|_| for_read && short) {
            link.offer(now);
        }
        self.want(now, replica, from, Source::Sync);
        if for_read {
            self.hasten(now, replica, from);
        }
        self.answered(from, id, Answer::Synced { equal: false });
    }

    /// An exchange begun here has been answered: what was asked with, if it is the latest.
    fn end_syn(&mut self, from: LinkId, id: u64) -> Option<Option<SeenDigest>> {
        let link = self.links.get_mut(&from)?;
        self.counts.syncs_ended += 1;
        Some(link.syn.take_if(|(syn, _)| *syn == id).map(|(_, digest)| digest))
    }

    /// Whether a peer orders and fingerprints its cells as this node does.
    pub(super) fn is_comparable(&self, replica: &Replica, peer: LinkId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.order == replica.state().order())
    }

    /// Ops that a peer is known to lack, as far as the log and the budget reach.
    /// Not what is fresh: that is on its way to the peer from its origin, most likely.
    /// Nor over a young link: the peer has been told what we have, and is asking for it.
    /// For a read, fresh writes of ours that have not left are not waited for. Says
    /// also whether there is something that the log does not reach.
    fn lacking(
        &mut self,
        now: Now,
        replica: &Replica,
        to: LinkId,
        budget: usize,
        for_read: bool,
    ) -> (Vec<Run>, bool) {
        let (mut runs, mut left, mut short) = (Vec::new(), budget, false);
        let mut elided = Vec::new();
        let Some(link) = self.links.get_mut(&to).filter(|link| link.since + YOUNG <= now.mono) else {
            return (runs, short);
        };
        let state = replica.state();
        for actor in replica.places() {
            let (known, seen) = (link.known(actor), state.seen(actor));
            let unsent = for_read && actor == replica.own() && link.sent < seen;
            let grace = if unsent { HASTE } else { GRACE };
            let fresh = self.moved.get(actor.index()).is_some_and(|at| *at + grace > now.mono);
            if known >= seen || left == 0 || fresh {
                continue;
            }
            let (read, next) = replica.log().read(actor, known + 1, seen, left, state.actors());
            short |= read.is_empty();
            let size: usize = read.iter().map(|run| run.ops.len()).sum();
            if size > left && !runs.is_empty() {
                // One op over the budget travels alone: the peer pulls it.
                break;
            }
            left = left.saturating_sub(size);
            if actor == replica.own() {
                link.sent = link.sent.max(next - 1);
            }
            let (read, more) = elide(read);
            elided.push(more);
            runs.extend(read);
        }
        elided.into_iter().for_each(|more| self.count_elided(more));
        self.counts.ops_sent += runs.iter().map(|run: &Run| u64::from(run.count)).sum::<u64>();
        (runs, short)
    }
}

fn state_digest(state: &State) -> StateDigest {
    StateDigest(state.fingerprint().sum().to_le_bytes())
}
