//! Faults of the command line.
//!
//! | fault | test |
//! |---|---|
