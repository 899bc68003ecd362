//! What a context merge that broke off has left: cells that the next one need not fetch again.
//!
//! They are of an older moment, perhaps of another peer, so nothing rests on them: a range of them is used
//! only where its fingerprint is that of the snapshot which is then being received. What came over the wire
//! is in the log as it comes, so a process that is killed in the middle finds it there.

use super::actors::Actors;
use super::block::BlockBuilder;
use super::fingerprint::{Fingerprint, Prefix, Span};
use super::state::State;

/// How long they are kept for a next session; microseconds.
const KEPT: u64 = 600_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Leftover {
    cells: State,
    pub(super) until: u64,
}

impl Leftover {
    /// What was staged, if that is anything.
    pub(super) fn of(staged: State, now: u64) -> Option<Self> {
        (!staged.cells.is_empty()).then_some(Self { cells: staged, until: now + KEPT })
    }

    /// What is left, which nobody needs any more.
    pub(super) fn into_state(self) -> State {
        self.cells
    }

    /// The fuller of two.
    pub(super) fn fuller(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        [one, other].into_iter().flatten().max_by_key(|leftover| leftover.cells.cells.len())
    }

    /// The fingerprints of the sixteen parts of each of some ranges.
    pub(super) fn parts(&self, ranges: &[Prefix]) -> Vec<[Fingerprint; 16]> {
        self.cells.fingerprints_of(ranges)
    }

    /// About a block of the cells in a span, and what of the span is left.
    pub(super) fn blocks(&self, span: Span) -> (Vec<Vec<u8>>, Option<Span>) {
        let actors: &Actors = self.cells.actors();
        let mut builder = BlockBuilder::new(actors);
        let mut last = None;
        let within = self.cells.positions(span.start).take_while(|(position, _)| *position <= span.end);
        for (position, cells) in within {
            if builder.is_full() && last != Some(position) {
                return (builder.finish(), Some(Span { start: position, end: span.end }));
            }
            builder.push(cells);
            last = Some(position);
        }
        (builder.finish(), None)
    }
}
