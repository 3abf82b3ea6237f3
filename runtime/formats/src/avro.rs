//! Avro: a writer's schema bound to the declared fields, and records read by it.
//!
//! Bound by name (a field's own, no aliases). Logical types: `timestamp-millis`, `-micros` and `-nanos` are instants, and so
//! are the `local-` ones, taken as UTC; a `decimal` is a number for `f64` fields; `uuid` and enum symbols are strings. Dates,
//! times of day, durations, `big-decimal`, arrays, maps and records are for no declared field; as fields nobody declared they
//! are passed over.

use crate::registry::RegistrySchema;
use crate::row::{Rows, Scalar};
use crate::wire::Input;
use apache_avro::Schema;
use apache_avro::schema::{Name, Namespace};
use plumb_core::event::EventBatch;
use plumb_pipeline::decode::TimeUnit;
use serde_json::Value;
use std::collections::BTreeMap;

/// How deep the values of fields nobody declared may be nested.
const DEPTH_MAX: u32 = 64;

/// A writer's type; others are named by their place in the plan.
#[derive(Debug, Clone)]
enum Node {
    /// A named type whose definition is being read.
    Open,
    Null,
    Truth,
    Integer,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(u64),
    Enum(Vec<String>),
    Instant(TimeUnit),
    /// The unscaled number as bytes, of a fixed number or behind their length.
    Decimal {
        scale: u32,
        fixed: Option<u64>,
    },
    /// A type no field takes that is written as an integer.
    OtherInteger(&'static str),
    /// A type no field takes that is written as bytes behind their length.
    OtherBytes(&'static str),
    Duration,
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<Field>),
}

#[derive(Debug, Clone)]
struct Field {
    /// Where it goes, if somebody declared it.
    target: Option<usize>,
    node: usize,
}

/// A writer's schema, bound to the declared fields.
#[derive(Debug)]
pub(crate) struct Plan {
    nodes: Vec<Node>,
    root: usize,
}

impl Plan {
    /// Binds a schema; the error says why it cannot be.
    pub(crate) fn new(schema: &RegistrySchema, rows: &Rows) -> Result<Self, String> {
        let bad = |why: String| format!("not an Avro schema: {why}");
        let plain = |text: &str| {
            let mut json: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
            forget_uuids(&mut json);
            Ok::<String, String>(json.to_string())
        };
        let references: Vec<String> =
            schema.references.iter().map(|(_, text)| plain(text)).collect::<Result<_, _>>()?;
        let (main, others) =
            Schema::parse_str_with_list(&plain(&schema.text)?, &references).map_err(|error| bad(error.to_string()))?;
        let name = |schema: &Schema| match schema {
            // A decimal of fixed size has the name of what it is written as.
            Schema::Decimal(decimal) => Some(decimal.inner.name()?.fullname(None)),
            schema => Some(schema.name()?.fullname(None)),
        };
        let others = others.iter().filter_map(|other| Some((name(other)?, other))).collect();
        let mut binding = Binding { nodes: Vec::new(), names: BTreeMap::new(), others, rows };
        let root = binding.add(&main, &None, true)?;
        let plan = Self { nodes: binding.nodes, root };
        let is_record = |node: usize| matches!(plan.nodes[node], Node::Record(_));
        match &plan.nodes[root] {
            Node::Record(_) => Ok(plan),
            Node::Union(branches) if branches.iter().all(|&branch| is_record(branch)) => Ok(plan),
            _ => Err("it is no record".into()),
        }
    }

    /// Reads a record's fields.
    pub(crate) fn read(&self, rows: &mut Rows, batch: &mut EventBatch, mut input: Input<'_>) -> Result<(), String> {
        let broken = |why: String| format!("not Avro: {why}");
        // More values than bytes can only be values that take none.
        let mut values = input.0.len() as u64 + 1_024;
        let mut root = self.root;
        if let Node::Union(branches) = &self.nodes[root] {
            root = self.branch(branches, &mut input).map_err(broken)?;
        }
        let Node::Record(fields) = &self.nodes[root] else { return Err(broken("it is no record".into())) };
        for field in fields {
            match field.target {
                Some(target) => {
                    let value = self.scalar(field.node, &mut input).map_err(broken)?;
                    rows.put(batch, target, value)?;
                }
                None => self.skip(field.node, &mut input, &mut values, 0).map_err(broken)?,
            }
        }
        match input.is_empty() {
            true => Ok(()),
            false => Err(broken(format!("{} bytes are left after the record", input.0.len()))),
        }
    }

