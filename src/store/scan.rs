//! Looks through the log at start and tells what an interrupted write left from what must not be: a torn tail from
//! damage. FORMAT.md has the argument.

use super::Lsn;
use super::disk::{Disk, DiskError, DiskFile, read_all};
use super::recovery::OpenError;
use super::segment::{self, HEADER_BYTES, HeaderFault, Kind, Next, SegmentHeader};

/// What is known of the log before it is read.
#[derive(Debug)]
pub(super) struct Plan {
    /// First records of all segments by their names, ascending; not empty.
    pub(super) firsts: Vec<Lsn>,
    /// The segment to read from; of earlier ones only the headers matter.
    pub(super) from: usize,
    /// The record the chosen checkpoint reflects.
    pub(super) checkpoint: Lsn,
    /// The log had been durable up to here when some checkpoint was finished.
    pub(super) floor: Lsn,
}

/// A log that is sound, apart from a tail to cut.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) segments: Vec<Scanned>,
    pub(super) tail: Option<Tail>,
    /// Number the next record will get.
    pub(super) next: Lsn,
    /// Proven to have been durable.
    pub(super) claim: Lsn,
    pub(super) closed: bool,
    /// Data records after the checkpoint, and the bytes of their payloads.
    pub(super) records: u64,
    pub(super) record_bytes: u64,
    /// Bytes of all that is after the checkpoint, headers included.
    pub(super) replay_bytes: u64,
    /// Bytes of the payloads read that are behind the checkpoint.
    pub(super) behind_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) first: Lsn,
    /// One less than `first` if there is no record.
    pub(super) last: Lsn,
    pub(super) created_ms: u64,
    /// Bytes in use, and of the file.
    pub(super) end: u64,
    pub(super) len: u64,
    pub(super) read: bool,
    /// There is more than zeros behind its end.
    pub(super) torn: bool,
}

/// A tail that no sync had covered.
#[derive(Debug)]
pub(super) struct Tail {
    /// Segments to remove, ascending.
    pub(super) remove: Vec<Lsn>,
    pub(super) bytes: u64,
    pub(super) why: String,
}

/// The first place where the log does not go on.
struct Break {
    /// Segment it was found in, and the first one wholly behind it.
    index: usize,
    offset: u64,
    behind: usize,
    found: String,
}

pub(super) fn scan(disk: &dyn Disk, plan: &Plan) -> Result<Scan, OpenError> {
    let mut scanner = Scanner {
        disk,
        plan,
        headers: read_headers(disk, &plan.firsts)?,
        buf: Vec::new(),
        scan: Scan { next: plan.firsts[plan.from], claim: plan.floor, ..Scan::default() },
    };
    let broken = scanner.walk()?;
    if let Some(broken) = broken {
        scanner.judge(broken)?;
    } else if scanner.scan.next <= plan.floor {
        let index = plan.firsts.len() - 1;
        let end = scanner.scan.segments[index].end;
        return Err(scanner.damage(index, end, "the end of the log".to_owned()));
    }
    Ok(scanner.scan)
}

type Header = Result<SegmentHeader, &'static str>;

/// A file that is not ours or of another format is refused wherever it stands.
fn read_headers(disk: &dyn Disk, firsts: &[Lsn]) -> Result<Vec<Header>, OpenError> {
    let mut headers = Vec::with_capacity(firsts.len());
    for first in firsts {
        let name = segment::file_name(*first);
        let mut bytes = [0; HEADER_BYTES];
        let read = disk.open(&name)?.read_at(0, &mut bytes)?;
        headers.push(match SegmentHeader::decode(&bytes[..read], *first) {
            Ok(header) => Ok(header),
            Err(HeaderFault::Broken(found)) => Err(found),
            Err(HeaderFault::Magic) => return Err(OpenError::foreign(disk.path(&name))),
            Err(HeaderFault::Version(found)) => {
                return Err(OpenError::version(disk.path(&name), found));
            }
        });
    }
    Ok(headers)
}

struct Scanner<'a> {
    disk: &'a dyn Disk,
    plan: &'a Plan,
    headers: Vec<Header>,
    buf: Vec<u8>,
    scan: Scan,
}

