//! Avro and Protobuf records, with the schemas of a Confluent-compatible registry.
