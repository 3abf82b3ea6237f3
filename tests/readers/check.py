#!/usr/bin/env python3
"""Runs plumb and reads what it wrote with DuckDB, Polars, pandas and Spark: files, then Iceberg and Delta tables.

usage: check.py PLUMB COMPONENTS JARS WORK [EVENTS]

PLUMB is the binary, COMPONENTS the folder of the shipped views, JARS those of Iceberg and Delta for Spark, WORK a
folder that holds the component of `kinds/`. EVENTS is a file of events of the default schema [default: the real
purchases of examples/data]; generated ones come in beside them. `run.sh` has all of these.
"""

import base64
import datetime
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request

import deltalake
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from readers import TYPES, DuckDB, Pandas, Polars, Spark, digests, folders_below, plain, rows_hash, spark_session

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PLUMB, COMPONENTS, JARS, WORK = (pathlib.Path(word).resolve() for word in sys.argv[1:5])
SMALL = ROOT / "examples/data/completejourney_purchases.csv"
EVENTS = pathlib.Path(sys.argv[5] if len(sys.argv) > 5 else SMALL).resolve()
STORE = WORK / "data/offline"
VIEWS = ["item_activity", "user_activity", "user_daily", "user_spend", "user_transactions"]
EVENT_TYPES = {
    **dict.fromkeys(["event_id", "user_id", "item_id", "event_type", "category", "session_id", "_source"], "string"),
    **dict.fromkeys(["event_time", "_ingest_time"], "timestamp"),
    **dict.fromkeys(["price", "rating"], "f64"),
    **dict.fromkeys(["quantity", "_offset"], "i64"),
    "_partition": "i32",
}
KINDS = {
    "pair": {"user_id": "string", "item_id": "string"},
    "fields": {"number": "i64", "real": "f64", "flag": "bool", "text": "string", "bytes": "bytes", "seen": "timestamp"},
}
CONFIG = """
data_dir = "data"
[sources.default]
kind = "log"
{fields}
[sources.kinds]
kind = "log"
required = []
fields = {{ {kinds} }}
[transforms]
paths = ["{components}/*.wasm", "kinds.wasm"]
# The folder is of the backfills below, one of them hourly.
[offline]
snapshots = "none"
[run]
commit_interval = "1s"
"""
MORE_FIELDS = """fields = { user_id = "string", item_id = "string", event_type = "string", category = "string",\
 price = "f64", quantity = "i64", rating = "f64", channel = "string", rank = "i64" }"""


def fail(message):
    sys.exit(f"readers: {message}")


def expect(what, found, expected):
    if found != expected:
        fail(f"{what}: found {found}, expected {expected}")


def say(text):
    print(text, flush=True)


def configure(fields=""):
    kinds = ", ".join(f'{name} = "{of}"' for name, of in (KINDS["pair"] | KINDS["fields"]).items())
    (WORK / "plumb.toml").write_text(CONFIG.format(fields=fields, kinds=kinds, components=COMPONENTS))


def plumb(*words):
    words = [str(word) for word in words]
    done = subprocess.run([PLUMB, *words, "--json"], cwd=WORK, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"plumb {' '.join(words)} ended with {done.returncode}")
    return json.loads(done.stdout)


def register(kind, warehouse, view="user_transactions"):
    script = ROOT / "examples/tables/register.py"
    command = [sys.executable, script, kind, STORE, warehouse, "--view", view]
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def registered(kind, warehouse, *view):
    done = register(kind, warehouse, *view)
    if done.returncode != 0:
        fail(f"register.py {kind}: {done.stderr}")
    return json.loads(done.stdout)


def transforms(*views):
    return [word for view in views for word in ("--transform", COMPONENTS / f"{view}.wasm")]


def tree(view):
    return next(STORE.glob(f"features/entity=*/view={view}/version=*"))


def ordered(table, keys):
    """The rows by their keys, so that the order in which a program reads files is no difference."""
    return table.sort_by([(key, "ascending") for key in keys])


