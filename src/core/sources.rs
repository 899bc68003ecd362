//! Members that a context merge fetches from besides the one whose snapshot it merges.
//!
//! There is one snapshot, that of the *primary* session, and the staged state belongs to its context alone.
//! A *source* is a further guided session with another peer, of whose snapshot nothing is used but cells: those
//! of ranges that have the same fingerprint there as in the primary's. What has come of a range is compared
//! once more; if it is not what the primary told, the primary is asked for it. So nothing rests on what a
//! source has seen, nor on what it says.

use std::collections::VecDeque;

use rand::RngExt;
use tidings_proto::block::BlockReader;
use tidings_proto::message::{RangeParts, Sync};
use tidings_proto::{DecodeError, Message};

use super::bounds;
use super::fingerprint::{Prefix, Ranges, Span};
use super::guide::{Stream, Wanted};
use super::journal::Entry;
use super::link::{Gossip, LinkId, Now};
use super::mutant::{self, Mutant};
use super::replica::Replica;
use super::session::{Context, Incoming, Merges};
use super::state::State;
use super::view::Shape;

/// When and how members share the work of a context merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// A state of fewer keys is fetched from one.
    pub keys: u64,
    /// So is one that has less than so many times as many keys as there are here.
    pub times: u64,
    /// Ranges that one member may have been asked for at once.
    pub ranges: usize,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { keys: bounds::SHARED_KEYS, times: bounds::SHARED_TIMES, ranges: bounds::SHARES }
    }
}

/// A session with a member that is not the primary.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Stream,
    /// Whether its snapshot has begun.
    begun: bool,
    /// Ranges that it holds as the primary does.
    offered: VecDeque<Prefix>,
    /// How many of the guide's ranges with wanted parts it has been asked about.
    heard_of: usize,
}

/// Why a session with a source ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell<'a> {
    /// The other side knows.
    None,
    /// It is not needed any more.
    Done,
    /// Something is wrong with it.
    Abort(&'a str),
}

impl Incoming {
    fn source(&self, link: LinkId, id: u64) -> Option<usize> {
        self.sources.iter().position(|source| source.stream.is(link, id))
    }

    /// How many members it streams from.
    pub(super) fn members(&self) -> usize {
        1 + self.sources.iter().filter(|source| source.stream.blocks > 0).count()
    }

    /// What everybody is to be asked next, and which sources have nothing more to give.
    fn requests(&mut self, sharing: Sharing) -> (Vec<(LinkId, Sync)>, Vec<LinkId>) {
        let Self { stream, guide: Some(guide), sources, .. } = self else { return Default::default() };
        let (members, most) = (1 + sources.len(), sharing.ranges);
        let asked = guide.ask(stream, members, most).into_iter();
        let mut requests: Vec<(LinkId, Sync)> = asked.map(|sync| (stream.link, sync)).collect();
        let mut through = Vec::new();
        for Source { stream: other, begun, offered, heard_of } in sources {
            if *begun {
                let asked = guide.ask_source(other, offered, heard_of, members, most).into_iter();
                requests.extend(asked.map(|sync| (other.link, sync)));
            }
            if guide.is_through(stream, other, offered, *heard_of) {
                through.push(other.link);
            }
        }
        (requests, through)
    }
}

impl Context {
    /// Whether a block has nothing but cells of what has been asked for.
    pub(super) fn is_awaited(
        &self,
        block: &[u8],
        awaited: &VecDeque<(u32, Wanted)>,
    ) -> Result<bool, DecodeError> {
        let mut reader = BlockReader::new(block)?;
        let ranges = Ranges::new(self.staged.hash_key, awaited.iter().map(|(_, wanted)| wanted.range));
        let mut is_awaited = true;
        while let Some(item) = reader.next()? {
            if item.is_new_key {
                let position = self.staged.position(item.key);
                is_awaited &= ranges.contains(position);
            }
        }
        Ok(is_awaited)
    }

    /// Stages a block of a source, which can be read.
    fn load_of(&mut self, block: &[u8], is_awaited: bool) -> Result<(), &'static str> {
        if !is_awaited {
            return Err("it sends what it was not asked for");
        }
        self.staged.load(block).map_err(|_| "what it sends is not in the context")
    }
}

impl State {
    /// Drops the cells of some ranges from a state that is being staged.
    fn drop_within(&mut self, mut spans: Vec<Span>) {
        spans.sort_unstable();
        let Self { cells, tallies, .. } = self;
        cells.retain_within(&spans, |_, cells| {
            tallies.replace(&Shape::of(cells), &Shape::default());
            false
        });
    }
}

impl Gossip {
    /// Says when and how members share the work of a context merge.
    pub(crate) fn set_sharing(&mut self, sharing: Sharing) {
        self.merges.sharing = sharing;
    }

