//! A loaded view bound to a source: calls of bounded size, faults cut down to the guilty row.

use crate::columns::{append, normalise, slice, with_nulls};
use crate::describe::{state_text, to_json};
use crate::guest::{Fault, Function, Guest, GuestOutput, RowError};
use crate::{Digest, Error, Result, TRACE};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::contribution::{Contributions, check_column};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::plan::{Plan, StateId};
use plumb_core::view::ViewDef;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most rows of one guest call.
pub const MAX_ROWS_PER_CALL: usize = 1024;

/// The number of the state format that a state id stands for; another format is another state.
pub const STATE_FORMAT: u32 = 1;

/// The longest message of a guest kept in a fault, in bytes.
const MAX_MESSAGE_BYTES: usize = 512;

/// A component that was loaded and checked, not yet bound to a source.
#[derive(Clone)]
pub struct LoadedComponent {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// What it declares.
    pub def: ViewDef,
    /// Who it says uses it.
    pub consumers: Vec<String>,
    /// Runs its functions.
    pub guest: Arc<dyn Guest>,
    /// Its size in bytes.
    pub size: u64,
}

impl std::fmt::Debug for LoadedComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedComponent")
            .field("view", &self.def.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A row that a view could not compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// The row in the batch that was given.
    pub row: u32,
    /// Why, in stable words: a function of the row and the component only.
    pub reason: String,
}

/// What a view took from a batch of events.
#[derive(Debug, Clone, PartialEq)]
pub struct Extracted {
    /// Checked contributions, rows ascending, none of a row with a fault.
    pub contributions: Contributions,
    /// The rows that could not be extracted, ascending, each once.
    pub faults: Vec<RowFault>,
}

/// Features of many rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Finalized {
    /// One column per declared feature; a row with a fault holds nulls.
    pub features: Vec<Column>,
    /// The rows that could not be finalized, ascending, each once.
    pub faults: Vec<RowFault>,
}

/// A loaded view bound to a source. Cheap to clone.
#[derive(Clone)]
pub struct Transform(Arc<Inner>);

struct Inner {
    def: ViewDef,
    consumers: Vec<String>,
    digest: Digest,
    size: u64,
    schema: Arc<SourceSchema>,
    plan: Arc<Plan>,
    state_id: StateId,
    key_columns: Vec<usize>,
    /// Where each declared field comes from.
    inputs: Vec<Input>,
    guest: Arc<dyn Guest>,
    /// By function.
    used: [Used; 2],
}

/// What calls of a function have taken so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many calls.
    pub calls: u64,
    /// The rows given to them.
    pub rows: u64,
    /// The time they took, one after the other.
    pub time: Duration,
    /// The fuel they used; 0 for native code.
    pub fuel: u64,
}

/// Counted by all threads.
#[derive(Debug, Default)]
struct Used {
    calls: AtomicU64,
    rows: AtomicU64,
    nanos: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Input {
    /// A column of the batch.
    Column(usize),
    /// The event time.
    Time,
}

impl std::fmt::Debug for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transform({} {})", self.0.def.name, self.version_label())
    }
}

impl Transform {
    /// Binds a component to the schema of the source it names. A field or key that the schema lacks or types
    /// otherwise is an error that names both sides.
    pub fn new(component: LoadedComponent, schema: &Arc<SourceSchema>, allowed_lateness_us: i64) -> Result<Self> {
        let LoadedComponent { digest, def, consumers, guest, size } = component;
        if def.source != schema.source {
            let why = format!("it reads source `{}`", def.source);
            return Err(Error::Binding { view: def.name, source_name: schema.source.clone(), why });
        }
        let bind = |why: String| Error::Binding { view: def.name.clone(), source_name: schema.source.clone(), why };
        let inputs = def
            .fields
            .iter()
            .map(|field| bind_field(schema, &field.name, &field.data_type).map_err(bind))
            .collect::<Result<_>>()?;
        let key_columns = def
            .entity
            .key
            .iter()
            .map(|name| match bind_field(schema, name, &DataType::Utf8).map_err(bind)? {
                Input::Column(index) => Ok(index),
                Input::Time => Err(bind(format!("the event time `{name}` is no key"))),
            })
            .collect::<Result<_>>()?;
        let plan = Arc::new(Plan::new(&def, allowed_lateness_us)?);
        let state_id = state_id(&digest, &def);
        let schema = schema.clone();
        Ok(Self(Arc::new(Inner {
            def,
            consumers,
            digest,
            size,
            schema,
            plan,
            state_id,
            key_columns,
            inputs,
            guest,
            used: Default::default(),
        })))
    }

