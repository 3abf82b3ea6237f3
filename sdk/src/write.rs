//! Writing a row's values into columns: what slots and features can be.

use crate::column::{Column, Text, Values};
use crate::definition::Type;
use crate::time::Time;

/// A type that can be a row of an outgoing column.
pub trait Cell: Sized {
    /// The column's type.
    const TYPE: Type;
    /// The column under construction.
    type Buffer;

    /// An empty column with room for `rows` rows.
    fn buffer(rows: usize) -> Self::Buffer;
    /// Appends a row.
    fn write(self, buffer: &mut Self::Buffer);
    /// Appends what a null row holds.
    fn write_null(buffer: &mut Self::Buffer);
    /// The finished column.
    fn finish(buffer: Self::Buffer) -> Values;
}

macro_rules! number_cell {
    ($type:ty, $name:expr, $variant:ident, $stored:ty, $convert:expr) => {
        impl Cell for $type {
            const TYPE: Type = $name;
            type Buffer = Vec<$stored>;

            #[inline]
            fn buffer(rows: usize) -> Self::Buffer {
                Vec::with_capacity(rows)
            }

            #[inline]
            fn write(self, buffer: &mut Self::Buffer) {
                let convert: fn(Self) -> $stored = $convert;
                buffer.push(convert(self));
            }

            #[inline]
            fn write_null(buffer: &mut Self::Buffer) {
                buffer.push(<$stored>::default());
            }

            #[inline]
            fn finish(buffer: Self::Buffer) -> Values {
                Values::$variant(buffer)
            }
        }
    };
}

number_cell!(i64, Type::I64, I64, i64, |value| value);
number_cell!(f64, Type::F64, F64, f64, |value| value);
number_cell!(bool, Type::Bool, Bool, u8, u8::from);
number_cell!(Time, Type::Timestamp, Timestamp, i64, Time::micros);

macro_rules! text_cell {
    ($type:ty, $name:expr, $variant:ident) => {
        impl Cell for $type {
            const TYPE: Type = $name;
            type Buffer = Text;

            #[inline]
            fn buffer(rows: usize) -> Self::Buffer {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                Text { offsets, data: Vec::with_capacity(rows * 8) }
            }

            #[inline]
            fn write(self, buffer: &mut Self::Buffer) {
                buffer.data.extend_from_slice(AsRef::<[u8]>::as_ref(&self));
                buffer.offsets.push(buffer.data.len() as u32);
            }

            #[inline]
            fn write_null(buffer: &mut Self::Buffer) {
                buffer.offsets.push(buffer.data.len() as u32);
            }

            #[inline]
            fn finish(buffer: Self::Buffer) -> Values {
                Values::$variant(buffer)
            }
        }
    };
}

text_cell!(&str, Type::Utf8, Utf8);
text_cell!(String, Type::Utf8, Utf8);
text_cell!(&[u8], Type::Bytes, Bytes);

impl<E: Cell> Cell for Vec<E> {
    const TYPE: Type = Type::List(&E::TYPE);
    type Buffer = (Vec<u32>, u32, E::Buffer);

    fn buffer(rows: usize) -> Self::Buffer {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        (offsets, 0, E::buffer(rows))
    }

    fn write(self, (offsets, end, elements): &mut Self::Buffer) {
        *end += self.len() as u32;
        offsets.push(*end);
        self.into_iter().for_each(|element| element.write(elements));
    }

    fn write_null((offsets, end, _): &mut Self::Buffer) {
        offsets.push(*end);
    }

    fn finish((offsets, _, elements): Self::Buffer) -> Values {
        Values::List { offsets, elements: Box::new(E::finish(elements)) }
    }
}

/// Which rows are present; costs no branch a row and is dropped if all are.
#[derive(Debug)]
pub struct Validity {
    bits: Vec<u8>,
    len: usize,
    present: usize,
}

impl Validity {
    /// No rows, with room for `rows`.
    pub fn new(rows: usize) -> Self {
        Self { bits: vec![0; rows.div_ceil(8)], len: 0, present: 0 }
    }

    /// Appends a row; panics past the room.
    #[inline]
    pub fn push(&mut self, present: bool) {
        self.bits[self.len >> 3] |= u8::from(present) << (self.len & 7);
        self.len += 1;
        self.present += usize::from(present);
    }

    /// The bits; none if every row is present.
    pub fn finish(mut self) -> Vec<u8> {
        if self.present == self.len {
            return Vec::new();
        }
        self.bits.truncate(self.len.div_ceil(8));
        self.bits
    }
}

/// A column of which rows may be null, under construction.
#[derive(Debug)]
pub struct NullableBuffer<B> {
    validity: Validity,
    values: B,
}

fn nullable<C: Cell>(rows: usize) -> NullableBuffer<C::Buffer> {
    NullableBuffer { validity: Validity::new(rows), values: C::buffer(rows) }
}

