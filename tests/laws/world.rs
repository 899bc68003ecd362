//! A few replicas, the mail between them, their disks, and what can happen to all that.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tidings::core::clock::Clock;
use tidings::core::elide::elide;
use tidings::core::journal;
use tidings::core::replica::{Recovery, Replica};
use tidings::core::snapshot::{Begun, Step as Stepped};
use tidings::core::state::{ApplyError, State};
use tidings::core::table::HashKey;
use tidings::core::write::{Write, WriteError, Written};
use tidings_proto::{Actor, Counter, Edit, Name, Run, Seen, Stamp};

use crate::dump::{Bytes, Dump, Shown, Stand, dump, recount, should_show, shown};
use crate::oracle::{History, What};

/// A user's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    SetText(u8),
    SetNumber(u8, i8),
    Delete(u8),
    Add(u8, u8),
    AddTwo(u8, u8, u8),
    Remove(u8, u8),
    RemoveTwo(u8, u8, u8),
    Increment(u8, i8),
    GIncrement(u8, u8),
    Flush,
}

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A user writes.
    Ask(u8, Ask),
    /// Ops of one actor go into the mail: from whom, to whom, whose, how many back from the last, how many.
    Send(u8, u8, u8, u8, u8),
    /// A letter arrives; it may arrive again if the flag says so.
    Deliver(u8, bool),
    /// A letter is lost.
    Lose(u8),
    /// All that the second lacks of the first's log arrives.
    CatchUp(u8, u8),
    /// A context merge begins: from whom, to whom.
    Begin(u8, u8),
    /// Its blocks come.
    Walk(u8),
    /// It is committed, if all have come; it may be committed again.
    Commit(u8, bool),
    /// Contributions that were reset are closed.
    Close(u8),
    /// Records go to disk, and the log is cut to its bound.
    Persist(u8),
    /// A clean restart.
    Restart(u8),
    /// A restart from the first so many parts in 256 of what is on disk.
    Restore(u8, u8),
    /// Time passes.
    Wait(u16),
}

pub fn ask() -> impl Strategy<Value = Ask> {
    let (key, element) = (0..3_u8, 0..3_u8);
    prop_oneof![
        2 => key.clone().prop_map(Ask::SetText),
        2 => (key.clone(), -9..9_i8).prop_map(|(k, v)| Ask::SetNumber(k, v)),
        4 => key.clone().prop_map(Ask::Delete),
        4 => (key.clone(), element.clone()).prop_map(|(k, e)| Ask::Add(k, e)),
        1 => (key.clone(), element.clone(), element.clone()).prop_map(|(k, a, b)| Ask::AddTwo(k, a, b)),
        3 => (key.clone(), element.clone()).prop_map(|(k, e)| Ask::Remove(k, e)),
        1 => (key.clone(), element.clone(), element).prop_map(|(k, a, b)| Ask::RemoveTwo(k, a, b)),
        // Zero is told apart from nothing by key alone, which the oracle does not track.
        6 => (key.clone(), (-20..20_i8).prop_filter("zero", |by| *by != 0)).prop_map(|(k, n)| Ask::Increment(k, n)),
        3 => (key, 1..20_u8).prop_map(|(k, n)| Ask::GIncrement(k, n)),
        1 => Just(Ask::Flush),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let any = any::<u8>;
    prop_oneof![
        30 => (any(), ask()).prop_map(|(node, ask)| Step::Ask(node, ask)),
        14 => (any(), any(), any(), any(), any()).prop_map(|(a, b, c, d, e)| Step::Send(a, b, c, d, e)),
        16 => (any(), prop::bool::weighted(0.3)).prop_map(|(at, again)| Step::Deliver(at, again)),
        1 => any().prop_map(Step::Lose),
        6 => (any(), any()).prop_map(|(a, b)| Step::CatchUp(a, b)),
        4 => (any(), any()).prop_map(|(a, b)| Step::Begin(a, b)),
        5 => any().prop_map(Step::Walk),
        6 => (any(), prop::bool::weighted(0.3)).prop_map(|(at, again)| Step::Commit(at, again)),
        4 => any().prop_map(Step::Close),
        4 => any().prop_map(Step::Persist),
        1 => any().prop_map(Step::Restart),
        2 => (any(), any()).prop_map(|(a, b)| Step::Restore(a, b)),
        2 => (0..2_000_u16).prop_map(Step::Wait),
    ]
}

/// How a world is made.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub nodes: usize,
    /// Bytes that the logs in memory are cut to.
    pub log_bound: usize,
    /// How far one node's clock is from the next one's, in milliseconds.
    pub skew: u64,
}

