//! The engine: everything that can happen to a node, and everything it can do.
//!
//! This is the vocabulary of the door between the two zones. The live zone calls
//! [`Engine::write`] for clients and [`Engine::handle`] for everything else, as
//! things happen; then [`Engine::take_effects`] says what is to be done. One rule
//! binds whoever carries effects out: **the records go to the disk first** (to the
//! operating system, and with `fsync = "always"` to the device); only then may the
//! messages of the same effects leave, or any reply that rests on them. Effects
//! are carried out in the order in which they were taken.
//!
//! The engine never reads a clock and never draws from ambient randomness: the
//! same calls give the same effects, byte for byte.

#![warn(missing_docs)]

use tidings_proto::message::Stats;
use tidings_proto::{Actor, Hello, Message, Name, Run};

pub use crate::core::link::{Answer, DiskRead, Event, GossipCounts, LinkId, Now, Settings, Token};
pub use crate::core::prepare::{Preparing, Spent};
pub use crate::core::quorum::NoQuorum;
pub use crate::core::sources::Sharing;
pub use crate::core::write::{Limits, Write, WriteError, Written};

use crate::core::actors::TooManyActors;
use crate::core::fingerprint::Prefix;
use crate::core::journal::Meta;
use crate::core::link::{Gossip, Outbox};
use crate::core::members::Members;
use crate::core::mutant::{self, Mutant};
use crate::core::replica::{Recovery, Replica};
use crate::core::session::Merges;
use crate::core::snapshot::{Begun, SnapshotId, Step};

/// What can happen to a node, besides a client's write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A link came up: both HELLOs have been exchanged and checked.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The peer's HELLO. If it names no address, the live zone has put in the one it saw.
        hello: Hello,
    },
    /// A link that was up went down.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// All that was put on a link's news lane has been accepted by the transport.
    Writable {
        /// The link.
        link: LinkId,
    },
    /// A message for this link was dropped, because its queue was full.
    Dropped {
        /// The link.
        link: LinkId,
    },
    /// A message arrived, within its bounds.
    Message {
        /// From whom.
        link: LinkId,
        /// The message.
        message: Message,
    },
    /// Something large is arriving over this link and is not whole yet. Told of about once a second, and not where it only
    /// trickles.
    Receiving {
        /// From whom.
        link: LinkId,
    },
    /// The deadline has come.
    Tick,
    /// Ops have been read from the log on disk; none if it does not have them any more, or cannot be read.
    FromLog {
        /// For whom.
        link: LinkId,
        /// The request's.
        id: u64,
        /// The ops.
        runs: Vec<Run>,
    },
    /// An operator asks to offer everything now, to one peer or to all.
    Push {
        /// To whom.
        link: Option<LinkId>,
    },
    /// An operator asks to compare version vectors with a peer now.
    Sync {
        /// With whom.
        link: LinkId,
        /// For the answer.
        token: Token,
    },
    /// An operator asks for a peer's cells.
    AskCells {
        /// Of whom.
        link: LinkId,
        /// For the answer.
        token: Token,
        /// Which keys; none for a page of all.
        keys: Vec<Vec<u8>>,
        /// Where to go on; 0 at first.
        cursor: u64,
        /// Key names alone.
        names_only: bool,
    },
    /// An operator asks for a peer's figures.
    AskStats {
        /// Of whom.
        link: LinkId,
        /// For the answer.
        token: Token,
    },
    /// A client wants to read what so many nodes have, this one included.
    Read {
        /// For the answer.
        token: Token,
        /// How many.
        nodes: usize,
        /// Until when; monotonic microseconds.
        until: u64,
    },
    /// The knobs have changed.
    Settings(Settings),
    /// An audit found cells that are not what their fingerprints say.
    Repair(Vec<Prefix>),
    /// An operator has a member forgotten.
    Forget(Name),
    /// The node is about to go on purpose.
    Leave,
}

