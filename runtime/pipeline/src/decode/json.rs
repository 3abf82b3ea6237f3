//! One JSON object ↔ one row of an [`EventBatch`].
//!
//! Decoding streams from the text straight into the columns: no tree of values, no allocation for a
//! record without escapes. A record that cannot be decoded leaves the batch as it was and says why,
//! naming the field. The choices a schema leaves open are made here, once, for every source:
//!
//! - Unknown fields are ignored, `null` is the same as an absent field, of a repeated name the last counts.
//! - A `string` field takes a string or an integer of any size (its decimal digits).
//! - An `f64` field takes any number; beyond the range of f64 the record is refused.
//! - An `i64` field takes an integer, or a number with a fraction or exponent that is exactly integral and
//!   at most 2^53 in magnitude (`3.0` is 3; `9007199254740993.0` would have been rounded unseen).
//! - A `timestamp` field and the event time take RFC 3339 text or an integer of the source's unit (the
//!   rule for `3.0` holds here too).
//! - A `bytes` field takes standard base64 with padding.
//! - The record is UTF-8, at most [`RECORD_BYTES_MAX`] long, and one object with nothing after it.

use crate::accept::{AcceptRules, missing_field};
use crate::decode::time::{TimeUnit, parse_rfc3339, write_rfc3339};
use crate::port::{Rejected, SourceBatch};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::sync::Arc;

/// The longest record that is decoded, in bytes; bounds what one record can cost in memory.
pub const RECORD_BYTES_MAX: usize = 8 << 20;

/// The largest magnitude up to which every integer is an f64 of its own.
const INTEGRAL_MAX: f64 = 9_007_199_254_740_992.0;

/// An undecoded record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its place in its partition.
    pub offset: u64,
    /// Its own timestamp in µs.
    pub record_time_us: i64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Decodes the records of one source; keeps what it learned about their field order.
#[derive(Debug)]
pub struct JsonDecoder {
    schema: Arc<SourceSchema>,
    unit: TimeUnit,
    rules: Option<AcceptRules>,
    targets: Vec<Target>,
    /// Which target the last record had at a position, an index into `targets` or past its end: producers
    /// write their fields in one order, so mostly one comparison finds a field.
    hints: Vec<usize>,
    /// The number of the record that last filled a target.
    filled: Vec<u64>,
    record: u64,
    zoneless: u64,
}

/// Where a field of a record goes.
#[derive(Debug)]
struct Target {
    name: String,
    kind: Kind,
    required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    EventTime,
    Text,
    Integer,
    Float,
    Truth,
    Timestamp,
    Bytes,
}

impl Kind {
    /// What a field of this kind takes, for messages.
    fn expects(self) -> &'static str {
        match self {
            Kind::EventTime | Kind::Timestamp => "an RFC 3339 string or an integer",
            Kind::Text => "a string or an integer",
            Kind::Integer => "an integer",
            Kind::Float => "a number",
            Kind::Truth => "true or false",
            Kind::Bytes => "a base64 string",
        }
    }
}

impl JsonDecoder {
    /// A decoder of `schema`; integer instants are of `unit`.
    pub fn new(schema: Arc<SourceSchema>, unit: TimeUnit) -> Self {
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
        // Last, so that a target's index is its column's.
        targets.push(Target { name: schema.time_field.clone(), kind: Kind::EventTime, required: true });
        let filled = vec![0; targets.len()];
        Self { schema, unit, rules: None, targets, hints: Vec::new(), filled, record: 0, zoneless: 0 }
    }

