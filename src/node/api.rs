//! What operators ask of a node, and the rows it answers with: shared by the admin
//! socket, its client, the command line and the status page.
//!
//! Keys, elements and values are bytes. In JSON they are a string where they are
//! UTF-8 and `{"base64": "..."}` where they are not; both are read everywhere.

use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_proto::Name;

pub use super::facts::{Facts, Timings};
pub use super::text::Text;
pub use crate::archive::{Standing, Summary};
use crate::config::ConfigRow;

/// What a node is and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The node's name, as its certificate says.
    pub node: Name,
    /// The cluster.
    pub realm: Name,
    /// Its zone; empty for none.
    pub zone: String,
    /// Which of the node's lives this is: 16 hexadecimal digits.
    pub incarnation: String,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at: u64,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Why it is not ready to serve, if it is not.
    pub not_ready: Option<String>,
    /// Why writes are refused, if they are.
    pub writes_stopped: Option<String>,
    /// Where it listens.
    pub addresses: Addresses,
    /// Where its data is.
    pub data_dir: String,
    /// When its log is forced to the disk.
    pub fsync: String,
    /// Members by state, itself included.
    pub members: MemberCounts,
    /// Members it has a link to.
    pub peers_linked: u64,
    /// How many keys readers see.
    pub keys: u64,
    /// Keys by each kind that they hold.
    pub kinds: KeyCounts,
    /// Keys with several versions, and keys used as several kinds.
    pub conflicts: Conflicts,
    /// Entries of its version vector.
    pub seen_entries: u64,
    /// Removals that wait for the write they name.
    pub parked_removals: u64,
    /// The log of recent ops.
    pub log: LogSize,
    /// How far its clock is ahead of the median of its peers', in milliseconds; none without peers.
    pub clock_offset_ms: Option<i64>,
    /// How its archive fares; none if it has none.
    #[serde(default)]
    pub archive: Option<Standing>,
}

/// Where a node listens; none where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// Other nodes (QUIC over UDP).
    pub quic: String,
    /// Redis clients (TCP).
    pub resp: Option<String>,
    /// Metrics, health and the status page (TCP).
    pub http: Option<String>,
    /// The admin socket.
    pub admin: String,
    /// Where other members are told to reach it.
    pub advertised: Vec<String>,
}

/// Members by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberCounts {
    /// The node itself, and those it has a link to.
    pub alive: u64,
    /// Those it has no link to now.
    pub away: u64,
    /// Those that left on purpose.
    pub left: u64,
}

/// Keys by each kind that they hold; a key may hold several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyCounts {
    /// Registers.
    pub lww_register: u64,
    /// Sets.
    pub or_set: u64,
    /// Counters that only grow.
    pub gcounter: u64,
    /// Counters.
    pub pncounter: u64,
}

/// Concurrent writes that readers see only one side of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conflicts {
    /// Registers with several versions.
    pub versions: u64,
    /// Keys used as several kinds.
    pub kinds: u64,
}

/// The size of the log of recent ops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogSize {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// How a member is taken to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// The node itself, or linked.
    Alive,
    /// There is no link to it now.
    Away,
    /// It left on purpose.
    Left,
}

/// A member as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Its name.
    pub node: Name,
    /// Its zone; empty for none.
    pub zone: String,
    /// How it is taken to be.
    pub state: MemberState,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Whether it is the node that answers.
    pub own: bool,
    /// How many ops that this node has it is not known to have. Of one that is away: by what it last said.
    pub unconfirmed: u64,
}

/// A peer: a member or an address that this node has, or seeks, a link to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name; none until it has answered.
    pub node: Option<Name>,
    /// The address in use or tried last.
    pub address: String,
    /// Whether the link is up.
    pub linked: bool,
    /// Whether it was set by hand or as a seed, and is sought until removed.
    pub fixed: bool,
    /// Round-trip time, in microseconds.
    pub rtt_us: Option<u64>,
    /// How far its clock is ahead of ours, in milliseconds, as measured at the handshake.
    pub clock_offset_ms: Option<i64>,
    /// How many of this node's own writes it is not known to have.
    pub unconfirmed: u64,
    /// Why the last attempt at a link failed, if it did.
    pub error: Option<String>,
}

