//! What other threads do beside the appending one: checkpoints, letting go of old segments, reading back.

use std::sync::Arc;

use super::checkpoint::{self, CheckpointError, CheckpointWriter};
use super::disk::{Disk, DiskError, DiskFile};
use super::log::{Segment, Shared, State};
use super::segment::{self, HEADER_BYTES, Kind, Next, RECORD_HEADER_BYTES};
use super::{KEPT_CHECKPOINTS, Lsn, MAX_RECORD_BYTES, MAX_RETAINED_SEGMENTS};

/// A handle for the threads that do not append.
#[derive(Debug, Clone)]
pub struct Housekeeper {
    pub(super) shared: Arc<Shared>,
}

/// What [`Housekeeper::retire`] let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    pub segments: u64,
    pub bytes: u64,
}

/// The segments removed before the error stay removed, the others are kept.
#[derive(Debug, thiserror::Error)]
#[error("{source}; {} old segments were removed, the others are kept", done.segments)]
pub struct RetireError {
    pub done: Retired,
    pub source: DiskError,
}

/// Nothing changes by reading; records delivered before the error were sound.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log no longer reaches back, or never had it.
    #[error("record {lsn} is not in the log, which begins at {oldest}")]
    Gone { lsn: Lsn, oldest: Lsn },
    #[error("{file} is damaged at byte {offset}: {found}; the record is not served")]
    Damaged { file: String, offset: u64, found: &'static str },
}

impl Housekeeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Housekeeper { shared }
    }

    /// Begins a checkpoint of the state after record `lsn`, which must have been appended and must not be older than
    /// the newest checkpoint's. [`Housekeeper::bytes_since_checkpoint`] counts from here once it is finished.
    pub fn begin_checkpoint(&self, lsn: Lsn) -> Result<CheckpointWriter, CheckpointError> {
        CheckpointWriter::begin(Arc::clone(&self.shared), lsn)
    }

    /// Removes segments, oldest first, that no kept checkpoint needs, as long as the log is larger than
    /// `retain_bytes`, or what they hold is older than `retain_age_ms`.
    pub fn retire(&self, now_ms: u64) -> Result<Retired, RetireError> {
        let _turn = self.shared.retire_turn.lock();
        let mut done = Retired::default();
        while let Some(segment) = self.shared.take_retirable(now_ms) {
            let name = segment::file_name(segment.first);
            let removed = self.shared.disk.remove(&name);
            // Synced one by one: a hole in the log would pass for damage, so they go in order even on a file system
            // that reorders.
            if let Err(source) = removed.and_then(|()| self.shared.sync_dir()) {
                self.shared.put_back(segment);
                return Err(RetireError { done, source });
            }
            done.segments += 1;
            done.bytes += segment.bytes;
        }
        Ok(done)
    }

    /// Bytes of all segments, without what is preallocated.
    pub fn log_bytes(&self) -> u64 {
        self.shared.state.lock().log_bytes
    }

    /// Bytes of records appended since the newest checkpoint was begun.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.shared.state.lock().since_checkpoint
    }

    /// The oldest record the log still has, or would have: with an empty log, the next one.
    pub fn oldest_lsn(&self) -> Lsn {
        self.shared.state.lock().oldest()
    }

    /// The record that the newest durable checkpoint reflects.
    pub fn checkpoint_lsn(&self) -> Option<Lsn> {
        self.shared.state.lock().checkpoints.last().copied()
    }

    /// Segments on disk.
    pub fn segments(&self) -> usize {
        self.shared.state.lock().segments.len()
    }

    /// Reads records from number `from` on, until `visit` returns false or the log, as it was at the call, ends.
    /// Meant for what memory has let go of: two reads a record, and a walk from the nearest place that is known.
    pub fn read_from(&self, from: Lsn, mut visit: impl FnMut(Lsn, &[u8]) -> bool) -> Result<(), ReadError> {
        let mut next = from;
        let written = self.shared.state.lock().written;
        let mut done = false;
        while next <= written && !done {
            let (segment, last) = {
                let state = self.shared.state.lock();
                let oldest = state.oldest();
                let at = state.segments.partition_point(|s| s.first <= next);
                let at = at.checked_sub(1).ok_or(ReadError::Gone { lsn: next, oldest })?;
                let last = state.segments.get(at + 1).map_or(written, |following| following.first - 1);
                (state.segments[at].clone(), last.min(written))
            };
            let Some(file) = self.open(&segment, next)? else {
                continue;
            };
            let (lsn, at) = segment.place(next);
            let mut walk = Walk { file: &*file, segment, at, lsn };
            let walked = walk.read(&mut next, last, &mut visit);
            self.shared.state.lock().learn_places(walk.segment);
            done = walked?;
        }
        Ok(())
    }

    /// `None` if the segment was retired between the look and the opening.
    fn open(&self, segment: &Segment, lsn: Lsn) -> Result<Option<Arc<dyn DiskFile>>, ReadError> {
        match self.shared.disk.open(&segment::file_name(segment.first)) {
            Ok(file) => Ok(Some(file)),
            Err(_) if self.oldest_lsn() > lsn => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A reader's place in a segment.
struct Walk<'a> {
    file: &'a dyn DiskFile,
    segment: Segment,
    at: u64,
    lsn: Lsn,
}

impl Walk<'_> {
    /// Visits the records from `next` up to `last`, all of which are in the segment; whether no more are wanted.
    fn read(
        &mut self,
        next: &mut Lsn,
        last: Lsn,
        visit: &mut impl FnMut(Lsn, &[u8]) -> bool,
    ) -> Result<bool, ReadError> {
        let mut buf = Vec::new();
        while self.lsn <= last {
            let wanted = self.lsn >= *next;
            let kind = self.step(wanted, &mut buf)?;
            if !wanted {
                continue;
            }
            *next = self.lsn;
            let payload = &buf[RECORD_HEADER_BYTES..];
            if kind == Kind::Data && !visit(*next - 1, payload) {
                return Ok(true);
            }
        }
        *next = last + 1;
        Ok(false)
    }

    /// Goes past one record; if it is `wanted`, `buf` holds all of it and it is verified.
    fn step(&mut self, wanted: bool, buf: &mut Vec<u8>) -> Result<Kind, ReadError> {
        buf.clear();
        buf.resize(RECORD_HEADER_BYTES, 0);
        let read = self.file.read_at(self.at, buf)?;
        let len = segment::u32_at(buf, 0) as usize;
        let whole = (RECORD_HEADER_BYTES + len) as u64;
        if read < RECORD_HEADER_BYTES
            || len > MAX_RECORD_BYTES
            || self.at + whole > self.segment.bytes
            || segment::u64_at(buf, 8) != self.lsn
        {
            return Err(self.damaged("not the record that should be here"));
        }
        let mut kind = Kind::Closed;
        if wanted {
            buf.resize(whole as usize, 0);
            let payload = &mut buf[RECORD_HEADER_BYTES..];
            let offset = self.at + RECORD_HEADER_BYTES as u64;
            if self.file.read_at(offset, payload)? < len {
                return Err(self.damaged("the file ends inside a record"));
            }
            kind = match segment::expect_record(buf, self.lsn) {
                Next::Record(record) => record.kind,
                Next::End => return Err(self.damaged("zeros")),
                Next::Bad(found) => return Err(self.damaged(found)),
            };
        }
        self.segment.note(self.lsn, self.at);
        self.at += whole;
        self.lsn += 1;
        Ok(kind)
    }

    fn damaged(&self, found: &'static str) -> ReadError {
        ReadError::Damaged { file: segment::file_name(self.segment.first), offset: self.at, found }
    }
}