pub fn plan() -> impl Strategy<Value = Plan> {
    let bound = prop_oneof![Just(1 << 20), Just(100), Just(0)];
    (2..=5_usize, bound, prop_oneof![Just(0), Just(100), Just(10_000)])
        .prop_map(|(nodes, log_bound, skew)| Plan { nodes, log_bound, skew })
}

pub struct Node {
    pub replica: Replica,
    /// Entries of records, each a record of its own.
    pub disk: Vec<Vec<u8>>,
    hash_key: HashKey,
    skew: u64,
    last_seen: Seen,
}

/// A context merge under way.
struct Session {
    from: usize,
    to: usize,
    begun: Begun,
    expected: Dump,
    blocks: Vec<Vec<u8>>,
    done: bool,
}

pub struct World {
    pub nodes: Vec<Node>,
    plan: Plan,
    mail: Vec<(usize, Run)>,
    sessions: Vec<Session>,
    pub history: History,
    wall: u64,
    lives: u64,
    values: u64,
}

const DRIFT: u64 = 500;

pub fn key(n: u8) -> Bytes {
    vec![b'k', b'0' + n % 3]
}

fn element(n: u8) -> Bytes {
    vec![b'e', b'0' + n % 3]
}

fn actor(node: usize, life: u64) -> Actor {
    // Incarnations are random in life: later ones need not be greater.
    let incarnation = life.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Actor { node: Name::new(&format!("n{node}")).unwrap(), incarnation }
}

