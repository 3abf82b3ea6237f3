//! `plumb backfill`: historical snapshots of feature values.

use super::offline::{Prepared, faults_json, report_faults};
use crate::args::{Backfill, Entities as EntitiesWord, Every as EveryWord};
use crate::context::{Output, instant};
use crate::exit::Done;
use anyhow::Result;
use plumb_offline_parquet::SnapshotWriter;
use plumb_pipeline::offline::{BackfillOptions, Entities, Every, backfill};
use serde_json::json;
use std::time::Instant;

/// Computes snapshots and writes them as `features/entity=…/view=…/version=…/date=…/*.parquet`.
pub(crate) fn run(arguments: &Backfill, output: Output) -> Result<Done> {
    let start = Instant::now();
    let prepared = Prepared::new(&arguments.inputs)?;
    let options = BackfillOptions {
        from_us: arguments.from.as_deref().map(|text| instant("--from", text)).transpose()?,
        to_us: arguments.to.as_deref().map(|text| instant("--to", text)).transpose()?,
        every: match arguments.every {
            EveryWord::Hour => Every::Hour,
            EveryWord::Day => Every::Day,
            EveryWord::Event => Every::Event,
        },
        entities: match arguments.entities {
            EntitiesWord::Active => Entities::Active,
            EntitiesWord::All => Entities::All,
        },
        max_age_us: None,
        threads: prepared.threads,
    };
    let transforms: Vec<_> = prepared.transforms.iter().collect();
    let readers = prepared.open(&transforms)?;
    let store = plumb_store_object::open(&format!("file:{}", arguments.out.display()))?;
    let mut sink = SnapshotWriter::new(store, arguments.inputs.events.join(" "));
    let summary = backfill(&mut readers.lend(), &prepared.transforms, &options, &mut sink)?;
    readers.report();
    report_faults("extract", &summary.extract_faults);
    report_faults("finalize", &summary.finalize_faults);
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({
        "events": summary.events,
        "rows": summary.rows,
        "seconds": seconds,
        "out": arguments.out,
        "extract_faults": faults_json(&summary.extract_faults),
        "finalize_faults": faults_json(&summary.finalize_faults),
    });
    output.print(&document, || {
        let rows: Vec<String> = summary.rows.iter().map(|(view, rows)| format!("{view} {rows} rows")).collect();
        let (events, out) = (summary.events, arguments.out.display());
        format!("backfilled {events} events: {}, {seconds:.2} s -> {out}", rows.join(", "))
    });
    Ok(if summary.finalize_faults.is_empty() { Done::Ok } else { Done::Failed })
}
