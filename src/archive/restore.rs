//! From an archive back to a directory. Nothing is used that does not have the hash it is named by.

use std::sync::Arc;

use bytes::Bytes;
use tidings_proto::Name;
use tokio::task::JoinSet;

use super::manifest::{Manifest, ManifestName, Piece, Summary};
use super::place::{Length, Place, PlaceError};
use super::upload::{manifests, object_path};
use super::{IN_FLIGHT, IN_FLIGHT_BYTES, MAX_MANIFEST_BYTES, Owner, wall_millis};
use crate::store::{Disk, Lsn, MAX_BLOCK_BYTES, RebuildError, Rebuilder};

/// Which checkpoint is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of which cluster; may be left out where the archive has one.
    pub realm: Option<Name>,
    /// Exactly this one; without it the newest that is whole.
    pub manifest: Option<ManifestName>,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// From which checkpoint.
    pub manifest: ManifestName,
    /// The last record there is.
    pub last_lsn: Lsn,
    /// Bytes fetched and verified.
    pub bytes: u64,
    /// What was found to be wrong on the way, and made up for by other copies or older checkpoints.
    pub problems: Vec<String>,
}

/// Why nothing was restored. The directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The place refuses.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is nothing to restore.
    #[error("archive {place}: there is no checkpoint of {of} in it")]
    Nothing {
        /// The place.
        place: String,
        /// Of what.
        of: String,
    },
    /// It holds several clusters.
    #[error("archive {place}: it holds several realms, name one: {realms}")]
    Realms {
        /// The place.
        place: String,
        /// Which.
        realms: String,
    },
    /// Everything that could have been used is damaged.
    #[error("nothing could be restored:\n{}", .0.join("\n"))]
    Damaged(Vec<String>),
    /// The directory refuses, or holds a store.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

/// Why one manifest was of no use.
enum Failed {
    /// Others may be better.
    Manifest(String),
    /// Others would fare the same.
    All(RestoreError),
}

impl From<RebuildError> for Failed {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Disk(_) | RebuildError::NotEmpty { .. } => Self::All(error.into()),
            error => Self::Manifest(error.to_string()),
        }
    }
}

/// The checkpoints in an archive, of one realm or of all, the newest first.
///
/// # Errors
/// If the place refuses.
pub async fn list(place: &Place, realm: Option<&Name>) -> Result<Vec<Summary>, PlaceError> {
    let mut summaries = Vec::new();
    for name in newest_first(place, realm).await? {
        summaries.push(match fetch_manifest(place, &name).await {
            Ok(manifest) => Summary::of(&manifest),
            Err(error) => Summary::unusable(&name, error),
        });
    }
    Ok(summaries)
}

/// Puts a checkpoint and the log after it into a directory that has no store.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(place: &Place, wanted: &Wanted, disk: Arc<dyn Disk>) -> Result<Restored, RestoreError> {
    let names = candidates(place, wanted).await?;
    let mut problems = Vec::new();
    for name in names {
        let mut fetcher = Fetcher::new(place, &name);
        let result = fetcher.rebuild(&name, Arc::clone(&disk)).await;
        problems.append(&mut fetcher.problems);
        match result {
            Ok(last_lsn) => {
                return Ok(Restored { manifest: name, last_lsn, bytes: fetcher.bytes, problems });
            }
            Err(Failed::All(error)) => return Err(error),
            Err(Failed::Manifest(why)) => problems.push(format!("{name}: {why}")),
        }
    }
    Err(RestoreError::Damaged(problems))
}

async fn candidates(place: &Place, wanted: &Wanted) -> Result<Vec<ManifestName>, RestoreError> {
    if let Some(name) = &wanted.manifest {
        return Ok(vec![name.clone()]);
    }
    let names = newest_first(place, wanted.realm.as_ref()).await?;
    let Some(newest) = names.first() else {
        let of =
            wanted.realm.as_ref().map_or_else(|| "any realm".to_owned(), |realm| format!("realm {realm}"));
        return Err(RestoreError::Nothing { place: place.shown().to_owned(), of });
    };
    if names.iter().any(|name| name.realm != newest.realm) {
        let mut realms: Vec<String> = names.iter().map(|name| name.realm.to_string()).collect();
        realms.sort();
        realms.dedup();
        return Err(RestoreError::Realms { place: place.shown().to_owned(), realms: realms.join(", ") });
    }
    Ok(names)
}

async fn newest_first(place: &Place, realm: Option<&Name>) -> Result<Vec<ManifestName>, PlaceError> {
    let realms = match realm {
        Some(realm) => vec![realm.clone()],
        None => names(place.dirs("").await?),
    };
    let mut found = Vec::new();
    for realm in realms {
        for node in names(place.dirs(realm.as_str()).await?) {
            found.extend(manifests(place, &Owner { realm: realm.clone(), node }).await?);
        }
    }
    found.sort_by(|a, b| b.time().cmp(&a.time()).then_with(|| b.cmp(a)));
    Ok(found)
}

