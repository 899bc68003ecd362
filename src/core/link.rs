//! What a node knows of the peers it is linked to, and what all protocol handlers share.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidings_proto::message::{Member, Stats};
use tidings_proto::{Actor, Hello, KeyState, Message, Name, SeenEntries};

use super::actors::ActorIx;
use super::bounds;
use super::fingerprint::{Prefix, Span};
use super::members::{Cursor, Members};
use super::prepare::Spent;
use super::pull::Wants;
use super::quorum::{NoQuorum, Reads};
use super::replica::Replica;
use super::session::Merges;

/// A moment, as the live zone read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, in microseconds since any origin.
    pub mono: u64,
    /// Wall clock, in milliseconds since the Unix epoch.
    pub wall: u64,
}

/// Names a connection to a peer, from up to down. Never used twice by one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names a request of the live zone, for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The protocol's knobs. All may change while running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often what is not known to have arrived is offered again; milliseconds, default 1,000.
    pub push_interval: u64,
    /// How often version vectors are compared with `fanout` peers; milliseconds, jittered by a fifth, default 30,000.
    pub anti_entropy_interval: u64,
    /// How many peers an anti-entropy round asks; default 3.
    pub fanout: usize,
    /// How long fresh writes gather after a push to the same peer; microseconds, default 2,000.
    pub push_window: u64,
    /// How far ahead of this clock a stamp may be and still be followed; milliseconds, default 500.
    pub max_clock_drift: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            push_interval: 1_000,
            anti_entropy_interval: 30_000,
            fanout: 3,
            push_window: 2_000,
            max_clock_drift: 500,
        }
    }
}

/// A linked peer.
#[derive(Debug, Clone)]
pub struct Link {
    /// The peer as an author of writes.
    pub actor: Actor,
    /// Its zone; empty if none.
    pub zone: String,
    /// By actor place: up to which number the peer is known to have that actor's ops.
    pub(super) known: Vec<u64>,
    /// By actor place: up to which number the peer has been told that we have them.
    pub(super) told: Vec<u64>,
    /// Own ops up to here are at the peer, on their way, or announced to it.
    pub(super) sent: u64,
    /// Whether the whole of `seen` has been announced since the link came up.
    pub(super) greeted: bool,
    /// Whether the news lane still holds what was put on it.
    pub(super) busy: bool,
    /// When the next push is due, if there is news; monotonic microseconds.
    pub(super) news_at: Option<u64>,
    /// When the last push left.
    pub(super) pushed_at: u64,
    /// The anti-entropy exchange under way: its id, and the digest sent.
    pub(super) syn: Option<(u64, tidings_proto::SeenDigest)>,
    /// The request for ops under way.
    pub(super) flight: Option<super::pull::Flight>,
    /// How long answers to requests take, smoothed; microseconds.
    pub(super) answer_time: u64,
    /// That the peer has seen the same and holds something else, if it does.
    pub(super) difference: Option<super::reconcile::Difference>,
    /// A hash under the key by which the peer orders its cells.
    pub(super) order: u64,
    /// The peer's wall clock minus ours at the handshake; milliseconds.
    pub clock_offset: i64,
    /// When the link came up; monotonic microseconds.
    pub since: u64,
}

impl Link {
    /// Has the peer told at once of all that it is not known to have.
    pub(super) fn offer(&mut self, now: Now) {
        self.told.clone_from(&self.known);
        self.news_at = Some(now.mono);
    }

    /// Up to which number the peer is known to have that actor's ops.
    pub fn known(&self, actor: ActorIx) -> u64 {
        self.known.get(actor.index()).copied().unwrap_or(0)
    }

    /// What the peer is known to have, for the time after the link.
    pub(super) fn cursor(&self, replica: &Replica) -> Cursor {
        let actors = replica.state().actors().sorted();
        let known = actors.map(|(actor, ix)| (actor, self.known(ix))).filter(|(_, seq)| *seq > 0);
        (self.actor.clone(), SeenEntries::from_sorted(known))
    }
}

