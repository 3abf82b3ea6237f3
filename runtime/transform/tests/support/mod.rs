//! Small guests written as WebAssembly text, so that what a guest does wrong is spelled out instruction by
//! instruction and needs no guest toolchain.

use plumb_core::column::{Column, DataType};
use plumb_core::event::{EventBatch, SourceSchema};
use std::sync::Arc;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WIT: &str = include_str!("../../../../wit/view.wit");

/// The definition of the test guests: column 1 of their events is the price, their one slot the amount.
pub(crate) const DESCRIBE: &str = r#"{
    "format": 1, "name": "sample", "version": "0.1.0", "entity": { "name": "user", "key": ["user_id"] },
    "source": "default",
    "fields": [{ "name": "event_type", "type": "string", "required": true }, { "name": "price", "type": "f64" }],
    "slots": [{ "name": "amount", "type": "f64" }],
    "aggregates": [{ "name": "total", "operator": "sum", "slots": ["amount"], "window": { "kind": "lifetime" } }],
    "features": [{ "name": "total", "type": "f64", "aggregates": ["total"] }]
}"#;

/// What a test guest does besides its work: to every event, the amount is its price; to every read, the feature is
/// the aggregate.
#[derive(Default)]
pub(crate) struct Guest<'a> {
    /// Instructions run for every row of `extract` whose price is 666; `$row`, `$price` (its address) are set.
    pub(crate) on_666: &'a str,
    /// The same for every row.
    pub(crate) on_row: &'a str,
    /// Instructions before the answer of `extract`, which lies at 64: rows (address, length), slots, errors.
    pub(crate) at_end: &'a str,
    /// Instructions at the beginning of `finalize`.
    pub(crate) in_finalize: &'a str,
    /// Further definitions of the module, imports first.
    pub(crate) module: &'a str,
    /// The text of `describe`, [`DESCRIBE`] if empty.
    pub(crate) describe: &'a str,
    /// Pages of memory at start, 2 if 0.
    pub(crate) pages: u32,
}

impl Guest<'_> {
    /// The guest as a component of the shipped interface.
    pub(crate) fn build(&self) -> Vec<u8> {
        component(&self.wat("0.1.0"), &[WIT])
    }

    /// The module's text, exporting another version of the interface.
    pub(crate) fn wat(&self, version: &str) -> String {
        let Guest { on_666, on_row, at_end, in_finalize, module, .. } = self;
        let describe = if self.describe.is_empty() { DESCRIBE } else { self.describe };
        let (text, length) = (describe.replace('"', "\\\"").replace('\n', " "), describe.len());
        let pages = if self.pages == 0 { 2 } else { self.pages };
        format!(
            r#"(module
            {module}
            (memory (export "memory") {pages})
            (global $free (mut i32) (i32.const 65536))
            (func $alloc (export "cabi_realloc") (param i32 i32 i32) (param $len i32) (result i32)
                (local $at i32)
                (local.set $at (global.get $free))
                (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get $len)) (i32.const 15))
                    (i32.const -16)))
                (block (loop
                    (br_if 1 (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
                    (drop (memory.grow (i32.const 1))) (br 0)))
                (local.get $at))
            (data (i32.const 1024) "{text}")
            (func (export "plumb:transform/view@{version}#describe") (result i32)
                (i32.store (i32.const 16) (i32.const 1024))
                (i32.store (i32.const 20) (i32.const {length}))
                (i32.const 16))
            (func (export "plumb:transform/view@{version}#extract")
                (param $rows i32) (param $columns i32) (param $count i32) (result i32)
                (local $row i32) (local $out i32) (local $price i32)
                (local.set $out (call $alloc (i32.const 0) (i32.const 0) (i32.const 4)
                    (i32.mul (local.get $rows) (i32.const 4))))
                (block $done (loop $next
                    (br_if $done (i32.eq (local.get $row) (local.get $rows)))
                    (local.set $price (i32.add (i32.load (i32.add (local.get $columns) (i32.const 48)))
                        (i32.mul (local.get $row) (i32.const 8))))
                    (i32.store (i32.add (local.get $out) (i32.mul (local.get $row) (i32.const 4))) (local.get $row))
                    {on_row}
                    (if (f64.eq (f64.load (local.get $price)) (f64.const 666)) (then {on_666}))
                    (local.set $row (i32.add (local.get $row) (i32.const 1)))
                    (br $next)))
                (i32.store (i32.const 64) (local.get $out))
                (i32.store (i32.const 68) (local.get $rows))
                (i32.store (i32.const 72) (i32.add (local.get $columns) (i32.const 36)))
                (i32.store (i32.const 76) (i32.const 1))
                {at_end}
                (i32.const 64))
            (func (export "plumb:transform/view@{version}#finalize")
                (param $rows i32) (param $columns i32) (param $count i32) (result i32)
                {in_finalize}
                (i32.store (i32.const 128) (i32.add (local.get $columns) (i32.const 36)))
                (i32.store (i32.const 132) (i32.const 1))
                (i32.const 128)))"#
        )
    }
}

/// Wraps a core module as a component of the world `transform` of the last of `wits`.
pub(crate) fn component(wat: &str, wits: &[&str]) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let mut package = None;
    for (index, wit) in wits.iter().enumerate() {
        package = Some(resolve.push_str(format!("{index}.wit"), wit).unwrap());
    }
    let world = resolve.select_world(&[package.unwrap()], Some("transform")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// The interface with changes.
pub(crate) fn wit_with(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(WIT.to_owned(), |wit, (from, to)| {
        assert!(wit.contains(from), "the interface has no `{from}`");
        wit.replace(from, to)
    })
}

/// Events with these prices.
pub(crate) fn events(prices: &[f64]) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    let columns: Vec<usize> =
        ["event_type", "price"].iter().map(|name| batch.schema.column_of(name).unwrap()).collect();
    batch.offsets = (0..prices.len() as u64).collect();
    batch.record_times_us = vec![0; prices.len()];
    batch.times_us = vec![0; prices.len()];
    for (index, column) in batch.columns.iter_mut().enumerate() {
        for price in prices {
            if index == columns[0] {
                column.push_bytes(b"purchase");
            } else if index == columns[1] {
                column.push_f64(*price);
            } else {
                column.push_null();
            }
        }
    }
    batch
}

/// Rows of the aggregate `total`.
pub(crate) fn totals(values: &[f64]) -> (Vec<i64>, Vec<Column>) {
    let mut column = Column::new(&DataType::F64);
    values.iter().for_each(|value| column.push_f64(*value));
    (vec![1_700_000_000_000_000; values.len()], vec![column])
}
