//! The narrow interface to files: everything the store ever asks of the outside world.
//!
//! [`OsDisk`] is the real one; [`MemDisk`](super::memdisk::MemDisk) is the one that tears, loses and refuses.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lock::DirLock;

/// A flat directory of files.
///
/// What a method changes is visible at once to every other call. A created, renamed or removed *name* survives
/// power loss once [`Disk::sync_dir`] returned, a file's *content* once [`DiskFile::sync_data`] did.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Where `name` is, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// All file names, sorted.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    /// Makes an empty file; an existing one is an error.
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// Opens an existing file to read and write.
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// Replaces `to` if it exists.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    fn sync_dir(&self) -> Result<(), DiskError>;
}

/// An open file. Shared, so that one thread can sync it while another appends.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Writes all of `bytes` at `offset`, in one call to the system unless that falls short.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Fills `buf` from `offset`; less than its length only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError>;
    fn size(&self) -> Result<u64, DiskError>;
    fn truncate(&self, len: u64) -> Result<(), DiskError>;
    /// Reserves `len` bytes that read as zeros. Where the file system cannot, it does nothing.
    fn preallocate(&self, len: u64) -> Result<(), DiskError>;
    /// Returns once the content, and the length needed to read it, are on the disk.
    fn sync_data(&self) -> Result<(), DiskError>;
}

/// What the system refused, and on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}: {source}", path.display())]
pub struct DiskError {
    pub op: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Reads a whole file into `buf`, replacing what it held.
pub(super) fn read_all(file: &dyn DiskFile, buf: &mut Vec<u8>) -> Result<(), DiskError> {
    let len = file.size()? as usize;
    buf.clear();
    buf.resize(len, 0);
    let read = file.read_at(0, buf)?;
    buf.truncate(read);
    Ok(())
}

/// A directory of the operating system, owned through its lock.
#[derive(Debug)]
pub struct OsDisk {
    lock: DirLock,
}

impl OsDisk {
    /// Takes the lock, so that there is no way to write into a directory that another process owns.
    pub fn new(lock: DirLock) -> Self {
        OsDisk { lock }
    }

    pub fn dir(&self) -> &Path {
        self.lock.dir()
    }

    fn wrap(&self, name: &str, file: File) -> Arc<dyn DiskFile> {
        Arc::new(OsFile { path: self.path(name), file })
    }
}

impl Disk for OsDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let list = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(self.dir())? {
                // A name that is not UTF-8 is none of ours.
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(fail("list", self.dir()))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(fail("create", &path))?;
        Ok(self.wrap(name, file))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(fail("open", &path))?;
        Ok(self.wrap(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let path = self.path(from);
        std::fs::rename(&path, self.path(to)).map_err(fail("rename", &path))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        std::fs::remove_file(&path).map_err(fail("remove", &path))
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        File::open(self.dir()).and_then(|dir| dir.sync_all()).map_err(fail("sync directory", self.dir()))
    }
}

#[derive(Debug)]
struct OsFile {
    path: PathBuf,
    file: File,
}

impl DiskFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(fail("write", &self.path))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail("read", &self.path)(e)),
            }
        }
        Ok(done)
    }

    fn size(&self) -> Result<u64, DiskError> {
        let meta = self.file.metadata().map_err(fail("stat", &self.path))?;
        Ok(meta.len())
    }

    fn truncate(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).map_err(fail("truncate", &self.path))
    }

    #[cfg(target_os = "linux")]
    fn preallocate(&self, len: u64) -> Result<(), DiskError> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(e) => Err(fail("preallocate", &self.path)(e.into())),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn preallocate(&self, _len: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(fail("sync", &self.path))
    }
}

fn fail<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DiskError + 'a {
    move |source| DiskError { op, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_disk_writes_reads_and_names_what_failed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(DirLock::acquire(dir.path()).unwrap());
        let file = disk.create("a").unwrap();
        file.preallocate(4096).unwrap();
        file.write_at(3, b"abc").unwrap();
        file.sync_data().unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        let mut buf = [9; 8];
        assert_eq!(disk.open("b").unwrap().read_at(0, &mut buf).unwrap(), 8);
        assert_eq!(&buf, b"\0\0\0abc\0\0");
        file.truncate(6).unwrap();
        assert_eq!(file.size().unwrap(), 6);
        assert_eq!(file.read_at(4, &mut buf).unwrap(), 2);

        let error = disk.open("nothing").unwrap_err().to_string();
        assert!(error.starts_with("cannot open ") && error.contains("nothing"));
        assert!(disk.create("b").is_err(), "create is exclusive");
        disk.remove("b").unwrap();
        assert_eq!(disk.list().unwrap(), ["LOCK"]);
    }
}
