//! What lies in the archive, read with nothing but the Parquet crate and a plain walk of the folder.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::{Path, PathBuf};

use crate::oracle::OracleEvent;

/// One archived event with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Archived {
    /// The source partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The event.
    pub event: OracleEvent,
}

/// Every Parquet file below a folder, in byte order of path.
pub fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return files };
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            files.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "parquet") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every event below a folder of the archive, in order of partition and offset.
pub fn read(folder: &Path) -> Vec<Archived> {
    let mut events: Vec<Archived> = Vec::new();
    for path in parquet_files(folder) {
        let file = std::fs::File::open(&path).expect("a listed file can be opened");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .build()
            .expect("a reader can be built");
        for batch in reader {
            let batch = batch.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            events.extend((0..batch.num_rows()).map(|row| archived(&batch, row)));
        }
    }
    events.sort_by_key(|event| (event.partition, event.offset));
    events
}

/// Every event of one Parquet file that has the default schema's columns, in row order.
pub fn events_of(path: &Path) -> Vec<OracleEvent> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    let micros = arrow_schema::DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None);
    let mut events = Vec::new();
    for batch in reader.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let batch = batch.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let column = |name: &str, to: &arrow_schema::DataType| {
            let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
            arrow_cast::cast(column, to).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let texts = ["event_id", "user_id", "item_id", "event_type", "category"]
            .map(|name| column(name, &arrow_schema::DataType::Utf8).as_string::<i32>().clone());
        let times = column("event_time", &micros);
        let floats = ["price", "rating"]
            .map(|name| column(name, &arrow_schema::DataType::Float64).as_primitive::<Float64Type>().clone());
        let quantities = column("quantity", &arrow_schema::DataType::Int64);
        for row in 0..batch.num_rows() {
            let text = |index: usize| (!texts[index].is_null(row)).then(|| texts[index].value(row).to_owned());
            let float = |index: usize| (!floats[index].is_null(row)).then(|| floats[index].value(row));
            events.push(OracleEvent {
                id: text(0),
                time: times.as_primitive::<TimestampMicrosecondType>().value(row),
                user: text(1),
                item: text(2),
                kind: text(3).expect("an event has a type"),
                category: text(4),
                price: float(0),
                quantity: (!quantities.is_null(row)).then(|| quantities.as_primitive::<Int64Type>().value(row)),
                rating: float(1),
            });
        }
    }
    events
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The source partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// What the record held.
    pub bytes: Vec<u8>,
    /// Why it was refused.
    pub reason: String,
    /// The view that failed on it; `None` = nobody got it.
    pub view: Option<String>,
}

/// Every dead letter below a folder, in order of partition and offset.
pub fn dead_letters(folder: &Path) -> Vec<DeadLetter> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    for path in parquet_files(folder) {
        let file = std::fs::File::open(&path).expect("a listed file can be opened");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
        for batch in reader.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let batch = batch.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
            let text = |name: &str| {
                arrow_cast::cast(column(name), &arrow_schema::DataType::Utf8).expect("text").as_string::<i32>().clone()
            };
            let (reasons, views) = (text("reason"), text("view"));
            let bytes = arrow_cast::cast(column("bytes"), &arrow_schema::DataType::Binary).expect("bytes");
            letters.extend((0..batch.num_rows()).map(|row| DeadLetter {
                partition: column("_partition").as_primitive::<Int32Type>().value(row),
                offset: column("_offset").as_primitive::<Int64Type>().value(row),
                bytes: bytes.as_binary::<i32>().value(row).to_vec(),
                reason: reasons.value(row).to_owned(),
                view: (!views.is_null(row)).then(|| views.value(row).to_owned()),
            }));
        }
    }
    letters.sort_by_key(|letter| (letter.partition, letter.offset));
    letters
}

fn archived(batch: &RecordBatch, row: usize) -> Archived {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("the archive has no column {name}"));
    let text = |name: &str| {
        let column = column(name);
        (!column.is_null(row)).then(|| {
            let plain = arrow_cast::cast(column, &arrow_schema::DataType::Utf8).expect("text");
            plain.as_string::<i32>().value(row).to_owned()
        })
    };
    let float = |name: &str| {
        let column = column(name);
        (!column.is_null(row)).then(|| column.as_primitive::<Float64Type>().value(row))
    };
    let quantity = column("quantity");
    Archived {
        partition: column("_partition").as_primitive::<Int32Type>().value(row),
        offset: column("_offset").as_primitive::<Int64Type>().value(row),
        event: OracleEvent {
            id: text("event_id"),
            time: column("event_time").as_primitive::<TimestampMicrosecondType>().value(row),
            user: text("user_id"),
            item: text("item_id"),
            kind: text("event_type").expect("an event has a type"),
            category: text("category"),
            price: float("price"),
            quantity: (!quantity.is_null(row)).then(|| quantity.as_primitive::<Int64Type>().value(row)),
            rating: float("rating"),
        },
    }
}
