//! Case files: a stream of events with reads in between, and what each read must print.
//!
//! ```text
//! # comment
//! event id=e1 t=2024-03-10T12:00:00Z user=u1 item=i1 type=purchase price=2.5   one event; null is written null
//! raw {"event_time": …                                                         one record, byte for byte
//! read user_activity u1 at 2024-03-10T12:00:00Z purchase_count_1h              all features if none is named
//! > found purchase_count_1h=0                                                  what it prints
//! accounting                                                                   the classes of records so far
//! > read=3 applied=2 duplicate=1 rejected=0 dedupe_conflict=0
//! ```
//!
//! The same file runs against every [`Subject`]: the oracle, the running service, the service restarted
//! after every line, a backfill. All must print the same. `UPDATE_EXPECT=1` writes what the oracle says.

use crate::oracle::{self, OracleEvent};
use std::fmt::Write as _;

/// Why a case could not run.
pub type CaseError = Box<dyn std::error::Error + Send + Sync>;

/// One line of a case.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A record for the source.
    Record(String),
    /// A read of a view's features.
    Read(Read),
    /// The classes of the records so far.
    Accounting,
}

/// A read of one entity at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The view.
    pub view: String,
    /// The entity's key; `None` is a null key.
    pub key: Option<String>,
    /// The as-of instant as written.
    pub at: String,
    /// The same in µs.
    pub at_us: i64,
    /// The features to print; empty = all.
    pub features: Vec<String>,
}

/// A line of a case file with what it must print.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseLine {
    /// The number of the line in the file, from 1.
    pub number: usize,
    /// What to do.
    pub step: Step,
    /// The recorded answer, for reads and accounting.
    pub expected: Option<String>,
}

/// What a case runs against.
pub trait Subject {
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Takes one record.
    fn record(&mut self, record: &str) -> Result<(), CaseError>;
    /// Answers a read: `None` = not found, else every feature in declared order as `name=value`.
    fn read(&mut self, read: &Read) -> Result<Option<Vec<(String, String)>>, CaseError>;
    /// Counts the records by class.
    fn accounting(&mut self) -> Result<Accounting, CaseError>;
}

/// The classes of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounting {
    /// Read from the source.
    pub read: u64,
    /// Accepted and applied.
    pub applied: u64,
    /// Dropped as copies.
    pub duplicate: u64,
    /// Rejected.
    pub rejected: u64,
    /// Copies with another payload.
    pub dedupe_conflict: u64,
}

impl From<plumb_pipeline::accept::Accounting> for Accounting {
    fn from(of: plumb_pipeline::accept::Accounting) -> Self {
        let plumb_pipeline::accept::Accounting { read, applied, duplicate, rejected, dedupe_conflict, .. } = of;
        Self { read, applied, duplicate, rejected, dedupe_conflict }
    }
}

/// Reads a case file.
pub fn parse(text: &str) -> Result<Vec<CaseLine>, CaseError> {
    let mut lines: Vec<CaseLine> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let step = match word {
            "" | "#" => continue,
            ">" => {
                let last = lines.last_mut().ok_or_else(|| format!("line {number}: an answer to nothing"))?;
                last.expected = Some(rest.to_owned());
                continue;
            }
            "event" => Step::Record(event_json(rest)),
            "raw" => Step::Record(rest.to_owned()),
            "read" => Step::Read(parse_read(rest).map_err(|error| format!("line {number}: {error}"))?),
            "accounting" => Step::Accounting,
            _ => return Err(format!("line {number}: unknown word `{word}`").into()),
        };
        lines.push(CaseLine { number, step, expected: None });
    }
    Ok(lines)
}

fn parse_read(text: &str) -> Result<Read, CaseError> {
    let (view, rest) = text.split_once(' ').ok_or("read VIEW KEY at T [FEATURES]")?;
    let (key, rest) = rest.rsplit_once(" at ").ok_or("read VIEW KEY at T [FEATURES]")?;
    let mut words = rest.split(' ');
    let at = words.next().ok_or("no instant")?.to_owned();
    let key = match key {
        "null" => None,
        quoted if quoted.starts_with('"') => Some(serde_json::from_str(quoted)?),
        plain => Some(plain.to_owned()),
    };
    let at_us = parse_instant(&at)?;
    Ok(Read { view: view.to_owned(), key, at, at_us, features: words.map(str::to_owned).collect() })
}

