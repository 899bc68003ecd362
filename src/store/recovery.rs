//! From files to a running store: choose a checkpoint, scan the log, cut a torn tail, hand everything over.

use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::{self, CheckpointFault, CheckpointReader, Part};
use super::disk::{Disk, DiskError, DiskFile, read_all};
use super::log::{Segment, Shared, State, Store, segment_room};
use super::scan::{self, Plan, Scan, Scanned};
use super::segment::{self, HEADER_BYTES, Kind, Next, SegmentHeader};
use super::{FORMAT, KEPT_CHECKPOINTS, Lsn, OLDEST_FORMAT, Options, SEGMENT_BYTES};

/// What was found on the disk, waiting to be taken over by [`Recovery::replay`].
#[derive(Debug)]
pub struct Recovery {
    disk: Arc<dyn Disk>,
    segments: Vec<Lsn>,
    meta: Vec<u8>,
    skip_bytes: u64,
    report: Report,
}

/// One part of what was found. They come in this order; all but the records may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered<'a> {
    /// Once: the checkpoint's record and `meta`.
    Checkpoint { lsn: Lsn, meta: &'a [u8] },
    /// A record that the checkpoint already reflects, newest `redeliver_bytes` of them in order: not to be applied.
    Retained { lsn: Lsn, payload: &'a [u8] },
    /// The checkpoint's blocks in the order they were written.
    Block(&'a [u8]),
    /// A record to apply, in order.
    Record { lsn: Lsn, payload: &'a [u8] },
}

/// How the last process let go of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStop {
    /// There was none.
    Fresh,
    Clean,
    /// Killed, or the machine lost power, or an IO error came before.
    Unclean,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub last_stop: LastStop,
    /// The record the checkpoint in use reflects.
    pub checkpoint: Option<Lsn>,
    /// A newer checkpoint that is damaged; the one in use and the log make up for it.
    pub damaged_checkpoint: Option<Lsn>,
    /// Records to apply, and the bytes of their payloads.
    pub records: u64,
    pub record_bytes: u64,
    /// What was cut off the end of the log: never synced, and not whole.
    pub torn_bytes: u64,
    /// The last record there is. All up to it are on the disk now.
    pub last_lsn: Lsn,
}

/// Nothing was changed on the disk, save where [`OpenError::Disk`] came while a torn tail was being cut, which the
/// next start completes.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{} is not a file of this store: it begins with other bytes; move it away", file.display())]
    Foreign { file: PathBuf },
    #[error(
        "{} has format {found}, this binary reads {OLDEST_FORMAT}..={FORMAT}; use the version that wrote it or a newer one",
        file.display()
    )]
    Version { file: PathBuf, found: u32 },
    #[error(
        "{} is damaged at byte {offset}: expected {expected}, found {found}. Nothing was changed. Either bring a backup back with `tidings restore`, or move the directory away and rejoin blank",
        file.display()
    )]
    Damaged { file: PathBuf, offset: u64, expected: String, found: String },
    #[error(
        "{} is missing: record {lsn} should be in it. Nothing was changed. Either bring a backup back with `tidings restore`, or move the directory away and rejoin blank",
        file.display()
    )]
    Missing { file: PathBuf, lsn: Lsn },
}

/// What was handed over before the error is incomplete and must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// The visitor's own.
    #[error("what was recovered could not be taken over")]
    Visitor(E),
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was sound when the store was opened a moment ago.
    #[error("{} reads differently the second time, at byte {offset}", file.display())]
    Unstable { file: PathBuf, offset: u64 },
}

impl OpenError {
    pub(super) fn foreign(file: PathBuf) -> Self {
        OpenError::Foreign { file }
    }

    pub(super) fn version(file: PathBuf, found: u32) -> Self {
        OpenError::Version { file, found }
    }

    pub(super) fn damaged(file: PathBuf, offset: u64, expected: String, found: String) -> Self {
        OpenError::Damaged { file, offset, expected, found }
    }
}

