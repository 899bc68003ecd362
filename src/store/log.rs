//! The running log: appending, rolling, syncing, closing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::checkpoint::{CheckpointError, CheckpointWriter};
use super::disk::{Disk, DiskError, DiskFile};
use super::housekeeping::Housekeeper;
use super::segment::{self, HEADER_BYTES, Kind, RECORD_HEADER_BYTES, SegmentHeader};
use super::{
    BUFFER_KEPT_BYTES, Lsn, MAX_LSN, MAX_RECORD_BYTES, MAX_UNSYNCED_SEGMENTS, Options, PLACES_BYTES,
};

/// An open data directory. One thread owns it and appends.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    /// The segment being written, and where its next record goes.
    file: Arc<dyn DiskFile>,
    first: Lsn,
    at: u64,
    next: Lsn,
    buf: Vec<u8>,
}

/// Makes appended records durable; clones may run on any thread.
#[derive(Debug, Clone)]
pub struct Syncer {
    shared: Arc<Shared>,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was written; the log goes on.
    #[error("a batch of {bytes} bytes is over the limit of {MAX_RECORD_BYTES}; nothing was written")]
    TooLarge { bytes: usize },
    /// The batch is not acknowledged, though a restart may find it whole. Earlier batches are where they were. The
    /// log takes no more until a restart.
    #[error(
        "batch {lsn} was not written: {source}; earlier batches are kept, writes are refused until a restart"
    )]
    Disk { lsn: Lsn, source: DiskError },
    /// Nothing was written: an earlier write or sync failed.
    #[error("writes are refused until a restart, because of an earlier failure: {reason}")]
    Poisoned { reason: Arc<str> },
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Records after `durable` may or may not be on the disk, and trying again would not tell: the log takes no
    /// more until a restart.
    #[error(
        "{source}; batches after {durable} may not survive power loss, writes are refused until a restart"
    )]
    Disk { durable: Lsn, source: DiskError },
    /// Nothing was tried: an earlier sync failed.
    #[error("batches after {durable} cannot be made durable, because of an earlier failure: {reason}")]
    Poisoned { durable: Lsn, reason: Arc<str> },
}

/// What the threads of one store share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) state: Mutex<State>,
    /// Held while syncing, so that those who wait find their work done.
    sync_turn: Mutex<()>,
    pub(super) retire_turn: Mutex<()>,
    pub(super) checkpointing: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    /// All segments, oldest first; the last is being written.
    pub(super) segments: VecDeque<Segment>,
    pub(super) log_bytes: u64,
    pub(super) unsynced: Vec<Unsynced>,
    pub(super) written: Lsn,
    pub(super) durable: Lsn,
    /// The kept checkpoints, oldest first.
    pub(super) checkpoints: Vec<Lsn>,
    /// Bytes in records after the newest checkpoint.
    pub(super) since_checkpoint: u64,
    pub(super) poison: Option<Poison>,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) first: Lsn,
    pub(super) created_ms: u64,
    /// Bytes in use: header and records.
    pub(super) bytes: u64,
    /// Where some records begin, in order and about [`PLACES_BYTES`] apart, as far as it is known.
    pub(super) places: Vec<(Lsn, u64)>,
}

impl Segment {
    /// Takes note of where a record begins, if it is far enough from the last of which that is known.
    pub(super) fn note(&mut self, lsn: Lsn, at: u64) {
        if at >= self.places.last().map_or(HEADER_BYTES as u64, |(_, last)| *last) + PLACES_BYTES {
            self.places.push((lsn, at));
        }
    }
}

/// A segment that a sync has to visit.
#[derive(Debug, Clone)]
pub(super) struct Unsynced {
    pub(super) first: Lsn,
    pub(super) file: Arc<dyn DiskFile>,
    /// Its name is not durable either.
    pub(super) new: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Poison {
    reason: Arc<str>,
    /// A failed sync must not be tried again: the system forgets what it could not write, and then reports success.
    sync_failed: bool,
}

impl Store {
    pub(super) fn start(shared: Arc<Shared>, file: Arc<dyn DiskFile>) -> Store {
        let state = shared.state.lock();
        let (first, next) = (state.written + 1, state.written + 1);
        assert_eq!(state.segments.back().map(|s| s.first), Some(first));
        drop(state);
        Store { shared, file, first, at: HEADER_BYTES as u64, next, buf: Vec::new() }
    }

