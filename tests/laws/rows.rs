//! The rows of the semantics, one by one, each in every order in which the ops
//! can arrive and in every order in which the states can be merged.

use crdts::CmRDT;
use tidings::core::replica::Replica;
use tidings::core::state::State;
use tidings::core::table::HashKey;
use tidings::core::view::Kind;
use tidings::core::write::{Write, WriteError, Written};
use tidings_proto::op::Counter;
use tidings_proto::{Edit, Op, Run, Stamp, WireDot};

use crate::dump::{Dump, Shown, dump, shown};
use crate::world::{read, read_all, replica};

const KEY: &[u8] = b"key";
const WALL: u64 = 1_000_000;

/// A replica for a script to write by.
struct Author(Replica, u64);

impl Author {
    fn new(n: usize) -> Self {
        Self(replica(n, 1 << 20), WALL)
    }

    fn try_write(&mut self, write: Write<'_>) -> Result<Written, WriteError> {
        self.1 += 1;
        self.0.write(self.1, write)
    }

    fn write(&mut self, write: Write<'_>) -> Written {
        self.try_write(write).unwrap()
    }

    fn set(&mut self, value: &str) {
        assert_eq!(self.write(Write::Set { key: KEY, value: value.as_bytes() }), Written::Done);
    }

    fn delete(&mut self) {
        self.write(Write::Delete { key: KEY });
    }

    fn add(&mut self, element: &str) {
        self.write(Write::Add { key: KEY, elements: &[element.as_bytes()] });
    }

    fn remove(&mut self, element: &str) {
        self.write(Write::Remove { key: KEY, elements: &[element.as_bytes()] });
    }

    fn incr(&mut self, by: i64) {
        self.write(Write::Increment { key: KEY, by });
    }

    fn g_incr(&mut self, by: u64) {
        self.write(Write::GIncrement { key: KEY, by });
    }

    /// Hears all that another knows.
    fn hear(&mut self, other: &Author) {
        for run in read_all(&other.0) {
            assert_eq!(self.0.receive(&run, self.1, |_| {}).stopped, None);
        }
    }

    fn shown(&self) -> Shown {
        shown(self.0.state(), KEY)
    }
}

fn authors<const N: usize>() -> [Author; N] {
    std::array::from_fn(Author::new)
}

/// The state, checked, of one who has heard all: whatever the order.
fn outcome<const N: usize>(authors: [&Author; N]) -> State {
    let queues: Vec<Vec<Run>> = authors
        .iter()
        .map(|Author(replica, _)| {
            (1..=replica.own_seq()).flat_map(|seq| read(replica, replica.own(), seq, seq)).collect()
        })
        .collect();
    let fresh = State::new(HashKey(5, 6));
    let mut outcomes = Vec::new();
    interleave(&fresh, &queues, &mut vec![0; N], &mut outcomes);
    permute(&fresh, &authors.map(|author| author.0.state()), &mut outcomes);
    let dumps: Vec<Dump> = outcomes.iter().map(dump).collect();
    assert!(dumps.iter().all(|dump| *dump == dumps[0]), "the order matters");
    outcomes.swap_remove(0)
}

fn interleave(state: &State, queues: &[Vec<Run>], at: &mut Vec<usize>, outcomes: &mut Vec<State>) {
    let before = outcomes.len();
    for n in 0..queues.len() {
        if let Some(run) = queues[n].get(at[n]) {
            let mut next = state.clone();
            CmRDT::apply(&mut next, run.clone());
            at[n] += 1;
            interleave(&next, queues, at, outcomes);
            at[n] -= 1;
        }
    }
    if outcomes.len() == before {
        outcomes.push(state.clone());
    }
}

fn permute(state: &State, left: &[&State], outcomes: &mut Vec<State>) {
    if left.is_empty() {
        outcomes.push(state.clone());
    }
    for n in 0..left.len() {
        let mut next = state.clone();
        next.merge(left[n].clone()).unwrap();
        let rest: Vec<&State> = left.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, s)| *s).collect();
        permute(&next, &rest, outcomes);
    }
}

fn show<const N: usize>(authors: [&Author; N]) -> Shown {
    shown(&outcome(authors), KEY)
}