    fn branch(&self, branches: &[usize], input: &mut Input<'_>) -> Result<usize, String> {
        let index = input.zigzag()?;
        let branch = usize::try_from(index).ok().and_then(|index| branches.get(index));
        branch.copied().ok_or_else(|| format!("branch {index} of a union of {}", branches.len()))
    }

    /// Reads a value that a field may take. What none takes is not read, as the record is refused for it.
    fn scalar<'a, 'i: 'a>(&'a self, node: usize, input: &mut Input<'i>) -> Result<Scalar<'a>, String> {
        Ok(match &self.nodes[node] {
            Node::Null => Scalar::Null,
            Node::Truth => match input.array()? {
                [0] => Scalar::Truth(false),
                [1] => Scalar::Truth(true),
                [other] => return Err(format!("a boolean is {other}")),
            },
            Node::Integer => Scalar::Integer(input.zigzag()?),
            Node::Float => Scalar::Float(f32::from_le_bytes(input.array()?).into()),
            Node::Double => Scalar::Float(f64::from_le_bytes(input.array()?)),
            Node::Bytes => Scalar::Bytes(block(input)?),
            Node::Text => {
                let bytes = block(input)?;
                Scalar::Text(std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8".to_owned())?)
            }
            Node::Fixed(size) => Scalar::Bytes(input.take(*size)?),
            Node::Enum(symbols) => {
                let index = input.zigzag()?;
                let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
                Scalar::Text(symbol.ok_or_else(|| format!("symbol {index} of an enum of {}", symbols.len()))?)
            }
            Node::Instant(unit) => {
                let count = input.zigzag()?;
                let out_of_range = || format!("{count} {} since 1970 is out of range", unit.name());
                Scalar::Instant(unit.to_us(count).ok_or_else(out_of_range)?)
            }
            Node::Decimal { scale, fixed } => {
                let bytes = match fixed {
                    Some(size) => input.take(*size)?,
                    None => block(input)?,
                };
                match unscaled(bytes) {
                    Some(unscaled) => Scalar::Decimal { unscaled, scale: *scale },
                    None => Scalar::Other("a decimal of more than 128 bits"),
                }
            }
            Node::Union(branches) => self.scalar(self.branch(branches, input)?, input)?,
            Node::OtherInteger(what) | Node::OtherBytes(what) => Scalar::Other(what),
            Node::Duration => Scalar::Other("a duration"),
            Node::Array(_) => Scalar::Other("an array"),
            Node::Map(_) => Scalar::Other("a map"),
            Node::Record(_) | Node::Open => Scalar::Other("a record"),
        })
    }

    fn skip(&self, node: usize, input: &mut Input<'_>, values: &mut u64, depth: u32) -> Result<(), String> {
        *values = values.checked_sub(1).ok_or("more values than it has bytes")?;
        if depth > DEPTH_MAX {
            return Err(format!("values are nested more than {DEPTH_MAX} deep"));
        }
        match &self.nodes[node] {
            Node::Null => {}
            Node::Truth => drop(input.take(1)?),
            Node::Integer | Node::Enum(_) | Node::Instant(_) | Node::OtherInteger(_) => drop(input.varint()?),
            Node::Float => drop(input.take(4)?),
            Node::Double => drop(input.take(8)?),
            Node::Bytes | Node::Text | Node::OtherBytes(_) | Node::Decimal { fixed: None, .. } => drop(block(input)?),
            Node::Fixed(size) | Node::Decimal { fixed: Some(size), .. } => drop(input.take(*size)?),
            Node::Duration => drop(input.take(12)?),
            Node::Union(branches) => self.skip(self.branch(branches, input)?, input, values, depth + 1)?,
            Node::Record(fields) => {
                for field in fields {
                    self.skip(field.node, input, values, depth + 1)?;
                }
            }
            Node::Array(item) => {
                self.skip_blocks(input, values, |input, values| self.skip(*item, input, values, depth + 1))?
            }
            Node::Map(item) => self.skip_blocks(input, values, |input, values| {
                block(input)?;
                self.skip(*item, input, values, depth + 1)
            })?,
            Node::Open => return Err("its schema is incomplete".into()),
        }
        Ok(())
    }

    fn skip_blocks(
        &self,
        input: &mut Input<'_>,
        values: &mut u64,
        item: impl Fn(&mut Input<'_>, &mut u64) -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            let count = input.zigzag()?;
            match count {
                0 => return Ok(()),
                // The block's size in bytes is told too.
                ..0 => {
                    *values = values.checked_sub(1).ok_or("more values than it has bytes")?;
                    let size = input.zigzag()?;
                    input.take(u64::try_from(size).map_err(|_| "a block of negative size".to_owned())?)?;
                }
                _ => {
                    for _ in 0..count {
                        item(input, values)?;
                    }
                }
            }
        }
    }
}

/// Bytes behind their length.
fn block<'a>(input: &mut Input<'a>) -> Result<&'a [u8], String> {
    let length = input.zigzag()?;
    let length = u64::try_from(length).map_err(|_| format!("a length of {length}"))?;
    Ok(input.take(length)?)
}