impl Scanner<'_> {
    fn walk(&mut self) -> Result<Option<Break>, OpenError> {
        for index in 0..self.plan.firsts.len() {
            let first = self.plan.firsts[index];
            let header = match self.headers[index] {
                Ok(header) => header,
                Err(found) if index < self.plan.from => {
                    return Err(self.damage(index, 0, found.to_owned()));
                }
                Err(found) if first == self.scan.next => return Ok(Some(at(index, 0, found))),
                // A hole before it comes first.
                Err(_) => SegmentHeader { first, created_ms: 0, synced: 0 },
            };
            let file = self.disk.open(&segment::file_name(first))?;
            if index < self.plan.from {
                let end = file.size()?;
                self.scan.segments.push(Scanned {
                    first,
                    last: self.plan.firsts[index + 1] - 1,
                    created_ms: header.created_ms,
                    end,
                    len: end,
                    read: false,
                    torn: false,
                });
                continue;
            }
            if first != self.scan.next {
                return Ok(Some(Break {
                    index: index - 1,
                    offset: self.scan.segments[index - 1].end,
                    behind: index,
                    found: format!("the end of the segment, and record {first} begins the next"),
                }));
            }
            if let Some(broken) = self.walk_segment(index, header, &*file)? {
                return Ok(Some(broken));
            }
        }
        Ok(None)
    }

    fn walk_segment(
        &mut self,
        index: usize,
        header: SegmentHeader,
        file: &dyn DiskFile,
    ) -> Result<Option<Break>, DiskError> {
        read_all(file, &mut self.buf)?;
        let scan = &mut self.scan;
        scan.claim = scan.claim.max(header.synced);
        scan.closed = false;
        let mut offset = HEADER_BYTES;
        let broken = loop {
            match segment::expect_record(&self.buf[offset..], scan.next) {
                Next::End => break None,
                Next::Bad(found) => break Some(at(index, offset as u64, found)),
                Next::Record(record) => {
                    scan.claim = scan.claim.max(record.synced);
                    scan.closed = record.kind == Kind::Closed;
                    let payload = record.payload.len() as u64;
                    if record.lsn <= self.plan.checkpoint {
                        scan.behind_bytes += payload;
                    } else {
                        scan.replay_bytes += record.bytes() as u64;
                        scan.records += u64::from(record.kind == Kind::Data);
                        scan.record_bytes += payload;
                    }
                    offset += record.bytes();
                    scan.next += 1;
                }
            }
        };
        scan.segments.push(Scanned {
            first: header.first,
            last: scan.next - 1,
            created_ms: header.created_ms,
            end: offset as u64,
            len: self.buf.len() as u64,
            read: true,
            torn: broken.is_some(),
        });
        Ok(broken)
    }

    /// Damage if anything shows that the record missing at the break had been durable; else a tail to cut.
    fn judge(&mut self, broken: Break) -> Result<(), OpenError> {
        let bad = self.scan.next;
        if self.is_proven(&broken, bad)? {
            return Err(self.damage(broken.index, broken.offset, broken.found));
        }
        let mut bytes = 0;
        for (index, first) in self.plan.firsts.iter().enumerate().skip(broken.index) {
            let from = match index == broken.index {
                true => broken.offset as usize,
                false => 0,
            };
            read_all(&*self.disk.open(&segment::file_name(*first))?, &mut self.buf)?;
            bytes += used(&self.buf[from.min(self.buf.len())..]);
        }
        let file = segment::file_name(self.plan.firsts[broken.index]);
        self.scan.tail = Some(Tail {
            remove: self.plan.firsts[broken.behind..].to_vec(),
            bytes,
            why: format!("{file}, byte {}: {}", broken.offset, broken.found),
        });
        self.scan.closed = false;
        Ok(())
    }

    fn is_proven(&mut self, broken: &Break, bad: Lsn) -> Result<bool, OpenError> {
        if bad <= self.plan.floor {
            return Ok(true);
        }
        for index in broken.index..self.plan.firsts.len() {
            let first = self.plan.firsts[index];
            let (skip, from) = match index == broken.index {
                // Where the header is broken, the records behind it still count.
                true => ((broken.offset as usize).max(HEADER_BYTES), bad),
                false => (HEADER_BYTES, first),
            };
            if index > broken.index && self.headers[index].is_ok_and(|h| h.synced >= bad) {
                return Ok(true);
            }
            read_all(&*self.disk.open(&segment::file_name(first))?, &mut self.buf)?;
            let rest = &self.buf[skip.min(self.buf.len())..];
            // A search that gives up has proven nothing, and then cutting would be a guess.
            if segment::highest_claim(rest, from, bad).is_none_or(|claim| claim >= bad) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn damage(&self, index: usize, offset: u64, found: String) -> OpenError {
        let name = segment::file_name(self.plan.firsts[index]);
        let expected = match index < self.plan.from || offset == 0 {
            true => "a segment's header".to_owned(),
            false => format!("record {}", self.scan.next),
        };
        OpenError::damaged(self.disk.path(&name), offset, expected, found)
    }
}

fn at(index: usize, offset: u64, found: &str) -> Break {
    Break { index, offset, behind: index + 1, found: found.to_owned() }
}

/// Length without the zeros at the end.
fn used(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1)
}