impl Shared {
    pub(super) fn checkpoint_finished(&self, lsn: Lsn, covered_bytes: u64) {
        let kept = {
            let mut state = self.state.lock();
            state.checkpoints.retain(|c| *c != lsn);
            state.checkpoints.push(lsn);
            let surplus = state.checkpoints.len().saturating_sub(KEPT_CHECKPOINTS);
            state.checkpoints.drain(..surplus);
            state.since_checkpoint -= covered_bytes;
            state.checkpoints.clone()
        };
        // Failing here costs room only, and is tried again at the next.
        if let Err(error) = remove_superseded(&*self.disk, &kept) {
            tracing::warn!(%error, "an old checkpoint was not removed");
        }
    }

    /// Takes the oldest segment off the list, if it may go.
    fn take_retirable(&self, now_ms: u64) -> Option<Segment> {
        let mut state = self.state.lock();
        let needed_after = *state.checkpoints.first()?;
        // A segment holds what was written until the next one was made.
        let (oldest, following) = (state.segments.front()?, state.segments.get(1)?);
        if following.first > needed_after + 1 {
            return None;
        }
        let age = now_ms.saturating_sub(following.created_ms);
        if state.log_bytes <= self.options.retain_bytes
            && age <= self.options.retain_age_ms
            && state.segments.len() <= MAX_RETAINED_SEGMENTS
        {
            return None;
        }
        assert!(following.first <= state.durable + 1, "only durable log is retired");
        state.log_bytes -= oldest.bytes;
        state.segments.pop_front()
    }

    fn put_back(&self, segment: Segment) {
        let mut state = self.state.lock();
        state.log_bytes += segment.bytes;
        state.segments.push_front(segment);
    }
}

impl Segment {
    /// The last place that is known not to be behind a record.
    fn place(&self, lsn: Lsn) -> (Lsn, u64) {
        let known = self.places.partition_point(|(there, _)| *there <= lsn);
        known.checked_sub(1).map_or((self.first, HEADER_BYTES as u64), |at| self.places[at])
    }
}

impl State {
    /// Keeps what a walk has found out about a segment.
    fn learn_places(&mut self, walked: Segment) {
        let known = self.segments.iter_mut().find(|segment| segment.first == walked.first);
        if let Some(segment) = known.filter(|segment| segment.places.len() < walked.places.len()) {
            segment.places = walked.places;
        }
    }

    fn oldest(&self) -> Lsn {
        self.segments.front().expect("a log has a segment").first
    }
}

fn remove_superseded(disk: &dyn Disk, kept: &[Lsn]) -> Result<(), DiskError> {
    for name in disk.list()? {
        if checkpoint::parse_file_name(&name).is_some_and(|lsn| !kept.contains(&lsn)) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}