    /// Binds native code, for benches and tests; its digest is that of its definition.
    pub fn native(
        def: ViewDef,
        guest: Arc<dyn Guest>,
        schema: &Arc<SourceSchema>,
        allowed_lateness_us: i64,
    ) -> Result<Self> {
        let digest = Digest::of(format!("native {}", to_json(&def, &[])).as_bytes());
        let component = LoadedComponent { digest, def, consumers: Vec::new(), guest, size: 0 };
        Self::new(component, schema, allowed_lateness_us)
    }

    /// What the component declares.
    pub fn def(&self) -> &ViewDef {
        &self.0.def
    }

    /// What the definition means for state.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.0.plan
    }

    /// The schema it is bound to.
    pub fn schema(&self) -> &Arc<SourceSchema> {
        &self.0.schema
    }

    /// The short identity of its state.
    pub fn state_id(&self) -> StateId {
        self.0.state_id
    }

    /// The identity of the component.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// The component's size in bytes; 0 for native code.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The definition as the JSON of `describe()`, for people and the registry.
    pub fn to_json(&self) -> serde_json::Value {
        to_json(&self.0.def, &self.0.consumers)
    }

    /// The version as shown: `1.2.0+ab12cd34`.
    pub fn version_label(&self) -> String {
        format!("{}+{}", self.0.def.version, self.0.digest.short())
    }

    /// The version as a folder name: `1.2.0_ab12cd34`.
    pub fn version_folder(&self) -> String {
        format!("{}_{}", self.0.def.version, self.0.digest.short())
    }

    /// What calls of a function have taken since the component was loaded, by whoever called.
    pub fn usage(&self, function: Function) -> Usage {
        let used = &self.0.used[function as usize];
        Usage {
            calls: used.calls.load(Ordering::Relaxed),
            rows: used.rows.load(Ordering::Relaxed),
            time: Duration::from_nanos(used.nanos.load(Ordering::Relaxed)),
            fuel: self.0.guest.fuel(function),
        }
    }

    /// Makes one call and counts it. The clock is for the figures only, never for a value.
    fn call<T>(
        &self,
        function: Function,
        rows: usize,
        run: impl FnOnce(&dyn Guest) -> Result<GuestOutput<T>, Fault>,
    ) -> Result<GuestOutput<T>, Fault> {
        let _span = match function {
            Function::Extract => tracing::info_span!(target: TRACE, "extract", view = self.0.def.name, rows),
            Function::Finalize => tracing::info_span!(target: TRACE, "finalize", view = self.0.def.name, rows),
        }
        .entered();
        let started = Instant::now();
        let result = run(self.0.guest.as_ref());
        let used = &self.0.used[function as usize];
        used.calls.fetch_add(1, Ordering::Relaxed);
        used.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        used.nanos.fetch_add(nanos, Ordering::Relaxed);
        result
    }

    /// The columns of a batch that hold the entity's key, in the key's order.
    pub fn key_columns(&self) -> &[usize] {
        &self.0.key_columns
    }

    /// Computes the contributions of a batch of the bound schema. Never fails for a guest's sake: a row without a
    /// required field, and a row that makes the guest fail when called with it alone, become faults.
    pub fn extract(&self, batch: &EventBatch) -> Extracted {
        let mut out = Extracted { contributions: Contributions::empty(&self.0.plan.slots), faults: Vec::new() };
        let columns: Vec<Cow<'_, Column>> = self
            .0
            .inputs
            .iter()
            .map(|input| match *input {
                Input::Column(index) => Cow::Borrowed(&batch.columns[index]),
                Input::Time => Cow::Owned(Column::of(Values::Timestamp(batch.times_us.clone()))),
            })
            .collect();
        let columns: Vec<&Column> = columns.iter().map(AsRef::as_ref).collect();
        let missing = self.missing(&columns);
        if missing.is_empty() {
            self.extract_all(batch.len(), &columns, &mut out);
            return out;
        }
        // Rows without a required field never reach the guest; the others keep their indices.
        let mut faulty = missing.iter().map(|fault| fault.row as usize).peekable();
        let kept: Vec<usize> = (0..batch.len()).filter(|&row| faulty.next_if_eq(&row).is_none()).collect();
        let taken: Vec<Column> = columns.iter().map(|column| column.take(kept.iter().copied())).collect();
        self.extract_all(kept.len(), &taken.iter().collect::<Vec<_>>(), &mut out);
        out.contributions.rows.iter_mut().for_each(|row| *row = kept[*row as usize] as u32);
        out.faults.iter_mut().for_each(|fault| fault.row = kept[fault.row as usize] as u32);
        out.faults.extend(missing);
        out.faults.sort_by_key(|fault| fault.row);
        out
    }

    /// Computes the features of many rows: `as_of_us` are the instants T, `aggregates` the declared aggregates at
    /// them. Never fails for a guest's sake: such a row is null in every feature, and a fault.
    pub fn finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Finalized {
        let features = self.0.def.features.iter().map(|feature| Column::new(&feature.data_type)).collect();
        let mut out = Finalized { features, faults: Vec::new() };
        let rows = as_of_us.len();
        if rows <= MAX_ROWS_PER_CALL {
            if rows > 0 {
                self.finalize_rows(0, as_of_us, aggregates, &mut out);
            }
            return out;
        }
        for start in (0..rows).step_by(MAX_ROWS_PER_CALL) {
            let end = rows.min(start + MAX_ROWS_PER_CALL);
            let cut: Vec<Column> = aggregates.iter().map(|column| slice(column, start..end)).collect();
            self.finalize_rows(start, &as_of_us[start..end], &cut, &mut out);
        }
        out
    }

    /// The rows that lack a required field, ascending, each with the first such field.
    fn missing(&self, columns: &[&Column]) -> Vec<RowFault> {
        let mut missing: Vec<RowFault> = Vec::new();
        for (field, column) in self.0.def.fields.iter().zip(columns) {
            let Some(bits) = column.validity.as_ref().filter(|_| field.required) else { continue };
            if bits.count_set() == bits.len() {
                continue;
            }
            let reason = format!("required field `{}` is null", field.name);
            let nulls = (0..bits.len()).filter(|&row| !bits.get(row));
            missing.extend(nulls.map(|row| RowFault { row: row as u32, reason: reason.clone() }));
        }
        missing.sort_by_key(|fault| fault.row);
        missing.dedup_by_key(|fault| fault.row);
        missing
    }

    fn extract_all(&self, rows: usize, columns: &[&Column], out: &mut Extracted) {
        if rows == 0 {
            return;
        }
        if rows <= MAX_ROWS_PER_CALL {
            return self.extract_rows(0, rows, columns, out);
        }
        for start in (0..rows).step_by(MAX_ROWS_PER_CALL) {
            let end = rows.min(start + MAX_ROWS_PER_CALL);
            self.extract_part(start, start, end, columns, out);
        }
    }

    /// Extracts the rows `start..end` of `columns`; `first` is the first one's index in the whole batch.
    fn extract_part(&self, first: usize, start: usize, end: usize, columns: &[&Column], out: &mut Extracted) {
        let cut: Vec<Column> = columns.iter().map(|column| slice(column, start..end)).collect();
        self.extract_rows(first, end - start, &cut.iter().collect::<Vec<_>>(), out);
    }

    fn extract_rows(&self, first: usize, rows: usize, columns: &[&Column], out: &mut Extracted) {
        match self.try_extract(rows, columns) {
            Ok((contributions, errors)) => {
                out.contributions.rows.extend(contributions.rows.iter().map(|row| row + first as u32));
                for (to, from) in out.contributions.slots.iter_mut().zip(contributions.slots) {
                    if to.is_empty() {
                        *to = from;
                    } else {
                        append(to, &from);
                    }
                }
                out.faults.extend(errors.into_iter().map(|error| row_fault(first, error)));
            }
            Err(fault) if rows == 1 => out.faults.push(RowFault { row: first as u32, reason: fault.to_string() }),
            Err(_) => {
                let half = rows / 2;
                self.extract_part(first, 0, half, columns, out);
                self.extract_part(first + half, half, rows, columns, out);
            }
        }
    }

    /// One call of `extract`, its answer checked; contributions of rows with an error are left out.
    fn try_extract(&self, rows: usize, columns: &[&Column]) -> Result<(Contributions, Vec<RowError>), Fault> {
        let output = self.call(Function::Extract, rows, |guest| guest.extract(rows, columns))?;
        let errors = check_errors(output.errors, rows)?;
        let mut contributions = output.value.check(&self.0.def, rows).map_err(malformed)?;
        if !errors.is_empty() {
            let faulty = |row: u32| errors.binary_search_by_key(&row, |error| error.row).is_ok();
            let kept: Vec<usize> =
                (0..contributions.len()).filter(|&index| !faulty(contributions.rows[index])).collect();
            if kept.len() < contributions.len() {
                contributions = Contributions {
                    rows: kept.iter().map(|&index| contributions.rows[index]).collect(),
                    slots: contributions.slots.iter().map(|slot| slot.take(kept.iter().copied())).collect(),
                };
            }
        }
        contributions.slots = contributions.slots.into_iter().map(normalise).collect();
        Ok((contributions, errors))
    }

    fn finalize_rows(&self, first: usize, as_of_us: &[i64], aggregates: &[Column], out: &mut Finalized) {
        match self.try_finalize(as_of_us, aggregates) {
            Ok((features, errors)) => {
                for (to, from) in out.features.iter_mut().zip(features) {
                    if to.is_empty() {
                        *to = from;
                    } else {
                        append(to, &from);
                    }
                }
                out.faults.extend(errors.into_iter().map(|error| row_fault(first, error)));
            }
            Err(fault) if as_of_us.len() == 1 => {
                out.features.iter_mut().for_each(Column::push_null);
                out.faults.push(RowFault { row: first as u32, reason: fault.to_string() });
            }
            Err(_) => {
                let (rows, half) = (as_of_us.len(), as_of_us.len() / 2);
                for (start, end) in [(0, half), (half, rows)] {
                    let cut: Vec<Column> = aggregates.iter().map(|column| slice(column, start..end)).collect();
                    self.finalize_rows(first + start, &as_of_us[start..end], &cut, out);
                }
            }
        }
    }

    /// One call of `finalize`, its answer checked; rows with an error are null.
    fn try_finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Result<(Vec<Column>, Vec<RowError>), Fault> {
        let output = self.call(Function::Finalize, as_of_us.len(), |guest| guest.finalize(as_of_us, aggregates))?;
        let (def, rows) = (&self.0.def, as_of_us.len());
        let errors = check_errors(output.errors, rows)?;
        if output.value.len() != def.features.len() {
            let why = format!("{} feature columns, {} are declared", output.value.len(), def.features.len());
            return Err(Fault::Malformed(why));
        }
        for (column, feature) in output.value.iter().zip(&def.features) {
            check_column(&format!("feature `{}`", feature.name), column, &feature.data_type, rows)
                .map_err(malformed)?;
        }
        let faulty: Vec<u32> = errors.iter().map(|error| error.row).collect();
        let null = |column: Column| if faulty.is_empty() { column } else { with_nulls(&column, &faulty) };
        Ok((output.value.into_iter().map(null).map(normalise).collect(), errors))
    }
}

