use super::*;
use plumb_core::event::Field;
use proptest::prelude::*;

const STAMP_US: i64 = 1_700_000_000_000_000;

fn schema() -> Arc<SourceSchema> {
    let mut schema = SourceSchema::default_schema();
    for (name, data_type) in [("vip", DataType::Bool), ("seen", DataType::Timestamp), ("token", DataType::Bytes)] {
        schema.fields.push(Field { name: name.into(), data_type, required: false });
    }
    Arc::new(schema)
}

fn decode_with(decoder: &mut JsonDecoder, batch: &mut EventBatch, text: &[u8]) -> Result<(), String> {
    let offset = batch.len() as u64;
    decoder.decode(batch, Record { offset, record_time_us: STAMP_US, bytes: text })
}

/// Decodes one record and writes it again.
fn check(text: &str) -> Result<String, String> {
    let mut batch = EventBatch::new(schema());
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
    decode_with(&mut decoder, &mut batch, text.as_bytes())?;
    assert!(batch.columns.iter().all(|column| column.len() == 1));
    let mut out = Vec::new();
    encode(&batch, 0, &mut out);
    Ok(String::from_utf8(out).unwrap())
}

/// Decodes a record with one more field than the least an event has, and shows that field as written again.
fn field(name: &str, value: &str) -> Result<String, String> {
    let text = format!(r#"{{"event_time":"2017-01-01T11:53:26Z","event_type":"view","{name}":{value}}}"#);
    let out = check(&text)?;
    let start = out.find(&format!("\"{name}\":")).map(|at| at + name.len() + 3);
    let Some(start) = start else { return Ok("null".into()) };
    let end = out[start..].find(",\"").map_or(out.len() - 1, |at| at + start);
    Ok(out[start..end].to_owned())
}

#[test]
fn reads_a_typical_event() {
    let text = r#"{"event_id":"cj-0000001","event_time":"2017-01-01T11:53:26.000Z","user_id":"900","item_id":"1095275","event_type":"purchase","category":"ROLLS \"fresh\"","price":0.5,"quantity":1,"session_id":"31198570044"}"#;
    assert_eq!(check(text).unwrap(), text.replace(".000Z", ".000000Z"));
}

#[test]
fn values_convert_as_documented() {
    for (name, value, wanted) in [
        ("user_id", "17", "\"17\""),
        ("user_id", "-17", "\"-17\""),
        ("user_id", "-0", "\"0\""),
        ("user_id", "18446744073709551615", "\"18446744073709551615\""),
        ("user_id", "123456789012345678901234567890", "\"123456789012345678901234567890\""),
        ("user_id", "-123456789012345678901234567890", "\"-123456789012345678901234567890\""),
        ("user_id", "\"\"", "\"\""),
        ("user_id", "null", "null"),
        ("user_id", r#""\u00e9\ud83d\ude00\n""#, "\"é😀\\n\""),
        ("event_id", "5", "\"5\""),
        ("price", "3", "3.0"),
        ("price", "18446744073709551615", "1.8446744073709552e19"),
        ("price", "-0", "-0.0"),
        ("price", "1e-400", "0.0"),
        ("price", "4.9406564584124654e-324", "5e-324"),
        ("quantity", "-9223372036854775808", "-9223372036854775808"),
        ("quantity", "3.0", "3"),
        ("quantity", "1e3", "1000"),
        ("quantity", "-0", "0"),
        ("quantity", "9007199254740992.0", "9007199254740992"),
        ("vip", "true", "true"),
        ("vip", "false", "false"),
        ("seen", "1483271606000", "\"2017-01-01T11:53:26.000000Z\""),
        ("seen", "-1", "\"1969-12-31T23:59:59.999000Z\""),
        ("seen", "\"2017-01-01 11:53:26+01:00\"", "\"2017-01-01T10:53:26.000000Z\""),
        ("token", "\"AP8=\"", "\"AP8=\""),
        ("unknown", "[[[{\"a\":[1e999999]}]]]", "null"),
    ] {
        assert_eq!(field(name, value).as_deref(), Ok(wanted), "{name} {value}");
    }
}

#[test]
fn refusals_name_the_field_and_what_would_be_right() {
    for (name, value, wanted) in [
        ("user_id", "1.5", "field `user_id`: expected a string or an integer, found the number 1.5"),
        ("user_id", "1e30", "field `user_id`: expected a string or an integer, found the number 1e30"),
        ("user_id", "true", "field `user_id`: expected a string or an integer, found true"),
        ("user_id", "[1]", "field `user_id`: expected a string or an integer, found an array"),
        ("user_id", "{}", "field `user_id`: expected a string or an integer, found an object"),
        ("price", "\"1.5\"", "field `price`: expected a number, found the string `1.5`"),
        ("quantity", "1.5", "field `quantity`: expected an integer, found the number 1.5"),
        ("quantity", "\"1\"", "field `quantity`: expected an integer, found the string `1`"),
        (
            "quantity",
            "9223372036854775808",
            "field `quantity`: expected an integer, found 9223372036854775808, which is beyond 64 bits",
        ),
        ("quantity", "9007199254740994.0", "field `quantity`: expected an integer, found the number 9007199254740994"),
        ("vip", "1", "field `vip`: expected true or false, found the number 1"),
        ("seen", "\"yesterday\"", "field `seen`: `yesterday` is no RFC 3339 instant"),
        ("seen", "9223372036854775807", "field `seen`: 9223372036854775807 ms since 1970 is out of range"),
        ("token", "\"AP8\"", "field `token`: not base64: "),
        ("event_time", "\"2017-02-30T00:00:00Z\"", "field `event_time`: `2017-02-30T00:00:00Z` is no RFC 3339 instant"),
        ("event_time", "null", "missing field `event_time`"),
        ("event_time", "true", "field `event_time`: expected an RFC 3339 string or an integer, found true"),
        ("event_type", "null", "missing field `event_type`"),
        ("price", "1e999", "field `price`: not JSON of an event: number out of range"),
        ("price", "NaN", "field `price`: not JSON of an event: expected value"),
        ("price", "01", "field `price`: not JSON of an event: invalid number"),
        ("user_id", r#""\ud800""#, "field `user_id`: not JSON of an event: "),
        ("user_id", "\"a\nb\"", "field `user_id`: not JSON of an event: control character"),
    ] {
        let reason = field(name, value).unwrap_err();
        assert!(reason.starts_with(wanted), "{name} {value}: {reason}");
    }
    for (text, wanted) in [
        ("", "not JSON of an event: EOF"),
        ("[]", "not JSON of an event: invalid type: sequence, expected a JSON object"),
        ("7", "not JSON of an event: invalid type: integer `7`, expected a JSON object"),
        ("{", "not JSON of an event: EOF"),
        ("{}", "missing field `event_type`"),
        (r#"{"event_type":"view"}"#, "missing field `event_time`"),
        (r#"{"event_type":"view","event_time":0} x"#, "not JSON of an event: trailing characters"),
        (r#"{"event_type":"view","event_time":0"#, "not JSON of an event: EOF"),
    ] {
        let reason = check(text).unwrap_err();
        assert!(reason.starts_with(wanted), "{text}: {reason}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let mut batch = EventBatch::new(schema());
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
    let text = b"{\"event_time\":0,\"event_type\":\"view\",\"unknown\":\"\xff\"}";
    assert_eq!(decode_with(&mut decoder, &mut batch, text).unwrap_err(), "not UTF-8 at byte 47");
    let long = vec![b' '; RECORD_BYTES_MAX + 1];
    assert!(decode_with(&mut decoder, &mut batch, &long).unwrap_err().contains("longer than 8388608"));
    assert_eq!(batch, EventBatch::new(schema()));
}

#[test]
fn nesting_is_bounded_by_nothing_but_the_record() {
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    assert!(field("unknown", &deep).is_ok());
    assert!(field("price", &deep).is_err());
    assert!(field("unknown", &"[".repeat(500_000)).is_err());
}

#[test]
fn of_a_repeated_name_the_last_counts() {
    let text = r#"{"event_type":"view","event_time":5,"price":1,"event_type":"cart","event_time":1000,"price":null}"#;
    assert_eq!(check(text).unwrap(), r#"{"event_time":"1970-01-01T00:00:01.000000Z","event_type":"cart"}"#);
    let text = r#"{"event_type":"view","event_time":5,"event_time":null}"#;
    assert_eq!(check(text).unwrap_err(), "missing field `event_time`");
    let text = r#"{"user_id":"a","user_id":123456789012345678901,"event_type":"view","event_time":0}"#;
    assert!(check(text).unwrap().contains(r#""user_id":"123456789012345678901""#));
}

#[test]
fn an_instant_without_zone_is_utc_and_counted() {
    let mut batch = EventBatch::new(schema());
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::S);
    for time in ["\"2017-01-01 00:00:00\"", "\"2017-01-01T00:00:00Z\"", "1483228800"] {
        let text = format!(r#"{{"event_time":{time},"event_type":"view"}}"#);
        decode_with(&mut decoder, &mut batch, text.as_bytes()).unwrap();
    }
    assert_eq!(batch.times_us, [1_483_228_800_000_000; 3]);
    assert_eq!(decoder.zoneless(), 1);
}

#[test]
fn rules_are_applied_while_the_bytes_are_at_hand() {
    let mut batch = SourceBatch { events: EventBatch::new(schema()), rejected: Vec::new(), next_offset: 0 };
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms).with_rules(AcceptRules::default());
    let text = br#"{"event_time":1483271606,"event_type":"view","secret":1}"#;
    decoder.decode_into(&mut batch, Record { offset: 41, record_time_us: STAMP_US, bytes: text });
    assert_eq!(batch.next_offset, 42);
    assert_eq!(batch.rejected[0].bytes, text);
    assert_eq!(
        batch.rejected[0].reason,
        "field `event_time`: 1970-01-18T04:01:11.606000Z is before min_time 1990-01-01T00:00:00.000000Z; \
         check the source's time_unit"
    );
}

#[test]
fn what_json_cannot_hold_is_left_out() {
    let mut batch = EventBatch::new(schema());
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
    let text = br#"{"event_time":0,"event_type":"view"}"#;
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        decode_with(&mut decoder, &mut batch, text).unwrap();
        let row = batch.len() - 1;
        let price = batch.schema.column_of("price").unwrap();
        batch.columns[price].truncate(row);
        batch.columns[price].push_f64(value);
        let mut out = Vec::new();
        encode(&batch, row, &mut out);
        assert!(!String::from_utf8(out).unwrap().contains("price"));
    }
}

/// A value of a field as JSON, right or wrong.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        ".{0,12}".prop_map(Value::String),
        (0i64..4_000_000_000_000).prop_map(|ms| json!(format_ms(ms))),
        Just(json!({"a": [1]})),
    ]
}

fn format_ms(ms: i64) -> String {
    crate::decode::time::format_rfc3339(ms * 1_000)
}

/// What the decoder should make of a record, by way of `serde_json::Value`; `None` = refused.
fn naive(record: &serde_json::Map<String, serde_json::Value>) -> Option<Vec<serde_json::Value>> {
    use serde_json::{Value, json};
    let schema = schema();
    let names = std::iter::once("event_time".to_owned()).chain(schema.fields.iter().map(|field| field.name.clone()));
    let mut values = Vec::new();
    for name in names.chain(["event_id".to_owned()]) {
        let value = record.get(&name).cloned().unwrap_or(Value::Null);
        let required = name == "event_time" || name == "event_type";
        values.push(match (schema.type_of(&name).unwrap(), &value) {
            (_, Value::Null) if required => return None,
            (_, Value::Null) => Value::Null,
            (DataType::Utf8, Value::String(_)) => value,
            (DataType::Utf8, Value::Number(n)) if n.is_i64() => json!(n.to_string()),
            (DataType::F64, Value::Number(n)) => json!(n.as_f64()),
            (DataType::I64, Value::Number(n)) if n.is_i64() => value,
            (DataType::I64, Value::Number(n)) => {
                let n = n.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9007199254740992.0)?;
                json!(n as i64)
            }
            (DataType::Bool, Value::Bool(_)) => value,
            (DataType::Timestamp, Value::String(text)) => json!(parse_rfc3339(text.as_bytes())?.us),
            (DataType::Timestamp, Value::Number(n)) if n.is_i64() => json!(n.as_i64()?.checked_mul(1_000)?),
            (DataType::Timestamp, Value::Number(n)) => {
                let n = n.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9007199254740992.0)?;
                json!((n as i64).checked_mul(1_000)?)
            }
            (DataType::Bytes, Value::String(text)) => json!(BASE64.decode(text).ok()?),
            _ => return None,
        });
    }
    Some(values)
}

fn decoded(batch: &EventBatch, row: usize) -> Vec<serde_json::Value> {
    use serde_json::{Value, json};
    let value = |column: &Column| match &column.values {
        _ if !column.is_valid(row) => Value::Null,
        Values::I64(v) | Values::Timestamp(v) => json!(v[row]),
        Values::F64(v) => json!(v[row]),
        Values::Bool(v) => json!(v[row] == 1),
        Values::Utf8(v) => json!(std::str::from_utf8(v.get(row)).unwrap()),
        Values::Bytes(v) => json!(v.get(row)),
        Values::List { .. } => unreachable!(),
    };
    let mut values = vec![json!(batch.times_us[row])];
    values.extend(batch.columns[1..].iter().map(value));
    values.push(value(&batch.columns[0]));
    values
}

fn any_record() -> impl Strategy<Value = serde_json::Map<String, serde_json::Value>> {
    let names: Vec<String> =
        schema().fields.iter().map(|field| field.name.clone()).chain(["event_id".into(), "other".into()]).collect();
    let fitting = (0i64..4_000_000_000_000).prop_map(format_ms);
    let fields = proptest::collection::vec((proptest::sample::select(names), any_value()), 0..6);
    (fitting, fields, any::<bool>()).prop_map(|(time, fields, whole)| {
        let mut record = serde_json::Map::new();
        if whole {
            record.insert("event_type".into(), "view".into());
        }
        record.insert("event_time".into(), time.into());
        record.extend(fields);
        record
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any mix of records: what is refused leaves no trace, the rest is what a tree of values would give,
    /// and writing a row and reading it again changes nothing.
    #[test]
    fn agrees_with_a_tree_of_values(records in proptest::collection::vec(any_record(), 1..8)) {
        let mut batch = EventBatch::new(schema());
        let mut again = EventBatch::new(schema());
        let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
        let mut wanted = Vec::new();
        for record in &records {
            let before = batch.clone();
            let text = serde_json::to_vec(record).unwrap();
            match (decode_with(&mut decoder, &mut batch, &text), naive(record)) {
                (Ok(()), Some(values)) => wanted.push(values),
                (Err(_), None) => prop_assert_eq!(&batch, &before),
                (found, naive) => prop_assert!(false, "{:?} but {:?}: {:?}", found, naive, record),
            }
        }
        prop_assert_eq!(batch.len(), wanted.len());
        for (row, wanted) in wanted.iter().enumerate() {
            prop_assert_eq!(&decoded(&batch, row), wanted);
            let mut out = Vec::new();
            encode(&batch, row, &mut out);
            decode_with(&mut decoder, &mut again, &out).unwrap();
        }
        prop_assert_eq!(again, batch);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[\\[\\]{}\",:0-9a-z \\\\-]{0,40}") {
        let text = format!("{{\"event_type\":\"view\",\"event_time\":0,{text}}}");
        let wanted = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        prop_assert!(wanted || check(&text).is_err());
    }
}

/// Every f64 reads as `str::parse` reads it and survives being written: JSON and Parquet agree to the bit.
#[test]
fn floats_are_exact() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut batch = EventBatch::new(schema());
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
    let price = batch.schema.column_of("price").unwrap();
    for round in 0..100_000 {
        let bits = f64::from_bits(next());
        let text = match round % 4 {
            _ if !bits.is_finite() => continue,
            0 => format!("{bits:e}"),
            1 => format!("{}.{:020}", next() % 100_000, next()),
            2 => format!("{:.17e}", bits),
            _ => format!("{}.{:02}", next() % 1_000, next() % 100),
        };
        batch.truncate(0);
        let record = format!(r#"{{"event_time":0,"event_type":"view","price":{text}}}"#);
        decode_with(&mut decoder, &mut batch, record.as_bytes()).unwrap();
        let wanted: f64 = text.parse().unwrap();
        assert_eq!(batch.columns[price].as_f64().unwrap()[0].to_bits(), wanted.to_bits(), "{text}");
        let mut out = Vec::new();
        encode(&batch, 0, &mut out);
        decode_with(&mut decoder, &mut batch, &out).unwrap();
        assert_eq!(batch.columns[price].as_f64().unwrap()[1].to_bits(), wanted.to_bits(), "{text}");
    }
}
