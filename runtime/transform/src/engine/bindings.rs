//! The interface of `wit/view.wit` as Rust types. What goes in is borrowed, so a host column is lowered from where
//! it lies; what comes out is owned.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from the interface, whose documentation is in wit/view.wit"
)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "transform",
    ownership: Borrowing { duplicate_if_necessary: true },
});
