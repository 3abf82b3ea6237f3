//! Cutting, joining and normalising columns of a batch.

use plumb_core::column::{Bitmap, Column, Strings, Values};
use std::ops::Range;

/// The rows `range` of a column, copied.
pub(crate) fn slice(column: &Column, range: Range<usize>) -> Column {
    let validity = column.validity.as_ref().map(|bits| slice_bits(bits, range.clone()));
    let values = match &column.values {
        Values::I64(v) => Values::I64(v[range].to_vec()),
        Values::F64(v) => Values::F64(v[range].to_vec()),
        Values::Bool(v) => Values::Bool(v[range].to_vec()),
        Values::Timestamp(v) => Values::Timestamp(v[range].to_vec()),
        Values::Utf8(v) => Values::Utf8(slice_strings(v, range)),
        Values::Bytes(v) => Values::Bytes(slice_strings(v, range)),
        Values::List { offsets, child } => {
            let (offsets, elements) = slice_offsets(offsets, range);
            Values::List { offsets, child: Box::new(slice(child, elements)) }
        }
    };
    Column { validity, values }
}

/// Appends the rows of `from`, a column of the same type.
pub(crate) fn append(to: &mut Column, from: &Column) {
    if to.is_empty() {
        to.clone_from(from);
        return;
    }
    let (before, added) = (to.len(), from.len());
    match (&mut to.validity, &from.validity) {
        (None, None) => {}
        (None, Some(bits)) => {
            let mut all = Bitmap::all_set(before);
            (0..added).for_each(|row| all.push(bits.get(row)));
            to.validity = Some(all);
        }
        (Some(bits), from) => {
            (0..added).for_each(|row| bits.push(from.as_ref().is_none_or(|from| from.get(row))));
        }
    }
    match (&mut to.values, &from.values) {
        (Values::I64(to), Values::I64(v)) | (Values::Timestamp(to), Values::Timestamp(v)) => to.extend_from_slice(v),
        (Values::F64(to), Values::F64(v)) => to.extend_from_slice(v),
        (Values::Bool(to), Values::Bool(v)) => to.extend_from_slice(v),
        (Values::Utf8(to), Values::Utf8(v)) | (Values::Bytes(to), Values::Bytes(v)) => {
            append_offsets(&mut to.offsets, &v.offsets);
            to.bytes.extend_from_slice(&v.bytes);
        }
        (Values::List { offsets, child }, Values::List { offsets: added, child: elements }) => {
            append_offsets(offsets, added);
            append(child, elements);
        }
        _ => unreachable!("columns are appended after their types were checked"),
    }
}

/// The column with the rows `rows` (ascending) as nulls.
pub(crate) fn with_nulls(column: &Column, rows: &[u32]) -> Column {
    let mut out = Column::new(&column.data_type());
    let mut nulls = rows.iter().peekable();
    for row in 0..column.len() {
        while nulls.next_if(|&&null| (null as usize) < row).is_some() {}
        if nulls.peek().is_some_and(|&&null| null as usize == row) {
            out.push_null();
        } else {
            out.push_from(column, row);
        }
    }
    out
}

/// Brings a guest's column into the one form that equal columns have: a validity only where there are nulls, and
/// nothing under a null. Offsets must have been checked.
pub(crate) fn normalise(mut column: Column) -> Column {
    if let Values::List { child, .. } = &mut column.values {
        let taken = std::mem::replace(&mut **child, Column::of(Values::Bool(Vec::new())));
        **child = normalise(taken);
    }
    let Some(bits) = &column.validity else { return column };
    if bits.count_set() == bits.len() {
        column.validity = None;
        return column;
    }
    let nulls = (0..bits.len()).filter(|&row| !bits.get(row));
    match &mut column.values {
        Values::I64(v) | Values::Timestamp(v) => nulls.for_each(|row| v[row] = 0),
        Values::F64(v) => nulls.for_each(|row| v[row] = 0.0),
        Values::Bool(v) => nulls.for_each(|row| v[row] = 0),
        Values::Utf8(Strings { offsets, .. })
        | Values::Bytes(Strings { offsets, .. })
        | Values::List { offsets, .. } => {
            let mut nulls = nulls;
            if nulls.any(|row| offsets[row] != offsets[row + 1]) {
                let rows = column.len();
                return column.take(0..rows);
            }
        }
    }
    column
}

