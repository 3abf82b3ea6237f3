//! Object storage behind the commit: whole files under `/`-separated paths, durable once a call returns,
//! never visible half-written.
//!
//! [`LocalStore`] keeps objects as files of a folder, [`S3Store`] in a bucket; [`open`] and [`open_s3`] open them.
//! What the commit protocol needs from a store is `create` (create if absent); everything else may be redone after a crash.

mod local;
mod path;
mod s3;
mod scratch;
pub mod settings;
mod sync;

pub use local::LocalStore;
pub use s3::S3Store;
pub use settings::S3Settings;

use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Opens the store a URL names: `file:PATH`, absolute or relative to the working folder, or `s3://bucket/prefix`
/// with what the environment says of S3.
pub fn open(url: &str) -> Result<Arc<dyn ObjectStore>> {
    if url.starts_with("s3:") {
        let settings = S3Settings::parse(url).map_err(|why| Error::invalid(format!("offline store `{url}`: {why}")))?;
        return open_s3(&settings);
    }
    Ok(Arc::new(LocalStore::open(local_root(url)?)?))
}

/// Opens a bucket; an error if it cannot be reached or written, or if its server knows no create-if-absent.
pub fn open_s3(settings: &S3Settings) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(S3Store::open(settings)?))
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
        _ => {
            return Err(Error::invalid(format!(
                "offline store `{url}`: unknown kind `{scheme}`, expected `file:PATH` or `s3://BUCKET/PREFIX`"
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
