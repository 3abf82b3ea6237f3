//! Files that appear as others vanish, at once, by exchanging their folder for its successor; see
//! [`moves`](super::moves) for what keeps other processes' changes.

use super::LocalStore;
use super::moves::{Move, appear, unmoved, vanish};
use crate::scratch::{FOLDER, SUCCESSORS};
use crate::sync::{flush_folder, flush_folders};
use plumb_pipeline::{Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long an exchange is begun anew that others have changed the folder under, before files are moved one by one.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a folder that is no more is kept for those who are listing it.
const LISTING: Duration = Duration::from_secs(60);

/// What appears in one folder and what vanishes from it.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) appear: Vec<Move>,
    pub(crate) vanish: Vec<Move>,
}

/// What became of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// It was made.
    Made,
    /// Another process has changed the folder meanwhile; nothing is done.
    Overtaken,
    /// The folder holds what cannot be linked, or the file system cannot exchange folders; nothing is done.
    Impossible,
}

impl LocalStore {
    pub(super) fn swap_files(&self, appearing: Vec<Move>, vanishing: Vec<Move>) -> Result<()> {
        let mut changes: BTreeMap<PathBuf, Change> = BTreeMap::new();
        let parent = |path: &Path| path.parent().unwrap_or(&self.root).to_owned();
        for (staged, place) in &appearing {
            let change = changes.entry(parent(place)).or_default();
            change.appear.push((staged.clone(), place.clone()));
        }
        for (place, away) in vanishing {
            changes.entry(parent(&place)).or_default().vanish.push((place, away));
        }
        let folders = self.make_parents(appearing.iter().map(|(_, place)| place.as_path()))?;
        let folders: BTreeSet<PathBuf> = changes.keys().cloned().chain(folders).collect();
        let folders: Vec<PathBuf> = folders.into_iter().collect();
        let begun = Instant::now();
        self.settle(&folders, |changed| {
            for (folder, change) in &changes {
                loop {
                    let pending = change.pending()?;
                    let replaces = !pending.vanish.is_empty() && !pending.appear.is_empty();
                    let exchange = match replaces && begun.elapsed() < PATIENCE {
                        true => self.exchange(folder, &pending)?,
                        false => Exchange::Impossible,
                    };
                    match exchange {
                        Exchange::Made => changed.extend([parent(folder), folder.clone()]),
                        Exchange::Overtaken => continue,
                        Exchange::Impossible => self.one_by_one(folder, &pending, changed)?,
                    }
                    break;
                }
            }
            Ok(())
        })?;
        self.drop_old_names(&appearing)
    }

    /// The new files first: for a moment rows are seen twice rather than not at all.
    fn one_by_one(&self, folder: &Path, pending: &Change, changed: &mut BTreeSet<PathBuf>) -> Result<()> {
        for (staged, place) in &pending.appear {
            if appear(staged, place)? {
                changed.insert(folder.to_owned());
            }
        }
        changed.extend(self.put_away(&pending.vanish)?);
        for (place, away) in &pending.vanish {
            if vanish(place, away)? {
                changed.insert(folder.to_owned());
            }
        }
        Ok(())
    }

    /// Gives what vanishes its other name, under which readers of an older manifest find it; says in which folders.
    fn put_away(&self, vanishing: &[Move]) -> Result<Vec<PathBuf>> {
        let parents = self.make_parents(vanishing.iter().map(|(_, away)| away.as_path()))?;
        for (place, away) in vanishing {
            match fs::hard_link(place, away) {
                Ok(()) => {}
                // Put away before, or meanwhile, by whoever makes the same change.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                Err(_) => fs::rename(place, away).map_err(|error| unmoved(place, away, error))?,
            }
        }
        flush_folders(&parents).map_err(|(index, error)| super::unflushed(&parents[index], error))?;
        Ok(parents)
    }

    /// Exchanges a folder for its successor, in which the change is made.
    fn exchange(&self, folder: &Path, change: &Change) -> Result<Exchange> {
        self.put_away(&change.vanish)?;
        match self.successor(folder, change)? {
            Ok(successor) => self.succeed(folder, &successor),
            Err(why_not) => Ok(why_not),
        }
    }

    /// Makes the successor of a folder, of links to what the folder holds but for what vanishes, and to what appears.
    pub(crate) fn successor(&self, folder: &Path, change: &Change) -> Result<std::result::Result<PathBuf, Exchange>> {
        let failed = |error: io::Error| Error::unavailable(format!("swap `{}`", folder.display()), error);
        // Its name is there before the folder is listed: whoever changes the folder after that puts it away.
        let successor = self.make_successor(folder)?;
        match fill(folder, &successor, change).and_then(|()| flush_folder(&successor)) {
            Ok(()) => Ok(Ok(successor)),
            Err(error) => {
                let removed = fs::remove_dir_all(&successor);
                match error.kind() {
                    // It, or a file of the folder, is gone.
                    ErrorKind::NotFound => Ok(Err(Exchange::Overtaken)),
                    _ if cannot_exchange(&error) => {
                        tracing::debug!(%error, folder = %folder.display(), "cannot link what a folder holds");
                        removed.map_err(failed)?;
                        Ok(Err(Exchange::Impossible))
                    }
                    _ => Err(failed(error)),
                }
            }
        }
    }

