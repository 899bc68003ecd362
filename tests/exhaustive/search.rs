//! The search: worlds from worlds until there are no new ones, each checked.

use std::collections::{HashMap, HashSet};
use std::fmt;

use tidings::core::replica::Replica;

use crate::dump::{Stand, recount, should_show, shown};
use crate::nodes::{Ask, Id, KEY, NODES, Nodes, Outcome, Step};
use crate::oracle::History;

/// How much there was.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub worlds: usize,
    /// Worlds in which nothing is left to write and all have all.
    pub settled: usize,
    pub histories: usize,
    pub nodes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, settled, histories, nodes } = self;
        write!(f, "{worlds} worlds ({settled} settled) over {histories} histories and {nodes} nodes")
    }
}

/// All that can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// What has been written so far, by whom having seen what.
    history: Id,
    nodes: [Id; NODES],
    /// Of which replica there is an image, and that.
    kept: Option<(u8, Id)>,
    /// How often an image may still be merged or restored.
    uses: u8,
    /// How many writes are still to come.
    writes: u8,
    /// How many lives have begun since the first ones.
    lives: u8,
}

impl World {
    /// The same in fewer bytes, for there are many.
    fn packed(&self) -> u128 {
        let (at, image) = self.kept.unwrap_or((3, 0));
        let parts = [(self.history, 26), (image, 22), (self.nodes[0], 22), (self.nodes[1], 22)];
        let small = [(self.nodes[2], 22), (at.into(), 2), (self.uses.into(), 4), (self.writes.into(), 4)];
        parts.into_iter().chain(small).chain([(self.lives.into(), 4)]).fold(0, |packed, (part, bits)| {
            assert!(u64::from(part) < 1 << bits, "more than the search has room for");
            packed << bits | u128::from(part)
        })
    }
}

#[derive(Default)]
struct Search {
    nodes: Nodes,
    histories: Vec<(Vec<Id>, History)>,
    history_ids: HashMap<Vec<Id>, Id>,
    /// What deliveries make of a node in a history: another, in the history with what that wrote in turn.
    deliveries: HashMap<(Id, Id), Vec<(Id, Id)>>,
    /// By ops seen, the first node that has seen exactly these.
    first: HashMap<Vec<Id>, Id>,
    checked: HashSet<Id>,
}

/// Visits all worlds that these asks lead to.
pub fn explore(asks: &[Ask], writes: u8, uses: u8) -> Report {
    let mut search = Search::default();
    search.history_ids.insert(Vec::new(), 0);
    search.histories.push((Vec::new(), History::default()));
    let nodes = search.nodes.begin();
    let mut visited = HashSet::new();
    let (mut settled, mut next) = (0, Vec::new());
    let mut open = vec![World { history: 0, nodes, kept: None, uses, writes, lives: 0 }];
    while let Some(world) = open.pop() {
        if !visited.insert(world.packed()) {
            continue;
        }
        settled += usize::from(world.writes == 0 && search.is_settled(&world));
        search.successors(&world, asks, &mut next);
        open.append(&mut next);
    }
    let (histories, nodes) = (search.histories.len(), search.nodes.len());
    Report { worlds: visited.len(), settled, histories, nodes }
}

impl Search {
    fn is_settled(&self, world: &World) -> bool {
        let all = self.histories[world.history as usize].0.len();
        world.nodes.iter().all(|node| self.nodes.get(*node).ops.len() == all)
    }

    fn successors(&mut self, world: &World, asks: &[Ask], next: &mut Vec<World>) {
        for at in 0..NODES {
            let node = world.nodes[at];
            let put = |node: Id, history: Id| {
                let mut nodes = world.nodes;
                nodes[at] = node;
                World { nodes, history, ..*world }
            };
            next.extend(
                self.delivered(world.history, node).iter().map(|&(node, history)| put(node, history)),
            );
            if world.writes > 0 {
                for ask in asks {
                    let outcome = self.nodes.step(node, Step::Write(*ask));
                    if !outcome.wrote.is_empty() {
                        let (node, history) = self.come_to(world.history, &outcome);
                        next.push(World { writes: world.writes - 1, ..put(node, history) });
                    }
                }
            }
            let Some((of, image)) = world.kept else {
                if world.uses > 0 {
                    next.push(World { kept: Some((at as u8, node)), ..*world });
                }
                continue;
            };
            let used = |world: World| {
                let uses = world.uses - 1;
                World { uses, kept: world.kept.filter(|_| uses > 0), ..world }
            };
            let outcome = self.nodes.step(node, Step::Merge(image));
            let (merged, history) = self.come_to(world.history, &outcome);
            next.push(used(put(merged, history)));
            if usize::from(of) == at {
                let outcome = self.nodes.step(image, Step::Restore(world.lives + 1));
                let (restored, history) = self.come_to(world.history, &outcome);
                next.push(used(World { lives: world.lives + 1, ..put(restored, history) }));
            }
        }
    }

