//! A blank node that joins several full ones is given its state by all of them. Engines and links that count,
//! no network and no disk; the same figures every time.
//!
//! `cargo test --release --test sources -- --nocapture`

use std::collections::{BTreeMap, VecDeque};

use tidings::core::replica::Recovery;
use tidings::core::snapshot::Step;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Event, Input, LinkId, Now, Settings, Write};
use tidings_proto::frame::encode_message;
use tidings_proto::message::Sync;
use tidings_proto::{Actor, Block, CellState, Hello, Message, Name};

const KEYS: usize = 12_000;
const VALUE: usize = 700;
/// Half a round trip; microseconds.
const DELAY: u64 = 1_000;
/// Bytes that a link carries in that time.
const CARRIED: usize = 40 << 10;
/// Ops in memory: less than what is written, so that a blank node needs the state.
const LOG: usize = 1 << 20;
/// The node that joins.
const BLANK: usize = 3;

/// What is on its way, and how many bytes more may arrive now.
#[derive(Default)]
struct Wire(VecDeque<(Message, usize)>, i64);

/// What is done to a block on its way.
type Alter = fn(&mut Block);

struct Cluster {
    nodes: Vec<Engine>,
    now: Now,
    /// By sender and receiver: what is on its way. None if they are not linked.
    links: BTreeMap<(usize, usize), Wire>,
    /// By sender: bytes of blocks to the node that joins.
    blocks: Vec<usize>,
    events: Vec<Event>,
    /// Whose blocks to the node that joins are altered on their way, and how.
    altered: Option<(usize, Alter)>,
    /// What the node that joins has logged.
    records: Vec<Vec<u8>>,
    writes: u64,
}

fn link(a: usize, b: usize) -> LinkId {
    LinkId((10 * a.min(b) + a.max(b)) as u64)
}

fn engine(n: usize) -> Engine {
    let actor = Actor { node: Name::new(&format!("n{n}")).unwrap(), incarnation: 1 };
    let now = Now { mono: 1, wall: 1_700_000_000_000 };
    Engine::new(Recovery::new(HashKey(1, 2), LOG), &actor, Settings::default(), n as u64, now).unwrap()
}

fn restarted(recovery: Recovery, n: usize, now: Now) -> Engine {
    let actor = Actor { node: Name::new(&format!("n{n}")).unwrap(), incarnation: 2 };
    Engine::new(recovery, &actor, Settings::default(), n as u64, now).unwrap()
}

