//! Values that were overwritten while a peer was away are not sent to it, and nobody sees anything of that
//! but the bytes. Engines, links that count, and logs that are kept; no network, no disk.
//!
//! `cargo test --release --test elision -- --nocapture` prints the bytes.

use tidings::core::parked::Room;
use tidings::core::replica::Recovery;
use tidings::core::shelf::Gather;
use tidings::core::table::HashKey;
use tidings::core::view::Kind;
use tidings::engine::{Effects, Engine, Event, Input, LinkId, Now, Settings, Write};
use tidings_proto::frame::encode_message;
use tidings_proto::message::{Pull, Push, Range, Sync};
use tidings_proto::{Actor, Edit, Hello, Message, Name, Run, SeenEntries};

const KEYS: usize = 10;
const OVERWRITES: usize = 1_000;
const VALUE: usize = 1_000;
/// Half a round trip; microseconds.
const DELAY: u64 = 1_000;

fn actor(node: &str, incarnation: u64) -> Actor {
    Actor { node: Name::new(node).unwrap(), incarnation }
}

fn key(n: usize) -> Vec<u8> {
    format!("key:{}", n % KEYS).into_bytes()
}

/// A node and the log that it has written; between lives, the log.
struct Node {
    engine: Engine,
    records: Vec<Vec<u8>>,
}

/// Nodes, which of them are linked, and what is on its way.
struct Cluster {
    nodes: Vec<Node>,
    links: Vec<(usize, usize, u64)>,
    now: Now,
    on_their_way: Vec<(usize, u64, Message)>,
    received: Vec<u64>,
    next_link: u64,
    /// Whose readers must see every key at every moment.
    watched: Option<usize>,
}

fn start(name: &str, incarnation: u64, records: &[Vec<u8>], memory: usize, now: Now) -> Engine {
    let mut recovery = Recovery::new(HashKey(1, 2), memory);
    for (number, record) in (1..).zip(records) {
        recovery.record(number, record).unwrap();
    }
    Engine::new(recovery, &actor(name, incarnation), Settings::default(), incarnation, now).unwrap()
}

fn sees_all(engine: &Engine) -> bool {
    (0..KEYS).all(|n| {
        let view = engine.replica().state().view(&key(n));
        view.is_some_and(|view| view.kind() == Kind::LwwRegister)
    })
}