pub(super) fn raise(vector: &mut Vec<u64>, actor: ActorIx, seq: u64) {
    if vector.len() <= actor.index() {
        vector.resize(actor.index() + 1, 0);
    }
    vector[actor.index()] = vector[actor.index()].max(seq);
}

/// Ops that a peer asks for and memory has let go of: to be read from the log on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRead {
    /// For whom.
    pub link: LinkId,
    /// The request's.
    pub id: u64,
    /// Which ops, in the order asked.
    pub ranges: Vec<tidings_proto::message::Range>,
    /// The first and the last record that may hold some of them.
    pub records: (u64, u64),
    /// About how many bytes of them.
    pub budget: usize,
}

/// How many more authors of whom nothing has come a peer may announce.
fn room_for_unseen(replica: &Replica, link: &Link) -> usize {
    let unseen = || replica.places().filter(|ix| replica.state().seen(*ix) == 0);
    let announced = unseen().filter(|ix| link.known(*ix) > 0).count();
    let all = unseen().count();
    bounds::UNSEEN_OF_LINK.saturating_sub(announced).min(bounds::UNSEEN.saturating_sub(all))
}

/// What the answer to a request of the live zone says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Cells of a peer.
    Cells {
        /// The actors that their dots name by place.
        actors: Vec<Actor>,
        /// The cells by key.
        keys: Vec<KeyState>,
        /// Where to go on; 0 if this is all.
        cursor: u64,
    },
    /// A peer's figures.
    Figures(Vec<(String, u64)>),
    /// An anti-entropy exchange has ended: whether the two had seen the same.
    Synced {
        /// Whether they had.
        equal: bool,
    },
    /// This node has all that these nodes had when they were asked, or why it is not known to.
    Quorum(Result<Vec<Name>, NoQuorum>),
    /// The link went down first.
    LinkDown,
    /// More keys were asked for than one request may name.
    TooMuch,
}

/// Something the live zone may want to act upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member is known, or its addresses changed: keep a link to it.
    MemberKnown(Member),
    /// A member left on purpose: do not call it.
    MemberLeft(Name),
    /// Somebody knew writes of our incarnation that we do not; we go on under another.
    IncarnationChanged(Actor),
    /// That was needed and not possible: no write may be taken any more.
    NoIncarnation(String),
    /// A context merge from that peer took place.
    Merged {
        /// The peer.
        node: Name,
        /// How many members have sent some of it, the peer included.
        members: usize,
        /// Blocks received.
        blocks: u32,
        /// Bytes received.
        bytes: usize,
    },
    /// That peer has seen the same and holds something else: rot, or a bug.
    Diverged {
        /// The peer.
        node: Name,
    },
    /// What differed has been merged with what that peer holds.
    Reconciled {
        /// The peer.
        node: Name,
        /// How many ranges of positions were merged.
        ranges: usize,
        /// The first of them.
        first: Vec<Span>,
    },
    /// That peer still holds something else after several merges of what differs.
    NotReconciled {
        /// The peer.
        node: Name,
    },
    /// Ranges of cells in memory are not what their fingerprints say: they are replaced from a peer.
    Rotten(Vec<Prefix>),
    /// A peer sent what it must not; the link should be closed.
    Misbehaved {
        /// The link.
        link: LinkId,
        /// What was wrong.
        reason: String,
    },
}

