//! Archives over stores that keep, fail and lie.

mod broken;
mod keeping;
mod running;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::upload::{Counts, Uploader};
use super::*;
use crate::store::{Housekeeper, MemDisk, Recovered, Store};

fn owner(node: &str) -> Owner {
    Owner { realm: "test".parse().unwrap(), node: node.parse().unwrap() }
}

fn place(store: &Arc<InMemory>) -> Place {
    Place::of(Arc::clone(store) as Arc<dyn ObjectStore>, "all/of/it", "memory")
}

/// A store of numbered records; its checkpoints hold them in blocks of ten.
struct Source {
    disk: MemDisk,
    store: Store,
}

/// What a replay brings back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    meta: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    records: Vec<Vec<u8>>,
}

impl Got {
    fn count(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum::<usize>() / 4 + self.records.len()
    }
}

fn open(disk: &MemDisk) -> (Store, Got) {
    let options = crate::store::Options { segment_bytes: 512, ..crate::store::Options::default() };
    let (store, recovery) = Store::open(Arc::new(disk.clone()), options, 0).unwrap();
    let mut got = Got::default();
    recovery
        .replay(|part| {
            match part {
                Recovered::Checkpoint { meta, .. } => got.meta = meta.to_vec(),
                Recovered::Retained { .. } => {}
                Recovered::Block(block) => got.blocks.push(block.to_vec()),
                Recovered::Record { payload, .. } => got.records.push(payload.to_vec()),
            }
            Ok::<(), Infallible>(())
        })
        .unwrap();
    (store, got)
}

impl Source {
    fn new() -> Self {
        let disk = MemDisk::new();
        let store = open(&disk).0;
        Self { disk, store }
    }

    fn append(&mut self, count: u32) -> &mut Self {
        for _ in 0..count {
            let next = self.store.written() as u32 + 1;
            self.store.append(0, &next.to_le_bytes()).unwrap();
        }
        self.store.syncer().sync().unwrap();
        self
    }

    fn checkpoint(&mut self) -> &mut Self {
        let numbers: Vec<u32> = (1..=self.store.written() as u32).collect();
        let mut writer = self.store.begin_checkpoint(self.store.written()).unwrap();
        for block in numbers.chunks(10) {
            writer.block(&block.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        }
        writer.finish(format!("meta of {}", numbers.len()).as_bytes()).unwrap();
        self
    }

    fn housekeeper(&self) -> Housekeeper {
        self.store.housekeeper()
    }
}

/// Archives a source once; returns the manifest and what was counted: uploaded and skipped.
async fn upload(place: &Place, node: &str, source: &Source) -> Result<(Manifest, u64, u64), ArchiveError> {
    let counts = Arc::new(Counts::default());
    let uploader = Uploader::new(place.clone(), owner(node), Arc::clone(&counts));
    let housekeeper = source.housekeeper();
    let manifest = uploader.upload(&housekeeper, &housekeeper.sealed(), None).await?;
    Ok((manifest, counts.uploaded.load(Ordering::Relaxed), counts.skipped.load(Ordering::Relaxed)))
}

/// Until the clock shows a later time: what is archived then bears a later name.
async fn next_millisecond() {
    let now = wall_millis();
    while wall_millis() <= now {
        tokio::task::yield_now().await;
    }
}

async fn bring_back(place: &Place, wanted: &Wanted) -> Result<(Restored, Got), RestoreError> {
    let disk = MemDisk::new();
    let restored = restore(place, wanted, Arc::new(disk.clone())).await;
    if restored.is_err() {
        assert!(crate::store::Disk::list(&disk).unwrap().is_empty(), "something was left behind");
    }
    Ok((restored?, open(&disk).1))
}

async fn names(store: &InMemory, below: &str) -> Vec<object_store::path::Path> {
    let listed = store.list_with_delimiter(Some(&below.into())).await.unwrap();
    listed.objects.into_iter().map(|object| object.location).collect()
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let mut source = Source::new();
    assert!(matches!(upload(&place, "a", &source).await.unwrap_err(), ArchiveError::NoCheckpoint));
    source.append(35).checkpoint().append(60);
    let (manifest, uploaded, skipped) = upload(&place, "a", &source).await.unwrap();
    assert_eq!(manifest.blocks.len(), 4);
    assert!(manifest.segments.len() >= 2, "{}", manifest.segments.len());
    assert_eq!((uploaded as usize, skipped), (5 + manifest.segments.len(), 0));

    let (restored, got) = bring_back(&place, &Wanted::default()).await.unwrap();
    assert_eq!(restored.manifest, manifest.name());
    assert_eq!(restored.last_lsn, manifest.segments.last().unwrap().last);
    assert!(restored.problems.is_empty());
    assert_eq!(got.count() as u64, restored.last_lsn);
    assert_eq!(got.meta, b"meta of 35");
    let everything = open(&source.disk).1;
    assert_eq!(got.blocks, everything.blocks);
    assert_eq!(got.records, everything.records[..got.records.len()]);
}

#[tokio::test]
async fn equal_objects_are_one_object() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let mut source = Source::new();
    source.append(50).checkpoint();
    let (first, uploaded, _) = upload(&place, "a", &source).await.unwrap();
    assert_eq!(uploaded, 6);
    // Again, as the next life of the node does: the same name, and nothing is sent.
    let (again, uploaded, skipped) = upload(&place, "a", &source).await.unwrap();
    assert_eq!((again.name(), uploaded, skipped), (first.name(), 0, 6));
    // The next checkpoint has the same blocks and one more, and another meta.
    source.append(10).checkpoint();
    let (second, uploaded, skipped) = upload(&place, "a", &source).await.unwrap();
    assert_eq!((uploaded, skipped), (2, 5));
    assert!(second.name() > first.name());
    assert_eq!(names(&store, "all/of/it/test/a/objects").await.len(), 8);
    // The older one is still there to be asked for.
    let wanted = Wanted { manifest: Some(first.name()), ..Wanted::default() };
    assert_eq!(bring_back(&place, &wanted).await.unwrap().1.count(), 50);
    assert_eq!(bring_back(&place, &Wanted::default()).await.unwrap().1.count(), 60);
}

