//! Where answers and history are kept: `[online]` and `[offline]`.

use super::check::{duration_within, http_url};
use super::raw::RawTable;
use super::{Compaction, OfflineSettings, OnlineSettings, SNAPSHOTS};
use crate::{Error, Result};
use plumb_online_redis::RedisSettings;
use plumb_pipeline::Secret;
use plumb_store_object::S3Settings;
use std::time::Duration;

/// The most buckets of an entity's keys: as many as a Cluster has slots.
const MAX_BUCKETS: u32 = 16_384;

/// The most connections to a Redis.
const MAX_CONNECTIONS: u32 = 1_024;

/// How long something asked of a Redis may take: a round trip within a data centre, and the patience of an operator.
const REDIS_TIMEOUT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(300));

/// How long unused files may be kept. A backfill's own are unused until it ends: less than the least may take one
/// from under it.
const KEEP_REPLACED: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(365 * 86_400));

pub(super) fn online(mut raw: RawTable) -> Result<OnlineSettings> {
    let parsed = raw.text("url", None, |url| match url {
        "embedded" => Ok(None),
        _ if ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://"].iter().any(|s| url.starts_with(s)) => {
            Ok(Some((url.to_owned(), RedisSettings::parse(url)?)))
        }
        _ => Err("write \"embedded\", \"redis://host:port\" or \"redis+cluster://host:port\"".to_owned()),
    })?;
    let defaults = RedisSettings::parse("redis://localhost").map_err(Error::internal)?;
    let namespace = raw.text("namespace", defaults.namespace.clone(), namespace)?;
    let tls_ca = raw.optional_path("tls_ca")?;
    let connections = raw.integer("connections", defaults.connections, (1, MAX_CONNECTIONS))?;
    let buckets = raw.integer("buckets", defaults.buckets, (1, MAX_BUCKETS))?;
    let connect_timeout = raw.text("connect_timeout", defaults.connect_timeout, duration_within(REDIS_TIMEOUT))?;
    let read_timeout = raw.text("read_timeout", defaults.read_timeout, duration_within(REDIS_TIMEOUT))?;
    let write_timeout = raw.text("write_timeout", defaults.write_timeout, duration_within(REDIS_TIMEOUT))?;
    let Some((url, redis)) = parsed else {
        let set = [
            ("namespace", namespace != defaults.namespace),
            ("tls_ca", tls_ca.is_some()),
            ("connections", connections != defaults.connections),
            ("buckets", buckets != defaults.buckets),
            ("connect_timeout", connect_timeout != defaults.connect_timeout),
            ("read_timeout", read_timeout != defaults.read_timeout),
            ("write_timeout", write_timeout != defaults.write_timeout),
        ];
        raw.refuse_set(&set, || {
            format!("is a key of an online store in Redis, but {} = \"embedded\"", raw.path("url"))
        })?;
        raw.finish()?;
        return Ok(OnlineSettings { url: Secret::new("embedded"), redis: None });
    };
    if tls_ca.is_some() && !redis.tls {
        return Err(raw.refuse(
            "tls_ca",
            format!("is set, but {} does not use TLS: begin it with rediss:// or rediss+cluster://", raw.path("url")),
        ));
    }
    raw.finish()?;
    Ok(OnlineSettings {
        url: Secret::new(url),
        redis: Some(RedisSettings {
            namespace,
            tls_ca,
            connections,
            buckets,
            connect_timeout,
            read_timeout,
            write_timeout,
            ..redis
        }),
    })
}

fn namespace(text: &str) -> Result<String, &'static str> {
    let letter = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    let good = (1..=64).contains(&text.len()) && text.bytes().all(letter);
    good.then(|| text.to_owned()).ok_or("a namespace is 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`")
}

pub(super) fn offline(mut raw: RawTable, data_dir: &str, defaults: OfflineSettings) -> Result<OfflineSettings> {
    let under_data_dir = format!("file:{}/offline", data_dir.trim_end_matches('/'));
    let (url, s3) = raw.text("url", (under_data_dir, None), |url| match url.strip_prefix("file:") {
        Some("") => Err("names no folder: write \"file:DIR\"".to_owned()),
        // `file:///x` is the folder /x.
        Some(dir) => Ok((format!("file:{}", dir.strip_prefix("//").unwrap_or(dir)), None)),
        None if url.starts_with("s3://") => Ok((url.to_owned(), Some(S3Settings::parse(url)?))),
        None => Err("write \"file:DIR\" or \"s3://bucket/prefix\"".to_owned()),
    })?;
    let snapshots = raw.word("snapshots", defaults.snapshots, &SNAPSHOTS)?;
    let compaction = raw.word("compaction", defaults.compaction, &Compaction::ALL)?;
    let keep_replaced = raw.text("keep_replaced", defaults.keep_replaced, duration_within(KEEP_REPLACED))?;
    let endpoint = raw.text("endpoint", None, |url| match url {
        "" => Ok(None),
        _ => http_url(url).map(Some),
    })?;
    let region = raw.optional("region")?;
    let access_key = raw.optional("access_key")?;
    let secret_key = raw.secret("secret_key")?;
    let allow_http = raw.bool("allow_http", false)?;
    let Some(s3) = s3 else {
        let set = [
            ("endpoint", endpoint.is_some()),
            ("region", region.is_some()),
            ("access_key", access_key.is_some()),
            ("secret_key", secret_key.is_some()),
            ("allow_http", allow_http),
        ];
        raw.refuse_set(&set, || format!("is a key of an offline store in S3, but {} is \"{url}\"", raw.path("url")))?;
        raw.finish()?;
        return Ok(OfflineSettings { url, s3: None, snapshots, compaction, keep_replaced });
    };
    match (&access_key, &secret_key) {
        (Some(_), None) => return Err(raw.refuse("access_key", format!("needs {} too", raw.path("secret_key")))),
        (None, Some(_)) => return Err(raw.refuse("secret_key", format!("needs {} too", raw.path("access_key")))),
        _ => {}
    }
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) && !allow_http {
        return Err(raw.refuse(
            "endpoint",
            format!("is not encrypted: write https://, or set {} = true", raw.path("allow_http")),
        ));
    }
    raw.finish()?;
    let s3 = S3Settings { endpoint, region, access_key, secret_key, allow_http, ..s3 };
    Ok(OfflineSettings { url, s3: Some(s3), snapshots, compaction, keep_replaced })
}