/// What is to be done, in this order: records, then sends; answers and events whenever.
#[derive(Debug, Default)]
pub struct Effects {
    /// Append these to the log on disk, each whole.
    pub records: Vec<Vec<u8>>,
    /// How many ops are in them.
    pub ops: u64,
    /// The number of the last record taken so far: the log numbers them alike.
    pub last_record: u64,
    /// Then send these.
    pub sends: Vec<(LinkId, Message)>,
    /// Hand these to whoever asked.
    pub answers: Vec<(Token, Answer)>,
    /// Act upon these.
    pub events: Vec<Event>,
    /// Read these from the log, and come back with [`Input::FromLog`]. A newer one for a link replaces an older.
    pub reads: Vec<DiskRead>,
    /// Drop these where nobody waits for it.
    pub spent: Vec<Spent>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { records, ops: _, last_record: _, sends, answers, events, reads, spent } = self;
        let lists = [answers.is_empty(), events.is_empty(), reads.is_empty(), spent.is_empty()];
        records.is_empty() && sends.is_empty() && !lists.contains(&false)
    }
}

/// A node without its clock, its sockets and its disk.
#[derive(Debug)]
pub struct Engine {
    replica: Replica,
    gossip: Gossip,
    stopped: Option<String>,
    /// The bounds that are exceeded now.
    short: Short,
    refusals: Refusals,
}

/// The bounds of the node that are exceeded now, in bytes: then clients' writes are refused.
/// What peers send is taken in all the same: refusing it would only have it come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Short {
    /// The bound on memory; what frees memory goes on.
    pub memory: Option<u64>,
    /// The bound on the log since the last checkpoint.
    pub log: Option<u64>,
}

/// Clients' writes that were refused because a bound was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals {
    /// For want of memory.
    pub memory: u64,
    /// For want of room in the log.
    pub log: u64,
}

impl Engine {
    /// A new life of a node, from what its earlier lives left on disk (which may
    /// be nothing), as `actor`, whose incarnation must be fresh. `seed` decides
    /// what the protocol leaves to chance.
    pub fn new(
        mut recovery: Recovery,
        actor: &Actor,
        settings: Settings,
        seed: u64,
        now: Now,
    ) -> Result<Self, TooManyActors> {
        let others = recovery.members().filter(|member| member.node != actor.node);
        let members = Members::new(others.cloned(), recovery.cursors().cloned());
        let merges = Merges::new(recovery.take_leftover(), now);
        let replica = recovery.finish(actor, settings.max_clock_drift)?;
        Ok(Self {
            replica,
            gossip: Gossip::new(settings, members, merges, seed, now),
            stopped: None,
            short: Short::default(),
            refusals: Refusals::default(),
        })
    }

    /// Carries out a client's write, in one step.
    pub fn write(&mut self, now: Now, write: Write<'_>) -> Result<Written, WriteError> {
        if let Some(reason) = &self.stopped {
            return Err(WriteError::Stopped(reason.clone()));
        }
        if let Some(bound) = self.short.log {
            self.refusals.log += 1;
            return Err(WriteError::LogFull { bound });
        }
        if let Some(bound) = self.short.memory.filter(|_| !write.only_removes()) {
            self.refusals.memory += 1;
            return Err(WriteError::OutOfMemory { bound });
        }
        self.replica.write(now.wall, write)
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        let Self { replica, gossip, .. } = self;
        match input {
            Input::LinkUp { link, hello } => gossip.link_up(now, replica, link, &hello),
            Input::LinkDown { link } => gossip.link_down(now, replica, link),
            Input::Writable { link } => gossip.writable(link),
            Input::Dropped { link } => gossip.on_dropped(link),
            Input::Message { link, message } => self.on_message(now, link, message),
            Input::FromLog { link, id, runs } => gossip.on_read(replica, link, id, runs),
            Input::Receiving { link } => gossip.receiving(now, link),
            Input::Tick => {
                gossip.on_tick(now, replica);
                if self.stopped.is_none() {
                    gossip.prepare_due(now, replica);
                    gossip.send_due(replica);
                }
            }
            Input::Push { link } => gossip.push_now(now, link),
            Input::Sync { link, token } => gossip.begin_sync(replica, link, Some(token)),
            Input::AskCells { link, token, keys, cursor, names_only } => {
                gossip.ask_cells(link, token, keys, cursor, names_only);
            }
            Input::AskStats { link, token } => gossip.ask_stats(link, token),
            Input::Read { token, nodes, until } => gossip.begin_read(replica, token, nodes, until),
            Input::Settings(settings) => {
                replica.clock_mut().set_max_drift(settings.max_clock_drift);
                gossip.set_settings(settings, now);
            }
            Input::Forget(node) => {
                gossip.forget(&node);
            }
            Input::Repair(ranges) => gossip.repair(ranges),
            Input::Leave => gossip.leave(),
        }
    }

