//! Plain counters of a node, gathered at each scrape, and its distributions. What they are called outside, and
//! the help texts, stand in the table of the metrics endpoint.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::api::{Conflicts, KeyCounts, LogSize, MemberCounts, StatRow};

/// Counts by a label of few values.
pub type ByLabel = BTreeMap<&'static str, u64>;

/// All counters of a node. Those that only grow start at 0 with the process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// Replication.
    pub engine: EngineFacts,
    /// Links to other nodes.
    pub net: NetFacts,
    /// The disk.
    pub store: StoreFacts,
    /// Redis clients.
    pub resp: RespFacts,
    /// The process.
    pub process: ProcessFacts,
}

/// Replication.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EngineFacts {
    /// Pushes sent.
    pub pushes_sent: u64,
    /// Pushes received.
    pub pushes_received: u64,
    /// Pulls sent.
    pub pulls_sent: u64,
    /// Pulls received, and answered.
    pub pulls_received: u64,
    /// Rounds of anti-entropy ended, by result: `equal`, `ops`, `merge`, `failed`.
    pub syncs: ByLabel,
    /// Context merges ended, by result: `committed`, `aborted`.
    pub merges: ByLabel,
    /// Ops sent, inline and as asked for.
    pub ops_sent: u64,
    /// Ops received, duplicates included.
    pub ops_received: u64,
    /// Ops received that had been applied already.
    pub ops_duplicate: u64,
    /// Ops applied, by source: `local`, `push`, `pull`, `sync`, `recovery`.
    pub ops_applied: ByLabel,
    /// Ops now waiting for the ones before them.
    pub ops_waiting: u64,
    /// Keys by kind.
    pub keys: KeyCounts,
    /// Keys in conflict.
    pub conflicts: Conflicts,
    /// Removals that wait for the write they name.
    pub parked_removals: u64,
    /// Entries of the version vector.
    pub seen_entries: u64,
    /// Estimated memory of all data, in bytes.
    pub memory_bytes: u64,
    /// Members by state.
    pub members: MemberCounts,
    /// Peers whose queue overflowed, so that they wait for anti-entropy.
    pub peers_behind: u64,
    /// How far this node's clock is ahead of the median of its peers', in milliseconds.
    pub clock_offset_ms: i64,
    /// Remote timestamps that were too far ahead to follow.
    pub clock_clamped: u64,
    /// Writes refused, by reason: `memory`, `disk`, `limit`.
    pub writes_refused: ByLabel,
}

/// Links to other nodes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NetFacts {
    /// Links that are up.
    pub peers_linked: u64,
    /// Messages sent, by kind.
    pub messages_sent: ByLabel,
    /// Messages received, by kind.
    pub messages_received: ByLabel,
    /// Bytes of messages sent, by kind.
    pub bytes_sent: ByLabel,
    /// Bytes of messages received, by kind.
    pub bytes_received: ByLabel,
    /// Frames dropped because a queue was full.
    pub dropped: u64,
    /// Connections refused by this node, by reason.
    pub refused: ByLabel,
    /// Attempts to reach a peer that failed.
    pub dial_failures: u64,
}

/// The disk.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreFacts {
    /// The log of recent ops.
    pub log: LogSize,
    /// Records appended to the log.
    pub log_records: u64,
    /// Bytes appended to the log.
    pub log_bytes: u64,
    /// Checkpoints written, by result: `ok`, `failed`.
    pub checkpoints: ByLabel,
    /// When the last checkpoint was written, in seconds since the Unix epoch; 0 for never.
    pub checkpoint_time: u64,
    /// Whether writes are stopped after an IO error.
    pub writes_stopped: bool,
}

/// Redis clients.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RespFacts {
    /// Clients connected now.
    pub clients: u64,
    /// Clients accepted.
    pub accepted: u64,
    /// Clients refused or closed, by reason: `limit`, `output`, `malformed`.
    pub refused: ByLabel,
    /// Commands executed.
    pub commands: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// Frames that were not the protocol.
    pub malformed: u64,
}

/// The process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProcessFacts {
    /// When it started, in seconds since the Unix epoch.
    pub start_time: u64,
    /// Whether the node is ready to serve.
    pub ready: bool,
}

/// Distributions, recorded as things happen. Those of the default record nothing.
#[derive(Clone)]
pub struct Timings {
    /// Time of a forced write of the log to the disk, in seconds.
    pub fsync_seconds: metrics::Histogram,
    /// Ops that were written to the log together.
    pub commit_ops: metrics::Histogram,
    /// Time from a write at its origin, by the origin's clock, to its apply here, in seconds.
    pub propagation_seconds: metrics::Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        let none = metrics::Histogram::noop;
        Self { fsync_seconds: none(), commit_ops: none(), propagation_seconds: none() }
    }
}

impl std::fmt::Debug for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Timings")
    }
}

impl Facts {
    /// All of them by name, such as `net.messages_sent.push`.
    pub fn rows(&self) -> Vec<StatRow> {
        let mut rows = Vec::new();
        let tree = serde_json::to_value(self).expect("plain numbers are always JSON");
        flatten(String::new(), &tree, &mut rows);
        rows
    }
}

fn flatten(name: String, tree: &Value, rows: &mut Vec<StatRow>) {
    let value = match tree {
        Value::Object(fields) => {
            for (field, tree) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(name, tree, rows);
            }
            return;
        }
        Value::Bool(yes) => u64::from(*yes),
        // The one signed fact, the clock's offset, is reported by its size here: figures on the wire are unsigned.
        other => other.as_u64().or_else(|| other.as_i64().map(i64::unsigned_abs)).unwrap_or(0),
    };
    rows.push(StatRow { name, value });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_have_names() {
        let mut facts = Facts::default();
        facts.net.messages_sent.insert("push", 7);
        facts.engine.clock_offset_ms = -3;
        let rows = facts.rows();
        let value = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.value);
        assert_eq!(value("net.messages_sent.push"), Some(7));
        assert_eq!(value("engine.clock_offset_ms"), Some(3));
        assert_eq!(value("store.log.disk_bytes"), Some(0));
    }
}
