//! The HTTP service: three listeners over a [`Backend`].
//!
//! [`Server::start`] binds the addresses and serves until [`Server::shutdown`]. Connections carry limits in
//! number, header time, body size and total time, so that no client can hold the service up. Routes are
//! matched by hand in [`route`]; handlers read JSON ([`read`]), ask the backend on a blocking thread, and
//! write JSON ([`write`]). Every error is a [`problem::Problem`] (RFC 9457) with a stable type.
//!
//! Not here: what a feature's value is (`plumb-pipeline`'s query module) and what runs behind the backend
//! (`plumb-assembly`).

pub mod backend;
mod catalogue;
mod events;
mod handle;
mod materialize;
mod metrics;
pub mod problem;
mod read;
mod route;
mod server;
#[cfg(test)]
mod tests;
pub mod told;
mod uri;
mod write;

pub use backend::{Backend, BackendError, Dependency, RegistryEntry, ViewState};
pub use server::{Server, ServerOptions};
