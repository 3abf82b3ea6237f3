//! Protobuf: a message bound to the declared fields, and records read by it.
//!
//! Bound by name. Enums are their symbols in a `string` field and their numbers in an `i64` field;
//! `google.protobuf.Timestamp` is an instant, the wrappers (`google.protobuf.DoubleValue`, …) are what they wrap.
//! Other messages, maps and repeated fields are for no declared field; as fields nobody declared they are passed over.
//!
//! What is absent: a field with presence (`optional`, of a `oneof`, proto2, a message) is null. A number, enum or boolean
//! without presence is its default (0, the first symbol, false), as the writer of a 0 writes nothing. A string or bytes field without
//! presence that is empty is null: an id or key that was never set must not become the id or key of everybody.

use crate::registry::RegistrySchema;
use crate::row::{Kind as TargetKind, Rows, Scalar};
use crate::wire::{Broken, Input, unzigzag};
use plumb_core::event::EventBatch;
use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};
use std::collections::BTreeMap;

/// How deep groups that nobody declared may be nested.
const DEPTH_MAX: u32 = 64;

/// The name given to the schema's own file; those it imports have names of theirs.
const MAIN: &str = "plumb-record.proto";

/// How a field's value is written.
#[derive(Debug, Clone)]
enum Read {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Truth,
    Text,
    Bytes,
    /// As symbols, by number.
    Symbol(BTreeMap<i32, String>),
    Timestamp,
    Wrapped(Box<Read>),
    /// For no field, in words.
    Other(&'static str),
}

#[derive(Debug, Clone)]
struct Field {
    number: u64,
    target: usize,
    read: Read,
    presence: bool,
}

/// The messages of a registered file.
#[derive(Debug)]
pub(crate) struct Messages {
    pool: DescriptorPool,
}

/// A message, bound to the declared fields.
#[derive(Debug)]
pub(crate) struct Plan {
    /// By number.
    fields: Vec<Field>,
}

/// A file and those it imports, in memory.
struct Sources {
    files: BTreeMap<String, String>,
    google: GoogleFileResolver,
}

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.files.get(name) {
            Some(text) => File::from_source(name, text),
            None => self.google.open_file(name),
        }
    }
}

impl Messages {
    /// Compiles a registered file; the error says why it cannot be.
    pub(crate) fn new(schema: &RegistrySchema) -> Result<Self, String> {
        let mut files: BTreeMap<String, String> = schema.references.iter().cloned().collect();
        files.insert(MAIN.to_owned(), schema.text.clone());
        let mut compiler = Compiler::with_file_resolver(Sources { files, google: GoogleFileResolver::new() });
        match compiler.open_file(MAIN) {
            Ok(compiled) => Ok(Self { pool: compiled.descriptor_pool() }),
            Err(error) => Err(format!("not a Protobuf schema: {error}")),
        }
    }

    /// Binds the message that a record's index names. With `expected` only records of that one are read.
    pub(crate) fn bind(&self, path: &[usize], expected: Option<&str>, rows: &Rows) -> Result<Plan, String> {
        let missing = || format!("it has no message {path:?}");
        let file = self.pool.get_file_by_name(MAIN).ok_or_else(missing)?;
        let (first, inner) = path.split_first().ok_or_else(missing)?;
        let mut message = file.messages().nth(*first).ok_or_else(missing)?;
        for index in inner {
            // The entries of maps are messages too, which no index counts.
            let child = message.child_messages().filter(|child| !child.is_map_entry()).nth(*index);
            message = child.ok_or_else(missing)?;
        }
        match expected {
            Some(name) if name != message.full_name() => {
                Err(format!("a record of message `{}`, the source's is `{name}`", message.full_name()))
            }
            _ => Ok(Plan::new(&message, rows)),
        }
    }
}

impl Plan {
    fn new(message: &MessageDescriptor, rows: &Rows) -> Self {
        let bound = message.fields().filter_map(|field| {
            let target = rows.target(field.name())?;
            let presence = field.supports_presence();
            Some(Field { number: field.number().into(), target, read: read_of(&field, rows.kind(target)), presence })
        });
        let mut fields: Vec<Field> = bound.collect();
        fields.sort_unstable_by_key(|field| field.number);
        Self { fields }
    }

