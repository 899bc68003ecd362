//! Plain counters of a node, gathered at each scrape, and its distributions. What they are
//! called outside, and the help texts, stand in the table of the metrics endpoint.

use std::collections::BTreeMap;

use super::api::MemberCounts;
use crate::core::link::{GossipCounts, Lags};
use crate::core::replica::OpCounts;
use crate::core::view::Tallies;
use crate::engine::Refusals;

/// Counts by a label of few values.
pub type ByLabel = BTreeMap<&'static str, u64>;

/// All counters of a node. Those that only grow start at 0 with the process.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What happened to ops.
    pub ops: OpCounts,
    /// Writes refused because a bound was exceeded.
    pub refusals: Refusals,
    /// What the protocol did.
    pub gossip: GossipCounts,
    /// How long ops took to arrive.
    pub lags: Lags,
    /// Keys and cells.
    pub tallies: Tallies,
    /// What the replica holds besides.
    pub replica: ReplicaFacts,
    /// Members, this node included.
    pub members: MemberCounts,
    /// Links to other nodes.
    pub net: NetFacts,
    /// The disk.
    pub store: StoreFacts,
    /// The archive.
    pub archive: crate::archive::Facts,
    /// Redis clients.
    pub resp: RespFacts,
    /// The process.
    pub process: ProcessFacts,
}

/// What the replica holds besides cells.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplicaFacts {
    /// Ops that wait for an earlier one of the same author.
    pub ops_waiting: u64,
    /// Removals that wait for the write they name.
    pub parked_removals: u64,
    /// Entries of the version vector.
    pub seen_entries: u64,
    /// Size of the log of recent ops in memory, in bytes.
    pub log_bytes: u64,
    /// Writes that linked peers are known to have and this node lacks.
    pub lag: u64,
    /// Members that the context merge under way streams from.
    pub merge_members: u64,
    /// Keys that the context merge under way has brought, and how many it is to bring where that is known.
    pub merge_keys: (u64, u64),
}

/// Links to other nodes.
#[derive(Debug, Clone, Default)]
pub struct NetFacts {
    /// Links that are up.
    pub linked: u64,
    /// Messages sent, by kind.
    pub messages_sent: ByLabel,
    /// Messages received, by kind.
    pub messages_received: ByLabel,
    /// Bytes of messages sent, by kind.
    pub bytes_sent: ByLabel,
    /// Bytes of messages received, by kind.
    pub bytes_received: ByLabel,
    /// Messages dropped because a lane's queue was full, by lane.
    pub dropped: ByLabel,
    /// Connections that this node refused, by reason.
    pub refused: ByLabel,
    /// Connections that the other end refused, by reason.
    pub refused_by_peer: ByLabel,
    /// Links that ended, by reason.
    pub ended: ByLabel,
    /// Attempts to reach an address that failed.
    pub dial_failures: u64,
    /// Times that a peer was not read from, because it asked for more than its share.
    pub pauses: u64,
    /// How far this node's clock is ahead of the median of its peers', in milliseconds; none without peers.
    pub clock_offset_ms: Option<i64>,
}

/// The disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreFacts {
    /// Size of the log on disk, in bytes, without what is preallocated.
    pub log_bytes: u64,
    /// Records appended to the log.
    pub records: u64,
    /// Bytes appended to the log.
    pub appended_bytes: u64,
    /// Bytes logged since the last checkpoint.
    pub since_checkpoint: u64,
    /// Audits of memory.
    pub audits: u64,
    /// Damaged files that audits found.
    pub damaged: u64,
    /// Checkpoints finished.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub checkpoints_failed: u64,
    /// When the last checkpoint was finished, in seconds since the Unix epoch; 0 for never.
    pub checkpoint_time: u64,
    /// Whether writes are stopped after an IO error.
    pub writes_stopped: bool,
}

/// Redis clients.
#[derive(Debug, Clone, Default)]
pub struct RespFacts {
    /// Clients connected now.
    pub clients: u64,
    /// Clients accepted.
    pub accepted: u64,
    /// Clients refused or closed, by reason.
    pub refused: ByLabel,
    /// Commands executed.
    pub commands: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// Frames that were not the protocol.
    pub malformed: u64,
}

/// The process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessFacts {
    /// When it started, in seconds since the Unix epoch.
    pub start_time: u64,
    /// Whether the node is ready to serve.
    pub ready: bool,
    /// Memory that the process holds, in bytes; 0 where the system does not say.
    pub resident_bytes: u64,
}

/// Distributions, recorded as things happen. Those of the default record nothing.
#[derive(Clone)]
pub struct Timings {
    /// Time of a forced write of the log to the disk, in seconds.
    pub fsync_seconds: metrics::Histogram,
    /// Ops that were written to the log together.
    pub commit_ops: metrics::Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        Self { fsync_seconds: metrics::Histogram::noop(), commit_ops: metrics::Histogram::noop() }
    }
}

impl std::fmt::Debug for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Timings")
    }
}
