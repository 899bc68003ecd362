//! pull: the side that lacks something asks for it, of one peer at a time.

use std::collections::{BTreeMap, BTreeSet};

use tidings_proto::message::{Pull, Range};
use tidings_proto::{Actor, Message, Run, SeenEntries, bounds as wire};

use super::actors::ActorIx;
use super::block;
use super::bounds;
use super::cells::Cells;
use super::elide::{Elided, elide};
use super::link::{Answer, DiskRead, Gossip, LinkId, Now, Token};
use super::mutant::{self, Mutant};
use super::quorum::HASTE;
use super::replica::Replica;
use super::state::ApplyError;

/// How long the origin of an op, or the peer whose turn it is in an exchange,
/// has to deliver before the op is asked for; microseconds.
pub(super) const GRACE: u64 = 250_000;

/// A peer that lacks more ops than this, and than there are cells, gets the state rather than the log on
/// disk: most of what it would read there has been overwritten since.
const LOG_OPS: u64 = 1 << 14;

/// The shortest and the longest time that a request is given; microseconds.
const PATIENCE: (u64, u64) = (500_000, 10_000_000);

/// A request for ops that has not been answered.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    id: u64,
    /// Whose ops, and up to where they had been seen when asked for.
    actors: BTreeMap<ActorIx, u64>,
    asked_at: u64,
    pub(super) deadline: u64,
}

/// What is lacking of one actor.
#[derive(Debug, Clone, Default)]
struct Want {
    /// Not to be asked for before this moment.
    not_before: u64,
    /// Of whom it is being asked.
    asked: Option<LinkId>,
    /// Whose present request must be answered first.
    waits_for: Option<LinkId>,
    /// Who did not answer in time; asked again only if nobody else has it.
    slow: BTreeSet<LinkId>,
    /// Whose log does not reach back far enough.
    short: BTreeSet<LinkId>,
    /// Who told of it in an exchange that a quorum read waits for: whoever else has it may not answer.
    preferred: Option<LinkId>,
}

/// A request for ops that is being answered from the disk.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    id: u64,
    ranges: Vec<Range>,
    /// What of it is nowhere.
    missing: Vec<Range>,
    /// Whose ops it is read for.
    first: ActorIx,
}

/// What this node lacks and knows somebody to have, and what came ahead of its turn.
#[derive(Debug)]
pub(super) struct Wants {
    actors: BTreeMap<ActorIx, Want>,
    ahead: BTreeMap<(ActorIx, u64), Run>,
    ahead_bytes: usize,
    /// Most bytes that wait ahead of their turn.
    ahead_most: usize,
}

impl Default for Wants {
    fn default() -> Self {
        Self { actors: BTreeMap::new(), ahead: BTreeMap::new(), ahead_bytes: 0, ahead_most: bounds::AHEAD }
    }
}

/// What the protocol holds at a moment, for whoever checks its bounds or asks what a node waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What is lacking, by actor: of whom it is being asked, and whose log does not reach back to it.
    pub wants: Vec<(ActorIx, Option<LinkId>, Vec<LinkId>)>,
    /// Requests for ops under way, with their deadlines; monotonic microseconds.
    pub requests: Vec<(LinkId, u64)>,
    /// Bytes of ops that wait ahead of their turn.
    pub ahead_bytes: usize,
    /// Requests of the live zone that have not been answered.
    pub asked: usize,
    /// Whole states being sent.
    pub outgoing: usize,
    /// Quorum reads under way.
    pub reads: usize,
}

/// How the news came of something that is lacking.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// It was announced, if it is among these.
    Push(&'a SeenEntries),
    /// In an exchange, where the other side sends it unasked.
    Sync,
}

impl Wants {
    pub(super) fn link_down(&mut self, now: Now, link: LinkId) {
        for want in self.actors.values_mut() {
            want.slow.remove(&link);
            want.short.remove(&link);
            if want.asked == Some(link) || want.waits_for == Some(link) {
                want.asked = want.asked.filter(|asked| *asked != link);
                want.waits_for = None;
                want.not_before = now.mono;
            }
        }
    }