    fn on_message(&mut self, now: Now, link: LinkId, message: Message) {
        let Self { replica, gossip, .. } = self;
        if !gossip.has_link(link) || self.stopped.is_some() {
            return;
        }
        match message {
            Message::Push(push) => gossip.on_push(now, replica, link, &push),
            Message::Pull(pull) => gossip.on_pull(now, replica, link, pull),
            Message::Sync(sync) => gossip.on_sync(now, replica, link, sync),
            Message::Stats(Stats::Ask { id }) => {
                let figures = self.figures().into_iter().map(|(name, value)| (name.into(), value)).collect();
                self.gossip.tell_figures(link, id, figures);
            }
            Message::Stats(Stats::Figures { id, figures }) => {
                gossip.answered(link, id, Answer::Figures(figures));
            }
            Message::Members(members) => {
                let own = replica.actor().node.clone();
                gossip.on_members(&own, members);
            }
            Message::Leave => gossip.on_leave(link),
        }
    }

    /// Grows with all that peers bring which was lacking here: ops, and parts of states that were asked for.
    pub fn brought(&self) -> u64 {
        let gossip = self.gossip.counts();
        self.replica.counts().received + gossip.blocks_received + gossip.merges
    }

    /// What is to be done about all that has happened since the last call.
    pub fn take_effects(&mut self, now: Now) -> Effects {
        let Self { replica, gossip, .. } = self;
        if self.stopped.is_some() {
            gossip.end_reads(now, replica);
            let Outbox { answers, events, .. } = gossip.take_outbox();
            return Effects { answers, events, ..Effects::default() };
        }
        replica.close_reset(now.wall);
        gossip.settle(now, replica);
        let ops = replica.pending_ops();
        let records = replica.take_records();
        let last_record = replica.last_record();
        let Outbox { mut sends, answers, events, reads, mut spent } = gossip.take_outbox();
        let snapshots = replica.take_spent();
        if !snapshots.is_empty() {
            spent.push(Spent::of_snapshots(snapshots));
        }
        if mutant::is(Mutant::StalePayload) {
            crate::core::broken::later_contexts(&mut sends, replica);
        }
        Effects { records, ops, last_record, sends, answers, events, reads, spent }
    }

    /// The next moment at which [`Input::Tick`] is due, in monotonic microseconds.
    pub fn deadline(&self) -> u64 {
        // A stopped engine settles nothing, so what is due there stays due.
        if self.stopped.is_some() && !mutant::is(Mutant::StoppedSpins) {
            self.gossip.idle_deadline()
        } else {
            self.gossip.deadline()
        }
    }

    /// The disk failed: from now on nothing is written, taken in or sent; reads go on.
    pub fn stop(&mut self, reason: String) {
        self.stopped.get_or_insert(reason);
    }

    /// Says which bounds are exceeded, and what was said before.
    pub fn set_short(&mut self, short: Short) -> Short {
        std::mem::replace(&mut self.short, short)
    }

    /// Writes refused for that.
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Why writes have stopped, if they have.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// The data, for readers.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The data, for whoever sets its bounds or takes its snapshots.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// Bounds the bytes of ops that came ahead of their turn and wait for it.
    pub fn set_ahead_bound(&mut self, bytes: usize) {
        self.gossip.set_ahead_bound(bytes);
    }

    /// Says when and how members share the work of a context merge.
    pub fn set_sharing(&mut self, sharing: Sharing) {
        self.gossip.set_sharing(sharing);
    }

    /// Says in what steps a context merge is worked out before it is taken.
    pub fn set_preparing(&mut self, preparing: Preparing) {
        self.gossip.set_preparing(preparing);
    }

