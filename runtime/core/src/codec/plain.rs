//! Columns as plain bytes, for scratch files: written and read back by one process, hence neither small nor stable.
//!
//! ```text
//! column  = rows, 1 and the validity's bits or 0, values
//! values  = numbers of 8 bytes, truth values of 1, strings, or lists: the rows' lengths and the elements' column
//! strings = the rows' lengths, the bytes of all
//! ```

use super::wire::{Reader, put_u64};
use crate::column::{Bitmap, Column, DataType, Strings, Values};
use crate::{Error, Result};

/// Appends numbers of 8 bytes.
pub(crate) fn put_words(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = u64>) {
    let start = out.len();
    out.resize(start + words.len() * 8, 0);
    let (room, _) = out[start..].as_chunks_mut::<8>();
    room.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
}

/// Appends numbers of 4 bytes.
pub(crate) fn put_halves(out: &mut Vec<u8>, halves: impl ExactSizeIterator<Item = u32>) {
    let start = out.len();
    out.resize(start + halves.len() * 4, 0);
    let (room, _) = out[start..].as_chunks_mut::<4>();
    room.iter_mut().zip(halves).for_each(|(to, half)| *to = half.to_le_bytes());
}

/// Reads `count` numbers of 8 bytes.
pub(crate) fn words<'a>(reader: &mut Reader<'a>, count: usize) -> Result<impl ExactSizeIterator<Item = u64> + use<'a>> {
    let (words, _) = reader.take(count.saturating_mul(8))?.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)))
}

/// Reads `count` numbers of 4 bytes.
pub(crate) fn halves<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<impl ExactSizeIterator<Item = u32> + use<'a>> {
    let (halves, _) = reader.take(count.saturating_mul(4))?.as_chunks::<4>();
    Ok(halves.iter().map(|half| u32::from_le_bytes(*half)))
}

/// The most bytes that [`put_column`] appends for a column.
pub fn column_bytes(column: &Column) -> usize {
    // The number of rows takes up to ten, and whether there is a validity one.
    let validity = column.validity.as_ref().map_or(0, |bits| bits.as_bytes().len()) + 11;
    validity
        + match &column.values {
            Values::I64(v) | Values::Timestamp(v) => v.len() * 8,
            Values::F64(v) => v.len() * 8,
            Values::Bool(v) => v.len(),
            Values::Utf8(v) | Values::Bytes(v) => v.len() * 4 + v.bytes.len(),
            Values::List { offsets, child } => offsets.len() * 4 + column_bytes(child),
        }
}

/// Appends a column.
pub fn put_column(out: &mut Vec<u8>, column: &Column) {
    let rows = column.len();
    put_u64(out, rows as u64);
    match &column.validity {
        None => out.push(0),
        Some(bits) => {
            out.push(1);
            out.extend_from_slice(bits.as_bytes());
        }
    }
    match &column.values {
        Values::I64(v) | Values::Timestamp(v) => put_words(out, v.iter().map(|value| value.cast_unsigned())),
        Values::F64(v) => put_words(out, v.iter().map(|value| value.to_bits())),
        Values::Bool(v) => out.extend_from_slice(v),
        Values::Utf8(v) | Values::Bytes(v) => {
            put_lengths(out, &v.offsets);
            out.extend_from_slice(&v.bytes);
        }
        Values::List { offsets, child } => {
            put_lengths(out, offsets);
            put_column(out, child);
        }
    }
}

fn put_lengths(out: &mut Vec<u8>, offsets: &[u32]) {
    put_halves(out, offsets.windows(2).map(|pair| pair[1] - pair[0]));
}

/// Reads columns that [`put_column`] wrote one after the other, of these types.
pub fn read_columns<'a>(bytes: &[u8], types: impl IntoIterator<Item = &'a DataType>) -> Result<Vec<Column>> {
    let mut reader = Reader::new(bytes);
    let columns = types.into_iter().map(|data_type| read_column(&mut reader, data_type)).collect::<Result<_>>()?;
    reader.finish()?;
    Ok(columns)
}

