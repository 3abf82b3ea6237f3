//! Objects in a bucket of S3 or of a server that speaks its protocol.
//!
//! Every call blocks and ends by its deadline; what a server may mend is tried again a few times before. An object
//! is there whole or not at all, as S3 promises. `create` needs a server that honours `If-None-Match: *`, which is
//! tried when the store is opened: one that ignores it would let two owners commit the same manifest.

mod alone;

use crate::path;
use crate::settings::S3Settings;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CopyOptions, Error as S3Error, GetOptions, GetRange, ObjectMeta,
    ObjectStore as Bucket, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
};
use plumb_core::ErrorKind;
use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::{Error, Result};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How long a call may take whatever its size.
const DEADLINE: Duration = Duration::from_secs(20);
/// On top of that, per object of a call and per MiB of it.
const DEADLINE_PER_OBJECT: Duration = Duration::from_millis(500);
const DEADLINE_PER_MIB: Duration = Duration::from_secs(1);
/// Requests in flight of one call.
const REQUESTS: usize = 32;
/// Larger objects are written and read in parts of [`PART`] bytes.
const LARGE: usize = 16 << 20;
const PART: usize = 8 << 20;
/// Parts of one object in flight.
const PARTS: usize = 4;
/// How often a create that met another one in flight is tried again.
const CREATE_TRIES: u32 = 6;
/// Objects of the store itself, which no listing shows.
const OWN: &str = path::OWN_FOLDER;

/// An object store in a bucket. Any number of processes may share one.
pub struct S3Store {
    bucket: Arc<AmazonS3>,
    /// Folder in the bucket, with a slash at the end unless empty.
    prefix: String,
    /// For messages: `s3://bucket/prefix`.
    name: String,
    bucket_name: String,
    /// `None` only while dropping.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // A store may be dropped where waiting for threads is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Store {
    /// Opens a bucket and makes sure that it can be written, and that a create fails where an object exists.
    pub fn open(settings: &S3Settings) -> Result<Self> {
        let store = Self::unchecked(settings)?;
        store.probe().map_err(|error| match error.kind() {
            // A wrong key or bucket does not mend itself.
            ErrorKind::Unavailable if is_setting(&error) => Error::invalid(error.to_string()),
            _ => error,
        })?;
        Ok(store)
    }