/// A big-endian two's complement number; `None` beyond 128 bits.
fn unscaled(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    let from = wide.len().checked_sub(bytes.len())?;
    wide[from..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

/// A uuid is a string or 16 bytes, and reads as such; the schema's parser would no longer tell which.
fn forget_uuids(json: &mut Value) {
    match json {
        Value::Object(object) => {
            if object.get("logicalType").and_then(Value::as_str) == Some("uuid") {
                object.remove("logicalType");
            }
            object.values_mut().for_each(forget_uuids);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_uuids),
        _ => {}
    }
}

struct Binding<'a> {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    /// The schemas referred to, by full name.
    others: BTreeMap<String, &'a Schema>,
    rows: &'a Rows,
}

impl Binding<'_> {
    /// Adds a type; `top` for the record itself (or the records it may be), whose fields are the event's.
    fn add(&mut self, schema: &Schema, namespace: &Namespace, top: bool) -> Result<usize, String> {
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Truth,
            Schema::Int | Schema::Long => Node::Integer,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes => Node::Bytes,
            Schema::String | Schema::Uuid => Node::Text,
            Schema::TimestampMillis | Schema::LocalTimestampMillis => Node::Instant(TimeUnit::Ms),
            Schema::TimestampMicros | Schema::LocalTimestampMicros => Node::Instant(TimeUnit::Us),
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Node::Instant(TimeUnit::Ns),
            Schema::Date => Node::OtherInteger("a date"),
            Schema::TimeMillis | Schema::TimeMicros => Node::OtherInteger("a time of day"),
            Schema::BigDecimal => Node::OtherBytes("a big-decimal"),
            Schema::Duration => Node::Duration,
            Schema::Decimal(decimal) => {
                let scale =
                    u32::try_from(decimal.scale).map_err(|_| format!("a decimal of scale {}", decimal.scale))?;
                match decimal.inner.as_ref() {
                    Schema::Fixed(fixed) => {
                        let node = Node::Decimal { scale, fixed: Some(fixed.size as u64) };
                        return Ok(self.named(&fixed.name, namespace, node));
                    }
                    _ => Node::Decimal { scale, fixed: None },
                }
            }
            Schema::Array(array) => Node::Array(self.add(&array.items, namespace, false)?),
            Schema::Map(map) => Node::Map(self.add(&map.types, namespace, false)?),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.add(branch, namespace, top));
                Node::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Fixed(fixed) => return Ok(self.named(&fixed.name, namespace, Node::Fixed(fixed.size as u64))),
            Schema::Enum(symbols) => {
                return Ok(self.named(&symbols.name, namespace, Node::Enum(symbols.symbols.clone())));
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace);
                let at = self.named(&record.name, namespace, Node::Open);
                let mut fields = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let target = if top { self.rows.target(&field.name) } else { None };
                    fields.push(Field { target, node: self.add(&field.schema, &name.namespace, false)? });
                }
                self.nodes[at] = Node::Record(fields);
                return Ok(at);
            }
            Schema::Ref { name } => {
                let full = name.fully_qualified_name(namespace).fullname(None);
                // A record that the event's record holds again is another use of it, bound on its own.
                return match (self.names.get(&full), self.others.get(&full)) {
                    (Some(&at), _) if !top => Ok(at),
                    (_, Some(&other)) => self.add(other, &None, top),
                    (Some(&at), None) => Ok(at),
                    (None, None) => Err(format!("it refers to `{full}`, which it does not have")),
                };
            }
        };
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn named(&mut self, name: &Name, namespace: &Namespace, node: Node) -> usize {
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.names.insert(name.fully_qualified_name(namespace).fullname(None), at);
        at
    }
}