    /// The protocol, for whoever reports on it.
    pub fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// The last own write: its author and number, 0 before the first.
    pub fn last_dot(&self) -> (Actor, u64) {
        (self.replica.actor().clone(), self.replica.own_seq())
    }

    /// The live zone no longer waits for an answer.
    pub fn cancel(&mut self, token: Token) {
        self.gossip.cancel(token);
    }

    /// How many linked peers are known to hold an own write, durably as their `fsync` says.
    pub fn holders(&self, actor: &Actor, seq: u64) -> usize {
        let ix = self.replica.state().actors().find(actor);
        ix.map_or(0, |ix| self.gossip.holders(ix, seq))
    }

    /// Begins a checkpoint: its meta, and the snapshot whose blocks belong to it.
    /// All records taken so far, and those that are taken next, are *not* in it:
    /// call it right after [`Engine::take_effects`], under the same lock. None from
    /// a stopped engine: it may have applied what never reached the disk; nor while memory
    /// is known to have rotted.
    pub fn begin_checkpoint(&mut self) -> Option<(SnapshotId, Meta)> {
        if self.stopped.is_some() || !(self.gossip.rotten().is_empty() || mutant::is(Mutant::RotPassedOn)) {
            return None;
        }
        assert!(!self.replica.has_pending(), "a checkpoint begins where a record ended");
        let Begun { id: snapshot, seen, parked } = self.replica.begin_snapshot()?;
        self.gossip.log_merge_again(&mut self.replica);
        let meta = Meta {
            seen,
            parked,
            ceiling: self.replica.clock_mut().ceiling(),
            members: self.gossip.members().iter().map(|info| info.member.clone()).collect(),
            shelved: self.replica.log().shelved(self.replica.state().actors()),
            cursors: self.gossip.cursors(&self.replica),
        };
        Some((snapshot, meta))
    }

    /// The next block of a checkpoint.
    pub fn step_checkpoint(&mut self, snapshot: SnapshotId) -> Step {
        let step = self.replica.step_snapshot(snapshot);
        self.gossip.repair(self.replica.take_rotten());
        step
    }

    /// Ends a checkpoint, finished or not.
    pub fn end_checkpoint(&mut self, snapshot: SnapshotId) {
        self.replica.end_snapshot(snapshot);
    }

    /// This node's figures by name, for operators and other nodes.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let (ops, gossip) = (self.replica.counts(), self.gossip.counts());
        let (state, tallies) = (self.replica.state(), self.replica.state().tallies());
        let mut figures = vec![
            ("keys", tallies.keys),
            ("members_of_sets", tallies.members),
            ("version_conflicts", tallies.version_conflicts),
            ("kind_conflicts", tallies.kind_conflicts),
            ("parked_removals", state.parked().len() as u64),
            ("actors", state.actors().len() as u64),
            ("op_log_bytes", self.replica.log().bytes() as u64),
            ("links", self.gossip.links().count() as u64),
            ("members", self.gossip.members().iter().count() as u64),
            ("ops_written", ops.written),
            ("ops_received", ops.received),
            ("ops_duplicate", ops.duplicate),
            ("ops_early", ops.early),
            ("ops_refused", ops.refused),
            ("conflicts", ops.conflicts),
        ];
        let kinds = crate::core::view::Kind::ALL.iter().zip(tallies.by_kind);
        figures.extend(kinds.map(|(kind, keys)| (kind.name(), keys)));
        figures.extend(gossip.figures());
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::HashKey;

    const LINK: LinkId = LinkId(1);

    fn node(name: &str) -> Engine {
        let actor = Actor { node: Name::new(name).unwrap(), incarnation: 1 };
        let recovery = Recovery::new(HashKey(1, 2), 1 << 20);
        Engine::new(recovery, &actor, Settings::default(), 1, Now::default()).unwrap()
    }