    pub(super) fn due(&self) -> impl Iterator<Item = u64> {
        self.actors.values().filter(|want| want.asked.is_none()).map(|want| want.not_before)
    }

    /// Forgets what is wanted, and keeps what came ahead of its turn.
    pub(super) fn clear(&mut self) {
        self.actors.clear();
    }

    pub(super) fn any(&self) -> bool {
        !self.actors.is_empty()
    }

    /// Keeps a run that came ahead of its turn, if there is room.
    fn keep(&mut self, actor: ActorIx, run: &Run) {
        let at = (actor, run.first);
        if self.ahead_bytes + run.ops.len() <= self.ahead_most && !self.ahead.contains_key(&at) {
            self.ahead_bytes += run.ops.len();
            self.ahead.insert(at, run.clone());
        }
    }

    /// A run whose turn has come, or is over.
    fn next_ahead(&mut self, actor: ActorIx, seen: u64) -> Option<Run> {
        let (&at, _) = self.ahead.range((actor, 0)..=(actor, seen + 1)).next()?;
        let run = self.ahead.remove(&at).expect("just found");
        self.ahead_bytes -= run.ops.len();
        Some(run)
    }
}

impl Gossip {
    /// Takes in runs from a peer, then what they made possible.
    pub(super) fn receive(&mut self, now: Now, replica: &mut Replica, from: LinkId, runs: &[Run]) -> u64 {
        let mut applied = 0;
        for run in runs {
            applied += self.receive_run(now, replica, from, run);
            let Some(ix) = replica.state().actors().find(&run.actor) else { continue };
            while let Some(run) = self.wants.next_ahead(ix, replica.state().seen(ix)) {
                applied += self.receive_run(now, replica, from, &run);
            }
        }
        if applied > 0 {
            self.plan_push(now, false, Some(from));
        }
        applied
    }

    fn receive_run(&mut self, now: Now, replica: &mut Replica, from: LinkId, run: &Run) -> u64 {
        if run.actor == *replica.actor() {
            self.own_elsewhere(replica, run.last());
        }
        let lags = &mut self.lags;
        let received =
            replica.receive(run, now.wall, |stamp| lags.add(now.wall.saturating_sub(stamp.millis())));
        if received.applied > 0
            && let Some(ix) = replica.state().actors().find(&run.actor)
        {
            super::link::raise(&mut self.moved, ix, now.mono);
        }
        match received.stopped {
            None | Some(ApplyError::ParkedFull) => {}
            Some(ApplyError::Gap { .. }) => {
                if let Some(ix) = replica.state().actors().find(&run.actor) {
                    self.wants.keep(ix, run);
                }
            }
            Some(ApplyError::BundleFull) => {
                // The next try would find as little room: somebody else has the ops whole, or a merge brings them.
                if let Some(ix) = replica.state().actors().find(&run.actor) {
                    self.wants.actors.entry(ix).or_default().short.insert(from);
                }
            }
            Some(error) => self.misbehaved(from, error),
        }
        received.applied
    }

    /// Takes note of what is lacking that a peer is known to have.
    pub(super) fn want(&mut self, now: Now, replica: &Replica, from: LinkId, source: Source<'_>) {
        let Some(link) = self.links.get(&from) else { return };
        let announced: BTreeSet<ActorIx> = match source {
            Source::Push(have) => {
                let place = |(actor, seq): (Actor, u64)| Some((replica.state().actors().find(&actor)?, seq));
                let places = have.iter().filter_map(place);
                places.filter(|(ix, seq)| *seq > replica.state().seen(*ix)).map(|(ix, _)| ix).collect()
            }
            Source::Sync => BTreeSet::new(),
        };
        for actor in replica.places() {
            if link.known(actor) <= replica.state().seen(actor) {
                continue;
            }
            let node = &replica.state().actors().get(actor).node;
            let from_origin = link.actor.node == *node;
            let origin_linked = self.links.values().any(|l| l.actor == *replica.state().actors().get(actor));
            let at_once = announced.contains(&actor) && (from_origin || !origin_linked);
            let at = if at_once { now.mono } else { now.mono + GRACE };
            let want = self.wants.actors.entry(actor).or_insert(Want { not_before: at, ..Want::default() });
            if at_once {
                want.not_before = want.not_before.min(at);
            }
        }
    }

