//! One lane of a link in one direction: a bounded queue and its writer, or a reader of frames.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use thiserror::Error;
use tidings_proto::frame::{PREFIX, encode_message, length, limit};
use tidings_proto::{DecodeError, Lane, Message};
use tokio::sync::Notify;

use super::{
    BULK_QUEUE_BYTES, BULK_QUEUE_FRAMES, COALESCE_BYTES, HELLO_BYTES, NEWS_QUEUE_BYTES, NEWS_QUEUE_FRAMES,
    RECEIVING, WRITE_BYTES,
};

/// An encoded message: encoded once, sent to many. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Frame {
    lane: Lane,
    kind: &'static str,
    bytes: Bytes,
}

impl Frame {
    /// Encodes a message.
    ///
    /// # Panics
    /// If it is over its lane's limit: whoever makes messages keeps them within.
    pub fn new(message: &Message) -> Self {
        Self { lane: message.lane(), kind: message.kind(), bytes: encode_message(message).into() }
    }

    /// The lane it travels on.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The kind of message, see [`Message::kind`].
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its size on the wire, in bytes, with the prefix.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// The lane's queue has no room; the frame was not taken. What was in it is for sync to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the queue of the {0:?} lane is full")]
pub struct QueueFull(pub Lane);

/// Frames on their way into a stream, bounded in number and bytes. One frame larger than the bound in bytes is
/// taken by an empty queue.
#[derive(Debug)]
pub(super) struct Queue {
    lane: Lane,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    pub(super) fn new(lane: Lane) -> Self {
        Self { lane, waiting: Mutex::default(), filled: Notify::new() }
    }

    pub(super) fn push(&self, frame: &Frame) -> Result<(), QueueFull> {
        self.push_bytes(frame.bytes.clone())
    }

    pub(super) fn push_bytes(&self, bytes: Bytes) -> Result<(), QueueFull> {
        let (max_frames, max_bytes) = match self.lane {
            Lane::News => (NEWS_QUEUE_FRAMES, NEWS_QUEUE_BYTES),
            Lane::Bulk => (BULK_QUEUE_FRAMES, BULK_QUEUE_BYTES),
        };
        let mut waiting = self.waiting.lock();
        let fits = waiting.frames.len() < max_frames && waiting.bytes + bytes.len() <= max_bytes;
        if !fits && !waiting.frames.is_empty() {
            return Err(QueueFull(self.lane));
        }
        waiting.bytes += bytes.len();
        waiting.frames.push_back(bytes);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().frames.is_empty()
    }

    /// Takes frames up to [`WRITE_BYTES`], the small ones joined; waits for the first.
    async fn take(&self) -> Vec<Bytes> {
        loop {
            let chunks = self.take_now();
            if !chunks.is_empty() {
                return chunks;
            }
            self.filled.notified().await;
        }
    }