def same_everywhere(what, readers, root, keys, types):
    """Reads a tree by each program, which must agree; gives the rows, with columns in the files' order."""
    folders = folders_below(root)
    types = types | {folder: {"date": "date"}.get(folder, "string") for folder in folders}
    names, first, checksums = None, None, None
    for place, reader in enumerate(readers):
        expected = {name: TYPES[of][place] for name, of in types.items()}
        expect(f"types of {what} in {reader.name}", reader.types(root), expected)
        table = reader.table(root)
        names = names or [name for name in table.column_names if name not in folders] + sorted(folders)
        table = ordered(pyarrow.table({name: plain(table[name]) for name in names}), keys)
        found = digests(table)
        if checksums is None:
            first, checksums = table, found
        expect(f"rows of {what} in {reader.name}", table.num_rows, first.num_rows)
        for name in names:
            expect(f"checksum of `{name}` of {what} in {reader.name}", found[name], checksums[name])
    check_dates(what, readers, root, first)
    return first


def check_dates(what, readers, root, table):
    """The date is that of the instant, and filters on either find the rows that have it."""
    dates, times = table["date"], table["event_time"]
    if not pyarrow.compute.all(pyarrow.compute.equal(times.cast(pyarrow.date32()), dates)).as_py():
        fail(f"rows of {what} lie under another date than their event_time")
    middle = sorted(set(dates.to_pylist()))[len(set(dates.to_pylist())) // 2]
    start = datetime.datetime.combine(middle, datetime.time(0), datetime.timezone.utc)
    end = start + datetime.timedelta(hours=30)
    of_day = sum(date == middle for date in dates.to_pylist())
    between = sum(start <= instant < end for instant in times.to_pylist())
    if not of_day or not between:
        fail(f"{what} has no rows on {middle}")
    for reader in readers:
        expect(f"rows of {what} on {middle} in {reader.name}", reader.rows_of_day(root, middle), of_day)
        expect(f"rows of {what} from {start} to {end} in {reader.name}", reader.rows_between(root, start, end), between)


def same_as_stats(what, root, table, columns):
    """What `plumb stats` reads of the same files."""
    stats = plumb("stats", root, "--columns", ",".join(columns))
    expect(f"rows of {what} in plumb", stats["rows"], table.num_rows)
    expect(f"columns of {what} in plumb", {column["column"] for column in stats["columns"]}, set(columns))
    for said in stats["columns"]:
        name = said["column"]
        column = table[name]
        expect(f"nulls in `{name}` of {what}", column.null_count, said["nulls"])
        if pyarrow.types.is_list(column.type):
            continue
        if said["distinct"]["exact"]:
            distinct = len(set(column.drop_null().to_pylist()))
            expect(f"different values of `{name}` of {what}", distinct, said["distinct"]["count"])
        if pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type):
            edges = pyarrow.compute.min_max(column).as_py()
            expect(f"`{name}` of {what}", (edges["min"], edges["max"]), (said["min"], said["max"]))


def make_events():
    configure()
    # In two runs, so that a date has files of several commits.
    plumb("produce", EVENTS)
    plumb("run", "--until-end", "--no-serve")
    words = ["--users", 400, "--items", 60, "--days", 12, "--seed", 7, "--start", "2017-01-01T00:00:00Z"]
    plumb("generate", "--events", 30_000, *words, "--out", "generated.parquet")
    plumb("produce", "generated.parquet")
    plumb("run", "--until-end", "--no-serve")


