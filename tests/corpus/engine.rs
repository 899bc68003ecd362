//! Two engines and two peers that make things up: nothing stops an engine, what it sends passes every border, what it
//! records brings the same state back, and what it has seen only grows.

use std::collections::VecDeque;

use tidings::core::bounds;
use tidings::core::fingerprint::Prefix;
use tidings::core::journal::{Entry, Meta, entries};
use tidings::core::replica::Recovery;
use tidings::core::shelf::Gather;
use tidings::core::snapshot::{SnapshotId, Step};
use tidings::core::state::State;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Input, LinkId, Now, Preparing, Settings, Sharing, Token, Write};
use tidings_proto::message::{Pull, Stats, Sync};
use tidings_proto::{Actor, Hello, Message, Name, Seen, frame};

use crate::bytes::Bytes;
use crate::dump::{Dump, dump};
use crate::forge::{ELEMENTS, Forger, KEYS, VALUES};

/// Most steps of one run.
const STEPS: usize = 400;
/// Most messages on their way to one node.
const QUEUE: usize = 32;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new(bytes.byte());
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        world.step(&mut bytes);
    }
    (0..2).for_each(|at| world.check(at));
}

/// A checkpoint being written.
struct Checkpoint {
    snapshot: SnapshotId,
    meta: Meta,
    blocks: Vec<Vec<u8>>,
    expected: Dump,
}

struct Node {
    engine: Engine,
    disk: Vec<Vec<u8>>,
    /// The link to each of the four nodes, if it is up.
    links: [Option<LinkId>; 4],
    inbox: VecDeque<(LinkId, Message)>,
    last_seen: Seen,
    checkpoint: Option<Checkpoint>,
}

struct World {
    nodes: [Node; 2],
    now: Now,
    /// Links and tokens so far.
    names: u64,
    /// Ids of requests seen on the wire.
    ids: Vec<u64>,
    log_bound: usize,
    /// Under what each orders its cells.
    hash_keys: [HashKey; 2],
    /// Whether merges are worked out a key at a time, and fetched from several members.
    bit_by_bit: bool,
}

fn name(at: usize) -> Name {
    Name::new(&format!("n{at}")).unwrap()
}

impl World {
    fn new(config: u8) -> Self {
        let now = Now { mono: 0, wall: 1_000_000 };
        let log_bound = [1 << 20, 200, 0][usize::from(config % 3)];
        // They may order them alike, and then compare.
        let hash_keys = [HashKey(0, 77), HashKey(u64::from(config & 0x20 == 0), 77)];
        let bit_by_bit = config & 0x40 != 0;
        let node = |at: usize| {
            let actor = Actor { node: name(at), incarnation: 1 + at as u64 };
            let recovery = Recovery::new(hash_keys[at], log_bound);
            Node {
                engine: Engine::new(recovery, &actor, Settings::default(), 42 + at as u64, now).unwrap(),
                disk: Vec::new(),
                links: [None; 4],
                inbox: VecDeque::new(),
                last_seen: Seen::default(),
                checkpoint: None,
            }
        };
        let mut world =
            Self { nodes: [node(0), node(1)], now, names: 0, ids: vec![7], log_bound, hash_keys, bit_by_bit };
        (0..2).for_each(|at| world.set_up(at));
        world
    }

