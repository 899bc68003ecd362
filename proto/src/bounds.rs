//! Every limit of the wire, in one place. Sizes are in bytes.
//!
//! A receiver refuses what is over a bound before it allocates anything for it,
//! and closes the link with a reason; a sender never produces it.

/// Longest realm or node name.
pub const NAME: usize = 63;
/// Longest key.
pub const KEY: usize = 64 << 10;
/// Longest element of a set.
pub const ELEMENT: usize = 1 << 20;
/// Longest value of a register.
pub const VALUE: usize = 16 << 20;
/// Most items in all the lists of one message, block or op together: what keeps the memory of
/// a decoded value in proportion. Nothing of up to 1 MiB that is well formed has more.
pub const ITEMS: usize = 1 << 19;
/// Most edits in one op.
pub const EDITS: usize = 1 << 16;
/// Most dots in one list of them, most baselines in one edit, most versions of a register
/// in one group of cells. Who has more to say splits it.
pub const DOTS: usize = 1 << 16;
/// Longest encoded op. An op of several elements is split by its author well before.
pub const OP: usize = VALUE + KEY + (256 << 10);
/// Most ops in one run.
pub const RUN_OPS: usize = 1 << 16;
/// Most runs in one message.
pub const RUNS: usize = 1 << 16;
/// Most actors in the table of a run or a block.
pub const ACTORS: usize = 1 << 16;
/// Target size of a batch of runs in one answer; a single larger op travels alone.
pub const BATCH: usize = 1 << 20;
/// Most bytes of ops that must be applied in one step, since values are left out of some of them.
pub const BUNDLE: usize = 4 << 20;
/// Target size of a block; a single larger cell travels alone.
pub const BLOCK: usize = 256 << 10;
/// Most bytes of keys and elements that one block unpacks to: what they share costs nothing on the wire.
pub const NAMES: usize = 4 << 20;
/// Longest HELLO frame: nothing larger is read before the peer has been accepted.
pub const HELLO_FRAME: usize = 8 << 10;
/// Longest frame on the news lane: HELLO, announcements, requests, small ops.
pub const NEWS_FRAME: usize = 1 << 20;
/// Longest frame on the bulk lane: one op of the largest value must fit.
pub const BULK_FRAME: usize = OP + (512 << 10);
/// Most entries in a version vector on the wire: all incarnations that ever wrote. Most ranges in one list.
pub const SEEN: usize = 1 << 18;
/// Most parked removals beside a snapshot.
pub const PARKED: usize = 1 << 16;
/// Most ranges that one request for fingerprints may name.
pub const NARROW: usize = 128;
/// Most ranges that one request for cells may name.
pub const FETCH: usize = 1 << 12;
/// Most keys that one pull may name.
pub const PULL_KEYS: usize = 1 << 10;
/// Most members named in one message.
pub const MEMBERS: usize = 1 << 10;
/// Most addresses of one member.
pub const ADDRESSES: usize = 8;
/// Longest address, zone or reason text.
pub const TEXT: usize = 256;
/// Most figures in a stats answer.
pub const FIGURES: usize = 1 << 10;
