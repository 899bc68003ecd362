//! A place for archives: names and bytes, whatever keeps them.

use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::config::{Access, Target};

/// An open place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Place {
    store: Arc<dyn ObjectStore>,
    root: Path,
    shown: String,
}

/// Why a place did not do something. Credentials are in none of these texts.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be opened.
    #[error("archive {place}: {why}")]
    Open {
        /// The place.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// It has nothing of that name.
    #[error("archive {place}: there is no {name}")]
    Missing {
        /// The place.
        place: String,
        /// What was looked for.
        name: String,
    },
    /// It refused.
    #[error("archive {place}: cannot {what} {name}: {source}")]
    Refused {
        /// The place.
        place: String,
        /// What was tried.
        what: &'static str,
        /// On what.
        name: String,
        /// What it said.
        source: Box<object_store::Error>,
    },
    /// Another size than it should have.
    #[error("archive {place}: {name} has {found} bytes, and should have {wanted}")]
    Size {
        /// The place.
        place: String,
        /// What was read.
        name: String,
        /// Its size.
        found: u64,
        /// What it should have: exactly, or at most.
        wanted: u64,
    },
}

/// How large something may be that is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    Exactly(u64),
    AtMost(u64),
}

impl Place {
    /// Opens a place to write to; a directory is made if need be.
    ///
    /// # Errors
    /// If it cannot be opened. Whether it can be reached shows at its first use.
    pub fn open(target: &Target, access: &Access) -> Result<Self, PlaceError> {
        if let Target::Directory(path) = target {
            let made = std::fs::create_dir_all(path);
            made.map_err(|error| refused_open(target, format!("cannot make the directory: {error}")))?;
        }
        Self::open_existing(target, access)
    }

    /// Opens a place to read from.
    ///
    /// # Errors
    /// See [`Place::open`]; a directory must be there.
    pub fn open_existing(target: &Target, access: &Access) -> Result<Self, PlaceError> {
        let (store, root): (Arc<dyn ObjectStore>, &str) = match target {
            Target::Directory(path) => {
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|error| refused_open(target, error.to_string()))?;
                (Arc::new(store.with_fsync(true)), "")
            }
            Target::Bucket { bucket, prefix } => (bucket_store(target, bucket, access)?, prefix),
        };
        Ok(Self::of(store, root, &target.to_string()))
    }

    /// A place on a store of one's own; `shown` is what messages call it.
    pub fn of(store: Arc<dyn ObjectStore>, root: &str, shown: &str) -> Self {
        Self { store, root: Path::from(root), shown: shown.to_owned() }
    }

    /// What messages call it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), PlaceError> {
        let put = self.store.put(&self.path(name), PutPayload::from_bytes(bytes)).await;
        put.map(|_| ()).map_err(|source| self.refused("write", name, source))
    }

    pub(super) async fn get(&self, name: &str, length: Length) -> Result<Bytes, PlaceError> {
        let got = self.store.get(&self.path(name)).await;
        let got = got.map_err(|source| self.refused("read", name, source))?;
        self.check(name, got.meta.size, length)?;
        let bytes = got.bytes().await.map_err(|source| self.refused("read", name, source))?;
        self.check(name, bytes.len() as u64, length)?;
        Ok(bytes)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), PlaceError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.refused("delete", name, source)),
        }
    }

    /// The objects right below a name, and their sizes.
    pub(super) async fn files(&self, below: &str) -> Result<Vec<(String, u64)>, PlaceError> {
        let listed = self.list(below).await?;
        let file = |meta: object_store::ObjectMeta| Some((meta.location.filename()?.to_owned(), meta.size));
        Ok(listed.objects.into_iter().filter_map(file).collect())
    }

    /// The names right below a name that have something below them, in order.
    pub(super) async fn dirs(&self, below: &str) -> Result<Vec<String>, PlaceError> {
        let listed = self.list(below).await?;
        let mut dirs: Vec<String> =
            listed.common_prefixes.iter().filter_map(|dir| dir.filename().map(str::to_owned)).collect();
        dirs.sort_unstable();
        Ok(dirs)
    }

    async fn list(&self, below: &str) -> Result<object_store::ListResult, PlaceError> {
        match self.store.list_with_delimiter(Some(&self.path(below))).await {
            Ok(listed) => Ok(listed),
            Err(object_store::Error::NotFound { .. }) => Ok(object_store::ListResult {
                common_prefixes: vec![],
                objects: vec![],
                extensions: Default::default(),
            }),
            Err(source) => {
                Err(self.refused("list", if below.is_empty() { "anything" } else { below }, source))
            }
        }
    }

    fn path(&self, name: &str) -> Path {
        let parts = name.split('/').filter(|part| !part.is_empty());
        parts.fold(self.root.clone(), |path, part| path.join(part))
    }

    fn check(&self, name: &str, found: u64, length: Length) -> Result<(), PlaceError> {
        let (fits, wanted) = match length {
            Length::Exactly(wanted) => (found == wanted, wanted),
            Length::AtMost(wanted) => (found <= wanted, wanted),
        };
        let (place, name) = (self.shown.clone(), name.to_owned());
        if fits { Ok(()) } else { Err(PlaceError::Size { place, name, found, wanted }) }
    }

    fn refused(&self, what: &'static str, name: &str, source: object_store::Error) -> PlaceError {
        let (place, name) = (self.shown.clone(), name.to_owned());
        match source {
            object_store::Error::NotFound { .. } => PlaceError::Missing { place, name },
            source => PlaceError::Refused { place, what, name, source: Box::new(source) },
        }
    }
}

fn refused_open(target: &Target, why: String) -> PlaceError {
    PlaceError::Open { place: target.to_string(), why }
}

#[cfg(feature = "archive")]
fn bucket_store(target: &Target, bucket: &str, access: &Access) -> Result<Arc<dyn ObjectStore>, PlaceError> {
    super::s3::open(bucket, access).map_err(|error| refused_open(target, error.to_string()))
}

#[cfg(not(feature = "archive"))]
fn bucket_store(target: &Target, _: &str, _: &Access) -> Result<Arc<dyn ObjectStore>, PlaceError> {
    Err(refused_open(target, "this program was built without the feature `archive`".to_owned()))
}