    /// Where each op, delivered to a node, leads: also those that are not its turn, or not for the first time.
    fn delivered(&mut self, history: Id, node: Id) -> Vec<(Id, Id)> {
        if let Some(known) = self.deliveries.get(&(history, node)) {
            return known.clone();
        }
        let ops = self.histories[history as usize].0.clone();
        let mut to = Vec::new();
        for op in ops {
            let outcome = self.nodes.step(node, Step::Deliver(op));
            if outcome.node != node {
                to.push(self.come_to(history, &outcome));
            }
        }
        self.deliveries.insert((history, node), to.clone());
        to
    }

    /// The node of an outcome, checked, and the history with what it wrote.
    fn come_to(&mut self, history: Id, outcome: &Outcome) -> (Id, Id) {
        let mut at = history;
        for op in &outcome.wrote {
            at = self.with(at, *op);
        }
        if self.checked.insert(outcome.node) {
            self.check(at, outcome.node);
        }
        (outcome.node, at)
    }

    /// The history with another op.
    fn with(&mut self, history: Id, op: Id) -> Id {
        let (ops, oracle) = &self.histories[history as usize];
        let mut ops = ops.clone();
        ops.push(op);
        ops.sort_unstable();
        if let Some(known) = self.history_ids.get(&ops) {
            return *known;
        }
        let mut oracle = oracle.clone();
        let issued = self.nodes.op(op);
        let context = seen(&self.nodes, &issued.past);
        oracle.record(issued.dot.clone(), issued.stamp, KEY, issued.what.clone(), context);
        let id = self.histories.len() as Id;
        self.history_ids.insert(ops.clone(), id);
        self.histories.push((ops, oracle));
        id
    }

    /// What a node shows hangs on the ops it has seen and on nothing else, and is what the oracle says.
    fn check(&mut self, history: Id, node: Id) {
        let oracle = &self.histories[history as usize].1;
        let checked = self.nodes.get(node);
        let dump = &checked.dump;
        let (stand, parked) = oracle.stand(&dump.seen);
        let first = *self.first.entry(checked.ops.clone()).or_insert(node);
        let settled = oracle.settled(&dump.seen);
        let is_right = dump.stand == stand
            && dump.parked == parked
            && *dump == self.nodes.get(first).dump
            && settled.is_none_or(|settled| settled == stand && parked.is_empty())
            && readers_agree(&checked.replica, &stand);
        assert!(
            is_right,
            "{}{}{dump:#?}\nbut this should stand: {stand:#?}\nand this be parked: {parked:#?}\n{}{:#?}",
            self.nodes.tell(&self.histories[history as usize].0),
            self.nodes.story(node),
            self.nodes.story(first),
            self.nodes.get(first).dump,
        );
    }
}

/// Whether everything that a reader can ask is answered by what stands.
fn readers_agree(replica: &Replica, stand: &Stand) -> bool {
    let state = replica.state();
    *state.tallies() == recount(state, stand)
        && state.len() == stand.len()
        && shown(state, KEY) == should_show(stand.get(KEY))
}

/// Exactly these ops, as a version vector.
fn seen(nodes: &Nodes, ops: &[Id]) -> tidings_proto::Seen {
    let mut seen = tidings_proto::Seen::default();
    for (actor, seq) in ops.iter().map(|op| &nodes.op(*op).dot) {
        let last = seen.dots.entry(actor.clone()).or_default();
        *last = (*last).max(*seq);
    }
    seen
}
