//! Rebuilding online state from the archive: what is asked, and how it goes.

use crate::problem::Problem;
use plumb_pipeline::decode::{format_rfc3339, parse_rfc3339};
use plumb_pipeline::runtime::{Materialize, MaterializePhase, MaterializeStatus};
use serde::Deserialize;
use serde_json::{Value, json};

/// The memory for state that is being built, where nothing is asked.
const MEMORY_BYTES: u64 = 1 << 30;

/// The body of `POST /materialize/state`; every member may be absent.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    from: Option<String>,
    to: Option<String>,
    threads: Option<usize>,
    memory_bytes: Option<u64>,
}

/// Reads the body.
pub(crate) fn request(body: &[u8]) -> Result<Materialize, Problem> {
    let bad = |error| Problem::bad_request(format!("the body is no request to rebuild state: {error}"));
    let body: Body = if body.is_empty() { Body::default() } else { serde_json::from_slice(body).map_err(bad)? };
    let instant = |name: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => match parse_rfc3339(text.as_bytes()).filter(|instant| instant.zoned) {
            Some(instant) => Ok(Some(instant.us)),
            None => Err(Problem::bad_request(format!(
                "{name} \"{text}\" is no RFC 3339 time with a zone: write it as in 2026-01-31T12:00:00Z"
            ))),
        },
    };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Materialize {
        from_us: instant("from", body.from)?,
        to_us: instant("to", body.to)?,
        threads: body.threads.filter(|&threads| threads > 0).unwrap_or_else(cores),
        memory_bytes: body.memory_bytes.unwrap_or(MEMORY_BYTES),
    })
}

/// How it goes, as JSON.
pub(crate) fn status(status: &MaterializeStatus) -> Value {
    let instant = |us: Option<i64>| us.map(format_rfc3339);
    let mut document = json!({
        "id": status.id,
        "from": instant(status.request.from_us),
        "to": instant(status.request.to_us),
        "events_read": status.read,
        "events_to_read": status.total,
        "seconds": status.seconds,
    });
    match &status.phase {
        MaterializePhase::Running => document["state"] = "running".into(),
        MaterializePhase::Done(done) => {
            document["state"] = "done".into();
            document["right"] = done.is_right().into();
            document["position"] = done.position.as_str().into();
            document["missing"] = json!(done.missing);
            document["views"] = json!(done.views);
        }
        MaterializePhase::Failed { why, stopped, unavailable } => {
            document["state"] = if *stopped { "stopped" } else { "failed" }.into();
            document["why"] = why.as_str().into();
            document["unavailable"] = (*unavailable).into();
        }
    }
    document
}