fn bind_field(schema: &SourceSchema, name: &str, wanted: &DataType) -> Result<Input, String> {
    let Some(found) = schema.type_of(name) else {
        let mut known: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        known.extend([schema.time_field.as_str(), schema.id_field.as_str()]);
        return Err(format!("it reads field `{name}`, the source has {}", known.join(", ")));
    };
    if found != *wanted {
        return Err(format!("it reads field `{name}` as {}, the source has it as {}", wanted.name(), found.name()));
    }
    Ok(schema.column_of(name).map_or(Input::Time, Input::Column))
}

/// First 8 bytes of the SHA-256 over everything that state depends on.
fn state_id(digest: &Digest, def: &ViewDef) -> StateId {
    let text = format!("plumb state {STATE_FORMAT}\n{digest}\n{}", state_text(def));
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    StateId(id)
}

/// Checks the rows of a guest's errors and brings them into order, the first of each row.
fn check_errors(mut errors: Vec<RowError>, rows: usize) -> Result<Vec<RowError>, Fault> {
    if let Some(error) = errors.iter().find(|error| error.row as usize >= rows) {
        return Err(Fault::Malformed(format!("error for row {} of {rows}", error.row)));
    }
    errors.sort_by_key(|error| error.row);
    errors.dedup_by_key(|error| error.row);
    Ok(errors)
}

fn row_fault(first: usize, error: RowError) -> RowFault {
    let mut message = error.message;
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    RowFault { row: first as u32 + error.row, reason: format!("guest error: {message}") }
}

pub(crate) fn malformed(error: plumb_core::Error) -> Fault {
    Fault::Malformed(match error {
        plumb_core::Error::Malformed { what, why } => format!("{what}: {why}"),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests;
