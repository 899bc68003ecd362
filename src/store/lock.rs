//! One process owns a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The file whose advisory lock stands for the directory. It is never removed: removing a lock file lets two
/// processes lock two files of one name.
pub(super) const LOCK_FILE: &str = "LOCK";

/// An owned data directory; released when dropped, or by the kernel when the process ends in whatever way.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Nothing was touched.
    #[error("data directory {} is in use by {holder}; stop that process or choose another directory", dir.display())]
    Held { dir: PathBuf, holder: Holder },
    /// The directory is not owned by this process and nothing in it was changed, save that it may have been created.
    #[error("cannot lock data directory {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
}

/// Who holds the lock, as far as the lock file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Pid(u32),
    Unknown,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Pid(pid) => write!(f, "process {pid}"),
            Holder::Unknown => f.write_str("another process"),
        }
    }
}

impl DirLock {
    /// Makes the directory if need be and takes it, without waiting.
    pub fn acquire(dir: &Path) -> Result<DirLock, LockError> {
        let io = |source| LockError::Io { dir: dir.to_owned(), source };
        create_durably(dir).map_err(io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { dir: dir.to_owned(), holder: read_holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        write_pid(&mut file).map_err(io)?;
        Ok(DirLock { dir: dir.to_owned(), _file: file })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Syncs the parent too: all that is ever synced in a directory is lost with the directory's own name.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) => text.trim().parse().map_or(Holder::Unknown, Holder::Pid),
        Err(_) => Holder::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_owner_learns_who_holds_which_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err();
        let LockError::Held { holder, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*holder, Holder::Pid(std::process::id()));
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()));
        assert!(text.contains(&dir.path().display().to_string()));
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
        let nested = dir.path().join("a/b");
        assert_eq!(DirLock::acquire(&nested).unwrap().dir(), nested);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = DirLock::acquire(&dir.path().join("file")).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
    }
}
