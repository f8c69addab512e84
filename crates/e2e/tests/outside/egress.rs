//! Faults of names, addresses and urls.
//!
//! | fault | test |
//! |---|---|
