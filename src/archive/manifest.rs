//! Manifests: which objects a checkpoint and the log after it are made of.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tidings_proto::Name;

use super::Owner;
use crate::store::{self, Lsn};

/// The version that this binary writes and reads.
const VERSION: u32 = 1;

/// An object: some bytes by their hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// BLAKE3 of the bytes, in hexadecimal.
    pub blake3: String,
    /// How many they are.
    pub bytes: u64,
}

/// A segment of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentPieces {
    /// Its first record.
    pub first: Lsn,
    /// Its last record.
    pub last: Lsn,
    /// Its bytes, one piece after another.
    pub pieces: Vec<Piece>,
}

/// A checkpoint, and the full segments of the log after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the manifest.
    pub version: u32,
    /// The cluster.
    pub realm: Name,
    /// The node that wrote it.
    pub node: Name,
    /// When the checkpoint was first archived, in milliseconds since the Unix epoch.
    pub time: u64,
    /// The store's format.
    pub format: u32,
    /// The record that the checkpoint reflects.
    pub lsn: Lsn,
    /// The checkpoint's meta.
    pub meta: Piece,
    /// Its blocks, in order.
    pub blocks: Vec<Piece>,
    /// What was logged after it, as far as segments are full.
    pub segments: Vec<SegmentPieces>,
}

/// As it lies in the archive: the manifest, and the hash of its JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<M> {
    manifest: M,
    blake3: String,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ManifestError {
    /// Cut off, or never one.
    #[error("not a manifest: {0}")]
    Malformed(String),
    /// Of another version of this program.
    #[error("manifest version {0}; this program reads {VERSION}")]
    Version(u32),
    /// Of another format of the store.
    #[error("store format {found}; this program reads {} to {}", store::OLDEST_FORMAT, store::FORMAT)]
    Format {
        /// Which.
        found: u32,
    },
    /// Its hash is another.
    #[error("its BLAKE3 does not match")]
    Hash,
    /// It lies where another belongs.
    #[error("it is the manifest of {0}")]
    Misplaced(String),
}

impl Manifest {
    /// The manifest of a checkpoint without log.
    pub(super) fn new(owner: &Owner, time: u64, lsn: Lsn, meta: Piece, blocks: Vec<Piece>) -> Self {
        let (realm, node) = (owner.realm.clone(), owner.node.clone());
        let (version, format) = (VERSION, store::FORMAT);
        Self { version, realm, node, time, format, lsn, meta, blocks, segments: Vec::new() }
    }

    /// What tells this checkpoint from others with the same number: a directory that was wiped counts from 1 again.
    pub(super) fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for piece in self.blocks.iter().chain([&self.meta]) {
            hasher.update(piece.blake3.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// What it is called.
    pub fn name(&self) -> ManifestName {
        ManifestName {
            realm: self.realm.clone(),
            node: self.node.clone(),
            stem: format!("{:013}-{:016}-{}", self.time, self.lsn, self.id()),
        }
    }

    /// Every object that it names.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let log = self.segments.iter().flat_map(|segment| &segment.pieces);
        self.blocks.iter().chain([&self.meta]).chain(log)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let blake3 = self.hash();
        serde_json::to_vec(&Sealed { manifest: self, blake3 }).expect("plain values are always JSON")
    }

    pub(super) fn decode(bytes: &[u8], name: &ManifestName) -> Result<Self, ManifestError> {
        let malformed = |error: serde_json::Error| ManifestError::Malformed(error.to_string());
        let any: Sealed<serde_json::Value> = serde_json::from_slice(bytes).map_err(malformed)?;
        let Version { version } = Version::deserialize(&any.manifest).map_err(malformed)?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let manifest = Self::deserialize(any.manifest).map_err(malformed)?;
        if manifest.hash() != any.blake3 {
            return Err(ManifestError::Hash);
        }
        if !(store::OLDEST_FORMAT..=store::FORMAT).contains(&manifest.format) {
            return Err(ManifestError::Format { found: manifest.format });
        }
        if manifest.name() != *name {
            return Err(ManifestError::Misplaced(manifest.name().to_string()));
        }
        Ok(manifest)
    }

    fn hash(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain values are always JSON");
        blake3::hash(&json).to_hex().to_string()
    }
}

/// A manifest's name, `realm/node/time-lsn-id`. Of one node they sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestName {
    /// The cluster.
    pub realm: Name,
    /// The node.
    pub node: Name,
    /// The rest.
    pub(super) stem: String,
}

impl ManifestName {
    /// The name of a file in a node's directory of manifests, if it is one.
    pub(super) fn of_file(realm: &Name, node: &Name, file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".json")?.to_owned();
        let name = Self { realm: realm.clone(), node: node.clone(), stem };
        name.is_sound().then_some(name)
    }

    /// When the checkpoint was archived, in milliseconds since the Unix epoch.
    pub fn time(&self) -> u64 {
        self.stem.split('-').next().and_then(|time| time.parse().ok()).unwrap_or(0)
    }

    /// Its number and id: all but the time.
    pub(super) fn checkpoint(&self) -> &str {
        self.stem.split_once('-').map_or("", |(_, rest)| rest)
    }

    pub(super) fn path(&self) -> String {
        format!("{}/{}/manifests/{}.json", self.realm, self.node, self.stem)
    }

    fn is_sound(&self) -> bool {
        let parts: Vec<&str> = self.stem.split('-').collect();
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        matches!(parts[..], [time, lsn, id] if time.len() == 13 && lsn.len() == 16 && id.len() == 16)
            && parts.iter().all(|part| digits(part))
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.realm, self.node, self.stem)
    }
}

impl FromStr for ManifestName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no name of a manifest: they are listed by `tidings backups`");
        let [realm, node, stem] = text.split('/').collect::<Vec<_>>()[..] else { return Err(wrong()) };
        let (realm, node) = (Name::new(realm).map_err(|_| wrong())?, Name::new(node).map_err(|_| wrong())?);
        let name = Self { realm, node, stem: stem.to_owned() };
        if name.is_sound() { Ok(name) } else { Err(wrong()) }
    }
}

/// A manifest in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What `restore --manifest` calls it.
    pub name: String,
    /// The cluster.
    pub realm: Name,
    /// The node that wrote it.
    pub node: Name,
    /// When, in milliseconds since the Unix epoch.
    pub time: u64,
    /// The record that the checkpoint reflects.
    pub lsn: Lsn,
    /// The last record there is after it.
    pub last_lsn: Lsn,
    /// How many blocks the checkpoint has.
    pub blocks: u64,
    /// How many segments follow it.
    pub segments: u64,
    /// The size of all its objects, each counted once.
    pub bytes: u64,
    /// Why it cannot be used, if that shows from itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Summary {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let pieces: BTreeSet<&Piece> = manifest.pieces().collect();
        Self {
            name: manifest.name().to_string(),
            realm: manifest.realm.clone(),
            node: manifest.node.clone(),
            time: manifest.time,
            lsn: manifest.lsn,
            last_lsn: manifest.segments.last().map_or(manifest.lsn, |segment| segment.last),
            blocks: manifest.blocks.len() as u64,
            segments: manifest.segments.len() as u64,
            bytes: pieces.iter().map(|piece| piece.bytes).sum(),
            error: None,
        }
    }

    pub(super) fn unusable(name: &ManifestName, error: String) -> Self {
        let (realm, node, time) = (name.realm.clone(), name.node.clone(), name.time());
        let (name, error) = (name.to_string(), Some(error));
        Self { name, realm, node, time, lsn: 0, last_lsn: 0, blocks: 0, segments: 0, bytes: 0, error }
    }
}
