//! What runs a view's two functions, and what can go wrong while it does.

use plumb_core::column::Column;
use plumb_core::contribution::Contributions;

/// The units of fuel of one guest call, whatever its number of rows: about 14 ms of work. A row is poison exactly
/// if it needs more alone, so the verdict does not depend on how batches were cut.
pub const FUEL_PER_CALL: u64 = 200_000_000;

/// The linear memory of one guest instance in bytes; wanting more is a fault.
pub const MEMORY_LIMIT_BYTES: usize = 64 << 20;

/// Runs a view's `extract` and `finalize`. The component is the one that counts; benches and tests adapt native code.
///
/// The law: both are pure and row-wise, that is f(batch) is the concatenation of f(row). Nothing survives a call.
pub trait Guest: Send + Sync {
    /// Computes the contributions of `rows` events; `columns` are the declared fields, in declared order. The
    /// contributions are as the guest gave them, [`Contributions::check`] is the caller's.
    ///
    /// A [`Fault`] concerns the whole batch: some row of it is guilty.
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault>;

    /// Computes features, one row for each instant of `as_of_us` (µs); `aggregates` are the declared aggregates, in
    /// declared order. The columns are as the guest gave them.
    fn finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault>;

    /// The fuel that all calls of a function have used so far, failed ones included. Native code counts none.
    fn fuel(&self, function: Function) -> u64 {
        let _ = function;
        0
    }
}

/// A function of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// From events to contributions.
    Extract,
    /// From aggregates to features.
    Finalize,
}

impl Function {
    /// Both.
    pub const ALL: [Function; 2] = [Function::Extract, Function::Finalize];

    /// Its name in the interface.
    pub fn name(self) -> &'static str {
        match self {
            Function::Extract => "extract",
            Function::Finalize => "finalize",
        }
    }
}

/// An answer of a guest with the rows it could not compute.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestOutput<T> {
    /// The answer.
    pub value: T,
    /// The rows it says it could not compute, in its own words.
    pub errors: Vec<RowError>,
}

/// A guest's own error about one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's index in the batch of the call.
    pub row: u32,
    /// Why, in the author's words.
    pub message: String,
}

/// Why a whole call failed. The texts are stable: they name neither address nor backtrace, and a row that fails
/// alone always fails with the same text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The guest trapped, e.g. `unreachable` (a panic), or stack overflow.
    #[error("trap: {0}")]
    Trap(String),
    /// The call used up [`FUEL_PER_CALL`].
    #[error("out of fuel ({FUEL_PER_CALL} units)")]
    OutOfFuel,
    /// The instance wanted more memory than [`MEMORY_LIMIT_BYTES`].
    #[error("memory limit ({} MiB)", MEMORY_LIMIT_BYTES >> 20)]
    MemoryLimit,
    /// The answer breaks the interface: lengths, offsets, UTF-8, row indices or types.
    #[error("malformed answer: {0}")]
    Malformed(String),
}
