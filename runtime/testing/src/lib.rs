//! For tests only: the naive oracle and the runner of case files.

pub mod archive;
pub mod case;
pub mod oracle;
pub mod process;