/// What the protocol did, counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GossipCounts {
    /// Pushes sent.
    pub pushes_sent: u64,
    /// Pushes received.
    pub pushes_received: u64,
    /// Requests for ops sent.
    pub pulls_sent: u64,
    /// Requests for ops answered.
    pub pulls_answered: u64,
    /// Requests for ops that were not answered in time.
    pub pulls_timed_out: u64,
    /// Anti-entropy exchanges begun.
    pub syncs_begun: u64,
    /// Anti-entropy exchanges begun here that have been answered.
    pub syncs_ended: u64,
    /// Anti-entropy exchanges of others answered.
    pub syncs_answered: u64,
    /// Anti-entropy exchanges that found both sides equal.
    pub syncs_equal: u64,
    /// Times that a peer had seen the same and held something else: rot, or a bug.
    pub diverged: u64,
    /// Merges of what differed then, and times that several of them in a row did not help.
    pub reconciled: u64,
    /// See `reconciled`.
    pub not_reconciled: u64,
    /// Ranges of cells found rotten by audits, and those of them that have been replaced.
    pub rotten: u64,
    /// See `rotten`.
    pub repaired: u64,
    /// Quorum reads begun.
    pub quorum_reads: u64,
    /// Quorum reads that ended without enough nodes.
    pub quorum_failed: u64,
    /// Quorum reads that found this node to lack something.
    pub quorum_lacking: u64,
    /// Times that a peer was sent, or offered, what an exchange for a quorum read had shown it to lack.
    pub quorum_repairs: u64,
    /// Ops sent, in pushes, answers and exchanges.
    pub ops_sent: u64,
    /// Those of them that came from the log on disk.
    pub ops_from_disk: u64,
    /// Ops sent without their values, which ops of the same message had overwritten.
    pub values_elided: u64,
    /// Those of them that had come without.
    pub values_elided_onward: u64,
    /// Context merges that took place here.
    pub merges: u64,
    /// Context merges that were aborted.
    pub merges_aborted: u64,
    /// Blocks sent in context merges.
    pub blocks_sent: u64,
    /// Blocks received in context merges.
    pub blocks_received: u64,
    /// Blocks that earlier sessions had left and were not received again.
    pub blocks_reused: u64,
    /// Those of the blocks received that came from others than the one whose snapshot was merged.
    pub blocks_of_sources: u64,
    /// Sessions begun with such members.
    pub sources: u64,
    /// Ranges that came from them.
    pub ranges_of_sources: u64,
    /// Ranges that were asked for once more, since who had been asked first did not give them.
    pub ranges_again: u64,
    /// Keys that merges changed as had been worked out beforehand.
    pub keys_prepared: u64,
    /// Keys that were merged in the step itself, since ops had touched them meanwhile.
    pub keys_again: u64,
    /// Values left out of blocks, since whoever got them had seen the writes.
    pub values_left_out: u64,
    /// Own incarnations given up because somebody knew more of their writes.
    pub incarnations_changed: u64,
    /// Messages refused as malformed or out of place.
    pub refused: u64,
    /// Announced authors of whom nothing has come, beyond the bound on them.
    pub ignored: u64,
    /// Times that a peer was offered again what it was not known to have.
    pub reoffers: u64,
}

impl GossipCounts {
    /// The counts by name.
    pub fn figures(&self) -> [(&'static str, u64); 38] {
        [
            ("pushes_sent", self.pushes_sent),
            ("pushes_received", self.pushes_received),
            ("pulls_sent", self.pulls_sent),
            ("pulls_answered", self.pulls_answered),
            ("pulls_timed_out", self.pulls_timed_out),
            ("syncs_begun", self.syncs_begun),
            ("syncs_ended", self.syncs_ended),
            ("syncs_answered", self.syncs_answered),
            ("syncs_equal", self.syncs_equal),
            ("diverged", self.diverged),
            ("reconciled", self.reconciled),
            ("not_reconciled", self.not_reconciled),
            ("rotten", self.rotten),
            ("repaired", self.repaired),
            ("quorum_reads", self.quorum_reads),
            ("quorum_failed", self.quorum_failed),
            ("quorum_lacking", self.quorum_lacking),
            ("quorum_repairs", self.quorum_repairs),
            ("ops_sent", self.ops_sent),
            ("ops_from_disk", self.ops_from_disk),
            ("values_elided", self.values_elided),
            ("values_elided_onward", self.values_elided_onward),
            ("merges", self.merges),
            ("merges_aborted", self.merges_aborted),
            ("blocks_sent", self.blocks_sent),
            ("blocks_received", self.blocks_received),
            ("blocks_reused", self.blocks_reused),
            ("blocks_of_sources", self.blocks_of_sources),
            ("sources", self.sources),
            ("ranges_of_sources", self.ranges_of_sources),
            ("ranges_again", self.ranges_again),
            ("keys_prepared", self.keys_prepared),
            ("keys_again", self.keys_again),
            ("values_left_out", self.values_left_out),
            ("incarnations_changed", self.incarnations_changed),
            ("refused", self.refused),
            ("ignored", self.ignored),
            ("reoffers", self.reoffers),
        ]
    }
}

/// Upper bounds of the buckets of [`Lags`], in milliseconds; beyond the last is one more bucket.
pub const LAG_BOUNDS: [u64; 16] =
    [1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 250, 500, 1_000, 5_000, 15_000, 60_000];

/// How long ops took from their origin's write to their apply here, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lags {
    /// Ops by bucket.
    pub buckets: [u64; LAG_BOUNDS.len() + 1],
    /// Sum of all, in milliseconds.
    pub sum_millis: u64,
}

