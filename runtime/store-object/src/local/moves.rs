//! Moves of files while other processes move files of the same folders.
//!
//! Whoever lists a folder between two renames sees neither state. So a folder in which something is replaced is made
//! anew beside the tree, of links to what stays and to what appears, and exchanged with the old one by one call
//! ([`swap`](super::swap)). What another process did to the old folder meanwhile would go with it.
//!
//! No lock keeps them apart: whoever is stopped while it holds one (a suspended process, a machine that hangs) would
//! stop everybody. Instead a folder's successor is made where all can see it, before the folder is listed. Whoever has
//! changed a folder puts the successors of it away that others are making, and then looks whether its change is
//! there. Either the other listed the folder after the change; or its successor is gone and it begins anew; or it has
//! exchanged them before that, and the look shows what has to be done again. Until that look a file keeps
//! its old name too, so it is never lost. An exchange is such a change itself.

use super::{LocalStore, unflushed};
use crate::sync::flush_folders;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a change is made again that others' exchanges undo: each undoes it once, and takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// From where to where.
pub(crate) type Move = (PathBuf, PathBuf);

impl LocalStore {
    /// Moves files durably; those that were moved before are fine.
    pub(super) fn move_files(&self, moves: &[Move]) -> Result<()> {
        let parents = self.make_parents(moves.iter().map(|(_, to)| to.as_path()))?;
        self.settle(&parents, |changed| {
            for (from, to) in moves {
                if appear(from, to)? {
                    changed.extend(to.parent().map(Path::to_owned));
                }
            }
            Ok(())
        })?;
        self.drop_old_names(moves)
    }

    /// Removes the old names of files that have their new ones for good.
    pub(super) fn drop_old_names(&self, moves: &[Move]) -> Result<()> {
        let parents: BTreeSet<PathBuf> =
            moves.iter().filter_map(|(from, _)| from.parent()).map(Path::to_owned).collect();
        let parents: Vec<PathBuf> = parents.into_iter().collect();
        self.settle(&parents, |changed| {
            for (from, to) in moves {
                if vanish(from, to)? {
                    changed.extend(from.parent().map(Path::to_owned));
                }
            }
            Ok(())
        })
    }

    /// Makes a change to folders durable, and such that no other process undoes it. `step` does what is left to do and
    /// tells which folders it has changed: all that are to be flushed.
    pub(super) fn settle(
        &self,
        folders: &[PathBuf],
        mut step: impl FnMut(&mut BTreeSet<PathBuf>) -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        // The first time all are flushed: who made the change before may have died before its own flush.
        let mut to_flush: BTreeSet<PathBuf> = folders.iter().filter(|folder| folder.is_dir()).cloned().collect();
        loop {
            let mut changed = BTreeSet::new();
            step(&mut changed)?;
            if changed.is_empty() && to_flush.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let why = "other processes exchange its folders again and again";
                return Err(Error::unavailable(format!("move files in `{}`", self.root.display()), why));
            }
            to_flush.append(&mut changed);
            let flushed: Vec<PathBuf> = std::mem::take(&mut to_flush).into_iter().collect();
            flush_folders(&flushed).map_err(|(index, error)| unflushed(&flushed[index], error))?;
            self.put_successors_away(folders)?;
        }
    }
}

/// Gives a file its new name beside the old one; whether it did not have it.
pub(crate) fn appear(from: &Path, to: &Path) -> Result<bool> {
    let missing = || {
        let (from, to) = (from.display(), to.display());
        Err(Error::internal(format!("cannot move `{from}` to `{to}`: neither exists")))
    };
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound && to.is_file() => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => missing(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_same(from, to) => Ok(false),
        // Another file in its place, or a file system without links, in which nothing is ever exchanged.
        Err(error) if error.kind() == ErrorKind::AlreadyExists || cannot_link(&error) => match fs::rename(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound && to.is_file() => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => missing(),
            Err(error) => Err(unmoved(from, to, error)),
        },
        Err(error) => Err(unmoved(from, to, error)),
    }
}

/// Removes the old name of a file that has its new one; whether it was there.
pub(super) fn vanish(from: &Path, to: &Path) -> Result<bool> {
    match fs::remove_file(from) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unmoved(from, to, error)),
    }
}

/// Whether both are names of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        // The old name was removed by whoever has made the same move.
        _ => other.is_file(),
    }
}

fn cannot_link(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}

pub(super) fn unmoved(from: &Path, to: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("move `{}` to `{}`", from.display(), to.display()), error)
}