impl Cluster {
    /// Three nodes that hold the same, and a blank one that is not linked to them.
    fn full() -> Self {
        let mut cluster = Self {
            nodes: (0..=BLANK).map(engine).collect(),
            now: Now { mono: 1, wall: 1_700_000_000_000 },
            links: BTreeMap::new(),
            blocks: vec![0; BLANK],
            events: Vec::new(),
            altered: None,
            records: Vec::new(),
            writes: 0,
        };
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            cluster.link(a, b);
        }
        for n in 0..KEYS {
            let (key, value) = (format!("key:{n}"), vec![n as u8; VALUE]);
            cluster.nodes[n % 3]
                .write(cluster.now, Write::Set { key: key.as_bytes(), value: &value })
                .unwrap();
            if n % 200 == 0 {
                cluster.step();
            }
        }
        cluster.run(|cluster| cluster.equal(BLANK));
        cluster
    }

    fn link(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            let engine = &self.nodes[there];
            let hello = Hello {
                versions: tidings_proto::VERSIONS,
                realm: Name::new("r").unwrap(),
                actor: engine.replica().actor().clone(),
                zone: String::new(),
                addresses: Vec::new(),
                clock: 1_700_000_000_000,
                order: engine.replica().state().order(),
            };
            self.nodes[here].handle(self.now, Input::LinkUp { link: link(a, b), hello });
            self.links.insert((here, there), Wire::default());
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            self.links.remove(&(here, there));
            self.nodes[here].handle(self.now, Input::LinkDown { link: link(a, b) });
        }
    }

    /// Half a round trip.
    fn step(&mut self) {
        self.now.mono += DELAY;
        self.now.wall += DELAY / 1_000;
        for ((from, to), Wire(queue, left)) in &mut self.links {
            *left = (*left + CARRIED as i64).min(CARRIED as i64);
            while *left > 0
                && let Some((message, bytes)) = queue.pop_front()
            {
                *left -= bytes as i64;
                self.nodes[*to].handle(self.now, Input::Message { link: link(*from, *to), message });
            }
            self.nodes[*from].handle(self.now, Input::Writable { link: link(*from, *to) });
        }
        for at in 0..self.nodes.len() {
            // What a message brings is done bit by bit.
            for _ in 0..64 {
                if self.nodes[at].deadline() <= self.now.mono {
                    self.nodes[at].handle(self.now, Input::Tick);
                }
            }
            let mut effects = self.nodes[at].take_effects(self.now);
            for read in std::mem::take(&mut effects.reads) {
                let nothing = Input::FromLog { link: read.link, id: read.id, runs: Vec::new() };
                self.nodes[at].handle(self.now, nothing);
                effects.sends.extend(self.nodes[at].take_effects(self.now).sends);
            }
            self.events.extend(effects.events);
            if at == BLANK {
                self.records.extend(effects.records);
            }
            for (to, mut message) in effects.sends {
                let there = (0..self.nodes.len()).find(|peer| *peer != at && link(at, *peer) == to).unwrap();
                let Some(Wire(queue, _)) = self.links.get_mut(&(at, there)) else { continue };
                if let Message::Sync(Sync::Block { block, .. }) = &mut message
                    && there == BLANK
                {
                    self.blocks[at] += block.len();
                    if let Some((_, alter)) = self.altered.filter(|(whose, _)| *whose == at) {
                        let mut decoded = Block::decode(block).unwrap();
                        alter(&mut decoded);
                        *block = decoded.encode();
                    }
                }
                let bytes = encode_message(&message).len();
                queue.push_back((message, bytes));
            }
        }
    }

    /// Until something is so: after how many milliseconds.
    fn run(&mut self, done: impl Fn(&Self) -> bool) -> u64 {
        for ms in 0..60_000 {
            if done(self) {
                return ms;
            }
            self.step();
        }
        panic!("it does not come about: {:?}", self.nodes[BLANK].gossip().counts());
    }

    /// Every full node overwrites, deletes, counts and adds.
    fn write(&mut self) {
        for node in 0..BLANK {
            self.writes += 1;
            let n = self.writes as usize * 7919 % KEYS;
            let (key, new) = (format!("key:{n}"), format!("new:{n}"));
            let key = key.as_bytes();
            let write = match self.writes % 4 {
                0 => Write::Set { key, value: b"another" },
                1 => Write::Delete { key },
                2 => Write::Set { key: new.as_bytes(), value: b"fresh" },
                _ => Write::Increment { key: b"counter", by: 1 },
            };
            self.nodes[node].write(self.now, write).unwrap();
        }
    }

    fn equal(&self, nodes: usize) -> bool {
        let seen = |node: &Engine| node.replica().state().seen_entries();
        self.nodes[..nodes].windows(2).all(|pair| seen(&pair[0]) == seen(&pair[1]))
    }

    fn received(&self) -> u64 {
        self.nodes[BLANK].gossip().counts().blocks_received
    }

    /// What the node that joins has logged gives back what it holds.
    fn check_log(&self) {
        let mut recovery = Recovery::new(HashKey(1, 2), LOG);
        for (number, record) in self.records.iter().enumerate() {
            recovery.record(number as u64 + 1, record).unwrap();
        }
        let again = restarted(recovery, BLANK, self.now);
        let states = [&again, &self.nodes[BLANK]].map(|engine| engine.replica().state());
        assert_eq!(states[0].seen_clock(), states[1].seen_clock());
        assert_eq!(states[0].recount(), states[1].recount());
    }

    /// Bytes of blocks that one state takes.
    fn one_state(&mut self) -> usize {
        let replica = self.nodes[0].replica_mut();
        let snapshot = replica.begin_snapshot().unwrap().id;
        let mut bytes = 0;
        while let Step::Block(block) = replica.step_snapshot(snapshot) {
            bytes += block.len();
        }
        replica.end_snapshot(snapshot);
        bytes
    }

    /// All hold the same, and nobody has taken offence.
    fn check(&self) {
        let states = self.nodes.iter().map(|node| node.replica().state());
        let sums: Vec<_> =
            states.map(|state| (state.fingerprint(), state.recount(), *state.tallies())).collect();
        assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "{sums:?}");
        assert_eq!(sums[0].0, sums[0].1);
        let offended = self.events.iter().find(|event| matches!(event, Event::Misbehaved { .. }));
        assert_eq!(offended, None);
        println!("{:?} bytes of blocks, {:?}", self.blocks, self.nodes[BLANK].gossip().counts());
    }
}