impl Lags {
    pub(super) fn add(&mut self, millis: u64) {
        self.buckets[LAG_BOUNDS.partition_point(|bound| *bound < millis)] += 1;
        self.sum_millis += millis;
    }
}

/// What is to be done outside, gathered until the live zone takes it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) sends: Vec<(LinkId, Message)>,
    pub(crate) answers: Vec<(Token, Answer)>,
    pub(crate) events: Vec<Event>,
    pub(crate) reads: Vec<DiskRead>,
    pub(crate) spent: Vec<Spent>,
}

/// The protocol: everything a node does because of other nodes.
#[derive(Debug)]
pub struct Gossip {
    pub(super) settings: Settings,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) wants: Wants,
    pub(super) merges: Merges,
    pub(super) reads: Reads,
    pub(super) members: Members,
    pub(super) rng: StdRng,
    pub(super) out: Outbox,
    pub(super) counts: GossipCounts,
    pub(super) lags: Lags,
    /// By actor place: when ops of that actor last came; monotonic microseconds.
    pub(super) moved: Vec<u64>,
    /// Own ops up to here have been planned to be pushed.
    pub(super) own_pushed: u64,
    /// Requests under way for the live zone, by the id on the wire.
    pub(super) asked: BTreeMap<u64, (LinkId, Token)>,
    /// Requests for ops that are being read from the disk: the latest of each link.
    pub(super) from_log: BTreeMap<LinkId, super::pull::Reading>,
    next_id: u64,
    /// When to offer again what is not known to have arrived.
    pub(super) tick_at: u64,
    /// When the next anti-entropy round is due.
    pub(super) sync_at: u64,
}

impl Gossip {
    /// A protocol with no links. `seed` decides every choice that it leaves to chance.
    pub(crate) fn new(settings: Settings, members: Members, merges: Merges, seed: u64, now: Now) -> Self {
        let mut gossip = Self {
            settings,
            links: BTreeMap::new(),
            wants: Wants::default(),
            merges,
            reads: Reads::default(),
            members,
            rng: StdRng::seed_from_u64(seed),
            out: Outbox::default(),
            counts: GossipCounts::default(),
            lags: Lags::default(),
            moved: Vec::new(),
            own_pushed: 0,
            asked: BTreeMap::new(),
            from_log: BTreeMap::new(),
            next_id: 0,
            tick_at: 0,
            sync_at: 0,
        };
        gossip.tick_at = now.mono + gossip.settings.push_interval * 1_000;
        gossip.plan_sync(now);
        gossip
    }

    /// The links, by id.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// The members known.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What the protocol did.
    pub fn counts(&self) -> GossipCounts {
        self.counts
    }

    /// How long ops took to arrive.
    pub fn lags(&self) -> &Lags {
        &self.lags
    }