    fn unchecked(settings: &S3Settings) -> Result<Self> {
        // Fails if the process has chosen one already, which is as good.
        let _chosen = rustls::crypto::ring::default_provider().install_default();
        let name = match settings.prefix.as_str() {
            "" => format!("s3://{}", settings.bucket),
            prefix => format!("s3://{}/{prefix}", settings.bucket),
        };
        let client = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_timeout(Duration::from_secs(15))
            .with_allow_http(settings.allow_http);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 4,
            retry_timeout: Duration::from_secs(10),
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&settings.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every server knows it, and it hides the failure of a single object in an answer of success.
            .with_disable_bulk_delete(true)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(access_key) = &settings.access_key {
            builder = builder.with_access_key_id(access_key);
        }
        if let Some(secret_key) = &settings.secret_key {
            builder = builder.with_secret_access_key(secret_key.reveal());
        }
        let bucket = builder.build().map_err(|error| Error::invalid(format!("offline store `{name}`: {error}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("plumb-s3")
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable("start the threads of the S3 client", error))?;
        let prefix = if settings.prefix.is_empty() { String::new() } else { format!("{}/", settings.prefix) };
        let bucket_name = settings.bucket.clone();
        Ok(Self { bucket: Arc::new(bucket), prefix, name, bucket_name, runtime: Some(runtime) })
    }

    /// Creates an object twice: the second time must fail.
    fn probe(&self) -> Result<()> {
        let key = self.own_key("probe");
        let at = || format!("open `{}`", self.name);
        let put = |bytes: &'static [u8]| {
            let options = PutOptions::from(PutMode::Create);
            let (bucket, key) = (self.bucket.clone(), key.clone());
            self.run(0, 0, async move { bucket.put_opts(&key, PutPayload::from_static(bytes), options).await })
        };
        put(b"1").map_err(|error| self.failed(at(), &error))?;
        let again = put(b"2");
        let (bucket, probe) = (self.bucket.clone(), key.clone());
        self.run(0, 0, async move { bucket.delete(&probe).await }).map_err(|error| self.failed(at(), &error))?;
        match again {
            Err(S3Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(Error::invalid(format!(
                "offline store `{}`: the server overwrites an object that was to be created only if it is absent \
                 (it ignores If-None-Match); two processes could commit the same partition. Use a server that \
                 supports conditional writes",
                self.name
            ))),
            Err(error) => Err(self.failed(at(), &error)),
        }
    }

    /// A key of the store's own that nobody else uses.
    fn own_key(&self, what: &str) -> Path {
        let random = RandomState::new().build_hasher().finish();
        Path::from(format!("{}{OWN}/{what}-{random:016x}", self.prefix))
    }

    fn key(&self, path: &str) -> Result<Path> {
        path::check(path)?;
        Path::parse(format!("{}{path}", self.prefix))
            .map_err(|error| Error::invalid(format!("object path `{}`: {error}", path.escape_debug())))
    }

    /// Waits for a call on `objects` objects of `bytes` bytes in all, until its deadline.
    fn run<T>(
        &self,
        objects: usize,
        bytes: u64,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let objects = u32::try_from(objects).unwrap_or(u32::MAX);
        let deadline = DEADLINE
            .saturating_add(DEADLINE_PER_OBJECT.saturating_mul(objects))
            .saturating_add(DEADLINE_PER_MIB.saturating_mul(mib));
        let runtime = self.runtime.as_ref().expect("the runtime is taken away only while dropping");
        runtime.block_on(async {
            match tokio::time::timeout(deadline, call).await {
                Ok(done) => done,
                Err(_) => Err(other(format!("no answer within {} s", deadline.as_secs()))),
            }
        })
    }

    /// What an error of the bucket means.
    fn failed(&self, what: String, error: &S3Error) -> Error {
        let text = chain(error);
        let (code, message) = (tag(&text, "Code"), tag(&text, "Message"));
        let why = match error {
            _ if is_no_bucket(error) => format!("bucket `{}` does not exist", self.bucket_name),
            S3Error::PermissionDenied { .. } | S3Error::Unauthenticated { .. } => {
                let detail = code.map(|code| format!(" ({code})")).unwrap_or_default();
                format!("access denied{detail}: the access key is wrong or may not do this")
            }
            _ => match (code, message) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                (Some(code), None) => code.to_owned(),
                _ => root_cause(error),
            },
        };
        Error::unavailable(what, Failure { why, setting: is_setting_error(error) })
    }

    fn at(&self, what: &str, path: &str) -> String {
        format!("{what} `{}/{path}`", self.name)
    }

    async fn put_one(bucket: Arc<AmazonS3>, key: Path, bytes: Vec<u8>) -> object_store::Result<()> {
        if bytes.len() <= LARGE {
            return bucket.put(&key, bytes.into()).await.map(drop);
        }
        let bytes = bytes::Bytes::from(bytes);
        let mut upload = bucket.put_multipart_opts(&key, PutMultipartOptions::default()).await?;
        let mut parts = JoinSet::new();
        let mut sent = Ok(());
        for start in (0..bytes.len()).step_by(PART) {
            if parts.len() >= PARTS {
                sent = joined(parts.join_next().await);
                if sent.is_err() {
                    break;
                }
            }
            let part = bytes.slice(start..bytes.len().min(start + PART));
            parts.spawn(upload.put_part(part.into()));
        }
        while sent.is_ok() && !parts.is_empty() {
            sent = joined(parts.join_next().await);
        }
        match sent {
            Ok(()) => upload.complete().await.map(drop),
            Err(error) => {
                parts.shutdown().await;
                // What is left of it costs room until the bucket's own rule removes it.
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "cannot abort an upload");
                }
                Err(error)
            }
        }
    }

    async fn move_one(bucket: Arc<AmazonS3>, from: Path, to: Path) -> object_store::Result<()> {
        copy_one(&bucket, &from, &to).await?;
        delete_one(&bucket, &from).await
    }

    /// Does something to many objects at once; the first error, when all that were begun are done.
    fn each<I: Send + 'static, F>(
        &self,
        what: &str,
        items: Vec<I>,
        bytes: u64,
        call: impl Fn(Arc<AmazonS3>, I) -> F,
    ) -> Result<()>
    where
        F: Future<Output = object_store::Result<()>> + Send + 'static,
    {
        let count = items.len();
        let done = self.run(count, bytes, async {
            let mut calls = JoinSet::new();
            let mut result = Ok(());
            for item in items {
                if calls.len() >= REQUESTS {
                    result = result.and(joined(calls.join_next().await));
                }
                if result.is_err() {
                    break;
                }
                calls.spawn(call(self.bucket.clone(), item));
            }
            while !calls.is_empty() {
                result = result.and(joined(calls.join_next().await));
            }
            result
        });
        done.map_err(|error| match error {
            S3Error::NotFound { path, .. } if !is_no_bucket(&error) => {
                Error::internal(format!("cannot {what} `s3://{}/{path}`: it does not exist", self.bucket_name))
            }
            error => self.failed(format!("{what} {count} objects of `{}`", self.name), &error),
        })
    }

    fn pairs(&self, moves: &[(String, String)]) -> Result<Vec<(Path, Path)>> {
        moves.iter().map(|(from, to)| Ok((self.key(from)?, self.key(to)?))).collect()
    }

    fn head(&self, key: &Path) -> object_store::Result<ObjectMeta> {
        let (bucket, key) = (self.bucket.clone(), key.clone());
        self.run(0, 0, async move { bucket.head(&key).await })
    }

    /// Everything under a folder, in order.
    fn objects(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>> {
        let folder = folder.strip_suffix('/').unwrap_or(folder);
        let prefix = match folder {
            "" => self.prefix.clone(),
            folder => {
                path::check(folder)?;
                format!("{}{folder}/", self.prefix)
            }
        };
        let mut found = Vec::new();
        for object in self.under(&prefix).map_err(|error| self.failed(self.at("list", folder), &error))? {
            let Some(path) = object.location.as_ref().strip_prefix(&self.prefix) else { continue };
            let own = path.strip_prefix(OWN).is_some_and(|rest| rest.starts_with('/'));
            if !own {
                found.push((path.to_owned(), object));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Everything whose key begins with a prefix.
    fn under(&self, prefix: &str) -> object_store::Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions { page_token, ..PaginatedListOptions::default() };
            let asked = (!prefix.is_empty()).then_some(prefix);
            let page = self.run(0, 0, self.bucket.list_paginated(asked, options))?;
            found.extend(page.result.objects);
            page_token = page.page_token;
            if page_token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The store's own time, in ms since the epoch: what it stamps an object with that is written now.
    fn now_ms(&self) -> Result<i64> {
        self.stamp_ms().map_err(|error| self.failed(format!("ask `{}` for its time", self.name), &error))
    }

    fn stamp_ms(&self) -> object_store::Result<i64> {
        let key = self.own_key("clock");
        let bucket = self.bucket.clone();
        let stamped = self.run(0, 0, async move {
            bucket.put(&key, PutPayload::from_static(b"")).await?;
            let stamped = bucket.head(&key).await;
            delete_one(&bucket, &key).await?;
            stamped
        });
        Ok(stamped?.last_modified.timestamp_millis())
    }

    fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<Option<Vec<u8>>> {
        let key = self.key(path)?;
        let bucket = self.bucket.clone();
        let size = range.as_ref().map_or(LARGE as u64, |range| range.end.saturating_sub(range.start));
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let get = async {
            let found = bucket.get_opts(&key, options).await?;
            match found.meta.size {
                size if size > LARGE as u64 && range.is_none() => Ok(Err(size)),
                _ => Ok(Ok(Vec::from(found.bytes().await?))),
            }
        };
        let size = match self.run(0, size, get) {
            Ok(Ok(bytes)) => return Ok(Some(bytes)),
            Ok(Err(size)) => size,
            Err(error @ S3Error::NotFound { .. }) if !is_no_bucket(&error) => return Ok(None),
            Err(error) => {
                // A range that begins at the end of an object or behind it is refused, not empty.
                return match (range, self.head(&key)) {
                    (Some(range), Ok(meta)) if range.start >= meta.size => Ok(Some(Vec::new())),
                    _ => Err(self.failed(self.at("read", path), &error)),
                };
            }
        };
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Error::internal("an object beyond memory"))?];
        let parts = self.run(0, size, async {
            let mut calls = JoinSet::new();
            let mut parts = Vec::new();
            for start in (0..size).step_by(PART) {
                if calls.len() >= PARTS
                    && let Some(part) = calls.join_next().await
                {
                    parts.push(part.map_err(S3Error::from)??);
                }
                let (bucket, key, range) = (bucket.clone(), key.clone(), start..size.min(start + PART as u64));
                calls.spawn(async move { Ok::<_, S3Error>((start, bucket.get_range(&key, range).await?)) });
            }
            while let Some(part) = calls.join_next().await {
                parts.push(part.map_err(S3Error::from)??);
            }
            Ok(parts)
        });
        for (start, part) in parts.map_err(|error| self.failed(self.at("read", path), &error))? {
            let start = start as usize;
            match bytes.get_mut(start..start + part.len()) {
                Some(place) => place.copy_from_slice(&part),
                None => return Err(Error::internal(format!("`{path}` has changed its size while it was read"))),
            }
        }
        Ok(Some(bytes))
    }
}

impl ObjectStore for S3Store {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let key = self.key(path)?;
        let payload = PutPayload::from(bytes.to_vec());
        let bucket = self.bucket.clone();
        let created = self.run(0, bytes.len() as u64, async {
            for attempt in 0..CREATE_TRIES {
                match bucket.put_opts(&key, payload.clone(), PutOptions::from(PutMode::Create)).await {
                    Ok(_) => return Ok(true),
                    Err(S3Error::AlreadyExists { .. }) => {}
                    Err(error) => return Err(error),
                }
                // Also the answer to two creates at once, of which the other may yet fail.
                match bucket.head(&key).await {
                    Ok(_) => return Ok(false),
                    Err(S3Error::NotFound { .. }) => tokio::time::sleep(Duration::from_millis(50 << attempt)).await,
                    Err(error) => return Err(error),
                }
            }
            Err(other("other creates of it come and go".to_owned()))
        });
        created.map_err(|error| self.failed(self.at("create", path), &error))
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let (key, size) = (self.key(path)?, bytes.len() as u64);
        self.run(0, size, Self::put_one(self.bucket.clone(), key, bytes))
            .map_err(|error| self.failed(self.at("write", path), &error))
    }

    fn put_all(&self, objects: Vec<(String, Vec<u8>)>) -> Result<()> {
        let bytes = objects.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let objects = objects
            .into_iter()
            .map(|(path, bytes)| Ok((self.key(&path)?, bytes)))
            .collect::<Result<Vec<(Path, Vec<u8>)>>>()?;
        self.each("write", objects, bytes, |bucket, (key, bytes)| Self::put_one(bucket, key, bytes))
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.read(path, None)
    }

    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        if range.is_empty() {
            let key = self.key(path)?;
            return match self.head(&key) {
                Ok(_) => Ok(Some(Vec::new())),
                Err(error @ S3Error::NotFound { .. }) if !is_no_bucket(&error) => Ok(None),
                Err(error) => Err(self.failed(self.at("read", path), &error)),
            };
        }
        self.read(path, Some(range))
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        Ok(self.objects(folder)?.into_iter().map(|(path, object)| (path, object.size)).collect())
    }

    fn ages(&self, folder: &str) -> Result<Vec<(String, Duration)>> {
        let objects = self.objects(folder)?;
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        // Asked after the listing, but compared with stamps from before it: nothing looks older than it is but by
        // the time the listing took.
        let now_ms = self.now_ms()?;
        let age = |object: &ObjectMeta| {
            let ms = now_ms.saturating_sub(object.last_modified.timestamp_millis());
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        };
        Ok(objects.iter().map(|(path, object)| (path.clone(), age(object))).collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_all(&[(from.to_owned(), to.to_owned())])
    }

    /// A copy by the server and a delete. A mover that dies in between leaves both, and the next one finishes.
    fn rename_all(&self, moves: &[(String, String)]) -> Result<()> {
        self.each("move", self.pairs(moves)?, 0, |bucket, (from, to)| Self::move_one(bucket, from, to))
    }

    /// Everything that can be done unseen is done before and after: between the new objects and the end of the old
    /// ones lie the deletes alone.
    fn swap(&self, appear: &[(String, String)], vanish: &[(String, String)]) -> Result<()> {
        let (appear, vanish) = (self.pairs(appear)?, self.pairs(vanish)?);
        self.each("move", vanish.clone(), 0, |bucket, (from, to)| async move {
            match bucket.copy_opts(&from, &to, CopyOptions::default()).await {
                // Gone already.
                Err(error @ S3Error::NotFound { .. }) if !is_no_bucket(&error) => Ok(()),
                copied => copied,
            }
        })?;
        self.each("move", appear.clone(), 0, |bucket, (from, to)| async move { copy_one(&bucket, &from, &to).await })?;
        self.each("delete", vanish, 0, |bucket, (from, _)| async move { delete_one(&bucket, &from).await })?;
        self.each("delete", appear, 0, |bucket, (from, _)| async move { delete_one(&bucket, &from).await })
    }

    fn delete(&self, path: &str) -> Result<()> {
        let key = self.key(path)?;
        let bucket = self.bucket.clone();
        self.run(0, 0, async move { delete_one(&bucket, &key).await })
            .map_err(|error| self.failed(self.at("delete", path), &error))
    }

    fn delete_all(&self, paths: &[String]) -> Result<()> {
        let keys = paths.iter().map(|path| self.key(path)).collect::<Result<Vec<Path>>>()?;
        self.each("delete", keys, 0, |bucket, key| async move { delete_one(&bucket, &key).await })
    }

    fn alone(&self, name: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        path::check(name)?;
        alone::alone(self, name, work)
    }

    fn local_path(&self, _: &str) -> Option<std::path::PathBuf> {
        None
    }
}