    fn set_up(&mut self, at: usize) {
        if self.bit_by_bit {
            self.nodes[at].engine.set_preparing(Preparing { keys: 1, pause: 1_000 });
            self.nodes[at].engine.set_sharing(Sharing { keys: 1, times: 0, ranges: 1 });
        }
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    fn handle(&mut self, at: usize, input: Input) {
        let now = self.now;
        self.nodes[at].engine.handle(now, input);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        let at = usize::from(choice >> 7);
        match choice & 0x7f {
            0..=29 => self.deliver(at, bytes),
            30..=59 => self.write(at, bytes),
            60..=84 => self.forge(at, bytes),
            85..=94 => {
                let passed = [0, 2_500, 30_000, 1_100_000, 40_000_000][bytes.below(5)];
                self.now.mono += passed;
                self.now.wall += passed / 1_000;
                self.handle(at, Input::Tick);
            }
            95..=102 => self.link_up(at, bytes.below(4)),
            103..=105 => self.link_down(at, bytes.below(4)),
            106..=112 => self.ask(at, bytes),
            113..=119 => self.checkpoint(at),
            120..=122 => return,
            123 => self.restart(at),
            124 => self.check(at),
            _ => self.operate(at, bytes),
        }
        // Several inputs may come between two calls.
        if !bytes.once_in(4) {
            self.effects(at);
        }
    }

    /// Carries effects out: records first, then sends, of which a full queue drops some.
    fn effects(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let effects = node.engine.take_effects(self.now);
        node.disk.extend(effects.records);
        assert!(!node.engine.replica().has_pending() || node.engine.stopped().is_some());
        for (link, message) in effects.sends {
            let frame = frame::encode_message(&message);
            assert_eq!(frame::decode_message(&frame[frame::PREFIX..]).as_ref(), Ok(&message));
            self.ids.extend(id(&message));
            let overlong = self.ids.len().saturating_sub(8);
            self.ids.drain(..overlong);
            let peer = self.nodes[at].links.iter().position(|l| *l == Some(link));
            let Some(to @ (0 | 1)) = peer else { continue };
            let back = self.nodes[to].links[at];
            let full = self.nodes[to].inbox.len() >= QUEUE;
            match back {
                Some(back) if !full => self.nodes[to].inbox.push_back((back, message)),
                _ => self.handle(at, Input::Dropped { link }),
            }
        }
        for read in effects.reads {
            let (first, last) = (read.records.0 as usize, read.records.1 as usize);
            let mut gather = Gather::new(read.ranges, read.budget);
            let records = &self.nodes[at].disk[first - 1..last];
            let _ = records.iter().all(|record| gather.record(record));
            self.handle(at, Input::FromLog { link: read.link, id: read.id, runs: gather.finish() });
        }
        self.bounds_hold(at);
    }

    fn bounds_hold(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let state = node.engine.replica().state();
        let seen = state.seen_clock();
        assert!(node.last_seen <= seen, "seen went back");
        node.last_seen = seen;
        assert!(state.parked().len() <= 2 * bounds::PARKED);
        let bytes = node.engine.replica().log().bytes();
        assert!(bytes <= self.log_bound || node.engine.stopped().is_some(), "{bytes} bytes of log");
        let _ = (node.engine.figures(), node.engine.deadline());
    }

    fn deliver(&mut self, at: usize, bytes: &mut Bytes<'_>) {
        let how = bytes.byte();
        let Some((link, message)) = self.nodes[at].inbox.pop_front() else {
            return self.effects(1 - at);
        };
        match how {
            0..=7 => return,
            8..=15 => self.nodes[at].inbox.push_back((link, message.clone())),
            16..=23 => return self.nodes[at].inbox.push_back((link, message)),
            24..=63 => {
                let mut body = postcard::to_stdvec(&message).unwrap();
                for _ in 0..=bytes.below(3) {
                    let place = bytes.below(body.len());
                    body[place] = bytes.byte();
                }
                let Ok(message) = frame::decode_message(&body) else { return };
                return self.handle(at, Input::Message { link, message });
            }
            _ => {}
        }
        self.handle(at, Input::Message { link, message });
    }

    fn forge(&mut self, at: usize, bytes: &mut Bytes<'_>) {
        let links: Vec<LinkId> = self.nodes[at].links.iter().copied().flatten().collect();
        let Some(link) = bytes.pick(&links) else { return };
        let state = self.nodes[at].engine.replica().state();
        let actors: Vec<Actor> = state.actors().sorted().map(|(actor, _)| actor.clone()).collect();
        let forger = Forger { actors: &actors, ids: &self.ids };
        let Some(message) = forger.message(bytes) else { return };
        self.handle(at, Input::Message { link, message });
    }

    fn write(&mut self, at: usize, bytes: &mut Bytes<'_>) {
        let key = KEYS[bytes.below(3)];
        let elements = [ELEMENTS[bytes.below(3)], ELEMENTS[bytes.below(3)]];
        let elements = &elements[..1 + bytes.below(2)];
        let write = match bytes.byte() % 8 {
            0 => Write::Set { key, value: VALUES[bytes.below(4)] },
            1 => Write::Delete { key },
            2 | 3 => Write::Add { key, elements },
            4 => Write::Remove { key, elements },
            5 => Write::Increment { key, by: bytes.number() as i64 },
            6 => Write::GIncrement { key, by: bytes.number() },
            _ => Write::Flush,
        };
        let before = self.nodes[at].engine.last_dot();
        let written = self.nodes[at].engine.write(self.now, write);
        if written.is_err() {
            assert_eq!(self.nodes[at].engine.last_dot(), before, "a refused write changes nothing");
        }
    }

    fn link_up(&mut self, at: usize, to: usize) {
        if to == at || self.nodes[at].links[to].is_some() {
            return;
        }
        self.up(at, to);
        if to < 2 {
            self.up(to, at);
        }
    }

    fn up(&mut self, at: usize, to: usize) {
        let link = LinkId(self.name());
        let actor = match self.nodes.get(to) {
            Some(node) => node.engine.replica().actor().clone(),
            None => Actor { node: name(to), incarnation: 1 + to as u64 },
        };
        let addresses = vec![format!("{}.example:1", actor.node)];
        let clock = self.now.wall;
        // One of three orders its cells otherwise and is not asked for fingerprints.
        let order = if to == 2 { 7 } else { self.nodes[at].engine.replica().state().order() };
        let (realm, zone) = (name(9), String::new());
        let hello = Hello { versions: (1, 1), realm, actor, zone, addresses, clock, order };
        self.nodes[at].links[to] = Some(link);
        self.handle(at, Input::LinkUp { link, hello });
    }

    fn link_down(&mut self, at: usize, to: usize) {
        let ends = if to < 2 { vec![(at, to), (to, at)] } else { vec![(at, to)] };
        for (at, to) in ends {
            if let Some(link) = self.nodes[at].links[to].take() {
                self.nodes[at].inbox.retain(|(l, _)| *l != link);
                self.handle(at, Input::LinkDown { link });
            }
        }
    }

    fn ask(&mut self, at: usize, bytes: &mut Bytes<'_>) {
        let token = Token(self.name());
        let to = bytes.below(4);
        // Also over links that have gone.
        let link = self.nodes[at].links[to].unwrap_or(LinkId(1));
        let input = match bytes.byte() % 8 {
            0 => Input::Push { link: bytes.once_in(2).then_some(link) },
            1 | 2 => Input::Sync { link, token },
            3 => {
                let keys = KEYS[..bytes.below(3)].iter().map(|key| key.to_vec()).collect();
                let (cursor, names_only) = (bytes.number(), bytes.once_in(2));
                Input::AskCells { link, token, keys, cursor, names_only }
            }
            4 => Input::AskStats { link, token },
            5 => Input::Read {
                token,
                nodes: bytes.below(5),
                until: self.now.mono + bytes.number() % 5_000_000,
            },
            6 => Input::Receiving { link },
            _ => return self.nodes[at].engine.cancel(Token(bytes.number())),
        };
        self.handle(at, input);
    }

    fn operate(&mut self, at: usize, bytes: &mut Bytes<'_>) {
        let link = self.nodes[at].links[bytes.below(4)].unwrap_or(LinkId(1));
        match bytes.byte() % 9 {
            0 | 1 => self.handle(at, Input::Writable { link }),
            2 | 3 => self.handle(at, Input::Dropped { link }),
            4 => self.handle(at, Input::Forget(name(bytes.below(6)))),
            5 => self.handle(at, Input::Leave),
            6 => {
                let settings = Settings {
                    push_interval: 1 + bytes.number() % 10_000,
                    anti_entropy_interval: 1 + bytes.number() % 100_000,
                    fanout: bytes.below(5),
                    push_window: bytes.number() % 10_000,
                    max_clock_drift: bytes.number() % 10_000,
                };
                self.handle(at, Input::Settings(settings));
            }
            7 => {
                // Of ranges that are sound, which is found out before anything is replaced.
                let ranges = (0..bytes.below(3)).filter_map(|_| Prefix::numbered(bytes.number()));
                let ranges = ranges.collect();
                self.handle(at, Input::Repair(ranges));
            }
            _ => self.stop_and_restart(at),
        }
    }

    /// Begins a checkpoint, or takes the next step of the one under way.
    fn checkpoint(&mut self, at: usize) {
        self.effects(at);
        let node = &mut self.nodes[at];
        let Some(checkpoint) = &mut node.checkpoint else {
            if let Some((snapshot, meta)) = node.engine.begin_checkpoint() {
                let expected = dump(node.engine.replica().state());
                node.checkpoint = Some(Checkpoint { snapshot, meta, blocks: Vec::new(), expected });
            }
            return;
        };
        match node.engine.step_checkpoint(checkpoint.snapshot) {
            Step::Block(block) => checkpoint.blocks.push(block),
            Step::Aborted => node.checkpoint = None,
            Step::Done => {
                node.engine.end_checkpoint(checkpoint.snapshot);
                let Checkpoint { meta, blocks, expected, .. } = node.checkpoint.take().unwrap();
                let meta = Meta::decode(&meta.encode()).unwrap();
                let mut state = State::new(HashKey(5, 6)).staged(&meta.seen, &meta.parked).unwrap();
                blocks.iter().for_each(|block| state.load(block).unwrap());
                assert_eq!(dump(&state), expected, "a checkpoint is of the moment at which it began");
            }
        }
    }

    fn recovered(&self, at: usize) -> Recovery {
        let mut recovery = Recovery::new(self.hash_keys[at], self.log_bound);
        let records = (1..).zip(&self.nodes[at].disk);
        records.for_each(|(number, record)| recovery.record(number, record).unwrap());
        recovery
    }

    /// What is on the disk brings back what is in memory.
    fn check(&mut self, at: usize) {
        self.effects(at);
        let actor = Actor { node: name(8), incarnation: 1 };
        let replica = self.recovered(at).finish(&actor, 500).unwrap();
        let (live, back) = (dump(self.nodes[at].engine.replica().state()), dump(replica.state()));
        assert_eq!(back, live, "a replay of the records");
        let last = self.nodes[at].disk.iter().flat_map(|record| entries(record)).map(Result::unwrap);
        let own =
            last.filter_map(|entry| if let Entry::Incarnation(actor) = entry { Some(actor) } else { None });
        assert_eq!(own.last().as_ref(), Some(self.nodes[at].engine.replica().actor()));
    }

    /// A new life, from all that was put on disk.
    fn restart(&mut self, at: usize) {
        self.check(at);
        self.begin_life(at);
    }

    /// The disk fails, and the node is started anew.
    fn stop_and_restart(&mut self, at: usize) {
        self.effects(at);
        self.nodes[at].engine.stop("the disk failed".into());
        assert!(self.nodes[at].engine.write(self.now, Write::Delete { key: b"a" }).is_err());
        self.handle(at, Input::Tick);
        let effects = self.nodes[at].engine.take_effects(self.now);
        assert!(effects.records.is_empty() && effects.sends.is_empty());
        self.begin_life(at);
    }

    fn begin_life(&mut self, at: usize) {
        (0..4).for_each(|to| self.link_down(at, to));
        let actor = Actor { node: name(at), incarnation: 0x1000 + self.name() };
        let seed = self.name();
        let engine = Engine::new(self.recovered(at), &actor, Settings::default(), seed, self.now).unwrap();
        let node = &mut self.nodes[at];
        node.engine = engine;
        node.checkpoint = None;
        self.set_up(at);
        self.effects(at);
    }
}

/// The id that a message bears.
fn id(message: &Message) -> Option<u64> {
    match message {
        Message::Pull(
            Pull::Ops { id, .. } | Pull::Batch { id, .. } | Pull::Keys { id, .. } | Pull::Cells { id, .. },
        )
        | Message::Stats(Stats::Ask { id } | Stats::Figures { id, .. })
        | Message::Sync(
            Sync::Syn { id, .. }
            | Sync::Ack { id, .. }
            | Sync::Ack2 { id, .. }
            | Sync::Merge { id, .. }
            | Sync::Context { id, .. }
            | Sync::Credit { id, .. }
            | Sync::Block { id, .. }
            | Sync::End { id, .. }
            | Sync::Abort { id, .. }
            | Sync::Narrow { id, .. }
            | Sync::Parts { id, .. }
            | Sync::Fetch { id, .. }
            | Sync::Done { id },
        ) => Some(*id),
        Message::Push(_) | Message::Members(_) | Message::Leave => None,
    }
}
