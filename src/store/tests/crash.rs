//! Power loss and refusals at every operation.

use proptest::prelude::*;

use super::*;
use crate::store::memdisk::{Fault, Keep, Unsynced};

/// Ways a disk may treat what was not synced.
pub(super) const POLICIES: u64 = 10;

fn keep(policy: u64, calls: &mut u64, unsynced: Unsynced<'_>) -> Keep {
    *calls += 1;
    let (index, of, len, is_name) = match unsynced {
        Unsynced::Content { index, of, len, .. } => (index, of, len, false),
        Unsynced::Name { index, of } => (index, of, 0, true),
    };
    let when = |all| if all { Keep::All } else { Keep::Nothing };
    match policy {
        0 => Keep::All,
        1 => Keep::Nothing,
        2 => when(is_name),
        3 => when(!is_name),
        4 => when(index + 1 == of),
        5 => when(index + 1 < of),
        6 if !is_name && index + 1 == of => Keep::First(len / 2),
        6 => Keep::All,
        7 => Keep::First(30),
        8 => when(index % 2 == 1),
        // A scramble that depends on nothing but its arguments.
        seed => {
            let mut x = (seed << 32 | *calls).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            match x >> 62 {
                0 => Keep::Nothing,
                1 => Keep::First((x >> 8) as usize % (len + 1)),
                _ => Keep::All,
            }
        }
    }
}

pub(super) fn crash(disk: &MemDisk, policy: u64) {
    let mut calls = 0;
    disk.crash(&mut |unsynced| keep(policy, &mut calls, unsynced));
}

fn operations_of_a_life() -> u64 {
    let disk = MemDisk::new();
    App::default().live(&disk).unwrap();
    disk.operations()
}

/// After any crash: the promise holds, and the store can be written to, closed and opened again.
fn survive(disk: &MemDisk, mut app: App) {
    let (mut store, got, report) = recover(disk).unwrap_or_else(|e| panic!("{e}"));
    app.check(&got);
    assert!(report.last_lsn >= got.state.last().copied().unwrap_or(0));
    app.written.clone_from(&got.state);
    app.state = got.state;
    app.append(&mut store).unwrap();
    store.close(0).unwrap();
    crash(disk, 1);
    let (store, got, report) = recover(disk).unwrap();
    assert_eq!(got.state, app.written);
    assert_eq!((report.last_stop, report.torn_bytes), (LastStop::Clean, 0));
    drop(store);
}

#[test]
fn power_loss_at_every_operation_keeps_what_was_durable() {
    for operation in 0..operations_of_a_life() {
        for policy in 0..POLICIES {
            let disk = MemDisk::new();
            disk.inject(operation, Fault::Halt);
            let mut app = App::default();
            assert!(app.live(&disk).is_err());
            crash(&disk, policy);
            survive(&disk, app);
        }
    }
}

