//! A checkpoint and the log after it, put back into a directory that has none. FORMAT.md argues the order.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::{self, CheckpointFault, Frames};
use super::disk::{Disk, DiskError, DiskFile};
use super::recovery::is_temporary;
use super::sealed::verify_segment;
use super::segment::{self, SegmentHeader};
use super::{Lsn, MAX_BLOCK_BYTES, MAX_META_BYTES};

/// Writes what a directory is to hold under temporary names, and gives them their own when all of it is there.
/// Dropped before [`Rebuilder::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Rebuilder {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    frames: Frames,
    lsn: Lsn,
    at: u64,
    buf: Vec<u8>,
    segments: Vec<Lsn>,
    /// The last record put back; with the checkpoint alone, the one that it reflects.
    last: Lsn,
    ended: bool,
    finished: bool,
}

/// The directory has no more of a store in it than before, save where [`RebuildError::Disk`] came while the files
/// were given their names: then a start refuses what is there.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It holds a store already.
    #[error("{} is there already: nothing is put back over a store", file.display())]
    NotEmpty { file: PathBuf },
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
    #[error("segment {first} is damaged at byte {offset}: {found}")]
    Segment { first: Lsn, offset: u64, found: &'static str },
    #[error("records {} to {} do not go on from record {last}", range.start(), range.end())]
    Hole { range: RangeInclusive<Lsn>, last: Lsn },
    /// The disk gives back something else than was written.
    #[error("the checkpoint does not read as it was written")]
    Unstable,
}

/// The first file of a store in a directory, if there is one. What an interrupted start or restore left does not count.
pub fn holds_a_store(disk: &dyn Disk) -> Result<Option<PathBuf>, DiskError> {
    let ours = |name: &String| {
        segment::parse_file_name(name).is_some() || checkpoint::parse_file_name(name).is_some()
    };
    Ok(disk.list()?.into_iter().find(ours).map(|name| disk.path(&name)))
}

impl Rebuilder {
    /// Begins with the state after record `lsn`.
    pub fn begin(disk: Arc<dyn Disk>, lsn: Lsn) -> Result<Self, RebuildError> {
        if let Some(file) = holds_a_store(&*disk)? {
            return Err(RebuildError::NotEmpty { file });
        }
        for name in disk.list()?.iter().filter(|name| is_temporary(name)) {
            disk.remove(name)?;
        }
        let file = disk.create(&checkpoint::temp_name(lsn))?;
        let mut rebuilder = Rebuilder {
            disk,
            file,
            frames: Frames::new(lsn),
            lsn,
            at: 0,
            buf: Vec::new(),
            segments: Vec::new(),
            last: lsn,
            ended: false,
            finished: false,
        };
        rebuilder.frames.header(&mut rebuilder.buf);
        rebuilder.write()?;
        Ok(rebuilder)
    }

    /// The next block of the checkpoint.
    pub fn block(&mut self, payload: &[u8]) -> Result<(), RebuildError> {
        assert!(!self.ended, "blocks come before the meta");
        within("a block", payload.len(), MAX_BLOCK_BYTES)?;
        self.frames.block(payload, &mut self.buf);
        self.write()
    }

    /// The meta, which ends the checkpoint.
    pub fn meta(&mut self, meta: &[u8]) -> Result<(), RebuildError> {
        assert!(!self.ended, "a checkpoint has one meta");
        within("meta", meta.len(), MAX_META_BYTES)?;
        self.frames.footer(meta, &mut self.buf);
        self.write()?;
        self.file.sync_data()?;
        self.ended = true;
        Ok(())
    }

    /// The next segment of the log: the first reaches back to the checkpoint, the others go on where the last ended.
    pub fn segment(&mut self, range: RangeInclusive<Lsn>, bytes: &[u8]) -> Result<(), RebuildError> {
        let (first, last) = (*range.start(), *range.end());
        let goes_on = if self.segments.is_empty() { first <= self.last + 1 } else { first == self.last + 1 };
        if !goes_on || last <= self.last {
            return Err(RebuildError::Hole { range, last: self.last });
        }
        verify_segment(bytes, first, last).map_err(|(offset, found)| RebuildError::Segment {
            first,
            offset,
            found,
        })?;
        self.put_segment(first, bytes)?;
        self.last = last;
        Ok(())
    }

    /// Gives everything its name, durably. Returns the last record there is. `now_ms` is noted as the birth of the
    /// segment that the log begins with, if there is no other.
    pub fn finish(mut self, now_ms: u64) -> Result<Lsn, RebuildError> {
        assert!(self.ended, "a checkpoint has a meta");
        self.verify_checkpoint()?;
        if self.segments.is_empty() {
            // A start looks for the record after the checkpoint, and finds that it is still to come.
            let header = SegmentHeader { first: self.lsn + 1, created_ms: now_ms, synced: self.lsn };
            self.put_segment(header.first, &header.encode())?;
        }
        self.finished = true;
        // From the last to the first, one by one: whatever a crash leaves of them has no beginning, and is refused.
        for first in self.segments.iter().rev() {
            self.disk.rename(&segment::temp_name(*first), &segment::file_name(*first))?;
            self.disk.sync_dir()?;
        }
        self.disk.rename(&checkpoint::temp_name(self.lsn), &checkpoint::file_name(self.lsn))?;
        self.disk.sync_dir()?;
        Ok(self.last)
    }

    fn put_segment(&mut self, first: Lsn, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.disk.create(&segment::temp_name(first))?;
        self.segments.push(first);
        file.write_at(0, bytes)?;
        file.sync_data()
    }

    fn verify_checkpoint(&self) -> Result<(), RebuildError> {
        match checkpoint::verify(Arc::clone(&self.file), self.lsn) {
            Ok(_) => Ok(()),
            Err(CheckpointFault::Disk(error)) => Err(error.into()),
            Err(_) => Err(RebuildError::Unstable),
        }
    }

    fn write(&mut self) -> Result<(), RebuildError> {
        self.file.write_at(self.at, &self.buf)?;
        self.at += self.buf.len() as u64;
        Ok(())
    }
}

impl Drop for Rebuilder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // What cannot be removed now goes at the next start or restore.
        for first in &self.segments {
            let _ = self.disk.remove(&segment::temp_name(*first));
        }
        let _ = self.disk.remove(&checkpoint::temp_name(self.lsn));
    }
}

fn within(what: &'static str, bytes: usize, limit: usize) -> Result<(), RebuildError> {
    if bytes > limit { Err(RebuildError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}