#[tokio::test]
async fn what_an_older_image_of_the_disk_lacks_is_not_written_over() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let mut source = Source::new();
    source.append(30).checkpoint();
    let mut older = Source::new();
    older.append(30).checkpoint();
    source.append(90);
    let (full, ..) = upload(&place, "a", &source).await.unwrap();
    assert!(full.segments.len() > 1);
    let (less, uploaded, _) = upload(&place, "a", &older).await.unwrap();
    assert_eq!((uploaded, less.segments.len()), (0, 0));
    assert!(less.name() > full.name() && less.id() == full.id());
    let wanted = Wanted { manifest: Some(full.name()), ..Wanted::default() };
    let (restored, _) = bring_back(&place, &wanted).await.unwrap();
    assert_eq!(restored.last_lsn, full.segments.last().unwrap().last);
    // More of the same log belongs to the same name.
    let (first, ..) = upload(&place, "b", &older).await.unwrap();
    let (more, ..) = upload(&place, "b", &source).await.unwrap();
    assert_eq!((first.name(), first.segments.len()), (more.name(), 0));
    assert_eq!(more.segments, full.segments);
}

#[tokio::test]
async fn a_clock_set_back_does_not_make_the_newest_the_oldest() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let piece = Piece { blake3: "00".repeat(32), bytes: 0 };
    let ahead = Manifest::new(&owner("a"), wall_millis() + 86_400_000, 7, piece, vec![]);
    place.put(&ahead.name().path(), ahead.encode().into()).await.unwrap();
    let mut source = Source::new();
    source.append(10).checkpoint();
    let (manifest, ..) = upload(&place, "a", &source).await.unwrap();
    assert_eq!(manifest.time, ahead.time + 1);
}

#[tokio::test]
async fn a_directory_does_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Directory(dir.path().join("deep/er"));
    let access = Access::default();
    let error = Place::open_existing(&target, &access).unwrap_err().to_string();
    assert!(error.contains("deep/er"), "{error}");
    let place = Place::open(&target, &access).unwrap();
    let missing = bring_back(&place, &Wanted::default()).await.unwrap_err();
    assert!(matches!(missing, RestoreError::Nothing { .. }), "{missing}");
    let mut source = Source::new();
    source.append(25).checkpoint();
    upload(&place, "a", &source).await.unwrap();
    let place = Place::open_existing(&target, &access).unwrap();
    assert_eq!(bring_back(&place, &Wanted::default()).await.unwrap().1.count(), 25);
    let listed = list(&place, None).await.unwrap();
    assert_eq!((listed.len(), listed[0].last_lsn, listed[0].blocks), (1, 25, 3));
}

#[tokio::test]
async fn several_realms_and_nodes_lie_side_by_side() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let mut source = Source::new();
    source.append(10).checkpoint();
    let (of_a, ..) = upload(&place, "a", &source).await.unwrap();
    source.append(10).checkpoint();
    next_millisecond().await;
    let (of_b, ..) = upload(&place, "b", &source).await.unwrap();
    let (restored, got) = bring_back(&place, &Wanted::default()).await.unwrap();
    assert_eq!((restored.manifest, got.count()), (of_b.name(), 20), "the newest of all nodes");
    let wanted = Wanted { manifest: Some(of_a.name()), ..Wanted::default() };
    assert_eq!(bring_back(&place, &wanted).await.unwrap().1.count(), 10);

    let other = Owner { realm: "other".parse().unwrap(), ..owner("a") };
    let uploader = Uploader::new(place.clone(), other, Arc::default());
    uploader.upload(&source.housekeeper(), &source.housekeeper().sealed(), None).await.unwrap();
    let error = bring_back(&place, &Wanted::default()).await.unwrap_err().to_string();
    assert!(error.contains("several realms") && error.contains("other, test"), "{error}");
    let wanted = Wanted { realm: Some("test".parse().unwrap()), ..Wanted::default() };
    assert_eq!(bring_back(&place, &wanted).await.unwrap().1.count(), 20);
}

#[test]
fn names_of_manifests_are_read_as_written() {
    let piece = Piece { blake3: "00".repeat(32), bytes: 0 };
    let name = Manifest::new(&owner("a"), 1_700_000_000_000, 7, piece, vec![]).name();
    assert_eq!(name.to_string().parse::<ManifestName>().unwrap(), name);
    assert_eq!(name.time(), 1_700_000_000_000);
    for bad in
        ["", "a", "test/a/b", "test/a/1-2-3", "test/../1700000000000-0000000000000007-0000000000000000"]
    {
        assert!(bad.parse::<ManifestName>().unwrap_err().contains("tidings backups"), "{bad}");
    }
}
