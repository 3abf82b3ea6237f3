//! The stores that settings name.

use crate::settings::Settings;
use crate::{Error, Result};
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
        Some(_) => Err(Error::invalid("online.url: this build has no online store in Redis")),
        None => Ok(None),
    }
}
