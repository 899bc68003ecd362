//! Sizes, retention, what is handed over, and the other doors of the room.

use super::*;
use crate::store::memdisk::Keep;

#[test]
fn a_fresh_directory_a_clean_stop_and_a_kill_are_told_apart() {
    let disk = MemDisk::new();
    let (store, got, report) = recover(&disk).unwrap();
    assert_eq!((report.last_stop, got), (LastStop::Fresh, Got::default()));
    store.close(0).unwrap();
    disk.crash(&mut |_| Keep::Nothing);
    let (store, _, report) = recover(&disk).unwrap();
    assert_eq!((report.last_stop, report.last_lsn), (LastStop::Clean, 1));
    drop(store);
    disk.kill();
    let (_, _, report) = recover(&disk).unwrap();
    assert_eq!(report.last_stop, LastStop::Unclean);
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own_and_one_over_the_bound_is_refused() {
    let disk = MemDisk::new();
    let (mut store, _) = open(&disk).unwrap();
    store.append(0, b"small").unwrap();
    let large = vec![7; 5000];
    assert_eq!(store.append(0, &large).unwrap(), 2);
    assert_eq!(store.append(0, b"small again").unwrap(), 3);
    assert_eq!(store.housekeeper().segments(), 3);
    let error = store.append_with(0, |buf| buf.resize(buf.len() + MAX_RECORD_BYTES + 1, 0)).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { bytes } if bytes == MAX_RECORD_BYTES + 1));
    assert_eq!(store.append(0, b"").unwrap(), 4, "the log goes on");
    drop(store);
    disk.kill();
    let (_, recovery) = open(&disk).unwrap();
    let mut sizes = Vec::new();
    recovery
        .replay(|part| {
            if let Recovered::Record { payload, .. } = part {
                sizes.push(payload.len());
            }
            Ok::<(), Infallible>(())
        })
        .unwrap();
    assert_eq!(sizes, [5, 5000, 11, 0]);
}

#[test]
fn unsynced_segments_are_bounded() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for _ in 0..100 {
        app.append(&mut store).unwrap();
    }
    let segment_records = 256 / segment::RECORD_HEADER_BYTES;
    let bound = (MAX_UNSYNCED_SEGMENTS * segment_records) as u64;
    assert!(store.syncer().pending() <= bound);
    assert!(store.syncer().durable() >= 100 - bound);
}

#[test]
fn retention_follows_size_and_age_and_never_what_a_checkpoint_needs() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let keeper = store.housekeeper();
    let mut app = App::default();
    for _ in 0..40 {
        app.append(&mut store).unwrap();
    }
    let all = keeper.log_bytes();
    assert_eq!(keeper.retire(u64::MAX).unwrap(), Retired::default());
    assert_eq!((keeper.oldest_lsn(), keeper.checkpoint_lsn()), (1, None));

    assert!(keeper.bytes_since_checkpoint() > 0);
    app.checkpoint(&store).unwrap();
    assert_eq!(keeper.bytes_since_checkpoint(), 0);
    let done = keeper.retire(0).unwrap();
    assert!(done.segments > 0 && keeper.log_bytes() == all - done.bytes);
    assert!(keeper.log_bytes() <= options().retain_bytes);
    assert!(keeper.log_bytes() + 300 > options().retain_bytes, "no more than needed");

    // Age: all that was sealed long ago goes, though it is small; the segment being written stays.
    keeper.retire(u64::MAX).unwrap();
    assert_eq!(keeper.segments(), 1);

    // The older of two checkpoints can still be followed by the whole log.
    for _ in 0..40 {
        app.append(&mut store).unwrap();
    }
    app.checkpoint(&store).unwrap();
    keeper.retire(u64::MAX).unwrap();
    assert!(keeper.oldest_lsn() <= 41);
    let error = keeper.read_from(1, |_, _| true).unwrap_err();
    assert!(matches!(error, ReadError::Gone { lsn: 1, .. }));
    disk.kill();
    assert_eq!(recover(&disk).unwrap().1.state, app.written);
}