impl Store {
    /// Verifies everything that will be needed, cuts a torn tail, and begins a new segment. On return every record
    /// found is durable. `now_ms` is noted as the segment's birth.
    ///
    /// `options.segment_bytes` must be within [`SEGMENT_BYTES`].
    pub fn open(disk: Arc<dyn Disk>, options: Options, now_ms: u64) -> Result<(Store, Recovery), OpenError> {
        assert!(SEGMENT_BYTES.contains(&options.segment_bytes));
        let found = Inventory::take(&*disk)?;
        let chosen = choose_checkpoint(&*disk, &found)?;
        let scan = scan_log(&*disk, &found, &chosen, &options)?;

        // From here on the disk is changed.
        for name in &found.temporary {
            disk.remove(name)?;
        }
        if let Some(tail) = &scan.tail {
            tracing::warn!(bytes = tail.bytes, at = %tail.why, "cutting a torn, never synced tail off the log");
        }
        let segments = settle(&*disk, &scan)?;
        let report = report(&found, &chosen, &scan);
        let state = state(&found, &chosen, &scan, &segments);
        let recovery = Recovery {
            disk: Arc::clone(&disk),
            segments: segments.iter().filter(|s| s.read).map(|s| s.first).collect(),
            meta: chosen.meta,
            skip_bytes: scan.behind_bytes.saturating_sub(options.redeliver_bytes),
            report,
        };
        let store = begin(disk, options, state, now_ms)?;
        Ok((store, recovery))
    }
}

