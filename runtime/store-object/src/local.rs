//! Objects as files of a folder.
//!
//! An object is written under a scratch name, flushed, and only then linked or renamed to its own name,
//! whose folder is flushed too: after a crash it is there whole or not at all.

pub(crate) mod moves;
pub(crate) mod swap;

use crate::path;
use crate::scratch::{self, Scratch};
use crate::sync::{flush_files, flush_folders};
use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a folder is listed again because files in it have gone.
const LISTINGS: usize = 20;
/// For how long others are waited for that do something alone, and how often they are looked after.
const ALONE_PATIENCE: Duration = Duration::from_secs(60);
const ALONE_LOOK: Duration = Duration::from_millis(2);

/// An object store in a local folder. Several processes may share one.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Made by the first write, so that a store that is only read leaves no trace.
    scratch: OnceLock<Scratch>,
    making_scratch: Mutex<()>,
    /// Folders whose own names this process knows to be durable.
    durable_folders: Mutex<BTreeSet<PathBuf>>,
    /// Folders that are no part of the tree any more, still being read by whoever had begun to list them.
    retired: Mutex<Vec<(Instant, PathBuf)>>,
}

impl LocalStore {
    /// Opens the store in a folder, which the first write makes if it is missing, and removes what processes
    /// that died in the middle of a write left behind.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self::reading(root);
        let root = &store.root;
        if root.exists() && !root.is_dir() {
            return Err(Error::invalid(format!("`{}` is a file, expected a folder", root.display())));
        }
        scratch::remove_leftovers(root).map_err(|error| {
            Error::unavailable(format!("clean up `{}`", root.join(scratch::FOLDER).display()), error)
        })?;
        Ok(store)
    }

    /// The store in a folder, left as it is: for whoever only reads.
    pub fn reading(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            scratch: OnceLock::new(),
            making_scratch: Mutex::new(()),
            durable_folders: Mutex::new(BTreeSet::new()),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn scratch(&self) -> Result<&Scratch> {
        let _making = self.making_scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = self.scratch.get() {
            return Ok(scratch);
        }
        let folder = self.root.join(scratch::FOLDER);
        self.make_folders(std::slice::from_ref(&folder))?;
        let made = Scratch::create(&self.root)
            .map_err(|error| Error::unavailable(format!("create a folder in `{}`", folder.display()), error))?;
        Ok(self.scratch.get_or_init(|| made))
    }

    /// Makes folders and everything above them, durably.
    fn make_folders(&self, folders: &[PathBuf]) -> Result<()> {
        let mut known = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = BTreeSet::new();
        let mut to_flush = BTreeSet::new();
        for folder in folders {
            // From the folder upwards to one that is known, or to the folder that holds the root.
            for folder in folder.ancestors() {
                let beyond_root = !folder.starts_with(&self.root);
                if known.contains(folder) || !made.insert(folder.to_owned()) || (beyond_root && folder.exists()) {
                    break;
                }
                if folder != self.root || !folder.exists() {
                    to_flush.insert(
                        folder
                            .parent()
                            .filter(|parent| *parent != Path::new(""))
                            .map_or_else(|| PathBuf::from("."), Path::to_owned),
                    );
                }
            }
            fs::create_dir_all(folder)
                .map_err(|error| Error::unavailable(format!("create folder `{}`", folder.display()), error))?;
        }
        let to_flush: Vec<PathBuf> = to_flush.into_iter().collect();
        flush_folders(&to_flush).map_err(|(index, error)| unflushed(&to_flush[index], error))?;
        known.append(&mut made);
        Ok(())
    }

    fn make_parents<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
        let parents: BTreeSet<PathBuf> = paths.filter_map(Path::parent).map(Path::to_owned).collect();
        let parents: Vec<PathBuf> = parents.into_iter().collect();
        self.make_folders(&parents)?;
        Ok(parents)
    }

    /// Writes bytes under a scratch name, not flushed yet.
    fn write_scratch(&self, path: &str, bytes: &[u8]) -> Result<(PathBuf, File)> {
        let name = self.scratch()?.path();
        let write = || -> io::Result<File> {
            let mut file = File::create_new(&name)?;
            file.write_all(bytes)?;
            Ok(file)
        };
        match write() {
            Ok(file) => Ok((name, file)),
            Err(error) => {
                drop(fs::remove_file(&name));
                Err(Error::unavailable(format!("write `{}`", self.root.join(path).display()), error))
            }
        }
    }

    /// The file of an object, refusing paths that could leave the root.
    fn file(&self, path: &str) -> Result<PathBuf> {
        path::check(path)?;
        Ok(self.root.join(path))
    }

    /// The files of moves.
    fn files(&self, moves: &[(String, String)]) -> Result<Vec<moves::Move>> {
        moves.iter().map(|(from, to)| Ok((self.file(from)?, self.file(to)?))).collect()
    }

    fn list_into(&self, folder: &Path, prefix: &str, found: &mut Vec<(String, Metadata)>) -> io::Result<()> {
        let before = found.len();
        // A file that is gone by the time it is looked at may have been replaced by another: looked at again, the
        // folder is as it is at one moment.
        for _ in 0..LISTINGS {
            if self.list_once(folder, prefix, found)? {
                return Ok(());
            }
            found.truncate(before);
        }
        // Files come and go all the time: what was seen of them has to do.
        self.list_once(folder, prefix, found).map(drop)
    }

    /// Lists a folder; false if a file was gone by the time it was looked at.
    fn list_once(&self, folder: &Path, prefix: &str, found: &mut Vec<(String, Metadata)>) -> io::Result<bool> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // Never made, or removed while we walk.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let (mut whole, mut folders) = (true, Vec::new());
        for entry in entries {
            let entry = entry?;
            // Other programs' files; ours are all UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if prefix.is_empty() && name == scratch::FOLDER {
                continue;
            }
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), path));
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => found.push((path, metadata)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => whole = false,
                Err(error) => return Err(error),
            }
        }
        if whole {
            for (folder, path) in folders {
                self.list_into(&folder, &path, found)?;
            }
        }
        Ok(whole)
    }

    /// Everything under a folder, in order.
    fn objects(&self, folder: &str) -> Result<Vec<(String, Metadata)>> {
        let folder = folder.strip_suffix('/').unwrap_or(folder);
        let path = if folder.is_empty() { self.root.clone() } else { self.file(folder)? };
        let mut found = Vec::new();
        self.list_into(&path, folder, &mut found)
            .map_err(|error| Error::unavailable(format!("list `{}`", path.display()), error))?;
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// Since when a file is where it is: a move changes its inode's time, not that of its content.
fn since(metadata: &Metadata) -> SystemTime {
    let changed = u64::try_from(metadata.ctime()).map_or(UNIX_EPOCH, |s| UNIX_EPOCH + Duration::from_secs(s));
    metadata.modified().map_or(changed, |modified| modified.max(changed))
}

impl ObjectStore for LocalStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let target = self.file(path)?;
        let at = || format!("create `{}`", target.display());
        let parents = self.make_parents(std::iter::once(target.as_path()))?;
        let (scratch, file) = self.write_scratch(path, bytes)?;
        let linked = file.sync_all().and_then(|()| fs::hard_link(&scratch, &target));
        drop(fs::remove_file(&scratch));
        let created = match linked {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Error::unavailable(at(), error)),
        };
        // Also for an object that was there: its creator may have died before its name was durable.
        flush_folders(&parents).map_err(|(_, error)| Error::unavailable(at(), error))?;
        Ok(created)
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.put_all(vec![(path.to_owned(), bytes)])
    }

    fn put_all(&self, objects: Vec<(String, Vec<u8>)>) -> Result<()> {
        let targets = objects.iter().map(|(path, _)| self.file(path)).collect::<Result<Vec<PathBuf>>>()?;
        let parents = self.make_parents(targets.iter().map(PathBuf::as_path))?;
        let mut names = Vec::with_capacity(objects.len());
        let mut files = Vec::with_capacity(objects.len());
        let written = objects.into_iter().try_for_each(|(path, bytes)| {
            let (name, file) = self.write_scratch(&path, &bytes)?;
            names.push(name);
            files.push(file);
            Ok(())
        });
        let done = written.and_then(|()| {
            let at = |index: usize| format!("write `{}`", targets[index].display());
            flush_files(&files).map_err(|(index, error)| Error::unavailable(at(index), error))?;
            for (index, name) in names.iter().enumerate() {
                fs::rename(name, &targets[index]).map_err(|error| Error::unavailable(at(index), error))?;
            }
            flush_folders(&parents).map_err(|(index, error)| unflushed(&parents[index], error))
        });
        if done.is_err() {
            // Renamed ones are gone from here already.
            names.iter().for_each(|name| drop(fs::remove_file(name)));
        }
        done
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let file = self.file(path)?;
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::unavailable(format!("read `{}`", file.display()), error)),
        }
    }

    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let path = self.file(path)?;
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(&path)?;
            let end = range.end.min(file.metadata()?.len());
            let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).unwrap_or(0)];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::unavailable(format!("read `{}`", path.display()), error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        Ok(self.objects(folder)?.into_iter().map(|(path, metadata)| (path, metadata.len())).collect())
    }

    fn ages(&self, folder: &str) -> Result<Vec<(String, Duration)>> {
        let objects = self.objects(folder)?;
        let now = SystemTime::now();
        let age = |metadata: &Metadata| now.duration_since(since(metadata)).unwrap_or_default();
        Ok(objects.iter().map(|(path, metadata)| (path.clone(), age(metadata))).collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_all(&[(from.to_owned(), to.to_owned())])
    }

    fn rename_all(&self, moves: &[(String, String)]) -> Result<()> {
        self.move_files(&self.files(moves)?)
    }

    fn swap(&self, appear: &[(String, String)], vanish: &[(String, String)]) -> Result<()> {
        self.swap_files(self.files(appear)?, self.files(vanish)?)
    }

    /// Not flushed: an object that comes back after a power cut is removed again by whoever removed it.
    fn delete(&self, path: &str) -> Result<()> {
        let file = self.file(path)?;
        match fs::remove_file(&file) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(Error::unavailable(format!("delete `{}`", file.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// By a lock of the system, which ends with the process that holds it. One that is stopped holds it.
    fn alone(&self, name: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        path::check(name)?;
        let folder = self.root.join(scratch::FOLDER);
        self.make_folders(std::slice::from_ref(&folder))?;
        // Never removed: two who lock files of one name, of which one is gone, would not be alone.
        let path = folder.join(format!("{name}.alone"));
        let failed = |error: io::Error| Error::unavailable(format!("lock `{}`", path.display()), error);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // Nobody is kept apart on a file system without locks.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => break,
                Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Interrupted => {
                    return Err(failed(error));
                }
                Err(_) if begun.elapsed() < ALONE_PATIENCE => std::thread::sleep(ALONE_LOOK),
                Err(_) => {
                    return Err(failed(io::Error::other("another process has held it for a minute; is it stopped?")));
                }
            }
        }
        work()
    }

    fn local_path(&self, path: &str) -> Option<PathBuf> {
        self.file(path).ok()
    }
}

fn unflushed(folder: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("flush folder `{}`", folder.display()), error)
}
