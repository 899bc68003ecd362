//! Our types beside those of the `crdts` crate, on histories where that crate is
//! sound: ops in causal order, no deletes of counters. Equal after every step.

use crdts::{CmRDT, CvRDT, GCounter, LWWReg, Orswot, PNCounter, VClock, lwwreg, orswot, pncounter};
use proptest::prelude::*;
use tidings::core::replica::Replica;
use tidings::core::state::State;
use tidings::core::view::View;
use tidings::core::write::Write;
use tidings_proto::{Actor, Dot, Stamp};

use crate::dump::{Shown, shown};
use crate::world::{read, replica};

const KEY: &[u8] = b"key";

/// A type of that crate, written to in step with ours.
trait Reference: CmRDT<Op: Clone> + CvRDT + Clone + Default {
    /// The same write, as its op. `dot` and `stamp` are those of ours.
    fn write(&self, dot: Dot, stamp: Stamp, write: Write<'_>) -> <Self as CmRDT>::Op;
    /// What its readers see.
    fn shown(&self) -> Shown;
}

type Register = LWWReg<Vec<u8>, (Stamp, Option<Actor>, u64)>;

impl Reference for Register {
    fn write(&self, dot: Dot, stamp: Stamp, write: Write<'_>) -> Self {
        let Write::Set { value, .. } = write else { panic!("{write:?}") };
        lwwreg::LWWReg { val: value.to_vec(), marker: (stamp, Some(dot.actor), dot.counter) }
    }

    fn shown(&self) -> Shown {
        if self.marker.1.is_none() { Shown::Nothing } else { Shown::Bytes(self.val.clone()) }
    }
}

impl Reference for GCounter<Actor> {
    fn write(&self, dot: Dot, _: Stamp, write: Write<'_>) -> Dot {
        let Write::GIncrement { by, .. } = write else { panic!("{write:?}") };
        self.inc_many(dot.actor, by)
    }

    fn shown(&self) -> Shown {
        number(&self.read()).map_or(Shown::Nothing, Shown::GCounter)
    }
}

impl Reference for PNCounter<Actor> {
    fn write(&self, dot: Dot, _: Stamp, write: Write<'_>) -> pncounter::Op<Actor> {
        let Write::Increment { by, .. } = write else { panic!("{write:?}") };
        let many = if by < 0 { PNCounter::dec_many } else { PNCounter::inc_many };
        many(self, dot.actor, by.unsigned_abs())
    }

    fn shown(&self) -> Shown {
        number(&self.read()).map_or(Shown::Nothing, Shown::Integer)
    }
}

impl Reference for Orswot<Vec<u8>, Actor> {
    fn write(&self, dot: Dot, _: Stamp, write: Write<'_>) -> orswot::Op<Vec<u8>, Actor> {
        match write {
            Write::Add { elements, .. } => {
                orswot::Op::Add { dot, members: elements.iter().map(|e| e.to_vec()).collect() }
            }
            Write::Remove { elements, .. } => {
                self.rm(elements[0].to_vec(), self.contains(&elements[0].to_vec()).derive_rm_ctx())
            }
            // All at once: what it has seen of them, each removed by that.
            Write::Delete { .. } => {
                let clock = self.iter().fold(VClock::default(), |mut clock, member| {
                    CvRDT::merge(&mut clock, member.rm_clock);
                    clock
                });
                let members = self.iter().map(|member| member.val.clone()).collect();
                orswot::Op::Rm { clock, members }
            }
            _ => panic!("{write:?}"),
        }
    }

    fn shown(&self) -> Shown {
        let members = self.read().val;
        if members.is_empty() { Shown::Nothing } else { Shown::Members(members.into_iter().collect()) }
    }
}

/// That crate cannot tell a counter of nothing from none.
fn number(sum: &impl ToString) -> Option<i64> {
    Some(sum.to_string().parse().unwrap()).filter(|sum| *sum != 0)
}

fn ours(state: &State) -> Shown {
    match state.view(KEY) {
        Some(View::Integer(0) | View::GCounter(0)) => Shown::Nothing,
        _ => shown(state, KEY),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The node writes; the numbers say what.
    Write(usize, u8, i64),
    /// The next op of the second arrives at the first.
    Hear(usize, usize),
    /// The whole state of the second arrives at the first.
    Merge(usize, usize),
}

const NODES: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..NODES;
    let step = prop_oneof![
        3 => (node.clone(), any::<u8>(), -50..50_i64).prop_map(|(n, what, by)| Step::Write(n, what, by)),
        5 => (node.clone(), node.clone()).prop_map(|(to, from)| Step::Hear(to, from)),
        1 => (node.clone(), node).prop_map(|(to, from)| Step::Merge(to, from)),
    ];
    prop::collection::vec(step, 1..100)
}

struct Side<R: Reference> {
    replica: Replica,
    reference: R,
    /// Own ops: theirs, and what had been seen.
    ops: Vec<(<R as CmRDT>::Op, VClock<Actor>)>,
}

impl<R: Reference> Side<R> {
    fn write(&mut self, wall: u64, write: Write<'_>) {
        let (state, before) = (self.replica.state(), self.replica.own_seq());
        let (context, dot) = (state.seen_clock(), Dot::new(self.replica.actor().clone(), before + 1));
        self.replica.write(wall, write).unwrap();
        if self.replica.own_seq() == before {
            return;
        }
        let run = read(&self.replica, self.replica.own(), before + 1, before + 1).remove(0);
        let stamp = Stamp(run.base.0 + run.iter().next().unwrap().unwrap().1.stamp);
        let op = self.reference.write(dot, stamp, write);
        self.reference.apply(op.clone());
        self.ops.push((op, context));
    }

