//! The whole room over a disk in memory: a small application appends numbered payloads, and whatever happens to the
//! disk, what comes back is a prefix of what it wrote that holds everything it was promised.

mod bounds;
mod crash;
mod damage;
mod sealed;

use std::convert::Infallible;
use std::sync::Arc;

use super::*;

fn options() -> Options {
    Options { segment_bytes: 256, retain_bytes: 700, retain_age_ms: 1_000_000, redeliver_bytes: 120 }
}

/// The payload of record `lsn`: its number, then bytes that follow from it.
fn payload(lsn: Lsn) -> Vec<u8> {
    let mut bytes = lsn.to_le_bytes().to_vec();
    bytes.extend((0..lsn * 7 % 41).map(|i| (lsn * 31 + i) as u8));
    bytes
}

fn number(payload: &[u8]) -> Lsn {
    segment::u64_at(payload, 0)
}

/// What a start brought back. `state` is what an application would hold: the numbers of all payloads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    state: Vec<Lsn>,
    retained: Vec<Lsn>,
    checkpoint: Option<Lsn>,
}

fn open(disk: &MemDisk) -> Result<(Store, Recovery), OpenError> {
    Store::open(Arc::new(disk.clone()), options(), 0)
}

/// Opens and takes over, verifying every payload on the way.
fn recover(disk: &MemDisk) -> Result<(Store, Got, Report), OpenError> {
    let (store, recovery) = open(disk)?;
    let mut got = Got::default();
    let mut blocks = 0;
    let result = recovery.replay(|part| {
        match part {
            Recovered::Checkpoint { lsn, meta } => {
                assert_eq!(meta, format!("meta {lsn}").as_bytes());
                got.checkpoint = Some(lsn);
            }
            Recovered::Retained { lsn, payload: p } => {
                assert_eq!(p, payload(lsn));
                assert_eq!(blocks, 0, "retained records come before the blocks");
                assert!(Some(lsn) <= got.checkpoint);
                got.retained.push(lsn);
            }
            Recovered::Block(block) => {
                blocks += 1;
                got.state.extend(block.chunks(8).map(|b| segment::u64_at(b, 0)));
            }
            Recovered::Record { lsn, payload: p } => {
                assert_eq!(p, payload(lsn), "a wrong payload served");
                assert!(Some(lsn) > got.checkpoint);
                got.state.push(lsn);
            }
        }
        Ok::<(), Infallible>(())
    });
    let report = match result {
        Ok(report) => report,
        Err(ReplayError::Disk(error)) => return Err(error.into()),
        Err(error) => panic!("{error}"),
    };
    Ok((store, got, report))
}

/// What an application knows about its own writes.
#[derive(Debug, Default, Clone)]
struct App {
    /// Payloads handed to the store, the last one possibly in vain.
    written: Vec<Lsn>,
    durable: Lsn,
    state: Vec<Lsn>,
}

/// Any error ends the run; the caller knows which it injected.
type Stop = Box<dyn std::error::Error>;

impl App {
    fn append(&mut self, store: &mut Store) -> Result<(), Stop> {
        let lsn = store.written() + 1;
        self.written.push(lsn);
        assert_eq!(store.append(lsn * 10, &payload(lsn))?, lsn);
        self.state.push(lsn);
        Ok(())
    }

    fn sync(&mut self, store: &Store) -> Result<(), Stop> {
        self.durable = store.syncer().sync()?;
        Ok(())
    }

    fn checkpoint(&mut self, store: &Store) -> Result<(), Stop> {
        let lsn = store.written();
        let mut writer = store.begin_checkpoint(lsn)?;
        for block in self.state.chunks(5) {
            let bytes: Vec<u8> = block.iter().flat_map(|n| n.to_le_bytes()).collect();
            writer.block(&bytes)?;
        }
        writer.finish(format!("meta {lsn}").as_bytes())?;
        self.durable = lsn;
        Ok(())
    }

    /// Two lives with everything in them that changes the disk.
    fn live(&mut self, disk: &MemDisk) -> Result<(), Stop> {
        for life in 0..2 {
            let (mut store, got, _) = recover(disk)?;
            self.state = got.state;
            for turn in 0..14 {
                self.append(&mut store)?;
                if turn % 4 == 3 {
                    self.sync(&store)?;
                }
                if turn == 6 || turn == 11 {
                    self.checkpoint(&store)?;
                    store.housekeeper().retire(0)?;
                }
            }
            let last = store.written();
            if life == 0 {
                store.close(0)?;
                self.durable = last;
            }
        }
        Ok(())
    }

    /// What came back must be a prefix of what was written, and hold all that was durable.
    fn check(&self, got: &Got) {
        let written = &self.written[..got.state.len().min(self.written.len())];
        assert_eq!(got.state, written, "not a prefix");
        let last = got.state.last().copied().unwrap_or(0);
        let promised = self.written.iter().rev().find(|l| **l <= self.durable);
        assert!(promised.is_none_or(|p| *p <= last), "{promised:?} was durable, {last} is the last");
    }
}
