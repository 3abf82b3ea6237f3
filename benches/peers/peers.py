"""The twelve features of `purchases/` at the instants of labels, as a user of DuckDB or Polars would write them.

usage: peers.py duckdb|polars EVENTS LABELS OUT THREADS

DuckDB joins every label with the events of its 30 days. Polars slides over labels and events in one frame; it has no
exact rolling count of distinct values, so it computes eleven features. Both see the events of [T - W, T), keep all
labels in their order, and write Parquet. Prints the seconds from reading to the file written, imports left out.
"""

import os
import sys
import time


def by_duckdb(events, labels, out, threads):
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"set threads={threads}; set timezone='UTC'")
    start = time.time()
    connection.execute(
        f"""copy (with l as (select row_number() over () r, * replace (event_time::timestamptz as event_time) from '{labels}'),
        j as (select l.r, e.event_time t, l.event_time lt, e.event_type, price * coalesce(quantity, 1) a, e.item_id i
          from l join '{events}' e on e.user_id = l.user_id and e.event_time < l.event_time
            and e.event_time >= l.event_time - interval 30 day where e.event_type = 'purchase')
        select l.*, f.* exclude r from l left join (select r,
          count(*) filter (t >= lt - interval 1 hour) count_1h, count(*) filter (t >= lt - interval 24 hour) count_24h,
          count(*) filter (t >= lt - interval 7 day) count_7d, count(*) count_30d,
          sum(a) filter (t >= lt - interval 24 hour) sum_24h, sum(a) filter (t >= lt - interval 7 day) sum_7d,
          sum(a) sum_30d, avg(a) filter (t >= lt - interval 3 day) mean_3d, min(a) min_30d, max(a) max_30d,
          stddev_samp(a) stddev_30d, count(distinct i) items_30d from j group by r) f using (r) order by l.r)
        to '{out}' (format parquet)"""
    )
    return time.time() - start


def by_polars(events, labels, out, threads):
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars as pl

    start = time.time()
    us = pl.col("event_time").dt.cast_time_unit("us")
    asked = pl.scan_parquet(labels).with_row_index("r").with_columns(pl.col("r").cast(pl.UInt32))
    amount = pl.col("price") * pl.col("quantity").fill_null(1)
    bought = (
        pl.scan_parquet(events)
        .filter(pl.col("event_type") == "purchase")
        .select("user_id", t=us, a=amount, p=pl.lit(1, pl.Int64), r=pl.lit(None, pl.UInt32))
    )
    none = {"a": pl.lit(None, pl.Float64), "p": pl.lit(0, pl.Int64)}
    both = pl.concat([bought, asked.select("user_id", t=us, **none, r="r")]).sort("t")

    def rolling(column, kind, width):
        return getattr(pl.col(column), f"rolling_{kind}_by")("t", width, closed="left", min_samples=1).over("user_id")

    features = {f"count_{width}": rolling("p", "sum", width) for width in ("1h", "24h", "7d", "30d")}
    features |= {f"sum_{width}": rolling("a", "sum", width) for width in ("24h", "7d", "30d")}
    features |= {"mean_3d": rolling("a", "mean", "3d"), "min_30d": rolling("a", "min", "30d")}
    features |= {"max_30d": rolling("a", "max", "30d"), "stddev_30d": rolling("a", "std", "30d")}
    found = both.select("r", **features).filter(pl.col("r").is_not_null())
    asked.collect().join(found.collect(), on="r", how="left").sort("r").write_parquet(out)
    return time.time() - start


if __name__ == "__main__":
    peer, events, labels, out, threads = sys.argv[1:]
    seconds = {"duckdb": by_duckdb, "polars": by_polars}[peer](events, labels, out, int(threads))
    print(f"{seconds:.3f}")