    pub fn syncer(&self) -> Syncer {
        Syncer { shared: Arc::clone(&self.shared) }
    }

    pub fn housekeeper(&self) -> Housekeeper {
        Housekeeper::new(Arc::clone(&self.shared))
    }

    /// Hands a batch to the operating system in one write and returns its number. `now_ms` is noted should the
    /// batch begin a segment.
    pub fn append(&mut self, now_ms: u64, payload: &[u8]) -> Result<Lsn, AppendError> {
        self.append_with(now_ms, |buf| buf.extend_from_slice(payload))
    }

    /// As [`Store::append`], for a payload that `fill` appends to the buffer it is given, which is not empty.
    pub fn append_with(&mut self, now_ms: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Lsn, AppendError> {
        self.buf.clear();
        self.buf.resize(RECORD_HEADER_BYTES, 0);
        fill(&mut self.buf);
        assert!(self.buf.len() >= RECORD_HEADER_BYTES, "fill only appends");
        let result = self.write_record(now_ms, Kind::Data);
        if self.buf.capacity() > BUFFER_KEPT_BYTES {
            self.buf = Vec::new();
        }
        result
    }

    /// Greatest number appended.
    pub fn written(&self) -> Lsn {
        self.next - 1
    }

    /// Begins a checkpoint of the state after record `lsn`; see [`Housekeeper::begin_checkpoint`].
    pub fn begin_checkpoint(&self, lsn: Lsn) -> Result<CheckpointWriter, CheckpointError> {
        self.housekeeper().begin_checkpoint(lsn)
    }

    /// A clean stop: syncs, marks the log as closed, and gives back what was preallocated. After an error the log is
    /// what a crash now would leave.
    pub fn close(mut self, now_ms: u64) -> Result<(), CloseError> {
        let syncer = self.syncer();
        syncer.sync()?;
        self.buf.clear();
        self.buf.resize(RECORD_HEADER_BYTES, 0);
        self.write_record(now_ms, Kind::Closed)?;
        self.file.truncate(self.at).map_err(CloseError::Trim)?;
        syncer.sync()?;
        Ok(())
    }

    /// Writes the record in `buf`.
    fn write_record(&mut self, now_ms: u64, kind: Kind) -> Result<Lsn, AppendError> {
        let payload = self.buf.len() - RECORD_HEADER_BYTES;
        if payload > MAX_RECORD_BYTES {
            return Err(AppendError::TooLarge { bytes: payload });
        }
        self.check_poison()?;
        let lsn = self.next;
        assert!(lsn <= MAX_LSN, "the log's numbers are used up");
        let bytes = self.buf.len() as u64;
        let full = self.at + bytes > self.shared.options.segment_bytes;
        if full && self.at > HEADER_BYTES as u64 {
            self.roll(now_ms, bytes)?;
        }
        let synced = self.shared.state.lock().durable;
        segment::seal_record(&mut self.buf, lsn, synced, kind);
        if let Err(source) = self.file.write_at(self.at, &self.buf) {
            return Err(self.fail(source));
        }
        self.at += bytes;
        self.next += 1;
        let mut state = self.shared.state.lock();
        state.written = lsn;
        state.log_bytes += bytes;
        state.since_checkpoint += bytes;
        let segment = state.segments.back_mut().expect("a log has a segment");
        assert_eq!(segment.first, self.first);
        segment.note(lsn, segment.bytes);
        segment.bytes = self.at;
        Ok(lsn)
    }

    /// Begins a segment with room for at least one record of `bytes`. Its name and content become durable with the
    /// first sync of a record in it.
    fn roll(&mut self, now_ms: u64, bytes: u64) -> Result<(), AppendError> {
        if self.shared.state.lock().unsynced.len() >= MAX_UNSYNCED_SEGMENTS {
            let _ = self.syncer().sync();
            self.check_poison()?;
        }
        let header =
            SegmentHeader { first: self.next, created_ms: now_ms, synced: self.shared.state.lock().durable };
        let name = segment::file_name(header.first);
        let room = segment_room(&self.shared.options, bytes);
        let made = self.shared.disk.create(&name).and_then(|file| {
            file.preallocate(room)?;
            file.write_at(0, &header.encode())?;
            Ok(file)
        });
        let file = made.map_err(|source| self.fail(source))?;
        self.file = Arc::clone(&file);
        self.first = header.first;
        self.at = HEADER_BYTES as u64;
        self.shared.state.lock().begin_segment(&header, file, true);
        Ok(())
    }

    fn check_poison(&self) -> Result<(), AppendError> {
        match &self.shared.state.lock().poison {
            None => Ok(()),
            Some(poison) => Err(AppendError::Poisoned { reason: Arc::clone(&poison.reason) }),
        }
    }

    fn fail(&self, source: DiskError) -> AppendError {
        self.shared.state.lock().poison(&source, false);
        AppendError::Disk { lsn: self.next, source }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// What was acknowledged is where it was; the next start finds an unclean stop.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Everything is durable; the next start finds an unclean stop.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Everything is durable; the next start may find an unclean stop.
    #[error("{0}; every batch is on the disk")]
    Trim(DiskError),
}

impl Syncer {
    /// Returns once every record appended before the call is on the disk, with the greatest number that is.
    /// Concurrent calls share the work.
    pub fn sync(&self) -> Result<Lsn, SyncError> {
        let wanted = self.shared.state.lock().written;
        let _turn = self.shared.sync_turn.lock();
        let (work, upto, current) = {
            let state = self.shared.state.lock();
            if let Some(poison) = state.poison.as_ref().filter(|p| p.sync_failed) {
                return Err(SyncError::Poisoned {
                    durable: state.durable,
                    reason: Arc::clone(&poison.reason),
                });
            }
            if state.durable >= wanted {
                return Ok(state.durable);
            }
            let current = state.segments.back().map_or(0, |s| s.first);
            (state.unsynced.clone(), state.written, current)
        };
        let result = self.sync_files(&work);
        let mut state = self.shared.state.lock();
        if let Err(source) = result {
            state.poison(&source, true);
            let durable = state.durable;
            return Err(SyncError::Disk { durable, source });
        }
        assert!(upto >= state.durable, "durability does not go back");
        state.durable = upto;
        // The segment that was being written may have got more since, even if it is full by now.
        state.unsynced.retain(|u| u.first >= current);
        for segment in state.unsynced.iter_mut().filter(|u| u.first == current) {
            segment.new = false;
        }
        Ok(upto)
    }

    /// Greatest number known to be on the disk.
    pub fn durable(&self) -> Lsn {
        self.shared.state.lock().durable
    }

    /// Records that a sync now would make durable.
    pub fn pending(&self) -> u64 {
        let state = self.shared.state.lock();
        state.written - state.durable
    }

    fn sync_files(&self, work: &[Unsynced]) -> Result<(), DiskError> {
        for segment in work {
            segment.file.sync_data()?;
        }
        if work.iter().any(|s| s.new) {
            self.shared.disk.sync_dir()?;
        }
        Ok(())
    }

    pub(super) fn new(shared: Arc<Shared>) -> Syncer {
        Syncer { shared }
    }
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, options: Options, state: State) -> Shared {
        Shared {
            disk,
            options,
            state: Mutex::new(state),
            sync_turn: Mutex::new(()),
            retire_turn: Mutex::new(()),
            checkpointing: AtomicBool::new(false),
        }
    }

    /// A directory whose sync failed is in a state nobody knows, so it poisons as a file's does.
    pub(super) fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir().inspect_err(|source| self.state.lock().poison(source, true))
    }
}

impl State {
    pub(super) fn begin_segment(&mut self, header: &SegmentHeader, file: Arc<dyn DiskFile>, new: bool) {
        assert_eq!(header.first, self.written + 1, "segments are contiguous");
        self.segments.push_back(Segment {
            first: header.first,
            created_ms: header.created_ms,
            bytes: HEADER_BYTES as u64,
            places: Vec::new(),
        });
        self.log_bytes += HEADER_BYTES as u64;
        self.unsynced.push(Unsynced { first: header.first, file, new });
    }

    /// The first failure is the one to tell; a failed sync is worse than a failed write.
    fn poison(&mut self, source: &DiskError, sync_failed: bool) {
        match &mut self.poison {
            None => {
                let reason = source.to_string().into();
                self.poison = Some(Poison { reason, sync_failed });
            }
            Some(poison) => poison.sync_failed |= sync_failed,
        }
    }
}

/// How much to preallocate for a segment whose first record takes `bytes`.
pub(super) fn segment_room(options: &Options, bytes: u64) -> u64 {
    options.segment_bytes.max(HEADER_BYTES as u64 + bytes)
}
