//! The one place that knows `wasmtime`: the engine's settings, and loading a component.
//!
//! Every setting that could make two machines, two runs or two cuts of a batch disagree is pinned here: no threads,
//! no relaxed SIMD, canonical NaNs, a fixed fuel budget and cost table, a fixed memory cap, a fixed stack. Every
//! call gets a fresh instance, so nothing survives from one batch to the next.

mod bindings;
mod cache;
mod convert;
mod instance;

use crate::check;
use crate::describe;
use crate::guest::MEMORY_LIMIT_BYTES;
use crate::transform::LoadedComponent;
use crate::{Digest, Error, Result};
use bindings::TransformPre;
use instance::{Host, Permits, WasmGuest};
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OperatorCost, PoolingAllocationConfig};

/// The interface a component must export.
pub const INTERFACE: &str = "plumb:transform/view@0.1.0";

/// The largest component in bytes.
pub const MAX_COMPONENT_BYTES: usize = 8 << 20;

/// The stack of a guest in bytes; deeper recursion is a trap.
const STACK_BYTES: usize = 512 << 10;

/// How much of an instance's memory is kept mapped for the next one, where the kernel can tell which pages were
/// written. Without that help, clearing a fixed part would cost more than new pages do.
const KEEP_RESIDENT_BYTES: usize = 4 << 20;

/// How much of an instance's table is cleared for the next one, where to give it back and get a new page would cost
/// more: the tables of a component are mostly a page or two.
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 << 10;

/// The core modules, and the tables, that one component may be made of.
const MAX_CORE_MODULES: u32 = 8;

/// How to run guests.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where compiled components are kept; `None` = compile at every start. The folder must belong to this
    /// process's user alone: what lies there is run as native code.
    pub cache_dir: Option<PathBuf>,
    /// How many guest calls can run at once; further ones wait. Each reserves address space, not memory.
    pub instances: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { cache_dir: None, instances: 32 }
    }
}

/// Loads components and runs them. One per process; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    cache_dir: Option<PathBuf>,
    permits: Arc<Permits>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache_dir", &self.cache_dir).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts an engine: reserves the address space of its instances, creates nothing on disk.
    pub fn new(options: EngineOptions) -> Result<Self> {
        let engine = wasmtime::Engine::new(&config(options.instances.max(1)))
            .map_err(|error| Error::Engine { why: text_of(&error) })?;
        let permits = Arc::new(Permits::new(options.instances.max(1)));
        Ok(Self { engine, cache_dir: options.cache_dir, permits })
    }

    /// Loads a component: checks what it is, imports and exports, compiles it (or takes it from the cache), asks it
    /// for its definition, and checks on generated events that it is row-wise.
    pub fn load(&self, bytes: &[u8]) -> Result<LoadedComponent> {
        check_layer(bytes)?;
        let digest = Digest::of(bytes);
        let component = self.compile(&digest, bytes)?;
        self.check_imports(&component)?;
        let pre = self.check_exports(&component)?;
        let guest = WasmGuest::new(self.engine.clone(), pre, self.permits.clone());
        guest.probe().map_err(|error| Error::World {
            expected: INTERFACE.to_owned(),
            found: format!("it exports the interface in another shape: {}", text_of(&error)),
        })?;
        let text = guest.describe().map_err(|fault| Error::describe(format!("the call failed: {fault}")))?;
        let described = describe::parse(&text)?;
        let loaded = LoadedComponent {
            digest,
            def: described.def,
            consumers: described.consumers,
            guest: Arc::new(guest),
            size: bytes.len() as u64,
        };
        check::check_generated(&loaded)?;
        Ok(loaded)
    }

    fn compile(&self, digest: &Digest, bytes: &[u8]) -> Result<Component> {
        if let Some(folder) = &self.cache_dir
            && let Some(component) = cache::read(&self.engine, folder, digest)
        {
            return Ok(component);
        }
        let component = Component::new(&self.engine, bytes).map_err(|error| Error::Compile { why: text_of(&error) })?;
        if let Some(folder) = &self.cache_dir
            && let Err(error) = cache::write(&self.engine, folder, digest, &component)
        {
            // The cache only saves time; a full or read-only disk must not keep a component from running.
            tracing::warn!(folder = %folder.display(), %error, "cannot keep the compiled component");
        }
        Ok(component)
    }

    /// Refuses every import: purity is a property of the link, not a promise.
    fn check_imports(&self, component: &Component) -> Result<()> {
        let component_type = component.component_type();
        // A type is no capability, and some tools import the types that an interface shares with others.
        let import = component_type.imports(&self.engine).find(|(_, import)| match &import.ty {
            ComponentItem::Type(_) => false,
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(&self.engine).any(|(_, export)| !matches!(export.ty, ComponentItem::Type(_)))
            }
            _ => true,
        });
        match import {
            None => Ok(()),
            Some((name, _)) => Err(Error::Import { import: name.to_owned(), cause: cause_of(name).to_owned() }),
        }
    }

    fn check_exports(&self, component: &Component) -> Result<TransformPre<Host>> {
        let world = |found: String| Error::World { expected: INTERFACE.to_owned(), found };
        let component_type = component.component_type();
        let names: Vec<&str> = component_type.exports(&self.engine).map(|(name, _)| name).collect();
        if !names.contains(&INTERFACE) {
            let other = names.iter().find(|name| name.starts_with("plumb:transform/view@"));
            return Err(world(match other {
                Some(other) => format!("it exports `{other}`, another version: build it with the SDK of this plumb"),
                None if names.is_empty() => "it exports nothing".to_owned(),
                None => format!("it exports {}", names.join(", ")),
            }));
        }
        let linker = wasmtime::component::Linker::new(&self.engine);
        let pre = linker.instantiate_pre(component).map_err(|error| world(text_of(&error)))?;
        TransformPre::new(pre).map_err(|error| world(text_of(&error)))
    }
}

