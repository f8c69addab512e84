//! Faults of databases and of files.
//!
//! | fault | test |
//! |---|---|
