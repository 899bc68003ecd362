//! What nodes say: HELLO, and the messages of push, pull, sync and stats.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cell::{ParkedState, check_cells};
use crate::{
    Actor, DecodeError, KeyState, Name, Run, SeenDigest, SeenEntries, StateDigest, bound, bounds, check_seq,
    limit,
};

/// The two streams of a link in either direction. A large answer on the bulk
/// lane never delays what is announced or asked on the news lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Small and urgent: HELLO, announcements with small ops, requests.
    News,
    /// Large: batches of ops, blocks, cells.
    Bulk,
}

/// The first message either way, alone on the news lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest and highest protocol version spoken.
    pub versions: (u16, u16),
    /// The realm; another one's is refused.
    pub realm: Name,
    /// The sender as an author of writes; its node must be the certificate's.
    pub actor: Actor,
    /// Zone label; empty if none.
    pub zone: String,
    /// Where the sender can be reached, as `host:port`.
    #[serde(deserialize_with = "limit::addresses")]
    pub addresses: Vec<String>,
    /// The sender's wall clock, in milliseconds since the Unix epoch.
    pub clock: u64,
    /// A hash under the key by which the sender orders and fingerprints its cells.
    /// Nodes whose values differ cannot compare fingerprints.
    #[serde(with = "postcard::fixint::le")]
    pub order: u64,
}

/// Everything after HELLO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// News, with or without the ops themselves.
    Push(Push),
    /// Requests for ops and cells, and their answers.
    Pull(Pull),
    /// Anti-entropy.
    Sync(Sync),
    /// Figures.
    Stats(Stats),
    /// Whom the sender knows.
    Members(#[serde(deserialize_with = "limit::members")] Vec<Member>),
    /// The sender is going on purpose.
    Leave,
}

/// What the sender has, as far as the receiver is not known to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Entries of the sender's version vector.
    pub have: SeenEntries,
    /// Ops, inline.
    #[serde(deserialize_with = "limit::runs")]
    pub runs: Vec<Run>,
}

/// Requests by the side that lacks something, and the answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pull {
    /// Send these ops.
    Ops {
        /// Chosen by the asker, repeated in the answer.
        id: u64,
        /// What is lacking.
        #[serde(deserialize_with = "limit::ranges")]
        ranges: Vec<Range>,
    },
    /// Ops as asked, in order, as many as fit.
    Batch {
        /// The request's.
        id: u64,
        /// The ops.
        #[serde(deserialize_with = "limit::runs")]
        runs: Vec<Run>,
        /// What the log no longer reaches: only a context merge can bring it.
        #[serde(deserialize_with = "limit::ranges")]
        missing: Vec<Range>,
        /// Whether ranges asked for are left over; ask again.
        more: bool,
    },
    /// Send these cells, with all versions and metadata.
    Keys {
        /// Chosen by the asker, repeated in the answer.
        id: u64,
        /// The keys; none for all.
        #[serde(deserialize_with = "limit::keys")]
        keys: Vec<ByteBuf>,
        /// Where to go on, as the previous answer said; 0 at first. Only without keys.
        cursor: u64,
        /// Key names alone.
        names_only: bool,
    },
    /// Cells as asked.
    Cells {
        /// The request's.
        id: u64,
        /// The actors that the cells' dots name: place n is `actors[n]`.
        #[serde(deserialize_with = "limit::actors")]
        actors: Vec<Actor>,
        /// The cells by key; without cells if only names were asked for.
        #[serde(deserialize_with = "limit::key_states")]
        keys: Vec<KeyState>,
        /// Where to go on; 0 if this is all.
        cursor: u64,
    },
}

/// Consecutive numbers of one actor, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Whose.
    pub actor: Actor,
    /// The first, from 1.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// Anti-entropy: compare version vectors, ship what is missing from the log;