    /// The knobs.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets the knobs; they hold from the next time that they matter.
    pub fn set_settings(&mut self, settings: Settings, now: Now) {
        self.settings = settings;
        self.tick_at = self.tick_at.min(now.mono + self.settings.push_interval * 1_000);
        self.plan_sync(now);
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The greatest id given out so far.
    pub(super) fn last_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        self.out.sends.push((link, message));
    }

    pub(super) fn misbehaved(&mut self, link: LinkId, reason: impl ToString) {
        self.counts.refused += 1;
        self.out.events.push(Event::Misbehaved { link, reason: reason.to_string() });
    }

    pub(super) fn plan_sync(&mut self, now: Now) {
        let interval = self.settings.anti_entropy_interval.max(1) * 1_000;
        let jitter = interval / 5;
        let spread = self.rng.random_range(0..=2 * jitter);
        self.sync_at = now.mono + interval - jitter + spread;
    }

    /// A link came up. Both sides greet with all that they have seen.
    pub fn link_up(&mut self, now: Now, replica: &mut Replica, id: LinkId, hello: &Hello) {
        let link = Link {
            actor: hello.actor.clone(),
            zone: hello.zone.clone(),
            known: self.take_cursor(replica, &hello.actor),
            told: Vec::new(),
            sent: 0,
            greeted: false,
            busy: false,
            news_at: Some(now.mono),
            pushed_at: 0,
            syn: None,
            flight: None,
            answer_time: 100_000,
            difference: None,
            order: hello.order,
            clock_offset: hello.clock.min(1 << 62) as i64 - now.wall.min(1 << 62) as i64,
            since: now.mono,
        };
        assert!(self.links.len() < bounds::LINKS, "the live zone bounds its links");
        assert!(self.links.insert(id, link).is_none(), "a link id is used once");
        self.reads.stir();
        let member = Member {
            node: hello.actor.node.clone(),
            zone: hello.zone.clone(),
            addresses: hello.addresses.clone(),
        };
        self.learn(member, true);
        for some in self.members.for_the_wire().chunks(bounds::MEMBERS_SENT) {
            self.send(id, Message::Members(some.to_vec()));
        }
    }

    /// A link went down: what it was asked for is asked of others.
    pub fn link_down(&mut self, now: Now, replica: &mut Replica, id: LinkId) {
        if let Some(link) = self.links.remove(&id) {
            self.keep_cursor(replica, &link);
        }
        self.from_log.remove(&id);
        self.wants.link_down(now, id);
        self.merge_link_down(now, id);
        self.reads.link_down(id);
        let lost: BTreeSet<u64> =
            self.asked.iter().filter(|(_, (link, _))| *link == id).map(|(id, _)| *id).collect();
        for id in lost {
            let (_, token) = self.asked.remove(&id).expect("just found");
            self.out.answers.push((token, Answer::LinkDown));
        }
    }