    /// Puts a successor in its folder's place, unless another process has put it away.
    pub(crate) fn succeed(&self, folder: &Path, successor: &Path) -> Result<Exchange> {
        let failed = |error: io::Error| Error::unavailable(format!("swap `{}`", folder.display()), error);
        match renameat_with(CWD, successor, CWD, folder, RenameFlags::EXCHANGE).map_err(io::Error::from) {
            Ok(()) => {
                // What now bears the successor's name is the old folder.
                self.retire(successor).map_err(failed)?;
                Ok(Exchange::Made)
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !successor.exists() => Ok(Exchange::Overtaken),
            Err(error) => {
                let removed = fs::remove_dir_all(successor);
                if !cannot_exchange(&error) {
                    return Err(failed(error));
                }
                tracing::debug!(%error, folder = %folder.display(), "cannot exchange folders, moving file by file");
                removed.map_err(failed)?;
                Ok(Exchange::Impossible)
            }
        }
    }

    /// Puts away every successor of these folders that another process, or another thread of this one, is making.
    pub(super) fn put_successors_away(&self, folders: &[PathBuf]) -> Result<()> {
        self.drop_retired();
        let all = self.root.join(FOLDER).join(SUCCESSORS);
        let failed = |error: io::Error| Error::unavailable(format!("list `{}`", all.display()), error);
        let mut marks: Option<BTreeSet<String>> = None;
        let entries = match fs::read_dir(&all) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some((mark, _)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            let marks = marks.get_or_insert_with(|| folders.iter().map(|folder| self.mark(folder)).collect());
            if marks.contains(mark) {
                self.retire(&entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn make_successor(&self, folder: &Path) -> Result<PathBuf> {
        let scratch = self.scratch()?;
        let all = self.root.join(FOLDER).join(SUCCESSORS);
        let successor = all.join(format!("{}-{}", self.mark(folder), scratch.unique()));
        // Twice: a store that opens meanwhile removes the folder of successors while it is empty.
        let mut made = Ok(());
        for _ in 0..2 {
            made = fs::create_dir_all(&all).and_then(|()| fs::create_dir(&successor));
            if !matches!(&made, Err(error) if error.kind() == ErrorKind::NotFound) {
                break;
            }
        }
        made.map_err(|error| Error::unavailable(format!("create folder `{}`", successor.display()), error))?;
        Ok(successor)
    }

    /// What the names of a folder's successors begin with: FNV-1a of its path under the root.
    fn mark(&self, folder: &Path) -> String {
        let path = folder.strip_prefix(&self.root).unwrap_or(folder).as_os_str().as_bytes();
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", path.iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// Takes a folder that is no part of the tree out of the way, for its listers to end; fine if it is gone.
    fn retire(&self, folder: &Path) -> io::Result<()> {
        let away = self.scratch().map_err(io::Error::other)?.path();
        match fs::rename(folder, &away) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), away));
        Ok(())
    }

    fn drop_retired(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be removed goes with the scratch folder.
        retired.retain(|(since, folder)| since.elapsed() < LISTING || fs::remove_dir_all(folder).is_err());
    }
}

impl Change {
    /// What is left to do of it.
    fn pending(&self) -> Result<Self> {
        let mut pending = Change::default();
        for (staged, place) in &self.appear {
            match (staged.is_file(), place.is_file()) {
                (_, true) => {}
                (true, false) => pending.appear.push((staged.clone(), place.clone())),
                // Perhaps moved between the two looks.
                (false, false) if place.is_file() => {}
                (false, false) => {
                    let (from, to) = (staged.display(), place.display());
                    return Err(Error::internal(format!("cannot move `{from}` to `{to}`: neither exists")));
                }
            }
        }
        pending.vanish.extend(self.vanish.iter().filter(|(place, _)| place.is_file()).cloned());
        Ok(pending)
    }
}

fn fill(folder: &Path, successor: &Path, change: &Change) -> io::Result<()> {
    fs::set_permissions(successor, fs::metadata(folder)?.permissions())?;
    let vanishing: BTreeSet<&Path> = change.vanish.iter().map(|(place, _)| place.as_path()).collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !vanishing.contains(entry.path().as_path()) {
            fs::hard_link(entry.path(), successor.join(entry.file_name()))?;
        }
    }
    for (staged, place) in &change.appear {
        let name = place.file_name().ok_or(ErrorKind::InvalidInput)?;
        match fs::hard_link(staged, successor.join(name)) {
            // Another process has begun the same change.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
    }
    Ok(())
}

/// Whether a folder is such that it cannot be exchanged at all: another file system below it, a folder in it, or a
/// file system that does not know how.
fn cannot_exchange(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::CrossesDevices | ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::PermissionDenied
    )
}
