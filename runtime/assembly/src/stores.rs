//! The stores that settings name.

use crate::Result;
use crate::settings::Settings;
use plumb_online_redis::RedisOnline;
use plumb_pipeline::port::{ObjectStore, OnlineStore};
use std::sync::Arc;

/// The offline store: archive, manifests and state.
pub fn offline(settings: &Settings) -> Result<Arc<dyn ObjectStore>> {
    match &settings.offline.s3 {
        Some(s3) => plumb_store_object::open_s3(s3),
        None => plumb_store_object::open(&settings.offline.url),
    }
}

/// The online store that several processes share; `None` if it is the embedded one.
pub fn shared_online(settings: &Settings) -> Result<Option<Arc<dyn OnlineStore>>> {
    match &settings.online.redis {
        Some(redis) => Ok(Some(RedisOnline::open(redis.clone())?)),
        None => Ok(None),
    }
}
