//! Bodies of `POST /events` cut into records: one object, an array of objects, or one object a line.

use crate::problem::Problem;
use serde::de::IgnoredAny;
use serde_json::Deserializer;

/// A record and the line of the body on which it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) line: usize,
    pub(crate) bytes: &'a [u8],
}

/// How a body is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An object, an array of objects, or objects one after the other.
    Json,
    /// One object a line.
    Lines,
    /// One record a line, whatever it holds: one that is no event ends in the dead letters, as from a file.
    AsIs,
    /// The whole body is one record, whatever it holds.
    One,
}

/// Cuts a body into records; the error names the line.
pub(crate) fn split(body: &[u8], shape: Shape) -> Result<Vec<Record<'_>>, Problem> {
    let records = match shape {
        Shape::Lines => lines(body, true)?,
        Shape::AsIs => lines(body, false)?,
        Shape::One => vec![Record { line: 1, bytes: body }],
        Shape::Json => match body.trim_ascii_start().first() {
            Some(b'[') => array(body)?,
            _ => values(body)?,
        },
    };
    if records.is_empty() {
        return Err(Problem::bad_request("the body holds no event"));
    }
    Ok(records)
}

/// A mistake on a line, counted from 1.
pub(crate) fn at_line(line: usize, why: &str) -> Problem {
    Problem::bad_request(format!("line {line}: {why}")).with("line", line)
}

fn lines(body: &[u8], check: bool) -> Result<Vec<Record<'_>>, Problem> {
    let mut records = Vec::new();
    for (index, text) in body.split(|&byte| byte == b'\n').enumerate() {
        let bytes = text.trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let line = index + 1;
        if check {
            check_object(line, bytes)?;
            serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| at_line(line, &not_json(&error)))?;
        }
        records.push(Record { line, bytes });
    }
    Ok(records)
}

fn values(body: &[u8]) -> Result<Vec<Record<'_>>, Problem> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(start) = skip(body, at) {
        let record = value(body, start)?;
        at = start + record.bytes.len();
        records.push(record);
    }
    Ok(records)
}

fn array(body: &[u8]) -> Result<Vec<Record<'_>>, Problem> {
    let line = |at: usize| line_of(body, at.min(body.len()));
    let unended = || at_line(line(body.len()), "the array has no end");
    let mut records = Vec::new();
    let mut at = skip(body, 0).ok_or_else(unended)? + 1;
    let mut start = skip(body, at).ok_or_else(unended)?;
    if body[start] != b']' {
        loop {
            let record = value(body, start)?;
            at = skip(body, start + record.bytes.len()).ok_or_else(unended)?;
            records.push(record);
            match body[at] {
                b']' => break,
                b',' => start = skip(body, at + 1).ok_or_else(unended)?,
                _ => return Err(at_line(line(at), "expected `,` or `]` after an event")),
            }
        }
        start = at;
    }
    match skip(body, start + 1) {
        None => Ok(records),
        Some(at) => Err(at_line(line(at), "something follows the array")),
    }
}

/// The object that begins at `start`.
fn value(body: &[u8], start: usize) -> Result<Record<'_>, Problem> {
    let line = line_of(body, start);
    check_object(line, &body[start..])?;
    let mut stream = Deserializer::from_slice(&body[start..]).into_iter::<IgnoredAny>();
    match stream.next() {
        Some(Ok(_)) => Ok(Record { line, bytes: &body[start..start + stream.byte_offset()] }),
        Some(Err(error)) => Err(at_line(line + error.line().saturating_sub(1), &not_json(&error))),
        None => Err(at_line(line, "expected an event")),
    }
}

fn check_object(line: usize, bytes: &[u8]) -> Result<(), Problem> {
    if bytes.first() == Some(&b'{') {
        return Ok(());
    }
    Err(at_line(line, "an event is a JSON object, it begins with `{`"))
}

fn not_json(error: &serde_json::Error) -> String {
    // The position is relative to the record; the line is named by the caller.
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("not JSON: {what} (column {})", error.column())
}

/// The first byte at or after `at` that is no white space.
fn skip(body: &[u8], at: usize) -> Option<usize> {
    body.get(at..)?.iter().position(|byte| !byte.is_ascii_whitespace()).map(|found| at + found)
}

fn line_of(body: &[u8], at: usize) -> usize {
    body[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(body: &str, shape: Shape) -> Result<Vec<(usize, String)>, String> {
        match split(body.as_bytes(), shape) {
            Ok(records) => Ok(records
                .iter()
                .map(|record| (record.line, String::from_utf8(record.bytes.to_vec()).unwrap()))
                .collect()),
            Err(problem) => Err(problem.detail),
        }
    }

    #[test]
    fn bodies_are_cut_into_records() {
        use Shape::{AsIs, Json, Lines};
        let one = |line, text: &str| (line, text.to_owned());
        for (body, shape, wanted) in [
            ("{\"a\":1}", Json, vec![one(1, "{\"a\":1}")]),
            (" \n{\"a\":\n[1,2]}\n", Json, vec![one(2, "{\"a\":\n[1,2]}")]),
            ("{\"a\":1}\n{\"b\":2}", Json, vec![one(1, "{\"a\":1}"), one(2, "{\"b\":2}")]),
            ("[{\"a\":1},\n {\"b\":\"]\"}]", Json, vec![one(1, "{\"a\":1}"), one(2, "{\"b\":\"]\"}")]),
            ("{\"a\":1}\r\n\n{\"b\":2}\n", Lines, vec![one(1, "{\"a\":1}"), one(3, "{\"b\":2}")]),
            ("{\"a\":1}\n{\"b\":\n7", AsIs, vec![one(1, "{\"a\":1}"), one(2, "{\"b\":"), one(3, "7")]),
        ] {
            assert_eq!(cut(body, shape).unwrap(), wanted, "{body}");
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        use Shape::{Json, Lines};
        for (body, shape, wanted) in [
            ("", Json, "the body holds no event"),
            ("[]", Json, "the body holds no event"),
            ("\n\n", Lines, "the body holds no event"),
            ("{\"a\":1}\n{\"b\":}", Lines, "line 2: not JSON: expected value (column 6)"),
            ("{\"a\":1} {\"b\":2}", Lines, "line 1: not JSON: trailing characters (column 9)"),
            ("{\"a\":1}\n7", Lines, "line 2: an event is a JSON object"),
            ("{\"a\":\n1,}", Json, "line 2: not JSON"),
            ("[{\"a\":1},\n{\"b\":2]", Json, "line 2: not JSON"),
            ("[{\"a\":1},\n3]", Json, "line 2: an event is a JSON object"),
            ("[{\"a\":1}\n{\"a\":1}]", Json, "line 2: expected `,` or `]` after an event"),
            ("[{\"a\":1},", Json, "line 1: the array has no end"),
            ("[", Json, "line 1: the array has no end"),
            ("[{\"a\":1}]\nx", Json, "line 2: something follows the array"),
            ("{\"a\":1", Json, "line 1: not JSON: EOF"),
            ("\"x\"", Json, "line 1: an event is a JSON object"),
        ] {
            let detail = cut(body, shape).unwrap_err();
            assert!(detail.starts_with(wanted), "{body}: {detail}");
        }
    }
}
