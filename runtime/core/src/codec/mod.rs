//! `StateV1`: the bytes of state, equal in the online store, in commits and in tests.

pub(crate) mod wire;