fn bytes(text: &str) -> Shown {
    Shown::Bytes(text.as_bytes().to_vec())
}

fn members<const N: usize>(elements: [&str; N]) -> Shown {
    Shown::Members(elements.iter().map(|element| element.as_bytes().to_vec()).collect())
}

fn versions(state: &State) -> Vec<&[u8]> {
    let mut values: Vec<&[u8]> =
        state.get(KEY).map_or(Vec::new(), |c| c.register().versions().iter().map(|v| &*v.value).collect());
    values.sort_unstable();
    values
}

#[test]
fn any_op_that_has_seen_the_other_wins_whatever_the_clocks() {
    let [mut a, mut b, mut c] = authors();
    a.1 += 3_600_000;
    a.set("first");
    b.hear(&a);
    b.set("second");
    let first = a.0.state().get(KEY).unwrap().register().versions()[0].stamp;
    let second = b.0.state().get(KEY).unwrap().register().versions()[0].stamp;
    assert!(second < first, "the clock of a is too far ahead to be followed");
    assert_eq!(show([&a, &b]), bytes("second"));
    c.hear(&b);
    c.delete();
    assert_eq!(show([&a, &b, &c]), Shown::Nothing);
    c.add("m");
    a.hear(&c);
    a.delete();
    assert_eq!(show([&a, &b, &c]), Shown::Nothing);
}

#[test]
fn register_set_against_set_has_one_winner_and_lists_both() {
    let [mut a, mut b, mut c] = authors();
    a.set("by a");
    b.set("by b");
    // Equal stamps: the actor decides.
    let state = outcome([&a, &b]);
    assert_eq!(shown(&state, KEY), bytes("by b"));
    assert_eq!(versions(&state), [&b"by a"[..], b"by b"]);
    assert_eq!(state.tallies().version_conflicts, 1);
    // The later stamp goes before the actor.
    a.set("by a again");
    assert_eq!(show([&a, &b]), bytes("by a again"));
    // Until a SET that saw them,
    c.hear(&a);
    c.hear(&b);
    c.set("by c");
    let state = outcome([&a, &b, &c]);
    assert_eq!(versions(&state), [b"by c"]);
    assert_eq!(state.tallies().version_conflicts, 0);
    // or a DEL that saw them.
    b.hear(&c);
    b.delete();
    assert_eq!(versions(&outcome([&a, &b, &c])), [b""; 0]);
}

#[test]
fn register_set_survives_a_concurrent_del() {
    let [mut a, mut b] = authors();
    a.set("old");
    b.hear(&a);
    a.delete();
    b.set("new");
    assert_eq!(show([&a, &b]), bytes("new"));
}

#[test]
fn counter_increments_add_up() {
    let [mut a, mut b, mut c] = authors();
    a.incr(5);
    b.incr(-7);
    c.incr(4);
    a.incr(1);
    assert_eq!(show([&a, &b, &c]), Shown::Integer(3));
}

#[test]
fn counter_del_takes_exactly_what_it_had_seen() {
    let [mut a, mut b, mut c] = authors();
    a.incr(5);
    b.incr(10);
    c.hear(&a);
    a.incr(2);
    c.delete();
    assert_eq!(show([&a, &b, &c]), Shown::Integer(12));
    // A second DEL that saw other things takes those.
    b.hear(&a);
    b.delete();
    assert_eq!(show([&a, &b, &c]), Shown::Nothing);
}

#[test]
fn counter_set_keeps_a_concurrent_increment() {
    let [mut a, mut b] = authors();
    a.incr(5);
    b.hear(&a);
    a.set("100");
    b.incr(3);
    assert_eq!(show([&a, &b]), Shown::Integer(103));
}

#[test]
fn counter_set_against_set_has_one_winner_and_no_increment_that_either_had_seen() {
    let [mut a, mut b, mut c] = authors();
    c.incr(1);
    a.hear(&c);
    c.incr(10);
    b.hear(&c);
    c.incr(100);
    a.set("1000");
    b.1 += 50;
    b.set("2000");
    assert_eq!(show([&a, &b, &c]), Shown::Integer(2100));
}