#[test]
fn records_behind_the_checkpoint_are_redelivered_up_to_the_bound() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for _ in 0..20 {
        app.append(&mut store).unwrap();
    }
    app.checkpoint(&store).unwrap();
    for _ in 0..3 {
        app.append(&mut store).unwrap();
    }
    drop(store);
    disk.kill();
    let (_, got, report) = recover(&disk).unwrap();
    assert_eq!(got.state, app.written);
    assert_eq!((report.checkpoint, report.records), (Some(20), 3));
    let bytes: usize = got.retained.iter().map(|l| payload(*l).len()).sum();
    let first = *got.retained.first().unwrap();
    assert!(bytes <= 120 && bytes + payload(first - 1).len() > 120);
    assert_eq!(got.retained, (first..=20).collect::<Vec<_>>());
}

#[test]
fn an_aborted_checkpoint_leaves_nothing_and_only_one_runs_at_a_time() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    App::default().append(&mut store).unwrap();
    let names = disk.list().unwrap();
    let mut writer = store.begin_checkpoint(1).unwrap();
    assert!(matches!(store.begin_checkpoint(1), Err(CheckpointError::Busy)));
    writer.block(b"half").unwrap();
    writer.abort();
    assert_eq!(disk.list().unwrap(), names);
    // One that a crash interrupted is cleared away at the start.
    let writer = store.begin_checkpoint(1).unwrap();
    std::mem::forget(writer);
    disk.kill();
    recover(&disk).unwrap();
    assert!(disk.list().unwrap().iter().all(|n| !n.ends_with(".tmp")));
}

#[test]
fn reading_back_follows_the_log_over_segments_and_stops_where_told() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for _ in 0..30 {
        app.append(&mut store).unwrap();
    }
    let keeper = store.housekeeper();
    for from in 1..=31 {
        let mut seen = Vec::new();
        keeper
            .read_from(from, |lsn, p| {
                assert_eq!(p, payload(lsn));
                seen.push(number(p));
                lsn < 25
            })
            .unwrap();

        let expected: Vec<Lsn> = (1..=30).filter(|l| *l >= from && *l <= from.max(25)).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "that threads may share a store is what is tested")]
fn threads_share_the_work_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = OsDisk::new(DirLock::acquire(dir.path()).unwrap());
        let options = Options { segment_bytes: 4096, ..Options::default() };
        Store::open(Arc::new(disk), options, 0).unwrap()
    };
    let (mut store, recovery) = open();
    assert_eq!(recovery.report().last_stop, LastStop::Fresh);
    drop(recovery);
    let syncers: Vec<_> = (0..2)
        .map(|_| {
            let syncer = store.syncer();
            std::thread::spawn(move || {
                while syncer.durable() < 500 {
                    syncer.sync().unwrap();
                }
            })
        })
        .collect();
    for lsn in 1..=500 {
        store.append(0, &payload(lsn)).unwrap();
        if lsn == 250 {
            let mut writer = store.begin_checkpoint(lsn).unwrap();
            writer.block(b"state").unwrap();
            assert_eq!(writer.finish(b"meta").unwrap().blocks, 1);
        }
    }
    for syncer in syncers {
        syncer.join().unwrap();
    }
    store.close(0).unwrap();
    let (store, recovery) = open();
    assert_eq!(recovery.report().last_stop, LastStop::Clean);
    assert_eq!((recovery.report().checkpoint, recovery.report().records), (Some(250), 250));
    drop((store, recovery));
}

#[test]
fn fsync_reads_as_it_prints() {
    for policy in [Fsync::Always, Fsync::Everysec, Fsync::No] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    let error = "sometimes".parse::<Fsync>().unwrap_err().to_string();
    assert!(error.contains("sometimes") && error.contains("everysec"));
}