/// The type of a key's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A value; the latest write wins.
    LwwRegister,
    /// A set; adds win over concurrent removals.
    OrSet,
    /// A counter that only grows.
    #[serde(rename = "gcounter")]
    GCounter,
    /// A counter.
    #[serde(rename = "pncounter")]
    PnCounter,
}

impl From<crate::core::view::Kind> for Kind {
    fn from(kind: crate::core::view::Kind) -> Self {
        use crate::core::view::Kind as Core;
        match kind {
            Core::OrSet => Self::OrSet,
            Core::LwwRegister => Self::LwwRegister,
            Core::PnCounter => Self::PnCounter,
            Core::GCounter => Self::GCounter,
        }
    }
}

impl Kind {
    /// The name that JSON, metrics and tables use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LwwRegister => "lww_register",
            Self::OrSet => "or_set",
            Self::GCounter => "gcounter",
            Self::PnCounter => "pncounter",
        }
    }
}

/// What readers see of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A counter's sum, clamped to 64 bits.
    Count(i64),
    /// A register's value.
    Bytes(Text),
    /// A set's elements, in order.
    Elements(Vec<Text>),
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// Its name.
    pub key: Text,
    /// The visible kind; none if only the name was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// What readers see; none if only the name was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// When it expires, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Kinds that hold data under the same name and are not visible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<Kind>,
    /// Everything the cells hold; empty unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionRow>,
}

/// One live write: a version of a register, the presence of an element, a contribution to a counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// The kind of its cell.
    pub kind: Kind,
    /// A register's value, a set's element, or a counter's contribution net of what deletes observed.
    pub value: Value,
    /// The node that wrote it.
    pub origin: Name,
    /// The write: `node@incarnation:number`.
    pub dot: String,
    /// When, in milliseconds since the Unix epoch by its author's clock; none where no time is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// What orders writes of one millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical: Option<u16>,
    /// BLAKE3 of the value, in hexadecimal; registers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Whether it is what readers see.
    pub visible: bool,
}

/// Some keys, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// The keys.
    pub keys: Vec<KeyRow>,
    /// What to ask with for the next page; none after the last.
    pub cursor: Option<String>,
}

/// How much of each key is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Its name.
    Names,
    /// What readers see.
    #[default]
    Values,
    /// All versions with their metadata too.
    Versions,
}

/// Which keys of this node are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// What their names begin with.
    pub prefix: Vec<u8>,
    /// Where to go on, as the previous page said.
    pub cursor: Option<String>,
    /// About how many at most.
    pub limit: usize,
    /// How much of each.
    pub detail: Detail,
}

/// Which keys of a peer are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// The peer.
    pub peer: Name,
    /// The keys; none for all.
    #[serde(default)]
    pub keys: Vec<Text>,
    /// Whether their names are enough.
    #[serde(default)]
    pub names_only: bool,
    /// Where to go on, as the previous page said. Only without keys.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write a register.
    Set(Vec<u8>),
    /// Remove all of the key that this node has seen.
    Delete,
    /// Add elements to a set.
    Add(Vec<Vec<u8>>),
    /// Remove elements from a set.
    Remove(Vec<Vec<u8>>),
    /// Add to a counter; `GCounter` refuses what is negative.
    Increment(CounterKind, i64),
}

/// Which of the two counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CounterKind {
    /// Grows only.
    GCounter,
    /// Grows and shrinks.
    #[default]
    PnCounter,
}

/// What became of a write. It is as durable as the node's `fsync` setting promises.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// How many keys or elements it changed.
    pub changed: u64,
    /// The counter's new sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
}

/// What was pushed to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRow {
    /// The peer.
    pub node: Name,
    /// Ops that were sent or announced because it was not known to have them.
    pub ops: u64,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a round of anti-entropy went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncResult {
    /// Both had seen the same.
    Equal,
    /// The log had what was missing.
    Ops,
    /// The log did not reach back; the states were merged.
    Merge,
    /// It did not come to an end.
    Failed,
}

