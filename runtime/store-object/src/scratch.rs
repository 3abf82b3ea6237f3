//! Where objects are written before they get their name: one folder per open store, held by a file lock.
//!
//! A process that dies leaves its folder behind, but not its lock; the next store that opens removes it.
//! Folders of living processes that share the root are left alone.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder under the root that holds all scratch folders.
pub(crate) const FOLDER: &str = crate::path::OWN_FOLDER;
/// The folder in it of folders about to take others' places, each named after its maker's scratch folder.
pub(crate) const SUCCESSORS: &str = "successors";
const LOCK: &str = "lock";

/// A locked scratch folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Scratch {
    /// Makes and locks a new scratch folder under the store's root.
    pub(crate) fn create(root: &Path) -> io::Result<Self> {
        static STORES: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), STORES.fetch_add(1, Ordering::Relaxed));
            let folder = root.join(FOLDER).join(name);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            match lock_new(&folder) {
                Ok(Some(lock)) => return Ok(Self { folder, next: AtomicU64::new(0), _lock: lock }),
                // Another process took the folder for a leftover before it was locked.
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        }
    }

    /// A path that no other call gets.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.next().to_string())
    }

    /// A name that no other call of any process gets; ends with a number after the name of the scratch folder.
    pub(crate) fn unique(&self) -> String {
        let name = self.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        format!("{name}-{}", self.next())
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next store that opens.
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The lock of a folder just made; `None` if the folder was removed meanwhile.
fn lock_new(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(LOCK);
    let lock = File::create(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (held, named) = (lock.metadata()?, fs::metadata(&path)?);
    Ok(((held.dev(), held.ino()) == (named.dev(), named.ino())).then_some(lock))
}

/// Removes the scratch folders of processes that are gone.
pub(crate) fn remove_leftovers(root: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let folder = entry?.path();
        if folder.ends_with(SUCCESSORS) {
            continue;
        }
        let removed = match File::open(folder.join(LOCK)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => fs::remove_dir_all(&folder),
                Err(TryLockError::WouldBlock) => Ok(()),
                Err(TryLockError::Error(error)) => Err(error),
            },
            // No folder: an earlier version's lock of moves, or what a bucket that was copied here had for its clock.
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(()),
            // Made by a process that died, or is just about to lock it and will notice.
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::remove_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed,
            },
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    remove_successors(root)
}

/// Removes what processes that are gone were about to put in other folders' places.
fn remove_successors(root: &Path) -> io::Result<()> {
    let folder = root.join(FOLDER).join(SUCCESSORS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // `<mark of the folder>-<scratch folder of the maker>-<number>`
        let owner = name.to_str().and_then(|name| Some(name.split_once('-')?.1.rsplit_once('-')?.0));
        if !owner.is_some_and(|owner| root.join(FOLDER).join(owner).exists()) {
            gone(fs::remove_dir_all(entry.path()))?;
        }
    }
    match fs::remove_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => gone(removed),
    }
}
