//! Ctrl-C in the middle of long work: it stops at the next place where nothing is left half-written.

use anyhow::{Context as _, Result};
use plumb_pipeline::Error;
use std::sync::atomic::{AtomicBool, Ordering};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// The exit code of a process that Ctrl-C has ended, as shells give it.
pub(crate) const EXIT_CODE: u8 = 130;

/// From now on SIGINT and SIGTERM are asked for by [`go_on`]; a second one ends the process at once. A process that was
/// started to ignore SIGINT still does.
pub(crate) fn watch() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the thread that waits for signals")?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        let interrupt =
            if is_ignored() { None } else { Some(signal(SignalKind::interrupt()).context("wait for SIGINT")?) };
        (signal(SignalKind::terminate()).context("wait for SIGTERM")?, interrupt)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                match &mut interrupt {
                    Some(interrupt) => tokio::select! {
                        _ = terminate.recv() => (),
                        _ = interrupt.recv() => (),
                    },
                    None => drop(terminate.recv().await),
                }
                if STOPPED.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_CODE.into());
                }
            }
        });
    });
    Ok(())
}

/// Whether whoever started this process lets it ignore SIGINT, as shells do with jobs in the background.
fn is_ignored() -> bool {
    const SIGINT: u64 = 2;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (SIGINT - 1) & 1 == 1)
}

/// Whether a signal came.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// An error once a signal came.
pub(crate) fn go_on() -> plumb_pipeline::Result<()> {
    if is_stopped() { Err(Error::internal("interrupted")) } else { Ok(()) }
}
