//! From sealed files to objects, and at the end the manifest that names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::manifest::{Manifest, ManifestName, Piece, SegmentPieces};
use super::place::{Place, PlaceError};
use super::restore::fetch_manifest;
use super::{ArchiveError, IN_FLIGHT, IN_FLIGHT_BYTES, Owner, PART_BYTES, wall_millis};
use crate::store::{Housekeeper, Lsn, Part, Sealed};

/// What has been done, counted as it is done.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) uploaded: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
}

/// Copies what is sealed to a place.
#[derive(Debug)]
pub(super) struct Uploader {
    place: Place,
    owner: Owner,
    counts: Arc<Counts>,
    /// Hashes and sizes of the objects there.
    present: BTreeMap<String, u64>,
    under_way: JoinSet<Result<usize, PlaceError>>,
    bytes_under_way: usize,
}

impl Uploader {
    pub(super) fn new(place: Place, owner: Owner, counts: Arc<Counts>) -> Self {
        let (present, under_way) = (BTreeMap::new(), JoinSet::new());
        Self { place, owner, counts, present, under_way, bytes_under_way: 0 }
    }

    /// Copies what is missing of `sealed`, then writes its manifest. `last` is the manifest written before, of which
    /// everything is there.
    pub(super) async fn upload(
        mut self,
        housekeeper: &Housekeeper,
        sealed: &Sealed,
        last: Option<&Manifest>,
    ) -> Result<Manifest, ArchiveError> {
        let lsn = sealed.checkpoint.ok_or(ArchiveError::NoCheckpoint)?;
        self.look().await?;
        let last = last.filter(|last| last.lsn == lsn);
        let mut manifest = match last {
            Some(last) => last.clone(),
            None => self.checkpoint(housekeeper, lsn).await?,
        };
        let mut segments = Vec::new();
        for segment in &sealed.segments {
            let known = manifest
                .segments
                .iter()
                .find(|known| (known.first, known.last) == (segment.first, segment.last));
            segments.push(match known {
                Some(known) => known.clone(),
                None => {
                    let mut bytes = Vec::new();
                    housekeeper.read_segment(segment, &mut bytes)?;
                    let pieces = self.parts(bytes.into()).await?;
                    SegmentPieces { first: segment.first, last: segment.last, pieces }
                }
            });
        }
        manifest.segments = segments;
        while self.one_done().await? {}
        if last.is_none() {
            manifest = self.named(manifest).await?;
        }
        self.place.put(&manifest.name().path(), manifest.encode().into()).await?;
        Ok(manifest)
    }

    async fn look(&mut self) -> Result<(), PlaceError> {
        let objects = format!("{}/{}/objects", self.owner.realm, self.owner.node);
        self.present = self.place.files(&objects).await?.into_iter().collect();
        Ok(())
    }

    async fn checkpoint(&mut self, housekeeper: &Housekeeper, lsn: Lsn) -> Result<Manifest, ArchiveError> {
        let mut reader = housekeeper.read_checkpoint(lsn)?;
        let mut blocks = Vec::new();
        loop {
            let mut payload = Vec::new();
            let part = reader.next(&mut payload)?;
            let piece = self.piece(payload.into()).await?;
            match part {
                Part::Block => blocks.push(piece),
                Part::Meta => return Ok(Manifest::new(&self.owner, wall_millis(), lsn, piece, blocks)),
            }
        }
    }

    /// The same checkpoint keeps its name when a later life of the node archives it again, but for a life on an older
    /// image of the disk: what the archive has beyond that is not written over. Any other gets a later time than all
    /// before it, whatever the clock says, for the oldest are the first to go.
    async fn named(&self, mut manifest: Manifest) -> Result<Manifest, PlaceError> {
        let names = manifests(&self.place, &self.owner).await?;
        let new = manifest.name();
        if let Some(same) = names.iter().rev().find(|name| name.checkpoint() == new.checkpoint()) {
            let there = fetch_manifest(&self.place, same).await;
            if there.is_ok_and(|there| manifest.segments.starts_with(&there.segments)) {
                manifest.time = same.time();
                return Ok(manifest);
            }
        }
        let latest = names.last().map_or(0, ManifestName::time);
        manifest.time = manifest.time.max(latest + 1);
        Ok(manifest)
    }

    async fn parts(&mut self, bytes: Bytes) -> Result<Vec<Piece>, PlaceError> {
        let mut pieces = Vec::new();
        for at in (0..bytes.len()).step_by(PART_BYTES) {
            pieces.push(self.piece(bytes.slice(at..bytes.len().min(at + PART_BYTES))).await?);
        }
        Ok(pieces)
    }

    /// Sends an object on its way, unless it is there.
    async fn piece(&mut self, bytes: Bytes) -> Result<Piece, PlaceError> {
        let size = bytes.len();
        let piece = Piece { blake3: blake3::hash(&bytes).to_hex().to_string(), bytes: size as u64 };
        if self.present.get(&piece.blake3) == Some(&piece.bytes) {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(piece);
        }
        while self.under_way.len() >= IN_FLIGHT || self.bytes_under_way + size > IN_FLIGHT_BYTES {
            if !self.one_done().await? {
                break;
            }
        }
        self.present.insert(piece.blake3.clone(), piece.bytes);
        self.bytes_under_way += size;
        let (place, name) = (self.place.clone(), object_path(&self.owner, &piece));
        self.under_way.spawn(async move { place.put(&name, bytes).await.map(|()| size) });
        Ok(piece)
    }

    /// Waits for one object to arrive; false if none is under way.
    async fn one_done(&mut self) -> Result<bool, PlaceError> {
        let Some(done) = self.under_way.join_next().await else { return Ok(false) };
        let size = done.expect("an upload neither panics nor is cancelled")?;
        self.bytes_under_way -= size;
        self.counts.uploaded.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(size as u64, Ordering::Relaxed);
        Ok(true)
    }
}

pub(super) fn object_path(owner: &Owner, piece: &Piece) -> String {
    format!("{}/{}/objects/{}", owner.realm, owner.node, piece.blake3)
}

/// The names of a node's manifests, the oldest first.
pub(super) async fn manifests(place: &Place, owner: &Owner) -> Result<Vec<ManifestName>, PlaceError> {
    let files = place.files(&format!("{}/{}/manifests", owner.realm, owner.node)).await?;
    let name = |(file, _): (String, u64)| ManifestName::of_file(&owner.realm, &owner.node, &file);
    let mut names: Vec<_> = files.into_iter().filter_map(name).collect();
    names.sort();
    Ok(names)
}
