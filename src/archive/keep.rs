//! What goes from an archive: manifests by number and age, then objects that none names any more.

use std::collections::BTreeSet;
use std::time::Duration;

use super::manifest::{Manifest, ManifestName};
use super::place::{Length, Place, PlaceError};
use super::upload::manifests;
use super::{MAX_MANIFEST_BYTES, Owner};

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pruned {
    pub(super) manifests: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// Why not everything that may go was deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum PruneError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// What it names is not known, so nothing that it might name goes.
    #[error("manifest {name} cannot be read, so no object is deleted: {why}")]
    Unreadable { name: ManifestName, why: String },
}

/// Deletes manifests of the node beyond the number or the age, but for the newest; then, if any went or `sweep` says
/// so, the node's objects that no manifest of it names. Manifests go first: whatever breaks off leaves objects too
/// many, never too few.
pub(super) async fn prune(
    place: &Place,
    owner: &Owner,
    (keep, keep_age): (usize, Duration),
    now_ms: u64,
    sweep: bool,
) -> Result<Pruned, PruneError> {
    let mut pruned = Pruned::default();
    let mut kept = manifests(place, owner).await?;
    let oldest = now_ms.saturating_sub(keep_age.as_millis() as u64);
    let surplus = kept.len().saturating_sub(keep.max(1));
    let old = kept.iter().take_while(|name| name.time() < oldest).count();
    let going = surplus.max(old).min(kept.len().saturating_sub(1));
    for name in kept.drain(..going) {
        place.delete(&name.path()).await?;
        pruned.manifests += 1;
    }
    if pruned.manifests == 0 && !sweep {
        return Ok(pruned);
    }
    let mut named = BTreeSet::new();
    for name in &kept {
        let bytes = place.get(&name.path(), Length::AtMost(MAX_MANIFEST_BYTES)).await?;
        let manifest = Manifest::decode(&bytes, name)
            .map_err(|error| PruneError::Unreadable { name: name.clone(), why: error.to_string() })?;
        named.extend(manifest.pieces().map(|piece| piece.blake3.clone()));
    }
    let objects = format!("{}/{}/objects", owner.realm, owner.node);
    for (object, bytes) in place.files(&objects).await? {
        if !named.contains(&object) {
            place.delete(&format!("{objects}/{object}")).await?;
            pruned.objects += 1;
            pruned.bytes += bytes;
        }
    }
    Ok(pruned)
}