    /// Begins sessions with other peers, if there is work for them.
    pub(super) fn seek_sources(&mut self, now: Now, replica: &Replica) {
        let wants = |incoming: &&Incoming| {
            let shares =
                |guide: &super::guide::Guide| guide.shared.is_some() && !guide.is_drained(&incoming.stream);
            incoming.context.is_some()
                && incoming.sources.len() < bounds::SOURCES
                && incoming.guide.as_ref().is_some_and(shares)
        };
        let Some(incoming) = self.merges.incoming.as_ref().filter(wants) else { return };
        let untried = self.links.keys().filter(|link| !incoming.tried.contains(link));
        let mut peers: Vec<LinkId> =
            untried.copied().filter(|link| self.is_comparable(replica, *link)).collect();
        let mut room = bounds::SOURCES - incoming.sources.len();
        while room > 0 && !peers.is_empty() {
            room -= 1;
            let link = peers.swap_remove(self.rng.random_range(0..peers.len()));
            let id = self.fresh_id();
            self.send(link, Message::Sync(Sync::Merge { id, guided: true }));
            let Some(incoming) = &mut self.merges.incoming else { return };
            incoming.tried.insert(link);
            let stream = Stream::new(id, link, now);
            incoming.sources.push(Source { stream, begun: false, offered: VecDeque::new(), heard_of: 0 });
            self.counts.sources += 1;
        }
    }

    /// Asks everybody for what is next; lets those go that have nothing more to give.
    pub(super) fn hand_out(&mut self) {
        let Merges { incoming: Some(incoming), sharing, .. } = &mut self.merges else { return };
        incoming.stirred = false;
        let drained = incoming.guide.as_ref().is_some_and(|guide| guide.is_drained(&incoming.stream));
        let late: Vec<LinkId> = if drained {
            // The primary has nothing to do: what others still have to send it can send as well.
            incoming.sources.iter().map(|source| source.stream.link).collect()
        } else {
            Vec::new()
        };
        let sharing = *sharing;
        late.into_iter().for_each(|link| self.end_source(link, Farewell::Done));
        let Some(incoming) = &mut self.merges.incoming else { return };
        let (requests, through) = incoming.requests(sharing);
        requests.into_iter().for_each(|(link, sync)| self.send(link, Message::Sync(sync)));
        through.into_iter().for_each(|link| self.end_source(link, Farewell::Done));
    }

    /// Ends the session with a source. What it was asked for and has not sent is to be had from others.
    pub(super) fn end_source(&mut self, link: LinkId, farewell: Farewell<'_>) {
        let Some(incoming) = &mut self.merges.incoming else { return };
        let Some(at) = incoming.sources.iter().position(|source| source.stream.link == link) else { return };
        let Source { stream, .. } = incoming.sources.remove(at);
        let id = stream.id;
        if let Some((guide, context)) = incoming.guide.as_mut().zip(incoming.context.as_ref()) {
            guide.forsake(link);
            for (_, mut wanted) in stream.awaited {
                if wanted.has_come(&context.staged) {
                    continue;
                }
                self.counts.ranges_again += 1;
                wanted.begun |= context.staged.fingerprint_of(wanted.range).keys > 0;
                wanted
                    .held_by
                    .retain(|held| incoming.sources.iter().any(|source| source.stream.link == *held));
                for source in incoming.sources.iter_mut().filter(|s| wanted.held_by.contains(&s.stream.link))
                {
                    source.offered.push_front(wanted.range);
                }
                guide.want_again(wanted);
            }
        }
        incoming.stirred = true;
        match farewell {
            Farewell::None => {}
            Farewell::Done => self.send(link, Message::Sync(Sync::Done { id })),
            Farewell::Abort(reason) => {
                self.send(link, Message::Sync(Sync::Abort { id, reason: reason.into() }));
            }
        }
    }

    /// What came of ranges is not what the primary told: nobody's offence. It is staged no more, and the primary
    /// is asked for it. The log has it, so there the session begins again.
    pub(super) fn fetch_anew(&mut self, replica: &mut Replica, ranges: Vec<Wanted>) {
        let Some(incoming) = &mut self.merges.incoming else { return };
        let Some((guide, context)) = incoming.guide.as_mut().zip(incoming.context.as_mut()) else { return };
        context.staged.drop_within(ranges.iter().map(|wanted| wanted.range.span()).collect());
        self.counts.ranges_again += ranges.len() as u64;
        for Wanted { range, sum, .. } in ranges {
            guide.want(range, sum);
        }
        incoming.stirred = true;
        self.log_merge_again(replica);
    }

    /// Goes on where the end of a session with a source has left something to be fetched.
    pub(super) fn go_on_stirred(&mut self, now: Now, replica: &mut Replica) {
        let stirred = self.merges.incoming.as_ref().filter(|incoming| incoming.stirred);
        if let Some((link, id)) = stirred.map(|incoming| (incoming.stream.link, incoming.stream.id)) {
            self.go_on(now, replica, link, id);
        }
    }

