//! One process at a time, by what commits need too: that an object is created only where none is.
//!
//! Who is alone has the object of the highest number in `_tmp/alone/<name>/`, which holds something until the work is done
//! and is written anew every few seconds meanwhile. The next one creates that of the next number once it is empty, or
//! has not been written for so long that its owner must be gone. An owner that slept for longer and wakes in the middle of
//! its work is not stopped by that.

use super::{OWN, S3Store};
use object_store::path::Path;
use object_store::{Error as S3Error, ObjectStore as _, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use plumb_pipeline::{Error, Result};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Who has not written for so long is gone.
const GONE: Duration = Duration::from_secs(30);
/// How often who is at work writes.
const RENEW: Duration = Duration::from_secs(5);
/// How often to look whether others have ended, and for how long.
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);

/// What is written while somebody is at work.
const AT_WORK: &[u8] = b"at work";

pub(super) fn alone(store: &S3Store, name: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let folder = format!("{}{OWN}/alone/{name}", store.prefix);
    let at = || format!("be alone at `{name}` in `{}`", store.name);
    let begun = Instant::now();
    let key = loop {
        match enter(store, &folder).map_err(|error| store.failed(at(), &error))? {
            Some(key) => break key,
            None if begun.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            None => return Err(Error::unavailable(at(), "others do not end")),
        }
    };
    let write = |bytes: &'static [u8]| {
        let (bucket, key) = (store.bucket.clone(), key.clone());
        store.run(0, 0, async move { bucket.put(&key, PutPayload::from_static(bytes)).await })
    };
    let done = std::thread::scope(|scope| {
        let (end, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = write(AT_WORK) {
                    tracing::debug!(%error, "cannot renew that this process is alone");
                }
            }
        });
        let done = work();
        drop(end);
        done
    });
    if let Err(error) = write(b"") {
        tracing::warn!(%error, "cannot say that this process is done; others wait for {} s", GONE.as_secs());
    }
    done
}

/// Creates the object of the next number if nobody is at work; `None` if somebody is.
fn enter(store: &S3Store, folder: &str) -> object_store::Result<Option<Path>> {
    let found = numbers(store, folder)?;
    if let Some((_, size, written_ms)) = found.last()
        && *size > 0
        && store.stamp_ms()?.saturating_sub(*written_ms) < GONE.as_millis() as i64
    {
        return Ok(None);
    }
    let next = found.last().map_or(1, |(number, ..)| number + 1);
    let key = key(folder, next);
    let (bucket, own) = (store.bucket.clone(), key.clone());
    let options = PutOptions::from(PutMode::Create);
    match store.run(0, 0, async move { bucket.put_opts(&own, PutPayload::from_static(AT_WORK), options).await }) {
        Ok(_) => {}
        Err(S3Error::AlreadyExists { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    // One who has slept while others came and went finds a number free that was used before.
    let found = numbers(store, folder)?;
    if found.last().is_some_and(|(number, ..)| *number > next) {
        return Ok(None);
    }
    for (number, ..) in found.iter().filter(|(number, ..)| *number < next) {
        let (bucket, old) = (store.bucket.clone(), self::key(folder, *number));
        store.run(0, 0, async move { super::delete_one(&bucket, &old).await })?;
    }
    Ok(Some(key))
}

fn key(folder: &str, number: u64) -> Path {
    Path::from(format!("{folder}/{number:020}"))
}

/// Number, size and time of writing (ms since the epoch), rising.
fn numbers(store: &S3Store, folder: &str) -> object_store::Result<Vec<(u64, u64, i64)>> {
    let of_object = |object: object_store::ObjectMeta| {
        let number = object.location.filename()?.parse().ok()?;
        Some((number, object.size, object.last_modified.timestamp_millis()))
    };
    let mut found: Vec<(u64, u64, i64)> =
        store.under(&format!("{folder}/"))?.into_iter().filter_map(of_object).collect();
    found.sort_unstable();
    Ok(found)
}