#[test]
fn counter_increment_after_a_del_ignores_late_arrivals_that_the_del_saw() {
    let [mut a, mut b, mut c, mut d] = authors();
    a.incr(5);
    a.incr(6);
    b.hear(&a);
    b.delete();
    b.incr(2);
    c.hear(&Author::of(&b));
    assert_eq!(c.shown(), Shown::Integer(2));
    assert_eq!(show([&a, &b]), Shown::Integer(2));
    // The owner goes on: a new life of its contribution, whose news may overtake the reset.
    a.hear(&b);
    a.incr(1);
    a.0.close_reset(WALL);
    a.incr(1);
    assert_eq!(show([&a, &b]), Shown::Integer(4));
    d.hear(&a);
    d.delete();
    assert_eq!(show([&a, &b, &d]), Shown::Nothing);
}

impl Author {
    /// One who passes on what `other` wrote itself, and not what it heard.
    fn of(other: &Author) -> Self {
        let mut passing = Author::new(9);
        for run in read(&other.0, other.0.own(), 1, other.0.own_seq()) {
            passing.0.receive(&run, WALL, |_| {});
        }
        passing
    }
}

#[test]
fn gcounter_takes_no_negative_increment() {
    let [mut a, mut b] = authors();
    a.g_incr(5);
    // No client can ask for one; a peer that sends one is refused and nothing changes.
    let op = Op::<WireDot> {
        stamp: 0,
        key: KEY,
        edits: [Edit::Count { counter: Counter::G, birth: 1, p: 0, n: 5 }].into_iter().collect(),
    };
    let run = Run {
        actor: b.0.actor().clone(),
        first: 1,
        count: 1,
        base: Stamp::from_millis(WALL),
        actors: Vec::new(),
        ops: postcard::to_stdvec(&op).unwrap(),
    };
    let before = dump(a.0.state());
    assert!(a.0.receive(&run, WALL, |_| {}).stopped.is_some());
    assert_eq!(dump(a.0.state()), before);
    // DEL resets.
    b.hear(&a);
    a.g_incr(1);
    b.delete();
    assert_eq!(show([&a, &b]), Shown::GCounter(1));
}

#[test]
fn set_add_wins_over_a_concurrent_remove() {
    let [mut a, mut b, mut c] = authors();
    a.add("m");
    b.hear(&a);
    b.remove("m");
    c.hear(&a);
    c.add("m");
    assert_eq!(show([&a, &b, &c]), members(["m"]));
    // Also by one who had it already.
    a.add("m");
    assert_eq!(show([&a, &b, &c]), members(["m"]));
}

#[test]
fn set_add_twice_is_present_once_and_removed_by_one_who_saw_both() {
    let [mut a, mut b, mut c] = authors();
    a.add("m");
    b.add("m");
    let state = outcome([&a, &b]);
    assert_eq!(shown(&state, KEY), members(["m"]));
    assert_eq!(state.tallies().members, 1);
    c.hear(&a);
    c.remove("m");
    assert_eq!(show([&a, &b, &c]), members(["m"]));
    let [_, _, mut c] = authors::<3>();
    c.hear(&a);
    c.hear(&b);
    c.remove("m");
    assert_eq!(show([&a, &b, &c]), Shown::Nothing);
}

#[test]
fn set_remove_twice_is_absent() {
    let [mut a, mut b, mut c] = authors();
    a.add("m");
    b.hear(&a);
    c.hear(&a);
    b.remove("m");
    c.remove("m");
    assert_eq!(show([&a, &b, &c]), Shown::Nothing);
}

#[test]
fn set_del_leaves_adds_that_it_had_not_seen() {
    let [mut a, mut b] = authors();
    a.add("seen");
    b.hear(&a);
    a.add("unseen");
    b.delete();
    assert_eq!(show([&a, &b]), members(["unseen"]));
}