    /// A read waits for what this peer has: it is asked for soon, and of this peer, whatever
    /// another has been asked for.
    pub(super) fn hasten(&mut self, now: Now, replica: &Replica, from: LinkId) {
        let Some(link) = self.links.get(&from) else { return };
        // The author may be gathering, and what it has sent may be on its way.
        let soon = now.mono + HASTE + self.settings.push_window.min(HASTE);
        for (actor, want) in &mut self.wants.actors {
            if link.known(*actor) <= replica.state().seen(*actor) || want.asked == Some(from) {
                continue;
            }
            (want.asked, want.waits_for, want.preferred) = (None, None, Some(from));
            want.not_before = want.not_before.min(soon);
        }
    }

    /// Asks for what is due, of whoever has it: one request a link at a time.
    pub(super) fn pull_due(&mut self, now: Now, replica: &mut Replica) {
        self.expire_flights(now);
        let seen = |actor: ActorIx| replica.state().seen(actor);
        let links = &self.links;
        self.wants.actors.retain(|actor, want| {
            want.asked.is_some() || links.values().any(|link| link.known(*actor) > seen(*actor))
        });
        let mut requests: BTreeMap<LinkId, Vec<(ActorIx, Range)>> = BTreeMap::new();
        let mut merge_from = None;
        for (&actor, want) in &mut self.wants.actors {
            if want.asked.is_some() || want.not_before > now.mono {
                continue;
            }
            let has = |id: &LinkId| self.links[id].known(actor) > seen(actor);
            let name = replica.state().actors().get(actor);
            let rank = |id: &LinkId| {
                let link = &self.links[id];
                let preferred = want.preferred == Some(*id);
                (
                    want.slow.contains(id),
                    !preferred,
                    link.flight.is_some(),
                    link.actor != *name,
                    link.answer_time,
                )
            };
            let holders = self.links.keys().copied().filter(has);
            let best = holders.filter(|id| !want.short.contains(id)).min_by_key(rank);
            let Some(id) = best else {
                merge_from = want.short.iter().copied().find(|id| has(id)).or(merge_from);
                want.not_before = now.mono + GRACE;
                continue;
            };
            let ranges = requests.entry(id).or_default();
            if self.links[&id].flight.is_some() || ranges.len() >= bounds::PULL_RANGES {
                want.waits_for = Some(id);
                want.not_before = now.mono + PATIENCE.1;
                continue;
            }
            let first = seen(actor) + 1;
            let before = self.wants.ahead.range((actor, first)..=(actor, u64::MAX)).next();
            let last = before.map_or(u64::MAX, |((_, ahead), _)| ahead - 1).min(self.links[&id].known(actor));
            want.not_before = now.mono + GRACE;
            if first <= last {
                want.asked = Some(id);
                ranges.push((actor, Range { actor: name.clone(), first, last }));
            }
        }
        for (link, ranges) in requests.into_iter().filter(|(_, ranges)| !ranges.is_empty()) {
            self.pull(now, link, ranges);
        }
        if let Some(link) = merge_from {
            self.begin_merge(now, replica, link);
        }
    }

    fn pull(&mut self, now: Now, to: LinkId, ranges: Vec<(ActorIx, Range)>) {
        let id = self.fresh_id();
        let link = self.links.get_mut(&to).expect("the caller found it");
        let patience = (link.answer_time * 5 / 2).clamp(PATIENCE.0, PATIENCE.1);
        let actors = ranges.iter().map(|(actor, range)| (*actor, range.first - 1)).collect();
        link.flight = Some(Flight { id, actors, asked_at: now.mono, deadline: now.mono + patience });
        self.counts.pulls_sent += 1;
        let ranges = ranges.into_iter().map(|(_, range)| range).collect();
        self.send(to, Message::Pull(Pull::Ops { id, ranges }));
    }

