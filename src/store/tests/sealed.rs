//! What is sealed comes back elsewhere as it was, or not at all.

use super::*;

/// A checkpoint and what follows it, as an archive would hold them.
#[derive(Debug, Default, Clone)]
struct Copied {
    lsn: Lsn,
    blocks: Vec<Vec<u8>>,
    meta: Vec<u8>,
    segments: Vec<(SealedSegment, Vec<u8>)>,
}

/// A store with a checkpoint and full segments behind it, and what of it is sealed.
fn source() -> (App, Store, Copied) {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for turn in 0..40 {
        app.append(&mut store).unwrap();
        if turn == 19 {
            app.checkpoint(&store).unwrap();
        }
    }
    app.sync(&store).unwrap();
    let copied = copy(&store.housekeeper());
    (app, store, copied)
}

fn copy(housekeeper: &Housekeeper) -> Copied {
    let sealed = housekeeper.sealed();
    let mut copied = Copied { lsn: sealed.checkpoint.unwrap(), ..Copied::default() };
    let mut reader = housekeeper.read_checkpoint(copied.lsn).unwrap();
    let mut buf = Vec::new();
    while reader.next(&mut buf).unwrap() == Part::Block {
        copied.blocks.push(buf.clone());
    }
    copied.meta = buf.clone();
    for segment in sealed.segments {
        housekeeper.read_segment(&segment, &mut buf).unwrap();
        assert_eq!(buf.len() as u64, segment.bytes);
        copied.segments.push((segment, buf.clone()));
    }
    copied
}

fn rebuild(copied: &Copied, disk: &MemDisk) -> Result<Lsn, RebuildError> {
    let mut rebuilder = Rebuilder::begin(Arc::new(disk.clone()), copied.lsn)?;
    for block in &copied.blocks {
        rebuilder.block(block)?;
    }
    rebuilder.meta(&copied.meta)?;
    for (segment, bytes) in &copied.segments {
        rebuilder.segment(segment.first..=segment.last, bytes)?;
    }
    rebuilder.finish(7)
}

#[test]
fn a_rebuilt_directory_starts_with_all_that_was_sealed() {
    let (app, store, copied) = source();
    assert!(copied.segments.len() > 2, "{}", copied.segments.len());
    let last = copied.segments.last().unwrap().0.last;
    assert!(last < store.written(), "the segment being written is not sealed");
    let disk = MemDisk::new();
    assert_eq!(rebuild(&copied, &disk).unwrap(), last);
    let (mut again, got, report) = recover(&disk).unwrap();
    assert_eq!(got.state, app.written[..last as usize]);
    assert_eq!((report.checkpoint, report.torn_bytes, report.last_lsn), (Some(20), 0, last));
    assert_eq!(again.append(0, &payload(last + 1)).unwrap(), last + 1);
    drop(again);
    // And is sealed again there, byte for byte.
    let (again, ..) = recover(&disk).unwrap();
    let copied_again = copy(&again.housekeeper());
    assert_eq!((copied_again.blocks, copied_again.meta), (copied.blocks, copied.meta));
}

#[test]
fn a_checkpoint_alone_is_enough() {
    let (app, _, mut copied) = source();
    copied.segments.clear();
    let disk = MemDisk::new();
    assert_eq!(rebuild(&copied, &disk).unwrap(), 20);
    let (mut store, got, _) = recover(&disk).unwrap();
    assert_eq!(got.state, app.written[..20]);
    assert_eq!(store.append(0, &payload(21)).unwrap(), 21);
}

#[test]
fn nothing_is_put_over_a_store_and_nothing_half() {
    let (_, _, copied) = source();
    let disk = MemDisk::new();
    rebuild(&copied, &disk).unwrap();
    let before = disk.list().unwrap();
    assert!(matches!(rebuild(&copied, &disk).unwrap_err(), RebuildError::NotEmpty { .. }));
    assert_eq!(disk.list().unwrap(), before);

    let disk = MemDisk::new();
    let mut holed = copied.clone();
    holed.segments.remove(1);
    assert!(matches!(rebuild(&holed, &disk).unwrap_err(), RebuildError::Hole { .. }));
    let mut late = copied.clone();
    late.segments.remove(0);
    assert!(matches!(rebuild(&late, &disk).unwrap_err(), RebuildError::Hole { .. }));
    for at in [0, 50, 90] {
        let mut bad = copied.clone();
        bad.segments[1].1[at] ^= 1;
        assert!(matches!(rebuild(&bad, &disk).unwrap_err(), RebuildError::Segment { .. }), "{at}");
    }
    let mut longer = copied.clone();
    longer.segments[0].1.push(0);
    assert!(matches!(rebuild(&longer, &disk).unwrap_err(), RebuildError::Segment { .. }));
    assert!(disk.list().unwrap().is_empty(), "{:?}", disk.list());
}

