//! What is encoded decodes to the same; what is not an encoding is refused,
//! without a panic and without memory out of proportion to its length.
#![allow(unsafe_code, reason = "counting allocations takes a global allocator")]

mod strategy;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::{Deserialize, Serialize};
use tidings_proto::message::{Pull, Push, Sync};
use tidings_proto::{Block, Hello, Message, Run, Seen, SeenEntries, frame};

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn held(change: isize) {
    HELD.set(HELD.get() + change);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: everything is the system allocator's; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        held(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result, and the most memory held on the way to it.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

/// Reads everything that `body` could be, to the last op and cell.
fn read_as_anything(body: &[u8]) {
    let _ = frame::decode_hello(body);
    let _ = Block::decode(body);
    if let Ok(message) = frame::decode_message(body) {
        read_inside(&message);
        assert_eq!(frame::decode_message(&encode(&message)).as_ref(), Ok(&message));
    }
    let run: Result<Run, _> = postcard::from_bytes(body);
    if let Ok(run) = run.map_err(|_| ()).and_then(|run| run.check().map(|()| run).map_err(|_| ())) {
        run.iter().for_each(drop);
    }
}

fn read_inside(message: &Message) {
    match message {
        Message::Push(Push { runs, .. })
        | Message::Pull(Pull::Batch { runs, .. })
        | Message::Sync(Sync::Ack { runs, .. } | Sync::Ack2 { runs, .. }) => {
            runs.iter().flat_map(Run::iter).for_each(drop);
        }
        Message::Sync(Sync::Block { block, .. }) => drop(Block::decode(block)),
        _ => {}
    }
}

fn encode(message: &Message) -> Vec<u8> {
    frame::encode_message(message).split_off(frame::PREFIX)
}

fn round_trip<T: Serialize + for<'de> Deserialize<'de>>(value: &T) -> T {
    postcard::from_bytes(&postcard::to_stdvec(value).unwrap()).unwrap()
}

/// Something that happens to a frame.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

impl Mutation {
    fn apply(&self, body: &mut Vec<u8>) {
        if body.is_empty() {
            return;
        }
        let len = body.len();
        match self {
            Self::Flip(at, bit) => body[at.index(len)] ^= 1 << (bit % 8),
            Self::Set(at, byte) => body[at.index(len)] = *byte,
            Self::Insert(at, byte) => body.insert(at.index(len), *byte),
            Self::Remove(at) => drop(body.remove(at.index(len))),
            Self::Cut(at) => body.truncate(at.index(len)),
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), prop_oneof![any::<u8>(), Just(0), Just(0xff)]).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at().prop_map(Mutation::Remove),
        at().prop_map(Mutation::Cut),
    ]
}

proptest! {
    #[test]
    fn hello_round_trips(hello in strategy::hello()) {
        let frame = frame::encode_hello(&hello);
        let read: Hello = frame::decode_hello(&frame[frame::PREFIX..]).unwrap();
        prop_assert_eq!(read, hello);
    }

    #[test]
    fn message_round_trips(message in strategy::message()) {
        let frame = frame::encode_message(&message);
        let (prefix, body) = frame.split_first_chunk().unwrap();
        prop_assert_eq!(frame::length(*prefix, message.lane()), Ok(body.len()));
        prop_assert_eq!(frame::decode_message(body), Ok(message.clone()));
        prop_assert!(Message::KINDS.contains(&message.kind()));
    }

    #[test]
    fn run_and_its_ops_round_trip((run, ops) in strategy::run_and_ops()) {
        run.check().unwrap();
        prop_assert_eq!(&round_trip(&run), &run);
        let read: Vec<_> = run.iter().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), ops.len());
        for ((at, (seq, op)), own) in read.iter().enumerate().zip(&ops) {
            prop_assert_eq!(*seq, run.first + at as u64);
            prop_assert_eq!(op, &own.view());
            prop_assert_eq!(postcard::to_stdvec(op).unwrap(), postcard::to_stdvec(&own.view()).unwrap());
        }
        prop_assert_eq!(read.last().unwrap().0, run.last());
    }

    #[test]
    fn block_round_trips(block in strategy::block()) {
        prop_assert_eq!(Block::decode(&block.encode()), Ok(block));
    }

    #[test]
    fn seen_round_trips(entries in strategy::entries()) {
        entries.check().unwrap();
        let seen = Seen::from(&entries);
        prop_assert_eq!(seen.dots.len(), entries.len());
        prop_assert_eq!(&SeenEntries::from(&seen), &entries);
        prop_assert_eq!(&round_trip(&entries), &entries);
        prop_assert_eq!(round_trip(&entries).digest(), entries.digest());
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_take_much_memory(body in vec(any::<u8>(), 0..2_000)) {
        let ((), peak) = measured(|| read_as_anything(&body));
        prop_assert!(peak <= proportion(body.len()), "{peak} bytes of memory for {}", body.len());
    }

    #[test]
    fn broken_frames_neither_panic_nor_take_much_memory(
        message in strategy::message(),
        mutations in vec(mutation(), 1..5),
    ) {
        let mut body = encode(&message);
        mutations.iter().for_each(|mutation| mutation.apply(&mut body));
        let ((), peak) = measured(|| read_as_anything(&body));
        prop_assert!(peak <= proportion(body.len()), "{peak} bytes of memory for {}", body.len());
    }

    #[test]
    fn broken_hellos_do_not_panic(hello in strategy::hello(), mutations in vec(mutation(), 1..5)) {
        let mut body = frame::encode_hello(&hello).split_off(frame::PREFIX);
        mutations.iter().for_each(|mutation| mutation.apply(&mut body));
        read_as_anything(&body);
    }
}