    /// A peer that does not answer in time is passed over while others have the same.
    fn expire_flights(&mut self, now: Now) {
        if mutant::is(Mutant::PatientPull) {
            return;
        }
        for (id, link) in &mut self.links {
            let Some(flight) = link.flight.take_if(|flight| flight.deadline <= now.mono) else { continue };
            self.counts.pulls_timed_out += 1;
            link.answer_time = (link.answer_time * 2).min(PATIENCE.1);
            for actor in flight.actors.into_keys() {
                let want = self.wants.actors.entry(actor).or_default();
                want.asked = want.asked.filter(|asked| asked != id);
                want.slow.insert(*id);
            }
            for want in self.wants.actors.values_mut().filter(|want| want.asked.is_none()) {
                want.waits_for = None;
                want.not_before = now.mono;
            }
        }
    }

    pub(crate) fn on_pull(&mut self, now: Now, replica: &mut Replica, from: LinkId, pull: Pull) {
        match pull {
            Pull::Ops { id, ranges } => self.answer_ops(replica, from, id, &ranges),
            Pull::Batch { id, runs, missing, more } => {
                self.on_batch(now, replica, from, id, &runs, &missing, more);
            }
            Pull::Keys { id, keys, cursor, names_only } => {
                let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
                let answer = read_cells(replica, &keys, cursor, names_only);
                let Answer::Cells { actors, keys, cursor } = answer else { unreachable!("cells are read") };
                self.send(from, Message::Pull(Pull::Cells { id, actors, keys, cursor }));
            }
            Pull::Cells { id, actors, keys, cursor } => {
                self.answered(from, id, Answer::Cells { actors, keys, cursor });
            }
        }
    }

    /// Answers with as many of the ops as fit a batch, in the order asked. What only the disk has
    /// is read first, in an answer of its own.
    fn answer_ops(&mut self, replica: &Replica, from: LinkId, id: u64, ranges: &[Range]) {
        self.counts.pulls_answered += 1;
        let (mut runs, mut missing, mut more) = (Vec::new(), Vec::new(), false);
        let mut left = wire::BATCH;
        let state = replica.state();
        let lacks = |range: &Range| {
            let seen = state.actors().find(&range.actor).map_or(0, |ix| state.seen(ix));
            (range.last.min(seen) + 1).saturating_sub(range.first)
        };
        let lacking = ranges.iter().map(lacks).fold(0, u64::saturating_add);
        let by_state = lacking > LOG_OPS && lacking >= state.tallies().keys + state.tallies().members;
        for range in ranges {
            let Some(ix) = state.actors().find(&range.actor) else { continue };
            let last = range.last.min(state.seen(ix));
            if range.first > last {
                continue;
            }
            if left == 0 {
                more = true;
                break;
            }
            let (read, next) = replica.log().read(ix, range.first, last, left, state.actors());
            if read.is_empty() {
                match replica.log().on_disk(ix, range.first, last, wire::BATCH) {
                    Some(_) if by_state => missing.push(range.clone()),
                    Some((_, records)) if runs.is_empty() => {
                        let reading = Reading { id, ranges: ranges.to_vec(), missing, first: ix };
                        return self.read_ops(from, reading, records);
                    }
                    Some(_) => more = true,
                    None => missing.push(range.clone()),
                }
                continue;
            }
            let read = if mutant::is(Mutant::ValuesLeftOut) {
                super::broken::without_dead_values(&read, state)
            } else {
                read
            };
            let size: usize = read.iter().map(|run| run.ops.len()).sum();
            if size > left && !runs.is_empty() {
                // One op over the budget travels alone, in the next answer.
                more = true;
                break;
            }
            more |= next <= last;
            left = left.saturating_sub(size);
            if ix == replica.own()
                && let Some(link) = self.links.get_mut(&from)
            {
                link.sent = link.sent.max(next - 1);
            }
            let (read, elided) = elide(read);
            self.count_elided(elided);
            runs.extend(read);
        }
        self.counts.ops_sent += runs.iter().map(|run: &Run| u64::from(run.count)).sum::<u64>();
        self.send(from, Message::Pull(Pull::Batch { id, runs, missing, more }));
    }

