//! A view: the trait an author implements, the traits the derives implement, and the loops over batches.

use crate::Error;
use crate::column::{Column, ColumnRef};
use crate::definition::{AggregateDef, Definition, FeatureDef, FieldDef, SlotDef, to_json};
use crate::read::{Value, open_column};
use crate::time::Time;

/// A feature view for one entity: what an event contributes, and what the features are.
///
/// Both functions are pure, and a row's result depends on that row alone. The four types are the author's
/// structs; the crate's documentation walks through a whole view.
pub trait View<'a>: 'static {
    /// Who and what the view is.
    const DEFINITION: Definition;
    /// The fields it reads of an event: a struct with `#[derive(Event)]`.
    type Event: EventRow<'a>;
    /// What an event contributes: a struct with `#[derive(Slots)]`.
    type Slots: SlotRow;
    /// The aggregates it wants: a struct with `#[derive(Aggregates)]`.
    type Aggregates: AggregateRow<'a>;
    /// The features: a struct with `#[derive(Features)]`.
    type Features: FeatureRow;

    /// Says what one event contributes.
    ///
    /// # Errors
    /// The event is dead-lettered for this view only; the stream goes on.
    fn extract(event: Self::Event) -> Result<Self::Slots, Error>;

    /// Makes the features of one entity at the instant `at` from its aggregates over what was before it.
    ///
    /// # Errors
    /// The row's features are null with the status `error`, online and offline alike.
    fn finalize(aggregates: Self::Aggregates, at: Time) -> Result<Self::Features, Error>;
}

/// What `#[derive(Event)]` implements.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an event", label = "needs `#[derive(Event)]`")]
pub trait EventRow<'a>: Sized {
    /// The fields, in order.
    const FIELDS: &'static [FieldDef];
    /// The columns, ready to be read.
    type Readers;

    /// Takes a batch's columns, in the order of the fields.
    fn open(columns: &[ColumnRef<'a>], rows: usize) -> Result<Self::Readers, String>;
    /// The event of row `row`; an error if a required field is null.
    fn read(readers: &Self::Readers, row: usize) -> Result<Self, Error>;
}

/// What `#[derive(Slots)]` implements.
#[diagnostic::on_unimplemented(message = "`{Self}` is not a set of slots", label = "needs `#[derive(Slots)]`")]
pub trait SlotRow: Sized {
    /// The slots, in order.
    const SLOTS: &'static [SlotDef];
    /// The columns under construction.
    type Buffers;

    /// Empty columns with room for `rows` rows.
    fn buffers(rows: usize) -> Self::Buffers;
    /// Whether any slot holds a contribution.
    fn contributes(&self) -> bool;
    /// Appends a row.
    fn push(self, buffers: &mut Self::Buffers);
    /// The finished columns, in the order of the slots.
    fn finish(buffers: Self::Buffers) -> Vec<Column>;
}

/// What `#[derive(Aggregates)]` implements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of aggregates",
    label = "needs `#[derive(Aggregates)]`"
)]
pub trait AggregateRow<'a>: Sized {
    /// The aggregates, in order.
    const AGGREGATES: &'static [AggregateDef];
    /// The columns, ready to be read.
    type Readers;

    /// Takes a batch's columns: the instant, then the aggregates in order.
    fn open(columns: &[ColumnRef<'a>], rows: usize) -> Result<Self::Readers, String>;
    /// The aggregates of row `row`.
    fn read(readers: &Self::Readers, row: usize) -> Self;
}

/// What `#[derive(Features)]` implements.
#[diagnostic::on_unimplemented(message = "`{Self}` is not a set of features", label = "needs `#[derive(Features)]`")]
pub trait FeatureRow: Sized {
    /// The features, in order.
    const FEATURES: &'static [FeatureDef];
    /// The columns under construction.
    type Buffers;

    /// Empty columns with room for `rows` rows.
    fn buffers(rows: usize) -> Self::Buffers;
    /// Appends a row.
    fn push(self, buffers: &mut Self::Buffers);
    /// Appends a row of nulls.
    fn push_nulls(buffers: &mut Self::Buffers);
    /// The finished columns, in the order of the features.
    fn finish(buffers: Self::Buffers) -> Vec<Column>;
}

/// A row that could not be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's index in its batch.
    pub row: u32,
    /// Why.
    pub message: String,
}

/// What a batch of events contributes: entry `i` says that event `rows[i]` puts `slots[s][i]` into slot `s`.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// Indices into the batch, ascending.
    pub rows: Vec<u32>,
    /// One column a slot.
    pub slots: Vec<Column>,
    /// The events that could not be read.
    pub errors: Vec<RowError>,
}

/// The features of a batch of aggregate rows.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureBatch {
    /// One column a feature, with as many rows as there were.
    pub columns: Vec<Column>,
    /// The rows that could not be computed; their features are null.
    pub errors: Vec<RowError>,
}

/// The view's definition as JSON (`wit/describe.schema.json`).
pub fn describe<V: View<'static>>() -> String {
    to_json(&V::DEFINITION, V::Event::FIELDS, V::Slots::SLOTS, V::Aggregates::AGGREGATES, V::Features::FEATURES)
}

/// Runs `extract` over a batch of events: one column a declared field, in declared order.
///
/// # Errors
/// When the columns are not those the view declares.
pub fn extract<'a, V: View<'a>>(rows: usize, columns: &[ColumnRef<'a>]) -> Result<Contributions, String> {
    let readers = V::Event::open(columns, rows)?;
    let mut contributing = Vec::with_capacity(rows);
    let mut buffers = V::Slots::buffers(rows);
    let mut errors = Vec::new();
    for row in 0..rows {
        match V::Event::read(&readers, row).and_then(V::extract) {
            Ok(slots) => {
                if slots.contributes() {
                    contributing.push(row as u32);
                    slots.push(&mut buffers);
                }
            }
            Err(error) => errors.push(RowError { row: row as u32, message: error.into_message() }),
        }
    }
    Ok(Contributions { rows: contributing, slots: V::Slots::finish(buffers), errors })
}

/// Runs `finalize` over a batch: column 0 is the instant (timestamp), then one column a declared aggregate.
///
/// # Errors
/// When the columns are not those the view declares.
pub fn finalize<'a, V: View<'a>>(rows: usize, columns: &[ColumnRef<'a>]) -> Result<FeatureBatch, String> {
    let instants = open_column::<Time>("at", 0, columns, rows)?;
    let readers = V::Aggregates::open(columns, rows)?;
    let mut buffers = V::Features::buffers(rows);
    let mut errors = Vec::new();
    for row in 0..rows {
        let features = match Time::get(&instants, row) {
            Some(at) => V::finalize(V::Aggregates::read(&readers, row), at),
            None => Err(Error::new("the instant is null")),
        };
        match features {
            Ok(features) => features.push(&mut buffers),
            Err(error) => {
                V::Features::push_nulls(&mut buffers);
                errors.push(RowError { row: row as u32, message: error.into_message() });
            }
        }
    }
    Ok(FeatureBatch { columns: V::Features::finish(buffers), errors })
}