#[test]
fn power_loss_while_recovering_from_power_loss() {
    for operation in (0..operations_of_a_life()).step_by(5) {
        for policy in [0, 2, 6, 8] {
            let disk = MemDisk::new();
            disk.inject(operation, Fault::Halt);
            let mut app = App::default();
            assert!(app.live(&disk).is_err());
            crash(&disk, policy);
            let start = disk.operations();
            for step in start.. {
                let disk = disk.copy();
                disk.inject(step - start, Fault::Halt);
                if recover(&disk).is_ok() {
                    break;
                }
                crash(&disk, (policy + step) % POLICIES);
                survive(&disk, app.clone());
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_appended() {
    for operation in 0..operations_of_a_life() {
        let disk = MemDisk::new();
        disk.inject(operation, Fault::Halt);
        let mut app = App::default();
        assert!(app.live(&disk).is_err());
        disk.kill();
        app.durable = app.state.last().copied().unwrap_or(0);
        let (store, got, _) = recover(&disk).unwrap();
        app.check(&got);
        // And the start made it durable, even what a sync before had failed to.
        drop(store);
        crash(&disk, 1);
        survive(&disk, app);
    }
}

#[test]
fn a_refusal_at_every_operation_is_told_and_keeps_what_was_acknowledged() {
    for operation in 0..operations_of_a_life() {
        for fault in [Fault::Eio, Fault::Enospc { written: 0 }, Fault::Enospc { written: 30 }] {
            let disk = MemDisk::new();
            disk.inject(operation, fault);
            let mut app = App::default();
            let result = app.live(&disk);
            disk.kill();
            if result.is_ok() {
                // Only the removal of a superseded checkpoint may fail in silence.
                continue;
            }
            survive(&disk, app);
        }
    }
}

#[test]
fn after_a_failed_write_the_log_is_poisoned_and_reads_go_on() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    let mut app = App::default();
    app.append(&mut store).unwrap();
    disk.inject(disk.operations(), Fault::Enospc { written: 20 });
    let error = store.append(0, &payload(2)).unwrap_err();
    assert!(matches!(error, AppendError::Disk { lsn: 2, .. }), "{error}");
    let error = store.append(0, &payload(2)).unwrap_err();
    assert!(matches!(error, AppendError::Poisoned { .. }));
    assert!(error.to_string().contains("until a restart"), "{error}");
    // What was acknowledged can still be made durable, and read.
    assert_eq!(store.syncer().sync().unwrap(), 1);
    let mut seen = Vec::new();
    let keeper = store.housekeeper();
    keeper
        .read_from(1, |lsn, p| {
            assert_eq!(p, payload(lsn));
            seen.push(lsn);
            true
        })
        .unwrap();
    assert_eq!(seen, [1]);
    assert!(store.close(0).is_err(), "no clean stop after that");
    crash(&disk, 0);
    let (_, got, report) = recover(&disk).unwrap();
    assert_eq!(got.state, [1]);
    assert_eq!(report.last_stop, LastStop::Unclean);
    // Of the 20 bytes, those behind the number's first are zeros.
    assert_eq!(report.torn_bytes, 9);
}

#[test]
fn a_failed_sync_is_final_and_a_restart_writes_the_lost_again() {
    let disk = MemDisk::new();
    let (mut store, ..) = recover(&disk).unwrap();
    App::default().append(&mut store).unwrap();
    let syncer = store.syncer();
    disk.inject(disk.operations(), Fault::Eio);
    let error = syncer.sync().unwrap_err();
    assert!(matches!(error, SyncError::Disk { durable: 0, .. }));
    let error = syncer.sync().unwrap_err();
    assert!(matches!(error, SyncError::Poisoned { .. }), "{error}");
    assert!(store.append(0, b"x").is_err());
    assert!(store.begin_checkpoint(1).unwrap().finish(b"").is_err());
    drop(store);
    disk.kill();
    assert_eq!(recover(&disk).unwrap().1.state, [1]);
    crash(&disk, 1);
    assert_eq!(recover(&disk).unwrap().1.state, [1]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any mixture of doings, with a crash of any kind in between lives.
    #[test]
    fn any_history_survives_any_crashes(
        lives in proptest::collection::vec(
            (proptest::collection::vec(0u8..12, 0..25), any::<u64>()), 1..5,
        ),
    ) {
        let disk = MemDisk::new();
        let mut app = App::default();
        for (doings, seed) in lives {
            let (mut store, got, _) = recover(&disk).unwrap();
            app.check(&got);
            app.written.clone_from(&got.state);
            app.state = got.state;
            for doing in doings {
                match doing {
                    0 | 1 => app.sync(&store).unwrap(),
                    2 => app.checkpoint(&store).unwrap(),
                    3 => {
                        store.housekeeper().retire(10_000_000).unwrap();
                    }
                    _ => app.append(&mut store).unwrap(),
                }
            }
            crash(&disk, seed >> 8);
        }
        survive(&disk, app);
    }
}