#[test]
fn key_used_as_several_kinds_keeps_all_and_shows_one_by_rank() {
    let [mut a, mut b, mut c, mut d] = authors();
    a.g_incr(7);
    b.set("text");
    c.add("m");
    let state = outcome([&a, &b]);
    assert_eq!(shown(&state, KEY), bytes("text"));
    assert_eq!(state.tallies().kind_conflicts, 1);
    let state = outcome([&a, &b, &c]);
    assert_eq!(shown(&state, KEY), members(["m"]));
    assert_eq!((state.tallies().keys, state.tallies().kind_conflicts), (1, 1));
    let kinds: Vec<Kind> = state.get(KEY).unwrap().kinds().collect();
    assert_eq!(kinds, [Kind::OrSet, Kind::LwwRegister, Kind::GCounter]);
    // A command of another kind than the visible one is refused.
    d.hear(&a);
    d.hear(&b);
    d.hear(&c);
    for write in [Write::Increment { key: KEY, by: 1 }, Write::GIncrement { key: KEY, by: 1 }] {
        assert_eq!(d.try_write(write), Err(WriteError::WrongKind(Kind::OrSet)));
    }
    // Losing the visible kind shows the next.
    d.remove("m");
    assert_eq!(show([&a, &b, &c, &d]), bytes("text"));
    let add = Write::Add { key: KEY, elements: &[b"m"] };
    assert_eq!(d.try_write(add), Err(WriteError::WrongKind(Kind::LwwRegister)));
    d.delete();
    assert_eq!(show([&a, &b, &c, &d]), Shown::Nothing);
    // A SET makes a string of it, whatever it was.
    let [_, _, _, mut d] = authors::<4>();
    d.hear(&a);
    d.hear(&c);
    d.set("string");
    c.add("unseen");
    assert_eq!(show([&a, &c, &d]), members(["unseen"]));
}

#[test]
fn string_is_the_integer_in_the_register_plus_the_counter() {
    let [mut a, mut b] = authors();
    a.set("10");
    b.hear(&a);
    a.incr(1);
    b.incr(1);
    assert_eq!(show([&a, &b]), Shown::Integer(12));
    // A register that holds no integer hides a concurrent counter.
    b.hear(&a);
    b.set("text");
    a.incr(1);
    let state = outcome([&a, &b]);
    assert_eq!(shown(&state, KEY), bytes("text"));
    assert!(state.get(KEY).unwrap().kinds().any(|kind| kind == Kind::PnCounter));
    a.hear(&b);
    assert_eq!(a.try_write(Write::Increment { key: KEY, by: 1 }), Err(WriteError::NotAnInteger));
    a.delete();
    assert_eq!(show([&a, &b]), Shown::Nothing);
}

#[test]
fn sums_beyond_64_bits_are_refused_to_writers_and_shown_clamped_when_merged() {
    let [mut a, mut b] = authors();
    a.incr(i64::MAX);
    assert_eq!(a.try_write(Write::Increment { key: KEY, by: 1 }), Err(WriteError::Overflow));
    b.incr(i64::MAX);
    assert_eq!(show([&a, &b]), Shown::Integer(i64::MAX));
    b.hear(&a);
    // Nothing was lost by the clamping.
    b.incr(-i64::MAX);
    b.incr(-i64::MAX + 5);
    assert_eq!(show([&a, &b]), Shown::Integer(5));
    let [mut a, mut b] = authors();
    a.incr(i64::MIN);
    b.incr(i64::MIN);
    assert_eq!(show([&a, &b]), Shown::Integer(i64::MIN));
}

#[test]
fn delete_of_an_absent_key_changes_nothing_and_is_no_error() {
    let [mut a, mut b] = authors();
    assert_eq!(a.write(Write::Delete { key: KEY }), Written::Removed(false));
    assert_eq!(a.write(Write::Remove { key: KEY, elements: &[b"m"] }), Written::Count(0));
    assert_eq!(a.0.own_seq(), 0);
    b.set("x");
    assert_eq!(b.write(Write::Delete { key: KEY }), Written::Removed(true));
    assert_eq!(b.write(Write::Delete { key: KEY }), Written::Removed(false));
    assert_eq!(b.0.own_seq(), 2);
}

#[test]
fn increment_by_zero_creates_a_key_of_zero() {
    let [mut a, mut b] = authors();
    a.incr(0);
    assert_eq!(show([&a, &b]), Shown::Integer(0));
    b.hear(&a);
    b.delete();
    assert_eq!(show([&a, &b]), Shown::Nothing);
}
