//! Columns to and from Arrow and Parquet, shared by the edges that read and write files.
