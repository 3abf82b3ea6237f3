//! The item_activity feature view of the catalogue
