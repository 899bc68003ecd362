//! What is finished on the disk and changes no more, read for an archive: the newest checkpoint, and the full
//! segments with records after it.

use super::Lsn;
use super::checkpoint::{self, CheckpointFault, CheckpointReader, Part};
use super::disk::read_all;
use super::housekeeping::{Housekeeper, ReadError};
use super::segment::{self, HEADER_BYTES, Next, SegmentHeader};

/// What is sealed now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sealed {
    /// The record that the newest durable checkpoint reflects.
    pub checkpoint: Option<Lsn>,
    /// Full segments with records after it, oldest first and without holes; all of them are durable.
    pub segments: Vec<SealedSegment>,
}

/// A segment that gets no more records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its first record.
    pub first: Lsn,
    /// Its last record.
    pub last: Lsn,
    /// Its size, without what is preallocated.
    pub bytes: u64,
}

/// A checkpoint being read. It stays readable when a newer one supersedes it.
#[derive(Debug)]
pub struct SealedCheckpoint {
    name: String,
    reader: CheckpointReader,
}

impl Housekeeper {
    /// What is sealed now. Cheap.
    pub fn sealed(&self) -> Sealed {
        let state = self.shared.state.lock();
        let checkpoint = state.checkpoints.last().copied();
        let following = state.segments.iter().skip(1);
        let sealed = state.segments.iter().zip(following).map(|(segment, next)| SealedSegment {
            first: segment.first,
            last: next.first - 1,
            bytes: segment.bytes,
        });
        let base = checkpoint.unwrap_or(0);
        let segments = sealed.filter(|s| s.last > base && s.last <= state.durable).collect();
        Sealed { checkpoint, segments }
    }

    /// Begins to read a checkpoint.
    pub fn read_checkpoint(&self, lsn: Lsn) -> Result<SealedCheckpoint, ReadError> {
        let name = checkpoint::file_name(lsn);
        let file = self.shared.disk.open(&name)?;
        match CheckpointReader::open(file, lsn) {
            Ok(reader) => Ok(SealedCheckpoint { name, reader }),
            Err(fault) => Err(told(&name, fault)),
        }
    }

    /// Reads all of a segment, and verifies every record of it.
    pub fn read_segment(&self, segment: &SealedSegment, buf: &mut Vec<u8>) -> Result<(), ReadError> {
        let name = segment::file_name(segment.first);
        read_all(&*self.shared.disk.open(&name)?, buf)?;
        buf.truncate(segment.bytes as usize);
        verify_segment(buf, segment.first, segment.last).map_err(|(offset, found)| ReadError::Damaged {
            file: name,
            offset,
            found,
        })
    }
}

impl SealedCheckpoint {
    /// Puts the next block, or the meta, which is the last, into `buf`: verified.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Result<Part, ReadError> {
        self.reader.next(buf).map_err(|fault| told(&self.name, fault))
    }
}

fn told(name: &str, fault: CheckpointFault) -> ReadError {
    let (offset, found) = match fault {
        CheckpointFault::Disk(error) => return error.into(),
        CheckpointFault::Magic => (0, "other bytes than a checkpoint's"),
        CheckpointFault::Version(_) => (8, "another format"),
        CheckpointFault::Damaged { offset, found } => (offset, found),
    };
    ReadError::Damaged { file: name.to_owned(), offset, found }
}

/// Whether `bytes` are a segment of exactly these records; else the place that is wrong, and what is there.
pub(super) fn verify_segment(bytes: &[u8], first: Lsn, last: Lsn) -> Result<(), (u64, &'static str)> {
    if SegmentHeader::decode(bytes, first).is_err() {
        return Err((0, "no header of this segment"));
    }
    let mut at = HEADER_BYTES;
    for lsn in first..=last {
        match segment::expect_record(&bytes[at..], lsn) {
            Next::Record(record) => at += record.bytes(),
            Next::End => return Err((at as u64, "the end of the segment")),
            Next::Bad(found) => return Err((at as u64, found)),
        }
    }
    match at == bytes.len() {
        true => Ok(()),
        false => Err((at as u64, "more than the segment's records")),
    }
}
