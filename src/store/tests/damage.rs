//! Bit rot, missing files and files of others: refused by name and place, or, where no sync had covered them, cut.

use super::*;
use crate::store::memdisk::Keep;

/// A life without checkpoints, synced at its end, with the last record not followed by anything.
fn synced_log() -> (MemDisk, App) {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for turn in 0..16 {
        app.append(&mut store).unwrap();
        if turn % 3 == 2 {
            app.sync(&store).unwrap();
        }
    }
    app.sync(&store).unwrap();
    drop(store);
    disk.crash(&mut |_| Keep::Nothing);
    (disk, app)
}

fn segments(disk: &MemDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|n| segment::parse_file_name(n).is_some());
    names
}

#[test]
fn a_flipped_bit_anywhere_in_a_synced_log_is_refused_or_cut_where_nothing_proves_the_sync() {
    let (disk, app) = synced_log();
    let names = segments(&disk);
    assert!(names.len() > 2);
    let (mut refused, mut cut) = (0, 0);
    for name in &names {
        for byte in 0..disk.content(name).unwrap().len() {
            for bit in 0..8 {
                let disk = disk.copy();
                disk.flip(name, byte, bit);
                let before = disk.content(name).unwrap();
                match recover(&disk) {
                    Ok((_, got, report)) => {
                        cut += 1;
                        assert!(report.torn_bytes > 0);
                        assert_eq!(got.state, app.written[..got.state.len()]);
                        // The last record that carries a proof covers the first fifteen.
                        assert!(got.state.len() >= 12, "{name} {byte} {bit}");
                    }
                    Err(OpenError::Damaged { file, offset, .. }) => {
                        refused += 1;
                        assert!(file.ends_with(name), "{name}: {}", file.display());
                        assert!(offset as usize <= byte);
                        assert_eq!(disk.content(name).unwrap(), before, "left alone");
                    }
                    Err(OpenError::Foreign { file }) => {
                        assert!(file.ends_with(name) && byte < 8);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    assert!(refused > 2000 && cut > 100, "{refused} {cut}");
}

#[test]
fn after_a_clean_stop_no_record_is_ever_cut() {
    let (disk, app) = synced_log();
    let (store, ..) = recover(&disk).unwrap();
    store.close(0).unwrap();
    for name in segments(&disk) {
        let content = disk.content(&name).unwrap();
        for byte in 0..content.len() {
            let disk = disk.copy();
            disk.flip(&name, byte, byte as u8);
            if let Ok((_, got, report)) = recover(&disk) {
                // Only the mark of the stop itself is not vouched for.
                assert_eq!(got.state, app.written);
                assert_eq!(report.last_stop, LastStop::Unclean);
            }
        }
    }
}

#[test]
fn a_checkpoint_that_rots_is_replaced_by_the_one_before_and_the_log_or_refused() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for turn in 0..24 {
        app.append(&mut store).unwrap();
        if turn % 6 == 5 {
            app.checkpoint(&store).unwrap();
            store.housekeeper().retire(u64::MAX).unwrap();
        }
    }
    drop(store);
    disk.kill();
    let (store, got, _) = recover(&disk.copy()).unwrap();
    assert_eq!((got.checkpoint, &got.state), (Some(24), &app.written));
    drop(store);
    let name = "checkpoint-0000000000000024.ckpt";
    let older = "checkpoint-0000000000000018.ckpt";
    for byte in 0..disk.content(name).unwrap().len() {
        let one = disk.copy();
        one.flip(name, byte, byte as u8);
        match recover(&one) {
            Ok((_, got, report)) => {
                assert_eq!(report.damaged_checkpoint, Some(24));
                assert_eq!((got.checkpoint, &got.state), (Some(18), &app.written));
            }
            Err(OpenError::Foreign { file }) => assert!(file.ends_with(name) && byte < 8),
            Err(other) => panic!("{other}"),
        }
        if byte < 8 {
            continue;
        }
        one.flip(older, 40, 0);
        match recover(&one).unwrap_err() {
            OpenError::Damaged { file, offset, .. } => {
                assert!(file.ends_with(name) && offset as usize <= byte);
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, _) = synced_log();
    let names = segments(&disk);
    for (index, name) in names.iter().enumerate() {
        let one = disk.copy();
        one.remove(name).unwrap();
        match recover(&one) {
            Err(OpenError::Missing { file, lsn }) => {
                assert_eq!((index, lsn), (0, 1));
                assert!(file.ends_with(name));
            }
            Err(OpenError::Damaged { file, found, .. }) => {
                assert!(file.ends_with(&names[index - 1]));
                assert!(found.contains("begins the next"), "{found}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => assert_eq!(index, names.len() - 1, "nothing after it tells"),
        }
    }
}

#[test]
fn a_log_that_does_not_reach_its_checkpoint_is_refused() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for _ in 0..8 {
        app.append(&mut store).unwrap();
    }
    app.checkpoint(&store).unwrap();
    let names = segments(&disk);
    disk.kill();
    let one = disk.copy();
    for name in &names {
        one.remove(name).unwrap();
    }
    assert!(matches!(recover(&one), Err(OpenError::Missing { lsn: 9, .. })));
    let last = names.last().unwrap();
    disk.remove(last).unwrap();
    let error = recover(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("tidings restore"), "{error}");
}

#[test]
fn other_formats_and_other_files_are_refused_by_name() {
    let (disk, _) = synced_log();
    let name = segments(&disk).pop().unwrap();
    let mut content = disk.content(&name).unwrap();
    content[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    let crc = crc32fast::hash(&content[..36]);
    content[36..40].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&name, content);
    let error = recover(&disk).unwrap_err().to_string();
    let expected = format!("has format {}, this binary reads", FORMAT + 1);
    assert!(error.contains(&name) && error.contains(&expected), "{error}");

    disk.overwrite(&name, b"[package]\nname = \"tidings\"".to_vec());
    let error = recover(&disk).unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { file } if file.ends_with(&name)));
}

#[test]
fn records_inside_a_payload_are_not_taken_for_records() {
    let disk = MemDisk::new();
    let (mut store, _) = open(&disk).unwrap();
    let mut inner = vec![0; segment::RECORD_HEADER_BYTES];
    segment::seal_record(&mut inner, 2, 1, segment::Kind::Data);
    store.append(0, &inner).unwrap();
    store.syncer().sync().unwrap();
    drop(store);
    disk.kill();
    let (_, recovery) = open(&disk).unwrap();
    assert_eq!((recovery.report().records, recovery.report().last_lsn), (1, 1));
}

#[test]
fn the_first_record_after_a_sync_vouches_for_the_one_before() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    app.append(&mut store).unwrap();
    app.sync(&store).unwrap();
    disk.kill();
    let one = disk.copy();
    one.flip("log-0000000000000001.seg", 70, 0);
    assert!(recover(&one).unwrap().1.state.is_empty(), "nothing vouches yet");

    let (mut store, ..) = recover(&disk).unwrap();
    app.append(&mut store).unwrap();
    disk.kill();
    disk.remove("log-0000000000000002.seg").unwrap();
    let two = disk.copy();
    let mut content = disk.content("log-0000000000000001.seg").unwrap();
    let mut record = vec![0; segment::RECORD_HEADER_BYTES];
    segment::seal_record(&mut record, 2, 1, segment::Kind::Data);
    content.extend(record);
    content[70] ^= 1;
    two.overwrite("log-0000000000000001.seg", content);
    let error = recover(&two).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { offset: 40, .. }), "{error}");
}

#[test]
fn a_checkpoint_vouches_for_the_log_before_it() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    for _ in 0..3 {
        app.append(&mut store).unwrap();
    }
    app.checkpoint(&store).unwrap();
    // Finished means durable.
    disk.crash(&mut |_| Keep::Nothing);
    let last = disk.content("log-0000000000000001.seg").unwrap();
    let byte = last.iter().rposition(|b| *b != 0).unwrap();
    let one = disk.copy();
    one.flip("log-0000000000000001.seg", byte, 0);
    let error = recover(&one).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let (_, got, _) = recover(&disk).unwrap();
    assert_eq!((got.checkpoint, got.state), (Some(3), app.written));
}

#[test]
fn a_witness_counts_however_far_behind_the_break_it_is() {
    let disk = MemDisk::new();
    let options = Options { segment_bytes: 4096, ..options() };
    let (mut store, _) = Store::open(Arc::new(disk.clone()), options, 0).unwrap();
    for _ in 0..170 {
        store.append(0, b"").unwrap();
    }
    store.syncer().sync().unwrap();
    store.append(0, b"").unwrap();
    drop(store);
    disk.kill();
    let names = segments(&disk);
    assert_eq!(names.len(), 2);
    let mut last = disk.content(&names[1]).unwrap();
    last.truncate(last.iter().rposition(|b| *b != 0).unwrap() + 1);
    disk.overwrite(&names[1], last);
    let fifth = segment::HEADER_BYTES + 4 * segment::RECORD_HEADER_BYTES;
    disk.flip(&names[0], fifth + 8, 0);
    match open(&disk).unwrap_err() {
        OpenError::Damaged { file, offset, .. } => {
            assert!(file.ends_with(&names[0]) && offset as usize == fifth);
        }
        other => panic!("{other}"),
    }
}