    fn check(&self) {
        assert_eq!(ours(self.replica.state()), self.reference.shown());
    }
}

/// Plays the steps on both sides. An op waits until what its author had seen is
/// there: an add of ours supersedes, one of an Orswot does not, so that with ops
/// between missing a removal there would name less.
fn play<R: Reference>(steps: &[Step], write: impl Fn(&mut Side<R>, u64, u8, i64)) {
    let mut sides: Vec<Side<R>> = (0..NODES)
        .map(|n| Side { replica: replica(n, 1 << 20), reference: R::default(), ops: Vec::new() })
        .collect();
    let hear = |sides: &mut [Side<R>], to: usize, from: usize, wall: u64| {
        let seen = sides[to].replica.state().seen_clock();
        let seq = seen.get(sides[from].replica.actor()) + 1;
        let Some((op, context)) = sides[from].ops.get(seq as usize - 1).cloned() else { return false };
        let has_seen_all = context <= seen;
        if !has_seen_all {
            return false;
        }
        let run = read(&sides[from].replica, sides[from].replica.own(), seq, seq).remove(0);
        assert_eq!(sides[to].replica.receive(&run, wall, |_| {}).applied, 1);
        sides[to].reference.apply(op);
        true
    };
    let mut wall = 1_000;
    for step in steps {
        wall += 1;
        let at = match *step {
            Step::Write(at, what, by) => {
                // Clocks differ, within what is followed.
                write(&mut sides[at], wall + 200 * at as u64, what, by);
                at
            }
            Step::Hear(to, from) => {
                hear(&mut sides, to, from, wall + 200 * to as u64);
                to
            }
            Step::Merge(to, from) if to != from => {
                let (staged, theirs) = (sides[from].replica.state().clone(), sides[from].reference.clone());
                let (seen, parked) = (staged.seen_entries(), sides[from].replica.parked_states());
                sides[to].replica.merge(&staged, seen, parked, Vec::new()).unwrap();
                CvRDT::merge(&mut sides[to].reference, theirs);
                to
            }
            Step::Merge(..) => continue,
        };
        sides[at].check();
    }
    let mut more = true;
    while std::mem::take(&mut more) {
        for (to, from) in (0..NODES).flat_map(|to| (0..NODES).map(move |from| (to, from))) {
            more |= hear(&mut sides, to, from, wall);
        }
    }
    for side in &sides {
        side.check();
        assert_eq!(side.reference.shown(), sides[0].reference.shown());
    }
}

fn write_set(side: &mut Side<Orswot<Vec<u8>, Actor>>, wall: u64, what: u8, by: i64) {
    let element = [b'a' + (by.rem_euclid(4)) as u8];
    let elements: &[&[u8]] = &[&element];
    match what % 8 {
        0..=4 => side.write(wall, Write::Add { key: KEY, elements }),
        5 | 6 => side.write(wall, Write::Remove { key: KEY, elements }),
        _ => side.write(wall, Write::Delete { key: KEY }),
    }
}

proptest! {
    #![proptest_config(crate::config(800))]

    #[test]
    fn registers_are_lww_registers(steps in steps()) {
        play::<Register>(&steps, |side, wall, what, by| {
            side.write(wall, Write::Set { key: KEY, value: format!("{what} {by}").as_bytes() });
        });
    }

    #[test]
    fn counters_that_grow_are_gcounters(steps in steps()) {
        play::<GCounter<Actor>>(&steps, |side, wall, _, by| {
            side.write(wall, Write::GIncrement { key: KEY, by: by.unsigned_abs() });
        });
    }

    #[test]
    fn counters_are_pncounters(steps in steps()) {
        play::<PNCounter<Actor>>(&steps, |side, wall, _, by| {
            side.write(wall, Write::Increment { key: KEY, by });
        });
    }

    #[test]
    fn sets_are_orswots(steps in steps()) {
        play(&steps, write_set);
    }
}
