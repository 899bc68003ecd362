//! Whatever is found in a data directory: a refusal that changes nothing, or a prefix of what was written.

use std::convert::Infallible;
use std::sync::Arc;

use tidings::store::{Disk, MemDisk, OpenError, Options, Recovered, ReplayError, Store};

use crate::bytes::Bytes;

fn options() -> Options {
    Options { segment_bytes: 256, retain_bytes: 700, retain_age_ms: 1_000_000, redeliver_bytes: 120 }
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    match bytes.byte() % 3 {
        0 => mutated(&mut bytes),
        1 => forged(&mut bytes),
        _ => arbitrary(&mut bytes),
    }
}

/// The payload of record `lsn`: its number, then bytes that follow from it.
fn payload(lsn: u64) -> Vec<u8> {
    let mut bytes = lsn.to_le_bytes().to_vec();
    bytes.extend((0..lsn * 7 % 41).map(|i| (lsn * 31 + i) as u8));
    bytes
}

/// What a start brought back, part by part.
#[derive(Debug, Default)]
struct Got {
    /// The record up to which the blocks reach, and what they hold.
    meta: Option<(u64, Vec<u8>)>,
    blocks: Vec<u8>,
    /// Records behind the checkpoint, and after it.
    retained: Vec<(u64, Vec<u8>)>,
    records: Vec<(u64, Vec<u8>)>,
}

fn recover(disk: &MemDisk) -> Result<(Store, Got), OpenError> {
    let before = content(disk);
    let opened = Store::open(Arc::new(disk.clone()), options(), 5);
    let (store, recovery) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(content(disk), before, "a refusal changes nothing: {error}");
            return Err(error);
        }
    };
    let mut got = Got::default();
    let replayed = recovery.replay(|part| {
        match part {
            Recovered::Checkpoint { lsn, meta } => got.meta = Some((lsn, meta.to_vec())),
            Recovered::Retained { lsn, payload } => got.retained.push((lsn, payload.to_vec())),
            Recovered::Block(block) => got.blocks.extend_from_slice(block),
            Recovered::Record { lsn, payload } => got.records.push((lsn, payload.to_vec())),
        }
        Ok::<(), Infallible>(())
    });
    match replayed {
        Ok(_) => Ok((store, got)),
        Err(ReplayError::Disk(error)) => Err(error.into()),
        Err(error) => panic!("what was sound a moment ago is not: {error}"),
    }
}

fn content(disk: &MemDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let names = disk.list().unwrap();
    names.into_iter().map(|name| (name.clone(), disk.content(&name))).collect()
}

/// A directory in which a store has lived as the bytes say; and the records that were written to it.
fn lived(bytes: &mut Bytes<'_>) -> (MemDisk, Vec<u64>) {
    let disk = MemDisk::new();
    let mut written = Vec::new();
    for _ in 0..=bytes.below(2) {
        let (mut store, _) = recover(&disk).unwrap();
        for _ in 0..bytes.below(24) {
            let last = store.append(7, &payload(store.written() + 1)).unwrap();
            written.push(last);
            match bytes.byte() % 8 {
                0 => drop(store.syncer().sync().unwrap()),
                1 => {
                    let mut writer = store.begin_checkpoint(last).unwrap();
                    (1..=last).for_each(|lsn| writer.block(&payload(lsn)).unwrap());
                    writer.finish(format!("meta {last}").as_bytes()).unwrap();
                    store.housekeeper().retire(0).map(drop).unwrap();
                }
                _ => {}
            }
        }
        if bytes.once_in(2) {
            store.close(0).unwrap();
        }
        disk.kill();
    }
    (disk, written)
}

/// Damages the files of a real life.
fn mutated(bytes: &mut Bytes<'_>) {
    let (disk, written) = lived(bytes);
    for _ in 0..=bytes.below(4) {
        let names = disk.list().unwrap();
        let Some(name) = bytes.pick(&names) else { return };
        let mut content = disk.content(&name).unwrap();
        let at = bytes.below(content.len() + 1);
        match bytes.byte() % 7 {
            0 => content.truncate(at),
            1 => content.splice(at.., bytes.slice(40).iter().copied()).for_each(drop),
            2 => content.splice(at..at, bytes.slice(40).iter().copied()).for_each(drop),
            3 => {
                let new = bytes.slice(40);
                let end = content.len().min(at + new.len());
                content[at..end].copy_from_slice(&new[..end - at]);
            }
            4 => {
                let end = content.len().min(at + bytes.below(120));
                content[at..end].fill(0);
            }
            5 => {
                let other = bytes.pick(&names).and_then(|other| disk.content(&other)).unwrap();
                let from = bytes.below(other.len() + 1);
                let to = other.len().min(from + bytes.below(200));
                content.splice(at.., other[from..to].iter().copied()).for_each(drop);
            }
            _ => {
                disk.remove(&name).unwrap();
                continue;
            }
        }
        disk.overwrite(&name, content);
    }
    let Ok((store, got)) = recover(&disk) else { return };
    let base = got.meta.as_ref().map_or(0, |(lsn, _)| *lsn);
    if let Some((lsn, meta)) = &got.meta {
        assert_eq!(*meta, format!("meta {lsn}").into_bytes(), "a wrong meta served");
        assert!(got.blocks.iter().copied().eq((1..=base).flat_map(payload)), "wrong blocks served");
    }
    for (lsn, served) in got.retained.iter().chain(&got.records) {
        assert_eq!(*served, payload(*lsn), "a wrong payload served");
    }
    // The mark of a clean stop has a number too, and no payload.
    let kept = written.into_iter().filter(|lsn| *lsn > base && *lsn <= store.written());
    assert!(got.records.iter().map(|(lsn, _)| *lsn).eq(kept), "with holes");
    live_on(disk, store, &got);
}