fn names(texts: Vec<String>) -> Vec<Name> {
    texts.iter().filter_map(|text| Name::new(text).ok()).collect()
}

pub(super) async fn fetch_manifest(place: &Place, name: &ManifestName) -> Result<Manifest, String> {
    let bytes = place.get(&name.path(), Length::AtMost(MAX_MANIFEST_BYTES)).await;
    let bytes = bytes.map_err(|error| error.to_string())?;
    Manifest::decode(&bytes, name).map_err(|error| error.to_string())
}

/// Fetches what one manifest names.
struct Fetcher {
    place: Place,
    owner: Owner,
    /// Whose copies may do as well; known once one was needed.
    others: Option<Vec<Owner>>,
    problems: Vec<String>,
    bytes: u64,
}

impl Fetcher {
    fn new(place: &Place, name: &ManifestName) -> Self {
        let owner = Owner { realm: name.realm.clone(), node: name.node.clone() };
        Self { place: place.clone(), owner, others: None, problems: Vec::new(), bytes: 0 }
    }

    async fn rebuild(&mut self, name: &ManifestName, disk: Arc<dyn Disk>) -> Result<Lsn, Failed> {
        let manifest = fetch_manifest(&self.place, name).await.map_err(Failed::Manifest)?;
        let mut rebuilder = Rebuilder::begin(disk, manifest.lsn)?;
        for group in groups(&manifest.blocks) {
            for block in self.fetch(group).await? {
                rebuilder.block(&block)?;
            }
        }
        let meta = self.fetch(std::slice::from_ref(&manifest.meta)).await?;
        rebuilder.meta(&meta.concat())?;
        for segment in &manifest.segments {
            let mut bytes = Vec::new();
            for group in groups(&segment.pieces) {
                bytes.extend(self.fetch(group).await?.concat());
            }
            rebuilder.segment(segment.first..=segment.last, &bytes)?;
        }
        Ok(rebuilder.finish(wall_millis())?)
    }

    /// Some objects, all at once, in order.
    async fn fetch(&mut self, pieces: &[Piece]) -> Result<Vec<Bytes>, Failed> {
        let mut under_way = JoinSet::new();
        for (index, piece) in pieces.iter().enumerate() {
            let (place, owner, piece) = (self.place.clone(), self.owner.clone(), piece.clone());
            under_way.spawn(async move { (index, fetch_one(&place, &owner, &piece).await) });
        }
        let mut fetched = vec![Bytes::new(); pieces.len()];
        while let Some(done) = under_way.join_next().await {
            let (index, result) = done.expect("a fetch neither panics nor is cancelled");
            fetched[index] = match result {
                Ok(bytes) => bytes,
                Err(why) => self.fetch_elsewhere(&pieces[index], why).await?,
            };
            self.bytes += fetched[index].len() as u64;
        }
        Ok(fetched)
    }

    /// Another node's copy of the same bytes.
    async fn fetch_elsewhere(&mut self, piece: &Piece, why: String) -> Result<Bytes, Failed> {
        let others = match self.others.take() {
            Some(others) => others,
            None => {
                let nodes = self.place.dirs(self.owner.realm.as_str()).await.unwrap_or_default();
                let others = names(nodes).into_iter().filter(|node| *node != self.owner.node);
                others.map(|node| Owner { realm: self.owner.realm.clone(), node }).collect()
            }
        };
        let mut found = None;
        for other in &others {
            if let Ok(bytes) = fetch_one(&self.place, other, piece).await {
                found = Some((other.node.clone(), bytes));
                break;
            }
        }
        self.others = Some(others);
        let (node, bytes) = found.ok_or_else(|| Failed::Manifest(why.clone()))?;
        self.problems.push(format!("{why}; the copy of {node} was used"));
        Ok(bytes)
    }
}

async fn fetch_one(place: &Place, owner: &Owner, piece: &Piece) -> Result<Bytes, String> {
    let name = object_path(owner, piece);
    if piece.bytes > MAX_BLOCK_BYTES as u64 {
        return Err(format!("{name} is said to have {} bytes, which no object has", piece.bytes));
    }
    let bytes = place.get(&name, Length::Exactly(piece.bytes)).await.map_err(|error| error.to_string())?;
    let hash = blake3::hash(&bytes).to_hex();
    if hash.as_str() != piece.blake3 {
        return Err(format!("archive {}: {name} is damaged: its BLAKE3 is {hash}", place.shown()));
    }
    Ok(bytes)
}

/// Pieces that may be fetched at once.
fn groups(pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    let mut rest = pieces;
    std::iter::from_fn(move || {
        let (mut count, mut bytes) = (0, 0);
        while count < rest.len().min(IN_FLIGHT)
            && (count == 0 || bytes + rest[count].bytes <= IN_FLIGHT_BYTES as u64)
        {
            bytes = rest[count].bytes.saturating_add(bytes);
            count += 1;
        }
        let (group, left) = rest.split_at(count);
        rest = left;
        (!group.is_empty()).then_some(group)
    })
}
