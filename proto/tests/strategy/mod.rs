//! Arbitrary values of the wire, all of them valid.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use tidings_proto::cell::{MemberState, ParkedState, ParkedTarget, Tally, VersionState};
use tidings_proto::message::{Member, PartSum, Pull, Push, Range, RangeParts, Stats, Sync};
use tidings_proto::{
    Actor, Baseline, Block, CellState, Counter, CounterState, Edit, Hello, KeyState, Message, Name, Op, Run,
    SeenDigest, SeenEntries, Stamp, StateDigest, WireDot,
};

/// An edit that owns its bytes.
#[derive(Debug, Clone)]
pub(crate) enum OwnEdit {
    Write(Vec<WireDot>, Vec<u8>),
    Erase(Vec<WireDot>),
    Add(Vec<u8>, Vec<WireDot>),
    Remove(Vec<u8>, Vec<WireDot>),
    Count(Counter, u64, u128, u128),
    Reset(Counter, Vec<Baseline<WireDot>>),
    Close(Counter, u64),
    Clear(Vec<WireDot>),
    Elided(Vec<WireDot>, u32),
}

/// An op that owns its bytes.
#[derive(Debug, Clone)]
pub(crate) struct OwnOp {
    stamp: u64,
    key: Vec<u8>,
    edits: Vec<OwnEdit>,
}

impl OwnOp {
    pub(crate) fn view(&self) -> Op<'_, WireDot> {
        let edits = self.edits.iter().map(|edit| match edit {
            OwnEdit::Write(dots, value) => Edit::Write { supersedes: dots.as_slice().into(), value },
            OwnEdit::Erase(dots) => Edit::Erase { dots: dots.as_slice().into() },
            OwnEdit::Add(element, dots) => Edit::Add { element, supersedes: dots.as_slice().into() },
            OwnEdit::Remove(element, dots) => Edit::Remove { element, dots: dots.as_slice().into() },
            &OwnEdit::Count(counter, birth, p, n) => Edit::Count { counter, birth, p, n },
            OwnEdit::Reset(counter, baselines) => {
                Edit::Reset { counter: *counter, baselines: baselines.iter().cloned().collect() }
            }
            &OwnEdit::Close(counter, birth) => Edit::Close { counter, birth },
            OwnEdit::Clear(dots) => Edit::Clear { upto: dots.as_slice().into() },
            OwnEdit::Elided(dots, by) => Edit::Elided { supersedes: dots.as_slice().into(), by: *by },
        });
        Op { stamp: self.stamp, key: &self.key, edits: edits.collect() }
    }
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9._-]{0,62}".prop_map(|text| Name::new(&text).unwrap())
}

pub(crate) fn actor() -> impl Strategy<Value = Actor> {
    (name(), any::<u64>()).prop_map(|(node, incarnation)| Actor { node, incarnation })
}

/// Numbers of every length on the wire.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(bits, shift)| bits >> shift)
}

fn seq() -> impl Strategy<Value = u64> {
    number().prop_map(|n| n.clamp(1, u64::MAX - 1))
}

