use super::super::bindings::exports::plumb::transform::view::{CodedTextResult, S64ListsResult, TextListsResult};
use super::*;

fn lifted(validity: &[u8], values: ValuesResult) -> Result<Column, String> {
    lift(ColumnResult { validity: validity.to_vec(), values }).map_err(|fault| fault.to_string())
}

fn text(offsets: &[u32], data: &[u8]) -> TextResult {
    TextResult { offsets: offsets.to_vec(), data: data.to_vec() }
}

fn refused(validity: &[u8], values: ValuesResult) -> String {
    let fault = lifted(validity, values).expect_err("this column is malformed");
    assert!(fault.starts_with("malformed answer: "), "{fault}");
    fault
}

#[test]
fn good_columns_come_through() {
    let column = lifted(&[0b101], ValuesResult::Utf8(text(&[0, 2, 2, 3], "éa".as_bytes()))).unwrap();
    assert_eq!(
        (column.str_bytes(0), column.str_bytes(1), column.str_bytes(2)),
        (Some("é".as_bytes()), None, Some(&b"a"[..]))
    );
    let lists = TextListsResult { offsets: vec![0, 1, 1], elements: text(&[0, 1], b"x") };
    let column = lifted(&[], ValuesResult::Utf8List(lists)).unwrap();
    assert_eq!((column.len(), column.data_type().name()), (2, "list<string>".to_owned()));
    assert_eq!(lifted(&[], ValuesResult::Timestamp(vec![])).unwrap().len(), 0);
    // Bits past the last row are not looked at.
    assert_eq!(lifted(&[0xff], ValuesResult::S64(vec![1])).unwrap().validity, Some(Bitmap::all_set(1)));
}

#[test]
fn offsets_strings_and_bits_are_checked() {
    assert!(refused(&[], ValuesResult::Utf8(text(&[], b""))).contains("first offset"));
    assert!(refused(&[], ValuesResult::Utf8(text(&[0, 9], b"abc"))).contains("last offset"));
    assert!(refused(&[], ValuesResult::Bytes(text(&[0, 3, 1, 3], b"abc"))).contains("smaller"));
    assert!(refused(&[], ValuesResult::Utf8(text(&[0, 1], &[0xff]))).contains("utf8"));
    assert!(refused(&[], ValuesResult::Utf8(text(&[0, 1, 2], "é".as_bytes()))).contains("inside a character"));
    assert!(lifted(&[], ValuesResult::Bytes(text(&[0, 1], &[0xff]))).is_ok());
    assert!(refused(&[1, 1], ValuesResult::F64(vec![1.0])).contains("validity"));
    assert!(refused(&[], ValuesResult::Boolean(vec![0, 2])).contains("expected 0 or 1"));
    for offsets in [vec![], vec![1, 2], vec![0, 1], vec![0, 3, 2]] {
        let lists = S64ListsResult { offsets, elements: vec![7, 7] };
        assert!(refused(&[], ValuesResult::S64List(lists)).contains("list offsets"));
    }
    let lists = TextListsResult { offsets: vec![0, 1], elements: text(&[0, 5], b"x") };
    assert!(refused(&[], ValuesResult::Utf8List(lists)).contains("string offsets"));
    let coded = CodedTextResult { codes: vec![0], dictionary: text(&[0, 1], b"x") };
    assert!(refused(&[], ValuesResult::DictionaryUtf8(coded)).contains("for input only"));
}

#[test]
fn every_kind_goes_in_as_itself() {
    let strings = Strings { offsets: vec![0, 1], bytes: b"a".to_vec() };
    let nested = |values| Values::List { offsets: vec![0, 1], child: Box::new(Column::of(values)) };
    let kinds = [
        Values::I64(vec![1]),
        Values::F64(vec![1.0]),
        Values::Bool(vec![1]),
        Values::Timestamp(vec![1]),
        Values::Utf8(strings.clone()),
        Values::Bytes(strings),
    ];
    for plain in kinds {
        for values in [plain.clone(), nested(plain.clone())] {
            let mut column = Column::of(values);
            let lowered = lower(&column);
            assert!(lowered.validity.is_empty());
            let back = match lowered.values {
                ValuesParam::S64(v) => ("i64", v.len()),
                ValuesParam::F64(v) => ("f64", v.len()),
                ValuesParam::Boolean(v) => ("bool", v.len()),
                ValuesParam::Timestamp(v) => ("timestamp", v.len()),
                ValuesParam::Utf8(v) => ("string", v.offsets.len() - 1),
                ValuesParam::Bytes(v) => ("bytes", v.offsets.len() - 1),
                ValuesParam::S64List(v) => ("list<i64>", v.elements.len()),
                ValuesParam::F64List(v) => ("list<f64>", v.elements.len()),
                ValuesParam::BooleanList(v) => ("list<bool>", v.elements.len()),
                ValuesParam::TimestampList(v) => ("list<timestamp>", v.elements.len()),
                ValuesParam::Utf8List(v) => ("list<string>", v.elements.offsets.len() - 1),
                ValuesParam::BytesList(v) => ("list<bytes>", v.elements.offsets.len() - 1),
                ValuesParam::DictionaryUtf8(_) => panic!("the host has no dictionary columns"),
            };
            assert_eq!(back, (column.data_type().name().as_str(), 1));
            column.push_null();
            assert_eq!(lower(&column).validity, [0b01]);
        }
    }
}