impl Recovery {
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Hands everything over. To be called before anything is retired.
    pub fn replay<E>(
        self,
        mut visit: impl FnMut(Recovered<'_>) -> Result<(), E>,
    ) -> Result<Report, ReplayError<E>> {
        let mut buf = Vec::new();
        let base = self.report.checkpoint.unwrap_or(0);
        if let Some(lsn) = self.report.checkpoint {
            let meta = &self.meta;
            visit(Recovered::Checkpoint { lsn, meta }).map_err(ReplayError::Visitor)?;
        }
        let mut skip = self.skip_bytes;
        self.records(1..=base, &mut buf, &mut |lsn, payload| {
            if skip > 0 {
                skip = skip.saturating_sub(payload.len() as u64);
                return Ok(());
            }
            visit(Recovered::Retained { lsn, payload })
        })?;
        if let Some(lsn) = self.report.checkpoint {
            let mut reader = self.checkpoint(lsn)?;
            while self.part(&mut reader, lsn, &mut buf)? == Part::Block {
                visit(Recovered::Block(&buf)).map_err(ReplayError::Visitor)?;
            }
        }
        let after = base + 1..=self.report.last_lsn;
        self.records(after, &mut buf, &mut |lsn, payload| visit(Recovered::Record { lsn, payload }))?;
        Ok(self.report)
    }

    fn checkpoint<E>(&self, lsn: Lsn) -> Result<CheckpointReader, ReplayError<E>> {
        let file = self.disk.open(&checkpoint::file_name(lsn))?;
        CheckpointReader::open(file, lsn).map_err(|fault| self.unstable(lsn, fault))
    }

    fn part<E>(
        &self,
        reader: &mut CheckpointReader,
        lsn: Lsn,
        buf: &mut Vec<u8>,
    ) -> Result<Part, ReplayError<E>> {
        reader.next(buf).map_err(|fault| self.unstable(lsn, fault))
    }

    fn unstable<E>(&self, lsn: Lsn, fault: CheckpointFault) -> ReplayError<E> {
        let offset = match fault {
            CheckpointFault::Disk(error) => return error.into(),
            CheckpointFault::Damaged { offset, .. } => offset,
            CheckpointFault::Magic | CheckpointFault::Version(_) => 0,
        };
        let file = self.disk.path(&checkpoint::file_name(lsn));
        ReplayError::Unstable { file, offset }
    }

    /// The data records of `range`, verified once more.
    fn records<E>(
        &self,
        range: std::ops::RangeInclusive<Lsn>,
        buf: &mut Vec<u8>,
        visit: &mut impl FnMut(Lsn, &[u8]) -> Result<(), E>,
    ) -> Result<(), ReplayError<E>> {
        for (index, first) in self.segments.iter().enumerate() {
            let next = self.segments.get(index + 1);
            let last = next.map_or(self.report.last_lsn, |next| next - 1);
            if last < *range.start() || first > range.end() {
                continue;
            }
            let name = segment::file_name(*first);
            read_all(&*self.disk.open(&name)?, buf)?;
            let mut at = HEADER_BYTES;
            for lsn in *first..=last.min(*range.end()) {
                let rest = buf.get(at..).unwrap_or_default();
                let Next::Record(record) = segment::expect_record(rest, lsn) else {
                    return Err(ReplayError::Unstable { file: self.disk.path(&name), offset: at as u64 });
                };
                at += record.bytes();
                if record.kind == Kind::Data && range.contains(&lsn) {
                    visit(lsn, record.payload).map_err(ReplayError::Visitor)?;
                }
            }
        }
        Ok(())
    }
}

/// The store's files by kind; others are none of its business.
#[derive(Debug, Default)]
struct Inventory {
    segments: Vec<Lsn>,
    checkpoints: Vec<Lsn>,
    temporary: Vec<String>,
}

impl Inventory {
    fn take(disk: &dyn Disk) -> Result<Inventory, DiskError> {
        let mut found = Inventory::default();
        for name in disk.list()? {
            if let Some(first) = segment::parse_file_name(&name) {
                found.segments.push(first);
            } else if let Some(lsn) = checkpoint::parse_file_name(&name) {
                found.checkpoints.push(lsn);
            } else if is_temporary(&name) {
                found.temporary.push(name);
            }
        }
        found.segments.sort_unstable();
        found.checkpoints.sort_unstable();
        Ok(found)
    }
}

#[derive(Debug, Default)]
struct Chosen {
    checkpoint: Option<Lsn>,
    meta: Vec<u8>,
    damaged: Option<Lsn>,
}

/// The newest whole checkpoint. A damaged one is passed over only if an older one and the log hold the same state.
fn choose_checkpoint(disk: &dyn Disk, found: &Inventory) -> Result<Chosen, OpenError> {
    let mut damage = None;
    let mut chosen = Chosen::default();
    for lsn in found.checkpoints.iter().rev() {
        let path = disk.path(&checkpoint::file_name(*lsn));
        match verify_checkpoint(disk, *lsn) {
            Ok(meta) => {
                chosen.checkpoint = Some(*lsn);
                chosen.meta = meta;
                break;
            }
            Err(CheckpointFault::Disk(error)) => return Err(error.into()),
            Err(CheckpointFault::Magic) => return Err(OpenError::foreign(path)),
            Err(CheckpointFault::Version(found)) => return Err(OpenError::version(path, found)),
            Err(CheckpointFault::Damaged { offset, found }) => {
                let expected = "a whole checkpoint".to_owned();
                let error = OpenError::damaged(path, offset, expected, found.to_owned());
                damage.get_or_insert(error);
                chosen.damaged.get_or_insert(*lsn);
            }
        }
    }
    let Some(damage) = damage else {
        return Ok(chosen);
    };
    // No checkpoint at all is as good as one of the empty state, if the log has everything.
    let needed = chosen.checkpoint.unwrap_or(0) + 1;
    match found.segments.first() {
        Some(first) if *first <= needed => {
            tracing::warn!(%damage, used = ?chosen.checkpoint, "passing over a damaged checkpoint");
            Ok(chosen)
        }
        _ => Err(damage),
    }
}

fn verify_checkpoint(disk: &dyn Disk, lsn: Lsn) -> Result<Vec<u8>, CheckpointFault> {
    checkpoint::verify(disk.open(&checkpoint::file_name(lsn))?, lsn)
}

fn scan_log(
    disk: &dyn Disk,
    found: &Inventory,
    chosen: &Chosen,
    options: &Options,
) -> Result<Scan, OpenError> {
    let base = chosen.checkpoint.unwrap_or(0);
    let needed = found.segments.iter().rposition(|first| *first <= base + 1);
    let Some(needed) = needed else {
        if found.segments.is_empty() && found.checkpoints.is_empty() {
            return Ok(Scan { next: 1, ..Scan::default() });
        }
        return Err(OpenError::Missing { file: disk.path(&segment::file_name(base + 1)), lsn: base + 1 });
    };
    let (mut from, mut behind) = (needed, 0);
    while from > 0 && behind < options.redeliver_bytes {
        from -= 1;
        let name = segment::file_name(found.segments[from]);
        behind += disk.open(&name)?.size()?;
    }
    let plan = Plan {
        firsts: found.segments.clone(),
        from,
        checkpoint: base,
        floor: found.checkpoints.last().copied().unwrap_or(0),
    };
    scan::scan(disk, &plan)
}

/// Makes what the scan found sound all there is, durably, and returns the segments that stay.
fn settle<'a>(disk: &dyn Disk, scan: &'a Scan) -> Result<Vec<&'a Scanned>, DiskError> {
    if let Some(tail) = &scan.tail {
        // Durable with the directory's next sync, at the latest when the new segment begins. Should a crash before
        // that keep some of them, nothing in them proves more than it did now.
        for first in &tail.remove {
            disk.remove(&segment::file_name(*first))?;
        }
    }
    // One without records has the name of the segment about to begin, which replaces it.
    let segments: Vec<_> = scan.segments.iter().filter(|s| s.last >= s.first).collect();
    for segment in segments.iter().filter(|s| s.read) {
        let name = segment::file_name(segment.first);
        if segment.torn || segment.last > scan.claim {
            // Copied rather than synced: after a failed sync the system may hold pages for clean that never reached
            // the disk. And a torn end must be gone for good before a later segment vouches for this one.
            let mut bytes = Vec::new();
            read_all(&*disk.open(&name)?, &mut bytes)?;
            bytes.truncate(segment.end as usize);
            replace(disk, segment.first, |file| file.write_at(0, &bytes))?;
        } else if segment.len > segment.end {
            disk.open(&name)?.truncate(segment.end)?;
        }
    }
    Ok(segments)
}

