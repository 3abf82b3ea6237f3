//! Object storage behind the commit: whole files under `/`-separated paths, durable once a call returns,
//! never visible half-written.
//!
//! [`open`] picks the store by URL; [`LocalStore`] keeps objects as files of a folder. What the commit
//! protocol needs from a store is `create` (create if absent); everything else may be redone after a crash.

mod local;
mod scratch;
pub mod settings;
mod sync;

pub use local::LocalStore;
pub use settings::S3Settings;

use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Opens the store a URL names: `file:PATH`, absolute or relative to the working folder.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(LocalStore::open(local_root(url)?)?))
}

/// The folder of a `file:` URL; other URLs are refused with what would be right.
pub fn local_root(url: &str) -> Result<PathBuf> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(Error::invalid(format!("offline store `{url}` is not a URL, expected `file:PATH`")));
    };
    let path = match scheme {
        "file" => {
            rest.strip_prefix("//").map_or(Ok(rest), |path| if path.starts_with('/') { Ok(path) } else { Err(()) })
        }
        "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" => {
            return Err(Error::invalid(format!(
                "offline store `{url}`: {scheme} storage comes with a later release, use `file:PATH`"
            )));
        }
        _ => {
            return Err(Error::invalid(format!(
                "offline store `{url}`: unknown kind `{scheme}`, expected `file:PATH`"
            )));
        }
    };
    match path {
        Ok(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        Ok(_) => Err(Error::invalid(format!("offline store `{url}` names no folder, expected `file:PATH`"))),
        Err(()) => Err(Error::invalid(format!(
            "offline store `{url}` names a host, expected `file:PATH` or `file:///ABSOLUTE/PATH`"
        ))),
    }
}

#[cfg(test)]
mod tests;