#[inline]
fn write_nullable<C: Cell>(value: Option<C>, buffer: &mut NullableBuffer<C::Buffer>) {
    buffer.validity.push(value.is_some());
    match value {
        Some(value) => value.write(&mut buffer.values),
        None => C::write_null(&mut buffer.values),
    }
}

fn finish_nullable<C: Cell>(buffer: NullableBuffer<C::Buffer>) -> Column {
    Column { validity: buffer.validity.finish(), values: C::finish(buffer.values) }
}

/// The type of a slot: `bool` (a mark: true = a contribution) or an `Option` (`None` = no contribution).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the type of a slot",
    label = "neither a mark nor an Option",
    note = "a slot is `bool` (a mark: true contributes) or Option<i64 | f64 | bool | &str | String | Time>"
)]
pub trait SlotValue {
    /// The slot's type.
    const TYPE: Type;
    /// The column under construction.
    type Buffer;

    /// An empty column with room for `rows` rows.
    fn buffer(rows: usize) -> Self::Buffer;
    /// Whether it is a contribution.
    fn contributes(&self) -> bool;
    /// Appends a row.
    fn write(self, buffer: &mut Self::Buffer);
    /// The finished column.
    fn finish(buffer: Self::Buffer) -> Column;
}

impl SlotValue for bool {
    const TYPE: Type = Type::Mark;
    type Buffer = Vec<u8>;

    #[inline]
    fn buffer(rows: usize) -> Self::Buffer {
        Vec::with_capacity(rows)
    }

    #[inline]
    fn contributes(&self) -> bool {
        *self
    }

    #[inline]
    fn write(self, buffer: &mut Self::Buffer) {
        buffer.push(u8::from(self));
    }

    #[inline]
    fn finish(buffer: Self::Buffer) -> Column {
        Column { validity: Vec::new(), values: Values::Bool(buffer) }
    }
}

/// What an `Option` slot may hold.
pub trait Contributed: Cell {}
impl Contributed for i64 {}
impl Contributed for f64 {}
impl Contributed for bool {}
impl Contributed for &str {}
impl Contributed for String {}
impl Contributed for Time {}

impl<C: Contributed> SlotValue for Option<C> {
    const TYPE: Type = C::TYPE;
    type Buffer = NullableBuffer<C::Buffer>;

    #[inline]
    fn buffer(rows: usize) -> Self::Buffer {
        nullable::<C>(rows)
    }

    #[inline]
    fn contributes(&self) -> bool {
        self.is_some()
    }

    #[inline]
    fn write(self, buffer: &mut Self::Buffer) {
        write_nullable(self, buffer);
    }

    #[inline]
    fn finish(buffer: Self::Buffer) -> Column {
        finish_nullable::<C>(buffer)
    }
}

/// The type of a feature: a value, or an `Option` of one where it can be null.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the type of a feature",
    label = "not the type of a feature",
    note = "a feature is i64, f64, bool, &str, String, Time, &[u8], a Vec of them, or an Option of all these"
)]
pub trait FeatureValue {
    /// The feature's type.
    const TYPE: Type;
    /// The column under construction.
    type Buffer;

    /// An empty column with room for `rows` rows.
    fn buffer(rows: usize) -> Self::Buffer;
    /// Appends a row.
    fn write(self, buffer: &mut Self::Buffer);
    /// Appends a null: the row has an error.
    fn write_null(buffer: &mut Self::Buffer);
    /// The finished column.
    fn finish(buffer: Self::Buffer) -> Column;
}

impl<C: Cell> FeatureValue for C {
    const TYPE: Type = C::TYPE;
    type Buffer = NullableBuffer<C::Buffer>;

    #[inline]
    fn buffer(rows: usize) -> Self::Buffer {
        nullable::<C>(rows)
    }

    #[inline]
    fn write(self, buffer: &mut Self::Buffer) {
        write_nullable(Some(self), buffer);
    }

    #[inline]
    fn write_null(buffer: &mut Self::Buffer) {
        write_nullable(None::<C>, buffer);
    }

    #[inline]
    fn finish(buffer: Self::Buffer) -> Column {
        finish_nullable::<C>(buffer)
    }
}

impl<C: Cell> FeatureValue for Option<C> {
    const TYPE: Type = C::TYPE;
    type Buffer = NullableBuffer<C::Buffer>;

    #[inline]
    fn buffer(rows: usize) -> Self::Buffer {
        nullable::<C>(rows)
    }

    #[inline]
    fn write(self, buffer: &mut Self::Buffer) {
        write_nullable(self, buffer);
    }

    #[inline]
    fn write_null(buffer: &mut Self::Buffer) {
        write_nullable(None::<C>, buffer);
    }

    #[inline]
    fn finish(buffer: Self::Buffer) -> Column {
        finish_nullable::<C>(buffer)
    }
}