    /// Reads a record's fields.
    pub(crate) fn read(&self, rows: &mut Rows, batch: &mut EventBatch, mut input: Input<'_>) -> Result<(), String> {
        let broken = |why: String| format!("not Protobuf: {why}");
        // Writers write fields by number, so mostly the next one is the next.
        let mut next = 0;
        while !input.is_empty() {
            let (number, wire) = tag(&mut input).map_err(broken)?;
            let found = match self.fields.get(next) {
                Some(field) if field.number == number => Some(next),
                _ => self.fields.binary_search_by_key(&number, |field| field.number).ok(),
            };
            let Some(at) = found else {
                skip(&mut input, number, wire, 0).map_err(broken)?;
                continue;
            };
            next = at + 1;
            let field = &self.fields[at];
            let value = value(&field.read, wire, &mut input).map_err(broken)?;
            let empty = matches!(value, Scalar::Text("") | Scalar::Bytes([]));
            let value = if empty && !field.presence { Scalar::Null } else { value };
            rows.put(batch, field.target, value)?;
        }
        for field in self.fields.iter().filter(|field| !field.presence) {
            if !rows.is_filled(field.target)
                && rows.kind(field.target) != TargetKind::EventTime
                && let Some(default) = default_of(&field.read)
            {
                rows.put(batch, field.target, default)?;
            }
        }
        Ok(())
    }
}

/// How a field's value is read for a target.
fn read_of(field: &FieldDescriptor, target: TargetKind) -> Read {
    if field.is_map() {
        return Read::Other("a map");
    }
    if field.cardinality() == Cardinality::Repeated {
        return Read::Other("a repeated field");
    }
    if field.is_group() {
        return Read::Other("a group");
    }
    read_kind(&field.kind(), target)
}

fn read_kind(kind: &Kind, target: TargetKind) -> Read {
    match kind {
        Kind::Double => Read::Double,
        Kind::Float => Read::Float,
        Kind::Int32 => Read::Int32,
        Kind::Int64 => Read::Int64,
        Kind::Uint32 => Read::Uint32,
        Kind::Uint64 => Read::Uint64,
        Kind::Sint32 | Kind::Sint64 => Read::Sint,
        Kind::Fixed32 => Read::Fixed32,
        Kind::Fixed64 => Read::Fixed64,
        Kind::Sfixed32 => Read::Sfixed32,
        Kind::Sfixed64 => Read::Sfixed64,
        Kind::Bool => Read::Truth,
        Kind::String => Read::Text,
        Kind::Bytes => Read::Bytes,
        Kind::Enum(_) if target == TargetKind::Integer => Read::Int32,
        Kind::Enum(symbols) => {
            // Of several symbols of one number the first counts.
            let mut by_number = BTreeMap::new();
            for symbol in symbols.values() {
                by_number.entry(symbol.number()).or_insert_with(|| symbol.name().to_owned());
            }
            Read::Symbol(by_number)
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => Read::Timestamp,
            "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => match message.get_field(1) {
                Some(value) => Read::Wrapped(Box::new(read_kind(&value.kind(), target))),
                None => Read::Other("a message"),
            },
            _ => Read::Other("a message"),
        },
    }
}

/// What an absent field without presence is, if not null.
fn default_of(read: &Read) -> Option<Scalar<'_>> {
    Some(match read {
        Read::Double | Read::Float => Scalar::Float(0.0),
        Read::Int32
        | Read::Int64
        | Read::Uint32
        | Read::Uint64
        | Read::Sint
        | Read::Fixed32
        | Read::Fixed64
        | Read::Sfixed32
        | Read::Sfixed64 => Scalar::Integer(0),
        Read::Truth => Scalar::Truth(false),
        Read::Symbol(symbols) => Scalar::Text(symbols.get(&0)?),
        Read::Text | Read::Bytes | Read::Timestamp | Read::Wrapped(_) | Read::Other(_) => return None,
    })
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// A field's number and wire type.
fn tag(input: &mut Input<'_>) -> Result<(u64, u8), String> {
    let tag = input.varint()?;
    match tag >> 3 {
        number @ 1..=0x1fff_ffff => Ok((number, (tag & 7) as u8)),
        number => Err(format!("field number {number}")),
    }
}

fn length<'a>(input: &mut Input<'a>) -> Result<&'a [u8], Broken> {
    let length = input.varint()?;
    input.take(length)
}