    fn take_now(&self) -> Vec<Bytes> {
        let mut waiting = self.waiting.lock();
        let mut chunks = Vec::new();
        let mut joined = BytesMut::new();
        let mut taken = 0;
        while taken < WRITE_BYTES
            && let Some(frame) = waiting.frames.pop_front()
        {
            taken += frame.len();
            waiting.bytes -= frame.len();
            let alone = joined.is_empty() && waiting.frames.is_empty();
            if alone || frame.len() >= COALESCE_BYTES {
                chunks.extend((!joined.is_empty()).then(|| joined.split().freeze()));
                chunks.push(frame);
            } else {
                joined.extend_from_slice(&frame);
            }
        }
        chunks.extend((!joined.is_empty()).then(|| joined.freeze()));
        chunks
    }
}

/// Writes what is queued until the stream fails; calls `emptied` whenever QUIC has accepted everything.
pub(super) async fn write(queue: &Queue, mut stream: SendStream, emptied: impl Fn()) -> WriteError {
    loop {
        let mut chunks = queue.take().await;
        if let Err(error) = stream.write_all_chunks(&mut chunks).await {
            return error;
        }
        if queue.is_empty() {
            emptied();
        }
    }
}

/// Why no further frame can be read.
#[derive(Debug, Error)]
pub(super) enum LaneError {
    #[error(transparent)]
    Frame(#[from] DecodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the lane ended")]
    Ended,
}

/// How a frame that takes long to arrive was last told of.
#[derive(Debug)]
struct Arrival {
    told: Instant,
    bytes: usize,
}

impl Arrival {
    /// Whether it is time to tell again, and enough has come since.
    fn is_to_be_told(&mut self, now: Instant, bytes: usize) -> bool {
        let (every, enough) = RECEIVING;
        let is = now.saturating_duration_since(self.told) >= every && bytes >= self.bytes + enough;
        if is {
            *self = Self { told: now, bytes };
        }
        is
    }
}

/// Cuts a stream into frames. The length is checked before anything is kept for a frame, and what is kept grows with what
/// has arrived, not with what was announced.
#[derive(Debug)]
pub(super) struct Reader {
    lane: Lane,
    limit: usize,
    stream: RecvStream,
    buffer: BytesMut,
}

impl Reader {
    pub(super) fn new(lane: Lane, stream: RecvStream) -> Self {
        Self { lane, limit: limit(lane), stream, buffer: BytesMut::new() }
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// The first frame, held to a bound of its own: its sender has not been accepted yet.
    pub(super) async fn hello(&mut self) -> Result<BytesMut, LaneError> {
        self.limit = HELLO_BYTES;
        let body = self.next(|| {}).await;
        self.limit = limit(self.lane);
        body
    }

    /// The next frame's body; calls `receiving` now and then while it is on its way. Safe to cancel.
    pub(super) async fn next(&mut self, receiving: impl Fn()) -> Result<BytesMut, LaneError> {
        let mut arrival = None;
        loop {
            if let Some(body) = self.buffered()? {
                return Ok(body);
            }
            match self.stream.read_chunk(WRITE_BYTES, true).await? {
                Some(chunk) => {
                    self.buffer.extend_from_slice(&chunk.bytes);
                    let (now, bytes) = (Instant::now(), self.buffer.len());
                    if arrival.get_or_insert(Arrival { told: now, bytes: 0 }).is_to_be_told(now, bytes) {
                        receiving();
                    }
                }
                None => return Err(LaneError::Ended),
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<BytesMut>, DecodeError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = length(*prefix, self.lane)?;
        if length > self.limit {
            let (size, bound) = (length as u64, self.limit as u64);
            return Err(DecodeError::Oversized { what: "hello", size, bound });
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    #[test]
    fn a_frame_that_takes_long_is_told_of_while_it_comes() {
        let began = Instant::now();
        let mut arrival = Arrival { told: began, bytes: 0 };
        let at = |millis: u64| began + std::time::Duration::from_millis(millis);
        // 10 kB a second, in pieces of 1,200 bytes: once a second or so.
        let told = (1..500_u64).filter(|n| arrival.is_to_be_told(at(n * 120), *n as usize * 1_200)).count();
        assert!((50..=60).contains(&told), "{told}");
        // What only trickles is not.
        let mut arrival = Arrival { told: began, bytes: 0 };
        let told = (1..500_u64).filter(|n| arrival.is_to_be_told(at(n * 120), *n as usize)).count();
        assert_eq!(told, 0);
    }

    #[test]
    fn the_queue_is_bounded_in_frames_and_bytes() {
        let queue = Queue::new(Lane::News);
        for _ in 0..NEWS_QUEUE_FRAMES {
            queue.push_bytes(frame(8)).unwrap();
        }
        assert_eq!(queue.push_bytes(frame(8)), Err(QueueFull(Lane::News)));

        let queue = Queue::new(Lane::Bulk);
        queue.push_bytes(frame(BULK_QUEUE_BYTES + 1)).unwrap();
        assert_eq!(queue.push_bytes(frame(1)), Err(QueueFull(Lane::Bulk)));
        assert_eq!(queue.take_now().len(), 1);
        queue.push_bytes(frame(1)).unwrap();
    }

    #[test]
    fn small_frames_leave_together_and_large_ones_uncopied() {
        let queue = Queue::new(Lane::News);
        for size in [10, 20, COALESCE_BYTES, 30, 40] {
            queue.push_bytes(frame(size)).unwrap();
        }
        let sizes: Vec<_> = queue.take_now().iter().map(Bytes::len).collect();
        assert_eq!(sizes, [30, COALESCE_BYTES, 70]);
        assert!(queue.is_empty());
    }

    #[test]
    fn one_write_is_bounded() {
        let queue = Queue::new(Lane::News);
        for _ in 0..1_000 {
            queue.push_bytes(frame(1_000)).unwrap();
        }
        let written: usize = queue.take_now().iter().map(Bytes::len).sum();
        assert!((WRITE_BYTES..WRITE_BYTES + 1_000).contains(&written));
    }
}