pub fn replica(node: usize, log_bound: usize) -> Replica {
    let state = State::new(HashKey(node as u64, 77));
    Replica::new(state, &actor(node, node as u64 + 1), Clock::new(Stamp::default(), DRIFT), log_bound)
        .unwrap()
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let node = |at: usize| Node {
            replica: replica(at, plan.log_bound),
            disk: Vec::new(),
            hash_key: HashKey(at as u64, 77),
            skew: at as u64 * plan.skew,
            last_seen: Seen::default(),
        };
        Self {
            nodes: (0..plan.nodes).map(node).collect(),
            plan,
            mail: Vec::new(),
            sessions: Vec::new(),
            history: History::default(),
            wall: 1_000_000,
            lives: plan.nodes as u64,
            values: 0,
        }
    }

    /// The world after those steps, each of which is checked.
    pub fn after(plan: Plan, steps: &[Step]) -> Self {
        let mut world = Self::new(plan);
        steps.iter().for_each(|step| world.step(*step));
        world
    }

    fn node(&self, n: u8) -> usize {
        n as usize % self.nodes.len()
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Ask(node, ask) => self.ask(self.node(node), ask),
            Step::Send(from, to, whose, back, count) => {
                self.send(self.node(from), self.node(to), whose, back, count);
            }
            Step::Deliver(at, again) if !self.mail.is_empty() => {
                let at = at as usize % self.mail.len();
                let (to, run) = if again { self.mail[at].clone() } else { self.mail.swap_remove(at) };
                self.deliver(to, &run);
            }
            Step::Lose(at) if !self.mail.is_empty() => {
                self.mail.swap_remove(at as usize % self.mail.len());
            }
            Step::CatchUp(from, to) => self.catch_up(self.node(from), self.node(to)),
            Step::Begin(from, to) => self.begin(self.node(from), self.node(to)),
            Step::Walk(at) if !self.sessions.is_empty() => self.walk(at as usize % self.sessions.len()),
            Step::Commit(at, again) if !self.sessions.is_empty() => {
                self.commit(at as usize % self.sessions.len(), again);
            }
            Step::Close(node) => self.close(self.node(node)),
            Step::Persist(node) => self.persist(self.node(node)),
            Step::Restart(node) => self.restart(self.node(node)),
            Step::Restore(node, part) => self.restore(self.node(node), part),
            Step::Wait(millis) => self.wall += u64::from(millis),
            _ => {}
        }
    }

    /// All promises that can be checked at any moment, of one node.
    pub fn check(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let state = node.replica.state();
        let dump = dump(state);
        assert!(node.last_seen <= dump.seen, "seen went back");
        node.last_seen = dump.seen.clone();
        let (stand, parked) = self.history.stand(&dump.seen);
        assert_eq!(dump.stand, stand, "what stands at {at}");
        assert_eq!(dump.parked, parked, "what is parked at {at}");
        check_readers(state, &stand);
    }

    fn wall(&self, at: usize) -> u64 {
        self.wall + self.nodes[at].skew
    }

    fn ask(&mut self, at: usize, ask: Ask) {
        self.wall += 1;
        self.values += 1;
        let wall = self.wall(at);
        let text = format!("text {}", self.values).into_bytes();
        let name = |k: u8| key(k);
        let (mut elements, mut value) = (Vec::new(), Bytes::new());
        let key = match ask {
            Ask::SetText(k) => {
                value = text;
                name(k)
            }
            Ask::SetNumber(k, n) => {
                value = n.to_string().into_bytes();
                name(k)
            }
            Ask::Add(k, e) | Ask::Remove(k, e) => {
                elements.push(element(e));
                name(k)
            }
            Ask::AddTwo(k, a, b) | Ask::RemoveTwo(k, a, b) => {
                elements.extend([element(a), element(b)]);
                name(k)
            }
            Ask::Delete(k) | Ask::Increment(k, _) | Ask::GIncrement(k, _) => name(k),
            Ask::Flush => Bytes::new(),
        };
        let key = &key[..];
        let refs: Vec<&[u8]> = elements.iter().map(|e| &e[..]).collect();
        let (write, what) = match ask {
            Ask::SetText(_) | Ask::SetNumber(..) => {
                (Write::Set { key, value: &value }, What::Write(value.clone()))
            }
            Ask::Delete(_) => (Write::Delete { key }, What::Delete),
            Ask::Add(..) | Ask::AddTwo(..) => {
                (Write::Add { key, elements: &refs }, What::Add(elements.clone()))
            }
            Ask::Remove(..) | Ask::RemoveTwo(..) => {
                (Write::Remove { key, elements: &refs }, What::Remove(elements.clone()))
            }
            Ask::Increment(_, by) => {
                (Write::Increment { key, by: by.into() }, What::Count(Counter::Pn, by.into()))
            }
            Ask::GIncrement(_, by) => {
                (Write::GIncrement { key, by: by.into() }, What::Count(Counter::G, by.into()))
            }
            Ask::Flush => (Write::Flush, What::Delete),
        };
        let before = self.context(at);
        let shown_before = shown(self.nodes[at].replica.state(), key);
        let result = self.nodes[at].replica.write(wall, write);
        self.record(at, before, |_| what.clone());
        self.check(at);
        let now = shown(self.nodes[at].replica.state(), key);
        check_answer(&write, &result, &shown_before, &now);
    }

    /// What a node has seen, and how many of that are its own.
    fn context(&self, at: usize) -> (Seen, u64) {
        let replica = &self.nodes[at].replica;
        (replica.state().seen_clock(), replica.own_seq())
    }

    /// Tells the oracle of the ops that a node has written since.
    fn record(
        &mut self,
        at: usize,
        before: (Seen, u64),
        what: impl Fn(&Edit<'_, tidings_proto::WireDot>) -> What,
    ) {
        let replica = &self.nodes[at].replica;
        let (mut context, first) = before;
        let (last, own) = (replica.own_seq(), replica.actor().clone());
        for run in read(replica, replica.own(), first + 1, last) {
            for item in run.iter() {
                let (seq, op) = item.unwrap();
                let stamp = Stamp(run.base.0 + op.stamp);
                let what = what(&op.edits[0]);
                self.history.record((own.clone(), seq), stamp, op.key, what, context.clone());
                context.dots.insert(own.clone(), seq);
            }
        }
        assert_eq!(context, replica.state().seen_clock(), "a write has seen what there was and itself");
    }

    fn send(&mut self, from: usize, to: usize, whose: u8, back: u8, count: u8) {
        let replica = &self.nodes[from].replica;
        let actors = replica.state().actors();
        let ix = actors.sorted().nth(whose as usize % actors.len()).unwrap().1;
        let last = replica.state().seen(ix);
        let first = last.saturating_sub(u64::from(back) % 8).max(1);
        let last = last.min(first + u64::from(count) % 8);
        let mut runs = read(replica, ix, first, last);
        if count >= 64 {
            runs = elide(runs).0;
        }
        self.mail.extend(runs.into_iter().map(|run| (to, run)));
        if self.mail.len() > 60 {
            self.mail.drain(..20);
        }
    }

    fn deliver(&mut self, to: usize, run: &Run) {
        let wall = self.wall(to);
        let before = dump(self.nodes[to].replica.state());
        let received = self.nodes[to].replica.receive(run, wall, |_| {});
        let after = self.nodes[to].replica.state().seen_clock();
        let (was, is) = (before.seen.get(&run.actor), after.get(&run.actor));
        assert_eq!(received.applied, is - was);
        if run.first <= was + 1 {
            assert_eq!(received.stopped, None);
            assert_eq!(is, was.max(run.last()));
        } else {
            let gap = ApplyError::Gap { actor: run.actor.clone(), expected: was + 1, got: run.first };
            assert_eq!(received.stopped, Some(gap));
        }
        if received.applied == 0 {
            assert_eq!(dump(self.nodes[to].replica.state()), before, "nothing was applied");
        }
        self.check(to);
    }

    /// Delivers all that `to` lacks and the log of `from` has.
    pub fn catch_up(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let entries = self.nodes[from].replica.state().seen_entries();
        for (actor, last) in entries.iter() {
            let first = self.nodes[to].replica.state().seen_clock().get(&actor) + 1;
            let replica = &self.nodes[from].replica;
            let ix = replica.state().actors().find(&actor).unwrap();
            // Who catches up gets no values that have been overwritten meanwhile.
            for run in elide(read(replica, ix, first, last)).0 {
                self.deliver(to, &run);
            }
        }
    }

    fn begin(&mut self, from: usize, to: usize) {
        let expected = dump(self.nodes[from].replica.state());
        if let Some(begun) = self.nodes[from].replica.begin_snapshot() {
            self.sessions.push(Session { from, to, begun, expected, blocks: Vec::new(), done: false });
        }
    }

    fn walk(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        if session.done {
            return;
        }
        let replica = &mut self.nodes[session.from].replica;
        loop {
            match replica.step_snapshot(session.begun.id) {
                Stepped::Block(block) => session.blocks.push(block),
                Stepped::Done => {
                    session.done = true;
                    replica.end_snapshot(session.begun.id);
                    return;
                }
                Stepped::Aborted => break,
            }
        }
        self.sessions.swap_remove(at);
    }

    fn commit(&mut self, at: usize, again: bool) {
        if !self.sessions[at].done {
            return;
        }
        let session = &self.sessions[at];
        let replica = &mut self.nodes[session.to].replica;
        let staged = stage(replica.state(), &session.begun, &session.blocks);
        assert_eq!(dump(&staged), session.expected, "a snapshot is of the moment at which it began");
        let Begun { seen, parked, .. } = session.begun.clone();
        replica.merge(&staged, seen, parked, session.blocks.clone()).unwrap();
        let to = session.to;
        if !again {
            self.sessions.swap_remove(at);
        }
        self.abort_from(to);
        self.check(to);
    }

    /// Snapshots of a node end when it merges or restarts; what has been staged of them is as good as ever.
    fn abort_from(&mut self, node: usize) {
        for session in self.sessions.extract_if(.., |session| session.from == node && !session.done) {
            self.nodes[node].replica.end_snapshot(session.begun.id);
        }
    }

    /// A whole merge at once.
    pub fn merge(&mut self, from: usize, to: usize) {
        if from != to {
            self.abort_from(from);
            self.begin(from, to);
            let at = self.sessions.len() - 1;
            self.walk(at);
            self.commit(at, false);
        }
    }

    pub fn close(&mut self, at: usize) {
        let before = self.context(at);
        let stood = dump(self.nodes[at].replica.state()).stand;
        let wall = self.wall(at);
        self.nodes[at].replica.close_reset(wall);
        self.record(at, before, |edit| match edit {
            Edit::Close { counter, .. } => What::Close(*counter),
            other => panic!("{other:?}"),
        });
        self.check(at);
        assert_eq!(dump(self.nodes[at].replica.state()).stand, stood, "nobody sees a close");
    }

    pub fn persist(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for record in node.replica.take_records() {
            node.disk.extend(journal::entries(&record).map(|entry| entry.unwrap().encode(Vec::new())));
        }
        assert!(node.replica.log().bytes() <= self.plan.log_bound);
    }

    fn restart(&mut self, at: usize) {
        self.persist(at);
        let before = dump(self.nodes[at].replica.state());
        self.recover(at);
        assert_eq!(dump(self.nodes[at].replica.state()), before, "a restart changes nothing");
        self.check(at);
    }

    /// Comes back from an older image of the disk; what was not persisted is lost.
    fn restore(&mut self, at: usize, part: u8) {
        let node = &mut self.nodes[at];
        let kept = node.disk.len() * usize::from(part) / 255;
        node.disk.truncate(kept);
        node.last_seen = Seen::default();
        self.recover(at);
        self.check(at);
    }

    fn recover(&mut self, at: usize) {
        self.lives += 1;
        let actor = actor(at, self.lives);
        let node = &mut self.nodes[at];
        node.replica = recovered(&node.disk, node.hash_key, self.plan.log_bound, &actor);
        self.abort_from(at);
        // The new life is on disk before it writes.
        self.persist(at);
    }

    /// Lets all nodes hear of everything, and checks that they agree.
    pub fn heal(&mut self) {
        let nodes = self.nodes.len();
        for round in 0.. {
            for to in 0..nodes {
                for from in 0..nodes {
                    self.catch_up(from, to);
                    let (theirs, ours) = (self.context(from).0, self.context(to).0);
                    let has_all = theirs <= ours;
                    if !has_all {
                        self.merge(from, to);
                    }
                }
            }
            if (1..nodes).all(|at| self.context(at).0 == self.context(0).0) {
                break;
            }
            assert!(round < 3, "two rounds are enough for anything");
        }
        let dumps: Vec<Dump> = self.nodes.iter().map(|node| dump(node.replica.state())).collect();
        for dump in &dumps {
            assert_eq!(dump, &dumps[0], "equal seen, unequal states");
        }
        if let Some(settled) = self.history.settled(&dumps[0].seen) {
            assert_eq!(dumps[0].stand, settled, "the settled state");
            assert!(dumps[0].parked.is_empty(), "nothing waits for what has come");
        }
    }
}

