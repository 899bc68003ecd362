//! The bytes of a log segment: its header, its records, and how to walk and search them. FORMAT.md draws them.
//!
//! Nothing here asserts on what it reads: bytes from a disk are input.

use super::{FORMAT, Lsn, MAX_LSN, MAX_RECORD_BYTES, OLDEST_FORMAT, SEARCH_BUDGET_BYTES};

/// The size and the place of the checksum are the same in every format, so that an unknown one can be told from
/// a damaged one.
pub(super) const HEADER_BYTES: usize = 40;
pub(super) const RECORD_HEADER_BYTES: usize = 25;
const MAGIC: &[u8; 8] = b"TIDNGLOG";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Number of the first record; also in the file's name.
    pub(super) first: Lsn,
    pub(super) created_ms: u64,
    /// Everything up to here was on the disk when the segment was made.
    pub(super) synced: Lsn,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// Never written by us.
    Magic,
    /// Sound, but of a format this binary does not read.
    Version(u32),
    /// Unfinished or damaged.
    Broken(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    /// The last record of a clean stop; it has no payload.
    Closed,
}

/// A record that passed its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) lsn: Lsn,
    pub(super) synced: Lsn,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    pub(super) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }
}

/// What stands at an offset of a segment.
#[derive(Debug)]
pub(super) enum Next<'a> {
    Record(Record<'a>),
    /// Nothing but zeros, or nothing at all.
    End,
    Bad(&'static str),
}

pub(super) fn file_name(first: Lsn) -> String {
    format!("log-{first:016}.seg")
}

pub(super) fn temp_name(first: Lsn) -> String {
    format!("log-{first:016}.tmp")
}

/// The first record's number, if `name` is a segment's.
pub(super) fn parse_file_name(name: &str) -> Option<Lsn> {
    let first = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let number = first.parse().ok()?;
    // Records are numbered from 1. A number of more digits than the name has room for would break the order of the
    // names. Neither is ours.
    ((1..=MAX_LSN).contains(&number) && file_name(number) == name).then_some(number)
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..20].copy_from_slice(&self.first.to_le_bytes());
        out[20..28].copy_from_slice(&self.created_ms.to_le_bytes());
        out[28..36].copy_from_slice(&self.synced.to_le_bytes());
        let crc = crc32fast::hash(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `first` is what the file's name promises.
    pub(super) fn decode(bytes: &[u8], first: Lsn) -> Result<SegmentHeader, HeaderFault> {
        check_magic(bytes, MAGIC)?;
        if bytes.len() < HEADER_BYTES {
            return Err(HeaderFault::Broken("the file ends inside its header"));
        }
        if crc32fast::hash(&bytes[..36]) != u32_at(bytes, 36) {
            return Err(HeaderFault::Broken("the header's checksum does not match"));
        }
        check_version(u32_at(bytes, 8))?;
        let header = SegmentHeader {
            first: u64_at(bytes, 12),
            created_ms: u64_at(bytes, 20),
            synced: u64_at(bytes, 28),
        };
        if header.first != first {
            return Err(HeaderFault::Broken("the header and the file's name disagree"));
        }
        if header.synced >= header.first {
            return Err(HeaderFault::Broken("the header claims the future"));
        }
        Ok(header)
    }
}

/// A magic cut short by the end of the file or by zeros is an unfinished header; anything else is not our file.
pub(super) fn check_magic(bytes: &[u8], magic: &[u8; 8]) -> Result<(), HeaderFault> {
    let got = &bytes[..bytes.len().min(magic.len())];
    if got == magic {
        return Ok(());
    }
    let same = got.iter().zip(magic).take_while(|(a, b)| a == b).count();
    match got[same..].iter().all(|b| *b == 0) {
        true => Err(HeaderFault::Broken("the header is unfinished")),
        false => Err(HeaderFault::Magic),
    }
}

pub(super) fn check_version(version: u32) -> Result<(), HeaderFault> {
    match (OLDEST_FORMAT..=FORMAT).contains(&version) {
        true => Ok(()),
        false => Err(HeaderFault::Version(version)),
    }
}

/// Fills in the header of the record that `buf` holds: room for the header, then the payload.
pub(super) fn seal_record(buf: &mut [u8], lsn: Lsn, synced: Lsn, kind: Kind) {
    let len = buf.len() - RECORD_HEADER_BYTES;
    assert!(len <= MAX_RECORD_BYTES, "a record over its bound");
    assert!(synced < lsn, "a record cannot be durable before it is written");
    buf[..4].copy_from_slice(&(len as u32).to_le_bytes());
    buf[8..16].copy_from_slice(&lsn.to_le_bytes());
    buf[16..24].copy_from_slice(&synced.to_le_bytes());
    buf[24] = match kind {
        Kind::Data => 1,
        Kind::Closed => 2,
    };
    let crc = record_crc(buf);
    buf[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the start of `bytes`, whatever its number.
pub(super) fn next_record(bytes: &[u8]) -> Next<'_> {
    let head = &bytes[..bytes.len().min(RECORD_HEADER_BYTES)];
    if head.iter().all(|b| *b == 0) {
        return match bytes.iter().all(|b| *b == 0) {
            true => Next::End,
            false => Next::Bad("zeros where a record should be, and more after them"),
        };
    }
    if head.len() < RECORD_HEADER_BYTES {
        return Next::Bad("the file ends inside a record's header");
    }
    let len = u32_at(bytes, 0) as usize;
    if len > MAX_RECORD_BYTES || len > bytes.len() - RECORD_HEADER_BYTES {
        return Next::Bad("a record longer than the file");
    }
    let whole = &bytes[..RECORD_HEADER_BYTES + len];
    if record_crc(whole) != u32_at(bytes, 4) {
        return Next::Bad("a record whose checksum does not match");
    }
    let kind = match bytes[24] {
        1 => Kind::Data,
        2 => Kind::Closed,
        _ => return Next::Bad("a record of unknown kind"),
    };
    Next::Record(Record {
        lsn: u64_at(bytes, 8),
        synced: u64_at(bytes, 16),
        kind,
        payload: &whole[RECORD_HEADER_BYTES..],
    })
}

/// As [`next_record`], and it must be number `lsn`.
pub(super) fn expect_record(bytes: &[u8], lsn: Lsn) -> Next<'_> {
    match next_record(bytes) {
        Next::Record(r) if r.lsn != lsn => Next::Bad("a record with another number"),
        Next::Record(r) if r.synced >= lsn => Next::Bad("a record that claims the future"),
        other => other,
    }
}

/// Looks through `bytes`, in which no record before number `from` starts, for whole records after number `bad`, and
/// returns the greatest `synced` they carry: everything up to it had been on the disk. Stops at the first that
/// settles the question, that is, at one with `synced >= bad`.
///
/// `None` if the search ran over its budget, which only bytes made to look like records can bring about.
pub(super) fn highest_claim(bytes: &[u8], from: Lsn, bad: Lsn) -> Option<Lsn> {
    // Every record takes room, so the numbers that can stand here are few.
    let last = from + (bytes.len() / RECORD_HEADER_BYTES) as u64;
    let (mut at, mut claim, mut budget) = (0, 0, SEARCH_BUDGET_BYTES);
    while claim < bad && at + RECORD_HEADER_BYTES <= bytes.len() {
        let rest = &bytes[at..];
        if !is_plausible(rest, from.max(bad + 1), last) {
            at += 1;
            continue;
        }
        let cost = RECORD_HEADER_BYTES + u32_at(rest, 0) as usize;
        budget = budget.checked_sub(cost)?;
        match next_record(rest) {
            Next::Record(record) => {
                claim = claim.max(record.synced);
                at += record.bytes();
            }
            Next::End | Next::Bad(_) => at += 1,
        }
    }
    Some(claim)
}

/// A cheap look before the checksum.
fn is_plausible(rest: &[u8], first: Lsn, last: Lsn) -> bool {
    let lsn = u64_at(rest, 8);
    matches!(rest[24], 1 | 2)
        && (first..=last).contains(&lsn)
        && u64_at(rest, 16) < lsn
        && u32_at(rest, 0) as usize <= rest.len() - RECORD_HEADER_BYTES
}

fn record_crc(record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..4]);
    crc.update(&record[8..]);
    crc.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lsn: Lsn, synced: Lsn, payload: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; RECORD_HEADER_BYTES];
        buf.extend_from_slice(payload);
        seal_record(&mut buf, lsn, synced, Kind::Data);
        buf
    }

    #[test]
    fn names_sort_as_their_numbers_and_parse_only_as_written() {
        assert_eq!(file_name(7), "log-0000000000000007.seg");
        assert_eq!(parse_file_name(&file_name(7)), Some(7));
        assert_eq!(parse_file_name("log-7.seg"), None);
        assert_eq!(parse_file_name("log-+000000000000007.seg"), None);
        assert!(file_name(9) < file_name(10));
    }

    #[test]
    fn a_header_survives_and_tells_unknown_formats_from_damage() {
        let header = SegmentHeader { first: 5, created_ms: 77, synced: 4 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes, 5), Ok(header));
        for at in 0..HEADER_BYTES {
            let mut bad = bytes;
            bad[at] ^= 1;
            let fault = SegmentHeader::decode(&bad, 5).unwrap_err();
            assert_eq!(fault == HeaderFault::Magic, at < 8);
        }
        for len in 0..HEADER_BYTES {
            let fault = SegmentHeader::decode(&bytes[..len], 5).unwrap_err();
            assert!(matches!(fault, HeaderFault::Broken(_)));
        }
        let mut future = bytes;
        future[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let crc = crc32fast::hash(&future[..36]);
        future[36..].copy_from_slice(&crc.to_le_bytes());
        let fault = SegmentHeader::decode(&future, 5).unwrap_err();
        assert_eq!(fault, HeaderFault::Version(FORMAT + 1));
    }

    #[test]
    fn the_search_finds_a_claim_behind_rubbish_and_is_bounded() {
        let mut bytes = vec![0xAB; 100];
        assert_eq!(highest_claim(&bytes, 10, 10), Some(0));
        bytes.extend(record(11, 9, b"no proof"));
        assert_eq!(highest_claim(&bytes, 10, 10), Some(9));
        bytes.push(0);
        bytes.extend(record(12, 10, b"proof"));
        assert_eq!(highest_claim(&bytes, 10, 10), Some(10));
        assert_eq!(highest_claim(&bytes, 10, 12), Some(0), "too early to matter");

        // Headers all the way, each promising a long payload that never matches.
        let mut trap = Vec::new();
        for _ in 0..40_000 {
            let mut header = record(11, 9, b"");
            header[..4].copy_from_slice(&900_000u32.to_le_bytes());
            trap.extend(header);
        }
        assert_eq!(highest_claim(&trap, 10, 10), None);
    }
}
