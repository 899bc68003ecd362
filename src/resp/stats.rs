//! What this door counts. The metrics door reads it; nothing here knows a metrics library.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::table::Table;
use crate::node::RespFacts;

/// A figure that one thread changes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds without a locked instruction, which one writing thread does not need.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The figure now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Figures of the RESP door since the start of the process.
#[derive(Debug)]
pub struct RespStats {
    /// Connections open now.
    pub clients: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections refused because the limit of clients was reached.
    pub refused: Counter,
    /// Connections closed because of a malformed frame.
    pub malformed: Counter,
    /// Connections closed because their output, or all buffers together, passed the bound.
    pub overrun: Counter,
    /// Connections closed because the disk failed while their writes were being logged.
    pub failed: Counter,
    /// Commands executed, failed ones included.
    pub commands: Counter,
    /// Error replies of any sort.
    pub errors: Counter,
    /// Error replies to commands that do not exist.
    pub unknown: Counter,
    /// Bytes read from clients.
    pub bytes_in: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// Bytes of input and replies held for connections now.
    pub held: Counter,
    /// Commits: batches whose replies left together.
    pub batches: Counter,
    calls: Vec<Counter>,
}

impl RespStats {
    /// All figures at zero.
    pub fn new() -> Self {
        let calls = Table::get().rows().map(|_| Counter::default()).collect();
        Self {
            clients: Counter::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            malformed: Counter::default(),
            overrun: Counter::default(),
            failed: Counter::default(),
            commands: Counter::default(),
            errors: Counter::default(),
            unknown: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            held: Counter::default(),
            batches: Counter::default(),
            calls,
        }
    }

    /// The figures that operators and the metrics door read.
    pub fn facts(&self) -> RespFacts {
        let refused = [
            ("limit", self.refused.get()),
            ("output", self.overrun.get()),
            ("malformed", self.malformed.get()),
            ("disk", self.failed.get()),
        ];
        RespFacts {
            clients: self.clients.get(),
            accepted: self.accepted.get(),
            refused: refused.into(),
            commands: self.commands.get(),
            errors: self.errors.get(),
            malformed: self.malformed.get(),
        }
    }

    pub(crate) fn called(&self, row: usize) {
        self.commands.add(1);
        self.calls[row].add(1);
    }

    /// Calls of each command: family, name, count.
    pub fn by_command(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = Table::get().rows();
        rows.zip(&self.calls).map(|(row, calls)| (row.family.name(), row.name, calls.get()))
    }
}

impl Default for RespStats {
    fn default() -> Self {
        Self::new()
    }
}
