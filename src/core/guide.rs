//! What a guided context merge has yet to find out and to fetch.
//!
//! The receiver's end of a session with one member is a [`Stream`]; what is to be asked for over it
//! the [`Guide`] says, which all sessions of a merge share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;
use tidings_proto::bounds as wire;
use tidings_proto::message::{RangeParts, Sync};

use super::bounds;
use super::fingerprint::{Fingerprint, Prefix, Ranges, Span};
use super::link::{LinkId, Now};
use super::mutant::{self, Mutant};
use super::state::State;
use super::table::HashKey;

/// How long a session may be silent before it is given up; microseconds.
pub(super) const PATIENCE: u64 = 15_000_000;

/// Most requests for fingerprints under way in a session.
const NARROWING: usize = 128;

/// Most ranges in one: each may be in another bucket, which has to be walked.
const NARROWED: usize = 32;
const _: () = assert!(NARROWED <= wire::NARROW);

/// A range with so few own keys is fetched, not narrowed further.
const FEW_KEYS: u64 = 2;

/// The same for a range of the size in which members share the work.
const FEW_KEYS_OF_SHARE: u64 = bounds::SHARE_KEYS / 16;

/// Of how many leading bits the ranges are in which members share the work, at least and at most.
const SHARE_BITS: (u32, u32) = (8, 20);

/// A range to be fetched.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) range: Prefix,
    /// Its fingerprint in the snapshot that is merged. Without it, it may come from nobody else.
    pub(super) sum: Option<u64>,
    /// Who holds the same there, besides the peer whose snapshot it is.
    pub(super) held_by: SmallVec<[LinkId; bounds::SOURCES]>,
    /// Whether somebody has sent some of it who has not sent all.
    pub(super) begun: bool,
}

impl Wanted {
    /// Whether what is staged of the range is what the snapshot holds there.
    pub(super) fn has_come(&self, staged: &State) -> bool {
        self.sum.is_some_and(|sum| staged.fingerprint_of(self.range).short() == sum)
    }
}

/// The receiver's end of a session with one member.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) link: LinkId,
    pub(super) deadline: u64,
    /// When the sender was last told that what it sends is still arriving; monotonic microseconds.
    waited: u64,
    /// Blocks that have come over it, and how many may.
    pub(super) blocks: u32,
    granted: u32,
    /// Ranges whose parts have been asked for, by request, in order.
    asked: VecDeque<Vec<Prefix>>,
    /// How many requests for parts have been answered.
    answered: u32,
    /// How many requests for cells have been made, and how many answered in full.
    fetches: u32,
    ends: u32,
    /// Ranges that have been asked for and have not all come, in order, by request.
    pub(super) awaited: VecDeque<(u32, Wanted)>,
}

impl Stream {
    pub(super) fn new(id: u64, link: LinkId, now: Now) -> Self {
        Self {
            id,
            link,
            deadline: now.mono + PATIENCE,
            waited: now.mono,
            blocks: 0,
            granted: 0,
            asked: VecDeque::new(),
            answered: 0,
            fetches: 0,
            ends: 0,
            awaited: VecDeque::new(),
        }
    }

    /// Whether it is that session.
    pub(super) fn is(&self, link: LinkId, id: u64) -> bool {
        self.link == link && self.id == id
    }

    /// The other side has shown that it is there.
    pub(super) fn heard(&mut self, now: Now) {
        self.deadline = now.mono + PATIENCE;
    }

    /// What it sends is arriving. Says so to the other side, now and then.
    pub(super) fn still_comes(&mut self, now: Now) -> Option<Sync> {
        self.heard(now);
        if self.waited + PATIENCE > now.mono {
            return None;
        }
        self.waited = now.mono;
        Some(Sync::Credit { id: self.id, blocks: 0 })
    }

    /// Leave for more blocks, if it is time to give it.
    pub(super) fn credit(&mut self) -> Option<Sync> {
        let outstanding = self.granted.saturating_sub(self.blocks);
        if outstanding > bounds::BLOCK_CREDIT / 2 {
            return None;
        }
        let blocks = bounds::BLOCK_CREDIT - outstanding;
        self.granted += blocks;
        Some(Sync::Credit { id: self.id, blocks })
    }