    /// Also refuses what [`AcceptRules`] would, while the record's own bytes are at hand for the dead letters.
    pub fn with_rules(mut self, rules: AcceptRules) -> Self {
        self.rules = Some(rules);
        self
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &Arc<SourceSchema> {
        &self.schema
    }

    /// How many records so far had an event time without a zone (taken as UTC).
    pub fn zoneless(&self) -> u64 {
        self.zoneless
    }

    /// Decodes a record to the end of `batch`, or says why it cannot be and leaves the batch as it was.
    pub fn decode(&mut self, batch: &mut EventBatch, record: Record<'_>) -> Result<(), String> {
        let rows = batch.len();
        match self.append(batch, record) {
            Ok(time_us) => {
                batch.offsets.push(record.offset);
                batch.record_times_us.push(record.record_time_us);
                batch.times_us.push(time_us);
                Ok(())
            }
            Err(reason) => {
                batch.columns.iter_mut().for_each(|column| column.truncate(rows));
                Err(reason)
            }
        }
    }

    /// [`JsonDecoder::decode`] into a source's batch: a record that cannot be decoded goes to its `rejected`.
    pub fn decode_into(&mut self, batch: &mut SourceBatch, record: Record<'_>) {
        if let Err(reason) = self.decode(&mut batch.events, record) {
            let Record { offset, record_time_us, bytes } = record;
            batch.rejected.push(Rejected { offset, record_time_us, bytes: bytes.to_vec(), reason });
        }
        batch.next_offset = record.offset + 1;
    }

    /// Fills the columns and returns the event time; on an error some columns may be a row longer.
    fn append(&mut self, batch: &mut EventBatch, record: Record<'_>) -> Result<i64, String> {
        let bytes = record.bytes;
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(format!("a record of {} bytes is longer than {RECORD_BYTES_MAX}", bytes.len()));
        }
        // Once for the record rather than for each of its strings.
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
        self.record += 1;
        let mut row = Row {
            rows: batch.len(),
            columns: &mut batch.columns,
            targets: &self.targets,
            hints: &mut self.hints,
            filled: &mut self.filled,
            record: self.record,
            unit: self.unit,
            big_integers: false,
            time: None,
            current: None,
            reason: None,
        };
        if let Err(failure) = row.read(text) {
            // An integer past 64 bits reaches a visitor as a rounded f64; its digits need the slower way.
            if !row.big_integers {
                return Err(row.explain(&failure));
            }
            row.restart();
            row.read(text).map_err(|failure| row.explain(&failure))?;
        }
        let time = row.time;
        self.complete(batch, time, record.record_time_us)
    }

    /// Fills absent fields with nulls and checks what is required.
    fn complete(
        &mut self,
        batch: &mut EventBatch,
        time: Option<(i64, bool)>,
        record_time_us: i64,
    ) -> Result<i64, String> {
        let rows = batch.len();
        for (target, (column, filled)) in self.targets.iter().zip(batch.columns.iter_mut().zip(&self.filled)) {
            if *filled != self.record {
                column.push_null();
            }
            if target.required && !column.is_valid(rows) {
                return Err(missing_field(&target.name));
            }
        }
        let (time_us, zoned) = time.ok_or_else(|| missing_field(&self.schema.time_field))?;
        if let Some(rules) = &self.rules {
            rules.check_time(&self.schema.time_field, time_us, record_time_us)?;
        }
        self.zoneless += u64::from(!zoned);
        Ok(time_us)
    }
}

/// A record being decoded.
struct Row<'a> {
    /// The length of a column before this record.
    rows: usize,
    columns: &'a mut [Column],
    targets: &'a [Target],
    hints: &'a mut Vec<usize>,
    filled: &'a mut [u64],
    record: u64,
    unit: TimeUnit,
    /// Set when a string field holds a number past 64 bits: read those by their text.
    big_integers: bool,
    /// The event time and whether it named its zone.
    time: Option<(i64, bool)>,
    /// The target whose value is being read.
    current: Option<usize>,
    /// Why a value does not fit, when the reason is ours and not the JSON reader's.
    reason: Option<String>,
}

