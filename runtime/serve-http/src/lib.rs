//! The HTTP service
