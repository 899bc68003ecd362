//! Links: two lanes either way, each a bounded queue and a flight in order. QUIC
//! loses nothing while a link lasts; where a run has faults of the wire, frames are
//! lost, doubled, moved and damaged all the same.

use std::collections::VecDeque;

use tidings::engine::LinkId;
use tidings_proto::Lane;

use crate::plan::Kind;

/// Bytes that a writer takes off a queue at once; and on a squeezed link.
pub const WRITE_BYTES: usize = 64 << 10;
pub const SQUEEZED_BYTES: usize = 256;

/// How often a node is told that something large is arriving; microseconds.
pub const RECEIVING: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct Pipe {
    /// Taken by the queue, not yet by QUIC.
    waiting: VecDeque<Vec<u8>>,
    /// Whether the writer is at work; it then calls when it is done.
    pub writing: bool,
    /// On their way, with their times of arrival, in order.
    pub flight: VecDeque<(u64, Vec<u8>)>,
    /// Frames that arrive once more, in the order in which they do.
    pub echoes: VecDeque<Vec<u8>>,
    last_arrival: u64,
}

/// One side of a link.
#[derive(Debug)]
pub struct End {
    pub slot: usize,
    pub life: u64,
    pub link: LinkId,
    pub up: bool,
    pipes: [Pipe; 2],
}

#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// One way; microseconds.
    pub latency: (u64, u64),
    /// Nothing is taken by QUIC before this moment.
    pub clogged_until: u64,
    /// Until then it carries no more than so many bytes a second.
    pub squeezed: (u64, u64),
    /// What else ails it, until when.
    pub ills: Vec<(Kind, u64)>,
}

impl Conn {
    pub fn new(ends: [End; 2], latency: (u64, u64)) -> Self {
        Self { ends, latency, clogged_until: 0, squeezed: (0, 0), ills: Vec::new() }
    }
}

/// The queue is full; the frame was not taken.
#[derive(Debug)]
pub struct Full;

impl End {
    pub fn new(slot: usize, life: u64, link: LinkId) -> Self {
        Self { slot, life, link, up: true, pipes: Default::default() }
    }

    pub fn pipe(&mut self, lane: Lane) -> &mut Pipe {
        &mut self.pipes[lane as usize]
    }
}

impl Pipe {
    pub fn push(&mut self, frame: Vec<u8>, most: usize) -> Result<(), Full> {
        if self.waiting.len() >= most {
            return Err(Full);
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands to QUIC what it takes at once. Says how many frames set off, and how many bytes.
    pub fn write(&mut self, now: u64, most: usize, latency: impl Fn(usize) -> u64) -> (usize, usize) {
        let (mut frames, mut bytes) = (0, 0);
        while bytes < most
            && let Some(frame) = self.waiting.pop_front()
        {
            bytes += frame.len();
            frames += 1;
            let arrival = (now + latency(bytes)).max(self.last_arrival);
            self.last_arrival = arrival;
            self.flight.push_back((arrival, frame));
        }
        (frames, bytes)
    }
}

pub const LANES: [Lane; 2] = [Lane::News, Lane::Bulk];
