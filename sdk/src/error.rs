//! Why a row could not be computed.

/// Why a row could not be computed: a text for the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
}

impl Error {
    /// An error that says this; lower case, naming the field and the value.
    #[cold]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// A required field was null.
    #[cold]
    pub fn null_field(name: &str) -> Self {
        Self { message: format!("required field `{name}` is null") }
    }

    /// The text.
    pub fn into_message(self) -> String {
        self.message
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}
