//! Faults of connections that are served.
//!
//! | fault | test |
//! |---|---|
