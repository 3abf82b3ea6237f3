#!/usr/bin/env python3
"""Registers the daily snapshots of one view as an Iceberg or a Delta table. No value is written anew.

    register.py iceberg STORE WAREHOUSE --view VIEW      table VIEW.features_daily of the catalogue WAREHOUSE/catalog.db
    register.py delta   STORE WAREHOUSE --view VIEW      table WAREHOUSE/VIEW/features_daily

STORE is plumb's offline store, or the folder that `plumb backfill --out` wrote. Run it again after new days were
written: it adds those, replaces the days whose files changed (both in one commit), and leaves the others alone. Days that
are gone from STORE stay in the table.

The table's data are hard links to plumb's files (copies where the warehouse is another file system). So a table keeps its
past when `plumb backfill` writes a day anew, and a table that is vacuumed or dropped with its files takes nothing from plumb.
"""

import argparse
import collections
import datetime
import hashlib
import json
import os
import pathlib
import shutil
import sys
import uuid

import pyarrow.parquet

# What the table says about where it came from.
VERSION = "plumb.version"


def fail(message):
    print(f"register: {message}", file=sys.stderr)
    sys.exit(2)


def version_folder(store, view, version):
    """The folder of one view's snapshots."""
    found = sorted(store.glob(f"features/entity=*/view={view}/version={version or '*'}"))
    if not found:
        views = sorted({path.name.removeprefix("view=") for path in store.glob("features/entity=*/view=*")})
        fail(f"{store} has no snapshots of view {view} {version or ''}; it has: {', '.join(views) or 'none'}")
    if len(found) > 1:
        fail(f"view {view} has several versions, name one by --version: {', '.join(p.name[8:] for p in found)}")
    return found[0]


def days_of(folder):
    """The files of each day, as plumb has them now: its folder's name and the files, in order."""
    days = collections.defaultdict(list)
    for path in sorted(folder.glob("date=*/*.parquet")):
        days[path.parent.name].append(path)
    return days


