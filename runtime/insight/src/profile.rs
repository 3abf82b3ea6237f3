//! What a table holds, column by column, taken in batch by batch.

use crate::figures;
use crate::ranks::{Ranks, float_of_key, key_of_float};
use crate::tally::Tally;
use plumb_core::accumulator::exact_sum::ExactSum;
use plumb_core::accumulator::moments::Moments;
use plumb_core::column::{Column, DataType, Values};
use std::fmt;

/// The shares whose quantiles are shown.
pub const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// Texts are told apart by so many characters; longer ones keep their beginning and a hash of the whole.
const TEXT_CHARACTERS: usize = 120;

/// How the numbers of a column read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers.
    Integer,
    /// Floats.
    Float,
    /// Instants in µs.
    Instant,
}

impl Kind {
    /// A key of [`Numbers::ranks`] as a number.
    pub fn number(self, key: i64) -> f64 {
        match self {
            Kind::Float => float_of_key(key),
            Kind::Integer | Kind::Instant => key as f64,
        }
    }

    /// A key for people.
    pub fn shown(self, key: i64) -> String {
        match self {
            Kind::Integer => key.to_string(),
            Kind::Float => figures::figure(float_of_key(key)),
            Kind::Instant => figures::instant(key as f64),
        }
    }
}

/// Finite numbers, and how many were none.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// What they are.
    pub kind: Kind,
    /// Their ranks, by key.
    pub ranks: Ranks,
    /// Frequent and distinct ones, by key.
    pub tally: Tally<i64>,
    /// NaN values.
    pub nan: u64,
    /// Infinite values, below and above.
    pub infinite: [u64; 2],
    sum: ExactSum,
    moments: Moments,
}

impl Numbers {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            ranks: Ranks::default(),
            tally: Tally::default(),
            nan: 0,
            infinite: [0; 2],
            sum: ExactSum::new(),
            moments: Moments::new(),
        }
    }

    fn add_integer(&mut self, value: i64) {
        self.sum.add_i64(value);
        self.moments.add_i64(value);
        self.ranks.add(value);
        self.tally.add(&value);
    }

    fn add_float(&mut self, value: f64) {
        if value.is_nan() {
            self.nan += 1;
        } else if value.is_infinite() {
            self.infinite[usize::from(value > 0.0)] += 1;
        } else {
            self.sum.add(value);
            self.moments.add(value);
            let key = key_of_float(value);
            self.ranks.add(key);
            self.tally.add(&key);
        }
    }

    /// How many finite numbers there are.
    pub fn count(&self) -> u64 {
        self.moments.count()
    }

    /// How many values are NaN or infinite.
    pub fn not_finite(&self) -> u64 {
        self.nan + self.infinite[0] + self.infinite[1]
    }

    /// The mean; `None` of nothing, and if the sum is beyond f64.
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum.round()).flatten().map(|sum| sum / self.count() as f64)
    }

    /// The standard deviation of a sample (n − 1), from exact sums; `None` of fewer than two values.
    pub fn std(&self) -> Option<f64> {
        self.moments.stddev()
    }
}

/// Texts; bytes as their hexadecimal digits.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// Frequent and distinct ones.
    pub tally: Tally<String>,
    /// How many there are.
    pub count: u64,
    /// How many of them are empty.
    pub empty: u64,
}

impl Texts {
    fn add(&mut self, text: &str) {
        self.count += 1;
        self.empty += u64::from(text.is_empty());
        // The common case without counting characters.
        if text.len() <= TEXT_CHARACTERS {
            return self.tally.add(text);
        }
        let beginning: String = text.chars().take(TEXT_CHARACTERS).collect();
        // FNV-1a.
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        self.tally.add(format!("{beginning}… #{hash:016x}").as_str());
    }
}

/// Truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truths {
    /// How many are true.
    pub yes: u64,
    /// How many are false.
    pub no: u64,
}