    /// Takes note of what a peer says it has. If that includes own writes that
    /// this process does not know, its incarnation has been used before.
    pub(super) fn absorb(&mut self, replica: &mut Replica, id: LinkId, entries: &SeenEntries) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut room = None;
        for (actor, seq) in entries.iter() {
            let ix = replica.state().actors().find(&actor).or_else(|| {
                let room = room.get_or_insert_with(|| room_for_unseen(replica, link));
                *room = room.checked_sub(1)?;
                replica.intern(&actor).ok()
            });
            match ix {
                Some(ix) => raise(&mut link.known, ix, seq),
                // It is announced again until it is known to be here.
                None => self.counts.ignored += 1,
            }
        }
        let own = link.known(replica.own());
        self.own_elsewhere(replica, own);
    }

    /// Somebody has own writes up to `seq`. If that is more than this process
    /// wrote, another one wrote as this incarnation: it must not be used any more.
    pub(super) fn own_elsewhere(&mut self, replica: &mut Replica, seq: u64) {
        if seq <= replica.own_seq() && !replica.is_overtaken() && !replica.is_worn() {
            return;
        }
        let incarnation = self.rng.random();
        if let Err(error) = replica.begin_incarnation(incarnation) {
            self.out.events.push(Event::NoIncarnation(error.to_string()));
            return;
        }
        self.log_merge_again(replica);
        self.counts.incarnations_changed += 1;
        self.own_pushed = 0;
        self.links.values_mut().for_each(|link| link.sent = 0);
        self.out.events.push(Event::IncarnationChanged(replica.actor().clone()));
    }

    /// How many linked peers are known to have an own write.
    pub fn holders(&self, actor: ActorIx, seq: u64) -> usize {
        self.links.values().filter(|link| link.known(actor) >= seq).count()
    }

    /// How many writes linked peers are known to have and this node lacks.
    pub fn lag(&self, replica: &Replica) -> u64 {
        let known = |actor| self.links.values().map(|link| link.known(actor)).max().unwrap_or(0);
        replica.places().map(|actor| known(actor).saturating_sub(replica.state().seen(actor))).sum()
    }

    /// Whether the link is up.
    pub fn has_link(&self, id: LinkId) -> bool {
        self.links.contains_key(&id)
    }

    /// The deadline has come.
    pub fn on_tick(&mut self, now: Now, replica: &Replica) {
        if self.tick_at <= now.mono {
            self.tick(now, replica);
        }
        if self.sync_at <= now.mono {
            self.sync_round(now, replica);
        }
        self.expire_merges(now);
    }

    /// Draws the conclusions of what has happened: who is to be asked for what,
    /// and who is to be told. What it puts into the outbox may leave once the
    /// replica's records have been written.
    pub fn settle(&mut self, now: Now, replica: &mut Replica) {
        self.end_lost_sessions(replica);
        self.take_left_over(now, replica);
        self.go_on_stirred(now, replica);
        self.seek_sources(now, replica);
        self.save_members(replica);
        self.own_elsewhere(replica, 0);
        self.reads_due(now, replica);
        if self.links.is_empty() {
            self.own_pushed = replica.own_seq();
            // Nobody is left to ask; what is lacking is wanted anew when a link comes up.
            self.wants.clear();
            return;
        }
        if replica.own_seq() > self.own_pushed {
            self.own_pushed = replica.own_seq();
            raise(&mut self.moved, replica.own(), now.mono);
            self.plan_push(now, true, None);
        }
        self.pull_due(now, replica);
        self.repair_due(now, replica);
        self.reconcile_due(now, replica);
        self.push_due(now, replica);
    }

    pub(crate) fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.out)
    }

    /// Asks a peer for its figures, for the live zone.
    pub fn ask_stats(&mut self, to: LinkId, token: Token) {
        if !self.links.contains_key(&to) {
            self.out.answers.push((token, Answer::LinkDown));
            return;
        }
        let id = self.fresh_id();
        self.asked.insert(id, (to, token));
        self.send(to, Message::Stats(Stats::Ask { id }));
    }

    pub(crate) fn tell_figures(&mut self, to: LinkId, id: u64, figures: Vec<(String, u64)>) {
        self.send(to, Message::Stats(Stats::Figures { id, figures }));
    }

    /// The live zone no longer waits for an answer.
    pub fn cancel(&mut self, token: Token) {
        self.asked.retain(|_, (_, asked)| *asked != token);
        self.cancel_read(token);
    }

    /// The next moment at which something is due though nothing can be settled, as
    /// when the disk has failed; monotonic microseconds.
    pub fn idle_deadline(&self) -> u64 {
        self.tick_at.min(self.sync_at)
    }

    /// The next moment at which something is due, monotonic microseconds.
    pub fn deadline(&self) -> u64 {
        let links = self.links.values();
        let news = links.filter(|link| !link.busy).filter_map(|link| link.news_at);
        let flights = self.links.values().filter_map(|link| link.flight.as_ref()).map(|f| f.deadline);
        let due =
            news.chain(flights).chain(self.wants.due()).chain(self.merges.due()).chain(self.reads.due());
        due.fold(self.tick_at.min(self.sync_at), u64::min)
    }
}
