//! Replicas as values: what each step makes of each of them, worked out once.
//!
//! A node is a replica with its disk, known by its content: two ways to the same content are one node. So a
//! world is a few numbers, and the work is in as many steps as there are nodes, not worlds.

use std::collections::{BTreeSet, HashMap};

use tidings::core::clock::Clock;
use tidings::core::replica::{Recovery, Replica};
use tidings::core::snapshot::Step as Stepped;
use tidings::core::state::{ApplyError, State};
use tidings::core::table::HashKey;
use tidings::core::write::Write;
use tidings_proto::message::Push;
use tidings_proto::{Actor, Counter, Edit, Message, Name, SeenEntries, Stamp, frame};

use crate::dump::{Bytes, Dot, Dump, dump};
use crate::oracle::What;

pub type Id = u32;

/// The one key. Its register, its two elements and its counters are the cells.
pub const KEY: &[u8] = b"k";
/// How many replicas.
pub const NODES: usize = 3;
const DRIFT: u64 = 500;
/// The third clock is so far ahead that nobody follows it.
const WALLS: [u64; NODES] = [1_000_000, 1_000_000, 1_010_000];

/// A user's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    Set(&'static str),
    Delete,
    Add(&'static str),
    Remove(&'static str),
    Increment(i64),
    GIncrement(u64),
}

impl Ask {
    fn what(self) -> What {
        let bytes = |text: &str| text.as_bytes().to_vec();
        match self {
            Self::Set(value) => What::Write(bytes(value)),
            Self::Delete => What::Delete,
            Self::Add(element) => What::Add(vec![bytes(element)]),
            Self::Remove(element) => What::Remove(vec![bytes(element)]),
            Self::Increment(by) => What::Count(Counter::Pn, by.into()),
            Self::GIncrement(by) => What::Count(Counter::G, by.into()),
        }
    }
}

/// One thing that happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// It begins its first life.
    Begin,
    /// A user writes.
    Write(Ask),
    /// An op arrives.
    Deliver(Id),
    /// The state of that node arrives whole.
    Merge(Id),
    /// The replica comes back from the disk of this node, as that incarnation.
    Restore(u8),
}

/// An op that was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Issued {
    pub dot: Dot,
    pub stamp: Stamp,
    pub what: What,
    /// All ops that its author had seen.
    pub past: Vec<Id>,
    /// The message that carries it, as its frame.
    bytes: Vec<u8>,
}

pub struct Node {
    pub replica: Replica,
    pub dump: Dump,
    /// The ops that it has seen, sorted.
    pub ops: Vec<Id>,
    at: usize,
    parent: Option<Id>,
    step: Step,
    /// What the step put on disk, after what its parent had there.
    records: Vec<Vec<u8>>,
}

/// What a step makes of a node: another, and the ops that it wrote.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub node: Id,
    pub wrote: Vec<Id>,
}

/// All nodes and ops that there are, and the steps between them.
#[derive(Default)]
pub struct Nodes {
    nodes: Vec<Node>,
    by_content: HashMap<String, Id>,
    ops: Vec<Issued>,
    op_ids: HashMap<Issued, Id>,
    steps: HashMap<(Id, Step), Outcome>,
}

impl Nodes {
    /// The three at their beginning.
    pub fn begin(&mut self) -> [Id; NODES] {
        [0, 1, 2].map(|at| {
            let state = State::new(HashKey(at as u64, 77));
            let clock = Clock::new(Stamp::default(), DRIFT);
            let replica = Replica::new(state, &actor(at, 0), clock, 0).unwrap();
            self.enter(at, replica, None, Step::Begin, Vec::new(), Vec::new())
        })
    }

