//! Answers as JSON, written straight into bytes: floats in shortest round-trip form, timestamps in RFC 3339.

use plumb_pipeline::decode::time::write_rfc3339;
use plumb_pipeline::query::{Answer, ReadSource, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The JSON of one answer.
pub(crate) fn vector(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + answer.features.len() * 48);
    write_answer(&mut out, answer);
    out
}

/// The JSON of a batch.
pub(crate) fn batch(answers: &[Answer]) -> Vec<u8> {
    let features: usize = answers.iter().map(|answer| answer.features.len()).sum();
    let mut out = Vec::with_capacity(answers.len() * 256 + features * 48);
    out.extend_from_slice(b"{\"results\":[");
    for (index, answer) in answers.iter().enumerate() {
        comma(&mut out, index);
        write_answer(&mut out, answer);
    }
    out.extend_from_slice(b"]}");
    out
}

/// The JSON of `GET /features/online/{id}` and `/features/offline/{id}`.
pub(crate) fn user(user_id: &str, answer: &Answer) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + answer.features.len() * 48);
    out.extend_from_slice(b"{\"user_id\":");
    string(&mut out, user_id);
    head(&mut out, b',', answer);
    let any_offline = answer.views.iter().any(|view| view.source == ReadSource::Offline);
    let source = if any_offline { ReadSource::Offline } else { ReadSource::Online };
    out.extend_from_slice(b",\"source\":");
    string(&mut out, source.name());
    out.push(b'}');
    out
}

fn write_answer(out: &mut Vec<u8>, answer: &Answer) {
    head(out, b'{', answer);
    out.extend_from_slice(b",\"entities\":{");
    for (index, entity) in answer.entities.iter().enumerate() {
        comma(out, index);
        string(out, &entity.entity);
        out.extend_from_slice(b":{\"status\":");
        string(out, entity.status.name());
        out.extend_from_slice(b",\"event_time\":");
        match entity.event_time_us {
            Some(us) => timestamp(out, us),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    // Versions of different entities' views share no name.
    let versions: BTreeMap<&Arc<str>, &Arc<str>> =
        answer.views.iter().map(|view| (&view.view, &view.version)).collect();
    out.extend_from_slice(b"},\"versions\":{");
    for (index, (view, version)) in versions.into_iter().enumerate() {
        comma(out, index);
        string(out, view);
        out.push(b':');
        string(out, version);
    }
    out.extend_from_slice(b"},\"views\":{");
    for (index, view) in answer.views.iter().enumerate() {
        comma(out, index);
        string(out, &view.view);
        out.extend_from_slice(b":{\"status\":");
        string(out, view.status.name());
        out.extend_from_slice(b",\"source\":");
        string(out, view.source.name());
        out.push(b'}');
    }
    out.extend_from_slice(b"}}");
}

/// `as_of`, `position` and `features`, which every answer has.
fn head(out: &mut Vec<u8>, before: u8, answer: &Answer) {
    out.push(before);
    out.extend_from_slice(b"\"as_of\":");
    timestamp(out, answer.as_of_us);
    out.extend_from_slice(b",\"position\":\"");
    // A token has no letter that JSON escapes.
    out.extend_from_slice(answer.position.to_string().as_bytes());
    out.extend_from_slice(b"\",\"features\":{");
    for (index, (name, value)) in answer.features.iter().enumerate() {
        comma(out, index);
        string(out, name);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::I64(number) => json(out, number),
        // Hosts turn what is not finite into null; JSON has no other word for it.
        Value::F64(number) if !number.is_finite() => out.extend_from_slice(b"null"),
        Value::F64(number) => json(out, number),
        Value::Bool(set) => json(out, set),
        Value::Utf8(text) => string(out, text),
        Value::Bytes(bytes) => base64(out, bytes),
        Value::Timestamp(us) => timestamp(out, *us),
        Value::List(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                comma(out, index);
                write_value(out, value);
            }
            out.push(b']');
        }
        Value::Default(value) => json(out, value.as_ref()),
    }
}

fn comma(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("invariant: plain values write to memory");
}

fn string(out: &mut Vec<u8>, text: &str) {
    json(out, text);
}

fn timestamp(out: &mut Vec<u8>, us: i64) {
    out.push(b'"');
    write_rfc3339(us, out);
    out.push(b'"');
}

/// Bytes as a string in standard base64 (RFC 4648 §4).
fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { letter } else { b'=' });
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: Value) -> String {
        let mut out = Vec::new();
        write_value(&mut out, &value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_exact() {
        for (value, wanted) in [
            (Value::Null, "null"),
            (Value::I64(i64::MIN), "-9223372036854775808"),
            (Value::F64(0.1 + 0.2), "0.30000000000000004"),
            (Value::F64(3.0), "3.0"),
            (Value::F64(f64::NAN), "null"),
            (Value::F64(5e-324), "5e-324"),
            (Value::Bool(true), "true"),
            (Value::Utf8("a\"\u{1}é".into()), "\"a\\\"\\u0001é\""),
            (Value::Timestamp(1_500_000), "\"1970-01-01T00:00:01.500000Z\""),
            (Value::Bytes(b"".to_vec()), "\"\""),
            (Value::Bytes(b"f".to_vec()), "\"Zg==\""),
            (Value::Bytes(b"fo".to_vec()), "\"Zm8=\""),
            (Value::Bytes(b"foobar".to_vec()), "\"Zm9vYmFy\""),
            (Value::List(vec![Value::Utf8("x".into()), Value::Null]), "[\"x\",null]"),
        ] {
            assert_eq!(text(value), wanted);
        }
        let float = 1.797_693_134_862_315_7e308_f64;
        assert_eq!(text(Value::F64(float)).parse::<f64>().unwrap().to_bits(), float.to_bits());
    }
}