/// Lists: their lengths and what is in them.
#[derive(Debug, Clone)]
pub struct Lists {
    /// The lengths.
    pub lengths: Numbers,
    /// Elements that are null.
    pub null_elements: u64,
    /// The other elements of all lists.
    pub elements: Body,
}

/// The values of a column that are not null.
#[derive(Debug, Clone)]
pub enum Body {
    /// Numbers or instants.
    Numbers(Box<Numbers>),
    /// Strings or bytes.
    Texts(Box<Texts>),
    /// Truth values.
    Truths(Truths),
    /// Lists.
    Lists(Box<Lists>),
}

impl Body {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::I64 => Body::Numbers(Box::new(Numbers::new(Kind::Integer))),
            DataType::F64 => Body::Numbers(Box::new(Numbers::new(Kind::Float))),
            DataType::Timestamp => Body::Numbers(Box::new(Numbers::new(Kind::Instant))),
            DataType::Bool => Body::Truths(Truths::default()),
            DataType::Utf8 | DataType::Bytes => Body::Texts(Box::default()),
            DataType::List(of) => Body::Lists(Box::new(Lists {
                lengths: Numbers::new(Kind::Integer),
                null_elements: 0,
                elements: Body::new(of),
            })),
        }
    }

    /// Adds the values of a column of this body's type; returns how many are null.
    fn add(&mut self, column: &Column) -> u64 {
        let mut nulls = 0;
        let mut present = |row: usize| {
            let present = column.is_valid(row);
            nulls += u64::from(!present);
            present
        };
        let rows = 0..column.len();
        match (self, &column.values) {
            (Body::Numbers(numbers), Values::I64(values) | Values::Timestamp(values)) => {
                rows.filter(|&row| present(row)).for_each(|row| numbers.add_integer(values[row]));
            }
            (Body::Numbers(numbers), Values::F64(values)) => {
                rows.filter(|&row| present(row)).for_each(|row| numbers.add_float(values[row]));
            }
            (Body::Truths(truths), Values::Bool(values)) => {
                for row in rows.filter(|&row| present(row)) {
                    *(if values[row] != 0 { &mut truths.yes } else { &mut truths.no }) += 1;
                }
            }
            (Body::Texts(texts), Values::Utf8(strings)) => {
                rows.filter(|&row| present(row)).for_each(|row| texts.add(&String::from_utf8_lossy(strings.get(row))));
            }
            (Body::Texts(texts), Values::Bytes(strings)) => {
                for row in rows.filter(|&row| present(row)) {
                    let hex: String = strings.get(row).iter().map(|byte| format!("{byte:02x}")).collect();
                    texts.add(&hex);
                }
            }
            (Body::Lists(lists), Values::List { offsets, child }) => {
                for row in rows.filter(|&row| present(row)) {
                    lists.lengths.add_integer(i64::from(offsets[row + 1] - offsets[row]));
                }
                // Null lists hold no elements.
                lists.null_elements += lists.elements.add(child);
            }
            _ => unreachable!("the type of a column is checked before its values are added"),
        }
        nulls
    }
}

/// One column.
#[derive(Debug, Clone)]
pub struct ColumnProfile {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Rows of the files that have it.
    pub rows: u64,
    /// How many of them are null.
    pub nulls: u64,
    /// The others.
    pub body: Body,
}

impl ColumnProfile {
    /// Which share of the rows is null; 0 without rows.
    pub fn null_share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.nulls as f64 / self.rows as f64 }
    }
}

/// A column has another type than in a file before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeConflict {
    /// The column.
    pub column: String,
    /// Its type before.
    pub before: DataType,
    /// Its type now.
    pub now: DataType,
}

impl fmt::Display for TypeConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (column, before, now) = (&self.column, self.before.name(), self.now.name());
        write!(f, "column `{column}` is {now}, but {before} in a file before it")
    }
}

impl std::error::Error for TypeConflict {}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct TableProfile {
    /// Rows of all files.
    pub rows: u64,
    /// The columns, in the order first seen.
    pub columns: Vec<ColumnProfile>,
}

