#!/usr/bin/env python3
"""The join against DuckDB and Polars, and how it grows. One command, nothing to install beforehand but Python:

    benches/peers/run.py compare [--events FILE] [--labels N ...] [--threads N] [--runs N]
    benches/peers/run.py growth [--events N ...] [--memory SIZE] [--threads N]
    benches/peers/run.py backfill [--events FILE] [--threads N] [--runs N]

`compare` runs each in turn, several times, and prints medians of seconds, of processor seconds and of peak memory, and
their ratios; then it compares the values. Without --events it generates some. `growth` joins generated events of
rising number with a tenth as many labels, and writes docs/join-growth.md and docs/join-growth.svg. `backfill` makes
daily snapshots by each shipped view of a user, and prints rates per core and the components' share of the time.

plumb is measured as a process, start, loading of the component and end included; the peers count their seconds
themselves and leave theirs out, which is in their favour. What plumb counts itself, from its first line to the set under
its name, is printed beside. What is made lies under target/peers/. Each takes another binary by --plumb, as that of
`make dist`.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target" / "peers"
PLUMB = ROOT / "target" / "release" / "plumb"
VENV = WORK / "venv" / "bin" / "python"
COMPONENT = WORK / "purchases.wasm"
PACKAGES = ["duckdb==2.0.0", "polars==2.1.0"]

LABELS = """
import sys, polars as pl
events, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
# Known users at awkward times: at an event, an hour after one, within its three days, or up to 30 days about it.
rows = pl.scan_parquet(events).select("user_id", pl.col("event_time").dt.cast_time_unit("us")).collect()
rows = rows.sample(count, seed=1, shuffle=True, with_replacement=count > len(rows)).with_row_index("n")
spread = (pl.col("n").hash(7) % 1_000_000_000).cast(pl.Int64) / 1e9
shift = (pl.when(pl.col("n") % 4 == 0).then(0.0).when(pl.col("n") % 4 == 1).then(3.6e9)
    .when(pl.col("n") % 4 == 2).then(spread * 2.592e11).otherwise((spread - 0.5) * 5.184e12)).cast(pl.Int64)
rows.select("user_id", event_time=pl.col("event_time") + pl.duration(microseconds=shift),
    label=(pl.col("n").hash(3) % 10 < 3).cast(pl.Int64)).write_parquet(out)
"""

AGREE = """
import sys, polars as pl
ours, theirs = pl.read_parquet(sys.argv[1]), pl.read_parquet(sys.argv[2])
assert len(ours) == len(theirs), f"{len(ours)} rows and {len(theirs)}"
worst = 0.0
for name in [name for name in theirs.columns if name != "event_time" and f"peer_purchases__{name}" in ours.columns]:
    a = ours[f"peer_purchases__{name}"].cast(pl.Float64).fill_null(0.0)
    b = theirs[name].cast(pl.Float64).fill_nan(0.0).fill_null(0.0)
    difference = ((a - b).abs() / pl.select(pl.max_horizontal(a.abs(), b.abs(), 1.0)).to_series()).max()
    worst = max(worst, difference)
    # Sums that slide in f64 are not exact; a variance near 0 shows it most.
    assert difference < (1e-4 if name.startswith("stddev") else 1e-6), f"{name}: {difference}"