    fn narrow(&mut self, ranges: Vec<Prefix>) -> Sync {
        let numbers = ranges.iter().map(|range| range.number()).collect();
        self.asked.push_back(ranges);
        let number = self.answered + self.asked.len() as u32;
        Sync::Narrow { id: self.id, number, ranges: numbers }
    }

    fn fetch(&mut self, mut wanted: Vec<Wanted>, lean: bool) -> Sync {
        // In this order they come.
        wanted.sort_unstable_by_key(|wanted| wanted.range.span());
        self.fetches += 1;
        let ranges = wanted.iter().map(|wanted| wanted.range.number()).collect();
        self.awaited.extend(wanted.into_iter().map(|wanted| (self.fetches, wanted)));
        Sync::Fetch { id: self.id, number: self.fetches, ranges, lean }
    }

    /// Of which ranges an answer tells the parts: none if it is not the next one.
    pub(super) fn answered(&mut self, number: u32) -> Option<Vec<Prefix>> {
        if self.answered + 1 != number {
            return None;
        }
        self.answered = number;
        Some(self.asked.pop_front().unwrap_or_default())
    }

    /// Takes note of the end of a request for cells, of which there must be one: what was asked for and is
    /// now said to have come.
    pub(super) fn ended(&mut self) -> Option<Vec<Wanted>> {
        if self.fetches == self.ends {
            return None;
        }
        self.ends += 1;
        let over = self.awaited.partition_point(|(number, _)| *number <= self.ends);
        Some(self.awaited.drain(..over).map(|(_, wanted)| wanted).collect())
    }

    /// Whether a message tells the end of the request that is next to end.
    pub(super) fn is_next_end(&self, number: u32) -> bool {
        self.ends + 1 == number
    }

    /// Lets go of what has come: how many ranges.
    pub(super) fn take_arrived(&mut self, staged: &State) -> u64 {
        let mut arrived = 0;
        while self.awaited.front().is_some_and(|(_, wanted)| wanted.has_come(staged)) {
            self.awaited.pop_front();
            arrived += 1;
        }
        arrived
    }

    /// Whether all has come that was asked for.
    fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.awaited.is_empty()
    }
}

/// How far the search for what differs has come, and what of it is to be fetched.
#[derive(Debug, Default)]
pub(super) struct Guide {
    /// Unequal ranges whose parts have not been asked for.
    pub(super) frontier: VecDeque<Prefix>,
    /// Ranges to be fetched, of whom nobody has been asked for them.
    wanted: BTreeMap<Prefix, Wanted>,
    /// Those of them that nobody is known to hold alike but the peer whose snapshot it is.
    lone: BTreeSet<Prefix>,
    /// Ranges that have been asked for, or are known to be empty there, or were left from an earlier session.
    pub(super) staged: Vec<Prefix>,
    /// The same as ranges, and of how many of them.
    ranges: Option<(usize, Arc<Ranges>)>,
    /// What of the latter has not been taken over yet.
    pub(super) left_over: VecDeque<Span>,
    /// Ranges whose cells here have rotted and are to be replaced, and what had been seen when that was asked for.
    pub(super) rotten: Vec<Prefix>,
    pub(super) seen: Vec<u64>,
    /// Whether values that have been seen here need not come, if members do not share the work.
    pub(super) lean: bool,
    /// Of how many leading bits the ranges are in which members share the work, if they do.
    pub(super) shared: Option<u32>,
    /// Then: the ranges some of whose parts are wanted, in the order in which they were found.
    pub(super) parents: Vec<Prefix>,
}

impl Guide {
    /// Begins, where so much had been seen and these ranges have rotted.
    pub(super) fn new(rotten: Vec<Prefix>, seen: Vec<u64>) -> Self {
        Self { rotten, seen, ..Self::default() }
    }