    fn link(nodes: &mut [Engine; 2], now: Now) {
        let hello = |engine: &Engine| Hello {
            versions: tidings_proto::VERSIONS,
            realm: Name::new("r").unwrap(),
            actor: engine.replica().actor().clone(),
            zone: String::new(),
            addresses: Vec::new(),
            clock: 0,
            order: engine.replica().state().order(),
        };
        let hellos = [hello(&nodes[1]), hello(&nodes[0])];
        for (node, hello) in nodes.iter_mut().zip(hellos) {
            node.handle(now, Input::LinkUp { link: LINK, hello });
        }
    }

    /// Ten seconds, a millisecond at a time.
    fn run(nodes: &mut [Engine; 2], now: &mut Now) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..10_000 {
            now.mono += 1_000;
            for at in 0..2 {
                nodes[at].handle(*now, Input::Writable { link: LINK });
                nodes[at].handle(*now, Input::Tick);
                let effects = nodes[at].take_effects(*now);
                events.extend(effects.events);
                for (_, message) in effects.sends {
                    nodes[1 - at].handle(*now, Input::Message { link: LINK, message });
                }
            }
        }
        events
    }

    fn rotten(engine: &Engine) -> Vec<Prefix> {
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(at) = next {
            let audited = engine.replica().state().audit(at);
            found.extend(audited.rotten);
            next = audited.next;
        }
        found
    }

    #[test]
    fn what_has_rotted_is_found_and_replaced_from_a_peer() {
        let mut nodes = [node("a"), node("b")];
        let mut now = Now { mono: 1, wall: 1_700_000_000_000 };
        for n in 0..3_000 {
            let key = format!("k{n}");
            nodes[n % 2].write(now, Write::Set { key: key.as_bytes(), value: b"value" }).unwrap();
        }
        link(&mut nodes, now);
        run(&mut nodes, &mut now);
        assert!(rotten(&nodes[0]).is_empty() && rotten(&nodes[1]).is_empty());
        let whole = nodes[1].replica().state().recount();
        for key in ["k7", "k8", "k2999"] {
            assert!(nodes[0].replica_mut().damage().rot(key.as_bytes()));
        }
        let ranges = rotten(&nodes[0]);
        assert!((1..=3).contains(&ranges.len()));
        assert_ne!(nodes[0].replica().state().recount(), whole);
        // Writes go on meanwhile, also to what has rotted.
        nodes[0].handle(now, Input::Repair(ranges));
        nodes[0].write(now, Write::Set { key: b"k7", value: b"newer" }).unwrap();
        nodes[1].write(now, Write::Set { key: b"k9", value: b"newer" }).unwrap();
        let events = run(&mut nodes, &mut now);
        assert!(!events.iter().any(|event| matches!(event, Event::Misbehaved { .. })), "{events:?}");
        assert!(nodes[0].gossip().rotten().is_empty());
        assert!(rotten(&nodes[0]).is_empty());
        let [a, b] = nodes.each_ref().map(|node| node.replica().state());
        assert_eq!((a.recount(), a.fingerprint()), (b.recount(), b.fingerprint()));
        assert_eq!(a.tallies(), b.tallies());
        let value = |state: &crate::core::state::State, key: &[u8]| {
            state.get(key).unwrap().register().versions()[0].value.to_vec()
        };
        assert_eq!((value(a, b"k7"), value(a, b"k8")), (b"newer".to_vec(), b"value".to_vec()));
        assert_eq!(nodes[0].gossip().counts().rotten, nodes[0].gossip().counts().repaired);
    }

    #[test]
    fn what_has_rotted_is_not_passed_on() {
        let mut nodes = [node("a"), node("b")];
        let mut now = Now { mono: 1, wall: 1_700_000_000_000 };
        nodes[0].replica_mut().log_mut().set_bound(0);
        nodes[0].write(now, Write::Set { key: b"k", value: b"value" }).unwrap();
        nodes[0].take_effects(now);
        nodes[0].replica_mut().damage().rot(b"k");
        let ranges = rotten(&nodes[0]);
        nodes[0].handle(now, Input::Repair(ranges));
        link(&mut nodes, now);
        run(&mut nodes, &mut now);
        assert!(nodes[1].replica().state().is_empty());
        assert_eq!(nodes[0].gossip().rotten().len(), 1);
    }
}