impl Row<'_> {
    fn read(&mut self, text: &str) -> serde_json::Result<()> {
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(&mut *self)?;
        json.end()
    }

    /// Forgets what has been read.
    fn restart(&mut self) {
        self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
        self.filled.fill(0);
        (self.time, self.current, self.reason) = (None, None, None);
    }

    fn explain(&mut self, failure: &serde_json::Error) -> String {
        let field = self.current.map(|target| format!("field `{}`: ", self.targets[target].name)).unwrap_or_default();
        match self.reason.take() {
            Some(reason) => format!("{field}{reason}"),
            None => format!("{field}not JSON of an event: {failure}"),
        }
    }

    /// The target of a field at a position of the object; `targets.len()` for an unknown one.
    fn target_of(&mut self, name: &str, position: usize) -> usize {
        let hint = self.hints.get(position).copied().unwrap_or(usize::MAX);
        if self.targets.get(hint).is_some_and(|target| target.name == name) {
            return hint;
        }
        let found = self.targets.iter().position(|target| target.name == name).unwrap_or(self.targets.len());
        match self.hints.get_mut(position) {
            Some(hint) => *hint = found,
            // A record of a million fields must not leave as many hints behind.
            None if position <= 2 * self.targets.len() => self.hints.resize(position + 1, found),
            None => {}
        }
        found
    }

    fn kind(&self) -> Kind {
        self.targets[self.target()].kind
    }

    fn target(&self) -> usize {
        self.current.expect("a value is only read for a target")
    }

    /// The column to push the value of the current target to.
    fn column(&mut self) -> &mut Column {
        &mut self.columns[self.current.expect("a value is only read for a target")]
    }

    /// Ends the reading of the record with a reason.
    fn refuse<E: serde::de::Error>(&mut self, reason: String) -> Result<(), E> {
        self.reason = Some(reason);
        // The text of this error is never shown.
        Err(E::custom(""))
    }

    fn refuse_type<E: serde::de::Error>(&mut self, found: &str) -> Result<(), E> {
        let reason = format!("expected {}, found {found}", self.kind().expects());
        self.refuse(reason)
    }

    fn integer<E: serde::de::Error>(&mut self, value: i64) -> Result<(), E> {
        match self.kind() {
            Kind::Integer => self.column().push_i64(value),
            Kind::Float => self.column().push_f64(value as f64),
            Kind::Text => self.column().push_bytes(itoa::Buffer::new().format(value).as_bytes()),
            Kind::EventTime | Kind::Timestamp => match self.unit.to_us(value) {
                Some(us) => self.instant(us, true),
                None => {
                    let reason = format!("{value} {} since 1970 is out of range", self.unit.name());
                    return self.refuse(reason);
                }
            },
            Kind::Truth | Kind::Bytes => return self.refuse_type(&format!("the number {value}")),
        }
        Ok(())
    }

    fn instant(&mut self, us: i64, zoned: bool) {
        match self.kind() {
            Kind::EventTime => self.time = Some((us, zoned)),
            _ => self.column().push_i64(us),
        }
    }
}

impl<'de> Visitor<'de> for &mut Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut position = 0;
        while let Some(target) = map.next_key_seed(NameSeed { row: &mut *self, position })? {
            position += 1;
            if target == self.targets.len() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            self.current = Some(target);
            if self.filled[target] == self.record {
                // A repeated name: the last counts.
                match self.columns.get_mut(target) {
                    Some(column) => column.truncate(self.rows),
                    None => self.time = None,
                }
            }
            if self.big_integers && self.targets[target].kind == Kind::Text {
                let raw: &serde_json::value::RawValue = map.next_value()?;
                self.read_raw(raw.get())?;
            } else {
                map.next_value_seed(ValueSeed(&mut *self))?;
            }
            self.filled[target] = self.record;
            self.current = None;
        }
        Ok(())
    }
}

impl Row<'_> {
    /// Reads a value of a string field from its text, where it may be an integer of any size.
    fn read_raw<E: serde::de::Error>(&mut self, raw: &str) -> Result<(), E> {
        let digits = raw.strip_prefix('-').unwrap_or(raw);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let text = if digits == "0" { digits } else { raw };
            self.column().push_bytes(text.as_bytes());
            return Ok(());
        }
        if digits.starts_with(|first: char| first.is_ascii_digit()) {
            return self.refuse_type(&format!("the number {}", shorten(raw)));
        }
        let mut json = serde_json::Deserializer::from_str(raw);
        ValueSeed(self).deserialize(&mut json).map_err(E::custom)
    }
}

/// Reads a field's name as its target.
struct NameSeed<'a, 'b> {
    row: &'a mut Row<'b>,
    position: usize,
}

impl<'de> DeserializeSeed<'de> for NameSeed<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<usize, E> {
        Ok(self.row.target_of(name, self.position))
    }
}

