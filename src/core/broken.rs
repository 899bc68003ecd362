//! What some mutants do in place of a rule. Nothing of this is reached unless one is active.

use tidings_proto::message::Sync;
use tidings_proto::op::{Baseline, Counter};
use tidings_proto::{Block, CellState, Edit, Message, Op, Run};

use super::actors::{ActorIx, Actors, ShortDot};
use super::cells::{Cells, Changing};
use super::counter::Parts;
use super::fingerprint::Rows;
use super::link::LinkId;
use super::register::Version;
use super::replica::Replica;
use super::state::State;
use super::table::Named;
use super::view::Shape;

/// `ValuesLeftOut`: runs whose writes that are no longer live here have become erases.
pub(super) fn without_dead_values(runs: &[Run], state: &State) -> Vec<Run> {
    runs.iter()
        .map(|run| {
            let mut ops = Vec::new();
            for (seq, mut op) in run.iter().map_while(Result::ok) {
                let dot = state.actors().find(&run.actor).map(|ix| ShortDot::new(ix, seq));
                let versions = state.get(op.key).map_or(&[][..], |cells| cells.register().versions());
                let live = versions.iter().any(|version| Some(version.dot) == dot);
                for edit in op.edits.iter_mut().filter(|_| !live) {
                    if let Edit::Write { supersedes, .. } = edit {
                        *edit = Edit::Erase { dots: supersedes.clone() };
                    }
                }
                ops = postcard::to_extend(&op, ops).expect("an op of plain values always encodes");
            }
            Run { ops, ..run.clone() }
        })
        .collect()
}

/// `ElidedFreely`: a run up to before the op that superseded the last value that is left out of it.
pub(super) fn without_the_last(run: &Run) -> Run {
    let reaches = run.iter().map_while(Result::ok).map(|(seq, op)| {
        let reach = op.edits.iter().map(|edit| edit.reach(seq)).fold(seq, u64::max);
        (seq, reach)
    });
    let last = reaches.filter(|(seq, reach)| reach > seq).map(|(_, reach)| reach).max();
    let last = last.unwrap_or(run.last() + 1) - 1;
    let ops = run.iter().map_while(Result::ok).take_while(|(seq, _)| *seq <= last);
    let ops: Vec<_> = ops.map(|(_, op)| op).collect();
    let bytes = ops.iter().fold(Vec::new(), |bytes, op| {
        postcard::to_extend(op, bytes).expect("an op of plain values always encodes")
    });
    Run { count: ops.len() as u32, ops: bytes, ..run.clone() }
}

/// `Folding`: adds what earlier incarnations of the author's node have standing to its own count.
pub(super) fn fold<'a>(
    parts: Option<&Parts>,
    own: ActorIx,
    actors: &Actors,
    edits: &mut smallvec::SmallVec<[Edit<'a, ShortDot>; 1]>,
) {
    let Some(Edit::Count { counter, birth, mut p, mut n }) = edits.pop() else { return };
    let earlier = |actor: ActorIx| actor != own && actors.get(actor).node == actors.get(own).node;
    for part in parts.into_iter().flat_map(Parts::iter).filter(|part| earlier(part.actor)) {
        if let (Some((up, down)), Some(e)) = (part.standing(), part.contribution) {
            (p, n) = (p + up, n + down);
            let birth = ShortDot::new(part.actor, e.birth);
            let baselines = smallvec::smallvec![Baseline { birth, p: e.p, n: e.n }];
            edits.push(Edit::Reset { counter, baselines });
        }
    }
    edits.push(Edit::Count { counter, birth, p, n });
}

/// `BuriedEarly`: drops spent parts of other incarnations of a node that closes one.
pub(super) fn bury(cells: &mut Changing<'_>, actors: &Actors, dot: ShortDot, op: &Op<'_, ShortDot>) {
    if !op.edits.iter().any(|edit| matches!(edit, Edit::Close { .. })) {
        return;
    }
    let node = &actors.get(dot.actor()).node;
    for counter in [Counter::G, Counter::Pn] {
        for actor in cells.cells().counter(counter).map(Parts::actors).unwrap_or_default() {
            if actors.get(actor).node == *node {
                cells.change_part(counter, actor, |part| {
                    if let (None, Some(e)) = (part.standing(), part.contribution) {
                        part.close(e.birth);
                    }
                });
            }
        }
    }
}

/// `StalePayload`: gives contexts that wait to be sent the vector of this moment.
pub(crate) fn later_contexts(sends: &mut [(LinkId, Message)], replica: &Replica) {
    for (_, message) in sends {
        if let Message::Sync(Sync::Context { seen, .. }) = message {
            *seen = replica.state().seen_entries();
        }
    }
}

impl Replica {
    /// `VolatileFilter`: takes in what a block has live, but for what has been applied meanwhile.
    pub(super) fn merge_early(&mut self, block: &[u8]) {
        let Ok(block) = Block::decode(block) else { return };
        let Ok(places) = block.actors.iter().map(|a| self.intern(a)).collect::<Result<Vec<_>, _>>() else {
            return;
        };
        for key in &block.keys {
            self.state.insert_early(&key.key, &key.cells, &places);
        }
    }
}

impl State {
    fn insert_early(&mut self, key: &[u8], states: &[CellState], places: &[ActorIx]) {
        let State { cells: table, seen, tallies, hash_key, tags, .. } = self;
        let hash = table.hash(key);
        let cells = table.get_or_insert(hash, key, || Cells::new(key));
        let (shape, before) = (Shape::of(cells), cells.fingerprint());
        let mut cells = Changing::new(cells, Rows { key: *hash_key, tags }, hash);
        let unseen = |dot: &tidings_proto::WireDot| {
            let dot = ShortDot::new(places[dot.actor as usize], dot.seq);
            (dot.seq() > seen[dot.actor().index()]).then_some(dot)
        };
        for state in states {
            match state {
                CellState::Register(versions) => {
                    for (version, dot) in versions.iter().filter_map(|v| Some((v, unseen(&v.dot)?))) {
                        cells.remove_version(dot);
                        let value = version.value[..].into();
                        cells.insert_version(Version { dot, stamp: version.stamp, value });
                    }
                }
                CellState::Member(member) => {
                    for dot in member.dots.iter().filter_map(unseen) {
                        cells.remove_member(&member.element, dot);
                        cells.insert_member(&member.element, dot);
                    }
                }
                CellState::Counter(_) => {}
            }
        }
        let cells = cells.finish();
        let (after, gone) = (cells.fingerprint(), cells.is_blank());
        tallies.replace(&shape, &Shape::of(cells));
        table.note_change(hash, before, after);
        if gone {
            table.remove(hash, key);
        }
    }

    /// `VolatileFilter`: lets go of what came early, which the merge brings again.
    pub(super) fn forget_early(&mut self) {
        let State { cells: table, seen, tallies, hash_key, tags, .. } = self;
        let rows = Rows { key: *hash_key, tags };
        table.retain(|cells| {
            let before = Shape::of(cells);
            let position = hash_key.hash(cells.key());
            let mut cells = Changing::new(cells, rows, position);
            cells.retain_versions(|v| v.dot.seq() <= seen[v.dot.actor().index()]);
            cells.retain_members(|_, dot| dot.seq() <= seen[dot.actor().index()]);
            let cells = cells.finish();
            tallies.replace(&before, &Shape::of(cells));
            !cells.is_blank()
        });
    }
}