fn check_layer(bytes: &[u8]) -> Result<()> {
    const CORE: [u8; 8] = *b"\0asm\x01\0\0\0";
    const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";
    if bytes.len() > MAX_COMPONENT_BYTES {
        return Err(Error::TooLarge { bytes: bytes.len(), limit: MAX_COMPONENT_BYTES });
    }
    let why = match bytes.first_chunk::<8>() {
        Some(&COMPONENT) => return Ok(()),
        Some(&CORE) => "it is a core module, not a component: run `plumb build`".to_owned(),
        Some(header) if header.starts_with(b"\0asm") => {
            let version: Vec<String> = header[4..].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("it is WebAssembly of another version ({}): run `plumb build`", version.join(" "))
        }
        _ => "it does not begin like WebAssembly: give the file that `plumb build` made".to_owned(),
    };
    Err(Error::NotAComponent { why })
}

/// What usually brings an import in, and what to do about it.
fn cause_of(import: &str) -> &'static str {
    const BUILD: &str = "it was built for a WASI target; build for wasm32-unknown-unknown, as `plumb build` does";
    let has = |part: &str| import.contains(part);
    if has("wasi:clocks") {
        "something reads a clock (std::time, chrono, a logger); an event's time is a field of the event, the instant \
         of a read is given to `finalize`; build for wasm32-unknown-unknown, as `plumb build` does"
    } else if has("wasi:random") {
        "something draws random numbers (rand, uuid, or the hasher of std's HashMap on a WASI target); build for \
         wasm32-unknown-unknown, as `plumb build` does"
    } else if has("wasi:filesystem") || has("wasi:sockets") || has("wasi:http") {
        "a transform sees its events and nothing else, so it can read neither files nor the network; take such data \
         in as events"
    } else if has("wasi:") || has("wasi_") {
        BUILD
    } else {
        "remove what needs it; whatever a transform should know must be a field of its events"
    }
}

fn config(instances: u32) -> Config {
    let mut config = Config::new();
    config
        // Determinism: the same bits on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_shared_everything_threads(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_stack_switching(false)
        .wasm_gc(false)
        .gc_support(false)
        .shared_memory(false)
        .concurrency_support(false)
        // Limits: the same verdict on every machine.
        .consume_fuel(true)
        .operator_cost(operator_cost())
        .max_wasm_stack(STACK_BYTES)
        // Fault texts name no frames, so collecting them would be for nothing.
        .wasm_backtrace_max_frames(None)
        .memory_init_cow(true);
    let keep_resident = if PoolingAllocationConfig::is_pagemap_scan_available() { KEEP_RESIDENT_BYTES } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * MAX_CORE_MODULES)
        .total_memories(instances)
        .total_tables(instances * MAX_CORE_MODULES)
        .max_core_instances_per_component(MAX_CORE_MODULES)
        .max_memories_per_component(1)
        .max_tables_per_component(MAX_CORE_MODULES)
        .max_memory_size(MEMORY_LIMIT_BYTES)
        .linear_memory_keep_resident(keep_resident)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What an operator costs. Most cost 1, the free ones 0; copying costs by the byte. The commonest are written out,
/// and a test holds the whole table, so that an engine upgrade cannot move verdicts unseen.
fn operator_cost() -> OperatorCost {
    let mut cost = OperatorCost::new();
    for free in [
        &mut cost.Nop,
        &mut cost.Drop,
        &mut cost.Block,
        &mut cost.Loop,
        &mut cost.Unreachable,
        &mut cost.Return,
        &mut cost.Else,
        &mut cost.End,
    ] {
        *free = 0;
    }
    for usual in [&mut cost.Call, &mut cost.CallIndirect, &mut cost.Br, &mut cost.BrIf, &mut cost.If] {
        *usual = 1;
    }
    cost.variable.memory_copy_per_byte = 1;
    cost.variable.memory_fill_per_byte = 1;
    cost.variable.memory_init_per_byte = 1;
    cost.variable.memory_grow_per_page = 0;
    cost.variable.table_copy_per_element = 1;
    cost.variable.table_fill_per_element = 1;
    cost.variable.table_init_per_element = 1;
    cost.variable.table_grow_per_element = 1;
    cost
}

/// The innermost cause of an engine error, on one line.
fn text_of(error: &wasmtime::Error) -> String {
    let text = error.root_cause().to_string();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
