//! Every limit of the still zone, in one place. The wire's are in `tidings_proto::bounds`.

/// Most actors that a replica tells apart: one per start of a node that wrote.
pub const ACTORS: usize = 1 << 20;
/// Most actors that one peer may announce and of whom nothing has come, and most of them in all.
/// What is announced beyond is passed over, and looked at again when it is announced again.
pub const UNSEEN_OF_LINK: usize = 1 << 10;
/// See [`UNSEEN_OF_LINK`].
pub const UNSEEN: usize = 1 << 14;
/// Most writes of one actor: at a million a second, half a year of one process; then a new incarnation.
pub const SEQ: u64 = (1 << 44) - 1;
/// Most parked removals. At the bound an op that would park more is not
/// applied; it comes again by repair, once the dots it names have arrived.
/// A merge may leave twice as many parked, so that repair goes on where ops are refused.
pub const PARKED: usize = 1 << 15;
/// Most bytes of keys and elements named by parked removals; for a merge twice that: they must fit one message.
pub const PARKED_BYTES: usize = 4 << 20;
const _: () = assert!(2 * PARKED <= tidings_proto::bounds::PARKED, "what a merge leaves parked can be told");
/// Most cells in a bucket of a table: it bounds the work of one split.
pub const BUCKET: usize = 224;
/// Most items that a table is made ready for on the word of a peer.
pub const EXPECTED: u64 = 8 << 20;
/// Longest chunk of the op log in memory, in bytes of encoded ops.
pub const CHUNK: usize = 64 << 10;
/// Most bytes of ops of which one place on the disk is remembered.
pub const STRETCH: u64 = 256 << 10;
/// Most places on the disk that are remembered: enough for 4 GiB of ops in chunks, more in longer stretches.
pub const STRETCHES: usize = 1 << 16;
/// Most actors that the ops of one chunk may name.
pub const CHUNK_ACTORS: usize = 64;
/// Most bytes of elements in one op; more are split over several ops.
pub const OP_ELEMENTS: usize = 256 << 10;
/// Most edits in one op; more are split over several ops.
pub const OP_EDITS: usize = 1 << 10;
/// Most bytes of ops that arrived ahead of their turn, over all actors.
pub const AHEAD: usize = 8 << 20;
/// Most bytes of ops that one push carries inline; what is more is announced and pulled.
pub const INLINE: usize = 64 << 10;
/// Most ranges asked for in one pull.
pub const PULL_RANGES: usize = 1 << 10;
/// Most snapshots at once: one checkpoint and a few context merges.
pub const SNAPSHOTS: usize = 5;
/// Blocks of a context merge in flight before the receiver grants more.
pub const BLOCK_CREDIT: u32 = 8;
/// Most members that a context merge fetches from besides the one whose snapshot it merges.
pub const SOURCES: usize = 3;
/// Keys that a state must have for several members to share the work of giving it; of fewer one gives all.
pub const SHARED_KEYS: u64 = 4096;
/// How many times as many keys as are here it must have for that.
pub const SHARED_TIMES: u64 = 16;
/// Most keys, about, in a range that one member gives, as long as there are not too many ranges.
pub const SHARE_KEYS: u64 = 1024;
/// Most such ranges that one member is asked for at once; the next are asked for when half have come.
pub const SHARES: usize = 32;
/// Keys that are worked out in one step of a context merge, of some tenths of a millisecond.
pub const PREPARED: usize = 512;
/// Most changes noted while a context merge is guided; with more it is begun anew.
pub const TOUCHED: usize = 1 << 22;
/// Most bytes staged by one context merge.
pub const STAGED: usize = 16 << 30;
/// Size at which a record for the disk is closed and the next begun.
pub const RECORD: usize = 8 << 20;
/// Most links at once.
pub const LINKS: usize = 1 << 10;
/// Most members told of in one message.
pub const MEMBERS_SENT: usize = 64;
/// Most entries of a version vector announced in one push.
pub const ANNOUNCED: usize = 1 << 13;
/// Most bytes of keys that one request for cells may name.
pub const ASKED_KEYS: usize = 512 << 10;
/// Most quorum reads under way; one more is refused.
pub const READS: usize = 1 << 14;
/// Most baselines in one edit; more are split over several edits.
pub const EDIT_BASELINES: usize = 1 << 10;