/// Everything that a reader can ask, against what stands.
pub fn check_readers(state: &State, stand: &Stand) {
    assert_eq!(*state.tallies(), recount(state, stand), "tallies");
    assert_eq!(state.len(), stand.len());
    for key in (0..3).map(key) {
        assert_eq!(shown(state, &key), should_show(stand.get(&key)), "{key:?}");
    }
    let mut scanned = Vec::new();
    assert_eq!(state.scan(0, 1_000, |key, _| scanned.push(key.to_vec())), 0);
    scanned.sort();
    assert!(scanned.iter().eq(stand.keys()), "a scan shows what stands");
}

/// Writers read their writes.
fn check_answer(write: &Write<'_>, result: &Result<Written, WriteError>, before: &Shown, now: &Shown) {
    match (write, result) {
        (_, Err(_)) => assert_eq!(before, now, "a refused write changes nothing"),
        (Write::Set { value, .. }, Ok(_)) => assert_eq!(*now, Shown::Bytes(value.to_vec())),
        (Write::Delete { .. }, Ok(removed)) => {
            assert_eq!(*removed, Written::Removed(*before != Shown::Nothing));
            assert_eq!(*now, Shown::Nothing);
        }
        (Write::Increment { .. }, Ok(Written::Value(value))) => assert_eq!(*now, Shown::Integer(*value)),
        (Write::GIncrement { .. }, Ok(Written::Value(value))) => assert_eq!(*now, Shown::GCounter(*value)),
        (Write::Add { elements, .. }, Ok(Written::Count(new))) => {
            let Shown::Members(now) = now else { panic!("{now:?}") };
            assert!(elements.iter().all(|element| now.contains(*element)));
            let old = if let Shown::Members(before) = before { before.len() } else { 0 };
            assert_eq!(now.len(), old + new);
        }
        (Write::Remove { elements, .. }, Ok(Written::Count(gone))) => {
            let len = |shown: &Shown| if let Shown::Members(members) = shown { members.len() } else { 0 };
            assert_eq!(len(before), len(now) + gone);
            let Shown::Members(now) = now else { return };
            assert!(elements.iter().all(|element| !now.contains(*element)));
        }
        (Write::Flush, Ok(Written::Count(_))) => assert_eq!(*now, Shown::Nothing),
        (_, Ok(answer)) => panic!("{write:?} was answered {answer:?}"),
    }
}