/// Reads a value into the column of the current target.
struct ValueSeed<'a, 'b>(&'a mut Row<'b>);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind().expects())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        let row = self.0;
        match row.kind() {
            Kind::Text => row.column().push_bytes(value.as_bytes()),
            Kind::EventTime | Kind::Timestamp => match parse_rfc3339(value.as_bytes()) {
                Some(instant) => row.instant(instant.us, instant.zoned),
                None => return row.refuse(format!("`{}` is no RFC 3339 instant", shorten(value))),
            },
            Kind::Bytes => match BASE64.decode(value) {
                Ok(bytes) => row.column().push_bytes(&bytes),
                Err(error) => return row.refuse(format!("not base64: {error}")),
            },
            Kind::Integer | Kind::Float | Kind::Truth => {
                return row.refuse_type(&format!("the string `{}`", shorten(value)));
            }
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        let row = self.0;
        if let Ok(value) = i64::try_from(value) {
            return row.integer(value);
        }
        match row.kind() {
            Kind::Float => row.column().push_f64(value as f64),
            Kind::Text => row.column().push_bytes(itoa::Buffer::new().format(value).as_bytes()),
            _ => return row.refuse_type(&format!("{value}, which is beyond 64 bits")),
        }
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        let row = self.0;
        match row.kind() {
            Kind::Float => {
                row.column().push_f64(value);
                Ok(())
            }
            Kind::Text if !row.big_integers => {
                row.big_integers = true;
                Err(E::custom("read again by the number's text"))
            }
            Kind::Integer | Kind::EventTime | Kind::Timestamp
                if value.fract() == 0.0 && value.abs() <= INTEGRAL_MAX =>
            {
                row.integer(value as i64)
            }
            _ => row.refuse_type(&format!("the number {value}")),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        let row = self.0;
        match row.kind() {
            Kind::Truth => {
                row.column().push_bool(value);
                Ok(())
            }
            _ => row.refuse_type(if value { "true" } else { "false" }),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        let row = self.0;
        match row.kind() {
            Kind::EventTime => row.time = None,
            _ => row.column().push_null(),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.0.refuse_type("an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.0.refuse_type("an object")
    }
}

/// At most 64 characters of a value, for messages.
pub fn shorten(value: &str) -> std::borrow::Cow<'_, str> {
    match value.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &value[..end]).into(),
        None => value.into(),
    }
}

/// Appends a row as a JSON object that [`JsonDecoder`] reads back to the same values.
///
/// The id, the event time (RFC 3339 with µs), then the fields in the schema's order; nulls are left out.
/// Floats are in shortest round-trip form; JSON has no NaN or infinity, so those are left out like nulls
/// (which is how features treat them: they are no numbers).
pub fn encode(batch: &EventBatch, row: usize, out: &mut Vec<u8>) {
    encode_columns(&batch.schema, &batch.columns, Some(batch.times_us[row]), row, out);
}

/// [`encode`] for columns that are no batch yet, such as those of a record without an event time.
pub fn encode_columns(schema: &SourceSchema, columns: &[Column], time_us: Option<i64>, row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    let begin = out.len();
    encode_field(&schema.id_field, &columns[0], row, begin, out);
    if let Some(time_us) = time_us {
        encode_name(&schema.time_field, begin, out);
        encode_instant(time_us, out);
    }
    for (field, column) in schema.fields.iter().zip(&columns[1..]) {
        encode_field(&field.name, column, row, begin, out);
    }
    out.push(b'}');
}

fn encode_name(name: &str, begin: usize, out: &mut Vec<u8>) {
    if out.len() > begin {
        out.push(b',');
    }
    encode_text(name.as_bytes(), out);
    out.push(b':');
}

fn encode_instant(us: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    write_rfc3339(us, out);
    out.push(b'"');
}

fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    // Columns of strings are checked where they enter; a foreign byte would show as U+FFFD.
    let text = String::from_utf8_lossy(text);
    serde_json::to_writer(&mut *out, text.as_ref()).expect("a string in memory can be written");
}

fn encode_field(name: &str, column: &Column, row: usize, begin: usize, out: &mut Vec<u8>) {
    if !column.is_valid(row) {
        return;
    }
    // A schema's fields are no lists.
    let unwritable = match &column.values {
        Values::F64(v) => !v[row].is_finite(),
        values => matches!(values, Values::List { .. }),
    };
    if unwritable {
        return;
    }
    encode_name(name, begin, out);
    match &column.values {
        Values::I64(v) => out.extend_from_slice(itoa::Buffer::new().format(v[row]).as_bytes()),
        Values::F64(v) => out.extend_from_slice(ryu::Buffer::new().format_finite(v[row]).as_bytes()),
        Values::Bool(v) => out.extend_from_slice(if v[row] == 0 { b"false" } else { b"true" }),
        Values::Utf8(v) => encode_text(v.get(row), out),
        Values::Bytes(v) => encode_text(BASE64.encode(v.get(row)).as_bytes(), out),
        Values::Timestamp(v) => encode_instant(v[row], out),
        Values::List { .. } => {}
    }
}

#[cfg(test)]
mod tests;
