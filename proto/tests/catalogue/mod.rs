//! The values of the golden vectors. Entries are added; none is ever changed or removed.

use serde_bytes::ByteBuf;
use smallvec::smallvec;
use tidings_proto::block::BlockWriter;
use tidings_proto::cell::{MemberState, ParkedState, ParkedTarget, Tally, VersionState};
use tidings_proto::frame;
use tidings_proto::message::{Member, PartSum, Pull, Push, Range, RangeParts, Stats, Sync};
use tidings_proto::{
    Actor, Baseline, Block, CellState, Counter, CounterState, Edit, Hello, KeyState, Message, Name, Op, Run,
    SeenEntries, Stamp, StateDigest, WireDot,
};

/// What a vector encodes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// The body of a HELLO frame.
    Hello(Hello),
    /// The body of a message's frame.
    Message(Message),
    /// A HELLO frame with its prefix.
    HelloFrame(Hello),
    /// A message's frame with its prefix.
    Frame(Message),
    /// One op, as it stands in the bytes of a run.
    Op(Op<'static, WireDot>),
    Run(Run),
    Block(Block),
    Seen(SeenEntries),
    /// The digest of a version vector.
    Digest(SeenEntries),
}

impl Value {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => frame::encode_hello(hello).split_off(frame::PREFIX),
            Self::Message(message) => frame::encode_message(message).split_off(frame::PREFIX),
            Self::HelloFrame(hello) => frame::encode_hello(hello),
            Self::Frame(message) => frame::encode_message(message),
            Self::Op(op) => postcard::to_stdvec(op).unwrap(),
            Self::Run(run) => postcard::to_stdvec(run).unwrap(),
            Self::Block(block) => block.encode(),
            Self::Seen(entries) => postcard::to_stdvec(entries).unwrap(),
            Self::Digest(entries) => entries.digest().0.to_vec(),
        }
    }

    /// The value for people.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Hello(value) => format!("{value:?}"),
            Self::Message(value) => format!("{value:?}"),
            Self::HelloFrame(value) => format!("{value:?}"),
            Self::Frame(value) => format!("{value:?}"),
            Self::Op(value) => format!("{value:?}"),
            Self::Run(value) => format!("{value:?}"),
            Self::Block(value) => format!("{value:?}"),
            Self::Seen(value) => format!("{value:?}"),
            Self::Digest(value) => format!("first 16 bytes of the BLAKE3 hash of {value:?}"),
        }
    }
}

