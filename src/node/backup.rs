//! Backups that operators ask for: a checkpoint of this moment, and into the archive with it.

use super::Node;
use super::api::Refusal;
use crate::archive::{self, ArchiveError, Place, Summary};
use crate::config::{Access, Target};

impl Node {
    /// Writes a checkpoint, archives it to the target or the configured archive, and returns the manifest's name.
    pub(super) async fn backup(&self, target: Option<Target>) -> Result<String, Refusal> {
        if target.is_none() && !self.0.archiver.has_target() {
            let why = "no archive is configured: set `archive`, or say where to with --to";
            return Err(Refusal::Invalid(why.into()));
        }
        let node = self.clone();
        let written = tokio::task::spawn_blocking(move || node.checkpoint_logged()).await;
        let written = written.expect("a checkpoint does not panic");
        written.map_err(|why| Refusal::Unavailable(format!("no checkpoint was written: {why}")))?;
        let archived = self.0.archiver.backup(target).await;
        archived
            .map(|name| name.to_string())
            .map_err(|error: ArchiveError| Refusal::Unavailable(error.to_string()))
    }

    /// The checkpoints of this realm in an archive.
    pub(super) async fn backups(
        &self,
        target: Option<Target>,
        access: Access,
    ) -> Result<Vec<Summary>, Refusal> {
        let target = target
            .ok_or_else(|| Refusal::Invalid("no archive is configured: set `archive`, or name one".into()))?;
        let refused = |error: archive::PlaceError| Refusal::Unavailable(error.to_string());
        let place = Place::open_existing(&target, &access).map_err(refused)?;
        archive::list(&place, Some(&self.about().realm)).await.map_err(refused)
    }
}
