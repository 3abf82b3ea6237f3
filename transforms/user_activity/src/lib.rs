//! The user_activity feature view of the catalogue