    pub fn get(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub fn op(&self, id: Id) -> &Issued {
        &self.ops[id as usize]
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What `step` makes of `node`.
    pub fn step(&mut self, node: Id, step: Step) -> Outcome {
        if let Some(known) = self.steps.get(&(node, step)) {
            return known.clone();
        }
        let outcome = self.work_out(node, step);
        self.steps.insert((node, step), outcome.clone());
        outcome
    }

    fn work_out(&mut self, node: Id, step: Step) -> Outcome {
        let Node { at, replica, ops, .. } = self.get(node);
        let (at, mut replica, mut ops) = (*at, replica.clone(), ops.clone());
        let wall = WALLS[at];
        let mut wrote = Vec::new();
        match step {
            Step::Begin => unreachable!("a life begins once"),
            Step::Write(ask) => {
                write(&mut replica, wall, ask);
                wrote.extend(self.note(&replica, &mut ops, |_| ask.what()));
                assert!(wrote.len() < 2, "a small write is one op");
            }
            Step::Deliver(op) => {
                if self.deliver(node, &mut replica, op) {
                    ops.push(op);
                }
            }
            Step::Merge(from) => {
                let from = self.get(from);
                merge(&mut replica, &from.replica);
                ops.extend(&from.ops);
            }
            Step::Restore(life) => replica = self.restore(node, &actor(at, life)),
        }
        ops.sort_unstable();
        ops.dedup();
        // As after every call of the engine.
        replica.close_reset(wall);
        wrote.extend(self.note(&replica, &mut ops, |edit| match edit {
            Edit::Close { counter, .. } => What::Close(*counter),
            other => panic!("{other:?}"),
        }));
        let records = replica.take_records();
        let node = self.enter(at, replica, Some(node), step, ops, records);
        Outcome { node, wrote }
    }

    /// Names the ops that a replica has written since it had seen `ops`.
    fn note(
        &mut self,
        replica: &Replica,
        ops: &mut Vec<Id>,
        what: impl Fn(&Edit<'_, tidings_proto::WireDot>) -> What,
    ) -> Vec<Id> {
        let (own, actor, last) = (replica.own(), replica.actor().clone(), replica.own_seq());
        let known = ops.iter().filter(|op| self.op(**op).dot.0 == actor).count() as u64;
        let mut wrote = Vec::new();
        for seq in known + 1..=last {
            let (runs, _) = replica.log().read(own, seq, seq, usize::MAX, replica.state().actors());
            let [run] = &runs[..] else { panic!("one op is one run") };
            let (_, op) = run.iter().next().unwrap().unwrap();
            let (stamp, what) = (Stamp(run.base.0 + op.stamp), what(&op.edits[0]));
            let push = Push { have: SeenEntries::default(), runs: runs.clone() };
            let bytes = frame::encode_message(&Message::Push(push));
            let issued = Issued { dot: (actor.clone(), seq), stamp, what, past: ops.clone(), bytes };
            let next = self.ops.len() as Id;
            let id = *self.op_ids.entry(issued.clone()).or_insert(next);
            if id == next {
                self.ops.push(issued);
            }
            ops.push(id);
            ops.sort_unstable();
            wrote.push(id);
        }
        wrote
    }

    /// Delivers an op. Says whether it was its turn; if not, nothing may have changed.
    fn deliver(&self, node: Id, replica: &mut Replica, op: Id) -> bool {
        let (node, op) = (self.get(node), self.op(op));
        let Ok(Message::Push(push)) = frame::decode_message(&op.bytes[frame::PREFIX..]) else {
            panic!("what was sent is a push");
        };
        let (actor, seq) = &op.dot;
        let expected = node.dump.seen.get(actor) + 1;
        let received = replica.receive(&push.runs[0], WALLS[node.at], |_| {});
        assert_eq!(received.applied, u64::from(*seq == expected));
        let gap = ApplyError::Gap { actor: actor.clone(), expected, got: *seq };
        assert_eq!(received.stopped, (*seq > expected).then_some(gap));
        if received.applied == 0 {
            assert_eq!(dump(replica.state()), node.dump, "nothing was applied");
        }
        received.applied == 1
    }

    /// The disk of a node: what each step on the way to it has put there.
    fn disk(&self, node: Id) -> Vec<&[u8]> {
        let mut disk: Vec<&[u8]> = Vec::new();
        let way = std::iter::successors(Some(node), |id| self.get(*id).parent);
        for id in way {
            disk.extend(self.get(id).records.iter().rev().map(Vec::as_slice));
        }
        disk.reverse();
        disk
    }

    fn restore(&self, node: Id, actor: &Actor) -> Replica {
        let mut recovery = Recovery::new(HashKey(self.get(node).at as u64, 77), 0);
        (1..).zip(self.disk(node)).for_each(|(number, record)| recovery.record(number, record).unwrap());
        let replica = recovery.finish(actor, DRIFT).unwrap();
        assert_eq!(dump(replica.state()), self.get(node).dump, "a restart changes nothing");
        replica
    }

    fn enter(
        &mut self,
        at: usize,
        mut replica: Replica,
        parent: Option<Id>,
        step: Step,
        ops: Vec<Id>,
        mut records: Vec<Vec<u8>>,
    ) -> Id {
        records.extend(replica.take_records());
        let dump = dump(replica.state());
        let clock = replica.clock_mut().clone();
        let content = format!("{} {dump:?} {clock:?} {ops:?}", replica.actor());
        let next = self.nodes.len() as Id;
        let id = *self.by_content.entry(content).or_insert(next);
        if id == next {
            let seen: BTreeSet<&Dot> = ops.iter().map(|op| &self.op(*op).dot).collect();
            assert!(seen.iter().all(|(actor, seq)| *seq <= dump.seen.get(actor)), "it has seen what it took");
            assert_eq!(seen.len() as u64, dump.seen.dots.values().sum::<u64>(), "and nothing else");
            self.nodes.push(Node { replica, dump, ops, at, parent, step, records });
            self.restore(id, &actor(at, u8::MAX));
        }
        id
    }

    /// How a node came about, for people.
    pub fn story(&self, node: Id) -> String {
        let mut way: Vec<Id> = std::iter::successors(Some(node), |id| self.get(*id).parent).collect();
        way.reverse();
        let mut story = String::new();
        for id in way {
            let node = self.get(id);
            story += &format!("  node {id} is {} after {:?}\n", node.replica.actor(), node.step);
            if let Step::Merge(from) = node.step {
                story += &self.story(from).replace("  ", "    ");
            }
        }
        story
    }

    /// Ops, for people.
    pub fn tell(&self, ops: &[Id]) -> String {
        let tell = |id: &Id| {
            let Issued { dot: (actor, seq), stamp, what, past, .. } = self.op(*id);
            format!("  op {id} is {actor}.{seq} at {stamp:?}: {what:?}, having seen {past:?}\n")
        };
        ops.iter().map(tell).collect()
    }
}

fn actor(at: usize, life: u8) -> Actor {
    // Incarnations are random in life: later ones need not be greater.
    let incarnation = (u64::from(life) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Actor { node: Name::new(&format!("n{at}")).unwrap(), incarnation }
}

/// A write that is refused, or has nothing to do, issues no op.
fn write(replica: &mut Replica, wall: u64, ask: Ask) {
    let element: &[u8] = match ask {
        Ask::Add(element) | Ask::Remove(element) => element.as_bytes(),
        _ => b"",
    };
    let key = KEY;
    let _refused = match ask {
        Ask::Set(value) => replica.write(wall, Write::Set { key, value: value.as_bytes() }),
        Ask::Delete => replica.write(wall, Write::Delete { key }),
        Ask::Add(_) => replica.write(wall, Write::Add { key, elements: &[element] }),
        Ask::Remove(_) => replica.write(wall, Write::Remove { key, elements: &[element] }),
        Ask::Increment(by) => replica.write(wall, Write::Increment { key, by }),
        Ask::GIncrement(by) => replica.write(wall, Write::GIncrement { key, by }),
    };
}

/// Merges the whole state of one replica into another, through blocks.
fn merge(to: &mut Replica, from: &Replica) {
    let mut from = from.clone();
    let begun = from.begin_snapshot().unwrap();
    let mut blocks: Vec<Bytes> = Vec::new();
    while let Stepped::Block(block) = from.step_snapshot(begun.id) {
        blocks.push(block);
    }
    let mut staged = to.state().staged(&begun.seen, &begun.parked).unwrap();
    for block in &blocks {
        staged.load(block).unwrap();
    }
    to.merge(&staged, begun.seen, begun.parked, blocks).unwrap();
}
