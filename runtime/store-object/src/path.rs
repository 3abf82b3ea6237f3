//! Which paths objects may have, the same for every store.

use plumb_pipeline::{Error, Result};

/// The folder of unfinished writes and other objects of a store's own.
pub(crate) const OWN_FOLDER: &str = "_tmp";

/// Refuses paths that could leave the root or mean different things to different stores.
pub(crate) fn check(path: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("object path `{}` {why}", path.escape_debug())));
    if path.contains('\0') || path.contains('\\') {
        return bad("contains a NUL or a backslash");
    }
    for segment in path.split('/') {
        match segment {
            "" => return bad("has an empty part"),
            "." | ".." => return bad("has a part `.` or `..`"),
            _ => {}
        }
    }
    if path.split('/').next() == Some(OWN_FOLDER) {
        return bad("lies in the folder of unfinished writes");
    }
    Ok(())
}
