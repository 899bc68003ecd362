//! A disk in memory that behaves as badly as a real one may.
//!
//! It models the page cache: a write is visible at once and durable only after a sync. [`MemDisk::crash`] asks its
//! caller, for every write and name change that was not synced, what of it survives. Faults are injected by
//! operation count, so that a run is a pure function of its arguments.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskError, DiskFile};

/// Clones share the one disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
}

/// Something that had not been synced when the power went.
#[derive(Debug, Clone, Copy)]
pub enum Unsynced<'a> {
    /// The `index`-th of `of` unsynced changes to this file; `len` bytes of content, 0 for a change of length.
    Content { file: &'a str, index: usize, of: usize, len: usize },
    /// The `index`-th of `of` unsynced creations, renames and removals.
    Name { index: usize, of: usize },
}

/// What the disk kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    All,
    Nothing,
    /// The first bytes of a write; a name change survives whole if the number is not 0.
    First(usize),
}

/// What happens at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails. A sync that fails loses what it should have made durable, as Linux does.
    Eio,
    /// The operation fails; a write leaves this many of its first bytes behind.
    Enospc { written: usize },
    /// This and every later operation fail: the process died here. [`MemDisk::crash`] lifts it.
    Halt,
}

#[derive(Debug, Default)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    next_inode: u64,
    /// Handles of an earlier epoch belong to a process that no longer exists.
    epoch: u64,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    halted: bool,
}

#[derive(Debug, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    what: Content,
    /// A sync reported failure; the page counts as clean and no later sync will write it.
    lost: bool,
}

#[derive(Debug, Clone)]
enum Content {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Create { name: String, inode: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far that could fail: all but listing, opening and asking for a length.
    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// Lets operation number `operation` (the first is 0) meet `fault`.
    pub fn inject(&self, operation: u64, fault: Fault) {
        self.inner.lock().faults.insert(operation, fault);
    }

    /// Takes back all faults that have not been met yet.
    pub fn clear_faults(&self) {
        self.inner.lock().faults.clear();
    }

    /// Power loss: open handles are dead, and `keep` decides what survives of everything unsynced.
    pub fn crash(&self, keep: &mut dyn FnMut(Unsynced<'_>) -> Keep) {
        let inner = &mut *self.inner.lock();
        let of = inner.unsynced_names.len();
        for (index, change) in std::mem::take(&mut inner.unsynced_names).iter().enumerate() {
            match keep(Unsynced::Name { index, of }) {
                Keep::Nothing | Keep::First(0) => {}
                Keep::All | Keep::First(_) => change.apply(&mut inner.durable_names),
            }
        }
        inner.names = inner.durable_names.clone();
        let mut inodes = std::mem::take(&mut inner.inodes);
        for (name, number) in &inner.names {
            let mut inode = inodes.remove(number).unwrap_or_default();
            inode.crash(name, keep);
            inner.inodes.insert(*number, inode);
        }
        inner.epoch += 1;
        inner.halted = false;
        inner.faults.clear();
    }

    /// `kill -9`: open handles are dead, the page cache stays.
    pub fn kill(&self) {
        let inner = &mut *self.inner.lock();
        inner.epoch += 1;
        inner.halted = false;
        inner.faults.clear();
        let (names, durable) = (&inner.names, &inner.durable_names);
        let named = |number: &u64| names.values().chain(durable.values()).any(|n| n == number);
        inner.inodes.retain(|number, _| named(number));
    }

    /// What a reader of `name` would see now.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        let number = inner.names.get(name)?;
        Some(inner.inodes[number].current.clone())
    }

    /// Replaces the content of `name`, durably and past all fault injection: bit rot, or an operator's hand.
    pub fn overwrite(&self, name: &str, content: Vec<u8>) {
        let inner = &mut *self.inner.lock();
        let number = match inner.names.get(name) {
            Some(number) => *number,
            None => {
                let number = inner.next_inode;
                inner.next_inode += 1;
                inner.names.insert(name.to_owned(), number);
                inner.durable_names.insert(name.to_owned(), number);
                number
            }
        };
        let inode = inner.inodes.entry(number).or_default();
        inode.current.clone_from(&content);
        inode.durable = content;
        inode.unsynced.clear();
    }