/// Puts a new file in the place of a segment, in one durable step.
fn replace(
    disk: &dyn Disk,
    first: Lsn,
    fill: impl FnOnce(&dyn DiskFile) -> Result<(), DiskError>,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    let temporary = segment::temp_name(first);
    let file = disk.create(&temporary)?;
    fill(&*file)?;
    file.sync_data()?;
    disk.rename(&temporary, &segment::file_name(first))?;
    disk.sync_dir()?;
    Ok(file)
}

fn begin(disk: Arc<dyn Disk>, options: Options, mut state: State, now_ms: u64) -> Result<Store, DiskError> {
    let header = SegmentHeader { first: state.written + 1, created_ms: now_ms, synced: state.written };
    let file = replace(&*disk, header.first, |file| {
        file.preallocate(segment_room(&options, 0))?;
        file.write_at(0, &header.encode())
    })?;
    state.begin_segment(&header, Arc::clone(&file), false);
    Ok(Store::start(Arc::new(Shared::new(disk, options, state)), file))
}

fn report(found: &Inventory, chosen: &Chosen, scan: &Scan) -> Report {
    Report {
        last_stop: match (found.segments.is_empty(), scan.closed) {
            (true, _) => LastStop::Fresh,
            (false, true) => LastStop::Clean,
            (false, false) => LastStop::Unclean,
        },
        checkpoint: chosen.checkpoint,
        damaged_checkpoint: chosen.damaged,
        records: scan.records,
        record_bytes: scan.record_bytes,
        torn_bytes: scan.tail.as_ref().map_or(0, |tail| tail.bytes),
        last_lsn: scan.next - 1,
    }
}

fn state(found: &Inventory, chosen: &Chosen, scan: &Scan, segments: &[&Scanned]) -> State {
    let segments: Vec<_> = segments
        .iter()
        .map(|s| Segment { first: s.first, created_ms: s.created_ms, bytes: s.end, places: Vec::new() })
        .collect();
    let mut checkpoints = found.checkpoints.clone();
    checkpoints.retain(|lsn| chosen.checkpoint.is_some_and(|c| *lsn <= c));
    let surplus = checkpoints.len().saturating_sub(KEPT_CHECKPOINTS);
    checkpoints.drain(..surplus);
    State {
        log_bytes: segments.iter().map(|s| s.bytes).sum(),
        segments: segments.into(),
        unsynced: Vec::new(),
        written: scan.next - 1,
        durable: scan.next - 1,
        checkpoints,
        since_checkpoint: scan.replay_bytes,
        poison: None,
    }
}

/// Left behind by a crash.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".tmp") else {
        return false;
    };
    segment::parse_file_name(&format!("{stem}.seg")).is_some()
        || checkpoint::parse_file_name(&format!("{stem}.ckpt")).is_some()
}
