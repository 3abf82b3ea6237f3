//! The offline store: archive, snapshots and training sets as Parquet
