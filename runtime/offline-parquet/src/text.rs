//! Values of types that plumb has none for, as text: structs, maps, decimals, instants to the nanosecond.

use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType as ArrowType, FieldRef};
use std::sync::Arc;

/// Each value as Arrow writes it, instants with a zone in UTC; `None` for a null.
pub(crate) fn texts_of(array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    let array = match in_utc(array.data_type()) {
        utc if utc == *array.data_type() => array.clone(),
        utc => cast(array, &utc)?,
    };
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(&array, &options)?;
    // Of a dictionary, nulls may be among its values.
    let nulls = array.logical_nulls();
    let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    (0..array.len()).map(|row| is_valid(row).then(|| formatter.value(row).try_to_string()).transpose()).collect()
}

/// The type with every zone in it set to that of UTC, by its offset: Arrow knows no zone by its name, not even `UTC`,
/// unless it is built with a table of them.
fn in_utc(data_type: &ArrowType) -> ArrowType {
    use ArrowType as A;
    let inner = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(in_utc(field.data_type())));
    match data_type {
        A::Timestamp(unit, Some(_)) => A::Timestamp(*unit, Some("+00:00".into())),
        A::Struct(fields) => A::Struct(fields.iter().map(inner).collect()),
        A::List(item) => A::List(inner(item)),
        A::LargeList(item) => A::LargeList(inner(item)),
        A::ListView(item) => A::ListView(inner(item)),
        A::LargeListView(item) => A::LargeListView(inner(item)),
        A::FixedSizeList(item, size) => A::FixedSizeList(inner(item), *size),
        A::Map(entries, is_sorted) => A::Map(inner(entries), *is_sorted),
        A::Dictionary(key, value) => A::Dictionary(key.clone(), Box::new(in_utc(value))),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder, TimestampMillisecondBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{
        DictionaryArray, FixedSizeListArray, Int8Array, Int64Array, ListViewArray, StructArray,
        TimestampNanosecondArray,
    };
    use arrow_schema::{Field, TimeUnit};

    fn check(array: impl Array + 'static, expected: &[Option<&str>]) {
        let found = texts_of(&(Arc::new(array) as ArrayRef)).unwrap();
        assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    fn instants(zone: &str) -> TimestampNanosecondArray {
        TimestampNanosecondArray::from(vec![Some(1_706_702_400_000_000_001), None]).with_timezone(zone)
    }

    #[test]
    fn instants_are_told_in_utc_whatever_their_zone_is_called() {
        for zone in ["UTC", "Europe/Berlin", "+02:00", "Z"] {
            check(instants(zone), &[Some("2024-01-31T12:00:00.000000001Z"), None]);
        }
        let naive = TimestampNanosecondArray::from(vec![1_706_702_400_000_000_001]);
        check(naive, &[Some("2024-01-31T12:00:00.000000001")]);
    }

    #[test]
    fn so_are_those_inside_of_others() {
        let told = "2024-01-31T12:00:00.000000001Z";
        let field = |array: &dyn Array| Arc::new(Field::new("at", array.data_type().clone(), true));
        let at = instants("UTC");
        let n = Int64Array::from(vec![1, 2]);
        let pair = StructArray::from(vec![
            (Arc::new(Field::new("n", ArrowType::Int64, true)), Arc::new(n) as ArrayRef),
            (field(&at), Arc::new(at.clone()) as ArrayRef),
        ]);
        check(pair.slice(0, 1), &[Some(&format!("{{n: 1, at: {told}}}"))]);
        check(pair.slice(1, 1), &[Some("{n: 2, at: }")]);
        let of_pairs = FixedSizeListArray::new(field(&pair), 2, Arc::new(pair), None);
        check(of_pairs, &[Some(&format!("[{{n: 1, at: {told}}}, {{n: 2, at: }}]"))]);
        let (offsets, sizes) = (vec![0, 1].into(), vec![2, 0].into());
        let views = ListViewArray::new(field(&at), offsets, sizes, Arc::new(at.clone()), None);
        check(views, &[Some(&format!("[{told}, ]")), Some("[]")]);
        let coded = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![Some(1), Some(0), None]), Arc::new(at));
        check(coded, &[None, Some(told), None]);

        let zoned = ArrowType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let values = TimestampMillisecondBuilder::new().with_data_type(zoned);
        let mut map = MapBuilder::new(None, StringBuilder::new(), ListBuilder::new(values));
        map.keys().append_value("k");
        map.values().append_value([Some(0), None]);
        map.append(true).unwrap();
        map.append(false).unwrap();
        check(map.finish(), &[Some("{k: [1970-01-01T00:00:00Z, ]}"), None]);
    }
}
