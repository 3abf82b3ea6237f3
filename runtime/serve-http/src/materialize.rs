//! Rebuilding online state from the archive: what is asked, and how it goes.

use crate::problem::Problem;
use crate::told::{Rebuild, RebuildDone, RebuildFailed, RebuildState};
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
    let (state, end) = match &status.phase {
        MaterializePhase::Running => (RebuildState::Running, Value::Null),
        MaterializePhase::Done(done) => {
            let end = RebuildDone {
                right: done.is_right(),
                position: done.position.clone(),
                missing: done.missing.clone(),
                views: done.views.clone(),
            };
            (RebuildState::Done, json!(end))
        }
        MaterializePhase::Failed { why, stopped, unavailable } => {
            let state = if *stopped { RebuildState::Stopped } else { RebuildState::Failed };
            (state, json!(RebuildFailed { why: why.clone(), unavailable: *unavailable }))
        }
    };
    let mut document = json!(Rebuild {
        id: status.id.clone(),
        from: status.request.from_us.map(format_rfc3339),
        to: status.request.to_us.map(format_rfc3339),
        events_read: status.read,
        events_to_read: status.total,
        seconds: status.seconds,
        state,
    });
    if let (Value::Object(document), Value::Object(end)) = (&mut document, end) {
        document.extend(end);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumb_pipeline::runtime::{Materialized, MaterializedView};

    #[test]
    fn what_is_written_is_what_is_read() {
        let told = |phase| {
            let request = Materialize { from_us: Some(1), to_us: None, threads: 2, memory_bytes: 3 };
            let document =
                status(&MaterializeStatus { id: "m".into(), request, phase, read: 4, total: 5, seconds: 0.5 });
            let rebuild: Rebuild = serde_json::from_value(document.clone()).unwrap();
            assert_eq!((rebuild.events_read, rebuild.events_to_read, rebuild.to), (4, 5, None));
            assert_eq!(rebuild.from.as_deref(), Some("1970-01-01T00:00:00.000001Z"));
            (rebuild.state, document)
        };
        assert_eq!(told(MaterializePhase::Running).0, RebuildState::Running);
        let views = vec![MaterializedView { view: "v".into(), states: 7, ..MaterializedView::default() }];
        let done = Materialized { position: "default:0=1".into(), views: views.clone(), missing: vec!["a/1".into()] };
        let (state, document) = told(MaterializePhase::Done(done));
        let read: RebuildDone = serde_json::from_value(document).unwrap();
        assert_eq!((state, read.right, read.views), (RebuildState::Done, false, views));
        for (stopped, wanted) in [(true, RebuildState::Stopped), (false, RebuildState::Failed)] {
            let (state, document) = told(MaterializePhase::Failed { why: "so".into(), stopped, unavailable: !stopped });
            let read: RebuildFailed = serde_json::from_value(document).unwrap();
            assert_eq!((state, read), (wanted, RebuildFailed { why: "so".into(), unavailable: !stopped }));
        }
    }
}
