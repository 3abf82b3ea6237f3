//! Request bodies into [`Query`]s. Names of views and features are checked later, against the active views;
//! here is what can be said of the JSON alone.

use crate::problem::Problem;
use hyper::StatusCode;
use plumb_pipeline::decode::parse_rfc3339;
use plumb_pipeline::near;
use plumb_pipeline::query::{KeyInput, Query, Request};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The members of a request that are no key fields.
const MEMBERS: [&str; 4] = ["entities", "features", "request", "as_of"];

/// Reads the body of `POST /features/vector`.
pub(crate) fn vector(body: &[u8]) -> Result<Query, Problem> {
    let mut object = object("the body", parse(body)?)?;
    let defaults = defaults(object.remove("defaults"))?;
    Ok(Query { requests: vec![request(object)?], defaults })
}

/// Reads the body of `POST /features/batch`.
pub(crate) fn batch(body: &[u8], limit: usize) -> Result<Query, Problem> {
    let mut object = object("the body", parse(body)?)?;
    let defaults = defaults(object.remove("defaults"))?;
    let requests = match object.remove("requests") {
        Some(Value::Array(requests)) => requests,
        Some(_) => return Err(Problem::bad_request("`requests` must be an array")),
        None => return Err(Problem::bad_request("the body needs `requests`, an array of vector requests")),
    };
    if let Some(name) = object.keys().next() {
        return Err(Problem::bad_request(format!("unknown member `{name}`; known are `requests`, `defaults`")));
    }
    if requests.len() > limit {
        return Err(Problem::too_large(format!("{} requests in a batch, at most {limit} are allowed", requests.len())));
    }
    let one = |(index, value)| {
        self::object("it", value).and_then(request).map_err(|problem: Problem| {
            let detail = format!("requests[{index}]: {}", problem.detail);
            Problem { detail, ..problem }.with("request", index)
        })
    };
    Ok(Query { requests: requests.into_iter().enumerate().map(one).collect::<Result<_, _>>()?, defaults })
}

/// Reads an instant of a request.
pub(crate) fn as_of(text: &str) -> Result<i64, Problem> {
    match parse_rfc3339(text.as_bytes()) {
        Some(instant) if instant.zoned => Ok(instant.us),
        Some(_) => Err(as_of_problem(text, "has no time zone: end it with Z or an offset")),
        None => Err(as_of_problem(text, NO_INSTANT)),
    }
}

const NO_INSTANT: &str = "is no RFC 3339 time with a zone: write it";

fn as_of_problem(text: &str, why: &str) -> Problem {
    let detail = format!("as_of \"{text}\" {why}, as in 2026-01-31T12:00:00Z");
    Problem::new(StatusCode::BAD_REQUEST, "invalid-as-of", "Invalid as_of", detail)
}

/// Splits `view:feature,view:*`.
pub(crate) fn feature_list(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn parse(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))
}

fn object(what: &str, value: Value) -> Result<Map<String, Value>, Problem> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Problem::bad_request(format!("{what} must be a JSON object"))),
    }
}

fn defaults(value: Option<Value>) -> Result<Vec<(String, Value)>, Problem> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(defaults)) => Ok(defaults.into_iter().collect()),
        Some(_) => Err(Problem::bad_request("`defaults` must be an object of `view:feature` and values")),
    }
}

fn request(mut object: Map<String, Value>) -> Result<Request, Problem> {
    let as_of_us = match object.remove("as_of") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(as_of(&text)?),
        // A number is no instant: its unit would be a guess.
        Some(other) => return Err(as_of_problem(&other.to_string(), NO_INSTANT)),
    };
    let features = match object.remove("features") {
        None | Some(Value::Null) => None,
        Some(Value::Array(names)) => Some(names.into_iter().map(feature_name).collect::<Result<Vec<_>, _>>()?),
        Some(_) => return Err(Problem::bad_request("`features` must be an array of names like \"view:feature\"")),
    };
    // Request-time fields: no view of this release takes any.
    if let Some(request) = object.remove("request")
        && !matches!(request, Value::Object(_) | Value::Null)
    {
        return Err(Problem::bad_request("`request` must be an object"));
    }
    let entities = match object.remove("entities") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(entities)) => {
            let key = |(name, value): (String, Value)| Ok((name.clone(), key_input(&name, value)?));
            entities.into_iter().map(key).collect::<Result<_, Problem>>()?
        }
        Some(_) => return Err(Problem::bad_request("`entities` must be an object of entity names and keys")),
    };
    let fields: Vec<(String, Option<String>)> = object
        .into_iter()
        .map(|(name, value)| match &value {
            // A structure is no key of the short form: more likely a misspelt member.
            Value::Array(_) | Value::Object(_) => {
                let near = near::near_names(&name, MEMBERS);
                let hint = if near.is_empty() {
                    String::new()
                } else {
                    format!("; did you mean {}?", near::quoted(near.iter().map(String::as_str)))
                };
                Err(Problem::bad_request(format!("unknown member `{name}`{hint}")).with("near", near))
            }
            _ => key_text(&name, value).map(|text| (name, text)),
        })
        .collect::<Result<_, _>>()?;
    if entities.is_empty() && fields.is_empty() {
        let detail = "no entity is given: write \"entities\": {\"user\": \"u1\"} or \"user_id\": \"u1\"";
        return Err(Problem::bad_request(detail));
    }
    Ok(Request { entities, fields, features, as_of_us })
}

fn feature_name(value: Value) -> Result<String, Problem> {
    match value {
        Value::String(name) => Ok(name),
        other => Err(Problem::bad_request(format!("feature {other} must be a name like \"view:feature\""))),
    }
}

fn key_input(entity: &str, value: Value) -> Result<KeyInput, Problem> {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| Ok((name.clone(), key_text(&name, value)?));
            let fields: BTreeMap<_, _> = fields.into_iter().map(field).collect::<Result<_, Problem>>()?;
            Ok(KeyInput::Fields(fields))
        }
        other => Ok(KeyInput::Value(key_text(entity, other)?)),
    }
}

/// A key's text: a string, the decimal digits of an integer, or null.
fn key_text(name: &str, value: Value) -> Result<Option<String>, Problem> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        other => Err(Problem::bad_request(format!("key `{name}` is {other}, expected a string, an integer or null"))),
    }
}
