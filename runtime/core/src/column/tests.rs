use super::*;

#[test]
fn nulls_and_values_keep_their_rows() {
    let mut column = Column::new(&DataType::Utf8);
    column.push_bytes(b"a");
    column.push_null();
    column.push_bytes(b"bc");
    assert_eq!(column.len(), 3);
    assert_eq!(
        (column.str_bytes(0), column.str_bytes(1), column.str_bytes(2)),
        (Some(&b"a"[..]), None, Some(&b"bc"[..]))
    );
    let taken = column.take([2, 1]);
    assert_eq!((taken.str_bytes(0), taken.str_bytes(1)), (Some(&b"bc"[..]), None));
}

#[test]
fn gathering_equals_pushing_row_by_row() {
    for data_type in ["i64", "f64", "bool", "string", "bytes", "timestamp", "list<string>"] {
        let data_type = DataType::parse(data_type).unwrap();
        let column = |from: i64, null_every: Option<i64>| {
            let mut column = Column::new(&data_type);
            for value in from..from + 21 {
                match &mut column.values {
                    _ if null_every.is_some_and(|every| value % every == 0) => {
                        column.push_null();
                        continue;
                    }
                    Values::I64(_) | Values::Timestamp(_) => column.push_i64(value),
                    Values::F64(_) => column.push_f64(value as f64),
                    Values::Bool(_) => column.push_bool(value % 3 == 0),
                    Values::Utf8(_) | Values::Bytes(_) => column.push_bytes(value.to_string().as_bytes()),
                    Values::List { offsets, child } => {
                        (0..value % 3).for_each(|element| child.push_bytes(element.to_string().as_bytes()));
                        offsets.push(child.len() as u32);
                        column.mark_valid();
                    }
                }
            }
            column
        };
        let pieces = [column(0, Some(4)), column(50, None), column(80, Some(10))];
        let places = |piece: fn(u32) -> u32| (0..40).map(|at| (piece(at), at * 5 % 21)).collect::<Vec<_>>();
        for places in [places(|at| at % 3), places(|_| 1), places(|at| at % 4), places(|_| 9), Vec::new()] {
            let mut pushed = Column::new(&data_type);
            for &(piece, row) in &places {
                match pieces.get(piece as usize) {
                    Some(piece) => pushed.push_from(piece, row as usize),
                    None => pushed.push_null(),
                }
            }
            assert_eq!(Column::gather(&data_type, &pieces.each_ref(), &places), pushed, "{data_type:?}");
            let pairs = |piece: u32| {
                let of_piece = (0..).zip(&places).filter(|(_, place)| place.0 == piece);
                of_piece.map(|(to, place)| (to, place.1)).collect::<Vec<(u32, u32)>>()
            };
            let pairs = [pairs(0), pairs(1), pairs(2)];
            let given: Vec<_> = pairs.iter().map(Vec::as_slice).zip(&pieces).collect();
            assert_eq!(Column::assemble(&data_type, places.len(), &given), pushed, "{data_type:?}");
        }
        for piece in &pieces {
            for rows in [vec![3, 3, 20, 0], vec![7, 1, 7], vec![], (0..21).rev().collect()] {
                let mut pushed = Column::new(&data_type);
                rows.iter().for_each(|&row| pushed.push_from(piece, row));
                assert_eq!(piece.take(rows.iter().copied()), pushed, "{data_type:?}");
            }
            for rows in [0..21, 3..8, 7..8, 8..21, 5..5] {
                let mut pushed = Column::new(&data_type);
                rows.clone().for_each(|row| pushed.push_from(piece, row));
                assert_eq!(piece.slice(rows), pushed, "{data_type:?}");
            }
        }
    }
}

#[test]
fn appending_equals_pushing_row_by_row() {
    let with_null = {
        let mut column = Column::new(&DataType::Utf8);
        column.push_bytes(b"xy");
        column.push_null();
        column
    };
    let without = Column::of(Values::Utf8(Strings { offsets: vec![0, 1, 1], bytes: b"a".to_vec() }));
    let mut lists = Column::new(&DataType::List(Box::new(DataType::Utf8)));
    if let Values::List { offsets, child } = &mut lists.values {
        child.push_bytes(b"p");
        child.push_bytes(b"qr");
        offsets.extend([1, 2]);
    }
    let with_null_list = lists.take([0, 1]);
    lists.push_null();
    for (a, b) in [(&with_null, &without), (&without, &with_null), (&without, &without), (&lists, &with_null_list)] {
        let mut pushed = a.clone();
        (0..b.len()).for_each(|row| pushed.push_from(b, row));
        let mut appended = a.clone();
        appended.append(b);
        assert_eq!(appended, pushed);
        for cut in 0..=b.len() {
            let mut in_parts = a.clone();
            in_parts.append_rows(b, 0..cut);
            in_parts.append_rows(b, cut..b.len());
            assert_eq!(in_parts, pushed);
        }
    }
}

#[test]
fn lists_copy_their_elements() {
    let mut lists = Column::new(&DataType::List(Box::new(DataType::I64)));
    if let Values::List { offsets, child } = &mut lists.values {
        child.push_i64(1);
        child.push_i64(2);
        offsets.push(2);
    }
    lists.push_null();
    let taken = lists.take([1, 0]);
    assert_eq!(taken.len(), 2);
    assert!(!taken.is_valid(0));
    let Values::List { offsets, .. } = &taken.values else { panic!() };
    assert_eq!(offsets, &[0, 0, 2]);
}

#[test]
fn a_shortened_column_equals_one_that_was_never_longer() {
    for data_type in ["i64", "f64", "bool", "string", "bytes", "timestamp", "list<string>"] {
        let data_type = DataType::parse(data_type).unwrap();
        for keep in 0..20 {
            let mut column = Column::nulls(&data_type, 20);
            column.truncate(keep);
            let mut pushed = Column::new(&data_type);
            (0..keep).for_each(|_| pushed.push_null());
            assert_eq!(column, pushed, "{data_type:?} {keep}");
            assert_eq!(column, Column::nulls(&data_type, keep), "{data_type:?} {keep}");
        }
    }
    let mut column = Column::new(&DataType::Utf8);
    column.push_bytes(b"a");
    let before = column.clone();
    column.push_null();
    column.push_bytes(b"b");
    column.truncate(1);
    assert_eq!(column, before);
}

#[test]
fn foreign_strings_are_checked() {
    let strings = |offsets: &[u32], bytes: &[u8]| Strings { offsets: offsets.to_vec(), bytes: bytes.to_vec() };
    assert!(strings(&[0, 1, 3], b"abc").check().is_ok());
    assert!(strings(&[], b"").check().is_err());
    assert!(strings(&[0, 2, 1], b"a").check().is_err());
    assert!(strings(&[1, 1], b"a").check().is_err());
    assert!(strings(&[0, 1, 2], "é".as_bytes()).check_utf8().is_err());
    assert!(strings(&[0, 2], &[0xff, 0xfe]).check_utf8().is_err());
}