/// Whether row `a` of one column and row `b` of another of its type hold the same bits.
pub(crate) fn same_bits(left: &Column, a: usize, right: &Column, b: usize) -> bool {
    match (left.is_valid(a), right.is_valid(b)) {
        (false, false) => return true,
        (true, true) => {}
        _ => return false,
    }
    match (&left.values, &right.values) {
        (Values::I64(l), Values::I64(r)) | (Values::Timestamp(l), Values::Timestamp(r)) => l[a] == r[b],
        (Values::F64(l), Values::F64(r)) => l[a].to_bits() == r[b].to_bits(),
        (Values::Bool(l), Values::Bool(r)) => l[a] == r[b],
        (Values::Utf8(l), Values::Utf8(r)) | (Values::Bytes(l), Values::Bytes(r)) => l.get(a) == r.get(b),
        (Values::List { offsets: l, child: left }, Values::List { offsets: r, child: right }) => {
            let (l, r) = (l[a] as usize..l[a + 1] as usize, r[b] as usize..r[b + 1] as usize);
            l.len() == r.len() && l.zip(r).all(|(a, b)| same_bits(left, a, right, b))
        }
        _ => false,
    }
}

fn slice_bits(bits: &Bitmap, range: Range<usize>) -> Bitmap {
    let len = range.len();
    if range.start.is_multiple_of(8) {
        let start = range.start / 8;
        let bytes = bits.as_bytes()[start..start + len.div_ceil(8)].to_vec();
        return Bitmap::from_bytes(bytes, len).expect("the number of bytes was computed from the number of rows");
    }
    let mut out = Bitmap::new();
    range.for_each(|row| out.push(bits.get(row)));
    out
}

fn slice_strings(strings: &Strings, range: Range<usize>) -> Strings {
    let (offsets, bytes) = slice_offsets(&strings.offsets, range);
    Strings { offsets, bytes: strings.bytes[bytes].to_vec() }
}

/// The offsets of the rows `range`, from 0 on, and the range of what they delimit.
fn slice_offsets(offsets: &[u32], range: Range<usize>) -> (Vec<u32>, Range<usize>) {
    let (first, last) = (offsets[range.start], offsets[range.end]);
    let moved = offsets[range.start..=range.end].iter().map(|offset| offset - first).collect();
    (moved, first as usize..last as usize)
}

fn append_offsets(to: &mut Vec<u32>, from: &[u32]) {
    let base = to[to.len() - 1];
    to.extend(from[1..].iter().map(|offset| base.checked_add(*offset).expect("a column holds less than 4 GiB")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumb_core::column::DataType;

    fn samples() -> Vec<Column> {
        let mut integers = Column::new(&DataType::I64);
        let mut strings = Column::new(&DataType::Utf8);
        let mut lists = Column::new(&DataType::List(Box::new(DataType::Utf8)));
        for row in 0..20 {
            if row % 5 == 3 {
                integers.push_null();
                strings.push_null();
                lists.push_null();
                continue;
            }
            integers.push_i64(row);
            strings.push_bytes("é".repeat(row as usize % 4).as_bytes());
            if let Values::List { offsets, child } = &mut lists.values {
                (0..row % 3).for_each(|element| child.push_bytes(element.to_string().as_bytes()));
                offsets.push(child.len() as u32);
            }
            lists.mark_valid();
        }
        vec![integers, strings, lists]
    }

    #[test]
    fn slices_equal_takes_and_join_back() {
        for column in samples() {
            for (start, end) in [(0, 20), (0, 7), (3, 4), (5, 19), (8, 16), (20, 20)] {
                let sliced = slice(&column, start..end);
                let taken = column.take(start..end);
                assert_eq!(sliced.len(), taken.len());
                assert!((0..end - start).all(|row| same_bits(&sliced, row, &taken, row)), "{start}..{end}");
            }
            for cut in [0, 1, 8, 13, 20] {
                let mut joined = slice(&column, 0..cut);
                append(&mut joined, &slice(&column, cut..20));
                assert_eq!(normalise(joined), column, "cut at {cut}");
            }
        }
    }

    #[test]
    fn nothing_hides_under_a_null() {
        let bits = Bitmap::from_bytes(vec![0b01], 2).unwrap();
        let column = Column { validity: Some(bits.clone()), values: Values::I64(vec![1, 9]) };
        assert_eq!(normalise(column).values, Values::I64(vec![1, 0]));
        let strings = Strings { offsets: vec![0, 1, 3], bytes: b"abc".to_vec() };
        let column = normalise(Column { validity: Some(bits), values: Values::Utf8(strings) });
        assert_eq!(column.as_strings().unwrap().bytes, b"a");
        let all = Column { validity: Some(Bitmap::all_set(1)), values: Values::F64(vec![1.0]) };
        assert_eq!(normalise(all).validity, None);
    }

    #[test]
    fn rows_become_null() {
        for column in samples() {
            let nulled = with_nulls(&column, &[0, 3, 19]);
            assert!(!nulled.is_valid(0) && !nulled.is_valid(3) && !nulled.is_valid(19));
            assert!((1..3).chain(4..19).all(|row| same_bits(&nulled, row, &column, row)));
        }
    }
}
