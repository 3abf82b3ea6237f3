//! From a decoded value to a column, by the rules of JSON records (`plumb_pipeline::decode::json`).
//!
//! Beyond them: a decimal goes into an `f64` field as the float nearest to its digits, which is what its digits in JSON
//! would be; an instant that its schema calls one goes into a `timestamp` field whatever the source's unit.

use plumb_core::column::DataType;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::{AcceptRules, missing_field};
use plumb_pipeline::decode::json::shorten;
use plumb_pipeline::decode::{TimeUnit, parse_rfc3339};
use std::sync::Arc;

/// A value as the record's schema types it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Truth(bool),
    Integer(i64),
    /// Beyond `i64` too.
    Unsigned(u64),
    Float(f64),
    /// Checked to be UTF-8.
    Text(&'a str),
    Bytes(&'a [u8]),
    /// µs since the Unix epoch.
    Instant(i64),
    /// `unscaled` / 10^`scale`.
    Decimal {
        unscaled: i128,
        scale: u32,
    },
    /// Something that no field takes, in words: `an array`.
    Other(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    EventTime,
    Text,
    Integer,
    Float,
    Truth,
    Timestamp,
    Bytes,
}

impl Kind {
    fn expects(self) -> &'static str {
        match self {
            Kind::EventTime | Kind::Timestamp => "an instant, an RFC 3339 string or an integer",
            Kind::Text => "a string or an integer",
            Kind::Integer => "an integer",
            Kind::Float => "a number",
            Kind::Truth => "true or false",
            Kind::Bytes => "bytes",
        }
    }
}

/// Where a field of a record goes.
#[derive(Debug)]
struct Target {
    name: String,
    kind: Kind,
    required: bool,
}

/// Fills rows of a source's columns.
#[derive(Debug)]
pub(crate) struct Rows {
    schema: Arc<SourceSchema>,
    unit: TimeUnit,
    rules: AcceptRules,
    /// The id, the fields, the event time: but for the last, a target's index is its column's.
    targets: Vec<Target>,
    /// The number of the record that last filled a target.
    filled: Vec<u64>,
    record: u64,
    /// The event time and whether it named its zone.
    time: Option<(i64, bool)>,
    /// A time without a zone was met, and that was said.
    zoneless_said: bool,
}

impl Rows {
    pub(crate) fn new(schema: Arc<SourceSchema>, unit: TimeUnit, rules: AcceptRules) -> Self {
        let mut targets = vec![Target { name: schema.id_field.clone(), kind: Kind::Text, required: false }];
        targets.extend(schema.fields.iter().map(|field| {
            let kind = match field.data_type {
                DataType::I64 => Kind::Integer,
                DataType::F64 => Kind::Float,
                DataType::Bool => Kind::Truth,
                DataType::Timestamp => Kind::Timestamp,
                DataType::Bytes => Kind::Bytes,
                // A schema's fields are no lists (`Field::data_type`).
                DataType::Utf8 | DataType::List(_) => Kind::Text,
            };
            Target { name: field.name.clone(), kind, required: field.required }
        }));
        targets.push(Target { name: schema.time_field.clone(), kind: Kind::EventTime, required: true });
        let filled = vec![0; targets.len()];
        Self { schema, unit, rules, targets, filled, record: 0, time: None, zoneless_said: false }
    }

    /// Where a field of this name goes; `None` if nobody declared it.
    pub(crate) fn target(&self, name: &str) -> Option<usize> {
        self.targets.iter().position(|target| target.name == name)
    }

    /// What a target takes.
    pub(crate) fn kind(&self, target: usize) -> Kind {
        self.targets[target].kind
    }

    /// Begins a record.
    pub(crate) fn begin(&mut self) {
        self.record += 1;
        self.time = None;
    }

    /// Whether the record has said something of a target.
    pub(crate) fn is_filled(&self, target: usize) -> bool {
        self.filled[target] == self.record
    }

    /// Takes the value of a target; of several the last counts.
    pub(crate) fn put(&mut self, batch: &mut EventBatch, target: usize, value: Scalar<'_>) -> Result<(), String> {
        let put = self.put_value(batch, target, value);
        put.map_err(|reason| format!("field `{}`: {reason}", self.targets[target].name))
    }

    fn put_value(&mut self, batch: &mut EventBatch, target: usize, value: Scalar<'_>) -> Result<(), String> {
        let kind = self.targets[target].kind;
        let rows = batch.len();
        if matches!(kind, Kind::EventTime | Kind::Timestamp) {
            let instant = self.instant(kind, value)?;
            match batch.columns.get_mut(target) {
                None => self.time = instant,
                Some(column) => {
                    column.truncate(rows);
                    match instant {
                        Some((us, _)) => column.push_i64(us),
                        None => column.push_null(),
                    }
                }
            }
            self.filled[target] = self.record;
            return Ok(());
        }
        let column = &mut batch.columns[target];
        column.truncate(rows);
        match (kind, value) {
            (_, Scalar::Null) => column.push_null(),
            (Kind::Text, Scalar::Text(text)) => column.push_bytes(text.as_bytes()),
            (Kind::Text, Scalar::Integer(number)) => column.push_bytes(itoa::Buffer::new().format(number).as_bytes()),
            (Kind::Text, Scalar::Unsigned(number)) => column.push_bytes(itoa::Buffer::new().format(number).as_bytes()),
            (Kind::Integer, Scalar::Integer(number)) => column.push_i64(number),
            (Kind::Integer, Scalar::Unsigned(number)) => match i64::try_from(number) {
                Ok(number) => column.push_i64(number),
                Err(_) => return Err(format!("expected an integer, found {number}, which is beyond 64 bits")),
            },
            (Kind::Float, Scalar::Float(number)) => column.push_f64(number),
            (Kind::Float, Scalar::Integer(number)) => column.push_f64(number as f64),
            (Kind::Float, Scalar::Unsigned(number)) => column.push_f64(number as f64),
            (Kind::Float, Scalar::Decimal { unscaled, scale }) => column.push_f64(nearest(unscaled, scale)),
            (Kind::Truth, Scalar::Truth(truth)) => column.push_bool(truth),
            (Kind::Bytes, Scalar::Bytes(bytes)) => column.push_bytes(bytes),
            (kind, value) => return Err(format!("expected {}, found {}", kind.expects(), words(value))),
        }
        self.filled[target] = self.record;
        Ok(())
    }

    /// An instant and whether it named its zone.
    fn instant(&self, kind: Kind, value: Scalar<'_>) -> Result<Option<(i64, bool)>, String> {
        let of_unit = |count: i64| match self.unit.to_us(count) {
            Some(us) => Ok(Some((us, true))),
            None => Err(format!("{count} {} since 1970 is out of range", self.unit.name())),
        };
        match value {
            Scalar::Null => Ok(None),
            Scalar::Instant(us) => Ok(Some((us, true))),
            Scalar::Integer(count) => of_unit(count),
            Scalar::Unsigned(count) => of_unit(i64::try_from(count).unwrap_or(i64::MAX)),
            Scalar::Text(text) => match parse_rfc3339(text.as_bytes()) {
                Some(instant) => Ok(Some((instant.us, instant.zoned))),
                None => Err(format!("`{}` is no RFC 3339 instant", shorten(text))),
            },
            value => Err(format!("expected {}, found {}", kind.expects(), words(value))),
        }
    }

    /// Ends a record: absent fields are null, and required ones must be there.
    pub(crate) fn finish(&mut self, batch: &mut EventBatch, offset: u64, record_time_us: i64) -> Result<(), String> {
        let rows = batch.len();
        for (target, (column, filled)) in self.targets.iter().zip(batch.columns.iter_mut().zip(&self.filled)) {
            if *filled != self.record {
                column.push_null();
            }
            if target.required && !column.is_valid(rows) {
                return Err(missing_field(&target.name));
            }
        }
        let (time_us, zoned) = self.time.ok_or_else(|| missing_field(&self.schema.time_field))?;
        self.rules.check_time(&self.schema.time_field, time_us, record_time_us)?;
        if !zoned && !std::mem::replace(&mut self.zoneless_said, true) {
            let (source, field) = (&self.schema.source, &self.schema.time_field);
            tracing::warn!(source, field, "event times without a zone are taken as UTC");
        }
        batch.offsets.push(offset);
        batch.record_times_us.push(record_time_us);
        batch.times_us.push(time_us);
        Ok(())
    }
}

/// The float nearest to a decimal.
fn nearest(unscaled: i128, scale: u32) -> f64 {
    format!("{unscaled}e-{scale}").parse().expect("digits and an exponent are a float")
}

/// What a value is, for messages.
fn words(value: Scalar<'_>) -> String {
    match value {
        Scalar::Null => "null".into(),
        Scalar::Truth(truth) => truth.to_string(),
        Scalar::Integer(number) => format!("the number {number}"),
        Scalar::Unsigned(number) => format!("the number {number}"),
        Scalar::Float(number) => format!("the number {number}"),
        Scalar::Text(text) => format!("the string `{}`", shorten(text)),
        Scalar::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Scalar::Instant(_) => "an instant".into(),
        Scalar::Decimal { .. } => "a decimal".into(),
        Scalar::Other(what) => what.into(),
    }
}