/// Whatever a store has accepted, it goes on from there and brings the same back.
fn live_on(disk: MemDisk, mut store: Store, got: &Got) {
    let before = store.written();
    for lsn in before + 1..=before + 3 {
        assert_eq!(store.append(7, &payload(lsn)).unwrap(), lsn);
    }
    store.close(8).unwrap();
    let (store, again) = recover(&disk).unwrap();
    assert_eq!(store.written(), before + 4, "three, and the mark of a clean stop");
    assert_eq!((&again.meta, &again.blocks), (&got.meta, &got.blocks));
    let (old, new) = again.records.split_at(got.records.len());
    assert_eq!(old, got.records);
    assert!(new.iter().cloned().eq((before + 1..=before + 3).map(|lsn| (lsn, payload(lsn)))));
}

/// Files of which every checksum is right and nothing else needs to be.
fn forged(bytes: &mut Bytes<'_>) {
    let disk = MemDisk::new();
    for _ in 0..=bytes.below(4) {
        let number = bytes.number();
        if bytes.once_in(3) {
            disk.overwrite(&format!("checkpoint-{number:016}.ckpt"), forged_checkpoint(bytes, number));
        } else {
            disk.overwrite(&format!("log-{number:016}.seg"), forged_segment(bytes, number));
        }
    }
    if let Ok((store, got)) = recover(&disk)
        && store.written() < 1 << 40
    {
        live_on(disk, store, &got);
    }
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn forged_segment(bytes: &mut Bytes<'_>, number: u64) -> Vec<u8> {
    let mut header = b"TIDNGLOG".to_vec();
    header.extend_from_slice(&(1 + u32::from(bytes.once_in(16))).to_le_bytes());
    let first = if bytes.once_in(16) { bytes.number() } else { number };
    for part in [first, bytes.number(), bytes.number()] {
        header.extend_from_slice(&part.to_le_bytes());
    }
    let mut file = sealed(header);
    let mut lsn = number;
    for _ in 0..bytes.below(8) {
        lsn = if bytes.once_in(16) { bytes.number() } else { lsn };
        let payload = bytes.slice(60);
        let length = if bytes.once_in(16) { bytes.number() as u32 } else { payload.len() as u32 };
        let kind = if bytes.once_in(8) { bytes.byte() } else { 1 };
        let mut rest = Vec::new();
        rest.extend_from_slice(&lsn.to_le_bytes());
        rest.extend_from_slice(&bytes.number().to_le_bytes());
        rest.push(kind);
        rest.extend_from_slice(payload);
        let sum = [&length.to_le_bytes()[..], &rest].concat();
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&sum).to_le_bytes());
        file.extend_from_slice(&rest);
        lsn = lsn.wrapping_add(1);
    }
    file.resize(file.len() + bytes.below(64), 0);
    file
}

fn forged_checkpoint(bytes: &mut Bytes<'_>, number: u64) -> Vec<u8> {
    let mut header = b"TIDNGCKP".to_vec();
    header.extend_from_slice(&1_u32.to_le_bytes());
    let lsn = if bytes.once_in(16) { bytes.number() } else { number };
    header.extend_from_slice(&lsn.to_le_bytes());
    let mut file = sealed(header);
    let (mut blocks, mut sum_of_lengths) = (0_u64, 0_u64);
    for _ in 0..bytes.below(5) {
        let block = bytes.slice(60);
        let length = if bytes.once_in(16) { bytes.number() as u32 } else { block.len() as u32 };
        let (lsn, index) = (number.to_le_bytes(), blocks.to_le_bytes());
        let sum = [&lsn[..], &index, &length.to_le_bytes(), block].concat();
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&sum).to_le_bytes());
        file.extend_from_slice(block);
        (blocks, sum_of_lengths) = (blocks + 1, sum_of_lengths + block.len() as u64);
    }
    let meta = bytes.slice(40);
    let length = if bytes.once_in(16) { bytes.number() as u32 } else { meta.len() as u32 };
    let blocks = if bytes.once_in(16) { bytes.number() } else { blocks };
    let (blocks, lengths) = (blocks.to_le_bytes(), sum_of_lengths.to_le_bytes());
    let footer = [&blocks[..], &lengths, &length.to_le_bytes(), meta].concat();
    let sum = [&number.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &footer].concat();
    file.extend_from_slice(&u32::MAX.to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&sum).to_le_bytes());
    file.extend_from_slice(&footer);
    file
}

/// Files of any names and content.
fn arbitrary(bytes: &mut Bytes<'_>) {
    let disk = MemDisk::new();
    for _ in 0..=bytes.below(3) {
        let number = bytes.number();
        let name = match bytes.byte() % 4 {
            0 => format!("checkpoint-{number:016}.ckpt"),
            1 => String::from_utf8_lossy(bytes.slice(40)).into_owned(),
            _ => format!("log-{number:016}.seg"),
        };
        let content = if bytes.is_empty() { &[][..] } else { bytes.slice(1 << 10) };
        disk.overwrite(&name, content.to_vec());
    }
    if let Ok((store, got)) = recover(&disk)
        && store.written() < 1 << 40
    {
        live_on(disk, store, &got);
    }
}
