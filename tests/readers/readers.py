"""Four programs that read tables of plumb without plumb, each by its own code, and what is compared of a table."""

import hashlib
import pathlib
import struct

import duckdb
import numpy
import pandas
import polars
import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet
from pyspark.sql import SparkSession

# What a column of plumb's is, in the words of each program.
TYPES = {
    "string": ("VARCHAR", "String", "string[pyarrow]", "string"),
    "i32": ("INTEGER", "Int32", "int32[pyarrow]", "int"),
    "i64": ("BIGINT", "Int64", "int64[pyarrow]", "bigint"),
    "f64": ("DOUBLE", "Float64", "double[pyarrow]", "double"),
    "timestamp": (
        "TIMESTAMP WITH TIME ZONE",
        "Datetime(time_unit='us', time_zone='UTC')",
        "timestamp[us, tz=UTC][pyarrow]",
        "timestamp",
    ),
    "date": ("DATE", "Date", "date32[day][pyarrow]", "date"),
    "bool": ("BOOLEAN", "Boolean", "bool[pyarrow]", "boolean"),
    "bytes": ("BLOB", "Binary", "binary[pyarrow]", "binary"),
}
TYPES |= {
    f"list<{name}>": (
        f"{duck}[]",
        f"List({pola})",
        f"list<element: {panda.removesuffix('[pyarrow]')}>[pyarrow]",
        f"array<{spark}>",
    )
    for name, (duck, pola, panda, spark) in TYPES.items()
}

# The folders of a path, as columns.
FOLDERS = {"entity": "string", "view": "string", "version": "string", "date": "date"}


def folders_below(root):
    """Which folders of Hive's kind a tree has below its root, outermost first."""
    path = next(path for path in sorted(root.rglob("*.parquet")))
    return [part.split("=")[0] for part in path.relative_to(root).parts[:-1]]


def folders_above(root):
    """Which folders of Hive's kind the root lies in: DuckDB and Polars make columns of these too."""
    return [part.split("=")[0] for part in root.parts if "=" in part]


class DuckDB:
    name = "DuckDB"

    def __init__(self):
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")

    def relation(self, root, union=False):
        options = ", union_by_name = true" if union else ""
        above = folders_above(root)
        select = f"SELECT * EXCLUDE ({', '.join(above)})" if above else ""
        return self.connection.sql(
            f"{select} FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true{options})"
        )

    def types(self, root):
        relation = self.relation(root)
        return dict(zip(relation.columns, map(str, relation.types)))

    def table(self, root, union=False):
        return self.relation(root, union).to_arrow_table()

    def rows_of_day(self, root, day):
        return self.relation(root).filter(f"date = DATE '{day}'").aggregate("count(*)").fetchall()[0][0]

    def rows_between(self, root, start, end):
        condition = f"event_time >= TIMESTAMPTZ '{start}' AND event_time < TIMESTAMPTZ '{end}'"
        return self.relation(root).filter(condition).aggregate("count(*)").fetchall()[0][0]


class Polars:
    name = "Polars"

    def frame(self, root, union=False):
        pattern = f"{root}/**/*.parquet"
        if not union:
            return polars.scan_parquet(pattern, hive_partitioning=True).drop(folders_above(root))
        # Polars takes the columns of the first file unless told; told, files may lack some.
        schema = {}
        for path in sorted(root.rglob("*.parquet")):
            schema |= polars.read_parquet_schema(path)
        schema |= {folder: polars.Date if folder == "date" else polars.String for folder in folders_below(root)}
        return polars.scan_parquet(pattern, hive_partitioning=True, schema=schema, missing_columns="insert")

    def types(self, root):
        return {name: str(of) for name, of in self.frame(root).collect_schema().items()}

    def table(self, root, union=False):
        return self.frame(root, union).collect().to_arrow()

    def rows_of_day(self, root, day):
        return len(self.frame(root).filter(polars.col("date") == polars.lit(day)).collect())

    def rows_between(self, root, start, end):
        time = polars.col("event_time")
        return len(self.frame(root).filter(time >= start, time < end).collect())


class Pandas:
    name = "pandas"

    def frame(self, root, union=False, **more):
        # Left alone, pandas makes categories of the folders' names; told their types, it makes dates of dates.
        kinds = {"string": pyarrow.string(), "date": pyarrow.date32()}
        below = pyarrow.schema([(name, kinds[FOLDERS[name]]) for name in folders_below(root)])
        if union:
            more["schema"] = pyarrow.unify_schemas(
                [pyarrow.parquet.read_schema(path) for path in sorted(root.rglob("*.parquet"))] + [below]
            )
        partitioning = pyarrow.dataset.partitioning(below, flavor="hive")
        return pandas.read_parquet(root, partitioning=partitioning, dtype_backend="pyarrow", **more)

    def types(self, root):
        return {name: str(of) for name, of in self.frame(root).dtypes.items()}

    def table(self, root, union=False):
        return pyarrow.Table.from_pandas(self.frame(root, union), preserve_index=False)

    def rows_of_day(self, root, day):
        return len(self.frame(root, filters=[("date", "==", day)]))

    def rows_between(self, root, start, end):
        return len(self.frame(root, filters=[("event_time", ">=", start), ("event_time", "<", end)]))


