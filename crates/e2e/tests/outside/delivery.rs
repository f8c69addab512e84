//! Faults of deliveries, notices and their deadlines.
//!
//! | fault | test |
//! |---|---|