/// The vectors of one file.
pub(crate) struct Family {
    pub(crate) file: &'static str,
    pub(crate) vectors: Vec<(&'static str, Value)>,
}

pub(crate) fn families() -> Vec<Family> {
    vec![
        Family { file: "hello.txt", vectors: hellos() },
        Family { file: "op.txt", vectors: [ops(), later_ops()].concat() },
        Family { file: "run.txt", vectors: runs() },
        Family { file: "block.txt", vectors: blocks() },
        Family { file: "seen.txt", vectors: seen() },
        Family { file: "push.txt", vectors: pushes() },
        Family { file: "pull.txt", vectors: pulls() },
        Family { file: "sync.txt", vectors: syncs() },
        Family { file: "rest.txt", vectors: rest() },
        Family { file: "frame.txt", vectors: frames() },
    ]
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn actor(node: &str, incarnation: u64) -> Actor {
    Actor { node: name(node), incarnation }
}

/// A run of these ops.
pub(crate) fn run(actor: Actor, first: u64, base: Stamp, actors: &[Actor], ops: &[Op<'_, WireDot>]) -> Run {
    let bytes = ops.iter().flat_map(|op| postcard::to_stdvec(op).unwrap()).collect();
    Run { actor, first, count: ops.len() as u32, base, actors: actors.to_vec(), ops: bytes }
}

const BASE: Stamp = Stamp(1_700_000_000_000 << 16);
const BEYOND_U64: u128 = (1 << 64) + 5;

fn dot(actor: u32, seq: u64) -> WireDot {
    WireDot { actor, seq }
}

fn a() -> Actor {
    actor("a", 0x0123_4567_89ab_cdef)
}

fn b() -> Actor {
    actor("node-b.example_1", 1)
}

fn entries() -> SeenEntries {
    let earlier = actor("a", 7);
    SeenEntries::from_sorted([(&earlier, 1), (&a(), 300), (&b(), 1 << 40)])
}

fn hello() -> Hello {
    Hello {
        versions: (1, 1),
        realm: name("r"),
        actor: a(),
        zone: String::new(),
        addresses: vec![],
        clock: 1_700_000_000_000,
        order: 0,
    }
}

fn hellos() -> Vec<(&'static str, Value)> {
    let full = Hello {
        versions: (1, 300),
        realm: name("prod.eu"),
        actor: b(),
        zone: "zürich-1".into(),
        addresses: vec!["10.0.0.1:7380".into(), "[2001:db8::1]:7380".into(), "b.example:7380".into()],
        clock: u64::MAX,
        order: 0x0123_4567_89ab_cdef,
    };
    vec![("hello_least", Value::Hello(hello())), ("hello_full", Value::Hello(full))]
}

fn op(stamp: u64, key: &'static [u8], edits: Vec<Edit<'static, WireDot>>) -> Op<'static, WireDot> {
    Op { stamp, key, edits: edits.into() }
}

/// One op for every edit; all of them can stand in a run from 1,000 on whose table holds two actors.
fn ops() -> Vec<(&'static str, Value)> {
    let baseline = |actor, seq, p, n| Baseline { birth: dot(actor, seq), p, n };
    vec![
        ("write_first", op(0, b"k", vec![Edit::Write { supersedes: smallvec![], value: b"v" }])),
        (
            "write_over_two",
            op(
                65_536,
                b"key",
                vec![Edit::Write { supersedes: smallvec![dot(0, 9), dot(2, 1 << 40)], value: b"value" }],
            ),
        ),
        ("write_empty_key_and_value", op(1, b"", vec![Edit::Write { supersedes: smallvec![], value: b"" }])),
        (
            "write_bytes_that_are_not_text",
            op(127, b"\xff\x00", vec![Edit::Write { supersedes: smallvec![], value: b"\x80\xc3\x28" }]),
        ),
        ("erase", op(128, b"k", vec![Edit::Erase { dots: smallvec![dot(1, 5)] }])),
        ("add", op(2, b"s", vec![Edit::Add { element: b"e", supersedes: smallvec![] }])),
        (
            "add_again",
            op(2, b"s", vec![Edit::Add { element: b"\xc3\xa9", supersedes: smallvec![dot(1, 300)] }]),
        ),
        ("remove", op(3, b"s", vec![Edit::Remove { element: b"", dots: smallvec![dot(0, 1), dot(1, 2)] }])),
        ("count_g", op(4, b"c", vec![Edit::Count { counter: Counter::G, birth: 10, p: 1, n: 0 }])),
        (
            "count_pn_beyond_u64",
            op(5, b"c", vec![Edit::Count { counter: Counter::Pn, birth: 2, p: BEYOND_U64, n: u128::MAX }]),
        ),
        (
            "reset",
            op(
                6,
                b"c",
                vec![Edit::Reset {
                    counter: Counter::Pn,
                    baselines: smallvec![baseline(0, 3, 7, 0), baseline(2, 1, BEYOND_U64, 128)],
                }],
            ),
        ),
        (
            "reset_g",
            op(
                6,
                b"c",
                vec![Edit::Reset { counter: Counter::G, baselines: smallvec![baseline(1, 4, 200, 0)] }],
            ),
        ),
        ("close_g", op(7, b"c", vec![Edit::Close { counter: Counter::G, birth: 3 }])),
        ("close_pn", op(7, b"c", vec![Edit::Close { counter: Counter::Pn, birth: 200 }])),
        ("clear", op(8, b"s", vec![Edit::Clear { upto: smallvec![dot(0, 9), dot(2, 1 << 40)] }])),
        ("no_edit", op(0, b"k", vec![])),
        ("stamp_of_64_bits", op(u64::MAX - BASE.0, b"k", vec![])),
        (
            "several_edits",
            op(
                8,
                b"everything",
                vec![
                    Edit::Write { supersedes: smallvec![dot(1, 1)], value: b"v" },
                    Edit::Remove { element: b"one", dots: smallvec![dot(2, 2)] },
                    Edit::Add { element: b"two", supersedes: smallvec![] },
                    Edit::Reset { counter: Counter::Pn, baselines: smallvec![baseline(1, 1, 1, 1)] },
                    Edit::Close { counter: Counter::Pn, birth: 4 },
                ],
            ),
        ),
    ]
    .into_iter()
    .map(|(name, op)| (name, Value::Op(op)))
    .collect()
}

/// Ops of edits that came later: runs of all that there were before stay what they are.
fn later_ops() -> Vec<(&'static str, Value)> {
    let elided = Edit::Elided { supersedes: smallvec![dot(1, 5)], by: 300 };
    vec![("elided", Value::Op(op(9, b"k", vec![elided])))]
}

/// Three writes of one key, of which the last alone has its value, and one of another between them.
fn run_with_values_left_out() -> Run {
    let elided = |supersedes, by| vec![Edit::Elided { supersedes, by }];
    let write = |supersedes, value| vec![Edit::Write { supersedes, value }];
    let ops = [
        op(0, b"k", elided(smallvec![dot(1, 5)], 1)),
        op(1, b"k", elided(smallvec![dot(0, 1_000)], 2)),
        op(1, b"other", write(smallvec![], b"here")),
        op(2, b"k", write(smallvec![dot(0, 1_001)], b"last")),
    ];
    run(a(), 1_000, BASE, &[b()], &ops)
}

/// The run that the specification takes apart.
fn worked_example() -> Run {
    let ops = [
        op(0, b"k", vec![Edit::Write { supersedes: smallvec![dot(1, 5)], value: b"hi" }]),
        op(65_536, b"n", vec![Edit::Count { counter: Counter::Pn, birth: 301, p: 300, n: 0 }]),
    ];
    run(actor("a", 1), 300, Stamp::from_millis(1), &[actor("b", 2)], &ops)
}

fn runs() -> Vec<(&'static str, Value)> {
    let all: Vec<_> = ops()
        .into_iter()
        .map(|(_, value)| match value {
            Value::Op(op) => op,
            _ => unreachable!(),
        })
        .collect();
    vec![
        ("run_worked_example", Value::Run(worked_example())),
        ("run_of_every_edit", Value::Run(run(a(), 1_000, BASE, &[b(), actor("c", u64::MAX)], &all))),
        ("run_with_values_left_out", Value::Run(run_with_values_left_out())),
        ("run_at_the_end", Value::Run(run(a(), u64::MAX - 1, Stamp(0), &[], &all[..1]))),
    ]
}

fn key_states() -> Vec<KeyState> {
    let counter = |counter, contribution, baseline| {
        CellState::Counter(CounterState { counter, actor: 1, contribution, baseline })
    };
    let tally = |birth, p, n| Some(Tally { birth, p, n });
    vec![
        KeyState {
            key: b"register".to_vec(),
            cells: vec![CellState::Register(vec![
                VersionState { dot: dot(0, 3), stamp: BASE, value: b"here".to_vec() },
                VersionState { dot: dot(1, 1 << 35), stamp: Stamp(u64::MAX), value: vec![] },
            ])],
        },
        KeyState {
            key: b"\x00\xff".to_vec(),
            cells: vec![
                CellState::Member(MemberState { element: b"e".to_vec(), dots: vec![dot(0, 4)] }),
                CellState::Member(MemberState { element: vec![], dots: vec![dot(1, 4), dot(1, 5)] }),
            ],
        },
        KeyState {
            key: vec![],
            cells: vec![
                counter(Counter::G, tally(5, 9, 0), None),
                counter(Counter::Pn, None, tally(6, BEYOND_U64, 1)),
                counter(Counter::Pn, tally(7, u128::MAX, 300), tally(7, 2, 2)),
            ],
        },
    ]
}

/// Two keys of one actor, of which the second is told without its value.
fn lean_block() -> Vec<u8> {
    let mut writer = BlockWriter::new(&[a()]);
    let stamp = Stamp::from_millis(1_700_000_000_000);
    writer.key(b"key:1");
    writer.register(std::iter::once((dot(0, 7), stamp, &b"value"[..])));
    writer.key(b"key:2");
    writer.known(dot(0, 8), stamp);
    writer.finish()
}

fn blocks() -> Vec<(&'static str, Value)> {
    let part = |key: usize| Block { actors: vec![a(), b()], keys: vec![key_states().swap_remove(key)] };
    vec![
        ("block_empty", Value::Block(Block::default())),
        ("block_register", Value::Block(part(0))),
        ("block_members", Value::Block(part(1))),
        ("block_counters", Value::Block(part(2))),
        ("block_all", Value::Block(Block { actors: vec![a(), b()], keys: key_states() })),
    ]
}

fn seen() -> Vec<(&'static str, Value)> {
    let one = SeenEntries::from_sorted([(&actor("a", 1), 1)]);
    vec![
        ("seen_empty", Value::Seen(SeenEntries::default())),
        ("seen_one", Value::Seen(one.clone())),
        ("seen_lives", Value::Seen(entries())),
        ("digest_empty", Value::Digest(SeenEntries::default())),
        ("digest_one", Value::Digest(one)),
        ("digest_lives", Value::Digest(entries())),
    ]
}

fn messages(list: Vec<(&'static str, Message)>) -> Vec<(&'static str, Value)> {
    list.into_iter().map(|(name, message)| (name, Value::Message(message))).collect()
}

fn have() -> Message {
    let have = SeenEntries::from_sorted([(&a(), 300)]);
    Message::Push(Push { have, runs: vec![] })
}

fn pushes() -> Vec<(&'static str, Value)> {
    let have = SeenEntries::from_sorted([(&actor("a", 1), 301)]);
    messages(vec![
        ("push_nothing", Message::Push(Push { have: SeenEntries::default(), runs: vec![] })),
        ("push_have", self::have()),
        ("push_inline", Message::Push(Push { have, runs: vec![worked_example()] })),
    ])
}

fn range(first: u64, last: u64) -> Range {
    Range { actor: a(), first, last }
}

fn pulls() -> Vec<(&'static str, Value)> {
    let names = vec![
        KeyState { key: b"one".to_vec(), cells: vec![] },
        KeyState { key: b"two".to_vec(), cells: vec![] },
    ];
    let keys = vec![ByteBuf::from(b"k".to_vec()), ByteBuf::new()];
    let more = vec![worked_example(), run(b(), 1, BASE, &[], &[op(0, b"k", vec![])])];
    [
        ("pull_ops", Pull::Ops { id: 1, ranges: vec![range(1, 1), range(3, u64::MAX - 1)] }),
        ("pull_batch", Pull::Batch { id: 1, runs: more, missing: vec![range(3, 4)], more: true }),
        ("pull_batch_empty", Pull::Batch { id: u64::MAX, runs: vec![], missing: vec![], more: false }),
        ("pull_keys", Pull::Keys { id: 2, keys, cursor: 0, names_only: false }),
        ("pull_everything", Pull::Keys { id: 3, keys: vec![], cursor: 300, names_only: true }),
        ("pull_cells", Pull::Cells { id: 2, actors: vec![a(), b()], keys: key_states(), cursor: 0 }),
        ("pull_cells_names", Pull::Cells { id: 3, actors: vec![], keys: names, cursor: 301 }),
    ]
    .into_iter()
    .map(|(name, pull)| (name, Value::Message(Message::Pull(pull))))
    .collect()
}

fn syncs() -> Vec<(&'static str, Value)> {
    let block = Block { actors: vec![a(), b()], keys: key_states() };
    let member = |element: &[u8]| ParkedTarget::Member(ByteBuf::from(element.to_vec()));
    let parked = |target, seq| ParkedState { key: b"k".to_vec(), target, actor: b(), seq };
    let state = StateDigest([7; 16]);
    let syn = |id, sent, credit| Sync::Syn { id, digest: entries().digest(), state, entries: sent, credit };
    let parts = vec![
        RangeParts { present: 0, sums: vec![] },
        RangeParts { present: 0b1000_0000_0000_0001, sums: vec![PartSum(1), PartSum(u64::MAX)] },
    ];
    [
        ("syn_digest", syn(1, None, 1 << 20)),
        ("syn_entries", syn(300, Some(entries()), 0)),
        ("ack_equal", Sync::Ack { id: 1, entries: None, state: None, runs: vec![] }),
        ("ack_diverged", Sync::Ack { id: 1, entries: None, state: Some(state), runs: vec![] }),
        ("ack", Sync::Ack { id: 1, entries: Some(entries()), state: None, runs: vec![worked_example()] }),
        ("ack2", Sync::Ack2 { id: 1, runs: vec![worked_example()] }),
        ("merge", Sync::Merge { id: 9, guided: false }),
        ("merge_guided", Sync::Merge { id: 9, guided: true }),
        (
            "context",
            Sync::Context {
                id: 9,
                seen: entries(),
                parked: vec![
                    parked(ParkedTarget::Register, 1 << 41),
                    parked(member(b""), 1),
                    parked(member(b"e"), 2),
                    parked(ParkedTarget::Set, 3),
                ],
                keys: 300,
            },
        ),
        ("credit", Sync::Credit { id: 9, blocks: 8 }),
        ("block", Sync::Block { id: 9, index: 0, block: block.encode() }),
        ("end", Sync::End { id: 9, number: 0, blocks: 1 }),
        ("abort", Sync::Abort { id: 9, reason: "too busy".into() }),
        ("narrow", Sync::Narrow { id: 9, number: 1, ranges: vec![1, 17, (1 << 61) - 1] }),
        ("parts", Sync::Parts { id: 9, number: 1, parts }),
        ("fetch", Sync::Fetch { id: 9, number: 300, ranges: vec![16, 300], lean: true }),
        ("done", Sync::Done { id: 9 }),
        ("block_lean", Sync::Block { id: 9, index: 1, block: lean_block() }),
    ]
    .into_iter()
    .map(|(name, sync)| (name, Value::Message(Message::Sync(sync))))
    .collect()
}

fn rest() -> Vec<(&'static str, Value)> {
    let figures = vec![("keys".to_owned(), 3), ("ops".to_owned(), u64::MAX)];
    let members = vec![
        Member { node: name("a"), zone: String::new(), addresses: vec![] },
        Member { node: name("b"), zone: "z".into(), addresses: vec!["10.0.0.2:7380".into()] },
    ];
    messages(vec![
        ("stats_ask", Message::Stats(Stats::Ask { id: 4 })),
        ("stats_figures", Message::Stats(Stats::Figures { id: 4, figures })),
        ("members", Message::Members(members)),
        ("leave", Message::Leave),
    ])
}

fn frames() -> Vec<(&'static str, Value)> {
    vec![
        ("frame_hello", Value::HelloFrame(hello())),
        ("frame_have", Value::Frame(have())),
        ("frame_leave", Value::Frame(Message::Leave)),
    ]
}
