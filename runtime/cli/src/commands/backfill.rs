//! `plumb backfill`: historical snapshots of feature values.

use super::offline::{Prepared, Readers, faults_json, report_faults};
use crate::args::{Backfill, Entities as EntitiesWord, Every as EveryWord};
use crate::context::{Output, instant};
use crate::exit::Done;
use anyhow::Result;
use plumb_offline_parquet::SnapshotWriter;
use plumb_pipeline::offline::{BackfillOptions, Entities, Every, backfill};
use serde_json::json;
use std::time::Instant;

/// Makes the snapshots that are missing or of other events, as `features/entity=…/view=…/version=…/date=…/*.parquet`.
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
        allow_fewer_events: arguments.allow_fewer_events,
        threads: prepared.threads,
    };
    let transforms: Vec<_> = prepared.transforms.iter().collect();
    let store = plumb_store_object::open(&format!("file:{}", arguments.out.display()))?;
    let mut sink = SnapshotWriter::new(store);
    let mut readers = Readers::default();
    let mut open = |source: &str| readers.open(&prepared, source, &transforms);
    let summary = backfill(&mut open, &prepared.transforms, &options, &mut sink)?;
    readers.report();
    report_faults("extract", &summary.extract_faults);
    report_faults("finalize", &summary.finalize_faults);
    let mut failed = !summary.finalize_faults.is_empty();
    for (view, dates) in summary.dates.iter().filter(|(_, dates)| dates.unchanged_faulty > 0) {
        failed = true;
        let rows = dates.unchanged_faulty;
        eprintln!("plumb: view `{view}`: {rows} rows of dates that were made before are null: finalize failed on them");
    }
    let seconds = start.elapsed().as_secs_f64();
    let dates = summary.dates.iter().map(|(view, dates)| {
        let counts = json!({"made": dates.made, "unchanged": dates.unchanged, "removed": dates.removed});
        (view.clone(), counts)
    });
    let document = json!({
        "events": summary.events,
        "rows": summary.rows,
        "dates": dates.collect::<serde_json::Map<_, _>>(),
        "seconds": seconds,
        "out": arguments.out,
        "extract_faults": faults_json(&summary.extract_faults),
        "finalize_faults": faults_json(&summary.finalize_faults),
    });
    output.print(&document, || {
        let of_view = |(view, rows): (&String, &u64)| {
            let dates = summary.dates.get(view).copied().unwrap_or_default();
            let removed = if dates.removed > 0 { format!(", {} removed", dates.removed) } else { String::new() };
            format!("{view} {rows} rows on {} dates ({} unchanged{removed})", dates.made, dates.unchanged)
        };
        let rows: Vec<String> = summary.rows.iter().map(of_view).collect();
        let (events, out) = (summary.events, arguments.out.display());
        format!("backfilled {events} events: {}, {seconds:.2} s -> {out}", rows.join(", "))
    });
    Ok(if failed { Done::Failed } else { Done::Ok })
}
