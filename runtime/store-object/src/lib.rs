//! Object storage behind the commit: local files now, any object store later
