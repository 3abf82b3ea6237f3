//! For tests only: the naive oracle, the runner of case files, and what they run against.

pub mod archive;
pub mod case;
pub mod checker;
pub mod online_suite;
pub mod onlooker;
pub mod oracle;
pub mod process;
pub mod reader;
pub mod service;
pub mod snapshots;
pub mod store;
pub mod stream;
pub mod subject;
pub mod table;