fn read_column(reader: &mut Reader<'_>, data_type: &DataType) -> Result<Column> {
    let rows = usize::try_from(reader.u64()?).map_err(|_| Error::codec("a column of more rows than memory"))?;
    let validity = match reader.u8()? {
        0 => None,
        _ => Some(Bitmap::from_bytes(reader.take(rows.div_ceil(8))?.to_vec(), rows)?),
    };
    let values = match data_type {
        DataType::I64 => Values::I64(words(reader, rows)?.map(u64::cast_signed).collect()),
        DataType::Timestamp => Values::Timestamp(words(reader, rows)?.map(u64::cast_signed).collect()),
        DataType::F64 => Values::F64(words(reader, rows)?.map(f64::from_bits).collect()),
        DataType::Bool => Values::Bool(reader.take(rows)?.to_vec()),
        DataType::Utf8 => Values::Utf8(read_strings(reader, rows)?),
        DataType::Bytes => Values::Bytes(read_strings(reader, rows)?),
        DataType::List(of) => {
            let offsets = read_offsets(reader, rows)?;
            let child = read_column(reader, of)?;
            if offsets.last().is_none_or(|&end| end as usize != child.len()) {
                return Err(Error::codec("the elements of a list are not as many as its rows say"));
            }
            Values::List { offsets, child: Box::new(child) }
        }
    };
    Ok(Column { validity, values })
}

fn read_strings(reader: &mut Reader<'_>, rows: usize) -> Result<Strings> {
    let offsets = read_offsets(reader, rows)?;
    let bytes = reader.take(offsets.last().map_or(0, |&end| end as usize))?.to_vec();
    Ok(Strings { offsets, bytes })
}

fn read_offsets(reader: &mut Reader<'_>, rows: usize) -> Result<Vec<u32>> {
    let lengths = halves(reader, rows)?;
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut end = 0u32;
    offsets.push(end);
    for length in lengths {
        end = end.checked_add(length).ok_or_else(|| Error::codec("a column of more than 4 GiB"))?;
        offsets.push(end);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let mut text = Column::new(&DataType::Utf8);
        text.push_bytes("héron".as_bytes());
        text.push_null();
        text.push_bytes(b"");
        let mut list = Column::new(&DataType::List(Box::new(DataType::Utf8)));
        list.push_null();
        if let Values::List { offsets, child } = &mut list.values {
            child.push_bytes(b"a");
            child.push_bytes(b"bc");
            offsets.push(2);
        }
        list.mark_valid();
        vec![
            Column::of(Values::I64(vec![i64::MIN, 0, 7])),
            Column::nulls(&DataType::F64, 9),
            Column::of(Values::F64(vec![-0.0, f64::from_bits(0x7ff8_0000_0000_0001)])),
            Column::of(Values::Bool(vec![1, 0])),
            Column::of(Values::Timestamp(Vec::new())),
            text,
            list,
        ]
    }

    fn bytes_of(columns: &[Column]) -> Vec<u8> {
        let mut bytes = Vec::new();
        columns.iter().for_each(|column| put_column(&mut bytes, column));
        bytes
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let columns = columns();
        let types: Vec<DataType> = columns.iter().map(Column::data_type).collect();
        let read = read_columns(&bytes_of(&columns), &types).unwrap();
        columns.iter().for_each(|column| {
            assert!(bytes_of(std::slice::from_ref(column)).len() <= column_bytes(column));
        });
        // By bytes: a NaN differs from itself.
        assert_eq!(bytes_of(&read), bytes_of(&columns));
        assert_eq!(read[5], columns[5]);
        assert_eq!(read[6], columns[6]);
    }

    #[test]
    fn cut_bytes_are_an_error() {
        let columns = columns();
        let types: Vec<DataType> = columns.iter().map(Column::data_type).collect();
        let bytes = bytes_of(&columns);
        for end in 0..bytes.len() {
            assert!(read_columns(&bytes[..end], &types).is_err(), "{end} of {} bytes", bytes.len());
        }
        assert!(read_columns(&[bytes.as_slice(), &[0]].concat(), &types).is_err());
    }
}
