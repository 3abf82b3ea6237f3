//! The online store in Redis, a single server or a Cluster.

pub mod settings;

pub use settings::RedisSettings;
