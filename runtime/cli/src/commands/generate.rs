//! `plumb generate`: synthetic events.

use crate::args::Generate;
use crate::context::{Output, instant, progress};
use crate::exit::Done;
use anyhow::Result;
use plumb_source_file::{GenerateOptions, generate};
use serde_json::json;
use std::time::Instant;

/// Writes the events of a seed.
pub(crate) fn run(arguments: &Generate, output: Output) -> Result<Done> {
    let start = Instant::now();
    let options = GenerateOptions {
        events: arguments.events,
        users: arguments.users,
        items: arguments.items,
        days: arguments.days,
        seed: arguments.seed,
        start_us: instant("--start", &arguments.start)?,
    };
    let bar = progress("writing");
    generate(&options, &arguments.out, &mut |rows| bar.set_position(rows))?;
    bar.finish_and_clear();
    let written = arguments.events;
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({"events": written, "seed": arguments.seed, "out": arguments.out, "seconds": seconds});
    output.print(&document, || format!("{written} events, {seconds:.2} s -> {}", arguments.out.display()));
    Ok(Done::Ok)
}