/// A round of anti-entropy with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRow {
    /// The peer.
    pub node: Name,
    /// How it went.
    pub result: SyncResult,
    /// Ops sent.
    pub sent: u64,
    /// Ops received.
    pub received: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What an audit found in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Where: `memory`, `disk`, or a peer by name.
    pub place: String,
    /// What was found, in words.
    pub found: String,
    /// Whether all is as it should be.
    pub sound: bool,
}

/// A request for a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupRequest {
    /// Where to, as `file:///path` or `s3://bucket/prefix`; none for the configured archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRow {
    /// What `restore --manifest` calls it.
    pub manifest: String,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatRow {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// Why a request was not done. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such key, member or peer.
    #[error("{0}")]
    NotFound(String),
    /// What is there forbids it, as a key of another kind does.
    #[error("{0}")]
    Conflict(String),
    /// The node cannot do it now: writes are stopped, memory is full, a peer does not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// The answer to something that takes a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// What operators may ask of a node. The doors know a node by this alone.
pub trait Operator: Send + Sync + 'static {
    /// What it is and how it fares.
    fn status(&self) -> Status;
    /// Whom it knows, itself included, by name.
    fn members(&self) -> Vec<MemberRow>;
    /// Whom it has or seeks a link to.
    fn peers(&self) -> Vec<PeerRow>;
    /// Its settings and where they came from.
    fn config(&self) -> Vec<ConfigRow>;
    /// Its counters, for metrics.
    fn facts(&self) -> Facts;
    /// Why it is not ready to serve, if it is not. Cheap: probes ask often.
    fn not_ready(&self) -> Option<String> {
        self.status().not_ready
    }

    /// Seeks a link to an address, `host:port`, from now on.
    fn add_peer(&self, address: String) -> Answer<'_, ()>;
    /// Closes the link to a peer, by name or address, and no longer seeks one.
    fn remove_peer(&self, peer: String) -> Answer<'_, ()>;
    /// Offers to a peer, or to all that are linked, what they are not known to have.
    fn push(&self, peer: Option<Name>) -> Answer<'_, Vec<PushRow>>;
    /// Fetches a peer's cells, or their names. Nothing is merged.
    fn pull(&self, request: PullRequest) -> Answer<'_, Page>;
    /// Runs anti-entropy with a peer, with all that are linked, or with `fanout` of them.
    fn sync(&self, peer: Option<Name>, all: bool) -> Answer<'_, Vec<SyncRow>>;
    /// Audits memory and disk, and compares the state with that of one peer, or of all.
    fn audit(&self, peer: Option<Name>) -> Answer<'_, Vec<AuditRow>>;

    /// The figures of this node or of a peer.
    fn stats(&self, peer: Option<Name>) -> Answer<'_, Vec<StatRow>>;
    /// Tells the others that this node goes, gives them what they lack, and stops it.
    fn leave(&self) -> Answer<'_, ()>;

    /// Writes a checkpoint now and archives it.
    fn backup(&self, request: BackupRequest) -> Answer<'_, BackupRow>;
    /// The checkpoints of this realm in the configured archive, the newest first.
    fn backups(&self) -> Answer<'_, Vec<Summary>>;

    /// A key as it is now; none if it is absent.
    fn read(&self, key: &[u8], detail: Detail) -> Result<Option<KeyRow>, Refusal>;
    /// A key as it is once this node has all that `nodes` nodes, itself included, had when they
    /// were asked; none if it is absent.
    fn read_quorum(
        &self,
        key: Vec<u8>,
        detail: Detail,
        nodes: usize,
        timeout: Duration,
    ) -> Answer<'_, Option<KeyRow>>;
    /// Some keys, in no particular order.
    fn scan(&self, scan: Scan) -> Result<Page, Refusal>;
    /// Writes a key, and returns once the write is as durable as promised.
    fn write(&self, key: Vec<u8>, change: Change) -> Answer<'_, Written>;
}