    /// Has members share the work of so many keys: all of it is looked at in ranges of one size.
    pub(super) fn share(&mut self, keys: u64) {
        let ranges = keys.div_ceil(bounds::SHARE_KEYS).max(1);
        let bits = u64::BITS - (ranges - 1).leading_zeros();
        let bits = bits.clamp(SHARE_BITS.0, SHARE_BITS.1);
        self.shared = Some(bits);
        let first = 1_u64 << (bits - 4);
        self.frontier.extend((first..2 * first).filter_map(Prefix::numbered));
    }

    /// All ranges that have been asked for, or need not be.
    pub(super) fn ranges(&mut self, key: HashKey) -> Arc<Ranges> {
        let known = self.ranges.take().filter(|(of, _)| *of == self.staged.len());
        let (of, ranges) = known
            .unwrap_or_else(|| (self.staged.len(), Arc::new(Ranges::new(key, self.staged.iter().copied()))));
        self.ranges = Some((of, ranges.clone()));
        ranges
    }

    /// Notes that a range is to be fetched; with its fingerprint in the snapshot, if others may be asked for it.
    pub(super) fn want(&mut self, range: Prefix, sum: Option<u64>) {
        self.want_again(Wanted { range, sum, held_by: SmallVec::new(), begun: false });
    }

    /// Notes that a range is still to be fetched.
    pub(super) fn want_again(&mut self, wanted: Wanted) {
        if wanted.held_by.is_empty() {
            self.lone.insert(wanted.range);
        }
        self.wanted.insert(wanted.range, wanted);
    }

    /// Compares the parts of a range with what the other side has of them.
    pub(super) fn compare(
        &mut self,
        range: Prefix,
        ours: &[Fingerprint; 16],
        left: &[Fingerprint; 16],
        theirs: &RangeParts,
    ) {
        let wanted = self.wanted.len();
        let mut sums = theirs.sums.iter();
        for (n, (part, (ours, left))) in range.parts().zip(ours.iter().zip(left)).enumerate() {
            let there = if theirs.present >> n & 1 == 1 { sums.next().map(|sum| sum.0) } else { None };
            let here = (ours.keys > 0).then(|| ours.short());
            let is_left =
                left.keys > 0 && (there == Some(left.short()) || mutant::is(Mutant::LeftoverNotCompared));
            let few = if self.shared.is_some() { FEW_KEYS_OF_SHARE } else { FEW_KEYS };
            match there {
                _ if there == here => {}
                // Nothing is there: what is here was removed, or is news to them.
                None => self.staged.push(part),
                Some(_) if is_left => {
                    self.staged.push(part);
                    self.left_over.push_back(part.span());
                }
                Some(sum) if ours.keys.max(left.keys) <= few || !part.has_parts() => {
                    self.want(part, self.shared.map(|_| sum));
                }
                Some(_) => self.frontier.push_back(part),
            }
        }
        if self.wanted.len() > wanted && self.shared.is_some() {
            self.parents.push(range);
        }
    }

    /// Takes note of what a source has of the parts of a range: those that it holds alike.
    pub(super) fn compare_source(
        &mut self,
        source: LinkId,
        range: Prefix,
        theirs: &RangeParts,
    ) -> Vec<Prefix> {
        let mut sums = theirs.sums.iter();
        let mut alike = Vec::new();
        for (n, part) in range.parts().enumerate() {
            let there = if theirs.present >> n & 1 == 1 { sums.next().map(|sum| sum.0) } else { None };
            let Some(wanted) = self.wanted.get_mut(&part).filter(|_| there.is_some()) else { continue };
            if wanted.sum == there || mutant::is(Mutant::SourceNotCompared) {
                wanted.held_by.push(source);
                self.lone.remove(&part);
                alike.push(part);
            }
        }
        alike
    }

    /// A source is there no more.
    pub(super) fn forsake(&mut self, source: LinkId) {
        for wanted in self.wanted.values_mut() {
            wanted.held_by.retain(|link| *link != source);
            if wanted.held_by.is_empty() {
                self.lone.insert(wanted.range);
            }
        }
    }

    fn take(&mut self, range: Prefix) -> Option<Wanted> {
        let wanted = self.wanted.remove(&range)?;
        self.lone.remove(&range);
        self.staged.push(range);
        Some(wanted)
    }

