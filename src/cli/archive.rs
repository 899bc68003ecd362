//! Backups: made by a node, listed, and brought back into an empty directory without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use tidings_proto::Name;

use super::print::{cell, moment};
use super::settings::Settings;
use super::{Ask, Out, Usage};
use crate::archive::{self, ManifestName, Place, Summary, Wanted};
use crate::config::Target;
use crate::node::api::BackupRequest;
use crate::store::{DirLock, OsDisk};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// Where to: file:///path or s3://bucket/prefix, as the node sees it; without it the node's archive.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) async fn backup(backup: Backup) -> anyhow::Result<()> {
    if let Some(to) = &backup.to {
        target(to)?;
    }
    let row = backup.ask.client().backup(&BackupRequest { to: backup.to }).await?;
    let mut out = backup.ask.out();
    if backup.ask.json { Ok(out.object(&row)?) } else { Ok(out.line(&row.manifest)?) }
}

#[derive(Debug, Args)]
pub(super) struct Backups {
    /// The archive: file:///path or s3://bucket/prefix; without it the archive of the running node.
    target: Option<String>,
    /// A file with settings (TOML), for the endpoint, the region and the keys of S3; variables override it.
    #[arg(long, value_name = "FILE", env = "TIDINGS_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) async fn backups(backups: Backups) -> anyhow::Result<()> {
    let rows = match &backups.target {
        Some(text) => {
            let access = Settings::of_file(backups.config).load()?.archive_access();
            let place = Place::open_existing(&target(text)?, &access)?;
            archive::list(&place, None).await?
        }
        None => backups.ask.client().backups().await?,
    };
    let cells = |row: &Summary| {
        [
            row.name.clone(),
            moment(row.time),
            row.last_lsn.to_string(),
            row.blocks.to_string(),
            row.segments.to_string(),
            row.bytes.to_string(),
            cell(&row.error.clone().unwrap_or_default()),
        ]
    };
    let head = ["manifest", "taken", "record", "blocks", "segments", "bytes", "error"];
    Ok(backups.ask.out().rows(&rows, head, cells)?)
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The archive: file:///path or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Which checkpoint, as `backups` names it; without it the newest that is whole.
    #[arg(long, value_name = "NAME")]
    manifest: Option<String>,
    /// Of which cluster, where the archive holds several.
    #[arg(long, value_name = "NAME", conflicts_with = "manifest")]
    realm: Option<Name>,
    /// The directory to fill: there may be certificates in it, and nothing else. It is made if need be.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// A file with settings (TOML), for the endpoint, the region and the keys of S3; variables override it.
    #[arg(long, value_name = "FILE", env = "TIDINGS_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn restore(restore: Restore) -> anyhow::Result<()> {
    let manifest = restore.manifest.as_deref().map(str::parse::<ManifestName>).transpose();
    let manifest = manifest.map_err(Usage)?;
    let target = target(&restore.from)?;
    let access = Settings::of_file(restore.config).load()?.archive_access();
    let place = Place::open_existing(&target, &access)?;
    refuse_full(&restore.data_dir)?;
    let disk = Arc::new(OsDisk::new(DirLock::acquire(&restore.data_dir)?));
    let wanted = Wanted { realm: restore.realm, manifest };
    let restored = Box::pin(archive::restore(&place, &wanted, disk)).await?;
    restored.problems.iter().for_each(|problem| eprintln!("tidings: {problem}"));
    let mut out = Out::new(restore.json);
    let (name, last_lsn) = (restored.manifest.to_string(), restored.last_lsn);
    if restore.json {
        return Ok(out.object(&serde_json::json!({
            "manifest": name, "last_lsn": last_lsn, "bytes": restored.bytes, "problems": restored.problems,
        }))?);
    }
    Ok(out.line(&format!("restored {name}: up to record {last_lsn}, {} bytes verified", restored.bytes))?)
}

fn target(text: &str) -> Result<Target, Usage> {
    text.parse().map_err(Usage)
}

/// What may be in a directory that counts as empty.
const HARMLESS: &[&str] = &["LOCK", "ca.pem", "node.pem", "node-key.pem"];

fn refuse_full(dir: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", dir.display()))?.file_name();
        let name = name.to_string_lossy();
        // What an interrupted restore left is replaced.
        if !HARMLESS.contains(&name.as_ref()) && !name.ends_with(".tmp") {
            bail!("{} is not empty: there is {name}; restore into an empty directory", dir.display());
        }
    }
    Ok(())
}
