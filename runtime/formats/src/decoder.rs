//! The decoders of a source's partitions.

use crate::avro;
use crate::protobuf::{self, Messages};
use crate::registry::{Registry, SchemaKind};
use crate::row::Rows;
use crate::settings::{FormatSettings, RecordFormat};
use crate::wire::{message_path, split_schema};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::json::RECORD_BYTES_MAX;
use plumb_pipeline::decode::{JsonDecoder, Record, RecordDecoder, TimeUnit};
use plumb_pipeline::port::{Rejected, SourceBatch};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many writers' schemas a decoder keeps bound.
const BOUND_MAX: usize = 1_024;

/// Makes the decoders of one source.
#[derive(Debug, Clone)]
pub struct Formats {
    settings: FormatSettings,
    registry: Option<Registry>,
    schema: Arc<SourceSchema>,
    unit: TimeUnit,
    rules: AcceptRules,
}

impl Formats {
    /// Decoders for records of `settings.format` to batches of `schema`; integer instants are of `unit`. A record that
    /// `rules` refuses is refused with its own bytes. Asks the registry nothing yet.
    pub fn new(
        settings: &FormatSettings,
        schema: Arc<SourceSchema>,
        unit: TimeUnit,
        rules: AcceptRules,
    ) -> Result<Self> {
        let registry = match (&settings.registry, settings.format) {
            (None, RecordFormat::Avro | RecordFormat::Protobuf) => {
                let format = settings.format.name();
                return Err(Error::invalid(format!("format = \"{format}\" needs the address of a schema registry")));
            }
            (registry, _) => registry.as_ref().map(Registry::new).transpose()?,
        };
        Ok(Self { settings: settings.clone(), registry, schema, unit, rules })
    }

    /// The decoder of a partition. What one learns from the registry the others know too.
    pub fn decoder(&self) -> Box<dyn RecordDecoder> {
        match (&self.registry, self.settings.format) {
            (Some(registry), format @ (RecordFormat::Avro | RecordFormat::Protobuf)) => Box::new(RegistryDecoder {
                registry: registry.clone(),
                format,
                message: self.settings.message.clone(),
                rows: Rows::new(self.schema.clone(), self.unit, self.rules),
                writers: BTreeMap::new(),
            }),
            _ => Box::new(JsonDecoder::new(self.schema.clone(), self.unit).with_rules(self.rules)),
        }
    }
}

/// A writer's schema as this source reads it.
enum Writer {
    Avro(avro::Plan),
    /// With the messages bound so far, by index.
    Protobuf(Messages, BTreeMap<Vec<usize>, Result<protobuf::Plan, String>>),
    /// Why records of it cannot be read.
    Unreadable(String),
}

/// Decodes records whose schemas are in a registry.
struct RegistryDecoder {
    registry: Registry,
    format: RecordFormat,
    message: Option<String>,
    rows: Rows,
    writers: BTreeMap<u32, Writer>,
}

/// Why a record is not in the batch.
enum Failure {
    Rejected(String),
    Later(Error),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure::Rejected(reason)
    }
}

impl RecordDecoder for RegistryDecoder {
    fn decode_into(&mut self, batch: &mut SourceBatch, record: Record<'_>) -> Result<()> {
        let rows = batch.events.len();
        let reason = match self.decode(&mut batch.events, record) {
            Ok(()) => None,
            Err(Failure::Rejected(reason)) => Some(reason),
            Err(Failure::Later(error)) => return Err(error),
        };
        if let Some(reason) = reason {
            batch.events.columns.iter_mut().for_each(|column| column.truncate(rows));
            let Record { offset, record_time_us, bytes } = record;
            batch.rejected.push(Rejected { offset, record_time_us, bytes: bytes.to_vec(), reason });
        }
        batch.next_offset = record.offset + 1;
        Ok(())
    }
}

impl RegistryDecoder {
    /// Adds a row. After a rejection some columns may be a row longer.
    fn decode(&mut self, batch: &mut EventBatch, record: Record<'_>) -> Result<(), Failure> {
        let length = record.bytes.len();
        if length > RECORD_BYTES_MAX {
            return Err(format!("a record of {length} bytes is longer than {RECORD_BYTES_MAX}").into());
        }
        let (id, mut input) = split_schema(record.bytes)?;
        if !self.writers.contains_key(&id) {
            let writer = self.writer(id).map_err(Failure::Later)?;
            let Some(writer) = writer else {
                return Err(format!("schema {id} is unknown to the registry").into());
            };
            if self.writers.len() >= BOUND_MAX {
                self.writers.clear();
            }
            self.writers.insert(id, writer);
        }
        let Some(writer) = self.writers.get_mut(&id) else {
            return Err(Failure::Later(Error::internal("a schema was bound and is gone")));
        };
        let of_schema = |why: &String| format!("schema {id}: {why}");
        self.rows.begin();
        match writer {
            Writer::Avro(plan) => plan.read(&mut self.rows, batch, input)?,
            Writer::Protobuf(messages, plans) => {
                let path = message_path(&mut input)?;
                if !plans.contains_key(&path) && plans.len() >= BOUND_MAX {
                    plans.clear();
                }
                let rows = &self.rows;
                let bind = |path: &Vec<usize>| messages.bind(path, self.message.as_deref(), rows);
                let plan = plans.entry(path).or_insert_with_key(bind);
                plan.as_ref().map_err(of_schema)?.read(&mut self.rows, batch, input)?;
            }
            Writer::Unreadable(why) => return Err(of_schema(why).into()),
        }
        Ok(self.rows.finish(batch, record.offset, record.record_time_us)?)
    }

    /// Asks for a schema and binds it; `None` if the registry does not know it.
    fn writer(&self, id: u32) -> Result<Option<Writer>> {
        let Some(schema) = self.registry.schema(id)? else { return Ok(None) };
        let bound = match (self.format, schema.kind) {
            (RecordFormat::Avro, SchemaKind::Avro) => avro::Plan::new(&schema, &self.rows).map(Writer::Avro),
            (RecordFormat::Protobuf, SchemaKind::Protobuf) => {
                Messages::new(&schema).map(|messages| Writer::Protobuf(messages, BTreeMap::new()))
            }
            (format, _) => Err(format!("it is not of format \"{}\"", format.name())),
        };
        Ok(Some(bound.unwrap_or_else(Writer::Unreadable)))
    }
}
