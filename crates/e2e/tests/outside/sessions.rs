//! Faults of websocket sessions.
//!
//! | fault | test |
//! |---|---|