def leave_remains():
    """What a killed process may leave behind, beside the trees and not in them; and a folder that lost its files."""
    some = next(STORE.glob("events/default/date=*/*.parquet"))
    for folder in ("_staging/events/default", "_trash/events/default/date=2017-01-02", "_tmp/1-1"):
        (STORE / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(some, STORE / folder / "left.parquet")
    (STORE / "events/default/date=2016-12-31").mkdir()
    (tree("user_daily") / "date=2016-12-31").mkdir()


def check_events(readers):
    root = STORE / "events/default"
    keys = ["_partition", "_offset"]
    table = same_everywhere("events", readers, root, keys, EVENT_TYPES)
    same_as_stats("events", root, table, list(EVENT_TYPES))
    places = polars.from_arrow(table).select(keys)
    expect("different places in the log", places.n_unique(), table.num_rows)
    # What went in, once each: neither program had a hand in the other's.
    ids = ["event_id", "user_id", "item_id", "price", "quantity"]
    read = polars.read_csv if EVENTS.suffix == ".csv" else polars.read_parquet
    more = {"schema_overrides": {"user_id": polars.String, "item_id": polars.String, "price": polars.Float64}}
    real = read(EVENTS, **(more if EVENTS.suffix == ".csv" else {})).select(ids)
    made = polars.read_parquet(WORK / "generated.parquet").select(ids)
    sent = polars.concat([real, made]).unique("event_id", keep="any").sort("event_id")
    held = polars.from_arrow(table).select(ids).sort("event_id")
    if not held.equals(sent):
        fail(f"{len(held)} events are held and not the {len(sent)} that were sent, or with other values")
    say(f"events: {table.num_rows} rows agree")
    return table


def feature_types(view):
    described = plumb("inspect", COMPONENTS / f"{view}.wasm")
    return {feature["name"]: feature["type"] for feature in described["features"]}


def kinds_events():
    """Events with the edges of every type, each also null."""
    edges = {
        "number": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1],
        "real": [0.0, -0.0, 5e-324, -1.7976931348623157e308, 0.1],
        "flag": [True, False],
        "text": ["", " ", "two words", "naïve 数据 🦀", "x" * 5000],
        "bytes": ["", "AAH/", "eA=="],
        "seen": ["1850-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"],
    }
    events = []
    for n in range(300):
        event = {"event_id": f"k{n}", "event_time": f"2017-01-0{n % 5 + 1}T{n % 24:02}:00:00.{n:06}Z"}
        event |= {"user_id": f"u{n % 7}", "item_id": f"i{n % 3}"}
        for place, (name, values) in enumerate(edges.items()):
            # Each column goes through its values and a null at a pace of its own.
            at = (n // (place + 1)) % (len(values) + 1)
            event[name] = values[at] if at < len(values) else None
        events.append(event)
    return events


def check_kinds(readers):
    """A source and a view of two keys with a column of every type."""
    sent = kinds_events()
    (WORK / "kinds.jsonl").write_text("".join(json.dumps(event) + "\n" for event in sent))
    plumb("produce", "kinds.jsonl", "--source", "kinds")
    plumb("run", "--until-end", "--no-serve")
    root = STORE / "events/kinds"
    own = ["event_id", "event_time", *(name for name in EVENT_TYPES if name.startswith("_"))]
    types = {name: EVENT_TYPES[name] for name in own} | KINDS["pair"] | KINDS["fields"]
    table = same_everywhere("events of kinds", readers, root, ["event_id"], types)
    expect("events of kinds", table.num_rows, len(sent))
    held = {row["event_id"]: row for row in table.to_pylist()}
    for event in sent:
        row = held[event["event_id"]]
        for name, of in KINDS["fields"].items():
            value, found = event[name], row[name]
            if value is not None and of == "bytes":
                value = base64.b64decode(value)
            if value is not None and of == "timestamp":
                value, found = datetime.datetime.fromisoformat(value), found.astimezone(datetime.timezone.utc)
            # As text, in which -0.0 is not 0.0.
            expect(f"`{name}` of {event['event_id']}", repr(found), repr(value))

    words = ["--transform", "kinds.wasm", "--events", f"kinds={root}"]
    plumb("backfill", *words, "--every", "1h", "--out", STORE)
    features = {feature["name"]: feature["type"] for feature in plumb("inspect", "kinds.wasm")["features"]}
    types = KINDS["pair"] | {"event_time": "timestamp"} | features | {"_position": "string"}
    keys = ["user_id", "item_id", "event_time"]
    table = same_everywhere("snapshots of kinds", readers, tree("kinds"), keys, types)
    pyarrow.parquet.write_table(table.select(keys), WORK / "labels-kinds.parquet")
    more = ["--labels", "labels-kinds.parquet", "--features", "kinds:*", "--out", "joined-kinds.parquet"]
    plumb("join", *words, *more)
    joined = pyarrow.parquet.read_table(WORK / "joined-kinds.parquet")
    for name in features:
        ours, theirs = digests(joined.select([f"kinds__{name}"])), digests(table.select([name]))
        expect(f"checksum of `{name}` of snapshots of kinds", list(theirs.values()), list(ours.values()))
        values = table[name].to_pylist()
        if not any(values) or (None not in values and [] not in values):
            fail(f"`{name}` of snapshots of kinds has no value, or is nowhere null or empty")
    say(f"every type: {len(sent)} events and {table.num_rows} rows of snapshots agree, and with the join")


def check_live(readers):
    """A service that commits and merges files all the while: what a reading holds is there once, and stays."""
    live = WORK / "live"
    live.mkdir()
    ports = "\n".join(f'{name} = "127.0.0.1:0"' for name in ("listen", "admin_listen", "metrics_listen"))
    (live / "plumb.toml").write_text(
        f'[source]\nkind = "log"\n[transforms]\npaths = ["{COMPONENTS}/user_daily.wasm"]\n'
        f'[run]\nserve = true\ncommit_interval = "100ms"\n[serve]\n{ports}\n'
    )
    root = live / "data/offline/events/default"
    batches, size = 40, 2_000
    sent = []
    for n in range(batches):
        words = ["--users", 50, "--items", 20, "--days", 3, "--seed", n, "--start", "2017-01-01T00:00:00Z"]
        plumb("generate", "--events", size, *words, "--out", live / f"{n}.parquet")
        table = polars.read_parquet(live / f"{n}.parquet")
        # Ids of a file are its own; together they must be different.
        table = table.with_columns(event_id=polars.format(f"{n}-{{}}", polars.int_range(polars.len())))
        table.write_parquet(live / f"{n}.parquet")
        sent.append(table["event_id"])
    service = subprocess.Popen([PLUMB, "run"], cwd=live, stdout=subprocess.DEVNULL, stderr=open(live / "log", "w"))
    seen, readings, vanished = {reader.name: set() for reader in readers}, 0, 0
    try:
        while not is_ready(live / "data/owner"):
            if service.poll() is not None:
                fail(f"plumb run ended: {(live / 'log').read_text()}")
            time.sleep(0.05)
        for n in range(batches):
            producer = subprocess.Popen([PLUMB, "produce", f"{n}.parquet"], cwd=live, stdout=subprocess.DEVNULL)
            committed = False
            while not committed:
                if producer.poll() is not None:
                    expect("exit code of plumb produce", producer.returncode, 0)
                    commit(live / "data/owner")
                    committed = True
                for reader in readers:
                    places, again = read_places(reader, root)
                    readings += bool(places)
                    vanished += again
                    if len(set(places)) != len(places):
                        fail(f"{reader.name} reads {len(places) - len(set(places))} rows twice while plumb runs")
                    if not seen[reader.name] <= set(places):
                        fail(f"rows that {reader.name} has read are gone while plumb runs")
                    if committed:
                        expect(f"rows read by {reader.name} after a commit", len(places), (n + 1) * size)
                    seen[reader.name] = set(places)
        service.terminate()
        expect("exit code of plumb run", service.wait(timeout=120), 0)
    finally:
        service.kill()
        service.wait()
    ids = set(polars.concat(sent))
    for reader in readers:
        held = plain(reader.table(root)["event_id"]).to_pylist()
        expect(f"events read by {reader.name} after all", (len(held), set(held) == ids), (len(ids), True))
    replaced = len(list((live / "data/offline/_trash").rglob("*.parquet")))
    if not replaced:
        fail("nothing was merged while it was read")
    say(f"a running service: {readings} readings, {vanished} begun again, of {len(ids)} rows; {replaced} files replaced")


# What programs say of a file that is gone.
GONE = ("no such file", "no files found", "does not exist")


def is_ready(owner):
    """Whether the service that has written its addresses into a file takes events."""
    try:
        address = json.loads(owner.read_text())["listen"]
        with urllib.request.urlopen(f"http://{address}/ready", timeout=10) as answer:
            return answer.status == 200
    except (OSError, ValueError, KeyError):
        return False


def commit(owner):
    """Returns when all that was sent is committed."""
    address = json.loads(owner.read_text())["admin"]
    with urllib.request.urlopen(f"http://{address}/commit", data=b"", timeout=120) as answer:
        answer.read()


def read_places(reader, root):
    """Where the rows that a program reads stand in the log, and how often it had to begin again."""
    again = 0
    while any(root.rglob("*.parquet")):
        try:
            table = reader.table(root)
            return list(zip(table["_partition"].to_pylist(), table["_offset"].to_pylist())), again
        except Exception as error:
            # Listed before a merge, opened after it.
            if not any(word in str(error).lower() for word in GONE) or again == 100:
                raise
            again += 1
    return [], again


def check_features(readers):
    lists = 0
    for view in VIEWS:
        root = tree(view)
        key = "item_id" if view == "item_activity" else "user_id"
        features = feature_types(view)
        types = {key: "string", "event_time": "timestamp", **features, "_position": "string"}
        what = f"snapshots of {view}"
        table = same_everywhere(what, readers, root, [key, "event_time"], types)
        same_as_stats(what, root, table, [key, "event_time", *features])
        # The same values by the join, at the instants that a reader found in the snapshots.
        labels = WORK / f"labels-{view}.parquet"
        pyarrow.parquet.write_table(table.select([key, "event_time"]), labels)
        joined = WORK / f"joined-{view}.parquet"
        events = ["--events", STORE / "events/default"]
        plumb("join", *transforms(view), *events, "--labels", labels, "--features", f"{view}:*", "--out", joined)
        values = pyarrow.parquet.read_table(joined)
        for name, of in features.items():
            ours, theirs = digests(values.select([f"{view}__{name}"])), digests(table.select([name]))
            expect(f"checksum of `{name}` of {what}", list(theirs.values()), list(ours.values()))
            if of.startswith("list"):
                lists += sum(len(row) for row in table[name].to_pylist() if row)
        say(f"{what}: {table.num_rows} rows agree, and with the join")
    if not lists:
        fail("no list had an element")


def check_training_set(readers, events):
    """A set in parts, with its manifest: rows in order, and the hash that plumb states."""
    labels = polars.from_arrow(events).filter(polars.col("event_id").hash(1) % 10 == 0).sort("event_time", "event_id")
    labels = labels.select("user_id", "event_time", label=polars.col("event_id").hash(2) % 2 == 0).drop_nulls("user_id")
    labels = labels.with_row_index("row").with_columns(polars.col("row", "label").cast(polars.Int64))
    labels.write_parquet(WORK / "labels.parquet")
    words = ["--events", STORE / "events/default", "--labels", "labels.parquet", "--features"]
    words += ["user_transactions:*,user_activity:*", "--out", "set", "--part-rows", max(1, len(labels) // 3)]
    plumb("join", *transforms("user_transactions", "user_activity"), *words)
    root = WORK / "set"
    manifest = json.loads((root / "_manifest.json").read_text())
    if len(list(root.glob("*.parquet"))) < 3:
        fail("the training set has no parts")
    names = [column["name"] for column in manifest["schema"]]
    for reader in readers:
        table = ordered(reader.table(root).select(names), ["row"])
        expect(f"rows of the training set in {reader.name}", table.num_rows, manifest["rows"]["kept"])
        expect(f"hash of the training set's rows in {reader.name}", rows_hash(table), manifest["rows"]["sha256"])
    say(f"training set: {len(labels)} rows in {len(manifest['files'])} files have the hash of its manifest")


def check_other_fields(readers):
    """A source that gained two fields and lost one: older files lack the new, newer the old."""
    configure(MORE_FIELDS)
    lines = [
        {
            "event_id": f"late-{n}",
            "event_time": f"2017-01-{n % 9 + 1:02}T10:00:00Z",
            "user_id": "u1",
            "item_id": "i1",
            "event_type": "view",
            "channel": "app",
            "rank": n if n % 2 else None,
        }
        for n in range(500)
    ]
    (WORK / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plumb("produce", "more.jsonl")
    plumb("run", "--until-end", "--no-serve")
    root = STORE / "events/default"
    columns = [*EVENT_TYPES, "channel", "rank", "date"]
    first = None
    for reader in readers:
        table = reader.table(root, union=True)
        expect(f"columns of events of two schemas in {reader.name}", sorted(table.column_names), sorted(columns))
        table = ordered(pyarrow.table({name: plain(table[name]) for name in columns}), ["_partition", "_offset"])
        expect(f"channels in {reader.name}", table.num_rows - table["channel"].null_count, len(lines))
        expect(f"ranks in {reader.name}", table.num_rows - table["rank"].null_count, len(lines) // 2)
        first = first or digests(table)
        expect(f"checksums of events of two schemas in {reader.name}", digests(table), first)
    say(f"events of two schemas: {table.num_rows} rows agree")


def snapshots(view="user_transactions", keys=("user_id", "event_time")):
    """The view's snapshots as files, by their keys."""
    table = Polars().table(tree(view))
    return ordered(pyarrow.table({name: plain(table[name]) for name in table.column_names}), keys)


def same_table(what, table, expected, without=(), keys=("user_id", "event_time")):
    names = [name for name in expected.column_names if name not in without]
    expect(f"columns of {what}", sorted(set(table.column_names) - set(without)), sorted(names))
    table = ordered(pyarrow.table({name: plain(table[name]) for name in names}), keys)
    expect(f"rows of {what}", table.num_rows, expected.num_rows)
    expect(f"checksums of {what}", digests(table), digests(expected.select(names)))


def backfill(*words):
    events = ["--events", STORE / "events/default"]
    plumb("backfill", *transforms(*VIEWS), *events, "--every", "1d", "--out", STORE, *words)


def add_late_event():
    """An event of 2017-01-05 as if it had come last: it changes the snapshots after it."""
    folder = STORE / "events/default/date=2017-01-05"
    event = pyarrow.parquet.read_table(sorted(folder.glob("*.parquet"))[0], partitioning=None).slice(0, 1)
    for name, value in (("event_id", "late"), ("_offset", 1 << 40)):
        index = event.column_names.index(name)
        event = event.set_column(index, event.schema.field(index), pyarrow.array([value], event.schema.types[index]))
    pyarrow.parquet.write_table(event, folder / "late.parquet")


def check_tables(spark):
    """The two tables, made, brought up to date, and read by others; the second reading also goes back in time."""
    lake, delta = WORK / "iceberg", WORK / "delta"
    old = snapshots()
    days = len(set(old["date"].to_pylist()))
    for _ in range(2):
        made = [registered("iceberg", lake), registered("delta", delta)]
        expect("days", [table["days"] for table in made], [days, days])
    expect("days added when nothing is new", [table["added"] + table["replaced"] for table in made], [0, 0])
    check_iceberg(spark, lake, made[0], old, days)
    check_delta(spark, made[1], old)

    add_late_event()
    backfill()
    new = snapshots()
    if new.num_rows <= old.num_rows:
        fail("the second backfill wrote no other rows")
    made = [registered("iceberg", lake), registered("delta", delta)]
    days = len(set(new["date"].to_pylist()))
    for table in made:
        expect("days of the table", table["days"], days)
        if not 0 < table["replaced"] < days:
            fail(f"{table['replaced']} of {days} days replaced")
    check_iceberg(spark, lake, made[0], new, days)
    check_delta(spark, made[1], new)
    # The past is still there, though its files are gone from the store.
    name = "plumb.user_transactions.features_daily"
    first = spark.sql(f"SELECT min_by(snapshot_id, committed_at) FROM {name}.snapshots").first()[0]
    past = spark.sql(f"SELECT * FROM {name} VERSION AS OF {first}").toArrow()
    same_table("the Iceberg table's first snapshot", past, old, ("date", "version"))
    past = polars.read_delta(made[1]["table"], version=0).to_arrow()
    same_table("the Delta table's first version", past, old, ("version",))

    # Every type there is.
    keys = ["user_id", "item_id", "event_time"]
    kinds = snapshots("kinds", keys)
    metadata, location = registered("iceberg", lake, "kinds")["metadata"], registered("delta", delta, "kinds")["table"]
    in_iceberg = {
        "Spark": spark.table("plumb.kinds.features_daily").toArrow(),
        "Polars": polars.scan_iceberg(metadata).collect().to_arrow(),
    }
    in_delta = {
        "Spark": spark.read.format("delta").load(location).toArrow(),
        "Polars": polars.read_delta(location).to_arrow(),
    }
    for reader in in_iceberg:
        same_table(f"the Iceberg table of kinds in {reader}", in_iceberg[reader], kinds, ("date", "version"), keys)
        same_table(f"the Delta table of kinds in {reader}", in_delta[reader], kinds, ("version",), keys)
    say(f"Iceberg and Delta tables of every type: {kinds.num_rows} rows agree in Spark and Polars")

    tree("user_transactions").rename(tree("user_transactions").with_name("version=9.9.9_00000000"))
    for kind, warehouse in (("iceberg", lake), ("delta", delta)):
        refused = register(kind, warehouse)
        expect("exit code with another version", refused.returncode, 2)
        if "holds version" not in refused.stderr:
            fail(f"register.py {kind} says: {refused.stderr}")


def check_iceberg(spark, lake, made, expected, days):
    name = "plumb.user_transactions.features_daily"
    # The folders of plumb's paths are no columns of its files, so neither of the table: the day is that of event_time.
    without = ("date", "version")
    spark.sql(f"REFRESH TABLE {name}")
    same_table("the Iceberg table in Spark", spark.table(name).toArrow(), expected, without)
    scanned = polars.scan_iceberg(made["metadata"]).collect().to_arrow()
    same_table("the Iceberg table in Polars", scanned, expected, without)
    files = spark.sql(f"SELECT count(DISTINCT partition.event_time_day), sum(record_count) FROM {name}.files").first()
    expect("the Iceberg table's days and rows", tuple(files), (days, expected.num_rows))
    day = expected["date"][len(expected) // 2].as_py()
    query = f"SELECT * FROM {name} WHERE event_time >= '{day}' AND event_time < '{day + datetime.timedelta(days=1)}'"
    rows = sum(date == day for date in expected["date"].to_pylist())
    expect(f"rows on {day} of the Iceberg table", spark.sql(query).count(), rows)
    rewritten = spark.sql(f"SELECT count(*) FROM {name}.snapshots WHERE operation = 'overwrite'").first()[0]
    expect("commits that rewrote rows", rewritten, 0)
    catalog = sqlite3.connect(lake / "catalog.db")
    listed = catalog.execute("SELECT table_namespace, table_name, metadata_location FROM iceberg_tables").fetchall()
    expect("the catalogue", listed, [("user_transactions", "features_daily", made["metadata"])])
    catalog.close()
    say(f"Iceberg table: {expected.num_rows} rows of {days} days agree in Spark and Polars")


def check_delta(spark, made, expected):
    table = deltalake.DeltaTable(made["table"])
    readings = {
        "Spark": spark.read.format("delta").load(made["table"]).toArrow(),
        "Polars": polars.read_delta(made["table"]).to_arrow(),
        "delta-rs": pyarrow.table(table.to_pyarrow_table()),
    }
    for reader, reading in readings.items():
        same_table(f"the Delta table in {reader}", reading, expected, ("version",))
    connection = DuckDB().connection
    dataset = table.to_pyarrow_dataset()
    day = expected["date"][len(expected) // 2].as_py()
    rows = sum(date == day for date in expected["date"].to_pylist())
    found = connection.sql(f"SELECT count(*) FROM dataset WHERE date = DATE '{day}'").fetchall()[0][0]
    expect(f"rows on {day} of the Delta table in DuckDB", found, rows)
    say(f"Delta table: {expected.num_rows} rows agree in Spark, Polars, delta-rs and DuckDB")


def main():
    start = time.monotonic()
    make_events()
    # The instants of the first days only: the tables get the others later.
    backfill("--to", "2017-01-10T00:00:00Z")
    leave_remains()
    say(f"made in {time.monotonic() - start:.0f} s")
    spark = spark_session(JARS, WORK / "iceberg")
    readers = [DuckDB(), Polars(), Pandas(), Spark(spark)]
    events = check_events(readers)
    check_kinds(readers)
    # Spark takes minutes for as many readings; it lists and opens files as the others do.
    check_live(readers[:3])
    check_features(readers)
    check_training_set(readers, events)
    check_other_fields(readers)
    check_tables(spark)
    spark.stop()
    say(f"all agree, {time.monotonic() - start:.0f} s")


main()