fn sum() -> impl Strategy<Value = u128> {
    (any::<u128>(), 0..128_u32).prop_map(|(bits, shift)| bits >> shift)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn counter() -> impl Strategy<Value = Counter> {
    prop_oneof![Just(Counter::G), Just(Counter::Pn)]
}

fn sums() -> impl Strategy<Value = (Counter, u128, u128)> {
    (counter(), sum(), sum())
        .prop_map(|(counter, p, n)| (counter, p, if counter == Counter::G { 0 } else { n }))
}

/// The first op of a run has at least this number, so that its ops have a past.
const FIRST: u64 = 1_000;

/// A dot that an op of a run with `places` actors in its table may name.
fn op_dot(places: usize) -> impl Strategy<Value = WireDot> {
    (0..=places as u32, seq())
        .prop_map(|(actor, seq)| WireDot { actor, seq: if actor == 0 { seq.min(FIRST - 1) } else { seq } })
}

fn edit(places: usize) -> impl Strategy<Value = OwnEdit> {
    let dots = || vec(op_dot(places), 0..4);
    let baseline = (op_dot(places), sum(), sum()).prop_map(|(birth, p, n)| Baseline { birth, p, n });
    prop_oneof![
        dots().prop_map(OwnEdit::Erase),
        dots().prop_map(OwnEdit::Clear),
        (bytes(), dots()).prop_map(|(element, dots)| OwnEdit::Add(element, dots)),
        (bytes(), dots()).prop_map(|(element, dots)| OwnEdit::Remove(element, dots)),
        (sums(), 1..=FIRST).prop_map(|((counter, p, n), birth)| OwnEdit::Count(counter, birth, p, n)),
        vec(baseline, 0..3).prop_map(|baselines| OwnEdit::Reset(Counter::Pn, baselines)),
        (counter(), 1..=FIRST).prop_map(|(counter, birth)| OwnEdit::Close(counter, birth)),
    ]
}

fn op(places: usize) -> impl Strategy<Value = OwnOp> {
    let write = option::of((vec(op_dot(places), 0..4), bytes(), option::of(1..=4_u32)));
    (number(), bytes(), write, vec(edit(places), 0..4)).prop_map(|(stamp, key, write, mut edits)| {
        let mut added = BTreeSet::new();
        edits.retain(|edit| match edit {
            OwnEdit::Add(element, _) => added.insert(element.clone()),
            _ => true,
        });
        edits.extend(write.map(|(dots, value, by)| match by {
            None => OwnEdit::Write(dots, value),
            Some(by) => OwnEdit::Elided(dots, by),
        }));
        OwnOp { stamp: stamp >> 1, key, edits }
    })
}

/// Actors, each once.
fn actors(most: usize) -> impl Strategy<Value = Vec<Actor>> {
    btree_map(actor(), Just(()), 0..=most).prop_map(|actors| actors.into_keys().collect())
}

/// A run with the ops that it encodes.
pub(crate) fn run_and_ops() -> impl Strategy<Value = (Run, Vec<OwnOp>)> {
    (actor(), actors(3)).prop_flat_map(|(actor, mut table)| {
        table.retain(|other| *other != actor);
        let places = table.len();
        let first = seq().prop_map(|n| n.clamp(FIRST, u64::MAX - 10));
        (first, any::<u64>(), vec(op(places), 1..5)).prop_map(move |(first, base, ops)| {
            let bytes = ops.iter().flat_map(|op| postcard::to_stdvec(&op.view()).unwrap()).collect();
            let run = Run {
                actor: actor.clone(),
                first,
                count: ops.len() as u32,
                base: Stamp(base >> 1),
                actors: table.clone(),
                ops: bytes,
            };
            (run, ops)
        })
    })
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    vec(run_and_ops().prop_map(|(run, _)| run), 0..3)
}

pub(crate) fn entries() -> impl Strategy<Value = SeenEntries> {
    // Few nodes with several lives, so that grouping has something to group.
    let few = ("[ab]", any::<u64>())
        .prop_map(|(node, incarnation)| Actor { node: Name::new(&node).unwrap(), incarnation });
    btree_map(prop_oneof![actor(), few], seq(), 0..6)
        .prop_map(|seen| SeenEntries::from_sorted(seen.iter().map(|(actor, &seq)| (actor, seq))))
}

fn live(places: usize) -> impl Strategy<Value = Vec<WireDot>> {
    btree_map((0..places as u32, seq()), Just(()), 1..4)
        .prop_map(|dots| dots.into_keys().map(|(actor, seq)| WireDot { actor, seq }).collect())
}

fn cell(places: usize) -> impl Strategy<Value = CellState> {
    let versions = (live(places), any::<u64>(), bytes()).prop_map(|(dots, stamp, value)| {
        let version = |dot| VersionState { dot, stamp: Stamp(stamp), value: value.clone() };
        CellState::Register(dots.into_iter().map(version).collect())
    });
    let member =
        (bytes(), live(places)).prop_map(|(element, dots)| CellState::Member(MemberState { element, dots }));
    let tallies = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
    let part = (0..places as u32, sums(), seq(), seq(), tallies).prop_map(
        |(actor, (counter, p, n), born, reset, (contributes, has_baseline))| {
            CellState::Counter(CounterState {
                counter,
                actor,
                contribution: contributes.then_some(Tally { birth: born, p, n }),
                baseline: has_baseline.then_some(Tally { birth: reset, p, n }),
            })
        },
    );
    prop_oneof![versions, member, part]
}

pub(crate) fn block() -> impl Strategy<Value = Block> {
    actors(3).prop_flat_map(|actors| {
        let cells =
            if actors.is_empty() { Just(vec![]).boxed() } else { vec(cell(actors.len()), 0..4).boxed() };
        let keys = vec((bytes(), cells).prop_map(|(key, cells)| KeyState { key, cells }), 0..4);
        keys.prop_map(move |keys| Block { actors: actors.clone(), keys })
    })
}

fn addresses() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

pub(crate) fn hello() -> impl Strategy<Value = Hello> {
    (any::<(u16, u16)>(), name(), actor(), text(), addresses(), number(), any::<u64>()).prop_map(
        |((one, other), realm, actor, zone, addresses, clock, order)| Hello {
            versions: (one.min(other), one.max(other)),
            realm,
            actor,
            zone,
            addresses,
            clock,
            order,
        },
    )
}

fn ranges() -> impl Strategy<Value = Vec<Range>> {
    let range = (actor(), seq(), seq()).prop_map(|(actor, one, other)| Range {
        actor,
        first: one.min(other),
        last: one.max(other),
    });
    vec(range, 0..3)
}

fn pull() -> impl Strategy<Value = Pull> {
    let keys = vec(bytes().prop_map(ByteBuf::from), 0..4);
    prop_oneof![
        (number(), ranges()).prop_map(|(id, ranges)| Pull::Ops { id, ranges }),
        (number(), runs(), ranges(), any::<bool>()).prop_map(|(id, runs, missing, more)| Pull::Batch {
            id,
            runs,
            missing,
            more
        }),
        (number(), keys, number(), any::<bool>()).prop_map(|(id, keys, cursor, names_only)| Pull::Keys {
            id,
            keys,
            cursor,
            names_only
        }),
        (number(), block(), number()).prop_map(|(id, Block { actors, keys }, cursor)| Pull::Cells {
            id,
            actors,
            keys,
            cursor
        }),
    ]
}

fn parked() -> impl Strategy<Value = ParkedState> {
    let target = prop_oneof![
        Just(ParkedTarget::Register),
        bytes().prop_map(|element| ParkedTarget::Member(element.into())),
        Just(ParkedTarget::Set),
    ];
    (bytes(), target, actor(), seq()).prop_map(|(key, target, actor, seq)| ParkedState {
        key,
        target,
        actor,
        seq,
    })
}

fn state() -> impl Strategy<Value = StateDigest> {
    any::<[u8; 16]>().prop_map(StateDigest)
}

fn parts() -> impl Strategy<Value = RangeParts> {
    any::<u16>().prop_map(|present| {
        let sums = (0..present.count_ones()).map(|n| PartSum(u64::from(n) << 32 | u64::from(present)));
        RangeParts { present, sums: sums.collect() }
    })
}

fn numbers() -> impl Strategy<Value = Vec<u64>> {
    vec(1_u64..1 << 61, 0..4)
}

fn sync() -> impl Strategy<Value = Sync> {
    prop_oneof![
        (number(), any::<[u8; 16]>(), state(), option::of(entries()), any::<u32>()).prop_map(
            |(id, digest, state, entries, credit)| Sync::Syn {
                id,
                digest: SeenDigest(digest),
                state,
                entries,
                credit
            }
        ),
        (number(), option::of(entries()), option::of(state()), runs())
            .prop_map(|(id, entries, state, runs)| { Sync::Ack { id, entries, state, runs } }),
        (number(), runs()).prop_map(|(id, runs)| Sync::Ack2 { id, runs }),
        (number(), any::<bool>()).prop_map(|(id, guided)| Sync::Merge { id, guided }),
        (number(), entries(), vec(parked(), 0..3), any::<u64>())
            .prop_map(|(id, seen, parked, keys)| Sync::Context { id, seen, parked, keys }),
        (number(), any::<u32>()).prop_map(|(id, blocks)| Sync::Credit { id, blocks }),
        (number(), any::<u32>(), block()).prop_map(|(id, index, block)| Sync::Block {
            id,
            index,
            block: block.encode()
        }),
        (number(), any::<u32>(), any::<u32>()).prop_map(|(id, number, blocks)| Sync::End {
            id,
            number,
            blocks
        }),
        (number(), text()).prop_map(|(id, reason)| Sync::Abort { id, reason }),
        (number(), any::<u32>(), numbers()).prop_map(|(id, number, ranges)| Sync::Narrow {
            id,
            number,
            ranges
        }),
        (number(), any::<u32>(), vec(parts(), 0..3)).prop_map(|(id, number, parts)| Sync::Parts {
            id,
            number,
            parts
        }),
        (number(), any::<u32>(), numbers(), any::<bool>())
            .prop_map(|(id, number, ranges, lean)| { Sync::Fetch { id, number, ranges, lean } }),
        number().prop_map(|id| Sync::Done { id }),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let member =
        (name(), text(), addresses()).prop_map(|(node, zone, addresses)| Member { node, zone, addresses });
    let stats = prop_oneof![
        number().prop_map(|id| Stats::Ask { id }),
        (number(), vec((text(), number()), 0..3)).prop_map(|(id, figures)| Stats::Figures { id, figures }),
    ];
    prop_oneof![
        2 => (entries(), runs()).prop_map(|(have, runs)| Message::Push(Push { have, runs })),
        3 => pull().prop_map(Message::Pull),
        6 => sync().prop_map(Message::Sync),
        1 => stats.prop_map(Message::Stats),
        1 => vec(member, 0..4).prop_map(Message::Members),
        1 => Just(Message::Leave),
    ]
}
