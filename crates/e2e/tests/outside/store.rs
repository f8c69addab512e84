//! Faults of databases and of files.
//!
//! | fault | test |
//! |---|---|
//! | torn-replay | crates/net/src/replay.rs | torn_replay_records_are_passed_over_and_all_others_count |