/// Copies within the bucket; fine if the object is gone because it was moved before.
async fn copy_one(bucket: &AmazonS3, from: &Path, to: &Path) -> object_store::Result<()> {
    match bucket.copy_opts(from, to, CopyOptions::default()).await {
        Err(error @ S3Error::NotFound { .. }) if !is_no_bucket(&error) => match bucket.head(to).await {
            Ok(_) => Ok(()),
            Err(S3Error::NotFound { .. }) => Err(error),
            Err(error) => Err(error),
        },
        copied => copied,
    }
}

async fn delete_one(bucket: &AmazonS3, key: &Path) -> object_store::Result<()> {
    match bucket.delete(key).await {
        Err(error @ S3Error::NotFound { .. }) if !is_no_bucket(&error) => Ok(()),
        deleted => deleted,
    }
}

fn joined<T>(
    done: Option<std::result::Result<object_store::Result<T>, tokio::task::JoinError>>,
) -> object_store::Result<()> {
    match done {
        Some(Ok(result)) => result.map(drop),
        Some(Err(error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// Why a call failed.
#[derive(Debug)]
struct Failure {
    why: String,
    /// Whether a setting is to blame.
    setting: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Failure {}

fn is_setting(error: &Error) -> bool {
    match error {
        Error::Unavailable { source, .. } => source.downcast_ref::<Failure>().is_some_and(|failure| failure.setting),
        _ => false,
    }
}

fn is_setting_error(error: &S3Error) -> bool {
    is_no_bucket(error) || matches!(error, S3Error::PermissionDenied { .. } | S3Error::Unauthenticated { .. })
}

fn is_no_bucket(error: &S3Error) -> bool {
    matches!(error, S3Error::NotFound { .. } | S3Error::Generic { .. }) && chain(error).contains("NoSuchBucket")
}

fn other(why: String) -> S3Error {
    S3Error::Generic { store: "S3", source: why.into() }
}

/// An error with all its causes.
fn chain(error: &S3Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The last cause, and whose request it was.
fn root_cause(error: &S3Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What an answer in XML says under a name.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inside, _)| inside)
}
