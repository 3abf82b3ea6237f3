//! The Arrow types that a file's columns are read as, where the ones its writer noted would be lost when written again.

use arrow_schema::{DataType as ArrowType, Field, FieldRef, Schema, TimeUnit};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::Result;
use std::sync::Arc;

/// The columns of a file as it stores them, where Parquet has no such type as the one that is noted: a `Date64` that is
/// stored as a date is read as a date, an instant in seconds stored as `INT96` as one in milliseconds. The noted ones
/// would be written as integers, which to other readers are neither dates nor instants.
pub(crate) fn as_stored(noted: ArrowReaderMetadata) -> Result<ArrowReaderMetadata> {
    if !noted.schema().fields().iter().any(|field| is_lost_in(field.data_type())) {
        return Ok(noted);
    }
    let stored = parquet_to_arrow_schema(noted.metadata().file_metadata().schema_descr(), None)?;
    let fields = noted.schema().fields().iter().zip(stored.fields()).map(|(noted, stored)| of_field(noted, stored));
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), noted.schema().metadata().clone());
    if schema == **noted.schema() {
        return Ok(noted);
    }
    ArrowReaderMetadata::try_new(noted.metadata().clone(), ArrowReaderOptions::new().with_schema(Arc::new(schema)))
}

/// Whether a type that Parquet does not have is in this one.
fn is_lost_in(noted: &ArrowType) -> bool {
    match noted {
        ArrowType::Date64 | ArrowType::Timestamp(TimeUnit::Second, _) => true,
        ArrowType::Dictionary(_, values) => is_lost_in(values),
        other => inner(other).iter().any(|field| is_lost_in(field.data_type())),
    }
}

fn of_field(noted: &FieldRef, stored: &FieldRef) -> FieldRef {
    Arc::new(Field::clone(noted).with_data_type(of_type(noted.data_type(), stored.data_type())))
}

fn of_type(noted: &ArrowType, stored: &ArrowType) -> ArrowType {
    use ArrowType as A;
    let of_inner =
        |noted: &FieldRef| inner(stored).first().map_or_else(|| noted.clone(), |stored| of_field(noted, stored));
    match (noted, stored) {
        (A::Date64, A::Date32) => A::Date32,
        (A::Timestamp(TimeUnit::Second, zone), A::Timestamp(..)) => A::Timestamp(TimeUnit::Millisecond, zone.clone()),
        (A::Dictionary(key, values), stored) => A::Dictionary(key.clone(), Box::new(of_type(values, stored))),
        (A::Struct(fields), A::Struct(stored)) => {
            A::Struct(fields.iter().zip(stored).map(|(noted, stored)| of_field(noted, stored)).collect())
        }
        (A::List(item), _) => A::List(of_inner(item)),
        (A::LargeList(item), _) => A::LargeList(of_inner(item)),
        (A::ListView(item), _) => A::ListView(of_inner(item)),
        (A::LargeListView(item), _) => A::LargeListView(of_inner(item)),
        (A::FixedSizeList(item, size), _) => A::FixedSizeList(of_inner(item), *size),
        (A::Map(entries, is_sorted), _) => A::Map(of_inner(entries), *is_sorted),
        (noted, _) => noted.clone(),
    }
}

/// The fields inside of a type.
fn inner(of: &ArrowType) -> &[FieldRef] {
    use ArrowType as A;
    match of {
        A::Struct(fields) => fields,
        A::List(item)
        | A::LargeList(item)
        | A::ListView(item)
        | A::LargeListView(item)
        | A::FixedSizeList(item, _)
        | A::Map(item, _) => std::slice::from_ref(item),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParquetFile, Selection};
    use arrow_array::builder::{Date64Builder, MapBuilder, StringBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{Array, ArrayRef, Date64Array, DictionaryArray, Int8Array, RecordBatch, StructArray};
    use bytes::Bytes;
    use parquet::arrow::{ArrowWriter, add_encoded_arrow_schema_to_metadata};
    use parquet::basic::{Repetition, Type as Physical};
    use parquet::data_type::{Int96, Int96Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::types::Type;
    use std::collections::HashMap;
    use std::path::Path;

    fn read(bytes: Vec<u8>) -> RecordBatch {
        let file = ParquetFile::from_bytes(Path::new("f.parquet"), Bytes::from(bytes)).unwrap();
        let batch = file.batches(&Selection::default()).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.schema_ref(), file.schema());
        batch
    }

    #[test]
    fn dates_are_dates_however_deep_and_integers_stay_what_was_noted() {
        const DAY_MS: i64 = 86_400_000;
        let days = || Date64Array::from(vec![Some(-DAY_MS), None]);
        let field = |name: &str, of: &dyn Array| {
            let metadata = HashMap::from([("PARQUET:field_id".to_owned(), "7".to_owned())]);
            Arc::new(Field::new(name, of.data_type().clone(), true).with_metadata(metadata))
        };
        let pair = StructArray::from(vec![
            (field("n", &Int8Array::from(vec![1, 2])), Arc::new(Int8Array::from(vec![1, 2])) as ArrayRef),
            (field("day", &days()), Arc::new(days()) as ArrayRef),
        ]);
        let coded = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0, 0]), Arc::new(days()));
        let mut map = MapBuilder::new(None, StringBuilder::new(), Date64Builder::new());
        map.keys().append_value("k");
        map.values().append_value(DAY_MS);
        map.append(true).unwrap();
        map.append(false).unwrap();
        let batch = RecordBatch::try_from_iter([
            ("day", Arc::new(days()) as ArrayRef),
            ("pair", Arc::new(pair)),
            ("map", Arc::new(map.finish())),
            ("coded", Arc::new(coded)),
        ])
        .unwrap();
        for are_dates in [true, false] {
            let properties = WriterProperties::builder().set_coerce_types(are_dates).build();
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            let read = read(writer.into_inner().unwrap());
            for (column, expected) in read.columns().iter().zip(batch.columns()) {
                let found = column.data_type().to_string();
                assert_eq!((found.contains("Date32"), found.contains("Date64")), (are_dates, !are_dates), "{found}");
                let back = arrow_cast::cast(column, expected.data_type()).unwrap();
                assert_eq!(&back, expected);
            }
        }
    }

    #[test]
    fn instants_noted_in_seconds_and_stored_otherwise_are_instants() {
        let column = Type::primitive_type_builder("at", Physical::INT96).with_repetition(Repetition::REQUIRED);
        let root = Type::group_type_builder("schema").with_fields(vec![Arc::new(column.build().unwrap())]);
        let seconds = ArrowType::Timestamp(TimeUnit::Second, Some("UTC".into()));
        let mut properties = WriterProperties::builder().build();
        let noted = Schema::new(vec![Field::new("at", seconds, false)]);
        add_encoded_arrow_schema_to_metadata(&noted, &mut properties);
        let root = Arc::new(root.build().unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), root, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        // Noon of 1970-01-02: nanoseconds of the day, and its Julian day.
        const NANOS: u64 = 12 * 3_600_000_000_000;
        let mut noon = Int96::new();
        noon.set_data(NANOS as u32, (NANOS >> 32) as u32, 2_440_588 + 1);
        column.typed::<Int96Type>().write_batch(&[noon], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        let read = read(writer.into_inner().unwrap());
        let expected = arrow_array::TimestampMillisecondArray::from(vec![36 * 3_600_000]).with_timezone("UTC");
        assert_eq!(read.column(0).as_ref(), &expected as &dyn Array);
    }
}
