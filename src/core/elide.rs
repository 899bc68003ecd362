//! What has been overwritten meanwhile is not sent: of an op that a later one of the same
//! message has superseded, a peer that catches up gets everything but the value.
//!
//! Such ops mean something only beside what superseded them. So they stand in one
//! run, are applied in one step (`Replica::receive`), and are read from memory and
//! disk together (`OpLog::read`, `Run::part`), since who has got them so can only pass them on so.

use std::collections::BTreeMap;

use tidings_proto::{Actor, Edit, Op, Run, Stamp, WireDot, bounds as wire};

use super::mutant::{self, Mutant};

/// A shorter value costs hardly more than what takes its place.
const SHORT: usize = 4;

/// How many values a message goes without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Elided {
    /// In all.
    pub all: u64,
    /// Those of them that came here without.
    pub onward: u64,
}

/// Leaves overwritten values out of runs that are sent in one message, in order. Consecutive runs
/// of an actor become one where that takes it.
pub fn elide(runs: Vec<Run>) -> (Vec<Run>, Elided) {
    let (mut sent, mut elided) = (Vec::new(), Elided::default());
    let mut runs = runs.into_iter().peekable();
    while let Some(run) = runs.next() {
        let (mut count, mut bytes, mut group) = (run.count as usize, run.ops.len(), vec![run]);
        while let Some(next) = runs.next_if(|next| {
            let last = group.last().expect("it holds one");
            let follows = next.actor == last.actor && next.first == last.last() + 1;
            follows && count + next.count as usize <= wire::RUN_OPS && bytes + next.ops.len() <= wire::BATCH
        }) {
            (count, bytes) = (count + next.count as usize, bytes + next.ops.len());
            group.push(next);
        }
        let joined = if bytes <= wire::BATCH { join(&group, &mut elided) } else { None };
        match joined {
            Some(run) => sent.push(run),
            None => sent.extend(group),
        }
    }
    (sent, elided)
}

/// One run of consecutive ones, without the values that ops of it have superseded. None if there
/// are no more of these than before, or the ops do not allow it.
fn join(runs: &[Run], elided: &mut Elided) -> Option<Run> {
    let mut ops: Vec<(usize, Op<'_, WireDot>)> = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        for item in run.iter() {
            let (_, mut op) = item.ok()?;
            op.stamp += run.base.0;
            ops.push((at, op));
        }
    }
    let is_elided = |op: &Op<'_, WireDot>| op.edits.iter().any(Edit::is_elided);
    let before = ops.iter().filter(|(_, op)| is_elided(op)).count() as u64;
    (elided.all, elided.onward) = (elided.all + before, elided.onward + before);
    let left_out = superseded(runs[0].first, &ops);
    let more = left_out.iter().filter(|by| **by > 0).count() as u64;
    let in_order = ops.windows(2).all(|pair| pair[0].1.stamp <= pair[1].1.stamp);
    if more == 0 || !in_order {
        return None;
    }
    let run = encode(runs, &ops, &left_out);
    run.check().ok()?;
    elided.all += more;
    Some(if mutant::is(Mutant::ElidedFreely) { super::broken::without_the_last(&run) } else { run })
}

