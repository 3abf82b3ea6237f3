//! What commands share: settings, instants, output.

use crate::exit::usage;
use anyhow::{Context, Result};
use plumb_assembly::Settings;
use plumb_assembly::settings::parse_size;
use plumb_core::time::parse_duration;
use plumb_pipeline::decode::time::parse_rfc3339;
use plumb_pipeline::offline::MEMORY_MIN_BYTES;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads the settings: the file given, else `plumb.toml` where there is one, else the defaults; the
/// environment's `PLUMB__SECTION__KEY` go on top.
pub(crate) fn settings(config: Option<&Path>) -> Result<Settings> {
    let default = Path::new("plumb.toml");
    let file = config.or_else(|| default.exists().then_some(default));
    Ok(Settings::load(file, std::env::vars())?)
}

/// The wall clock in µs.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_micros()).expect("the clock is before the year 294247")
}

/// An instant typed by a person; `flag` names it in errors. Without a zone it is UTC, which is said.
pub(crate) fn instant(flag: &str, text: &str) -> Result<i64> {
    let instant = parse_rfc3339(text.as_bytes())
        .ok_or_else(|| usage(format!("{flag} {text}: write an instant as in 2024-01-31T12:00:00Z")))?;
    if !instant.zoned {
        eprintln!("plumb: {flag} {text} has no zone: taken as UTC");
    }
    Ok(instant.us)
}

/// A duration typed by a person.
pub(crate) fn duration(flag: &str, text: &str) -> Result<i64> {
    parse_duration(text).with_context(|| flag.to_owned())
}

/// Prints a result: one JSON document with `--json`, else lines of text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether `--json` was given.
    pub(crate) json: bool,
}

impl Output {
    /// Prints `json` or what `text` gives.
    pub(crate) fn print(self, json: &serde_json::Value, text: impl FnOnce() -> String) {
        let text = if self.json { json.to_string() } else { text() };
        // A closed pipe (`plumb … | head`) is the reader's wish, not a failure.
        drop(std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", text.trim_end()).as_bytes()));
    }
}

/// Whether both are there and the same file, under whatever names.
pub(crate) fn is_same_file(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((place(a), place(b)), (Ok(a), Ok(b)) if a == b)
}

/// Refuses a page, before the work that it is to show, that cannot be written or that would take the place of a file
/// that is read.
pub(crate) fn check_page<'a>(page: Option<&Path>, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Some(page) = page else { return Ok(()) };
    let shown = page.display();
    if page.is_dir() {
        return Err(usage(format!("--html {shown}: that is a folder; name a file")));
    }
    if let Some(folder) = page.parent().filter(|folder| *folder != Path::new("") && !folder.is_dir()) {
        return Err(usage(format!("--html {shown}: there is no folder `{}`", folder.display())));
    }
    match inputs.into_iter().find(|input| is_same_file(page, input)) {
        Some(input) => Err(usage(format!("--html {shown}: `{}` is read, and would be gone", input.display()))),
        None => Ok(()),
    }
}

/// Writes a page whole or not at all.
pub(crate) fn write_page(path: &Path, page: &str) -> Result<()> {
    let mut name = path.file_name().ok_or_else(|| usage(format!("--html {}: name a file", path.display())))?.to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = std::fs::write(&part, page).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // The failure that matters is told; what was written may not even be there.
        drop(std::fs::remove_file(&part));
    }
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// A progress bar on a terminal, nothing when piped.
pub(crate) fn progress(what: &'static str) -> indicatif::ProgressBar {
    progress_of(what, "events")
}

/// The same, of other things than events.
pub(crate) fn progress_of(what: &'static str, things: &str) -> indicatif::ProgressBar {
    progress_to(what, things, None)
}

/// The same with the time left, where it is known how many there are.
pub(crate) fn progress_to(what: &'static str, things: &str, total: Option<u64>) -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            indicatif::ProgressBar::new(total),
            format!("{{msg}} {{wide_bar}} {{human_pos}} of {{human_len}} {things}, {{per_sec}}, {{eta}} left"),
        ),
        None => (
            indicatif::ProgressBar::new_spinner(),
            format!("{{spinner}} {{msg}} {{human_pos}} {things}, {{per_sec}}, {{elapsed}}"),
        ),
    };
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// The bytes that `--memory` gives, or half of what is free.
pub(crate) fn memory_bytes(memory: Option<&str>) -> Result<u64> {
    let Some(text) = memory else { return Ok((free_bytes() / 2).max(MEMORY_MIN_BYTES)) };
    let bytes = parse_size(text).map_err(|why| usage(format!("--memory {text}: {why}")))?;
    if bytes < MEMORY_MIN_BYTES {
        return Err(usage(format!("--memory {text}: at least {}MiB are needed", MEMORY_MIN_BYTES >> 20)));
    }
    Ok(bytes)
}

/// What this process may still take of the machine's memory, and of its control group's where that has a limit.
/// Elsewhere than on Linux 4 GiB are assumed.
fn free_bytes() -> u64 {
    const ASSUMED: u64 = 4 << 30;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    });
    // `max` there is no number, hence no limit.
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|limit| limit.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    machine.unwrap_or(ASSUMED).min(group.unwrap_or(u64::MAX))
}
