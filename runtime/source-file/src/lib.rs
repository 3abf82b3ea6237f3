//! Events and labels from Parquet, JSON Lines and CSV files