    pub(super) fn count_elided(&mut self, elided: Elided) {
        self.counts.values_elided += elided.all;
        self.counts.values_elided_onward += elided.onward;
    }

    /// Has ops read from the disk. A newer request of a peer replaces an older one.
    fn read_ops(&mut self, link: LinkId, reading: Reading, records: (u64, u64)) {
        let (id, ranges) = (reading.id, reading.ranges.clone());
        self.out.reads.push(DiskRead { link, id, ranges, records, budget: wire::BATCH });
        self.from_log.insert(link, reading);
    }

    /// Answers with what has been read from the disk. If that is nothing, the log there does not reach back so far.
    pub fn on_read(&mut self, replica: &mut Replica, link: LinkId, id: u64, runs: Vec<Run>) {
        let Some(Reading { ranges, mut missing, first, .. }) =
            self.from_log.extract_if(link..=link, |_, reading| reading.id == id).next().map(|(_, r)| r)
        else {
            return;
        };
        let name = replica.state().actors().get(first).clone();
        let Some(asked) = ranges.iter().find(|range| range.actor == name) else { return };
        // What lies before them in the same records may have used up the budget: then they are asked for again.
        if runs.is_empty() {
            replica.log_mut().forget(first, asked.first);
            missing.push(asked.clone());
        }
        for run in runs.iter().filter(|run| run.actor == *replica.actor()) {
            if let Some(link) = self.links.get_mut(&link) {
                link.sent = link.sent.max(run.last());
            }
        }
        let (runs, elided) = elide(runs);
        self.count_elided(elided);
        let ops = runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        self.counts.ops_sent += ops;
        self.counts.ops_from_disk += ops;
        // Whatever else was asked for, or is left of this, is asked for again.
        self.send(link, Message::Pull(Pull::Batch { id, runs, missing, more: ops > 0 }));
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn on_batch(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        id: u64,
        runs: &[Run],
        missing: &[Range],
        more: bool,
    ) {
        self.receive(now, replica, from, runs);
        let Some(link) = self.links.get_mut(&from) else { return };
        // A late answer, whose request was given up, has been of use all the same.
        let Some(flight) = link.flight.take_if(|flight| flight.id == id) else { return };
        link.answer_time = (link.answer_time * 7 + (now.mono - flight.asked_at)) / 8;
        let known = |actor: &ActorIx| link.known(*actor);
        for (actor, asked_from) in flight.actors {
            let seen = replica.state().seen(actor);
            let name = replica.state().actors().get(actor);
            // What came and could not be applied waits for something of others: they are asked for first.
            let stuck = seen == asked_from && runs.iter().any(|run| run.actor == *name);
            // Whoever has more has it from the origin, which has most likely sent it here too.
            let progress = more && !stuck || seen > asked_from && known(&actor) > seen;
            let asked = |want: &&mut Want| want.asked.is_none_or(|asked| asked == from);
            if let Some(want) = self.wants.actors.get_mut(&actor).filter(asked) {
                want.asked = None;
                want.slow.remove(&from);
                want.not_before = if progress { now.mono } else { now.mono + GRACE };
                if missing.iter().any(|range| range.actor == *name) {
                    want.short.insert(from);
                    want.not_before = now.mono;
                }
            }
        }
        // Others were told to wait for the answer.
        for want in self.wants.actors.values_mut().filter(|want| want.waits_for == Some(from)) {
            want.waits_for = None;
            want.not_before = now.mono;
        }
    }

    /// Hands an answer to whoever of the live zone asked.
    pub(crate) fn answered(&mut self, from: LinkId, id: u64, answer: Answer) {
        if self.asked.get(&id).is_some_and(|(link, _)| *link == from) {
            let (_, token) = self.asked.remove(&id).expect("just found");
            self.out.answers.push((token, answer));
        }
    }

    /// Bounds the bytes of ops that wait ahead of their turn.
    pub fn set_ahead_bound(&mut self, bytes: usize) {
        self.wants.ahead_most = bytes;
    }

    /// What is held at this moment.
    pub fn held(&self) -> Held {
        let want = |(actor, want): (&ActorIx, &Want)| {
            (*actor, want.asked.or(want.waits_for), want.short.iter().copied().collect())
        };
        let flights = self.links.iter().filter_map(|(id, link)| Some((*id, link.flight.as_ref()?.deadline)));
        Held {
            wants: self.wants.actors.iter().map(want).collect(),
            requests: flights.collect(),
            ahead_bytes: self.wants.ahead_bytes,
            asked: self.asked.len(),
            outgoing: self.merges.sending(),
            reads: self.reads.len(),
        }
    }

    /// Ops that came ahead of their turn and wait for it.
    pub fn ops_waiting(&self) -> u64 {
        self.wants.ahead.values().map(|run| u64::from(run.count)).sum()
    }

    /// Asks a peer for cells, for the live zone.
    pub fn ask_cells(&mut self, to: LinkId, token: Token, keys: Vec<Vec<u8>>, cursor: u64, names_only: bool) {
        if !self.links.contains_key(&to) {
            self.out.answers.push((token, Answer::LinkDown));
            return;
        }
        if keys.len() > wire::PULL_KEYS || keys.iter().map(Vec::len).sum::<usize>() > bounds::ASKED_KEYS {
            self.out.answers.push((token, Answer::TooMuch));
            return;
        }
        let id = self.fresh_id();
        self.asked.insert(id, (to, token));
        let keys = keys.into_iter().map(Into::into).collect();
        self.send(to, Message::Pull(Pull::Keys { id, keys, cursor, names_only }));
    }

    /// Takes in what waited ahead of its turn and whose turn a merge has brought.
    pub(super) fn receive_ahead(&mut self, now: Now, replica: &mut Replica, from: LinkId) {
        for actor in replica.places().filter(|_| !mutant::is(Mutant::LeftAhead)) {
            while let Some(run) = self.wants.next_ahead(actor, replica.state().seen(actor)) {
                if run.last() > replica.state().seen(actor) {
                    self.receive_run(now, replica, from, &run);
                }
            }
        }
        for want in self.wants.actors.values_mut() {
            want.short.clear();
        }
    }
}

/// Weight of the cells of one key beyond which no answer holds them: with its
/// frame it stays below the bulk lane's bound.
const WHOLE: usize = wire::OP;

/// Cells by name, or a page of all of them, as an answer. The cursor says where
/// to go on: a position, or if keys were named the first of them that is left.
pub fn read_cells<'a>(replica: &'a Replica, keys: &[&[u8]], cursor: u64, names_only: bool) -> Answer {
    let state = replica.state();
    let (mut named, mut names) = (Vec::new(), Vec::new());
    let mut size = 0;
    let mut add = |cells: &'a Cells| {
        // What would not fit any answer is named, and its cells are left out.
        let whole = !names_only && cells.weight() <= WHOLE;
        let weight = if whole { cells.weight() } else { cells.key().len() + 64 };
        if size > 0 && size + weight > wire::BATCH {
            return false;
        }
        size += weight;
        if whole {
            named.push(cells);
        } else if cells.kinds().next().is_some() {
            names.push(tidings_proto::KeyState { key: cells.key().to_vec(), cells: Vec::new() });
        }
        true
    };
    let next = if keys.is_empty() {
        state.positions(cursor).find(|(_, cells)| !add(cells)).map_or(0, |(hash, _)| hash)
    } else {
        let left = keys.iter().enumerate().find(|(_, key)| state.get(key).is_some_and(|cells| !add(cells)));
        left.map_or(0, |(at, _)| at as u64)
    };
    let block = block::states(state.actors(), &named);
    let keys = block.keys.into_iter().chain(names).collect();
    Answer::Cells { actors: block.actors, keys, cursor: next }
}