/// Writes an `event` line as the JSON of the default schema.
fn event_json(text: &str) -> String {
    let mut object = serde_json::Map::new();
    for pair in text.split(' ') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "null"));
        let name = match name {
            "id" => "event_id",
            "t" => "event_time",
            "user" => "user_id",
            "item" => "item_id",
            "type" => "event_type",
            other => other,
        };
        let number = matches!(name, "price" | "quantity" | "rating");
        let value = match value {
            "null" => serde_json::Value::Null,
            text if number => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            text => text.into(),
        };
        object.insert(name.to_owned(), value);
    }
    serde_json::Value::Object(object).to_string()
}

/// Runs a case; an error lists every line whose answer differs.
pub fn run(lines: &[CaseLine], subject: &mut dyn Subject) -> Result<(), CaseError> {
    let mut wrong = String::new();
    for line in lines {
        let Some(printed) = answer(line, subject).map_err(|error| format!("line {}: {error}", line.number))? else {
            continue;
        };
        let expected = line.expected.as_deref().unwrap_or("(nothing recorded)");
        if printed != expected {
            writeln!(wrong, "line {}:\n  expected {expected}\n  {} {printed}", line.number, subject.name())?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

fn answer(line: &CaseLine, subject: &mut dyn Subject) -> Result<Option<String>, CaseError> {
    match &line.step {
        Step::Record(record) => subject.record(record).map(|()| None),
        Step::Read(read) => {
            let printed = match subject.read(read)? {
                None => "not_found".to_owned(),
                Some(values) => {
                    let wanted =
                        values.iter().filter(|(name, _)| read.features.is_empty() || read.features.contains(name));
                    wanted.fold("found".to_owned(), |text, (name, value)| format!("{text} {name}={value}"))
                }
            };
            Ok(Some(printed))
        }
        Step::Accounting => {
            let Accounting { read, applied, duplicate, rejected, dedupe_conflict } = subject.accounting()?;
            Ok(Some(format!(
                "read={read} applied={applied} duplicate={duplicate} rejected={rejected} dedupe_conflict={dedupe_conflict}"
            )))
        }
    }
}

/// Writes the case file anew with the answers of `subject`.
pub fn update(text: &str, subject: &mut dyn Subject) -> Result<String, CaseError> {
    let mut lines = parse(text)?.into_iter();
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with("> ")) {
        writeln!(out, "{line}")?;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = lines.next().ok_or("more lines than steps")?;
        if let Some(printed) = answer(&parsed, subject)? {
            writeln!(out, "> {printed}")?;
        }
    }
    Ok(out)
}

/// The oracle as a subject: what it accepts is decided here, naively.
#[derive(Debug, Default)]
pub struct OracleSubject {
    events: Vec<OracleEvent>,
    payloads: std::collections::BTreeMap<String, OracleEvent>,
    counts: Accounting,
}

impl OracleSubject {
    fn accept(&mut self, record: &str) -> Result<(), CaseError> {
        let event = oracle_event(record)?;
        if let Some(id) = event.id.clone() {
            if let Some(first) = self.payloads.get(&id) {
                self.counts.duplicate += 1;
                self.counts.dedupe_conflict += u64::from(*first != event);
                return Ok(());
            }
            self.payloads.insert(id, event.clone());
        }
        self.counts.applied += 1;
        self.events.push(event);
        Ok(())
    }
}

impl Subject for OracleSubject {
    fn name(&self) -> String {
        "oracle".into()
    }

    fn record(&mut self, record: &str) -> Result<(), CaseError> {
        self.counts.read += 1;
        if self.accept(record).is_err() {
            self.counts.rejected += 1;
        }
        Ok(())
    }

    fn read(&mut self, read: &Read) -> Result<Option<Vec<(String, String)>>, CaseError> {
        let Some(key) = &read.key else { return Ok(None) };
        let view = oracle::view(&read.view).ok_or_else(|| format!("the oracle knows no view `{}`", read.view))?;
        let values = view(&self.events, key, read.at_us);
        Ok(values.map(|values| values.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()))
    }

    fn accounting(&mut self) -> Result<Accounting, CaseError> {
        Ok(self.counts)
    }
}

/// Reads a JSON record as contract.md, "Events", says; an error is a rejection.
pub fn oracle_event(record: &str) -> Result<OracleEvent, CaseError> {
    let serde_json::Value::Object(object) = serde_json::from_str(record)? else { return Err("not an object".into()) };
    let text = |name: &str| -> Result<Option<String>, CaseError> {
        match object.get(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(value)) => Ok(Some(value.clone())),
            Some(serde_json::Value::Number(value)) if value.is_i64() || value.is_u64() => Ok(Some(value.to_string())),
            Some(other) => Err(format!("{name} is {other}").into()),
        }
    };
    let float = |name: &str| -> Result<Option<f64>, CaseError> {
        match object.get(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("{name} is {value}").into()),
        }
    };
    let time = match object.get("event_time") {
        Some(serde_json::Value::String(text)) => parse_instant(text)?,
        Some(serde_json::Value::Number(value)) => {
            value.as_i64().and_then(|millis| millis.checked_mul(1000)).ok_or("time out of range")?
        }
        _ => return Err("no event_time".into()),
    };
    let (earliest, latest) = (parse_instant("1990-01-01T00:00:00Z")?, parse_instant("2090-01-01T00:00:00Z")?);
    if time < earliest || time > latest {
        return Err("time out of bounds".into());
    }
    Ok(OracleEvent {
        id: text("event_id")?,
        time,
        user: text("user_id")?,
        item: text("item_id")?,
        kind: text("event_type")?.ok_or("no event_type")?,
        category: text("category")?,
        price: float("price")?,
        quantity: object.get("quantity").and_then(serde_json::Value::as_i64),
        rating: float("rating")?,
    })
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.f…][Z|±hh:mm]` by counting days; µs since 1970, floored.
pub fn parse_instant(text: &str) -> Result<i64, CaseError> {
    let number = |from: usize, to: usize| -> Result<i64, CaseError> {
        Ok(text.get(from..to).ok_or_else(|| format!("`{text}` is no instant"))?.parse::<i64>()?)
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |year: i64, month: i64| match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let mut days: i64 = (1970..year).map(|year| 365 + i64::from(leap(year))).sum();
    days += (1..month).map(|month| days_of(year, month)).sum::<i64>() + day - 1;
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let rest = text.get(19..).unwrap_or("");
    let digits: String =
        rest.strip_prefix('.').unwrap_or("").chars().take_while(char::is_ascii_digit).take(6).collect();
    let micros: i64 = format!("{digits:0<6}").parse()?;
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset_minutes = match zone {
        "" | "Z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let hours: i64 = zone.get(1..3).ok_or("bad zone")?.parse()?;
            let minutes: i64 = zone.get(4..6).ok_or("bad zone")?.parse()?;
            sign * (hours * 60 + minutes)
        }
    };
    Ok((seconds - offset_minutes * 60) * 1_000_000 + micros)
}

/// Writes an instant from 1970 on as RFC 3339 with microseconds, by counting days.
pub fn format_instant(us: i64) -> String {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut days, in_day) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (seconds, micros) = (in_day / 1_000_000, in_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants() {
        assert_eq!(parse_instant("1970-01-01T00:00:00Z").unwrap(), 0);
        assert_eq!(parse_instant("2024-03-10T12:00:01Z").unwrap(), 1_710_072_001_000_000);
        assert_eq!(parse_instant("2024-03-10T14:00:01.5+02:00").unwrap(), 1_710_072_001_500_000);
        assert_eq!(parse_instant("2024-02-29T23:59:59.9999999Z").unwrap(), 1_709_251_199_999_999);
        assert_eq!(format_instant(1_709_251_199_999_999), "2024-02-29T23:59:59.999999Z");
        for us in (0..4_000_000_000_000_000).step_by(86_399_999_999_999) {
            assert_eq!(parse_instant(&format_instant(us)).unwrap(), us);
        }
    }

    #[test]
    fn a_case_that_prints_something_else_fails() {
        let text = "event id=e1 t=2024-03-10T12:00:00Z user=u1 type=view\nread user_activity u1 at 2024-03-10T12:00:01Z item_view_count_1h\n> found item_view_count_1h=2\n";
        let error = run(&parse(text).unwrap(), &mut OracleSubject::default()).unwrap_err().to_string();
        assert!(
            error.contains("expected found item_view_count_1h=2") && error.contains("item_view_count_1h=1"),
            "{error}"
        );
        let updated = update(text, &mut OracleSubject::default()).unwrap();
        run(&parse(&updated).unwrap(), &mut OracleSubject::default()).unwrap();
    }
}