/// For each op with a value that a later one has superseded, how many numbers later that is; else 0.
fn superseded(first: u64, ops: &[(usize, Op<'_, WireDot>)]) -> Vec<u32> {
    let has_value =
        |edit: &Edit<'_, WireDot>| matches!(edit, Edit::Write { value, .. } if value.len() >= SHORT);
    let mut by = vec![0; ops.len()];
    for (at, (_, op)) in ops.iter().enumerate() {
        let dots = op.edits.iter().flat_map(Edit::overwrites);
        for dot in dots.filter(|dot| dot.actor == 0 && dot.seq >= first) {
            let old = (dot.seq - first) as usize;
            // Whoever says that he supersedes what he has not written yet is not to be followed there.
            if old >= at {
                continue;
            }
            let earlier = &ops[old].1;
            if by[old] == 0 && earlier.key == op.key && earlier.edits.iter().any(has_value) {
                by[old] = (at - old) as u32;
            }
        }
    }
    by
}

/// The ops as one run, with a table of all the actors that they name.
fn encode(runs: &[Run], ops: &[(usize, Op<'_, WireDot>)], left_out: &[u32]) -> Run {
    let mut actors: Vec<Actor> = Vec::new();
    let mut known: BTreeMap<&Actor, u32> = BTreeMap::new();
    let mut places: Vec<Vec<u32>> = Vec::new();
    for run in runs {
        let place = |actor| {
            *known.entry(actor).or_insert_with(|| {
                actors.push(Actor::clone(actor));
                actors.len() as u32
            })
        };
        places.push(std::iter::once(0).chain(run.actors.iter().map(place)).collect());
    }
    let base = ops.first().map_or(0, |(_, op)| op.stamp);
    let mut bytes = Vec::new();
    for ((run, op), by) in ops.iter().zip(left_out) {
        let place = |dot: &WireDot| WireDot { actor: places[*run][dot.actor as usize], seq: dot.seq };
        let edit = |edit: &_| match edit {
            Edit::Write { supersedes, .. } if *by > 0 => {
                Edit::Elided { supersedes: supersedes.iter().map(place).collect(), by: *by }
            }
            whole => whole.map(place),
        };
        let op = Op { stamp: op.stamp - base, key: op.key, edits: op.edits.iter().map(edit).collect() };
        bytes = postcard::to_extend(&op, bytes).expect("an op of plain values always encodes");
    }
    let (actor, first, count) = (runs[0].actor.clone(), runs[0].first, ops.len() as u32);
    Run { actor, first, count, base: Stamp(base), actors, ops: bytes }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;
    use tidings_proto::Name;

    use super::*;

    fn actor(node: &str) -> Actor {
        Actor { node: Name::new(node).unwrap(), incarnation: 1 }
    }

    fn run(first: u64, base: u64, others: &[&str], ops: &[Op<'_, WireDot>]) -> Run {
        let bytes = ops.iter().fold(Vec::new(), |bytes, op| postcard::to_extend(op, bytes).unwrap());
        let actors = others.iter().map(|other| actor(other)).collect();
        Run { actor: actor("a"), first, count: ops.len() as u32, base: Stamp(base), actors, ops: bytes }
    }

    fn set<'a>(key: &'a [u8], over: &[(u32, u64)]) -> Op<'a, WireDot> {
        let supersedes = over.iter().map(|&(actor, seq)| WireDot { actor, seq }).collect();
        Op { stamp: 0, key, edits: smallvec![Edit::Write { supersedes, value: b"a value" }] }
    }

    fn bys(run: &Run) -> Vec<u64> {
        run.iter().map(|item| item.unwrap()).map(|(seq, op)| op.edits[0].reach(seq) - seq).collect()
    }

    #[test]
    fn what_a_later_op_of_the_message_has_superseded_goes_without_its_value() {
        let runs = vec![
            run(5, 10, &["b"], &[set(b"k", &[(1, 7), (0, 4)]), set(b"l", &[])]),
            run(7, 10, &["c", "b"], &[set(b"k", &[(0, 5), (2, 8)]), set(b"k", &[(0, 7), (1, 1)])]),
        ];
        let (sent, elided) = elide(runs.clone());
        assert_eq!((sent.len(), elided), (1, Elided { all: 2, onward: 0 }));
        let run = &sent[0];
        assert_eq!((run.first, run.count, bys(run)), (5, 4, vec![2, 0, 1, 0]));
        assert_eq!(run.actors, [actor("b"), actor("c")]);
        let dots: Vec<Vec<(u32, u64)>> = run
            .iter()
            .map(|item| item.unwrap().1.edits[0].overwrites().iter().map(|d| (d.actor, d.seq)).collect())
            .collect();
        assert_eq!(dots, [vec![(1, 7), (0, 4)], vec![], vec![(0, 5), (1, 8)], vec![(0, 7), (2, 1)]]);
        let (again, elided) = elide(sent.clone());
        assert_eq!((again, elided), (sent, Elided { all: 2, onward: 2 }));
    }

    #[test]
    fn nothing_is_left_out_without_reason() {
        let apart = vec![run(5, 10, &[], &[set(b"k", &[])]), run(7, 10, &[], &[set(b"k", &[(0, 5)])])];
        assert_eq!(elide(apart.clone()), (apart, Elided::default()), "not consecutive");
        let keys = vec![run(5, 10, &[], &[set(b"k", &[]), set(b"l", &[(0, 5)])])];
        assert_eq!(elide(keys.clone()), (keys, Elided::default()), "another key");
        let ahead = vec![run(5, 10, &[], &[set(b"k", &[(0, 6), (0, 5)]), set(b"k", &[(0, 6), (0, 900)])])];
        assert_eq!(elide(ahead.clone()), (ahead, Elided::default()), "what is not before");
        let back = vec![run(5, 10, &[], &[set(b"k", &[])]), run(6, 9, &[], &[set(b"k", &[(0, 5)])])];
        assert_eq!(elide(back.clone()), (back, Elided::default()), "stamps that go back");
    }

    #[test]
    fn a_bundle_is_read_whole_or_not_at_all() {
        let ops = [set(b"j", &[]), set(b"k", &[]), set(b"l", &[]), set(b"k", &[(0, 6)]), set(b"m", &[])];
        let (sent, _) = elide(vec![run(5, 10, &[], &ops)]);
        let part = |first, last, budget| {
            sent[0].part(first, last, budget).unwrap().map(|part| (part.first, part.last()))
        };
        assert_eq!(part(5, 7, 1 << 20), Some((5, 5)));
        assert_eq!(part(6, 6, 1), Some((6, 8)), "beyond both limits");
        assert_eq!(part(7, 7, 1), Some((7, 7)), "what is over for the reader binds it no more");
        assert_eq!(part(5, 9, 1 << 20), Some((5, 9)));
        let mut ops = sent[0].iter();
        ops.next();
        let (seq, op) = ops.next().unwrap().unwrap();
        assert_eq!(ops.bundle(seq, &op), Ok(8));
    }
}
