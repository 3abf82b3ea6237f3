//! The online store in Redis, a single server or a Cluster.
//!
//! An entity of a state is a hash `plumb:<namespace>:{<entity>/<bucket>}:<source>:<state id>:<key>` with fields per
//! source partition: `h<partition>` for the header, `t<partition>:<start>` for a tile. A *mark* says who owns a
//! partition and up to where it is written (see `scripts`): one per source and partition for the whole
//! (`plumb:<ns>:{_positions/0}:<source>`), in a Cluster also one per tag (`plumb:<ns>:{<entity>/<bucket>}:_at`),
//! because a script there reaches one hash slot only.
//!
//! **Single server**: a publish is one script that checks the mark, writes and moves it; a read is one transaction.
//!
//! **Cluster**: a publish writes tag by tag, each with its mark, and the mark of the whole last. So everything below
//! the whole's position is everywhere, and a tag whose mark is higher holds a publish that is under way: its entities
//! are `ahead` by themselves. A tag without a mark was lost; a partition gets its tags of an entity when it first writes
//! one, which the worker does before readers ask (the mark that a state is complete is such a write). A read asks for the whole's mark first, then for the
//! tags: what is found then is never older than the position.
//!
//! This process remembers the marks it has written. A store that holds an older one has lost something (a replica
//! took over without the last writes), one that holds a later one has executed a write whose reply was lost.

mod fault;
mod key;
mod net;
mod pool;
mod probe;
mod read;
mod resp;
mod scripts;
pub mod settings;
mod store;
mod topology;
mod write;

pub use settings::RedisSettings;
pub use store::RedisOnline;