#[test]
fn a_blank_node_is_given_its_state_by_all() {
    let mut alone = Cluster::full();
    alone.link(0, BLANK);
    let one = alone.run(|cluster| cluster.equal(4));
    let mut cluster = Cluster::full();
    (0..BLANK).for_each(|node| cluster.link(node, BLANK));
    let all = cluster.run(|cluster| cluster.equal(4));
    cluster.check();
    cluster.check_log();
    let (state, got) = (cluster.one_state(), cluster.blocks.iter().sum::<usize>());
    println!("one state is {state} bytes, {got} came; {one} ms from one, {all} ms from all");
    assert!(cluster.blocks.iter().all(|bytes| *bytes > state / 6), "{:?} of {state}", cluster.blocks);
    assert!(got < state + state / 20, "{got} bytes came where the state has {state}");
    assert!(2 * all < one + 20, "{all} ms from all, {one} ms from one");
    assert_eq!(cluster.nodes[BLANK].gossip().counts().merges, 1);
}

/// The snapshots are of different moments, so some ranges can only be had from one.
#[test]
fn while_all_are_written_to() {
    let mut cluster = Cluster::full();
    (0..BLANK).for_each(|node| cluster.link(node, BLANK));
    for _ in 0..300 {
        cluster.write();
        cluster.step();
    }
    cluster.run(|cluster| cluster.equal(4));
    cluster.check();
    let counts = cluster.nodes[BLANK].gossip().counts();
    assert!(counts.blocks_of_sources > 0 && counts.ranges_of_sources > 10, "{counts:?}");
    assert!(cluster.blocks.iter().all(|bytes| *bytes > 0), "{:?}", cluster.blocks);
    let (state, got) = (cluster.one_state(), cluster.blocks.iter().sum::<usize>());
    assert!(got < state + state / 10, "{got} bytes came where the state has {state}");
}

/// Until some of the state has come; who the primary is.
fn halfway(cluster: &mut Cluster) -> usize {
    (0..BLANK).for_each(|node| cluster.link(node, BLANK));
    cluster.run(|cluster| cluster.received() >= 12);
    let progress = cluster.nodes[BLANK].gossip().merge_progress().unwrap();
    assert!(progress.members >= 2, "{progress:?}");
    (0..BLANK).find(|node| link(*node, BLANK) == progress.link).unwrap()
}

#[test]
fn a_source_that_goes_costs_what_it_was_asked_for() {
    let mut cluster = Cluster::full();
    let primary = halfway(&mut cluster);
    let source = (primary + 1) % 3;
    cluster.cut(source, BLANK);
    cluster.write();
    cluster.run(|cluster| cluster.equal(4));
    cluster.check();
    let counts = cluster.nodes[BLANK].gossip().counts();
    assert_eq!((counts.merges, counts.merges_aborted), (1, 0));
    assert!((1..=64).contains(&counts.ranges_again), "{counts:?}");
}

