//! What the transport counts. The doc comments of the fields are the help texts of the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use tidings_proto::{Lane, Message};

use super::reason::{Ending, Reason};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: usize) -> u64 {
        self.0.fetch_add(n as u64, Ordering::Relaxed) + n as u64
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each [`Reason`].
#[derive(Debug)]
pub struct ByReason(Vec<Counter>);

impl ByReason {
    fn new() -> Self {
        Self(Reason::ALL.iter().map(|_| Counter::default()).collect())
    }

    fn count(&self, reason: Reason) -> u64 {
        self.0[reason.position()].add(1)
    }

    /// The count of one reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason.position()].get()
    }

    /// All reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.get(*reason)))
    }
}

/// Frames and bytes either way.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Frames received.
    pub frames_in: Counter,
    /// Bytes of frames received, with their length prefix.
    pub bytes_in: Counter,
    /// Frames queued for sending.
    pub frames_out: Counter,
    /// Bytes of frames queued for sending, with their length prefix.
    pub bytes_out: Counter,
}

impl Traffic {
    fn received(&self, bytes: usize) {
        self.frames_in.add(1);
        self.bytes_in.add(bytes);
    }

    fn sent(&self, bytes: usize) {
        self.frames_out.add(1);
        self.bytes_out.add(bytes);
    }
}

/// What the transport counts.
#[derive(Debug)]
pub struct NetStats {
    /// Connections from other nodes whose TLS handshake completed.
    pub accepted: Counter,
    /// Connections to other nodes whose TLS handshake completed.
    pub dialled: Counter,
    /// Attempts to reach an address that found nobody, or nobody who completed the TLS handshake.
    pub dial_failures: Counter,
    /// Links that came up.
    pub links_up: Counter,
    /// Links that went down.
    pub links_down: Counter,
    /// Connections that this node refused before they became links, by reason.
    pub refused: ByReason,
    /// Connections that the other end refused before they became links, by reason.
    pub refused_by_peer: ByReason,
    /// Links that ended, by reason.
    pub ended: ByReason,
    /// Connection attempts that were made to prove their address before any work was done for them.
    pub retries: Counter,
    /// Traffic on the news lanes.
    pub news: Traffic,
    /// Traffic on the bulk lanes.
    pub bulk: Traffic,
    /// Frames dropped because a news lane's queue was full; sync repairs what was in them.
    pub news_queue_full: Counter,
    /// Frames dropped because a bulk lane's queue was full; sync repairs what was in them.
    pub bulk_queue_full: Counter,
    /// Times that a peer was not read from for a while, because it asked for more than its share.
    pub pauses: Counter,
    /// Frames received that were over their bound; the link was closed.
    pub oversized: Counter,
    /// Frames received that did not decode; the link was closed.
    pub malformed: Counter,
    kinds: Vec<Traffic>,
}

impl Default for NetStats {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            dialled: Counter::default(),
            dial_failures: Counter::default(),
            links_up: Counter::default(),
            links_down: Counter::default(),
            refused: ByReason::new(),
            refused_by_peer: ByReason::new(),
            ended: ByReason::new(),
            retries: Counter::default(),
            news: Traffic::default(),
            bulk: Traffic::default(),
            news_queue_full: Counter::default(),
            bulk_queue_full: Counter::default(),
            pauses: Counter::default(),
            oversized: Counter::default(),
            malformed: Counter::default(),
            kinds: Message::KINDS.iter().map(|_| Traffic::default()).collect(),
        }
    }
}

impl NetStats {
    /// Traffic by kind of message (see [`Message::kind`]).
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, &Traffic)> + '_ {
        Message::KINDS.iter().copied().zip(&self.kinds)
    }

    /// Traffic by lane.
    pub fn by_lane(&self) -> [(&'static str, &Traffic); 2] {
        [("news", &self.news), ("bulk", &self.bulk)]
    }

    fn lane(&self, lane: Lane) -> &Traffic {
        match lane {
            Lane::News => &self.news,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(super) fn received(&self, lane: Lane, kind: &str, bytes: usize) {
        self.lane(lane).received(bytes);
        self.kinds[kind_position(kind)].received(bytes);
    }

    pub(super) fn sent(&self, lane: Lane, kind: &str, bytes: usize) {
        self.lane(lane).sent(bytes);
        self.kinds[kind_position(kind)].sent(bytes);
    }

    pub(super) fn queue_full(&self, lane: Lane) {
        match lane {
            Lane::News => self.news_queue_full.add(1),
            Lane::Bulk => self.bulk_queue_full.add(1),
        };
    }

    /// Counts a connection that became no link. Answers whether to log it aloud: strangers can cause as many as they
    /// like, so only the first, second, fourth, eighth ... of a reason are.
    pub(super) fn refusal(&self, ending: &Ending) -> bool {
        let counters = if ending.by_peer { &self.refused_by_peer } else { &self.refused };
        let count = counters.count(ending.reason);
        !ending.reason.is_normal() && count.is_power_of_two()
    }

    pub(super) fn link_ended(&self, reason: Reason) {
        self.links_down.add(1);
        self.ended.count(reason);
    }
}

fn kind_position(kind: &str) -> usize {
    let found = Message::KINDS.iter().position(|known| *known == kind);
    debug_assert!(found.is_some(), "{kind} is missing from Message::KINDS");
    found.unwrap_or(0)
}
