//! One call of a guest: a fresh store and instance, its limits, and what its failure means.

use super::bindings::exports::plumb::transform::view::Batch;
use super::bindings::{Transform, TransformPre};
use super::{convert, text_of};
use crate::guest::{FUEL_PER_CALL, Fault, Function, Guest, GuestOutput, MEMORY_LIMIT_BYTES};
use plumb_core::column::Column;
use plumb_core::contribution::Contributions;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use wasmtime::{Engine, ResourceLimiter, Store, Trap};

/// The most bytes a call may return.
const OUTPUT_LIMIT_BYTES: usize = 64 << 20;

/// The data of a store: why its memory could not grow.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// The guest wanted more than it may have.
    memory_exceeded: bool,
    /// The machine has no more memory to give, which says nothing about the guest.
    out_of_memory: bool,
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > maximum.map_or(MEMORY_LIMIT_BYTES, |maximum| maximum.min(MEMORY_LIMIT_BYTES)) {
            // A guest that saw -1 could go on and answer something else; a trap is the same everywhere.
            self.memory_exceeded = true;
            return Err(wasmtime::Error::msg("memory limit"));
        }
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.out_of_memory = true;
        Err(error)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// Counts the instances that may exist at once, so that the pool of slots is never found empty: a call waits
/// instead of failing, and a verdict never depends on how busy the process is.
#[derive(Debug)]
pub(super) struct Permits {
    free: Mutex<u32>,
    released: Condvar,
}

struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(count: u32) -> Self {
        Self { free: Mutex::new(count), released: Condvar::new() }
    }

    fn acquire(&self) -> Permit<'_> {
        // The section only counts, so a poisoned lock still holds a right number.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.released.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.released.notify_one();
    }
}

/// A component's functions.
pub(super) struct WasmGuest {
    engine: Engine,
    pre: TransformPre<Host>,
    permits: Arc<Permits>,
    /// Used so far, by function.
    fuel: [AtomicU64; 2],
}

impl WasmGuest {
    pub(super) fn new(engine: Engine, pre: TransformPre<Host>, permits: Arc<Permits>) -> Self {
        Self { engine, pre, permits, fuel: Default::default() }
    }

    /// The text of the component's definition.
    pub(super) fn describe(&self) -> Result<String, Fault> {
        self.call(None, |guest, store| guest.plumb_transform_view().call_describe(store))
    }

    /// Instantiates the component once, to see whether its functions have the types of the interface.
    pub(super) fn probe(&self) -> wasmtime::Result<()> {
        let _permit = self.permits.acquire();
        self.pre.instantiate(self.store()).map(drop)
    }

    fn store(&self) -> Store<Host> {
        let mut store = Store::new(&self.engine, Host::default());
        store.limiter(|host| host);
        store.set_hostcall_fuel(OUTPUT_LIMIT_BYTES);
        store.set_fuel(FUEL_PER_CALL).expect("the engine is configured to count fuel");
        store
    }

    /// Runs one call on a fresh instance, dropped with its store before this returns.
    fn call<T>(
        &self,
        function: Option<Function>,
        run: impl FnOnce(&Transform, &mut Store<Host>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let _permit = self.permits.acquire();
        let mut store = self.store();
        let guest = match self.pre.instantiate(&mut store) {
            Ok(guest) => guest,
            Err(error) if error.is::<Trap>() || store.data().memory_exceeded => {
                return Err(fault_of(&error, store.data()));
            }
            Err(error) => out_of_memory(&error),
        };
        let result = run(&guest, &mut store);
        if let Some(function) = function {
            let left = store.get_fuel().expect("the engine is configured to count fuel");
            self.fuel[function as usize].fetch_add(FUEL_PER_CALL - left, Ordering::Relaxed);
        }
        result.map_err(|error| match store.data() {
            Host { out_of_memory: true, .. } => out_of_memory(&error),
            host => fault_of(&error, host),
        })
    }
}

/// A slot was reserved and the component was instantiated at load, so only the machine itself can be the reason. To
/// call that a fault of a row would lose the row; stopping loses nothing, a restart goes on from the last commit.
#[cold]
#[expect(clippy::panic, reason = "no answer is possible, and a wrong one would be recorded for ever")]
fn out_of_memory(error: &wasmtime::Error) -> ! {
    panic!("the machine has no memory for a guest instance: {}", text_of(error))
}

impl Guest for WasmGuest {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let columns: Vec<_> = columns.iter().map(|column| convert::lower(column)).collect();
        let batch = Batch { rows: rows as u32, columns: &columns };
        let answer =
            self.call(Some(Function::Extract), |guest, store| guest.plumb_transform_view().call_extract(store, batch))?;
        let slots = answer.slots.into_iter().map(convert::lift).collect::<Result<_, _>>()?;
        Ok(GuestOutput {
            value: Contributions { rows: answer.rows, slots },
            errors: answer.errors.into_iter().map(convert::lift_error).collect(),
        })
    }

    fn finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        let columns: Vec<_> =
            std::iter::once(convert::timestamps(as_of_us)).chain(aggregates.iter().map(convert::lower)).collect();
        let batch = Batch { rows: as_of_us.len() as u32, columns: &columns };
        let answer = self
            .call(Some(Function::Finalize), |guest, store| guest.plumb_transform_view().call_finalize(store, batch))?;
        Ok(GuestOutput {
            value: answer.columns.into_iter().map(convert::lift).collect::<Result<_, _>>()?,
            errors: answer.errors.into_iter().map(convert::lift_error).collect(),
        })
    }

    fn fuel(&self, function: Function) -> u64 {
        self.fuel[function as usize].load(Ordering::Relaxed)
    }
}

/// What an error of a call means; the texts hold neither addresses nor frames.
fn fault_of(error: &wasmtime::Error, host: &Host) -> Fault {
    if host.memory_exceeded {
        return Fault::MemoryLimit;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Fault::OutOfFuel,
        Some(Trap::UnreachableCodeReached) => Fault::Trap("unreachable".into()),
        Some(Trap::StackOverflow) => Fault::Trap("stack overflow".into()),
        Some(trap) => Fault::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        // Everything else comes from reading the answer out of the guest's memory.
        None => Fault::Malformed(text_of(error)),
    }
}