/// where the log does not reach, a context merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// "This is what I have seen."
    Syn {
        /// Chosen by the asker, repeated in the answers.
        id: u64,
        /// Digest of the sender's version vector.
        digest: SeenDigest,
        /// Fingerprint of the state that it belongs to.
        state: StateDigest,
        /// The vector itself if it is small and thought to differ; else the receiver answers without ops.
        entries: Option<SeenEntries>,
        /// How many bytes of ops the receiver may answer with.
        credit: u32,
    },
    /// The answer to `Syn`.
    Ack {
        /// The request's.
        id: u64,
        /// None if the digests are equal, else the sender's version vector.
        entries: Option<SeenEntries>,
        /// The sender's fingerprint, if the digests are equal and it is another.
        state: Option<StateDigest>,
        /// Ops that the asker lacks, within its credit.
        #[serde(deserialize_with = "limit::runs")]
        runs: Vec<Run>,
    },
    /// The asker's turn: ops that the other lacks.
    Ack2 {
        /// The request's.
        id: u64,
        /// The ops.
        #[serde(deserialize_with = "limit::runs")]
        runs: Vec<Run>,
    },
    /// Begin a context merge: take a snapshot.
    Merge {
        /// Chosen by the asker, repeated in the answers.
        id: u64,
        /// Whether the asker will say which ranges it wants; else it gets the whole state.
        guided: bool,
    },
    /// The snapshot's context. Blocks follow as credit allows.
    Context {
        /// The request's.
        id: u64,
        /// The version vector that the blocks belong to.
        seen: SeenEntries,
        /// Parked removals of the same moment.
        #[serde(deserialize_with = "limit::parked")]
        parked: Vec<ParkedState>,
        /// How many keys the snapshot holds: a hint of how much is to come.
        keys: u64,
    },
    /// The receiver can take this many more blocks.
    Credit {
        /// The request's.
        id: u64,
        /// How many more.
        blocks: u32,
    },
    /// One encoded [`crate::Block`].
    Block {
        /// The request's.
        id: u64,
        /// Its place among the blocks, from 0.
        index: u32,
        /// The block.
        #[serde(with = "serde_bytes")]
        block: Vec<u8>,
    },
    /// No more blocks: of the whole state, or of what one `Fetch` asked for.
    End {
        /// The request's.
        id: u64,
        /// Which `Fetch` it ends; 0 where the whole state was asked for.
        number: u32,
        /// How many blocks there have been in this session.
        blocks: u32,
    },
    /// The session is over without a result; it leaves no trace.
    Abort {
        /// The request's.
        id: u64,
        /// Why.
        reason: String,
    },
    /// In a guided merge: tell the fingerprints of the sixteen parts of these ranges.
    Narrow {
        /// The request's.
        id: u64,
        /// Which of the session's it is, from 1.
        number: u32,
        /// The ranges, by number.
        #[serde(deserialize_with = "limit::narrowed")]
        ranges: Vec<u64>,
    },
    /// The answer to one `Narrow`.
    Parts {
        /// The request's.
        id: u64,
        /// Which `Narrow` it answers.
        number: u32,
        /// The parts of each range, in the order asked.
        #[serde(deserialize_with = "limit::narrowed")]
        parts: Vec<RangeParts>,
    },
    /// In a guided merge: send the cells of these ranges, as blocks, then `End`.
    Fetch {
        /// The request's.
        id: u64,
        /// Which of the session's it is, from 1.
        number: u32,
        /// The ranges, by number.
        #[serde(deserialize_with = "limit::fetched")]
        ranges: Vec<u64>,
        /// Whether values of writes that the asker has seen may be left out.
        lean: bool,
    },
    /// In a guided merge: the asker needs nothing more.
    Done {
        /// The request's.
        id: u64,
    },
}

/// The fingerprints of the sixteen parts of a range of positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeParts {
    /// Bit n is set if part n holds anything.
    pub present: u16,
    /// The low half of the fingerprint of each part that does, in order.
    #[serde(deserialize_with = "limit::parts")]
    pub sums: Vec<PartSum>,
}

/// The low half of a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSum(#[serde(with = "postcard::fixint::le")] pub u64);

/// One node's figures, so that one node can report on all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stats {
    /// Send yours.
    Ask {
        /// Chosen by the asker, repeated in the answer.
        id: u64,
    },
    /// The figures by name.
    Figures {
        /// The request's.
        id: u64,
        /// Names and values.
        #[serde(deserialize_with = "limit::figures")]
        figures: Vec<(String, u64)>,
    },
}

/// A member as another node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: Name,
    /// Its zone; empty if none.
    pub zone: String,
    /// Where it can be reached, as `host:port`.
    #[serde(deserialize_with = "limit::addresses")]
    pub addresses: Vec<String>,
}