    /// Whether a message is of a session with a source; then it is dealt with.
    pub(super) fn on_source(
        &mut self,
        now: Now,
        replica: &mut Replica,
        from: LinkId,
        sync: &mut Sync,
    ) -> bool {
        let (Sync::Context { id, .. }
        | Sync::Parts { id, .. }
        | Sync::Block { id, .. }
        | Sync::End { id, .. }
        | Sync::Abort { id, .. }) = &*sync
        else {
            return false;
        };
        let Some(incoming) = &mut self.merges.incoming else { return false };
        let Some(at) = incoming.source(from, *id) else { return false };
        let source = &mut incoming.sources[at];
        source.stream.heard(now);
        match sync {
            Sync::Context { .. } => {
                source.begun = true;
                let credit = source.stream.credit();
                credit.into_iter().for_each(|credit| self.send(from, Message::Sync(credit)));
            }
            Sync::Parts { number, parts, .. } => self.on_source_parts(from, at, *number, parts),
            Sync::Block { index, block, .. } => {
                let block = std::mem::take(block);
                self.on_source_block(replica, from, at, *index, block);
            }
            Sync::End { number, blocks, .. } => self.on_source_end(replica, from, at, *number, *blocks),
            _ => self.end_source(from, Farewell::None),
        }
        if let Some(incoming) = &mut self.merges.incoming {
            incoming.stirred = true;
        }
        true
    }

    fn on_source_parts(&mut self, from: LinkId, at: usize, number: u32, parts: &[RangeParts]) {
        let Some(incoming) = &mut self.merges.incoming else { return };
        let Some(guide) = &mut incoming.guide else { return };
        let source = &mut incoming.sources[at];
        let Some(ranges) = source.stream.answered(number) else { return };
        if ranges.len() != parts.len() {
            return self.end_source(from, Farewell::Abort("the parts are not those asked for"));
        }
        for (range, theirs) in ranges.into_iter().zip(parts) {
            source.offered.extend(guide.compare_source(from, range, theirs));
        }
    }

    fn on_source_block(
        &mut self,
        replica: &mut Replica,
        from: LinkId,
        at: usize,
        index: u32,
        block: Vec<u8>,
    ) {
        let Some(incoming) = &mut self.merges.incoming else { return };
        let Some(context) = &mut incoming.context else { return };
        let stream = &mut incoming.sources[at].stream;
        if index != stream.blocks || incoming.bytes + block.len() > bounds::STAGED {
            return self.end_source(from, Farewell::Abort("a block is missing, or too much"));
        }
        let is_awaited = match context.is_awaited(&block, &stream.awaited) {
            Ok(is_awaited) => is_awaited,
            Err(error) => {
                self.end_source(from, Farewell::Abort("a block cannot be read"));
                return self.misbehaved(from, error);
            }
        };
        if let Err(reason) = context.load_of(&block, is_awaited) {
            // Some of it may be staged.
            let awaited: Vec<Wanted> = stream.awaited.drain(..).map(|(_, wanted)| wanted).collect();
            self.end_source(from, Farewell::Abort(reason));
            return self.fetch_anew(replica, awaited);
        }
        incoming.gave += usize::from(stream.blocks == 0);
        stream.blocks += 1;
        incoming.blocks += 1;
        incoming.bytes += block.len();
        incoming.logged += block.len();
        replica.note(Entry::MergeBlock(block));
        self.counts.ranges_of_sources += stream.take_arrived(&context.staged);
        self.counts.blocks_received += 1;
        self.counts.blocks_of_sources += 1;
        let credit = stream.credit();
        credit.into_iter().for_each(|credit| self.send(from, Message::Sync(credit)));
    }

    fn on_source_end(&mut self, replica: &mut Replica, from: LinkId, at: usize, number: u32, blocks: u32) {
        let Some(incoming) = &mut self.merges.incoming else { return };
        let Some(context) = &incoming.context else { return };
        let stream = &mut incoming.sources[at].stream;
        if !stream.is_next_end(number) {
            return;
        }
        let ended = if stream.blocks == blocks { stream.ended() } else { None };
        let Some(ended) = ended else {
            return self.end_source(from, Farewell::Abort("blocks are missing at the end"));
        };
        let is_good =
            |wanted: &Wanted| wanted.has_come(&context.staged) || mutant::is(Mutant::SourceNotCompared);
        let (good, bad): (Vec<Wanted>, Vec<Wanted>) = ended.into_iter().partition(is_good);
        self.counts.ranges_of_sources += good.len() as u64;
        if !bad.is_empty() {
            self.end_source(from, Farewell::Abort("what came is not what it told"));
            self.fetch_anew(replica, bad);
        }
    }
}
