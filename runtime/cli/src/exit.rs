//! Exit codes: 0 done, 1 the check or job failed, 2 the caller's mistake, 3 an outside system failed.

use crate::client::ClientError;
use crate::telemetry;
use plumb_core::ErrorKind;
use std::process::ExitCode;

/// How a command that ran to its end ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// All is well.
    Ok,
    /// The check or job found something: a leak, a skew, rows with errors.
    Failed,
}

/// The caller's mistake, found by the command line itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub String);

/// Makes an error of the caller's.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// The exit code of an error: by its kind, wherever in the chain it is.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        let kind = if cause.is::<Usage>() {
            Some(ErrorKind::Invalid)
        } else if let Some(error) = cause.downcast_ref::<plumb_pipeline::Error>() {
            Some(error.kind())
        } else if let Some(error) = cause.downcast_ref::<plumb_transform::Error>() {
            Some(error.kind())
        } else if let Some(error) = cause.downcast_ref::<plumb_assembly::Error>() {
            Some(error.kind())
        } else if let Some(error) = cause.downcast_ref::<plumb_core::Error>() {
            Some(error.kind())
        } else if let Some(error) = cause.downcast_ref::<ClientError>() {
            Some(match error {
                ClientError::Refused { status: 400..500, .. } => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            })
        } else {
            cause.downcast_ref::<std::io::Error>().map(|_| ErrorKind::Unavailable)
        };
        if let Some(kind) = kind {
            return match kind {
                ErrorKind::Invalid | ErrorKind::Reject => 2,
                ErrorKind::Unavailable => 3,
                ErrorKind::Internal => 1,
            };
        }
    }
    1
}

/// Prints the error as one line on stderr and gives its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // The chain on one line; a cause that its wrapper already printed is not printed twice. What failed of an outside
    // system is named by what was done to it: "write `x`".
    let is_outside = matches!(error.downcast_ref(), Some(plumb_pipeline::Error::Unavailable { .. }));
    let mut line = String::from(if is_outside { "cannot " } else { "" });
    for cause in error.chain() {
        let text = cause.to_string();
        if !line.contains(&text) {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    telemetry::say("ERROR", &line, &[]);
    ExitCode::from(code_of(error))
}