class Spark:
    name = "Spark"

    def __init__(self, session):
        self.session = session

    def frame(self, root, union=False):
        return self.session.read.option("mergeSchema", union).parquet(str(root))

    def types(self, root):
        return dict(self.frame(root).dtypes)

    def table(self, root, union=False):
        return self.frame(root, union).toArrow()

    def rows_of_day(self, root, day):
        return self.frame(root).where(f"date = DATE '{day}'").count()

    def rows_between(self, root, start, end):
        return self.frame(root).where(f"event_time >= TIMESTAMP '{start}' AND event_time < TIMESTAMP '{end}'").count()


def spark_session(jars, warehouse):
    """Spark with Iceberg's and Delta's own libraries; catalogue `plumb` is the one PyIceberg keeps in `warehouse`."""
    settings = {
        "spark.jars": ",".join(str(path) for path in sorted(pathlib.Path(jars).glob("*.jar"))),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.log.level": "ERROR",
        "spark.sql.catalog.plumb": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.plumb.type": "jdbc",
        "spark.sql.catalog.plumb.uri": f"jdbc:sqlite:{warehouse}/catalog.db",
        "spark.sql.catalog.plumb.warehouse": f"file://{warehouse}",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": f"{warehouse}/unused",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("plumb-readers")
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def plain(column):
    """A column in the one layout of Arrow that all readers' columns are compared in."""
    kind = column.type
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    if pyarrow.types.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        return column.cast(pyarrow.string())
    if pyarrow.types.is_timestamp(kind):
        return column.cast(pyarrow.timestamp("us", "UTC"))
    if pyarrow.types.is_large_binary(kind) or pyarrow.types.is_binary_view(kind):
        return column.cast(pyarrow.binary())
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return column.cast(pyarrow.list_(plain(pyarrow.array([], kind.value_type)).type))
    return column


def type_name(kind):
    if pyarrow.types.is_integer(kind):
        return "integer"
    if pyarrow.types.is_floating(kind):
        return "float"
    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_date(kind):
        return "instant"
    if pyarrow.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pyarrow.types.is_string(kind):
        return "string"
    if pyarrow.types.is_binary(kind):
        return "bytes"
    if pyarrow.types.is_boolean(kind):
        return "boolean"
    raise TypeError(f"no column of plumb's is {kind}")


def encode(column):
    """The bytes of a column's values, as docs/training-sets.md has them for the hash of rows."""
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind):
        texts = column.cast(pyarrow.binary()).to_pylist()
        return b"".join(b"\0" if text is None else b"\1" + struct.pack("<I", len(text)) + text for text in texts)
    if pyarrow.types.is_list(kind):
        out = []
        for row in column.to_pylist():
            values = b"" if row is None else encode(pyarrow.array(row, kind.value_type))
            out.append(b"\0" if row is None else b"\1" + struct.pack("<I", len(row)) + values)
        return b"".join(out)
    if pyarrow.types.is_boolean(kind):
        return b"".join(b"\0" if value is None else b"\1" + bytes([value]) for value in column.to_pylist())
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pyarrow.types.is_floating(kind):
        values = column.cast(pyarrow.float64()).fill_null(0.0).to_numpy()
        values = numpy.where(numpy.isnan(values), numpy.float64("nan"), values).view("<i8")
    else:
        if pyarrow.types.is_date(kind):
            column = column.cast(pyarrow.timestamp("us"))
        values = column.cast(pyarrow.int64()).fill_null(0).to_numpy()
    # A byte and eight; of a null, the byte alone.
    cells = numpy.zeros((len(values), 9), "u1")
    cells[:, 0] = valid
    cells[:, 1:] = values.astype("<i8").view("u1").reshape(-1, 8)
    kept = numpy.ones((len(values), 9), bool)
    kept[:, 1:] = valid[:, None]
    return cells[kept].tobytes()


def digests(table):
    """The checksum of each column."""
    return {name: hashlib.sha256(encode(plain(table[name]))).hexdigest() for name in table.column_names}


def rows_hash(table):
    """The hash of rows, as a training set's manifest has it."""
    out = hashlib.sha256(b"plumb rows 1\n" + struct.pack("<Q", table.num_rows))
    for name in table.column_names:
        column = plain(table[name])
        for text in (name.encode(), type_name(column.type).encode()):
            out.update(struct.pack("<I", len(text)) + text)
        out.update(hashlib.sha256(encode(column)).digest())
    return out.hexdigest()