#[test]
fn a_source_that_falls_silent_holds_nothing_up() {
    let mut cluster = Cluster::full();
    let primary = halfway(&mut cluster);
    // What it sends is lost, and the link stays up.
    let source = (primary + 1) % 3;
    cluster.links.remove(&(source, BLANK));
    let took = cluster.run(|cluster| cluster.nodes[BLANK].gossip().counts().merges == 1);
    assert!(took < 1_000, "{took} ms");
    cluster.cut(source, BLANK);
    cluster.run(|cluster| cluster.equal(4));
    cluster.check();
}

/// Whatever a source sends: nothing is staged but what the primary told of, and the log says the same.
#[test]
fn a_source_that_sends_something_else_is_not_believed() {
    let other_value: Alter = |block| {
        if let CellState::Register(versions) = &mut block.keys[0].cells[0] {
            versions[0].value[0] ^= 1;
        }
    };
    let later_dot: Alter = |block| {
        if let CellState::Register(versions) = &mut block.keys[7].cells[0] {
            versions[0].dot.seq += 1 << 30;
        }
    };
    let not_asked_for: Alter = |block| block.keys[7].key.extend(b"!");
    let one_less: Alter = |block| _ = block.keys.pop();
    for alter in [other_value, later_dot, not_asked_for, one_less] {
        let mut cluster = Cluster::full();
        let primary = halfway(&mut cluster);
        cluster.altered = Some(((primary + 1) % 3, alter));
        cluster.run(|cluster| cluster.equal(4));
        cluster.check();
        cluster.check_log();
        let counts = cluster.nodes[BLANK].gossip().counts();
        assert_eq!((counts.merges, counts.merges_aborted), (1, 0));
        assert!(counts.ranges_again > 0, "{counts:?}");
    }
}

#[test]
fn what_all_brought_is_left_when_the_primary_goes() {
    let mut cluster = Cluster::full();
    let primary = halfway(&mut cluster);
    let before = cluster.blocks.iter().sum::<usize>();
    cluster.cut(primary, BLANK);
    cluster.write();
    cluster.run(|cluster| cluster.equal(4));
    cluster.check();
    let counts = cluster.nodes[BLANK].gossip().counts();
    assert!(counts.merges == 1 && counts.merges_aborted == 1 && counts.blocks_reused > 5, "{counts:?}");
    let (state, got) = (cluster.one_state(), cluster.blocks.iter().sum::<usize>());
    println!("one state is {state} bytes, {got} came, {before} of them before");
    // What was on its way from three is lost: up to eight blocks of each.
    assert!(got < state + state / 2, "{got} bytes came where the state has {state}");
}

/// What a process that is killed had logged, sources' blocks too, the next life begins with.
#[test]
fn what_all_brought_is_left_when_the_process_dies() {
    let mut cluster = Cluster::full();
    halfway(&mut cluster);
    let got = cluster.received();
    let mut recovery = Recovery::new(HashKey(1, 2), LOG);
    for (number, record) in cluster.records.iter().enumerate() {
        recovery.record(number as u64 + 1, record).unwrap();
    }
    (0..BLANK).for_each(|node| cluster.cut(node, BLANK));
    cluster.nodes[BLANK] = restarted(recovery, BLANK, cluster.now);
    cluster.write();
    (0..BLANK).for_each(|node| cluster.link(node, BLANK));
    cluster.run(|cluster| cluster.equal(4));
    cluster.check();
    let counts = cluster.nodes[BLANK].gossip().counts();
    assert!(counts.merges == 1 && counts.blocks_reused + 3 > got, "{got} had come, {counts:?}");
}