print(f"{worst:.1e}")
"""


def measure(command):
    """Runs a command; its output, seconds, processor seconds and peak memory in MiB."""
    start = time.time()
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return output, time.time() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def python(text, *words):
    return measure([VENV, "-c", text, *words])[0].strip()


def prepare(options):
    global PLUMB
    WORK.mkdir(parents=True, exist_ok=True)
    PLUMB = pathlib.Path(options.plumb).resolve()
    if not PLUMB.exists():
        sys.exit(f"no {PLUMB}: run  make build  or  make dist")
    if not VENV.exists():
        subprocess.run([sys.executable, "-m", "venv", WORK / "venv"], check=True)
        subprocess.run([VENV, "-m", "pip", "-q", "install", *PACKAGES], check=True)
    if not COMPONENT.exists():
        subprocess.run([PLUMB, "build", ROOT / "benches/peers/purchases", "-o", COMPONENT], check=True)


def generate(count):
    events = WORK / f"events-{count}.parquet"
    if not events.exists():
        # About 50 events a user whatever the number, over 90 days.
        words = ["--events", count, "--users", max(1, count // 50), "--items", 20_000, "--days", 90, "--seed", 1]
        measure([PLUMB, "generate", *words, "--start", "2024-01-01T00:00:00Z", "--out", events])
    return events


def label(events, count):
    labels = WORK / f"labels-{events.stem}-{count}.parquet"
    if not labels.exists():
        python(LABELS, events, labels, count)
    return labels


def join(events, labels, out, threads, *more):
    words = ["--transform", COMPONENT, "--events", events, "--labels", labels, "--out", out, "--threads", threads]
    return [PLUMB, "join", "--json", "--now", "2030-01-01T00:00:00Z", *words, *more]


def compare(options):
    prepare(options)
    events = pathlib.Path(options.events).resolve() if options.events else generate(1_500_000)
    for count in options.labels:
        labels = label(events, count)
        outs = {name: WORK / f"out-{name}.parquet" for name in ("plumb", "polars", "duckdb")}
        figures = {name: [] for name in outs}
        own_seconds = []
        for _ in range(options.runs):
            for name, out in outs.items():
                # To take the place of a file costs its removal, which is not of interest here.
                out.unlink(missing_ok=True)
                if name == "plumb":
                    output, seconds, processor, memory = measure(join(events, labels, out, options.threads))
                    own_seconds.append(json.loads(output)["seconds"])
                else:
                    peer = [VENV, ROOT / "benches/peers/peers.py", name, events, labels, out, options.threads]
                    output, _, processor, memory = measure(peer)
                    seconds = float(output)
                figures[name].append((seconds, processor, memory))
        medians = {name: [statistics.median(of) for of in zip(*runs)] for name, runs in figures.items()}
        print(f"{count} labels, {options.threads} threads, medians of {options.runs}:")
        for name, (seconds, processor, memory) in medians.items():
            ours = medians["plumb"]
            print(
                f"  {name:7} {seconds:7.2f} s  {processor:7.2f} processor s  {memory:6.0f} MiB"
                f"   {seconds / ours[0]:5.1f} x   {processor / ours[1]:5.1f} x   {memory / ours[2]:5.1f} x of plumb's"
            )
        own = statistics.median(own_seconds)
        times = " and ".join(f"{medians[name][0] / own:.1f} x by {name}" for name in ("polars", "duckdb"))
        print(f"  plumb's own count, as the peers count: {own:.2f} s, {times}")
        for name in ("polars", "duckdb"):
            worst = python(AGREE, outs["plumb"], outs[name])
            print(f"  the values of {name} agree, at most {worst} apart")


def growth(options):
    prepare(options)
    rows = []
    for count in options.events:
        events = generate(count)
        labels = label(events, count // 10)
        out = WORK / "growth.parquet"
        output, seconds, processor, memory = measure(
            join(events, labels, out, options.threads, "--memory", options.memory)
        )
        rows.append((count, json.loads(output)["rows_in"], seconds, processor, memory))
        print(f"{count} events: {seconds:.1f} s, {processor:.1f} processor s, {memory:.0f} MiB", flush=True)
    write_growth(rows, options)


def backfill(options):
    """Daily snapshots by each shipped view over the users; what of the processor time the components took."""
    prepare(options)
    events = pathlib.Path(options.events).resolve() if options.events else generate(1_500_000)
    # Each run into a folder of its own, all removed at the end: for minutes after many files were deleted, ext4 passes over
    # their inodes one by one whenever it makes a new file, which costs more than writing it.
    outs = WORK / f"snapshots-{os.getpid()}"
    for view in ("user_activity", "user_daily", "user_spend", "user_transactions"):
        figures = []
        for run in range(options.runs):
            out = outs / f"{view}-{run}"
            words = ["--transform", ROOT / f"target/plumb/{view}.wasm", "--events", events, "--every", "1d", "--out", out]
            words += ["--threads", options.threads, "--now", "2030-01-01T00:00:00Z", "--json"]
            output, seconds, processor, memory = measure([PLUMB, "backfill", *words])
            told = json.loads(output)
            figures.append((seconds, processor, memory, told["guest_seconds"], told["events"], told["rows"][view]))
        seconds, processor, memory, guest, count, rows = [statistics.median(of) for of in zip(*figures)]
        print(
            f"{view:18} {count:,.0f} events, {rows:,.0f} rows: {seconds:.2f} s, {processor:.2f} processor s:"
            f" {count / processor:,.0f} events/s and {rows / processor:,.0f} rows/s per core,"
            f" {guest / processor:.0%} in the component, {memory:.0f} MiB"
        )
    shutil.rmtree(outs)


def write_growth(rows, options):
    lines = [
        "# How the join grows",
        "",
        f"`plumb join --memory {options.memory} --threads {options.threads}` of the twelve features of",
        "`benches/peers/purchases` over generated events with ids, a tenth as many labels, written by",
        "`benches/peers/run.py growth`. The slope is that of processor time: it does not hang on what else the machine",
        "did. Peak memory holds, beside what `--memory` bounds, some 80 bytes for each distinct key of the labels. Ids of",
        "events that do not fit go to disk, and the events are read twice (an archive needs no ids).",
        "",
        "| events | labels | seconds | processor seconds | µs of processor per event | peak MiB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count, labels, seconds, processor, memory in rows:
        each = processor / count * 1e6
        lines.append(f"| {count:,} | {labels:,} | {seconds:.1f} | {processor:.1f} | {each:.2f} | {memory:.0f} |")
    lines += ["", "![processor seconds by events](join-growth.svg)", ""]
    (ROOT / "docs/join-growth.md").write_text("\n".join(lines))
    width, height, edge = 640, 400, 60
    most, longest = max(row[0] for row in rows), max(row[3] for row in rows)

    def place(count, processor):
        x = edge + count / most * (width - 2 * edge)
        return f"{x:.1f},{height - edge - processor / longest * (height - 2 * edge):.1f}"

    dots = [place(row[0], row[3]).split(",") for row in rows]
    corner = f"{edge},{height - edge}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<polyline points="{edge},{edge} {corner} {width - edge},{height - edge}" fill="none" stroke="black"/>',
        f'<polyline points="{corner} {place(most, longest)}" stroke="silver" stroke-dasharray="4" fill="none"/>',
        f'<polyline points="{" ".join(place(row[0], row[3]) for row in rows)}" fill="none" stroke="steelblue" stroke-width="2"/>',
        *[f'<circle cx="{x}" cy="{y}" r="4" fill="steelblue"/>' for x, y in dots],
        f'<text x="{width / 2}" y="{height - 20}" text-anchor="middle">million events (up to {most / 1e6:g})</text>',
        f'<text x="{edge}" y="{edge - 15}">processor seconds (up to {longest:.0f}); dashed: in proportion</text>',
        *[
            f'<text x="{x}" y="{height - edge + 18}" text-anchor="middle">{row[0] / 1e6:g}</text>'
            for (x, _), row in zip(dots, rows)
        ],
        "</svg>",
        "",
    ]
    (ROOT / "docs/join-growth.svg").write_text("\n".join(parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("compare")
    command.add_argument("--events", help="a Parquet file of events of the default schema [default: generated]")
    command.add_argument("--labels", type=int, nargs="+", default=[100_000, 1_000_000])
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--runs", type=int, default=3)
    command.set_defaults(run=compare)
    command = commands.add_parser("growth")
    command.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    command.add_argument("--memory", default="512MiB")
    command.add_argument("--threads", type=int, default=2)
    command.set_defaults(run=growth)
    command = commands.add_parser("backfill")
    command.add_argument("--events", help="a Parquet file of events of the default schema [default: generated]")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--runs", type=int, default=3)
    command.set_defaults(run=backfill)
    for command in commands.choices.values():
        command.add_argument("--plumb", default=PLUMB, help="the binary [default: target/release/plumb]")
    parsed = parser.parse_args()
    parsed.run(parsed)
