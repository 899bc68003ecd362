//! Checkpoints: the whole state as of one record, in a file that is either whole or not there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::{DiskError, DiskFile};
use super::log::{Shared, SyncError, Syncer};
use super::segment::{HeaderFault, check_magic, check_version, u32_at, u64_at};
use super::{CHECKPOINT_SYNC_BYTES, FORMAT, Lsn, MAX_BLOCK_BYTES, MAX_LSN, MAX_META_BYTES};

/// As in a segment, size and place of the checksum are the same in every format.
const HEADER_BYTES: usize = 24;
const BLOCK_HEADER_BYTES: usize = 8;
const FOOTER_BYTES: usize = 28;
const MAGIC: &[u8; 8] = b"TIDNGCKP";
/// Where a block has its length; no block is this long.
const FOOTER_MARK: u32 = u32::MAX;

/// A checkpoint being written. Dropped before [`CheckpointWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct CheckpointWriter {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    frames: Frames,
    at: u64,
    synced_at: u64,
    /// Part of the log's growth that this checkpoint takes in.
    covered_bytes: u64,
    buf: Vec<u8>,
    failed: bool,
    renamed: bool,
}

/// In every case the previous checkpoint and the log are what they were.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// One at a time.
    #[error("another checkpoint is being written")]
    Busy,
    /// The block or meta was not written; the checkpoint can only be given up.
    #[error("{bytes} bytes are over the limit of {limit}; the checkpoint is given up")]
    TooLarge { bytes: usize, limit: usize },
    #[error("{0}; the checkpoint is given up, the previous one stands")]
    Disk(#[from] DiskError),
    /// A checkpoint is not finished before the log is durable up to it.
    #[error("{0}; the checkpoint is given up, the previous one stands")]
    Log(#[from] SyncError),
    /// An earlier call on this writer failed.
    #[error("the checkpoint was given up after an earlier error, the previous one stands")]
    GivenUp,
}

pub(super) fn file_name(lsn: Lsn) -> String {
    format!("checkpoint-{lsn:016}.ckpt")
}

pub(super) fn temp_name(lsn: Lsn) -> String {
    format!("checkpoint-{lsn:016}.tmp")
}

pub(super) fn parse_file_name(name: &str) -> Option<Lsn> {
    let lsn = name.strip_prefix("checkpoint-")?.strip_suffix(".ckpt")?;
    let number = lsn.parse().ok()?;
    (number <= MAX_LSN && file_name(number) == name).then_some(number)
}

impl CheckpointWriter {
    pub(super) fn begin(shared: Arc<Shared>, lsn: Lsn) -> Result<CheckpointWriter, CheckpointError> {
        if shared.checkpointing.swap(true, Ordering::AcqRel) {
            return Err(CheckpointError::Busy);
        }
        let made = Self::create(&shared, lsn);
        let (file, covered_bytes) = match made {
            Ok(made) => made,
            Err(error) => {
                shared.checkpointing.store(false, Ordering::Release);
                return Err(error.into());
            }
        };
        let mut writer = CheckpointWriter {
            shared,
            file,
            frames: Frames::new(lsn),
            at: 0,
            synced_at: 0,
            covered_bytes,
            buf: Vec::with_capacity(HEADER_BYTES),
            failed: false,
            renamed: false,
        };
        writer.frames.header(&mut writer.buf);
        writer.write()?;
        Ok(writer)
    }

    fn create(shared: &Shared, lsn: Lsn) -> Result<(Arc<dyn DiskFile>, u64), DiskError> {
        let covered = {
            let state = shared.state.lock();
            assert!(lsn <= state.written, "a checkpoint of records not yet written");
            assert!(
                state.checkpoints.last().is_none_or(|newest| *newest <= lsn),
                "a checkpoint older than the last"
            );
            state.since_checkpoint
        };
        let name = temp_name(lsn);
        // One that was given up and could not be removed then.
        if shared.disk.list()?.contains(&name) {
            shared.disk.remove(&name)?;
        }
        Ok((shared.disk.create(&name)?, covered))
    }

    /// The record whose state this checkpoint holds.
    pub fn lsn(&self) -> Lsn {
        self.frames.lsn
    }

    pub fn block(&mut self, payload: &[u8]) -> Result<(), CheckpointError> {
        self.check(payload.len(), MAX_BLOCK_BYTES)?;
        self.frames.block(payload, &mut self.buf);
        self.write()?;
        if self.at - self.synced_at >= CHECKPOINT_SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes it the newest checkpoint, durably, and removes the ones it supersedes.
    pub fn finish(mut self, meta: &[u8]) -> Result<Finished, CheckpointError> {
        self.check(meta.len(), MAX_META_BYTES)?;
        let lsn = self.frames.lsn;
        self.frames.footer(meta, &mut self.buf);
        self.write()?;
        self.sync()?;
        // Recovery relies on it: whatever log a finished checkpoint covers was durable, so a hole there is damage.
        let durable = Syncer::new(Arc::clone(&self.shared)).sync()?;
        assert!(durable >= lsn, "the log is durable up to a checkpoint");
        let disk = &self.shared.disk;
        disk.rename(&temp_name(lsn), &file_name(lsn))?;
        self.renamed = true;
        self.shared.sync_dir()?;
        self.shared.checkpoint_finished(lsn, self.covered_bytes);
        Ok(Finished { lsn, blocks: self.frames.blocks, bytes: self.at })
    }

    /// Gives it up; the same as dropping it.
    pub fn abort(self) {}

    fn check(&mut self, bytes: usize, limit: usize) -> Result<(), CheckpointError> {
        if self.failed {
            return Err(CheckpointError::GivenUp);
        }
        if bytes > limit {
            self.failed = true;
            return Err(CheckpointError::TooLarge { bytes, limit });
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), CheckpointError> {
        let result = self.file.write_at(self.at, &self.buf);
        self.failed |= result.is_err();
        self.at += self.buf.len() as u64;
        Ok(result?)
    }

    /// Also called on the way, so that the last sync does not hold up everybody else's for gigabytes.
    fn sync(&mut self) -> Result<(), CheckpointError> {
        let result = self.file.sync_data();
        self.failed |= result.is_err();
        self.synced_at = self.at;
        Ok(result?)
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now goes at the next start or checkpoint.
            let _ = self.shared.disk.remove(&temp_name(self.frames.lsn));
        }
        self.shared.checkpointing.store(false, Ordering::Release);
    }
}

/// The bytes of a checkpoint, part by part: each method replaces what the buffer held.
#[derive(Debug)]
pub(super) struct Frames {
    lsn: Lsn,
    blocks: u64,
    block_bytes: u64,
}

impl Frames {
    pub(super) fn new(lsn: Lsn) -> Self {
        Frames { lsn, blocks: 0, block_bytes: 0 }
    }

    pub(super) fn header(&self, buf: &mut Vec<u8>) {
        buf.clear();
        buf.extend_from_slice(MAGIC);
        buf.extend_from_slice(&FORMAT.to_le_bytes());
        buf.extend_from_slice(&self.lsn.to_le_bytes());
        let crc = crc32fast::hash(buf);
        buf.extend_from_slice(&crc.to_le_bytes());
    }

    pub(super) fn block(&mut self, payload: &[u8], buf: &mut Vec<u8>) {
        let len = (payload.len() as u32).to_le_bytes();
        let crc = block_crc(self.lsn, self.blocks, &len, payload);
        buf.clear();
        buf.extend_from_slice(&len);
        buf.extend_from_slice(&crc.to_le_bytes());
        buf.extend_from_slice(payload);
        self.blocks += 1;
        self.block_bytes += payload.len() as u64;
    }

    pub(super) fn footer(&self, meta: &[u8], buf: &mut Vec<u8>) {
        buf.clear();
        buf.extend_from_slice(&FOOTER_MARK.to_le_bytes());
        buf.extend_from_slice(&[0; 4]);
        buf.extend_from_slice(&self.blocks.to_le_bytes());
        buf.extend_from_slice(&self.block_bytes.to_le_bytes());
        let len = (meta.len() as u32).to_le_bytes();
        buf.extend_from_slice(&len);
        buf.extend_from_slice(meta);
        let crc = footer_crc(self.lsn, buf);
        buf[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    pub lsn: Lsn,
    pub blocks: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// Reads one checkpoint from its start, verifying as it goes.
#[derive(Debug)]
pub(super) struct CheckpointReader {
    file: Arc<dyn DiskFile>,
    len: u64,
    lsn: Lsn,
    at: u64,
    blocks: u64,
    block_bytes: u64,
}

/// What the reader put into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Block,
    /// The last: meta.
    Meta,
}

#[derive(Debug)]
pub(super) enum CheckpointFault {
    Disk(DiskError),
    Magic,
    Version(u32),
    Damaged { offset: u64, found: &'static str },
}

impl From<DiskError> for CheckpointFault {
    fn from(error: DiskError) -> Self {
        CheckpointFault::Disk(error)
    }
}

impl CheckpointReader {
    /// `lsn` is what the file's name promises.
    pub(super) fn open(file: Arc<dyn DiskFile>, lsn: Lsn) -> Result<Self, CheckpointFault> {
        let mut reader = CheckpointReader { len: file.size()?, file, lsn, at: 0, blocks: 0, block_bytes: 0 };
        let mut header = vec![0; HEADER_BYTES.min(reader.len as usize)];
        reader.file.read_at(0, &mut header)?;
        match check_magic(&header, MAGIC) {
            Err(HeaderFault::Magic) => return Err(CheckpointFault::Magic),
            Err(_) => return reader.damaged("an unfinished header"),
            Ok(()) if header.len() < HEADER_BYTES => return reader.damaged("an unfinished header"),
            Ok(()) => {}
        }
        if crc32fast::hash(&header[..20]) != u32_at(&header, 20) {
            return reader.damaged("a header whose checksum does not match");
        }
        if let Err(HeaderFault::Version(version)) = check_version(u32_at(&header, 8)) {
            return Err(CheckpointFault::Version(version));
        }
        if u64_at(&header, 12) != lsn {
            return reader.damaged("a header that disagrees with the file's name");
        }
        reader.at = HEADER_BYTES as u64;
        Ok(reader)
    }

    /// The next block, or the meta, which ends the checkpoint.
    pub(super) fn next(&mut self, buf: &mut Vec<u8>) -> Result<Part, CheckpointFault> {
        let mut head = [0; FOOTER_BYTES];
        let read = self.file.read_at(self.at, &mut head)?;
        if read < BLOCK_HEADER_BYTES {
            return self.damaged("the end of the file where a block should be");
        }
        let (mark, crc) = (u32_at(&head, 0), u32_at(&head, 4));
        if mark == FOOTER_MARK {
            return self.footer(&head[..read], crc, buf);
        }
        let len = mark as usize;
        self.read(BLOCK_HEADER_BYTES, len, MAX_BLOCK_BYTES, buf)?;
        if block_crc(self.lsn, self.blocks, &head[..4], buf) != crc {
            return self.damaged("a block whose checksum does not match");
        }
        self.at += (BLOCK_HEADER_BYTES + len) as u64;
        self.blocks += 1;
        self.block_bytes += len as u64;
        Ok(Part::Block)
    }

    fn footer(&self, head: &[u8], crc: u32, buf: &mut Vec<u8>) -> Result<Part, CheckpointFault> {
        if head.len() < FOOTER_BYTES {
            return self.damaged("an unfinished footer");
        }
        let meta = u32_at(head, 24) as usize;
        self.read(0, FOOTER_BYTES + meta, FOOTER_BYTES + MAX_META_BYTES, buf)?;
        if footer_crc(self.lsn, buf) != crc {
            return self.damaged("a footer whose checksum does not match");
        }
        if (u64_at(buf, 8), u64_at(buf, 16)) != (self.blocks, self.block_bytes) {
            return self.damaged("a footer that counts other blocks");
        }
        if self.at + (buf.len() as u64) != self.len {
            return self.damaged("a footer before the end of the file");
        }
        buf.drain(..FOOTER_BYTES);
        Ok(Part::Meta)
    }

    /// Fills `buf` with `len` bytes from `skip` bytes further on, having checked the length first.
    fn read(&self, skip: usize, len: usize, limit: usize, buf: &mut Vec<u8>) -> Result<(), CheckpointFault> {
        let from = self.at + skip as u64;
        if len > limit || from + len as u64 > self.len {
            return self.damaged("a length that leads past the end of the file");
        }
        buf.clear();
        buf.resize(len, 0);
        match self.file.read_at(from, buf)? == len {
            true => Ok(()),
            false => self.damaged("a file that became shorter"),
        }
    }

    fn damaged<T>(&self, found: &'static str) -> Result<T, CheckpointFault> {
        Err(CheckpointFault::Damaged { offset: self.at, found })
    }
}

/// Reads all of a checkpoint and returns its meta.
pub(super) fn verify(file: Arc<dyn DiskFile>, lsn: Lsn) -> Result<Vec<u8>, CheckpointFault> {
    let mut reader = CheckpointReader::open(file, lsn)?;
    let mut buf = Vec::new();
    while reader.next(&mut buf)? == Part::Block {}
    Ok(buf)
}

/// Covers the checkpoint and the place in it, so that no block passes for another.
fn block_crc(lsn: Lsn, index: u64, len: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&lsn.to_le_bytes());
    crc.update(&index.to_le_bytes());
    crc.update(len);
    crc.update(payload);
    crc.finalize()
}

fn footer_crc(lsn: Lsn, footer: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&lsn.to_le_bytes());
    crc.update(&footer[..4]);
    crc.update(&footer[8..]);
    crc.finalize()
}