    /// Flips one bit of `name` on the medium and in the cache.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut content = self.content(name).unwrap_or_default();
        if let Some(b) = content.get_mut(byte) {
            *b ^= 1 << (bit % 8);
        }
        self.overwrite(name, content);
    }

    /// A second disk with the same content, all of it durable, without the faults.
    pub fn copy(&self) -> MemDisk {
        let copy = MemDisk::new();
        let inner = self.inner.lock();
        for (name, number) in &inner.names {
            copy.overwrite(name, inner.inodes[number].current.clone());
        }
        copy
    }

    fn file(&self, name: &str, inode: u64, epoch: u64) -> Arc<dyn DiskFile> {
        Arc::new(MemFile { disk: self.clone(), name: name.to_owned(), inode, epoch })
    }

    fn change_name(
        &self,
        op: &'static str,
        name: &str,
        plan: impl FnOnce(&mut Inner) -> Result<NameChange, io::Error>,
    ) -> Result<u64, DiskError> {
        let inner = &mut *self.inner.lock();
        let change = match inner.step() {
            Some(fault) => Err(fault.error()),
            None => plan(inner),
        }
        .map_err(|source| error(op, name, source))?;
        change.apply(&mut inner.names);
        inner.unsynced_names.push(change);
        Ok(inner.epoch)
    }
}