/// Ops from a replica's log, as far as it has them.
pub fn read(replica: &Replica, ix: tidings::core::actors::ActorIx, first: u64, last: u64) -> Vec<Run> {
    let runs = replica.log().read(ix, first, last, usize::MAX, replica.state().actors()).0;
    for run in &runs {
        run.check().unwrap();
        let names: BTreeSet<&Actor> = run.actors.iter().chain([&run.actor]).collect();
        assert_eq!(names.len(), run.actors.len() + 1, "an actor is named once");
    }
    runs
}

/// All ops that a replica has, by actor.
pub fn read_all(replica: &Replica) -> Vec<Run> {
    let state = replica.state();
    state.actors().sorted().flat_map(|(_, ix)| read(replica, ix, 1, state.seen(ix))).collect()
}

pub fn stage(at: &State, begun: &Begun, blocks: &[Vec<u8>]) -> State {
    let mut staged = at.staged(&begun.seen, &begun.parked).unwrap();
    for block in blocks {
        staged.load(block).unwrap();
    }
    staged
}

pub fn recovered(disk: &[Vec<u8>], hash_key: HashKey, log_bound: usize, actor: &Actor) -> Replica {
    let mut recovery = Recovery::new(hash_key, log_bound);
    for (number, record) in (1..).zip(disk) {
        recovery.record(number, record).unwrap();
    }
    recovery.finish(actor, DRIFT).unwrap()
}
