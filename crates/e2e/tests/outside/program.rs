//! Faults of `httppubsub serve` as a process.
//!
//! | fault | test |
//! |---|---|