impl Disk for MemDisk {
    fn path(&self, name: &str) -> PathBuf {
        path(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let inner = self.inner.lock();
        if inner.halted {
            return Err(error("list", "", Fault::Halt.error()));
        }
        Ok(inner.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut made = 0;
        let epoch = self.change_name("create", name, |inner| {
            if inner.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            made = inner.next_inode;
            inner.next_inode += 1;
            inner.inodes.insert(made, Inode::default());
            Ok(NameChange::Create { name: name.to_owned(), inode: made })
        })?;
        Ok(self.file(name, made, epoch))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let inner = self.inner.lock();
        if inner.halted {
            return Err(error("open", name, Fault::Halt.error()));
        }
        match inner.names.get(name) {
            Some(inode) => Ok(self.file(name, *inode, inner.epoch)),
            None => Err(error("open", name, io::ErrorKind::NotFound.into())),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.change_name("rename", from, |inner| {
            if !inner.names.contains_key(from) {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(NameChange::Rename { from: from.to_owned(), to: to.to_owned() })
        })?;
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.change_name("remove", name, |inner| {
            if !inner.names.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(NameChange::Remove { name: name.to_owned() })
        })?;
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        let inner = &mut *self.inner.lock();
        if let Some(fault) = inner.step() {
            return Err(error("sync directory", "", fault.error()));
        }
        inner.unsynced_names.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    name: String,
    inode: u64,
    epoch: u64,
}

impl MemFile {
    /// Runs `then` on the file, after the fault of this operation if one is due.
    fn with<T>(
        &self,
        op: &'static str,
        then: impl FnOnce(&mut Inode, Option<Fault>) -> Result<T, io::Error>,
    ) -> Result<T, DiskError> {
        let inner = &mut *self.disk.inner.lock();
        let fault = match inner.epoch == self.epoch {
            true => inner.step(),
            false => Some(Fault::Halt),
        };
        let result = match (fault, inner.inodes.get_mut(&self.inode)) {
            (Some(Fault::Halt), _) | (_, None) => Err(Fault::Halt.error()),
            (fault, Some(inode)) => then(inode, fault),
        };
        result.map_err(|source| error(op, &self.name, source))
    }

    fn change(&self, op: &'static str, what: Content) -> Result<(), DiskError> {
        self.with(op, |inode, fault| match fault {
            None => {
                inode.change(what);
                Ok(())
            }
            Some(fault) => {
                if let (Fault::Enospc { written }, Content::Write { offset, mut bytes }) = (fault, what) {
                    bytes.truncate(written);
                    inode.change(Content::Write { offset, bytes });
                }
                Err(fault.error())
            }
        })
    }
}

impl DiskFile for MemFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.change("write", Content::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        self.with("read", |inode, fault| match fault {
            Some(fault) => Err(fault.error()),
            None => {
                let from = inode.current.len().min(offset as usize);
                let len = buf.len().min(inode.current.len() - from);
                buf[..len].copy_from_slice(&inode.current[from..from + len]);
                Ok(len)
            }
        })
    }

    fn size(&self) -> Result<u64, DiskError> {
        let inner = self.disk.inner.lock();
        match inner.inodes.get(&self.inode) {
            Some(inode) if inner.epoch == self.epoch => Ok(inode.current.len() as u64),
            _ => Err(error("stat", &self.name, Fault::Halt.error())),
        }
    }

    fn truncate(&self, len: u64) -> Result<(), DiskError> {
        self.change("truncate", Content::Length(len as usize))
    }

    fn preallocate(&self, len: u64) -> Result<(), DiskError> {
        let len = (len as usize).max(self.size()? as usize);
        self.change("preallocate", Content::Length(len))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.with("sync", |inode, fault| match fault {
            None => {
                inode.sync();
                Ok(())
            }
            Some(fault) => {
                for change in &mut inode.unsynced {
                    change.lost = true;
                }
                Err(fault.error())
            }
        })
    }
}

impl Inner {
    fn step(&mut self) -> Option<Fault> {
        let fault = self.faults.remove(&self.operations);
        self.operations += 1;
        if fault == Some(Fault::Halt) {
            self.halted = true;
        }
        if self.halted { Some(Fault::Halt) } else { fault }
    }
}

impl Inode {
    fn change(&mut self, what: Content) {
        what.apply(&mut self.current, usize::MAX);
        self.unsynced.push(Change { what, lost: false });
    }

    fn sync(&mut self) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            if !change.lost {
                change.what.apply(durable, usize::MAX);
            }
            change.lost
        });
    }

    fn crash(&mut self, file: &str, keep: &mut dyn FnMut(Unsynced<'_>) -> Keep) {
        let changes = std::mem::take(&mut self.unsynced);
        let of = changes.len();
        for (index, change) in changes.iter().enumerate().filter(|(_, c)| !c.lost) {
            let len = match &change.what {
                Content::Write { bytes, .. } => bytes.len(),
                Content::Length(_) => 0,
            };
            let unsynced = Unsynced::Content { file, index, of, len };
            match keep(unsynced) {
                Keep::Nothing => {}
                Keep::All => change.what.apply(&mut self.durable, usize::MAX),
                Keep::First(n) => change.what.apply(&mut self.durable, n),
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Content {
    fn apply(&self, to: &mut Vec<u8>, first: usize) {
        match self {
            Content::Length(len) => to.resize(*len, 0),
            Content::Write { offset, bytes } => {
                let bytes = &bytes[..first.min(bytes.len())];
                let end = offset + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(bytes);
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Rename { from, to } => {
                // The name it came from may itself not have survived.
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameChange::Remove { name } => {
                names.remove(name);
            }
        }
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Eio => io::Error::other("input/output error (injected)"),
            Fault::Enospc { .. } => io::ErrorKind::StorageFull.into(),
            Fault::Halt => io::Error::other("the process is gone (injected)"),
        }
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("memory").join(name)
}

fn error(op: &'static str, name: &str, source: io::Error) -> DiskError {
    DiskError { op, path: path(name), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_what_the_caller_says() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, b"durable").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(7, b" torn").unwrap();
        file.write_at(12, b"lost").unwrap();
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.content("b").unwrap(), b"durable tornlost");
        disk.crash(&mut |unsynced| match unsynced {
            Unsynced::Name { .. } => Keep::Nothing,
            Unsynced::Content { index: 0, .. } => Keep::First(3),
            Unsynced::Content { .. } => Keep::Nothing,
        });
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert_eq!(disk.content("a").unwrap(), b"durable to");
        assert!(file.write_at(0, b"x").is_err(), "the handle died");
    }

    #[test]
    fn a_failed_sync_loses_what_it_was_for() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, b"one").unwrap();
        disk.inject(disk.operations(), Fault::Eio);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.content("a").unwrap(), b"one");
        disk.crash(&mut |_| Keep::All);
        assert_eq!(disk.content("a").unwrap(), b"");
    }
}