impl Cluster {
    fn new(names: &[&str]) -> Self {
        let now = Now { mono: 1, wall: 1_700_000_000_000 };
        let node = |name: &&str| Node { engine: start(name, 1, &[], 64 << 20, now), records: Vec::new() };
        Self {
            nodes: names.iter().map(node).collect(),
            links: Vec::new(),
            now,
            on_their_way: Vec::new(),
            received: vec![0; names.len()],
            next_link: 0,
            watched: None,
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.push((a, b, link.0));
        for (here, there) in [(a, b), (b, a)] {
            let replica = self.nodes[there].engine.replica();
            let hello = Hello {
                versions: tidings_proto::VERSIONS,
                realm: Name::new("r").unwrap(),
                actor: replica.actor().clone(),
                zone: String::new(),
                addresses: Vec::new(),
                clock: self.now.wall,
                order: replica.state().order(),
            };
            self.nodes[here].engine.handle(self.now, Input::LinkUp { link, hello });
        }
    }

    fn unlink(&mut self) {
        self.on_their_way.clear();
        for (a, b, link) in std::mem::take(&mut self.links) {
            for node in [a, b] {
                self.nodes[node].engine.handle(self.now, Input::LinkDown { link: LinkId(link) });
            }
        }
    }

    /// Another life of a node, from its log, with so many bytes of ops in memory.
    fn restart(&mut self, at: usize, memory: usize) {
        self.unlink();
        let name = self.nodes[at].engine.replica().actor().node.clone();
        self.nodes[at].engine = start(name.as_str(), 2, &self.nodes[at].records, memory, self.now);
    }

    fn write(&mut self, at: usize, write: Write<'_>) {
        self.nodes[at].engine.write(self.now, write).unwrap();
        self.effects(at);
    }

    /// Carries out what a node wants done.
    fn effects(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        loop {
            let Effects { records, sends, reads, events, .. } = node.engine.take_effects(self.now);
            let offended = events.iter().any(|event| matches!(event, Event::Misbehaved { .. }));
            assert!(!offended, "{events:?}");
            node.records.extend(records);
            for (link, message) in sends {
                let (a, b, _) = self.links.iter().find(|(.., id)| *id == link.0).unwrap();
                let to = if *a == at { *b } else { *a };
                self.received[to] += encode_message(&message).len() as u64;
                self.on_their_way.push((to, link.0, message));
            }
            if reads.is_empty() {
                return;
            }
            for read in reads {
                let mut gather = Gather::new(read.ranges, read.budget);
                let within = read.records.0 as usize - 1..read.records.1 as usize;
                let _ = node.records[within].iter().all(|record| gather.record(record));
                let input = Input::FromLog { link: read.link, id: read.id, runs: gather.finish() };
                node.engine.handle(self.now, input);
            }
        }
    }

    fn step(&mut self) {
        self.now.mono += DELAY;
        self.now.wall += DELAY / 1_000;
        for (to, link, message) in std::mem::take(&mut self.on_their_way) {
            self.nodes[to].engine.handle(self.now, Input::Message { link: LinkId(link), message });
            assert!(self.watched.is_none_or(|at| sees_all(&self.nodes[at].engine)), "a key is missing");
            self.effects(to);
        }
        for at in 0..self.nodes.len() {
            for (a, b, link) in self.links.clone() {
                if a == at || b == at {
                    self.nodes[at].engine.handle(self.now, Input::Writable { link: LinkId(link) });
                }
            }
            // What a message brings is done bit by bit.
            for _ in 0..64 {
                if self.nodes[at].engine.deadline() <= self.now.mono {
                    self.nodes[at].engine.handle(self.now, Input::Tick);
                }
            }
            self.effects(at);
        }
    }

    /// Until two nodes have seen the same, and hold it.
    fn settle(&mut self, a: usize, b: usize) {
        let seen = |cluster: &Self, at: usize| cluster.nodes[at].engine.replica().state().seen_entries();
        for _ in 0..10_000 {
            self.step();
            if seen(self, a) == seen(self, b) {
                let fingerprint = |at: usize| self.nodes[at].engine.replica().state().fingerprint().sum();
                assert_eq!(fingerprint(a), fingerprint(b));
                return;
            }
        }
        panic!("they do not come to see the same");
    }

    fn merges(&self) -> u64 {
        self.nodes.iter().map(|node| node.engine.gossip().counts().merges).sum()
    }

    fn elided(&self, at: usize) -> (u64, u64) {
        let counts = self.nodes[at].engine.gossip().counts();
        (counts.values_elided, counts.values_elided_onward)
    }
}

/// `a` and `b` have ten keys; then `b` is away while `a` writes each of them a hundred times.
fn apart() -> Cluster {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.link(0, 1);
    for n in 0..KEYS {
        cluster.write(0, Write::Set { key: &key(n), value: b"first" });
    }
    cluster.settle(0, 1);
    cluster.unlink();
    for n in 0..OVERWRITES {
        cluster.write(0, Write::Set { key: &key(n), value: &[n as u8; VALUE] });
    }
    cluster.received.fill(0);
    cluster
}

#[test]
fn a_peer_that_was_away_gets_what_is_left_of_a_thousand_overwrites() {
    let mut cluster = apart();
    cluster.watched = Some(1);
    cluster.link(0, 1);
    cluster.settle(0, 1);
    let (received, (elided, _)) = (cluster.received[1], cluster.elided(0));
    println!(
        "{OVERWRITES} overwrites of {KEYS} keys of {VALUE} B: {received} B received, {elided} values not sent"
    );
    assert!(received < 60_000, "{received}");
    assert_eq!((elided, cluster.merges()), ((OVERWRITES - KEYS) as u64, 0));
    let counts = cluster.nodes[1].engine.replica().counts();
    assert_eq!((counts.received, counts.duplicate), ((OVERWRITES + KEYS) as u64, 0));
}

/// Whatever of its log is left after a crash, no key is missing: records hold bundles whole.
#[test]
fn no_life_of_the_peer_misses_a_key() {
    let mut cluster = apart();
    let before = cluster.nodes[1].records.len();
    cluster.link(0, 1);
    cluster.settle(0, 1);
    let records = &cluster.nodes[1].records;
    assert!(records.len() > before);
    for upto in before..=records.len() {
        assert!(sees_all(&start("b", 3, &records[..upto], 64 << 20, cluster.now)), "{upto}");
    }
}

/// `b` passes on what it has without the values: from memory, and after a restart from its log.
#[test]
fn what_came_without_values_goes_on_without_them() {
    for memory in [None, Some(64 << 20), Some(0)] {
        let mut cluster = apart();
        cluster.link(0, 1);
        cluster.settle(0, 1);
        cluster.unlink();
        if let Some(memory) = memory {
            cluster.restart(1, memory);
        }
        cluster.received.fill(0);
        cluster.link(1, 2);
        cluster.settle(1, 2);
        let (elided, onward) = cluster.elided(1);
        let received = cluster.received[2];
        println!("passed on, {memory:?} B in memory: {received} B received, {elided} values not sent");
        assert!(received < 60_000, "{received}");
        // Those that were there before `b` was away too, and the last of them.
        assert_eq!((elided, onward), (OVERWRITES as u64, (OVERWRITES - KEYS) as u64));
        assert_eq!(cluster.merges(), 0, "{memory:?}");
        let from_disk = cluster.nodes[1].engine.gossip().counts().ops_from_disk;
        assert_eq!(from_disk > 0, memory == Some(0));
    }
}

fn up(engine: &mut Engine, link: u64, node: &str) {
    let now = Now { mono: 1_000_000, wall: 1_700_000_001_000 };
    let hello = Hello {
        versions: tidings_proto::VERSIONS,
        realm: Name::new("r").unwrap(),
        actor: actor(node, 1),
        zone: String::new(),
        addresses: Vec::new(),
        clock: now.wall,
        order: 0,
    };
    engine.handle(now, Input::LinkUp { link: LinkId(link), hello });
    engine.take_effects(now);
}

fn tell(engine: &mut Engine, message: Message) -> Effects {
    let now = Now { mono: 2_000_000, wall: 1_700_000_002_000 };
    engine.handle(now, Input::Message { link: LinkId(1), message });
    engine.take_effects(now)
}

/// What an engine answers who asks for these ops.
fn asked(engine: &mut Engine, first: u64, last: u64) -> Vec<Run> {
    let ranges = vec![Range { actor: engine.replica().actor().clone(), first, last }];
    let sends = tell(engine, Message::Pull(Pull::Ops { id: 1, ranges })).sends;
    let runs = sends.into_iter().find_map(|(_, message)| match message {
        Message::Pull(Pull::Batch { runs, .. }) => Some(runs),
        _ => None,
    });
    runs.expect("an answer")
}

fn now() -> Now {
    Now { mono: 1, wall: 1_700_000_000_000 }
}

fn batch(runs: Vec<Run>) -> Message {
    Message::Pull(Pull::Batch { id: 1, runs, missing: Vec::new(), more: false })
}

/// A peer that asks for ops up to one that came ahead of its turn gets all that belongs together.
#[test]
fn a_bundle_is_sent_whole_beyond_what_was_asked_for() {
    let (mut a, mut b) = (start("a", 1, &[], 1 << 20, now()), start("b", 1, &[], 1 << 20, now()));
    for n in 0..6 {
        a.write(now(), Write::Set { key: [b"k", b"l"][n % 2], value: &[n as u8; 9] }).unwrap();
    }
    up(&mut a, 1, "b");
    up(&mut b, 1, "a");
    let runs = asked(&mut a, 1, 6);
    let elided = |run: &Run| run.iter().filter(|item| item.as_ref().unwrap().1.edits[0].is_elided()).count();
    assert_eq!((runs.len(), elided(&runs[0])), (1, 4));
    tell(&mut b, batch(runs));
    let range = Range { actor: actor("a", 1), first: 1, last: 2 };
    let sends = tell(&mut b, Message::Pull(Pull::Ops { id: 1, ranges: vec![range] })).sends;
    let Some((_, Message::Pull(Pull::Batch { runs, missing, more, .. }))) = sends.last() else {
        panic!("{sends:?}")
    };
    assert_eq!((runs[0].first, runs[0].last(), missing.len(), more), (1, 6, 0, &false));
}

/// An op without its value beside which there is not what superseded it is refused, and changes nothing.
#[test]
fn a_value_that_is_left_out_freely_is_an_offence() {
    let mut a = start("a", 1, &[], 1 << 20, now());
    for n in 0..3 {
        a.write(now(), Write::Set { key: b"k", value: &[n; 9] }).unwrap();
    }
    up(&mut a, 1, "b");
    let whole = asked(&mut a, 1, 3).remove(0);
    let cut = whole.iter().map(|item| item.unwrap().1).take(2).fold(Vec::new(), |ops, op| {
        assert!(matches!(op.edits[0], Edit::Elided { .. }));
        postcard::to_extend(&op, ops).unwrap()
    });
    let mut b = start("b", 1, &[], 1 << 20, now());
    up(&mut b, 1, "a");
    let effects = tell(&mut b, batch(vec![Run { count: 2, ops: cut, ..whole.clone() }]));
    assert!(effects.events.iter().any(|event| matches!(event, Event::Misbehaved { .. })));
    assert!(b.replica().state().is_blank());
    tell(&mut b, batch(vec![whole]));
    assert_eq!(b.replica().state().fingerprint(), a.replica().state().fingerprint());
}

/// Ops that are applied in one step and for whose removals there is no room are to be had by a merge.
#[test]
fn a_bundle_without_room_is_merged() {
    let (mut x, mut y) = (start("x", 1, &[], 1 << 20, now()), start("y", 1, &[], 1 << 20, now()));
    y.write(now(), Write::Set { key: b"k", value: b"of y" }).unwrap();
    up(&mut x, 1, "y");
    up(&mut y, 1, "x");
    tell(&mut x, Message::Push(Push { have: SeenEntries::default(), runs: asked(&mut y, 1, 1) }));
    for _ in 0..2 {
        x.write(now(), Write::Set { key: b"k", value: b"of x" }).unwrap();
    }
    let mut a = start("a", 1, &[], 1 << 20, now());
    a.replica_mut().set_parked_room(Room { removals: 0, bytes: 0 });
    up(&mut a, 1, "x");
    let have = SeenEntries::from_sorted([(&actor("x", 1), 2)]);
    let sends = tell(&mut a, Message::Push(Push { have, runs: Vec::new() })).sends;
    let id = sends.into_iter().find_map(|(_, message)| match message {
        Message::Pull(Pull::Ops { id, .. }) => Some(id),
        _ => None,
    });
    let runs = asked(&mut x, 1, 2);
    let answer = Pull::Batch { id: id.expect("a request"), runs, missing: Vec::new(), more: false };
    let mut sends = tell(&mut a, Message::Pull(answer)).sends;
    assert!(a.replica().state().is_blank());
    let later = Now { mono: 9_000_000, wall: 1_700_000_009_000 };
    a.handle(later, Input::Tick);
    sends.extend(a.take_effects(later).sends);
    let merges = |message: &Message| matches!(message, Message::Sync(Sync::Merge { .. }));
    assert!(sends.iter().any(|(_, message)| merges(message)), "{sends:?}");
}