#[test]
fn a_damaged_checkpoint_is_not_read_out() {
    let (_, store, copied) = source();
    let housekeeper = store.housekeeper();
    assert!(housekeeper.read_checkpoint(copied.lsn + 1).is_err(), "there is no such checkpoint");
    let damaged = SealedSegment { last: copied.segments[0].0.last + 1, ..copied.segments[0].0 };
    let error = housekeeper.read_segment(&damaged, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
}

/// A store whose log still begins with record 1, and one whose does not.
fn sources() -> [(App, Copied); 2] {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut young = App::default();
    for turn in 0..24 {
        young.append(&mut store).unwrap();
        if turn == 2 {
            young.checkpoint(&store).unwrap();
        }
    }
    young.sync(&store).unwrap();
    let copied = copy(&store.housekeeper());
    assert!(copied.segments.len() > 2 && copied.segments[0].0.first == 1);
    let (old, _, other) = source();
    assert!(other.segments[0].0.first > 1);
    [(young, copied), (old, other)]
}

#[test]
fn power_loss_in_a_restore_leaves_all_or_nothing_or_a_refusal() {
    for (app, copied) in sources() {
        let last = copied.segments.last().unwrap().0.last as usize;
        let (mut whole, mut blank, mut refused) = (0, 0, 0);
        let operations = {
            let disk = MemDisk::new();
            rebuild(&copied, &disk).unwrap();
            disk.operations()
        };
        for operation in 0..=operations {
            for policy in 0..crash::POLICIES {
                let disk = MemDisk::new();
                disk.inject(operation, memdisk::Fault::Halt);
                let done = rebuild(&copied, &disk).is_ok();
                assert_eq!(done, operation == operations);
                crash::crash(&disk, policy);
                match recover(&disk) {
                    Ok((_, got, report)) if report.last_stop == LastStop::Fresh => {
                        assert_eq!(got, Got::default());
                        assert!(!done, "a finished restore is durable");
                        blank += 1;
                    }
                    Ok((_, got, _)) => {
                        assert_eq!(
                            got.state,
                            app.written[..last],
                            "a part of the state, {operation} {policy}"
                        );
                        whole += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, OpenError::Missing { .. }) && !done, "{error}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(whole > 0 && blank > 0 && refused > 0, "{whole} {blank} {refused}");
    }
}

#[test]
fn a_disk_that_refuses_a_restore_is_left_without_a_store() {
    let (_, _, copied) = source();
    for operation in 0..60 {
        let disk = MemDisk::new();
        disk.inject(operation, memdisk::Fault::Eio);
        let Err(error) = rebuild(&copied, &disk) else { continue };
        assert!(matches!(error, RebuildError::Disk(_)), "{error}");
        match recover(&disk) {
            Ok((_, got, _)) => assert!(got == Got::default() || got.checkpoint == Some(copied.lsn)),
            Err(error) => assert!(matches!(error, OpenError::Missing { .. }), "{error}"),
        }
    }
}

#[test]
fn what_an_interrupted_restore_left_is_replaced() {
    let (_, _, copied) = source();
    let disk = MemDisk::new();
    disk.create(&checkpoint::temp_name(copied.lsn)).unwrap();
    disk.create(&segment::temp_name(1)).unwrap();
    disk.create("node.pem").unwrap();
    assert_eq!(holds_a_store(&disk).unwrap(), None);
    rebuild(&copied, &disk).unwrap();
    assert!(disk.list().unwrap().iter().all(|name| !name.ends_with(".tmp")));
    assert!(holds_a_store(&disk).unwrap().is_some());
}
