//! Faults of globs and of what they cost.
//!
//! | fault | test |
//! |---|---|
