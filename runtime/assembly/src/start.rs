//! What `--from` may mean for a job that has commits.
//!
//! It says where partitions begin that were never processed. What was processed is not processed again in the same
//! job: it would count twice. A view that is new to the job is built from the whole archive of accepted events, then
//! follows the log from the exact position that was committed with it; leaving out a part would make its answers
//! differ from those of a backfill.

use crate::{Error, Result};
use plumb_pipeline::commit::{JobChain, committed_partitions, latest};
use plumb_pipeline::port::{ObjectStore, StartFrom};
use plumb_pipeline::query::Position;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Refuses a start that would leave out or repeat something of what is committed. `given` are the source and digest of
/// each component to run.
pub(crate) fn check(
    store: &Arc<dyn ObjectStore>,
    from: &BTreeMap<String, StartFrom>,
    given: &[(String, String)],
) -> Result<()> {
    for (source, from) in from {
        let mut committed = BTreeMap::new();
        for partition in committed_partitions(store.as_ref(), source)? {
            if let Some(manifest) = latest(store.as_ref(), source, partition)? {
                committed.insert(partition, manifest.next_offset);
            }
        }
        let fits = match from {
            _ if committed.is_empty() => true,
            StartFrom::Offsets(offsets) => offsets.keys().all(|partition| !committed.contains_key(partition)),
            // All there is of a new view: the archive, then the log.
            StartFrom::Earliest => has_new_view(store, source, given)?,
            _ => false,
        };
        if !fits {
            return Err(Error::invalid(format!(
                "--from: source `{source}` was processed before, up to {}: what is committed is not read again; a new \
                 view gets it from the archive, then the log from there. To read the log anew, run another job: \
                 another offline.url, online.namespace and group",
                Position::of(source, committed)
            )));
        }
    }
    Ok(())
}

/// Whether a component is given that the job does not run yet.
fn has_new_view(store: &Arc<dyn ObjectStore>, source: &str, given: &[(String, String)]) -> Result<bool> {
    let job = JobChain::open(store.clone())?;
    let known = |digest: &String| job.latest().active.iter().any(|active| active.view.digest == *digest);
    Ok(given.iter().any(|(of, digest)| of == source && !known(digest)))
}
