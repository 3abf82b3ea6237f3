//! Derive macros of plumb-sdk