impl TableProfile {
    /// Makes a column known, also if no row comes; it has one type in all files.
    pub fn declare(&mut self, name: &str, data_type: &DataType) -> Result<(), TypeConflict> {
        match self.columns.iter().find(|column| column.name == name) {
            Some(column) if column.data_type == *data_type => {}
            Some(column) => {
                let (before, now) = (column.data_type.clone(), data_type.clone());
                return Err(TypeConflict { column: name.to_owned(), before, now });
            }
            None => self.columns.push(ColumnProfile {
                name: name.to_owned(),
                data_type: data_type.clone(),
                rows: 0,
                nulls: 0,
                body: Body::new(data_type),
            }),
        }
        Ok(())
    }

    /// Adds rows: columns of equal length. Columns are shared out among threads, each column's values stay in order,
    /// so the figures do not depend on their number.
    pub fn add(&mut self, rows: u64, columns: &[(String, Column)], threads: usize) -> Result<(), TypeConflict> {
        for (name, column) in columns {
            self.declare(name, &column.data_type())?;
        }
        self.rows += rows;
        let mut work: Vec<(&mut ColumnProfile, &Column)> = self
            .columns
            .iter_mut()
            .filter_map(|profile| {
                let (_, column) = columns.iter().find(|(name, _)| *name == profile.name)?;
                Some((profile, column))
            })
            .collect();
        let share = work.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            for some in work.chunks_mut(share) {
                scope.spawn(move || {
                    for (profile, column) in some {
                        profile.rows += column.len() as u64;
                        profile.nulls += profile.body.add(column);
                    }
                });
            }
        });
        Ok(())
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&ColumnProfile> {
        self.columns.iter().find(|column| column.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumb_core::column::Bitmap;
    use proptest::prelude::*;

    fn profile(column: &Column, cut: usize, threads: usize) -> ColumnProfile {
        let mut table = TableProfile::default();
        let rows = column.len();
        let cut = cut.min(rows);
        for range in [0..cut, cut..rows] {
            let part = column.take(range);
            table.add(part.len() as u64, &[("c".to_owned(), part)], threads).unwrap();
        }
        assert_eq!(table.rows, rows as u64);
        table.columns.remove(0)
    }

    fn numbers(profile: ColumnProfile) -> Numbers {
        match profile.body {
            Body::Numbers(numbers) => *numbers,
            other => panic!("{other:?}"),
        }
    }

    fn numbers_of(values: Values) -> Numbers {
        numbers(profile(&Column::of(values), 1, 1))
    }

    #[test]
    fn moments_and_quantiles_as_numpy_has_them() {
        // numpy 2: i = np.arange(100); a = (i * 37 % 101).astype(float); a.mean(), a.std(ddof=1),
        // [np.quantile(a, q, method='inverted_cdf') for q in (.01, .05, .25, .5, .75, .95, .99)]
        let column = Column::of(Values::F64((0..100).map(|i| f64::from(i * 37 % 101)).collect()));
        let numbers = numbers(profile(&column, 30, 1));
        assert_eq!(numbers.mean(), Some(49.86));
        assert!((numbers.std().unwrap() - 29.413_808_342_547_572).abs() < 1e-12);
        let ranks = numbers.ranks.distribution();
        let quantiles: Vec<f64> = QUANTILES.iter().map(|&q| float_of_key(ranks.quantile(q).unwrap())).collect();
        assert_eq!(quantiles, [0.0, 4.0, 24.0, 49.0, 75.0, 95.0, 99.0]);
    }

    #[test]
    fn what_is_no_number_is_counted_apart() {
        let values = vec![1.0, f64::NAN, f64::INFINITY, 3.0, f64::NEG_INFINITY, f64::NAN, 0.0];
        let mut validity = Bitmap::all_set(6);
        validity.push(false);
        let profile = profile(&Column { validity: Some(validity), values: Values::F64(values) }, 2, 1);
        assert_eq!((profile.rows, profile.nulls), (7, 1));
        let numbers = numbers(profile);
        assert_eq!((numbers.count(), numbers.nan, numbers.infinite), (2, 2, [1, 1]));
        assert_eq!((numbers.mean(), numbers.std()), (Some(2.0), Some(2f64.sqrt())));
    }

    #[test]
    fn huge_numbers_do_not_break_the_moments() {
        let floats = numbers_of(Values::F64(vec![f64::MAX, f64::MAX]));
        assert_eq!((floats.mean(), floats.std()), (None, Some(0.0)));
        let integers = numbers_of(Values::I64(vec![i64::MAX, i64::MIN]));
        assert_eq!(integers.mean(), Some(-0.5));
        assert_eq!(integers.ranks.distribution().quantile(1.0), Some(i64::MAX), "integers stay exact");
    }

    #[test]
    fn lists_have_lengths_and_elements() {
        let mut column = Column::new(&DataType::List(Box::new(DataType::Utf8)));
        for list in [Some(&["a", "b"][..]), None, Some(&[]), Some(&["a"])] {
            match (list, &mut column.values) {
                (Some(list), Values::List { offsets, child }) => {
                    list.iter().for_each(|text| child.push_bytes(text.as_bytes()));
                    offsets.push(child.len() as u32);
                    column.mark_valid();
                }
                _ => column.push_null(),
            }
        }
        let profile = profile(&column, 1, 1);
        assert_eq!((profile.rows, profile.nulls), (4, 1));
        let Body::Lists(lists) = profile.body else { panic!("no lists") };
        assert_eq!((lists.lengths.mean(), lists.lengths.count(), lists.null_elements), (Some(1.0), 3, 0));
        let Body::Texts(texts) = lists.elements else { panic!("no texts") };
        let top: Vec<(String, u64)> = texts.tally.top(9).into_iter().map(|top| (top.value, top.at_least)).collect();
        assert_eq!(top, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn long_texts_are_told_apart_by_all_of_them() {
        let mut column = Column::new(&DataType::Utf8);
        let long = "é".repeat(500);
        for text in [long.clone() + "x", long.clone() + "y", long + "x"] {
            column.push_bytes(text.as_bytes());
        }
        let Body::Texts(texts) = profile(&column, 1, 1).body else { panic!("no texts") };
        assert_eq!(texts.tally.distinct().count, 2.0);
        assert!(texts.tally.top(1)[0].value.chars().count() < 150);
    }

    #[test]
    fn a_column_has_one_type() {
        let mut table = TableProfile::default();
        table.declare("c", &DataType::I64).unwrap();
        let conflict = table.add(1, &[("c".to_owned(), Column::of(Values::F64(vec![1.0])))], 1).unwrap_err();
        assert_eq!(conflict.to_string(), "column `c` is f64, but i64 in a file before it");
        assert_eq!((table.rows, table.columns[0].rows), (0, 0));
    }

    proptest! {
        #[test]
        fn cuts_and_threads_change_nothing(
            values in prop::collection::vec(prop::option::of(-1e9f64..1e9), 0..300),
            cut in 0usize..300,
            threads in 1usize..4,
        ) {
            let mut column = Column::new(&DataType::F64);
            for value in &values {
                match value {
                    Some(value) => column.push_f64(*value),
                    None => column.push_null(),
                }
            }
            let (whole, cut) = (profile(&column, 0, 1), profile(&column, cut, threads));
            prop_assert_eq!((whole.rows, whole.nulls), (cut.rows, cut.nulls));
            let (whole, cut) = (numbers(whole), numbers(cut));
            prop_assert_eq!((whole.mean(), whole.std()), (cut.mean(), cut.std()));
            prop_assert_eq!(whole.tally.top(50), cut.tally.top(50));
            prop_assert_eq!(whole.ranks.distribution(), cut.ranks.distribution());
        }
    }
}
