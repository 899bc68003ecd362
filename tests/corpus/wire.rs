//! Whatever bytes come from the wire or out of a block: an error or a value that means the same when written again.

use tidings::core::block::BlockBuilder;
use tidings::core::journal;
use tidings::core::replica::Recovery;
use tidings::core::state::State;
use tidings::core::table::HashKey;
use tidings_proto::message::{Pull, Push, Sync};
use tidings_proto::{Block, Message, Run, Seen, SeenEntries, frame};

pub fn run(data: &[u8]) {
    if let Ok(hello) = frame::decode_hello(data) {
        let again = frame::encode_hello(&hello);
        assert_eq!(frame::decode_hello(&again[frame::PREFIX..]).as_ref(), Ok(&hello));
    }
    if let Ok(message) = frame::decode_message(data) {
        on_message(&message);
    }
    if let Ok(run) = postcard::from_bytes::<Run>(data) {
        on_run(&run);
    }
    if let Ok(block) = Block::decode(data) {
        on_block(&block);
    }
    if let Ok(meta) = journal::Meta::decode(data) {
        assert_eq!(journal::Meta::decode(&meta.encode()), Ok(meta));
    }
    let mut recovery = Recovery::new(HashKey(1, 2), 1 << 20);
    if recovery.record(1, data).is_ok() {
        let entries: Vec<_> = journal::entries(data).map(Result::unwrap).collect();
        let again = entries.iter().fold(Vec::new(), |record, entry| entry.encode(record));
        assert!(journal::entries(&again).map(Result::unwrap).eq(entries));
    }
}

fn on_message(message: &Message) {
    let again = frame::encode_message(message);
    assert_eq!(frame::decode_message(&again[frame::PREFIX..]).as_ref(), Ok(message));
    match message {
        Message::Push(Push { runs, .. })
        | Message::Pull(Pull::Batch { runs, .. })
        | Message::Sync(Sync::Ack { runs, .. } | Sync::Ack2 { runs, .. }) => runs.iter().for_each(on_run),
        Message::Sync(Sync::Block { block, .. }) => {
            if let Ok(block) = Block::decode(block) {
                on_block(&block);
            }
        }
        Message::Sync(Sync::Context { seen, parked, .. }) => {
            let state = State::new(HashKey(1, 2));
            if let Ok(staged) = state.staged(seen, parked) {
                assert_eq!(staged.seen_clock(), Seen::from(seen));
            }
        }
        _ => {}
    }
}

fn on_run(run: &Run) {
    if run.check().is_err() {
        return;
    }
    let read = run.iter().take_while(Result::is_ok).count();
    assert!(read <= run.count as usize);
    if run.iter().all(|item| item.is_ok()) {
        assert_eq!(read, run.count as usize);
        assert!(run.iter().map(|item| item.unwrap().0).eq(run.first..=run.last()));
    }
}

/// Loads a block into a state that has seen enough of everybody, or too little.
fn on_block(block: &Block) {
    let mut actors = block.actors.clone();
    actors.sort();
    actors.dedup();
    assert_eq!(actors.len(), block.actors.len(), "a checked block names an actor once");
    for seq in [1, 300, (1 << 44) - 1] {
        let seen = SeenEntries::from_sorted(actors.iter().map(|actor| (actor, seq)));
        let mut state = State::new(HashKey(1, 2)).staged(&seen, &[]).unwrap();
        if state.load(&block.encode()).is_err() {
            continue;
        }
        let mut again = State::new(HashKey(3, 4)).staged(&seen, &[]).unwrap();
        let mut builder = BlockBuilder::new(state.actors());
        state.cells().for_each(|cells| builder.push(cells));
        for block in builder.finish() {
            again.load(&block).unwrap();
        }
        assert_eq!(again.tallies(), state.tallies());
    }
}
