//! Avro and Protobuf records, with the schemas of a Confluent-compatible registry.
//!
//! A record says which schema it was written with ([`wire`]); the schema comes from the registry ([`registry`], the
//! only part that speaks to the network) and is bound once to the fields the source declares ([`avro`],
//! [`protobuf`]): by name, what is missing is null, what nobody declared is passed over. After that a record goes from its
//! bytes straight into the columns, by the same rules as JSON ([`row`]).
//!
//! The crates of Avro and Protobuf read the schemas. The records are read here: that costs no tree of values, and what
//! a hostile record may cost is bounded by its length.

mod avro;
mod decoder;
mod protobuf;
mod row;
mod wire;

pub mod registry;
pub mod settings;

pub use decoder::Formats;
pub use registry::{Registry, RegistrySchema, SchemaKind};
pub use settings::{FormatSettings, RecordFormat, RegistrySettings};

#[cfg(test)]
mod tests;
