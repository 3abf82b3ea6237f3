//! Objects that appear as others vanish, at once.
//!
//! Whoever lists a folder between two renames sees neither state. So a folder in which something is replaced is
//! made anew beside the tree, of links to what stays and to what appears, and exchanged with the old one by one
//! call of the kernel. Other processes must not move anything into the folder meanwhile: moves hold a lock that
//! they share with each other and not with a swap.

use super::{LocalStore, unflushed};
use crate::scratch;
use crate::sync::{flush_folder, flush_folders};
use plumb_pipeline::port::ObjectStore as _;
use plumb_pipeline::{Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long a move waits for another process's swap, which takes milliseconds: one that takes longer is stopped.
const MOVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a swap waits for other processes' moves before it does without.
const SWAP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a folder that was swapped out is kept for those who are listing it.
const LISTING: Duration = Duration::from_secs(60);

/// The moves of one folder: (from, to) of what appears in it and of what vanishes from it.
#[derive(Default)]
struct Change {
    appear: Vec<(PathBuf, PathBuf)>,
    vanish: Vec<(PathBuf, PathBuf)>,
}

impl LocalStore {
    /// Keeps swaps out while it is held.
    pub(super) fn no_swap(&self) -> Result<File> {
        let busy = || {
            Error::unavailable(
                format!("move files in `{}`", self.root.display()),
                "another process holds its lock; is it stopped?",
            )
        };
        let lock = self.open_lock()?;
        match wait(MOVE_PATIENCE, || lock.try_lock_shared()) {
            Ok(true) => Ok(lock),
            Ok(false) => Err(busy()),
            Err(error) => Err(Error::unavailable(format!("lock `{}`", self.root.display()), error)),
        }
    }

    fn open_lock(&self) -> Result<File> {
        // Makes the folder of the lock.
        self.scratch()?;
        let path = self.root.join(scratch::FOLDER).join("moves");
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::unavailable(format!("open `{}`", path.display()), error))
    }

    pub(super) fn swap_files(&self, appear: &[(String, String)], vanish: &[(String, String)]) -> Result<()> {
        self.drop_swapped_out();
        let mut changes: BTreeMap<PathBuf, Change> = BTreeMap::new();
        let mut others = Vec::new();
        for (from, to) in appear {
            let (staged, place) = (self.file(from)?, self.file(to)?);
            match place.parent() {
                Some(folder) => changes.entry(folder.to_owned()).or_default().appear.push((staged, place)),
                None => others.push((from.clone(), to.clone())),
            }
        }
        for (from, to) in vanish {
            let (place, away) = (self.file(from)?, self.file(to)?);
            match place.parent() {
                Some(folder) => changes.entry(folder.to_owned()).or_default().vanish.push((place, away)),
                None => others.push((from.clone(), to.clone())),
            }
        }
        self.rename_all(&others)?;
        let lock = self.open_lock()?;
        let alone = wait(SWAP_PATIENCE, || lock.try_lock())
            .map_err(|error| Error::unavailable(format!("lock `{}`", self.root.display()), error))?;
        let mut parents = BTreeSet::new();
        let mut piecemeal = Vec::new();
        for (folder, change) in changes {
            let pending = change.pending()?;
            let swapped = alone
                && !pending.vanish.is_empty()
                && !pending.appear.is_empty()
                && self.exchange(&folder, &pending)?;
            if swapped {
                parents.extend(folder.parent().map(Path::to_owned));
            } else if !(pending.appear.is_empty() && pending.vanish.is_empty()) {
                piecemeal.push(pending);
            }
        }
        let parents: Vec<PathBuf> = parents.into_iter().collect();
        flush_folders(&parents).map_err(|(index, error)| unflushed(&parents[index], error))?;
        let mut changed = BTreeSet::new();
        for change in &piecemeal {
            let moves = || change.appear.iter().chain(&change.vanish);
            changed.extend(self.make_parents(moves().map(|(_, to)| to.as_path()))?);
            for (from, to) in moves() {
                fs::rename(from, to).map_err(|error| {
                    Error::unavailable(format!("move `{}` to `{}`", from.display(), to.display()), error)
                })?;
                changed.extend(from.parent().map(Path::to_owned));
            }
        }
        let changed: Vec<PathBuf> = changed.into_iter().collect();
        flush_folders(&changed).map_err(|(index, error)| unflushed(&changed[index], error))
    }

    /// Exchanges a folder for one in which the change is made; false, and nothing done, where the folder holds what
    /// cannot be linked or the file system cannot exchange folders.
    fn exchange(&self, folder: &Path, change: &Change) -> Result<bool> {
        let failed = |error: io::Error| Error::unavailable(format!("swap `{}`", folder.display()), error);
        let trash = self.make_parents(change.vanish.iter().map(|(_, away)| away.as_path()))?;
        let fresh = self.scratch()?.path();
        fs::create_dir(&fresh).map_err(failed)?;
        let made = self.fill(folder, &fresh, change).and_then(|()| {
            // They are kept for readers of an older manifest.
            for (place, away) in &change.vanish {
                match fs::hard_link(place, away) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            flush_folders(&trash).map_err(|(_, error)| error)?;
            flush_folder(&fresh)?;
            Ok(renameat_with(CWD, &fresh, CWD, folder, RenameFlags::EXCHANGE)?)
        });
        match made {
            Ok(()) => {}
            Err(error) if cannot_exchange(&error) => {
                tracing::debug!(%error, folder = %folder.display(), "cannot exchange folders, moving file by file");
                fs::remove_dir_all(&fresh).map_err(failed)?;
                return Ok(false);
            }
            Err(error) => {
                drop(fs::remove_dir_all(&fresh));
                return Err(failed(error));
            }
        }
        // The old folder now bears the scratch name.
        self.swapped_out.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), fresh));
        for (staged, _) in &change.appear {
            fs::remove_file(staged).map_err(failed)?;
        }
        Ok(true)
    }

    /// Links into `fresh` what `folder` holds but for what vanishes, and what appears.
    fn fill(&self, folder: &Path, fresh: &Path, change: &Change) -> io::Result<()> {
        fs::set_permissions(fresh, fs::metadata(folder)?.permissions())?;
        let vanishing: BTreeSet<&Path> = change.vanish.iter().map(|(place, _)| place.as_path()).collect();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if !vanishing.contains(entry.path().as_path()) {
                fs::hard_link(entry.path(), fresh.join(entry.file_name()))?;
            }
        }
        for (staged, place) in &change.appear {
            let name = place.file_name().ok_or(ErrorKind::InvalidInput)?;
            match fs::hard_link(staged, fresh.join(name)) {
                // Linked by a swap that died before it removed the staged name.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
        }
        Ok(())
    }

    fn drop_swapped_out(&self) {
        let mut swapped_out = self.swapped_out.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be removed goes with the scratch folder.
        swapped_out.retain(|(since, folder)| since.elapsed() < LISTING || fs::remove_dir_all(folder).is_err());
    }
}

impl Change {
    /// What is left to do of it.
    fn pending(self) -> Result<Self> {
        let mut pending = Change::default();
        for (staged, place) in self.appear {
            match (staged.is_file(), place.is_file()) {
                (true, false) => pending.appear.push((staged, place)),
                // A swap that died before it removed the staged name: both are names of one file.
                (true, true) => fs::remove_file(&staged)
                    .map_err(|error| Error::unavailable(format!("delete `{}`", staged.display()), error))?,
                (false, true) => {}
                (false, false) => {
                    let (from, to) = (staged.display(), place.display());
                    return Err(Error::internal(format!("cannot move `{from}` to `{to}`: neither exists")));
                }
            }
        }
        pending.vanish.extend(self.vanish.into_iter().filter(|(place, _)| place.is_file()));
        Ok(pending)
    }
}

/// Whether a folder is such that it cannot be exchanged at all: another file system below it, a folder in it, or a
/// file system that does not know how.
fn cannot_exchange(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::CrossesDevices | ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::PermissionDenied
    )
}

/// Tries to lock for some time; whether it could.
fn wait(patience: Duration, mut lock: impl FnMut() -> std::result::Result<(), TryLockError>) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