/// Memory that a body of `length` bytes may cost at most: what a few nested lists
/// are given on their own word, what names unpack to, and then what small items take in memory.
fn proportion(length: usize) -> usize {
    (256 << 10) + tidings_proto::bounds::NAMES + 128 * length
}

/// Bodies of the greatest length made of as many small items as fit.
mod hostile {
    use super::*;
    use tidings_proto::{DecodeError, bounds};

    /// Whatever one message, block or op holds beside its bytes.
    const ITEMS_IN_MEMORY: usize = 200 * bounds::ITEMS;

    fn varint(mut n: u64) -> Vec<u8> {
        let mut bytes = vec![];
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }

    /// A body that begins with `head`, then announces and holds items up to the frame's limit.
    fn body(head: &[u8], item: &[u8]) -> Vec<u8> {
        let count = (bounds::BULK_FRAME - head.len() - 10) / item.len();
        [head, &varint(count as u64), &item.repeat(count)].concat()
    }

    fn refused(result: Result<(), DecodeError>, what: &str) {
        match result {
            Err(DecodeError::Oversized { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }

    /// Refused with `what` too large, holding next to nothing on the way.
    fn cheaply<T>(what: &str, body: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
        let (result, peak) = measured(|| decode(body).map(drop));
        refused(result, what);
        assert!(peak < 64 << 10, "{what}: {peak} bytes of memory");
    }

    #[test]
    fn one_long_list_costs_nothing() {
        let message = frame::decode_message;
        cheaply("runs", &body(&[0, 0], &[0]), message);
        cheaply("version vector", &body(&[0], &[0]), message);
        cheaply("ranges", &body(&[1, 0, 0], &[0]), message);
        cheaply("keys", &body(&[1, 2, 0], &[0]), message);
        cheaply("actor table", &body(&[1, 3, 0], &[0]), message);
        cheaply("keys", &body(&[1, 3, 0, 0], &[0, 0]), message);
        cheaply("parked removals", &body(&[2, 4, 0, 0], &[0]), message);
        cheaply("figures", &body(&[3, 1, 0], &[0, 0]), message);
        cheaply("members", &body(&[4], &[0]), message);
        cheaply("actor table", &body(&[], &[0]), Block::decode);
        cheaply("versions", &body(&[0, 0b100, 0], &[0; 4]), Block::decode);
        cheaply("dots", &body(&[0, 0b101, 0, 0], &[0; 2]), Block::decode);
    }

    #[test]
    fn long_lists_in_ops_cost_nothing() {
        let read = |ops: &[u8]| {
            let actor = "a".parse().unwrap();
            let actor = tidings_proto::Actor { node: actor, incarnation: 1 };
            let run = Run {
                actor,
                first: 9,
                count: 1,
                base: Default::default(),
                actors: vec![],
                ops: ops.to_vec(),
            };
            let (result, peak) = measured(|| run.iter().try_for_each(|op| op.map(drop)));
            assert!(peak < 64 << 10, "{peak} bytes of memory");
            result
        };
        refused(read(&body(&[0, 0], &[1, 0])), "edits");
        refused(read(&body(&[0, 0, 1, 1], &[0, 1])), "dots");
        refused(read(&body(&[0, 0, 1, 5, 0], &[0, 1, 0, 0])), "baselines");
    }

    /// Every list within its bound, all of them together far over: the budget ends it.
    #[test]
    fn many_lists_share_one_budget() {
        let keys = [&[0][..], &[0b111, 0].repeat(bounds::ITEMS + 1)].concat();
        let (result, peak) = measured(|| Block::decode(&keys).map(drop));
        refused(result, "items");
        assert!(peak < ITEMS_IN_MEMORY, "{peak} bytes of memory");

        let run = [
            &[1, b'a'][..],
            &[0; 11],
            &varint(4_000),
            &[1, b'a', 0, 0, 0, 0, 0, 0, 0, 0].repeat(4_000),
            &[0],
        ];
        let runs = body(&[0, 0], &run.concat());
        let (result, peak) = measured(|| frame::decode_message(&runs).map(drop));
        refused(result, "items");
        assert!(peak < ITEMS_IN_MEMORY, "{peak} bytes of memory");
    }

    /// What fits in 1 MiB never meets the budget.
    #[test]
    fn the_budget_leaves_small_messages_alone() {
        let dots = [&varint(60_000)[..], &[0, 2].repeat(60_000)].concat();
        let element = [&[0b001, 1, b'e'][..], &dots].concat();
        let key = [1, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0b111, 0];
        let cells = [&key[..], &element.repeat(8)].concat();
        assert!(cells.len() > 900_000 && cells.len() < 1 << 20);
        assert_eq!(Block::decode(&cells).map(drop), Ok(()));
    }
}