    /// How many ranges a member is asked for at once, of so many members: less and less, so that all have
    /// something to do to the end and little is lost with one.
    fn portion(&self, members: usize, most: usize) -> usize {
        (self.wanted.len() / (2 * members)).clamp(1, most)
    }

    /// What the peer is to be asked whose snapshot it is.
    pub(super) fn ask(&mut self, stream: &mut Stream, members: usize, most: usize) -> Vec<Sync> {
        let mut requests = Vec::new();
        while stream.asked.len() < NARROWING && !self.frontier.is_empty() {
            let some = self.frontier.len().min(NARROWED);
            requests.push(stream.narrow(self.frontier.drain(..some).collect()));
        }
        if self.shared.is_some() {
            let portion = self.portion(members, most);
            if stream.awaited.len() <= portion / 2 && !self.wanted.is_empty() {
                let wanted = self.take_some(portion);
                // Of each range it is looked whether it has come.
                requests.push(stream.fetch(wanted, false));
            }
            return requests;
        }
        let narrowed = stream.asked.is_empty();
        while self.wanted.len() >= wire::FETCH || narrowed && !self.wanted.is_empty() {
            let wanted = self.take_some(wire::FETCH);
            requests.push(stream.fetch(wanted, self.lean));
        }
        requests
    }

    /// First what nobody else can give. What has no fingerprint are single keys, of which more are taken.
    fn take_some(&mut self, portion: usize) -> Vec<Wanted> {
        let mut taken: Vec<Wanted> = Vec::new();
        while taken.len() < wire::FETCH {
            let next = self.lone.first().or_else(|| self.wanted.keys().next_back()).copied();
            let single = next.is_some_and(|range| self.wanted[&range].sum.is_none());
            let Some(range) = next.filter(|_| single || taken.len() < portion) else { break };
            taken.extend(self.take(range));
        }
        taken
    }

    /// What a source is to be asked. `offered` are the ranges that it is known to hold alike, `heard_of` says how
    /// many of the ranges with wanted parts it has been asked about.
    pub(super) fn ask_source(
        &mut self,
        stream: &mut Stream,
        offered: &mut VecDeque<Prefix>,
        heard_of: &mut usize,
        members: usize,
        most: usize,
    ) -> Vec<Sync> {
        let mut requests = Vec::new();
        while stream.asked.len() < NARROWING && *heard_of < self.parents.len() {
            let mut ranges = Vec::new();
            while ranges.len() < NARROWED && *heard_of < self.parents.len() {
                let parent = self.parents[*heard_of];
                *heard_of += 1;
                if parent.parts().any(|part| self.wanted.contains_key(&part)) {
                    ranges.push(parent);
                }
            }
            if !ranges.is_empty() {
                requests.push(stream.narrow(ranges));
            }
        }
        let portion = self.portion(members, most);
        if stream.awaited.len() > portion / 2 {
            return requests;
        }
        let mut wanted = Vec::new();
        while wanted.len() < portion
            && let Some(range) = offered.pop_front()
        {
            wanted.extend(self.take(range));
        }
        if !wanted.is_empty() {
            requests.push(stream.fetch(wanted, false));
        }
        requests
    }

    /// Whether a source has nothing more to give.
    pub(super) fn is_through(
        &self,
        primary: &Stream,
        stream: &Stream,
        offered: &VecDeque<Prefix>,
        heard_of: usize,
    ) -> bool {
        let narrowed = self.frontier.is_empty() && primary.asked.is_empty();
        let heard = heard_of == self.parents.len() && stream.asked.is_empty();
        let nothing = self.wanted.is_empty() || heard && offered.is_empty();
        narrowed && nothing && stream.awaited.is_empty()
    }

    /// Whether nothing is left that anybody could be asked for, and the peer whose snapshot it is has nothing to do.
    pub(super) fn is_drained(&self, stream: &Stream) -> bool {
        self.frontier.is_empty() && self.wanted.is_empty() && stream.is_idle()
    }

    /// Whether all has come from the peer whose snapshot it is, and from earlier sessions.
    pub(super) fn is_complete(&self, stream: &Stream) -> bool {
        self.is_drained(stream) && stream.fetches == stream.ends && self.left_over.is_empty()
    }
}
