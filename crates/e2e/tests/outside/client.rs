//! Faults of the client library.
//!
//! | fault | test |
//! |---|---|