impl Message {
    /// The kind, as metrics label it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Push(_) => "push",
            Self::Pull(Pull::Ops { .. }) => "pull",
            Self::Pull(Pull::Batch { .. }) => "batch",
            Self::Pull(Pull::Keys { .. }) => "pull_keys",
            Self::Pull(Pull::Cells { .. }) => "cells",
            Self::Sync(Sync::Syn { .. }) => "syn",
            Self::Sync(Sync::Ack { .. }) => "ack",
            Self::Sync(Sync::Ack2 { .. }) => "ack2",
            Self::Sync(Sync::Block { .. }) => "block",
            Self::Sync(_) => "merge",
            Self::Stats(_) => "stats",
            Self::Members(_) => "members",
            Self::Leave => "leave",
        }
    }

    /// Every value of [`Message::kind`].
    pub const KINDS: &'static [&'static str] = &[
        "push",
        "pull",
        "batch",
        "pull_keys",
        "cells",
        "syn",
        "ack",
        "ack2",
        "block",
        "merge",
        "stats",
        "members",
        "leave",
    ];

    /// The lane on which it travels.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Pull(Pull::Batch { .. } | Pull::Cells { .. })
            | Self::Sync(
                Sync::Ack { .. }
                | Sync::Ack2 { .. }
                | Sync::Context { .. }
                | Sync::Block { .. }
                | Sync::End { .. }
                | Sync::Parts { .. },
            ) => Lane::Bulk,
            _ => Lane::News,
        }
    }

    /// Checks what the types do not: counts, lengths, order.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Push(push) => {
                push.have.check()?;
                check_runs(&push.runs)
            }
            Self::Pull(pull) => pull.check(),
            Self::Sync(sync) => sync.check(),
            Self::Stats(Stats::Ask { .. }) | Self::Leave => Ok(()),
            Self::Stats(Stats::Figures { figures, .. }) => {
                bound("figures", figures.len(), bounds::FIGURES)?;
                figures.iter().try_for_each(|(name, _)| bound("figure name", name.len(), bounds::TEXT))
            }
            Self::Members(members) => {
                bound("members", members.len(), bounds::MEMBERS)?;
                members.iter().try_for_each(|m| check_reach(&m.zone, &m.addresses))
            }
        }
    }
}

impl Pull {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Ops { ranges, .. } => check_ranges(ranges),
            Self::Batch { runs, missing, .. } => {
                check_runs(runs)?;
                check_ranges(missing)
            }
            Self::Keys { keys, .. } => {
                bound("keys", keys.len(), bounds::PULL_KEYS)?;
                keys.iter().try_for_each(|key| bound("key", key.len(), bounds::KEY))
            }
            Self::Cells { actors, keys, .. } => check_cells(actors, keys),
        }
    }
}

impl Sync {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Syn { entries, .. } => entries.iter().try_for_each(SeenEntries::check),
            Self::Ack { entries, runs, .. } => {
                entries.iter().try_for_each(SeenEntries::check)?;
                check_runs(runs)
            }
            Self::Ack2 { runs, .. } => check_runs(runs),
            Self::Context { seen, parked, .. } => {
                seen.check()?;
                bound("parked removals", parked.len(), bounds::PARKED)?;
                parked.iter().try_for_each(ParkedState::check)
            }
            Self::Abort { reason, .. } => bound("reason", reason.len(), bounds::TEXT),
            Self::Narrow { ranges, .. } => check_numbers(ranges, bounds::NARROW),
            Self::Fetch { ranges, .. } => check_numbers(ranges, bounds::FETCH),
            Self::Parts { parts, .. } => parts.iter().try_for_each(|parts| {
                let fits = parts.present.count_ones() as usize == parts.sums.len();
                let wrong = || DecodeError::malformed("parts", "it has other parts than it says");
                fits.then_some(()).ok_or_else(wrong)
            }),
            Self::Merge { .. }
            | Self::Credit { .. }
            | Self::Block { .. }
            | Self::End { .. }
            | Self::Done { .. } => Ok(()),
        }
    }
}

impl Hello {
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.versions.0 > self.versions.1 {
            return Err(DecodeError::malformed("hello", "its lowest version is above its highest"));
        }
        check_reach(&self.zone, &self.addresses)
    }
}

/// The version that two nodes speak: the highest that lies in both their
/// ranges (lowest and highest), if there is one.
pub fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let highest = ours.1.min(theirs.1);
    (highest >= ours.0.max(theirs.0)).then_some(highest)
}

fn check_runs(runs: &[Run]) -> Result<(), DecodeError> {
    bound("runs", runs.len(), bounds::RUNS)?;
    runs.iter().try_for_each(Run::check)
}

fn check_ranges(ranges: &[Range]) -> Result<(), DecodeError> {
    bound("ranges", ranges.len(), bounds::SEEN)?;
    for range in ranges {
        check_seq("range", range.first)?;
        check_seq("range", range.last)?;
        if range.first > range.last {
            return Err(DecodeError::malformed("range", "it ends before it begins"));
        }
    }
    Ok(())
}

/// Ranges of positions are numbered as in a heap whose root is 1, sixty levels deep.
fn check_numbers(ranges: &[u64], most: usize) -> Result<(), DecodeError> {
    bound("ranges", ranges.len(), most)?;
    if ranges.iter().any(|range| *range == 0 || *range >= 1 << 61) {
        return Err(DecodeError::malformed("ranges", "there is no range of that number"));
    }
    Ok(())
}

fn check_reach(zone: &str, addresses: &[String]) -> Result<(), DecodeError> {
    bound("zone", zone.len(), bounds::TEXT)?;
    bound("addresses", addresses.len(), bounds::ADDRESSES)?;
    addresses.iter().try_for_each(|address| bound("address", address.len(), bounds::TEXT))
}