def place(path, folder):
    """Gives a file of plumb a second name in `folder`, after its content; the name."""
    with open(path, "rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()[:32] + ".parquet"
        target = folder / name
        if target.exists():
            return name
        folder.mkdir(parents=True, exist_ok=True)
        # By the open file and not by its path, under which another file may lie by now.
        staged = folder / f".{name}.{uuid.uuid4().hex}"
        try:
            os.link(f"/proc/self/fd/{file.fileno()}", staged, follow_symlinks=True)
        except OSError:
            file.seek(0)
            with open(staged, "xb") as copy:
                shutil.copyfileobj(file, copy)
        staged.replace(target)
    return name


def changes(days, known, data):
    """Days whose files the table does not hold as they are: what to add and what to take away, as paths under `data`."""
    add, remove = {}, {}
    for day, paths in days.items():
        names = {f"{day}/{place(path, data / day)}" for path in paths}
        if names != known.get(day, set()):
            add[day] = sorted(names)
            if known.get(day):
                remove[day] = sorted(known[day])
    return add, remove


def by_day(paths, data):
    """Paths of a table's files, by the folder of their day."""
    known = collections.defaultdict(set)
    for path in paths:
        relative = pathlib.Path(path.removeprefix("file://")).relative_to(data)
        known[relative.parts[0]].add(str(relative))
    return known


def same_version(table, recorded, version):
    if recorded != version:
        fail(f"table {table} holds version {recorded} and not {version}: give this one a table of its own by --table")


def iceberg(folder, warehouse, name, version):
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.exceptions import NoSuchTableError
    from pyiceberg.expressions import AlwaysFalse, And, GreaterThanOrEqual, LessThan, Or
    from pyiceberg.transforms import DayTransform

    catalog = SqlCatalog("plumb", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=f"file://{warehouse}")
    days = days_of(folder)
    schema = pyarrow.parquet.read_schema(next(iter(days.values()))[0])
    try:
        table = catalog.load_table(name)
        same_version(name, table.properties.get(VERSION), version)
    except NoSuchTableError:
        catalog.create_namespace_if_not_exists(name.rpartition(".")[0])
        with catalog.create_table_transaction(name, schema=schema, properties={VERSION: version}) as creation:
            with creation.update_spec() as spec:
                # The day of a row's instant is the `date=` it lies under, which the file itself does not hold.
                spec.add_field("event_time", DayTransform(), "event_time_day")
        table = catalog.load_table(name)
    data = pathlib.Path(table.location().removeprefix("file://")) / "data"
    files = table.inspect.files()["file_path"].to_pylist()
    add, remove = changes(days, by_day(files, data), data)
    if add:
        with table.transaction() as transaction:
            old = []
            for day in remove:
                start = datetime.datetime.fromisoformat(f"{day.removeprefix('date=')}T00:00:00+00:00")
                end = start + datetime.timedelta(days=1)
                old.append(
                    And(GreaterThanOrEqual("event_time", start.isoformat()), LessThan("event_time", end.isoformat()))
                )
            if old:
                # All rows of the days' files, which are dropped whole: none is rewritten.
                transaction.delete(Or(*old, AlwaysFalse()))
            transaction.add_files([f"file://{data / path}" for paths in add.values() for path in paths])
    return {"table": name, "metadata": table.metadata_location, "catalog": f"{warehouse}/catalog.db"}, add, remove


def delta(folder, warehouse, name, version):
    import deltalake
    from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

    location = warehouse / name.replace(".", "/")
    days = days_of(folder)
    schema = pyarrow.parquet.read_schema(next(iter(days.values()))[0])
    # Delta takes the partition column from the path: it is of the table and in no file, as plumb has it.
    schema = deltalake.Schema.from_arrow(schema.append(pyarrow.field("date", pyarrow.date32())))
    said = f"daily snapshots by plumb, version {version}"
    table = None
    if (location / "metadata").exists():
        fail(f"{location} holds an Iceberg table: give Delta tables a warehouse of their own")
    if deltalake.DeltaTable.is_deltatable(str(location)):
        table = deltalake.DeltaTable(location)
        same_version(name, (table.metadata().description or "").rpartition(" ")[2], version)
    location.mkdir(parents=True, exist_ok=True)
    known = by_day([f"{location}/{action['path']}" for action in actions_of(table)], location)
    add, remove = changes(days, known, location)
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)
    adds = []
    for day, paths in add.items():
        for path in paths:
            rows = pyarrow.parquet.read_metadata(location / path).num_rows
            adds.append(
                AddAction(
                    path=path,
                    size=(location / path).stat().st_size,
                    partition_values={"date": day.removeprefix("date=")},
                    modification_time=now,
                    data_change=True,
                    stats=json.dumps({"numRecords": rows}),
                )
            )
    if adds and table is None:
        create_table_with_add_actions(
            str(location), schema, adds, partition_by=["date"], name=location.name, description=said
        )
    elif adds:
        removes = [
            RemoveAction(path=path, data_change=True, deletion_timestamp=now, partition_values={"date": day[5:]})
            for day, paths in remove.items()
            for path in paths
        ]
        table.create_write_transaction([*removes, *adds], mode="append", schema=schema, partition_by=["date"])
    return {"table": str(location), "version": deltalake.DeltaTable(location).version()}, add, remove


def actions_of(table):
    import pyarrow as pa

    return pa.table(table.get_add_actions(flatten=True)).to_pylist() if table else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=["iceberg", "delta"])
    parser.add_argument("store", type=pathlib.Path)
    parser.add_argument("warehouse", type=pathlib.Path)
    parser.add_argument("--view", required=True)
    parser.add_argument("--version", help="the version's folder, as 1.0.0_7a74c024 [default: the only one]")
    parser.add_argument("--table", help="the table's name [default: VIEW.features_daily]")
    options = parser.parse_args()
    folder = version_folder(options.store, options.view, options.version)
    if not days_of(folder):
        fail(f"{folder} holds no snapshots yet")
    options.warehouse.mkdir(parents=True, exist_ok=True)
    name = options.table or f"{options.view}.features_daily"
    register = {"iceberg": iceberg, "delta": delta}[options.format]
    version = folder.name.removeprefix("version=")
    result, add, remove = register(folder, options.warehouse.resolve(), name, version)
    result |= {"days": len(days_of(folder)), "added": len(add) - len(remove), "replaced": len(remove)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
