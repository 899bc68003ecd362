//! Everything over its bound by one is refused by name, and everything at its
//! bound is not; everything that cannot be meant is refused as malformed.

use serde::Serialize;
use serde_bytes::ByteBuf;
use smallvec::{SmallVec, smallvec};
use tidings_proto::block::{BlockItem, BlockReader, BlockWriter, CellRef};
use tidings_proto::cell::{MemberState, ParkedState, ParkedTarget, Tally, VersionState};
use tidings_proto::message::{Member, PartSum, Pull, Push, Range, RangeParts, Stats, Sync, common_version};
use tidings_proto::seen::{Life, NodeEntries};
use tidings_proto::{
    Actor, Baseline, Block, CellState, Counter, CounterState, DecodeError, Edit, Hello, KeyState, Lane,
    Message, Name, Op, Run, SeenDigest, SeenEntries, Stamp, StateDigest, WireDot, bounds, frame,
};

fn actor(incarnation: u64) -> Actor {
    Actor { node: Name::new("a").unwrap(), incarnation }
}

fn actors(count: usize) -> Vec<Actor> {
    (1..=count as u64).map(actor).collect()
}

fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

/// Refused because `what` is over its bound.
#[track_caller]
fn oversized<T: std::fmt::Debug>(what: &str, result: Result<T, DecodeError>) {
    match result {
        Err(DecodeError::Oversized { what: found, size, bound }) => {
            assert_eq!(found, what);
            assert!(size > bound);
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

/// Refused because `what` makes no sense.
#[track_caller]
fn malformed<T>(what: &str, result: Result<T, DecodeError>) {
    match result {
        Err(DecodeError::Malformed { what: found, .. }) => assert_eq!(found, what),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

/// The message that `make` makes is accepted at the bound and refused over it.
#[track_caller]
fn at_most(what: &str, bound: usize, make: impl Fn(usize) -> Message) {
    let read = |size| frame::decode_message(&bytes(&make(size)));
    if let Err(error) = read(bound) {
        panic!("{what} at its bound: {error}");
    }
    oversized(what, read(bound + 1));
}

fn read_message(message: &Message) -> Result<Message, DecodeError> {
    frame::decode_message(&bytes(message))
}

fn run(count: u32) -> Run {
    Run { actor: actor(0), first: 10, count, base: Stamp(0), actors: vec![], ops: vec![] }
}

fn push(runs: Vec<Run>) -> Message {
    Message::Push(Push { have: SeenEntries::default(), runs })
}

fn seen(lives: usize) -> SeenEntries {
    let lives = (1..=lives as u64).map(|incarnation| Life { incarnation, seq: 1 }).collect();
    SeenEntries(vec![NodeEntries { node: Name::new("a").unwrap(), lives }])
}

#[test]
fn frames_are_bounded_by_lane_before_they_are_read() {
    for (lane, limit) in [(Lane::News, bounds::NEWS_FRAME), (Lane::Bulk, bounds::BULK_FRAME)] {
        assert_eq!(frame::length((limit as u32).to_le_bytes(), lane), Ok(limit));
        oversized("frame", frame::length((limit as u32 + 1).to_le_bytes(), lane));
    }
    oversized("hello", frame::decode_hello(&vec![0; bounds::HELLO_FRAME + 1]));
    oversized("block", Block::decode(&vec![0; bounds::BULK_FRAME + 1]));
    malformed("message", frame::decode_message(&[]));
    malformed("message", frame::decode_message(&[6]));
}

#[test]
fn bytes_after_a_value_are_refused() {
    let trailing = |what, left| Err(DecodeError::Trailing { what, left });
    assert_eq!(frame::decode_message(&[5, 0, 0]).map(drop), trailing("message", 2));
    malformed("block", Block::decode(&[0, 0x80]));
    let hello = [bytes(&hello()), vec![0]].concat();
    assert_eq!(frame::decode_hello(&hello).map(drop), trailing("hello", 1));
}

fn hello() -> Hello {
    let realm = Name::new("r").unwrap();
    Hello {
        versions: (1, 1),
        realm,
        actor: actor(1),
        zone: String::new(),
        addresses: vec![],
        clock: 0,
        order: 0,
    }
}

#[test]
fn hello_is_bounded() {
    let read = |hello: Hello| frame::decode_hello(&bytes(&hello));
    let text = |more| "x".repeat(bounds::TEXT + more);
    assert!(read(Hello { zone: text(0), addresses: vec![text(0); bounds::ADDRESSES], ..hello() }).is_ok());
    oversized("zone", read(Hello { zone: text(1), ..hello() }));
    oversized("address", read(Hello { addresses: vec![text(1)], ..hello() }));
    oversized("addresses", read(Hello { addresses: vec![String::new(); bounds::ADDRESSES + 1], ..hello() }));
    malformed("hello", read(Hello { versions: (2, 1), ..hello() }));
}

#[test]
fn the_highest_common_version_is_spoken() {
    assert_eq!(common_version((1, 1), (1, 1)), Some(1));
    assert_eq!(common_version((1, 3), (2, 5)), Some(3));
    assert_eq!(common_version((4, 6), (2, 5)), Some(5));
    assert_eq!(common_version((1, 2), (3, 4)), None);
    assert_eq!(common_version((3, 4), (1, 2)), None);
}

#[test]
fn messages_are_bounded() {
    let text = |size| "x".repeat(size);
    let range = Range { actor: actor(1), first: 1, last: 1 };
    let have = |lives| Message::Push(Push { have: seen(lives), runs: vec![] });
    let digest = SeenDigest([0; 16]);
    let member =
        |zone, addresses| Message::Members(vec![Member { node: Name::new("a").unwrap(), zone, addresses }]);

    at_most("runs", bounds::RUNS, |n| push(vec![run(1); n]));
    at_most("version vector", bounds::SEEN, have);
    at_most("version vector", bounds::SEEN, |n| {
        Message::Sync(Sync::Syn {
            id: 1,
            digest,
            state: StateDigest([0; 16]),
            entries: Some(seen(n)),
            credit: 0,
        })
    });
    at_most("version vector", bounds::SEEN, |n| {
        Message::Sync(Sync::Ack { id: 1, entries: Some(seen(n)), state: None, runs: vec![] })
    });
    at_most("runs", bounds::RUNS, |n| {
        Message::Sync(Sync::Ack { id: 1, entries: None, state: None, runs: vec![run(1); n] })
    });
    at_most("runs", bounds::RUNS, |n| Message::Sync(Sync::Ack2 { id: 1, runs: vec![run(1); n] }));
    at_most("version vector", bounds::SEEN, |n| {
        Message::Sync(Sync::Context { id: 1, seen: seen(n), parked: vec![], keys: 0 })
    });
    at_most("parked removals", bounds::PARKED, |n| {
        let parked = ParkedState { key: vec![], target: ParkedTarget::Set, actor: actor(1), seq: 1 };
        Message::Sync(Sync::Context { id: 1, seen: seen(1), parked: vec![parked; n], keys: 0 })
    });
    at_most("ranges", bounds::NARROW, |n| {
        Message::Sync(Sync::Narrow { id: 1, number: 1, ranges: vec![1; n] })
    });
    at_most("ranges", bounds::FETCH, |n| {
        Message::Sync(Sync::Fetch { id: 1, number: 1, ranges: vec![1; n], lean: false })
    });
    let none = RangeParts { present: 0, sums: vec![] };
    at_most("ranges", bounds::NARROW, |n| {
        Message::Sync(Sync::Parts { id: 1, number: 1, parts: vec![none.clone(); n] })
    });
    for number in [0, 1 << 61, u64::MAX] {
        malformed(
            "ranges",
            read_message(&Message::Sync(Sync::Narrow { id: 1, number: 1, ranges: vec![number] })),
        );
        malformed(
            "ranges",
            read_message(&Message::Sync(Sync::Fetch { id: 1, number: 1, ranges: vec![number], lean: false })),
        );
    }
    let lying = RangeParts { present: 0b11, sums: vec![PartSum(1)] };
    malformed("parts", read_message(&Message::Sync(Sync::Parts { id: 1, number: 1, parts: vec![lying] })));
    at_most("reason", bounds::TEXT, |n| Message::Sync(Sync::Abort { id: 1, reason: text(n) }));
    at_most("ranges", bounds::SEEN, |n| Message::Pull(Pull::Ops { id: 1, ranges: vec![range.clone(); n] }));
    at_most("ranges", bounds::SEEN, |n| {
        Message::Pull(Pull::Batch { id: 1, runs: vec![], missing: vec![range.clone(); n], more: false })
    });
    at_most("runs", bounds::RUNS, |n| {
        Message::Pull(Pull::Batch { id: 1, runs: vec![run(1); n], missing: vec![], more: false })
    });
    let keys = |keys| Message::Pull(Pull::Keys { id: 1, keys, cursor: 0, names_only: false });
    at_most("keys", bounds::PULL_KEYS, |n| keys(vec![ByteBuf::new(); n]));
    at_most("key", bounds::KEY, |n| keys(vec![ByteBuf::from(vec![0; n])]));
    let figures = |figures| Message::Stats(Stats::Figures { id: 1, figures });
    at_most("figures", bounds::FIGURES, |n| figures(vec![(String::new(), 0); n]));
    at_most("figure name", bounds::TEXT, |n| figures(vec![(text(n), 0)]));
    at_most("members", bounds::MEMBERS, |n| {
        let node = Name::new("a").unwrap();
        Message::Members(vec![Member { node, zone: String::new(), addresses: vec![] }; n])
    });
    at_most("zone", bounds::TEXT, |n| member(text(n), vec![]));
    at_most("addresses", bounds::ADDRESSES, |n| member(String::new(), vec![String::new(); n]));
    at_most("address", bounds::TEXT, |n| member(String::new(), vec![text(n)]));
}

#[test]
fn a_version_vector_is_in_order_and_without_zeros() {
    let node = |text: &str, lives: &[(u64, u64)]| NodeEntries {
        node: Name::new(text).unwrap(),
        lives: lives.iter().map(|&(incarnation, seq)| Life { incarnation, seq }).collect(),
    };
    for entries in [
        vec![node("a", &[])],
        vec![node("b", &[(1, 1)]), node("a", &[(1, 1)])],
        vec![node("a", &[(1, 1)]), node("a", &[(2, 1)])],
        vec![node("a", &[(2, 1), (1, 1)])],
        vec![node("a", &[(1, 1), (1, 2)])],
        vec![node("a", &[(1, 0)])],
        vec![node("a", &[(1, u64::MAX)])],
    ] {
        let have = SeenEntries(entries);
        malformed("version vector", read_message(&Message::Push(Push { have, runs: vec![] })));
    }
}

#[test]
fn ranges_are_not_empty_and_leave_room_for_a_next_number() {
    for (first, last) in [(0, 1), (2, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let ranges = vec![Range { actor: actor(1), first, last }];
        malformed("range", read_message(&Message::Pull(Pull::Ops { id: 1, ranges })));
    }
}

#[test]
fn run_headers_are_checked() {
    at_most("run", bounds::RUN_OPS, |n| push(vec![run(n as u32)]));
    at_most("actor table", bounds::ACTORS, |n| push(vec![Run { actors: actors(n), ..run(1) }]));
    malformed("run", read_message(&push(vec![run(0)])));
    malformed("run", read_message(&push(vec![Run { first: 0, ..run(1) }])));
    malformed("run", read_message(&push(vec![Run { first: u64::MAX - 1, ..run(2) }])));
    assert!(read_message(&push(vec![Run { first: u64::MAX - 2, ..run(2) }])).is_ok());
    malformed("actor table", read_message(&push(vec![Run { actors: vec![actor(0)], ..run(1) }])));
    malformed("actor table", read_message(&push(vec![Run { actors: vec![actor(1), actor(1)], ..run(1) }])));
}

/// Reads an op with these edits as number 10 of an actor, in a run whose table holds two others.
fn read_op(edits: Vec<Edit<'_, WireDot>>) -> Result<(), DecodeError> {
    read_ops(bytes(&Op { stamp: 0, key: b"k", edits: edits.into() }), 1, Stamp(0))
}

fn read_ops(ops: Vec<u8>, count: u32, base: Stamp) -> Result<(), DecodeError> {
    let run = Run { actors: actors(2), ops, base, ..run(count) };
    run.check().unwrap();
    run.iter().try_for_each(|op| op.map(drop))
}

fn dot(actor: u32, seq: u64) -> WireDot {
    WireDot { actor, seq }
}

#[test]
fn ops_are_bounded() {
    let key =
        |n| read_ops(bytes(&Op::<WireDot> { stamp: 0, key: &vec![0; n], edits: smallvec![] }), 1, Stamp(0));
    assert_eq!(key(bounds::KEY), Ok(()));
    oversized("key", key(bounds::KEY + 1));

    let value = |n| read_op(vec![Edit::Write { supersedes: smallvec![], value: &vec![0; n] }]);
    assert_eq!(value(bounds::VALUE), Ok(()));
    oversized("value", value(bounds::VALUE + 1));

    let element = vec![0; bounds::ELEMENT + 1];
    let add = |element| read_op(vec![Edit::Add { element, supersedes: smallvec![] }]);
    let remove = |element| read_op(vec![Edit::Remove { element, dots: smallvec![] }]);
    assert_eq!(add(&element[1..]), Ok(()));
    assert_eq!(remove(&element[1..]), Ok(()));
    oversized("element", add(&element));
    oversized("element", remove(&element));

    let edits = |n| read_op(vec![Edit::Erase { dots: smallvec![] }; n]);
    assert_eq!(edits(bounds::EDITS), Ok(()));
    oversized("edits", edits(bounds::EDITS + 1));

    for make in [
        |dots| Edit::Erase { dots },
        |dots| Edit::Remove { element: b"", dots },
        |dots| Edit::Add { element: b"", supersedes: dots },
        |dots| Edit::Write { supersedes: dots, value: b"" },
    ] {
        let dots = |n| read_op(vec![make(SmallVec::from_elem(dot(1, 1), n))]);
        assert_eq!(dots(bounds::DOTS), Ok(()));
        oversized("dots", dots(bounds::DOTS + 1));
    }
    let baseline = Baseline { birth: dot(1, 1), p: 1, n: 0 };
    let baselines = |n| {
        let baselines = SmallVec::from_elem(baseline.clone(), n);
        read_op(vec![Edit::Reset { counter: Counter::G, baselines }])
    };
    assert_eq!(baselines(bounds::DOTS), Ok(()));
    oversized("baselines", baselines(bounds::DOTS + 1));

    let element = vec![0; bounds::ELEMENT];
    let whole = |n| read_op(vec![Edit::Remove { element: &element, dots: smallvec![] }; n]);
    assert_eq!(whole(bounds::OP / (bounds::ELEMENT + 10)), Ok(()));
    oversized("op", whole(bounds::OP / bounds::ELEMENT + 1));
}

#[test]
fn dots_that_cannot_exist_are_refused() {
    let refused = |dot: WireDot| {
        malformed("op", read_op(vec![Edit::Write { supersedes: smallvec![dot], value: b"" }]));
        malformed("op", read_op(vec![Edit::Erase { dots: smallvec![dot] }]));
        malformed("op", read_op(vec![Edit::Add { element: b"", supersedes: smallvec![dot] }]));
        malformed("op", read_op(vec![Edit::Remove { element: b"", dots: smallvec![dot] }]));
        let baselines = smallvec![Baseline { birth: dot, p: 1, n: 0 }];
        malformed("op", read_op(vec![Edit::Reset { counter: Counter::Pn, baselines }]));
    };
    refused(dot(3, 1)); // Beyond the table.
    refused(dot(u32::MAX, 1));
    refused(dot(1, 0));
    refused(dot(1, u64::MAX));
    refused(dot(0, 0));
    refused(dot(0, 10)); // The op itself.
    refused(dot(0, 11));
    assert_eq!(read_op(vec![Edit::Erase { dots: smallvec![dot(0, 9), dot(2, u64::MAX - 1)] }]), Ok(()));
}

#[test]
fn births_are_in_the_past_or_now() {
    for counter in [Counter::G, Counter::Pn] {
        for (birth, fits) in [(0, false), (1, true), (10, true), (11, false), (u64::MAX, false)] {
            let count = read_op(vec![Edit::Count { counter, birth, p: 1, n: 0 }]);
            let close = read_op(vec![Edit::Close { counter, birth }]);
            assert_eq!((count.is_ok(), close.is_ok()), (fits, fits), "birth {birth}");
        }
    }
}

#[test]
fn ops_that_contradict_themselves_are_refused() {
    let write = || Edit::Write { supersedes: smallvec![], value: b"v" };
    malformed("op", read_op(vec![write(), write()]));
    let add = |element| Edit::Add { element, supersedes: smallvec![] };
    malformed("op", read_op(vec![add(b"e"), add(b"f"), add(b"e")]));
    assert_eq!(read_op(vec![add(b"e"), write(), add(b"f")]), Ok(()));

    malformed("op", read_op(vec![Edit::Count { counter: Counter::G, birth: 1, p: 1, n: 1 }]));
    let baselines: SmallVec<[_; 1]> = smallvec![Baseline { birth: dot(1, 1), p: 1, n: 1 }];
    malformed("op", read_op(vec![Edit::Reset { counter: Counter::G, baselines: baselines.clone() }]));
    assert_eq!(read_op(vec![Edit::Reset { counter: Counter::Pn, baselines }]), Ok(()));
}

/// What comes of looking for the bundle that the first of these ops begins.
fn read_bundle(ops: &[Op<'_, WireDot>]) -> Result<u64, DecodeError> {
    let bytes = ops.iter().flat_map(bytes).collect();
    let run = Run { ops: bytes, ..run(ops.len() as u32) };
    let mut ops = run.iter();
    let (seq, op) = ops.next().unwrap()?;
    ops.bundle(seq, &op)
}

#[test]
fn values_are_left_out_only_beside_what_superseded_them() {
    let large = vec![1; bounds::BUNDLE];
    let op = |key, edit| Op { stamp: 0, key, edits: smallvec![edit] };
    let elided = |over: &[WireDot], by| Edit::Elided { supersedes: over.into(), by };
    let write = |over: &[WireDot]| Edit::Write { supersedes: over.into(), value: b"v" };
    let first = run(1).first;
    let (one, two) = (dot(0, first), dot(0, first + 1));
    assert_eq!(read_bundle(&[op(b"k", elided(&[], 1)), op(b"k", write(&[one]))]), Ok(first + 1));
    assert_eq!(
        read_bundle(&[
            op(b"k", elided(&[], 2)),
            op(b"l", elided(&[], 2)),
            op(b"k", Edit::Erase { dots: smallvec![one] }),
            op(b"l", write(&[two])),
            op(b"m", write(&[])),
        ]),
        Ok(first + 3),
        "they overlap"
    );
    let chain = [op(b"k", elided(&[], 1)), op(b"k", elided(&[one], 1)), op(b"k", write(&[two]))];
    assert_eq!(read_bundle(&chain), Ok(first + 2));
    malformed("run", read_bundle(&chain[..2]));
    malformed("run", read_bundle(&[op(b"k", elided(&[], 1)), op(b"k", write(&[]))]));
    malformed("run", read_bundle(&[op(b"k", elided(&[], 1)), op(b"l", write(&[one]))]));
    let back = [Op { stamp: 1, ..op(b"k", elided(&[], 1)) }, op(b"k", write(&[one]))];
    malformed("run", read_bundle(&back));
    malformed("op", read_op(vec![elided(&[], 0)]));
    malformed("op", read_op(vec![elided(&[], 1), write(&[])]));
    let over = Op {
        stamp: 0,
        key: b"k",
        edits: smallvec![Edit::Write { supersedes: smallvec![one], value: &large }],
    };
    oversized("bundle", read_bundle(&[op(b"k", elided(&[], 1)), over]));
}

#[test]
fn a_run_is_as_long_as_it_says() {
    let op = bytes(&Op::<WireDot> { stamp: 5, key: b"k", edits: smallvec![] });
    assert_eq!(read_ops(op.repeat(2), 2, Stamp(0)), Ok(()));
    malformed("op", read_ops(op.clone(), 2, Stamp(0)));
    let trailing = Err(DecodeError::Trailing { what: "run", left: op.len() });
    assert_eq!(read_ops(op.repeat(3), 2, Stamp(0)), trailing);
    assert_eq!(read_ops(op.clone(), 1, Stamp(u64::MAX - 5)), Ok(()));
    malformed("op", read_ops(op, 1, Stamp(u64::MAX - 4)));
}

#[test]
fn nothing_follows_an_error_in_a_run() {
    let good = bytes(&Op::<WireDot> { stamp: 0, key: b"k", edits: smallvec![] });
    let run = Run { ops: [good, vec![0, 0, 1, 99]].concat(), ..run(3) };
    let read: Vec<bool> = run.iter().map(|op| op.is_ok()).collect();
    assert_eq!(read, [true, false]);
}

/// Reads cells as a block and as an answer; both must find the same.
fn read_cells(actors: Vec<Actor>, keys: Vec<KeyState>) -> Result<(), DecodeError> {
    let block = Block { actors: actors.clone(), keys: keys.clone() };
    let read = Block::decode(&block.encode()).map(drop);
    let answer = read_message(&Message::Pull(Pull::Cells { id: 1, actors, keys, cursor: 0 })).map(drop);
    assert_eq!(read, answer);
    read
}

fn read_cell(cell: CellState) -> Result<(), DecodeError> {
    read_cells(actors(2), vec![KeyState { key: b"k".to_vec(), cells: vec![cell] }])
}

fn register(dots: &[WireDot]) -> CellState {
    let version = |&dot| VersionState { dot, stamp: Stamp(0), value: vec![] };
    CellState::Register(dots.iter().map(version).collect())
}

fn element(element: Vec<u8>, dots: &[WireDot]) -> CellState {
    CellState::Member(MemberState { element, dots: dots.to_vec() })
}

#[test]
fn cells_are_bounded() {
    let key = |n| read_cells(vec![], vec![KeyState { key: vec![0; n], cells: vec![] }]);
    assert_eq!(key(bounds::KEY), Ok(()));
    oversized("key", key(bounds::KEY + 1));
    assert_eq!(read_cells(actors(bounds::ACTORS), vec![]), Ok(()));
    oversized("actor table", read_cells(actors(bounds::ACTORS + 1), vec![]));
    malformed("actor table", read_cells(vec![actor(1), actor(1)], vec![]));

    let value = |n| {
        read_cell(CellState::Register(vec![VersionState {
            dot: dot(0, 1),
            stamp: Stamp(0),
            value: vec![0; n],
        }]))
    };
    assert_eq!(value(bounds::VALUE), Ok(()));
    oversized("value", value(bounds::VALUE + 1));
    assert_eq!(read_cell(element(vec![0; bounds::ELEMENT], &[dot(0, 1)])), Ok(()));
    oversized("element", read_cell(element(vec![0; bounds::ELEMENT + 1], &[dot(0, 1)])));

    let dots: Vec<_> = (1..=bounds::DOTS as u64 + 1).map(|seq| dot(1, seq)).collect();
    assert_eq!(read_cell(element(vec![], &dots[1..])), Ok(()));
    oversized("dots", read_cell(element(vec![], &dots)));
    assert_eq!(read_cell(register(&dots[1..])), Ok(()));
    oversized("versions", read_cell(register(&dots)));

    let parked = |key, target| {
        let parked = vec![ParkedState { key: vec![0; key], target, actor: actor(1), seq: 1 }];
        Message::Sync(Sync::Context { id: 1, seen: seen(1), parked, keys: 0 })
    };
    at_most("key", bounds::KEY, |n| parked(n, ParkedTarget::Register));
    at_most("element", bounds::ELEMENT, |n| parked(0, ParkedTarget::Member(ByteBuf::from(vec![0; n]))));
}

#[test]
fn cells_that_cannot_exist_are_refused() {
    for cell in [|dots: &[WireDot]| register(dots), |dots: &[WireDot]| element(vec![], dots)] {
        malformed("cell", read_cell(cell(&[])));
        malformed("cell", read_cell(cell(&[dot(2, 1)])));
        malformed("cell", read_cell(cell(&[dot(0, 0)])));
        malformed("cell", read_cell(cell(&[dot(0, u64::MAX)])));
        malformed("cell", read_cell(cell(&[dot(0, 1), dot(1, 1), dot(0, 1)])));
        assert_eq!(read_cell(cell(&[dot(0, 1), dot(1, 1), dot(0, 2)])), Ok(()));
    }
    for seq in [0, u64::MAX] {
        let parked = vec![ParkedState { key: vec![], target: ParkedTarget::Set, actor: actor(1), seq }];
        malformed(
            "parked removal",
            read_message(&Message::Sync(Sync::Context { id: 1, seen: seen(1), parked, keys: 0 })),
        );
    }
}

/// What stands in a block after an empty table of actors, or one of a single actor.
fn packed(actors: u8, cells: &[u8]) -> Result<(), DecodeError> {
    let table = bytes(&(1..=u64::from(actors)).map(actor).collect::<Vec<_>>());
    Block::decode(&[&table, cells].concat()).map(drop)
}

#[test]
fn blocks_that_say_nothing_are_refused() {
    const KEY: [u8; 3] = [0b111, 1, b'k'];
    assert_eq!(packed(0, &KEY), Ok(()));
    let after_key = |cell: &[u8]| packed(1, &[&KEY, cell].concat());
    // An element "e" by the actor's first write; then what is wrong with it.
    assert_eq!(after_key(&[0b1_1001, 1, b'e', 2]), Ok(()));
    malformed("block", packed(1, &[0b1_1001, 1, b'e', 2]));
    for unknown in [0b1000_0000, 0b0100_0000, 0b0010_0000] {
        malformed("block", after_key(&[0b1_1001 | unknown, 1, b'e', 2]));
    }
    malformed("block", after_key(&[0b1_0001, 1, b'e', 2]));
    malformed("block", after_key(&[0b11]));
    malformed("block", packed(0, &[0b111, 0x10]));
    for cut in 1..4 {
        malformed("block", after_key(&[0b1_1001, 1, b'e', 2][..cut]));
    }
    // A register: seq, milliseconds, counter, value.
    assert_eq!(after_key(&[0b11_1000, 2, 2, 0]), Ok(()));
    malformed("block", after_key(&[0b11_1000, 2, 1, 0]));
    malformed("block", after_key(&[0b11_1000, 2, 2, 0x80, 0x80, 4]));
    malformed("block", after_key(&[&[0b11_1000, 2][..], &[0xff; 10], &[0]].concat()));
}

/// A version without its value is of use to whoever has seen the write, and to nobody else.
#[test]
fn a_value_may_be_left_out() {
    let key = [0b111, 1, b'k'];
    let read = |cell: &[u8]| -> Result<(), DecodeError> {
        let block = [&bytes(&vec![actor(1)]), &key[..], cell].concat();
        let mut reader = BlockReader::new(&block)?;
        assert!(matches!(reader.next()?, Some(BlockItem { cell: CellRef::None, .. })));
        let known = CellRef::Known { dot: WireDot { actor: 0, seq: 1 }, stamp: Stamp::from_millis(1) };
        assert_eq!(format!("{:?}", reader.next()?.unwrap().cell), format!("{known:?}"));
        reader.next().map(|item| assert!(item.is_none()))
    };
    let cell = [0b101_1000, 2, 2, 0];
    assert_eq!(read(&cell), Ok(()));
    malformed("block", packed(1, &[&key[..], &cell].concat()));
    malformed("block", read(&[0b111_1000, 2, 2, 0]));
    malformed("cell", read(&[0b100_1000, 1, 2, 2, 0]));
    malformed("block", read(&[0b101_0000, 1, 0, 2, 2, 0]));
    malformed("block", read(&[0b101_1000, 2, 2]));

    let mut writer = BlockWriter::new(&[actor(1)]);
    writer.key(b"k");
    writer.known(WireDot { actor: 0, seq: 1 }, Stamp::from_millis(1));
    let table = bytes(&vec![actor(1)]);
    assert_eq!(writer.finish(), [&table[..], &[0b101_1100, 1, b'k', 2, 2, 0]].concat());
}

/// What names share costs nothing on the wire, so what they come to has a bound of its own.
#[test]
fn names_unpack_to_a_bounded_size() {
    let one =
        |n: usize| KeyState { key: [&[0; bounds::KEY - 8][..], &n.to_le_bytes()].concat(), cells: vec![] };
    let block = |keys: usize| Block { actors: vec![], keys: (0..keys).map(one).collect() };
    let most = bounds::NAMES / bounds::KEY;
    assert_eq!(Block::decode(&block(most).encode()), Ok(block(most)));
    let over = block(most + 1).encode();
    assert!(over.len() < 2 * bounds::KEY);
    oversized("names", Block::decode(&over));
}

#[test]
fn counters_are_checked_in_both_halves() {
    let tally = |birth, n| Some(Tally { birth, p: 1, n });
    let part = |counter, actor, contribution, baseline| {
        read_cell(CellState::Counter(CounterState { counter, actor, contribution, baseline }))
    };
    use Counter::{G, Pn};
    malformed("cell", part(Pn, 0, None, None));
    malformed("cell", part(Pn, 2, tally(1, 0), None));
    malformed("cell", part(Pn, 0, tally(0, 0), None));
    malformed("cell", part(Pn, 0, tally(1, 0), tally(0, 0)));
    malformed("cell", part(G, 0, tally(1, 1), None));
    malformed("cell", part(G, 0, tally(1, 0), tally(1, 1)));
    assert_eq!(part(Pn, 1, tally(1, 1), tally(2, 1)), Ok(()));
    assert_eq!(part(G, 1, None, tally(2, 0)), Ok(()));
}