fn value<'a, 'i: 'a>(read: &'a Read, wire: u8, input: &mut Input<'i>) -> Result<Scalar<'a>, String> {
    Ok(match (read, wire) {
        (Read::Double, FIXED64) => Scalar::Float(f64::from_le_bytes(input.array()?)),
        (Read::Float, FIXED32) => Scalar::Float(f32::from_le_bytes(input.array()?).into()),
        // Negative numbers of 32 bits are written as 64; what is above is cut off, as the format says.
        (Read::Int32, VARINT) => Scalar::Integer((input.varint()? as i32).into()),
        (Read::Int64, VARINT) => Scalar::Integer(input.varint()? as i64),
        (Read::Uint32, VARINT) => Scalar::Integer((input.varint()? as u32).into()),
        (Read::Uint64, VARINT) => Scalar::Unsigned(input.varint()?),
        (Read::Sint, VARINT) => Scalar::Integer(unzigzag(input.varint()?)),
        (Read::Fixed32, FIXED32) => Scalar::Integer(u32::from_le_bytes(input.array()?).into()),
        (Read::Fixed64, FIXED64) => Scalar::Unsigned(u64::from_le_bytes(input.array()?)),
        (Read::Sfixed32, FIXED32) => Scalar::Integer(i32::from_le_bytes(input.array()?).into()),
        (Read::Sfixed64, FIXED64) => Scalar::Integer(i64::from_le_bytes(input.array()?)),
        (Read::Truth, VARINT) => Scalar::Truth(input.varint()? != 0),
        (Read::Text, LENGTH) => {
            let bytes = length(input)?;
            Scalar::Text(std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8".to_owned())?)
        }
        (Read::Bytes, LENGTH) => Scalar::Bytes(length(input)?),
        (Read::Symbol(symbols), VARINT) => {
            let number = input.varint()? as i32;
            // A symbol that the schema does not know yet is its number.
            symbols.get(&number).map_or(Scalar::Integer(number.into()), |symbol| Scalar::Text(symbol))
        }
        (Read::Timestamp, LENGTH) => Scalar::Instant(timestamp(length(input)?)?),
        (Read::Wrapped(inner), LENGTH) => {
            let mut message = Input(length(input)?);
            let mut wrapped = match inner.as_ref() {
                Read::Text => Scalar::Text(""),
                Read::Bytes => Scalar::Bytes(&[]),
                inner => default_of(inner).unwrap_or(Scalar::Null),
            };
            while !message.is_empty() {
                match tag(&mut message)? {
                    (1, wire) => wrapped = value(inner, wire, &mut message)?,
                    (number, wire) => skip(&mut message, number, wire, 0)?,
                }
            }
            wrapped
        }
        (Read::Other(what), _) => Scalar::Other(what),
        (_, wire) => return Err(format!("a declared field has wire type {wire}, which its schema does not write")),
    })
}

/// A `google.protobuf.Timestamp` in µs.
fn timestamp(bytes: &[u8]) -> Result<i64, String> {
    let mut message = Input(bytes);
    let (mut seconds, mut nanos) = (0, 0);
    while !message.is_empty() {
        match tag(&mut message)? {
            (1, VARINT) => seconds = message.varint()? as i64,
            (2, VARINT) => nanos = message.varint()? as i32,
            (number, wire) => skip(&mut message, number, wire, 0)?,
        }
    }
    let us = seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(i64::from(nanos / 1_000)));
    match us {
        Some(us) if (0..1_000_000_000).contains(&nanos) => Ok(us),
        _ => Err(format!("a timestamp of {seconds} s and {nanos} ns")),
    }
}

/// Passes over the value of a field nobody declared.
fn skip(input: &mut Input<'_>, number: u64, wire: u8, depth: u32) -> Result<(), String> {
    match wire {
        VARINT => drop(input.varint()?),
        FIXED64 => drop(input.take(8)?),
        LENGTH => drop(length(input)?),
        FIXED32 => drop(input.take(4)?),
        GROUP if depth < DEPTH_MAX => loop {
            let (inner, wire) = tag(input)?;
            if wire == GROUP_END {
                return if inner == number { Ok(()) } else { Err(format!("group {number} ends as {inner}")) };
            }
            skip(input, inner, wire, depth + 1)?;
        },
        GROUP => return Err(format!("groups are nested more than {DEPTH_MAX} deep")),
        _ => return Err(format!("wire type {wire}")),
    }
    Ok(())
}
