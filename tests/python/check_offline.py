"""Reads an offline store as other people's programs do and fails where they disagree.

Usage: check_offline.py FOLDER [TIME_FIELD]   (needs duckdb, polars, pandas and pyarrow)

For every source: DuckDB, Polars and pandas see the same rows through a plain glob; `date=` is the UTC date of the
event's time; no log position stands there twice. For every view: the same rows, the date of each instant, one
answer per entity and instant.
"""

import datetime
import pathlib
import sys

import duckdb
import pandas
import polars


def fail(message):
    sys.exit(f"check_offline: {message}")


def same(what, values):
    if len(set(values.values())) != 1:
        fail(f"{what}: {values}")
    return next(iter(values.values()))


def check_folder(root, glob, time_field, key, unique):
    pattern = str(root / glob)
    sql = f"FROM read_parquet('{pattern}', hive_partitioning = true, hive_types = {{'date': DATE}})"
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    frame = polars.scan_parquet(pattern, hive_partitioning=True, try_parse_hive_dates=True).collect()
    pandas_frame = pandas.read_parquet(root, partitioning="hive")
    rows = same(f"rows of {pattern}", {
        "duckdb": con.execute(f"SELECT count(*) {sql}").fetchone()[0],
        "polars": frame.height,
        "pandas": len(pandas_frame),
    })
    times = {
        "duckdb": con.execute(f"SELECT min(epoch_us({time_field})), max(epoch_us({time_field})) {sql}").fetchone(),
        "polars": (frame[time_field].dt.epoch("us").min(), frame[time_field].dt.epoch("us").max()),
        "pandas": tuple(
            int((edge - pandas.Timestamp(0, tz="UTC")) // pandas.Timedelta(microseconds=1))
            for edge in (pandas_frame[time_field].min(), pandas_frame[time_field].max())
        ),
    }
    same(f"times of {pattern}", times)
    wrong = con.execute(f"SELECT count(*) {sql} WHERE CAST({time_field} AS DATE) <> date").fetchone()[0]
    if wrong:
        fail(f"{wrong} rows of {pattern} lie under another date than their {time_field}")
    if not frame["date"].dtype == polars.Date or not isinstance(frame["date"][0], datetime.date):
        fail(f"polars does not read `date` of {pattern} as a date")
    keys = ", ".join(key)
    # A snapshot per event has a row for each of several events at one instant: the same row.
    all_rows = rows if unique else con.execute(f"SELECT count(*) FROM (SELECT DISTINCT * {sql})").fetchone()[0]
    twice = all_rows - con.execute(f"SELECT count(DISTINCT ({keys})) {sql}").fetchone()[0]
    if twice:
        fail(f"{twice} rows of {pattern} have the same {keys} as another{'' if unique else ', yet differ from it'}")
    names = [name for name in frame.columns if frame[name].dtype == polars.Float64]
    for name in names:
        # What is no number has no common order.
        numbers = frame[name].filter(frame[name].is_finite())
        same(f"numbers in {name} of {pattern}", {
            "duckdb": con.execute(
                f'SELECT count("{name}"), min("{name}"), max("{name}") {sql} WHERE isfinite("{name}")'
            ).fetchone(),
            "polars": (len(numbers), numbers.min(), numbers.max()),
        })
    return rows


def main():
    root = pathlib.Path(sys.argv[1])
    time_field = sys.argv[2] if len(sys.argv) > 2 else "event_time"
    sources = sorted((root / "events").iterdir())
    if not sources:
        fail(f"no events under {root}")
    for source in sources:
        rows = check_folder(source, "date=*/*.parquet", time_field, ["_source", "_partition", "_offset"], True)
        print(f"events {source.name}: {rows} rows")
    for version in sorted(root.glob("features/entity=*/view=*/version=*")):
        first = next(version.glob("date=*/*.parquet"))
        names = list(polars.read_parquet_schema(first))
        keys = names[: names.index("event_time") + 1]
        rows = check_folder(version, "date=*/*.parquet", "event_time", keys, False)
        print(f"{version.relative_to(root)}: {rows} rows")


main()
